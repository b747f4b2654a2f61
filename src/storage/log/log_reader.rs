//! Reads a log: for recovery, and for the checkpointer.
//!
//! **Torn or damaged.** A log ends at the first frame that cannot be read. If that frame was never synced, the kill or
//! the loss of power took it, and what lies behind it was not synced either: the log is *torn*, and ends before it. If
//! a later frame or segment says (`synced`) that the frame was on disk, acknowledged data is *damaged*: nothing may be
//! started from such a log. Behind every end there is a search for later frames, at each multiple of 8, since a page
//! that has become zeros looks like an end.
//!
//! **Recovery syncs the log before it reads it.** After a kill, frames are read from the page cache. If they went to
//! RocksDB and power failed then, RocksDB would be ahead of the log, and the next recovery would put older cells over
//! newer ones.

use super::frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, FrameFields, FrameHeader, FrameSeed};
use super::log_disk::is_damage;
use super::log_position::{LogIdentity, LogPosition};
use super::log_writer::SealedSegment;
use super::segment::{NoSegment, SEGMENT_HEADER_LEN, SegmentHeader, segment_path, segments_in};
use crate::faults;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are read at once, unless a frame is longer: enough that system calls do not count.
const READ_LEN: usize = 1 << 20;

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where it begins.
    pub start: LogPosition,
    /// Where it ends.
    pub end: LogPosition,
    /// What it says beside its payload.
    pub fields: FrameFields,
    /// The position that was known to be durable when it was written.
    pub synced: LogPosition,
    /// What it carries.
    pub payload: &'a [u8],
}

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Nothing: all that was promised to be kept was read.
    End(LogEnd),
}

/// How a log ends that is not damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// Behind its newest frame.
    Clean {
        /// Where that is.
        at: LogPosition,
    },
    /// Where the process was killed or power failed in the middle of something that was not synced.
    Torn {
        /// Where that is.
        at: LogPosition,
        /// Frames behind that can be read, which are lost with it: their order is broken.
        frames_behind: u64,
    },
}

/// Something in a log that was synced and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file in which it is.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u32,
    /// What is wrong there.
    pub reason: &'static str,
    /// Later frames that can be read.
    pub frames_behind: u64,
    /// The newest position that they say was on disk.
    pub synced: LogPosition,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage {
            file,
            offset,
            reason,
            frames_behind,
            synced,
        } = self;
        write!(
            formatter,
            "{} is damaged at byte {offset}: {reason}; {frames_behind} readable frames come behind",
            file.display()
        )?;
        if *synced > LogPosition::START {
            write!(formatter, ", and the log was on disk up to {synced}")?;
        }
        Ok(())
    }
}

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum ReadError {
    #[error("cannot read {path}: {error}; check the file's owner, mode and disk")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "cannot read {path}, and its disk is damaged: {error}; restore the data directory from a backup, or copy it \
         and start once with --load-damaged-log yes to go on without what comes after"
    )]
    DiskDamaged { path: PathBuf, error: io::Error },
    #[error("{path} has format {found}, which this version does not know; use the version that wrote it")]
    OtherFormat { path: PathBuf, found: u32 },
    #[error("{0}: acknowledged writes are lost; restore the data directory from a backup")]
    Damaged(Damage),
}

impl ReadError {
    fn of_file(path: &Path, error: io::Error) -> ReadError {
        let path = path.to_owned();
        match is_damage(&error) {
            true => ReadError::DiskDamaged { path, error },
            false => ReadError::Unreadable { path, error },
        }
    }

    /// Whether something was there that is lost.
    pub fn is_damage(&self) -> bool {
        matches!(self, ReadError::Damaged(_) | ReadError::DiskDamaged { .. })
    }
}

/// Reads the frames of a log in order.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    identity: LogIdentity,
    /// The numbers of the segments from the first needed one on, without gaps.
    segments: Vec<u32>,
    /// The segment that is being read; none if there is none.
    segment: Option<SegmentBytes>,
    /// Where the next frame is.
    position: LogPosition,
    /// Where reading ends, if that is known beforehand.
    until: Option<LogPosition>,
    epoch: u64,
    end: Option<LogEnd>,
}

impl LogReader {
    /// Reads the log in `folder` from `first_segment` to where it ends, after a start. Nobody writes it any more.
    ///
    /// # Errors
    /// [`ReadError`]; also if a segment is missing between others.
    pub fn open(folder: &Path, identity: LogIdentity, first_segment: u32) -> Result<LogReader, ReadError> {
        sync_segments(folder, first_segment)?;
        LogReader::open_range(folder, identity, first_segment, None)
    }

