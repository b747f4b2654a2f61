//! What all executors have counted together, since the start or since CONFIG RESETSTAT.

use crate::registry::metrics::{CommandMetrics, SharedCounter};
use crate::registry::server_state::ServerState;
use crate::{clock, command};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The shortest time that rates are taken over, in milliseconds: below it a few commands more or less would count as
/// thousands per second.
const RATE_SPAN_MS_MIN: u64 = 100;

/// One command's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounts {
    /// How often the command was run.
    pub calls: u64,
    /// Time that its handler took, in nanoseconds.
    pub took_ns: u64,
    /// How often the command was refused before it ran.
    pub rejected: u64,
    /// How often its handler answered an error.
    pub failed: u64,
}

/// Everything that CONFIG RESETSTAT resets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections_received: u64,
    /// Connections refused for `maxclients`.
    pub connections_rejected: u64,
    /// Clients disconnected because of `client-output-buffer-limit`.
    pub output_limit_disconnections: u64,
    /// Clients disconnected because of `client-query-buffer-limit`.
    pub query_limit_disconnections: u64,
    /// Commands processed, among them those that were parts of others.
    pub commands_processed: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Keys that have expired.
    pub expired_keys: u64,
    /// Look-ups that found a key.
    pub keyspace_hits: u64,
    /// Look-ups that did not.
    pub keyspace_misses: u64,
    /// By [`Command::index`](crate::command::Command::index).
    pub commands: Vec<CommandCounts>,
    /// By the error's first word.
    pub errors: BTreeMap<String, u64>,
}

impl Counts {
    /// Adds up what all executors have counted since the start.
    fn read(server: &ServerState) -> Counts {
        let shared = |counter: &SharedCounter| u64::try_from(counter.get()).unwrap_or(0);
        let mut counts = Counts {
            connections_received: shared(&server.totals.connections_received),
            connections_rejected: shared(&server.totals.connections_rejected),
            output_limit_disconnections: shared(&server.totals.output_limit_disconnections),
            query_limit_disconnections: shared(&server.totals.query_limit_disconnections),
            expired_keys: server.shards.iter().map(|shard| shard.expired_keys.get()).sum(),
            keyspace_hits: server.storage.iter().map(|storage| storage.keyspace_hits.get()).sum(),
            keyspace_misses: server.storage.iter().map(|storage| storage.keyspace_misses.get()).sum(),
            commands: vec![CommandCounts::default(); command::all().len()],
            ..Counts::default()
        };
        for storage in &server.storage {
            counts.commands_processed += storage.inner_commands.get();
            counts.add_commands(&storage.commands);
            counts.add_errors(&storage.errors);
        }
        for network in &server.network {
            counts.keyspace_hits += network.keyspace_hits.get();
            counts.keyspace_misses += network.keyspace_misses.get();
            counts.commands_processed += network.commands_processed.get();
            counts.bytes_in += network.bytes_in.get();
            counts.bytes_out += network.bytes_out.get();
            counts.add_commands(&network.commands);
            counts.add_errors(&network.errors);
        }
        counts
    }

    fn add_commands(&mut self, commands: &[CommandMetrics]) {
        for (total, command) in self.commands.iter_mut().zip(commands) {
            total.calls += command.calls.get();
            total.took_ns += command.took_ns.get();
            total.rejected += command.rejected.get();
            total.failed += command.failed.get();
        }
    }

    fn add_errors(&mut self, errors: &Mutex<BTreeMap<String, u64>>) {
        for (word, count) in errors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *self.errors.entry(word.clone()).or_default() += count;
        }
    }

    /// What was counted after `baseline`.
    fn since(mut self, baseline: &Counts) -> Counts {
        let take = |mine: &mut u64, earlier: u64| *mine = mine.saturating_sub(earlier);
        take(&mut self.connections_received, baseline.connections_received);
        take(&mut self.connections_rejected, baseline.connections_rejected);
        take(
            &mut self.output_limit_disconnections,
            baseline.output_limit_disconnections,
        );
        take(
            &mut self.query_limit_disconnections,
            baseline.query_limit_disconnections,
        );
        take(&mut self.commands_processed, baseline.commands_processed);
        take(&mut self.bytes_in, baseline.bytes_in);
        take(&mut self.bytes_out, baseline.bytes_out);
        take(&mut self.expired_keys, baseline.expired_keys);
        take(&mut self.keyspace_hits, baseline.keyspace_hits);
        take(&mut self.keyspace_misses, baseline.keyspace_misses);
        for (mine, earlier) in self.commands.iter_mut().zip(&baseline.commands) {
            take(&mut mine.calls, earlier.calls);
            take(&mut mine.took_ns, earlier.took_ns);
            take(&mut mine.rejected, earlier.rejected);
            take(&mut mine.failed, earlier.failed);
        }
        for (word, count) in &mut self.errors {
            take(count, baseline.errors.get(word).copied().unwrap_or(0));
        }
        self.errors.retain(|_, count| *count > 0);
        self
    }
}

