//! FINDINGS. All that is said about a policy: what the parser found in its text, what nft refuses, what the lints warn of,
//! and names that stand for nobody. Pure.
//!
//! `scnpm check` and the daemon both say what comes out of here, so that they say it in the same words.

pub mod cause;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    gather::{Gather, sort_by_key},
    lint::{self, Facts},
    model::{AnnotationId, ChainRef, Data},
    nft::complaint::{Complaint, Kind},
    policy::{Annotation, ElementStatement, Part, Policy, Statement, WRITE_A_DEFINE, hosts::HostName},
    text::{Code, Diagnostic, Severity, Span, Token, TokenKind, diagnostic::quoted},
};
use cause::{Refused, explained, without_sockets};
use litemap::LiteMap;

/// What is known about a policy besides its text.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What nft refuses, of the annotations and of the files.
    pub refused: &'a [Diagnostic],
    /// What the lints go by.
    pub facts: Facts<'a>,
    /// Users whom nobody knows, and what to say of it.
    pub unknown: &'a LiteMap<String, String>,
    /// Host names that have none, and why.
    pub unresolved: &'a BTreeMap<HostName, String>,
}

/// All findings, as [`merged`].
pub fn all(policy: &Policy, known: &Known<'_>) -> Vec<Diagnostic> {
    let mut diagnostics = policy.diagnostics.clone();
    diagnostics.extend_from_slice(known.refused);
    diagnostics.extend(lint::lint(policy, known.facts));
    diagnostics.extend(unresolved(policy, known.unresolved));
    diagnostics.extend(unknown_users(policy, known.unknown));
    merged(policy, diagnostics)
}

/// In the order of the files, each once, without what says the same as another one and what comments allow.
pub fn merged(policy: &Policy, mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    // What is allowed for a while is in no file.
    let is_in_a_file = |one: &Diagnostic| {
        policy.annotation_at(one.span).is_none_or(|id| policy.annotation(id).left.is_none())
    };
    diagnostics.retain(is_in_a_file);
    diagnostics.iter_mut().for_each(|diagnostic| without_its_sign(policy, diagnostic));
    let messages = |code: Code| -> BTreeMap<Span, String> {
        let of_code = diagnostics.iter().filter(|diagnostic| diagnostic.code == code);
        of_code.map(|diagnostic| (diagnostic.span, diagnostic.message.clone())).gather()
    };
    let includes = diagnostics.iter().filter(|diagnostic| diagnostic.code == Code::Include);
    let includes: Vec<Diagnostic> = includes.cloned().collect();
    let [refused, unresolved, hooks, not_reached] =
        [Code::Base, Code::Unresolved, Code::Hook, Code::NotReached].map(messages);
    let of_nft = diagnostics.iter().filter(|diagnostic| diagnostic.code == Code::Refused);
    let broken: BTreeSet<_> = of_nft.filter_map(|diagnostic| policy.annotation_at(diagnostic.span)).gather();
    diagnostics.retain_mut(|diagnostic| {
        let is_said = match diagnostic.code {
            // nft says it, too.
            Code::Include | Code::BaseVariable => refused.keys().any(|span| overlap(*span, diagnostic.span)),
            Code::HostName => unresolved.contains_key(&diagnostic.span),
            // The verdict may be misspelt.
            Code::NoEffect => policy.annotation_at(diagnostic.span).is_some_and(|id| broken.contains(&id)),
            // The lint's words explain why nft refuses a chain.
            Code::NotReached => {
                let id = policy.annotation_at(diagnostic.span).filter(|id| broken.contains(id));
                hooks.contains_key(&diagnostic.span)
                    || id.is_some_and(|id| policy.annotation(id).rule().is_none())
            }
            Code::Hook => {
                diagnostic.help = not_reached.get(&diagnostic.span).cloned().or(diagnostic.help.take());
                false
            }
            Code::Base => {
                let is_of_it = |one: &&Diagnostic| one.fix.is_some() && overlap(one.span, diagnostic.span);
                if let Some(include) = includes.iter().find(is_of_it) {
                    (diagnostic.help, diagnostic.fix) = (include.help.clone(), include.fix.clone());
                }
                false
            }
            _ => false,
        };
        !is_said && !policy.allows(diagnostic)
    });
    sort_by_key(&mut diagnostics, |diagnostic| (diagnostic.span, diagnostic.code));
    // What one change mends, nft may say in several ways.
    let is_the_same = |one: &Diagnostic, other: &Diagnostic| {
        (one.span, one.code) == (other.span, other.code) && one.fix.is_some() && one.fix == other.fix
    };
    diagnostics.dedup_by(|later, first| later == first || is_the_same(later, first));
    folded(policy, diagnostics, &includes)
}

