//! Consumer groups of streams: what was delivered to which consumer and is not acknowledged yet.
//!
//! A pending entry is stored twice, in the group's order and in its consumer's, and is counted in the group and in the
//! consumer; [`Context::give`] and [`Context::take`] alone keep the four in step.

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Column, Direction};
use super::streams::{
    ALL_IDS, Entries, ReadOptions, ReadReply, Stream, any_id, damaged, range_end, range_start, reply_id, strict_id,
};
use crate::commands::blocking::Waiting;
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::{Arguments, Reply};
use crate::storage::encoding::{self, StreamConsumer, StreamGroup, StreamId, StreamNumbers, StreamPending};
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// A consumer group that a command works on.
pub(super) struct Group<'a> {
    /// The group's name.
    pub name: &'a [u8],
    /// The group's own numbers, which are stored by [`Context::put_group`].
    pub numbers: StreamGroup,
}

/// What follows a prefix in members, and their values.
type NamedMembers = Vec<(Vec<u8>, Vec<u8>)>;

/// After how many released pending entries a group looks for the first one that is left. What was deleted lies in the
/// way of every scan until compaction drops it, so scans begin behind it; a thousand are passed in a fraction of a
/// millisecond.
const RELEASED_MAX: u64 = 1024;

/// How many pending entries are held in memory at a time where a command looks through them.
const PAGE: usize = 128;

