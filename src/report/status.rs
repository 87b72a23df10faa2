//! What `scnpm status` prints: one screen for people. Pure.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::table::write_columns;
use crate::{
    control::message::{Host, Source, Status, Unit},
    model::printable,
};

/// How many units are shown if none was asked for: those that are not in force first, then those that run.
const SHOWN: usize = 25;

/// How many cgroups of a unit are shown.
const CGROUPS: usize = 20;

/// Writes it; `now` is in microseconds since 1970. With `in_depth` each unit has its annotations and cgroups. Fails as `out`
/// does.
pub fn write(status: &Status, now: u64, in_depth: bool, out: &mut dyn Write) -> io::Result<()> {
    let not = if status.in_force { "" } else { "not " };
    let verdict =
        if in_depth { format!("{not}all of this is in force") } else { format!("{not}all is in force") };
    writeln!(out, "scnpm {} (process {}): {verdict}", printable(&status.version), status.pid)?;
    for problem in &status.problems {
        writeln!(out, "  {}", printable(problem))?;
    }
    writeln!(out)?;
    for (number, (name, text)) in facts(status, now).into_iter().enumerate() {
        if number == 0 || !name.is_empty() {
            writeln!(out, "{name:<10}  {text}")?;
        } else {
            writeln!(out, "{:<10}  {text}", "")?;
        }
    }
    if status.units.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    if in_depth {
        return status.units.iter().try_for_each(|unit| write_unit(unit, out));
    }
    let shown = shown(&status.units);
    let is_counted = status.units.iter().any(|unit| unit.packets.is_some());
    if is_counted {
        let head = ["UNIT", "RUNNING", "CGROUPS", "IN KERNEL", "PACKETS", "BYTES"];
        write_columns(head, shown.iter().map(|unit| counted_cells(unit)), out)?;
    } else {
        let head = ["UNIT", "RUNNING", "CGROUPS", "IN KERNEL"];
        write_columns(head, shown.iter().map(|unit| cells(unit)), out)?;
    }
    let more = status.units.len() - shown.len();
    if more > 0 {
        writeln!(out, "and {more} more: `scnpm status UNIT` shows one, --json all")?;
    }
    Ok(())
}

/// The lines about the policy as a whole: a word in front, and what there is to say.
fn facts(status: &Status, now: u64) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let ago = ago(now.saturating_sub(status.loaded_at));
    for (number, file) in status.files.iter().enumerate() {
        let changed = match (file.changed, &status.load_error) {
            (true, None) => "; changed since then: `scnpm reload` loads it",
            (true, Some(_)) => "; changed since then",
            (false, _) => "",
        };
        let name = if number == 0 { "policy" } else { "" };
        facts.push((name, format!("{}, loaded {ago} ago{changed}", printable(&file.path))));
    }
    if let Some(left) = status.on_trial_ms {
        let left = left.div_ceil(1000);
        facts.push(("trial", format!("goes back in {left} s: `scnpm reload --confirm` keeps it")));
    }
    for (number, one) in status.allowances.iter().enumerate() {
        let left = self::ago(one.left_ms.div_ceil(1000) * 1_000_000);
        let words = format!("{left} left (number {}): {}", one.number, printable(&one.annotation));
        facts.push((if number == 0 { "allowed" } else { "" }, words));
    }
    let findings = match (status.errors, status.warnings) {
        (0, 0) => "none".to_owned(),
        (errors, warnings) => {
            let them = if errors + warnings == 1 { "it" } else { "them" };
            let files: Vec<String> = status.files.iter().map(|file| printable(&file.path)).collect();
            let counts = counts(errors, "error", warnings, "warning");
            format!("{counts}: `scnpm check {}` explains {them}", files.join(" "))
        }
    };
    facts.push(("findings", findings));
    facts.push(("elements", format!("{} of {} in the kernel", status.in_kernel, status.due)));
    for (number, source) in status.sources.iter().enumerate() {
        facts.push((if number == 0 { "sources" } else { "" }, of_source(source)));
    }
    for (number, host) in status.hosts.iter().enumerate() {
        facts.push((if number == 0 { "hosts" } else { "" }, of_host(host)));
    }
    facts
}

