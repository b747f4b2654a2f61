//! INFO: what the server says about itself, one function per section.
//!
//! Names are Redis's where Redis has the figure and it is true of us; what Redis has and Corelane has not is left out
//! rather than made up. The sections `executors` and `shards` are Corelane's own.

use crate::command;
use crate::command::REDIS_VERSION;
use crate::config::Durability;
use crate::observe::memory::{Memory, share_percent};
use crate::registry::metrics::{Counter, Histogram, LogMetrics, ShardMetrics, StorageMetrics, merged_histogram};
use crate::registry::server_state::ServerState;
use crate::registry::subscribers::Kind;
use crate::registry::totals::CommandCounts;
use crate::storage::encoding::DATABASE_COUNT;
use crate::storage::shard::ShardState;
use crate::{clock, ring};
use std::fmt::{Display, Write};
use std::fs;

/// Ticks per second of the times in /proc/PID/stat: `USER_HZ`, part of Linux's interface and 100 on every architecture
/// that the server can be built for.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// One section of INFO.
struct Section {
    /// What a client asks for, in lower case.
    name: &'static str,
    /// The heading.
    title: &'static str,
    /// Whether INFO without arguments has it.
    default: bool,
    write: fn(&ServerState, &mut Lines),
}

const fn section(
    name: &'static str,
    title: &'static str,
    default: bool,
    write: fn(&ServerState, &mut Lines),
) -> Section {
    Section {
        name,
        title,
        default,
        write,
    }
}

/// All sections, in the order in which they are shown: Redis's, with ours before the keyspace.
static SECTIONS: &[Section] = &[
    section("server", "Server", true, write_server),
    section("clients", "Clients", true, write_clients),
    section("memory", "Memory", true, write_memory),
    section("persistence", "Persistence", true, write_persistence),
    section("stats", "Stats", true, write_stats),
    section("replication", "Replication", true, write_replication),
    section("cpu", "CPU", true, write_cpu),
    section("modules", "Modules", true, |_, _| {}),
    section("commandstats", "Commandstats", false, write_commandstats),
    section("errorstats", "Errorstats", true, write_errorstats),
    section("cluster", "Cluster", true, |_, lines| lines.add("cluster_enabled", 0)),
    section("executors", "Executors", true, write_executors),
    section("shards", "Shards", true, write_shards),
    section("keyspace", "Keyspace", true, write_keyspace),
];

/// The sections that INFO's arguments ask for: names whatever their case, `default`, `all` and `everything`; no
/// arguments are `default`. Names that are no section add nothing, as in Redis.
fn wanted<'a>(arguments: impl IntoIterator<Item = &'a [u8]>) -> [bool; SECTIONS.len()] {
    let mut wanted = [false; SECTIONS.len()];
    let mut arguments = arguments.into_iter().peekable();
    let defaults: &[u8] = b"default";
    let without_arguments = arguments.peek().is_none().then_some(defaults);
    for argument in arguments.chain(without_arguments) {
        let argument = argument.to_ascii_lowercase();
        for (wanted, section) in wanted.iter_mut().zip(SECTIONS) {
            *wanted |= match argument.as_slice() {
                b"default" => section.default,
                b"all" | b"everything" => true,
                name => name == section.name.as_bytes(),
            };
        }
    }
    wanted
}

/// The text of INFO for its arguments (without the command's name), with Redis's line ends.
///
/// Reads some files of /proc: the kernel makes them from memory, in some ten microseconds, so an executor may.
pub fn report<'a>(server: &ServerState, arguments: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut lines = Lines::default();
    for (section, wanted) in SECTIONS.iter().zip(wanted(arguments)) {
        if !wanted {
            continue;
        }
        if !lines.text.is_empty() {
            lines.text.push_str("\r\n");
        }
        lines.text.push_str("# ");
        lines.text.push_str(section.title);
        lines.text.push_str("\r\n");
        (section.write)(server, &mut lines);
    }
    lines.text
}

/// The text under way.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    /// `name:value`.
    fn add(&mut self, name: impl Display, value: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "{name}:{value}\r\n");
    }

    /// A number of bytes, and again in a form for people.
    fn add_bytes(&mut self, name: &str, bytes: u64) {
        self.add(name, bytes);
        self.add(format_args!("{name}_human"), human_bytes(bytes));
    }
}

/// Bytes as Redis prints them for people: `512B`, `1.50K`, `2.00G`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let power = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    format!(
        "{:.2}{}",
        bytes as f64 / (1u64 << (10 * power)) as f64,
        UNITS[power as usize - 1]
    )
}

// ---- The sections ----

