//! Commands whose keys lie on several storage executors: each runs as a transaction, and this executor coordinates
//! those of its clients.
//!
//! One goes so: every executor with keys of it is asked to lock them and to say what is under them (the schedule
//! step; all at once, one trip). When all have, the handler runs here, on what was said ([`Gathered`]); if it needs
//! more than came along, it runs again on a thread that may wait for the answers. What it has written is split by
//! shard. The first shard commits the redo record and its part, then the others theirs; each part goes with the locks.
//! Then the client has its reply. A transaction that has written to one shard, or none, needs no record.
//!
//! A client that goes away changes nothing: a transaction belongs to the executor, and ends.

use crate::channel::destinations::Destinations;
use crate::channel::message::{Batch, Caller, Priority, RequestId, Response};
use crate::channel::responses::{Responses, responses};
use crate::channel::router::Router;
use crate::channel::step_answers::{StepAnswer, decode_keys, decode_members};
use crate::channel::step_arguments::{Apply, Forget, Prepare, Question, Resolve, Schedule, encode_id};
use crate::command::exec_request::parts_of_exec;
use crate::command::{
    self, Command, Merge, PIECES_NEXT, RUNS_SCRIPT, Runs, TRANSACTION_APPLY, TRANSACTION_FORGET,
    TRANSACTION_KEEP_IN_DOUBT, TRANSACTION_PREPARE, TRANSACTION_READ, TRANSACTION_RELEASE, TRANSACTION_RESOLVE,
    TRANSACTION_RUN, TRANSACTION_RUN_BEHIND, TRANSACTION_SCHEDULE, WATCHES_DROP,
};
use crate::commands::blocking::Waiting;
use crate::commands::effects::Effects;
use crate::commands::{Context, StorageHandlers};
use crate::error::CommandError;
use crate::executor::handed_back::HandedBack;
use crate::executor::outbox;

use crate::network::connection::{Awaited, Connection, MoveOut, UNREADY_BYTES_CHECKED_MIN};
use crate::network::dispatch::{APPLY_DEADLINE, reply_suppressed};
use crate::network::merging::Merging;
use crate::network::multi::Executing;
use crate::network::network_executor::NetworkExecutor;
use crate::panics::{self, Panicked};
use crate::protocol::{Arguments, OwnedArguments, Reply};
use crate::registry::metrics::count_ran;
use crate::scripts::registry::ScriptSeat;
use crate::slots::{ShardId, Slot, slots_of};
use crate::storage::database::{Column, Direction};
use crate::storage::encoding::{DatabaseMap, Type};
use crate::storage::fields::FieldReader;
use crate::storage::gathered::{Gathered, KeyRange, KeysFound, Member, Range, Remote};
use crate::storage::keyspace::Keyspace;
use crate::storage::redo::{Part, RECORD_BYTES_MAX, encode_parts, parts_of};
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId, next_transaction_id};
use crate::storage::undeclared::Undeclared;
use crate::storage::view::View;
use slab::Slab;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests whose id names such a connection, or a higher one, are steps: the two below, and those of nobody.
pub(super) const STEPS_FROM: u32 = FORGETTING;

/// The place of the connection in the id of a transaction's step.
const STEPS: u32 = u32::MAX - 1;

/// The same for the deletion of redo records.
const FORGETTING: u32 = u32::MAX - 2;

/// Nobody waits for this step's response.
const NOBODY: u32 = u32::MAX;

/// Transactions that run at once on threads of their own; others wait for their turn.
pub(crate) const THREADS_MAX: usize = 16;

/// How often a transaction locks what its handler was found to need beyond what was locked; then it locks everything.
/// One that finds its keys by what others write meanwhile might never have them all.
const ROUNDS_OF_MORE_KEYS_MAX: u32 = 3;

/// How long such a thread waits for an answer before it offers again what a channel did not take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// How long a transaction waits before it begins again behind its client's earlier commands: about as long as another
/// one takes.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);

/// The answer to a transaction whose redo record was taken back with other writes of its shard.
const NOT_COMMITTED: &[u8] = b"-ERR the transaction could not be committed and was rolled back\r\n";

/// What a transaction is to do once everything is locked.
pub(super) enum Work {
    /// Run a handler on its keys.
    Handler,
    /// Run the command on every executor, and merge the replies.
    Everywhere(Merge),
}

/// Where a transaction has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The keys are being locked.
    Scheduling,
    /// The handler runs on a thread, or the command on all executors.
    Running,
    /// The primary commits the redo record.
    Preparing,
    /// What became of that is not known: the home is asked.
    Resolving,
    /// The shards commit their parts.
    Applying,
}

/// What is special in an EXEC.
pub(super) struct ExecOnSeveral {
    /// What it runs beside, on this executor.
    pub(super) executing: Option<Executing>,
    /// The storage executors that know of keys which the client watches.
    pub(super) watched_destinations: Vec<usize>,
    /// Whether it may write.
    pub(super) writes: bool,
}

/// Whose transaction it is, and where its reply goes.
struct Asker {
    connection: u32,
    generation: u32,
    sequence: u32,
    caller: Caller,
    priority: Priority,
}

impl Asker {
    fn of(connection: &Connection, sequence: u32) -> Asker {
        Asker {
            connection: connection.index,
            generation: connection.generation,
            sequence,
            caller: connection.session.borrow().caller(),
            // Behind its client's earlier commands.
            priority: match connection.low_out.get() > 0 {
                true => Priority::Low,
                false => Priority::Normal,
            },
        }
    }
}

/// What it locks on one executor.
struct Participant {
    destination: usize,
    scope: Scope,
}

