//! `scnpm top`: units with rules, their traffic, connections and refusals, in a terminal.
//!
//! ```text
//! terminal, signals, daemon ──► events ──► state ──► screen     (feeds, state, view)
//!                                            └────► actions     (explain, allow, quit)
//! ```

#[cfg(feature = "top")]
mod feeds;
#[cfg(feature = "top")]
mod pane;
#[cfg(feature = "top")]
mod rows;
#[cfg(feature = "top")]
mod screen;
#[cfg(feature = "top")]
mod state;
#[cfg(feature = "top")]
mod terminal;
#[cfg(feature = "top")]
#[cfg(test)]
mod testing;
#[cfg(feature = "top")]
mod view;
#[cfg(feature = "top")]
#[cfg(feature = "top")]
mod words;

#[cfg(feature = "top")]
pub use screen::run;

/// Says that it is not there.
///
/// # Errors
/// Always.
#[cfg(not(feature = "top"))]
pub fn run(_options: &crate::cli::Top) -> Result<std::process::ExitCode, super::Failure> {
    Err(super::Failure::new(
        "this scnpm was built without its view for terminals (cargo build --features top): `scnpm status --watch` shows \
         much of the same",
    ))
}
