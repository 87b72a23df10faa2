//! nft's complaints about a file's own statements to diagnostics, and to what the next round needs. Pure.

use crate::{
    findings::{
        BY_NAME, ONLY_SOME_HOOKS,
        cause::{Refused, explained, without_sockets},
    },
    model::{CgroupPath, ChainRef, UNIT_TYPES},
    nft::complaint::{Complaint, Kind},
    policy::Define,
    text::{
        Code, Diagnostic, Item, ItemKind, Outline, OutlinedBlock, Span, Token, TokenKind, diagnostic::quoted,
        token::text_of,
    },
    units::places,
};

/// What lets nft come to its next complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Repair {
    /// Make an interface of this name.
    Interface(String),
    /// Find addresses for this host name.
    Host(String),
    /// Make the cgroups that the files name.
    Cgroups,
    /// Do without this flowtable, and without the rules that use it.
    Flowtable(String),
    /// Do without byte order mark and carriage returns.
    Junk,
    /// Do without the statement.
    Without,
}

/// Where a complaint leads.
pub(super) struct Place<'a> {
    pub(super) span: Span,
    /// The outline and the text of its file.
    pub(super) outline: &'a Outline,
    pub(super) text: &'a str,
    /// Devices of chains and flowtables that do not exist, with their places.
    pub(super) missing: &'a [(String, Span)],
    /// The variables of all files.
    pub(super) defines: &'a [Define],
}

impl<'a> Place<'a> {
    /// What is written there, without quotes.
    fn word(&self) -> &'a str {
        self.text.get(self.span.start..self.span.end).unwrap_or_default().trim_matches('"')
    }

    /// The statement, in front of its own words and from there on; where it opens a block, its line.
    fn statement(&self) -> (&'a [Token], &'a [Token]) {
        let outline = self.outline;
        let Some(item) = outline.item_at(self.span) else {
            let start = self.text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
            let end = self.text[self.span.end..].find('\n').map_or(self.text.len(), |at| self.span.end + at);
            let at = |byte| outline.tokens.partition_point(|token| token.span.start < byte);
            return (&[], &outline.tokens[at(start)..at(end).max(at(start))]);
        };
        let body = match &item.kind {
            ItemKind::Rule(_, at) => *at,
            ItemKind::Elements if !outline.tokens_of(item)[0].is("elements") => {
                let list = outline.tokens_of(item).iter().position(|token| token.is("{"));
                item.tokens.start + list.unwrap_or_default()
            }
            _ => item.tokens.start,
        };
        (&outline.tokens[item.tokens.start..body], &outline.tokens[body..item.tokens.end])
    }

    /// The chain that it is in or is.
    fn chain(&self) -> Option<&'a ChainRef> {
        if let Some(Item { kind: ItemKind::Rule(chain, _), .. }) = self.outline.item_at(self.span) {
            return Some(chain);
        }
        let block = self.outline.blocks.iter().rev().find(|block| holds(block.span, self.span));
        block.and_then(|block| block.chain.as_ref())
    }

    /// Why its table has no cgroups, if it has none.
    fn without_sockets(&self) -> Option<String> {
        self.chain().and_then(|chain| without_sockets(chain.table.family))
    }

    /// The chains of this file's blocks, with the words that make a base chain of each that is one.
    fn chains(&self) -> impl Iterator<Item = (&'a ChainRef, Option<&'a [Token]>)> {
        let Outline { items, blocks, .. } = self.outline;
        let base = |block: &OutlinedBlock| {
            let first = items.partition_point(|item| item.span.start < block.span.start);
            let inside = items[first..].iter().take_while(|item| item.span.start < block.span.end);
            inside.map(|item| self.outline.tokens_of(item)).find(|tokens| tokens[0].is("type"))
        };
        blocks.iter().filter_map(move |block| Some((block.chain.as_ref()?, base(block))))
    }

    /// A complaint's diagnostic with its cause, if that is known.
    fn explained(&self, kind: Kind, diagnostic: Diagnostic) -> Diagnostic {
        let ((head, body), chain) = (self.statement(), self.chain());
        let table = chain.map(|chain| &chain.table);
        let known: Vec<(&ChainRef, Option<&[Token]>)> =
            self.chains().filter(|(other, _)| table.is_none_or(|table| *table == other.table)).collect();
        let chains: Vec<(&str, bool)> =
            known.iter().map(|(chain, base)| (&*chain.name, base.is_some())).collect();
        let variables: Vec<&str> = self.defines.iter().map(|define| &*define.name).collect();
        let refused = Refused {
            kind,
            at: self.span,
            written: self.text.get(self.span.start..self.span.end).unwrap_or_default(),
            is_annotation: false,
            head: &head.iter().collect::<Vec<_>>(),
            body: &body.iter().collect::<Vec<_>>(),
            chain,
            base: known.iter().filter(|(other, _)| Some(*other) == chain).find_map(|(_, base)| *base),
            variables: &variables,
            chains: &chains,
        };
        explained(diagnostic, &refused)
    }
}

