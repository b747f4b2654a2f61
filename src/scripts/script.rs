//! One run of a script, on a stack of its own.
//!
//! [`Script::resume`] runs it until it wants something: a command to be run, or nothing but a pause; or until it is
//! over. The stack is switched inside a Lua function of ours, so it does not matter how deep in the script that is, and
//! whoever resumes it knows nothing of Lua.
//!
//! `unsafe`: the functions that Lua calls find the way back to the driver by a pointer, which is valid while the
//! script's stack lives; and what a script calls lies in one place, [`Shared`], where it is read as long as nothing
//! else is called.
#![allow(unsafe_code)]

use super::function_libraries::Library;
use super::interpreter::{self, Interpreter};
use super::protected_run::Place;
use super::registry::Digest;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, REQUEST_BYTES_MAX, Span};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a script runs before it offers a pause: what other work of the executor's core may wait for it.
pub const SLICE: Duration = Duration::from_millis(1);

/// Bytes of a call that are kept for the next one.
const CALL_BYTES_KEPT_MAX: usize = 64 << 10;

/// A command that a script calls, or the arguments of the script, and the reply.
#[derive(Debug, Default)]
pub struct Call {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// The reply, as RESP of that version.
    pub reply: Vec<u8>,
    /// The version of RESP in which the script wants the reply.
    pub version: Version,
}

impl Call {
    /// Begins another one, without arguments yet.
    pub fn begin(&mut self, version: Version) {
        self.trim();
        self.version = version;
    }

    /// Adds an argument; the first is the command's name. Returns false, and adds nothing, if the command gets longer
    /// than a client's may be.
    #[must_use]
    pub fn push(&mut self, argument: &[u8]) -> bool {
        let fits = self.bytes.len() + argument.len() <= REQUEST_BYTES_MAX;
        if fits {
            self.spans.push(Span::new(self.bytes.len(), argument.len()));
            self.bytes.extend_from_slice(argument);
        }
        fits
    }

    /// The arguments, the name among them.
    pub fn arguments(&self) -> Arguments<'_> {
        Arguments::new(&self.bytes, &self.spans)
    }

    /// The arguments, and where the reply goes.
    pub fn parts(&mut self) -> (Arguments<'_>, &mut Vec<u8>) {
        (Arguments::new(&self.bytes, &self.spans), &mut self.reply)
    }

    /// Forgets the arguments and the reply, and gives back the memory of long ones.
    fn trim(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(CALL_BYTES_KEPT_MAX);
        self.spans.clear();
        self.spans.shrink_to(CALL_BYTES_KEPT_MAX / size_of::<Span>());
        self.reply.clear();
        self.reply.shrink_to(CALL_BYTES_KEPT_MAX);
    }
}

/// Why a script was ended by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SCRIPT KILL.
    Killed,
    /// The script ran longer than `script-time-limit-ms`.
    TimeLimit,
    /// The script used more than `script-memory-limit`.
    MemoryLimit,
    /// Nobody waits for the script any more, or it is to be run again.
    Dropped,
}

/// What a script is told when it goes on.
#[derive(Debug)]
pub enum Input {
    /// Begin, or go on after a pause.
    Go,
    /// The called command has this reply, since this time.
    Reply(Box<Call>, Instant),
    /// End.
    Stop(Stop),
}

/// What a script wants.
#[derive(Debug)]
pub enum Step {
    /// This command's reply: resume with [`Input::Reply`].
    Call(Box<Call>),
    /// Nothing: the script has run for a [`SLICE`].
    Pause,
    /// Nothing more.
    Done(Outcome),
}

/// What became of a script.
#[derive(Debug)]
pub enum Outcome {
    /// The script has replied: [`Script::reply`].
    Replied,
    /// The script failed with an error (the text after RESP's `-`).
    Failed(Vec<u8>),
    /// The script was ended, at this line if that is known.
    Stopped(Stop, Option<(String, i64)>),
}

/// What goes in when a script is suspended, and what goes out.
type Exit = Yielder<Input, Step>;

