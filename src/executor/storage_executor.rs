//! A storage executor: what it owns, its start and its end.
//!
//! Its turns are in [`turn`](super::turn): take what has arrived in the order of its priorities
//! ([`queue`](super::queue)); run each request's handler on its shard ([`request`](super::request)); log what the
//! shards staged as one frame; send back each batch whose replies may leave,
//! and hold the others until the syncer has caught up with them ([`release`](super::release)).

use super::blocked_commands::DurableWait;
use super::housekeeping::House;
use super::key_interests::KeyInterests;
use super::queue::PriorityQueue;
use super::turn::{Batches, serve};
use crate::channel::message::Batch;
use crate::commands::StorageHandlers;
use crate::commands::effects::Effects;
use crate::config::{Settings, SharedSettings};
use crate::executor::checkpointer::{CheckpointReport, Checkpointer};
use crate::executor::disk_readers::{DiskReaders, ShardRead};
use crate::executor::disk_watch::DiskWatch;
use crate::executor::disposer::Disposer;
use crate::executor::missed_requests::MissedRequests;
use crate::executor::outbox::Outbox;
use crate::executor::parked_requests::Parked;
use crate::executor::reclaimer::Reclaimer;
use crate::executor::stepped_requests::SteppedRequests;
use crate::executor::syncer::{SyncReport, Syncer};
use crate::registry::clients::Clients;
use crate::registry::metrics::{ShardMetrics, StorageMetrics};
use crate::registry::server_state::HOUSEKEEPING_INTERVAL;
use crate::registry::subscribers::PubSub;
use crate::registry::tracked_keys::Tracking;
use crate::scripts::registry::ScriptSeat;
use crate::storage::database::DatabaseError;
use crate::storage::shard::Shard;
use crate::storage::shards::Shards;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lets the executor's other tasks run and its reactor look at sockets, timers and wakes. A plain yield would only do
/// the former (PITFALLS 2), and a timer that is due when it is first polled neither: this one is due a moment later.
pub async fn reactor_turn() {
    glommio::timer::sleep(REACTOR_TURN_DELAY).await;
}

/// More than the time between making a timer and polling it, less than anybody notices.
const REACTOR_TURN_DELAY: Duration = Duration::from_micros(2);

/// How long a shutdown waits for a stalled shard to take its last batch.
const STALLED_AT_SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Everything that a storage executor owns.
pub struct StorageExecutor {
    pub(super) handlers: StorageHandlers,
    pub(super) shards: Shards,
    pub(super) interests: KeyInterests,
    pub(super) script_seat: ScriptSeat,
    pub(super) threads: Threads,
    pub(super) settings: FollowedSettings,
    pub(super) metrics: Arc<StorageMetrics>,
    pub(super) shard_metrics: Vec<Arc<ShardMetrics>>,
    pub(super) queue: PriorityQueue,
    pub(super) held: VecDeque<Box<Batch>>,
    /// Requests that wait for transactions over several executors.
    pub(super) parked: Parked,
    /// Requests that wait for the disk.
    pub(super) missed: MissedRequests,
    /// Requests whose commands come in steps.
    pub(super) stepped: SteppedRequests,
    /// The number of the turn, and of what it writes.
    pub(super) epoch: u64,
    pub(super) log_care: LogCare,
    pub(super) house: House,
    /// Answers to commands that waited, of the turn.
    pub(super) woken: Batches,
    /// Clients that wait until what was written is on disk.
    pub(super) durable_waits: Vec<DurableWait>,
    /// What the running command does beside writing and replying.
    pub(super) effects: Effects,
    /// What commands did that is not logged yet.
    pub(super) outbox: Outbox,
    pub(super) random: u64,
    pub(super) long_script: LongScript,
    /// The executor's own sender of requests, to wake itself by.
    pub(super) requests: flume::WeakSender<Box<Batch>>,
}

/// Whether a script keeps its turn open, or is to have a turn of its own.
#[derive(Default)]
pub(super) struct LongScript {
    /// A script has begun and waits to go on: its writes are staged, so nothing else may stage or be logged.
    pub(super) is_open: bool,
    /// The script that comes next is known to be long and gets a turn of its own.
    pub(super) is_next: bool,
    /// Why the log has ended while a script was open, which cannot be dealt with before the script is over.
    pub(super) failure: Option<DatabaseError>,
}

