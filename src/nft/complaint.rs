//! What nft prints about a script or about files, taken apart and classified. Pure.
//!
//! Nothing else in the crate compares nft's words: who acts on a complaint asks for its [`Kind`].

use serde::{Deserialize, Serialize};

/// A place in a script: line (from 1), first and last column (from 1, in bytes).
pub type Place = (usize, usize, usize);

/// What nft says of a script, with its place in the script where it names one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint<P = Place> {
    /// Where.
    pub place: Option<P>,
    /// What it means for those who act on it.
    pub kind: Kind,
    /// nft's own words, without the place and without the echoed line.
    pub words: String,
    /// What would have been right there, of a syntax error: nftables 1.1.7 lists it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

/// What nft says of files: the place has the file's name, under which nft opened it.
pub type FileComplaint = Complaint<(String, Place)>;

/// Kinds of complaints that somebody acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// There is no cgroup of this path.
    CgroupMissing,
    /// There is no interface of this name.
    InterfaceMissing,
    /// A host name has no address; nft takes for one whatever is no address.
    HostUnresolved,
    /// The kernel does not have this there, such as a cgroup match in a forward chain.
    Unsupported,
    /// Chains call each other in a circle, or too deep.
    Loop,
    /// No such table, chain, set or device.
    Missing,
    /// The same, and nft knows a similar name, which its words have.
    Misspelt,
    /// It is there already, perhaps with another value.
    Exists,
    /// Something else uses it, or the kernel is busy with it now.
    Busy,
    /// What is written has not what the set or the statement needs.
    Invalid,
    /// An interval overlaps with another one of the same set.
    Overlap,
    /// The kernel has no tables of this family.
    NoFamily,
    /// There is no variable of this name.
    Variable,
    /// An `include` finds no file.
    NoFile,
    /// A value that its type does not have, such as a connection's state or a service.
    Value,
    /// The priority of a chain is no number, and no name that its family and hook have.
    Priority,
    /// A `dnat` or `snat` in a table of two families does not say for which its address is.
    NatFamily,
    /// A `tproxy`, or a port of NAT, without the protocol that it is for.
    Transport,
    /// A `!` or a list with commas, which nft takes for flags.
    Flags,
    /// A statement behind a verdict.
    AfterVerdict,
    /// The kernel has no base chain of this type there.
    ChainType,
    /// A set without a type.
    NoKey,
    /// A value for an element of a set.
    NotAMap,
    /// A character that nft takes nowhere, such as a carriage return.
    Junk,
    /// A statement ends before it is complete.
    EarlyEnd,
    /// The file ends before a block is complete.
    EndOfFile,
    /// A word that stands for nothing where it is.
    NoSymbol,
    /// Any other syntax error.
    Syntax,
    /// The kernel could not do it now, and may the next time.
    Passing,
    /// This needs more rights.
    Denied,
    /// To send so much at once needs more rights.
    TooLong,
    /// Anything else.
    Other,
}

/// How complaints begin: nft's own words, and by what bison did not expect.
const BY_START: [(&str, Kind); 34] = [
    ("cgroupv2 path fails", Kind::CgroupMissing),
    // The same in nftables 1.1.7.
    ("Could not parse cgroupsv2 path", Kind::CgroupMissing),
    ("Interface does not exist", Kind::InterfaceMissing),
    ("Could not resolve hostname", Kind::HostUnresolved),
    ("syntax error, unexpected junk", Kind::Junk),
    // In nftables 1.1, for carriage returns.
    ("syntax error, unexpected CRLF", Kind::Junk),
    ("syntax error, unexpected newline", Kind::EarlyEnd),
    ("syntax error, unexpected end of file", Kind::EndOfFile),
    ("syntax error", Kind::Syntax),
    ("No symbol type information", Kind::NoSymbol),
    ("unknown identifier", Kind::Variable),
    ("File not found", Kind::NoFile),
    ("Could not parse", Kind::Value),
    ("Could not resolve service", Kind::Value),
    ("Could not resolve protocol name", Kind::Value),
    ("unknown datatype", Kind::Value),
    ("Can't parse symbolic", Kind::Value),
    ("invalid log level", Kind::Value),
    // In nftables 1.1.
    ("Chain of type ", Kind::ChainType),
    ("Invalid IPv4 address", Kind::HostUnresolved),
    ("Invalid IPv6 address", Kind::HostUnresolved),
    ("set is not a map", Kind::NotAMap),
    ("set definition does not specify key", Kind::NoKey),
    ("unsupported family", Kind::Unsupported),
    ("unknown chain", Kind::Value),
    ("invalid priority expression value", Kind::Priority),
    ("conflicting intervals specified", Kind::Overlap),
    ("interval overlaps with an existing one", Kind::Overlap),
    ("ip or ip6 must be specified with address for inet tables", Kind::NatFamily),
    ("Transparent proxy support requires transport protocol match", Kind::Transport),
    ("transport protocol mapping is only valid after transport protocol match", Kind::Transport),
    ("Statement after terminal statement has no effect", Kind::AfterVerdict),
    ("negation can only be used with singleton bitmask values", Kind::Flags),
    ("Basetype of type ", Kind::Flags),
];

