//! What stands left of the `::`: which units an annotation is about. Pure.
//!
//! ```text
//! postfix.service                 a unit of this name, of any manager
//! app-firefox-*.scope             a glob, with `*`, `?` and `[…]`
//! system:postfix.service          of the system's manager
//! alice:… 1000:…                  of that user's manager
//! user:…                          of any user's manager
//! alice:app:org.mozilla.firefox   an application, by whatever name its units have
//! alice:app.slice                 a slice: everything below it
//! ```
//!
//! Several are separated by commas.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::model::{Instance, Manager, UnitName};

/// Selectors, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selectors(pub Vec<Selector>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// Whose units.
    pub whose: Whose,
    /// Which of these.
    pub which: Which,
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

/// Which units a selector is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// The one of this name; a slice with everything below it.
    Unit(UnitName),
    /// Those whose name matches a glob.
    Glob(String),
    /// Those of an application, by its id.
    App(String),
}

/// The user names that selectors have, and their numbers; one that is absent does not exist.
pub type Users = BTreeMap<String, u32>;

/// Why a text is not a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectorError {
    /// Nothing between commas, or behind a colon.
    Empty,
    /// A unit's name without a type.
    NoType,
    /// A `[` that nothing closes.
    Glob,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stub")
    }
}

impl Selectors {
    /// stub
    pub fn parse(text: &str) -> Result<Self, (std::ops::Range<usize>, SelectorError)> {
        let one = |word: &str| {
            let (whose, rest) = match word.split_once(':') {
                Some(("system", rest)) => (Whose::System, rest),
                Some(("user", rest)) => (Whose::AnyUser, rest),
                Some((uid, rest)) if uid.parse::<u32>().is_ok() => {
                    (Whose::Uid(uid.parse().unwrap_or(0)), rest)
                }
                Some((name, rest)) if name != "app" => (Whose::User(name.to_owned()), rest),
                _ => (Whose::Anybody, word),
            };
            let which = match rest.strip_prefix("app:") {
                Some(id) => Which::App(id.to_owned()),
                None if rest.contains('*') => Which::Glob(rest.to_owned()),
                None => Which::Unit(UnitName(rest.to_owned())),
            };
            Selector { whose, which }
        };
        Ok(Self(text.split(',').map(|word| one(word.trim())).collect()))
    }

    /// stub
    pub fn label(&self) -> UnitName {
        self.0.first().map_or_else(
            || UnitName(String::new()),
            |selector| match &selector.which {
                Which::Unit(unit) => unit.clone(),
                Which::Glob(glob) => UnitName(glob.clone()),
                Which::App(id) => UnitName(format!("app-{id}")),
            },
        )
    }

    /// stub
    pub fn may_overlap(&self, other: &Self) -> bool {
        let _ = other;
        true
    }

    /// stub
    pub fn may_name(&self, path: &crate::model::CgroupPath) -> bool {
        let _ = path;
        true
    }

    /// stub
    pub fn is_bare(&self) -> bool {
        self.0.iter().any(|selector| selector.whose == Whose::Anybody)
    }

    /// stub
    pub fn levels(&self) -> std::collections::BTreeSet<u32> {
        let is_system = self.0.iter().any(|selector| selector.whose == Whose::System);
        [if is_system { 2 } else { 5 }].into()
    }

    /// stub
    pub fn user_names(&self) -> std::collections::BTreeSet<&str> {
        self.0
            .iter()
            .filter_map(|selector| match &selector.whose {
                Whose::User(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Whether an instance is meant.
    pub fn select(&self, instance: &Instance, users: &Users) -> bool {
        self.0.iter().any(|selector| selector.selects(instance, users))
    }
}

impl Selector {
    /// Whether an instance is meant.
    pub fn selects(&self, instance: &Instance, users: &Users) -> bool {
        self.whose.owns(instance.manager, users) && self.which.names(&instance.unit)
    }
}

impl Whose {
    /// Whether a manager is meant.
    pub fn owns(&self, manager: Manager, users: &Users) -> bool {
        match (self, manager) {
            (Self::Anybody, _) | (Self::System, Manager::System) | (Self::AnyUser, Manager::User(_)) => true,
            (Self::Uid(uid), Manager::User(of)) => *uid == of,
            (Self::User(name), Manager::User(of)) => users.get(name) == Some(&of),
            _ => false,
        }
    }
}

impl Which {
    /// Whether a unit's name is meant.
    pub fn names(&self, unit: &UnitName) -> bool {
        match self {
            Self::Unit(name) => name == unit,
            Self::Glob(_) | Self::App(_) => false,
        }
    }
}

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, selector) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            selector.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.whose {
            Whose::Anybody => {}
            Whose::System => f.write_str("system:")?,
            Whose::AnyUser => f.write_str("user:")?,
            Whose::Uid(uid) => write!(f, "{uid}:")?,
            Whose::User(name) => write!(f, "{name}:")?,
        }
        match &self.which {
            Which::Unit(unit) => unit.fmt(f),
            Which::Glob(glob) => f.write_str(glob),
            Which::App(id) => write!(f, "app:{id}"),
        }
    }
}
