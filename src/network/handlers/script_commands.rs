//! SCRIPT, and the subcommands of FUNCTION about functions that run: STATS and KILL.

use crate::commands::arguments::is_option;
use crate::error::CommandError;
use crate::network::handlers::server_commands::help;
use crate::network::session::NetworkContext;
use crate::scripts::function_libraries::ENGINE;
use crate::scripts::interpreter;
use crate::scripts::registry::{Digest, Kind};

type Outcome = Result<(), CommandError>;

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

/// FUNCTION STATS
pub fn function_stats(context: &mut NetworkContext<'_>) -> Outcome {
    let scripts = &context.server.scripts;
    let running = scripts.running_function();
    if running.is_none() && scripts.any_busy() {
        return Err(CommandError::Busy);
    }
    let reply = &mut context.reply;
    reply.map(2);
    reply.text("running_script");
    match running {
        None => reply.null(),
        Some(function) => {
            reply.map(3);
            reply.text("name");
            reply.text(&function.name);
            reply.text("command");
            reply.array(function.command.len());
            function.command.iter().for_each(|word| reply.bulk(word));
            reply.text("duration_ms");
            reply.integer(function.began.elapsed().as_millis() as i64);
        }
    }
    let libraries = scripts.functions.current();
    reply.text("engines");
    reply.map(1);
    reply.text(ENGINE);
    reply.map(2);
    reply.text("libraries_count");
    reply.integer(libraries.iter().len() as i64);
    reply.text("functions_count");
    reply.integer(libraries.function_count() as i64);
    Ok(())
}

/// FUNCTION KILL
pub fn function_kill(context: &mut NetworkContext<'_>) -> Outcome {
    context.server.scripts.kill(Kind::Function)?;
    context.reply.ok();
    Ok(())
}

/// FUNCTION HELP
pub fn function_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "LOAD [REPLACE] <FUNCTION CODE>",
            "    Create a new library with the given library name and code.",
            "DELETE <LIBRARY NAME>",
            "    Delete the given library.",
            "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
            "    Return general information on all the libraries:",
            "    * Library name",
            "    * The engine used to run the Library",
            "    * Library description",
            "    * Functions list",
            "    * Library code (if WITHCODE is given)",
            "    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
            "STATS",
            "    Return information about the current function running:",
            "    * Function name",
            "    * Command used to run the function",
            "    * Duration in MS that the function is running",
            "    If no function is running, return nil",
            "    In addition, returns a list of available engines.",
            "KILL",
            "    Kill the current running function.",
            "FLUSH [ASYNC|SYNC]",
            "    Delete all the libraries.",
            "    When called without the optional mode argument, the behavior is determined by the",
            "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
            "    * ASYNC: Asynchronously flush the libraries.",
            "    * SYNC: Synchronously flush the libraries.",
            "DUMP",
            "    Return a serialized payload representing the current libraries, can be restored using FUNCTION \
             RESTORE command",
            "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
            "    Restore the libraries represented by the given payload, it is possible to give a restore policy to",
            "    control how to handle existing libraries (default APPEND):",
            "    * FLUSH: delete all existing libraries.",
            "    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.",
            "    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old",
            "      libraries with the new libraries (notice that even on this option there is a chance of failure",
            "      in case of functions name collision with another library).",
        ],
    );
    Ok(())
}
