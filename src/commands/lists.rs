//! Lists: LPUSH, LPOP and their relatives, reading and changing by index, and moves between lists.
//!
//! An element's key is its position, counted from the middle of the 64-bit numbers, and the record keeps the position
//! of the first one: both ends grow and shrink at the cost of one element, and any index is found at the cost of one.
//! LINSERT and LREM keep the positions without gaps by moving the shorter side (see [`List::insert`] and
//! [`List::remove`]).

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction};
use crate::commands::blocking::{Waiting, timeout_of_seconds};
use crate::commands::removals::{Remains, Removal, TellRemoved};
use crate::commands::steps::{Steps, members_at_once_max, members_per_step};
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::{Arguments, Reply};
use crate::storage::encoding::{LIST_ORIGIN, Type, list_extra, list_head, list_member};
use crate::storage::view::View;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// Elements that are read one by one, and not by a scan: each is in memory if it is hot, and beginning a scan costs as
/// much as reading dozens.
const READ_SINGLY_MAX: u64 = 32;

/// Bytes of elements that one step reads and writes.
const BYTES_PER_STEP: usize = 128 << 10;

/// One end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The head, where index 0 is.
    Left,
    /// The tail.
    Right,
}

impl End {
    fn parse(argument: &[u8]) -> Result<End, CommandError> {
        match argument {
            _ if is_option(argument, "LEFT") => Ok(End::Left),
            _ if is_option(argument, "RIGHT") => Ok(End::Right),
            _ => Err(CommandError::Syntax),
        }
    }

    /// The direction in which the outermost element is read first.
    fn inwards(self) -> Direction {
        match self {
            End::Left => Direction::Forward,
            End::Right => Direction::Backward,
        }
    }

    /// What has happened to a list that elements were added to here.
    fn push_event(self) -> &'static str {
        match self {
            End::Left => "lpush",
            End::Right => "rpush",
        }
    }

    /// What has happened to a list that elements were taken from here.
    fn pop_event(self) -> &'static str {
        match self {
            End::Left => "lpop",
            End::Right => "rpop",
        }
    }
}

/// A list that a command works on.
#[derive(Clone, Debug)]
pub struct List {
    collection: Collection,
    /// The position of the first element.
    head: u64,
}

