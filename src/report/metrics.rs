//! The metrics of a status, in whatever form they are told. Pure.
//!
//! A unit or selector of the policy has one sample of each kind, however many cgroups it has: how many samples there are
//! depends on the policy alone.

use std::fmt::{self, Display};

use crate::{
    control::message::{Source, Status, Unit},
    units::selector::{Selector, Selectors, Which, Whose},
};

/// Samples of one kind.
#[derive(Debug)]
pub(super) struct Family {
    /// Its name in OpenMetrics, without what the type puts behind it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What there is to know about it, in a sentence.
    pub(super) help: &'static str,
    pub(super) samples: Vec<Sample>,
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    /// Its labels are what it says; the value is 1.
    Info,
}

/// A value of one thing.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) labels: Labels,
    /// A number, as JSON and OpenMetrics write it.
    pub(super) value: String,
}

/// Names and values. The first says what the sample is about.
pub(super) type Labels = Vec<(&'static str, String)>;

impl Family {
    /// Whether the daemon can be asked, which is told even if it cannot.
    pub(super) fn up(is_up: bool) -> Self {
        Self::of_all("scnpm_up", "Whether the daemon answered.", u8::from(is_up))
    }

    /// A gauge with a single sample.
    fn of_all(name: &'static str, help: &'static str, value: impl Display) -> Self {
        let samples = vec![Sample { labels: vec![], value: value.to_string() }];
        Self { name, kind: Kind::Gauge, help, samples }
    }

    /// One with a sample for each of some things that has a value.
    fn of_each<T, V: Display>(
        (name, kind, help): (&'static str, Kind, &'static str),
        things: &[(Labels, T)],
        value: impl Fn(&T) -> Option<V>,
    ) -> Self {
        let sample = |(labels, thing): &(Labels, T)| {
            Some(Sample { labels: labels.clone(), value: value(thing)?.to_string() })
        };
        Self { name, kind, help, samples: things.iter().filter_map(sample).collect() }
    }
}

/// A time that is in microseconds, and written in seconds.
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// All that there is to tell of a status.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let build = Family::of_each(
        ("scnpm_build", Kind::Info, "The daemon's version."),
        &[(vec![("version", status.version.clone())], ())],
        |()| Some(1),
    );
    [vec![build], of_policy(status), of_sources(status), of_units(status)].into_iter().flatten().collect()
}

fn of_policy(status: &Status) -> Vec<Family> {
    let changed = status.files.iter().filter(|file| file.changed).count();
    let unresolved = status.hosts.iter().filter(|host| host.addresses.is_empty()).count();
    vec![
        Family::of_all(
            "scnpm_policy_in_force",
            "Whether all that the policy asks for is in force.",
            u8::from(status.in_force),
        ),
        Family::of_all(
            "scnpm_load_failed",
            "Whether the last load of the policy failed, and the one before is in force.",
            u8::from(status.load_error.is_some()),
        ),
        Family::of_all(
            "scnpm_load_time_seconds",
            "When the policy was loaded, in seconds since 1970.",
            Micros(status.loaded_at),
        ),
        Family::of_all(
            "scnpm_changed_files",
            "Files of the policy that say something else now than when it was loaded.",
            changed,
        ),
        Family::of_all("scnpm_annotations", "Annotations in the files of the policy.", status.annotations),
        Family::of_all("scnpm_errors", "Errors that were found in these files.", status.errors),
        Family::of_all("scnpm_warnings", "Warnings about these files.", status.warnings),
        Family::of_all("scnpm_elements_due", "Elements that are due in the kernel.", status.due),
        Family::of_all("scnpm_elements_in_kernel", "Elements of these that it has.", status.in_kernel),
        Family::of_all("scnpm_hosts", "Host names in the policy.", status.hosts.len()),
        Family::of_all("scnpm_unresolved_hosts", "Host names of these without an address.", unresolved),
    ]
}

fn of_sources(status: &Status) -> Vec<Family> {
    let mut sources: Vec<(Labels, &Source)> = Vec::new();
    for source in status.sources.iter().filter(|source| source.state != "off") {
        sources.push((vec![("source", source.name.clone())], source));
    }
    vec![
        Family::of_each(
            ("scnpm_source_working", Kind::Gauge, "Whether the daemon hears of changes there."),
            &sources,
            |source| Some(u8::from(source.state == "working")),
        ),
        Family::of_each(
            (
                "scnpm_source_first_cgroups",
                Kind::Counter,
                "Cgroups that the source was the first to tell of.",
            ),
            &sources,
            |source| Some(source.first),
        ),
        Family::of_each(
            (
                "scnpm_source_median_latency_seconds",
                Kind::Gauge,
                "From hearing of a cgroup to its rules in the kernel: the median of the last ones.",
            ),
            &sources,
            |source| source.median_us.map(Micros),
        ),
        Family::of_each(
            (
                "scnpm_source_worst_latency_seconds",
                Kind::Gauge,
                "From hearing of a cgroup to its rules in the kernel: the longest of the last ones.",
            ),
            &sources,
            |source| source.worst_us.map(Micros),
        ),
    ]
}

fn of_units(status: &Status) -> Vec<Family> {
    let units: Vec<(Labels, &Unit)> = status.units.iter().map(|unit| (labels_of(&unit.name), unit)).collect();
    vec![
        Family::of_each(
            (
                "scnpm_unit_in_force",
                Kind::Gauge,
                "Whether all that annotations of the unit ask for is in force.",
            ),
            &units,
            |unit| Some(u8::from(unit.missing == 0 && unit.refused == 0)),
        ),
        Family::of_each(
            ("scnpm_unit_running", Kind::Gauge, "Whether the unit has a cgroup, or is active."),
            &units,
            |unit| Some(u8::from(unit.running)),
        ),
        Family::of_each(("scnpm_unit_cgroups", Kind::Gauge, "Cgroups that the unit has."), &units, |unit| {
            Some(unit.cgroups)
        }),
        Family::of_each(
            ("scnpm_unit_packets", Kind::Counter, "Packets that counted annotations of the unit decided."),
            &units,
            |unit| unit.packets,
        ),
        Family::of_each(
            ("scnpm_unit_bytes", Kind::Counter, "Bytes that counted annotations of the unit decided."),
            &units,
            |unit| unit.bytes,
        ),
        Family::of_each(
            ("scnpm_unit_refused_packets", Kind::Counter, "Packets of the unit that were refused."),
            &units,
            |unit| unit.refusals,
        ),
    ]
}

/// The labels of what stands left of an annotation's `::`: all of it, and whose and which application it is, if there is one.
fn labels_of(name: &str) -> Labels {
    let selectors = Selectors::parse(name).map(|selectors| selectors.0).unwrap_or_default();
    let mut users = selectors.iter().map(user_of);
    let user = users.next().flatten().filter(|user| users.all(|other| other.as_ref() == Some(user)));
    let app = match &selectors[..] {
        [Selector { which: Which::App(id), .. }] => Some(id.clone()),
        _ => None,
    };
    let all = [("unit", Some(name.to_owned())), ("user", user), ("app", app)];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn user_of(selector: &Selector) -> Option<String> {
    match &selector.whose {
        Whose::Uid(uid) => Some(uid.to_string()),
        Whose::User(name) => Some(name.clone()),
        Whose::Anybody | Whose::System | Whose::AnyUser => None,
    }
}
