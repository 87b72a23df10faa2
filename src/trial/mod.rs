//! A real load in a sandbox: the files, then their annotations, in namespaces of their own.
//!
//! A round is an [`attempt`] in a process of its own, which ends with it: a load as at boot, and once it succeeds one more
//! on top of it, as at a reload. What nft complains of is [`judge`]d: each
//! complaint becomes a diagnostic and, so that nft can come to the next one, a repair that the next round begins with: an
//! interface is made, a cgroup, an address for a host name, or a rule is done without. [`room`] makes the namespaces.

mod attempt;
mod judge;
mod link;
pub mod process;
mod room;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, ToSocketAddrs},
    path::{Path, PathBuf},
};

use litemap::LiteMap;
use thiserror::Error;

use crate::{
    gather::Gather,
    lint::Ruleset,
    model::{CgroupPath, Instance},
    nft::{FileComplaint, complaint::Kind},
    policy::{
        Policy,
        files::{Disk, Files},
        hosts::Hosts,
    },
    text::{Code, Diagnostic, FileId, ItemKind, Outline, Span, Token, diagnostic::quoted},
    units::selector::Users,
};
use attempt::{Attempt, Report};
use judge::{Place, Repair};
use process::Lost;

/// What is to be tried.
pub struct Trial<'a> {
    /// The files of the command line.
    pub files: &'a [PathBuf],
    /// Texts to load in place of those of files, by the names that their policy has for them.
    pub texts: LiteMap<String, String>,
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
    /// The machine's interfaces.
    pub interfaces: &'a BTreeSet<String>,
    /// Those that exist when nft runs at boot, on this machine or on the one that the files are for.
    pub interfaces_at_boot: &'a BTreeSet<String>,
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
#[derive(Debug, Error)]
pub enum Untried {
    /// A file of the command line could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// Nothing could be loaded on this machine, for this reason.
    #[error("nothing was loaded, so this is only what the files' text tells: {0}")]
    Everything(String),
    /// The annotations, since nft refuses the files and what it refuses cannot be done without.
    #[error("the annotations were not loaded, since nft refuses the files that they are for")]
    Annotations,
}

/// The cgroups that PID 1 makes before it starts anything, and never makes anew (systemd.special(7)).
const CGROUPS_AT_BOOT: [&str; 2] = ["init.scope", "system.slice"];

/// The beginning of the first file, for what has no place.
const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

/// After so many blanks there is a tab: nft takes half a minute for 60,000 blanks in a row.
const LONGEST_BLANK: usize = 64;

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
            rounds.missing.iter().rev().map(|(name, span)| (name, *span)).gather();
        let is_there =
            |name| rounds.attempt.interfaces.contains(name) || rounds.trial.interfaces.contains(name);
        let unmade = first.into_iter().filter(|(name, _)| !is_there(*name));
        rounds.diagnostics.extend(unmade.map(|(name, span)| judge::missing_device(name, span)));
        Tried { diagnostics: rounds.diagnostics, ruleset, untried }
    }
}

