//! Commands on members of a sorted set by name, the lowest and highest ones, and random ones.

use super::{Entry, Outcome, Stretch, ranking, reply_entries, reply_entry, reply_header};
use crate::commands::Context;
use crate::commands::arguments::{integer, is_option};
use crate::commands::blocking::{Waiting, timeout_of_seconds};
use crate::commands::collection::{Collection, Direction};
use crate::commands::keys::{SCAN_COUNT_MAX, ScanOptions, Scanned, is_compact, matches_key, parse_cursor};
use crate::commands::random::{Random, Shuffled};
use crate::commands::removals::{Remains, Removal, TellRemoved};
use crate::commands::walks::{Members, walk};
use crate::error::CommandError;
use crate::number::{parse_double, parse_integer};
use crate::protocol::{Arguments, Reply, format_double};
use crate::storage::encoding::{Type, ordered_score, score_key, split_score_value};

/// What ZADD or GEOADD was asked to do beside adding.
#[derive(Clone, Copy, Default)]
pub struct AddOptions {
    /// NX: leaves members alone that are there.
    pub if_absent: bool,
    /// XX: adds none.
    pub if_present: bool,
    /// GT: only raises scores.
    pub if_greater: bool,
    /// LT: only lowers them.
    pub if_less: bool,
    /// CH: the reply counts changes too.
    pub count_changed: bool,
    /// INCR: the score is added to what is there.
    pub increment: bool,
}

impl AddOptions {
    /// The options, and the position of the first score; ZINCRBY's `increment` is set beforehand.
    fn parse(arguments: Arguments<'_>, increment: bool) -> Result<(AddOptions, usize), CommandError> {
        let mut options = AddOptions {
            increment,
            ..AddOptions::default()
        };
        let mut first = 2;
        for argument in arguments.iter().skip(2) {
            match argument {
                _ if is_option(argument, "NX") => options.if_absent = true,
                _ if is_option(argument, "XX") => options.if_present = true,
                _ if is_option(argument, "CH") => options.count_changed = true,
                _ if is_option(argument, "INCR") => options.increment = true,
                _ if is_option(argument, "GT") => options.if_greater = true,
                _ if is_option(argument, "LT") => options.if_less = true,
                _ => break,
            }
            first += 1;
        }
        let words = arguments.len() - first;
        if words == 0 || words % 2 == 1 {
            return Err(CommandError::Syntax);
        }
        options.check(words / 2)?;
        Ok((options, first))
    }

    fn check(self, pairs: usize) -> Outcome {
        let AddOptions {
            if_absent,
            if_present,
            if_greater,
            if_less,
            ..
        } = self;
        let text = if if_absent && if_present {
            "ERR XX and NX options at the same time are not compatible"
        } else if if_absent && (if_greater || if_less) || if_greater && if_less {
            "ERR GT, LT, and/or NX options at the same time are not compatible"
        } else if self.increment && pairs > 1 {
            "ERR INCR option supports a single increment-element pair"
        } else {
            return Ok(());
        };
        Err(CommandError::text(text))
    }

    /// The score that a member gets, given what it has; `None` if the options forbid it.
    fn new_score(self, current: Option<f64>, score: f64) -> Result<Option<f64>, CommandError> {
        let Some(current) = current else {
            return Ok((!self.if_present).then_some(score));
        };
        if self.if_absent {
            return Ok(None);
        }
        let new = if self.increment { current + score } else { score };
        if new.is_nan() {
            return Err(CommandError::text("ERR resulting score is not a number (NaN)"));
        }
        let forbidden = self.if_greater && new <= current || self.if_less && new >= current;
        Ok((!forbidden).then_some(new))
    }
}

/// ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member …]
pub fn zadd(context: &mut Context<'_>) -> Outcome {
    zadd_generic(context, false)
}

/// ZINCRBY key increment member
pub fn zincrby(context: &mut Context<'_>) -> Outcome {
    zadd_generic(context, true)
}

