//! Removals of many members, [in steps](super::steps): ranges and ends of sorted sets and lists, random members.
//!
//! They are taken out in place, so that a removal costs as much as what it removes, whatever stays. Before the first
//! step's members go, it is written down what is to remain; after the last one's that is deleted. What is interrupted
//! between the two is gone on with, before anybody else reads the key: by the next start after a crash, and where a
//! full disk has taken the last steps back by the same server. See [`resume`].

use super::Context;
use super::collection::{Collection, Direction};
use super::lists::List;
use super::random::Random;
use super::sets;
use super::sorted_sets::Stretch;
use super::steps::{InSteps, Steps, members_per_step};
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::storage::encoding::{Type, ordered_score, score_key};
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::shard::Owner;

type Outcome = Result<(), CommandError>;

/// What is to remain of a collection. However much of the rest has gone, it tells what has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Of a list: the elements at `count` positions from `head` on.
    Window {
        /// The first position.
        head: u64,
        /// How many there are.
        count: u64,
    },
    /// Of a sorted set: what lies outside of the keys of `score` from the first to before the second.
    Outside(Vec<u8>, Vec<u8>),
    /// Of a sorted set: so many members, while others go from the end that is read first in this direction.
    Inner(Direction, u64),
    /// Of a set: so many members, whichever they are.
    Any(u64),
}

impl Remains {
    fn encode_into(&self, fields: &mut FieldWriter<'_>) {
        match self {
            Remains::Window { head, count } => {
                fields.byte(0);
                fields.number(*head);
                fields.number(*count);
            }
            Remains::Outside(from, to) => {
                fields.byte(1);
                fields.bytes(from);
                fields.bytes(to);
            }
            Remains::Inner(direction, count) => {
                fields.byte(match direction {
                    Direction::Forward => 2,
                    Direction::Backward => 3,
                });
                fields.number(*count);
            }
            Remains::Any(count) => {
                fields.byte(4);
                fields.number(*count);
            }
        }
    }

    fn decode(fields: &mut FieldReader<'_>) -> Option<Remains> {
        Some(match fields.byte()? {
            0 => Remains::Window {
                head: fields.number()?,
                count: fields.number()?,
            },
            1 => Remains::Outside(fields.bytes()?.to_vec(), fields.bytes()?.to_vec()),
            2 => Remains::Inner(Direction::Forward, fields.number()?),
            3 => Remains::Inner(Direction::Backward, fields.number()?),
            4 => Remains::Any(fields.number()?),
            _ => return None,
        })
    }

    fn kind(&self) -> Type {
        match self {
            Remains::Window { .. } => Type::List,
            Remains::Outside(..) | Remains::Inner(..) => Type::SortedSet,
            Remains::Any(_) => Type::Set,
        }
    }
}