    /// Reads a log in which a segment is missing, up to there, or one that a damaged disk cannot sync.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_before_gap(folder: &Path, identity: LogIdentity, first_segment: u32) -> Result<LogReader, ReadError> {
        match sync_segments(folder, first_segment) {
            Err(error) if !error.is_damage() => return Err(error),
            _ => {}
        }
        let mut reader = LogReader::new(folder, identity, first_segment, None)?;
        let expected = first_segment..;
        let is_there = |(segment, expected): &(u32, u32)| segment == expected;
        let without_gap = reader
            .segments
            .iter()
            .copied()
            .zip(expected)
            .take_while(is_there)
            .count();
        reader.segments.truncate(without_gap);
        Ok(reader)
    }

    /// Reads sealed and synced segments up to the end of `last`, while later ones are being written.
    ///
    /// # Errors
    /// [`ReadError`]: in these, everything that cannot be read is damage.
    pub fn open_sealed(
        folder: &Path,
        identity: LogIdentity,
        first_segment: u32,
        last: &SealedSegment,
    ) -> Result<LogReader, ReadError> {
        LogReader::open_range(folder, identity, first_segment, Some(last.end))
    }

    /// Does not sync what it reads.
    pub(super) fn open_range(
        folder: &Path,
        identity: LogIdentity,
        first_segment: u32,
        until: Option<LogPosition>,
    ) -> Result<LogReader, ReadError> {
        let mut reader = LogReader::new(folder, identity, first_segment, until)?;
        reader.refuse_missing_segment(first_segment)?;
        Ok(reader)
    }

    fn new(
        folder: &Path,
        identity: LogIdentity,
        first_segment: u32,
        until: Option<LogPosition>,
    ) -> Result<LogReader, ReadError> {
        let unreadable = |error| ReadError::of_file(folder, error);
        let segment_last = until.map_or(u32::MAX, |until| until.segment);
        let mut segments = segments_in(folder).map_err(unreadable)?;
        segments.retain(|segment| (first_segment..=segment_last).contains(segment));
        Ok(LogReader {
            folder: folder.to_owned(),
            identity,
            segments,
            segment: None,
            position: LogPosition {
                segment: first_segment,
                offset: 0,
            },
            until,
            epoch: 0,
            end: None,
        })
    }

    /// The next frame, or the log's end. Frames that were given before a damage is found are right, but not all.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_frame(&mut self) -> Result<Next<'_>, ReadError> {
        while self.end.is_none() {
            if self.until == Some(self.position) {
                self.end = Some(LogEnd::Clean { at: self.position });
                break;
            }
            if self.position.offset == 0 {
                self.enter_first_segment()?;
                continue;
            }
            let start = self.position;
            let segment = self.segment.as_mut().expect("a segment was entered");
            match segment.frame_at(start.offset)? {
                Place::Frame(header) => {
                    self.check_order(&header)?;
                    self.epoch = header.fields.epoch;
                    self.position.offset += header.frame_len() as u32;
                    let segment = self.segment.as_mut().expect("a segment was entered");
                    let payload = segment.payload(start.offset, &header)?;
                    return Ok(Next::Frame(Frame {
                        start,
                        end: self.position,
                        fields: header.fields,
                        synced: header.synced,
                        payload,
                    }));
                }
                place => self.enter_next_segment(&place)?,
            }
        }
        Ok(Next::End(self.end.expect("the loop ends with an end")))
    }

    fn refuse_missing_segment(&mut self, first_segment: u32) -> Result<(), ReadError> {
        let expected = first_segment..=self.until.map_or(u32::MAX, |until| until.segment);
        let present = self.segments.iter().copied().map(Some).chain([None]);
        let missing = expected
            .zip(present)
            .find(|(expected, present)| *present != Some(*expected));
        match missing {
            Some((_, None)) if self.until.is_none() => Ok(()),
            Some((missing, present)) => {
                let mut evidence = Evidence::default();
                for segment in self
                    .segments
                    .clone()
                    .into_iter()
                    .filter(|later| present.is_some_and(|p| *later >= p))
                {
                    self.search_segment(segment, &mut evidence)?;
                }
                Err(self.damaged(missing, 0, "the segment is missing", &evidence))
            }
            None => Ok(()),
        }
    }

    fn enter_first_segment(&mut self) -> Result<(), ReadError> {
        let Some(first) = self.segments.first().copied() else {
            self.end = Some(LogEnd::Clean { at: self.position });
            return Ok(());
        };
        let mut segment = SegmentBytes::open(&self.folder, self.identity, first)?;
        match segment.header(self.identity)? {
            Some(_) => {
                self.segment = Some(segment);
                self.position.offset = SEGMENT_HEADER_LEN as u32;
                Ok(())
            }
            None => {
                let mut evidence = Evidence::default();
                segment.search(SEGMENT_HEADER_LEN as u32, &mut evidence)?;
                self.end_at(self.position, self.position, HEADER_UNREADABLE, evidence)
            }
        }
    }

    /// There is no frame at the position: goes on with the next segment if that says so, otherwise finds the end.
    fn enter_next_segment(&mut self, place: &Place) -> Result<(), ReadError> {
        let at = self.position;
        let next = at.segment + 1;
        let mut unreadable_header = None;
        let mut is_cut_off = false;
        if self.segments.last().is_some_and(|last| *last >= next) {
            let mut segment = SegmentBytes::open(&self.folder, self.identity, next)?;
            match segment.header(self.identity)? {
                Some(header) if header.previous_end == at.offset => {
                    self.segment = Some(segment);
                    self.position = LogPosition {
                        segment: next,
                        offset: SEGMENT_HEADER_LEN as u32,
                    };
                    return Ok(());
                }
                Some(header) if header.previous_end < at.offset => {
                    let reason = "its frames go on behind the end that the next segment knows";
                    return Err(self.damaged(at.segment, header.previous_end, reason, &Evidence::default()));
                }
                Some(_) => is_cut_off = true,
                None => unreadable_header = Some(next),
            }
        }
        let mut evidence = Evidence::default();
        let segment = self.segment.as_mut().expect("a segment was entered");
        segment.search(at.offset + FRAME_ALIGNMENT as u32, &mut evidence)?;
        let reported = match unreadable_header {
            Some(segment) if matches!(place, Place::End) && evidence.frames == 0 => {
                return self.end_at(at, LogPosition { segment, offset: 0 }, HEADER_UNREADABLE, evidence);
            }
            _ => at,
        };
        let reason = match place {
            Place::End if evidence.frames == 0 && !is_cut_off => CLEAN,
            Place::End => "frames are missing",
            Place::Torn(_) => "the payload of a frame is wrong",
            Place::Frame(_) | Place::Unreadable => "the header of a frame is wrong",
        };
        self.end_at(at, reported, reason, evidence)
    }

    /// The log ends behind `at`, unless later frames say that more was on disk.
    fn end_at(
        &mut self,
        at: LogPosition,
        reported: LogPosition,
        reason: &'static str,
        mut evidence: Evidence,
    ) -> Result<(), ReadError> {
        let later: Vec<u32> = self
            .segments
            .iter()
            .copied()
            .filter(|segment| *segment > at.segment)
            .collect();
        for segment in &later {
            self.search_segment(*segment, &mut evidence)?;
        }
        if evidence.synced > at || self.until.is_some() {
            let reason = if reason == CLEAN { "frames are missing" } else { reason };
            return Err(self.damaged(reported.segment, reported.offset, reason, &evidence));
        }
        self.end = Some(if reason == CLEAN && later.is_empty() {
            LogEnd::Clean { at }
        } else {
            LogEnd::Torn {
                at: reported,
                frames_behind: evidence.frames,
            }
        });
        Ok(())
    }

    /// Refuses a frame that is as it was written and cannot have been.
    fn check_order(&self, header: &FrameHeader) -> Result<(), ReadError> {
        let reason = if header.fields.epoch < self.epoch {
            "a frame's epoch is older than the one before"
        } else if header.synced > self.position {
            "a frame says that later ones were on disk before it"
        } else if self.until.is_some_and(|until| self.position > until) {
            "its frames go on behind the end at which it was sealed"
        } else {
            return Ok(());
        };
        Err(self.damaged(
            self.position.segment,
            self.position.offset,
            reason,
            &Evidence::default(),
        ))
    }

    fn search_segment(&self, segment: u32, evidence: &mut Evidence) -> Result<(), ReadError> {
        let mut segment = SegmentBytes::open(&self.folder, self.identity, segment)?;
        if let Some(header) = segment.header(self.identity)? {
            evidence.synced = evidence.synced.max(header.synced);
        }
        segment.search(SEGMENT_HEADER_LEN as u32, evidence)
    }

    fn damaged(&self, segment: u32, offset: u32, reason: &'static str, evidence: &Evidence) -> ReadError {
        ReadError::Damaged(Damage {
            file: segment_path(&self.folder, segment),
            offset,
            reason,
            frames_behind: evidence.frames,
            synced: evidence.synced,
        })
    }
}

