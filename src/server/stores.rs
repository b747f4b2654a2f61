//! The storage executors and all that they need, from the settings and the machine: where everything runs, what the
//! shards share, and each executor with the threads beside it.

use super::ServerError;
use super::executor_threads::{RING_DEPTH, SpinPolicy, StorageSeat, repin_rocksdb_threads};
use super::memory_plan::MemoryPlan;
use super::shard_opening::{
    agree_on_database_map, finish_transactions, load_functions, open_databases, open_shards, recover_logs,
};
use crate::channel::message::Batch;
use crate::channel::router::{Router, StorageId};
use crate::command;
use crate::config::{AutoOr, Settings, SharedSettings};
use crate::executor::checkpointer::{self, Checkpointer};
use crate::executor::disk_readers::DiskReaders;
use crate::executor::disk_watch::{DiskWatch, Watched};
use crate::executor::disposer::Disposer;
use crate::executor::reclaimer::Reclaimer;
use crate::executor::storage_executor::{ExecutorParts, Reports, StorageExecutor, Threads};
use crate::executor::syncer::Syncer;
use crate::network::TRANSACTION_THREADS_MAX;
use crate::preflight::{Cleared, DataDirLock, Preflight};
use crate::registry::clients::Clients;
use crate::registry::inboxes::Posted;
use crate::registry::metrics::{CommandMetrics, ShardMetrics, StorageMetrics};
use crate::registry::subscribers::PubSub;
use crate::registry::tracked_keys::Tracking;
use crate::rows;
use crate::scripts::registry::{ScriptSeat, Scripts};
use crate::slots::ShardId;
use crate::storage::database::{Database, Resources};
use crate::storage::executor_log::{ExecutorLog, LogProgress};
use crate::storage::manifest::{Manifest, logs_path, shard_path};
use crate::storage::recovery::RecoveredLog;
use crate::storage::shard::Shard;
use crate::storage::shards::Shards;
use crate::topology::{self, CoreMap, CoreMapOverrides, Role, Topology, TopologyError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Descriptors for RocksDB's files, rings, pipes and listeners, per shard and in all.
const DESCRIPTORS_PER_SHARD: usize = 1100;
const DESCRIPTORS_RESERVED: usize = 256;

/// Reports of a syncer or a checkpointer that its executor has not read; the thread waits when it is full.
const REPORTS_MAX: usize = 1024;

/// The storage executors and all that they need, ready to be started.
pub(crate) struct Stores {
    pub(crate) topology: Topology,
    pub(crate) core_map: CoreMap,
    pub(crate) router: Router,
    /// The clients that are connected; an embedded engine has none.
    pub(crate) clients: Arc<Clients>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) storage_metrics: Vec<Arc<StorageMetrics>>,
    /// By storage executor.
    pub(super) logs: Vec<Arc<LogProgress>>,
    pub(crate) shard_metrics: Vec<Arc<ShardMetrics>>,
    /// The subscribers; all threads may publish.
    pub(crate) pubsub: Arc<PubSub>,
    /// The clients that are told of keys that they have read.
    pub(crate) tracking: Arc<Tracking>,
    /// By network executor: the end of its inbox that the executor reads.
    pub(super) inboxes: Vec<flume::Receiver<Posted>>,
    /// By storage executor: where requests are sent to it.
    pub(crate) senders: Vec<flume::Sender<Box<Batch>>>,
    pub(crate) scripts: Arc<Scripts>,
    pub(super) seats: Vec<StorageSeat>,
    pub(super) spin: SpinPolicy,
    pub(super) lock: DataDirLock,
    manifest: Manifest,
    memory: MemoryPlan,
    /// Of earlier starts, until a log takes their files.
    old_logs: Vec<RecoveredLog>,
}

/// The threads beside a storage executor, and where they tell it what they have done.
struct Beside {
    threads: Threads,
    reports: Reports,
}

/// What the preflight has found.
pub(crate) struct Allowed {
    /// Clients that the limit of open files allows.
    pub(crate) clients_max: usize,
    /// What works less well than it could.
    pub(crate) warnings: Vec<String>,
}

