//! How deep the cgroups of selected units are to be expected, before there is any.
//!
//! Only a guess by where systemd puts units that say nothing of slices; an instance elsewhere has a level of its own.

use super::{Selector, Which, Whose};
use crate::{gather::Gather, units::places};

/// The level of a user's manager, `user.slice/user-UID.slice/user@UID.service`.
const USER: u32 = 3;

/// The level of a login session, `user.slice/user-UID.slice/session-N.scope`.
const SESSION: u32 = 3;

/// The levels for a selector.
pub(super) fn of(selector: &Selector) -> Vec<u32> {
    let which = &selector.which;
    let of_session = Some(SESSION).filter(|_| which.is_of_sessions());
    let levels = match selector.whose {
        Whose::System => of_system(which),
        Whose::AnyUser | Whose::Uid(_) | Whose::User(_) => of_user(which),
        Whose::Anybody => of_system(which).into_iter().chain(of_user(which)).gather(),
    };
    levels.into_iter().chain(of_session).gather()
}

fn of_system(which: &Which) -> Vec<u32> {
    match which {
        Which::Unit(unit) if places::is_slice(&unit.0) => of_slice(&unit.0).into_iter().gather(),
        Which::Unit(unit) if *unit.0 == *"init.scope" => vec![1],
        which if which.is_of_sessions() => vec![SESSION],
        Which::Unit(unit) if places::template(&unit.0).is_some() => vec![3],
        Which::Glob(glob) if glob.contains('@') => vec![2, 3],
        Which::Unit(_) | Which::Glob(_) | Which::App(_) | Which::Cage(_) => vec![2],
    }
}

/// A user's manager puts units into `app.slice`, and instances of templates into a slice of their template in there,
/// unless they say otherwise; units of applications that the desktop starts do, those that the bus starts don't.
fn of_user(which: &Which) -> Vec<u32> {
    const UNIT: u32 = USER + 2;
    const INSTANCE: u32 = USER + 3;
    match which {
        Which::Unit(unit) if places::is_slice(&unit.0) => {
            of_slice(&unit.0).into_iter().map(|level| USER + level).gather()
        }
        Which::Unit(unit) if *unit.0 == *"init.scope" => vec![USER + 1],
        Which::Unit(unit) if places::template(&unit.0).is_none() => vec![UNIT],
        Which::Glob(glob) if !glob.contains('@') => vec![UNIT],
        Which::Cage(_) => vec![UNIT],
        Which::Unit(_) | Which::Glob(_) | Which::App(_) => vec![UNIT, INSTANCE],
    }
}

/// The level of a slice; the root, `-.slice`, has none.
fn of_slice(name: &str) -> Option<u32> {
    places::slice_path(name).filter(|path| !path.is_empty()).map(|path| path.split('/').map(|_| 1).sum())
}

#[cfg(test)]
mod tests {
    use crate::units::selector::Selectors;

    fn levels(text: &str) -> Vec<u32> {
        Selectors::parse(text).unwrap().levels().into_iter().collect()
    }

    #[test]
    fn levels_are_those_of_the_default_places() {
        for (text, expected) in [
            ("system:postfix.service", &[2][..]),
            ("system:foo@1.service", &[3]),
            ("system:user@1000.service", &[3]),
            ("system:session-2.scope", &[3]),
            ("system:session-*.scope", &[3]),
            ("alice:session-*.scope", &[3, 5]),
            ("system:init.scope", &[1]),
            ("system:a.slice", &[1]),
            ("system:a-b-c.slice", &[3]),
            ("system:-.slice", &[]),
            ("system:a--b.slice", &[]),
            ("system:foo-*.service", &[2]),
            ("system:foo@*.service", &[2, 3]),
            ("system:app:lxd", &[2]),
            ("alice:a.service", &[5]),
            ("alice:a@1.service", &[5, 6]),
            ("1000:app.slice", &[4]),
            ("user:app-foo.slice", &[5]),
            ("user:init.scope", &[4]),
            ("user:app-*", &[5]),
            ("user:dbus-:*@*.service", &[5, 6]),
            ("alice:app:firefox", &[5, 6]),
            ("a.service", &[2, 5]),
            ("app:firefox", &[2, 5, 6]),
            ("system:a.service,alice:b.service,alice:app.slice", &[2, 4, 5]),
        ] {
            assert_eq!(levels(text), expected, "{text}");
        }
    }
}
