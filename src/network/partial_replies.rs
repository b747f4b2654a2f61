//! Responses that are not the whole reply of a command: pieces of a large one, parts to be merged, what a command that
//! waits is told.

use super::connection::{Awaited, Chunk, Connection, PiecesOut};
use super::dispatch::APPLY_DEADLINE;
use super::network_executor::NetworkExecutor;
use crate::channel::message::{Batch, Caller, Priority, RequestId, Response, WAITS};
use crate::command::{Internal, PIECES_DROP, PIECES_NEXT, Runs};
use crate::executor::storage_executor::reactor_turn;
use std::rc::Rc;
use std::time::Instant;

/// Output that waits for a client when the next piece of a large reply is asked for: enough to keep its socket busy for
/// the time that takes.
const PIECES_AHEAD_BYTES: usize = 512 * 1024;

impl NetworkExecutor {
    /// A response whose client is gone: what the command has left on the storage executor may go.
    pub(super) fn take_for_nobody(&self, batch: &Batch, response: &Response) {
        if response.command.runs == Runs::Internal(Internal::WaitSource) {
            return self.drop_source(batch.destination, batch.reply(response));
        }
        match response.more {
            WAITS => {}
            number => self.drop_pieces(batch.destination, number),
        }
    }

    /// A response to a client in a command that waits. Returns whether that was all that the response is for.
    pub(super) fn take_while_waiting(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        batch: &Batch,
        response: &Response,
    ) -> bool {
        let (sequence, bytes) = (response.id.sequence, batch.reply(response));
        if response.more == WAITS {
            self.visit_next(connection, sequence);
            return true;
        }
        match response.command.runs {
            Runs::Internal(Internal::WaitDurable) => self.take_durable(connection, sequence, bytes),
            Runs::Internal(Internal::WaitSource) => self.take_source(connection, sequence, batch.destination, bytes),
            _ => {
                self.after_wait(connection, sequence, Some(batch.destination));
                return false;
            }
        }
        true
    }

    /// A response that is not the whole reply of a command: a piece of that, or a part.
    pub(super) fn take_partial(self: &Rc<Self>, connection: &Rc<Connection>, batch: &Batch, response: &Response) {
        let (sequence, bytes) = (response.id.sequence, batch.reply(response));
        let mut replies = connection.replies.borrow_mut();
        let Some(pending) = replies.pending(sequence) else {
            return;
        };
        match &mut pending.awaited {
            // The command was answered meanwhile.
            Awaited::Ready(_) | Awaited::Pushed(_) => {}
            Awaited::Response if response.more != 0 => {
                self.count(response.command, u64::from(response.took_ns), bytes);
                connection.in_pieces.set(connection.in_pieces.get() + 1);
                pending.awaited = Awaited::Pieces(PiecesOut {
                    destination: batch.destination,
                    number: response.more,
                    is_asked: false,
                    waiting: bytes.to_vec(),
                });
                replies.change_held(0, bytes.len());
            }
            // An error in the middle of a reply could not be told from its content.
            Awaited::Pieces(_) if response.failed => connection.abort(),
            Awaited::Pieces(pieces) => {
                pieces.waiting.extend_from_slice(bytes);
                (pieces.number, pieces.is_asked) = (response.more, false);
                replies.change_held(0, bytes.len());
            }
            Awaited::Response => unreachable!("a whole reply is no partial one"),
            Awaited::KeyWalk(_) => {
                let Awaited::KeyWalk(walk) = std::mem::replace(&mut pending.awaited, Awaited::Response) else {
                    unreachable!("the pending reply was matched as a walk");
                };
                replies.change_held(walk.held_bytes(), 0);
                drop(replies);
                let source = (response.command, sequence, batch.destination);
                if let Some(reply) = self.scan_answered(connection, source, walk, bytes) {
                    self.count(response.command, u64::from(response.took_ns), &reply);
                    let mut replies = connection.replies.borrow_mut();
                    replies.complete(sequence, &reply, &mut connection.output.borrow_mut());
                }
            }
            Awaited::Exec(_) => {
                self.count(response.command, u64::from(response.took_ns), bytes);
                let executing = match std::mem::replace(&mut pending.awaited, Awaited::Response) {
                    Awaited::Exec(executing) => executing,
                    _ => unreachable!("the pending reply was matched as executing"),
                };
                drop(replies);
                self.exec_ran(connection, sequence, *executing, bytes);
            }
            Awaited::Merge(merging) if response.more != 0 => {
                // The other parts are needed before any piece can be sent, so the pieces are collected here.
                merging.add_piece(response.id.part as usize, bytes);
                replies.change_held(0, bytes.len());
                drop(replies);
                self.ask_for_piece(
                    connection,
                    batch.destination,
                    (sequence, response.id.part),
                    response.more,
                );
            }
            Awaited::Merge(merging) => {
                let held_before = merging.held_bytes();
                let is_whole = merging.add(response.id.part as usize, bytes);
                let reply = is_whole.then(|| merging.finish());
                let held_now = merging.held_bytes();
                replies.change_held(held_before, held_now);
                if let Some(reply) = reply {
                    self.count(response.command, u64::from(response.took_ns), &reply);
                    replies.complete_owned(sequence, reply, &mut connection.output.borrow_mut());
                }
            }
        }
        self.touch(connection);
    }

