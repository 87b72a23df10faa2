//! Which hooks call a chain: the ruleset's own calls, and those of annotations.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ruleset::{Chain, Rule, Ruleset, chain_of},
    subject::Subject,
};
use crate::{
    gather::Gather,
    model::{ChainRef, Data, SetRef, TableRef},
    policy::{Policy, Statement},
    text::TokenKind,
};

/// The hooks in which a socket's cgroup can be matched.
pub(super) const WITH_CGROUPS: [&str; 3] = ["prerouting", "input", "output"];

/// Hooks by the chains that they call.
type Hooks<'a> = BTreeMap<&'a ChainRef, BTreeSet<&'a str>>;

/// What calls what in a ruleset.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    pub(super) ruleset: &'a Ruleset,
    hooks: Hooks<'a>,
    /// The hooks again, without the calls that no packet comes to.
    live: Hooks<'a>,
    /// The calling chains of the ruleset, and which of their rules call.
    callers: BTreeMap<&'a ChainRef, Vec<(&'a ChainRef, usize)>>,
    /// The rules that look something up in a set or map.
    lookups: BTreeMap<SetRef, Vec<Lookup>>,
}

/// A rule that looks something up in a set or map.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    /// Its chain.
    pub(super) chain: ChainRef,
    /// Its number in the chain; none for an annotated rule.
    at: Option<usize>,
}

impl<'a> Calls<'a> {
    pub(super) fn of(ruleset: &'a Ruleset, policy: &Policy, subjects: &[Subject<'_>]) -> Self {
        let mut callers: BTreeMap<&ChainRef, Vec<(&ChainRef, usize)>> = BTreeMap::new();
        let mut lookups: BTreeMap<SetRef, Vec<Lookup>> = BTreeMap::new();
        for (name, chain) in ruleset.chains() {
            for (at, rule) in chain.rules.iter().enumerate() {
                for target in &rule.calls {
                    callers.entry(target).or_default().push((name, at));
                }
                for set in &rule.sets {
                    let lookup = Lookup { chain: name.clone(), at: Some(at) };
                    lookups.entry(set.clone()).or_default().push(lookup);
                }
            }
        }
        for Subject { rule, tokens, .. } in subjects {
            for token in tokens.iter().filter(|token| token.kind == TokenKind::SetReference) {
                let set = set_of(&rule.chain.table, &token.text);
                lookups.entry(set).or_default().push(Lookup { chain: rule.chain.clone(), at: None });
            }
        }
        let added = Added { by_rules: by_rules(ruleset, subjects), by_elements: by_elements(policy) };
        let reached = |chain: &Chain| chain.end().map_or(chain.rules.len(), |(at, _)| at + 1);
        Self {
            ruleset,
            hooks: added.hooks(ruleset, |chain| chain.rules.len()),
            live: added.hooks(ruleset, reached),
            callers,
            lookups,
        }
    }

    /// The rules that look something up in a set or map.
    pub(super) fn lookups(&self, set: &SetRef) -> &[Lookup] {
        self.lookups.get(set).map_or(&[], Vec::as_slice)
    }

    /// The verdict on every packet that comes before a rule in its chain.
    pub(super) fn decided_before(&self, lookup: &Lookup) -> Option<&'static str> {
        let (end, verdict) = self.ruleset.chain(&lookup.chain)?.end()?;
        lookup.at.is_none_or(|at| end < at).then_some(verdict)
    }

    /// The hooks that call a chain; `None` if the ruleset does not have it.
    pub(super) fn hooks(&self, chain: &ChainRef) -> Option<&BTreeSet<&'a str>> {
        self.hooks.get(chain)
    }

    /// The ruleset's calls of a chain: the calling chain, and the number of its rule.
    pub(super) fn callers(&self, chain: &ChainRef) -> impl Iterator<Item = (&'a ChainRef, usize)> {
        self.callers.get(chain).into_iter().flatten().copied()
    }

    /// The call of a chain that comes too late, if all do: the calling chain, and the verdict in front of the call.
    pub(super) fn too_late(&self, chain: &ChainRef) -> Option<(&'a ChainRef, &'static str)> {
        let mut seen = BTreeSet::new();
        let mut open = vec![chain];
        while let Some(chain) = open.pop() {
            if self.live.get(chain).is_some_and(|hooks| !hooks.is_empty()) {
                return None;
            }
            for (caller, at) in self.callers(chain) {
                match self.ruleset.chain(caller).and_then(Chain::end) {
                    Some((end, verdict)) if end < at => return Some((caller, verdict)),
                    _ if seen.insert(caller) => open.push(caller),
                    _ => {}
                }
            }
        }
        None
    }
}

