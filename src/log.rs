//! Log lines: to the journal with fields when systemd started us, else to stderr.
//!
//! The fields UNIT, CGROUP, CGROUP_ID, RULE_FILE and RULE_LINE say what a line is about; `journalctl` finds lines by them.

mod journal;

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use nix::sys::stat::fstat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    engine::Kept,
    model::{CgroupId, CgroupPath, Location},
    policy::Policy,
    text::{Diagnostic, Severity},
};
use journal::Journal;

/// Starts logging. Without `debug`, stderr gets warnings and errors only, the journal a few lines more.
pub fn start(debug: bool) {
    let level = |quiet| if debug { LevelFilter::DEBUG } else { quiet };
    if stderr_is_the_journal()
        && let Ok(journal) = Journal::open()
    {
        tracing_subscriber::registry().with(journal.with_filter(level(LevelFilter::INFO))).init();
        return;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour_on_stderr())
        .log_internal_errors(false)
        .event_format(Plain);
    tracing_subscriber::registry().with(stderr.with_filter(level(LevelFilter::WARN))).init();
}

/// Whether stderr is a terminal that wants colour.
pub fn colour_on_stderr() -> bool {
    colour_on(&io::stderr())
}

/// Whether a stream is a terminal that wants colour (<https://no-color.org>).
pub fn colour_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Says why the program ends. To stderr in the journal, too: of what a process that has ended wrote to its socket, journald
/// does not always know the unit (sd-daemon(3), `SD_ERR`).
pub fn last(message: &str) {
    match stderr_is_the_journal() {
        true => say(format_args!("<3>{message}")),
        false => tracing::error!("{message}"),
    }
}

/// Writes a line to stderr. Where that is full or closed, nobody can be told.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says what is wrong in a file.
pub fn diagnostic(diagnostic: &Diagnostic, policy: &Policy) {
    let sources = &policy.sources;
    if !stderr_is_the_journal() {
        say(format_args!("{}", diagnostic.render(sources, colour_on_stderr())));
        return;
    }
    let location = sources.location(diagnostic.span);
    let unit = policy.annotation_at(diagnostic.span).map_or("", |id| &*policy.annotation(id).unit.0);
    let short = diagnostic.short(sources);
    let help = diagnostic.help.as_ref().map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    let (rule_file, rule_line) = (&location.file, location.line);
    match diagnostic.severity() {
        Severity::Error => tracing::error!(unit, rule_file, rule_line, "{short}{help}"),
        Severity::Warning => tracing::warn!(unit, rule_file, rule_line, "{short}{help}"),
    }
}

/// Says what happened to an element that annotations of this policy asked for.
pub fn element(what: &str, row: &Kept, id: Option<CgroupId>, policy: &Policy) {
    let (set, (unit, location)) = (&row.element.set, asked_by(row, policy));
    let cgroup = row.element.key.cgroup().map_or("", CgroupPath::as_str);
    tracing::debug!(
        unit, cgroup, cgroup_id = id.map(|id| id.0), rule_file = %location.file, rule_line = location.line,
        "{what}: {cgroup} in {set}"
    );
}

/// Says that an element could not be added or deleted: for good, or for now.
pub fn failed(row: &Kept, words: &str, passing: bool, policy: &Policy) {
    let (unit, location) = asked_by(row, policy);
    let cgroup = row.element.key.cgroup().map_or("", CgroupPath::as_str);
    let (rule_file, rule_line) = (&location.file, location.line);
    if passing {
        let message = format!("the element of {unit} has to wait, it will be tried again: {words}");
        tracing::warn!(unit, cgroup, rule_file, rule_line, "{location}: {message}");
    } else {
        let message = format!("nft refuses the element of {unit}: {words}");
        tracing::error!(unit, cgroup, rule_file, rule_line, "{location}: {message}");
    }
}

/// The unit of the first annotation that asks for a row, and where that begins.
fn asked_by<'a>(row: &'a Kept, policy: &Policy) -> (&'a str, Location) {
    let annotation = row.annotations.iter().next().map(|id| policy.annotation(*id));
    let location = annotation.map(|annotation| policy.sources.location(annotation.unit_span));
    (&*row.unit.0, location.unwrap_or(Location { file: String::new(), line: 0 }))
}

/// systemd sets JOURNAL_STREAM to the device and inode of the stream that it connected (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    fstat(io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// `scnpm: warning: message`, and nothing else.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (name, colour) = match *event.metadata().level() {
            Level::ERROR => ("error", "31"),
            Level::WARN => ("warning", "33"),
            Level::INFO => ("info", "32"),
            _ => ("debug", "2"),
        };
        match writer.has_ansi_escapes() {
            true => write!(writer, "scnpm: \x1b[{colour}m{name}\x1b[0m: ")?,
            false => write!(writer, "scnpm: {name}: ")?,
        }
        event.record(&mut Message(&mut writer));
        writeln!(writer)
    }
}

struct Message<'a, 'w>(&'a mut Writer<'w>);

impl Visit for Message<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