/// Makes durable what recovery will read.
fn sync_segments(folder: &Path, first_segment: u32) -> Result<(), ReadError> {
    let sync = |path: PathBuf| {
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|error| ReadError::of_file(&path, error))
    };
    let segments = segments_in(folder).map_err(|error| ReadError::of_file(folder, error))?;
    for segment in segments.into_iter().filter(|segment| *segment >= first_segment) {
        sync(segment_path(folder, segment))?;
    }
    sync(folder.to_owned())
}

/// No reason to doubt that a log ends where no more frames are.
const CLEAN: &str = "";

const HEADER_UNREADABLE: &str = "the header of the segment is wrong";

/// What was found behind a log's end.
#[derive(Debug, Default)]
struct Evidence {
    /// Frames that can be read.
    frames: u64,
    /// The newest position that headers say was on disk.
    synced: LogPosition,
}

/// What is at a place where a frame may begin.
#[derive(Debug)]
enum Place {
    Frame(FrameHeader),
    /// A frame's header, and not its payload.
    Torn(FrameHeader),
    /// Zeros, or the end of the file.
    End,
    Unreadable,
}

/// The file of a segment, a piece of it in memory.
#[derive(Debug)]
struct SegmentBytes {
    path: PathBuf,
    segment: u32,
    seed: FrameSeed,
    file: File,
    len: u32,
    piece: Vec<u8>,
    /// Where the piece begins.
    piece_offset: u32,
}

