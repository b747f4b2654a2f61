//! Large replies in pieces: a reply of millions of members or keys is written some thousand at a time, each piece when the client has
//! taken most of the one before, and the shard serves others in between. All pieces see the collection as it was when the
//! command ran, since they come from one RocksDB iterator.

use super::database::Cursor;
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use std::collections::HashMap;

/// Entries that one piece looks at: about what keeps a shard busy for 300 µs.
pub const PIECE_MEMBERS_MAX: u64 = 1024;

/// Reply bytes of one piece: large members make fewer.
const PIECE_BYTES_FULL: usize = 256 * 1024;

/// Replies that an executor has begun and not ended. Each keeps what it still has to read from being deleted, so there must
/// not be many; a piece of one more is followed by all others at once.
pub const REPLIES_BEGUN_MAX: usize = 1024;

/// Writes what a reply says of one member: `fn(reply, member, value, now_ms)`. Returns whether it is one of those that the
/// reply's header counts (an expired field of a hash is not).
pub type WriteMember = fn(&mut Reply<'_>, &[u8], &[u8], u64) -> bool;

/// The rest of a reply.
pub struct Pieces {
    /// What it is read from, in order.
    cursors: Vec<Cursor>,
    /// The cursor that is being read.
    place: usize,
    plan: Plan,
}

/// Tells whether an entry, by its key and value on disk, belongs to the reply; gives what is said of it.
pub type Select = Box<dyn for<'a> Fn(&'a [u8], &'a [u8]) -> Option<&'a [u8]> + Send>;

/// What is done with the entries.
enum Plan {
    /// Something is written of each of the first `left`, which is their number in the reply's header already.
    Members {
        prefix_len: usize,
        left: u64,
        write: WriteMember,
        now_ms: u64,
    },
    /// Those that are selected are counted, so that the header can be written...
    Count { select: Select, found: u64 },
    /// ...and then written, from the first on again.
    Selected { select: Select, left: u64 },
}

/// What came of writing a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// There is more.
    Piece,
    /// That was the last.
    All,
    /// The entries ended early or could not be read: the reply cannot be completed.
    Broken,
}

impl Pieces {
    /// `left` members as they are at `now_ms`, each with `prefix_len` bytes of its key before it.
    pub fn of_members(cursor: Cursor, prefix_len: usize, (left, write): (u64, WriteMember), now_ms: u64) -> Pieces {
        Pieces {
            cursors: vec![cursor],
            place: 0,
            plan: Plan::Members {
                prefix_len,
                left,
                write,
                now_ms,
            },
        }
    }

    /// An array of bulk strings: what `select` gives for the entries of all `cursors`.
    pub fn of_selected(cursors: Vec<Cursor>, select: Select) -> Pieces {
        Pieces {
            cursors,
            place: 0,
            plan: Plan::Count { select, found: 0 },
        }
    }

    /// Writes all that is left: the reply of a part of another command cannot come in pieces.
    ///
    /// # Errors
    /// If it cannot be read to its end.
    pub fn write_whole(mut self, reply: &mut Reply<'_>) -> Result<(), CommandError> {
        let mut bytes = Vec::new();
        loop {
            match self.write_next(&mut bytes, reply.version()) {
                Written::Piece => {}
                Written::All => break,
                Written::Broken => return Err(CommandError::Internal),
            }
        }
        reply.raw(&bytes);
        Ok(())
    }

    /// Appends the next piece to `replies`; it may be empty.
    pub fn write_next(&mut self, replies: &mut Vec<u8>, version: Version) -> Written {
        let start = replies.len();
        for _ in 0..PIECE_MEMBERS_MAX {
            while self.place < self.cursors.len() && self.cursors[self.place].item().is_none() {
                if !self.cursors[self.place].has_ended() {
                    return Written::Broken;
                }
                self.place += 1;
            }
            let item = self.cursors.get(self.place).and_then(Cursor::item);
            let mut reply = Reply::new(replies, version);
            match (&mut self.plan, item) {
                (Plan::Members { left: 0, .. } | Plan::Selected { left: 0, .. }, _) => return Written::All,
                (Plan::Members { .. } | Plan::Selected { .. }, None) => return Written::Broken,
                (
                    Plan::Members {
                        prefix_len,
                        left,
                        write,
                        now_ms,
                    },
                    Some((key, value)),
                ) => {
                    *left -= u64::from(write(&mut reply, &key[*prefix_len..], value, *now_ms));
                }
                (Plan::Selected { select, left }, Some((key, value))) => {
                    if let Some(selected) = select(key, value) {
                        reply.bulk(selected);
                        *left -= 1;
                    }
                }
                (Plan::Count { select, found }, Some((key, value))) => {
                    *found += u64::from(select(key, value).is_some());
                }
                (Plan::Count { found, .. }, None) => {
                    reply.array(*found as usize);
                    self.begin_again();
                    continue;
                }
            }
            self.cursors[self.place].advance();
            if replies.len() - start >= PIECE_BYTES_FULL {
                break;
            }
        }
        match self.plan {
            Plan::Members { left: 0, .. } | Plan::Selected { left: 0, .. } => Written::All,
            _ => Written::Piece,
        }
    }

    /// All were counted: the cursors go back to their beginnings, and see the same.
    fn begin_again(&mut self) {
        self.cursors.iter_mut().for_each(Cursor::rewind);
        self.place = 0;
        // Replaced at once by the plan that takes the selection over.
        let counted = std::mem::replace(
            &mut self.plan,
            Plan::Members {
                prefix_len: 0,
                left: 0,
                write: |_, _, _, _| false,
                now_ms: 0,
            },
        );
        if let Plan::Count { select, found } = counted {
            self.plan = Plan::Selected { select, left: found };
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
