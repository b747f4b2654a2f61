//! Commands that wait: BLPOP and its relatives, XREAD and XREADGROUP with BLOCK.
//!
//! A handler with nothing to give writes what it answers where waiting is not allowed (inside MULTI and scripts), and
//! says in [`Waiting`] what it waits for. The storage executor runs the command again when one of those keys has
//! changed, as a command of its own, until it has something to give.

use crate::commands::arguments::integer;
use crate::error::CommandError;
use crate::number::parse_double;
use crate::storage::encoding::{StreamId, Type};
use std::ops::Range;

/// What a command waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The positions of the keys among the command's arguments.
    pub keys: Range<usize>,
    /// The type that a key must have for the command to run again.
    pub kind: Type,
    /// Whether the command runs again, too, when a key is deleted, or something else is stored there (XREADGROUP, whose
    /// group is gone then).
    pub without_key: bool,
    /// How long the command waits, in milliseconds; 0 for ever.
    pub timeout_ms: u64,
    /// Arguments that will mean something else by then, with what they mean now (`$` of XREAD).
    pub replaced: Vec<(usize, Vec<u8>)>,
    /// The command's number in the queue of waiters, if the command has waited before and goes on waiting.
    pub queue_number: Option<u64>,
}

impl Waiting {
    /// Waits for something of a kind under the keys at `keys`.
    pub fn for_keys(keys: Range<usize>, kind: Type, timeout_ms: u64) -> Waiting {
        Waiting {
            keys,
            kind,
            without_key: false,
            timeout_ms,
            replaced: Vec::new(),
            queue_number: None,
        }
    }

    /// Waits for entries of streams after these `positions`: the last entries of now, not of the time when the next
    /// come.
    pub fn after(mut self, positions: &[StreamId]) -> Waiting {
        let replaced = positions.iter().enumerate();
        self.replaced = replaced
            .map(|(number, position)| (self.keys.end + number, position.to_string().into_bytes()))
            .collect();
        self
    }
}

/// A timeout in seconds with their fractions, in milliseconds; 0 for ever.
pub fn timeout_of_seconds(argument: &[u8], now_ms: u64) -> Result<u64, CommandError> {
    let seconds = parse_double(argument);
    let seconds = seconds.ok_or(CommandError::text("ERR timeout is not a float or out of range"))?;
    let timeout_ms = (seconds * 1000.0).ceil();
    if timeout_ms >= i64::MAX as f64 {
        return Err(CommandError::text("ERR timeout is out of range"));
    }
    checked_timeout(timeout_ms as i64, now_ms)
}

/// A timeout in milliseconds; 0 for ever.
pub fn timeout_of_milliseconds(argument: &[u8], now_ms: u64) -> Result<u64, CommandError> {
    let timeout_ms =
        integer(argument).map_err(|_| CommandError::text("ERR timeout is not an integer or out of range"))?;
    checked_timeout(timeout_ms, now_ms)
}

fn checked_timeout(timeout_ms: i64, now_ms: u64) -> Result<u64, CommandError> {
    if timeout_ms < 0 {
        return Err(CommandError::text("ERR timeout is negative"));
    }
    match timeout_ms.checked_add(now_ms as i64) {
        Some(_) => Ok(timeout_ms as u64),
        None => Err(CommandError::text("ERR timeout is out of range")),
    }
}