/// What to make of a complaint about a place in a file.
pub(super) fn judge<P>(place: &Place<'_>, complaint: &Complaint<P>) -> (Diagnostic, Repair) {
    let Place { span, outline, text, missing, .. } = *place;
    let (word, item) = (place.word(), outline.item_at(span));
    let message = refusal(complaint);
    let refused = |code| Diagnostic::new(code, span, &*message);
    match complaint.kind {
        Kind::CgroupMissing if place.without_sockets().is_none() => {
            (plain_cgroup(place, &message), Repair::Cgroups)
        }
        Kind::InterfaceMissing if is_interface(word) => {
            (by_name(refused(Code::Interface), outline), Repair::Interface(word.to_owned()))
        }
        // What editors of other systems leave in a file.
        Kind::Junk if text[span.start..].starts_with('\r') => {
            let help = "nft takes CR LF line ends in comments only: end the lines with LF";
            (refused(Code::Base).help(help), Repair::Junk)
        }
        // The text is without it.
        Kind::Junk if span.start == 0 => {
            (refused(Code::Base).help("nft takes no byte order mark: save the file without"), Repair::Junk)
        }
        Kind::HostUnresolved if is_host_name(word) => {
            let help =
                "write an address: at boot nft loads the file before there is a network to ask for names";
            (refused(Code::BaseHost).help(help), Repair::Host(word.to_owned()))
        }
        Kind::Unsupported | Kind::CgroupMissing
            if item.is_some_and(|item| matches_cgroup(outline.tokens_of(item))) =>
        {
            let why = place.without_sockets().unwrap_or_else(|| ONLY_SOME_HOOKS.to_owned());
            (refused(Code::Hook).help(why), Repair::Without)
        }
        kind => {
            let block = outline.blocks.iter().rev().find(|block| holds(block.span, span));
            // Something that the block itself needs: a device of its own, if any is missing.
            let is_needed = kind == Kind::Missing && item.is_none_or(is_property);
            let device = missing
                .iter()
                .find(|(_, device)| is_needed && block.is_some_and(|block| holds(block.span, *device)));
            let flowtable = block.filter(|block| block.is_flowtable && (is_needed || item.is_none()));
            match (device, flowtable) {
                (Some((name, device)), _) => {
                    let help = format!("make sure that {} is made before, or leave it out", quoted(name));
                    let diagnostic = Diagnostic { span: *device, ..refused(Code::Interface) };
                    (diagnostic.help(help), Repair::Interface(name.clone()))
                }
                (None, flowtable) => {
                    let diagnostic = Diagnostic { help: complaint.help(), ..refused(Code::Base) };
                    let diagnostic = match is_needed && flowtable.is_some() {
                        true => {
                            diagnostic.help("this kernel has no flowtables: it needs CONFIG_NF_FLOW_TABLE")
                        }
                        false => place.explained(kind, diagnostic),
                    };
                    let name = flowtable.map(|block| block.name.clone());
                    (diagnostic, name.map_or(Repair::Without, Repair::Flowtable))
                }
            }
        }
    }
}

/// Whether nft only says it because of what else it says in the same round.
pub(super) fn is_consequence<P>(kind: Kind, all: &[Complaint<P>]) -> bool {
    let is_cause = |other: Kind| other != kind && (other.is_syntax() || other == Kind::Value);
    matches!(kind, Kind::NoKey | Kind::EndOfFile) && all.iter().any(|other| is_cause(other.kind))
}

/// Whether nft only says it because it has lost its way at an error before, which it cannot do without.
pub(super) fn follows(diagnostic: &Diagnostic, kind: Kind, lost: &Diagnostic) -> bool {
    let is_behind = diagnostic.span.file == lost.span.file && diagnostic.span.start > lost.span.start;
    kind.is_syntax() && is_behind && diagnostic.fix.is_none()
}

