//! The list of settings, and what follows from it alone: the struct, CONFIG GET and CONFIG SET.
//!
//! To add a setting, add one entry to the list at the `settings!` call below. Nothing else names it but the code that
//! obeys it.

use std::path::PathBuf;

use super::event_classes::EventClasses;
use super::list_values::CoreList;
use super::output_limits::OutputBufferLimits;
use super::values::{
    AutoOr, ByteSize, DebugCommand, Durability, Form, GIB, LogLevel, MIB, Range, Secret, Shape, Value, ValueError,
};

/// The longest span of time in seconds: 68 years, as in Redis (a C `int`).
const SECONDS_MAX: u64 = i32::MAX as u64;

/// The longest keepalive time that Linux accepts for a socket in seconds (MAX_TCP_KEEPIDLE); more makes setsockopt
/// fail.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;

/// The largest number of keys that are remembered for clients: more than fit any memory, so a larger number is a slip.
const TRACKED_KEYS_MAX: u64 = 1_000_000_000_000;

/// The largest size of memory: more than any machine has, so a larger number is a slip.
const MEMORY_BYTES_MAX: u64 = 64 * 1024 * GIB;

/// When a setting may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// While the server runs, by CONFIG SET.
    Live,
    /// Only by a restart: Redis calls it immutable.
    AtStart,
}

/// One setting, as the file, the flags, CONFIG and the README see it.
#[derive(Debug)]
pub struct Setting {
    /// The name in the file, in CONFIG and, after `--`, of the flag.
    pub name: &'static str,
    /// The flag that says `no` (used for settings that are `yes` or `no`).
    pub negation: &'static str,
    /// The field of [`Settings`].
    pub field: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    /// The default, as an operator would write it.
    pub default: &'static str,
    /// The numbers allowed, in `unit`; `None` for what is not a number.
    pub range: Option<Range>,
    /// The unit of the number, or empty.
    pub unit: &'static str,
    /// When it may change.
    pub changes: Changes,
    /// What the text looks like.
    pub form: Form,
    print: fn(&Settings) -> String,
    assign: fn(&mut Settings, &str, Option<&Range>) -> Result<(), ValueError>,
}

impl Setting {
    /// The setting called `name`, whatever its case.
    pub fn find(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
    }

    /// The value in `settings`, as CONFIG GET prints it.
    pub fn print(&self, settings: &Settings) -> String {
        (self.print)(settings)
    }

    /// Reads `text` into `settings`; leaves them as they are on an error.
    pub fn assign(&self, settings: &mut Settings, text: &str) -> Result<(), ValueError> {
        (self.assign)(settings, text, self.range.as_ref())
    }

    /// What is allowed, to follow "it must be": "a whole number from 0 to 65535".
    pub fn allowed(&self) -> String {
        let numbers = |what: &str, print: fn(u64) -> String| match &self.range {
            Some(range) => format!("{what} from {} to {}", print(*range.start()), print(*range.end())),
            None => what.to_owned(),
        };
        let value = match self.form.shape {
            Shape::Integer => numbers("a whole number", |number| number.to_string()),
            Shape::Bytes => numbers("a size", |bytes| ByteSize(bytes).to_string()),
            Shape::YesNo => "yes or no".to_owned(),
            Shape::OneOf(words) => match words {
                [others @ .., last] => format!("{} or {last}", others.join(", ")),
                [] => String::new(),
            },
            Shape::Text(what) | Shape::List { what, .. } => what.to_owned(),
            Shape::Secret => "a text of at most 512 bytes".to_owned(),
        };
        if self.form.or_auto {
            format!("auto, or {value}")
        } else {
            value
        }
    }
}

