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
    cell::RefCell,
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
        files::{Disk, Files},
        hosts::Hosts,
    },
    text::{Code, Diagnostic, FileId, ItemKind, Outline, Span, diagnostic::quoted},
    units::selector::Users,
};
use attempt::{Attempt, Report};
use judge::{Place, Repair};

/// What is to be tried.
pub struct Trial<'a> {
    /// The files of the command line.
    pub files: &'a [PathBuf],
    /// Texts to load in place of those of files, by the names that their policy has for them.
    pub texts: BTreeMap<String, String>,
    /// Their policy. A file that only nft finds is added to its sources.
    pub policy: &'a mut Policy,
    /// The addresses of host names in annotations, as far as they have any.
    pub hosts: Hosts,
    /// The units that there are.
    pub instances: &'a [Instance],
    /// The users whom annotations name.
    pub users: &'a Users,
    /// Whether a cgroup exists.
    pub exists: &'a dyn Fn(&CgroupPath) -> bool,
    /// The machine's interfaces, and those that are to be taken for such.
    pub interfaces: &'a BTreeSet<String>,
    /// Whether host names may be looked up.
    pub dns: bool,
    /// The addresses of host names in the files' own rules that were looked up.
    pub addresses: &'a RefCell<BTreeMap<String, Vec<IpAddr>>>,
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
    pub fn run(mut self) -> Tried {
        for (number, host) in self.policy.host_names().into_iter().enumerate() {
            let [v4, v6] = stand_ins(0x8000 + number);
            let address = if host.v6 { v6 } else { v4 };
            self.hosts.entry(host).or_insert_with(|| [address].into());
        }
        let sources = self.policy.sources.files.iter().enumerate();
        let mut rounds = Rounds {
            files: files(self.files, self.policy),
            outlines: sources.map(|(number, file)| Outline::of(FileId(number), &file.text)).collect(),
            is_bent: false,
            missing: Vec::new(),
            attempt: Attempt { blanks: std::mem::take(&mut self.texts), ..Attempt::default() },
            diagnostics: Vec::new(),
            trial: self,
        };
        rounds.prepare();
        let (ruleset, untried) = rounds.run();
        // The devices that the kernel did without, each once.
        let first: BTreeMap<&String, Span> =
            rounds.missing.iter().rev().map(|(name, span)| (name, *span)).collect();
        let unmade = first.into_iter().filter(|(name, _)| !rounds.attempt.interfaces.contains(*name));
        rounds.diagnostics.extend(unmade.map(|(name, span)| judge::missing_device(name, span)));
        Tried { diagnostics: rounds.diagnostics, ruleset, untried }
    }
}

/// The files that nft is to load: each once, and none that another one includes.
fn files(named: &[PathBuf], policy: &Policy) -> Vec<String> {
    let included = policy.sources.files.iter().filter(|file| file.is_included);
    let mut seen: BTreeSet<PathBuf> = included.map(|file| Disk.identity(Path::new(&file.path))).collect();
    let wanted = named.iter().filter(|path| seen.insert(Disk.identity(path)));
    wanted.map(|path| path.to_string_lossy().into_owned()).collect()
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
    diagnostics: Vec<Diagnostic>,
}

