//! What can be wrong, each kind with a code that stays the same over versions.
//!
//! `E…` are errors, `W…` warnings. docs/codes.md explains each of them, and `scnpm check --explain` prints that.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

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
    /// Incomplete or unsupported statement.
    Statement = "E001",
    /// Continuation without a comment line.
    Continuation = "E002",
    /// Unclosed quote or brace, or a second statement.
    Nesting = "E003",
    /// Invalid name of a table, chain or set.
    Name = "E004",
    /// Invalid cgroup path.
    Path = "E005",
    /// Undefined or unusable variable.
    Variable = "E006",
    /// Unsupported element.
    Element = "E007",
    /// Invalid selector.
    Selector = "E008",
    /// `socket cgroupv2 unit` without an owner.
    Whose = "E009",
    /// Invalid statement outside the annotations.
    Base = "E010",
    /// Missing cgroup in a rule outside the annotations.
    PlainCgroup = "E011",
    /// Missing interface.
    Interface = "E012",
    /// Unresolved host name outside the annotations.
    BaseHost = "E013",
    /// Host name where its addresses cannot be kept.
    HostPlace = "E014",
    /// Annotation refused by nft.
    Refused = "E020",
    /// Cgroup match in an unsupported hook.
    Hook = "E021",
    /// Wrong cgroup level.
    Level = "W001",
    /// Path of another unit.
    UnitPath = "W002",
    /// Unknown unit.
    UnknownUnit = "W003",
    /// Comment that resembles an annotation.
    NearMiss = "W004",
    /// Negated cgroup match.
    Negated = "W005",
    /// Refusal that fails open.
    FailsOpen = "W006",
    /// Missing rule for established connections.
    NoEstablished = "W007",
    /// Unreachable chain or set.
    NotReached = "W008",
    /// Unreachable rule.
    AfterVerdict = "W009",
    /// Duplicate annotation.
    Duplicate = "W010",
    /// Shadowed annotation.
    Shadowed = "W011",
    /// Socket-activated service.
    SocketUnit = "W012",
    /// Host name in an annotation.
    HostName = "W013",
    /// Contradicting annotations in two files.
    Contradiction = "W014",
    /// Trailing blanks after a `\`.
    BlankAfterBackslash = "W015",
    /// `#` inside a statement.
    CommentInside = "W016",
    /// Unknown unit type.
    UnitType = "W017",
    /// Path that begins with /sys/fs/cgroup.
    MountPrefix = "W018",
    /// Failed include.
    Include = "W019",
    /// Undefined variable outside the annotations.
    BaseVariable = "W020",
    /// Cgroup in a rule outside the annotations.
    PlainCgroupNow = "W021",
    /// Host name outside the annotations.
    BaseHostName = "W022",
    /// Unresolved host name.
    Unresolved = "W023",
    /// `scnpm:` comment without effect.
    Directive = "W024",
    /// Missing device of a netdev chain or flowtable.
    Device = "W025",
    /// Unknown user.
    UnknownUser = "W026",
    /// Interface that does not exist yet when nft runs at boot.
    InterfaceNow = "W027",
    /// Invalid statement when the file is loaded again.
    Again = "W028",
    /// Name that changes at each start.
    Fleeting = "W029",
    /// Match that no packet meets.
    NeverMatches = "W030",
    /// Rule without verdict.
    NoEffect = "W031",
    /// Mark that does not reroute.
    LateMark = "W032",
    /// Refusals recorded where packets pass.
    NotRefused = "W033",
    /// Link from before the mark.
    OldLink = "W034",
    /// Mark that no routing rule asks for.
    NoRoutingRule = "W035",
    /// Source address from before the mark.
    OldSource = "W036",
    /// Mark for one family only.
    OneFamily = "W037",
    /// Set that cannot be filled with addresses.
    NotFillable = "W038",
    /// Names without systemd-resolved.
    NoResolver = "W039",
    /// Container's ID in a name.
    ContainerId = "W040",
    /// Container outside of its unit.
    ContainerElsewhere = "W041",
    /// Refusal of an application.
    LateApplication = "W042",
    /// Application that D-Bus starts in a unit of others.
    BusStarted = "W043",
    /// Quota or rate that established connections do not come to.
    PassedBy = "W044",
    /// Quota or rate behind which nothing refuses.
    NothingBehind = "W045",
    /// Cage that lets something past the rest of the policy.
    WideCage = "W050",
    /// Cage that nothing closes.
    OpenCage = "W051",
}

impl Code {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        if self.as_str().starts_with('E') { Severity::Error } else { Severity::Warning }
    }

    /// Its section of docs/codes.md for a terminal, without the heading's `##`.
    pub fn explanation(self) -> String {
        let heading = format!("\n## {}", self.as_str());
        let section = EXPLANATIONS.find(&heading).map_or("", |at| &EXPLANATIONS[at + "\n## ".len()..]);
        plain(section.find("\n## ").map_or(section, |end| &section[..end]).trim_end())
    }
}

/// Markdown with its fenced blocks indented, and without the comments, which are for tests and stand in lines of their own.
fn plain(markdown: &str) -> String {
    let mut is_fenced = false;
    let mut lines = Vec::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced && !line.is_empty() {
            lines.push(format!("    {line}"));
        } else if is_fenced || !line.starts_with("<!--") {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

const EXPLANATIONS: &str = include_str!("../../docs/codes.md");

/// Not a code.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("no such code: the codes are in docs/codes.md")]
pub struct UnknownCode;

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
    fn explanations_are_plain_text() {
        let markdown =
            "E1: A\n\nWrong:\n\n<!-- checks: E1 -->\n```nft\ntable a { }\n\n# <!-- b\n```\n\nRight.";
        assert_eq!(plain(markdown), "E1: A\n\nWrong:\n\n    table a { }\n\n    # <!-- b\n\nRight.");
        for code in Code::ALL {
            let explanation = code.explanation();
            assert!(!explanation.contains("```") && !explanation.contains("<!--"), "{explanation}");
        }
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
