//! Commands that may be left in the middle, so that others can run: scripts, and transactions with scripts.

use super::effects::EffectsMark;
use super::{Context, scripting};
use crate::command::exec_request;
use crate::command::{Command, RUNS_SCRIPT, Runs};
use crate::commands::multi_exec::Execution;
use crate::commands::script_runs::{Driven, Running};
use crate::error::CommandError;
use crate::protocol::Arguments;

/// A command that may be left in the middle, begun.
pub enum Pausing {
    /// EVAL or one of its kin.
    Script(Box<Running>),
    /// EXEC.
    Transaction(Box<Execution>),
}

/// Whether a command may have to pause.
#[inline]
pub fn may_pause(command: &Command, arguments: Arguments<'_>) -> bool {
    command.flags.has(RUNS_SCRIPT) || command.runs == Runs::Exec && exec_request::runs_script(arguments)
}

impl Pausing {
    /// Begins a command that may have to pause.
    ///
    /// # Errors
    /// The command's, if it cannot begin.
    pub fn begin(command: &Command, context: &mut Context<'_>) -> Result<Pausing, CommandError> {
        Ok(match command.runs {
            Runs::Exec => Pausing::Transaction(Box::new(Execution::begin(context)?)),
            _ => Pausing::Script(Box::new(scripting::begin(command, context)?)),
        })
    }

    /// Runs the command on, until it is over or has run for a while.
    ///
    /// # Errors
    /// The command's: it is rolled back.
    pub fn drive(&mut self, context: &mut Context<'_>) -> Result<Driven, CommandError> {
        match self {
            Pausing::Script(script) => script.drive(context, true),
            Pausing::Transaction(execution) => execution.drive(context, true),
        }
    }

    /// The effects that there were when the command began.
    pub fn effects_mark(&self) -> EffectsMark {
        match self {
            Pausing::Script(script) => script.effects_mark(),
            Pausing::Transaction(execution) => execution.effects_mark(),
        }
    }

    /// Whether the command's script runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self) -> bool {
        match self {
            Pausing::Script(script) => script.is_busy(),
            Pausing::Transaction(execution) => execution.is_busy(),
        }
    }

    /// Makes the next [`Pausing::drive`] fail, because the executor ends.
    pub fn stop(&mut self) {
        match self {
            Pausing::Script(script) => script.stop(),
            Pausing::Transaction(execution) => execution.stop(),
        }
    }
}
