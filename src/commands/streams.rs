//! Streams: entries by id, ranges of them, trimming. Deletion by id is in [`super::stream_deletion`], consumer groups
//! are in [`super::stream_groups`].

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction, Part};
use super::stream_nodes::{NODE_ENTRIES_MAX, trim_from_nodes};
use crate::commands::blocking::{Waiting, timeout_of_milliseconds};
use crate::error::CommandError;
use crate::number::parse_unsigned;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use crate::storage::encoding::{self, StreamId, StreamNumbers, Type};
use crate::storage::pieces::{Extent, WriteMember};
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// A stream that a command works on.
pub(super) struct Stream {
    /// The stream's entries, which are counted, and its groups' members.
    pub collection: Collection,
    /// The stream's own numbers, which are stored when it is saved.
    pub numbers: StreamNumbers,
}

/// What a range of entries is answered with.
#[derive(Default)]
pub(super) struct Entries {
    /// Their ids, in the order of the reply.
    pub ids: Vec<StreamId>,
    /// The reply's elements, one for each id, without the header of their array.
    pub replies: Vec<u8>,
}

impl Context<'_> {
    /// The stream under a key of the selected database; `None` if there is no such key.
    pub(super) fn stream(&mut self, key: &[u8]) -> Result<Option<Stream>, CommandError> {
        let Some(collection) = self.collection(key, Type::Stream)? else {
            return Ok(None);
        };
        let numbers = StreamNumbers::decode(&collection.extra).ok_or_else(damaged)?;
        Ok(Some(Stream { collection, numbers }))
    }

    /// A new empty stream, which is there once it is saved.
    pub(super) fn new_stream(&mut self, key: &[u8]) -> Result<Stream, CommandError> {
        Ok(Stream {
            collection: self.new_collection(key, Type::Stream)?,
            numbers: StreamNumbers::default(),
        })
    }

    /// Stages a stream's record; it stays when it is empty.
    pub(super) fn save_stream(&mut self, stream: &mut Stream) -> Outcome {
        stream.collection.extra = stream.numbers.encode();
        self.save(&stream.collection)
    }

    /// Says that `event` has happened to a stream.
    pub(super) fn notify_of_stream(&mut self, event: &'static str, stream: &Stream) {
        self.notify_of(event, &stream.collection);
    }

    /// Whether an entry is there.
    pub(super) fn has_entry(&mut self, stream: &Stream, id: StreamId) -> Result<bool, CommandError> {
        let member = encoding::stream_entry_member(id);
        Ok(self.member(&stream.collection, Column::Data, &member)?.is_some())
    }

    /// Appends the reply for an entry to `out`; whether it is there.
    pub(super) fn append_entry(
        &mut self,
        stream: &Stream,
        id: StreamId,
        out: &mut Vec<u8>,
    ) -> Result<bool, CommandError> {
        let version = self.reply.version();
        let member = encoding::stream_entry_member(id);
        let Some(value) = self.member(&stream.collection, Column::Data, &member)? else {
            return Ok(false);
        };
        reply_entry(&mut Reply::new(out, version), id, value).ok_or_else(damaged)?;
        Ok(true)
    }

    /// The entries from one id to another (both inclusive), at most `count_max`.
    pub(super) fn stream_entries(
        &mut self,
        stream: &Stream,
        (from, to): (StreamId, StreamId),
        direction: Direction,
        count_max: u64,
    ) -> Result<Entries, CommandError> {
        let version = self.reply.version();
        let mut found = Entries::default();
        if stream.collection.count == 0 {
            return Ok(found);
        }
        // Entries that were deleted lie before the first one until compaction drops them: they are not walked over.
        let from = from.max(stream.numbers.first);
        let mut all_read = true;
        self.visit_ids(
            stream,
            encoding::STREAM_ENTRY_PREFIX,
            (from, to),
            direction,
            |id, value| {
                all_read = reply_entry(&mut Reply::new(&mut found.replies, version), id, value).is_some();
                found.ids.push(id);
                match all_read && (found.ids.len() as u64) < count_max {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            },
        )?;
        match all_read {
            true => Ok(found),
            false => Err(damaged()),
        }
    }

    /// The entries after an id, at most `count_max`; nothing is looked for where there can be none.
    pub(super) fn entries_after(
        &mut self,
        stream: &Stream,
        id: StreamId,
        count_max: u64,
    ) -> Result<Entries, CommandError> {
        match id.successor() {
            Some(from) if stream.collection.count > 0 && id < stream.numbers.last => {
                self.stream_entries(stream, (from, StreamId::MAX), Direction::Forward, count_max)
            }
            _ => Ok(Entries::default()),
        }
    }

    /// Calls `visit` with the ids from one to another (both inclusive) that follow `prefix` in the stream's members,
    /// and with their values, until it breaks.
    pub(super) fn visit_ids(
        &mut self,
        stream: &Stream,
        prefix: &[u8],
        (from, to): (StreamId, StreamId),
        direction: Direction,
        mut visit: impl FnMut(StreamId, &[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        let (from, to) = members_of_ids(prefix, (from, to));
        let mut all_read = true;
        self.scan_members(
            &stream.collection,
            Column::Data,
            (&from, Some(&to)),
            direction,
            |member, value| match StreamId::of_member(member) {
                Some(id) => visit(id, value),
                None => {
                    all_read = false;
                    ControlFlow::Break(())
                }
            },
        )?;
        match all_read {
            true => Ok(()),
            false => Err(damaged()),
        }
    }

    /// The id of the first entry at or after `from`, or of the last one at or before `to` when read backwards.
    pub(super) fn edge_id(
        &mut self,
        stream: &Stream,
        range: (StreamId, StreamId),
        direction: Direction,
    ) -> Result<Option<StreamId>, CommandError> {
        let mut edge = None;
        self.visit_ids(stream, encoding::STREAM_ENTRY_PREFIX, range, direction, |id, _| {
            edge = Some(id);
            ControlFlow::Break(())
        })?;
        Ok(edge)
    }
}

/// All ids.
pub(super) const ALL_IDS: (StreamId, StreamId) = (StreamId::MIN, StreamId::MAX);

/// The error for a member or a record that is not as it was written.
pub(super) fn damaged() -> CommandError {
    CommandError::text("ERR the stored members of this key are damaged")
}

/// Writes an entry as ranges show it: its id, its fields and values; `None` if the value is damaged.
fn reply_entry(reply: &mut Reply<'_>, id: StreamId, value: &[u8]) -> Option<()> {
    let fields_and_values = encoding::decode_stream_entry(value)?;
    reply.array(2);
    reply_id(reply, id);
    reply.array(fields_and_values.len());
    for text in fields_and_values {
        reply.bulk(text);
    }
    Some(())
}

/// Writes an id.
pub(super) fn reply_id(reply: &mut Reply<'_>, id: StreamId) {
    reply.text(&id.to_string());
}

/// The longest text that is looked at for an id, in bytes, as in Redis; the longest id has 41.
const ID_LEN_MAX: usize = 127;

fn invalid_id() -> CommandError {
    CommandError::text("ERR Invalid stream ID specified as stream command argument")
}

/// The milliseconds of an id, and the text of its sequence if it has one.
fn split_id(text: &[u8]) -> Result<(u64, Option<&[u8]>), CommandError> {
    if text.len() > ID_LEN_MAX {
        return Err(invalid_id());
    }
    // Redis reads a C string.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut parts = text.splitn(2, |byte| *byte == b'-');
    let ms = parts.next().and_then(parse_unsigned).ok_or_else(invalid_id)?;
    Ok((ms, parts.next()))
}

/// An id `ms-sequence` or `ms`, for which the sequence is `sequence_missing`.
pub(super) fn strict_id(text: &[u8], sequence_missing: u64) -> Result<StreamId, CommandError> {
    let (ms, sequence) = split_id(text)?;
    let sequence = match sequence {
        Some(sequence) => parse_unsigned(sequence).ok_or_else(invalid_id)?,
        None => sequence_missing,
    };
    Ok(StreamId::new(ms, sequence))
}

/// The same, or `-` and `+` for the smallest and the greatest id.
pub(super) fn any_id(text: &[u8], sequence_missing: u64) -> Result<StreamId, CommandError> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => strict_id(text, sequence_missing),
    }
}

