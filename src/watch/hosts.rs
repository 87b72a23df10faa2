//! Host names to addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, ToSocketAddrs},
};

use crate::policy::hosts::HostName;

/// Asks for a name once, and waits for the answer: its addresses of the family that is wanted.
///
/// # Errors
/// Why it has none.
pub fn look_up(host: &HostName) -> Result<BTreeSet<IpAddr>, String> {
    let all = (host.name.as_str(), 0).to_socket_addrs().map_err(|error| error.to_string())?;
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

    #[test]
    fn each_family_is_asked_for_by_itself() {
        let host = HostName { name: "127.0.0.1".into(), v6: false };
        assert_eq!(look_up(&host), Ok(BTreeSet::from(["127.0.0.1".parse().unwrap()])));
        assert_eq!(look_up(&HostName { v6: true, ..host }), Err("it has no IPv6 address".to_owned()));
    }
}
