//! `scnpm units`: the units that have cgroups, and annotations for them that are ready to be copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use super::{Failure, note, output};
use crate::{
    cli::{DEFAULT_FILE, Units},
    explain::facts::Process,
    gather::Gather,
    machine::{self, processes},
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, Location, Manager, printable},
    nft::probe,
    policy::{Annotation, Policy, files::Disk, parse},
    report::{
        offer::{Offer, UNNAMED_CHAIN, offer},
        units::{self, Row},
    },
    units::{
        places,
        selector::{Index, Selectors, Users, app_id},
        shared,
    },
};

/// Runs it: exit code 0, or 1 if nothing matches.
///
/// # Errors
/// A file of `--file` that cannot be read; no cgroup v2; no unit that matches; the output cannot be written.
pub fn run(options: &Units) -> Result<ExitCode, Failure> {
    let root = Path::new(CGROUP_ROOT);
    probe::require_cgroup2(root).map_err(Failure::new)?;
    // That annotations are wrong is the business of `scnpm check`.
    let policy = match &options.file[..] {
        [] => parse::read(&Disk, &[DEFAULT_FILE]).unwrap_or_default(),
        files => parse::read(&Disk, files).map_err(Failure::new)?,
    };
    let mut rows = rows(machine::instances(root), &policy);
    match options.pid {
        Some(pid) => {
            let instance = unit_of(pid)?;
            rows.retain(|row| row.instance == instance);
        }
        None => rows = matching(rows, options.pattern.as_deref(), machine::users),
    }
    let exit_code = if options.annotate {
        print_annotations(options, &rows, &policy)?
    } else if rows.is_empty() && !options.json {
        ExitCode::FAILURE
    } else {
        let write = if options.json { units::write_json } else { units::write_table };
        output(|out| write(&rows, out))?;
        if options.pid.is_some() && !options.json {
            print_annotations(options, &rows, &policy)?;
        }
        ExitCode::SUCCESS
    };
    Err(Failure::new(match &options.pattern {
        _ if !rows.is_empty() => return Ok(exit_code),
        Some(text) => match in_units_of_others(text, &processes::all()) {
            Some(words) => words,
            None => format!(
                "no unit that has a cgroup matches `{}`: start it, or try a part of its name or path; `scnpm units` lists all",
                printable(text)
            ),
        },
        None if options.pid.is_some() => "the process has ended: say another --pid".to_owned(),
        None => format!(
            "no unit has a cgroup below {CGROUP_ROOT}: look where systemd runs, which may be outside of this container"
        ),
    }))
}

/// The unit that a process is in.
fn unit_of(pid: u32) -> Result<Instance, Failure> {
    let process = processes::process(pid).ok_or_else(|| {
        Failure::new(format!(
            "there is no process {pid}, or it may not be seen: `pgrep -a NAME` lists those of a name"
        ))
    })?;
    let instance = process.cgroup.path().and_then(Instance::in_which);
    let instance = instance.ok_or_else(|| {
        Failure::new(format!(
            "process {pid} ({}) is in no unit of systemd's: `cat /proc/{pid}/cgroup` shows its cgroup",
            printable(&process.name)
        ))
    })?;
    let others = processes::all().iter().filter(|other| other.pid != pid && is_in(other, &instance)).count();
    if let Some(why) = shared::why(&instance).filter(|_| others > 0) {
        let words = shared::with_others(&instance.unit.0, others, why);
        note(format!("process {pid} ({}) {words}", printable(&process.name)));
    }
    Ok(instance)
}

fn is_in(process: &Process, instance: &Instance) -> bool {
    process.cgroup.path().is_some_and(|path| path.is_within(&instance.path))
}

/// That no unit is called so, but a process in a unit of others is.
pub(super) fn in_units_of_others(text: &str, processes: &[Process]) -> Option<String> {
    let text = text.rsplit("app:").next().unwrap_or(text).to_lowercase();
    let is_called_so = |process: &&Process| !text.is_empty() && process.name.to_lowercase().contains(&text);
    processes.iter().filter(is_called_so).find_map(|process| {
        let instance = Instance::in_which(process.cgroup.path()?)?;
        let why = shared::why(&instance)?;
        let others =
            processes.iter().filter(|other| other.pid != process.pid && is_in(other, &instance)).count();
        let words = shared::with_others(&instance.unit.0, others, why);
        Some(format!(
            "no unit that has a cgroup matches `{}`, but process {} ({}) {words}",
            printable(&text),
            process.pid,
            printable(&process.name)
        ))
    })
}

