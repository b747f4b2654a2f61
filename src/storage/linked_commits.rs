//! Linked commits: what a command has written to several shards of one executor, committed as one.
//!
//! What names its keys goes the longer way of a transaction; this is for scripts that write keys which they have not
//! declared, and few others.

use super::database::Cursor;
use super::redo::{self, Part, Write};
use super::shard::Shard;
use super::shards::Shards;
use super::transaction_scope::{TransactionId, next_transaction_id};
use crate::error::CommandError;
use crate::faults::{self, Point};
use crate::slots::ShardId;

/// The linked commits of an executor's shards.
#[derive(Default)]
pub(super) struct LinkedCommits {
    /// The commits whose redo records are still there.
    unfinished: Vec<Unfinished>,
    /// The number of the next one, if what is staged is to be one.
    next_id: Option<TransactionId>,
    /// The index of the shard that has the next one's redo record staged, if one has: then no other gets it.
    next_primary: Option<usize>,
    /// How many commits of each shard are on disk, by the shard's index, where a loss of power must not tear a linked
    /// commit; `None` where it may.
    durable_commits: Option<Vec<u64>>,
}

/// A linked commit. Its redo record may go when all of its shards have committed.
struct Unfinished {
    id: TransactionId,
    /// The indexes of the shards that have the record.
    primaries: Vec<usize>,
    /// The indexes of the shards that have a marker that they have applied their part.
    marked: Vec<usize>,
    /// The epoch that all of them must have committed; then the epoch in which the record is deleted.
    epoch: u64,
    is_deleted: bool,
}

impl Shards {
    /// Tells how many commits of each shard are on disk, in the order of the shards, if a loss of power must not tear a
    /// linked commit.
    pub fn set_durable_commits(&mut self, durable_commits: Option<impl Iterator<Item = u64>>) {
        let Some(durable_commits) = durable_commits else {
            self.linked.durable_commits = None;
            return;
        };
        // Told in every turn: the vector is filled again, not made anew.
        let known = self.linked.durable_commits.get_or_insert_default();
        known.clear();
        known.extend(durable_commits);
        assert_eq!(known.len(), self.list.len(), "each shard has a log");
    }

    /// Whether a linked commit is staged and waits until the earlier commits of its shards are on disk.
    ///
    /// A linked commit is on disk as soon as one shard's log is. If an earlier commit of another shard was not on disk
    /// by then, a loss of power would take the earlier write and leave the later one of the same shard.
    pub fn waits_for_sync(&self) -> bool {
        // A commit that has failed is abandoned at once, and shards that have staged nothing have no part in it.
        let has_failed = || self.list.iter().any(|shard| shard.linked_failure().is_some());
        let is_ahead = |(shard, durable): (&Shard, &u64)| shard.has_staged() && shard.commits() > *durable;
        let durable_commits = self.linked.durable_commits.as_deref().unwrap_or_default();
        self.is_linked() && self.list.iter().zip(durable_commits).any(is_ahead) && !has_failed()
    }

    /// Whether what the shards have staged must be committed as one.
    pub fn is_linked(&self) -> bool {
        self.linked.next_id.is_some()
    }

    /// A command has written by what it has seen on several shards, of which some may have staged what it saw: all that
    /// is staged is one from now on, and no shard commits by itself.
    pub(super) fn link(&mut self) {
        self.linked.next_id.get_or_insert_with(next_transaction_id);
        self.list.iter_mut().for_each(|shard| shard.set_linked(true));
    }

    /// Commits what all shards have staged as one, if that can be done now: the first shard commits a redo record of it
    /// with its own part, then the others theirs.
    ///
    /// Each shard's log gets to the disk for itself. So where a loss of power must not tear the commit, each shard
    /// commits the record: then whichever log has got there has all of it. And no linked commit is begun before the
    /// shards' earlier commits are on disk, which costs no throughput: what is committed while a sync runs waits for
    /// the next sync anyway.
    pub fn commit_linked(&mut self) {
        // What is in flight belongs to what was seen, and is not in the record.
        if self.list.iter().any(Shard::is_committing) || self.waits_for_sync() {
            return;
        }
        let Some(id) = self.linked.next_id.take() else {
            assert_eq!(
                self.linked.next_primary, None,
                "a staged redo record has its commit's number"
            );
            return;
        };
        let staged_primary = self.linked.next_primary.take();
        let failure = self.list.iter().find_map(Shard::linked_failure).cloned();
        self.list.iter_mut().for_each(|shard| shard.set_linked(false));
        if let Some(error) = failure {
            return self.list.iter_mut().for_each(|shard| shard.abandon(error.clone()));
        }
        let indexes: Vec<usize> = (0..self.list.len())
            .filter(|index| self.list[*index].has_staged())
            .collect();
        let Some(primary) = staged_primary.or_else(|| indexes.first().copied()) else {
            return;
        };
        let others: Vec<usize> = indexes.iter().copied().filter(|index| *index != primary).collect();
        let survives = self.linked.durable_commits.is_some();
        let primaries = if survives {
            &indexes[..]
        } else {
            std::slice::from_ref(&primary)
        };
        // A shard that has the record has its part. Where several have the record, one of them may be gone while
        // another is not.
        let marked = if survives { &indexes[..] } else { &others[..] };
        if !others.is_empty()
            && let Err(error) = self.stage_linked(id, &indexes, primaries, marked)
        {
            return indexes
                .iter()
                .for_each(|index| self.list[*index].abandon(error.clone()));
        }
        match self.list[primary].commit() {
            Ok(()) => {}
            // Again with the next turn, under the same number. Where the primary waits for room with what an earlier
            // commit has decided, this one waits, too.
            Err(_) if self.list[primary].has_staged() => {
                (self.linked.next_id, self.linked.next_primary) = (Some(id), Some(primary));
                return self.list.iter_mut().for_each(|shard| shard.set_linked(true));
            }
            Err(error) => {
                return others
                    .iter()
                    .for_each(|index| self.list[*index].abandon(error.clone().into()));
            }
        }
        let epoch = self.list[primary].committed_epoch();
        for index in &others {
            // The commit is decided: a part that stalls or finds the disk full is committed when it can be, and one
            // that fails for good is done by the restart that the shard then needs.
            self.list[*index].set_decided();
            let _ = self.list[*index].commit();
        }
        if !others.is_empty() {
            self.linked.unfinished.push(Unfinished {
                id,
                primaries: primaries.to_vec(),
                marked: marked.to_vec(),
                epoch,
                is_deleted: false,
            });
        }
    }