impl Context<'_> {
    fn group<'a>(&mut self, stream: &Stream, name: &'a [u8]) -> Result<Option<Group<'a>>, CommandError> {
        let member = encoding::stream_group_member(name);
        let Some(value) = self.member(&stream.collection, Column::Data, &member)? else {
            return Ok(None);
        };
        let numbers = StreamGroup::decode(value).ok_or_else(damaged)?;
        Ok(Some(Group { name, numbers }))
    }

    /// Stages a group's numbers, and from time to time finds its first pending entry anew.
    pub(super) fn put_group(&mut self, stream: &Stream, group: &mut Group<'_>) -> Outcome {
        if group.numbers.pending == 0 {
            (group.numbers.pending_min, group.numbers.released) = (StreamId::MAX, 0);
        } else if group.numbers.released >= RELEASED_MAX {
            let from = (group.numbers.pending_min, StreamId::MAX);
            let first = self.edge_of_pending(stream, group, from, Direction::Forward)?;
            (group.numbers.pending_min, group.numbers.released) = (first, 0);
        }
        let member = encoding::stream_group_member(group.name);
        self.put_member(&stream.collection, Column::Data, &member, group.numbers.encode())
    }

    /// The first or the last pending entry of a group that has some.
    fn edge_of_pending(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
        range: (StreamId, StreamId),
        direction: Direction,
    ) -> Result<StreamId, CommandError> {
        let mut edge = None;
        let prefix = encoding::stream_pending_prefix(group.name);
        self.visit_ids(stream, &prefix, range, direction, |id, _| {
            edge = Some(id);
            ControlFlow::Break(())
        })?;
        edge.ok_or_else(damaged)
    }

    fn consumer(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
        name: &[u8],
    ) -> Result<Option<StreamConsumer>, CommandError> {
        let member = encoding::stream_consumer_member(group.name, name);
        match self.member(&stream.collection, Column::Data, &member)? {
            Some(value) => StreamConsumer::decode(value).map(Some).ok_or_else(damaged),
            None => Ok(None),
        }
    }

    fn put_consumer(&mut self, stream: &Stream, group: &Group<'_>, name: &[u8], consumer: &StreamConsumer) -> Outcome {
        let member = encoding::stream_consumer_member(group.name, name);
        self.put_member(&stream.collection, Column::Data, &member, consumer.encode())
    }

    /// Changes a consumer that is there.
    fn change_consumer(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
        name: &[u8],
        change: impl FnOnce(&mut StreamConsumer),
    ) -> Outcome {
        let mut consumer = self.consumer(stream, group, name)?.ok_or_else(damaged)?;
        change(&mut consumer);
        self.put_consumer(stream, group, name, &consumer)
    }

    /// A consumer asks for something: it is seen, and made if it is not there.
    fn see_consumer(&mut self, stream: &Stream, group: &mut Group<'_>, name: &[u8]) -> Outcome {
        let mut consumer = match self.consumer(stream, group, name)? {
            Some(consumer) => consumer,
            None => {
                group.numbers.consumers += 1;
                self.put_group(stream, group)?;
                self.notify_of_stream("xgroup-createconsumer", stream);
                StreamConsumer::default()
            }
        };
        consumer.seen_ms = self.now_ms;
        self.put_consumer(stream, group, name, &consumer)
    }

    /// The pending entry of an id; `None` if it is not pending.
    pub(super) fn pending(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
        id: StreamId,
    ) -> Result<Option<StreamPending>, CommandError> {
        if group.numbers.pending == 0 || id > group.numbers.pending_max {
            return Ok(None);
        }
        let member = with_id(encoding::stream_pending_prefix(group.name), id);
        match self.member(&stream.collection, Column::Data, &member)? {
            Some(value) => StreamPending::decode(value).map(Some).ok_or_else(damaged),
            None => Ok(None),
        }
    }

    /// Makes entries pending that are not, all of one consumer and with the same time and number of deliveries. The
    /// caller puts the group.
    fn give(&mut self, stream: &Stream, group: &mut Group<'_>, ids: &[StreamId], pending: &StreamPending) -> Outcome {
        let value = pending.encode();
        let in_group = encoding::stream_pending_prefix(group.name);
        let in_consumer = encoding::stream_owned_prefix(group.name, &pending.consumer);
        for id in ids {
            let member = with_id(in_group.clone(), *id);
            self.put_member(&stream.collection, Column::Data, &member, value.clone())?;
            let member = with_id(in_consumer.clone(), *id);
            self.put_member(&stream.collection, Column::Data, &member, Vec::new())?;
            group.numbers.pending_min = group.numbers.pending_min.min(*id);
            group.numbers.pending_max = group.numbers.pending_max.max(*id);
        }
        group.numbers.pending += ids.len() as u64;
        self.change_consumer(stream, group, &pending.consumer, |consumer| {
            consumer.pending += ids.len() as u64;
        })
    }

    /// Makes a pending entry of `consumer` one that is not. The caller puts the group.
    fn take(&mut self, stream: &Stream, group: &mut Group<'_>, id: StreamId, consumer: &[u8]) -> Outcome {
        let member = with_id(encoding::stream_pending_prefix(group.name), id);
        self.delete_member(&stream.collection, Column::Data, &member)?;
        let member = with_id(encoding::stream_owned_prefix(group.name, consumer), id);
        self.delete_member(&stream.collection, Column::Data, &member)?;
        group.numbers.pending = group.numbers.pending.checked_sub(1).ok_or_else(damaged)?;
        group.numbers.released += 1;
        self.change_consumer(stream, group, consumer, |consumer| {
            consumer.pending = consumer.pending.saturating_sub(1);
        })
    }

    /// Makes an entry one that is not pending; whether it was. The caller puts the group.
    pub(super) fn acknowledge(
        &mut self,
        stream: &Stream,
        group: &mut Group<'_>,
        id: StreamId,
    ) -> Result<bool, CommandError> {
        match self.pending(stream, group, id)? {
            Some(pending) => self.take(stream, group, id, &pending.consumer).map(|()| true),
            None => Ok(false),
        }
    }

    /// The pending entries of a group, or of one of its consumers, from one id to another (both inclusive), at most
    /// `count_max`.
    pub(super) fn pending_entries(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
        consumer: Option<&[u8]>,
        range: (StreamId, StreamId),
        count_max: u64,
    ) -> Result<Vec<(StreamId, StreamPending)>, CommandError> {
        if count_max == 0 || group.numbers.pending == 0 {
            return Ok(Vec::new());
        }
        let prefix = match consumer {
            Some(consumer) => encoding::stream_owned_prefix(group.name, consumer),
            None => encoding::stream_pending_prefix(group.name),
        };
        let range = (range.0.max(group.numbers.pending_min), range.1);
        let mut found = Vec::new();
        self.visit_ids(stream, &prefix, range, Direction::Forward, |id, value| {
            found.push((id, StreamPending::decode(value)));
            match (found.len() as u64) < count_max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        let mut entries = Vec::with_capacity(found.len());
        for (id, pending) in found {
            let pending = match consumer {
                Some(_) => self.pending(stream, group, id)?,
                None => pending,
            };
            entries.push((id, pending.ok_or_else(damaged)?));
        }
        Ok(entries)
    }

    /// The members that begin with `prefix`.
    fn named_members(&mut self, stream: &Stream, prefix: &[u8]) -> Result<NamedMembers, CommandError> {
        let end = encoding::after_prefix(prefix.to_vec());
        let mut found = Vec::new();
        let range = (prefix, Some(&*end));
        self.scan_members(
            &stream.collection,
            Column::Data,
            range,
            Direction::Forward,
            |member, value| {
                found.push((member[prefix.len()..].to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            },
        )?;
        Ok(found)
    }

    /// A group's consumers in the order of their names.
    pub(super) fn consumers(
        &mut self,
        stream: &Stream,
        group: &Group<'_>,
    ) -> Result<Vec<(Vec<u8>, StreamConsumer)>, CommandError> {
        let members = self.named_members(stream, &encoding::stream_consumer_member(group.name, b""))?;
        let decoded = members
            .into_iter()
            .map(|(name, value)| Some((name, StreamConsumer::decode(&value)?)));
        decoded.collect::<Option<_>>().ok_or_else(damaged)
    }

    /// A stream's groups in the order of their names.
    pub(super) fn groups(&mut self, stream: &Stream) -> Result<Vec<(Vec<u8>, StreamGroup)>, CommandError> {
        if stream.numbers.groups == 0 {
            return Ok(Vec::new());
        }
        let members = self.named_members(stream, &encoding::stream_group_member(b""))?;
        let decoded = members
            .into_iter()
            .map(|(name, value)| Some((name, StreamGroup::decode(&value)?)));
        decoded.collect::<Option<_>>().ok_or_else(damaged)
    }

    /// Deletes all members that begin with `prefix`.
    fn delete_members(&mut self, stream: &Stream, prefix: &[u8]) -> Outcome {
        for (rest, _) in self.named_members(stream, prefix)? {
            self.delete_member(&stream.collection, Column::Data, &[prefix, &rest].concat())?;
        }
        Ok(())
    }
}

fn with_id(mut prefix: Vec<u8>, id: StreamId) -> Vec<u8> {
    prefix.extend_from_slice(&id.0.to_be_bytes());
    prefix
}

/// The error of XGROUP and XINFO for a subcommand whose arguments are not as they must be.
pub(super) fn subcommand_syntax(arguments: Arguments<'_>, family: &str) -> CommandError {
    let subcommand = CommandError::quoted(arguments.get(1));
    CommandError::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {family} HELP."
    ))
}

/// The error for a key or a group that is not there; `suffix` ends the sentence.
fn no_group(key: &[u8], group: &[u8], suffix: &str) -> CommandError {
    let (key, group) = (CommandError::quoted(key), CommandError::quoted(group));
    CommandError::text(format!(
        "NOGROUP No such key '{key}' or consumer group '{group}'{suffix}"
    ))
}

/// The error for a group that a stream does not have.
fn no_group_of_key(key: &[u8], group: &[u8]) -> CommandError {
    let (key, group) = (CommandError::quoted(key), CommandError::quoted(group));
    CommandError::text(format!("NOGROUP No such consumer group '{group}' for key name '{key}'"))
}

/// The options of XGROUP CREATE and XGROUP SETID.
#[derive(Default)]
struct GroupOptions {
    makes_stream: bool,
    entries_read: Option<u64>,
}

impl GroupOptions {
    fn parse(arguments: Arguments<'_>, creates: bool) -> Result<GroupOptions, CommandError> {
        let mut options = GroupOptions::default();
        let mut rest = arguments.iter().skip(5);
        while let Some(option) = rest.next() {
            if creates && is_option(option, "MKSTREAM") {
                options.makes_stream = true;
                continue;
            }
            let amount = rest.next().filter(|_| is_option(option, "ENTRIESREAD"));
            let amount = amount.ok_or_else(|| subcommand_syntax(arguments, "XGROUP"))?;
            options.entries_read = match integer(amount)? {
                -1 => None,
                amount => Some(
                    u64::try_from(amount)
                        .map_err(|_| CommandError::text("ERR value for ENTRIESREAD must be positive or -1"))?,
                ),
            };
        }
        Ok(options)
    }
}

/// The stream of an XGROUP subcommand that needs one.
fn stream_of_group(context: &mut Context<'_>) -> Result<Stream, CommandError> {
    let stream = context.stream(context.arguments.get(2))?;
    stream.ok_or_else(|| {
        CommandError::text(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
             MKSTREAM option to create an empty stream automatically.",
        )
    })
}

/// The stream and the group of an XGROUP subcommand that needs both.
fn stream_and_group<'a>(
    context: &mut Context<'_>,
    arguments: Arguments<'a>,
) -> Result<(Stream, Group<'a>), CommandError> {
    let stream = stream_of_group(context)?;
    let (key, name) = (arguments.get(2), arguments.get(3));
    let group = context
        .group(&stream, name)?
        .ok_or_else(|| no_group_of_key(key, name))?;
    Ok((stream, group))
}