/// The first id of a range that begins at `text`, or after it if it has a `(` in front.
pub(super) fn range_start(text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        [b'(', id @ ..] if !id.is_empty() => strict_id(id, 0)?
            .successor()
            .ok_or_else(|| CommandError::text("ERR invalid start ID for the interval")),
        _ => any_id(text, 0),
    }
}

/// The last id of a range that ends at `text`, or before it if it has a `(` in front.
pub(super) fn range_end(text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        [b'(', id @ ..] if !id.is_empty() => strict_id(id, u64::MAX)?
            .predecessor()
            .ok_or_else(|| CommandError::text("ERR invalid end ID for the interval")),
        _ => any_id(text, u64::MAX),
    }
}

/// What XADD was told about the new entry's id.
#[derive(Clone, Copy)]
enum NewId {
    /// `*`
    Clock,
    /// `ms-*`
    InMillisecond(u64),
    /// `ms-sequence`
    Given(StreamId),
}

impl NewId {
    fn parse(text: &[u8]) -> Result<NewId, CommandError> {
        if text == b"*" {
            return Ok(NewId::Clock);
        }
        match split_id(text)? {
            (ms, Some(b"*")) => Ok(NewId::InMillisecond(ms)),
            _ => strict_id(text, 0).map(NewId::Given),
        }
    }