/// Makes the struct and the table from the list. An entry reads
/// `/// Doc.` `field: Type = "default" { name, range, unit, changes }`.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $default:literal {
            name: $name:literal, range: $range:expr, unit: $unit:literal, changes: $changes:expr,
        }
    )+) => {
        /// All settings, typed. `Default` gives the built-in defaults.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($field: {
                        let range: Option<Range> = $range;
                        <$type as Value>::parse($default, range.as_ref())
                            .expect(concat!("the list's default of ", $name, " is allowed"))
                    },)+
                }
            }
        }

        /// The settings, in the order in which they are documented.
        pub static SETTINGS: &[Setting] = &[$(
            Setting {
                name: $name,
                negation: concat!("no-", $name),
                field: stringify!($field),
                doc: concat!($($doc),+).trim_ascii(),
                default: $default,
                range: $range,
                unit: $unit,
                changes: $changes,
                form: <$type as Value>::FORM,
                print: |settings| Value::print(&settings.$field),
                assign: |settings, text, range| {
                    settings.$field = Value::merged(&settings.$field, text, range)?;
                    Ok(())
                },
            },
        )+];
    };
}

settings! {
    // ---- Where the server listens and what it owns ----

    /// The addresses to listen on; one with `-` before it may be missing on this machine.
    bind: Vec<String> = "127.0.0.1 -::1" {
        name: "bind", range: None, unit: "", changes: Changes::Live,
    }

    /// The TCP port for clients; 0 lets the kernel choose a free one.
    port: u16 = "6379" {
        name: "port", range: Some(0..=65_535), unit: "", changes: Changes::Live,
    }

    /// The directory that holds all data; it is created if it does not exist.
    data_dir: PathBuf = "corelane-data" {
        name: "data-dir", range: None, unit: "", changes: Changes::AtStart,
    }

    /// The number of shards of a new data directory; `auto` is half the physical cores, rounded up to a power of two.
    shards: AutoOr<u16> = "auto" {
        name: "shards", range: Some(1..=1024), unit: "shards", changes: Changes::AtStart,
    }

    // ---- Durability ----

    /// When a write is on the disk: before its reply, within `sync-interval-ms`, or when the kernel writes it.
    durability: Durability = "interval" {
        name: "durability", range: None, unit: "", changes: Changes::Live,
    }

    /// The time between two syncs of the write-ahead log with `durability` at `interval`.
    sync_interval_ms: u64 = "1000" {
        name: "sync-interval-ms", range: Some(10..=60_000), unit: "ms", changes: Changes::Live,
    }

    /// Whether the server starts although a log is damaged before its end, so that what comes after the
    /// damage is lost; a log that merely ends early, as after a kill, needs no such permission.
    load_damaged_log: bool = "no" {
        name: "load-damaged-log", range: None, unit: "", changes: Changes::AtStart,
    }

    // ---- Cores ----

    /// The cores of the network executors, one pinned thread each.
    network_cores: AutoOr<CoreList> = "auto" {
        name: "network-cores", range: None, unit: "", changes: Changes::AtStart,
    }

    /// The cores of the storage executors, one pinned thread each.
    storage_cores: AutoOr<CoreList> = "auto" {
        name: "storage-cores", range: None, unit: "", changes: Changes::AtStart,
    }

    /// The cores of everything that may wait: syncs, checkpoints, compactions, log and administration.
    background_cores: AutoOr<CoreList> = "auto" {
        name: "background-cores", range: None, unit: "", changes: Changes::AtStart,
    }

    /// A TOML file with the core map; `network-cores`, `storage-cores` and `background-cores` override it.
    core_map: Option<PathBuf> = "" {
        name: "core-map", range: None, unit: "", changes: Changes::AtStart,
    }

    /// Whether the rings ask the kernel not to interrupt an executor for completions (IORING_SETUP_COOP_TASKRUN); `no`
    /// is for comparing.
    coop_taskrun: bool = "yes" {
        name: "coop-taskrun", range: None, unit: "", changes: Changes::AtStart,
    }

    /// How long an idle executor spins before it sleeps; `auto` is at most 50 for one that is alone, as long as
    /// requests come meanwhile, and for several 0 on shared cores and 20 with sockets, 50 without, on cores of their
    /// own.
    spin_before_park_us: AutoOr<u16> = "auto" {
        name: "spin-before-park-us", range: Some(0..=1000), unit: "µs", changes: Changes::AtStart,
    }

    // ---- Log ----

    /// How much the log says; `notice`, `warning` and `verbose` are understood as `info`, `warn` and `debug`.
    log_level: LogLevel = "info" {
        name: "log-level", range: None, unit: "", changes: Changes::Live,
    }

    /// The file that the log is appended to; empty is standard error.
    log_file: Option<PathBuf> = "" {
        name: "log-file", range: None, unit: "", changes: Changes::AtStart,
    }

    // ---- Clients ----

    /// The most clients that are connected at a time; the next one is told so and closed.
    maxclients: u32 = "10000" {
        name: "maxclients", range: Some(1..=1_000_000), unit: "clients", changes: Changes::Live,
    }

    /// How long a client may be idle before it is disconnected; 0 is for ever.
    timeout: u64 = "0" {
        name: "timeout", range: Some(0..=SECONDS_MAX), unit: "s", changes: Changes::Live,
    }

    /// How long a connection is silent before the kernel probes whether its client still lives; 0 never probes.
    tcp_keepalive: u64 = "300" {
        name: "tcp-keepalive", range: Some(0..=KEEPALIVE_SECONDS_MAX), unit: "s", changes: Changes::Live,
    }

    /// The most connections that wait to be accepted; the kernel's `net.core.somaxconn` caps it.
    tcp_backlog: u32 = "511" {
        name: "tcp-backlog", range: Some(1..=65_535), unit: "connections", changes: Changes::AtStart,
    }

    /// The password that clients must give with AUTH; empty asks for none.
    requirepass: Secret = "" {
        name: "requirepass", range: None, unit: "", changes: Changes::Live,
    }

    /// Whether clients from other machines are refused as long as `requirepass` is empty.
    protected_mode: bool = "yes" {
        name: "protected-mode", range: None, unit: "", changes: Changes::Live,
    }

    /// Who may use DEBUG: nobody, clients on the server's own machine, or every client.
    enable_debug_command: DebugCommand = "no" {
        name: "enable-debug-command", range: None, unit: "", changes: Changes::AtStart,
    }

    /// How much output may wait for a client; Redis sets no limit for `normal` clients, here it is bounded, and 0 is no
    /// limit.
    client_output_buffer_limit: OutputBufferLimits = "normal 1gb 256mb 60 slave 256mb 64mb 60 pubsub 32mb 8mb 60" {
        name: "client-output-buffer-limit", range: None, unit: "bytes, bytes, s", changes: Changes::Live,
    }

    /// How long a client may take less than 16 KiB of a large reply, which is read from a snapshot of its shard as the
    /// client takes it, before it is disconnected; 0 is for ever.
    large_reply_timeout: u64 = "60" {
        name: "large-reply-timeout", range: Some(0..=SECONDS_MAX), unit: "s", changes: Changes::Live,
    }

    /// How much unparsed input is kept for a client before it is disconnected.
    // A batch holds one request beside small ones, and numbers its bytes with 32 bits.
    client_query_buffer_limit: ByteSize = "1gb" {
        name: "client-query-buffer-limit", range: Some(MIB..=4 * GIB - 16 * MIB), unit: "bytes", changes: Changes::Live,
    }

    /// The longest argument that a client may send; Redis's default is also the most that is allowed.
    proto_max_bulk_len: ByteSize = "512mb" {
        name: "proto-max-bulk-len", range: Some(MIB..=512 * MIB), unit: "bytes", changes: Changes::Live,
    }

    /// Which events of keys are published, in Redis's letters: `K` to `__keyspace@N__:KEY`, `E` to
    /// `__keyevent@N__:EVENT`, and the classes `g$lshzxetd` (all of them: `A`), `m` and `n`; empty publishes none.
    notify_keyspace_events: EventClasses = "" {
        name: "notify-keyspace-events", range: None, unit: "", changes: Changes::Live,
    }

    /// The most keys that are remembered for clients that track what they read; 0 is no limit.
    tracking_table_max_keys: u64 = "1000000" {
        name: "tracking-table-max-keys", range: Some(0..=TRACKED_KEYS_MAX), unit: "keys", changes: Changes::Live,
    }

    // ---- Between the executors ----

    /// The deadline of a request between executors; one that has not started by then is answered `-TIMEOUT` and not
    /// executed.
    request_timeout_ms: u64 = "10000" {
        name: "request-timeout-ms", range: Some(1..=3_600_000), unit: "ms", changes: Changes::Live,
    }

    /// The most requests in one message between executors and in one commit.
    batch_size: usize = "512" {
        name: "batch-size", range: Some(1..=4096), unit: "requests", changes: Changes::Live,
    }

    /// The most requests that one network executor may have waiting at one storage executor.
    request_credits: usize = "16384" {
        name: "request-credits", range: Some(64..=1_048_576), unit: "requests", changes: Changes::AtStart,
    }

    /// The most expired keys that a shard deletes in one turn, so that expiry never holds up commands.
    expire_keys_per_turn: usize = "200" {
        name: "expire-keys-per-turn", range: Some(1..=100_000), unit: "keys", changes: Changes::Live,
    }

    // ---- Scripts ----

    /// How long a script runs before other commands for its storage executor are answered `-BUSY`; 0 is for ever.
    busy_reply_threshold: u64 = "5000" {
        name: "busy-reply-threshold", range: Some(0..=3_600_000), unit: "ms", changes: Changes::Live,
    }

    /// How long a script may run before it is ended and its writes are dropped; 0 is for ever.
    script_time_limit_ms: u64 = "0" {
        name: "script-time-limit-ms", range: Some(0..=3_600_000), unit: "ms", changes: Changes::Live,
    }

    /// The memory that a script interpreter may use; a script that needs more is ended and its writes are dropped.
    script_memory_limit: ByteSize = "256mb" {
        name: "script-memory-limit", range: Some(2 * MIB..=64 * GIB), unit: "bytes", changes: Changes::Live,
    }

    /// Whether scripts may use keys that they have not declared, and run commands on all keys; `no` forbids it.
    script_undeclared_keys: bool = "yes" {
        name: "script-undeclared-keys", range: None, unit: "", changes: Changes::Live,
    }

    /// Whether the writes of a script that fails with an error are dropped; Redis keeps those made before the error.
    script_rollback_on_error: bool = "no" {
        name: "script-rollback-on-error", range: None, unit: "", changes: Changes::Live,
    }

    // ---- Storage ----

    /// The memory for all data: what is hot, what waits to get into RocksDB, RocksDB's blocks, and what allocators and
    /// the work on all that take besides; `auto` is 40 % of what the machine has, or the control group may have.
    memory_size: AutoOr<ByteSize> = "auto" {
        name: "memory-size", range: Some(0..=MEMORY_BYTES_MAX), unit: "bytes", changes: Changes::AtStart,
    }

    /// The part of `memory-size` that is for RocksDB blocks of all shards together, at least 1mb; `auto` is an eighth.
    block_cache_size: AutoOr<ByteSize> = "auto" {
        name: "block-cache-size", range: Some(0..=MEMORY_BYTES_MAX), unit: "bytes", changes: Changes::AtStart,
    }

    /// How long the log of a storage executor may get before writes have to wait until more of it is in RocksDB, which
    /// is also what a start after a crash reads; `auto` is a quarter of `memory-size`, from 64mb to 512mb.
    log_size_max: AutoOr<ByteSize> = "auto" {
        name: "log-size-max", range: Some(8 * MIB..=MEMORY_BYTES_MAX), unit: "bytes", changes: Changes::AtStart,
    }

    /// The most RocksDB compactions at a time; `auto` is one for each background core, and at least 2.
    max_background_jobs: AutoOr<u16> = "auto" {
        name: "max-background-jobs", range: Some(1..=64), unit: "jobs", changes: Changes::AtStart,
    }

    /// The reads at a time of what is not in memory, for each storage executor: threads on the background cores, which
    /// sleep while nothing is missed.
    disk_readers: u16 = "8" {
        name: "disk-readers", range: Some(1..=64), unit: "threads", changes: Changes::AtStart,
    }
}

