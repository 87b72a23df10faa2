//! Which of many selectors may select a unit, without asking each of them: names and applications are looked up.

use std::collections::{BTreeMap, BTreeSet};

use super::{Selectors, Users, Which, app};
use crate::{
    gather::Gather,
    model::{Instance, UnitName},
};

/// Many selectors, by what they ask of a unit's name. They are known by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Index {
    by_name: BTreeMap<UnitName, Vec<usize>>,
    by_family: BTreeMap<String, Vec<usize>>,
    globs: BTreeSet<usize>,
}

impl Index {
    /// Of selectors in their order.
    pub fn of<'a>(all: impl IntoIterator<Item = &'a Selectors>) -> Self {
        let mut index = Self::default();
        for (number, selectors) in all.into_iter().enumerate() {
            for selector in &selectors.0 {
                match &selector.which {
                    Which::Unit(name) => index.by_name.entry(name.clone()).or_default().push(number),
                    Which::App(id) => {
                        index.by_family.entry(app::family(id)).or_default().push(number);
                    }
                    Which::Glob(_) | Which::Cage(_) => drop(index.globs.insert(number)),
                }
            }
        }
        index
    }

    /// The numbers of those that a unit of this name has to be shown to, in order.
    pub fn candidates(&self, unit: &UnitName) -> BTreeSet<usize> {
        let of_name = self.by_name.get(unit);
        let of_family = app::family_of_unit(&unit.0).and_then(|family| self.by_family.get(&family));
        let looked_up = of_name.into_iter().chain(of_family).flatten().copied();
        looked_up.chain(self.globs.iter().copied()).gather()
    }
}

/// What of these each of the selectors selects; nothing of those that select nothing.
pub fn selected<'a, 'i>(
    selectors: impl IntoIterator<Item = &'a Selectors>,
    instances: &'i [Instance],
    users: &Users,
) -> BTreeMap<&'a Selectors, Vec<&'i Instance>> {
    let all: BTreeSet<&Selectors> = selectors.into_iter().gather();
    let all: Vec<&Selectors> = all.into_iter().collect();
    let index = Index::of(all.iter().copied());
    let mut selected: BTreeMap<&Selectors, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        let candidates = index.candidates(&instance.unit).into_iter().map(|number| all[number]);
        for selectors in candidates.filter(|selectors| selectors.select(instance, users)) {
            selected.entry(selectors).or_default().push(instance);
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_many_names_and_applications_only_few_are_asked() {
        let texts = (0..1_000).flat_map(|n| [format!("system:a{n}.service"), format!("user:app:a{n}")]);
        let all: Vec<Selectors> = texts.map(|text| Selectors::parse(&text).unwrap()).collect();
        let index = Index::of(&all);
        let candidates =
            |unit: &str| index.candidates(&UnitName(unit.into())).into_iter().collect::<Vec<_>>();
        assert_eq!(candidates("a7.service"), [14]);
        assert_eq!(candidates("app-gnome-a7-12.scope"), [15]);
        assert_eq!(candidates("snap.a7.b.service"), [15]);
        assert_eq!(candidates("b.service"), [0; 0]);
    }

    proptest! {
        #[test]
        fn whoever_selects_a_unit_is_asked(
            selectors in prop::collection::vec(
                "(system:|user:)(a\\.service|app-a-1\\.scope|a\\*\\.service|app-\\*|app:[ab]([._+][ab]){0,2}(\\.desktop){0,2})", 1..8,
            ),
            unit in "a\\.service|app-([ab]-)?[ab]([._+][ab]){0,2}(\\.desktop)?-1\\.scope|snap\\.[ab](_[ab])?\\.[ab]\\.service",
        ) {
            let all: Vec<Selectors> =
                selectors.iter().filter_map(|text| Selectors::parse(text).ok()).collect();
            let path = format!("system.slice/{unit}");
            let Some(instance) = Instance::of(&path.parse().unwrap()) else { return Ok(()) };
            let candidates = Index::of(&all).candidates(&instance.unit);
            for (number, selectors) in all.iter().enumerate() {
                let is_selected = selectors.select(&instance, &Users::new());
                prop_assert!(!is_selected || candidates.contains(&number), "{} {}", selectors, unit);
            }
        }
    }
}
