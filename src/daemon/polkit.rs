//! Whether polkit lets somebody change something (polkit(8), org.freedesktop.PolicyKit1.Authority).

use std::{collections::HashMap, time::Duration};

use litemap::LiteMap;
use tokio::{task::AbortHandle, time::timeout};
use zbus::{Connection, Error, Variant};

use crate::control::server::Peer;

/// To read the files again, and to keep a policy that is on trial.
pub(super) const RELOAD: &str = "io.scnpm.reload";

/// To let packets of one's own units through for a while.
pub(super) const ALLOW: &str = "io.scnpm.allow";

/// How long somebody may take to type a password. `scnpm reload` waits for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// How many questions may be open, each for another user: each is a connection of root's to the bus.
const OPEN: usize = 16;

/// Let polkit ask the user.
const ALLOW_USER_INTERACTION: u32 = 1;

/// What polkit is being asked: who waits for it, and what they want.
pub(super) struct Questions<Who, What>(LiteMap<Who, Question<What>>);

struct Question<What> {
    user: u32,
    what: What,
    _task: Task,
}

/// It ends when it is dropped: who is gone needs no answer, and polkit no longer asks them for a password.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<Who, What> Default for Questions<Who, What> {
    fn default() -> Self {
        Self(LiteMap::new())
    }
}

impl<Who: Ord, What> Questions<Who, What> {
    /// Begins to ask for somebody.
    ///
    /// # Errors
    /// There are too many questions already.
    pub(super) fn ask(
        &mut self,
        who: Who,
        user: u32,
        what: What,
        ask: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), &'static str> {
        if self.0.values().any(|question| question.user == user) {
            return Err("polkit is being asked about another call of yours: try again when it has answered");
        }
        if self.0.len() >= OPEN {
            return Err("polkit is being asked for too many others: try again later");
        }
        let task = Task(tokio::spawn(ask).abort_handle());
        self.0.insert(who, Question { user, what, _task: task });
        Ok(())
    }

    /// What somebody wants, for whom polkit is asked no longer.
    pub(super) fn take(&mut self, who: &Who) -> Option<What> {
        self.0.remove(who).map(|question| question.what)
    }
}

/// Asks polkit.
///
/// # Errors
/// It says no, or there is no polkit.
pub(super) async fn permits(peer: Peer, action: &str) -> Result<(), String> {
    let unasked =
        |why: &str| format!("only root may do this, as polkit cannot be asked ({why}): run it as root");
    match timeout(LIMIT, ask(peer, action)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("polkit does not permit it: run it as root".to_owned()),
        Ok(Err(error)) => Err(unasked(&words(error))),
        Err(_) => Err(unasked("it does not answer")),
    }
}

/// Why it cannot be asked.
fn words(error: Error) -> String {
    match error {
        Error::Connection(..) => "D-Bus does not run".to_owned(),
        Error::MethodError(name, ..) if *name == "org.freedesktop.DBus.Error.ServiceUnknown" => {
            "it is not installed".to_owned()
        }
        Error::MethodError(_, Some(words), _) => words.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}

async fn ask(peer: Peer, action: &str) -> zbus::Result<bool> {
    let bus = Connection::system().await?;
    // polkit itself looks when the process began; the user is what the kernel says.
    let process: HashMap<&str, Variant<'_>> = HashMap::from([
        ("pid", Variant::from(u32::try_from(peer.process).unwrap_or_default())),
        ("start-time", Variant::from(0_u64)),
        ("uid", Variant::from(i32::try_from(peer.user).unwrap_or(-1))),
    ]);
    let details: HashMap<&str, &str> = HashMap::new();
    let body = (("unix-process", process), action, details, ALLOW_USER_INTERACTION, "");
    let answer = bus
        .call_method(
            Some("org.freedesktop.PolicyKit1"),
            "/org/freedesktop/PolicyKit1/Authority",
            Some("org.freedesktop.PolicyKit1.Authority"),
            "CheckAuthorization",
            &body,
        )
        .await?;
    let (is_permitted, _, _): (bool, bool, HashMap<String, String>) =
        answer.body().deserialize::<((bool, bool, HashMap<String, String>),)>()?.0;
    Ok(is_permitted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn one_question_is_open_for_a_user_until_they_are_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut questions = Questions::default();
            let is_there = Arc::new(());
            let ask = || {
                let question = Arc::clone(&is_there);
                async move {
                    std::future::pending::<()>().await;
                    drop(question);
                }
            };
            assert!(questions.ask(1, 1000, 'a', ask()).is_ok());
            assert!(questions.ask(2, 1000, 'b', ask()).unwrap_err().contains("another call"));
            assert!(questions.ask(3, 1001, 'c', ask()).is_ok());
            let taken = [1, 2, 3].map(|who| questions.take(&who));
            assert_eq!(taken, [Some('a'), None, Some('c')]);
            tokio::task::yield_now().await;
            assert_eq!(Arc::strong_count(&is_there), 1, "nothing is left of them");
            for number in 0..16 {
                assert!(questions.ask(number, number, 'd', ask()).is_ok());
            }
            assert!(questions.ask(16, 16, 'd', ask()).unwrap_err().contains("too many"));
        });
    }
}
