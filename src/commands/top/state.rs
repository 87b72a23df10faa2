//! What the screen is about, and what becomes of it with each event. Pure: an event comes in, an action goes out.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    pane::{Move, Pane},
    rows::{self, Heights, RefusalColumn, UnitColumn, UnitRow},
    words::wrapped,
};
use crate::{
    commands::whose::{self, Whose},
    control::message::{Allow, Allowance, Refusal, Status},
    gather::{Gather, sort_by, sort_by_key},
    model::{CgroupPath, Direction, printable},
    report::status::plural,
    units::selector::Users,
};

/// For how long is allowed what is allowed here, in ms.
const ALLOWED_FOR: u64 = 5 * 60 * 1000;

/// Rates are of no shorter times than this, in ms.
const SHORTEST: u64 = 500;

/// More refusals are not kept: the oldest go.
const MOST_REFUSALS: usize = 20_000;

/// The smallest screen that all of it has room on: columns and lines.
pub(super) const SMALLEST: (u16, u16) = (60, 14);

/// A key, whatever the terminal sends for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C
    Interrupt,
    /// Ctrl-Z
    Suspend,
    /// Ctrl-L
    Redraw,
    /// Ctrl-U
    Erase,
}

/// What time it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Now {
    /// In microseconds since 1970.
    pub(super) wall: u64,
    /// In ms since the start.
    pub(super) since_start: u64,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Key(Key),
    /// The screen has so many columns and lines now.
    Resized(u16, u16),
    /// How things stand, and the numbers of the users whose names it has.
    Status(Box<Status>, Users),
    /// The daemon does not answer, in words.
    Gone(String),
    /// All refusals that there are.
    AllRefusals(Vec<Refusal>),
    /// Those that are new, or have more packets now.
    MoreRefusals(Vec<Refusal>),
    /// There are none to be had, and why.
    NoRefusals(String),
    /// The sockets of each cgroup; nothing if they could not be read.
    Sockets(Option<BTreeMap<CgroupPath, Sockets>>),
    /// What a command said that ran in the background.
    Output {
        title: String,
        text: String,
    },
    /// What became of something that was asked for.
    Answer(Result<String, String>),
}

/// How many sockets there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sockets {
    /// Connected ones.
    pub(super) connected: u64,
    /// Those of TCP and SCTP that listen.
    pub(super) listening: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Quit,
    /// Give the terminal back, as Ctrl-Z does.
    Suspend,
    /// Draw all of the screen anew.
    Redraw,
    /// Run `scnpm explain` with these arguments.
    Explain(Vec<String>),
    Allow(Allow),
    Disallow(u64),
    /// Put this on the clipboard.
    Copy(String),
}

/// What keys are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Lists,
    /// A filter is typed; before that it was this one.
    Filter(String),
    /// A question, and what is done after a yes.
    Question(String, Action),
    /// A text that fills the screen.
    Text(Text),
}

/// A text that fills the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) title: String,
    /// As long as it is.
    text: String,
    /// In lines that fit.
    pub(super) lines: Vec<String>,
    /// The first line in view.
    pub(super) top: usize,
}

/// Which list the keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Focus {
    Units,
    Allowances,
    Refusals,
}

/// What tells a refusal from others.
pub(super) type RefusalKey = (u64, Direction, String, IpAddr, Option<u16>, Option<u8>, String);

/// Counters at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: u64,
    packets: u64,
    bytes: u64,
    packet_rate: Option<u64>,
    byte_rate: Option<u64>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    /// Whether there are colours.
    pub(super) colour: bool,
    pub(super) size: (u16, u16),
    /// What services are called, by port and protocol (services(5)).
    pub(super) services: BTreeMap<(u16, String), String>,
    pub(super) now: Now,
    /// The last status, and when it came.
    pub(super) status: Status,
    pub(super) status_at: u64,
    /// Why the daemon does not answer, if it does not.
    pub(super) gone: Option<String>,
    /// Why there are no refusals to be had, if that is so.
    pub(super) lack: Option<String>,
    pub(super) focus: Focus,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// Whether something is being explained.
    pub(super) is_explaining: bool,
    /// What became of what was asked for last.
    pub(super) note: Option<Result<String, String>>,
    pub(super) units: Pane<String>,
    pub(super) allowances: Pane<u64>,
    pub(super) refusals: Pane<RefusalKey>,
    pub(super) rows: Vec<UnitRow>,
    pub(super) list: Vec<Refusal>,
    samples: BTreeMap<String, Sample>,
    whose: Whose,
    sockets: Option<BTreeMap<CgroupPath, Sockets>>,
}

