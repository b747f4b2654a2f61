//! What travels between executors: a batch of requests one way, and the same allocation back with the responses.
//!
//! A batch owns one run of bytes for all arguments and one for all replies, so that a request costs no allocation. A
//! batch always goes back to the executor that made it, which uses it again with its capacity.

use super::responses::ResponseSender;
use crate::command::Command;
use crate::error::CommandError;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, REQUEST_BYTES_MAX, Reply, Span};
use std::time::Instant;

/// Bytes of arguments, and of their spans, after which a batch is sent without waiting for the end of the turn: about
/// what a storage executor reads and stages while its caches still hold it.
pub const BATCH_BYTES_FULL: usize = 256 * 1024;

/// Reply bytes after which a batch's replies leave ahead of the requests that are still to be run: bounds the memory of
/// a turn, and keeps positions in `replies`, which have 32 bits.
pub const REPLY_BYTES_FULL: usize = 4 << 20;

const _: () = assert!(
    REQUEST_BYTES_MAX + BATCH_BYTES_FULL <= u32::MAX as usize,
    "the last request of a batch can be told in 32 bits, whatever comes before it"
);

/// Bytes of replies that one batch may have: what 32 bits can tell, with room for the errors that may come behind the
/// replies when writes are rolled back.
pub const REPLY_BYTES_MAX: usize = u32::MAX as usize - (16 << 20);

/// Capacity that a batch may keep for its next use; what a large value has stretched is given back to the allocator.
const BATCH_BYTES_KEPT: usize = 512 * 1024;

/// In [`Response::more`]: no reply, but the news that a command, or a part of one, has found nothing and waits.
pub const WAITS: u64 = u64::MAX;

/// In [`Response::more`]: no reply, but the command itself, which needs more than its keys on this executor and is to
/// be run as a transaction.
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

/// The command that waits for a response. A storage executor copies it from the request, and reads nothing in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId {
    /// The connection's index in its executor's table.
    pub connection: u32,
    /// Which of the connections that had this index.
    pub generation: u32,
    /// The command's number on its connection.
    pub sequence: u32,
    /// Which part of a command that was split over executors; 0 for a whole command.
    pub part: u32,
}

/// On whose behalf a request runs, and how that client wants to be answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// CLIENT ID; 0 for no client.
    pub client_id: u64,
    /// The network executor that has the client.
    pub executor: u16,
    /// CLIENT TRACKING: the client is to be told when what it reads is outdated.
    pub tracks: bool,
    /// The reply's encoding.
    pub version: Version,
    /// The database that the client selected, `0..16`.
    pub database: u8,
}

/// One client command, or one part of it.
#[derive(Clone, Copy)]
pub struct Request {
    /// The command that waits for the response.
    pub id: RequestId,
    /// What to do.
    pub command: &'static Command,
    /// For which client.
    pub caller: Caller,
    /// A request that has not begun by then is answered `-TIMEOUT`.
    pub deadline: Instant,
    first_span: u32,
    span_count: u32,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// The id of the request.
    pub id: RequestId,
    /// The reply's bytes among [`Batch::replies`].
    pub reply: Span,
    /// The row that was run.
    pub command: &'static Command,
    /// How long the handler ran, in nanoseconds.
    pub took_ns: u32,
    /// Whether the reply is an error (for INFO commandstats).
    pub failed: bool,
    /// The epoch of the newest writes that the request made or saw; 0 for none. The reply leaves once what was written
    /// in that epoch is as safe as the durability setting asks for.
    pub commit_epoch: u64,
    /// The number by which the executor keeps the remainder of the reply; 0 if there is none.
    pub more: u64,
}

/// Requests to one storage executor, later their responses.
pub struct Batch {
    /// What to do, in order.
    pub requests: Vec<Request>,
    /// How many of the requests were run.
    pub run: usize,
    /// What came of the requests, in the order in which they were run; of requests that wait, nothing.
    pub responses: Vec<Response>,
    /// All replies, as RESP.
    pub replies: Vec<u8>,
    /// In which of the storage executor's queues.
    pub priority: Priority,
    /// When the batch was handed to the channel.
    pub sent_at: Instant,
    /// When the storage executor took the batch up.
    pub received_at: Instant,
    /// Credits that come back with this batch.
    pub credits: usize,
    /// Argument bytes that are counted against the destination.
    pub bytes_charged: usize,
    /// Which storage executor the batch is for.
    pub destination: usize,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    reply_to: ResponseSender,
}

impl Batch {
    /// An empty batch that goes back through `reply_to`.
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

    /// Adds a request, with a copy of its arguments.
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

