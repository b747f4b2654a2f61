//! Lua interpreters: what they are made of, and those that wait for the next script of their thread.

use super::convert;
use super::header::{self, Header};
use super::library;
use super::raise;
use super::registry::{Digest, Scripts};
use super::script::{Outcome, Program, Shared, Start, Stop};
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::scripts::function_libraries::{self, Libraries, Library};
use corosensei::stack::DefaultStack;
use mlua::{Function, HookTriggers, Lua, MultiValue, Table, Value, VmState};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Instructions between two looks at the clock: some 100 µs.
const HOOK_INSTRUCTIONS: u32 = 10_000;

/// Lua allows 200 nested calls of C functions, and the largest of them (gsub) has 8 KiB of buffer in its frame.
const STACK_BYTES: usize = 4 << 20;

/// Compiled scripts that an interpreter keeps beyond those whose texts are kept: old ones are not told apart, so all go
/// when there are more.
const COMPILED_EXTRA_MAX: usize = 500;

/// Interpreters that a thread keeps for the next scripts; more run at a time only where scripts wait for other
/// executors.
const IDLE_MAX: usize = 4;

/// Of the memory limit, the share from which on a script is ended at the next look at it; the rest is refused at once,
/// which a script could catch.
const MEMORY_SHARE: (usize, usize) = (7, 8);

/// What a text looks like to Lua's error messages.
const CHUNK_NAME: &str = "@user_script";

/// What the code of a library looks like to Lua's error messages.
const LIBRARY_CHUNK_NAME: &str = "@user_function";

/// How long the code of a library may run that FUNCTION LOAD brings, as in Redis: it only registers functions.
const LOAD_TIME_MAX: Duration = Duration::from_millis(500);

/// Whether a library's code may run as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadLimit {
    /// A client brings the library.
    Client,
    /// The library was loaded before.
    Known,
}

thread_local! {
    /// Interpreters that run nothing.
    static IDLE: RefCell<Vec<Interpreter>> = const { RefCell::new(Vec::new()) };
}

/// A script that is compiled.
struct Compiled {
    function: Function,
    header: Header,
}

