//! .DESKTOP FILE -> .DESKTOP FILE. The same launcher with another command in front of its commands (Desktop Entry
//! Specification 1.5). All else of the file stays as it is.

/// The file with a command in front of each of its commands, written as in [`command`]. Nothing if it is to be left alone:
/// it starts nothing, or flatpak, snap or scnpm, which make units themselves.
pub(super) fn prefixed(text: &str, command: &str) -> Option<String> {
    let mut group = "";
    let mut keys = Vec::new();
    let mut new = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            group = name;
        }
        let is_main = group == MAIN;
        let pair = bare.split_once('=').map(|(key, value)| (key.trim_end(), value.trim_start()));
        let pair = pair.filter(|(key, _)| is_main || (group.starts_with(ACTION) && *key == "Exec"));
        if let Some((key, value)) = pair.filter(|_| is_main) {
            keys.push((key, value));
        }
        let end = &line[bare.len()..];
        match pair {
            Some(("Exec", value)) if !has_unit(value) => new += &format!("Exec={command} {value}{end}"),
            // Else D-Bus starts it, in whatever unit.
            Some(("DBusActivatable", _)) => new += &format!("DBusActivatable=false{end}"),
            _ => new += line,
        }
    }
    is_for_launching(&keys).then_some(new)
}

/// The words of a command as the value of `Exec` has them.
pub(super) fn command(words: &[&str]) -> String {
    words.iter().map(|word| argument(word)).collect::<Vec<_>>().join(" ")
}

const MAIN: &str = "Desktop Entry";
const ACTION: &str = "Desktop Action ";

/// Whether an entry is of an application with a command of its own, by the keys of its first group.
fn is_for_launching(keys: &[(&str, &str)]) -> bool {
    const OF_OTHERS: [&str; 4] = ["X-Flatpak", "X-SnapInstanceName", "X-SnapAppName", "X-Snappy"];
    let value = |key: &str| keys.iter().find(|(own, _)| *own == key).map(|(_, value)| *value);
    value("Type") == Some("Application")
        && value("Hidden") != Some("true")
        && value("Exec").is_some_and(|command| !command.is_empty() && !has_unit(command))
        && OF_OTHERS.iter().all(|key| value(key).is_none())
}

/// Whether a command makes a unit itself.
fn has_unit(command: &str) -> bool {
    let mut words = command.split_whitespace().map(|word| word.trim_matches('"'));
    let is_before =
        |word: &&str| *word == "env" || word.ends_with("/env") || word.contains('=') || word.starts_with('-');
    let program = words.find(|word| !is_before(word)).unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    ["flatpak", "snap", "scnpm"].contains(&name)
        || program.starts_with("/snap/")
        || program.contains("/snap/bin/")
}

