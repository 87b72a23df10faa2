//! `scnpm denied`: who was refused where, and what would allow it.

use std::{
    fs,
    net::IpAddr,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use litemap::LiteMap;

use super::{
    Failure,
    asking::{PATIENCE, failure},
    micros, note, now, output,
};
use crate::{
    cli,
    control::{
        client::Client,
        message::{GetRefusals, Refusal},
    },
    gather::Gather,
    machine,
    model::printable,
    report::denied::{self, Names},
};

/// How long names of hosts are waited for, and how many of them.
const LOOK_UP: Duration = Duration::from_secs(1);
const LOOKED_UP: usize = 64;

/// Runs it: exit code 0, also if nothing was refused.
///
/// # Errors
/// The daemon cannot be asked, or records nothing.
pub fn run(options: &cli::Denied) -> Result<ExitCode, Failure> {
    let no = |error| failure(error, &options.reach.socket);
    let ago = |time: Duration| now().saturating_sub(micros(time));
    let ask = GetRefusals { unit: options.unit.clone(), since: options.since.map(ago) };
    let mut client = Client::connect(&options.reach.socket).map_err(no)?;
    client.limit(Some(PATIENCE)).map_err(no)?;
    let mut printer = Printer { options, names: Names::default(), is_first: true };
    if !options.follow {
        printer.print(&client.call(&ask).map_err(no)?.refusals)?;
        return Ok(ExitCode::SUCCESS);
    }
    client.watch(&ask).map_err(no)?;
    loop {
        let (reply, more) = client.reply::<GetRefusals>().map_err(no)?;
        // What follows may take any time.
        client.limit(None).map_err(no)?;
        printer.print(&reply.refusals)?;
        if !more {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

struct Printer<'a> {
    options: &'a cli::Denied,
    names: Names,
    is_first: bool,
}

impl Printer<'_> {
    fn print(&mut self, refusals: &[Refusal]) -> Result<(), Failure> {
        let cli::Denied { json, follow, numeric, unit, .. } = self.options;
        if *json {
            return output(|out| denied::write_json(refusals, *follow, out));
        }
        if refusals.is_empty() {
            let of = unit.as_ref().map(|unit| format!(" to `{}`", printable(unit))).unwrap_or_default();
            let more = if *follow { "; what comes is printed here" } else { "" };
            note(format!("nothing was refused{of}{more}"));
            return Ok(());
        }
        if self.is_first && !*numeric {
            self.names.services = denied::services(&fs::read_to_string("/etc/services").unwrap_or_default());
        }
        self.name(refusals);
        let is_first = std::mem::take(&mut self.is_first);
        output(|out| denied::write(refusals, &self.names, now(), is_first, *follow, out))
    }

    /// Learns the names of users and hosts.
    fn name(&mut self, refusals: &[Refusal]) {
        for uid in refusals.iter().filter_map(|refusal| refusal.uid) {
            if let Some(name) = machine::user_name(uid) {
                self.names.users.entry(uid).or_insert(name);
            }
        }
        if !self.options.numeric {
            let unnamed = refusals.iter().filter(|refusal| refusal.host.is_none());
            let known = &self.names.hosts;
            let wanted = unnamed.map(|refusal| refusal.address).filter(|one| !known.contains_key(one));
            let wanted: Vec<IpAddr> = wanted.take(LOOKED_UP).gather();
            let found = look_up(wanted);
            self.names.hosts.extend(found);
        }
    }
}

/// The names that the system's resolver has for addresses, as far as it says them soon.
pub(super) fn look_up(addresses: Vec<IpAddr>) -> LiteMap<IpAddr, String> {
    // getnameinfo(3) gives the address itself where there is no name.
    let is_name = |name: &String| name.parse::<IpAddr>().is_err();
    soon(addresses, move |address| dns_lookup::lookup_addr(address).ok().filter(is_name))
}

/// What is answered soon of what is asked at once.
pub(super) fn soon<Q: Ord + Clone + Send + 'static, A: Send + 'static>(
    questions: Vec<Q>,
    ask: impl Fn(&Q) -> Option<A> + Clone + Send + 'static,
) -> LiteMap<Q, A> {
    let (found, answers) = mpsc::channel();
    let mut open = 0;
    for question in questions {
        let (found, ask) = (found.clone(), ask.clone());
        let ask = move || {
            let answer = ask(&question);
            drop(found.send((question, answer)));
        };
        open += usize::from(thread::Builder::new().spawn(ask).is_ok());
    }
    let end = Instant::now() + LOOK_UP;
    let mut all = LiteMap::new();
    while open > 0 {
        let Ok((question, answer)) = answers.recv_timeout(end.saturating_duration_since(Instant::now()))
        else {
            break;
        };
        open -= 1;
        all.extend(answer.map(|answer| (question, answer)));
    }
    all
}
