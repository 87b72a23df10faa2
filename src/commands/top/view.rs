//! STATE -> SCREEN. Pure.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};
use unicode_width::UnicodeWidthStr;

use super::{
    pane::Pane,
    rows::{self, Column, RefusalColumn, UnitColumn, UnitRow},
    state::{Focus, Mode, SMALLEST, State, Text, words_at_bottom},
    words::{fit, left, short, wrapped},
};
use crate::{
    control::message::{Allowance, Refusal},
    model::printable,
    report::status::{ago, plural},
};

/// Names have no more columns than these: what belongs to them is not to be far away.
const LONGEST: usize = 60;

/// Draws all of it.
pub(super) fn draw(state: &State, frame: &mut Frame) {
    let area = frame.area();
    let canvas = &mut Canvas { buffer: frame.buffer_mut(), area, look: Look { colour: state.colour } };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(canvas);
        return;
    }
    match &state.mode {
        Mode::Text(text) => draw_text(text, canvas),
        _ => draw_lists(state, canvas),
    }
}

/// What things look like: 16 colours at most, and what is told by a colour is told by words, too.
#[derive(Debug, Clone, Copy)]
struct Look {
    colour: bool,
}

impl Look {
    const PLAIN: Style = Style::new();
    const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
    const DIM: Style = Style::new().add_modifier(Modifier::DIM);
    const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Self::PLAIN }
    }

    fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }
}

/// Where lines of text are put.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    look: Look,
}

impl Canvas<'_> {
    fn width(&self) -> usize {
        self.area.width.into()
    }

    /// A text from a column of a line on, with the next column as the answer.
    fn put(&mut self, x: usize, y: usize, text: &str, style: Style) -> usize {
        let (Ok(column), Ok(line)) = (u16::try_from(x), u16::try_from(y)) else { return x };
        if x >= self.width() || line >= self.area.height {
            return x;
        }
        let text = fit(text, self.width() - x);
        let (next, _) = self.buffer.set_stringn(column, line, &text, self.width() - x, style);
        next.into()
    }

    /// A style for all of a line.
    fn paint(&mut self, y: usize, style: Style) {
        let Ok(y) = u16::try_from(y) else { return };
        self.buffer.set_style(Rect { y, height: 1, ..self.area }.intersection(self.area), style);
    }

    fn clear(&mut self, y: usize) {
        for x in 0..self.area.width {
            if let Some(cell) = u16::try_from(y).ok().and_then(|y| self.buffer.cell_mut((x, y))) {
                cell.reset();
            }
        }
    }
}

fn too_small(canvas: &mut Canvas) {
    let (width, height) = SMALLEST;
    let words = format!("The screen is too small: this needs {width} columns and {height} lines. q ends it.");
    for (y, line) in wrapped(&words, canvas.width()).iter().enumerate() {
        canvas.put(0, y, line, Look::PLAIN);
    }
}

fn draw_lists(state: &State, canvas: &mut Canvas) {
    let heights = state.heights();
    let mut y = draw_head(state, canvas);
    let lists = y;

    let is_focus = state.focus == Focus::Units;
    heading(&UnitColumn::ALL, &state.units, is_focus, y, canvas);
    y += 1;
    for place in state.units.top..(state.units.top + heights.units).min(state.units.order.len()) {
        let row = &state.rows[state.units.order[place]];
        let is_selected = is_focus && place == state.units.cursor;
        draw_unit(row, is_selected, y + place - state.units.top, canvas);
    }
    if state.units.order.is_empty() {
        canvas.put(0, y, &no_units(state), Look::PLAIN);
    }
    y += heights.units;

    if heights.allowances > 0 {
        let is_focus = state.focus == Focus::Allowances;
        let title = format!("ALLOWED FOR A WHILE ({})", state.status.allowances.len());
        canvas.put(0, y, &title, Look::PLAIN);
        canvas.paint(y, heading_style(is_focus));
        y += 1;
        let first = state.allowances.top;
        for (place, allowance) in
            state.status.allowances.iter().enumerate().skip(first).take(heights.allowances)
        {
            draw_allowance(state, allowance, y + place - first, canvas);
            if is_focus && place == state.allowances.cursor {
                canvas.paint(y + place - first, Look::REVERSED);
            }
        }
        y += heights.allowances;
    }

    let is_focus = state.focus == Focus::Refusals;
    heading(&RefusalColumn::ALL, &state.refusals, is_focus, y, canvas);
    y += 1;
    let first = state.refusals.top;
    for place in first..(first + heights.refusals).min(state.refusals.order.len()) {
        let refusal = &state.list[state.refusals.order[place]];
        let is_selected = is_focus && place == state.refusals.cursor;
        draw_refusal(refusal, state.now.wall, is_selected, y + place - first, canvas);
    }
    if state.refusals.order.is_empty() {
        for (line, words) in
            wrapped(&no_refusals(state), canvas.width()).iter().take(heights.refusals).enumerate()
        {
            canvas.put(0, y + line, words, Look::PLAIN);
        }
    }
    y += heights.refusals;

    if state.gone.is_some() {
        for line in lists..y {
            canvas.paint(line, Look::DIM);
        }
    }
    for (line, words) in about_selected(state).iter().enumerate() {
        canvas.put(0, y + line, words, Look::DIM);
    }
    draw_foot(state, canvas);
}

