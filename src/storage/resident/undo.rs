//! How to take back what was written in memory since the last frame: of collections that have what RocksDB lacks, which
//! cannot be read anew.

use super::residents::{Everything, OwnerId, Resident};

/// One change, to be taken back newest first.
pub(super) enum Undo {
    /// The cells of the next changes are of this collection.
    Of {
        owner: OwnerId,
        epoch: u64,
        was_staged: bool,
    },
    /// A cell was set or deleted: its key lies in the bytes from `at` on, and behind it the value that it had, if it
    /// had one.
    Cell {
        part: u8,
        key_len: u32,
        value_len: Option<u32>,
        at: usize,
    },
    /// A collection was born.
    Born(OwnerId),
    /// A collection has gone.
    Dropped(Box<Resident>),
    /// All collections have gone.
    Cleared(Box<Everything>),
}

/// The changes since the last frame.
#[derive(Default)]
pub(super) struct UndoList {
    changes: Vec<Undo>,
    /// Keys and values of cells.
    bytes: Vec<u8>,
    /// Where the changes of the running command begin.
    pub(super) kept: usize,
    /// The collection that the last cells are of, if that is known.
    of: Option<OwnerId>,
    /// How many changes hold collections that have gone.
    holding: usize,
}

/// More room is given back when a frame is written.
const CHANGES_KEPT_MAX: usize = 1 << 14;
const BYTES_KEPT_MAX: usize = 1 << 20;

impl UndoList {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether the next cells' collection must be named.
    #[inline]
    pub(super) fn has_to_name(&self, owner: OwnerId) -> bool {
        self.of != Some(owner)
    }

    /// The next cells are of this collection.
    pub(super) fn name(&mut self, owner: OwnerId, epoch: u64, was_staged: bool) {
        self.of = Some(owner);
        self.changes.push(Undo::Of {
            owner,
            epoch,
            was_staged,
        });
    }

    /// A cell is about to change that has this value.
    #[inline]
    pub(super) fn cell(&mut self, part: usize, key: &[u8], value: Option<&[u8]>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a request is shorter than 4 GiB, and so is a cell");
        self.changes.push(Undo::Cell {
            part: part as u8,
            key_len: len(key),
            value_len: value.map(len),
            at,
        });
    }

    /// The value of the cell that was changed last, as it was, if it had one.
    #[inline]
    pub(super) fn last_value(&self) -> Option<&[u8]> {
        match self.changes.last()? {
            Undo::Cell {
                key_len, value_len, at, ..
            } => self.cell_at(*at, *key_len, *value_len).1,
            _ => None,
        }
    }

    pub(super) fn push(&mut self, change: Undo) {
        self.of = None;
        self.holding += usize::from(matches!(change, Undo::Dropped(_) | Undo::Cleared(_)));
        self.changes.push(change);
    }

    /// Takes the newest change out. Its bytes stay until [`UndoList::forget_bytes`].
    pub(super) fn pop(&mut self) -> Option<Undo> {
        self.of = None;
        let change = self.changes.pop()?;
        self.holding -= usize::from(matches!(change, Undo::Dropped(_) | Undo::Cleared(_)));
        Some(change)
    }

    /// The collection that the cells are of which were changed last.
    pub(super) fn last_named(&self) -> OwnerId {
        let named = self.changes.iter().rev().find_map(|change| match change {
            Undo::Of { owner, .. } => Some(*owner),
            _ => None,
        });
        named.expect("cells come behind their collection")
    }

    /// The key, and the value that it had, of a cell's change.
    pub(super) fn cell_at(&self, at: usize, key_len: u32, value_len: Option<u32>) -> (&[u8], Option<&[u8]>) {
        let (key, rest) = self.bytes[at..].split_at(key_len as usize);
        (key, value_len.map(|len| &rest[..len as usize]))
    }

    pub(super) fn forget_bytes(&mut self, at: usize) {
        self.bytes.truncate(at);
    }

    /// All changes stand for good. Gives out those that hold collections which have gone.
    pub(super) fn take_held(&mut self) -> Vec<Undo> {
        let mut held = Vec::new();
        if self.holding > 0 {
            let is_held = |change: &Undo| matches!(change, Undo::Dropped(_) | Undo::Cleared(_));
            held.extend(std::mem::take(&mut self.changes).into_iter().filter(is_held));
        }
        self.changes.clear();
        self.changes.shrink_to(CHANGES_KEPT_MAX);
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT_MAX);
        (self.kept, self.holding, self.of) = (0, 0, None);
        held
    }
}
