//! What a network executor looks at from time to time: settings, clients that are idle, do not read or were killed, and
//! whether the server stops.

use super::connection::Connection;
use super::network_executor::NetworkExecutor;
use crate::registry::server_state::HOUSEKEEPING_INTERVAL;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often idle clients and output limits are looked at.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopping executor waits for replies that are pending to leave.
const DRAIN_MAX: Duration = Duration::from_secs(5);

impl NetworkExecutor {
    /// Housekeeping every [`HOUSEKEEPING_INTERVAL`], until a shutdown has drained the connections.
    pub(super) async fn keep_house(self: &Rc<Self>) {
        let mut clients_checked_at = Instant::now();
        let mut give_up_at = None;
        loop {
            glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
            self.refresh_settings();
            self.retry_destinations();
            self.delete_redo_records();
            self.close_killed();
            self.answer_unblocked();
            // Connections that wait for the end of a pause look again.
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
                // No command will end a wait any more. Clients whose answer is on its way get it.
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

    /// Whether all replies have left, and no transaction is under way.
    fn is_drained(&self) -> bool {
        let connections = self.connections.borrow();
        let answered = connections
            .iter()
            .filter(|(_, connection)| !connection.closed.get())
            .all(|(_, connection)| connection.replies.borrow().is_empty() && connection.output.borrow().len() == 0);
        answered && self.transactions.borrow().is_empty()
    }

    /// Takes over settings that were changed.
    pub(super) fn refresh_settings(&self) {
        let version = self.server.settings.version();
        if version != self.settings_version.replace(version) {
            *self.settings.borrow_mut() = self.server.settings.snapshot();
            self.take_over_settings();
        }
    }

    /// Copies the settings that are kept elsewhere, too, to where they are kept.
    pub(super) fn take_over_settings(&self) {
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
            // A client that subscribes or monitors need not say anything.
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

    /// Disconnects a client because it does not read its replies.
    pub(super) fn close_for_output(&self, connection: &Connection) {
        self.server.totals.output_limit_disconnections.add(1);
        tracing::warn!(
            client = connection.client.id,
            "a client was disconnected because it does not read its replies"
        );
        connection.abort();
    }
}