/// The files that nft is to load: each once, and none that another one includes.
fn files(named: &[PathBuf], policy: &Policy) -> Vec<String> {
    let included = policy.sources.files.iter().filter(|file| file.is_included);
    let mut seen: BTreeSet<PathBuf> = included.map(|file| Disk.identity(Path::new(&file.path))).gather();
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
    /// Devices of chains and flowtables that do not exist at boot, with their places.
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
                    self.without_a_room(matches!(why, Lost::Late(_)));
                    return (None, Some(Untried::Everything(why.to_string())));
                }
                Ok(Report::Loaded { ruleset, diagnostics, again }) => {
                    self.diagnostics.extend(diagnostics);
                    for complaint in again {
                        let span = self.place(&complaint).unwrap_or(NOWHERE);
                        self.say_once(judge::again(&complaint, span, &self.outlines));
                    }
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
        let streams = named.filter(|file| Disk::is_stream(&file.path));
        self.attempt.streams = streams.map(|file| (file.path.clone(), file.text.clone())).gather();
        for span in self.outlines.iter().flat_map(judge::endless).collect::<Vec<_>>() {
            self.diagnostics.push(judge::never_ends(span));
            self.blank(span);
        }
        let (now, at_boot) = (self.trial.interfaces, self.trial.interfaces_at_boot);
        let tokens = self.outlines.iter().flat_map(|outline| &outline.tokens);
        let words = |tokens: &mut dyn Iterator<Item = &Token>, known: &BTreeSet<String>| {
            tokens.filter_map(|token| known.get(token.unquoted())).cloned().gather()
        };
        self.attempt.interfaces = words(&mut tokens.chain(self.trial.policy.tokens()), at_boot);
        self.attempt.interfaces_later = words(&mut self.trial.policy.tokens(), now);
        let devices = self.outlines.iter().flat_map(|outline| judge::devices(outline, &self.outlines));
        self.missing = devices.filter(|(name, _)| !at_boot.contains(name)).collect();
        self.attempt.cgroups = CGROUPS_AT_BOOT.iter().filter_map(|path| path.parse().ok()).gather();
    }

    /// Whether it is about a flowtable that a missing device is an error of.
    fn is_explained(&self, repair: &Repair, span: Span) -> bool {
        let Repair::Flowtable(name) = repair else { return false };
        let mut blocks = self.outlines[span.file.0].blocks.iter();
        let block = blocks.find(|block| block.is_flowtable && block.name == *name);
        let mut errors = self.diagnostics.iter().filter(|said| said.code == Code::Interface);
        errors.any(|said| block.is_some_and(|block| judge::holds(block.span, said.span)))
    }

    /// Says of an interface, and of all that is compared with it, what is to be said, and makes it.
    fn interface(&mut self, name: &str, refusal: Diagnostic, complaint: &FileComplaint) {
        let spans = self.outlines.iter().flat_map(|outline| judge::by_index(outline, name));
        let spans = spans.filter(|_| complaint.kind == Kind::InterfaceMissing);
        let others: Vec<Diagnostic> =
            spans.map(|span| judge::judge(&self.judged(span), complaint).0).collect();
        for diagnostic in std::iter::once(refusal).chain(others) {
            self.say_once(match self.trial.interfaces.contains(name) {
                true => judge::interface_now(name, diagnostic),
                false => diagnostic,
            });
        }
        self.attempt.interfaces.insert(name.to_owned());
    }

    /// Says of the cgroups that the files name, wherever that is certain and in the statement at this place, what is to be
    /// said, and makes them; whether there is a new one. nft itself names ten at most.
    fn cgroups(&mut self, span: Span, complaint: &FileComplaint) -> bool {
        let in_rules = self.outlines.iter().flat_map(judge::plain_cgroups);
        let in_sets = self.outlines.iter().flat_map(judge::cgroups_in_sets);
        let in_statement = judge::cgroups_at(&self.outlines[span.file.0], span, self.trial.exists);
        let found: Vec<(CgroupPath, Span)> = in_rules.chain(in_sets).chain(in_statement).collect();
        let before = self.attempt.cgroups.len();
        for (path, span) in found {
            if CGROUPS_AT_BOOT.contains(&path.as_str()) {
                continue;
            }
            let place = self.judged(span);
            let diagnostic = match (self.trial.exists)(&path) {
                true => judge::plain_cgroup_now(&place, &path),
                false => judge::plain_cgroup(&place, &judge::refusal(complaint)),
            };
            self.say_once(diagnostic);
            self.attempt.cgroups.insert(path);
        }
        self.attempt.cgroups.len() > before
    }

    /// Makes diagnostics of complaints, and repairs what they are about; whether anything is different now.
    fn repair(&mut self, complaints: Vec<FileComplaint>) -> bool {
        let mut repaired = false;
        let before = self.attempt.clone();
        self.missing.retain(|(name, _)| !before.interfaces.contains(name));
        let (mut has_junk, mut is_table_wrong) = (false, false);
        let mut lost: Option<Diagnostic> = None;
        for complaint in &complaints {
            if judge::is_consequence(complaint.kind, &complaints) {
                continue;
            }
            // What is wrong by itself is said again in the next round.
            if is_table_wrong && complaint.kind.is_of_the_table() {
                continue;
            }
            let Some(span) = self.place(complaint) else {
                self.say_once(Diagnostic::new(Code::Base, NOWHERE, judge::refusal(complaint)));
                continue;
            };
            // What follows comes of it, and there is one at each line.
            if has_junk {
                break;
            }
            // What is missing because nft refuses to make it.
            if complaint.kind.is_missing() && self.diagnostics.iter().any(|known| known.span == span) {
                continue;
            }
            let (mut diagnostic, repair) = judge::judge(&self.judged(span), complaint);
            if let Some(lost) = &mut lost
                && judge::follows(&diagnostic, complaint.kind, lost)
            {
                lost.more.push(diagnostic.span);
                continue;
            }
            let is_different = match &repair {
                Repair::Cgroups if self.cgroups(span, complaint) => {
                    repaired = true;
                    continue;
                }
                Repair::Cgroups if before.cgroups != self.attempt.cgroups => continue,
                Repair::Host(name) if !before.hosts.contains_key(name) => {
                    diagnostic = self.look_up(name, diagnostic);
                    true
                }
                Repair::Interface(name) if !before.interfaces.contains(name) => {
                    self.interface(name, diagnostic, complaint);
                    repaired = true;
                    continue;
                }
                Repair::Junk => self.clear_junk(span.file),
                _ => self.do_without(&repair, span),
            };
            has_junk = repair == Repair::Junk;
            is_table_wrong |= is_different && complaint.kind.is_of_the_table();
            repaired |= is_different;
            match is_different || lost.is_some() {
                _ if self.is_explained(&repair, span) => {}
                true => self.say_once(diagnostic),
                false => lost = Some(diagnostic),
            }
        }
        lost.into_iter().for_each(|lost| self.say_once(lost));
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
        let spans = judge::without(repair, span, &self.outlines[span.file.0]);
        spans.into_iter().filter(|span| self.blank(*span)).count() > 0
    }

    /// Leaves out what stands in a place; whether there was any of it.
    fn blank(&mut self, span: Span) -> bool {
        let source = self.trial.policy.sources.file(span.file);
        let text = self.attempt.blanks.entry(source.path.clone()).or_insert_with(|| source.text.clone());
        self.is_bent |= self.outlines[span.file.0]
            .item_at(span)
            .is_some_and(|item| matches!(item.kind, ItemKind::ChainProperty | ItemKind::Rule(..)));
        let blank = |(at, byte): (usize, u8)| match byte {
            b'\n' => '\n',
            _ if at % LONGEST_BLANK == 0 => '\t',
            _ => ' ',
        };
        let is_new = text[span.start..span.end].bytes().any(|byte| !byte.is_ascii_whitespace());
        let blank: String = text[span.start..span.end].bytes().enumerate().map(blank).collect();
        text.replace_range(span.start..span.end, &blank);
        is_new
    }

    fn judged(&self, span: Span) -> Place<'_> {
        Place {
            span,
            outline: &self.outlines[span.file.0],
            text: &self.trial.policy.sources.file(span.file).text,
            missing: &self.missing,
            defines: &self.trial.policy.defines,
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
        let is_same = |known: &Diagnostic| {
            (known.code, known.span, &known.message)
                == (diagnostic.code, diagnostic.span, &diagnostic.message)
        };
        if !self.diagnostics.iter().any(is_same) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// What can be told where nothing can be loaded: nft's words on syntax, unless it would not come to an end, and cgroups
    /// that do not exist.
    fn without_a_room(&mut self, is_endless: bool) {
        let is_endless =
            is_endless || self.outlines.iter().any(|outline| judge::endless(outline).next().is_some());
        let complaints =
            if is_endless { vec![] } else { attempt::syntax(&self.files, &self.attempt.streams) };
        for complaint in complaints {
            if let Some(span) = self.place(&complaint) {
                self.diagnostics.push(judge::judge(&self.judged(span), &complaint).0);
            }
        }
        for (path, span) in self.outlines.iter().flat_map(judge::plain_cgroups) {
            let place = self.judged(span);
            if !(self.trial.exists)(&path) {
                let words = format!("there is no cgroup {}", quoted(path.as_str()));
                self.diagnostics.push(judge::plain_cgroup(&place, &words));
            } else if !CGROUPS_AT_BOOT.contains(&path.as_str()) {
                self.diagnostics.push(judge::plain_cgroup_now(&place, &path));
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
