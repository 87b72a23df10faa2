//! Files to a policy, in the order in which nft reads them.
//!
//! `comments` finds the annotations of a file, `base` its own variables, includes and blocks;
//! `statement` reads what an annotation asks for, with `paths` and `variables`. Nothing here
//! judges a rule beyond its shape: that is nft's business.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use thiserror::Error;

use self::{
    comments::{Comment, record::Record},
    variables::Variables,
};
use super::{
    annotation::{Allow, Annotation, Part, Placement, Policy, RuleStatement, Statement},
    domains::Fill,
    files::{Files, split_pattern},
    words,
};
use crate::{
    gather::sort_by_key,
    model::UnitName,
    text::{
        Code, FileId, Span, Token,
        diagnostic::{Diagnostic, Severity, quoted},
    },
    units::selector::{Selector, SelectorError, Selectors, Which, Whose, write_app_id},
};

pub(super) mod base;
mod comments;
mod paths;
mod statement;
mod variables;

/// A file named on the command line that cannot be read.
#[derive(Debug, Error)]
#[error("{}: {}", .path.display(), in_words(.error))]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// Without the error's number.
fn in_words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// Reads files, and what they include, as one policy.
///
/// # Errors
/// The first file of `paths` that cannot be read.
pub fn read(files: &dyn Files, paths: &[impl AsRef<Path>]) -> Result<Policy, Unreadable> {
    let mut reader = Reader {
        files,
        policy: Policy::default(),
        variables: Variables::new(),
        known: BTreeMap::new(),
        open: Vec::new(),
        readings: 0,
    };
    for path in paths.iter().map(AsRef::as_ref) {
        let bytes = files.read(path).map_err(|error| Unreadable { path: path.to_owned(), error })?;
        reader.file(path, &bytes);
        reader.variables.close_all();
    }
    let mut policy = reader.policy;
    policy.annotations.shrink_to_fit();
    policy.defines = reader.variables.defines;
    sort_by_key(&mut policy.diagnostics, |diagnostic| diagnostic.span);
    policy.diagnostics.dedup();
    Ok(policy)
}

/// Adds a text that is in no file to a policy. Returns the ids of its annotations.
pub fn append(policy: &mut Policy, name: &str, text: &str) -> Range<usize> {
    let first = policy.annotations.len();
    let mut reader = Reader {
        files: &NoFiles,
        policy: std::mem::take(policy),
        variables: Variables::new(),
        known: BTreeMap::new(),
        open: Vec::new(),
        readings: 0,
    };
    reader.file(Path::new(name), text.as_bytes());
    *policy = reader.policy;
    first..policy.annotations.len()
}

/// No file at all.
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        vec![]
    }
}

/// Where nft looks for a bare relative name (`nft --help`: the default include path).
const INCLUDE_PATH: &str = "/etc";

/// Directories in memory, where what is included at boot cannot be yet.
const EMPTY_AT_BOOT: [&str; 3] = ["/run/", "/var/run/", "/dev/shm/"];

/// nft's `MAX_INCLUDE_DEPTH`.
const MAX_DEPTH: usize = 16;

/// How many files are read at most, each time counted: files that include each other twice and more
/// would keep us busy for ever within [`MAX_DEPTH`].
const MAX_READINGS: usize = 4096;

struct Reader<'a> {
    files: &'a dyn Files,
    policy: Policy,
    variables: Variables,
    /// The files read, by their identity.
    known: BTreeMap<PathBuf, FileId>,
    /// The files being read, from the one of the command line to the innermost, by their identity.
    open: Vec<PathBuf>,
    readings: usize,
}

/// What the reader comes across, in nft's order.
#[derive(Debug)]
enum Step {
    /// `table … {` or `chain … {`: what is defined from here on ends with the block.
    Open,
    /// Its `}`.
    Close,
    /// `define NAME = …`, `redefine NAME = …`.
    Define(String, Vec<Token>, Span),
    /// `undefine NAME`.
    Undefine(String),
    /// `include "…"`, with the text in the quotes.
    Include(String, Span),
    /// An annotation.
    Annotation(Comment),
    /// A comment that would be one, but for a slip, or a directive for none.
    Slip(Diagnostic),
    /// A chain in which refusals are recorded.
    Record(Record),
    /// Sets that are filled with addresses of names.
    Fill(Fill),
    /// What directives (`# scnpm: allow(…)`) allow, and what is wrong with them.
    Allow(Allow, Vec<Diagnostic>),
}

