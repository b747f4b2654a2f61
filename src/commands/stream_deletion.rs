//! Deleting entries of streams: XDEL, and XDELEX and XACKDEL, which look at what the consumer groups have pending.

use super::Context;
use super::arguments::is_option;
use super::collection::{Column, Direction};
use super::stream_groups::Group;
use super::streams::{Stream, damaged, strict_id};
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::Arguments;
use crate::storage::encoding::{self, StreamId};

type Outcome = Result<(), CommandError>;

impl Context<'_> {
    /// Deletes an entry; whether it was there. [`Context::save_after_deletion`] must follow the last one.
    fn delete_entry(&mut self, stream: &mut Stream, id: StreamId) -> Result<bool, CommandError> {
        let there = self.has_entry(stream, id)?;
        if there {
            let member = encoding::stream_entry_member(id);
            self.delete_member(&stream.collection, Column::Data, &member)?;
            stream.collection.count -= 1;
            stream.numbers.deleted_max = stream.numbers.deleted_max.max(id);
            self.delete_from_nodes(stream, id)?;
        }
        Ok(there)
    }

    /// Finds the first entry anew, if it was deleted, and saves the stream.
    fn save_after_deletion(&mut self, stream: &mut Stream) -> Outcome {
        let first = stream.numbers.first;
        if stream.collection.count == 0 {
            stream.numbers.first = StreamId::MIN;
        } else if !self.has_entry(stream, first)? {
            let next = self.edge_id(stream, (first, StreamId::MAX), Direction::Forward)?;
            stream.numbers.first = next.ok_or_else(damaged)?;
        }
        self.save_stream(stream)?;
        self.notify_of_stream("xdel", stream);
        Ok(())
    }
}

/// XDEL key id [id …]
pub fn xdel(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let Some(mut stream) = context.stream(arguments.get(1))? else {
        context.reply.integer(0);
        return Ok(());
    };
    let ids = arguments.iter().skip(2).map(|text| strict_id(text, 0));
    let ids: Vec<StreamId> = ids.collect::<Result<_, _>>()?;
    let mut deleted = 0;
    for id in ids {
        deleted += i64::from(context.delete_entry(&mut stream, id)?);
    }
    if deleted > 0 {
        context.save_after_deletion(&mut stream)?;
    }
    context.reply.integer(deleted);
    Ok(())
}

/// What becomes of an entry that consumer groups refer to.
#[derive(Clone, Copy)]
enum References {
    /// The entry goes, and stays pending where it is.
    Keep,
    /// The entry goes, and is pending nowhere any more.
    Delete,
    /// The entry goes only when every group has read and acknowledged it.
    Respect,
}

/// The arguments of XDELEX and XACKDEL.
struct DeletionOptions<'a> {
    references: References,
    arguments: Arguments<'a>,
    /// The positions of the ids.
    ids: std::ops::Range<usize>,
}

