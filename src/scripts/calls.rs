//! The commands that a script calls: which it may, and how they are run.

use super::script::Call;
use crate::commands::arguments;
use crate::commands::monitor_line;
use crate::commands::table::{self, Command, NO_SCRIPT, Runs, WRITE};
use crate::commands::{Context, Handler};
use crate::error::CommandError;
use crate::executor::locks::Mode;
use crate::protocol::{Arguments, Reply};
use crate::storage::view::View;
use std::time::Instant;

/// Bytes of the reply to one call: what a script can hold is bounded by its memory limit, but the reply is made before.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// What a script may do, and what it has chosen.
#[derive(Debug)]
pub struct Session {
    /// It may not write.
    pub is_read_only: bool,
    /// The database that it selected.
    pub database: u8,
}

/// Runs a command that a script calls, as a part of the command that `context` is of; returns its reply.
pub fn run(context: &mut Context<'_>, session: &mut Session, call: &Call) -> Vec<u8> {
    let mut bytes = Vec::new();
    let outcome = find(call.arguments()).and_then(|row| {
        check(row, session)?;
        let began = Instant::now();
        let touched = context.view.touched();
        let outcome = dispatch(context, session, (row, call), &mut bytes);
        if !row.counts_look_ups() {
            context.view.uncount_look_ups(touched);
        }
        if context.effects.is_monitored && monitor_line::is_shown(row) {
            // With what it changed: SELECT is shown with the database that it selected.
            let (now_us, database) = (crate::clock::unix_us(), session.database);
            let line = monitor_line::line(now_us, database, monitor_line::SCRIPT, row, call.arguments());
            context.effects.shown.extend_from_slice(&line);
        }
        let took_ns = began.elapsed().as_nanos() as u64;
        context.effects.note_ran(row.index(), took_ns, outcome.is_err());
        outcome
    });
    let outcome = match bytes.len() <= REPLY_BYTES_MAX {
        true => outcome,
        false => Err(CommandError::text("ERR the reply is too long for a script")),
    };
    if let Err(error) = outcome {
        bytes.clear();
        Reply::new(&mut bytes, call.version).error(error.to_string());
    }
    bytes
}

fn find(arguments: Arguments<'_>) -> Result<&'static Command, CommandError> {
    let unknown = || CommandError::text("ERR Unknown Redis command called from script");
    let mut row = table::find(arguments.get(0)).ok_or_else(unknown)?;
    let is_family = matches!(row.runs, Runs::Container);
    if (is_family || row.name == "command") && arguments.len() > 1 {
        row = table::find_subcommand(row, arguments.get(1)).ok_or_else(unknown)?;
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
    (row, call): (&'static Command, &Call),
    bytes: &mut Vec<u8>,
) -> Result<(), CommandError> {
    let arguments = call.arguments();
    let mut reply = Reply::new(bytes, call.version);
    let handler = match row.runs {
        Runs::Shard(handler) | Runs::Transaction(handler) => {
            check_keys(context, session, row, arguments)?;
            handler
        }
        Runs::All(handler, _) | Runs::Each(handler, _) | Runs::Whole(handler) | Runs::Cursor(handler) => {
            check_whole(context)?;
            handler
        }
        Runs::Network(_) => return run_of_connection(context, session, (row, arguments), &mut reply),
        Runs::Exec(_) | Runs::Watch(_) | Runs::Step(_) | Runs::Container => return Err(CommandError::Internal),
    };
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

/// A script's keys are where it runs, whether it declared them or not; and no transaction over several executors is
/// about to write them.
fn check_keys(
    context: &mut Context<'_>,
    session: &Session,
    row: &Command,
    arguments: Arguments<'_>,
) -> Result<(), CommandError> {
    let mode = match row.may_write() {
        true => Mode::Exclusive,
        false => Mode::Shared,
    };
    for place in table::places_of(row, arguments, session.database) {
        context.view.check_place(&place, mode)?;
    }
    Ok(())
}

/// Commands about all keys see those of this executor, which must be all there are.
fn check_whole(context: &mut Context<'_>) -> Result<(), CommandError> {
    if let View::Local(shards) = &context.view
        && shards.list().len() != usize::from(shards.shard_count())
    {
        return Err(CommandError::text(
            "ERR Script attempted to run a command on all keys, which are on several storage executors",
        ));
    }
    Ok(())
}

/// Commands about connections, as far as they mean something to a script.
fn run_of_connection(
    context: &mut Context<'_>,
    session: &mut Session,
    (row, arguments): (&Command, Arguments<'_>),
    reply: &mut Reply<'_>,
) -> Result<(), CommandError> {
    match row.name {
        "ping" if arguments.len() > 2 => return Err(CommandError::Arity("ping".to_owned())),
        "ping" if arguments.len() > 1 => reply.bulk(arguments.get(1)),
        "ping" => reply.simple("PONG"),
        "echo" => reply.bulk(arguments.get(1)),
        "select" => {
            session.database = arguments::database(arguments.get(1))?;
            reply.ok();
        }
        "time" => {
            let now_us = crate::clock::unix_us();
            reply.array(2);
            reply.text(&(now_us / 1_000_000).to_string());
            reply.text(&(now_us % 1_000_000).to_string());
        }
        "publish" => {
            context.effects.send(arguments.get(1), arguments.get(2))?;
            // Nobody can have got it yet: it leaves when the script is done.
            reply.integer(0);
        }
        name => {
            return Err(CommandError::text(format!(
                "ERR '{}' is about a connection or the server and cannot be called from a script",
                name.replace('|', " ")
            )));
        }
    }
    Ok(())
}
