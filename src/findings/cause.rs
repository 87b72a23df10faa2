//! What causes that nft refuses a statement, told from its complaint and from the statement. Pure.
//!
//! The same table is for the files' own statements and for annotations.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::spelling::{FAMILIES, misspelt};
use crate::{
    model::{ChainRef, Family},
    nft::complaint::Kind,
    policy::WRITE_A_DEFINE,
    text::{
        Diagnostic, Span, Token, TokenKind,
        diagnostic::quoted,
        nearest::nearest,
        token::{is_identifier, text_of},
    },
};

/// A statement that nft refuses.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The kind of nft's complaint.
    pub kind: Kind,
    /// Where nft points.
    pub at: Span,
    /// What is written there.
    pub written: &'a str,
    /// The statement's words up to those of its rule or list: `add rule inet filter input`.
    pub head: &'a [&'a Token],
    /// The words of its rule or list, or of all of it.
    pub body: &'a [&'a Token],
    /// The chain that it is in or is, if that is known.
    pub chain: Option<&'a ChainRef>,
    /// Whether it is an annotation: only these may name cgroups that come and go.
    pub is_annotation: bool,
    /// That chain's `type … hook … priority …`, if it is known to be a base chain.
    pub base: Option<&'a [Token]>,
    /// The names of variables.
    pub variables: &'a [&'a str],
    /// The chains of its table, and whether each is a base chain.
    pub chains: &'a [(&'a str, bool)],
}

/// What is wrong, in words that say what to do, and where.
#[derive(Debug, Default)]
struct Cause {
    help: String,
    /// Where it is, if elsewhere than nft says.
    span: Option<Span>,
    /// What to write instead.
    fix: Option<(Span, String)>,
}

impl Cause {
    fn new(help: impl Into<String>) -> Option<Self> {
        Some(Self { help: help.into(), ..Self::default() })
    }

    fn at(self, span: Span) -> Self {
        Self { span: Some(span), ..self }
    }

    fn fix(self, span: Span, text: impl Into<String>) -> Self {
        Self { fix: Some((span, text.into())), ..self }
    }
}

/// The diagnostic with the cause of what it says, if that is known.
pub fn explained(mut diagnostic: Diagnostic, refused: &Refused<'_>) -> Diagnostic {
    let Some(Cause { help, span, fix }) = refused.cause() else { return diagnostic };
    diagnostic.span = span.unwrap_or(diagnostic.span);
    diagnostic = diagnostic.help(help);
    match fix {
        Some((span, text)) => diagnostic.fix(span, text),
        None => diagnostic,
    }
}

/// Why a table of this family has no cgroups, if it has none.
pub fn without_sockets(family: Family) -> Option<String> {
    matches!(family, Family::Bridge | Family::Arp | Family::Netdev).then(|| {
        format!(
            "tables of the family {family} know no sockets, and so no cgroups: use one of the family inet"
        )
    })
}

/// What to do about paths in the braces of a `vmap` or `map`.
const INLINE_MAP: &str = "make it a map of the table, `map NAME { type cgroupsv2 : verdict; }`, look it up with \
    `socket cgroupv2 level N vmap @NAME`, and add each path with an annotation: \
    `# UNIT :: add element FAMILY TABLE NAME { \"PATH\" : VERDICT }`";

/// Statements that only some chains have: the chains' type, their hooks, and the kernel's module.
const PLACES: [(&str, &str, &[&str], &str); 12] = [
    ("masquerade", "nat", &["postrouting"], "nft_masq"),
    ("snat", "nat", &["postrouting", "input"], "nft_nat"),
    ("dnat", "nat", &["prerouting", "output"], "nft_nat"),
    ("redirect", "nat", &["prerouting", "output"], "nft_redir"),
    ("tproxy", "filter", &["prerouting"], "nft_tproxy"),
    ("reject", "filter", &["prerouting", "input", "forward", "output"], "nft_reject_inet"),
    ("synproxy", "filter", &["input", "forward"], "nft_synproxy"),
    ("socket", "filter", &["prerouting", "input", "output"], "nft_socket"),
    ("osf", "filter", &["prerouting", "input", "forward"], "nft_osf"),
    ("flow", "filter", &["forward"], "nft_flow_offload"),
    ("fwd", "filter", &["ingress", "egress"], "nft_fwd_netdev"),
    (
        "dup",
        "filter",
        &["prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"],
        "nft_dup_ipv4",
    ),
];

/// The modules of other statements.
const MODULES: [(&str, &str); 11] = [
    ("queue", "nft_queue"),
    ("fib", "nft_fib_inet"),
    ("log", "nft_log"),
    ("limit", "nft_limit"),
    ("quota", "nft_quota"),
    ("ct", "nft_ct"),
    ("numgen", "nft_numgen"),
    ("jhash", "nft_hash"),
    ("symhash", "nft_hash"),
    ("tunnel", "nft_tunnel"),
    ("ipsec", "nft_xfrm"),
];

/// The hooks of each type of chain, in tables of IP.
const HOOKS: [(&str, &[&str]); 3] = [
    ("filter", &["prerouting", "input", "forward", "output", "postrouting", "ingress"]),
    ("nat", &["prerouting", "input", "output", "postrouting"]),
    ("route", &["output"]),
];

/// Names of priorities in tables of IP: the number, and the only hook that has the name.
const PRIORITIES: [(&str, i64, Option<&str>); 6] = [
    ("raw", -300, None),
    ("mangle", -150, None),
    ("dstnat", -100, Some("prerouting")),
    ("filter", 0, None),
    ("security", 50, None),
    ("srcnat", 100, Some("postrouting")),
];

