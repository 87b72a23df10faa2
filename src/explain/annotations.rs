//! Whether an annotation matches a cgroup, and if not, why; and what of it is in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use litemap::LiteMap;
use serde::Serialize;

use crate::{
    dispatch::{Dispatch, pattern::level},
    gather::Gather,
    model::{AnnotationId, CgroupId, CgroupPath, Count, Data, Instance, Key, Location, Manager, Row, SetRef},
    policy::{Annotation, CgroupMatch, Part, Policy, RuleStatement, Statement},
    units::selector::{Selector, Users, Whose},
};

/// What an annotation has to do with a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Location,
    /// The unit or selector, as it is written.
    pub unit: String,
    /// What it says, on one line.
    pub statement: String,
    /// Whether it matches the cgroup.
    pub matches: bool,
    /// How, or why not.
    pub words: String,
    /// Whether nft or the daemon refuses it, or no packet of a socket comes to it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Its elements for this cgroup, if it matches.
    pub elements: Vec<ShownElement>,
}

/// An element that an annotation asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownElement {
    /// The set or map.
    pub set: String,
    /// The cgroup's path; none for the element of a gate.
    pub path: Option<String>,
    /// The cgroup's id.
    pub id: Option<CgroupId>,
    /// What it leads to, in a map.
    pub verdict: Option<String>,
    /// Whether it is in the kernel; none if that is not known.
    pub in_kernel: Option<bool>,
    /// How many packets it was found for, if it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// And how many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What is needed to judge annotations.
pub struct Judge<'a> {
    /// The annotations.
    pub policy: &'a Policy,
    /// What they are loaded as.
    pub dispatch: &'a Dispatch,
    /// The users whom they name.
    pub users: &'a Users,
    /// The cgroups that exist.
    pub cgroups: &'a BTreeMap<CgroupPath, CgroupId>,
    /// What sets and maps hold, as far as it could be read; none for one that does not exist.
    pub elements: &'a LiteMap<SetRef, Option<BTreeSet<CgroupId>>>,
    /// What an element has counted.
    pub counted: &'a dyn Fn(&SetRef, &CgroupPath) -> Option<Count>,
    /// What is wrong with annotations, by where these stand.
    pub refused: &'a BTreeMap<Location, String>,
    /// Why no packet of a socket comes to a chain.
    pub unreached: &'a dyn Fn(&RuleStatement) -> Option<String>,
}

/// The units whose cgroups a cgroup is, or is in, from the top down.
pub fn instances(path: &CgroupPath) -> Vec<Instance> {
    let text = path.as_str();
    let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
    ends.filter_map(|end| Instance::of(&text[..end].parse().ok()?)).collect()
}

/// Whether a condition is met, and how or why not.
type Verdict = Result<String, String>;

