//! A packet's way through the chains, as the rules read. What cannot be told from their text is "maybe".
//!
//! Here are chains, rules and verdicts; [`expressions`] has the values that rules compare.

mod expressions;
#[cfg(test)]
mod testing;

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::{
    path::{Event, Origins, Outcome, Path, Step, Verdict, step},
    ruleset::{Base, Rule, Ruleset, chain_of},
    subject::Protocol,
};
use crate::model::{CgroupId, CgroupPath, ChainRef, Family};
use expressions::{Fact, Told};

/// How deep chains may call each other (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// What is known of the packet.
#[derive(Debug, Clone)]
pub struct Sent<'a> {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it goes.
    pub to: SocketAddr,
    /// Whether that is this machine.
    pub is_local: bool,
    /// The cgroup that it comes from.
    pub cgroup: &'a CgroupPath,
    /// The ids of that and those above it, from level 1.
    pub ids: Vec<CgroupId>,
    /// The number of the user who sends it, and of the user's group.
    pub user: Option<(u32, u32)>,
}

/// The way that the packet goes, as the rules read.
pub fn read(sent: &Sent<'_>, ruleset: &Ruleset, origins: &Origins<'_>) -> Path {
    let hooks: &[&str] = if sent.is_local {
        &["output", "postrouting", "prerouting", "input"]
    } else {
        &["output", "postrouting"]
    };
    let mut reader = Reader {
        sent,
        ruleset,
        origins,
        steps: vec![],
        is_certain: true,
        is_changed: false,
        is_tracked: true,
    };
    let mut outcome = Outcome::Passes;
    for hook in hooks {
        for (name, base) in ruleset.of_hook(hook).filter(|(name, _)| is_for(name.table.family, sent.to.ip()))
        {
            let Some(base) = base.base.as_ref() else { continue };
            let ends = reader.base(name, base);
            if !ends.accepts && !ends.queues {
                return reader.path(Outcome::Refused);
            }
            if ends.drops || ends.queues {
                outcome = Outcome::Unknown;
            }
        }
    }
    if ruleset.unread.is_empty() { reader.path(outcome) } else { reader.path(Outcome::Unknown) }
}

/// Whether chains of a family see packets to an address.
fn is_for(family: Family, to: IpAddr) -> bool {
    match family {
        Family::Inet => true,
        Family::Ip => to.is_ipv4(),
        Family::Ip6 => to.is_ipv6(),
        _ => false,
    }
}

/// What may become of a packet in a chain.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    accepts: bool,
    drops: bool,
    queues: bool,
    /// It comes to the end of the chain, or returns.
    returns: bool,
}

impl Ends {
    fn add(&mut self, other: Self) {
        self.accepts |= other.accepts;
        self.drops |= other.drops;
        self.queues |= other.queues;
        self.returns |= other.returns;
    }

    fn is_final(self) -> bool {
        self.accepts || self.drops || self.queues
    }
}

/// Goes through the chains.
struct Reader<'a> {
    sent: &'a Sent<'a>,
    ruleset: &'a Ruleset,
    origins: &'a Origins<'a>,
    steps: Vec<Step>,
    /// Whether the packet comes here for certain.
    is_certain: bool,
    /// Whether a rule may have given it another destination.
    is_changed: bool,
    /// Whether its connection is tracked.
    is_tracked: bool,
}

