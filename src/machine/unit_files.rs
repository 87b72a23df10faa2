//! The unit files that a manager sees: systemd.unit(5).

mod syntax;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirEntry,
    iter,
    path::{Path, PathBuf},
};

use super::tree::Tree;
use crate::{
    gather::{Gather, sort_by},
    model::{UNIT_TYPES, UnitName},
    units::{UnitFile, places},
};
use syntax::{Assignment, assignments};

/// What is in the directories of a manager.
#[derive(Debug)]
pub(super) struct Search {
    tree: Tree,
    /// Where each unit's file is.
    files: BTreeMap<UnitName, PathBuf>,
    wanted: BTreeSet<UnitName>,
    /// The directories of drop-ins by name, such as `foo.service.d`, each with the rank of the one that it is in.
    drop_ins: BTreeMap<String, Vec<(usize, PathBuf)>>,
}

/// Whether systemd takes a unit of this name.
pub(super) fn is_unit_name(name: &str) -> bool {
    const LONGEST: usize = 255;
    name.len() <= LONGEST
        && name.chars().all(places::is_in_name)
        && name.rsplit_once('.').is_some_and(|(stem, kind)| {
            !stem.is_empty() && !stem.starts_with('@') && UNIT_TYPES.contains(&kind)
        })
}

impl Search {
    /// Looks through directories, the first of which wins.
    pub(super) fn new(root: &Path, directories: impl Iterator<Item = PathBuf>) -> Self {
        let tree = Tree { root: root.to_owned() };
        let mut search =
            Self { tree, files: BTreeMap::new(), wanted: BTreeSet::new(), drop_ins: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        for (rank, directory) in directories.enumerate() {
            // Where /lib is a link to /usr/lib, both are on the list.
            let Some(directory) = search.tree.resolve(&directory) else { continue };
            if seen.insert(directory.clone()) {
                search.look_through(rank, &directory);
            }
        }
        search
    }

    /// All of them by name; what is in them of those of interest and of sockets.
    pub(super) fn unit_files(&self, interesting: &BTreeSet<UnitName>) -> BTreeMap<UnitName, UnitFile> {
        let templates: BTreeSet<UnitName> = interesting.iter().filter_map(template).gather();
        let is_of_interest = |name: &UnitName| {
            interesting.contains(name) || templates.contains(name) || name.0.ends_with(".socket")
        };
        let names: BTreeSet<&UnitName> = self.files.keys().chain(interesting).gather();
        let file = |name: &UnitName| {
            let place = self.files.get(name).or_else(|| self.files.get(&template(name)?))?;
            let file = if is_of_interest(name) { self.read(name, place) } else { UnitFile::default() };
            let machine =
                name.0.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"));
            let machine = machine
                .filter(|name| !name.is_empty() && !name.contains('/'))
                .and_then(|name| self.machine(name));
            Some((name.clone(), UnitFile { is_wanted: self.wanted.contains(name), machine, ..file }))
        };
        names.into_iter().filter_map(file).gather()
    }

    /// The text of a machine's .nspawn file (systemd.nspawn(5)), empty if it has none. None if that may not be read.
    fn machine(&self, name: &str) -> Option<String> {
        const IMAGES: &str = "/var/lib/machines";
        let of = |directory: &str| self.tree.read(&Path::new(directory).join(format!("{name}.nspawn")));
        let found = of("/etc/systemd/nspawn").or_else(|| of("/run/systemd/nspawn"));
        // Only root may look into the last one.
        let may_look = || self.tree.list(Path::new(IMAGES)).next().is_some();
        found.or_else(|| may_look().then(|| of(IMAGES).unwrap_or_default()))
    }

    /// Those with `DefaultDependencies=no` among the units that are meant.
    pub(super) fn early(&self, is_meant: impl Fn(&UnitName) -> bool) -> BTreeSet<UnitName> {
        let meant = self.files.iter().filter(|(name, _)| is_meant(name));
        meant.filter(|(name, place)| self.read(name, place).is_early).map(|(name, _)| name.clone()).gather()
    }

    fn look_through(&mut self, rank: usize, directory: &Path) {
        let entries: Vec<DirEntry> = self.tree.list(directory).collect();
        for entry in entries {
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
            let place = directory.join(&name);
            if (kind.is_file() || kind.is_symlink()) && is_unit_name(&name) {
                self.files.entry(UnitName(name.into())).or_insert(place);
            } else if name.ends_with(".d") {
                self.drop_ins.entry(name).or_default().push((rank, place));
            } else if [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end)) {
                let names = self.tree.list(&place).filter_map(|entry| entry.file_name().into_string().ok());
                self.wanted.extend(names.filter(|name| is_unit_name(name)).map(|name| UnitName(name.into())));
            }
        }
    }

