//! W001, W008 and W009 for elements: sets that no packet is looked up in, or not at the level of a path.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Calls, set_of};
use crate::{
    gather::Gather,
    model::{CgroupPath, Data, SetRef, TableRef},
    policy::{ElementStatement, Policy, Statement},
    text::{Code, Diagnostic, FileId, ItemKind, Outline, Span, Token, TokenKind, diagnostic::quoted},
};

/// What is wrong with a set is said at its first element.
pub(super) fn lint(policy: &Policy, calls: &Calls<'_>) -> Vec<Diagnostic> {
    let mut statements = policy.annotations.iter().filter_map(|annotation| match &annotation.statement {
        Statement::Element(statement) => Some(statement),
        Statement::Rule(_) => None,
    });
    let statements: Vec<&ElementStatement> = statements.by_ref().collect();
    if statements.is_empty() {
        return Vec::new();
    }
    let levels = levels(policy);
    let mut seen = BTreeSet::new();
    let mut diagnostics = Vec::new();
    for statement in statements {
        if seen.insert(&statement.set) {
            diagnostics.extend(not_looked_up(statement, calls));
        }
        if let Some(found) = levels.get(&statement.set)
            && found.len() >= calls.lookups(&statement.set).len()
            && !found.contains(&None)
        {
            let found: Vec<u32> = found.iter().copied().flatten().gather();
            let elements = statement.elements.iter();
            diagnostics.extend(elements.filter_map(|element| of_no_level(element, &statement.set, &found)));
        }
    }
    diagnostics
}

fn not_looked_up(statement: &ElementStatement, calls: &Calls<'_>) -> Option<Diagnostic> {
    if !calls.ruleset.has_set(&statement.set) {
        return None;
    }
    let name = quoted(&statement.set.to_string());
    let lookups = calls.lookups(&statement.set);
    let (code, message, help) = if lookups.is_empty() {
        let look_up = look_up(statement.elements.first().and_then(|(.., data)| data.as_ref()));
        let help = format!("write a rule with `socket cgroupv2 level N {look_up}@{}`", statement.set.name);
        (Code::NotReached, format!("no rule looks anything up in {name}"), help)
    } else if lookups.iter().all(|lookup| calls.hooks(&lookup.chain).is_some_and(BTreeSet::is_empty)) {
        let chain = &lookups[0].chain;
        let message = format!(
            "{name} is only looked up in the chain {}, which nothing calls",
            quoted(&chain.to_string())
        );
        (Code::NotReached, message, format!("call it in a chain of a hook, with `jump {}`", chain.name))
    } else {
        let verdicts: Option<Vec<_>> = lookups.iter().map(|lookup| calls.decided_before(lookup)).collect();
        let verdict = verdicts?[0];
        let chain = quoted(&lookups[0].chain.to_string());
        let message =
            format!("{name} is looked up after a rule of {chain} that decides every packet: `{verdict}`");
        (Code::AfterVerdict, message, format!("move that rule behind the one with `@{}`", statement.set.name))
    };
    Some(Diagnostic::new(code, statement.set_span, message).help(help))
}

fn of_no_level(
    (path, span, data): &(CgroupPath, Span, Option<Data>),
    set: &SetRef,
    levels: &[u32],
) -> Option<Diagnostic> {
    let names = path.components().count();
    if levels.iter().any(|level| usize::try_from(*level) == Ok(names)) {
        return None;
    }
    let plural = if names == 1 { "" } else { "s" };
    let list: Vec<String> = levels.iter().map(u32::to_string).collect();
    let message = format!(
        "{} is looked up at level {}, which never matches a path with {names} name{plural}",
        quoted(&set.to_string()),
        list.join(" and ")
    );
    let look_up = look_up(data.as_ref());
    let help = format!("add a rule that looks it up: `socket cgroupv2 level {names} {look_up}@{}`", set.name);
    Some(Diagnostic::new(Code::Level, *span, message).help(help))
}

/// What stands in front of a set or map by which rules look something up.
fn look_up(data: Option<&Data>) -> &'static str {
    match data {
        None => "",
        Some(Data::Value(_)) => "map ",
        Some(_) => "vmap ",
    }
}

/// The levels at which rules look cgroups up in sets and maps, one for each time; none for what cannot be told.
fn levels(policy: &Policy) -> BTreeMap<SetRef, Vec<Option<u32>>> {
    let mut found: BTreeMap<SetRef, Vec<Option<u32>>> = BTreeMap::new();
    let mut read = |table: &TableRef, tokens: &[&Token]| {
        let references = tokens.iter().enumerate().filter(|(_, token)| token.kind == TokenKind::SetReference);
        for (at, token) in references {
            found.entry(set_of(table, &token.text)).or_default().push(level_before(&tokens[..at]));
        }
    };
    for annotation in &policy.annotations {
        if let Some(rule) = annotation.rule() {
            let tokens: Vec<&Token> = rule.body.iter().filter_map(|part| part.token()).collect();
            read(&rule.chain.table, &tokens);
        }
    }
    for (number, file) in policy.sources.files.iter().enumerate().filter(|(_, file)| file.text.contains('@'))
    {
        let outline = Outline::of(FileId(number), &file.text);
        for item in &outline.items {
            if let ItemKind::Rule(chain, _) = &item.kind {
                read(&chain.table, &outline.tokens_of(item).iter().collect::<Vec<_>>());
            }
        }
    }
    found
}

