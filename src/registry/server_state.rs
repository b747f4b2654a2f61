//! What all threads know of the server: read-only facts, settings, counters and the flags of administration.

use crate::channel::router::Router;
use crate::clock;
use crate::config::SharedSettings;
use crate::error::CommandError;
use crate::registry::admin_threads::AdminThreads;
use crate::registry::clients::Clients;
use crate::registry::listening::Listening;
use crate::registry::metrics::{NetworkMetrics, ShardMetrics, SharedCounter, StorageMetrics};
use crate::registry::subscribers::PubSub;
use crate::registry::totals::Baseline;
use crate::registry::tracked_keys::Tracking;
use crate::scripts::registry::Scripts;
use crate::storage::database::Resources;
use crate::storage::executor_log::LogProgress;
use crate::topology::CoreMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// How often an executor does its housekeeping: expiry, stalled commits, metrics. Also what bounds glommio's sleep when
/// a wake is lost to its parking race (PITFALLS 1), so it must not grow.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(10);

/// What all executors share: read-only facts, settings, counters and the flags of administration.
pub struct ServerState {
    /// The settings, which CONFIG SET changes.
    pub settings: SharedSettings,
    /// The file that the settings came from, for CONFIG REWRITE.
    pub config_file: Option<PathBuf>,
    /// Which executor has which shard.
    pub router: Router,
    /// Which executor is on which core.
    pub core_map: CoreMap,
    /// All clients.
    pub clients: Arc<Clients>,
    /// Subscribers, and how to reach them from any thread.
    pub pubsub: Arc<PubSub>,
    /// Clients that are told of keys that they have read.
    pub tracking: Arc<Tracking>,
    /// By network executor.
    pub network: Vec<Arc<NetworkMetrics>>,
    /// By storage executor.
    pub storage: Vec<Arc<StorageMetrics>>,
    /// By storage executor: its log.
    pub logs: Vec<Arc<LogProgress>>,
    /// By shard.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// RocksDB's shared caches.
    pub resources: Arc<Resources>,
    /// 40 hexadecimal digits, different at each start.
    pub run_id: String,
    /// When the server started, Unix milliseconds.
    pub started_at_ms: u64,
    /// Where clients connect.
    pub listening: Arc<Listening>,
    /// What is counted for the whole server.
    pub totals: Totals,
    /// SAVE and BGSAVE.
    pub saves: Arc<Saves>,
    /// Threads for commands that wait for a disk.
    pub admin_threads: Arc<AdminThreads>,
    /// CLIENT PAUSE.
    pub pause: Pause,
    /// SHUTDOWN and signals.
    pub shutdown: Shutdown,
    /// Scripts: their texts, and which of them run.
    pub scripts: Arc<Scripts>,
}

/// Counts of rare events, from several threads.
#[derive(Debug, Default)]
pub struct Totals {
    /// Connections accepted.
    pub connections_received: SharedCounter,
    /// Connections refused for `maxclients`.
    pub connections_rejected: SharedCounter,
    /// Clients disconnected because of `client-output-buffer-limit`.
    pub output_limit_disconnections: SharedCounter,
    /// Clients disconnected because of `client-query-buffer-limit`.
    pub query_limit_disconnections: SharedCounter,
    /// What CONFIG RESETSTAT has set aside.
    pub baseline: Baseline,
    /// When the log last told of a request of another protocol, Unix seconds; 0 for never.
    other_protocol_warned_s: AtomicU64,
}

/// How long the log keeps quiet about requests of other protocols after it has told of one: such requests must not fill
/// the disk.
const OTHER_PROTOCOL_QUIET_S: u64 = 60;

impl Totals {
    /// Whether the log should tell now of a request of another protocol.
    pub fn may_warn_of_other_protocol(&self, now_s: u64) -> bool {
        let due = |warned_s: u64| (warned_s + OTHER_PROTOCOL_QUIET_S <= now_s).then_some(now_s);
        let warned_s = &self.other_protocol_warned_s;
        warned_s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

/// CLIENT PAUSE: until when, and for which commands.
#[derive(Debug, Default)]
pub struct Pause {
    until_ms: AtomicU64,
    writes_only: AtomicBool,
}

impl Pause {
    /// Pauses all commands, or only writing ones, until `until_ms` (Unix). A pause under way is only made stricter or
    /// longer, as in Redis.
    pub fn begin(&self, until_ms: u64, writes_only: bool) {
        let active = self.until_ms.load(Ordering::Acquire) > clock::unix_ms();
        let writes_only = writes_only && (!active || self.writes_only.load(Ordering::Acquire));
        self.writes_only.store(writes_only, Ordering::Release);
        self.until_ms.fetch_max(until_ms, Ordering::AcqRel);
    }

    /// Ends the pause.
    pub fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }

    /// Whether a command must wait.
    #[inline]
    pub fn holds(&self, writes: bool) -> bool {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        until_ms != 0 && until_ms > clock::unix_ms() && (writes || !self.writes_only.load(Ordering::Acquire))
    }
}

/// How far a shutdown has come: none, asked for, asked for twice.
#[derive(Debug, Default)]
pub struct Shutdown {
    requests: AtomicU8,
}

impl Shutdown {
    /// Asks for a shutdown; asked a second time, the process does not wait any more.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    /// Asks for a shutdown that does not drain (SHUTDOWN NOW).
    pub fn request_now(&self) {
        self.requests.fetch_add(2, Ordering::AcqRel);
    }

    /// Whether a shutdown was asked for.
    pub fn is_requested(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// Whether the shutdown must not wait for clients any more.
    pub fn is_immediate(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 1
    }
}

/// What was saved, and when.
#[derive(Debug)]
pub struct Saves {
    under_way: AtomicBool,
    last_s: AtomicU64,
}

impl Default for Saves {
    /// Nothing is to be saved at the start: all data was read from disk.
    fn default() -> Saves {
        Saves {
            under_way: AtomicBool::new(false),
            last_s: AtomicU64::new(clock::unix_ms() / 1000),
        }
    }
}

impl Saves {
    /// Whether a SAVE or BGSAVE waits for the disk.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire)
    }

    /// When the last SAVE or BGSAVE ended well, Unix seconds; the start of the server if none has.
    pub fn last_s(&self) -> u64 {
        self.last_s.load(Ordering::Acquire)
    }

    /// Begins a SAVE or BGSAVE.
    ///
    /// # Errors
    /// Another is under way.
    pub(crate) fn begin(&self) -> Result<(), CommandError> {
        match self.under_way.swap(true, Ordering::AcqRel) {
            true => Err(CommandError::text("ERR Background save already in progress")),
            false => Ok(()),
        }
    }

    /// Ends the SAVE or BGSAVE that is under way.
    pub(crate) fn end(&self, saved: bool) {
        if saved {
            self.last_s.store(clock::unix_ms() / 1000, Ordering::Release);
        }
        let was_under_way = self.under_way.swap(false, Ordering::AcqRel);
        assert!(was_under_way, "a SAVE ends once");
    }
}
