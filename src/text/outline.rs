//! Where the statements of a file's own ruleset begin and end, and which of them are rules: enough to point at one
//! and to do without it. What they mean is nft's business.

use std::ops::Range;

use super::{
    FileId, Span, Token,
    token::{Joined, Piece, pieces},
};
use crate::model::{ChainRef, Family, TableRef};

/// The statements of a file outside its comments, in order.
#[derive(Debug, Clone, Default)]
pub struct Outline {
    /// All tokens.
    pub tokens: Vec<Token>,
    /// The innermost statements: what opens a block is none itself.
    pub items: Vec<Item>,
    /// The blocks of chains and flowtables.
    pub blocks: Vec<OutlinedBlock>,
    /// The bytes at which the braces of tables and chains, which have variables of their own, open (`true`) and close.
    pub scopes: Vec<(usize, bool)>,
}

/// A block of a chain or a flowtable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlinedBlock {
    /// Whether it is a flowtable.
    pub is_flowtable: bool,
    /// Its name.
    pub name: String,
    /// The chain, if it is one.
    pub chain: Option<ChainRef>,
    /// From its first word to the closing brace.
    pub span: Span,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its tokens in [`Outline::tokens`].
    pub tokens: Range<usize>,
    /// Where it stands.
    pub span: Span,
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A rule of this chain, whose own words begin at this token.
    Rule(ChainRef, usize),
    /// Elements of a set or map, with the set or added to it.
    Elements,
    /// What makes a base chain of a chain, or says something of it.
    ChainProperty,
    /// A property of a flowtable, set or other object.
    Property,
    /// Anything else that stands outside of blocks: `define`, `include`, `flush ruleset` …
    Command,
}

impl Item {
    /// Whether nft can make sense of the rest of the file without it.
    pub fn is_dispensable(&self) -> bool {
        matches!(self.kind, ItemKind::Rule(..) | ItemKind::Elements | ItemKind::ChainProperty)
    }
}

impl Outline {
    /// The outline of a file's text.
    pub fn of(file: FileId, text: &str) -> Self {
        let mut whole = Joined::new(file);
        whole.push(text, 0);
        let mut reader =
            Reader { pieces: pieces(&whole), blocks: Vec::new(), is_broken: false, outline: Self::default() };
        while reader.statement() {}
        reader.outline
    }

    /// The statement that a place is in, or at whose end it is: there nft stumbles over the end of a line.
    pub fn item_at(&self, place: Span) -> Option<&Item> {
        let after = self.items.partition_point(|item| item.span.start <= place.start);
        self.items[..after].last().filter(|item| place.start <= item.span.end)
    }

    /// A statement's tokens.
    pub fn tokens_of(&self, item: &Item) -> &[Token] {
        &self.tokens[item.tokens.clone()]
    }
}

/// A block that is open.
enum Block {
    Table(TableRef),
    Chain(ChainRef),
    Flowtable(String),
    /// A set, map or other object.
    Object,
}

/// What makes a block of its own, besides `table`.
const OBJECTS: [&str; 9] = ["chain", "set", "map", "counter", "quota", "limit", "secmark", "synproxy", "ct"];

/// What says something of a chain itself.
const CHAIN_PROPERTIES: [&str; 6] = ["type", "policy", "device", "devices", "flags", "comment"];

struct Reader<I> {
    pieces: I,
    /// The open blocks, and the first token of each.
    blocks: Vec<(Block, usize)>,
    /// Whether nothing closes a list: then every line's end is a statement's.
    is_broken: bool,
    outline: Outline,
}

impl<I: Iterator<Item = Piece> + Clone> Reader<I> {
    /// Reads a statement up to its end, or to the block that it opens; whether there may be another.
    fn statement(&mut self) -> bool {
        let first = self.outline.tokens.len();
        let mut depth = 0_usize;
        let mut line = None;
        loop {
            let token = match self.pieces.next() {
                Some(Piece::Token(token) | Piece::Unterminated(token)) => token,
                Some(Piece::Comment(_)) => continue,
                Some(Piece::LineEnd) if depth > 0 && !self.is_broken => {
                    line.get_or_insert_with(|| (self.pieces.clone(), self.outline.tokens.len()));
                    continue;
                }
                Some(Piece::LineEnd) if self.outline.tokens.len() == first => continue,
                Some(Piece::LineEnd) => break,
                None => {
                    self.is_broken = depth > 0;
                    let Some((pieces, end)) = line.filter(|_| depth > 0) else {
                        self.item(first);
                        return false;
                    };
                    self.pieces = pieces;
                    self.outline.tokens.truncate(end);
                    break;
                }
            };
            if depth == 0 && token.is(";") {
                break;
            }
            if depth == 0 && token.is("}") {
                self.item(first);
                self.close(token.span);
                return true;
            }
            if depth == 0
                && token.is("{")
                && let Some(block) = self.block(&self.outline.tokens[first..])
            {
                if has_variables(&self.outline.tokens[first..]) {
                    self.outline.scopes.push((token.span.start, true));
                }
                self.blocks.push((block, first));
                return true;
            }
            depth = (depth + usize::from(token.is("{"))).saturating_sub(usize::from(token.is("}")));
            self.outline.tokens.push(token);
        }
        self.item(first);
        true
    }

