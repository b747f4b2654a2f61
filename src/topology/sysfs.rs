//! Reads a machine's CPUs and NUMA nodes from the files under a root: `/`, a test's fixture, or a recorded machine.
//!
//! Kernels and recordings differ in what they have (Documentation/ABI/stable/sysfs-devices-system-cpu and -node), so
//! each fact has an order of sources. Falling back, or finding nothing, leaves a note: nothing is guessed in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::cpu_set::{self, CpuId, CpuSet, NodeId};
use super::{CoreKind, Cpu, Node, Topology, TopologyError};

const CPU_FOLDER: &str = "sys/devices/system/cpu";
const NODE_FOLDER: &str = "sys/devices/system/node";

/// The longest file that is read: a list of every second of 8192 CPUs takes 20 KiB, and the largest file wanted whole,
/// proc/mounts of a container host, rarely more than this.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The most notes kept, so that a tree of thousands of damaged files is still described on one screen.
const NOTES_MAX: usize = 40;

/// A core is slow below this part (numerator, denominator) of the fastest core's `cpu_capacity` or ACPI CPPC
/// `highest_perf`. Efficiency cores have 25 to 62 % of them (Cortex-A53, A55; Alder to Lunar Lake). Equal cores differ
/// too, by how AMD ranks them for turbo: down to 70 % (166 against 236 on a Ryzen 7950X).
const SLOW_BELOW_OF_PERFORMANCE: (u64, u64) = (2, 3);

/// [`SLOW_BELOW_OF_PERFORMANCE`] for `cpuinfo_max_freq`, and for `base_frequency` where that is missing: efficiency
/// cores clock at 70 to 81 % of the fastest core (Alder to Arrow Lake), favoured turbo cores differ from their equals
/// by a few per cent.
const SLOW_BELOW_OF_FREQUENCY: (u64, u64) = (5, 6);

/// See [`Topology::read`].
pub(super) fn read(root: &Path, allowed: Option<CpuSet>) -> Result<Topology, TopologyError> {
    let mut tree = Tree {
        root,
        notes: Vec::new(),
        notes_dropped: 0,
    };
    let folders = tree
        .numbered_entries(CPU_FOLDER, "cpu")
        .into_iter()
        .filter_map(CpuId::new)
        .collect::<CpuSet>();
    let online = read_online(&mut tree, &folders);
    if online.is_empty() {
        return Err(TopologyError::NoCpus {
            folder: root.join(CPU_FOLDER),
        });
    }
    let present = tree.list(&format!("{CPU_FOLDER}/present")).unwrap_or_default();
    let offline = present.union(&folders).difference(&online);

    let allowed = match allowed {
        Some(allowed) => allowed,
        None => read_allowed_cpus(&mut tree).unwrap_or_else(|| online.clone()),
    };
    let usable = online.intersection(&allowed);
    if usable.is_empty() {
        return Err(TopologyError::NoneUsable { allowed, online });
    }
    if !offline.is_empty() {
        tree.note(format!("left out, being offline: {}", offline.named()));
    }
    let forbidden = online.difference(&usable);
    if !forbidden.is_empty() {
        tree.note(format!(
            "left out, as this process's affinity mask or cpuset forbids them: {}",
            forbidden.named()
        ));
    }

    let nodes = read_nodes(&mut tree, &online, &usable);
    let node_of = node_of_each_cpu(&mut tree, &nodes, &online);
    let packages = tree.number_of_each(&online, "topology/physical_package_id");
    note_missing(
        &mut tree,
        &online,
        &packages,
        "topology/physical_package_id",
        "the package stays unknown",
    );
    let core_of = read_cores(&mut tree, &online, &packages, &node_of);
    let slow = read_slow_cpus(&mut tree, &online);
    if !slow.is_empty() && usable.difference(&slow).is_empty() {
        tree.note("this process may use slow cores only, so they are treated as equal".to_owned());
    }

    let cpus = online.iter().map(|id| Cpu {
        id,
        core: core_of[&id],
        package: packages.get(&id).and_then(|package| u32::try_from(*package).ok()),
        node: node_of.get(&id).copied(),
        kind: if slow.contains(id) {
            CoreKind::Slow
        } else {
            CoreKind::Fast
        },
        usable: usable.contains(id),
    });
    Ok(Topology {
        cpus: cpus.collect(),
        offline,
        nodes,
        notes: tree.into_notes(),
    })
}

