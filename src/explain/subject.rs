//! What is asked for, and where a packet is to go, as they are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::printable;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A process if there is one of this number, else a port if it can be one.
    Number(u32),
    /// A process.
    Pid(u32),
    /// A socket with this local port, and one of these addresses if there are any.
    Port(Vec<IpAddr>, u16),
    /// A unit, a selector, or a part of a name.
    Unit(String),
}

impl Subject {
    /// Takes apart what was written.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("nothing to explain: name a process's id, a unit, or a port".to_owned());
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(0) | Err(_) => Err(format!("{text} is the number of no process and no port")),
                Ok(number) => Ok(Self::Number(number)),
            };
        }
        match text.split_once(':').filter(|_| text.parse::<IpAddr>().is_err()) {
            Some(("pid", number)) => match number.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(format!("`{}` is not a process's id: write pid:1234", printable(number))),
            },
            Some(("port" | "", number)) => port(number).map(|port| Self::Port(vec![], port)),
            _ => address(text),
        }
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Number(_) | Self::Pid(_) => "pid",
            Self::Port(addresses, _) if addresses.is_empty() => "port",
            Self::Port(..) => "address",
            Self::Unit(_) => "unit",
        }
    }
}

/// An address and a port, or else a unit: units' names and selectors have colons, too.
fn address(text: &str) -> Result<Subject, String> {
    if text.parse::<IpAddr>().is_ok() {
        let of = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
        return Err(format!("the port is missing: write {of}:25"));
    }
    let Some((host, number)) = text.rsplit_once(':') else { return Ok(Subject::Unit(text.to_owned())) };
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let addresses = match plain {
        "*" | "local" => vec![],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => match plain.parse() {
            Ok(address) => vec![address],
            Err(_) => return Ok(Subject::Unit(text.to_owned())),
        },
    };
    Ok(Subject::Port(addresses, port(number)?))
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{}` is not a port: write a number from 1 to 65535", printable(text))),
    }
}

/// The protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As it is written.
    ///
    /// # Errors
    /// It is none that a packet can be asked about.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!(
                "`{}` is not a protocol that can be asked about: write --proto tcp or --proto udp",
                printable(text)
            )),
        }
    }

    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// `HOST:PORT`: the host, and the port.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn destination(text: &str) -> Result<(String, u16), String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Err(format!("the port is missing, or the brackets: write --to [{address}]:443"));
    }
    let Some((host, number)) = text.rsplit_once(':') else {
        return Err(format!("the port is missing: write --to {}:443", printable(text)));
    };
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok()),
        None => Some(host).filter(|host| !host.contains([':', ']', '/', ' '])),
    };
    match bare {
        Some("") => Err(format!("the host is missing: write --to HOST:{}", printable(number))),
        Some(host) => Ok((host.to_owned(), port(number)?)),
        None => Err(format!(
            "`{}` is not a host: write --to HOST:PORT, or --to [ADDRESS]:PORT for IPv6",
            printable(host)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_told_apart() {
        let unit = |text: &str| Ok(Subject::Unit(text.to_owned()));
        for (text, expected) in [
            ("25", Ok(Subject::Number(25))),
            ("70000", Ok(Subject::Number(70000))),
            ("pid:25", Ok(Subject::Pid(25))),
            (":25", Ok(Subject::Port(vec![], 25))),
            ("port:25", Ok(Subject::Port(vec![], 25))),
            ("*:25", Ok(Subject::Port(vec![], 25))),
            ("127.0.0.1:25", Ok(Subject::Port(vec!["127.0.0.1".parse().unwrap()], 25))),
            ("[::1]:25", Ok(Subject::Port(vec!["::1".parse().unwrap()], 25))),
            (
                "localhost:25",
                Ok(Subject::Port(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()], 25)),
            ),
            ("postfix.service", unit("postfix.service")),
            ("alice:app:firefox", unit("alice:app:firefox")),
            ("1000:app:firefox", unit("1000:app:firefox")),
            ("dbus-:1.2-org.example@0.service", unit("dbus-:1.2-org.example@0.service")),
        ] {
            assert_eq!(Subject::parse(text), expected, "{text}");
        }
        for (text, words) in [
            ("", "nothing to explain"),
            ("0", "0 is the number of no process"),
            ("99999999999", "is the number of no process"),
            ("pid:x", "`x` is not a process's id: write pid:1234"),
            (":0", "`0` is not a port"),
            ("port:70000", "write a number from 1 to 65535"),
            ("127.0.0.1:x", "`x` is not a port"),
            ("127.0.0.1", "the port is missing: write 127.0.0.1:25"),
            ("::1:25", "write [::1:25]:25"),
        ] {
            let error = Subject::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn destination_has_a_host_and_a_port() {
        assert_eq!(destination("mail.example:25"), Ok(("mail.example".to_owned(), 25)));
        assert_eq!(destination("[::1]:25"), Ok(("::1".to_owned(), 25)));
        for (text, words) in [
            ("mail", "the port is missing: write --to mail:443"),
            ("::1", "the port is missing, or the brackets: write --to [::1]:443"),
            (":25", "the host is missing: write --to HOST:25"),
            ("mail:smtp", "`smtp` is not a port"),
            ("mail:0", "`0` is not a port"),
            ("http://mail:25", "is not a host"),
            ("[mail]:25", "is not a host"),
        ] {
            let error = destination(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(Protocol::parse("UDP"), Ok(Protocol::Udp));
        assert!(Protocol::parse("tpc").unwrap_err().contains("write --proto tcp"));
    }
}
