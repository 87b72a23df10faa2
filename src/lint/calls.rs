//! Which hooks call a chain: the ruleset's own calls, and those of annotations.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ruleset::{Chain, Rule, Ruleset},
    subject::Subject,
};
use crate::{
    model::{ChainRef, Data, SetRef, TableRef},
    policy::{Policy, Statement},
    text::TokenKind,
};

/// The hooks in which a socket's cgroup can be matched.
pub(super) const WITH_CGROUPS: [&str; 3] = ["prerouting", "input", "output"];

/// What calls what in a ruleset.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    pub(super) ruleset: &'a Ruleset,
    /// What annotations call, by their chain.
    annotated: BTreeMap<&'a ChainRef, Called<'a>>,
    /// What annotations put into maps of verdicts.
    fed: BTreeMap<&'a SetRef, BTreeSet<&'a str>>,
    hooks: BTreeMap<ChainRef, BTreeSet<&'a str>>,
    live: BTreeSet<ChainRef>,
    callers: BTreeMap<ChainRef, Vec<(&'a ChainRef, usize)>>,
}

/// The chains that something calls.
#[derive(Debug, Default)]
struct Called<'a> {
    names: BTreeSet<&'a str>,
    any: bool,
}

impl<'a> Calls<'a> {
    pub(super) fn of(ruleset: &'a Ruleset, policy: &'a Policy, subjects: &[Subject<'a>]) -> Self {
        let mut calls = Self {
            ruleset,
            annotated: annotated(ruleset, subjects),
            fed: fed(policy),
            hooks: BTreeMap::new(),
            live: BTreeSet::new(),
            callers: BTreeMap::new(),
        };
        calls.find_hooks();
        calls.find_live();
        calls.find_callers();
        calls
    }

    /// The hooks that call a chain; `None` if the ruleset does not have it.
    pub(super) fn hooks(&self, chain: &ChainRef) -> Option<&BTreeSet<&'a str>> {
        self.hooks.get(chain)
    }

    /// The call of a chain that comes too late, if all do: the calling chain, and the verdict in front of the call.
    pub(super) fn too_late(&self, chain: &ChainRef) -> Option<(&'a ChainRef, &'static str)> {
        let mut seen = BTreeSet::new();
        let mut open = vec![chain];
        while let Some(chain) = open.pop() {
            if self.live.contains(chain) {
                return None;
            }
            for &(caller, at) in self.callers.get(chain).into_iter().flatten() {
                match self.ruleset.chain(caller).and_then(Chain::end) {
                    Some((end, verdict)) if end < at => return Some((caller, verdict)),
                    _ if seen.insert(caller) => open.push(caller),
                    _ => {}
                }
            }
        }
        None
    }

    fn find_hooks(&mut self) {
        let mut hooks: BTreeMap<ChainRef, BTreeSet<&'a str>> = BTreeMap::new();
        let mut open: Vec<(&ChainRef, &'a str)> = Vec::new();
        for (name, chain) in self.ruleset.chains() {
            let hook = chain.base.as_ref().map(|base| base.hook.as_str());
            hooks.insert(name.clone(), hook.into_iter().collect());
            open.extend(hook.map(|hook| (name, hook)));
        }
        let mut opened: BTreeSet<(&TableRef, &str)> = BTreeSet::new();
        while let Some((name, hook)) = open.pop() {
            let Some(chain) = self.ruleset.chain(name) else { continue };
            let called = self.called(name, &chain.rules);
            for target in self.targets(name, &called, opened.contains(&(&name.table, hook))) {
                if hooks.get_mut(target).is_some_and(|hooks| hooks.insert(hook)) {
                    open.push((target, hook));
                }
            }
            if called.any {
                opened.insert((&name.table, hook));
            }
        }
        self.hooks = hooks;
    }

    /// The chains that are called by a rule that packets come to.
    fn find_live(&mut self) {
        let bases = self.ruleset.chains().filter(|(_, chain)| chain.base.is_some());
        let mut open: Vec<&ChainRef> = bases.map(|(name, _)| name).collect();
        let mut live: BTreeSet<ChainRef> = open.iter().copied().cloned().collect();
        let mut opened: BTreeSet<&TableRef> = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some(chain) = self.ruleset.chain(name) else { continue };
            let reached = chain.end().map_or(chain.rules.len(), |(at, _)| at + 1);
            let called = self.called(name, &chain.rules[..reached]);
            for target in self.targets(name, &called, opened.contains(&name.table)) {
                if !live.contains(target) {
                    live.insert(target.clone());
                    open.push(target);
                }
            }
            if called.any {
                opened.insert(&name.table);
            }
        }
        self.live = live;
    }