/// The online CPUs: the list `online`, else the folders cpuN; in both cases without those whose own file says 0.
fn read_online(tree: &mut Tree<'_>, folders: &CpuSet) -> CpuSet {
    let listed = tree
        .list(&format!("{CPU_FOLDER}/online"))
        .filter(|listed| !listed.is_empty());
    let said_offline: CpuSet = folders
        .iter()
        .filter(|cpu| tree.number(&of_cpu(*cpu, "online")) == Some(0))
        .collect();
    let Some(listed) = listed else {
        let online = folders.difference(&said_offline);
        if !online.is_empty() {
            tree.note(format!(
                "{CPU_FOLDER}/online is missing or unusable: took the CPUs with a folder that does not say offline, {}",
                online.named()
            ));
        }
        return online;
    };
    let contradicted = listed.intersection(&said_offline);
    if !contradicted.is_empty() {
        tree.note(format!(
            "left out, as their own files say offline although {CPU_FOLDER}/online lists them: {}",
            contradicted.named()
        ));
    }
    let without_folder = listed.difference(folders);
    if !without_folder.is_empty() {
        tree.note(format!(
            "in {CPU_FOLDER}/online, but without a folder of their own: {}",
            without_folder.named()
        ));
    }
    listed.difference(&contradicted)
}

/// The physical core of each online CPU, named by the core's lowest online CPU.
///
/// The sources, best first: `core_cpus_list`, `thread_siblings_list` (its older name), the same two as masks. Where a
/// CPU has none, CPUs with the same package, node and `core_id` are one core; the node is needed because cores of one
/// package may share a `core_id`.
fn read_cores(
    tree: &mut Tree<'_>,
    online: &CpuSet,
    packages: &BTreeMap<CpuId, i64>,
    node_of: &BTreeMap<CpuId, NodeId>,
) -> BTreeMap<CpuId, CpuId> {
    // A forest over the CPUs: each points to a lower CPU of its core, or to itself.
    let mut core_of: BTreeMap<CpuId, CpuId> = online.iter().map(|cpu| (cpu, cpu)).collect();
    let mut without_siblings = CpuSet::new();
    for cpu in online.iter() {
        let siblings = read_siblings(tree, cpu).map(|siblings| siblings.intersection(online));
        match siblings.filter(|siblings| siblings.contains(cpu)) {
            Some(siblings) => join_cores(&mut core_of, cpu, siblings.first().unwrap_or(cpu)),
            None => _ = without_siblings.insert(cpu),
        }
    }
    if !without_siblings.is_empty() {
        let core_ids = tree.number_of_each(&without_siblings, "topology/core_id");
        let mut first_with: BTreeMap<(i64, Option<NodeId>, i64), CpuId> = BTreeMap::new();
        let mut alone = CpuSet::new();
        for cpu in without_siblings.iter() {
            match (packages.get(&cpu), core_ids.get(&cpu)) {
                (Some(package), Some(core_id)) => {
                    let first = first_with
                        .entry((*package, node_of.get(&cpu).copied(), *core_id))
                        .or_insert(cpu);
                    join_cores(&mut core_of, cpu, *first);
                }
                _ => _ = alone.insert(cpu),
            }
        }
        let by_core_id = without_siblings.difference(&alone);
        if !by_core_id.is_empty() {
            tree.note(format!(
                "grouped into cores by package, node and core_id for want of a list of SMT siblings: {}",
                by_core_id.named()
            ));
        }
        if !alone.is_empty() {
            tree.note(format!(
                "counted as a core of its own each, with neither SMT siblings nor core_id recorded: {}",
                alone.named()
            ));
        }
    }
    online.iter().map(|cpu| (cpu, core_root(&core_of, cpu))).collect()
}

fn read_siblings(tree: &mut Tree<'_>, cpu: CpuId) -> Option<CpuSet> {
    let list = ["topology/core_cpus_list", "topology/thread_siblings_list"];
    let mask = ["topology/core_cpus", "topology/thread_siblings"];
    let from_list = list.into_iter().find_map(|name| tree.list(&of_cpu(cpu, name)));
    from_list.or_else(|| mask.into_iter().find_map(|name| tree.mask(&of_cpu(cpu, name))))
}

