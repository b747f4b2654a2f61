//! A network executor: a core's tasks, in the order in which a request passes through them.
//!
//! In one turn of the reactor the tasks of the sockets that have bytes parse and dispatch commands
//! ([`super::dispatch`]); then the flusher sends one batch per storage executor. When batches come back, their replies
//! are put in order, and each connection's replies go out with one send.

use crate::channel::destinations::{Destinations, Flushed};
use crate::channel::message::{Batch, HANDED_BACK, Response};
use crate::channel::responses::Responses;
use crate::command::{Command, Handlers};
use crate::commands::StorageHandlers;
use crate::config::Settings;
use crate::executor::storage_executor::reactor_turn;
use crate::faults::{self, Bug};
use crate::network::accepting::Acceptor;
use crate::network::busy_polling::{BusyPolling, poll_receive};
use crate::network::connection::{Awaited, Connection, Input, SENT_BYTES_PER_TURN, Sent, UNREADY_BYTES_CHECKED_MIN};
use crate::network::coordinator::Transactions;
use crate::network::dispatch::Taken;
use crate::network::local_signal::LocalSignal;
use crate::network::session::NetworkHandler;
use crate::network::socket;
use crate::network::subscriptions::Subscriptions;
use crate::network::tracking_pushes::set_tracking;
use crate::network::transaction_steps::STEPS_FROM;
use crate::panics::{self, Panicked};
use crate::protocol::{Limits, Parsed, Parser, ProtocolError};
use crate::registry::inboxes::Posted;
use crate::registry::metrics::{NetworkMetrics, count_error};
use crate::registry::server_state::ServerState;
use futures_lite::AsyncWrite;
use glommio::net::{AcceptedTcpStream, TcpStream};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// One read takes at most this: larger pipelines are read in several turns, so that one client does not hold the
/// others.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A frame that is longer than a read is read in pieces of at most this.
const READ_FRAME_BYTES_MAX: usize = 1 << 20;

/// One read takes at most this of a client that waits in a blocking command and has sent others already: thousands of
/// clients may.
const READ_BEHIND_WAIT_BYTES: usize = 4096;

/// Replies of one batch that are sent on before the next batch is taken in: so a client that does not read is noticed
/// within that much of its limit.
const REPLY_BYTES_SENT_AT_ONCE: usize = 1 << 20;

/// What an unauthenticated client may have in its query buffer: its frames are limited far below that anyway.
const UNAUTHENTICATED_QUERY_BYTES_MAX: usize = 1 << 20;

/// How long the connections' tasks may take to end once they were told.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The handlers of all commands.
#[derive(Clone, Copy)]
pub struct ExecutorHandlers {
    /// Handlers that run on network executors.
    pub network: Handlers<NetworkHandler>,
    /// Handlers that run on storage executors.
    pub storage: StorageHandlers,
}

/// What a network executor is started with.
pub struct NetworkParts {
    /// What all executors share.
    pub server: Arc<ServerState>,
    /// What the executor runs: on connections, and as a coordinator on keys of several storage executors.
    pub handlers: ExecutorHandlers,
    /// Which of the network executors.
    pub index: usize,
    /// The ways to the storage executors.
    pub destinations: Destinations,
    /// Where the batches come back.
    pub responses: Responses,
    /// What others send to the executor's clients.
    pub inbox: flume::Receiver<Posted>,
    /// Connections accepted for this executor by the one that has the listeners.
    pub accepted: flume::Receiver<AcceptedTcpStream>,
    /// The listeners, if this executor is the one that has them.
    pub acceptor: Option<Acceptor>,
    /// How the executor looks at its sockets beside the reactor.
    pub polling: Polling,
}

/// How an executor looks at its sockets beside the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Not at all: it waits for others' answers.
    Never,
    /// While it is busy, and before it sleeps so long; `None`: as long as that pays.
    WhileBusy(Option<Duration>),
}

