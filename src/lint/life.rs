//! W029, W030 and W031: what names nothing that lasts, what no packet meets, and rules that do nothing.

use super::{
    cgroups::{self, Written},
    subject::Subject,
};
use crate::{
    model::{AnnotationId, Manager, UNIT_TYPES},
    policy::{Annotation, Policy, Statement, words},
    text::{Code, Diagnostic, FileId, ItemKind, Outline, Span, Token, TokenKind, diagnostic::quoted},
    units::{
        Selector, Units,
        fleeting::lasting,
        places,
        selector::{Which, Whose},
    },
};

/// Judges the names and paths of each annotation.
pub(super) fn names(policy: &Policy) -> Vec<(AnnotationId, Diagnostic)> {
    let judged = |(id, annotation)| {
        let judge = Judge { annotation, written: cgroups::written(annotation) };
        Some((id, judge.fleeting().or_else(|| judge.impossible())?))
    };
    policy.iter().filter_map(judged).collect()
}

/// Judges annotated rules, and the files' own rules for what no packet meets.
pub(super) fn rules(policy: &Policy, subjects: &[Subject<'_>], units: Option<&Units>) -> Vec<Diagnostic> {
    let idle = subjects.iter().filter_map(|subject| without_effect(policy, subject));
    let has_class_ids = units.is_none_or(|units| units.has_class_ids);
    let numbers = if has_class_ids { vec![] } else { class_ids(policy, subjects) };
    idle.chain(numbers).collect()
}

/// The types of units that have no cgroup.
const WITHOUT_CGROUP: [&str; 5] = ["timer", "target", "path", "device", "automount"];

struct Judge<'a> {
    annotation: &'a Annotation,
    written: Vec<Written<'a>>,
}

impl<'a> Judge<'a> {
    /// Whether a unit is selected by its cgroup only.
    fn needs_cgroup(&self) -> bool {
        self.annotation.units_match().is_some() || self.annotation.only_unit().is_none()
    }