/// Writes what a reply says of a member that was removed, and of its score if it had one.
pub type TellRemoved = fn(&mut Reply<'_>, &[u8], f64);

/// Writes what comes in a reply before the members.
type TellFirst = Box<dyn FnOnce(&mut Reply<'_>) + Send>;

/// A removal.
pub struct Removal {
    /// What it removes members from.
    pub collection: Collection,
    /// What is to remain.
    pub remains: Remains,
    /// How many members have gone.
    pub removed: u64,
    /// Writes the beginning of the reply.
    first: Option<TellFirst>,
    /// Writes the members into it.
    tell: Option<TellRemoved>,
    /// What picks members; one for all steps.
    random: Option<Random>,
    /// What is to remain is written down.
    has_begun: bool,
}

impl Removal {
    /// One that has removed nothing yet.
    pub fn new(collection: Collection, remains: Remains) -> Removal {
        Removal {
            collection,
            remains,
            removed: 0,
            first: None,
            tell: None,
            random: None,
            has_begun: false,
        }
    }

    /// The same, which answers the members that it removes.
    pub fn telling(self, first: impl FnOnce(&mut Reply<'_>) + Send + 'static, tell: TellRemoved) -> Removal {
        Removal {
            first: Some(Box::new(first)),
            tell: Some(tell),
            ..self
        }
    }

    /// Removes `members` members in steps, and does what comes `then`, in the last step.
    ///
    /// # Errors
    /// The collection cannot be read or written.
    pub fn run(
        mut self,
        context: &mut Context<'_>,
        members: u64,
        then: impl FnOnce(&mut Context<'_>, &Removal) -> Outcome + Send + 'static,
    ) -> Outcome {
        if !context.works_in_steps(members) {
            self.first
                .take()
                .into_iter()
                .for_each(|first| first(&mut context.reply));
            self.remove_some(context, u64::MAX)?;
            return then(context, &self);
        }
        let owner = self.collection.owner.clone();
        let writes = vec![(owner.database, owner.key.clone())];
        context.in_steps((members, writes), |steps| self.finish(steps, then))?;
        if let Some(command) = &mut context.steps {
            command.removes_from = Some(owner);
        }
        Ok(())
    }

    async fn finish(
        self,
        steps: Steps,
        then: impl FnOnce(&mut Context<'_>, &Removal) -> Outcome + Send + 'static,
    ) -> Outcome {
        let (are_left, mut going_on) = (steps.are_left(), Some((self, then)));
        while let Some((mut removal, then)) = going_on {
            let step = move |context: &mut Context<'_>| {
                if let Some(first) = removal.first.take() {
                    first(&mut context.reply);
                }
                if are_left && !removal.has_begun {
                    removal.write_down(context)?;
                }
                let most = if are_left { members_per_step() } else { usize::MAX };
                if !removal.remove_some(context, most as u64)? {
                    return Ok(Some((removal, then)));
                }
                if removal.has_begun {
                    context.view.write_removal(&removal.collection.owner, None)?;
                }
                then(context, &removal).map(|()| None)
            };
            going_on = steps.run(step).await?;
        }
        Ok(())
    }

    /// From now on a start goes on with it.
    fn write_down(&mut self, context: &mut Context<'_>) -> Outcome {
        let (owner, mut stored) = (&self.collection.owner, Vec::new());
        let mut fields = FieldWriter(&mut stored);
        fields.byte(owner.database);
        fields.bytes(&owner.key);
        self.remains.encode_into(&mut fields);
        context.view.write_removal(owner, Some(stored))?;
        self.has_begun = true;
        Ok(())
    }

    /// Removes `most` members, or what there is. Returns whether all are gone. The collection is saved.
    fn remove_some(&mut self, context: &mut Context<'_>, most: u64) -> Result<bool, CommandError> {
        let (tell, before) = (self.tell, self.collection.count);
        let are_gone = match &mut self.remains {
            Remains::Window { head, count } => {
                let mut list = List::of_collection(self.collection.clone())?;
                list.narrow(context, (*head, *count), most, tell)?;
                self.collection = list.into_collection();
                self.collection.count == *count
            }
            Remains::Outside(from, to) => {
                let stretch = Stretch {
                    from: from.clone(),
                    to: to.clone(),
                    ..Stretch::from_end(Direction::Forward, most)
                };
                let entries = context.take_stretch(&mut self.collection, &stretch)?;
                if let Some(last) = entries.last() {
                    // What was deleted before is not walked over again.
                    *from = score_key(ordered_score(last.score), &last.member);
                }
                (entries.len() as u64) < most || self.collection.count == 0
            }
            Remains::Inner(direction, count) => {
                let take = most.min(before.saturating_sub(*count));
                let stretch = Stretch::from_end(*direction, take);
                let entries = context.take_stretch(&mut self.collection, &stretch)?;
                if let Some(tell) = tell {
                    let reply = &mut context.reply;
                    entries.iter().for_each(|entry| tell(reply, &entry.member, entry.score));
                }
                self.collection.count <= *count
            }
            Remains::Any(count) => {
                let random = self.random.get_or_insert_with(|| Random::new(context.seed));
                for _ in 0..most.min(before.saturating_sub(*count)) {
                    let member = sets::pop(context, &mut self.collection, random)?;
                    if let Some(tell) = tell {
                        tell(&mut context.reply, &member, 0.0);
                    }
                }
                context.save(&self.collection)?;
                self.collection.count <= *count
            }
        };
        self.removed += before - self.collection.count;
        Ok(are_gone)
    }
}

/// Goes on with a removal from `version`, which a crash has interrupted and of which `stored` was written down.
/// `None` if that is damaged.
pub fn resume(version: u64, stored: &[u8]) -> Option<InSteps> {
    let mut fields = FieldReader(stored);
    let (database, key) = (fields.byte()?, fields.bytes()?.to_vec());
    let remains = Remains::decode(&mut fields)?;
    if !fields.is_at_end() {
        return None;
    }
    let owner = Owner { database, key, version };
    let writes = vec![(database, owner.key.clone())];
    let removes_from = Some(owner.clone());
    let mut command = InSteps::resumed(writes, |steps| async move {
        let open = move |context: &mut Context<'_>| {
            let record = context.view.read_header(owner.database, &owner.key)?;
            let found = record.filter(|record| record.version == version && record.kind == remains.kind());
            let found = found.map(|record| Collection::of_record(owner.database, &owner.key, &record));
            let Some(collection) = found.transpose()? else {
                // It has expired, and all of it goes.
                context.view.write_removal(&owner, None)?;
                return Ok(None);
            };
            let mut removal = Removal::new(collection, remains);
            removal.has_begun = true;
            Ok(Some(removal))
        };
        match steps.run(open).await? {
            Some(removal) => removal.finish(steps, |_, _| Ok(())).await,
            None => Ok(()),
        }
    });
    command.removes_from = removes_from;
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_remain_is_read_as_it_was_written() {
        let all = [
            Remains::Window {
                head: 3,
                count: 1 << 40,
            },
            Remains::Outside(b"\x00a".to_vec(), Vec::new()),
            Remains::Inner(Direction::Forward, 0),
            Remains::Inner(Direction::Backward, 7),
            Remains::Any(u64::MAX),
        ];
        for remains in all {
            let mut stored = Vec::new();
            remains.encode_into(&mut FieldWriter(&mut stored));
            let mut fields = FieldReader(&stored);
            assert_eq!(Remains::decode(&mut fields), Some(remains));
            assert!(fields.is_at_end());
            for len in 0..stored.len() {
                assert_eq!(Remains::decode(&mut FieldReader(&stored[..len])), None, "{len} bytes");
            }
        }
    }
}