fn core_root(core_of: &BTreeMap<CpuId, CpuId>, mut cpu: CpuId) -> CpuId {
    while core_of[&cpu] != cpu {
        cpu = core_of[&cpu];
    }
    cpu
}

fn join_cores(core_of: &mut BTreeMap<CpuId, CpuId>, one: CpuId, other: CpuId) {
    let (one, other) = (core_root(core_of, one), core_root(core_of, other));
    core_of.insert(one.max(other), one.min(other));
}

/// The NUMA nodes with their online CPUs. Each node's CPUs come from `cpulist`, else `cpumap`, else its entries cpuN.
fn read_nodes(tree: &mut Tree<'_>, online: &CpuSet, usable: &CpuSet) -> Vec<Node> {
    let folders: BTreeSet<NodeId> = tree
        .numbered_entries(NODE_FOLDER, "node")
        .into_iter()
        .filter_map(NodeId::new)
        .collect();
    if folders.is_empty() {
        tree.note(format!(
            "{NODE_FOLDER} has no nodes: the machine is treated as one node"
        ));
        return Vec::new();
    }
    let listed = tree
        .nodes_in(&format!("{NODE_FOLDER}/online"))
        .filter(|listed| !listed.is_empty());
    let listed = listed.unwrap_or_else(|| folders.clone());
    let memory_allowed = read_allowed_memory(tree);
    let mut nodes = Vec::new();
    let mut without_memory = Vec::new();
    for id in folders {
        if !listed.contains(&id) {
            tree.note(format!("node {id} is not in {NODE_FOLDER}/online: ignored"));
            continue;
        }
        let folder = format!("{NODE_FOLDER}/node{id}");
        let cpus = tree
            .list(&format!("{folder}/cpulist"))
            .or_else(|| tree.mask(&format!("{folder}/cpumap")));
        let cpus = cpus.unwrap_or_else(|| {
            tree.note(format!(
                "{folder} has neither a usable cpulist nor cpumap: took its entries named cpuN"
            ));
            tree.numbered_entries(&folder, "cpu")
                .into_iter()
                .filter_map(CpuId::new)
                .collect()
        });
        let cpus = cpus.intersection(online);
        if cpus.is_empty() {
            tree.note(format!("node {id} has no online CPUs: ignored"));
        }
        let memory_allowed = memory_allowed.as_ref().is_none_or(|allowed| allowed.contains(&id));
        if !memory_allowed && !cpus.intersection(usable).is_empty() {
            without_memory.push(id.to_string());
        }
        nodes.push(Node {
            id,
            cpus,
            memory_allowed,
        });
    }
    if !without_memory.is_empty() {
        tree.note(format!(
            "the cpuset allows CPUs, but not memory, of these nodes, so threads there use memory of others: {}",
            without_memory.join(",")
        ));
    }
    nodes
}

fn node_of_each_cpu(tree: &mut Tree<'_>, nodes: &[Node], online: &CpuSet) -> BTreeMap<CpuId, NodeId> {
    let mut node_of = BTreeMap::new();
    let mut in_several = CpuSet::new();
    for node in nodes {
        for cpu in node.cpus.iter() {
            if *node_of.entry(cpu).or_insert(node.id) != node.id {
                in_several.insert(cpu);
            }
        }
    }
    if !in_several.is_empty() {
        tree.note(format!(
            "listed in several nodes, counted in the lowest of them: {}",
            in_several.named()
        ));
    }
    let in_none = online.difference(&node_of.keys().copied().collect());
    if !nodes.is_empty() && !in_none.is_empty() {
        tree.note(format!("in no node: {}", in_none.named()));
    }
    node_of
}

