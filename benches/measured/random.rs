//! Random numbers that are cheap and the same in each run, uniform and of a Zipf distribution.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, each as likely (to 2^-64 × `bound`).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 to below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

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
        let share = random.share();
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
