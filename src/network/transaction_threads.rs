//! Handlers of transactions on threads of their own: scripts, which may take long while other clients' sockets are on
//! the network executor, and handlers that must wait for more than what came with the locks.

use super::coordination::{Coordination, Phase, Ran};
use super::network_executor::NetworkExecutor;
use crate::channel::destinations::Destinations;
use crate::channel::message::{Caller, Priority, RequestId};
use crate::channel::responses::{Responses, responses};
use crate::channel::router::Router;
use crate::channel::step_answers::{StepAnswer, decode_keys, decode_members};
use crate::channel::step_arguments::Question;
use crate::command::TRANSACTION_READ;
use crate::error::CommandError;
use crate::network::dispatch::APPLY_DEADLINE;
use crate::panics;
use crate::scripts::registry::ScriptSeat;
use crate::slots::{Slot, slots_of};
use crate::storage::database::{Column, Direction, MemberRange};
use crate::storage::fields::FieldReader;
use crate::storage::gathered::{Gathered, KeyRange, KeysFound, Member, Remote};
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::DatabaseKey;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Transactions of one network executor that run at once on threads of their own; others wait until one of those ends.
pub(crate) const THREADS_MAX: usize = 16;

/// How long such a thread waits for an answer before it offers again what a channel did not take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// The threads of one network executor.
#[derive(Default)]
pub(super) struct TransactionThreads {
    /// By thread: whether it runs.
    is_taken: [bool; THREADS_MAX],
    /// Transactions that wait for a thread, by their numbers.
    waiting: VecDeque<usize>,
}

/// A transaction whose handler has run on a thread.
type HandlerRan = (Box<Coordination>, Gathered, Result<(), CommandError>, Ran);

impl NetworkExecutor {
    /// Runs the handler of a transaction, whose locks are held, on a thread, where the handler can ask the participants
    /// for more than they told with the locks.
    pub(super) fn run_on_thread(self: &Rc<Self>, coordination: Box<Coordination>, gathered: Gathered) {
        let Some(thread) = self.take_thread() else {
            let mut transactions = self.transactions.borrow_mut();
            transactions.threads.waiting.push_back(coordination.number);
            return transactions.put(coordination, Phase::WaitingForThread(gathered));
        };
        let number = self.destination_count() + self.index * THREADS_MAX + thread;
        self.server.scripts.set_transaction(number, coordination.locks.id);
        let script_seat = ScriptSeat {
            scripts: Arc::clone(&self.server.scripts),
            number,
        };
        let (reply_to, responses) = responses();
        let asking = Asking {
            destinations: self.destinations.borrow().to_the_same(reply_to),
            responses,
            router: self.server.router.clone(),
        };
        let background = self.server.core_map.background.clone();
        let (sender, receiver) = flume::bounded(1);
        // The thread gets the transaction when there is one.
        let (handed, taken) = flume::bounded::<(Box<Coordination>, Gathered)>(1);
        let spawned = panics::spawn("transaction", move || {
            if let Err(error) = crate::topology::pin_current_thread(&background) {
                tracing::warn!(%error, "a transaction's thread could not be pinned");
            }
            let Ok((mut coordination, mut gathered)) = taken.recv() else {
                return;
            };
            gathered.begin_again();
            gathered.remote = Some(Box::new(asking));
            let began = Instant::now();
            let (outcome, ran) = coordination.job.run_handler(&mut gathered, Some(&script_seat));
            gathered.remote = None;
            coordination.took_ns += began.elapsed().as_nanos() as u64;
            // The executor waits for the transaction, unless it has stopped.
            let _ = sender.send((coordination, gathered, outcome, ran));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "a transaction could not be given a thread");
            let executor = Rc::clone(self);
            glommio::spawn_local(async move { executor.free_thread(thread) }).detach();
            return self.take_outcome(coordination, gathered, Err(CommandError::Internal), Ran::default());
        }
        // The channel is empty, and the thread has its other end.
        let _ = handed.send((coordination, gathered));
        self.wait_for_thread(thread, receiver);
    }

    /// The index of a thread that is not running, which is taken from now on.
    fn take_thread(&self) -> Option<usize> {
        let is_taken = &mut self.transactions.borrow_mut().threads.is_taken;
        let thread = is_taken.iter().position(|is_taken| !is_taken)?;
        is_taken[thread] = true;
        Some(thread)
    }

    /// Goes on with a transaction when its thread has run the handler, and gives the thread to the next.
    fn wait_for_thread(self: &Rc<Self>, thread: usize, receiver: flume::Receiver<HandlerRan>) {
        let executor = Rc::clone(self);
        glommio::spawn_local(async move {
            let ended = receiver.recv_async().await;
            // The thread answers in any case: a panic of its own would have ended the process.
            if let Ok((coordination, gathered, outcome, ran)) = ended {
                executor.take_outcome(coordination, gathered, outcome, ran);
            }
            executor.free_thread(thread);
        })
        .detach();
    }

    /// A thread has ended: the next transaction that waits for one gets it.
    fn free_thread(self: &Rc<Self>, thread: usize) {
        let next = {
            let mut transactions = self.transactions.borrow_mut();
            transactions.threads.free(thread);
            let next = transactions.threads.waiting.pop_front();
            next.map(|number| transactions.take(number))
        };
        match next {
            None => {}
            Some((coordination, Phase::WaitingForThread(gathered))) => self.run_on_thread(coordination, gathered),
            Some(_) => unreachable!("only transactions in that phase are in the queue for a thread"),
        }
        self.flush_touched();
    }
}