impl State {
    pub(super) fn new(size: (u16, u16), colour: bool, filter: String) -> Self {
        Self {
            colour,
            size,
            services: BTreeMap::new(),
            now: Now::default(),
            status: Status::default(),
            status_at: 0,
            gone: None,
            lack: None,
            focus: Focus::Units,
            filter,
            mode: Mode::Lists,
            is_explaining: false,
            note: None,
            units: Pane::sorted_by(UnitColumn::ByteRate as usize),
            allowances: Pane::sorted_by(0),
            refusals: Pane::sorted_by(RefusalColumn::Ago as usize),
            rows: Vec::new(),
            list: Vec::new(),
            samples: BTreeMap::new(),
            whose: Whose::default(),
            sockets: None,
        }
    }

    /// Takes an event, and says what is to be done.
    pub(super) fn take(&mut self, event: Event, now: Now) -> Action {
        self.now = now;
        let action = match event {
            Event::Key(key) => self.key(key),
            Event::Resized(width, height) => {
                self.size = (width, height);
                Action::Nothing
            }
            Event::Status(status, users) => {
                self.set_status(*status, users);
                Action::Nothing
            }
            Event::Gone(words) => {
                self.gone = Some(words);
                Action::Nothing
            }
            Event::AllRefusals(list) => {
                self.lack = None;
                self.list.clear();
                self.add(list);
                Action::Nothing
            }
            Event::MoreRefusals(list) => {
                self.add(list);
                Action::Nothing
            }
            Event::NoRefusals(words) => {
                self.lack = Some(words);
                self.list.clear();
                self.count_refusals();
                Action::Nothing
            }
            Event::Sockets(sockets) => {
                self.sockets = sockets;
                self.count_sockets();
                Action::Nothing
            }
            Event::Output { title, text } => {
                (self.note, self.is_explaining) = (None, false);
                self.show(title, text);
                Action::Nothing
            }
            Event::Answer(answer) => {
                self.note = Some(answer);
                Action::Nothing
            }
        };
        self.settle();
        action
    }

    /// How many lines each list has on the screen.
    pub(super) fn heights(&self) -> Heights {
        Heights::of(
            self.size.1,
            self.units.order.len(),
            self.status.allowances.len(),
            self.refusals.order.len(),
        )
    }

    /// Whether the daemon counts anything: only then do counters have to be asked for.
    pub(super) fn has_counters(&self) -> bool {
        self.status.units.iter().any(|unit| unit.packets.is_some())
    }