fn write_server(server: &ServerState, lines: &mut Lines) {
    let now_us = clock::unix_us();
    let uptime_s = (now_us / 1000).saturating_sub(server.started_at_ms) / 1000;
    lines.add("redis_version", REDIS_VERSION);
    lines.add("corelane_version", env!("CARGO_PKG_VERSION"));
    lines.add("redis_mode", "standalone");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    lines.add(
        "os",
        format_args!("Linux {} {}", release.trim(), std::env::consts::ARCH),
    );
    lines.add("arch_bits", usize::BITS);
    lines.add("multiplexing_api", "io_uring");
    lines.add("process_id", std::process::id());
    lines.add("run_id", &server.run_id);
    lines.add("tcp_port", server.listening.port());
    lines.add("server_time_usec", now_us);
    lines.add("uptime_in_seconds", uptime_s);
    lines.add("uptime_in_days", uptime_s / 86_400);
    lines.add("executable", std::env::current_exe().unwrap_or_default().display());
    lines.add(
        "config_file",
        server.config_file.as_deref().unwrap_or("".as_ref()).display(),
    );
    lines.add("network_executors", server.network.len());
    lines.add("storage_executors", server.storage.len());
    lines.add("shards", server.shards.len());
}

fn write_clients(server: &ServerState, lines: &mut Lines) {
    let clients = server.clients.all();
    lines.add("connected_clients", clients.len());
    lines.add("cluster_connections", 0);
    lines.add("maxclients", server.settings.snapshot().maxclients);
    let max_input = clients.iter().map(|client| client.input_bytes.get()).max().unwrap_or(0);
    let max_output = clients
        .iter()
        .map(|client| client.output_bytes.get())
        .max()
        .unwrap_or(0);
    lines.add("client_recent_max_input_buffer", max_input);
    lines.add("client_recent_max_output_buffer", max_output);
    lines.add("tracking_clients", server.tracking.client_count());
    lines.add(
        "blocked_clients",
        clients.iter().filter(|client| client.is_blocked()).count(),
    );
    let sum = |figure: fn(&StorageMetrics) -> u64| server.storage.iter().map(|storage| figure(storage)).sum::<u64>();
    lines.add("total_blocking_keys", sum(|storage| storage.blocking_keys.get()));
    lines.add(
        "total_blocking_keys_on_nokey",
        sum(|storage| storage.blocking_keys_on_nokey.get()),
    );
}

/// `used_memory` is the resident memory: RocksDB and the server allocate from different allocators, and only the kernel
/// knows both. What follows says whose it is.
fn write_memory(server: &ServerState, lines: &mut Lines) {
    let Memory { process, owners } = Memory::read(server);
    let sum = |figure: fn(&ShardMetrics) -> u64| server.shards.iter().map(|shard| figure(shard)).sum::<u64>();
    lines.add_bytes("used_memory", process.resident);
    lines.add_bytes("used_memory_rss", process.resident);
    lines.add_bytes("used_memory_peak", process.peak);
    lines.add(
        "used_memory_peak_perc",
        format_args!("{:.2}%", share_percent(process.resident, process.peak)),
    );
    lines.add("used_memory_dataset", owners.data());
    lines.add(
        "used_memory_dataset_perc",
        format_args!("{:.2}%", share_percent(owners.data(), process.resident)),
    );
    lines.add_bytes("total_system_memory", process.machine);
    lines.add_bytes("maxmemory", 0);
    lines.add("maxmemory_policy", "noeviction");
    lines.add("mem_allocator", "mimalloc");
    lines.add("mem_clients_normal", owners.connections);
    lines.add_bytes("value_cache", owners.table);
    lines.add("value_cache_records", sum(|shard| shard.cache_records.get()));
    lines.add_bytes("log_pinned", owners.pinned);
    lines.add_bytes("resident_cache", owners.collections());
    lines.add("resident_collections", sum(|shard| shard.resident_collections.get()));
    for (name, bytes) in owners.collections_by_type() {
        lines.add(format_args!("resident_{name}"), bytes);
    }
    lines.add_bytes("block_cache", owners.block_cache);
    let (cached, text_bytes) = server.scripts.cached();
    let interpreters = server.scripts.memory() as u64;
    lines.add_bytes("used_memory_lua", interpreters);
    lines.add("used_memory_vm_eval", interpreters);
    lines.add("used_memory_scripts_eval", text_bytes);
    lines.add_bytes("used_memory_scripts", text_bytes as u64);
    lines.add("number_of_cached_scripts", cached);
    let libraries = server.scripts.functions.current();
    lines.add("number_of_functions", libraries.function_count());
    lines.add("number_of_libraries", libraries.iter().len());
    lines.add("running_scripts", server.scripts.running());
}

