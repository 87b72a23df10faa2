//! Annotations that are ready to be copied, so that nobody has to write a selector or a path by hand.

use std::net::IpAddr;

use litemap::LiteMap;

use super::units::{Row, shown};
use crate::{
    model::Instance,
    units::{
        container,
        fleeting::{Again, again},
        selector::{Selector, Which, app_id},
        shared,
    },
};

/// What stands for the chain where nobody named one.
pub const UNNAMED_CHAIN: &str = "inet filter CHAIN";

/// What to print.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The annotations, one line each.
    pub lines: Vec<String>,
    /// What the reader has to know of them.
    pub notes: Vec<String>,
}

/// An annotation for each unit, or for each application of a user; with `explicit` also one by level and path for each
/// unit. The rows are in order.
pub fn offer(rows: &[Row], chain: &str, explicit: bool) -> Offer {
    let mut notes = Vec::new();
    let mut known: LiteMap<String, usize> = LiteMap::new();
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut slices: Vec<&Row> = Vec::new();
    let mut nameless: Vec<&str> = Vec::new();
    for row in rows {
        if is_of_a_slice(row, &slices) {
            continue;
        }
        let name = &row.instance.unit;
        let (instance, selector) = match selected(row) {
            Ok(found) => found,
            Err(Without::Need) => continue,
            Err(Without::Name) => {
                nameless.push(&name.0);
                continue;
            }
            Err(Without::Words(note)) => {
                notes.push(note);
                continue;
            }
        };
        if let Some(why) = shared::why(&row.instance) {
            notes.push(format!("{name}: {why}"));
        }
        let is_app = matches!(selector.which, Which::App(_));
        if is_app && row.instance.unit.0.ends_with(".slice") {
            slices.push(row);
        }
        let which = selector.which.clone();
        let selector = selector.to_string();
        let is_pattern = matches!(which, Which::Glob(_));
        let group = *known.entry(selector.clone()).or_insert_with(|| {
            groups.push(vec![format!("# {selector} :: add rule {chain} socket cgroupv2 unit accept")]);
            if is_pattern {
                notes.push(format!(
                    "{name}: the next one has another name, so the annotation is for all of {selector}"
                ));
            }
            groups.len() - 1
        });
        if explicit {
            let (Instance { unit, path, .. }, level) = (&instance, instance.path.components().count());
            groups[group].push(format!(
                "# {unit} :: add rule {chain} socket cgroupv2 level {level} \"{path}\" accept"
            ));
            if is_app || is_pattern {
                notes.push(format!(
                    "{unit}: the next time that {selector} is started its path can be another one"
                ));
            }
        }
    }
    match &nameless[..] {
        [] => {}
        [one] => notes.push(format!("{one} is {}", container::NO_NAME)),
        [one, others @ ..] => {
            notes.push(format!("{one} and {} more are {}", others.len(), container::NO_NAME))
        }
    }
    Offer { lines: groups.into_iter().flatten().collect(), notes }
}

/// Why there is no line for a row.
enum Without {
    /// Nobody needs one.
    Need,
    /// A container that has no name of its own.
    Name,
    /// For what these words say.
    Words(String),
}

/// What to select so that a row's unit is selected when it starts again: the unit, or the slice that its container was put into.
fn selected(row: &Row) -> Result<(Instance, Selector), Without> {
    let name = &row.instance.unit;
    if container::is_monitor(&name.0) {
        return Err(Without::Need);
    }
    let instance = if container::has_id(&name.0) {
        container::chosen_slice(&row.instance.path).ok_or(Without::Name)?
    } else {
        row.instance.clone()
    };
    match again(&instance, row.user.as_deref()) {
        Some(Again::By(selector)) => Ok((instance, selector)),
        Some(Again::Never) => Err(Without::Words(format!(
            "{name}: systemd-run(1) chose this name and chooses another one each time, so no annotation is offered: give it one \
             with `systemd-run --unit=NAME`, or start it with `scnpm run --app ID`"
        ))),
        None => {
            let path = shown(row.instance.path.as_str());
            Err(Without::Words(format!(
                "{path}: an annotation cannot have such a name, so none is offered for it"
            )))
        }
    }
}

