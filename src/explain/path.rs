//! A packet's way through the chains, from what the kernel traces.

use serde::Serialize;

use super::ruleset::Ruleset;
use crate::{
    dispatch::Dispatch,
    model::{AnnotationId, CgroupPath, ChainRef, Location, PREFIX},
    policy::Policy,
    units::selector::Users,
};

/// What is traced of a packet: one event (`NFT_MSG_TRACE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What all events of a packet in a direction have in common.
    pub id: u32,
    /// The chain.
    pub chain: ChainRef,
    /// The rule that matched, by its handle; none for a policy or the end of a chain.
    pub rule: Option<u64>,
    /// Whether it is the end of a base chain.
    pub is_policy: bool,
    /// What comes of it.
    pub verdict: Verdict,
}

/// A verdict (`enum nft_verdicts`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next base chain.
    Accept,
    /// The end.
    Drop,
    /// To a program.
    Queue,
    /// On to the next rule.
    Continue,
    /// Back to the calling chain.
    Return,
    /// To a chain and back.
    Jump(String),
    /// To a chain for good.
    Goto(String),
    /// Something else.
    Other(i32),
}

impl Verdict {
    /// In nft's words.
    fn words(&self) -> String {
        match self {
            Self::Accept => "accept".to_owned(),
            Self::Drop => "drop".to_owned(),
            Self::Queue => "queue".to_owned(),
            Self::Continue => "continue".to_owned(),
            Self::Return => "return".to_owned(),
            Self::Jump(chain) => format!("jump {chain}"),
            Self::Goto(chain) => format!("goto {chain}"),
            Self::Other(number) => format!("verdict {number}"),
        }
    }
}

/// A packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Path {
    /// How it was found: `trace`, or `reading`.
    pub found_by: &'static str,
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// What it went through, in order.
    pub steps: Vec<Step>,
    /// The number of the step that decides, from 0.
    pub decided_by: Option<usize>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// No rule and no policy refuses it.
    Passes,
    /// A rule or a policy refuses it.
    Refused,
    /// A program decides, or it cannot be told.
    Unknown,
}

/// A rule that matched, or a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The hook of the base chain.
    pub hook: String,
    /// The priority of the base chain.
    pub priority: i64,
    /// The chain.
    pub chain: String,
    /// How many chains called each other to come here.
    pub depth: usize,
    /// The rule as `nft list` has it; none for a policy.
    pub rule: Option<String>,
    /// Its handle.
    pub handle: Option<u64>,
    /// What comes of it: `accept`, `drop`, `reject`, `continue`, `jump CHAIN` and so on.
    pub verdict: String,
    /// Whether it cannot be told that the packet comes here and that the rule matches.
    pub maybe: bool,
    /// The annotations that it comes from.
    pub annotations: Vec<Location>,
}

/// What is needed to tell which annotations a rule comes from.
#[derive(Clone, Copy)]
pub struct Origins<'a> {
    /// The annotations.
    pub policy: &'a Policy,
    /// What they are loaded as.
    pub dispatch: &'a Dispatch,
    /// The users whom they name.
    pub users: &'a Users,
    /// The cgroup that the packet comes from.
    pub cgroup: &'a CgroupPath,
}

impl Path {
    /// From the events of one packet in the order in which they came, without those of the table `own`.
    pub fn of_events(events: &[Event], own: &str, ruleset: &Ruleset, origins: &Origins<'_>) -> Self {
        let mut steps = Vec::new();
        let mut calls: Vec<ChainRef> = Vec::new();
        let mut at = (String::new(), 0);
        for event in events.iter().filter(|event| *event.chain.table.name != *own) {
            if let Some(base) = ruleset.chain(&event.chain).and_then(|chain| chain.base.as_ref()) {
                at = (base.hook.clone(), base.priority);
                calls = vec![event.chain.clone()];
            } else if let Some(known) = calls.iter().rposition(|chain| *chain == event.chain) {
                calls.truncate(known + 1);
            } else {
                calls.push(event.chain.clone());
            }
            let depth = calls.len().saturating_sub(1);
            let Some(step) = step(event, depth, &at, ruleset, origins) else { continue };
            steps.push(step);
        }
        let deciding = |steps: &[Step], words: &[&str]| {
            steps.iter().rposition(|step| words.contains(&step.verdict.as_str()))
        };
        let (outcome, decided_by) = match deciding(&steps, &["drop", "reject"]) {
            Some(refusing) => (Outcome::Refused, Some(refusing)),
            None if deciding(&steps, &["queue"]).is_some() => {
                (Outcome::Unknown, deciding(&steps, &["queue"]))
            }
            None => {
                let by_rule = steps.iter().rposition(|step| step.verdict == "accept" && step.rule.is_some());
                (Outcome::Passes, by_rule.or(deciding(&steps, &["accept"])))
            }
        };
        Self { found_by: "trace", outcome, steps, decided_by }
    }

