//! Lua interpreters: what they are made of, and those that wait for the next script of their thread.

use super::header::{self, Header};
use super::library;
use super::protected_run::{Job, Place, Ran, Runner};
use super::raise;
use super::registry::{Digest, Scripts};
use super::script::{Outcome, Program, Shared, Start, Stop};
use crate::config::Settings;
use crate::error::CommandError;
use crate::scripts::function_libraries::{self, Libraries, Library};
use corosensei::stack::DefaultStack;
use foldhash::fast::RandomState;
use mlua::{Function, HookTriggers, Lua, Table, Value, VmState};
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

/// Longer scripts are found by their digests, and not by their texts.
const TEXT_KEPT_MAX: usize = 16 * 1024;

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
    // In boxes, since an interpreter moves to its script and back.
    #[allow(clippy::vec_box)]
    static IDLE: RefCell<Vec<Box<Interpreter>>> = const { RefCell::new(Vec::new()) };
}

/// A script that is compiled.
#[derive(Clone, Copy)]
pub struct Compiled {
    /// The digest of its text.
    pub digest: Digest,
    /// Where its code is.
    pub place: Place,
    /// What it says of itself.
    pub header: Header,
}

/// The scripts that an interpreter has compiled.
#[derive(Default)]
struct CompiledScripts {
    by_digest: HashMap<Digest, Compiled, RandomState>,
    /// The same of those that were called by their text, so that no digest is computed again.
    by_text: HashMap<Box<[u8]>, Compiled, RandomState>,
}

/// A library whose code has run here.
struct Loaded {
    library: Arc<Library>,
    /// Where the code of its functions is, by their index; `None` of those that the code has not registered again.
    places: Vec<Option<Place>>,
}

/// The functions that an interpreter may be told to run, by their place.
struct Places {
    /// What Lua has of them.
    functions: Table,
    /// Those that were given back.
    free: Vec<Place>,
    last: Place,
}

impl Places {
    fn new(lua: &Lua) -> mlua::Result<Places> {
        Ok(Places {
            functions: lua.create_table()?,
            free: Vec::new(),
            last: 0,
        })
    }

    fn add(&mut self, function: &Function) -> mlua::Result<Place> {
        let place = self.free.last().copied().unwrap_or(self.last + 1);
        self.functions.raw_set(place, function)?;
        if self.free.pop().is_none() {
            self.last = place;
        }
        Ok(place)
    }

    fn remove(&mut self, place: Place) {
        assert!(
            (1..=self.last).contains(&place),
            "only a place that was given is given back"
        );
        // To set what is there takes no memory, so it does not fail.
        if self.functions.raw_set(place, Value::Nil).is_ok() {
            self.free.push(place);
        }
    }
}

/// See the module's documentation.
pub struct Interpreter {
    lua: Lua,
    shared: Rc<Shared>,
    runner: Runner,
    places: Places,
    /// What is known of the last error.
    explained: Table,
    scripts: CompiledScripts,
    generation: u64,
    /// Runs the code of a library.
    load: Function,
    /// By a library's name.
    loaded: HashMap<String, Loaded, RandomState>,
    /// The libraries that there are, and the number of that set.
    libraries: (u64, Arc<Libraries>),
    memory_limit: usize,
    /// The settings as they were last read, and their version.
    settings: (u64, Arc<Settings>),
    /// The stack of the last script, for the next one.
    pub stack: Option<DefaultStack>,
}

