//! Commands that come in steps, so that none of them holds its executor for long, however large the collections are on
//! which it works.
//!
//! Such a command is an asynchronous function that asks its executor to [run](Steps::run) one step after the other. Its
//! executor runs those for half a millisecond, serves others, and goes on; meanwhile the keys are locked that the
//! command has named, so that it is one change to everybody nevertheless. What it makes it writes as members of a
//! collection that no record names yet, and the record comes with the last step.
//!
//! Where a command cannot be left (it is a part of another, or works on keys of several executors), or has few members
//! before it, the same function runs to its end at once.

use super::Context;
use super::script_runs::Driven;
use crate::error::CommandError;
use crate::faults;
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::DatabaseKey;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

type Outcome = Result<(), CommandError>;

/// Members that one step reads or writes: some 100 µs.
const MEMBERS_PER_STEP: usize = 256;

/// Members of which one step asks other collections whether they have them, each of which may take a read of the disk.
const ASKED_PER_STEP: usize = 64;

/// A command that has fewer members before it does not take longer than others that run at once.
const MEMBERS_AT_ONCE_MAX: u64 = 1024;

/// Items that are sorted, or put in their places among sorted ones, in one step.
const SORTED_PER_STEP: usize = 1024;

/// What is to be run of a command next.
type Work = Box<dyn FnOnce(&mut Context<'_>) + Send>;

/// How many members one step reads or writes at most.
pub fn members_per_step() -> usize {
    faults::step_members().unwrap_or(MEMBERS_PER_STEP)
}

/// Of how many members one step asks other collections whether they have them, at most.
pub fn asked_per_step() -> usize {
    faults::step_members().unwrap_or(ASKED_PER_STEP)
}

fn sorted_per_step() -> usize {
    faults::step_members().unwrap_or(SORTED_PER_STEP)
}

/// Never waits: a command and its executor take turns on one thread.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most members that a command works on at once, whatever it does with them, if it may be left.
pub fn members_at_once_max() -> u64 {
    faults::step_members().map_or(MEMBERS_AT_ONCE_MAX, |members| members as u64)
}

/// A command's way to its executor.
#[derive(Clone, Default)]
pub struct Steps {
    next: Arc<Mutex<Option<Work>>>,
    /// Others may run between two steps.
    are_left: bool,
}

impl Steps {
    /// Runs a step, for which the command waits. Other commands may run before and after it.
    ///
    /// # Errors
    /// That of `work`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Context<'_>) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let outcome = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&outcome);
        let before = lock(&self.next).replace(Box::new(move |context| {
            *lock(&filled) = Some(work(context));
        }));
        assert!(before.is_none(), "a command asks for one step at a time");
        futures_lite::future::yield_now().await;
        let outcome = lock(&outcome).take();
        outcome.expect("a command goes on when its step was run")
    }

    /// Whether other commands may run between two steps, and a crash may come there.
    pub fn are_left(&self) -> bool {
        self.are_left
    }

    /// Lets others run, between two steps that need nothing of the executor.
    pub async fn pause(&self) {
        let paused = self.run(|_| Ok(())).await;
        assert_eq!(paused, Ok(()), "what does nothing does not fail");
    }

    /// Sorts `items`, those that are equal staying in their order.
    pub async fn sort<T>(&self, items: Vec<T>, compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
        let mut runs = VecDeque::new();
        let mut items = items.into_iter();
        loop {
            let mut run: Vec<T> = items.by_ref().take(sorted_per_step()).collect();
            if run.is_empty() {
                break;
            }
            run.sort_by(&compare);
            runs.push_back(run);
            if !items.as_slice().is_empty() {
                self.pause().await;
            }
        }
        while runs.len() > 1 {
            let mut merged = VecDeque::new();
            while let Some(left) = runs.pop_front() {
                merged.push_back(match runs.pop_front() {
                    Some(right) => self.merge((left, right), &compare).await,
                    None => left,
                });
            }
            runs = merged;
        }
        runs.pop_front().unwrap_or_default()
    }

    /// One sorted list of two; of equal items those of the first come first.
    async fn merge<T>(&self, (left, right): (Vec<T>, Vec<T>), compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
        let mut merged = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.into_iter(), right.into_iter());
        loop {
            let next = match (left.as_slice().first(), right.as_slice().first()) {
                (Some(a), Some(b)) if compare(a, b) != Ordering::Greater => left.next(),
                (_, Some(_)) => right.next(),
                (_, None) => left.next(),
            };
            let Some(next) = next else { return merged };
            merged.push(next);
            if merged.len().is_multiple_of(sorted_per_step()) {
                self.pause().await;
            }
        }
    }

    /// Calls `take` with all items, some at a time: many take long to be moved, or given back.
    pub async fn take_each<T>(&self, items: impl IntoIterator<Item = T>, mut take: impl FnMut(T)) {
        let mut items = items.into_iter();
        while items.by_ref().take(sorted_per_step()).map(&mut take).count() == sorted_per_step() {
            self.pause().await;
        }
    }

    /// Runs `work` with all items, some at a time, which are let go of then; `state` goes from one to the next, and is
    /// returned.
    ///
    /// # Errors
    /// That of `work`.
    pub async fn run_with_each<T: Send + 'static, S: Send + 'static>(
        &self,
        items: Vec<T>,
        mut state: S,
        work: fn(&mut Context<'_>, &mut S, T) -> Outcome,
    ) -> Result<S, CommandError> {
        let mut items = items.into_iter();
        loop {
            let some: Vec<T> = items.by_ref().take(members_per_step()).collect();
            if some.is_empty() {
                return Ok(state);
            }
            let step = self.run(move |context| {
                some.into_iter().try_for_each(|item| work(context, &mut state, item))?;
                Ok(state)
            });
            state = step.await?;
        }
    }
}