/// The same in tables of the family bridge.
const BRIDGE_PRIORITIES: [(&str, i64, Option<&str>); 4] = [
    ("dstnat", -300, Some("prerouting")),
    ("filter", -200, None),
    ("out", 100, Some("output")),
    ("srcnat", 300, Some("postrouting")),
];

impl<'a> Refused<'a> {
    fn cause(&self) -> Option<Cause> {
        match self.kind {
            Kind::Syntax | Kind::EarlyEnd | Kind::NoSymbol => self
                .reserved()
                .or_else(|| self.sign())
                .or_else(|| self.idiom())
                .or_else(|| self.spelling())
                .or_else(|| self.place())
                .or_else(|| self.end()),
            Kind::EndOfFile => Cause::new("a `}` is missing: a block is still open at the end of the file"),
            Kind::Value => self.idiom().or_else(|| self.spelling()),
            Kind::CgroupMissing => self.is_inline_map().then(|| Cause::new(INLINE_MAP)).flatten(),
            Kind::Missing | Kind::Misspelt => self.missing(),
            Kind::Unsupported => self.unsupported(),
            Kind::Busy => self.busy(),
            Kind::Exists => self.exists(),
            Kind::Invalid => self.invalid(),
            Kind::Priority => self.priority(),
            Kind::Overlap => {
                Cause::new("leave one of them out, or write `auto-merge` into the set; a map has none")
            }
            Kind::NoFile => self.no_file(),
            Kind::NoFamily => {
                Cause::new("this kernel has no tables of this family: it lacks a module of nf_tables")
            }
            Kind::Variable => self.undefined(),
            Kind::NatFamily => self.nat_family(),
            Kind::Transport => {
                Cause::new("say in front of it which protocol it is for: `meta l4proto tcp` or `udp`")
            }
            Kind::AfterVerdict => {
                Cause::new("nothing may stand behind a verdict: write it in front, or into a rule of its own")
            }
            Kind::Flags => self.flags(),
            Kind::NotAMap => {
                Cause::new("a set has no values: leave the `:` and what follows it out, or make it a map")
            }
            Kind::HostUnresolved => self.address(),
            Kind::Loop => Cause::new("the chains call each other in a circle, or more than 16 deep"),
            Kind::Junk if self.written.starts_with('"') => {
                Cause::new("nothing closes this quote in its line")
            }
            Kind::InterfaceMissing
            | Kind::Junk
            | Kind::NoKey
            | Kind::Passing
            | Kind::Denied
            | Kind::TooLong
            | Kind::Other => None,
        }
    }

    /// The number of words of the body up to where nft points, that one included.
    fn end_of(&self, words: &[&Token]) -> usize {
        match self.kind {
            Kind::EarlyEnd => words.len(),
            _ => words.partition_point(|token| token.span.start < self.at.end.max(self.at.start + 1)),
        }
    }

