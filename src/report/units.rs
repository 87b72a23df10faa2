//! What `scnpm units` prints of units that have cgroups: a table, or one JSON object. docs/units.md has its schema, which
//! only grows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

use super::table;
use crate::{
    gather::{Gather, sort_by_key},
    model::{CgroupId, Instance, Location, Manager},
    units::{places, selector::app_id},
};

/// A unit that has a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The unit and its cgroup.
    pub instance: Instance,
    /// The cgroup's number.
    pub id: CgroupId,
    /// The name of the user whose manager it is of, or whose login session it is, if they have one.
    pub user: Option<String>,
    /// The annotations that are about it.
    pub annotations: Vec<Location>,
}

/// The system's units first, then users' by number, then by path with what is below a slice behind it.
pub fn sort(rows: &mut Vec<Row>) {
    sort_by_key(rows, |row| (row.instance.manager, row.instance.path.as_str().replace('/', "\0")));
}

/// Writes the table; fails as `out` does.
pub fn write_table(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let files = short_names(rows);
    let head = ["UNIT", "MANAGER", "LEVEL", "PATH", "ID", "ANNOTATIONS"];
    table::write_columns(head, rows.iter().map(|row| row.cells(&files)), out)
}

/// Writes the object; fails as `out` does.
pub fn write_json(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let units = rows.iter().map(|row| {
        let uid = if let Manager::User(uid) = row.instance.manager { Some(uid) } else { None };
        Unit {
            unit: &row.instance.unit.0,
            manager: if uid.is_some() { "user" } else { "system" },
            uid,
            user: row.user.as_deref().filter(|_| uid.is_some()),
            application: uid.and_then(|_| app_id(&row.instance.unit.0)),
            level: row.level(),
            path: row.instance.path.as_str(),
            id: row.id,
            annotations: &row.annotations,
        }
    });
    // The version changes when a program that reads the object would have to.
    let object = Object { version: 1, units: units.collect() };
    serde_json::to_writer_pretty(&mut *out, &object)?;
    writeln!(out)
}

/// A unit's name or a path with a replacement for what systemd takes in no name: it can be anything, since a user makes
/// directories below their manager as they like.
pub fn shown(name: &str) -> String {
    name.replace(|c| c != '/' && !places::is_in_name(c), "\u{fffd}")
}

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    units: Vec<Unit<'a>>,
}

#[derive(Serialize)]
struct Unit<'a> {
    unit: &'a str,
    manager: &'static str,
    uid: Option<u32>,
    user: Option<&'a str>,
    application: Option<String>,
    level: usize,
    path: &'a str,
    id: CgroupId,
    annotations: &'a [Location],
}

impl Row {
    /// The level of its cgroup.
    pub fn level(&self) -> usize {
        self.instance.path.components().count()
    }

    fn cells(&self, files: &BTreeMap<&str, &str>) -> [String; 6] {
        let place = |at: &Location| format!("{}:{}", printable(files[at.file.as_str()]), at.line);
        let places: Vec<String> = self.annotations.iter().map(place).collect();
        [
            shown(&self.instance.unit.0),
            match (self.instance.manager, self.user.as_deref()) {
                (Manager::User(_), Some(name)) => printable(name),
                (manager, _) => manager.to_string(),
            },
            self.level().to_string(),
            shown(self.instance.path.as_str()),
            self.id.to_string(),
            if places.is_empty() { "-".to_owned() } else { places.join(",") },
        ]
    }
}

/// The last names of files, where these tell the files apart.
fn short_names(rows: &[Row]) -> BTreeMap<&str, &str> {
    let files = rows.iter().flat_map(|row| &row.annotations).map(|at| at.file.as_str());
    let name = |file| Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file);
    let names: BTreeMap<&str, &str> = files.map(|file| (file, name(file))).gather();
    let is_unique = |name: &&str| names.values().filter(|other| *other == name).count() == 1;
    names.iter().map(|(file, name)| (*file, Some(*name).filter(is_unique).unwrap_or(file))).gather()
}