/// The texts of errors, as strerror(3) has them: all of the words, or their end.
const BY_ERROR: [(&str, Kind); 16] = [
    ("No such file or directory", Kind::Missing),
    ("Operation not supported", Kind::Unsupported),
    ("Too many links", Kind::Loop),
    ("File exists", Kind::Exists),
    ("Operation not permitted", Kind::Denied),
    ("Permission denied", Kind::Denied),
    ("Message too long", Kind::TooLong),
    ("Cannot allocate memory", Kind::Passing),
    ("Device or resource busy", Kind::Busy),
    ("Invalid argument", Kind::Invalid),
    ("Address family not supported by protocol", Kind::NoFamily),
    ("Interrupted system call", Kind::Passing),
    ("No buffer space available", Kind::Passing),
    ("Resource temporarily unavailable", Kind::Passing),
    ("Too many open files", Kind::Passing),
    ("Too many open files in system", Kind::Passing),
];

impl Kind {
    /// The kind of a complaint in these words: nft's, or the text of an error of the system.
    fn of(words: &str) -> Self {
        if let Some((_, kind)) = BY_START.iter().find(|(start, _)| words.starts_with(start)) {
            return *kind;
        }
        let line = words.lines().next().unwrap_or_default();
        let near_miss = line.split_once("; did you mean ");
        let before = near_miss.map_or(line, |(before, _)| before).split(" (os error ").next();
        let error = before.and_then(|before| before.rsplit(": ").next());
        match BY_ERROR.iter().find(|(text, _)| error == Some(text)) {
            Some((_, Self::Missing)) if near_miss.is_some() => Self::Misspelt,
            found => found.map_or(Self::Other, |(_, kind)| *kind),
        }
    }

    /// Whether nft cannot read what is written.
    pub fn is_syntax(self) -> bool {
        matches!(self, Self::Junk | Self::EarlyEnd | Self::EndOfFile | Self::Syntax)
    }

    /// Whether it may be about another rule of the same table that stands before: the kernel looks at a whole table after
    /// each rule, so it says the same of all later ones (`nft_table_validate`).
    pub fn is_of_the_table(self) -> bool {
        matches!(self, Self::Unsupported | Self::Loop)
    }

    /// Whether it may be due to the lack of root's rights.
    pub fn needs_rights(self) -> bool {
        matches!(self, Self::Denied | Self::TooLong)
    }

    /// Whether a table, chain, set or device does not exist.
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Missing | Self::Misspelt)
    }
}

impl<P> Complaint<P> {
    /// With the kind that these words are of.
    pub fn new(place: Option<P>, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { place, kind: Kind::of(&words), words, expected: None }
    }

    /// Without a place.
    pub fn unplaced(words: impl Into<String>) -> Self {
        Self::new(None, words)
    }

    /// Whether the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::Passing | Kind::Busy)
    }

    /// What nft expected, for somebody who mends it.
    pub fn help(&self) -> Option<String> {
        Some(format!("nft expected any of: {}", self.expected.as_ref()?))
    }

    /// One more line of the words.
    fn go_on(&mut self, line: &str) {
        match line.strip_prefix("expected any of: ") {
            Some(expected) if self.kind.is_syntax() => self.expected = Some(expected.to_owned()),
            _ => {
                self.words.push('\n');
                self.words.push_str(line);
            }
        }
    }
}

