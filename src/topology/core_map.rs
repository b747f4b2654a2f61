//! The core map: which CPUs run network executors, storage executors and background threads.
//!
//! `auto` follows these rules; each role's reasons say which of them decided.
//!
//! 1. Executors get physical cores, one each; SMT siblings of an executor's core stay free, because two busy threads on
//!    one core slow each other down. On hybrid machines only fast cores run executors.
//! 2. Background threads get cores without an executor: the slow ones of a hybrid machine, else an eighth of the cores,
//!    at least one. Where that would leave no core for an executor of its own per role, they get SMT siblings instead.
//! 3. One core left for executors: one executor with both roles. On two cores shared with the client, a second busy
//!    thread costs more than it gives (measured at pipeline 1: 98-160 thousand SET/s with one executor, 80-92 with
//!    two).
//! 4. More cores: about half to storage, in a number over which the shards spread evenly, and on each NUMA node in
//!    proportion to its cores, so that storage executors have network executors beside them. With three executors
//!    network gets two: a request that is not pipelined costs several times more in TCP than in its shard.
//!
//! There is no upper limit on executors: nothing measured suggests one, and an operator who wants fewer says so.

use std::collections::BTreeMap;
use std::path::Path;

use super::cpu_set::{CpuId, CpuSet, NodeId};
use super::overrides::{CoreMapOverrides, Role};
use super::{Core, CoreKind, Topology, TopologyError, default_shard_count};

/// One core in so many is for background threads. Compaction rewrites each byte several times, but most requests are
/// reads or hit the memtable; an eighth is where the tuner starts, not a measured optimum.
const CORES_PER_BACKGROUND_CORE: usize = 8;

/// Why each role got its CPUs: sentences for the operator, at least one per role.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct RoleReasons {
    /// About the network CPUs.
    pub network: Vec<String>,
    /// About the storage CPUs.
    pub storage: Vec<String>,
    /// About the background CPUs.
    pub background: Vec<String>,
}

impl RoleReasons {
    fn of_mut(&mut self, role: Role) -> &mut Vec<String> {
        match role {
            Role::Network => &mut self.network,
            Role::Storage => &mut self.storage,
            Role::Background => &mut self.background,
        }
    }
}

/// One executor: a pinned thread with one role or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ExecutorPlacement {
    /// The CPU that it is pinned to.
    pub cpu: CpuId,
    /// Whether it owns connections.
    pub network: bool,
    /// Whether it owns shards.
    pub storage: bool,
    /// The node whose memory it should prefer; `None` where there is no choice (see [`Topology::memory_node_of`]).
    pub node: Option<NodeId>,
}

impl ExecutorPlacement {
    /// The thread's name: role and CPU, such as `network-3`, within the kernel's 15 bytes.
    pub fn thread_name(&self) -> String {
        let role = match (self.network, self.storage) {
            (true, true) => "executor",
            (true, false) => "network",
            (false, _) => "storage",
        };
        format!("{role}-{}", self.cpu)
    }
}

/// The CPUs of each role. Every list has at least one CPU and none twice; all are usable. A CPU in `network` and in
/// `storage` runs one executor with both roles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreMap {
    /// The CPUs of the network executors, one each.
    pub network: Vec<CpuId>,
    /// The CPUs of the storage executors, one each.
    pub storage: Vec<CpuId>,
    /// The CPUs that syncers, RocksDB's threads and the admin thread share.
    pub background: Vec<CpuId>,
    /// Why.
    pub reasons: RoleReasons,
    /// What [`Topology::memory_node_of`] says of each executor's CPU.
    memory_nodes: BTreeMap<CpuId, NodeId>,
}

impl CoreMap {
    /// The map that the rules above give for this machine, for a new data directory's number of shards.
    pub fn auto(topology: &Topology) -> CoreMap {
        Plan::new(topology, Given::default(), default_shard_count(topology)).into_core_map()
    }

