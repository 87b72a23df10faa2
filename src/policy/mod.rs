//! TEXT -> POLICY. nftables.conf files to annotations, and every mistake with its place.
//!
//! Pure but for [`files::Files`], through which it reads. Good annotations survive bad neighbours.

pub mod annotation;
pub mod code;
pub mod files;
pub mod hosts;
pub mod mistake;
pub(crate) mod nearest;
pub mod outline;
pub mod parse;
pub mod selector;
pub mod text;
pub mod token;

pub use annotation::{
    Allow, Annotation, AnnotationId, CgroupMatch, Define, ElementStatement, Part, Placement, Policy,
    RuleStatement, Statement,
};
pub use code::Code;
pub use mistake::{Fix, Mistake, Severity};
pub use outline::{Item, ItemKind, Outline, OutlinedBlock};
pub use text::{FileId, SourceMap, Span};
pub use token::{Token, TokenKind};
