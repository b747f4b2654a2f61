//! Random numbers for handlers, drawn from the one seed that each command gets, so that a command run again draws the
//! same.

use std::collections::{BTreeSet, HashMap};

/// A generator of uniform 64-bit numbers.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
pub struct Random(u64);

impl Random {
    /// A generator that begins at [`super::Context::seed`].
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0. Some come up more often than others by one part in 2^64 / `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// `count` different numbers below `bound`, in order; each such choice is equally likely.
    ///
    /// Source: Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn sample(&mut self, count: u64, bound: u64) -> BTreeSet<u64> {
        assert!(count <= bound, "a sample is no larger than what it is taken from");
        let mut chosen = BTreeSet::new();
        for last in bound - count..bound {
            let number = self.below(last + 1);
            if !chosen.insert(number) {
                chosen.insert(last);
            }
        }
        chosen
    }
}

/// The numbers below a bound in random order, each once, for when it shows only later how many are needed: Fisher and
/// Yates's shuffle, of which only what has moved is kept, so a few of many numbers cost no more than themselves.
pub struct Shuffled {
    bound: u64,
    left: u64,
    moved: HashMap<u64, u64, foldhash::fast::RandomState>,
    random: Random,
}

impl Shuffled {
    /// The numbers below `bound`, in an order that follows from [`super::Context::seed`].
    pub fn new(bound: u64, seed: u64) -> Shuffled {
        Shuffled {
            bound,
            left: bound,
            moved: HashMap::default(),
            random: Random::new(seed),
        }
    }

    /// Puts back what was drawn; the next order is another one.
    pub fn begin_again(&mut self) {
        self.left = self.bound;
        self.moved.clear();
    }
}

impl Iterator for Shuffled {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let last = self.left.checked_sub(1)?;
        let index = self.random.below(self.left);
        let drawn = self.moved.get(&index).copied().unwrap_or(index);
        let kept = self.moved.remove(&last).unwrap_or(last);
        if index != last {
            self.moved.insert(index, kept);
        }
        self.left = last;
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_numbers_come_once_each_and_every_order_comes_as_often() {
        let mut times: HashMap<Vec<u64>, u32> = HashMap::new();
        let mut shuffled = Shuffled::new(4, 7);
        for _ in 0..24_000 {
            shuffled.begin_again();
            *times.entry(shuffled.by_ref().collect()).or_default() += 1;
        }
        assert_eq!(times.len(), 24, "all orders of four numbers");
        for (order, times) in times {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
            // Six standard deviations (of 31) around 1000.
            assert!((814..1186).contains(&times), "{order:?} came {times} times");
        }
        assert_eq!(Shuffled::new(0, 7).next(), None);
    }

    #[test]
    fn random_ranks_are_below_their_bound_and_different_where_asked() {
        let mut random = Random::new(7);
        let mut seen = [0; 5];
        (0..5000).for_each(|_| seen[random.below(5) as usize] += 1);
        assert!(seen.iter().all(|times| (800..1200).contains(times)), "{seen:?}");
        for count in 0..20 {
            let distinct: BTreeSet<u64> = Shuffled::new(20, count).take(count as usize).collect();
            assert_eq!(distinct.len() as u64, count);
            assert!(distinct.iter().all(|rank| *rank < 20));
        }
    }

    #[test]
    fn every_number_comes_up_about_as_often() {
        let mut random = Random::new(7);
        let mut drawn = [0; 10];
        for _ in 0..10_000 {
            drawn[random.below(10) as usize] += 1;
        }
        assert!(drawn.iter().all(|times| (900..1100).contains(times)), "{drawn:?}");
    }

    #[test]
    fn a_sample_has_as_many_different_numbers_as_asked_for_and_favours_none() {
        let mut random = Random::new(7);
        let mut drawn = [0; 10];
        for _ in 0..10_000 {
            let sample = random.sample(3, 10);
            assert_eq!(sample.len(), 3);
            sample.iter().for_each(|number| drawn[*number as usize] += 1);
        }
        assert!(drawn.iter().all(|times| (2800..3200).contains(times)), "{drawn:?}");
        assert_eq!(random.sample(5, 5), BTreeSet::from([0, 1, 2, 3, 4]));
        assert!(random.sample(0, 5).is_empty());
    }
}