impl TransactionThreads {
    fn free(&mut self, thread: usize) {
        assert!(self.is_taken[thread], "a thread that was not taken ends");
        self.is_taken[thread] = false;
    }
}

/// Asks storage executors from a thread that may wait.
struct Asking {
    destinations: Destinations,
    responses: Responses,
    router: Router,
}

impl Asking {
    /// Asks the executor that has `key`, and waits for the answer.
    fn ask(&mut self, key: &[u8], question: &Question<'_>) -> Result<Vec<u8>, CommandError> {
        let destination = usize::from(self.router.executor_of_key(key).0);
        self.ask_at(destination, question)
    }

    fn ask_at(&mut self, destination: usize, question: &Question<'_>) -> Result<Vec<u8>, CommandError> {
        self.send(destination, question);
        self.destinations.flush();
        self.receive().1
    }

    fn send(&mut self, destination: usize, question: &Question<'_>) {
        let words = [TRANSACTION_READ.name.as_bytes(), &question.encode()];
        self.destinations.push(
            (destination, Priority::Normal),
            RequestId::default(),
            &TRANSACTION_READ,
            Caller::default(),
            Instant::now() + APPLY_DEADLINE,
            words,
        );
    }

    /// Waits for an answer to a question that was sent; returns the destination that has answered, and the answer.
    fn receive(&mut self) -> (usize, Result<Vec<u8>, CommandError>) {
        loop {
            match self.responses.next_within(ANSWER_PATIENCE) {
                Ok(Some(batch)) => {
                    let reply = batch.responses.first().map(|response| batch.reply(response).to_vec());
                    let destination = batch.destination;
                    self.destinations.recycle(batch);
                    let answer = match StepAnswer::decode(reply.as_deref().unwrap_or_default()) {
                        StepAnswer::Content(content) => Ok(content.to_vec()),
                        StepAnswer::Error(text) => {
                            let text = String::from_utf8_lossy(&text[1..]).trim_end().to_owned();
                            Err(CommandError::text(text))
                        }
                        _ => Err(CommandError::Internal),
                    };
                    return (destination, answer);
                }
                Ok(None) => {
                    // A batch that its channel did not take is offered again, unless the executor has ended.
                    let (_, given_up) = self.destinations.retry();
                    if !given_up.is_empty() {
                        return (0, Err(CommandError::Internal));
                    }
                }
                Err(flume::RecvError::Disconnected) => return (0, Err(CommandError::Internal)),
            }
        }
    }
}

impl Remote for Asking {
    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        let answer = self.ask(&owner.key, &Question::Member(Cow::Borrowed(owner), column, member))?;
        let value = FieldReader(&answer).optional_bytes().ok_or(CommandError::Internal)?;
        Ok(value.map(<[u8]>::to_vec))
    }

    fn members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<Member>, CommandError> {
        let question = Question::Members(Cow::Borrowed(owner), column, range, direction, count as u64);
        let answer = self.ask(&owner.key, &question)?;
        decode_members(&answer).ok_or(CommandError::Internal)
    }

    fn keys_at(&mut self, keys: &[DatabaseKey]) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut by_destination: Vec<Vec<DatabaseKey>> = vec![Vec::new(); self.router.executor_count()];
        let destination_of = |key: &DatabaseKey| usize::from(self.router.executor_of_key(&key.1).0);
        let destinations: Vec<usize> = keys.iter().map(destination_of).collect();
        for (key, destination) in keys.iter().zip(&destinations) {
            by_destination[*destination].push(key.clone());
        }
        let mut asked = 0;
        for (destination, asked_for) in by_destination
            .iter()
            .enumerate()
            .filter(|(_, asked_for)| !asked_for.is_empty())
        {
            self.send(destination, &Question::Keys(Cow::Borrowed(asked_for)));
            asked += 1;
        }
        self.destinations.flush();
        let mut answers: Vec<Result<Vec<u8>, CommandError>> = vec![Ok(Vec::new()); by_destination.len()];
        for _ in 0..asked {
            let (destination, answer) = self.receive();
            answers[destination] = answer;
        }
        // All answers are here, so that none can be taken for the answer to a later question.
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut fields: Vec<FieldReader<'_>> = answers.iter().map(|answer| FieldReader(answer)).collect();
        let known = destinations
            .iter()
            .map(|destination| fields[*destination].bytes().map(<[u8]>::to_vec));
        known.collect::<Option<Vec<_>>>().ok_or(CommandError::Internal)
    }

    fn count(&mut self, database: u8) -> Result<u64, CommandError> {
        let mut count = 0;
        for destination in 0..self.router.executor_count() {
            let answer = self.ask_at(destination, &Question::Count(database))?;
            count += FieldReader(&answer).number().ok_or(CommandError::Internal)?;
        }
        Ok(count)
    }

    fn keys(&mut self, database: u8, range: KeyRange, now_ms: u64) -> Result<KeysFound, CommandError> {
        let shard = self.router.shard_of(Slot(range.slot));
        let shard_end = slots_of(shard, self.router.shard_count()).end;
        let here = KeyRange {
            end: range.end.min(shard_end),
            ..range
        };
        let destination = usize::from(self.router.owner(shard).0);
        let answer = self.ask_at(destination, &Question::KeysOf(database, Cow::Borrowed(&here), now_ms))?;
        let (keys, last) = decode_keys(&answer).ok_or(CommandError::Internal)?;
        let rest = KeyRange {
            slot: last.as_ref().map_or(here.end, |key| Slot::of(key).0),
            after: last,
            end: range.end,
        };
        Ok(KeysFound {
            keys,
            remaining: (rest.slot < rest.end).then_some(rest),
        })
    }
}
