//! Commands that may be left in the middle, so that others have their turn: scripts, and transactions with scripts.

use super::effects::EffectsMark;
use super::{Context, scripting};
use crate::command::exec_request;
use crate::command::{Command, RUNS_SCRIPT, Runs};
use crate::commands::multi_exec::Execution;
use crate::commands::script_runs::{Driven, Running};
use crate::error::CommandError;
use crate::protocol::Arguments;

/// Such a command, begun.
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
    /// That of the command, if it cannot begin.
    pub fn begin(command: &Command, context: &mut Context<'_>) -> Result<Pausing, CommandError> {
        Ok(match command.runs {
            Runs::Exec => Pausing::Transaction(Box::new(Execution::begin(context)?)),
            _ => Pausing::Script(Box::new(scripting::begin(command, context)?)),
        })
    }

    /// Runs it on, until it is over or has run for a while.
    ///
    /// # Errors
    /// That of the command: nothing of it stands.
    pub fn drive(&mut self, context: &mut Context<'_>) -> Result<Driven, CommandError> {
        match self {
            Pausing::Script(script) => script.drive(context, true),
            Pausing::Transaction(execution) => execution.drive(context, true),
        }
    }

    /// What there was to be given out when it began.
    pub fn effects_mark(&self) -> EffectsMark {
        match self {
            Pausing::Script(script) => script.effects_mark(),
            Pausing::Transaction(execution) => execution.effects_mark(),
        }
    }

    /// Whether its script runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self) -> bool {
        match self {
            Pausing::Script(script) => script.is_busy(),
            Pausing::Transaction(execution) => execution.is_busy(),
        }
    }

    /// Ends it when it is driven next, because its executor ends.
    pub fn stop(&mut self) {
        match self {
            Pausing::Script(script) => script.stop(),
            Pausing::Transaction(execution) => execution.stop(),
        }
    }
}
