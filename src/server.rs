//! A server: preflight, core map, channels, executors; started and stopped in order.

use crate::channel::destinations::{Credits, Destinations};
use crate::channel::message::{Batch, Caller};
use crate::channel::responses::responses;
use crate::channel::router::{Router, StorageId};
use crate::command::{self, Command};
use crate::config::{AutoOr, ByteSize, LogLevel, Settings, SharedSettings};
use crate::error::CommandError;
use crate::executor::committer::Committer;
use crate::executor::disk_watch::{DiskWatch, Watched};
use crate::executor::reclaimer::Reclaimer;
use crate::executor::storage_executor::{CommitThread, ExecutorParts, StorageExecutor};
use crate::executor::syncer::{SyncReport, Syncer};
use crate::network::TRANSACTION_THREADS_MAX;
use crate::network::accepting::Acceptor;
use crate::network::network_executor::{ExecutorHandlers, NetworkExecutor, NetworkParts};
use crate::network::script_calls;
use crate::preflight::{self, Cleared, DataDirLock, EXECUTOR_IO_MEMORY_BYTES, Preflight, PreflightError};
use crate::protocol::Arguments;
use crate::registry::admin_threads::AdminThreads;
use crate::registry::clients::Clients;
use crate::registry::inboxes::Posted;
use crate::registry::listening::{self, ListenError, Listening};
use crate::registry::metrics::{CommandMetrics, NetworkMetrics, ShardMetrics, StorageMetrics};
use crate::registry::server_state::{Pause, ServerState, Shutdown, Totals};
use crate::registry::subscribers::PubSub;
use crate::registry::tracked_keys::Tracking;
use crate::rows;
use crate::scripts::function_libraries::{self, Libraries};
use crate::scripts::interpreter::{self, LoadLimit};
use crate::scripts::registry::{ScriptSeat, Scripts};
use crate::slots::ShardId;
use crate::storage::database::{Database, DatabaseError, OpenError, Opening, Resources};
use crate::storage::log_check::Loss;
use crate::storage::manifest::{Manifest, ManifestError, shard_path};
use crate::storage::redo;
use crate::storage::shard::Shard;
use crate::storage::shards::Shards;
use crate::topology::{self, CoreMap, CoreMapOverrides, CpuId, CpuSet, NodeId, Role, Topology, TopologyError};
use glommio::{CpuLocation, LocalExecutorBuilder, Placement, PoolPlacement};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Why a server did not start or did not stop well. `Display` is one sentence with a remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum ServerError {
    #[error("{0}")]
    Preflight(#[from] PreflightError),
    #[error("{0}")]
    Topology(#[from] TopologyError),
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("{path} cannot be opened ({error}); check the disk, or restore the directory from a backup")]
    Shard { path: PathBuf, error: DatabaseError },
    #[error(
        "the log of a shard is damaged: {loss}; restore the data directory from a backup, or copy it and start once \
         with --load-damaged-log yes to go on without what comes after the damage"
    )]
    DamagedLog { loss: Loss },
    #[error("RocksDB cannot start ({0}); this is a fault of the build or of the machine")]
    Resources(DatabaseError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("a thread cannot be started ({0}); raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
    #[error(
        "an executor cannot be started on CPU {cpu} ({error}); give the server other CPUs, as `corelane cores` lists \
         them"
    )]
    Executor { cpu: usize, error: String },
    #[error("the process cannot handle signals ({0})")]
    Signals(std::io::Error),
    #[error("the logs of some shards could not be synced; what the last sync interval acknowledged may be lost")]
    NotSynced,
}

/// Entries of each io_uring ring: a connection's socket needs one at a time, and connections beyond that wait for the
/// next turn of the reactor.
const RING_DEPTH: usize = 1024;

/// Descriptors for RocksDB's files, rings, pipes and listeners, per shard and in all.
const DESCRIPTORS_PER_SHARD: usize = 1100;
const DESCRIPTORS_RESERVED: usize = 256;

