//! SORT and SORT_RO: the elements of a list, a set or a sorted set in another order, or what their values name.
//!
//! Source: Redis 7.2's `sort.c`, oddities included. Patterns, numbers and texts that are compared end at a NUL there,
//! as C's strings do; only with STORE, whose result must not depend on the locale, are texts compared as a whole.

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction};
use super::lists::{End, List};
use crate::error::CommandError;
use crate::number::parse_double;
use crate::protocol::Arguments;
use crate::storage::encoding::{HashField, SCORE_MEMBERS, Type, split_score_key};
use crate::storage::transaction_scope::Mode;
use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};

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
struct Options<'a> {
    descending: bool,
    alpha: bool,
    offset: i64,
    count: i64,
    by: Option<Pattern<'a>>,
    /// A pattern that is the same for all elements was given: they keep the order that they have.
    keep_order: bool,
    get: Vec<Pattern<'a>>,
    store: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(arguments: Arguments<'a>, may_store: bool) -> Result<Options<'a>, CommandError> {
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
                (_, 1..) if may_store && is_option(option, "STORE") => options.store = rest.next(),
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
enum Pattern<'a> {
    /// `#`: it is the element.
    Element,
    /// Without `*`: there is none.
    Nothing,
    /// Under the key that the pattern becomes when the element takes the place of its first `*`.
    Key {
        before: &'a [u8],
        after: &'a [u8],
        /// Behind `->`: in this field of the hash there.
        field: Option<&'a [u8]>,
    },
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a [u8]) -> Pattern<'a> {
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
            before: &pattern[..star],
            after: &pattern[star + 1..arrow.unwrap_or(pattern.len())],
            field: arrow.map(|arrow| &pattern[arrow + 2..]),
        }
    }

    /// The key in which the value for an element is.
    fn key(&self, element: &[u8]) -> Option<Vec<u8>> {
        match self {
            Pattern::Element | Pattern::Nothing => None,
            Pattern::Key { before, after, .. } => Some([before, element, after].concat()),
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
        let stored = context.member(&hash, Column::Data, field.unwrap_or_default())?;
        let field = stored.and_then(HashField::decode);
        let living = field.filter(|field| field.is_alive(now_ms));
        Ok(living.map(|field| field.value.to_vec()))
    }
}