/// The state of one network executor, shared by its tasks.
pub struct NetworkExecutor {
    pub(super) server: Arc<ServerState>,
    pub(super) handlers: ExecutorHandlers,
    pub(super) index: usize,
    pub(super) destinations: RefCell<Destinations>,
    pub(super) connections: RefCell<Slab<Rc<Connection>>>,
    /// What others send to the executor's clients.
    pub(super) inbox: flume::Receiver<Posted>,
    pub(super) subscriptions: RefCell<Subscriptions>,
    pub(super) metrics: Arc<NetworkMetrics>,
    /// There are requests in open batches.
    pub(super) flush_wanted: LocalSignal,
    pub(super) request_timeout: Cell<Duration>,
    pub(super) settings: RefCell<Arc<Settings>>,
    pub(super) settings_version: Cell<u64>,
    /// Credits came back, a pause ended, or a connection that had to wait for its own commands need not any more.
    pub(super) room: LocalSignal,
    pub(super) transactions: RefCell<Transactions>,
    /// Connections that have output to send at the end of the turn.
    touched: RefCell<Vec<Rc<Connection>>>,
    /// What connections without unprocessed input read into.
    read_buffer: RefCell<Vec<u8>>,
    pub(super) busy_polling: Option<BusyPolling>,
    /// [`Connection::generation`] of the newest connection.
    pub(super) last_generation: Cell<u32>,
    pub(super) kills_seen: Cell<u64>,
    pub(super) unblocks_seen: Cell<u64>,
    pub(super) stopping: Cell<bool>,
}

/// Why processing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is no whole command left.
    WantsMore,
    /// There are no credits, clients are paused, or the connection must wait for its own commands.
    Blocked,
    /// The last command waits for something to happen, perhaps for ever.
    Waits,
}

/// Start and end.
impl NetworkExecutor {
    /// Serves until the server is asked to shut down and its clients' pending replies have left.
    pub async fn run(parts: NetworkParts) {
        let server = parts.server;
        let settings = server.settings.snapshot();
        let executor = Rc::new(NetworkExecutor {
            metrics: Arc::clone(&server.network[parts.index]),
            handlers: parts.handlers,
            index: parts.index,
            destinations: RefCell::new(parts.destinations),
            connections: RefCell::new(Slab::new()),
            inbox: parts.inbox.clone(),
            subscriptions: RefCell::new(Subscriptions::new(parts.index)),
            flush_wanted: LocalSignal::default(),
            request_timeout: Cell::new(Duration::from_millis(settings.request_timeout_ms)),
            settings_version: Cell::new(0),
            settings: RefCell::new(settings),
            room: LocalSignal::default(),
            transactions: RefCell::default(),
            touched: RefCell::new(Vec::new()),
            read_buffer: RefCell::new(vec![0; READ_BYTES_MAX]),
            busy_polling: match parts.polling {
                Polling::Never => None,
                // Without it, the reactor sees all.
                Polling::WhileBusy(spin) => BusyPolling::new(spin).ok(),
            },
            last_generation: Cell::new(0),
            kills_seen: Cell::new(0),
            unblocks_seen: Cell::new(0),
            stopping: Cell::new(false),
            server,
        });
        executor.take_over_settings();
        let mut tasks = vec![
            glommio::spawn_local(Rc::clone(&executor).flush_turns()),
            glommio::spawn_local(Rc::clone(&executor).poll_sockets()),
            glommio::spawn_local(Rc::clone(&executor).take_replies(parts.responses)),
            glommio::spawn_local(Rc::clone(&executor).take_deliveries(parts.inbox)),
            glommio::spawn_local(Rc::clone(&executor).adopt(parts.accepted)),
        ];
        if let Some(acceptor) = parts.acceptor {
            tasks.push(glommio::spawn_local(Rc::clone(&executor).listen(acceptor)));
        }
        executor.keep_house().await;
        let give_up_at = Instant::now() + CLOSE_MAX;
        while !executor.connections.borrow().is_empty() && Instant::now() < give_up_at {
            executor.room.notify();
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        for task in tasks {
            task.cancel().await;
        }
        // The storage executors end when the last sender is gone.
        executor.destinations.borrow_mut().close();
    }
}

/// From a socket's bytes to commands, which [`super::dispatch`] takes on.
impl NetworkExecutor {
    /// Reads and dispatches one client's commands until the client leaves or is made to.
    pub(super) async fn serve(self: Rc<Self>, mut stream: TcpStream, connection: Rc<Connection>) {
        let mut input = Input::new();
        while !connection.closed.get() {
            match self.read(&mut stream, &connection, &mut input).await {
                // As with Redis, a client that waits and closes its side is gone.
                Ok(Some(0)) if connection.is_waiting() => break,
                Ok(Some(0)) => {
                    // The client may have closed only its own side (`printf … | nc`): its commands are answered.
                    self.wait_until_drained(&connection).await;
                    break;
                }
                Err(_) => break,
                // A client that sends faster than it is served never lets a read wait, so without this no other task of
                // the executor would run again.
                Ok(Some(count)) if count >= READ_BYTES_MAX => reactor_turn().await,
                Ok(_) => {}
            }
            self.process_kept(&connection, &mut input).await;
            if connection.session.borrow().closing {
                self.wait_until_drained(&connection).await;
                break;
            }
        }
        self.forget(&connection);
    }

