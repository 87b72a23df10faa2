//! W011: rules and elements to which an earlier one of their chain leaves no packet.

use std::collections::{BTreeMap, BTreeSet};

use super::{calls::Calls, cgroups, order::is_boundary, subject::Subject};
use crate::{
    model::{AnnotationId, CgroupPath, ChainRef, Data, Instance, Manager, SetRef, UnitName},
    policy::{ElementStatement, Placement, Policy, Statement, words::only_matches},
    text::{Code, Diagnostic, Span, Token},
    units::{
        Selector, Units,
        selector::{Which, Whose, written_app_id},
    },
};

/// How many tokens an earlier rule's other matches may have: each prefix of a later rule's is looked up.
const LONGEST: usize = 48;

/// Each with what is to be said of it.
pub(super) fn shadowed(
    policy: &Policy,
    subjects: &[Subject<'_>],
    units: &Units,
    calls: Option<&Calls<'_>>,
    originals: &[AnnotationId],
) -> Vec<(AnnotationId, Diagnostic)> {
    let mut found = Vec::new();
    for groups in in_order(policy, subjects, units, calls).into_values() {
        let mut decided = Decided::new();
        for group in &groups {
            for place in group {
                let Some(earlier) = place.decider(&decided) else { continue };
                if originals[earlier.id.0] != originals[place.id.0] {
                    let location = policy.sources.location(policy.annotation(earlier.id).unit_span);
                    let message =
                        format!("never reached: the annotation at {location} decides these packets before");
                    let diagnostic = Diagnostic::new(Code::Shadowed, place.span, message)
                        .help("put the narrower rule first, or leave one of them out");
                    found.push((place.id, diagnostic));
                }
            }
            for place in group.iter().filter(|place| place.decides && place.conditions.len() <= LONGEST) {
                for cgroup in &place.cgroups {
                    let by_conditions = decided.entry(&cgroup.key).or_default();
                    by_conditions.entry(place.words()).or_insert(place);
                }
            }
        }
    }
    found
}

/// The first rule for a cgroup and the same other matches, by the cgroup's key.
type Decided<'p, 'a> = BTreeMap<&'p str, BTreeMap<Vec<&'p str>, &'p Place<'a>>>;

/// A rule or an element, where a packet comes to it.
struct Place<'a> {
    id: AnnotationId,
    span: Span,
    conditions: Vec<&'a Token>,
    /// Whether it decides all packets that it matches.
    decides: bool,
    cgroups: Vec<Cgroup>,
}

impl<'a> Place<'a> {
    /// Of a rule that matches cgroups once, and may match some.
    fn of_rule(subject: &Subject<'a>, units: &Units) -> Option<Self> {
        let (span, cgroups) = match (subject.only_match(), subject.annotation.units_match()) {
            // Those of another level match nothing.
            (Some(cgroup), None) => {
                let is_right =
                    |path: &CgroupPath| u32::try_from(path.components().count()) == Ok(cgroup.level);
                let of_path =
                    |(path, _): &(CgroupPath, Span)| is_right(path).then(|| Cgroup::of_path(path.as_str()));
                (cgroup.span, cgroup.paths.iter().map(of_path).collect::<Option<_>>()?)
            }
            (None, Some(span)) if subject.cgroups.is_empty() => {
                let selectors = subject.annotation.selectors.0.iter();
                (span, selectors.map(|selector| Cgroup::of_selector(selector, units)).collect())
            }
            _ => return None,
        };
        let conditions = subject.conditions.clone();
        Some(Self { id: subject.id, span, conditions, decides: decides(subject), cgroups })
    }

    fn words(&self) -> Vec<&str> {
        self.conditions.iter().map(|token| &*token.text).collect()
    }

    /// What decides all packets of this one before.
    fn decider<'p>(&self, decided: &Decided<'p, 'a>) -> Option<&'p Self> {
        let words = self.words();
        let lengths = (0..=words.len().min(LONGEST)).filter(|at| is_boundary(&self.conditions, *at));
        let prefixes: Vec<&[&str]> = lengths.map(|at| &words[..at]).collect();
        let by_conditions = self.cgroups.first()?.within.iter().filter_map(|key| decided.get(key.as_str()));
        by_conditions
            .flat_map(|known| prefixes.iter().filter_map(|prefix| known.get(*prefix).copied()))
            .find(|earlier| self.cgroups.iter().all(|cgroup| earlier.includes(cgroup)))
    }

    fn includes(&self, other: &Cgroup) -> bool {
        self.cgroups.iter().any(|cgroup| other.within.contains(&cgroup.key))
    }
}

/// Whether a rule decides all packets that its matches let in.
fn decides(subject: &Subject<'_>) -> bool {
    matches!(subject.verdict, Some(("accept" | "drop" | "reject" | "return" | "goto", _)))
        && only_matches(&subject.conditions)
}

