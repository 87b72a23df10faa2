//! Whether the rules for a cgroup are in the kernel.

use std::time::Duration;

use super::Failure;
use crate::{
    cli::Run,
    control::{
        client::{Error, wait_for},
        message::{Wait, Waited},
    },
    model::printable,
};

/// How long is waited at most.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon may be away that was ended: who starts an application does not want to wait for one that does not run.
const AWAY: Duration = Duration::from_secs(1);

/// Waits until they are. If that is not certain, it is a warning; or an error if certainty is asked for.
pub(super) fn of_rules(options: &Run, cgroup: &str) -> Result<(), Failure> {
    if options.no_wait {
        return Ok(());
    }
    let Some(doubt) = doubt(waited(options, cgroup)) else {
        return Ok(());
    };
    if options.wait {
        return Err(not_run(&doubt));
    }
    tracing::warn!("the command runs although {doubt}");
    Ok(())
}

/// Waits until the rules of a cage are. There must be some, and it must be certain.
pub(super) fn of_cage(options: &Run, cgroup: &str) -> Result<(), Failure> {
    match waited(options, cgroup) {
        Ok(waited) if waited.refused.is_empty() && waited.annotations.is_empty() => {
            Err(not_run("the policy has just been changed, and has no rules for its cage any more"))
        }
        other => doubt(other).map_or(Ok(()), |doubt| Err(not_run(&doubt))),
    }
}

fn waited(options: &Run, cgroup: &str) -> Result<Waited, Error> {
    let wait = Wait { cgroup: Some(cgroup.to_owned()), unit: None };
    wait_for(&options.reach.socket, &wait, LIMIT, AWAY)
}

fn not_run(doubt: &str) -> Failure {
    Failure::new(format!("the command was not run: {doubt}"))
}

/// What is not certain, in words that follow a colon or `although`.
pub(super) fn doubt(answer: Result<Waited, Error>) -> Option<String> {
    let words = match answer {
        Ok(waited) if waited.refused.is_empty() => return None,
        Ok(waited) => format!("nft or the kernel refuses rules for it: {}", waited.refused.join("; ")),
        Err(Error::NotRunning) => {
            "scnpm's daemon does not run, so rules for it are not in force: start it with `systemctl start scnpm`"
                .to_owned()
        }
        Err(Error::NotPermitted) => {
            "scnpm's daemon may not be asked whether its rules are in force: you may not open the socket"
                .to_owned()
        }
        Err(Error::Late) => format!(
            "scnpm's daemon has not said for {} s that its rules are in force: `scnpm status` says why",
            LIMIT.as_secs()
        ),
        Err(Error::Ended) => "scnpm's daemon ended before it said that its rules are in force".to_owned(),
        Err(Error::Older) => {
            "scnpm's daemon is an older one that cannot be waited for: restart it with `systemctl restart scnpm`"
                .to_owned()
        }
        Err(Error::Refused(name, words)) => {
            format!("scnpm's daemon refuses to be waited for: {name} {words}")
        }
        Err(Error::Failed(words)) => {
            format!("scnpm's daemon cannot be asked whether its rules are in force: {words}")
        }
    };
    Some(printable(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_leaves_no_doubt() {
        assert_eq!(doubt(Ok(Waited::default())), None);
        let refused = Waited { refused: vec!["a\u{1b}b".to_owned(), "c".to_owned()], ..Waited::default() };
        assert_eq!(doubt(Ok(refused)).unwrap(), "nft or the kernel refuses rules for it: a\u{fffd}b; c");
        for (error, words) in [
            (Error::NotRunning, "systemctl start scnpm"),
            (Error::NotPermitted, "may not open"),
            (Error::Late, "10 s"),
            (Error::Ended, "ended"),
            (Error::Older, "systemctl restart scnpm"),
            (Error::Refused("Busy".into(), "x".into()), "Busy x"),
            (Error::Failed("why".into()), "why"),
        ] {
            let doubt = doubt(Err(error)).unwrap();
            assert!(doubt.contains(words), "{doubt}");
        }
    }
}