    /// Reads once; `None` if nothing was read because a command was answered that others wait behind.
    async fn read(
        self: &Rc<Self>,
        stream: &mut TcpStream,
        connection: &Rc<Connection>,
        input: &mut Input,
    ) -> io::Result<Option<usize>> {
        let count = match input.is_empty() {
            true => self.read_and_process(stream, connection, input).await?,
            false => match self.read_behind(stream, connection, input).await? {
                Some(count) => count,
                None => return Ok(None),
            },
        };
        self.metrics.bytes_in.add(count as u64);
        connection.client.bytes_in.add(count as u64);
        connection.client.active_at_ms.set(crate::clock::unix_ms());
        let query_bytes_max = match self.has_authenticated(connection) {
            true => self.settings.borrow().client_query_buffer_limit.as_usize(),
            false => UNAUTHENTICATED_QUERY_BYTES_MAX,
        };
        let queued_bytes = connection.session.borrow().transaction.memory();
        if input.len() + queued_bytes + connection.waiting_bytes.get() > query_bytes_max {
            self.server.totals.query_limit_disconnections.add(1);
            tracing::warn!(
                client = connection.client.id,
                "a client was disconnected because its query is too long"
            );
            return Ok(Some(0));
        }
        Ok(Some(count))
    }

    /// Reads into the executor's shared buffer, and processes the commands from there. Only bytes that were not
    /// processed are kept with the connection, so that an idle client holds no buffer.
    async fn read_and_process(
        self: &Rc<Self>,
        stream: &mut TcpStream,
        connection: &Rc<Connection>,
        input: &mut Input,
    ) -> io::Result<usize> {
        let read = poll_fn(|context| {
            let buffer = &mut self.read_buffer.borrow_mut();
            poll_receive(self, (&mut *stream, connection), context, buffer)
        });
        let count = read.await?;
        // No other task has run since, so the buffer holds what was read. It is taken out for as long as commands run.
        let buffer = self.read_buffer.take();
        let (consumed, progress) = self.process(connection, input, &buffer[..count]);
        input.bytes.extend_from_slice(&buffer[consumed..count]);
        *self.read_buffer.borrow_mut() = buffer;
        if progress == Progress::WantsMore {
            self.end_of_input(connection, input);
        }
        Ok(count)
    }

