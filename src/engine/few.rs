//! Sets of which most have one member, of which there are very many: a B-tree's smallest node has room for eleven.

use crate::gather::Gather;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A set, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    from = "BTreeSet<T>",
    into = "BTreeSet<T>",
    bound = "T: Ord + Clone + Serialize + for<'a> Deserialize<'a>"
)]
pub enum Few<T> {
    /// At most one.
    One(Option<T>),
    /// More than that.
    Many(BTreeSet<T>),
}

impl<T: Ord> Few<T> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(one) => (one.as_ref(), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Whether this is one of them.
    pub fn contains(&self, member: &T) -> bool {
        match self {
            Self::One(one) => one.as_ref() == Some(member),
            Self::Many(many) => many.contains(member),
        }
    }

    /// Puts one in.
    pub fn insert(&mut self, member: T) {
        match self {
            Self::Many(many) => drop(many.insert(member)),
            Self::One(None) => *self = Self::One(Some(member)),
            Self::One(Some(one)) if *one == member => {}
            Self::One(one) => *self = Self::Many(one.take().into_iter().chain([member]).gather()),
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, member: &T) {
        match self {
            Self::One(one) => drop(one.take_if(|one| one == member)),
            Self::Many(many) => {
                many.remove(member);
                if many.len() == 1 {
                    *self = Self::One(many.pop_first());
                }
            }
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<T: Ord> From<BTreeSet<T>> for Few<T> {
    fn from(mut members: BTreeSet<T>) -> Self {
        if members.len() > 1 { Self::Many(members) } else { Self::One(members.pop_first()) }
    }
}

impl<T: Ord> From<Few<T>> for BTreeSet<T> {
    fn from(few: Few<T>) -> Self {
        match few {
            Few::One(one) => one.into_iter().gather(),
            Few::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
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
                prop_assert_eq!(&few, &Few::from(set.clone()));
                prop_assert_eq!(few.is_empty(), set.is_empty());
                prop_assert!((0..4).all(|member| few.contains(&member) == set.contains(&member)));
            }
        }
    }
}
