//! Sets: SADD, SREM, random members, SINTER, SUNION and SDIFF, SSCAN.
//!
//! A member is stored in `data` by its name, with its number, or packed into the set's record; see
//! [`super::name_order`] for both orders.

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction, damaged_members};
use super::keys::{SCAN_COUNT_MAX, ScanOptions, Scanned, is_compact, matches_key, parse_cursor};
use super::name_order::{self, LISTED_MAX, Listed};
use super::random::Random;
use super::removals::{Remains, Removal, TellRemoved};
use super::steps::{Steps, asked_per_step, members_per_step};
use super::walks::{Members, walk};
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::Reply;
use crate::storage::encoding::{NameOrder, Type, number_of_set_member, set_member};
use crate::storage::packed;
use crate::storage::pieces::WriteMember;
use hashbrown::HashTable;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// SADD key member [member …]
pub fn sadd(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut set = context.collection_or_new(arguments.get(1), Type::Set)?;
    let before = set.count;
    for member in arguments.iter().skip(2) {
        add(context, &mut set, member)?;
    }
    let added = set.count - before;
    if added > 0 {
        context.save_after("sadd", &set)?;
    }
    context.reply.integer(added as i64);
    Ok(())
}

/// Adds a member; whether it is new. The caller saves the set.
fn add(context: &mut Context<'_>, set: &mut Collection, member: &[u8]) -> Result<bool, CommandError> {
    if is_member(context, set, member)? {
        return Ok(false);
    }
    add_new(context, set, member)?;
    Ok(true)
}

fn is_member(context: &mut Context<'_>, set: &Collection, member: &[u8]) -> Result<bool, CommandError> {
    Ok(context.member(set, Column::Data, member)?.is_some())
}

/// Adds a member that is not there.
fn add_new(context: &mut Context<'_>, set: &mut Collection, member: &[u8]) -> Outcome {
    let mut order = order(set)?;
    context.put_name(set, member, &set_member(order.next_number))?;
    order.next_number += 1;
    set.count += 1;
    name_order::added(context, set, &mut order, member)?;
    keep_order(set, &order);
    Ok(())
}

fn order(set: &Collection) -> Result<NameOrder, CommandError> {
    if set.is_packed() {
        // Nothing is said of their order: they lie in it.
        let last = packed::last_value(&set.extra).map_or(Some(None), |stored| number_of_set_member(stored).map(Some));
        let last = last.ok_or_else(damaged_members)?;
        return Ok(NameOrder {
            next_number: last.map_or(0, |last| last + 1),
            tree: None,
        });
    }
    NameOrder::of_set(&set.extra, set.count).ok_or_else(damaged_members)
}

fn keep_order(set: &mut Collection, order: &NameOrder) {
    if set.is_packed() {
        return;
    }
    set.extra.clear();
    order.encode_into(set.count, &mut set.extra);
}

/// SREM key member [member …]
pub fn srem(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let Some(mut set) = context.collection(arguments.get(1), Type::Set)? else {
        context.reply.integer(0);
        return Ok(());
    };
    let before = set.count;
    for member in arguments.iter().skip(2) {
        remove(context, &mut set, member)?;
    }
    let removed = before - set.count;
    if removed > 0 {
        context.save_after("srem", &set)?;
    }
    context.reply.integer(removed as i64);
    Ok(())
}

/// Removes a member; whether it was there. The caller saves the set.
fn remove(context: &mut Context<'_>, set: &mut Collection, member: &[u8]) -> Result<bool, CommandError> {
    if !is_member(context, set, member)? {
        return Ok(false);
    }
    remove_present(context, set, member)?;
    Ok(true)
}

/// Removes a member that is there.
fn remove_present(context: &mut Context<'_>, set: &mut Collection, member: &[u8]) -> Outcome {
    let mut order = order(set)?;
    context.delete_name(set, member)?;
    set.count = set.count.checked_sub(1).ok_or(CommandError::Internal)?;
    name_order::removed(context, set, &mut order, member)?;
    keep_order(set, &order);
    Ok(())
}

