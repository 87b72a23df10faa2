//! What the kernel traces of one packet: a table of our own asks for it, and events come by netlink.
//!
//! The table belongs to the socket of our libnftables (nft(8), `flags owner`), so that the kernel removes it when this process
//! ends, in whatever way.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use libc::{NFT_MSG_TRACE, c_int};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, SockFlag, SockProtocol, recv, setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::{
    Kernel, Nftables, complaint,
    message::{Message, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, attribute, messages},
    netlink::{RECEIVE_BUFFER, connect},
};
use crate::{
    dispatch::Script,
    explain::{
        path::{Event, Verdict},
        subject::Protocol,
    },
};

/// `NFNLGRP_NFTRACE` as a bit of the mask at bind(2).
const GROUPS: u32 = 1 << (9 - 1);

// enum nft_trace_attributes, enum nft_trace_types
const NFTA_TRACE_CHAIN: u16 = 2;
const NFTA_TRACE_RULE_HANDLE: u16 = 3;
const NFTA_TRACE_TYPE: u16 = 4;
const NFTA_TRACE_VERDICT: u16 = 5;
const NFTA_TRACE_ID: u16 = 6;
const NFTA_TRACE_POLICY: u16 = 16;
const TYPE_POLICY: u32 = 1;
const TYPE_RULE: u32 = 3;

/// What the names of such tables begin with.
const TABLE: &str = "scnpm.trace.";

/// How long it must be quiet for a trace to be at its end, in microseconds.
const QUIET: i64 = 150_000;

/// The most events that are read: others may trace a lot.
const MOST: usize = 20_000;

/// The trace of the packets that match, until it is dropped.
#[derive(Debug)]
pub struct Trace<'a> {
    nftables: &'a mut Nftables,
    events: OwnedFd,
    table: String,
}

impl<'a> Trace<'a> {
    /// Has the first packet traced that is sent from a port to an address, and none else.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn begin(
        nftables: &'a mut Nftables,
        protocol: Protocol,
        port: u16,
        to: SocketAddr,
    ) -> Result<Self, String> {
        let socket = connect(SockProtocol::NetlinkNetFilter, SockFlag::SOCK_CLOEXEC, GROUPS);
        let events =
            socket.map_err(|error| format!("the kernel's trace cannot be read: {}", error.desc()))?;
        setsockopt(&events, sockopt::ReceiveTimeout, &TimeVal::new(0, QUIET))
            .map_err(|error| error.desc())?;
        let _ = setsockopt(&events, sockopt::RcvBufForce, &(4 << 20));
        let table = format!("{TABLE}{}", std::process::id());
        let commands = commands(&table, protocol, port, to);
        let script = Script::of(commands.iter().map(String::as_str));
        nftables.run(&script, false).map_err(|complaints| complaint::words(&complaints))?;
        Ok(Self { nftables, events, table })
    }

    /// The events of the packets, once there are no more. The own table's are among them.
    ///
    /// # Errors
    /// The system's.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        let mut found: Vec<Event> = Vec::new();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while found.len() < MOST {
            match recv(self.events.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => found.extend(messages(&buffer[..length]).filter_map(|message| event(&message))),
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(of_table(found, &self.table))
    }

    /// The name of the own table.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// The events of packets for which a table asked. The kernel makes a packet's id of its place in memory (nf_tables_trace.c,
/// nft_trace_init()), so one that another process has traced may have had the same a moment ago: a packet begins with the
/// rule that asks for it.
fn of_table(mut events: Vec<Event>, table: &str) -> Vec<Event> {
    let mut own = BTreeSet::new();
    events.retain(|event| {
        let name = &*event.chain.table.name;
        if event.rule.is_some() && name.starts_with(TABLE) {
            if name == table {
                own.insert(event.id)
            } else {
                own.remove(&event.id)
            };
        }
        own.contains(&event.id)
    });
    events
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        let script = Script::of([&*format!("delete table inet {}", self.table)]);
        // If this fails, the kernel does it at the end of the process.
        let _ = self.nftables.run(&script, false);
    }
}