    /// The word that nft points at.
    fn word(&self) -> Option<&'a Token> {
        let mut words = self.head.iter().chain(self.body);
        words.find(|token| token.span.start <= self.at.start && self.at.start < token.span.end).copied()
    }

    /// The word of the body that nft points at, if any, and those in front of it.
    fn body_up_to_word(&self) -> &'a [&'a Token] {
        &self.body[..self.end_of(self.body)]
    }

    fn has(&self, word: &str) -> bool {
        self.body.iter().any(|token| token.is(word))
    }

    /// A word of nft's where a name belongs.
    fn reserved(&self) -> Option<Cause> {
        if self.kind != Kind::Syntax {
            return None;
        }
        let words: Vec<&Token> = self.head.iter().chain(self.body).copied().collect();
        let at = words.iter().position(|token| token.span.start == self.at.start)?;
        let word = words[at];
        let what =
            named(&words[..at]).filter(|_| word.kind == TokenKind::Word && is_identifier(&word.text))?;
        let word = quoted(&word.text);
        Cause::new(format!(
            "here goes the name of a {what}, and {word} is a word of nft's language: choose another name"
        ))
    }

    /// What people write for something else.
    fn idiom(&self) -> Option<Cause> {
        let words = self.body_up_to_word();
        let (last, before) = words.split_last()?;
        let previous = before.last().copied();
        let next = self.body.get(words.len()).copied();
        const LEVEL: &str = "`cgroupv2` needs a level: the number of names in the path";
        let names = |path: &Token| path.unquoted().split('/').filter(|name| !name.is_empty()).count();
        if let Some(meta) = cgroup_of_v1(before, last) {
            let right = format!("socket cgroupv2 level {} \"{}\"", names(last), last.unquoted());
            let help = "`meta cgroup` is a number of cgroup v1; a unit's cgroup is matched by its path";
            return self.cgroup(help, meta.to(last.span), right);
        }
        const OF_A_SOCKET: &str = "the path of a cgroup belongs to a socket";
        match previous {
            Some(meta) if last.is("cgroupv2") && meta.is("meta") => {
                return self.cgroup(OF_A_SOCKET, meta.span, "socket".to_owned());
            }
            Some(socket) if socket.is("socket") && last.is("cgroup") => {
                return self.cgroup("a socket has a `cgroupv2`", last.span, "cgroupv2".to_owned());
            }
            Some(socket) if socket.is("socket") => {}
            _ if last.is("cgroupv2") => {
                return self.cgroup(OF_A_SOCKET, last.span, "socket cgroupv2".to_owned());
            }
            Some(cgroup) if cgroup.is("cgroupv2") && last.kind == TokenKind::Quoted => {
                let place = Span { end: last.span.start, ..last.span };
                return self.cgroup(LEVEL, place, format!("level {} ", names(last)));
            }
            Some(cgroup) if cgroup.is("cgroupv2") && nearest(&last.text, ["level"]).is_none() => {
                return Cause::new(LEVEL);
            }
            _ => {}
        }
        // nft points at the word itself, or at what follows it.
        let belongs = [Some(*last), previous].into_iter().flatten().find_map(|word| alone(word, self.body));
        if belongs.is_some() {
            return belongs;
        }
        let is_first = |token: &Token| self.body.first().is_some_and(|first| first.span == token.span);
        let is_option = |token: &Token| token.text.starts_with('-') && !token.is("-");
        let is_of_iptables = (is_first(last) && (last.is("-") || is_option(last)))
            || (last.is("-") && next.is_some_and(|token| !token.spaced))
            || self.body.first().is_some_and(|first| first.is("iptables"));
        let help = "this is the language of iptables: iptables-translate(8) says the same in nft's";
        is_of_iptables.then(|| Cause::new(help)).flatten()
    }

    /// A match of a cgroup that is written wrong.
    fn cgroup(&self, help: &str, place: Span, right: String) -> Option<Cause> {
        match self.is_annotation {
            true => Some(Cause::new(help)?.fix(place, right)),
            false => {
                Cause::new(format!("{help}: write an annotation with `socket cgroupv2 level N \"PATH\"`"))
            }
        }
    }

    fn spelling(&self) -> Option<Cause> {
        let (word, meant) = misspelt(self.body, self.end_of(self.body))?;
        let cause = Cause::new(format!("did you mean `{meant}`?"))?;
        Some(cause.at(word.span).fix(word.span, meant))
    }

    /// A sign where none belongs, or none where one does.
    fn sign(&self) -> Option<Cause> {
        let before = self.body.iter().filter(|token| token.span.start < self.at.start).count();
        let (before, rest) = self.body.split_at(before);
        let previous = before.last()?;
        let place = Span { end: self.at.start, ..self.at };
        let behind = Span { start: previous.span.end, end: previous.span.end, ..self.at };
        let is_in_list = before.iter().any(|token| token.is("{"));
        match self.written {
            "=" => return Some(Cause::new("no `=` belongs here")?.fix(behind.to(self.at), "")),
            ":" if !is_in_list => return Cause::new("no `:` belongs here"),
            "," if before[0].is("type") => {
                return Some(Cause::new("a property ends with a `;` or with its line")?.fix(self.at, ";"));
            }
            _ if rest.first().is_some_and(|token| token.text.starts_with("//")) => {
                return Cause::new("comments begin with a `#`");
            }
            "{" if previous.is("elements") => {
                return Some(Cause::new("`elements` needs a `=`")?.fix(place, "= "));
            }
            "{" => {
                let words: Vec<&Token> = self.head.iter().chain(before).copied().collect();
                return Cause::new(format!("the name of the {} is missing", named(&words)?));
            }
            "policy" if before.iter().any(|token| token.is("hook")) => {
                return Some(Cause::new("a `;` is missing in front of it")?.fix(behind, ";"));
            }
            _ => {}
        }
        self.list(before)
    }

    /// What is missing in a list in braces, up to where nft stops.
    fn list(&self, before: &[&Token]) -> Option<Cause> {
        let list =
            before.iter().rposition(|token| token.is_any(&["{", "}"])).filter(|at| before[*at].is("{"))?;
        let is_map = list.checked_sub(1).is_some_and(|at| before[at].is_any(&["map", "vmap"]))
            || before[list..].iter().any(|token| token.is(":"));
        let element = before[list + 1..].rsplit(|token| token.is(",")).next()?;
        let is_open = element.last().is_none_or(|token| token.is_any(&[":", ".", "-", "/"]));
        if is_open || self.word().is_none_or(|word| word.kind != TokenKind::Word) {
            return None;
        }
        if list == 0 && self.head.iter().any(|token| token.is("rule")) {
            return Cause::new("a rule has no braces around it");
        }
        match is_map && !element.iter().any(|token| token.is(":")) {
            true => Cause::new("a `:` is missing between a key and its value"),
            false => Cause::new("a `,` or the list's `}` is missing in front of it"),
        }
    }

    /// A statement that stands where only others do.
    fn place(&self) -> Option<Cause> {
        const OF_RULES: [&str; 20] = [
            "ip", "ip6", "tcp", "udp", "icmp", "icmpv6", "meta", "ct", "iif", "oif", "iifname", "oifname",
            "accept", "drop", "reject", "counter", "log", "limit", "jump", "socket",
        ];
        let first = self.body.first()?;
        let is_at_first = self.written == &*first.text;
        if is_at_first && first.is_any(&OF_RULES) && self.head.is_empty() && self.chain.is_none() {
            return Cause::new("a rule belongs into a chain, or behind `add rule FAMILY TABLE CHAIN`");
        }
        if is_at_first && first.is_any(&["chain", "set", "map", "table"]) && self.chain.is_some() {
            return Cause::new("it cannot stand in a chain: a `}` is missing in front of it");
        }
        let is_chain = self.body.get(..2).is_some_and(|words| words[0].is("add") && words[1].is("chain"));
        let help = "what makes a base chain of it stands in braces: `{ type … hook … priority …; }`";
        (is_chain && self.written == "type").then(|| Cause::new(help)).flatten()
    }

    /// An address that is none, or of the other family.
    fn address(&self) -> Option<Cause> {
        let address = self.written.split('/').next().unwrap_or_default();
        let is_of_addresses = |c: char| c.is_ascii_digit() || c == '.';
        match address {
            text if text.parse::<Ipv4Addr>().is_ok() => {
                Cause::new("this is an IPv4 address, and nft expects one of IPv6 here")
            }
            text if text.parse::<Ipv6Addr>().is_ok() => {
                Cause::new("this is an IPv6 address, and nft expects one of IPv4 here")
            }
            text if !text.is_empty() && text.chars().all(is_of_addresses) => Cause::new("this is no address"),
            _ => None,
        }
    }

    /// What ends too early, or where older versions of nft do not take an end.
    fn end(&self) -> Option<Cause> {
        if self.written == "}" {
            return Cause::new("end the line or write a `;` in front of it, unless it is one `}` too many");
        }
        let help = "the statement ends too early for nft: the words before its end may be misspelt";
        (self.kind == Kind::EarlyEnd).then(|| Cause::new(help)).flatten()
    }

    fn undefined(&self) -> Option<Cause> {
        let word = self.word()?;
        let name = word.text.trim_start_matches('$');
        match nearest(name, self.variables.iter().copied()) {
            Some(near) if near == name => Cause::new(
                "it is defined further down, or in another block: move its `define` above this line",
            ),
            Some(near) => {
                let right = format!("${near}");
                Cause::new(format!("did you mean {}?", quoted(&right)))
                    .map(|cause| cause.fix(word.span, right))
            }
            None => Cause::new(format!("{WRITE_A_DEFINE} above this line")),
        }
    }

    fn no_file(&self) -> Option<Cause> {
        let is_dotted = self.body.iter().any(|token| token.unquoted().starts_with('.'));
        let is_absolute = self.body.iter().any(|token| token.unquoted().starts_with('/'));
        match (is_absolute, is_dotted) {
            (true, _) => None,
            (_, true) => {
                Cause::new("nft looks for `./…` where it is started, at boot in `/`: write the absolute path")
            }
            _ => Cause::new("nft looks for it in its own directory, such as /etc: write the absolute path"),
        }
    }

    /// What does not exist.
    fn missing(&self) -> Option<Cause> {
        let words: Vec<&Token> = self.head.iter().chain(self.body).copied().collect();
        if let Some(cause) = self.missing_base() {
            return Some(cause);
        }
        let at = words.iter().position(|token| self.at.start < token.span.end)?;
        let (word, before) = (words[at], &words[..at]);
        let previous = |back: usize| before.len().checked_sub(back).map(|at| before[at]);
        let precedes = |back: usize, word: &str| previous(back).is_some_and(|token| token.is(word));
        let name = quoted(word.unquoted().trim_start_matches('@'));
        let is_target = precedes(1, "jump") || precedes(1, "goto");
        if is_target {
            return self.missing_chain(word);
        }
        if let Some(what) = what_is_removed(&words) {
            return removal(&words, what);
        }
        // nft's words have the name that it knows.
        if self.kind == Kind::Misspelt {
            return None;
        }
        let value = || words[at..].iter().take_while(|token| !token.is_any(&[",", "}"]));
        let mut pairs = value().zip(value().skip(1));
        if value().any(|token| token.is(":"))
            && let Some((_, target)) = pairs.find(|(verb, _)| verb.is_any(&["jump", "goto"]))
        {
            return self.missing_chain(target);
        }
        match word.kind {
            TokenKind::SetReference if precedes(1, "vmap") || precedes(1, "map") => {
                return Cause::new(format!("there is no map {name} in this table: add it"));
            }
            TokenKind::SetReference => {
                return Cause::new(format!(
                    "there is no set {name} in this table: add it, or write its addresses in braces"
                ));
            }
            _ => {}
        }
        let what = named(before);
        if what == Some("chain")
            && let Some(near) = nearest(&word.text, self.chains.iter().map(|(name, _)| *name))
            && *near != *word.text
        {
            let help = format!("there is no chain {name} above this line: did you mean {}?", quoted(near));
            return Some(Cause::new(help)?.fix(word.span, near));
        }
        if let Some(what) = what {
            // Where no family is written, it may be what is wrong.
            let has_family = before.iter().any(|token| token.is_any(FAMILIES));
            let family = if has_family { "" } else { "; without a family, nft takes `ip`" };
            return Cause::new(format!("there is no {what} {name} above this line{family}"));
        }
        if precedes(1, "name") || precedes(1, "set") {
            let what = previous(2).map(|token| token.text.to_string()).unwrap_or_default();
            let what = if precedes(1, "set") { format!("ct {what}") } else { what };
            return Cause::new(format!(
                "the table has no {what} object {name}: add one, outside of its chains"
            ));
        }
        if word.is("flow") {
            return Cause::new(
                "the table has no such flowtable, or this kernel has none: it needs CONFIG_NFT_FLOW_OFFLOAD",
            );
        }
        words[at..].iter().find_map(|token| module(token))
    }

    fn missing_chain(&self, target: &Token) -> Option<Cause> {
        let name = quoted(&target.text);
        let cause = match nearest(&target.text, self.chains.iter().map(|(name, _)| *name)) {
            Some(near) if *near == *target.text => {
                Cause::new(format!("{name} is made further down: move it in front"))
            }
            Some(near) => {
                let cause = Cause::new(format!(
                    "there is no chain {name} in this table: did you mean {}?",
                    quoted(near)
                ));
                cause.map(|cause| cause.fix(target.span, near))
            }
            None => {
                let chain = quoted(&format!("chain {} {{ … }}", target.text));
                Cause::new(format!("there is no chain {name} in this table: add {chain}"))
            }
        };
        cause.map(|cause| cause.at(target.span))
    }

    /// A base chain whose type or hook the kernel does not have.
    fn missing_base(&self) -> Option<Cause> {
        let base = self.base.filter(|base| base.iter().any(|token| holds(token.span, self.at)))?;
        let family = self.chain?.table.family;
        let is_of_ip = matches!(family, Family::Ip | Family::Ip6 | Family::Inet);
        match base {
            [_, kind, ..] if !is_of_ip && !kind.is("filter") => {
                Cause::new(format!("tables of the family {family} have chains of `type filter` only"))
            }
            [_, kind, ..] if kind.is("nat") => {
                Cause::new("this kernel has no NAT: it needs the module nft_chain_nat (CONFIG_NFT_NAT)")
            }
            _ => None,
        }
    }

    fn unsupported(&self) -> Option<Cause> {
        let base = self.base.map(Base::of);
        let is_head = self.head.is_empty() && self.body.iter().any(|token| token.is("chain"))
            || self.head.iter().any(|token| token.is("chain"));
        if let (Some(base), true, Some(chain)) = (&base, is_head, self.chain) {
            return base.why_not(chain.table.family);
        }
        if let (Some(chain), true) = (self.chain, self.has("socket"))
            && let Some(why) = without_sockets(chain.table.family)
        {
            return Cause::new(why);
        }
        let is_base = |name: &Token| self.chains.iter().any(|(chain, is_base)| *is_base && name.is(chain));
        let calls = |pair: &&[&Token]| pair[0].is_any(&["jump", "goto"]) && is_base(pair[1]);
        if let Some(call) = self.body.windows(2).find(calls) {
            let name = quoted(&call[1].text);
            return Cause::new(format!("{name} is a base chain, which the kernel calls: no rule can"));
        }
        self.body.iter().find_map(|token| {
            let (word, kind, hooks, module) = PLACES.iter().find(|(word, ..)| token.is(word))?;
            let is_right =
                base.as_ref().is_some_and(|base| base.kind == *kind && hooks.contains(&base.hook.as_str()));
            if is_right {
                return Cause::new(format!(
                    "perhaps this kernel lacks the module {module} ({})",
                    option(module)
                ));
            }
            let here =
                base.as_ref().map(|base| format!("; this one is `type {} hook {}`", base.kind, base.hook));
            let hooks = either(hooks);
            Cause::new(format!(
                "`{word}` is for chains of `type {kind}` at {hooks}{}",
                here.unwrap_or_default()
            ))
        })
    }

    fn busy(&self) -> Option<Cause> {
        let words: Vec<&Token> = self.head.iter().chain(self.body).copied().collect();
        match what_is_removed(&words) {
            Some("chain") => {
                Cause::new("something still calls the chain: delete the rules and elements that do, first")
            }
            Some("rule") | None => None,
            Some(what) => Cause::new(format!("a rule still uses the {what}: delete that first")),
        }
    }

    fn exists(&self) -> Option<Cause> {
        let words: Vec<&Token> = self.head.iter().chain(self.body).copied().collect();
        if words.first().is_some_and(|token| token.is("create")) {
            let verb = words[0].span;
            return Cause::new("`create` fails if it is there already, and `add` does not")
                .map(|cause| cause.fix(verb, "add"));
        }
        let what = words
            .iter()
            .find(|token| token.is_any(&["chain", "set", "map", "flowtable", "elements", "element"]))?;
        match &*what.text {
            "elements" | "element" => {
                Cause::new("the map has another value for this key: leave one of the two out")
            }
            what => Cause::new(format!(
                "there is another {what} of this name already, of another kind: choose another name, or delete the first"
            )),
        }
    }

    /// An element of a map without its value.
    fn invalid(&self) -> Option<Cause> {
        let is_element = self.body.first().is_some_and(|token| token.is("elements"))
            || self.head.iter().any(|token| token.is("element"));
        let end = self.end_of(self.body);
        let has_value = self.body.get(end).is_some_and(|token| token.is(":"));
        let help = "an element of a map needs a value: `KEY : VALUE`, such as `22 : accept`";
        (is_element && !has_value).then(|| Cause::new(help)).flatten()
    }

    fn priority(&self) -> Option<Cause> {
        let base = self.base?;
        let family = self.chain?.table.family;
        let at = base.iter().position(|token| token.is("priority"))?;
        let word = base.get(at + 1)?;
        let hook = Base::of(base).hook;
        let known: &[_] = match family {
            Family::Ip | Family::Ip6 | Family::Inet => &PRIORITIES,
            Family::Bridge => &BRIDGE_PRIORITIES,
            Family::Arp | Family::Netdev => &PRIORITIES[3..4],
        };
        if let Some((name, number, only)) = known.iter().find(|(name, ..)| word.is(name)) {
            let only = only.unwrap_or_default();
            let cause = Cause::new(format!(
                "`{name}` is a name of {number} at the hook {only} only, and this is {hook}"
            ))?;
            return Some(cause.at(word.span).fix(word.span, number.to_string()));
        }
        let names =
            known.iter().filter(|(.., only)| only.is_none_or(|only| only == hook)).map(|(name, ..)| *name);
        match nearest(&word.text, names.clone()) {
            Some(near) => {
                Some(Cause::new(format!("did you mean `{near}`?"))?.at(word.span).fix(word.span, near))
            }
            None => {
                let names: Vec<&str> = names.collect();
                let cause = Cause::new(format!(
                    "write a number, or a name that there is at this hook: {}",
                    either(&names)
                ))?;
                Some(cause.at(word.span))
            }
        }
    }

    fn nat_family(&self) -> Option<Cause> {
        let verb = self.body.iter().position(|token| token.is_any(&["dnat", "snat"]))?;
        let place = self.body[verb].span;
        let address = self.body.get(verb + 1..)?.iter().find(|token| !token.is("to"))?;
        let family = if address.text.contains(':') || address.is("[") { "ip6" } else { "ip" };
        let place = Span { start: place.end, ..place };
        Cause::new(format!(
            "a table of the family inet has addresses of both kinds: say which, `{} {family} to`",
            self.body[verb].text
        ))
        .map(|cause| cause.fix(place, format!(" {family}")))
    }

    fn flags(&self) -> Option<Cause> {
        match self.has("!") {
            true => Cause::new("write `!=` for what is not to match"),
            false => Cause::new("write several values in braces: `{ 22, 23 }`"),
        }
    }

    fn is_inline_map(&self) -> bool {
        let up_to = self.body_up_to_word();
        let map = up_to.iter().rposition(|token| token.is_any(&["vmap", "map"]));
        map.is_some_and(|at| up_to.get(at + 1).is_some_and(|token| token.is("{")))
    }
}

