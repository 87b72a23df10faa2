//! TEXT. Source files and places in them, nft's words, the outline of a file, and diagnostics. Pure.

pub mod code;
pub mod diagnostic;
mod edit;
pub(crate) mod nearest;
pub mod outline;
pub mod source;
pub mod token;

pub use code::{Code, UnknownCode};
pub use diagnostic::{Diagnostic, Fix, Severity};
pub use edit::Edits;
pub use outline::{Item, ItemKind, Outline, OutlinedBlock};
pub use source::{FileId, SourceFile, SourceMap, Span};
pub use token::{Token, TokenKind};
