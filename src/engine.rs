//! Corelane inside another program: the same storage executors and channels, without TCP.
//!
//! ```no_run
//! use corelane::engine::{Engine, Operation, Answer};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::open("my-data")?;
//! futures_lite::future::block_on(async {
//!     engine.set(b"greeting", b"hello", None).await?;
//!     engine.set(b"session", b"42", Some(Duration::from_secs(60))).await?;
//!     assert_eq!(engine.get(b"greeting").await?, Some(b"hello".to_vec()));
//!     assert_eq!(engine.incr(b"visits").await?, 1);
//!     let answers = engine.batch(&[Operation::Get(b"greeting"), Operation::Exists(b"nothing")]).await?;
//!     assert_eq!(answers, [Answer::Value(Some(b"hello".to_vec())), Answer::Integer(0)]);
//!     Ok::<_, corelane::engine::EngineError>(())
//! })?;
//! engine.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! A bug in one of the engine's threads (a panic outside of a command) ends the process: what the threads share is then
//! not to be relied on, and opening the directory again recovers everything that was acknowledged.
//!
//! The futures need no particular runtime. Cloning an [`Engine`] is cheap; a call waits for its storage executors only.

use crate::channel::destinations::{Credits, Destinations};
use crate::channel::message::{Batch, Caller, Priority, RequestId};
use crate::channel::responses::{Responses, responses};
use crate::channel::router::Router;
use crate::command::{self, Command};
use crate::config::{Settings, SharedSettings};
use crate::error::CommandError;
use crate::server::{Running, ServerError, Stores};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Calls whose batches and channel are kept for the next ones; calls beyond that make new ones.
const SPARE_CALLS_MAX: usize = 1024;

/// Why a call of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine did not start or stop.
    #[error("{0}")]
    Server(#[from] ServerError),
    /// The command was not applied; the answer was this error (`WRONGTYPE …`).
    #[error("{0}")]
    Command(String),
    /// The shard stopped while the command was under way: it may or may not have been applied.
    #[error("the outcome is unknown: a sync of the shard's log failed")]
    Unknown,
    /// The engine was closed.
    #[error("the engine is closed")]
    Closed,
}

