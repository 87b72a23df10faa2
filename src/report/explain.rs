//! What `scnpm explain` prints: lines for people, or one JSON object.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::units::{printable, shown};
use crate::{
    explain::{
        About, Answer, Block, Outcome, Packet, ShownProcess, ShownSocket, annotations::ShownElement,
        path::Step,
    },
    model::Location,
};

/// How wide what stands in front of each line is.
const MARGIN: usize = 10;

/// Writes the object; fails as `out` does.
pub fn write_json(answer: &Answer, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, answer)?;
    writeln!(out)
}

/// Writes the lines; fails as `out` does.
pub fn write(answer: &Answer, colour: bool, out: &mut dyn Write) -> io::Result<()> {
    let paint = Paint(colour);
    for (number, block) in answer.subjects.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        write_block(block, paint, out)?;
    }
    if let Some(packet) = &answer.packet {
        writeln!(out)?;
        write_packet(packet, paint, out)?;
    }
    for note in &answer.notes {
        writeln!(out, "note: {}", text(note))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
}

fn write_block(block: &Block, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", paint.bold(&text(&block.name)))?;
    let line = |out: &mut dyn Write, head: &str, rest: &str| writeln!(out, "  {head:MARGIN$}{rest}");
    match &block.cgroup {
        None => line(out, "cgroup", "none that a rule can match")?,
        Some(cgroup) => {
            let id = cgroup.id.map_or_else(|| "gone".to_owned(), |id| format!("id {id}"));
            line(out, "cgroup", &format!("{}  level {}, {id}", shown(&cgroup.path), cgroup.level))?;
            if let (Some(unit), Some(manager)) = (&cgroup.unit, &cgroup.manager) {
                let whose = if manager == "system" {
                    "the system's".to_owned()
                } else {
                    format!("of user {manager}")
                };
                let app =
                    cgroup.app.as_ref().map(|app| format!(", application {}", text(app))).unwrap_or_default();
                line(out, "unit", &format!("{}, {whose}{app}", shown(unit)))?;
            }
        }
    }
    let cells: Vec<[String; 3]> = block.processes.iter().map(process).collect();
    let mut heads = Heads::new("processes");
    for row in columns(&cells) {
        line(out, heads.next(), &row)?;
    }
    more(block.more_processes, out)?;
    let mut heads = Heads::new("sockets");
    let cells: Vec<[String; 4]> = block.sockets.iter().map(socket).collect();
    for (row, socket) in columns(&cells).into_iter().zip(&block.sockets) {
        line(out, heads.next(), &row)?;
        if let Some(words) = &socket.words {
            writeln!(out, "  {:MARGIN$}  {}", "", paint.with("33", &text(words)))?;
        }
    }
    more(block.more_sockets, out)?;
    let mut heads = Heads::new("rules");
    for about in &block.annotations {
        write_about(about, heads.next(), paint, out)?;
    }
    let other = if block.annotations.is_empty() { "" } else { "other " };
    let others = match block.other_annotations {
        0 if block.annotations.is_empty() => "there are no annotations".to_owned(),
        0 => String::new(),
        1 => format!("1 {other}annotation applies to something else"),
        others => format!("{others} {other}annotations apply to something else"),
    };
    if !others.is_empty() {
        line(out, heads.next(), &others)?;
    }
    block.notes.iter().try_for_each(|note| writeln!(out, "  note: {}", text(note)))
}

/// What stands in front of the first line of several only.
struct Heads(Option<&'static str>);

impl Heads {
    fn new(head: &'static str) -> Self {
        Self(Some(head))
    }

    fn next(&mut self) -> &'static str {
        self.0.take().unwrap_or_default()
    }
}

fn more(number: usize, out: &mut dyn Write) -> io::Result<()> {
    if number > 0 {
        writeln!(out, "  {:MARGIN$}and {number} more", "")?;
    }
    Ok(())
}

fn process(one: &ShownProcess) -> [String; 3] {
    let user = one.user.as_deref().map_or_else(|| one.uid.to_string(), printable);
    let command =
        if one.command.is_empty() { format!("[{}]", text(&one.name)) } else { cut(&text(&one.command)) };
    [one.pid.to_string(), user, command]
}

fn socket(one: &ShownSocket) -> [String; 4] {
    let ends = match &one.remote {
        Some(remote) => format!("{} to {remote}", one.local),
        None => one.local.clone(),
    };
    let pids: Vec<String> = one.pids.iter().take(4).map(u32::to_string).collect();
    let pids =
        if pids.is_empty() { format!("user {}", one.uid) } else { format!("process {}", pids.join(", ")) };
    [one.protocol.to_owned(), ends, one.state.to_owned(), pids]
}