/// The CPUs of slow cores, empty where the cores are equal. The first source that covers all online CPUs decides:
/// the kernel's own division (cpu_core and cpu_atom, Intel), cpu_capacity (Arm), CPPC's highest_perf, then frequencies.
fn read_slow_cpus(tree: &mut Tree<'_>, online: &CpuSet) -> CpuSet {
    let fast = tree
        .list("sys/devices/cpu_core/cpus")
        .unwrap_or_default()
        .intersection(online);
    let atom = tree
        .list("sys/devices/cpu_atom/cpus")
        .unwrap_or_default()
        .intersection(online);
    if !fast.is_empty() && !atom.is_empty() {
        // Not `atom` itself: low-power efficiency cores may have a folder of their own.
        return online.difference(&fast);
    }
    let sources = [
        ("cpu_capacity", SLOW_BELOW_OF_PERFORMANCE),
        ("acpi_cppc/highest_perf", SLOW_BELOW_OF_PERFORMANCE),
        ("cpufreq/cpuinfo_max_freq", SLOW_BELOW_OF_FREQUENCY),
        ("cpufreq/base_frequency", SLOW_BELOW_OF_FREQUENCY),
    ];
    for (name, (numerator, denominator)) in sources {
        let speeds = tree.number_of_each(online, name);
        let speeds: BTreeMap<CpuId, u128> = speeds
            .into_iter()
            .filter(|(_, speed)| *speed > 0)
            .map(|(cpu, speed)| (cpu, speed as u128))
            .collect();
        let known: CpuSet = speeds.keys().copied().collect();
        if known.is_empty() {
            continue;
        }
        let unknown = online.difference(&known);
        if !unknown.is_empty() {
            tree.note(format!(
                "{name} does not tell fast cores from slow ones, as it is missing or unusable for {}",
                unknown.named()
            ));
            continue;
        }
        let fastest = speeds.values().copied().max().unwrap_or(0);
        let slow = speeds
            .into_iter()
            .filter(|(_, speed)| speed * u128::from(denominator) < fastest * u128::from(numerator));
        return slow.map(|(cpu, _)| cpu).collect();
    }
    tree.note(
        "nothing says how fast each core is (cpu_capacity, acpi_cppc, cpufreq): they are treated as equal".to_owned(),
    );
    CpuSet::new()
}

/// The CPUs that the root's process may use: its status file's mask, else its cpuset. `None`, with a note, if neither
/// is there.
fn read_allowed_cpus(tree: &mut Tree<'_>) -> Option<CpuSet> {
    let recorded = tree.status_field("Cpus_allowed_list").and_then(|list| {
        tree.parsed("proc/self/status (Cpus_allowed_list)", CpuSet::parse_list(&list))
            .filter(|cpus| !cpus.is_empty())
    });
    if recorded.is_some() {
        return recorded;
    }
    let cpuset = cpuset_file(
        tree,
        &[
            "cpuset.cpus.effective",
            "cpuset.effective_cpus",
            "effective_cpus",
            "cpuset.cpus",
            "cpus",
        ],
    );
    let from_cpuset = cpuset.and_then(|path| tree.list(&path)).filter(|cpus| !cpus.is_empty());
    if from_cpuset.is_none() {
        tree.note(
            "no usable record of the CPUs allowed to the process (proc/self/status, cpuset): took all online ones"
                .to_owned(),
        );
    }
    from_cpuset
}

/// The nodes whose memory the root's process may use; `None` if that is not recorded.
fn read_allowed_memory(tree: &mut Tree<'_>) -> Option<BTreeSet<NodeId>> {
    let recorded = tree
        .status_field("Mems_allowed_list")
        .and_then(|list| tree.parsed("proc/self/status (Mems_allowed_list)", cpu_set::parse_node_list(&list)));
    let nodes = recorded.or_else(|| {
        let names = [
            "cpuset.mems.effective",
            "cpuset.effective_mems",
            "effective_mems",
            "cpuset.mems",
            "mems",
        ];
        cpuset_file(tree, &names).and_then(|path| tree.nodes_in(&path))
    });
    nodes.filter(|nodes| !nodes.is_empty())
}