/// Staged writes that are worth handing to the committer: they take RocksDB some 100 µs, the two wakes about 10.
const BACKGROUND_COMMIT_WRITES: usize = 64;

/// Connections accepted for one executor and not yet taken up by it; accepting waits when it is full.
const ACCEPTED_MAX: usize = 1024;

/// Reports of a syncer that its executor has not read; the syncer waits when it is full.
const SYNC_REPORTS_MAX: usize = 1024;

/// How often the main thread looks at signals, settings that it applies and RocksDB's threads.
const ADMIN_INTERVAL: Duration = Duration::from_millis(20);

/// The epochs of what a start writes. The executors' turns have later ones.
const RECOVERY_EPOCH: u64 = 1;
const AGREEMENT_EPOCH: u64 = 2;

const _: () = assert!(RECOVERY_EPOCH < AGREEMENT_EPOCH, "epochs only grow");

/// How often RocksDB's threads are looked for: some are started late, with the affinity of the thread that starts them.
const REPIN_INTERVAL: Duration = Duration::from_secs(1);

/// The storage executors and all that they need, ready to be started.
pub(crate) struct Stores {
    pub(crate) topology: Topology,
    pub(crate) core_map: CoreMap,
    pub(crate) router: Router,
    /// The clients that are connected; an embedded engine has none.
    pub(crate) clients: Arc<Clients>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) storage_metrics: Vec<Arc<StorageMetrics>>,
    pub(crate) shard_metrics: Vec<Arc<ShardMetrics>>,
    /// The subscribers; all threads may publish.
    pub(crate) pubsub: Arc<PubSub>,
    /// The clients that are told of keys that they have read.
    pub(crate) tracking: Arc<Tracking>,
    /// By network executor: the end of its inbox that the executor reads.
    inboxes: Vec<flume::Receiver<Posted>>,
    /// By storage executor: where requests are sent to it.
    pub(crate) senders: Vec<flume::Sender<Box<Batch>>>,
    pub(crate) scripts: Arc<Scripts>,
    seats: Vec<StorageSeat>,
    spin: SpinPolicy,
    lock: DataDirLock,
}

/// What the preflight has found.
pub(crate) struct Allowed {
    /// Clients that the limit of open files allows.
    pub(crate) clients_max: usize,
    /// What works less well than it could.
    pub(crate) warnings: Vec<String>,
}

/// One storage executor before its thread runs.
struct StorageSeat {
    executor: StorageExecutor,
    requests: flume::Receiver<Box<Batch>>,
    commits: flume::Receiver<()>,
    reports: flume::Receiver<SyncReport>,
}

/// How long executors look for work before they sleep.
#[derive(Clone, Copy)]
struct SpinPolicy {
    network: Duration,
    storage: Duration,
}