/// SMOVE source destination member
pub fn smove(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let (from_key, to_key, member) = (arguments.get(1), arguments.get(2), arguments.get(3));
    let moved = match context.collection(from_key, Type::Set)? {
        None => false,
        Some(from) => match context.collection(to_key, Type::Set)? {
            Some(_) if from_key == to_key => is_member(context, &from, member)?,
            to => move_member(context, from, to, member)?,
        },
    };
    context.reply.integer(i64::from(moved));
    Ok(())
}

fn move_member(
    context: &mut Context<'_>,
    mut from: Collection,
    to: Option<Collection>,
    member: &[u8],
) -> Result<bool, CommandError> {
    if !remove(context, &mut from, member)? {
        return Ok(false);
    }
    context.save_after("srem", &from)?;
    let mut to = match to {
        Some(to) => to,
        None => context.new_collection(context.arguments.get(2), Type::Set)?,
    };
    if add(context, &mut to, member)? {
        context.save_after("sadd", &to)?;
    }
    Ok(true)
}

/// SCARD key
pub fn scard(context: &mut Context<'_>) -> Outcome {
    let set = context.collection(context.arguments.get(1), Type::Set)?;
    context.reply.integer(set.map_or(0, |set| set.count as i64));
    Ok(())
}

/// SISMEMBER key member
pub fn sismember(context: &mut Context<'_>) -> Outcome {
    let set = context.collection(context.arguments.get(1), Type::Set)?;
    reply_membership(context, set.as_ref(), context.arguments.get(2))
}

/// SMISMEMBER key member [member …]
pub fn smismember(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let set = context.collection(arguments.get(1), Type::Set)?;
    context.reply.array(arguments.len() - 2);
    for member in arguments.iter().skip(2) {
        reply_membership(context, set.as_ref(), member)?;
    }
    Ok(())
}

fn reply_membership(context: &mut Context<'_>, set: Option<&Collection>, member: &[u8]) -> Outcome {
    let found = match set {
        Some(set) => is_member(context, set, member)?,
        None => false,
    };
    context.reply.integer(i64::from(found));
    Ok(())
}

/// SMEMBERS key
pub fn smembers(context: &mut Context<'_>) -> Outcome {
    match context.collection(context.arguments.get(1), Type::Set)? {
        Some(set) => {
            context.reply.set(set.count as usize);
            if set.count <= LISTED_MAX {
                return reply_all(context, &set);
            }
            let everything = (&b""[..], None);
            let write: WriteMember = |reply, member, _number, _now_ms| {
                reply.bulk(member);
                true
            };
            context.reply_members(&set, Column::Data, everything, Direction::Forward, (set.count, write))
        }
        None => {
            context.reply.set(0);
            Ok(())
        }
    }
}

/// Calls `visit` with all members, as they were added if there are few, else by name.
fn visit_members(context: &mut Context<'_>, set: &Collection, mut visit: impl FnMut(&[u8])) -> Outcome {
    if set.count > LISTED_MAX {
        return set.visit_names(&mut context.view, |member, _| visit(member));
    }
    let listed = Listed::read(&mut context.view, set, number_of_set_member)?;
    listed.iter().for_each(|(member, _)| visit(member));
    Ok(())
}

fn reply_all(context: &mut Context<'_>, set: &Collection) -> Outcome {
    let Context { view, reply, .. } = context;
    if set.count > LISTED_MAX {
        return set.visit_names(view, |member, _| reply.bulk(member));
    }
    let listed = Listed::read(view, set, number_of_set_member)?;
    listed.iter().for_each(|(member, _)| reply.bulk(member));
    Ok(())
}

/// SPOP key [count]
pub fn spop(context: &mut Context<'_>) -> Outcome {
    match context.arguments.len() {
        2 => spop_one(context),
        3 => spop_several(context),
        _ => Err(CommandError::Syntax),
    }
}

fn spop_one(context: &mut Context<'_>) -> Outcome {
    let Some(mut set) = context.collection(context.arguments.get(1), Type::Set)? else {
        context.reply.null();
        return Ok(());
    };
    let mut random = Random::new(context.seed);
    let member = pop(context, &mut set, &mut random)?;
    context.save_after("spop", &set)?;
    context.reply.bulk(&member);
    Ok(())
}

