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
use super::pieces::{Pieces, RepliesBegun, Written};
use super::shard::{RolledBack, Shard, ShardState};
use super::syncer::{SyncReport, Syncer};
use super::view::{Shards, View};
use super::waiters::Claim;
use crate::channel::message::{
    Batch, Caller, FULL_BOXES_AT_HOME_MAX, Priority, REPLY_BYTES_FULL, Request, RequestId, Response, SEVERAL_SHARDS,
};
use crate::commands::effects::Effects;
use crate::commands::table::{BLOCKING, Command, READ, Runs, WAIT_DURABLE, WRITE};
use crate::commands::waiting::{Waiting, may_wait};
use crate::commands::{Context, hash};
use crate::config::{Durability, Settings, SharedSettings};
use crate::error::CommandError;
use crate::network::clients::Ticket;
use crate::observe::metrics::{ShardMetrics, StorageMetrics};
use crate::preflight;
use crate::protocol::{Arguments, Reply, Span, Version};
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

/// Everything that a storage executor owns.
pub struct StorageExecutor {
    shards: Shards,
    committer: CommitThread,
    syncer: Syncer,
    settings: SharedSettings,
    settings_version: u64,
    current: Arc<Settings>,
    metrics: Arc<StorageMetrics>,
    shard_metrics: Vec<Arc<ShardMetrics>>,
    queue: PriorityQueue,
    held: VecDeque<Box<Batch>>,
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
    /// The shards note which keys are written.
    notes_modified: bool,
    /// What the running command does beside writing and replying.
    effects: Effects,
    random: u64,
    slow_figures_at: Instant,
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
}

impl Handled {
    fn failed(error: CommandError) -> Handled {
        Handled {
            result: Err(error),
            pieces: None,
            waits: None,
        }
    }
}

/// The client that sent a command is gone, or was answered otherwise.
struct NobodyWaits;