/// A library whose code has run here.
struct Loaded {
    library: Arc<Library>,
    callbacks: HashMap<String, Function>,
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
    /// Runs a function of a library and explains its error.
    call: Function,
    /// Runs the code of a library.
    load: Function,
    /// By a library's name.
    loaded: HashMap<String, Loaded>,
    /// The libraries that there are, and the number of that set.
    libraries: (u64, Arc<Libraries>),
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
    // An interpreter that ran out of memory is not, and what it holds is freed with it.
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
        let patterns = raise::pattern_functions(&lua)?;
        let (run, globals, call, load): (Function, Table, Function, Function) =
            prelude.call((host, base, patterns, protected))?;
        watch(&lua, &shared, HOOK_INSTRUCTIONS)?;
        Ok(Interpreter {
            lua,
            shared,
            run,
            globals,
            compiled: HashMap::new(),
            generation: 0,
            call,
            load,
            loaded: HashMap::new(),
            libraries: (u64::MAX, Arc::default()),
            memory_limit: 0,
            stack: None,
        })
    }

    /// What the functions that Lua calls share with the driver.
    pub fn shared(&self) -> Rc<Shared> {
        Rc::clone(&self.shared)
    }

    /// Follows what has changed: the settings, and which scripts there are.
    fn follow(&mut self, scripts: &Scripts) -> mlua::Result<()> {
        let generation = scripts.generation();
        if generation != self.generation {
            self.generation = generation;
            self.compiled.clear();
        }
        let number = scripts.functions.number();
        if number != self.libraries.0 {
            let libraries = scripts.functions.current();
            let is_there = |loaded: &Loaded| {
                let current = libraries.get(&loaded.library.name);
                current.is_some_and(|current| Arc::ptr_eq(current, &loaded.library))
            };
            self.loaded.retain(|_, loaded| is_there(loaded));
            self.libraries = (number, libraries);
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

    /// The script with this digest, compiled if it is not yet; `text` is asked for then. `None` if there is no such
    /// text.
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
        self.compile_as(CHUNK_NAME, body)
            .map_err(|text| CommandError::text(format!("ERR Error compiling script (new function): {text}")))
    }

    /// Compiles a text; why not, if it does not compile.
    fn compile_as(&self, name: &str, body: &[u8]) -> Result<Function, String> {
        let chunk = self.lua.load(body).set_name(name);
        let chunk = chunk.set_mode(mlua::chunk::ChunkMode::Text);
        chunk.into_function().map_err(|error| match &error {
            mlua::Error::SyntaxError { message, .. } => message.clone(),
            other => other.to_string(),
        })
    }

    /// The function with this name and whether it says that it writes nothing; its library's code is run if it was not
    /// yet. `None` if there is no such function.
    ///
    /// # Errors
    /// If that code fails, although it did not when it was brought.
    pub fn prepare_function(&mut self, name: &[u8]) -> Result<Option<(Program, bool)>, CommandError> {
        let libraries = Arc::clone(&self.libraries.1);
        let Some((library, function)) = libraries.function(name) else {
            return Ok(None);
        };
        if !self.loaded.contains_key(&library.name) {
            let found = self.load(function_libraries::body(&library.code)?, LoadLimit::Known)?;
            let callbacks = found.into_iter().map(|(function, callback)| (function.name, callback));
            let loaded = Loaded {
                library: Arc::clone(library),
                callbacks: callbacks.collect(),
            };
            self.loaded.insert(library.name.clone(), loaded);
        }
        let program = Program::Function {
            library: library.name.clone(),
            name: function.name.clone(),
        };
        Ok(Some((program, function.is_read_only())))
    }

    /// Runs the code of a library, without its first line; returns the functions that it registers.
    ///
    /// # Errors
    /// As Redis words them.
    pub fn load(
        &self,
        body: &[u8],
        limit: LoadLimit,
    ) -> Result<Vec<(function_libraries::Function, Function)>, CommandError> {
        let chunk = self
            .compile_as(LIBRARY_CHUNK_NAME, body)
            .map_err(|text| CommandError::text(format!("ERR Error compiling function: {text}")))?;
        let failed = |text: &str| CommandError::text(format!("ERR Error registering functions: {text}"));
        self.shared
            .begin_load((limit == LoadLimit::Client).then(|| Instant::now() + LOAD_TIME_MAX));
        let outcome: mlua::Result<(Option<Table>, Option<mlua::LuaString>)> = self.load.call(chunk);
        let stop = self.shared.end_load();
        if stop.is_some() && watch(&self.lua, &self.shared, HOOK_INSTRUCTIONS).is_err() {
            self.shared.stop(Stop::MemoryLimit);
        }
        match (stop, outcome) {
            (Some(Stop::TimeLimit), _) => Err(failed("ERR FUNCTION LOAD timeout")),
            (Some(_), _) | (_, Err(mlua::Error::MemoryError(_))) => {
                // Such an interpreter is not used again.
                self.shared.stop(Stop::MemoryLimit);
                Err(failed("ERR the code uses more memory than script-memory-limit"))
            }
            (None, Ok((Some(found), _))) => registered(&found).map_err(|error| failed(&format!("ERR {error}"))),
            (None, Ok((None, text))) => {
                let text = text.map(|text| text.to_string_lossy()).unwrap_or_default();
                Err(failed(&text))
            }
            (None, Err(error)) => Err(failed(&format!("ERR {error}"))),
        }
    }

    /// Runs a script that was prepared, to its end. Called on the script's own stack.
    pub fn run(&self, start: &Start) -> Outcome {
        self.shared.version.set(crate::protocol::reply::Version::Resp2);
        *self.shared.stopped_at.borrow_mut() = None;
        let outcome = self.run_compiled(start);
        if let Some(stop) = self.shared.stopped() {
            // From now on at the usual pace; the interpreter of a script that could not even be watched is not used
            // again.
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
        let keys = self.texts(&start.keys)?;
        let arguments = self.texts(&start.arguments)?;
        let mut results: MultiValue = match &start.program {
            Program::Script(digest) => {
                let Some(Compiled { function, .. }) = self.compiled.get(digest) else {
                    return Ok(Outcome::Failed(b"ERR internal error".to_vec()));
                };
                self.globals.raw_set("KEYS", keys)?;
                self.globals.raw_set("ARGV", arguments)?;
                self.run.call(function)?
            }
            Program::Function { library, name } => {
                let loaded = self.loaded.get(library);
                let Some(callback) = loaded.and_then(|loaded| loaded.callbacks.get(name)) else {
                    return Ok(Outcome::Failed(b"ERR internal error".to_vec()));
                };
                // A function gets them as arguments only.
                self.globals.raw_remove("KEYS")?;
                self.globals.raw_remove("ARGV")?;
                self.call.call((callback, keys, arguments))?
            }
        };
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

    fn texts(&self, values: &[Vec<u8>]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(values.len(), 0)?;
        for (index, value) in values.iter().enumerate() {
            table.raw_set(index + 1, self.lua.create_string(value)?)?;
        }
        Ok(table)
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
            line.extend_from_slice(format!(" script: {}, on ", start.program.name()).as_bytes());
            line.extend_from_slice(&source.as_bytes());
            line.extend_from_slice(format!(":{number}.").as_bytes());
        }
        Ok(Outcome::Failed(line))
    }
}

/// The functions that a library has registered, as the prelude lists them.
fn registered(found: &Table) -> mlua::Result<Vec<(function_libraries::Function, Function)>> {
    let mut registered = Vec::new();
    for row in found.sequence_values::<Table>() {
        let row = row?;
        let description: Option<mlua::LuaString> = row.raw_get("description")?;
        let given: Table = row.raw_get("flags")?;
        let mut flags = Vec::new();
        for flag in function_libraries::FLAGS {
            if given.raw_get::<bool>(flag)? {
                flags.push(flag);
            }
        }
        let function = function_libraries::Function {
            name: row.raw_get("name")?,
            description: description.map(|text| text.as_bytes().to_vec()),
            flags,
        };
        registered.push((function, row.raw_get("callback")?));
    }
    Ok(registered)
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
            shared.stop_overdue_load();
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
