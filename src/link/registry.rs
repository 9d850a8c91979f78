//! Values that all shards share, one for each key that any shard has met.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by key. The lock is taken when a shard meets a key for the first time.
pub(super) struct Registry<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Registry<K, V> {
    fn default() -> Registry<K, V> {
        Registry(Mutex::default())
    }
}

impl<K: Eq + Hash, V> Registry<K, V> {
    /// Returns the value of a key; makes it with `new` if there is none. If there are already
    /// `most` values, it first drops those that no shard uses, except where `must_stay` is true.
    pub(super) fn get(
        &self,
        key: K,
        most: usize,
        new: impl FnOnce() -> V,
        must_stay: impl Fn(&V) -> bool,
    ) -> Arc<V> {
        let mut values = self.lock();
        if most <= values.len() && !values.contains_key(&key) {
            values.retain(|_, value| 1 < Arc::strong_count(value) || must_stay(value));
        }
        values.entry(key).or_insert_with(|| Arc::new(new())).clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_values_make_room() {
        let registry = Registry::default();
        let get = |key: u64| registry.get(key, 10, || key, |value| *value == 5);
        let kept = get(3);
        for key in 0..10 {
            get(key);
        }
        get(20);
        let mut left: Vec<u64> = registry.lock().keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [3, 5, 20]);
        assert!(Arc::ptr_eq(&kept, &get(3)));
    }
}
