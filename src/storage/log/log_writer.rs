//! The executor's side of a log: one buffered `pwrite` a frame.
//!
//! **A full disk leaves the log whole.** Space is allocated when a segment begins, so most full disks are met there,
//! and nothing was written then: the frame does not count, and the next one may find room, also in the segment that is
//! being written. On a file system without preallocation a frame may be cut in the middle. What was written of it could
//! pass for a frame (if the missing bytes are zeros, say): its header is overwritten with zeros and synced, so that no
//! loss of power brings the frame back whose writers were told that the disk is full. Every other failure ends the log:
//! it is not known what reached the disk.
//!
//! **A write never waits for a read.** The first write that touches a block of the file writes all of it, with zeros
//! behind the frame. Otherwise the kernel would have to read what a recycled file has there, if it is not in the page
//! cache any more, and the executor would wait for the disk once a block.

use super::frame::{FRAME_ALIGNMENT, FRAME_LEN_MAX, FrameBuffer, FrameFields, FrameSeed, TERMINATOR_LEN};
use super::log_disk::{LogDisk, PartialWrite, RealDisk, is_disk_full, write_all_at};
use super::log_position::{LogIdentity, LogPosition};
use super::segment::{SEGMENT_HEADER_LEN, SegmentHeader, segment_path};
use super::shared_log::{LogCreateError, LogFailure, LogOptions, SharedLog};
use super::spare_segments::Spare;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the kernel reads and writes as a whole. Lengths of segment files are multiples of this.
const BLOCK_LEN: usize = 4096;

/// Why a frame was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum AppendError {
    /// Nothing of the frame counts; the next one may find room.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// Nothing was written; the next frame may be shorter.
    #[error("a frame of {len} bytes is longer than {FRAME_LEN_MAX}")]
    FrameTooLong { len: usize },
    /// The log takes nothing any more.
    #[error(transparent)]
    Failed(#[from] LogFailure),
}

/// Where a frame was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it begins.
    pub start: LogPosition,
    /// Where it ends: the frame is durable when [`SharedLog::durable`] is not before this.
    pub end: LogPosition,
}

/// A segment that gets no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Where its frames end.
    pub end: LogPosition,
    /// Bytes of its file.
    pub file_len: u32,
}

/// What a segment's file must have for a frame.
fn segment_len_for(frame_len: usize) -> u32 {
    (SEGMENT_HEADER_LEN + frame_len).next_multiple_of(BLOCK_LEN) as u32
}

/// Appends frames to a log. Belongs to one thread.
pub struct LogWriter<D: LogDisk = RealDisk> {
    log: Arc<SharedLog<D>>,
    /// The segment that is being written; none before the first frame, and behind a seal.
    open: Option<OpenSegment<D::File>>,
    /// Where the next frame goes, or where the newest one ends if no segment is open.
    position: LogPosition,
    epoch: u64,
    /// What the segment was that began last, or the first one's length.
    segment_len: u32,
    /// Those that nobody has asked for yet, the oldest first: as many as segments were filled between two questions.
    sealed: VecDeque<SealedSegment>,
}

struct OpenSegment<F> {
    file: Arc<F>,
    len: u32,
    seed: FrameSeed,
    /// The end of the blocks that were written since the segment began: behind it may be anything.
    written_blocks_end: u32,
}

impl<F> OpenSegment<F> {
    /// Up to where the write of a frame goes that ends at `frame_end`: over the terminator, and to the end of the block
    /// if nothing was written in it.
    fn write_end(&self, frame_end: u32) -> u32 {
        let terminated = (frame_end + TERMINATOR_LEN as u32).min(self.len);
        if terminated <= self.written_blocks_end {
            terminated
        } else {
            terminated.next_multiple_of(BLOCK_LEN as u32)
        }
    }
}

