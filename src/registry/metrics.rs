//! Counters with one writer each: an executor adds to its own, and the reader adds those of all executors up.
//!
//! The counters are atomics only so that another thread may read them; the writer loads and stores without a locked
//! instruction.

use crate::command;
use crate::commands::effects::Effects;
use crate::storage::encoding::Type;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning executor may call this.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value as of some time recently.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest of the times that one thread measures, nanoseconds.
#[derive(Debug, Default)]
pub struct Longest(AtomicU64);

impl Longest {
    /// Measures a time that began then and ends now; only the owning executor may call this.
    #[inline]
    pub fn record_since(&self, began: Instant) {
        let ns = began.elapsed().as_nanos() as u64;
        if ns > self.0.load(Ordering::Relaxed) {
            self.0.store(ns, Ordering::Relaxed);
        }
    }

    /// The longest since it was reset, in microseconds.
    pub fn us(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1000
    }

    /// Forgets it; a longer time that is stored meanwhile may stay.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A number that several threads add to: for events that are rare (connections, errors by kind).
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicI64);

impl SharedCounter {
    /// Adds (or takes away) and returns the new value.
    pub fn add(&self, amount: i64) -> i64 {
        self.0.fetch_add(amount, Ordering::Relaxed) + amount
    }

    /// The value as of some time recently.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Back to zero.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Buckets of a [`Histogram`]: four per power of two of nanoseconds, up to 2^40 (18 minutes).
const BUCKETS: usize = 160;

/// A distribution of times in nanoseconds, exact to a quarter of a power of two; one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum_ns: Counter::default(),
        }
    }
}

impl Histogram {
    /// Adds one time.
    #[inline]
    pub fn record(&self, ns: u64) {
        let exponent = 63 - (ns | 1).leading_zeros() as usize;
        let quarter = if exponent < 2 {
            0
        } else {
            (ns >> (exponent - 2)) as usize & 3
        };
        self.buckets[(exponent * 4 + quarter).min(BUCKETS - 1)].add(1);
        self.sum_ns.add(ns);
    }

    /// Adds this histogram's counts to a merged one (`hdrhistogram` does the arithmetic of quantiles).
    pub fn merge_into(&self, merged: &mut hdrhistogram::Histogram<u64>) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.get();
            if count > 0 {
                let (exponent, quarter) = (index / 4, index as u64 % 4);
                let lower = if exponent < 2 {
                    1 << exponent
                } else {
                    (4 + quarter) << (exponent - 2)
                };
                merged.saturating_record_n(lower, count);
            }
        }
    }
}

/// An empty histogram to merge into: nanoseconds up to 18 minutes, two significant digits.
pub fn merged_histogram() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_max(1 << 40, 2).expect("the bounds are constants that hdrhistogram allows")
}

/// One command's statistics on one network executor.
#[derive(Debug, Default)]
pub struct CommandMetrics {
    /// How often the command was run.
    pub calls: Counter,
    /// Time that its handler took, in nanoseconds.
    pub took_ns: Counter,
    /// How often the command was refused before it ran (arity, authentication…).
    pub rejected: Counter,
    /// How often its handler answered an error.
    pub failed: Counter,
}

/// Counts an error, which `reply` begins with, by its first word.
pub fn count_error(errors: &Mutex<BTreeMap<String, u64>>, reply: &[u8]) {
    let is_end = |byte: &u8| matches!(byte, b' ' | b'\r');
    let word = reply[1..].split(is_end).next().unwrap_or_default();
    let word = String::from_utf8_lossy(word).into_owned();
    let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
    *errors.entry(word).or_default() += 1;
}

/// Counts the parts of a command that were commands themselves, and forgets them; returns how many there were.
pub fn count_ran(effects: &mut Effects, commands: &[CommandMetrics], errors: &Mutex<BTreeMap<String, u64>>) -> u64 {
    let mut calls = 0;
    for ran in effects.ran.drain(..) {
        calls += ran.calls;
        if let Some(counters) = commands.get(ran.index) {
            counters.calls.add(ran.calls);
            counters.took_ns.add(ran.took_ns);
            counters.failed.add(ran.failed);
        }
    }
    effects.errors.drain(..).for_each(|error| count_error(errors, &error));
    calls
}