    /// The id that follows `last`; `None` if there is none or it is not greater.
    fn after(self, last: StreamId, now_ms: u64) -> Option<StreamId> {
        match self {
            NewId::Clock if now_ms > last.ms() => Some(StreamId::new(now_ms, 0)),
            NewId::Clock => last.successor(),
            NewId::InMillisecond(ms) if ms == last.ms() => {
                let sequence = last.sequence().checked_add(1)?;
                Some(StreamId::new(ms, sequence))
            }
            NewId::InMillisecond(ms) => Some(StreamId::new(ms, 0)).filter(|id| *id > last),
            NewId::Given(id) => Some(id).filter(|id| *id > last),
        }
    }
}

/// Which entries XTRIM and XADD leave.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// The last ones, so many.
    Newest(u64),
    /// The entries from an id on.
    From(StreamId),
}

/// How XTRIM and XADD shorten a stream.
#[derive(Clone, Copy)]
struct Trim {
    keep: Keep,
    /// Whether only whole nodes go.
    approximate: bool,
    /// How many entries go at most.
    limit: u64,
}

/// How many entries an approximate trim removes at most, if not told otherwise, as in Redis: hundred nodes.
const TRIM_LIMIT_DEFAULT: u64 = 100 * NODE_ENTRIES_MAX as u64;

/// The options of XADD and XTRIM.
#[derive(Default)]
struct EntryOptions {
    only_if_present: bool,
    trim: Option<Trim>,
    limit: Option<u64>,
    /// XADD's id, and its position among the arguments.
    id: Option<(usize, NewId)>,
}

impl EntryOptions {
    fn parse(arguments: Arguments<'_>, adds: bool) -> Result<EntryOptions, CommandError> {
        let mut options = EntryOptions::default();
        let mut position = 2;
        while position < arguments.len() && options.id.is_none() {
            let argument = arguments.get(position);
            let has_more = position + 1 < arguments.len();
            if has_more && (is_option(argument, "MAXLEN") || is_option(argument, "MINID")) {
                position = options.parse_trim(arguments, position)?;
            } else if has_more && is_option(argument, "LIMIT") {
                position += 1;
                let limit = u64::try_from(integer(arguments.get(position))?)
                    .map_err(|_| CommandError::text("ERR The LIMIT argument must be >= 0."))?;
                options.limit = Some(limit);
            } else if adds && is_option(argument, "NOMKSTREAM") {
                options.only_if_present = true;
            } else if adds {
                options.id = Some((position, NewId::parse(argument)?));
            } else {
                return Err(CommandError::Syntax);
            }
            position += 1;
        }
        options.apply_limit(adds)?;
        Ok(options)
    }