    /// The chain that a rule belongs into to come before the step that refuses: one that annotations are for and that was
    /// called before, or the chain of that step itself.
    pub fn place_for(&self, refusing: &Step, policy: &Policy) -> Place {
        let at = self.decided_by.unwrap_or_default();
        let before = self.steps[..at].iter().rev().take_while(|step| step.hook == refusing.hook);
        let called: Vec<String> = before
            .filter_map(|step| step.verdict.strip_prefix("jump ").map(|name| table_of(step, name)))
            .collect();
        let hosting =
            policy.annotations.iter().filter_map(|annotation| Some(annotation.rule()?.chain.to_string()));
        for name in hosting {
            if name == refusing.chain {
                return Place { name, is_first: refusing.rule.is_some() };
            }
            if refusing.depth == 0 && called.contains(&name) {
                return Place { name, is_first: false };
            }
        }
        Place { name: refusing.chain.clone(), is_first: refusing.rule.is_some() }
    }

    /// The step that decides.
    pub fn deciding(&self) -> Option<&Step> {
        self.steps.get(self.decided_by?)
    }
}

/// Where a rule is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The chain (`FAMILY TABLE NAME`).
    pub name: String,
    /// Whether it must be the first one.
    pub is_first: bool,
}

/// A chain of a step's table.
fn table_of(step: &Step, name: &str) -> String {
    let table = step.chain.rsplit_once(' ').map_or("", |(table, _)| table);
    format!("{table} {name}")
}

/// What an event tells; nothing if it is only the way back from a chain.
pub(super) fn step(
    event: &Event,
    depth: usize,
    at: &(String, i64),
    ruleset: &Ruleset,
    origins: &Origins<'_>,
) -> Option<Step> {
    let chain = ruleset.chain(&event.chain);
    let rule = event.rule.map(|handle| {
        let known = chain.and_then(|chain| chain.rules.iter().find(|rule| rule.handle == handle));
        known
            .map(|rule| rule.text.clone())
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| format!("handle {handle}"))
    });
    if rule.is_none() && !event.is_policy {
        return None;
    }
    let is_reject = event.verdict == Verdict::Drop && rule.as_deref().is_some_and(rejects);
    let verdict = if is_reject { "reject".to_owned() } else { event.verdict.words() };
    let annotations =
        event.rule.map_or(vec![], |handle| origins.of_rule(&event.chain, handle, rule.as_deref(), ruleset));
    Some(Step {
        hook: at.0.clone(),
        priority: at.1,
        chain: event.chain.to_string(),
        depth,
        rule,
        handle: event.rule,
        verdict,
        maybe: false,
        annotations,
    })
}

/// Whether a rule's text has the statement `reject`, outside of quotes.
fn rejects(text: &str) -> bool {
    text.split('"').step_by(2).any(|part| part.split_whitespace().any(|word| word == "reject"))
}