/// XGROUP CREATE key group id | $ [MKSTREAM] [ENTRIESREAD entries-read]
pub fn xgroup_create(context: &mut Context<'_>) -> Outcome {
    /// With every option once.
    const ARGUMENTS_MAX: usize = 8;
    let arguments = context.arguments;
    let options = GroupOptions::parse(arguments, true)?;
    let (key, name, id) = (arguments.get(2), arguments.get(3), arguments.get(4));
    let mut stream = match context.stream(key)? {
        None if options.makes_stream => context.new_stream(key)?,
        Some(stream) => stream,
        None => stream_of_group(context)?,
    };
    if arguments.len() > ARGUMENTS_MAX {
        return Err(subcommand_syntax(arguments, "XGROUP"));
    }
    let last = match id {
        b"$" => stream.numbers.last,
        id => strict_id(id, 0)?,
    };
    if context.group(&stream, name)?.is_some() {
        return Err(CommandError::text("BUSYGROUP Consumer Group name already exists"));
    }
    let numbers = StreamGroup {
        last,
        entries_read: options.entries_read,
        ..StreamGroup::default()
    };
    context.put_group(&stream, &mut Group { name, numbers })?;
    stream.numbers.groups += 1;
    context.save_stream(&mut stream)?;
    context.notify_of_stream("xgroup-create", &stream);
    context.reply.ok();
    Ok(())
}

/// XGROUP SETID key group id | $ [ENTRIESREAD entries-read]
pub fn xgroup_setid(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let options = GroupOptions::parse(arguments, false)?;
    let (stream, mut group) = stream_and_group(context, arguments)?;
    if !matches!(arguments.len(), 5 | 7) {
        return Err(subcommand_syntax(arguments, "XGROUP"));
    }
    group.numbers.last = match arguments.get(4) {
        b"$" => stream.numbers.last,
        id => any_id(id, 0)?,
    };
    group.numbers.entries_read = options.entries_read;
    context.put_group(&stream, &mut group)?;
    context.notify_of_stream("xgroup-setid", &stream);
    context.reply.ok();
    Ok(())
}

/// XGROUP DESTROY key group
pub fn xgroup_destroy(context: &mut Context<'_>) -> Outcome {
    let mut stream = stream_of_group(context)?;
    let name = context.arguments.get(3);
    let there = context.group(&stream, name)?.is_some();
    if there {
        for prefix in [
            encoding::stream_pending_prefix(name),
            encoding::stream_consumer_member(name, b""),
            encoding::stream_owned_by_group_prefix(name),
        ] {
            context.delete_members(&stream, &prefix)?;
        }
        let member = encoding::stream_group_member(name);
        context.delete_member(&stream.collection, Column::Data, &member)?;
        stream.numbers.groups = stream.numbers.groups.saturating_sub(1);
        context.save_stream(&mut stream)?;
        context.notify_of_stream("xgroup-destroy", &stream);
    }
    context.reply.integer(i64::from(there));
    Ok(())
}

