//! Whatever may come from the bus: tests/common/fuzz/dbus.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::dbus::check(input); });