    fn read(&self, name: &UnitName, place: &Path) -> UnitFile {
        let mut file = UnitFile::default();
        let Some(text) = self.tree.read(place) else { return file };
        file.is_read = true;
        let target = self.tree.resolve(place);
        let target = target.as_ref().and_then(|file| file.file_name()?.to_str());
        let alias = target.filter(|target| is_unit_name(target) && **target != *name.0);
        file.alias_of = alias.filter(|_| template(name).is_none()).map(|alias| UnitName(alias.into()));
        // That of the unit's own type, such as `Service`.
        let kind = places::kind(&name.0);
        let section = kind[..1].to_uppercase() + &kind[1..];
        let drop_ins = self.drop_ins_of(&name.0, alias);
        let texts = drop_ins.values().filter_map(|drop_in| self.tree.read(drop_in));
        for text in iter::once(text).chain(texts) {
            let own = |assignment: &Assignment| {
                assignment.section == section
                    || assignment.section == "Unit" && assignment.key == "DefaultDependencies"
            };
            assignments(&text).into_iter().filter(own).for_each(|assignment| take(&mut file, assignment));
        }
        file
    }

    /// The drop-ins of a unit by name, which is the order in which they count. Of one name the one in the directory
    /// of the higher rank is taken, and in that the one closest to the unit.
    fn drop_ins_of(&self, name: &str, alias: Option<&str>) -> BTreeMap<String, PathBuf> {
        // What the directories are named after, the closest first.
        let mut names: Vec<String> = Vec::new();
        for name in iter::once(name).chain(alias) {
            names.push(name.to_owned());
            names.extend(places::template(name));
            names.extend(dashed_prefixes(name));
        }
        names.push(places::kind(name).to_owned());
        let mut directories = Vec::new();
        for (distance, name) in names.iter().enumerate() {
            let places = self.drop_ins.get(&format!("{name}.d")).into_iter().flatten();
            directories.extend(places.map(|(rank, place)| (*rank, distance, place)));
        }
        sort_by(&mut directories, Ord::cmp);
        let mut found = BTreeMap::new();
        for (_, _, directory) in directories {
            let names = self.tree.list(directory).filter_map(|entry| entry.file_name().into_string().ok());
            for name in names.filter(|name| name.ends_with(".conf")) {
                let place = directory.join(&name);
                found.entry(name).or_insert(place);
            }
        }
        found
    }
}

/// The template that a unit is an instance of.
fn template(name: &UnitName) -> Option<UnitName> {
    Some(UnitName(places::template(&name.0)?.into()))
}

/// `foo-bar-.service` and `foo-.service` of `foo-bar-baz.service`.
fn dashed_prefixes(name: &str) -> impl Iterator<Item = String> {
    let (stem, kind) = name.rsplit_once('.').unwrap_or_default();
    let prefix = stem.split_once('@').map_or(stem, |(prefix, _)| prefix);
    let dashes = prefix.rmatch_indices('-').map(|(at, _)| at).filter(|at| (1..prefix.len() - 1).contains(at));
    dashes.map(move |at| format!("{}.{kind}", &prefix[..=at]))
}

/// What an assignment in the section of the unit's own type says.
fn take(file: &mut UnitFile, assignment: Assignment) {
    let Assignment { section, key, value } = assignment;
    let is_socket = section == "Socket";
    match key.as_str() {
        "DefaultDependencies" if section == "Unit" => file.is_early = is_no(&value),
        "Slice" if !value.is_empty() => file.slice = Some(value),
        "ExecStart" if section == "Service" => file.command = Some(value).filter(|value| !value.is_empty()),
        "Service" if is_socket && !value.is_empty() => file.service = Some(UnitName(value.into())),
        _ if is_socket && key.starts_with("Listen") && value.is_empty() => file.listens_on.clear(),
        "ListenStream" | "ListenDatagram" | "ListenSequentialPacket"
            if is_socket && is_of_the_network(&value) =>
        {
            file.listens_on.push(value);
        }
        _ => {}
    }
}

/// Whether a switch is off (systemd.syntax(7)).
fn is_no(value: &str) -> bool {
    ["no", "n", "false", "f", "off", "0"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Whether an address is no file, abstract socket or vsock.
fn is_of_the_network(address: &str) -> bool {
    /// The specifiers that stand for a path (systemd.unit(5)).
    const PATHS: &str = "CDELSTVYdfhty";
    let mut letters = address.chars();
    match letters.next() {
        Some('/' | '@') | None => false,
        Some('%') => !letters.next().is_some_and(|specifier| PATHS.contains(specifier)),
        Some(_) => !["vsock:", "vsock-"].iter().any(|kind| address.starts_with(kind)),
    }
}
