//! What nft prints about a script or about files, taken apart. Pure.

use serde::{Deserialize, Serialize};

use super::Complaint;

/// A complaint with its place as nft names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileComplaint {
    /// The file, under the name that nft opened it by; line (from 1), first and last column (from 1, in bytes).
    pub place: Option<(String, (usize, usize, usize))>,
    /// nft's own words, without the place and without the echoed line.
    pub words: String,
}

/// The complaints in nft's error text, in its order. `script` is the file name under which nft read the script:
/// places in other files are left in the words. Warnings are dropped where there are errors.
pub fn parse(text: &str, script: &str) -> Vec<Complaint> {
    let of_script = |FileComplaint { place, words }| match place {
        Some((file, place)) if file == script => Complaint { place: Some(place), words },
        Some((file, (line, first, last))) => {
            Complaint { place: None, words: format!("{file}:{line}:{first}-{last}: {words}") }
        }
        None => Complaint { place: None, words },
    };
    parse_files(text).into_iter().map(of_script).collect()
}

/// The same for a script that is a user's file and may include others.
pub fn parse_files(text: &str) -> Vec<FileComplaint> {
    let mut found: Vec<(Severity, FileComplaint)> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if lines.next_if(|next| is_marks(next)).is_some()
            || line.starts_with("In file included from ")
            || is_marks(line)
            || line.trim().is_empty()
        {
            // The line of the script and the marks below it.
        } else if let Some(complaint) = headline(line) {
            found.push(complaint);
        } else if let Some((_, complaint)) = found.last_mut() {
            complaint.words.push('\n');
            complaint.words.push_str(line);
        } else {
            found.push((Severity::Other, FileComplaint { place: None, words: line.to_owned() }));
        }
    }
    if found.iter().any(|(severity, _)| *severity == Severity::Error) {
        found.retain(|(severity, _)| *severity == Severity::Error);
    }
    found.into_iter().map(|(_, complaint)| complaint).collect()
}

/// All of them in one text, for a place where there is no script to point at.
pub fn words(complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| complaint.words.as_str()).collect::<Vec<_>>().join("; ")
}

/// The words of errors that pass (strerror(3)): the kernel was short of something, or busy.
const PASSING: [&str; 6] = [
    "Cannot allocate memory",
    "Device or resource busy",
    "Interrupted system call",
    "No buffer space available",
    "Resource temporarily unavailable",
    "Too many open files",
];

impl Complaint {
    /// Whether the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        PASSING.iter().any(|words| self.words.ends_with(words))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Other,
}

/// `file:line:first-last: Error: words`, `netlink: Error: words`, `Error: words`; the same with `Warning`.
fn headline(line: &str) -> Option<(Severity, FileComplaint)> {
    let (severity, before, words) = [("Error: ", Severity::Error), ("Warning: ", Severity::Other)]
        .into_iter()
        .filter_map(|(mark, severity)| {
            let (before, words) = line.split_once(mark)?;
            (before.is_empty() || before.ends_with(": ")).then_some((severity, before, words))
        })
        .min_by_key(|(_, before, _)| before.len())?;
    let origin = before.strip_suffix(": ").unwrap_or_default();
    let place = place(origin).filter(|(file, _)| *file != "internal");
    let place = place.map(|(file, place)| (file.to_owned(), place));
    Some((severity, FileComplaint { place, words: words.to_owned() }))
}

/// `file:line:first-last`, with the file's name as nft has it (which may have colons in it).
fn place(origin: &str) -> Option<(&str, (usize, usize, usize))> {
    let mut parts = origin.rsplitn(3, ':');
    let (first, last) = parts.next()?.split_once('-')?;
    let line = parts.next()?.parse().ok()?;
    Some((parts.next()?, (line, first.parse().ok()?, last.parse().ok()?)))
}