/// A command that has begun and comes in steps.
pub struct InSteps {
    command: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    steps: Steps,
    writes: Vec<DatabaseKey>,
    /// What it [removes](super::removals) members from: what its steps have done stands if it fails.
    pub removes_from: Option<Owner>,
    /// It is left after each step.
    is_left_often: bool,
}

impl InSteps {
    /// A command which has begun before a crash, and goes on.
    pub fn resumed<F: Future<Output = Outcome> + Send + 'static>(
        writes: Vec<DatabaseKey>,
        begin: impl FnOnce(Steps) -> F,
    ) -> InSteps {
        let steps = Steps {
            are_left: true,
            ..Steps::default()
        };
        InSteps {
            command: Box::pin(begin(steps.clone())),
            steps,
            writes,
            removes_from: None,
            is_left_often: faults::step_members().is_some(),
        }
    }

    /// Those of the keys that the command has named which it may write: nobody reads them before it is over.
    pub fn writes(&self) -> &[DatabaseKey] {
        &self.writes
    }

    /// Runs the command on, step by step, until it is over or `is_enough`.
    ///
    /// # Errors
    /// The command's.
    pub fn drive(&mut self, context: &mut Context<'_>, is_enough: impl Fn() -> bool) -> Result<Driven, CommandError> {
        let mut waker = std::task::Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(outcome) = self.command.as_mut().poll(&mut waker) {
                return outcome.map(|()| Driven::Done);
            }
            let next = lock(&self.steps.next).take();
            next.expect("a command waits for nothing but its steps")(context);
            if is_enough() || self.is_left_often {
                return Ok(Driven::Paused);
            }
        }
    }
}

impl Context<'_> {
    /// Whether a command that has `members` members before it comes in steps.
    pub fn works_in_steps(&self, members: u64) -> bool {
        self.may_take_steps && members > members_at_once_max()
    }

    /// Runs a command that has `members` members before it in steps, which may write the keys `writes` of those that it
    /// has named; at once if it cannot be left or is short.
    ///
    /// # Errors
    /// Those of the command, if it is over.
    pub fn in_steps<F: Future<Output = Outcome> + Send + 'static>(
        &mut self,
        (members, writes): (u64, Vec<DatabaseKey>),
        begin: impl FnOnce(Steps) -> F,
    ) -> Outcome {
        let is_left_often = self.may_take_steps && faults::step_members().is_some();
        let steps = Steps {
            are_left: self.may_take_steps && members > MEMBERS_AT_ONCE_MAX || is_left_often,
            ..Steps::default()
        };
        let are_left = steps.are_left;
        let mut command = InSteps {
            command: Box::pin(begin(steps.clone())),
            steps,
            writes,
            removes_from: None,
            is_left_often,
        };
        if are_left {
            self.steps = Some(Box::new(command));
            return Ok(());
        }
        let driven = command.drive(self, || false)?;
        assert_eq!(driven, Driven::Done, "nothing ends it before");
        Ok(())
    }
}
