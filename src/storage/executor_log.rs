//! The log of one storage executor, as its three threads use it: the executor appends a frame at the end of a turn, the
//! syncer makes the log durable, the checkpointer takes sealed segments and says when RocksDB has them.
//!
//! A segment that is wholly in RocksDB is *ingested*; the newest one before which all are is the *watermark*. What was
//! last written at or below it is on disk in RocksDB, and durably so.

use super::log::{
    AppendError, Checkpoint, CheckpointError, FRAME_LEN_MAX, FrameBuffer, FrameFields, LogCreateError, LogFailure,
    LogIdentity, LogOptions, LogReader, LogWriter, ReadError, SealedSegment, SharedLog,
};
use super::log_files::LogFiles;
use super::recovery::RecoveredLog;
use crate::error::DatabaseError;
use crate::preflight;
use crate::slots::ShardId;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes of operations that a turn may append: a frame with some room for its header.
pub const TURN_BYTES_MAX: usize = FRAME_LEN_MAX - 4096;

/// Segments that a log has room for: so much of it can be ingested while the rest grows.
const SEGMENTS_MIN: u64 = 8;

/// Short segments that are set aside for what frees space on a full disk: for thousands of deletions, which the
/// checkpointer gets piece by piece.
const RESERVE_SEGMENTS: usize = 4;

/// A disk with less room than this has none for segments that may be needed later: it is soon taken for full.
const SPARES_FREE_BYTES_MIN: u64 = 8 * preflight::FREE_BYTES_MIN;

/// The most bytes of log that are ingested at once: the thread that does it has them in memory, and as much again of
/// what it knows of them.
const WINDOW_BYTES_MAX: u64 = 256 << 20;

/// Lengths of segment files are multiples of this.
const SEGMENT_LEN_STEP: u32 = 1 << 20;

/// How much a log and what it pins may take.
#[derive(Clone, Copy, Debug)]
pub struct LogBounds {
    /// The log is full when so many bytes of it are not ingested, or full segments and those that were sealed before
    /// take so much of the disk.
    pub size_max: u64,
    /// The most bytes in memory that wait for the checkpointer.
    pub unclean_bytes_max: usize,
}

/// The executor's end of its log.
pub struct ExecutorLog {
    writer: LogWriter<LogFiles>,
    files: LogFiles,
    buffer: FrameBuffer,
    shared: Arc<LogProgress>,
    /// Bytes of frames in the segment that is open.
    open_bytes: u64,
    unclean_bytes_max: usize,
    /// The segment that is open has frames that were written on a full disk.
    frees_space: bool,
}

impl ExecutorLog {
    /// Begins the log of a new generation in its own folder below `logs`, for these shards.
    ///
    /// # Errors
    /// The folder cannot be created, or has segments.
    pub fn create(
        logs: &Path,
        identity: LogIdentity,
        bounds: LogBounds,
        shards: Vec<ShardId>,
    ) -> Result<ExecutorLog, LogCreateError> {
        let LogBounds {
            size_max,
            unclean_bytes_max,
        } = bounds;
        let options = LogOptions::default();
        let longest = u64::from(options.segment_len_max).min(size_max / SEGMENTS_MIN) as u32;
        let options = LogOptions {
            segment_len_max: (longest / SEGMENT_LEN_STEP * SEGMENT_LEN_STEP).max(options.segment_len_first),
            ..options
        };
        let files = LogFiles::of_shards(shards);
        let writer = LogWriter::create_on(files.clone(), logs, identity, options)?;
        if let Err(error) = writer.shared().prepare_reserve(RESERVE_SEGMENTS) {
            tracing::warn!(%error, "no room can be set aside in a log for deletions on a full disk");
        }
        let shared = Arc::new(LogProgress {
            log: writer.shared(),
            size_max,
            segment_len_max: options.segment_len_max,
            appended_epoch: AtomicU64::new(0),
            durable_epoch: AtomicU64::new(0),
            watermark: AtomicU32::new(0),
            sealed_bytes: AtomicU64::new(0),
            sealed_file_bytes: AtomicU64::new(0),
            checkpoints_wanted: AtomicU64::new(0),
            checkpoints_begun: AtomicU64::new(0),
            backlog: Mutex::default(),
            has_work: Condvar::new(),
        });
        Ok(ExecutorLog {
            writer,
            files,
            buffer: FrameBuffer::new(),
            shared,
            open_bytes: 0,
            unclean_bytes_max,
            frees_space: false,
        })
    }