impl Rounds<'_> {
    fn run(&mut self) -> (Option<Ruleset>, Option<Untried>) {
        for _ in 0..ROUNDS {
            match self.attempt.run(&self.files, &self.trial) {
                Err(why) => {
                    self.without_a_room();
                    return (None, Some(Untried::Everything(why)));
                }
                Ok(Report::Loaded { ruleset, diagnostics }) => {
                    self.diagnostics.extend(diagnostics);
                    return ((!self.is_bent).then(|| Ruleset::of(&ruleset)), None);
                }
                Ok(Report::Refused(complaints)) => {
                    if !self.repair(complaints) {
                        break;
                    }
                }
            }
        }
        (None, Some(Untried::Annotations))
    }

    /// What must be there before the first round, and what is known to be wrong without nft.
    fn prepare(&mut self) {
        let named = self.trial.policy.sources.files.iter().filter(|file| self.files.contains(&file.path));
        let streams = named.filter(|file| !Path::new(&file.path).is_file());
        self.attempt.streams = streams.map(|file| (file.path.clone(), file.text.clone())).collect();
        let known = self.trial.interfaces;
        let tokens = self.outlines.iter().flat_map(|outline| &outline.tokens);
        let words = tokens.chain(self.trial.policy.tokens()).map(|token| token.unquoted());
        self.attempt.interfaces = words.filter_map(|word| known.get(word)).cloned().collect();
        let devices = self.outlines.iter().flat_map(|outline| judge::devices(outline, &self.outlines));
        self.missing = devices.filter(|(name, _)| !known.contains(name)).collect();
        let exists = self.trial.exists;
        let plain = self.outlines.iter().flat_map(judge::plain_cgroups).filter(|(path, _)| exists(path));
        self.diagnostics.extend(plain.filter_map(|(path, span)| judge::plain_cgroup_now(&path, span)));
        self.attempt.cgroups = self.paths_in_files().into_iter().filter(|path| exists(path)).collect();
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
                let span = Span { file: FileId(0), start: 0, end: 0 };
                self.say_once(Diagnostic::new(Code::Base, span, judge::refusal(&complaint)));
                continue;
            };
            // What follows comes of it, and there is one at each line.
            if has_junk {
                break;
            }
            let (mut diagnostic, repair) = judge::judge(&self.judged(span), &complaint);
            let is_different = match &repair {
                Repair::Host(name) if !before.hosts.contains_key(name) => {
                    diagnostic = self.look_up(name, diagnostic);
                    true
                }
                Repair::Interface(name) if !before.interfaces.contains(name) => {
                    self.attempt.interfaces.insert(name.clone());
                    true
                }
                Repair::Cgroups if before.cgroups != self.paths_in_files() => {
                    self.attempt.cgroups = self.paths_in_files();
                    true
                }
                Repair::Junk => self.clear_junk(span.file),
                _ => self.do_without(&repair, span),
            };
            self.say_once(diagnostic);
            has_junk = repair == Repair::Junk;
            is_table_wrong |= is_different && complaint.kind.is_of_the_table();
            repaired |= is_different;
        }
        repaired
    }

    /// Gives a name its addresses; what is to be said of it.
    fn look_up(&mut self, name: &str, refusal: Diagnostic) -> Diagnostic {
        let dns = self.trial.dns;
        let mut addresses = self.trial.addresses.borrow_mut();
        let known = addresses.entry(name.to_owned()).or_insert_with(|| {
            let found = if dns { (name, 0).to_socket_addrs().ok() } else { None };
            found.into_iter().flatten().map(|address| address.ip()).collect()
        });
        self.attempt.hosts.insert(name.to_owned(), known.clone());
        if !dns {
            let message = format!("{} is not looked up: --no-dns", quoted(name));
            return Diagnostic::new(Code::Unresolved, refusal.span, message);
        }
        if known.is_empty() { refusal } else { judge::host_name(name, refusal.span) }
    }

    /// Leaves out carriage returns; a byte order mark is not in the source's text. Whether it was not done before.
    fn clear_junk(&mut self, file: FileId) -> bool {
        let source = self.trial.policy.sources.file(file);
        let text = source.text.replace('\r', " ");
        self.attempt.blanks.insert(source.path.clone(), text.clone()) != Some(text)
    }

    /// Leaves out what a repair does without; whether there was any of it.
    fn do_without(&mut self, repair: &Repair, span: Span) -> bool {
        let source = self.trial.policy.sources.file(span.file);
        let text = self.attempt.blanks.entry(source.path.clone()).or_insert_with(|| source.text.clone());
        let mut is_new = false;
        let outline = &self.outlines[span.file.0];
        for span in judge::without(repair, span, outline) {
            self.is_bent |= outline
                .item_at(span)
                .is_some_and(|item| matches!(item.kind, ItemKind::ChainProperty | ItemKind::Rule(..)));
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
        let identity = |name: &str| Disk.identity(Path::new(name));
        if let Some(number) = sources.files.iter().position(|file| identity(&file.path) == identity(name)) {
            return Some(FileId(number));
        }
        let text = String::from_utf8_lossy(&fs::read(name).ok()?).into_owned();
        let id = sources.add(name, text);
        self.outlines.push(Outline::of(id, &sources.file(id).text));
        Some(id)
    }

    fn say_once(&mut self, diagnostic: Diagnostic) {
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// What can be told where nothing can be loaded: nft's words on syntax, and cgroups that do not exist.
    fn without_a_room(&mut self) {
        for complaint in attempt::syntax(&self.files) {
            if let Some(span) = self.place(&complaint) {
                self.diagnostics.push(judge::judge(&self.judged(span), &complaint).0);
            }
        }
        for (path, span) in self.outlines.iter().flat_map(judge::plain_cgroups) {
            if !(self.trial.exists)(&path) {
                let words = format!("there is no cgroup {}", quoted(path.as_str()));
                self.diagnostics.push(judge::plain_cgroup(&self.judged(span), &words));
            }
        }
    }
}

/// Addresses for a name that has none here, which no other name has (RFC 2544, RFC 3849).
fn stand_ins(number: usize) -> [IpAddr; 2] {
    let [.., high, low] = number.to_be_bytes();
    let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, u16::from(high), u16::from(low)];
    [IpAddr::from([198, 18, high, low]), IpAddr::from(v6)]
}
