//! Files for later segments: those of ingested segments, renamed, so that neither space nor the file system's journal
//! is asked for when a segment begins.
//!
//! Only files of the longest size are kept: short segments are those of a log's first moments. A spare holds the frames
//! of the segment that it was; the seed of their checksums keeps them from passing for frames of the next one.

use super::checkpoint_file::Checkpoint;
use super::log_disk::LogDisk;
use super::segment::{segment_path, segments_in};
use super::shared_log::{LogOptions, lock};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The spares of one log.
pub(super) struct SpareSegments<D> {
    disk: D,
    folder: PathBuf,
    options: LogOptions,
    spares: Mutex<Vec<Spare>>,
    /// Short ones for a full disk.
    reserve: Mutex<Vec<Spare>>,
    /// How many names were given.
    names: AtomicU64,
}

/// A file that becomes a segment when it is renamed.
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) len: u32,
}

impl<D: LogDisk> SpareSegments<D> {
    pub(super) fn new(disk: D, folder: &Path, options: LogOptions) -> SpareSegments<D> {
        SpareSegments {
            disk,
            folder: folder.to_owned(),
            options,
            spares: Mutex::default(),
            reserve: Mutex::default(),
            names: AtomicU64::new(0),
        }
    }

    /// A name in the log's folder that no segment and no other spare has.
    pub(super) fn new_path(&self) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("spare-{number}.log"))
    }

    /// Takes a spare of at least `len` bytes out.
    pub(super) fn take(&self, len: u32) -> Option<Spare> {
        // All spares have the longest segment's length: one does, or none.
        lock(&self.spares).pop_if(|spare| spare.len >= len)
    }

    /// Takes a file of the reserve out, if it has at least `len` bytes.
    pub(super) fn take_reserve(&self, len: u32) -> Option<Spare> {
        lock(&self.reserve).pop_if(|spare| spare.len >= len)
    }

    pub(super) fn prepare(&self, count: usize) -> io::Result<()> {
        self.fill(&self.spares, self.options.segment_len_max, count)
    }

    pub(super) fn prepare_reserve(&self, count: usize) -> io::Result<()> {
        self.fill(&self.reserve, self.options.segment_len_first, count)
    }

    fn fill(&self, spares: &Mutex<Vec<Spare>>, len: u32, count: usize) -> io::Result<()> {
        while lock(spares).len() < count {
            let path = self.new_path();
            self.disk.create(&path, len)?;
            lock(spares).push(Spare { path, len });
        }
        Ok(())
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        while let Some(spare) = lock(&self.spares).pop() {
            self.disk.remove(&spare.path)?;
        }
        Ok(())
    }

    pub(super) fn remove_one_of_reserve(&self) -> io::Result<()> {
        let spare = lock(&self.reserve).pop();
        spare.map_or(Ok(()), |spare| self.disk.remove(&spare.path))
    }

    pub(super) fn recycle(&self, first_segment: u32) -> io::Result<()> {
        let obsolete = segments_in(&self.folder)?.into_iter();
        for segment in obsolete.take_while(|segment| *segment < first_segment) {
            self.keep_or_remove(&segment_path(&self.folder, segment))?;
        }
        Ok(())
    }

    pub(super) fn adopt(&self, old_folder: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
        let segments = segments_in(old_folder)?;
        assert!(
            segments.last().is_none_or(|last| *last < checkpoint.first_segment()),
            "{} is still needed from segment {} on",
            old_folder.display(),
            checkpoint.first_segment()
        );
        assert_ne!(old_folder, self.folder, "a log cannot take its own files");
        for entry in std::fs::read_dir(old_folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                self.keep_or_remove(&path)?;
            }
        }
        // The checkpoint goes last: without it, segments that are left would be taken for needed ones.
        self.disk.sync_folder(old_folder)?;
        std::fs::remove_dir_all(old_folder)
    }

    fn keep_or_remove(&self, path: &Path) -> io::Result<()> {
        let len = self.options.segment_len_max;
        let is_full = lock(&self.spares).len() >= self.options.spares_max;
        if is_full || std::fs::metadata(path)?.len() != u64::from(len) {
            return self.disk.remove(path);
        }
        let spare = self.new_path();
        self.disk.rename(path, &spare)?;
        lock(&self.spares).push(Spare { path: spare, len });
        Ok(())
    }
}