/// The append-only file of Redis is the log of each storage executor here: always on, and in good order while every
/// shard takes writes.
fn write_persistence(server: &ServerState, lines: &mut Lines) {
    let settings = server.settings.snapshot();
    let durability = match settings.durability {
        Durability::Always => "always",
        Durability::Interval => "interval",
        Durability::None => "none",
    };
    // Stalled writes wait for compaction and are not lost; read-only and unavailable shards refuse them.
    let refuses = |shard: &ShardMetrics| shard.state.get() >= ShardState::ReadOnly.code();
    let all_write = !server.shards.iter().any(|shard| refuses(shard));
    let syncs: u64 = server.storage.iter().map(|storage| storage.syncs.get()).sum();
    let sync_ns: u64 = server.storage.iter().map(|storage| storage.sync_ns.get()).sum();
    lines.add("loading", 0);
    lines.add("async_loading", 0);
    lines.add("durability", durability);
    lines.add("sync_interval_ms", settings.sync_interval_ms);
    lines.add("rdb_bgsave_in_progress", u8::from(server.saves.is_under_way()));
    lines.add("rdb_last_save_time", server.saves.last_s());
    lines.add("aof_enabled", 1);
    let is_log_shortened = server.logs.iter().any(|log| log.is_checkpoint_running());
    lines.add("aof_rewrite_in_progress", u8::from(is_log_shortened));
    lines.add("aof_last_write_status", if all_write { "ok" } else { "err" });
    lines.add("log_syncs", syncs);
    lines.add("log_sync_mean_us", sync_ns / 1000 / syncs.max(1));
    let sum = |figure: fn(&LogMetrics) -> &Counter| {
        let figures = server.storage.iter().map(|storage| figure(&storage.log).get());
        figures.sum::<u64>()
    };
    let checkpoints = sum(|log| &log.checkpoints);
    lines.add("log_unclean_bytes", sum(|log| &log.unclean_bytes));
    lines.add("log_segments_behind", sum(|log| &log.segments_behind));
    lines.add("log_checkpoints", checkpoints);
    let checkpoint_us = sum(|log| &log.checkpoint_ns) / 1000;
    lines.add("log_checkpoint_mean_us", checkpoint_us / checkpoints.max(1));
    lines.add("log_checkpointed_bytes", sum(|log| &log.checkpointed_bytes));
    lines.add("log_checkpoint_file_bytes", sum(|log| &log.file_bytes));
    lines.add("log_checkpoint_retries", sum(|log| &log.checkpoint_retries));
    lines.add(
        "file_bytes",
        server.shards.iter().map(|shard| shard.file_bytes.get()).sum::<u64>(),
    );
}

fn write_stats(server: &ServerState, lines: &mut Lines) {
    let counts = server.totals.baseline.counts(server);
    let rates = server.totals.baseline.rates(server);
    lines.add("total_connections_received", counts.connections_received);
    lines.add("total_commands_processed", counts.commands_processed);
    lines.add(
        "instantaneous_ops_per_sec",
        format_args!("{:.0}", rates.commands_per_second),
    );
    lines.add("total_net_input_bytes", counts.bytes_in);
    lines.add("total_net_output_bytes", counts.bytes_out);
    lines.add(
        "instantaneous_input_kbps",
        format_args!("{:.2}", rates.in_kib_per_second),
    );
    lines.add(
        "instantaneous_output_kbps",
        format_args!("{:.2}", rates.out_kib_per_second),
    );
    lines.add("rejected_connections", counts.connections_rejected);
    lines.add("expired_keys", counts.expired_keys);
    lines.add("evicted_keys", 0);
    lines.add("evicted_clients", 0);
    lines.add("evicted_scripts", server.scripts.evicted());
    lines.add("keyspace_hits", counts.keyspace_hits);
    lines.add("keyspace_misses", counts.keyspace_misses);
    lines.add("pubsub_channels", server.pubsub.name_count(Kind::Channel));
    lines.add("pubsub_patterns", server.pubsub.name_count(Kind::Pattern));
    lines.add("pubsubshard_channels", server.pubsub.name_count(Kind::ShardChannel));
    lines.add("latest_fork_usec", 0);
    lines.add("total_forks", 0);
    lines.add("tracking_total_keys", server.tracking.tracked_keys());
    lines.add("tracking_total_items", server.tracking.tracked_items());
    lines.add("tracking_total_prefixes", server.tracking.prefix_count());
    lines.add("total_error_replies", counts.errors.values().sum::<u64>());
    lines.add(
        "client_query_buffer_limit_disconnections",
        counts.query_limit_disconnections,
    );
    lines.add(
        "client_output_buffer_limit_disconnections",
        counts.output_limit_disconnections,
    );
}