/// ZADD and ZINCRBY, which takes ZADD's options too, as far as its arity leaves room for an error.
fn zadd_generic(context: &mut Context<'_>, increment: bool) -> Outcome {
    let arguments = context.arguments;
    let (options, first) = AddOptions::parse(arguments, increment)?;
    let scores = arguments.iter().skip(first).step_by(2).map(parse_double);
    let scores = scores.collect::<Option<Vec<f64>>>().ok_or(CommandError::NotAFloat)?;
    let members = arguments.iter().skip(first + 1).step_by(2);
    let pairs: Vec<(f64, &[u8])> = scores.into_iter().zip(members).collect();
    add_members(context, options, &pairs)
}

/// Adds members with scores to the set under the first key, and replies as ZADD does.
pub fn add_members(context: &mut Context<'_>, options: AddOptions, pairs: &[(f64, &[u8])]) -> Outcome {
    let key = context.arguments.get(1);
    let set = match context.sorted_set(key)? {
        None if !options.if_present => Some(context.new_collection(key, Type::SortedSet)?),
        found => found,
    };
    let (mut added, mut changed, mut last) = (0, 0, None);
    if let Some(mut set) = set {
        let is_bulk = ranking::is_bulk(&set, pairs.len());
        if is_bulk {
            ranking::clear(context, &mut set)?;
        }
        for (score, member) in pairs {
            let current = context.score(&set, member)?;
            last = options.new_score(current, *score)?;
            let Some(new) = last.filter(|new| current != Some(*new)) else {
                continue;
            };
            if is_bulk {
                context.place_member(&mut set, member, current, new)?;
            } else {
                context.set_score(&mut set, member, current, new)?;
            }
            added += i64::from(current.is_none());
            changed += 1;
        }
        if is_bulk {
            ranking::rebuild(context, &mut set)?;
        }
        if changed > 0 || is_bulk {
            context.save(&set)?;
        }
        if changed > 0 {
            context.notify_of(if options.increment { "zincr" } else { "zadd" }, &set);
        }
    }
    match (options.increment, last) {
        (true, Some(score)) => context.reply.double(score + 0.0),
        (true, None) => context.reply.null(),
        (false, _) if options.count_changed => context.reply.integer(changed),
        (false, _) => context.reply.integer(added),
    }
    Ok(())
}

/// ZREM key member [member …]
pub fn zrem(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut removed = 0;
    if let Some(mut set) = context.sorted_set(arguments.get(1))? {
        for member in arguments.iter().skip(2) {
            if let Some(score) = context.score(&set, member)? {
                context.remove_scored(&mut set, member, score)?;
                removed += 1;
            }
        }
        if removed > 0 {
            context.save_after("zrem", &set)?;
        }
    }
    context.reply.integer(removed);
    Ok(())
}

/// ZCARD key
pub fn zcard(context: &mut Context<'_>) -> Outcome {
    let set = context.sorted_set(context.arguments.get(1))?;
    context.reply.integer(set.map_or(0, |set| set.count as i64));
    Ok(())
}

/// ZSCORE key member
pub fn zscore(context: &mut Context<'_>) -> Outcome {
    let set = context.sorted_set(context.arguments.get(1))?;
    reply_score(context, set.as_ref(), context.arguments.get(2))
}

/// ZMSCORE key member [member …]
pub fn zmscore(context: &mut Context<'_>) -> Outcome {
    let set = context.sorted_set(context.arguments.get(1))?;
    let members = context.arguments.from(2);
    context.reply.array(members.len());
    members
        .iter()
        .try_for_each(|member| reply_score(context, set.as_ref(), member))
}

fn reply_score(context: &mut Context<'_>, set: Option<&Collection>, member: &[u8]) -> Outcome {
    let score = match set {
        Some(set) => context.score(set, member)?,
        None => None,
    };
    match score {
        Some(score) => context.reply.double(score),
        None => context.reply.null(),
    }
    Ok(())
}

/// ZRANK key member [WITHSCORE]
pub fn zrank(context: &mut Context<'_>) -> Outcome {
    zrank_generic(context, "zrank", false)
}

/// ZREVRANK key member [WITHSCORE]
pub fn zrevrank(context: &mut Context<'_>) -> Outcome {
    zrank_generic(context, "zrevrank", true)
}