/// XGROUP CREATECONSUMER key group consumer
pub fn xgroup_createconsumer(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (stream, mut group) = stream_and_group(context, arguments)?;
    let name = arguments.get(4);
    let is_new = context.consumer(&stream, &group, name)?.is_none();
    if is_new {
        context.see_consumer(&stream, &mut group, name)?;
    }
    context.reply.integer(i64::from(is_new));
    Ok(())
}

/// XGROUP DELCONSUMER key group consumer
pub fn xgroup_delconsumer(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (stream, mut group) = stream_and_group(context, arguments)?;
    let name = arguments.get(4);
    let Some(consumer) = context.consumer(&stream, &group, name)? else {
        context.reply.integer(0);
        return Ok(());
    };
    let owned = context.pending_entries(&stream, &group, Some(name), ALL_IDS, u64::MAX)?;
    for (id, _) in owned {
        context.take(&stream, &mut group, id, name)?;
    }
    let member = encoding::stream_consumer_member(group.name, name);
    context.delete_member(&stream.collection, Column::Data, &member)?;
    group.numbers.consumers = group.numbers.consumers.saturating_sub(1);
    context.put_group(&stream, &mut group)?;
    context.notify_of_stream("xgroup-delconsumer", &stream);
    context.reply.integer(consumer.pending as i64);
    Ok(())
}

/// XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key …] id [id …]
pub fn xreadgroup(context: &mut Context<'_>) -> Outcome {
    let options = ReadOptions::parse(context.arguments, context.now_ms, true)?;
    let (name, consumer) = options
        .group
        .ok_or_else(|| CommandError::text("ERR Missing GROUP option for XREADGROUP"))?;
    // All arguments are checked before anything is delivered.
    let mut positions = Vec::new();
    for (key, id) in options.streams() {
        let stream = context.reading(|context| context.stream(key))?;
        let there = match &stream {
            Some(stream) => context.group(stream, name)?.is_some(),
            None => false,
        };
        if !there {
            return Err(no_group(key, name, " in XREADGROUP with GROUP option"));
        }
        positions.push(read_position(id)?);
    }
    let version = context.reply.version();
    let mut answer = ReadReply::default();
    for ((key, _), position) in options.streams().zip(positions) {
        let stream = context.stream(key)?.ok_or_else(damaged)?;
        let mut group = context.group(&stream, name)?.ok_or_else(damaged)?;
        context.see_consumer(&stream, &mut group, consumer)?;
        let found = match position {
            Some(after) => read_history(context, &stream, &group, consumer, after, options.count_max)?,
            None => read_new(context, &stream, &mut group, consumer, &options)?,
        };
        // A history is answered even if there is none.
        if position.is_some() || !found.ids.is_empty() {
            answer.add(version, key, &found);
        }
    }
    if answer.is_empty() {
        context.waits = options.waiting().map(|waiting| {
            Box::new(Waiting {
                without_key: true,
                ..waiting
            })
        });
    }
    answer.finish(&mut context.reply);
    Ok(())
}

/// After which id XREADGROUP reads a consumer's history; `None` for entries that nobody has got yet.
fn read_position(text: &[u8]) -> Result<Option<StreamId>, CommandError> {
    match text {
        b"$" => Err(CommandError::text(
            "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer \
             by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty \
             result set.",
        )),
        b">" => Ok(None),
        // The greatest id means the same, as in Redis: nothing could follow it.
        id => Ok(Some(strict_id(id, 0)?).filter(|id| *id != StreamId::MAX)),
    }
}

/// Delivers entries that the group has not read to a consumer.
fn read_new(
    context: &mut Context<'_>,
    stream: &Stream,
    group: &mut Group<'_>,
    consumer: &[u8],
    options: &ReadOptions<'_>,
) -> Result<Entries, CommandError> {
    let found = context.entries_after(stream, group.numbers.last, options.count_max)?;
    if found.ids.is_empty() {
        return Ok(found);
    }
    for id in &found.ids {
        entry_was_read(&mut group.numbers, stream, *id);
    }
    if !options.acknowledged {
        // An entry is pending already if the group was set back; it changes hands then.
        for id in &found.ids {
            context.acknowledge(stream, group, *id)?;
        }
        let now_ms = context.now_ms;
        let pending = StreamPending {
            delivered_ms: now_ms,
            deliveries: 1,
            consumer: consumer.to_vec(),
        };
        context.give(stream, group, &found.ids, &pending)?;
        context.change_consumer(stream, group, consumer, |consumer| consumer.active_ms = now_ms)?;
    }
    context.put_group(stream, group)?;
    Ok(found)
}

/// The group reads an entry after the last one that it has read.
fn entry_was_read(group: &mut StreamGroup, stream: &Stream, id: StreamId) {
    let numbers = &stream.numbers;
    let counts = group.last >= numbers.first && !has_deleted_after(stream, group.last);
    group.entries_read = match group.entries_read {
        Some(read) if counts => Some(read + 1),
        read if numbers.entries_added == 0 => read,
        _ => entries_up_to(stream, id),
    };
    group.last = id;
}

/// Whether XDEL may have deleted an entry at or after `id`.
fn has_deleted_after(stream: &Stream, id: StreamId) -> bool {
    let StreamNumbers { deleted_max, .. } = stream.numbers;
    stream.collection.count > 0 && deleted_max != StreamId::MIN && id <= deleted_max
}

