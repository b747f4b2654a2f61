//! A frame: what one turn of a storage executor has written, or nothing of it. All numbers are little endian.
//!
//! ```text
//!  0  length       4  of header, payload and no padding; 0 behind the newest frame
//!  4  payload crc  4  CRC-32C of payload and padding
//!  8  epoch        8  of the turn; never decreases in a log
//! 16  index        8  the replication entry's; 0 without replication
//! 24  synced       8  segment(4) and offset(4) up to which the log was known to be durable when this was written
//! 32  flags        4  the payload's kind; the log does not look at them
//! 36  header crc   4  CRC-32C of directory, generation, executor, segment, offset and the 36 bytes above
//! 40  payload
//!     padding         zeros up to a multiple of 8
//! ```
//!
//! The header has a checksum of its own for three reasons: a length that is wrong is never followed; `synced` can be
//! trusted in a frame whose payload is torn; and the search for frames behind a bad one costs 40 bytes a place,
//! whatever lengths the bytes there pretend. The header's checksum begins with the place, and holds the payload's: so
//! neither an old header nor an old payload in a recycled segment passes.
//!
//! Behind the newest frame are 8 zero bytes at least (where the segment has room), which the next frame overwrites.
//! They tell an end from a torn frame in a recycled segment, which is full of old bytes.

use super::log_position::{LogIdentity, LogPosition};
use crc32c::{crc32c, crc32c_append};

const LENGTH_AT: usize = 0;
const PAYLOAD_CRC_AT: usize = LENGTH_AT + 4;
const EPOCH_AT: usize = PAYLOAD_CRC_AT + 4;
const INDEX_AT: usize = EPOCH_AT + 8;
const SYNCED_AT: usize = INDEX_AT + 8;
const FLAGS_AT: usize = SYNCED_AT + 8;
const HEADER_CRC_AT: usize = FLAGS_AT + 4;

/// Bytes of a frame's header.
pub(super) const FRAME_HEADER_LEN: usize = HEADER_CRC_AT + 4;

/// Frames begin at multiples of this.
pub(super) const FRAME_ALIGNMENT: usize = 8;

/// Zeros behind the newest frame.
pub(super) const TERMINATOR_LEN: usize = 8;

/// The most bytes of a frame, header and padding included: four times the longest value, and far enough below 4 GiB
/// that every place in a segment has an offset of 32 bits.
pub const FRAME_LEN_MAX: usize = 1 << 31;

/// Room that a buffer keeps from turn to turn: one very large value must not pin its size for ever.
const BUFFER_KEPT_LEN_MAX: usize = 1 << 20;

const _: () = assert!(FRAME_HEADER_LEN.is_multiple_of(FRAME_ALIGNMENT) && TERMINATOR_LEN == FRAME_ALIGNMENT);
const _: () = assert!(FRAME_LEN_MAX.is_multiple_of(FRAME_ALIGNMENT) && FRAME_LEN_MAX < (u32::MAX - (1 << 20)) as usize);

/// What a frame says beside its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFields {
    /// The turn's number: never lower than the frame's before.
    pub epoch: u64,
    /// The replication entry's number.
    pub index: u64,
    /// The payload's kind.
    pub flags: u32,
}

/// What the checksums of one segment's headers begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameSeed(u32);

impl FrameSeed {
    pub(super) fn new(identity: LogIdentity, segment: u32) -> FrameSeed {
        let crc = crc32c(&identity.directory.to_le_bytes());
        let crc = crc32c_append(crc, &identity.generation.to_le_bytes());
        let crc = crc32c_append(crc, &identity.executor.to_le_bytes());
        FrameSeed(crc32c_append(crc, &segment.to_le_bytes()))
    }

    fn header_crc(self, offset: u32, header: &[u8]) -> u32 {
        crc32c_append(crc32c_append(self.0, &offset.to_le_bytes()), &header[..HEADER_CRC_AT])
    }
}

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    length: u32,
    payload_crc: u32,
    pub(super) fields: FrameFields,
    pub(super) synced: LogPosition,
}

