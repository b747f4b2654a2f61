//! SORT and SORT_RO: the elements of a list, a set or a sorted set in another order, or what their values name.
//!
//! Source: Redis 7.2's `sort.c`, oddities included. Patterns, numbers and texts that are compared end at a NUL there,
//! as C's strings do; only with STORE, whose result must not depend on the locale, are texts compared as a whole.

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction};
use super::lists::{End, List};
use super::steps::{Steps, members_per_step};
use crate::error::CommandError;
use crate::number::parse_double;
use crate::protocol::Arguments;
use crate::storage::encoding::{HashField, SCORE_MEMBERS, Type, split_score_key};
use crate::storage::transaction_scope::Mode;
use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// Keys of patterns that are asked for at once.
const PATTERN_KEYS_AT_ONCE: usize = 256;

/// SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [ASC | DESC] [ALPHA] [STORE destination]
pub fn sort(context: &mut Context<'_>) -> Outcome {
    let options = Options::parse(context.arguments, true)?;
    context.reading(|context| sort_generic(context, options))
}

/// SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern …] [ASC | DESC] [ALPHA]
pub fn sort_ro(context: &mut Context<'_>) -> Outcome {
    let options = Options::parse(context.arguments, false)?;
    sort_generic(context, options)
}

/// SORT's and SORT_RO's options.
struct Options {
    descending: bool,
    alpha: bool,
    offset: i64,
    count: i64,
    by: Option<Pattern>,
    /// A pattern that is the same for all elements was given: they keep the order that they have.
    keep_order: bool,
    get: Vec<Pattern>,
    store: Option<Vec<u8>>,
}