/// One word: quoted if need be, then escaped as strings of .desktop files are.
fn argument(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '`' | '$' | '\\' => quoted.extend(['\\', character]),
            // The beginning of a field code.
            '%' => quoted += "%%",
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUN: &str = "scnpm run --app mail --";

    #[test]
    fn each_command_has_another_in_front_and_the_rest_stays() {
        let text = "\
# a comment: Exec=no
[Desktop Entry]
Version=1.5
Type=Application
Name=Mail
Name[de]=Exec=Post
TryExec=thunderbird
Exec = \"thunderbird\" --name \"a\\\\$b\" %u
DBusActivatable=true
Actions=Compose;
X-Exec=no
MimeType=x-scheme-handler/mailto;

[Desktop Action Compose]
Name=Compose
Exec=thunderbird -compose\r
DBusActivatable=true

[X-Other]
Exec=no";
        let expected = text
            .replace("Exec = \"thunder", "Exec=scnpm run --app mail -- \"thunder")
            .replace("Exec=thunderbird -c", "Exec=scnpm run --app mail -- thunderbird -c")
            .replacen("DBusActivatable=true", "DBusActivatable=false", 1);
        assert_eq!(prefixed(text, RUN).unwrap(), expected);
    }

    #[test]
    fn what_starts_nothing_or_has_units_is_left_alone() {
        for (keys, is_taken) in [
            ("Type=Application\nExec=a", true),
            ("Type=Application\nExec=env A=1 B=2 /usr/bin/a", true),
            ("Type=Application\nExec=a flatpak", true),
            ("Type=Application\nNoDisplay=true\nExec=a", true),
            ("Type=Application\nHidden=false\nExec=a", true),
            ("Type=Application\nHidden=true\nExec=a", false),
            ("Type=Application\nDBusActivatable=true", false),
            ("Type=Application\nExec=", false),
            ("Type=Link\nURL=x", false),
            ("Exec=a", false),
            ("Type=Application\nX-Flatpak=org.x\nExec=x", false),
            ("Type=Application\nExec=/usr/bin/flatpak run org.x", false),
            ("Type=Application\nExec=env A=b flatpak run org.x", false),
            ("Type=Application\nX-SnapInstanceName=x\nExec=x", false),
            ("Type=Application\nExec=env BAMF_DESKTOP_FILE_HINT=/x /snap/bin/x %u", false),
            ("Type=Application\nExec=/var/lib/snapd/snap/bin/x", false),
            ("Type=Application\nExec=\"/usr/bin/scnpm\" run -- a", false),
        ] {
            let text = format!("[Desktop Entry]\n{keys}\n[Desktop Action a]\nExec=b\n");
            assert_eq!(prefixed(&text, RUN).is_some(), is_taken, "{keys}");
        }
        assert_eq!(prefixed("Exec=a\nType=Application\n", RUN), None);
        assert_eq!(prefixed("", RUN), None);
    }

    #[test]
    fn words_are_quoted_only_if_need_be() {
        assert_eq!(
            command(&["/usr/bin/scnpm", "run", "--app", "org.a-b"]),
            "/usr/bin/scnpm run --app org.a-b"
        );
        assert_eq!(command(&["My\\x20Probe", "", "100%"]), r#""My\\\\x20Probe" "" "100%%""#);
    }

    /// Reads a value as a launcher does.
    fn read(value: &str) -> Vec<String> {
        let mut plain = String::new();
        let mut characters = value.chars();
        while let Some(character) = characters.next() {
            match (character, character == '\\') {
                (_, true) => plain.push(match characters.next().unwrap() {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                }),
                (other, _) => plain.push(other),
            }
        }
        let (mut words, mut rest) = (vec![], &*plain);
        while !rest.is_empty() {
            let mut word = String::new();
            if let Some(mut inside) = rest.strip_prefix('"') {
                while !inside.starts_with('"') {
                    inside = inside.strip_prefix('\\').unwrap_or(inside);
                    let next = inside.chars().next().unwrap();
                    word.push(next);
                    inside = &inside[next.len_utf8()..];
                }
                rest = &inside[1..];
            } else {
                let end = rest.find(' ').unwrap_or(rest.len());
                word += &rest[..end];
                rest = &rest[end..];
            }
            words.push(word.replace("%%", "%"));
            rest = rest.strip_prefix(' ').unwrap_or(rest);
        }
        words
    }

    proptest! {
        #[test]
        fn launchers_read_the_words_that_were_written(
            words in prop::collection::vec("[a-z \\\\\"'`$%éàß\n\t~;&|<>*?#()=-]{0,8}", 1..4),
        ) {
            let written = command(&words.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(!written.contains(['\n', '\r']), "{}", written);
            prop_assert_eq!(read(&written), words);
        }

        #[test]
        fn no_file_is_too_odd(text in any::<String>(), keys in "(\\[Desktop Entry\\]|Type=Application|Exec=a|\n|=|\\[|]|é){0,12}") {
            for text in [text, keys] {
                if let Some(new) = prefixed(&text, RUN) {
                    prop_assert_eq!(new.lines().count(), text.lines().count());
                    prop_assert_eq!(prefixed(&new, RUN), None);
                }
            }
        }
    }
}