fn counts(first: usize, of_first: &str, second: usize, of_second: &str) -> String {
    let of_both = [(first, of_first), (second, of_second)].into_iter().filter(|(count, _)| *count > 0);
    of_both.map(|(count, what)| plural(count as u64, what)).collect::<Vec<_>>().join(", ")
}

/// `1 unit`, `2 units`.
pub fn plural(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn of_source(source: &Source) -> String {
    let Source { name, state, words, first, median_us, worst_us } = source;
    let words = words.as_ref().map(|words| format!(": {}", printable(words))).unwrap_or_default();
    let times = match (median_us, worst_us) {
        (Some(median), Some(worst)) => {
            format!("; rules after {} (median), {} (worst)", millis(*median), millis(*worst))
        }
        _ => String::new(),
    };
    let first = match first {
        0 => String::new(),
        1 => ", first to tell once".to_owned(),
        first => format!(", first to tell {first} times"),
    };
    format!("{:<7}  {}{words}{first}{times}", printable(name), printable(state))
}

fn of_host(host: &Host) -> String {
    let addresses = match &host.words {
        Some(words) => {
            // std::net says this of whatever getaddrinfo(3) says.
            let words = words.strip_prefix("failed to lookup address information: ").unwrap_or(words);
            format!("no address: {}", printable(words))
        }
        None if host.addresses.is_empty() => "no address yet".to_owned(),
        None => printable(&host.addresses.join(", ")),
    };
    format!("{}  {addresses}", printable(&host.name))
}

/// What is shown if nobody asked for a unit.
fn shown(units: &[Unit]) -> Vec<&Unit> {
    let is_wrong = |unit: &&Unit| unit.missing > 0 || unit.refused > 0;
    if units.len() <= SHOWN {
        return units.iter().collect();
    }
    let (wrong, right): (Vec<&Unit>, Vec<&Unit>) = units.iter().partition(is_wrong);
    let (running, idle): (Vec<&Unit>, Vec<&Unit>) = right.into_iter().partition(|unit| unit.running);
    wrong.into_iter().chain(running).chain(idle).take(SHOWN).collect()
}

fn cells(unit: &Unit) -> [String; 4] {
    [printable(&unit.name), yes(unit.running), unit.cgroups.to_string(), in_kernel(unit)]
}

fn counted_cells(unit: &Unit) -> [String; 6] {
    let [name, running, cgroups, in_kernel] = cells(unit);
    let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    [name, running, cgroups, in_kernel, count(unit.packets), count(unit.bytes)]
}

fn in_kernel(unit: &Unit) -> String {
    let refused = if unit.refused > 0 { format!(", {} refused", unit.refused) } else { String::new() };
    format!("{} of {}{refused}", unit.in_kernel, unit.due)
}

fn write_unit(unit: &Unit, out: &mut dyn Write) -> io::Result<()> {
    let state = if unit.running { "running" } else { "not running" };
    let refused = match unit.refused {
        0 => String::new(),
        1 => ", 1 annotation refused".to_owned(),
        more => format!(", {more} annotations refused"),
    };
    let Unit { in_kernel, due, .. } = unit;
    writeln!(
        out,
        "{}: {state}, {in_kernel} of {due} elements in the kernel{refused}",
        printable(&unit.name)
    )?;
    if let (Some(packets), Some(bytes)) = (unit.packets, unit.bytes) {
        writeln!(out, "  {}, {}", plural(packets, "packet"), plural(bytes, "byte"))?;
    }
    for place in &unit.annotations {
        writeln!(out, "  annotation  {}", printable(&place.to_string()))?;
    }
    for one in unit.instances.iter().take(CGROUPS) {
        let state = if one.in_kernel == one.due { "in force" } else { "not in force" };
        writeln!(out, "  cgroup      {}  (id {}): {state}", printable(&one.path), one.id)?;
    }
    if unit.cgroups > CGROUPS {
        writeln!(out, "  and {} more cgroups: --json shows them", unit.cgroups - CGROUPS)?;
    }
    unit.words.iter().try_for_each(|words| writeln!(out, "  {}", printable(words)))
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// How long ago, from microseconds.
pub fn ago(micros: u64) -> String {
    let seconds = Duration::from_micros(micros).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Microseconds as milliseconds.
fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::message::File, model::Location};

    fn unit(name: &str, running: bool, missing: usize) -> Unit {
        let due = usize::from(running) * 2;
        Unit {
            name: name.to_owned(),
            running,
            cgroups: usize::from(running),
            due,
            in_kernel: due - missing,
            missing,
            annotations: vec![Location { file: "/etc/nftables.conf".to_owned(), line: 7 }],
            ..Unit::default()
        }
    }

    fn status() -> Status {
        let source = |name: &str, state: &str| Source {
            name: name.to_owned(),
            state: state.to_owned(),
            ..Source::default()
        };
        Status {
            version: "1.0".to_owned(),
            pid: 42,
            files: vec![
                File { path: "/etc/nftables.conf".to_owned(), changed: true },
                File { path: "/etc/a\u{1b}[31m.nft".to_owned(), changed: false },
            ],
            loaded_at: 1_000_000,
            warnings: 2,
            errors: 1,
            sources: vec![
                Source {
                    first: 12,
                    median_us: Some(340),
                    worst_us: Some(2_100),
                    ..source("cgroup", "working")
                },
                Source { words: Some("nobody answers".to_owned()), ..source("dbus", "lost") },
                source("journal", "off"),
            ],
            hosts: vec![Host { name: "a.example".to_owned(), ..Host::default() }],
            units: vec![unit("postfix.service", true, 1), unit("user:app:firefox", false, 0)],
            due: 2,
            in_kernel: 1,
            problems: vec!["postfix.service: 1 of 2 elements are not in the kernel".to_owned()],
            ..Status::default()
        }
    }

    fn text(status: &Status, in_depth: bool) -> String {
        let mut out = Vec::new();
        write(status, 182_000_000, in_depth, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn status_is_one_screen() {
        let expected = "\
scnpm 1.0 (process 42): not all is in force
  postfix.service: 1 of 2 elements are not in the kernel

policy      /etc/nftables.conf, loaded 3 min ago; changed since then: `scnpm reload` loads it
            /etc/a\u{fffd}[31m.nft, loaded 3 min ago
findings    1 error, 2 warnings: `scnpm check /etc/nftables.conf /etc/a\u{fffd}[31m.nft` explains them
elements    1 of 2 in the kernel
sources     cgroup   working, first to tell 12 times; rules after 0.3 ms (median), 2.1 ms (worst)
            dbus     lost: nobody answers
            journal  off
hosts       a.example  no address yet

UNIT              RUNNING  CGROUPS  IN KERNEL
postfix.service   yes      1        1 of 2
user:app:firefox  no       0        0 of 0
";
        assert_eq!(text(&status(), false), expected);
    }

    #[test]
    fn unit_has_its_places() {
        let mut status = status();
        status.units.truncate(1);
        status.units[0].instances = vec![crate::control::message::Instance {
            path: "system.slice/postfix.service".to_owned(),
            id: 77,
            due: 2,
            in_kernel: 1,
        }];
        let text = text(&status, true);
        let end = "\
postfix.service: running, 1 of 2 elements in the kernel
  annotation  /etc/nftables.conf:7
  cgroup      system.slice/postfix.service  (id 77): not in force
";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(ago(119_999_999), "119 s");
        assert_eq!(ago(7_199_000_000), "119 min");
    }

    #[test]
    fn of_many_units_the_wrong_ones_and_those_that_run_are_shown() {
        let mut status = status();
        status.units = (0..100).map(|n| unit(&format!("a{n}.service"), n == 50, 0)).collect();
        status.units[99] = unit("wrong.service", true, 2);
        let text = text(&status, false);
        let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("UNIT")).collect();
        assert_eq!(table.len(), 1 + SHOWN + 1);
        assert!(table[1].starts_with("wrong.service") && table[2].starts_with("a50.service"), "{text}");
        assert!(text.ends_with("and 75 more: `scnpm status UNIT` shows one, --json all\n"));
    }
}