/// A transaction under way.
struct Coordination {
    connection: u32,
    generation: u32,
    sequence: u32,
    command: &'static Command,
    handlers: StorageHandlers,
    /// Where it runs scripts, once it is on a thread that may.
    script_seat: Option<ScriptSeat>,
    work: Work,
    arguments: OwnedArguments,
    /// Of an EXEC.
    exec: Option<ExecOnSeveral>,
    caller: Caller,
    deadline: Instant,
    priority: Priority,
    mode: Mode,
    string_bytes_max: usize,
    /// The seed of its handler, whenever that runs: what is random must not name other keys the next time.
    seed: u64,
    /// The storage executor that has handed it back, and lets the client's later commands wait.
    handed_back_by: Option<usize>,
    /// How often it has locked more than it named.
    rounds_of_more_keys: u32,
    participants: Vec<Participant>,
    id: TransactionId,
    phase: Phase,
    /// Which round of steps is out: responses to earlier ones are late and say nothing new.
    round: u32,
    responses_left: usize,
    is_refused: bool,
    /// It was refused because an earlier command of its client waits.
    is_behind: bool,
    error: Option<Vec<u8>>,
    /// What became of it cannot be known before a restart, as far as is known.
    is_unknown: bool,
    /// What was answered to that question was taken back.
    asks_again: bool,
    /// The client's next commands are read again.
    has_gone_on: bool,
    gathered: Gathered,
    /// What the handler did beside writing: given out when all is written.
    effects: Effects,
    merging: Option<Merging>,
    /// It has found nothing and waits: for streams, or for the source of a move.
    waits: Option<Waiting>,
    /// It is a move that has waited: until when, and its rank among those that wait.
    waited: Option<(Option<Instant>, Option<u64>)>,
    reply: Vec<u8>,
    parts: Vec<Part>,
    took_ns: u64,
    /// What of it is counted as held for the client.
    held_bytes: usize,
}

/// A transaction that is done but for its redo record and the notes of it.
struct Finished {
    id: TransactionId,
    primary: (usize, ShardId),
    others: Vec<(usize, ShardId)>,
}

/// The transactions of one network executor.
#[derive(Default)]
pub(super) struct Transactions {
    /// `None` while one is being worked on.
    under_way: Slab<Option<Box<Coordination>>>,
    /// Which of the threads that may run at once do.
    seats: [bool; THREADS_MAX],
    /// Those that wait for a thread.
    waiting: VecDeque<usize>,
    finished: Vec<Finished>,
    /// By primary: those whose redo records are being deleted.
    forgetting: Slab<Vec<Finished>>,
}

impl Transactions {
    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }
}

impl NetworkExecutor {
    /// Begins a transaction on `places`, or on everything (`None`). What follows on the connection is not read before
    /// its writes are on their way, so that it finds them.
    pub(super) fn coordinate(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        work: Work,
        arguments: Arguments<'_>,
        places: Option<Vec<DatabaseKey>>,
        deadline: Instant,
    ) {
        let asked = (command, work, OwnedArguments::of(arguments.iter()));
        self.coordinate_exec(connection, asked, places, None, deadline);
    }