impl StorageExecutor {
    /// `shard_metrics` are those of `shards`, in their order.
    pub fn new(
        mut shards: Shards,
        committer: CommitThread,
        syncer: Syncer,
        settings: SharedSettings,
        metrics: Arc<StorageMetrics>,
        shard_metrics: Vec<Arc<ShardMetrics>>,
    ) -> StorageExecutor {
        let (settings_version, current) = (settings.version(), settings.snapshot());
        // The start may have committed a turn, to make the shards agree on their database map.
        for (place, shard) in shards.list_mut().iter_mut().enumerate() {
            shard.set_committer(Arc::clone(&committer.committer), place);
        }
        let turn = shards.list().iter().map(Shard::committed_epoch).max().unwrap_or(0);
        let published_epochs = vec![0; shards.list().len()];
        StorageExecutor {
            shards,
            committer,
            syncer,
            settings,
            settings_version,
            current,
            metrics,
            shard_metrics,
            queue: PriorityQueue::default(),
            held: VecDeque::new(),
            full_home: None,
            turn,
            published_epochs,
            sweep_waits: false,
            woken: Vec::new(),
            durable_waits: Vec::new(),
            notes_modified: false,
            effects: Effects::default(),
            random: crate::clock::unix_us() | 1,
            slow_figures_at: Instant::now(),
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
                on_report.borrow_mut().on_sync(&report);
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
        !self.queue.is_empty()
    }

    fn settings_are_current(&mut self) {
        if self.settings.version() != self.settings_version {
            self.settings_version = self.settings.version();
            self.current = self.settings.snapshot();
            // It sleeps by the old setting.
            self.syncer.sync_soon();
        }
    }

    /// Runs what is queued: one turn of at most `batch-size` requests.
    fn run_turn(&mut self) {
        self.settings_are_current();
        self.take_up_commits();
        let began = Instant::now();
        self.turn += 1;
        self.shards.begin_turn(self.turn, crate::clock::unix_ms());
        let mut done: Vec<Box<Batch>> = Vec::new();
        let mut count = 0;
        let mut now = began;
        while count < self.current.batch_size {
            let Some(mut batch) = self.queue.pop() else { break };
            if batch.run == 0 {
                batch.received_at = began;
                self.metrics
                    .queue_ns
                    .record(began.saturating_duration_since(batch.sent_at).as_nanos() as u64);
            }
            let run_before = batch.run;
            while batch.run < batch.requests.len() && batch.replies.len() < REPLY_BYTES_FULL {
                let request = batch.requests[batch.run];
                now = self.run_request(&mut batch, &request, now);
                batch.run += 1;
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

    /// Runs one request and appends its response, unless it waits; returns the time at its end.
    fn run_request(&mut self, batch: &mut Batch, request: &Request, began: Instant) -> Instant {
        if std::ptr::eq(request.command, &WAIT_DURABLE) {
            self.answer_when_durable(batch, request);
            return began;
        }
        let claim = match self.claim_of(batch, request) {
            Ok(claim) => claim,
            // Its client is gone, or was answered by another executor.
            Err(NobodyWaits) => {
                batch.responses.push(waits_notice(request));
                return began;
            }
        };
        let start = batch.replies.len();
        let outcome = if began > request.deadline {
            self.metrics.timeouts.add(1);
            self.shards.begin_command();
            Handled::failed(CommandError::Timeout)
        } else {
            let (arguments, replies) = batch.parts(request);
            self.run_handler(request.command, request.caller, arguments, replies)
        };
        let Some(claim) = claim else {
            let ended = self.settle(
                outcome,
                (request.id, request.command, request.caller),
                batch,
                start,
                began,
            );
            self.after_command(ended);
            return ended;
        };
        match outcome.waits {
            Some(waiting) if outcome.result.is_ok() => {
                self.shards.keep_command();
                // It does not wake itself by what it wrote.
                self.after_command(began);
                batch.replies.truncate(start);
                self.shards.waiters.add(batch, request, claim, &waiting, began);
                self.note_modified(true);
                batch.responses.push(waits_notice(request));
                Instant::now()
            }
            _ if !claim.take() => {
                self.shards.roll_back_command();
                batch.replies.truncate(start);
                batch.responses.push(waits_notice(request));
                began
            }
            _ => {
                let ended = self.settle(
                    outcome,
                    (request.id, request.command, request.caller),
                    batch,
                    start,
                    began,
                );
                self.forget_command(&claim);
                self.after_command(ended);
                ended
            }
        }
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

    /// Runs a command's handler. What it staged neither stands nor is dropped yet.
    fn run_handler(
        &mut self,
        command: &Command,
        caller: Caller,
        arguments: Arguments<'_>,
        replies: &mut Vec<u8>,
    ) -> Handled {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.shards.begin_command();
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
        let result = run_contained(command, &mut context, &self.metrics);
        let (pieces, waits) = (context.pieces.take(), context.waits.take());
        let result = match replies.len() <= REPLY_BYTES_MAX {
            true => result,
            false => Err(CommandError::text("ERR the reply is longer than 4 GiB")),
        };
        Handled { result, pieces, waits }
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
        let mut more = 0;
        let failed = handled.result.is_err();
        if let Some(rest) = handled.pieces.filter(|_| !failed) {
            match self.write_pieces(rest, &mut batch.replies, caller.version) {
                Some(number) => more = number,
                None => batch.replies.truncate(start),
            }
        }
        match handled.result {
            Ok(()) => self.shards.keep_command(),
            Err(error) => {
                self.shards.roll_back_command();
                batch.replies.truncate(start);
                Reply::new(&mut batch.replies, caller.version).error(error.to_string());
            }
        }
        let ended = Instant::now();
        let touched = self.shards.touched();
        if command.flags.has(READ) {
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

    /// Writes the next piece of a reply, or all of the rest if too many have begun; returns the number of what is left, 0 for
    /// nothing. `None` if it cannot be read to its end: an empty reply, with no more to come, closes the connection.
    fn write_pieces(&mut self, mut rest: Pieces, replies: &mut Vec<u8>, version: Version) -> Option<u64> {
        loop {
            match rest.write_next(replies, version) {
                Written::Piece if self.shards.replies_begun.has_room() => {
                    return Some(self.shards.replies_begun.keep(rest));
                }
                Written::Piece => {}
                Written::All => return Some(0),
                Written::Broken => return None,
            }
        }
    }

    /// Commits what each shard staged in this turn (or in earlier ones, if it was stalled or its batch is with the committer).
    fn commit(&mut self, done: &mut [Box<Batch>]) {
        let mut any = false;
        for place in 0..self.shards.list().len() {
            let shard = &mut self.shards.list_mut()[place];
            if shard.is_committing() {
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
        }
        if any && self.current.durability == Durability::Always {
            self.syncer.sync_soon();
        }
    }

    /// Answers those who wait for writes of the shard at `place` that were rolled back, if any were.
    fn answer_rolled_back(&mut self, place: usize, done: &mut [Box<Batch>]) {
        if let Some(rolled_back) = self.shards.list_mut()[place].take_rolled_back() {
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

    /// Lets go of the held batches that the commits and syncs have caught up with.
    fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let released = self.released_epochs();
        for batch in std::mem::take(&mut self.held) {
            self.release_or_hold(batch, &released);
        }
    }

    /// The committer has written batches, or failed to: replies leave, and what was staged meanwhile is committed.
    fn on_commit(&mut self) {
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
        let now_ms = crate::clock::unix_ms();
        self.turn += 1;
        self.shards.begin_turn(self.turn, now_ms);
        self.sweep_waits = false;
        let budget = self.current.expire_keys_per_turn;
        let mut hashes = Vec::new();
        for (shard, metrics) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics) {
            if shard.is_committing() {
                self.sweep_waits = true;
                continue;
            }
            match expiry::sweep(shard, now_ms, budget, &mut hashes) {
                Ok(expired) => metrics.expired_keys.add(expired as u64),
                // A shard that takes no writes keeps its expired keys, invisible as they are.
                Err(CommandError::DiskFull | CommandError::Stalled | CommandError::ShardDown(_)) => {}
                Err(error) => tracing::warn!(shard = shard.id().0, %error, "the expiry sweep failed"),
            }
        }
        self.expire_fields(&hashes, now_ms, budget);
    }

    /// A sync ended: replies leave, or the shard stops.
    fn on_sync(&mut self, report: &SyncReport) {
        if let Err(error) = &report.result {
            let durable_epoch = self.syncer.durable_epoch(report.place);
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

    /// What is to be done every [`HOUSEKEEPING_INTERVAL`], whether there is work or not.
    fn keep_house(&mut self) {
        self.settings_are_current();
        self.sweep();
        self.after_command(Instant::now());
        let mut done = std::mem::take(&mut self.woken);
        self.commit(&mut done);
        let released = self.released_epochs();
        for batch in done {
            self.release_or_hold(batch, &released);
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
                    self.shards.keep_command();
                    budget -= expired.min(budget);
                }
                Err(error) => {
                    self.shards.roll_back_command();
                    tracing::debug!(%error, "fields of a hash stay for the next sweep");
                }
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
            metrics.cache_bytes.set(shard.records().bytes() as u64);
            metrics.cache_records.set(shard.records().len() as u64);
            metrics.committed_epoch.set(shard.committed_epoch());
            metrics.durable_epoch.set(self.syncer.durable_epoch(place));
            if slow_figures_due {
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
        for shard in self.shards.list() {
            shard.database().stop_background_work();
        }
        synced && all_committed
    }
}

/// How far the shards' commits (and syncs, if replies wait for them) have come.
struct Released {
    by_place: Vec<u64>,
    lowest: u64,
}

impl Released {
    fn includes(&self, response: &Response) -> bool {
        let released = match response.shard {
            SEVERAL_SHARDS => self.lowest,
            place => self.by_place[usize::from(place)],
        };
        response.commit_epoch <= released
    }

    /// Sends home the batch, or those of its responses that may leave; returns the rest.
    fn send_what_may_leave(&self, mut batch: Box<Batch>) -> Option<Box<Batch>> {
        if self.lowest == u64::MAX || batch.responses.iter().all(|response| self.includes(response)) {
            batch.send_home();
            return None;
        }
        if let Some(ready) = batch.split_off(|response| self.includes(response)) {
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
            if !(in_part && response.command.flags.has(WRITE)) {
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

/// Runs a handler; a panic becomes an error, and the executor lives.
fn run_contained(command: &Command, context: &mut Context<'_>, metrics: &StorageMetrics) -> Result<(), CommandError> {
    let handler = match command.runs {
        Runs::Shard(handler)
        | Runs::Split(handler, _)
        | Runs::Transaction(handler)
        | Runs::All(handler, _)
        | Runs::Cursor(handler) => handler,
        Runs::Network(_) | Runs::Container => return Err(CommandError::Internal),
    };
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
            executor.borrow_mut().run_turn();
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
