//! Commands about the server that scripts call (INFO, COMMAND, PUBSUB…). They run on the script's thread, where there
//! is no connection: their handlers get a session that no client has.

use super::multi_state::TransactionState;
use super::session::{NetworkContext, NetworkHandler, ReplyMode, Session};
use crate::channel::message::Caller;
use crate::command::Command;
use crate::error::CommandError;
use crate::network::subscriptions::Subscriptions;
use crate::protocol::{Arguments, Reply};
use crate::registry::clients::Clients;
use crate::registry::server_state::ServerState;
use std::cell::RefCell;
use std::net::SocketAddr;

/// Runs a command whose row says that it runs on a network executor; returns its reply.
///
/// # Errors
/// That of the handler; or the command would have to wait for the disk.
pub fn run(
    server: &ServerState,
    (command, handler): (&'static Command, NetworkHandler),
    arguments: Arguments<'_>,
    caller: Caller,
) -> Result<Vec<u8>, CommandError> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let nobody = Clients::default().add((nowhere, nowhere), -1, 0, 1);
    let mut session = Session {
        client: nobody.expect("the list is empty"),
        connection: 0,
        database: caller.database,
        version: caller.version,
        authenticated: true,
        reply_mode: ReplyMode::On,
        transaction: TransactionState::default(),
        closing: false,
        subscribed: None,
        is_monitor: false,
        tracking: None,
    };
    let subscriptions = RefCell::new(Subscriptions::new(0));
    let mut bytes = Vec::new();
    let must_wait = {
        let mut context = NetworkContext {
            arguments,
            reply: Reply::new(&mut bytes, caller.version),
            session: &mut session,
            server,
            subscriptions: &subscriptions,
            command,
            deferred: None,
            waits: None,
        };
        handler(&mut context)?;
        context.deferred.is_some()
    };
    // A command that would wait for others is answered as if its time were up, as in EXEC.
    match must_wait {
        true => Err(CommandError::text("ERR This Redis command is not allowed from script")),
        false => Ok(bytes),
    }
}
