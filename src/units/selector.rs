//! What stands left of the `::`: which units an annotation applies to. Pure.
//!
//! ```text
//! postfix.service                 a unit of this name, of any manager
//! app-firefox-*.scope             a glob, with `*`, `?` and `[…]`
//! system:postfix.service          of the system's manager
//! alice:… 1000:…                  of that user's manager
//! user:…                          of any user's manager
//! alice:app:org.mozilla.firefox   an application, by whatever name its units have
//! alice:app.slice                 a slice: everything below it
//! alice:session-*.scope           that user's login sessions, although the system's manager has them
//! user:cage:build                 the scopes of `scnpm run --cage build`
//! ```
//!
//! Several are separated by commas. What stands before the first colon is a manager only if it can be one: names of
//! units hold colons too, as `dbus-:1.2-org.example@0.service` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::places;
use crate::{
    gather::{Gather, Ordered},
    model::{Instance, Manager, UnitName},
};

mod app;
mod cage;
mod glob;
mod index;
mod levels;
mod parse;

pub use app::{
    family as app_family, family_of_unit as app_family_of_unit, id as app_id, write as write_app_id,
    written_id as written_app_id,
};
pub use cage::id as cage_id;
pub use index::{Index, selected};

/// Selectors, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selectors(pub Vec<Selector>);

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Selector::to_string).collect::<Vec<_>>().join(","))
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// Whose units.
    pub whose: Whose,
    /// Which of these.
    pub which: Which,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.whose, self.which)
    }
}

/// Whose units a selector is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Whose {
    /// Not said: any manager's. Enough for a rule that names its cgroup, not for `socket cgroupv2 unit`.
    Anybody,
    /// `system:`
    System,
    /// `user:`, any user.
    AnyUser,
    /// A number.
    Uid(u32),
    /// A name.
    User(String),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => Ok(()),
            Self::System => f.write_str("system:"),
            Self::AnyUser => f.write_str("user:"),
            Self::Uid(uid) => write!(f, "{uid}:"),
            Self::User(name) => write!(f, "{name}:"),
        }
    }
}

/// Which units a selector is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// The one of this name; a slice with everything below it.
    Unit(UnitName),
    /// Those whose name matches a glob.
    Glob(String),
    /// Those of an application, by its id as it is written: `\xNN` stands for a byte of it.
    App(String),
    /// The scopes of a cage, by its name.
    Cage(String),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(name) => write!(f, "{name}"),
            Self::Glob(glob) => f.write_str(glob),
            Self::App(id) => write!(f, "app:{id}"),
            Self::Cage(name) => write!(f, "cage:{name}"),
        }
    }
}

/// The user names that selectors have, and their numbers; one that is absent does not exist.
pub type Users = BTreeMap<String, u32>;

/// Why a text is not a selector.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum SelectorError {
    /// Nothing between commas, or behind a colon.
    #[error("the unit's name is missing")]
    Empty,
    /// A unit's name without a type.
    #[error("a unit's name ends in its type, such as `.service`")]
    NoType,
    /// A `[` that nothing closes, or that holds a class by name, as in `[[:alpha:]]`.
    #[error("this `[` does not begin a class of characters")]
    Glob,
    /// A character that no name of a unit has, or no glob.
    #[error("no unit has such a character in its name")]
    Character,
    /// A character of an application's id that cannot be written as it is.
    #[error("an application's id has this character only as systemd escapes it")]
    Escape,
}

/// Which managers' units can be meant: what is worth looking at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Whether the system's.
    pub system: bool,
    /// Whether those of all users there may ever be.
    pub all_users: bool,
    /// Which users', besides.
    pub users: Vec<u32>,
}

impl Reach {
    /// Whether a manager's units can be meant.
    pub fn covers(&self, manager: Manager) -> bool {
        match manager {
            Manager::System => self.system,
            Manager::User(uid) => self.all_users || self.users.contains(&uid),
        }
    }

    /// What one or the other reaches.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        other.users.into_iter().for_each(|user| self.users.put(user));
        Self { system: self.system || other.system, all_users: self.all_users || other.all_users, ..self }
    }
}