/// What `type … hook … priority …` says.
struct Base {
    kind: String,
    hook: String,
    priority: Option<i64>,
}

impl Base {
    fn of(words: &[Token]) -> Self {
        let behind = |word: &str| {
            let at = words.iter().position(|token| token.is(word));
            at.and_then(|at| words.get(at + 1)).map(|token| token.text.to_string()).unwrap_or_default()
        };
        let priority = words.iter().position(|token| token.is("priority")).map(|at| &words[at + 1..]);
        Self { kind: behind("type"), hook: behind("hook"), priority: priority.and_then(number) }
    }

    /// Why a table of this family has no such chain.
    fn why_not(&self, family: Family) -> Option<Cause> {
        let Self { kind, hook, priority } = self;
        let hooks: &[&str] = match family {
            Family::Ip | Family::Ip6 | Family::Inet => HOOKS.iter().find(|(known, _)| known == kind)?.1,
            Family::Bridge => &["prerouting", "input", "forward", "output", "postrouting"],
            Family::Arp => &["input", "output"],
            Family::Netdev => &["ingress", "egress"],
        };
        if !hooks.contains(&hook.as_str()) {
            let hooks = either(hooks);
            return Cause::new(format!(
                "chains of `type {kind}` in tables of the family {family} are at {hooks}"
            ));
        }
        if kind == "nat" && priority.is_some_and(|priority| priority <= -200) {
            return Cause::new(
                "NAT needs connection tracking, which comes at -200: its priority must be greater, such as `dstnat` (-100) or `srcnat` (100)",
            );
        }
        Cause::new(
            "what makes a base chain of a chain cannot be changed: if there is one of this name already, delete it first, as `flush ruleset` or `delete chain` does",
        )
    }
}