impl Reader<'_> {
    fn path(self, outcome: Outcome) -> Path {
        let is_refusal = |step: &Step| matches!(step.verdict.as_str(), "drop" | "reject");
        let is_accepting = |step: &Step| step.verdict == "accept";
        let decided_by = match outcome {
            Outcome::Refused => self.steps.iter().rposition(is_refusal),
            Outcome::Unknown => {
                self.steps.iter().position(|step| is_refusal(step) || step.verdict == "queue")
            }
            Outcome::Passes => {
                let by_rule = self.steps.iter().rposition(|step| is_accepting(step) && step.rule.is_some());
                by_rule.or_else(|| self.steps.iter().rposition(is_accepting))
            }
        };
        Path { found_by: "reading", outcome, steps: self.steps, decided_by }
    }

    /// A base chain: its policy is for what comes to its end.
    fn base(&mut self, name: &ChainRef, base: &Base) -> Ends {
        let came_certainly = self.is_certain;
        let mut ends = self.chain(name, base, 0);
        if ends.returns {
            let verdict = if base.refuses { Verdict::Drop } else { Verdict::Accept };
            let is_maybe = !self.is_certain;
            self.step(name, None, verdict, base, 0, is_maybe);
            ends.drops |= base.refuses;
            ends.accepts |= !base.refuses;
        }
        self.is_certain = came_certainly && !ends.drops && !ends.queues;
        ends
    }

    fn chain(&mut self, name: &ChainRef, base: &Base, depth: usize) -> Ends {
        let mut ends = Ends::default();
        let Some(chain) = self.ruleset.chain(name).filter(|_| depth <= DEEPEST) else {
            return Ends { returns: true, ..ends };
        };
        let came_certainly = self.is_certain;
        for rule in &chain.rules {
            for (told, verdict) in self.rule(name, rule, base) {
                let is_certain = self.is_certain && told == Told::Yes;
                self.step(name, Some(rule), verdict.clone(), base, depth, !is_certain);
                let inner = match &verdict {
                    Verdict::Continue => continue,
                    Verdict::Accept => Ends { accepts: true, ..Ends::default() },
                    Verdict::Drop => Ends { drops: true, ..Ends::default() },
                    // Nobody knows either what comes of the elements of a map that could not be read.
                    Verdict::Queue | Verdict::Other(_) => Ends { queues: true, ..Ends::default() },
                    Verdict::Return => Ends { returns: true, ..Ends::default() },
                    Verdict::Jump(target) | Verdict::Goto(target) => {
                        let before = std::mem::replace(&mut self.is_certain, is_certain);
                        let inner = self.chain(&chain_of(&name.table, target), base, depth + 1);
                        self.is_certain = before;
                        inner
                    }
                };
                let comes_back = matches!(verdict, Verdict::Jump(_)) && inner.returns;
                ends.add(Ends { returns: inner.returns && !comes_back, ..inner });
                if told == Told::Yes && !comes_back {
                    // What calls this chain goes on for certain only if it surely comes back.
                    self.is_certain = came_certainly;
                    return ends;
                }
                self.is_certain &= !(inner.is_final() || (inner.returns && !comes_back));
            }
        }
        self.is_certain = came_certainly && !ends.is_final();
        ends.returns = true;
        ends
    }

    fn step(
        &mut self,
        chain: &ChainRef,
        rule: Option<&Rule>,
        verdict: Verdict,
        base: &Base,
        depth: usize,
        maybe: bool,
    ) {
        let event = Event {
            id: 0,
            chain: chain.clone(),
            rule: rule.map(|rule| rule.handle),
            is_policy: rule.is_none(),
            verdict,
        };
        let at = (base.hook.clone(), base.priority);
        if let Some(step) = step(&event, depth, &at, self.ruleset, self.origins) {
            self.steps.push(Step { maybe, ..step });
        }
    }

    /// The verdicts that a rule may have for the packet: a certain one is the only one.
    fn rule(&mut self, chain: &ChainRef, rule: &Rule, base: &Base) -> Vec<(Told, Verdict)> {
        let mut levels = levels(&rule.text).into_iter();
        let mut told = Told::Yes;
        for statement in &rule.statements {
            let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
                told = told.min(Told::Maybe);
                continue;
            };
            let verdicts = match kind.as_str() {
                "match" => {
                    told = told.min(self.matches(chain, value, base, &mut levels));
                    vec![]
                }
                "vmap" => {
                    let found = self.looked_up(chain, value, base, &mut levels).into_iter();
                    return found.map(|(each, verdict)| (each.min(told), verdict)).collect();
                }
                "counter" | "log" | "comment" | "last" | "dup" | "flow" | "ct helper" | "ct timeout"
                | "ct expectation" | "secmark" | "map" => vec![],
                "notrack" => {
                    self.is_tracked = false;
                    vec![]
                }
                "mangle" => {
                    self.is_changed |= !value["key"]["payload"].is_null();
                    vec![]
                }
                "set" if value["stmt"].is_null() => vec![],
                "dnat" | "redirect" | "tproxy" => {
                    self.is_changed = true;
                    vec![(told, Verdict::Accept)]
                }
                "snat" | "masquerade" => vec![(told, Verdict::Accept)],
                _ => match verdict(statement) {
                    Some(verdict) => vec![(told, verdict)],
                    None => {
                        told = told.min(Told::Maybe);
                        vec![]
                    }
                },
            };
            if told == Told::No {
                return vec![];
            }
            if !verdicts.is_empty() {
                return verdicts;
            }
        }
        vec![(told, Verdict::Continue)]
    }

    /// The verdicts of a map that may be for the packet.
    fn looked_up(
        &self,
        chain: &ChainRef,
        value: &Value,
        base: &Base,
        levels: &mut dyn Iterator<Item = u32>,
    ) -> Vec<(Told, Verdict)> {
        let facts = self.facts(&value["key"], base, levels);
        if facts.contains(&Fact::None) {
            return vec![];
        }
        let Some(elements) = self.elements(chain, &value["data"]) else {
            return vec![(Told::Maybe, Verdict::Other(0))];
        };
        let mut found = Vec::new();
        for element in elements {
            let told = self.is_one_of(chain, &facts, &element[0]);
            let verdict = verdict(&element[1]).unwrap_or(Verdict::Other(0));
            match told {
                Told::Yes => return vec![(told, verdict)],
                Told::Maybe => found.push((told, verdict)),
                Told::No => {}
            }
        }
        found
    }
}

