//! Log lines: to the journal with fields when systemd started us, else to stderr.
//!
//! The fields UNIT, CGROUP, CGROUP_ID, RULE_FILE and RULE_LINE say what a line is about; `journalctl` finds lines by them.

use std::{env, fmt, io::IsTerminal, os::fd::AsFd};

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
    model::{Binding, CgroupId, Key},
    policy::Policy,
    text::{Diagnostic, Severity},
};

/// Starts logging. Without `debug`, stderr gets warnings and errors only, the journal a few lines more.
pub fn start(debug: bool) {
    let level = |quiet| if debug { LevelFilter::DEBUG } else { quiet };
    if stderr_is_the_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal.with_field_prefix(None).with_syslog_identifier("scnpm".to_owned());
        tracing_subscriber::registry().with(journal.with_filter(level(LevelFilter::INFO))).init();
        return;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour_on_stderr())
        .event_format(Plain);
    tracing_subscriber::registry().with(stderr.with_filter(level(LevelFilter::WARN))).init();
}

/// Whether stderr is a terminal that wants colour.
pub fn colour_on_stderr() -> bool {
    colour_on(&std::io::stderr())
}

/// Whether a stream is a terminal that wants colour (<https://no-color.org>).
pub fn colour_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Says what is wrong in a file.
pub fn diagnostic(diagnostic: &Diagnostic, policy: &Policy) {
    let sources = &policy.sources;
    if !stderr_is_the_journal() {
        eprintln!("{}", diagnostic.render(sources, colour_on_stderr()));
        return;
    }
    let location = sources.location(diagnostic.span);
    let unit = policy.annotation_at(diagnostic.span).map_or("", |annotation| annotation.unit.0.as_str());
    let short = diagnostic.short(sources);
    let help = diagnostic.help.as_ref().map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    match diagnostic.severity() {
        Severity::Error => {
            tracing::error!(unit, rule_file = %location.file, rule_line = location.line, "{short}{help}");
        }
        Severity::Warning => {
            tracing::warn!(unit, rule_file = %location.file, rule_line = location.line, "{short}{help}");
        }
    }
}

/// Says what happened to an element.
pub fn element(what: &str, binding: &Binding, id: Option<CgroupId>) {
    let set = &binding.element.set;
    match &binding.element.key {
        Key::Cgroup(path) => tracing::debug!(
            unit = %binding.unit, cgroup = %path, cgroup_id = id.map(|id| id.0),
            rule_file = %binding.location.file, rule_line = binding.location.line,
            "{what}: {path} in {set}"
        ),
        Key::Everything => tracing::debug!(
            unit = %binding.unit,
            rule_file = %binding.location.file, rule_line = binding.location.line,
            "{what}: {set}"
        ),
    }
}

/// Says that nft refused an element.
pub fn refused(binding: &Binding, words: &str) {
    let cgroup = match &binding.element.key {
        Key::Cgroup(path) => path.as_str(),
        Key::Everything => "",
    };
    tracing::error!(
        unit = %binding.unit, cgroup,
        rule_file = %binding.location.file, rule_line = binding.location.line,
        "{}: nft refuses the element of {}: {words}", binding.location, binding.unit
    );
}

/// systemd sets JOURNAL_STREAM to the device and inode of the stream that it connected (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(stream) = env::var("JOURNAL_STREAM").ok() else { return false };
    fstat(std::io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
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