    /// Takes the responses that `ready` selects into a batch of their own, which may leave at once, with a credit for
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

    /// Whether both batches go back the same way, with what came at the same priority.
    pub fn goes_back_with(&self, other: &Batch) -> bool {
        (self.destination, self.priority) == (other.destination, other.priority)
            && self.reply_to.is_same(&other.reply_to)
    }

    /// Whether [`Batch::absorb`] may take a batch over, and keeps this one small.
    pub fn has_room_for(&self, other: &Batch) -> bool {
        self.goes_back_with(other) && self.replies.len() + other.replies.len() <= REPLY_BYTES_FULL
    }

    /// Takes over the responses of a batch that goes back the same way, and its credits: one message in place of two.
    pub fn absorb(&mut self, other: &Batch) {
        assert!(
            self.goes_back_with(other),
            "a batch has one sender, destination and priority"
        );
        let shift = self.replies.len();
        self.replies.extend_from_slice(&other.replies);
        self.responses.extend(other.responses.iter().map(|response| Response {
            reply: Span::new(response.reply.range().start + shift, response.reply.range().len()),
            ..*response
        }));
        self.credits += other.credits;
    }

    /// Takes the responses there are into a batch of their own, which leaves before the other requests are run. The
    /// credits stay here.
    pub fn take_responses(&mut self) -> Box<Batch> {
        let mut first = Batch::new(self.reply_to.clone());
        (first.sent_at, first.received_at, first.destination) = (self.sent_at, self.received_at, self.destination);
        first.priority = self.priority;
        first.responses = std::mem::take(&mut self.responses);
        first.replies = std::mem::take(&mut self.replies);
        first
    }

    /// A copy of a request in a batch of its own, with its credit: the request is answered later than the others.
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

    /// [`Batch::take_request`] without the arguments, for a request that waits for nothing but its answer.
    pub fn take_for_answer(&mut self, request: &Request) -> Box<Batch> {
        let mut alone = self.take_credit();
        alone.requests.push(Request {
            first_span: 0,
            span_count: 0,
            ..*request
        });
        alone
    }

    /// An empty batch with the credit of a request.
    fn take_credit(&mut self) -> Box<Batch> {
        let mut alone = Batch::new(self.reply_to.clone());
        (alone.sent_at, alone.received_at, alone.destination) = (self.sent_at, self.received_at, self.destination);
        alone.priority = self.priority;
        // A request that is taken out for the second time has given its credit to the first batch.
        alone.credits = self.credits.min(1);
        self.credits -= alone.credits;
        alone
    }

    /// Takes the requests from `index` on, with their arguments, into a batch of their own. The credits stay here.
    pub fn split_requests(&mut self, index: usize) -> Box<Batch> {
        let mut refused = Batch::new(self.reply_to.clone());
        (refused.sent_at, refused.received_at, refused.destination) =
            (self.sent_at, self.received_at, self.destination);
        refused.priority = self.priority;
        for request in self.requests.split_off(index) {
            let arguments = self.arguments(&request).iter();
            refused.push(request.id, request.command, request.caller, request.deadline, arguments);
        }
        refused.credits = 0;
        refused
    }

    /// Where the batch goes back to.
    pub fn reply_to(&self) -> &ResponseSender {
        &self.reply_to
    }

    /// Answers every request of a batch that was never handed over.
    pub fn answer_all_with_error(&mut self, error: &CommandError) {
        assert!(self.responses.is_empty(), "what was not handed over was not run");
        for index in 0..self.requests.len() {
            self.answer_with_error(index, error);
        }
    }

    /// Answers the request at `index` without running it.
    pub fn answer_with_error(&mut self, index: usize, error: &CommandError) {
        let request = self.requests[index];
        let mut reply = Vec::new();
        Reply::new(&mut reply, request.caller.version).error(error.to_string());
        self.answer(&request, &reply);
    }

    /// Answers a request with a reply that no handler has written; it counts as an error.
    pub fn answer(&mut self, request: &Request, bytes: &[u8]) {
        let reply = Span::new(self.replies.len(), bytes.len());
        self.replies.extend_from_slice(bytes);
        self.responses.push(Response {
            id: request.id,
            reply,
            command: request.command,
            took_ns: 0,
            failed: true,
            commit_epoch: 0,
            more: 0,
        });
    }

    /// Sends the batch back. Its sender may be gone (a client of the in-process engine was dropped): then it is freed.
    pub fn send_back(self: Box<Self>) {
        self.reply_to.clone().send(self);
    }

    /// Empties a batch that came back, to be filled again.
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
