//! Latencies as a histogram, and what is read from it.

use hdrhistogram::Histogram;
use std::time::Duration;

/// The longest latency that is told apart, in nanoseconds: 10 s, the time after which the benches give up waiting.
/// Longer ones are counted as this long.
const LATENCY_NS_MAX: u64 = 10_000_000_000;

/// Digits of a latency that are kept: 0.1 % is less than two runs differ by.
const LATENCY_DIGITS: u8 = 3;

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

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in microseconds that this share of all (0 to 1) does not exceed.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1000.0
    }
}
