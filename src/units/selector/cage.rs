//! Which cage a unit is of, by the unit's name: `cage-NAME-NUMBER.scope`, as `scnpm run --cage NAME` makes it. Dashes in NAME
//! are written `\x2d`.

use crate::units::escape::unescape;

/// The name of the cage that a unit is of.
pub fn id(unit: &str) -> Option<String> {
    let stem = unit.strip_prefix("cage-")?.strip_suffix(".scope")?;
    let (id, number) = stem.split_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !id.is_empty()).then(|| unescape(id.as_bytes())).and_then(|id| String::from_utf8(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cages_are_told_from_other_units() {
        for (unit, expected) in [
            ("cage-build-4711.scope", Some("build")),
            ("cage-my\\x2dagent-1.scope", Some("my-agent")),
            ("cage-build.scope", None),
            ("cage-build-x.scope", None),
            ("cage-a-b-1.scope", None),
            ("cage--1.scope", None),
            ("cage-build-.scope", None),
            ("cage-build-1.service", None),
            ("app-cage-build-1.scope", None),
        ] {
            assert_eq!(id(unit).as_deref(), expected, "{unit}");
        }
    }
}