impl Selector {
    /// The shortest way to say which unit is meant that is understood so. None if an annotation cannot say it. `user` is the name
    /// of the user whose manager it is of.
    pub fn of(instance: &Instance, user: Option<&str>) -> Option<Self> {
        let Instance { manager, unit, path } = instance;
        // Its name and all above it are to be such as systemd gives.
        Instance::of(path).filter(|plain| plain == instance)?;
        let (app, owner, users) = match manager {
            Manager::System => (None, Whose::System, Users::new()),
            Manager::User(uid) => {
                let users = user.map(|name| (name.to_owned(), *uid)).into_iter().gather();
                (written_app_id(&unit.0), Whose::Uid(*uid), users)
            }
        };
        let owners: Vec<Whose> = users.keys().cloned().map(Whose::User).chain([owner]).collect();
        let cage = cage_id(&unit.0).map(Which::Cage);
        let ways = app.map(Which::App).into_iter().chain(cage).chain([Which::Unit(unit.clone())]);
        let pairs = ways.flat_map(|which| owners.iter().map(move |whose| (whose.clone(), which.clone())));
        // A user may be called `system`, and an application anything.
        let is_understood = |selector: &Self| {
            let text = selector.to_string();
            text.chars().all(places::is_in_name)
                && Selectors::parse(&text) == Ok(Selectors(vec![selector.clone()]))
                && selector.selects(instance, &users)
        };
        pairs.map(|(whose, which)| Self { whose, which }).find(is_understood)
    }
}

impl Selectors {
    /// Whether an instance is meant.
    pub fn select(&self, instance: &Instance, users: &Users) -> bool {
        self.0.iter().any(|selector| selector.selects(instance, users))
    }

    /// Whether they and others can mean the same unit, as far as names tell without a look at units.
    pub fn overlap(&self, others: &Self) -> bool {
        self.0.iter().any(|one| others.0.iter().any(|other| one.overlaps(other)))
    }

    /// The names of users that they have.
    pub fn user_names(&self) -> BTreeSet<&str> {
        self.0
            .iter()
            .filter_map(|selector| match &selector.whose {
                Whose::User(name) => Some(name.as_str()),
                _ => None,
            })
            .gather()
    }

    /// Which managers' units they can mean.
    pub fn depend_on(&self, users: &Users) -> Reach {
        self.0.iter().map(|selector| selector.whose.reach(users)).fold(Reach::default(), Reach::or)
    }

    /// Whether any of them does not say whose.
    pub fn is_bare(&self) -> bool {
        self.0.iter().any(|selector| selector.whose == Whose::Anybody)
    }

    /// What to call them in the name of a map or chain.
    pub fn label(&self) -> UnitName {
        let label = |selector: &Selector| match &selector.which {
            Which::Unit(unit) => unit.clone(),
            Which::Glob(glob) => UnitName(glob.clone().into()),
            Which::App(id) => UnitName(format!("app-{id}").into()),
            Which::Cage(id) => UnitName(format!("cage-{id}").into()),
        };
        self.0.first().map_or_else(|| UnitName(String::new().into()), label)
    }

    /// Whether other units may be below one that is selected, as far as names tell: below a slice or a user's manager.
    pub fn may_hold_others(&self) -> bool {
        self.0.iter().any(|selector| selector.which.may_hold_others())
    }

    /// The levels (`socket cgroupv2 level`) at which what they select is to be expected, as far as names tell.
    pub fn levels(&self) -> Vec<u32> {
        self.0.iter().flat_map(levels::of).gather()
    }
}

impl Selector {
    /// Whether an instance is meant.
    pub fn selects(&self, instance: &Instance, users: &Users) -> bool {
        let session = places::user_of_session(instance.path.as_str()).filter(|_| self.which.is_of_sessions());
        let is_owned = |manager| self.whose.owns(manager, users);
        (is_owned(instance.manager) || session.is_some_and(|uid| is_owned(Manager::User(uid))))
            && self.which.names(&instance.unit)
    }
}

impl Selector {
    fn overlaps(&self, other: &Self) -> bool {
        let are_sessions = self.which.is_of_sessions() && other.which.is_of_sessions();
        (are_sessions || self.whose.overlaps(&other.whose))
            && match (&self.which, &other.which) {
                (which, Which::Unit(unit)) | (Which::Unit(unit), which) => which.names(unit),
                (Which::App(one), Which::App(other)) => app::are_same(one, other),
                (one, other) => one == other,
            }
    }
}

