//! What the machine has that an argument may be.

use std::collections::{BTreeMap, BTreeSet};

use litemap::LiteMap;

use crate::{
    gather::Gather,
    model::{Instance, Manager},
    policy::Policy,
    text::{Code, FileId, outline::Outline},
    units::{
        places::{is_in_name, is_slice},
        selector::{Selectors, write_app_id, written_app_id},
    },
};

/// What an argument may be, each with a few words about it.
pub(super) type Candidates = LiteMap<String, String>;

/// The names of users by their numbers.
pub(super) type UserNames = BTreeMap<u32, String>;

/// Units as they are selected: by the policy's own selectors, and those that run by their names, or as applications.
pub(super) fn units(running: &[Instance], users: &UserNames, policy: &Policy) -> Candidates {
    let running = running.iter().filter_map(|instance| {
        let name = &*instance.unit.0;
        let Manager::User(uid) = instance.manager else { return Some((name.to_owned(), "unit")) };
        let user = users.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
        let app = written_app_id(name).map(|id| (format!("{user}:app:{id}"), "application"));
        app.filter(|(text, _)| is_selector(text)).or_else(|| Some((format!("{user}:{name}"), "user's unit")))
    });
    let annotated = policy.annotations.iter().flat_map(|annotation| &annotation.selectors.0);
    let annotated = annotated.map(|selector| (selector.to_string(), "annotation"));
    let found = running.chain(annotated).filter(|(text, _)| is_selector(text));
    found.map(|(text, words)| (text, words.to_owned())).gather()
}

/// Names of applications.
pub(super) fn apps(installed: &BTreeSet<String>, running: &[Instance]) -> Candidates {
    let running = running.iter().filter_map(|instance| written_app_id(&instance.unit.0));
    let all = installed.iter().map(|id| write_app_id(id.as_bytes())).chain(running);
    all.filter(|id| id.chars().all(is_in_name)).map(|id| (id, "application".to_owned())).gather()
}

/// The slices of a user's manager.
pub(super) fn slices(running: &[Instance], uid: u32) -> Candidates {
    const USUAL: [&str; 3] = ["app.slice", "background.slice", "session.slice"];
    let own = running.iter().filter(|instance| instance.manager == Manager::User(uid));
    let names = own.map(|instance| &*instance.unit.0).filter(|name| is_slice(name));
    let names = names.chain(USUAL).filter(|name| name.chars().all(is_in_name));
    names.map(|name| (name.to_owned(), "slice".to_owned())).gather()
}

/// The paths of cgroups.
pub(super) fn paths(running: &[Instance]) -> Candidates {
    let paths = running.iter().map(|instance| instance.path.as_str());
    let is_good = |path: &&str| path.chars().all(|letter| letter == '/' || is_in_name(letter));
    paths.filter(is_good).map(|path| (path.to_owned(), "cgroup".to_owned())).gather()
}

/// The chains that the policy's files make or that annotations are for.
pub(super) fn chains(policy: &Policy) -> Candidates {
    let files = policy.sources.files.iter().enumerate();
    let outlines = files.map(|(number, file)| Outline::of(FileId(number), &file.text));
    let made = outlines.flat_map(|outline| outline.blocks).filter_map(|block| block.chain);
    let annotated = policy.annotations.iter().filter_map(|annotation| Some(annotation.rule()?.chain.clone()));
    let names = made.chain(annotated).map(|chain| chain.to_string());
    let is_good =
        |name: &String| name.chars().all(|letter| letter == ' ' || letter == '/' || is_in_name(letter));
    names.filter(is_good).map(|name| (name, "chain".to_owned())).gather()
}

/// The codes of what may be wrong, each with its title.
pub(super) fn codes() -> Candidates {
    let heading = |code: Code| code.explanation().lines().next().unwrap_or_default().to_owned();
    let title_of = |code: Code| heading(code).split_once(": ").map_or("", |(_, title)| title).to_owned();
    Code::ALL.iter().map(|code| (code.to_string(), title_of(*code))).gather()
}

