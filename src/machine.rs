//! MACHINE -> FACTS. Unit files as systemd finds them, units as they run, and interfaces. Reads; decides nothing.

pub mod processes;
mod tree;
mod unit_files;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use nix::{
    net::if_::if_nameindex,
    unistd::{Uid, User},
};

use crate::{
    cgroupfs,
    gather::Gather,
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, UnitName},
    names::Names,
    units::{UnitFile, Units, places::is_in_name, selector::Users},
};
use tree::Tree;
use unit_files::{Search, is_unit_name};

/// The units of the machine whose root directory is `root`: their names, and of the interesting ones and of all
/// sockets what is in their files. An interesting instance (`foo@a.service`) of a template has an entry of its own.
///
/// What runs, and the current user's own unit files, are known of the running machine only, whose root is `/`.
pub fn units(root: &Path, interesting: &BTreeSet<UnitName>) -> Units {
    let is_running = root == Path::new("/");
    let directory = |name: &&str| directory(name, is_running);
    let bus = UnitName("dbus.service".into());
    let with_bus = interesting.iter().chain([&bus]).cloned().gather();
    let [system, users] = [(SYSTEM, interesting), (USERS, &with_bus)].map(|(directories, interesting)| {
        Search::new(root, directories.iter().filter_map(directory)).unit_files(interesting)
    });
    let users_files = users.clone();
    let apps = apps(root, APPLICATIONS.iter().filter_map(directory));
    // dbus-broker has another name in there.
    let is_daemon = users.get(&bus).is_some_and(|file| file.is_read && file.alias_of.is_none());
    let bus_started = if is_daemon { bus_started(root, &apps) } else { BTreeSet::new() };
    // What both have is the system's.
    let of_users = users.into_iter().map(|(name, file)| (name, UnitFile { is_users: true, ..file }));
    let files = of_users.chain(system).gather();
    let running = if is_running { running_below(Path::new(CGROUP_ROOT)) } else { BTreeMap::new() };
    let mounts = if is_running { fs::read_to_string("/proc/self/mounts") } else { Ok(String::new()) };
    // What cannot be told is taken for the better.
    let has_class_ids = mounts.map_or(true, |mounts| has_class_ids(&mounts));
    Units { files, of_users: users_files, apps, bus_started, running, has_class_ids }
}

/// The units of the system among those that are meant that may start before the system is set up, templates by their own
/// names: those with `DefaultDependencies=no`.
pub fn early_units(root: &Path, is_meant: impl Fn(&UnitName) -> bool) -> BTreeSet<UnitName> {
    Search::new(root, SYSTEM.iter().map(PathBuf::from)).early(is_meant)
}

/// The name of a user, if they have one.
pub fn user_name(uid: u32) -> Option<String> {
    Some(User::from_uid(Uid::from_raw(uid)).ok()??.name)
}

/// The ids of the applications that are installed for the current user.
pub fn installed_apps() -> BTreeSet<String> {
    apps(Path::new("/"), APPLICATIONS.iter().filter_map(|name| directory(name, true)))
}

/// A directory of the lists below; one of the current user's own only if it `is_running`, the machine that is meant.
fn directory(name: &str, is_running: bool) -> Option<PathBuf> {
    let Some((variable, below)) = name.strip_prefix('$').and_then(|rest| rest.split_once('/')) else {
        return Some(PathBuf::from(name));
    };
    let top = env::var_os(variable).map(PathBuf::from);
    top.filter(|top| is_running && top.is_absolute()).map(|top| top.join(below))
}

/// The ids of applications, by the .desktop files in directories.
fn apps(root: &Path, directories: impl Iterator<Item = PathBuf>) -> BTreeSet<String> {
    let tree = Tree { root: root.to_owned() };
    let names = directories.flat_map(|directory| tree.list(&directory).collect::<Vec<_>>());
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".desktop").map(str::to_owned)).gather()
}

/// Those of the applications that a D-Bus service file has started without a unit (D-Bus Specification, "Message Bus Starting
/// Services").
fn bus_started(root: &Path, apps: &BTreeSet<String>) -> BTreeSet<String> {
    const DIRECTORIES: [&str; 2] = ["/usr/local/share/dbus-1/services", "/usr/share/dbus-1/services"];
    let tree = Tree { root: root.to_owned() };
    let text = |id: &String| {
        DIRECTORIES
            .iter()
            .find_map(|directory| tree.read(&Path::new(directory).join(format!("{id}.service"))))
    };
    let has_unit = |text: &String| text.lines().any(|line| line.trim_start().starts_with("SystemdService="));
    apps.iter().filter(|id| text(id).is_some_and(|text| !has_unit(&text))).cloned().gather()
}

