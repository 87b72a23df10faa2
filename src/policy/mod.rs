//! TEXT -> POLICY. nftables.conf files to annotations, and a diagnostic with its place for all that is wrong.
//!
//! Pure but for [`files::Files`], through which it reads. Good annotations survive bad neighbours.

pub mod admission;
pub mod annotation;
pub mod domains;
pub mod files;
pub mod grouping;
pub mod hosts;
pub mod parse;
pub mod words;

pub use annotation::{
    Allow, Annotation, CgroupMatch, Define, ElementStatement, Part, Placement, Policy, RuleStatement,
    Statement,
};

/// How the help begins where a variable is not defined, and none is like it.
pub const WRITE_A_DEFINE: &str = "write `define NAME = …`";