/// The path below the root of the first non-empty of these files of the process's cpuset (cgroup 2, cgroup 1 or the old
/// cpuset file system). A path that leads upwards (`..`, as a process outside its namespace's root sees) is not
/// followed.
fn cpuset_file(tree: &mut Tree<'_>, names: &[&str]) -> Option<String> {
    let cpuset = tree.text("proc/self/cpuset")?;
    let cpuset = cpuset.trim().trim_matches('/');
    let mounts = tree.text("proc/mounts")?;
    for mount in mounts.lines() {
        let mut fields = mount.split_ascii_whitespace();
        let (Some(_device), Some(folder), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let holds_cpusets = matches!(kind, "cpuset" | "cgroup2")
            || (kind == "cgroup" && options.split(',').any(|option| option == "cpuset"));
        if !holds_cpusets
            || Path::new(folder)
                .components()
                .chain(Path::new(cpuset).components())
                .any(is_upwards)
        {
            continue;
        }
        for name in names {
            let path = format!("{}/{cpuset}/{name}", folder.trim_matches('/'));
            if tree.text(&path).is_some_and(|text| !text.trim().is_empty()) {
                return Some(path);
            }
        }
    }
    None
}

fn is_upwards(component: std::path::Component<'_>) -> bool {
    component == std::path::Component::ParentDir
}

fn note_missing(tree: &mut Tree<'_>, online: &CpuSet, known: &BTreeMap<CpuId, i64>, name: &str, outcome: &str) {
    let missing = online.difference(&known.keys().copied().collect());
    if !missing.is_empty() {
        tree.note(format!(
            "{name} is missing or unusable, so {outcome}: {}",
            missing.named()
        ));
    }
}

fn of_cpu(cpu: CpuId, name: &str) -> String {
    format!("{CPU_FOLDER}/cpu{cpu}/{name}")
}

/// The files under a root, and the notes on what was wrong with them. Paths are relative to the root.
struct Tree<'root> {
    root: &'root Path,
    notes: Vec<String>,
    notes_dropped: usize,
}

impl Tree<'_> {
    fn note(&mut self, note: String) {
        if self.notes.contains(&note) {
            return;
        }
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        } else {
            self.notes_dropped += 1;
        }
    }

    fn into_notes(mut self) -> Vec<String> {
        if self.notes_dropped > 0 {
            self.notes
                .push(format!("{} more notes are left out", self.notes_dropped));
        }
        self.notes
    }

    /// A file's text; `None` if it is missing, and with a note if it cannot be read.
    fn text(&mut self, path: &str) -> Option<String> {
        match read_bounded(&self.root.join(path)) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => {
                self.note(format!("{path} cannot be read ({error}): ignored"));
                None
            }
        }
    }

    fn parsed<Value>(&mut self, path: &str, result: Result<Value, String>) -> Option<Value> {
        result.map_err(|why| self.note(format!("{path}: {why}: ignored"))).ok()
    }

    fn list(&mut self, path: &str) -> Option<CpuSet> {
        let text = self.text(path)?;
        self.parsed(path, CpuSet::parse_list(&text))
    }

    fn mask(&mut self, path: &str) -> Option<CpuSet> {
        let text = self.text(path)?;
        self.parsed(path, CpuSet::parse_mask(&text))
    }

    fn nodes_in(&mut self, path: &str) -> Option<BTreeSet<NodeId>> {
        let text = self.text(path)?;
        self.parsed(path, cpu_set::parse_node_list(&text))
    }

    fn number(&mut self, path: &str) -> Option<i64> {
        let text = self.text(path)?;
        let number = text.trim().parse::<i64>();
        self.parsed(
            path,
            number.map_err(|_| format!("{} is not a number", cpu_set::excerpt(text.trim()))),
        )
    }

    /// A numeric attribute of each of these CPUs that has it.
    fn number_of_each(&mut self, cpus: &CpuSet, name: &str) -> BTreeMap<CpuId, i64> {
        cpus.iter()
            .filter_map(|cpu| Some((cpu, self.number(&of_cpu(cpu, name))?)))
            .collect()
    }

    /// The text after `name:` in proc/self/status.
    fn status_field(&mut self, name: &str) -> Option<String> {
        let status = self.text("proc/self/status")?;
        status.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')
                .map(|value| value.trim().to_owned())
        })
    }

    /// The numbers N of a folder's entries that are named prefix and N.
    fn numbered_entries(&mut self, folder: &str, prefix: &str) -> BTreeSet<u32> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
            .collect()
    }
}

/// A regular file's bytes; an error if it is longer than [`FILE_BYTES_MAX`]. Anything else is refused, as opening a
/// pipe would wait for ever.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