    /// The map with the overridden roles as given and the others computed from the CPUs that are left. Refuses CPUs
    /// that do not exist, are offline, or are not for this process to use.
    pub fn with_overrides(topology: &Topology, overrides: &CoreMapOverrides) -> Result<CoreMap, TopologyError> {
        let mut given = Given::default();
        for role in Role::ALL {
            let Some((cpus, origin)) = overrides.of(role) else {
                continue;
            };
            for cpu in cpus {
                check_usable(topology, *cpu).map_err(|why| TopologyError::CoreMap {
                    origin: origin.to_owned(),
                    why,
                })?;
            }
            *given.of_mut(role) = Some((cpus.to_vec(), origin.to_owned()));
        }
        let shard_count = overrides.shard_count().unwrap_or_else(|| default_shard_count(topology));
        Ok(Plan::new(topology, given, shard_count).into_core_map())
    }

    /// The map of a TOML file (see [`CoreMapOverrides::read_file`]); roles that it leaves out are computed.
    pub fn from_file(topology: &Topology, path: &Path) -> Result<CoreMap, TopologyError> {
        let mut overrides = CoreMapOverrides::default();
        overrides.read_file(path)?;
        CoreMap::with_overrides(topology, &overrides)
    }

    /// The executors: one per network CPU in the order of `network`, then one per CPU that is only in `storage`, in
    /// that order. So the network executor `n` is executor `n`.
    pub fn executors(&self) -> Vec<ExecutorPlacement> {
        let storage_only = self.storage.iter().filter(|cpu| !self.network.contains(cpu));
        let placement = |cpu: &CpuId| ExecutorPlacement {
            cpu: *cpu,
            network: self.network.contains(cpu),
            storage: self.storage.contains(cpu),
            node: self.memory_nodes.get(cpu).copied(),
        };
        self.network.iter().chain(storage_only).map(placement).collect()
    }

    /// The index in [`CoreMap::executors`] of the executor on this CPU.
    pub fn executor_index(&self, cpu: CpuId) -> Option<usize> {
        self.executors().iter().position(|executor| executor.cpu == cpu)
    }

    /// The index of this CPU in `network`.
    pub fn network_index(&self, cpu: CpuId) -> Option<usize> {
        self.network.iter().position(|candidate| *candidate == cpu)
    }

    /// The index of this CPU in `storage`.
    pub fn storage_index(&self, cpu: CpuId) -> Option<usize> {
        self.storage.iter().position(|candidate| *candidate == cpu)
    }
}

fn check_usable(topology: &Topology, cpu: CpuId) -> Result<(), String> {
    match topology.cpu(cpu) {
        Some(online) if online.usable => Ok(()),
        Some(_) => Err(format!(
            "this process may not use CPU {cpu} (its affinity mask or cpuset allows {})",
            topology.usable().named()
        )),
        None if topology.offline.contains(cpu) => Err(format!("CPU {cpu} is offline")),
        None => {
            let present = topology.online().union(&topology.offline);
            Err(format!(
                "there is no CPU {cpu} on this machine (it has {})",
                present.named()
            ))
        }
    }
}

/// The roles that flags or a file give: the CPUs, and where they were given.
#[derive(Default)]
struct Given {
    network: Option<(Vec<CpuId>, String)>,
    storage: Option<(Vec<CpuId>, String)>,
    background: Option<(Vec<CpuId>, String)>,
}

impl Given {
    fn of_mut(&mut self, role: Role) -> &mut Option<(Vec<CpuId>, String)> {
        match role {
            Role::Network => &mut self.network,
            Role::Storage => &mut self.storage,
            Role::Background => &mut self.background,
        }
    }
}

/// A core map in the making. The steps run in the order of the methods; each takes what it needs from `free_cores`.
struct Plan<'topology> {
    topology: &'topology Topology,
    /// All usable cores, fast and slow.
    cores: Vec<Core>,
    /// The cores that may still get an executor: fast ones (all, where none is fast) without a given CPU.
    free_cores: Vec<Core>,
    /// The CPUs that are given.
    taken: CpuSet,
    /// Whether fast and slow cores are usable both.
    is_hybrid: bool,
    shard_count: usize,
    network: Option<Vec<CpuId>>,
    storage: Option<Vec<CpuId>>,
    background: Option<Vec<CpuId>>,
    reasons: RoleReasons,
}