/// How many entries there have ever been up to `id`, as far as the stream's numbers tell.
fn entries_up_to(stream: &Stream, id: StreamId) -> Option<u64> {
    let (numbers, count) = (&stream.numbers, stream.collection.count);
    let before_first = numbers.entries_added.saturating_sub(count);
    let deleted_inside = numbers.deleted_max != StreamId::MIN && numbers.deleted_max >= numbers.first;
    if numbers.entries_added == 0 {
        Some(0)
    } else if count == 0 && id <= numbers.last {
        Some(numbers.entries_added)
    } else if id != StreamId::MIN && id < numbers.deleted_max {
        None
    } else if id == numbers.last {
        Some(numbers.entries_added)
    } else if id > numbers.last || id > numbers.first || deleted_inside {
        None
    } else {
        Some(before_first + u64::from(id == numbers.first))
    }
}

/// Delivers a consumer's pending entries after an id to it once more; those that were deleted are shown without fields.
fn read_history(
    context: &mut Context<'_>,
    stream: &Stream,
    group: &Group<'_>,
    consumer: &[u8],
    after: StreamId,
    count_max: u64,
) -> Result<Entries, CommandError> {
    let (now_ms, version) = (context.now_ms, context.reply.version());
    let from = after.successor().ok_or(CommandError::Internal)?;
    let range = (from, StreamId::MAX);
    let mut found = Entries::default();
    for (id, mut pending) in context.pending_entries(stream, group, Some(consumer), range, count_max)? {
        if context.append_entry(stream, id, &mut found.replies)? {
            pending.delivered_ms = now_ms;
            pending.deliveries = pending.deliveries.saturating_add(1);
            let member = with_id(encoding::stream_pending_prefix(group.name), id);
            context.put_member(&stream.collection, Column::Data, &member, pending.encode())?;
        } else {
            let mut reply = Reply::new(&mut found.replies, version);
            reply.array(2);
            reply_id(&mut reply, id);
            reply.null_array();
        }
        found.ids.push(id);
    }
    Ok(found)
}

/// XACK key group id [id …]
pub fn xack(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let stream = context.reading(|context| context.stream(arguments.get(1)))?;
    let group = match &stream {
        Some(stream) => context.group(stream, arguments.get(2))?,
        None => None,
    };
    let (Some(stream), Some(mut group)) = (stream, group) else {
        context.reply.integer(0);
        return Ok(());
    };
    let ids = arguments.iter().skip(3).map(|text| strict_id(text, 0));
    let ids: Vec<StreamId> = ids.collect::<Result<_, _>>()?;
    let mut acknowledged = 0;
    for id in ids {
        acknowledged += i64::from(context.acknowledge(&stream, &mut group, id)?);
    }
    if acknowledged > 0 {
        context.put_group(&stream, &mut group)?;
    }
    context.reply.integer(acknowledged);
    Ok(())
}

/// The stream and the group that XPENDING, XCLAIM and XAUTOCLAIM name first.
fn claimed_group<'a>(context: &mut Context<'_>, arguments: Arguments<'a>) -> Result<(Stream, Group<'a>), CommandError> {
    let (key, name) = (arguments.get(1), arguments.get(2));
    let Some(stream) = context.reading(|context| context.stream(key))? else {
        return Err(no_group(key, name, ""));
    };
    let group = context.group(&stream, name)?.ok_or_else(|| no_group(key, name, ""))?;
    Ok((stream, group))
}

/// XPENDING key group [[IDLE min-idle-time] start end count [consumer]]
pub fn xpending(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        3 => {
            let (stream, group) = claimed_group(context, arguments)?;
            pending_summary(context, &stream, &group)
        }
        6..=9 => {
            let query = PendingQuery::parse(arguments)?;
            let (stream, group) = claimed_group(context, arguments)?;
            pending_list(context, &stream, &group, &query)
        }
        _ => Err(CommandError::Syntax),
    }
}

fn pending_summary(context: &mut Context<'_>, stream: &Stream, group: &Group<'_>) -> Outcome {
    context.reply.array(4);
    context.reply.integer(group.numbers.pending as i64);
    if group.numbers.pending == 0 {
        context.reply.null();
        context.reply.null();
        context.reply.null_array();
        return Ok(());
    }
    let range = (group.numbers.pending_min, group.numbers.pending_max);
    for direction in [Direction::Forward, Direction::Backward] {
        let edge = context.edge_of_pending(stream, group, range, direction)?;
        reply_id(&mut context.reply, edge);
    }
    let mut consumers = context.consumers(stream, group)?;
    consumers.retain(|(_, consumer)| consumer.pending > 0);
    context.reply.array(consumers.len());
    for (name, consumer) in consumers {
        context.reply.array(2);
        context.reply.bulk(&name);
        context.reply.text(&consumer.pending.to_string());
    }
    Ok(())
}

/// Which pending entries XPENDING lists.
struct PendingQuery<'a> {
    idle_ms_min: i64,
    range: (StreamId, StreamId),
    count_max: u64,
    consumer: Option<&'a [u8]>,
}