/// An offered line for packets to one address and port only; with `is_first` for the beginning of the chain.
pub fn admission(line: &str, is_first: bool, to: IpAddr, protocol: &str, port: u16) -> Option<String> {
    let family = if to.is_ipv4() { "ip" } else { "ip6" };
    let begin = line.strip_suffix(" accept")?;
    let begin = if is_first { begin.replacen(":: add rule", ":: insert rule", 1) } else { begin.to_owned() };
    Some(format!("{begin} {family} daddr {to} {protocol} dport {port} accept"))
}

/// Whether it is a scope in one of these slices of applications, and of no application by its own name: what a terminal
/// runs. Such a name is never seen again, and the slice's annotation is for it, too.
fn is_of_a_slice(row: &Row, slices: &[&Row]) -> bool {
    let Instance { manager, unit, path } = &row.instance;
    let holds = |slice: &&Row| slice.instance.manager == *manager && path.is_within(&slice.instance.path);
    unit.0.ends_with(".scope") && app_id(&unit.0).is_none() && slices.iter().any(holds)
}

#[cfg(test)]
mod tests {
    use super::{super::units::testing::row, *};
    use crate::model::Manager;

    const CHAIN: &str = "inet filter out";
    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    fn alice(name: &str) -> Row {
        row(Manager::User(1000), &format!("{USER}/{name}"))
    }

    fn lines(rows: &[Row]) -> Vec<String> {
        let offer = offer(rows, CHAIN, false);
        assert_eq!(offer.notes, [""; 0]);
        offer.lines
    }

    fn line(selector: &str) -> String {
        format!("# {selector} :: add rule inet filter out socket cgroupv2 unit accept")
    }

    #[test]
    fn each_kind_of_unit_has_its_form() {
        let rows = [
            row(Manager::System, "system.slice/postfix.service"),
            row(Manager::System, "system.slice/app-x-1.scope"),
            alice("app.slice/app-gnome-org.mozilla.firefox-123.scope"),
            alice("session.slice/foo.service"),
            row(
                Manager::User(1001),
                "user.slice/user-1001.slice/user@1001.service/app.slice/app-x@1.service",
            ),
        ];
        let expected = [
            "system:postfix.service",
            "system:app-x-1.scope",
            "alice:app:org.mozilla.firefox",
            "alice:foo.service",
            "1001:app:x",
        ];
        assert_eq!(lines(&rows), expected.map(line));
    }

    #[test]
    fn container_has_the_line_of_the_slice_that_was_chosen_for_it() {
        let id = "af174edfdd19115160fa269ea3e3bc7ea7f69359379af89e05c4902ea959ce35";
        let system = |path: &str| row(Manager::System, path);
        let rows = [
            system("web.slice"),
            system(&format!("web.slice/libpod-{id}.scope")),
            system(&format!("web.slice/libpod-conmon-{id}.scope")),
            alice(&format!("user.slice/libpod-{id}.scope")),
            system(&format!("system.slice/docker-{id}.scope")),
        ];
        let offer = offer(&rows, CHAIN, false);
        assert_eq!(offer.lines, [line("system:web.slice")]);
        assert_eq!(offer.notes, [format!("libpod-{id}.scope and 1 more are {}", container::NO_NAME)]);
    }

    #[test]
    fn admission_is_an_annotation_for_one_destination() {
        let offered = lines(&[row(Manager::System, "system.slice/postfix.service")]).remove(0);
        let line = admission(&offered, true, "2001:db8::1".parse().unwrap(), "tcp", 25).unwrap();
        assert_eq!(
            line,
            "# system:postfix.service :: insert rule inet filter out socket cgroupv2 unit ip6 daddr 2001:db8::1 tcp dport 25 accept"
        );
    }

    #[test]
    fn application_has_one_line_for_all_its_instances() {
        let rows = [
            alice("app.slice/app-firefox-1.scope"),
            alice("app.slice/app-mail-1.scope"),
            alice("app.slice/app-firefox@2.service"),
        ];
        assert_eq!(lines(&rows), ["alice:app:firefox", "alice:app:mail"].map(line));
    }

