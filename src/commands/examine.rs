//! What `scnpm check` finds in files: as they are, or with other texts. What the machine is asked for is asked once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use litemap::LiteMap;

use crate::{
    cgroupfs::look,
    cli::Check,
    findings::{self, Known},
    gather::Gather,
    lint::Facts,
    machine,
    model::{CGROUP_ROOT, CgroupPath, HostName, Instance, Routing},
    names::Names,
    nft::routing,
    policy::{
        Policy,
        files::{Disk, Files, split_pattern},
        hosts::Hosts,
        parse,
    },
    text::{Diagnostic, FileId, SourceFile, SourceMap},
    trial::{Trial, Untried},
    units::{Units, selector::Users},
};

/// The cgroups that every systemd machine has, whatever runs on it (systemd.special(7)).
const ALWAYS_THERE: [&str; 3] = ["init.scope", "system.slice", "user.slice"];

/// The machine, as far as the options let it count.
pub(super) struct Machine<'a> {
    options: &'a Check,
    /// The files to look at.
    pub(super) files: &'a [PathBuf],
    /// The cgroups of units.
    pub(super) instances: Vec<Instance>,
    interfaces: BTreeSet<String>,
    interfaces_at_boot: BTreeSet<String>,
    /// What annotations' host names were looked up as.
    hosts: RefCell<BTreeMap<HostName, Result<Vec<IpAddr>, String>>>,
    /// The same of the files' own.
    addresses: RefCell<BTreeMap<String, Vec<IpAddr>>>,
}

/// What was found.
pub(super) struct Found {
    pub(super) policy: Policy,
    pub(super) hosts: Hosts,
    pub(super) users: Users,
    pub(super) units: Units,
    /// Every diagnostic that is not allowed, in the order of the files.
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) untried: Option<Untried>,
    /// What each of the sources has in common with other paths of the same file.
    identities: Vec<PathBuf>,
}

impl Found {
    /// What a source has in common with other paths of the same file.
    pub(super) fn identity(&self, file: FileId) -> PathBuf {
        self.identities[file.0].clone()
    }
}

impl<'a> Machine<'a> {
    /// Asks for what does not depend on the files.
    pub(super) fn new(options: &'a Check, files: &'a [PathBuf]) -> Self {
        let instances =
            if options.root.is_some() { vec![] } else { machine::instances(Path::new(CGROUP_ROOT)) };
        let interfaces = machine::interfaces();
        let at_boot = interfaces.iter().filter(|name| machine::is_interface_at_boot(name));
        Self {
            options,
            files,
            instances: instances.into_iter().map(|(instance, _)| instance).collect(),
            interfaces_at_boot: at_boot.chain(&options.interface).cloned().gather(),
            interfaces,
            hosts: RefCell::default(),
            addresses: RefCell::default(),
        }
    }

    /// Whether a cgroup exists.
    pub(super) fn exists(&self, path: &CgroupPath) -> bool {
        match self.options.root {
            Some(_) => ALWAYS_THERE.contains(&path.as_str()),
            None => look(path).is_some(),
        }
    }

    /// Looks at the files, or at these texts of them.
    ///
    /// # Errors
    /// A file that cannot be read, or that another user could read.
    pub(super) fn examine(&self, texts: &Texts) -> Result<Found, String> {
        let options = self.options;
        let read = parse::read(texts, self.files);
        if let Some(path) = &*texts.denied.borrow() {
            return Err(format!("{}: Permission denied: run it as root", path.display()));
        }
        let mut policy = read.map_err(|error| error.to_string())?;
        let (hosts, unresolved) = self.resolve(&policy);
        let users = machine::users(&policy.user_names());
        let tried = Trial {
            files: self.files,
            texts: texts.edited(&policy.sources),
            policy: &mut policy,
            hosts: hosts.clone(),
            instances: &self.instances,
            users: &users,
            exists: &|path| self.exists(path),
            interfaces: &self.interfaces,
            interfaces_at_boot: &self.interfaces_at_boot,
            dns: !options.no_dns,
            addresses: &self.addresses,
        }
        .run();
        let units = machine::units(options.root.as_deref().unwrap_or(Path::new("/")), &policy.units());
        let routing = self.routing();
        let facts = Facts { units: Some(&units), ruleset: tried.ruleset.as_ref(), routing: routing.as_ref() };
        let unknown = policy.user_names().into_iter().filter(|name| !users.contains_key(*name));
        let unknown = unknown.map(|name| (name.to_owned(), format!("there is no user `{name}`"))).gather();
        let known = Known { refused: &tried.diagnostics, facts, unknown: &unknown, unresolved: &unresolved };
        let diagnostics = findings::all(&policy, &known);
        let identities = policy.sources.files.iter().map(identity).collect();
        Ok(Found { hosts, users, diagnostics, untried: tried.untried, units, identities, policy })
    }