impl<D: LogDisk> LogWriter<D> {
    /// Begins the log of a new generation in its own folder below `logs`.
    ///
    /// # Errors
    /// The folder cannot be created, or has segments.
    pub fn create_on(
        disk: D,
        logs: &Path,
        identity: LogIdentity,
        options: LogOptions,
    ) -> Result<LogWriter<D>, LogCreateError> {
        assert!(
            options.segment_len_first > 0
                && (options.segment_len_first as usize).is_multiple_of(BLOCK_LEN)
                && (options.segment_len_max as usize).is_multiple_of(BLOCK_LEN)
                && options.segment_len_first <= options.segment_len_max
                && options.segment_len_max as usize <= FRAME_LEN_MAX,
            "segments of {} to {} bytes are not possible: they are blocks of {BLOCK_LEN}",
            options.segment_len_first,
            options.segment_len_max
        );
        Ok(LogWriter {
            log: Arc::new(SharedLog::create(disk, logs, identity, options)?),
            open: None,
            position: LogPosition::START,
            epoch: 0,
            segment_len: options.segment_len_first,
            sealed: VecDeque::new(),
        })
    }

    /// What other threads use of this log.
    pub fn shared(&self) -> Arc<SharedLog<D>> {
        Arc::clone(&self.log)
    }

    /// Appends the frame that was built in `buffer`, which keeps its payload. When this returns, the frame survives the
    /// end of the process; whether power may fail is what [`SharedLog::durable`] says.
    ///
    /// # Errors
    /// [`AppendError`]. Nothing of the frame counts.
    pub fn append(&mut self, buffer: &mut FrameBuffer, fields: FrameFields) -> Result<Appended, AppendError> {
        self.log.check()?;
        let len = buffer.frame_len();
        if len > FRAME_LEN_MAX {
            return Err(AppendError::FrameTooLong { len });
        }
        assert!(
            fields.epoch >= self.epoch,
            "epoch {} comes behind epoch {}",
            fields.epoch,
            self.epoch
        );
        if self.room() < len {
            self.begin_segment(len)?;
        }
        let segment = self.open.as_mut().expect("a segment was begun");
        let start = self.position;
        let frame_end = start.offset + len as u32;
        let write_end = segment.write_end(frame_end);
        let zeros = (write_end - frame_end) as usize;
        let synced = self.log.durable();
        let written = buffer.with_frame(segment.seed, start.offset, fields, synced, zeros, |bytes| {
            write_all_at(&*segment.file, bytes, start.offset)
        });
        if let Err(partial) = written {
            return Err(self.refuse_frame(partial));
        }
        segment.written_blocks_end = segment.written_blocks_end.max(write_end);
        self.epoch = fields.epoch;
        self.position.offset = frame_end;
        let end = self.position;
        self.log.set_appended(end);
        Ok(Appended { start, end })
    }

    /// Ends the segment that is being written, if it has frames; the next frame begins another one.
    pub fn seal(&mut self) {
        if self.position.offset > SEGMENT_HEADER_LEN as u32
            && let Some(segment) = self.open.take()
        {
            self.note_sealed(&segment);
        }
    }

    /// The oldest sealed segment that was not given yet. The caller syncs the log before it uses what is in it.
    pub fn next_sealed(&mut self) -> Option<SealedSegment> {
        self.sealed.pop_front()
    }

    /// The segment to which the next frame goes, or a later one if there is no room for it.
    pub fn next_segment(&self) -> u32 {
        match self.open {
            Some(_) => self.position.segment,
            None => self.position.segment + 1,
        }
    }

    /// Bytes that are left in the segment that is being written.
    fn room(&self) -> usize {
        self.open
            .as_ref()
            .map_or(0, |segment| (segment.len - self.position.offset) as usize)
    }

    fn note_sealed(&mut self, segment: &OpenSegment<D::File>) {
        self.sealed.push_back(SealedSegment {
            end: self.position,
            file_len: segment.len,
        });
    }