    /// Reads MAXLEN or MINID at `position`; returns the position of its last argument.
    fn parse_trim(&mut self, arguments: Arguments<'_>, mut position: usize) -> Result<usize, CommandError> {
        if self.trim.is_some() {
            return Err(CommandError::text(
                "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ));
        }
        let by_length = is_option(arguments.get(position), "MAXLEN");
        position += 1;
        let mut approximate = false;
        if position + 1 < arguments.len() && matches!(arguments.get(position), b"~" | b"=") {
            approximate = arguments.get(position) == b"~";
            position += 1;
        }
        let amount = arguments.get(position);
        let keep = match by_length {
            true => Keep::Newest(
                u64::try_from(integer(amount)?)
                    .map_err(|_| CommandError::text("ERR The MAXLEN argument must be >= 0."))?,
            ),
            false => Keep::From(strict_id(amount, 0)?),
        };
        let limit = if approximate { TRIM_LIMIT_DEFAULT } else { u64::MAX };
        self.trim = Some(Trim {
            keep,
            approximate,
            limit,
        });
        Ok(position)
    }

    fn apply_limit(&mut self, adds: bool) -> Outcome {
        let refused = |why| Err(CommandError::text(why));
        if self.trim.is_none() && self.limit.is_some_and(|limit| limit > 0) {
            return refused("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy");
        }
        if self.trim.is_none() && !adds {
            return refused("ERR syntax error, XTRIM must be called with a trimming strategy");
        }
        let Some(limit) = self.limit else { return Ok(()) };
        match &mut self.trim {
            Some(trim) if trim.approximate => trim.limit = if limit == 0 { u64::MAX } else { limit },
            _ => return refused("ERR syntax error, LIMIT cannot be used without the special ~ option"),
        }
        Ok(())
    }
}

/// The most bytes that an entry's fields and values may have together, as in Redis.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// XADD key [NOMKSTREAM] [MAXLEN | MINID [= | ~] threshold [LIMIT count]] * | id field value [field value …]
pub fn xadd(context: &mut Context<'_>) -> Outcome {
    let (arguments, now_ms) = (context.arguments, context.now_ms);
    let options = EntryOptions::parse(arguments, true)?;
    let Some((id_position, new_id)) = options.id.filter(|(position, _)| {
        let rest = arguments.len() - position - 1;
        rest > 0 && rest.is_multiple_of(2)
    }) else {
        return Err(CommandError::Arity("xadd".to_owned()));
    };
    if matches!(new_id, NewId::Given(StreamId::MIN)) {
        return Err(CommandError::text(
            "ERR The ID specified in XADD must be greater than 0-0",
        ));
    }
    let key = arguments.get(1);
    let mut stream = match context.stream(key)? {
        Some(stream) => stream,
        None if options.only_if_present => {
            context.reply.null();
            return Ok(());
        }
        None => context.new_stream(key)?,
    };
    let id = next_id(&stream, new_id, now_ms)?;
    let fields_and_values = arguments.iter().skip(id_position + 1);
    if fields_and_values.clone().map(<[u8]>::len).sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(CommandError::text("ERR Elements are too large to be stored"));
    }
    let value = encoding::encode_stream_entry(fields_and_values.clone());
    context.put_member(
        &stream.collection,
        Column::Data,
        &encoding::stream_entry_member(id),
        value,
    )?;
    if stream.collection.count == 0 {
        stream.numbers.first = id;
    }
    stream.collection.count += 1;
    stream.numbers.entries_added += 1;
    stream.numbers.last = id;
    context.add_to_nodes(&mut stream, id, fields_and_values)?;
    let mut removed = 0;
    if let Some(trim) = options.trim {
        removed = trim_stream(context, &mut stream, trim)?;
    }
    context.save_stream(&mut stream)?;
    context.notify_of_stream("xadd", &stream);
    if removed > 0 {
        context.notify_of_stream("xtrim", &stream);
    }
    reply_id(&mut context.reply, id);
    Ok(())
}

fn next_id(stream: &Stream, new_id: NewId, now_ms: u64) -> Result<StreamId, CommandError> {
    if stream.numbers.last == StreamId::MAX {
        return Err(CommandError::text(
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ));
    }
    new_id.after(stream.numbers.last, now_ms).ok_or_else(|| {
        CommandError::text("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    })
}

/// Removes entries from the stream's beginning, and reads no others but the one after them; returns how many. The
/// caller saves the stream.
fn trim_stream(context: &mut Context<'_>, stream: &mut Stream, trim: Trim) -> Result<u64, CommandError> {
    if trim.approximate {
        return context.remove_nodes(stream, trim.keep, trim.limit);
    }
    let count = stream.collection.count;
    let excess = match trim.keep {
        Keep::Newest(kept) => count.saturating_sub(kept),
        Keep::From(id) if stream.numbers.first >= id => 0,
        Keep::From(_) => count,
    };
    if excess == 0 {
        return Ok(0);
    }
    // The ids take less memory than the deletions that are staged for them.
    let mut ids = Vec::new();
    let mut next = None;
    let range = (stream.numbers.first, StreamId::MAX);
    context.visit_ids(
        stream,
        encoding::STREAM_ENTRY_PREFIX,
        range,
        Direction::Forward,
        |id, _| {
            if ids.len() as u64 == excess || matches!(trim.keep, Keep::From(kept) if id >= kept) {
                next = Some(id);
                return ControlFlow::Break(());
            }
            ids.push(id);
            ControlFlow::Continue(())
        },
    )?;
    for id in &ids {
        let member = encoding::stream_entry_member(*id);
        context.delete_member(&stream.collection, Column::Data, &member)?;
    }
    let removed = ids.len() as u64;
    stream.collection.count = count.checked_sub(removed).ok_or_else(damaged)?;
    if removed > 0 {
        stream.numbers.first = next.unwrap_or(StreamId::MIN);
        trim_from_nodes(stream, &ids, trim.keep)?;
    }
    Ok(removed)
}

/// XTRIM key MAXLEN | MINID [= | ~] threshold [LIMIT count]
pub fn xtrim(context: &mut Context<'_>) -> Outcome {
    let options = EntryOptions::parse(context.arguments, false)?;
    let mut removed = 0;
    if let (Some(mut stream), Some(trim)) = (context.stream(context.arguments.get(1))?, options.trim) {
        removed = trim_stream(context, &mut stream, trim)?;
        if removed > 0 {
            context.save_stream(&mut stream)?;
            context.notify_of_stream("xtrim", &stream);
        }
    }
    context.reply.integer(removed as i64);
    Ok(())
}

/// XLEN key
pub fn xlen(context: &mut Context<'_>) -> Outcome {
    let stream = context.stream(context.arguments.get(1))?;
    let count = stream.map_or(0, |stream| stream.collection.count);
    context.reply.integer(count as i64);
    Ok(())
}

/// XRANGE key start end [COUNT count]
pub fn xrange(context: &mut Context<'_>) -> Outcome {
    range_generic(context, (2, 3), Direction::Forward)
}

/// XREVRANGE key end start [COUNT count]
pub fn xrevrange(context: &mut Context<'_>) -> Outcome {
    range_generic(context, (3, 2), Direction::Backward)
}

/// XRANGE and XREVRANGE, which have the range's start and end at the given positions.
fn range_generic(context: &mut Context<'_>, (start, end): (usize, usize), direction: Direction) -> Outcome {
    let arguments = context.arguments;
    let range = (range_start(arguments.get(start))?, range_end(arguments.get(end))?);
    let mut count = None;
    let mut rest = arguments.iter().skip(4);
    while let Some(option) = rest.next() {
        match rest.next() {
            Some(amount) if is_option(option, "COUNT") => count = Some(integer(amount)?.max(0) as u64),
            _ => return Err(CommandError::Syntax),
        }
    }
    let Some(stream) = context.stream(arguments.get(1))? else {
        context.reply.array(0);
        return Ok(());
    };
    if count == Some(0) {
        context.reply.null_array();
        return Ok(());
    }
    let has_entries = reply_range(context, &stream, range, direction, count.unwrap_or(u64::MAX), |_| {})?;
    if !has_entries {
        context.reply.array(0);
    }
    Ok(())
}

/// Answers the entries from one id to another (both inclusive), at most `count_max`, after what `begin` writes. Returns
/// whether there are any; if not, nothing is written.
fn reply_range(
    context: &mut Context<'_>,
    stream: &Stream,
    (from, to): (StreamId, StreamId),
    direction: Direction,
    count_max: u64,
    begin: impl FnOnce(&mut Reply<'_>),
) -> Result<bool, CommandError> {
    let count = stream.collection.count;
    if count == 0 {
        return Ok(false);
    }
    let StreamNumbers { first, last, .. } = stream.numbers;
    // Entries that were deleted lie before the first one until compaction drops them: they are not walked over.
    let (lowest, end) = members_of_ids(encoding::STREAM_ENTRY_PREFIX, (from.max(first), to));
    let part = Part {
        collection: &stream.collection,
        column: Column::Data,
        range: (&lowest, Some(&end)),
        direction,
        skip: 0,
    };
    let write: WriteMember = |reply, member, value, _| {
        let id = StreamId::of_member(member);
        id.and_then(|id| reply_entry(reply, id, value)).is_some()
    };
    if let Some(said) = context.say_little(&part, count_max, write)? {
        if said.others > 0 {
            return Err(damaged());
        }
        if said.members > 0 {
            begin(&mut context.reply);
            context.reply.array(said.members as usize);
            context.reply.raw(&said.reply);
        }
        return Ok(said.members > 0);
    }
    begin(&mut context.reply);
    if from > first || to < last {
        context.reply_in_pieces(&part, Extent::AtMost(count_max), write)?;
    } else {
        let count = count.min(count_max);
        context.reply.array(count as usize);
        context.reply_in_pieces(&part, Extent::Known(count), write)?;
    }
    Ok(true)
}

/// Where the members lie that consist of `prefix` and an id from one to another (both inclusive): from the first to
/// before the second.
fn members_of_ids(prefix: &[u8], (from, to): (StreamId, StreamId)) -> (Vec<u8>, Vec<u8>) {
    let from = [prefix, &from.0.to_be_bytes()].concat();
    // One byte more than the last member: all are of the same length.
    (from, [prefix, &to.0.to_be_bytes(), &[0]].concat())
}

/// What XREAD and XREADGROUP were asked.
pub(super) struct ReadOptions<'a> {
    /// How many entries of each stream are answered at most.
    pub count_max: u64,
    /// The group and the consumer that read.
    pub group: Option<(&'a [u8], &'a [u8])>,
    /// Whether what is delivered counts as acknowledged.
    pub acknowledged: bool,
    /// How long the command waits for an entry, in milliseconds (0: for ever); `None` if it does not wait.
    pub block_ms: Option<u64>,
    arguments: Arguments<'a>,
    /// The positions of the keys; as many ids follow.
    keys: std::ops::Range<usize>,
}

impl<'a> ReadOptions<'a> {
    /// Reads the arguments of `command`, which is XREADGROUP if `for_group`.
    pub(super) fn parse(
        arguments: Arguments<'a>,
        now_ms: u64,
        for_group: bool,
    ) -> Result<ReadOptions<'a>, CommandError> {
        let mut options = ReadOptions {
            count_max: u64::MAX,
            group: None,
            acknowledged: false,
            block_ms: None,
            arguments,
            keys: 0..0,
        };
        let mut position = 1;
        while position < arguments.len() && options.keys.is_empty() {
            let argument = arguments.get(position);
            let more = arguments.len() - position - 1;
            if more >= 1 && is_option(argument, "BLOCK") {
                options.block_ms = Some(timeout_of_milliseconds(arguments.get(position + 1), now_ms)?);
                position += 1;
            } else if more >= 1 && is_option(argument, "COUNT") {
                let count = integer(arguments.get(position + 1))?;
                options.count_max = if count > 0 { count as u64 } else { u64::MAX };
                position += 1;
            } else if more >= 1 && is_option(argument, "STREAMS") {
                if !more.is_multiple_of(2) {
                    return Err(unbalanced(for_group));
                }
                options.keys = position + 1..position + 1 + more / 2;
            } else if more >= 2 && is_option(argument, "GROUP") {
                group_only(for_group, "GROUP")?;
                options.group = Some((arguments.get(position + 1), arguments.get(position + 2)));
                position += 2;
            } else if is_option(argument, "NOACK") {
                group_only(for_group, "NOACK")?;
                options.acknowledged = true;
            } else {
                return Err(CommandError::Syntax);
            }
            position += 1;
        }
        match options.keys.is_empty() {
            true => Err(CommandError::Syntax),
            false => Ok(options),
        }
    }

    /// What a command waits for that has found nothing, if it was asked to wait: an entry in any of its streams.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let timeout_ms = self.block_ms?;
        Some(Waiting::for_keys(self.keys.clone(), Type::Stream, timeout_ms))
    }

    /// The keys, each with the text of its id.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (arguments, count) = (self.arguments, self.keys.len());
        self.keys
            .clone()
            .map(move |position| (arguments.get(position), arguments.get(position + count)))
    }
}

fn unbalanced(for_group: bool) -> CommandError {
    let (command, sign) = if for_group { ("xreadgroup", '>') } else { ("xread", '$') };
    CommandError::text(format!(
        "ERR Unbalanced '{command}' list of streams: for each stream key an ID or '{sign}' must be specified."
    ))
}

fn group_only(for_group: bool, option: &str) -> Outcome {
    match for_group {
        true => Ok(()),
        false => Err(CommandError::text(format!(
            "ERR The {option} option is only supported by XREADGROUP. You called XREAD instead."
        ))),
    }
}

/// The reply to XREAD and XREADGROUP while it grows: the streams that have something.
#[derive(Default)]
pub(super) struct ReadReply {
    streams: usize,
    replies: Vec<u8>,
}

impl ReadReply {
    /// Adds a stream with its entries.
    pub(super) fn add(&mut self, version: Version, key: &[u8], entries: &Entries) {
        let mut reply = Reply::new(&mut self.replies, version);
        begin_stream(&mut reply, key);
        reply.array(entries.ids.len());
        reply.raw(&entries.replies);
        self.streams += 1;
    }

