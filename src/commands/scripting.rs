//! Scripts: EVAL and its kin, and SCRIPT.

use super::Context;
use super::arguments::is_option;
use super::table::{self, Command, READ};
use crate::commands::server_commands::help;
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::scripts::interpreter;
use crate::scripts::registry::{Digest, Kind};
use crate::scripts::run::{Named, Running};

type Outcome = Result<(), CommandError>;

/// Prepares the script of a command: EVAL, EVALSHA, EVAL_RO, EVALSHA_RO, FCALL, FCALL_RO
/// script-or-digest-or-function numkeys key… argument…
///
/// # Errors
/// If the arguments are wrong, there is no such script, or it does not compile.
pub fn begin(command: &Command, context: &mut Context<'_>) -> Result<Running, CommandError> {
    let named = match command.name {
        "evalsha" | "evalsha_ro" => Named::ByDigest,
        "fcall" | "fcall_ro" => Named::ByFunction,
        _ => Named::ByText,
    };
    Running::begin(context, named, command.flags.has(READ))
}

/// EVAL and its kin as a part of another command, or wherever they cannot pause.
pub fn eval(context: &mut Context<'_>) -> Outcome {
    let row = table::find(context.arguments.get(0)).ok_or(CommandError::Internal)?;
    begin(row, context)?.run_whole(context)
}

/// SCRIPT LOAD script
pub fn script_load(context: &mut NetworkContext<'_>) -> Outcome {
    let text = context.arguments.get(2);
    let scripts = &context.server.scripts;
    let digest = Digest::of(text);
    let interpreter = interpreter::take(scripts)?;
    let checked = interpreter.check(text);
    interpreter::give_back(interpreter);
    checked?;
    scripts.keep(digest, text, true);
    context.reply.text(digest.as_str());
    Ok(())
}

/// SCRIPT EXISTS digest…
pub fn script_exists(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.array(context.arguments.len() - 2);
    for name in context.arguments.iter().skip(2) {
        let exists = Digest::parse(name).is_some_and(|digest| context.server.scripts.text(&digest).is_some());
        context.reply.integer(i64::from(exists));
    }
    Ok(())
}

/// SCRIPT FLUSH [ASYNC | SYNC]
pub fn script_flush(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let is_right = match arguments.len() {
        2 => true,
        3 => is_option(arguments.get(2), "ASYNC") || is_option(arguments.get(2), "SYNC"),
        _ => false,
    };
    if !is_right {
        return Err(CommandError::text("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
    }
    context.server.scripts.flush();
    context.reply.ok();
    Ok(())
}

/// SCRIPT KILL
pub fn script_kill(context: &mut NetworkContext<'_>) -> Outcome {
    context.server.scripts.kill(Kind::Script)?;
    context.reply.ok();
    Ok(())
}

/// SCRIPT DEBUG YES | SYNC | NO
pub fn script_debug(_: &mut NetworkContext<'_>) -> Outcome {
    Err(CommandError::text(
        "ERR SCRIPT DEBUG is not supported: there is no Lua debugger",
    ))
}

/// SCRIPT HELP
pub fn script_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "DEBUG (YES|SYNC|NO)",
            "    Set the debug mode for subsequent scripts executed.",
            "EXISTS <sha1> [<sha1> ...]",
            "    Return information about the existence of the scripts in the script cache.",
            "FLUSH [ASYNC|SYNC]",
            "    Flush the Lua scripts cache. Very dangerous on replicas.",
            "    When called without the optional mode argument, the behavior is determined by the",
            "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
            "    * ASYNC: Asynchronously flush the scripts cache.",
            "    * SYNC: Synchronously flush the scripts cache.",
            "KILL",
            "    Kill the currently executing Lua script.",
            "LOAD <script>",
            "    Load a script into the scripts cache without executing it.",
        ],
    );
    Ok(())
}