impl SpinPolicy {
    /// Spinning pays on cores that nothing else needs, which is so where there are more cores than executors. A socket
    /// is not seen during a spin with cooperative rings, so executors with sockets spin less (tuning/README.md has the
    /// figures).
    fn of(settings: &Settings, core_map: &CoreMap, topology: &Topology) -> SpinPolicy {
        let executors = core_map.executors();
        let dedicated = executors.len() < topology.usable_cores().len()
            && executors
                .iter()
                .all(|placement| !(placement.network && placement.storage));
        let auto = |us| if dedicated { us } else { 0 };
        let chosen = |us| settings.spin_before_park_us.unwrap_or_else(|| auto(us));
        SpinPolicy {
            network: Duration::from_micros(u64::from(chosen(20))),
            storage: Duration::from_micros(u64::from(chosen(50))),
        }
    }
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
        let (manifest, is_new) = Manifest::open(data_dir, shards_asked, shards_default)?;
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
        let shard_count = usize::from(manifest.shards);
        let resources = open_resources(&current, &core_map, shard_count)?;
        let value_cache_bytes = auto_bytes(current.value_cache_size, 16) / shard_count;
        let opening = Opening {
            creates: new,
            loads_damaged_log: current.load_damaged_log,
        };
        let began = Instant::now();
        let mut shards = open_shards(data_dir, (&manifest, opening), &resources, value_cache_bytes)?;
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
        load_functions(&shards[0], &scripts).map_err(|error| ServerError::Shard {
            path: shard_path(data_dir, 0),
            error,
        })?;
        let mut stores = Stores {
            scripts,
            topology,
            router,
            clients: Arc::default(),
            resources,
            storage_metrics: Vec::new(),
            shard_metrics: (0..manifest.shards).map(|_| Arc::default()).collect(),
            pubsub,
            tracking: Arc::new(tracking),
            inboxes,
            senders: Vec::new(),
            seats: Vec::new(),
            spin,
            lock: cleared.lock,
            core_map,
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
        let cpu = self.core_map.storage[number].number();
        let databases: Vec<_> = own.iter().map(|shard| Arc::clone(shard.database())).collect();
        let (reports_sender, reports) = flume::bounded(SYNC_REPORTS_MAX);
        let background = self.core_map.background.clone();
        let pin_to_background = move || {
            if let Err(error) = topology::pin_current_thread(&background) {
                tracing::warn!(%error, "a storage executor's thread could not be pinned to the background cores");
            }
        };
        let name = format!("syncer-{number}");
        let syncer = Syncer::start(
            name,
            databases.clone(),
            settings.clone(),
            reports_sender,
            pin_to_background.clone(),
        );
        // One message tells of all commits that have ended.
        let (commits_sender, commits) = flume::bounded(1);
        let committer = Committer::start(format!("committer-{number}"), commits_sender, pin_to_background.clone());
        let (committer, thread) = committer.map_err(ServerError::Thread)?;
        let committer = CommitThread {
            committer,
            thread,
            writes_min: self.background_commit_writes(&settings.snapshot(), number),
        };
        let reclaimer = Reclaimer::start(format!("reclaimer-{number}"), databases, pin_to_background.clone());
        let metrics = Arc::new(StorageMetrics {
            cpu,
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
        let disk_watch = DiskWatch::start(format!("disk-watch-{number}"), watched.collect(), pin_to_background);
        let own = Shards::new(own, self.router.shard_count());
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
            committer,
            syncer: syncer.map_err(ServerError::Thread)?,
            reclaimer: reclaimer.map_err(ServerError::Thread)?,
            disk_watch: disk_watch.map_err(ServerError::Thread)?,
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
            commits,
            reports,
        });
        Ok(())
    }

    /// From how many staged writes on a storage executor leaves a batch to its committer: where the executor also has
    /// sockets to serve and the committer has another core, half of a write's cost is better spent there.
    fn background_commit_writes(&self, settings: &Settings, number: usize) -> usize {
        let cpu = self.core_map.storage[number];
        let executors = self.core_map.executors();
        let has_both_roles = executors
            .iter()
            .any(|placement| placement.cpu == cpu && placement.network);
        let has_help = (self.core_map.background.iter())
            .any(|background| executors.iter().all(|placement| placement.cpu != *background));
        match settings.background_commit_writes {
            AutoOr::Is(0) => usize::MAX,
            AutoOr::Is(writes) => usize::from(writes),
            AutoOr::Auto if has_both_roles && has_help => BACKGROUND_COMMIT_WRITES,
            AutoOr::Auto => usize::MAX,
        }
    }