    /// Whether no stream has anything.
    pub(super) fn is_empty(&self) -> bool {
        self.streams == 0
    }

    /// Writes the reply: a map in RESP3, pairs in RESP2, and nothing at all without streams.
    pub(super) fn finish(self, reply: &mut Reply<'_>) {
        match self.streams {
            0 => reply.null_array(),
            streams => begin_streams(reply, streams),
        }
        reply.raw(&self.replies);
    }
}

/// Writes the header of the reply to XREAD and XREADGROUP: a map in RESP3, pairs in RESP2.
fn begin_streams(reply: &mut Reply<'_>, streams: usize) {
    match reply.version() {
        Version::Resp2 => reply.array(streams),
        Version::Resp3 => reply.map(streams),
    }
}

/// Writes what comes before the array of a stream's entries.
fn begin_stream(reply: &mut Reply<'_>, key: &[u8]) {
    if reply.version() == Version::Resp2 {
        reply.array(2);
    }
    reply.bulk(key);
}

/// XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key …] id [id …]
pub fn xread(context: &mut Context<'_>) -> Outcome {
    let options = ReadOptions::parse(context.arguments, context.now_ms, false)?;
    // All arguments are checked before anything is read.
    let mut positions = Vec::new();
    for (key, id) in options.streams() {
        let stream = context.stream(key)?;
        positions.push(match id {
            b"$" => stream.map_or(StreamId::MIN, |stream| stream.numbers.last),
            b">" => {
                return Err(CommandError::text(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> \
                     option.",
                ));
            }
            id => strict_id(id, 0)?,
        });
    }
    if let [position] = positions[..] {
        return read_one_stream(context, &options, position);
    }
    let version = context.reply.version();
    let mut answer = ReadReply::default();
    for ((key, _), position) in options.streams().zip(positions.iter().copied()) {
        let Some(stream) = context.stream(key)? else { continue };
        let found = context.entries_after(&stream, position, options.count_max)?;
        if !found.ids.is_empty() {
            answer.add(version, key, &found);
        }
    }
    if answer.is_empty() {
        context.waits = options.waiting().map(|waiting| Box::new(waiting.after(&positions)));
    }
    answer.finish(&mut context.reply);
    Ok(())
}

/// XREAD of one stream, whose entries come in pieces if they are many.
fn read_one_stream(context: &mut Context<'_>, options: &ReadOptions<'_>, position: StreamId) -> Outcome {
    let (key, _) = options.streams().next().ok_or(CommandError::Internal)?;
    let begin = |reply: &mut Reply<'_>| {
        begin_streams(reply, 1);
        begin_stream(reply, key);
    };
    let has_entries = match (context.stream(key)?, position.successor()) {
        (Some(stream), Some(from)) if position < stream.numbers.last => {
            let range = (from, StreamId::MAX);
            reply_range(context, &stream, range, Direction::Forward, options.count_max, begin)?
        }
        _ => false,
    };
    if !has_entries {
        context.reply.null_array();
        context.waits = options.waiting().map(|waiting| Box::new(waiting.after(&[position])));
    }
    Ok(())
}

