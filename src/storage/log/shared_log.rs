//! What the threads of one log share: how far it is appended, how far it is durable, and whether it has failed.
//!
//! The executor stores and loads atomics; it takes a lock only where a segment begins. The order is what makes a
//! promise of durability true: [`SharedLog::sync`] takes the newest appended position *first*, then syncs the files,
//! then publishes that position. A frame that is appended meanwhile waits for the next sync, though its bytes may have
//! become durable with this one.

use super::checkpoint_file::{Checkpoint, CheckpointError};
use super::log_disk::{LogDisk, RealDisk, SegmentFile};
use super::log_position::{LogIdentity, LogPosition};
use super::spare_segments::SpareSegments;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of the first segment; each one that follows a full one is twice as long, up to the longest.
    pub segment_len_first: u32,
    /// Bytes of the longest segment; a frame that is longer gets one of its own.
    pub segment_len_max: u32,
    /// Files of the longest size that are kept for later segments.
    pub spares_max: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_len_first: 1 << 20,
            segment_len_max: 64 << 20,
            spares_max: 4,
        }
    }
}

/// Why a log takes nothing any more: a write or a sync has failed. It is never tried again, since nobody can tell what
/// reached the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has failed: {0}")]
pub struct LogFailure(Arc<str>);

/// Why a log cannot be created.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum LogCreateError {
    #[error("cannot create the log in {path}: {error}; check the folder's owner, mode and free space")]
    Unwritable { path: PathBuf, error: io::Error },
    #[error("{path} has segments of an earlier start in it although its generation is new; restore MANIFEST.toml")]
    Exists { path: PathBuf },
}

/// One log, as the threads beside its executor use it.
pub struct SharedLog<D: LogDisk = RealDisk> {
    pub(super) disk: D,
    pub(super) folder: PathBuf,
    pub(super) identity: LogIdentity,
    pub(super) options: LogOptions,
    pub(super) spares: SpareSegments<D>,
    /// The newest frame's end.
    appended: AtomicU64,
    /// Up to here the log is on disk.
    durable: AtomicU64,
    failure: OnceLock<LogFailure>,
    /// The first failed sync: what was not durable then may never be, although a later sync says otherwise.
    sync_failure: OnceLock<LogFailure>,
    /// Files that may have frames that are not durable, the oldest first; the last one is being written.
    unsynced: Mutex<Vec<UnsyncedFile<D::File>>>,
    /// Held while files are synced: of two threads that sync one file, the kernel tells only one of a failure, and the
    /// other one must not publish anything before that is noted.
    syncing: Mutex<()>,
}

struct UnsyncedFile<F> {
    segment: u32,
    file: Arc<F>,
    /// Whether its name is durable.
    is_named: bool,
}

impl<D: LogDisk> SharedLog<D> {
    /// Creates the log's folder below `logs`, durably.
    pub(super) fn create(
        disk: D,
        logs: &Path,
        identity: LogIdentity,
        options: LogOptions,
    ) -> Result<SharedLog<D>, LogCreateError> {
        let folder = identity.folder(logs);
        let create = || {
            std::fs::create_dir_all(&folder)?;
            disk.sync_folder(logs)?;
            disk.sync_folder(logs.parent().unwrap_or(Path::new(".")))?;
            super::segments_in(&folder)
        };
        match create() {
            Ok(segments) if segments.is_empty() => {}
            Ok(_) => return Err(LogCreateError::Exists { path: folder }),
            Err(error) => return Err(LogCreateError::Unwritable { path: folder, error }),
        }
        Ok(SharedLog {
            spares: SpareSegments::new(disk.clone(), &folder, options),
            disk,
            folder,
            identity,
            options,
            appended: AtomicU64::new(LogPosition::START.to_u64()),
            durable: AtomicU64::new(LogPosition::START.to_u64()),
            failure: OnceLock::new(),
            sync_failure: OnceLock::new(),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
        })
    }

    /// The log's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which log it is.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// The end of the newest frame.
    pub fn appended(&self) -> LogPosition {
        LogPosition::from_u64(self.appended.load(Ordering::Acquire))
    }

    /// Where the durable part of the log ends: a frame is durable if its end is not beyond.
    pub fn durable(&self) -> LogPosition {
        LogPosition::from_u64(self.durable.load(Ordering::Acquire))
    }

