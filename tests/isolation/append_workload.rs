//! Transactions that append to lists and read them, on all shards: what [`append_checker`](super::append_checker) looks
//! at.
//!
//! A list is a list (`RPUSH` and `LRANGE`), or a string with commas (`APPEND` and `GET`), which `MGET` reads several of
//! at once. A new kind of transaction is a function and a line in [`KINDS`].

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::seq::IndexedRandom;

use super::append_checker::{Operation, Transaction};
use super::load::{Session, Words, Workload, executed, multi, words};
use crate::harness::value::Value;
use crate::storage::key_on;
use crate::transactions::SHARDS;

/// A list has so many elements before clients go on to the next one: reads stay short.
const ELEMENTS_PER_LIST: u64 = 48;

/// Operations of a transaction.
const OPERATIONS: std::ops::RangeInclusive<usize> = 1..=5;

/// One in so many reads is of the list before the present one.
const OLDER_SHARE: u32 = 8;

type Kind = fn(&AppendWorkload, &mut Session<Transaction>) -> io::Result<()>;

const KINDS: &[Kind] = &[
    AppendWorkload::run_alone,
    AppendWorkload::read_strings,
    AppendWorkload::run_as_multi,
    AppendWorkload::run_as_multi,
    AppendWorkload::run_as_script,
];

/// Runs one operation for each key; their commands and elements are the arguments.
const SCRIPT: &str = "\
local answers = {}
for position, key in ipairs(KEYS) do
  local command, element = ARGV[2 * position - 1], ARGV[2 * position]
  if command == 'LRANGE' then
    answers[position] = redis.call(command, key, 0, -1)
  elseif command == 'GET' then
    answers[position] = redis.call(command, key) or ''
  else
    answers[position] = redis.call(command, key, element)
  end
end
return answers";

/// Lists that follow each other on one shard.
struct ListSeries {
    shard: u16,
    is_string: bool,
    /// The elements that were given to clients so far.
    next_element: AtomicU64,
}

impl ListSeries {
    fn name(&self, element: u64) -> String {
        let kind = if self.is_string { "string" } else { "list" };
        let number = element / ELEMENTS_PER_LIST;
        key_on(self.shard, SHARDS, &format!("{kind}:{number}:"))
    }
}

/// See the module's documentation.
pub(super) struct AppendWorkload {
    series: Vec<ListSeries>,
}

impl Default for AppendWorkload {
    fn default() -> AppendWorkload {
        let lists = |(shard, is_string)| ListSeries {
            shard,
            is_string,
            next_element: AtomicU64::new(0),
        };
        let shards = (0..SHARDS).flat_map(|shard| [(shard, false), (shard, true)]);
        AppendWorkload {
            series: shards.map(lists).collect(),
        }
    }
}

impl AppendWorkload {
    fn random_operation(&self, session: &mut Session<Transaction>) -> Operation {
        let lists = self.series.choose(&mut session.random).expect("there are series");
        if session.random.random() {
            let element = lists.next_element.fetch_add(1, Ordering::Relaxed);
            return Operation::Append(lists.name(element), element);
        }
        Operation::Read(present_name(lists, session), None)
    }

    fn random_operations(&self, session: &mut Session<Transaction>) -> Transaction {
        let count = session.random.random_range(OPERATIONS);
        (0..count).map(|_| self.random_operation(session)).collect()
    }

    /// RPUSH, APPEND, LRANGE or GET.
    fn run_alone(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        let transaction = vec![self.random_operation(session)];
        let commands = commands_of(&transaction);
        session.run(transaction.clone(), &commands, |replies| {
            Some(answered(transaction, &replies))
        })
    }

    fn run_as_multi(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        let transaction = self.random_operations(session);
        let commands = multi(commands_of(&transaction));
        session.run(transaction.clone(), &commands, |replies| {
            Some(answered(transaction, &executed(replies)?))
        })
    }

    fn run_as_script(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        let transaction = self.random_operations(session);
        let mut command = vec!["EVAL".to_owned(), SCRIPT.to_owned(), transaction.len().to_string()];
        let commands = commands_of(&transaction);
        command.extend(commands.iter().map(|words| words[1].clone()));
        for words in &commands {
            let element = words.get(2).cloned().unwrap_or_default();
            command.extend([words[0].clone(), element]);
        }
        session.run(transaction.clone(), &[command], |replies| match replies.first() {
            Some(Value::Array(Some(answers))) => Some(answered(transaction, answers)),
            other => panic!("a script answered {other:?}"),
        })
    }

