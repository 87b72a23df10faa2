//! Whether polkit lets somebody change something (polkit(8), org.freedesktop.PolicyKit1.Authority).

use std::{collections::HashMap, time::Duration};

use tokio::time::timeout;
use zbus::{Connection, Error, Variant};

use crate::control::server::Peer;

/// To read the files again, and to keep a policy that is on trial.
const ACTION: &str = "io.scnpm.reload";

/// How long somebody may take to type a password. `scnpm reload` waits for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Let polkit ask the user.
const ALLOW_USER_INTERACTION: u32 = 1;

/// Asks polkit.
///
/// # Errors
/// It says no, or there is no polkit.
pub(super) async fn permits(peer: Peer) -> Result<(), String> {
    let unasked =
        |why: &str| format!("only root may do this, as polkit cannot be asked ({why}): run it as root");
    match timeout(LIMIT, ask(peer)).await {
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

async fn ask(peer: Peer) -> zbus::Result<bool> {
    let bus = Connection::system().await?;
    // polkit itself looks when the process began; the user is what the kernel says.
    let process: HashMap<&str, Variant<'_>> = HashMap::from([
        ("pid", Variant::from(u32::try_from(peer.process).unwrap_or_default())),
        ("start-time", Variant::from(0_u64)),
        ("uid", Variant::from(i32::try_from(peer.user).unwrap_or(-1))),
    ]);
    let details: HashMap<&str, &str> = HashMap::new();
    let body = (("unix-process", process), ACTION, details, ALLOW_USER_INTERACTION, "");
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
