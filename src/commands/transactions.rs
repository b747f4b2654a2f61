//! MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! What is queued stays with the connection ([`crate::network::transaction`]). EXEC sends it to its storage executor as one
//! request, which runs the commands one after the other: nothing comes between them, and all that they write is committed
//! in one batch.

use super::Context;
use super::effects::Ran;
use super::random::Random;
use super::table::{Command, READ};
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::protocol::{Arguments, Version};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

type Outcome = Result<(), CommandError>;

/// MULTI
pub fn multi(context: &mut NetworkContext<'_>) -> Outcome {
    context.session.transaction.begin()?;
    context.reply.ok();
    Ok(())
}

/// DISCARD
pub fn discard(context: &mut NetworkContext<'_>) -> Outcome {
    if context.session.transaction.take_queue().is_none() {
        return Err(CommandError::text("ERR DISCARD without MULTI"));
    }
    context.session.transaction.unwatch();
    context.reply.ok();
    Ok(())
}

/// UNWATCH
pub fn unwatch(context: &mut NetworkContext<'_>) -> Outcome {
    context.session.transaction.unwatch();
    context.reply.ok();
    Ok(())
}

/// WATCH key [key …], on the executor of those keys.
pub fn watch(context: &mut Context<'_>) -> Outcome {
    let (client_id, database) = (context.client_id, context.database);
    for key in context.arguments.iter().skip(1) {
        context.view.shards()?.watch(client_id, database, key)?;
    }
    context.reply.ok();
    Ok(())
}

/// A client watches nothing any more (not a client's command).
pub fn watches_drop(context: &mut Context<'_>) -> Outcome {
    context.view.shards()?.unwatch(context.client_id);
    context.reply.ok();
    Ok(())
}

/// What EXEC's request says before its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecHeader {
    /// How many commands follow.
    pub commands: u32,
    /// Whether the replies are to be told apart, because replies of other commands come between them: after a zero byte
    /// each follows its length(4, big endian). Otherwise they are one array.
    pub is_split: bool,
}

impl ExecHeader {
    /// As an argument: commands(4, big endian) ‖ split(1).
    pub fn encode(self) -> [u8; 5] {
        let [a, b, c, d] = self.commands.to_be_bytes();
        [a, b, c, d, u8::from(self.is_split)]
    }

    fn decode(bytes: &[u8]) -> Option<ExecHeader> {
        let (commands, split) = bytes.split_first_chunk()?;
        Some(ExecHeader {
            commands: u32::from_be_bytes(*commands),
            is_split: split == [1],
        })
    }
}

/// What EXEC's request says before each command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// [`Command::index`].
    pub index: u16,
    /// The database that is selected when it runs.
    pub database: u8,
    /// How it is answered.
    pub version: Version,
    /// How many arguments follow.
    pub arguments: u32,
}

impl PartHeader {
    /// As an argument: index(2, big endian) ‖ database(1) ‖ RESP3(1) ‖ arguments(4, big endian).
    pub fn encode(self) -> [u8; 8] {
        let [index_high, index_low] = self.index.to_be_bytes();
        let [a, b, c, d] = self.arguments.to_be_bytes();
        let is_resp3 = u8::from(self.version == Version::Resp3);
        [index_high, index_low, self.database, is_resp3, a, b, c, d]
    }

    fn decode(bytes: &[u8]) -> Option<PartHeader> {
        let [index_high, index_low, database, is_resp3, a, b, c, d] = *bytes.first_chunk()?;
        Some(PartHeader {
            index: u16::from_be_bytes([index_high, index_low]),
            database,
            version: if is_resp3 == 1 { Version::Resp3 } else { Version::Resp2 },
            arguments: u32::from_be_bytes([a, b, c, d]),
        })
    }
}

/// EXEC, with what was queued as its arguments: the name, an [`ExecHeader`], and for each command a [`PartHeader`] and its
/// arguments. Replies null if a watched key was modified. A command that fails leaves what the others have written.
pub fn exec(context: &mut Context<'_>) -> Outcome {
    let header = ExecHeader::decode(context.arguments.get(1)).ok_or(CommandError::Internal)?;
    if context.view.unwatch(context.client_id) {
        context.reply.null_array();
        return Ok(());
    }
    match header.is_split {
        true => context.reply.raw(b"\0"),
        false => context.reply.array(header.commands as usize),
    }
    let mut random = Random::new(context.seed);
    let mut rest = context.arguments.from(2);
    while !rest.is_empty() {
        let part = PartHeader::decode(rest.get(0)).ok_or(CommandError::Internal)?;
        let end = 1 + part.arguments as usize;
        context.database = part.database;
        context.seed = random.below(u64::MAX);
        context.reply.set_version(part.version);
        let command = Command::of_index(usize::from(part.index)).ok_or(CommandError::Internal)?;
        let len_at = context.reply.len();
        if header.is_split {
            context.reply.raw(&[0; REPLY_LEN_BYTES]);
        }
        run_part(context, command, rest.range(1, end))?;
        if header.is_split {
            let len = context.reply.len() - len_at - REPLY_LEN_BYTES;
            let len = u32::try_from(len).map_err(|_| CommandError::Internal)?;
            context.reply.overwrite(len_at, &len.to_be_bytes());
        }
        rest = rest.from(end);
    }
    Ok(())
}

/// The commands among EXEC's arguments. What cannot be read ends them: [`exec`] answers that with an error.
pub fn parts_of_exec(arguments: Arguments<'_>) -> impl Iterator<Item = (PartHeader, &'static Command, Arguments<'_>)> {
    let mut rest = arguments.from(2.min(arguments.len()));
    std::iter::from_fn(move || {
        let header = PartHeader::decode(rest.iter().next()?)?;
        let end = 1 + header.arguments as usize;
        if end > rest.len() {
            return None;
        }
        let part = rest.range(1, end);
        rest = rest.from(end);
        Some((header, Command::of_index(usize::from(header.index))?, part))
    })
}

/// Bytes of a reply's length where replies are told apart.
pub const REPLY_LEN_BYTES: usize = 4;

/// Runs one command of EXEC and counts it.
fn run_part(context: &mut Context<'_>, command: &'static Command, arguments: Arguments<'_>) -> Outcome {
    let handler = command.storage_handler().ok_or(CommandError::Internal)?;
    let touched = context.view.touched();
    let began = Instant::now();
    let reply_at = context.reply.len();
    let outcome = context.run_inner_here(arguments, |inner| {
        // A panic ends this command and not what was done before it.
        catch_unwind(AssertUnwindSafe(|| handler(inner))).unwrap_or_else(|_| {
            tracing::error!(
                command = command.name,
                "a handler panicked inside EXEC; its writes were dropped"
            );
            Err(CommandError::Internal)
        })
    });
    if !command.flags.has(READ) {
        context.view.uncount_look_ups(touched);
    }
    context.effects.ran.push(Ran {
        index: command.index(),
        took_ns: began.elapsed().as_nanos() as u64,
        error_at: outcome.is_err().then_some(reply_at),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_as_they_were_written() {
        for is_split in [false, true] {
            let header = ExecHeader {
                commands: 70_000,
                is_split,
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
