//! FUNCTION: libraries of functions, which FCALL calls (see [`crate::commands::scripting`]).
//!
//! What changes the libraries, and what shows them, runs on the executor of the first shard, where they are stored: so
//! a connection sees them as its own commands have left them. A change is on that shard's disk, in one write, before
//! others see it.

use super::Context;
use crate::commands::arguments::is_option;
use crate::error::CommandError;
use crate::glob;
use crate::protocol::Reply;
use crate::protocol::rdb::{self, LibrariesError};
use crate::scripts::function_libraries::{self, ENGINE, Libraries, Library};
use crate::scripts::interpreter::{self, LoadLimit};
use crate::scripts::registry::Scripts;
use crate::slots::ShardId;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// The shard that has the libraries.
const SHARD: ShardId = ShardId(0);

impl From<LibrariesError> for CommandError {
    fn from(error: LibrariesError) -> Self {
        CommandError::text(error.to_string())
    }
}

fn scripts(context: &mut Context<'_>) -> Result<Arc<Scripts>, CommandError> {
    let seat = context.script_seat.ok_or(CommandError::Internal)?;
    Ok(Arc::clone(&seat.scripts))
}

/// Runs the code of libraries in an interpreter of this thread.
fn load<'a>(scripts: &Scripts, codes: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Arc<Library>>, CommandError> {
    let interpreter = interpreter::take(scripts)?;
    let libraries = codes.map(|code| function_libraries::load(&interpreter, code, LoadLimit::Client).map(Arc::new));
    let libraries = libraries.collect();
    interpreter::give_back(interpreter);
    libraries
}

/// Stores what `changed` has and `current` has not, or the other way round, and lets all see it.
fn store(context: &mut Context<'_>, scripts: &Scripts, current: &Libraries, changed: Libraries) -> Outcome {
    let is_gone = |library: &&Arc<Library>| changed.get(&library.name).is_none();
    let is_new = |library: &&Arc<Library>| {
        let before = current.get(&library.name);
        !before.is_some_and(|before| Arc::ptr_eq(before, library))
    };
    let gone = current.iter().filter(is_gone).map(|library| (&*library.name, None));
    let new = changed.iter().filter(is_new);
    let new = new.map(|library| (&*library.name, Some(&*library.code)));
    let changes: Vec<(&str, Option<&[u8]>)> = gone.chain(new).collect();
    if !changes.is_empty() {
        let write = |shard: &mut crate::storage::shard::Shard| shard.write_libraries(&changes).map(|epoch| ((), epoch));
        context.view.shards()?.with_shard(SHARD, write)?;
    }
    scripts.functions.publish(changed);
    Ok(())
}

fn already_exists(name: &str) -> CommandError {
    CommandError::text(format!("ERR Library '{name}' already exists"))
}

/// FUNCTION LOAD [REPLACE] code
pub fn function_load(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let last = arguments.len() - 1;
    let mut replaces = false;
    for position in 2..last {
        if !is_option(arguments.get(position), "REPLACE") {
            let option = CommandError::quoted(arguments.get(position));
            return Err(CommandError::text(format!("ERR Unknown option given: {option}")));
        }
        replaces = true;
    }
    let code = arguments.get(last);
    let scripts = scripts(context)?;
    let current = scripts.functions.current();
    let name = function_libraries::name_of(code)?;
    if !replaces && current.get(&name).is_some() {
        return Err(already_exists(&name));
    }
    let mut changed = Libraries::clone(&current);
    changed.remove(&name);
    for library in load(&scripts, std::iter::once(code))? {
        changed.add(library)?;
    }
    store(context, &scripts, &current, changed)?;
    context.reply.text(&name);
    Ok(())
}

/// FUNCTION DELETE name
pub fn function_delete(context: &mut Context<'_>) -> Outcome {
    let scripts = scripts(context)?;
    let current = scripts.functions.current();
    let mut changed = Libraries::clone(&current);
    let name = std::str::from_utf8(context.arguments.get(2)).ok();
    if name.and_then(|name| changed.remove(name)).is_none() {
        return Err(CommandError::text("ERR Library not found"));
    }
    store(context, &scripts, &current, changed)?;
    context.reply.ok();
    Ok(())
}

