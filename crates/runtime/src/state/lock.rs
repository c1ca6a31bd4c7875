//! Locks of the state, each with its place in the order in which they are taken, so that no two tasks wait for each other.
//!
//! Builds with debug assertions check the order whenever a lock is taken, and all tests run in such builds.

use parking_lot::{Mutex, MutexGuard};
use std::ops::{Deref, DerefMut};

/// Every lock that may be held while another is taken, in their order: who holds one takes only such that stand behind it. The
/// order is that of the parts of the context. What is locked within one call of its owner has no place here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Known,
    Scheduler,
    Rows,
    Scaling,
    Joined,
    /// One worker's that speaks through the API: who has its seat, and what is on its way to it.
    Nonce,
    Wire,
    Wanted,
    Ports,
    PoolNews,
    Pools,
    Inputs,
    Results,
    PausedReceivers,
    Figures,
    Unreached,
    History,
    Alerts,
    Retention,
}

/// A value behind a lock.
pub(crate) struct Lock<T> {
    #[cfg(debug_assertions)]
    place: Place,
    value: Mutex<T>,
}

impl<T> Lock<T> {
    #[cfg_attr(not(debug_assertions), allow(unused_variables, reason = "only builds that check need it"))]
    pub(crate) fn new(place: Place, value: T) -> Lock<T> {
        Lock {
            #[cfg(debug_assertions)]
            place,
            value: Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> Held<'_, T> {
        #[cfg(debug_assertions)]
        let taken = checked::Taken::new(self.place);
        Held {
            value: self.value.lock(),
            #[cfg(debug_assertions)]
            _taken: taken,
        }
    }
}

/// A lock that is held until this is dropped.
pub(crate) struct Held<'a, T> {
    value: MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    _taken: checked::Taken,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(debug_assertions)]
mod checked {
    use super::Place;
    use std::cell::RefCell;

    thread_local! {
        /// What this thread holds. No lock is held while a task waits, so it is what the task holds.
        static HELD: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Taken(Place);

    impl Taken {
        pub(super) fn new(place: Place) -> Taken {
            let last = HELD.with_borrow(|held| held.iter().copied().max());
            assert!(last.is_none_or(|last| last < place), "the lock {place:?} is taken under {last:?}");
            HELD.with_borrow_mut(|held| held.push(place));
            Taken(place)
        }
    }

    impl Drop for Taken {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| held.retain(|place| *place != self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_their_order_and_free_again_afterwards() {
        let (scheduler, rows) = (Lock::new(Place::Scheduler, 1), Lock::new(Place::Rows, 2));
        {
            let first = scheduler.lock();
            let mut second = rows.lock();
            *second += *first;
        }
        assert_eq!(*rows.lock(), 3);
        assert_eq!(*scheduler.lock(), 1);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "the lock Scheduler is taken under Some(Rows)")]
    fn a_lock_out_of_order_is_noticed() {
        let (scheduler, rows) = (Lock::new(Place::Scheduler, 1), Lock::new(Place::Rows, 2));
        let _second = rows.lock();
        let _first = scheduler.lock();
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "the lock Rows is taken under Some(Rows)")]
    fn a_lock_taken_twice_is_noticed() {
        let rows = Lock::new(Place::Rows, 2);
        let _once = rows.lock();
        let _twice = rows.lock();
    }
}
