//! Which transactions over several storage executors hold which keys of this executor, and which wait for them.
//!
//! Transactions are numbered by one counter of the process, and on every executor the one with the lower number goes
//! first: so a transaction waits for lower numbers only, and no two wait for each other. One that comes so late that a
//! higher number has been granted a key it wants is refused, and comes again with a new number. The scheme is that of
//! Dragonfly's [transactions](https://github.com/dragonflydb/dragonfly/blob/main/docs/transaction.md), after Ren,
//! Thomson and Abadi, "Lightweight Locking for Main Memory Database Systems" (VLDB 2013).
//!
//! Commands of one executor take no locks. They run at once unless a transaction has been granted one of their keys.
//! One that must wait is entered like a transaction, with the newest number: so later ones do not go before it for
//! ever. One that comes in steps holds its keys between these, with a number before those of all others.

use crate::faults;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId};
use std::collections::{BTreeMap, HashMap};

/// What became of a transaction that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The transaction has all it needs.
    Granted,
    /// The transaction will have all it needs when those before it are done.
    Waits,
    /// The transaction came too late, and was not entered.
    Refused,
}

/// A transaction, or a command that waits for one.
struct Entered {
    scope: Scope,
    mode: Mode,
    is_granted: bool,
}

/// The transactions that need a key, in the order of their numbers, in which they are granted it.
#[derive(Default)]
struct Line {
    ids: Vec<TransactionId>,
    /// How many of them may write.
    exclusive: usize,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Locks {
    /// See [`Locks::set_running`].
    running: Option<TransactionId>,
    /// The number of the last command of [`Locks::hold`].
    last_held: TransactionId,
    /// See [`Locks::keep_in_doubt`].
    in_doubt: Vec<TransactionId>,
    entered: BTreeMap<TransactionId, Entered>,
    by_key: HashMap<DatabaseKey, Line>,
    /// The transactions that need everything.
    whole: Line,
}

impl Line {
    fn enter(&mut self, id: TransactionId, mode: Mode) {
        // Almost always at the end. A key may be named twice.
        if let Err(index) = self.ids.binary_search(&id) {
            self.ids.insert(index, id);
            self.exclusive += usize::from(mode == Mode::Exclusive);
        }
    }

    fn leave(&mut self, id: TransactionId, mode: Mode) {
        if let Ok(index) = self.ids.binary_search(&id) {
            self.ids.remove(index);
            assert!(
                mode == Mode::Shared || self.exclusive > 0,
                "each transaction that may write is counted in its lines"
            );
            self.exclusive -= usize::from(mode == Mode::Exclusive);
        }
    }

    /// A transaction that may write lets others read from now on.
    fn share(&mut self) {
        assert!(
            self.exclusive > 0,
            "each transaction that may write is counted in its lines"
        );
        self.exclusive -= 1;
    }

    fn before(&self, id: TransactionId) -> &[TransactionId] {
        &self.ids[..self.ids.partition_point(|other| *other < id)]
    }

    fn after(&self, id: TransactionId) -> &[TransactionId] {
        &self.ids[self.ids.partition_point(|other| *other <= id)..]
    }
}

impl Locks {
    /// Whether no transaction is entered: then every command may run.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entered.is_empty()
    }

    /// Whether a transaction was entered and is not over.
    pub fn has_entered(&self, id: TransactionId) -> bool {
        self.entered.contains_key(&id)
    }

    /// Whether a transaction has been granted what it needs, and is not over.
    pub fn is_granted(&self, id: TransactionId) -> bool {
        self.entered.get(&id).is_some_and(|entered| entered.is_granted)
    }

    /// Enters a transaction.
    pub fn enter(&mut self, id: TransactionId, scope: Scope, mode: Mode) -> Admission {
        let is_late = match &scope {
            Scope::Everything => {
                let mut after = self.entered.range(id + 1..);
                after.any(|(_, other)| other.is_granted && other.mode.excludes(mode))
            }
            Scope::Keys(keys) => {
                let mut lines = self.lines_of(keys);
                lines.any(|line| line.after(id).iter().any(|other| self.is_granted_against(*other, mode)))
            }
        };
        let ignores_locks = faults::ignores_locks();
        if is_late && !ignores_locks {
            return Admission::Refused;
        }
        assert!(!self.has_entered(id), "a transaction is entered once");
        let waits = self.must_wait(id, &scope, mode) && !ignores_locks;
        match &scope {
            Scope::Keys(keys) => {
                for key in keys {
                    match self.by_key.get_mut(key) {
                        Some(line) => line.enter(id, mode),
                        None => self.by_key.entry(key.clone()).or_default().enter(id, mode),
                    }
                }
            }
            Scope::Everything => self.whole.enter(id, mode),
        }
        let entered = Entered {
            scope,
            mode,
            is_granted: !waits,
        };
        self.entered.insert(id, entered);
        if waits { Admission::Waits } else { Admission::Granted }
    }

