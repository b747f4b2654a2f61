//! What all threads know of scripts: their texts by digest, and which run on which storage executor.

use crate::channel::message::Caller;
use crate::command::Command;
use crate::config::{Settings, SharedSettings};
use crate::error::CommandError;
use crate::protocol::Arguments;
use crate::scripts::function_libraries::Functions;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Scripts that EVAL has left behind and that are kept for EVALSHA; the oldest goes. Those of SCRIPT LOAD stay.
const EVALUATED_MAX: usize = 500;

/// Scripts of which it is remembered what they need beyond the keys that they declare; when there are more, all are
/// learnt anew.
const REACHES_MAX: usize = 1024;

/// What a script needs beyond the keys that it declares, as far as its runs have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Other keys.
    Keys,
    /// Everything: the script calls commands like KEYS.
    Everything,
}

/// Runs a command of the network executors that says something of the server (INFO, COMMAND…): the row, the arguments,
/// and how they are meant; returns its reply.
pub type ServerCommands =
    dyn Fn(&'static Command, Arguments<'_>, Caller) -> Result<Vec<u8>, CommandError> + Send + Sync;

/// The SHA1 of a script's text in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 40]);

impl Digest {
    /// The digest of a text.
    pub fn of(text: &[u8]) -> Digest {
        let mut digest = Digest([0; 40]);
        let hexadecimal = sha1_smol::Sha1::from(text).digest().to_string();
        digest.0.copy_from_slice(hexadecimal.as_bytes());
        digest
    }