    /// Reads behind what the connection has kept. `None` if nothing was read because a command was answered that others
    /// wait behind.
    async fn read_behind(
        &self,
        stream: &mut TcpStream,
        connection: &Connection,
        input: &mut Input,
    ) -> io::Result<Option<usize>> {
        let len = input.bytes.len();
        let waited = connection.is_waiting();
        let piece = match waited {
            true => READ_BEHIND_WAIT_BYTES,
            false => input.wanted.clamp(READ_BYTES_MAX, READ_FRAME_BYTES_MAX),
        };
        input.bytes.resize(len + piece, 0);
        let read = poll_fn(|context| {
            let buffer = &mut input.bytes[len..];
            let read = poll_receive(self, (&mut *stream, connection), context, buffer);
            if read.is_pending() && waited {
                if !connection.is_waiting() {
                    return Poll::Ready(Ok(None));
                }
                *connection.answered.borrow_mut() = Some(context.waker().clone());
            }
            read.map_ok(Some)
        })
        .await;
        let count = read.as_ref().map_or(0, |count| count.unwrap_or(0));
        input.bytes.truncate(len + count);
        read
    }

    /// Processes what the connection has kept, waiting for credits and pauses, until no whole command is left.
    async fn process_kept(self: &Rc<Self>, connection: &Rc<Connection>, input: &mut Input) {
        // The connection's rank among those that wait. Kept until some of its commands were taken, and not longer: a
        // connection that wants all the credits there are must not always come first.
        let mut rank = None;
        while !input.is_empty() && !connection.closed.get() && !connection.session.borrow().closing {
            let bytes = std::mem::take(&mut input.bytes);
            let (consumed, progress) = self.process(connection, input, &bytes[input.start..]);
            input.bytes = bytes;
            input.start += consumed;
            input.compact();
            self.end_of_input(connection, input);
            match progress {
                // A client that waits must be seen to leave, so its socket is read meanwhile.
                Progress::WantsMore | Progress::Waits => return,
                Progress::Blocked => {
                    if consumed > 0 {
                        rank = None;
                    }
                    let rank = *rank.get_or_insert_with(|| self.room.take_rank());
                    self.room.next(rank).await;
                }
            }
        }
    }

    /// Dispatches the whole commands in `bytes`; returns how many bytes they were, and why no more were dispatched. A
    /// panic meanwhile ends this connection and no other: whatever changes what connections share ends the process
    /// itself ([`panics::uncontained`]).
    fn process(self: &Rc<Self>, connection: &Rc<Connection>, input: &mut Input, bytes: &[u8]) -> (usize, Progress) {
        let processed = panics::contain(|| self.process_commands(connection, input, bytes));
        processed.unwrap_or_else(|Panicked| {
            self.metrics.panics.add(1);
            tracing::error!(
                client = connection.client.id,
                "reading a client's commands panicked; the client was disconnected"
            );
            connection.abort();
            (bytes.len(), Progress::WantsMore)
        })
    }

    fn process_commands(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        input: &mut Input,
        bytes: &[u8],
    ) -> (usize, Progress) {
        faults::may_panic(Bug::Parse);
        let now = Instant::now();
        let mut limits = Limits {
            bulk_bytes_max: self.settings.borrow().proto_max_bulk_len.as_usize(),
            authenticated: self.has_authenticated(connection),
            ..Limits::default()
        };
        let mut consumed = 0;
        while consumed < bytes.len() {
            if self.stopping.get() {
                return (consumed, Progress::Blocked);
            }
            // A transaction sends its writes only when its keys are all here: the commands behind it may read them.
            if connection.coordinating.get() > 0 {
                return (consumed, Progress::Blocked);
            }
            if connection.is_waiting() {
                return (consumed, Progress::Waits);
            }
            if connection.fills_up() {
                return (consumed, Progress::Blocked);
            }
            let unread = &bytes[consumed..];
            match input.parser.parse(unread, &limits) {
                Ok(Parsed::Command { consumed: frame }) => {
                    if connection.client.is_killed() {
                        connection.abort();
                        return (bytes.len(), Progress::WantsMore);
                    }
                    match self.dispatch(connection, input.parser.arguments(unread), now) {
                        Taken::Yes => consumed += frame,
                        Taken::Paused => {
                            input.parser = Parser::new();
                            return (consumed, Progress::Blocked);
                        }
                    }
                    limits.authenticated = self.has_authenticated(connection);
                    // Commands behind the one that ended the connection are not run.
                    if connection.session.borrow().closing || connection.closed.get() {
                        return (bytes.len(), Progress::WantsMore);
                    }
                }
                Ok(Parsed::Empty { consumed: frame }) => consumed += frame,
                Ok(Parsed::Incomplete { wanted }) => {
                    input.wanted = wanted;
                    return (consumed, Progress::WantsMore);
                }
                Err(error) => {
                    self.refuse_bytes(connection, &error);
                    return (bytes.len(), Progress::WantsMore);
                }
            }
        }
        input.wanted = 1;
        (consumed, Progress::WantsMore)
    }