/// N of the `socket cgroupv2 level N` that ends here, perhaps with an operator, `map` or `vmap`.
fn level_before(tokens: &[&Token]) -> Option<u32> {
    let [.., last] = tokens else { return None };
    let is_between = last.is_any(&["==", "!=", "eq", "ne", "map", "vmap"]);
    let [.., socket, cgroupv2, level, number] = &tokens[..tokens.len() - usize::from(is_between)] else {
        return None;
    };
    let is_match = socket.is("socket") && cgroupv2.is("cgroupv2") && level.is("level");
    number.text.parse().ok().filter(|_| is_match)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Ruleset,
        testing::{jump, listing, messages, place, verdict, with_ruleset},
    };
    use serde_json::{Value, json};

    const ELEMENT: &str = "# a.service :: add element inet f s { \"system.slice/a.service\" }";

    fn by_set() -> Value {
        json!([{"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": "@s"}}, verdict("accept")])
    }

    fn of(base: Vec<Value>, own: Vec<Value>) -> Ruleset {
        let mut listing = listing(&[("b", Some(("output", "drop")), base), ("c", None, own)]);
        let set = json!({"set": {"family": "inet", "name": "s", "table": "f", "type": "cgroupsv2"}});
        listing["nftables"].as_array_mut().unwrap().push(set);
        Ruleset::of(&listing)
    }

    fn said(code: Code, text: &str, ruleset: &Ruleset) -> Vec<String> {
        messages(code, text, with_ruleset(ruleset))
    }

    #[test]
    fn set_that_nothing_looks_up_is_told_once() {
        let twice = format!("{ELEMENT}\n{}", ELEMENT.replace("a.service", "b.service"));
        let nothing = of(vec![], vec![]);
        assert_eq!(said(Code::NotReached, &twice, &nothing), ["no rule looks anything up in `inet f s`"]);
        let uncalled = of(vec![], vec![by_set()]);
        assert_eq!(
            said(Code::NotReached, &twice, &uncalled),
            ["`inet f s` is only looked up in the chain `inet f c`, which nothing calls"]
        );
        for right in [of(vec![by_set()], vec![]), of(vec![json!([jump("c")])], vec![by_set()])] {
            assert_eq!(said(Code::NotReached, &twice, &right), [] as [&str; 0]);
        }
        let annotated =
            format!("{ELEMENT}\n# a.service :: add rule inet f b socket cgroupv2 level 2 @s accept");
        assert_eq!(said(Code::NotReached, &annotated, &nothing), [] as [&str; 0]);
    }

    #[test]
    fn lookup_that_comes_too_late_is_told() {
        let late = of(vec![json!([verdict("accept")]), by_set()], vec![]);
        assert_eq!(
            said(Code::AfterVerdict, ELEMENT, &late),
            ["`inet f s` is looked up after a rule of `inet f b` that decides every packet: `accept`"]
        );
        let in_time = of(vec![by_set(), json!([verdict("accept")]), by_set()], vec![]);
        assert_eq!(said(Code::AfterVerdict, ELEMENT, &in_time), [] as [&str; 0]);
    }

    #[test]
    fn level_at_which_the_set_is_looked_up_decides() {
        let ruleset = of(vec![by_set()], vec![]);
        let deep = "user.slice/user-1000.slice/user@1000.service/app.slice/a.scope";
        let file = |rule: &str| {
            format!(
                "table inet f {{ set s {{ type cgroupsv2; }} chain b {{\n{rule}\n}} }}\n\
                 # a.scope :: add element inet f s {{ \"{deep}\", \"system.slice/a.service\" }}"
            )
        };
        let text = file("socket cgroupv2 level 2 @s accept");
        let found = super::super::testing::found(Code::Level, &text, with_ruleset(&ruleset));
        assert_eq!(
            found.iter().map(|one| (place(&text, one), one.message.as_str())).collect::<Vec<_>>(),
            [(deep, "`inet f s` is looked up at level 2, which never matches a path with 5 names")]
        );
        for rule in [
            "socket cgroupv2 level 2 @s accept; socket cgroupv2 level 5 == @s accept",
            "socket cgroupv2 level 2 . tcp dport @s accept",
            "socket cgroupv2 level $n @s accept",
            "tcp dport 1 accept",
        ] {
            assert_eq!(said(Code::Level, &file(rule), &ruleset), [] as [&str; 0], "{rule}");
        }
        // One of the lookups is not in the text.
        let twice = of(vec![by_set(), by_set()], vec![]);
        assert_eq!(said(Code::Level, &text, &twice), [] as [&str; 0]);
    }
}
