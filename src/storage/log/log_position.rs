//! Which log, and where in it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Tells one log from every other: what its checksums begin with, so that bytes of another log never pass for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// Random bits of the data directory's id. Without them a client could put bytes that pass for a frame into a value
    /// (generation, executor, segment and offset can be guessed) and make a torn log look damaged.
    pub directory: u64,
    /// The start of the server that writes the log, counted durably *before* the log is created and never used twice.
    pub generation: u64,
    /// The storage executor that writes it.
    pub executor: u32,
}

impl LogIdentity {
    /// The log's folder below the folder of all logs.
    pub fn folder(&self, logs: &Path) -> PathBuf {
        logs.join(format!("{}-{}", self.generation, self.executor))
    }
}

/// A place in a log: segments are numbered from 1, offsets count bytes from the segment file's beginning.
/// Places are ordered as the log was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The segment's number.
    pub segment: u32,
    /// The byte in its file.
    pub offset: u32,
}

impl LogPosition {
    /// Before everything.
    pub const START: LogPosition = LogPosition { segment: 0, offset: 0 };

    /// One number, ordered like the position: what an atomic holds and a frame carries.
    pub fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    /// The reverse of [`LogPosition::to_u64`].
    pub fn from_u64(number: u64) -> LogPosition {
        LogPosition {
            segment: (number >> 32) as u32,
            offset: number as u32,
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "segment {} byte {}", self.segment, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_s_number_is_ordered_as_the_position() {
        let at = |segment, offset| LogPosition { segment, offset };
        let ordered = [
            LogPosition::START,
            at(1, 0),
            at(1, u32::MAX),
            at(2, 64),
            at(u32::MAX, 8),
        ];
        assert!(ordered.is_sorted() && ordered.map(LogPosition::to_u64).is_sorted());
        assert_eq!(
            ordered.map(|position| LogPosition::from_u64(position.to_u64())),
            ordered
        );
    }
}