/// Where everything will run, once the machine and the data directory are found to allow it.
struct Plan {
    topology: Topology,
    core_map: CoreMap,
    manifest: Manifest,
    /// Whether there is no data yet.
    is_new: bool,
    cleared: Cleared,
}

impl Plan {
    fn make(current: &Settings, addresses: &[SocketAddr], clients_max: usize) -> Result<Plan, ServerError> {
        let topology = Topology::read_live()?;
        let mut overrides = core_map_overrides(current)?;
        let shards_default = topology::default_shard_count(&topology);
        let shards_asked = match current.shards {
            AutoOr::Auto => None,
            AutoOr::Is(count) => Some(count),
        };
        overrides.set_shard_count(shards_asked.unwrap_or(shards_default));
        let core_map = CoreMap::with_overrides(&topology, &overrides)?;
        let data_dir = &current.data_dir;
        let shard_count_guess = usize::from(shards_asked.unwrap_or(shards_default));
        let cleared = Preflight {
            data_directory: data_dir,
            addresses,
            executors: core_map.executors().len(),
            ring_depth: RING_DEPTH,
            clients_max,
            descriptors_reserved: DESCRIPTORS_RESERVED + shard_count_guess * DESCRIPTORS_PER_SHARD,
        }
        .run()?;
        let (mut manifest, is_new) = Manifest::open(data_dir, shards_asked, shards_default)?;
        manifest.begin_generation(data_dir)?;
        let core_map = if usize::from(manifest.shards) == shard_count_guess {
            core_map
        } else {
            overrides.set_shard_count(manifest.shards);
            CoreMap::with_overrides(&topology, &overrides)?
        };
        Ok(Plan {
            topology,
            core_map,
            manifest,
            is_new,
            cleared,
        })
    }
}

impl Stores {
    /// Checks the machine and the data directory, opens the shards and prepares their executors. The server will listen
    /// on `addresses` and should allow `clients_max` clients (0 for an embedded engine).
    pub(crate) fn open(
        settings: &SharedSettings,
        addresses: &[SocketAddr],
        clients_max: usize,
    ) -> Result<(Stores, Allowed), ServerError> {
        rows::install();
        let current = settings.snapshot();
        let Plan {
            topology,
            core_map,
            manifest,
            is_new: new,
            mut cleared,
        } = Plan::make(&current, addresses, clients_max)?;
        let data_dir = &current.data_dir;
        // From here on this thread runs on the background cores: RocksDB's threads inherit its CPUs.
        if let Err(error) = topology::pin_current_thread(&core_map.background) {
            cleared.warnings.push(format!(
                "the main thread could not be pinned to the background cores: {error}"
            ));
        }
        let router = router_of(&core_map, &manifest);
        let memory = MemoryPlan::of(&current, usize::from(manifest.shards));
        tracing::info!(?memory, "the memory is shared out");
        let resources = open_resources(&current, &core_map, memory.block_cache_bytes)?;
        let began = Instant::now();
        let databases = open_databases(data_dir, &manifest, new, &resources)?;
        let old_logs = recover_logs(data_dir, &manifest, &databases, current.load_damaged_log)?;
        let mut shards = open_shards(data_dir, databases, memory.shard_bytes)?;
        tracing::info!(
            shards = shards.len(),
            took_ms = began.elapsed().as_millis(),
            "the shards are open"
        );
        if new {
            Manifest::mark_created(data_dir)?;
        }
        // In this order: a redo record tells the databases of a shard that did not follow by that shard's old map.
        finish_transactions(&mut shards, data_dir)?;
        agree_on_database_map(&mut shards, data_dir)?;
        repin_rocksdb_threads(&core_map.background, true);
        let spin = SpinPolicy::of(&current, &core_map, &topology);
        let (pubsub, inboxes) = PubSub::new(core_map.network.len());
        let pubsub = Arc::new(pubsub);
        let tracking = Tracking::new(Arc::clone(&pubsub), core_map.network.len());
        // Scripts run on the storage executors, and on the threads of transactions over several of them.
        let script_seats = router.executor_count() + core_map.network.len() * TRANSACTION_THREADS_MAX;
        let scripts = Arc::new(Scripts::new(settings.clone(), script_seats));
        load_functions(&mut shards[0], &scripts).map_err(|error| ServerError::Shard {
            path: shard_path(data_dir, 0),
            error,
        })?;
        let mut stores = Stores {
            scripts,
            topology,
            router,
            clients: Arc::default(),
            resources,
            memory,
            storage_metrics: Vec::new(),
            logs: Vec::new(),
            shard_metrics: (0..manifest.shards).map(|_| Arc::default()).collect(),
            pubsub,
            tracking: Arc::new(tracking),
            inboxes,
            senders: Vec::new(),
            seats: Vec::new(),
            spin,
            lock: cleared.lock,
            core_map,
            manifest,
            old_logs,
        };
        let allowed = Allowed {
            clients_max: cleared.clients_max,
            warnings: cleared.warnings,
        };
        stores.seat_executors(settings, shards)?;
        Ok((stores, allowed))
    }

