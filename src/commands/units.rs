//! `scnpm units`: the units that have cgroups, and annotations for them that are ready to be copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::unistd::{Uid, User};

use super::Failure;
use crate::{
    cli::{DEFAULT_FILE, Units},
    machine,
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, Location, Manager},
    nft::probe,
    policy::{Annotation, Policy, Statement, files::Disk, parse},
    report::{
        offer::{UNNAMED_CHAIN, offer},
        units::{self, Row},
    },
    units::selector::{Selectors, Users, app_id},
};

/// Runs it: exit code 0, or 1 if nothing matches.
///
/// # Errors
/// A file of `--file` that cannot be read; no cgroup v2.
pub fn run(options: &Units) -> Result<ExitCode, Failure> {
    let root = Path::new(CGROUP_ROOT);
    probe::require_cgroup2(root).map_err(Failure::new)?;
    let policy = read(&options.file)?;
    let pattern = options.pattern.as_deref().map(|text| Pattern::new(text, machine::users));
    let rows = matching(rows(machine::instances(root), &policy), pattern.as_ref());
    let is_printed = match options.annotate {
        true => print_annotations(options, &rows, &policy),
        false => {
            let mut out = io::BufWriter::new(io::stdout().lock());
            let write = if options.json { units::write_json } else { units::write_table };
            // A reader that has seen enough is no failure.
            let _ = write(&rows, &mut out).and_then(|()| out.flush());
            true
        }
    };
    match &options.pattern {
        Some(text) if rows.is_empty() => Err(nothing_matches(text)),
        None if rows.is_empty() => Err(Failure::new(format!(
            "no unit has a cgroup below {CGROUP_ROOT}: look where systemd runs, which may be outside of this container"
        ))),
        _ if is_printed => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn nothing_matches(pattern: &str) -> Failure {
    Failure::new(format!(
        "no unit that has a cgroup matches `{}`: start it, or try a part of its name or path; `scnpm units` lists all",
        pattern.replace(char::is_control, "\u{fffd}")
    ))
}

/// The annotations; that they are wrong is the business of `scnpm check`.
fn read(files: &[PathBuf]) -> Result<Policy, Failure> {
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    match paths.is_empty() {
        true => Ok(parse::read(&Disk, &[Path::new(DEFAULT_FILE)]).unwrap_or_default()),
        false => parse::read(&Disk, &paths).map_err(Failure::new),
    }
}

/// Whether there was one.
fn print_annotations(options: &Units, rows: &[Row], policy: &Policy) -> bool {
    let chain = options.chain.clone().or_else(|| first_chain(policy));
    let offer = offer(rows, chain.as_deref().unwrap_or(UNNAMED_CHAIN), options.explicit);
    let mut out = io::stdout().lock();
    // A reader that has seen enough is no failure.
    let _ = offer.lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    for note in &offer.notes {
        eprintln!("note: {note}");
    }
    if chain.is_none() && !offer.lines.is_empty() {
        eprintln!(
            "note: write the chain that the rule goes to for CHAIN, or say --chain \"inet filter NAME\""
        );
    }
    !offer.lines.is_empty()
}

fn first_chain(policy: &Policy) -> Option<String> {
    policy.iter().find_map(|(_, annotation)| match &annotation.statement {
        Statement::Rule(rule) => Some(rule.chain.to_string()),
        Statement::Element(_) => None,
    })
}

/// The units in order.
fn rows(found: Vec<(Instance, CgroupId)>, policy: &Policy) -> Vec<Row> {
    let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
    let mut name_of = |manager| match manager {
        Manager::System => None,
        Manager::User(uid) => {
            let name = || Some(User::from_uid(Uid::from_raw(uid)).ok()??.name);
            names.entry(uid).or_insert_with(name).clone()
        }
    };
    let annotations = Annotations::of(policy, machine::users(&policy.user_names()));
    let mut rows: Vec<Row> = found
        .into_iter()
        .map(|(instance, id)| Row {
            user: name_of(instance.manager),
            annotations: annotations.about(&instance.path),
            instance,
            id,
        })
        .collect();
    units::sort(&mut rows);
    rows
}

/// The annotations of a policy, each with what it is about.
struct Annotations {
    all: Vec<(Location, About)>,
    /// The users whom they name.
    users: Users,
}

enum About {
    /// It names cgroups.
    Paths(Vec<CgroupPath>),
    /// It is for whatever cgroups its units have, or it is in force while they are active.
    Units(Selectors),
}

impl Annotations {
    fn of(policy: &Policy, users: Users) -> Self {
        let all = policy.iter().map(|(_, annotation)| {
            let paths = paths(annotation);
            let about = match paths.is_empty() {
                true => About::Units(annotation.selectors.clone()),
                false => About::Paths(paths),
            };
            (policy.sources.location(annotation.unit_span), about)
        });
        Self { all: all.collect(), users }
    }

    /// Where those stand that are about a unit, or about a slice that it is in.
    fn about(&self, path: &CgroupPath) -> Vec<Location> {
        let is_about = |about: &About| match about {
            About::Paths(paths) => paths.iter().any(|above| path.is_within(above)),
            About::Units(selectors) => with_ancestors(path).any(|one| selectors.select(&one, &self.users)),
        };
        self.all.iter().filter(|(_, about)| is_about(about)).map(|(at, _)| at.clone()).collect()
    }
}

fn paths(annotation: &Annotation) -> Vec<CgroupPath> {
    match &annotation.statement {
        Statement::Rule(rule) => rule.paths().cloned().collect(),
        Statement::Element(element) => element.elements.iter().map(|(path, ..)| path.clone()).collect(),
    }
}

/// A unit, and the slices and the manager that it is in: what matches their cgroups matches its, too. Whatever no manager
/// calls so is selected by nobody.
fn with_ancestors(path: &CgroupPath) -> impl Iterator<Item = Instance> {
    let text = path.as_str();
    let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
    ends.filter_map(|end| Instance::of(&text[..end].parse().ok()?))
}

/// Which units are asked for.
struct Pattern {
    selectors: Option<(Selectors, Users)>,
    text: String,
}

impl Pattern {
    fn new(text: &str, users_of: impl FnOnce(&BTreeSet<&str>) -> Users) -> Self {
        let with_users = |selectors: Selectors| {
            let users = users_of(&selectors.user_names());
            (selectors, users)
        };
        Self { selectors: Selectors::parse(text).ok().map(with_users), text: text.to_owned() }
    }

    fn is_selected(&self, row: &Row) -> bool {
        self.selectors.as_ref().is_some_and(|(selectors, users)| selectors.select(&row.instance, users))
    }

    fn is_part(&self, row: &Row) -> bool {
        let Instance { unit, path, .. } = &row.instance;
        // A path ends with the unit's name. What is escaped in that is not in the application's id.
        path.as_str().contains(&self.text) || app_id(&unit.0).is_some_and(|id| id.contains(&self.text))
    }
}

/// What a selector selects, or else what has the pattern in its name or path: text may look like a selector by chance,
/// as units' names have colons, too.
fn matching(rows: Vec<Row>, pattern: Option<&Pattern>) -> Vec<Row> {
    let Some(pattern) = pattern else { return rows };
    let selected: Vec<Row> = rows.iter().filter(|row| pattern.is_selected(row)).cloned().collect();
    match selected.is_empty() {
        true => rows.into_iter().filter(|row| pattern.is_part(row)).collect(),
        false => selected,
    }
}

#[cfg(test)]
mod tests {
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
        let rows = matching(machine(), Some(&Pattern::new(pattern, alice)));
        rows.into_iter().map(|row| format!("{} {}", row.instance.manager, row.instance.unit)).collect()
    }

    fn about(text: &'static str, path: &str) -> Vec<usize> {
        let policy = policy(text);
        let annotations = Annotations::of(&policy, alice(&policy.user_names()));
        let annotations = annotations.about(&path.parse().unwrap());
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
        assert_eq!(matching(machine(), None), machine());
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