fn write_replication(_server: &ServerState, lines: &mut Lines) {
    lines.add("role", "master");
    lines.add("connected_slaves", 0);
    lines.add("master_repl_offset", 0);
    lines.add("repl_backlog_active", 0);
}

/// The times of /proc/PID/stat in seconds: of the process in user and kernel mode, then of its children.
fn cpu_seconds(stat: &str) -> Option<[f64; 4]> {
    // The program's name, in parentheses, may hold anything; the third field is the first after it.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / CLOCK_TICKS_PER_SECOND);
    Some([seconds()?, seconds()?, seconds()?, seconds()?])
}

fn write_cpu(_server: &ServerState, lines: &mut Lines) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let [user, system, user_children, system_children] = cpu_seconds(&stat).unwrap_or_default();
    lines.add("used_cpu_sys", format_args!("{system:.6}"));
    lines.add("used_cpu_user", format_args!("{user:.6}"));
    lines.add("used_cpu_sys_children", format_args!("{system_children:.6}"));
    lines.add("used_cpu_user_children", format_args!("{user_children:.6}"));
}

fn write_commandstats(server: &ServerState, lines: &mut Lines) {
    for (row, counts) in command::all()
        .iter()
        .zip(server.totals.baseline.counts(server).commands)
    {
        let CommandCounts {
            calls,
            took_ns,
            rejected,
            failed,
        } = counts;
        if calls == 0 && rejected == 0 && failed == 0 {
            continue;
        }
        let took_us_each = if calls == 0 {
            0.0
        } else {
            took_ns as f64 / 1000.0 / calls as f64
        };
        lines.add(
            format_args!("cmdstat_{}", row.name),
            format_args!(
                "calls={calls},usec={},usec_per_call={took_us_each:.2},rejected_calls={rejected},failed_calls={failed}",
                took_ns / 1000,
            ),
        );
    }
}

fn write_errorstats(server: &ServerState, lines: &mut Lines) {
    for (word, count) in server.totals.baseline.counts(server).errors {
        lines.add(format_args!("errorstat_{word}"), format_args!("count={count}"));
    }
}

/// The quantiles 50 % and 99 % of a histogram, in microseconds, as two fields.
struct Quantiles<'a>(&'a str, &'a Histogram);

impl Display for Quantiles<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Quantiles(name, histogram) = self;
        let mut merged = merged_histogram();
        histogram.merge_into(&mut merged);
        let us = |quantile| merged.value_at_quantile(quantile) as f64 / 1000.0;
        write!(formatter, "{name}_p50_us={:.1},{name}_p99_us={:.1}", us(0.5), us(0.99))
    }
}

