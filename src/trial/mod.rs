//! A load for real that touches nothing: the files, then their annotations, in namespaces of their own.
//!
//! A round is an [`attempt`] in a process of its own, which ends with it. What nft complains of is [`judge`]d: each
//! complaint becomes a diagnostic and, so that nft can come to the next one, a repair that the next round begins with: an
//! interface is made, a cgroup, an address for a host name, or a rule is done without. [`room`] makes the namespaces.

mod attempt;
mod judge;
mod link;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, ToSocketAddrs},
    path::{Path, PathBuf},
};

use derive_more::Display;

use crate::{
    lint::Ruleset,
    model::{CgroupPath, Instance},
    nft::FileComplaint,
    policy::{
        Policy,
        hosts::{HostName, Hosts},
    },
    text::{Code, Diagnostic, FileId, Item, ItemKind, Outline, Span, diagnostic::quoted},
    units::selector::Users,
};
use attempt::{Attempt, Report, Subject};
use judge::{Judgement, Place, Repair};

/// What is to be tried.
pub struct Trial<'a> {
    /// The files of the command line.
    pub files: &'a [PathBuf],
    /// Their policy. A file that only nft finds is added to its sources.
    pub policy: &'a mut Policy,
    /// The addresses of host names in annotations.
    pub hosts: &'a Hosts,
    /// The units that there are, and the users whom annotations name.
    pub instances: &'a [Instance],
    /// The users whom annotations name.
    pub users: &'a Users,
    /// Whether a cgroup exists.
    pub exists: &'a dyn Fn(&CgroupPath) -> bool,
    /// The machine's interfaces, and those that are to be taken for such.
    pub interfaces: &'a BTreeSet<String>,
    /// Whether host names may be looked up.
    pub dns: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tried {
    /// What nft refuses, and what it takes on this machine and now only.
    pub diagnostics: Vec<Diagnostic>,
    /// What the files make, without the annotations; if nft takes it.
    pub ruleset: Option<Ruleset>,
    /// Why something was not tried.
    pub untried: Option<Untried>,
}

/// What was not tried.
#[derive(Debug, Display)]
pub enum Untried {
    /// Nothing could be loaded on this machine, for this reason.
    #[display("nothing was loaded, so this is only what the files' text tells: {_0}")]
    Everything(String),
    /// The annotations, since nft refuses the files and what it refuses cannot be done without.
    #[display("the annotations were not loaded, since nft refuses the files that they are for")]
    Annotations,
}

/// How many rounds there are at most. nft names ten diagnostics in one.
const ROUNDS: usize = 100;

impl Trial<'_> {
    /// Tries it.
    pub fn run(self) -> Tried {
        let outlines = outlines(self.policy);
        let mut rounds = Rounds {
            files: files(self.files, self.policy),
            outlines,
            is_bent: false,
            missing: Vec::new(),
            attempt: Attempt::default(),
            found: BTreeMap::new(),
            diagnostics: Vec::new(),
            trial: self,
        };
        rounds.prepare();
        let (ruleset, untried) = rounds.run();
        rounds.diagnostics.extend(rounds.unmade_devices());
        Tried { diagnostics: rounds.diagnostics, ruleset, untried }
    }
}

fn outlines(policy: &Policy) -> Vec<Outline> {
    let outline = |(number, file): (usize, &crate::text::SourceFile)| Outline::of(FileId(number), &file.text);
    policy.sources.files.iter().enumerate().map(outline).collect()
}

/// The files that nft is to load: each once, and none that another one includes.
fn files(named: &[PathBuf], policy: &Policy) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let is_included = |identity: &PathBuf| {
        policy.sources.files.iter().any(|file| file.is_included && identity_of(&file.path) == *identity)
    };
    let mut wanted = |path: &&PathBuf| {
        let identity = identity_of(&path.to_string_lossy());
        seen.insert(identity.clone()) && !is_included(&identity)
    };
    named.iter().filter(&mut wanted).map(|path| path.to_string_lossy().into_owned()).collect()
}