impl<'a> PendingQuery<'a> {
    fn parse(arguments: Arguments<'a>) -> Result<PendingQuery<'a>, CommandError> {
        let mut position = 3;
        let mut idle_ms_min = 0;
        if is_option(arguments.get(3), "IDLE") {
            idle_ms_min = integer(arguments.get(4))?;
            position = 5;
        }
        if arguments.len() < position + 3 {
            return Err(CommandError::Syntax);
        }
        let count_max = integer(arguments.get(position + 2))?.max(0) as u64;
        let range = (
            range_start(arguments.get(position))?,
            range_end(arguments.get(position + 1))?,
        );
        let consumer = (position + 3 < arguments.len()).then(|| arguments.get(position + 3));
        Ok(PendingQuery {
            idle_ms_min,
            range,
            count_max,
            consumer,
        })
    }
}

fn pending_list(context: &mut Context<'_>, stream: &Stream, group: &Group<'_>, query: &PendingQuery<'_>) -> Outcome {
    let (now_ms, version) = (context.now_ms, context.reply.version());
    let mut replies = Vec::new();
    let mut count = 0;
    let (mut from, to) = query.range;
    while count < query.count_max {
        let page = context.pending_entries(stream, group, query.consumer, (from, to), PAGE as u64)?;
        let next = page.get(PAGE - 1).and_then(|(id, _)| id.successor());
        for (id, pending) in page {
            let idle_ms = now_ms as i64 - pending.delivered_ms as i64;
            if idle_ms < query.idle_ms_min && query.idle_ms_min != 0 || count == query.count_max {
                continue;
            }
            count += 1;
            let mut reply = Reply::new(&mut replies, version);
            reply.array(4);
            reply_id(&mut reply, id);
            reply.bulk(&pending.consumer);
            reply.integer(idle_ms.max(0));
            reply.integer(pending.deliveries as i64);
        }
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    context.reply.array(count as usize);
    context.reply.raw(&replies);
    Ok(())
}

/// How XCLAIM and XAUTOCLAIM change the pending entries that they claim.
struct Claim<'a> {
    consumer: &'a [u8],
    idle_ms_min: i64,
    delivered_ms: u64,
    /// The number of deliveries that they get; `None` to count one more.
    deliveries: Option<u64>,
    /// Whether the ids are answered alone; no delivery is counted then.
    ids_only: bool,
}

impl Claim<'_> {
    /// Gives an entry that is there to the consumer and answers it, unless it has not been idle long enough.
    fn entry(
        &self,
        context: &mut Context<'_>,
        (stream, group): (&Stream, &mut Group<'_>),
        (id, pending): (StreamId, &StreamPending),
        found: &mut Entries,
    ) -> Outcome {
        if self.idle_ms_min > 0 && context.now_ms as i64 - (pending.delivered_ms as i64) < self.idle_ms_min {
            return Ok(());
        }
        context.take(stream, group, id, &pending.consumer)?;
        self.new_entry(context, (stream, group), (id, pending.deliveries), found)
    }

    /// The same for an entry that was not pending, but is now delivered for the first time (FORCE).
    fn new_entry(
        &self,
        context: &mut Context<'_>,
        (stream, group): (&Stream, &mut Group<'_>),
        (id, deliveries): (StreamId, u64),
        found: &mut Entries,
    ) -> Outcome {
        let once_more = if self.ids_only { 0 } else { 1 };
        let pending = StreamPending {
            delivered_ms: self.delivered_ms,
            deliveries: self.deliveries.unwrap_or(deliveries.saturating_add(once_more)),
            consumer: self.consumer.to_vec(),
        };
        context.give(stream, group, &[id], &pending)?;
        match self.ids_only {
            true => reply_id(&mut Reply::new(&mut found.replies, context.reply.version()), id),
            false => _ = context.append_entry(stream, id, &mut found.replies)?,
        }
        found.ids.push(id);
        Ok(())
    }

    /// Ends the claim after the last entry: the consumer was active, if it got any.
    fn finish(&self, context: &mut Context<'_>, stream: &Stream, group: &mut Group<'_>, found: &Entries) -> Outcome {
        let now_ms = context.now_ms;
        if !found.ids.is_empty() {
            context.change_consumer(stream, group, self.consumer, |consumer| consumer.active_ms = now_ms)?;
        }
        context.put_group(stream, group)
    }
}

/// The options of XCLAIM.
#[derive(Default)]
struct ClaimOptions {
    ids: Vec<StreamId>,
    force: bool,
    ids_only: bool,
    delivered_ms: Option<i64>,
    deliveries: Option<i64>,
    last: StreamId,
}

impl ClaimOptions {
    fn parse(arguments: Arguments<'_>, now_ms: u64) -> Result<ClaimOptions, CommandError> {
        let ids = arguments.iter().skip(5).map_while(|text| strict_id(text, 0).ok());
        let mut options = ClaimOptions {
            ids: ids.collect(),
            ..ClaimOptions::default()
        };
        let amount_of = |text: &[u8], name| {
            parse_integer(text)
                .ok_or_else(|| CommandError::text(format!("ERR Invalid {name} option argument for XCLAIM")))
        };
        let mut rest = arguments.iter().skip(5 + options.ids.len()).peekable();
        while let Some(option) = rest.next() {
            if is_option(option, "FORCE") {
                options.force = true;
                continue;
            }
            if is_option(option, "JUSTID") {
                options.ids_only = true;
                continue;
            }
            match rest.next() {
                Some(text) if is_option(option, "IDLE") => {
                    options.delivered_ms = Some((now_ms as i64).saturating_sub(amount_of(text, "IDLE")?));
                }
                Some(text) if is_option(option, "TIME") => options.delivered_ms = Some(amount_of(text, "TIME")?),
                Some(text) if is_option(option, "RETRYCOUNT") => {
                    options.deliveries = Some(amount_of(text, "RETRYCOUNT")?);
                }
                Some(text) if is_option(option, "LASTID") => options.last = strict_id(text, 0)?,
                _ => {
                    let option = CommandError::quoted(option);
                    return Err(CommandError::text(format!("ERR Unrecognized XCLAIM option '{option}'")));
                }
            }
        }
        Ok(options)
    }
}

/// The smallest idle time of an entry that may be claimed, in milliseconds; negative ones mean any.
fn idle_ms_min(text: &[u8], command: &str) -> Result<i64, CommandError> {
    let error = || CommandError::text(format!("ERR Invalid min-idle-time argument for {command}"));
    Ok(parse_integer(text).ok_or_else(error)?.max(0))
}

/// XCLAIM key group consumer min-idle-time id [id …] [IDLE ms] [TIME unix-time-ms] [RETRYCOUNT count] [FORCE] [JUSTID]
/// [LASTID id]
pub fn xclaim(context: &mut Context<'_>) -> Outcome {
    let (arguments, now_ms) = (context.arguments, context.now_ms);
    let (stream, mut group) = claimed_group(context, arguments)?;
    let idle_ms_min = idle_ms_min(arguments.get(4), "XCLAIM")?;
    let options = ClaimOptions::parse(arguments, now_ms)?;
    // A time in the future or before 1970 is taken for now: a client's clock need not be ours.
    let delivered_ms = options.delivered_ms.and_then(|time| u64::try_from(time).ok());
    let claim = Claim {
        consumer: arguments.get(3),
        idle_ms_min,
        delivered_ms: delivered_ms.filter(|time| *time <= now_ms).unwrap_or(now_ms),
        deliveries: options.deliveries.and_then(|count| u64::try_from(count).ok()),
        ids_only: options.ids_only,
    };
    group.numbers.last = group.numbers.last.max(options.last);
    context.see_consumer(&stream, &mut group, claim.consumer)?;
    let mut found = Entries::default();
    for id in options.ids {
        let pending = context.pending(&stream, &group, id)?;
        match (pending, context.has_entry(&stream, id)?) {
            // An entry that was deleted is pending no more.
            (Some(pending), false) => context.take(&stream, &mut group, id, &pending.consumer)?,
            (Some(pending), true) => claim.entry(context, (&stream, &mut group), (id, &pending), &mut found)?,
            (None, true) if options.force => {
                claim.new_entry(context, (&stream, &mut group), (id, 1), &mut found)?;
            }
            (None, _) => {}
        }
    }
    claim.finish(context, &stream, &mut group, &found)?;
    context.reply.array(found.ids.len());
    context.reply.raw(&found.replies);
    Ok(())
}

/// How many pending entries XAUTOCLAIM claims at most, if not told otherwise, as in Redis.
const AUTOCLAIM_COUNT_DEFAULT: u64 = 100;

/// How many pending entries XAUTOCLAIM looks at for each one that it may claim, as in Redis.
const AUTOCLAIM_ATTEMPTS_FACTOR: u64 = 10;

/// XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]
pub fn xautoclaim(context: &mut Context<'_>) -> Outcome {
    let (arguments, now_ms) = (context.arguments, context.now_ms);
    let idle_ms_min = idle_ms_min(arguments.get(4), "XAUTOCLAIM")?;
    let start = range_start(arguments.get(5))?;
    let (count_max, ids_only) = autoclaim_options(arguments)?;
    let (stream, mut group) = claimed_group(context, arguments)?;
    let claim = Claim {
        consumer: arguments.get(3),
        idle_ms_min,
        delivered_ms: now_ms,
        deliveries: None,
        ids_only,
    };
    context.see_consumer(&stream, &mut group, claim.consumer)?;
    let mut found = Entries::default();
    let mut deleted = Vec::new();
    let mut attempts_left = count_max.saturating_mul(AUTOCLAIM_ATTEMPTS_FACTOR);
    let mut from = Some(start);
    let next = 'all: loop {
        let Some(range) = from.map(|from| (from, StreamId::MAX)) else {
            break None;
        };
        let page = context.pending_entries(&stream, &group, None, range, PAGE as u64)?;
        from = page.get(PAGE - 1).and_then(|(id, _)| id.successor());
        for (id, pending) in page {
            if attempts_left == 0 || (found.ids.len() + deleted.len()) as u64 == count_max {
                break 'all Some(id);
            }
            attempts_left -= 1;
            if context.has_entry(&stream, id)? {
                claim.entry(context, (&stream, &mut group), (id, &pending), &mut found)?;
            } else {
                context.take(&stream, &mut group, id, &pending.consumer)?;
                deleted.push(id);
            }
        }
    };
    claim.finish(context, &stream, &mut group, &found)?;
    let reply = &mut context.reply;
    reply.array(3);
    reply_id(reply, next.unwrap_or(StreamId::MIN));
    reply.array(found.ids.len());
    reply.raw(&found.replies);
    reply.array(deleted.len());
    deleted.into_iter().for_each(|id| reply_id(reply, id));
    Ok(())
}

/// XAUTOCLAIM's COUNT, and whether it says JUSTID.
fn autoclaim_options(arguments: Arguments<'_>) -> Result<(u64, bool), CommandError> {
    /// Redis's bound: the largest number whose products fit a `long`.
    const COUNT_MAX: i64 = i64::MAX / 16;
    let (mut count_max, mut ids_only) = (AUTOCLAIM_COUNT_DEFAULT, false);
    let mut rest = arguments.iter().skip(6);
    while let Some(option) = rest.next() {
        if is_option(option, "JUSTID") {
            ids_only = true;
            continue;
        }
        let amount = rest.next().filter(|_| is_option(option, "COUNT"));
        let count = parse_integer(amount.ok_or(CommandError::Syntax)?);
        count_max = count
            .filter(|count| (1..=COUNT_MAX).contains(count))
            .ok_or_else(|| CommandError::text("ERR COUNT must be > 0"))? as u64;
    }
    Ok((count_max, ids_only))
}

/// XINFO GROUPS key
pub fn xinfo_groups(context: &mut Context<'_>) -> Outcome {
    let stream = context
        .stream(context.arguments.get(2))?
        .ok_or(CommandError::NoSuchKey)?;
    let groups = context.groups(&stream)?;
    let reply = &mut context.reply;
    reply.array(groups.len());
    for (name, numbers) in groups {
        reply.map(6);
        reply.text("name");
        reply.bulk(&name);
        reply.text("consumers");
        reply.integer(numbers.consumers as i64);
        reply.text("pending");
        reply.integer(numbers.pending as i64);
        reply_progress(reply, &stream, &numbers);
    }
    Ok(())
}

/// Writes how far a group has read: three pairs of XINFO's maps.
fn reply_progress(reply: &mut Reply<'_>, stream: &Stream, group: &StreamGroup) {
    let mut optional = |name: &str, value: Option<i64>, id: Option<StreamId>| {
        reply.text(name);
        match (value, id) {
            (Some(value), _) => reply.integer(value),
            (None, Some(id)) => reply_id(reply, id),
            (None, None) => reply.null(),
        }
    };
    optional("last-delivered-id", None, Some(group.last));
    optional("entries-read", group.entries_read.map(|read| read as i64), None);
    optional("lag", lag(stream, group), None);
}

/// How many entries a group has not read yet, as far as it can be known.
fn lag(stream: &Stream, group: &StreamGroup) -> Option<i64> {
    let added = stream.numbers.entries_added;
    let read = match group.entries_read {
        _ if added == 0 => return Some(0),
        Some(read) if !has_deleted_after(stream, group.last) => read,
        _ => entries_up_to(stream, group.last)?,
    };
    Some(added as i64 - read as i64)
}

/// XINFO CONSUMERS key group
pub fn xinfo_consumers(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (key, name) = (arguments.get(2), arguments.get(3));
    let stream = context.stream(key)?.ok_or(CommandError::NoSuchKey)?;
    let group = context
        .group(&stream, name)?
        .ok_or_else(|| no_group_of_key(key, name))?;
    let consumers = context.consumers(&stream, &group)?;
    let now_ms = context.now_ms;
    let reply = &mut context.reply;
    reply.array(consumers.len());
    for (name, consumer) in consumers {
        let inactive_ms = match consumer.active_ms {
            0 => -1,
            active_ms => now_ms as i64 - active_ms as i64,
        };
        reply.map(4);
        reply.text("name");
        reply.bulk(&name);
        for (name, value) in [
            ("pending", consumer.pending as i64),
            ("idle", now_ms.saturating_sub(consumer.seen_ms) as i64),
            ("inactive", inactive_ms),
        ] {
            reply.text(name);
            reply.integer(value);
        }
    }
    Ok(())
}

/// Writes the groups of XINFO STREAM … FULL, each with at most `count_max` pending entries, and as many for each
/// consumer.
pub(super) fn reply_groups_in_full(context: &mut Context<'_>, stream: &Stream, count_max: u64) -> Outcome {
    let groups = context.groups(stream)?;
    context.reply.text("groups");
    context.reply.array(groups.len());
    for (name, numbers) in groups {
        let group = Group { name: &name, numbers };
        context.reply.map(7);
        context.reply.text("name");
        context.reply.bulk(group.name);
        reply_progress(&mut context.reply, stream, &group.numbers);
        reply_pending_in_full(context, stream, &group, (None, group.numbers.pending), count_max)?;
        let consumers = context.consumers(stream, &group)?;
        context.reply.text("consumers");
        context.reply.array(consumers.len());
        for (name, consumer) in consumers {
            let active_ms = match consumer.active_ms {
                0 => -1,
                active_ms => active_ms as i64,
            };
            let reply = &mut context.reply;
            reply.map(5);
            reply.text("name");
            reply.bulk(&name);
            reply.text("seen-time");
            reply.integer(consumer.seen_ms as i64);
            reply.text("active-time");
            reply.integer(active_ms);
            reply_pending_in_full(context, stream, &group, (Some(&name), consumer.pending), count_max)?;
        }
    }
    Ok(())
}

/// Writes the pending entries of a group or of a consumer, whose entries do not name it: two pairs of XINFO's maps.
fn reply_pending_in_full(
    context: &mut Context<'_>,
    stream: &Stream,
    group: &Group<'_>,
    (consumer, count): (Option<&[u8]>, u64),
    count_max: u64,
) -> Outcome {
    let entries = context.pending_entries(stream, group, consumer, ALL_IDS, count_max)?;
    let reply = &mut context.reply;
    reply.text("pel-count");
    reply.integer(count as i64);
    reply.text("pending");
    reply.array(entries.len());
    for (id, pending) in entries {
        reply.array(if consumer.is_some() { 3 } else { 4 });
        reply_id(reply, id);
        if consumer.is_none() {
            reply.bulk(&pending.consumer);
        }
        reply.integer(pending.delivered_ms as i64);
        reply.integer(pending.deliveries as i64);
    }
    Ok(())
}
