//! FINDINGS. All that is said about a policy: what the parser found in its text, what nft refuses, what the lints warn of,
//! and names that stand for nobody. Pure.
//!
//! `scnpm check` and the daemon both say what comes out of here, so that they say it in the same words.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    lint::{self, Facts},
    model::{AnnotationId, ChainRef},
    nft::complaint::{Complaint, Kind},
    policy::{Annotation, Part, Policy, Statement, hosts::HostName},
    text::{Code, Diagnostic, Span, diagnostic::quoted},
};

/// What is known about a policy besides its text.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What nft refuses, of the annotations and of the files.
    pub refused: &'a [Diagnostic],
    /// What the lints go by.
    pub facts: Facts<'a>,
    /// Users whom nobody knows, and what to say of it.
    pub unknown: &'a BTreeMap<String, String>,
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
    let messages = |code: Code| -> BTreeMap<Span, String> {
        let of_code = diagnostics.iter().filter(|diagnostic| diagnostic.code == code);
        of_code.map(|diagnostic| (diagnostic.span, diagnostic.message.clone())).collect()
    };
    let [refused, unresolved, hooks, not_reached] =
        [Code::Base, Code::Unresolved, Code::Hook, Code::NotReached].map(messages);
    let of_nft = diagnostics.iter().filter(|diagnostic| diagnostic.code == Code::Refused);
    let broken: BTreeSet<_> = of_nft.filter_map(|diagnostic| policy.annotation_at(diagnostic.span)).collect();
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
            _ => false,
        };
        !is_said && !policy.allows(diagnostic)
    });
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span, diagnostic.code));
    diagnostics.dedup();
    diagnostics
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
        let message = format!("nft refuses this annotation: {}", self.words);
        if self.kind == Kind::Unsupported && chain_of_cgroups(annotation).is_some() {
            return Diagnostic::new(Code::Hook, subject, message).help(ONLY_SOME_HOOKS);
        }
        let diagnostic = Diagnostic::new(Code::Refused, span, message);
        match (self.kind, &annotation.statement) {
            (Kind::InterfaceMissing, _) => diagnostic.help(BY_NAME),
            (Kind::HostUnresolved, Statement::Element(_)) => {
                diagnostic.help("the set is for addresses: an annotation needs one of `type cgroupsv2`")
            }
            (Kind::Missing, Statement::Rule(rule)) if span == subject => {
                diagnostic.help(format!("make the chain outside the annotations: `add chain {}`", rule.chain))
            }
            (Kind::Missing, Statement::Element(element)) if span == subject => diagnostic.help(format!(
                "make the set outside the annotations: `add set {} {{ type cgroupsv2; }}`",
                element.set
            )),
            _ => Diagnostic { help: self.help.clone(), ..diagnostic },
        }
    }
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
pub fn unknown_users(policy: &Policy, unknown: &BTreeMap<String, String>) -> Vec<Diagnostic> {
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

/// What an annotation is about: the chain or set that it names.
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
            facts: Facts { units: None, ruleset: Some(&ruleset) },
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
            (&reject, "Could not process rule: Operation not supported", Code::Refused, None),
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