    /// The selected refusal.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.list.get(self.refusals.selected()?)
    }

    /// The selected unit.
    pub(super) fn unit(&self) -> Option<&UnitRow> {
        self.rows.get(self.units.selected()?)
    }

    fn allowance(&self) -> Option<&Allowance> {
        self.status.allowances.get(self.allowances.selected()?)
    }

    fn set_status(&mut self, status: Status, users: Users) {
        let is_another = status.pid != self.status.pid;
        let is_same_list = status.units.len() == self.status.units.len()
            && status.units.iter().zip(&self.status.units).all(|(new, old)| new.name == old.name);
        self.gone = None;
        self.status_at = self.now.since_start;
        self.status = status;
        if is_another {
            self.samples.clear();
        }
        self.sample();
        if !is_same_list || is_another {
            self.whose = Whose::of(&self.status.units, users);
        }
        self.rows = self.status.units.iter().map(UnitRow::of).collect();
        for row in &mut self.rows {
            let sample = self.samples.get(&row.name).copied().unwrap_or_default();
            (row.packet_rate, row.byte_rate) = (sample.packet_rate, sample.byte_rate);
        }
        self.count_refusals();
        self.count_sockets();
    }

    /// Compares counters with those of the time before.
    fn sample(&mut self) {
        let at = self.now.since_start;
        let mut samples = BTreeMap::new();
        for unit in &self.status.units {
            let (Some(packets), Some(bytes)) = (unit.packets, unit.bytes) else { continue };
            let new = Sample { at, packets, bytes, ..Sample::default() };
            let sample = match self.samples.get(&unit.name) {
                None => new,
                Some(old) if at.saturating_sub(old.at) < SHORTEST => *old,
                Some(old) => {
                    let time = at - old.at;
                    // A counter that was reset says nothing.
                    let rate = |new: u64, old: u64| Some(new.checked_sub(old)?.saturating_mul(1000) / time);
                    Sample {
                        packet_rate: rate(packets, old.packets),
                        byte_rate: rate(bytes, old.bytes),
                        ..new
                    }
                }
            };
            samples.insert(unit.name.clone(), sample);
        }
        self.samples = samples;
    }

    fn add(&mut self, list: Vec<Refusal>) {
        let mut known: BTreeMap<RefusalKey, Refusal> =
            self.list.drain(..).map(|refusal| (key_of(&refusal), refusal)).gather();
        known.extend(list.into_iter().map(|refusal| (key_of(&refusal), refusal)));
        self.list = known.into_values().collect();
        if self.list.len() > MOST_REFUSALS {
            sort_by_key(&mut self.list, |refusal| std::cmp::Reverse(refusal.at));
            self.list.truncate(MOST_REFUSALS);
        }
        self.count_refusals();
    }

    fn count_refusals(&mut self) {
        let is_known = self.lack.is_none();
        for row in &mut self.rows {
            row.refusals = is_known.then_some(0);
        }
        for refusal in &self.list {
            for number in self.whose.of_refusal(refusal) {
                if let Some(row) = self.rows.get_mut(number) {
                    row.refusals = Some(row.refusals.unwrap_or(0).saturating_add(refusal.packets));
                }
            }
        }
    }

    fn count_sockets(&mut self) {
        let is_known = self.sockets.is_some();
        for row in &mut self.rows {
            row.sockets = is_known.then(Sockets::default);
        }
        for (cgroup, sockets) in self.sockets.iter().flatten() {
            for number in self.whose.of_cgroup(cgroup) {
                if let Some(row) = self.rows.get_mut(number) {
                    let so_far = row.sockets.unwrap_or_default();
                    row.sockets = Some(Sockets {
                        connected: so_far.connected + sockets.connected,
                        listening: so_far.listening + sockets.listening,
                    });
                }
            }
        }
    }

    /// Sorts and filters, and moves what is in view.
    fn settle(&mut self) {
        let filter = self.filter.to_lowercase();
        let column = UnitColumn::ALL[self.units.column];
        let matches = |text: &str| filter.is_empty() || text.to_lowercase().contains(&filter);
        let mut order: Vec<usize> =
            (0..self.rows.len()).filter(|line| matches(&self.rows[*line].shown)).collect();
        sort_by(&mut order, |one, other| {
            let (one, other) = (&self.rows[*one], &self.rows[*other]);
            turned(column.compare(one, other), self.units.is_reversed)
                .then_with(|| one.shown.cmp(&other.shown))
        });
        self.units.reorder(order, |line| self.rows[line].name.clone());

        let column = RefusalColumn::ALL[self.refusals.column];
        let mut order: Vec<usize> =
            (0..self.list.len()).filter(|line| matches(&rows::searched(&self.list[*line]))).collect();
        sort_by(&mut order, |one, other| {
            let (one, other) = (&self.list[*one], &self.list[*other]);
            turned(column.compare(one, other), self.refusals.is_reversed).then_with(|| other.at.cmp(&one.at))
        });
        self.refusals.reorder(order, |line| key_of(&self.list[line]));

        let allowances = &self.status.allowances;
        self.allowances.reorder((0..allowances.len()).collect(), |line| allowances[line].number);
        if self.focus == Focus::Allowances && self.status.allowances.is_empty() {
            self.focus = Focus::Units;
        }

        let heights = self.heights();
        self.units.scroll(heights.units);
        self.allowances.scroll(heights.allowances);
        self.refusals.scroll(heights.refusals);
        let (width, height) = (usize::from(self.size.0), usize::from(self.size.1));
        if let Mode::Text(text) = &mut self.mode {
            text.lines = wrapped(&text.text, width);
            text.top = text.top.min(text.lines.len().saturating_sub(height.saturating_sub(2)));
        }
    }

    fn show(&mut self, title: String, text: String) {
        let lines: Vec<String> =
            text.split('\n').map(|line| printable(&line.replace('\t', "    "))).collect();
        let text = lines.join("\n").trim_end().to_owned();
        self.mode = Mode::Text(Text { title, text, lines: Vec::new(), top: 0 });
    }

    fn key(&mut self, key: Key) -> Action {
        match key {
            Key::Interrupt => return Action::Quit,
            Key::Suspend => return Action::Suspend,
            Key::Redraw => return Action::Redraw,
            _ => {}
        }
        if self.size.0 < SMALLEST.0 || self.size.1 < SMALLEST.1 {
            return if key == Key::Char('q') { Action::Quit } else { Action::Nothing };
        }
        match self.mode {
            Mode::Lists => {
                self.note = None;
                self.key_in_lists(key)
            }
            Mode::Filter(_) => self.key_in_filter(key),
            Mode::Question(..) => self.key_in_question(key),
            Mode::Text(_) => self.key_in_text(key),
        }
    }

    fn key_in_lists(&mut self, key: Key) -> Action {
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('?' | 'h') => self.show("Help".to_owned(), rows::HELP.to_owned()),
            Key::Char('/') => self.mode = Mode::Filter(self.filter.clone()),
            Key::Escape => self.filter.clear(),
            Key::Tab => self.step(true),
            Key::BackTab => self.step(false),
            Key::Char('s' | '>') => self.sort(1),
            Key::Char('<') => self.sort(-1),
            Key::Char('r' | 'R') => match self.focus {
                Focus::Units => self.units.is_reversed ^= true,
                Focus::Refusals => self.refusals.is_reversed ^= true,
                Focus::Allowances => {}
            },
            Key::Enter | Key::Char('e') => return self.explain(),
            Key::Char('a') => self.ask_to_allow(),
            Key::Char('u') => return self.disallow(),
            Key::Char('c') => return self.copy(),
            _ => {
                if let Some(to) = moved(key) {
                    self.go(to);
                }
            }
        }
        Action::Nothing
    }

    fn step(&mut self, forward: bool) {
        let has_allowances = !self.status.allowances.is_empty();
        self.focus = match (self.focus, forward) {
            (Focus::Units, true) | (Focus::Refusals, false) if has_allowances => Focus::Allowances,
            (Focus::Units, _) => Focus::Refusals,
            (Focus::Refusals, _) => Focus::Units,
            (Focus::Allowances, true) => Focus::Refusals,
            (Focus::Allowances, false) => Focus::Units,
        };
    }

    /// Sorts by the next column that is shown, or by the one before.
    fn sort(&mut self, by: isize) {
        let width = self.size.0;
        let (column, shown) = match self.focus {
            Focus::Units => (&mut self.units.column, rows::shown(&UnitColumn::ALL, width)),
            Focus::Refusals => (&mut self.refusals.column, rows::shown(&RefusalColumn::ALL, width)),
            Focus::Allowances => return,
        };
        let place = shown.iter().position(|one| one == column).unwrap_or(0);
        let count = isize::try_from(shown.len()).unwrap_or(1);
        let next = (isize::try_from(place).unwrap_or(0) + by).rem_euclid(count);
        *column = shown[next.unsigned_abs()];
        match self.focus {
            Focus::Refusals => self.refusals.is_reversed = false,
            _ => self.units.is_reversed = false,
        }
    }

    fn go(&mut self, to: Move) {
        let heights = self.heights();
        match self.focus {
            Focus::Units => self.units.go(to, heights.units, |line| self.rows[line].name.clone()),
            Focus::Refusals => self.refusals.go(to, heights.refusals, |line| key_of(&self.list[line])),
            Focus::Allowances => {
                let allowances = &self.status.allowances;
                self.allowances.go(to, heights.allowances, |line| allowances[line].number);
            }
        }
    }

    fn explain(&mut self) -> Action {
        let arguments = match self.focus {
            Focus::Units => self.unit().map(|unit| vec!["--".to_owned(), unit.name.clone()]),
            Focus::Refusals => match self.refusal() {
                None => None,
                Some(refusal) => match explaining(refusal) {
                    Some(arguments) => Some(arguments),
                    None => {
                        return self
                            .complain("its unit is not known: its cgroup was gone before anybody looked");
                    }
                },
            },
            Focus::Allowances => {
                return self.complain("select a unit or a refusal: Tab goes to the next list");
            }
        };
        match arguments {
            Some(_) if self.is_explaining => Action::Nothing,
            Some(arguments) => {
                self.is_explaining = true;
                self.note = Some(Ok("scnpm explain runs ...".to_owned()));
                Action::Explain(arguments)
            }
            None => self.complain("nothing is selected"),
        }
    }

    fn ask_to_allow(&mut self) {
        let Some(refusal) = self.refusal().filter(|_| self.focus == Focus::Refusals) else {
            self.complain("select a refusal first: Tab goes to the list of refusals");
            return;
        };
        match allowing(refusal) {
            Some((question, allow)) => self.mode = Mode::Question(question, Action::Allow(allow)),
            None => drop(self.complain("its unit is not known: its cgroup was gone before anybody looked")),
        }
    }

    fn disallow(&mut self) -> Action {
        match self.allowance().filter(|_| self.focus == Focus::Allowances) {
            Some(allowance) => Action::Disallow(allowance.number),
            None => self.complain("select what is allowed for a while first: Tab goes to the next list"),
        }
    }

    fn copy(&mut self) -> Action {
        let line = match self.focus {
            Focus::Units => None,
            Focus::Refusals => self.refusal().and_then(|refusal| refusal.annotation.clone()),
            Focus::Allowances => self.allowance().map(|allowance| allowance.annotation.clone()),
        };
        let Some(line) = line else {
            return self.complain(match self.focus {
                Focus::Units => "select a refusal first: Tab goes to the list of refusals",
                _ => "there is no annotation that would allow just this",
            });
        };
        if line.contains(|c: char| c.is_control() && c != '\n') {
            return self.complain("the annotation has control characters in it, and is not copied");
        }
        let text = format!("{line}\n\n{}", rows::ABOUT_COPIES);
        self.show("Annotation".to_owned(), text);
        Action::Copy(line)
    }

    fn complain(&mut self, words: &str) -> Action {
        self.note = Some(Err(words.to_owned()));
        Action::Nothing
    }

    fn key_in_filter(&mut self, key: Key) -> Action {
        let Mode::Filter(before) = &self.mode else { return Action::Nothing };
        match key {
            Key::Enter => self.mode = Mode::Lists,
            Key::Escape => {
                self.filter.clone_from(before);
                self.mode = Mode::Lists;
            }
            Key::Backspace if self.filter.pop().is_none() => self.mode = Mode::Lists,
            Key::Erase => self.filter.clear(),
            Key::Char(c) => {
                self.filter.push(c);
                // If what was selected does not match, the first one that does is.
                (self.units.cursor, self.refusals.cursor) = (0, 0);
            }
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::End => {
                if let Some(to) = moved(key) {
                    self.go(to);
                }
            }
            _ => {}
        }
        Action::Nothing
    }

    fn key_in_question(&mut self, key: Key) -> Action {
        let Mode::Question(_, action) = &self.mode else { return Action::Nothing };
        match key {
            Key::Char('y' | 'Y') => {
                let action = action.clone();
                self.mode = Mode::Lists;
                self.note = Some(Ok("the daemon is asked ...".to_owned()));
                action
            }
            Key::Char('n' | 'N' | 'q') | Key::Escape | Key::Enter => {
                self.mode = Mode::Lists;
                Action::Nothing
            }
            _ => Action::Nothing,
        }
    }

    fn key_in_text(&mut self, key: Key) -> Action {
        let page = usize::from(self.size.1).saturating_sub(3).max(1);
        let Mode::Text(text) = &mut self.mode else { return Action::Nothing };
        let key = if key == Key::Char(' ') { Key::PageDown } else { key };
        match moved(key) {
            Some(Move::By(lines)) => text.top = text.top.saturating_add_signed(lines),
            Some(Move::Pages(pages)) if pages > 0 => text.top = text.top.saturating_add(page),
            Some(Move::Pages(_)) => text.top = text.top.saturating_sub(page),
            Some(Move::First) => text.top = 0,
            Some(Move::Last) => text.top = usize::MAX,
            None if matches!(key, Key::Char('q') | Key::Escape | Key::Enter) => self.mode = Mode::Lists,
            None => {}
        }
        Action::Nothing
    }
}

