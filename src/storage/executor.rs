//! A storage executor: takes what has arrived, runs it, commits once, sends the boxes home.
//!
//! One turn: drain the channel up to `batch-size` requests, in the order of their priorities; run each request's handler
//! on its shard; commit what every shard staged as one write batch (a large one by way of the committer); send back each
//! batch whose replies may leave, and hold the others until the committer and the syncer have caught up with them.
//! `waiting` is what becomes of commands that found nothing yet.

mod waiting;

use super::committer::Committer;
use super::database::DatabaseError;
use super::expiry;
use super::faults;
use super::locks::Mode;
use super::outbox::Outbox;
use super::pieces::{Pieces, RepliesBegun, Written};
use super::reclaimer::Reclaimer;
use super::shard::{RolledBack, Shard, ShardState};
use super::syncer::{SyncReport, Syncer};
use super::transactions::{Parked, Schedule, Step, StepOutcome};
use super::view::{Shards, View};
use super::waiters::Claim;
use crate::channel::message::{
    Batch, Caller, FULL_BOXES_AT_HOME_MAX, Priority, REPLY_BYTES_FULL, Request, RequestId, Response, SEVERAL_SHARDS,
};
use crate::commands::effects::Effects;
use crate::commands::pausing::{Pausing, may_pause};
use crate::commands::table::{self, BLOCKING, Command, INTERNAL, QUIET, READ, Runs, WAIT_DURABLE, WAIT_SOURCE};
use crate::commands::waiting::{Waiting, may_wait};
use crate::commands::{Context, hash};
use crate::config::{Durability, Settings, SharedSettings};
use crate::error::CommandError;
use crate::network::clients::Ticket;
use crate::network::pubsub::PubSub;
use crate::network::tracking::{Reader, Tracking};
use crate::observe::metrics::{ShardMetrics, StorageMetrics};
use crate::preflight;
use crate::protocol::{Arguments, Reply, Span, Version};
use crate::scripts::interpreter;
use crate::scripts::run::Driven;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waiting::{DurableWait, waits_notice};

/// How often an executor does its housekeeping: expiry, stalled commits, metrics. Also what bounds glommio's sleep when
/// a wake is lost to its parking race (PITFALLS 1), so it must not grow.
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(10);

/// Lets the executor's other tasks run and its reactor look at sockets, timers and wakes. A plain yield would only do the
/// former (PITFALLS 2), and a timer that is due when it is first polled neither: this one is due a moment later.
pub async fn reactor_turn() {
    glommio::timer::sleep(REACTOR_TURN_DELAY).await;
}

/// More than the time between making a timer and polling it, less than anybody notices.
const REACTOR_TURN_DELAY: Duration = Duration::from_micros(2);

/// How long the executor may run turn after turn before it lets its reactor look at sockets, timers and wakes.
const BUSY_SPAN_MAX: Duration = Duration::from_micros(500);

/// How long the executor lets a network executor that lies under full boxes work them off: about what it takes to copy
/// a few of them.
const CROWDED_HOME_PAUSE: Duration = Duration::from_millis(1);

/// Where replies lie in a batch is told in 32 bits.
const REPLY_BYTES_MAX: usize = u32::MAX as usize;

/// How often a shard's figures that cost RocksDB a lock are read.
const SLOW_FIGURES_INTERVAL: Duration = Duration::from_millis(1000);

/// How long a shutdown waits for a stalled shard to take its last batch.
const STALLED_AT_SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Normal batches that are served before a waiting low one gets its turn: low ones cost about as much as that many.
const NORMAL_PER_LOW: usize = 16;

/// A turn that was left in the middle of a script, which is the last command it runs.
struct OpenTurn {
    script: Paused,
    /// The script's request is the next that it runs.
    batch: Box<Batch>,
    began: Instant,
    /// It had waited for a transaction, and its client's next commands wait behind it.
    was_parked: bool,
}

/// A script, or a transaction with scripts, that goes on when others have had their turn.
pub(super) struct Paused {
    command: Pausing,
    /// Where its reply begins among those of its batch.
    reply_at: usize,
}

/// Whether a request was run to its end.
pub(super) enum Ran {
    /// It was; with the time then.
    Ended(Instant),
    /// It was left in the middle.
    Paused(Paused),
}

/// Everything that a storage executor owns.
pub struct StorageExecutor {
    pub(super) shards: Shards,
    committer: CommitThread,
    syncer: Syncer,
    reclaimer: Reclaimer,
    settings: SharedSettings,
    settings_version: u64,
    current: Arc<Settings>,
    pub(super) metrics: Arc<StorageMetrics>,
    shard_metrics: Vec<Arc<ShardMetrics>>,
    queue: PriorityQueue,
    held: VecDeque<Box<Batch>>,
    /// Who waits for transactions over several executors.
    pub(super) parked: Parked,
    /// The home of the last full box: others follow when its owner has worked off what lies there.
    full_home: Option<flume::Sender<Box<Batch>>>,
    /// The number of the turn; also the epoch of what it writes.
    turn: u64,
    /// By shard: the last turn of which the syncer and the metrics know that all of it is committed.
    published_epochs: Vec<u64>,
    /// A sweep found a batch with the committer.
    sweep_waits: bool,
    /// Answers to commands that waited, of the turn.
    // Boxes, since it is the box that travels.
    #[allow(clippy::vec_box)]
    woken: Vec<Box<Batch>>,
    /// Those who wait until what was written is on disk.
    durable_waits: Vec<DurableWait>,
    /// What the running command does beside writing and replying.
    effects: Effects,
    /// What commands did that is not committed yet.
    outbox: Outbox,
    random: u64,
    slow_figures_at: Instant,
    /// A script has begun and waits for its next turn: its writes are staged, so nothing else may stage or commit.
    script_is_open: bool,
    /// The script that comes next is known to be long and gets a turn of its own.
    script_is_long: bool,
    /// What the syncer has reported while a script was open and cannot be dealt with before it is over.
    reports_waiting: Vec<SyncReport>,
    /// Its own end of the requests, to wake itself by.
    requests: flume::WeakSender<Box<Batch>>,
}

/// What a storage executor is made of.
pub struct ExecutorParts {
    /// Where it gets its requests from.
    pub requests: flume::WeakSender<Box<Batch>>,
    /// Its shards.
    pub shards: Shards,
    /// Who writes large batches.
    pub committer: CommitThread,
    /// Who waits for the disk.
    pub syncer: Syncer,
    /// Who gives the space of dead collections back.
    pub reclaimer: Reclaimer,
    /// The settings.
    pub settings: SharedSettings,
    /// Where events and messages are published.
    pub pubsub: Arc<PubSub>,
    /// Who is told of outdated keys.
    pub tracking: Arc<Tracking>,
    /// What it counts.
    pub metrics: Arc<StorageMetrics>,
    /// The same by shard, in their order.
    pub shard_metrics: Vec<Arc<ShardMetrics>>,
}

