//! MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! What is queued stays with the connection ([`crate::network::multi_state`]). EXEC sends it to its storage executor as
//! one request, which runs the commands one after the other: nothing comes between them, and all that they write is
//! committed in one batch.

use super::{Context, PartMark, scripting};
use crate::commands::effects::EffectsMark;
use crate::commands::random::Random;
use crate::commands::table::{Command, RUNS_SCRIPT};
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::panics::{self, Panicked};
use crate::protocol::{Arguments, Version};
use crate::scripts::run::{Driven, Running};
use crate::storage::view::Touched;
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
    /// Whether a script is among them.
    pub runs_script: bool,
}

impl ExecHeader {
    /// As an argument: commands(4, big endian) ‖ split(1) ‖ script(1).
    pub fn encode(self) -> [u8; 6] {
        let [a, b, c, d] = self.commands.to_be_bytes();
        [a, b, c, d, u8::from(self.is_split), u8::from(self.runs_script)]
    }

    fn decode(bytes: &[u8]) -> Option<ExecHeader> {
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

/// EXEC, with what was queued as its arguments: the name, an [`ExecHeader`], and for each command a [`PartHeader`] and
/// its arguments. Replies null if a watched key was modified. A command that fails leaves what the others have written.
pub fn exec(context: &mut Context<'_>) -> Outcome {
    Execution::begin(context)?.drive(context, false).map(|_| ())
}

/// Whether an EXEC has scripts among its commands, so that it may have to pause.
pub fn runs_script(arguments: Arguments<'_>) -> bool {
    ExecHeader::decode(arguments.get(1)).is_some_and(|header| header.runs_script)
}

/// An EXEC under way. It can be left in the middle of a script.
pub struct Execution {
    is_split: bool,
    random: Random,
    /// The place of the next command's [`PartHeader`] among the arguments.
    next: usize,
    /// The command that it was left in the middle of.
    open: Option<Part>,
    is_stopped: bool,
    /// What there was to be given out when it began.
    effects: EffectsMark,
}

/// A command of an EXEC that has begun.
struct Part {
    command: &'static Command,
    script: Option<Running>,
    mark: PartMark,
    touched: Touched,
    began: Instant,
    /// Where its reply begins.
    reply_at: usize,
}

impl Execution {
    /// Begins one: replies what comes before its commands' replies, or that a watched key was modified.
    ///
    /// # Errors
    /// The arguments are damaged.
    pub fn begin(context: &mut Context<'_>) -> Result<Execution, CommandError> {
        let header = ExecHeader::decode(context.arguments.get(1)).ok_or(CommandError::Internal)?;
        let mut execution = Execution {
            is_split: header.is_split,
            random: Random::new(context.seed),
            next: 2,
            open: None,
            is_stopped: false,
            effects: context.effects.mark(),
        };
        // They are forgotten when it is over: until then it may begin anew.
        if context.view.is_dirty(context.client_id) {
            context.reply.null_array();
            execution.next = context.arguments.len();
        } else if header.is_split {
            context.reply.raw(b"\0");
        } else {
            context.reply.array(header.commands as usize);
        }
        Ok(execution)
    }

    /// Runs it on, until it is over or, if it `may_pause`, a script in it has run for a while. `context` is EXEC's.
    ///
    /// # Errors
    /// It was stopped, or its arguments are damaged: nothing of it stands.
    pub fn drive(&mut self, context: &mut Context<'_>, may_pause: bool) -> Result<Driven, CommandError> {
        if self.is_stopped {
            self.open = None;
            return Err(CommandError::text(
                "ERR EXEC stopped with its storage executor and was rolled back",
            ));
        }
        while self.next < context.arguments.len() {
            let rest = context.arguments.from(self.next);
            let header = PartHeader::decode(rest.get(0)).ok_or(CommandError::Internal)?;
            let end = 1 + header.arguments as usize;
            let arguments = rest.range(1, end);
            context.database = header.database;
            context.seed = self.random.below(u64::MAX);
            context.reply.set_version(header.version);
            let mut part = match self.open.take() {
                Some(part) => part,
                None => self.begin_part(context, &header, arguments)?,
            };
            if part.run(context, arguments, may_pause)? == Driven::Paused {
                self.open = Some(part);
                return Ok(Driven::Paused);
            }
            if self.is_split {
                let len_at = part.reply_at - REPLY_LEN_BYTES;
                let len = u32::try_from(context.reply.len() - part.reply_at).map_err(|_| CommandError::Internal)?;
                context.reply.overwrite(len_at, &len.to_be_bytes());
                let shown = std::mem::take(&mut context.effects.shown);
                let len = u32::try_from(shown.len()).map_err(|_| CommandError::Internal)?;
                context.reply.raw(&len.to_be_bytes());
                context.reply.raw(&shown);
            }
            self.next += end;
        }
        Ok(Driven::Done)
    }

    fn begin_part(
        &self,
        context: &mut Context<'_>,
        header: &PartHeader,
        arguments: Arguments<'_>,
    ) -> Result<Part, CommandError> {
        let command = Command::of_index(usize::from(header.index)).ok_or(CommandError::Internal)?;
        if self.is_split {
            context.reply.raw(&[0; REPLY_LEN_BYTES]);
        }
        Ok(Part {
            command,
            script: None,
            touched: context.view.touched(),
            began: Instant::now(),
            reply_at: context.reply.len(),
            mark: context.begin_part(arguments),
        })
    }

    /// What there was to be given out when it began.
    pub fn effects_mark(&self) -> EffectsMark {
        self.effects
    }

    /// Whether the script that it is in the middle of runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self) -> bool {
        let script = self.open.as_ref().and_then(|part| part.script.as_ref());
        script.is_some_and(Running::is_busy)
    }

    /// Ends it when it is driven next, because its executor ends.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }
}

impl Part {
    /// Runs it, or runs it on, and counts it when it is over. An error is its reply.
    fn run(
        &mut self,
        context: &mut Context<'_>,
        arguments: Arguments<'_>,
        may_pause: bool,
    ) -> Result<Driven, CommandError> {
        let command = self.command;
        let handler = command.storage_handler().ok_or(CommandError::Internal)?;
        let script = &mut self.script;
        let mut run = |inner: &mut Context<'_>| {
            if !(may_pause && command.flags.has(RUNS_SCRIPT)) {
                return handler(inner).map(|()| Driven::Done);
            }
            let script = match script {
                Some(script) => script,
                None => script.insert(scripting::begin(command, inner)?),
            };
            script.drive(inner, true)
        };
        let outcome = context.within_part(arguments, None, |inner| {
            // A panic ends this command and not what was done before it.
            panics::contain(|| run(inner)).unwrap_or_else(|Panicked| {
                tracing::error!(
                    command = command.name,
                    "a handler panicked inside EXEC; its writes were dropped"
                );
                Err(CommandError::Internal)
            })
        });
        match outcome {
            Ok(Driven::Paused) => return Ok(Driven::Paused),
            // All of EXEC is undone and runs again.
            Err(CommandError::Elsewhere) => return Err(CommandError::Elsewhere),
            _ => {}
        }
        context.end_part(self.mark, outcome.is_ok());
        if let Err(error) = &outcome {
            context.reply.truncate(self.reply_at);
            context.reply.error(error.to_string());
        }
        if !command.counts_look_ups() {
            context.view.uncount_look_ups(self.touched);
        }
        let took_ns = self.began.elapsed().as_nanos() as u64;
        context.effects.note_ran(command.index(), took_ns, outcome.is_err());
        if let Err(error) = &outcome {
            context.effects.errors.push(format!("-{error}").into_bytes());
        }
        Ok(Driven::Done)
    }
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