impl<'topology> Plan<'topology> {
    fn new(topology: &'topology Topology, mut given: Given, shard_count: u16) -> Plan<'topology> {
        let cores = topology.usable_cores();
        let is_hybrid = cores.iter().any(|core| core.kind != cores[0].kind);
        let mut reasons = RoleReasons::default();
        let mut taken = CpuSet::new();
        for role in Role::ALL {
            if let Some((cpus, origin)) = given.of_mut(role) {
                taken.extend(cpus.iter().copied());
                reasons.of_mut(role).push(format!("given by {origin}"));
            }
        }
        let is_free = |core: &&Core| core.cpus.iter().all(|cpu| !taken.contains(*cpu));
        let may_execute = |core: &&Core| !is_hybrid || core.kind == CoreKind::Fast;
        let free_cores = cores.iter().filter(is_free).filter(may_execute).cloned().collect();
        let cpus_of = |given: Option<(Vec<CpuId>, String)>| given.map(|(cpus, _)| cpus);
        Plan {
            topology,
            free_cores,
            is_hybrid,
            shard_count: usize::from(shard_count),
            network: cpus_of(given.network),
            storage: cpus_of(given.storage),
            background: cpus_of(given.background),
            cores,
            taken,
            reasons,
        }
    }

    fn into_core_map(mut self) -> CoreMap {
        // None where no CPU is left: then it shares the executors' CPUs, which are known only after they are placed.
        if self.background.is_none() {
            self.background = self.place_background();
        }
        let (network, storage) = match (self.network.take(), self.storage.take()) {
            (Some(network), Some(storage)) => (network, storage),
            (Some(network), None) => {
                let storage = self.place_beside(Role::Storage, &network);
                (network, storage)
            }
            (None, Some(storage)) => (self.place_beside(Role::Network, &storage), storage),
            (None, None) => self.place_executors(),
        };
        let executors: CpuSet = network.iter().chain(&storage).copied().collect();
        let background = self.background.take().unwrap_or_else(|| {
            let shared = "shares the executors' CPUs, as no other CPU is left";
            self.reasons.background.push(shared.to_owned());
            executors.iter().collect()
        });
        self.explain_sharing(&executors, &network, &storage, &background);
        let memory_nodes = executors
            .iter()
            .filter_map(|cpu| Some((cpu, self.topology.memory_node_of(cpu)?)))
            .collect();
        CoreMap {
            network,
            storage,
            background,
            reasons: self.reasons,
            memory_nodes,
        }
    }

    /// Rule 2. `None` if no CPU is left without an executor on it.
    fn place_background(&mut self) -> Option<Vec<CpuId>> {
        if self.is_hybrid {
            let slow = self
                .cores
                .iter()
                .filter(|core| core.kind == CoreKind::Slow)
                .flat_map(|core| core.cpus.iter().copied());
            let slow: Vec<CpuId> = slow.filter(|cpu| !self.taken.contains(*cpu)).collect();
            if !slow.is_empty() {
                self.reasons
                    .background
                    .push("the slow cores of this hybrid machine, where no executor runs".to_owned());
                return Some(sorted(slow));
            }
        }
        let roles_to_place = usize::from(self.network.is_none()) + usize::from(self.storage.is_none());
        let siblings = self.spare_siblings();
        if self.free_cores.len() <= roles_to_place && !siblings.is_empty() {
            let why =
                "the SMT siblings of executors' cores, as there are too few cores to keep one for background threads";
            self.reasons.background.push(why.to_owned());
            return Some(siblings);
        }
        // With no executor placed yet, one core has to be left for it; else the roles to place can share the given
        // ones.
        let left_for_executors = usize::from(roles_to_place == Role::EXECUTOR_COUNT);
        let wanted = (self.cores.len() / CORES_PER_BACKGROUND_CORE).max(1);
        let count = wanted.min(self.free_cores.len().saturating_sub(left_for_executors));
        if count == 0 {
            return None;
        }
        let mut reserved = Vec::new();
        for _ in 0..count {
            reserved.extend(self.take_core_of_fullest_node().cpus);
        }
        self.reasons.background.push(format!(
            "{} of {} (an eighth, at least one) with all of their threads, where no executor runs",
            counted(count, "core"),
            self.cores.len()
        ));
        Some(sorted(reserved))
    }

    /// The usable CPUs that neither are given nor would get an executor: all but the first of each free core.
    fn spare_siblings(&self) -> Vec<CpuId> {
        let firsts: CpuSet = self.free_cores.iter().map(|core| core.cpus[0]).collect();
        let cpus = self.cores.iter().flat_map(|core| core.cpus.iter().copied());
        sorted(
            cpus.filter(|cpu| !self.taken.contains(*cpu) && !firsts.contains(*cpu))
                .collect(),
        )
    }

    /// Takes the last free core of the node with the most of them, so that nodes lose cores evenly; of equals the last
    /// node, as the first CPU of a machine is the one that an operator looks for an executor on.
    fn take_core_of_fullest_node(&mut self) -> Core {
        let mut free_by_node: BTreeMap<Option<NodeId>, usize> = BTreeMap::new();
        for core in &self.free_cores {
            *free_by_node.entry(core.node).or_default() += 1;
        }
        let fullest = free_by_node
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(node, _)| node);
        let last = self.free_cores.iter().rposition(|core| Some(core.node) == fullest);
        self.free_cores.remove(last.expect("called only while a core is free"))
    }

