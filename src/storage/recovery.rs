//! Recovery finishes what the last checkpoint has left: all that logs of earlier starts still hold is brought into the
//! databases, before the shards are opened.
//!
//! Start by start, since what a later one has written comes later; the logs of one start in any order, since no two of
//! them have the same shard. A shard may have been another executor's then. Whatever a crash interrupts is done again
//! by the next start, which is harmless: operations read nothing, and the last mention of a cell counts.

use super::cell_writes::CellWrites;
use super::checkpointing::{Databases, WritesByShard, expand, ingest_files, write_files};
use super::database::DatabaseError;
use super::log::{
    Checkpoint, CheckpointError, Damage, Frame, LogEnd, LogIdentity, LogReader, Next, ReadError,
    remove_segments_before, segment_path, segments_in,
};
use crate::faults::{self, Point};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of payload that are ingested at once, with what comes to the end of their segment: enough for files that
/// compactions do well with, and little memory.
const WINDOW_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };

/// Why the logs were not recovered; what was ingested of them before does no harm.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum RecoveryError {
    #[error("cannot read the folder of logs {path}: {error}; check its owner and mode")]
    Folder { path: PathBuf, error: io::Error },
    #[error(
        "{folder} is the log of start {found}, and MANIFEST.toml counts {generation} starts; restore the whole data \
         directory from one backup"
    )]
    Future {
        folder: PathBuf,
        found: u64,
        generation: u64,
    },
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Unreadable(ReadError),
    #[error(
        "{0}; restore the data directory from a backup, or copy it and start once with --load-damaged-log yes to go on \
         without what comes after the damage"
    )]
    Damaged(Damage),
    #[error("the log in {folder} cannot be brought into the shards ({error}); check the disk and its free space")]
    Database { folder: PathBuf, error: DatabaseError },
}

/// A log of an earlier start that is in the databases as a whole.
#[derive(Debug)]
pub struct RecoveredLog {
    pub(super) folder: PathBuf,
    /// Says that nothing of it is needed.
    pub(super) checkpoint: Checkpoint,
}

/// What a recovery did.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The logs of all earlier starts.
    pub logs: Vec<RecoveredLog>,
    /// Frames that were not in the databases yet, or not known to be.
    pub frames: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Brings the logs below `logs` into the databases, which are those of all shards. `current` is any log of the start
/// that is under way; none of its own is there yet.
///
/// # Errors
/// [`RecoveryError`]; a log that is damaged before its end is one only if `loads_damaged_log` is false.
pub fn recover(
    logs: &Path,
    current: LogIdentity,
    databases: &Databases,
    loads_damaged_log: bool,
) -> Result<Recovered, RecoveryError> {
    let began = Instant::now();
    let mut recovered = Recovered::default();
    for (folder, identity) in old_logs(logs, current)? {
        let log = OldLog {
            folder,
            identity,
            loads_damaged_log,
        };
        log.recover(databases, &mut recovered)?;
    }
    recovered.took = began.elapsed();
    Ok(recovered)
}

/// The folders of earlier starts' logs, the oldest start first.
fn old_logs(logs: &Path, current: LogIdentity) -> Result<Vec<(PathBuf, LogIdentity)>, RecoveryError> {
    let unreadable = |error| RecoveryError::Folder {
        path: logs.to_owned(),
        error,
    };
    let entries = match std::fs::read_dir(logs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry.map_err(unreadable)?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let numbers = name.split_once('-').and_then(|(generation, executor)| {
            let identity = LogIdentity {
                generation: generation.parse().ok()?,
                executor: executor.parse().ok()?,
                ..current
            };
            // Whatever is written otherwise was put there by somebody else.
            (identity.folder(logs) == folder).then_some(identity)
        });
        let Some(identity) = numbers else { continue };
        if identity.generation >= current.generation {
            return Err(RecoveryError::Future {
                folder,
                found: identity.generation,
                generation: current.generation,
            });
        }
        found.push((folder, identity));
    }
    found.sort_by_key(|(_, identity)| (identity.generation, identity.executor));
    Ok(found)
}

/// One log of an earlier start.
struct OldLog {
    folder: PathBuf,
    identity: LogIdentity,
    loads_damaged_log: bool,
}

impl OldLog {
    fn recover(self, databases: &Databases, recovered: &mut Recovered) -> Result<(), RecoveryError> {
        let segments = segments_in(&self.folder).map_err(|error| RecoveryError::Folder {
            path: self.folder.clone(),
            error,
        })?;
        let checkpoint = self.checkpoint(&segments)?;
        let last = segments.last().copied().unwrap_or(0);
        let checkpoint = if last < checkpoint.first_segment() {
            checkpoint
        } else {
            self.ingest(checkpoint.first_segment(), databases, recovered)?;
            Checkpoint::write(&self.folder, self.identity, last + 1)?
        };
        recovered.logs.push(RecoveredLog {
            folder: self.folder,
            checkpoint,
        });
        Ok(())
    }