    /// A command that has what it needs keeps it for a while, and goes before all that wait: it waits for nobody.
    pub fn hold(&mut self, scope: Scope, mode: Mode) -> TransactionId {
        // Far below those of transactions, which are microseconds of the Unix time.
        self.last_held += 1;
        let admission = self.enter(self.last_held, scope, mode);
        assert_eq!(admission, Admission::Granted, "what runs is not locked");
        self.last_held
    }

    /// The command that runs under locks that it has waited for.
    pub fn running(&self) -> Option<TransactionId> {
        self.running
    }

    /// A transaction is over. Returns the waiting ones that are granted now, in their order.
    pub fn leave(&mut self, id: TransactionId) -> Vec<TransactionId> {
        let Some(left) = self.entered.remove(&id) else {
            return Vec::new();
        };
        self.in_doubt.retain(|other| *other != id);
        match &left.scope {
            Scope::Keys(keys) => {
                for key in keys {
                    if let Some(line) = self.by_key.get_mut(key) {
                        line.leave(id, left.mode);
                        if line.ids.is_empty() {
                            self.by_key.remove(key);
                        }
                    }
                }
            }
            Scope::Everything => self.whole.leave(id, left.mode),
        }
        self.grant_waiting(&left.scope)
    }

    /// Only a restart will tell whether a transaction is decided: until then its keys here can be read and not written.
    /// Returns the transactions that were waiting to read and are granted now, in their order.
    pub fn keep_in_doubt(&mut self, id: TransactionId) -> Vec<TransactionId> {
        let Some(entered) = self
            .entered
            .get_mut(&id)
            .filter(|entered| entered.mode == Mode::Exclusive)
        else {
            return Vec::new();
        };
        entered.mode = Mode::Shared;
        let scope = entered.scope.clone();
        match &scope {
            Scope::Keys(keys) => {
                for key in keys {
                    if let Some(line) = self.by_key.get_mut(key) {
                        line.share();
                    }
                }
            }
            Scope::Everything => self.whole.share(),
        }
        self.in_doubt.push(id);
        self.grant_waiting(&scope)
    }

    /// The transactions of which only a restart will tell whether they are decided.
    pub fn in_doubt(&self) -> &[TransactionId] {
        &self.in_doubt
    }

    /// Grants `scope`, or what of it is free now, to the transactions that wait for it.
    fn grant_waiting(&mut self, scope: &Scope) -> Vec<TransactionId> {
        let mut granted = Vec::new();
        match scope {
            Scope::Keys(keys) => {
                for line in self.lines_of(keys) {
                    self.grantable(line.ids.iter().copied(), &mut granted);
                }
            }
            Scope::Everything => {
                let waiting = self.entered.iter().filter(|(_, entered)| !entered.is_granted);
                let may_go =
                    |(id, entered): &(&TransactionId, &Entered)| !self.must_wait(**id, &entered.scope, entered.mode);
                granted.extend(waiting.filter(may_go).map(|(id, _)| *id));
            }
        }
        granted.sort_unstable();
        granted.dedup();
        for id in &granted {
            if let Some(entered) = self.entered.get_mut(id) {
                assert!(!entered.is_granted, "locks are granted once");
                entered.is_granted = true;
            }
        }
        granted
    }

    /// The transactions of one line that wait and need not any more. What comes behind one that may write waits for it.
    fn grantable(&self, line: impl Iterator<Item = TransactionId>, granted: &mut Vec<TransactionId>) {
        for id in line {
            let entered = &self.entered[&id];
            if !entered.is_granted && !self.must_wait(id, &entered.scope, entered.mode) {
                granted.push(id);
            }
            if entered.mode == Mode::Exclusive {
                return;
            }
        }
    }

    /// Whether a transaction with a lower number needs something of the same.
    fn must_wait(&self, id: TransactionId, scope: &Scope, mode: Mode) -> bool {
        let excludes = |other: &TransactionId| self.entered[other].mode.excludes(mode);
        match scope {
            Scope::Everything => self.entered.range(..id).any(|(_, other)| other.mode.excludes(mode)),
            Scope::Keys(keys) => self
                .lines_of(keys)
                .any(|line| (mode == Mode::Exclusive || line.exclusive > 0) && line.before(id).iter().any(excludes)),
        }
    }

    /// The lines for some keys, and the line for everything.
    fn lines_of<'a>(&'a self, keys: &'a [DatabaseKey]) -> impl Iterator<Item = &'a Line> {
        let of_keys = keys.iter().filter_map(|key| self.by_key.get(key));
        of_keys.chain(std::iter::once(&self.whole))
    }