    /// MGET of strings on several shards.
    fn read_strings(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        let strings: Vec<&ListSeries> = self.series.iter().filter(|lists| lists.is_string).collect();
        let count = session.random.random_range(2..=strings.len());
        let chosen: Vec<&&ListSeries> = strings.choose_multiple(&mut session.random, count).collect();
        let names: Vec<String> = chosen.iter().map(|lists| present_name(lists, session)).collect();
        read_together(session, names)
    }
}

impl Workload for AppendWorkload {
    type Action = Transaction;

    fn act(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        let kind = KINDS.choose(&mut session.random).expect("there are kinds");
        kind(self, session)
    }

    fn look(&self, session: &mut Session<Transaction>) -> io::Result<()> {
        for age in [ELEMENTS_PER_LIST, 0] {
            let name = |lists: &ListSeries| lists.name(lists.next_element.load(Ordering::Relaxed).saturating_sub(age));
            for lists in self.series.iter().filter(|lists| !lists.is_string) {
                let transaction = vec![Operation::Read(name(lists), None)];
                let commands = commands_of(&transaction);
                session.run(transaction.clone(), &commands, |replies| {
                    Some(answered(transaction, &replies))
                })?;
            }
            let strings = self.series.iter().filter(|lists| lists.is_string);
            read_together(session, strings.map(name).collect())?;
        }
        Ok(())
    }
}

/// The list that clients append to, or the one before it.
fn present_name(lists: &ListSeries, session: &mut Session<Transaction>) -> String {
    let mut element = lists.next_element.load(Ordering::Relaxed);
    if session.random.random_ratio(1, OLDER_SHARE) {
        element = element.saturating_sub(ELEMENTS_PER_LIST);
    }
    lists.name(element)
}

fn read_together(session: &mut Session<Transaction>, names: Vec<String>) -> io::Result<()> {
    let mut command = words("MGET");
    command.extend(names.iter().cloned());
    let transaction: Transaction = names.into_iter().map(|name| Operation::Read(name, None)).collect();
    session.run(transaction.clone(), &[command], |replies| match replies.first() {
        Some(Value::Array(Some(answers))) => Some(answered(transaction, answers)),
        other => panic!("MGET answered {other:?}"),
    })
}

/// A command for each operation: its name, the list, and the element that is appended.
fn commands_of(transaction: &Transaction) -> Vec<Words> {
    let of_operation = |operation: &Operation| {
        let (Operation::Append(list, _) | Operation::Read(list, _)) = operation;
        match (operation, list.starts_with("string")) {
            (Operation::Append(_, element), true) => words(&format!("APPEND {list} {element},")),
            (Operation::Append(_, element), false) => words(&format!("RPUSH {list} {element}")),
            (Operation::Read(..), true) => words(&format!("GET {list}")),
            (Operation::Read(..), false) => words(&format!("LRANGE {list} 0 -1")),
        }
    };
    transaction.iter().map(of_operation).collect()
}

/// The transaction with what was read.
fn answered(transaction: Transaction, replies: &[Value]) -> Transaction {
    assert_eq!(transaction.len(), replies.len(), "an operation has no answer");
    let of_operation = |(operation, reply): (Operation, &Value)| match operation {
        Operation::Append(..) => operation,
        Operation::Read(list, _) => Operation::Read(list, Some(elements_of(reply))),
    };
    transaction.into_iter().zip(replies).map(of_operation).collect()
}

fn elements_of(reply: &Value) -> Vec<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is an element"));
    match reply {
        Value::Bulk(None) => Vec::new(),
        Value::Bulk(Some(bytes)) => {
            let text = String::from_utf8_lossy(bytes);
            text.split_terminator(',').map(number).collect()
        }
        Value::Array(Some(elements)) => {
            let texts = elements.iter().map(|element| element.text().unwrap_or_default());
            texts.map(|text| number(&text)).collect()
        }
        other => panic!("a list was answered {other:?}"),
    }
}
