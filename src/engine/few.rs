//! Sets of which most have one member, of which there are very many: a B-tree's smallest node has room for eleven.

use serde::{Deserialize, Serialize};

use crate::gather::{Gather, Ordered};

/// A set, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<T>", into = "Vec<T>", bound = "T: Ord + Clone + Serialize + for<'a> Deserialize<'a>")]
pub enum Few<T> {
    /// At most one.
    One(Option<T>),
    /// More than that.
    Many(Vec<T>),
}

impl<T: Ord> Few<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.members().iter()
    }

    /// Whether this is one of them.
    pub fn contains(&self, member: &T) -> bool {
        self.members().binary_search(member).is_ok()
    }

    /// Puts one in.
    pub fn insert(&mut self, member: T) {
        match self {
            Self::Many(many) => many.put(member),
            Self::One(None) => *self = Self::One(Some(member)),
            Self::One(Some(one)) if *one == member => {}
            Self::One(one) => *self = Self::Many(one.take().into_iter().chain([member]).gather()),
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, member: &T) {
        let Ok(place) = self.members().binary_search(member) else { return };
        match self {
            Self::One(one) => *one = None,
            Self::Many(many) => {
                many.remove(place);
                if many.len() == 1 {
                    *self = Self::One(many.pop());
                }
            }
        }
    }

    fn members(&self) -> &[T] {
        match self {
            Self::One(one) => one.as_slice(),
            Self::Many(many) => many,
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<T: Ord> From<Vec<T>> for Few<T> {
    fn from(members: Vec<T>) -> Self {
        let mut few = Self::default();
        members.into_iter().for_each(|member| few.insert(member));
        few
    }
}

impl<T> From<Few<T>> for Vec<T> {
    fn from(few: Few<T>) -> Self {
        match few {
            Few::One(one) => one.into_iter().collect(),
            Few::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds(steps in prop::collection::vec((any::<bool>(), 0_u8..4), 0..20)) {
            let (mut few, mut set) = (Few::default(), BTreeSet::new());
            for (is_in, member) in steps {
                if is_in {
                    few.insert(member);
                    set.insert(member);
                } else {
                    few.remove(&member);
                    set.remove(&member);
                }
                prop_assert_eq!(few.iter().copied().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(&few, &Few::from(set.iter().rev().copied().collect::<Vec<_>>()));
                prop_assert_eq!(few.is_empty(), set.is_empty());
                prop_assert!((0..4).all(|member| few.contains(&member) == set.contains(&member)));
            }
        }
    }
}