fn identity_of(path: &str) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path))
}

struct Rounds<'a> {
    trial: Trial<'a>,
    files: Vec<String>,
    /// Of the policy's sources, in their order.
    outlines: Vec<Outline>,
    /// Whether what was loaded is reached otherwise than the files say.
    is_bent: bool,
    /// Devices of chains and flowtables that the machine does not have, with their places.
    missing: Vec<(String, Span)>,
    /// What the next round begins with.
    attempt: Attempt,
    /// The addresses of the files' host names that were looked up.
    found: BTreeMap<String, Vec<IpAddr>>,
    diagnostics: Vec<Diagnostic>,
}

impl Rounds<'_> {
    fn run(&mut self) -> (Option<Ruleset>, Option<Untried>) {
        for _ in 0..ROUNDS {
            let report = self.attempt.run(&self.files, &self.loaded());
            match report {
                Report::Impossible(why) => {
                    self.without_a_room();
                    return (None, Some(Untried::Everything(why)));
                }
                Report::Loaded { ruleset, diagnostics } => {
                    self.diagnostics.extend(diagnostics);
                    return ((!self.is_bent).then(|| Ruleset::of(&ruleset)), None);
                }
                Report::Refused(complaints) => {
                    if !self.repair(complaints) {
                        break;
                    }
                }
            }
        }
        (None, Some(Untried::Annotations))
    }

    fn loaded(&self) -> Subject<'_> {
        let Trial { policy, hosts, instances, users, .. } = &self.trial;
        Subject { policy, hosts, instances, users }
    }

    /// What must be there before the first round, and what is known to be wrong without nft.
    fn prepare(&mut self) {
        let is_stream = |file: &&String| !Path::new(file).is_file();
        let text = |file: &String| {
            let source = self.trial.policy.sources.files.iter().find(|source| source.path == *file)?;
            Some((file.clone(), source.text.clone()))
        };
        self.attempt.streams = self.files.iter().filter(is_stream).filter_map(text).collect();
        let known = self.trial.interfaces;
        self.attempt.interfaces = self.words().filter_map(|word| known.get(word)).cloned().collect();
        for (number, outline) in self.outlines.iter().enumerate() {
            let devices = judge::devices(outline, &self.outlines).into_iter();
            let here = |(name, span): (String, Span)| (name, Span { file: FileId(number), ..span });
            self.missing.extend(devices.filter(|(name, _)| !known.contains(name)).map(here));
            for (path, span) in judge::plain_cgroups(outline) {
                if (self.trial.exists)(&path) {
                    self.diagnostics.extend(judge::plain_cgroup_now(&path, span));
                }
            }
        }
        self.attempt.cgroups =
            self.paths_in_files().into_iter().filter(|path| (self.trial.exists)(path)).collect();
    }

    /// All that is written in files and annotations, without quotes.
    fn words(&self) -> impl Iterator<Item = &str> {
        let base = self.outlines.iter().flat_map(|outline| &outline.tokens);
        base.chain(self.trial.policy.tokens()).map(|token| token.unquoted())
    }

    /// What may be a cgroup's path in the files' own rules and sets.
    fn paths_in_files(&self) -> BTreeSet<CgroupPath> {
        let tokens = || self.outlines.iter().flat_map(|outline| &outline.tokens);
        if !tokens().any(|token| token.text.starts_with("cgroup")) {
            return BTreeSet::new();
        }
        tokens().filter_map(|token| token.unquoted().parse().ok()).collect()
    }

    /// Makes diagnostics of complaints, and repairs what they are about; whether anything is different now.
    fn repair(&mut self, complaints: Vec<FileComplaint>) -> bool {
        let mut repaired = false;
        let before = self.attempt.clone();
        let (mut has_junk, mut is_table_wrong) = (false, false);
        for complaint in complaints {
            // What is wrong by itself is said again in the next round.
            if is_table_wrong && complaint.kind.is_of_the_table() {
                continue;
            }
            let Some(span) = self.place(&complaint) else {
                self.unplaced(&complaint);
                continue;
            };
            // What follows comes of it, and there is one at each line.
            if has_junk {
                break;
            }
            let Judgement { diagnostic, repair } = judge::judge(&self.judged(span), &complaint);
            has_junk = repair == Repair::Junk;
            let (diagnostic, is_different) = self.carry_out(repair, span, diagnostic, &before);
            self.say_once(diagnostic);
            is_table_wrong |= is_different && complaint.kind.is_of_the_table();
            repaired |= is_different;
        }
        repaired
    }

    /// What to say, and whether the next round will be different from the one `before`.
    fn carry_out(
        &mut self,
        repair: Repair,
        span: Span,
        diagnostic: Diagnostic,
        before: &Attempt,
    ) -> (Diagnostic, bool) {
        match repair {
            Repair::Host(name) if !before.hosts.contains_key(&name) => {
                (self.look_up(&name, span, diagnostic), true)
            }
            Repair::Interface(name) if !before.interfaces.contains(&name) => {
                self.attempt.interfaces.insert(name);
                (diagnostic, true)
            }
            Repair::Cgroups if !before.has_all_cgroups => {
                self.attempt.has_all_cgroups = true;
                self.attempt.cgroups = self.paths_in_files();
                (diagnostic, true)
            }
            Repair::Junk => (diagnostic, self.clear_junk(span.file)),
            _ => (diagnostic, self.do_without(&repair, span)),
        }
    }

    /// Gives a name its addresses; what is to be said of it.
    fn look_up(&mut self, name: &str, span: Span, refusal: Diagnostic) -> Diagnostic {
        let stand_ins = stand_ins(self.attempt.hosts.len()).to_vec();
        if !self.trial.dns {
            self.attempt.hosts.insert(name.to_owned(), stand_ins);
            return judge::host_left_out(name, span);
        }
        let known = self.found.entry(name.to_owned()).or_insert_with(|| {
            (name, 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip()).collect()
        });
        if known.is_empty() {
            self.attempt.hosts.insert(name.to_owned(), stand_ins);
            return refusal;
        }
        self.attempt.hosts.insert(name.to_owned(), known.clone());
        judge::host_name(name, span)
    }

    /// Leaves out carriage returns; a byte order mark is not in the source's text. Whether it was not done before.
    fn clear_junk(&mut self, file: FileId) -> bool {
        let source = self.trial.policy.sources.file(file);
        let text = source.text.replace('\r', " ");
        self.attempt.blanks.insert(source.path.clone(), text).is_none()
    }

    /// Leaves out what a repair does without; whether there was any of it.
    fn do_without(&mut self, repair: &Repair, span: Span) -> bool {
        let source = self.trial.policy.sources.file(span.file);
        let text = self.attempt.blanks.entry(source.path.clone()).or_insert_with(|| source.text.clone());
        let mut is_new = false;
        for span in judge::without(repair, span, &self.outlines[span.file.0]) {
            self.is_bent |= self.outlines[span.file.0].item_at(span).is_some_and(changes_what_is_reached);
            let blank = |byte: u8| if byte == b'\n' { '\n' } else { ' ' };
            let blank: String = text[span.start..span.end].bytes().map(blank).collect();
            is_new |= text[span.start..span.end] != blank;
            text.replace_range(span.start..span.end, &blank);
        }
        is_new
    }

    fn judged(&self, span: Span) -> Place<'_> {
        Place {
            span,
            outline: &self.outlines[span.file.0],
            text: &self.trial.policy.sources.file(span.file).text,
            missing: &self.missing,
        }
    }

    /// The devices that the kernel did without, each once.
    fn unmade_devices(&self) -> Vec<Diagnostic> {
        let first: BTreeMap<&String, Span> =
            self.missing.iter().rev().map(|(name, span)| (name, *span)).collect();
        let unmade = first.into_iter().filter(|(name, _)| !self.attempt.interfaces.contains(*name));
        unmade.map(|(name, span)| judge::missing_device(name, span)).collect()
    }

    /// What nft names as `file:line:first-last`, in the policy's sources.
    fn place(&mut self, complaint: &FileComplaint) -> Option<Span> {
        let (name, (line, first, last)) = complaint.place.as_ref()?;
        let name = room::file_of(name, &self.attempt).to_owned();
        let file = self.source(&name)?;
        let source = self.trial.policy.sources.file(file);
        let start = source.line_start(*line).unwrap_or(source.text.len());
        let end = source.text[start..].find('\n').map_or(source.text.len(), |at| start + at);
        let within = |column: usize| {
            let at = (start + column).min(end);
            (start..=at).rev().find(|at| source.text.is_char_boundary(*at)).unwrap_or(start)
        };
        let begin = within(first.saturating_sub(1));
        Some(Span { file, start: begin, end: within(*last).max(begin) })
    }

    /// A source by the name that nft has for it. One that the parser did not find is read now.
    fn source(&mut self, name: &str) -> Option<FileId> {
        let sources = &mut self.trial.policy.sources;
        let known = sources.files.iter().position(|file| file.path == name).or_else(|| {
            let identity = identity_of(name);
            sources.files.iter().position(|file| identity_of(&file.path) == identity)
        });
        if let Some(number) = known {
            return Some(FileId(number));
        }
        let text = String::from_utf8_lossy(&fs::read(name).ok()?).into_owned();
        let id = sources.add(name, text);
        self.outlines.push(Outline::of(id, &sources.file(id).text));
        Some(id)
    }

    fn unplaced(&mut self, complaint: &FileComplaint) {
        let span = Span { file: FileId(0), start: 0, end: 0 };
        self.say_once(Diagnostic::new(Code::Base, span, judge::refusal(complaint)));
    }

    fn say_once(&mut self, diagnostic: Diagnostic) {
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// What can be told where nothing can be loaded: nft's words on syntax, and cgroups that do not exist.
    fn without_a_room(&mut self) {
        for complaint in self.attempt.syntax(&self.files) {
            if let Some(span) = self.place(&complaint) {
                let diagnostic = judge::judge(&self.judged(span), &complaint).diagnostic;
                self.diagnostics.push(diagnostic);
            }
        }
        for (number, outline) in self.outlines.iter().enumerate() {
            for (path, span) in judge::plain_cgroups(outline) {
                if !(self.trial.exists)(&path) {
                    let text = &self.trial.policy.sources.file(FileId(number)).text;
                    let words = format!("there is no cgroup {}", quoted(path.as_str()));
                    self.diagnostics.push(judge::plain_cgroup(span, &words, outline, text));
                }
            }
        }
    }
}

fn changes_what_is_reached(item: &Item) -> bool {
    matches!(item.kind, ItemKind::ChainProperty | ItemKind::Rule(..))
}

/// Addresses for a name that has none here, which no other name has (RFC 2544, RFC 3849).
fn stand_ins(number: usize) -> [IpAddr; 2] {
    let [_, _, high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    [
        IpAddr::from([198, 18, high, low]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(high), u16::from(low)]),
    ]
}

/// Addresses for host names of annotations that have none here.
pub fn stand_in_hosts(names: impl IntoIterator<Item = HostName>) -> Hosts {
    let address = |(number, host): (usize, HostName)| {
        let [v4, v6] = stand_ins(0xff00 + number);
        let address = if host.v6 { v6 } else { v4 };
        (host, BTreeSet::from([address]))
    };
    names.into_iter().enumerate().map(address).collect::<BTreeMap<_, _>>()
}