fn spop_several(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let count = parse_integer(context.arguments.get(2))
        .and_then(|count| u64::try_from(count).ok())
        .ok_or_else(|| CommandError::text("ERR value is out of range, must be positive"))?;
    let Some(mut set) = context.collection(key, Type::Set)? else {
        context.reply.set(0);
        return Ok(());
    };
    if count >= set.count {
        context.reply.set(set.count as usize);
        reply_all(context, &set)?;
        set.count = 0;
        return context.save_after("spop", &set);
    }
    if context.works_in_steps(count) && !set.is_packed() {
        // Its names are in memory from here on, if they fit: no step waits for them.
        random_member(context, &set, &mut Random::new(context.seed))?;
        let remains = Remains::Any(set.count - count);
        let first = move |reply: &mut Reply<'_>| reply.set(count as usize);
        let tell: TellRemoved = |reply, member, _| reply.bulk(member);
        let removal = Removal::new(set, remains).telling(first, tell);
        return removal.run(context, count, |context, removal| {
            context.notify_of("spop", &removal.collection);
            Ok(())
        });
    }
    context.reply.set(count as usize);
    let mut random = Random::new(context.seed);
    for _ in 0..count {
        let member = pop(context, &mut set, &mut random)?;
        context.reply.bulk(&member);
    }
    if count > 0 {
        context.save_after("spop", &set)?;
    }
    Ok(())
}

/// Removes a random member of a set that is not empty.
pub(super) fn pop(
    context: &mut Context<'_>,
    set: &mut Collection,
    random: &mut Random,
) -> Result<Vec<u8>, CommandError> {
    let member = random_member(context, set, random)?;
    remove_present(context, set, &member)?;
    Ok(member)
}

fn random_member(context: &mut Context<'_>, set: &Collection, random: &mut Random) -> Result<Vec<u8>, CommandError> {
    name_order::name_at(context, set, &order(set)?, random.below(set.count))
}

/// SRANDMEMBER key [count]
pub fn srandmember(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let key = arguments.get(1);
    match arguments.len() {
        2 => match context.collection(key, Type::Set)? {
            Some(set) => {
                let mut random = Random::new(context.seed);
                let member = random_member(context, &set, &mut random)?;
                context.reply.bulk(&member);
                Ok(())
            }
            None => {
                context.reply.null();
                Ok(())
            }
        },
        3 => {
            let count = random_count(arguments.get(2))?;
            match context.collection(key, Type::Set)? {
                Some(set) if count < 0 => repeated_random_members(context, &set, count.unsigned_abs()),
                Some(set) => different_random_members(context, &set, count.unsigned_abs()),
                None => {
                    context.reply.array(0);
                    Ok(())
                }
            }
        }
        _ => Err(CommandError::Syntax),
    }
}

fn random_count(argument: &[u8]) -> Result<i64, CommandError> {
    match integer(argument)? {
        i64::MIN => Err(CommandError::text(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        )),
        count => Ok(count),
    }
}

/// What a repeated random member counts for beside its own bytes, so that many short ones are bounded too: with the
/// default `proto-max-bulk-len` there can be 8 million, which take the shard a few seconds.
const REPEATED_MEMBER_BYTES: usize = 64;

/// SRANDMEMBER with a negative count: the same member may come again. There is no telling from the set how long the
/// reply gets, so it is bounded like a string.
fn repeated_random_members(context: &mut Context<'_>, set: &Collection, count: u64) -> Outcome {
    let mut room = context.string_bytes_max;
    let too_long = || CommandError::text("ERR value is out of range");
    let count = usize::try_from(count).map_err(|_| too_long())?;
    if count > room / REPEATED_MEMBER_BYTES {
        return Err(too_long());
    }
    let mut random = Random::new(context.seed);
    context.reply.array(count);
    for _ in 0..count {
        let member = random_member(context, set, &mut random)?;
        room = room
            .checked_sub(member.len() + REPEATED_MEMBER_BYTES)
            .ok_or_else(too_long)?;
        context.reply.bulk(&member);
    }
    Ok(())
}

/// Reading one member by itself costs about as much as going past that many in a walk.
const MEMBERS_WALKED_PER_READ: u64 = 8;

