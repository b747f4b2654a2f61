//! What travels between executors: a box of requests one way, the same box with the responses filled in the other way.
//!
//! A batch owns one run of bytes for all arguments and one for all replies, so that a request costs no allocation and a
//! box that has come back is used again with its capacity. It always returns to the executor that made it.

use super::responses::ResponseSender;
use crate::command::Command;
use crate::error::CommandError;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, REQUEST_BYTES_MAX, Reply, Span};
use std::time::Instant;

/// Bytes of arguments, and of where they lie, after which a batch is sent without waiting for the end of the turn:
/// about what a storage executor reads and stages while its caches still hold it.
pub const BATCH_BYTES_FULL: usize = 256 * 1024;

/// Reply bytes after which a batch's replies leave ahead of the requests that are still to be run: bounds the memory of
/// a turn, and keeps positions in `replies`, which have 32 bits.
pub const REPLY_BYTES_FULL: usize = 4 << 20;

const _: () = assert!(
    REQUEST_BYTES_MAX + BATCH_BYTES_FULL <= u32::MAX as usize,
    "the last request of a batch can be told in 32 bits, whatever comes before it"
);

/// Bytes of replies in one box that can be told, with room for the errors that may come behind them when writes are
/// taken back.
pub const REPLY_BYTES_MAX: usize = u32::MAX as usize - (16 << 20);
/// Capacity that a box may keep for its next use; one that a large value has stretched is given back to the allocator.
const BATCH_BYTES_KEPT: usize = 512 * 1024;

/// In [`Response::more`]: not a reply, but the notice that a command, or a part of one, has found nothing and waits.
pub const WAITS: u64 = u64::MAX;

/// In [`Response::more`]: not a reply, but the command itself, which needs more than its keys on this executor and is
/// to be run as a transaction.
pub const HANDED_BACK: u64 = u64::MAX - 1;

/// In which order a storage executor serves what has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Health checks and administration.
    High,
    /// Clients' commands.
    #[default]
    Normal,
    /// Scans over whole shards and maintenance.
    Low,
}

/// Who waits for a response: opaque to the storage executor, which hands it back as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId {
    /// The connection's place in its executor's table.
    pub connection: u32,
    /// Which of the connections that had this place.
    pub generation: u32,
    /// The command's number on its connection.
    pub sequence: u32,
    /// Which part of a command that was split over executors; 0 for a whole one.
    pub part: u32,
}

/// On whose behalf a request runs, and how that client wants to be answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// CLIENT ID; 0 for nobody's.
    pub client_id: u64,
    /// The network executor that has it.
    pub executor: u16,
    /// CLIENT TRACKING: it is to be told when what it reads is outdated.
    pub tracks: bool,
    /// The reply's encoding.
    pub version: Version,
    /// The database that the client selected, `0..16`.
    pub database: u8,
}

/// One client command, or one part of it.
#[derive(Clone, Copy)]
pub struct Request {
    /// Who waits for it.
    pub id: RequestId,
    /// What to do.
    pub command: &'static Command,
    /// For whom.
    pub caller: Caller,
    /// After this it is answered `-TIMEOUT` unless it has begun.
    pub deadline: Instant,
    first_span: u32,
    span_count: u32,
}

/// The answer to the request of the same place in its batch's order, or to an earlier one that had to wait.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// Whose it is.
    pub id: RequestId,
    /// Where it lies in the batch's replies.
    pub reply: Span,
    /// The row that was run.
    pub command: &'static Command,
    /// How long the handler ran, in nanoseconds.
    pub took_ns: u32,
    /// Whether the reply is an error (for INFO commandstats).
    pub failed: bool,
    /// The newest turn of the storage executor whose writes it made or saw; 0 for none. The reply leaves once what that
    /// turn wrote to `shard` is as safe as the durability setting asks for.
    pub commit_epoch: u64,
    /// The executor's own number of that shard, or [`SEVERAL_SHARDS`](crate::storage::keyspace::SEVERAL_SHARDS).
    pub shard: u16,
    /// The number by which the executor keeps the rest of the reply; 0 if this is all of it.
    pub more: u64,
}