/// The complaints in nft's error text, in its order. `script` is the file name under which nft read the script:
/// places in other files are left in the words. Warnings are dropped where there are errors.
pub fn parse(text: &str, script: &str) -> Vec<Complaint> {
    let of_script = |FileComplaint { place, kind, words, expected }| match place {
        Some((file, place)) if file == script => Complaint { place: Some(place), kind, words, expected },
        Some((file, (line, first, last))) => {
            let words = format!("{file}:{line}:{first}-{last}: {words}");
            Complaint { place: None, kind, words, expected }
        }
        None => Complaint { place: None, kind, words, expected },
    };
    parse_files(text).into_iter().map(of_script).collect()
}

/// The same for a script that is a user's file and may include others.
pub fn parse_files(text: &str) -> Vec<FileComplaint> {
    let mut found: Vec<(bool, FileComplaint)> = Vec::new();
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
            complaint.go_on(line);
        } else {
            found.push((false, Complaint::unplaced(line)));
        }
    }
    if found.iter().any(|(is_error, _)| *is_error) {
        found.retain(|(is_error, _)| *is_error);
    }
    found.into_iter().map(|(_, complaint)| complaint).collect()
}

/// All of them in one text, for a place where there is no script to point at.
pub fn words(complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| complaint.words.as_str()).collect::<Vec<_>>().join("; ")
}

/// `file:line:first-last: Error: words`, `netlink: Error: words`, `Error: words`; the same with `Warning`. Whether it is
/// an error, and the complaint.
fn headline(line: &str) -> Option<(bool, FileComplaint)> {
    let (mark, before, words) = ["Error: ", "Warning: "]
        .into_iter()
        .filter_map(|mark| {
            let (before, words) = line.split_once(mark)?;
            (before.is_empty() || before.ends_with(": ")).then_some((mark, before, words))
        })
        .min_by_key(|(_, before, _)| before.len())?;
    let origin = before.strip_suffix(": ").unwrap_or_default();
    let place = place(origin).filter(|(file, _)| *file != "internal");
    let place = place.map(|(file, place)| (file.to_owned(), place));
    Some((mark == "Error: ", Complaint::new(place, words)))
}