    /// Answers bytes that are no request, and closes the connection.
    fn refuse_bytes(&self, connection: &Rc<Connection>, error: &ProtocolError) {
        tracing::debug!(
            client = connection.client.id,
            address = %connection.client.address,
            ?error,
            "a client's bytes are no request"
        );
        let mut reply = b"-ERR ".to_vec();
        error.write_text(&mut reply);
        reply.extend_from_slice(b"\r\n");
        connection.session.borrow_mut().closing = true;
        let mut replies = connection.replies.borrow_mut();
        let sequence = replies.open(Awaited::Response, false);
        replies.complete(sequence, &reply, &mut connection.output.borrow_mut());
        drop(replies);
        self.touch(connection);
    }

    /// Publishes a connection's figures and sends what was answered at once.
    fn end_of_input(self: &Rc<Self>, connection: &Rc<Connection>, input: &Input) {
        let client = &connection.client;
        client.input_bytes.set(input.len() as u64);
        client.pending.set(connection.replies.borrow().len() as u64);
        connection.session.borrow().publish();
        if connection.touched.get() && connection.replies.borrow().is_empty() {
            self.flush_touched();
        }
        client.waiting_bytes.set(connection.waiting_bytes.get() as u64);
        connection.publish_output();
    }

    /// Waits until every pending command was answered and the socket has taken the replies, or the connection is gone.
    async fn wait_until_drained(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.flush_touched();
        poll_fn(|context| {
            let drained = connection.replies.borrow().is_empty() && connection.output.borrow().len() == 0;
            if drained || connection.closed.get() {
                return Poll::Ready(());
            }
            *connection.drained.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The client is gone, or made to go: nothing of it is left on this executor.
    fn forget(&self, connection: &Rc<Connection>) {
        connection.closed.set(true);
        self.give_up_wait(connection);
        self.drop_all_pieces(connection);
        connection.session.borrow_mut().transaction.reset();
        self.forget_watches(connection);
        let mut session = connection.session.borrow_mut();
        self.subscriptions.borrow_mut().leave(&self.server.pubsub, &mut session);
        set_tracking(&self.server.tracking, &mut session, None);
        drop(session);
        self.server.clients.remove(connection.client.id);
        let mut connections = self.connections.borrow_mut();
        let removed = connections.remove(connection.index as usize);
        assert!(
            Rc::ptr_eq(&removed, connection),
            "an index is one connection's at a time"
        );
        self.metrics.connections_closed.add(1);
        self.metrics.connections.set(connections.len() as u64);
    }
}

/// Between commands and batches: dispatched requests lie in the open batches of [`Destinations`].
impl NetworkExecutor {
    /// Sends the open batches at the end of each turn that filled some: the queue of tasks is first in, first out, so
    /// this one runs behind all tasks that the same poll woke.
    async fn flush_turns(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.flush_wanted.happened_since(seen, 0).await;
            self.flush_destinations();
        }
    }

    /// Sends the open batches.
    pub(super) fn flush_destinations(&self) {
        let flushed = self.destinations.borrow_mut().flush();
        self.count_flushed(flushed);
    }

    fn count_flushed(&self, flushed: Flushed) {
        self.metrics.batches.add(flushed.batches);
        self.metrics.requests.add(flushed.requests);
        self.metrics.send_failures.add(flushed.failures);
    }

    /// Offers batches again that a channel did not take; answers those that were not handed over in time.
    pub(super) fn retry_destinations(self: &Rc<Self>) {
        let (flushed, given_up) = self.destinations.borrow_mut().retry();
        self.count_flushed(flushed);
        given_up.into_iter().for_each(|batch| self.take_batch(batch));
        self.flush_touched();
    }
}

/// From batches that come back to replies in the order of their commands.
impl NetworkExecutor {
    /// Takes in the batches that come back, and sends each connection's replies once.
    async fn take_replies(self: Rc<Self>, responses: Responses) {
        while let Some(batch) = responses.next().await {
            self.take_batch(batch);
            // Bounded by the credits: no more batches can be under way.
            while let Some(batch) = responses.try_next() {
                self.take_batch(batch);
            }
            self.flush_touched();
            if self.destinations.borrow_mut().take_freed() {
                self.room.notify();
            }
        }
    }

    fn take_batch(self: &Rc<Self>, batch: Box<Batch>) {
        faults::may_panic(Bug::Network);
        // A client that sees the reply to a write, and asks a client of this executor that caches the key, must find
        // the latter told. What the write has outdated was sent before its reply.
        if self.server.tracking.is_used() {
            self.deliver_now();
        }
        for response in &batch.responses {
            self.take_response(&batch, response);
        }
        self.metrics.responses.add(batch.responses.len() as u64);
        self.metrics
            .round_trip_ns
            .record(batch.sent_at.elapsed().as_nanos() as u64);
        let is_large = batch.replies.len() >= REPLY_BYTES_SENT_AT_ONCE;
        self.destinations.borrow_mut().recycle(batch);
        if is_large {
            self.flush_touched();
        }
    }

    /// A response came back: as a rule the reply of a command. [`super::partial_replies`] has what else it may be.
    #[inline]
    fn take_response(self: &Rc<Self>, batch: &Batch, response: &Response) {
        if response.id.connection >= STEPS_FROM {
            return self.take_step(batch, response);
        }
        if response.more == HANDED_BACK {
            return self.take_back(batch, response);
        }
        let Some(connection) = self.open_connection(response.id.connection, response.id.generation) else {
            return self.take_for_nobody(batch, response);
        };
        connection.count_back_at(batch.priority);
        let reply = batch.reply(response);
        if reply.is_empty() && response.more == 0 {
            // What became of the command is unknown (its shard's sync failed): neither OK nor an error would be true.
            // Or the remainder of a large reply is missing.
            connection.abort();
            return;
        }
        if connection.is_waiting() && self.take_while_waiting(&connection, batch, response) {
            return;
        }
        let sequence = response.id.sequence;
        let mut replies = connection.replies.borrow_mut();
        match replies.pending(sequence).map(|pending| &pending.awaited) {
            Some(Awaited::Response) if response.more == 0 => {
                self.count(response.command, u64::from(response.took_ns), reply);
                replies.complete(sequence, reply, &mut connection.output.borrow_mut());
            }
            Some(_) => {
                drop(replies);
                self.take_partial(&connection, batch, response);
            }
            None => return,
        }
        self.touch(&connection);
    }

    /// The connection at an index, if it is still the one of a generation, and open.
    #[inline]
    pub(super) fn open_connection(&self, index: u32, generation: u32) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let connection = connections.get(index as usize)?;
        (connection.generation == generation && !connection.closed.get()).then(|| Rc::clone(connection))
    }

    /// Counts a command that was answered.
    #[inline]
    pub(super) fn count(&self, command: &Command, took_ns: u64, reply: &[u8]) {
        let failed = reply.first() == Some(&b'-');
        if let Some(counters) = self.metrics.commands.get(command.index()) {
            counters.calls.add(1);
            counters.took_ns.add(took_ns);
            if failed {
                counters.failed.add(1);
            }
        }
        if failed {
            self.count_error(reply);
        }
    }

    /// Counts an error that was answered.
    pub(super) fn count_error(&self, reply: &[u8]) {
        if reply.starts_with(b"-TIMEOUT") {
            self.metrics.timeouts.add(1);
        }
        count_error(&self.metrics.errors, reply);
    }
}

/// From replies to the sockets.
impl NetworkExecutor {
    /// Has a connection's output sent at the end of the turn.
    #[inline]
    pub(super) fn touch(&self, connection: &Rc<Connection>) {
        if !connection.touched.replace(true) {
            self.touched.borrow_mut().push(Rc::clone(connection));
        }
    }