    /// Which segments are needed. If nobody can tell any more, all that are there: those that are not needed lie before
    /// the others, and what they say is said again or was overwritten.
    fn checkpoint(&self, segments: &[u32]) -> Result<Checkpoint, RecoveryError> {
        match Checkpoint::read(&self.folder, self.identity) {
            Ok(checkpoint) => Ok(checkpoint),
            Err(error) if self.loads_damaged_log && error.is_damage() => {
                tracing::error!(
                    "all of a log is loaded again, since nobody can tell how much of it is needed: {error}"
                );
                let first_segment = segments.first().copied().unwrap_or(1);
                Ok(Checkpoint::write(&self.folder, self.identity, first_segment)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ingests the log window by window, and forgets each: a start that is interrupted, by a full disk for one, is gone
    /// on with by the next, and has made room.
    fn ingest(
        &self,
        first_segment: u32,
        databases: &Databases,
        recovered: &mut Recovered,
    ) -> Result<(), RecoveryError> {
        let mut reader = self.open(first_segment)?;
        let mut writes = WritesByShard::new();
        let (mut window_bytes, mut segment) = (0, first_segment);
        while let Some(frame) = self.next_frame(&mut reader)? {
            if frame.start.segment > segment {
                segment = frame.start.segment;
                if window_bytes >= WINDOW_BYTES {
                    self.ingest_window(databases, std::mem::take(&mut writes))?;
                    self.forget_before(segment)?;
                    window_bytes = 0;
                }
            }
            expand(frame.payload, &mut writes, CellWrites::default).map_err(|error| self.not_ingested(error))?;
            window_bytes += frame.payload.len() as u64;
            recovered.frames += 1;
            recovered.bytes += frame.payload.len() as u64;
        }
        self.ingest_window(databases, writes)
    }

    /// All before a segment is in the databases.
    fn forget_before(&self, segment: u32) -> Result<(), RecoveryError> {
        Checkpoint::write(&self.folder, self.identity, segment)?;
        faults::reached(Point::RecoveredWindow);
        remove_segments_before(&self.folder, segment).map_err(|error| RecoveryError::Folder {
            path: self.folder.clone(),
            error,
        })
    }

    fn open(&self, first_segment: u32) -> Result<LogReader, RecoveryError> {
        match LogReader::open(&self.folder, self.identity, first_segment) {
            Ok(reader) => Ok(reader),
            Err(error) => {
                self.refuse_unless_allowed(error)?;
                let reader = LogReader::open_before_gap(&self.folder, self.identity, first_segment);
                reader.map_err(RecoveryError::Unreadable)
            }
        }
    }

    /// The next frame; none at the end, or at a damage if that is allowed.
    fn next_frame<'a>(&self, reader: &'a mut LogReader) -> Result<Option<Frame<'a>>, RecoveryError> {
        match reader.next_frame() {
            Ok(Next::Frame(frame)) => Ok(Some(frame)),
            Ok(Next::End(LogEnd::Clean { .. })) => Ok(None),
            Ok(Next::End(LogEnd::Torn { at, frames_behind })) => {
                tracing::warn!(
                    "a log ends early, as after a kill or a loss of power, and what was not synced is dropped: {} from \
                     byte {} on, with {frames_behind} readable frames behind",
                    segment_path(&self.folder, at.segment).display(),
                    at.offset
                );
                Ok(None)
            }
            Err(error) => self.refuse_unless_allowed(error).map(|()| None),
        }
    }

    fn refuse_unless_allowed(&self, error: ReadError) -> Result<(), RecoveryError> {
        if self.loads_damaged_log && error.is_damage() {
            tracing::error!(
                "a damaged log is loaded up to the damage, and the rest is dropped; what was written last, and \
                 collections above all, may be inconsistent: {error}"
            );
            return Ok(());
        }
        Err(match error {
            ReadError::Damaged(damage) => RecoveryError::Damaged(damage),
            error => RecoveryError::Unreadable(error),
        })
    }

    fn ingest_window(&self, databases: &Databases, writes: WritesByShard) -> Result<(), RecoveryError> {
        let files = write_files(databases, writes);
        let ingested = files.and_then(|mut files| ingest_files(databases, &mut files));
        ingested.map_err(|error| self.not_ingested(error))?;
        faults::reached(Point::Recovering);
        Ok(())
    }

    fn not_ingested(&self, error: DatabaseError) -> RecoveryError {
        RecoveryError::Database {
            folder: self.folder.clone(),
            error,
        }
    }
}
