//! What `scnpm denied` prints: a line for each refusal, and below it the annotation that would allow it; or JSON. docs/denied.md
//! has its schema, which only grows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
};

use litemap::LiteMap;
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use super::status::ago;
use crate::{
    control::message::Refusal,
    model::{Direction, printable},
};

/// What numbers are called.
#[derive(Debug, Default)]
pub struct Names {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Hosts.
    pub hosts: LiteMap<IpAddr, String>,
    /// Services by port and protocol (services(5)).
    pub services: BTreeMap<(u16, String), String>,
}

const HEAD: [&str; 6] = ["WHEN", "UNIT", "USER", "APP", "PACKETS", "WHERE"];

/// The least widths of the columns, which a list that goes on needs.
const LEAST: [usize; 5] = [10, 24, 8, 8, 7];

/// Writes refusals, with the head of the columns if they are the first; fails as `out` does. `now` is in microseconds since 1970.
pub fn write(
    refusals: &[Refusal],
    names: &Names,
    now: u64,
    is_first: bool,
    is_followed: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows: Vec<[String; 6]> = refusals.iter().map(|refusal| cells(refusal, names, now)).collect();
    let all = rows.iter().map(|row| row.each_ref().map(String::as_str)).chain([HEAD]);
    let mut widths = if is_followed { LEAST } else { [0; 5] };
    for row in all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if is_first {
        write_row(HEAD, widths, out)?;
    }
    for (row, refusal) in rows.iter().zip(refusals) {
        write_row(row.each_ref().map(String::as_str), widths, out)?;
        match &refusal.annotation {
            Some(annotation) => writeln!(out, "  {}", printable(annotation))?,
            None => writeln!(out, "  {}", why_none(refusal))?,
        }
    }
    Ok(())
}

/// Writes refusals of one command: where it was refused, and the annotation; fails as `out` does.
pub fn write_short(refusals: &[Refusal], out: &mut dyn Write) -> io::Result<()> {
    for refusal in refusals {
        let packets = if refusal.packets == 1 { "packet" } else { "packets" };
        writeln!(out, "  {} {packets} {}", refusal.packets, place(refusal, &Names::default()))?;
        match &refusal.annotation {
            Some(annotation) => writeln!(out, "    {}", printable(annotation))?,
            None => writeln!(out, "    {}", why_none(refusal))?,
        }
    }
    Ok(())
}

fn write_row(row: [&str; 6], widths: [usize; 5], out: &mut dyn Write) -> io::Result<()> {
    for (cell, width) in row.iter().zip(widths) {
        write!(out, "{cell}{:1$}  ", "", width - cell.width())?;
    }
    writeln!(out, "{}", row[5])
}

fn why_none(refusal: &Refusal) -> &'static str {
    match (&refusal.cgroup, &refusal.unit) {
        (None, _) => "(its cgroup was gone before anybody looked: no annotation can be offered)",
        (_, None) => "(it belongs to no unit, so there is no annotation to offer)",
        _ => "(an annotation cannot have such a name: none is offered)",
    }
}

fn cells(refusal: &Refusal, names: &Names, now: u64) -> [String; 6] {
    let or_dash = |text: Option<String>| text.map_or("-".to_owned(), |text| printable(&text));
    let user = refusal.uid.map(|uid| names.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()));
    let unit = refusal.unit.clone().or_else(|| refusal.cgroup.clone());
    [
        format!("{} ago", ago(now.saturating_sub(refusal.at))),
        unit.map_or_else(|| format!("cgroup {}", refusal.cgroup_id), |unit| printable(&unit)),
        or_dash(user),
        or_dash(refusal.app.clone()),
        refusal.packets.to_string(),
        place(refusal, names),
    ]
}

