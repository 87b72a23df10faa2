//! Ordered collections of what an iterator yields.

use std::collections::{BTreeMap, BTreeSet};

/// [`Iterator::collect`] for maps and sets in order, one item at a time: what the standard library does instead is to sort, with
/// code of its own for each place, which came to a twelfth of the program.
pub trait Gather: Iterator + Sized {
    /// The items; of those with the same key in a map the last one.
    fn gather<C: Ordered<Self::Item>>(self) -> C {
        let mut collection = C::default();
        self.for_each(|item| collection.put(item));
        collection
    }
}

impl<I: Iterator> Gather for I {}

/// What [`Gather::gather`] can make.
pub trait Ordered<T>: Default {
    /// Adds an item.
    fn put(&mut self, item: T);
}

impl<K: Ord, V> Ordered<(K, V)> for BTreeMap<K, V> {
    fn put(&mut self, (key, value): (K, V)) {
        self.insert(key, value);
    }
}

impl<K: Ord> Ordered<K> for BTreeSet<K> {
    fn put(&mut self, item: K) {
        self.insert(item);
    }
}