impl FrameHeader {
    /// Reads the header of the frame at `offset`; none, if the bytes are no header written for that place.
    pub(super) fn decode(bytes: &[u8], seed: FrameSeed, offset: u32) -> Option<FrameHeader> {
        let length = u32_at(bytes, LENGTH_AT);
        // The cheap test first: the search for frames behind a bad one asks at every eighth byte.
        if (length as usize) < FRAME_HEADER_LEN
            || length as usize > FRAME_LEN_MAX
            || u32_at(bytes, HEADER_CRC_AT) != seed.header_crc(offset, bytes)
        {
            return None;
        }
        Some(FrameHeader {
            length,
            payload_crc: u32_at(bytes, PAYLOAD_CRC_AT),
            fields: FrameFields {
                epoch: u64_at(bytes, EPOCH_AT),
                index: u64_at(bytes, INDEX_AT),
                flags: u32_at(bytes, FLAGS_AT),
            },
            synced: LogPosition::from_u64(u64_at(bytes, SYNCED_AT)),
        })
    }

    /// Bytes of the frame, padding included.
    pub(super) fn frame_len(&self) -> usize {
        (self.length as usize).next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Whether the checksum of the payload in the frame's bytes is right.
    pub(super) fn has_payload_in(&self, frame: &[u8]) -> bool {
        assert_eq!(frame.len(), self.frame_len(), "these are another frame's bytes");
        crc32c(&frame[FRAME_HEADER_LEN..]) == self.payload_crc
    }

    /// The payload in the frame's bytes.
    pub(super) fn payload_in<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[FRAME_HEADER_LEN..self.length as usize]
    }
}

/// Where a payload is built: behind room for its header, so that both are written at once without a copy.
#[derive(Debug)]
pub struct FrameBuffer {
    /// The header's room, then the payload.
    bytes: Vec<u8>,
}

impl Default for FrameBuffer {
    fn default() -> FrameBuffer {
        FrameBuffer::new()
    }
}

impl FrameBuffer {
    /// An empty payload.
    pub fn new() -> FrameBuffer {
        FrameBuffer {
            bytes: vec![0; FRAME_HEADER_LEN],
        }
    }

    /// Bytes of the payload so far.
    pub fn len(&self) -> usize {
        self.bytes.len() - FRAME_HEADER_LEN
    }

    /// Whether the payload has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends to the payload.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a byte to the payload.
    pub fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Forgets the payload; keeps its room, up to a bound.
    pub fn clear(&mut self) {
        self.bytes.truncate(FRAME_HEADER_LEN);
        if self.bytes.capacity() > BUFFER_KEPT_LEN_MAX {
            self.bytes.shrink_to(BUFFER_KEPT_LEN_MAX);
        }
    }

    /// The payload so far.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_LEN..]
    }

    /// The payload so far, to be changed.
    #[cfg(test)]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[FRAME_HEADER_LEN..]
    }

    /// Bytes of the frame, padding included.
    pub(super) fn frame_len(&self) -> usize {
        self.bytes.len().next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Fills the header in for the frame at `offset`, and gives the frame's bytes and so many zeros behind to `write`.
    pub(super) fn with_frame<T>(
        &mut self,
        seed: FrameSeed,
        offset: u32,
        fields: FrameFields,
        synced: LogPosition,
        zeros: usize,
        write: impl FnOnce(&[u8]) -> T,
    ) -> T {
        let length = self.bytes.len();
        let frame_len = self.frame_len();
        assert!(frame_len <= FRAME_LEN_MAX, "a frame of {frame_len} bytes is too long");
        self.bytes.resize(frame_len + zeros, 0);
        let payload_crc = crc32c(&self.bytes[FRAME_HEADER_LEN..frame_len]);
        let header = &mut self.bytes[..FRAME_HEADER_LEN];
        header[LENGTH_AT..PAYLOAD_CRC_AT].copy_from_slice(&(length as u32).to_le_bytes());
        header[PAYLOAD_CRC_AT..EPOCH_AT].copy_from_slice(&payload_crc.to_le_bytes());
        header[EPOCH_AT..INDEX_AT].copy_from_slice(&fields.epoch.to_le_bytes());
        header[INDEX_AT..SYNCED_AT].copy_from_slice(&fields.index.to_le_bytes());
        header[SYNCED_AT..FLAGS_AT].copy_from_slice(&synced.to_u64().to_le_bytes());
        header[FLAGS_AT..HEADER_CRC_AT].copy_from_slice(&fields.flags.to_le_bytes());
        let header_crc = seed.header_crc(offset, header);
        header[HEADER_CRC_AT..].copy_from_slice(&header_crc.to_le_bytes());
        let result = write(&self.bytes);
        self.bytes.truncate(length);
        result
    }
}