/// What one network executor counts.
#[derive(Debug)]
pub struct NetworkMetrics {
    /// The CPU that the executor runs on.
    pub cpu: usize,
    /// By [`crate::command::Command::index`].
    pub commands: Vec<CommandMetrics>,
    /// Commands processed.
    pub commands_processed: Counter,
    /// Transactions over several storage executors.
    pub transactions: Counter,
    /// How often a transaction came too late at a storage executor and began again.
    pub transaction_retries: Counter,
    /// Look-ups by reading commands of transactions that found their key.
    pub keyspace_hits: Counter,
    /// Look-ups by reading commands of transactions that did not.
    pub keyspace_misses: Counter,
    /// Connections that are open.
    pub connections: Counter,
    /// Connections given to the executor so far; written by the executor that accepts.
    pub connections_assigned: Counter,
    /// How many of those have ended.
    pub connections_closed: Counter,
    /// Reads from sockets that busy polling, and not the reactor, has told of.
    pub polled_reads: Counter,
    /// How often the executor asked its sockets for a while before it slept.
    pub spins: Counter,
    /// How often something came meanwhile.
    pub spins_won: Counter,
    /// Bytes read from sockets.
    pub bytes_in: Counter,
    /// Bytes written to sockets.
    pub bytes_out: Counter,
    /// Requests handed to channels.
    pub requests: Counter,
    /// Responses that came back.
    pub responses: Counter,
    /// Requests that are out now.
    pub pending: Counter,
    /// Requests answered `-TIMEOUT` (here or at the storage executor).
    pub timeouts: Counter,
    /// Batches that a channel did not take at once.
    pub send_failures: Counter,
    /// Times that reading stopped for want of credits.
    pub backpressure_events: Counter,
    /// Batches sent.
    pub batches: Counter,
    /// Panics that were contained.
    pub panics: Counter,
    /// Time from the hand-over of a batch to its return.
    pub round_trip_ns: Histogram,
    /// Errors answered, by their first word (`ERR`, `WRONGTYPE`…); its own mutex, so only readers ever contend.
    pub errors: Mutex<BTreeMap<String, u64>>,
}

impl NetworkMetrics {
    /// Zeroes for an executor on `cpu`.
    pub fn new(cpu: usize) -> NetworkMetrics {
        NetworkMetrics {
            cpu,
            commands: command::all().iter().map(|_| CommandMetrics::default()).collect(),
            commands_processed: Counter::default(),
            transactions: Counter::default(),
            transaction_retries: Counter::default(),
            keyspace_hits: Counter::default(),
            keyspace_misses: Counter::default(),
            connections: Counter::default(),
            connections_assigned: Counter::default(),
            connections_closed: Counter::default(),
            polled_reads: Counter::default(),
            spins: Counter::default(),
            spins_won: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            requests: Counter::default(),
            responses: Counter::default(),
            pending: Counter::default(),
            timeouts: Counter::default(),
            send_failures: Counter::default(),
            backpressure_events: Counter::default(),
            batches: Counter::default(),
            panics: Counter::default(),
            round_trip_ns: Histogram::default(),
            errors: Mutex::default(),
        }
    }
}

/// Figures of a storage executor's log: the executor has the first two, its checkpointer counts the others.
#[derive(Debug, Default)]
pub struct LogMetrics {
    /// Bytes of it that RocksDB does not have yet.
    pub unclean_bytes: Counter,
    /// Segments that are sealed and that RocksDB does not have yet.
    pub segments_behind: Counter,
    /// Checkpoints.
    pub checkpoints: Counter,
    /// Time spent in checkpoints, nanoseconds.
    pub checkpoint_ns: Counter,
    /// Bytes of the log that they took in.
    pub checkpointed_bytes: Counter,
    /// Bytes of the files that they made of them.
    pub file_bytes: Counter,
    /// How often one was tried again, for want of room on the disk or because compactions were behind.
    pub checkpoint_retries: Counter,
}

