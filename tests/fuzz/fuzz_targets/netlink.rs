//! Whatever nfnetlink may send, as notifications and as answers: tests/common/fuzz/netlink.rs says what must hold.

#![no_main]

#[path = "../../common/fuzz/mod.rs"]
#[allow(dead_code)]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| { checks::netlink::check(input); });