/// ZRANK and ZREVRANK.
fn zrank_generic(context: &mut Context<'_>, name: &str, reverse: bool) -> Outcome {
    let arguments = context.arguments;
    let with_score = match arguments.len() {
        3 => false,
        4 if is_option(arguments.get(3), "WITHSCORE") => true,
        4 => return Err(CommandError::Syntax),
        _ => return Err(CommandError::Arity(name.to_owned())),
    };
    let member = arguments.get(2);
    let set = context.sorted_set(arguments.get(1))?;
    if let Some(set) = &set
        && let Some(score) = context.score(set, member)?
    {
        let rank = ranking::rank(context, set, &score_key(ordered_score(score), member))?;
        let rank = if reverse {
            set.count.saturating_sub(rank + 1)
        } else {
            rank
        };
        if with_score {
            context.reply.array(2);
        }
        context.reply.integer(rank as i64);
        if with_score {
            context.reply.double(score);
        }
    } else if with_score {
        context.reply.null_array();
    } else {
        context.reply.null();
    }
    Ok(())
}

/// ZPOPMIN key [count]
pub fn zpopmin(context: &mut Context<'_>) -> Outcome {
    zpop_generic(context, Direction::Forward)
}

/// ZPOPMAX key [count]
pub fn zpopmax(context: &mut Context<'_>) -> Outcome {
    zpop_generic(context, Direction::Backward)
}

/// ZPOPMIN and ZPOPMAX. Only with a count does RESP3 have a pair for each member.
fn zpop_generic(context: &mut Context<'_>, direction: Direction) -> Outcome {
    let arguments = context.arguments;
    let count = match arguments.len() {
        2 => None,
        3 => Some(positive_count(arguments.get(2))?),
        _ => return Err(CommandError::Syntax),
    };
    let entries = match context.sorted_set(arguments.get(1))? {
        Some(set) if count.is_some_and(|count| context.works_in_steps(count.min(set.count))) => {
            let count = set.count.min(count.unwrap_or(1));
            let first = move |reply: &mut Reply<'_>| reply_header(reply, count as usize, true);
            let tell: TellRemoved = |reply, member, score| reply_entry(reply, score, member, true);
            return pop_in_steps(context, set, (direction, count), first, tell);
        }
        Some(mut set) => {
            let stretch = Stretch::from_end(direction, count.unwrap_or(1));
            context.remove_stretch(&mut set, &stretch, pop_event(direction))?
        }
        None => Vec::new(),
    };
    match (count, entries.first()) {
        (None, Some(Entry { score, member })) => {
            context.reply.array(2);
            context.reply.bulk(member);
            context.reply.double(*score);
        }
        _ => reply_entries(&mut context.reply, &entries, true),
    }
    Ok(())
}

/// Pops `count` members in steps, and tells them.
fn pop_in_steps(
    context: &mut Context<'_>,
    set: Collection,
    (direction, count): (Direction, u64),
    first: impl FnOnce(&mut Reply<'_>) + Send + 'static,
    tell: TellRemoved,
) -> Outcome {
    let remains = Remains::Inner(direction, set.count - count);
    Removal::new(set, remains)
        .telling(first, tell)
        .run(context, count, move |context, removal| {
            context.notify_of(pop_event(direction), &removal.collection);
            Ok(())
        })
}

/// What has happened to a set whose outermost members were taken, read in this direction.
fn pop_event(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "zpopmin",
        Direction::Backward => "zpopmax",
    }
}

fn positive_count(argument: &[u8]) -> Result<u64, CommandError> {
    let count = parse_integer(argument).and_then(|count| u64::try_from(count).ok());
    count.ok_or(CommandError::text("ERR value is out of range, must be positive"))
}

/// ZMPOP numkeys key [key …] MIN | MAX [COUNT count]
pub fn zmpop(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let options = mpop_options(arguments)?;
    if !pop_first(context, arguments, options)? {
        context.reply.null_array();
    }
    Ok(())
}

