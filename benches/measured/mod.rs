//! What the benches that measure whole servers share: comparison, larger_than_memory, recovery, one_client
//! and memory_per_item.
//!
//! Why not criterion: a server that defers work answers fast and pays later. These benches count a server's CPU time
//! until its background work is idle, show the slowest second of a long run, and let two servers take turns.
#![allow(dead_code)] // Each bench is a crate of its own and uses a part of this.

pub(crate) mod control_group;
pub(crate) mod device;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod options;
pub(crate) mod random;
pub(crate) mod replies;
pub(crate) mod servers;
pub(crate) mod system_calls;
pub(crate) mod template;

#[path = "../common/cpus.rs"]
mod cpus;
#[path = "../common/latencies.rs"]
mod latencies;

pub(crate) use latencies::Latencies;

pub(crate) const MIB: u64 = 1 << 20;

/// The quantiles that a table shows: p50, p99 and p99.9, in whole microseconds.
pub(crate) fn shown_latencies(latencies: &Latencies) -> String {
    let quantiles = [0.5, 0.99, 0.999].map(|share| format!("{:.0}", latencies.quantile_us(share)));
    quantiles.join(", ")
}

/// The one in the middle; of two, the higher.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