/// The number of a priority: `-250`, `filter - 10`.
fn number(words: &[Token]) -> Option<i64> {
    let text = text_of(words).replace(' ', "");
    let (name, rest) = match PRIORITIES.iter().find(|(name, ..)| text.starts_with(name)) {
        Some((name, number, _)) => (*number, &text[name.len()..]),
        None => (0, &*text),
    };
    match rest {
        "" => Some(name),
        rest => rest.parse::<i64>().ok()?.checked_add(name),
    }
}

/// `meta cgroup "path"` or `cgroup "path"`: where it begins.
fn cgroup_of_v1(before: &[&Token], path: &Token) -> Option<Span> {
    let is_path =
        path.text.contains(|c: char| c.is_ascii_alphabetic()) && path.unquoted().contains(['/', '.']);
    let (keyword, before) = before.split_last()?;
    let meta = before.last().filter(|token| token.is("meta"));
    let is_socket = before.last().is_some_and(|token| token.is("socket"));
    (is_path && keyword.is("cgroup") && !is_socket).then(|| meta.unwrap_or(keyword).span)
}

/// A word that belongs behind a protocol or the like, and has none in front of it.
fn alone(word: &Token, words: &[&Token]) -> Option<Cause> {
    let at = words.iter().position(|token| token.span == word.span)?;
    let before = at.checked_sub(1).map(|before| words[before]);
    let follows = |known: &[&str]| before.is_some_and(|token| token.is_any(known) || token.is("."));
    let is_misspelt =
        before.is_some_and(|token| misspelt(words, at).is_some_and(|(word, _)| word.span == token.span));
    let name = &word.text;
    let help = match &**name {
        _ if is_misspelt => return None,
        "dport" | "sport" if !follows(&["tcp", "udp", "th", "sctp", "dccp", "udplite"]) => {
            format!("ports belong to a protocol: `tcp {name}`, `udp {name}` or, for both, `th {name}`")
        }
        "saddr" | "daddr" if !follows(&["ip", "ip6", "ether", "arp", "fib", "ct", "original", "reply"]) => {
            format!("addresses belong to a protocol: `ip {name}` or `ip6 {name}`")
        }
        "protocol" if !follows(&["ip", "ct", "meta", "original", "reply"]) => {
            "write `meta l4proto` or `ip protocol`".to_owned()
        }
        "state" | "status" if !follows(&["ct"]) => {
            let cause = Cause::new("the state is one of a connection's: `ct state`")?;
            return Some(cause.at(word.span).fix(word.span, format!("ct {name}")));
        }
        "dport" | "sport" if at > 1 && words[at - 2].is_any(&["protocol", "l4proto", "nexthdr"]) => {
            let protocol = &words[at - 1].text;
            format!("`{protocol} {name}` compares the protocol, too: leave out what stands in front of it")
        }
        "established" | "related" | "new" | "invalid" if before.is_none() => {
            let cause = Cause::new("the state is one of a connection's: `ct state`")?;
            return Some(cause.at(word.span).fix(word.span, format!("ct state {name}")));
        }
        "echo-request" | "echo-reply" if follows(&["icmp", "icmpv6"]) => {
            let cause = Cause::new("`type` is missing")?;
            return Some(cause.at(word.span).fix(word.span, format!("type {name}")));
        }
        _ => return None,
    };
    Some(Cause::new(help)?.at(word.span))
}