    /// Sends the output of the connections that have some.
    pub(super) fn flush_touched(self: &Rc<Self>) {
        let mut touched = self.touched.take();
        for connection in touched.drain(..) {
            connection.touched.set(false);
            self.flush_connection(&connection);
        }
        // The list's capacity is used again, unless somebody has begun a new one.
        if self.touched.borrow().is_empty() {
            *self.touched.borrow_mut() = touched;
        }
    }

    /// Sends what the socket takes of a connection's output.
    fn flush_connection(self: &Rc<Self>, connection: &Rc<Connection>) {
        if connection.closed.get() {
            return;
        }
        self.advance_pieces(connection);
        let (sent, outcome) = connection.flush();
        self.advance_pieces(connection);
        self.metrics.bytes_out.add(sent as u64);
        connection.client.bytes_out.add(sent as u64);
        connection.publish_output();
        let is_checked = outcome == Sent::Some || connection.unready_bytes() >= UNREADY_BYTES_CHECKED_MIN;
        match outcome {
            Sent::Closed => connection.abort(),
            _ if is_checked && self.exceeds_output_limit(connection, Instant::now()) => {
                self.close_for_output(connection);
            }
            Sent::All => {}
            Sent::Some => {
                if !std::mem::replace(&mut connection.output.borrow_mut().writer_waits, true) {
                    glommio::spawn_local(Rc::clone(self).write_when_possible(Rc::clone(connection))).detach();
                }
            }
        }
        if connection.replies.borrow().is_empty() {
            connection.wake_reader();
        }
        if connection.has_emptied() {
            self.room.notify();
        }
    }