/// What makes the table. All of its words are numbers and our own.
fn commands(table: &str, protocol: Protocol, port: u16, to: SocketAddr) -> Vec<String> {
    let family = if to.is_ipv4() { "ip" } else { "ip6" };
    let first = match protocol {
        // Neither answers nor what follows once it is connected.
        Protocol::Tcp => " tcp flags & (fin | syn | rst | ack) == syn",
        Protocol::Udp => "",
    };
    let ports = format!("{0} sport {port} {0} dport {1}", protocol.as_str(), to.port());
    let mut commands = vec![format!("create table inet {table} {{ flags owner; }}")];
    for (hook, address) in [
        ("output", format!("{family} daddr {} ", to.ip())),
        ("prerouting", String::new()),
        ("input", String::new()),
    ] {
        commands.push(format!(
            "add chain inet {table} {hook} {{ type filter hook {hook} priority {}; }}",
            i32::MIN
        ));
        commands.push(format!("add rule inet {table} {hook} {address}{ports}{first} meta nftrace set 1"));
    }
    commands
}

/// What a message tells of a packet.
fn event(message: &Message) -> Option<Event> {
    message.nf_tables().filter(|kind| *kind == NFT_MSG_TRACE)?;
    let kind = message.number(NFTA_TRACE_TYPE)?;
    let verdict = match kind {
        TYPE_POLICY => decoded(message.number(NFTA_TRACE_POLICY)? as c_int, None),
        _ => {
            let nest = attribute(message.payload.get(4..)?, NFTA_TRACE_VERDICT)?;
            let code = i32::from_be_bytes(attribute(nest, NFTA_VERDICT_CODE)?.try_into().ok()?);
            let chain = attribute(nest, NFTA_VERDICT_CHAIN);
            let chain = chain
                .map(|name| String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned());
            decoded(code, chain)
        }
    };
    Some(Event {
        id: message.number(NFTA_TRACE_ID)?,
        chain: message.chain(NFTA_TRACE_CHAIN)?,
        rule: if kind == TYPE_RULE { Some(message.long_number(NFTA_TRACE_RULE_HANDLE)?) } else { None },
        is_policy: kind == TYPE_POLICY,
        verdict,
    })
}

/// `enum nft_verdicts`, and those of netfilter, of which a queue has its number in the high bits.
fn decoded(code: c_int, chain: Option<String>) -> Verdict {
    match (code, chain) {
        (0, _) => Verdict::Drop,
        (1, _) => Verdict::Accept,
        (-1, _) => Verdict::Continue,
        (-3, Some(chain)) => Verdict::Jump(chain),
        (-4, Some(chain)) => Verdict::Goto(chain),
        (-5, _) => Verdict::Return,
        (code, _) if code > 0 && code & 0xff == 3 => Verdict::Queue,
        (code, _) if code & 0xff == 0 => Verdict::Drop,
        (code, _) => Verdict::Other(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_asks_for_one_packet_only() {
        let commands = commands("scnpm.trace.7", Protocol::Tcp, 40000, "192.0.2.1:25".parse().unwrap());
        assert_eq!(commands[0], "create table inet scnpm.trace.7 { flags owner; }");
        assert_eq!(
            commands[2],
            "add rule inet scnpm.trace.7 output ip daddr 192.0.2.1 tcp sport 40000 tcp dport 25 \
             tcp flags & (fin | syn | rst | ack) == syn meta nftrace set 1"
        );
        let commands = super::commands("t", Protocol::Udp, 1, "[2001:db8::1]:53".parse().unwrap());
        assert_eq!(
            commands[2],
            "add rule inet t output ip6 daddr 2001:db8::1 udp sport 1 udp dport 53 meta nftrace set 1"
        );
        assert_eq!(commands.len(), 7);
    }

    #[test]
    fn packets_of_the_same_id_are_told_apart_by_who_asks_for_them() {
        let event = |table: &str, rule: bool| Event {
            id: 7,
            chain: crate::model::ChainRef {
                table: crate::model::TableRef { family: crate::model::Family::Inet, name: table.into() },
                name: "output".into(),
            },
            rule: rule.then_some(1),
            is_policy: !rule,
            verdict: Verdict::Continue,
        };
        let events = vec![
            event("scnpm.trace.1", true),
            event("scnpm.trace.2", false),
            event("filter", true),
            event("scnpm.trace.2", true),
            event("scnpm.trace.1", false),
            event("filter", false),
        ];
        assert_eq!(of_table(events.clone(), "scnpm.trace.1"), events[..3]);
        assert_eq!(of_table(events.clone(), "scnpm.trace.2"), events[3..]);
    }

    #[test]
    fn verdicts_are_told_apart() {
        assert_eq!(decoded(-3, Some("c".to_owned())), Verdict::Jump("c".to_owned()));
        assert_eq!(decoded(0x0001_0003, None), Verdict::Queue);
        assert_eq!(decoded(1 << 16, None), Verdict::Drop);
    }
}