/// The commands of a file that nft would not come to the end of.
pub(super) fn endless(outline: &Outline) -> impl Iterator<Item = Span> {
    let is_endless = |item: &&Item| {
        item.kind == ItemKind::Command
            && outline.tokens_of(item).first().is_some_and(|word| word.is("monitor"))
    };
    outline.items.iter().filter(is_endless).map(|item| item.span)
}

/// What to say of such a command.
pub(super) fn never_ends(span: Span) -> Diagnostic {
    Diagnostic::new(Code::Base, span, "nft loads nothing of a file with `monitor` and waits for ever")
        .help("leave it out, and run `nft monitor` by itself")
}

/// What to say of a complaint about a file.
pub(super) fn refusal<P>(complaint: &Complaint<P>) -> String {
    format!("nft refuses the file: {}", complaint.words.replace('\n', " "))
}

fn is_property(item: &Item) -> bool {
    matches!(item.kind, ItemKind::Property | ItemKind::ChainProperty)
}

pub(super) fn holds(whole: Span, part: Span) -> bool {
    whole.file == part.file && whole.start <= part.start && part.end <= whole.end
}

fn matches_cgroup(tokens: &[Token]) -> bool {
    tokens.windows(2).any(|pair| pair[0].is("socket") && pair[1].is("cgroupv2"))
}

/// The statements that a repair does without.
pub(super) fn without(repair: &Repair, span: Span, outline: &Outline) -> Vec<Span> {
    if let Repair::Flowtable(name) = repair {
        let uses = |tokens: &[Token]| {
            tokens.iter().any(|token| token.is("flow"))
                && tokens.iter().any(|token| token.text.strip_prefix('@') == Some(name))
        };
        let rules = outline.items.iter().filter(|item| uses(outline.tokens_of(item)));
        let tables = outline.blocks.iter().filter(|block| block.is_flowtable && block.name == *name);
        return rules.map(|item| item.span).chain(tables.map(|block| block.span)).collect();
    }
    if let Some(item) = outline.item_at(span)
        && !outline.tokens_of(item)[0].is("type")
    {
        let is_removal = outline.tokens_of(item)[0].is_any(&["delete", "flush"]);
        return if item.is_dispensable() || is_removal { vec![item.span] } else { vec![] };
    }
    // All that makes a base chain of the chain: without its type, it can't have a policy either.
    let block = outline.blocks.iter().rev().find(|block| !block.is_flowtable && holds(block.span, span));
    let properties = outline.items.iter().filter(|item| item.kind == ItemKind::ChainProperty);
    let is_here = |item: &Span| block.is_some_and(|block| holds(block.span, *item));
    properties.map(|item| item.span).filter(is_here).collect()
}

/// A rule outside the annotations names a cgroup that does not exist.
pub(super) fn plain_cgroup(place: &Place<'_>, message: &str) -> Diagnostic {
    let Place { span, outline, text, .. } = *place;
    let diagnostic = Diagnostic::new(Code::PlainCgroup, span, message);
    let written = place.word();
    let Some(item) = outline.item_at(span) else { return diagnostic };
    if written.bytes().all(|byte| byte.is_ascii_digit()) {
        return diagnostic.help(
            "nft lists a cgroup that is gone as a number: write an annotation with the unit that was meant, or leave it \
             out",
        );
    }
    let ItemKind::Rule(chain, at) = &item.kind else {
        return diagnostic.help("scnpm adds it while it exists: write an `add element` annotation");
    };
    let inline = place.explained(Kind::CgroupMissing, diagnostic.clone());
    if inline.help.is_some() {
        return inline;
    }
    let is_unit = |name: &&str| {
        UNIT_TYPES.contains(&places::kind(name))
            && name.chars().all(places::is_in_name)
            && (!places::is_slice(name) || written.ends_with(name))
    };
    let Some(unit) = written.rsplit('/').find(is_unit) else {
        return diagnostic.help(
            "make it an annotation of the unit that makes the cgroup: scnpm puts it in force whenever the cgroup exists",
        );
    };
    let rule = text_of(&outline.tokens[*at..item.tokens.end]);
    let annotation = format!("# {unit} :: add rule {chain} {}", rule.trim_start());
    match line_of_its_own(item, text) {
        Some(line) => diagnostic
            .help("make it an annotation: scnpm puts it in force whenever the cgroup exists")
            .fix(line, annotation),
        None => diagnostic.help(format!("make it an annotation in a line of its own: {annotation}")),
    }
}