/// What is shown at the bottom, over the lists: a question, or what became of what was asked for.
pub(super) fn words_at_bottom(state: &State) -> Option<(String, bool)> {
    match (&state.mode, &state.note) {
        (Mode::Question(question, _), _) => Some((format!("{question} [y/N]"), false)),
        (_, Some(Ok(words))) => Some((printable(words), false)),
        (_, Some(Err(words))) => Some((printable(words), true)),
        (_, None) => None,
    }
}

/// Where a key goes in any list or text.
fn moved(key: Key) -> Option<Move> {
    Some(match key {
        Key::Up | Key::Char('k') => Move::By(-1),
        Key::Down | Key::Char('j') => Move::By(1),
        Key::PageUp => Move::Pages(-1),
        Key::PageDown => Move::Pages(1),
        Key::Home | Key::Char('g') => Move::First,
        Key::End | Key::Char('G') => Move::Last,
        _ => return None,
    })
}

fn turned(order: Ordering, is_reversed: bool) -> Ordering {
    if is_reversed { order.reverse() } else { order }
}

pub(super) fn key_of(refusal: &Refusal) -> RefusalKey {
    let Refusal { cgroup_id, direction, protocol, address, port, icmp_type, chain, .. } = refusal;
    (*cgroup_id, *direction, protocol.clone(), *address, *port, *icmp_type, chain.clone())
}

