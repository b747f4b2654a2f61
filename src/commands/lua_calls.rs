//! The commands that a script calls: which it may, and how they are run.

use crate::channel::message::Caller;
use crate::command::{self, Command, NO_SCRIPT, Runs, SELECTS_DATABASE, WRITE};
use crate::commands::arguments;
use crate::commands::monitor_line;
use crate::commands::{Context, Handler};
use crate::error::CommandError;
use crate::protocol::{Arguments, Reply};
use crate::scripts::registry::Reach;
use crate::scripts::script::Call;
use crate::storage::transaction_scope::Mode;
use std::time::Instant;

/// Bytes of the reply to one call: what a script can hold is bounded by its memory limit, but the reply is made before.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// What a script may do, and what it has chosen.
#[derive(Debug)]
pub struct Session {
    /// The script may not write.
    pub is_read_only: bool,
    /// The database that the script has selected.
    pub database: u8,
    /// The keys that the script has declared, if it may use no others.
    pub declared: Option<Vec<Vec<u8>>>,
    /// What the script was found to need beyond its declared keys.
    pub reach: Option<Reach>,
    /// A shard takes no writes, or no command at all: nothing of the script stands.
    pub shard_error: Option<CommandError>,
}

/// Runs a command that a script calls, as a part of the command that `context` is of; its reply goes to `call`. Returns
/// the time.
pub fn run(context: &mut Context<'_>, session: &mut Session, call: &mut Call) -> Instant {
    let version = call.version;
    let (arguments, bytes) = call.parts();
    let found = find(arguments).and_then(|row| check(row, session).map(|()| row));
    let (outcome, now) = match found {
        Ok(row) => {
            let began = Instant::now();
            let outcome = run_counted(context, session, (row, arguments), Reply::new(bytes, version));
            let now = Instant::now();
            let took_ns = now.saturating_duration_since(began).as_nanos() as u64;
            context.effects.count_run(row.index(), took_ns, outcome.is_err());
            (outcome, now)
        }
        Err(error) => (Err(error), Instant::now()),
    };
    let outcome = match bytes.len() <= REPLY_BYTES_MAX {
        true => outcome,
        false => Err(CommandError::text("ERR the reply is too long for a script")),
    };
    if let Err(error) = outcome {
        bytes.clear();
        Reply::new(bytes, version).error(error.to_string());
    }
    now
}

/// Runs a command that the script may run.
fn run_counted(
    context: &mut Context<'_>,
    session: &mut Session,
    (row, arguments): (&'static Command, Arguments<'_>),
    reply: Reply<'_>,
) -> Result<(), CommandError> {
    let touched = context.view.touched();
    let outcome = dispatch(context, session, (row, arguments), reply);
    if !row.counts_look_ups() {
        context.view.uncount_look_ups(touched);
    }
    if context.effects.is_monitored && monitor_line::is_shown(row) {
        // With what it changed: SELECT is shown with the database that it selected.
        let (now_us, database) = (crate::clock::unix_us(), session.database);
        let line = monitor_line::line(now_us, database, monitor_line::SCRIPT, row, arguments);
        context.effects.shown.extend_from_slice(&line);
    }
    if let Err(error @ (CommandError::DiskFull | CommandError::Stalled | CommandError::ShardDown(_))) = &outcome {
        session.shard_error = Some(error.clone());
    }
    outcome
}