/// A rule or element outside the annotations names a cgroup that exists now, but not at boot.
pub(super) fn plain_cgroup_now(place: &Place<'_>, path: &CgroupPath) -> Diagnostic {
    let item = place.outline.item_at(place.span);
    let is_joined = item.is_some_and(|item| place.outline.tokens_of(item).iter().any(|token| token.is(".")));
    let (what, help) = match item.map(|item| &item.kind) {
        Some(ItemKind::Rule(..)) => ("this rule", "make it an annotation"),
        Some(ItemKind::Elements) if is_joined => ("this element", "match it in a rule that is an annotation"),
        Some(ItemKind::Elements) => ("this element", "make it an annotation: `add element`"),
        _ => ("this", "make what uses it an annotation"),
    };
    let path = quoted(path.as_str());
    let message = format!("{what} loads only while {path} exists, and goes stale when that is recreated");
    Diagnostic::new(Code::PlainCgroupNow, place.span, message).help(help)
}

/// With a warning in place of the error about an interface that exists now, but not at boot.
pub(super) fn interface_now(name: &str, refusal: Diagnostic) -> Diagnostic {
    let message =
        format!("this loads only while {} exists: at boot nft runs before it is made", quoted(name));
    Diagnostic { code: Code::InterfaceNow, message, ..refusal }
}

/// What to say of a complaint about a file that is loaded a second time.
pub(super) fn again<P>(complaint: &Complaint<P>, span: Span, files: &[Outline]) -> Diagnostic {
    let words = complaint.words.replace('\n', " ");
    let diagnostic =
        Diagnostic::new(Code::Again, span, format!("nft refuses the file when it is loaded again: {words}"));
    let flushes = |tokens: &[Token]| matches!(tokens, [a, b, ..] if a.is("flush") && b.is("ruleset"));
    if files.iter().any(|file| file.items.iter().any(|item| flushes(file.tokens_of(item)))) {
        return diagnostic;
    }
    diagnostic.help(
        "begin the file with `flush ruleset`, or with `table …` and `delete table …` for each of its tables",
    )
}

/// A device of a netdev chain or a flowtable that the machine does not have, and that its kernel can wait for.
pub(super) fn missing_device(name: &str, span: Span) -> Diagnostic {
    Diagnostic::new(Code::Device, span, format!("this machine has no interface {}", quoted(name)))
        .help("kernels before 6.16 refuse such a file; later ones wait for the interface")
}

/// A host name that was looked up.
pub(super) fn host_name(name: &str, span: Span) -> Diagnostic {
    let name = quoted(name);
    let message = format!("nft looks {name} up when it loads the file, at boot before there is a network");
    Diagnostic::new(Code::BaseHostName, span, message)
        .help("write an address, or make the rule an annotation: scnpm looks names up when it can")
}

/// The devices of a file's netdev chains and flowtables, with their places.
pub(super) fn devices(outline: &Outline, all: &[Outline]) -> Vec<(String, Span)> {
    let mut found = Vec::new();
    for item in outline.items.iter().filter(|item| is_property(item)) {
        let mut tokens = outline.tokens_of(item).iter();
        while let Some(token) = tokens.next() {
            let is_list = token.is("devices");
            if is_list || token.is("device") {
                let list = tokens.by_ref().skip_while(|token| token.is("="));
                let list = list.take_while(|token| !token.is("}") && !token.is(";"));
                let names = list.filter(|name| name.kind != TokenKind::Punctuation);
                found.extend(names.take(if is_list { usize::MAX } else { 1 }));
            }
        }
    }
    let names = found.into_iter().flat_map(|token| {
        let names = match token.kind {
            TokenKind::Variable => values(&token.text[1..], all),
            _ => vec![token],
        };
        names.into_iter().map(|name| (name.unquoted().to_owned(), token.span))
    });
    names.filter(|(name, _)| is_interface(name)).collect()
}