/// Requests to one storage executor, later their responses.
pub struct Batch {
    /// What to do, in order.
    pub requests: Vec<Request>,
    /// How many of them were run.
    pub run: usize,
    /// What came of it, in order.
    pub responses: Vec<Response>,
    /// All replies, as RESP.
    pub replies: Vec<u8>,
    /// Queue at the storage executor.
    pub priority: Priority,
    /// When it was handed to the channel.
    pub sent_at: Instant,
    /// When the storage executor took it up.
    pub received_at: Instant,
    /// Credits that come back with this box.
    pub credits: usize,
    /// Argument bytes that are counted against its destination.
    pub bytes_charged: usize,
    /// Which storage executor it was sent to.
    pub destination: usize,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    reply_to: ResponseSender,
}

impl Batch {
    /// An empty batch whose box returns through `reply_to`.
    pub fn new(reply_to: ResponseSender) -> Box<Batch> {
        let now = Instant::now();
        Box::new(Batch {
            requests: Vec::new(),
            run: 0,
            responses: Vec::new(),
            replies: Vec::new(),
            priority: Priority::Normal,
            sent_at: now,
            received_at: now,
            credits: 0,
            bytes_charged: 0,
            destination: 0,
            bytes: Vec::new(),
            spans: Vec::new(),
            reply_to,
        })
    }