    /// Starts a thread per executor of the core map; `network[i]` runs on the i-th network core.
    pub(crate) fn start(self, network: Vec<NetworkParts>) -> Result<Running, ServerError> {
        let mut network = network.into_iter();
        let mut seats: HashMap<usize, StorageSeat> = self
            .core_map
            .storage
            .iter()
            .map(|cpu| cpu.number())
            .zip(self.seats)
            .collect();
        let mut threads = Vec::new();
        let many_nodes = self.topology.nodes.len() > 1;
        let mut placements = self.core_map.executors();
        // Storage executors first: a client that a network executor accepts must find all of them at work.
        placements.sort_by_key(|placement| placement.network);
        for placement in placements {
            let cpu = placement.cpu.number();
            let own_network = if placement.network { network.next() } else { None };
            let own_storage = if placement.storage { seats.remove(&cpu) } else { None };
            if own_network.is_none() && own_storage.is_none() {
                continue;
            }
            let spin = if own_network.is_some() {
                self.spin.network
            } else {
                self.spin.storage
            };
            let node = placement.node.filter(|_| many_nodes);
            threads.push(start_executor(
                placement.thread_name(),
                cpu,
                spin,
                node,
                own_network,
                own_storage,
            )?);
        }
        Ok(Running {
            threads,
            background: self.core_map.background,
            _lock: self.lock,
        })
    }
}

/// Executors that run.
pub(crate) struct Running {
    threads: Vec<JoinHandle<bool>>,
    background: Vec<CpuId>,
    _lock: DataDirLock,
}

impl Running {
    pub(crate) fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all executors; returns whether all that was committed is on disk.
    pub(crate) fn join(self) -> bool {
        // Every thread is joined, whatever the others returned.
        let synced: Vec<bool> = self
            .threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(false))
            .collect();
        synced.iter().all(|synced| *synced)
    }
}

/// Starts one executor's thread and waits until the executor exists. The thread returns whether its shards were synced.
fn start_executor(
    name: String,
    cpu: usize,
    spin: Duration,
    node: Option<NodeId>,
    network: Option<NetworkParts>,
    storage: Option<StorageSeat>,
) -> Result<JoinHandle<bool>, ServerError> {
    let (started_sender, started) = flume::bounded(1);
    let thread = crate::panics::spawn(name.clone(), move || {
        if let Some(Err(error)) = node.map(topology::prefer_memory_of_node) {
            tracing::warn!(%error, cpu, "this executor's memory may lie on another NUMA node");
        }
        // Fenced to one CPU and not Fixed: that would read /sys, which containers may hide.
        let location = CpuLocation {
            cpu,
            core: cpu,
            package: 0,
            numa_node: 0,
        };
        let executor = LocalExecutorBuilder::new(Placement::Fenced([location].into_iter().collect()))
            .name(&name)
            .io_memory(EXECUTOR_IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .spin_before_park(spin)
            // No files are read through glommio, so its thread for them is not needed.
            .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
            .make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => {
                let _ = started_sender.send(Err(error.to_string()));
                return false;
            }
        };
        let _ = started_sender.send(Ok(()));
        executor.run(async move {
            let storage =
                storage.map(|seat| glommio::spawn_local(seat.executor.run(seat.requests, seat.commits, seat.reports)));
            if let Some(parts) = network {
                NetworkExecutor::run(parts).await;
            }
            match storage {
                Some(storage) => storage.await,
                None => true,
            }
        })
    });
    let thread = thread.map_err(ServerError::Thread)?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(ServerError::Executor { cpu, error }),
        Err(_) => Err(ServerError::Executor {
            cpu,
            error: "its thread ended".to_owned(),
        }),
    }
}

/// Which storage executor has which shard: each has a run of neighbours, and about as many as the others.
fn router_of(core_map: &CoreMap, manifest: &Manifest) -> Router {
    let storage_count = core_map.storage.len().min(usize::from(manifest.shards));
    let owners = (0..manifest.shards)
        .map(|shard| StorageId((usize::from(shard) * storage_count / usize::from(manifest.shards)) as u16));
    Router::new(owners.collect())
}

/// A setting in bytes; `auto` is a share of the machine's memory.
fn auto_bytes(size: AutoOr<ByteSize>, share: u64) -> usize {
    match size {
        AutoOr::Auto => (machine_memory_bytes() / share) as usize,
        AutoOr::Is(size) => size.as_usize(),
    }
}

