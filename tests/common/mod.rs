//! What the kernel tests share.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod policy;
pub mod sandbox;

/// The program that is tested: the one that the environment variable `SCNPM_TESTED` names, or that of the build.
pub fn program() -> &'static str {
    static PROGRAM: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let built = env!("CARGO_BIN_EXE_scnpm");
    PROGRAM.get_or_init(|| std::env::var("SCNPM_TESTED").unwrap_or_else(|_| built.to_owned()))
}

/// A table of the family inet.
pub fn table(name: &str) -> scnpm::model::TableRef {
    scnpm::model::TableRef { family: scnpm::model::Family::Inet, name: name.into() }
}
