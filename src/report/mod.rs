//! What subcommands print: here what `scnpm check` found, for people, for editors, for programs. `units` and `offer` have
//! what `scnpm units` prints.

mod json;
pub mod offer;
mod table;
pub mod units;

use std::io::{self, Write};

use crate::{
    cli::Format,
    policy::Policy,
    text::{Diagnostic, Severity},
    trial::Untried,
};
pub use table::UnitRow;

/// What was found.
#[derive(Debug)]
pub struct Report<'a> {
    /// The files of the command line, as they were named.
    pub files: Vec<String>,
    /// What they say.
    pub policy: &'a Policy,
    /// Every diagnostic that is not allowed, in the order of the files.
    pub diagnostics: &'a [Diagnostic],
    /// The units that annotations are about.
    pub units: Vec<UnitRow>,
    /// What was not tried.
    pub untried: Option<Untried>,
    /// The script that was asked for.
    pub dispatch: Option<String>,
}

impl Report<'_> {
    /// Writes it.
    ///
    /// # Errors
    /// As `out`.
    pub fn write(&self, format: Format, colour: bool, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Full => self.write_full(colour, out),
            Format::Short => self
                .diagnostics
                .iter()
                .try_for_each(|one| writeln!(out, "{}", one.short(&self.policy.sources))),
            Format::Json => json::write(self, out),
        }
    }

    /// How many diagnostics of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity() == severity).count()
    }

    /// Why something was not loaded, in words.
    pub fn untried(&self) -> Option<String> {
        self.untried.as_ref().map(|untried| match untried {
            Untried::Everything(why) => {
                format!("nothing was loaded, so this is only what the files' text tells: {why}")
            }
            Untried::Annotations => {
                "the annotations were not loaded, since nft refuses the files that they are for".to_owned()
            }
        })
    }

    fn write_full(&self, colour: bool, out: &mut dyn Write) -> io::Result<()> {
        for diagnostic in self.diagnostics {
            writeln!(out, "{}\n", diagnostic.render(&self.policy.sources, colour))?;
        }
        if let Some(why) = self.untried() {
            writeln!(out, "note: {why}\n")?;
        }
        if !self.units.is_empty() && self.dispatch.is_none() {
            writeln!(out, "{}", table::Table(&self.units))?;
        }
        writeln!(out, "{}: {}", self.files.join(", "), self.verdict())
    }

    fn verdict(&self) -> String {
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let annotations = counted(self.policy.annotations.len(), "annotation");
        match (errors, warnings) {
            (0, 0) => format!("{annotations}, no problems found"),
            (0, _) => format!("{annotations}, {}", counted(warnings, "warning")),
            (_, 0) => format!("{annotations}, {}", counted(errors, "error")),
            _ => format!("{annotations}, {}, {}", counted(errors, "error"), counted(warnings, "warning")),
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
