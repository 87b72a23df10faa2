//! W007: rules that packets of established connections come to.
//!
//! A walk through each base chain in the order in which a packet goes, until something accepts established
//! connections: the chains met before that are exposed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ruleset::{Chain, Rule, Ruleset},
    subject::{Subject, Verdict},
};
use crate::{
    model::ChainRef,
    policy::{Code, Mistake, Placement, mistake::quoted},
};

/// How deep chains may call each other in the kernel (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;

/// How many base chains are walked through: more have been made to keep us busy.
const BASES: usize = 64;

/// One warning for each chain.
pub(super) fn lint(subjects: &[Subject<'_>], ruleset: &Ruleset) -> Vec<Mistake> {
    let hooked = |chain: &Chain| {
        chain
            .base
            .as_ref()
            .is_some_and(|base| base.is_filter && matches!(base.hook.as_str(), "input" | "output"))
    };
    let refusing = refusing(ruleset);
    let bases = ruleset.chains().filter(|(_, chain)| hooked(chain)).take(BASES);
    let walks: Vec<(&ChainRef, Walk<'_>)> =
        bases.map(|(name, _)| (name, Walk::through(ruleset, &refusing, name))).collect();
    let mut warned: BTreeSet<&ChainRef> = BTreeSet::new();
    let mut mistakes = Vec::new();
    for subject in subjects.iter().filter(|subject| is_concerned(subject)) {
        let chain = &subject.rule.chain;
        if warned.contains(chain) {
            continue;
        }
        let at_entry = subject.rule.placement == Placement::Beginning;
        if let Some((base, _)) = walks.iter().find(|(_, walk)| walk.is_exposed(chain, at_entry)) {
            warned.insert(chain);
            let base = quoted(&base.to_string());
            let message = format!("nothing in {base} accepts established connections before this rule");
            mistakes.push(Mistake::new(Code::NoEstablished, subject.rule.chain_span, message).help(format!(
                "write `ct state established,related accept` at the top of {base}: SYN-ACKs and other answers of \
                 the kernel belong to no cgroup"
            )));
        }
    }
    mistakes
}

fn is_concerned(subject: &Subject<'_>) -> bool {
    !subject.cgroups.is_empty() && subject.verdict.is_some_and(|(verdict, _)| Verdict::lets_through(verdict))
}

/// The chains in which, or in what they call, packets of established connections may be refused.
fn refusing(ruleset: &Ruleset) -> BTreeSet<ChainRef> {
    let mut callers: BTreeMap<ChainRef, Vec<&ChainRef>> = BTreeMap::new();
    let mut open: Vec<ChainRef> = Vec::new();
    for (name, chain) in ruleset.chains() {
        if chain.rules.iter().any(|rule| rule.refuses) {
            open.push(name.clone());
        }
        for target in chain.rules.iter().flat_map(|rule| &rule.calls) {
            callers.entry(beside(name, target)).or_default().push(name);
        }
    }
    let mut found = BTreeSet::new();
    while let Some(chain) = open.pop() {
        if !found.contains(&chain) {
            open.extend(callers.get(&chain).into_iter().flatten().copied().cloned());
            found.insert(chain);
        }
    }
    found
}

fn beside(chain: &ChainRef, name: &str) -> ChainRef {
    ChainRef { table: chain.table.clone(), name: name.to_owned() }
}

/// A walk through a base chain. Time is the number of rules met.
struct Walk<'a> {
    ruleset: &'a Ruleset,
    refusing: &'a BTreeSet<ChainRef>,
    time: usize,
    last_refusal: usize,
    /// When packets of established connections came to a chain first.
    entered: BTreeMap<ChainRef, usize>,
    /// When they came to its end.
    left: BTreeMap<ChainRef, usize>,
}

impl<'a> Walk<'a> {
    fn through(ruleset: &'a Ruleset, refusing: &'a BTreeSet<ChainRef>, base: &ChainRef) -> Self {
        let mut walk = Self {
            ruleset,
            refusing,
            time: 1,
            last_refusal: 0,
            entered: BTreeMap::new(),
            left: BTreeMap::new(),
        };
        walk.chain(base, 0);
        let refuses =
            ruleset.chain(base).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.refuses);
        if refuses {
            walk.last_refusal = usize::MAX;
        }
        walk
    }

    fn is_exposed(&self, chain: &ChainRef, at_entry: bool) -> bool {
        let times = if at_entry { &self.entered } else { &self.left };
        times.get(chain).is_some_and(|time| *time < self.last_refusal)
    }

    /// Walks through a chain; whether established connections are accepted in it.
    fn chain(&mut self, name: &ChainRef, depth: usize) -> bool {
        let Some(chain) = self.ruleset.chain(name) else { return false };
        self.entered.insert(name.clone(), self.time);
        let mut accepts = false;
        for rule in &chain.rules {
            self.time += 1;
            if rule.refuses {
                self.last_refusal = self.time;
            }
            accepts |= self.calls(name, rule, accepts, depth);
            accepts |= rule.accepts_established;
            if rule.decides.is_some() {
                break;
            }
        }
        self.time += 1;
        if !accepts {
            self.left.insert(name.clone(), self.time);
        }
        accepts
    }

    /// Walks through what a rule calls; whether that accepts all established connections.
    fn calls(&mut self, chain: &ChainRef, rule: &Rule, accepted: bool, depth: usize) -> bool {
        let mut accepts = false;
        for target in &rule.calls {
            let target = beside(chain, target);
            let is_new = !self.entered.contains_key(&target);
            if is_new && !accepted && !rule.accepts_established && depth < DEEPEST {
                accepts |= self.chain(&target, depth + 1);
            } else {
                accepts |= !is_new && !self.left.contains_key(&target);
                if self.refusing.contains(&target) {
                    self.time += 1;
                    self.last_refusal = self.time;
                }
            }
        }
        accepts && !rule.is_narrow
    }
}
