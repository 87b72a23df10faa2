//! What subcommands print: here what `scnpm check` found, for people, for editors, for programs. `units`, `offer`,
//! `explain`, `learned`, `status`, `openmetrics`, `systemd` and `reload` have what other subcommands print.

pub mod denied;
pub mod explain;
mod json;
pub mod learned;
mod metrics;
pub mod offer;
pub mod openmetrics;
pub mod reload;
pub mod status;
pub mod systemd;
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
    /// The units that annotations apply to.
    pub units: Vec<UnitRow>,
    /// What was not tried.
    pub untried: Option<&'a Untried>,
    /// The script that was asked for.
    pub dispatch: Option<String>,
}

impl Report<'_> {
    /// Writes it; fails as `out` does.
    pub fn write(&self, format: Format, colour: bool, out: &mut dyn Write) -> io::Result<()> {
        let sources = &self.policy.sources;
        match format {
            Format::Full => self.write_full(colour, out),
            Format::Short => {
                self.diagnostics.iter().try_for_each(|one| writeln!(out, "{}", one.short(sources)))
            }
            Format::Json => json::write(self, out),
        }
    }

    /// How many diagnostics of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity() == severity).count()
    }

    fn write_full(&self, colour: bool, out: &mut dyn Write) -> io::Result<()> {
        for diagnostic in self.diagnostics {
            writeln!(out, "{}\n", diagnostic.render(&self.policy.sources, colour))?;
        }
        if let Some(why) = self.untried {
            writeln!(out, "note: {why}\n")?;
        }
        if !self.units.is_empty() && self.dispatch.is_none() {
            table::write(&self.units, out)?;
            writeln!(out)?;
        }
        writeln!(out, "{}: {}", self.files.join(", "), self.verdict())
    }

    fn verdict(&self) -> String {
        let counted = |number: usize, what: &str| match number {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let mut parts = vec![counted(self.policy.of_units().count(), "annotation")];
        for severity in [Severity::Error, Severity::Warning] {
            let number = self.count(severity);
            parts.extend((number > 0).then(|| counted(number, &severity.to_string())));
        }
        let more: usize = self.diagnostics.iter().map(|diagnostic| diagnostic.more.len()).sum();
        parts.extend((more > 0).then(|| format!("{more} more for the same reason")));
        match &self.untried {
            // Errors say why.
            Some(Untried::Annotations) if !self.diagnostics.is_empty() => {}
            Some(_) => parts.push("not checked".to_owned()),
            None if self.diagnostics.is_empty() => parts.push("no problems found".to_owned()),
            None => {}
        }
        parts.join(", ")
    }
}