/// The words of a variable.
fn values<'a>(name: &str, all: &'a [Outline]) -> Vec<&'a Token> {
    let mut statements =
        all.iter().flat_map(|outline| outline.items.iter().map(|item| outline.tokens_of(item)));
    let is_define = |tokens: &&[Token]| {
        let is_verb = tokens[0].is("define") || tokens[0].is("redefine");
        is_verb && matches!(tokens, [_, variable, sign, ..] if variable.is(name) && sign.is("="))
    };
    let value = statements.rfind(is_define).map_or(&[][..], |tokens| &tokens[3..]);
    value.iter().filter(|token| matches!(token.kind, TokenKind::Word | TokenKind::Quoted)).collect()
}

/// The paths in `socket cgroupv2 level N …` of a file's own rules, with their places.
pub(super) fn plain_cgroups(outline: &Outline) -> Vec<(CgroupPath, Span)> {
    let at = |at| match &outline.tokens[at..] {
        [a, b, c, _, rest @ ..] if a.is("socket") && b.is("cgroupv2") && c.is("level") => paths(rest),
        _ => vec![],
    };
    (0..outline.tokens.len()).flat_map(at).collect()
}

fn paths(tokens: &[Token]) -> Vec<(CgroupPath, Span)> {
    let quoted = operands(tokens).filter(|token| token.kind == TokenKind::Quoted);
    quoted.filter_map(|token| Some((token.unquoted().parse().ok()?, token.span))).collect()
}

/// What something is compared with or looked up in: a word, or a list.
fn operands(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let is_operator = |token: &Token| token.is_any(&["==", "!=", "eq", "ne", "vmap", "map"]);
    let tokens = &tokens[usize::from(tokens.first().is_some_and(is_operator))..];
    let is_list = tokens.first().is_some_and(|token| token.is("{"));
    tokens.iter().take(if is_list { usize::MAX } else { 1 }).take_while(|token| !token.is("}"))
}

/// The paths of cgroups that may be in the statement at a place where nft finds one missing.
pub(super) fn cgroups_at(
    outline: &Outline,
    span: Span,
    exists: &dyn Fn(&CgroupPath) -> bool,
) -> Vec<(CgroupPath, Span)> {
    let tokens = outline.item_at(span).map(|item| outline.tokens_of(item)).unwrap_or_default();
    let path = |at: usize| {
        let token = &tokens[at];
        let path = token.unquoted().parse().ok()?;
        let is_text = at > 0 && tokens[at - 1].is_any(&["comment", "prefix", "name", ":"]);
        let is_path = token.kind == TokenKind::Quoted && (is_unit_path(token.unquoted()) || exists(&path));
        (is_named(token, span) || (is_path && !is_text)).then_some((path, token.span))
    };
    (0..tokens.len()).filter_map(path).collect()
}

/// The paths of cgroups in the elements of a file's sets and maps.
pub(super) fn cgroups_in_sets(outline: &Outline) -> Vec<(CgroupPath, Span)> {
    let sets = outline.items.iter().filter(|item| item.kind == ItemKind::Elements);
    sets.flat_map(|item| cgroups_at(outline, item.span, &|_| false)).collect()
}

/// Whether a place that nft names is this token, with its quotes or without.
fn is_named(token: &Token, place: Span) -> bool {
    token.kind != TokenKind::Punctuation && holds(token.span, place)
}

/// The places behind `iif` and `oif` with this interface.
pub(super) fn by_index(outline: &Outline, name: &str) -> Vec<Span> {
    let tokens = &outline.tokens;
    let keywords = (0..tokens.len()).filter(|at| tokens[*at].is_any(&["iif", "oif"]));
    let uses = keywords.flat_map(|at| operands(&tokens[at + 1..]).filter(|token| token.unquoted() == name));
    uses.map(|token| token.span).collect()
}

/// Whether it looks like the path of a unit's cgroup, or of one below another.
fn is_unit_path(path: &str) -> bool {
    path.contains('/') || [".slice", ".service", ".scope"].iter().any(|end| path.ends_with(end))
}

/// With `iifname` in place of the `iif` in front of an interface's name.
fn by_name(diagnostic: Diagnostic, outline: &Outline) -> Diagnostic {
    let before = outline.tokens.partition_point(|token| token.span.start < diagnostic.span.start);
    let keyword = outline.tokens[..before].last().filter(|token| token.is("iif") || token.is("oif"));
    match keyword {
        Some(keyword) => diagnostic.help(BY_NAME).fix(keyword.span, format!("{}name", keyword.text)),
        None => diagnostic.help(BY_NAME),
    }
}

