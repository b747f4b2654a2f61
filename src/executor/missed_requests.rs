//! Requests whose commands have missed something in memory: they were undone, and are run again when the
//! [`disk_readers`](super::disk_readers) have fetched it. A client's later commands wait behind; those of all others go
//! on.
//!
//! Only what a network executor sends for a client is undone so, and only when it begins. It reads the disk on the
//! executor's thread instead, as everything else does (the steps of transactions over executors, commands that were
//! blocked and are run again, expiry),
//!
//! - when what was fetched for it is not in memory again, because the cache is too small for what all want at once,
//!   when it has missed [`WAITS_MAX`] times, or if it runs so long that to undo it costs more than a disk;
//! - if it has waited for its keys' locks, which it holds;
//! - if it is a script that has paused before, or is known to be long, and has an open turn;
//! - if it is an EXEC with a FUNCTION that changes libraries;
//! - and behind the beginning of a reply that comes in pieces.

use super::disk_readers::ShardRead;
use super::request::Ran;
use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::{Batch, Request};
use crate::command::{self, NO_SCRIPT, Runs, WRITE, exec_request};
use crate::protocol::Arguments;
use crate::storage::missed_reads::MissedRead;
use crate::storage::transaction_scope::DatabaseKey;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How often a command waits for the disk at most. One that finds a member of a collection does so three or four times.
const WAITS_MAX: u32 = 16;

/// A command that has run for so long is not undone again: a disk takes less.
const UNDONE_MAX: Duration = Duration::from_millis(2);

/// Keys of one command that are looked up together.
const KEYS_TOGETHER_MAX: usize = 1024;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct MissedRequests {
    waiting: HashMap<u64, Waiting>,
    last_number: u64,
    /// The reads that are under way, and the numbers of the requests that wait for each.
    reads: HashMap<ShardRead, Vec<u64>>,
    /// Those of the reads that the executor does itself, a part in each turn.
    loads: VecDeque<Load>,
    /// Those of them that wait for what must be read from the disk first.
    loads_waiting: HashMap<ShardRead, Vec<Load>>,
    /// Requests that do not wait any more.
    pub(super) fetched: VecDeque<SetAside>,
    /// The request that is being run reads the disk itself.
    pub(super) reads_disk: bool,
}

/// A collection that is being loaded into memory.
struct Load {
    read: ShardRead,
    /// What was read from the disk for it last: if that is not in memory again, it is read here.
    fetched: Option<ShardRead>,
}

struct Waiting {
    request: SetAside,
    reads_left: usize,
}

/// A request that was undone, in a batch of its own with its credit.
pub(super) struct SetAside {
    batch: Box<Batch>,
    attempt: Attempt,
}

/// How a request is to be run that was, or may be, undone.
#[derive(Default)]
pub(super) struct Attempt {
    /// How often the request has waited.
    waits: u32,
    /// What the random numbers of the first attempt came from: the same ones lead to what was fetched.
    random: Option<u64>,
    /// What was fetched for it last.
    fetched: Vec<ShardRead>,
    /// It reads the disk itself.
    is_last: bool,
}

impl Attempt {
    /// One that does not wait.
    pub(super) fn last() -> Attempt {
        Attempt {
            is_last: true,
            ..Attempt::default()
        }
    }
}

/// A command was undone.
pub(super) struct Missed {
    /// When.
    pub(super) ended: Instant,
    /// How long it had run.
    pub(super) took: Duration,
    /// What its random numbers came from.
    pub(super) random: u64,
}

