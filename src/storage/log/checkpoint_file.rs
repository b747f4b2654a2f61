//! The file `CHECKPOINT` of a log: the first segment that is still needed, since all before it is in RocksDB.
//! All numbers are little endian.
//!
//! ```text
//!  0  magic          8
//!  8  format         4
//! 12  executor       4
//! 16  directory      8
//! 24  generation     8
//! 32  first segment  4
//! 36  crc            4  CRC-32C of the 36 bytes above
//! ```

use super::frame::{u32_at, u64_at};
use super::log_disk::{is_damage, is_disk_full, replace_durably};
use super::log_position::LogIdentity;
use crc32c::crc32c;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "CHECKPOINT";

const MAGIC: [u8; 8] = *b"CORECHK\n";

/// The format that this version writes and reads.
const FORMAT: u32 = 1;

const FORMAT_AT: usize = 8;
const EXECUTOR_AT: usize = FORMAT_AT + 4;
const DIRECTORY_AT: usize = EXECUTOR_AT + 4;
const GENERATION_AT: usize = DIRECTORY_AT + 8;
const FIRST_SEGMENT_AT: usize = GENERATION_AT + 8;
const CRC_AT: usize = FIRST_SEGMENT_AT + 4;
const FILE_LEN: usize = CRC_AT + 4;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum CheckpointError {
    #[error("cannot read {path}: {error}; check the file's owner and mode")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("cannot write {path}: {error}; check the folder's owner, mode and free space")]
    Unwritable { path: PathBuf, error: io::Error },
    #[error(
        "{path} is damaged ({len} bytes whose checksum is wrong); restore the data directory from a backup, or copy it \
         and start once with --load-damaged-log yes to load all of the log"
    )]
    Damaged { path: PathBuf, len: usize },
    #[error("{path} has format {found}, and this version reads format {FORMAT}; use the version that wrote it")]
    OtherFormat { path: PathBuf, found: u32 },
    #[error(
        "{path} is the checkpoint of generation {}, executor {} of another place; restore the data directory from a \
         backup",
        found.generation, found.executor
    )]
    OtherLog { path: PathBuf, found: LogIdentity },
}

impl CheckpointError {
    /// Whether space was wanting: it may be there again later.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, CheckpointError::Unwritable { error, .. } if is_disk_full(error))
    }

    /// Whether the file is there and what it said is lost.
    pub fn is_damage(&self) -> bool {
        match self {
            CheckpointError::Damaged { .. } => true,
            CheckpointError::Unreadable { error, .. } => is_damage(error),
            _ => false,
        }
    }
}

/// What a durable `CHECKPOINT` says: segments before the first are not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    identity: LogIdentity,
    first_segment: u32,
}

impl Checkpoint {
    /// The first segment that recovery needs.
    pub fn first_segment(&self) -> u32 {
        self.first_segment
    }

