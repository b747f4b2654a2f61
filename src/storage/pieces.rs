//! Large replies in pieces: a reply of millions of members or keys is written some thousand at a time, each piece when
//! the client has taken most of the one before, and the shard serves others in between. Where nothing else tells how
//! many there will be, the entries are counted first, piece by piece too. All pieces see the collection as it was when
//! the command ran, since they come from cursors that keep it ([`super::range_cursor`]).

use super::range_cursor::{CursorRead, RangeCursor};
use super::shards::Shards;
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Entries that one piece looks at, deleted ones of which the disk does not know yet among them: about what keeps a
/// shard busy for 300 µs.
pub const PIECE_MEMBERS_MAX: u64 = 1024;

/// Reply bytes of one piece: large members make fewer.
pub const PIECE_BYTES_FULL: usize = 256 * 1024;

/// Replies that an executor has begun and not ended. Each keeps what it still has to read from being deleted, so there
/// must not be many; a piece of one more is followed by all others at once.
pub const REPLIES_BEGUN_MAX: usize = 1024;

/// Writes what a reply says of one member: `fn(reply, member, value, now_ms)`. Returns whether it is one of those that
/// the reply's header counts (an expired field of a hash is not).
pub type WriteMember = fn(&mut Reply<'_>, &[u8], &[u8], u64) -> bool;

/// Tells whether an entry belongs to a reply, by its key (or its member) and its value; if there is a reply, it also
/// writes there what is said of it.
pub type WriteEntry = Box<dyn Fn(Option<&mut Reply<'_>>, &[u8], &[u8]) -> bool + Send>;

/// How many entries a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many: the reply's header, which is written already, says it.
    Known(u64),
    /// As many as belong to the reply, but at most so many: they are counted first, and then the header of an array is
    /// written.
    AtMost(u64),
}

/// The remainder of a reply.
pub struct Pieces {
    /// What the remainder is read from, in order.
    cursors: Vec<RangeCursor>,
    /// The cursor that is being read.
    cursor_index: usize,
    /// Bytes of each key that `write` is not shown.
    prefix_len: usize,
    /// Entries that come before the reply's first.
    skip: u64,
    /// How many of the entries before the reply's first have been passed by.
    skipped: u64,
    write: WriteEntry,
    /// The entries are only counted; afterwards they are read again from the first on, and written.
    counting: bool,
    /// The most that belong to the reply.
    most: u64,
    /// How many of the reply's entries may still come.
    left: u64,
    /// The random number that picks the reply's one entry, if it has one.
    picks: Option<u64>,
    /// Entries that belong to the reply and come before the one that was picked.
    unpicked: u64,
}

/// What came of writing a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A piece was written, and there is more.
    Piece,
    /// The last piece was written.
    All,
    /// The entries ended early or could not be read: the reply cannot be completed.
    Broken,
}

impl Pieces {
    /// What `write` says of the entries of all `cursors`.
    pub fn new(mut cursors: Vec<RangeCursor>, extent: Extent, write: WriteEntry) -> Pieces {
        let (Extent::Known(most) | Extent::AtMost(most)) = extent;
        let counting = !matches!(extent, Extent::Known(_));
        if counting {
            cursors.iter_mut().for_each(RangeCursor::read_twice);
        }
        Pieces {
            cursors,
            cursor_index: 0,
            prefix_len: 0,
            skip: 0,
            skipped: 0,
            write,
            counting,
            most,
            left: most,
            picks: None,
            unpicked: 0,
        }
    }

    /// Makes it the remainder of a reply on a collection's members, of which the first `skip` are passed over;
    /// `prefix_len` bytes of each key come before the member.
    pub fn of_members(self, prefix_len: usize, skip: u64) -> Pieces {
        Pieces {
            prefix_len,
            skip,
            ..self
        }
    }

    /// Makes it a reply of one entry, of those that were to be counted: the one that a random number picks, or null if
    /// there is none.
    pub fn pick_one(self, random: u64) -> Pieces {
        assert!(self.counting, "one is picked of a number");
        Pieces {
            picks: Some(random),
            ..self
        }
    }

