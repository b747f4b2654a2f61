//! A checkpoint: what sealed segments of a log say of the shards' cells is brought into RocksDB, sorted.
//!
//! ```text
//! sync the log ─► read, expand, sort ─► files ─► ingest them ─► CHECKPOINT ─► watermark ─► recycle the segments
//! ```
//!
//! The log comes first, so that RocksDB is never ahead of what is durable there. Each step may be the last one before a
//! crash: up to CHECKPOINT everything is done again, by the next start too, which is harmless, since the last mention
//! of a cell counts. For that reason nothing is left out because something else is known to be on disk. Only changes of
//! bytes read what RocksDB has of their cell: it has all that comes before the window, and perhaps a part of the window
//! or of what follows. Nor does that do harm: done again up to where it was, each byte that was changed ends as it was.
//! What has come and gone within a window is left out only if the window is fresh: had an earlier try
//! ingested a part of it, or of a shorter one, what has come could be on disk.

use super::cell_writes::CellWrites;
use super::database::{Database, DatabaseError, SortedFiles};
use super::executor_log::{LogProgress, Window};
use super::log::{Next, ReadError};
use super::operations;
use crate::faults::{self, Point};
use crate::slots::ShardId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The databases of an executor's shards.
pub type Databases = BTreeMap<ShardId, Arc<Database>>;

/// What is to become of the cells of several shards.
pub(super) type WritesByShard = BTreeMap<ShardId, CellWrites>;

/// A window of a log as sorted files, of which some may be ingested.
pub struct Prepared {
    window: Window,
    files: BTreeMap<ShardId, SortedFiles>,
}

impl Prepared {
    /// Bytes of the files, also of those that were ingested.
    pub fn file_bytes(&self) -> u64 {
        self.files.values().map(SortedFiles::bytes).sum()
    }
}

/// Writes what a window of the log says into sorted files: most of a checkpoint's work, without any lock of RocksDB.
/// The log was synced since the window was sealed. `is_fresh`: nothing behind the watermark was ever ingested.
///
/// # Errors
/// [`DatabaseError::DiskFull`]: it may succeed later. No file is left.
pub fn prepare(
    progress: &LogProgress,
    databases: &Databases,
    window: &Window,
    is_fresh: bool,
) -> Result<Prepared, DatabaseError> {
    let failed = |error: ReadError| DatabaseError::Failed(error.to_string());
    let mut reader = progress.read_window(window).map_err(failed)?;
    let mut writes = WritesByShard::new();
    // What grows as it is filled takes twice as much while it is moved.
    let bytes_of_one = window.bytes() as usize / databases.len().max(1);
    let begin = || CellWrites::of_window(is_fresh, bytes_of_one);
    while let Next::Frame(frame) = reader.next_frame().map_err(failed)? {
        expand(frame.payload, &mut writes, begin)?;
    }
    let files = write_files(databases, writes)?;
    Ok(Prepared { window: *window, files })
}

/// Brings what was prepared into the databases, says so in the log, and moves the watermark.
///
/// # Errors
/// [`DatabaseError::DiskFull`] and [`DatabaseError::Stalled`]: to be called again later, with the same `prepared`,
/// which remembers what is in the databases, or with one that was prepared anew. Nothing behind the window may be
/// ingested before the window is.
pub fn finish(progress: &LogProgress, databases: &Databases, prepared: &mut Prepared) -> Result<(), DatabaseError> {
    ingest_files(databases, &mut prepared.files)?;
    faults::reached(Point::BeforeCheckpoint);
    let checkpoint = progress.set_ingested(&prepared.window)?;
    faults::reached(Point::AfterCheckpoint);
    progress.recycle(&checkpoint, &prepared.window);
    faults::reached(Point::AfterRecycling);
    Ok(())
}

/// Does to the cells what a frame says; `begin` makes a shard's first.
pub(super) fn expand(
    payload: &[u8],
    writes: &mut WritesByShard,
    begin: impl Fn() -> CellWrites,
) -> Result<(), DatabaseError> {
    let mut operations = operations::read(payload).peekable();
    while let Some(operation) = operations.next() {
        let operation = operation.map_err(|error| DatabaseError::Failed(error.to_string()))?;
        let shard = operation.shard;
        let of_shard = writes.entry(shard).or_insert_with(&begin);
        of_shard.apply(operation.change);
        // Many operations of one shard come one after the other.
        while let Some(Ok(next)) = operations.next_if(|next| next.as_ref().is_ok_and(|next| next.shard == shard)) {
            of_shard.apply(next.change);
        }
    }
    Ok(())
}

/// Writes the files of several shards.
pub(super) fn write_files(
    databases: &Databases,
    writes: WritesByShard,
) -> Result<BTreeMap<ShardId, SortedFiles>, DatabaseError> {
    let mut files = BTreeMap::new();
    for (shard, mut writes) in writes {
        let database = databases.get(&shard);
        let database = database.ok_or_else(|| DatabaseError::Failed(format!("the log names shard {}", shard.0)))?;
        files.insert(shard, database.write_files(&mut writes)?);
    }
    Ok(files)
}

/// Ingests the files of several shards, one after the other.
pub(super) fn ingest_files(
    databases: &Databases,
    files: &mut BTreeMap<ShardId, SortedFiles>,
) -> Result<(), DatabaseError> {
    files
        .iter_mut()
        .try_for_each(|(shard, files)| databases[shard].ingest_files(files))
}