/// How far the executor has followed its log.
pub(super) struct LogCare {
    /// When the segment that is written was sealed last.
    pub(super) last_seal: Instant,
    /// What was logged since deletes keys.
    pub(super) deletes_keys: bool,
    /// The watermark that the reclaimer knows of.
    pub(super) watermark: u32,
    /// There are records to be worked off.
    pub(super) has_work: bool,
    /// How many the turns are to work off at least: see [`StorageExecutor::begin_turn`].
    pub(super) records_owed: usize,
}

/// The settings, and what the executor has last read of them.
pub(super) struct FollowedSettings {
    shared: SharedSettings,
    version: u64,
    pub(super) current: Arc<Settings>,
}

impl FollowedSettings {
    fn new(shared: SharedSettings) -> FollowedSettings {
        FollowedSettings {
            version: shared.version(),
            current: shared.snapshot(),
            shared,
        }
    }

    /// Reads the settings if they have changed; returns whether they have.
    fn follow(&mut self) -> bool {
        let version = self.shared.version();
        let has_changed = version != self.version;
        if has_changed {
            self.version = version;
            self.current = self.shared.snapshot();
        }
        has_changed
    }
}

/// The executor's ends of the threads that work for it.
pub struct Threads {
    /// Waits for the disk.
    pub syncer: Syncer,
    /// Gives RocksDB what was logged.
    pub checkpointer: Checkpointer,
    /// Gives the space of dead collections back.
    pub reclaimer: Reclaimer,
    /// Looks at the disk.
    pub disk_watch: DiskWatch,
    /// Gives memory back.
    pub disposer: Disposer,
    /// Read what commands have missed.
    pub disk_readers: DiskReaders,
}

/// Where the threads tell what they have done.
pub struct Reports {
    /// Of the checkpointer.
    pub checkpoints: flume::Receiver<CheckpointReport>,
    /// Of the syncer.
    pub syncs: flume::Receiver<SyncReport>,
    /// Of the disk's readers.
    pub fetched: flume::Receiver<ShardRead>,
}

/// What a storage executor is made of.
pub struct ExecutorParts {
    /// Where the executor gets its requests from.
    pub requests: flume::WeakSender<Box<Batch>>,
    /// What it runs.
    pub handlers: StorageHandlers,
    /// Its shards.
    pub shards: Shards,
    /// The scripts that are known, and the executor's number among those that run them.
    pub script_seat: ScriptSeat,
    /// The clients that are connected; none of an embedded engine.
    pub clients: Arc<Clients>,
    /// The threads that work for the executor.
    pub threads: Threads,
    /// The settings.
    pub settings: SharedSettings,
    /// Where events and messages are published.
    pub pubsub: Arc<PubSub>,
    /// The clients that are told of outdated keys.
    pub tracking: Arc<Tracking>,
    /// What the executor counts.
    pub metrics: Arc<StorageMetrics>,
    /// What it counts of each shard, by shard index.
    pub shard_metrics: Vec<Arc<ShardMetrics>>,
}

impl StorageExecutor {
    /// Puts an executor together.
    pub fn new(parts: ExecutorParts) -> StorageExecutor {
        let ExecutorParts {
            requests,
            handlers,
            mut shards,
            script_seat,
            clients,
            threads,
            settings,
            pubsub,
            tracking,
            metrics,
            shard_metrics,
        } = parts;
        assert_eq!(shard_metrics.len(), shards.list().len(), "metrics go by shard index");
        let settings = FollowedSettings::new(settings);
        // Half of a destination's credits, if all shards are stalled at once.
        let writes_while_stalled_max = settings.current.request_credits / 2 / shards.list().len().max(1);
        for shard in shards.list_mut() {
            shard.set_writes_while_stalled_max(writes_while_stalled_max);
        }
        // The start has had some turns, to make the shards agree.
        let epoch = shards.list().iter().map(Shard::epoch).max().unwrap_or(0);
        StorageExecutor {
            handlers,
            interests: KeyInterests::new(Arc::clone(&tracking), clients, Arc::clone(&metrics)),
            script_seat,
            shards,
            threads,
            metrics,
            shard_metrics,
            queue: PriorityQueue::default(),
            held: VecDeque::new(),
            parked: Parked::default(),
            missed: MissedRequests::default(),
            stepped: SteppedRequests::default(),
            epoch,
            log_care: LogCare {
                last_seal: Instant::now(),
                deletes_keys: false,
                watermark: 0,
                has_work: false,
                records_owed: 0,
            },
            house: House::new(),
            effects: Effects {
                classes: settings.current.notify_keyspace_events,
                ..Effects::default()
            },
            settings,
            outbox: Outbox::new(pubsub, tracking),
            woken: Vec::new(),
            durable_waits: Vec::new(),
            random: crate::clock::unix_us() | 1,
            long_script: LongScript::default(),
            requests,
        }
    }

