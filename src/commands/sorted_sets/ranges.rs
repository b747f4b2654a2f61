//! Commands on stretches of a sorted set: by ranks, by scores, or by names among members with one score.

use super::{Entry, Outcome, Stretch, ranking, read_entries, reply_entry, reply_header, store_sorted_set};
use crate::commands::Context;
use crate::commands::arguments::{integer, is_option};
use crate::commands::collection::{Collection, Column, Direction, Part};
use crate::commands::removals::{Remains, Removal};
use crate::commands::steps::members_at_once_max;
use crate::error::CommandError;
use crate::number::parse_double;
use crate::protocol::{Arguments, Reply};
use crate::storage::encoding::{SCORE_MEMBERS, ordered_score, score_key, split_score_key};
use crate::storage::pieces::{Extent, WriteMember};
use std::ops::ControlFlow;

/// What a range's ends are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// A range as ZRANGE and its relatives are given it.
struct Request {
    bounds: Bounds,
    direction: Direction,
    /// Passed over first, and given at most; negative: nothing is found, and no limit.
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

/// A range's ends.
enum Bounds {
    /// From the first rank to the last, negative ones counted from the end.
    Ranks(i64, i64),
    /// Keys of `score`, from the first to before the second.
    Keys(Vec<u8>, Vec<u8>),
    /// Names, among members with one score.
    Names(NameBound, NameBound),
}

/// One end of a range of names.
enum NameBound {
    Lowest,
    Highest,
    Inclusive(Vec<u8>),
    Exclusive(Vec<u8>),
}

/// What a command of the family lets its options say.
#[derive(Clone, Copy)]
struct Grammar {
    /// What the range is by; `None`: BYSCORE and BYLEX may say it.
    by: Option<By>,
    /// The direction; `None`: REV may say it.
    direction: Option<Direction>,
    /// Whether the command stores what it finds: no WITHSCORES.
    stores: bool,
}

impl Request {
    /// Reads `min max [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`.
    fn parse(arguments: Arguments<'_>, grammar: Grammar) -> Result<Request, CommandError> {
        let (mut by, mut direction) = (grammar.by, grammar.direction);
        let (mut limit, mut with_scores) = (None, false);
        let mut rest = arguments.iter().skip(2);
        while let Some(option) = rest.next() {
            match option {
                _ if is_option(option, "WITHSCORES") && !grammar.stores => with_scores = true,
                _ if is_option(option, "LIMIT") && rest.len() >= 2 => {
                    let mut number = || integer(rest.next().unwrap_or_default());
                    limit = Some((number()?, number()?));
                }
                _ if is_option(option, "REV") && direction.is_none() => direction = Some(Direction::Backward),
                _ if is_option(option, "BYLEX") && by.is_none() => by = Some(By::Name),
                _ if is_option(option, "BYSCORE") && by.is_none() => by = Some(By::Score),
                _ => return Err(CommandError::Syntax),
            }
        }
        let by = by.unwrap_or(By::Rank);
        // LIMIT with a count of -1 is as good as none, says Redis.
        if by == By::Rank && limit.is_some_and(|(_, count)| count != -1) {
            return Err(CommandError::text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if by == By::Name && with_scores {
            return Err(CommandError::text(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let direction = direction.unwrap_or(Direction::Forward);
        let (mut min, mut max) = (arguments.get(0), arguments.get(1));
        if direction == Direction::Backward && by != By::Rank {
            std::mem::swap(&mut min, &mut max);
        }
        Ok(Request {
            bounds: Bounds::parse(by, min, max)?,
            direction,
            limit: limit.filter(|_| by != By::Rank),
            with_scores,
        })
    }

    /// Where the range lies in a set; `None` if it is empty.
    fn stretch(&self, context: &mut Context<'_>, set: &Collection) -> Result<Option<Stretch>, CommandError> {
        let Request { direction, limit, .. } = *self;
        if let Bounds::Ranks(first, last) = self.bounds {
            return match rank_range(first, last, set.count) {
                // Seen from the end, the first rank is the highest.
                Some((first, take)) if direction == Direction::Backward => {
                    ranking::stretch_at(context, set, set.count - 1 - first, take, direction).map(Some)
                }
                Some((first, take)) => ranking::stretch_at(context, set, first, take, direction).map(Some),
                None => Ok(None),
            };
        }
        let (offset, take) = limit.unwrap_or((0, -1));
        let (Ok(skip), take) = (u64::try_from(offset), u64::try_from(take).unwrap_or(u64::MAX)) else {
            return Ok(None);
        };
        let Some((from, to)) = self.bounds.keys(context, set)? else {
            return self.bounds.run(context, set, direction, (skip, take));
        };
        if skip > ranking::BLOCK_MEMBERS_MAX {
            return far_stretch(context, set, (&from, &to), (skip, take), direction);
        }
        Ok(Some(Stretch {
            from,
            to,
            direction,
            skip,
            take,
        }))
    }
}

impl Request {
    /// Answers the members of a stretch that [`Request::stretch`] found.
    fn reply_stretch(&self, context: &mut Context<'_>, set: &Collection, stretch: &Stretch) -> Outcome {
        let (from, to) = ranking::within_ends(set, stretch)?;
        let part = Part {
            collection: set,
            column: Column::Score,
            range: (&from, Some(&to)),
            direction: stretch.direction,
            skip: stretch.skip,
        };
        let write: WriteMember = match self.with_scores {
            true => |reply, key, _, _| reply_key(reply, key, true),
            false => |reply, key, _, _| reply_key(reply, key, false),
        };
        // The header says how many there are, which is only known behind them, or costs two ranks.
        if let Some(said) = context.say_little(&part, stretch.take, write)? {
            if said.others > 0 {
                return Err(super::damaged());
            }
            reply_header(&mut context.reply, said.members as usize, self.with_scores);
            context.reply.raw(&said.reply);
            return Ok(());
        }
        let count = match self.bounds {
            Bounds::Ranks(..) => stretch.take,
            Bounds::Keys(..) | Bounds::Names(..) => {
                let found = ranking::count(context, set, &stretch.from, &stretch.to)?;
                found.saturating_sub(stretch.skip).min(stretch.take)
            }
        };
        reply_header(&mut context.reply, count as usize, self.with_scores);
        context.reply_in_pieces(&part, Extent::Known(count), write)
    }
}

/// Writes the member that a key of `score` names; whether it does.
fn reply_key(reply: &mut Reply<'_>, key: &[u8], with_scores: bool) -> bool {
    match split_score_key(key) {
        Some((score, member)) => {
            reply_entry(reply, score, member, with_scores);
            true
        }
        None => false,
    }
}

/// A stretch that begins far from its range's end: found by rank, so that nobody walks there.
fn far_stretch(
    context: &mut Context<'_>,
    set: &Collection,
    (from, to): (&[u8], &[u8]),
    (skip, take): (u64, u64),
    direction: Direction,
) -> Result<Option<Stretch>, CommandError> {
    if from >= to {
        return Ok(None);
    }
    let low = ranking::rank(context, set, from)?;
    let found = ranking::rank(context, set, to)?.saturating_sub(low);
    if skip >= found {
        return Ok(None);
    }
    let rank = match direction {
        Direction::Forward => low + skip,
        Direction::Backward => low + found - 1 - skip,
    };
    ranking::stretch_at(context, set, rank, take.min(found - skip), direction).map(Some)
}

/// The first rank of a range, and how many there are from it on; `None` for an empty range.
fn rank_range(first: i64, last: i64, count: u64) -> Option<(u64, u64)> {
    let count = count as i64;
    let from_start = |rank: i64| if rank < 0 { count.saturating_add(rank) } else { rank };
    let first = from_start(first).max(0);
    let last = from_start(last).min(count - 1);
    (first <= last).then(|| (first as u64, (last - first + 1) as u64))
}

/// Two keys of `score`: the first of a range, and the one behind its last.
type KeysBetween = (Vec<u8>, Vec<u8>);

impl Bounds {
    fn parse(by: By, min: &[u8], max: &[u8]) -> Result<Bounds, CommandError> {
        match by {
            By::Rank => Ok(Bounds::Ranks(integer(min)?, integer(max)?)),
            By::Score => Bounds::parse_scores(min, max),
            By::Name => Bounds::parse_names(min, max),
        }
    }

    fn parse_scores(min: &[u8], max: &[u8]) -> Result<Bounds, CommandError> {
        let (Some((min, min_excluded)), Some((max, max_excluded))) = (parse_score(min), parse_score(max)) else {
            return Err(CommandError::text("ERR min or max is not a float"));
        };
        // No number is ordered last, so there is always a next one.
        let to = score_key(ordered_score(max) + u64::from(!max_excluded), b"");
        let from = match (min, min_excluded) {
            (f64::NEG_INFINITY, false) => SCORE_MEMBERS.0.to_vec(),
            _ => score_key(ordered_score(min) + u64::from(min_excluded), b""),
        };
        Ok(Bounds::Keys(from, to))
    }

    fn parse_names(min: &[u8], max: &[u8]) -> Result<Bounds, CommandError> {
        match (NameBound::parse(min), NameBound::parse(max)) {
            (Some(min), Some(max)) => Ok(Bounds::Names(min, max)),
            _ => Err(CommandError::text("ERR min or max not valid string range item")),
        }
    }

    /// The keys of `score` from the first to before the second; `None` for names among members of different scores,
    /// which are not in the order of their names.
    fn keys(&self, context: &mut Context<'_>, set: &Collection) -> Result<Option<KeysBetween>, CommandError> {
        let (min, max) = match self {
            Bounds::Keys(from, to) => return Ok(Some((from.clone(), to.clone()))),
            Bounds::Names(min, max) => (min, max),
            Bounds::Ranks(..) => return Err(CommandError::Internal),
        };
        let [all_from, all_to] = [SCORE_MEMBERS.0.to_vec(), SCORE_MEMBERS.1.to_vec()];
        if matches!(min, NameBound::Highest) || matches!(max, NameBound::Lowest) {
            return Ok(Some((all_from.clone(), all_from)));
        }
        if matches!((min, max), (NameBound::Lowest, NameBound::Highest)) {
            return Ok(Some((all_from, all_to)));
        }
        let score = end_of(context, set, Direction::Forward)?.score;
        if score != end_of(context, set, Direction::Backward)?.score {
            return Ok(None);
        }
        let key_of = |name: Vec<u8>| score_key(ordered_score(score), &name);
        let from = min.after_name(false).map_or(all_from, key_of);
        Ok(Some((from, max.after_name(true).map_or(all_to, key_of))))
    }

    /// What a range of names is among members of different scores, which Redis leaves open: there and here the members
    /// that follow each other and lie inside, from the first one on (or the last one down) that its walk finds. Nothing
    /// is found if the outermost members lie on the wrong sides, since names are taken to be in order.
    fn run(
        &self,
        context: &mut Context<'_>,
        set: &Collection,
        direction: Direction,
        (skip, take): (u64, u64),
    ) -> Result<Option<Stretch>, CommandError> {
        let Bounds::Names(min, max) = self else {
            return Err(CommandError::Internal);
        };
        // Seen in the direction of the walk.
        let from_min = |name: &[u8]| min.is_below(name);
        let to_max = |name: &[u8]| max.is_above(name);
        let (has_begun, has_not_ended): (NameTest<'_>, NameTest<'_>) = match direction {
            Direction::Forward => (&from_min, &to_max),
            Direction::Backward => (&to_max, &from_min),
        };
        let near = end_of(context, set, direction)?;
        let far = end_of(context, set, direction.reversed())?;
        if !has_not_ended(&near.member) || !has_begun(&far.member) {
            return Ok(None);
        }
        let rank_of = |step: u64| match direction {
            Direction::Forward => step,
            Direction::Backward => set.count - 1 - step,
        };
        let first = first_step(context, set, direction, has_begun)?;
        let found = context.entries_at(set, &[rank_of(first)])?;
        let start = first.saturating_add(skip);
        if !found.iter().all(|entry| has_not_ended(&entry.member)) || start >= set.count {
            return Ok(None);
        }
        let stretch = ranking::stretch_at(context, set, rank_of(start), take, direction)?;
        let (mut outermost, mut last) = (None, Vec::new());
        context.walk(set, &stretch, |_, score, member| {
            if !has_not_ended(member) {
                return ControlFlow::Break(());
            }
            last = score_key(ordered_score(score), member);
            outermost.get_or_insert_with(|| last.clone());
            ControlFlow::Continue(())
        })?;
        let Some(outermost) = outermost else { return Ok(None) };
        let (from, last) = match direction {
            Direction::Forward => (outermost, last),
            Direction::Backward => (last, outermost),
        };
        Ok(Some(Stretch {
            from,
            // The first key behind it.
            to: [&last[..], b"\0"].concat(),
            direction,
            skip: 0,
            take,
        }))
    }

    /// How many members of a set they hold.
    fn count(&self, context: &mut Context<'_>, set: &Collection) -> Result<u64, CommandError> {
        let (from, to) = match self.keys(context, set)? {
            Some(keys) => keys,
            None => match self.run(context, set, Direction::Forward, (0, u64::MAX))? {
                Some(run) => (run.from, run.to),
                None => return Ok(0),
            },
        };
        ranking::count(context, set, &from, &to)
    }
}

impl NameBound {
    fn parse(text: &[u8]) -> Option<NameBound> {
        match text {
            b"-" => Some(NameBound::Lowest),
            b"+" => Some(NameBound::Highest),
            [b'[', name @ ..] => Some(NameBound::Inclusive(name.to_vec())),
            [b'(', name @ ..] => Some(NameBound::Exclusive(name.to_vec())),
            _ => None,
        }
    }

    /// Whether a range that begins here may have a name.
    fn is_below(&self, name: &[u8]) -> bool {
        match self {
            NameBound::Lowest => true,
            NameBound::Highest => false,
            NameBound::Inclusive(bound) => name >= &bound[..],
            NameBound::Exclusive(bound) => name > &bound[..],
        }
    }

    /// Whether a range that ends here may have a name.
    fn is_above(&self, name: &[u8]) -> bool {
        match self {
            NameBound::Lowest => false,
            NameBound::Highest => true,
            NameBound::Inclusive(bound) => name <= &bound[..],
            NameBound::Exclusive(bound) => name < &bound[..],
        }
    }

    /// The name where a range begins, or before which it ends (`is_end`); `None` if it has no such end.
    fn after_name(&self, is_end: bool) -> Option<Vec<u8>> {
        let (name, included) = match self {
            NameBound::Lowest | NameBound::Highest => return None,
            NameBound::Inclusive(name) => (name, true),
            NameBound::Exclusive(name) => (name, false),
        };
        let mut name = name.clone();
        if included == is_end {
            // The first name that is greater.
            name.push(0);
        }
        Some(name)
    }
}

/// The condition on a member's name.
type NameTest<'a> = &'a dyn Fn(&[u8]) -> bool;

/// A set of so many members is walked along for the first one that is asked for, as Redis walks its listpacks.
const WALKED_FOR_NAME_MAX: u64 = 128;

/// How many steps from one end of a set's order lies the first member of which `has_begun` is true, which it is of the
/// last one. In a large set it is searched as if all those before it were on one side, as Redis does in its skip lists:
/// then it is one of which this is true, behind one of which it is not.
fn first_step(
    context: &mut Context<'_>,
    set: &Collection,
    direction: Direction,
    has_begun: NameTest<'_>,
) -> Result<u64, CommandError> {
    let (mut from, mut to) = (0, set.count - 1);
    if set.count <= WALKED_FOR_NAME_MAX {
        context.walk(set, &Stretch::from_end(direction, to), |_, _, member| {
            if has_begun(member) {
                return ControlFlow::Break(());
            }
            from += 1;
            ControlFlow::Continue(())
        })?;
        return Ok(from);
    }
    while from < to {
        let middle = from + (to - from) / 2;
        let rank = match direction {
            Direction::Forward => middle,
            Direction::Backward => set.count - 1 - middle,
        };
        match context
            .entries_at(set, &[rank])?
            .iter()
            .all(|entry| has_begun(&entry.member))
        {
            true => to = middle,
            false => from = middle + 1,
        }
    }
    Ok(from)
}

/// The member at one end of a set's order.
fn end_of(context: &mut Context<'_>, set: &Collection, end: Direction) -> Result<Entry, CommandError> {
    let mut entries = context.entries(set, &Stretch::from_end(end, 1))?;
    entries.pop().ok_or_else(super::damaged)
}

/// One end of a range of scores, and whether it is excluded. As Redis reads it, with C's `strtod` alone: blanks in
/// front are allowed, the text ends at a zero byte, an empty one is 0, and what is too large is infinite.
fn parse_score(text: &[u8]) -> Option<(f64, bool)> {
    let (text, excluded) = match text {
        [b'(', text @ ..] => (text, true),
        text => (text, false),
    };
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some((0.0, excluded));
    }
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r'));
    let text = &text[blanks.count()..];
    let out_of_range = || {
        std::str::from_utf8(text)
            .ok()?
            .parse()
            .ok()
            .filter(|value: &f64| !value.is_nan())
    };
    let value = parse_double(text).or_else(out_of_range)?;
    Some((value, excluded))
}

/// ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]
pub fn zrange(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, None, None)
}

/// ZREVRANGE key start stop [WITHSCORES]
pub fn zrevrange(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, Some(By::Rank), Some(Direction::Backward))
}

/// ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]
pub fn zrangebyscore(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, Some(By::Score), Some(Direction::Forward))
}

/// ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]
pub fn zrevrangebyscore(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, Some(By::Score), Some(Direction::Backward))
}

/// ZRANGEBYLEX key min max [LIMIT offset count]
pub fn zrangebylex(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, Some(By::Name), Some(Direction::Forward))
}

