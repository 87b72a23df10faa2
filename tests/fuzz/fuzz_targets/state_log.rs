//! Files that are taken for a state log, told to the engine: tests/common/fuzz/state_log.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::state_log::check(input); });
