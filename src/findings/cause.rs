//! What causes that nft refuses a statement, told from its complaint and from the statement. Pure.
//!
//! The same table is for the files' own statements and for annotations. [`syntax`] has what nft itself refuses, [`kernel`] what
//! the kernel does.

mod kernel;
mod syntax;

use super::spelling::FAMILIES;
use crate::{
    model::{ChainRef, Family},
    nft::complaint::Kind,
    text::{Diagnostic, Span, Token},
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
            Kind::CgroupMissing => self.is_inline_map().then(|| Cause::new(syntax::INLINE_MAP)).flatten(),
            Kind::Missing | Kind::Misspelt => self.missing(),
            Kind::ChainType => self.chain_type(),
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

    /// All words of the statement.
    fn words(&self) -> Vec<&'a Token> {
        self.head.iter().chain(self.body).copied().collect()
    }

    fn has(&self, word: &str) -> bool {
        self.body.iter().any(|token| token.is(word))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::WRITE_A_DEFINE,
        text::{
            Code, FileId,
            token::{Joined, tokenize},
        },
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
        let base = "type nat hook forward priority 0";
        let later = help(Kind::ChainType, base, base, base).unwrap();
        assert!(later.ends_with("are at prerouting, input, output or postrouting"), "{later}");
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
