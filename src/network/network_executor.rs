//! A network executor: the connections of one core, from accept to close.
//!
//! One turn of the reactor: the tasks of the sockets that have bytes parse and dispatch commands; then the flusher
//! sends one batch per storage executor; when batches come back, their replies are put in order and each connection's go
//! out with one send.

use crate::channel::destinations::{Destinations, Flushed};
use crate::channel::message::Batch;
use crate::channel::responses::Responses;
use crate::command::{Command, Handlers};
use crate::commands::StorageHandlers;
use crate::config::Settings;
use crate::error::CommandError;
use crate::executor::storage_executor::reactor_turn;
use crate::faults::{self, Bug};
use crate::network::connection::{
    Connection, Input, Output, Replies, SENT_BYTES_PER_TURN, Sent, UNREADY_BYTES_CHECKED_MIN,
};
use crate::network::coordinator::Transactions;
use crate::network::dispatch::Taken;
use crate::network::multi_state::TransactionState;
use crate::network::session::{Deferred, NetworkHandler, ReplyMode, Session};
use crate::network::socket;
use crate::network::subscriptions::Subscriptions;
use crate::network::tracking_pushes::set_tracking;
use crate::panics::{self, Panicked};
use crate::protocol::reply::Version;
use crate::protocol::{Limits, Parsed, Reply};
use crate::registry::inboxes::Posted;
use crate::registry::listening;
use crate::registry::metrics::NetworkMetrics;
use crate::registry::server_state::{HOUSEKEEPING_INTERVAL, ServerState};
use futures_lite::AsyncRead;
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// One read takes at most this: larger pipelines are read in several turns, so that one client does not hold the
/// others.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A frame that is longer than a read is read in pieces of at most this.
const READ_FRAME_BYTES_MAX: usize = 1 << 20;

/// What is read at once of a client that waits in a blocking command, and has sent others already: thousands may.
const READ_BEHIND_WAIT_BYTES: usize = 4096;

/// Replies of one box that are sent on before the next box is taken in: so a client that does not read is noticed
/// within that much of its limit.
const REPLY_BYTES_SENT_AT_ONCE: usize = 1 << 20;

/// What an unauthenticated client may have in its query buffer: its frames are limited far below that anyway.
const UNAUTHENTICATED_QUERY_BYTES_MAX: usize = 1 << 20;

/// How often idle clients and output limits are looked at.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the accept loop waits when the process has no descriptors left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How long the connections' tasks may take to end once they were told.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How long a stopping executor waits for replies that are pending to leave.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Something that happens again and again on one executor, and that its tasks wait for.
#[derive(Default)]
pub(super) struct LocalSignal {
    count: Cell<u64>,
    /// Each with its place in the line.
    waiters: RefCell<Vec<(u64, Waker)>>,
    last_place: Cell<u64>,
}