/// What is left of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    /// Pieces, under this number.
    Begun(u64),
    /// It cannot be read to its end.
    Unreadable,
}

impl Rest {
    /// The number of the pieces, 0 if there are none.
    fn number(self) -> u64 {
        match self {
            Rest::Begun(number) => number,
            Rest::None | Rest::Unreadable => 0,
        }
    }
}

/// The committer of an executor's shards, and which batches go there.
pub struct CommitThread {
    /// Its end here.
    pub committer: Arc<Committer>,
    /// The thread, to be joined at the end.
    pub thread: JoinHandle<()>,
    /// Staged writes from which on a batch goes there.
    pub writes_min: usize,
}

/// What has arrived and was not run yet, by priority.
#[derive(Default)]
struct PriorityQueue {
    high: VecDeque<Box<Batch>>,
    normal: VecDeque<Box<Batch>>,
    /// With the number of normal batches that had arrived before: those go first, so that the commands of a connection
    /// keep their order (the sender keeps it the other way round).
    low: VecDeque<(u64, Box<Batch>)>,
    normal_arrived: u64,
    normal_served: u64,
    normal_since_low: usize,
}

impl PriorityQueue {
    fn push(&mut self, batch: Box<Batch>) {
        match batch.priority {
            Priority::High => self.high.push_back(batch),
            Priority::Normal => {
                self.normal_arrived += 1;
                self.normal.push_back(batch);
            }
            Priority::Low => self.low.push_back((self.normal_arrived, batch)),
        }
    }

    fn pop(&mut self) -> Option<Box<Batch>> {
        if let Some(batch) = self.high.pop_front() {
            return Some(batch);
        }
        let low_may_run = self.low.front().is_some_and(|(after, _)| self.normal_served >= *after);
        if low_may_run && (self.normal.is_empty() || self.normal_since_low >= NORMAL_PER_LOW) {
            self.normal_since_low = 0;
            return self.low.pop_front().map(|(_, batch)| batch);
        }
        let batch = self.normal.pop_front()?;
        self.normal_served += 1;
        self.normal_since_low += 1;
        Some(batch)
    }

    /// Puts back the batch that [`PriorityQueue::pop`] gave last: some of its requests are still to be run.
    fn push_back_to_front(&mut self, batch: Box<Batch>) {
        match batch.priority {
            Priority::High => self.high.push_front(batch),
            Priority::Normal => {
                self.normal_served -= 1;
                self.normal.push_front(batch);
            }
            // Those that had to go before it have gone.
            Priority::Low => self.low.push_front((0, batch)),
        }
    }

    fn is_empty(&self) -> bool {
        self.high.is_empty() && self.normal.is_empty() && self.low.is_empty()
    }
}

/// What came of a handler.
struct Handled {
    result: Result<(), CommandError>,
    pieces: Option<Pieces>,
    waits: Option<Waiting>,
    /// It is a script that is to go on.
    is_paused: bool,
    /// What became of it is not known, and the client must not be told either OK or an error.
    is_unknown: bool,
}

impl Handled {
    fn of(result: Result<(), CommandError>) -> Handled {
        Handled {
            result,
            pieces: None,
            waits: None,
            is_paused: false,
            is_unknown: false,
        }
    }
}

/// The client that sent a command is gone, or was answered otherwise.
struct NobodyWaits;

impl StorageExecutor {
    /// Puts an executor together.
    pub fn new(parts: ExecutorParts) -> StorageExecutor {
        let ExecutorParts {
            requests,
            mut shards,
            committer,
            syncer,
            reclaimer,
            settings,
            pubsub,
            tracking,
            metrics,
            shard_metrics,
        } = parts;
        let (settings_version, current) = (settings.version(), settings.snapshot());
        // The start has had some turns, to make the shards agree.
        for (place, shard) in shards.list_mut().iter_mut().enumerate() {
            shard.set_committer(Arc::clone(&committer.committer), place);
        }
        let turn = shards.list().iter().map(Shard::turn).max().unwrap_or(0);
        shards.watches_mut().set_metrics(Arc::clone(&metrics));
        shards.syncs_links = current.durability == Durability::Always;
        let published_epochs = vec![0; shards.list().len()];
        StorageExecutor {
            shards,
            committer,
            syncer,
            reclaimer,
            settings,
            settings_version,
            metrics,
            shard_metrics,
            queue: PriorityQueue::default(),
            held: VecDeque::new(),
            parked: Parked::default(),
            full_home: None,
            turn,
            published_epochs,
            sweep_waits: false,
            effects: Effects {
                classes: current.notify_keyspace_events,
                ..Effects::default()
            },
            outbox: Outbox::new(pubsub, tracking),
            current,
            woken: Vec::new(),
            durable_waits: Vec::new(),
            random: crate::clock::unix_us() | 1,
            slow_figures_at: Instant::now(),
            script_is_open: false,
            script_is_long: false,
            reports_waiting: Vec::new(),
            requests,
        }
    }