impl SegmentBytes {
    fn open(folder: &Path, identity: LogIdentity, segment: u32) -> Result<SegmentBytes, ReadError> {
        let path = segment_path(folder, segment);
        let open = || {
            let file = File::open(&path)?;
            let len = file.metadata()?.len();
            Ok((file, u32::try_from(len).unwrap_or(u32::MAX)))
        };
        match open() {
            Ok((file, len)) => Ok(SegmentBytes {
                seed: FrameSeed::new(identity, segment),
                path,
                segment,
                file,
                len,
                piece: Vec::new(),
                piece_offset: 0,
            }),
            Err(error) => Err(ReadError::of_file(&path, error)),
        }
    }

    /// The segment's header; none, if what is there is not.
    fn header(&mut self, identity: LogIdentity) -> Result<Option<SegmentHeader>, ReadError> {
        let segment = self.segment;
        let bytes = self.bytes(0, SEGMENT_HEADER_LEN)?.unwrap_or_default();
        match SegmentHeader::decode(bytes, identity, segment) {
            Ok(header) => Ok(Some(header)),
            // Also another segment's: the new header of a recycled file may be lost when power fails.
            Err(NoSegment::Unreadable | NoSegment::OtherPlace) => Ok(None),
            Err(NoSegment::OtherFormat(found)) => Err(ReadError::OtherFormat {
                path: self.path.clone(),
                found,
            }),
        }
    }

    fn frame_at(&mut self, offset: u32) -> Result<Place, ReadError> {
        let (seed, rest) = (self.seed, self.len.saturating_sub(offset) as usize);
        let Some(bytes) = self.bytes(offset, FRAME_HEADER_LEN.min(rest))? else {
            return Ok(Place::End);
        };
        let header = if bytes.len() == FRAME_HEADER_LEN {
            FrameHeader::decode(bytes, seed, offset)
        } else {
            None
        };
        let Some(header) = header else {
            let is_end = bytes.iter().take(FRAME_ALIGNMENT).all(|byte| *byte == 0);
            return Ok(if is_end { Place::End } else { Place::Unreadable });
        };
        let is_whole = self
            .bytes(offset, header.frame_len())?
            .is_some_and(|bytes| header.has_payload_in(bytes));
        Ok(if is_whole {
            Place::Frame(header)
        } else {
            Place::Torn(header)
        })
    }

    /// The payload of a frame that was found.
    fn payload(&mut self, offset: u32, header: &FrameHeader) -> Result<&[u8], ReadError> {
        let bytes = self.bytes(offset, header.frame_len())?;
        Ok(header.payload_in(bytes.expect("a frame was found")))
    }

    /// Looks for frames from `offset` on.
    fn search(&mut self, offset: u32, evidence: &mut Evidence) -> Result<(), ReadError> {
        let mut offset = offset;
        while offset.saturating_add(FRAME_HEADER_LEN as u32) <= self.len {
            match self.frame_at(offset)? {
                Place::Frame(header) => {
                    evidence.frames += 1;
                    evidence.synced = evidence.synced.max(header.synced);
                    offset += header.frame_len() as u32;
                }
                Place::Torn(header) => {
                    // The header has its own checksum: what it says holds.
                    evidence.synced = evidence.synced.max(header.synced);
                    offset += FRAME_ALIGNMENT as u32;
                }
                Place::End | Place::Unreadable => offset += FRAME_ALIGNMENT as u32,
            }
        }
        Ok(())
    }

    /// Bytes of the file; none, if it ends before they do.
    fn bytes(&mut self, offset: u32, len: usize) -> Result<Option<&[u8]>, ReadError> {
        if offset as usize + len > self.len as usize {
            return Ok(None);
        }
        let is_in_piece =
            offset >= self.piece_offset && offset as usize + len <= self.piece_offset as usize + self.piece.len();
        if !is_in_piece {
            self.read_piece(offset, len.max(READ_LEN).min((self.len - offset) as usize))
                // What is damaged may lie behind what is asked for.
                .or_else(|_| self.read_piece(offset, len))
                .map_err(|error| ReadError::of_file(&self.path, error))?;
        }
        let start = (offset - self.piece_offset) as usize;
        Ok(Some(&self.piece[start..start + len]))
    }

