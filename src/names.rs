//! Names of hosts and of users to what they stand for: looked up in this process, or by a service that may use the network
//! while this process may not.
//!
//! The service reads one question from each connection and answers it, each as JSON. Whoever answers a look-up may be slow.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, ToSocketAddrs},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::unistd::User;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{gather::Gather, model::HostName};

/// How long the service may take for an answer. glibc gives up earlier, unless resolv.conf(5) says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// How many bytes a question has at most.
const LONGEST: u64 = 4096;

/// Who looks names up.
#[derive(Debug, Clone)]
pub enum Names {
    /// This process.
    Here,
    /// The service that listens at this socket.
    Service(PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Host(HostName),
    User(String),
}

impl Names {
    /// The addresses of a host of the family that is wanted. Waits for the answer.
    ///
    /// # Errors
    /// Why it has none.
    pub fn host(&self, name: &HostName) -> Result<Vec<IpAddr>, String> {
        match self {
            Self::Here => host(name),
            Self::Service(socket) => ask(socket, &Question::Host(name.clone())),
        }
    }

    /// A user's number; `None` if there is no such user. Waits for the answer.
    ///
    /// # Errors
    /// Why nobody can tell.
    pub fn user(&self, name: &str) -> Result<Option<u32>, String> {
        match self {
            Self::Here => user(name),
            Self::Service(socket) => ask(socket, &Question::User(name.to_owned())),
        }
    }
}

fn host(host: &HostName) -> Result<Vec<IpAddr>, String> {
    let all = (host.name.as_str(), 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let family: Vec<IpAddr> =
        all.map(|address| address.ip()).filter(|address| address.is_ipv6() == host.v6).gather();
    if family.is_empty() {
        return Err(format!("it has no {} address", if host.v6 { "IPv6" } else { "IPv4" }));
    }
    Ok(family)
}

fn user(name: &str) -> Result<Option<u32>, String> {
    let user = User::from_name(name).map_err(|error| error.desc().to_owned())?;
    Ok(user.map(|user| user.uid.as_raw()))
}

fn ask<A: DeserializeOwned>(socket: &Path, question: &Question) -> Result<A, String> {
    let answer = || -> io::Result<Result<A, String>> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        serde_json::to_writer(&stream, question)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(serde_json::from_reader(&stream)?)
    };
    answer().unwrap_or_else(|error| Err(format!("{} does not answer: {error}", socket.display())))
}

/// Answers questions for ever, each in a thread of its own.
///
/// # Errors
/// The listener's.
pub fn serve(listener: &UnixListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // Who cannot be answered asks again.
        let _ = thread::Builder::new().spawn(move || answer(&stream));
    }
}

fn answer(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let answer = match serde_json::from_reader(stream.take(LONGEST))? {
        Question::Host(name) => serde_json::to_vec(&host(&name)),
        Question::User(name) => serde_json::to_vec(&user(&name)),
    };
    stream.write_all(&answer?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(v6: bool) -> HostName {
        HostName { name: "127.0.0.1".into(), v6 }
    }

    #[test]
    fn each_family_is_asked_for_by_itself() {
        assert_eq!(Names::Here.host(&loopback(false)), Ok(vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(Names::Here.host(&loopback(true)), Err("it has no IPv6 address".to_owned()));
    }

    #[test]
    fn service_says_what_this_process_would() {
        let directory = std::env::temp_dir().join(format!("scnpm-names-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("names");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || serve(&listener));
        let service = Names::Service(socket.clone());
        for v6 in [false, true] {
            assert_eq!(service.host(&loopback(v6)), Names::Here.host(&loopback(v6)));
        }
        for name in ["root", "no \"such\" user\n"] {
            assert_eq!(service.user(name), Names::Here.user(name));
        }
        UnixStream::connect(&socket).unwrap().write_all(b"no question").unwrap();
        assert_eq!(service.user("root"), Ok(Some(0)), "nonsense harms nobody else");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn service_that_is_not_there_is_an_error() {
        let error = Names::Service("/nonexistent/names".into()).user("root").unwrap_err();
        assert_eq!(error, "/nonexistent/names does not answer: No such file or directory (os error 2)");
    }
}
