//! Which annotations the directives `count` and `wait` are for.

use super::{Step, directives::Mark};
use crate::text::{Code, Span, diagnostic::Diagnostic};

/// What was asked for, while it is not known what stands below.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// In the lines directly above.
    pub(super) above: Vec<(Mark, Span)>,
    /// `count` in front of the file, before an annotation comes.
    of_file: Vec<Span>,
    /// Whether all annotations of the file are counted.
    is_file_counted: bool,
    /// Whether there was an annotation or a statement of nft's.
    is_behind_front: bool,
}

impl Asked {
    /// An annotation comes: whether it is counted, and waited for.
    pub(super) fn for_annotation(&mut self) -> (bool, bool) {
        let above = std::mem::take(&mut self.above);
        let has = |mark: Mark| above.iter().any(|(asked, _)| *asked == mark);
        self.is_file_counted |= !std::mem::take(&mut self.of_file).is_empty();
        self.is_behind_front = true;
        (self.is_file_counted || has(Mark::Count), has(Mark::Wait))
    }

    /// Another line comes, or none: `count` may be for the whole file then.
    pub(super) fn for_other_line(&mut self, is_statement: bool) -> Vec<(usize, Step)> {
        let mut in_vain = Vec::new();
        for (mark, span) in std::mem::take(&mut self.above) {
            match mark {
                Mark::Count if !self.is_behind_front => self.of_file.push(span),
                Mark::Count => in_vain.push(nothing(
                    span,
                    "`count` stands above no annotation",
                    "write it in the line above an annotation, or at the beginning of the file for all of it",
                )),
                Mark::Wait => in_vain.push(nothing(
                    span,
                    "`wait` stands above no annotation",
                    "write it in the line above an annotation",
                )),
            }
        }
        self.is_behind_front |= is_statement;
        in_vain
    }

    /// The file ends.
    pub(super) fn at_end(mut self) -> Vec<(usize, Step)> {
        let mut in_vain = self.for_other_line(false);
        in_vain.extend(self.of_file.into_iter().map(|span| {
            nothing(
                span,
                "`count` stands in a file without annotations",
                "write it in the files that have them",
            )
        }));
        in_vain
    }
}

fn nothing(span: Span, message: &str, help: &str) -> (usize, Step) {
    (span.start, Step::Slip(Diagnostic::new(Code::Directive, span, message).help(help)))
}