impl<'a> DeletionOptions<'a> {
    fn parse(arguments: Arguments<'a>, mut position: usize) -> Result<DeletionOptions<'a>, CommandError> {
        let (mut references, mut ids) = (None, None);
        while position < arguments.len() {
            let option = arguments.get(position);
            let wanted = match option {
                _ if is_option(option, "KEEPREF") => Some(References::Keep),
                _ if is_option(option, "DELREF") => Some(References::Delete),
                _ if is_option(option, "ACKED") => Some(References::Respect),
                _ => None,
            };
            position += 1;
            if wanted.is_some() && references.is_none() {
                references = wanted;
            } else if is_option(option, "IDS") && ids.is_none() && position < arguments.len() {
                let count = parse_integer(arguments.get(position)).filter(|count| *count > 0);
                let count = count.ok_or_else(|| CommandError::text("ERR Number of IDs must be a positive integer"))?;
                position += 1;
                if count > (arguments.len() - position) as i64 {
                    return Err(CommandError::text(
                        "ERR The `numids` parameter must match the number of arguments",
                    ));
                }
                ids = Some(position..position + count as usize);
                position += count as usize;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(DeletionOptions {
            references: references.unwrap_or(References::Keep),
            arguments,
            ids: ids.ok_or(CommandError::Syntax)?,
        })
    }

    fn ids(&self) -> Result<Vec<StreamId>, CommandError> {
        let ids = self.ids.clone();
        ids.map(|position| strict_id(self.arguments.get(position), 0)).collect()
    }
}

/// XDELEX and XACKDEL answer this for an id that is not there.
const NOT_THERE: i64 = -1;
/// The entry was deleted.
const DELETED: i64 = 1;
/// A group has not read or acknowledged the entry.
const STILL_REFERENCED: i64 = 2;

/// XDELEX key [KEEPREF | DELREF | ACKED] IDS count id [id …]
pub fn xdelex(context: &mut Context<'_>) -> Outcome {
    let options = DeletionOptions::parse(context.arguments, 2)?;
    delete_generic(context, &options, None)
}

/// XACKDEL key group [KEEPREF | DELREF | ACKED] IDS count id [id …]
pub fn xackdel(context: &mut Context<'_>) -> Outcome {
    let options = DeletionOptions::parse(context.arguments, 3)?;
    delete_generic(context, &options, Some(context.arguments.get(2)))
}

/// XDELEX and XACKDEL, which acknowledges in a group first, and deletes only what was pending there.
fn delete_generic(context: &mut Context<'_>, options: &DeletionOptions<'_>, acknowledges: Option<&[u8]>) -> Outcome {
    let stream = context.stream(options.arguments.get(1))?;
    let found = match &stream {
        Some(stream) => context.groups(stream)?,
        None => Vec::new(),
    };
    let mut groups: Vec<Group<'_>> = found
        .iter()
        .map(|(name, numbers)| Group {
            name,
            numbers: *numbers,
        })
        .collect();
    let own = acknowledges.and_then(|name| groups.iter().position(|group| group.name == name));
    let Some(mut stream) = stream.filter(|_| own.is_some() == acknowledges.is_some()) else {
        context.reply.array(options.ids.len());
        options.ids.clone().for_each(|_| context.reply.integer(NOT_THERE));
        return Ok(());
    };
    let (ids, count) = (options.ids()?, stream.collection.count);
    context.reply.array(ids.len());
    for id in ids {
        let (is_pending, at_least) = match own {
            // What was pending counts as deleted, even if its entry was deleted before.
            Some(own) => (context.acknowledge(&stream, &mut groups[own], id)?, DELETED),
            None => (true, NOT_THERE),
        };
        let code = match is_pending {
            true => delete_referenced(context, &mut stream, &mut groups, (id, options.references))?.max(at_least),
            false => NOT_THERE,
        };
        context.reply.integer(code);
    }
    for (group, (_, before)) in groups.iter_mut().zip(&found) {
        if group.numbers != *before {
            context.put_group(&stream, group)?;
        }
    }
    if stream.collection.count != count {
        context.save_after_deletion(&mut stream)?;
    }
    Ok(())
}

/// Deletes an entry as far as its references let it; returns what is answered.
fn delete_referenced(
    context: &mut Context<'_>,
    stream: &mut Stream,
    groups: &mut [Group<'_>],
    (id, references): (StreamId, References),
) -> Result<i64, CommandError> {
    match references {
        References::Keep => {}
        References::Delete => {
            for group in groups {
                context.acknowledge(stream, group, id)?;
            }
        }
        References::Respect => {
            // Without groups nobody has read it.
            let mut referenced = groups.is_empty();
            for group in groups {
                referenced |= id > group.numbers.last || context.pending(stream, group, id)?.is_some();
            }
            if referenced {
                return Ok(STILL_REFERENCED);
            }
        }
    }
    let deleted = context.delete_entry(stream, id)?;
    Ok(if deleted { DELETED } else { NOT_THERE })
}
