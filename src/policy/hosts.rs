//! Host names in rules: found here, resolved elsewhere, put in place here.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::annotation::{Annotation, Define, Part, Policy, Statement};
use crate::{
    model::Family,
    text::{Span, Token, TokenKind},
};

use self::places::List;

mod places;

/// A host name and the family that its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    /// The name as written.
    pub name: String,
    /// Whether IPv6 addresses are wanted, else IPv4.
    pub v6: bool,
}

/// What is known of host names; one that is absent is not resolved (yet).
pub type Hosts = BTreeMap<HostName, BTreeSet<IpAddr>>;

/// A host name without an address, and its place in the annotation (the variable's, if it is in one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The name.
    pub host: HostName,
    /// Its place.
    pub span: Span,
}

/// The host names in an annotation, through variables too.
pub fn wanted(policy: &Policy, annotation: &Annotation) -> BTreeSet<HostName> {
    let Statement::Rule(rule) = &annotation.statement else { return BTreeSet::new() };
    let rule_text = Inlined::new(policy, &rule.body);
    places::find(&rule_text.tokens, rule.chain.table.family).into_iter().map(|place| place.host).collect()
}

/// A rule's body with addresses in the place of host names; what has none stays token for token.
///
/// # Errors
/// All names that have no address in `hosts`.
pub fn resolve(policy: &Policy, body: &[Part], hosts: &Hosts) -> Result<Vec<Part>, Vec<Unresolved>> {
    let inlined = Inlined::new(policy, body);
    let mut unresolved = Vec::new();
    let mut lists = Vec::new();
    let mut addresses = BTreeMap::new();
    for place in places::find(&inlined.tokens, family_of(policy, body)) {
        let usable = usable_addresses(hosts, &place.host);
        if usable.is_empty() {
            let span = span_of(&body[inlined.tokens[place.at].origin]);
            unresolved.push(Unresolved { host: place.host, span });
            continue;
        }
        match place.list {
            Some(list) => {
                addresses.insert(place.at, usable);
                if lists.last() != Some(&list) {
                    lists.push(list);
                }
            }
            None => {
                addresses.insert(place.at, usable.into_iter().take(1).collect());
            }
        }
    }
    if !unresolved.is_empty() {
        return Err(unresolved);
    }
    lists.sort_by_key(|list| list.range.start);
    Ok(Writer { body, inlined: &inlined, lists: &lists, addresses: &addresses }.write())
}

/// The addresses of a name that its place can hold, in order.
fn usable_addresses(hosts: &Hosts, host: &HostName) -> Vec<IpAddr> {
    let known = hosts.get(host).into_iter().flatten().copied();
    known.filter(|address| address.is_ipv6() == host.v6).collect()
}

/// The family of the table whose rule this is (a part of): `dnat to NAME` alone does not say it.
fn family_of(policy: &Policy, body: &[Part]) -> Family {
    let place = body.first().map(span_of);
    let is_around = |span: Span, place: Span| {
        span.file == place.file && span.start <= place.start && place.end <= span.end
    };
    let rules = policy.annotations.iter().filter_map(|annotation| match &annotation.statement {
        Statement::Rule(rule) => Some((annotation.span, rule)),
        Statement::Element(_) => None,
    });
    let mut families = rules.filter(|(span, _)| place.is_some_and(|place| is_around(*span, place)));
    families.next().map_or(Family::Ip, |(_, rule)| rule.chain.table.family)
}

fn span_of(part: &Part) -> Span {
    match part {
        Part::Verbatim(token) => token.span,
        Part::Cgroup(cgroup_match) => cgroup_match.span,
        Part::Units(span) => *span,
    }
}

/// A piece of a rule with variables inlined.
#[derive(Debug, Clone)]
pub(super) struct Flat<'a> {
    /// `None` for a cgroup match, which no other match reaches across.
    token: Option<Cow<'a, Token>>,
    /// The index of the part in the body that it comes from.
    origin: usize,
}

impl Flat<'_> {
    pub(super) fn token(&self) -> Option<&Token> {
        self.token.as_deref()
    }
}