    fn seat_executors(&mut self, settings: &SharedSettings, shards: Vec<Shard>) -> Result<(), ServerError> {
        let mut by_executor: Vec<Vec<Shard>> = (0..self.router.executor_count()).map(|_| Vec::new()).collect();
        for shard in shards {
            by_executor[usize::from(self.router.owner(shard.id()).0)].push(shard);
        }
        for (number, own) in by_executor.into_iter().enumerate() {
            self.seat_executor(settings, number, own)?;
        }
        Ok(())
    }

    /// Puts a storage executor together on its shards, and starts the threads beside it.
    fn seat_executor(&mut self, settings: &SharedSettings, number: usize, own: Vec<Shard>) -> Result<(), ServerError> {
        let metrics = Arc::new(StorageMetrics {
            cpu: self.core_map.storage[number].number(),
            commands: command::all().iter().map(|_| CommandMetrics::default()).collect(),
            ..StorageMetrics::default()
        });
        let mut shard_metrics = Vec::new();
        for shard in &own {
            let index = usize::from(shard.id().0);
            self.shard_metrics[index] = Arc::new(ShardMetrics {
                executor: number,
                ..ShardMetrics::default()
            });
            shard_metrics.push(Arc::clone(&self.shard_metrics[index]));
        }
        let watched = own.iter().zip(&shard_metrics).map(|(shard, metrics)| Watched {
            database: Arc::clone(shard.database()),
            metrics: Arc::clone(metrics),
        });
        let databases = own.iter().map(|shard| (shard.id(), Arc::clone(shard.database())));
        let databases: Vec<_> = databases.collect();
        let shards = own.iter().map(Shard::id).collect();
        let log = self.create_log(&settings.snapshot(), number, shards)?;
        let beside = self.start_threads(settings, &metrics, (number, &log), databases, watched.collect())?;
        let Beside { threads, reports } = beside;
        let mut own = Shards::new(own, self.router.shard_count());
        self.logs.push(log.progress());
        own.set_log(log);
        // Unbounded: senders stay within their credits, which bound what is queued.
        let (sender, requests) = flume::unbounded();
        let executor = StorageExecutor::new(ExecutorParts {
            requests: sender.downgrade(),
            handlers: rows::STORAGE_HANDLERS,
            shards: own,
            script_seat: ScriptSeat {
                scripts: Arc::clone(&self.scripts),
                number,
            },
            clients: Arc::clone(&self.clients),
            threads,
            settings: settings.clone(),
            pubsub: Arc::clone(&self.pubsub),
            tracking: Arc::clone(&self.tracking),
            metrics: Arc::clone(&metrics),
            shard_metrics,
        });
        self.senders.push(sender);
        self.storage_metrics.push(metrics);
        self.seats.push(StorageSeat {
            executor,
            requests,
            reports,
        });
        Ok(())
    }

    /// Begins the log of a storage executor; the first one takes the files of earlier starts' logs.
    fn create_log(
        &mut self,
        settings: &Settings,
        number: usize,
        shards: Vec<ShardId>,
    ) -> Result<ExecutorLog, ServerError> {
        let bounds = self.memory.log_bounds(shards.len());
        let identity = self.manifest.log_identity(number as u32);
        let log = ExecutorLog::create(&logs_path(&settings.data_dir), identity, bounds, shards)?;
        self.old_logs.drain(..).for_each(|old| log.adopt(&old));
        Ok(log)
    }

