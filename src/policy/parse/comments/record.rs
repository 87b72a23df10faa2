//! `record refusals in [FAMILY] TABLE CHAIN`: where it is written down who is refused.

use std::ops::Range;

use super::is_blank;
use crate::{
    model::{ChainRef, Family, PREFIX, TableRef},
    text::{
        Code, Span,
        diagnostic::{Diagnostic, quoted},
        nearest::nearest,
        token::is_identifier,
    },
};

/// A chain in which refusals are recorded.
#[derive(Debug)]
pub(in crate::policy::parse) struct Record {
    /// The chain.
    pub(in crate::policy::parse) chain: ChainRef,
    /// Where it is named, from the family on.
    pub(in crate::policy::parse) chain_span: Span,
    /// The whole directive.
    pub(in crate::policy::parse) span: Span,
}

/// Whether a text is meant as this directive, and is not prose.
pub(super) fn is_meant(text: &str) -> bool {
    let words: Vec<&str> = words(text).map(|place| &text[place]).take(3).collect();
    let is_near = |at: usize, right: &str| {
        let word = words.get(at).copied().unwrap_or_default();
        word == right || nearest(word, [right]).is_some()
    };
    match words[..] {
        ["record"] => true,
        _ => is_near(0, "record") && is_near(1, "refusals"),
    }
}

/// Reads one that begins at a byte of a comment.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    item: &str,
    start: usize,
    span: &dyn Fn(Range<usize>) -> Span,
) -> Result<Record, Box<Diagnostic>> {
    let at = |place: &Range<usize>| span(start + place.start..start + place.end);
    let whole = at(&(0..item.len()));
    let wrong = |span, message: String| Diagnostic::new(Code::Directive, span, message);
    let form = "write `scnpm: record refusals in inet filter CHAIN`, with the chain in front of the last `reject` or `drop`";
    let places: Vec<Range<usize>> = words(item).collect();
    let [_, what, within, chain @ ..] = &places[..] else {
        return Err(Box::new(wrong(whole, "it is not said where refusals are recorded".into()).help(form)));
    };
    if item[within.clone()].parse::<Family>().is_ok() {
        let place = Span { end: at(within).start, ..at(within) };
        return Err(Box::new(
            wrong(at(within), "the word `in` is missing in front of the chain".into()).fix(place, "in "),
        ));
    }
    for (place, right) in [(what, "refusals"), (within, "in")] {
        if item[place.clone()] != *right {
            let message = format!("{} stands where `{right}` should", quoted(&item[place.clone()]));
            return Err(Box::new(wrong(at(place), message).help(form).fix(at(place), right)));
        }
    }
    let (family, names) = match chain {
        [table, name] => (Family::Ip, [table, name]),
        [family, table, name] => match item[family.clone()].parse() {
            Ok(family @ (Family::Ip | Family::Ip6 | Family::Inet)) => (family, [table, name]),
            _ => {
                let word = &item[family.clone()];
                let diagnostic =
                    wrong(at(family), format!("{} is none of the families that have sockets", quoted(word)));
                return Err(Box::new(match nearest(word, ["ip", "ip6", "inet"]) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")).fix(at(family), near),
                    None => diagnostic.help("these are `ip`, `ip6` and `inet`"),
                }));
            }
        },
        _ => return Err(Box::new(wrong(whole, "no chain is named here".into()).help(form))),
    };
    for place in names {
        let name = &item[place.clone()];
        if !is_identifier(name) || name.starts_with(PREFIX) {
            let message = format!("{} is not the name of a chain or table of yours", quoted(name));
            return Err(Box::new(wrong(at(place), message).help(form)));
        }
    }
    let [table, name] = names.map(|place| item[place.clone()].into());
    let chain_span = at(&(chain[0].start..names[1].end));
    Ok(Record { chain: ChainRef { table: TableRef { family, name: table }, name }, chain_span, span: whole })
}

/// Where the words of a text stand.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(|word| {
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        start..start + word.len()
    })
}