    /// The digest that a client names, in any case; `None` for a name that cannot be one.
    pub fn parse(name: &[u8]) -> Option<Digest> {
        Some(Digest(
            <[u8; 40]>::try_from(name).ok()?.map(|digit| digit.to_ascii_lowercase()),
        ))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

struct Kept {
    text: Arc<[u8]>,
    /// Whether SCRIPT LOAD has brought the text: it stays until SCRIPT FLUSH.
    is_loaded: bool,
}

#[derive(Default)]
struct Texts {
    by_digest: HashMap<Digest, Kept>,
    /// The texts that only EVAL has left, oldest first.
    evaluated: VecDeque<Digest>,
    bytes: usize,
}

/// A function that runs, for FUNCTION STATS.
#[derive(Clone, Debug)]
pub struct RunningFunction {
    /// The function's name.
    pub name: String,
    /// The command that called the function, with its arguments.
    pub command: Vec<Vec<u8>>,
    /// When it was called.
    pub began: Instant,
}

/// Scripts and functions have commands of their own to be ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of EVAL and its kin.
    Script,
    /// Of FCALL and its kin.
    Function,
}

/// What one storage executor says of the script that it runs.
#[derive(Default)]
struct Seat {
    /// The function that runs, if it is one.
    function: Mutex<Option<RunningFunction>>,
    /// The run's number, 0 for none.
    run: AtomicU64,
    /// Whether it runs longer than `busy-reply-threshold`.
    is_busy: AtomicBool,
    /// The number of the run that is to be killed.
    killed: AtomicU64,
    /// The transaction over several storage executors that the run is in, 0 for none.
    transaction: AtomicU64,
}

/// See the module's documentation.
pub struct Scripts {
    /// Function libraries.
    pub functions: Functions,
    settings: SharedSettings,
    texts: Mutex<Texts>,
    /// Changes when the texts are forgotten; no two servers of a process have the same.
    generation: AtomicU64,
    seats: Box<[Seat]>,
    busy_seats: AtomicUsize,
    evicted: AtomicU64,
    /// By the hash of the text, digest or name by which a command calls the script. Two with the same hash do no harm.
    reaches: Mutex<HashMap<u64, Reach>>,
    reaches_len: AtomicUsize,
    hasher: RandomState,
    server_commands: OnceLock<Box<ServerCommands>>,
    /// By thread that has interpreters: the bytes they use.
    memory: Mutex<HashMap<std::thread::ThreadId, usize>>,
}

/// Numbers of generations and of runs, of the whole process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

fn next_number() -> u64 {
    NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of scripts, and the number by which the running script of an executor, or of a thread that runs one
/// for a transaction, is known.
#[derive(Clone)]
pub struct ScriptSeat {
    /// What all threads know.
    pub scripts: Arc<Scripts>,
    /// The number.
    pub number: usize,
}

impl Scripts {
    /// No scripts yet, for so many storage executors.
    pub fn new(settings: SharedSettings, storage_executors: usize) -> Scripts {
        Scripts {
            functions: Functions::default(),
            settings,
            texts: Mutex::default(),
            generation: AtomicU64::new(next_number()),
            seats: (0..storage_executors).map(|_| Seat::default()).collect(),
            busy_seats: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            reaches: Mutex::default(),
            reaches_len: AtomicUsize::new(0),
            hasher: RandomState::default(),
            server_commands: OnceLock::new(),
            memory: Mutex::default(),
        }
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.snapshot()
    }

    /// A number that grows with every change of the settings.
    pub fn settings_version(&self) -> u64 {
        self.settings.version()
    }

    /// Which set of texts there is.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Keeps a text that compiles.
    pub fn keep(&self, digest: Digest, text: &[u8], is_loaded: bool) {
        let mut texts = lock(&self.texts);
        if let Some(kept) = texts.by_digest.get_mut(&digest) {
            let was_loaded = kept.is_loaded;
            kept.is_loaded |= is_loaded;
            if is_loaded && !was_loaded {
                texts.evaluated.retain(|evaluated| *evaluated != digest);
            }
            return;
        }
        texts.bytes += text.len();
        let kept = Kept {
            text: text.into(),
            is_loaded,
        };
        texts.by_digest.insert(digest, kept);
        if is_loaded {
            return;
        }
        texts.evaluated.push_back(digest);
        if texts.evaluated.len() > EVALUATED_MAX
            && let Some(oldest) = texts.evaluated.pop_front()
            && let Some(gone) = texts.by_digest.remove(&oldest)
        {
            texts.bytes -= gone.text.len();
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A text.
    pub fn text(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        lock(&self.texts)
            .by_digest
            .get(digest)
            .map(|kept| Arc::clone(&kept.text))
    }

    /// Forgets all texts.
    pub fn flush(&self) {
        let mut texts = lock(&self.texts);
        *texts = Texts::default();
        lock(&self.reaches).clear();
        self.reaches_len.store(0, Ordering::Release);
        self.generation.store(next_number(), Ordering::Release);
    }

    /// How many texts there are, and their bytes.
    pub fn cached(&self) -> (usize, usize) {
        let texts = lock(&self.texts);
        (texts.by_digest.len(), texts.bytes)
    }

    /// How many texts made room for others.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Records the bytes that the interpreters of this thread use.
    pub fn record_memory(&self, bytes: usize) {
        lock(&self.memory).insert(std::thread::current().id(), bytes);
    }

    /// The bytes that all interpreters use, as last recorded.
    pub fn memory(&self) -> usize {
        lock(&self.memory).values().sum()
    }

    // ---- What they need ----

    /// What the script that a command calls by this text, digest or name needs beyond its declared keys, as far as is
    /// known.
    #[inline]
    pub fn reach(&self, called: &[u8]) -> Option<Reach> {
        if self.reaches_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.reaches).get(&self.hasher.hash_one(called)).copied()
    }

    /// A run of a script has shown what the script needs.
    pub fn remember_reach(&self, called: &[u8], reach: Reach) {
        let mut reaches = lock(&self.reaches);
        if reaches.len() >= REACHES_MAX {
            reaches.clear();
        }
        reaches.insert(self.hasher.hash_one(called), reach);
        self.reaches_len.store(reaches.len(), Ordering::Release);
    }

    /// A run of a script has shown that the declared keys may do.
    pub fn forget_reach(&self, called: &[u8]) {
        if self.reaches_len.load(Ordering::Acquire) > 0 {
            let mut reaches = lock(&self.reaches);
            reaches.remove(&self.hasher.hash_one(called));
            self.reaches_len.store(reaches.len(), Ordering::Release);
        }
    }

    // ---- Commands about the server ----

    /// From now on scripts can call commands that say something of the server.
    pub fn set_server_commands(&self, run: Box<ServerCommands>) {
        let was_set = self.server_commands.set(run).is_err();
        assert!(!was_set, "a server is started once");
    }

    /// Runs a command that says something of the server.
    ///
    /// # Errors
    /// The command's, or [`CommandError::Internal`] where there is no server (in the in-process engine).
    pub fn run_server_command(
        &self,
        command: &'static Command,
        arguments: Arguments<'_>,
        caller: Caller,
    ) -> Result<Vec<u8>, CommandError> {
        let run = self.server_commands.get().ok_or(CommandError::Internal)?;
        run(command, arguments, caller)
    }

    // ---- What runs ----

    /// A script of the storage executor `seat`, or a function, runs for a while already; returns the run's number.
    pub fn begin_run(&self, seat: usize, function: Option<RunningFunction>) -> u64 {
        let run = next_number();
        if let Some(seat) = self.seats.get(seat) {
            *lock(&seat.function) = function;
            seat.run.store(run, Ordering::Release);
        }
        run
    }

    /// The scripts of `seat` are from now on in a transaction over several storage executors.
    pub fn set_transaction(&self, seat: usize, transaction: u64) {
        if let Some(seat) = self.seats.get(seat) {
            seat.transaction.store(transaction, Ordering::Release);
        }
    }

    /// The transactions over several storage executors whose scripts are busy.
    pub fn busy_transactions(&self) -> Vec<u64> {
        let busy = self.seats.iter().filter(|seat| seat.is_busy.load(Ordering::Acquire));
        busy.map(|seat| seat.transaction.load(Ordering::Acquire))
            .filter(|transaction| *transaction != 0)
            .collect()
    }

    /// The script of `seat` has run longer than `busy-reply-threshold`.
    pub fn set_busy(&self, seat: usize) {
        if let Some(seat) = self.seats.get(seat)
            && !seat.is_busy.swap(true, Ordering::AcqRel)
        {
            self.busy_seats.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The script of `seat` is over.
    pub fn end_run(&self, seat: usize) {
        if let Some(seat) = self.seats.get(seat) {
            seat.run.store(0, Ordering::Release);
            if seat.is_busy.swap(false, Ordering::AcqRel) {
                let busy_before = self.busy_seats.fetch_sub(1, Ordering::AcqRel);
                assert!(busy_before > 0, "each busy seat is counted once");
            }
        }
    }

    /// Whether a run is to be killed.
    pub fn is_killed(&self, seat: usize, run: u64) -> bool {
        (self.seats.get(seat)).is_some_and(|seat| seat.killed.load(Ordering::Acquire) == run)
    }

    /// Whether any storage executor has a script that runs longer than `busy-reply-threshold`.
    #[inline]
    pub fn any_busy(&self) -> bool {
        self.busy_seats.load(Ordering::Acquire) > 0
    }

    /// Whether the script of `seat` runs longer than `busy-reply-threshold`.
    pub fn is_busy(&self, seat: usize) -> bool {
        (self.seats.get(seat)).is_some_and(|seat| seat.is_busy.load(Ordering::Acquire))
    }

    /// How many scripts run for a while already.
    pub fn running(&self) -> usize {
        (self.seats.iter())
            .filter(|seat| seat.run.load(Ordering::Acquire) != 0)
            .count()
    }

    /// The function that has been running the longest.
    pub fn running_function(&self) -> Option<RunningFunction> {
        let running = |seat: &&Seat| seat.run.load(Ordering::Acquire) != 0;
        let functions = self
            .seats
            .iter()
            .filter(running)
            .filter_map(|seat| lock(&seat.function).clone());
        functions.min_by_key(|function| function.began)
    }

    /// The answer of a busy storage executor.
    pub fn busy_error(&self) -> CommandError {
        let busy = self.seats.iter().find(|seat| seat.is_busy.load(Ordering::Acquire));
        match busy.map(Seat::kind) {
            Some(Kind::Function) => CommandError::BusyFunction,
            _ => CommandError::Busy,
        }
    }

    /// Kills the script or function that has been running the longest and was not killed before.
    ///
    /// # Errors
    /// If none runs, or only such as another command kills.
    pub fn kill(&self, kind: Kind) -> Result<(), CommandError> {
        let running = |seat: &&Seat| seat.run.load(Ordering::Acquire) != 0;
        let of_other_kind = self.seats.iter().any(|seat| running(&seat) && seat.kind() != kind);
        match (self.kill_oldest(kind), of_other_kind, kind) {
            (true, ..) => Ok(()),
            (false, true, Kind::Script) => Err(CommandError::BusyFunction),
            (false, true, Kind::Function) => Err(CommandError::Busy),
            (false, false, _) => Err(CommandError::text("NOTBUSY No scripts in execution right now.")),
        }
    }

    fn kill_oldest(&self, kind: Kind) -> bool {
        let running = self.seats.iter().filter_map(|seat| {
            let run = seat.run.load(Ordering::Acquire);
            (run != 0 && seat.kind() == kind).then_some((run, seat))
        });
        let is_killed = |seat: &Seat, run| seat.killed.load(Ordering::Acquire) == run;
        // Their numbers grow, so the lowest began first. One that is being killed already counts if there is no other.
        let oldest = running.min_by_key(|(run, seat)| (is_killed(seat, *run), *run));
        if let Some((run, seat)) = oldest {
            seat.killed.store(run, Ordering::Release);
        }
        oldest.is_some()
    }
}

impl Seat {
    /// Of the run that there is.
    fn kind(&self) -> Kind {
        match *lock(&self.function) {
            Some(_) => Kind::Function,
            None => Kind::Script,
        }
    }
}

impl Default for Scripts {
    fn default() -> Self {
        Scripts::new(SharedSettings::new(Settings::default()), 1)
    }
}
