//! W002: paths that are not where the annotation's unit has its cgroup.
//!
//! An annotation's unit may be a mere label (docs/annotations.md), so a unit that has no cgroup, or that is not known
//! and of another type than what the path names, is not looked for in the path.

use std::collections::BTreeSet;

use super::cgroups::{self, Written};
use crate::{
    model::{AnnotationId, CgroupPath, Manager, UnitName, printable},
    policy::{Annotation, Policy},
    text::{Code, Diagnostic, diagnostic::quoted},
    units::{Units, places},
};

/// Judges each annotation once. The units in `misspelt` are not looked for in their paths.
pub(super) fn lint(policy: &Policy, units: &Units, misspelt: &BTreeSet<AnnotationId>) -> Vec<Diagnostic> {
    let judged = |(id, annotation): (AnnotationId, &Annotation)| {
        let only_unit = annotation.only_unit();
        let unit = units.own_name(only_unit.unwrap_or(&annotation.unit));
        let judge = Judge { policy, units, annotation, unit, written: cgroups::written(annotation) };
        let is_looked_for = only_unit.is_some() && !misspelt.contains(&id);
        judge.misplaced().or_else(|| is_looked_for.then(|| judge.unit()).flatten())
    };
    policy.iter().filter_map(judged).collect()
}

/// Where a path names a unit, the path down to the unit's cgroup, and what is below that.
fn split_at<'a>(path: &'a CgroupPath, unit: &UnitName) -> Option<(&'a str, &'a str)> {
    let is_unit = |at: &&str| {
        let name = cgroups::last(at);
        *name == *unit.0 || name.strip_prefix('_') == Some(&*unit.0)
    };
    let path = path.as_str();
    cgroups::with_ancestors(path).filter(is_unit).last().map(|at| path.split_at(at.len()))
}

const STARTS_ELSEWHERE: &str = "systemd starts it elsewhere; write";
const RUNS_ELSEWHERE: &str = "it runs elsewhere; write";

struct Judge<'a> {
    policy: &'a Policy,
    units: &'a Units,
    annotation: &'a Annotation,
    /// The unit, by the name that its cgroup has.
    unit: &'a UnitName,
    written: Vec<Written<'a>>,
}

impl<'a> Judge<'a> {
    /// A path that no unit has, since a slice in it is at another place.
    fn misplaced(&self) -> Option<Diagnostic> {
        let exists = |path: &CgroupPath| {
            let running = self.units.running.get(&UnitName(cgroups::last(path.as_str()).into()));
            running.is_some_and(|running| running.contains(path))
        };
        self.written.iter().filter(|written| !exists(written.path)).find_map(|written| {
            let (name, at, path) = cgroups::misplaced(written.path)?;
            if let Some(place) = self.place_of(written.path) {
                return Some(self.not_of_the_unit(written, &place, STARTS_ELSEWHERE));
            }
            let name = quoted(&name);
            let message = match at.as_str() {
                "" => format!("{name} is the root of the hierarchy and stands in no path"),
                at => format!("{name} is not here: its path is {}", quoted(at)),
            };
            let diagnostic = Diagnostic::new(Code::UnitPath, written.span, message);
            Some(match path.as_str() {
                "" => diagnostic.help("leave it out"),
                path => self.corrected(diagnostic, written, path, "write the whole path"),
            })
        })
    }

    /// Where a path leads whose unit's cgroup is surely at another place.
    fn place_of(&self, path: &CgroupPath) -> Option<String> {
        if cgroups::is_slice(&self.unit.0) {
            return None;
        }
        let (_, below) = split_at(path, self.unit).filter(|(at, _)| cgroups::manager(at).is_empty())?;
        let (place, _) = cgroups::place(self.unit, self.units).filter(|(_, is_sure)| *is_sure)?;
        Some(format!("{place}{below}"))
    }

