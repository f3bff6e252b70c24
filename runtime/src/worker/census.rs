//! How many connections there are on all workers: of the instance, and of each user. The kernel
//! spreads connections over workers by hash, so no worker knows what limits of the instance ask
//! for. Touched when connections come and go, never when messages do.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::fnv::fnv1a;

/// Counts that all workers share.
#[derive(Debug, Default)]
pub struct Census {
    connections: AtomicU32,
    users: Mutex<BTreeMap<UserKey, u32>>,
}

/// Stands for a user: 64 bits of a hash of the id. Two of a million users share one with a chance
/// of 1 in 37 million, and would share their limit. Who wants a certain user id needs a signed
/// token for it, so nobody is served by a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserKey(u64);

impl Census {
    /// Counts a connection in. How many there were before.
    pub(super) fn arrived(&self) -> u32 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// How many there are.
    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection as one of `user`. How many that user had before.
    pub(super) fn verified(&self, user: &str) -> (UserKey, u32) {
        let key = UserKey(fnv1a(user.as_bytes()));
        let mut users = self.users();
        let count = users.entry(key).or_default();
        *count += 1;
        (key, *count - 1)
    }

    /// Counts a connection out.
    pub(super) fn left(&self, user: Option<UserKey>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(user) = user else { return };
        let mut users = self.users();
        if let Some(count) = users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&user);
            }
        }
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<UserKey, u32>> {
        // Nothing here panics between two writes that belong together.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_and_out_whole_and_by_user() {
        let census = Census::default();
        assert_eq!((census.arrived(), census.arrived(), census.arrived()), (0, 1, 2));
        let (ann, before) = census.verified("ann");
        assert_eq!(before, 0);
        assert_eq!(census.verified("ann"), (ann, 1));
        assert_eq!(census.verified("bob").1, 0);
        census.left(Some(ann));
        census.left(None);
        assert_eq!(census.arrived(), 1);
        assert_eq!(census.verified("ann").1, 1);
        census.left(Some(ann));
        census.left(Some(ann));
        assert_eq!(census.users().len(), 1, "nobody who has left is remembered");
    }
}