impl Whose {
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anybody, _) | (_, Self::Anybody) => true,
            (Self::AnyUser, other) | (other, Self::AnyUser) => *other != Self::System,
            // A name and a number may be the same user's.
            (Self::User(_), Self::Uid(_)) | (Self::Uid(_), Self::User(_)) => true,
            (one, other) => one == other,
        }
    }

    /// Whether a manager is meant.
    pub fn owns(&self, manager: Manager, users: &Users) -> bool {
        match (self, manager) {
            (Self::Anybody, _) | (Self::System, Manager::System) | (Self::AnyUser, Manager::User(_)) => true,
            (Self::Uid(uid), Manager::User(of)) => *uid == of,
            (Self::User(name), Manager::User(of)) => users.get(name) == Some(&of),
            _ => false,
        }
    }

    fn reach(&self, users: &Users) -> Reach {
        Reach {
            system: matches!(self, Self::Anybody | Self::System),
            all_users: matches!(self, Self::Anybody | Self::AnyUser),
            users: match self {
                Self::Uid(uid) => vec![*uid],
                Self::User(name) => users.get(name).copied().into_iter().gather(),
                _ => vec![],
            },
        }
    }
}

impl Which {
    fn may_hold_others(&self) -> bool {
        const MANAGER: &str = "user@";
        match self {
            Self::Unit(name) => places::is_slice(&name.0) || places::user_of(&name.0).is_some(),
            // An application's unit may be a slice.
            Self::App(_) => true,
            Self::Cage(_) => false,
            Self::Glob(glob) => match places::kind(glob) {
                "service" => {
                    let prefix = glob.split(['*', '?', '[']).next().unwrap_or_default();
                    prefix.starts_with(MANAGER) || MANAGER.starts_with(prefix)
                }
                kind => kind == "slice" || glob.ends_with('*'),
            },
        }
    }

    /// Whether login sessions are meant by their names.
    pub(crate) fn is_of_sessions(&self) -> bool {
        match self {
            Self::Unit(UnitName(name)) => places::is_session(name),
            Self::Glob(glob) => places::is_session(glob),
            Self::App(_) | Self::Cage(_) => false,
        }
    }