/// What is taken for a host name is a variable's name, if there is one.
fn without_its_sign(policy: &Policy, diagnostic: &mut Diagnostic) {
    const HOSTS: [Code; 5] =
        [Code::BaseHost, Code::BaseHostName, Code::HostPlace, Code::HostName, Code::Unresolved];
    let Span { file, start, end } = diagnostic.span;
    let name = policy.sources.file(file).text.get(start..end).unwrap_or_default();
    if HOSTS.contains(&diagnostic.code) && policy.defines.iter().any(|define| define.name == name) {
        let fixed = diagnostic.clone().help("a variable is written with a `$`");
        *diagnostic = fixed.fix(diagnostic.span, format!("${name}"));
    }
}

/// With all that has one reason in the first of them: variables of a file that is missing, and the same error about the
/// same words.
fn folded(policy: &Policy, diagnostics: Vec<Diagnostic>, includes: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut kept: Vec<Diagnostic> = Vec::new();
    let mut firsts: BTreeMap<_, usize> = BTreeMap::new();
    let mut include = None;
    for diagnostic in diagnostics {
        let is_include = includes.iter().any(|include| overlap(include.span, diagnostic.span));
        let of_include = include.filter(|_| is_undefined(&diagnostic));
        let key = key(policy, &diagnostic);
        match of_include.or_else(|| firsts.get(key.as_ref()?).copied()) {
            Some(first) => kept[first].more.push(diagnostic.span),
            None => {
                firsts.extend(key.map(|key| (key, kept.len())));
                include = include.or_else(|| is_include.then_some(kept.len()));
                kept.push(diagnostic);
            }
        }
    }
    kept
}

/// What is equal in errors that have one reason: what is said, and of which words.
fn key(policy: &Policy, error: &Diagnostic) -> Option<(Code, String, Option<String>, String)> {
    let Span { file, start, end } = error.span;
    let words = policy.sources.file(file).text.get(start..end)?;
    let is_said_of_words = error.severity() == Severity::Error && words.contains(char::is_alphanumeric);
    (is_said_of_words && error.fix.is_none())
        .then(|| (error.code, error.message.clone(), error.help.clone(), words.to_owned()))
}

/// Whether it says that a variable is not defined, and knows of none that may be meant.
fn is_undefined(diagnostic: &Diagnostic) -> bool {
    diagnostic.help.as_ref().is_some_and(|help| help.starts_with(WRITE_A_DEFINE))
}

/// Annotations that wait for one of these host names.
pub fn unresolved(policy: &Policy, failed: &BTreeMap<HostName, String>) -> Vec<Diagnostic> {
    policy.unresolved(|host| {
        Some(format!("the host name {} is not resolved: {}", quoted(&host.name), failed.get(host)?))
    })
}

/// What nft says of an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub annotation: AnnotationId,
    /// Where in it, if nft says so.
    pub place: Option<Span>,
    /// The kind of nft's complaint.
    pub kind: Kind,
    /// nft's words.
    pub words: String,
    /// What nft expected, if it says so.
    pub help: Option<String>,
}

