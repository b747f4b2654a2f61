//! Unions, intersections and differences of sorted sets, and of sets, whose members count as having the score 1.

use super::{Entry, Outcome, in_order, reply_entry, reply_header, store_sorted_set};
use crate::commands::Context;
use crate::commands::arguments::{integer, is_option};
use crate::commands::collection::{Collection, Column, Direction};
use crate::commands::steps::{Steps, asked_per_step, members_per_step};
use crate::error::CommandError;
use crate::number::{parse_double, parse_integer};
use crate::protocol::Arguments;
use crate::storage::encoding::{Type, split_score_value};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What is made of the sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How a member's scores in several sources become one.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // inf + -inf is 0, says Redis.
            Aggregate::Sum => not_nan(a + b),
            Aggregate::Min => a.min(b),
            Aggregate::Max => a.max(b),
        }
    }
}

fn not_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// A key that a command reads: `None` if it is absent.
struct Source {
    collection: Option<Collection>,
    weight: f64,
}

impl Source {
    fn open(context: &mut Context<'_>, key: &[u8]) -> Result<Source, CommandError> {
        let database = context.database;
        let collection = match context.read(key)? {
            Some(record) if matches!(record.kind, Type::SortedSet | Type::Set) => {
                Some(Collection::of_record(database, key, &record)?)
            }
            Some(_) => return Err(CommandError::WrongType),
            None => None,
        };
        Ok(Source {
            collection,
            weight: 1.0,
        })
    }

    fn count(&self) -> u64 {
        self.collection.as_ref().map_or(0, |collection| collection.count)
    }

    /// A member's weighted score here; infinity times 0 is no number yet: Redis looks at the sum only.
    fn score(&self, context: &mut Context<'_>, member: &[u8]) -> Result<Option<f64>, CommandError> {
        let Some(collection) = &self.collection else {
            return Ok(None);
        };
        match context.member(collection, Column::Data, member)? {
            Some(value) => self.weighted(value).map(Some).ok_or_else(super::damaged),
            None => Ok(None),
        }
    }

    /// The weighted score that a member's value in `data` stands for: in a set it says something else, and the score is
    /// 1.
    fn weighted(&self, value: &[u8]) -> Option<f64> {
        let score = match &self.collection {
            Some(collection) if collection.kind == Type::Set => Some(1.0),
            _ => split_score_value(value),
        };
        Some(score? * self.weight)
    }

