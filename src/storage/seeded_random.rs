//! Random numbers for unit tests that can be run again with what they printed.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Begins with the seed in `CORELANE_SEED`, or with another each time, and prints it.
pub(crate) fn printed() -> StdRng {
    let seed = match std::env::var("CORELANE_SEED") {
        Ok(seed) => seed.parse().expect("CORELANE_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("again with CORELANE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