/// Whether it selects as a single selector: names of cgroups may be anything.
fn is_selector(text: &str) -> bool {
    let is_single = || Selectors::parse(text).is_ok_and(|selectors| selectors.0.len() == 1);
    !text.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) && is_single()
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::policy::{files::Files, parse};

    struct Text(&'static str);

    impl Files for Text {
        fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.as_bytes().to_vec())
        }

        fn glob(&self, _: &str) -> Vec<PathBuf> {
            vec![]
        }
    }

    const USER: &str = "user.slice/user-1000.slice/user@1000.service/app.slice";
    const OTHER: &str = "user.slice/user-1001.slice/user@1001.service/app.slice";
    const POLICY: &str = "\
table inet filter {
    chain services { }
    chain input { type filter hook input priority 0; }
}
# alice:app:firefox, system:web-*.service :: add rule inet filter services socket cgroupv2 unit accept
# mail.service :: add rule ip other out accept
";

    fn running(paths: &[&str]) -> Vec<Instance> {
        paths.iter().filter_map(|path| Instance::of(&path.parse().unwrap())).collect()
    }

    fn keys(candidates: &Candidates) -> Vec<&str> {
        candidates.keys().map(String::as_str).collect()
    }

    #[test]
    fn units_are_named_so_that_they_are_selected() {
        let paths = [
            "system.slice",
            "system.slice/postfix.service",
            &format!("{USER}/app-gnome-my\\x2dmail-2.scope"),
            &format!("{USER}/foo.service"),
            &format!("{OTHER}/foo.service"),
        ];
        let users = UserNames::from([(1000, "alice".to_owned())]);
        let policy = parse::read(&Text(POLICY), &[Path::new("f")]).unwrap();
        let found = units(&running(&paths), &users, &policy);
        assert_eq!(
            keys(&found),
            [
                "1001:foo.service",
                "alice:app:firefox",
                "alice:app:my-mail",
                "alice:foo.service",
                "mail.service",
                "postfix.service",
                "system.slice",
                "system:web-*.service",
            ]
        );
        assert_eq!(found.get("alice:app:my-mail").map(String::as_str), Some("application"));
        assert_eq!(found.get("system:web-*.service").map(String::as_str), Some("annotation"));
    }

    #[test]
    fn what_no_selector_can_name_is_left_out() {
        let odd =
            ["a b.scope", "a\nb.scope", "\u{1b}[2J.scope", "a'b.scope", "$(reboot).service", "a,b.service"];
        // Of applications odd characters are written as units' names have them.
        let ids = ["a\\x0ab", "a\\x20b", "a\\x2cb"];
        let of_apps = ids.map(|id| format!("app-gnome-{id}-1.scope"));
        let below: Vec<String> = odd
            .into_iter()
            .chain(of_apps.iter().map(String::as_str))
            .map(|name| format!("{USER}/{name}"))
            .collect();
        let all = running(&below.iter().map(String::as_str).collect::<Vec<_>>());
        let found = units(&all, &UserNames::new(), &Policy::default());
        assert_eq!(keys(&found), ids.map(|id| format!("1000:app:{id}")));
        assert_eq!(keys(&paths(&all)), of_apps.map(|name| format!("{USER}/{name}")));
    }

    #[test]
    fn chains_are_those_of_files_and_annotations() {
        let policy = parse::read(&Text(POLICY), &[Path::new("f")]).unwrap();
        assert_eq!(keys(&chains(&policy)), ["inet filter input", "inet filter services", "ip other out"]);
    }

    #[test]
    fn slices_are_the_users_own() {
        let all =
            running(&[&format!("{USER}/app-my.slice"), &format!("{OTHER}/app-other.slice"), "system.slice"]);
        assert_eq!(
            keys(&slices(&all, 1000)),
            ["app-my.slice", "app.slice", "background.slice", "session.slice"]
        );
    }

    #[test]
    fn each_code_has_a_title() {
        let codes = codes();
        assert_eq!(codes.len(), Code::ALL.len());
        assert!(codes.values().all(|title| !title.is_empty() && !title.contains('\n')), "{codes:?}");
        assert_eq!(codes.get("W010").map(String::as_str), Some("Duplicate annotation"));
    }
}