    /// How packets are routed by their marks, on the machine that runs. What cannot be told is no reason to warn.
    fn routing(&self) -> Option<Routing> {
        let [ipv4, ipv6] = self.options.root.is_none().then(routing::marks)?.ok()?;
        Some(Routing { ipv4, ipv6, interfaces: self.interfaces.clone() })
    }

    /// The addresses of the annotations' host names, and why some have none.
    fn resolve(&self, policy: &Policy) -> (Hosts, BTreeMap<HostName, String>) {
        let (mut known, mut failed) = (Hosts::new(), BTreeMap::new());
        let mut answers = self.hosts.borrow_mut();
        for host in policy.host_names() {
            let no_dns = self.options.no_dns;
            let ask = || if no_dns { Err("--no-dns".to_owned()) } else { Names::Here.host(&host) };
            match answers.entry(host.clone()).or_insert_with(ask).clone() {
                Ok(addresses) => drop(known.insert(host, addresses)),
                Err(why) => drop(failed.insert(host, why)),
            }
        }
        (known, failed)
    }
}

/// The machine's files, some of which have other texts, by their identity.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    now: BTreeMap<PathBuf, String>,
    edited: BTreeSet<PathBuf>,
    /// The first file that this user may not read.
    denied: RefCell<Option<PathBuf>>,
}

impl Texts {
    /// The texts of files that were read. They are not read again.
    pub(super) fn of(sources: &SourceMap) -> Self {
        let texts = sources.files.iter().map(|file| (identity(file), file.marked(&file.text)));
        Self { now: texts.gather(), ..Self::default() }
    }

    fn note<T>(&self, path: &Path, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            self.denied.borrow_mut().get_or_insert_with(|| path.to_owned());
        }
        result
    }

    fn read_or(
        &self,
        path: &Path,
        read: impl FnOnce(&Disk, &Path) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>> {
        match self.now.get(&self.identity(path)) {
            Some(text) => Ok(text.clone().into_bytes()),
            None => self.note(path, read(&Disk, path)),
        }
    }

    /// With another text of a file.
    pub(super) fn edit(&mut self, file: &SourceFile, text: &str) {
        self.now.insert(identity(file), file.marked(text));
        self.edited.insert(identity(file));
    }

    /// The text that a file has now.
    pub(super) fn text(&self, file: &SourceFile) -> Option<&str> {
        self.now.get(&identity(file)).map(String::as_str)
    }

    /// The other texts, by the paths under which the files are known.
    fn edited(&self, sources: &SourceMap) -> LiteMap<String, String> {
        let edited = sources.files.iter().filter(|file| self.edited.contains(&identity(file)));
        edited.map(|file| (file.path.clone(), file.marked(&file.text))).gather()
    }
}

impl Files for Texts {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_or(path, Disk::read)
    }

    fn read_included(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_or(path, Disk::read_included)
    }

    fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        let directory = Path::new(split_pattern(pattern).0);
        let _ = self.note(directory, fs::read_dir(directory));
        Disk.glob(pattern)
    }

    fn identity(&self, path: &Path) -> PathBuf {
        Disk.identity(path)
    }

    fn absolute(&self, directory: &Path) -> Option<PathBuf> {
        fs::canonicalize(Path::new(".").join(directory)).ok()
    }
}

fn identity(file: &SourceFile) -> PathBuf {
    Disk.identity(Path::new(&file.path))
}