    /// Takes the files of an earlier start's log, which is in the databases as a whole.
    pub fn adopt(&self, old: &RecoveredLog) {
        if let Err(error) = self.shared.log.adopt(&old.folder, &old.checkpoint) {
            tracing::warn!(folder = %old.folder.display(), %error, "an old log stays, which is not needed any more");
        }
    }

    /// What other threads use of this log.
    pub fn progress(&self) -> Arc<LogProgress> {
        Arc::clone(&self.shared)
    }

    /// Where the turn's operations go.
    #[inline]
    pub fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }

    /// Appends what is in the buffer, which is empty then, as one frame of the turn `epoch`; returns the segment it
    /// lies in. It survives the end of the process from now on, and a loss of power when [`LogProgress::durable_epoch`]
    /// is not before `epoch`.
    ///
    /// # Errors
    /// [`DatabaseError::DiskFull`]: nothing was appended, the buffer is as it was; a later call may find room.
    /// [`DatabaseError::Failed`]: the log has ended.
    pub fn append(&mut self, epoch: u64) -> Result<u32, DatabaseError> {
        self.append_frame(epoch, false)
    }

    /// [`ExecutorLog::append`] of what frees space on a disk that is full, or nearly so: it takes what was set aside
    /// for that.
    ///
    /// # Errors
    /// The same.
    pub fn append_to_reserve(&mut self, epoch: u64) -> Result<u32, DatabaseError> {
        self.append_frame(epoch, true)
    }

    fn append_frame(&mut self, epoch: u64, is_disk_full: bool) -> Result<u32, DatabaseError> {
        assert!(!self.buffer.is_empty(), "a frame says something");
        assert!(
            self.buffer.len() <= TURN_BYTES_MAX,
            "a turn may not append {} bytes",
            self.buffer.len()
        );
        let fields = FrameFields {
            epoch,
            ..FrameFields::default()
        };
        if is_disk_full {
            // Before a longer segment is tried, which would take the last room of the disk.
            self.writer.begin_reserve(&self.buffer)?;
        }
        let appended = self.writer.append(&mut self.buffer, fields)?;
        self.buffer.clear();
        self.hand_over_sealed();
        self.frees_space |= is_disk_full;
        self.open_bytes = u64::from(appended.end.offset);
        // The frame was published before: a sync that takes this epoch covers it.
        self.shared.appended_epoch.store(epoch, Ordering::Release);
        Ok(appended.start.segment)
    }

    /// The segment to which the next frame goes, or a later one.
    #[inline]
    pub fn open_segment(&self) -> u32 {
        self.writer.next_segment()
    }

    /// Hands what was appended to the checkpointer, which gets full segments anyway; the next frame begins a new
    /// segment.
    pub fn seal(&mut self) {
        let wanted = self.shared.checkpoints_wanted.load(Ordering::Acquire);
        self.writer.seal();
        self.hand_over_sealed();
        // Only now: whoever looks sees one or the other.
        self.shared.checkpoints_begun.store(wanted, Ordering::Release);
    }

    /// Whether [`LogProgress::ask_for_checkpoint`] was called since the last seal.
    #[inline]
    pub fn is_checkpoint_wanted(&self) -> bool {
        self.shared.is_checkpoint_wanted()
    }

    /// Whether the open segment has so many bytes, at least one, and the checkpointer has nothing else to do: one that
    /// is behind does not come further with more segments, each of which takes the room of a full one. If it finds no
    /// room on the disk, what was deleted since may help it.
    pub fn has_to_be_sealed(&self, bytes_min: u64, is_disk_full: bool) -> bool {
        self.open_bytes >= bytes_min.max(1) && (is_disk_full || self.shared.sealed_bytes() == 0)
    }

    /// The most bytes in memory that wait for the checkpointer.
    pub fn unclean_bytes_max(&self) -> usize {
        self.unclean_bytes_max
    }

    /// Bytes of the log that are not ingested: what a start after a crash would have to read.
    #[inline]
    pub fn unclean_bytes(&self) -> u64 {
        self.open_bytes + self.shared.sealed_bytes()
    }

    /// Whether the log has reached its bound: nothing should be written before more of it is ingested.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.unclean_bytes() >= self.shared.size_max
            || self.shared.sealed_file_bytes.load(Ordering::Acquire) >= self.shared.size_max
            || self.files.are_full_on_request()
    }

    /// The newest segment that is ingested with all before it; 0 if none is.
    #[inline]
    pub fn watermark(&self) -> u32 {
        self.shared.watermark()
    }

    fn hand_over_sealed(&mut self) {
        while let Some(segment) = self.writer.next_sealed() {
            self.open_bytes = 0;
            self.shared.push_sealed(segment, std::mem::take(&mut self.frees_space));
        }
    }
}

