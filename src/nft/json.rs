//! Elements to libnftables' JSON. Pure.
//!
//! A cgroup's name belongs to whoever may make the directory, so it goes into a JSON string and never
//! into nft's own syntax.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::{Data, Element, Key, SetRef};

/// A batch that adds the elements, as one transaction.
pub fn add(elements: &[Element]) -> String {
    let mut sets: BTreeMap<&SetRef, Vec<Value>> = BTreeMap::new();
    for element in elements {
        sets.entry(&element.set).or_default().push(expression(element));
    }
    let commands = sets.into_iter().map(|(set, elements)| {
        json!({"add": {"element": {
            "family": set.table.family.as_str(),
            "table": set.table.name,
            "name": set.name,
            "elem": elements,
        }}})
    });
    json!({"nftables": commands.collect::<Vec<_>>()}).to_string()
}

fn expression(element: &Element) -> Value {
    let key = match &element.key {
        // A leading slash, since `*` and `@…` mean other things at the start of a string.
        Key::Cgroup(path) => json!(format!("/{path}")),
        Key::Everything => json!({"range": [0, u32::MAX]}),
    };
    match &element.data {
        None => key,
        Some(data) => json!([key, value(data)]),
    }
}

// The `nftables` crate's schema has `"accept"` for `{"accept": null}`, which nft refuses.
fn value(data: &Data) -> Value {
    match data {
        Data::Accept => json!({"accept": null}),
        Data::Drop => json!({"drop": null}),
        Data::Continue => json!({"continue": null}),
        Data::Return => json!({"return": null}),
        Data::Jump(chain) => json!({"jump": {"target": chain}}),
        Data::Goto(chain) => json!({"goto": {"target": chain}}),
        Data::Value(words) => match words.as_slice() {
            [word] => json!(word),
            words => json!({"concat": words}),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    fn set(name: &str) -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
    }

    fn element(name: &str, path: &str, data: Option<Data>) -> Element {
        Element { set: set(name), key: Key::Cgroup(path.parse().unwrap()), data }
    }

    fn parsed(elements: &[Element]) -> Value {
        serde_json::from_str(&add(elements)).unwrap()
    }

    #[test]
    fn elements_of_a_set_share_a_command() {
        let jump = Some(Data::Jump("scnpm.vpn.1.a".into()));
        let elements = [
            element("m", "a.slice/a.service", jump),
            element("s", "a.slice/a.service", None),
            element("m", "b.slice", Some(Data::Accept)),
        ];
        assert_eq!(
            parsed(&elements),
            json!({"nftables": [
                {"add": {"element": {"family": "inet", "table": "filter", "name": "m", "elem": [
                    ["/a.slice/a.service", {"jump": {"target": "scnpm.vpn.1.a"}}],
                    ["/b.slice", {"accept": null}],
                ]}}},
                {"add": {"element": {"family": "inet", "table": "filter", "name": "s", "elem": [
                    "/a.slice/a.service",
                ]}}},
            ]})
        );
    }

    #[test]
    fn a_gate_gets_the_range_of_all_marks() {
        let gate = Element { set: set("g"), key: Key::Everything, data: None };
        assert_eq!(
            parsed(&[gate])["nftables"][0]["add"]["element"]["elem"],
            json!([{"range": [0, 4_294_967_295_u32]}])
        );
    }

    #[test]
    fn values_are_strings_or_concatenations() {
        let elem = |words: &[&str]| {
            let data = Data::Value(words.iter().map(|word| (*word).to_owned()).collect());
            parsed(&[element("m", "a", Some(data))])["nftables"][0]["add"]["element"]["elem"][0][1].clone()
        };
        assert_eq!(elem(&["80"]), json!("80"));
        assert_eq!(elem(&["10.0.0.1", "80"]), json!({"concat": ["10.0.0.1", "80"]}));
    }

    #[test]
    fn hostile_names_stay_one_string() {
        for name in ["a\"b", "x;y", "sp ace", "new\nline", "\u{1b}[2J", "back\\slash", "*", "@x", "}{"] {
            let json = parsed(&[element("s", name, None)]);
            assert_eq!(json["nftables"][0]["add"]["element"]["elem"], json!([format!("/{name}")]));
        }
    }
}