/// ZREVRANGEBYLEX key max min [LIMIT offset count]
pub fn zrevrangebylex(context: &mut Context<'_>) -> Outcome {
    zrange_generic(context, Some(By::Name), Some(Direction::Backward))
}

/// ZRANGE, ZREVRANGE, ZRANGEBYSCORE, ZREVRANGEBYSCORE, ZRANGEBYLEX and ZREVRANGEBYLEX.
fn zrange_generic(context: &mut Context<'_>, by: Option<By>, direction: Option<Direction>) -> Outcome {
    let arguments = context.arguments;
    let grammar = Grammar {
        by,
        direction,
        stores: false,
    };
    let request = Request::parse(arguments.from(2), grammar)?;
    let stretch = match context.sorted_set(arguments.get(1))? {
        Some(set) => request.stretch(context, &set)?.map(|stretch| (set, stretch)),
        None => None,
    };
    let Some((set, stretch)) = stretch else {
        context.reply.array(0);
        return Ok(());
    };
    request.reply_stretch(context, &set, &stretch)
}

/// ZRANGESTORE destination source min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]
pub fn zrangestore(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let grammar = Grammar {
        by: None,
        direction: None,
        stores: true,
    };
    let request = Request::parse(arguments.from(3), grammar)?;
    let source = match context.reading(|context| context.sorted_set(arguments.get(2)))? {
        Some(set) => request.stretch(context, &set)?.map(|stretch| (set, stretch)),
        None => None,
    };
    let members = source.as_ref().map_or(0, |(set, stretch)| set.count.min(stretch.take));
    let destination = arguments.get(1).to_vec();
    let writes = vec![(context.database, destination.clone())];
    context.in_steps((members, writes), |steps| async move {
        let entries = match source {
            Some((set, stretch)) => read_entries(&steps, set, stretch).await?,
            None => Vec::new(),
        };
        store_sorted_set(&steps, destination, entries, "zrangestore").await
    })
}

