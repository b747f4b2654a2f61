//! A transaction over several storage executors, as its coordinator keeps it: the command, the locks, and a [`Phase`]
//! whose variants have what is known in that phase and nothing else.
//!
//! ```text
//!  Locking ◄──────── refused, or the handler needs more keys
//!    ├─► the handler runs, here or on a thread (WaitingForThread until one is free), and has written
//!    │      ├─ nothing ──────────────────────────────────────────────────────► end
//!    │      ├─ to one shard ──► WritingOne ──────────────────────────────────► end
//!    │      └─ to several ────► Preparing ─────► Applying ───────────────────► end
//!    │                              └─► InDoubt ────┴─ or nothing is written ► end
//!    └─► RunningEverywhere ──────────────────────────────────────────────────► end
//! ```
//!
//! [`coordinator`](super::coordinator) has the transitions: it sends the steps of a phase and takes the answers.

use super::merging::Merging;
use super::multi::Executing;
use crate::channel::message::{Caller, Priority};
use crate::channel::step_answers::StepAnswer;
use crate::command::exec_request::parts_of_exec;
use crate::command::{Command, Internal, Merge, RUNS_SCRIPT, Runs, Step};
use crate::commands::blocking::Waiting;
use crate::commands::effects::Effects;
use crate::commands::{Context, StorageHandlers};
use crate::config::EventClasses;
use crate::error::CommandError;
use crate::panics::{self, Panicked};
use crate::protocol::{OwnedArguments, Reply, Version};
use crate::scripts::registry::ScriptSeat;
use crate::slots::ShardId;
use crate::storage::encoding::DatabaseMap;
use crate::storage::fields::FieldReader;
use crate::storage::gathered::Gathered;
use crate::storage::redo::Part;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId};
use crate::storage::view::View;
use std::time::Instant;

/// The answer to a transaction whose participant has answered what cannot be read.
const INTERNAL_ERROR: &[u8] = b"-ERR internal error\r\n";

/// What a transaction does once everything is locked.
pub(super) enum Work {
    /// Run a handler on its keys.
    Handler,
    /// Run the command on every executor, and merge the replies.
    Everywhere(Merge),
}

/// What an EXEC has beside its command.
pub(super) struct ExecOnSeveral {
    /// The commands of the EXEC that run on this executor, if its replies must come apart for them.
    pub(super) executing: Option<Executing>,
    /// The storage executors that know of keys which the client watches.
    pub(super) watched_destinations: Vec<usize>,
    /// Whether one of its commands may write.
    pub(super) writes: bool,
}

/// The command of a client that becomes a transaction, and where its reply goes.
pub(super) struct Origin {
    /// The index of the connection.
    pub(super) connection: u32,
    pub(super) generation: u32,
    /// The command's number on the connection.
    pub(super) sequence: u32,
    pub(super) caller: Caller,
    pub(super) priority: Priority,
}

/// How a move that has waited for its source waits again.
#[derive(Clone, Copy)]
pub(super) struct WaitedForSource {
    /// `None`: for ever.
    pub(super) until: Option<Instant>,
    /// The number in the queue for the source.
    pub(super) queue_number: Option<u64>,
}

/// The command of a transaction. A job stays as it is from the transaction's begin to its end, so that the handler can
/// run again.
pub(super) struct Job {
    pub(super) origin: Origin,
    pub(super) command: &'static Command,
    pub(super) work: Work,
    pub(super) arguments: OwnedArguments,
    /// `None` if the command is no EXEC.
    pub(super) exec: Option<ExecOnSeveral>,
    /// `None` unless the command is a move that has waited.
    pub(super) waited: Option<WaitedForSource>,
    pub(super) mode: Mode,
    pub(super) handlers: StorageHandlers,
    pub(super) string_bytes_max: usize,
    /// The handler's random bits, the same in every run: otherwise each run could name other keys.
    pub(super) seed: u64,
    /// The events that somebody may have subscribed to.
    pub(super) event_classes: EventClasses,
    pub(super) is_monitored: bool,
}

impl Job {
    /// Whether the job runs a script, or commands of which one is a script.
    pub(super) fn runs_script(&self) -> bool {
        let is_script = |command: &Command| command.flags.has(RUNS_SCRIPT);
        match self.command.runs {
            Runs::Exec => parts_of_exec(self.arguments.get()).any(|(_, part, _)| is_script(part)),
            _ => is_script(self.command),
        }
    }