impl MissedRequests {
    /// Whether requests wait, or have waited and were not run yet.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.fetched.is_empty()
    }

    /// Whether there is something for [`StorageExecutor::load_missed`] to do.
    pub(super) fn has_loads(&self) -> bool {
        !self.loads.is_empty()
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.fetched.len()
    }

    /// Reads that are over: the requests that waited for nothing else are to be run.
    fn take_in(&mut self, fetched: impl Iterator<Item = ShardRead>) {
        for read in fetched {
            self.loads.extend(self.loads_waiting.remove(&read).unwrap_or_default());
            for number in self.reads.remove(&read).unwrap_or_default() {
                let Entry::Occupied(mut waiting) = self.waiting.entry(number) else {
                    unreachable!("a request waits for all that it has asked for");
                };
                waiting.get_mut().reads_left -= 1;
                if waiting.get().reads_left == 0 {
                    self.fetched.push_back(waiting.remove().request);
                }
            }
        }
    }
}

impl StorageExecutor {
    /// Whether the command that begins may be undone, because it would have to wait for the disk.
    pub(super) fn may_miss(&self, batch: &Batch, request: &Request) -> bool {
        if self.missed.reads_disk || self.long_script.is_next {
            return false;
        }
        match request.command.runs {
            Runs::Step(_) => false,
            Runs::Exec => !changes_libraries(batch.arguments(request)),
            _ => true,
        }
    }

    /// Lets a request wait that has missed something and was undone, in the attempt before.
    pub(super) fn set_aside(&mut self, batch: Box<Batch>, mut attempt: Attempt, missed: &Missed) {
        let request = batch.requests[0];
        let mut reads = self.shards.take_missed();
        assert!(!reads.is_empty(), "only what has missed something waits for the disk");
        attempt.waits += 1;
        attempt.random.get_or_insert(missed.random);
        attempt.is_last = attempt.waits == WAITS_MAX || missed.took > UNDONE_MAX || attempt.fetched.contains(&reads[0]);
        self.metrics.missed_requests.add(1);
        if request.caller.client_id != 0 {
            self.parked.behind.entry(request.caller.client_id).or_default();
        }
        let keys = keys_of(&batch, &request);
        if keys.len() > 1 && !attempt.is_last {
            reads.extend(self.shards.missed_of(&keys));
        }
        self.missed.last_number += 1;
        let number = self.missed.last_number;
        let mut reads_left = 0;
        for read in &reads {
            reads_left += usize::from(self.fetch(read, Some(number)));
        }
        attempt.fetched = reads;
        let request = SetAside { batch, attempt };
        self.missed.waiting.insert(number, Waiting { request, reads_left });
    }

    /// Has a read done, if it is not under way already, for the request of a number if there is one. Returns whether
    /// that did not wait for this read before.
    fn fetch(&mut self, read: &ShardRead, number: Option<u64>) -> bool {
        let waiting = match self.missed.reads.entry(read.clone()) {
            Entry::Occupied(under_way) => under_way.into_mut(),
            Entry::Vacant(entry) => {
                match &read.1 {
                    MissedRead::Members(..) => self.missed.loads.push_back(Load {
                        read: read.clone(),
                        fetched: None,
                    }),
                    MissedRead::Cell(..) | MissedRead::Range(..) => self.threads.disk_readers.fetch(read.clone()),
                }
                entry.insert(Vec::new())
            }
        };
        let is_new = number.is_some() && waiting.last() != number.as_ref();
        waiting.extend(number.filter(|_| is_new));
        is_new
    }

    /// A request waits for others: what it will need of the disk is fetched meanwhile.
    pub(super) fn fetch_ahead(&mut self, batch: &Batch) {
        let keys = keys_of(batch, &batch.requests[0]);
        for read in self.shards.missed_of(&keys) {
            self.fetch(&read, None);
        }
    }

    /// Reads are over: runs the requests that have waited for them, in a turn of their own.
    pub(super) fn on_fetched(&mut self, first: ShardRead, others: &flume::Receiver<ShardRead>) {
        self.missed.take_in(std::iter::once(first).chain(others.try_iter()));
        // If a script has its turn open, what was fetched is for the end of that.
        if !self.missed.fetched.is_empty() && !self.long_script.is_open {
            let began = Instant::now();
            self.begin_turn();
            let mut done = Vec::new();
            self.resume(&mut done);
            self.end_turn(done, 0, began);
        }
    }