    fn read_piece(&mut self, offset: u32, len: usize) -> io::Result<()> {
        self.piece.resize(len, 0);
        self.piece_offset = offset;
        let read = faults::before_read().and_then(|()| self.file.read_exact_at(&mut self.piece, u64::from(offset)));
        if read.is_err() {
            self.piece.clear();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::log::frame::FrameBuffer;
    use crate::storage::log::log_writer::LogWriter;
    use crate::storage::log::shared_log::LogOptions;
    use crate::storage::log::test_disk::{IDENTITY, TestDisk};
    use crate::storage::seeded_random;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore};
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    /// One length for all, so that every segment can be recycled.
    const OPTIONS: LogOptions = LogOptions {
        segment_len_first: 4096,
        segment_len_max: 4096,
        spares_max: 10,
    };

    /// Frames in each of the three segments of a small log, and after how many of all it was synced.
    const FRAMES: usize = 3;
    const SYNCED_FRAMES: usize = 4;

    struct Written {
        start: LogPosition,
        end: LogPosition,
        payload: Vec<u8>,
    }

    /// A log in memory, from which damaged ones are made.
    struct SmallLog {
        files: BTreeMap<u32, Vec<u8>>,
        frames: Vec<Written>,
    }

    impl SmallLog {
        /// A log of three segments. If they are recycled, they held frames of the same lengths before.
        fn new(random: &mut StdRng, is_recycled: bool) -> SmallLog {
            let logs = folder();
            let mut writer = LogWriter::create_on(TestDisk::default(), logs.path(), IDENTITY, OPTIONS).expect("a log");
            let log = writer.shared();
            let lens: Vec<usize> = (0..4 * FRAMES).map(|_| random.random_range(0..40)).collect();
            let mut epoch = 0;
            if is_recycled {
                for _ in 0..3 {
                    for len in &lens {
                        epoch += 1;
                        append(&mut writer, random, epoch, *len);
                    }
                    writer.seal();
                }
                log.sync().expect("a sync");
                let checkpoint = log.write_checkpoint(log.appended()).expect("a checkpoint");
                log.recycle(&checkpoint).expect("recycling");
            }
            let mut frames = Vec::new();
            for len in &lens[..3 * FRAMES] {
                epoch += u64::from(random.random::<bool>());
                frames.push(append(&mut writer, random, epoch, *len));
                if frames.len() == SYNCED_FRAMES {
                    log.sync().expect("a sync");
                }
                if frames.len().is_multiple_of(FRAMES) {
                    writer.seal();
                }
            }
            let segments = segments_in(log.folder()).expect("the folder");
            assert_eq!(segments.len(), 3);
            let files = segments
                .into_iter()
                .map(|segment| {
                    (
                        segment,
                        std::fs::read(segment_path(log.folder(), segment)).expect("a segment"),
                    )
                })
                .collect();
            SmallLog { files, frames }
        }

        fn first(&self) -> u32 {
            *self.files.keys().next().expect("there are segments")
        }

        fn synced(&self) -> LogPosition {
            self.frames[SYNCED_FRAMES - 1].end
        }

        /// Where the frames of a segment end.
        fn end_of(&self, segment: u32) -> u32 {
            let frames = self.frames.iter().rev();
            frames
                .map(|frame| frame.end)
                .find(|end| end.segment == segment)
                .expect("it has frames")
                .offset
        }

        /// The frames before a place.
        fn frames_before(&self, place: LogPosition) -> usize {
            self.frames.partition_point(|frame| frame.end <= place)
        }

        /// Reads `files` as this log: how many of its frames are read, each being right, and what comes then.
        fn read(&self, scratch: &TempDir, files: &BTreeMap<u32, Vec<u8>>) -> (usize, Result<LogEnd, Damage>) {
            for segment in segments_in(scratch.path()).expect("the folder") {
                std::fs::remove_file(segment_path(scratch.path(), segment)).expect("a segment");
            }
            for (segment, bytes) in files {
                std::fs::write(segment_path(scratch.path(), *segment), bytes).expect("a segment");
            }
            self.read_folder(scratch.path())
        }

        fn read_folder(&self, folder: &Path) -> (usize, Result<LogEnd, Damage>) {
            let mut frames = 0;
            let mut read = || {
                let mut reader = LogReader::open_range(folder, IDENTITY, self.first(), None)?;
                loop {
                    match reader.next_frame()? {
                        Next::Frame(frame) => {
                            let written = &self.frames[frames];
                            assert_eq!((frame.start, frame.end), (written.start, written.end));
                            assert_eq!(frame.payload, written.payload);
                            frames += 1;
                        }
                        Next::End(end) => return Ok(end),
                    }
                }
            };
            let end = match read() {
                Ok(end) => Ok(end),
                Err(ReadError::Damaged(damage)) => Err(damage),
                Err(error) => panic!("{error}"),
            };
            (frames, end)
        }
    }

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn append(writer: &mut LogWriter<TestDisk>, random: &mut StdRng, epoch: u64, len: usize) -> Written {
        let mut buffer = FrameBuffer::new();
        buffer.extend(&vec![0; len]);
        random.fill_bytes(buffer.payload_mut());
        let fields = FrameFields {
            epoch,
            ..FrameFields::default()
        };
        let appended = writer.append(&mut buffer, fields).expect("there is room");
        Written {
            start: appended.start,
            end: appended.end,
            payload: buffer.payload().to_vec(),
        }
    }

    #[test]
    fn a_log_that_ends_at_any_byte_gives_the_frames_before() {
        let mut random = seeded_random::printed();
        for is_recycled in [false, true] {
            let (log, scratch) = (SmallLog::new(&mut random, is_recycled), folder());
            for (&segment, bytes) in &log.files {
                for len in 0..=log.end_of(segment) + 100 {
                    let mut files = log.files.clone();
                    files.retain(|number, _| *number <= segment);
                    files.insert(segment, bytes[..len as usize].to_vec());
                    let (frames, end) = log.read(&scratch, &files);
                    let cut = LogPosition { segment, offset: len };
                    assert_eq!(frames, log.frames_before(cut), "cut at {cut}: {end:?}");
                    // No later frame is left that could say what was synced.
                    let end = end.unwrap_or_else(|damage| panic!("cut at {cut}: {damage}"));
                    if log.frames.iter().any(|frame| frame.end == cut) {
                        assert_eq!(end, LogEnd::Clean { at: cut });
                    }
                }
            }
        }
    }

    #[test]
    fn a_segment_that_ends_early_before_others_is_torn_or_damaged_as_the_others_say() {
        let mut random = seeded_random::printed();
        let (log, scratch) = (SmallLog::new(&mut random, false), folder());
        for (&segment, bytes) in log.files.iter().take(2) {
            for len in 0..log.end_of(segment) {
                let mut files = log.files.clone();
                files.insert(segment, bytes[..len as usize].to_vec());
                let (frames, end) = log.read(&scratch, &files);
                let cut = LogPosition { segment, offset: len };
                assert_eq!(frames, log.frames_before(cut));
                let is_synced = frames < SYNCED_FRAMES;
                assert_eq!(end.is_err(), is_synced, "cut at {cut}: {end:?}");
                if let Err(damage) = end {
                    assert_eq!(damage.synced, log.synced());
                    assert_eq!(damage.file, segment_path(scratch.path(), segment));
                }
            }
        }
    }

    #[test]
    fn each_bit_that_flips_is_damage_before_what_was_synced_and_a_tear_behind() {
        let mut random = seeded_random::printed();
        for is_recycled in [false, true] {
            let (log, scratch) = (SmallLog::new(&mut random, is_recycled), folder());
            // Old bytes behind the newest frame are not taken for a torn one.
            let at = log.frames.last().expect("there are frames").end;
            let whole = (log.frames.len(), Ok(LogEnd::Clean { at }));
            assert_eq!(log.read(&scratch, &log.files), whole);
            for (&segment, bytes) in &log.files {
                let used = log.end_of(segment);
                let path = segment_path(scratch.path(), segment);
                let file = File::options().write(true).open(&path).expect("a segment");
                for bit in 0..(used as usize + 48) * 8 {
                    let flipped = bytes[bit / 8] ^ 1 << (bit % 8);
                    file.write_all_at(&[flipped], (bit / 8) as u64).expect("a segment");
                    let (frames, end) = log.read_folder(scratch.path());
                    file.write_all_at(&bytes[bit / 8..][..1], (bit / 8) as u64)
                        .expect("a segment");
                    let place = LogPosition {
                        segment,
                        offset: (bit / 8) as u32,
                    };
                    let case = format!("bit {bit} of segment {segment}: {frames} frames, {end:?}");
                    if place.offset >= used {
                        assert_eq!(frames, log.frames.len(), "{case}");
                        end.unwrap_or_else(|damage| panic!("{case}: {damage}"));
                        continue;
                    }
                    let is_header = place.offset < SEGMENT_HEADER_LEN as u32;
                    let hit = log.frames_before(place);
                    assert_eq!(frames, hit, "{case}");
                    let offset = if is_header { 0 } else { log.frames[hit].start.offset };
                    match end {
                        Err(damage) => {
                            assert!(hit < SYNCED_FRAMES, "{case}");
                            assert_eq!((&damage.file, damage.offset), (&path, offset), "{case}");
                            assert_eq!(damage.synced, log.synced(), "{case}");
                            let behind = log.frames.len() - hit - usize::from(!is_header);
                            assert_eq!(damage.frames_behind, behind as u64, "{case}");
                        }
                        Ok(LogEnd::Torn { at, frames_behind }) => {
                            assert!(hit >= SYNCED_FRAMES, "{case}");
                            assert_eq!(at, LogPosition { segment, offset }, "{case}");
                            let behind = log.frames.len() - hit - usize::from(!is_header);
                            assert_eq!(frames_behind, behind as u64, "{case}");
                        }
                        // A length of zero looks like an end if nothing comes behind.
                        Ok(LogEnd::Clean { .. }) => assert_eq!(hit, log.frames.len() - 1, "{case}"),
                    }
                }
            }
        }
    }

    #[test]
    fn frames_that_have_become_zeros_are_missed_if_they_were_synced() {
        let mut random = seeded_random::printed();
        let (log, scratch) = (SmallLog::new(&mut random, false), folder());
        for (number, frame) in log.frames.iter().enumerate() {
            let mut files = log.files.clone();
            let bytes = files.get_mut(&frame.start.segment).expect("a segment");
            bytes[frame.start.offset as usize..frame.end.offset as usize].fill(0);
            let (frames, end) = log.read(&scratch, &files);
            assert_eq!(frames, number);
            assert_eq!(end.is_err(), number < SYNCED_FRAMES, "frame {number}: {end:?}");
        }
    }

    #[test]
    fn a_segment_without_readable_frames_tells_what_was_synced_before_it() {
        let mut random = seeded_random::printed();
        let (log, scratch) = (SmallLog::new(&mut random, false), folder());
        for (segments, is_damaged) in [([1, 2], true), ([3, 3], false)] {
            let mut files = log.files.clone();
            for segment in segments {
                files.get_mut(&segment).expect("a segment")[SEGMENT_HEADER_LEN..].fill(0);
            }
            files.get_mut(&3).expect("a segment")[SEGMENT_HEADER_LEN..].fill(0);
            let (_, end) = log.read(&scratch, &files);
            assert_eq!(end.is_err(), is_damaged, "{end:?}");
        }
    }

    #[test]
    fn a_missing_segment_is_damage_unless_it_is_the_last() {
        let mut random = seeded_random::printed();
        let (log, scratch) = (SmallLog::new(&mut random, false), folder());
        for (missing, frames_behind) in [(1, 6), (2, 3)] {
            let mut files = log.files.clone();
            files.remove(&missing);
            let (frames, end) = log.read(&scratch, &files);
            let damage = end.expect_err("a segment is missing");
            assert_eq!((frames, damage.frames_behind), (0, frames_behind));
            assert_eq!(
                damage.to_string(),
                format!(
                    "{} is damaged at byte 0: the segment is missing; {frames_behind} readable frames come behind, and \
                     the log was on disk up to {}",
                    segment_path(scratch.path(), missing).display(),
                    log.synced()
                )
            );
        }
        let mut files = log.files.clone();
        files.remove(&3);
        let at = log.frames[2 * FRAMES - 1].end;
        assert_eq!(log.read(&scratch, &files), (2 * FRAMES, Ok(LogEnd::Clean { at })));
    }

    #[test]
    fn an_empty_log_ends_where_it_would_begin() {
        let scratch = folder();
        let mut reader = LogReader::open(scratch.path(), IDENTITY, 7).expect("an empty log");
        let at = LogPosition { segment: 7, offset: 0 };
        assert_eq!(
            reader.next_frame().expect("an empty log"),
            Next::End(LogEnd::Clean { at })
        );
    }

    #[test]
    fn an_earlier_generation_s_frames_at_the_same_places_are_not_read() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        // Of several blocks, so that the first writes into each count.
        let options = LogOptions {
            segment_len_first: 16384,
            segment_len_max: 16384,
            ..OPTIONS
        };
        let generation = |generation| LogIdentity { generation, ..IDENTITY };
        let writer =
            |number| LogWriter::create_on(disk.clone(), logs.path(), generation(number), options).expect("a log");
        let mut old = writer(3);
        let lens: Vec<usize> = (0..200).map(|_| random.random_range(0..200)).collect();
        for len in &lens {
            append(&mut old, &mut random, 1, *len);
        }
        let old = old.shared();
        let last = old.appended().segment;
        old.sync().expect("a sync");
        let mut new = writer(4);
        let checkpoint = old.write_checkpoint(old.appended()).expect("a checkpoint");
        new.shared()
            .adopt(old.folder(), &checkpoint)
            .expect("files of the old log");
        assert!(!old.folder().exists());
        let mut appended: Vec<Written> = Vec::new();
        for len in &lens[..150] {
            appended.push(append(&mut new, &mut random, 1, *len));
            let mut reader = LogReader::open_range(new.shared().folder(), generation(4), 1, None).expect("a log");
            for written in &appended {
                let Next::Frame(frame) = reader.next_frame().expect("a whole log") else {
                    panic!("the frame at {} is missing", written.start);
                };
                assert_eq!(frame.payload, written.payload);
            }
            let at = new.shared().appended();
            assert_eq!(
                reader.next_frame().expect("a whole log"),
                Next::End(LogEnd::Clean { at })
            );
        }
        let files = new.shared().folder().read_dir().expect("the folder").count();
        assert_eq!(files, last as usize, "no file is new");
    }

