//! Entries of the journal, whoever wrote them: tests/common/fuzz/journal.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::journal::check(input); });
