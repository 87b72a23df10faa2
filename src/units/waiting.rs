//! Which units can be made to wait for their rules by a drop-in (systemd.unit(5)).

use thiserror::Error;

use super::{
    places::{is_in_name, kind},
    selector::Which,
};
use crate::model::UnitName;

/// The types of units that run `ExecStartPre=`.
const WITH_COMMANDS: [&str; 2] = ["service", "socket"];

/// The longest name of a unit, in bytes.
const LONGEST: usize = 255;

/// What scnpm itself waits for at its start (packaging/scnpm.service), and what belongs to it.
const BEFORE_US: [&str; 7] = [
    "scnpm.service",
    "scnpm-answers.service",
    "scnpm-answers.socket",
    "scnpm-names.service",
    "scnpm-names.socket",
    "nftables.service",
    "systemd-sysusers.service",
];

/// Why units of a selector cannot be made to wait.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum CannotWait {
    /// Their type has no `ExecStartPre=`.
    #[error("only services and sockets can")]
    Type,
    /// An application's units have names that come and go.
    #[error("an application's units are made as they start")]
    App,
    /// systemd has no drop-ins for such a pattern.
    #[error("systemd has no drop-in for such a pattern")]
    Pattern,
    /// scnpm starts after it.
    #[error("scnpm itself starts after it")]
    BeforeUs,
    /// It may have to start before scnpm.
    #[error("it has `DefaultDependencies=no`, so that scnpm may have to wait for it at boot")]
    Early,
}

impl CannotWait {
    /// What to do.
    pub fn help(self) -> &'static str {
        match self {
            Self::Type | Self::App => "start it with `scnpm run --wait`, which waits by itself",
            Self::Pattern => "write `NAME-*.service`, `NAME@*.service`, or the names of the units",
            Self::BeforeUs => "take it out: what such a unit needs belongs into a rule of nftables.conf",
            Self::Early => {
                "if it may start after scnpm.service, say so in a drop-in of your own: docs/wait.md has one"
            }
        }
    }
}

/// What the directory of a drop-in for these units is called, without its `.d`.
///
/// # Errors
/// There can be none.
pub fn drop_in(which: &Which) -> Result<UnitName, CannotWait> {
    let name = match which {
        Which::App(_) | Which::Cage(_) => return Err(CannotWait::App),
        Which::Glob(glob) => of_glob(glob).ok_or(CannotWait::Pattern)?,
        Which::Unit(unit) => unit.clone(),
    };
    let text = &*name.0;
    let is_name = text.len() <= LONGEST && text.chars().all(is_in_name) && !text.starts_with(['.', '@']);
    if !is_name || !WITH_COMMANDS.contains(&kind(text)) {
        return Err(CannotWait::Type);
    }
    match BEFORE_US.iter().any(|unit| concerns(&name, &UnitName((*unit).into()))) {
        true => Err(CannotWait::BeforeUs),
        false => Ok(name),
    }
}

/// `foo-.service` of `foo-*.service`, and `foo@.service` of `foo@*.service`.
fn of_glob(glob: &str) -> Option<UnitName> {
    let (prefix, kind) = glob.split_once('*')?;
    let is_plain = !prefix.contains(['?', '[']) && !kind.contains(['*', '?', '[']) && kind.starts_with('.');
    // A dash in an instance's name is none of the prefix's.
    let is_prefix = prefix.len() > 1 && prefix.ends_with('-') && !prefix.contains('@')
        || prefix.len() > 1 && prefix.find('@') == Some(prefix.len() - 1);
    (is_plain && is_prefix).then(|| UnitName(format!("{prefix}{kind}").into()))
}

/// Whether a drop-in that is called so counts for a unit.
pub fn concerns(drop_in: &UnitName, unit: &UnitName) -> bool {
    let Some((stem, kind)) = drop_in.0.rsplit_once('.') else { return false };
    let Some(name) = unit.0.strip_suffix(kind).and_then(|rest| rest.strip_suffix('.')) else { return false };
    name == stem || stem.ends_with(['-', '@']) && name.starts_with(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Selectors;

    fn named(text: &str) -> Result<String, CannotWait> {
        let Selectors(selectors) = Selectors::parse(text).expect(text);
        drop_in(&selectors[0].which).map(|name| name.0.to_string())
    }

    #[test]
    fn services_and_sockets_have_drop_ins() {
        for (text, expected) in [
            ("a.service", "a.service"),
            ("system:a@b.service", "a@b.service"),
            ("alice:a@.service", "a@.service"),
            ("a.socket", "a.socket"),
            ("a-*.service", "a-.service"),
            ("a@*.service", "a@.service"),
            ("a\\x2db.service", "a\\x2db.service"),
        ] {
            assert_eq!(named(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn others_have_none() {
        for (text, expected) in [
            ("a.scope", CannotWait::Type),
            ("a.slice", CannotWait::Type),
            ("a-*.scope", CannotWait::Type),
            ("@a.service", CannotWait::Type),
            ("..service", CannotWait::Type),
            ("alice:app:firefox", CannotWait::App),
            ("a*.service", CannotWait::Pattern),
            ("a-?.service", CannotWait::Pattern),
            ("a-*b.service", CannotWait::Pattern),
            ("a@b-*.service", CannotWait::Pattern),
            ("-*.service", CannotWait::Pattern),
            ("a-*", CannotWait::Pattern),
            ("*", CannotWait::Pattern),
            ("*.service", CannotWait::Pattern),
            ("scnpm.service", CannotWait::BeforeUs),
            ("scnpm-*.socket", CannotWait::BeforeUs),
            ("systemd-*.service", CannotWait::BeforeUs),
            ("nftables.service", CannotWait::BeforeUs),
        ] {
            assert_eq!(named(text), Err(expected), "{text}");
        }
        let long = format!("{}.service", "a".repeat(250));
        assert_eq!(named(&long), Err(CannotWait::Type));
    }

    #[test]
    fn drop_ins_count_for_what_they_are_named_after() {
        let concerns =
            |drop_in: &str, unit: &str| concerns(&UnitName(drop_in.into()), &UnitName(unit.into()));
        assert!(concerns("a.service", "a.service"));
        assert!(concerns("a-.service", "a-b-c.service") && concerns("a-.service", "a-b@c.service"));
        assert!(concerns("a@.service", "a@b.service") && concerns("a@.service", "a@.service"));
        assert!(!concerns("a.service", "a.socket") && !concerns("a.service", "ab.service"));
        assert!(!concerns("a-.service", "a.service") && !concerns("a@b.service", "a@.service"));
    }
}