/// A statement that is a verdict.
fn verdict(statement: &Value) -> Option<Verdict> {
    let (kind, value) = statement.as_object()?.iter().next()?;
    let target = || Some(value["target"].as_str()?.to_owned());
    Some(match kind.as_str() {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "queue" => Verdict::Queue,
        "continue" => Verdict::Continue,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()?),
        "goto" => Verdict::Goto(target()?),
        _ => return None,
    })
}

/// The levels of the matches of cgroups in a rule, in order, which JSON does not have.
fn levels(text: &str) -> Vec<u32> {
    let words: Vec<&str> = text.split('"').step_by(2).flat_map(str::split_whitespace).collect();
    let found = words.windows(4).filter_map(|window| match window {
        ["socket", "cgroupv2", "level", level] => level.parse().ok(),
        _ => None,
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::explain::{
        Outcome,
        reading::testing::{equal, payload, reads},
        subject::Protocol,
    };

    #[test]
    fn way_is_that_of_the_trace() {
        let map = json!({"vmap": {"key": payload("tcp", "dport"), "data": {"set": [[22, {"accept": null}], [25, {"jump": {"target": "called"}}]]}}});
        let rules = [
            ("counter", json!([{"counter": {"packets": 1, "bytes": 2}}])),
            ("vmap", json!([map])),
            ("reject", json!([{"reject": null}])),
            ("late", json!([{"accept": null}])),
        ];
        assert_eq!(
            reads(&rules, "10.1.2.3:25", Protocol::Tcp),
            (
                Outcome::Refused,
                [
                    "counter -> continue",
                    "vmap -> jump called",
                    "return -> return",
                    "reject -> reject",
                    "by 3"
                ]
                .map(str::to_owned)
                .to_vec()
            )
        );
        assert_eq!(reads(&rules, "10.1.2.3:22", Protocol::Tcp).0, Outcome::Passes);
        assert_eq!(
            reads(&[], "10.1.2.3:25", Protocol::Udp),
            (Outcome::Refused, vec!["policy -> drop".to_owned(), "by 0".to_owned()])
        );
    }

    #[test]
    fn what_may_be_is_unknown_unless_all_comes_to_the_same() {
        let marked = |verdict: &str| {
            let statements = json!([equal(json!({"meta": {"key": "mark"}}), json!(1)), {verdict: null}]);
            ("mark", statements)
        };
        let accept = ("accept", json!([{"accept": null}]));
        let to = "10.1.2.3:25";
        let read = |rules: &[(&str, Value)]| reads(rules, to, Protocol::Tcp);
        assert_eq!(read(&[marked("drop")]).0, Outcome::Refused);
        assert_eq!(read(&[marked("accept"), accept.clone()]).0, Outcome::Passes);
        let (outcome, lines) = read(&[marked("drop"), accept.clone()]);
        assert_eq!(outcome, Outcome::Unknown);
        assert_eq!(lines, ["mark -> maybe drop", "accept -> maybe accept", "by 0"]);
        assert_eq!(read(&[marked("return"), accept.clone()]).0, Outcome::Unknown);
        let map = json!([{"vmap": {"key": payload("tcp", "dport"), "data": "@unknown"}}]);
        assert_eq!(read(&[("map", map), accept.clone()]).0, Outcome::Unknown);
        assert_eq!(read(&[("queue", json!([{"queue": {}}])), accept]).0, Outcome::Unknown);
    }
}