    /// Begins a segment that has room for a frame of `frame_len` bytes. The one before stays as it is if that fails.
    fn begin_segment(&mut self, frame_len: usize) -> Result<(), AppendError> {
        let LogOptions {
            segment_len_first,
            segment_len_max,
            ..
        } = self.log.options;
        let needed = segment_len_for(frame_len);
        // One that is sealed on request says nothing about how much is written.
        let growth = if self.open.is_some() { 2 } else { 1 };
        let wanted = self.segment_len.saturating_mul(growth).min(segment_len_max);
        let mut created = self.create_segment(wanted.max(needed));
        let smallest = segment_len_first.max(needed);
        if created.as_ref().is_err_and(is_disk_full) && smallest < wanted {
            created = self.create_segment(smallest);
        }
        let begun = created.map_err(|error| {
            if is_disk_full(&error) {
                AppendError::DiskFull(error.to_string())
            } else {
                self.log.fail("the beginning of a segment", &error).into()
            }
        })?;
        self.segment_len = wanted;
        self.enter(begun);
        Ok(())
    }

    /// Begins a segment in what [`SharedLog::prepare_reserve`] has set aside, if the frame does not fit the one that is
    /// being written; returns whether it has room now. The caller decides what deserves that.
    ///
    /// # Errors
    /// [`LogFailure`]: the log takes nothing any more.
    pub fn begin_reserve(&mut self, buffer: &FrameBuffer) -> Result<bool, LogFailure> {
        let len = buffer.frame_len();
        if self.room() >= len {
            return Ok(true);
        }
        let Some(spare) = self.log.spares.take_reserve(segment_len_for(len)) else {
            return Ok(false);
        };
        let begun = self.log.disk.open(&spare.path);
        match begun.and_then(|file| self.begin_in(spare, file)) {
            Ok(begun) => {
                self.enter(begun);
                Ok(true)
            }
            Err(error) if is_disk_full(&error) => Ok(false),
            Err(error) => Err(self.log.fail("the beginning of a segment", &error)),
        }
    }

    /// Goes on in a segment that was begun.
    fn enter(&mut self, (segment, number): (OpenSegment<D::File>, u32)) {
        if let Some(full) = self.open.take() {
            if self.log.appended() < self.position {
                // A full disk took back each frame that the segment was to have: its end is its header's.
                self.log.set_appended(self.position);
            }
            self.note_sealed(&full);
        }
        self.log.begin_file(number, Arc::clone(&segment.file));
        self.open = Some(segment);
        self.position = LogPosition {
            segment: number,
            offset: SEGMENT_HEADER_LEN as u32,
        };
    }

    /// Makes a spare or a new file the next segment.
    fn create_segment(&self, len: u32) -> io::Result<(OpenSegment<D::File>, u32)> {
        let log = &*self.log;
        let (spare, file) = match log.spares.take(len) {
            Some(spare) => {
                let file = log.disk.open(&spare.path)?;
                (spare, file)
            }
            None => {
                let path = log.spares.new_path();
                let file = log.disk.create(&path, len)?;
                (Spare { path, len }, file)
            }
        };
        self.begin_in(spare, file)
    }

    /// Makes a file the next segment. The file gets its name last, so that a process that is killed leaves no segment
    /// without a header.
    fn begin_in(&self, spare: Spare, file: D::File) -> io::Result<(OpenSegment<D::File>, u32)> {
        let log = &*self.log;
        let number = self
            .position
            .segment
            .checked_add(1)
            .expect("a log has less than 2^32 segments");
        let header = SegmentHeader {
            identity: log.identity,
            segment: number,
            previous_end: self.position.offset,
            synced: log.durable(),
        };
        let mut bytes = [0; BLOCK_LEN];
        bytes[..SEGMENT_HEADER_LEN].copy_from_slice(&header.encode());
        let begun = write_all_at(&file, &bytes, 0)
            .map_err(|partial| partial.error)
            .and_then(|()| log.disk.rename(&spare.path, &segment_path(&log.folder, number)));
        if let Err(error) = begun {
            // The first error is the one to report. A file that stays is no segment.
            let _ = log.disk.remove(&spare.path);
            return Err(error);
        }
        let segment = OpenSegment {
            file: Arc::new(file),
            len: spare.len,
            seed: FrameSeed::new(log.identity, number),
            written_blocks_end: BLOCK_LEN as u32,
        };
        Ok((segment, number))
    }