impl Reader<'_> {
    /// Reads a file; if it was read before, only for its variables.
    fn file(&mut self, path: &Path, bytes: &[u8]) {
        let identity = self.files.identity(path);
        let known = self.known.get(&identity).copied();
        let id = known.unwrap_or_else(|| self.policy.sources.add(path.to_string_lossy(), text_of(bytes)));
        self.known.insert(identity.clone(), id);
        let file = &mut self.policy.sources.files[id.0];
        file.is_included |= !self.open.is_empty();
        file.has_mark = bytes.starts_with("\u{feff}".as_bytes());
        file.is_utf8 = str::from_utf8(bytes).is_ok();
        let mut steps = base::find(id, &file.text);
        if known.is_none() {
            steps.extend(comments::find(id, &file.text));
            sort_by_key(&mut steps, |step| step.0);
        }
        self.readings += 1;
        self.open.push(identity);
        for (_, step) in steps {
            let diagnostics = self.step(step);
            if known.is_none() {
                self.policy.diagnostics.extend(diagnostics);
            }
        }
        self.open.pop();
    }

    /// What is wrong with a step.
    fn step(&mut self, step: Step) -> Vec<Diagnostic> {
        match step {
            Step::Open => self.variables.open(),
            Step::Close => self.variables.close(),
            Step::Undefine(name) => self.variables.undefine(&name),
            // nft refuses the file; the annotations that use the variable fail by themselves.
            Step::Define(name, value, span) => {
                let mut diagnostics = self.variables.define(&name, value, span).err().unwrap_or_default();
                diagnostics.iter_mut().for_each(|diagnostic| diagnostic.code = Code::BaseVariable);
                return diagnostics;
            }
            Step::Include(path, span) => return self.include(&path, span).err().into_iter().collect(),
            Step::Annotation(comment) => return self.annotation(comment),
            Step::Record(record) => self.record(record),
            Step::Fill(fill) => self.policy.fills.push(fill),
            Step::Slip(diagnostic) => return vec![diagnostic],
            Step::Allow(allow, diagnostics) => {
                self.policy.allows.extend(Some(allow).filter(|allow| !allow.codes.is_empty()));
                return diagnostics;
            }
        }
        Vec::new()
    }

    fn record(&mut self, Record { chain, chain_span, span }: Record) {
        let (placement, body) = (Placement::End, vec![Part::Record(span)]);
        let rule = RuleStatement { placement, chain, chain_span, body, hosts: vec![] };
        self.policy.add(Annotation {
            unit: UnitName("record refusals".into()),
            selectors: Selectors(vec![]),
            unit_span: span,
            span,
            is_counted: false,
            is_waited_for: false,
            left: None,
            statement: Statement::Rule(rule),
        });
    }

    fn annotation(&mut self, comment: Comment) -> Vec<Diagnostic> {
        let Comment { unit, unit_span, statement, is_counted, is_waited_for, mut diagnostics } = comment;
        let selectors = selectors(&unit, unit_span).map_err(|diagnostic| diagnostics.push(diagnostic));
        let text = &self.policy.sources.file(unit_span.file).text;
        let read = statement::read(&statement, &self.variables, &mut diagnostics)
            .map_err(|diagnostic| diagnostics.push(continued(diagnostic, text)));
        if let (Ok((statement, last)), Ok(selectors)) = (read, selectors) {
            let span = unit_span.to(last);
            if let Statement::Element(element) = &statement
                && is_counted
            {
                diagnostics.push(uncounted(element.set_span));
            }
            let annotation = Annotation {
                unit: UnitName(unit.into()),
                selectors,
                unit_span,
                span,
                is_counted: is_counted && matches!(statement, Statement::Rule(_)),
                is_waited_for,
                left: None,
                statement,
            };
            diagnostics.extend(check_units_match(&annotation));
            if diagnostics.iter().all(|diagnostic| diagnostic.severity() != Severity::Error) {
                self.policy.add(annotation);
            }
        }
        diagnostics
    }

    /// Follows an include to the first place where something is.
    fn include(&mut self, name: &str, span: Span) -> Result<(), Diagnostic> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Diagnostic::new(
                Code::Include,
                span,
                format!("files include each other more than {MAX_DEPTH} deep"),
            )
            .help("nft refuses such files"));
        }
        let is_pattern = name.contains(['*', '?', '[']);
        let places = self.places(name, span, is_pattern);
        if is_pattern {
            let found = places.iter().map(|place| (place, self.files.glob(&place.to_string_lossy())));
            let Some((place, found)) = found.into_iter().find(|(_, found)| !found.is_empty()) else {
                return Ok(());
            };
            let each = found.iter().map(|path| self.included(path, self.files.read_included(path), span));
            return each.fold(Ok(()), Result::and).and(self.at_boot(name, place, span));
        }
        for path in places {
            match self.files.read_included(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => return self.included(&path, read, span).and(self.at_boot(name, &path, span)),
            }
        }
        Err(unreadable(name, &io::ErrorKind::NotFound.into(), span))
    }

    fn included(&mut self, path: &Path, read: io::Result<Vec<u8>>, span: Span) -> Result<(), Diagnostic> {
        let bytes = read.map_err(|error| unreadable(&path.to_string_lossy(), &error, span))?;
        if self.open.contains(&self.files.identity(path)) {
            let path = quoted(&path.to_string_lossy());
            return Err(Diagnostic::new(Code::Include, span, format!("{path} includes itself here"))
                .help("leave this include out: nft refuses such files"));
        }
        if self.readings >= MAX_READINGS {
            let message = format!("more than {MAX_READINGS} files are included");
            return Err(Diagnostic::new(Code::Include, span, message));
        }
        self.file(path, &bytes);
        Ok(())
    }

    /// What is wrong with an include that leads to this place now, if it does not at boot.
    fn at_boot(&self, name: &str, place: &Path, span: Span) -> Result<(), Diagnostic> {
        if let Some(directory) = EMPTY_AT_BOOT.iter().find(|directory| name.starts_with(**directory)) {
            let directory = directory.trim_end_matches('/');
            let message = format!("{directory} is empty at boot: there is no {} then", quoted(name));
            return Err(Diagnostic::new(Code::Include, span, message).help("keep the file below /etc"));
        }
        if !is_dotted(name) {
            return Ok(());
        }
        let place = place.to_string_lossy();
        let (directory, rest) = split_pattern(&place);
        let Some(absolute) = self.files.absolute(Path::new(directory)) else { return Ok(()) };
        if self.files.absolute(&Path::new("/").join(split_pattern(name).0)).as_ref() == Some(&absolute) {
            return Ok(());
        }
        let message =
            format!("nft looks for {} in the directory that it is started in, at boot in /", quoted(name));
        let diagnostic = Diagnostic::new(Code::Include, span, message).help("write the absolute path");
        let right = absolute.join(rest);
        let is_odd = |c: char| c == '"' || c.is_control() || ("*?[".contains(c) && !name.contains(c));
        Err(match right.to_str().filter(|right| !right.contains(is_odd)) {
            Some(right) => diagnostic.fix(span, format!("include \"{right}\"")),
            None => diagnostic,
        })
    }

    /// Where an included file may be: where nft looks, and then beside the file that includes it.
    fn places(&self, name: &str, span: Span, is_pattern: bool) -> Vec<PathBuf> {
        let path = PathBuf::from(name);
        if path.is_absolute() {
            return vec![path];
        }
        let including = Path::new(&self.policy.sources.file(span.file).path);
        let directory = including.parent().map_or("".into(), Path::to_string_lossy);
        let directory = if is_pattern { literally(&directory) } else { directory.into_owned() };
        let beside = Path::new(&directory).join(name.trim_start_matches("./"));
        if is_dotted(name) { vec![path, beside] } else { vec![Path::new(INCLUDE_PATH).join(name), beside] }
    }
}