    /// Waits for room in a socket's send buffer and sends on, until everything has left.
    async fn write_when_possible(self: Rc<Self>, connection: Rc<Connection>) {
        let Ok(duplicate) = socket::duplicate(connection.socket) else {
            connection.abort();
            return;
        };
        let mut stream = socket::stream_from(duplicate);
        while !connection.closed.get() && connection.output.borrow().len() > 0 {
            // The first byte goes through glommio, which waits for room; the other bytes follow in large sends.
            let written = poll_fn(|context| {
                let output = connection.output.borrow();
                AsyncWrite::poll_write(Pin::new(&mut stream), context, output.unsent())
            })
            .await;
            match written {
                Ok(count) => {
                    connection.output.borrow_mut().advance(count);
                    let (sent, outcome) = connection.flush();
                    self.advance_pieces(&connection);
                    if sent >= SENT_BYTES_PER_TURN {
                        // The client reads as fast as we send: the others get their turn.
                        reactor_turn().await;
                    }
                    self.metrics.bytes_out.add((count + sent) as u64);
                    connection.client.bytes_out.add((count + sent) as u64);
                    connection.publish_output();
                    if outcome == Sent::Closed {
                        connection.abort();
                    }
                }
                Err(_) => connection.abort(),
            }
        }
        connection.output.borrow_mut().writer_waits = false;
        connection.wake_reader();
    }
}