/// An interpreter for a script of this thread, which knows the scripts of `scripts`.
///
/// # Errors
/// If there is no memory for one.
pub fn take(scripts: &Scripts) -> Result<Box<Interpreter>, CommandError> {
    let idle = IDLE.with_borrow_mut(Vec::pop);
    let mut interpreter = match idle {
        Some(interpreter) => interpreter,
        None => Box::new(Interpreter::new().map_err(|error| no_interpreter(&error))?),
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
pub fn give_back(interpreter: Box<Interpreter>) {
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
        let (explain, globals, explained, load): (Function, Table, Table, Function) =
            prelude.call((host, base, patterns, protected))?;
        let places = Places::new(&lua)?;
        let runner = Runner::new(&lua, &places.functions, &globals, &explain)?;
        watch(&lua, &shared, HOOK_INSTRUCTIONS)?;
        Ok(Interpreter {
            lua,
            shared,
            runner,
            places,
            explained,
            scripts: CompiledScripts::default(),
            generation: 0,
            load,
            loaded: HashMap::default(),
            libraries: (u64::MAX, Arc::default()),
            memory_limit: 0,
            settings: (0, Arc::default()),
            stack: None,
        })
    }

    /// What the functions that Lua calls share with the driver.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The settings as they were when the interpreter was taken.
    pub fn settings(&self) -> &Settings {
        &self.settings.1
    }

    /// Follows what has changed: the settings, and which scripts there are.
    fn follow(&mut self, scripts: &Scripts) -> mlua::Result<()> {
        let (generation, version) = (scripts.generation(), scripts.settings_version());
        if generation != self.generation || version != self.settings.0 {
            self.settings = (version, scripts.settings());
            let limit = self.settings.1.script_memory_limit.as_usize();
            self.memory_limit = limit;
            self.lua.set_memory_limit(limit)?;
            self.shared.memory_max.set(limit / MEMORY_SHARE.1 * MEMORY_SHARE.0);
        }
        if generation != self.generation {
            self.forget_scripts();
            self.generation = generation;
        }
        let number = scripts.functions.number();
        if number != self.libraries.0 {
            self.follow_libraries(scripts.functions.current());
            self.libraries.0 = number;
        }
        // What earlier scripts have left must not be held against this one.
        if self.lua.used_memory() > self.memory_limit / 2 {
            self.forget_scripts();
            // The text of an error that nobody has taken.
            self.explained.clear()?;
            self.lua.gc_collect()?;
        }
        Ok(())
    }

    /// Forgets what was loaded of libraries that are there no more.
    fn follow_libraries(&mut self, libraries: Arc<Libraries>) {
        let places = &mut self.places;
        self.loaded.retain(|name, loaded| {
            let is_there = libraries
                .get(name)
                .is_some_and(|current| Arc::ptr_eq(current, &loaded.library));
            if !is_there {
                loaded.places.drain(..).flatten().for_each(|place| places.remove(place));
            }
            is_there
        });
        self.libraries.1 = libraries;
    }

    fn forget_scripts(&mut self) {
        self.scripts.by_text.clear();
        for (_, compiled) in self.scripts.by_digest.drain() {
            self.places.remove(compiled.place);
        }
    }

    /// The script with this text, compiled if it is not yet.
    ///
    /// # Errors
    /// If it does not compile, as Redis words it.
    pub fn prepare(&mut self, scripts: &Scripts, text: &[u8]) -> Result<Compiled, CommandError> {
        if let Some(compiled) = self.scripts.by_text.get(text) {
            return Ok(*compiled);
        }
        let digest = Digest::of(text);
        let compiled = match self.scripts.by_digest.get(&digest) {
            Some(compiled) => *compiled,
            None => self.compile_script(scripts, digest, text)?,
        };
        // Beside a long text its digest costs little, and what is kept here is in no figure of memory.
        if text.len() <= TEXT_KEPT_MAX {
            self.scripts.by_text.insert(text.into(), compiled);
        }
        Ok(compiled)
    }

    /// The script with this digest, compiled if it is not yet; `None` if its text is not known.
    ///
    /// # Errors
    /// If it does not compile, as Redis words it.
    pub fn prepare_known(&mut self, scripts: &Scripts, digest: &Digest) -> Result<Option<Compiled>, CommandError> {
        if let Some(compiled) = self.scripts.by_digest.get(digest) {
            return Ok(Some(*compiled));
        }
        match scripts.text(digest) {
            Some(text) => self.compile_script(scripts, *digest, &text).map(Some),
            None => Ok(None),
        }
    }

    fn compile_script(&mut self, scripts: &Scripts, digest: Digest, text: &[u8]) -> Result<Compiled, CommandError> {
        let (header, body) = header::split(text)?;
        let function = self.compile(body)?;
        scripts.keep(digest, text, false);
        if self.scripts.by_digest.len() >= scripts.cached().0 + COMPILED_EXTRA_MAX {
            self.forget_scripts();
        }
        let place = self.places.add(&function).map_err(|error| no_interpreter(&error))?;
        let compiled = Compiled { digest, place, header };
        self.scripts.by_digest.insert(digest, compiled);
        Ok(compiled)
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

    /// The function with this name, where its code is, and whether it says that it writes nothing. The code of its
    /// library is run if it was not yet. `None` if there is no such function.
    ///
    /// # Errors
    /// If that code fails, although it did not when it was brought.
    pub fn prepare_function(&mut self, name: &[u8]) -> Result<Option<(Program, Place, bool)>, CommandError> {
        let Some((library, index)) = self.libraries.1.function(name) else {
            return Ok(None);
        };
        let library = Arc::clone(library);
        if !self.loaded.contains_key(&library.name) {
            self.load_library(&library)?;
        }
        let loaded = self.loaded.get(&library.name);
        let place = loaded.and_then(|loaded| loaded.places[index]);
        let place = place.ok_or(CommandError::Internal)?;
        let is_read_only = library.functions[index].is_read_only();
        Ok(Some((Program::Function(library, index), place, is_read_only)))
    }

    fn load_library(&mut self, library: &Arc<Library>) -> Result<(), CommandError> {
        let found = self.load(function_libraries::body(&library.code)?, LoadLimit::Known)?;
        let mut places = vec![None; library.functions.len()];
        for (function, callback) in found {
            // Each time the code runs it may register its functions in another order.
            let of_name = |known: &function_libraries::Function| known.name == function.name;
            if let Some(index) = library.functions.iter().position(of_name) {
                places[index] = Some(self.places.add(&callback).map_err(|error| no_interpreter(&error))?);
            }
        }
        let library = Arc::clone(library);
        self.loaded.insert(library.name.clone(), Loaded { library, places });
        Ok(())
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
        let mut job = Job {
            place: start.place,
            are_arguments: matches!(start.program, Program::Function(..)),
            key_count: start.key_count,
            version: start.version,
            shared: &self.shared,
        };
        let ran = self.runner.run(&mut job);
        if let Some(stop) = self.shared.stopped() {
            // From now on at the usual pace; the interpreter of a script that could not even be watched is not used
            // again.
            if watch(&self.lua, &self.shared, HOOK_INSTRUCTIONS).is_err() {
                self.shared.stop(Stop::MemoryLimit);
            }
            return Outcome::Stopped(stop, self.shared.stopped_at.take());
        }
        let failure = match ran {
            Ran::Replied => return Outcome::Replied,
            Ran::Failed => self.failure(start),
            Ran::OutOfMemory => Err(mlua::Error::MemoryError(String::new())),
        };
        match failure {
            Ok(text) => Outcome::Failed(text),
            Err(mlua::Error::MemoryError(_)) => {
                self.shared.stop(Stop::MemoryLimit);
                Outcome::Stopped(Stop::MemoryLimit, None)
            }
            Err(error) => Outcome::Failed(format!("ERR {error}").into_bytes()),
        }
    }

    /// The error that the prelude has explained, in Redis's words.
    fn failure(&self, start: &Start) -> mlua::Result<Vec<u8>> {
        let explained = &self.explained;
        // A panic of one of our functions goes on here.
        drop(explained.raw_get::<Value>("object")?);
        explained.raw_set("object", Value::Nil)?;
        let text: Option<mlua::LuaString> = explained.raw_get("text")?;
        // It may be as long as the script's values.
        explained.raw_set("text", Value::Nil)?;
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
        Ok(line)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Arguments, OwnedArguments, Version};
    use crate::scripts::script::{Input, Script, Step};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn start(program: Program, place: Place, key_count: usize) -> Start {
        Start {
            program,
            place,
            key_count,
            version: Version::Resp2,
            at: Instant::now(),
        }
    }

    #[test]
    fn a_script_asks_for_its_commands_and_replies_and_its_interpreter_is_used_again() {
        let scripts = Scripts::default();
        let text = b"return {redis.call('get', KEYS[1], ARGV[1], 7, 0.5), #KEYS, ARGV[2]}";
        for round in 0..2 {
            let mut interpreter = take(&scripts).expect("there is memory");
            assert_eq!(
                interpreter.scripts.by_text.len(),
                round,
                "the interpreter of the last round"
            );
            let compiled = interpreter.prepare(&scripts, text).expect("the text compiles");
            assert_eq!(compiled.digest, Digest::of(text));
            let known = interpreter.prepare_known(&scripts, &compiled.digest);
            assert_eq!(
                known.map(|known| known.map(|known| known.place)),
                Ok(Some(compiled.place))
            );
            let arguments = OwnedArguments::of([b"key".as_slice(), b"first", b"second"]);
            let start = start(Program::Script(compiled.digest), compiled.place, 1);
            let mut script = Script::start(interpreter, start, arguments.get());
            let Step::Call(mut call) = script.resume(Input::Go) else {
                panic!("the script calls a command first");
            };
            let expected: [&[u8]; 5] = [b"get", b"key", b"first", b"7", b"0.5"];
            assert_eq!(call.arguments().iter().collect::<Vec<_>>(), expected);
            call.reply.extend_from_slice(b"*2\r\n:1\r\n$-1\r\n");
            let step = script.resume(Input::Reply(call, Instant::now()));
            assert!(matches!(step, Step::Done(Outcome::Replied)), "{step:?}");
            assert_eq!(script.reply(), b"*3\r\n*2\r\n:1\r\n$-1\r\n:1\r\n$6\r\nsecond\r\n");
        }
    }

    #[test]
    fn a_panic_of_a_function_that_a_script_calls_is_no_error_that_the_script_gets() {
        let scripts = Scripts::default();
        let mut interpreter = take(&scripts).expect("there is memory");
        let bug = interpreter
            .lua
            .create_function(|_, ()| -> mlua::Result<()> { panic!("bug") });
        let place = bug
            .and_then(|bug| interpreter.places.add(&bug))
            .expect("there is memory");
        let start = start(Program::Script(Digest::of(b"")), place, 0);
        let mut script = Script::start(interpreter, start, Arguments::new(&[], &[]));
        let caught = catch_unwind(AssertUnwindSafe(|| script.resume(Input::Go)));
        let panic = caught.expect_err("the panic goes on to whoever runs the script");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"bug"));
    }

    #[test]
    fn a_place_that_was_given_back_is_given_again() {
        let lua = Lua::new();
        let mut places = Places::new(&lua).expect("there is memory");
        let function = lua.load("return 1").into_function().expect("a chunk");
        let add = |places: &mut Places| places.add(&function).expect("there is memory");
        assert_eq!((add(&mut places), add(&mut places), add(&mut places)), (1, 2, 3));
        places.remove(2);
        assert!(places.functions.raw_get::<Value>(2).is_ok_and(|value| value.is_nil()));
        assert_eq!((add(&mut places), add(&mut places)), (2, 4));
    }
}