    #[test]
    fn what_runs_in_an_applications_slice_is_the_applications() {
        let terminal = "app.slice/app-org.gnome.Terminal.slice";
        let rows = [
            alice(terminal),
            alice(&format!("{terminal}/gnome-terminal-server.service")),
            alice(&format!("{terminal}/vte-spawn-1.scope")),
        ];
        let expected = ["alice:app:org.gnome.Terminal", "alice:gnome-terminal-server.service"].map(line);
        assert_eq!(lines(&rows), expected);
        assert_eq!(lines(&rows[2..]), [line("alice:vte-spawn-1.scope")]);
    }

    #[test]
    fn names_of_one_start_are_offered_as_what_stays() {
        const UUID: &str = "3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d8e";
        let mut session = row(Manager::System, "user.slice/user-1000.slice/session-2.scope");
        session.user = Some("alice".to_owned());
        let rows = [
            session,
            alice(&format!("app.slice/vte-spawn-{UUID}.scope")),
            alice(&format!("app.slice/app-org.kde.kate@{}.service", UUID.replace('-', ""))),
            alice("app.slice/kitty-12-0.scope"),
            alice("app.slice/kitty-12-1.scope"),
            alice("app.slice/run-p12-i13.scope"),
            alice("session.slice/dbus.service"),
        ];
        let Offer { lines, notes } = offer(&rows, CHAIN, false);
        let expected = [
            "alice:session-*.scope",
            "alice:vte-spawn-*.scope",
            "alice:app:org.kde.kate",
            "alice:kitty-*.scope",
            "alice:dbus.service",
        ];
        assert_eq!(lines, expected.map(line));
        let said = [
            "session-2.scope",
            "vte-spawn",
            "kitty-12-0.scope",
            "systemd-run --unit=NAME",
            "SystemdService=",
        ];
        assert_eq!(notes.len(), said.len(), "{notes:?}");
        assert!(notes.iter().zip(said).all(|(note, word)| note.contains(word)), "{notes:?}");
    }

    #[test]
    fn explicit_form_names_level_and_path() {
        let rows =
            [row(Manager::System, "system.slice/postfix.service"), alice("app.slice/app-firefox-1.scope")];
        let offer = offer(&rows, CHAIN, true);
        let expected = [
            line("system:postfix.service"),
            "# postfix.service :: add rule inet filter out socket cgroupv2 level 2 \"system.slice/postfix.service\" accept"
                .to_owned(),
            line("alice:app:firefox"),
            format!(
                "# app-firefox-1.scope :: add rule inet filter out socket cgroupv2 level 5 \
                 \"{USER}/app.slice/app-firefox-1.scope\" accept"
            ),
        ];
        assert_eq!(offer.lines, expected);
        assert_eq!(
            offer.notes,
            [
                "app-firefox-1.scope: the next time that alice:app:firefox is started its path can be another one"
            ]
        );
    }

    #[test]
    fn hostile_names_are_never_offered() {
        for name in [
            "a\".service",
            "a\n.service",
            "a b.service",
            "ä.service",
            "a\u{fffd}.service",
            "x;y.slice/a.service",
        ] {
            let offer = offer(&[alice(name)], CHAIN, true);
            assert_eq!((offer.lines.len(), offer.notes.len()), (0, 1), "{name}");
            assert!(offer.notes[0].is_ascii() || offer.notes[0].contains('\u{fffd}'), "{:?}", offer.notes);
        }
    }

    #[test]
    fn user_whose_name_means_something_else_is_named_by_number() {
        for name in ["system", "user", "a b", "a,b", "1001"] {
            let mut one = alice("app.slice/app-firefox-1.scope");
            one.user = Some(name.to_owned());
            assert_eq!(lines(&[one]), [line("1000:app:firefox")], "{name}");
        }
    }

    #[test]
    fn application_whose_id_is_no_plain_text_is_written_as_units_names_are() {
        let one = alice("app.slice/app-a\\x20b-1.scope");
        assert_eq!(lines(&[one]), [line("alice:app:a\\x20b")]);
    }
}
