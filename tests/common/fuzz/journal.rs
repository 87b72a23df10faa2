//! What holds of each entry of the journal, whoever wrote it.
//!
//! An input is entries in the journal's export format (systemd-journal-export-formats(7)): as `journalctl -o export` has it.

use std::{convert::Infallible, ffi::CStr};

use scnpm::{
    model::UnitName,
    watch::{Heard, entry},
};

/// The fields that are looked at.
const FIELDS: [&str; 6] = ["_SYSTEMD_UNIT", "UNIT", "USER_UNIT", "JOB_RESULT", "MESSAGE_ID", "MESSAGE"];

/// Panics if something does not hold. What was heard.
pub fn check(input: &[u8]) -> Vec<Heard> {
    let entries = entries(input);
    entries.iter().flat_map(|entry| check_entry(entry)).collect()
}

struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

fn check_entry(fields: &[Field]) -> Vec<Heard> {
    let heard = entry::heard(|name| Ok::<_, Infallible>(text(fields, name))).unwrap();
    let is_systems = value(fields, "_SYSTEMD_UNIT").as_deref() == Some("init.scope");
    let unit = value(fields, if is_systems { "UNIT" } else { "USER_UNIT" }).map(|name| UnitName(name.into()));
    match (unit, &heard[..]) {
        (None, []) => {}
        (Some(unit), [first, states @ ..]) => {
            let is_done = is_systems && value(fields, "JOB_RESULT").as_deref() == Some("done");
            let expected = if is_done { Heard::JobDone } else { Heard::Changed };
            assert_eq!(*first, expected(unit.clone()));
            assert!(states.len() <= usize::from(is_systems && value(fields, "MESSAGE_ID").is_some()));
            assert!(states.iter().all(|state| matches!(state, Heard::State(of, _) if *of == unit)));
        }
        (unit, heard) => panic!("{heard:?} of {unit:?}"),
    }
    check_that_other_fields_say_nothing(fields, &heard);
    check_that_errors_are_passed_on(fields);
    heard
}

fn check_that_other_fields_say_nothing(fields: &[Field], heard: &[Heard]) {
    let is_known = |name: &CStr| FIELDS.iter().any(|field| field.as_bytes() == name.to_bytes());
    let of_few = entry::heard(|name| Ok::<_, Infallible>(text(fields, name).filter(|_| is_known(name))));
    assert_eq!(of_few.unwrap(), heard);
}

fn check_that_errors_are_passed_on(fields: &[Field]) {
    for failing in FIELDS {
        let mut has_failed = false;
        let heard = entry::heard(|name| {
            has_failed |= name.to_bytes() == failing.as_bytes();
            if has_failed { Err(failing) } else { Ok(text(fields, name)) }
        });
        assert_eq!(heard.is_err(), has_failed);
    }
}

fn value(fields: &[Field], name: &str) -> Option<String> {
    let field = fields.iter().find(|field| field.name == name.as_bytes())?;
    Some(String::from_utf8_lossy(field.value).into_owned())
}

fn text(fields: &[Field], name: &CStr) -> Option<String> {
    value(fields, name.to_str().expect("the names are ASCII"))
}

/// The entries, between empty lines.
fn entries(mut input: &[u8]) -> Vec<Vec<Field<'_>>> {
    let mut entries = vec![Vec::new()];
    while !input.is_empty() {
        let (line, rest) = cut(input);
        input = rest;
        match line.iter().position(|byte| *byte == b'=') {
            _ if line.is_empty() => entries.push(Vec::new()),
            Some(at) => push(&mut entries, Field { name: &line[..at], value: &line[at + 1..] }),
            // What has a line's end in it comes with its length, of 8 bytes, in front.
            None => {
                let Some((length, rest)) = input.split_first_chunk() else { break };
                let length =
                    usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
                push(&mut entries, Field { name: line, value: &rest[..length] });
                input = rest[length..].strip_prefix(b"\n").unwrap_or(&rest[length..]);
            }
        }
    }
    entries
}

fn push<'a>(entries: &mut [Vec<Field<'a>>], field: Field<'a>) {
    entries.last_mut().unwrap().push(field);
}

fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}