    /// Serves `requests` until every sender is gone, then syncs and closes the shards. Returns whether all that was
    /// committed is on disk. `commits` has a message when the committer has done something, `reports` are the syncer's.
    pub async fn run(
        self,
        requests: flume::Receiver<Box<Batch>>,
        commits: flume::Receiver<()>,
        reports: flume::Receiver<SyncReport>,
    ) -> bool {
        let executor = Rc::new(RefCell::new(self));
        executor.borrow_mut().publish_all();
        let on_report = Rc::clone(&executor);
        let sync_task = glommio::spawn_local(async move {
            while let Ok(report) = reports.recv_async().await {
                on_report.borrow_mut().on_sync(report);
            }
        });
        let on_commit = Rc::clone(&executor);
        let commit_task = glommio::spawn_local(async move {
            while let Ok(()) = commits.recv_async().await {
                on_commit.borrow_mut().on_commit();
            }
        });
        let on_tick = Rc::clone(&executor);
        let tick_task = glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
                on_tick.borrow_mut().keep_house();
            }
        });
        let deadline_task = glommio::spawn_local(waiting::answer_late(Rc::clone(&executor)));
        serve(&executor, &requests).await;
        let give_up = Instant::now() + STALLED_AT_SHUTDOWN_MAX;
        while executor.borrow().any_staged() && Instant::now() < give_up {
            glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
        }
        deadline_task.cancel().await;
        tick_task.cancel().await;
        commit_task.cancel().await;
        sync_task.cancel().await;
        match Rc::try_unwrap(executor) {
            Ok(executor) => executor.into_inner().close(),
            Err(_) => unreachable!("both tasks that share the executor have ended"),
        }
    }

    fn any_staged(&self) -> bool {
        self.shards.list().iter().any(Shard::has_staged)
    }

    /// Queues what has arrived (bounded by the senders' credits); returns whether there is anything to run.
    fn take_up(&mut self, requests: &flume::Receiver<Box<Batch>>) -> bool {
        while let Ok(batch) = requests.try_recv() {
            self.queue.push(batch);
        }
        !self.queue.is_empty() || !self.parked.long.is_empty()
    }

    fn settings_are_current(&mut self) {
        if self.settings.version() != self.settings_version {
            self.settings_version = self.settings.version();
            self.current = self.settings.snapshot();
            self.effects.classes = self.current.notify_keyspace_events;
            self.shards.syncs_links = self.current.durability == Durability::Always;
            // It sleeps by the old setting.
            self.syncer.sync_soon();
        }
    }

    /// Begins a turn; returns its one reading of the clock.
    fn begin_turn(&mut self) -> u64 {
        let now_ms = crate::clock::unix_ms();
        self.turn += 1;
        self.shards.begin_turn(self.turn, now_ms);
        self.shards.watch_keys(!self.effects.classes.is_empty());
        now_ms
    }

    /// Runs what is queued: one turn of at most `batch-size` requests. Returns what is left open if a script wants to pause.
    fn run_turn(&mut self) -> Option<OpenTurn> {
        self.settings_are_current();
        self.take_up_commits();
        let began = Instant::now();
        self.begin_turn();
        let shards = self.shards.list();
        let began_clean = !shards.iter().any(|shard| shard.has_staged() || shard.is_committing());
        let mut done: Vec<Box<Batch>> = Vec::new();
        let mut count = 0;
        let mut now = began;
        while count < self.current.batch_size {
            let long = match count {
                0 => self.parked.long.pop_front(),
                _ => None,
            };
            let was_parked = long.is_some();
            let Some(mut batch) = long.or_else(|| self.queue.pop()) else {
                break;
            };
            if was_parked && self.is_held(&batch, &batch.requests[0]) {
                self.stand_in_line(batch);
                continue;
            }
            self.script_is_long |= was_parked;
            if batch.run == 0 {
                batch.received_at = began;
                self.metrics
                    .queue_ns
                    .record(began.saturating_duration_since(batch.sent_at).as_nanos() as u64);
            }
            let run_before = batch.run;
            while batch.run < batch.requests.len() && batch.replies.len() < REPLY_BYTES_FULL {
                let request = batch.requests[batch.run];
                if !was_parked && self.must_wait(&batch, &request) {
                    self.park(&mut batch, &request);
                    batch.run += 1;
                    continue;
                }
                match self.run_request(&mut batch, &request, now, None) {
                    Ran::Ended(ended) => now = ended,
                    // One that is known to be long, or happens to have the turn for itself.
                    Ran::Paused(script)
                        if done.is_empty()
                            && (std::mem::take(&mut self.script_is_long)
                                || (began_clean && count == 0 && batch.run == run_before)) =>
                    {
                        self.script_is_open = true;
                        return Some(OpenTurn {
                            script,
                            batch,
                            began,
                            was_parked,
                        });
                    }
                    Ran::Paused(script) => {
                        self.drop_long_script(script, &mut batch);
                        break;
                    }
                }
                batch.run += 1;
                if was_parked {
                    self.run_behind(request.caller.client_id, &mut done);
                }
                self.resume(&mut done);
                if std::mem::take(&mut self.script_is_long) {
                    // It was not so long this time; the turn is its own nevertheless.
                    break;
                }
            }
            count += batch.run - run_before;
            if batch.run < batch.requests.len() {
                self.full_home = Some(batch.home());
                done.push(batch.take_responses());
                self.queue.push_back_to_front(batch);
                break;
            }
            self.metrics.batches.add(1);
            done.push(batch);
        }
        self.end_turn(done, count, began);
        None
    }

    /// Commits what a turn has staged and lets go of its replies.
    // Boxes, because they travel on.
    #[allow(clippy::vec_box)]
    fn end_turn(&mut self, mut done: Vec<Box<Batch>>, count: usize, began: Instant) {
        self.metrics.requests.add(count as u64);
        done.append(&mut self.woken);
        self.commit(&mut done);
        self.release_held();
        let released = self.released_epochs();
        for batch in done {
            self.release_or_hold(batch, &released);
        }
        self.metrics.turns.add(1);
        self.metrics.turn_ns.record(began.elapsed().as_nanos() as u64);
    }

    /// A script that has run for a while turns out to be long. What the turn did before is committed and answered without
    /// waiting for it: nothing of it ever was, and the next turn is its own.
    pub(super) fn drop_long_script(&mut self, script: Paused, batch: &mut Batch) {
        self.effects.forget_after(script.command.effects_mark());
        self.effects.forget_ran();
        batch.replies.truncate(script.reply_at);
        drop(script);
        self.roll_back_command();
        self.script_is_long = true;
    }

    /// Whether a script that gets a turn of its own must wait for writes that are with the committer: those are not looked
    /// after while it runs.
    fn must_wait_for_commits(&mut self) -> bool {
        let comes = self.script_is_long || !self.parked.long.is_empty();
        if comes {
            self.take_up_commits();
            self.commit(&mut []);
        }
        comes && self.shards.list().iter().any(Shard::is_committing)
    }

    /// Runs on the script of an open turn. Returns the turn if it is still open.
    fn go_on(&mut self, open: OpenTurn) -> Option<OpenTurn> {
        let OpenTurn {
            script,
            mut batch,
            began,
            was_parked,
        } = open;
        let request = batch.requests[batch.run];
        match self.run_request(&mut batch, &request, began, Some(script)) {
            Ran::Paused(script) => {
                return Some(OpenTurn {
                    script,
                    batch,
                    began,
                    was_parked,
                });
            }
            Ran::Ended(_) => {}
        }
        self.script_is_open = false;
        batch.run += 1;
        let mut done = Vec::new();
        if was_parked {
            self.run_behind(request.caller.client_id, &mut done);
        }
        self.resume(&mut done);
        if batch.run < batch.requests.len() {
            done.push(batch.take_responses());
            self.queue.push_back_to_front(batch);
        } else {
            self.metrics.batches.add(1);
            done.push(batch);
        }
        self.end_turn(done, 1, began);
        self.take_up_reports();
        None
    }

    /// Ends the script of an open turn, because the executor ends or its shards must stop.
    fn stop_script(&mut self, mut open: OpenTurn) {
        open.script.command.stop();
        let still_open = self.go_on(open);
        debug_assert!(still_open.is_none(), "a script that was stopped is over");
    }

    /// Answers what waits behind a busy script, as Redis does; what executors send each other stays.
    fn answer_busy(&mut self, open: &mut OpenTurn) {
        let error = self.shards.scripts().0.busy_error();
        let is_internal = |request: &Request| request.command.flags.has(INTERNAL);
        let behind = open.batch.run + 1;
        if behind < open.batch.requests.len() && !open.batch.requests[behind..].iter().any(is_internal) {
            let mut refused = open.batch.split_requests(behind);
            self.refuse(&mut refused, &error);
            refused.send_home();
        }
        let mut queue = std::mem::take(&mut self.queue);
        while let Some(mut batch) = queue.pop() {
            if batch.requests[batch.run..].iter().any(is_internal) {
                self.queue.push(batch);
                continue;
            }
            self.refuse(&mut batch, &error);
            self.metrics.requests.add(batch.requests.len() as u64);
            batch.send_home();
        }
    }

    /// Answers what was not run of a batch without running it.
    pub(super) fn refuse(&mut self, batch: &mut Batch, error: &CommandError) {
        for place in batch.run..batch.requests.len() {
            let request = batch.requests[place];
            if matches!(request.command.runs, Runs::Exec(_)) {
                self.shards.unwatch(request.caller.client_id);
            }
            // A command that waits elsewhere, too, may be answered there meanwhile.
            let is_claimed = match self.claim_of(batch, &request) {
                Ok(None) => true,
                Ok(Some(claim)) => claim.take(),
                Err(NobodyWaits) => false,
            };
            match is_claimed {
                true => batch.answer_with_error(place, error),
                false => batch.responses.push(waits_notice(&request)),
            }
        }
        batch.run = batch.requests.len();
    }

    /// Runs one request and appends its response, unless it is to be answered later. A script that is `resumed` goes on.
    pub(super) fn run_request(
        &mut self,
        batch: &mut Batch,
        request: &Request,
        began: Instant,
        resumed: Option<Paused>,
    ) -> Ran {
        if std::ptr::eq(request.command, &WAIT_DURABLE) {
            self.answer_when_durable(batch, request);
            return Ran::Ended(began);
        }
        if std::ptr::eq(request.command, &WAIT_SOURCE) {
            self.wait_for_source(batch, request, began);
            return Ran::Ended(Instant::now());
        }
        let claim = match self.claim_of(batch, request) {
            Ok(claim) => claim,
            // Its client is gone, or was answered by another executor.
            Err(NobodyWaits) => {
                batch.responses.push(waits_notice(request));
                return Ran::Ended(began);
            }
        };
        let start = resumed.as_ref().map_or(batch.replies.len(), |paused| paused.reply_at);
        let mut resumed = resumed.map(|paused| paused.command);
        let whose = (request.id, request.command, request.caller);
        if resumed.is_none() {
            self.begin_command(whose);
        }
        let mut handled = if began > request.deadline && resumed.is_none() {
            self.metrics.timeouts.add(1);
            Handled::of(Err(CommandError::Timeout))
        } else if let Runs::Step(step) = request.command.runs
            && step != Step::Run
        {
            match self.run_step(step, batch, request) {
                Ok(StepOutcome::Answered) => Handled::of(Ok(())),
                Ok(StepOutcome::Unknown) => Handled {
                    is_unknown: true,
                    ..Handled::of(Ok(()))
                },
                Ok(later) => {
                    self.park_step(&later, batch, request);
                    return Ran::Ended(began);
                }
                Err(error) => Handled::of(Err(error)),
            }
        } else {
            let (mut arguments, replies) = batch.parts(request);
            let mut command = request.command;
            if matches!(command.runs, Runs::Step(_)) {
                arguments = arguments.from(1);
                command = table::find(arguments.get(0)).unwrap_or(command);
            }
            self.run_handler(command, request.caller, arguments, replies, &mut resumed)
        };
        if let Some(command) = resumed.take_if(|_| handled.is_paused) {
            let reply_at = start;
            return Ran::Paused(Paused { command, reply_at });
        }
        if matches!(request.command.runs, Runs::Exec(_)) {
            // Its transaction is over, whatever came of it.
            self.shards.unwatch(request.caller.client_id);
        }
        if request.caller.tracks {
            self.note_read(batch, request);
        }
        let Some(claim) = claim else {
            let ended = self.settle(handled, whose, batch, start, began);
            self.serve_waiters(ended);
            return Ran::Ended(ended);
        };
        match handled.waits.take() {
            Some(waiting) if handled.result.is_ok() => {
                // It does not wake itself by what it wrote: nobody has entered it yet.
                self.keep_what_waits(request.caller.client_id);
                self.serve_waiters(began);
                batch.replies.truncate(start);
                self.shards.waiters.add(batch, request, claim, &waiting, began);
                self.shards.note_interest();
                batch.responses.push(waits_notice(request));
                Ran::Ended(Instant::now())
            }
            _ if !claim.take() => {
                self.roll_back_command();
                batch.replies.truncate(start);
                batch.responses.push(waits_notice(request));
                Ran::Ended(began)
            }
            _ => {
                let ended = self.settle(handled, whose, batch, start, began);
                self.forget_command(&claim);
                self.serve_waiters(ended);
                Ran::Ended(ended)
            }
        }
    }

    /// A command that has found nothing is to wait: what it wrote beside (a group's consumer was seen) stands.
    fn keep_what_waits(&mut self, client_id: u64) {
        // All of it is on the shard of one key.
        self.shards.keep_step();
        self.command_stands(client_id);
    }

    /// Who waits for the answer to a command that may wait; `None` for any other command.
    fn claim_of(&self, batch: &Batch, request: &Request) -> Result<Option<Claim>, NobodyWaits> {
        let (command, caller) = (request.command, request.caller);
        if !command.flags.has(BLOCKING) || !may_wait(command.name, batch.arguments(request)) {
            return Ok(None);
        }
        let client = self.shards.waiters.client(caller.client_id).ok_or(NobodyWaits)?;
        let ticket = Ticket::of(request.id.sequence);
        match client.awaits(ticket) {
            true => Ok(Some(Claim { client, ticket })),
            false => Err(NobodyWaits),
        }
    }

    /// Begins a command that a client has asked for.
    fn begin_command(&mut self, (id, command, caller): (RequestId, &'static Command, Caller)) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.shards.begin_command();
        self.shards.set_quiet(command.flags.has(QUIET));
        self.shards.tracked_mut().command = (caller.client_id, id.sequence);
        self.shards.note_missed(self.effects.wants_missed(command));
        if caller.tracks {
            self.shards.expect_reader();
            self.effects.notes_read = true;
        }
    }

    /// Runs a command's handler. What it staged neither stands nor is dropped yet.
    fn run_handler(
        &mut self,
        command: &'static Command,
        caller: Caller,
        arguments: Arguments<'_>,
        replies: &mut Vec<u8>,
        resumed: &mut Option<Pausing>,
    ) -> Handled {
        let now_ms = self.shards.now_ms();
        let mut context = Context {
            arguments,
            reply: Reply::new(replies, caller.version),
            view: View::Local(&mut self.shards),
            now_ms,
            database: caller.database,
            seed: self.random,
            string_bytes_max: self.current.proto_max_bulk_len.as_usize(),
            client_id: caller.client_id,
            is_inner: false,
            effects: &mut self.effects,
            pieces: None,
            waits: None,
        };
        let (result, is_paused) = match may_pause(command, arguments) {
            true => match run_pausing(command, &mut context, &self.metrics, resumed) {
                Ok(Driven::Done) => (Ok(()), false),
                Ok(Driven::Paused) => (Ok(()), true),
                Err(error) => (Err(error), false),
            },
            false => (run_contained(command, &mut context, &self.metrics), false),
        };
        Handled {
            pieces: context.pieces.take(),
            waits: context.waits.take(),
            is_paused,
            ..Handled::of(result)
        }
    }

    /// Ends a command: its writes stand, or never were if it failed, and its response is appended to `batch`, in whose
    /// replies its own begin at `start`. Returns the time.
    fn settle(
        &mut self,
        handled: Handled,
        (id, command, caller): (RequestId, &'static Command, Caller),
        batch: &mut Batch,
        start: usize,
        began: Instant,
    ) -> Instant {
        let Handled {
            result,
            pieces,
            is_unknown,
            ..
        } = handled;
        let outcome = result.and_then(|()| self.write_pieces(pieces, &mut batch.replies, caller.version));
        let outcome = match (outcome, command.runs) {
            (Ok(rest), Runs::Step(step)) if step != Step::Run => {
                self.shards.keep_step();
                Ok(rest)
            }
            (Ok(rest), _) => {
                self.shards.keep_command();
                Ok(rest)
            }
            (failed, _) => failed,
        };
        let failed = outcome.is_err();
        let more = match outcome {
            Ok(rest) => {
                if is_unknown || rest == Rest::Unreadable {
                    // An empty reply, with no more to come, closes the connection.
                    batch.replies.truncate(start);
                }
                self.command_stands(caller.client_id);
                rest.number()
            }
            Err(error) => {
                self.roll_back_command();
                batch.replies.truncate(start);
                Reply::new(&mut batch.replies, caller.version).error(error.to_string());
                0
            }
        };
        self.count_inner();
        let ended = Instant::now();
        let touched = self.shards.touched();
        if command.counts_look_ups() {
            self.metrics.keyspace_hits.add(u64::from(touched.found));
            self.metrics.keyspace_misses.add(u64::from(touched.missed));
        }
        let reply = Span {
            start: start as u32,
            len: (batch.replies.len() - start) as u32,
        };
        batch.responses.push(Response {
            id,
            reply,
            command,
            took_ns: ended
                .saturating_duration_since(began)
                .as_nanos()
                .min(u128::from(u32::MAX)) as u32,
            failed,
            commit_epoch: touched.epoch,
            shard: touched.shard.unwrap_or(0),
            more,
        });
        ended
    }

    /// Counts the commands that were parts of the last one.
    fn count_inner(&mut self) {
        if !self.effects.ran.is_empty() {
            let (commands, errors) = (&self.metrics.commands, &self.metrics.errors);
            self.metrics
                .inner_commands
                .add(self.effects.count_ran(commands, errors));
        }
    }

    /// What a command that stands has written and noted is told to those whom it concerns.
    #[inline]
    fn command_stands(&mut self, client_id: u64) {
        self.shards.after_command(client_id);
        self.keep_effects();
    }

    /// The client that sent a request tracks the keys that the request and its parts have read: before it is known what they
    /// wrote, so that a key which was read and then written is told.
    fn note_read(&mut self, batch: &Batch, request: &Request) {
        let reader = Reader {
            client_id: request.caller.client_id,
            executor: request.caller.executor,
            connection: request.id.connection,
        };
        let arguments = batch.arguments(request);
        if let Runs::Step(Step::Schedule) = request.command.runs {
            // What it asks for is read by the client elsewhere.
            if let Some((connection, places)) = Schedule::read_by(arguments.get(1)) {
                let reader = Reader { connection, ..reader };
                self.shards
                    .note_read(places.iter().map(|(_, key)| key.as_slice()), reader);
            }
        } else if request.command.flags.has(READ) {
            self.shards.note_read(request.command.keys.of(arguments), reader);
        }
        self.effects.notes_read = false;
        let read = std::mem::take(&mut self.effects.read);
        self.shards.note_read(read.iter().map(Vec::as_slice), reader);
        let keys_max = self.current.tracking_table_max_keys;
        self.shards.tracked_mut().make_room(keys_max);
    }

    /// It never was; what it asked for was asked for.
    fn roll_back_command(&mut self) {
        self.shards.roll_back_command();
        self.effects.clear();
        self.keep_effects();
    }

    #[inline]
    fn keep_effects(&mut self) {
        if !self.effects.classes.is_empty() {
            self.effects.note_key_fates(&self.shards.take_key_notes());
        }
        let outdated = self.shards.tracked_mut().take_outdated();
        let touched = self.shards.touched();
        self.outbox
            .take_in(touched.shard.unwrap_or(0), touched.epoch, &mut self.effects, outdated);
    }

    /// Writes the next piece of a reply, or all of the rest if too many have begun.
    ///
    /// # Errors
    /// The replies of the batch are longer than can be told.
    fn write_pieces(
        &mut self,
        pieces: Option<Pieces>,
        replies: &mut Vec<u8>,
        version: Version,
    ) -> Result<Rest, CommandError> {
        check_len(replies)?;
        let Some(mut pieces) = pieces else {
            return Ok(Rest::None);
        };
        loop {
            let written = pieces.write_next(replies, version);
            check_len(replies)?;
            match written {
                Written::Piece if self.shards.replies_begun.has_room() => {
                    return Ok(Rest::Begun(self.shards.replies_begun.keep(pieces)));
                }
                Written::Piece => {}
                Written::All => return Ok(Rest::None),
                Written::Broken => return Ok(Rest::Unreadable),
            }
        }
    }

    /// Commits what each shard staged in this turn (or in earlier ones, if it was stalled or its batch is with the committer).
    fn commit(&mut self, done: &mut [Box<Batch>]) {
        if self.shards.is_linked() {
            self.shards.commit_linked();
        }
        let may_commit = !self.shards.is_linked();
        let mut any = false;
        for place in 0..self.shards.list().len() {
            let shard = &mut self.shards.list_mut()[place];
            if shard.is_committing() || !may_commit {
                // What is staged rides the next batch.
            } else if shard.staged_len() >= self.committer.writes_min && *shard.state() == ShardState::Healthy {
                let database = Arc::clone(shard.database());
                if let Some(writes) = shard.begin_commit() {
                    self.committer.committer.submit(place, database, writes);
                }
            } else {
                // Flushes and scans commit by themselves, so the shard's epoch tells what was committed, and what was rolled
                // back tells what failed; after a stall what is staged waits for the next call.
                let _ = shard.commit();
            }
            self.answer_rolled_back(place, done);
            let settled_epoch = self.shards.list()[place].settled_epoch();
            if settled_epoch != self.published_epochs[place] {
                any = true;
                self.published_epochs[place] = settled_epoch;
                // At once, and not with the other figures: what a reply says is what INFO keyspace shows.
                self.publish_counts(place);
                self.syncer.committed(place, settled_epoch);
            }
            if self.shards.list_mut()[place].take_noted() {
                self.reclaimer.noted(place);
            }
        }
        if any && self.current.durability == Durability::Always {
            self.syncer.sync_soon();
        }
    }

    /// Answers those who wait for writes of the shard at `place` that were rolled back, if any were.
    fn answer_rolled_back(&mut self, place: usize, done: &mut [Box<Batch>]) {
        if let Some(rolled_back) = self.shards.list_mut()[place].take_rolled_back() {
            self.outbox.forget(place, rolled_back.from_epoch);
            for batch in done.iter_mut().chain(self.held.iter_mut()) {
                answer_rolled_back(batch, place, &rolled_back, &mut self.shards.replies_begun);
            }
        }
    }

    /// The last turn whose replies may leave, for the shard at `place`.
    fn released_epoch(&self, place: usize) -> u64 {
        let durable = (self.current.durability == Durability::Always).then(|| self.syncer.durable_epoch(place));
        self.shards.list()[place].released_epoch(durable)
    }

    /// The same for all shards, and the lowest of them.
    fn released_epochs(&self) -> Released {
        let by_place: Vec<u64> = (0..self.shards.list().len())
            .map(|place| self.released_epoch(place))
            .collect();
        let lowest = by_place.iter().copied().min().unwrap_or(u64::MAX);
        Released { by_place, lowest }
    }

    fn release_or_hold(&mut self, batch: Box<Batch>, released: &Released) {
        if let Some(rest) = released.send_what_may_leave(batch) {
            self.held.push_back(rest);
        }
    }

    /// Lets go of what the commits and syncs have caught up with: what commands did, and held batches.
    fn release_held(&mut self) {
        if self.held.is_empty() && self.outbox.is_empty() {
            return;
        }
        let released = self.released_epochs();
        self.outbox.give_out(|shard, epoch| released.includes(shard, epoch));
        for batch in std::mem::take(&mut self.held) {
            self.release_or_hold(batch, &released);
        }
    }

    /// The committer has written batches, or failed to: replies leave, and what was staged meanwhile is committed.
    fn on_commit(&mut self) {
        if self.script_is_open {
            // None is under way: its turn began without one.
            return;
        }
        self.take_up_commits();
        self.commit(&mut []);
        self.release_held();
    }

    fn take_up_commits(&mut self) {
        if !self.shards.list().iter().any(Shard::is_committing) {
            return;
        }
        let mut any = false;
        while let Some((place, written)) = self.committer.committer.take_done() {
            // What failed shows in the shard's state and in what it has rolled back.
            let _ = self.shards.list_mut()[place].finish_commit(written);
            // Now, because a turn that begins after this sees nothing of it.
            self.answer_rolled_back(place, &mut []);
            any = true;
        }
        if any && self.sweep_waits {
            self.sweep();
        }
    }

    /// Deletes keys whose deadline has passed, in a turn of its own. It looks at the disk, so it leaves out a shard whose batch
    /// is with the committer, and is called again when that is written.
    fn sweep(&mut self) {
        let now_ms = self.begin_turn();
        self.sweep_waits = false;
        let budget = self.current.expire_keys_per_turn;
        let mut hashes = Vec::new();
        let (list, locks) = self.shards.list_and_locks();
        for (shard, metrics) in list.iter_mut().zip(&self.shard_metrics) {
            if shard.is_committing() {
                self.sweep_waits = true;
                continue;
            }
            let is_locked = |place: &expiry::DueHash| locks.holds(place, Mode::Exclusive);
            match expiry::sweep(shard, now_ms, budget, &mut hashes, is_locked) {
                Ok(expired) => metrics.expired_keys.add(expired as u64),
                // A shard that takes no writes keeps its expired keys, invisible as they are.
                Err(CommandError::DiskFull | CommandError::Stalled | CommandError::ShardDown(_)) => {}
                Err(error) => tracing::warn!(shard = shard.id().0, %error, "the expiry sweep failed"),
            }
        }
        for place in 0..self.shards.list().len() {
            let notes = self.shards.list_mut()[place].lifecycle.take();
            self.effects.note_key_fates(&notes);
            self.outbox
                .take_in(place as u16, self.turn, &mut self.effects, Vec::new());
        }
        self.shards.after_command(0);
        let outdated = self.shards.tracked_mut().take_outdated();
        self.outbox
            .take_in(SEVERAL_SHARDS, self.turn, &mut self.effects, outdated);
        self.expire_fields(&hashes, now_ms, budget);
    }

    /// A sync ended: replies leave, or the shard stops.
    fn on_sync(&mut self, report: SyncReport) {
        if self.script_is_open && report.result.is_err() {
            // Its shard may stop only when nothing is half done there.
            self.reports_waiting.push(report);
            return;
        }
        self.take_report(&report);
    }

    fn take_up_reports(&mut self) {
        for report in std::mem::take(&mut self.reports_waiting) {
            self.take_report(&report);
        }
    }

    fn take_report(&mut self, report: &SyncReport) {
        if let Err(error) = &report.result {
            let durable_epoch = self.syncer.durable_epoch(report.place);
            self.outbox.forget(report.place, durable_epoch + 1);
            // Whether these writes are on disk is unknown, and they may be there after a restart: neither OK nor an error
            // would be true. An empty reply makes the network executor close the connection.
            for batch in &mut self.held {
                for response in &mut batch.responses {
                    if bound_to(response, report.place, durable_epoch + 1) {
                        response.reply.len = 0;
                        response.commit_epoch = 0;
                        let begun = &mut self.shards.replies_begun;
                        begun.take(std::mem::take(&mut response.more));
                    }
                }
            }
            let shard = &mut self.shards.list_mut()[report.place];
            shard.stop_at(durable_epoch, &DatabaseError::Failed(error.to_string()));
            // Who waited for it was among those.
            shard.take_rolled_back();
        }
        self.settings_are_current();
        self.release_held();
        self.tell_durable();
    }

    /// What no client asks for: deadlines, redo records, requests that have waited too long.
    fn look_after_shards(&mut self) {
        self.sweep();
        self.serve_waiters(Instant::now());
        self.delete_notes();
        // What was acknowledged as durable needs its record until it is.
        let syncer = (self.current.durability == Durability::Always).then_some(&self.syncer);
        self.shards.finish_commands(|place, shard| {
            let durable_epoch = syncer.map_or(u64::MAX, |syncer| syncer.durable_epoch(place));
            shard.settled_epoch().min(durable_epoch)
        });
        let mut done = Vec::new();
        if self.has_parked() {
            self.look_at_parked(&mut done);
        }
        if !self.parked.long.is_empty()
            && let Some(requests) = self.requests.upgrade()
        {
            // Their turn would come with the next request; this one is empty, and nobody waits for the box.
            let (nobody, _) = flume::unbounded();
            let _ = requests.send(Batch::new(nobody));
        }
        done.append(&mut self.woken);
        self.commit(&mut done);
        let released = self.released_epochs();
        for batch in done {
            self.release_or_hold(batch, &released);
        }
    }

    /// What is to be done every [`HOUSEKEEPING_INTERVAL`], whether there is work or not.
    fn keep_house(&mut self) {
        self.settings_are_current();
        if !self.script_is_open {
            self.look_after_shards();
        }
        if !self.held.is_empty() && self.current.durability == Durability::Always {
            // They may wait for turns that were committed before this setting, or by the start of the server.
            self.syncer.sync_soon();
        }
        self.release_held();
        self.update_metrics();
    }

    /// Removes at most `budget` expired fields of the hashes that a sweep has named.
    fn expire_fields(&mut self, hashes: &[expiry::DueHash], now_ms: u64, mut budget: usize) {
        for (database, key) in hashes {
            if budget == 0 {
                return;
            }
            if self.shards.locks.holds(&(*database, key.clone()), Mode::Exclusive) {
                // A transaction that has read it decides what becomes of it.
                continue;
            }
            self.shards.begin_command();
            let mut no_reply = Vec::new();
            let mut context = Context {
                arguments: Arguments::new(&[], &[]),
                reply: Reply::new(&mut no_reply, Version::Resp2),
                view: View::Local(&mut self.shards),
                now_ms,
                database: *database,
                seed: 0,
                string_bytes_max: 0,
                client_id: 0,
                is_inner: false,
                effects: &mut self.effects,
                pieces: None,
                waits: None,
            };
            match hash::expire_fields(&mut context, key, budget) {
                Ok(expired) => {
                    // A hash lies on one shard.
                    self.shards.keep_step();
                    self.command_stands(0);
                    budget -= expired.min(budget);
                }
                Err(error) => {
                    self.roll_back_command();
                    tracing::debug!(%error, "fields of a hash stay for the next sweep");
                }
            }
        }
    }

    /// Stages the deletion of the notes of versions that are reclaimed.
    fn delete_notes(&mut self) {
        for (place, note) in self.reclaimer.take_done() {
            match self.shards.list_mut()[place].delete_note(&note) {
                Ok(was_there) => self.shard_metrics[place]
                    .reclaimed_collections
                    .add(u64::from(was_there)),
                Err(CommandError::Stalled | CommandError::DiskFull) => self.reclaimer.keep_done(place, note),
                // A shard that takes no writes any more keeps the note: the next start finds it, and nothing to reclaim.
                Err(_) => {}
            }
        }
    }

    fn publish_all(&mut self) {
        (0..self.shard_metrics.len()).for_each(|place| self.publish_counts(place));
        self.update_metrics();
    }

    /// The numbers of keys of the shard at `place`.
    fn publish_counts(&self, place: usize) {
        for (number, [keys, expires]) in self.shard_metrics[place].databases.iter().enumerate() {
            let counts = self.shards.list()[place].counts(number as u8);
            keys.set(counts.keys);
            expires.set(counts.expires);
        }
    }

    fn update_metrics(&mut self) {
        let (keys, keys_without) = self.shards.waiters.key_counts();
        self.metrics.blocking_keys.set(keys as u64);
        self.metrics.blocking_keys_on_nokey.set(keys_without as u64);
        self.metrics.held.set(self.held.len() as u64);
        self.metrics.replies_begun.set(self.shards.replies_begun.len() as u64);
        let (syncs, sync_ns) = self.syncer.totals();
        self.metrics.syncs.set(syncs);
        self.metrics.sync_ns.set(sync_ns);
        let slow_figures_due = Instant::now() >= self.slow_figures_at;
        for (place, (shard, metrics)) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics).enumerate() {
            metrics.state.set(shard.state().code());
            let counters = shard.records().counters();
            metrics.hits.set(counters.hits);
            metrics.misses.set(counters.misses);
            metrics.evictions.set(counters.evictions);
            let cached = shard.records().bytes() + shard.orders().bytes();
            metrics.cache_bytes.set(cached as u64);
            metrics.cache_records.set(shard.records().len() as u64);
            metrics.committed_epoch.set(shard.committed_epoch());
            metrics.durable_epoch.set(self.syncer.durable_epoch(place));
            metrics.reclaims_pending.set(self.reclaimer.pending(place));
            if slow_figures_due {
                // What is in use is made again, once per interval.
                shard.rest();
                let database = shard.database();
                metrics
                    .file_bytes
                    .set(database.property_sum(c"rocksdb.total-sst-files-size"));
                metrics
                    .memtable_bytes
                    .set(database.property_sum(c"rocksdb.cur-size-all-mem-tables"));
                metrics
                    .pending_compaction_bytes
                    .set(database.property_sum(c"rocksdb.estimate-pending-compaction-bytes"));
                match preflight::free_bytes(database.path()).map(faults::free_bytes) {
                    Ok(free) => shard.set_disk_full(free < preflight::FREE_BYTES_MIN),
                    Err(error) => tracing::warn!(shard = shard.id().0, %error, "cannot read the disk's free space"),
                }
            }
        }
        if slow_figures_due {
            self.shards.scripts().0.note_memory(interpreter::idle_memory());
            self.slow_figures_at = Instant::now() + SLOW_FIGURES_INTERVAL;
        }
    }

    /// Syncs what is left, lets the last replies go and closes the databases.
    fn close(mut self) -> bool {
        for shard in self.shards.list_mut() {
            // What fails shows as staged or as an epoch that was never committed.
            let _ = shard.commit();
        }
        self.commit(&mut []);
        let all_committed = !self.any_staged();
        self.committer.committer.stop();
        // It only waits for what is in the queue, which is nothing.
        let _ = self.committer.thread.join();
        let synced = self.syncer.stop();
        let released = Released {
            by_place: vec![u64::MAX; self.shards.list().len()],
            lowest: u64::MAX,
        };
        if synced && all_committed {
            for batch in std::mem::take(&mut self.held) {
                released.send_what_may_leave(batch);
            }
        }
        self.reclaimer.stop();
        for shard in self.shards.list() {
            shard.database().stop_background_work();
        }
        self.reclaimer.join();
        synced && all_committed
    }
}