/// What the shards' databases share.
fn open_resources(current: &Settings, core_map: &CoreMap, shard_count: usize) -> Result<Arc<Resources>, ServerError> {
    let background_jobs = match current.max_background_jobs {
        AutoOr::Auto => core_map.background.len().max(2),
        AutoOr::Is(jobs) => usize::from(jobs),
    };
    let resources = Resources::new(
        auto_bytes(current.block_cache_size, 8),
        current.write_buffer_size.as_usize(),
        shard_count,
        background_jobs,
    );
    Ok(Arc::new(resources.map_err(ServerError::Resources)?))
}

/// Shards that are opened at once: each replays its log into memtables of its own.
const SHARDS_OPENED_AT_ONCE_MAX: u16 = 16;

/// Opens all shards, several at once, since each waits for the disk much of the time.
fn open_shards(
    data_dir: &Path,
    (manifest, opening): (&Manifest, Opening),
    resources: &Resources,
    value_cache_bytes: usize,
) -> Result<Vec<Shard>, ServerError> {
    let next = AtomicU16::new(0);
    let open_some = || {
        let mut opened = Vec::new();
        loop {
            let id = ShardId(next.fetch_add(1, Ordering::Relaxed));
            if id.0 >= manifest.shards {
                return opened;
            }
            opened.push((id, open_shard(data_dir, id, opening, resources, value_cache_bytes)));
        }
    };
    let mut opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..manifest.shards.min(SHARDS_OPENED_AT_ONCE_MAX))
            .map(|_| scope.spawn(open_some))
            .collect();
        let opened = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect::<Vec<_>>()
    });
    opened.sort_by_key(|(id, _)| *id);
    let shards = opened.into_iter().map(|(_, shard)| shard);
    shards.collect()
}

fn open_shard(
    data_dir: &Path,
    id: ShardId,
    opening: Opening,
    resources: &Resources,
    value_cache_bytes: usize,
) -> Result<Shard, ServerError> {
    let path = shard_path(data_dir, id.0);
    let failed = |error| ServerError::Shard {
        path: path.clone(),
        error,
    };
    let database = Database::open(&path, resources, opening).map_err(|error| match error {
        OpenError::DamagedLog(loss) => ServerError::DamagedLog { loss },
        OpenError::UnreadableLog(error) => failed(DatabaseError::Failed(format!("its log cannot be read: {error}"))),
        OpenError::Database(error) => failed(error),
    })?;
    if id.0 == 0 {
        database.start_background_threads().map_err(failed)?;
    }
    Shard::open(id, database, value_cache_bytes).map_err(failed)
}

