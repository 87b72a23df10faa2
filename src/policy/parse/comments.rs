//! Finds the annotations among a file's comments, line by line; a statement's text is not looked into.

use self::{asked::Asked, directives::Directives};
use crate::{
    model::{Family, UNIT_TYPES},
    policy::{annotation::Allow, parse::Step},
    text::{
        Code, FileId, Span,
        diagnostic::{Diagnostic, quoted},
        token::{Joined, is_blank},
    },
    units::places,
};

/// A comment that is an annotation.
#[derive(Debug)]
pub(super) struct Comment {
    /// The unit's name.
    pub(super) unit: String,
    /// Where it stands.
    pub(super) unit_span: Span,
    /// What follows the `::`, over all continued lines.
    pub(super) statement: Joined,
    /// Whether its packets are to be counted (`# scnpm: count`).
    pub(super) is_counted: bool,
    /// Whether its units are to wait for it (`# scnpm: wait`).
    pub(super) is_waited_for: bool,
    /// What is wrong with the lines and the unit's name.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// The comments of a file that say something to us, in order, each with the byte that it begins at.
pub(super) fn find(file: FileId, text: &str) -> Vec<(usize, Step)> {
    let lines = Lines::new(file, text);
    let mut found = Vec::new();
    let mut asked = Asked::default();
    let mut at = 0;
    while at < lines.lines.len() {
        if let Some((mut comment, next)) = lines.annotation(at) {
            (comment.is_counted, comment.is_waited_for) = asked.for_annotation();
            found.push((comment.unit_span.start, Step::Annotation(comment)));
            at = next;
        } else {
            match lines.directives(at) {
                Some((start, mut directives)) => {
                    asked.above.extend(&directives.marks);
                    let records = std::mem::take(&mut directives.records);
                    found.extend(records.into_iter().map(|one| (one.span.start, Step::Record(one))));
                    found.extend(directives.fill.take().map(|one| (one.span.start, Step::Fill(one))));
                    found.push((start, lines.allow(at, directives)));
                }
                None => {
                    found.extend(asked.for_other_line(lines.lines[at].is_statement));
                    found.extend(lines.near_miss(at));
                }
            }
            at += 1;
        }
    }
    found.extend(asked.at_end());
    found
}

mod asked;
mod directives;
mod fill;
mod near_miss;
pub(super) mod record;

/// nft's verbs, but for those that an annotation may have.
const OTHER_VERBS: [&str; 9] =
    ["create", "delete", "destroy", "flush", "get", "list", "rename", "replace", "reset"];

/// What nft's verbs act upon.
const OBJECTS: [&str; 19] = [
    "chain",
    "chains",
    "counter",
    "counters",
    "ct",
    "element",
    "flowtable",
    "limit",
    "map",
    "maps",
    "meter",
    "quota",
    "rule",
    "rules",
    "ruleset",
    "secmark",
    "set",
    "sets",
    "table",
];

/// Whether a statement begins with what nft does, but annotations can't.
pub(super) fn is_other_statement(words: &[&str]) -> bool {
    match words {
        [verb, object, ..] if OTHER_VERBS.contains(verb) => OBJECTS.contains(object),
        ["add" | "insert", object, family, ..] => {
            OBJECTS.contains(object) && !matches!(*object, "rule" | "element") && is_family(family)
        }
        [object, family, ..] => OBJECTS.contains(object) && is_family(family),
        _ => false,
    }
}

pub(super) fn is_family(word: &str) -> bool {
    word.parse::<Family>().is_ok()
}

/// A line of a file.
struct Line<'a> {
    /// What follows the `#` and blanks, without trailing blanks; if it is a comment.
    comment: Option<&'a str>,
    /// Whether something else than a comment stands there.
    is_statement: bool,
    /// How many blanks follow.
    trailing: usize,
    /// Whether the statement that it may be part of names `cgroupv2` here or in a continued line.
    /// Known ahead for all lines: to look for it from each line anew would take quadratic time.
    cgroup_ahead: bool,
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        let text = line.trim_matches(is_blank);
        let comment =
            text.starts_with('#').then(|| text.trim_start_matches('#').trim_start_matches(is_blank));
        let trailing = line.len() - line.trim_end_matches(is_blank).len();
        let is_statement = comment.is_none() && !text.is_empty();
        Self { comment, is_statement, trailing, cgroup_ahead: false }
    }

    /// The `\` at its end, if it is continued.
    fn backslash(&self) -> Option<&'a str> {
        self.comment.filter(|content| content.ends_with('\\')).map(|content| &content[content.len() - 1..])
    }

    /// The selectors and the text behind the `::` of what may be an annotation.
    fn head(&self) -> Option<(&'a str, &'a str)> {
        let content = self.comment?;
        let is_separator = |(at, _): &(usize, &str)| {
            content[..*at].ends_with(is_blank) && content[at + 2..].starts_with(is_blank)
        };
        let (colons, _) = content.match_indices("::").find(is_separator)?;
        let unit = content[..colons].trim_end_matches(is_blank);
        let rest = content[colons + 2..].trim_start_matches(is_blank);
        let may_be_one =
            !rest.is_empty() && unit.split(',').all(|one| may_be_selector(one.trim_matches(is_blank)));
        may_be_one.then(|| (unit, without_backslash(rest)))
    }

    /// Whether an annotation begins here beyond doubt, so that it can't continue another one.
    fn begins_annotation(&self) -> bool {
        self.head().is_some_and(|(_, rest)| {
            let first = rest.split(is_blank).next().unwrap_or_default();
            matches!(first, "add" | "insert") || is_family(first)
        })
    }
}