    /// The log that it belongs to.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// Reads the checkpoint of the log in `folder`. Before the first checkpoint there is no file, and all segments from
    /// 1 on are needed.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or belongs to another log: nothing may be recovered then.
    pub fn read(folder: &Path, identity: LogIdentity) -> Result<Checkpoint, CheckpointError> {
        let path = folder.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Checkpoint {
                    identity,
                    first_segment: 1,
                });
            }
            Err(error) => return Err(CheckpointError::Unreadable { path, error }),
        };
        if bytes.len() != FILE_LEN || crc32c(&bytes[..CRC_AT]) != u32_at(&bytes, CRC_AT) {
            let len = bytes.len();
            return Err(CheckpointError::Damaged { path, len });
        }
        let format = u32_at(&bytes, FORMAT_AT);
        if bytes[..FORMAT_AT] != MAGIC || format != FORMAT {
            return Err(CheckpointError::OtherFormat { path, found: format });
        }
        let found = LogIdentity {
            directory: u64_at(&bytes, DIRECTORY_AT),
            generation: u64_at(&bytes, GENERATION_AT),
            executor: u32_at(&bytes, EXECUTOR_AT),
        };
        if found != identity {
            return Err(CheckpointError::OtherLog { path, found });
        }
        Ok(Checkpoint {
            identity,
            first_segment: u32_at(&bytes, FIRST_SEGMENT_AT),
        })
    }

    /// Says durably that RocksDB has, durably, everything before `first_segment` of the log in `folder`.
    ///
    /// # Errors
    /// A write, sync or rename fails. The former checkpoint or the new one stands then.
    pub fn write(folder: &Path, identity: LogIdentity, first_segment: u32) -> Result<Checkpoint, CheckpointError> {
        assert!(first_segment > 0, "segments are numbered from 1");
        let mut bytes = [0; FILE_LEN];
        bytes[..FORMAT_AT].copy_from_slice(&MAGIC);
        bytes[FORMAT_AT..EXECUTOR_AT].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[EXECUTOR_AT..DIRECTORY_AT].copy_from_slice(&identity.executor.to_le_bytes());
        bytes[DIRECTORY_AT..GENERATION_AT].copy_from_slice(&identity.directory.to_le_bytes());
        bytes[GENERATION_AT..FIRST_SEGMENT_AT].copy_from_slice(&identity.generation.to_le_bytes());
        bytes[FIRST_SEGMENT_AT..CRC_AT].copy_from_slice(&first_segment.to_le_bytes());
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let path = folder.join(FILE_NAME);
        match replace_durably(&path, &bytes) {
            Ok(()) => Ok(Checkpoint {
                identity,
                first_segment,
            }),
            Err(error) => Err(CheckpointError::Unwritable { path, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: LogIdentity = LogIdentity {
        directory: 1,
        generation: 2,
        executor: 3,
    };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn without_a_checkpoint_all_segments_are_needed() {
        let checkpoint = Checkpoint::read(folder().path(), IDENTITY).expect("no file is no error");
        assert_eq!(checkpoint.first_segment(), 1);
    }

    #[test]
    fn the_newest_checkpoint_is_read_back() {
        let folder = folder();
        for first_segment in [2, 3, 70_000] {
            let written = Checkpoint::write(folder.path(), IDENTITY, first_segment).expect("a checkpoint");
            assert_eq!(written.first_segment(), first_segment);
            assert_eq!(
                Checkpoint::read(folder.path(), IDENTITY).expect("a checkpoint"),
                written
            );
        }
    }

    #[test]
    fn a_temporary_file_that_was_left_behind_does_no_harm() {
        let folder = folder();
        std::fs::write(folder.path().join("CHECKPOINT.new"), vec![1; 1000]).expect("a file");
        let written = Checkpoint::write(folder.path(), IDENTITY, 5).expect("a checkpoint");
        assert_eq!(
            Checkpoint::read(folder.path(), IDENTITY).expect("a checkpoint"),
            written
        );
    }

    #[test]
    fn each_bit_of_a_checkpoint_counts_and_so_does_its_length() {
        let folder = folder();
        Checkpoint::write(folder.path(), IDENTITY, 5).expect("a checkpoint");
        let path = folder.path().join(FILE_NAME);
        let bytes = std::fs::read(&path).expect("the file");
        let damaged = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("the file");
            let read = Checkpoint::read(folder.path(), IDENTITY);
            matches!(read, Err(CheckpointError::Damaged { len, .. }) if len == bytes.len())
        };
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(damaged(&flipped), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(damaged(&bytes[..len]), "{len} bytes");
        }
        assert!(damaged(&[&bytes[..], &[0]].concat()));
    }

    #[test]
    fn a_checkpoint_of_another_log_is_refused_and_named() {
        let folder = folder();
        let other = LogIdentity {
            generation: 9,
            ..IDENTITY
        };
        Checkpoint::write(folder.path(), other, 5).expect("a checkpoint");
        let error = Checkpoint::read(folder.path(), IDENTITY).expect_err("another log's");
        assert!(error.to_string().contains("generation 9, executor 3"), "{error}");
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_names_the_file() {
        let error = Checkpoint::write(Path::new("/nowhere"), IDENTITY, 5).expect_err("there is no such folder");
        assert!(
            error.to_string().starts_with("cannot write /nowhere/CHECKPOINT: "),
            "{error}"
        );
    }
}