/// The lines at the top: how things stand.
fn draw_head(state: &State, canvas: &mut Canvas) -> usize {
    let look = canvas.look;
    let status = &state.status;
    let x = canvas.put(0, 0, &format!("scnpm {}: ", printable(&status.version)), Look::BOLD);
    let x = match (&state.gone, status.in_force) {
        (Some(words), _) => {
            canvas.put(x, 0, "the daemon does not answer, this is how things were", look.bad());
            canvas.put(0, 1, &printable(words), Look::PLAIN);
            return 2;
        }
        (None, true) => canvas.put(x, 0, "all is in force", look.good()),
        (None, false) => canvas.put(x, 0, "not all is in force", look.bad()),
    };
    let loaded = format!("loaded {} ago", ago(state.now.wall.saturating_sub(status.loaded_at)));
    let right = canvas.width().saturating_sub(loaded.width());
    if right > x + 2 {
        canvas.put(right, 0, &loaded, Look::PLAIN);
    }
    match status.problems.as_slice() {
        [] => {
            canvas.put(0, 1, &totals(state), Look::PLAIN);
        }
        [first, more @ ..] => {
            let more = match more.len() {
                0 => String::new(),
                more => format!("  and {more} more: scnpm status"),
            };
            let room = canvas.width().saturating_sub(more.width());
            let x = canvas.put(0, 1, &fit(&printable(first), room), look.bad());
            canvas.put(x, 1, &more, Look::PLAIN);
        }
    }
    2
}

/// What there is of everything.
fn totals(state: &State) -> String {
    let running = state.rows.iter().filter(|row| row.running).count();
    let mut facts = vec![format!("{}, {running} running", plural(state.rows.len() as u64, "unit"))];
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
    if state.has_counters() {
        let packets = sum(&mut state.rows.iter().filter_map(|row| row.packet_rate));
        let bytes = sum(&mut state.rows.iter().filter_map(|row| row.byte_rate));
        facts.push(format!("{} packets/s, {} bytes/s", short(packets), short(bytes)));
    }
    if state.lack.is_none() {
        let packets = sum(&mut state.list.iter().map(|refusal| refusal.packets));
        let words = if packets == 1 { "packet" } else { "packets" };
        facts.push(format!("{} {words} refused", short(packets)));
    }
    facts.join("; ")
}

fn heading_style(is_focus: bool) -> Style {
    if is_focus {
        Look::REVERSED.add_modifier(Modifier::BOLD)
    } else {
        Look::REVERSED.add_modifier(Modifier::DIM)
    }
}

/// The names of a list's columns, with a mark at that which it is sorted by.
fn heading<C: Column, K>(all: &[C], pane: &Pane<K>, is_focus: bool, y: usize, canvas: &mut Canvas) {
    canvas.paint(y, heading_style(is_focus));
    for (place, x, width) in columns(all, canvas.area.width) {
        let column = all[place];
        // A number's title may take the gap in front of it.
        let mark = match (place == pane.column, pane.is_reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "^",
        };
        let title = format!("{}{mark}", column.title());
        let title = fit(&title, width + usize::from(column.is_number()));
        let x = if column.is_number() { (x + width).saturating_sub(title.width()) } else { x };
        canvas.put(x, y, &title, heading_style(is_focus));
    }
}

/// The places of the columns that a screen of this width has, where each begins, and how wide it is.
fn columns<C: Column>(all: &[C], width: u16) -> Vec<(usize, usize, usize)> {
    let shown = rows::shown(all, width);
    let fixed: usize = shown.iter().filter_map(|place| all[*place].width(width)).map(usize::from).sum();
    let rest = usize::from(width).saturating_sub(fixed + shown.len().saturating_sub(1));
    let mut x = 0;
    let with_start = shown.into_iter().map(|place| {
        let width = all[place].width(width).map_or(rest.min(LONGEST), usize::from);
        let start = x;
        x += width + 1;
        (place, start, width)
    });
    with_start.collect()
}