/// How far the shards' commits (and syncs, if replies wait for them) have come.
struct Released {
    by_place: Vec<u64>,
    lowest: u64,
}

impl Released {
    /// Whether what was bound to turn `epoch` of a shard (its place, or [`SEVERAL_SHARDS`]) may leave.
    fn includes(&self, shard: u16, epoch: u64) -> bool {
        let released = match shard {
            SEVERAL_SHARDS => self.lowest,
            place => self.by_place[usize::from(place)],
        };
        epoch <= released
    }

    fn includes_response(&self, response: &Response) -> bool {
        self.includes(response.shard, response.commit_epoch)
    }

    /// Sends home the batch, or those of its responses that may leave; returns the rest.
    fn send_what_may_leave(&self, mut batch: Box<Batch>) -> Option<Box<Batch>> {
        if self.lowest == u64::MAX || batch.responses.iter().all(|response| self.includes_response(response)) {
            batch.send_home();
            return None;
        }
        if let Some(ready) = batch.split_off(|response| self.includes_response(response)) {
            ready.send_home();
        }
        Some(batch)
    }
}

/// Whether a response was bound to the commits of the shard at `place` from turn `from` on.
fn bound_to(response: &Response, place: usize, from: u64) -> bool {
    response.commit_epoch >= from.max(1) && (response.shard == SEVERAL_SHARDS || usize::from(response.shard) == place)
}