/// SRANDMEMBER with a positive count.
fn different_random_members(context: &mut Context<'_>, set: &Collection, count: u64) -> Outcome {
    let count = count.min(set.count);
    context.reply.array(count as usize);
    if count == set.count {
        return reply_all(context, set);
    }
    let chosen = Random::new(context.seed).sample(count, set.count);
    if count < set.count / MEMBERS_WALKED_PER_READ {
        let order = order(set)?;
        for rank in chosen {
            let member = name_order::name_at(context, set, &order, rank)?;
            context.reply.bulk(&member);
        }
        return Ok(());
    }
    let Context { view, reply, .. } = context;
    let mut chosen = chosen.into_iter().peekable();
    let mut rank = 0;
    set.visit_names(view, |member, _| {
        if chosen.next_if_eq(&rank).is_some() {
            reply.bulk(member);
        }
        rank += 1;
    })
}

/// How SINTER, SUNION and SDIFF make one list of different members out of sets, of which some may be missing.
#[derive(Clone, Copy)]
enum Combination {
    Intersection,
    Union,
    Difference,
}

/// SINTER key [key …]
pub fn sinter(context: &mut Context<'_>) -> Outcome {
    reply_combined(context, Combination::Intersection)
}

/// SUNION key [key …]
pub fn sunion(context: &mut Context<'_>) -> Outcome {
    reply_combined(context, Combination::Union)
}

/// SDIFF key [key …]
pub fn sdiff(context: &mut Context<'_>) -> Outcome {
    reply_combined(context, Combination::Difference)
}

/// SINTERSTORE destination key [key …]
pub fn sinterstore(context: &mut Context<'_>) -> Outcome {
    store_combined(context, Combination::Intersection, "sinterstore")
}

/// SUNIONSTORE destination key [key …]
pub fn sunionstore(context: &mut Context<'_>) -> Outcome {
    store_combined(context, Combination::Union, "sunionstore")
}

/// SDIFFSTORE destination key [key …]
pub fn sdiffstore(context: &mut Context<'_>) -> Outcome {
    store_combined(context, Combination::Difference, "sdiffstore")
}

/// SINTER, SUNION and SDIFF.
fn reply_combined(context: &mut Context<'_>, combination: Combination) -> Outcome {
    let sets = sets_at(context, 1..context.arguments.len())?;
    context.in_steps((members_of(&sets), Vec::new()), |steps| async move {
        let found = combine(&steps, combination, sets).await?;
        let count = found.len();
        steps
            .run(move |context| {
                context.reply.set(count);
                Ok(())
            })
            .await?;
        let reply = |context: &mut Context<'_>, _: &mut (), member: Vec<u8>| {
            context.reply.bulk(&member);
            Ok(())
        };
        steps.run_with_each(found, (), reply).await
    })
}

/// SINTERSTORE, SUNIONSTORE and SDIFFSTORE: what was at the destination goes, whatever it is, and its deadline too.
fn store_combined(context: &mut Context<'_>, combination: Combination, event: &'static str) -> Outcome {
    let destination = (context.database, context.arguments.get(1).to_vec());
    let sets = sets_at(context, 2..context.arguments.len())?;
    context.in_steps((members_of(&sets), vec![destination]), |steps| async move {
        let found = combine(&steps, combination, sets).await?;
        let count = found.len();
        let add = |context: &mut Context<'_>, made: &mut Option<Collection>, member: Vec<u8>| {
            let set = match made {
                Some(set) => set,
                // In the step of its first member: the new set is in memory from the beginning.
                None => made.insert(context.new_collection(context.arguments.get(1), Type::Set)?),
            };
            add_new(context, set, &member)
        };
        let made = steps.run_with_each(found, None, add).await?;
        let finish = move |context: &mut Context<'_>| {
            match made {
                Some(set) => context.save_after(event, &set)?,
                None => context.delete_target(context.arguments.get(1))?,
            }
            context.reply.integer(count as i64);
            Ok(())
        };
        steps.run(finish).await
    })
}

fn members_of(sets: &[Option<Collection>]) -> u64 {
    sets.iter().flatten().map(|set| set.count).sum()
}

/// The sets under the keys at these positions, all looked at, so that one of another type is an error wherever it
/// stands.
fn sets_at(context: &mut Context<'_>, positions: Range<usize>) -> Result<Vec<Option<Collection>>, CommandError> {
    let arguments = context.arguments;
    context.reading(|context| {
        positions
            .map(|position| context.collection(arguments.get(position), Type::Set))
            .collect()
    })
}

