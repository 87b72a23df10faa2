//! Clients of the control socket, and daemons that answer commands: tests/common/fuzz/control.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::control::check(input); });
