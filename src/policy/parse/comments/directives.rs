//! `scnpm: allow(W004), count, wait`: what a comment asks for the annotation or line below it; and `scnpm: record refusals in
//! CHAIN` and `scnpm: fill SET with NAMES`, which are for themselves.

use std::{collections::BTreeSet, ops::Range};

use super::{
    fill, is_blank,
    record::{self, Record},
};
use crate::{
    policy::domains::Fill,
    text::{
        Code, FileId, Span,
        diagnostic::{Diagnostic, Severity, quoted},
        nearest::nearest,
    },
};

/// The directives, by their names.
const NAMES: [&str; 5] = ["allow", "count", "fill", "record", "wait"];

/// What a comment asks for.
#[derive(Debug, Default)]
pub(super) struct Directives {
    /// The warnings that are allowed.
    pub(super) allows: BTreeSet<Code>,
    /// What is to be done with the annotation, and where that stands.
    pub(super) marks: Vec<(Mark, Span)>,
    /// The chains in which refusals are recorded.
    pub(super) records: Vec<Record>,
    /// The sets that are filled.
    pub(super) fill: Option<Fill>,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// What is to be done with an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Its packets are counted.
    Count,
    /// Its units wait until it is in force.
    Wait,
}

/// Whether a comment is one of directives, well-formed or not.
pub(super) fn is(content: &str) -> bool {
    content.strip_prefix("scnpm:").is_some_and(|rest| is_list(rest.trim_matches(is_blank)))
        || without_colon(content).is_some()
}

/// Whether it is one that is for the line below it.
pub(super) fn is_for_what_follows(content: &str) -> bool {
    is(content)
        && !content.strip_prefix("scnpm:").is_some_and(|rest| fill::is_meant(rest.trim_matches(is_blank)))
}

/// The directives of such a comment, which stands at byte `start`.
pub(super) fn read(content: &str, start: usize, file: FileId) -> Option<Directives> {
    if !is(content) {
        return None;
    }
    let span = |place: Range<usize>| Span { file, start: start + place.start, end: start + place.end };
    let mut found = Directives::default();
    if let Some(list) = without_colon(content) {
        let whole = span(0..content.len());
        let message = "this comment asks for nothing: it does not begin with `scnpm:`";
        let diagnostic = Diagnostic::new(Code::Directive, whole, message)
            .help("write `scnpm:` in front")
            .fix(span(0..content.len() - list.len()), "scnpm: ");
        found.diagnostics.push(diagnostic);
        return Some(found);
    }
    let list = content["scnpm:".len()..].trim_matches(is_blank);
    if fill::is_meant(list) {
        let begin = list.as_ptr().addr() - content.as_ptr().addr();
        match fill::read(list, begin, &span) {
            Ok(fill) => found.fill = Some(fill),
            Err(diagnostics) => found.diagnostics = diagnostics,
        }
        return Some(found);
    }
    for item in items(content, "scnpm:".len()) {
        found.take(content, item, &span);
    }
    Some(found)
}

impl Directives {
    fn take(&mut self, content: &str, place: Range<usize>, span: &dyn Fn(Range<usize>) -> Span) {
        let item = &content[place.clone()];
        let name = name(item);
        let rest = item[name.len()..].trim_start_matches(is_blank);
        let of_name = span(place.start..place.start + name.len());
        let of_rest = span(place.end - rest.len()..place.end);
        match name {
            _ if name.starts_with("allow") => {
                self.diagnostics.extend(allow(item, place.start, &mut self.allows, span));
            }
            "count" | "wait" if !rest.is_empty() => {
                let what = format!("{} stands behind `{name}`, which takes nothing", quoted(rest));
                let diagnostic = Diagnostic::new(Code::Directive, of_rest, what);
                let is_another = NAMES.contains(&self::name(rest));
                let gap = Span { start: of_name.end, end: of_rest.start, ..of_name };
                self.diagnostics.push(match is_another {
                    true => diagnostic.help("separate directives by commas").fix(gap, ", "),
                    false => diagnostic
                        .help("leave it out")
                        .fix(Span { start: of_name.end, ..of_rest }, String::new()),
                });
            }
            "record" => match record::read(item, place.start, span) {
                Ok(record) => self.records.push(record),
                Err(diagnostic) => self.diagnostics.push(*diagnostic),
            },
            "fill" => {
                let what = "`fill` stands among other directives";
                let diagnostic = Diagnostic::new(Code::Directive, of_name, what);
                self.diagnostics.push(diagnostic.help("write `# scnpm: fill …` in a line of its own"));
            }
            "count" => self.marks.push((Mark::Count, of_name)),
            "wait" => self.marks.push((Mark::Wait, of_name)),
            "" => self.diagnostics.push(
                Diagnostic::new(Code::Directive, span(place), "a directive is missing here").help(KNOWN),
            ),
            _ => {
                let diagnostic =
                    Diagnostic::new(Code::Directive, of_name, format!("{} is not a directive", quoted(name)));
                self.diagnostics.push(match nearest(name, NAMES) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")).fix(of_name, near),
                    None => diagnostic.help(KNOWN),
                });
            }
        }
    }
}