    /// Adds a request; its arguments are copied. The id's connection, the deadline and the like come from `request`.
    #[inline]
    pub fn push<'a>(
        &mut self,
        id: RequestId,
        command: &'static Command,
        caller: Caller,
        deadline: Instant,
        arguments: impl IntoIterator<Item = &'a [u8]>,
    ) {
        // Spans count as bytes of the batch, so there are far fewer than 2^32.
        let first_span = self.spans.len() as u32;
        for argument in arguments {
            self.push_argument(argument);
        }
        let span_count = self.spans.len() as u32 - first_span;
        self.requests.push(Request {
            id,
            command,
            caller,
            deadline,
            first_span,
            span_count,
        });
        self.credits += 1;
    }

    #[inline]
    fn push_argument(&mut self, argument: &[u8]) {
        self.spans.push(Span::new(self.bytes.len(), argument.len()));
        self.bytes.extend_from_slice(argument);
    }

    /// The arguments of one of this batch's requests.
    #[inline]
    pub fn arguments(&self, request: &Request) -> Arguments<'_> {
        let first = request.first_span as usize;
        Arguments::new(&self.bytes, &self.spans[first..first + request.span_count as usize])
    }

    /// The arguments of a request and the buffer for its reply, which are written while the arguments are read.
    #[inline]
    pub fn parts(&mut self, request: &Request) -> (Arguments<'_>, &mut Vec<u8>) {
        let first = request.first_span as usize;
        let spans = &self.spans[first..first + request.span_count as usize];
        (Arguments::new(&self.bytes, spans), &mut self.replies)
    }

    /// The bytes of a response's reply.
    #[inline]
    pub fn reply(&self, response: &Response) -> &[u8] {
        &self.replies[response.reply.range()]
    }

    /// What the arguments take up so far, in bytes.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len() + self.spans.len() * size_of::<Span>()
    }

    /// Takes the responses that `ready` selects into a box of their own, which may leave at once, with a credit for
    /// each: the replies that stay may wait for long, and others need those credits meanwhile.
    pub fn split_off(&mut self, ready: impl Fn(&Response) -> bool) -> Option<Box<Batch>> {
        if !self.responses.iter().any(&ready) {
            return None;
        }
        let mut first = Batch::new(self.reply_to.clone());
        (first.sent_at, first.received_at, first.destination) = (self.sent_at, self.received_at, self.destination);
        first.priority = self.priority;
        let replies = &self.replies;
        self.responses.retain(|response| {
            if !ready(response) {
                return true;
            }
            let range = response.reply.range();
            first.responses.push(Response {
                reply: Span::new(first.replies.len(), range.len()),
                ..*response
            });
            first.replies.extend_from_slice(&replies[range]);
            false
        });
        first.credits = self.credits.min(first.responses.len());
        self.credits -= first.credits;
        Some(first)
    }

    /// Takes the responses there are into a box of their own, which leaves before the other requests are run. The
    /// credits stay here.
    pub fn take_responses(&mut self) -> Box<Batch> {
        let mut first = Batch::new(self.reply_to.clone());
        (first.sent_at, first.received_at, first.destination) = (self.sent_at, self.received_at, self.destination);
        first.priority = self.priority;
        first.responses = std::mem::take(&mut self.responses);
        first.replies = std::mem::take(&mut self.replies);
        first
    }

    /// A request's copy in a box of its own, with its credit: it is answered later than the others.
    pub fn take_request(&mut self, request: &Request) -> Box<Batch> {
        let mut alone = self.take_credit();
        alone.push(
            request.id,
            request.command,
            request.caller,
            request.deadline,
            self.arguments(request).iter(),
        );
        alone.credits -= 1;
        alone
    }

    /// The same without its arguments, of a request that has been read and waits for nothing but its answer.
    pub fn take_for_answer(&mut self, request: &Request) -> Box<Batch> {
        let mut alone = self.take_credit();
        alone.requests.push(Request {
            first_span: 0,
            span_count: 0,
            ..*request
        });
        alone
    }

    /// An empty box with the credit of a request.
    fn take_credit(&mut self) -> Box<Batch> {
        let mut alone = Batch::new(self.reply_to.clone());
        (alone.sent_at, alone.received_at, alone.destination) = (self.sent_at, self.received_at, self.destination);
        alone.priority = self.priority;
        // A box that was taken out of another for the second time has given its credit to the first.
        alone.credits = self.credits.min(1);
        self.credits -= alone.credits;
        alone
    }

    /// Takes the requests from `place` on, with their arguments, into a box of their own. The credits stay here.
    pub fn split_requests(&mut self, place: usize) -> Box<Batch> {
        let mut refused = Batch::new(self.reply_to.clone());
        (refused.sent_at, refused.received_at, refused.destination) =
            (self.sent_at, self.received_at, self.destination);
        refused.priority = self.priority;
        for request in self.requests.split_off(place) {
            let arguments = self.arguments(&request).iter();
            refused.push(request.id, request.command, request.caller, request.deadline, arguments);
        }
        refused.credits = 0;
        refused
    }

    /// Where the box returns to.
    pub fn reply_to(&self) -> &ResponseSender {
        &self.reply_to
    }

    /// Answers every request of a batch that was never handed over.
    pub fn answer_all_with_error(&mut self, error: &CommandError) {
        for place in 0..self.requests.len() {
            self.answer_with_error(place, error);
        }
    }

    /// Answers the request at `place` without running it.
    pub fn answer_with_error(&mut self, place: usize, error: &CommandError) {
        let request = self.requests[place];
        let mut reply = Vec::new();
        Reply::new(&mut reply, request.caller.version).error(error.to_string());
        self.answer(&request, &reply);
    }

    /// Answers a request that was not run with an error.
    pub fn answer(&mut self, request: &Request, error: &[u8]) {
        let reply = Span::new(self.replies.len(), error.len());
        self.replies.extend_from_slice(error);
        self.responses.push(Response {
            id: request.id,
            reply,
            command: request.command,
            took_ns: 0,
            failed: true,
            commit_epoch: 0,
            shard: 0,
            more: 0,
        });
    }

    /// Sends the box back. Its owner may be gone (a client of the in-process engine was dropped): then it is freed.
    pub fn send_back(self: Box<Self>) {
        self.reply_to.clone().send(self);
    }

    /// Empties a box that came back, for its next journey.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.run = 0;
        self.responses.clear();
        self.replies.clear();
        self.bytes.clear();
        self.spans.clear();
        (self.credits, self.bytes_charged) = (0, 0);
        self.priority = Priority::Normal;
        self.bytes.shrink_to(BATCH_BYTES_KEPT);
        self.replies.shrink_to(BATCH_BYTES_KEPT);
        self.spans.shrink_to(BATCH_BYTES_KEPT / size_of::<Span>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::responses::responses;
    use crate::command;

    #[test]
    fn requests_that_are_split_off_take_their_arguments_along_and_leave_their_credits() {
        crate::rows::install();
        let (sender, _receiver) = responses();
        let mut batch = Batch::new(sender);
        for words in [[&b"get"[..], b"a"], [b"blpop", b"line"]] {
            let row = command::find(words[0]).expect("the table has it");
            batch.push(RequestId::default(), row, Caller::default(), Instant::now(), words);
        }
        let refused = batch.split_requests(1);
        let arguments: Vec<&[u8]> = refused.arguments(&refused.requests[0]).iter().collect();
        assert_eq!(arguments, [&b"blpop"[..], b"line"]);
        assert_eq!((batch.requests.len(), batch.credits, refused.credits), (1, 2, 0));
    }
}