/// After a crash in the middle of a SWAPDB the shard with the most swaps is right, and the others follow.
fn agree_on_database_map(shards: &mut [Shard], data_dir: &Path) -> Result<(), ServerError> {
    let Some(newest) = shards.iter().map(Shard::database_map).max_by_key(|map| map.generation) else {
        return Ok(());
    };
    for shard in shards.iter_mut().filter(|shard| shard.database_map() != newest) {
        shard.begin_turn(AGREEMENT_EPOCH);
        let path = shard_path(data_dir, shard.id().0);
        let failed = |error: CommandError| ServerError::Shard {
            path: path.clone(),
            error: DatabaseError::Failed(error.to_string()),
        };
        shard.set_database_map(newest).map_err(&failed)?;
        shard.commit().map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Finishes the transactions over several shards that a crash has interrupted.
fn finish_transactions(shards: &mut [Shard], data_dir: &Path) -> Result<(), ServerError> {
    let found = redo::recover(shards, RECOVERY_EPOCH).map_err(|error| ServerError::Shard {
        path: data_dir.to_owned(),
        error: DatabaseError::Failed(error.to_string()),
    })?;
    if found > 0 {
        tracing::info!(
            found,
            "finished the transactions over several shards that the last run had begun"
        );
    }
    Ok(())
}

/// Runs the code of the function libraries, which the first shard has, so that their functions are known.
fn load_functions(shard: &Shard, scripts: &Scripts) -> Result<(), DatabaseError> {
    let codes = shard.libraries()?;
    if codes.is_empty() {
        return Ok(());
    }
    let failed = |error: CommandError| DatabaseError::Failed(format!("a function library cannot be loaded: {error}"));
    let interpreter = interpreter::take(scripts).map_err(failed)?;
    let mut libraries = Libraries::default();
    for code in &codes {
        let library = function_libraries::load(&interpreter, code, LoadLimit::Known).map_err(failed)?;
        libraries.add(Arc::new(library)).map_err(failed)?;
    }
    scripts.functions.publish(libraries);
    Ok(())
}

/// Puts every thread of RocksDB on the background cores.
fn repin_rocksdb_threads(background: &[CpuId], must_exist: bool) {
    let wanted: CpuSet = background.iter().copied().collect();
    let threads = match topology::thread_affinities() {
        Ok(threads) => threads,
        Err(error) => {
            tracing::warn!(%error, "the threads' affinities cannot be read");
            return;
        }
    };
    let mut found = 0;
    for (thread, name, cpus) in threads {
        if !name.starts_with("rocksdb:") {
            continue;
        }
        found += 1;
        if cpus != wanted
            && let Err(error) = topology::set_affinity_of(thread, background)
        {
            tracing::warn!(%error, %name, "a thread of RocksDB could not be pinned to the background cores");
        }
    }
    if must_exist && found == 0 {
        tracing::warn!("RocksDB has not started its background threads yet; they are pinned when they appear");
    }
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

/// Memory that the process may use: the machine's, or its control group's limit if that is lower.
fn machine_memory_bytes() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    });
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limit = limits
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    // Without /proc, as little as a small machine has.
    total.unwrap_or(1 << 30).min(limit.unwrap_or(u64::MAX))
}

/// Lets scripts run commands about the server (INFO and the like). The scripts have no share in the server's state,
/// which owns them.
fn let_scripts_ask(state: &Arc<ServerState>) {
    let server = Arc::downgrade(state);
    let run_for_script =
        move |command: &'static Command, arguments: Arguments<'_>, caller: Caller| match server.upgrade() {
            Some(server) => {
                let handler = rows::NETWORK_HANDLERS.of(command);
                let handler = handler.expect("what runs on a storage executor has its own handler there");
                script_calls::run(&server, (command, handler), arguments, caller)
            }
            None => Err(CommandError::Internal),
        };
    state.scripts.set_server_commands(Box::new(run_for_script));
}

/// What each network executor is started with. The first has the listeners.
fn network_parts(
    state: &Arc<ServerState>,
    stores: &mut Stores,
    (listeners, addresses, changes): (Vec<OwnedFd>, Vec<SocketAddr>, flume::Receiver<listening::Change>),
    current: &Settings,
) -> Vec<NetworkParts> {
    let credits = Credits {
        requests: current.request_credits,
        batch_size: current.requests_at_once(),
    };
    let (accepted_senders, accepted): (Vec<_>, Vec<_>) =
        state.network.iter().map(|_| flume::bounded(ACCEPTED_MAX)).unzip();
    let mut acceptor = Some(Acceptor {
        listeners,
        addresses,
        changes,
        executors: accepted_senders,
    });
    let inboxes = std::mem::take(&mut stores.inboxes);
    let parts = accepted.into_iter().zip(inboxes).enumerate();
    let network = parts.map(|(index, (accepted, inbox))| {
        // No more batches can come back than were sent, which the credits bound.
        let (reply_to, responses) = responses();
        let destinations = Destinations::new(stores.senders.clone(), reply_to, credits);
        NetworkParts {
            server: Arc::clone(state),
            handlers: ExecutorHandlers {
                network: rows::NETWORK_HANDLERS,
                storage: rows::STORAGE_HANDLERS,
            },
            index,
            destinations,
            responses,
            inbox,
            accepted,
            acceptor: acceptor.take(),
        }
    });
    network.collect()
}