/// With a replacement for blanks and for what takes no room.
pub(super) fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_whitespace() || c.width().is_none_or(|width| width == 0), "\u{fffd}")
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::model::UnitName;

    /// A row of a machine on which the user 1000 is `alice` and 1001 has no name.
    pub(in crate::report) fn row(manager: Manager, path: &str) -> Row {
        let unit = UnitName(path.rsplit('/').next().unwrap().into());
        let user = (manager == Manager::User(1000)).then(|| "alice".to_owned());
        let instance = Instance { manager, unit, path: path.parse().unwrap() };
        Row { instance, id: CgroupId(7), user, annotations: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::row, *};

    fn table(rows: &[Row]) -> String {
        let mut out = Vec::new();
        write_table(rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn at(file: &str, line: usize) -> Location {
        Location { file: file.to_owned(), line }
    }

    #[test]
    fn system_comes_first_and_what_is_below_a_slice_behind_it() {
        let mut rows = vec![
            row(Manager::User(1001), "c.slice"),
            row(Manager::User(1000), "a.slice"),
            row(Manager::System, "a-b.slice"),
            row(Manager::System, "a.slice/z.service"),
            row(Manager::System, "a.slice"),
        ];
        sort(&mut rows);
        let paths: Vec<&str> = rows.iter().map(|row| row.instance.path.as_str()).collect();
        assert_eq!(paths, ["a-b.slice", "a.slice", "a.slice/z.service", "a.slice", "c.slice"]);
        assert_eq!(rows[4].instance.manager, Manager::User(1001));
    }

    #[test]
    fn columns_are_aligned_by_the_width_of_characters() {
        let mut rows = [
            row(Manager::System, "system.slice/postfix.service"),
            row(Manager::User(1000), "u.slice/a.scope"),
            row(Manager::User(1001), "u.slice/b.scope"),
        ];
        rows[0].annotations = vec![at("/etc/nftables.conf", 15), at("/etc/nftables.conf", 20)];
        rows[1].user = Some("子供".to_owned());
        assert_eq!(
            table(&rows),
            "\
UNIT             MANAGER  LEVEL  PATH                          ID  ANNOTATIONS
postfix.service  system   2      system.slice/postfix.service  7   nftables.conf:15,nftables.conf:20
a.scope          子供     2      u.slice/a.scope               7   -
b.scope          1001     2      u.slice/b.scope               7   -
"
        );
    }

    #[test]
    fn files_of_the_same_name_are_told_apart() {
        let mut one = row(Manager::System, "a.slice");
        one.annotations = vec![at("/etc/a.conf", 1), at("b/a.conf", 2), at("b/c.conf", 3)];
        assert!(table(&[one]).ends_with("  /etc/a.conf:1,b/a.conf:2,c.conf:3\n"));
    }

    #[test]
    fn hostile_names_are_replaced_in_the_table() {
        let mut one = row(Manager::User(1000), "u.slice/a\"\n\u{1b}[2J ä\u{202e}.scope");
        one.user = Some("a\tb\u{200b}".to_owned());
        let text = table(&[one]);
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains(
                "\na\u{fffd}\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}.scope  a\u{fffd}b\u{fffd}  "
            ),
            "{text}"
        );
    }

    #[test]
    fn object_has_names_as_they_are() {
        let mut rows = [row(Manager::System, "s.slice"), row(Manager::User(1000), "u.slice/a\"\n.scope")];
        rows[0].annotations = vec![at("/etc/nftables.conf", 15)];
        let mut out = Vec::new();
        write_json(&rows, &mut out).unwrap();
        let expected = serde_json::json!({ "version": 1, "units": [
            { "unit": "s.slice", "manager": "system", "uid": null, "user": null, "application": null, "level": 1, "path": "s.slice", "id": 7,
              "annotations": [{ "file": "/etc/nftables.conf", "line": 15 }] },
            { "unit": "a\"\n.scope", "manager": "user", "uid": 1000, "user": "alice", "application": null, "level": 2,
              "path": "u.slice/a\"\n.scope", "id": 7, "annotations": [] },
        ] });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), expected);
    }
}
