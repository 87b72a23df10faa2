//! Host names in rules: what `ip` and `ip6` addresses are compared with. What a name stands for is asked elsewhere.

use std::{
    cell::Cell,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::annotation::{Annotation, Part, Policy};
pub use crate::model::{Addresses, HostName, Hosts};
use crate::{
    gather::{Gather, Ordered},
    text::{
        Code, Span, Token, TokenKind,
        diagnostic::{Diagnostic, quoted},
    },
};

/// `ip daddr` and the like, compared with one host name or with a list that has one in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMatch {
    /// The parts of the rule's body that the operator, if any, and the value are.
    pub parts: Range<usize>,
    /// Whether it is `!=`.
    pub negated: bool,
    /// Whether it is `ip6`.
    pub v6: bool,
    /// The names, each with its place (the variable's, if it is in one).
    pub names: Vec<(HostName, Span)>,
    /// What else is in the list.
    pub ranges: Vec<Addresses>,
}

impl Policy {
    /// All comparisons with host names.
    pub fn host_matches(&self) -> impl Iterator<Item = &HostMatch> {
        self.annotations.iter().filter_map(Annotation::rule).flat_map(|rule| &rule.hosts)
    }

    /// The host names whose addresses it needs.
    pub fn host_names(&self) -> BTreeSet<HostName> {
        self.host_matches().flat_map(|found| &found.names).map(|(host, _)| host.clone()).gather()
    }

    /// A diagnostic for each place of each of these names.
    pub fn unresolved(&self, say: impl Fn(&HostName) -> Option<String>) -> Vec<Diagnostic> {
        let places =
            self.host_matches().flat_map(|found| found.names.iter().map(|name| (found.negated, name)));
        let diagnostic = |(negated, (host, span)): (bool, &(HostName, Span))| {
            let help = if negated {
                "scnpm leaves the annotation out until it has an address, and asks again and again"
            } else {
                "the rule matches nothing until it has an address; scnpm asks again and again"
            };
            Some(Diagnostic::new(Code::Unresolved, *span, say(host)?).help(help))
        };
        places.filter_map(diagnostic).collect()
    }
}

/// Finds the comparisons with host names in a rule; `define` has the values of variables.
///
/// # Errors
/// A host name at a place where scnpm cannot keep its addresses.
pub(super) fn find<'a>(
    body: &'a [Part],
    define: &dyn Fn(&str) -> Option<&'a [Token]>,
) -> Result<Vec<HostMatch>, Diagnostic> {
    let finder = Finder { body, define, room: LONGEST.into() };
    let mut found = Vec::new();
    for at in 0..body.len() {
        if finder.is_any(at, &["ip", "ip6"]) && finder.is_any(at + 1, &["saddr", "daddr"]) {
            found.extend(finder.compared(at)?);
        } else if finder.is_any(at, &["original", "reply"]) && finder.is_any(at + 1, &["saddr", "daddr"]) {
            finder.refuse_plain(at + 2)?;
        } else if finder.is_any(at, &["dnat", "snat", "tproxy", "dup", "fwd"]) {
            finder.refuse_target(at)?;
        }
    }
    Ok(found)
}

/// How deep variables may refer to variables, and how many tokens those of a rule may stand for: `define b = { $a, $a }`
/// over and over would fill the memory. A variable for which there is no room stays.
const DEEPEST: usize = 32;
const LONGEST: usize = 8192;

/// A token, its variable inlined, and where it or the variable stands in the annotation.
type Flat<'a> = (&'a Token, Span);

struct Finder<'a, 'd> {
    body: &'a [Part],
    define: &'d dyn Fn(&str) -> Option<&'a [Token]>,
    /// How many tokens variables may still stand for.
    room: Cell<usize>,
}