fn mean(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

/// One line per executor thread. Since the start: CONFIG RESETSTAT leaves all but the longest times.
fn write_executors(server: &ServerState, lines: &mut Lines) {
    let rings = ring::counts();
    lines.add("rings", rings.rings);
    lines.add("rings_cooperative", rings.cooperative);
    for (index, executor) in server.core_map.executors().iter().enumerate() {
        let roles = match (executor.network, executor.storage) {
            (true, true) => "network+storage",
            (true, false) => "network",
            (false, _) => "storage",
        };
        let mut line = format!("cpu={},roles={roles},thread={}", executor.cpu, executor.thread_name());
        let network = server
            .core_map
            .network_index(executor.cpu)
            .and_then(|index| server.network.get(index));
        if let Some(network) = network {
            let (requests, batches) = (network.requests.get(), network.batches.get());
            // Writing to a string does not fail.
            let _ = write!(
                line,
                ",connections={},commands={},requests={requests},responses={},batches={batches},batch_size_mean={:.2},\
                 {},polled_reads={},spins={},spins_won={},timeouts={},send_failures={},pending={},\
                 backpressure_events={},transactions={},transaction_retries={},network_panics={}",
                network.connections.get(),
                network.commands_processed.get(),
                network.responses.get(),
                mean(requests, batches),
                Quantiles("round_trip", &network.round_trip_ns),
                network.polled_reads.get(),
                network.spins.get(),
                network.spins_won.get(),
                network.timeouts.get(),
                network.send_failures.get(),
                network.pending.get(),
                network.backpressure_events.get(),
                network.transactions.get(),
                network.transaction_retries.get(),
                network.panics.get(),
            );
        }
        let storage = server
            .core_map
            .storage_index(executor.cpu)
            .and_then(|index| server.storage.get(index));
        if let Some(storage) = storage {
            let (requests, turns, syncs) = (storage.requests.get(), storage.turns.get(), storage.syncs.get());
            let _ = write!(
                line,
                ",requests_run={requests},requests_late={},batches_run={},turns={turns},turn_requests_mean={:.2},{},{},\
                 longest_turn_us={},longest_step_us={},\
                 held={},parked={},stepped_requests={},missed_requests={},waiting_for_disk={},fetched_reads={},\
                 handed_back={},decided={},\
                 in_doubt={},replies_begun={},syncs={syncs},sync_mean_us={:.0},panics={}",
                storage.timeouts.get(),
                storage.batches.get(),
                mean(requests, turns),
                Quantiles("queue", &storage.queue_ns),
                Quantiles("turn", &storage.turn_ns),
                storage.longest_turn.us(),
                storage.longest_step.us(),
                storage.held.get(),
                storage.parked.get(),
                storage.stepped_requests.get(),
                storage.missed_requests.get(),
                storage.waiting_for_disk.get(),
                storage.fetched_reads.get(),
                storage.handed_back.get(),
                storage.decided.get(),
                storage.in_doubt.get(),
                storage.replies_begun.get(),
                mean(storage.sync_ns.get(), syncs) / 1000.0,
                storage.panics.get(),
            );
        }
        lines.add(format_args!("executor{index}"), line);
    }
}

/// One line per shard. `hits` and `misses` are those of the table of hot records.
fn write_shards(server: &ServerState, lines: &mut Lines) {
    for (number, shard) in server.shards.iter().enumerate() {
        let state = ShardState::NAMES
            .get(shard.state.get() as usize)
            .copied()
            .unwrap_or("unknown");
        let keys: u64 = shard.databases.iter().map(|[keys, _]| keys.get()).sum();
        lines.add(
            format_args!("shard{number}"),
            format_args!(
                "executor={},state={state},keys={keys},hits={},misses={},cache_bytes={},cache_records={},evictions={},\
                 resident_bytes={},resident_collections={},file_bytes={},pending_compaction_bytes={},\
                 committed_epoch={},durable_epoch={},\
                 expired_keys={},reclaims_pending={},reclaimed_collections={}",
                shard.executor,
                shard.hits.get(),
                shard.misses.get(),
                shard.cache_bytes.get(),
                shard.cache_records.get(),
                shard.evictions.get(),
                shard.resident_bytes.get(),
                shard.resident_collections.get(),
                shard.file_bytes.get(),
                shard.pending_compaction_bytes.get(),
                shard.committed_epoch.get(),
                shard.durable_epoch.get(),
                shard.expired_keys.get(),
                shard.reclaims_pending.get(),
                shard.reclaimed_collections.get(),
            ),
        );
    }
}

/// `avg_ttl` is 0, Redis's word for unknown: it would take a look at every key.
fn write_keyspace(server: &ServerState, lines: &mut Lines) {
    for database in 0..DATABASE_COUNT {
        let sum = |figure: usize| {
            server
                .shards
                .iter()
                .map(|shard| shard.databases[database][figure].get())
                .sum::<u64>()
        };
        let (keys, expires) = (sum(0), sum(1));
        if keys > 0 {
            lines.add(
                format_args!("db{database}"),
                format_args!("keys={keys},expires={expires},avg_ttl=0"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Vec<&'static str> {
        let wanted = wanted(arguments.iter().map(|argument| argument.as_bytes()));
        SECTIONS
            .iter()
            .zip(wanted)
            .filter(|(_, wanted)| *wanted)
            .map(|(section, _)| section.name)
            .collect()
    }

    #[test]
    fn sections_come_in_their_own_order_whatever_is_asked() {
        assert_eq!(names(&["keyspace", "SERVER", "nonsense"]), ["server", "keyspace"]);
        assert_eq!(names(&["nonsense"]), [""; 0]);
        assert_eq!(names(&[]), names(&["Default"]));
        assert!(!names(&[]).contains(&"commandstats"));
        assert_eq!(names(&["all"]).len(), SECTIONS.len());
        assert_eq!(names(&["everything"]), names(&["default", "commandstats"]));
    }

    #[test]
    fn bytes_are_printed_as_redis_prints_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (1536, "1.50K"),
            (1 << 30, "1.00G"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_bytes(u64::MAX), "16384.00P");
    }

    #[test]
    fn the_times_of_proc_are_read_by_place() {
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 3 4 20 0";
        assert_eq!(cpu_seconds(stat), Some([2.5, 0.5, 0.03, 0.04]));
        assert_eq!(cpu_seconds(""), None);
    }
}