    /// Starts the threads beside a storage executor.
    fn start_threads(
        &self,
        settings: &SharedSettings,
        metrics: &Arc<StorageMetrics>,
        (number, log): (usize, &ExecutorLog),
        databases: Vec<(ShardId, Arc<Database>)>,
        watched: Vec<Watched>,
    ) -> Result<Beside, ServerError> {
        let background = self.core_map.background.clone();
        let pin_to_background = move || {
            if let Err(error) = topology::pin_current_thread(&background) {
                tracing::warn!(%error, "a storage executor's thread could not be pinned to the background cores");
            }
        };
        let (reports_sender, syncs) = flume::bounded(REPORTS_MAX);
        let syncer = Syncer::start(
            format!("syncer-{number}"),
            log.progress(),
            settings.clone(),
            reports_sender,
            pin_to_background.clone(),
        );
        let (checkpoints_sender, checkpoints) = flume::bounded(REPORTS_MAX);
        let own: Vec<_> = databases.iter().map(|(_, database)| Arc::clone(database)).collect();
        // No more than there are orders.
        let (fetched_sender, fetched) = flume::unbounded();
        let disk_readers = DiskReaders::start(
            &format!("reader-{number}"),
            usize::from(settings.snapshot().disk_readers),
            own.clone(),
            &fetched_sender,
            pin_to_background.clone(),
        );
        let checkpointer = Checkpointer::start(
            format!("{}-{number}", checkpointer::NAME),
            (log.progress(), Arc::clone(metrics)),
            databases,
            checkpoints_sender,
            pin_to_background.clone(),
        );
        let reclaimer = Reclaimer::start(format!("reclaimer-{number}"), own, pin_to_background.clone());
        let disk_watch = DiskWatch::start(format!("disk-watch-{number}"), watched, pin_to_background.clone());
        let disposer = Disposer::start(format!("disposer-{number}"), pin_to_background);
        let threads = Threads {
            syncer: syncer.map_err(ServerError::Thread)?,
            checkpointer: checkpointer.map_err(ServerError::Thread)?,
            reclaimer: reclaimer.map_err(ServerError::Thread)?,
            disk_watch: disk_watch.map_err(ServerError::Thread)?,
            disposer: disposer.map_err(ServerError::Thread)?,
            disk_readers: disk_readers.map_err(ServerError::Thread)?,
        };
        let reports = Reports {
            checkpoints,
            syncs,
            fetched,
        };
        Ok(Beside { threads, reports })
    }
}

/// Which storage executor has which shard: each has a run of neighbours, and about as many as the others.
fn router_of(core_map: &CoreMap, manifest: &Manifest) -> Router {
    let storage_count = core_map.storage.len().min(usize::from(manifest.shards));
    let owners = (0..manifest.shards)
        .map(|shard| StorageId((usize::from(shard) * storage_count / usize::from(manifest.shards)) as u16));
    Router::new(owners.collect())
}

/// What the shards' databases share.
fn open_resources(
    current: &Settings,
    core_map: &CoreMap,
    block_cache_bytes: usize,
) -> Result<Arc<Resources>, ServerError> {
    let background_jobs = match current.max_background_jobs {
        AutoOr::Auto => core_map.background.len().max(2),
        AutoOr::Is(jobs) => usize::from(jobs),
    };
    let resources = Resources::new(block_cache_bytes, background_jobs);
    Ok(Arc::new(resources.map_err(ServerError::Resources)?))
}

/// The core map that the settings ask for: first the file's lists, then the flags'.
pub fn core_map_overrides(settings: &Settings) -> Result<CoreMapOverrides, TopologyError> {
    let mut overrides = CoreMapOverrides::default();
    if let Some(path) = &settings.core_map {
        overrides.read_file(path)?;
    }
    let lists = [
        (Role::Network, &settings.network_cores),
        (Role::Storage, &settings.storage_cores),
        (Role::Background, &settings.background_cores),
    ];
    for (role, list) in lists {
        if let AutoOr::Is(list) = list {
            overrides.set_flag(role, &list.to_string())?;
        }
    }
    Ok(overrides)
}
