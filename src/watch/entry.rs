//! What an entry of the journal says of a unit. Pure.

use std::ffi::CStr;

use super::Heard;
use crate::model::{UnitName, UnitState};

/// A unit that is about to be `activating` (SD_MESSAGE_UNIT_STARTING).
const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
/// A start job is done (SD_MESSAGE_UNIT_STARTED).
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
/// A stop job, or the first half of a restart job, is done (SD_MESSAGE_UNIT_STOPPED).
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";
/// A unit ended well (SD_MESSAGE_UNIT_SUCCESS). User managers say so at debug level only.
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";
/// A unit ended badly (SD_MESSAGE_UNIT_FAILURE_RESULT).
const FAILURE: &str = "d9b373ed55a64feb8242e02dbe79a49c";

/// What an entry says, whose fields are looked up by their names.
///
/// # Errors
/// That of a field which could not be read.
pub fn heard<E>(mut field: impl FnMut(&CStr) -> Result<Option<String>, E>) -> Result<Vec<Heard>, E> {
    let user = field(c"_SYSTEMD_UNIT")?.as_deref() != Some("init.scope");
    // Any user can write UNIT=; only systemd itself is in the system's init.scope.
    let name = field(if user { c"USER_UNIT" } else { c"UNIT" })?;
    let Some(unit) = name.map(|name| UnitName(name.into())) else { return Ok(Vec::new()) };
    if user {
        // Of users' units only cgroups tell anything, since a user manager logs what its user likes.
        return Ok(vec![Heard::Changed(unit)]);
    }
    let is_active = match field(c"MESSAGE_ID")?.as_deref() {
        Some(STARTING) => Some(true),
        Some(STARTED) => field(c"MESSAGE")?.is_some_and(|text| says_active(&text)).then_some(true),
        Some(STOPPED | SUCCESS | FAILURE) => Some(false),
        _ => None,
    };
    let done = field(c"JOB_RESULT")?.as_deref() == Some("done");
    let first = if done { Heard::JobDone } else { Heard::Changed };
    let state = is_active.map(|active| Heard::State(unit.clone(), UnitState::of(active)));
    Ok([first(unit)].into_iter().chain(state).collect())
}

/// Whether a done start job left the unit active. It did not if a condition was not met, and perhaps not
/// if a Type=oneshot service `Finished`: that was `activating` before, and if it is inactive now,
/// another entry says so. The texts are not translated.
fn says_active(message: &str) -> bool {
    const WORDS: [&str; 8] =
        ["Activated", "Created", "Found", "Listening", "Mounted", "Reached", "Set", "Started"];
    let word = message.split(' ').next().unwrap_or_default();
    WORDS.contains(&word) && !message.contains(" skipped")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Kind {
        Changed,
        JobDone,
        Active,
        Inactive,
    }

    /// What an entry with these fields says; empty ones are none.
    fn entry(user: bool, fields: &[(&CStr, &str)]) -> Vec<Heard> {
        let field = |name: &CStr| fields.iter().find(|(of, text)| *of == name && !text.is_empty());
        let fields = |name: &CStr| match name.to_bytes() {
            b"_SYSTEMD_UNIT" => Some(if user { "user@1000.service" } else { "init.scope" }),
            _ => field(name).map(|(_, text)| *text),
        };
        heard(|name| Ok::<_, Infallible>(fields(name).map(str::to_owned))).unwrap()
    }

    /// What an entry of systemd's says about `a.service`.
    fn kinds(job_result: &str, message_id: &str, message: &str) -> Vec<Kind> {
        let fields = [
            (c"UNIT", "a.service"),
            (c"JOB_RESULT", job_result),
            (c"MESSAGE_ID", message_id),
            (c"MESSAGE", message),
        ];
        let kind = |heard| match heard {
            Heard::Changed(_) => Kind::Changed,
            Heard::JobDone(_) => Kind::JobDone,
            Heard::State(_, UnitState::Active) => Kind::Active,
            _ => Kind::Inactive,
        };
        entry(false, &fields).into_iter().map(kind).collect()
    }

    #[test]
    fn started_unit_is_active() {
        use Kind::*;
        assert_eq!(kinds("done", STARTED, "Started a.service - A."), [JobDone, Active]);
        assert_eq!(kinds("done", STARTED, "Created slice a.slice."), [JobDone, Active]);
        assert_eq!(kinds("", STARTING, "Starting a.service..."), [Changed, Active]);
    }

    #[test]
    fn done_start_job_alone_does_not_make_a_unit_active() {
        use Kind::*;
        let skipped = "a.service was skipped because of an unmet condition check (ConditionPathExists=/x).";
        assert_eq!(kinds("done", STARTED, skipped), [JobDone]);
        let skipped = "Started - A skipped, unmet condition check ConditionPathExists=/x";
        assert_eq!(kinds("done", STARTED, skipped), [JobDone]);
        assert_eq!(kinds("done", STARTED, "Finished a.service - A."), [JobDone]);
        assert_eq!(kinds("done", STARTED, ""), [JobDone]);
    }

    #[test]
    fn ended_unit_is_inactive() {
        use Kind::*;
        assert_eq!(kinds("done", STOPPED, "Stopped a.service."), [JobDone, Inactive]);
        assert_eq!(kinds("", SUCCESS, "a.service: Deactivated successfully."), [Changed, Inactive]);
        assert_eq!(kinds("", FAILURE, "a.service: Failed with result 'exit-code'."), [Changed, Inactive]);
    }

    #[test]
    fn other_entries_only_say_that_something_happened() {
        use Kind::*;
        assert_eq!(kinds("", "", "a.service: Sent signal SIGKILL to main process 1 (x)."), [Changed]);
        assert_eq!(kinds("failed", "be02cf6855d2428ba40df7e9d022f03d", "Failed to start a."), [Changed]);
        assert_eq!(kinds("done", "7b05ebc668384222baa8881179cfda54", "Reloaded a.service."), [JobDone]);
    }

    #[test]
    fn entries_without_a_unit_say_nothing() {
        assert_eq!(entry(false, &[(c"MESSAGE_ID", STARTED)]), []);
    }

    #[test]
    fn users_tell_only_that_something_happened() {
        let fields = [
            (c"USER_UNIT", "a.scope"),
            (c"UNIT", "b.service"),
            (c"JOB_RESULT", "done"),
            (c"MESSAGE_ID", STOPPED),
        ];
        assert_eq!(entry(true, &fields), [Heard::Changed(UnitName("a.scope".into()))]);
    }
}