/// What the functions that Lua calls share with the driver.
pub struct Shared {
    exit: Cell<*const Exit>,
    /// The script's arguments until it runs, then the last command that it has called; in the end its reply. `None`
    /// while a command is with the driver.
    call: Cell<Option<Box<Call>>>,
    resumed_at: Cell<Instant>,
    stopped: Cell<Option<Stop>>,
    /// The chunk and the line where the script was when it was stopped.
    pub stopped_at: RefCell<Option<(String, i64)>>,
    /// What `redis.setresp` chose.
    pub version: Cell<Version>,
    /// The state of `math.random`.
    pub random: Cell<u64>,
    /// The bytes from which on the script is stopped; 0 for no limit.
    pub memory_max: Cell<usize>,
    /// When the code of a library must be done that is being loaded.
    load_deadline: Cell<Option<Instant>>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            exit: Cell::new(std::ptr::null()),
            call: Cell::new(Some(Box::default())),
            resumed_at: Cell::new(Instant::now()),
            stopped: Cell::new(None),
            stopped_at: RefCell::new(None),
            version: Cell::new(Version::Resp2),
            random: Cell::new(0),
            memory_max: Cell::new(0),
            load_deadline: Cell::new(None),
        }
    }
}

impl Shared {
    /// Suspends the script that is running; returns what the driver resumes it with. `None` if no script is.
    pub fn suspend(&self, step: Step) -> Option<Input> {
        let exit = self.exit.get();
        if exit.is_null() {
            return None;
        }
        // SAFETY: set by the script's own stack, below, for as long as it runs Lua; this is called by that Lua only.
        let input = unsafe { &*exit }.suspend(step);
        match input {
            Input::Go => self.resumed_at.set(Instant::now()),
            // It was resumed when it had the reply, which is known without looking at the clock.
            Input::Reply(_, answered_at) => self.resumed_at.set(answered_at),
            Input::Stop(stop) => self.stopped.set(Some(stop)),
        }
        Some(input)
    }

    /// Whether a script runs, and not only the code of a library.
    pub fn is_script_running(&self) -> bool {
        !self.exit.get().is_null()
    }

    /// Takes what holds a call, to fill it anew.
    pub fn take_call(&self) -> Box<Call> {
        self.call.take().unwrap_or_default()
    }

    /// Puts back what [`Shared::take_call`] gave, or what the driver has sent back of it.
    pub fn put_call(&self, call: Box<Call>) {
        self.call.set(Some(call));
    }

