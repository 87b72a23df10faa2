//! ASKING THE DAEMON. A Varlink service on a unix socket: calls and replies are JSON objects, each ended by a NUL
//! (<https://varlink.org/>).
//!
//! ```text
//! commands ──► client ──── socket ────► server ──► requests ──► the daemon's loop
//!                  ◄──────────────────────  replies, also later and again  ◄──┘
//! ```
//!
//! [`message`] is what goes over the wire, and io.scnpm.varlink says it in Varlink's language; [`wire`] makes bytes of it and
//! calls of bytes. Both are pure. [`server`] has the connections and their limits, and never waits for a client; [`client`]
//! is for commands, and waits.

pub mod client;
pub mod message;
pub mod server;
pub mod wire;

/// The interface's name.
pub const INTERFACE: &str = "io.scnpm";

/// The interface in Varlink's language, as `varlinkctl introspect` shows it.
pub const DESCRIPTION: &str = include_str!("io.scnpm.varlink");

/// The interface by which systemd asks for metrics.
pub const METRICS: &str = "io.systemd.Metrics";

/// The same in Varlink's language.
pub const METRICS_DESCRIPTION: &str = include_str!("io.systemd.Metrics.varlink");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::Serialize;
    use serde_json::{Value, to_value};

    use super::{DESCRIPTION, message::*};
    use crate::model::{Direction, Location};

    /// The fields of each type, and of what each method takes and replies.
    fn described() -> BTreeMap<String, BTreeSet<String>> {
        let text: String =
            DESCRIPTION.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
        let mut found = BTreeMap::new();
        for (keyword, name, rest) in text
            .split("type ")
            .skip(1)
            .map(|rest| ("type", rest))
            .chain(text.split("method ").skip(1).map(|rest| ("method", rest)))
            .filter_map(|(keyword, rest)| {
                rest.split_once('(').map(|(name, rest)| (keyword, name.trim(), rest))
            })
        {
            let (fields, rest) = fields(rest);
            found.insert(name.to_owned(), fields);
            if keyword == "method" {
                let rest = rest.split_once("-> (").unwrap().1;
                found.insert(format!("{name} replies"), self::fields(rest).0);
            }
        }
        found
    }

    /// The names of fields up to the closing parenthesis, and what follows.
    fn fields(text: &str) -> (BTreeSet<String>, &str) {
        let mut depth = 0;
        let end = text
            .find(|character| {
                depth += i32::from(character == '(') - i32::from(character == ')');
                depth < 0
            })
            .unwrap();
        let names = text[..end]
            .split(':')
            .rev()
            .skip(1)
            .filter_map(|before| Some(before.rsplit([',', '(', ' ']).next()?.trim().to_owned()));
        (names.filter(|name| !name.is_empty()).collect(), &text[end + 1..])
    }

    fn names(value: &impl Serialize) -> BTreeSet<String> {
        match to_value(value).unwrap() {
            Value::Object(map) => map.into_iter().map(|(name, _)| name).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn description_has_the_fields_of_the_messages() {
        let some = || Some(String::new());
        let status = Status { load_error: some(), on_trial_ms: Some(1), ..Status::default() };
        let finding = Finding { unit: some(), help: some(), ..Finding::default() };
        let source = Source { words: some(), median_us: Some(1), worst_us: Some(1), ..Source::default() };
        let unit = Unit { packets: Some(1), bytes: Some(1), ..Unit::default() };
        let reloaded = Reloaded { words: some(), ..Reloaded::default() };
        let refusal = Refusal {
            uid: Some(1),
            app: some(),
            icmp_type: Some(1),
            host: some(),
            annotation: some(),
            ..Refusal::example()
        };
        let allow =
            Allow { protocol: some(), port: Some(1), direction: Some(Direction::In), ..Allow::default() };
        let location = Location { file: String::new(), line: 1 };
        let expected = BTreeMap::from([
            ("Location", names(&location)),
            ("File", names(&File::default())),
            ("Finding", names(&finding)),
            ("Source", names(&source)),
            ("Host", names(&Host { words: some(), ..Host::default() })),
            ("Instance", names(&Instance::default())),
            ("Unit", names(&unit)),
            ("Status", names(&status)),
            ("GetStatus", names(&GetStatus { unit: some() })),
            ("GetStatus replies", names(&StatusReply::default())),
            ("Wait", names(&Wait { cgroup: some(), unit: some() })),
            ("Wait replies", names(&Waited::default())),
            ("Reload", names(&Reload { try_ms: Some(1), color: true })),
            ("Reload replies", names(&reloaded)),
            ("Allowance", names(&Allowance::default())),
            ("Refusal", names(&refusal)),
            ("GetRefusals", names(&GetRefusals { unit: some(), since: Some(1) })),
            ("GetRefusals replies", names(&Refusals::default())),
            ("Allow", names(&allow)),
            ("Allow replies", names(&Allowed::default())),
            ("Disallow", names(&Disallow { number: Some(1) })),
            ("Disallow replies", names(&Disallowed::default())),
            ("Confirm", BTreeSet::new()),
            ("Confirm replies", BTreeSet::new()),
            ("Revert", BTreeSet::new()),
            ("Revert replies", BTreeSet::new()),
        ]);
        let expected: BTreeMap<String, BTreeSet<String>> =
            expected.into_iter().map(|(name, fields)| (name.to_owned(), fields)).collect();
        assert_eq!(described(), expected);
    }
}