    /// Writes all that is left: the reply of a part of another command cannot come in pieces.
    ///
    /// # Errors
    /// If it cannot be read to its end.
    pub fn write_whole(mut self, shards: &mut Shards, reply: &mut Reply<'_>) -> Result<(), CommandError> {
        let mut bytes = Vec::new();
        loop {
            match self.write_next(shards, &mut bytes, reply.version()) {
                Written::Piece => {}
                Written::All => break,
                Written::Broken => return Err(CommandError::Internal),
            }
        }
        reply.raw(&bytes);
        Ok(())
    }

    /// Appends the next piece to `replies`; it may be empty. `shards` are those of the cursors.
    pub fn write_next(&mut self, shards: &mut Shards, replies: &mut Vec<u8>, version: Version) -> Written {
        let start = replies.len();
        let mut entries_left = PIECE_MEMBERS_MAX;
        while entries_left > 0 && replies.len() - start < PIECE_BYTES_FULL {
            if self.counting && (self.left == 0 || self.cursor_index == self.cursors.len()) {
                self.end_count(Reply::new(replies, version));
            }
            if self.left == 0 {
                return Written::All;
            }
            let Some(cursor) = self.cursors.get_mut(self.cursor_index) else {
                return Written::Broken;
            };
            let records = shards.shard_mut(cursor.shard()).records();
            let read = cursor.read(records, &mut entries_left, |key, value| {
                if self.skipped < self.skip {
                    self.skipped += 1;
                } else {
                    let mut reply = Reply::new(replies, version);
                    let reply = (!self.counting && self.unpicked == 0).then_some(&mut reply);
                    match (self.write)(reply, &key[self.prefix_len..], value) {
                        true if self.unpicked > 0 => self.unpicked -= 1,
                        belongs => self.left -= u64::from(belongs),
                    }
                }
                match self.left == 0 || replies.len() - start >= PIECE_BYTES_FULL {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            match read {
                CursorRead::UpToHere => {}
                CursorRead::All => self.cursor_index += 1,
                CursorRead::Broken => return Written::Broken,
            }
        }
        match self.left == 0 && !self.counting {
            true => Written::All,
            false => Written::Piece,
        }
    }

    /// All entries were counted.
    fn end_count(&mut self, mut reply: Reply<'_>) {
        let found = self.most - self.left;
        match self.picks {
            None => {
                reply.array(found as usize);
                self.begin_again(found);
            }
            Some(_) if found == 0 => {
                reply.null();
                self.begin_again(0);
            }
            Some(random) => {
                self.unpicked = random % found;
                self.begin_again(1);
            }
        }
    }

    /// The cursors go back to their beginnings, and see the same.
    fn begin_again(&mut self, found: u64) {
        self.cursors.iter_mut().for_each(RangeCursor::rewind);
        (self.cursor_index, self.skipped) = (0, 0);
        (self.counting, self.most, self.left) = (false, found, found);
    }
}

/// The replies that an executor has begun, by number.
#[derive(Default)]
pub struct RepliesBegun {
    by_number: HashMap<u64, Box<Pieces>>,
    last: u64,
    /// Those that are not wanted any more.
    ended: Vec<Pieces>,
}

impl RepliesBegun {
    /// Whether another reply may be begun.
    pub fn has_room(&self) -> bool {
        self.by_number.len() < REPLIES_BEGUN_MAX
    }

    /// How many replies are begun.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether no reply is begun.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Keeps the remainder of a reply; returns its number, never 0.
    ///
    /// # Panics
    /// If there is no room: see [`RepliesBegun::has_room`].
    pub fn keep(&mut self, pieces: Box<Pieces>) -> u64 {
        assert!(self.has_room(), "no more replies are begun than may be");
        self.last += 1;
        self.by_number.insert(self.last, pieces);
        self.last
    }

    /// A reply is over, or its client does not want more: what it has read may be nowhere else any more, and take long
    /// to be given back.
    pub fn end(&mut self, pieces: Pieces) {
        self.ended.push(pieces);
    }

    /// Those since the last call.
    pub fn take_ended(&mut self) -> Vec<Pieces> {
        std::mem::take(&mut self.ended)
    }

    /// Takes the remainder of a reply out.
    pub fn take(&mut self, number: u64) -> Option<Box<Pieces>> {
        self.by_number.remove(&number)
    }
}