/// What INFO must remember between two calls.
///
/// Each counter has one writer, which never sets it back, so CONFIG RESETSTAT remembers what they were and INFO shows
/// the difference.
#[derive(Debug, Default)]
pub struct Baseline {
    counts: Mutex<Counts>,
    rates: Mutex<Rates>,
}

/// How fast things went between two calls of INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// When the totals below were read, Unix milliseconds; 0 before the first time.
    at_ms: u64,
    commands_processed: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Commands per second between the last two looks.
    pub commands_per_second: f64,
    /// KiB read per second between them.
    pub in_kib_per_second: f64,
    /// KiB written per second between them.
    pub out_kib_per_second: f64,
}

impl Rates {
    /// The rates from `self` to now; the same as before if that is too short a time.
    fn until(self, now_ms: u64, started_at_ms: u64, totals: &Counts) -> Rates {
        let from_ms = if self.at_ms == 0 { started_at_ms } else { self.at_ms };
        let span_ms = now_ms.saturating_sub(from_ms);
        if span_ms < RATE_SPAN_MS_MIN {
            return self;
        }
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1000.0 / span_ms as f64;
        Rates {
            at_ms: now_ms,
            commands_processed: totals.commands_processed,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            commands_per_second: per_second(totals.commands_processed, self.commands_processed),
            in_kib_per_second: per_second(totals.bytes_in, self.bytes_in) / 1024.0,
            out_kib_per_second: per_second(totals.bytes_out, self.bytes_out) / 1024.0,
        }
    }
}

impl Baseline {
    /// CONFIG RESETSTAT: what was counted so far is not shown any more.
    pub fn reset(&self, server: &ServerState) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = Counts::read(server);
    }

    /// What was counted since CONFIG RESETSTAT, or since the server started.
    pub fn counts(&self, server: &ServerState) -> Counts {
        Counts::read(server).since(&self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rates since the INFO before this one, or since the server started.
    pub fn rates(&self, server: &ServerState) -> Rates {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        *rates = rates.until(clock::unix_ms(), server.started_at_ms, &Counts::read(server));
        *rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_before_a_reset_is_not_shown() {
        let counts = |calls, errors: &[(&str, u64)]| Counts {
            commands_processed: calls,
            commands: vec![CommandCounts {
                calls,
                took_ns: calls * 10,
                rejected: 1,
                failed: 0,
            }],
            errors: errors
                .iter()
                .map(|(word, count)| ((*word).to_owned(), *count))
                .collect(),
            ..Counts::default()
        };
        let baseline = counts(3, &[("ERR", 2), ("WRONGTYPE", 1)]);
        let shown = counts(5, &[("ERR", 4), ("WRONGTYPE", 1), ("NOAUTH", 1)]).since(&baseline);
        assert_eq!(shown.commands_processed, 2);
        assert_eq!(
            shown.commands,
            [CommandCounts {
                calls: 2,
                took_ns: 20,
                rejected: 0,
                failed: 0
            }]
        );
        assert_eq!(
            shown.errors,
            BTreeMap::from([("ERR".to_owned(), 2), ("NOAUTH".to_owned(), 1)])
        );
        // Without a reset there is no baseline to take away.
        assert_eq!(counts(5, &[]).since(&Counts::default()), counts(5, &[]));
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let totals = |commands_processed| Counts {
            commands_processed,
            bytes_in: 2048,
            ..Counts::default()
        };
        let first = Rates::default().until(2000, 1000, &totals(500));
        assert_eq!((first.commands_per_second, first.in_kib_per_second), (500.0, 2.0));
        let second = first.until(2500, 1000, &totals(600));
        assert_eq!((second.commands_per_second, second.in_kib_per_second), (200.0, 0.0));
        assert_eq!(second.until(2599, 1000, &totals(10_000)), second, "too soon to tell");
    }
}