    /// Whether a transaction that was entered waits for one of `others`.
    pub fn is_behind(&self, id: TransactionId, others: &[TransactionId]) -> bool {
        let Some(Entered { scope, mode, .. }) = self.entered.get(&id) else {
            return false;
        };
        let excludes = |other: &TransactionId| self.entered[other].mode.excludes(*mode);
        let is_other = |before: &TransactionId| others.contains(before) && excludes(before);
        match scope {
            Scope::Keys(keys) => self.lines_of(keys).any(|line| line.before(id).iter().any(is_other)),
            Scope::Everything => self.entered.range(..id).any(|(before, _)| is_other(before)),
        }
    }

    /// Whether a command that needs `scope` must wait: a transaction has been granted something of it.
    pub fn holds_some(&self, scope: &Scope, mode: Mode) -> bool {
        match scope {
            Scope::Keys(keys) => keys.iter().any(|key| self.holds(key, mode)),
            Scope::Everything => {
                let mut granted = self.entered.values().filter(|entered| entered.is_granted);
                granted.any(|entered| entered.mode.excludes(mode))
            }
        }
    }

    /// Whether a command that needs a key must wait: a transaction has been granted the key.
    #[inline]
    pub fn holds(&self, key: &DatabaseKey, mode: Mode) -> bool {
        let holds = |line: &Line| {
            if mode == Mode::Shared && line.exclusive == 0 {
                return false;
            }
            for id in &line.ids {
                if self.is_granted_against(*id, mode) {
                    return true;
                }
                // Behind one that waits to write no transaction has been granted the key.
                if self.entered[id].mode == Mode::Exclusive {
                    return false;
                }
            }
            false
        };
        (holds(&self.whole) || self.by_key.get(key).is_some_and(holds)) && !faults::ignores_locks()
    }

    /// While a command runs that has waited for its locks, those locks are not in its way.
    pub fn set_running(&mut self, id: Option<TransactionId>) {
        self.running = id;
    }