/// ZCOUNT key min max
pub fn zcount(context: &mut Context<'_>) -> Outcome {
    zcount_generic(context, By::Score)
}

/// ZLEXCOUNT key min max
pub fn zlexcount(context: &mut Context<'_>) -> Outcome {
    zcount_generic(context, By::Name)
}

/// ZCOUNT and ZLEXCOUNT: the difference of two ranks.
fn zcount_generic(context: &mut Context<'_>, by: By) -> Outcome {
    let arguments = context.arguments;
    let bounds = Bounds::parse(by, arguments.get(2), arguments.get(3))?;
    let count = match context.sorted_set(arguments.get(1))? {
        Some(set) => bounds.count(context, &set)?,
        None => 0,
    };
    context.reply.integer(count as i64);
    Ok(())
}

/// ZREMRANGEBYRANK key start stop
pub fn zremrangebyrank(context: &mut Context<'_>) -> Outcome {
    zremrange_generic(context, By::Rank, "zremrangebyrank")
}

/// ZREMRANGEBYSCORE key min max
pub fn zremrangebyscore(context: &mut Context<'_>) -> Outcome {
    zremrange_generic(context, By::Score, "zremrangebyscore")
}

/// ZREMRANGEBYLEX key min max
pub fn zremrangebylex(context: &mut Context<'_>) -> Outcome {
    zremrange_generic(context, By::Name, "zremrangebylex")
}