    /// The same for an EXEC, or what is none.
    pub(super) fn coordinate_exec(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        asked: (&'static Command, Work, OwnedArguments),
        places: Option<Vec<DatabaseKey>>,
        exec: Option<ExecOnSeveral>,
        deadline: Instant,
    ) {
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        let asker = Asker::of(connection, sequence);
        let coordination = self.coordination(asker, asked, places, exec, deadline);
        self.begin(Some(connection), coordination, next_transaction_id());
    }

    /// A storage executor hands back a command that needs more than its keys there: runs it as a transaction on what it
    /// names and what it was found to need, even if its client is gone.
    pub(super) fn take_back(self: &Rc<Self>, batch: &Batch, response: &Response) {
        let handed_back = HandedBack::decode(batch.reply(response)).expect("an executor encodes what it hands back");
        let (id, command) = (response.id, response.command);
        let connection = self.open_connection(id.connection, id.generation);
        let executing = connection.as_ref().and_then(|connection| {
            if batch.priority == Priority::Low {
                connection.low_out.set(connection.low_out.get().saturating_sub(1));
            }
            let executing = connection.take_executing(id.sequence)?;
            connection.end_coordinating();
            Some(executing)
        });
        let arguments = handed_back.arguments.get();
        let exec = (command.runs == Runs::Exec).then(|| ExecOnSeveral {
            executing,
            watched_destinations: match handed_back.watched.is_empty() {
                true => Vec::new(),
                false => vec![batch.destination],
            },
            writes: command.writes(arguments),
        });
        let places = match handed_back.undeclared {
            Undeclared::Everything => None,
            Undeclared::Keys(undeclared) => {
                let mut places = command::database_keys_of(command, arguments, handed_back.caller.database);
                places.extend(undeclared);
                places.extend(handed_back.watched);
                Some(places)
            }
        };
        let asker = Asker {
            connection: id.connection,
            generation: id.generation,
            sequence: id.sequence,
            caller: handed_back.caller,
            priority: batch.priority,
        };
        let asked = (command, Work::Handler, handed_back.arguments);
        let deadline = Instant::now() + self.request_timeout.get();
        let mut coordination = self.coordination(asker, asked, places, exec, deadline);
        coordination.handed_back_by = Some(batch.destination);
        self.begin(connection.as_ref(), coordination, next_transaction_id());
    }

    /// A move has waited for its source, which is there and locked for the transaction `id`.
    pub(super) fn coordinate_move(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        (command, sequence): (&'static Command, u32),
        moves: MoveOut,
        id: TransactionId,
    ) {
        assert_eq!(command.runs, Runs::Transaction, "only those wait for a source");
        let database = connection.session.borrow().database;
        let places = command::database_keys_of(command, moves.arguments.get(), database);
        let asked = (command, Work::Handler, moves.arguments);
        let deadline = Instant::now() + self.request_timeout.get();
        let asker = Asker::of(connection, sequence);
        let mut coordination = self.coordination(asker, asked, Some(places), None, deadline);
        coordination.waited = Some((moves.until, moves.rank));
        self.begin(Some(connection), coordination, id);
    }

    fn begin(self: &Rc<Self>, connection: Option<&Rc<Connection>>, coordination: Coordination, id: TransactionId) {
        if let Some(connection) = connection {
            connection.begin_coordinating();
        }
        self.metrics.transactions.add(1);
        // From here on it belongs to the executor, and others wait for its locks.
        let _uncontained = panics::uncontained();
        let number = self.transactions.borrow_mut().under_way.insert(None);
        self.schedule(number, Box::new(coordination), id);
    }

    fn coordination(
        &self,
        asker: Asker,
        (command, work, arguments): (&'static Command, Work, OwnedArguments),
        places: Option<Vec<DatabaseKey>>,
        exec: Option<ExecOnSeveral>,
        deadline: Instant,
    ) -> Coordination {
        let writes = exec.as_ref().map_or(command.may_write(), |exec| exec.writes);
        let is_whole = places.is_none();
        let merging = match work {
            Work::Everywhere(merge) => Some(Merging::new(merge, asker.caller.version, self.destination_count())),
            Work::Handler => None,
        };
        Coordination {
            connection: asker.connection,
            generation: asker.generation,
            sequence: asker.sequence,
            command,
            handlers: self.handlers.storage,
            script_seat: None,
            work,
            arguments,
            exec,
            caller: asker.caller,
            deadline,
            priority: asker.priority,
            mode: match writes {
                true => Mode::Exclusive,
                false => Mode::Shared,
            },
            string_bytes_max: self.settings.borrow().proto_max_bulk_len.as_usize(),
            seed: crate::clock::unix_us(),
            handed_back_by: None,
            rounds_of_more_keys: 0,
            participants: self.participants_of(places),
            id: 0,
            phase: Phase::Scheduling,
            round: 0,
            responses_left: 0,
            is_refused: false,
            is_behind: false,
            error: None,
            is_unknown: false,
            asks_again: false,
            has_gone_on: false,
            gathered: Gathered::new(is_whole),
            effects: Effects {
                classes: self.settings.borrow().notify_keyspace_events,
                is_monitored: self.server.pubsub.is_monitored(),
                ..Effects::default()
            },
            merging,
            waits: None,
            waited: None,
            reply: Vec::new(),
            parts: Vec::new(),
            took_ns: 0,
            held_bytes: 0,
        }
    }

    fn destination_count(&self) -> usize {
        self.server.router.executor_count()
    }

    fn participants_of(&self, places: Option<Vec<DatabaseKey>>) -> Vec<Participant> {
        let Some(mut places) = places else {
            let everything = |destination| Participant {
                destination,
                scope: Scope::Everything,
            };
            return (0..self.destination_count()).map(everything).collect();
        };
        places.sort_unstable();
        places.dedup();
        let mut by_destination: Vec<Vec<DatabaseKey>> = vec![Vec::new(); self.destination_count()];
        for place in places {
            by_destination[self.destination_of(&place.1)].push(place);
        }
        let of_destination = |(destination, places): (usize, Vec<DatabaseKey>)| Participant {
            destination,
            scope: Scope::Keys(places),
        };
        let with_keys = by_destination
            .into_iter()
            .enumerate()
            .filter(|(_, places)| !places.is_empty());
        with_keys.map(of_destination).collect()
    }

    /// Asks all executors at once for the locks.
    fn schedule(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>, id: TransactionId) {
        coordination.id = id;
        coordination.phase = Phase::Scheduling;
        coordination.is_refused = false;
        if coordination.participants.is_empty() {
            // A script that has declared no key: it is seen what it needs.
            return self.run_locked(number, coordination);
        }
        let scripts = &self.server.scripts;
        if scripts.any_busy()
            && (coordination.participants.iter()).any(|participant| scripts.is_busy(participant.destination))
        {
            // Its turn would come when the script is over, as that of any other command there.
            let mut reply = Vec::new();
            Reply::new(&mut reply, coordination.caller.version).error(scripts.busy_error().to_string());
            coordination.error = Some(reply);
            return self.finish(number, coordination);
        }
        coordination.begin_round(coordination.participants.len());
        for (part, participant) in coordination.participants.iter().enumerate() {
            let schedule = Schedule {
                id: coordination.id,
                watcher: match &coordination.exec {
                    Some(exec) if exec.watched_destinations.contains(&participant.destination) => {
                        coordination.caller.client_id
                    }
                    _ => 0,
                },
                connection: coordination.connection,
                is_handed_back: coordination.handed_back_by.is_some(),
                mode: coordination.mode,
                scope: participant.scope.clone(),
            };
            self.send_step(
                (number, &coordination),
                &TRANSACTION_SCHEDULE,
                (participant.destination, part),
                &[&schedule.encode()],
            );
        }
        self.wait_for_round(number, coordination);
    }

    /// An earlier command of the client waits for another transaction: begins again when that may be over.
    fn schedule_later(self: &Rc<Self>, number: usize, coordination: Box<Coordination>) {
        let executor = Rc::clone(self);
        glommio::spawn_local(async move {
            glommio::timer::sleep(BEHIND_PAUSE).await;
            executor.schedule(number, coordination, next_transaction_id());
        })
        .detach();
    }

    fn wait_for_round(&self, number: usize, coordination: Box<Coordination>) {
        if let Some(place) = self.transactions.borrow_mut().under_way.get_mut(number) {
            *place = Some(coordination);
        }
    }

    fn send_step(
        &self,
        (number, coordination): (usize, &Coordination),
        step: &'static Command,
        (destination, part): (usize, usize),
        arguments: &[&[u8]],
    ) {
        let id = RequestId {
            connection: STEPS,
            generation: number as u32,
            sequence: coordination.round,
            part: part as u32,
        };
        // What is begun is ended, however long it waits.
        let deadline = match coordination.phase {
            Phase::Scheduling => coordination.deadline,
            _ => Instant::now() + APPLY_DEADLINE,
        };
        let target = (destination, coordination.priority);
        self.push_step(target, id, step, coordination.caller, deadline, arguments);
    }

    fn push_step(
        &self,
        target: (usize, Priority),
        id: RequestId,
        step: &'static Command,
        caller: Caller,
        deadline: Instant,
        arguments: &[&[u8]],
    ) {
        let words = std::iter::once(step.name.as_bytes()).chain(arguments.iter().copied());
        self.destinations
            .borrow_mut()
            .push(target, id, step, caller, deadline, words);
        self.flush_wanted.notify();
    }

    /// Releases what is locked on a destination, or will be.
    fn release(&self, coordination: &Coordination, destination: usize) {
        self.send_release(
            (destination, coordination.priority),
            coordination.id,
            coordination.caller,
        );
    }

    fn release_all(&self, coordination: &Coordination) {
        for participant in &coordination.participants {
            self.release(coordination, participant.destination);
        }
    }

    /// Releases the source of a move whose client is gone.
    pub(super) fn release_handed_over(&self, destination: usize, id: TransactionId) {
        self.send_release((destination, Priority::Normal), id, Caller::default());
    }

    fn send_release(&self, target: (usize, Priority), id: TransactionId, caller: Caller) {
        self.tell(target, &TRANSACTION_RELEASE, caller, &encode_id(id));
    }

    /// The command is over, or its writes are on their way: what waits behind it where it was handed back may run.
    fn run_behind(&self, coordination: &mut Coordination) {
        if let Some(destination) = coordination.handed_back_by.take() {
            let target = (destination, coordination.priority);
            self.tell(target, &TRANSACTION_RUN_BEHIND, coordination.caller, b"");
        }
    }

    /// Sends a step whose response nobody waits for.
    fn tell(&self, target: (usize, Priority), step: &'static Command, caller: Caller, argument: &[u8]) {
        let nobody = RequestId {
            connection: STEPS,
            sequence: NOBODY,
            ..RequestId::default()
        };
        let deadline = Instant::now() + APPLY_DEADLINE;
        self.push_step(target, nobody, step, caller, deadline, &[argument]);
    }

    /// A step's response came back.
    pub(super) fn take_step(self: &Rc<Self>, batch: &Batch, response: &Response) {
        if response.id.connection == FORGETTING {
            return self.take_forgotten(response);
        }
        let number = response.id.generation as usize;
        let taken = {
            let mut transactions = self.transactions.borrow_mut();
            let place = transactions.under_way.get_mut(number);
            place.and_then(|place| match place {
                Some(coordination) if coordination.round == response.id.sequence => place.take(),
                _ => None,
            })
        };
        let Some(mut coordination) = taken else { return };
        let bytes = batch.reply(response);
        coordination.took_ns += u64::from(response.took_ns);
        if response.more != 0
            && let Some(merging) = &mut coordination.merging
        {
            // A part of a large reply: the other executors' are needed before any of it can be sent.
            merging.add_piece(response.id.part as usize, bytes);
            let held_bytes = merging.held_bytes();
            self.hold_for_client(&mut coordination, held_bytes);
            if self.client_of(&coordination).is_some() {
                self.ask_for_more(batch.destination, &coordination, response);
                return self.wait_for_round(number, coordination);
            }
            // Nobody gets it any more.
            self.drop_pieces(batch.destination, response.more);
        }
        coordination.responses_left -= 1;
        match coordination.phase {
            Phase::Scheduling => self.take_grant(&mut coordination, response.id.part as usize, bytes),
            Phase::Running => {
                // Of a shard whose sync has failed nothing is known.
                coordination.is_unknown |= bytes.is_empty();
                if let Some(merging) = &mut coordination.merging {
                    merging.add(response.id.part as usize, bytes);
                }
            }
            Phase::Resolving => match StepAnswer::decode(bytes) {
                StepAnswer::Decided => coordination.is_unknown = false,
                StepAnswer::NeverWas => {
                    coordination.is_unknown = false;
                    coordination.error = Some(NOT_COMMITTED.to_vec());
                }
                // Only a restart tells; of any other answer the writes were taken back, too.
                answer if answer.is_of_stopped_shard() => {}
                _ => coordination.asks_again = true,
            },
            Phase::Preparing | Phase::Applying => match StepAnswer::decode(bytes) {
                StepAnswer::Done => {}
                StepAnswer::Error(text) if coordination.error.is_none() => coordination.error = Some(text.to_vec()),
                _ => coordination.is_unknown = true,
            },
        }
        match coordination.responses_left {
            0 => self.end_round(number, coordination),
            _ => self.wait_for_round(number, coordination),
        }
    }

    fn ask_for_more(&self, destination: usize, coordination: &Coordination, response: &Response) {
        let deadline = Instant::now() + APPLY_DEADLINE;
        let target = (destination, coordination.priority);
        let number = response.more.to_be_bytes();
        self.push_step(
            target,
            response.id,
            &PIECES_NEXT,
            coordination.caller,
            deadline,
            &[&number],
        );
    }

    /// Takes in what an executor says of the keys that are locked there.
    fn take_grant(&self, coordination: &mut Coordination, part: usize, bytes: &[u8]) {
        let had_failed = coordination.is_refused || coordination.error.is_some();
        match StepAnswer::decode(bytes) {
            StepAnswer::Content(keys) => {
                if coordination.take_keys(part, keys).is_none() {
                    coordination.error = Some(b"-ERR internal error\r\n".to_vec());
                }
            }
            // A shard's sync has failed, and what it has told of is perhaps not on disk.
            StepAnswer::Unknown => (coordination.error, coordination.is_unknown) = (Some(Vec::new()), true),
            StepAnswer::TooLate => coordination.is_refused = true,
            StepAnswer::Behind => (coordination.is_refused, coordination.is_behind) = (true, true),
            StepAnswer::Error(_) | StepAnswer::Done | StepAnswer::Decided | StepAnswer::NeverWas => {
                coordination.error.get_or_insert_with(|| bytes.to_vec());
            }
        }
        if !had_failed && (coordination.is_refused || coordination.error.is_some()) {
            // At once, so that nobody waits for what will come to nothing.
            self.release_all(coordination);
        }
    }

    /// All responses of a round are here.
    fn end_round(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>) {
        match coordination.phase {
            Phase::Scheduling if coordination.error.is_some() => self.finish(number, coordination),
            Phase::Scheduling if coordination.is_refused => {
                self.metrics.transaction_retries.add(1);
                coordination.gathered = Gathered::new(coordination.gathered.is_whole());
                match std::mem::take(&mut coordination.is_behind) {
                    true => self.schedule_later(number, coordination),
                    false => self.schedule(number, coordination, next_transaction_id()),
                }
            }
            Phase::Scheduling => self.run_locked(number, coordination),
            Phase::Running => {
                if let Some(merging) = &mut coordination.merging {
                    coordination.reply = merging.finish();
                }
                self.release_all(&coordination);
                self.finish(number, coordination);
            }
            Phase::Preparing if coordination.is_unknown => self.resolve(number, coordination),
            Phase::Resolving if std::mem::take(&mut coordination.asks_again) => self.resolve(number, coordination),
            Phase::Resolving if coordination.is_unknown => {
                // The primary has stopped, and its log has the record or not. Only a restart tells.
                self.keep_in_doubt(&coordination);
                self.finish(number, coordination);
            }
            Phase::Preparing | Phase::Resolving if coordination.error.is_some() => {
                self.release_all(&coordination);
                self.finish(number, coordination);
            }
            Phase::Preparing | Phase::Resolving => self.apply(number, coordination),
            Phase::Applying => {
                let is_redone = coordination.parts.len() > 1;
                // With a record, what a shard could not do the restart will do that it needs.
                coordination.is_unknown |= is_redone && coordination.error.is_some();
                if is_redone && !coordination.is_unknown {
                    self.note_finished(&coordination);
                }
                self.finish(number, coordination);
            }
        }
    }

    /// Everything is locked: runs the command.
    fn run_locked(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>) {
        if let Work::Everywhere(_) = coordination.work {
            coordination.phase = Phase::Running;
            coordination.begin_round(coordination.participants.len());
            let words: Vec<Vec<u8>> = coordination.arguments.get().iter().map(<[u8]>::to_vec).collect();
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            for (part, participant) in coordination.participants.iter().enumerate() {
                let target = (participant.destination, part);
                self.send_step((number, &coordination), &TRANSACTION_RUN, target, &words);
            }
            return self.wait_for_round(number, coordination);
        }
        if coordination.runs_script() {
            // It may take long, and other clients' sockets are here.
            return self.run_on_thread(number, coordination);
        }
        let began = Instant::now();
        let outcome = coordination.run_handler();
        coordination.took_ns += began.elapsed().as_nanos() as u64;
        if coordination.gathered.has_missed {
            return self.run_on_thread(number, coordination);
        }
        self.write(number, coordination, outcome);
    }

    /// Runs the handler where it can ask for what did not come along.
    fn run_on_thread(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>) {
        let seat = {
            let mut transactions = self.transactions.borrow_mut();
            let Some(seat) = transactions.seats.iter().position(|is_taken| !is_taken) else {
                transactions.under_way[number] = Some(coordination);
                transactions.waiting.push_back(number);
                return;
            };
            transactions.seats[seat] = true;
            seat
        };
        let script_seat = self.destination_count() + self.index * THREADS_MAX + seat;
        self.server.scripts.set_transaction(script_seat, coordination.id);
        coordination.script_seat = Some(ScriptSeat {
            scripts: Arc::clone(&self.server.scripts),
            number: script_seat,
        });
        let (reply_to, responses) = responses();
        let asking = Asking {
            destinations: self.destinations.borrow().to_the_same(reply_to),
            responses,
            router: self.server.router.clone(),
        };
        let background = self.server.core_map.background.clone();
        let (sender, receiver) = flume::bounded(1);
        // The thread gets the transaction when there is one.
        let (handed, taken) = flume::bounded::<Box<Coordination>>(1);
        let spawned = panics::spawn("transaction", move || {
            if let Err(error) = crate::topology::pin_current_thread(&background) {
                tracing::warn!(%error, "a transaction's thread could not be pinned");
            }
            let Ok(mut coordination) = taken.recv() else { return };
            coordination.gathered.begin_again();
            coordination.gathered.remote = Some(Box::new(asking));
            let began = Instant::now();
            let outcome = coordination.run_handler();
            coordination.gathered.remote = None;
            coordination.took_ns += began.elapsed().as_nanos() as u64;
            // The executor waits for it, unless it has stopped.
            let _ = sender.send((coordination, outcome));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "a transaction could not be given a thread");
            self.transactions.borrow_mut().seats[seat] = false;
            return self.write(number, coordination, Err(CommandError::Internal));
        }
        // The channel is empty, and the thread has its other end.
        let _ = handed.send(coordination);
        let executor = Rc::clone(self);
        glommio::spawn_local(async move {
            let ran = receiver.recv_async().await;
            let next = {
                let mut transactions = executor.transactions.borrow_mut();
                transactions.seats[seat] = false;
                let next = transactions.waiting.pop_front();
                next.and_then(|next| Some((next, transactions.under_way.get_mut(next)?.take()?)))
            };
            // The thread answers in any case: a panic of its own would have ended the process.
            if let Ok((coordination, outcome)) = ran {
                executor.write(number, coordination, outcome);
            }
            if let Some((number, coordination)) = next {
                executor.run_on_thread(number, coordination);
            }
            executor.flush_touched();
        })
        .detach();
    }

    /// The handler has run: sends what it has written on its way.
    fn write(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>, outcome: Result<(), CommandError>) {
        if let Some(undeclared) = coordination.gathered.take_undeclared() {
            return self.lock_more(number, coordination, undeclared);
        }
        self.forget_reach(&coordination);
        let outcome = outcome.and_then(|()| coordination.split_writes(&self.server.router));
        if let Err(error) = outcome {
            coordination.reply.clear();
            Reply::new(&mut coordination.reply, coordination.caller.version).error(error.to_string());
            coordination.gathered.begin_again();
            coordination.effects.clear();
        }
        self.count_inner(&mut coordination);
        let held_bytes = coordination.reply.len();
        self.hold_for_client(&mut coordination, held_bytes);
        let router = &self.server.router;
        let has_part = |destination: usize| {
            (coordination.parts.iter()).any(|part| usize::from(router.owner(part.shard).0) == destination)
        };
        for participant in coordination
            .participants
            .iter()
            .filter(|participant| !has_part(participant.destination))
        {
            self.release(&coordination, participant.destination);
        }
        match coordination.parts.len() {
            0 => self.finish(number, coordination),
            1 => self.apply(number, coordination),
            _ => self.prepare(number, coordination),
        }
    }

    /// The handler has needed more than is locked, so nothing that it did stands: runs it again when that is locked,
    /// too.
    fn lock_more(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>, undeclared: Undeclared) {
        self.release_all(&coordination);
        self.metrics.transaction_retries.add(1);
        coordination.rounds_of_more_keys += 1;
        let places = match undeclared {
            Undeclared::Keys(more) if coordination.rounds_of_more_keys <= ROUNDS_OF_MORE_KEYS_MAX => {
                let mut places = more;
                for participant in std::mem::take(&mut coordination.participants) {
                    match participant.scope {
                        Scope::Keys(locked) => places.extend(locked),
                        Scope::Everything => unreachable!("what is locked is everything"),
                    }
                }
                Some(places)
            }
            Undeclared::Keys(_) | Undeclared::Everything => None,
        };
        coordination.gathered = Gathered::new(places.is_none());
        coordination.participants = self.participants_of(places);
        coordination.deadline = Instant::now() + self.request_timeout.get();
        self.schedule(number, coordination, next_transaction_id());
    }

    /// Scripts of which it was remembered that they need more than they declare, and that one executor could have run
    /// this time: the next time one tries to.
    fn forget_reach(&self, coordination: &Coordination) {
        if !coordination.runs_script() {
            return;
        }
        let was_foreseen = coordination.handed_back_by.is_none() && coordination.rounds_of_more_keys == 0;
        let is_on_one = match coordination.gathered.is_whole() {
            true => was_foreseen && !coordination.gathered.used_everything,
            false => coordination.participants.len() <= 1,
        };
        if is_on_one {
            let scripts = &self.server.scripts;
            let arguments = coordination.arguments.get();
            match coordination.command.runs {
                Runs::Exec => {
                    let parts = parts_of_exec(arguments).filter(|(_, part, _)| part.flags.has(RUNS_SCRIPT));
                    parts.for_each(|(_, _, arguments)| scripts.forget_reach(arguments.get(1)));
                }
                _ => scripts.forget_reach(arguments.get(1)),
            }
        }
    }

    /// Counts the commands that were parts of an EXEC, and what was looked up.
    fn count_inner(&self, coordination: &mut Coordination) {
        if coordination.command.counts_look_ups() {
            self.metrics
                .keyspace_hits
                .add(u64::from(coordination.gathered.touched().found));
            self.metrics
                .keyspace_misses
                .add(u64::from(coordination.gathered.touched().missed));
        }
        let (commands, errors) = (&self.metrics.commands, &self.metrics.errors);
        let calls = count_ran(&mut coordination.effects, commands, errors);
        self.metrics.commands_processed.add(calls);
        let shown = std::mem::take(&mut coordination.effects.shown);
        if !shown.is_empty() {
            self.server.pubsub.show_to_monitors(&shown);
        }
    }

    fn prepare(&self, number: usize, mut coordination: Box<Coordination>) {
        coordination.phase = Phase::Preparing;
        coordination.begin_round(1);
        let destination_of = |part: &Part| usize::from(self.server.router.owner(part.shard).0);
        let primary = destination_of(&coordination.parts[0]);
        let is_only = coordination.parts[1..]
            .iter()
            .all(|part| destination_of(part) != primary);
        let argument = Prepare::encode(coordination.id, is_only, &coordination.parts);
        self.send_step(
            (number, &coordination),
            &TRANSACTION_PREPARE,
            (primary, 0),
            &[&argument],
        );
        self.wait_for_round(number, coordination);
    }

    /// Writes of the primary were taken back, or its log could not be synced: asks whether the redo record was among them.
    fn resolve(&self, number: usize, mut coordination: Box<Coordination>) {
        coordination.phase = Phase::Resolving;
        coordination.begin_round(1);
        let shard = coordination.parts[0].shard;
        let primary = usize::from(self.server.router.owner(shard).0);
        let id = coordination.id;
        self.send_step(
            (number, &coordination),
            &TRANSACTION_RESOLVE,
            (primary, 0),
            &[&Resolve { id, shard }.encode()],
        );
        self.wait_for_round(number, coordination);
    }

    /// Nobody can tell before a restart whether a transaction is decided.
    fn keep_in_doubt(&self, coordination: &Coordination) {
        for participant in &coordination.participants {
            let target = (participant.destination, coordination.priority);
            let id = encode_id(coordination.id);
            self.tell(target, &TRANSACTION_KEEP_IN_DOUBT, coordination.caller, &id);
        }
    }

    /// Sends the parts to their shards: it is decided that all of them are written.
    fn apply(&self, number: usize, mut coordination: Box<Coordination>) {
        coordination.phase = Phase::Applying;
        let has_record = coordination.parts.len() > 1;
        let mut by_destination: Vec<Vec<u8>> = vec![Vec::new(); self.destination_count()];
        // The primary has its part already.
        for part in coordination.parts.iter().skip(usize::from(has_record)) {
            let argument = &mut by_destination[usize::from(self.server.router.owner(part.shard).0)];
            if argument.is_empty() {
                *argument = Apply::begin(coordination.id, has_record);
            }
            encode_parts(argument, [part]);
        }
        coordination.begin_round(by_destination.iter().filter(|argument| !argument.is_empty()).count());
        for (destination, argument) in by_destination
            .iter()
            .enumerate()
            .filter(|(_, argument)| !argument.is_empty())
        {
            self.send_step(
                (number, &coordination),
                &TRANSACTION_APPLY,
                (destination, 0),
                &[argument],
            );
        }
        self.run_behind(&mut coordination);
        // What the client sends now follows these to the same executors. Commands of an EXEC that run here may change
        // what that means, so they come first.
        let goes_on_here = (coordination.exec.as_ref()).is_some_and(|exec| exec.executing.is_some());
        if !goes_on_here {
            self.let_go(&mut coordination);
        }
        self.wait_for_round(number, coordination);
    }

    /// The connection, if it is still the one.
    fn client_of(&self, coordination: &Coordination) -> Option<Rc<Connection>> {
        self.open_connection(coordination.connection, coordination.generation)
    }

    /// So many bytes of a transaction's reply are here for its client. A client for whom too much is here goes, as one
    /// that does not read.
    fn hold_for_client(&self, coordination: &mut Coordination, bytes: usize) {
        let Some(connection) = self.client_of(coordination) else {
            return;
        };
        let held = &connection.held_elsewhere;
        let held_before = std::mem::replace(&mut coordination.held_bytes, bytes);
        assert!(held.get() >= held_before, "a transaction held more than all together");
        held.set(held.get() - held_before + bytes);
        if bytes >= UNREADY_BYTES_CHECKED_MIN && self.exceeds_output_limit(&connection, Instant::now()) {
            self.close_for_output(&connection);
        } else if bytes < held_before {
            // Its next command may have waited for this.
            self.touch(&connection);
        }
    }

    /// The client's next command may run. Only once: it may be a transaction, too, and then the connection waits for
    /// that.
    fn let_go(&self, coordination: &mut Coordination) {
        let has_gone_on = std::mem::replace(&mut coordination.has_gone_on, true);
        if let Some(connection) = self.client_of(coordination).filter(|_| !has_gone_on) {
            connection.end_coordinating();
            self.room.notify();
        }
    }

    /// Answers the client. The transaction is over.
    fn finish(self: &Rc<Self>, number: usize, mut coordination: Box<Coordination>) {
        self.transactions.borrow_mut().under_way.remove(number);
        self.hold_for_client(&mut coordination, 0);
        self.run_behind(&mut coordination);
        if coordination.error.is_none() && !coordination.is_unknown {
            let Effects {
                classes,
                events,
                messages,
                ..
            } = &coordination.effects;
            outbox::publish(&self.server.pubsub, *classes, events, messages);
        }
        let Some(connection) = self.client_of(&coordination) else {
            for destination in coordination.exec.iter().flat_map(|exec| &exec.watched_destinations) {
                let target = (*destination, coordination.priority);
                self.tell(target, &WATCHES_DROP, coordination.caller, b"");
            }
            return;
        };
        if coordination.is_unknown {
            // Neither OK nor an error would be true.
            return connection.abort();
        }
        if let Some(waiting) = coordination.waits.take().filter(|_| coordination.error.is_none()) {
            self.let_go(&mut coordination);
            let (command, sequence) = (coordination.command, coordination.sequence);
            if waiting.kind == Type::Stream {
                return self.wait_for_streams(&connection, command, sequence, coordination.arguments.get(), &waiting);
            }
            let until = || {
                let timeout = Some(waiting.timeout_ms).filter(|timeout_ms| *timeout_ms != 0)?;
                Instant::now().checked_add(Duration::from_millis(timeout))
            };
            let (until, rank) = coordination.waited.unwrap_or_else(|| (until(), None));
            let moves = MoveOut {
                arguments: coordination.arguments,
                source: waiting.keys.start,
                until,
                rank,
            };
            return self.wait_for_source(&connection, (command, sequence), moves);
        }
        if let Some(exec) = coordination.exec.take() {
            connection
                .session
                .borrow_mut()
                .transaction
                .forget(&exec.watched_destinations);
            self.forget_watches(&connection);
            let has_run = coordination.error.is_none() && coordination.reply.first() == Some(&0);
            match exec.executing {
                Some(executing) if has_run => {
                    let reply = std::mem::take(&mut coordination.reply);
                    self.count(coordination.command, coordination.took_ns, &reply);
                    return self.exec_ran(&connection, coordination.sequence, executing, &reply);
                }
                Some(executing) => self.show_exec(&connection, &executing),
                None => {}
            }
        }
        let whole = std::mem::take(&mut coordination.reply);
        let reply = coordination.error.take().unwrap_or(whole);
        self.count(coordination.command, coordination.took_ns, &reply);
        let mut replies = connection.replies.borrow_mut();
        replies.complete_owned(coordination.sequence, reply, &mut connection.output.borrow_mut());
        drop(replies);
        self.touch(&connection);
        self.let_go(&mut coordination);
    }

    fn note_finished(&self, coordination: &Coordination) {
        let mut places = coordination
            .parts
            .iter()
            .map(|part| (usize::from(self.server.router.owner(part.shard).0), part.shard));
        let Some(primary) = places.next() else { return };
        self.transactions.borrow_mut().finished.push(Finished {
            id: coordination.id,
            primary,
            others: places.collect(),
        });
    }

    /// Lets the redo records of finished transactions go, many at once.
    pub(super) fn forget_finished(&self) {
        let finished = std::mem::take(&mut self.transactions.borrow_mut().finished);
        let mut by_primary: Vec<Vec<Finished>> = (0..self.destination_count()).map(|_| Vec::new()).collect();
        for transaction in finished {
            by_primary[transaction.primary.0].push(transaction);
        }
        for (destination, transactions) in by_primary.into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let records = transactions.iter().map(|transaction| Forget {
                is_primary: true,
                shard: transaction.primary.1,
                id: transaction.id,
            });
            let argument = Forget::encode_all(records);
            let number = self.transactions.borrow_mut().forgetting.insert(transactions);
            self.send_forget(destination, number as u32, &argument);
        }
    }

    fn send_forget(&self, destination: usize, number: u32, argument: &[u8]) {
        let id = RequestId {
            connection: FORGETTING,
            generation: number,
            ..RequestId::default()
        };
        let deadline = Instant::now() + APPLY_DEADLINE;
        let target = (destination, Priority::Normal);
        self.push_step(
            target,
            id,
            &TRANSACTION_FORGET,
            Caller::default(),
            deadline,
            &[argument],
        );
    }

    /// Redo records are gone: the notes of them may go, too.
    fn take_forgotten(&self, response: &Response) {
        if response.id.generation == NOBODY || response.failed {
            // One that could not be deleted is found by the next start, whose shards all have their notes.
            return;
        }
        let number = response.id.generation as usize;
        let gone = self.transactions.borrow_mut().forgetting.try_remove(number);
        let mut by_destination: Vec<Vec<Forget>> = vec![Vec::new(); self.destination_count()];
        for transaction in gone.into_iter().flatten() {
            for (destination, shard) in transaction.others {
                by_destination[destination].push(Forget {
                    is_primary: false,
                    shard,
                    id: transaction.id,
                });
            }
        }
        for (destination, markers) in by_destination
            .into_iter()
            .enumerate()
            .filter(|(_, markers)| !markers.is_empty())
        {
            self.send_forget(destination, NOBODY, &Forget::encode_all(markers));
        }
    }
}

impl Coordination {
    /// Whether it runs a script, or commands of which one is a script.
    fn runs_script(&self) -> bool {
        let is_script = |command: &Command| command.flags.has(RUNS_SCRIPT);
        match self.command.runs {
            Runs::Exec => parts_of_exec(self.arguments.get()).any(|(_, part, _)| is_script(part)),
            _ => is_script(self.command),
        }
    }

    /// Makes parts of what the handler has written.
    fn split_writes(&mut self, router: &Router) -> Result<(), CommandError> {
        self.parts = parts_of(self.gathered.take_writes(), router.shard_count(), RECORD_BYTES_MAX)?;
        Ok(())
    }

    fn begin_round(&mut self, responses: usize) {
        self.round = (self.round + 1) % NOBODY;
        self.responses_left = responses;
    }

    fn take_keys(&mut self, part: usize, bytes: &[u8]) -> Option<()> {
        let mut fields = FieldReader(bytes);
        self.gathered.is_watched_key_modified |= fields.byte()? != 0;
        self.gathered.note_version(fields.number()?);
        if let Some(map) = fields.optional_bytes()? {
            self.gathered.note_map(DatabaseMap::decode(map)?);
        }
        if let Scope::Keys(places) = &self.participants.get(part)?.scope {
            for place in places {
                self.gathered.add(place.clone(), &mut fields)?;
            }
        }
        Some(())
    }

    /// Runs the handler on what is here.
    fn run_handler(&mut self) -> Result<(), CommandError> {
        let handler = self.handlers.of(self.command).ok_or(CommandError::Internal)?;
        self.reply.clear();
        self.gathered.now_ms = crate::clock::unix_ms();
        self.effects.clear();
        self.effects.forget_ran();
        let mut context = Context {
            arguments: self.arguments.get(),
            reply: Reply::new(&mut self.reply, self.caller.version),
            now_ms: self.gathered.now_ms,
            view: View::Gathered(&mut self.gathered),
            database: self.caller.database,
            seed: self.seed,
            string_bytes_max: self.string_bytes_max,
            client_id: self.caller.client_id,
            is_inner: false,
            handlers: self.handlers,
            script_seat: self.script_seat.as_ref(),
            effects: &mut self.effects,
            pieces: None,
            waits: None,
        };
        let outcome = panics::contain(|| handler(&mut context)).unwrap_or_else(|Panicked| {
            tracing::error!(
                command = self.command.name,
                "a handler panicked; nothing of its transaction is written"
            );
            Err(CommandError::Internal)
        });
        self.waits = context.waits.take().filter(|_| outcome.is_ok());
        outcome
    }
}

/// Asks executors from a thread that may wait.
struct Asking {
    destinations: Destinations,
    responses: Responses,
    router: Router,
}

impl Asking {
    /// Asks the executor that has `key`, and waits.
    fn ask(&mut self, key: &[u8], question: &Question<'_>) -> Result<Vec<u8>, CommandError> {
        let destination = usize::from(self.router.executor_of(Slot::of(key)).0);
        self.ask_at(destination, question)
    }

    fn ask_at(&mut self, destination: usize, question: &Question<'_>) -> Result<Vec<u8>, CommandError> {
        self.send(destination, question);
        self.destinations.flush();
        self.receive().1
    }

    fn send(&mut self, destination: usize, question: &Question<'_>) {
        let words = [TRANSACTION_READ.name.as_bytes(), &question.encode()];
        self.destinations.push(
            (destination, Priority::Normal),
            RequestId::default(),
            &TRANSACTION_READ,
            Caller::default(),
            Instant::now() + APPLY_DEADLINE,
            words,
        );
    }

    /// Waits for the answer to a question that was sent; returns whose it is, and it.
    fn receive(&mut self) -> (usize, Result<Vec<u8>, CommandError>) {
        loop {
            match self.responses.next_within(ANSWER_PATIENCE) {
                Ok(Some(batch)) => {
                    let reply = batch.responses.first().map(|response| batch.reply(response).to_vec());
                    let destination = batch.destination;
                    self.destinations.recycle(batch);
                    let answer = match StepAnswer::decode(reply.as_deref().unwrap_or_default()) {
                        StepAnswer::Content(content) => Ok(content.to_vec()),
                        StepAnswer::Error(text) => {
                            let text = String::from_utf8_lossy(&text[1..]).trim_end().to_owned();
                            Err(CommandError::text(text))
                        }
                        _ => Err(CommandError::Internal),
                    };
                    return (destination, answer);
                }
                Ok(None) => {
                    // A channel that did not take it is offered it again, unless nobody is left to take it.
                    let (_, given_up) = self.destinations.retry();
                    if !given_up.is_empty() {
                        return (0, Err(CommandError::Internal));
                    }
                }
                Err(flume::RecvError::Disconnected) => return (0, Err(CommandError::Internal)),
            }
        }
    }
}

impl Remote for Asking {
    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        let answer = self.ask(&owner.key, &Question::Member(Cow::Borrowed(owner), column, member))?;
        let value = FieldReader(&answer).optional_bytes().ok_or(CommandError::Internal)?;
        Ok(value.map(<[u8]>::to_vec))
    }

    fn members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: Range<'_>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<Member>, CommandError> {
        let question = Question::Members(Cow::Borrowed(owner), column, range, direction, count as u64);
        let answer = self.ask(&owner.key, &question)?;
        decode_members(&answer).ok_or(CommandError::Internal)
    }

