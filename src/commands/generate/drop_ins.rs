//! POLICY -> DROP-INS.

use std::collections::BTreeSet;

use crate::{
    gather::Gather,
    model::UnitName,
    policy::Policy,
    units::{places, selector::Whose, waiting},
};

/// The manager for whose units drop-ins are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager<'a> {
    /// The system's.
    System,
    /// That of a user: the number and, if it is known, the name.
    User(u32, Option<&'a str>),
}

impl Manager<'_> {
    fn is(self, whose: &Whose) -> bool {
        match (whose, self) {
            (Whose::Anybody, _) | (Whose::System, Self::System) | (Whose::AnyUser, Self::User(..)) => true,
            (Whose::Uid(uid), Self::User(own, _)) => *uid == own,
            (Whose::User(name), Self::User(_, own)) => own == Some(name),
            _ => false,
        }
    }
}

/// What drop-ins are named after: the units of this manager that are to wait for their rules and can.
pub(super) fn wanted(policy: &Policy, manager: Manager<'_>) -> BTreeSet<UnitName> {
    let waiting = policy.annotations.iter().filter(|annotation| annotation.is_waited_for);
    let selectors = waiting.flat_map(|annotation| &annotation.selectors.0);
    let own = selectors.filter(|selector| manager.is(&selector.whose));
    own.filter_map(|selector| waiting::drop_in(&selector.which).ok()).gather()
}

/// A drop-in's text.
pub(super) fn text(unit: &UnitName, manager: Manager<'_>) -> String {
    let order = match manager {
        Manager::System => "[Unit]\nAfter=scnpm.service\n\n",
        Manager::User(..) => "",
    };
    let section = if places::kind(&unit.0) == "socket" { "Socket" } else { "Service" };
    format!(
        "# Written by scnpm-generator: an annotation of this unit has a comment \"# scnpm: wait\" above it.\n\
         {order}[{section}]\nExecStartPre=+/usr/bin/scnpm wait --self --timeout 10\n"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lint::testing::{policy_of, policy_with_mistakes};

    fn annotation(selectors: &str) -> String {
        format!("# {selectors} :: add rule inet f c tcp dport 1 accept\n")
    }

    fn waiting(selectors: &str) -> String {
        format!("# scnpm: wait\n{}", annotation(selectors))
    }

    fn names(text: &str, manager: Manager<'_>) -> Vec<String> {
        wanted(&policy_of(&[text]), manager).iter().map(|unit| unit.0.to_string()).collect()
    }

    #[test]
    fn each_manager_gets_its_own() {
        let text = waiting("any.service, system:s.service, user:u.service, alice:a.service")
            + &waiting("1000:b.service, alice:app:firefox, alice:x.scope, system:scnpm.service")
            + &waiting("system:s.service")
            + &annotation("system:other.service, user:other.service");
        assert_eq!(names(&text, Manager::System), ["any.service", "s.service"]);
        let alice = Manager::User(1000, Some("alice"));
        assert_eq!(names(&text, alice), ["a.service", "any.service", "b.service", "u.service"]);
        assert_eq!(names(&text, Manager::User(1000, None)), ["any.service", "b.service", "u.service"]);
        assert_eq!(names(&text, Manager::User(1001, Some("bob"))), ["any.service", "u.service"]);
    }

    #[test]
    fn drop_in_waits_after_scnpm() {
        let text = |unit: &str, manager| text(&UnitName(unit.into()), manager);
        assert_eq!(
            text("a.service", Manager::System),
            "# Written by scnpm-generator: an annotation of this unit has a comment \"# scnpm: wait\" above it.\n\
             [Unit]\nAfter=scnpm.service\n\n\
             [Service]\nExecStartPre=+/usr/bin/scnpm wait --self --timeout 10\n"
        );
        assert_eq!(
            text("a.socket", Manager::User(1000, None)),
            "# Written by scnpm-generator: an annotation of this unit has a comment \"# scnpm: wait\" above it.\n\
             [Socket]\nExecStartPre=+/usr/bin/scnpm wait --self --timeout 10\n"
        );
    }

    proptest! {
        #[test]
        fn names_stay_in_their_directory(name in "\\PC{0,12}", kind in "(\\.service|\\.socket|\\*\\.service|)") {
            let text = waiting(&format!("{name}{kind}"));
            let policy = policy_with_mistakes(&text);
            for unit in wanted(&policy, Manager::System) {
                prop_assert!(!unit.0.contains(['/', '\n', '%', ' ', '*']) && !unit.0.starts_with('.'), "{}", unit);
            }
        }
    }
}
