//! What `corelane cores` prints: the map that the server would use, and why.

use std::path::Path;

use serde::Serialize;

use super::core_map::{CoreMap, ExecutorPlacement, RoleReasons};
use super::cpu_set::{CpuId, CpuSet, NodeId};
use super::overrides::{CoreMapOverrides, Role};
use super::{CoreKind, Topology, TopologyError, default_shard_count};

const HEADINGS: [&str; 6] = ["CPU", "core", "package", "node", "kind", "role"];

/// The text of `corelane cores`: a table with a row per present CPU (`core` is the lowest CPU of the same physical
/// core, `-` stands for unknown or unused), then each role with its reasons, then the notes of the topology.
pub fn describe(topology: &Topology, map: &CoreMap) -> String {
    let is_hybrid = topology.cpus.iter().any(|cpu| cpu.kind == CoreKind::Slow);
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report(topology, map).cpus.into_iter().map(|cpu| {
        [
            cpu.cpu.to_string(),
            or_dash(cpu.core),
            or_dash(cpu.package),
            or_dash(cpu.node),
            match cpu.kind {
                Some(_) if !is_hybrid => "equal".to_owned(),

                Some(CoreKind::Fast) => "fast".to_owned(),
                Some(CoreKind::Slow) => "slow".to_owned(),
                None => "-".to_owned(),
            },
            match (cpu.roles.as_slice(), cpu.state) {
                ([], CpuState::Usable) => "-".to_owned(),
                ([], CpuState::Forbidden) => "(not allowed)".to_owned(),
                ([], CpuState::Offline) => "(offline)".to_owned(),
                (roles, _) => roles.join(" + "),
            },
        ]
    }));
    let mut text = aligned(&rows);
    let roles = [
        (Role::Network, &map.network, &map.reasons.network),
        (Role::Storage, &map.storage, &map.reasons.storage),
        (Role::Background, &map.background, &map.reasons.background),
    ];
    for (role, cpus, reasons) in roles {
        let cpus: CpuSet = cpus.iter().copied().collect();
        text.push_str(&format!("\n{role}: {}\n", cpus.named()));
        reasons
            .iter()
            .for_each(|reason| text.push_str(&format!("  {reason}\n")));
    }
    text.push_str(&format!(
        "\nshards of a new data directory: {}\n",
        default_shard_count(topology)
    ));
    if !topology.notes.is_empty() {
        text.push_str("\nnotes\n");
        topology
            .notes
            .iter()
            .for_each(|note| text.push_str(&format!("  {note}\n")));
    }
    text
}

/// The description as one JSON object, for programs. The fields, which [`Report`] lists, are never renamed or removed.
pub fn describe_json(topology: &Topology, map: &CoreMap) -> String {
    let mut text = serde_json::to_string_pretty(&report(topology, map)).expect("a report has string keys only");
    text.push('\n');
    text
}

/// The whole of `corelane cores [--sysfs ROOT] [--json]` but for the printing. Without `sysfs` it is about this machine
/// and what the calling thread may use; with it, about the machine recorded there and what that recording allows.
pub fn cores_command(sysfs: Option<&Path>, overrides: &CoreMapOverrides, json: bool) -> Result<String, TopologyError> {
    let topology = match sysfs {
        Some(root) => Topology::read(root, None)?,
        None => Topology::read_live()?,
    };
    let map = CoreMap::with_overrides(&topology, overrides)?;
    Ok(if json {
        describe_json(&topology, &map)
    } else {
        describe(&topology, &map)
    })
}

/// What `corelane cores --json` prints.
#[derive(Serialize)]
struct Report<'map> {
    network: &'map [CpuId],
    storage: &'map [CpuId],
    background: &'map [CpuId],
    /// In the order of their indices.
    executors: Vec<ExecutorPlacement>,
    default_shard_count: u16,
    /// Every present CPU, ascending.
    cpus: Vec<CpuReport>,
    nodes: Vec<NodeReport>,
    reasons: &'map RoleReasons,
    notes: &'map [String],
}

/// A row of the table; unknown values are null.
#[derive(Serialize)]
struct CpuReport {
    cpu: CpuId,
    core: Option<CpuId>,
    package: Option<u32>,
    node: Option<NodeId>,
    kind: Option<CoreKind>,
    state: CpuState,
    roles: Vec<&'static str>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum CpuState {
    Usable,
    Forbidden,
    Offline,
}

#[derive(Serialize)]
struct NodeReport {
    node: NodeId,
    cpus: CpuSet,
    memory_allowed: bool,
}

fn report<'map>(topology: &'map Topology, map: &'map CoreMap) -> Report<'map> {
    let roles_of = |id: CpuId| {
        let lists = [
            (Role::Network, &map.network),
            (Role::Storage, &map.storage),
            (Role::Background, &map.background),
        ];
        lists
            .into_iter()
            .filter(|(_, cpus)| cpus.contains(&id))
            .map(|(role, _)| role.name())
            .collect()
    };
    let online = topology.cpus.iter().map(|cpu| CpuReport {
        cpu: cpu.id,
        core: Some(cpu.core),
        package: cpu.package,
        node: cpu.node,
        kind: Some(cpu.kind),
        state: if cpu.usable {
            CpuState::Usable
        } else {
            CpuState::Forbidden
        },
        roles: roles_of(cpu.id),
    });
    let offline = topology.offline.iter().map(|cpu| CpuReport {
        cpu,
        core: None,
        package: None,
        node: None,
        kind: None,
        state: CpuState::Offline,
        roles: Vec::new(),
    });
    let mut cpus: Vec<CpuReport> = online.chain(offline).collect();
    cpus.sort_by_key(|cpu| cpu.cpu);
    let nodes = topology.nodes.iter().map(|node| NodeReport {
        node: node.id,
        cpus: node.cpus.clone(),
        memory_allowed: node.memory_allowed,
    });
    Report {
        network: &map.network,
        storage: &map.storage,
        background: &map.background,
        executors: map.executors(),
        default_shard_count: default_shard_count(topology),
        cpus,
        nodes: nodes.collect(),
        reasons: &map.reasons,
        notes: &topology.notes,
    }
}

/// Rows as lines with columns of equal width, separated by two spaces, without spaces at the ends of lines.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn or_dash<Value: ToString>(value: Option<Value>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