/// BZMPOP timeout numkeys key [key …] MIN | MAX [COUNT count]
pub fn bzmpop(context: &mut Context<'_>) -> Outcome {
    // From the timeout on they are as ZMPOP's from its name on.
    let arguments = context.arguments.from(1);
    let options = mpop_options(arguments)?;
    let timeout_ms = timeout_of_seconds(arguments.get(0), context.now_ms)?;
    if !pop_first(context, arguments, options)? {
        context.reply.null_array();
        context.waits = Some(Box::new(Waiting::for_keys(
            3..3 + options.0,
            Type::SortedSet,
            timeout_ms,
        )));
    }
    Ok(())
}

/// BZPOPMIN key [key …] timeout
pub fn bzpopmin(context: &mut Context<'_>) -> Outcome {
    pop_or_wait(context, Direction::Forward)
}

/// BZPOPMAX key [key …] timeout
pub fn bzpopmax(context: &mut Context<'_>) -> Outcome {
    pop_or_wait(context, Direction::Backward)
}

/// BZPOPMIN and BZPOPMAX.
fn pop_or_wait(context: &mut Context<'_>, direction: Direction) -> Outcome {
    let arguments = context.arguments;
    let keys = 1..arguments.len() - 1;
    let timeout_ms = timeout_of_seconds(arguments.get(keys.end), context.now_ms)?;
    for key in arguments.iter().skip(keys.start).take(keys.len()) {
        let Some(mut set) = context.sorted_set(key)? else {
            continue;
        };
        let entries = context.remove_stretch(&mut set, &Stretch::from_end(direction, 1), pop_event(direction))?;
        for Entry { score, member } in &entries {
            context.reply.array(3);
            context.reply.bulk(key);
            context.reply.bulk(member);
            context.reply.double(*score);
        }
        return Ok(());
    }
    context.reply.null_array();
    context.waits = Some(Box::new(Waiting::for_keys(keys, Type::SortedSet, timeout_ms)));
    Ok(())
}

/// Pops from the first sorted set that is there; false without a reply if there is none.
fn pop_first(
    context: &mut Context<'_>,
    arguments: Arguments<'_>,
    (key_count, direction, count): (usize, Direction, u64),
) -> Result<bool, CommandError> {
    for key in arguments.iter().skip(2).take(key_count) {
        let Some(mut set) = context.sorted_set(key)? else {
            continue;
        };
        let count = count.min(set.count);
        let name = key.to_vec();
        let first = move |reply: &mut Reply<'_>| {
            reply.array(2);
            reply.bulk(&name);
            reply.array(count as usize);
        };
        // A pair each, in RESP2 too.
        let tell: TellRemoved = |reply, member, score| {
            reply.array(2);
            reply.bulk(member);
            reply.double(score);
        };
        if context.works_in_steps(count) {
            pop_in_steps(context, set, (direction, count), first, tell)?;
            return Ok(true);
        }
        let entries = context.remove_stretch(&mut set, &Stretch::from_end(direction, count), pop_event(direction))?;
        first(&mut context.reply);
        let reply = &mut context.reply;
        entries.iter().for_each(|entry| tell(reply, &entry.member, entry.score));
        return Ok(true);
    }
    Ok(false)
}

/// How many keys, which end, and how many members.
fn mpop_options(arguments: Arguments<'_>) -> Result<(usize, Direction, u64), CommandError> {
    let positive = |argument, text: &'static str| {
        let number = parse_integer(argument).filter(|number| *number > 0);
        number.ok_or(CommandError::text(text))
    };
    let key_count = positive(arguments.get(1), "ERR numkeys should be greater than 0")?;
    let key_count = usize::try_from(key_count).unwrap_or(usize::MAX);
    let position = key_count.saturating_add(2);
    if position >= arguments.len() {
        return Err(CommandError::Syntax);
    }
    let direction = match arguments.get(position) {
        end if is_option(end, "MIN") => Direction::Forward,
        end if is_option(end, "MAX") => Direction::Backward,
        _ => return Err(CommandError::Syntax),
    };
    let options = arguments.from(position + 1);
    let count = match options.len() {
        0 => 1,
        2.. if is_option(options.get(0), "COUNT") => {
            let count = positive(options.get(1), "ERR count should be greater than 0")?;
            if options.len() > 2 {
                return Err(CommandError::Syntax);
            }
            count as u64
        }
        _ => return Err(CommandError::Syntax),
    };
    Ok((key_count, direction, count))
}

