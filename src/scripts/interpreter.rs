//! Lua interpreters: what they are made of, and those that wait for the next script of their thread.

use super::convert;
use super::header::{self, Header};
use super::library;
use super::raise;
use super::registry::{Digest, Scripts};
use super::script::{Outcome, Shared, Start, Stop};
use crate::error::CommandError;
use crate::protocol::Reply;
use corosensei::stack::DefaultStack;
use mlua::{Function, HookTriggers, Lua, MultiValue, Table, Value, VmState};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Instructions between two looks at the clock: some 100 µs.
const HOOK_INSTRUCTIONS: u32 = 10_000;

/// Lua allows 200 nested calls of C functions, and the largest of them (gsub) has 8 KiB of buffer in its frame.
const STACK_BYTES: usize = 4 << 20;

/// Compiled scripts that an interpreter keeps beyond those whose texts are kept: old ones are not told apart, so all go when
/// there are more.
const COMPILED_EXTRA_MAX: usize = 500;

/// Interpreters that a thread keeps for the next scripts; more run at a time only where scripts wait for other executors.
const IDLE_MAX: usize = 4;

/// Of the memory limit, the share from which on a script is ended at the next look at it; the rest is refused at once, which a
/// script could catch.
const MEMORY_SHARE: (usize, usize) = (7, 8);

/// What a text looks like to Lua's error messages.
const CHUNK_NAME: &str = "@user_script";

thread_local! {
    /// Interpreters that run nothing.
    static IDLE: RefCell<Vec<Interpreter>> = const { RefCell::new(Vec::new()) };
}

/// A script that is compiled.
struct Compiled {
    function: Function,
    header: Header,
}

/// See the module's documentation.
pub struct Interpreter {
    lua: Lua,
    shared: Rc<Shared>,
    /// Runs a function and explains its error.
    run: Function,
    /// The table of global variables that scripts read and cannot write.
    globals: Table,
    compiled: HashMap<Digest, Compiled>,
    generation: u64,
    memory_limit: usize,
    /// The stack of the last script, for the next one.
    pub stack: Option<DefaultStack>,
}

/// An interpreter for a script of this thread, which knows the scripts of `scripts`.
///
/// # Errors
/// If there is no memory for one.
pub fn take(scripts: &Scripts) -> Result<Interpreter, CommandError> {
    let idle = IDLE.with_borrow_mut(Vec::pop);
    let mut interpreter = match idle {
        Some(interpreter) => interpreter,
        None => Interpreter::new().map_err(|error| no_interpreter(&error))?,
    };
    if interpreter.stack.is_none() {
        let stack = DefaultStack::new(STACK_BYTES);
        interpreter.stack = Some(stack.map_err(|error| no_interpreter(&error))?);
    }
    interpreter.follow(scripts).map_err(|error| no_interpreter(&error))?;
    Ok(interpreter)
}

fn no_interpreter(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::text(format!("ERR no interpreter for a script: {error}"))
}

/// Puts an interpreter back that [`take`] gave, if it is good for another script.
pub fn give_back(interpreter: Interpreter) {
    // One that ran out of memory is not, and what it holds is freed with it.
    if interpreter.shared.stopped() == Some(Stop::MemoryLimit) {
        return;
    }
    IDLE.with_borrow_mut(|idle| {
        if idle.len() < IDLE_MAX {
            idle.push(interpreter);
        }
    });
}

/// The bytes that the idle interpreters of this thread use.
pub fn idle_memory() -> usize {
    IDLE.with_borrow(|idle| idle.iter().map(|interpreter| interpreter.lua.used_memory()).sum())
}

impl Interpreter {
    fn new() -> mlua::Result<Interpreter> {
        let lua = raise::new_state();
        let shared = Rc::new(Shared::default());
        let host = library::host(&lua, &shared)?;
        let protected = lua.create_table()?;
        let base = raise::base_functions(&lua, &protected)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=corelane");
        let (run, globals): (Function, Table) =
            prelude.call((host, base, raise::pattern_functions(&lua)?, protected))?;
        watch(&lua, &shared, HOOK_INSTRUCTIONS)?;
        Ok(Interpreter {
            lua,
            shared,
            run,
            globals,
            compiled: HashMap::new(),
            generation: 0,
            memory_limit: 0,
            stack: None,
        })
    }

    /// What its functions share with the driver.
    pub fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    /// Takes note of what has changed: the settings, and which scripts there are.
    fn follow(&mut self, scripts: &Scripts) -> mlua::Result<()> {
        let generation = scripts.generation();
        if generation != self.generation {
            self.generation = generation;
            self.compiled.clear();
        }
        let limit = scripts.settings().script_memory_limit.as_usize();
        if limit != self.memory_limit {
            self.memory_limit = limit;
            self.lua.set_memory_limit(limit)?;
            self.shared.memory_max.set(limit / MEMORY_SHARE.1 * MEMORY_SHARE.0);
        }
        // What earlier scripts have left must not be held against this one.
        if self.lua.used_memory() > limit / 2 {
            self.compiled.clear();
            self.lua.gc_collect()?;
        }
        Ok(())
    }

