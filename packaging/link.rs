//! Cargo's build script: has the linker make the released program as small as it can.

use std::{
    env,
    ffi::OsStr,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// One copy of functions that are the same; relocations in the short form (glibc 2.36); and no tables for unwinding, which
/// nothing does: a panic ends the process, and a backtrace would have no names. Linkers know different ones of these.
const SMALLER: [&str; 3] = [
    "-Wl,--icf=all",
    "-Wl,-z,pack-relative-relocs",
    concat!("-Wl,-T,", env!("CARGO_MANIFEST_DIR"), "/packaging/link.ld"),
];

fn main() {
    println!("cargo::rerun-if-changed=packaging/link.rs");
    println!("cargo::rerun-if-changed=packaging/link.ld");
    if env::var_os("PROFILE").as_deref() == Some(OsStr::new("release")) {
        for option in SMALLER.iter().filter(|option| links_with(option).unwrap_or(false)) {
            println!("cargo::rustc-link-arg-bins={option}");
        }
    }
}

/// Whether the linker that the compiler uses takes an option. None if that cannot be tried.
fn links_with(option: &str) -> Option<bool> {
    let mut rustc = Command::new(env::var_os("RUSTC")?);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    rustc.arg("--target").arg(env::var_os("TARGET")?);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-Clinker").arg(linker);
    }
    rustc
        .arg(format!("-Clink-arg={option}"))
        .arg("-o")
        .arg(Path::new(&env::var_os("OUT_DIR")?).join("tried"))
        .arg("-");
    let mut running = rustc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    running.stdin.take()?.write_all(b"fn main() {}").ok()?;
    Some(running.wait().ok()?.success())
}