fn cell(text: &str, is_number: bool, x: usize, width: usize) -> (usize, String) {
    let text = fit(text, width);
    let x = if is_number { (x + width).saturating_sub(text.width()) } else { x };
    (x, text)
}

fn draw_unit(row: &UnitRow, is_selected: bool, y: usize, canvas: &mut Canvas) {
    let look = canvas.look;
    for (place, x, width) in columns(&UnitColumn::ALL, canvas.area.width) {
        let column = UnitColumn::ALL[place];
        let (x, text) = cell(&column.cell(row), column.is_number(), x, width);
        let style = match column {
            UnitColumn::State | UnitColumn::InKernel if row.is_wrong() => look.bad(),
            UnitColumn::State if row.running => look.good(),
            UnitColumn::Refused if row.refusals.is_some_and(|count| count > 0) => {
                look.coloured(Color::Yellow)
            }
            _ if !row.running => Look::DIM,
            _ => Look::PLAIN,
        };
        canvas.put(x, y, &text, style);
    }
    if is_selected {
        select(y, canvas);
    }
}

fn draw_refusal(refusal: &Refusal, now: u64, is_selected: bool, y: usize, canvas: &mut Canvas) {
    let look = canvas.look;
    for (place, x, width) in columns(&RefusalColumn::ALL, canvas.area.width) {
        let column = RefusalColumn::ALL[place];
        let (x, text) = cell(&column.cell(refusal, now), column.is_number(), x, width);
        let style = match column {
            RefusalColumn::Packets => look.coloured(Color::Yellow),
            _ => Look::PLAIN,
        };
        canvas.put(x, y, &text, style);
    }
    if is_selected {
        select(y, canvas);
    }
}

fn draw_allowance(state: &State, allowance: &Allowance, y: usize, canvas: &mut Canvas) {
    let since = state.now.since_start.saturating_sub(state.status_at);
    let left = left(allowance.left_ms.saturating_sub(since));
    let x = canvas.put(0, y, &format!("{left:>7} left  "), canvas.look.coloured(Color::Cyan));
    canvas.put(x, y, &on_one_line(&allowance.annotation), Look::PLAIN);
}

/// The selected line is one colour, so that it can be read on all of them.
fn select(y: usize, canvas: &mut Canvas) {
    canvas.paint(y, Style::reset().add_modifier(Modifier::REVERSED));
}

fn no_units(state: &State) -> String {
    match state.filter.is_empty() {
        true if state.gone.is_some() => String::new(),
        true => "No annotation applies to a unit: see `scnpm units --annotate` for some.".to_owned(),
        false => format!("No unit has `{}` in its name: Esc shows all.", printable(&state.filter)),
    }
}

fn no_refusals(state: &State) -> String {
    match &state.lack {
        Some(words) => printable(words),
        None if !state.filter.is_empty() => {
            format!("No refusal has `{}` in it: Esc shows all.", printable(&state.filter))
        }
        None => "Nothing was refused.".to_owned(),
    }
}

/// Two lines about what is selected.
fn about_selected(state: &State) -> [String; 2] {
    match state.focus {
        Focus::Units => state.unit().map(about_unit),
        Focus::Refusals => state.refusal().map(|refusal| about_refusal(refusal, state)),
        Focus::Allowances => None,
    }
    .unwrap_or_default()
}

fn about_unit(row: &UnitRow) -> [String; 2] {
    let sockets = row.sockets.map_or_else(String::new, |sockets| {
        format!("; {} connected, {} listening", sockets.connected, sockets.listening)
    });
    let first = format!(
        "{}: {}, {} of {}{sockets}",
        row.shown,
        plural(row.cgroups as u64, "cgroup"),
        row.in_kernel,
        plural(row.due as u64, "element"),
    );
    [first, row.places.join(", ")]
}

fn about_refusal(refusal: &Refusal, state: &State) -> [String; 2] {
    let port = refusal.port.map_or_else(String::new, |port| {
        match state.services.get(&(port, refusal.protocol.clone())) {
            Some(service) => format!(" port {port} ({})", printable(service)),
            None => format!(" port {port}"),
        }
    });
    let kind = refusal.icmp_type.map(|kind| format!(" type {kind}")).unwrap_or_default();
    let host = refusal.host.as_deref().map(|host| format!(" ({})", printable(host))).unwrap_or_default();
    let app =
        refusal.app.as_deref().map(|app| format!(", application {}", printable(app))).unwrap_or_default();
    let user = refusal.uid.map(|uid| format!(", user {uid}")).unwrap_or_default();
    let first = format!(
        "{} {} {}{host} {}{port}{kind}{user}{app}",
        rows::name(refusal),
        rows::way(refusal.direction),
        refusal.address,
        printable(&refusal.protocol),
    );
    let line = refusal.annotation.as_deref().map(on_one_line);
    [first, line.unwrap_or_else(|| "no annotation would allow just this".to_owned())]
}