    /// Runs the handler on the keys that were gathered; scripts run with `script_seat`. A panic of the handler is an
    /// error.
    pub(super) fn run_handler(
        &self,
        gathered: &mut Gathered,
        script_seat: Option<&ScriptSeat>,
    ) -> (Result<(), CommandError>, Ran) {
        let Some(handler) = self.handlers.of(self.command) else {
            return (Err(CommandError::Internal), Ran::default());
        };
        let mut ran = Ran {
            effects: Effects {
                classes: self.event_classes,
                is_monitored: self.is_monitored,
                ..Effects::default()
            },
            ..Ran::default()
        };
        gathered.now_ms = crate::clock::unix_ms();
        let mut context = Context {
            arguments: self.arguments.get(),
            reply: Reply::new(&mut ran.reply, self.origin.caller.version),
            now_ms: gathered.now_ms,
            is_watched_key_modified: gathered.is_watched_key_modified,
            view: View::Gathered(gathered),
            database: self.origin.caller.database,
            seed: self.seed,
            string_bytes_max: self.string_bytes_max,
            client_id: self.origin.caller.client_id,
            is_inner: false,
            handlers: self.handlers,
            script_seat,
            effects: &mut ran.effects,
            pieces: None,
            may_take_steps: false,
            steps: None,
            waits: None,
        };
        let outcome = panics::contain(|| handler(&mut context)).unwrap_or_else(|Panicked| {
            tracing::error!(
                command = self.command.name,
                "a handler panicked; nothing of its transaction is written"
            );
            Err(CommandError::Internal)
        });
        ran.waits = context.waits.take().filter(|_| outcome.is_ok()).map(|waiting| *waiting);
        (outcome, ran)
    }
}

/// What a handler has left beside its writes.
#[derive(Default)]
pub(super) struct Ran {
    pub(super) reply: Vec<u8>,
    /// Given out when everything is written.
    pub(super) effects: Effects,
    /// The command has found nothing and waits: for streams, or for the source of a move.
    pub(super) waits: Option<Waiting>,
}

impl Ran {
    /// The handler has failed, or has written too much. Only the error is left, and the statistics of the commands that
    /// the handler called.
    pub(super) fn fail(&mut self, error: &CommandError, version: Version) {
        self.reply.clear();
        Reply::new(&mut self.reply, version).error(error.to_string());
        self.effects.clear();
        self.waits = None;
    }
}

/// What a transaction locks on one executor.
pub(super) struct Participant {
    pub(super) destination: usize,
    pub(super) scope: Scope,
}

/// What a transaction locks, or has locked.
pub(super) struct Locks {
    /// The transaction's number. Locks that were refused are asked for again with a new one.
    pub(super) id: TransactionId,
    /// Whether everything is locked, on every executor.
    pub(super) is_whole: bool,
    /// By destination, ascending.
    pub(super) participants: Vec<Participant>,
}

impl Locks {
    /// Locks on `keys`, or on everything (`None`), on executors `0..destination_count`.
    pub(super) fn new(
        keys: Option<Vec<DatabaseKey>>,
        destination_count: usize,
        destination_of: impl Fn(&[u8]) -> usize,
    ) -> Locks {
        let is_whole = keys.is_none();
        let mut by_destination: Vec<Vec<DatabaseKey>> = vec![Vec::new(); destination_count];
        let mut keys = keys.unwrap_or_default();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            by_destination[destination_of(&key.1)].push(key);
        }
        let participants = by_destination
            .into_iter()
            .enumerate()
            .map(|(destination, keys)| Participant {
                destination,
                scope: match is_whole {
                    true => Scope::Everything,
                    false => Scope::Keys(keys),
                },
            });
        Locks {
            id: 0,
            is_whole,
            participants: participants
                .filter(|participant| !matches!(&participant.scope, Scope::Keys(keys) if keys.is_empty()))
                .collect(),
        }
    }

    /// The keys that are locked one by one.
    pub(super) fn take_keys(&mut self) -> Vec<DatabaseKey> {
        let mut keys = Vec::new();
        for participant in self.participants.drain(..) {
            match participant.scope {
                Scope::Keys(locked) => keys.extend(locked),
                Scope::Everything => unreachable!("a transaction that has locked everything needs no more keys"),
            }
        }
        keys
    }

    /// Whether an executor takes part.
    pub(super) fn has(&self, destination: usize) -> bool {
        let mut participants = self.participants.iter();
        participants.any(|participant| participant.destination == destination)
    }
}