impl List {
    /// The list under a key of the selected database; `None` if there is no such key.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn open(context: &mut Context<'_>, key: &[u8]) -> Result<Option<List>, CommandError> {
        context
            .collection(key, Type::List)?
            .map(List::of_collection)
            .transpose()
    }

    /// The list under a key of the selected database, or a new empty one, which is there once it is saved.
    fn open_or_new(context: &mut Context<'_>, key: &[u8]) -> Result<List, CommandError> {
        match List::open(context, key)? {
            Some(list) => Ok(list),
            None => List::create(context, key),
        }
    }

    /// A new empty list in place of whatever is under a key: there once it is saved.
    pub fn create(context: &mut Context<'_>, key: &[u8]) -> Result<List, CommandError> {
        Ok(List {
            collection: context.new_collection(key, Type::List)?,
            head: LIST_ORIGIN,
        })
    }

    /// The list whose record was read already.
    pub fn of_collection(collection: Collection) -> Result<List, CommandError> {
        let head = list_head(&collection.extra, collection.count).ok_or_else(damaged)?;
        Ok(List { collection, head })
    }

    /// The list's record, if it was saved after the last change.
    pub(super) fn into_collection(self) -> Collection {
        self.collection
    }

    /// Stages the list's record, or the deletion of its key if it has become empty.
    pub fn save(&mut self, context: &mut Context<'_>) -> Outcome {
        self.collection.extra.clear();
        self.collection.extra.extend_from_slice(&list_extra(self.head));
        context.save(&self.collection)
    }

    /// Saves the list after `event` has happened to it; says so, and that the key is gone if it is.
    pub fn save_after(&mut self, context: &mut Context<'_>, event: &'static str) -> Outcome {
        self.save(context)?;
        context.notify_of(event, &self.collection);
        Ok(())
    }

    /// How many elements the list has.
    pub(super) fn len(&self) -> u64 {
        self.collection.count
    }

    /// The key in `data` of the element at an index.
    fn member(&self, index: u64) -> [u8; 8] {
        list_member(self.head.wrapping_add(index))
    }

    /// The index that a command's argument means, negative ones counting from the end; `None` beyond the list.
    fn index(&self, argument: i64) -> Option<u64> {
        let len = self.len() as i64;
        let index = if argument < 0 {
            len.checked_add(argument)?
        } else {
            argument
        };
        (0..len).contains(&index).then_some(index as u64)
    }

    /// The indices from `start` to `end` (inclusive), negative ones counting from the end.
    fn range(&self, start: i64, end: i64) -> Range<u64> {
        let len = self.len() as i64;
        let from_end = |index: i64| if index < 0 { index + len } else { index };
        let (start, end) = (from_end(start).max(0), from_end(end).min(len - 1));
        if start > end {
            0..0
        } else {
            start as u64..end as u64 + 1
        }
    }

    /// The `count` indices next to an end; `count` is at most the length.
    fn outermost(&self, end: End, count: u64) -> Range<u64> {
        match end {
            End::Left => 0..count,
            End::Right => self.len() - count..self.len(),
        }
    }

    /// Stages the element at an index, whatever is there.
    fn put(&self, context: &mut Context<'_>, index: u64, element: &[u8]) -> Outcome {
        context.put_member(&self.collection, Column::Data, &self.member(index), element)
    }

    /// Calls `visit` with the indices of a range and their elements, forward or backward, until it breaks. Nothing
    /// outside of the range is read.
    pub fn walk(
        &self,
        view: &mut View<'_>,
        range: Range<u64>,
        direction: Direction,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        let owner = (&self.collection.owner, self.len());
        let mut left = range.clone();
        let next = |left: &mut Range<u64>| match direction {
            Direction::Forward => left.next(),
            Direction::Backward => left.next_back(),
        };
        let (from, to) = (self.member(range.start), self.member(range.end));
        let mut ended = false;
        let mut visit_next = |member: &[u8], element: &[u8]| {
            match next(&mut left) {
                Some(index) if self.member(index) == *member => {
                    let flow = visit(index, element);
                    ended = flow.is_break();
                    flow
                }
                // An element is missing, or there is one too many.
                _ => ControlFlow::Break(()),
            }
        };
        let between = (&from[..], Some(&to[..]));
        if range.end.saturating_sub(range.start) > READ_SINGLY_MAX {
            view.scan_members(owner, Column::Data, between, direction, visit_next)?;
        } else if !view.scan_in_memory(owner, Column::Data, between, direction, &mut visit_next)? {
            while let Some(index) = next(&mut left) {
                let element = view.member(owner.0, Column::Data, &self.member(index))?;
                if visit(index, element.ok_or_else(damaged)?).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        if ended || left.is_empty() {
            Ok(())
        } else {
            Err(damaged())
        }
    }

    /// Adds an element at an end.
    pub fn push(&mut self, context: &mut Context<'_>, end: End, element: &[u8]) -> Outcome {
        let index = match end {
            End::Left => {
                self.head = self.head.checked_sub(1).ok_or_else(damaged)?;
                0
            }
            End::Right => self.len(),
        };
        self.collection.count += 1;
        self.put(context, index, element)
    }

    /// Takes the element at an end out and shows it to `taken`; there must be one.
    fn pop_with(&mut self, view: &mut View<'_>, end: End, taken: impl FnMut(&[u8])) -> Outcome {
        let last = self.len().checked_sub(1).ok_or(CommandError::Internal)?;
        let member = match end {
            End::Left => self.member(0),
            End::Right => self.member(last),
        };
        if !view.take_member(&self.collection.owner, Column::Data, &member, taken)? {
            return Err(damaged());
        }
        self.collection.count = last;
        if end == End::Left {
            self.head = self.head.wrapping_add(1);
        }
        Ok(())
    }

    /// Takes the element at an end out; there must be one.
    fn pop(&mut self, context: &mut Context<'_>, end: End) -> Result<Vec<u8>, CommandError> {
        let mut element = Vec::new();
        self.pop_with(&mut context.view, end, |taken| element.extend_from_slice(taken))?;
        Ok(element)
    }

    /// Deletes `count` elements, at most all, from an end.
    fn drop_outermost(&mut self, context: &mut Context<'_>, end: End, count: u64) -> Outcome {
        for index in self.outermost(end, count) {
            context.delete_member(&self.collection, Column::Data, &self.member(index))?;
        }
        self.collection.count -= count;
        if end == End::Left {
            self.head = self.head.wrapping_add(count);
        }
        Ok(())
    }

    /// Drops about `most` of the elements, at most, that do not lie at the `count` positions from `head` on, and saves
    /// the list. Calls `tell` with them, the outermost first.
    pub(super) fn narrow(
        &mut self,
        context: &mut Context<'_>,
        (head, count): (u64, u64),
        most: u64,
        tell: Option<TellRemoved>,
    ) -> Outcome {
        let before = head.wrapping_sub(self.head);
        let behind = (self.len() - count.min(self.len()))
            .checked_sub(before)
            .ok_or_else(damaged)?;
        let mut left = most;
        for (end, surplus) in [(End::Right, behind), (End::Left, before)] {
            let mut dropped = surplus.min(left);
            if let Some(tell) = tell {
                dropped = self.tell_outermost(context, end, dropped, tell)?;
            }
            self.drop_outermost(context, end, dropped)?;
            left -= dropped;
        }
        self.save(context)
    }

    /// Tells `count` elements next to an end, or fewer if they are long; returns how many.
    fn tell_outermost(
        &self,
        context: &mut Context<'_>,
        end: End,
        count: u64,
        tell: TellRemoved,
    ) -> Result<u64, CommandError> {
        let Context { view, reply, .. } = context;
        let (mut told, mut bytes) = (0, 0);
        self.walk(view, self.outermost(end, count), end.inwards(), |_, element| {
            tell(reply, element, 0.0);
            told += 1;
            bytes += element.len();
            match bytes < BYTES_PER_STEP {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(told)
    }

    /// Puts an element before the one at `index`, at most the length. The elements of the shorter side move by one
    /// position: as many are read and written.
    fn insert(&mut self, context: &mut Context<'_>, index: u64, element: Vec<u8>) -> Outcome {
        let len = self.len();
        let moved = match index <= len / 2 {
            true => 0..index,
            false => index..len,
        };
        let elements = self.without(context, moved.clone(), &[], Direction::Forward)?;
        let first = match moved.start {
            0 => {
                self.head = self.head.checked_sub(1).ok_or_else(damaged)?;
                0
            }
            start => start + 1,
        };
        self.collection.count += 1;
        for (index, element) in (first..).zip(elements) {
            self.put(context, index, &element)?;
        }
        self.put(context, index, &element)
    }

    /// The longest run of elements that are not at the indices `removed`: run k lies before the k-th of these, and the
    /// last one behind all. And how long it is.
    fn longest_run(&self, removed: &[u64]) -> (usize, u64) {
        let run_len = |run: usize| {
            let start = run.checked_sub(1).map_or(0, |before| removed[before] + 1);
            removed.get(run).copied().unwrap_or(self.len()) - start
        };
        let runs = (0..=removed.len()).map(|run| (run, run_len(run)));
        runs.max_by_key(|(_, len)| *len).unwrap_or_default()
    }

    /// How many elements [`List::remove`] moves or deletes.
    fn moved_by_removal(&self, removed: &[u64]) -> u64 {
        self.len() - self.longest_run(removed).1
    }

    /// Takes the elements at the indices `removed` (ascending) out. The longest run of others stays where it is; what
    /// is left of it moves right and what is right of it moves left: that many are read and written, at most all but
    /// the run.
    fn remove(&mut self, context: &mut Context<'_>, removed: &[u64]) -> Outcome {
        let len = self.len();
        let (longest, _) = self.longest_run(removed);
        let (left, right) = removed.split_at(longest);
        if let Some(first) = right.first().copied() {
            let moved = self.without(context, first..len, right, Direction::Forward)?;
            for (index, element) in (first..).zip(moved) {
                self.put(context, index, &element)?;
            }
        }
        if let Some(last) = left.last().copied() {
            let moved = self.without(context, 0..last + 1, left, Direction::Backward)?;
            for (index, element) in (0..=last).rev().zip(moved) {
                self.put(context, index, &element)?;
            }
        }
        self.drop_outermost(context, End::Right, right.len() as u64)?;
        self.drop_outermost(context, End::Left, left.len() as u64)
    }

    /// The elements of a range without those at the indices `removed` (ascending): they are about to be staged, which
    /// holds them in memory anyway.
    fn without(
        &self,
        context: &mut Context<'_>,
        range: Range<u64>,
        removed: &[u64],
        direction: Direction,
    ) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut elements = Vec::new();
        self.walk(&mut context.view, range, direction, |index, element| {
            if removed.binary_search(&index).is_err() {
                elements.push(element.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        Ok(elements)
    }

    /// A new empty list in place of this one, with its deadline.
    fn successor(&self, context: &mut Context<'_>) -> Result<List, CommandError> {
        let mut list = List::create(context, &self.collection.owner.key)?;
        list.collection.deadline_ms = self.collection.deadline_ms;
        Ok(list)
    }

    /// Writes the `count` elements next to an end into the reply, the outermost first, and takes them out.
    fn pop_into_reply(&mut self, context: &mut Context<'_>, end: End, count: u64) -> Outcome {
        context.reply.array(count as usize);
        self.walk_into_reply(context, self.outermost(end, count), end.inwards())?;
        self.drop_outermost(context, end, count)?;
        self.save_after(context, end.pop_event())
    }

    fn walk_into_reply(&self, context: &mut Context<'_>, range: Range<u64>, direction: Direction) -> Outcome {
        let Context { view, reply, .. } = context;
        self.walk(view, range, direction, |_, element| {
            reply.bulk(element);
            ControlFlow::Continue(())
        })
    }
}

fn damaged() -> CommandError {
    CommandError::text("ERR the stored elements of this list are damaged")
}

/// LPUSH key element [element …]
pub fn lpush(context: &mut Context<'_>) -> Outcome {
    push_generic(context, End::Left, false)
}

/// RPUSH key element [element …]
pub fn rpush(context: &mut Context<'_>) -> Outcome {
    push_generic(context, End::Right, false)
}

/// LPUSHX key element [element …]
pub fn lpushx(context: &mut Context<'_>) -> Outcome {
    push_generic(context, End::Left, true)
}

/// RPUSHX key element [element …]
pub fn rpushx(context: &mut Context<'_>) -> Outcome {
    push_generic(context, End::Right, true)
}

/// LPUSH, RPUSH, LPUSHX and RPUSHX.
fn push_generic(context: &mut Context<'_>, end: End, must_exist: bool) -> Outcome {
    let arguments = context.arguments;
    let key = arguments.get(1);
    let mut list = match List::open(context, key)? {
        Some(list) => list,
        None if must_exist => {
            context.reply.integer(0);
            return Ok(());
        }
        None => List::create(context, key)?,
    };
    for element in arguments.iter().skip(2) {
        list.push(context, end, element)?;
    }
    list.save_after(context, end.push_event())?;
    context.reply.integer(list.len() as i64);
    Ok(())
}

/// LPOP key [count]
pub fn lpop(context: &mut Context<'_>) -> Outcome {
    pop_generic(context, End::Left, "lpop")
}

/// RPOP key [count]
pub fn rpop(context: &mut Context<'_>) -> Outcome {
    pop_generic(context, End::Right, "rpop")
}

/// LPOP and RPOP; `command` is for the error's text.
fn pop_generic(context: &mut Context<'_>, end: End, command: &str) -> Outcome {
    let arguments = context.arguments;
    let count = match arguments.len() {
        2 => None,
        3 => Some(at_least(
            arguments.get(2),
            0,
            "ERR value is out of range, must be positive",
        )?),
        _ => return Err(CommandError::Arity(command.to_owned())),
    };
    match (List::open(context, arguments.get(1))?, count) {
        (None, None) => context.reply.null(),
        (None, Some(_)) => context.reply.null_array(),
        (Some(_), Some(0)) => context.reply.array(0),
        (Some(list), Some(count)) => {
            let count = count.min(list.len());
            pop_several(context, list, (end, count), |_| {})?;
        }
        (Some(mut list), None) => {
            let Context { view, reply, .. } = context;
            list.pop_with(view, end, |element| reply.bulk(element))?;
            list.save_after(context, end.pop_event())?;
        }
    }
    Ok(())
}

/// Replies what `first` writes and the `count` elements next to an end, the outermost first, and takes them out.
fn pop_several(
    context: &mut Context<'_>,
    mut list: List,
    (end, count): (End, u64),
    first: impl FnOnce(&mut Reply<'_>) + Send + 'static,
) -> Outcome {
    if !context.works_in_steps(count) {
        first(&mut context.reply);
        return list.pop_into_reply(context, end, count);
    }
    let head = match end {
        End::Left => list.head.wrapping_add(count),
        End::Right => list.head,
    };
    let remains = Remains::Window {
        head,
        count: list.len() - count,
    };
    let first = move |reply: &mut Reply<'_>| {
        first(reply);
        reply.array(count as usize);
    };
    let tell: TellRemoved = |reply, element, _| reply.bulk(element);
    let removal = Removal::new(list.collection, remains).telling(first, tell);
    removal.run(context, count, move |context, removal| {
        context.notify_of(end.pop_event(), &removal.collection);
        Ok(())
    })
}

/// An argument as an integer of at least `min`, which is not negative; `otherwise` is the error's text.
fn at_least(argument: &[u8], min: u64, otherwise: &'static str) -> Result<u64, CommandError> {
    parse_integer(argument)
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| *number >= min)
        .ok_or(CommandError::text(otherwise))
}

/// LLEN key
pub fn llen(context: &mut Context<'_>) -> Outcome {
    let list = List::open(context, context.arguments.get(1))?;
    context.reply.integer(list.map_or(0, |list| list.len() as i64));
    Ok(())
}

/// LRANGE key start stop
pub fn lrange(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (start, stop) = (integer(arguments.get(2))?, integer(arguments.get(3))?);
    let Some(list) = List::open(context, arguments.get(1))? else {
        context.reply.array(0);
        return Ok(());
    };
    let range = list.range(start, stop);
    let count = range.end - range.start;
    context.reply.array(count as usize);
    if count <= READ_SINGLY_MAX {
        return list.walk_into_reply(context, range, Direction::Forward);
    }
    let (from, to) = (list.member(range.start), list.member(range.end));
    context.reply_members(
        &list.collection,
        Column::Data,
        (&from, Some(&to)),
        Direction::Forward,
        (count, |reply, _, element, _| {
            reply.bulk(element);
            true
        }),
    )
}

/// LINDEX key index
pub fn lindex(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let Some(list) = List::open(context, arguments.get(1))? else {
        context.reply.null();
        return Ok(());
    };
    match list.index(integer(arguments.get(2))?) {
        Some(index) => list.walk_into_reply(context, index..index + 1, Direction::Forward)?,
        None => context.reply.null(),
    }
    Ok(())
}

/// LSET key index element
pub fn lset(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let list = List::open(context, arguments.get(1))?.ok_or(CommandError::NoSuchKey)?;
    let index = list
        .index(integer(arguments.get(2))?)
        .ok_or(CommandError::text("ERR index out of range"))?;
    list.put(context, index, arguments.get(3))?;
    context.notify_of("lset", &list.collection);
    context.reply.ok();
    Ok(())
}

/// LINSERT key BEFORE | AFTER pivot element
pub fn linsert(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let after = match arguments.get(2) {
        side if is_option(side, "BEFORE") => 0,
        side if is_option(side, "AFTER") => 1,
        _ => return Err(CommandError::Syntax),
    };
    let Some(list) = List::open(context, arguments.get(1))? else {
        context.reply.integer(0);
        return Ok(());
    };
    let sought = Sought {
        skipped: 0,
        matches_max: 1,
        looked_at_max: list.len(),
        direction: Direction::Forward,
    };
    let element = arguments.get(4).to_vec();
    let search = Search::new(list, arguments.get(3), &sought);
    search.run(context, true, move |steps, search| async move {
        let Search { list, found, .. } = search;
        let Some(index) = found.first().map(|pivot| pivot + after) else {
            return steps.run(|context| reply_count(context, -1)).await;
        };
        let is_moved = !steps.are_left() || index.min(list.len() - index) <= members_at_once_max();
        let mut list = list;
        let mut element = Some(element);
        if !is_moved {
            let new = Part::New(element.take().unwrap_or_default());
            let parts = [Part::Old(0..index), new, Part::Old(index..list.len())];
            list = rebuild(&steps, list, parts.into_iter()).await?;
        }
        let finish = move |context: &mut Context<'_>| {
            if let Some(element) = element {
                list.insert(context, index, element)?;
            }
            list.save_after(context, "linsert")?;
            reply_count(context, list.len() as i64)
        };
        steps.run(finish).await
    })
}

fn reply_count(context: &mut Context<'_>, count: i64) -> Outcome {
    context.reply.integer(count);
    Ok(())
}

/// How LINSERT, LREM and LPOS look for elements that equal one.
struct Sought {
    /// Matches that do not count.
    skipped: u64,
    /// How many matches are wanted.
    matches_max: u64,
    /// How many elements are looked at.
    looked_at_max: u64,
    direction: Direction,
}

/// A search for elements that equal one.
struct Search {
    list: List,
    element: Vec<u8>,
    skipped: u64,
    matches_max: u64,
    direction: Direction,
    /// The indices that are still to be looked at.
    left: Range<u64>,
    /// The indices of the matches in the order in which they are found.
    found: Vec<u64>,
}

impl Search {
    fn new(list: List, element: &[u8], sought: &Sought) -> Search {
        let looked_at = sought.looked_at_max.min(list.len());
        let left = match sought.direction {
            Direction::Forward => list.outermost(End::Left, looked_at),
            Direction::Backward => list.outermost(End::Right, looked_at),
        };
        Search {
            list,
            element: element.to_vec(),
            skipped: sought.skipped,
            matches_max: sought.matches_max,
            direction: sought.direction,
            left,
            found: Vec::new(),
        }
    }

    /// Looks at `most` elements at most.
    fn go_on(&mut self, context: &mut Context<'_>, most: u64) -> Outcome {
        let Range { start, end } = self.left;
        let most = most.min(end - start);
        let range = match self.direction {
            Direction::Forward => start..start + most,
            Direction::Backward => end - most..end,
        };
        self.left = match self.direction {
            Direction::Forward => range.end..end,
            Direction::Backward => start..range.start,
        };
        let Search {
            list,
            element: sought,
            skipped,
            matches_max,
            found,
            ..
        } = self;
        list.walk(&mut context.view, range, self.direction, |index, element| {
            if *element == **sought {
                match *skipped {
                    0 => found.push(index),
                    _ => *skipped -= 1,
                }
            }
            match (found.len() as u64) < *matches_max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        if self.found.len() as u64 >= self.matches_max {
            self.left = 0..0;
        }
        Ok(())
    }

    /// Searches to the end and does what comes `then`, in steps if that takes long. The list `is_written` then.
    fn run<F: Future<Output = Outcome> + Send + 'static>(
        mut self,
        context: &mut Context<'_>,
        is_written: bool,
        then: impl FnOnce(Steps, Search) -> F + Send + 'static,
    ) -> Outcome {
        let at_once = match context.may_take_steps {
            true => members_at_once_max(),
            false => u64::MAX,
        };
        self.go_on(context, at_once)?;
        // Otherwise the list is short, or what was found lies near an end: few elements move.
        let members = if self.left.is_empty() { 0 } else { self.list.len() };
        let owner = &self.list.collection.owner;
        let writes = match is_written {
            true => vec![(owner.database, owner.key.clone())],
            false => Vec::new(),
        };
        context.in_steps((members, writes), |steps| async move {
            let mut search = self;
            while !search.left.is_empty() {
                let step = move |context: &mut Context<'_>| {
                    search.go_on(context, members_per_step() as u64)?;
                    Ok(search)
                };
                search = steps.run(step).await?;
            }
            then(steps, search).await
        })
    }
}

/// LREM key count element
pub fn lrem(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let count = integer(arguments.get(2))?;
    let Some(list) = List::open(context, arguments.get(1))? else {
        context.reply.integer(0);
        return Ok(());
    };
    let sought = Sought {
        skipped: 0,
        matches_max: match count {
            0 => u64::MAX,
            count => count.unsigned_abs(),
        },
        looked_at_max: list.len(),
        direction: match count < 0 {
            true => Direction::Backward,
            false => Direction::Forward,
        },
    };
    let search = Search::new(list, arguments.get(3), &sought);
    search.run(context, true, |steps, search| async move {
        let Search {
            mut list,
            found: mut removed,
            direction,
            ..
        } = search;
        if direction == Direction::Backward {
            removed.reverse();
        }
        let count = removed.len();
        let is_moved = !steps.are_left() || list.moved_by_removal(&removed) <= members_at_once_max();
        if !is_moved {
            let removed = std::mem::take(&mut removed);
            let len = list.len();
            let runs = (0..=count).map(move |run| {
                let start = run.checked_sub(1).map_or(0, |before| removed[before] + 1);
                Part::Old(start..removed.get(run).copied().unwrap_or(len))
            });
            list = rebuild(&steps, list, runs).await?;
        }
        let finish = move |context: &mut Context<'_>| {
            if count > 0 {
                if is_moved {
                    list.remove(context, &removed)?;
                }
                list.save_after(context, "lrem")?;
            }
            reply_count(context, count as i64)
        };
        steps.run(finish).await
    })
}

/// LTRIM key start stop
pub fn ltrim(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (start, stop) = (integer(arguments.get(2))?, integer(arguments.get(3))?);
    match List::open(context, arguments.get(1))? {
        Some(list) => {
            let range = list.range(start, stop);
            keep(context, list, range)
        }
        None => {
            context.reply.ok();
            Ok(())
        }
    }
}

/// Keeps the elements of a range only, at the cost of those that leave or of those that stay, whichever are fewer: if
/// few stay, they are written under a new version, which hides the old one at once.
fn keep(context: &mut Context<'_>, list: List, range: Range<u64>) -> Outcome {
    let stay = range.end - range.start;
    let leave = list.len() - stay;
    if stay >= leave {
        let remains = Remains::Window {
            head: list.head.wrapping_add(range.start),
            count: stay,
        };
        // Clients that watch the key see a change even if nothing is trimmed.
        return Removal::new(list.collection, remains).run(context, leave, |context, removal| {
            context.notify_of("ltrim", &removal.collection);
            context.reply.ok();
            Ok(())
        });
    }
    let owner = &list.collection.owner;
    let writes = vec![(owner.database, owner.key.clone())];
    context.in_steps((stay, writes), |steps| async move {
        let mut list = rebuild(&steps, list, std::iter::once(Part::Old(range))).await?;
        let finish = move |context: &mut Context<'_>| {
            list.save_after(context, "ltrim")?;
            context.reply.ok();
            Ok(())
        };
        steps.run(finish).await
    })
}

/// A part of a list that is made.
enum Part {
    /// The elements at these indices of the list in whose place it comes.
    Old(Range<u64>),
    /// Another element.
    New(Vec<u8>),
}

/// A list that is made of parts, in place of another and under a new version.
struct Rebuilt<P> {
    /// `None` before its first element, which is written in the step that makes the list: then it is in memory from the
    /// beginning.
    list: Option<List>,
    /// The indices of what is left of the part that comes first.
    old: Range<u64>,
    parts: P,
}

/// Makes a list of `parts` in place of another, under a new version. It is there once it is saved.
async fn rebuild(
    steps: &Steps,
    old: List,
    parts: impl Iterator<Item = Part> + Send + 'static,
) -> Result<List, CommandError> {
    let old = Arc::new(old);
    let mut rebuilt = Rebuilt {
        list: None,
        old: 0..0,
        parts,
    };
    loop {
        let old = Arc::clone(&old);
        let step = steps.run(move |context| {
            let is_whole = rebuilt.copy_some(context, &old)?;
            Ok((rebuilt, is_whole))
        });
        let (next, is_whole) = step.await?;
        if is_whole {
            return next.list.ok_or(CommandError::Internal);
        }
        rebuilt = next;
    }
}

impl<P: Iterator<Item = Part>> Rebuilt<P> {
    /// Appends some elements. Returns whether there are no more.
    fn copy_some(&mut self, context: &mut Context<'_>, old: &List) -> Result<bool, CommandError> {
        let list = match &mut self.list {
            Some(list) => list,
            None => self.list.insert(old.successor(context)?),
        };
        let (mut members, mut bytes) = (0, 0);
        while members < members_per_step() && bytes < BYTES_PER_STEP {
            let end = self.old.end.min(self.old.start + READ_SINGLY_MAX);
            let mut elements = match self.old.is_empty() {
                true => Vec::new(),
                false => old.without(context, self.old.start..end, &[], Direction::Forward)?,
            };
            self.old.start = end;
            if elements.is_empty() {
                members += 1;
                match self.parts.next() {
                    None => return Ok(true),
                    Some(Part::Old(range)) => self.old = range,
                    Some(Part::New(element)) => elements.push(element),
                }
            }
            for element in elements {
                members += 1;
                bytes += element.len();
                list.push(context, End::Right, &element)?;
            }
        }
        Ok(false)
    }
}

/// LPOS's options.
struct PositionOptions {
    rank: i64,
    count: Option<u64>,
    looked_at_max: u64,
}

impl PositionOptions {
    fn parse<'a>(mut rest: impl Iterator<Item = &'a [u8]>) -> Result<PositionOptions, CommandError> {
        let mut options = PositionOptions {
            rank: 1,
            count: None,
            looked_at_max: u64::MAX,
        };
        while let Some(option) = rest.next() {
            let argument = rest.next().ok_or(CommandError::Syntax)?;
            match option {
                _ if is_option(option, "RANK") => options.rank = rank(argument)?,
                _ if is_option(option, "COUNT") => {
                    options.count = Some(at_least(argument, 0, "ERR COUNT can't be negative")?);
                }
                _ if is_option(option, "MAXLEN") => {
                    options.looked_at_max = match at_least(argument, 0, "ERR MAXLEN can't be negative")? {
                        0 => u64::MAX,
                        count => count,
                    };
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(options)
    }
}

fn rank(argument: &[u8]) -> Result<i64, CommandError> {
    match integer(argument)? {
        i64::MIN => Err(CommandError::text(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        ))),
        0 => Err(CommandError::text(
            "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to \
             start from the end of the list",
        )),
        rank => Ok(rank),
    }
}

/// LPOS key element [RANK rank] [COUNT matches] [MAXLEN elements]
pub fn lpos(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let options = PositionOptions::parse(arguments.iter().skip(3))?;
    let is_one = options.count.is_none();
    let Some(list) = List::open(context, arguments.get(1))? else {
        match is_one {
            true => context.reply.null(),
            false => context.reply.array(0),
        }
        return Ok(());
    };
    let sought = Sought {
        skipped: options.rank.unsigned_abs() - 1,
        matches_max: match options.count {
            None => 1,
            Some(0) => u64::MAX,
            Some(count) => count,
        },
        looked_at_max: options.looked_at_max,
        direction: match options.rank < 0 {
            true => Direction::Backward,
            false => Direction::Forward,
        },
    };
    let search = Search::new(list, arguments.get(2), &sought);
    search.run(context, false, move |steps, Search { found, .. }| async move {
        if is_one {
            let reply = move |context: &mut Context<'_>| {
                match found.first() {
                    None => context.reply.null(),
                    Some(index) => context.reply.integer(*index as i64),
                }
                Ok(())
            };
            return steps.run(reply).await;
        }
        let count = found.len();
        let first = move |context: &mut Context<'_>| {
            context.reply.array(count);
            Ok(())
        };
        steps.run(first).await?;
        let reply = |context: &mut Context<'_>, (): &mut (), index| reply_count(context, index as i64);
        steps.run_with_each(found, (), reply).await
    })
}

/// LMOVE source destination LEFT | RIGHT LEFT | RIGHT
pub fn lmove(context: &mut Context<'_>) -> Outcome {
    let (from, to) = (
        End::parse(context.arguments.get(3))?,
        End::parse(context.arguments.get(4))?,
    );
    move_or_null(context, from, to)
}

/// BLMOVE source destination LEFT | RIGHT LEFT | RIGHT timeout
pub fn blmove(context: &mut Context<'_>) -> Outcome {
    let (from, to) = (
        End::parse(context.arguments.get(3))?,
        End::parse(context.arguments.get(4))?,
    );
    let timeout_ms = timeout_of_seconds(context.arguments.get(5), context.now_ms)?;
    move_or_wait(context, (from, to), timeout_ms)
}

/// BRPOPLPUSH source destination timeout
pub fn brpoplpush(context: &mut Context<'_>) -> Outcome {
    let timeout_ms = timeout_of_seconds(context.arguments.get(3), context.now_ms)?;
    move_or_wait(context, (End::Right, End::Left), timeout_ms)
}

/// BLMOVE and BRPOPLPUSH, which wait for the source.
fn move_or_wait(context: &mut Context<'_>, (from, to): (End, End), timeout_ms: u64) -> Outcome {
    if !move_generic(context, from, to)? {
        context.reply.null();
        context.waits = Some(Box::new(Waiting::for_keys(1..2, Type::List, timeout_ms)));
    }
    Ok(())
}

/// LMOVE and RPOPLPUSH.
fn move_or_null(context: &mut Context<'_>, from: End, to: End) -> Outcome {
    if !move_generic(context, from, to)? {
        context.reply.null();
    }
    Ok(())
}

/// RPOPLPUSH source destination
pub fn rpoplpush(context: &mut Context<'_>) -> Outcome {
    move_or_null(context, End::Right, End::Left)
}

/// LMOVE, RPOPLPUSH and those that wait; false without a reply if there is nothing to move.
fn move_generic(context: &mut Context<'_>, from: End, to: End) -> Result<bool, CommandError> {
    let (source_key, target_key) = (context.arguments.get(1), context.arguments.get(2));
    let Some(mut source) = List::open(context, source_key)? else {
        return Ok(false);
    };
    let element = if source_key == target_key {
        // Within one list, which is never empty meanwhile, so that it keeps its deadline.
        let element = source.pop(context, from)?;
        source.push(context, to, &element)?;
        source.save(context)?;
        context.notify_of(to.push_event(), &source.collection);
        context.notify_of(from.pop_event(), &source.collection);
        element
    } else {
        let mut target = List::open_or_new(context, target_key)?;
        let element = source.pop(context, from)?;
        target.push(context, to, &element)?;
        target.save_after(context, to.push_event())?;
        source.save_after(context, from.pop_event())?;
        element
    };
    context.reply.bulk(&element);
    Ok(true)
}

/// BLPOP key [key …] timeout
pub fn blpop(context: &mut Context<'_>) -> Outcome {
    pop_or_wait(context, End::Left)
}

/// BRPOP key [key …] timeout
pub fn brpop(context: &mut Context<'_>) -> Outcome {
    pop_or_wait(context, End::Right)
}

/// BLPOP and BRPOP.
fn pop_or_wait(context: &mut Context<'_>, end: End) -> Outcome {
    let arguments = context.arguments;
    let keys = 1..arguments.len() - 1;
    let timeout_ms = timeout_of_seconds(arguments.get(keys.end), context.now_ms)?;
    for key in arguments.iter().skip(keys.start).take(keys.len()) {
        if let Some(mut list) = List::open(context, key)? {
            let element = list.pop(context, end)?;
            list.save_after(context, end.pop_event())?;
            context.reply.array(2);
            context.reply.bulk(key);
            context.reply.bulk(&element);
            return Ok(());
        }
    }
    context.reply.null_array();
    context.waits = Some(Box::new(Waiting::for_keys(keys, Type::List, timeout_ms)));
    Ok(())
}

/// LMPOP numkeys key [key …] LEFT | RIGHT [COUNT count]
pub fn lmpop(context: &mut Context<'_>) -> Outcome {
    let options = MultiPop::parse(context.arguments)?;
    if !options.pop(context, context.arguments)? {
        context.reply.null_array();
    }
    Ok(())
}

/// BLMPOP timeout numkeys key [key …] LEFT | RIGHT [COUNT count]
pub fn blmpop(context: &mut Context<'_>) -> Outcome {
    // From the timeout on they are as LMPOP's from its name on.
    let arguments = context.arguments.from(1);
    let options = MultiPop::parse(arguments)?;
    let timeout_ms = timeout_of_seconds(arguments.get(0), context.now_ms)?;
    if !options.pop(context, arguments)? {
        context.reply.null_array();
        let keys = 3..3 + options.key_count;
        context.waits = Some(Box::new(Waiting::for_keys(keys, Type::List, timeout_ms)));
    }
    Ok(())
}

/// What LMPOP and BLMPOP were asked.
struct MultiPop {
    key_count: usize,
    end: End,
    count: u64,
}

impl MultiPop {
    /// Reads LMPOP's arguments.
    fn parse(arguments: Arguments<'_>) -> Result<MultiPop, CommandError> {
        let key_count = at_least(arguments.get(1), 1, "ERR numkeys should be greater than 0")?;
        let key_count = usize::try_from(key_count).map_err(|_| CommandError::Syntax)?;
        if key_count >= arguments.len() - 2 {
            return Err(CommandError::Syntax);
        }
        let end = End::parse(arguments.get(2 + key_count))?;
        let mut count = None;
        let mut rest = arguments.iter().skip(3 + key_count);
        while let Some(option) = rest.next() {
            let argument = rest.next().ok_or(CommandError::Syntax)?;
            if count.is_some() || !is_option(option, "COUNT") {
                return Err(CommandError::Syntax);
            }
            count = Some(at_least(argument, 1, "ERR count should be greater than 0")?);
        }
        Ok(MultiPop {
            key_count,
            end,
            count: count.unwrap_or(1),
        })
    }

    /// Pops from the first list that is there; false without a reply if there is none.
    fn pop(&self, context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<bool, CommandError> {
        for key in arguments.iter().skip(2).take(self.key_count) {
            if let Some(list) = List::open(context, key)? {
                let (count, name) = (self.count.min(list.len()), key.to_vec());
                pop_several(context, list, (self.end, count), move |reply| {
                    reply.array(2);
                    reply.bulk(&name);
                })?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