const KNOWN: &str =
    "the directives are `allow(CODE)`, `count`, `fill SET with NAMES`, `record refusals in CHAIN` and `wait`";

/// What the directive `allow` at a byte of a comment allows, and what is wrong with it.
fn allow(
    item: &str,
    start: usize,
    codes: &mut BTreeSet<Code>,
    span: &dyn Fn(Range<usize>) -> Span,
) -> Vec<Diagnostic> {
    let list = item.split_once('(').and_then(|(before, rest)| {
        let inside = rest.strip_suffix(')')?;
        (before.trim_end() == "allow").then_some((before.len() + 1, inside))
    });
    let Some((mut at, inside)) = list.filter(|(_, inside)| !inside.trim().is_empty()) else {
        let whole = span(start..start + item.len());
        return vec![
            Diagnostic::new(Code::Directive, whole, "this allows nothing")
                .help("write `scnpm: allow(W004)`, with the codes of warnings between the brackets"),
        ];
    };
    let mut diagnostics = Vec::new();
    for item in inside.split(',') {
        let name = item.trim();
        let first = start + at + item.len() - item.trim_start().len();
        let span = span(first..first + name.len());
        at += item.len() + 1;
        match name.parse::<Code>() {
            Ok(code) if code.severity() == Severity::Warning => drop(codes.insert(code)),
            Ok(_) => diagnostics.push(
                Diagnostic::new(Code::Directive, span, "an error cannot be allowed")
                    .help("only warnings can, whose codes begin with W"),
            ),
            Err(_) => diagnostics.push(
                Diagnostic::new(Code::Directive, span, format!("{} is not a code", quoted(name)))
                    .help("write the code that the warning has in its brackets, such as W004"),
            ),
        }
    }
    diagnostics
}

/// The word that an item of a list begins with.
fn name(item: &str) -> &str {
    &item[..item.find(|c: char| is_blank(c) || "(,:".contains(c)).unwrap_or(item.len())]
}

/// Whether a text is meant as a list of directives: what begins with a known word, is a single word, or a slip with at
/// most a word behind it. All else is prose.
fn is_list(text: &str) -> bool {
    let name = name(text);
    let words = text.split(is_blank).filter(|word| !word.is_empty()).count();
    let is_known = !["fill", "record"].contains(&name) && NAMES.contains(&name) || name.starts_with("allow");
    is_known
        || record::is_meant(text)
        || fill::is_meant(text)
        || words == 1
        || (words == 2 && nearest(name, NAMES).is_some())
}

/// The list of directives behind what should be `scnpm:` and is not quite, if nothing else stands there.
fn without_colon(content: &str) -> Option<&str> {
    let (head, rest) = content.split_at_checked("scnpm".len())?;
    let list = rest.trim_start_matches(|c| is_blank(c) || ":=".contains(c));
    let separator = &rest[..rest.len() - list.len()];
    let is_right = head == "scnpm" && separator.trim_end_matches(is_blank) == ":";
    let is_whole = |item: &str| {
        if name(item) == "fill" {
            return fill::is_meant(item);
        }
        if name(item) == "record" {
            return record::is_meant(item);
        }
        let rest = item[name(item).len()..].trim_start_matches(is_blank);
        NAMES.contains(&name(item)) && (rest.is_empty() || rest.starts_with('('))
    };
    let is_nearly_one = head.eq_ignore_ascii_case("scnpm") && !separator.is_empty() && !is_right;
    let is_list = fill::is_meant(list) || items(list, 0).all(|item| is_whole(&list[item]));
    (is_nearly_one && is_list).then_some(list)
}

