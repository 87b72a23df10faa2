//! scnpm keeps nftables rules in step with the systemd units and cgroups that they name.
//!
//! ```text
//! nftables.conf ──► policy ──► dispatch ──► kernel, once per load        (native syntax, one transaction)
//!                                 │
//! cgroupfs, D-Bus, journal ──► engine ──► batches of elements            (one transaction per change)
//!                                 ▲
//!                                 └── nftables notifications, signals, timers
//!
//! scnpm check:    policy ──► trial, what nft refuses: a load in namespaces of its own
//!                    │         │
//!                    └─────────┴──► lint, what nft accepts and what goes wrong later
//!                                      └──► findings, merged for check and the daemon alike
//! ```
//!
//! `policy`, `answers`, `lint`, `dispatch`, `engine`, `explain` and `findings` are pure: no I/O, no clock. `nft`, `watch`,
//! `cgroupfs` and `machine` touch the machine, `load`, `effects`, `trial` and `daemon` bring the two together, `report` prints.

pub mod answers;
pub mod cgroupfs;
pub mod cli;
pub mod commands;
pub mod control;
pub mod daemon;
pub mod dispatch;
pub mod effects;
pub mod engine;
pub mod explain;
pub mod findings;
pub mod gather;
pub mod lint;
pub mod load;
pub mod log;
pub mod machine;
pub mod model;
pub mod names;
pub mod nft;
pub mod policy;
pub mod record;
pub mod report;
pub mod text;
pub mod trial;
pub mod units;
pub mod watch;
