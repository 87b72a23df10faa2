//! ASKING THE DAEMON. A Varlink service on a unix socket: calls and replies are JSON objects, each ended by a NUL
//! (<https://varlink.org/>).
//!
//! ```text
//! commands ──► client ──── socket ────► server ──► requests ──► the daemon's loop
//!                  ◄──────────────────────  replies, also later and again  ◄──┘
//! ```
//!
//! [`message`] is what goes over the wire, and io.scnpm.varlink says it in Varlink's language; [`wire`] makes bytes of it and
//! calls of bytes. Both are pure. [`server`] has the connections and their limits, and never waits for a client; [`client`]
//! is for commands, and waits.

pub mod client;
pub mod message;
pub mod server;
pub mod wire;

/// The interface's name.
pub const INTERFACE: &str = "io.scnpm";

/// The interface in Varlink's language, as `varlinkctl introspect` shows it.
pub const DESCRIPTION: &str = include_str!("io.scnpm.varlink");