    #[test]
    fn files_full_of_nonsense_never_give_a_frame_that_was_not_written() {
        let mut random = seeded_random::printed();
        let scratch = folder();
        for round in 0..20 {
            let log = SmallLog::new(&mut random, round % 2 == 0);
            for _ in 0..100 {
                let mut files = log.files.clone();
                for _ in 0..random.random_range(1..4) {
                    spoil(&mut files, &mut random);
                }
                // Asserts that what is read is what was written.
                let (frames, _) = log.read(&scratch, &files);
                assert!(frames <= log.frames.len());
            }
        }
    }

    /// Changes a log as nothing in the world does.
    fn spoil(files: &mut BTreeMap<u32, Vec<u8>>, random: &mut StdRng) {
        let pick = |files: &BTreeMap<u32, Vec<u8>>, random: &mut StdRng| {
            files
                .keys()
                .copied()
                .nth(random.random_range(0..files.len()))
                .expect("a segment")
        };
        if files.is_empty() {
            return;
        }
        let (one, other) = (pick(files, random), pick(files, random));
        let source = files[&other].clone();
        let bytes = files.get_mut(&one).expect("a segment");
        // Most of what is used lies in the first bytes.
        let start = random.random_range(0..=bytes.len().min(800));
        let end = (start + random.random_range(0..300)).min(bytes.len());
        match random.random_range(0..8) {
            0 => bytes.truncate(start),
            1 => bytes.extend_from_slice(&source),
            2 => random.fill_bytes(&mut bytes[start..end]),
            3 => bytes[start..end].fill(0),
            4 => {
                let from = random.random_range(0..=source.len().saturating_sub(end - start) / 8) * 8;
                let copied = &source[from.min(source.len())..(from + end - start).min(source.len())];
                bytes[start..start + copied.len()].copy_from_slice(copied);
            }
            5 => random.fill_bytes(bytes),
            6 => *bytes = source,
            _ => {
                files.remove(&one);
            }
        }
    }

