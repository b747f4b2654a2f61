//! Whose the process's memory is: what INFO memory and the MEMORY commands tell.
//!
//! The kernel knows what is resident; each owner counts its own. What is resident and nobody's is the program, its
//! stacks, RocksDB beside its block cache, and what the allocators hold ready.

use crate::registry::clients::Client;
use crate::registry::metrics::ShardMetrics;
use crate::registry::server_state::ServerState;
use crate::storage::encoding::Type;
use std::fs;

/// What the kernel says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident now.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
    /// The machine's.
    pub machine: u64,
}

impl ProcessMemory {
    fn read() -> ProcessMemory {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let resident = kib_field(&status, "VmRSS").unwrap_or(0);
        ProcessMemory {
            resident,
            peak: kib_field(&status, "VmHWM").unwrap_or(resident),
            machine: kib_field(&machine, "MemTotal").unwrap_or(0),
        }
    }
}

/// A field of /proc/self/status or /proc/meminfo (`VmRSS:   1234 kB`) in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The bytes of each owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The table of records.
    pub table: u64,
    /// Of that, records that only the log has on disk.
    pub pinned: u64,
    /// Whole collections by type, as [`Type`] codes them; then those whose type is not known, and what was dropped.
    by_type: [u64; Type::COUNT + 1],
    /// RocksDB's block cache.
    pub block_cache: u64,
    /// What connections hold of requests and replies.
    pub connections: u64,
    /// Script interpreters.
    pub interpreters: u64,
    /// Texts of cached scripts.
    pub scripts: u64,
}

impl Owners {
    /// Whole collections.
    pub fn collections(&self) -> u64 {
        self.by_type.iter().sum()
    }

    /// The same by the type's name. There are no strings among them.
    pub fn collections_by_type(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let name = |code: usize| Type::from_code(code as u8).map_or("other", Type::name);
        let by_type = self.by_type.into_iter().enumerate();
        by_type
            .map(move |(code, bytes)| (name(code), bytes))
            .filter(|(name, _)| *name != Type::String.name())
    }

    /// Keys, values and members.
    pub fn data(&self) -> u64 {
        self.table + self.collections()
    }
}

/// The process's memory, and whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the kernel says.
    pub process: ProcessMemory,
    /// What the owners say.
    pub owners: Owners,
}

impl Memory {
    /// How it is now, as far as the shards have told: they do a few times a second.
    pub fn read(server: &ServerState) -> Memory {
        let sum = |figure: &dyn Fn(&ShardMetrics) -> u64| server.shards.iter().map(|shard| figure(shard)).sum::<u64>();
        let held = |client: &Client| {
            let sent = client.input_bytes.get() + client.multi_bytes.get() + client.waiting_bytes.get();
            sent + client.output_bytes.get()
        };
        let owners = Owners {
            table: sum(&|shard| shard.cache_bytes.get()),
            pinned: sum(&|shard| shard.pinned_bytes.get()),
            by_type: std::array::from_fn(|code| sum(&|shard| shard.resident_bytes_by_type[code].get())),
            block_cache: server.resources.block_cache_bytes() as u64,
            connections: server.clients.all().iter().map(|client| held(client)).sum(),
            interpreters: server.scripts.memory() as u64,
            scripts: server.scripts.cached().1 as u64,
        };
        Memory {
            process: ProcessMemory::read(),
            owners,
        }
    }
}

/// A part of a whole in percent; 0 of nothing.
pub fn share_percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

// ---- MEMORY DOCTOR ----

/// Below so many bytes nothing is worth a report, as in Redis; but an empty server with its RocksDBs takes more than
/// Redis does, so what data takes counts.
const DATA_WORTH_A_REPORT_BYTES: u64 = 5 << 20;

/// A peak of more than this part of what is resident now is worth one, in percent.
const BIG_PEAK_PERCENT: u64 = 150;

/// What connections hold on average that is worth one.
const BIG_CLIENT_BYTES: u64 = 200 << 10;

/// Cached scripts that are worth one.
const MANY_SCRIPTS: usize = 1000;

const TOO_LITTLE: &str = "Hi Sam, this instance is empty or is using very little memory, my issues detector can't be \
    used in these conditions. Please, leave for your mission on Earth and fill it with some data. The new Sam and I \
    will be back to our programming as soon as I finished rebooting.\n";
const NOTHING_FOUND: &str = "Hi Sam, I can't find any memory issue in your instance. I can only account for what \
    occurs on this base.\n";