    /// The script with this digest, compiled if it is not yet; `text` is asked for then. `None` if there is no such text.
    ///
    /// # Errors
    /// If it does not compile, as Redis words it.
    pub fn prepare<'a>(
        &mut self,
        scripts: &Scripts,
        digest: &Digest,
        text: impl FnOnce() -> Option<std::borrow::Cow<'a, [u8]>>,
    ) -> Result<Option<Header>, CommandError> {
        if let Some(compiled) = self.compiled.get(digest) {
            return Ok(Some(compiled.header));
        }
        let Some(text) = text() else { return Ok(None) };
        let (header, body) = header::split(&text)?;
        let function = self.compile(body)?;
        scripts.keep(*digest, &text, false);
        if self.compiled.len() >= scripts.cached().0 + COMPILED_EXTRA_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(*digest, Compiled { function, header });
        Ok(Some(header))
    }

    /// Whether a text compiles.
    ///
    /// # Errors
    /// As Redis words them.
    pub fn check(&self, text: &[u8]) -> Result<(), CommandError> {
        let (_, body) = header::split(text)?;
        self.compile(body).map(drop)
    }

    fn compile(&self, body: &[u8]) -> Result<Function, CommandError> {
        let chunk = self
            .lua
            .load(body)
            .set_name(CHUNK_NAME)
            .set_mode(mlua::chunk::ChunkMode::Text);
        chunk.into_function().map_err(|error| {
            let text = match &error {
                mlua::Error::SyntaxError { message, .. } => message.clone(),
                other => other.to_string(),
            };
            CommandError::text(format!("ERR Error compiling script (new function): {text}"))
        })
    }

    /// Runs a script that was prepared, to its end. Called on the script's own stack.
    pub fn run(&self, start: &Start) -> Outcome {
        self.shared.version.set(crate::protocol::reply::Version::Resp2);
        *self.shared.stopped_at.borrow_mut() = None;
        let outcome = self.run_compiled(start);
        if let Some(stop) = self.shared.stopped() {
            // From now on at the usual pace; the interpreter of a script that could not even be watched is not used again.
            if watch(&self.lua, &self.shared, HOOK_INSTRUCTIONS).is_err() {
                self.shared.stop(Stop::MemoryLimit);
            }
            return Outcome::Stopped(stop, self.shared.stopped_at.take());
        }
        match outcome {
            Ok(outcome) => outcome,
            Err(mlua::Error::MemoryError(_)) => {
                self.shared.stop(Stop::MemoryLimit);
                Outcome::Stopped(Stop::MemoryLimit, None)
            }
            Err(error) => Outcome::Failed(format!("ERR {error}").into_bytes()),
        }
    }

    fn run_compiled(&self, start: &Start) -> mlua::Result<Outcome> {
        let Some(Compiled { function, .. }) = self.compiled.get(&start.digest) else {
            return Ok(Outcome::Failed(b"ERR internal error".to_vec()));
        };
        for (name, values) in [("KEYS", &start.keys), ("ARGV", &start.arguments)] {
            let table = self.lua.create_table_with_capacity(values.len(), 0)?;
            for (place, value) in values.iter().enumerate() {
                table.raw_set(place + 1, self.lua.create_string(value)?)?;
            }
            self.globals.raw_set(name, table)?;
        }
        let mut results: MultiValue = self.run.call(function)?;
        let succeeded = matches!(results.pop_front(), Some(Value::Boolean(true)));
        let result = results.pop_front().unwrap_or(Value::Nil);
        if !succeeded {
            return self.failure(start, &result);
        }
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, start.version);
        convert::to_reply(&mut reply, &result, self.shared.version.get())?;
        Ok(Outcome::Reply(bytes))
    }

    /// The error that the prelude has explained, in Redis's words.
    fn failure(&self, start: &Start, explained: &Value) -> mlua::Result<Outcome> {
        let Value::Table(explained) = explained else {
            // There was no memory to explain it.
            self.shared.stop(Stop::MemoryLimit);
            return Ok(Outcome::Stopped(Stop::MemoryLimit, None));
        };
        let text: Option<mlua::LuaString> = explained.raw_get("text")?;
        let mut line = match &text {
            Some(text) => text.as_bytes().to_vec(),
            None => b"ERR unknown error".to_vec(),
        };
        let source: Option<mlua::LuaString> = explained.raw_get("source")?;
        if let Some(source) = source {
            let number: i64 = explained.raw_get("line")?;
            line.extend_from_slice(format!(" script: {}, on ", start.digest.as_str()).as_bytes());
            line.extend_from_slice(&source.as_bytes());
            line.extend_from_slice(format!(":{number}.").as_bytes());
        }
        Ok(Outcome::Failed(line))
    }
}

/// The script that calls this was stopped: its next instruction fails.
pub fn watch_closely(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<()> {
    watch(lua, shared, 1)
}

/// Looks at a script every so many instructions: whether it must end, and whether it should pause.
fn watch(lua: &Lua, shared: &Rc<Shared>, instructions: u32) -> mlua::Result<()> {
    let shared = Rc::clone(shared);
    let triggers = HookTriggers::new().every_nth_instruction(instructions);
    lua.set_global_hook(triggers, move |lua, debug| {
        if shared.stopped().is_none() {
            shared.pause_when_due();
            let memory_max = shared.memory_max.get();
            if memory_max > 0 && lua.used_memory() > memory_max {
                lua.gc_collect()?;
                if lua.used_memory() > memory_max {
                    shared.stop(Stop::MemoryLimit);
                }
            }
        }
        if shared.stopped().is_none() {
            return Ok(VmState::Continue);
        }
        if shared.stopped_at.borrow().is_none() {
            let source = debug.source();
            let source = source.source.map(|source| source.into_owned());
            let line = debug.current_line().and_then(|line| i64::try_from(line).ok());
            *shared.stopped_at.borrow_mut() = Some((source.unwrap_or_default(), line.unwrap_or(-1)));
        }
        // From here on every instruction fails, so that whoever catches this error does not get far.
        watch(lua, &shared, 1)?;
        Err(mlua::Error::runtime("the script was stopped"))
    })
}