    fn find_callers(&mut self) {
        for (name, chain) in self.ruleset.chains() {
            for (at, rule) in chain.rules.iter().enumerate() {
                for target in &rule.calls {
                    let target = ChainRef { table: name.table.clone(), name: target.clone().into() };
                    self.callers.entry(target).or_default().push((name, at));
                }
            }
        }
    }

    /// What some rules of a chain call, and the annotations for it.
    fn called(&self, name: &'a ChainRef, rules: &'a [Rule]) -> Called<'a> {
        let mut called = Called::default();
        for rule in rules {
            called.any |= rule.calls_any;
            called.names.extend(rule.calls.iter().map(String::as_str));
            for map in &rule.maps {
                let map = SetRef { table: name.table.clone(), name: map.clone().into() };
                called.names.extend(self.fed.get(&map).into_iter().flatten());
            }
        }
        if let Some(annotated) = self.annotated.get(name) {
            called.any |= annotated.any;
            called.names.extend(&annotated.names);
        }
        called
    }

    /// The chains of the ruleset among them; not once more all of a table.
    fn targets(&self, name: &ChainRef, called: &Called<'a>, is_opened: bool) -> Vec<&'a ChainRef> {
        if called.any && !is_opened {
            let all = self.ruleset.chains().map(|(chain, _)| chain);
            return all.filter(|chain| chain.table == name.table).collect();
        }
        let named = |target: &&str| {
            let target = ChainRef { table: name.table.clone(), name: (*target).into() };
            self.ruleset.name(&target)
        };
        called.names.iter().filter_map(named).collect()
    }
}

fn annotated<'a>(ruleset: &'a Ruleset, subjects: &[Subject<'a>]) -> BTreeMap<&'a ChainRef, Called<'a>> {
    let mut annotated: BTreeMap<&ChainRef, Called<'_>> = BTreeMap::new();
    for subject in subjects {
        let chain = &subject.rule.chain;
        for pair in subject.tokens.windows(2) {
            let [word, target] = pair else { continue };
            let is_call = word.is("jump") || word.is("goto");
            if !is_call && !word.is("vmap") {
                continue;
            }
            let called = annotated.entry(chain).or_default();
            match target.kind {
                TokenKind::Variable => called.any = true,
                TokenKind::SetReference => {
                    let name = target.text.trim_start_matches('@').to_owned();
                    let map = ruleset.map(&SetRef { table: chain.table.clone(), name: name.into() });
                    match map.and_then(|map| map.calls.as_ref()) {
                        Some(calls) => called.names.extend(calls.iter().map(String::as_str)),
                        None => called.any = true,
                    }
                }
                TokenKind::Word if is_call => drop(called.names.insert(&target.text)),
                _ => {}
            }
        }
    }
    annotated
}

fn fed(policy: &Policy) -> BTreeMap<&SetRef, BTreeSet<&str>> {
    let mut fed: BTreeMap<&SetRef, BTreeSet<&str>> = BTreeMap::new();
    for annotation in &policy.annotations {
        let Statement::Element(statement) = &annotation.statement else { continue };
        for (_, _, data) in &statement.elements {
            if let Some(Data::Jump(chain) | Data::Goto(chain)) = data {
                fed.entry(&statement.set).or_default().insert(chain);
            }
        }
    }
    fed
}