const SOMETHING_FOUND: &str = "Sam, I detected a few issues in this Redis instance memory implants:\n\n";
const BIG_PEAK: &str = " * Peak memory: In the past this instance used more than 150% the memory that is currently \
    using. The allocator is normally not able to release memory after a peak, so you can expect to see a big \
    fragmentation ratio, however this is actually harmless and is only due to the memory peak, and if the Redis \
    instance Resident Set Size (RSS) is currently bigger than expected, the memory will be used as soon as you fill \
    the Redis instance with more data. If the memory peak was only occasional and you want to try to reclaim memory, \
    please try the MEMORY PURGE command, otherwise the only other option is to shutdown and restart the instance.\n\n";
const BIG_CLIENTS: &str = " * Big client buffers: The clients output buffers in this instance are greater than 200K \
    per client (on average). This may result from different causes, like Pub/Sub clients subscribed to channels bot \
    not receiving data fast enough, so that data piles on the Redis instance output buffer, or clients sending \
    commands with large replies or very large sequences of commands in the same pipeline. Please use the CLIENT LIST \
    command in order to investigate the issue if it causes problems in your instance, or to understand better why \
    certain clients are using a big amount of memory.\n\n";
const MANY_SCRIPTS_FOUND: &str = " * Many scripts: There seem to be many cached scripts in this instance (more than \
    1000). This may be because scripts are generated and `EVAL`ed, instead of being parameterized (with KEYS and \
    ARGV), `SCRIPT LOAD`ed and `EVALSHA`ed. Unless `SCRIPT FLUSH` is called periodically, the scripts' caches may end \
    up consuming most of your memory.\n\n";
const LAST_WORDS: &str = "I'm here to keep you safe, Sam. I want to help you.\n";

/// What MEMORY DOCTOR says, in Redis's words, of what can be seen here: that is not how far the allocators' memory is
/// in pieces.
pub fn diagnosis(memory: &Memory, connections: usize, cached_scripts: usize) -> String {
    let Memory { process, owners } = memory;
    let found: Vec<&str> = [
        (process.peak * 100 > process.resident * BIG_PEAK_PERCENT, BIG_PEAK),
        (
            connections > 0 && owners.connections / connections as u64 > BIG_CLIENT_BYTES,
            BIG_CLIENTS,
        ),
        (cached_scripts > MANY_SCRIPTS, MANY_SCRIPTS_FOUND),
    ]
    .into_iter()
    .filter_map(|(is_found, text)| is_found.then_some(text))
    .collect();
    if owners.data() < DATA_WORTH_A_REPORT_BYTES {
        return TOO_LITTLE.to_owned();
    }
    match found.is_empty() {
        true => NOTHING_FOUND.to_owned(),
        false => [SOMETHING_FOUND, &found.concat(), LAST_WORDS].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read_by_name() {
        let status = "Name:\tVmRSS: 5\nVmHWM:\t   40 kB\nVmRSS:\t   12 kB\n";
        assert_eq!(kib_field(status, "VmRSS"), Some(12 * 1024));
        assert_eq!(kib_field(status, "VmHWM"), Some(40 * 1024));
        assert_eq!(kib_field(status, "VmSwap"), None);
    }

    #[test]
    fn the_doctor_reports_what_is_found_and_nothing_of_an_empty_server() {
        let mut memory = Memory::default();
        (memory.process.resident, memory.process.peak) = (100 << 20, 151 << 20);
        assert_eq!(diagnosis(&memory, 1, 2000), TOO_LITTLE);
        memory.owners.table = 10 << 20;
        let expected = [SOMETHING_FOUND, BIG_PEAK, MANY_SCRIPTS_FOUND, LAST_WORDS].concat();
        assert_eq!(diagnosis(&memory, 1, 2000), expected);
        memory.process.peak = memory.process.resident;
        memory.owners.connections = 3 * BIG_CLIENT_BYTES;
        assert_eq!(diagnosis(&memory, 3, 1000), NOTHING_FOUND);
        assert!(diagnosis(&memory, 2, 1000).contains(BIG_CLIENTS));
    }

    #[test]
    fn collections_are_told_by_type() {
        let owners = Owners {
            table: 100,
            by_type: [0, 1, 2, 3, 4, 5, 6],
            ..Owners::default()
        };
        let by_type: Vec<_> = owners.collections_by_type().collect();
        let expected = [
            ("hash", 1),
            ("list", 2),
            ("set", 3),
            ("zset", 4),
            ("stream", 5),
            ("other", 6),
        ];
        assert_eq!(by_type, expected);
        assert_eq!((owners.collections(), owners.data()), (21, 121));
    }
}