fn find(arguments: Arguments<'_>) -> Result<&'static Command, CommandError> {
    let unknown = || CommandError::text("ERR Unknown Redis command called from script");
    let mut row = command::find(arguments.get(0)).ok_or_else(unknown)?;
    if row.has_subcommands() && arguments.len() > 1 {
        row = command::find_subcommand(row, arguments.get(1)).ok_or_else(unknown)?;
    }
    match row.accepts(arguments.len()) && !matches!(row.runs, Runs::Container) {
        true => Ok(row),
        false => Err(CommandError::text(
            "ERR Wrong number of args calling Redis command from script",
        )),
    }
}

fn check(row: &Command, session: &Session) -> Result<(), CommandError> {
    if row.flags.has(NO_SCRIPT) {
        return Err(CommandError::text("ERR This Redis command is not allowed from script"));
    }
    if session.is_read_only && row.flags.has(WRITE) {
        return Err(CommandError::text(
            "ERR Write commands are not allowed from read-only scripts.",
        ));
    }
    Ok(())
}

fn dispatch(
    context: &mut Context<'_>,
    session: &mut Session,
    (row, arguments): (&'static Command, Arguments<'_>),
    reply: Reply<'_>,
) -> Result<(), CommandError> {
    match row.runs {
        Runs::Shard | Runs::Transaction => need_keys(context, session, row, arguments)?,
        Runs::All(_) | Runs::Each(_) | Runs::Whole | Runs::Cursor => need_everything(context, session, row)?,
        Runs::Network => return run_of_network(context, session, (row, arguments), reply),
        Runs::Exec | Runs::Watch | Runs::Step(_) | Runs::Internal(_) | Runs::Container => {
            return Err(CommandError::Internal);
        }
    }
    let handler = context.handlers.of(row).ok_or(CommandError::Internal)?;
    run_inner(context, session, (arguments, reply), handler)
}

fn run_inner(
    context: &mut Context<'_>,
    session: &Session,
    (arguments, reply): (Arguments<'_>, Reply<'_>),
    handler: Handler,
) -> Result<(), CommandError> {
    let own = std::mem::replace(&mut context.database, session.database);
    let outcome = context.run_inner(arguments, reply, handler);
    context.database = own;
    outcome
}

fn mode_of(row: &Command) -> Mode {
    match row.may_write() {
        true => Mode::Exclusive,
        false => Mode::Shared,
    }
}

/// The command uses keys that the script may not have declared.
fn need_keys(
    context: &mut Context<'_>,
    session: &mut Session,
    row: &Command,
    arguments: Arguments<'_>,
) -> Result<(), CommandError> {
    if let Some(declared) = &session.declared
        && row
            .keys
            .of(arguments)
            .any(|key| !declared.iter().any(|declared| declared == key))
    {
        return Err(CommandError::text(
            "ERR Script attempted to access a key that it has not declared, which script-undeclared-keys forbids",
        ));
    }
    if context.view.may_use(row.keys.of(arguments), mode_of(row)) {
        return Ok(());
    }
    let keys = command::database_keys_of(row, arguments, session.database);
    let needed = context.view.need_keys(&keys, mode_of(row));
    needed.inspect_err(|error| record_reach(session, error, Reach::Keys))
}

/// The command concerns all keys.
fn need_everything(context: &mut Context<'_>, session: &mut Session, row: &Command) -> Result<(), CommandError> {
    if session.declared.is_some() {
        return Err(CommandError::text(
            "ERR Script attempted to run a command on all keys, which script-undeclared-keys forbids",
        ));
    }
    let needed = context.view.need_everything(mode_of(row));
    needed.inspect_err(|error| record_reach(session, error, Reach::Everything))
}

fn record_reach(session: &mut Session, error: &CommandError, reach: Reach) {
    if *error == CommandError::Elsewhere {
        session.reach = Some(reach);
    }
}

/// A command that network executors run, as far as it means something to a script: it has a handler for that, selects
/// the database of the calls that follow, or is about the server, which is asked.
fn run_of_network(
    context: &mut Context<'_>,
    session: &mut Session,
    (row, arguments): (&'static Command, Arguments<'_>),
    mut reply: Reply<'_>,
) -> Result<(), CommandError> {
    if let Some(handler) = context.handlers.of(row) {
        return run_inner(context, session, (arguments, reply), handler);
    }
    if row.flags.has(SELECTS_DATABASE) {
        session.database = arguments::database(arguments.get(1))?;
        reply.ok();
        return Ok(());
    }
    let seat = context.script_seat.ok_or(CommandError::Internal)?;
    let caller = Caller {
        client_id: context.client_id,
        version: reply.version(),
        database: session.database,
        ..Caller::default()
    };
    let answered = seat.scripts.run_server_command(row, arguments, caller)?;
    reply.raw(&answered);
    Ok(())
}