fn write_about(about: &About, head: &str, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let verdict = if about.matches { paint.good("matches") } else { paint.bad("does not match") };
    writeln!(out, "  {head:MARGIN$}{}  {verdict}: {}", place(&about.place), text(&about.words))?;
    let below = |out: &mut dyn Write, rest: &str| writeln!(out, "  {:MARGIN$}  {rest}", "");
    below(out, &cut(&text(&about.statement)))?;
    if let Some(trouble) = &about.trouble {
        below(out, &paint.bad(&text(trouble)))?;
    }
    about.elements.iter().try_for_each(|element| below(out, &shown_element(element, paint)))
}

fn shown_element(element: &ShownElement, paint: Paint) -> String {
    let state = match element.in_kernel {
        Some(true) => paint.good("in the kernel"),
        Some(false) => paint.bad("not in the kernel"),
        None => "not read".to_owned(),
    };
    let key = match (&element.path, element.id) {
        (Some(_), Some(id)) => format!(" {id}"),
        (Some(path), None) => format!(" {}", shown(path)),
        (None, _) => " while it is active".to_owned(),
    };
    let verdict =
        element.verdict.as_deref().map(|verdict| format!(" : {}", text(verdict))).unwrap_or_default();
    let counted = match (element.packets, element.bytes) {
        (Some(packets), Some(bytes)) => format!(", {packets} packets, {bytes} bytes"),
        _ => String::new(),
    };
    format!("{state}: {}{key}{verdict}{counted}", element.set)
}

fn write_packet(packet: &Packet, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let to = if packet.host == packet.address { String::new() } else { format!(" ({})", text(&packet.host)) };
    let how = match packet.path.found_by {
        "trace" => "as the kernel traced it",
        _ => "as the rules read",
    };
    let address =
        if packet.address.contains(':') { format!("[{}]", packet.address) } else { packet.address.clone() };
    writeln!(
        out,
        "{}, {how}:",
        paint.bold(&format!("{} to {address}:{}{to}", packet.protocol, packet.port))
    )?;
    if let Some(words) = &packet.untraced {
        writeln!(out, "  no packet was traced: {}", text(words))?;
    }
    if !packet.other_addresses.is_empty() {
        let others = packet.other_addresses.join(", ");
        writeln!(out, "  this is one of the host's addresses, the others were not tried: {others}")?;
    }
    let mut last = "";
    for (number, step) in packet.path.steps.iter().enumerate() {
        if step.depth == 0 && (last != step.chain || step.rule.is_none() && last.is_empty()) {
            writeln!(out, "  {} hook {} priority {}", step.chain, step.hook, step.priority)?;
        }
        if step.depth == 0 {
            last = &step.chain;
        }
        write_step(step, packet.path.decided_by == Some(number), paint, out)?;
    }
    if packet.path.steps.is_empty() {
        writeln!(out, "  no rule and no policy has anything to say of it")?;
    }
    let verdict = match packet.path.outcome {
        Outcome::Passes => paint.good("it passes"),
        Outcome::Refused => paint.bad("it does not pass"),
        Outcome::Unknown => "it cannot be told whether it passes".to_owned(),
    };
    let by = packet.path.deciding().map(decided).unwrap_or_default();
    writeln!(out, "  {verdict}{by}")?;
    if !packet.would_pass.is_empty() {
        writeln!(out, "  this would let it through:")?;
    }
    packet.would_pass.iter().try_for_each(|line| writeln!(out, "    {}", text(line)))
}

fn write_step(step: &Step, decides: bool, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let indent = "  ".repeat(step.depth);
    let rule = step.rule.as_deref().map_or_else(|| "policy".to_owned(), text);
    let places: Vec<String> = step.annotations.iter().map(place).collect();
    let places = if places.is_empty() { String::new() } else { format!("  ({})", places.join(", ")) };
    let chain = if step.depth == 0 { String::new() } else { format!("{}: ", step.chain) };
    let maybe = if step.maybe { "maybe " } else { "" };
    let line = format!("    {indent}{chain}{} -> {maybe}{}{places}", cut(&rule), text(&step.verdict));
    writeln!(out, "{}", if decides { paint.bold(&line) } else { line })
}

fn decided(step: &Step) -> String {
    let what = if step.rule.is_some() { "a rule" } else { "the policy" };
    let verdict = if step.maybe { format!("maybe {}", step.verdict) } else { step.verdict.clone() };
    match step.annotations.first() {
        Some(at) => format!(": {verdict} by the annotation at {}", place(at)),
        None => format!(": {verdict} by {what} of {}", step.chain),
    }
}

fn place(at: &Location) -> String {
    format!("{}:{}", text(&at.file), at.line)
}

/// With a replacement for control characters, and what has no width.
pub fn text(text: &str) -> String {
    text.split(' ').map(printable).collect::<Vec<_>>().join(" ")
}

/// Not more than fits into a line or two.
fn cut(text: &str) -> String {
    const MOST: usize = 160;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Cells below each other.
fn columns<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{:1$}", "", width - cell.width()));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