/// What a word behind these ones names, if they are the beginning of a statement that names something.
fn named(before: &[&Token]) -> Option<&'static str> {
    const NAMED: [&str; 8] = ["table", "chain", "set", "map", "flowtable", "rule", "element", "variable"];
    const VERBS: [&str; 8] = ["add", "create", "insert", "replace", "delete", "destroy", "flush", "list"];
    let has_verb = before.first().is_some_and(|token| token.is_any(&VERBS));
    let (what, rest) = before[usize::from(has_verb)..].split_first()?;
    if before.len() == 1 && what.is_any(&["define", "redefine"]) {
        return Some("variable");
    }
    if let [.., last] = before
        && last.is_any(&["jump", "goto"])
    {
        return Some("chain");
    }
    let what = NAMED.into_iter().find(|known| what.is(known))?;
    let has_family = rest.first().is_some_and(|token| token.is_any(FAMILIES));
    let names = rest.len() - usize::from(has_family);
    match (has_verb, what, names) {
        (_, "table", 0) | (true, _, 0) => Some("table"),
        (true, "rule", 1) => Some("chain"),
        (true, "element", 1) => Some("set"),
        (true, what, 1) if what != "table" => Some(what),
        (false, "chain" | "set" | "map" | "flowtable", 0) => Some(what),
        _ => None,
    }
}

