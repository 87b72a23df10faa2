//! The policy's files: what they say once nobody is writing them, and where a change of them would be seen.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::settle::{Readings, Texts, Verdict, summary, texts};
use crate::{
    commands::Failure,
    engine::UNSETTLED,
    policy::{
        Policy,
        files::{Disk, Files},
        parse,
    },
    watch::files::{ConfigFiles, base_of},
};

/// The files of a policy, as they were read.
#[derive(Debug, Default)]
pub(super) struct PolicyFiles {
    paths: Vec<PathBuf>,
    /// What the last reading looked at, or for.
    looked_at: BTreeSet<PathBuf>,
    /// What the files said when they were last taken, and what was read since.
    texts: Texts,
    readings: Readings,
    /// What those said of which the policy in force is.
    in_force: Texts,
}

impl PolicyFiles {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// Waits until nobody is writing them.
    pub(super) async fn read_settled(&mut self) -> Result<Policy, Failure> {
        loop {
            match self.read()? {
                Some(policy) => return Ok(policy),
                None => tokio::time::sleep(UNSETTLED).await,
            }
        }
    }

    /// Reads them. None if they may be half written.
    pub(super) fn read(&mut self) -> Result<Option<Policy>, Failure> {
        let policy = self.parse()?;
        let now = texts(&policy);
        match self.readings.judge(&self.texts, now.clone(), age) {
            Verdict::Unsettled => Ok(None),
            Verdict::Emptied(file) => {
                Err(Failure::new(format!("{file} is empty now; if that is meant, write a comment into it")))
            }
            Verdict::Whole => {
                self.texts = now;
                Ok(Some(policy))
            }
        }
    }

    /// Whether they say something else than when they were last taken.
    pub(super) fn have_changed(&mut self) -> Result<bool, Failure> {
        Ok(texts(&self.parse()?) != self.texts)
    }

    /// Notes that the policy of what was taken last is in force. What the files said of the one before.
    pub(super) fn loaded(&mut self) -> Texts {
        std::mem::replace(&mut self.in_force, self.texts.clone())
    }

    /// Notes that an earlier policy is in force again, whose files said this.
    pub(super) fn taken_back(&mut self, texts: Texts) {
        self.in_force = texts;
    }

    /// The files of the policy in force, and whether each says something else now.
    pub(super) fn states(&self) -> impl Iterator<Item = (String, bool)> {
        let is_changed = |path: &str, taken: &(usize, u64)| {
            let now = fs::read(path).map(|bytes| summary(&String::from_utf8_lossy(&bytes)));
            now.ok().as_ref() != Some(taken)
        };
        self.in_force.iter().map(move |(path, taken)| (path.clone(), is_changed(path, taken)))
    }

    fn parse(&mut self) -> Result<Policy, Failure> {
        let noted = Noted::default();
        let policy = parse::read(&noted, &self.paths).map_err(Failure::new)?;
        self.looked_at = noted.0.into_inner();
        Ok(policy)
    }

    /// Watches what the last reading looked at, if they are to be watched.
    pub(super) fn watch(&self, watched: &mut Option<ConfigFiles>) {
        let looked_at = || self.looked_at.iter().map(PathBuf::as_path);
        for notice in watched.iter_mut().flat_map(|watched| watched.follow(looked_at())) {
            tracing::warn!("{notice}");
        }
    }
}

/// The machine's files, and what was looked at.
#[derive(Default)]
struct Noted(RefCell<BTreeSet<PathBuf>>);

impl Files for Noted {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.borrow_mut().insert(path.to_owned());
        Disk.read(path)
    }

    fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        self.0.borrow_mut().insert(base_of(pattern));
        Disk.glob(pattern)
    }

    fn identity(&self, path: &Path) -> PathBuf {
        Disk.identity(path)
    }
}

/// How long ago a file was changed.
fn age(path: &str) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}