impl<'a> Finder<'a, '_> {
    fn token(&self, at: usize) -> Option<&'a Token> {
        self.body.get(at)?.token()
    }

    fn is_any(&self, at: usize, words: &[&str]) -> bool {
        self.token(at).is_some_and(|token| token.is_any(words))
    }

    /// What follows `ip saddr` and the like, here.
    fn compared(&self, at: usize) -> Result<Option<HostMatch>, Diagnostic> {
        let next = at + 2;
        if at > 0 && self.is_any(at - 1, &["."]) || self.is_any(next, &[".", "map", "vmap"]) {
            return self.refuse_keys(at).map(|()| None);
        }
        if self.is_any(next, &["set", "<", ">", "<=", ">=", "lt", "gt", "le", "ge"]) {
            return self.refuse_plain(next + 1).map(|()| None);
        }
        let negated = self.is_any(next, &["!=", "ne"]);
        let first = next + usize::from(negated || self.is_any(next, &["==", "eq"]));
        let mut end = first + 1;
        if self.is_any(first, &["{"]) {
            let mut depth = 1;
            while depth > 0 && end < self.body.len() {
                depth = depth + usize::from(self.is_any(end, &["{"])) - usize::from(self.is_any(end, &["}"]));
                end += 1;
            }
        }
        let v6 = self.is_any(at, &["ip6"]);
        let mut found = HostMatch { parts: next..end, negated, v6, names: Vec::new(), ranges: Vec::new() };
        let mut other = None;
        let flat = self.flat(first..end);
        for element in flat.split(|(token, _)| token.is_any(&[",", "{", "}"])) {
            match element {
                [] => {}
                [(token, span)] if is_host(token) => {
                    found.names.push((HostName { name: token.unquoted().to_owned(), v6 }, *span));
                }
                [(_, span), ..] => {
                    let text: String = element.iter().map(|(token, _)| &*token.text).collect();
                    match ranges(&text).filter(|(first, _)| first.is_ipv6() == v6) {
                        Some(range) => found.ranges.put(range),
                        None => other = other.or(Some((text, *span))),
                    }
                }
            }
        }
        match other {
            _ if found.names.is_empty() => Ok(None),
            None => Ok(Some(found)),
            Some((text, span)) => {
                let message = format!("{} in a list with host names", quoted(&text));
                let version = if v6 { 6 } else { 4 };
                Err(Diagnostic::new(Code::HostPlace, span, message).help(format!(
                    "beside host names a list may have IPv{version} addresses, prefixes and ranges"
                )))
            }
        }
    }

    /// The tokens of some parts with variables inlined.
    fn flat(&self, parts: Range<usize>) -> Vec<Flat<'a>> {
        let mut flat = Vec::new();
        for token in parts.map_while(|at| self.token(at)) {
            let mut values = Vec::new();
            if token.kind != TokenKind::Variable || self.inline(token, 0, &mut values).is_none() {
                values = vec![token];
            }
            flat.extend(values.into_iter().map(|value| (value, token.span)));
        }
        flat
    }

    /// Adds a token, or its value if it is a variable; `None` if that has no (sensible) end.
    fn inline(&self, token: &'a Token, depth: usize, values: &mut Vec<&'a Token>) -> Option<()> {
        let define = if token.kind == TokenKind::Variable { (self.define)(&token.text[1..]) } else { None };
        match define {
            _ if depth > DEEPEST => return None,
            None => {
                self.room.set(self.room.get().checked_sub(1)?);
                values.push(token);
            }
            Some(value) => value.iter().try_for_each(|inner| self.inline(inner, depth + 1, values))?,
        }
        Some(())
    }

    /// Refuses a host name, alone or in a variable, at this place.
    fn refuse_plain(&self, at: usize) -> Result<(), Diagnostic> {
        match self.flat(at..at + 1)[..] {
            [(token, span)] if is_host(token) => Err(refusal(token, span)),
            _ => Ok(()),
        }
    }

    /// Refuses host names in the list behind a key of which `ip saddr` or the like, here, is a part.
    fn refuse_keys(&self, at: usize) -> Result<(), Diagnostic> {
        let is_dot = |at: usize| self.is_any(at, &["."]);
        let (mut position, mut begin) = (0, at);
        while begin > 0 && is_dot(begin - 1) {
            position += 1;
            // A part of a key has one to three words, such as `ct original saddr`.
            begin = (3..=5)
                .filter_map(|back| begin.checked_sub(back))
                .find(|&dot| is_dot(dot))
                .map_or(0, |dot| dot + 1);
        }
        let mut list = at + 2;
        while is_dot(list) {
            list += 1;
            list += (0..3)
                .take_while(|ahead| {
                    self.token(list + ahead).is_some_and(|token| token.kind == TokenKind::Word)
                })
                .take_while(|ahead| !self.is_any(list + ahead, &["map", "vmap"]))
                .count();
        }
        while self.is_any(list, &["map", "vmap", "==", "!=", "eq", "ne"]) {
            list += 1;
        }
        let is_list = self.is_any(list, &["{"]);
        let is_variable = self.token(list).is_some_and(|token| token.kind == TokenKind::Variable);
        if !is_list && !is_variable {
            return Ok(());
        }
        let (mut depth, mut part) = (0_usize, Some(0));
        for (token, span) in self.flat(list..if is_list { self.body.len() } else { list + 1 }) {
            match &*token.text {
                "{" => (depth, part) = (depth + 1, Some(0)),
                "}" if depth <= 1 => break,
                "}" => depth -= 1,
                "," => part = Some(0),
                "." => part = part.map(|part| part + 1),
                ":" => part = None,
                _ if part == Some(position) && is_host(token) => return Err(refusal(token, span)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses host names as the target of the translation here, alone or in a map.
    fn refuse_target(&self, at: usize) -> Result<(), Diagnostic> {
        // `dnat ip addr . port to`.
        let Some(to) = (at + 1..at + 6).find(|&at| self.is_any(at, &["to"])) else { return Ok(()) };
        let ends: &[&str] = match self.is_any(at, &["dup", "fwd"]) {
            true => &["device"],
            false => &[":", "random", "fully-random", "persistent", "comment"],
        };
        let is_last = ends.len() > 1 && to + 2 == self.body.len();
        if is_last || self.is_any(to + 2, ends) {
            self.refuse_plain(to + 1)?;
        }
        let flat = self.flat(to + 1..self.body.len());
        let mut depth = 0_usize;
        for (before, (token, span)) in flat.iter().zip(flat.iter().skip(1)) {
            depth += usize::from(before.0.is("{"));
            depth = depth.saturating_sub(usize::from(before.0.is("}")));
            if depth > 0 && before.0.is(":") && is_host(token) {
                return Err(refusal(token, *span));
            }
        }
        Ok(())
    }
}

fn refusal(token: &Token, span: Span) -> Diagnostic {
    let message =
        format!("{} is a host name, and nft would look it up only once here", quoted(token.unquoted()));
    Diagnostic::new(Code::HostPlace, span, message).help(
        "write an address; a host name may be what `ip` or `ip6` `saddr` or `daddr` is compared with, alone or in a list",
    )
}

/// An address, a prefix or a range.
fn ranges(text: &str) -> Option<Addresses> {
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        return (first.is_ipv6() == last.is_ipv6() && first <= last).then_some((first, last));
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address.parse().ok()?, Some(length.parse::<u32>().ok()?)),
        None => (text.parse().ok()?, None),
    };
    match address {
        IpAddr::V4(address) => {
            let host = Ipv4Addr::from_bits(u32::MAX.checked_shr(length.unwrap_or(32)).unwrap_or(0));
            (length <= Some(32)).then_some(((address & !host).into(), (address | host).into()))
        }
        IpAddr::V6(address) => {
            let host = Ipv6Addr::from_bits(u128::MAX.checked_shr(length.unwrap_or(128)).unwrap_or(0));
            (length <= Some(128)).then_some(((address & !host).into(), (address | host).into()))
        }
    }
}

fn is_host(token: &Token) -> bool {
    match token.kind {
        TokenKind::Quoted => is_host_name(token.unquoted()),
        TokenKind::Word => is_host_word(&token.text),
        _ => false,
    }
}

/// Whether a word that nft reads where an address may stand is a host's name.
pub fn is_host_word(text: &str) -> bool {
    is_host_name(text) && !KEYWORDS.contains(&text)
}

/// Labels of letters, digits, `-` and `_` with at least one letter, and no number such as `0x1`.
fn is_host_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let is_number =
        text.len() > 2 && text.starts_with("0x") && text[2..].bytes().all(|b| b.is_ascii_hexdigit());
    labels.split('.').all(is_label) && labels.bytes().any(|b| b.is_ascii_alphabetic()) && !is_number
}