    /// Closes the innermost block; if there is none here, one of a file that includes this one.
    fn close(&mut self, brace: Span) {
        let block = self.blocks.pop();
        if block.as_ref().is_none_or(|(_, first)| has_variables(&self.outline.tokens[*first..])) {
            self.outline.scopes.push((brace.start, false));
        }
        let (name, chain, first) = match block {
            Some((Block::Chain(chain), first)) => (chain.name.to_string(), Some(chain), first),
            Some((Block::Flowtable(name), first)) => (name, None, first),
            _ => return,
        };
        let span = self.outline.tokens[first].span.to(brace);
        self.outline.blocks.push(OutlinedBlock { is_flowtable: chain.is_none(), name, chain, span });
    }

    fn innermost(&self) -> Option<&Block> {
        self.blocks.last().map(|(block, _)| block)
    }

    /// Keeps the tokens from `first` on as a statement, if there are any.
    fn item(&mut self, first: usize) {
        let tokens = &self.outline.tokens[first..];
        let (Some(begin), Some(end)) = (tokens.first(), tokens.last()) else { return };
        let span = begin.span.to(end.span);
        let kind = self.kind(tokens, first);
        self.outline.items.push(Item { kind, tokens: first..self.outline.tokens.len(), span });
    }

    fn kind(&self, tokens: &[Token], first: usize) -> ItemKind {
        match self.innermost() {
            Some(Block::Chain(_)) if tokens[0].is_any(&CHAIN_PROPERTIES) => ItemKind::ChainProperty,
            Some(Block::Chain(chain)) => ItemKind::Rule(chain.clone(), first),
            Some(_) if tokens[0].is("elements") => ItemKind::Elements,
            Some(_) => ItemKind::Property,
            None => match tokens {
                [verb, what, rest @ ..] if verb.is_any(&["add", "insert", "replace"]) && what.is("rule") => {
                    chain(rest).map_or(ItemKind::Command, |(chain, length)| {
                        ItemKind::Rule(chain, first + 2 + length)
                    })
                }
                [verb, what, ..] if verb.is_any(&["add", "create"]) && what.is("element") => {
                    ItemKind::Elements
                }
                _ => ItemKind::Command,
            },
        }
    }

    /// The block that a `{` behind these words opens; none if it only opens a list.
    fn block(&self, words: &[Token]) -> Option<Block> {
        let (first, rest) = without_verb(words).split_first()?;
        match self.innermost() {
            None if first.is("table") => Some(Block::Table(table(rest)?.0)),
            None if first.is("chain") => {
                Some(chain(rest).map_or(Block::Object, |(chain, _)| Block::Chain(chain)))
            }
            Some(Block::Table(table)) if first.is("chain") => {
                let name = rest.first().map(|token| token.text.clone()).unwrap_or_default();
                Some(Block::Chain(ChainRef { table: table.clone(), name: name.into() }))
            }
            None | Some(Block::Table(_)) if first.is("flowtable") => {
                Some(Block::Flowtable(rest.last().map(|token| token.text.to_string()).unwrap_or_default()))
            }
            None | Some(Block::Table(_)) if first.is_any(&OBJECTS) => Some(Block::Object),
            _ => None,
        }
    }
}

fn without_verb(words: &[Token]) -> &[Token] {
    let has_verb = words.first().is_some_and(|word| word.is_any(&["add", "create"]));
    &words[usize::from(has_verb)..]
}

/// Whether the block behind these words has variables of its own; it may be one of a table that includes the file.
fn has_variables(words: &[Token]) -> bool {
    without_verb(words).first().is_some_and(|word| word.is_any(&["table", "chain"]))
}

