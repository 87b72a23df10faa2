//! Sets for the host names that rules compare addresses with.
//!
//! One name alone has a set of its own, which all rules of the table share. A list with a name in it is one set, too, with
//! all that the list has: its ranges would not mean the same in rules of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::{Names, script::Line};
use crate::{
    gather::Gather,
    model::{AnnotationId, SetRef, TableRef},
    policy::{
        Part, RuleStatement,
        hosts::{Addresses, HostMatch, HostName, Hosts},
    },
    text::{Span, Token, TokenKind},
};

/// A set of ours that holds what names stand for, and what else is in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSet {
    /// The set.
    pub set: SetRef,
    /// Whether it holds IPv6 addresses, else IPv4.
    pub v6: bool,
    /// The names.
    pub names: BTreeSet<HostName>,
    /// What is in it whatever the names stand for.
    pub ranges: Vec<Addresses>,
    /// The annotations that need it.
    pub annotations: Vec<AnnotationId>,
}

impl HostSet {
    /// Whether it has nft's flag `interval`.
    pub fn is_interval(&self) -> bool {
        self.names.len() + self.ranges.len() > 1
    }

    /// What is to be in it: ranges in order that have no address in common.
    pub fn content(&self, hosts: &Hosts) -> Vec<Addresses> {
        let known = self.names.iter().filter_map(|name| hosts.get(name)).flatten();
        let of_names =
            known.filter(|address| address.is_ipv6() == self.v6).map(|address| (*address, *address));
        let all: Vec<Addresses> = self.ranges.iter().copied().chain(of_names).gather();
        let mut content: Vec<Addresses> = Vec::new();
        for (first, last) in all {
            match content.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => content.push((first, last)),
            }
        }
        content
    }

    /// What fills it, unless it is empty.
    pub(super) fn elements(&self, hosts: &Hosts) -> Option<Line> {
        let written = |(first, last): &Addresses| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let content: Vec<String> = self.content(hosts).iter().map(written).collect();
        let line = Line::new(format!("add element {} {{ {} }}", self.set, content.join(", ")));
        (!content.is_empty()).then(|| line.of(&self.annotations))
    }
}

/// The sets of a policy, while it is compiled.
#[derive(Debug, Default)]
pub(super) struct HostSets {
    pub(super) sets: Vec<HostSet>,
    index: BTreeMap<(TableRef, BTreeSet<HostName>, Vec<Addresses>), usize>,
}

impl HostSets {
    /// A rule's body with sets in the place of host names. `None` while a name that it must *not* match has no address:
    /// `!= @SET` matches everything then.
    pub(super) fn put_in(
        &mut self,
        id: AnnotationId,
        rule: &RuleStatement,
        hosts: &Hosts,
        names: &mut Names,
    ) -> Option<Vec<Part>> {
        let is_known = |(name, _): &(HostName, Span)| hosts.get(name).is_some_and(|known| !known.is_empty());
        if rule.hosts.iter().any(|found| found.negated && !found.names.iter().all(is_known)) {
            return None;
        }
        let mut body = rule.body.clone();
        for found in rule.hosts.iter().rev() {
            let set = self.set(&rule.chain.table, found, names);
            if set.annotations.last() != Some(&id) {
                set.annotations.push(id);
            }
            let span = found.names.first().map(|(_, span)| *span)?;
            let token =
                |kind, text: String| Part::Verbatim(Token { kind, text: text.into(), span, spaced: true });
            let operator = found.negated.then(|| token(TokenKind::Punctuation, "!=".to_owned()));
            let reference = token(TokenKind::SetReference, format!("@{}", set.set.name));
            if let Some(Part::Verbatim(after)) = body.get_mut(found.parts.end) {
                after.spaced = true;
            }
            body.splice(found.parts.clone(), operator.into_iter().chain([reference]));
        }
        Some(body)
    }

    fn set(&mut self, table: &TableRef, found: &HostMatch, names: &mut Names) -> &mut HostSet {
        let all: BTreeSet<HostName> = found.names.iter().map(|(name, _)| name.clone()).gather();
        let sets = &mut self.sets;
        let at = self.index.entry((table.clone(), all, found.ranges.clone())).or_insert_with_key(
            |(_, all, ranges)| {
                let only = all.first().filter(|_| all.len() == 1 && ranges.is_empty());
                let name = names.hosts(table, found.v6, only.map(|host| host.name.as_str()));
                let set = SetRef { table: table.clone(), name: name.into() };
                sets.push(HostSet {
                    set,
                    v6: found.v6,
                    names: all.clone(),
                    ranges: ranges.clone(),
                    annotations: Vec::new(),
                });
                sets.len() - 1
            },
        );
        &mut self.sets[*at]
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::Family;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_of_a_set_have_no_address_in_common() {
        let name = HostName { name: "a".into(), v6: false };
        let table = TableRef { family: Family::Inet, name: "filter".into() };
        let range = |first, last| (address(first), address(last));
        let set = HostSet {
            set: SetRef { table, name: "scnpm.hosts.ip".into() },
            v6: false,
            names: [name.clone()].into(),
            ranges: [
                range("10.0.0.0", "10.0.0.9"),
                range("10.0.0.4", "10.0.0.20"),
                range("10.0.0.30", "10.0.0.30"),
            ]
            .into(),
            annotations: vec![],
        };
        let known = ["10.0.0.5", "10.0.0.21", "10.0.0.30", "::1"].map(address);
        let hosts = Hosts::from([(name, known.into())]);
        assert_eq!(
            set.content(&hosts),
            [
                range("10.0.0.0", "10.0.0.20"),
                range("10.0.0.21", "10.0.0.21"),
                range("10.0.0.30", "10.0.0.30")
            ]
        );
        assert_eq!(set.content(&Hosts::new()).len(), 2);
    }
}