    /// Moves the piece of a large reply that is next in line to the output, and asks for the one after it if the client
    /// has taken most of what is there.
    pub(super) fn advance_pieces(self: &Rc<Self>, connection: &Rc<Connection>) {
        while connection.in_pieces.get() > 0 && !connection.closed.get() {
            let mut replies = connection.replies.borrow_mut();
            let Some((sequence, suppressed, pieces)) = replies.first_in_pieces() else {
                return;
            };
            let mut output = connection.output.borrow_mut();
            let waiting = std::mem::take(&mut pieces.waiting);
            let (destination, number) = (pieces.destination, pieces.number);
            let waits = pieces.is_asked || output.len() + waiting.len() > PIECES_AHEAD_BYTES;
            pieces.is_asked |= number != 0 && !waits;
            replies.change_held(waiting.len(), 0);
            if !suppressed {
                output.append_chunk(Chunk::Own(waiting));
            }
            if number == 0 {
                connection.in_pieces.set(connection.in_pieces.get() - 1);
                replies.complete(sequence, b"", &mut output);
                continue;
            }
            if waits {
                return;
            }
            drop((replies, output));
            return self.ask_for_piece(connection, destination, (sequence, 0), number);
        }
    }

    /// Asks for the next piece when the reactor has looked at the sockets: a client that reads as fast as it is sent to
    /// would otherwise keep this executor going from piece to piece, and nobody else would be heard.
    fn ask_for_piece(self: &Rc<Self>, connection: &Rc<Connection>, destination: usize, part: (u32, u32), number: u64) {
        let (executor, connection) = (Rc::clone(self), Rc::clone(connection));
        glommio::spawn_local(async move {
            reactor_turn().await;
            if connection.closed.get() {
                return executor.drop_pieces(destination, number);
            }
            let number = number.to_be_bytes();
            let arguments = [PIECES_NEXT.name.as_bytes(), &number[..]];
            let deadline = Instant::now() + APPLY_DEADLINE;
            executor.send_part(&connection, &PIECES_NEXT, destination, part, arguments, deadline);
        })
        .detach();
    }

    /// The client is gone: what is kept of its large replies may go.
    pub(super) fn drop_all_pieces(&self, connection: &Connection) {
        for pending in connection.replies.borrow_mut().drain() {
            // One that was asked for comes, finds nobody, and is dropped then.
            if let Awaited::Pieces(pieces) = pending.awaited
                && !pieces.is_asked
            {
                self.drop_pieces(pieces.destination, pieces.number);
            }
        }
    }

    pub(super) fn drop_pieces(&self, destination: usize, number: u64) {
        if number == 0 {
            return;
        }
        let nobody = RequestId {
            connection: u32::MAX,
            ..RequestId::default()
        };
        let arguments = [PIECES_DROP.name.as_bytes(), &number.to_be_bytes()];
        let deadline = Instant::now() + APPLY_DEADLINE;
        let (target, caller) = ((destination, Priority::Normal), Caller::default());
        self.destinations
            .borrow_mut()
            .push(target, nobody, &PIECES_DROP, caller, deadline, arguments);
        self.flush_wanted.notify();
    }
}