async fn combine(
    steps: &Steps,
    combination: Combination,
    sets: Vec<Option<Collection>>,
) -> Result<Vec<Vec<u8>>, CommandError> {
    match combination {
        Combination::Union => union(steps, sets).await,
        Combination::Difference => difference(steps, sets).await,
        Combination::Intersection => {
            let mut found = Vec::new();
            visit_intersection(steps, sets, |member| {
                found.push(member);
                ControlFlow::Continue(())
            })
            .await?;
            Ok(found)
        }
    }
}

/// Calls `visit` with the members that are in all sets until it breaks: those of the smallest that the others have.
async fn visit_intersection(
    steps: &Steps,
    sets: Vec<Option<Collection>>,
    mut visit: impl FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Outcome {
    let Some(mut sets) = sets.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    sets.sort_by_key(|set| set.count);
    let mut sets = sets.into_iter();
    let Some(smallest) = sets.next() else {
        return Ok(());
    };
    let (smallest, others): (Arc<Collection>, Arc<[Collection]>) = (smallest.into(), sets.collect());
    let mut next = Some(Vec::new());
    while let Some(from) = next {
        let (smallest, others) = (Arc::clone(&smallest), Arc::clone(&others));
        let read = steps.run(move |context| {
            let (mut members, next) = piece(context, &smallest, &from, asked_per_step())?;
            retain(context, &mut members, &others, true)?;
            Ok((members, next))
        });
        let (found, from) = read.await?;
        next = from;
        for member in found {
            if visit(member).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Members of a set, and the name from which to go on.
type Piece = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// Members from a name on, `most` at most; as they were added, if there are few in all.
fn piece(context: &mut Context<'_>, set: &Collection, from: &[u8], most: usize) -> Result<Piece, CommandError> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    if set.count <= LISTED_MAX {
        let listed = Listed::read(&mut context.view, set, number_of_set_member)?;
        members.extend(listed.iter().map(|(member, _)| member.to_vec()));
        return Ok((members, None));
    }
    context.scan_members(set, Column::Data, (from, None), Direction::Forward, |member, _| {
        members.push(member.to_vec());
        match members.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    // The first name that is greater than the last one: that with a zero byte more.
    let full = (members.len() == most).then(|| members.last()).flatten();
    let next = full.map(|last| [last, &b"\0"[..]].concat());
    Ok((members, next))
}

/// Keeps the members that all other sets have (`are_in`), or that none has.
fn retain(context: &mut Context<'_>, members: &mut Vec<Vec<u8>>, others: &[Collection], are_in: bool) -> Outcome {
    let mut outcome = Ok(());
    members.retain(|member| {
        for other in others {
            match is_member(context, other, member) {
                Ok(is_in) if is_in == are_in => {}
                Ok(_) => return false,
                Err(error) => {
                    outcome = Err(error);
                    return false;
                }
            }
        }
        true
    });
    outcome
}

/// Calls `visit` with all members of a set.
async fn visit_all(steps: &Steps, set: Collection, mut visit: impl FnMut(Vec<u8>)) -> Outcome {
    let (set, mut visited, mut next) = (Arc::new(set), 0, Some(Vec::new()));
    while let Some(from) = next {
        let set = Arc::clone(&set);
        let read = steps.run(move |context| piece(context, &set, &from, members_per_step()));
        let (members, from) = read.await?;
        next = from;
        visited += members.len() as u64;
        members.into_iter().for_each(&mut visit);
    }
    match visited == set.count {
        true => Ok(()),
        false => Err(damaged_members()),
    }
}

async fn union(steps: &Steps, sets: Vec<Option<Collection>>) -> Result<Vec<Vec<u8>>, CommandError> {
    let hasher = foldhash::fast::RandomState::default();
    // With room for all from the beginning: to make more takes long when there are many.
    let most = members_of(&sets) as usize;
    let mut found: Vec<Vec<u8>> = Vec::with_capacity(most);
    // By the hash of a member, its index in `found`.
    let mut indexes: HashTable<usize> = HashTable::with_capacity(most);
    for set in sets.into_iter().flatten() {
        visit_all(steps, set, |member| {
            let hash = hasher.hash_one(&*member);
            if indexes.find(hash, |index| found[*index] == member).is_none() {
                indexes.insert_unique(hash, found.len(), |index| hasher.hash_one(&*found[*index]));
                found.push(member);
            }
        })
        .await?;
    }
    Ok(found)
}

/// The members of the first set that no other has. Others that are no larger than it are read into memory; larger ones
/// are asked for each member.
async fn difference(steps: &Steps, sets: Vec<Option<Collection>>) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut sets = sets.into_iter();
    let Some(first) = sets.next().flatten() else {
        return Ok(Vec::new());
    };
    let (small, large): (Vec<_>, Vec<_>) = sets.flatten().partition(|other| other.count <= first.count);
    let most = small.iter().map(|other| other.count).sum::<u64>() as usize;
    let mut excluded: HashSet<Vec<u8>, foldhash::fast::RandomState> =
        HashSet::with_capacity_and_hasher(most, Default::default());
    for other in small {
        visit_all(steps, other, |member| {
            excluded.insert(member);
        })
        .await?;
    }
    let (first, large, mut found): (_, Arc<[Collection]>, _) = (Arc::new(first), large.into(), Vec::new());
    let excluded = Arc::new(excluded);
    let mut next = Some(Vec::new());
    while let Some(from) = next {
        let (first, large, excluded) = (Arc::clone(&first), Arc::clone(&large), Arc::clone(&excluded));
        let read = steps.run(move |context| {
            let (mut members, next) = piece(context, &first, &from, asked_per_step())?;
            members.retain(|member| !excluded.contains(member));
            retain(context, &mut members, &large, false)?;
            Ok((members, next))
        });
        let (mut left, from) = read.await?;
        next = from;
        found.append(&mut left);
    }
    if let Ok(excluded) = Arc::try_unwrap(excluded) {
        steps.take_each(excluded, drop).await;
    }
    Ok(found)
}

/// SINTERCARD numkeys key [key …] [LIMIT limit]
pub fn sintercard(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let key_count = parse_integer(arguments.get(1))
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| CommandError::text("ERR numkeys should be greater than 0"))?;
    if key_count > arguments.len() - 2 {
        return Err(CommandError::text(
            "ERR Number of keys can't be greater than number of args",
        ));
    }
    let mut limit = 0;
    let mut rest = arguments.iter().skip(2 + key_count);
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or(CommandError::Syntax)?;
        if !is_option(option, "LIMIT") {
            return Err(CommandError::Syntax);
        }
        limit = parse_integer(value)
            .filter(|limit| *limit >= 0)
            .ok_or_else(|| CommandError::text("ERR LIMIT can't be negative"))?;
    }
    let sets = sets_at(context, 2..2 + key_count)?;
    context.in_steps((members_of(&sets), Vec::new()), |steps| async move {
        let mut found = 0;
        visit_intersection(&steps, sets, |_| {
            found += 1;
            match found == limit {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await?;
        let reply = move |context: &mut Context<'_>| {
            context.reply.integer(found);
            Ok(())
        };
        steps.run(reply).await
    })
}

/// SSCAN key cursor [MATCH pattern] [COUNT count]
pub fn sscan(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let cursor = parse_cursor(arguments.get(2))?;
    let (mut next, mut found) = (0, Vec::new());
    if let Some(set) = context.collection(arguments.get(1), Type::Set)? {
        let options = ScanOptions::parse(arguments, Scanned::Members)?;
        let is_wanted = |member: &[u8]| options.pattern.is_none_or(|pattern| matches_key(pattern, member));
        if cursor == 0 && is_compact(context, &set)? {
            visit_members(context, &set, |member| {
                found.extend(is_wanted(member).then(|| member.to_vec()));
            })?;
        } else {
            let mut members = Members {
                view: &mut context.view,
                collection: &set,
                item: |member: &[u8], _: &[u8]| is_wanted(member).then(|| member.to_vec()),
            };
            let walked = walk(&mut members, (0, cursor), options.count.min(SCAN_COUNT_MAX))?;
            (next, found) = (walked.next.in_collection(), walked.items);
        }
    }
    context.reply.array(2);
    context.reply.text(itoa::Buffer::new().format(next));
    context.reply.array(found.len());
    found.iter().for_each(|member| context.reply.bulk(member));
    Ok(())
}