/// Something is to be deleted or emptied that is not there.
fn removal(words: &[&Token], what: &str) -> Option<Cause> {
    if what != "table" {
        let help = format!("leave it out: no such {what} is made above this line");
        return Cause::new(help);
    }
    let help = "the first load finds no such table: make it in front, or write `destroy table` (nftables 1.0.7 and later)";
    let start = words.first()?.span;
    let table = text_of(words[2..].iter().copied());
    Some(Cause::new(help)?.fix(Span { end: start.start, ..start }, format!("table {}\n", table.trim())))
}

/// What a `delete`, `flush` or the like is for.
fn what_is_removed(words: &[&Token]) -> Option<&'static str> {
    const OBJECTS: [&str; 8] = ["table", "chain", "set", "map", "flowtable", "rule", "element", "counter"];
    let [verb, what, ..] = words else { return None };
    let known = verb.is_any(&["delete", "flush", "reset", "destroy"]).then_some(what)?;
    OBJECTS.into_iter().find(|object| known.is(object))
}

/// What the kernel lacks that has no such statement.
fn module(token: &Token) -> Option<Cause> {
    let places = PLACES.iter().map(|(word, .., module)| (*word, *module));
    let (word, module) = places.chain(MODULES).find(|(word, _)| token.is(word))?;
    Cause::new(format!("this kernel has no `{word}`: it needs the module {module} ({})", option(module)))
}

/// `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

/// The option of the kernel that a module is built with.
fn option(module: &str) -> String {
    format!("CONFIG_{}", module.to_uppercase())
}