/// A statement with its `;`, if nothing else stands in its lines.
fn line_of_its_own(item: &Item, text: &str) -> Option<Span> {
    let before = text[..item.span.start].rsplit('\n').next()?;
    let after = text[item.span.end..].split('\n').next()?;
    let semicolon = after.find(';').map_or(0, |at| at + 1);
    let is_alone = before.trim().is_empty() && after.trim_start_matches([' ', '\t', ';', '\r']).is_empty();
    let is_one_line = !text[item.span.start..item.span.end].contains('\n');
    (is_alone && is_one_line).then(|| Span { end: item.span.end + semicolon, ..item.span })
}

/// Whether the kernel takes it for an interface's name (`dev_valid_name`).
fn is_interface(name: &str) -> bool {
    let is_odd = |c: char| c == '/' || c == ':' || c == '*' || c.is_whitespace() || c.is_control();
    (1..16).contains(&name.len()) && name != "." && name != ".." && !name.contains(is_odd)
}

/// Whether it can be written into hosts(5).
fn is_host_name(name: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // What has no letters was meant to be an address.
    name.chars().all(is_of_names) && name.contains(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::text::FileId;

    const TEXT: &str = "\
define wan = { eth0, \"eth1\" }
table inet f {
    flowtable t { hook ingress priority 0; devices = $wan; }
    chain c {
        type filter hook output priority 0
        socket cgroupv2 level 2 \"system.slice/a.service\" tcp dport { 25, 465 } accept;
        iif \"eth9\" socket cgroupv2 level 1 != { \"a\", \"b/c.service\" } drop; accept
        ip daddr mail.example accept
    }
}
table netdev n { chain i { type filter hook ingress device eth2 priority 0; } }
";

    fn place(word: &str) -> Span {
        let start = TEXT.find(word).unwrap();
        Span { file: FileId(0), start, end: start + word.len() }
    }

    fn judged(word: &str, words: &str) -> (Diagnostic, Repair) {
        judge_in(TEXT, place(word), words, &[])
    }

    fn judge_in(text: &str, span: Span, words: &str, missing: &[(String, Span)]) -> (Diagnostic, Repair) {
        let complaint: Complaint = Complaint::unplaced(words);
        judge(
            &Place { span, outline: &Outline::of(FileId(0), text), text, missing, defines: &[] },
            &complaint,
        )
    }

    fn line_with_fix(diagnostic: &Diagnostic) -> String {
        let fix = diagnostic.fix.as_ref().unwrap();
        let mut text = TEXT.to_owned();
        text.replace_range(fix.span.start..fix.span.end, &fix.text);
        let start = text[..fix.span.start].rfind('\n').unwrap() + 1;
        text[start..].lines().next().unwrap().trim().to_owned()
    }

    #[test]
    fn a_cgroup_that_does_not_exist_is_to_be_an_annotation() {
        let found = judged("\"system.slice/a.service\"", "cgroupv2 path fails: No such file or directory");
        assert_eq!((found.0.code, found.1), (Code::PlainCgroup, Repair::Cgroups));
        assert_eq!(
            line_with_fix(&found.0),
            "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" \
             tcp dport { 25, 465 } accept"
        );
        let found = judged("\"b/c.service\"", "cgroupv2 path fails: No such file or directory");
        assert_eq!(found.0.fix, None);
        assert!(found.0.help.unwrap().contains("# c.service :: add rule inet f c iif \"eth9\" socket"));
    }

    #[test]
    fn a_cgroup_that_no_unit_makes_gets_no_annotation_that_is_made_up() {
        let judged = |path: &str| {
            let text =
                format!("table inet f {{\n chain c {{\n  socket cgroupv2 level 2 {path} accept\n }}\n}}\n");
            let start = text.find(path).unwrap();
            let span = Span { file: FileId(0), start, end: start + path.len() };
            judge_in(&text, span, "cgroupv2 path fails: No such file or directory", &[]).0
        };
        let gone = judged("12345");
        assert!(gone.fix.is_none() && gone.help.unwrap().contains("a cgroup that is gone"));
        for path in ["\"lxc/c1\"", "\"system.slice/my unit.service\""] {
            assert_eq!(judged(path).fix, None, "{path}");
        }
        let below = judged("\"system.slice/a.service/worker\"");
        assert!(below.fix.unwrap().text.starts_with("# a.service :: "));
    }

    #[test]
    fn an_interface_that_does_not_exist_is_to_be_matched_by_name() {
        let found = judged("\"eth9\"", "Interface does not exist");
        assert_eq!(found.1, Repair::Interface("eth9".to_owned()));
        assert!(line_with_fix(&found.0).starts_with("iifname \"eth9\" socket"));
    }

    #[test]
    fn a_flowtable_goes_with_the_rules_that_use_it() {
        let text = "table ip f { flowtable t { devices = { lo }; }\nchain c { accept\nip protocol tcp flow add @t\n} }";
        let outline = Outline::of(FileId(0), text);
        let start = text.find(" t {").unwrap() + 1;
        let span = Span { file: FileId(0), start, end: start + 1 };
        let words = "Could not process rule: No such file or directory";
        let lo = text.find("lo }").unwrap();
        let device = ("lo".to_owned(), Span { file: FileId(0), start: lo, end: lo + 2 });
        let found = judge_in(text, span, words, std::slice::from_ref(&device));
        assert_eq!((found.0.code, found.0.span), (Code::Interface, device.1));
        assert_eq!(found.1, Repair::Interface("lo".to_owned()));
        let found = judge_in(text, span, words, &[]);
        let spans = without(&found.1, span, &outline);
        let texts: Vec<&str> = spans.iter().map(|span| &text[span.start..span.end]).collect();
        assert_eq!(texts, ["ip protocol tcp flow add @t", "flowtable t { devices = { lo }; }"]);
    }

    #[test]
    fn host_names_are_looked_up_and_what_is_none_is_done_without() {
        let found = judged("mail.example", "Could not resolve hostname: Name or service not known");
        assert_eq!(found.1, Repair::Host("mail.example".to_owned()));
        assert!(found.0.message.ends_with("Could not resolve hostname: Name or service not known"));
        assert_eq!(judged("{ 25, 465 }", "Could not resolve hostname: x").1, Repair::Without);
        assert_eq!(judged("465", "Could not resolve hostname: x").0.code, Code::Base);
    }

    #[test]
    fn devices_are_found_through_variables() {
        let outline = Outline::of(FileId(0), TEXT);
        let names: Vec<String> =
            devices(&outline, std::slice::from_ref(&outline)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["eth0", "eth1", "eth2"]);
    }

    #[test]
    fn paths_of_a_statement_are_those_that_may_be_meant() {
        let text = "add element inet f s { \"a/b\" . \"eth0\", \"lxc\", \"c.slice\" comment \"d/e\" : \"f/g\", odd, \"init.scope\" }";
        let at = |word: &str| {
            let start = text.find(word).unwrap();
            Span { file: FileId(0), start, end: start + word.len() }
        };
        let outline = Outline::of(FileId(0), text);
        let exists = |path: &CgroupPath| path.as_str() == "lxc";
        let found = |span| -> Vec<String> {
            cgroups_at(&outline, span, &exists).into_iter().map(|(path, _)| path.to_string()).collect()
        };
        assert_eq!(found(at("\"a/b\"")), ["a/b", "lxc", "c.slice", "init.scope"]);
        assert_eq!(found(at("odd")), ["a/b", "lxc", "c.slice", "odd", "init.scope"]);
    }

    #[test]
    fn all_that_is_compared_with_an_interface_by_its_index_is_found() {
        let text = "table ip f { chain wg0 { iif wg0 jump wg0\noif vmap { lo : drop, \"wg0\" : drop }\niifname wg0 drop } }";
        let spans = by_index(&Outline::of(FileId(0), text), "wg0");
        let found: Vec<&str> = spans.iter().map(|span| &text[span.start..span.end]).collect();
        assert_eq!(found, ["wg0", "\"wg0\""]);
    }

    #[test]
    fn flush_is_no_help_where_it_is_there() {
        let said = |text| {
            let outline = Outline::of(FileId(0), text);
            let complaint: Complaint = Complaint::unplaced("Could not process rule: File exists");
            again(&complaint, Span { file: FileId(0), start: 0, end: 6 }, &[outline]).help.is_some()
        };
        assert!(said("create table ip f") && !said("flush ruleset\ncreate table ip f"));
    }

    #[test]
    fn plain_paths_are_found() {
        let paths: BTreeSet<String> = plain_cgroups(&Outline::of(FileId(0), TEXT))
            .into_iter()
            .map(|(path, _)| path.to_string())
            .collect();
        assert_eq!(paths, ["a", "b/c.service", "system.slice/a.service"].map(str::to_owned).into());
    }
}
