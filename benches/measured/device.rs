//! How many random reads per second the device under a directory gives: what cold reads are to be compared with.

use super::MIB;
use super::random::Random;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read, and what its offset and its memory are aligned to.
pub(crate) const READ_BYTES: usize = 4096;

/// A file of random bytes, which is removed when this is dropped.
pub(crate) struct Device {
    path: PathBuf,
    blocks: u64,
}

impl Drop for Device {
    fn drop(&mut self) {
        // It lies in a temporary directory, which goes as a whole.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Device {
    /// Writes a file of so many bytes, on the device when this returns.
    pub(crate) fn prepare(directory: &Path, bytes: u64) -> Device {
        let path = directory.join("random-reads");
        let mut file = File::create(&path).expect("the directory can be written");
        let mut random = Random::new(1);
        for _ in 0..bytes.div_ceil(MIB) {
            let numbers = (0..MIB / 8).map(|_| random.below(u64::MAX).to_ne_bytes());
            let chunk: Vec<u8> = numbers.flatten().collect();
            file.write_all(&chunk).expect("the disk has room");
        }
        file.sync_all().expect("the file can be synced");
        Device {
            path,
            blocks: bytes.div_ceil(MIB) * MIB / READ_BYTES as u64,
        }
    }

    /// Reads per second with so many readers; none where the page cache cannot be passed by.
    pub(crate) fn reads_per_second(&self, readers: usize, duration: Duration) -> Option<f64> {
        let open = || {
            OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&self.path)
        };
        let files: Vec<File> = (0..readers).map(|_| open().ok()).collect::<Option<_>>()?;
        let began = Instant::now();
        let reads: u64 = thread::scope(|scope| {
            let threads: Vec<_> = files
                .iter()
                .enumerate()
                .map(|(seed, file)| scope.spawn(move || self.read(file, seed as u64, began + duration)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("the file can be read"))
                .sum()
        });
        Some(reads as f64 / began.elapsed().as_secs_f64())
    }

    /// Reads one block after the other; how many until `end`.
    fn read(&self, file: &File, seed: u64, end: Instant) -> u64 {
        let mut memory = vec![0u8; 2 * READ_BYTES];
        let aligned = memory.as_ptr().align_offset(READ_BYTES);
        let block = &mut memory[aligned..aligned + READ_BYTES];
        let mut random = Random::new(seed + 2);
        let mut reads = 0;
        while Instant::now() < end {
            let offset = random.below(self.blocks) * READ_BYTES as u64;
            file.read_exact_at(block, offset).expect("the block can be read");
            reads += 1;
        }
        reads
    }
}