    fn fleeting(&self) -> Option<Diagnostic> {
        let of_path = |written: &Written<'a>| {
            let (name, lasting) = written.path.components().find_map(|name| Some((name, lasting(name)?)))?;
            let whose = match places::owner(written.path.as_str()).0 {
                Manager::System => {
                    let session = places::user_of_session(written.path.as_str());
                    session.map_or_else(|| "system:".to_owned(), |uid| format!("{uid}:"))
                }
                Manager::User(uid) => format!("{uid}:"),
            };
            Some((name, format!("{whose}{lasting}"), written.span))
        };
        let of_selector = |(selector, span): (&'a Selector, Span)| {
            let Which::Unit(unit) = &selector.which else { return None };
            let lasting = lasting(&unit.0)?;
            let whose = match &selector.whose {
                Whose::Anybody if places::is_session(&unit.0) => &Whose::System,
                Whose::Anybody if is_of_users(&lasting) => &Whose::AnyUser,
                Whose::Anybody => &Whose::System,
                whose => whose,
            };
            Some((&*unit.0, format!("{whose}{lasting}"), span))
        };
        let (name, selector, span) = self.first(of_path, of_selector)?;
        let what = match &self.annotation.statement {
            Statement::Element(_) => "in place of the element write a rule, with",
            Statement::Rule(_) => "write",
        };
        let help = if name.starts_with("run-") {
            "give it a name that stays: `systemd-run --unit=NAME`".to_owned()
        } else {
            let also = match name.starts_with("session-") {
                true => "; all that one user runs is in `user.slice/user-UID.slice`, `level 2`",
                false => "",
            };
            format!("{what} `{selector}` in front of the `::`, and `socket cgroupv2 unit` as the match{also}")
        };
        let message = format!("{} is the name of one start: the next has another", quoted(name));
        Some(Diagnostic::new(Code::Fleeting, span, message).help(help))
    }

    fn impossible(&self) -> Option<Diagnostic> {
        let of_path = |written: &Written<'a>| {
            let path = written.path.as_str();
            let with_unit = cgroups::with_ancestors(path).find(|path| is_units_place(path));
            let name = with_unit.map(cgroups::last).filter(|name| why_never(name).is_some());
            let pattern = path.split('/').find(|name| name.contains(['*', '?', '[', '%']));
            let (what, help) = match (pattern, name) {
                (Some(name), _) => (
                    format!("nft has no patterns in paths, and no unit is called {}", quoted(name)),
                    format!(
                        "write {} in front of the `::`, and `socket cgroupv2 unit` as the match",
                        of_pattern(path, name)
                    ),
                ),
                (None, Some(name)) => why_never(name)?,
                (None, None) => return None,
            };
            Some(Diagnostic::new(Code::NeverMatches, written.span, what).help(help))
        };
        let of_selector = |(selector, span): (&'a Selector, Span)| {
            let name = match &selector.which {
                Which::Unit(unit) => &*unit.0,
                Which::Glob(glob) => glob,
                Which::App(_) | Which::Cage(_) => return None,
            };
            let is_template = name.contains("@.");
            let (what, help) = why_never(name).filter(|_| is_template || self.needs_cgroup())?;
            Some(Diagnostic::new(Code::NeverMatches, span, what).help(help))
        };
        self.first(of_path, of_selector)
    }

    /// The first thing to say of a path, or else of a selector.
    fn first<T>(
        &self,
        of_path: impl Fn(&Written<'a>) -> Option<T>,
        of_selector: impl Fn((&'a Selector, Span)) -> Option<T>,
    ) -> Option<T> {
        let of_paths = self.written.iter().find_map(of_path);
        of_paths.or_else(|| cgroups::selected_by(self.annotation).find_map(of_selector))
    }
}

/// Whether such units are those of users, as a rule.
fn is_of_users(selector: &str) -> bool {
    ["app:", "app-", "vte-", "snap."].iter().any(|start| selector.starts_with(start))
}

/// Whether a path is that of a unit: only slices, or a user's manager, are above it.
fn is_units_place(path: &str) -> bool {
    let (_, below) = places::owner(path);
    let above = cgroups::parent(below);
    UNIT_TYPES.contains(&places::kind(path))
        && above.split('/').all(|name| name.is_empty() || places::is_slice(name))
}

/// What is to be said of a unit that never has a cgroup, and what to do.
fn why_never(name: &str) -> Option<(String, String)> {
    let kind = places::kind(name);
    if WITHOUT_CGROUP.contains(&kind) {
        let help = "match the unit whose processes have the sockets, such as the service that it starts";
        return Some((
            format!("{} has no cgroup: no unit of the type {kind} has", quoted(name)),
            help.to_owned(),
        ));
    }
    let (prefix, suffix) = name.split_once("@.")?;
    let message = format!("{} is a template: only its instances have cgroups", quoted(name));
    Some((message, format!("write the name of an instance, such as `{prefix}@NAME.{suffix}`")))
}

/// The selector for a pattern that stands in a path.
fn of_pattern(path: &str, name: &str) -> String {
    let is_unit = |name: &&str| {
        UNIT_TYPES.contains(&places::kind(name))
            && name.replace(['*', '?', '[', ']'], "").chars().all(places::is_in_name)
    };
    match (places::owner(path).0, Some(name).filter(is_unit)) {
        (_, None) => "a selector, such as `system:foo@*.service`,".to_owned(),
        (Manager::System, Some(name)) => format!("`system:{name}`"),
        (Manager::User(uid), Some(name)) => format!("`{uid}:{name}`"),
    }
}

fn without_effect(policy: &Policy, subject: &Subject<'_>) -> Option<Diagnostic> {
    let span = subject.annotation.span;
    let is_cut_off = || words::is_cut_off(&policy.sources.file(span.file).text, span.end);
    let has_effect = subject.tokens.iter().any(|token| words::has_effect(token));
    if subject.verdict.is_some() || (has_effect && !is_cut_off()) {
        return None;
    }
    let end = Span { start: span.end, ..span };
    let message = match has_effect {
        true => "this rule has no verdict",
        false => "this rule does nothing: it matches, and has no verdict",
    };
    let diagnostic = Diagnostic::new(Code::NoEffect, end, message);
    Some(match is_cut_off() {
        true => diagnostic.help("the next line looks like its rest: write a `\\`").fix(end, " \\"),
        false => diagnostic.help("write at its end what becomes of the packets, such as `accept`"),
    })
}

/// Numbers of cgroup v1, in the files and in annotations.
fn class_ids(policy: &Policy, subjects: &[Subject<'_>]) -> Vec<Diagnostic> {
    let of_annotations = subjects.iter().filter_map(|subject| class_id(&subject.tokens));
    let files = policy.sources.files.iter().enumerate().filter(|(_, file)| file.text.contains("cgroup "));
    let of_files = files.flat_map(|(number, file)| {
        let outline = Outline::of(FileId(number), &file.text);
        let rules = outline.items.iter().filter(|item| matches!(item.kind, ItemKind::Rule(..)));
        let found = rules.filter_map(|rule| class_id(&outline.tokens_of(rule).iter().collect::<Vec<_>>()));
        found.collect::<Vec<_>>()
    });
    let diagnostic = |span| {
        let message = "`meta cgroup` is 0 for every packet: cgroup v1 with net_cls is not mounted here";
        Diagnostic::new(Code::NeverMatches, span, message)
            .help("write an annotation with `socket cgroupv2 level N \"PATH\"`")
    };
    of_annotations.chain(of_files).map(diagnostic).collect()
}

/// Where packets are compared with a number of cgroup v1. nft takes no path there, and says so.
fn class_id(tokens: &[&Token]) -> Option<Span> {
    let is_name = |at: usize| at > 0 && tokens[at - 1].is_any(&["jump", "goto"]);
    let has_path = |at: usize| tokens[at + 1..].iter().take(2).any(|token| token.kind == TokenKind::Quoted);
    let at = (0..tokens.len()).find(|at| tokens[*at].is("cgroup") && !is_name(*at) && !has_path(*at))?;
    let first = at.checked_sub(1).filter(|before| tokens[*before].is("meta")).unwrap_or(at);
    Some(tokens[first].span.to(tokens[at].span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{found, mended, messages, place, units, with_units},
    };

    const USER: &str = "user.slice/user-1000.slice/user@1000.service/app.slice";
    const A: &str = "socket cgroupv2 level 2 \"system.slice/a.service\"";

    fn said(code: Code, text: &str) -> Vec<String> {
        messages(code, text, Facts::default())
    }

    fn by_path(path: &str) -> String {
        let level = path.split('/').count();
        format!("# a.service :: add rule inet f c socket cgroupv2 level {level} \"{path}\" accept")
    }

    fn by_unit(selectors: &str) -> String {
        format!("# {selectors} :: add rule inet f c socket cgroupv2 unit accept")
    }

    fn help(code: Code, text: &str) -> String {
        let found = found(code, text, Facts::default());
        assert_eq!((found.len(), &found[0].fix), (1, &None), "{text}");
        found[0].help.clone().unwrap()
    }

    #[test]
    fn name_of_one_start_is_told_with_what_selects_all_starts() {
        let firefox = format!("{USER}/app-gnome-firefox-4242.scope");
        assert_eq!(
            said(Code::Fleeting, &by_path(&firefox)),
            ["`app-gnome-firefox-4242.scope` is the name of one start: the next has another"]
        );
        for (text, expected) in [
            (by_path(&firefox), "write `1000:app:firefox` in front"),
            (by_path(&format!("{firefox}/sub")), "write `1000:app:firefox` in front"),
            (
                format!("# a.scope :: add element inet f s {{ \"{firefox}\" }}"),
                "in place of the element write a rule, with `1000:app:firefox`",
            ),
            (by_path("user.slice/user-1000.slice/session-2.scope"), "write `1000:session-*.scope` in front"),
            (by_path("system.slice/run-u12.service"), "give it a name that stays: `systemd-run --unit=NAME`"),
            (by_unit("alice:app-gnome-firefox-4242.scope"), "write `alice:app:firefox` in front"),
            (by_unit("alice:session-2.scope"), "write `alice:session-*.scope` in front"),
            (by_unit("system:a.service, system:session-2.scope"), "write `system:session-*.scope` in front"),
            (
                "# app-gnome-firefox-4242.scope :: add rule inet f c tcp dport 1 accept".to_owned(),
                "write `user:app:firefox` in front",
            ),
        ] {
            let help = help(Code::Fleeting, &text);
            assert!(help.starts_with(expected), "{text}: {help}");
        }
    }

    #[test]
    fn a_label_may_be_called_as_it_likes() {
        let text = by_path(&format!("{USER}/a.scope")).replace("a.service", "app-a-4242.scope");
        assert_eq!(said(Code::Fleeting, &text), [] as [&str; 0]);
        assert_eq!(said(Code::Fleeting, &by_unit("user:app-a-*.scope, user:app:a")), [] as [&str; 0]);
    }

    #[test]
    fn what_never_has_a_cgroup_is_told() {
        for (text, expected) in [
            (by_path("system.slice/system-foo.slice/foo@*.service"), "write `system:foo@*.service` in front"),
            (by_path(&format!("{USER}/app-[a-z]*.scope")), "write `1000:app-[a-z]*.scope` in front"),
            (by_path("system.slice/foo*"), "write a selector, such as"),
            (by_path("system.slice/system-foo.slice/foo@%i.service"), "write a selector, such as"),
            (by_path("system.slice/a.timer"), "match the unit whose processes"),
            (by_path(&format!("{USER}/a.path")), "match the unit whose processes"),
            (
                by_path("system.slice/foo@.service"),
                "write the name of an instance, such as `foo@NAME.service`",
            ),
            (by_unit("system:a.timer"), "match the unit whose processes"),
            (by_unit("system:b.service,system:a-*.target"), "match the unit whose processes"),
            (by_unit("system:foo@.service"), "write the name of an instance"),
            (
                "# foo@.service :: add rule inet f c tcp dport 1 accept".to_owned(),
                "write the name of an instance",
            ),
            (
                "# user:a.timer :: add rule inet f c tcp dport 1 accept".to_owned(),
                "match the unit whose processes",
            ),
        ] {
            let help = help(Code::NeverMatches, &text);
            assert!(help.starts_with(expected), "{text}: {help}");
        }
    }

    #[test]
    fn what_may_have_a_cgroup_is_not_told() {
        for text in [
            by_path("system.slice/a.socket"),
            by_path("system.slice/a.service/x.target"),
            by_path("system.slice/system-foo.slice/foo@bar.service"),
            by_path("machine.slice/c.scope/a.path"),
            by_unit("system:foo@*.service"),
            by_unit("system:foo@bar.service,user:app:a"),
            by_path("system.slice/b.service").replace("a.service", "foo@.service"),
            "# a.timer :: add rule inet f c tcp dport 1 accept".to_owned(),
        ] {
            assert_eq!(said(Code::NeverMatches, &text), [] as [&str; 0], "{text}");
        }
    }

    #[test]
    fn numbers_of_cgroup_v1_are_told_where_there_are_none() {
        let text = "table inet f { chain c {\nmeta cgroup 42 jump cgroup\n} chain cgroup {\njump cgroup\n} }\n# a.service :: add rule inet f c meta cgroup != 7 accept\n";
        let v2 = units(&[], &[]);
        let found = found(Code::NeverMatches, text, with_units(&v2));
        assert_eq!(found.iter().map(|one| place(text, one)).collect::<Vec<_>>(), ["meta cgroup"; 2]);
        let v1 = Units { has_class_ids: true, ..units(&[], &[]) };
        assert_eq!(messages(Code::NeverMatches, text, with_units(&v1)), [] as [&str; 0]);
        assert_eq!(said(Code::NeverMatches, text), [] as [&str; 0]);
        let prose = "table inet f { chain c { } } # meta cgroup 42\n";
        assert_eq!(messages(Code::NeverMatches, prose, with_units(&v2)), [] as [&str; 0]);
    }

    #[test]
    fn rule_that_only_matches_is_told() {
        for body in
            [A, "socket cgroupv2 level 1 \"user.slice\" tcp dport { 1, 2 } comment \"accept\"", "tcp dport 1"]
        {
            let text = format!("# a.service :: add rule inet f c {body}\n# What we accept is below.\n");
            assert_eq!(
                said(Code::NoEffect, &text),
                ["this rule does nothing: it matches, and has no verdict"],
                "{body}"
            );
        }
        let cut = format!("# a.service :: add rule inet f c {A}\n#   tcp dport 25 accept\n");
        assert_eq!(mended(Code::NoEffect, &cut, Facts::default()), cut.replacen("\"\n", "\" \\\n", 1));
        let counted = format!("# a.service :: add rule inet f c {A} counter\n#   accept\n");
        assert_eq!(said(Code::NoEffect, &counted), ["this rule has no verdict"]);
    }

    #[test]
    fn rule_that_does_something_is_not_told() {
        for body in [
            "accept",
            "counter",
            "counter name \"x\"",
            "log prefix \"x\"",
            "queue num 1",
            "meta mark set 1",
            "jump x",
            "tcp dport vmap { 1 : drop }",
            "continue",
            "add @s { ip daddr }",
            "notrack",
            "dup to 10.0.0.1",
            "quota 1 mbytes",
            "ip dscp set 1",
            "tproxy to :1",
            "flow add @f",
            "dnat ip to 10.0.0.1",
        ] {
            let text = format!("# a.service :: add rule inet f c {A} {body}");
            assert_eq!(said(Code::NoEffect, &text), [] as [&str; 0], "{body}");
        }
    }
}