    /// Stages the redo record of what the shards at `indexes` have staged, and the markers that they have applied their
    /// parts.
    fn stage_linked(
        &mut self,
        id: TransactionId,
        indexes: &[usize],
        primaries: &[usize],
        marked: &[usize],
    ) -> Result<(), CommandError> {
        let part_of = |index: &usize| {
            let mut writes = self.list[*index].staged_writes();
            // An earlier try has staged its own record.
            writes.retain(|write| !matches!(write, Write::Redo { id: other, .. } if *other == id));
            Part {
                shard: self.list[*index].id(),
                writes,
            }
        };
        let mut record = Vec::new();
        redo::encode_parts(&mut record, &indexes.iter().map(part_of).collect::<Vec<_>>());
        for index in primaries {
            self.list[*index].stage_linked_redo(id, record.clone());
        }
        faults::reached(Point::RedoStaged);
        for index in marked {
            self.list[*index].mark_linked_applied(id)?;
        }
        Ok(())
    }

    /// Before a cursor is opened, which reads what is committed: commits what is linked, since no shard may do it
    /// alone.
    pub(super) fn commit_linked_before_cursor(&mut self) {
        if self.is_linked() {
            for shard in &mut self.list {
                // What fails here shows as the shard's linked failure.
                let _ = shard.settle();
            }
            self.commit_linked();
        }
    }

    /// Whether a range must be read with what is staged, and not by a cursor, because that cannot be committed now.
    pub fn cursors_must_wait(&mut self) -> bool {
        self.commit_linked_before_cursor();
        self.waits_for_sync()
    }

    /// All records of a database on a shard, to be read little by little: [`Shard::key_cursor`].
    pub fn key_cursor(&mut self, id: ShardId, database: u8) -> Result<Cursor, CommandError> {
        self.commit_linked_before_cursor();
        self.with_shard(id, |shard| shard.key_cursor(database))
    }

    /// Deletes the redo records of linked commits of which all parts are done: of each shard, by its index, everything
    /// up to the epoch that `done` says.
    pub fn finish_linked_commits(&mut self, done: impl Fn(usize, &Shard) -> u64) {
        let Shards { list, linked, .. } = self;
        linked.unfinished.retain_mut(|commit| {
            let has_committed = |index: &usize| done(*index, &list[*index]) >= commit.epoch;
            if !commit.is_deleted {
                if commit.primaries.iter().chain(&commit.marked).all(has_committed) {
                    faults::reached(Point::BeforeForget);
                    commit.delete_record(list);
                }
                return true;
            }
            let is_gone = commit.primaries.iter().all(has_committed);
            if is_gone {
                // A full disk may have taken the deletion back: then the record is there, and needs the markers.
                let has_record = |primary: &usize| !matches!(list[*primary].has_redo(commit.id), Ok((false, _)));
                if commit.primaries.iter().any(has_record) {
                    commit.is_deleted = false;
                    return true;
                }
                commit
                    .marked
                    .iter()
                    .for_each(|index| list[*index].forget_applied(commit.id));
            }
            !is_gone
        });
    }
}

impl Unfinished {
    /// Stages the deletion of the redo record. Where that cannot be done now, the next call or the next start finds the
    /// record again.
    fn delete_record(&mut self, list: &mut [Shard]) {
        let deleted: Result<Vec<u64>, CommandError> = (self.primaries.iter())
            .map(|primary| list[*primary].delete_redo(self.id))
            .collect();
        self.primaries.iter().for_each(|primary| list[*primary].keep_command());
        if let Ok(epochs) = deleted {
            let epoch = epochs.into_iter().max().unwrap_or(self.epoch);
            assert!(
                epoch >= self.epoch,
                "a redo record goes after the commit that it protects"
            );
            self.epoch = epoch;
            self.is_deleted = true;
            faults::reached(Point::AfterForget);
        }
    }
}
