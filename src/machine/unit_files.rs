//! The unit files that a manager sees: systemd.unit(5).

mod syntax;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirEntry,
    path::{Path, PathBuf},
};

use super::tree::Tree;
use crate::{
    model::{UNIT_TYPES, UnitName},
    units::UnitFile,
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
    let is_known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.len() <= LONGEST
        && name.chars().all(is_known)
        && name.rsplit_once('.').is_some_and(|(stem, kind)| {
            !stem.is_empty() && !stem.starts_with('@') && UNIT_TYPES.contains(&kind)
        })
}

impl Search {
    /// Looks through directories, the first of which wins.
    pub(super) fn new(tree: Tree, directories: Vec<PathBuf>) -> Self {
        let mut search =
            Self { tree, files: BTreeMap::new(), wanted: BTreeSet::new(), drop_ins: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        for (rank, directory) in directories.into_iter().enumerate() {
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
        let templates: BTreeSet<UnitName> = interesting.iter().filter_map(template).collect();
        let is_of_interest = |name: &UnitName| {
            interesting.contains(name) || templates.contains(name) || name.0.ends_with(".socket")
        };
        let known = self.files.iter().map(|(name, place)| {
            let file = if is_of_interest(name) { self.read(name, place) } else { UnitFile::default() };
            (name, file)
        });
        let instances = interesting.iter().filter(|name| !self.files.contains_key(name)).filter_map(|name| {
            let place = self.files.get(&template(name)?)?;
            Some((name, self.read(name, place)))
        });
        let with_links = |(name, file): (&UnitName, UnitFile)| {
            (name.clone(), UnitFile { is_wanted: self.wanted.contains(name), ..file })
        };
        known.chain(instances).map(with_links).collect()
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
                self.wanted.extend(names_in(&self.tree, &place));
            }
        }
    }

    fn read(&self, name: &UnitName, place: &Path) -> UnitFile {
        let mut file = UnitFile::default();
        let Some(text) = self.tree.read(place) else { return file };
        file.is_read = true;
        file.alias_of = self.target(place).filter(|target| target != name && template(name).is_none());
        let section = section_of(name);
        let drop_ins = self.drop_ins_of(name, place);
        let texts = drop_ins.values().filter_map(|drop_in| self.tree.read(drop_in));
        for text in std::iter::once(text).chain(texts) {
            let own = |assignment: &Assignment| assignment.section == section;
            assignments(&text).into_iter().filter(own).for_each(|assignment| take(&mut file, assignment));
        }
        file
    }

    /// The drop-ins of a unit by name, which is the order in which they count. Of one name the one in the directory
    /// of the higher rank is taken, and in that the one closest to the unit.
    fn drop_ins_of(&self, name: &UnitName, place: &Path) -> BTreeMap<String, PathBuf> {
        let directories = self.names_for_drop_ins(name, place).into_iter().enumerate();
        let mut places: Vec<(usize, usize, &Path)> = directories
            .flat_map(|(distance, directory)| {
                let places = self.drop_ins.get(&format!("{directory}.d")).into_iter().flatten();
                places.map(move |(rank, place)| (*rank, distance, place.as_path()))
            })
            .collect();
        places.sort();
        let mut found = BTreeMap::new();
        for (_, _, directory) in places {
            for entry in self.tree.list(directory) {
                let name = entry.file_name().into_string().ok().filter(|name| name.ends_with(".conf"));
                if let Some(name) = name {
                    let place = directory.join(&name);
                    found.entry(name).or_insert(place);
                }
            }
        }
        found
    }

    /// The unit whose file a file is, or is a link to.
    fn target(&self, place: &Path) -> Option<UnitName> {
        let file = self.tree.resolve(place)?;
        let name = file.file_name()?.to_str().filter(|name| is_unit_name(name))?;
        Some(UnitName(name.into()))
    }

    /// What directories of drop-ins of a unit are named after, the closest first.
    fn names_for_drop_ins(&self, name: &UnitName, place: &Path) -> Vec<String> {
        let target = self.target(place);
        let mut names: Vec<String> = Vec::new();
        for name in [Some(name.clone()), target].into_iter().flatten() {
            names.push(name.0.to_string());
            names.extend(template(&name).map(|template| template.0.to_string()));
            names.extend(dashed_prefixes(&name));
        }
        names.push(kind_of(name).to_owned());
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

fn names_in(tree: &Tree, directory: &Path) -> BTreeSet<UnitName> {
    let names = tree.list(directory).filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_unit_name(name)).map(|name| UnitName(name.into())).collect()
}

fn kind_of(name: &UnitName) -> &str {
    name.0.rsplit_once('.').map_or("", |(_, kind)| kind)
}

/// The section of a unit's own type, such as `Service`.
fn section_of(name: &UnitName) -> String {
    let mut letters = kind_of(name).chars();
    letters.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

/// `foo@.service` of `foo@a.service`.
fn template(name: &UnitName) -> Option<UnitName> {
    let (stem, kind) = name.0.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| UnitName(format!("{prefix}@.{kind}").into()))
}

/// `foo-bar-.service` and `foo-.service` of `foo-bar-baz.service`.
fn dashed_prefixes(name: &UnitName) -> Vec<String> {
    let Some((stem, kind)) = name.0.rsplit_once('.') else { return Vec::new() };
    let prefix = stem.split_once('@').map_or(stem, |(prefix, _)| prefix);
    let dashes = prefix.match_indices('-').map(|(at, _)| at).filter(|at| (1..prefix.len() - 1).contains(at));
    let mut prefixes: Vec<String> = dashes.map(|at| format!("{}.{kind}", &prefix[..=at])).collect();
    prefixes.reverse();
    prefixes
}

/// What an assignment in the section of the unit's own type says.
fn take(file: &mut UnitFile, assignment: Assignment) {
    let Assignment { section, key, value } = assignment;
    let is_socket = section == "Socket";
    match key.as_str() {
        "Slice" if !value.is_empty() => file.slice = Some(value),
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

/// Whether an address is no file, abstract socket or vsock.
fn is_of_the_network(address: &str) -> bool {
    /// The specifiers that stand for a path (systemd.unit(5)).
    const PATHS: &str = "CDELSTVYdfhty";
    let mut letters = address.chars();
    match letters.next() {
        Some('/' | '@') | None => false,
        Some('%') => !letters.next().is_some_and(|specifier| PATHS.contains(specifier)),
        Some(_) => {
            !address.split_once(':').is_some_and(|(kind, _)| kind == "vsock" || kind.starts_with("vsock-"))
        }
    }
}
