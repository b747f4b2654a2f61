//! Commands whose keys lie on several shards: one point in time for all who look, and all or nothing after a crash.

#[cfg(feature = "fault-injection")]
mod crashes;
#[cfg(feature = "fault-injection")]
mod failing_disks;
mod isolation;
mod waiting;

use crate::harness::client::Client;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::key_on;

pub(crate) const SHARDS: u16 = 4;

/// A key on each shard, whose names begin with `prefix`.
pub(crate) fn key_per_shard(prefix: &str) -> Vec<String> {
    (0..SHARDS).map(|shard| key_on(shard, SHARDS, prefix)).collect()
}

/// Flags for four shards on one executor, where a transaction meets nobody and has its redo record all the same.
pub(crate) fn one_executor() -> String {
    let cpu = allowed_cpus()[0];
    format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu}")
}

/// Runs a command given as words separated by blanks.
pub(crate) fn run(client: &mut Client, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

/// MSET of the same value for all `keys`.
fn mset<'a>(keys: &'a [String], value: &'a str) -> Vec<&'a str> {
    std::iter::once("MSET")
        .chain(keys.iter().flat_map(|key| [key.as_str(), value]))
        .collect()
}

fn mget(keys: &[String]) -> Vec<&str> {
    std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect()
}
