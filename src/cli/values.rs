//! What stands behind options and in place of arguments: times, destinations, prefixes, chains.

use std::{str::FromStr, time::Duration};

use crate::model::{ChainRef, TableRef};

/// A host, addresses, and a port of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// An address, a prefix, or a host's name.
    pub host: String,
    /// The port, if only that is meant.
    pub port: Option<u16>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => {
                (host, Some(rest.strip_prefix(':').ok_or("a `:` and a port come behind the `]`")?))
            }
            // More than one colon: an address of IPv6 without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let wrong = |port: &str| format!("`{port}` is not a port: write a number from 1 to 65535");
        let number = |port: &str| port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong(port));
        if host.is_empty() {
            return Err("the address is missing".to_owned());
        }
        Ok(Self { host: host.to_owned(), port: port.map(number).transpose()? })
    }
}

/// A time in seconds, such as `5`, `0.5`, `500ms` or `2min`.
///
/// # Errors
/// It is none.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: write seconds such as 5 or 0.5, or 500ms, 5s, 2min");
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => (
            text[..at].trim_end(),
            match &text[at..] {
                "ms" => 0.001,
                "s" => 1.0,
                "min" | "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            },
        ),
        None => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

/// A time that is long enough to be waited for again and again.
///
/// # Errors
/// It is too short, or none.
pub fn delay(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        delay if delay < Duration::from_millis(100) => {
            Err(format!("`{text}` is too short: 100ms is the least"))
        }
        delay => Ok(delay),
    }
}

/// A time for which something can be allowed.
pub(super) fn seconds_of_a_day(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let time = seconds(text)?;
    if time < Duration::from_secs(1) {
        return Err(format!("`{text}` is shorter than a second"));
    }
    if time > LONGEST {
        return Err(format!("`{text}` is longer than 24 hours: write a rule for it"));
    }
    Ok(time)
}

/// Lengths of prefixes of IPv4 and IPv6.
pub(super) fn prefixes(text: &str) -> Result<(u8, u8), String> {
    const OF_V6: &str = "64";
    let (v4, v6) = text.split_once(',').unwrap_or((text, OF_V6));
    let length = |text: &str, most: u8| {
        text.trim().parse().ok().filter(|length| (1..=most).contains(length)).ok_or_else(|| {
            format!("`{text}` is not a prefix length: write a number from 1 to {most}, such as 24 or 24,56")
        })
    };
    Ok((length(v4, 32)?, length(v6, 128)?))
}

/// A chain as rules name it.
pub(super) fn chain(text: &str) -> Result<ChainRef, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_name = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.\\/".contains(&byte))
    };
    match words[..] {
        [family @ ("ip" | "ip6" | "inet"), table, chain] if is_name(table) && is_name(chain) => {
            Ok(ChainRef {
                table: TableRef { family: family.parse().map_err(|()| String::new())?, name: table.into() },
                name: chain.into(),
            })
        }
        _ => Err(format!(
            "`{text}` is not a chain: write a family, a table and a chain, such as `inet filter services`"
        )),
    }
}