fn holds(whole: Span, part: Span) -> bool {
    whole.file == part.file && whole.start <= part.start && part.start < whole.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{
        Code, FileId,
        token::{Joined, tokenize},
    };

    fn tokens(text: &str) -> Vec<Token> {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        tokenize(&joined).tokens
    }

    /// The help for a statement that nft refuses at this word, in a chain of these properties.
    fn help(kind: Kind, text: &str, word: &str, base: &str) -> Option<String> {
        let start = text.find(word).unwrap();
        let at = Span { file: FileId(0), start, end: start + word.len() };
        let (body, base) = (tokens(text), tokens(base));
        let table = crate::model::TableRef { family: Family::Inet, name: "f".into() };
        let chain = ChainRef { table, name: "c".into() };
        let refused = Refused {
            kind,
            at,
            written: word,
            head: &[],
            body: &body.iter().collect::<Vec<_>>(),
            chain: Some(&chain),
            is_annotation: false,
            base: (!base.is_empty()).then_some(&base),
            variables: &["LAN"],
            chains: &[("mail", false), ("web", false), ("input", true)],
        };
        explained(Diagnostic::new(Code::Base, at, "x"), &refused).help
    }

    #[test]
    fn what_the_kernel_lacks_is_named_with_its_option() {
        for (text, word, module) in [
            ("queue num 0", "queue", "nft_queue (CONFIG_NFT_QUEUE)"),
            ("tcp dport 80 masquerade", "masquerade", "nft_masq (CONFIG_NFT_MASQ)"),
            ("socket transparent 1 accept", "socket", "nft_socket (CONFIG_NFT_SOCKET)"),
            ("fib saddr type local accept", "fib", "nft_fib_inet (CONFIG_NFT_FIB_INET)"),
            ("tcp dport 80 tproxy to :80", "tcp", "nft_tproxy (CONFIG_NFT_TPROXY)"),
        ] {
            let help = help(Kind::Missing, text, word, "").unwrap_or_default();
            assert!(help.ends_with(&format!("it needs the module {module}")), "{text}: {help}");
        }
        let nat =
            help(Kind::Missing, "type nat hook output priority 0", "nat", "type nat hook output priority 0");
        assert!(nat.unwrap().contains("CONFIG_NFT_NAT"));
    }

    #[test]
    fn priorities_of_nat_are_read_as_nft_does() {
        let why = |base: &str| help(Kind::Unsupported, "chain c", "c", base).unwrap_or_default();
        for priority in ["-200", "-250", "raw", "mangle - 50", "mangle-100"] {
            let help = why(&format!("type nat hook output priority {priority}"));
            assert!(help.contains("connection tracking"), "{priority}: {help}");
        }
        for priority in ["-199", "0", "dstnat", "mangle + 50", "mangle - 49"] {
            let help = why(&format!("type nat hook output priority {priority}"));
            assert!(help.contains("cannot be changed"), "{priority}: {help}");
        }
        assert!(why("type route hook input priority 0").ends_with("are at output"));
    }

    #[test]
    fn statement_at_the_wrong_hook_is_told_where_it_belongs() {
        let why = |text: &str, base: &str| help(Kind::Unsupported, text, text, base).unwrap_or_default();
        let filter = "type filter hook forward priority 0";
        assert!(why("tcp dport 1 masquerade", filter).ends_with("this one is `type filter hook forward`"));
        assert!(why("masquerade", "type nat hook postrouting priority 0").contains("CONFIG_NFT_MASQ"));
        assert_eq!(why("counter accept", filter), "");
        assert!(why("tcp dport 22 jump input", filter).starts_with("`input` is a base chain"));
    }

    #[test]
    fn what_is_missing_is_named_by_what_stands_before_it() {
        let why = |text: &str, word: &str| help(Kind::Missing, text, word, "").unwrap_or_default();
        assert!(why("jump wbe", "wbe").ends_with("did you mean `web`?"));
        assert!(why("jump nothing", "nothing").ends_with("add `chain nothing { … }`"));
        assert!(why("jump web", "web").contains("further down"));
        assert!(why("tcp dport vmap @none", "@none").starts_with("there is no map `none`"));
        assert!(why("ip saddr @none accept", "@none").starts_with("there is no set `none`"));
        assert!(why("quota name none accept", "none").starts_with("the table has no quota object `none`"));
        assert!(why("ct timeout set \"none\"", "\"none\"").contains("ct timeout object `none`"));
        assert!(why("delete table inet f", "f").contains("in front"));
        assert!(why("flush chain inet f c", "c").contains("no such chain"));
        assert_eq!(why("tcp dport 22 accept", "tcp"), "");
    }

    #[test]
    fn names_that_are_words_of_nft_are_told_from_misspelt_words() {
        let why = |text: &str, word: &str| help(Kind::Syntax, text, word, "").unwrap_or_default();
        for (text, word, what) in [
            ("chain accept", "accept", "chain"),
            ("set ip", "ip", "set"),
            ("table inet log", "log", "table"),
            ("add chain inet f mark", "mark", "chain"),
            ("add element inet f dnat", "dnat", "set"),
            ("define type = 1", "type", "variable"),
            ("jump log", "log", "chain"),
        ] {
            let help = why(text, word);
            assert!(
                help.starts_with(&format!("here goes the name of a {what}, and `{word}`")),
                "{text}: {help}"
            );
        }
        assert_eq!(why("udpp dport 53 accept", "dport"), "did you mean `udp`?");
        assert!(why("dport 53 accept", "dport").starts_with("ports belong to a protocol"));
        assert_eq!(why("tcp dport 22 accept", "22"), "");
    }

    #[test]
    fn signs_are_missed_and_found_too_many() {
        let why = |text: &str, word: &str| help(Kind::Syntax, text, word, "").unwrap_or_default();
        assert!(why("tcp dport { 22, 80 accept", "accept").starts_with("a `,` or the list's `}`"));
        assert!(why("tcp dport vmap { 22 : accept, 80 drop }", "drop").starts_with("a `:` is missing"));
        assert_eq!(why("tcp dport = 22", "="), "no `=` belongs here");
        assert!(why("elements { 22 }", "{").ends_with("needs a `=`"));
        assert!(why("type filter hook input priority 0 policy drop", "policy").starts_with("a `;`"));
        assert_eq!(why("accept // x", "//"), "comments begin with a `#`");
        assert!(why("add chain inet f c type filter", "type").contains("in braces"));
    }

    #[test]
    fn variables_that_are_not_defined_are_told_what_is() {
        let why = |text: &str, word: &str| help(Kind::Variable, text, word, "").unwrap_or_default();
        assert_eq!(why("ip saddr $LNA accept", "LNA"), "did you mean `$LAN`?");
        assert!(why("ip saddr $LAN accept", "LAN").starts_with("it is defined further down"));
        assert!(why("ip saddr $VPN accept", "VPN").starts_with(WRITE_A_DEFINE));
    }

    #[test]
    fn addresses_are_told_from_those_of_the_other_family() {
        let why = |text: &str, word: &str| help(Kind::HostUnresolved, text, word, "").unwrap_or_default();
        assert!(why("ip saddr ::1", "::1").starts_with("this is an IPv6 address"));
        assert!(why("ip6 saddr 192.0.2.0/24", "192.0.2.0/24").starts_with("this is an IPv4 address"));
        assert_eq!(why("ip saddr 192.0.2.300", "192.0.2.300"), "this is no address");
        assert_eq!(why("ip saddr mail", "mail"), "");
    }

    #[test]
    fn hostile_names_stay_in_one_line() {
        let text = format!("jump x\u{1b}[1m{}", "y".repeat(100));
        let help = help(Kind::Missing, &text, &text[5..], "").unwrap();
        assert!(!help.contains('\u{1b}') && help.len() < 200, "{help}");
    }
}