    /// Whether a unit's name is meant.
    pub fn names(&self, unit: &UnitName) -> bool {
        match self {
            Self::Unit(name) => name == unit,
            Self::Glob(glob) => glob::matches(glob, &unit.0),
            Self::App(id) => app::names(id, &unit.0),
            Self::Cage(id) => cage::id(&unit.0).is_some_and(|own| own == *id),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn users() -> Users {
        Users::from([("alice".to_owned(), 1000), ("bob".to_owned(), 1001)])
    }

    fn selects(selectors: &str, path: &str) -> bool {
        let instance = Instance::of(&path.parse().unwrap());
        let selectors = Selectors::parse(selectors).unwrap();
        instance.is_some_and(|instance| selectors.select(&instance, &users()))
    }

    fn user(uid: u32) -> String {
        format!("user.slice/user-{uid}.slice/user@{uid}.service")
    }

    #[test]
    fn selectors_select_their_managers_units_only() {
        let alice = format!("{}/app.slice/app-gnome-firefox-12.scope", user(1000));
        let bob = format!("{}/app.slice/app-gnome-firefox-12.scope", user(1001));
        let system = "system.slice/app-gnome-firefox-12.scope";
        for (whose, expected) in [
            ("", [true, true, true]),
            ("system:", [false, false, true]),
            ("user:", [true, true, false]),
            ("alice:", [true, false, false]),
            ("1001:", [false, true, false]),
            ("carol:", [false, false, false]),
        ] {
            for which in ["app:firefox", "app-gnome-firefox-12.scope", "app-*-firefox-*.scope", "app-*"] {
                let text = format!("{whose}{which}");
                assert_eq!([&alice, &bob, system].map(|path| selects(&text, path)), expected, "{text}");
            }
        }
        assert!(selects("system:postfix.service, alice:app:firefox", &alice));
    }

    #[test]
    fn login_sessions_are_their_users() {
        let of = |uid: u32| format!("user.slice/user-{uid}.slice/session-2.scope");
        for (text, expected) in [
            ("alice:session-*.scope", [true, false]),
            ("1001:session-2.scope", [false, true]),
            ("user:session-*", [true, true]),
            ("system:session-*.scope", [true, true]),
            ("session-2.scope", [true, true]),
            // What was the user's manager's stays so.
            ("alice:*", [false, false]),
            ("alice:*.scope", [false, false]),
            ("user:s*", [false, false]),
            ("alice:app:session", [false, false]),
        ] {
            assert_eq!([1000, 1001].map(|uid| selects(text, &of(uid))), expected, "{text}");
        }
        for path in [
            "user.slice/user-1001.slice/user@1001.service/user.slice/user-1000.slice/session-2.scope",
            "user.slice/user-1001.slice/user@1001.service/session-2.scope",
            "system.slice/session-2.scope",
            "user.slice/session-2.scope",
            "user.slice/user-1000.slice/user-1000-x.slice/session-2.scope",
        ] {
            assert!(!selects("alice:session-*", path), "{path}");
        }
        let overlap = |one, other| Selectors::parse(one).unwrap().overlap(&Selectors::parse(other).unwrap());
        assert!(overlap("alice:session-*.scope", "system:session-2.scope"));
        assert!(!overlap("alice:session-*.scope", "system:s.scope"));
    }

    #[test]
    fn slice_is_selected_itself() {
        let slice = format!("{}/app.slice", user(1000));
        assert!(selects("alice:app.slice", &slice));
        assert!(!selects("alice:app.slice", &format!("{slice}/x.service")));
    }

    #[test]
    fn managers_are_told() {
        let reach = |text: &str| Selectors::parse(text).unwrap().depend_on(&users());
        for (text, system, all_users, uids) in [
            ("a.service", true, true, &[][..]),
            ("system:a.service", true, false, &[]),
            ("user:a.service", false, true, &[]),
            ("alice:a.service,1001:b.service,carol:c.service", false, false, &[1000, 1001]),
            ("alice:a.service,system:b.service", true, false, &[1000]),
            ("alice:a.service,user:b.service", false, true, &[1000]),
        ] {
            let users = uids.to_vec();
            assert_eq!(reach(text), Reach { system, all_users, users }, "{text}");
        }
        let names = Selectors::parse("alice:a.service,1001:b.service,carol:app:c,user:d.service").unwrap();
        assert_eq!(names.user_names(), BTreeSet::from(["alice", "carol"]));
        assert!(!names.is_bare());
        assert!(Selectors::parse("alice:a.service,app:b").unwrap().is_bare());
    }

    #[test]
    fn slices_and_managers_may_hold_others() {
        for text in [
            "system:a.slice",
            "system:x.service, 1000:app.slice",
            "system:user@1000.service",
            "alice:app:firefox",
            "user:app-*",
            "user:*",
            "user:app-*.slice",
            "system:user@*.service",
            "system:us*.service",
            "system:*.service",
            "system:u?er@1000.service",
        ] {
            assert!(Selectors::parse(text).unwrap().may_hold_others(), "{text}");
        }
        for text in [
            "system:a.service,alice:b@1.service",
            "system:user@.service",
            "system:user@a.service",
            "user:app-*.scope",
            "user:*.scope",
            "system:users*.service",
            "system:ser@*.service",
        ] {
            assert!(!Selectors::parse(text).unwrap().may_hold_others(), "{text}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "(user|system|app)\\.slice",
            "user-100[01]\\.slice",
            "user@100[01]\\.service",
            "(x|postfix|app-a-1|app-a)\\.(service|scope|slice)",
        ]
    }

    proptest! {
        #[test]
        fn what_holds_another_is_known_by_its_selector(
            names in prop::collection::vec(name(), 1..4),
            below in name(),
            which in "\\*|app:a|a\\.slice|\\*\\.s[el]\\*|us[e*]r[@*][*]\\.service|\\*\\.slice|user@100[01].service",
        ) {
            let above = names.join("/");
            for whose in ["system:", "user:"] {
                let text = format!("{whose}{which}");
                let Ok(selectors) = Selectors::parse(&text) else { continue };
                if selects(&text, &above) && selects("*", &format!("{above}/{below}")) {
                    prop_assert!(selectors.may_hold_others(), "{} {}", text, above);
                }
            }
        }

        #[test]
        fn what_a_user_makes_is_selected_for_that_user_only(
            names in prop::collection::vec(name(), 1..8),
            which in "\\*|app:a|x\\.service|postfix\\.service|\\*\\.s\\*\\.scope",
        ) {
            let path = format!("{}/{}", user(1000), names.join("/"));
            for whose in ["system", "bob", "1001", "carol"] {
                prop_assert!(!selects(&format!("{whose}:{which}"), &path), "{} {} {}", whose, which, path);
            }
        }

        #[test]
        fn reach_covers_what_is_selected(whose in "(|system:|user:|alice:|carol:|100[012]:)", uid in 999_u32..1003) {
            let selectors = Selectors::parse(&format!("{whose}*")).unwrap();
            let reach = selectors.depend_on(&users());
            prop_assert_eq!(reach.covers(Manager::System), selects(&format!("{whose}*"), "system.slice/x.service"));
            let path = format!("{}/x.service", user(uid));
            prop_assert_eq!(reach.covers(Manager::User(uid)), selects(&format!("{whose}*"), &path));
        }
    }
}
