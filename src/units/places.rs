//! Where systemd puts the cgroups of units, by their names alone (systemd.slice(5), systemd.unit(5)).

/// What follows a unit name's last dot: its type.
pub(crate) fn kind(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, kind)| kind)
}

/// The template that a unit is an instance of.
pub(crate) fn template(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let (instance, kind) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// Whether it is a slice's name.
pub(crate) fn is_slice(name: &str) -> bool {
    kind(name) == "slice"
}

/// The number in `user@N.service`, as it is written.
pub(crate) fn user_of(name: &str) -> Option<&str> {
    let user = name.strip_prefix("user@")?.strip_suffix(".service")?;
    (!user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit())).then_some(user)
}

/// The names from the root down to a slice; nothing for `-.slice`, the root itself.
pub(crate) fn slice_path(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    if stem.split('-').any(str::is_empty) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect::<Vec<_>>().join("/"))
}

/// Where the system's manager puts a unit that says nothing of slices.
pub(crate) fn default_path(name: &str) -> String {
    match template(name).and_then(|template| Some(template.split_once('@')?.0.to_owned())) {
        Some(prefix) => {
            let escaped = prefix.replace('\\', "\\x5c").replace('-', "\\x2d");
            format!("system.slice/system-{escaped}.slice/{name}")
        }
        None => format!("system.slice/{name}"),
    }
}
