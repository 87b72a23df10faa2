//! Host names to addresses, apart from the loop: each name is asked for until it has an address, with growing pauses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use crate::policy::hosts::HostName;

/// The first pause; each following one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// An answer of the resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name.
    pub host: HostName,
    /// Its addresses of the family that was asked for, or why there are none.
    pub addresses: Result<BTreeSet<IpAddr>, String>,
}

/// Asks for names in the background.
#[derive(Debug)]
pub struct Resolver {
    answers: mpsc::Sender<Answer>,
    asking: BTreeMap<HostName, JoinHandle<()>>,
}

impl Resolver {
    /// A resolver, and where its answers arrive.
    pub fn new() -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(16);
        (Self { answers, asking: BTreeMap::new() }, receiver)
    }

    /// Asks for these names, and no longer for any others. A name that is being asked for goes on as it is.
    pub fn ask(&mut self, names: BTreeSet<HostName>) {
        self.asking.retain(|name, task| {
            let wanted = names.contains(name) && !task.is_finished();
            if !wanted {
                task.abort();
            }
            wanted
        });
        for name in names {
            let answers = self.answers.clone();
            let task = |name: &HostName| tokio::spawn(ask(name.clone(), answers));
            self.asking.entry(name).or_insert_with_key(task);
        }
    }
}

async fn ask(host: HostName, answers: mpsc::Sender<Answer>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let addresses = look_up(&host).await;
        let found = addresses.is_ok();
        let gone = answers.send(Answer { host: host.clone(), addresses }).await.is_err();
        if found || gone {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn look_up(host: &HostName) -> Result<BTreeSet<IpAddr>, String> {
    let all = tokio::net::lookup_host((host.name.as_str(), 0)).await.map_err(|error| error.to_string())?;
    of_family(host, all)
}

/// Asks for a name once, and waits for the answer.
///
/// # Errors
/// Why it has no address of its family.
pub fn look_up_now(host: &HostName) -> Result<BTreeSet<IpAddr>, String> {
    let all = (host.name.as_str(), 0).to_socket_addrs().map_err(|error| error.to_string())?;
    of_family(host, all)
}

fn of_family(host: &HostName, all: impl Iterator<Item = SocketAddr>) -> Result<BTreeSet<IpAddr>, String> {
    let family: BTreeSet<IpAddr> =
        all.map(|address| address.ip()).filter(|address| address.is_ipv6() == host.v6).collect();
    if family.is_empty() {
        return Err(format!("it has no {} address", if host.v6 { "IPv6" } else { "IPv4" }));
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_family_is_asked_for_by_itself() {
        let (mut resolver, mut answers) = Resolver::new();
        let host = HostName { name: "127.0.0.1".into(), v6: false };
        resolver.ask(BTreeSet::from([host.clone()]));
        let answer = answers.recv().await.unwrap();
        assert_eq!(answer.addresses.unwrap(), BTreeSet::from(["127.0.0.1".parse().unwrap()]));
        resolver.ask(BTreeSet::from([HostName { v6: true, ..host }]));
        assert_eq!(answers.recv().await.unwrap().addresses.unwrap_err(), "it has no IPv6 address");
    }
}