/// The arguments that have `scnpm explain` say why, without sending a packet.
fn explaining(refusal: &Refusal) -> Option<Vec<String>> {
    let unit = refusal.selector.clone()?;
    let mut arguments = Vec::new();
    if let (Some(port), "tcp" | "udp", Direction::Out) =
        (refusal.port, refusal.protocol.as_str(), refusal.direction)
    {
        let to = SocketAddr::new(refusal.address, port).to_string();
        arguments.extend(["--to".to_owned(), to, "--no-probe".to_owned()]);
        arguments.extend(["--proto".to_owned(), refusal.protocol.clone()]);
    }
    arguments.extend(["--".to_owned(), unit]);
    Some(arguments)
}

/// What to ask the daemon for, and the person before that.
fn allowing(refusal: &Refusal) -> Option<(String, Allow)> {
    let unit = refusal.selector.clone()?;
    let allow = Allow {
        unit,
        address: refusal.address.to_string(),
        protocol: Some(refusal.protocol.clone()),
        port: refusal.port,
        direction: Some(refusal.direction),
        for_ms: ALLOWED_FOR,
    };
    let way = match refusal.direction {
        Direction::Out => "to",
        Direction::In => "from",
    };
    let port = match (refusal.port, refusal.icmp_type) {
        (Some(port), _) => format!(" port {port}"),
        (None, Some(_)) => " of all types".to_owned(),
        (None, None) => String::new(),
    };
    let question = format!(
        "Let packets of {} pass {way} {}, {}{port}, for {}?",
        printable(&allow.unit),
        refusal.address,
        printable(&refusal.protocol),
        plural(ALLOWED_FOR / 60_000, "minute"),
    );
    Some((question, allow))
}

/// The names of cgroups' users that a status asks for.
pub(super) fn user_names(status: &Status) -> BTreeSet<String> {
    whose::user_names(&status.units)
}

#[cfg(test)]
mod tests;