impl Refusal {
    /// A complaint that leads to an annotation.
    pub fn new<P>(annotation: AnnotationId, place: Option<Span>, complaint: &Complaint<P>) -> Self {
        Self {
            annotation,
            place,
            kind: complaint.kind,
            words: complaint.words.clone(),
            help: complaint.help(),
        }
    }

    /// As a diagnostic in the annotation.
    pub fn diagnostic(&self, policy: &Policy) -> Diagnostic {
        let annotation = policy.annotation(self.annotation);
        let subject = subject(annotation);
        let span = self.place.unwrap_or(subject);
        let what = if annotation.is_record() { "what records refusals" } else { "this annotation" };
        let message = format!("nft refuses {what}: {}", self.words);
        if let (Kind::Unsupported, Some(chain)) = (self.kind, chain_of_cgroups(annotation)) {
            let why = without_sockets(chain.table.family).unwrap_or_else(|| ONLY_SOME_HOOKS.to_owned());
            return Diagnostic::new(Code::Hook, subject, message).help(why);
        }
        let diagnostic = Diagnostic::new(Code::Refused, span, message);
        match &annotation.statement {
            _ if self.kind == Kind::InterfaceMissing => diagnostic.help(BY_NAME),
            Statement::Rule(rule) if self.kind == Kind::Missing && span == subject => {
                diagnostic.help(format!("make the chain outside the annotations: `add chain {}`", rule.chain))
            }
            _ if self.kind == Kind::Syntax && span == subject => match self.reserved(&annotation.statement) {
                Some(help) => diagnostic.help(help),
                None => Diagnostic { help: self.help.clone(), ..diagnostic },
            },
            Statement::Rule(_) => {
                self.explained(Diagnostic { help: self.help.clone(), ..diagnostic }, annotation, policy)
            }
            Statement::Element(element) => {
                let help = help_of_element(self.kind, element).or_else(|| self.help.clone());
                Diagnostic { help, ..diagnostic }
            }
        }
    }

    /// A name of the statement that is a word of nft's.
    fn reserved(&self, statement: &Statement) -> Option<String> {
        let name = match statement {
            Statement::Rule(rule) => &rule.chain.name,
            Statement::Element(element) => &element.set.name,
        };
        let mut names = [&statement.table().name, name].into_iter();
        let name = names.find(|name| spelling::is_of_nft(name))?;
        Some(format!("{} is a word of nft's language: choose another name", quoted(name)))
    }

    fn explained(&self, diagnostic: Diagnostic, annotation: &Annotation, policy: &Policy) -> Diagnostic {
        let body = words(annotation);
        let Span { file, start, end } = diagnostic.span;
        let variables: Vec<&str> = policy.defines.iter().map(|define| &*define.name).collect();
        let refused = Refused {
            kind: self.kind,
            at: diagnostic.span,
            written: policy.sources.file(file).text.get(start..end).unwrap_or_default(),
            is_annotation: true,
            head: &[],
            body: &body.iter().collect::<Vec<_>>(),
            chain: annotation.rule().map(|rule| &rule.chain),
            base: None,
            variables: &variables,
            chains: &[],
        };
        explained(diagnostic, &refused)
    }
}

