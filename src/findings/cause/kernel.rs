//! What the kernel refuses, or lacks: chains and sets that are not there, hooks, priorities, modules. Pure.

use super::{super::spelling::FAMILIES, Cause, Refused, named, without_sockets};
use crate::{
    model::Family,
    nft::complaint::Kind,
    text::{Span, Token, TokenKind, diagnostic::quoted, nearest::nearest, token::text_of},
};

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

impl Refused<'_> {
    /// What does not exist.
    pub(super) fn missing(&self) -> Option<Cause> {
        let words = self.words();
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

    /// A base chain that the kernel has no such type or hook for, or that it does not make of another chain.
    pub(super) fn chain_type(&self) -> Option<Cause> {
        self.missing_base().or_else(|| Base::of(self.base?).why_not(self.chain?.table.family))
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
            [_, kind, ..] if kind.is("nat") && self.kind == Kind::Missing => {
                Cause::new("this kernel has no NAT: it needs the module nft_chain_nat (CONFIG_NFT_NAT)")
            }
            _ => None,
        }
    }

    pub(super) fn unsupported(&self) -> Option<Cause> {
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

    pub(super) fn busy(&self) -> Option<Cause> {
        let words = self.words();
        match what_is_removed(&words) {
            Some("chain") => {
                Cause::new("something still calls the chain: delete the rules and elements that do, first")
            }
            Some("rule") | None => None,
            Some(what) => Cause::new(format!("a rule still uses the {what}: delete that first")),
        }
    }

    pub(super) fn exists(&self) -> Option<Cause> {
        let words = self.words();
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
    pub(super) fn invalid(&self) -> Option<Cause> {
        let is_element = self.body.first().is_some_and(|token| token.is("elements"))
            || self.head.iter().any(|token| token.is("element"));
        let end = self.end_of(self.body);
        let has_value = self.body.get(end).is_some_and(|token| token.is(":"));
        let help = "an element of a map needs a value: `KEY : VALUE`, such as `22 : accept`";
        (is_element && !has_value).then(|| Cause::new(help)).flatten()
    }

    pub(super) fn priority(&self) -> Option<Cause> {
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
