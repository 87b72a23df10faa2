//! Several fixes of one file's text at once.

use super::Fix;

/// Fixes that do not touch each other, in the order of the text.
#[derive(Debug, Default)]
pub struct Edits<'a>(Vec<&'a Fix>);

impl<'a> Edits<'a> {
    /// Adds a fix of the same file; whether none of the others touches it.
    pub fn add(&mut self, fix: &'a Fix) -> bool {
        let at = self.0.partition_point(|other| other.span.end < fix.span.start);
        let is_apart = self.0.get(at).is_none_or(|next| fix.span.end < next.span.start);
        if is_apart {
            self.0.insert(at, fix);
        }
        is_apart
    }

    /// The text with all of them.
    pub fn apply(&self, text: &str) -> String {
        let (mut edited, mut done) = (String::with_capacity(text.len()), 0);
        for fix in &self.0 {
            edited += &text[done..fix.span.start];
            edited += &fix.text;
            done = fix.span.end;
        }
        edited + &text[done..]
    }

    /// Where something stood before that stands at this byte with all of them. What is in a fix stood at its beginning,
    /// or as far behind it as the fix leaves it.
    pub fn before(&self, at: usize) -> usize {
        let (mut added, mut removed) = (0, 0);
        for fix in &self.0 {
            let start = fix.span.start - removed + added;
            if at < start {
                break;
            }
            if at < start + fix.text.len() {
                return (fix.span.start + at - start).min(fix.span.end);
            }
            added += fix.text.len();
            removed += fix.span.end - fix.span.start;
        }
        at + removed - added
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{FileId, Span};

    fn fix(start: usize, end: usize, text: &str) -> Fix {
        Fix { span: Span { file: FileId(0), start, end }, text: text.to_owned() }
    }

    #[test]
    fn all_are_applied_and_places_are_found_again() {
        let fixes = [fix(8, 9, "nine"), fix(2, 4, ""), fix(5, 5, "x")];
        let mut edits = Edits::default();
        assert!(fixes.iter().all(|fix| edits.add(fix)));
        assert_eq!(edits.apply("0123456789"), "014x567nine9");
        let before: Vec<usize> = [0, 1, 2, 3, 4, 6, 7, 10, 11].map(|at| edits.before(at)).into();
        assert_eq!(before, [0, 1, 4, 5, 5, 7, 8, 9, 9]);
    }

    #[test]
    fn those_that_touch_are_not_taken() {
        let first = fix(2, 4, "x");
        let mut edits = Edits::default();
        assert!(edits.add(&first));
        for other in [fix(2, 4, "y"), fix(3, 8, ""), fix(4, 4, "y"), fix(0, 2, "")] {
            let mut edits = Edits(edits.0.clone());
            assert!(!edits.add(&other), "{other:?}");
        }
        assert!(edits.add(&fix(5, 6, "")));
    }
}