/// The values that patterns name for elements are about to be read.
///
/// # Errors
/// The keys cannot be used here and now.
fn need_keys(context: &mut Context<'_>, patterns: &[Pattern<'_>], elements: &[Vec<u8>]) -> Outcome {
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
fn sort_generic(context: &mut Context<'_>, mut options: Options<'_>) -> Outcome {
    let source = open(context, context.arguments.get(1))?;
    if options.keep_order && options.store.is_some() && source.as_ref().is_some_and(|source| source.kind == Type::Set) {
        // A set has no order of its own that a list could keep.
        (options.keep_order, options.alpha, options.by) = (false, true, None);
    }
    let elements = match source {
        None => Vec::new(),
        Some(source) if options.keep_order => in_order(context, source, &options)?,
        Some(source) => {
            let range = options.range(source.count);
            let sorted = sorted(context, source, &options)?;
            sorted.into_iter().skip(range.start).take(range.len()).collect()
        }
    };
    match options.store {
        Some(target) => store(context, target, elements, &options),
        None => reply(context, &elements, &options),
    }
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
fn in_order(
    context: &mut Context<'_>,
    source: Collection,
    options: &Options<'_>,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let direction = match options.descending && source.kind != Type::Set {
        true => Direction::Backward,
        false => Direction::Forward,
    };
    let range = options.range(source.count);
    read_elements(context, source, range, direction)
}

/// A range of the elements of a list, a set or a sorted set in its own order or backwards. A list's are found by their
/// index; of the others, those before the range are walked over.
fn read_elements(
    context: &mut Context<'_>,
    source: Collection,
    range: Range<usize>,
    direction: Direction,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut elements = Vec::new();
    if range.is_empty() {
        return Ok(elements);
    }
    if source.kind == Type::List {
        let list = List::of_collection(source)?;
        let (start, end) = (range.start as u64, range.end as u64);
        let indices = match direction {
            Direction::Forward => start..end,
            Direction::Backward => list.len() - end..list.len() - start,
        };
        list.walk(&mut context.view, indices, direction, |_, element| {
            elements.push(element.to_vec());
            ControlFlow::Continue(())
        })?;
        return Ok(elements);
    }
    let mut walked_over = 0;
    let mut visit = |element: &[u8]| {
        if walked_over < range.start {
            walked_over += 1;
            return ControlFlow::Continue(());
        }
        elements.push(element.to_vec());
        match elements.len() < range.len() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    if source.kind == Type::SortedSet {
        let (from, to) = &SCORE_MEMBERS;
        context.scan_members(&source, Column::Score, (from, Some(to)), direction, |key, _| {
            split_score_key(key).map_or(ControlFlow::Continue(()), |(_, member)| visit(member))
        })?;
    } else {
        context.scan_members(&source, Column::Data, (b"", None), direction, |member, _| visit(member))?;
    }
    Ok(elements)
}

/// All elements, sorted. Those whose weights are equal texts keep their order, as Redis's do unless BY and LIMIT leave
/// it open.
fn sorted(context: &mut Context<'_>, source: Collection, options: &Options<'_>) -> Result<Vec<Vec<u8>>, CommandError> {
    let all = 0..usize::try_from(source.count).unwrap_or(usize::MAX);
    let mut elements = read_elements(context, source, all, Direction::Forward)?;
    need_keys(context, options.by.as_slice(), &elements)?;
    let directed = |ordering: Ordering| match options.descending {
        true => ordering.reverse(),
        false => ordering,
    };
    if !options.alpha {
        let mut weighted = Vec::with_capacity(elements.len());
        for element in elements {
            let weight = match &options.by {
                None => number(&element)?,
                Some(by) => by.value(context, &element)?.map_or(Ok(0.0), |value| number(&value))?,
            };
            weighted.push((weight, element));
        }
        weighted.sort_by(|(weight_a, a), (weight_b, b)| {
            let by_weight = weight_a.partial_cmp(weight_b).unwrap_or(Ordering::Equal);
            directed(by_weight.then_with(|| a.cmp(b)))
        });
        return Ok(weighted.into_iter().map(|(_, element)| element).collect());
    }
    let compare = |a: &[u8], b: &[u8]| match options.store {
        Some(_) => a.cmp(b),
        None => until_nul(a).cmp(until_nul(b)),
    };
    let Some(by) = &options.by else {
        elements.sort_by(|a, b| directed(compare(a, b)));
        return Ok(elements);
    };
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        weighted.push((by.value(context, &element)?, element));
    }
    weighted.sort_by(|(weight_a, _), (weight_b, _)| {
        directed(match (weight_a, weight_b) {
            (Some(a), Some(b)) => compare(a, b),
            // No value comes before all values.
            (a, b) => a.is_some().cmp(&b.is_some()),
        })
    });
    Ok(weighted.into_iter().map(|(_, element)| element).collect())
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

/// Answers the elements, or what GET names for each.
fn reply(context: &mut Context<'_>, elements: &[Vec<u8>], options: &Options<'_>) -> Outcome {
    need_keys(context, &options.get, elements)?;
    context.reply.array(elements.len() * options.get.len().max(1));
    for element in elements {
        if options.get.is_empty() {
            context.reply.bulk(element);
        }
        for pattern in &options.get {
            match pattern.value(context, element)? {
                Some(value) => context.reply.bulk(&value),
                None => context.reply.null(),
            }
        }
    }
    Ok(())
}

/// Puts the elements, or what GET names for each, into a list in place of whatever is under `target`.
fn store(context: &mut Context<'_>, target: &[u8], elements: Vec<Vec<u8>>, options: &Options<'_>) -> Outcome {
    need_keys(context, &options.get, &elements)?;
    // All values are read before the list is there, which may replace one of them.
    let values = match options.get.is_empty() {
        true => elements,
        false => {
            let mut values = Vec::with_capacity(elements.len() * options.get.len());
            for element in elements {
                for pattern in &options.get {
                    values.push(pattern.value(context, &element)?.unwrap_or_default());
                }
            }
            values
        }
    };
    if values.is_empty() {
        context.delete_target(target)?;
        context.reply.integer(0);
        return Ok(());
    }
    let mut list = List::create(context, target)?;
    for value in values {
        list.push(context, End::Right, value)?;
    }
    list.save_after(context, "sortstore")?;
    context.reply.integer(list.len() as i64);
    Ok(())
}
