//! What notifications say, and what their buttons ask the daemon for. Pure. Names are of a user's making: none of them becomes
//! markup, a line of its own, or text that runs backwards.

use std::time::Duration;

use super::decide::who;
use crate::{
    control::message::{Allow, Refusal},
    model::{CgroupPath, Direction, Instance, Manager, printable},
    units::selector::{Selector, Selectors},
};

/// The names of the actions.
pub(super) const ALLOW: &str = "allow";
pub(super) const COPY: &str = "copy";

/// The most characters of a name, and of the daemon's words.
const NAME: usize = 80;
const SENTENCE: usize = 400;

/// What a notification daemon can do (`GetCapabilities`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It shows buttons.
    pub actions: bool,
    /// The body is markup.
    pub markup: bool,
    /// It keeps notifications until they are dealt with.
    pub keeps: bool,
}

impl Abilities {
    /// By the names of what it can do.
    pub(super) fn of(names: &[String]) -> Self {
        let has = |name: &str| names.iter().any(|one| one == name);
        Self { actions: has("actions"), markup: has("body-markup"), keeps: has("persistence") }
    }
}

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notification {
    /// The first line, which is no markup.
    pub summary: String,
    /// What is below it.
    pub body: String,
    /// Names of actions and the words on their buttons, in turn.
    pub actions: Vec<String>,
}

/// How notifications are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    /// What can be shown.
    pub abilities: Abilities,
    /// Whether there is a program that copies.
    pub copies: bool,
    /// How long something is allowed for.
    pub time: Duration,
    /// The user.
    pub uid: u32,
}

impl Words {
    /// Of a refusal.
    pub(super) fn refused(self, refusal: &Refusal) -> Notification {
        self.notification(&format!("{} was refused", name(refusal)), &[place(refusal)], refusal, true)
    }

    /// Of a refusal that is allowed now.
    pub(super) fn allowed(self, refusal: &Refusal) -> Notification {
        let summary = format!("{} is allowed for {}", name(refusal), span(self.time));
        self.notification(&summary, &[place(refusal)], refusal, false)
    }

    /// Of one that cannot be allowed.
    pub(super) fn not_allowed(self, refusal: &Refusal, why: &str) -> Notification {
        let lines = [place(refusal), bounded(why, SENTENCE)];
        self.notification(&format!("{} is not allowed", name(refusal)), &lines, refusal, true)
    }

    /// Of a rule that was copied, or that only can be shown: then with the reason if it was tried to copy it.
    pub(super) fn rule(self, refusal: &Refusal, copied: Result<(), Option<String>>) -> Notification {
        let rule = printable(refusal.annotation.as_deref().unwrap_or_default());
        let hint = "Write it into nftables.conf, then run: scnpm reload".to_owned();
        let (what, lines) = match copied {
            Ok(()) => ("is copied", vec![rule, hint]),
            Err(None) => ("allows it", vec![rule, hint]),
            Err(Some(why)) => ("could not be copied", vec![bounded(&why, SENTENCE), rule, hint]),
        };
        let summary = format!("The rule for {} {what}", name(refusal));
        Notification { summary, body: self.body(&lines), actions: vec![] }
    }

    /// Of those that no notification is about.
    pub(super) fn more(self, count: u64) -> Notification {
        let summary = format!("{count} more {} refused", if count == 1 { "was" } else { "were" });
        let body = self.body(&["To list them, run: scnpm denied".to_owned()]);
        Notification { summary, body, actions: vec![] }
    }

    fn notification(self, summary: &str, lines: &[String], refusal: &Refusal, offers: bool) -> Notification {
        let mut lines = lines.to_vec();
        let mut actions = Vec::new();
        let mut add = |name: &str, label: String| actions.extend([name.to_owned(), label]);
        if self.abilities.actions {
            if offers && self.ask(refusal).is_some() {
                add(ALLOW, format!("Allow for {}", span(self.time)));
            }
            if refusal.annotation.is_some() {
                add(COPY, if self.copies { "Copy the rule" } else { "Show the rule" }.to_owned());
            }
        } else if offers && let Some(annotation) = &refusal.annotation {
            lines.push(format!("This rule allows it: {}", printable(annotation)));
        }
        Notification { summary: summary.to_owned(), body: self.body(&lines), actions }
    }

    fn body(self, lines: &[String]) -> String {
        let text = lines.join("\n");
        match self.abilities.markup {
            true => text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
            false => text,
        }
    }