    /// Serves `requests` until every sender is gone, then syncs and closes the shards. Returns whether all that was
    /// written is on disk.
    pub async fn run(mut self, requests: flume::Receiver<Box<Batch>>, reports: Reports) -> bool {
        self.resume_removals();
        let Reports {
            checkpoints,
            syncs,
            fetched,
        } = reports;
        let executor = Rc::new(RefCell::new(self));
        executor.borrow_mut().publish_all();
        let on_report = Rc::clone(&executor);
        let sync_task = glommio::spawn_local(async move {
            while let Ok(report) = syncs.recv_async().await {
                on_report.borrow_mut().step(|executor| executor.on_sync(report));
            }
        });
        let on_fetched = Rc::clone(&executor);
        let fetch_task = glommio::spawn_local(async move {
            while let Ok(read) = fetched.recv_async().await {
                on_fetched
                    .borrow_mut()
                    .step(|executor| executor.on_fetched(read, &fetched));
                // Those that ran again may wait for members now.
                while on_fetched.borrow_mut().run_set_aside() {
                    reactor_turn().await;
                }
            }
        });
        let on_checkpoint = Rc::clone(&executor);
        let checkpoint_task = glommio::spawn_local(async move {
            while let Ok(report) = checkpoints.recv_async().await {
                on_checkpoint
                    .borrow_mut()
                    .step(|executor| executor.on_checkpoint(report));
            }
        });
        let on_tick = Rc::clone(&executor);
        let tick_task = glommio::spawn_local(async move {
            loop {
                let pause = on_tick.borrow().house.pause;
                glommio::timer::sleep(pause).await;
                on_tick.borrow_mut().step(StorageExecutor::tick);
            }
        });
        let deadline_task = glommio::spawn_local(super::blocked_commands::answer_late(Rc::clone(&executor)));
        serve(&executor, &requests).await;
        // A command that a stall holds up is given up, unanswered.
        let waits = |executor: &StorageExecutor| !executor.missed.is_empty() || executor.has_steps();
        while waits(&executor.borrow()) {
            while executor.borrow_mut().run_set_aside() {
                reactor_turn().await;
            }
            glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
        }
        let give_up = Instant::now() + STALLED_AT_SHUTDOWN_MAX;
        while executor.borrow().shards.has_staged() && Instant::now() < give_up {
            glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
        }
        deadline_task.cancel().await;
        tick_task.cancel().await;
        checkpoint_task.cancel().await;
        fetch_task.cancel().await;
        sync_task.cancel().await;
        match Rc::try_unwrap(executor) {
            Ok(executor) => executor.into_inner().close(),
            Err(_) => unreachable!("both tasks that share the executor have ended"),
        }
    }

    /// Does something that is not a turn of requests, and measures how long that holds the executor.
    pub(super) fn step(&mut self, run: impl FnOnce(&mut StorageExecutor)) {
        let began = Instant::now();
        run(self);
        self.metrics.longest_step.record_since(began);
    }

    /// Its number among the storage executors.
    pub(super) fn number(&self) -> usize {
        self.shard_metrics.first().map_or(0, |metrics| metrics.executor)
    }

    pub(super) fn settings_are_current(&mut self) {
        if self.settings.follow() {
            self.effects.classes = self.settings.current.notify_keyspace_events;
            // The syncer sleeps by the old setting.
            self.threads.syncer.sync_soon();
        }
    }

    /// Syncs what is left, lets the last replies go and closes the databases.
    pub(super) fn close(mut self) -> bool {
        self.commit(&mut []);
        let all_logged =
            !self.shards.has_staged() && self.shards.list().iter().all(|shard| shard.check_readable().is_ok());
        if let Some(log) = self.shards.log_mut() {
            log.seal();
        }
        let synced = self.threads.syncer.stop();
        if synced && all_logged {
            std::mem::take(&mut self.held).into_iter().for_each(Batch::send_back);
        }
        // What RocksDB does not get now the next start reads from the log.
        self.threads.checkpointer.stop();
        self.threads.disk_watch.stop();
        self.threads.disposer.stop();
        self.threads.disk_readers.stop();
        self.threads.reclaimer.stop();
        for shard in self.shards.list() {
            shard.database().stop_background_work();
        }
        self.threads.reclaimer.join();
        synced && all_logged
    }
}