impl From<AppendError> for DatabaseError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::DiskFull(text) => DatabaseError::DiskFull(text),
            AppendError::FrameTooLong { .. } | AppendError::Failed(_) => DatabaseError::Failed(error.to_string()),
        }
    }
}

impl From<CheckpointError> for DatabaseError {
    fn from(error: CheckpointError) -> Self {
        match error.is_disk_full() {
            true => DatabaseError::DiskFull(error.to_string()),
            false => DatabaseError::Failed(error.to_string()),
        }
    }
}

impl From<LogFailure> for DatabaseError {
    fn from(failure: LogFailure) -> Self {
        DatabaseError::Failed(failure.to_string())
    }
}

/// How far a log is appended, durable and ingested: what its threads share.
pub struct LogProgress {
    log: Arc<SharedLog<LogFiles>>,
    size_max: u64,
    segment_len_max: u32,
    appended_epoch: AtomicU64,
    durable_epoch: AtomicU64,
    watermark: AtomicU32,
    /// Bytes of frames in segments that are sealed and not ingested.
    sealed_bytes: AtomicU64,
    /// Bytes of the files of those segments.
    sealed_file_bytes: AtomicU64,
    /// How often the executor was asked to seal what it has.
    checkpoints_wanted: AtomicU64,
    /// How many of these it has seen.
    checkpoints_begun: AtomicU64,
    backlog: Mutex<Backlog>,
    has_work: Condvar,
}

/// What waits for the checkpointer.
#[derive(Default)]
struct Backlog {
    /// As many as the bound of the log's size allows, the oldest first.
    sealed: VecDeque<SealedSegment>,
    /// One of these was written on a full disk, to free space, and the checkpointer does not know yet.
    frees_space: bool,
    is_stopping: bool,
}

/// Sealed segments that are ingested together: one neighbour of the other.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    first: u32,
    last: SealedSegment,
    bytes: u64,
    file_bytes: u64,
}

impl Window {
    fn of(segment: SealedSegment) -> Window {
        Window {
            first: segment.end.segment,
            last: segment,
            bytes: u64::from(segment.end.offset),
            file_bytes: u64::from(segment.file_len),
        }
    }

    /// Takes the next segment in.
    fn push(&mut self, next: SealedSegment) {
        assert_eq!(
            next.end.segment,
            self.last_segment() + 1,
            "segments are sealed in their order"
        );
        self.last = next;
        self.bytes += u64::from(next.end.offset);
        self.file_bytes += u64::from(next.file_len);
    }

    /// The newest segment.
    pub fn last_segment(&self) -> u32 {
        self.last.end.segment
    }

    /// Bytes of its frames.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl LogProgress {
    /// The newest epoch that has a frame.
    #[inline]
    pub fn appended_epoch(&self) -> u64 {
        self.appended_epoch.load(Ordering::Acquire)
    }

    /// All frames of epochs up to this one are on disk.
    #[inline]
    pub fn durable_epoch(&self) -> u64 {
        self.durable_epoch.load(Ordering::Acquire)
    }

    /// The newest segment that is ingested with all before it; 0 if none is.
    #[inline]
    pub fn watermark(&self) -> u32 {
        self.watermark.load(Ordering::Acquire)
    }