impl LocalSignal {
    /// It happened: wakes everybody who waits, in the order of their places.
    #[inline]
    pub(super) fn notify(&self) {
        self.count.set(self.count.get() + 1);
        let mut waiters = self.waiters.borrow_mut();
        waiters.sort_unstable_by_key(|(place, _)| *place);
        waiters.drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// A place at the end of the line.
    fn take_place(&self) -> u64 {
        self.last_place.set(self.last_place.get() + 1);
        self.last_place.get()
    }

    /// Waits, at a place in the line, until it has happened more than `seen` times; returns how often.
    async fn happened_since(&self, seen: u64, place: u64) -> u64 {
        poll_fn(|context| {
            if self.count.get() > seen {
                return Poll::Ready(self.count.get());
            }
            self.waiters.borrow_mut().push((place, context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Waits for the next time.
    async fn next(&self, place: u64) {
        self.happened_since(self.count.get(), place).await;
    }
}

/// The handlers of all commands.
#[derive(Clone, Copy)]
pub struct ExecutorHandlers {
    /// Of those that run on network executors.
    pub network: Handlers<NetworkHandler>,
    /// Of those that run on storage executors.
    pub storage: StorageHandlers,
}

/// What a network executor is started with.
pub struct NetworkParts {
    /// What all executors share.
    pub server: Arc<ServerState>,
    /// What it runs: on connections, and as a coordinator on keys of several storage executors.
    pub handlers: ExecutorHandlers,
    /// Its number.
    pub index: usize,
    /// To the storage executors.
    pub destinations: Destinations,
    /// Where the batches come back.
    pub responses: Responses,
    /// What others send to its clients.
    pub inbox: flume::Receiver<Posted>,
    /// Connections accepted for it by the executor that has the listeners.
    pub accepted: flume::Receiver<AcceptedTcpStream>,
    /// To each network executor, if this one accepts.
    pub acceptor: Option<Acceptor>,
}

/// The listeners, and where the connections go.
pub struct Acceptor {
    /// Bound and listening sockets.
    pub listeners: Vec<OwnedFd>,
    /// What they listen on.
    pub addresses: Vec<SocketAddr>,
    /// CONFIG SET of other addresses.
    pub changes: flume::Receiver<listening::Change>,
    /// By network executor.
    pub executors: Vec<flume::Sender<AcceptedTcpStream>>,
}

/// The state of one network executor, shared by its tasks.
pub struct NetworkExecutor {
    pub(super) server: Arc<ServerState>,
    pub(super) handlers: ExecutorHandlers,
    pub(super) index: usize,
    pub(super) destinations: RefCell<Destinations>,
    pub(super) connections: RefCell<Slab<Rc<Connection>>>,
    /// What others send to its clients.
    pub(super) inbox: flume::Receiver<Posted>,
    pub(super) subscriptions: RefCell<Subscriptions>,
    pub(super) metrics: Arc<NetworkMetrics>,
    /// There are requests in open batches.
    pub(super) flush_wanted: LocalSignal,
    pub(super) request_timeout: Cell<Duration>,
    pub(super) settings: RefCell<Arc<Settings>>,
    settings_version: Cell<u64>,
    /// Credits came back, a pause ended, or a connection that had to wait for its own commands need not any more.
    pub(super) room: LocalSignal,
    pub(super) transactions: RefCell<Transactions>,
    touched: RefCell<Vec<Rc<Connection>>>,
    read_buffer: RefCell<Vec<u8>>,
    last_generation: Cell<u32>,
    kills_seen: Cell<u64>,
    pub(super) unblocks_seen: Cell<u64>,
    stopping: Cell<bool>,
}

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
            last_generation: Cell::new(0),
            kills_seen: Cell::new(0),
            unblocks_seen: Cell::new(0),
            stopping: Cell::new(false),
            server,
        });
        executor.take_over_settings();
        let mut tasks = vec![
            glommio::spawn_local(Rc::clone(&executor).flush_turns()),
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

    /// Housekeeping every [`HOUSEKEEPING_INTERVAL`], until a shutdown has drained the connections.
    async fn keep_house(self: &Rc<Self>) {
        let mut clients_checked_at = Instant::now();
        let mut give_up_at = None;
        loop {
            glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
            self.refresh_settings();
            self.retry_destinations();
            self.forget_finished();
            self.close_killed();
            self.answer_unblocked();
            // Whoever waits for the end of a pause looks again.
            self.room.notify();
            let now = Instant::now();
            if now.duration_since(clients_checked_at) >= CLIENT_CHECK_INTERVAL {
                clients_checked_at = now;
                self.check_clients(now);
            }
            self.metrics
                .pending
                .set(self.destinations.borrow().requests_out() as u64);
            if self.server.shutdown.is_requested() {
                self.stopping.set(true);
                // Nobody will push any more. Those that were claimed for an answer get it.
                for (_, connection) in self.connections.borrow().iter() {
                    if self.give_up_wait(connection) {
                        connection.abort();
                    }
                }
                let give_up_at = *give_up_at.get_or_insert(now + DRAIN_MAX);
                if self.is_drained() || now >= give_up_at || self.server.shutdown.is_immediate() {
                    self.connections
                        .borrow()
                        .iter()
                        .for_each(|(_, connection)| connection.abort());
                    return;
                }
            }
        }
    }

    fn is_drained(&self) -> bool {
        let connections = self.connections.borrow();
        let answered = connections
            .iter()
            .filter(|(_, connection)| !connection.closed.get())
            .all(|(_, connection)| connection.replies.borrow().is_empty() && connection.output.borrow().len() == 0);
        answered && self.transactions.borrow().is_empty()
    }

    pub(super) fn refresh_settings(&self) {
        let version = self.server.settings.version();
        if version != self.settings_version.replace(version) {
            *self.settings.borrow_mut() = self.server.settings.snapshot();
            self.take_over_settings();
        }
    }

    /// Tells those who keep a copy of a setting what it is now.
    fn take_over_settings(&self) {
        let settings = self.settings.borrow();
        self.request_timeout
            .set(Duration::from_millis(settings.request_timeout_ms));
        self.destinations
            .borrow_mut()
            .set_batch_size(settings.requests_at_once());
        self.server.pubsub.set_limits(&settings.client_output_buffer_limit);
    }

    /// Disconnects clients that CLIENT KILL chose.
    fn close_killed(&self) {
        let kills = self.server.clients.kills();
        if kills != self.kills_seen.replace(kills) {
            let connections = self.connections.borrow();
            let killed = connections
                .iter()
                .filter(|(_, connection)| connection.client.is_killed());
            killed.for_each(|(_, connection)| connection.abort());
        }
    }

    /// Disconnects clients that are idle for too long or do not read.
    fn check_clients(&self, now: Instant) {
        let settings = Arc::clone(&self.settings.borrow());
        let now_ms = crate::clock::unix_ms();
        let large_reply_timeout = match settings.large_reply_timeout {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds),
        };
        for (_, connection) in self.connections.borrow().iter() {
            let idle_ms = now_ms.saturating_sub(connection.client.active_at_ms.get());
            let waits = !connection.replies.borrow().is_empty();
            if connection.closed.get() {
                continue;
            }
            // Who listens need not say anything.
            let may_time_out = !waits && !connection.session.borrow().listens();
            if settings.timeout > 0 && idle_ms > settings.timeout * 1000 && may_time_out {
                connection.abort();
            } else if self.exceeds_output_limit(connection, now)
                || connection.has_stalled_pieces(now, large_reply_timeout)
            {
                self.close_for_output(connection);
            }
        }
    }

    pub(super) fn close_for_output(&self, connection: &Connection) {
        self.server.totals.output_limit_disconnections.add(1);
        tracing::warn!(
            client = connection.client.id,
            "a client was disconnected because it does not read its replies"
        );
        connection.abort();
    }

    /// Sends the open batches at the end of each turn that filled some: the queue of tasks is first in, first out, so
    /// this one runs behind all tasks that the same poll woke.
    async fn flush_turns(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            seen = self.flush_wanted.happened_since(seen, 0).await;
            self.flush_destinations();
        }
    }

    pub(super) fn flush_destinations(&self) {
        let flushed = self.destinations.borrow_mut().flush();
        self.note_flushed(flushed);
    }

    fn note_flushed(&self, flushed: Flushed) {
        self.metrics.batches.add(flushed.batches);
        self.metrics.requests.add(flushed.requests);
        self.metrics.send_failures.add(flushed.failures);
    }

    /// Offers again what a channel did not take; answers what was never handed over in time.
    fn retry_destinations(self: &Rc<Self>) {
        let (flushed, given_up) = self.destinations.borrow_mut().retry();
        self.note_flushed(flushed);
        given_up.into_iter().for_each(|batch| self.take_reply_batch(batch));
        self.flush_touched();
    }

    /// Takes in the batches that come back, and sends each connection's replies once.
    async fn take_replies(self: Rc<Self>, responses: Responses) {
        while let Some(batch) = responses.next().await {
            self.take_reply_batch(batch);
            // Bounded by the credits: no more boxes can be under way.
            while let Some(batch) = responses.try_next() {
                self.take_reply_batch(batch);
            }
            self.flush_touched();
            if self.destinations.borrow_mut().take_freed() {
                self.room.notify();
            }
        }
    }

    fn take_reply_batch(self: &Rc<Self>, batch: Box<Batch>) {
        faults::may_panic(Bug::Network);
        // What a write has outdated was sent before its reply: a client of this executor that sees the reply, and asks
        // a client beside it that caches, finds it told.
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

    /// Notes that a connection has output to send at the end of the turn.
    #[inline]
    pub(super) fn touch(&self, connection: &Rc<Connection>) {
        if !connection.touched.replace(true) {
            self.touched.borrow_mut().push(Rc::clone(connection));
        }
    }

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
            // The first byte goes through glommio, which waits for room; the rest follows in large sends.
            let written = poll_fn(|context| {
                let output = connection.output.borrow();
                futures_lite::AsyncWrite::poll_write(Pin::new(&mut stream), context, output.unsent())
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

    /// Accepts connections on all listeners, and on others when CONFIG SET says so.
    async fn listen(self: Rc<Self>, acceptor: Acceptor) {
        let Acceptor {
            listeners,
            mut addresses,
            changes,
            executors,
        } = acceptor;
        let executors = Rc::new(executors);
        let mut open = self.accept_on(listeners, &executors);
        while let Ok(change) = changes.recv_async().await {
            // Before the new ones: they may have addresses in common.
            for (listener, task) in open.drain(..) {
                task.cancel().await;
                // The ring may know of the socket a little longer, and it must not be in the way.
                socket::shutdown(listener.as_raw_fd());
            }
            let backlog = self.settings.borrow().tcp_backlog;
            let answer = match listening::listen(&change.addresses, backlog) {
                Ok((listeners, port)) => {
                    open = self.accept_on(listeners, &executors);
                    addresses = change.addresses;
                    // A port that was chosen is kept if the next change fails.
                    addresses.iter_mut().for_each(|address| address.set_port(port));
                    Ok(port)
                }
                Err(error) => {
                    match listening::listen(&addresses, backlog) {
                        Ok((listeners, _)) => open = self.accept_on(listeners, &executors),
                        Err(error) => tracing::error!(%error, "the server cannot listen any more where it did"),
                    }
                    Err(error)
                }
            };
            // Whoever asked waits for it.
            let _ = change.answer.send(answer);
        }
    }

    /// Begins to accept connections on listeners; each comes back with the task that does it.
    fn accept_on(
        self: &Rc<Self>,
        listeners: Vec<OwnedFd>,
        executors: &Rc<Vec<flume::Sender<AcceptedTcpStream>>>,
    ) -> Vec<(OwnedFd, glommio::Task<()>)> {
        let begin = |listener: OwnedFd| {
            let own = listener
                .try_clone()
                .inspect_err(|error| tracing::error!(%error, "an address is not listened on"));
            let accept = Rc::clone(self).accept(socket::listener_from(own.ok()?), Rc::clone(executors));
            Some((listener, glommio::spawn_local(accept)))
        };
        listeners.into_iter().filter_map(begin).collect()
    }

    /// Accepts connections and gives each to the executor that has the fewest.
    async fn accept(self: Rc<Self>, listener: TcpListener, executors: Rc<Vec<flume::Sender<AcceptedTcpStream>>>) {
        loop {
            match listener.shared_accept().await {
                Ok(stream) if self.stopping.get() => drop(stream.bind_to_executor()),
                Ok(stream) => {
                    let load = |index: &usize| {
                        let metrics = &self.server.network[*index];
                        metrics.connections_assigned.get()
                            - metrics.connections_closed.get().min(metrics.connections_assigned.get())
                    };
                    let target = (0..executors.len()).min_by_key(load).unwrap_or(0);
                    self.server.network[target].connections_assigned.add(1);
                    if executors[target].send_async(stream).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // No descriptors (EMFILE), or a client that was gone before it was accepted: go on.
                    tracing::warn!(%error, "accept failed");
                    glommio::timer::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Serves the connections that were accepted for this executor.
    async fn adopt(self: Rc<Self>, accepted: flume::Receiver<AcceptedTcpStream>) {
        while let Ok(stream) = accepted.recv_async().await {
            let stream = stream.bind_to_executor();
            self.server.totals.connections_received.add(1);
            match self.register(&stream) {
                Ok(connection) => {
                    glommio::spawn_local(Rc::clone(&self).serve(stream, connection)).detach();
                }
                Err(Some(error)) => {
                    self.metrics.connections_closed.add(1);
                    self.server.totals.connections_rejected.add(1);
                    let mut reply = Vec::new();
                    Reply::new(&mut reply, Version::Resp2).error(error);
                    // A client that does not take one line at once does not get it.
                    let _ = socket::send(stream.as_raw_fd(), &reply);
                }
                Err(None) => self.metrics.connections_closed.add(1),
            }
        }
    }

    /// Enters a connection; `Err` with what to tell the client if it may not stay, without if it is gone.
    fn register(&self, stream: &TcpStream) -> Result<Rc<Connection>, Option<&'static str>> {
        let addresses = stream.peer_addr().ok().zip(stream.local_addr().ok()).ok_or(None)?;
        // Whoever set a password must find it asked for by the next connection, without waiting for the housekeeping.
        self.refresh_settings();
        let settings = Arc::clone(&self.settings.borrow());
        let descriptor = stream.as_raw_fd();
        // A socket that the peer has reset already refuses options; its first read tells.
        let _ = stream.set_nodelay(true);
        if settings.tcp_keepalive > 0 {
            let _ = socket::set_keepalive(descriptor, settings.tcp_keepalive);
        }
        if is_protected(&settings, addresses.0) {
            return Err(Some(PROTECTED_MODE_ERROR));
        }
        let clients_max = settings.maxclients as usize;
        let client = self.server.clients.add(addresses, descriptor, self.index, clients_max);
        let client = client.ok_or(Some("ERR max number of clients reached"))?;
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        client.connection.set(entry.key() as u64);
        self.last_generation.set(self.last_generation.get().wrapping_add(1));
        let connection = Rc::new(Connection {
            index: entry.key() as u32,
            generation: self.last_generation.get(),
            socket: descriptor,
            session: RefCell::new(Session {
                client: Arc::clone(&client),
                connection: entry.key() as u32,
                database: 0,
                version: Version::Resp2,
                authenticated: settings.requirepass.is_empty(),
                reply_mode: ReplyMode::On,
                transaction: TransactionState::default(),
                closing: false,
                subscribed: None,
                is_monitor: false,
                tracking: None,
            }),
            client,
            replies: RefCell::new(Replies::default()),
            output: RefCell::new(Output::default()),
            low_out: Cell::new(0),
            in_pieces: Cell::new(0),
            pieces_progress: Cell::new(None),
            coordinating: Cell::new(0),
            waiting: RefCell::new(None),
            answered: RefCell::new(None),
            is_full: Cell::new(false),
            touched: Cell::new(false),
            held_elsewhere: Cell::new(0),
            waiting_bytes: Cell::new(0),
            closed: Cell::new(false),
            drained: RefCell::new(None),
        });
        entry.insert(Rc::clone(&connection));
        self.metrics.connections.set(connections.len() as u64);
        Ok(connection)
    }

    /// Reads and dispatches one client's commands until it leaves or is made to.
    async fn serve(self: Rc<Self>, mut stream: TcpStream, connection: Rc<Connection>) {
        let mut input = Input::new();
        while !connection.closed.get() {
            match self.read(&mut stream, &connection, &mut input).await {
                // As with Redis, one that waits and closes its side is gone.
                Ok(Some(0)) if connection.is_waiting() => break,
                Ok(Some(0)) => {
                    // It may have closed only its own side (`printf … | nc`): what it asked for is answered.
                    self.wait_until_drained(&connection).await;
                    break;
                }
                Err(_) => break,
                // A client that sends faster than it is served never lets a read wait, so without this no other task of
                // the executor would run again.
                Ok(Some(count)) if count >= READ_BYTES_MAX => reactor_turn().await,
                Ok(_) => {}
            }
            self.process_waiting(&connection, &mut input).await;
            if connection.session.borrow().closing {
                self.wait_until_drained(&connection).await;
                break;
            }
        }
        connection.closed.set(true);
        self.give_up_wait(&connection);
        self.drop_all_pieces(&connection);
        connection.session.borrow_mut().transaction.reset();
        self.forget_watches(&connection);
        let mut session = connection.session.borrow_mut();
        self.subscriptions.borrow_mut().leave(&self.server.pubsub, &mut session);
        set_tracking(&self.server.tracking, &mut session, None);
        drop(session);
        self.server.clients.remove(connection.client.id);
        let mut connections = self.connections.borrow_mut();
        connections.remove(connection.index as usize);
        self.metrics.connections_closed.add(1);
        self.metrics.connections.set(connections.len() as u64);
    }

    /// Processes what was read, waiting for credits and pauses, until a whole command is wanting.
    async fn process_waiting(self: &Rc<Self>, connection: &Rc<Connection>, input: &mut Input) {
        // Kept until some commands were taken: one that wants all the credits there are must not always come first.
        let mut place = None;
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
                        place = None;
                    }
                    self.room
                        .next(*place.get_or_insert_with(|| self.room.take_place()))
                        .await;
                }
            }
        }
    }

    /// Publishes a connection's figures and sends what was answered on the spot.
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

    /// Reads once. Small reads go to the executor's shared buffer and are processed from there; only what is no whole
    /// command is kept with the connection, so that an idle client holds no buffer. `None` if nothing was read because
    /// a command was answered that others wait behind.
    async fn read(
        self: &Rc<Self>,
        stream: &mut TcpStream,
        connection: &Rc<Connection>,
        input: &mut Input,
    ) -> std::io::Result<Option<usize>> {
        let count = if input.is_empty() {
            poll_fn(|context| {
                let mut shared = self.read_buffer.borrow_mut();
                match Pin::new(&mut *stream).poll_read(context, &mut shared) {
                    Poll::Ready(Ok(count)) => {
                        // Processed below, out of the borrow: the buffer is taken out for that.
                        input.wanted = count;
                        Poll::Ready(Ok(count))
                    }
                    other => other,
                }
            })
            .await
            .inspect(|&count| {
                let buffer = self.read_buffer.take();
                let (consumed, progress) = self.process(connection, input, &buffer[..count]);
                input.bytes.extend_from_slice(&buffer[consumed..count]);
                *self.read_buffer.borrow_mut() = buffer;
                if progress == Progress::WantsMore {
                    self.end_of_input(connection, input);
                }
            })?
        } else {
            let len = input.bytes.len();
            let waited = connection.is_waiting();
            let piece = match waited {
                true => READ_BEHIND_WAIT_BYTES,
                false => input.wanted.clamp(READ_BYTES_MAX, READ_FRAME_BYTES_MAX),
            };
            input.bytes.resize(len + piece, 0);
            let read = poll_fn(|context| {
                let read = Pin::new(&mut *stream).poll_read(context, &mut input.bytes[len..]);
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
            match read? {
                Some(count) => count,
                None => return Ok(None),
            }
        };
        self.metrics.bytes_in.add(count as u64);
        connection.client.bytes_in.add(count as u64);
        connection.client.active_at_ms.set(crate::clock::unix_ms());
        let settings = Arc::clone(&self.settings.borrow());
        let query_bytes_max = match self.has_authenticated(connection) {
            true => settings.client_query_buffer_limit.as_usize(),
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

    /// Dispatches the whole commands in `bytes`; returns how many bytes they were, and why it stopped. A panic
    /// meanwhile ends this connection and no other: whatever changes what connections share ends the process itself
    /// ([`panics::uncontained`]).
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
            // Its writes are sent only when its keys are all here: what follows on the connection may read them.
            if connection.coordinating.get() > 0 {
                return (consumed, Progress::Blocked);
            }
            if connection.is_waiting() {
                return (consumed, Progress::Waits);
            }
            if connection.fills_up() {
                return (consumed, Progress::Blocked);
            }
            let rest = &bytes[consumed..];
            match input.parser.parse(rest, &limits) {
                Ok(Parsed::Command { consumed: frame }) => {
                    if connection.client.is_killed() {
                        connection.abort();
                        return (bytes.len(), Progress::WantsMore);
                    }
                    match self.dispatch(connection, input.parser.arguments(rest), now) {
                        Taken::Yes => consumed += frame,
                        Taken::Paused => {
                            input.parser = crate::protocol::Parser::new();
                            return (consumed, Progress::Blocked);
                        }
                    }
                    limits.authenticated = self.has_authenticated(connection);
                    // What a client has sent behind its end is not run.
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
                    tracing::debug!(
                        client = connection.client.id,
                        address = %connection.client.address,
                        ?error,
                        "a client's bytes are no request"
                    );
                    let mut reply = b"-ERR ".to_vec();
                    error.write_text(&mut reply);
                    reply.extend_from_slice(b"\r\n");
                    self.answer_last(connection, reply);
                    return (bytes.len(), Progress::WantsMore);
                }
            }
        }
        input.wanted = 1;
        (consumed, Progress::WantsMore)
    }

    /// Answers and closes.
    fn answer_last(&self, connection: &Rc<Connection>, reply: Vec<u8>) {
        connection.session.borrow_mut().closing = true;
        let mut replies = connection.replies.borrow_mut();
        let sequence = replies.open(crate::network::connection::Awaited::Response, false);
        replies.complete(sequence, &reply, &mut connection.output.borrow_mut());
        drop(replies);
        self.touch(connection);
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

    /// Has a handler's blocking work done on another thread and answers with what it returns.
    pub(super) fn run_elsewhere(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        sequence: u32,
        work: Deferred,
    ) {
        let executor = Rc::clone(self);
        let connection = Rc::clone(connection);
        let work = self.begin_elsewhere(work);
        glommio::spawn_local(async move {
            let reply = work.await;
            executor.count(command, 0, &reply);
            connection
                .replies
                .borrow_mut()
                .complete_owned(sequence, reply, &mut connection.output.borrow_mut());
            executor.touch(&connection);
            executor.flush_touched();
        })
        .detach();
    }

    /// Has blocking work done on another thread; the future is what it returns.
    pub(super) fn begin_elsewhere(&self, work: Deferred) -> impl Future<Output = Vec<u8>> + 'static {
        let (sender, receiver) = flume::bounded(1);
        let begun = self.server.admin_threads.run(move || {
            // The client may be gone by then.
            let _ = sender.send(work());
        });
        async move {
            let reply = match begun {
                // It panicked, if it sends nothing.
                Ok(()) => receiver.recv_async().await.map_err(|_| CommandError::Internal),
                Err(error) => Err(error),
            };
            reply.unwrap_or_else(|error| {
                let mut reply = Vec::new();
                Reply::new(&mut reply, Version::Resp2).error(error.to_string());
                reply
            })
        }
    }
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

const PROTECTED_MODE_ERROR: &str = "DENIED Corelane is running in protected mode because protected mode is enabled and no \
    password is set for the default user. In this mode connections are only accepted from the loopback interface. If \
    you want to connect from external computers, you may adopt one of the following solutions: 1) Disable protected \
    mode with 'CONFIG SET protected-mode no' from the loopback interface, if the server is not reachable from the \
    internet. 2) Start the server with '--protected-mode no'. 3) Set a password with --requirepass or CONFIG SET \
    requirepass.";

/// Whether protected mode refuses a client: it comes from another machine and there is no password.
fn is_protected(settings: &Settings, peer: SocketAddr) -> bool {
    settings.protected_mode && settings.requirepass.is_empty() && !peer.ip().to_canonical().is_loopback()
}