impl Origins<'_> {
    /// Where the annotations stand that a rule comes from: that is in a chain of ours, or looks something up in a set of ours.
    fn of_rule(&self, chain: &ChainRef, handle: u64, text: Option<&str>, ruleset: &Ruleset) -> Vec<Location> {
        let ids = if chain.name.starts_with(PREFIX) {
            let rules = ruleset.chain(chain).map_or(&[][..], |chain| &chain.rules[..]);
            let at = rules.iter().position(|rule| rule.handle == handle);
            at.map_or(vec![], |at| self.of_called(chain, at, rules.len()))
        } else {
            sets_of_ours(text.unwrap_or_default()).flat_map(|set| self.of_set(chain, set)).collect()
        };
        ids.into_iter().map(|id| self.policy.sources.location(self.policy.annotation(id).unit_span)).collect()
    }

    /// Those of the rule with this number in a chain of ours that has so many, as far as it is the chain that the annotations
    /// make.
    fn of_called(&self, chain: &ChainRef, at: usize, rules: usize) -> Vec<AnnotationId> {
        let begin = format!("add rule {chain} ");
        let lines = self.dispatch.script.lines.iter().filter(|line| line.to_string().starts_with(&begin));
        let lines: Vec<_> = lines.collect();
        if lines.len() == rules { lines[at].annotations.clone() } else { vec![] }
    }

    /// Those that have elements for the cgroup in a set of ours.
    fn of_set(&self, chain: &ChainRef, set: &str) -> Vec<AnnotationId> {
        let is_set = |name: &crate::model::SetRef| name.table == chain.table && *name.name == *set;
        let of_rows = self.dispatch.rows.iter().filter(|row| is_set(&row.element.set));
        let of_rows =
            of_rows.filter(|row| row.element.key.cgroup().is_none_or(|path| self.cgroup.is_within(path)));
        let above = super::annotations::instances(self.cgroup);
        let of_patterns = self.dispatch.patterns.iter().filter(|pattern| {
            pattern.targets.iter().any(|target| is_set(&target.set))
                && above.iter().any(|one| pattern.selectors.select(one, self.users))
        });
        let ids = of_rows
            .flat_map(|row| &row.annotations)
            .chain(of_patterns.flat_map(|pattern| &pattern.annotations));
        ids.copied().collect()
    }
}

fn sets_of_ours(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split_whitespace().filter_map(|word| word.strip_prefix('@'));
    words.filter(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::{
        super::ruleset::testing::{chain, ruleset},
        *,
    };

    fn rule(name: &str, handle: u64, verdict: Verdict) -> Event {
        Event { id: 1, chain: chain(name), rule: Some(handle), is_policy: false, verdict }
    }

    fn way(events: &[Event]) -> (Path, Vec<String>) {
        let (policy, dispatch) = (Policy::default(), Dispatch::default());
        let (users, cgroup) = (Users::new(), "system.slice/a.service".parse().unwrap());
        let origins = Origins { policy: &policy, dispatch: &dispatch, users: &users, cgroup: &cgroup };
        let path = Path::of_events(events, "scnpm.trace.1", &ruleset(), &origins);
        let line = |step: &Step| {
            format!(
                "{}{} {} -> {}",
                "  ".repeat(step.depth),
                step.chain,
                step.rule.as_deref().unwrap_or("policy"),
                step.verdict
            )
        };
        let lines = path.steps.iter().map(line).collect();
        (path, lines)
    }

    #[test]
    fn way_is_told_chain_by_chain() {
        let to = |name: &str| Verdict::Jump(name.to_owned());
        let end = Event { rule: None, ..rule("deep", 0, Verdict::Return) };
        let (path, lines) = way(&[
            rule("out", 15, to("svc")),
            rule("svc", 11, to("deep")),
            rule("deep", 6, Verdict::Continue),
            end,
            rule("out", 16, Verdict::Drop),
        ]);
        assert_eq!(
            lines,
            [
                "inet filter out jump svc -> jump svc",
                "  inet filter svc jump deep -> jump deep",
                "    inet filter deep log prefix \"a # handle 9\" -> continue",
                "inet filter out reject with icmpx admin-prohibited -> reject",
            ]
        );
        assert_eq!((path.outcome, path.decided_by), (Outcome::Refused, Some(3)));
        assert_eq!((path.steps[0].hook.as_str(), path.steps[0].priority), ("output", 0));
    }

    #[test]
    fn policy_and_accepting_rule_decide() {
        let policy = |verdict| Event { rule: None, is_policy: true, ..rule("out", 0, verdict) };
        assert_eq!(way(&[policy(Verdict::Drop)]).0.outcome, Outcome::Refused);
        let (path, lines) = way(&[rule("out", 14, Verdict::Accept)]);
        assert_eq!((path.outcome, path.decided_by), (Outcome::Passes, Some(0)));
        assert_eq!(
            lines,
            ["inet filter out socket cgroupv2 level 2 \"system.slice/a.service\" accept -> accept"]
        );
        assert_eq!(way(&[]).0.outcome, Outcome::Passes);
        assert_eq!(way(&[rule("out", 99, Verdict::Queue)]).0.outcome, Outcome::Unknown);
    }

    #[test]
    fn word_in_quotes_rejects_nothing() {
        assert!(rejects("tcp dport 25 reject"));
        assert!(!rejects("log prefix \"a reject \" drop"));
    }
}
