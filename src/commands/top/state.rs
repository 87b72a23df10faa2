//! What the view knows, and what becomes of it with each event. Pure: an event comes in, an action goes out.
//!
//! [`keys`] has the keys, and what they change.

mod keys;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    pane::Pane,
    rows::{self, Heights, RefusalColumn, UnitColumn, UnitRow},
    words::wrapped,
};
use crate::{
    commands::whose::{self, Whose},
    control::message::{Allow, Allowance, Refusal, Status},
    gather::{Gather, sort_by, sort_by_key},
    model::{CgroupPath, Direction, printable},
    units::selector::Users,
};

pub(super) use keys::Key;

/// Rates are of no shorter times than this, in ms.
const SHORTEST: u64 = 500;

/// More refusals are not kept: the oldest go.
const MOST_REFUSALS: usize = 20_000;

/// The smallest screen that all of it has room on: columns and lines.
pub(super) const SMALLEST: (u16, u16) = (60, 14);

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

fn turned(order: Ordering, is_reversed: bool) -> Ordering {
    if is_reversed { order.reverse() } else { order }
}

pub(super) fn key_of(refusal: &Refusal) -> RefusalKey {
    let Refusal { cgroup_id, direction, protocol, address, port, icmp_type, chain, .. } = refusal;
    (*cgroup_id, *direction, protocol.clone(), *address, *port, *icmp_type, chain.clone())
}

/// The names of cgroups' users that a status asks for.
pub(super) fn user_names(status: &Status) -> BTreeSet<String> {
    whose::user_names(&status.units)
}

#[cfg(test)]
mod tests;