/// Whether a word may name units: by a unit's name, a pattern of names, or an application.
fn may_be_selector(word: &str) -> bool {
    let is_pattern = word.contains('*') && word.len() > 1;
    !word.contains(is_blank) && (places::has_type(word) || is_pattern || is_app(word))
}

fn is_app(word: &str) -> bool {
    ["app:", "cage:"].iter().any(|kind| word.starts_with(kind) || word.contains(&format!(":{kind}")))
}

/// Whether a text says beyond doubt that it names units.
fn names_units(selectors: &str) -> bool {
    selectors.split(',').map(|one| one.trim_matches(is_blank)).all(|word| {
        UNIT_TYPES.contains(&places::kind(word))
            || is_app(word)
            || (word.contains(':') && word.ends_with('*'))
    })
}

fn without_backslash(text: &str) -> &str {
    text.strip_suffix('\\').unwrap_or(text).trim_end_matches(is_blank)
}

struct Lines<'a> {
    file: FileId,
    text: &'a str,
    lines: Vec<Line<'a>>,
}

impl<'a> Lines<'a> {
    fn new(file: FileId, text: &'a str) -> Self {
        let mut lines: Vec<Line<'a>> = text.lines().map(Line::new).collect();
        let mut ahead = false;
        for line in lines.iter_mut().rev() {
            let text = line.head().map(|(_, rest)| rest).or(line.comment);
            let here = text.is_some_and(|text| text.contains("cgroupv2"));
            line.cgroup_ahead = here || (line.backslash().is_some() && ahead);
            ahead = line.cgroup_ahead && !line.begins_annotation();
        }
        Self { file, text, lines }
    }

    /// The annotation that begins at a line, and the line after it.
    fn annotation(&self, first: usize) -> Option<(Comment, usize)> {
        let (unit, rest) = self.lines[first].head()?;
        let is_unit = names_units(unit);
        if !self.is_statement(first, rest, is_unit) {
            return None;
        }
        let unit_span = self.span(unit);
        let mut comment = Comment {
            unit: unit.to_owned(),
            unit_span,
            statement: Joined::new(self.file),
            is_counted: false,
            is_waited_for: false,
            diagnostics: Vec::new(),
        };
        if !is_unit && !unit.contains(['*', ':', ',']) {
            let message = format!("{} is not a unit type", quoted(&format!(".{}", places::kind(unit))));
            let diagnostic = Diagnostic::new(Code::UnitType, unit_span, message)
                .help(format!("the types are {}", UNIT_TYPES.join(", ")));
            comment.diagnostics.push(diagnostic);
        }
        comment.statement.push(rest, self.span(rest).start);
        let next = self.join(first, &mut comment);
        Some((comment, next))
    }

    /// The directives in a line, and the byte that they begin at.
    fn directives(&self, at: usize) -> Option<(usize, Directives)> {
        let content = self.lines[at].comment?;
        let start = self.span(content).start;
        Some((start, directives::read(content, start, self.file)?))
    }

    /// What directives in a line allow in the line below them and others.
    fn allow(&self, at: usize, Directives { allows, diagnostics, .. }: Directives) -> Step {
        let is_one = |line: &&Line<'_>| line.comment.is_some_and(directives::is_for_what_follows);
        let more = self.lines[at..].iter().take_while(is_one).count();
        Step::Allow(Allow { file: self.file, line: at + more + 1, codes: allows }, diagnostics)
    }

    /// What is wrong with a comment that is nearly an annotation.
    fn near_miss(&self, at: usize) -> Option<(usize, Step)> {
        let content = self.lines[at].comment?;
        let start = self.span(content).start;
        Some((start, Step::Slip(near_miss::read(content, start, self.file)?)))
    }

    fn is_statement(&self, first: usize, rest: &str, is_unit: bool) -> bool {
        let cgroup = self.lines[first].cgroup_ahead;
        let words = self.first_words(first, rest);
        match words[..] {
            ["add" | "insert", second, ..] => {
                matches!(second, "rule" | "element")
                    || is_family(second)
                    || cgroup
                    || is_other_statement(&words)
            }
            [first, ..] if is_family(first) => is_unit || cgroup,
            _ => is_other_statement(&words) || (is_unit && cgroup),
        }
    }

    /// Enough words of a statement to tell it from prose.
    fn first_words<'b>(&'b self, first: usize, rest: &'b str) -> Vec<&'b str> {
        const LINES: usize = 8;
        let mut words: Vec<&str> = rest.split(is_blank).filter(|word| !word.is_empty()).collect();
        for (line, next) in self.lines[first..].iter().zip(&self.lines[first + 1..]).take(LINES) {
            if words.len() > 2 || line.backslash().is_none() || next.begins_annotation() {
                break;
            }
            words.extend(
                next.comment.map_or("", without_backslash).split(is_blank).filter(|word| !word.is_empty()),
            );
        }
        words
    }