/// Runs a server until it is told to stop. `set_log_level` is called when CONFIG SET changed the level.
pub fn run(
    settings: Settings,
    config_file: Option<PathBuf>,
    set_log_level: impl Fn(LogLevel),
) -> Result<(), ServerError> {
    crate::panics::end_process_on_panic();
    let settings = SharedSettings::new(settings);
    let current = settings.snapshot();
    let addresses = listening::addresses_of(&current)?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(ServerError::Signals)?;
    let (mut stores, cleared) = Stores::open(&settings, &addresses, current.maxclients as usize)?;
    cleared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if cleared.clients_max < current.maxclients as usize {
        let set = settings.update(|settings| -> Result<(), Infallible> {
            settings.maxclients = cleared.clients_max as u32;
            Ok(())
        });
        let Ok(()) = set;
    }
    let executors = stores.core_map.executors();
    let cpus: Vec<usize> = executors.iter().map(|placement| placement.cpu.number()).collect();
    let report = preflight::wake_self_test(&cpus)?;
    tracing::info!(%report, "wakes between threads work");

    let (listeners, port) = listening::listen(&addresses, current.tcp_backlog)?;
    let (listening, listening_changes) = Listening::new(port);
    let network_cpus: Vec<usize> = stores.core_map.network.iter().map(|cpu| cpu.number()).collect();
    let state = Arc::new(ServerState {
        settings: settings.clone(),
        config_file,
        router: stores.router.clone(),
        core_map: stores.core_map.clone(),
        pubsub: Arc::clone(&stores.pubsub),
        tracking: Arc::clone(&stores.tracking),
        clients: Arc::clone(&stores.clients),
        network: network_cpus
            .iter()
            .map(|cpu| Arc::new(NetworkMetrics::new(*cpu)))
            .collect(),
        storage: stores.storage_metrics.clone(),
        shards: stores.shard_metrics.clone(),
        resources: Arc::clone(&stores.resources),
        run_id: random_hex(),
        started_at_ms: crate::clock::unix_ms(),
        listening,
        totals: Totals::default(),
        saves: Arc::default(),
        admin_threads: AdminThreads::new(stores.core_map.background.clone()),
        pause: Pause::default(),
        shutdown: Shutdown::default(),
        scripts: Arc::clone(&stores.scripts),
    });
    let_scripts_ask(&state);
    let network = network_parts(&state, &mut stores, (listeners, addresses, listening_changes), &current);
    // The network executors have their own. A sender that is left here would keep the storage executors from ending.
    stores.senders.clear();
    let running = stores.start(network)?;
    tracing::info!(port, shards = state.shards.len(), "ready to accept connections");

    administer(&state, &running, &mut signals, set_log_level);
    match running.join() {
        true => Ok(()),
        false => Err(ServerError::NotSynced),
    }
}

/// The main thread's work while the executors run: signals, settings that apply to the process, RocksDB's threads.
fn administer(state: &ServerState, running: &Running, signals: &mut Signals, set_log_level: impl Fn(LogLevel)) {
    let mut settings_version = state.settings.version();
    let mut repinned_at = Instant::now();
    while !running.has_ended() {
        for signal in signals.pending() {
            if state.shutdown.is_requested() {
                tracing::warn!(signal, "a second signal: exiting at once");
                std::process::exit(1);
            }
            tracing::info!(signal, "shutting down");
            state.shutdown.request();
        }
        if state.settings.version() != settings_version {
            settings_version = state.settings.version();
            set_log_level(state.settings.snapshot().log_level);
        }
        if repinned_at.elapsed() >= REPIN_INTERVAL {
            repinned_at = Instant::now();
            repin_rocksdb_threads(&running.background, false);
        }
        std::thread::sleep(ADMIN_INTERVAL);
    }
}

/// 40 random hexadecimal digits.
fn random_hex() -> String {
    let words: [u64; 3] =
        std::array::from_fn(|_| foldhash::fast::RandomState::default().hash_one(crate::clock::unix_us()));
    words.iter().map(|word| format!("{word:016x}")).collect::<String>()[..40].to_owned()
}