/// A cgroup, or those of a selector.
struct Cgroup {
    /// The path, or the selector.
    key: String,
    /// The keys of all that includes it, itself among them.
    within: BTreeSet<String>,
}

impl Cgroup {
    fn of_path(path: &str) -> Self {
        let mut within = BTreeSet::new();
        for above in cgroups::with_ancestors(path) {
            within.insert(above.to_owned());
            let instance = above.parse().ok().and_then(|path| Instance::of(&path));
            within.extend(instance.into_iter().flat_map(|Instance { manager, unit, .. }| match manager {
                Manager::System => selectors("system:", &unit),
                Manager::User(uid) => {
                    [selectors(&format!("{uid}:"), &unit), selectors("user:", &unit)].concat()
                }
            }));
        }
        Self { key: path.to_owned(), within }
    }

    /// A unit of the system whose place is sure is in all that its path is in.
    fn of_selector(selector: &Selector, units: &Units) -> Self {
        let Selector { whose, which } = selector;
        let key = selector.to_string();
        let mut within = BTreeSet::from([key.clone()]);
        let is_users = !matches!(whose, Whose::System | Whose::Anybody);
        if is_users {
            within.insert(format!("{}{which}", Whose::AnyUser));
        }
        if let Which::Unit(unit) = which {
            within.extend(selectors(&whose.to_string(), unit));
            if is_users {
                within.extend(selectors(&Whose::AnyUser.to_string(), unit));
            } else if let Some((place, true)) = cgroups::place(unit, units) {
                within.extend(Self::of_path(&place).within);
            }
        }
        Self { key, within }
    }
}

/// The selectors that stand for a unit by its name, as they are written.
fn selectors(whose: &str, unit: &UnitName) -> Vec<String> {
    let app = written_app_id(&unit.0).map(|id| format!("{whose}app:{id}"));
    app.into_iter().chain([format!("{whose}{unit}")]).collect()
}

/// What packets come to in each chain, one after the other; the elements of a set at once.
fn in_order<'a>(
    policy: &'a Policy,
    subjects: &[Subject<'a>],
    units: &Units,
    calls: Option<&'a Calls<'_>>,
) -> BTreeMap<&'a ChainRef, Vec<Vec<Place<'a>>>> {
    let rule = |subject: &Subject<'a>| Some((&subject.rule.chain, vec![Place::of_rule(subject, units)?]));
    let placed = |placement: Placement| move |subject: &&Subject<'_>| subject.rule.placement == placement;
    let first = subjects.iter().rev().filter(placed(Placement::Beginning)).filter_map(rule);
    let last = subjects.iter().filter(placed(Placement::End)).filter_map(rule);
    // Without a ruleset no rule of the files is known.
    let between = calls.into_iter().flat_map(|calls| by_sets(policy, calls));
    let mut chains: BTreeMap<&ChainRef, Vec<Vec<Place<'_>>>> = BTreeMap::new();
    for (chain, group) in first.chain(between).chain(last) {
        chains.entry(chain).or_default().push(group);
    }
    chains
}