    fn keys_at(&mut self, places: &[DatabaseKey]) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut by_destination: Vec<Vec<DatabaseKey>> = vec![Vec::new(); self.router.executor_count()];
        let destination_of = |place: &DatabaseKey| usize::from(self.router.executor_of(Slot::of(&place.1)).0);
        let destinations: Vec<usize> = places.iter().map(destination_of).collect();
        for (place, destination) in places.iter().zip(&destinations) {
            by_destination[*destination].push(place.clone());
        }
        let mut asked = 0;
        for (destination, asked_for) in by_destination
            .iter()
            .enumerate()
            .filter(|(_, asked_for)| !asked_for.is_empty())
        {
            self.send(destination, &Question::Keys(Cow::Borrowed(asked_for)));
            asked += 1;
        }
        self.destinations.flush();
        let mut answers: Vec<Result<Vec<u8>, CommandError>> = vec![Ok(Vec::new()); by_destination.len()];
        for _ in 0..asked {
            let (destination, answer) = self.receive();
            answers[destination] = answer;
        }
        // All answers are here, so none can be taken for that to a later question.
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut fields: Vec<FieldReader<'_>> = answers.iter().map(|answer| FieldReader(answer)).collect();
        let known = destinations
            .iter()
            .map(|destination| fields[*destination].bytes().map(<[u8]>::to_vec));
        known.collect::<Option<Vec<_>>>().ok_or(CommandError::Internal)
    }

    fn count(&mut self, database: u8) -> Result<u64, CommandError> {
        let mut count = 0;
        for destination in 0..self.router.executor_count() {
            let answer = self.ask_at(destination, &Question::Count(database))?;
            count += FieldReader(&answer).number().ok_or(CommandError::Internal)?;
        }
        Ok(count)
    }

    fn keys(&mut self, database: u8, range: KeyRange, now_ms: u64) -> Result<KeysFound, CommandError> {
        let shard = self.router.shard_of(Slot(range.slot));
        let shard_end = slots_of(shard, self.router.shard_count()).end;
        let here = KeyRange {
            end: range.end.min(shard_end),
            ..range
        };
        let destination = usize::from(self.router.owner(shard).0);
        let answer = self.ask_at(destination, &Question::KeysOf(database, Cow::Borrowed(&here), now_ms))?;
        let (keys, last) = decode_keys(&answer).ok_or(CommandError::Internal)?;
        let rest = KeyRange {
            slot: last.as_ref().map_or(here.end, |key| Slot::of(key).0),
            after: last,
            end: range.end,
        };
        Ok(KeysFound {
            keys,
            rest: (rest.slot < rest.end).then_some(rest),
        })
    }
}