/// Whether nft looks for it in its working directory.
fn is_dotted(name: &str) -> bool {
    name.starts_with("./") || name.starts_with("../")
}

/// What stands left of the `::`, which begins at a span.
fn selectors(text: &str, place: Span) -> Result<Selectors, Diagnostic> {
    match Selectors::parse(text) {
        Ok(selectors) => Ok(selectors),
        // A label as ever, which no unit has.
        Err((_, SelectorError::Character)) if !text.contains([',', '*']) => {
            let which = Which::Unit(UnitName(text.into()));
            Ok(Selectors(vec![Selector { whose: Whose::Anybody, which }]))
        }
        Err((range, error)) => {
            let span = Span { start: place.start + range.start, end: place.start + range.end, ..place };
            Err(no_selector(error, &text[range], span))
        }
    }
}

fn no_selector(error: SelectorError, wrong: &str, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::new(Code::Selector, span, error.to_string());
    match error {
        SelectorError::Escape if "*?[]".contains(wrong) => diagnostic.help(
            "an id is no pattern: write one for the units' names, such as `alice:app-*-firefox-*.scope`",
        ),
        SelectorError::Escape => {
            let escaped = write_app_id(wrong.as_bytes());
            diagnostic.help(format!("write {}", quoted(&escaped))).fix(span, escaped)
        }
        _ => diagnostic.help(
            "write `postfix.service`, `system:NAME`, `alice:NAME`, `user:NAME`, `alice:app:ID` or `user:cage:NAME`; a unit's \
             NAME may be a pattern",
        ),
    }
}