impl Options {
    fn parse(arguments: Arguments<'_>, may_store: bool) -> Result<Options, CommandError> {
        let mut options = Options {
            descending: false,
            alpha: false,
            offset: 0,
            count: -1,
            by: None,
            keep_order: false,
            get: Vec::new(),
            store: None,
        };
        let mut rest = arguments.iter().skip(2);
        while let Some(option) = rest.next() {
            match (option, rest.len()) {
                _ if is_option(option, "ASC") => options.descending = false,
                _ if is_option(option, "DESC") => options.descending = true,
                _ if is_option(option, "ALPHA") => options.alpha = true,
                (_, 2..) if is_option(option, "LIMIT") => {
                    options.offset = integer(rest.next().ok_or(CommandError::Syntax)?)?;
                    options.count = integer(rest.next().ok_or(CommandError::Syntax)?)?;
                }
                (_, 1..) if may_store && is_option(option, "STORE") => options.store = rest.next().map(<[u8]>::to_vec),
                (_, 1..) if is_option(option, "BY") => {
                    let pattern = Pattern::parse(rest.next().ok_or(CommandError::Syntax)?);
                    // Once it is given, a later pattern does not bring the sorting back.
                    options.keep_order |= !matches!(pattern, Pattern::Key { .. });
                    options.by = Some(pattern);
                }
                (_, 1..) if is_option(option, "GET") => {
                    options.get.extend(rest.next().map(Pattern::parse));
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(options)
    }

    /// Whether a pattern names keys. They are not locked while others run, so that all must be read at once.
    fn name_keys(&self) -> bool {
        let mut patterns = self.by.iter().chain(&self.get);
        patterns.any(|pattern| matches!(pattern, Pattern::Key { .. }))
    }

    /// Which of `len` elements are wanted.
    fn range(&self, len: u64) -> Range<usize> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let start = usize::try_from(self.offset.max(0)).unwrap_or(usize::MAX).min(len);
        let end = match usize::try_from(self.count) {
            Ok(count) => start.saturating_add(count).min(len),
            Err(_) => len,
        };
        start..end
    }
}

/// Where BY and GET find the value for an element.
enum Pattern {
    /// `#`: it is the element.
    Element,
    /// Without `*`: there is none.
    Nothing,
    /// Under the key that the pattern becomes when the element takes the place of its first `*`.
    Key {
        before: Vec<u8>,
        after: Vec<u8>,
        /// Behind `->`: in this field of the hash there.
        field: Option<Vec<u8>>,
    },
}

impl Pattern {
    fn parse(pattern: &[u8]) -> Pattern {
        let text = until_nul(pattern);
        if text == b"#" {
            return Pattern::Element;
        }
        let Some(star) = text.iter().position(|byte| *byte == b'*') else {
            return Pattern::Nothing;
        };
        let arrow = text[star + 1..].windows(2).position(|pair| pair == b"->");
        let arrow = arrow.map(|offset| star + 1 + offset);
        // An arrow at the end belongs to the key.
        let arrow = arrow.filter(|arrow| arrow + 2 < text.len());
        Pattern::Key {
            before: pattern[..star].to_vec(),
            after: pattern[star + 1..arrow.unwrap_or(pattern.len())].to_vec(),
            field: arrow.map(|arrow| pattern[arrow + 2..].to_vec()),
        }
    }

    /// The key in which the value for an element is.
    fn key(&self, element: &[u8]) -> Option<Vec<u8>> {
        match self {
            Pattern::Element | Pattern::Nothing => None,
            Pattern::Key { before, after, .. } => Some([&before[..], element, &after[..]].concat()),
        }
    }

    /// The value for an element, whose key [`need_keys`] was told of; `None` if there is none of the right type.
    fn value(&self, context: &mut Context<'_>, element: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        let field = match self {
            Pattern::Element => return Ok(Some(element.to_vec())),
            Pattern::Nothing => return Ok(None),
            Pattern::Key { field, .. } => field,
        };
        let key = self.key(element).unwrap_or_default();
        let (database, now_ms) = (context.database, context.now_ms);
        let hash = match (context.read(&key)?, field) {
            (Some(record), None) if record.kind == Type::String => return Ok(Some(record.payload.to_vec())),
            (Some(record), Some(_)) if record.kind == Type::Hash => Collection::of_record(database, &key, &record)?,
            _ => return Ok(None),
        };
        let stored = context.member(&hash, Column::Data, field.as_deref().unwrap_or_default())?;
        let field = stored.and_then(HashField::decode);
        let living = field.filter(|field| field.is_alive(now_ms));
        Ok(living.map(|field| field.value.to_vec()))
    }
}

/// The values that patterns name for elements are about to be read.
///
/// # Errors
/// The keys cannot be used here and now.
fn need_keys(context: &mut Context<'_>, patterns: &[Pattern], elements: &[Vec<u8>]) -> Outcome {
    let database = context.database;
    for part in elements.chunks(PATTERN_KEYS_AT_ONCE) {
        let mut keys_named = Vec::new();
        for element in part {
            let keys = patterns.iter().filter_map(|pattern| pattern.key(element));
            keys_named.extend(keys.map(|key| (database, key)));
        }
        if !keys_named.is_empty() {
            context.view.need_keys(&keys_named, Mode::Shared)?;
        }
    }
    Ok(())
}

/// SORT and SORT_RO.
fn sort_generic(context: &mut Context<'_>, mut options: Options) -> Outcome {
    let source = open(context, context.arguments.get(1))?;
    if options.keep_order && options.store.is_some() && source.as_ref().is_some_and(|source| source.kind == Type::Set) {
        // A set has no order of its own that a list could keep.
        (options.keep_order, options.alpha, options.by) = (false, true, None);
    }
    let writes = options
        .store
        .iter()
        .map(|target| (context.database, target.clone()))
        .collect();
    let members = source.as_ref().map_or(0, |source| source.count);
    context.may_take_steps &= !options.name_keys();
    context.in_steps((members, writes), |steps| async move {
        let options = Arc::new(options);
        let elements = match source {
            None => Vec::new(),
            Some(source) if options.keep_order => in_order(&steps, source, &options).await?,
            Some(source) => {
                let range = options.range(source.count);
                let sorted = sorted(&steps, source, &options).await?;
                let (mut wanted, mut index) = (Vec::new(), 0);
                let take = |element| {
                    if range.contains(&index) {
                        wanted.push(element);
                    }
                    index += 1;
                };
                steps.take_each(sorted, take).await;
                wanted
            }
        };
        match options.store {
            Some(_) => store(&steps, elements, options).await,
            None => reply(&steps, elements, options).await,
        }
    })
}

/// The collection to be sorted; `None` if there is no such key.
fn open(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Collection>, CommandError> {
    let database = context.database;
    match context.read_header(key)? {
        None => Ok(None),
        Some(record) => match record.kind {
            Type::List | Type::Set | Type::SortedSet => Collection::of_record(database, key, &record).map(Some),
            Type::String | Type::Hash | Type::Stream => Err(CommandError::WrongType),
        },
    }
}

/// The wanted elements in the order that they have; a set's cannot be reversed.
async fn in_order(steps: &Steps, source: Collection, options: &Options) -> Result<Vec<Vec<u8>>, CommandError> {
    let direction = match options.descending && source.kind != Type::Set {
        true => Direction::Backward,
        false => Direction::Forward,
    };
    let range = options.range(source.count);
    read_elements(steps, source, range, direction).await
}

/// A range of the elements of a list, a set or a sorted set in its own order or backwards. A list's are found by their
/// index; of the others, those before the range are walked over.
async fn read_elements(
    steps: &Steps,
    source: Collection,
    range: Range<usize>,
    direction: Direction,
) -> Result<Vec<Vec<u8>>, CommandError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if source.kind == Type::List {
        return read_list(steps, List::of_collection(source)?, range, direction).await;
    }
    let (source, mut stretch) = (Arc::new(source), (Vec::new(), None));
    if source.kind == Type::SortedSet {
        stretch = (SCORE_MEMBERS.0.to_vec(), Some(SCORE_MEMBERS.1.to_vec()));
    }
    let (mut elements, mut walked_over) = (Vec::new(), 0);
    while elements.len() < range.len() {
        let (source, part) = (Arc::clone(&source), stretch.clone());
        let (read, last) = steps
            .run(move |context| read_some(context, &source, part, direction))
            .await?;
        for element in read {
            if walked_over < range.start {
                walked_over += 1;
            } else if elements.len() < range.len() {
                elements.push(element);
            }
        }
        match (last, direction) {
            (None, _) => break,
            (Some(last), Direction::Forward) => stretch.0 = [&last[..], &[0]].concat(),
            (Some(last), Direction::Backward) => stretch.1 = Some(last),
        }
    }
    Ok(elements)
}

/// The key of the element that was read last, if there may be more.
type LastKey = Option<Vec<u8>>;

/// Elements of a set or a sorted set from one end of a range on.
fn read_some(
    context: &mut Context<'_>,
    source: &Collection,
    (from, to): (Vec<u8>, Option<Vec<u8>>),
    direction: Direction,
) -> Result<(Vec<Vec<u8>>, LastKey), CommandError> {
    let (mut elements, mut last) = (Vec::new(), None);
    let column = match source.kind {
        Type::SortedSet => Column::Score,
        _ => Column::Data,
    };
    context.scan_members(source, column, (&from, to.as_deref()), direction, |key, _| {
        let element = match column {
            Column::Score => split_score_key(key).map(|(_, member)| member),
            _ => Some(key),
        };
        elements.extend(element.map(<[u8]>::to_vec));
        if elements.len() < members_per_step() {
            return ControlFlow::Continue(());
        }
        last = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok((elements, last))
}

async fn read_list(
    steps: &Steps,
    list: List,
    range: Range<usize>,
    direction: Direction,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let (list, mut elements) = (Arc::new(list), Vec::new());
    for first in range.clone().step_by(members_per_step()) {
        let (start, end) = (first as u64, range.end.min(first + members_per_step()) as u64);
        let indices = match direction {
            Direction::Forward => start..end,
            Direction::Backward => list.len() - end..list.len() - start,
        };
        let list = Arc::clone(&list);
        let read = move |context: &mut Context<'_>| {
            let mut elements = Vec::new();
            list.walk(&mut context.view, indices, direction, |_, element| {
                elements.push(element.to_vec());
                ControlFlow::Continue(())
            })?;
            Ok(elements)
        };
        elements.append(&mut steps.run(read).await?);
    }
    Ok(elements)
}

/// Weights and elements that are to be weighed.
type Weighed<T> = Vec<(T, Vec<u8>)>;

/// All elements, sorted. Those whose weights are equal texts keep their order, as Redis's do unless BY and LIMIT leave
/// it open.
async fn sorted(steps: &Steps, source: Collection, options: &Arc<Options>) -> Result<Vec<Vec<u8>>, CommandError> {
    let all = 0..usize::try_from(source.count).unwrap_or(usize::MAX);
    let elements = read_elements(steps, source, all, Direction::Forward).await?;
    let for_keys = Arc::clone(options);
    let elements = steps.run(move |context| {
        need_keys(context, for_keys.by.as_slice(), &elements)?;
        Ok(elements)
    });
    let elements = elements.await?;
    let directed = |ordering: Ordering| match options.descending {
        true => ordering.reverse(),
        false => ordering,
    };
    if !options.alpha {
        let weigh =
            |context: &mut Context<'_>, (options, weighed): &mut (Arc<Options>, Weighed<f64>), element: Vec<u8>| {
                let weight = match &options.by {
                    None => number(&element)?,
                    Some(by) => by.value(context, &element)?.map_or(Ok(0.0), |value| number(&value))?,
                };
                weighed.push((weight, element));
                Ok(())
            };
        let state = (Arc::clone(options), Vec::with_capacity(elements.len()));
        let (_, weighed) = steps.run_with_each(elements, state, weigh).await?;
        let compare = |(weight_a, a): &(f64, Vec<u8>), (weight_b, b): &(f64, Vec<u8>)| {
            let by_weight = weight_a.partial_cmp(weight_b).unwrap_or(Ordering::Equal);
            directed(by_weight.then_with(|| a.cmp(b)))
        };
        return Ok(elements_of(steps, steps.sort(weighed, compare).await).await);
    }
    let compare = |a: &[u8], b: &[u8]| match options.store {
        Some(_) => a.cmp(b),
        None => until_nul(a).cmp(until_nul(b)),
    };
    if options.by.is_none() {
        return Ok(steps.sort(elements, |a, b| directed(compare(a, b))).await);
    }
    let weigh = |context: &mut Context<'_>,
                 (options, weighed): &mut (Arc<Options>, Weighed<Option<Vec<u8>>>),
                 element: Vec<u8>| {
        let by = options.by.as_ref().ok_or(CommandError::Internal)?;
        weighed.push((by.value(context, &element)?, element));
        Ok(())
    };
    let state = (Arc::clone(options), Vec::with_capacity(elements.len()));
    let (_, weighed) = steps.run_with_each(elements, state, weigh).await?;
    let compare_weights = |(weight_a, _): &(Option<Vec<u8>>, Vec<u8>), (weight_b, _): &(Option<Vec<u8>>, Vec<u8>)| {
        directed(match (weight_a, weight_b) {
            (Some(a), Some(b)) => compare(a, b),
            // No value comes before all values.
            (a, b) => a.is_some().cmp(&b.is_some()),
        })
    };
    Ok(elements_of(steps, steps.sort(weighed, compare_weights).await).await)
}

async fn elements_of<T>(steps: &Steps, weighed: Weighed<T>) -> Vec<Vec<u8>> {
    let mut elements = Vec::with_capacity(weighed.len());
    steps.take_each(weighed, |(_, element)| elements.push(element)).await;
    elements
}

/// A weight as C's `strtod` reads it: nothing is 0, and blanks may stand before the number.
fn number(text: &[u8]) -> Result<f64, CommandError> {
    let text = until_nul(text);
    if text.is_empty() {
        return Ok(0.0);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    parse_double(&text[start..]).ok_or(CommandError::text(
        "ERR One or more scores can't be converted into double",
    ))
}

fn until_nul(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    &text[..end]
}

/// What GET names for elements is about to be read.
async fn need_values(
    steps: &Steps,
    elements: Vec<Vec<u8>>,
    options: &Arc<Options>,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let options = Arc::clone(options);
    let need = move |context: &mut Context<'_>| {
        need_keys(context, &options.get, &elements)?;
        Ok(elements)
    };
    steps.run(need).await
}

/// Answers the elements, or what GET names for each.
async fn reply(steps: &Steps, elements: Vec<Vec<u8>>, options: Arc<Options>) -> Outcome {
    let elements = need_values(steps, elements, &options).await?;
    let values = elements.len() * options.get.len().max(1);
    let header = move |context: &mut Context<'_>| {
        context.reply.array(values);
        Ok(())
    };
    steps.run(header).await?;
    let reply = |context: &mut Context<'_>, options: &mut Arc<Options>, element: Vec<u8>| {
        if options.get.is_empty() {
            context.reply.bulk(&element);
        }
        for pattern in &options.get {
            match pattern.value(context, &element)? {
                Some(value) => context.reply.bulk(&value),
                None => context.reply.null(),
            }
        }
        Ok(())
    };
    steps.run_with_each(elements, options, reply).await?;
    Ok(())
}