    /// Both executor roles (rules 3 and 4).
    fn place_executors(&mut self) -> (Vec<CpuId>, Vec<CpuId>) {
        let (cores, why_these) = self.executor_cores();
        if let [core] = cores.as_slice() {
            let why =
                format!("{why_these}: one executor runs both roles there, and a request between them costs no wake");
            self.reasons.network.push(why.clone());
            self.reasons.storage.push(why);
            return (vec![core.cpus[0]], vec![core.cpus[0]]);
        }
        let storage_count = storage_executor_count(self.shard_count, cores.len() - 1, cores.len());
        let (network, storage) = split_by_node(&cores, storage_count);
        self.reasons.network.push(format!(
            "{why_these}: {} for network, {} for storage",
            network.len(),
            storage.len()
        ));
        self.explain_shards(storage.len());
        if cores.iter().any(|core| core.node != cores[0].node) {
            let why = "shared out over the nodes by their cores, so that storage has network executors beside it";
            self.reasons.network.push(why.to_owned());
            self.reasons.storage.push(why.to_owned());
        }
        (network, storage)
    }

    /// The cores for executors when neither role is given, never empty, and which ones they are.
    fn executor_cores(&mut self) -> (Vec<Core>, String) {
        let free = std::mem::take(&mut self.free_cores);
        match free.as_slice() {
            [] => {}
            [core] => {
                let why = format!(
                    "CPU {} is on the only {} for executors",
                    core.cpus[0],
                    self.core_words(1)
                );
                return (free, why);
            }
            _ => {
                let why = format!(
                    "one executor on each of {} {}, none on an SMT sibling",
                    free.len(),
                    self.core_words(free.len())
                );
                return (free, why);
            }
        }
        // The given background CPUs touch every core that could run executors.
        let other = self.cores.iter().filter_map(|core| {
            let cpus: Vec<CpuId> = core
                .cpus
                .iter()
                .copied()
                .filter(|cpu| !self.taken.contains(*cpu))
                .collect();
            (!cpus.is_empty()).then(|| Core { cpus, ..core.clone() })
        });
        let other: Vec<Core> = other.collect();
        if !other.is_empty() {
            let why = "the CPUs that the given background list leaves".to_owned();
            return (other, why);
        }
        (
            self.cores[..1].to_vec(),
            "the given background list has every CPU, so an executor shares the first".to_owned(),
        )
    }

    /// One executor role when the other one is given: the cores that are left, or else the other's CPUs.
    fn place_beside(&mut self, role: Role, other: &[CpuId]) -> Vec<CpuId> {
        let left = std::mem::take(&mut self.free_cores);
        if left.is_empty() {
            let why = "shares the other role's CPUs, as no core is left: one executor runs both roles on each";
            self.reasons.of_mut(role).push(why.to_owned());
            return other.to_vec();
        }
        self.reasons
            .of_mut(role)
            .push(format!("from the {} left for executors", counted(left.len(), "core")));
        if role == Role::Network {
            return left.iter().map(|core| core.cpus[0]).collect();
        }
        let storage_count = storage_executor_count(self.shard_count, left.len(), 2 * left.len());
        self.explain_shards(storage_count);
        split_by_node(&left, storage_count).1
    }