    /// Bytes of frames in segments that are sealed and not ingested.
    #[inline]
    fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Acquire)
    }

    /// Whether half of the room that the log may have is taken by what is sealed and not ingested.
    pub fn is_half_full(&self) -> bool {
        self.sealed_bytes() >= self.size_max / 2
    }

    /// Makes everything durable that was appended before the call; returns the newest epoch that it covers. Blocks for
    /// as long as the disk takes.
    ///
    /// # Errors
    /// A sync has failed, now or before: what the disk has is unknown, and the log has ended.
    pub fn sync(&self) -> Result<u64, DatabaseError> {
        // Before the sync: what is appended meanwhile may not be covered.
        let epoch = self.appended_epoch();
        self.log.sync()?;
        self.durable_epoch.fetch_max(epoch, Ordering::AcqRel);
        Ok(epoch)
    }

    /// Asks the executor to hand all that was appended to the checkpointer soon, whose log is short then.
    pub fn ask_for_checkpoint(&self) {
        self.checkpoints_wanted.fetch_add(1, Ordering::AcqRel);
    }

    #[inline]
    fn is_checkpoint_wanted(&self) -> bool {
        self.checkpoints_wanted.load(Ordering::Acquire) != self.checkpoints_begun.load(Ordering::Acquire)
    }

    /// Whether something that was asked for, or sealed otherwise, is not in RocksDB yet.
    pub fn is_checkpoint_running(&self) -> bool {
        self.is_checkpoint_wanted() || self.sealed_bytes() > 0
    }

    /// Whether a sync or a write has failed.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> Result<(), DatabaseError> {
        Ok(self.log.check()?)
    }

    /// Waits until segments are sealed, and takes the oldest of them; none when the log is being stopped and all was
    /// taken.
    pub fn wait_for_window(&self) -> Option<Window> {
        let mut backlog = self.lock();
        loop {
            if let Some(window) = self.take_window(&mut backlog) {
                return Some(window);
            }
            if backlog.is_stopping {
                return None;
            }
            backlog = self.has_work.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for so long; returns early, and false, when the log is being stopped.
    pub fn pause(&self, pause: Duration) -> bool {
        let waited = (self.has_work).wait_timeout_while(self.lock(), pause, |backlog| !backlog.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lets the checkpointer end when it has ingested what is sealed.
    pub fn stop(&self) {
        self.lock().is_stopping = true;
        self.has_work.notify_all();
    }

    /// Reads a window; the log must have been synced since it was sealed.
    pub(super) fn read_window(&self, window: &Window) -> Result<LogReader, ReadError> {
        LogReader::open_sealed(self.log.folder(), self.log.identity(), window.first, &window.last)
    }

    /// A window is in RocksDB, durably: notes that durably, and moves the watermark.
    pub(super) fn set_ingested(&self, window: &Window) -> Result<Checkpoint, DatabaseError> {
        let last = window.last_segment();
        let checkpoint = self.log.write_checkpoint(window.last.end)?;
        let before = self.watermark.swap(last, Ordering::AcqRel);
        assert_eq!(before + 1, window.first, "windows are ingested one after the other");
        // A wider one than was taken has these, too.
        self.lock().sealed.retain(|segment| segment.end.segment > last);
        self.sealed_bytes.fetch_sub(window.bytes, Ordering::AcqRel);
        self.sealed_file_bytes.fetch_sub(window.file_bytes, Ordering::AcqRel);
        Ok(checkpoint)
    }

    /// Makes files of segments before a checkpoint into files for later ones. What does not succeed is tried again with
    /// the next checkpoint.
    pub(super) fn recycle(&self, checkpoint: &Checkpoint, window: &Window) {
        let is_disk_short = preflight::free_bytes(self.log.folder()).is_ok_and(|free| free < SPARES_FREE_BYTES_MIN);
        let recycled = self.log.recycle(checkpoint);
        let recycled = recycled.and_then(|()| self.log.prepare_reserve(RESERVE_SEGMENTS));
        let prepared = match window.last.file_len >= self.segment_len_max {
            _ if is_disk_short => self.log.remove_spares(),
            // A log that has come to its longest segments will need another one soon.
            true => self.log.prepare_spares(1),
            false => Ok(()),
        };
        if let Err(error) = recycled.and(prepared) {
            tracing::warn!(folder = %self.log.folder().display(), %error, "files of the log cannot be recycled");
        }
    }

    /// A window with all that was sealed since this one was taken, if something of that frees space and was not told
    /// yet: this one finds no room in RocksDB, and may need less together with what deletes much of it. For the little
    /// that this needs the log makes room. All of the window is in memory then, which the bound of the log's size
    /// bounds.
    pub fn wider(&self, window: &Window) -> Option<Window> {
        let mut backlog = self.lock();
        if !std::mem::take(&mut backlog.frees_space) {
            return None;
        }
        let mut wider = *window;
        backlog.sealed.iter().for_each(|segment| wider.push(*segment));
        drop(backlog);
        if let Err(error) = self.log.make_room() {
            tracing::warn!(folder = %self.log.folder().display(), %error, "a log cannot make room");
        }
        Some(wider)
    }

    fn push_sealed(&self, segment: SealedSegment, frees_space: bool) {
        self.sealed_bytes
            .fetch_add(u64::from(segment.end.offset), Ordering::AcqRel);
        self.sealed_file_bytes
            .fetch_add(u64::from(segment.file_len), Ordering::AcqRel);
        let mut backlog = self.lock();
        backlog.sealed.push_back(segment);
        backlog.frees_space |= frees_space;
        drop(backlog);
        self.has_work.notify_all();
    }

    fn take_window(&self, backlog: &mut Backlog) -> Option<Window> {
        let mut window = Window::of(backlog.sealed.pop_front()?);
        let bytes_max = WINDOW_BYTES_MAX.min(self.size_max / SEGMENTS_MIN);
        while let Some(next) = backlog.sealed.front()
            && window.bytes + u64::from(next.end.offset) <= bytes_max
        {
            window.push(*next);
            backlog.sealed.pop_front();
        }
        Some(window)
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