    /// A segment with these frames in it.
    fn segment_of(folder: &Path, frames: &[(u64, LogPosition)]) -> PathBuf {
        let header = SegmentHeader {
            identity: IDENTITY,
            segment: 1,
            previous_end: 0,
            synced: LogPosition::START,
        };
        let mut bytes = header.encode().to_vec();
        for (epoch, synced) in frames {
            let fields = FrameFields {
                epoch: *epoch,
                ..FrameFields::default()
            };
            let (seed, offset) = (FrameSeed::new(IDENTITY, 1), bytes.len() as u32);
            FrameBuffer::new().with_frame(seed, offset, fields, *synced, 0, |frame| {
                bytes.extend_from_slice(frame);
            });
        }
        let path = segment_path(folder, 1);
        std::fs::write(&path, bytes).expect("a segment");
        path
    }

    #[test]
    fn frames_that_contradict_each_other_are_damage_even_if_nothing_was_synced() {
        let scratch = folder();
        let start = LogPosition::START;
        let later = LogPosition {
            segment: 1,
            offset: 144,
        };
        for (frames, reason) in [
            ([(5, start), (4, start)], "epoch is older"),
            ([(5, start), (5, later)], "later ones were on disk"),
        ] {
            segment_of(scratch.path(), &frames);
            let mut reader = LogReader::open(scratch.path(), IDENTITY, 1).expect("a log");
            assert!(matches!(reader.next_frame(), Ok(Next::Frame(_))));
            let error = reader.next_frame().expect_err("the second frame is wrong").to_string();
            assert!(error.contains(reason) && error.contains("byte 104"), "{error}");
        }
    }

