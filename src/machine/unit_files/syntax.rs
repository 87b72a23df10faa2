//! The text of a unit file: systemd.syntax(7).

/// `KEY=VALUE` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// All assignments, in order. What is none is passed over.
pub(super) fn assignments(text: &str) -> Vec<Assignment> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in joined_lines(text) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            let (key, value) = (key.trim_end().to_owned(), value.trim_start().to_owned());
            found.push(Assignment { section: section.clone(), key, value });
        }
    }
    found
}

/// The lines without comments, each with those that continue it, a blank for the `\`. A comment in between does not end
/// the line.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
        let line = line.trim_start();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            open.push_str(&line[..line.len() - 1]);
            open.push(' ');
        } else {
            open.push_str(line);
            lines.push(std::mem::take(&mut open));
        }
    }
    lines.push(open);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let line = |assignment: Assignment| {
            format!("[{}] {}={}", assignment.section, assignment.key, assignment.value)
        };
        assignments(text).into_iter().map(line).collect()
    }

    #[test]
    fn assignments_belong_to_the_section_above_them() {
        let text = "\u{feff}a=0\n[Unit]\nb = 1 \n\n[Service]\r\nc=d=e\r\n[]\nf=\n";
        assert_eq!(found(text), ["[] a=0", "[Unit] b=1", "[Service] c=d=e", "[] f="]);
    }

    #[test]
    fn comments_and_lines_without_an_assignment_are_passed_over() {
        assert_eq!(found("[S]\n# a=1\n ; b=2\nnothing\n[T\nc=3 # d\n"), ["[S] c=3 # d"]);
    }

    #[test]
    fn backslash_joins_lines_over_comments() {
        assert_eq!(
            found("a=1\\\n  2 \\\n# no\\\n; no\n3\nb=4\\\\\nc=5\\"),
            ["[] a=1 2  3", "[] b=4\\\\", "[] c=5"]
        );
    }
}