    /// Whether a write or a sync has failed.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> Result<(), LogFailure> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Makes everything durable that was appended before the call; returns up to where the log is durable. Nothing is
    /// asked of the disk if all is durable already. Also where a write has failed: what was appended before it was
    /// acknowledged, and is whole.
    ///
    /// # Errors
    /// A sync fails, or has failed before. What was not durable before may never be.
    pub fn sync(&self) -> Result<LogPosition, LogFailure> {
        let _one_at_a_time = lock(&self.syncing);
        let target = self.appended();
        if let Some(failure) = self.sync_failure.get() {
            return Err(failure.clone());
        }
        if target <= self.durable() {
            return Ok(self.durable());
        }
        let files: Vec<(Arc<D::File>, bool)> = lock(&self.unsynced)
            .iter()
            .filter(|file| file.segment <= target.segment)
            .map(|file| (Arc::clone(&file.file), file.is_named))
            .collect();
        assert!(!files.is_empty(), "the file of the newest frame is not known");
        for (file, _) in &files {
            file.sync_data().map_err(|error| self.fail_sync("a sync", &error))?;
        }
        if files.iter().any(|(_, is_named)| !is_named) {
            let synced = self.disk.sync_folder(&self.folder);
            synced.map_err(|error| self.fail_sync("a sync of the folder", &error))?;
        }
        let mut unsynced = lock(&self.unsynced);
        // Frames went to the target's segment when it was taken, so those before it were sealed.
        unsynced.retain(|file| file.segment >= target.segment);
        for file in unsynced.iter_mut().filter(|file| file.segment <= target.segment) {
            file.is_named = true;
        }
        drop(unsynced);
        self.durable.store(target.to_u64(), Ordering::Release);
        Ok(target)
    }

    /// Says durably that RocksDB has everything up to `ingested`, the end of a sealed segment, durably too.
    ///
    /// # Errors
    /// The file cannot be written; the former checkpoint or this one stands.
    pub fn write_checkpoint(&self, ingested: LogPosition) -> Result<Checkpoint, CheckpointError> {
        let durable = self.durable();
        assert!(
            durable >= ingested,
            "a checkpoint up to {ingested} is ahead of the log, which is durable up to {durable}"
        );
        Checkpoint::write(&self.folder, self.identity, ingested.segment + 1)
    }

    /// Makes the files of segments that a checkpoint does without into spares, or removes them.
    ///
    /// # Errors
    /// A file cannot be renamed or removed; the log is whole all the same.
    pub fn recycle(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        assert_eq!(checkpoint.identity(), self.identity, "this is another log's checkpoint");
        self.spares.recycle(checkpoint.first_segment())
    }

    /// Removes the spares: the disk has other use for their room.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn remove_spares(&self) -> io::Result<()> {
        self.spares.remove()
    }

    /// Removes the spares, and a file of what is set aside: there is something better to be done with their room.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn make_room(&self) -> io::Result<()> {
        self.spares.remove()?;
        self.spares.remove_one_of_reserve()
    }

    /// Creates spares until there are `count`, so that the executor need not when a segment is full.
    ///
    /// # Errors
    /// There is no space.
    pub fn prepare_spares(&self, count: usize) -> io::Result<()> {
        self.spares.prepare(count)
    }

    /// Sets short files aside until there are `count`, for
    /// [`LogWriter::begin_reserve`](super::LogWriter::begin_reserve).
    ///
    /// # Errors
    /// There is no space.
    pub fn prepare_reserve(&self, count: usize) -> io::Result<()> {
        self.spares.prepare_reserve(count)
    }

    /// Takes the files of an earlier generation's log, which must be in RocksDB as a whole, and removes its folder.
    ///
    /// # Errors
    /// A file cannot be moved or removed; a later call, also of a later start, goes on.
    pub fn adopt(&self, old_folder: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
        self.spares.adopt(old_folder, checkpoint)
    }

    /// Notes that a file's frames will need syncing. Comes before the first of them is appended.
    pub(super) fn begin_file(&self, segment: u32, file: Arc<D::File>) {
        let mut unsynced = lock(&self.unsynced);
        assert!(
            unsynced.last().is_none_or(|last| last.segment < segment),
            "segment {segment} is not new"
        );
        unsynced.push(UnsyncedFile {
            segment,
            file,
            is_named: false,
        });
    }

    /// Publishes that a frame was appended.
    pub(super) fn set_appended(&self, end: LogPosition) {
        debug_assert!(self.appended() < end);
        self.appended.store(end.to_u64(), Ordering::Release);
    }

    /// Syncs a file of which a frame was taken back.
    pub(super) fn sync_withdrawn(&self, file: &D::File) -> Result<(), LogFailure> {
        let _one_at_a_time = lock(&self.syncing);
        file.sync_data()
            .map_err(|error| self.fail_sync("a sync after a full disk", &error))
    }

    /// Notes a failed sync; returns the first failure.
    fn fail_sync(&self, what: &str, error: &dyn Display) -> LogFailure {
        let failure = self.fail(what, error);
        let _ = self.sync_failure.set(failure.clone());
        failure
    }

    /// Notes a failure, after which nothing is appended any more; returns the first one.
    pub(super) fn fail(&self, what: &str, error: &dyn Display) -> LogFailure {
        let text = format!("{what} in {}: {error}", self.folder.display());
        self.failure.get_or_init(|| LogFailure(text.into())).clone()
    }
}

