//! Sorted sets: every member has a score, and the set is in the order of scores, members with one score in byte order.
//!
//! A member is kept twice, in the column `data` by name and in `score` by order (see [`crate::storage::encoding`]);
//! what keeps the two together is here. [`members`] are the commands on single members, [`ranges`] those on stretches
//! of the order, [`algebra`] those that combine sets, and [`ranking`] counts members without walking along all of them.

pub mod algebra;
pub mod counted_tree;
pub mod members;
pub mod ranges;
pub mod ranking;

use super::Context;
use super::collection::{Collection, Column, Direction};
use super::steps::{Steps, members_per_step};
use crate::error::CommandError;
use crate::protocol::{Reply, Version};
use crate::storage::encoding::{
    SCORE_MEMBERS, Type, ordered_score, score_key, score_value, split_score_key, split_score_value,
};
use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// A member with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What the member is ordered by.
    pub score: f64,
    /// The member's name.
    pub member: Vec<u8>,
}

/// A stretch of a set's order: keys of `score` from `from` (inclusive) to `to` (exclusive), read in a direction, of
/// which `skip` are passed over and `take` given at most.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// The first key.
    pub from: Vec<u8>,
    /// The key after the last.
    pub to: Vec<u8>,
    /// From which end.
    pub direction: Direction,
    /// How many come before the first that is wanted.
    pub skip: u64,
    /// How many are wanted.
    pub take: u64,
}

impl Stretch {
    /// `take` members from the lowest on, or from the highest down.
    pub fn from_end(direction: Direction, take: u64) -> Stretch {
        Stretch {
            from: SCORE_MEMBERS.0.to_vec(),
            to: SCORE_MEMBERS.1.to_vec(),
            direction,
            skip: 0,
            take,
        }
    }
}

fn damaged() -> CommandError {
    CommandError::text("ERR the stored members of this key are damaged")
}

