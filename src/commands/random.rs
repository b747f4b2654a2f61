//! Random numbers for handlers, drawn from the one seed that each command gets, so that a command run again draws the same.

use std::collections::BTreeSet;

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

#[cfg(test)]
mod tests {
    use super::*;

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