/// What `count` is to do for elements in a user's set.
fn uncounted(set: Span) -> Diagnostic {
    Diagnostic::new(
        Code::Directive,
        set,
        "what elements match is not counted: the rule with the set is yours",
    )
    .help("write `counter` into that rule, or leave `count` out")
}

/// `socket cgroupv2 unit` is for units whose manager is known: any user can give a unit any name.
fn check_units_match(annotation: &Annotation) -> Option<Diagnostic> {
    let span = annotation.units_match().filter(|_| annotation.selectors.is_bare())?;
    let diagnostic =
        Diagnostic::new(Code::Whose, span, "`socket cgroupv2 unit` needs to know whose unit is meant");
    let place = Span { end: annotation.unit_span.start, ..annotation.unit_span };
    let help = "write `system:`, a user's name and `:`, or `user:` in front";
    Some(match &annotation.selectors.0[..] {
        // Which users may have it is for the author to say.
        [Selector { which: Which::App(_), .. }] => diagnostic.help(
            "write a user's name and `:` in front; `user:` would be the application of that name of any user, and any \
             program can take such a name",
        ),
        [Selector { which: Which::Cage(_), .. }] => {
            diagnostic.help("write `user:` in front for a cage of all users, or `system:` for one of root").fix(place, "user:")
        }
        [_] => diagnostic.help(help).fix(place, "system:"),
        _ => diagnostic.help(format!("{help} of each unit")),
    })
}

/// With a `\` as the help, if a statement ends too early and the next line looks like its rest.
fn continued(diagnostic: Diagnostic, text: &str) -> Diagnostic {
    let Span { start, end, .. } = diagnostic.span;
    match start == end && words::is_cut_off(text, end) {
        true => {
            let place = diagnostic.span;
            diagnostic.help("the next line looks like its rest: write a `\\`").fix(place, " \\")
        }
        false => diagnostic,
    }
}

/// A file's text without its byte order mark.
fn text_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned()
}

/// A glob pattern that matches a directory's name only.
fn literally(directory: &str) -> String {
    directory.chars().map(|c| if "*?[".contains(c) { format!("[{c}]") } else { c.to_string() }).collect()
}