/// Members that one ZRANDMEMBER returns with repetitions at most. Redis goes on until its memory is full; here a reply
/// of that many small members takes some hundred megabytes already.
const RANDOM_REPEATED_MAX: u64 = 1 << 24;

/// ZRANDMEMBER key [count [WITHSCORES]]
pub fn zrandmember(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (count, with_scores) = random_options(arguments)?;
    let set = context.sorted_set(arguments.get(1))?;
    let mut random = Random::new(context.seed);
    match (set, count) {
        (None, None) => context.reply.null(),
        (None, Some(_)) | (_, Some(0)) => context.reply.array(0),
        (Some(set), None) => {
            let rank = random.below(set.count);
            let entries = context.entries_at(&set, &[rank])?;
            context.reply.bulk(&entries[0].member);
        }
        (Some(set), Some(count)) => {
            let wanted = count.unsigned_abs();
            let ranks: Vec<u64> = if count < 0 {
                if wanted > RANDOM_REPEATED_MAX {
                    return Err(CommandError::OutOfRange);
                }
                (0..wanted).map(|_| random.below(set.count)).collect()
            } else if wanted >= set.count {
                (0..set.count).collect()
            } else {
                Shuffled::new(set.count, context.seed).take(wanted as usize).collect()
            };
            let entries = context.entries_at(&set, &ranks)?;
            reply_entries(&mut context.reply, &entries, with_scores);
        }
    }
    Ok(())
}

fn random_options(arguments: Arguments<'_>) -> Result<(Option<i64>, bool), CommandError> {
    if arguments.len() == 2 {
        return Ok((None, false));
    }
    let count = integer(arguments.get(2))?;
    if count == i64::MIN {
        return Err(CommandError::text(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    match arguments.len() {
        3 => Ok((Some(count), false)),
        4 if is_option(arguments.get(3), "WITHSCORES") => {
            if count.unsigned_abs() > i64::MAX as u64 / 2 {
                return Err(CommandError::OutOfRange);
            }
            Ok((Some(count), true))
        }
        _ => Err(CommandError::Syntax),
    }
}

/// ZSCAN key cursor [MATCH pattern] [COUNT count]
///
/// Members are walked by name, which no change of scores moves.
pub fn zscan(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let cursor = parse_cursor(arguments.get(2))?;
    let (mut next, mut entries) = (0, Vec::new());
    if let Some(set) = &context.sorted_set(arguments.get(1))? {
        let options = ScanOptions::parse(arguments, Scanned::Members)?;
        let is_wanted = |member: &[u8]| options.pattern.is_none_or(|pattern| matches_key(pattern, member));
        if cursor == 0 && is_compact(context, set)? {
            entries = context.entries(set, &Stretch::from_end(Direction::Forward, u64::MAX))?;
            entries.retain(|entry| is_wanted(&entry.member));
        } else {
            let mut members = Members {
                view: &mut context.view,
                collection: set,
                item: |member: &[u8], value: &[u8]| {
                    let entry = |score| Entry {
                        score,
                        member: member.to_vec(),
                    };
                    is_wanted(member).then(|| split_score_value(value).map(entry).ok_or_else(super::damaged))
                },
            };
            let walked = walk(&mut members, (0, cursor), options.count.min(SCAN_COUNT_MAX))?;
            next = walked.next.in_collection();
            entries = walked.items.into_iter().collect::<Result<Vec<Entry>, _>>()?;
        }
    }
    context.reply.array(2);
    context.reply.text(itoa::Buffer::new().format(next));
    // Scores are strings here, in RESP3 too.
    context.reply.array(entries.len() * 2);
    for Entry { score, member } in &entries {
        context.reply.bulk(member);
        context.reply.text(&format_double(*score));
    }
    Ok(())
}