/// A transaction under way. What depends on how far it has come is in its [`Phase`].
pub(super) struct Coordination {
    /// The transaction's index among those under way.
    pub(super) number: usize,
    pub(super) job: Job,
    pub(super) locks: Locks,
    /// When its locks are no longer waited for.
    pub(super) lock_deadline: Instant,
    /// How often it has locked more than it named.
    pub(super) rounds_of_more_keys: u32,
    /// The storage executor that has handed the command back, as long as that lets the client's later commands wait.
    pub(super) handed_back_by: Option<usize>,
    /// The number of the round of steps that is out. Responses with another number say nothing.
    pub(super) round: u32,
    /// Whether the client's next commands wait until this transaction's writes are on their way.
    pub(super) holds_client: bool,
    /// Bytes of the reply that are counted as held for the client.
    pub(super) held_bytes: usize,
    pub(super) took_ns: u64,
}

/// How far a transaction has come. Every variant but [`Phase::WaitingForThread`] waits for the answers to one step.
pub(super) enum Phase {
    /// The participants lock, and tell what is under the keys.
    Locking(Locking),
    /// Everything is locked, and all threads that may run handlers are taken.
    WaitingForThread(Gathered),
    /// Everything is locked, and the command runs on every executor.
    RunningEverywhere(RunningEverywhere),
    /// The handler has written to one shard, whose commit decides.
    WritingOne(Ran),
    /// The handler has written to several shards, and the primary commits the redo record with its part.
    Preparing(Prepared),
    /// The primary could not say whether the redo record is committed, and is asked again.
    InDoubt(Prepared),
    /// The redo record is committed, so the transaction is decided: the other shards commit their parts.
    Applying(Applying),
}

impl Phase {
    /// Whether an answer to a command (the row of a step) may come in this phase.
    pub(super) fn awaits(&self, command: &Command) -> bool {
        let step = match self {
            Phase::Locking(_) => Step::Schedule,
            Phase::WaitingForThread(_) => return false,
            Phase::RunningEverywhere(_) if command.runs == Runs::Internal(Internal::PiecesNext) => return true,
            Phase::RunningEverywhere(_) => Step::Run,
            Phase::WritingOne(_) | Phase::Applying(_) => Step::Apply,
            Phase::Preparing(_) => Step::Prepare,
            Phase::InDoubt(_) => Step::Resolve,
        };
        command.runs == Runs::Step(step)
    }
}

/// How many answers of a round are still to come.
pub(super) struct AnswersLeft(usize);

impl AnswersLeft {
    /// The answers to so many steps.
    pub(super) fn new(steps: usize) -> AnswersLeft {
        assert!(steps > 0, "a round without a step would never end");
        AnswersLeft(steps)
    }

    /// An answer has come; returns whether it was the last.
    pub(super) fn take_one(&mut self) -> bool {
        assert!(self.0 > 0, "a step is answered once");
        self.0 -= 1;
        self.0 == 0
    }
}

/// Why a transaction does not get its locks. A later variant outweighs those before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A participant has granted the locks to transactions that began later: it must come again with a new number.
    TooLate,
    /// An earlier command of the client waits at a participant: the transaction must come again after a pause.
    Behind,
    /// A participant has failed, with an error in RESP.
    Failed(Vec<u8>),
    /// A shard's sync has failed, and what it has told of may not be on disk.
    Unknown,
}

impl Refusal {
    fn weight(&self) -> u8 {
        match self {
            Refusal::TooLate => 0,
            Refusal::Behind => 1,
            Refusal::Failed(_) => 2,
            Refusal::Unknown => 3,
        }
    }
}

/// See [`Phase::Locking`].
pub(super) struct Locking {
    /// What the participants have told so far.
    pub(super) gathered: Gathered,
    pub(super) answers_left: AnswersLeft,
    pub(super) refusal: Option<Refusal>,
}

impl Locking {
    /// Nothing of so many participants has come yet.
    pub(super) fn new(is_whole: bool, participants: usize) -> Locking {
        Locking {
            gathered: Gathered::new(is_whole),
            answers_left: AnswersLeft::new(participants),
            refusal: None,
        }
    }

    /// Takes in what a participant with locks on `scope` answers. Returns whether that is the first refusal.
    pub(super) fn take_answer(&mut self, scope: &Scope, bytes: &[u8]) -> bool {
        let refusal = match StepAnswer::decode(bytes) {
            StepAnswer::Content(told) => match self.take_keys(scope, told) {
                Some(()) => return false,
                None => Refusal::Failed(INTERNAL_ERROR.to_vec()),
            },
            StepAnswer::Unknown => Refusal::Unknown,
            StepAnswer::TooLate => Refusal::TooLate,
            StepAnswer::Behind => Refusal::Behind,
            StepAnswer::Error(_) | StepAnswer::Done | StepAnswer::Decided | StepAnswer::NeverWas => {
                Refusal::Failed(bytes.to_vec())
            }
        };
        let is_first = self.refusal.is_none();
        if (self.refusal.as_ref()).is_none_or(|earlier| earlier.weight() < refusal.weight()) {
            self.refusal = Some(refusal);
        }
        is_first
    }