impl Judge<'_> {
    /// The annotations that are about a cgroup or nearly so, and how many others there are.
    pub fn all(&self, path: &CgroupPath) -> (Vec<About>, usize) {
        let above = instances(path);
        let near: Vec<About> = self
            .policy
            .iter()
            .filter(|(_, annotation)| is_near(annotation, path, &above))
            .map(|(id, annotation)| self.about(id, annotation, path))
            .collect();
        let others = self.policy.of_units().count() - near.len();
        (near, others)
    }

    /// Where the annotations stand that match a cgroup.
    pub fn matching(&self, path: &CgroupPath) -> Vec<Location> {
        let matches = |annotation: &&Annotation| self.verdict(annotation, path).is_ok();
        let found = self.policy.annotations.iter().filter(matches);
        found.map(|annotation| self.policy.sources.location(annotation.unit_span)).collect()
    }

    /// The annotations that name a unit that has no cgroup.
    pub fn of_absent(&self, name: &str) -> Vec<About> {
        let is_meant = |annotation: &Annotation| {
            let in_paths = |path: &CgroupPath| path.components().last() == Some(name);
            *annotation.unit.0 == *name
                || annotation
                    .selectors
                    .0
                    .iter()
                    .any(|selector| selector.to_string() == name || selector.which.to_string() == name)
                || annotation.statement.paths().any(in_paths)
        };
        let found = self.policy.iter().filter(|(_, annotation)| is_meant(annotation));
        found
            .map(|(_, annotation)| {
                let words = match annotation.statement.paths().next() {
                    Some(path) if self.cgroups.contains_key(path) => {
                        format!("{path} exists, but is no unit's")
                    }
                    Some(path) => format!("not running: {path} does not exist"),
                    None => format!("not running: no cgroup of {}", annotation.selectors),
                };
                self.told(annotation, Err(words), vec![])
            })
            .collect()
    }

    fn about(&self, id: AnnotationId, annotation: &Annotation, path: &CgroupPath) -> About {
        let verdict = self.verdict(annotation, path);
        let elements = if verdict.is_ok() { self.elements(id, path) } else { vec![] };
        self.told(annotation, verdict, elements)
    }

    fn told(&self, annotation: &Annotation, verdict: Verdict, elements: Vec<ShownElement>) -> About {
        let place = self.policy.sources.location(annotation.unit_span);
        let refused = self.refused.get(&place).map(|words| format!("refused: {words}"));
        let unreached = || annotation.rule().and_then(|rule| (self.unreached)(rule));
        About {
            unit: annotation.unit.to_string(),
            statement: self.statement(annotation),
            matches: verdict.is_ok(),
            words: verdict.unwrap_or_else(|words| words),
            trouble: refused.or_else(unreached),
            elements,
            place,
        }
    }

    /// What stands right of the `::`.
    fn statement(&self, annotation: &Annotation) -> String {
        let text = &self.policy.sources.file(annotation.span.file).text;
        let whole = text.get(annotation.unit_span.end..annotation.span.end).unwrap_or_default();
        let lines =
            whole.lines().map(|line| line.trim().trim_start_matches('#').trim_end_matches('\\').trim());
        let line = lines.collect::<Vec<_>>().join(" ");
        line.trim_start().trim_start_matches("::").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn verdict(&self, annotation: &Annotation, path: &CgroupPath) -> Verdict {
        match &annotation.statement {
            Statement::Element(element) => {
                let paths: Vec<&CgroupPath> = element.elements.iter().map(|(path, ..)| path).collect();
                self.named(&paths, path).map(|words| format!("{words}, for the set {}", element.set))
            }
            Statement::Rule(rule) => {
                let mut said = Vec::new();
                for part in &rule.body {
                    match part {
                        Part::Cgroup(cgroup) => said.push(self.cgroup(cgroup, path)?),
                        Part::Units(_) => said.push(self.units(annotation, path)?),
                        Part::Verbatim(_) | Part::Record(_) => {}
                    }
                }
                if said.is_empty() {
                    self.units(annotation, path)?;
                    return Ok("for every packet while the unit is active: it matches no cgroup".to_owned());
                }
                Ok(said.join(" and "))
            }
        }
    }

    /// A match by level and path.
    fn cgroup(&self, cgroup: &CgroupMatch, path: &CgroupPath) -> Verdict {
        let paths: Vec<&CgroupPath> = cgroup.paths.iter().map(|(path, _)| path).collect();
        let own = level(path);
        if let Some(wrong) = paths.iter().find(|one| level(one) != cgroup.level && path.is_within(one)) {
            return Err(format!(
                "level {} never matches {wrong}, which is at level {}",
                cgroup.level,
                level(wrong)
            ));
        }
        if cgroup.negated {
            return match paths.iter().find(|one| path.is_within(one)) {
                Some(one) => Err(format!("it is for all but {one}")),
                None if own < cgroup.level => {
                    Err(format!("a cgroup at level {own} has none at level {}", cgroup.level))
                }
                None => Ok(format!("by level {}, where it is another one", cgroup.level)),
            };
        }
        self.named(&paths, path).map(|words| format!("by level {}, {words}", cgroup.level))
    }

    /// Paths, of which one must be the cgroup or above it.
    fn named(&self, paths: &[&CgroupPath], path: &CgroupPath) -> Verdict {
        if let Some(above) = paths.iter().find(|above| path.is_within(above)) {
            return Ok(if *above == path {
                "its cgroup".to_owned()
            } else {
                format!("{above}, which it is in")
            });
        }
        let last = path.components().last();
        let named: Vec<&&CgroupPath> = paths.iter().filter(|one| one.components().last() == last).collect();
        match (named.first(), paths) {
            (Some(one), _) if self.cgroups.contains_key(**one) => {
                Err(format!("it names {one}, another cgroup of that name"))
            }
            (Some(one), _) => Err(format!("it names {one}, which does not exist")),
            (None, [one]) if one.is_within(path) => Err(format!("it names {one}, which is below")),
            (None, [one]) => Err(format!("it names {one}")),
            (None, _) => Err(format!("it names {} other cgroups", paths.len())),
        }
    }

    /// A match by what stands left of the `::`.
    fn units(&self, annotation: &Annotation, path: &CgroupPath) -> Verdict {
        let above = instances(path);
        let selectors = &annotation.selectors;
        if let Some(found) = above.iter().rev().find(|one| selectors.select(one, self.users)) {
            let is_own = found.path == *path;
            return Ok(if is_own {
                format!("as {}", found.unit)
            } else {
                format!("as it is in {}", found.unit)
            });
        }
        let by_name = selectors.0.iter().find_map(|selector| {
            let found = above.iter().rev().find(|one| selector.which.names(&one.unit))?;
            Some((selector, found))
        });
        match by_name {
            Some((selector, found)) => Err(self.others_manager(selector, found)),
            None => Err(format!("it is for {selectors}")),
        }
    }

    fn others_manager(&self, selector: &Selector, found: &Instance) -> String {
        let of = match &selector.whose {
            Whose::System => "units of the system's manager".to_owned(),
            Whose::AnyUser => "users' units".to_owned(),
            Whose::User(name) if !self.users.contains_key(name) => {
                format!("units of {name}, and there is no such user")
            }
            Whose::User(name) => format!("units of {name}"),
            Whose::Uid(uid) => format!("units of user {uid}"),
            Whose::Anybody => "any manager's units".to_owned(),
        };
        let own = match found.manager {
            Manager::System => "the system's".to_owned(),
            Manager::User(uid) => format!("of user {uid}"),
        };
        format!("it is for {of}, and this one is {own}")
    }

    /// The elements for a cgroup that annotation asks for.
    fn elements(&self, id: AnnotationId, path: &CgroupPath) -> Vec<ShownElement> {
        let above = instances(path);
        let of_patterns = self.dispatch.patterns.iter().filter(|pattern| pattern.annotations.contains(&id));
        let of_patterns = of_patterns.flat_map(|pattern| {
            let selected = above.iter().filter(|one| pattern.selectors.select(one, self.users));
            selected.flat_map(|one| pattern.rows(&one.path)).collect::<Vec<_>>()
        });
        let fixed = self.dispatch.rows.iter().filter(|row| row.annotations.contains(&id));
        let is_meant = |row: &Row| row.element.key.cgroup().is_none_or(|key| path.is_within(key));
        let rows = fixed.cloned().chain(of_patterns).filter(is_meant);
        rows.map(|row| self.element(&row)).collect()
    }

    fn element(&self, row: &Row) -> ShownElement {
        let element = &row.element;
        let id = element.key.cgroup().and_then(|path| self.cgroups.get(path)).copied();
        let in_kernel = match (self.elements.get(&element.set), id) {
            (Some(None), _) => Some(false),
            (Some(Some(held)), Some(id)) => Some(held.contains(&id)),
            // What is in a gate is no id of a cgroup.
            (Some(Some(_)) | None, _) => None,
        };
        let counted = element.key.cgroup().and_then(|path| (self.counted)(&element.set, path));
        ShownElement {
            set: element.set.to_string(),
            path: element.key.cgroup().map(ToString::to_string),
            id,
            verdict: element.data.as_ref().map(Data::to_string),
            in_kernel,
            packets: counted.map(|count| count.packets),
            bytes: counted.map(|count| count.bytes),
        }
    }

    /// The sets and maps that annotations about a cgroup have their elements in.
    pub fn sets(&self, path: &CgroupPath) -> BTreeSet<SetRef> {
        let above = instances(path);
        let is_near = |id: &AnnotationId| is_near(self.policy.annotation(*id), path, &above);
        let rows = self.dispatch.rows.iter().filter(|row| row.annotations.iter().any(is_near));
        let rows =
            rows.filter(|row| matches!(row.element.key, Key::Cgroup(_))).map(|row| row.element.set.clone());
        let patterns =
            self.dispatch.patterns.iter().filter(|pattern| pattern.annotations.iter().any(is_near));
        let targets = patterns.flat_map(|pattern| &pattern.targets).filter(|target| target.level.is_some());
        rows.chain(targets.map(|target| target.set.clone())).gather()
    }
}

