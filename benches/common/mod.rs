//! What the benches of channel, engine, server and collections share: criterion's set-up, and latencies, of which
//! criterion itself reports only the mean.

use criterion::Criterion;
use hdrhistogram::Histogram;
use std::time::Duration;

/// The longest latency that is told apart, in nanoseconds: 10 s, the time after which the benches give up waiting.
/// Longer ones are counted as this long.
const LATENCY_NS_MAX: u64 = 10_000_000_000;

/// Digits of a latency that are kept: 0.1 % is less than two runs differ by.
const LATENCY_DIGITS: u8 = 3;

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

/// Latencies in nanoseconds.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// No latencies yet.
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS);
        Latencies(histogram.expect("the bounds are constants that a histogram can have"))
    }

    /// Counts one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts the latencies that another thread has recorded.
    pub(crate) fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }
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
        for (case, Latencies(histogram)) in &self.cases {
            let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            let (p50, p99, count) = (us(0.5), us(0.99), histogram.len());
            let max = us(1.0);
            println!("{case:<52} p50 {p50:>10.2} µs   p99 {p99:>10.2} µs   max {max:>10.2} µs   of {count}");
        }
    }
}
