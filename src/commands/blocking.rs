//! Commands that wait: BLPOP and its relatives, XREAD and XREADGROUP with BLOCK, WAIT and WAITAOF.
//!
//! A handler with nothing to give writes what it answers where waiting is not allowed (inside MULTI and scripts), and
//! says in [`Waiting`] what it waits for. The storage executor runs it again when one of those keys has changed, as a
//! command of its own, until it has something to give.

use crate::commands::Context;
use crate::commands::arguments::{integer, is_option};
use crate::error::CommandError;
use crate::network::session::{NetworkContext, Until, WaitHere};
use crate::number::parse_double;
use crate::protocol::Arguments;
use crate::registry::clients::Ticket;
use crate::storage::encoding::{StreamId, Type};
use std::ops::Range;

/// What a command waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The places of the keys among its arguments.
    pub keys: Range<usize>,
    /// What must be there for the command to run again.
    pub kind: Type,
    /// Whether it runs again too when a key is deleted, or something else is stored there (XREADGROUP, whose group is
    /// gone then).
    pub without_key: bool,
    /// How long, in milliseconds; 0 for ever.
    pub timeout_ms: u64,
    /// Arguments that will mean something else by then, with what they mean now (`$` of XREAD).
    pub replaced: Vec<(usize, Vec<u8>)>,
    /// Its place in the line, if it has waited before and goes on.
    pub place: Option<u64>,
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
            place: None,
        }
    }

    /// The same for entries of streams after these: the last ones of now, not of the time when the next come.
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

/// Whether a command with the flag BLOCKING may wait: XREAD and XREADGROUP only do with the option BLOCK.
pub fn may_wait(name: &str, arguments: Arguments<'_>) -> bool {
    if !matches!(name, "xread" | "xreadgroup") {
        return true;
    }
    let mut place = 1;
    while place < arguments.len() {
        place += match arguments.get(place) {
            option if is_option(option, "BLOCK") => return true,
            option if is_option(option, "GROUP") => 3,
            option if is_option(option, "COUNT") => 2,
            option if is_option(option, "STREAMS") => return false,
            _ => 1,
        };
    }
    false
}

/// A client does not wait any more, or was answered by another executor: what is kept of its command may go.
pub fn drop_waiters(context: &mut Context<'_>) -> Result<(), CommandError> {
    let arguments = context.arguments;
    let client_id = arguments.get(1).first_chunk().ok_or(CommandError::Internal)?;
    let ticket = arguments.get(2).first_chunk().ok_or(CommandError::Internal)?;
    let (client_id, ticket) = (u64::from_be_bytes(*client_id), Ticket::from_be_bytes(*ticket));
    context.view.shards()?.waiters.remove_command(client_id, ticket);
    context.reply.ok();
    Ok(())
}

/// WAIT numreplicas timeout: there are no replicas.
pub fn wait(context: &mut NetworkContext<'_>) -> Result<(), CommandError> {
    let replicas = integer(context.arguments.get(1))?;
    let timeout_ms = timeout_of_milliseconds(context.arguments.get(2), crate::clock::unix_ms())?;
    context.reply.integer(0);
    context.waits = (replicas > 0).then_some(WaitHere {
        timeout_ms,
        until: Until::TimeIsUp,
    });
    Ok(())
}

/// WAITAOF numlocal numreplicas timeout: the local log is that of the shards, and there are no replicas.
pub fn waitaof(context: &mut NetworkContext<'_>) -> Result<(), CommandError> {
    let local = integer(context.arguments.get(1))?;
    if !(0..=1).contains(&local) {
        return Err(CommandError::text(
            "ERR value is out of range, value must between 0 and 1",
        ));
    }
    let replicas = integer(context.arguments.get(2)).ok().filter(|replicas| *replicas >= 0);
    let replicas = replicas.ok_or(CommandError::text("ERR value is out of range, must be positive"))?;
    let timeout_ms = timeout_of_milliseconds(context.arguments.get(3), crate::clock::unix_ms())?;
    context.reply.array(2);
    context.reply.integer(0);
    context.reply.integer(0);
    let until = match (local, replicas) {
        (0, 0) => Until::Known,
        (_, 0) => Until::Durable,
        _ => Until::TimeIsUpAfterDurable,
    };
    context.waits = Some(WaitHere { timeout_ms, until });
    Ok(())
}

/// Whether all that was written so far is on disk, and whether a source is there: the executor itself answers that,
/// when the time has come.
pub fn answered_by_executor(_: &mut Context<'_>) -> Result<(), CommandError> {
    Err(CommandError::Internal)
}
