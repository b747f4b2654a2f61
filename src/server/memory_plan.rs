//! How `memory-size` is shared out: it is to bound all that the process takes for data, so that what is counted must be
//! less than it.

use crate::config::{AutoOr, ByteSize, Settings};
use crate::storage::executor_log::LogBounds;
use crate::topology::usable_memory_bytes;

/// `memory-size` by itself, in hundredths of what the process may use: the rest is for the page cache, clients, scripts
/// and other programs.
const AUTO_PERCENT: u64 = 40;

/// The part of it that is for RocksDB's blocks, and the least that a cache can be made of.
const BLOCK_CACHE_DIVISOR: u64 = 8;
const BLOCK_CACHE_BYTES_MIN: u64 = 1 << 20;

/// What a server takes in any case: its program, threads, rings, buffers, and what a checkpoint and compactions have in
/// hand.
const SERVER_BYTES: u64 = 144 << 20;

/// What is counted as data, in hundredths of what it may take: allocators round up and keep holes, and tables of hashes
/// have free places.
const COUNTED_PERCENT: u64 = 65;

/// What small sizes leave for data at the least.
const DATA_DIVISOR_MAX: u64 = 8;

/// The part of the data that may wait for RocksDB beside the half that collections may have: all may be what waits.
const UNCLEAN_DIVISOR: usize = 2;

/// As much may wait in any case, since otherwise nothing could be written.
const UNCLEAN_BYTES_MIN: usize = 32 << 20;

/// What `log-size-max` is by itself: some seconds of writing, and of reading it back at a start; less where memory has
/// no room for what a long log says.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=512 << 20;
const LOG_DIVISOR: u64 = 4;

/// Who may have how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryPlan {
    /// The records and collections of a shard.
    pub(super) shard_bytes: usize,
    pub(super) block_cache_bytes: usize,
    /// The log of an executor, on disk.
    log_bytes: u64,
}

impl MemoryPlan {
    pub(super) fn of(settings: &Settings, shard_count: usize) -> MemoryPlan {
        let bytes_or = |size: AutoOr<ByteSize>, auto: u64| match size {
            AutoOr::Auto => auto,
            AutoOr::Is(size) => size.bytes(),
        };
        let all = bytes_or(settings.memory_size, usable_memory_bytes() / 100 * AUTO_PERCENT);
        let block_cache = bytes_or(settings.block_cache_size, all / BLOCK_CACHE_DIVISOR);
        let block_cache = block_cache.min(all).max(BLOCK_CACHE_BYTES_MIN);
        let for_data = all.saturating_sub(block_cache).saturating_sub(SERVER_BYTES);
        let data = (for_data / 100 * COUNTED_PERCENT).max(all / DATA_DIVISOR_MAX);
        let log = (all / LOG_DIVISOR).clamp(*LOG_BYTES.start(), *LOG_BYTES.end());
        MemoryPlan {
            shard_bytes: data as usize / shard_count,
            block_cache_bytes: block_cache as usize,
            log_bytes: bytes_or(settings.log_size_max, log),
        }
    }

    /// The bounds of the log of an executor with so many shards.
    pub(super) fn log_bounds(self, shard_count: usize) -> LogBounds {
        LogBounds {
            size_max: self.log_bytes,
            unclean_bytes_max: (self.shard_bytes * shard_count / UNCLEAN_DIVISOR).max(UNCLEAN_BYTES_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(memory_size: u64, shard_count: usize) -> MemoryPlan {
        let settings = Settings {
            memory_size: AutoOr::Is(ByteSize(memory_size)),
            ..Settings::default()
        };
        MemoryPlan::of(&settings, shard_count)
    }

    #[test]
    fn all_parts_together_are_within_the_size() {
        for memory_size in [512 << 20, 1 << 30, 24 << 30, 1 << 40] {
            for shards in [1, 3, 64] {
                let plan = plan(memory_size, shards);
                let data = (plan.shard_bytes * shards) as u64;
                assert!(data > memory_size / 4, "{plan:?}");
                assert!(
                    data * 100 / COUNTED_PERCENT + plan.block_cache_bytes as u64 <= memory_size,
                    "{plan:?}"
                );
            }
        }
    }

    #[test]
    fn blocks_have_no_more_than_there_is() {
        let settings = Settings {
            memory_size: AutoOr::Is(ByteSize(1 << 30)),
            block_cache_size: AutoOr::Is(ByteSize(1 << 40)),
            ..Settings::default()
        };
        assert_eq!(MemoryPlan::of(&settings, 1).block_cache_bytes, 1 << 30);
    }

    #[test]
    fn a_size_of_nothing_leaves_room_for_what_waits() {
        let plan = plan(0, 2);
        assert_eq!(
            (plan.shard_bytes, plan.block_cache_bytes as u64),
            (0, BLOCK_CACHE_BYTES_MIN)
        );
        let bounds = plan.log_bounds(2);
        assert_eq!(
            (bounds.size_max, bounds.unclean_bytes_max),
            (64 << 20, UNCLEAN_BYTES_MIN)
        );
    }
}
