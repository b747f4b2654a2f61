//! Scripts: EVAL and its kin.

use super::Context;
use crate::command::{self, BY_DIGEST, BY_FUNCTION, Command, READ};
use crate::commands::script_runs::{Named, Running};
use crate::error::CommandError;

type Outcome = Result<(), CommandError>;

/// Prepares the script of a command: EVAL, EVALSHA, EVAL_RO, EVALSHA_RO, FCALL, FCALL_RO
/// script-or-digest-or-function numkeys key… argument…
///
/// # Errors
/// If the arguments are wrong, there is no such script, or it does not compile.
pub fn begin(command: &Command, context: &mut Context<'_>) -> Result<Running, CommandError> {
    let named = match command.flags {
        flags if flags.has(BY_DIGEST) => Named::ByDigest,
        flags if flags.has(BY_FUNCTION) => Named::ByFunction,
        _ => Named::ByText,
    };
    Running::begin(context, named, command.flags.has(READ))
}

/// EVAL and its kin as a part of another command, or wherever they cannot pause.
pub fn eval(context: &mut Context<'_>) -> Outcome {
    let row = command::find(context.arguments.get(0)).ok_or(CommandError::Internal)?;
    begin(row, context)?.run_whole(context)
}