/// Replaces the replies that speak of writes which were rolled back. Where a part of a command's writes may stand, on another
/// shard or by an earlier commit of the turn, neither OK nor an error would be true: an empty reply makes the network executor
/// close the connection.
fn answer_rolled_back(batch: &mut Batch, place: usize, rolled_back: &RolledBack, begun: &mut RepliesBegun) {
    for response in &mut batch.responses {
        if bound_to(response, place, rolled_back.from_epoch) {
            let start = batch.replies.len();
            let in_part = rolled_back.in_part || response.shard == SEVERAL_SHARDS;
            if !(in_part && response.command.may_write()) {
                Reply::new(&mut batch.replies, Version::Resp2).error(rolled_back.error.to_string());
            }
            response.reply = Span {
                start: start as u32,
                len: (batch.replies.len() - start) as u32,
            };
            (response.commit_epoch, response.failed) = (0, true);
            begun.take(std::mem::take(&mut response.more));
        }
    }
}

/// Refuses replies of a batch that are longer than can be told.
fn check_len(replies: &[u8]) -> Result<(), CommandError> {
    match replies.len() <= REPLY_BYTES_MAX {
        true => Ok(()),
        false => Err(CommandError::text("ERR the reply is longer than 4 GiB")),
    }
}

/// Runs a handler; a panic becomes an error, and the executor lives.
fn run_contained(command: &Command, context: &mut Context<'_>, metrics: &StorageMetrics) -> Result<(), CommandError> {
    let handler = command.storage_handler().ok_or(CommandError::Internal)?;
    catch_unwind(AssertUnwindSafe(|| handler(context))).unwrap_or_else(|_| {
        metrics.panics.add(1);
        tracing::error!(command = command.name, "a handler panicked; its writes were dropped");
        Err(CommandError::Internal)
    })
}