/// Whether it is the line of `^` and `~` below a line of the script.
fn is_marks(line: &str) -> bool {
    line.contains(['^', '~']) && line.chars().all(|mark| matches!(mark, ' ' | '\t' | '^' | '~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, first: usize, last: usize, words: &str) -> Complaint {
        Complaint { place: Some((line, first, last)), words: words.to_owned() }
    }

    fn nowhere(words: &str) -> Complaint {
        Complaint { place: None, words: words.to_owned() }
    }

    #[test]
    fn each_error_keeps_its_place_and_loses_the_echoed_line() {
        let text = "\
/proc/self/fd/7:2:20-20: Error: syntax error, unexpected '}', expecting newline or semicolon
 chain v { counter }
                   ^
/proc/self/fd/7:5:28-29: Error: datatype mismatch, expected IPv4 address
add rule inet t a ip saddr @s
                  ~~~~~~~~ ^^
";
        assert_eq!(
            parse(text, "/proc/self/fd/7"),
            [
                at(2, 20, 20, "syntax error, unexpected '}', expecting newline or semicolon"),
                at(5, 28, 29, "datatype mismatch, expected IPv4 address"),
            ]
        );
    }

    #[test]
    fn errors_without_a_place_in_the_script_have_none() {
        for (text, words) in [
            (
                "Error: Could not process rule: Operation not permitted\n",
                "Could not process rule: Operation not permitted",
            ),
            ("internal:0:0-0: Error: element does not exist\n\n", "element does not exist"),
            (
                "netlink: Error: cache initialization failed: Operation not permitted\n",
                "cache initialization failed: Operation not permitted",
            ),
            ("Error: syntax error, unexpected '{'\n{\"nftables\":[]}\n^\n", "syntax error, unexpected '{'"),
            ("JSON support not compiled-in\n", "JSON support not compiled-in"),
        ] {
            assert_eq!(parse(text, "/proc/self/fd/7"), [nowhere(words)], "{text}");
        }
    }

    #[test]
    fn an_included_file_is_named_in_the_words() {
        let text = "\
In file included from /proc/self/fd/7:1:1-19:
/etc/a:b.nft:2:8-8: Error: syntax error, unexpected newline
foo bar
       ^
";
        assert_eq!(
            parse(text, "/proc/self/fd/7"),
            [nowhere("/etc/a:b.nft:2:8-8: syntax error, unexpected newline")]
        );
    }

    #[test]
    fn places_in_files_are_kept() {
        let text = "\
In file included from main.conf:3:1-19:
./a:b.conf:2:8-8: Error: syntax error, unexpected newline
log prefix \"x: Error: y\"
       ^
main.conf:4:1-3: Error: Interface does not exist
";
        let of = |file: &str, place, words: &str| FileComplaint {
            place: Some((file.to_owned(), place)),
            words: words.to_owned(),
        };
        assert_eq!(
            parse_files(text),
            [
                of("./a:b.conf", (2, 8, 8), "syntax error, unexpected newline"),
                of("main.conf", (4, 1, 3), "Interface does not exist"),
            ]
        );
    }

    #[test]
    fn a_warning_counts_only_when_there_is_no_error() {
        let warning = "/proc/self/fd/7:1:1-3: Warning: table is managed by iptables-nft\n";
        let error = "/proc/self/fd/7:2:1-3: Error: No such file or directory; did you mean table ‘a’?\n";
        assert_eq!(
            parse(&format!("{warning}{error}"), "/proc/self/fd/7"),
            [at(2, 1, 3, "No such file or directory; did you mean table ‘a’?")]
        );
        assert_eq!(parse(warning, "/proc/self/fd/7"), [at(1, 1, 3, "table is managed by iptables-nft")]);
    }

    #[test]
    fn an_error_within_the_words_does_not_split_them() {
        let text = "Error: cannot open: Error: Warning: odd\n";
        assert_eq!(parse(text, "x"), [nowhere("cannot open: Error: Warning: odd")]);
    }

    #[test]
    fn what_is_not_understood_stays_verbatim() {
        assert_eq!(parse("one\ntwo\n", "x"), [nowhere("one\ntwo")]);
        assert_eq!(parse("Error: one\ntwo\n", "x"), [nowhere("one\ntwo")]);
        assert_eq!(parse("", "x"), []);
    }
}
