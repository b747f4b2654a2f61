//! Drives a script: starts it, runs the commands that it calls, lets it pause, and ends it when it must end.

use super::lua_calls::{self, Session};
use crate::commands::Context;
use crate::commands::arguments::integer;
use crate::commands::effects::EffectsMark;
use crate::error::CommandError;
use crate::protocol::Arguments;
use crate::scripts::interpreter::{self, Compiled, Interpreter};
use crate::scripts::protected_run::Place;
use crate::scripts::registry::{Digest, RunningFunction, Scripts};
use crate::scripts::script::{Input, Outcome, Program, SLICE, Script, Start, Step, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls of commands between two looks at the clock.
const CALLS_PER_LOOK: usize = 16;

/// How a command names its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its text (EVAL).
    ByText,
    /// By its digest (EVALSHA).
    ByDigest,
    /// By its name (FCALL): it is a function of a library.
    ByFunction,
}

/// How far a script was driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// To its end.
    Done,
    /// The script wants to go on when others have had their turn.
    Paused,
}

/// A script that runs.
pub struct Running {
    script: Script,
    input: Option<Input>,
    session: Session,
    program: Program,
    scripts: Arc<Scripts>,
    seat: usize,
    began: Instant,
    looked_at: Instant,
    /// The number by which others know of the script, once it has run for a while.
    run: Option<u64>,
    limits: Limits,
    /// The effects that its command had when the script began.
    effects: EffectsMark,
}

#[derive(Clone, Copy)]
struct Limits {
    time: Option<Duration>,
    busy_after: Option<Duration>,
    rolls_back: bool,
}

/// How many of a command's arguments are keys.
fn count_keys(arguments: Arguments<'_>, named: Named) -> Result<usize, CommandError> {
    let count = integer(arguments.get(2)).map_err(|error| match named {
        Named::ByFunction => CommandError::text("ERR Bad number of keys provided"),
        _ => error,
    })?;
    match usize::try_from(count) {
        Err(_) => Err(CommandError::text("ERR Number of keys can't be negative")),
        Ok(count) if count > arguments.len() - 3 => Err(CommandError::text(
            "ERR Number of keys can't be greater than number of args",
        )),
        Ok(count) => Ok(count),
    }
}

/// What an interpreter is to run.
struct Prepared {
    program: Program,
    place: Place,
    /// Whether it says that it writes nothing.
    writes_nothing: bool,
}

/// Makes sure that the interpreter has what is to be run.
fn prepare(
    interpreter: &mut Interpreter,
    scripts: &Scripts,
    named: Named,
    script: &[u8],
    is_read_only: bool,
) -> Result<Prepared, CommandError> {
    let no_script = || CommandError::text("NOSCRIPT No matching script. Please use EVAL.");
    let of_script = |compiled: Compiled| {
        let header = compiled.header;
        let prepared = Prepared {
            program: Program::Script(compiled.digest),
            place: compiled.place,
            writes_nothing: header.no_writes,
        };
        (prepared, !header.is_present || header.no_writes)
    };
    let (prepared, may_be_read_only) = match named {
        Named::ByFunction => {
            let function = interpreter.prepare_function(script)?;
            let function = function.ok_or_else(|| CommandError::text("ERR Function not found"))?;
            let (program, place, writes_nothing) = function;
            let prepared = Prepared {
                program,
                place,
                writes_nothing,
            };
            (prepared, writes_nothing)
        }
        Named::ByText => of_script(interpreter.prepare(scripts, script)?),
        Named::ByDigest => {
            let digest = Digest::parse(script).ok_or_else(no_script)?;
            of_script(interpreter.prepare_known(scripts, &digest)?.ok_or_else(no_script)?)
        }
    };
    match is_read_only && !may_be_read_only {
        true => Err(CommandError::text(
            "ERR Can not execute a script with write flag using *_ro command.",
        )),
        false => Ok(prepared),
    }
}

