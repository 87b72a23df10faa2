//! What the daemon says: findings once, its state to systemd, and little else.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use litemap::LiteMap;
use sd_notify::NotifyState;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::{control::Answered, process, status};
use crate::{
    control::message,
    engine::Figures,
    findings::{self, Known, Refusal},
    gather::Gather,
    lint::{Facts, Ruleset},
    load::LoadError,
    log, machine,
    model::AnnotationId,
    policy::{Policy, hosts::HostName},
    text::{Diagnostic, Severity},
};

/// How long the state may differ from what systemd was told: systemd has better to do while units start.
const STATUS_PAUSE: Duration = Duration::from_secs(5);

/// Who changes the ruleset again after this time is named again.
const CHANGER_PAUSE: Duration = Duration::from_secs(600);

/// How many findings are kept for those who ask.
const KEPT: usize = 50;

/// What was said, so that it is not said again.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// What was said of the files since they were read.
    findings: Said,
    /// The same of the files of which the policy in force is.
    in_force: Said,
    /// What nft refused of them when they were loaded.
    refused: BTreeSet<AnnotationId>,
    /// Host names that have no address, and why.
    unresolved: BTreeMap<HostName, String>,
    /// Users whom nobody knows, and what to say of it.
    unknown: LiteMap<String, String>,
    /// Who has changed the ruleset, and when last.
    changers: BTreeMap<String, Instant>,
    /// Whether it was said that somebody undoes load after load.
    fight_is_told: bool,
    status: Figures,
    status_due: Option<Instant>,
}

impl Notices {
    /// Says what is wrong in the text of files that were just read. What is found in them later is new, too.
    pub(super) fn files_read(&mut self, policy: &Policy) {
        self.findings = Said::default();
        self.unresolved.clear();
        self.unknown.clear();
        self.findings.keep(&findings::merged(policy, policy.diagnostics.clone()), policy);
    }

    /// How many errors and warnings were found in the files of the policy in force, and the first of them.
    pub(super) fn found(&self) -> (usize, usize, Vec<message::Finding>) {
        let said = self.in_force.said();
        (said.errors, said.warnings, said.first.clone())
    }

    /// Why a host name has no addresses.
    pub(super) fn why_unresolved(&self, host: &HostName) -> Option<String> {
        self.unresolved.get(host).cloned()
    }

    /// Says all that is found in a policy that was just read and loaded: what nft refuses, and what it accepts but will not
    /// do what was meant. To look at the machine's units takes a while, in which services start, so it is done
    /// beside the loop.
    pub(super) fn policy_loaded(
        &mut self,
        policy: &Arc<Policy>,
        refusals: &[Refusal],
        ruleset: Value,
        report: Option<UnboundedSender<Answered>>,
    ) {
        self.in_force = self.findings.clone();
        self.refused = refusals.iter().map(|refusal| refusal.annotation).gather();
        let refused: Vec<Diagnostic> = refusals.iter().map(|refusal| refusal.diagnostic(policy)).collect();
        let (said, unresolved, unknown) =
            (self.findings.clone(), self.unresolved.clone(), self.unknown.clone());
        let work = {
            let (policy, refused) = (Arc::clone(policy), refused.clone());
            move || {
                let units = machine::units(Path::new("/"), &policy.units());
                let ruleset = Ruleset::of(&ruleset);
                let known = Known {
                    refused: &refused,
                    facts: Facts { units: Some(&units), ruleset: Some(&ruleset), routing: None },
                    unknown: &unknown,
                    unresolved: &unresolved,
                };
                let found = findings::all(&policy, &known);
                said.keep(&found, &policy);
                if let Some(report) = report {
                    let _ = report.send(Answered::Findings(Arc::clone(&policy), found));
                }
                drop((units, ruleset));
                process::trim();
            }
        };
        if let Err(error) = thread::Builder::new().name("lint".to_owned()).spawn(work) {
            tracing::debug!("the policy is not looked at closely: {error}");
            self.findings.keep(&findings::merged(policy, refused), policy);
        }
    }

    /// Says what nft refuses when the same policy is loaded again, since somebody else changed the ruleset or a host name
    /// has an address. What is missing then often comes back in a moment.
    pub(super) fn policy_reapplied(&self, policy: &Policy, refusals: &[Refusal]) {
        let (mut missing, wrong): (Vec<&Refusal>, Vec<&Refusal>) =
            refusals.iter().partition(|refusal| refusal.kind.is_missing());
        missing.retain(|refusal| !self.refused.contains(&refusal.annotation));
        if !missing.is_empty() {
            tracing::info!("{} annotations wait for their tables to come back", missing.len());
        }
        // They may be many, and somebody may be about to load the tables.
        if tracing::enabled!(tracing::Level::DEBUG) {
            let short = |refusal: &Refusal| refusal.diagnostic(policy).short(&policy.sources);
            missing.iter().for_each(|refusal| tracing::debug!("{}", short(refusal)));
        }
        let wrong = wrong.into_iter().map(|refusal| refusal.diagnostic(policy)).collect();
        self.findings.say(&findings::merged(policy, wrong), policy);
    }

    /// Says who changed the ruleset that the policy is in: each once, unless it was quiet for long. `is_fight`: whether
    /// somebody undoes load after load.
    pub(super) fn ruleset_changed(&mut self, by: Option<(String, u32)>, is_fight: bool) {
        let (name, whole) = match by {
            Some((name, thread)) => (name.clone(), format!("{name} (process {thread})")),
            None => ("somebody".to_owned(), "somebody".to_owned()),
        };
        if is_fight && !std::mem::replace(&mut self.fight_is_told, true) {
            tracing::error!(
                "{whole} undoes what is loaded, again and again: the policy is loaded again only now and then; \
                 is another scnpm running here?"
            );
        }
        self.fight_is_told &= is_fight;
        let last = self.changers.insert(name, Instant::now());
        if last.is_none_or(|last| last.elapsed() > CHANGER_PAUSE) {
            tracing::info!("{whole} changed the ruleset that the policy is in: it is loaded again");
        }
    }

