//! Files to a policy in force: reads them again, loads what they say, and points the sources at what it needs.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::sleep;

use super::{Daemon, active, notices, process, sources::Sources};
use crate::{
    cgroupfs::{self, Glance, look},
    commands::Failure,
    dispatch::{self, Script, is_identifier},
    engine::{Event, PolicyLoaded},
    findings,
    gather::Gather,
    load::{self, Again, Load, LoadError, Loaded},
    model::{CGROUP_ROOT, Instance, Source, UnitState},
    nft::{Interest, Kernel, Surroundings},
    policy::Policy,
    text::diagnostic::Severity,
    units::selector::Users,
};

/// How long after a load memory that is not in use is kept.
const CALM: Duration = Duration::from_secs(1);

/// For how long the first load is tried again when it failed for a reason that will pass, and with which pauses. A start that
/// fails is tried again by systemd only a second later.
const FIRST_LOAD: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

impl Daemon {
    /// Has the files loaded again if they say something else.
    pub(super) fn files_changed(&mut self, sources: &mut Sources) {
        let changed = self.files.have_changed();
        self.files.watch(&mut sources.files);
        match changed {
            Ok(true) => {
                self.is_strict = true;
                self.tell(Event::ReloadRequested);
            }
            Ok(false) => {}
            Err(Failure { message, .. }) => tracing::error!("the old policy stays: {message}"),
        }
    }

    pub(super) fn reload(&mut self, sources: &mut Sources, reread: bool, flush: bool) {
        notices::reloading();
        let mut is_passing = false;
        let policy = if reread { self.reread(sources) } else { Ok(Some(Arc::clone(&self.plain))) };
        match policy {
            Ok(None) => return self.tell(Event::FilesUnsettled),
            Ok(Some(policy)) => {
                is_passing = self.load_or_stay(sources, &policy, flush, reread);
                if reread {
                    sources.ask_anew();
                }
            }
            Err(Failure { message, .. }) => {
                tracing::error!("the old policy stays: {message}");
                self.load_error = Some(message);
            }
        }
        self.is_strict &= !reread || is_passing;
        self.say_ready();
    }

    /// Reads the files again. None if they may be half written; a failure if they are not to be loaded.
    fn reread(&mut self, sources: &mut Sources) -> Result<Option<Arc<Policy>>, Failure> {
        let policy = self.files.read();
        self.files.watch(&mut sources.files);
        let policy = match policy {
            Ok(Some(policy)) => policy,
            Ok(None) => return Ok(None),
            Err(failure) => {
                self.files_are_not_loaded(sources, None, &[], &failure.message, None);
                return Err(failure);
            }
        };
        self.notices.files_read(&policy);
        let errors = policy.diagnostics.iter().filter(|one| one.severity() == Severity::Error).count();
        if self.is_strict && errors > 0 {
            let failure = Failure::new(format!("the changed files have errors ({errors})"));
            let found = findings::merged(&policy, policy.diagnostics.clone());
            self.files_are_not_loaded(sources, Some(&policy), &found, &failure.message, None);
            return Err(failure);
        }
        Ok(Some(policy.into()))
    }

    /// Whether it failed for a reason that will pass, so that it is tried again.
    fn load_or_stay(
        &mut self,
        sources: &mut Sources,
        policy: &Arc<Policy>,
        flush: bool,
        reread: bool,
    ) -> bool {
        let before = Arc::clone(&self.plain);
        if reread {
            // Those who asked for it want to know what is found.
            self.control.loads();
        }
        let Err(error) = self.load(sources, Arc::clone(policy), flush, reread) else {
            if reread {
                self.is_loaded(&before);
            }
            return false;
        };
        notices::load_failed(&error, self.engine.load_has_failed());
        self.load_error = Some(error.words.clone());
        if reread {
            let refused = error.refusals.iter().map(|refusal| refusal.diagnostic(policy)).collect();
            let found = findings::merged(policy, refused);
            let again = error.passing.then(|| self.now());
            self.files_are_not_loaded(sources, Some(policy), &found, &error.words, again);
        }
        self.tell(Event::LoadFailed { passing: error.passing });
        error.passing
    }

    /// The first load. It may be at the same time as somebody else's: as a rule that of a daemon that stands in for this one
    /// during an upgrade.
    pub(super) async fn load_first(
        &mut self,
        sources: &mut Sources,
        policy: Arc<Policy>,
    ) -> Result<(), LoadError> {
        let since = Instant::now();
        loop {
            match self.load(sources, Arc::clone(&policy), self.options.flush, true) {
                Err(error) if error.passing && since.elapsed() < FIRST_LOAD => {
                    tracing::debug!("the policy cannot be loaded for now: {}", error.words);
                    sleep(PAUSE).await;
                }
                loaded => return loaded,
            }
        }
    }

