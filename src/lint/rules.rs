//! Lints about a rule by itself: W005, W006, W013.

use super::subject::Subject;
use crate::model::Data;
use crate::policy::{
    Code, Mistake, Policy, Statement,
    hosts::{self, Hosts},
    mistake::quoted,
};

/// `!=`, verdicts that fail open, host names.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>]) -> Vec<Mistake> {
    let each = |subject: &Subject<'_>| {
        let negated = negated(subject);
        let refusing = if negated.is_empty() { refusing_rule(policy, subject) } else { None };
        negated.into_iter().chain(refusing).chain(host_name(policy, subject)).collect::<Vec<_>>()
    };
    subjects.iter().flat_map(each).chain(refusing_elements(policy)).collect()
}

fn negated(subject: &Subject<'_>) -> Vec<Mistake> {
    let negated = subject.cgroups.iter().filter(|cgroup| cgroup.negated);
    negated
        .map(|cgroup| {
            let depth = match cgroup.level {
                1 => "in the root cgroup".to_owned(),
                level => format!("less than {level} names deep"),
            };
            Mistake::new(
                Code::Negated,
                cgroup.span,
                format!("`!=` does not match sockets whose cgroup is {depth}: they pass this rule by"),
            )
            .help("allow the one cgroup with `==` and `accept`, and refuse the rest in nftables.conf")
        })
        .collect()
}

fn refusing_rule(policy: &Policy, subject: &Subject<'_>) -> Option<Mistake> {
    let (_, span) = subject.verdict.filter(|(verdict, _)| verdict.refuses())?;
    let text = &policy.sources.file(span.file).text[span.start..span.end];
    let verdict = quoted(text.split_whitespace().next()?);
    let allowing = subject.rewritten(policy, span, "accept");
    let message = format!("this {verdict} fails open: while the rule is not applied yet, packets pass");
    Some(Mistake::new(Code::FailsOpen, span, message).help(format!(
        "refuse by default in nftables.conf, and accept what may pass, in the form `# {allowing}`"
    )))
}

fn refusing_elements(policy: &Policy) -> impl Iterator<Item = Mistake> {
    policy.annotations.iter().filter_map(|annotation| {
        let Statement::Element(statement) = &annotation.statement else { return None };
        let is_drop = |data: &Option<Data>| matches!(data, Some(Data::Drop));
        let (path, span, _) = statement.elements.iter().find(|(_, _, data)| is_drop(data))?;
        let message = "this `drop` fails open: while the element is not there yet, packets pass";
        Some(Mistake::new(Code::FailsOpen, *span, message).help(format!(
            "refuse by default in nftables.conf, and accept what may pass, in the form `\"{path}\" : accept`"
        )))
    })
}

fn host_name(policy: &Policy, subject: &Subject<'_>) -> Option<Mistake> {
    if hosts::wanted(policy, subject.annotation).is_empty() {
        return None;
    }
    let unresolved = hosts::resolve(policy, &subject.rule.body, &Hosts::new()).err()?;
    let first = unresolved.first()?;
    let name = quoted(&first.host.name);
    let message = format!("the addresses of {name} are looked up when the files are read, and not again");
    Some(
        Mistake::new(Code::HostName, first.span, message).help(
            "if they change often, use an address, or a set that something else fills (`ip daddr @NAME`)",
        ),
    )
}