/// What one storage executor counts.
#[derive(Debug, Default)]
pub struct StorageMetrics {
    /// The CPU that the executor runs on.
    pub cpu: usize,
    /// Requests run.
    pub requests: Counter,
    /// Turns: drains of the channel that ran something.
    pub turns: Counter,
    /// Batches received.
    pub batches: Counter,
    /// Requests that came too late to be run.
    pub timeouts: Counter,
    /// Look-ups by reading commands that found their key.
    pub keyspace_hits: Counter,
    /// Look-ups by reading commands that did not.
    pub keyspace_misses: Counter,
    /// Commands that were parts of an EXEC, all of them and by [`crate::command::Command::index`].
    pub inner_commands: Counter,
    /// See [`StorageMetrics::inner_commands`].
    pub commands: Vec<CommandMetrics>,
    /// Errors that those commands answered, by their first word.
    pub errors: Mutex<BTreeMap<String, u64>>,
    /// Clients of which a watched key was modified; rarely written, and only read by CLIENT LIST.
    pub dirty_clients: Mutex<BTreeSet<u64>>,
    /// Panics that were contained.
    pub panics: Counter,
    /// Batches whose replies wait for a commit or a sync.
    pub held: Counter,
    /// Requests that had to wait for a transaction over several executors, or behind an earlier one of their client.
    pub parked: Counter,
    /// Requests whose commands have come in steps.
    pub stepped_requests: Counter,
    /// How often a request was undone because something was not in memory, and waited for the disk.
    pub missed_requests: Counter,
    /// Requests that wait for the disk.
    pub waiting_for_disk: Counter,
    /// Reads of the disk that were done for those.
    pub fetched_reads: Counter,
    /// Transactions that are decided and not yet committed here: the disk is full, or writes are stalled.
    pub decided: Counter,
    /// Transactions of which only a restart will tell whether they are decided, because a shard has stopped.
    pub in_doubt: Counter,
    /// Commands that needed more than their keys here and were handed back, to run as transactions.
    pub handed_back: Counter,
    /// Large replies of which a part has not been asked for yet.
    pub replies_begun: Counter,
    /// Keys for which commands wait.
    pub blocking_keys: Counter,
    /// How many of those keys are waited for to be deleted, too.
    pub blocking_keys_on_nokey: Counter,
    /// Syncs of logs.
    pub syncs: Counter,
    /// Time spent in syncs of logs, nanoseconds.
    pub sync_ns: Counter,
    /// The log and its checkpoints.
    pub log: LogMetrics,
    /// Time from the hand-over of a batch to its being taken up.
    pub queue_ns: Histogram,
    /// Time of a turn: all handlers and the commits.
    pub turn_ns: Histogram,
    /// The longest time for which a turn, or what a script runs of one before it pauses, held the executor, since
    /// CONFIG RESETSTAT.
    pub longest_turn: Longest,
    /// The same of what the executor does beside turns: housekeeping, and what its threads report.
    pub longest_step: Longest,
}

/// What one shard reports.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// The storage executor that owns it.
    pub executor: usize,
    /// Keys and keys with a deadline by database (as SELECT numbers them).
    pub databases: [[Counter; 2]; crate::storage::encoding::DATABASE_COUNT],
    /// The state's number: 0 healthy, 1 stalled, 2 read-only, 3 unavailable.
    pub state: Counter,
    /// Look-ups that the table of hot records answered.
    pub hits: Counter,
    /// Look-ups that went to disk.
    pub misses: Counter,
    /// Records that were dropped from the table for room.
    pub evictions: Counter,
    /// Bytes in the table.
    pub cache_bytes: Counter,
    /// Of these, the bytes of records that only the log has on disk.
    pub pinned_bytes: Counter,
    /// Records in the table.
    pub cache_records: Counter,
    /// Bytes of the collections that are in memory.
    pub resident_bytes: Counter,
    /// The same by type, as [`crate::storage::encoding::Type`] codes them; then those whose type is not known, and what
    /// was dropped and is given back little by little.
    pub resident_bytes_by_type: [Counter; Type::COUNT + 1],
    /// How many collections are in memory.
    pub resident_collections: Counter,
    /// Keys deleted by the expiry sweep.
    pub expired_keys: Counter,
    /// The newest committed epoch.
    pub committed_epoch: Counter,
    /// The newest epoch on disk.
    pub durable_epoch: Counter,
    /// Bytes of files on disk.
    pub file_bytes: Counter,
    /// Bytes that compaction still has to move.
    pub pending_compaction_bytes: Counter,
    /// Large dead versions of collections whose space is still to be given back.
    pub reclaims_pending: Counter,
    /// Collections whose space was given back since the start.
    pub reclaimed_collections: Counter,
}
