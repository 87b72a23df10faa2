//! What selectors select, and which slices lead there.

use std::collections::BTreeSet;

use crate::{
    model::{Instance, Manager},
    units::{
        places::{self, USERS, user_of_manager, user_of_slice},
        selector::{Index, Reach, Selectors, Users},
    },
};

/// What selectors are about.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// In order.
    selectors: Vec<Selectors>,
    index: Index,
    pub(super) users: Users,
    pub(super) reach: Reach,
    /// Whether all units are, too: for their names only.
    all: bool,
}

impl Wanted {
    pub(super) fn new(selectors: &BTreeSet<Selectors>, users: &Users, all: bool) -> Self {
        let reaches = selectors.iter().map(|selectors| selectors.depend_on(users));
        let every = Reach { system: all, all_users: all, ..Reach::default() };
        let reach = reaches.fold(every, Reach::or);
        let index = Index::of(selectors);
        Self { selectors: selectors.iter().cloned().collect(), index, users: users.clone(), reach, all }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.reach == Reach::default()
    }

    /// Whether a manager is followed. The system's is, too, on the way to its users'.
    pub(super) fn follows(&self, manager: Manager) -> bool {
        self.reach.covers(manager) || (manager == Manager::System && !self.is_nothing())
    }

    /// Whether what is below a unit is looked at: it is a slice, or the manager of a user who is followed.
    pub(super) fn enters(&self, instance: &Instance) -> bool {
        let path = instance.path.as_str();
        match instance.manager {
            Manager::User(_) => places::is_slice(&instance.unit.0),
            Manager::System => match (user_of_manager(path), user_of_slice(path)) {
                (Some(uid), _) => self.follows(Manager::User(uid)),
                (None, Some(uid)) => self.reach.system || self.follows(Manager::User(uid)),
                (None, None) => (self.reach.system || path == USERS) && places::is_slice(&instance.unit.0),
            },
        }
    }

    /// Whether an instance is wanted, if only for its name.
    pub(super) fn selects(&self, instance: &Instance) -> bool {
        self.all || self.chooses(instance)
    }

    /// Whether a selector selects an instance.
    pub(super) fn chooses(&self, instance: &Instance) -> bool {
        let mut candidates = self.index.candidates(&instance.unit).into_iter();
        candidates.any(|number| self.selectors[number].select(instance, &self.users))
    }
}