/// Takes batches from the channel and runs them, turn by turn, until every sender is gone.
async fn serve(executor: &RefCell<StorageExecutor>, requests: &flume::Receiver<Box<Batch>>) {
    while let Ok(first) = requests.recv_async().await {
        executor.borrow_mut().queue.push(first);
        let mut busy_since = Instant::now();
        while executor.borrow_mut().take_up(requests) {
            while executor.borrow_mut().must_wait_for_commits() {
                reactor_turn().await;
            }
            let mut open = executor.borrow_mut().run_turn();
            while let Some(turn) = open {
                reactor_turn().await;
                open = run_open_turn(&mut executor.borrow_mut(), turn, requests);
                busy_since = Instant::now();
            }
            let full_home = executor.borrow_mut().full_home.take();
            // An owner that is gone takes nothing in any more.
            while full_home
                .as_ref()
                .is_some_and(|home| home.len() >= FULL_BOXES_AT_HOME_MAX && !home.is_disconnected())
            {
                glommio::timer::sleep(CROWDED_HOME_PAUSE).await;
                busy_since = Instant::now();
            }
            if busy_since.elapsed() >= BUSY_SPAN_MAX {
                reactor_turn().await;
                busy_since = Instant::now();
            }
        }
    }
}

/// One step of a turn that a script has left open.
fn run_open_turn(
    executor: &mut StorageExecutor,
    mut turn: OpenTurn,
    requests: &flume::Receiver<Box<Batch>>,
) -> Option<OpenTurn> {
    if requests.is_disconnected() || !executor.reports_waiting.is_empty() {
        executor.stop_script(turn);
        return None;
    }
    if turn.script.command.is_busy() {
        executor.take_up(requests);
        executor.answer_busy(&mut turn);
    }
    executor.go_on(turn)
}

/// Begins or resumes a command that may pause; it is in `begun` if it does. A panic becomes an error.
fn run_pausing(
    command: &Command,
    context: &mut Context<'_>,
    metrics: &StorageMetrics,
    begun: &mut Option<Pausing>,
) -> Result<Driven, CommandError> {
    let run = || {
        let begun = match begun {
            Some(begun) => begun,
            None => begun.insert(Pausing::begin(command, context)?),
        };
        begun.drive(context)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        metrics.panics.add(1);
        tracing::error!(command = command.name, "a script panicked; its writes were dropped");
        Err(CommandError::Internal)
    })
}