/// The elements by which rules of the files decide, in the order of these.
fn by_sets<'a>(policy: &'a Policy, calls: &'a Calls<'_>) -> Vec<(&'a ChainRef, Vec<Place<'a>>)> {
    let mut elements: BTreeMap<&SetRef, Vec<(AnnotationId, &ElementStatement)>> = BTreeMap::new();
    for (id, annotation) in policy.iter() {
        if let Statement::Element(statement) = &annotation.statement {
            elements.entry(&statement.set).or_default().push((id, statement));
        }
    }
    if elements.is_empty() {
        return Vec::new();
    }
    let group = |set: &SetRef| -> Vec<Place<'_>> {
        let statements = elements.get(set).into_iter().flatten();
        let all = statements
            .flat_map(|(id, statement)| statement.elements.iter().map(move |element| (*id, element)));
        all.map(|(id, (path, span, data))| Place {
            id,
            span: *span,
            conditions: Vec::new(),
            decides: !matches!(data, Some(Data::Jump(_) | Data::Continue | Data::Value(_))),
            cgroups: vec![Cgroup::of_path(path.as_str())],
        })
        .collect()
    };
    let chains = calls.ruleset.chains();
    let rules = chains.flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)));
    rules.filter_map(|(name, rule)| Some((name, group(rule.decides_by.as_ref()?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{file, jump, messages, ruleset, units, verdict, with_ruleset, with_units},
    };
    use serde_json::{Value, json};

    fn never(line: usize) -> String {
        format!("never reached: the annotation at 0.nft:{line} decides these packets before")
    }

    fn rule(selectors: &str, rest: &str) -> String {
        format!("# {selectors} :: add rule inet f c socket cgroupv2 unit {rest}\n")
    }

    fn by_path(path: &str, rest: &str) -> String {
        let level = path.split('/').count();
        format!("# x.service :: add rule inet f c socket cgroupv2 level {level} \"{path}\" {rest}\n")
    }

    #[test]
    fn selectors_leave_nothing_to_what_they_include() {
        let machine = units(&[("a.service", file(None))], &[]);
        let said = |text: String| messages(Code::Shadowed, &text, with_units(&machine));
        const USER: &str = "user.slice/user-1000.slice/user@1000.service/app.slice";
        let narrow = "tcp dport 25 drop";
        for (first, second) in [
            (rule("user:app:a", "accept"), rule("user:app:a", narrow)),
            (rule("user:app:a", "accept"), rule("alice:app:a", narrow)),
            (rule("user:app:a, user:app:b", "accept"), rule("1000:app:b, 1000:app:a", narrow)),
            (rule("user:app:a", "accept"), rule("user:app-a@autostart.service", narrow)),
            (rule("system:a.service", "accept"), by_path("system.slice/a.service", narrow)),
            (rule("system:system.slice", "accept"), by_path("system.slice/a.service", narrow)),
            (by_path("system.slice/a.service", "accept"), rule("system:a.service", narrow)),
            (by_path("system.slice", "accept"), rule("system:a.service", narrow)),
            (
                rule("user:app:a", "tcp dport 25 accept"),
                by_path(&format!("{USER}/app-a@autostart.service"), narrow),
            ),
            (rule("1000:app.slice", "accept"), by_path(&format!("{USER}/a.scope"), narrow)),
        ] {
            assert_eq!(said(format!("{first}{second}")), [never(1)], "{first}{second}");
        }
    }

    #[test]
    fn selectors_leave_something_to_others() {
        let said = |text: String| messages(Code::Shadowed, &text, Facts::default());
        let narrow = "tcp dport 25 drop";
        for (first, second) in [
            (rule("alice:app:a", "accept"), rule("user:app:a", narrow)),
            (rule("user:app:a", "accept"), rule("user:app:a, user:app:b", narrow)),
            (rule("user:app:a", "accept"), rule("system:app:a", narrow)),
            (rule("user:app:a", "tcp dport 26 accept"), rule("user:app:a", narrow)),
            (rule("user:app:a", "counter"), rule("user:app:a", narrow)),
            // Where the unit is cannot be told.
            (by_path("system.slice/a.service", "accept"), rule("system:a.service", narrow)),
        ] {
            assert_eq!(said(format!("{first}{second}")), [] as [&str; 0], "{first}{second}");
        }
    }

    fn by_set(set: &str, verdict: Value) -> Value {
        json!([
            {"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": format!("@{set}")}}, {"counter": null},
            verdict
        ])
    }

    #[test]
    fn elements_decide_before_added_rules_and_after_inserted_ones() {
        let ruleset = ruleset(&[(
            "c",
            Some(("output", "drop")),
            vec![by_set("s", verdict("accept")), by_set("t", verdict("drop"))],
        )]);
        let said = |lines: &[String]| messages(Code::Shadowed, &lines.concat(), with_ruleset(&ruleset));
        let element =
            |set: &str| format!("# a.service :: add element inet f {set} {{ \"system.slice/a.service\" }}\n");
        let added = by_path("system.slice/a.service", "tcp dport 25 drop");
        assert_eq!(said(&[element("s"), added.clone()]), [never(1)]);
        assert_eq!(said(&[added, element("s")]), [never(2)]);
        let inserted = by_path("system.slice/a.service", "accept").replace("add", "insert");
        assert_eq!(said(&[element("s"), inserted]), [never(2)]);
        assert_eq!(said(&[element("s"), element("t")]), [never(1)]);
        assert_eq!(said(&[element("s"), element("s").replace("# a", "# b")]), [] as [&str; 0]);
        assert_eq!(said(&[element("s"), by_path("system.slice/b.service", "accept")]), [] as [&str; 0]);
    }

    #[test]
    fn elements_of_maps_decide_by_their_verdict() {
        let by_map = json!([{"vmap": {"key": {"socket": {"key": "cgroupv2"}}, "data": "@m"}}]);
        let narrow =
            json!([{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}, by_map[0]]);
        let said = |rule: Value, data: &str| {
            let ruleset = ruleset(&[("c", Some(("output", "drop")), vec![rule]), ("x", None, vec![])]);
            let element =
                format!("# a.service :: add element inet f m {{ \"system.slice/a.service\" : {data} }}\n");
            let text = element + &by_path("system.slice/a.service", "accept");
            messages(Code::Shadowed, &text, with_ruleset(&ruleset)).len()
        };
        assert_eq!(
            ["accept", "goto x", "jump x", "continue"].map(|data| said(by_map.clone(), data)),
            [1, 1, 0, 0]
        );
        assert_eq!([narrow, json!([jump("x")])].map(|rule| said(rule, "accept")), [0, 0]);
    }
}
