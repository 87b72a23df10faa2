//! A network and a mount namespace, and a user namespace where they are not to be had without: what is loaded there
//! touches nothing. Files in it are the machine's, but for those that are replaced.

use std::{collections::BTreeSet, fs, io, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};

use super::{attempt::Attempt, link, stand_ins};
use crate::model::{CGROUP_ROOT, CgroupPath};

/// Where a room's own files are until they are mounted over others. No cgroup has such a name.
const FILES: &str = "/sys/fs/cgroup/.scnpm:files";

/// Moves this process, which must have one thread only, into a room of its own, as far as the machine allows it. Whether
/// that has a user namespace, whose rights are not root's.
pub(super) fn enter(attempt: &Attempt) -> io::Result<bool> {
    let in_user_namespace = namespaces().map_err(|error| say("namespaces are not allowed here", &error))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mounted(mount(None::<&str>, "/", None::<&str>, private, None::<&str>))?;
    mounted(mount(Some("tmpfs"), CGROUP_ROOT, Some("tmpfs"), MsFlags::empty(), Some("mode=755")))?;
    fs::create_dir(FILES)?;
    make_cgroups(&attempt.cgroups);
    if !attempt.hosts.is_empty() {
        // A machine may have no such file (hosts(5)), and then nothing can be mounted over it.
        let replaced = hosts(attempt).and_then(|text| replace("/etc/hosts", &text));
        replaced.map_err(|error| say("nothing can be mounted over /etc/hosts here", &error))?;
    }
    if let Ok(switch) = fs::read_to_string("/etc/nsswitch.conf") {
        replace("/etc/nsswitch.conf", &without_dns(&switch))?;
    }
    for (number, (path, text)) in attempt.streams.iter().enumerate() {
        fs::write(stream(number), attempt.blanks.get(path).unwrap_or(text))?;
    }
    for (path, text) in attempt.blanks.iter().filter(|(path, _)| !attempt.streams.contains_key(*path)) {
        replace(path, text)?;
    }
    make_interfaces(&attempt.interfaces)?;
    Ok(in_user_namespace)
}

/// Makes interfaces that do not exist.
pub(super) fn make_interfaces(names: &BTreeSet<String>) -> io::Result<()> {
    names.iter().try_for_each(|name| {
        let what = format!("the interface `{name}` cannot be made here");
        link::make(name).map_err(|error| say(&what, &error.into()))
    })
}

/// The name under which libnftables is to open a file.
pub(super) fn name_of(file: &str, attempt: &Attempt) -> String {
    let number = attempt.streams.keys().position(|name| name == file);
    number.map_or_else(|| file.to_owned(), stream)
}

/// The file that is opened under such a name.
pub(super) fn file_of<'a>(name: &'a str, attempt: &'a Attempt) -> &'a str {
    let stream_of = |(number, file): (usize, &'a String)| (stream(number) == name).then_some(file.as_str());
    attempt.streams.keys().enumerate().find_map(stream_of).unwrap_or(name)
}

fn stream(number: usize) -> String {
    format!("{FILES}/stream-{number}")
}

/// Makes directories where libnftables looks for cgroups. A name that no directory can have has no cgroup either.
pub(super) fn make_cgroups<'a>(paths: impl IntoIterator<Item = &'a CgroupPath>) {
    for path in paths {
        let _ = fs::create_dir_all(path.directory());
    }
}

/// Whether there is a user namespace among them.
fn namespaces() -> io::Result<bool> {
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if geteuid().is_root() && unshare(flags).is_ok() {
        return Ok(false);
    }
    let (user, group) = (geteuid(), getegid());
    unshare(flags | CloneFlags::CLONE_NEWUSER)?;
    // The user is to be known in there (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    Ok(true)
}

/// Mounts a file with this text over another one, under any of its names.
fn replace(path: &str, text: &str) -> io::Result<()> {
    let number = fs::read_dir(FILES)?.count();
    let file = Path::new(FILES).join(number.to_string());
    fs::write(&file, text)?;
    let path = fs::canonicalize(path)?;
    mounted(mount(Some(&file), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>))
}

/// hosts(5) with the names that were looked up outside.
fn hosts(attempt: &Attempt) -> io::Result<String> {
    let mut text = fs::read_to_string("/etc/hosts")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (number, (name, addresses)) in attempt.hosts.iter().enumerate() {
        let stand_ins = stand_ins(number);
        for address in if addresses.is_empty() { &stand_ins[..] } else { addresses } {
            text += &format!("{address} {name}\n");
        }
    }
    Ok(text)
}

/// nsswitch.conf(5) without what would ask the network: there is none in here, and the asking takes its time.
fn without_dns(switch: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("hosts:") {
        Some(sources) if sources.contains("myhostname") => "hosts: files myhostname".to_owned(),
        Some(_) => "hosts: files".to_owned(),
        None => line.to_owned(),
    };
    switch.lines().map(|text| line(text) + "\n").collect()
}

fn mounted(result: nix::Result<()>) -> io::Result<()> {
    result.map_err(|error| say("nothing can be mounted here", &error.into()))
}

fn say(what: &str, error: &io::Error) -> io::Error {
    let reason =
        error.raw_os_error().map_or_else(|| error.to_string(), |raw| Errno::from_raw(raw).desc().to_owned());
    io::Error::other(format!("{what} ({reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_only_looked_for_in_files() {
        assert_eq!(
            without_dns("passwd: files systemd\n hosts: files dns # x\nnetworks: files\n"),
            "passwd: files systemd\nhosts: files\nnetworks: files\n"
        );
        assert_eq!(without_dns("hosts: mymachines files myhostname dns"), "hosts: files myhostname\n");
    }
}
