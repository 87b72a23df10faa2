//! Selectors, and cgroups of any names: tests/common/fuzz/selectors.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::selectors::check(input); });
