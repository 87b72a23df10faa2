//! What nft itself refuses, before the kernel sees it: syntax, words, variables, addresses, files. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{super::spelling::misspelt, Cause, Refused, named};
use crate::{
    nft::complaint::Kind,
    policy::WRITE_A_DEFINE,
    text::{Span, Token, TokenKind, diagnostic::quoted, nearest::nearest, token::is_identifier},
};

/// What to do about paths in the braces of a `vmap` or `map`.
pub(super) const INLINE_MAP: &str = "make it a map of the table, `map NAME { type cgroupsv2 : verdict; }`, look it up with \
    `socket cgroupv2 level N vmap @NAME`, and add each path with an annotation: \
    `# UNIT :: add element FAMILY TABLE NAME { \"PATH\" : VERDICT }`";

impl Refused<'_> {
    /// A word of nft's where a name belongs.
    pub(super) fn reserved(&self) -> Option<Cause> {
        if self.kind != Kind::Syntax {
            return None;
        }
        let words = self.words();
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
    pub(super) fn idiom(&self) -> Option<Cause> {
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
            Some(level) if level.is("level") && last.kind == TokenKind::Quoted => {
                let place = Span { end: last.span.start, ..last.span };
                return self.cgroup(LEVEL, place, format!("{} ", names(last)));
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

    pub(super) fn spelling(&self) -> Option<Cause> {
        let (word, meant) = misspelt(self.body, self.end_of(self.body))?;
        let cause = Cause::new(format!("did you mean `{meant}`?"))?;
        Some(cause.at(word.span).fix(word.span, meant))
    }

    /// A sign where none belongs, or none where one does.
    pub(super) fn sign(&self) -> Option<Cause> {
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
    pub(super) fn place(&self) -> Option<Cause> {
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
    pub(super) fn address(&self) -> Option<Cause> {
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
    pub(super) fn end(&self) -> Option<Cause> {
        if self.written == "}" {
            return Cause::new("end the line or write a `;` in front of it, unless it is one `}` too many");
        }
        let help = "the statement ends too early for nft: the words before its end may be misspelt";
        (self.kind == Kind::EarlyEnd).then(|| Cause::new(help)).flatten()
    }

    pub(super) fn undefined(&self) -> Option<Cause> {
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

    pub(super) fn no_file(&self) -> Option<Cause> {
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

    pub(super) fn nat_family(&self) -> Option<Cause> {
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

    pub(super) fn flags(&self) -> Option<Cause> {
        match self.has("!") {
            true => Cause::new("write `!=` for what is not to match"),
            false => Cause::new("write several values in braces: `{ 22, 23 }`"),
        }
    }

    pub(super) fn is_inline_map(&self) -> bool {
        let up_to = self.body_up_to_word();
        let map = up_to.iter().rposition(|token| token.is("vmap"));
        map.is_some_and(|at| up_to.get(at + 1).is_some_and(|token| token.is("{")))
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