/// `[FAMILY] TABLE`, and how many words that are.
fn table(words: &[Token]) -> Option<(TableRef, usize)> {
    let family = words.first()?.text.parse::<Family>().ok();
    let at = usize::from(family.is_some());
    let name = words.get(at)?.text.clone();
    Some((TableRef { family: family.unwrap_or(Family::Ip), name: name.into() }, at + 1))
}

/// `[FAMILY] TABLE CHAIN`, and how many words that are.
fn chain(words: &[Token]) -> Option<(ChainRef, usize)> {
    let (table, length) = table(words)?;
    let name = words.get(length)?.text.clone();
    Some((ChainRef { table, name: name.into() }, length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::token::text_of;

    /// Each statement as what it is, its chain and its own words.
    fn outlined(text: &str) -> Vec<String> {
        let outline = Outline::of(FileId(0), text);
        let say = |item: &Item| match &item.kind {
            ItemKind::Rule(chain, at) => {
                format!("{chain}: {}", text_of(&outline.tokens[*at..item.tokens.end]))
            }
            kind => format!("{kind:?} {}", text_of(outline.tokens_of(item))),
        };
        outline.items.iter().map(say).collect()
    }

    #[test]
    fn rules_are_known_by_their_chain() {
        let text = "flush ruleset\ntable inet f {\n set s { type ipv4_addr; elements = { 1.1.1.1,\n 2.2.2.2 }\n }\n\
                    chain c { type filter hook input priority 0; policy drop;\n tcp dport { 22,\n 23 } accept; # x\n\
                    ct state vmap { new : jump n, established : accept }\n }\n}\nadd rule f c accept\n";
        assert_eq!(
            outlined(text),
            [
                "Command flush ruleset",
                "Property type ipv4_addr",
                "Elements elements = { 1.1.1.1, 2.2.2.2 }",
                "ChainProperty type filter hook input priority 0",
                "ChainProperty policy drop",
                "inet f c: tcp dport { 22, 23 } accept",
                "inet f c: ct state vmap { new : jump n, established : accept }",
                "ip f c: accept",
            ]
        );
    }

    #[test]
    fn blocks_may_be_added_by_commands() {
        let text = "add table netdev t\nadd chain netdev t c { type filter hook ingress device lo priority 0; }\n\
                    add set inet f s { type mark; }\ninsert rule inet f c tcp dport 1 drop\n\
                    add element inet f s { 1,\n2 }\ndefine x = { 1,\n 2 }; define y = 2\nchain inet f d { accept; }";
        assert_eq!(
            outlined(text),
            [
                "Command add table netdev t",
                "ChainProperty type filter hook ingress device lo priority 0",
                "Property type mark",
                "inet f c: tcp dport 1 drop",
                "Elements add element inet f s { 1, 2 }",
                "Command define x = { 1, 2 }",
                "Command define y = 2",
                "inet f d: accept",
            ]
        );
    }

    #[test]
    fn flowtables_are_known_by_name() {
        let text = "table inet f { chain c { }\n flowtable t { hook ingress priority 0; devices = { lo }; } }\n\
                    add flowtable inet f u { devices = { lo, eth0 } }";
        let blocks = Outline::of(FileId(0), text).blocks;
        let flowtables = blocks.iter().filter(|block| block.is_flowtable);
        let found: Vec<(&str, &str)> =
            flowtables.map(|block| (block.name.as_str(), &text[block.span.start..block.span.end])).collect();
        assert_eq!(
            found,
            [
                ("t", "flowtable t { hook ingress priority 0; devices = { lo }; }"),
                ("u", "add flowtable inet f u { devices = { lo, eth0 } }")
            ]
        );
    }

    #[test]
    fn the_statement_around_a_place_is_found() {
        let text = "table inet f { chain c {\n accept\n tcp dport 1 drop\n } }";
        let outline = Outline::of(FileId(0), text);
        let place = |word: &str| {
            let start = text.find(word).unwrap();
            Span { file: FileId(0), start, end: start + word.len() }
        };
        assert_eq!(outline.item_at(place("dport")), Some(&outline.items[1]));
        assert_eq!(outline.item_at(place("accept")), Some(&outline.items[0]));
        assert_eq!(outline.item_at(place("table")), None);
        assert!(outline.items.iter().all(Item::is_dispensable));
    }

    #[test]
    fn broken_text_has_an_outline_too() {
        for text in [
            "}",
            "{",
            "table {",
            "table inet f { chain c { accept",
            "add rule",
            "chain",
            "\"",
            "a { b } }\nc",
        ] {
            Outline::of(FileId(0), text);
        }
    }
}