/// Takes a lock whose data is whole at every moment, also after a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::log::frame::{FrameBuffer, FrameFields};
    use crate::storage::log::log_reader::{LogReader, Next};
    use crate::storage::log::log_writer::{AppendError, LogWriter};
    use crate::storage::log::test_disk::{Faults, IDENTITY, TestDisk};
    use crate::storage::seeded_random;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore};
    use std::sync::atomic::AtomicBool;
    use tempfile::TempDir;

    const OPTIONS: LogOptions = LogOptions {
        segment_len_first: 8192,
        segment_len_max: 32768,
        spares_max: 3,
    };

    struct Written {
        end: LogPosition,
        payload: Vec<u8>,
    }

    /// What is not in a checkpoint yet of a log that is written at random.
    struct Workload {
        disk: TestDisk,
        writer: LogWriter<TestDisk>,
        first_segment: u32,
        frames: Vec<Written>,
        epoch: u64,
    }

    impl Workload {
        fn new(logs: &TempDir) -> Workload {
            let disk = TestDisk::default();
            let writer = LogWriter::create_on(disk.clone(), logs.path(), IDENTITY, OPTIONS).expect("a new log");
            Workload {
                disk,
                writer,
                first_segment: 1,
                frames: Vec::new(),
                epoch: 0,
            }
        }

        fn append(&mut self, random: &mut StdRng) {
            self.epoch += 1;
            let len = match random.random_range(0..50) {
                0 => random.random_range(0..60_000),
                1..10 => random.random_range(0..8000),
                _ => random.random_range(0..300),
            };
            let mut buffer = FrameBuffer::new();
            buffer.extend(&vec![0; len]);
            random.fill_bytes(buffer.payload_mut());
            let fields = FrameFields {
                epoch: self.epoch,
                ..FrameFields::default()
            };
            let end = self.writer.append(&mut buffer, fields).expect("there is room").end;
            let payload = buffer.payload().to_vec();
            self.frames.push(Written { end, payload });
        }

        fn checkpoint(&mut self) {
            self.writer.seal();
            let log = self.writer.shared();
            log.sync().expect("a sync");
            self.first_segment = log.appended().segment + 1;
            let checkpoint = log.write_checkpoint(log.appended()).expect("a checkpoint");
            log.recycle(&checkpoint).expect("recycling");
            self.frames.clear();
        }

        /// Loses power: what is left must be the first of the frames, up to the durable ones at least.
        fn check_power_loss(&self, random: &mut StdRng) {
            let durable = self.writer.shared().durable();
            let left = tempfile::tempdir().expect("a temporary folder");
            self.disk.lose_power(random, left.path());
            let mut reader =
                LogReader::open_range(left.path(), IDENTITY, self.first_segment, None).expect("no segment is missing");
            let mut frames = self.frames.iter();
            let mut end = LogPosition::START;
            while let Next::Frame(frame) = reader
                .next_frame()
                .unwrap_or_else(|error| panic!("{error}, durable up to {durable}"))
            {
                let written = frames.next().expect("no frame that was not appended");
                assert!(frame.payload == written.payload, "another frame is at {}", frame.start);
                end = frame.end;
            }
            assert!(
                frames.next().is_none_or(|lost| lost.end > durable),
                "the log is read up to {end}, and was durable up to {durable}"
            );
        }
    }

    #[test]
    fn whatever_pages_are_lost_all_that_was_synced_is_read() {
        let mut random = seeded_random::printed();
        for _ in 0..12 {
            let logs = tempfile::tempdir().expect("a temporary folder");
            let mut workload = Workload::new(&logs);
            for _ in 0..40 {
                for _ in 0..random.random_range(0..30) {
                    workload.append(&mut random);
                }
                match random.random_range(0..8) {
                    0..4 => assert_eq!(workload.writer.shared().sync(), Ok(workload.writer.shared().appended())),
                    4 => workload.writer.seal(),
                    5 => workload.checkpoint(),
                    _ => {}
                }
                workload.check_power_loss(&mut random);
            }
        }
    }

    struct SetWhenDropped<'a>(&'a AtomicBool);

    impl Drop for SetWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn a_frame_that_is_appended_during_a_sync_waits_for_the_next_one() {
        let mut random = seeded_random::printed();
        let logs = tempfile::tempdir().expect("a temporary folder");
        let mut workload = Workload::new(&logs);
        workload.append(&mut random);
        let log = workload.writer.shared();
        let first = log.appended();
        let meeting = workload.disk.meet_next_sync();
        std::thread::scope(|scope| {
            let syncer = scope.spawn(|| log.sync());
            meeting.wait();
            workload.append(&mut random);
            meeting.wait();
            assert_eq!(syncer.join().expect("the syncer ends"), Ok(first));
        });
        assert_eq!(log.durable(), first);
        assert_eq!(log.sync(), Ok(log.appended()));
    }

    #[test]
    fn a_sync_beside_the_writer_promises_only_what_is_on_disk() {
        let mut random = seeded_random::printed();
        let logs = tempfile::tempdir().expect("a temporary folder");
        let mut workload = Workload::new(&logs);
        let (log, is_done) = (workload.writer.shared(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // Also when a check fails: the syncer must end for the test to fail and not to hang.
            let _ends_syncer = SetWhenDropped(&is_done);
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    log.sync().expect("a sync");
                }
            });
            for round in 0..600 {
                workload.append(&mut random);
                if round % 20 == 0 {
                    workload.check_power_loss(&mut random);
                }
            }
        });
        assert_eq!(log.sync(), Ok(log.appended()));
        workload.check_power_loss(&mut random);
    }

    #[test]
    fn a_failed_sync_ends_the_log_for_ever_and_promises_nothing() {
        let mut random = seeded_random::printed();
        let logs = tempfile::tempdir().expect("a temporary folder");
        let mut workload = Workload::new(&logs);
        workload.append(&mut random);
        let log = workload.writer.shared();
        let durable = log.sync().expect("a sync");
        workload.append(&mut random);
        workload.disk.set_faults(Faults {
            fail_syncs: true,
            ..Faults::default()
        });
        let failure = log.sync().expect_err("an injected failure");
        assert!(failure.to_string().contains("a sync"), "{failure}");
        workload.disk.set_faults(Faults::default());
        assert_eq!(
            log.sync(),
            Err(failure.clone()),
            "a sync that comes later may not have seen what was lost"
        );
        assert_eq!(log.durable(), durable);
        let refused = workload.writer.append(
            &mut FrameBuffer::new(),
            FrameFields {
                epoch: 9,
                ..FrameFields::default()
            },
        );
        assert_eq!(refused, Err(AppendError::Failed(failure)));
    }

    #[test]
    fn a_failed_write_does_not_keep_what_was_appended_before_from_its_sync() {
        let mut random = seeded_random::printed();
        let logs = tempfile::tempdir().expect("a temporary folder");
        let mut workload = Workload::new(&logs);
        (0..20).for_each(|_| workload.append(&mut random));
        let log = workload.writer.shared();
        let appended = log.appended();
        workload.disk.set_faults(Faults {
            fail_writes: true,
            ..Faults::default()
        });
        let mut buffer = FrameBuffer::new();
        buffer.extend(&[1; 9000]);
        let fields = FrameFields {
            epoch: 99,
            ..FrameFields::default()
        };
        assert!(matches!(
            workload.writer.append(&mut buffer, fields),
            Err(AppendError::Failed(_))
        ));
        assert_eq!(log.sync(), Ok(appended));
        assert_eq!(log.durable(), appended);
        // The frame that failed may be there, but for zeros that were there before.
        workload.frames.push(Written {
            end: LogPosition::from_u64(u64::MAX),
            payload: buffer.payload().to_vec(),
        });
        workload.check_power_loss(&mut random);
        assert!(log.check().is_err(), "the log takes nothing any more");
        workload.disk.set_faults(Faults {
            fail_syncs: true,
            ..Faults::default()
        });
        assert_eq!(
            log.sync(),
            Ok(appended),
            "all is durable, and nothing is asked of the disk"
        );
    }

    #[test]
    #[should_panic(expected = "is ahead of the log")]
    fn a_checkpoint_ahead_of_what_is_durable_is_a_bug() {
        let mut random = seeded_random::printed();
        let logs = tempfile::tempdir().expect("a temporary folder");
        let mut workload = Workload::new(&logs);
        workload.append(&mut random);
        workload.writer.seal();
        let _ = workload
            .writer
            .shared()
            .write_checkpoint(workload.writer.shared().appended());
    }
}