impl Context<'_> {
    /// The sorted set under a key.
    pub fn sorted_set(&mut self, key: &[u8]) -> Result<Option<Collection>, CommandError> {
        self.collection(key, Type::SortedSet)
    }

    /// The score of a member.
    pub fn score(&mut self, set: &Collection, member: &[u8]) -> Result<Option<f64>, CommandError> {
        match self.member(set, Column::Data, member)? {
            Some(value) => split_score_value(value).map(Some).ok_or_else(damaged),
            None => Ok(None),
        }
    }

    /// Gives a member a score; `old` is the one that it has.
    pub fn set_score(&mut self, set: &mut Collection, member: &[u8], old: Option<f64>, new: f64) -> Outcome {
        self.place_member(set, member, old, new)?;
        if let Some(old) = old {
            ranking::removed(self, set, &score_key(ordered_score(old), member))?;
        }
        ranking::inserted(self, set, &score_key(ordered_score(new), member))
    }

    /// The same, but for the ranks, which the caller keeps.
    fn place_member(&mut self, set: &mut Collection, member: &[u8], old: Option<f64>, new: f64) -> Outcome {
        match old {
            Some(old) => self.delete_member(set, Column::Score, &score_key(ordered_score(old), member))?,
            None => set.count += 1,
        }
        let key = score_key(ordered_score(new), member);
        ranking::widen(set, &key)?;
        self.put_member(set, Column::Data, member, score_value(new))?;
        self.put_member(set, Column::Score, &key, Vec::new())
    }

    /// Takes a member away that has the score `score`.
    pub fn remove_scored(&mut self, set: &mut Collection, member: &[u8], score: f64) -> Outcome {
        self.delete_member(set, Column::Data, member)?;
        set.count = set.count.checked_sub(1).ok_or_else(damaged)?;
        let key = score_key(ordered_score(score), member);
        self.delete_member(set, Column::Score, &key)?;
        ranking::removed(self, set, &key)
    }

    /// Takes the members of a stretch away, and saves the set: `event` has happened to it, if there were any.
    pub fn remove_stretch(
        &mut self,
        set: &mut Collection,
        stretch: &Stretch,
        event: &'static str,
    ) -> Result<Vec<Entry>, CommandError> {
        let entries = self.take_stretch(set, stretch)?;
        if !entries.is_empty() {
            self.notify_of(event, set);
        }
        Ok(entries)
    }

    /// Takes the members of a stretch away, and saves the set. They are collected first: they will all be staged.
    pub fn take_stretch(&mut self, set: &mut Collection, stretch: &Stretch) -> Result<Vec<Entry>, CommandError> {
        let entries = self.entries(set, stretch)?;
        if entries.len() as u64 == set.count {
            // The key goes, whatever its size.
            set.count = 0;
            self.save(set)?;
            return Ok(entries);
        }
        let Some(last) = entries.last() else { return Ok(entries) };
        for Entry { score, member } in &entries {
            self.remove_scored(set, member, *score)?;
        }
        let (lowest, end) = ranking::ends(set)?;
        let at_end = match stretch.direction {
            Direction::Forward => stretch.from <= lowest,
            Direction::Backward => stretch.to >= end,
        };
        if at_end && stretch.skip == 0 {
            let key = score_key(ordered_score(last.score), &last.member);
            ranking::removed_end(set, stretch.direction, &key)?;
        }
        self.save(set)?;
        Ok(entries)
    }

    /// Calls `visit` with the builder of replies and each member of a stretch and its score, until it breaks.
    pub fn walk(
        &mut self,
        set: &Collection,
        stretch: &Stretch,
        mut visit: impl FnMut(&mut Reply<'_>, f64, &[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        let Context { view, reply, .. } = self;
        let (mut skip, mut take) = (stretch.skip, stretch.take);
        if take == 0 {
            return Ok(());
        }
        let ((from, to), mut is_damaged) = (ranking::within_ends(set, stretch)?, false);
        let range = (&from[..], Some(&to[..]));
        set.scan(view, Column::Score, range, stretch.direction, |key, _| {
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            let Some((score, member)) = split_score_key(key) else {
                is_damaged = true;
                return ControlFlow::Break(());
            };
            take -= 1;
            visit(reply, score, member)?;
            match take {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        if is_damaged { Err(damaged()) } else { Ok(()) }
    }

    /// The members of a stretch.
    pub fn entries(&mut self, set: &Collection, stretch: &Stretch) -> Result<Vec<Entry>, CommandError> {
        let mut entries = Vec::new();
        self.walk(set, stretch, |_, score, member| {
            let member = member.to_vec();
            entries.push(Entry { score, member });
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// The members at some ranks, which are below the count, in the order of `ranks`.
    fn entries_at(&mut self, set: &Collection, ranks: &[u64]) -> Result<Vec<Entry>, CommandError> {
        let mut by_rank: Vec<usize> = (0..ranks.len()).collect();
        by_rank.sort_unstable_by_key(|index| ranks[*index]);
        let mut found: Vec<Option<Entry>> = vec![None; ranks.len()];
        let walk_all = set.count / ranking::BLOCK_MEMBERS_MAX <= ranks.len() as u64;
        let mut next = 0;
        while let Some(index) = by_rank.get(next) {
            let mut rank = ranks[*index];
            let take = if walk_all { u64::MAX } else { 1 };
            let stretch = ranking::stretch_at(self, set, rank, take, Direction::Forward)?;
            let before = next;
            self.walk(set, &stretch, |_, score, member| {
                while let Some(index) = by_rank.get(next).filter(|index| ranks[**index] == rank) {
                    let member = member.to_vec();
                    found[*index] = Some(Entry { score, member });
                    next += 1;
                }
                rank += 1;
                match next < by_rank.len() {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if next == before {
                return Err(damaged());
            }
        }
        found.into_iter().collect::<Option<Vec<Entry>>>().ok_or_else(damaged)
    }
}

/// Puts a sorted set of these members, each once and in any order, in place of whatever is under a key; of none the key
/// is deleted. Replies how many there are.
pub async fn store_sorted_set(steps: &Steps, key: Vec<u8>, entries: Vec<Entry>, event: &'static str) -> Outcome {
    let count = entries.len();
    let entries = steps.sort(entries, in_order).await;
    let store = |context: &mut Context<'_>, made: &mut (Vec<u8>, Option<Collection>), entry: Entry| {
        let set = match &mut made.1 {
            Some(set) => set,
            // In the step of its first member: the new set is in memory from the beginning.
            None => made.1.insert(context.new_collection(&made.0, Type::SortedSet)?),
        };
        let key = score_key(ordered_score(entry.score), &entry.member);
        set.count += 1;
        context.put_member(set, Column::Data, &entry.member, score_value(entry.score))?;
        context.put_member(set, Column::Score, &key, Vec::new())
    };
    let (key, made) = steps.run_with_each(entries, (key, None), store).await?;
    let finish = move |context: &mut Context<'_>| {
        match made {
            None => context.delete_target(&key)?,
            Some(mut set) => {
                ranking::rebuild(context, &mut set)?;
                context.save_after(event, &set)?;
            }
        }
        context.reply.integer(count as i64);
        Ok(())
    };
    steps.run(finish).await
}

/// Reads the members of a stretch.
async fn read_entries(steps: &Steps, set: Collection, mut stretch: Stretch) -> Result<Vec<Entry>, CommandError> {
    let (set, mut entries) = (Arc::new(set), Vec::new());
    loop {
        let (set, take) = (Arc::clone(&set), stretch.take.min(members_per_step() as u64));
        let part = Stretch {
            take,
            ..stretch.clone()
        };
        let mut read = steps.run(move |context| context.entries(&set, &part)).await?;
        let Some(last) = read.last().filter(|_| read.len() as u64 == take) else {
            entries.append(&mut read);
            return Ok(entries);
        };
        let key = score_key(ordered_score(last.score), &last.member);
        match stretch.direction {
            Direction::Forward => stretch.from = [&key[..], &[0]].concat(),
            Direction::Backward => stretch.to = key,
        }
        (stretch.skip, stretch.take) = (0, stretch.take - take);
        entries.append(&mut read);
    }
}

/// The order in which a set has its members.
fn in_order(a: &Entry, b: &Entry) -> Ordering {
    let scores = ordered_score(a.score).cmp(&ordered_score(b.score));
    scores.then_with(|| a.member.cmp(&b.member))
}

/// The header of members that follow by [`reply_entry`].
fn reply_header(reply: &mut Reply<'_>, entries: usize, with_scores: bool) {
    let flat = with_scores && reply.version() == Version::Resp2;
    reply.array(if flat { entries * 2 } else { entries });
}

/// Replies a member and its score: RESP3 has a pair for each.
fn reply_entry(reply: &mut Reply<'_>, score: f64, member: &[u8], with_scores: bool) {
    if with_scores && reply.version() == Version::Resp3 {
        reply.array(2);
    }
    reply.bulk(member);
    if with_scores {
        reply.double(score);
    }
}

fn reply_entries(reply: &mut Reply<'_>, entries: &[Entry], with_scores: bool) {
    reply_header(reply, entries.len(), with_scores);
    for Entry { score, member } in entries {
        reply_entry(reply, *score, member, with_scores);
    }
}