/// A rule with all its variables inlined.
struct Inlined<'a> {
    tokens: Vec<Flat<'a>>,
}

impl<'a> Inlined<'a> {
    fn new(policy: &'a Policy, body: &'a [Part]) -> Self {
        let defines: BTreeMap<&str, &Define> =
            policy.defines.iter().map(|define| (define.name.as_str(), define)).collect();
        let mut tokens = Vec::new();
        for (origin, part) in body.iter().enumerate() {
            match part {
                Part::Cgroup(_) | Part::Units(_) => tokens.push(Flat { token: None, origin }),
                Part::Verbatim(token) => {
                    let mut values = Vec::new();
                    let room = LONGEST.saturating_sub(tokens.len());
                    if inline(&defines, token, 0, room, &mut values).is_none() || values.is_empty() {
                        values = vec![token];
                    }
                    let flat = |value| Flat { token: Some(Cow::Borrowed(value)), origin };
                    let first = tokens.len();
                    tokens.extend(values.into_iter().map(flat));
                    if let Some(Flat { token: Some(value), .. }) = tokens.get_mut(first)
                        && value.spaced != token.spaced
                    {
                        value.to_mut().spaced = token.spaced;
                    }
                }
            }
        }
        Self { tokens }
    }

    /// The variables that can't stay: those with a host name, or with a part of an element in a list.
    fn replaced(&self, lists: &[List], addresses: &BTreeMap<usize, Vec<IpAddr>>) -> BTreeSet<usize> {
        let ends = lists.iter().flat_map(|list| [list.range.start, list.range.end]);
        let cut = ends.filter(|&at| {
            at > 0 && self.tokens.get(at).is_some_and(|after| after.origin == self.tokens[at - 1].origin)
        });
        addresses.keys().copied().chain(cut).map(|at| self.tokens[at].origin).collect()
    }
}

/// How deep variables may refer to variables, and how many tokens a rule may have with all of them inlined or with an
/// element for each address: `define b = { $a, $a }` over and over would fill the memory. A variable for which there is
/// no room stays.
const DEEPEST: usize = 32;
const LONGEST: usize = 8192;

/// Adds a token, or its value if it is a variable; `None` if that has no (sensible) end.
fn inline<'a>(
    defines: &BTreeMap<&str, &'a Define>,
    token: &'a Token,
    depth: usize,
    room: usize,
    values: &mut Vec<&'a Token>,
) -> Option<()> {
    let define = match token.kind {
        TokenKind::Variable => defines.get(&token.text[1..]),
        _ => None,
    };
    match define {
        _ if values.len() >= room => return None,
        None => values.push(token),
        Some(_) if depth == DEEPEST => return None,
        Some(define) => {
            for inner in &define.value {
                inline(defines, inner, depth + 1, room, values)?;
            }
        }
    }
    Some(())
}

/// Puts a body together again.
struct Writer<'a> {
    body: &'a [Part],
    inlined: &'a Inlined<'a>,
    /// Elements to write once for each address, in order.
    lists: &'a [List],
    /// The addresses for each token with a host name: one if it isn't in a list.
    addresses: &'a BTreeMap<usize, Vec<IpAddr>>,
}