    /// What a failed write of a frame means. A frame that a full disk has cut is taken back.
    fn refuse_frame(&self, PartialWrite { written, error }: PartialWrite) -> AppendError {
        if !is_disk_full(&error) {
            return self.log.fail("a write", &error).into();
        }
        if written > 0 {
            let file = &*self.open.as_ref().expect("a frame was written").file;
            // These bytes were written before, as the terminator of the frame before: no space is asked for.
            let withdrawn = write_all_at(file, &[0; FRAME_ALIGNMENT], self.position.offset)
                .map_err(|partial| self.log.fail("a write after a full disk", &partial.error))
                .and_then(|()| self.log.sync_withdrawn(file));
            if let Err(failure) = withdrawn {
                return failure.into();
            }
        }
        AppendError::DiskFull(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::log::log_reader::{LogEnd, LogReader, Next};
    use crate::storage::log::segment::segments_in;
    use crate::storage::log::test_disk::{Faults, IDENTITY, TestDisk};
    use crate::storage::seeded_random;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore};
    use tempfile::TempDir;

    const SMALL: LogOptions = LogOptions {
        segment_len_first: 4096,
        segment_len_max: 16384,
        spares_max: 3,
    };

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn writer(disk: &TestDisk, logs: &TempDir, options: LogOptions) -> LogWriter<TestDisk> {
        LogWriter::create_on(disk.clone(), logs.path(), IDENTITY, options).expect("a new log")
    }

    fn payload(random: &mut StdRng, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        random.fill_bytes(&mut bytes);
        bytes
    }

    fn append<D: LogDisk>(writer: &mut LogWriter<D>, epoch: u64, payload: &[u8]) -> Result<Appended, AppendError> {
        let mut buffer = FrameBuffer::new();
        buffer.extend(payload);
        let fields = FrameFields {
            epoch,
            ..FrameFields::default()
        };
        writer.append(&mut buffer, fields)
    }

    /// The payloads of a log that is not damaged, from a segment on, and how it ends.
    fn read(folder: &Path, first_segment: u32) -> (Vec<Vec<u8>>, LogEnd) {
        let mut reader = LogReader::open_range(folder, IDENTITY, first_segment, None).expect("a log");
        let mut payloads = Vec::new();
        loop {
            match reader.next_frame().expect("a log that is not damaged") {
                Next::Frame(frame) => payloads.push(frame.payload.to_vec()),
                Next::End(end) => return (payloads, end),
            }
        }
    }

    #[test]
    fn frames_are_read_as_they_were_appended() {
        let logs = folder();
        let mut writer = LogWriter::create_on(RealDisk, logs.path(), IDENTITY, SMALL).expect("a new log");
        let fields = FrameFields {
            epoch: 5,
            index: 6,
            flags: 7,
        };
        let mut buffer = FrameBuffer::new();
        buffer.extend(b"first");
        let first = writer.append(&mut buffer, fields).expect("there is room");
        assert_eq!(first.start, LogPosition { segment: 1, offset: 64 });
        assert_eq!(
            first.end,
            LogPosition {
                segment: 1,
                offset: 112
            }
        );
        assert_eq!(writer.shared().sync(), Ok(first.end));
        buffer.clear();
        let second = writer.append(&mut buffer, fields).expect("a frame may be empty");
        let mut reader = LogReader::open(writer.shared().folder(), IDENTITY, 1).expect("a log");
        for (appended, synced, payload) in [(first, LogPosition::START, &b"first"[..]), (second, first.end, b"")] {
            let Next::Frame(frame) = reader.next_frame().expect("a whole log") else {
                panic!("a frame is missing");
            };
            assert_eq!((frame.start, frame.end), (appended.start, appended.end));
            assert_eq!((frame.fields, frame.synced, frame.payload), (fields, synced, payload));
        }
        let end = LogEnd::Clean { at: second.end };
        assert_eq!(reader.next_frame().expect("a whole log"), Next::End(end));
    }

    #[test]
    fn thousands_of_frames_go_through_segments_that_are_recycled() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let log = writer.shared();
        let mut unread: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut first_segment, mut lens) = (1, Vec::new());
        for epoch in 0..6000 {
            let len = match random.random_range(0..100) {
                0 => random.random_range(0..40_000),
                1..10 => random.random_range(0..3000),
                _ => random.random_range(0..200),
            };
            let bytes = payload(&mut random, len);
            append(&mut writer, epoch, &bytes).expect("there is room");
            unread.push_back(bytes);
            if random.random_ratio(1, 200) {
                writer.seal();
            }
            let mut last = None;
            while let Some(sealed) = writer.next_sealed() {
                lens.push(sealed.file_len);
                last = Some(sealed);
            }
            let Some(last) = last.filter(|_| random.random_ratio(1, 3)) else {
                continue;
            };
            // What the checkpointer does.
            assert_eq!(log.sync(), Ok(log.appended()));
            let mut reader = LogReader::open_sealed(log.folder(), IDENTITY, first_segment, &last).expect("segments");
            loop {
                match reader.next_frame().expect("segments that are whole") {
                    Next::Frame(frame) => assert_eq!(Some(frame.payload), unread.pop_front().as_deref()),
                    Next::End(end) => break assert_eq!(end, LogEnd::Clean { at: last.end }),
                }
            }
            first_segment = last.end.segment + 1;
            let checkpoint = log.write_checkpoint(last.end).expect("a checkpoint");
            log.recycle(&checkpoint).expect("recycling");
            let files = std::fs::read_dir(log.folder()).expect("the folder").count();
            assert!(files <= 1 + SMALL.spares_max + segments_in(log.folder()).expect("the folder").len());
        }
        assert!([4096, 16384].iter().all(|len| lens.contains(len)) && lens.iter().any(|len| *len > 16384));
        let (payloads, end) = read(log.folder(), first_segment);
        assert_eq!(payloads, Vec::from(unread));
        assert_eq!(end, LogEnd::Clean { at: log.appended() });
    }

    #[test]
    fn segments_double_when_they_were_full_and_not_when_they_were_sealed() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let mut lens = Vec::new();
        for epoch in 0..60 {
            append(&mut writer, epoch, &[1; 1000]).expect("there is room");
            if epoch < 2 {
                writer.seal();
            }
            lens.extend(writer.next_sealed().map(|sealed| sealed.file_len));
        }
        assert_eq!(lens, [4096, 4096, 4096, 8192, 16384, 16384, 16384]);
    }

    #[test]
    fn a_frame_longer_than_a_segment_gets_one_of_its_own() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let payloads = [10, 100_000, 20, 3_000_000, 30].map(|len| payload(&mut random, len));
        let segments: Vec<u32> = (0..)
            .zip(&payloads)
            .map(|(epoch, payload)| append(&mut writer, epoch, payload).expect("there is room").end.segment)
            .collect();
        assert_eq!((segments[0], segments[1], segments[3]), (1, 2, 3));
        let log = writer.shared();
        assert_eq!(read(log.folder(), 1).0, payloads);
        for segment in segments_in(log.folder()).expect("the folder") {
            let len = std::fs::metadata(segment_path(log.folder(), segment))
                .expect("a segment")
                .len();
            assert!(
                len <= 16384 || [2, 3].contains(&segment),
                "segment {segment} has {len} bytes"
            );
        }
    }

    #[test]
    fn a_seal_without_frames_does_nothing() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        writer.seal();
        assert_eq!(writer.next_sealed(), None);
        let end = append(&mut writer, 1, b"frame").expect("there is room").end;
        writer.seal();
        writer.seal();
        assert_eq!(writer.next_sealed(), Some(SealedSegment { end, file_len: 4096 }));
        assert_eq!(writer.next_sealed(), None);
        assert_eq!(
            append(&mut writer, 1, b"frame").expect("there is room").start.segment,
            2
        );
    }

    #[test]
    #[should_panic(expected = "epoch 4 comes behind epoch 5")]
    fn epochs_never_decrease() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        append(&mut writer, 5, b"").expect("there is room");
        let _ = append(&mut writer, 4, b"");
    }

    #[test]
    fn a_generation_that_has_segments_is_not_written_again() {
        let (logs, disk) = (folder(), TestDisk::default());
        append(&mut writer(&disk, &logs, SMALL), 1, b"frame").expect("there is room");
        let again = LogWriter::create_on(RealDisk, logs.path(), IDENTITY, SMALL);
        assert!(matches!(again, Err(LogCreateError::Exists { .. })));
    }

    #[test]
    fn short_writes_are_gone_on_with() {
        let (logs, disk) = (folder(), TestDisk::default());
        disk.set_faults(Faults {
            write_len_max: Some(7),
            ..Faults::default()
        });
        let mut writer = writer(&disk, &logs, SMALL);
        let payloads = [&b"one frame"[..], b"", b"another frame, a longer one"];
        for payload in payloads {
            append(&mut writer, 1, payload).expect("there is room");
        }
        assert_eq!(read(writer.shared().folder(), 1).0, payloads);
    }

    #[test]
    fn a_failed_write_ends_the_log_for_ever() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        append(&mut writer, 1, b"kept").expect("there is room");
        disk.set_faults(Faults {
            fail_writes: true,
            ..Faults::default()
        });
        let failed = append(&mut writer, 2, b"lost").expect_err("an injected failure");
        assert!(matches!(&failed, AppendError::Failed(failure) if failure.to_string().contains("a write in ")));
        disk.set_faults(Faults::default());
        assert_eq!(
            append(&mut writer, 3, b"refused"),
            Err(failed),
            "the disk is well again, the log is not"
        );
        assert!(writer.shared().check().is_err());
        assert_eq!(read(writer.shared().folder(), 1).0, [b"kept"]);
    }

    #[test]
    fn a_segment_that_finds_no_space_leaves_the_one_before_as_it_was() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        let pages = |pages_left| Faults {
            pages_left: Some(pages_left),
            preallocates: true,
            ..Faults::default()
        };
        disk.set_faults(pages(1));
        let mut writer = writer(&disk, &logs, SMALL);
        let [first, long, short, last] = [1000, 3500, 500, 3600].map(|len| payload(&mut random, len));
        append(&mut writer, 1, &first).expect("one segment has space");
        let full = append(&mut writer, 2, &long).expect_err("no second one has");
        assert!(matches!(full, AppendError::DiskFull(_)), "{full}");
        append(&mut writer, 3, &short).expect("the first segment has room for this one");
        let full = append(&mut writer, 4, &last).expect_err("no second one has");
        assert!(matches!(full, AppendError::DiskFull(_)), "{full}");
        disk.set_faults(pages(1));
        let appended = append(&mut writer, 5, &last).expect("a short segment finds space when a long one does not");
        assert_eq!(appended.start, LogPosition { segment: 2, offset: 64 });
        assert_eq!(read(writer.shared().folder(), 1).0, [first, short, last]);
        assert_eq!(writer.shared().sync(), Ok(appended.end));
    }

    #[test]
    fn a_spare_needs_no_room_on_a_full_disk() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let preallocating = Faults {
            preallocates: true,
            ..Faults::default()
        };
        disk.set_faults(preallocating);
        writer.shared().prepare_spares(1).expect("there is space");
        disk.set_faults(Faults {
            pages_left: Some(0),
            ..preallocating
        });
        append(&mut writer, 1, b"SET").expect("there is a spare");
        writer.seal();
        assert!(matches!(append(&mut writer, 2, b"SET"), Err(AppendError::DiskFull(_))));
    }

    /// Where nothing is preallocated a segment may begin, and then find no room for any frame.
    #[test]
    fn a_segment_for_which_the_disk_has_no_frame_s_room_is_ingested_as_any_other() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let log = writer.shared();
        for (epoch, len) in [(1, 6000), (2, 20_000), (3, 70_000)] {
            disk.set_faults(Faults {
                pages_left: Some(1),
                ..Faults::default()
            });
            let refused = append(&mut writer, epoch, &payload(&mut random, len));
            assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{len}: {refused:?}");
        }
        disk.set_faults(Faults::default());
        let last = payload(&mut random, 100_000);
        append(&mut writer, 4, &last).expect("there is room again");
        writer.seal();
        let mut first_segment = 1;
        while let Some(sealed) = writer.next_sealed() {
            log.sync().expect("a sync");
            let mut reader = LogReader::open_sealed(log.folder(), IDENTITY, first_segment, &sealed).expect("a log");
            if let Next::Frame(frame) = reader.next_frame().expect("a whole log") {
                assert_eq!((frame.payload, frame.fields.epoch), (&last[..], 4));
            }
            first_segment = sealed.end.segment + 1;
            let checkpoint = log.write_checkpoint(sealed.end).expect("a checkpoint");
            log.recycle(&checkpoint).expect("recycling");
        }
        assert_eq!(first_segment, 5, "three had no frame, and one had");
        append(&mut writer, 5, b"frame").expect("there is room");
        assert_eq!(read(log.folder(), first_segment).0, [b"frame"]);
    }

    #[test]
    fn what_is_set_aside_takes_frames_on_a_full_disk_when_it_is_asked_for() {
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = writer(&disk, &logs, SMALL);
        let preallocating = Faults {
            preallocates: true,
            ..Faults::default()
        };
        disk.set_faults(preallocating);
        let log = writer.shared();
        append(&mut writer, 1, &[1; 1000]).expect("there is room");
        log.prepare_reserve(2).expect("there is room");
        disk.set_faults(Faults {
            pages_left: Some(0),
            ..preallocating
        });
        let mut buffer = FrameBuffer::new();
        let fields = |epoch| FrameFields {
            epoch,
            ..FrameFields::default()
        };
        let mut payloads = vec![vec![1; 1000]];
        for epoch in [2, 3] {
            buffer.clear();
            buffer.extend(&[epoch as u8; 4000]);
            let refused = writer.append(&mut buffer, fields(epoch));
            assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}");
            assert_eq!(
                writer.begin_reserve(&buffer),
                Ok(false),
                "it is too long for what is set aside"
            );
            buffer.clear();
            buffer.extend(&[epoch as u8; 3900]);
            for _ in 0..2 {
                assert_eq!(writer.begin_reserve(&buffer), Ok(true));
            }
            writer
                .append(&mut buffer, fields(epoch))
                .expect("there is a segment for it");
            payloads.push(buffer.payload().to_vec());
        }
        assert_eq!(writer.begin_reserve(&buffer), Ok(false), "all is used");
        assert_eq!(log.sync(), Ok(log.appended()));
        assert_eq!(read(log.folder(), 1).0, payloads);
        disk.set_faults(preallocating);
        log.prepare_reserve(2).expect("there is room again");
        assert_eq!(writer.begin_reserve(&buffer), Ok(true));
    }

    #[test]
    fn a_frame_that_a_full_disk_has_cut_never_counts() {
        let mut random = seeded_random::printed();
        for round in 0..40 {
            let (logs, disk) = (folder(), TestDisk::default());
            let mut writer = writer(&disk, &logs, SMALL);
            let log = writer.shared();
            let mut appended = Vec::new();
            let mut epoch = 0;
            for _ in 0..6 {
                disk.set_faults(Faults {
                    pages_left: Some(random.random_range(0..3)),
                    ..Faults::default()
                });
                for _ in 0..6 {
                    epoch += 1;
                    let len = random.random_range(0..5000);
                    // Half of them end in zeros: what is missing of such a frame is in a new file already.
                    let mut bytes = payload(&mut random, len);
                    if random.random() {
                        bytes[random.random_range(0..=len)..].fill(0);
                    }
                    match append(&mut writer, epoch, &bytes) {
                        Ok(_) => appended.push(bytes),
                        Err(AppendError::DiskFull(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if log.appended() > LogPosition::START {
                        let (payloads, end) = read(log.folder(), 1);
                        assert!(payloads == appended, "round {round}, epoch {epoch}: {end:?}");
                    }
                }
            }
            // Nor when power fails: whatever is kept is a beginning of what was appended.
            let left = folder();
            disk.lose_power(&mut random, left.path());
            let (payloads, _) = read(left.path(), 1);
            assert!(appended.starts_with(&payloads), "round {round}");
        }
    }
}