/// Where the items of a list stand that begins at a byte, without blanks around them: commas in brackets separate none.
fn items(content: &str, start: usize) -> impl Iterator<Item = Range<usize>> {
    let mut depth = 0_usize;
    let separators = content[start..].char_indices().filter_map(move |(at, c)| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (c == ',' && depth == 0).then_some(start + at)
    });
    let mut first = start;
    separators.chain([content.len()]).map(move |end| {
        let item = &content[first..end];
        let begin = first + item.len() - item.trim_start_matches(is_blank).len();
        first = end + 1;
        begin..begin + item.trim_matches(is_blank).len()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of a comment, and what is wrong with which part of it.
    fn found(content: &str) -> (Vec<&'static str>, Vec<String>) {
        let found = read(content, 0, FileId(0)).unwrap();
        let text = |span: Span| &content[span.start..span.end];
        let say = |diagnostic: Diagnostic| format!("{}: {}", text(diagnostic.span), diagnostic.message);
        let codes = found.allows.into_iter().map(Code::as_str);
        let marks = found.marks.into_iter().map(|(mark, span)| match (mark, text(span)) {
            (Mark::Count, "count") => "count",
            (Mark::Wait, "wait") => "wait",
            (mark, text) => panic!("{mark:?} at {text}"),
        });
        let all = codes.chain(marks).collect();
        (all, found.diagnostics.into_iter().map(say).collect())
    }

    /// A comment with what is wrong in it mended.
    fn mended(content: &str) -> String {
        let mut text = content.to_owned();
        for diagnostic in read(content, 0, FileId(0)).unwrap().diagnostics.into_iter().rev() {
            let fix = diagnostic.fix.unwrap();
            text.replace_range(fix.span.start..fix.span.end, &fix.text);
        }
        text
    }

    #[test]
    fn codes_of_warnings_are_allowed() {
        assert_eq!(found("scnpm: allow(W004)"), (vec!["W004"], vec![]));
        assert_eq!(found("scnpm:allow ( w006 ,W005 ) "), (vec!["W005", "W006"], vec![]));
    }

    #[test]
    fn what_allows_nothing_is_told() {
        assert_eq!(
            found("scnpm: allow(E001, W1)").1,
            ["E001: an error cannot be allowed", "W1: `W1` is not a code"]
        );
        for empty in ["allow", "allow()", "allow W004", "allow(W004", "allows(W004)"] {
            assert_eq!(found(&format!("scnpm: {empty}")).1, [format!("{empty}: this allows nothing")]);
        }
    }

    #[test]
    fn directives_stand_alone_or_together_in_any_order() {
        assert_eq!(found("scnpm: count"), (vec!["count"], vec![]));
        assert_eq!(found("scnpm:wait"), (vec!["wait"], vec![]));
        assert_eq!(
            found("scnpm:  wait ,allow(W004, W005),  count"),
            (vec!["W004", "W005", "wait", "count"], vec![])
        );
    }

    #[test]
    fn slips_are_told_with_what_was_meant() {
        for (wrong, problem, right) in [
            ("scnpm: cuont", "cuont: `cuont` is not a directive", "scnpm: count"),
            ("scnpm: Wait", "Wait: `Wait` is not a directive", "scnpm: wait"),
            ("scnpm: wiat 5", "wiat: `wiat` is not a directive", "scnpm: wait 5"),
            ("scnpm: alow(W004)", "alow: `alow` is not a directive", "scnpm: allow(W004)"),
            ("scnpm: wait 5", "5: `5` stands behind `wait`, which takes nothing", "scnpm: wait"),
            ("scnpm: count(1)", "(1): `(1)` stands behind `count`, which takes nothing", "scnpm: count"),
            (
                "scnpm: count wait",
                "wait: `wait` stands behind `count`, which takes nothing",
                "scnpm: count, wait",
            ),
        ] {
            assert_eq!(found(wrong).1, [problem], "{wrong}");
            assert_eq!(mended(wrong), right);
        }
        assert_eq!(
            found("scnpm: count, wiat"),
            (vec!["count"], vec!["wiat: `wiat` is not a directive".into()])
        );
        assert_eq!(found("scnpm: count,"), (vec!["count"], vec![": a directive is missing here".into()]));
        assert_eq!(found("scnpm: trace").1, ["trace: `trace` is not a directive"]);
    }

    #[test]
    fn slips_in_front_of_the_directives_are_told() {
        for wrong in [
            "scnpm count, wait",
            "Scnpm: count, wait",
            "scnpm : count, wait",
            "scnpm:: count, wait",
            "SCNPM count, wait",
        ] {
            assert_eq!(
                found(wrong).1,
                [format!("{wrong}: this comment asks for nothing: it does not begin with `scnpm:`")]
            );
            assert_eq!(mended(wrong), "scnpm: count, wait");
        }
    }

    #[test]
    fn prose_is_left_alone() {
        for prose in [
            "scnpm: is good",
            "scnpm: what we need for the mail",
            "scnpm: want to know more? see scnpm(8)",
            "scnpm:",
            "scnpm",
            "scnpm count the packets",
            "scnpm allows this",
            "scnpm-count",
            "scnp",
            "scnpä: count",
            "count",
        ] {
            assert!(read(prose, 0, FileId(0)).is_none(), "{prose}");
        }
    }
}