    /// Loads a policy and makes it the one that is kept true. What nft refuses of one that was just read is wrong in the
    /// files; later it is what happens while somebody else changes the ruleset.
    pub(super) fn load(
        &mut self,
        sources: &mut Sources,
        policy: Arc<Policy>,
        flush: bool,
        is_just_read: bool,
    ) -> Result<(), LoadError> {
        let plain = policy;
        let policy = self.allowances.put_into(&plain);
        let users = self.users.clone();
        // Until the kernel has taken the policy, the sources follow the old one.
        let found = sources.subtrees.instances_of(&policy.followed(), &users);
        let instances: Vec<Instance> = found.into_iter().map(|(instance, _)| instance).collect();
        let (engine, states) = (&self.engine, &self.states);
        let load = Load {
            policy: &policy,
            hosts: self.hosts.known(),
            flush,
            is_repair: !is_just_read,
            is_strict: self.is_strict && is_just_read,
            look: &look,
            alive: &cgroupfs::alive,
            state: &|unit| engine.state(unit).or_else(|| states.get(unit).copied()),
            instances: &instances,
            users: &users,
        };
        // What others did so far, the load puts right.
        self.renamed.extend(sources.monitor.drain(&self.interest).unwrap_or_default().renamed);
        let before = self.kernel.generations_of_others();
        sources.monitor.record();
        let is_same_policy = !is_just_read && Arc::ptr_eq(&policy, &self.policy);
        let again = self.again.as_ref().filter(|_| is_same_policy);
        let glance = Glance::new(Path::new(CGROUP_ROOT));
        let at_a_glance = Load { look: &|path| glance.look(path), ..load };
        let repeated = again.and_then(|again| at_a_glance.repeat(&mut self.kernel, again));
        if repeated.is_some() {
            tracing::debug!("the policy is in the kernel again as it was, without nft");
        }
        let loaded = repeated.map_or_else(|| load.run(&mut self.kernel), Ok);
        if is_just_read {
            // Before what stays is put where this was.
            self.give_back();
        }
        // Of a policy that was replaced, once it is gone; and after a repair, unless there is another one.
        self.calm = Some(self.now() + CALM);
        let mut loaded = loaded.inspect_err(|_| drop(sources.monitor.recorded()))?;
        self.states.clear();
        self.load_error = None;
        self.refused = loaded.refusals.iter().map(|one| (one.annotation, one.words.clone())).gather();
        if is_just_read {
            self.loaded_at = SystemTime::now();
            self.records_are_loaded(sources, &policy, Some(&loaded.ruleset));
            let report = self.control.wants_findings().then(|| sources.answers.0.clone());
            self.notices.policy_loaded(&policy, &loaded.refusals, loaded.ruleset.take(), report);
        } else {
            self.records_are_loaded(sources, &policy, None);
            self.notices.policy_reapplied(&policy, &loaded.refusals);
        }
        self.fills.policy_loaded(&policy);
        self.hosts.policy_loaded(std::mem::take(&mut loaded.hosts), &policy.host_names());
        sources.ask_for(&policy);
        self.plain = plain;
        self.policy = policy;
        let (chains, sets) = dispatch::hosting(&self.policy);
        self.interest = Interest { chains, sets };
        self.delete_renamed();
        let mut change = sources.monitor.drain(&self.interest).unwrap_or_default();
        let (recording, surroundings) = (sources.monitor.recorded(), self.surroundings(&loaded));
        let is_undisturbed = before.is_some() && before == self.kernel.generations_of_others();
        // A large load of our own is more than can wait to be read.
        change.overflow &= !is_undisturbed;
        let is_other = loaded.is_repeated
            && !self.again.as_ref().zip(recording.as_ref()).is_some_and(|(again, it)| again.is_same(it));
        if is_other || !is_same_policy {
            self.again = None;
        }
        if let (true, Some(recording), Some(surroundings)) = (is_undisturbed, recording, surroundings) {
            let made = Again::of(&self.policy, (&instances, &users), &loaded, recording, surroundings);
            self.again = made.or(self.again.take());
        }
        if self.policy.annotations.is_empty() && self.policy.fills.is_empty() {
            let files: Vec<String> =
                self.options.files.iter().map(|path| path.display().to_string()).collect();
            tracing::warn!("no annotation in {}: nothing to do until a reload", files.join(", "));
        }
        self.tell(Event::PolicyLoaded(PolicyLoaded {
            rows: loaded.rows,
            patterns: loaded.patterns,
            users: users.clone(),
            instances: loaded.instances,
            installed: loaded.installed,
        }));
        self.others_changed(change);
        self.follow(sources, &users, &instances);
        if is_just_read {
            process::trim();
        }
        if loaded.unfinished || is_other {
            self.tell(Event::ReapplyRequested);
        }
        Ok(())
    }

    /// What a load was made in, if it may be made again.
    fn surroundings(&mut self, loaded: &Loaded) -> Option<Surroundings> {
        let is_to_be_kept =
            !loaded.is_repeated && loaded.refusals.is_empty() && load::is_repeatable(&self.policy);
        let tables = is_to_be_kept.then(|| load::tables(&self.policy))?;
        Some(self.kernel.surroundings(&tables).ok()?.1)
    }

    /// Points the sources at what the engine has to know now, and tells it what is there of that.
    fn follow(&mut self, sources: &mut Sources, users: &Users, instances: &[Instance]) {
        sources.subtrees.name_all(self.refusals.are_recorded());
        let drained = sources.subtrees.follow(&self.policy.followed(), users, instances);
        self.see_selected(drained);
        let paths = self.engine.paths();
        if let Some(cgroups) = &mut sources.cgroups {
            self.see_named(cgroups.follow(paths));
        }
        sources.dbus_units.send_replace(self.engine.units());
        // Nobody tells of units whose state matters while there is no D-Bus.
        for unit in active(&self.engine.units_with_state()) {
            let (state, source) = (UnitState::Active, Source::Cgroup);
            self.tell(Event::UnitStateSeen { unit, state, source });
        }
    }

    /// Takes away chains of ours that others have renamed, as far as nobody uses them.
    pub(super) fn delete_renamed(&mut self) {
        for chain in std::mem::take(&mut self.renamed) {
            if is_identifier(&chain.name) {
                let script = Script::of([&*format!("flush chain {chain}"), &format!("delete chain {chain}")]);
                let _ = self.kernel.run(&script, false);
            }
        }
    }

    /// Gives back the memory that a load took.
    pub(super) fn give_back(&mut self) {
        self.calm = None;
        self.kernel.release_memory();
        process::trim();
    }

    pub(super) fn say_ready(&mut self) {
        self.notices.ready(&self.policy, &self.engine.figures());
    }
}
