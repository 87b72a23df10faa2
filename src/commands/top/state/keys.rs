//! Keys, and what they change: in the lists, while a filter is typed, at a question, and in a text. Pure.

use std::net::SocketAddr;

use super::{Action, Focus, Mode, SMALLEST, State, key_of};
use crate::{
    commands::top::{
        pane::Move,
        rows::{self, RefusalColumn, UnitColumn},
    },
    control::message::{Allow, Refusal},
    model::{Direction, printable},
    report::status::plural,
};

/// For how long is allowed what is allowed here, in ms.
const ALLOWED_FOR: u64 = 5 * 60 * 1000;

/// A key, whatever the terminal sends for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::top) enum Key {
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

impl State {
    /// Takes a key, and says what is to be done.
    pub(super) fn key(&mut self, key: Key) -> Action {
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

#[cfg(test)]
mod tests;