    /// That no path is the unit's.
    fn unit(&self) -> Option<Diagnostic> {
        let unit = self.unit;
        if !matches!(places::kind(&unit.0), "service" | "socket" | "mount" | "swap" | "scope" | "slice") {
            return None;
        }
        let named = self.written.iter().filter_map(|written| Some((written, split_at(written.path, unit)?)));
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            return self.written.first().filter(|_| !self.may_be_meant()).map(|first| self.not_named(first));
        }
        let wrong = named.into_iter().map(|(written, (at, below))| self.elsewhere(written, at, below));
        wrong.collect::<Option<Vec<_>>>()?.into_iter().next()
    }

    /// That the unit's cgroup is at another place than a path that names it.
    fn elsewhere(&self, written: &Written<'_>, at: &str, below: &str) -> Option<Diagnostic> {
        let manager = cgroups::manager(at);
        let (right, what) = match self.runs_at(written.path, manager) {
            Some(_) if self.running().any(|running| running == at) => return None,
            Some(actual) => (actual.to_owned(), RUNS_ELSEWHERE),
            None if !manager.is_empty() => {
                let Manager::User(uid) = places::owner(at).0 else { return None };
                let place = cgroups::users_place(uid, self.unit, self.units)?;
                if cgroups::parent(&place) == cgroups::parent(at) {
                    return None;
                }
                (place, "the user's manager starts it elsewhere; write")
            }
            None if self.is_of_users() => return self.of_users(written),
            None => {
                let (place, is_sure) = cgroups::place(self.unit, self.units)?;
                let is_judged = is_sure || cgroups::is_within(at, "system.slice");
                if !is_judged || cgroups::parent(&place) == cgroups::parent(at) {
                    return None;
                }
                (place, STARTS_ELSEWHERE)
            }
        };
        Some(self.not_of_the_unit(written, &format!("{right}{below}"), what))
    }

    /// Whether only users' managers know the unit.
    fn is_of_users(&self) -> bool {
        let mut files = self.units.files_of(self.unit).peekable();
        files.peek().is_some() && files.all(|file| file.is_users) && self.running().next().is_none()
    }

    fn of_users(&self, written: &Written<'_>) -> Option<Diagnostic> {
        let unit = &self.unit.0;
        let message =
            format!("{} is a unit of users' managers: the system has none of this name", quoted(unit));
        let place = cgroups::users_place(0, self.unit, self.units)?;
        let place = place.replace("user-0.slice/user@0.service", "user-UID.slice/user@UID.service");
        let help = format!(
            "write `{place}` with `level {}`, or `user:{unit}` and `socket cgroupv2 unit`",
            place.split('/').count()
        );
        Some(Diagnostic::new(Code::UnitPath, written.span, message).help(help))
    }

    /// Where the unit runs.
    fn running(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.units.cgroups_of(self.unit).map(CgroupPath::as_str)
    }

    /// Where the unit runs under a manager, as near as can be to a path.
    fn runs_at(&self, path: &CgroupPath, manager: &str) -> Option<&'a str> {
        let shared =
            |other: &str| path.components().zip(other.split('/')).take_while(|(a, b)| a == b).count();
        self.running()
            .filter(|running| cgroups::manager(running) == manager)
            .max_by_key(|running| shared(running))
    }

    /// Whether paths that do not name the unit may be meant all the same.
    fn may_be_meant(&self) -> bool {
        let kind = places::kind(&self.unit.0);
        let is_label = matches!(kind, "slice" | "scope") && !self.units.knows(self.unit);
        let runs = self.running().next().is_some();
        let is_around = |path: &str| {
            kind != "slice"
                && cgroups::is_slice(path)
                && (!runs || self.running().any(|running| cgroups::is_within(running, path)))
        };
        let mut paths = self.written.iter().map(|written| written.path.as_str());
        (is_label && !paths.clone().any(|path| places::kind(path) == kind))
            || paths.any(|path| is_around(path) || self.is_of_its_listeners(path))
    }

    /// A service's listeners belong to its socket unit, or to PID 1.
    fn is_of_its_listeners(&self, path: &str) -> bool {
        let Some(stem) = self.unit.0.strip_suffix(".service") else { return false };
        let last = cgroups::last(path);
        let activates = || {
            let file = self.units.files.get(&UnitName(last.into()));
            file.and_then(|file| file.service.as_ref()) == Some(self.unit)
        };
        path == "init.scope"
            || last.strip_suffix(".socket").is_some_and(|socket| socket == stem || activates())
    }

    fn not_named(&self, written: &Written<'_>) -> Diagnostic {
        let path = written.path.as_str();
        let manager = cgroups::manager(path);
        if let Some(actual) = self.runs_at(written.path, manager) {
            return self.not_of_the_unit(written, actual, RUNS_ELSEWHERE);
        }
        let beside = cgroups::join(cgroups::parent(path), &self.unit.0);
        let likely = match cgroups::place(self.unit, self.units) {
            Some((place, _)) if manager.is_empty() => place,
            _ if !beside.contains('/') => cgroups::default_path(&self.unit.0),
            _ => beside,
        };
        let meant = "if the path is meant, put `# scnpm: allow(W002)` above the annotation; if not, write";
        self.not_of_the_unit(written, &likely, meant)
    }

    fn not_of_the_unit(&self, written: &Written<'_>, right: &str, what: &str) -> Diagnostic {
        let mut message = format!("the path is not that of {}", quoted(&self.unit.0));
        if Some(self.unit) != self.annotation.only_unit() {
            message = format!("{message}, which {} is another name of", quoted(&self.annotation.unit.0));
        }
        self.corrected(Diagnostic::new(Code::UnitPath, written.span, message), written, right, what)
    }

    /// With the right path, and the level that belongs to it.
    fn corrected(&self, diagnostic: Diagnostic, written: &Written<'_>, path: &str, what: &str) -> Diagnostic {
        let Written { span, cgroup, .. } = *written;
        let level = path.split('/').count();
        let with_level = cgroup.map(|_| format!(" with `level {level}`")).unwrap_or_default();
        // Whole, since it is to be copied.
        let shown = printable(path);
        let diagnostic = diagnostic.help(format!("{what} `{shown}`{with_level}"));
        let text = &self.policy.sources.file(span.file).text;
        // A variable holds more than this path, and whoever may make a cgroup may name it so that no quotes hold it.
        if text[span.start..].starts_with('$') || path.contains(|c: char| c == '"' || c.is_control()) {
            return diagnostic;
        }
        let is_quoted = text[..span.start].ends_with('"');
        let written = if is_quoted { path.to_owned() } else { format!("\"{path}\"") };
        let of_level = cgroup.filter(|cgroup| usize::try_from(cgroup.level) != Ok(level));
        match of_level {
            // The other paths of a list have its level.
            Some(cgroup) if cgroup.paths.len() > 1 => diagnostic,
            Some(cgroup) => {
                diagnostic.fix_all(text, vec![(cgroup.level_span, level.to_string()), (span, written)])
            }
            None => diagnostic.fix(span, written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lint::{
            Facts,
            testing::{file, found, mended, messages, units, with_units},
        },
        units::UnitFile,
    };

    fn rule(unit: &str, path: &str) -> String {
        let level = path.split('/').count();
        format!("# {unit} :: add rule inet f c socket cgroupv2 level {level} \"{path}\" tcp dport 25 accept")
    }

    fn said(unit: &str, path: &str, facts: Facts<'_>) -> Vec<String> {
        messages(Code::UnitPath, &rule(unit, path), facts)
    }

    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    #[test]
    fn slice_at_another_place_is_told_and_mended() {
        let none = Facts::default();
        assert_eq!(
            said("x.service", "a-b.slice/x.service", none),
            ["`a-b.slice` is not here: its path is `a.slice/a-b.slice`"]
        );
        for (unit, path, right) in [
            ("x.service", "a-b.slice/x.service", "a.slice/a-b.slice/x.service"),
            ("a-b.slice", "a-b.slice", "a.slice/a-b.slice"),
            ("mail.slice", "system.slice/mail.slice", "mail.slice"),
            (
                "session-2.scope",
                "user-1000.slice/session-2.scope",
                "user.slice/user-1000.slice/session-2.scope",
            ),
            ("x.service", "-.slice/system.slice/x.service", "system.slice/x.service"),
        ] {
            assert_eq!(mended(Code::UnitPath, &rule(unit, path), none), rule(unit, right));
        }
        // Its slice is named after the template, with an escaped dash.
        let units = units(&[("a-b@.service", file(None)), ("a-b@1.service", file(None))], &[]);
        assert_eq!(
            mended(
                Code::UnitPath,
                &rule("a-b@1.service", "system.slice/system-a-b.slice/a-b@1.service"),
                with_units(&units)
            ),
            rule("a-b@1.service", "system.slice/system-a\\x2db.slice/a-b@1.service")
        );
        let text = rule("x.service", "a-b.slice/x.service");
        let help = found(Code::UnitPath, &text, none)[0].help.clone();
        assert_eq!(
            help.as_deref(),
            Some("write the whole path `a.slice/a-b.slice/x.service` with `level 3`")
        );
    }

    #[test]
    fn path_of_another_unit_is_told_and_mended() {
        let none = Facts::default();
        assert_eq!(
            said("postfix.service", "system.slice/dovecot.service", none),
            ["the path is not that of `postfix.service`"]
        );
        for (unit, path, right) in [
            ("postfix.service", "system.slice/dovecot.service", "system.slice/postfix.service"),
            (
                "foo.service",
                &format!("{USER}/app.slice/bar.service"),
                &format!("{USER}/app.slice/foo.service"),
            ),
            ("work.scope", "user.slice/user-1000.slice/play.scope", "user.slice/user-1000.slice/work.scope"),
            ("foo@x.service", "system.slice/foo.service", "system.slice/system-foo.slice/foo@x.service"),
            ("foo.service", "foo", "system.slice/foo.service"),
        ] {
            assert_eq!(mended(Code::UnitPath, &rule(unit, path), none), rule(unit, right));
        }
    }

    #[test]
    fn element_is_mended_without_a_level() {
        let element = |path: &str| format!("# a.service :: add element inet f s {{ \"{path}\" }}");
        let mended = mended(Code::UnitPath, &element("system.slice/b.service"), Facts::default());
        assert_eq!(mended, element("system.slice/a.service"));
    }

    #[test]
    fn instance_lies_in_its_template_s_slice() {
        let none = Facts::default();
        let right = "system.slice/system-foo\\x2dbar.slice/foo-bar@1.service";
        assert_eq!(
            mended(Code::UnitPath, &rule("foo-bar@1.service", "system.slice/foo-bar@1.service"), none),
            rule("foo-bar@1.service", right)
        );
        assert_eq!(said("foo-bar@1.service", "x.slice/foo-bar@1.service", none), [] as [&str; 0]);
        assert_eq!(said("foo@1.service", &format!("{USER}/app.slice/foo@1.service"), none), [] as [&str; 0]);
        let with_slice = units(&[("foo@.service", file(Some("a-b.slice")))], &[]);
        assert_eq!(
            mended(
                Code::UnitPath,
                &rule("foo@1.service", "system.slice/foo@1.service"),
                with_units(&with_slice)
            ),
            rule("foo@1.service", "a.slice/a-b.slice/foo@1.service")
        );
        for slice in [UnitFile::default(), file(Some("x-%i.slice")), file(Some("system.slice"))] {
            let machine = units(&[("foo@.service", slice.clone())], &[]);
            let said = said("foo@1.service", "system.slice/foo@1.service", with_units(&machine));
            assert_eq!(said, [] as [&str; 0], "{slice:?}");
        }
    }

    #[test]
    fn unit_file_says_the_slice() {
        let machine = units(&[("a.service", file(Some("x-y.slice"))), ("b.service", file(None))], &[]);
        let facts = with_units(&machine);
        assert_eq!(
            mended(Code::UnitPath, &rule("a.service", "system.slice/a.service"), facts),
            rule("a.service", "x.slice/x-y.slice/a.service")
        );
        assert_eq!(
            mended(Code::UnitPath, &rule("b.service", "b.service"), facts),
            rule("b.service", "system.slice/b.service")
        );
        assert_eq!(said("a.service", "x.slice/x-y.slice/a.service/sub", facts), [] as [&str; 0]);
        assert_eq!(said("b.service", &format!("{USER}/app.slice/b.service"), facts), [] as [&str; 0]);
    }

    #[test]
    fn user_s_unit_is_in_the_slice_that_its_file_says() {
        let of_users =
            |files: &[(&str, UnitFile)]| Units { of_users: units(files, &[]).files, ..Units::default() };
        let machine = of_users(&[
            ("a.service", file(Some("session.slice"))),
            ("b.service", file(None)),
            ("c@.service", file(None)),
            ("d.service", UnitFile::default()),
        ]);
        let facts = with_units(&machine);
        for (unit, wrong, right) in [
            ("a.service", "app.slice/a.service", "session.slice/a.service"),
            ("b.service", "b.service", "app.slice/b.service"),
            ("c@1.service", "app.slice/c@1.service", "app.slice/app-c.slice/c@1.service"),
        ] {
            let [wrong, right] = [wrong, right].map(|path| rule(unit, &format!("{USER}/{path}")));
            assert_eq!(mended(Code::UnitPath, &wrong, facts), right);
            assert_eq!(messages(Code::UnitPath, &wrong, Facts::default()), [] as [&str; 0]);
        }
        assert_eq!(said("d.service", &format!("{USER}/x.slice/d.service"), facts), [] as [&str; 0]);
    }

    #[test]
    fn unit_of_users_only_is_not_in_the_system_s_slices() {
        let of_users = UnitFile { is_users: true, ..file(None) };
        let mut machine = units(&[("a.service", of_users)], &[]);
        machine.of_users = machine.files.clone();
        let found = found(Code::UnitPath, &rule("a.service", "system.slice/a.service"), with_units(&machine));
        assert_eq!(
            found[0].message,
            "`a.service` is a unit of users' managers: the system has none of this name"
        );
        machine.files.insert(UnitName("a.service".into()), file(None));
        assert_eq!(said("a.service", "system.slice/a.service", with_units(&machine)), [] as [&str; 0]);
    }

    #[test]
    fn cgroup_has_the_unit_s_own_name() {
        let alias = UnitFile { alias_of: Some(UnitName("ssh.service".into())), ..file(None) };
        let machine = units(&[("sshd.service", alias), ("ssh.service", file(None))], &[]);
        let facts = with_units(&machine);
        assert_eq!(said("sshd.service", "system.slice/ssh.service", facts), [] as [&str; 0]);
        assert_eq!(
            said("sshd.service", "system.slice/sshd.service", facts),
            ["the path is not that of `ssh.service`, which `sshd.service` is another name of"]
        );
    }

    #[test]
    fn selectors_of_more_than_one_unit_are_labels() {
        let none = Facts::default();
        for selector in ["alice:app:x", "user:b.service", "alice:b.service", "system:b-*.service"] {
            assert_eq!(said(selector, "system.slice/a.service", none), [] as [&str; 0], "{selector}");
        }
        assert_eq!(said("system:b.service", "system.slice/a.service", none).len(), 1);
    }

    #[test]
    fn running_unit_s_path_is_the_right_one() {
        let machine = units(&[("a.service", file(None))], &["x.slice/a.service"]);
        let facts = with_units(&machine);
        assert_eq!(
            mended(Code::UnitPath, &rule("a.service", "system.slice/a.service"), facts),
            rule("a.service", "x.slice/a.service")
        );
        assert_eq!(
            mended(Code::UnitPath, &rule("a.service", "system.slice/b.service"), facts),
            rule("a.service", "x.slice/a.service")
        );
        let help = found(Code::UnitPath, &rule("a.service", "a.service/sub"), facts)[0].help.clone();
        assert_eq!(help.as_deref(), Some("it runs elsewhere; write `x.slice/a.service/sub` with `level 3`"));
        for path in ["x.slice/a.service", "x.slice/a.service/sub", "x.slice"] {
            assert_eq!(said("a.service", path, facts), [] as [&str; 0], "{path}");
        }
        assert_eq!(said("a.service", "system.slice", facts).len(), 1);
    }

    #[test]
    fn each_manager_has_units_of_its_own() {
        let machine = units(
            &[],
            &[&format!("{USER}/app.slice/a.service"), "machine.slice/c.scope/payload/system.slice/b.service"],
        );
        let facts = with_units(&machine);
        for (unit, path) in [
            ("a.service", "system.slice/a.service"),
            ("a.service", "user.slice/user-1001.slice/user@1001.service/app.slice/a.service"),
            ("b.service", "system.slice/b.service"),
        ] {
            assert_eq!(said(unit, path, facts), [] as [&str; 0], "{path}");
        }
        assert_eq!(said("a.service", &format!("{USER}/background.slice/a.service"), facts).len(), 1);
    }

    #[test]
    fn labels_and_paths_that_hold_the_unit_are_not_told() {
        let none = Facts::default();
        for (unit, path) in [
            ("session.scope", "system.slice/sshd.service"),
            ("mail.slice", "system.slice/postfix.service"),
            ("backup.timer", "system.slice/backup.service"),
            ("network.target", "system.slice"),
            ("a.service", "system.slice/a.service"),
            ("a.service", "system.slice/a.service/worker"),
            ("a.service", "system.slice/_a.service"),
            ("a.service", "system.slice"),
            ("a.service", "own.slice/a.service"),
            ("a.slice", "a.slice/b.service"),
            ("a-b.slice", "a.slice/a-b.slice/a-b-c.slice/x.service"),
            ("app-firefox-1.scope", &format!("{USER}/app.slice")),
            ("app-firefox-1.scope", &format!("{USER}/app.slice/app-firefox-1.scope")),
            ("session-2.scope", "user.slice/user-1000.slice/session-2.scope"),
            ("session-2.scope", "user.slice/user-1000.slice"),
            ("user@1000.service", USER),
            ("foo@1.service", "system.slice/system-foo.slice/foo@1.service"),
            ("ssh.service", "system.slice/ssh.socket"),
            ("ssh.service", "init.scope"),
            ("a.service", "machine.slice/c.scope/payload/system.slice/a.service"),
        ] {
            assert_eq!(said(unit, path, none), [] as [&str; 0], "{unit} {path}");
        }
    }

    #[test]
    fn one_of_several_paths_is_enough() {
        let text = "# a.service :: add rule inet f c socket cgroupv2 level 2 \
                    { \"system.slice/b.service\", \"system.slice/a.service\" } accept";
        assert_eq!(messages(Code::UnitPath, text, Facts::default()), [] as [&str; 0]);
        let wrong = text.replace("a.service\" }", "c.service\" }");
        assert_eq!(messages(Code::UnitPath, &wrong, Facts::default()).len(), 1);
    }

    #[test]
    fn path_in_a_variable_is_not_replaced() {
        let text = "define units = { \"system.slice/b.service\" }\n\
                    # a.service :: add rule inet f c socket cgroupv2 level 2 $units accept";
        let found = found(Code::UnitPath, text, Facts::default());
        assert_eq!((found.len(), &found[0].fix), (1, &None));
    }

    #[test]
    fn path_that_no_quotes_hold_is_not_written() {
        let machine = units(&[], &["x.slice/\"\n/a.service"]);
        let text = rule("a.service", "a.service");
        let help = found(Code::UnitPath, &text, with_units(&machine))[0].clone();
        assert_eq!(help.fix, None);
        assert_eq!(
            help.help.as_deref(),
            Some("it runs elsewhere; write `x.slice/\"\u{fffd}/a.service` with `level 3`")
        );
    }

    #[test]
    fn misspelt_unit_is_only_told_as_that() {
        let machine = units(&[("postfix.service", file(None))], &[]);
        let text = rule("postfx.service", "system.slice/postfix.service");
        assert_eq!(messages(Code::UnitPath, &text, with_units(&machine)), [] as [&str; 0]);
        assert_eq!(messages(Code::UnknownUnit, &text, with_units(&machine)).len(), 1);
    }
}