impl Writer<'_> {
    fn write(&self) -> Vec<Part> {
        let replaced = self.inlined.replaced(self.lists, self.addresses);
        let mut parts = Vec::new();
        let mut lists = self.lists.iter().peekable();
        let mut at = 0;
        while let Some(flat) = self.inlined.tokens.get(at) {
            if let Some(list) = lists.next_if(|list| list.range.start == at) {
                self.write_list(list, &replaced, &mut parts);
                at = list.range.end;
            } else {
                let choice = self.addresses.get(&at).map(|addresses| addresses[0]);
                at = self.write_one(at, choice, flat, &replaced, &mut parts);
            }
        }
        parts
    }

    /// Writes a token, or the variable that it comes from; the index of what follows.
    fn write_one(
        &self,
        at: usize,
        address: Option<IpAddr>,
        flat: &Flat<'_>,
        replaced: &BTreeSet<usize>,
        parts: &mut Vec<Part>,
    ) -> usize {
        let Some(token) = flat.token().filter(|_| replaced.contains(&flat.origin)) else {
            parts.push(self.body[flat.origin].clone());
            let rest = &self.inlined.tokens[at..];
            return at + rest.iter().take_while(|other| other.origin == flat.origin).count();
        };
        let text = match address {
            None => token.text.clone(),
            Some(IpAddr::V6(address)) if self.has_port(at) => format!("[{address}]"),
            Some(address) => address.to_string(),
        };
        let kind = if address.is_some() { TokenKind::Word } else { token.kind };
        let span = span_of(&self.body[flat.origin]);
        parts.push(Part::Verbatim(Token { kind, text, span, spaced: token.spaced }));
        at + 1
    }

    /// Whether a translation's port follows: nft wants brackets around the address then.
    fn has_port(&self, at: usize) -> bool {
        let is_listed = self.lists.iter().any(|list| list.range.contains(&at));
        !is_listed && self.inlined.tokens.get(at + 1).and_then(Flat::token).is_some_and(|token| token.is(":"))
    }

    /// Writes an element for each combination of its host names' addresses.
    fn write_list(&self, list: &List, replaced: &BTreeSet<usize>, parts: &mut Vec<Part>) {
        let names: Vec<(usize, &Vec<IpAddr>)> =
            self.addresses.range(list.range.clone()).map(|(&at, addresses)| (at, addresses)).collect();
        let all = names.iter().fold(1, |all: usize, (_, addresses)| all.saturating_mul(addresses.len()));
        let count = all.min(LONGEST.saturating_sub(parts.len()) / list.range.len().max(1)).max(1);
        let Some(first) = self.inlined.tokens.get(list.range.start) else { return };
        let sign = |text: &str| {
            Part::Verbatim(Token {
                kind: TokenKind::Punctuation,
                text: text.to_owned(),
                span: span_of(&self.body[first.origin]),
                spaced: text != ",",
            })
        };
        let needs_braces = count > 1 && !list.in_braces;
        if needs_braces {
            parts.push(sign("{"));
        }
        for number in 0..count {
            let mut choice = BTreeMap::new();
            let mut rest = number;
            for (at, addresses) in names.iter().rev() {
                choice.insert(*at, addresses[rest % addresses.len()]);
                rest /= addresses.len();
            }
            if number > 0 {
                parts.push(sign(","));
            }
            let begin = parts.len();
            let mut at = list.range.start;
            while at < list.range.end {
                at = self.write_one(at, choice.get(&at).copied(), &self.inlined.tokens[at], replaced, parts);
            }
            if let Some(Part::Verbatim(token)) = parts.get_mut(begin) {
                token.spaced |= number > 0 || needs_braces;
            }
        }
        if needs_braces {
            parts.push(sign("}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::parse, text::token::text_of};
    use std::{
        io,
        path::{Path, PathBuf},
    };

    struct Text(String);

    impl crate::policy::files::Files for Text {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.clone().into_bytes())
        }

        fn glob(&self, _: &str) -> Vec<PathBuf> {
            Vec::new()
        }
    }

    fn policy(text: &str) -> Policy {
        let policy = parse::read(&Text(text.to_owned()), &[Path::new("x")]).unwrap();
        assert_eq!(policy.diagnostics, [], "{text}");
        policy
    }

    fn body(policy: &Policy) -> &[Part] {
        let Statement::Rule(rule) = &policy.annotations[0].statement else { panic!("no rule") };
        &rule.body
    }

    fn known() -> Hosts {
        let mut hosts = Hosts::new();
        for (name, addresses) in [
            ("one.local", &["10.0.0.1", "fe80::1"][..]),
            ("two.local", &["10.0.0.3", "10.0.0.2", "fe80::3", "fe80::2"]),
            ("localhost", &["127.0.0.1", "::1"]),
        ] {
            for v6 in [false, true] {
                let addresses = addresses.iter().map(|text| text.parse().unwrap());
                hosts.insert(HostName { name: name.to_owned(), v6 }, addresses.collect());
            }
        }
        hosts
    }

    fn resolved_in(family: &str, above: &str, rule: &str) -> String {
        let policy = policy(&format!("{above}\n# a.service :: add rule {family} t c {rule}\n"));
        let parts = resolve(&policy, body(&policy), &known()).unwrap();
        let tokens: Vec<Token> = parts
            .into_iter()
            .map(|part| match part {
                Part::Verbatim(token) => token,
                Part::Units(span) => {
                    Token { kind: TokenKind::Word, text: "UNITS".to_owned(), span, spaced: true }
                }
                Part::Cgroup(cgroup_match) => Token {
                    kind: TokenKind::Word,
                    text: "CGROUP".to_owned(),
                    span: cgroup_match.span,
                    spaced: true,
                },
            })
            .collect();
        text_of(&tokens)
    }

    fn resolved(rule: &str) -> String {
        resolved_in("inet", "", rule)
    }

    #[test]
    fn one_address_takes_the_name_s_place() {
        assert_eq!(
            resolved("ip daddr one.local tcp dport 25 accept"),
            "ip daddr 10.0.0.1 tcp dport 25 accept"
        );
        assert_eq!(resolved("ip6 saddr != \"one.local\" drop"), "ip6 saddr != fe80::1 drop");
        assert_eq!(
            resolved("socket cgroupv2 level 1 \"a\" ip daddr localhost accept"),
            "CGROUP ip daddr 127.0.0.1 accept"
        );
    }

    #[test]
    fn several_addresses_become_a_set() {
        assert_eq!(resolved("ip daddr two.local accept"), "ip daddr { 10.0.0.2, 10.0.0.3 } accept");
        assert_eq!(resolved("ip daddr {one.local,two.local}"), "ip daddr {10.0.0.1,10.0.0.2, 10.0.0.3}");
        assert_eq!(
            resolved("ip saddr vmap { two.local : jump x, 1.2.3.4 : drop }"),
            "ip saddr vmap { 10.0.0.2 : jump x, 10.0.0.3 : jump x, 1.2.3.4 : drop }"
        );
    }

    #[test]
    fn concatenations_are_taken_by_component() {
        assert_eq!(
            resolved("ip daddr . tcp dport { two.local . 25, 1.2.3.4 . 80 } accept"),
            "ip daddr . tcp dport { 10.0.0.2 . 25, 10.0.0.3 . 25, 1.2.3.4 . 80 } accept"
        );
        assert_eq!(
            resolved("iifname . ip daddr my-vpn . two.local accept"),
            "iifname . ip daddr { my-vpn . 10.0.0.2, my-vpn . 10.0.0.3 } accept"
        );
        assert_eq!(
            resolved("ip daddr . meta mark . iifname { one.local . 1 . lo } ip saddr localhost"),
            "ip daddr . meta mark . iifname { 10.0.0.1 . 1 . lo } ip saddr 127.0.0.1"
        );
        assert_eq!(
            resolved("ip saddr . ip daddr { two.local . two.local }"),
            "ip saddr . ip daddr { 10.0.0.2 . 10.0.0.2, 10.0.0.2 . 10.0.0.3, 10.0.0.3 . 10.0.0.2, \
             10.0.0.3 . 10.0.0.3 }"
        );
    }

    #[test]
    fn nat_takes_the_first_address() {
        assert_eq!(resolved("dnat ip to two.local"), "dnat ip to 10.0.0.2");
        assert_eq!(resolved("dnat ip6 to two.local:80"), "dnat ip6 to [fe80::2]:80");
        assert_eq!(resolved("dnat ip6 to [::1]:80"), "dnat ip6 to [::1]:80");
        assert_eq!(resolved_in("ip6", "", "dnat to two.local"), "dnat to fe80::2");
        assert_eq!(resolved_in("ip6", "", "ct original saddr one.local"), "ct original saddr fe80::1");
        assert_eq!(
            resolved("dnat ip to tcp dport map { 80 : two.local, 81:one.local }"),
            "dnat ip to tcp dport map { 80 : 10.0.0.2, 81:10.0.0.1 }"
        );
        assert_eq!(
            resolved("dnat ip addr . port to tcp dport map { 80 : two.local . 8080 }"),
            "dnat ip addr . port to tcp dport map { 80 : 10.0.0.2 . 8080 }"
        );
        assert_eq!(
            resolved("dnat ip to jhash ip saddr mod 2 map { 0 : one.local, 1 : two.local }"),
            "dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"
        );
        assert_eq!(resolved("ip daddr set two.local"), "ip daddr set 10.0.0.2");
    }

    #[test]
    fn variables_are_only_inlined_for_a_name() {
        let above = "define more = two.local\ndefine mail = { one.local, $more }\n\
                     define nets = { 10.0.0.0/8 }\ndefine vpn = my-vpn";
        assert_eq!(
            resolved_in("inet", above, "oifname $vpn ip saddr $nets ip daddr $mail accept"),
            "oifname $vpn ip saddr $nets ip daddr { 10.0.0.1, 10.0.0.2, 10.0.0.3 } accept"
        );
        assert_eq!(
            resolved_in("inet", above, "ip daddr { $mail, 1.2.3.4 } accept"),
            "ip daddr { { 10.0.0.1, 10.0.0.2, 10.0.0.3 }, 1.2.3.4 } accept"
        );
    }

    #[test]
    fn variables_over_and_over_and_many_addresses_come_to_an_end() {
        let define = |n: usize| format!("define b{} = {{ $b{n}, $b{n} }}\n", n + 1);
        let above: String = ["define b0 = 1\n".to_owned()].into_iter().chain((0..13).map(define)).collect();
        let uses = "ip daddr $b13 ".repeat(400);
        assert_eq!(resolved_in("inet", &above, &uses), uses.trim());
        let key = ["two.local"; 64].join(" . ");
        let fields = ["ip daddr"; 64].join(" . ");
        assert!(resolved(&format!("{fields} {{ {key} }} accept")).len() < 10 * LONGEST);
    }

    #[test]
    fn other_words_are_no_names() {
        for rule in [
            "ip protocol tcp ip daddr @mail accept",
            "oifname my-vpn jump vpn.whitelist",
            "add @seen { ip saddr timeout 5m } accept",
            "update @seen { ip saddr . tcp dport limit rate 10/second }",
            "meta l4proto tcp ip daddr 10.0.0.0-10.0.0.9 accept",
            "jhash ip saddr . tcp sport mod 2 vmap { 0 : accept }",
            "ip daddr & 255.0.0.0 == 10.0.0.0 accept",
            "ip6 daddr { fe80::1, dead:beef:: } accept",
            "fib saddr . iif oif missing drop",
            "ip daddr counter accept",
            "tproxy ip to :8080",
            "fwd to eth0",
        ] {
            let policy = policy(&format!("# a.service :: add rule inet t c {rule}\n"));
            assert_eq!(wanted(&policy, &policy.annotations[0]), BTreeSet::new(), "{rule}");
            assert_eq!(resolve(&policy, body(&policy), &known()).unwrap(), body(&policy), "{rule}");
        }
    }

    #[test]
    fn all_names_without_address_are_told() {
        let text = "define x = { a.local, 1.2.3.4 }\n\
                    # a.service :: add rule inet t c ip daddr $x ip6 saddr b.local ip daddr one.local\n";
        let policy = policy(text);
        let names = |names: &[(&str, bool)]| -> Vec<HostName> {
            names.iter().map(|&(name, v6)| HostName { name: name.to_owned(), v6 }).collect()
        };
        let wanted: Vec<HostName> = wanted(&policy, &policy.annotations[0]).into_iter().collect();
        assert_eq!(wanted, names(&[("a.local", false), ("b.local", true), ("one.local", false)]));
        let unresolved = resolve(&policy, body(&policy), &known()).unwrap_err();
        let found: Vec<HostName> = unresolved.iter().map(|unresolved| unresolved.host.clone()).collect();
        assert_eq!(found, names(&[("a.local", false), ("b.local", true)]));
        let place = |text_of_place: &str| text.rfind(text_of_place).unwrap();
        assert_eq!(unresolved[0].span.start, place("$x"));
        assert_eq!(unresolved[1].span.start, place("b.local"));
    }
}