/// A name that Redis gives to one of our settings; CONFIG GET and CONFIG SET understand both.
#[derive(Debug)]
pub struct Alias {
    /// Redis's name.
    pub name: &'static str,
    /// Our name.
    pub of: &'static str,
    /// Pairs of Redis's word and ours, if the words differ. Of several pairs with the same word the first one counts.
    words: &'static [(&'static str, &'static str)],
}

impl Alias {
    /// Redis's word for our `value`.
    fn to_redis(&self, value: String) -> String {
        match self.words.iter().find(|(_, ours)| *ours == value) {
            Some((redis, _)) => (*redis).to_owned(),
            None => value,
        }
    }

    /// Our word for the `value` of a Redis client.
    fn to_ours<'a>(&self, value: &'a str) -> Result<&'a str, ValueError> {
        if self.words.is_empty() {
            return Ok(value);
        }
        match self.words.iter().find(|(redis, _)| redis.eq_ignore_ascii_case(value)) {
            Some((_, ours)) => Ok(ours),
            None => {
                let mut allowed: Vec<&str> = self.words.iter().map(|(redis, _)| *redis).collect();
                allowed.dedup();
                Err(ValueError::NotOneOf(allowed))
            }
        }
    }
}

/// Redis's names for our settings.
pub static ALIASES: &[Alias] = &[
    Alias {
        name: "appendfsync",
        of: "durability",
        words: &[("everysec", "interval"), ("always", "always"), ("no", "none")],
    },
    Alias {
        name: "dir",
        of: "data-dir",
        words: &[],
    },
    Alias {
        name: "logfile",
        of: "log-file",
        words: &[],
    },
    Alias {
        name: "loglevel",
        of: "log-level",
        // Redis has no word for `error` and no level between `notice` and `verbose`.
        words: &[
            ("debug", "trace"),
            ("verbose", "debug"),
            ("notice", "info"),
            ("warning", "warn"),
            ("warning", "error"),
        ],
    },
    Alias {
        name: "lua-time-limit",
        of: "busy-reply-threshold",
        words: &[],
    },
];

