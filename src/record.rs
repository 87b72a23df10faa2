//! STATE LOG. What the engine was told and what it decided, a line each: readable in front of ` :: `, exact behind it. And
//! the same once more from such a log, by the engine of today.
//!
//! The first line of a file is a snapshot, so that a replay can begin with any of them. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Action, Engine, Event, Snapshot},
    model::{CgroupId, CgroupPath, Outcome, SetRef},
};

/// What stands between what is for people and what is for programs.
pub const SEPARATOR: &str = " :: ";

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the engine's clock.
    pub at: Duration,
    /// What.
    pub step: Step,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// All that the engine knew.
    Snapshot(Box<Snapshot>),
    /// What it was told.
    Event(Event),
    /// What it decided.
    Actions(Vec<Action>),
}

impl Entry {
    /// The line, with the time as people read it in front.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn line(&self, time: &str) -> serde_json::Result<String> {
        Ok(format!("{time} {}{SEPARATOR}{}", self.words(), serde_json::to_string(self)?))
    }

    /// An entry from its line.
    ///
    /// # Errors
    /// It is no such line, or was cut short.
    pub fn parse(line: &str) -> serde_json::Result<Self> {
        serde_json::from_str(line.split_once(SEPARATOR).map_or(line, |(_, exact)| exact))
    }

    /// Whom it is about, and what changed.
    pub fn words(&self) -> String {
        match &self.step {
            Step::Snapshot(snapshot) => format!("- snapshot: {} elements", snapshot.rows.len()),
            Step::Event(event) => words_of(event),
            Step::Actions(actions) if actions.is_empty() => "- nothing to do".to_owned(),
            Step::Actions(actions) => actions.iter().map(of_action).collect::<Vec<_>>().join("; "),
        }
    }
}

fn words_of(event: &Event) -> String {
    match event {
        Event::PolicyLoaded(loaded) => format!(
            "- the policy is loaded: {} elements known ahead, {} patterns, {} elements in the kernel",
            loaded.rows.len(),
            loaded.patterns.len(),
            loaded.installed.len()
        ),
        Event::LoadFailed { passing: true } => "- the load failed for now".to_owned(),
        Event::LoadFailed { passing: false } => "- the load was refused".to_owned(),
        Event::FilesUnsettled => "- the files may be half written".to_owned(),
        Event::InstanceSeen { instance, id } => cgroup(&instance.path, *id),
        Event::CgroupSeen { path, id, .. } => cgroup(path, *id),
        Event::LookFailed { path } => format!("{} cannot be looked at", safe(path.as_str())),
        Event::UnitChanged { unit, source } => format!("{} changed, says {source}", safe(&unit.0)),
        Event::UnitJobDone { unit, source } => format!("{} has a job done, says {source}", safe(&unit.0)),
        Event::UnitStateSeen { unit, state, source } => {
            format!("{} is {state:?}, says {source}", safe(&unit.0)).to_lowercase()
        }
        Event::SourceResumed { source } => format!("- {source} is there"),
        Event::SourceLost { source } => format!("- {source} is gone"),
        Event::Committed { outcomes } => {
            let words =
                outcomes.iter().map(|(row, outcome)| format!("element {} {}", row.0, of_outcome(*outcome)));
            format!("- {}", words.collect::<Vec<_>>().join(", "))
        }
        Event::RulesetChanged { thread } => {
            let thread = thread.map_or("?".to_owned(), |id| id.to_string());
            format!("- the ruleset was changed by process {thread}")
        }
        Event::ReloadRequested => "- a reload of the files is asked for".to_owned(),
        Event::ReapplyRequested => "- a load is asked for".to_owned(),
    }
}

fn cgroup(path: &CgroupPath, id: Option<CgroupId>) -> String {
    match id {
        Some(id) => format!("{} has cgroup {id}", safe(path.as_str())),
        None => format!("{} has no cgroup", safe(path.as_str())),
    }
}

fn of_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Added(_) => "is added",
        Outcome::Deleted(_) => "is deleted",
        Outcome::Vanished => "is for a cgroup that vanished",
        Outcome::Refused => "is refused",
        Outcome::Failed => "has to wait",
    }
}

fn of_action(action: &Action) -> String {
    match action {
        Action::Commit(commit) => {
            let path = |add: &crate::engine::Add| match add.element.key.cgroup() {
                Some(path) => format!("add {} to {}", safe(path.as_str()), name_of(&add.element.set)),
                None => format!("open {}", name_of(&add.element.set)),
            };
            let added = commit.add.iter().map(path);
            let deleted = commit.delete.iter().map(|delete| match delete.id {
                Some(id) => format!("delete cgroup {id} from {}", name_of(&delete.set)),
                None => format!("close {}", name_of(&delete.set)),
            });
            added.chain(deleted).collect::<Vec<_>>().join(", ")
        }
        Action::LookAtCgroup(path) => format!("look at {}", safe(path.as_str())),
        Action::LookAtUnit(unit) => format!("ask for {}", safe(&unit.0)),
        Action::Reload { reread: true, .. } => "read the files and load".to_owned(),
        Action::Reload { reread: false, .. } => "load the policy again".to_owned(),
    }
}

fn name_of(set: &SetRef) -> String {
    format!("{} {} {}", set.table.family, safe(&set.table.name), safe(&set.name))
}

/// A name as one word without surprises.
fn safe(name: &str) -> String {
    name.escape_default().to_string().replace(' ', "\\x20")
}

/// The engine of today, which is told what a log says.
#[derive(Debug, Default)]
pub struct Replay {
    engine: Engine,
}

impl Replay {
    /// Takes a line, and says what today's engine decides otherwise than the log: none if it is the same. Looks decide
    /// nothing, and are not compared.
    pub fn step(&mut self, entry: &Entry) -> Option<Vec<Action>> {
        match &entry.step {
            Step::Snapshot(snapshot) => self.engine = Engine::from((**snapshot).clone()),
            Step::Event(event) => self.engine.handle(entry.at, event.clone()),
            Step::Actions(logged) => {
                let today = decisions(&self.engine.actions(entry.at));
                return (today != decisions(logged)).then_some(today);
            }
        }
        None
    }
}

fn decisions(actions: &[Action]) -> Vec<Action> {
    let is_look = |action: &&Action| matches!(action, Action::LookAtCgroup(_) | Action::LookAtUnit(_));
    actions.iter().filter(|action| !is_look(action)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Source, UnitName};

    #[test]
    fn hostile_names_stay_in_front_of_the_separator() {
        let unit = UnitName(" :: {\"at\"\n.service".into());
        let step = Step::Event(Event::UnitChanged { unit, source: Source::Journal });
        let entry = Entry { at: Duration::from_nanos(1_500_000_001), step };
        let line = entry.line("now").unwrap();
        assert!(line.starts_with(r#"now \x20::\x20{\"at\"\n.service changed, says journal :: {"#), "{line}");
        assert_eq!(Entry::parse(&line).unwrap(), entry);
        assert!(Entry::parse(&line[..line.len() - 3]).is_err());
    }

    #[test]
    fn replay_says_what_is_decided_otherwise() {
        let at = Duration::from_secs(1);
        let mut replay = Replay::default();
        let reload = vec![Action::Reload { reread: true, flush: true }];
        assert_eq!(replay.step(&Entry { at, step: Step::Event(Event::ReloadRequested) }), None);
        assert_eq!(replay.step(&Entry { at, step: Step::Actions(reload.clone()) }), None);
        assert_eq!(replay.step(&Entry { at, step: Step::Actions(reload) }), Some(vec![]));
    }
}