/// Whether an annotation is worth a line: it names a cgroup that this one is in or below, or a unit of the same name.
fn is_near(annotation: &Annotation, path: &CgroupPath, above: &[Instance]) -> bool {
    let last = path.components().last();
    let is_named =
        |one: &CgroupPath| path.is_within(one) || one.is_within(path) || one.components().last() == last;
    let is_selected =
        |one: &Instance| annotation.selectors.0.iter().any(|selector| selector.which.names(&one.unit));
    annotation.statement.paths().any(is_named) || above.iter().any(is_selected)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::{
        dispatch::compile,
        policy::{files::Files, parse},
    };

    struct Text(&'static str);

    impl Files for Text {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.as_bytes().to_vec())
        }

        fn glob(&self, _: &str) -> Vec<PathBuf> {
            vec![]
        }
    }

    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    /// What is said of a cgroup that exists, beside `system.slice/b.service`; the sets hold its id.
    fn said(text: &'static str, path: &str) -> (Vec<String>, usize) {
        let policy = parse::read(&Text(text), &[Path::new("f")]).unwrap();
        let dispatch = compile(&policy, &BTreeSet::new(), &Default::default(), &Default::default());
        let path: CgroupPath = path.parse().unwrap();
        let cgroups = [
            (path.clone(), CgroupId(7)),
            ("system.slice/b.service".parse().unwrap(), CgroupId(8)),
            ("system.slice".parse().unwrap(), CgroupId(9)),
        ]
        .into();
        let sets = dispatch.rows.iter().map(|row| row.element.set.clone());
        let sets = sets
            .chain(dispatch.patterns.iter().flat_map(|one| &one.targets).map(|target| target.set.clone()));
        let elements = sets.map(|set| (set, Some([CgroupId(7)].into()))).collect();
        let judge = Judge {
            policy: &policy,
            dispatch: &dispatch,
            users: &Users::from([("alice".to_owned(), 1000)]),
            cgroups: &cgroups,
            elements: &elements,
            counted: &|_, _| None,
            refused: &BTreeMap::new(),
            unreached: &|_| None,
        };
        let (near, others) = judge.all(&path);
        let line = |one: About| {
            let elements: Vec<String> = one
                .elements
                .iter()
                .map(|element| {
                    format!(
                        " [{} {} {:?}]",
                        element.set,
                        element.verdict.clone().unwrap_or_default(),
                        element.in_kernel
                    )
                })
                .collect();
            format!(
                "{} {} {}{}",
                one.place.line,
                if one.matches { "yes" } else { "no" },
                one.words,
                elements.concat()
            )
        };
        (near.into_iter().map(line).collect(), others)
    }

    #[test]
    fn each_annotation_says_why() {
        const TEXT: &str = "\
# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" accept
# a.service :: add rule inet f c socket cgroupv2 level 1 \"system.slice\" drop
# a.service :: add rule inet f c socket cgroupv2 level 3 \"system.slice/a.service\" drop
# a.service :: add rule inet f c socket cgroupv2 level 2 \"other.slice/a.service\" tcp dport 1 accept
# b.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/b.service\" accept
# alice:a.service :: add rule inet f c socket cgroupv2 unit accept
# bob:a.service :: add rule inet f c socket cgroupv2 unit accept
# system:a.service :: add rule inet f c socket cgroupv2 unit accept
# a.service :: add rule inet f c tcp dport 2 accept
# a.service :: add element inet f s { \"system.slice/a.service\" }
# a.service :: add rule inet f c socket cgroupv2 level 2 != \"system.slice/a.service\" tcp dport 3 drop
";
        let (lines, others) = said(TEXT, "system.slice/a.service");
        assert_eq!(
            lines,
            [
                "1 yes by level 2, its cgroup [inet f scnpm.c.1 accept Some(true)]",
                "2 yes by level 1, system.slice, which it is in [inet f scnpm.c.2 drop Some(false)]",
                "3 no level 3 never matches system.slice/a.service, which is at level 2",
                "4 no it names other.slice/a.service, which does not exist",
                "6 no it is for units of alice, and this one is the system's",
                "7 no it is for units of bob, and there is no such user, and this one is the system's",
                "8 yes as a.service [inet f scnpm.c.7 accept Some(true)]",
                "9 yes for every packet while the unit is active: it matches no cgroup [inet f scnpm.c.8.active  None]",
                "10 yes its cgroup, for the set inet f s [inet f s  Some(true)]",
                "11 no it is for all but system.slice/a.service",
            ]
        );
        assert_eq!(others, 1);
    }

    #[test]
    fn users_units_are_told_apart() {
        const TEXT: &str = "\
# alice:app:firefox :: add rule inet f c socket cgroupv2 unit accept
# system:app:firefox :: add rule inet f c socket cgroupv2 unit accept
# alice:app:chromium :: add rule inet f c socket cgroupv2 unit accept
";
        let (lines, others) = said(TEXT, &format!("{USER}/app.slice/app-gnome-firefox-1.scope"));
        assert!(lines[0].starts_with("1 yes as app-gnome-firefox-1.scope ["), "{lines:?}");
        assert_eq!(lines[1], "2 no it is for units of the system's manager, and this one is of user 1000");
        assert_eq!((lines.len(), others), (2, 1));
    }
}