/// A Redis setting that has one value here. CONFIG GET answers it; CONFIG SET takes that value and refuses any other.
#[derive(Debug)]
pub struct Fact {
    /// Redis's name.
    pub name: &'static str,
    /// The value.
    pub value: &'static str,
}

/// What Redis clients and tools ask for and Corelane does in one way only.
pub static FACTS: &[Fact] = &[
    Fact {
        name: "appendonly",
        value: "yes",
    },
    Fact {
        name: "cluster-enabled",
        value: "no",
    },
    Fact {
        name: "databases",
        value: "16",
    },
    Fact {
        name: "maxmemory",
        value: "0",
    },
    Fact {
        name: "maxmemory-policy",
        value: "noeviction",
    },
    Fact {
        name: "save",
        value: "",
    },
];

/// What a name in CONFIG GET or CONFIG SET means.
enum Target {
    Setting(&'static Setting),
    Alias(&'static Alias, &'static Setting),
    Fact(&'static Fact),
}

impl Target {
    /// Finds a name, whatever its case.
    fn find(name: &str) -> Option<Self> {
        if let Some(setting) = Setting::find(name) {
            return Some(Self::Setting(setting));
        }
        if let Some(alias) = ALIASES.iter().find(|alias| alias.name.eq_ignore_ascii_case(name)) {
            return Setting::find(alias.of).map(|setting| Self::Alias(alias, setting));
        }
        FACTS
            .iter()
            .find(|fact| fact.name.eq_ignore_ascii_case(name))
            .map(Self::Fact)
    }

    /// The name by which two spellings of one setting are known to be the same.
    fn canonical_name(&self) -> &'static str {
        match self {
            Self::Setting(setting) | Self::Alias(_, setting) => setting.name,
            Self::Fact(fact) => fact.name,
        }
    }

    /// Whether CONFIG SET may give it this value, as far as that can be said without reading the value.
    fn may_become(&self, value: &[u8]) -> bool {
        match self {
            Self::Setting(setting) | Self::Alias(_, setting) => setting.changes == Changes::Live,
            Self::Fact(fact) => value.eq_ignore_ascii_case(fact.value.as_bytes()),
        }
    }
}

/// The longest part of an unknown name that an error repeats in bytes: a name may be as long as a request.
const NAME_SHOWN_BYTES_MAX: usize = 128;

/// Why CONFIG SET changed nothing. Display gives Redis 7.2's error line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigSetError {
    /// No setting has this name (at most 128 bytes of it, on one line).
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{0}'")]
    Unknown(String),
    /// The setting, as the client spelled it, may change only by a restart.
    #[error("ERR CONFIG SET failed (possibly related to argument '{0}') - can't set immutable config")]
    Immutable(String),
    /// The setting, as the client spelled it, occurs twice.
    #[error("ERR CONFIG SET failed (possibly related to argument '{0}') - duplicate parameter")]
    Duplicate(String),
    /// The value is not allowed.
    #[error("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")]
    BadValue {
        /// The setting, as the client spelled it.
        name: String,
        /// What is allowed.
        reason: ValueError,
    },
}