/// Words of nft's that may follow an address, or stand where its value was forgotten.
#[rustfmt::skip]
const KEYWORDS: [&str; 62] = [
    "accept", "add", "and", "comment", "continue", "counter", "ct", "delete", "dnat", "drop", "dup", "ether", "exists",
    "expires", "fib", "flow", "fwd", "goto", "icmp", "icmpv6", "iif", "iifname", "ip", "ip6", "jhash", "jump", "last",
    "limit", "log", "lshift", "mark", "masquerade", "meta", "missing", "mod", "not", "notrack", "numgen", "offset",
    "oif", "oifname", "or", "queue", "quota", "redirect", "reject", "return", "rshift", "rt", "sctp", "seed", "set",
    "snat", "socket", "symhash", "tcp", "th", "timeout", "tproxy", "udp", "update", "xor",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::text::{
        FileId,
        token::{Joined, tokenize},
    };

    fn tokens(text: &str) -> Vec<Token> {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        tokenize(&joined).tokens
    }

    /// Each comparison in the words of a test: operator, names, what else.
    fn found(text: &str) -> Result<Vec<String>, String> {
        let defines: BTreeMap<&str, Vec<Token>> = BTreeMap::from([
            ("mail", tokens("{ a.x, $web }")),
            ("web", tokens("b.y")),
            ("plain", tokens("{ 10.0.0.1 }")),
            ("ports", tokens("{ a.x . 25 }")),
            ("loop", tokens("{ $loop, $loop }")),
        ]);
        let body: Vec<Part> = tokens(text).into_iter().map(Part::Verbatim).collect();
        let found = find(&body, &|name| defines.get(name).map(Vec::as_slice));
        let said = |found: HostMatch| {
            let mut words = vec![if found.negated { "not" } else { "is" }.to_owned()];
            words.push(if found.v6 { "6" } else { "4" }.to_owned());
            words.extend(found.names.into_iter().map(|(host, _)| host.name));
            words.extend(found.ranges.into_iter().map(|(first, last)| format!("{first}-{last}")));
            words.push(format!("{}..{}", found.parts.start, found.parts.end));
            words.join(" ")
        };
        match found {
            Ok(found) => Ok(found.into_iter().map(said).collect()),
            Err(diagnostic) => Err(text[diagnostic.span.start..diagnostic.span.end].to_owned()),
        }
    }

    #[test]
    fn names_alone_and_in_lists_are_found() {
        for (text, expected) in [
            ("ip daddr mail.x accept", vec!["is 4 mail.x 2..3"]),
            ("ip6 saddr != \"mail.x\" accept", vec!["not 6 mail.x 2..4"]),
            ("ip daddr == localhost ip6 daddr a", vec!["is 4 localhost 2..4", "is 6 a 6..7"]),
            (
                "ip daddr { mail.x, 10.0.0.0/30, { b, 10.1.0.1-10.1.0.9 } } drop",
                vec!["is 4 mail.x b 10.0.0.0-10.0.0.3 10.1.0.1-10.1.0.9 2..13"],
            ),
            ("ip6 daddr { a, fe80::/126 }", vec!["is 6 a fe80::-fe80::3 2..8"]),
            ("ip daddr $mail accept", vec!["is 4 a.x b.y 2..3"]),
            ("ip daddr { $web, 10.0.0.1 }", vec!["is 4 b.y 10.0.0.1-10.0.0.1 2..7"]),
            ("ct original ip saddr a.x", vec!["is 4 a.x 4..5"]),
            ("ip daddr { 0.0.0.0/0, a }", vec!["is 4 a 0.0.0.0-255.255.255.255 2..7"]),
        ] {
            assert_eq!(
                found(text).as_deref(),
                Ok(&expected.into_iter().map(str::to_owned).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn what_nft_knows_is_no_host_name() {
        for text in [
            "ip daddr 10.0.0.1 accept",
            "ip daddr @mail accept",
            "ip6 daddr { fe80::1, ::1 } accept",
            "oifname my.vpn ip protocol tcp jump vpn.whitelist",
            "ip daddr $plain accept",
            "ip daddr $loop accept",
            "ip daddr $unknown accept",
            "update @seen { ip saddr timeout 1m }",
            "add @seen { ip saddr limit rate 10/second }",
            "meter m { ip saddr ct count over 20 } drop",
            "dnat to jhash ip saddr mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }",
            "dnat to tcp dport map { 80 : 10.0.0.1 . http }",
            "dnat to numgen inc mod 2 map @servers",
            "dnat to 10.0.0.1:80 comment \"x.y\"",
            "dup to eth0",
            "ip daddr . tcp dport @allowed tcp sport { http, ssh } accept",
            "ip daddr . iifname { 10.0.0.1 . eth0 } accept",
            "ip saddr vmap { 10.0.0.1 : jump here, 10.0.0.2 : accept }",
            "ip saddr & 255.0.0.0 == 10.0.0.0",
            "ip daddr accept",
            "ether saddr 00:11:22:33:44:55 fib saddr type local",
            "ip daddr",
            "ip daddr !=",
            "ip daddr {",
        ] {
            assert_eq!(found(text), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn names_elsewhere_are_refused_where_they_stand() {
        for (text, place) in [
            ("dnat to mail.x", "mail.x"),
            ("dnat ip to web:80", "web"),
            ("snat to $web", "$web"),
            ("tproxy ip to localhost:80 accept", "localhost"),
            ("dup to mail.x device eth0", "mail.x"),
            ("dnat to tcp dport map { 80 : web.local, 81 : 10.0.0.1 }", "web.local"),
            ("dnat to jhash ip saddr mod 2 map { 0 : web, 1 : 10.0.0.2 }", "web"),
            ("ip daddr . tcp dport { 10.0.0.1 . 80, mail.x . 25 } accept", "mail.x"),
            ("iifname . ct original saddr . ip daddr . tcp dport { a . 1.1.1.1 . b.y . 25 }", "b.y"),
            ("ip daddr . tcp dport $ports accept", "$ports"),
            ("tcp dport . iifname . ip daddr { 25 . eth0 . mail.x }", "mail.x"),
            ("tcp dport . ip daddr vmap { 25 . mail.x : accept }", "mail.x"),
            ("ip saddr vmap { mail.x : accept }", "mail.x"),
            ("ip daddr set mail.x", "mail.x"),
            ("ip daddr < mail.x", "mail.x"),
            ("ct original saddr mail.x", "mail.x"),
            ("ip daddr { mail.x, fe80::1 }", "fe80::1"),
            ("ip daddr { mail.x, 10.0.0.1 comment \"a\" }", "10.0.0.1"),
            ("ip daddr { mail.x, 10.0.0.1/33 }", "10.0.0.1/33"),
        ] {
            assert_eq!(found(text), Err(place.to_owned()), "{text}");
        }
    }

    #[test]
    fn host_names_are_told_from_addresses() {
        for name in ["localhost", "mail.intranet.local", "a-b.c_d", "1and1.com", "example.org."] {
            assert!(is_host_name(name), "{name}");
        }
        for other in ["10.0.0.1", "10.0.0.0/8", "fe80::1", "0x1f", "80", "a..b", "", ".", "eth*", "a/b", "-a"]
        {
            assert!(!is_host_name(other), "{other}");
        }
    }
}
