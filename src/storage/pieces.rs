//! Large replies in pieces: a reply of millions of members is written some thousand at a time, each piece when the client has
//! taken most of the one before, and the shard serves others in between. All pieces see the collection as it was when the
//! command ran, since they come from one RocksDB iterator.

use super::database::Cursor;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use std::collections::HashMap;

/// Members of one piece: about what keeps a shard busy for 300 µs.
pub const PIECE_MEMBERS_MAX: u64 = 1024;

/// Reply bytes of one piece: large members make fewer.
const PIECE_BYTES_FULL: usize = 256 * 1024;

/// Replies that an executor has begun and not ended. Each keeps what it still has to read from being deleted, so there must
/// not be many; one more is written whole.
pub const REPLIES_BEGUN_MAX: usize = 1024;

/// Writes what a reply says of one member: `fn(reply, member, value)`.
pub type WriteMember = fn(&mut Reply<'_>, &[u8], &[u8]);

/// The rest of a reply.
pub struct Pieces {
    /// Where the rest begins.
    pub cursor: Cursor,
    /// Bytes of each key before the member.
    pub prefix_len: usize,
    /// Members that are still to be written; their number is in the reply already.
    pub left: u64,
    /// How each is written.
    pub write: WriteMember,
}

/// What came of writing a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// There is more.
    Piece,
    /// That was the last.
    All,
    /// The members ended early or could not be read: the reply cannot be completed.
    Broken,
}

impl Pieces {
    /// Appends the next piece to `replies`.
    pub fn write_next(&mut self, replies: &mut Vec<u8>, version: Version) -> Written {
        let start = replies.len();
        let members = self.left.min(PIECE_MEMBERS_MAX);
        for _ in 0..members {
            let Some((key, value)) = self.cursor.item() else {
                return Written::Broken;
            };
            (self.write)(&mut Reply::new(replies, version), &key[self.prefix_len..], value);
            self.cursor.advance();
            self.left -= 1;
            if replies.len() - start >= PIECE_BYTES_FULL {
                break;
            }
        }
        match self.left {
            0 => Written::All,
            _ => Written::Piece,
        }
    }
}

/// The replies that an executor has begun, by number.
#[derive(Default)]
pub struct RepliesBegun {
    by_number: HashMap<u64, Pieces>,
    last: u64,
}

impl RepliesBegun {
    /// Whether another may be begun.
    pub fn has_room(&self) -> bool {
        self.by_number.len() < REPLIES_BEGUN_MAX
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Keeps the rest of a reply; returns its number, never 0.
    pub fn keep(&mut self, pieces: Pieces) -> u64 {
        self.last += 1;
        self.by_number.insert(self.last, pieces);
        self.last
    }

    /// Takes the rest of a reply out.
    pub fn take(&mut self, number: u64) -> Option<Pieces> {
        self.by_number.remove(&number)
    }
}