impl Settings {
    /// The most requests in one batch and in one turn: `batch-size`, and at most a quarter of a sender's credits.
    /// Replies of one turn may wait together, for a sync or the end of a stall, and must leave credits for those that
    /// need not.
    pub fn requests_at_once(&self) -> usize {
        self.batch_size.min(self.request_credits / 4).max(1)
    }

    /// Every name that CONFIG GET answers: settings, Redis's names for them, and facts.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let settings = SETTINGS.iter().map(|setting| setting.name);
        let aliases = ALIASES.iter().map(|alias| alias.name);
        let facts = FACTS.iter().map(|fact| fact.name);
        settings.chain(aliases).chain(facts)
    }

    /// The value of `name` as CONFIG GET prints it; `None` if there is no such name. Case is ignored.
    pub fn get(&self, name: &str) -> Option<String> {
        Some(match Target::find(name)? {
            Target::Setting(setting) => setting.print(self),
            Target::Alias(alias, setting) => alias.to_redis(setting.print(self)),
            Target::Fact(fact) => fact.value.to_owned(),
        })
    }

    /// CONFIG GET with patterns: name and value of every name for which `matches` holds, in the order of
    /// [`names`](Self::names).
    pub fn matching(&self, matches: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        Self::names()
            .filter(|name| matches(name))
            .filter_map(|name| Some((name, self.get(name)?)))
            .collect()
    }

    /// CONFIG SET: sets all pairs of name and value, or none. Gives the names (ours) of the settings that have another
    /// value now.
    ///
    /// As in Redis, names are checked before values, and the first fault is the one told.
    pub fn set_live(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<Vec<&'static str>, ConfigSetError> {
        let mut targets: Vec<Target> = Vec::with_capacity(pairs.len().min(SETTINGS.len()));
        for (name, value) in pairs {
            let target = std::str::from_utf8(name).ok().and_then(Target::find);
            let target = target.ok_or_else(|| ConfigSetError::Unknown(shown(name)))?;
            if !target.may_become(value) {
                return Err(ConfigSetError::Immutable(shown(name)));
            }
            if targets
                .iter()
                .any(|earlier| earlier.canonical_name() == target.canonical_name())
            {
                return Err(ConfigSetError::Duplicate(shown(name)));
            }
            targets.push(target);
        }

        let mut updated = self.clone();
        let mut changed = Vec::new();
        for (target, (name, value)) in targets.iter().zip(pairs) {
            let assigned = match std::str::from_utf8(value) {
                Err(_) => Err(ValueError::NotA("valid UTF-8")),
                Ok(text) => match target {
                    Target::Setting(setting) => setting.assign(&mut updated, text),
                    Target::Alias(alias, setting) => {
                        alias.to_ours(text).and_then(|text| setting.assign(&mut updated, text))
                    }
                    Target::Fact(_) => Ok(()),
                },
            };
            assigned.map_err(|reason| ConfigSetError::BadValue {
                name: shown(name),
                reason,
            })?;
            if let Target::Setting(setting) | Target::Alias(_, setting) = target
                && setting.print(self) != setting.print(&updated)
            {
                changed.push(setting.name);
            }
        }
        *self = updated;
        Ok(changed)
    }
}

/// A client's bytes for an error line: bounded, and without line ends, which would end the line in RESP.
fn shown(name: &[u8]) -> String {
    let name = &name[..name.len().min(NAME_SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(name).replace(['\r', '\n'], " ")
}
