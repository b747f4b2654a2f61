//! A server: preflight, core map, channels, executors; started and stopped in order.
//!
//! `stores` puts the storage executors together, `shard_opening` opens what they own, `executor_threads` runs them.

mod executor_threads;
mod memory_plan;
mod shard_opening;
mod stores;

pub(crate) use executor_threads::Running;
use executor_threads::{REPIN_INTERVAL, repin_rocksdb_threads};
pub(crate) use stores::Stores;
pub use stores::core_map_overrides;

use crate::channel::destinations::{Credits, Destinations};
use crate::channel::message::Caller;
use crate::channel::responses::responses;
use crate::command::Command;
use crate::config::{LogLevel, Settings, SharedSettings};
use crate::error::CommandError;
use crate::network::accepting::Acceptor;
use crate::network::network_executor::{ExecutorHandlers, NetworkParts};
use crate::network::script_calls;
use crate::preflight::{self, PreflightError};
use crate::protocol::Arguments;
use crate::registry::admin_threads::AdminThreads;
use crate::registry::listening::{self, ListenError, Listening};
use crate::registry::metrics::NetworkMetrics;
use crate::registry::server_state::{Pause, ServerState, Shutdown, Totals};
use crate::rows;
use crate::storage::database::DatabaseError;
use crate::storage::log::LogCreateError;
use crate::storage::manifest::ManifestError;
use crate::storage::recovery::RecoveryError;
use crate::topology::TopologyError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
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
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    #[error("{0}")]
    Log(#[from] LogCreateError),
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

/// Connections accepted for one executor and not yet taken up by it; accepting waits when it is full.
const ACCEPTED_MAX: usize = 1024;

/// How often the main thread looks at signals, settings that it applies and RocksDB's threads.
const ADMIN_INTERVAL: Duration = Duration::from_millis(20);

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
            polling: stores.spin.polling,
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
        logs: stores.logs.clone(),
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
