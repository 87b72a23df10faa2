//! What becomes of a packet: by a probe that the kernel traces, or else by reading the rules.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs, UdpSocket},
    path::{Path, PathBuf},
};

use super::{Found, Machine, known::Known, probe};
use crate::{
    commands::{Failure, units},
    explain::{
        self, Outcome, Packet, Process,
        facts::Place,
        path::Origins,
        reading::{self, Sent},
        ruleset::Ruleset,
        subject::Protocol,
        unit_of,
    },
    model::{CgroupId, CgroupPath},
    nft::Nftables,
    policy::{files::Files, parse},
    report::{
        explain::text,
        offer::{admission, offer},
    },
};

/// What is asked of a packet.
pub(super) struct Question {
    /// Where it is to go.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// Whether a packet may be sent to find out.
    pub(super) sends: bool,
}

/// Where a packet comes from.
struct Origin<'a> {
    path: &'a CgroupPath,
    process: Option<&'a Process>,
}

impl Machine {
    /// What becomes of the packet.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn packet(
        &self,
        found: &[Found],
        known: &Known,
        ruleset: &mut Ruleset,
        kernel: &mut Nftables,
        question: Question,
    ) -> Result<Packet, Failure> {
        let Origin { path, process } = self.origin(found)?;
        let addresses = addresses(&question.host, question.port)?;
        let to = addresses[0];
        let Question { host, port, protocol, sends } = question;
        let traced = match process {
            Some(process) if sends => probe::trace(kernel, process, path, protocol, to),
            Some(_) => Err("as --no-probe asks for".to_owned()),
            None => Err("it has no process of its own".to_owned()),
        };
        let origins =
            Origins { policy: &known.policy, dispatch: &known.dispatch, users: &known.users, cgroup: path };
        let (way, untraced) = match traced {
            Ok((events, own)) => (explain::Path::of_events(&events, &own, ruleset, &origins), None),
            Err(words) => {
                kernel.know_sets(ruleset);
                let sent = self.sent(path, process, protocol, to);
                (reading::read(&sent, ruleset, &origins), Some(words))
            }
        };
        let would_pass = would_pass(path, known, &way, (to, protocol));
        Ok(Packet {
            host,
            address: to.ip().to_string(),
            other_addresses: addresses[1..].iter().map(|one| one.ip().to_string()).collect(),
            port,
            protocol: protocol.as_str(),
            cgroup: Some(path.to_string()),
            untraced,
            path: way,
            would_pass,
        })
    }

    fn origin<'a>(&self, found: &'a [Found]) -> Result<Origin<'a>, Failure> {
        let [one] = found else {
            return Err(Failure::new("--to takes one unit or process, and several match: name one of them"));
        };
        let mut processes = one.processes.iter().filter(|process| !process.is_zombie());
        let process = processes.find(|process| process.cgroup.path().is_some());
        let place = process.map_or(&one.place, |process| &process.cgroup);
        let Place::In(path) = place else {
            return Err(Failure::new(format!(
                "{} has no cgroup that a packet could come from{}",
                text(&one.name),
                if matches!(one.place, Place::Unknown) { ": start it" } else { "" }
            )));
        };
        let elsewhere = process.filter(|one| one.network.is_some() && one.network != self.network);
        if let Some(Process { pid, .. }) = elsewhere {
            return Err(Failure::new(format!(
                "process {pid} is in another network namespace: `nsenter --target {pid} --net scnpm explain …` looks there"
            )));
        }
        Ok(Origin { path, process })
    }

    fn sent<'a>(
        &self,
        cgroup: &'a CgroupPath,
        process: Option<&Process>,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Sent<'a> {
        let ids = cgroup.prefixes().map_while(|path| self.by_path.get(&path).copied()).collect();
        let user = process.map(|process| (process.uid, process.gid));
        // An address that a socket can be bound to is one of this machine.
        let is_local = UdpSocket::bind((to.ip(), 0)).is_ok();
        Sent { protocol, to, is_local, cgroup, ids, user }
    }
}

/// The addresses of a host: at least one.
fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let resolved = (host, port).to_socket_addrs().map_err(|error| {
        let words = error.to_string();
        let words = words.strip_prefix("failed to lookup address information: ").unwrap_or(&words);
        Failure::new(format!(
            "`{}` cannot be looked up: {words}: name a host that has an address",
            text(host)
        ))
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in resolved {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(Failure::new(format!("`{}` has no address", text(host))));
    }
    Ok(addresses)
}

/// Annotations that let a packet through, if it is refused on its way out.
fn would_pass(
    path: &CgroupPath,
    known: &Known,
    way: &explain::Path,
    (to, protocol): (SocketAddr, Protocol),
) -> Vec<String> {
    let refusing = way.deciding().filter(|step| way.outcome != Outcome::Passes && step.hook == "output");
    let (Some(step), Some(instance)) = (refusing, unit_of(path)) else { return vec![] };
    let chain = way.place_for(step, &known.policy);
    let mut rows = units::rows(vec![(instance, CgroupId(0))], &known.policy);
    rows.truncate(1);
    let lines = offer(&rows, &chain.name, false).lines.into_iter();
    let lines =
        lines.filter_map(|line| admission(&line, chain.is_first, to.ip(), protocol.as_str(), to.port()));
    lines.filter(|line| is_annotation(line)).collect()
}

/// Whether a line is one annotation that nothing is wrong with.
fn is_annotation(line: &str) -> bool {
    parse::read(&Line(line), &[Path::new("offer")])
        .is_ok_and(|policy| policy.annotations.len() == 1 && policy.diagnostics.is_empty())
}

/// A line as a file.
struct Line<'a>(&'a str);

impl Files for Line<'_> {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(format!("{}\n", self.0).into_bytes())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        vec![]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offered_line_is_an_annotation_or_nothing() {
        let line = "# system:a.service :: add rule inet filter out socket cgroupv2 unit ip daddr 192.0.2.1 tcp dport 25 accept";
        assert!(is_annotation(line));
        for wrong in [
            &line.replace("inet filter out", "inet fil\"ter out"),
            &line.replace("system:a.service", "a b.service"),
            &format!("{line}\n{line}"),
        ] {
            assert!(!is_annotation(wrong), "{wrong}");
        }
    }

    #[test]
    fn host_has_each_address_once() {
        let found = addresses("127.0.0.1", 25).unwrap();
        assert_eq!(found, ["127.0.0.1:25".parse().unwrap()]);
        let error = addresses("no such\u{1b}host", 25).unwrap_err();
        assert!(!error.message.contains('\u{1b}'), "{}", error.message);
    }
}