/// The limit of a setting in milliseconds, of which 0 is no limit.
fn limit(limit_ms: u64) -> Option<Duration> {
    (limit_ms > 0).then(|| Duration::from_millis(limit_ms))
}

impl Running {
    /// Prepares the script of the command that `context` is of. `is_read_only`: the command says that it writes
    /// nothing.
    ///
    /// # Errors
    /// If the arguments are wrong, there is no such script, or it does not compile.
    pub fn begin(context: &mut Context<'_>, named: Named, is_read_only: bool) -> Result<Running, CommandError> {
        let arguments = context.arguments;
        let seat = context.script_seat.ok_or(CommandError::Internal)?;
        let (scripts, seat) = (Arc::clone(&seat.scripts), seat.number);
        let key_count = match named {
            Named::ByFunction => None,
            Named::ByText | Named::ByDigest => Some(count_keys(arguments, named)?),
        };
        let mut interpreter = interpreter::take(&scripts)?;
        let prepared = prepare(&mut interpreter, &scripts, named, arguments.get(1), is_read_only);
        // A function that is not there is told before a wrong number of keys.
        let prepared =
            prepared.and_then(|prepared| Ok((prepared, key_count.map_or_else(|| count_keys(arguments, named), Ok)?)));
        let (prepared, key_count) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                interpreter::give_back(interpreter);
                return Err(error);
            }
        };
        let settings = interpreter.settings();
        let limits = Limits {
            time: limit(settings.script_time_limit_ms),
            busy_after: limit(settings.busy_reply_threshold),
            rolls_back: settings.script_rollback_on_error,
        };
        let keys = arguments.range(3, 3 + key_count);
        let declared = (!settings.script_undeclared_keys).then(|| keys.iter().map(<[u8]>::to_vec).collect());
        let now = Instant::now();
        let start = Start {
            program: prepared.program.clone(),
            place: prepared.place,
            key_count,
            version: context.reply.version(),
            at: now,
        };
        Ok(Running {
            script: Script::start(interpreter, start, arguments.from(3)),
            input: Some(Input::Go),
            session: Session {
                is_read_only: is_read_only || prepared.writes_nothing,
                database: context.database,
                declared,
                reach: None,
                shard_error: None,
            },
            program: prepared.program,
            scripts,
            seat,
            began: now,
            looked_at: now,
            effects: context.effects.mark(),
            run: None,
            limits,
        })
    }

    /// Runs the script on, until it is over or, if it `may_pause`, has run for a while. `context` is that of its
    /// command, which has the reply in the end.
    ///
    /// # Errors
    /// If the script was ended by others, or failed and its writes are to be dropped: nothing of it stands.
    pub fn drive(&mut self, context: &mut Context<'_>, may_pause: bool) -> Result<Driven, CommandError> {
        let mut calls = 0;
        let mut input = self.input.take().unwrap_or(Input::Go);
        if let Input::Reply(_, answered_at) = &mut input {
            // The script has not run while others had their turn.
            *answered_at = Instant::now();
        }
        if self.run.is_some() {
            // The script goes on after a pause.
            self.looked_at = Instant::now();
        }
        loop {
            let is_due = match self.script.resume(input) {
                Step::Done(outcome) => {
                    return self.finish(context, outcome).map(|()| Driven::Done).inspect_err(|_| {
                        context.effects.forget_after(self.effects);
                    });
                }
                Step::Call(mut call) => {
                    let answered_at = lua_calls::run(context, &mut self.session, &mut call);
                    input = match context.view.must_run_again() || self.session.shard_error.is_some() {
                        true => Input::Stop(Stop::Dropped),
                        false => Input::Reply(call, answered_at),
                    };
                    calls += 1;
                    calls % CALLS_PER_LOOK == 0 && self.looked_at.elapsed() >= SLICE
                }
                Step::Pause => {
                    input = Input::Go;
                    true
                }
            };
            if !is_due {
                continue;
            }
            self.looked_at = Instant::now();
            if let Some(stop) = self.must_stop(context) {
                input = Input::Stop(stop);
            } else if may_pause {
                self.input = Some(input);
                return Ok(Driven::Paused);
            }
        }
    }

    /// Runs the script to its end at once: where it is on a thread of its own, in a transaction over several storage
    /// executors.
    ///
    /// # Errors
    /// Those of [`Running::drive`].
    pub fn run_whole(mut self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let driven = self.drive(context, false)?;
        assert_eq!(driven, Driven::Done, "a script that may not pause runs to its end");
        Ok(())
    }

    /// The effects that its command had when the script began.
    pub fn effects_mark(&self) -> EffectsMark {
        self.effects
    }

    /// Ends the script when it is resumed next, because its executor ends.
    pub fn stop(&mut self) {
        self.input = Some(Input::Stop(Stop::Dropped));
    }

    /// Tells others of the script, as long as it runs, and asks whether they or its limits want it to end.
    fn must_stop(&mut self, context: &Context<'_>) -> Option<Stop> {
        let command = context.arguments;
        let run = *self.run.get_or_insert_with(|| {
            let function = match &self.program {
                Program::Script(_) => None,
                Program::Function(..) => Some(RunningFunction {
                    name: self.program.name().to_owned(),
                    command: command.iter().map(<[u8]>::to_vec).collect(),
                    began: self.began,
                }),
            };
            self.scripts.begin_run(self.seat, function)
        });
        let elapsed = self.began.elapsed();
        if self.limits.busy_after.is_some_and(|after| elapsed >= after) {
            self.scripts.set_busy(self.seat);
        }
        if self.scripts.is_killed(self.seat, run) {
            return Some(Stop::Killed);
        }
        if context.view.must_run_again() {
            return Some(Stop::Dropped);
        }
        (self.limits.time.is_some_and(|limit| elapsed >= limit)).then_some(Stop::TimeLimit)
    }

    /// Whether the script runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self) -> bool {
        self.run.is_some()
            && self
                .limits
                .busy_after
                .is_some_and(|after| self.began.elapsed() >= after)
    }

    fn finish(&mut self, context: &mut Context<'_>, outcome: Outcome) -> Result<(), CommandError> {
        if let Some(reach) = self.session.reach {
            self.scripts.remember_reach(context.arguments.get(1), reach);
        }
        if matches!(outcome, Outcome::Stopped(Stop::Killed, _)) {
            context.view.forget_undeclared();
        } else if context.view.must_run_again() {
            return Err(CommandError::Elsewhere);
        } else if let Some(error) = self.session.shard_error.take() {
            // Other shards have perhaps taken what the script wrote before: an error means that nothing was applied.
            return Err(error);
        }
        match outcome {
            Outcome::Replied => {
                context.reply.raw(self.script.reply());
                Ok(())
            }
            // What the script wrote before the error stands, as in Redis, unless the operator wants it otherwise.
            Outcome::Failed(text) if !self.limits.rolls_back => {
                context.reply.error(text);
                Ok(())
            }
            Outcome::Failed(text) => Err(CommandError::text(String::from_utf8_lossy(&text).into_owned())),
            Outcome::Stopped(stop, source) => Err(self.stopped(stop, source)),
        }
    }

    /// The error that says why a script was ended. Nothing of it stands.
    fn stopped(&self, stop: Stop, source: Option<(String, i64)>) -> CommandError {
        let why = match stop {
            Stop::Killed => "Script killed by user with SCRIPT KILL.",
            Stop::TimeLimit => "Script ran longer than script-time-limit-ms and was rolled back.",
            Stop::MemoryLimit => "Script used more memory than script-memory-limit and was rolled back.",
            Stop::Dropped => "Script stopped with its storage executor and was rolled back.",
        };
        let program = self.program.name();
        CommandError::text(match source {
            Some((source, line)) => {
                let name = source.trim_start_matches('@');
                format!("ERR {name}:{line}: {why} script: {program}, on {source}:{line}.")
            }
            None => format!("ERR {why} script: {program}."),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.run.is_some() {
            self.scripts.end_run(self.seat);
        }
    }
}
