//! What `scnpm status` prints for what collects metrics. Pure.
//!
//! In two dialects: OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), and the older text format of
//! Prometheus, which is the only one that node_exporter's textfile collector reads.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use super::metrics::{Family, Kind, families};
use crate::{control::message::Status, model::printable};

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

/// Units of measure of which a name that ends in one is said to be.
const MEASURES: [&str; 2] = ["_seconds", "_bytes"];

/// Writes the metrics; without a status that the daemon cannot be asked. Fails as `out` does.
pub fn write(status: Option<&Status>, dialect: Dialect, out: &mut dyn Write) -> io::Result<()> {
    let up = Family::up(status.is_some());
    let all = status.map(families).unwrap_or_default();
    std::iter::once(up).chain(all).try_for_each(|family| write_family(&family, dialect, out))?;
    match dialect {
        Dialect::OpenMetrics => writeln!(out, "# EOF"),
        Dialect::Prometheus => Ok(()),
    }
}

fn write_family(family: &Family, dialect: Dialect, out: &mut dyn Write) -> io::Result<()> {
    let Family { name, help, .. } = family;
    if family.samples.is_empty() {
        return Ok(());
    }
    let (kind, suffix) = match family.kind {
        Kind::Gauge => ("gauge", ""),
        Kind::Counter => ("counter", "_total"),
        Kind::Info if dialect == Dialect::Prometheus => ("gauge", "_info"),
        Kind::Info => ("info", "_info"),
    };
    match dialect {
        Dialect::OpenMetrics => {
            writeln!(out, "# TYPE {name} {kind}")?;
            if let Some(measure) = MEASURES.iter().find(|measure| name.ends_with(**measure)) {
                writeln!(out, "# UNIT {name} {}", &measure[1..])?;
            }
            writeln!(out, "# HELP {name} {help}")?;
        }
        Dialect::Prometheus => {
            writeln!(out, "# HELP {name}{suffix} {help}")?;
            writeln!(out, "# TYPE {name}{suffix} {kind}")?;
        }
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        let labels = labels(&sample.labels);
        // One that is there twice would spoil all.
        if seen.insert(labels.clone()) {
            writeln!(out, "{name}{suffix}{labels} {}", sample.value)?;
        }
    }
    Ok(())
}

fn labels(all: &[(&str, String)]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let all: Vec<String> = all.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", all.join(","))
}