/// `file:line:first-last`, with the file's name as nft has it (which may have colons in it).
fn place(origin: &str) -> Option<(&str, Place)> {
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
        Complaint::new(Some((line, first, last)), words)
    }

    fn nowhere(words: &str) -> Complaint {
        Complaint::unplaced(words)
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
            [Complaint {
                kind: Kind::EarlyEnd,
                ..nowhere("/etc/a:b.nft:2:8-8: syntax error, unexpected newline")
            }]
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
        let of = |file: &str, place, words: &str| Complaint::new(Some((file.to_owned(), place)), words);
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
    fn what_nft_expected_is_no_part_of_the_words() {
        let text = "\
/proc/self/fd/7:5:5-8: Error: syntax error, unexpected string
expected any of: saddr, daddr, '{', '|'
 ip dadr 192.0.2.1
    ^^^^
/proc/self/fd/7:6:1-3: Error: Could not process rule: No such file or directory
";
        let found = parse(text, "/proc/self/fd/7");
        let expected = Some("saddr, daddr, '{', '|'".to_owned());
        assert_eq!(
            found,
            [
                Complaint { expected, ..at(5, 5, 8, "syntax error, unexpected string") },
                at(6, 1, 3, "Could not process rule: No such file or directory"),
            ]
        );
        assert_eq!(found[0].help().as_deref(), Some("nft expected any of: saddr, daddr, '{', '|'"));
    }

    #[test]
    fn what_is_not_understood_stays_verbatim() {
        assert_eq!(parse("one\ntwo\n", "x"), [nowhere("one\ntwo")]);
        assert_eq!(parse("Error: one\ntwo\n", "x"), [nowhere("one\ntwo")]);
        assert_eq!(parse("", "x"), []);
    }

    #[test]
    fn words_of_all_versions_have_their_kind() {
        for (words, kind) in [
            ("cgroupv2 path fails: No such file or directory", Kind::CgroupMissing),
            ("Could not parse cgroupsv2 path", Kind::CgroupMissing),
            ("Interface does not exist", Kind::InterfaceMissing),
            ("Could not resolve hostname: Name or service not known", Kind::HostUnresolved),
            ("Could not resolve hostname: Address family for hostname not supported", Kind::HostUnresolved),
            ("Could not resolve service: Servname not supported for ai_socktype", Kind::Value),
            ("Could not process rule: Operation not supported", Kind::Unsupported),
            ("Chain of type \"nat\" is not supported, perhaps kernel support is missing?", Kind::ChainType),
            ("Could not process rule: No such file or directory", Kind::Missing),
            ("Could not process rule: Message too long", Kind::TooLong),
            ("cache initialization failed: Operation not permitted", Kind::Denied),
            ("Could not open file \"/etc/a.nft\": Permission denied", Kind::Denied),
            ("No such file or directory", Kind::Missing),
            ("No such file or directory; did you mean table ‘filter’ in family inet?", Kind::Misspelt),
            ("No such file or directory; did you mean set 'friends' in table inet 'filter'?", Kind::Misspelt),
            ("File not found: ./nosuch.nft", Kind::NoFile),
            ("unknown identifier 'LNA'; did you mean identifier ‘LAN’?", Kind::Variable),
            ("Could not process rule: File exists", Kind::Exists),
            ("syntax error, unexpected junk", Kind::Junk),
            ("syntax error, unexpected junk, expecting end of file or newline or semicolon", Kind::Junk),
            (
                "syntax error, unexpected CRLF line terminators, expecting end of file or newline or semicolon",
                Kind::Junk,
            ),
            ("syntax error, unexpected newline", Kind::EarlyEnd),
            ("syntax error, unexpected newline, expecting string", Kind::EarlyEnd),
            ("syntax error, unexpected '}', expecting newline or semicolon", Kind::Syntax),
            ("syntax error, unexpected string", Kind::Syntax),
            ("syntax error", Kind::Syntax),
            ("Could not process rule: Cannot allocate memory", Kind::Passing),
            ("Could not process rule: Device or resource busy", Kind::Busy),
            ("Could not process rule: Too many links", Kind::Loop),
            ("syntax error, unexpected end of file", Kind::EndOfFile),
            ("No symbol type information", Kind::NoSymbol),
            ("Could not parse conntrack state", Kind::Value),
            ("unknown chain hook", Kind::Value),
            ("invalid priority expression value in this context.", Kind::Priority),
            ("conflicting intervals specified", Kind::Overlap),
            ("ip or ip6 must be specified with address for inet tables.", Kind::NatFamily),
            ("transport protocol mapping is only valid after transport protocol match", Kind::Transport),
            ("Basetype of type internet network service is not bitmask", Kind::Flags),
            ("set definition does not specify key", Kind::NoKey),
            ("set is not a map", Kind::NotAMap),
            ("Could not process rule: Address family not supported by protocol", Kind::NoFamily),
            ("cache initialization failed: Interrupted system call", Kind::Passing),
            ("Could not process rule: Invalid argument", Kind::Invalid),
            ("", Kind::Other),
        ] {
            assert_eq!(Complaint::<Place>::unplaced(words).kind, kind, "{words}");
        }
    }

    #[test]
    fn errors_of_the_system_that_pass_are_told_by_their_text() {
        use nix::errno::Errno;
        for errno in [
            Errno::ENOMEM,
            Errno::EBUSY,
            Errno::EINTR,
            Errno::ENOBUFS,
            Errno::EAGAIN,
            Errno::EMFILE,
            Errno::ENFILE,
        ] {
            let error = std::io::Error::from(errno).to_string();
            assert!(Complaint::<Place>::unplaced(&error).is_passing(), "{error}");
        }
        for errno in [Errno::EINVAL, Errno::ENOSPC] {
            let error = std::io::Error::from(errno).to_string();
            assert!(!Complaint::<Place>::unplaced(&error).is_passing(), "{error}");
        }
    }

    #[test]
    fn a_user_s_own_text_in_the_words_does_not_make_the_kind() {
        for (words, kind) in [
            ("unknown identifier 'Interface does not exist'", Kind::Variable),
            ("unknown identifier 'x: syntax error, unexpected newline'", Kind::Variable),
            ("datatype mismatch: File exists, it says", Kind::Other),
        ] {
            assert_eq!(Complaint::<Place>::unplaced(words).kind, kind, "{words}");
        }
    }
}
