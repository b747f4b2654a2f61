//! Whether two replies say the same.

use std::collections::BTreeSet;

use crate::harness::value::Value;

/// How the replies of a command are compared. Errors are always compared word by word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// Nothing may differ but the order of a map's entries and a set's members.
    Exact,
    /// Redis promises no order.
    Unordered,
    /// The same of names and values that follow each other.
    UnorderedPairs,
    /// Time passes: integers may differ by so much.
    Near(u64),
    /// Time passes: the third of four elements may differ by so much (XPENDING).
    Idle(u64),
    /// Only the kind must be the same, for this reason.
    Kind(&'static str),
    /// Fields of these names may differ.
    Without(&'static [&'static str]),
    /// A SCAN: what is found until the cursor is 0 again, in any order.
    Walk,
    /// Random: both must have the same shape, and be among what this command reads of the same key. An empty word is
    /// the key; without one the key is added.
    Random(&'static [&'static str]),
    /// A range by name in a sorted set: only compared when all members have one score; Redis promises nothing
    /// otherwise.
    Lex,
    /// Compared when the consumer is there: redis-server 7.0 creates it only for an entry that it gets, 7.2 always.
    WithConsumer,
    /// SPOP: as random as that, and the oracle's set is then made equal.
    Pop,
}

/// Error texts that were changed between redis-server 7.0 and 7.2: the command, the old text and the new.
const CHANGED_TEXTS: &[(&str, &str, &str)] = &[
    // ZRANK and ZREVRANK take WITHSCORE since 7.2.
    (
        "zrank",
        "ERR wrong number of arguments for 'zrank' command",
        "ERR syntax error",
    ),
    (
        "zrevrank",
        "ERR wrong number of arguments for 'zrevrank' command",
        "ERR syntax error",
    ),
    (
        "xread",
        "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
        "ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified.",
    ),
    (
        "xreadgroup",
        "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
        "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified.",
    ),
];

/// Redis 7.2 looks at their arguments first, 7.0 at the key, which may be of a wrong type or absent.
const ARGUMENTS_FIRST: [&str; 2] = ["bitcount", "bitpos"];

/// Whether Corelane's reply to a command says what redis-server's says.
pub(super) fn same(compare: Compare, doubles: bool, name: &str, ours: &Value, theirs: &Value) -> bool {
    let changed = |ours: &str, theirs: &str| CHANGED_TEXTS.contains(&(name, theirs, ours));
    let is_late = |theirs: &str| ARGUMENTS_FIRST.contains(&name) && theirs.starts_with("WRONGTYPE");
    match (ours, theirs) {
        (Value::Error(_), Value::Error(theirs)) if is_late(theirs) => return true,
        (Value::Error(ours), Value::Error(theirs)) => return ours == theirs || changed(ours, theirs),
        (Value::Error(_), Value::Integer(0 | -1)) if ARGUMENTS_FIRST.contains(&name) => return true,
        // Redis 7.2 refuses the one rank that cannot be negated.
        (Value::Error(text), _) if name == "lpos" && text.starts_with("ERR value is out of range, value must") => {
            return true;
        }
        (Value::Error(_), _) | (_, Value::Error(_)) => return false,
        _ => {}
    }
    let leaf = |ours: &Value, theirs: &Value| ours == theirs || (doubles && same_number(ours, theirs));
    match compare {
        Compare::Exact | Compare::Lex | Compare::WithConsumer => equal(ours, theirs, &leaf),
        Compare::Unordered => equal(&sorted(ours, 1), &sorted(theirs, 1), &leaf),
        Compare::UnorderedPairs => equal(&sorted(ours, 2), &sorted(theirs, 2), &leaf),
        Compare::Near(slack) => equal(ours, theirs, &|ours, theirs| near(ours, theirs, slack)),
        Compare::Idle(slack) => equal(&idle_taken_out(ours, slack), &idle_taken_out(theirs, slack), &leaf),
        Compare::Kind(_) | Compare::Random(_) | Compare::Pop => same_shape(ours, theirs),
        Compare::Without(names) => equal(&without(ours, names), &without(theirs, names), &leaf),
        Compare::Walk => unreachable!("a walk is compared as a whole"),
    }
}

/// Whether two replies are equal but for the order of maps and sets, and what `leaf` lets pass.
fn equal(ours: &Value, theirs: &Value, leaf: &dyn Fn(&Value, &Value) -> bool) -> bool {
    let all = |ours: &[Value], theirs: &[Value]| {
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| equal(ours, theirs, leaf))
    };
    match (ours, theirs) {
        (Value::Array(Some(ours)), Value::Array(Some(theirs))) | (Value::Push(ours), Value::Push(theirs)) => {
            all(ours, theirs)
        }
        (Value::Set(_), Value::Set(_)) | (Value::Map(_), Value::Map(_)) => {
            let (ours, theirs) = (sorted(ours, 1), sorted(theirs, 1));
            all(&elements(&ours), &elements(&theirs))
        }
        (ours, theirs) => leaf(ours, theirs),
    }
}

