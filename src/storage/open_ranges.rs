//! Ranges that are read little by little while others write: what was in them when they were opened.
//!
//! What RocksDB had then, its iterator goes on seeing. What only the table of records had may be written over, or go to
//! RocksDB, which that iterator does not see: its state is saved here before, once for each cell. So an open range
//! costs a write nothing that lies outside, and a range that nobody writes to costs no memory.

use super::database::Column;
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

/// The saved cells by key.
pub type SavedCells = BTreeMap<Box<[u8]>, Saved>;

/// The reader's end of an open range. The range is closed when this is dropped.
#[derive(Clone, Default)]
pub struct SavedRange(Arc<Mutex<SavedCells>>);

impl SavedRange {
    /// What was saved so far. The lock is never contended: reader and writer are one thread.
    pub fn lock(&self) -> MutexGuard<'_, SavedCells> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    pub fn open(&mut self, column: Column, (from, to): (&[u8], &[u8])) -> SavedRange {
        self.forget_closed();
        let saved = SavedRange::default();
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
                let mut saved = saved.lock().unwrap_or_else(PoisonError::into_inner);
                if !saved.contains_key(key) {
                    saved.insert(key.into(), is());
                }
            }
        }
    }
}
