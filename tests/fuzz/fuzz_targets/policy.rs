//! Up to three files of any bytes: no panic, no hang, and every place is a place in its file.

#![no_main]

#[path = "../../common/invariants.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| invariants::check(&invariants::read(input)));
