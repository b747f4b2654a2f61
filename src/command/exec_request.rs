//! EXEC's request to a storage executor: what was queued since MULTI, as its arguments.

use super::Command;
use crate::protocol::{Arguments, Version};

/// What EXEC's request says before its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecHeader {
    /// How many commands follow the header.
    pub commands: u32,
    /// Whether the replies are to be told apart, because replies of other commands come between them: then a zero byte
    /// is followed by the replies, each behind its length(4, big endian). Otherwise they are one array.
    pub is_split: bool,
    /// Whether a script is among the commands.
    pub runs_script: bool,
}

impl ExecHeader {
    /// The header as an argument: commands(4, big endian) ‖ split(1) ‖ script(1).
    pub fn encode(self) -> [u8; 6] {
        let [a, b, c, d] = self.commands.to_be_bytes();
        [a, b, c, d, u8::from(self.is_split), u8::from(self.runs_script)]
    }

    /// The header that [`Self::encode`] has written; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<ExecHeader> {
        let [a, b, c, d, split, script] = *bytes.first_chunk()?;
        Some(ExecHeader {
            commands: u32::from_be_bytes([a, b, c, d]),
            is_split: split == 1,
            runs_script: script == 1,
        })
    }
}

/// What EXEC's request says before each command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// [`Command::index`].
    pub index: u16,
    /// The database that is selected when the command runs.
    pub database: u8,
    /// How the command is answered.
    pub version: Version,
    /// How many arguments follow the header.
    pub arguments: u32,
}

impl PartHeader {
    /// The header as an argument: index(2, big endian) ‖ database(1) ‖ RESP3(1) ‖ arguments(4, big endian).
    pub fn encode(self) -> [u8; 8] {
        let [index_high, index_low] = self.index.to_be_bytes();
        let [a, b, c, d] = self.arguments.to_be_bytes();
        let is_resp3 = u8::from(self.version == Version::Resp3);
        [index_high, index_low, self.database, is_resp3, a, b, c, d]
    }

    /// The header that [`Self::encode`] has written; `None` for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<PartHeader> {
        let [index_high, index_low, database, is_resp3, a, b, c, d] = *bytes.first_chunk()?;
        Some(PartHeader {
            index: u16::from_be_bytes([index_high, index_low]),
            database,
            version: if is_resp3 == 1 { Version::Resp3 } else { Version::Resp2 },
            arguments: u32::from_be_bytes([a, b, c, d]),
        })
    }
}

/// Whether an EXEC has scripts among its commands, and may have to pause.
pub fn runs_script(arguments: Arguments<'_>) -> bool {
    ExecHeader::decode(arguments.get(1)).is_some_and(|header| header.runs_script)
}

/// The commands among EXEC's arguments, up to the first that cannot be read: the handler answers that with an error.
pub fn parts_of_exec(arguments: Arguments<'_>) -> impl Iterator<Item = (PartHeader, &'static Command, Arguments<'_>)> {
    let mut remaining = arguments.from(2.min(arguments.len()));
    std::iter::from_fn(move || {
        let header = PartHeader::decode(remaining.iter().next()?)?;
        let end = 1 + header.arguments as usize;
        if end > remaining.len() {
            return None;
        }
        let part = remaining.range(1, end);
        remaining = remaining.from(end);
        Some((header, Command::of_index(usize::from(header.index))?, part))
    })
}

/// Bytes of a length where replies are told apart: each is a reply behind its length, and behind its own length what
/// clients that monitor are shown of it.
pub const REPLY_LEN_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_as_they_were_written() {
        for (is_split, runs_script) in [(false, false), (true, false), (false, true)] {
            let header = ExecHeader {
                commands: 70_000,
                is_split,
                runs_script,
            };
            assert_eq!(ExecHeader::decode(&header.encode()), Some(header));
        }
        for version in [Version::Resp2, Version::Resp3] {
            let header = PartHeader {
                index: 300,
                database: 15,
                version,
                arguments: 1 << 20,
            };
            assert_eq!(PartHeader::decode(&header.encode()), Some(header));
        }
        assert_eq!(PartHeader::decode(b"1234567"), None);
    }
}