/// Where packets went or came from.
fn place(refusal: &Refusal, names: &Names) -> String {
    let side = if refusal.direction == Direction::Out { "to" } else { "from" };
    let host = refusal.host.as_ref().or_else(|| names.hosts.get(&refusal.address));
    let host = host.map(|host| format!(" ({})", printable(host))).unwrap_or_default();
    let protocol = printable(&refusal.protocol);
    let what = match (refusal.port, refusal.icmp_type) {
        (Some(port), _) => {
            let service = names.services.get(&(port, refusal.protocol.clone()));
            let service = service.map(|name| format!(" ({})", printable(name))).unwrap_or_default();
            format!("{protocol} {port}{service}")
        }
        (None, Some(number)) => format!("{protocol} type {number}{}", icmp(&refusal.protocol, number)),
        (None, None) => protocol,
    };
    format!("{side} {}{host} {what}", refusal.address)
}

/// The types of ICMP that programs send (icmp(7)).
fn icmp(protocol: &str, number: u8) -> &'static str {
    match (protocol, number) {
        ("icmp", 8) | ("icmpv6", 128) => " (echo request)",
        ("icmp", 0) | ("icmpv6", 129) => " (echo reply)",
        _ => "",
    }
}

/// Writes the object; fails as `out` does.
pub fn write_json(refusals: &[Refusal], is_followed: bool, out: &mut dyn Write) -> io::Result<()> {
    // The version changes when a program that reads the object would have to.
    let object = json!({ "version": 1, "refusals": refusals });
    match is_followed {
        true => serde_json::to_writer(&mut *out, &object)?,
        false => serde_json::to_writer_pretty(&mut *out, &object)?,
    }
    writeln!(out)
}

/// The names of services from the text of /etc/services.
pub fn services(text: &str) -> BTreeMap<(u16, String), String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut services = BTreeMap::new();
    for line in lines {
        let mut words = line.split_whitespace();
        if let (Some(name), Some((port, protocol))) =
            (words.next(), words.next().and_then(|word| word.split_once('/')))
            && let Ok(port) = port.parse()
        {
            services.entry((port, protocol.to_owned())).or_insert_with(|| name.to_owned());
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::Gather;

    const MINUTE: u64 = 60_000_000;

    fn refusal() -> Refusal {
        Refusal {
            at: 100 * MINUTE,
            packets: 12,
            annotation: Some("# system:postfix.service :: add rule …".to_owned()),
            ..Refusal::example()
        }
    }

    fn written(refusals: &[Refusal]) -> String {
        let names = Names {
            users: [(1000, "alice".to_owned())].into(),
            hosts: [("192.0.2.1".parse().unwrap(), "mail.example.org".to_owned())].into_iter().gather(),
            services: services("# x\nsmtp\t25/tcp mail\nother 25/tcp\nbroken\n"),
        };
        let mut out = Vec::new();
        write(refusals, &names, 105 * MINUTE, true, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_refusal_has_its_line_and_its_annotation() {
        let app = Refusal {
            unit: Some("app-firefox-1.scope".to_owned()),
            uid: Some(1000),
            app: Some("firefox".to_owned()),
            direction: Direction::In,
            protocol: "icmpv6".to_owned(),
            address: "2001:db8::1".parse().unwrap(),
            port: None,
            icmp_type: Some(128),
            ..refusal()
        };
        assert_eq!(
            written(&[refusal(), app]),
            "\
WHEN       UNIT                 USER   APP      PACKETS  WHERE
5 min ago  postfix.service      -      -        12       to 192.0.2.1 (mail.example.org) tcp 25 (smtp)
  # system:postfix.service :: add rule …
5 min ago  app-firefox-1.scope  alice  firefox  12       from 2001:db8::1 icmpv6 type 128 (echo request)
  # system:postfix.service :: add rule …
"
        );
    }

    #[test]
    fn names_never_break_the_output() {
        let odd = Refusal {
            unit: Some("a\n\u{1b}[31m.service".to_owned()),
            host: Some("x\u{7}y".to_owned()),
            annotation: None,
            ..refusal()
        };
        let text = written(&[odd]);
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("an annotation cannot have such a name"));
    }

    #[test]
    fn cgroup_that_is_gone_is_named_by_its_number() {
        let gone = Refusal { unit: None, cgroup: None, annotation: None, ..refusal() };
        assert!(written(&[gone]).contains("cgroup 7 "));
    }
}