/// ZREMRANGEBYRANK, ZREMRANGEBYSCORE and ZREMRANGEBYLEX.
fn zremrange_generic(context: &mut Context<'_>, by: By, event: &'static str) -> Outcome {
    let arguments = context.arguments;
    let request = Request {
        bounds: Bounds::parse(by, arguments.get(2), arguments.get(3))?,
        direction: Direction::Forward,
        limit: None,
        with_scores: false,
    };
    let found = match context.sorted_set(arguments.get(1))? {
        Some(set) => request.stretch(context, &set)?.map(|stretch| (set, stretch)),
        None => None,
    };
    let Some((mut set, stretch)) = found else {
        context.reply.integer(0);
        return Ok(());
    };
    let removed = match request.part_in_steps(context, &set, &stretch)? {
        None => context.remove_stretch(&mut set, &stretch, event)?.len() as u64,
        Some(Stretch { from, to, take, .. }) => {
            let (lowest, end) = ranking::ends(&set)?;
            if from > lowest || to < end {
                let members = set.count.min(take);
                let removal = Removal::new(set, Remains::Outside(from, to));
                return removal.run(context, members, move |context, removal| {
                    context.notify_of(event, &removal.collection);
                    context.reply.integer(removal.removed as i64);
                    Ok(())
                });
            }
            // The key goes, whatever its size.
            let removed = std::mem::take(&mut set.count);
            context.save_after(event, &set)?;
            removed
        }
    };
    context.reply.integer(removed as i64);
    Ok(())
}