/// One operation of [`Engine::batch`].
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// A key's value.
    Get(&'a [u8]),
    /// Sets a key; any earlier deadline is gone.
    Set(&'a [u8], &'a [u8]),
    /// Sets a key that expires after the given time (at least a millisecond).
    SetFor(&'a [u8], &'a [u8], Duration),
    /// Deletes a key: 1 if it was there.
    Delete(&'a [u8]),
    /// 1 if the key exists.
    Exists(&'a [u8]),
    /// Lets an existing key expire after the given time: 1 if it exists.
    Expire(&'a [u8], Duration),
    /// Milliseconds until the key expires; −1 if it does not, −2 if it does not exist.
    TimeToLive(&'a [u8]),
    /// Adds to the integer under a key; the sum.
    Add(&'a [u8], i64),
}

/// The answer to one [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The operation was done.
    Done,
    /// A value, if the key exists.
    Value(Option<Vec<u8>>),
    /// A number.
    Integer(i64),
    /// The operation was refused, and not applied.
    Error(String),
}

/// The storage executors of one data directory, in this process. See the module's documentation.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    router: Router,
    settings: SharedSettings,
    senders: Mutex<Option<Vec<flume::Sender<Box<Batch>>>>>,
    running: Mutex<Option<Running>>,
    calls: Mutex<Vec<Call>>,
    /// The destinations of all calls: closing them keeps a call whose future is never polled again from keeping the
    /// engine open.
    destinations: Mutex<Vec<Weak<Mutex<Destinations>>>>,
}

/// What one call needs: destinations of its own and the channel by which its batches come back. A future that is not
/// polled, or dropped, holds up nobody: storage executors set the requests of a sender aside that does not take its
/// answers in.
struct Call {
    destinations: Arc<Mutex<Destinations>>,
    responses: Responses,
}

impl Engine {
    /// Opens (or creates) a data directory with the default settings.
    pub fn open(data_dir: impl AsRef<Path>) -> Result<Engine, EngineError> {
        Engine::with_settings(Settings {
            data_dir: data_dir.as_ref().to_owned(),
            ..Settings::default()
        })
    }

    /// Opens (or creates) the data directory that `settings` names. Settings about the network are not read.
    pub fn with_settings(settings: Settings) -> Result<Engine, EngineError> {
        crate::ring::register_membarrier();
        crate::ring::install(settings.coop_taskrun);
        let settings = SharedSettings::new(settings);
        let affinity = crate::topology::allowed_cpus();
        let opened = Stores::open(&settings, &[], 0);
        // Opening the shards pins the calling thread to the background cores.
        if let Ok(cpus) = affinity {
            let cpus: Vec<_> = cpus.iter().collect();
            if let Err(error) = crate::topology::pin_current_thread(&cpus) {
                tracing::warn!(%error, "the calling thread's affinity could not be restored");
            }
        }
        let (mut stores, allowed) = opened?;
        allowed.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let senders = std::mem::take(&mut stores.senders);
        let router = stores.router.clone();
        let running = stores.start(Vec::new())?;
        Ok(Engine {
            shared: Arc::new(Shared {
                router,
                settings,
                senders: Mutex::new(Some(senders)),
                running: Mutex::new(Some(running)),
                calls: Mutex::default(),
                destinations: Mutex::default(),
            }),
        })
    }

    /// The settings; those that may change live are obeyed from the next turn on.
    pub fn settings(&self) -> &SharedSettings {
        &self.shared.settings
    }

    /// Finishes what is under way, syncs and closes the shards. Later calls, of clones too, answer
    /// [`EngineError::Closed`].
    pub fn close(&self) -> Result<(), EngineError> {
        drop(lock(&self.shared.senders).take());
        lock(&self.shared.calls).clear();
        for destinations in lock(&self.shared.destinations).drain(..) {
            destinations
                .upgrade()
                .inspect(|destinations| lock(destinations).close());
        }
        let running = lock(&self.shared.running).take().ok_or(EngineError::Closed)?;
        match running.join() {
            true => Ok(()),
            false => Err(ServerError::NotSynced.into()),
        }
    }

    /// A key's value.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        value(self.one(Operation::Get(key)).await?)
    }

    /// Sets a key, with a time to live or for good.
    pub async fn set(&self, key: &[u8], value: &[u8], time_to_live: Option<Duration>) -> Result<(), EngineError> {
        let operation = match time_to_live {
            Some(time_to_live) => Operation::SetFor(key, value, time_to_live),
            None => Operation::Set(key, value),
        };
        self.one(operation).await.map(|_| ())
    }

    /// Deletes a key; whether it was there.
    pub async fn del(&self, key: &[u8]) -> Result<bool, EngineError> {
        Ok(integer(self.one(Operation::Delete(key)).await?)? > 0)
    }

    /// Whether a key exists.
    pub async fn exists(&self, key: &[u8]) -> Result<bool, EngineError> {
        Ok(integer(self.one(Operation::Exists(key)).await?)? > 0)
    }

    /// Lets a key expire; whether it exists.
    pub async fn expire(&self, key: &[u8], time_to_live: Duration) -> Result<bool, EngineError> {
        Ok(integer(self.one(Operation::Expire(key, time_to_live)).await?)? > 0)
    }

    /// How long a key has to live: `None` if it does not exist, `Some(None)` if it does not expire.
    pub async fn ttl(&self, key: &[u8]) -> Result<Option<Option<Duration>>, EngineError> {
        Ok(match integer(self.one(Operation::TimeToLive(key)).await?)? {
            -2 => None,
            -1 => Some(None),
            left_ms => Some(Some(Duration::from_millis(left_ms.max(0) as u64))),
        })
    }

    /// Adds 1 to the integer under a key (0 if absent); the sum.
    pub async fn incr(&self, key: &[u8]) -> Result<i64, EngineError> {
        self.incr_by(key, 1).await
    }

    /// Adds to the integer under a key (0 if absent); the sum.
    pub async fn incr_by(&self, key: &[u8], amount: i64) -> Result<i64, EngineError> {
        integer(self.one(Operation::Add(key, amount)).await?)
    }

    /// Takes 1 from the integer under a key (0 if absent); what is left.
    pub async fn decr(&self, key: &[u8]) -> Result<i64, EngineError> {
        self.incr_by(key, -1).await
    }

    /// Takes from the integer under a key (0 if absent); what is left.
    pub async fn decr_by(&self, key: &[u8], amount: i64) -> Result<i64, EngineError> {
        let negated = amount
            .checked_neg()
            .ok_or_else(|| EngineError::Command("ERR decrement would overflow".to_owned()))?;
        self.incr_by(key, negated).await
    }

    /// Sets several keys. Atomic per storage executor: its keys are set as one, or not at all if it refuses.
    pub async fn mset(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), EngineError> {
        let sets: Vec<_> = pairs.iter().map(|(key, value)| Operation::Set(key, value)).collect();
        self.check_lengths(&sets)?;
        let mut by_destination: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
        for (key, value) in pairs {
            let words = by_destination
                .entry(self.destination_of(key))
                .or_insert_with(|| vec![b"mset"]);
            words.extend([*key, *value]);
        }
        let parts: Vec<(usize, Vec<&[u8]>)> = by_destination.into_iter().collect();
        let request = |index: usize| (parts[index].0, parts[index].1.iter().copied());
        let answers = self.run(parts.len(), |destinations, index| {
            let (destination, words) = request(index);
            self.push(destinations, destination, index, words);
        });
        answers
            .await?
            .into_iter()
            .try_for_each(|answer| checked(answer).map(|_| ()))
    }

    /// The values of several keys, in their order.
    pub async fn mget(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, EngineError> {
        let operations: Vec<_> = keys.iter().map(|key| Operation::Get(key)).collect();
        self.batch(&operations)
            .await?
            .into_iter()
            .map(|answer| value(checked(answer)?))
            .collect()
    }

    async fn one(&self, operation: Operation<'_>) -> Result<Answer, EngineError> {
        match self.batch(&[operation]).await?.pop() {
            Some(answer) => checked(answer),
            None => Err(EngineError::Unknown),
        }
    }

    /// Runs operations as one message per storage executor; the answers are in their order. Those on one shard run in
    /// their order, those on different shards concurrently.
    pub async fn batch(&self, operations: &[Operation<'_>]) -> Result<Vec<Answer>, EngineError> {
        self.check_lengths(operations)?;
        let push = |destinations: &mut Destinations, index: usize| {
            self.push_operation(destinations, index, &operations[index])
        };
        self.run(operations.len(), push).await
    }

    /// Runs `count` requests, which `push` adds to the open batches; the answers are in their order.
    async fn run(&self, count: usize, push: impl Fn(&mut Destinations, usize)) -> Result<Vec<Answer>, EngineError> {
        let call = self.take_call()?;
        let mut answers = vec![None; count];
        let mut next = 0;
        let mut missing = count;
        while missing > 0 {
            {
                let mut destinations = lock(&call.destinations);
                if destinations.is_empty() {
                    return Err(EngineError::Closed);
                }
                while next < count && !destinations.any_is_blocked() {
                    push(&mut destinations, next);
                    next += 1;
                }
                if destinations.flush().failures > 0 {
                    return Err(EngineError::Closed);
                }
            }
            let batch = call.responses.next().await.ok_or(EngineError::Closed)?;
            for response in &batch.responses {
                assert!(missing > 0, "a request has one response");
                missing -= 1;
                answers[response.id.sequence as usize] = parse_answer(batch.reply(response));
            }
            lock(&call.destinations).recycle(batch);
        }
        let mut calls = lock(&self.shared.calls);
        if calls.len() < SPARE_CALLS_MAX && lock(&self.shared.senders).is_some() {
            calls.push(call);
        }
        drop(calls);
        answers
            .into_iter()
            .map(|answer| answer.ok_or(EngineError::Unknown))
            .collect()
    }

    /// Keys and values may be as long as a client's.
    fn check_lengths(&self, operations: &[Operation<'_>]) -> Result<(), EngineError> {
        let len_max = self.shared.settings.snapshot().proto_max_bulk_len.as_usize();
        let are_short = |operation: &Operation<'_>| match operation {
            Operation::Set(key, value) | Operation::SetFor(key, value, _) => key.len().max(value.len()) <= len_max,
            Operation::Get(key)
            | Operation::Delete(key)
            | Operation::Exists(key)
            | Operation::Expire(key, _)
            | Operation::TimeToLive(key)
            | Operation::Add(key, _) => key.len() <= len_max,
        };
        // A request's number has 32 bits.
        let are_few = u32::try_from(operations.len()).is_ok();
        match are_few && operations.iter().all(are_short) {
            true => Ok(()),
            false => Err(EngineError::Command(CommandError::StringTooLong.to_string())),
        }
    }

    fn take_call(&self) -> Result<Call, EngineError> {
        if let Some(call) = lock(&self.shared.calls).pop() {
            return Ok(call);
        }
        let senders = lock(&self.shared.senders).clone().ok_or(EngineError::Closed)?;
        let (reply_to, responses) = responses();
        let settings = self.shared.settings.snapshot();
        let credits = Credits {
            requests: settings.request_credits,
            batch_size: settings.requests_at_once(),
        };
        let destinations = Arc::new(Mutex::new(Destinations::new(senders, reply_to, credits)));
        let mut all = lock(&self.shared.destinations);
        all.retain(|destinations| destinations.strong_count() > 0);
        all.push(Arc::downgrade(&destinations));
        drop(all);
        // The engine may have been closed since the senders were taken.
        if lock(&self.shared.senders).is_none() {
            return Err(EngineError::Closed);
        }
        Ok(Call {
            destinations,
            responses,
        })
    }

    /// The storage executor that has a key.
    fn destination_of(&self, key: &[u8]) -> usize {
        usize::from(self.shared.router.executor_of_key(key).0)
    }

    fn push_operation(&self, destinations: &mut Destinations, index: usize, operation: &Operation<'_>) {
        let mut digits = itoa::Buffer::new();
        let time_ms = |time: Duration| {
            u64::try_from(time.as_millis())
                .unwrap_or(u64::MAX)
                .clamp(1, i64::MAX as u64 / 2)
        };
        let (name, key, others): (&str, &[u8], [Option<&[u8]>; 2]) = match operation {
            Operation::Get(key) => ("get", key, [None, None]),
            Operation::Set(key, value) => ("set", key, [Some(value), None]),
            Operation::SetFor(key, value, time) => (
                "psetex",
                key,
                [Some(digits.format(time_ms(*time)).as_bytes()), Some(value)],
            ),
            Operation::Delete(key) => ("del", key, [None, None]),
            Operation::Exists(key) => ("exists", key, [None, None]),
            Operation::Expire(key, time) => ("pexpire", key, [Some(digits.format(time_ms(*time)).as_bytes()), None]),
            Operation::TimeToLive(key) => ("pttl", key, [None, None]),
            Operation::Add(key, amount) => ("incrby", key, [Some(digits.format(*amount).as_bytes()), None]),
        };
        let words = [Some(name.as_bytes()), Some(key)].into_iter().chain(others).flatten();
        self.push(destinations, self.destination_of(key), index, words);
    }

    /// Adds a request, whose first word is its command, to the open batch for a storage executor.
    fn push<'a>(
        &self,
        destinations: &mut Destinations,
        destination: usize,
        index: usize,
        words: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        let name = words.clone().next().unwrap_or_default();
        let command: &'static Command = command::find(name).expect("the table has every name used here");
        let timeout = Duration::from_millis(self.shared.settings.snapshot().request_timeout_ms);
        let id = RequestId {
            sequence: index as u32,
            ..RequestId::default()
        };
        let target = (destination, Priority::Normal);
        destinations.push(target, id, command, Caller::default(), Instant::now() + timeout, words);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Reads a reply of one of the commands used here; `None` for the empty reply, which says that the outcome is unknown.
fn parse_answer(reply: &[u8]) -> Option<Answer> {
    let (kind, content) = reply.split_first()?;
    let line_end = memchr::memchr(b'\r', content)?;
    let line = std::str::from_utf8(&content[..line_end]).ok()?;
    let after = content.get(line_end + 2..)?;
    Some(match kind {
        b'+' => Answer::Done,
        b'-' => Answer::Error(line.to_owned()),
        b':' => Answer::Integer(line.parse().ok()?),
        _ if line == "-1" => Answer::Value(None),
        _ => Answer::Value(Some(after.get(..line.parse().ok()?)?.to_vec())),
    })
}

fn checked(answer: Answer) -> Result<Answer, EngineError> {
    match answer {
        Answer::Error(text) => Err(EngineError::Command(text)),
        answer => Ok(answer),
    }
}

fn value(answer: Answer) -> Result<Option<Vec<u8>>, EngineError> {
    match answer {
        Answer::Value(value) => Ok(value),
        _ => Err(EngineError::Unknown),
    }
}

fn integer(answer: Answer) -> Result<i64, EngineError> {
    match answer {
        Answer::Integer(number) => Ok(number),
        _ => Err(EngineError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn keys_and_values_longer_than_a_clients_may_be_are_refused() {
        const LEN_MAX: usize = 1 << 20;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = Engine::with_settings(Settings {
            data_dir: folder.path().join("data"),
            proto_max_bulk_len: ByteSize(LEN_MAX as u64),
            ..Settings::default()
        });
        let engine = engine.expect("an engine");
        let (longest, too_long) = (vec![b'v'; LEN_MAX], vec![b'v'; LEN_MAX + 1]);
        let refused = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
        futures_lite::future::block_on(async {
            engine.set(b"key", &longest, None).await.expect("it is short enough");
            for result in [
                engine.set(b"key", &too_long, None).await.err(),
                engine.get(&too_long).await.err(),
                engine.mset(&[(b"other", b"1"), (&too_long, b"2")]).await.err(),
            ] {
                assert_eq!(result.map(|error| error.to_string()).as_deref(), Some(refused));
            }
            let values = engine.mget(&[b"key", b"other"]).await.expect("values");
            assert_eq!(values, [Some(longest), None], "what was refused has changed nothing");
        });
        engine.close().expect("it ends");
    }
}