/// A label's value between its quotes. Where a text may be shown, no character in it acts.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    printable(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{File, Host, Source, Unit};

    fn unit(name: &str) -> Unit {
        Unit { name: name.to_owned(), running: true, cgroups: 1, due: 2, in_kernel: 2, ..Unit::default() }
    }

    fn status() -> Status {
        let source = |name: &str, state: &str| Source {
            name: name.to_owned(),
            state: state.to_owned(),
            ..Source::default()
        };
        let counted = Unit {
            packets: Some(u64::MAX),
            bytes: Some(4_096),
            refusals: Some(3),
            ..unit("alice:app:org.mozilla.firefox")
        };
        Status {
            version: "1.0".to_owned(),
            files: vec![
                File { path: "/etc/nftables.conf".to_owned(), changed: true },
                File { path: "/etc/more.nft".to_owned(), changed: false },
            ],
            loaded_at: 1_700_000_000_000_042,
            annotations: 7,
            errors: 1,
            warnings: 2,
            sources: vec![
                Source {
                    first: 12,
                    median_us: Some(340),
                    worst_us: Some(2_100_000),
                    ..source("cgroup", "working")
                },
                source("dbus", "lost"),
                source("journal", "off"),
            ],
            hosts: vec![
                Host { name: "a.example".to_owned(), ..Host::default() },
                Host {
                    name: "b.example".to_owned(),
                    addresses: vec!["192.0.2.1".to_owned()],
                    ..Host::default()
                },
            ],
            units: vec![
                Unit { missing: 1, in_kernel: 1, ..unit("postfix.service") },
                counted,
                Unit { running: false, cgroups: 0, refused: 1, ..unit("user:app-*.scope") },
            ],
            due: 6,
            in_kernel: 5,
            ..Status::default()
        }
    }

    fn text(status: Option<&Status>, dialect: Dialect) -> String {
        let mut out = Vec::new();
        write(status, dialect, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The labels of the units, in the order of the samples.
    fn labels_of_units(names: &[&str]) -> Vec<String> {
        let status = Status { units: names.iter().map(|name| unit(name)).collect(), ..Status::default() };
        let text = text(Some(&status), Dialect::OpenMetrics);
        let samples = text.lines().filter_map(|line| line.strip_prefix("scnpm_unit_cgroups"));
        samples.map(|sample| sample.strip_suffix(" 1").unwrap().to_owned()).collect()
    }

    #[test]
    fn openmetrics_has_types_units_and_an_end() {
        let text = text(Some(&status()), Dialect::OpenMetrics);
        assert_eq!(text, include_str!("openmetrics.txt"));
    }

    #[test]
    fn prometheus_is_told_the_same_in_its_own_format() {
        let [first, second] =
            [Dialect::OpenMetrics, Dialect::Prometheus].map(|dialect| text(Some(&status()), dialect));
        let samples = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
        };
        assert_eq!(samples(&first), samples(&second));
        let counter = "\
# HELP scnpm_unit_bytes_total Bytes that counted annotations of the unit decided.
# TYPE scnpm_unit_bytes_total counter
scnpm_unit_bytes_total{unit=\"alice:app:org.mozilla.firefox\",user=\"alice\",app=\"org.mozilla.firefox\"} 4096
";
        assert!(second.contains(counter), "{second}");
        assert!(second.contains("# TYPE scnpm_build_info gauge\n"), "{second}");
        assert!(!second.contains("# EOF") && !second.contains("# UNIT"), "{second}");
    }

    #[test]
    fn daemon_that_cannot_be_asked_is_down() {
        let expected =
            "# TYPE scnpm_up gauge\n# HELP scnpm_up Whether the daemon answered.\nscnpm_up 0\n# EOF\n";
        assert_eq!(text(None, Dialect::OpenMetrics), expected);
    }

    #[test]
    fn hostile_names_stay_in_their_label() {
        let hostile = [
            "app-mail\\x2d1.scope",
            "a\"} 1\nscnpm_up 7.service",
            "a\u{1b}[31m\r\u{9b}.service",
            "\\",
            "",
            "a\\\"b,c=\"d\"",
        ];
        let expected = [
            r#"{unit="app-mail\\x2d1.scope"}"#,
            r#"{unit="a\"} 1\nscnpm_up 7.service"}"#,
            "{unit=\"a\u{fffd}[31m\u{fffd}\u{fffd}.service\"}",
            r#"{unit="\\"}"#,
            r#"{unit=""}"#,
            r#"{unit="a\\\"b,c=\"d\""}"#,
        ];
        assert_eq!(labels_of_units(&hostile), expected);
    }

    #[test]
    fn sample_is_there_once_for_names_that_look_the_same() {
        assert_eq!(labels_of_units(&["a\u{1}.service", "a\u{2}.service"]), ["{unit=\"a\u{fffd}.service\"}"]);
    }

    #[test]
    fn users_and_applications_have_labels() {
        for (name, more) in [
            ("alice:app:firefox", r#",user="alice",app="firefox""#),
            ("1000:a.scope", r#",user="1000""#),
            ("alice:a.scope,alice:b.scope", r#",user="alice""#),
            ("alice:a.scope,bob:b.scope", ""),
            ("alice:a.scope,b.service", ""),
            ("b.service,alice:a.scope", ""),
            ("app:firefox", r#",app="firefox""#),
            ("app:firefox,app:mail", ""),
            ("user:a.scope", ""),
            ("system:a.service", ""),
        ] {
            assert_eq!(labels_of_units(&[name]), [format!("{{unit=\"{name}\"{more}}}")], "{name}");
        }
    }

    #[test]
    fn samples_are_as_many_as_units_however_many_cgroups_they_have() {
        let lines = |cgroups| {
            let units = vec![Unit { cgroups, ..unit("user:app-*.scope") }];
            text(Some(&Status { units, ..Status::default() }), Dialect::Prometheus).lines().count()
        };
        assert_eq!(lines(1), lines(5_000));
    }
}