/// The number at `offset` of `bytes`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// The number at `offset` of `bytes`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::seeded_random;
    use rand::{Rng, RngCore};

    const IDENTITY: LogIdentity = LogIdentity {
        directory: 0x1234_5678_9abc_def0,
        generation: 7,
        executor: 2,
    };
    const FIELDS: FrameFields = FrameFields {
        epoch: 11,
        index: 12,
        flags: 13,
    };
    const SYNCED: LogPosition = LogPosition { segment: 2, offset: 64 };

    fn frame(seed: FrameSeed, offset: u32, payload: &[u8]) -> Vec<u8> {
        let mut buffer = FrameBuffer::new();
        buffer.extend(payload);
        buffer.with_frame(seed, offset, FIELDS, SYNCED, TERMINATOR_LEN, <[u8]>::to_vec)
    }

    #[test]
    fn a_frame_is_these_bytes() {
        let bytes = frame(FrameSeed::new(IDENTITY, 3), 64, b"payload");
        let expected = [
            &[47, 0, 0, 0][..],
            &crc32c(b"payload\0").to_le_bytes(),
            &[11, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 0, 0, 0, 0, 0, 0],
            &[64, 0, 0, 0, 2, 0, 0, 0],
            &[13, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[..36], expected);
        let place = [
            &0x1234_5678_9abc_def0_u64.to_le_bytes()[..],
            &7_u64.to_le_bytes(),
            &2_u32.to_le_bytes(),
            &3_u32.to_le_bytes(),
            &64_u32.to_le_bytes(),
            &expected,
        ]
        .concat();
        assert_eq!(bytes[36..40], crc32c(&place).to_le_bytes());
        assert_eq!(bytes[40..], *b"payload\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn crc_32c_is_castagnoli_s() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_frame_passes_at_its_own_place_alone() {
        let seed = FrameSeed::new(IDENTITY, 3);
        let bytes = frame(seed, 64, b"payload");
        let header = FrameHeader::decode(&bytes, seed, 64).expect("a frame");
        assert_eq!((header.fields, header.synced), (FIELDS, SYNCED));
        assert!(header.has_payload_in(&bytes[..48]));
        assert_eq!(header.payload_in(&bytes[..48]), b"payload");
        for other in [
            LogIdentity {
                generation: 8,
                ..IDENTITY
            },
            LogIdentity {
                executor: 3,
                ..IDENTITY
            },
            LogIdentity {
                directory: 1,
                ..IDENTITY
            },
        ] {
            assert_eq!(FrameHeader::decode(&bytes, FrameSeed::new(other, 3), 64), None);
        }
        assert_eq!(FrameHeader::decode(&bytes, FrameSeed::new(IDENTITY, 4), 64), None);
        assert_eq!(FrameHeader::decode(&bytes, seed, 72), None);
    }

    #[test]
    fn random_bytes_and_zeros_are_no_header() {
        let mut random = seeded_random::printed();
        let seed = FrameSeed::new(IDENTITY, 3);
        assert_eq!(FrameHeader::decode(&[0; FRAME_HEADER_LEN], seed, 64), None);
        let mut bytes = [0; FRAME_HEADER_LEN];
        for _ in 0..100_000 {
            random.fill_bytes(&mut bytes);
            // Most lengths would be refused before the checksum is asked.
            bytes[..4].copy_from_slice(&random.random_range(0..10_000_u32).to_le_bytes());
            assert_eq!(FrameHeader::decode(&bytes, seed, 64), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_buffer_is_as_before_once_its_frame_was_written() {
        let mut buffer = FrameBuffer::new();
        buffer.extend(b"SET a");
        buffer.payload_mut()[0] = b's';
        let seed = FrameSeed::new(IDENTITY, 1);
        let first = buffer.with_frame(seed, 64, FIELDS, SYNCED, TERMINATOR_LEN, <[u8]>::to_vec);
        assert_eq!(buffer.payload(), b"sET a");
        assert_eq!(
            buffer.with_frame(seed, 64, FIELDS, SYNCED, TERMINATOR_LEN, <[u8]>::to_vec),
            first
        );
        buffer.clear();
        assert!(buffer.is_empty() && buffer.frame_len() == FRAME_HEADER_LEN);
    }

    #[test]
    fn a_buffer_gives_the_room_of_a_very_large_value_back() {
        let mut buffer = FrameBuffer::new();
        buffer.extend(&vec![1; 3 * BUFFER_KEPT_LEN_MAX]);
        buffer.clear();
        assert!(buffer.bytes.capacity() <= BUFFER_KEPT_LEN_MAX);
    }
}
