//! Domain names (RFC 1035), and which of them are meant.

use std::{fmt, ops::Range};

use thiserror::Error;

use crate::{
    model::SetRef,
    text::{Span, diagnostic::quoted},
};

/// The most bytes of a name and of one of its labels (RFC 1035, 2.3.4); the name's are as they are sent, without the root's label.
const LONGEST: usize = 254;
const LONGEST_LABEL: usize = 63;

/// A domain name: its labels as they are sent, each behind its length, without the root's; in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Box<[u8]>);

impl Domain {
    /// Of these labels; none if that is no name, or the root's.
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut bytes = Vec::new();
        for label in labels {
            let length = u8::try_from(label.len()).ok()?;
            if label.is_empty() || label.len() > LONGEST_LABEL || bytes.len() + label.len() >= LONGEST {
                return None;
            }
            bytes.push(length);
            bytes.extend(label.to_ascii_lowercase());
        }
        (!bytes.is_empty()).then(|| Self(bytes.into()))
    }

    /// From a text in which `\` stands in front of a `.` or `\` of a label, or of a byte's three decimal digits, as systemd
    /// writes names.
    pub fn of_text(text: &str) -> Option<Self> {
        let mut labels = vec![Vec::new()];
        let mut rest = text.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            let last = labels.last_mut()?;
            match (first, behind) {
                (b'.', _) => labels.push(Vec::new()),
                (b'\\', [a, b, c, behind @ ..]) if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => {
                    let number =
                        [a, b, c].iter().fold(0_u32, |number, digit| number * 10 + u32::from(**digit - b'0'));
                    last.push(u8::try_from(number).ok()?);
                    rest = behind;
                }
                (b'\\', [next, behind @ ..]) => {
                    last.push(*next);
                    rest = behind;
                }
                (b'\\', []) => return None,
                (byte, _) => last.push(*byte),
            }
        }
        if labels.last().is_some_and(Vec::is_empty) {
            labels.pop();
        }
        Self::of(labels.iter().map(Vec::as_slice))
    }

    /// From the beginning of bytes that are as they are sent, without compression; and what follows it.
    pub fn of_wire(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut labels = Vec::new();
        let mut rest = bytes;
        loop {
            let (length, behind) = rest.split_first()?;
            if *length == 0 {
                return Some((Self::of(labels)?, behind));
            }
            let (label, behind) = behind.split_at_checked(usize::from(*length))?;
            labels.push(label);
            rest = behind;
        }
    }

    /// Whether it is below another one.
    pub fn is_below(&self, above: &Self) -> bool {
        let mut rest = &*self.0;
        while let Some((length, behind)) = rest.split_first() {
            rest = behind.get(usize::from(*length)..).unwrap_or_default();
            if *rest == *above.0 {
                return true;
            }
        }
        false
    }

    /// As it is written, if it has nothing but letters, digits, `-` and `_` in it.
    pub fn plain(&self) -> Option<String> {
        let mut text = String::new();
        let mut rest = &*self.0;
        while let Some((length, behind)) = rest.split_first() {
            let (label, behind) = behind.split_at_checked(usize::from(*length))?;
            if !label.iter().all(|byte| is_plain(char::from(*byte))) {
                return None;
            }
            text.extend((!text.is_empty()).then_some('.'));
            text.extend(label.iter().copied().map(char::from));
            rest = behind;
        }
        Some(text)
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Names that are meant: one, or all below one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names {
    domain: Domain,
    is_below: bool,
}

/// What is wrong with a text that should name some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNames {
    /// Where in the text.
    pub place: Range<usize>,
    /// What.
    pub what: Wrong,
    /// What may be meant instead of the whole text.
    pub meant: Option<String>,
}