/// Fails if there is none.
fn print_annotations(options: &Units, rows: &[Row], policy: &Policy) -> Result<ExitCode, Failure> {
    let chain = options.chain.clone().or_else(|| first_chain(policy));
    let Offer { lines, notes } = offer(rows, chain.as_deref().unwrap_or(UNNAMED_CHAIN), options.explicit);
    output(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    notes.iter().for_each(note);
    if options.pattern.is_some()
        && let Some(words) = several_owners(rows)
    {
        note(words);
    }
    if lines.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if chain.is_none() {
        note("write the chain that the rule goes to for CHAIN, or say --chain \"inet filter NAME\"");
    }
    Ok(ExitCode::SUCCESS)
}

/// That not all are of one user, and that names are no proof: any user can give any name to a unit, or to a directory below
/// their own manager's.
fn several_owners(rows: &[Row]) -> Option<String> {
    let owner = |row: &Row| match row.instance.manager {
        Manager::User(uid) => Some(row.user.clone().unwrap_or_else(|| uid.to_string())),
        Manager::System => None,
    };
    let owners: BTreeSet<String> = rows.iter().filter_map(owner).gather();
    (owners.len() > 1).then(|| {
        let owners: Vec<String> = owners.iter().map(|name| printable(name)).collect();
        format!(
            "these are units of several users ({}), and each user can give them any name: take the lines of those whom you mean",
            owners.join(", ")
        )
    })
}

fn first_chain(policy: &Policy) -> Option<String> {
    policy.annotations.iter().find_map(|annotation| Some(annotation.rule()?.chain.to_string()))
}

/// The units in order.
pub(super) fn rows(found: Vec<(Instance, CgroupId)>, policy: &Policy) -> Vec<Row> {
    let users = machine::users(&policy.user_names());
    let index = Index::of(policy.annotations.iter().map(|annotation| &annotation.selectors));
    let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
    let mut name_of = |uid| names.entry(uid).or_insert_with(|| machine::user_name(uid)).clone();
    let row = |(instance, id): (Instance, CgroupId)| Row {
        user: match instance.manager {
            Manager::User(uid) => name_of(uid),
            Manager::System => places::user_of_session(instance.path.as_str()).and_then(&mut name_of),
        },
        annotations: annotations_about(&instance.path, policy, &index, &users),
        instance,
        id,
    };
    let mut rows: Vec<Row> = found.into_iter().map(row).collect();
    units::sort(&mut rows);
    rows
}

/// Where the annotations stand that are about a unit, or about a slice that it is in: those that name its cgroup, and those
/// without a path that are for whatever cgroups their units have, or in force while these are active.
fn annotations_about(path: &CgroupPath, policy: &Policy, index: &Index, users: &Users) -> Vec<Location> {
    // What matches the cgroups of the slices and the manager that it is in, matches its, too. Whatever no manager calls so
    // is selected by nobody.
    let text = path.as_str();
    let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
    let instances: Vec<Instance> = ends.filter_map(|end| Instance::of(&text[..end].parse().ok()?)).collect();
    let candidates = instances.iter().flat_map(|one| index.candidates(&one.unit));
    let selects = |number: &usize| {
        let selectors = &policy.annotations[*number].selectors;
        instances.iter().any(|one| selectors.select(one, users))
    };
    let selecting: BTreeSet<usize> = candidates.filter(selects).gather();
    let is_about = |(number, annotation): &(usize, &Annotation)| {
        let mut paths = annotation.statement.paths().peekable();
        match paths.peek() {
            Some(_) => paths.any(|above| path.is_within(above)),
            None => selecting.contains(number),
        }
    };
    let about = policy.annotations.iter().enumerate().filter(is_about);
    about.map(|(_, annotation)| policy.sources.location(annotation.unit_span)).collect()
}

/// What a selector selects; or else what is a user's of that name; or else what has the pattern in its name or path, in
/// capitals or not. Text may look like a selector by chance, as units' names have colons, too.
pub(super) fn matching(
    rows: Vec<Row>,
    pattern: Option<&str>,
    users_of: impl FnOnce(&BTreeSet<&str>) -> Users,
) -> Vec<Row> {
    let Some(pattern) = pattern else { return rows };
    let selected: Vec<Row> = Selectors::parse(pattern).map_or(vec![], |selectors| {
        let users = users_of(&selectors.user_names());
        rows.iter().filter(|row| selectors.select(&row.instance, &users)).cloned().collect()
    });
    if !selected.is_empty() {
        return selected;
    }
    let pattern = pattern.to_lowercase();
    let user = pattern.strip_suffix(':').unwrap_or(&pattern);
    let is_users = |row: &Row| row.user.as_ref().is_some_and(|name| name.to_lowercase() == user);
    let is_user = rows.iter().any(is_users);
    let is_part = |row: &Row| {
        // A path ends with the unit's name. What is escaped in that is not in the application's id.
        let id = app_id(&row.instance.unit.0);
        let texts = [Some(row.instance.path.as_str().to_owned()), id];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&pattern))
    };
    // What other users call so is not that user's.
    let is_meant = |row: &Row| match is_user {
        true => is_users(row) || (row.instance.manager == Manager::System && is_part(row)),
        false => is_part(row),
    };
    rows.into_iter().filter(is_meant).collect()
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use super::*;
    use crate::policy::files::Files;

    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    struct Text(&'static str);

    impl Files for Text {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.as_bytes().to_vec())
        }

        fn glob(&self, _: &str) -> Vec<PathBuf> {
            vec![]
        }
    }

    fn policy(text: &'static str) -> Policy {
        parse::read(&Text(text), &[Path::new("f")]).unwrap()
    }

    fn alice(names: &BTreeSet<&str>) -> Users {
        names.iter().filter(|name| **name == "alice").map(|name| ((*name).to_owned(), 1000)).collect()
    }

    /// A machine's, of which only the paths count here.
    fn machine() -> Vec<Row> {
        let below_user = [
            "app.slice/app-gnome-firefox-1.scope",
            "app.slice/app-gnome-my\\x2dmail-2.scope",
            "app.slice/foo.service",
            "session.slice/dbus-:1.2-org.example@0.service",
        ];
        let system = ["system.slice", "system.slice/foo.service", "system.slice/postfix.service"];
        let paths =
            below_user.map(|name| format!("{USER}/{name}")).into_iter().chain(system.map(str::to_owned));
        let instances = paths.map(|path| Instance::of(&path.parse().unwrap()).unwrap());
        let row = |instance| Row { instance, id: CgroupId(1), user: None, annotations: vec![] };
        instances.map(row).collect()
    }

    fn found(pattern: &str) -> Vec<String> {
        let rows = matching(machine(), Some(pattern), alice);
        rows.into_iter().map(|row| format!("{} {}", row.instance.manager, row.instance.unit)).collect()
    }

    fn about(text: &'static str, path: &str) -> Vec<usize> {
        let policy = policy(text);
        let index = Index::of(policy.annotations.iter().map(|annotation| &annotation.selectors));
        let users = alice(&policy.user_names());
        let annotations = annotations_about(&path.parse().unwrap(), &policy, &index, &users);
        annotations.into_iter().map(|location| location.line).collect()
    }

    #[test]
    fn pattern_is_a_selector_where_it_selects_something() {
        let firefox = "1000 app-gnome-firefox-1.scope";
        assert_eq!(found("app:firefox"), [firefox]);
        assert_eq!(found("alice:app:firefox"), [firefox]);
        assert_eq!(found("1000:app-*-firefox-*.scope"), [firefox]);
        assert_eq!(found("foo.service"), ["1000 foo.service", "system foo.service"]);
        assert_eq!(found("system:*.service"), ["system foo.service", "system postfix.service"]);
        assert_eq!(found("user:foo.service"), ["1000 foo.service"]);
        assert_eq!(found("system.slice"), ["system system.slice"]);
    }

    #[test]
    fn pattern_is_else_part_of_a_name_a_path_or_an_id() {
        assert_eq!(found("firefox"), ["1000 app-gnome-firefox-1.scope"]);
        assert_eq!(found("my-mail"), ["1000 app-gnome-my\\x2dmail-2.scope"]);
        assert_eq!(found("fix.service"), ["system postfix.service"]);
        assert_eq!(found("dbus-:1"), ["1000 dbus-:1.2-org.example@0.service"]);
        assert_eq!(found("system.slice/f"), ["system foo.service"]);
        assert_eq!(found("session.slice/"), ["1000 dbus-:1.2-org.example@0.service"]);
        assert_eq!(found("bob:app:firefox"), [""; 0]);
        assert_eq!(found("chromium"), [""; 0]);
        assert_eq!(matching(machine(), None, alice), machine());
    }

    #[test]
    fn pattern_is_found_in_capitals_or_not() {
        assert_eq!(found("FIREFOX"), ["1000 app-gnome-firefox-1.scope"]);
        assert_eq!(found("My-Mail"), ["1000 app-gnome-my\\x2dmail-2.scope"]);
    }

    #[test]
    fn units_of_a_user_are_found_and_not_those_that_others_call_so() {
        let bobs = "user.slice/user-1001.slice/user@1001.service/app.slice/app-alice-1.scope";
        let session = "user.slice/user-1000.slice/session-2.scope";
        let paths = [
            format!("{USER}/app.slice/foo.service"),
            bobs.to_owned(),
            session.to_owned(),
            "system.slice/borg-alice.service".to_owned(),
        ];
        let row = |path: &String| {
            let instance = Instance::of(&path.parse().unwrap()).unwrap();
            let user = if path.contains("1001") { "bob" } else { "Alice" };
            Row {
                user: (!path.starts_with("system")).then(|| user.to_owned()),
                instance,
                id: CgroupId(1),
                annotations: vec![],
            }
        };
        let rows: Vec<Row> = paths.iter().map(row).collect();
        let found = |pattern: &str| {
            let rows = matching(rows.clone(), Some(pattern), |_| Users::new());
            rows.iter().map(|row| row.instance.unit.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("alice:"), ["foo.service", "session-2.scope"]);
        for pattern in ["alice", "ALICE"] {
            assert_eq!(found(pattern), ["foo.service", "session-2.scope", "borg-alice.service"], "{pattern}");
        }
        assert_eq!(found("bob"), ["app-alice-1.scope"]);
        assert_eq!(found("alic"), ["app-alice-1.scope", "borg-alice.service"]);
        assert!(several_owners(&rows).unwrap().contains("(Alice, bob)"));
        assert_eq!(several_owners(&rows[2..]), None);
    }

    #[test]
    fn process_in_a_unit_of_others_is_told() {
        let process = |pid, name: &str, path: &str| Process {
            pid,
            name: name.to_owned(),
            cgroup: crate::explain::facts::Place::In(path.parse().unwrap()),
            ..Process::default()
        };
        let bus = format!("{USER}/session.slice/dbus.service");
        let all = [
            process(1, "dbus-daemon", &bus),
            process(2, "nautilus\u{1b}", &bus),
            process(3, "nautilus", "system.slice/x.service"),
        ];
        let words = in_units_of_others("app:NAUTILUS", &all).unwrap();
        assert!(words.contains("process 2 (nautilus\u{fffd}) shares dbus.service with 1 other"), "{words}");
        assert_eq!(in_units_of_others("x", &all), None);
        assert_eq!(in_units_of_others("alice:app:", &all), None);
    }

    #[test]
    fn annotation_is_about_the_paths_that_it_names_and_what_is_in_them() {
        const TEXT: &str = "\
# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/foo.service\" accept
# a.service :: add rule inet f c socket cgroupv2 level 1 \"system.slice\" accept
# foo.service :: add rule inet f c socket cgroupv2 level 2 { \"system.slice/b.service\", \"system.slice/foo\" } accept
# foo.service :: add element inet f s { \"system.slice/foo.service\" }
# a.service :: add rule inet f
";
        assert_eq!(about(TEXT, "system.slice/foo.service"), [1, 2, 4]);
        assert_eq!(about(TEXT, "system.slice/a.service"), [2]);
        assert_eq!(about(TEXT, "system.slice"), [2]);
    }

    #[test]
    fn annotation_without_a_path_is_about_its_units_and_what_is_in_them() {
        const TEXT: &str = "\
# foo.service :: add rule inet f c tcp dport 1 accept
# system.slice :: add rule inet f c tcp dport 2 accept
";
        assert_eq!(about(TEXT, "system.slice/foo.service"), [1, 2]);
        assert_eq!(about(TEXT, &format!("{USER}/app.slice/foo.service")), [1]);
        assert_eq!(about(TEXT, "system.slice/a\"b.service"), [2]);
    }

    #[test]
    fn chain_is_that_of_the_first_rule() {
        let text =
            "# a.service :: add element inet f s { \"a.slice\" }\n# a.service :: add rule inet f c accept\n";
        assert_eq!(first_chain(&policy(text)).as_deref(), Some("inet f c"));
        assert_eq!(first_chain(&Policy::default()), None);
    }
}
