//! How connections come to a network executor: the first one accepts for all of them, and each registers its own.

use super::connection::Connection;
use super::network_executor::NetworkExecutor;
use super::session::Session;
use super::socket;
use crate::config::Settings;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use crate::registry::listening;
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long the accept loop waits when the process has no descriptors left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The listeners, and where the connections go.
pub struct Acceptor {
    /// Bound and listening sockets.
    pub listeners: Vec<OwnedFd>,
    /// The addresses of the listeners.
    pub addresses: Vec<SocketAddr>,
    /// CONFIG SET of other addresses.
    pub changes: flume::Receiver<listening::Change>,
    /// By network executor.
    pub executors: Vec<flume::Sender<AcceptedTcpStream>>,
}

impl NetworkExecutor {
    /// Accepts connections on all listeners, and on others when CONFIG SET says so.
    pub(super) async fn listen(self: Rc<Self>, acceptor: Acceptor) {
        let Acceptor {
            listeners,
            mut addresses,
            changes,
            executors,
        } = acceptor;
        let executors = Rc::new(executors);
        let mut open = self.accept_on(listeners, &executors);
        while let Ok(change) = changes.recv_async().await {
            // The old listeners go before the new ones come: they may have addresses in common.
            for (listener, task) in open.drain(..) {
                task.cancel().await;
                // The ring may keep the socket open a little longer; shut down, it does not keep its address.
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
            // The thread that asked waits for the answer.
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
    pub(super) async fn adopt(self: Rc<Self>, accepted: flume::Receiver<AcceptedTcpStream>) {
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

    /// Enters a connection.
    ///
    /// # Errors
    /// The client may not stay, and is to be told why; or it is gone, and is to be told nothing.
    fn register(&self, stream: &TcpStream) -> Result<Rc<Connection>, Option<&'static str>> {
        let addresses = stream.peer_addr().ok().zip(stream.local_addr().ok()).ok_or(None)?;
        // The next connection after CONFIG SET of a password is asked for it: this must not wait for the housekeeping.
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
        let index = entry.key() as u32;
        let session = Session::new(Arc::clone(&client), index, settings.requirepass.is_empty());
        let connection = Rc::new(Connection::new(self.last_generation.get(), descriptor, client, session));
        if let Some(polling) = &self.busy_polling {
            polling.add(&connection);
        }
        entry.insert(Rc::clone(&connection));
        self.metrics.connections.set(connections.len() as u64);
        Ok(connection)
    }
}

const PROTECTED_MODE_ERROR: &str = "DENIED Corelane is running in protected mode because protected mode is enabled \
    and no password is set for the default user. In this mode connections are only accepted from the loopback \
    interface. If you want to connect from external computers, you may adopt one of the following solutions: 1) \
    Disable protected mode with 'CONFIG SET protected-mode no' from the loopback interface, if the server is not \
    reachable from the internet. 2) Start the server with '--protected-mode no'. 3) Set a password with \
    --requirepass or CONFIG SET requirepass.";

/// Whether protected mode refuses a client, as it comes from another machine and there is no password.
fn is_protected(settings: &Settings, peer: SocketAddr) -> bool {
    settings.protected_mode && settings.requirepass.is_empty() && !peer.ip().to_canonical().is_loopback()
}
