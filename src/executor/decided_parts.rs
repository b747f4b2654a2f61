//! The parts of decided transactions: each is staged until it is logged, however often a full disk takes
//! it back, and its locks are held until then. Only a shard that has stopped leaves its part to the restart.

use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::Batch;
use crate::channel::step_answers::StepAnswer;
use crate::error::CommandError;
use crate::storage::database::DatabaseError;
use crate::storage::redo::Part;
use crate::storage::transaction_scope::TransactionId;
use std::time::Instant;

/// A decided transaction's parts on the shards of this executor, until they are committed.
pub(super) struct Decided {
    id: TransactionId,
    /// The apply step, which is answered then.
    step: Box<Batch>,
    parts: Vec<Part>,
    /// By part: the epoch in which it is staged, if it is.
    staged: Vec<Option<u64>>,
}

impl Decided {
    /// Nothing is staged yet. `step` is the apply step, to be answered when all `parts` are committed.
    pub(super) fn new(id: TransactionId, step: Box<Batch>, parts: Vec<Part>) -> Decided {
        Decided {
            id,
            step,
            staged: vec![None; parts.len()],
            parts,
        }
    }
}

impl StorageExecutor {
    /// Stages those parts of a decided transaction that are not staged, where a shard takes writes: each by itself,
    /// with the marker that it is applied.
    pub(super) fn stage_decided(&mut self, decided: &mut Decided) {
        let Decided {
            id,
            step,
            parts,
            staged,
        } = decided;
        let writer = step.requests[0].caller.client_id;
        for (part, staged) in parts.iter().zip(staged).filter(|(_, staged)| staged.is_none()) {
            if self.shards.shard_mut(part.shard).can_stage().is_err() {
                continue;
            }
            self.shards.begin_command();
            self.begin_parts_of(*id, writer);
            self.interests.tell_whole_changes_of(&mut self.shards, part);
            let applied = self.shards.with_shard(part.shard, |shard| {
                shard.apply(&part.writes)?;
                let epoch = shard.mark_applied(*id)?;
                Ok((epoch, epoch))
            });
            match applied {
                Ok(epoch) => {
                    *staged = Some(epoch);
                    self.command_stands(writer);
                }
                Err(error) => {
                    self.roll_back_command();
                    if !matches!(error, CommandError::DiskFull | CommandError::Stalled) {
                        // The shard cannot be read, and must not go on without what is decided; nor do the others,
                        // which share its log.
                        let error = DatabaseError::Failed(error.to_string());
                        self.shards.stop_at(self.threads.syncer.durable_epoch(), &error);
                    }
                }
            }
        }
        self.serve_waiters(Instant::now());
    }

    /// After a commit: answers the decided transactions whose parts are committed, releases their locks, and finds
    /// the parts that were taken back, so that they are staged again.
    pub(super) fn finish_decided(&mut self, done: &mut Batches) {
        for mut decided in std::mem::take(&mut self.parked.decided) {
            match self.is_committed(&mut decided) {
                None => self.parked.decided.push(decided),
                Some(is_lost) => {
                    self.release_locks(decided.id);
                    let answer = self.answer_decided(decided, is_lost);
                    match done.iter_mut().find(|batch| batch.goes_back_with(&answer)) {
                        Some(batch) => batch.absorb(&answer),
                        None => done.push(answer),
                    }
                }
            }
        }
    }

    /// Whether nothing more is to be done here for a decided transaction; then also whether a shard has stopped, so
    /// that its part is left to the restart.
    fn is_committed(&mut self, decided: &mut Decided) -> Option<bool> {
        let Decided { id, parts, staged, .. } = decided;
        let logged_epoch = self.shards.released_epoch(None);
        let (mut is_over, mut is_lost) = (true, false);
        for (part, staged) in parts.iter().zip(staged) {
            let shard = self.shards.shard_mut(part.shard);
            if shard.check_readable().is_err() {
                is_lost = true;
            } else if let Some(epoch) = staged.filter(|_| shard.has_applied(*id).is_ok_and(|has_applied| has_applied)) {
                is_over &= epoch <= logged_epoch;
            } else {
                *staged = None;
                is_over = false;
            }
        }
        is_over.then_some(is_lost)
    }

    /// The apply step's answer, which leaves when the parts are as safe as the durability setting asks for.
    fn answer_decided(&self, decided: Decided, is_lost: bool) -> Box<Batch> {
        let Decided { mut step, staged, .. } = decided;
        let request = step.requests[0];
        // Of a part that is left to the restart neither OK nor an error would be true.
        let answer = match is_lost {
            true => StepAnswer::Unknown,
            false => StepAnswer::Done,
        };
        step.answer(&request, answer.fixed());
        if let Some(response) = step.responses.last_mut() {
            response.failed = is_lost;
            response.commit_epoch = staged.into_iter().flatten().max().unwrap_or(0);
        }
        step
    }
}