/// Puts the elements, or what GET names for each, into a list in place of whatever is under the option's key.
async fn store(steps: &Steps, elements: Vec<Vec<u8>>, options: Arc<Options>) -> Outcome {
    let elements = need_values(steps, elements, &options).await?;
    // All values are read before the list is there, which may replace one of them.
    let values = match options.get.is_empty() {
        true => elements,
        false => {
            let state = (
                Arc::clone(&options),
                Vec::with_capacity(elements.len() * options.get.len()),
            );
            let read = |context: &mut Context<'_>, (options, values): &mut (Arc<Options>, Vec<_>), element: Vec<u8>| {
                for pattern in &options.get {
                    values.push(pattern.value(context, &element)?.unwrap_or_default());
                }
                Ok(())
            };
            steps.run_with_each(elements, state, read).await?.1
        }
    };
    let push = |context: &mut Context<'_>, (options, made): &mut (Arc<Options>, Option<List>), value: Vec<u8>| {
        let list = match made {
            Some(list) => list,
            // In the step of its first element: the new list is in memory from the beginning.
            None => made.insert(List::create(context, options.store.as_deref().unwrap_or_default())?),
        };
        list.push(context, End::Right, &value)
    };
    let (options, made) = steps.run_with_each(values, (options, None), push).await?;
    let finish = move |context: &mut Context<'_>| {
        let len = match made {
            None => {
                context.delete_target(options.store.as_deref().unwrap_or_default())?;
                0
            }
            Some(mut list) => {
                list.save_after(context, "sortstore")?;
                list.len()
            }
        };
        context.reply.integer(len as i64);
        Ok(())
    };
    steps.run(finish).await
}