    /// Says which annotations wait for a host name.
    pub(super) fn unresolved(&mut self, host: HostName, why: String, policy: &Policy) {
        let failed = BTreeMap::from([(host, why)]);
        self.findings.say(&findings::merged(policy, findings::unresolved(policy, &failed)), policy);
        self.unresolved.extend(failed);
    }

    /// Says which annotations are for a user whom nobody knows.
    pub(super) fn unknown_user(&mut self, name: String, message: String, policy: &Policy) {
        let unknown = [(name, message)].into_iter().gather();
        self.findings.say(&findings::merged(policy, findings::unknown_users(policy, &unknown)), policy);
        self.unknown.extend(unknown);
    }

    /// Tells systemd that the policy is in force.
    pub(super) fn ready(&mut self, policy: &Policy, figures: &Figures) {
        let status = summary(policy, figures);
        self.status = figures.clone();
        self.status_due = None;
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        tracing::info!("{status}");
    }

    /// Tells systemd how things stand, soon after they changed.
    pub(super) fn status(&mut self, policy: &Policy, figures: &Figures) {
        if *figures == self.status {
            self.status_due = None;
            return;
        }
        let due = *self.status_due.get_or_insert_with(|| Instant::now() + STATUS_PAUSE);
        if due <= Instant::now() {
            notify(&[NotifyState::Status(&summary(policy, figures))]);
            self.status = figures.clone();
            self.status_due = None;
        }
    }

    /// How long until [`Self::status`] has something to tell.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.status_due.map(|due| due.saturating_duration_since(Instant::now()))
    }
}

/// What was said of the files, on whichever thread. Clones are the same one.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<Findings>>);

/// Findings: which there were, as hashes, and of those in the files how many, and the first.
#[derive(Debug, Default)]
struct Findings {
    said: BTreeSet<u64>,
    errors: usize,
    warnings: usize,
    first: Vec<message::Finding>,
}

impl Said {
    /// Says what is found in the files, and keeps it for those who ask.
    fn keep(&self, diagnostics: &[Diagnostic], policy: &Policy) {
        self.say(diagnostics, policy);
        let count = |severity| diagnostics.iter().filter(|one| one.severity() == severity).count();
        let mut findings = self.said();
        (findings.errors, findings.warnings) = (count(Severity::Error), count(Severity::Warning));
        findings.first = diagnostics.iter().take(KEPT).map(|one| status::finding(one, policy)).collect();
    }

    fn say(&self, diagnostics: &[Diagnostic], policy: &Policy) {
        for diagnostic in diagnostics {
            if self.is_new(diagnostic) {
                log::diagnostic(diagnostic, policy);
            }
        }
    }

    /// Whether nobody asked this of such a finding before.
    fn is_new(&self, diagnostic: &Diagnostic) -> bool {
        self.said().said.insert(finding(diagnostic))
    }

    fn said(&self) -> MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes a finding the same as an earlier one, as a hash, since there may be one for each of very many annotations.
/// Its help may be another one.
fn finding(diagnostic: &Diagnostic) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((
        diagnostic.span,
        diagnostic.code,
        &diagnostic.message,
    ))
}

fn summary(policy: &Policy, figures: &Figures) -> String {
    let first: Vec<String> =
        figures.first.iter().map(|(source, number)| format!("{source} {number}")).collect();
    let heard =
        if first.is_empty() { String::new() } else { format!("; heard first from {}", first.join(", ")) };
    let annotations = match policy.of_units().count() {
        1 => "1 annotation".to_owned(),
        number => format!("{number} annotations"),
    };
    format!("{annotations}, {} of {} elements in the kernel{heard}", figures.held, figures.elements)
}

/// Says that a load failed; one that failed before, and will be tried again, not once more.
pub(super) fn load_failed(error: &LoadError, again: bool) {
    let words = &error.words;
    match error.passing {
        true if again => {}
        true => tracing::warn!("the policy cannot be loaded for now, it will be tried again: {words}"),
        false => tracing::error!("the old policy stays: nft refuses the policy: {words}"),
    }
}

/// When a reload begins, as systemd wants to know it (sd_notify(3), `MONOTONIC_USEC=`).
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now().ok();
    notify(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
}

/// Tells systemd, if it wants to be told.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd cannot be notified: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Code, FileId, Span};

    #[test]
    fn a_finding_is_new_once_whatever_its_help() {
        let said = Said::default();
        let on_another_thread = said.clone();
        let at = |start| Span { file: FileId(0), start, end: start + 1 };
        let finding = Diagnostic::new(Code::Hook, at(0), "nft refuses this annotation");
        assert!(said.is_new(&finding));
        assert!(!on_another_thread.is_new(&finding));
        assert!(!said.is_new(&finding.clone().help("another hook")));
        assert!(said.is_new(&Diagnostic { span: at(5), ..finding.clone() }));
        assert!(said.is_new(&Diagnostic { message: "other words".to_owned(), ..finding.clone() }));
        assert!(said.is_new(&Diagnostic { code: Code::Refused, ..finding.clone() }));
        assert!(Said::default().is_new(&finding), "files that were read again are another matter");
    }
}
