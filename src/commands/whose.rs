//! Which lines of a status a socket or a refusal belongs to: those whose selectors select its cgroup, or one that it is in. Pure.

use std::collections::BTreeSet;

use crate::{
    control::message::{Refusal, Unit},
    gather::Gather,
    model::{CgroupPath, Instance, Manager, UnitName},
    units::selector::{Index, Selectors, Users},
};

/// The selectors of a status, in the order of its units.
#[derive(Debug, Default)]
pub(super) struct Whose {
    /// Those that are selectors, and the numbers of their units.
    selectors: Vec<(usize, Selectors)>,
    index: Index,
    users: Users,
}

impl Whose {
    pub(super) fn of(units: &[Unit], users: Users) -> Self {
        let parsed = units.iter().enumerate();
        let selectors: Vec<(usize, Selectors)> =
            parsed.filter_map(|(number, unit)| Some((number, Selectors::parse(&unit.name).ok()?))).collect();
        let index = Index::of(selectors.iter().map(|(_, selectors)| selectors));
        Self { selectors, index, users }
    }

    /// Whether the unit of this number is named by a selector.
    pub(super) fn is_selector(&self, number: usize) -> bool {
        self.selectors.binary_search_by_key(&number, |(of, _)| *of).is_ok()
    }

    /// The numbers of the units that a cgroup belongs to.
    pub(super) fn of_cgroup(&self, path: &CgroupPath) -> BTreeSet<usize> {
        path.prefixes().filter_map(|path| Instance::of(&path)).flat_map(|one| self.of_instance(&one)).gather()
    }

    /// The numbers of the units that a refusal belongs to.
    pub(super) fn of_refusal(&self, refusal: &Refusal) -> BTreeSet<usize> {
        let path = refusal.cgroup.as_deref().and_then(|path| path.parse::<CgroupPath>().ok());
        if let Some(path) = path {
            return self.of_cgroup(&path);
        }
        // Its cgroup is gone, and only the unit's name is left.
        let Some(unit) = &refusal.unit else { return BTreeSet::new() };
        let Ok(path) = unit.parse::<CgroupPath>() else { return BTreeSet::new() };
        let manager = refusal.uid.map_or(Manager::System, Manager::User);
        self.of_instance(&Instance { manager, unit: UnitName(unit.as_str().into()), path })
    }

    fn of_instance(&self, instance: &Instance) -> BTreeSet<usize> {
        let candidates =
            self.index.candidates(&instance.unit).into_iter().map(|number| &self.selectors[number]);
        let selected = candidates.filter(|(_, selectors)| selectors.select(instance, &self.users));
        selected.map(|(number, _)| *number).gather()
    }
}

/// The names of users that the units of a status have.
pub(super) fn user_names(units: &[Unit]) -> BTreeSet<String> {
    let selectors =
        units.iter().filter(|unit| unit.name.contains(':')).map(|unit| Selectors::parse(&unit.name));
    selectors
        .flatten()
        .flat_map(|one| one.user_names().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .gather()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose() -> Whose {
        let names = ["a.service", "alice:app:firefox", "user:app.slice", "b.service\x1b", "system.slice"];
        let units: Vec<Unit> =
            names.iter().map(|name| Unit { name: (*name).to_owned(), ..Unit::default() }).collect();
        assert_eq!(user_names(&units), BTreeSet::from(["alice".to_owned()]));
        Whose::of(&units, Users::from([("alice".to_owned(), 1000)]))
    }

    #[test]
    fn cgroup_belongs_to_all_that_select_it_or_what_it_is_in() {
        let of = |path: &str| whose().of_cgroup(&path.parse().unwrap()).into_iter().collect::<Vec<_>>();
        assert_eq!(of("system.slice/a.service"), [0, 4]);
        assert_eq!(of("system.slice/a.service/deeper"), [0, 4]);
        let user = "user.slice/user-1000.slice/user@1000.service/app.slice";
        assert_eq!(of(&format!("{user}/app-gnome-firefox-1.scope")), [1, 2]);
        assert_eq!(of(&format!("{}/app-gnome-firefox-1.scope", user.replace("1000", "1001"))), [2]);
        assert_eq!(of("other"), [0; 0]);
    }
}