    fn is_granted_against(&self, id: TransactionId, mode: Mode) -> bool {
        let entered = &self.entered[&id];
        entered.is_granted && entered.mode.excludes(mode) && self.running != Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::seeded_random;
    use rand::Rng;

    fn keys(names: &[&str]) -> Scope {
        Scope::Keys(names.iter().map(|name| key(name)).collect())
    }

    fn key(name: &str) -> DatabaseKey {
        (0, name.as_bytes().to_vec())
    }

    #[test]
    fn those_on_other_keys_do_not_meet() {
        let mut locks = Locks::default();
        assert_eq!(locks.enter(1, keys(&["a"]), Mode::Exclusive), Admission::Granted);
        assert_eq!(locks.enter(2, keys(&["b"]), Mode::Exclusive), Admission::Granted);
        assert!(locks.holds(&key("a"), Mode::Shared));
        assert!(!locks.holds(&key("c"), Mode::Exclusive));
        assert!(locks.leave(1).is_empty());
        assert!(!locks.holds(&key("a"), Mode::Exclusive));
    }

    #[test]
    fn what_is_in_doubt_can_be_read_and_not_written() {
        let mut locks = Locks::default();
        assert_eq!(locks.enter(1, keys(&["a", "b"]), Mode::Exclusive), Admission::Granted);
        assert_eq!(locks.enter(2, keys(&["a"]), Mode::Shared), Admission::Waits);
        assert_eq!(locks.enter(3, keys(&["a"]), Mode::Exclusive), Admission::Waits);
        assert_eq!(locks.keep_in_doubt(1), [2]);
        assert!(locks.keep_in_doubt(1).is_empty() && locks.keep_in_doubt(9).is_empty());
        assert!(!locks.holds(&key("b"), Mode::Shared) && locks.holds(&key("b"), Mode::Exclusive));
        assert!(locks.leave(2).is_empty());
        assert!(locks.is_behind(3, locks.in_doubt()), "it would write");
        assert_eq!(locks.leave(1), [3]);
        assert!(locks.in_doubt().is_empty());
        assert!(locks.leave(3).is_empty() && locks.is_empty() && locks.by_key.is_empty());
    }

    #[test]
    fn a_command_that_holds_its_keys_goes_before_all_that_wait() {
        let mut locks = Locks::default();
        assert_eq!(locks.enter(1000, keys(&["a"]), Mode::Exclusive), Admission::Granted);
        assert_eq!(locks.enter(2000, keys(&["a", "b"]), Mode::Exclusive), Admission::Waits);
        let (read, written) = (
            locks.hold(keys(&["b"]), Mode::Shared),
            locks.hold(keys(&["c"]), Mode::Exclusive),
        );
        assert!(!locks.holds(&key("b"), Mode::Shared) && locks.holds(&key("b"), Mode::Exclusive));
        assert!(locks.holds(&key("c"), Mode::Shared));
        assert_eq!(locks.enter(3000, keys(&["c"]), Mode::Shared), Admission::Waits);
        assert!(locks.leave(1000).is_empty(), "what is read waits for the command, too");
        assert_eq!(locks.leave(read), [2000]);
        assert_eq!(locks.leave(written), [3000]);
        assert!(locks.leave(2000).is_empty() && locks.leave(3000).is_empty() && locks.is_empty());
    }

    #[test]
    fn the_lower_number_goes_first_and_one_that_comes_too_late_comes_again() {
        let mut locks = Locks::default();
        assert_eq!(locks.enter(5, keys(&["a"]), Mode::Exclusive), Admission::Granted);
        assert_eq!(locks.enter(7, keys(&["a", "b"]), Mode::Exclusive), Admission::Waits);
        assert_eq!(
            locks.enter(6, keys(&["b"]), Mode::Exclusive),
            Admission::Granted,
            "7 has nothing yet"
        );
        assert_eq!(locks.enter(4, keys(&["a"]), Mode::Exclusive), Admission::Refused);
        assert!(locks.leave(5).is_empty(), "6 is before 7");
        assert!(!locks.holds(&key("a"), Mode::Exclusive), "who only waits holds nothing");
        assert_eq!(locks.leave(6), [7]);
        assert!(locks.leave(7).is_empty());
        assert!(locks.is_empty() && locks.by_key.is_empty());
    }

    #[test]
    fn readers_share_keys_and_everything() {
        let mut locks = Locks::default();
        assert_eq!(locks.enter(1, keys(&["a"]), Mode::Shared), Admission::Granted);
        assert_eq!(locks.enter(2, Scope::Everything, Mode::Shared), Admission::Granted);
        assert_eq!(locks.enter(3, keys(&["b"]), Mode::Exclusive), Admission::Waits);
        assert!(!locks.holds(&key("a"), Mode::Shared));
        assert!(locks.holds(&key("z"), Mode::Exclusive));
        assert!(
            locks.holds_some(&Scope::Everything, Mode::Exclusive)
                && !locks.holds_some(&Scope::Everything, Mode::Shared)
        );
        assert_eq!(locks.leave(2), [3]);
        assert_eq!(locks.enter(4, Scope::Everything, Mode::Exclusive), Admission::Waits);
        assert!(locks.leave(3).is_empty());
        assert_eq!(locks.leave(1), [4]);
    }

    /// Random transactions that enter executors in any order: no two that exclude each other are granted at once, and
    /// all come to their end.
    #[test]
    fn random_transactions_never_meet_and_all_end() {
        let mut random = seeded_random::printed();
        let mut locks = Locks::default();
        let mut granted: Vec<(TransactionId, Vec<usize>, Mode)> = Vec::new();
        let mut waiting: HashMap<TransactionId, (Vec<usize>, Mode)> = HashMap::new();
        for step in 1..=2000_u64 {
            if random.random_bool(0.5) {
                // Numbers come late by up to 8.
                let id = step * 8 + random.random_range(0..64);
                if locks.entered.contains_key(&id) {
                    continue;
                }
                let wanted: Vec<usize> = (0..random.random_range(1..4))
                    .map(|_| random.random_range(0..6))
                    .collect();
                let mode = if random.random_bool(0.3) {
                    Mode::Shared
                } else {
                    Mode::Exclusive
                };
                let names: Vec<String> = wanted.iter().map(|number| number.to_string()).collect();
                let scope = keys(&names.iter().map(String::as_str).collect::<Vec<_>>());
                match locks.enter(id, scope, mode) {
                    Admission::Granted => granted.push((id, wanted, mode)),
                    Admission::Waits => drop(waiting.insert(id, (wanted, mode))),
                    Admission::Refused => {}
                }
            } else if !granted.is_empty() {
                let (id, ..) = granted.swap_remove(random.random_range(0..granted.len()));
                for id in locks.leave(id) {
                    let (wanted, mode) = waiting.remove(&id).expect("only who waits is granted later");
                    granted.push((id, wanted, mode));
                }
            }
            for (index, (id, wanted, mode)) in granted.iter().enumerate() {
                for (other, theirs, their_mode) in &granted[..index] {
                    let meet = wanted.iter().any(|key| theirs.contains(key)) && mode.excludes(*their_mode);
                    assert!(!meet, "{id} and {other} hold the same key");
                }
            }
        }
        while let Some((id, ..)) = granted.pop() {
            granted.extend(locks.leave(id).into_iter().map(|id| {
                let (wanted, mode) = waiting.remove(&id).expect("only who waits is granted later");
                (id, wanted, mode)
            }));
        }
        assert!(waiting.is_empty() && locks.is_empty());
    }
}