    /// Adds the continued lines to a statement; the line after them.
    fn join(&self, first: usize, comment: &mut Comment) -> usize {
        let mut at = first;
        while let Some(backslash) = self.lines[at].backslash() {
            let span = self.span(backslash);
            let trailing = self.lines[at].trailing;
            if trailing > 0 {
                comment.diagnostics.push(
                    Diagnostic::new(Code::BlankAfterBackslash, span, "blanks follow this `\\`")
                        .help("end the line with the `\\`")
                        .fix(Span { start: span.end, end: span.end + trailing, ..span }, ""),
                );
            }
            at += 1;
            let problem = match self
                .lines
                .get(at)
                .map(|next| (next.begins_annotation(), next.comment.map(without_backslash)))
            {
                None => "the file ends after this `\\`",
                Some((true, _)) => "another annotation begins after this `\\`",
                Some((false, None)) => "the line after this `\\` is not a comment",
                Some((false, Some(""))) => continue,
                Some((false, Some(piece))) => {
                    comment.statement.push(piece, self.span(piece).start);
                    continue;
                }
            };
            comment.diagnostics.push(
                Diagnostic::new(Code::Continuation, span, problem)
                    .help("continue the statement in the next line behind a `#`, or leave the `\\` out"),
            );
            return at;
        }
        at + 1
    }

    /// Where a part of the text stands.
    fn span(&self, part: &str) -> Span {
        let start = part.as_ptr().addr() - self.text.as_ptr().addr();
        Span { file: self.file, start, end: start + part.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(text: &str) -> impl Iterator<Item = Comment> {
        find(FileId(0), text).into_iter().filter_map(|(_, found)| match found {
            Step::Annotation(comment) => Some(comment),
            _ => None,
        })
    }

    fn statements(text: &str) -> Vec<String> {
        annotations(text).map(|c| format!("{} :: {}", c.unit, c.statement.text())).collect()
    }

    fn diagnostics(text: &str) -> Vec<String> {
        annotations(text).flat_map(|c| c.diagnostics).map(|m| m.message).collect()
    }

    #[test]
    fn every_form_of_the_original_is_found() {
        assert_eq!(
            statements(
                "# a.service :: add rule inet f c accept\n## b@x.service :: add inet f c accept\n\
                 #c\\x2dd.scope :: inet f c accept\n\t#  e:f.slice  ::  insert rule f c accept\n"
            ),
            [
                "a.service :: add rule inet f c accept",
                "b@x.service :: add inet f c accept",
                "c\\x2dd.scope :: inet f c accept",
                "e:f.slice :: insert rule f c accept"
            ]
        );
    }

    #[test]
    fn prose_is_no_annotation() {
        for text in [
            "# nftables.conf :: the main file",
            "# postfix.service :: handles our mail",
            "# Note: foo :: bar",
            "# add new hosts :: here",
            "# foo.service :: add more text here please",
            "# foo.service :: delete me",
            "# e.g. a comment in prose with add.service :: add more coffee",
            "# nftables.conf :: ip addresses of the house",
            "a.service :: add rule inet f c accept",
            "add rule inet f c accept # a.service :: add rule inet f c accept",
            "# a.service ::",
            "# a.service::add rule inet f c accept",
        ] {
            assert_eq!(statements(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn statements_that_cannot_be_annotations_are_found_all_the_same() {
        for text in [
            "# a.service :: delete rule inet f c handle 5",
            "# a.service :: add chain inet f c",
            "# a.service :: table inet f { }",
            "# a.service :: f c socket cgroupv2 level 1 \"a\"",
        ] {
            assert_eq!(statements(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn continued_lines_are_joined() {
        assert_eq!(
            statements("# a.service :: \\\r\n#\r\n# x"),
            [""; 0],
            "nothing in the first lines says that it is a statement"
        );
        assert_eq!(
            statements("# a.service :: \\\r\n  ##  add \\\r\n#rule f c accept\r\n# x"),
            ["a.service :: add rule f c accept"]
        );
    }

    #[test]
    fn wrong_continuations_are_told_and_the_next_line_stands_for_itself() {
        let text = "# a.service :: add rule f c \\\n# b.service :: add rule f c accept \\ \nadd table x";
        assert_eq!(statements(text), ["a.service :: add rule f c", "b.service :: add rule f c accept"]);
        assert_eq!(
            diagnostics(text),
            [
                "another annotation begins after this `\\`",
                "blanks follow this `\\`",
                "the line after this `\\` is not a comment"
            ]
        );
        assert_eq!(diagnostics("# a.service :: add rule f c \\"), ["the file ends after this `\\`"]);
    }

    #[test]
    fn other_suffix_is_warned_of() {
        assert_eq!(diagnostics("# a.foo :: add rule f c accept"), ["`.foo` is not a unit type"]);
    }
}
