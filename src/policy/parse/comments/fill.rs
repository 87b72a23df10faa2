//! `fill [FAMILY] TABLE SET, … with NAME, …[, global only]`: sets that are filled with the addresses of names.

use std::ops::Range;

use super::is_blank;
use crate::{
    model::{Family, PREFIX, SetRef, TableRef},
    policy::domains::{Fill, Names},
    text::{
        Code, Span,
        diagnostic::{Diagnostic, quoted},
        nearest::nearest,
        token::is_identifier,
    },
};

const FORM: &str = "write `scnpm: fill inet filter SET with example.org, *.example.org`";

/// The option by which private addresses and the like are refused.
const GLOBAL: [&str; 2] = ["global", "only"];

/// Whether a text is meant as this directive, and is not prose.
pub(super) fn is_meant(text: &str) -> bool {
    let words: Vec<&str> = words(text).map(|place| &text[place]).take(5).collect();
    let is_near = |word: &str| word == "fill" || nearest(word, ["fill"]).is_some();
    match words[..] {
        ["fill"] => true,
        [first, second, ..] if is_near(first) && second.parse::<Family>().is_ok() => true,
        ["fill", _, set, ..] if set.ends_with(',') => true,
        ["fill", ..] => words[1..].contains(&"with"),
        _ => false,
    }
}

/// Reads one that begins at a byte of a comment, and takes the whole of it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    text: &str,
    start: usize,
    span: &dyn Fn(Range<usize>) -> Span,
) -> Result<Fill, Vec<Diagnostic>> {
    let at = |place: Range<usize>| span(start + place.start..start + place.end);
    let whole = at(0..text.len());
    let wrong = |place: Range<usize>, message: String| Diagnostic::new(Code::Directive, at(place), message);
    let places: Vec<Range<usize>> = words(text).collect();
    let first = places[0].clone();
    if text[first.clone()] != *"fill" {
        let message = format!("{} is not a directive", quoted(&text[first.clone()]));
        return Err(vec![wrong(first.clone(), message).help("did you mean `fill`?").fix(at(first), "fill")]);
    }
    if text.ends_with('\\') {
        let place = text.len() - 1..text.len();
        let help = "write another line that begins with `# scnpm: fill`; a set may be filled by several";
        return Err(vec![wrong(place, "a directive is one line".to_owned()).help(help)]);
    }
    let Some(with) = places.iter().find(|place| text[(*place).clone()] == *"with") else {
        let missing = "it is not said with which names the set is filled".to_owned();
        return Err(vec![wrong(0..text.len(), missing).help(FORM)]);
    };
    let mut diagnostics = Vec::new();
    let mut sets = Vec::new();
    for place in items(text, first.end..with.start) {
        match set(&text[place.clone()]) {
            Ok(set) => sets.push((set, at(place))),
            Err(message) => diagnostics.push(wrong(place, message).help(FORM)),
        }
    }
    let (mut names, mut is_global) = (Vec::new(), false);
    for place in items(text, with.end..text.len()) {
        let item = &text[place.clone()];
        if is_global_only(item) {
            is_global = true;
            continue;
        }
        match Names::parse(item) {
            Ok(one) => names.push(one),
            Err(error) => {
                let of_item = place.start + error.place.start..place.start + error.place.end;
                let diagnostic = wrong(of_item, error.message(item)).help(error.what.help());
                diagnostics.push(match (error.meant, nearly_global(item)) {
                    (Some(meant), _) => {
                        diagnostic.help(format!("did you mean {}?", quoted(&meant))).fix(at(place), meant)
                    }
                    (None, true) => {
                        diagnostic.help("did you mean `global only`?").fix(at(place), "global only")
                    }
                    (None, false) => diagnostic,
                });
            }
        }
    }
    if diagnostics.is_empty() && names.is_empty() {
        diagnostics.push(wrong(0..text.len(), "no name is written here".to_owned()).help(FORM));
    }
    match diagnostics.is_empty() {
        true => Ok(Fill { sets, names, is_global, span: whole }),
        false => Err(diagnostics),
    }
}

fn set(text: &str) -> Result<SetRef, String> {
    let words: Vec<&str> = text.split(is_blank).filter(|word| !word.is_empty()).collect();
    let (family, names) = match words[..] {
        [] => return Err("no set is named here".to_owned()),
        [table, name] => (Family::Ip, [table, name]),
        [family, table, name] => match family.parse() {
            Ok(family) => (family, [table, name]),
            Err(_) => return Err(format!("{} is not a family of tables", quoted(family))),
        },
        _ => return Err(format!("{} is not a family, a table and a set", quoted(text))),
    };
    let names = names.map(|name| name.strip_prefix('@').unwrap_or(name));
    if let Some(name) = names.iter().find(|name| !is_identifier(name) || name.starts_with(PREFIX)) {
        return Err(format!("{} is not the name of a table or set of yours", quoted(name)));
    }
    let [table, name] = names.map(Into::into);
    Ok(SetRef { table: TableRef { family, name: table }, name })
}

