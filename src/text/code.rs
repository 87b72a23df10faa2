//! What can be wrong, each kind with a code that stays the same over versions.
//!
//! `E…` are errors, `W…` warnings. docs/codes.md explains each of them, and `scnpm check --explain` prints that.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::diagnostic::Severity;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal,)*) => {
        /// A kind of diagnostic.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $name,)*
        }

        impl Code {
            /// All of them, errors first.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it is written, such as `W004`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

codes! {
    /// An annotation's statement is incomplete, or none that an annotation can have.
    Statement = "E001",
    /// A `\` is not followed by a comment line that continues the statement.
    Continuation = "E002",
    /// A quote or brace is not closed, or there is more than one statement.
    Nesting = "E003",
    /// Not the name of a table, chain or set.
    Name = "E004",
    /// Not the path of a cgroup.
    Path = "E005",
    /// A variable is not defined, or holds something that cannot stand here.
    Variable = "E006",
    /// A form of element that an annotation cannot add.
    Element = "E007",
    /// Not what names units.
    Selector = "E008",
    /// `socket cgroupv2 unit` for units of nobody in particular.
    Whose = "E009",
    /// nft refuses a statement outside the annotations, and with it the whole file.
    Base = "E010",
    /// A rule outside the annotations names a cgroup that does not exist.
    PlainCgroup = "E011",
    /// The file names an interface that does not exist.
    Interface = "E012",
    /// A host name outside the annotations has no address.
    BaseHost = "E013",
    /// A host name at a place where its addresses cannot be kept.
    HostPlace = "E014",
    /// nft refuses an annotation.
    Refused = "E020",
    /// The annotation's chain is called from a hook that cannot match cgroups.
    Hook = "E021",
    /// The level is not the number of names in the path.
    Level = "W001",
    /// The path is not that of the annotation's unit.
    UnitPath = "W002",
    /// Neither a unit file nor a running unit has this name.
    UnknownUnit = "W003",
    /// A comment that is nearly an annotation.
    NearMiss = "W004",
    /// `!=` on a cgroup.
    Negated = "W005",
    /// A rule that refuses, and so fails open.
    FailsOpen = "W006",
    /// Nothing accepts established connections before the rule.
    NoEstablished = "W007",
    /// No hook that can match cgroups calls the chain.
    NotReached = "W008",
    /// The chain has decided before the rule.
    AfterVerdict = "W009",
    /// The same annotation twice.
    Duplicate = "W010",
    /// An earlier annotation decides all that this one would.
    Shadowed = "W011",
    /// The service's listeners belong to its socket unit.
    SocketUnit = "W012",
    /// A host name in an annotation.
    HostName = "W013",
    /// Two files say different things of a unit.
    Contradiction = "W014",
    /// Blanks after a `\`.
    BlankAfterBackslash = "W015",
    /// A `#` inside a statement makes a comment of the rest.
    CommentInside = "W016",
    /// No type of a unit.
    UnitType = "W017",
    /// The path repeats where cgroups are mounted.
    MountPrefix = "W018",
    /// A file cannot be included.
    Include = "W019",
    /// A variable outside the annotations refers to one that is not defined.
    BaseVariable = "W020",
    /// A rule outside the annotations names a cgroup.
    PlainCgroupNow = "W021",
    /// A host name outside the annotations.
    BaseHostName = "W022",
    /// A host name that is not resolved.
    Unresolved = "W023",
    /// An `allow` comment that allows nothing.
    Allow = "W024",
    /// A netdev chain or a flowtable is for an interface that does not exist.
    Device = "W025",
    /// There is no user of this name.
    UnknownUser = "W026",
}

impl Code {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        if self.as_str().starts_with('E') { Severity::Error } else { Severity::Warning }
    }

    /// Its section of docs/codes.md, without the heading's `##`.
    pub fn explanation(self) -> &'static str {
        let heading = format!("\n## {}", self.as_str());
        let section = EXPLANATIONS.find(&heading).map_or("", |at| &EXPLANATIONS[at + "\n## ".len()..]);
        section.find("\n## ").map_or(section, |end| &section[..end]).trim_end()
    }
}

const EXPLANATIONS: &str = include_str!("../../docs/codes.md");

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownCode;

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such code: the codes are in docs/codes.md")
    }
}

impl std::error::Error for UnknownCode {}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |code: &&Self| code.as_str().eq_ignore_ascii_case(text);
        Self::ALL.iter().find(named).copied().ok_or(UnknownCode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_and_every_explanation_has_a_code() {
        for code in Code::ALL {
            let explanation = code.explanation();
            assert!(explanation.starts_with(&format!("{code}: ")), "{code} has no section in docs/codes.md");
            assert!(explanation.lines().count() > 4, "{code} is hardly explained");
        }
        let headings: Vec<&str> = EXPLANATIONS.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings.len(), Code::ALL.len(), "{headings:?}");
    }

    #[test]
    fn codes_are_unique_and_read_as_they_are_written() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(code.as_str().to_lowercase().parse(), Ok(*code));
        }
        assert_eq!("W999".parse::<Code>(), Err(UnknownCode));
    }
}