/// What to say of an element that nft refuses.
fn help_of_element(kind: Kind, element: &ElementStatement) -> Option<String> {
    let set = &element.set;
    let mut data = element.elements.iter().map(|(.., data)| data.as_ref());
    let target = |data: Option<&Data>| match data {
        Some(Data::Jump(chain) | Data::Goto(chain)) => Some(quoted(chain)),
        _ => None,
    };
    match kind {
        Kind::HostUnresolved => {
            Some("the set is for addresses: an annotation needs one of `type cgroupsv2`".to_owned())
        }
        Kind::Missing => Some(match data.find_map(target) {
            Some(chain) => format!(
                "make what is missing outside the annotations: the map of `type cgroupsv2 : verdict`, or the chain {chain}"
            ),
            None => {
                format!("make the set outside the annotations: `add set {set} {{ type cgroupsv2; }}`")
            }
        }),
        Kind::Invalid | Kind::Value if data.any(|data| data.is_none()) => {
            Some("it is a map: write a value behind each path, `\"PATH\" : VALUE`, such as `: accept`".to_owned())
        }
        Kind::Invalid | Kind::Value => Some("the map has values of another type".to_owned()),
        Kind::NotAMap => Some(
            "a set has no values: leave the `:` and what follows it out, or make it a map of `type cgroupsv2 : verdict`"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The words of a rule, with one for each match of cgroups.
fn words(annotation: &Annotation) -> Vec<Token> {
    let word = |part: &Part| match part {
        Part::Verbatim(token) => token.clone(),
        Part::Cgroup(cgroup) => matched(cgroup.span),
        Part::Units(span) | Part::Record(span) => matched(*span),
    };
    annotation.rule().iter().flat_map(|rule| &rule.body).map(word).collect()
}

fn matched(span: Span) -> Token {
    Token { kind: TokenKind::Quoted, text: "".into(), span, spaced: true }
}

/// The chain of a rule that matches cgroups, and has nothing else in it that some hooks do not have.
pub fn chain_of_cgroups(annotation: &Annotation) -> Option<&ChainRef> {
    const PARTICULAR: [&str; 10] =
        ["tproxy", "redirect", "masquerade", "snat", "dnat", "dup", "fwd", "synproxy", "reject", "queue"];
    let is_particular = |part: &Part| part.token().is_some_and(|token| token.is_any(&PARTICULAR));
    let rule = annotation.rule()?;
    let is_about_cgroups = annotation.matches_cgroup() && !rule.body.iter().any(is_particular);
    is_about_cgroups.then_some(&rule.chain)
}

/// What to say where a hook has no cgroups.
pub const ONLY_SOME_HOOKS: &str =
    "a socket's cgroup is only known in chains that prerouting, input or output call, and in no others";

/// What to say where an interface does not exist.
pub const BY_NAME: &str = "`iifname` and `oifname` compare names, and take one that does not exist";

/// Annotations for users of whom this is known.
pub fn unknown_users(policy: &Policy, unknown: &LiteMap<String, String>) -> Vec<Diagnostic> {
    let diagnostic = |annotation: &Annotation| {
        let message = annotation.selectors.user_names().into_iter().find_map(|name| unknown.get(name))?;
        Some(
            Diagnostic::new(Code::UnknownUser, annotation.unit_span, message.clone())
                .help("scnpm asks again and again, and at once with `systemctl reload scnpm.service`"),
        )
    };
    policy.annotations.iter().filter_map(diagnostic).collect()
}

fn overlap(a: Span, b: Span) -> bool {
    a.file == b.file && a.start < b.end && b.start < a.end
}

/// The chain or set that an annotation names.
fn subject(annotation: &Annotation) -> Span {
    match &annotation.statement {
        Statement::Rule(rule) => rule.chain_span,
        Statement::Element(element) => element.set_span,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        lint::{Ruleset, testing::policy_of},
        text::FileId,
    };

    const RULE: &str = "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\"";
    const ELEMENT: &str = "# a.service :: add element inet f s { \"system.slice/a.service\" }";

    fn refusal(policy: &Policy, words: &str) -> Diagnostic {
        let complaint: Complaint = Complaint::unplaced(words);
        Refusal::new(AnnotationId(0), None, &complaint).diagnostic(policy)
    }

    fn found(policy: &Policy, refused: &[Diagnostic], unresolved: &[&str]) -> Vec<Diagnostic> {
        let ruleset = Ruleset::of(&json!({"nftables": [
            {"table": {"family": "inet", "name": "f"}},
            {"chain": {"family": "inet", "table": "f", "name": "c", "type": "filter", "hook": "forward", "prio": 0,
                       "policy": "accept"}},
        ]}));
        let unknown = policy.user_names().into_iter().filter(|name| *name != "alice");
        let unknown = unknown.map(|name| (name.to_owned(), format!("there is no user `{name}`"))).collect();
        let unresolved = policy
            .host_names()
            .into_iter()
            .filter(|host| unresolved.contains(&host.name.as_str()))
            .map(|host| (host, "no answer".to_owned()))
            .collect();
        let known = Known {
            refused,
            facts: Facts { ruleset: Some(&ruleset), ..Facts::default() },
            unknown: &unknown,
            unresolved: &unresolved,
        };
        all(policy, &known)
    }

    fn codes(diagnostics: &[Diagnostic]) -> Vec<Code> {
        diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
    }

    #[test]
    fn refusal_has_the_help_that_its_kind_asks_for() {
        let rule = policy_of(&[&format!("{RULE} accept")]);
        let element = policy_of(&[ELEMENT]);
        let reject = policy_of(&[&format!("{RULE} reject")]);
        let missing = "Could not process rule: No such file or directory";
        let near = "No such file or directory; did you mean table 'g' in family inet?";
        for (policy, words, code, help) in [
            (&rule, "Could not process rule: Operation not supported", Code::Hook, Some(ONLY_SOME_HOOKS)),
            // A reject may be what the hook does not have.
            (
                &reject,
                "Could not process rule: Operation not supported",
                Code::Refused,
                Some("`reject` is for chains of `type filter` at prerouting, input, forward or output"),
            ),
            (&rule, "Interface does not exist", Code::Refused, Some(BY_NAME)),
            (
                &rule,
                missing,
                Code::Refused,
                Some("make the chain outside the annotations: `add chain inet f c`"),
            ),
            (
                &element,
                missing,
                Code::Refused,
                Some("make the set outside the annotations: `add set inet f s { type cgroupsv2; }`"),
            ),
            (&rule, near, Code::Refused, None),
            (
                &element,
                "Could not resolve hostname: Name or service not known",
                Code::Refused,
                Some("the set is for addresses: an annotation needs one of `type cgroupsv2`"),
            ),
            (&rule, "Could not resolve hostname: Name or service not known", Code::Refused, None),
        ] {
            let diagnostic = refusal(policy, words);
            assert_eq!((diagnostic.code, diagnostic.help.as_deref()), (code, help), "{words}");
            assert_eq!(diagnostic.message, format!("nft refuses this annotation: {words}"));
        }
    }

    #[test]
    fn chain_of_another_hook_is_one_error_which_the_lint_explains() {
        let policy = policy_of(&[&format!("{RULE} accept")]);
        assert_eq!(codes(&found(&policy, &[], &[])), [Code::NotReached]);
        let refused = [refusal(&policy, "Could not process rule: Operation not supported")];
        let found = found(&policy, &refused, &[]);
        assert_eq!(codes(&found), [Code::Hook]);
        let help = found[0].help.as_deref().unwrap();
        assert!(help.contains("only reached from forward"), "{help}");
    }

    #[test]
    fn rule_with_a_misspelt_verdict_is_not_said_to_lack_one() {
        let policy = policy_of(&[&format!("{}\n# scnpm: allow(W008)\n{RULE} acept", &RULE)]);
        let said = |refused: &[Diagnostic]| {
            let found = found(&policy, refused, &[]);
            found.iter().filter(|one| one.code == Code::NoEffect).count()
        };
        assert_eq!(said(&[]), 2);
        let complaint: Complaint = Complaint::unplaced("syntax error, unexpected newline");
        assert_eq!(said(&[Refusal::new(AnnotationId(1), None, &complaint).diagnostic(&policy)]), 1);
    }

    #[test]
    fn host_name_without_an_address_is_said_once() {
        let policy = policy_of(&[&format!("# scnpm: allow(W008)\n{RULE} ip daddr mail.example accept")]);
        assert_eq!(codes(&found(&policy, &[], &[])), [Code::HostName]);
        let found = found(&policy, &[], &["mail.example"]);
        assert_eq!(codes(&found), [Code::Unresolved]);
        assert_eq!(found[0].message, "the host name `mail.example` is not resolved: no answer");
    }

    #[test]
    fn what_nft_says_of_the_file_is_not_said_again() {
        let policy = policy_of(&["table inet filter { chain out { } }\n"]);
        let at = |code, start, end| Diagnostic::new(code, Span { file: FileId(0), start, end }, "x");
        let of_text = [at(Code::Include, 8, 19), at(Code::Include, 0, 4), at(Code::Level, 8, 19)];
        let with_refusal = [&of_text[..], &[at(Code::Base, 10, 12)]].concat();
        assert_eq!(codes(&merged(&policy, with_refusal)), [Code::Include, Code::Level, Code::Base]);
    }

    #[test]
    fn what_has_one_reason_is_one_finding() {
        let policy = policy_of(&["flush rules\n@a @b @a @a\n"]);
        let at = |code, start, end| Diagnostic::new(code, Span { file: FileId(0), start, end }, "x");
        let more = |found: &[Diagnostic]| -> Vec<(Code, usize)> {
            found.iter().map(|diagnostic| (diagnostic.code, diagnostic.more.len())).collect()
        };
        let sets = [12, 15, 18, 21].map(|start| at(Code::Base, start, start + 2));
        assert_eq!(more(&merged(&policy, sets.to_vec())), [(Code::Base, 2), (Code::Base, 0)]);
        // A fix is for one place, and a warning is allowed in one.
        let fixed = sets.clone().map(|one| Diagnostic { span: one.span, ..one.clone() }.fix(one.span, "@c"));
        assert_eq!(merged(&policy, fixed.to_vec()).len(), 4);
        let warnings = sets.clone().map(|one| Diagnostic { code: Code::Level, ..one });
        assert_eq!(merged(&policy, warnings.to_vec()).len(), 4);
        // What a missing file may have defined is its fault, but for what is like another variable.
        let include = [at(Code::Include, 0, 11), at(Code::Base, 0, 11)];
        let undefined = sets[..2].iter().map(|one| one.clone().help(format!("{WRITE_A_DEFINE} above")));
        let all = [&include[..], &undefined.collect::<Vec<_>>(), &sets[2..3]].concat();
        assert_eq!(more(&merged(&policy, all.clone())), [(Code::Base, 2), (Code::Base, 0)]);
        assert_eq!(
            more(&merged(&policy, all[2..].to_vec())),
            [(Code::Base, 0), (Code::Base, 0), (Code::Base, 0)]
        );
    }

    #[test]
    fn findings_come_in_the_order_of_the_files_each_once_without_what_is_allowed() {
        let policy = policy_of(&[&format!(
            "# carol:b.service :: add rule inet f d tcp dport 1 accept\n# scnpm: allow(W026)\n\
             # dave:b.service :: add rule inet f d tcp dport 2 accept\n{RULE} accept\n"
        )]);
        let refused = refusal(&policy, "Interface does not exist");
        let found = found(&policy, &[refused.clone(), refused.clone()], &[]);
        assert!(found.is_sorted_by_key(|diagnostic| (diagnostic.span, diagnostic.code)));
        assert_eq!(found.iter().filter(|diagnostic| **diagnostic == refused).count(), 1);
        let unknown: Vec<&str> = found
            .iter()
            .filter(|diagnostic| diagnostic.code == Code::UnknownUser)
            .map(|diagnostic| diagnostic.message.as_str())
            .collect();
        assert_eq!(unknown, ["there is no user `carol`"]);
    }
}