    /// Goes on with what requests wait for that were set aside, in a turn of its own, if it is not
    /// [`serve`](super::turn::serve) that has set them aside: that does so in each of its turns. Returns whether there
    /// is more to do.
    pub(super) fn run_set_aside(&mut self) -> bool {
        if !self.goes_on_by_itself() || self.long_script.is_open {
            return false;
        }
        let began = Instant::now();
        self.begin_turn();
        let mut done = Vec::new();
        self.load_missed(&mut done);
        self.run_steps(&mut done);
        self.end_turn(done, 0, began);
        self.goes_on_by_itself()
    }

    /// Whether there is something to load, or a command to go on with.
    pub(super) fn goes_on_by_itself(&self) -> bool {
        self.missed.has_loads() || self.has_steps()
    }

    /// Goes on with the loads that requests wait for, and runs those that need not wait any more.
    pub(super) fn load_missed(&mut self, done: &mut Batches) {
        let Some(mut load) = self.missed.loads.pop_front() else {
            return;
        };
        let shard_index = load.read.0;
        let first = self.shards.load_missed(&load.read, true);
        let is_fetched = |missed: &MissedRead| {
            let fetched = load.fetched.as_ref();
            fetched.is_some_and(|(index, fetched)| *index == shard_index && fetched == missed)
        };
        match first {
            (_, Some(missed)) if !is_fetched(&missed) => {
                let read = (shard_index, missed);
                load.fetched = Some(read.clone());
                self.fetch(&read, None);
                self.missed.loads_waiting.entry(read).or_default().push(load);
            }
            (true, _) => self.missed.take_in(std::iter::once(load.read)),
            (false, None) => self.missed.loads.push_back(load),
            (false, Some(_)) => match self.shards.load_missed(&load.read, false).0 {
                true => self.missed.take_in(std::iter::once(load.read)),
                false => self.missed.loads.push_back(load),
            },
        }
        self.resume(done);
    }

    /// Runs the requests again for which all was fetched, and what waits behind them.
    pub(super) fn run_fetched(&mut self, done: &mut Batches) {
        while let Some(SetAside { batch, attempt }) = self.missed.fetched.pop_front() {
            let request = batch.requests[0];
            if self.is_held(&batch, &request) {
                self.stand_in_line(batch);
            } else if self.run_alone(batch, attempt, done) {
                self.run_behind(request.caller.client_id, done);
            }
        }
    }

    /// Runs a request that is alone in its batch.
    pub(super) fn run_attempt(&mut self, alone: &mut Batch, attempt: &Attempt) -> Ran {
        let request = alone.requests[0];
        let random = attempt.random.map(|random| std::mem::replace(&mut self.random, random));
        self.missed.reads_disk = attempt.is_last;
        let ran = self.run_request(alone, &request, Instant::now(), None);
        self.missed.reads_disk = false;
        self.random = random.unwrap_or(self.random);
        ran
    }

    /// Takes the requests that could be run, but for a busy script. What waits behind them is for the end of that.
    pub(super) fn take_fetched(&mut self) -> Batches {
        let fetched = std::mem::take(&mut self.missed.fetched);
        let clients = fetched.iter().map(|request| request.batch.requests[0].caller.client_id);
        self.parked.no_longer_ahead.extend(clients);
        fetched.into_iter().map(|request| request.batch).collect()
    }
}

/// Whether an EXEC may change function libraries: all threads see that at once, and it is not undone.
fn changes_libraries(exec: Arguments<'_>) -> bool {
    let mut parts = exec_request::parts_of_exec(exec);
    parts.any(|(_, part, _)| part.flags.has(WRITE) && part.flags.has(NO_SCRIPT))
}

/// The keys that a request names, or the first of many.
fn keys_of(batch: &Batch, request: &Request) -> Vec<DatabaseKey> {
    let arguments = batch.arguments(request);
    let mut keys = command::database_keys_of(request.command, arguments, request.caller.database);
    keys.truncate(KEYS_TOGETHER_MAX);
    keys
}