    /// What to ask the daemon for, if it may be asked for at all.
    pub(super) fn ask(self, refusal: &Refusal) -> Option<Allow> {
        let path: CgroupPath = refusal.cgroup.as_deref()?.parse().ok()?;
        let unit = refusal.unit.as_deref()?;
        let own = Instance::in_which(&path).filter(|instance| &*instance.unit.0 == unit)?;
        let selector = (own.manager == Manager::User(self.uid)).then(|| Selector::of(&own, None))??;
        Some(Allow {
            unit: Selectors(vec![selector]).to_string(),
            address: refusal.host.clone().unwrap_or_else(|| refusal.address.to_string()),
            protocol: Some(refusal.protocol.clone()),
            port: refusal.port,
            direction: Some(refusal.direction),
            for_ms: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// The text of a rule that is copied.
pub(super) fn rule_line(refusal: &Refusal) -> Option<String> {
    refusal.annotation.as_deref().map(printable)
}

fn name(refusal: &Refusal) -> String {
    bounded(&who(refusal), NAME)
}

/// Where packets went, or came from.
fn place(refusal: &Refusal) -> String {
    let address = refusal.address;
    let peer = match &refusal.host {
        Some(host) => format!("{} ({address})", bounded(host, NAME)),
        None => address.to_string(),
    };
    let protocol = bounded(&refusal.protocol, NAME);
    let what = match (refusal.port, refusal.icmp_type) {
        (Some(port), _) => format!("{protocol} port {port}"),
        (None, Some(number)) => format!("{protocol} type {number}"),
        (None, None) => protocol,
    };
    match refusal.direction {
        Direction::Out => format!("To {peer}, {what}"),
        Direction::In => format!("From {peer}, {what}"),
    }
}

/// A time as on a button.
fn span(time: Duration) -> String {
    let (number, unit) = match time.as_secs() {
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        seconds => (seconds, "second"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// A name of somebody's making: no control characters, none that turn the direction of writing, and not too long.
fn bounded(text: &str, most: usize) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = printable(text).replace(turns, "\u{fffd}");
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::decide::tests::refusal, *};

    fn words(names: &[&str]) -> Words {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let abilities = Abilities::of(&names);
        Words { abilities, copies: true, time: Duration::from_secs(300), uid: 1000 }
    }

    const ALL: &[&str] = &["actions", "body", "body-markup", "persistence"];

    #[test]
    fn refusal_says_who_and_where_to() {
        let one = refusal("firefox", "192.0.2.1", 443);
        let said = words(ALL).refused(&one);
        assert_eq!(said.summary, "firefox was refused");
        assert_eq!(said.body, "To 192.0.2.1, tcp port 443");
        assert_eq!(said.actions, [ALLOW, "Allow for 5 minutes", COPY, "Copy the rule"]);
        let host = Refusal { host: Some("example.org".to_owned()), direction: Direction::In, ..one.clone() };
        assert_eq!(words(ALL).refused(&host).body, "From example.org (192.0.2.1), tcp port 443");
        let ping = Refusal { protocol: "icmp".to_owned(), port: None, icmp_type: Some(8), ..one };
        assert_eq!(words(ALL).refused(&ping).body, "To 192.0.2.1, icmp type 8");
    }

    #[test]
    fn what_cannot_be_pressed_is_text() {
        let said = words(&["body"]).refused(&refusal("a", "::1", 1));
        assert_eq!(said.actions, [""; 0]);
        assert!(said.body.contains("\nThis rule allows it: # 1000:app:a :: add rule"), "{}", said.body);
        let shown = Words { copies: false, ..words(ALL) }.refused(&refusal("a", "::1", 1));
        assert_eq!(shown.actions[3], "Show the rule");
    }

    #[test]
    fn names_never_become_markup_lines_or_text_that_turns() {
        let one = Refusal {
            host: Some("<a href=\"x\">&amp;".to_owned()),
            annotation: None,
            ..refusal("<b>x</b>\n\u{202e}\u{1b}[31m", "::1", 1)
        };
        let said = words(ALL).refused(&one);
        assert_eq!(said.summary, "<b>x</b>\u{fffd}\u{fffd}\u{fffd}[31m was refused");
        assert_eq!(said.body, "To &lt;a href=\"x\"&gt;&amp;amp; (::1), tcp port 1");
        assert_eq!(said.actions, [""; 0], "no annotation can have such a name");
        let plain = words(&["actions"]).refused(&one);
        assert_eq!(plain.body, "To <a href=\"x\">&amp; (::1), tcp port 1");
        let long = words(ALL).refused(&refusal(&"ä".repeat(1000), "::1", 1));
        assert_eq!(long.summary.chars().count(), NAME + 1 + " was refused".len());
        assert!(!words(ALL).not_allowed(&one, "<i>\nno").body.contains("<i>"));
    }

    #[test]
    fn own_units_only_can_be_allowed() {
        let one = refusal("mail", "192.0.2.1", 25);
        let ask = words(ALL).ask(&one).unwrap();
        assert_eq!((ask.unit.as_str(), ask.address.as_str()), ("1000:app:mail", "192.0.2.1"));
        assert_eq!((ask.protocol.as_deref(), ask.port, ask.for_ms), (Some("tcp"), Some(25), 300_000));
        assert_eq!(Words { uid: 1001, ..words(ALL) }.ask(&one), None);
        let session = "session-2.scope".to_owned();
        let of_session = Refusal {
            cgroup: Some(format!("user.slice/user-1000.slice/{session}")),
            unit: Some(session),
            app: None,
            ..one.clone()
        };
        assert_eq!(words(ALL).ask(&of_session), None);
        assert_eq!(words(ALL).refused(&of_session).actions, [COPY, "Copy the rule"]);
        assert_eq!(words(ALL).ask(&Refusal { cgroup: None, ..one }), None);
    }

    #[test]
    fn answers_say_how_it_went() {
        let one = refusal("mail", "192.0.2.1", 25);
        let allowed = words(ALL).allowed(&one);
        assert_eq!(allowed.summary, "mail is allowed for 5 minutes");
        assert_eq!(allowed.actions, [COPY, "Copy the rule"]);
        let not = words(ALL).not_allowed(&one, "polkit does not permit it");
        assert_eq!(not.summary, "mail is not allowed");
        assert_eq!(not.body, "To 192.0.2.1, tcp port 25\npolkit does not permit it");
        assert_eq!(words(ALL).rule(&one, Ok(())).summary, "The rule for mail is copied");
        let failed = words(ALL).rule(&one, Err(Some("no display".to_owned())));
        assert!(failed.body.starts_with("no display\n# 1000:app:mail"), "{}", failed.body);
        assert_eq!(words(ALL).more(1).summary, "1 more was refused");
        assert_eq!(words(ALL).more(12).summary, "12 more were refused");
    }

    #[test]
    fn times_are_words() {
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(
            [of(1), of(59), of(60), of(90), of(300)],
            ["1 second", "59 seconds", "1 minute", "90 seconds", "5 minutes"]
        );
    }
}
