//! SCAN over several storage executors. A storage executor stops where the next one's keys begin. If fewer than COUNT
//! keys were found until there, the next executor is asked for more, so that a handful of keys comes in one call.

use super::connection::{Awaited, Connection};
use super::merging::array_of;
use super::network_executor::NetworkExecutor;
use crate::channel::router::Router;
use crate::command::Command;
use crate::commands::keys;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use crate::slots::Slot;
use std::rc::Rc;
use std::time::Instant;

/// A SCAN that is under way.
pub(super) struct KeyWalk {
    /// The arguments of SCAN behind the cursor.
    options: Vec<Vec<u8>>,
    /// How many more keys are wanted.
    left: usize,
    /// How many keys were found so far.
    found: usize,
    /// The found keys, as elements of the reply.
    elements: Vec<u8>,
    deadline: Instant,
}

/// What becomes of a SCAN when a storage executor has answered.
enum WalkStep {
    /// The reply is complete.
    Done(Vec<u8>),
    /// Another storage executor is asked, with these arguments.
    Ask(usize, Vec<Vec<u8>>),
}

impl KeyWalk {
    /// Bytes of the reply that are here.
    pub(super) fn held_bytes(&self) -> usize {
        self.elements.len()
    }

    /// Takes the answer of the storage executor `destination`.
    fn take(&mut self, command: &Command, answer: &[u8], (destination, router): (usize, &Router)) -> WalkStep {
        let Some((cursor, found, elements)) = split_answer(answer) else {
            // The answer is an error.
            return WalkStep::Done(answer.to_vec());
        };
        self.found += found;
        self.left = self.left.saturating_sub(found);
        self.elements.extend_from_slice(elements);
        let slot = Slot((cursor >> keys::CURSOR_SLOT_SHIFT) as u16);
        let next = usize::from(router.executor_of(slot).0);
        if cursor == 0 || self.left == 0 || next == destination {
            let mut reply = Vec::new();
            let mut builder = Reply::new(&mut reply, Version::Resp2);
            builder.array(2);
            builder.text(itoa::Buffer::new().format(cursor));
            builder.array(self.found);
            builder.raw(&self.elements);
            return WalkStep::Done(reply);
        }
        let mut arguments = vec![command.name.as_bytes().to_vec(), cursor.to_string().into_bytes()];
        arguments.extend(self.options.iter().cloned());
        // The last COUNT counts.
        arguments.extend([b"COUNT".to_vec(), self.left.to_string().into_bytes()]);
        WalkStep::Ask(next, arguments)
    }
}

/// The cursor of a reply to SCAN, the number of its keys, and the keys as elements of an array; `None` if the reply is
/// an error.
fn split_answer(answer: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (2, parts) = array_of(answer)? else { return None };
    let mut lines = parts.splitn(3, |byte| *byte == b'\n');
    let (_len, digits, found) = (lines.next()?, lines.next()?, lines.next()?);
    let cursor = std::str::from_utf8(digits).ok()?.trim_end().parse().ok()?;
    let (count, elements) = array_of(found)?;
    Some((cursor, count, elements))
}

impl NetworkExecutor {
    /// Sends a SCAN to the storage executor of the slot that its cursor points into.
    pub(super) fn send_scan(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        slot: Slot,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let router = &self.server.router;
        let destination = usize::from(router.executor_of(slot).0);
        let count = keys::scan_count(arguments).filter(|_| router.executor_count() > 1);
        let Some(count) = count else {
            // The handler refuses the arguments, or the only executor has all the keys.
            return self.send_whole(connection, command, destination, arguments, deadline);
        };
        let walk = KeyWalk {
            options: arguments.iter().skip(2).map(<[u8]>::to_vec).collect(),
            left: count,
            found: 0,
            elements: Vec::new(),
            deadline,
        };
        let suppressed = super::dispatch::reply_suppressed(connection);
        let awaited = Awaited::KeyWalk(Box::new(walk));
        let sequence = connection.replies.borrow_mut().open(awaited, suppressed);
        self.send_part(
            connection,
            command,
            destination,
            (sequence, 0),
            arguments.iter(),
            deadline,
        );
    }

    /// A storage executor has answered its part of a SCAN: returns the reply, unless another one has been asked for
    /// more.
    pub(super) fn scan_answered(
        &self,
        connection: &Rc<Connection>,
        (command, sequence, destination): (&'static Command, u32, usize),
        mut walk: Box<KeyWalk>,
        answer: &[u8],
    ) -> Option<Vec<u8>> {
        match walk.take(command, answer, (destination, &self.server.router)) {
            WalkStep::Done(reply) => Some(reply),
            WalkStep::Ask(next, arguments) => {
                let deadline = walk.deadline;
                let held_bytes = walk.held_bytes();
                let mut replies = connection.replies.borrow_mut();
                if let Some(pending) = replies.pending(sequence) {
                    pending.awaited = Awaited::KeyWalk(walk);
                    replies.change_held(0, held_bytes);
                }
                drop(replies);
                let arguments = arguments.iter().map(Vec::as_slice);
                self.send_part(connection, command, next, (sequence, 0), arguments, deadline);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split_and_errors_are_none() {
        let answer = b"*2\r\n$3\r\n549\r\n*2\r\n$1\r\na\r\n$2\r\n\r\n\r\n";
        assert_eq!(split_answer(answer), Some((549, 2, &b"$1\r\na\r\n$2\r\n\r\n\r\n"[..])));
        assert_eq!(split_answer(b"*2\r\n$1\r\n0\r\n*0\r\n"), Some((0, 0, &b""[..])));
        assert_eq!(split_answer(b"-ERR syntax error\r\n"), None);
    }
}
