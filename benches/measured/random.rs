//! Random numbers that are cheap and the same in each run, uniform and of a Zipf distribution.

pub(crate) use corelane::commands::random::Random;

/// Equal parts into which 0 to 1 is cut for a draw: those that a float of 64 bits tells apart.
const SHARES: u64 = 1 << 53;

/// The exponent of the distribution, as in YCSB's workloads.
const ZIPF_EXPONENT: f64 = 0.99;

/// Numbers below a bound of which few are drawn often: Gray et al., "Quickly generating billion-record synthetic
/// databases", SIGMOD 1994, as YCSB has it. The often drawn ones are spread over all.
#[derive(Clone)]
pub(crate) struct Zipf {
    count: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    stride: u64,
}

impl Zipf {
    /// For numbers below `count`.
    pub(crate) fn new(count: u64) -> Zipf {
        let zeta_of = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT)).sum::<f64>();
        let zeta = zeta_of(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - zeta_of(2) / zeta);
        Zipf {
            count,
            zeta,
            alpha: 1.0 / (1.0 - ZIPF_EXPONENT),
            eta,
            stride: stride(count),
        }
    }

    /// One number.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let share = random.below(SHARES) as f64 / SHARES as f64;
        let scaled = share * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5f64.powf(ZIPF_EXPONENT) {
            1
        } else {
            (self.count as f64 * (self.eta * share - self.eta + 1.0).powf(self.alpha)) as u64
        };
        ((u128::from(rank.min(self.count - 1)) * u128::from(self.stride)) % u128::from(self.count)) as u64
    }
}

/// A step that, taken again and again around `count` numbers, comes to each: the first one above the golden section
/// that has no divisor in common with `count`.
fn stride(count: u64) -> u64 {
    let first = (count as f64 * 0.618_034) as u64 + 1;
    let divisor = |mut left: u64, mut right: u64| {
        while right > 0 {
            (left, right) = (right, left % right);
        }
        left
    };
    (first..).find(|step| divisor(*step, count) == 1).unwrap_or(1)
}