impl Request {
    /// The part of the order where a stretch of a set lies that is removed in steps, without anything to skip and
    /// without others in it; `None` if it is removed at once.
    fn part_in_steps(
        &self,
        context: &mut Context<'_>,
        set: &Collection,
        stretch: &Stretch,
    ) -> Result<Option<Stretch>, CommandError> {
        if !context.works_in_steps(set.count.min(stretch.take)) {
            return Ok(None);
        }
        if let Bounds::Ranks(first, last) = self.bounds {
            let Some((first, take)) = rank_range(first, last, set.count) else {
                return Ok(None);
            };
            let (mut from, mut to) = (SCORE_MEMBERS.0.to_vec(), SCORE_MEMBERS.1.to_vec());
            if take < set.count {
                let ends = context.entries_at(set, &[first, first + take - 1])?;
                let keys = ends
                    .iter()
                    .map(|entry| score_key(ordered_score(entry.score), &entry.member));
                let keys: Vec<Vec<u8>> = keys.collect();
                // The first key behind the last.
                (from, to) = (keys[0].clone(), [&keys[1][..], &[0]].concat());
            }
            return Ok(Some(Stretch {
                from,
                to,
                ..Stretch::from_end(Direction::Forward, take)
            }));
        }
        // How many there are is not known without ranks, for which the whole set may have to come into memory.
        let mut members = 0;
        let most = members_at_once_max();
        context.walk(set, stretch, |_, _, _| {
            members += 1;
            match members > most {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok((members > most).then(|| stretch.clone()))
    }
}