    /// Reads what a participant tells; `None` if it is damaged.
    fn take_keys(&mut self, scope: &Scope, told: &[u8]) -> Option<()> {
        let mut fields = FieldReader(told);
        self.gathered.is_watched_key_modified |= fields.byte()? != 0;
        self.gathered.raise_last_version(fields.number()?);
        if let Some(map) = fields.optional_bytes()? {
            self.gathered.set_database_map(DatabaseMap::decode(map)?);
        }
        if let Scope::Keys(keys) = scope {
            for key in keys {
                self.gathered.add(key.clone(), &mut fields)?;
            }
        }
        Some(())
    }
}

/// See [`Phase::RunningEverywhere`].
pub(super) struct RunningEverywhere {
    pub(super) merging: Merging,
    /// A shard's sync has failed, so that nothing is known of its part.
    pub(super) is_unknown: bool,
}

/// See [`Phase::Preparing`].
pub(super) struct Prepared {
    pub(super) ran: Ran,
    /// What is written to each shard, the primary first.
    pub(super) parts: Vec<Part>,
}

/// A destination, and one of its shards.
pub(super) type ShardAt = (usize, ShardId);

/// See [`Phase::Applying`].
pub(super) struct Applying {
    pub(super) ran: Ran,
    /// The shards with parts, the primary first.
    pub(super) shards: Vec<ShardAt>,
    pub(super) answers_left: AnswersLeft,
    /// A shard has stopped with its part: the restart that it needs applies that.
    pub(super) is_left_to_restart: bool,
}

/// How a transaction ends for its client.
// There is one per transaction, which is moved a few times: a box would cost more.
#[allow(clippy::large_enum_variant)]
pub(super) enum End {
    /// The command has run, and all that it wrote is written.
    Done(Ran),
    /// Nothing was written, and this error says why, in RESP.
    Failed(Vec<u8>),
    /// Whether everything is written is not known before a restart: neither OK nor an error would be true.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(answers: &[StepAnswer<'static>]) -> (Vec<bool>, Option<Refusal>) {
        let mut locking = Locking::new(false, answers.len());
        let first = answers.iter().map(|answer| match answer {
            StepAnswer::Error(text) => locking.take_answer(&Scope::Everything, text),
            fixed => locking.take_answer(&Scope::Everything, fixed.fixed()),
        });
        (first.collect(), locking.refusal)
    }

    #[test]
    fn what_is_known_least_of_a_refusal_outweighs_the_others() {
        let (too_late, behind, unknown) = (StepAnswer::TooLate, StepAnswer::Behind, StepAnswer::Unknown);
        let failed = |text: &[u8]| Some(Refusal::Failed(text.to_vec()));
        let error = StepAnswer::Error(b"-ERR a\r\n");
        assert_eq!(answered(&[too_late]), (vec![true], Some(Refusal::TooLate)));
        assert_eq!(
            answered(&[behind, too_late]),
            (vec![true, false], Some(Refusal::Behind))
        );
        assert_eq!(
            answered(&[too_late, behind]),
            (vec![true, false], Some(Refusal::Behind))
        );
        let earlier = answered(&[behind, error, StepAnswer::Error(b"-ERR b\r\n")]);
        assert_eq!(earlier, (vec![true, false, false], failed(b"-ERR a\r\n")));
        assert_eq!(answered(&[unknown, error]), (vec![true, false], Some(Refusal::Unknown)));
    }

    #[test]
    fn keys_are_locked_once_each_at_the_executor_that_has_them() {
        let key = |name: &str| (0, name.as_bytes().to_vec());
        let destination_of = |key: &[u8]| usize::from(key[0] - b'a');
        let mut locks = Locks::new(Some(vec![key("c1"), key("a"), key("c2"), key("c1")]), 3, destination_of);
        let destinations = |locks: &Locks| -> Vec<usize> {
            let participants = locks.participants.iter();
            participants.map(|participant| participant.destination).collect()
        };
        assert_eq!((destinations(&locks), locks.is_whole), (vec![0, 2], false));
        assert!(locks.has(2) && !locks.has(1));
        assert_eq!(locks.take_keys(), [key("a"), key("c1"), key("c2")]);
        let everything = Locks::new(None, 3, destination_of);
        assert_eq!((destinations(&everything), everything.is_whole), (vec![0, 1, 2], true));
    }

    #[test]
    fn the_last_answer_of_a_round_is_told_from_those_before() {
        let mut left = AnswersLeft::new(3);
        assert_eq!(
            [left.take_one(), left.take_one(), left.take_one()],
            [false, false, true]
        );
    }
}
