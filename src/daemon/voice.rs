//! What the daemon says: diagnostics once, its state to systemd, and little else.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use serde_json::Value;

use crate::{
    engine::Figures,
    lint::{self, Facts, Ruleset},
    log, machine,
    policy::{Policy, hosts::HostName},
    text::Diagnostic,
};

/// How long the state may differ from what systemd was told: systemd has better to do while units start.
const STATUS_PAUSE: Duration = Duration::from_secs(5);

/// What was said, so that it is not said again.
#[derive(Debug, Default)]
pub(super) struct Voice {
    refused: Vec<Diagnostic>,
    unresolved: Vec<Diagnostic>,
    told: Figures,
    status_due: Option<Instant>,
}

impl Voice {
    /// Says what is wrong in the files; what nft refuses in them is new then too.
    pub(super) fn diagnostics_of_files(&mut self, policy: &Policy) {
        self.refused.clear();
        self.unresolved.clear();
        say(&policy.diagnostics, policy);
    }

    /// Says that there is nothing to do.
    pub(super) fn nothing_to_do(&self, files: &[String]) {
        tracing::warn!("no annotation in {}: nothing to do until a reload", files.join(", "));
    }

    /// Says what nft refuses and did not refuse before.
    pub(super) fn refused(&mut self, diagnostics: &[Diagnostic], policy: &Policy) {
        say_new(diagnostics, &mut self.refused, policy);
        self.refused.retain(|diagnostic| diagnostics.contains(diagnostic));
    }

    /// The same after somebody else changed the ruleset. What is missing then often comes back in a moment.
    pub(super) fn refused_for_now(&mut self, diagnostics: &[Diagnostic], policy: &Policy) {
        let new = diagnostics.iter().filter(|diagnostic| !self.refused.contains(diagnostic)).cloned();
        let (missing, wrong): (Vec<Diagnostic>, Vec<Diagnostic>) =
            new.partition(|diagnostic| diagnostic.message.contains("No such file or directory"));
        if !missing.is_empty() {
            tracing::info!("{} annotations wait for their tables to come back", missing.len());
        }
        missing.iter().for_each(|diagnostic| tracing::debug!("{}", diagnostic.short(&policy.sources)));
        say_new(&wrong, &mut self.refused, policy);
    }

    /// Says which annotations wait for a host name.
    pub(super) fn unresolved(&mut self, host: &HostName, why: &str, policy: &Policy) {
        let diagnostics = policy.unresolved(|name| {
            (name == host).then(|| {
                format!("the host name `{}` cannot be resolved, will be tried again: {why}", host.name)
            })
        });
        say_new(&diagnostics, &mut self.unresolved, policy);
    }

    /// Says which annotations name a user whom nobody knows.
    pub(super) fn unknown_user(&mut self, name: &str, message: &str, policy: &Policy) {
        let diagnostics = policy.unknown_users(|unknown| (unknown == name).then(|| message.to_owned()));
        say_new(&diagnostics, &mut self.unresolved, policy);
    }

    /// Tells systemd that the policy is in force.
    pub(super) fn ready(&mut self, policy: &Policy, figures: &Figures) {
        let status = status(policy, figures);
        self.told = figures.clone();
        self.status_due = None;
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        tracing::info!("{status}");
    }

    /// Tells systemd how things stand, soon after they changed.
    pub(super) fn status(&mut self, policy: &Policy, figures: &Figures) {
        if *figures == self.told {
            self.status_due = None;
            return;
        }
        let due = *self.status_due.get_or_insert_with(|| Instant::now() + STATUS_PAUSE);
        if due <= Instant::now() {
            notify(&[NotifyState::Status(&status(policy, figures))]);
            self.told = figures.clone();
            self.status_due = None;
        }
    }

    /// How long until [`Self::status`] has something to tell.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.status_due.map(|due| due.saturating_duration_since(Instant::now()))
    }
}

/// Says what nft takes and what will not do what its author thinks. To look at the machine's units takes a while, in
/// which services start, so it is done beside the loop.
pub(super) fn lint(policy: Arc<Policy>, ruleset: Value) {
    let work = move || {
        let units = machine::units(Path::new("/"), &policy.units());
        let ruleset = Ruleset::of(&ruleset);
        let facts = Facts { units: Some(&units), ruleset: Some(&ruleset) };
        say(&lint::lint(&policy, facts), &policy);
    };
    if let Err(error) = thread::Builder::new().name("lint".to_owned()).spawn(work) {
        tracing::debug!("the policy is not looked at closely: {error}");
    }
}

/// Says what comments do not allow.
fn say(diagnostics: &[Diagnostic], policy: &Policy) {
    diagnostics
        .iter()
        .filter(|diagnostic| !policy.allows(diagnostic))
        .for_each(|diagnostic| log::diagnostic(diagnostic, policy));
}

/// Says what a source could not do.
pub(super) fn notices(notices: &[String]) {
    notices.iter().for_each(|notice| tracing::warn!("{notice}"));
}

fn say_new(diagnostics: &[Diagnostic], said: &mut Vec<Diagnostic>, policy: &Policy) {
    for diagnostic in diagnostics {
        if !said.contains(diagnostic) && !policy.allows(diagnostic) {
            log::diagnostic(diagnostic, policy);
            said.push(diagnostic.clone());
        }
    }
}

fn status(policy: &Policy, figures: &Figures) -> String {
    let first: Vec<String> =
        figures.first.iter().map(|(source, number)| format!("{source} {number}")).collect();
    let heard =
        if first.is_empty() { String::new() } else { format!("; heard first from {}", first.join(", ")) };
    let annotations = match policy.annotations.len() {
        1 => "1 annotation".to_owned(),
        number => format!("{number} annotations"),
    };
    format!("{annotations}, {} of {} elements in the kernel{heard}", figures.held, figures.elements)
}

/// When a reload begins, as systemd wants to know it (sd_notify(3), `MONOTONIC_USEC=`).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// Tells systemd, if it wants to be told.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd cannot be notified: {error}");
    }
}
