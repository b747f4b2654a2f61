//! The executors' threads: one per executor, pinned; and RocksDB's, which are put on the background cores.

use super::{ServerError, Stores};
use crate::channel::message::Batch;
use crate::config::Settings;
use crate::executor::storage_executor::{Reports, StorageExecutor};
use crate::network::network_executor::{NetworkExecutor, NetworkParts, Polling};
use crate::preflight::{DataDirLock, EXECUTOR_IO_MEMORY_BYTES};
use crate::topology::{self, CoreMap, CpuId, CpuSet, NodeId, Topology};
use glommio::{CpuLocation, LocalExecutorBuilder, Placement, PoolPlacement};
use std::collections::HashMap;
use std::thread::JoinHandle;
use std::time::Duration;

/// Entries of each io_uring ring: a connection's socket needs one at a time, and connections beyond that wait for the
/// next turn of the reactor.
pub(super) const RING_DEPTH: usize = 1024;

/// How often RocksDB's threads are looked for: some are started late, with the affinity of the thread that starts them.
pub(super) const REPIN_INTERVAL: Duration = Duration::from_secs(1);

/// One storage executor before its thread runs.
pub(super) struct StorageSeat {
    pub(super) executor: StorageExecutor,
    pub(super) requests: flume::Receiver<Box<Batch>>,
    pub(super) reports: Reports,
}

/// How long executors look for work before they sleep.
#[derive(Clone, Copy)]
pub(super) struct SpinPolicy {
    network: Duration,
    storage: Duration,
    /// How an executor looks at its sockets itself.
    pub(super) polling: Polling,
}

impl SpinPolicy {
    /// Spinning pays on cores that nothing else needs, which is so where there are more cores than executors. A socket
    /// is not seen during a spin with cooperative rings, so executors with sockets spin less (tuning/README.md has the
    /// figures). One that is alone sees its sockets without the reactor, and finds out by itself whether it pays.
    pub(super) fn of(settings: &Settings, core_map: &CoreMap, topology: &Topology) -> SpinPolicy {
        let executors = core_map.executors();
        let dedicated = executors.len() < topology.usable_cores().len()
            && executors
                .iter()
                .all(|placement| !(placement.network && placement.storage));
        let auto = |us| if dedicated { us } else { 0 };
        let from_us = |us| Duration::from_micros(u64::from(us));
        let chosen = |us| settings.spin_before_park_us.unwrap_or_else(|| auto(us));
        match executors.len() {
            1 => SpinPolicy {
                network: Duration::ZERO,
                storage: Duration::ZERO,
                polling: Polling::WhileBusy(settings.spin_before_park_us.chosen().map(from_us)),
            },
            _ => SpinPolicy {
                network: from_us(chosen(20)),
                storage: from_us(chosen(50)),
                polling: Polling::Never,
            },
        }
    }
}

impl Stores {
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
    pub(super) background: Vec<CpuId>,
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
            let storage = storage.map(|seat| glommio::spawn_local(seat.executor.run(seat.requests, seat.reports)));
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

/// Puts every thread of RocksDB on the background cores.
pub(super) fn repin_rocksdb_threads(background: &[CpuId], must_exist: bool) {
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