/// XSETID key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]
pub fn xsetid(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let refused = |why| Err(CommandError::text(why));
    let last = strict_id(arguments.get(2), 0)?;
    let (mut entries_added, mut deleted_max) = (None, StreamId::MIN);
    let mut rest = arguments.iter().skip(3);
    while let Some(option) = rest.next() {
        match rest.next() {
            Some(amount) if is_option(option, "ENTRIESADDED") => match u64::try_from(integer(amount)?) {
                Ok(amount) => entries_added = Some(amount),
                Err(_) => return refused("ERR entries_added must be positive"),
            },
            Some(id) if is_option(option, "MAXDELETEDID") => {
                deleted_max = strict_id(id, 0)?;
                if last < deleted_max {
                    return refused("ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id");
                }
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let mut stream = context.stream(arguments.get(1))?.ok_or(CommandError::NoSuchKey)?;
    if last < stream.numbers.deleted_max {
        return refused("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id");
    }
    if stream.collection.count > 0 {
        let top = context.edge_id(&stream, ALL_IDS, Direction::Backward)?;
        if top.is_some_and(|top| last < top) {
            return refused("ERR The ID specified in XSETID is smaller than the target stream top item");
        }
        if entries_added.is_some_and(|added| stream.collection.count > added) {
            return refused("ERR The entries_added specified in XSETID is smaller than the target stream length");
        }
    }
    stream.numbers.last = last;
    stream.numbers.entries_added = entries_added.unwrap_or(stream.numbers.entries_added);
    if deleted_max != StreamId::MIN {
        stream.numbers.deleted_max = deleted_max;
    }
    context.save_stream(&mut stream)?;
    context.notify_of_stream("xsetid", &stream);
    context.reply.ok();
    Ok(())
}

/// How many entries and pending entries XINFO STREAM … FULL shows of each kind, if not told otherwise.
const FULL_COUNT_DEFAULT: i64 = 10;

/// XINFO STREAM key [FULL [COUNT count]]
pub fn xinfo_stream(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let stream = context.stream(arguments.get(2))?.ok_or(CommandError::NoSuchKey)?;
    let is_full = arguments.len() > 3;
    let count = match arguments.len() {
        3 => FULL_COUNT_DEFAULT,
        4 if is_option(arguments.get(3), "FULL") => FULL_COUNT_DEFAULT,
        6 if is_option(arguments.get(3), "FULL") && is_option(arguments.get(4), "COUNT") => integer(arguments.get(5))?,
        _ => return Err(super::stream_groups::subcommand_syntax(arguments, "XINFO")),
    };
    reply_numbers(&mut context.reply, &stream, if is_full { 9 } else { 10 });
    if is_full {
        let count_max = match count {
            0 => u64::MAX,
            count => u64::try_from(count).unwrap_or(FULL_COUNT_DEFAULT as u64),
        };
        let found = context.stream_entries(&stream, ALL_IDS, Direction::Forward, count_max)?;
        context.reply.text("entries");
        context.reply.array(found.ids.len());
        context.reply.raw(&found.replies);
        return super::stream_groups::reply_groups_in_full(context, &stream, count_max);
    }
    context.reply.text("groups");
    context.reply.integer(stream.numbers.groups as i64);
    for (name, range, direction) in [
        ("first-entry", (stream.numbers.first, StreamId::MAX), Direction::Forward),
        ("last-entry", ALL_IDS, Direction::Backward),
    ] {
        context.reply.text(name);
        let found = context.stream_entries(&stream, range, direction, 1)?;
        match found.ids.is_empty() {
            true => context.reply.null(),
            false => context.reply.raw(&found.replies),
        }
    }
    Ok(())
}

/// Writes the header of XINFO STREAM's map and what both of its forms begin with.
fn reply_numbers(reply: &mut Reply<'_>, stream: &Stream, pairs: usize) {
    let StreamNumbers {
        last,
        first,
        deleted_max,
        entries_added,
        ..
    } = stream.numbers;
    // There is no radix tree: as many nodes as Redis has if none of them has lost all its entries.
    let nodes = stream.numbers.nodes.stored + u64::from(stream.numbers.nodes.tail.entries > 0);
    reply.map(pairs);
    for (name, number) in [
        ("length", stream.collection.count),
        ("radix-tree-keys", nodes),
        ("radix-tree-nodes", nodes + 1),
    ] {
        reply.text(name);
        reply.integer(number as i64);
    }
    reply.text("last-generated-id");
    reply_id(reply, last);
    reply.text("max-deleted-entry-id");
    reply_id(reply, deleted_max);
    reply.text("entries-added");
    reply.integer(entries_added as i64);
    reply.text("recorded-first-entry-id");
    reply_id(reply, first);
}