/// FUNCTION FLUSH [ASYNC | SYNC]
pub fn function_flush(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        2 => {}
        3 if is_option(arguments.get(2), "ASYNC") || is_option(arguments.get(2), "SYNC") => {}
        3 => {
            return Err(CommandError::text("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"));
        }
        _ => return Err(wrong_subcommand(arguments.get(1))),
    }
    let scripts = scripts(context)?;
    let current = scripts.functions.current();
    store(context, &scripts, &current, Libraries::default())?;
    context.reply.ok();
    Ok(())
}

fn wrong_subcommand(name: &[u8]) -> CommandError {
    let name = CommandError::quoted(name);
    CommandError::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try FUNCTION HELP."
    ))
}

/// FUNCTION LIST [LIBRARYNAME pattern] [WITHCODE]
pub fn function_list(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut with_code = false;
    let mut pattern = None;
    let mut position = 2;
    while position < arguments.len() {
        let argument = arguments.get(position);
        if !with_code && is_option(argument, "WITHCODE") {
            with_code = true;
        } else if pattern.is_none() && is_option(argument, "LIBRARYNAME") {
            position += 1;
            if position == arguments.len() {
                return Err(CommandError::text("ERR library name argument was not given"));
            }
            pattern = Some(arguments.get(position));
        } else {
            let argument = CommandError::quoted(argument);
            return Err(CommandError::text(format!("ERR Unknown argument {argument}")));
        }
        position += 1;
    }
    let libraries = scripts(context)?.functions.current();
    let is_wanted = |library: &&Arc<Library>| match pattern {
        Some(pattern) => glob::matches(pattern, library.name.as_bytes(), true),
        None => true,
    };
    let wanted: Vec<_> = libraries.iter().filter(is_wanted).collect();
    context.reply.array(wanted.len());
    for library in wanted {
        show(&mut context.reply, library, with_code);
    }
    Ok(())
}

fn show(reply: &mut Reply<'_>, library: &Library, with_code: bool) {
    reply.map(if with_code { 4 } else { 3 });
    reply.text("library_name");
    reply.text(&library.name);
    reply.text("engine");
    reply.text(ENGINE);
    reply.text("functions");
    reply.array(library.functions.len());
    for function in &library.functions {
        reply.map(3);
        reply.text("name");
        reply.text(&function.name);
        reply.text("description");
        match &function.description {
            Some(description) => reply.bulk(description),
            None => reply.null(),
        }
        reply.text("flags");
        reply.set(function.flags.len());
        function.flags.iter().for_each(|flag| reply.simple(flag));
    }
    if with_code {
        reply.text("library_code");
        reply.bulk(&library.code);
    }
}

/// FUNCTION DUMP
pub fn function_dump(context: &mut Context<'_>) -> Outcome {
    let libraries = scripts(context)?.functions.current();
    let payload = rdb::dump_libraries(libraries.iter().map(|library| &*library.code));
    context.reply.bulk(&payload);
    Ok(())
}

/// FUNCTION RESTORE payload [FLUSH | APPEND | REPLACE]
pub fn function_restore(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let policy = match arguments.len() {
        3 => &b"APPEND"[..],
        4 => arguments.get(3),
        _ => return Err(wrong_subcommand(arguments.get(1))),
    };
    let (flushes, replaces) = (is_option(policy, "FLUSH"), is_option(policy, "REPLACE"));
    if !flushes && !replaces && !is_option(policy, "APPEND") {
        return Err(CommandError::text(
            "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
        ));
    }
    let codes = rdb::restore_libraries(arguments.get(2))?;
    let scripts = scripts(context)?;
    let mut restored = Libraries::default();
    // Each library is checked before the next is run: one that is there twice is found before it is run.
    for code in &codes {
        let name = function_libraries::name_of(code)?;
        if restored.get(&name).is_some() {
            return Err(already_exists(&name));
        }
        for library in load(&scripts, std::iter::once(&code[..]))? {
            restored.add(library)?;
        }
    }
    let current = scripts.functions.current();
    let changed = match flushes {
        true => restored,
        false => join(&current, &restored, replaces)?,
    };
    store(context, &scripts, &current, changed)?;
    context.reply.ok();
    Ok(())
}

fn join(current: &Libraries, restored: &Libraries, replaces: bool) -> Result<Libraries, CommandError> {
    let mut joined = current.clone();
    for library in restored.iter() {
        if joined.remove(&library.name).is_some() && !replaces {
            return Err(CommandError::text(format!(
                "ERR Library {} already exists",
                library.name
            )));
        }
    }
    for library in restored.iter() {
        joined.add(Arc::clone(library))?;
    }
    Ok(joined)
}
