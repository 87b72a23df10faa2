//! Ordered collections of what an iterator yields, and lists in order.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use litemap::LiteMap;

/// [`Iterator::collect`] for maps and sets in order, one item at a time: what the standard library does instead is to sort, with
/// code of its own for each place, which came to a twelfth of the program.
pub trait Gather: Iterator + Sized {
    /// The items; of those with the same key in a map the last one.
    fn gather<C: Ordered<Self::Item>>(self) -> C {
        let mut collection = C::default();
        self.for_each(|item| collection.put(item));
        collection
    }

    /// The same of items that there may be errors instead of.
    ///
    /// # Errors
    /// The first error; what comes after it is not asked for.
    fn try_gather<C: Ordered<T>, T, E>(self) -> Result<C, E>
    where
        Self: Iterator<Item = Result<T, E>>,
    {
        let mut collection = C::default();
        for item in self {
            collection.put(item?);
        }
        Ok(collection)
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

impl<K: Ord, V> Ordered<(K, V)> for LiteMap<K, V> {
    fn put(&mut self, (key, value): (K, V)) {
        self.insert(key, value);
    }
}

/// In order, each once: small code for a set that has some thousand members at most, or gets them in order.
impl<K: Ord> Ordered<K> for Vec<K> {
    fn put(&mut self, item: K) {
        if let Err(place) = self.binary_search(&item) {
            self.insert(place, item);
        }
    }
}

impl<K: Ord> Ordered<K> for BTreeSet<K> {
    fn put(&mut self, item: K) {
        self.insert(item);
    }
}

/// [`slice::sort_by`], which is stable, for a list of any type. The standard library has 4 kB of code for each type and order, and this
/// a tenth of that: what it sorts are places, by one function.
pub fn sort_by<T>(items: &mut Vec<T>, order: impl Fn(&T, &T) -> Ordering) {
    let places = sorted(items.len(), &|one, other| order(&items[one], &items[other]));
    put_in_order(items, places);
}

/// [`sort_by`], by a key, which is made once for each item.
pub fn sort_by_key<T, K: Ord>(items: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let keys: Vec<K> = items.iter().map(key).collect();
    put_in_order(items, sorted(keys.len(), &|one, other| keys[one].cmp(&keys[other])));
}

fn put_in_order<T>(items: &mut Vec<T>, places: Vec<usize>) {
    let mut unsorted: Vec<_> = items.drain(..).map(Some).collect();
    items.extend(places.into_iter().filter_map(|place| unsorted[place].take()));
}

/// The places below a number, in an order.
#[inline(never)]
fn sorted(number: usize, order: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<_> = (0..number).collect();
    places.sort_by(|one, other| order(*one, *other));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_what_is_equal_stays_in_its_order() {
        let mut items: Vec<_> = (0..1000).map(|number| (number * 7919 % 100, number)).collect();
        let mut expected = items.clone();
        expected.sort_by_key(|item| item.0);
        sort_by_key(&mut items, |item| item.0);
        assert_eq!(items, expected);
        sort_by(&mut items, |one, other| other.1.cmp(&one.1));
        expected.sort_by_key(|item| std::cmp::Reverse(item.1));
        assert_eq!(items, expected);
    }
}