/// What can be wrong.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// No text.
    #[error("a name is missing here")]
    Missing,
    /// More than a name.
    #[error("this is more than a name")]
    More,
    /// An address.
    #[error("this is an address")]
    Address,
    /// `*` elsewhere than in front.
    #[error("`*` can only be the first label, and all of it")]
    Star,
    /// Letters that are not ASCII.
    #[error("the name has letters that are sent in another form")]
    NotAscii,
    /// Other characters.
    #[error("no name of a host has this character")]
    Character,
    /// Two dots.
    #[error("a label is empty")]
    Empty,
    /// Too long.
    #[error("the name or a label is too long")]
    Long,
    /// One label, or `*` and one.
    #[error("this has one label only")]
    One,
}

impl Wrong {
    /// What helps.
    pub fn help(self) -> &'static str {
        match self {
            Self::Missing => "write `example.org`, or `*.example.org` for all below it, separated by commas",
            Self::More => "write the name of the host alone",
            Self::Address => "put addresses into the set yourself, or write a rule for them",
            Self::Star => "`*.example.org` is every name below `example.org`, at any depth",
            Self::NotAscii => "write the form that begins with `xn--`; `resolvectl query NAME` prints it",
            Self::Character => "names have letters, digits, `-` and `_`",
            Self::Empty => "leave the second dot out",
            Self::Long => "a label has 63 bytes at most, a name 253",
            Self::One => "write the whole name, with all its labels",
        }
    }
}

impl Names {
    /// From a text such as `example.org` or `*.example.org`, which is all below that, at any depth, but not the name itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NoNames> {
        let whole = 0..text.len();
        let wrong = |place: Range<usize>, what| Err(NoNames { place, what, meant: None });
        let instead = |what, meant: String| Err(NoNames { place: whole.clone(), what, meant: Some(meant) });
        if text.is_empty() {
            return wrong(whole, Wrong::Missing);
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return wrong(whole, Wrong::Address);
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', ':']).next().unwrap_or_default();
            return match Self::parse(host) {
                Ok(_) => instead(Wrong::More, host.to_owned()),
                Err(_) => wrong(whole, Wrong::More),
            };
        }
        if let Some(rest) = text.strip_prefix('.').filter(|rest| Self::parse(rest).is_ok()) {
            return instead(Wrong::Empty, format!("*.{rest}"));
        }
        let (name, first) = text.strip_prefix("*.").map_or((text, 0), |rest| (rest, 2));
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some((at, c)) = name.char_indices().find(|(_, c)| !is_plain(*c) && *c != '.') {
            let what = match c {
                '*' => Wrong::Star,
                ':' | '/' | '@' => Wrong::More,
                _ if c.is_alphanumeric() => Wrong::NotAscii,
                _ => Wrong::Character,
            };
            return wrong(first + at..first + at + c.len_utf8(), what);
        }
        if let Some(at) = name.find("..") {
            return Err(NoNames {
                place: first + at..first + at + 2,
                what: Wrong::Empty,
                meant: Some(text.replace("..", ".")).filter(|meant| Self::parse(meant).is_ok()),
            });
        }
        if name.is_empty() || name.starts_with('.') {
            return wrong(whole, Wrong::Empty);
        }
        if !name.contains('.') {
            return wrong(whole, Wrong::One);
        }
        match Domain::of(name.split('.').map(str::as_bytes)) {
            Some(domain) => Ok(Self { domain, is_below: first > 0 }),
            None => wrong(whole, Wrong::Long),
        }
    }

    /// Whether a name is among them.
    pub fn contain(&self, name: &Domain) -> bool {
        if self.is_below { name.is_below(&self.domain) } else { *name == self.domain }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_below { "*." } else { "" };
        write!(f, "{star}{}", self.domain.plain().unwrap_or_default())
    }
}

/// `# scnpm: fill SET, SET with NAME, NAME`: sets that are filled with the addresses of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The sets, each with the place that names it.
    pub sets: Vec<(SetRef, Span)>,
    /// The names.
    pub names: Vec<Names>,
    /// Whether addresses that are not those of hosts on the Internet are refused.
    pub is_global: bool,
    /// The directive.
    pub span: Span,
}

