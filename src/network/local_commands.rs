//! Commands that run on the network executor itself: at once, or on a thread that may block.

use super::connection::{Awaited, Connection};
use super::dispatch::reply_suppressed;
use super::network_executor::NetworkExecutor;
use super::session::{Deferred, NetworkContext, ReplyMode, WaitHere};
use crate::command::{Command, NO_SCRIPT, PUBSUB, RESETS_SESSION, SETS_REPLIES};
use crate::error::CommandError;
use crate::panics::{self, Panicked};
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use std::rc::Rc;
use std::time::Instant;

/// Why the reply of a handler that ran here is not given at once.
pub(super) enum Later {
    /// Work on another thread makes it.
    Work(Deferred),
    /// The command waits for something.
    Wait(WaitHere),
}

impl NetworkExecutor {
    /// Runs a handler of this executor.
    pub(super) fn run_here(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        let suppressed = reply_suppressed(connection);
        let began = Instant::now();
        let (bytes, later, suppressed) = self.call_here(connection, command, arguments, suppressed);
        self.forget_watches(connection);
        match later {
            Some(Later::Wait(wait)) => self.wait_here(connection, command, (bytes, suppressed), wait),
            Some(Later::Work(work)) => {
                let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
                self.run_elsewhere(connection, command, sequence, work);
            }
            None => {
                self.count(command, began.elapsed().as_nanos() as u64, &bytes);
                self.answer(connection, bytes, suppressed);
            }
        }
    }

    /// Calls a handler of this executor. Returns its reply, why that is not given at once, and whether the client gets
    /// it: `suppressed`, unless the command itself changes that.
    pub(super) fn call_here(
        &self,
        connection: &Connection,
        command: &'static Command,
        arguments: Arguments<'_>,
        suppressed: bool,
    ) -> (Vec<u8>, Option<Later>, bool) {
        let mut bytes = Vec::new();
        let (outcome, later, mode) = {
            let mut session = connection.session.borrow_mut();
            let version = session.version;
            let mut context = NetworkContext {
                arguments,
                reply: Reply::new(&mut bytes, version),
                session: &mut session,
                server: &self.server,
                subscriptions: &self.subscriptions,
                command,
                deferred: None,
                waits: None,
            };
            let handler = self.handlers.network.of(command);
            let handler = handler.expect("a row that runs here has a handler");
            let outcome = panics::contain(|| handler(&mut context)).unwrap_or_else(|Panicked| {
                self.metrics.panics.add(1);
                tracing::error!(command = command.name, "a handler panicked");
                Err(CommandError::Internal)
            });
            let waits = context.waits.take().map(Later::Wait);
            let later = context.deferred.take().map(Later::Work).or(waits);
            (outcome, later, session.reply_mode)
        };
        // What CONFIG SET has changed counts for the next command.
        self.refresh_settings();
        // CLIENT REPLY ON answers itself although replies were off; OFF and SKIP do not answer.
        let suppressed = match mode {
            ReplyMode::On if command.flags.has(SETS_REPLIES) => false,
            _ if command.flags.has(SETS_REPLIES) => true,
            // RESET has turned replies on before it is answered.
            _ if command.flags.has(RESETS_SESSION) => false,
            // A confirmation is a push, and these are always sent.
            _ if command.flags.has(PUBSUB | NO_SCRIPT) => false,
            _ => suppressed,
        };
        if let Err(error) = &outcome {
            bytes.clear();
            Reply::new(&mut bytes, Version::Resp2).error(error.to_string());
        }
        (bytes, later.filter(|_| outcome.is_ok()), suppressed)
    }

    /// Has a handler's blocking work done on another thread and answers with what it returns.
    fn run_elsewhere(
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
            // The send fails if the client is gone by then.
            let _ = sender.send(work());
        });
        async move {
            let reply = match begun {
                // Work that panicked sends nothing.
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
