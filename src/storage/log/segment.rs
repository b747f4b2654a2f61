//! A segment: a file of the log, and the header that it begins with. All numbers are little endian.
//!
//! ```text
//!  0  magic         8
//!  8  format        4
//! 12  executor      4
//! 16  directory     8
//! 24  generation    8
//! 32  segment       4
//! 36  previous end  4  where the frames of the segment before end; 0 in the first
//! 40  synced        8  the position known to be durable when this was written, as in a frame
//! 48  padding      12  zeros
//! 60  crc           4  CRC-32C of the 60 bytes above
//! ```
//!
//! `previous end` is what makes segments continuous: frames that are missing at a segment's end look like its end.

use super::frame::{u32_at, u64_at};
use super::log_position::{LogIdentity, LogPosition};
use crc32c::crc32c;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"CORELOG\n";

/// The format of segments and frames that this version writes and reads.
const FORMAT: u32 = 1;

const FORMAT_AT: usize = 8;
const EXECUTOR_AT: usize = FORMAT_AT + 4;
const DIRECTORY_AT: usize = EXECUTOR_AT + 4;
const GENERATION_AT: usize = DIRECTORY_AT + 8;
const SEGMENT_AT: usize = GENERATION_AT + 8;
const PREVIOUS_END_AT: usize = SEGMENT_AT + 4;
const SYNCED_AT: usize = PREVIOUS_END_AT + 4;
const CRC_AT: usize = 60;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_LEN: usize = CRC_AT + 4;

const _: () = assert!(SEGMENT_HEADER_LEN == 64 && SYNCED_AT + 8 <= CRC_AT);

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: LogIdentity,
    pub(super) segment: u32,
    pub(super) previous_end: u32,
    pub(super) synced: LogPosition,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[..FORMAT_AT].copy_from_slice(&MAGIC);
        bytes[FORMAT_AT..EXECUTOR_AT].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[EXECUTOR_AT..DIRECTORY_AT].copy_from_slice(&self.identity.executor.to_le_bytes());
        bytes[DIRECTORY_AT..GENERATION_AT].copy_from_slice(&self.identity.directory.to_le_bytes());
        bytes[GENERATION_AT..SEGMENT_AT].copy_from_slice(&self.identity.generation.to_le_bytes());
        bytes[SEGMENT_AT..PREVIOUS_END_AT].copy_from_slice(&self.segment.to_le_bytes());
        bytes[PREVIOUS_END_AT..SYNCED_AT].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[SYNCED_AT..SYNCED_AT + 8].copy_from_slice(&self.synced.to_u64().to_le_bytes());
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of `segment` of the log `identity`; otherwise says what the bytes are.
    pub(super) fn decode(bytes: &[u8], identity: LogIdentity, segment: u32) -> Result<SegmentHeader, NoSegment> {
        if bytes.len() < SEGMENT_HEADER_LEN || crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(NoSegment::Unreadable);
        }
        let format = u32_at(bytes, FORMAT_AT);
        if bytes[..FORMAT_AT] != MAGIC || format != FORMAT {
            return Err(NoSegment::OtherFormat(format));
        }
        let header = SegmentHeader {
            identity: LogIdentity {
                directory: u64_at(bytes, DIRECTORY_AT),
                generation: u64_at(bytes, GENERATION_AT),
                executor: u32_at(bytes, EXECUTOR_AT),
            },
            segment: u32_at(bytes, SEGMENT_AT),
            previous_end: u32_at(bytes, PREVIOUS_END_AT),
            synced: LogPosition::from_u64(u64_at(bytes, SYNCED_AT)),
        };
        if header.identity != identity || header.segment != segment {
            return Err(NoSegment::OtherPlace);
        }
        Ok(header)
    }
}

/// Why bytes are not the header that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSegment {
    /// Their checksum is wrong, or they are too few.
    Unreadable,
    /// They are a header of a format that this version does not know.
    OtherFormat(u32),
    /// They are the header of another log or another segment: what a recycled file holds before it gets a new one.
    OtherPlace,
}

/// The file of a segment.
pub fn segment_path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{segment:010}.log"))
}

/// The numbers of the segments in a folder, ascending.
///
/// # Errors
/// The folder cannot be read.
pub fn segments_in(folder: &Path) -> io::Result<Vec<u32>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        // Spares do not count, nor whatever somebody else has put there.
        segments.extend(number.filter(|segment| segment_path(folder, *segment) == path));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Removes the segments of a folder before one, the oldest first, so that no crash leaves a gap.
///
/// # Errors
/// The folder cannot be read, or a file not be removed.
pub fn remove_segments_before(folder: &Path, first_segment: u32) -> io::Result<()> {
    let segments = segments_in(folder)?;
    let mut obsolete = segments.into_iter().filter(|segment| *segment < first_segment);
    obsolete.try_for_each(|segment| std::fs::remove_file(segment_path(folder, segment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        identity: LogIdentity {
            directory: 1,
            generation: 2,
            executor: 3,
        },
        segment: 4,
        previous_end: 5,
        synced: LogPosition { segment: 6, offset: 7 },
    };

    #[test]
    fn a_header_is_read_as_it_was_written_and_at_its_own_place_alone() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes, HEADER.identity, 4), Ok(HEADER));
        assert_eq!(
            SegmentHeader::decode(&bytes, HEADER.identity, 5),
            Err(NoSegment::OtherPlace)
        );
        let next = LogIdentity {
            generation: 3,
            ..HEADER.identity
        };
        assert_eq!(SegmentHeader::decode(&bytes, next, 4), Err(NoSegment::OtherPlace));
    }

    #[test]
    fn each_bit_of_a_header_counts() {
        for bit in 0..SEGMENT_HEADER_LEN * 8 {
            let mut bytes = HEADER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decoded = SegmentHeader::decode(&bytes, HEADER.identity, 4);
            assert_eq!(decoded, Err(NoSegment::Unreadable), "bit {bit}");
        }
    }

    #[test]
    fn only_names_of_segments_are_segments() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in [
            "0000000012.log",
            "0000000003.log",
            "spare-1.log",
            "7.log",
            "0000000009.txt",
            "CHECKPOINT",
        ] {
            std::fs::write(folder.path().join(name), b"").expect("a file");
        }
        assert_eq!(segments_in(folder.path()).expect("a folder"), [3, 12]);
    }
}