fn is_global_only(item: &str) -> bool {
    item.split(is_blank).filter(|word| !word.is_empty()).eq(GLOBAL)
}

fn nearly_global(item: &str) -> bool {
    let first = item.split(is_blank).next().unwrap_or_default();
    nearest(first, ["global"]).is_some()
}

/// Where the items of a list stand that has this place, without blanks around them.
fn items(text: &str, place: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut first = place.start;
    text[place].split(',').map(move |item| {
        let begin = first + item.len() - item.trim_start_matches(is_blank).len();
        first += item.len() + 1;
        begin..begin + item.trim_matches(is_blank).len()
    })
}

/// Where the words of a text stand.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(|word| {
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        start..start + word.len()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::FileId;

    fn read(text: &str) -> Result<Fill, Vec<Diagnostic>> {
        super::read(text, 0, &|place| Span { file: FileId(0), start: place.start, end: place.end })
    }

    /// What is wrong with which part.
    fn wrong(text: &str) -> Vec<String> {
        let found = read(text).expect_err(text);
        let say = |one: Diagnostic| format!("{}: {}", &text[one.span.start..one.span.end], one.message);
        found.into_iter().map(say).collect()
    }

    #[test]
    fn sets_names_and_the_option_are_read() {
        let fill = read(
            "fill inet filter shop4 , inet filter shop6 with *.example.org,shop.example.net, global  only",
        )
        .unwrap();
        let sets: Vec<String> = fill.sets.iter().map(|(set, _)| set.to_string()).collect();
        assert_eq!(sets, ["inet filter shop4", "inet filter shop6"]);
        let names: Vec<String> = fill.names.iter().map(ToString::to_string).collect();
        assert_eq!(
            (&names[..], fill.is_global),
            (&["*.example.org".to_owned(), "shop.example.net".to_owned()][..], true)
        );
        let fill = read("fill filter @shop with example.org").unwrap();
        assert_eq!((fill.sets[0].0.to_string().as_str(), fill.is_global), ("ip filter shop", false));
    }

    #[test]
    fn each_slip_is_told() {
        assert_eq!(wrong("fill"), ["fill: it is not said with which names the set is filled"]);
        assert_eq!(wrong("fill with a.org"), [": no set is named here"]);
        assert_eq!(wrong("fill inet filter a with"), [": a name is missing here"]);
        assert_eq!(
            wrong("fill inet filter a with global only"),
            ["fill inet filter a with global only: no name is written here"]
        );
        assert_eq!(wrong("fill inet filter a, with a.org"), [": no set is named here"]);
        assert_eq!(
            wrong("fill inet filter a b with a.org"),
            ["inet filter a b: `inet filter a b` is not a family, a table and a set"]
        );
        assert_eq!(
            wrong("fill inett filter a with a.org"),
            ["inett filter a: `inett` is not a family of tables"]
        );
        assert_eq!(
            wrong("fill inet f scnpm.a with a.org"),
            ["inet f scnpm.a: `scnpm.a` is not the name of a table or set of yours"]
        );
        assert_eq!(wrong("fill inet f a with a.org, \\"), ["\\: a directive is one line"]);
        assert_eq!(
            wrong("fill inet f a with a.org, b, c*.org"),
            [
                "b: `b` is not a host name: this has one label only",
                "*: `c*.org` is not a host name: `*` can only be the first label, and all of it"
            ]
        );
        assert_eq!(wrong("fil inet f a with a.org"), ["fil: `fil` is not a directive"]);
    }

    #[test]
    fn a_nearly_right_option_and_name_are_mended() {
        for (text, right) in [
            ("fill inet f a with a.org, globl only", "global only"),
            ("fill inet f a with .a.org", "*.a.org"),
            ("fill inet f a with https://a.org/", "a.org"),
        ] {
            let found = read(text).unwrap_err();
            assert_eq!(found[0].fix.as_ref().map(|fix| fix.text.as_str()), Some(right), "{text}");
        }
    }

    #[test]
    fn prose_is_left_alone() {
        for text in ["fill in what is missing", "fills the set", "filling", "fill the set"] {
            assert!(!is_meant(text), "{text}");
        }
        for text in [
            "fill",
            "fil inet filter a",
            "fill inet filter a",
            "fill filter a, filter b",
            "fill filter a with b.c",
        ] {
            assert!(is_meant(text), "{text}");
        }
    }
}
