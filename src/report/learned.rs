//! What `scnpm learn` prints: annotations, with what is uncertain of them in a comment above; or JSON. docs/learn.md has its
//! schema, which only grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};

use super::{offer::UNNAMED_CHAIN, status::ago};
use crate::{
    model::{ChainRef, Direction, printable},
    policy::{
        admission::{Admission, Packets},
        grouping::{Seen, Style, groups},
    },
    units::selector::{Selector, Selectors, Which},
};

/// What was learnt.
#[derive(Debug, Default)]
pub struct Learned {
    /// The annotations.
    pub lines: Vec<Line>,
    /// Whether one has no chain.
    pub lacks_chain: bool,
}

/// An annotation.
#[derive(Debug)]
pub struct Line {
    /// With the `#` in front.
    pub text: String,
    /// How many packets it lets through of what was seen.
    pub packets: u64,
    /// What may be otherwise the next time.
    pub doubts: Vec<String>,
}

/// A chain that annotations may go to, and the hooks that call it if they are known.
pub type Place = (ChainRef, Option<BTreeSet<String>>);

/// What was seen of each selector's units as annotations, each for the first of these chains that such packets come to.
pub fn learned(seen: &BTreeMap<Selector, BTreeMap<Seen, u64>>, style: &Style, places: &[Place]) -> Learned {
    // What several units do is one annotation for all of them.
    let mut lines: Vec<(Packets, Vec<&Selector>, u64, BTreeSet<String>)> = Vec::new();
    let mut known: BTreeMap<Packets, usize> = BTreeMap::new();
    for (selector, seen) in seen {
        for group in groups(seen, style) {
            let at = *known.entry(group.packets.clone()).or_insert_with(|| {
                lines.push((group.packets, vec![], 0, BTreeSet::new()));
                lines.len() - 1
            });
            let (_, selectors, packets, doubts) = &mut lines[at];
            selectors.push(selector);
            *packets += group.count;
            doubts.extend(group.doubts.iter().map(ToString::to_string));
            doubts.extend(fleeting(selector));
        }
    }
    let mut learned = Learned::default();
    for (packets, selectors, count, doubts) in lines {
        let chain = chain(places, packets.direction, packets.v6);
        learned.lacks_chain |= chain.is_none();
        let selectors = Selectors(selectors.into_iter().cloned().collect());
        let text = match chain {
            Some(chain) => Admission { selectors, chain: chain.clone(), packets }.to_string(),
            None => format!("{selectors} :: add rule {UNNAMED_CHAIN} socket cgroupv2 unit {packets} accept"),
        };
        let doubts = doubts.into_iter().collect();
        learned.lines.push(Line { text: format!("# {text}"), packets: count, doubts });
    }
    learned
}

/// That a unit's name is never seen again.
fn fleeting(selector: &Selector) -> Option<String> {
    let is_fleeting = matches!(&selector.which, Which::Unit(unit) if unit.0.ends_with(".scope") && &*unit.0 != "init.scope");
    is_fleeting.then(|| "a scope has another name each time".to_owned())
}

/// The first chain that such packets come to, as far as is known.
fn chain(places: &[Place], direction: Direction, v6: bool) -> Option<&ChainRef> {
    let fits = |(chain, hooks): &&Place| {
        chain.table.family.has(v6) && hooks.as_ref().is_none_or(|hooks| hooks.contains(direction.hook()))
    };
    places.iter().find(fits).map(|(chain, _)| chain)
}

/// Writes what stands in a policy; fails as `out` does.
pub fn write(learned: &Learned, unit: &str, time: Duration, out: &mut dyn Write) -> io::Result<()> {
    let time = ago(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    writeln!(out, "# Learnt in {time} of {}", printable(unit))?;
    for Line { text, doubts, .. } in &learned.lines {
        if !doubts.is_empty() {
            writeln!(out, "# (uncertain: {})", doubts.join("; "))?;
        }
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// Writes the object; fails as `out` does.
pub fn write_json(
    learned: &Learned,
    unit: &str,
    time: Duration,
    notes: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    let line = |Line { text, packets, doubts }: &Line| -> Value {
        json!({ "annotation": text, "packets": packets, "doubts": doubts })
    };
    // The version changes when a program that reads the object would have to.
    let object = json!({
        "version": 1,
        "unit": unit,
        "seconds": time.as_secs_f64(),
        "annotations": learned.lines.iter().map(line).collect::<Vec<_>>(),
        "notes": notes,
    });
    serde_json::to_writer_pretty(&mut *out, &object)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    fn selector(text: &str) -> Selector {
        Selectors::parse(text).unwrap().0.remove(0)
    }

    fn seen(direction: Direction, address: &str, port: u16) -> (Seen, u64) {
        (Seen { direction, address: address.parse().unwrap(), protocol: 6, port }, 2)
    }

    fn place(family: Family, name: &str, hook: &str) -> Place {
        let table = TableRef { family, name: "f".into() };
        (ChainRef { table, name: name.into() }, Some([hook.to_owned()].into()))
    }

    fn written(seen: &[(&str, Vec<(Seen, u64)>)], places: &[Place]) -> String {
        let seen = seen.iter().map(|(unit, seen)| (selector(unit), seen.iter().copied().collect())).collect();
        let learned = learned(&seen, &Style::default(), places);
        let mut out = Vec::new();
        write(&learned, "x\n", Duration::from_secs(600), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn units_that_do_the_same_share_a_line() {
        let mail = || vec![seen(Direction::Out, "192.0.2.1", 25)];
        let text = written(
            &[("system:a.service", mail()), ("1000:app:b", mail())],
            &[place(Family::Inet, "out", "output")],
        );
        assert_eq!(
            text,
            "# Learnt in 10 min of x\u{fffd}\n# system:a.service,1000:app:b :: add rule inet f out socket cgroupv2 unit \
             ip daddr 192.0.2.1 tcp dport 25 accept\n"
        );
    }

    #[test]
    fn each_line_goes_to_a_chain_that_its_packets_come_to() {
        let all = vec![
            seen(Direction::Out, "192.0.2.1", 25),
            seen(Direction::In, "192.0.2.1", 22),
            seen(Direction::Out, "2001:db8::1", 25),
        ];
        let text = written(
            &[("system:a.service", all)],
            &[place(Family::Ip, "out", "output"), place(Family::Inet, "into", "input")],
        );
        let chain_of = |part: &str| {
            text.lines().find(|line| line.contains(part)).unwrap().split("rule ").nth(1).unwrap()[..14]
                .to_owned()
        };
        assert!(chain_of("daddr 192").starts_with("ip f out "), "{text}");
        assert!(chain_of("saddr 192").starts_with("inet f into "), "{text}");
        assert!(text.contains("add rule inet filter CHAIN socket cgroupv2 unit ip6 daddr"), "{text}");
    }

    #[test]
    fn what_is_uncertain_stands_above() {
        let once = (seen(Direction::Out, "192.0.2.1", 25).0, 1);
        let text = written(&[("1000:x.scope", vec![once])], &[place(Family::Inet, "out", "output")]);
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "# (uncertain: a scope has another name each time; seen only once)"
        );
    }
}