    fn explain_shards(&mut self, storage_count: usize) {
        let (shards, most) = (self.shard_count, self.shard_count.div_ceil(storage_count));
        let at_most = if shards.is_multiple_of(storage_count) {
            ""
        } else {
            "at most "
        };
        let executors = counted(storage_count, "executor");
        let mut why = format!(
            "{executors}, {at_most}{most} of the {} on each",
            counted(shards, "shard")
        );
        // Up to this number of executors the busiest has as many shards as with `storage_count`.
        let no_better = if most > 1 {
            shards.div_ceil(most - 1) - 1
        } else {
            storage_count
        };
        if no_better > storage_count {
            why.push_str(&format!(
                ", and with up to {no_better} executors the busiest would have no fewer"
            ));
        }
        self.reasons.storage.push(why);
    }

    /// What an operator should know of a map that puts two busy threads on one core.
    fn explain_sharing(&mut self, executors: &CpuSet, network: &[CpuId], storage: &[CpuId], background: &[CpuId]) {
        let background_too: CpuSet = background
            .iter()
            .copied()
            .filter(|cpu| executors.contains(*cpu))
            .collect();
        if !background_too.is_empty() {
            let why = format!(
                "background threads and executors share {}: expect slower requests during compaction",
                background_too.named()
            );
            self.reasons.background.push(why);
        }
        for core in &self.cores {
            let busy: CpuSet = core
                .cpus
                .iter()
                .copied()
                .filter(|cpu| executors.contains(*cpu))
                .collect();
            if busy.len() > 1 {
                let why = format!("executors on {} share one physical core", busy.named());
                let roles = [(Role::Network, network), (Role::Storage, storage)];
                for (role, _) in roles
                    .iter()
                    .filter(|(_, cpus)| cpus.iter().any(|cpu| busy.contains(*cpu)))
                {
                    self.reasons.of_mut(*role).push(why.clone());
                }
            }
        }
    }

    fn core_words(&self, count: usize) -> String {
        let fast = if self.is_hybrid { "fast " } else { "" };
        format!("{fast}core{}", if count == 1 { "" } else { "s" })
    }
}

/// The number of storage executors, 1 to `count_max`, whose double is nearest to `double_target` among the numbers that
/// are not wasteful: with s executors the busiest owns ceil(shards / s) shards, and a number is wasteful if a smaller
/// one has the same busiest. Of two equally near the smaller, as requests cost more on the network side.
fn storage_executor_count(shard_count: usize, count_max: usize, double_target: usize) -> usize {
    assert!(count_max >= 1 && shard_count >= 1);
    let is_wasteful = |count: usize| shard_count.div_ceil(shard_count.div_ceil(count)) < count;
    let candidates = (1..=count_max.min(shard_count)).filter(|count| !is_wasteful(*count));
    candidates
        .min_by_key(|count| (2 * count).abs_diff(double_target))
        .expect("1 is never wasteful")
}

/// Shares the first CPU of each core out to (network, storage), `storage_count` of them to storage, on each node in
/// proportion to its cores (largest remainder, ties to the lower node). On a node network gets the lower CPUs.
fn split_by_node(cores: &[Core], storage_count: usize) -> (Vec<CpuId>, Vec<CpuId>) {
    let mut nodes: BTreeMap<Option<NodeId>, Vec<CpuId>> = BTreeMap::new();
    for core in cores {
        nodes.entry(core.node).or_default().push(core.cpus[0]);
    }
    let shares = nodes.values().map(|cpus| {
        (
            cpus.len() * storage_count / cores.len(),
            cpus.len() * storage_count % cores.len(),
        )
    });
    let (mut quotas, remainders): (Vec<usize>, Vec<usize>) = shares.unzip();
    let mut by_remainder: Vec<usize> = (0..quotas.len()).collect();
    by_remainder.sort_by_key(|node_index| std::cmp::Reverse(remainders[*node_index]));
    let missing = storage_count - quotas.iter().sum::<usize>();
    for node_index in by_remainder.into_iter().take(missing) {
        quotas[node_index] += 1;
    }
    let (mut network, mut storage) = (Vec::new(), Vec::new());
    for (cpus, quota) in nodes.values().zip(quotas) {
        let (network_here, storage_here) = cpus.split_at(cpus.len() - quota);
        network.extend_from_slice(network_here);
        storage.extend_from_slice(storage_here);
    }
    (sorted(network), sorted(storage))
}

fn sorted(mut cpus: Vec<CpuId>) -> Vec<CpuId> {
    cpus.sort_unstable();
    cpus
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
