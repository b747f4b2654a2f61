//! What the benches of channel, engine, server and collections share: criterion's set-up, and latencies, of which
//! criterion itself reports only the mean.

mod latencies;

pub(crate) use latencies::Latencies;

use criterion::Criterion;
use std::time::Duration;

/// Samples per case and time per sample: every case has to start and stop threads, messages or servers that are warm
/// soon, and all cases of a file should take a few minutes. `--sample-size`, `--warm-up-time` and `--measurement-time`
/// override it.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

/// The latencies of every case that was run, warm-up included.
#[derive(Default)]
pub(crate) struct LatencyTable {
    cases: Vec<(String, Latencies)>,
}

impl LatencyTable {
    /// Adds to the latencies of a case.
    pub(crate) fn add(&mut self, case: &str, latencies: &Latencies) {
        match self.cases.iter_mut().find(|(name, _)| name == case) {
            Some((_, known)) => known.add(latencies),
            None => {
                let mut first = Latencies::new();
                first.add(latencies);
                self.cases.push((case.to_owned(), first));
            }
        }
    }

    /// Prints a line per case: p50, p99 and the longest in microseconds.
    pub(crate) fn print(&self) {
        for (case, latencies) in &self.cases {
            let (p50, p99) = (latencies.quantile_us(0.5), latencies.quantile_us(0.99));
            let (max, count) = (latencies.quantile_us(1.0), latencies.count());
            println!("{case:<52} p50 {p50:>10.2} µs   p99 {p99:>10.2} µs   max {max:>10.2} µs   of {count}");
        }
    }
}