/// An annotation that goes on in the next line, as one.
fn on_one_line(annotation: &str) -> String {
    let pieces = annotation.lines().enumerate().map(|(number, line)| {
        let line = line.trim_end().trim_end_matches('\\').trim_end();
        if number == 0 { line } else { line.trim_start_matches('#').trim_start() }
    });
    printable(&pieces.collect::<Vec<_>>().join(" "))
}

/// The last line: the filter, or keys; and over it what is asked or was answered.
fn draw_foot(state: &State, canvas: &mut Canvas) {
    let last = usize::from(canvas.area.height) - 1;
    if let Mode::Filter(_) = state.mode {
        let x = canvas.put(0, last, "/", Look::BOLD);
        // The end of a long one is what is typed.
        let typed = printable(&state.filter);
        let room = canvas.width().saturating_sub(40);
        let mut shown = typed.as_str();
        while shown.width() > room {
            shown = shown.split_at(shown.chars().next().map_or(0, char::len_utf8)).1;
        }
        let x = canvas.put(x, last, shown, Look::PLAIN);
        let x = canvas.put(x, last, " ", Look::REVERSED);
        canvas.put(x + 2, last, "Enter keeps it, Esc does not", Look::DIM);
    } else {
        draw_keys(state, last, canvas);
    }
    let Some((words, is_bad)) = words_at_bottom(state) else { return };
    let style = if is_bad { canvas.look.bad() } else { Look::BOLD };
    let lines = wrapped(&words, canvas.width());
    let lines = &lines[..lines.len().min(last - 4)];
    for (number, line) in lines.iter().enumerate() {
        let y = last + 1 - lines.len() + number;
        canvas.clear(y);
        canvas.put(0, y, line, style);
    }
}

fn draw_keys(state: &State, y: usize, canvas: &mut Canvas) {
    let of_list: &[(&str, &str)] = match state.focus {
        Focus::Units => &[("Enter", "explain")],
        Focus::Refusals => &[("Enter", "explain"), ("a", "allow"), ("c", "copy")],
        Focus::Allowances => &[("u", "end it"), ("c", "copy")],
    };
    let others = [("q", "quit"), ("?", "help"), ("Tab", "list"), ("/", "filter"), ("s", "sort")];
    let filter = match state.filter.is_empty() {
        true => String::new(),
        false => fit(&format!("filter: {}", printable(&state.filter)), canvas.width() / 2),
    };
    let right = canvas.width().saturating_sub(filter.width());
    canvas.put(right, y, &filter, canvas.look.coloured(Color::Cyan));
    let room = if filter.is_empty() { right } else { right.saturating_sub(2) };
    let mut x = 0;
    for (key, what) in others.iter().chain(of_list).chain(&[("r", "reverse")]) {
        if x + key.width() + 1 + what.width() > room {
            break;
        }
        x = canvas.put(x, y, key, Look::BOLD);
        x = canvas.put(x + 1, y, what, Look::PLAIN) + 2;
    }
}

/// From the left edge on and without anything around it, so that it can be selected with a mouse.
fn draw_text(text: &Text, canvas: &mut Canvas) {
    let height = usize::from(canvas.area.height);
    canvas.paint(0, heading_style(true));
    canvas.put(0, 0, &printable(&text.title), heading_style(true));
    let page = height.saturating_sub(2);
    for (number, line) in text.lines.iter().skip(text.top).take(page).enumerate() {
        canvas.put(0, number + 1, &printable(line), Look::PLAIN);
    }
    let mut x = 0;
    for (key, what) in [("q", "back"), ("Up Down PgUp PgDn", "scroll")] {
        x = canvas.put(x, height - 1, key, Look::BOLD);
        x = canvas.put(x + 1, height - 1, what, Look::PLAIN) + 2;
    }
    let end = (text.top + page).min(text.lines.len());
    canvas.put(x, height - 1, &format!("{end} of {}", plural(text.lines.len() as u64, "line")), Look::DIM);
}

#[cfg(test)]
mod tests;