/// Whether net_cls of cgroup v1 is mounted: proc(5), `/proc/self/mounts`.
fn has_class_ids(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        matches!(fields[..], [_, _, "cgroup", options, ..] if options.split(',').any(|one| one == "net_cls"))
    })
}

/// The numbers of users, of those that exist.
pub fn users(names: &BTreeSet<&str>) -> Users {
    let number = |name: &&str| Some(((*name).to_owned(), Names::Here.user(name).ok()??));
    names.iter().filter_map(number).gather()
}

/// Every unit that has a cgroup in the hierarchy below `root`, with its number: those of the system's manager, and those
/// of users' managers. Slices are units, too. In no order. What is not UTF-8 in a name is replaced.
pub fn instances(root: &Path) -> Vec<(Instance, CgroupId)> {
    cgroupfs::units(root, usize::MAX, instance, |_| true)
}

/// The names of the network interfaces that exist in this network namespace.
pub fn interfaces() -> BTreeSet<String> {
    let Ok(interfaces) = if_nameindex() else { return BTreeSet::new() };
    interfaces.iter().filter_map(|interface| interface.name().to_str().ok().map(str::to_owned)).gather()
}

/// Whether an interface is there before anything of the machine's makes one: `lo`, hardware, and what a container has
/// from outside.
pub fn is_interface_at_boot(name: &str) -> bool {
    const ALL: &str = "/sys/class/net";
    const CONTAINERS: [&str; 3] = ["/run/systemd/container", "/run/.containerenv", "/.dockerenv"];
    let number = |name: &Path, file: &str| fs::read_to_string(Path::new(ALL).join(name).join(file)).ok();
    let is_from_outside = || {
        let Some(other_end) = number(Path::new(name), "iflink") else { return false };
        let mut all = fs::read_dir(ALL).into_iter().flatten().flatten();
        !all.any(|interface| {
            number(Path::new(&interface.file_name()), "ifindex").as_ref() == Some(&other_end)
        })
    };
    name == "lo"
        || !Path::new(ALL).exists()
        || Path::new(ALL).join(name).join("device").exists()
        || (CONTAINERS.iter().any(|mark| Path::new(mark).exists()) && is_from_outside())
}