/// The elements of a reply; names and values of a map follow each other.
pub(super) fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(Some(elements)) | Value::Set(elements) | Value::Push(elements) => elements.clone(),
        Value::Map(entries) => {
            let flat = entries.iter().flat_map(|(name, value)| [name.clone(), value.clone()]);
            flat.collect()
        }
        _ => Vec::new(),
    }
}

/// A reply with its elements in order, `width` at a time.
fn sorted(value: &Value, width: usize) -> Value {
    let flat = elements(value);
    let width = if matches!(value, Value::Map(_)) { 2 } else { width };
    if flat.is_empty() || !flat.len().is_multiple_of(width) {
        return value.clone();
    }
    let mut groups: Vec<&[Value]> = flat.chunks(width).collect();
    groups.sort_by_cached_key(|group| group.iter().map(Value::render).collect::<Vec<_>>());
    let sorted = groups.concat();
    match value {
        Value::Map(_) => Value::Map(
            sorted
                .chunks(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        ),
        Value::Set(_) => Value::Set(sorted),
        _ => Value::Array(Some(sorted)),
    }
}

/// Whether both are texts of one number: redis-server 7.0 prints doubles with 17 digits.
fn same_number(ours: &Value, theirs: &Value) -> bool {
    let number = |value: &Value| value.text().and_then(|text| text.parse::<f64>().ok());
    let same_kind = std::mem::discriminant(ours) == std::mem::discriminant(theirs);
    same_kind && number(ours).is_some_and(|ours| Some(ours) == number(theirs))
}

fn near(ours: &Value, theirs: &Value, slack: u64) -> bool {
    match (ours, theirs) {
        // Below 0 it says that there is no key, or no deadline.
        (Value::Integer(ours), Value::Integer(theirs)) if *ours >= 0 && *theirs >= 0 => ours.abs_diff(*theirs) <= slack,
        (ours, theirs) => ours == theirs,
    }
}

/// Rounds the third of four elements down to 0 where it is below the slack.
fn idle_taken_out(value: &Value, slack: u64) -> Value {
    match value {
        Value::Array(Some(elements)) => match elements.as_slice() {
            [
                entry @ Value::Bulk(_),
                consumer @ Value::Bulk(_),
                Value::Integer(idle),
                count @ Value::Integer(_),
            ] if idle.unsigned_abs() <= slack => Value::Array(Some(vec![
                entry.clone(),
                consumer.clone(),
                Value::Integer(0),
                count.clone(),
            ])),
            elements => {
                let elements = elements.iter().map(|element| idle_taken_out(element, slack));
                Value::Array(Some(elements.collect()))
            }
        },
        other => other.clone(),
    }
}

/// A reply without the fields of these names, in maps and in arrays of names and values, at any depth.
fn without(value: &Value, names: &[&str]) -> Value {
    let is_named =
        |value: &Value| matches!(value, Value::Bulk(Some(text)) if names.iter().any(|name| name.as_bytes() == text));
    let flat = elements(value);
    let mut kept = Vec::new();
    let mut rest = flat.iter();
    while let Some(element) = rest.next() {
        if is_named(element) {
            rest.next();
        } else {
            kept.push(without(element, names));
        }
    }
    match value {
        Value::Array(Some(_)) => Value::Array(Some(kept)),
        Value::Map(_) => Value::Map(kept.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()),
        other => other.clone(),
    }
}

/// Whether two replies consist of the same kinds in the same places.
fn same_shape(ours: &Value, theirs: &Value) -> bool {
    let (our_elements, their_elements) = (elements(ours), elements(theirs));
    let is_null = |value: &Value| matches!(value, Value::Null | Value::Bulk(None) | Value::Array(None));
    std::mem::discriminant(ours) == std::mem::discriminant(theirs)
        && is_null(ours) == is_null(theirs)
        && our_elements.len() == their_elements.len()
        && our_elements
            .iter()
            .zip(&their_elements)
            .all(|(ours, theirs)| same_shape(ours, theirs))
}

/// The texts at all depths of a reply.
pub(super) fn texts(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(Some(_)) | Value::Set(_) | Value::Map(_) | Value::Push(_) => {
            elements(value).iter().flat_map(texts).collect()
        }
        // A double of RESP3 is a string in RESP2.
        Value::Double(digits) => BTreeSet::from([Value::Bulk(Some(digits.clone().into_bytes())).render()]),
        Value::Null | Value::Bulk(None) | Value::Array(None) => BTreeSet::new(),
        other => BTreeSet::from([other.render()]),
    }
}