    /// The arguments of the last call.
    ///
    /// # Safety
    /// They are not used any more when there is another call.
    pub unsafe fn arguments(&self) -> Arguments<'_> {
        // SAFETY: nobody changes it meanwhile, says the caller.
        let call = unsafe { &*self.call.as_ptr() };
        call.as_ref().map_or(Arguments::new(&[], &[]), |call| call.arguments())
    }

    /// Where the reply of the script goes.
    ///
    /// # Safety
    /// The script is over, and nothing else uses its last call.
    #[expect(clippy::mut_from_ref)]
    pub unsafe fn reply_mut(&self) -> &mut Vec<u8> {
        // SAFETY: nobody else uses it meanwhile, says the caller.
        let call = unsafe { &mut *self.call.as_ptr() };
        let reply = &mut call.get_or_insert_default().reply;
        reply.clear();
        reply
    }

    /// Gives back the memory of a long reply.
    fn trim(&self) {
        let mut call = self.take_call();
        call.trim();
        self.put_call(call);
    }

    /// The reply to the last call.
    ///
    /// # Safety
    /// See [`Shared::arguments`].
    pub unsafe fn reply(&self) -> &[u8] {
        // SAFETY: nobody changes it meanwhile, says the caller.
        let call = unsafe { &*self.call.as_ptr() };
        call.as_ref().map_or(&[], |call| &call.reply)
    }

    /// Suspends the script if it has run for a slice.
    pub fn pause_when_due(&self) {
        if !self.exit.get().is_null() && self.resumed_at.get().elapsed() >= SLICE {
            self.suspend(Step::Pause);
        }
    }

    /// The code of a library is run, until `deadline` if there is one.
    pub fn begin_load(&self, deadline: Option<Instant>) {
        self.stopped.set(None);
        self.load_deadline.set(deadline);
    }

    /// The code of the library is done; returns why it was stopped, if it was.
    pub fn end_load(&self) -> Option<Stop> {
        self.load_deadline.set(None);
        self.stopped.take()
    }

    /// Stops the code of a library that has run too long.
    pub fn stop_overdue_load(&self) {
        if self
            .load_deadline
            .get()
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            self.stop(Stop::TimeLimit);
        }
    }

    /// Why the script must end, if it must.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped.get()
    }

    /// The script must end.
    pub fn stop(&self, stop: Stop) {
        self.stopped.set(Some(stop));
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub enum Program {
    /// A script.
    Script(Digest),
    /// A function of a library, by its index there.
    Function(Arc<Library>, usize),
}

impl Program {
    /// What errors call it: a script's digest, a function's name.
    pub fn name(&self) -> &str {
        match self {
            Program::Script(digest) => digest.as_str(),
            Program::Function(library, index) => &library.functions[*index].name,
        }
    }
}

/// What a script is started with.
#[derive(Debug)]
pub struct Start {
    /// Which one.
    pub program: Program,
    /// Where its code is.
    pub place: Place,
    /// How many of its arguments are keys.
    pub key_count: usize,
    /// How the client wants to be answered.
    pub version: Version,
    /// When it was started.
    pub at: Instant,
}

type Finished = (Box<Interpreter>, Outcome);

/// See the module's documentation.
pub struct Script {
    coroutine: Option<Coroutine<Input, Step, Finished>>,
    /// What has run it, when it is over.
    interpreter: Option<Box<Interpreter>>,
}

impl Script {
    /// Prepares a run of a script that `interpreter` has compiled, with these arguments: KEYS, then ARGV.
    pub fn start(mut interpreter: Box<Interpreter>, start: Start, arguments: Arguments<'_>) -> Script {
        assert!(start.key_count <= arguments.len(), "keys are arguments");
        let stack = interpreter.stack.take().unwrap_or_default();
        let shared = interpreter.shared();
        let mut call = shared.take_call();
        call.begin(start.version);
        for argument in arguments.iter() {
            assert!(call.push(argument), "a part of a request is no longer than a request");
        }
        shared.put_call(call);
        shared.resumed_at.set(start.at);
        let coroutine = Coroutine::with_stack(stack, move |exit: &Exit, input: Input| {
            let shared = interpreter.shared();
            shared.stopped.set(match input {
                Input::Stop(stop) => Some(stop),
                Input::Go | Input::Reply(..) => None,
            });
            shared.exit.set(exit);
            let outcome = interpreter.run(&start);
            interpreter.shared().exit.set(std::ptr::null());
            (interpreter, outcome)
        });
        Script {
            coroutine: Some(coroutine),
            interpreter: None,
        }
    }

    /// Runs it on. Must not be called after [`Step::Done`].
    pub fn resume(&mut self, input: Input) -> Step {
        let coroutine = self.coroutine.as_mut().expect("a script that is done is not resumed");
        match coroutine.resume(input) {
            CoroutineResult::Yield(step) => step,
            CoroutineResult::Return((mut interpreter, outcome)) => {
                if let Some(coroutine) = self.coroutine.take() {
                    interpreter.stack = Some(coroutine.into_stack());
                }
                self.interpreter = Some(interpreter);
                Step::Done(outcome)
            }
        }
    }

    /// The reply of a script that has [replied](Outcome::Replied).
    pub fn reply(&self) -> &[u8] {
        let interpreter = self.interpreter.as_ref().expect("a script that has replied is over");
        // SAFETY: there are no calls any more until the interpreter runs another script, which takes `self`.
        unsafe { interpreter.shared().reply() }
    }

    /// Ends it, whatever it is doing.
    pub fn stop(&mut self, stop: Stop) -> Outcome {
        loop {
            if let Step::Done(outcome) = self.resume(Input::Stop(stop)) {
                return outcome;
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // A script that has panicked is over, too.
        if self.coroutine.as_ref().is_some_and(|coroutine| !coroutine.done()) {
            self.stop(Stop::Dropped);
        }
        if let Some(interpreter) = self.interpreter.take() {
            interpreter.shared().trim();
            interpreter::give_back(interpreter);
        }
    }
}