impl Fill {
    /// Whether a name's addresses are wanted.
    pub fn wants(&self, name: &Domain) -> bool {
        self.names.iter().any(|names| names.contain(name))
    }
}

impl NoNames {
    /// In words.
    pub fn message(&self, text: &str) -> String {
        match self.what {
            Wrong::Missing => Wrong::Missing.to_string(),
            what => format!("{} is not a host name: {what}", quoted(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::of_text(text).unwrap()
    }

    fn contain(names: &str, name: &str) -> bool {
        Names::parse(names).unwrap().contain(&domain(name))
    }

    #[test]
    fn a_star_is_all_below_a_name_and_not_the_name() {
        for name in ["a.example.org", "A.B.Example.ORG.", "x--y_.example.org"] {
            assert!(contain("*.example.org", name), "{name}");
            assert!(!contain("example.org", name), "{name}");
        }
        for name in ["example.org", "notexample.org", "example.org.evil.net", "org"] {
            assert!(!contain("*.example.org", name), "{name}");
        }
        assert!(contain("Example.org.", "eXample.org"));
    }

    #[test]
    fn dots_within_labels_separate_none() {
        // One label `a.example`, below `org`.
        let odd = domain("a\\.example.org");
        assert!(!Names::parse("*.example.org").unwrap().contain(&odd));
        assert_eq!(odd, Domain::of([&b"a.example"[..], b"org"]).unwrap());
        assert_eq!(odd.plain(), None);
        assert_eq!(domain("\\065\\\\.b.c"), Domain::of([&b"a\\"[..], b"b", b"c"]).unwrap());
        for text in ["", ".", "a..b", "a\\", "\\999.b", &"a".repeat(64), &"a.".repeat(128)] {
            assert_eq!(Domain::of_text(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_sent() {
        let (name, rest) = Domain::of_wire(b"\x04ShOp\x07example\x03org\0rest").unwrap();
        assert_eq!((name.plain().unwrap().as_str(), rest), ("shop.example.org", &b"rest"[..]));
        for bytes in [&b""[..], b"\0", b"\x04sho", b"\x04shop", b"\xc0\x0c", b"\x40aaaa\0"] {
            assert_eq!(Domain::of_wire(bytes), None, "{bytes:?}");
        }
        assert!(Domain::of_wire(&[&b"\x01a".repeat(128)[..], b"\0"].concat()).is_none());
    }

    #[test]
    fn slips_are_told_with_their_place() {
        for (text, place, what, meant) in [
            ("", "", Wrong::Missing, None),
            ("192.0.2.1", "192.0.2.1", Wrong::Address, None),
            ("2001:db8::1", "2001:db8::1", Wrong::Address, None),
            (
                "https://shop.example.org/x",
                "https://shop.example.org/x",
                Wrong::More,
                Some("shop.example.org"),
            ),
            ("shop.example.org:443", ":", Wrong::More, None),
            (".example.org", ".example.org", Wrong::Empty, Some("*.example.org")),
            ("a..example.org", "..", Wrong::Empty, Some("a.example.org")),
            ("a.*.org", "*", Wrong::Star, None),
            ("*shop.example.org", "*", Wrong::Star, None),
            ("bücher.example", "ü", Wrong::NotAscii, None),
            ("a b.org", " ", Wrong::Character, None),
            ("\"a.org\"", "\"", Wrong::Character, None),
            ("*.org", "*.org", Wrong::One, None),
            ("intranet", "intranet", Wrong::One, None),
            ("*.", "*.", Wrong::Empty, None),
        ] {
            let found = Names::parse(text).unwrap_err();
            let expected = (place, what, meant);
            assert_eq!((&text[found.place.clone()], found.what, found.meant.as_deref()), expected, "{text}");
        }
        assert_eq!(Names::parse(&format!("{}.org", "a".repeat(64))).unwrap_err().what, Wrong::Long);
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        for text in ["example.org", "*.example.org", "_dmarc.xn--bcher-kva.example"] {
            assert_eq!(Names::parse(text).unwrap().to_string(), text);
        }
    }
}
