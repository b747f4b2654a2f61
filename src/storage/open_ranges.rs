//! Ranges that are read little by little while others write: what was in them when they were opened.
//!
//! What RocksDB had then, its iterator goes on seeing. What only the table of records had may be written over, or go to
//! RocksDB, which that iterator does not see: its state is saved here before, once for each cell that was not read yet.
//! So an open range costs a write nothing that lies outside or behind its reader, and a range that nobody writes to
//! costs no memory. Where the whole table makes way for an empty one, the range keeps it.

use super::database::{Column, Direction};
use super::records::Records;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A cell as it was when the range was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The table had this, over what is on disk; `None`: that there is no such cell.
    InTable(Option<Vec<u8>>),
    /// The table had nothing that RocksDB had not: what is on disk counts.
    OnDisk,
}

/// What is kept for the reader of an open range.
pub struct SavedCells {
    /// The saved cells by key.
    pub cells: BTreeMap<Box<[u8]>, Saved>,
    /// The table of records as it was last, if another one has taken its place since.
    pub table: Option<Arc<Records>>,
    direction: Direction,
    /// The last key that was read, once those before it are not read again.
    read_to: Option<Vec<u8>>,
}

impl SavedCells {
    /// Whether a key is still to be read.
    fn is_ahead(&self, key: &[u8]) -> bool {
        self.read_to.as_deref().is_none_or(|read_to| match self.direction {
            Direction::Forward => key > read_to,
            Direction::Backward => key < read_to,
        })
    }

    /// All up to `key` was read, and is not read again.
    pub fn pass(&mut self, key: &[u8]) {
        let read_to = self.read_to.get_or_insert_default();
        read_to.clear();
        read_to.extend_from_slice(key);
        while let Some(first) = match self.direction {
            Direction::Forward => self.cells.first_entry(),
            Direction::Backward => self.cells.last_entry(),
        } {
            let is_behind = match self.direction {
                Direction::Forward => **first.key() <= *key,
                Direction::Backward => **first.key() >= *key,
            };
            if !is_behind {
                break;
            }
            first.remove();
        }
    }
}

/// The reader's end of an open range. The range is closed when this is dropped.
pub struct SavedRange(Arc<Mutex<SavedCells>>);

impl SavedRange {
    /// What is kept so far. The lock is never contended: reader and writer are one thread.
    pub fn lock(&self) -> MutexGuard<'_, SavedCells> {
        locked(&self.0)
    }
}

fn locked(saved: &Mutex<SavedCells>) -> MutexGuard<'_, SavedCells> {
    saved.lock().unwrap_or_else(PoisonError::into_inner)
}

struct OpenRange {
    column: Column,
    from: Box<[u8]>,
    to: Box<[u8]>,
    saved: Weak<Mutex<SavedCells>>,
}

/// The open ranges of a shard.
#[derive(Default)]
pub struct OpenRanges(Vec<OpenRange>);

impl OpenRanges {
    /// Opens a range of keys, from the first to before the second.
    pub fn open(&mut self, column: Column, (from, to): (&[u8], &[u8]), direction: Direction) -> SavedRange {
        self.forget_closed();
        let saved = SavedRange(Arc::new(Mutex::new(SavedCells {
            cells: BTreeMap::new(),
            table: None,
            direction,
            read_to: None,
        })));
        self.0.push(OpenRange {
            column,
            from: from.into(),
            to: to.into(),
            saved: Arc::downgrade(&saved.0),
        });
        saved
    }

    /// Whether no range is open.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets ranges whose readers are gone.
    pub fn forget_closed(&mut self) {
        self.0.retain(|range| range.saved.strong_count() > 0);
    }

    /// A cell is about to change, or to leave the table: saves it as it `is` where that was not done before.
    pub fn save(&self, column: Column, key: &[u8], is: impl Fn() -> Saved) {
        for range in &self.0 {
            if range.column == column
                && *range.from <= *key
                && *key < *range.to
                && let Some(saved) = range.saved.upgrade()
            {
                let mut saved = locked(&saved);
                if saved.table.is_none() && saved.is_ahead(key) && !saved.cells.contains_key(key) {
                    saved.cells.insert(key.into(), is());
                }
            }
        }
    }

    /// The table makes way for another: what is not saved of it is read there, as it is from now on.
    pub fn freeze(&self, table: &Arc<Records>) {
        for saved in self.0.iter().filter_map(|range| range.saved.upgrade()) {
            locked(&saved).table.get_or_insert_with(|| Arc::clone(table));
        }
    }

    /// The table comes back, and changes again.
    pub fn thaw(&self, table: &Arc<Records>) {
        for saved in self.0.iter().filter_map(|range| range.saved.upgrade()) {
            locked(&saved).table.take_if(|kept| Arc::ptr_eq(kept, table));
        }
    }
}
