//! The files of an executor's log: the operating system's, with faults on request (see [`crate::faults`]).

use super::log::{LogDisk, RealDisk, SegmentFile};
use crate::faults;
use crate::slots::ShardId;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A frame is not shorter than this, and what is written beside frames (the zeros that take one back) is.
const FRAME_LEN_MIN: usize = 16;

/// Where the log of some shards lies.
#[derive(Clone, Debug)]
pub(super) struct LogFiles {
    /// Whose writes its frames are: faults may be asked for by shard.
    shards: Arc<[ShardId]>,
}

/// A file of such a log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    folder: PathBuf,
    shards: Arc<[ShardId]>,
}

impl LogFiles {
    pub(super) fn of_shards(shards: impl Into<Arc<[ShardId]>>) -> LogFiles {
        LogFiles { shards: shards.into() }
    }

    /// Whether the log is said to be full on request.
    pub(super) fn are_full_on_request(&self) -> bool {
        faults::stalls_writes(&self.shards)
    }

    fn file(&self, path: &Path, file: File) -> LogFile {
        LogFile {
            file,
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
            shards: Arc::clone(&self.shards),
        }
    }
}

impl LogDisk for LogFiles {
    type File = LogFile;

    fn create(&self, path: &Path, len: u32) -> io::Result<LogFile> {
        Ok(self.file(path, RealDisk.create(path, len)?))
    }

    fn open(&self, path: &Path) -> io::Result<LogFile> {
        Ok(self.file(path, RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.sync_folder(folder)
    }
}

impl SegmentFile for LogFile {
    fn write_at(&self, bytes: &[u8], offset: u32) -> io::Result<usize> {
        let is_frame = offset > 0 && bytes.len() >= FRAME_LEN_MIN;
        if is_frame {
            faults::before_append(&self.shards)?;
        }
        let write = || SegmentFile::write_at(&self.file, bytes, offset);
        let written = faults::record_write((&self.folder, &self.file), (u64::from(offset), bytes.len()), write)?;
        if is_frame {
            faults::after_append();
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        faults::before_sync(&self.shards, (&self.folder, &self.file))?;
        SegmentFile::sync_data(&self.file)?;
        faults::after_sync((&self.folder, &self.file))
    }
}