/// The calls that annotations add.
struct Added<'a> {
    /// Those of annotated rules, by their chain.
    by_rules: BTreeMap<&'a ChainRef, Rule>,
    /// Those of elements, by their map.
    by_elements: BTreeMap<&'a SetRef, BTreeSet<ChainRef>>,
}

impl Added<'_> {
    /// The hooks of all chains, by so many of each chain's rules.
    fn hooks<'a>(&self, ruleset: &'a Ruleset, reached: impl Fn(&Chain) -> usize) -> Hooks<'a> {
        let mut hooks: Hooks<'_> = ruleset.chains().map(|(name, _)| (name, BTreeSet::new())).gather();
        let bases = ruleset.chains().filter_map(|(name, chain)| Some((name, &*chain.base.as_ref()?.hook)));
        let mut open: Vec<(&ChainRef, &str)> = bases.collect();
        let mut opened = BTreeSet::new();
        while let Some((name, hook)) = open.pop() {
            let (Some(chain), Some(hooks)) = (ruleset.chain(name), hooks.get_mut(name)) else { continue };
            if !hooks.insert(hook) {
                continue;
            }
            for rule in chain.rules[..reached(chain)].iter().chain(self.by_rules.get(name)) {
                let fed = rule.sets.iter().filter_map(|map| self.by_elements.get(map)).flatten();
                open.extend(rule.calls.iter().chain(fed).map(|target| (target, hook)));
                if rule.calls_any && opened.insert((&name.table, hook)) {
                    let all = ruleset.chains().filter(|(chain, _)| chain.table == name.table);
                    open.extend(all.map(|(chain, _)| (chain, hook)));
                }
            }
        }
        hooks
    }
}

fn by_rules<'a>(ruleset: &Ruleset, subjects: &[Subject<'a>]) -> BTreeMap<&'a ChainRef, Rule> {
    let mut added: BTreeMap<&ChainRef, Rule> = BTreeMap::new();
    for Subject { rule, tokens, .. } in subjects {
        let table = &rule.chain.table;
        for (word, target) in tokens.iter().zip(tokens.iter().skip(1)) {
            let is_call = word.is("jump") || word.is("goto");
            if !is_call && !word.is("vmap") {
                continue;
            }
            let added = added.entry(&rule.chain).or_default();
            match target.kind {
                TokenKind::Variable => added.calls_any = true,
                TokenKind::SetReference => {
                    let map = set_of(table, &target.text);
                    added.sets.insert(map.clone());
                    match ruleset.map(&map) {
                        Some(verdicts) => added.calls.extend(verdicts.calls.iter().cloned()),
                        None => added.calls_any = true,
                    }
                }
                TokenKind::Word if is_call => drop(added.calls.insert(chain_of(table, &target.text))),
                _ => {}
            }
        }
    }
    added
}

fn by_elements(policy: &Policy) -> BTreeMap<&SetRef, BTreeSet<ChainRef>> {
    let mut added: BTreeMap<&SetRef, BTreeSet<ChainRef>> = BTreeMap::new();
    for annotation in &policy.annotations {
        let Statement::Element(statement) = &annotation.statement else { continue };
        for (_, _, data) in &statement.elements {
            if let Some(Data::Jump(chain) | Data::Goto(chain)) = data {
                added.entry(&statement.set).or_default().insert(chain_of(&statement.set.table, chain));
            }
        }
    }
    added
}

/// A set of a table by what refers to it, with its `@`.
pub(super) fn set_of(table: &TableRef, reference: &str) -> SetRef {
    SetRef { table: table.clone(), name: reference.trim_start_matches('@').into() }
}