/// Where the system's manager looks, first the one that wins (systemd.unit(5)).
const SYSTEM: &[&str] = &[
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// Where users' managers look, in the same way; below a variable for the current user's.
const USERS: &[&str] = &[
    "$HOME/.config/systemd/user.control",
    "$XDG_RUNTIME_DIR/systemd/user.control",
    "$XDG_RUNTIME_DIR/systemd/transient",
    "$XDG_RUNTIME_DIR/systemd/generator.early",
    "$HOME/.config/systemd/user",
    "/etc/xdg/systemd/user",
    "/etc/systemd/user",
    "$XDG_RUNTIME_DIR/systemd/user",
    "/run/systemd/user",
    "$XDG_RUNTIME_DIR/systemd/generator",
    "$HOME/.local/share/systemd/user",
    "/usr/local/share/systemd/user",
    "/usr/share/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
    "$XDG_RUNTIME_DIR/systemd/generator.late",
];

/// Where .desktop files are, in the same way.
const APPLICATIONS: &[&str] = &[
    "$HOME/.local/share/applications",
    "$HOME/.local/share/flatpak/exports/share/applications",
    "/usr/local/share/applications",
    "/usr/share/applications",
    "/var/lib/flatpak/exports/share/applications",
    "/var/lib/snapd/desktop/applications",
];

/// More are not looked at: a user can make as many cgroups as memory holds.
const MOST_CGROUPS: usize = 65_536;

const CGROUP_DEPTH: usize = 32;

fn running_below(root: &Path) -> BTreeMap<UnitName, BTreeSet<CgroupPath>> {
    let mut running: BTreeMap<UnitName, BTreeSet<CgroupPath>> = BTreeMap::new();
    for (directory, _) in cgroupfs::walk(root, CGROUP_DEPTH).flatten().take(MOST_CGROUPS) {
        let path = directory.strip_prefix(root).ok().and_then(Path::to_str);
        let Some(path) = path.and_then(|path| path.parse::<CgroupPath>().ok()) else { continue };
        if let Some(name) = path.components().last().filter(|name| is_unit_name(name)) {
            running.entry(UnitName(name.into())).or_default().insert(path);
        }
    }
    running
}

/// The unit of a cgroup. No manager gives a name with a blank or a quote in it, but a user can make such a directory
/// below theirs, and it looks like a unit's. It is one here, under the name that it has.
fn instance(path: CgroupPath) -> Option<Instance> {
    Instance::of(&path).or_else(|| {
        let plain = path.as_str().replace(|c| c != '/' && !is_in_name(c), "x");
        let manager = Instance::of(&plain.parse().ok()?)?.manager;
        let unit = UnitName(path.components().last()?.into());
        Some(Instance { manager, unit, path })
    })
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
        process::Command,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::units::UnitFile;

    /// A machine's root directory.
    struct Root(PathBuf);

    impl Root {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let directory = env::temp_dir().join(format!("scnpm-machine-{}-{count}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn place(&self, name: &str) -> PathBuf {
            let place = self.0.join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            place
        }

        fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
            fs::write(self.place(name), text).unwrap();
            self
        }

        fn link(self, name: &str, target: &str) -> Self {
            symlink(target, self.place(name)).unwrap();
            self
        }

        fn directory(self, name: &str) -> Self {
            fs::create_dir_all(self.place(name)).unwrap();
            self
        }

        fn units(&self, interesting: &[&str]) -> BTreeMap<String, UnitFile> {
            let interesting = interesting.iter().map(|name| UnitName((*name).into())).collect();
            let Units { files, running, .. } = units(&self.0, &interesting);
            assert!(running.is_empty());
            files.into_iter().map(|(name, file)| (name.0.to_string(), file)).collect()
        }

        fn names(&self) -> Vec<String> {
            self.units(&[]).into_keys().collect()
        }

        fn slice(&self, unit: &str) -> Option<String> {
            self.units(&[unit]).remove(unit).unwrap().slice
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn of_the_interfaces_only_lo_and_hardware_are_there_at_boot() {
        assert!(is_interface_at_boot("lo"));
        assert!(!is_interface_at_boot("scnpm-nosuch"));
    }

    fn in_slice(slice: &str) -> String {
        format!("[Service]\nSlice={slice}.slice\n")
    }

    #[test]
    fn all_directories_give_names_and_the_first_one_wins() {
        let root = Root::new()
            .file("usr/lib/systemd/system/a.service", in_slice("lib"))
            .file("etc/systemd/system/a.service", in_slice("etc"))
            .file("run/systemd/generator.late/b.mount", "")
            .file("usr/lib/systemd/user/c@.service", "")
            .file("etc/systemd/user/a.service", in_slice("user"))
            .file("usr/lib/systemd/other/d.service", "");
        assert_eq!(root.names(), ["a.service", "b.mount", "c@.service"]);
        assert_eq!(root.slice("a.service").as_deref(), Some("etc.slice"));
        let Units { files, of_users, .. } = units(&root.0, &[UnitName("a.service".into())].into());
        let slice = of_users.values().find_map(|file| file.slice.as_deref());
        assert_eq!((of_users.len(), slice), (2, Some("user.slice")));
        let is_users: Vec<bool> = files.values().map(|file| file.is_users).collect();
        assert_eq!(is_users, [false, false, true]);
    }

    #[test]
    fn only_files_of_interest_are_read() {
        let root = Root::new()
            .file("etc/systemd/system/a.service", in_slice("a"))
            .file("etc/systemd/system/b.service", in_slice("b"))
            .file("etc/systemd/system/b.socket", "[Socket]\nService=a.service\n");
        let units = root.units(&["a.service", "missing.service"]);
        let read: Vec<&str> =
            units.iter().filter(|(_, file)| file.is_read).map(|(name, _)| name.as_str()).collect();
        assert_eq!(read, ["a.service", "b.socket"]);
        assert_eq!(units["b.service"], UnitFile::default());
        assert_eq!(units["b.socket"].service, Some(UnitName("a.service".into())));
    }

    #[test]
    fn slice_stands_in_the_section_of_the_type() {
        let root = Root::new()
            .file("etc/systemd/system/a.service", "[Socket]\nSlice=no.slice\n[Unit]\nSlice=no.slice\n")
            .file("etc/systemd/system/a.socket", "[Socket]\nSlice=one.slice\nSlice=a-%i.slice\nSlice=\n")
            .file("etc/systemd/system/a.mount", "[Mount]\nSlice=m.slice\n");
        assert_eq!(root.slice("a.service"), None);
        assert_eq!(root.slice("a.socket").as_deref(), Some("a-%i.slice"));
        assert_eq!(root.slice("a.mount").as_deref(), Some("m.slice"));
    }

    #[test]
    fn drop_ins_count_by_name_and_the_closest_of_a_name_wins() {
        let root = Root::new()
            .file("usr/lib/systemd/system/a-b.service", in_slice("file"))
            .file("etc/systemd/system/a-b.service.d/10.conf", in_slice("ten"));
        assert_eq!(root.slice("a-b.service").as_deref(), Some("ten.slice"));
        let root = root.file("usr/lib/systemd/system/service.d/20.conf", in_slice("all"));
        assert_eq!(root.slice("a-b.service").as_deref(), Some("all.slice"));
        let root = root.file("usr/lib/systemd/system/a-.service.d/20.conf", in_slice("dashed"));
        assert_eq!(root.slice("a-b.service").as_deref(), Some("dashed.slice"));
        let root = root.file("etc/systemd/system/a-.service.d/20.conf", in_slice("higher"));
        assert_eq!(root.slice("a-b.service").as_deref(), Some("higher.slice"));
        let root = root.link("etc/systemd/system.control/a-b.service.d/20.conf", "/dev/null");
        assert_eq!(root.slice("a-b.service").as_deref(), Some("ten.slice"));
        let root = root.file("etc/systemd/system/a-b.service.d/90.txt", in_slice("no"));
        assert_eq!(root.slice("a-b.service").as_deref(), Some("ten.slice"));
    }

    #[test]
    fn drop_ins_of_the_other_manager_do_not_count() {
        let root = Root::new()
            .file("usr/lib/systemd/user/a.service", in_slice("user"))
            .file("etc/systemd/system/a.service.d/10.conf", in_slice("system"));
        assert_eq!(root.slice("a.service").as_deref(), Some("user.slice"));
    }

    #[test]
    fn instance_is_what_its_template_and_its_own_drop_ins_say() {
        let root = Root::new()
            .file("usr/lib/systemd/system/a@.service", in_slice("a-%i"))
            .file("etc/systemd/system/a@two.service.d/10.conf", in_slice("two"))
            .link("etc/systemd/system/x.target.wants/a@one.service", "../a@.service");
        let units = root.units(&["a@one.service", "a@two.service"]);
        assert_eq!(units["a@.service"].slice.as_deref(), Some("a-%i.slice"));
        assert_eq!(units["a@one.service"].slice.as_deref(), Some("a-%i.slice"));
        assert_eq!(units["a@two.service"].slice.as_deref(), Some("two.slice"));
        let wanted = |name: &str| units[name].is_wanted;
        assert_eq!(
            [wanted("a@one.service"), wanted("a@two.service"), wanted("a@.service")],
            [true, false, false]
        );
        assert_eq!(root.names(), ["a@.service"]);
    }

    #[test]
    fn masked_unit_is_a_name_and_nothing_else() {
        let root = Root::new()
            .link("etc/systemd/system/a.service", "/dev/null")
            .file("usr/lib/systemd/system/a.service", in_slice("a"))
            .file("etc/systemd/system/a.service.d/10.conf", in_slice("b"));
        assert_eq!(root.units(&["a.service"])["a.service"], UnitFile::default());
    }

    #[test]
    fn links_are_followed_below_the_root() {
        let root = Root::new()
            .file("opt/real.service", in_slice("real"))
            .link("etc/systemd/system/a.service", "/opt/real.service")
            .link("etc/systemd/system/b.service", "../../../../../../opt/real.service")
            .link("etc/systemd/system/outside.service", "/etc/passwd")
            .file("usr/lib/systemd/system/real.service", "")
            .file("usr/lib/systemd/system/real.service.d/10.conf", in_slice("alias"))
            .link("usr/lib/systemd/system/alias.service", "real.service")
            .link("lib", "/usr/lib");
        assert_eq!(root.slice("b.service"), root.slice("a.service"));
        assert_eq!(root.slice("alias.service").as_deref(), Some("alias.slice"));
        assert!(!root.units(&["outside.service"])["outside.service"].is_read);
    }

    #[test]
    fn links_make_a_unit_wanted() {
        let root = Root::new()
            .file("etc/systemd/system/a.socket", "")
            .file("etc/systemd/system/b.service", "")
            .file("etc/systemd/system/c.service", "")
            .file("etc/systemd/system/d.service", "")
            .link("etc/systemd/system/sockets.target.wants/a.socket", "/nowhere/a.socket")
            .link("run/systemd/generator/x.target.requires/b.service", "../b.service")
            .link("usr/lib/systemd/system/x.service.upholds/c.service", "../c.service")
            .link("etc/systemd/system/x.target.d/d.service", "../d.service");
        let units = root.units(&[]);
        let wanted: Vec<&str> =
            units.iter().filter(|(_, file)| file.is_wanted).map(|(name, _)| name.as_str()).collect();
        assert_eq!(wanted, ["a.socket", "b.service", "c.service"]);
    }

    #[test]
    fn socket_listens_on_what_is_of_the_network() {
        let all = "[Socket]\nListenStream=/run/a\nListenStream=@a\nListenStream=vsock:1:2\n\
                   ListenStream=vsock-stream:1:2\nListenStream=%t/a\nListenSequentialPacket=@b\nListenFIFO=/f\n";
        let root = Root::new().file(
            "etc/systemd/system/a.socket",
            format!("{all}ListenStream=80\nListenDatagram=[::1]:53\nListenStream = %i\n"),
        );
        assert_eq!(root.units(&[])["a.socket"].listens_on, ["80", "[::1]:53", "%i"]);
        let root = root.file(
            "etc/systemd/system/a.socket.d/10.conf",
            "[Socket]\nListenDatagram=\nListenStream=\\\n# no\n  192.0.2.1:\\\n81\n",
        );
        assert_eq!(root.units(&[])["a.socket"].listens_on, ["192.0.2.1: 81"]);
    }

    #[test]
    fn hostile_names_are_no_units() {
        let longest = format!("{}.service", "x".repeat(247));
        let root = Root::new()
            .directory("etc/systemd/system/directory.service")
            .directory("etc/systemd/system/.wants")
            .file("etc/systemd/system/a b.service", "")
            .file("etc/systemd/system/a\n.service", "")
            .file("etc/systemd/system/ä.service", "")
            .file("etc/systemd/system/.service", "")
            .file("etc/systemd/system/@a.service", "")
            .file("etc/systemd/system/a.conf", "")
            .file(&format!("etc/systemd/system/{longest}"), "")
            .file("etc/systemd/system/dev-disk-by\\x2duuid-1.swap", "");
        let bytes = OsStr::from_bytes(b"etc/systemd/system/\xff.service");
        fs::write(root.0.join(bytes), "").unwrap();
        assert_eq!(root.names(), ["dev-disk-by\\x2duuid-1.swap", longest.as_str()]);
    }

    #[test]
    fn what_is_no_ordinary_file_is_neither_opened_nor_waited_for() {
        let root = Root::new()
            .file("etc/systemd/system/a.service", "")
            .link("etc/systemd/system/fifo.service", "/fifo")
            .link("etc/systemd/system/socket.service", "/socket")
            .link("etc/systemd/system/directory.service", "/etc")
            .link("etc/systemd/system/a.service.d/10.conf", "/fifo");
        let fifo = root.0.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = UnixListener::bind(root.0.join("socket")).unwrap();
        let units = root.units(&["a.service", "fifo.service", "socket.service", "directory.service"]);
        let read: Vec<bool> = units.values().map(|file| file.is_read).collect();
        assert_eq!(
            units.keys().collect::<Vec<_>>(),
            ["a.service", "directory.service", "fifo.service", "socket.service"]
        );
        assert_eq!(read, [true, false, false, false]);
    }

    #[test]
    fn links_in_a_circle_and_large_files_are_names_only() {
        let root = Root::new()
            .link("etc/systemd/system/a.service", "b.service")
            .link("etc/systemd/system/b.service", "a.service")
            .link("etc/systemd/system/circle.wants", "circle.wants")
            .link("run/systemd/system", "system")
            .file("etc/systemd/system/large.service", "#".repeat(256 * 1024 + 1))
            .file("etc/systemd/system/full.service", "#".repeat(256 * 1024))
            .file("etc/systemd/system/bytes.service", b"\xff\0\n[Service]\nSlice=b.slice\n");
        let units = root.units(&["a.service", "b.service", "large.service", "full.service", "bytes.service"]);
        let read: Vec<(&str, bool)> =
            units.iter().map(|(name, file)| (name.as_str(), file.is_read)).collect();
        assert_eq!(
            read,
            [
                ("a.service", false),
                ("b.service", false),
                ("bytes.service", true),
                ("full.service", true),
                ("large.service", false)
            ]
        );
        assert_eq!(units["bytes.service"].slice.as_deref(), Some("b.slice"));
    }

    #[test]
    fn machine_without_systemd_has_no_unit_files() {
        assert_eq!(Root::new().names(), [""; 0]);
    }

    #[test]
    fn cgroups_named_like_units_run() {
        let root = Root::new()
            .directory("system.slice/a.service/inner")
            .directory("user.slice/user-1.slice/user@1.service/app.slice/a.service")
            .directory("system.slice/a b.service")
            .file("system.slice/b.service", "");
        let running = running_below(&root.0);
        let names: Vec<&str> = running.keys().map(|name| &*name.0).collect();
        assert_eq!(
            names,
            ["a.service", "app.slice", "system.slice", "user-1.slice", "user.slice", "user@1.service"]
        );
        let paths = &running[&UnitName("a.service".into())];
        assert_eq!(
            paths.iter().map(CgroupPath::as_str).collect::<Vec<_>>(),
            ["system.slice/a.service", "user.slice/user-1.slice/user@1.service/app.slice/a.service"]
        );
    }

    #[test]
    fn a_directory_that_looks_like_a_units_is_one_whatever_its_name() {
        let user = "user.slice/user-7.slice/user@7.service";
        let root = Root::new()
            .directory(&format!("{user}/a \"\n.service/b.service"))
            .directory("us\ner.slice/user-7.slice/user@7.service/a.slice");
        let found: BTreeSet<String> =
            instances(&root.0).into_iter().map(|(one, _)| format!("{} {}", one.manager, one.path)).collect();
        let expected = [
            "7 user.slice/user-7.slice/user@7.service/a \"\n.service",
            "system us\ner.slice",
            "system user.slice",
            "system user.slice/user-7.slice",
            "system user.slice/user-7.slice/user@7.service",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }

    #[test]
    fn applications_are_those_with_desktop_files() {
        let root = Root::new()
            .file("usr/share/applications/firefox.desktop", "")
            .file("usr/share/applications/mimeinfo.cache", "")
            .file("var/lib/flatpak/exports/share/applications/org.gnome.Maps.desktop", "");
        let Units { apps, .. } = units(&root.0, &BTreeSet::new());
        assert_eq!(apps, ["firefox", "org.gnome.Maps"].map(str::to_owned).into());
    }

    #[test]
    fn applications_that_dbus_daemon_starts_are_those_without_a_unit() {
        let root = |bus: &str| {
            let root = ["org.a", "org.b", "org.c"]
                .into_iter()
                .fold(Root::new(), |root, id| root.file(&format!("usr/share/applications/{id}.desktop"), ""));
            root.file("usr/lib/systemd/user/dbus.service", bus)
                .file("usr/share/dbus-1/services/org.a.service", "[D-BUS Service]\nName=org.a\nExec=a\n")
                .file(
                    "usr/share/dbus-1/services/org.b.service",
                    "[D-BUS Service]\nExec=b\nSystemdService=b.service\n",
                )
                .file("usr/share/dbus-1/services/org.d.service", "[D-BUS Service]\nExec=d\n")
        };
        let started = |root: &Root| units(&root.0, &BTreeSet::new()).bus_started;
        let daemon = root("[Service]\nExecStart=/usr/bin/dbus-daemon\n");
        assert_eq!(started(&daemon), ["org.a".to_owned()].into());
        let broker = daemon
            .file("usr/lib/systemd/user/dbus-broker.service", "[Service]\n")
            .link("etc/systemd/user/dbus.service", "/usr/lib/systemd/user/dbus-broker.service");
        assert_eq!(started(&broker), BTreeSet::new());
        assert_eq!(started(&Root::new()), BTreeSet::new());
    }

    #[test]
    fn class_ids_are_those_of_cgroup_v1() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n";
        let v1 = "cgroup /sys/fs/cgroup/net_cls cgroup rw,nosuid,net_cls,net_prio 0 0\n";
        assert!(!has_class_ids(v2));
        assert!(!has_class_ids(&v1.replace("rw,nosuid,net_cls,net_prio", "rw,memory")));
        assert!(has_class_ids(&format!("{v2}{v1}")));
    }

    #[test]
    fn loopback_is_an_interface() {
        assert!(interfaces().contains("lo"));
    }
}