    /// At most `count` members from the name `from` on, with their weighted scores (infinity times 0 is 0), in the
    /// order of names.
    fn page(&self, context: &mut Context<'_>, from: &[u8], count: usize) -> Result<Vec<Entry>, CommandError> {
        let mut entries = Vec::new();
        let Some(collection) = &self.collection else {
            return Ok(entries);
        };
        let mut is_damaged = false;
        context.scan_members(
            collection,
            Column::Data,
            (from, None),
            Direction::Forward,
            |member, value| {
                let Some(score) = self.weighted(value) else {
                    is_damaged = true;
                    return ControlFlow::Break(());
                };
                let (score, member) = (not_nan(score), member.to_vec());
                entries.push(Entry { score, member });
                match entries.len() < count {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            },
        )?;
        if is_damaged { Err(super::damaged()) } else { Ok(entries) }
    }
}

/// What one of the commands was asked for.
struct Request {
    sources: Vec<Source>,
    aggregate: Aggregate,
    with_scores: bool,
    /// ZINTERCARD stops at so many; 0 for no limit.
    limit: u64,
}

/// What a command's options may be.
#[derive(Clone, Copy)]
struct Grammar {
    operation: Operation,
    /// Where `numkeys` is.
    count_place: usize,
    /// Whether the command only counts: LIMIT, and no other option.
    counts: bool,
    /// The command's name, for an error.
    name: &'static str,
}

impl Request {
    /// Reads `numkeys key [key …] [WEIGHTS weight …] [AGGREGATE SUM | MIN | MAX] [WITHSCORES] [LIMIT limit]` and opens
    /// the keys, before the options are looked at, as in Redis.
    fn parse(context: &mut Context<'_>, grammar: Grammar) -> Result<Request, CommandError> {
        let arguments = context.arguments.from(grammar.count_place);
        let count = integer(arguments.get(0))?;
        if count < 1 {
            return Err(CommandError::text(format!(
                "ERR at least 1 input key is needed for '{}' command",
                grammar.name
            )));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > arguments.len() - 1 {
            return Err(CommandError::Syntax);
        }
        let keys = arguments.iter().skip(1).take(count);
        let sources: Result<_, _> = context.reading(|context| keys.map(|key| Source::open(context, key)).collect());
        let mut request = Request {
            sources: sources?,
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: 0,
        };
        request.parse_options(arguments.from(count + 1), grammar)?;
        Ok(request)
    }

    fn parse_options(&mut self, options: Arguments<'_>, grammar: Grammar) -> Outcome {
        let combines = grammar.operation != Operation::Difference && !grammar.counts;
        let stores = grammar.count_place == 2;
        let mut rest = options.iter();
        while let Some(option) = rest.next() {
            match option {
                _ if combines && rest.len() >= self.sources.len() && is_option(option, "WEIGHTS") => {
                    for (source, weight) in self.sources.iter_mut().zip(rest.by_ref()) {
                        let invalid = || CommandError::text("ERR weight value is not a float");
                        source.weight = parse_double(weight).ok_or_else(invalid)?;
                    }
                }
                _ if combines && rest.len() >= 1 && is_option(option, "AGGREGATE") => {
                    self.aggregate = parse_aggregate(rest.next().unwrap_or_default())?;
                }
                _ if !stores && !grammar.counts && is_option(option, "WITHSCORES") => self.with_scores = true,
                _ if grammar.counts && rest.len() >= 1 && is_option(option, "LIMIT") => {
                    let limit = parse_integer(rest.next().unwrap_or_default());
                    let invalid = || CommandError::text("ERR LIMIT can't be negative");
                    self.limit = limit.and_then(|limit| u64::try_from(limit).ok()).ok_or_else(invalid)?;
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(())
    }

    /// All members of the sources together.
    fn members(&self) -> u64 {
        self.sources.iter().map(Source::count).sum()
    }

    /// The members that the operation leaves, in any order; at most `limit`.
    async fn result(mut self, steps: &Steps, operation: Operation) -> Result<Vec<Entry>, CommandError> {
        if operation != Operation::Difference {
            // The smallest first, as in Redis: sums of scores depend on the order by their last bits.
            self.sources.sort_by_key(Source::count);
        }
        if operation == Operation::Union {
            return self.union(steps).await;
        }
        let (request, mut left, mut from) = (Arc::new(self), Vec::new(), Vec::new());
        loop {
            let request = Arc::clone(&request);
            let limit = request.limit;
            let read = move |context: &mut Context<'_>| {
                let (first, others) = request.sources.split_first().ok_or(CommandError::Internal)?;
                let page = first.page(context, &from, asked_per_step())?;
                let next = page.last().map(|last| [&last.member[..], &[0]].concat());
                let mut kept = Vec::new();
                for mut entry in page {
                    if request.keeps(context, &mut entry, others, operation)? {
                        kept.push(entry);
                    }
                }
                Ok((next, kept))
            };
            let (next, mut kept) = steps.run(read).await?;
            left.append(&mut kept);
            if limit > 0 && left.len() as u64 >= limit {
                left.truncate(limit as usize);
                return Ok(left);
            }
            match next {
                Some(next) => from = next,
                None => return Ok(left),
            }
        }
    }

    /// Whether a member of the first source is in all others (and what its score becomes), or in none.
    fn keeps(
        &self,
        context: &mut Context<'_>,
        entry: &mut Entry,
        others: &[Source],
        operation: Operation,
    ) -> Result<bool, CommandError> {
        for other in others {
            match (operation, other.score(context, &entry.member)?) {
                (Operation::Difference, None) => {}
                (_, Some(score)) if operation != Operation::Difference => {
                    entry.score = self.aggregate.of(entry.score, score);
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn union(self, steps: &Steps) -> Result<Vec<Entry>, CommandError> {
        // With room for all from the beginning: to make more takes long when there are many.
        let most = self.members() as usize;
        let mut scores: HashMap<Vec<u8>, f64, foldhash::fast::RandomState> =
            HashMap::with_capacity_and_hasher(most, Default::default());
        let aggregate = self.aggregate;
        for source in self.sources {
            let (source, mut from) = (Arc::new(source), Vec::new());
            loop {
                let source = Arc::clone(&source);
                let page = steps.run(move |context| source.page(context, &from, members_per_step()));
                let page = page.await?;
                let Some(last) = page.last() else { break };
                from = [&last.member[..], &[0]].concat();
                for Entry { score, member } in page {
                    let total = scores.entry(member);
                    total
                        .and_modify(|total| *total = aggregate.of(*total, score))
                        .or_insert(score);
                }
            }
        }
        let mut entries = Vec::with_capacity(scores.len());
        let mut add = |(member, score)| entries.push(Entry { score, member });
        steps.take_each(scores, &mut add).await;
        Ok(entries)
    }
}

fn parse_aggregate(argument: &[u8]) -> Result<Aggregate, CommandError> {
    match argument {
        _ if is_option(argument, "SUM") => Ok(Aggregate::Sum),
        _ if is_option(argument, "MIN") => Ok(Aggregate::Min),
        _ if is_option(argument, "MAX") => Ok(Aggregate::Max),
        _ => Err(CommandError::Syntax),
    }
}

/// ZUNION numkeys key [key …] [WEIGHTS weight …] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]
pub fn zunion(context: &mut Context<'_>) -> Outcome {
    combine_generic(context, Operation::Union, "zunion")
}

/// ZINTER numkeys key [key …] [WEIGHTS weight …] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]
pub fn zinter(context: &mut Context<'_>) -> Outcome {
    combine_generic(context, Operation::Intersection, "zinter")
}

/// ZDIFF numkeys key [key …] [WITHSCORES]
pub fn zdiff(context: &mut Context<'_>) -> Outcome {
    combine_generic(context, Operation::Difference, "zdiff")
}

/// ZUNION, ZINTER and ZDIFF.
fn combine_generic(context: &mut Context<'_>, operation: Operation, name: &'static str) -> Outcome {
    let grammar = Grammar {
        operation,
        count_place: 1,
        counts: false,
        name,
    };
    let request = Request::parse(context, grammar)?;
    let with_scores = request.with_scores;
    context.in_steps((request.members(), Vec::new()), |steps| async move {
        let entries = request.result(&steps, operation).await?;
        let entries = steps.sort(entries, in_order).await;
        let count = entries.len();
        let header = move |context: &mut Context<'_>| {
            reply_header(&mut context.reply, count, with_scores);
            Ok(())
        };
        steps.run(header).await?;
        let reply = |context: &mut Context<'_>, with_scores: &mut bool, Entry { score, member }: Entry| {
            reply_entry(&mut context.reply, score, &member, *with_scores);
            Ok(())
        };
        steps.run_with_each(entries, with_scores, reply).await?;
        Ok(())
    })
}

/// ZUNIONSTORE destination numkeys key [key …] [WEIGHTS weight …] [AGGREGATE SUM | MIN | MAX]
pub fn zunionstore(context: &mut Context<'_>) -> Outcome {
    combine_store_generic(context, Operation::Union, "zunionstore")
}

/// ZINTERSTORE destination numkeys key [key …] [WEIGHTS weight …] [AGGREGATE SUM | MIN | MAX]
pub fn zinterstore(context: &mut Context<'_>) -> Outcome {
    combine_store_generic(context, Operation::Intersection, "zinterstore")
}

/// ZDIFFSTORE destination numkeys key [key …]
pub fn zdiffstore(context: &mut Context<'_>) -> Outcome {
    combine_store_generic(context, Operation::Difference, "zdiffstore")
}

/// ZUNIONSTORE, ZINTERSTORE and ZDIFFSTORE.
fn combine_store_generic(context: &mut Context<'_>, operation: Operation, name: &'static str) -> Outcome {
    let grammar = Grammar {
        operation,
        count_place: 2,
        counts: false,
        name,
    };
    let request = Request::parse(context, grammar)?;
    let destination = context.arguments.get(1).to_vec();
    let writes = vec![(context.database, destination.clone())];
    context.in_steps((request.members(), writes), |steps| async move {
        let entries = request.result(&steps, operation).await?;
        store_sorted_set(&steps, destination, entries, name).await
    })
}

/// ZINTERCARD numkeys key [key …] [LIMIT limit]
pub fn zintercard(context: &mut Context<'_>) -> Outcome {
    let grammar = Grammar {
        operation: Operation::Intersection,
        count_place: 1,
        counts: true,
        name: "zintercard",
    };
    let request = Request::parse(context, grammar)?;
    context.in_steps((request.members(), Vec::new()), |steps| async move {
        let entries = request.result(&steps, Operation::Intersection).await?;
        let count = entries.len();
        steps.take_each(entries, drop).await;
        let reply = move |context: &mut Context<'_>| {
            context.reply.integer(count as i64);
            Ok(())
        };
        steps.run(reply).await
    })
}