    #[test]
    fn a_later_format_is_named_and_not_taken_for_damage() {
        let scratch = folder();
        let path = segment_of(scratch.path(), &[]);
        let mut bytes = std::fs::read(&path).expect("a segment");
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).expect("a segment");
        let mut reader = LogReader::open(scratch.path(), IDENTITY, 1).expect("a log");
        let error = reader.next_frame().expect_err("the format is unknown").to_string();
        assert!(error.contains("0000000001.log has format 9"), "{error}");
    }

    #[test]
    fn in_sealed_segments_whatever_cannot_be_read_is_damage() {
        let mut random = seeded_random::printed();
        let (logs, disk) = (folder(), TestDisk::default());
        let mut writer = LogWriter::create_on(disk, logs.path(), IDENTITY, OPTIONS).expect("a log");
        append(&mut writer, &mut random, 1, 50);
        let second = append(&mut writer, &mut random, 1, 50);
        writer.seal();
        let sealed = writer.next_sealed().expect("a sealed segment");
        let log = writer.shared();
        let path = segment_path(log.folder(), 1);
        let mut bytes = std::fs::read(&path).expect("a segment");
        bytes[second.start.offset as usize..].fill(0);
        std::fs::write(&path, bytes).expect("a segment");
        let mut reader = LogReader::open_sealed(log.folder(), IDENTITY, 1, &sealed).expect("segments");
        assert!(matches!(reader.next_frame(), Ok(Next::Frame(_))));
        let error = reader.next_frame().expect_err("a frame is missing").to_string();
        assert!(error.contains("frames are missing"), "{error}");
        std::fs::remove_file(&path).expect("a segment");
        let error = LogReader::open_sealed(log.folder(), IDENTITY, 1, &sealed).expect_err("a segment is missing");
        assert!(error.to_string().contains("the segment is missing"), "{error}");
    }
}
