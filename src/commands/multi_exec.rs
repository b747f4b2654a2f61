//! EXEC and WATCH.
//!
//! What is queued stays with the connection (`network::multi_state`). EXEC sends it to its storage executor as
//! one request, which runs the commands one after the other: nothing comes between them, and all that they write is
//! committed in one batch.

use super::{Context, PartMark, scripting};
use crate::command::exec_request::{ExecHeader, PartHeader, REPLY_LEN_BYTES};
use crate::command::{Command, RUNS_SCRIPT};
use crate::commands::effects::EffectsMark;
use crate::commands::random::Random;
use crate::commands::script_runs::{Driven, Running};
use crate::error::CommandError;
use crate::panics::{self, Panicked};
use crate::protocol::Arguments;
use crate::storage::keyspace::Touched;
use std::time::Instant;

type Outcome = Result<(), CommandError>;

/// WATCH key [key …], on the executor of those keys.
pub fn watch(context: &mut Context<'_>) -> Outcome {
    for key in context.arguments.iter().skip(1) {
        let key = (context.database, key.to_vec());
        let presence = context.view.presence(&key)?;
        context.effects.watched.push((key, presence));
    }
    context.reply.ok();
    Ok(())
}

/// EXEC, with what was queued as its arguments: the name, an [`ExecHeader`], and for each command a [`PartHeader`] and
/// its arguments. Replies null if a watched key was modified. A command that fails leaves what the others have written.
pub fn exec(context: &mut Context<'_>) -> Outcome {
    Execution::begin(context)?.drive(context, false).map(|_| ())
}

/// An EXEC that is running. It can be left in the middle of a script.
pub struct Execution {
    is_split: bool,
    random: Random,
    /// The position of the next command's [`PartHeader`] among the arguments.
    next: usize,
    /// The command in the middle of which EXEC was left.
    open: Option<Part>,
    is_stopped: bool,
    /// The effects that there were when EXEC began.
    effects: EffectsMark,
}

/// A command of an EXEC that has begun.
struct Part {
    command: &'static Command,
    script: Option<Running>,
    mark: PartMark,
    touched: Touched,
    began: Instant,
    /// Where the command's reply begins.
    reply_at: usize,
}

impl Execution {
    /// Begins an EXEC: replies what comes before its commands' replies, or that a watched key was modified.
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
        // The watched keys are forgotten when EXEC is over: until then it may begin anew.
        if context.is_watched_key_modified {
            context.reply.null_array();
            execution.next = context.arguments.len();
        } else if header.is_split {
            context.reply.raw(b"\0");
        } else {
            context.reply.array(header.commands as usize);
        }
        Ok(execution)
    }

    /// Runs EXEC on, until it is over or, if it `may_pause`, a script in it has run for a while. `context` is EXEC's.
    ///
    /// # Errors
    /// EXEC was stopped, or its arguments are damaged: it is rolled back.
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

    /// The effects that there were when EXEC began.
    pub fn effects_mark(&self) -> EffectsMark {
        self.effects
    }

    /// Whether the script in the middle of which EXEC was left runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self) -> bool {
        let script = self.open.as_ref().and_then(|part| part.script.as_ref());
        script.is_some_and(Running::is_busy)
    }

    /// Makes the next [`Execution::drive`] fail, because the executor ends.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }
}

impl Part {
    /// Runs the command, or runs it on, and counts it when it is over. An error is the command's reply.
    fn run(
        &mut self,
        context: &mut Context<'_>,
        arguments: Arguments<'_>,
        may_pause: bool,
    ) -> Result<Driven, CommandError> {
        let command = self.command;
        let handler = context.handlers.of(command).ok_or(CommandError::Internal)?;
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
            Err(error) if error.asks_to_run_again() => return Err(error),
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
        context.effects.count_run(command.index(), took_ns, outcome.is_err());
        if let Err(error) = &outcome {
            context.effects.errors.push(format!("-{error}").into_bytes());
        }
        Ok(Driven::Done)
    }
}