fn unreadable(path: &str, error: &io::Error, span: Span) -> Diagnostic {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Diagnostic::new(Code::Include, span, format!("{} cannot be included: {reason}", quoted(path)))
        .help("nft refuses the file for this; the rest of it is used here")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct InMemory(BTreeMap<PathBuf, &'static str>);

    impl Files for InMemory {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            match self.0.get(path) {
                Some(text) => Ok(text.as_bytes().to_vec()),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn glob(&self, pattern: &str) -> Vec<PathBuf> {
            let pattern = pattern.trim_end_matches('*');
            self.0.keys().filter(|path| path.to_string_lossy().starts_with(pattern)).cloned().collect()
        }
    }

    fn files(files: &[(&str, &'static str)]) -> InMemory {
        InMemory(files.iter().map(|(path, text)| (PathBuf::from(path), *text)).collect())
    }

    /// The units of the annotations, in order.
    fn units(all: &[(&str, &'static str)], read_first: &str) -> Vec<String> {
        let policy = read(&files(all), &[Path::new(read_first)]).unwrap();
        policy.annotations.into_iter().map(|annotation| annotation.unit.0.to_string()).collect()
    }

    const A: &str = "# a.service :: inet f c accept";
    const B: &str = "# b.service :: inet f c accept";

    #[test]
    fn bare_name_is_looked_for_in_etc_and_then_beside_the_file() {
        let main = ("/srv/main", "include \"one\"");
        assert_eq!(units(&[main, ("/etc/one", A), ("/srv/one", B)], "/srv/main"), ["a.service"]);
        assert_eq!(units(&[main, ("one", A), ("/srv/one", B)], "/srv/main"), ["b.service"]);
    }

    #[test]
    fn dotted_name_is_looked_for_here_and_then_beside_the_file() {
        let main = ("/srv/main", "include \"./one\"");
        assert_eq!(units(&[main, ("./one", A), ("/srv/one", B)], "/srv/main"), ["a.service"]);
        assert_eq!(units(&[main, ("/etc/one", A), ("/srv/one", B)], "/srv/main"), ["b.service"]);
    }

    #[test]
    fn pattern_takes_all_of_the_first_place_with_a_match() {
        let main = ("/srv/main", "include \"d/*\"");
        assert_eq!(units(&[main, ("/etc/d/1", B), ("/etc/d/2", A)], "/srv/main"), ["b.service", "a.service"]);
        assert_eq!(units(&[main, ("/srv/d/1", A)], "/srv/main"), ["a.service"]);
        assert_eq!(read(&files(&[main]), &[Path::new("/srv/main")]).unwrap().diagnostics, []);
    }

    #[test]
    fn what_is_included_from_memory_is_used_and_warned_of() {
        let all = [
            ("/m", "include \"/run/a/*\"\ninclude \"/run/none/*\"\ninclude \"/etc/b\""),
            ("/run/a/1", A),
            ("/etc/b", B),
        ];
        let policy = read(&files(&all), &[Path::new("/m")]).unwrap();
        let found: Vec<&str> = policy.diagnostics.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(found, ["/run is empty at boot: there is no `/run/a/*` then"]);
        assert_eq!(policy.annotations.len(), 2);
    }

    #[test]
    fn unreadable_file_of_the_command_line_is_named() {
        let unreadable = read(&files(&[("/a", A)]), &[Path::new("/a"), Path::new("/b")]).unwrap_err();
        assert_eq!(unreadable.path, Path::new("/b"));
        assert_eq!(unreadable.error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn file_named_twice_gives_its_annotations_once() {
        let policy = read(&files(&[("/a", A)]), &[Path::new("/a"), Path::new("/a")]).unwrap();
        assert_eq!((policy.annotations.len(), policy.sources.files.len()), (1, 1));
    }

    #[test]
    fn included_file_gives_its_variables_in_every_block() {
        let main = "table inet f {\ninclude \"/v\"\n}\ntable inet g {\ninclude \"/v\"\n\
                    # a.service :: inet g c tcp dport $x accept\n}\n# b.service :: inet g c tcp dport $x accept\n";
        assert_eq!(units(&[("/m", main), ("/v", "define x = 1")], "/m"), ["a.service"]);
    }

    #[test]
    fn files_that_include_each_other_over_and_over_come_to_an_end() {
        let all: Vec<(String, String)> = (0..15)
            .map(|n| (format!("/{n}"), format!("include \"/{0}\"\n", n + 1).repeat(3)))
            .chain([("/15".to_owned(), A.to_owned())])
            .collect();
        let all: Vec<(&str, &'static str)> =
            all.iter().map(|(path, text)| (path.as_str(), &*text.clone().leak())).collect();
        let policy = read(&files(&all), &[Path::new("/0")]).unwrap();
        assert_eq!(policy.annotations.len(), 1);
    }

    #[test]
    fn diagnostics_come_in_the_order_of_files_and_lines() {
        let main = "# a.service :: inet f\ninclude \"/b\"\n# a.service :: inet\n";
        let policy =
            read(&files(&[("/m", main), ("/b", "# b.service :: ip6 f")]), &[Path::new("/m")]).unwrap();
        let places: Vec<String> = policy
            .diagnostics
            .iter()
            .map(|diagnostic| policy.sources.location(diagnostic.span).to_string())
            .collect();
        assert_eq!(places, ["/m:1", "/m:3", "/b:1"]);
    }
}
