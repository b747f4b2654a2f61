//! Values, accounts, lists and sets on all shards: a model of them, for [`linear_checker`](super::linear_checker), and
//! clients that write values over several keys, pay from account to account, and move elements and members about.
//!
//! A new kind of transaction is a [`Change`] and what it does in [`Change::apply`], a function that sends it, and a
//! line in [`KINDS`].

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::seq::{IndexedRandom, index};

use super::linear_checker::Action;
use super::load::{Session, Words, Workload, executed, multi, words};
use crate::harness::client::Client;
use crate::harness::value::Value;
use crate::transactions::{SHARDS, key_per_shard};

/// Keys of each kind: one on each shard.
const KEYS: usize = SHARDS as usize;

/// What each account begins with.
const BALANCE: i64 = 100;

/// The elements that move between the lists, and the members that move between the sets.
const ELEMENTS: u8 = 6;

/// What a server holds. Sets are bits, one for each member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Store {
    values: [Option<u64>; KEYS],
    accounts: [i64; KEYS],
    lists: [Vec<u8>; KEYS],
    sets: [u8; KEYS],
}

impl Store {
    /// What [`StoreWorkload::set_up`] leaves.
    pub(super) fn initial() -> Store {
        let mut lists = [const { Vec::new() }; KEYS];
        let mut sets = [0; KEYS];
        for element in 0..ELEMENTS {
            let index = usize::from(element) % KEYS;
            lists[index].push(element);
            sets[index] |= 1 << element;
        }
        Store {
            values: [None; KEYS],
            accounts: [BALANCE; KEYS],
            lists,
            sets,
        }
    }
}

/// A command or a transaction, with indices of keys. What is an `Option` at the end is the answer, `None` if it was
/// lost.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// GET and MGET.
    Read(Vec<usize>, Option<Vec<Option<u64>>>),
    /// SET and MSET.
    Write(Vec<(usize, u64)>),
    /// MSETNX, and whether it wrote.
    WriteNew(Vec<(usize, u64)>, Option<bool>),
    /// SET with GET, and the value before.
    Exchange(usize, u64, Option<Option<u64>>),
    /// DEL, and how many there were.
    Delete(Vec<usize>, Option<i64>),
    /// RENAME: refused if there is nothing.
    Rename(usize, usize),
    /// COPY with REPLACE, and whether there was something.
    Copy(usize, usize, Option<bool>),
    /// MGET of all accounts.
    Balances(Option<Vec<i64>>),
    /// So much from one account to another, and the balances of both before.
    Pay(usize, usize, i64, Option<[i64; 2]>),
    /// The same unless the account has less.
    PayIfCovered(usize, usize, i64, Option<[i64; 2]>),
    /// LMOVE or BLMOVE from list to list: whether it takes from the left, and puts there, and the element.
    MoveElement([usize; 2], [bool; 2], Option<Option<u8>>),
    /// LRANGE of these lists in one transaction.
    Lists(Vec<usize>, Option<Vec<Vec<u8>>>),
    /// SMOVE of a member, and whether it was there.
    MoveMember([usize; 2], u8, Option<bool>),
    /// SUNION of all sets.
    Union(Option<u8>),
    /// SMEMBERS.
    Members(usize, Option<u8>),
}

/// Whether an answer, if there is one, is as it must be.
fn agrees<T: PartialEq>(answer: &Option<T>, expected: T) -> bool {
    answer.as_ref().is_none_or(|answer| *answer == expected)
}

impl Action for Change {
    type State = Store;

    fn apply(&self, state: &Store) -> Option<Store> {
        let mut next = state.clone();
        let agrees = match self {
            Change::Read(keys, answer) => agrees(answer, keys.iter().map(|key| state.values[*key]).collect()),
            Change::Write(pairs) => {
                write(&mut next, pairs);
                true
            }
            Change::WriteNew(pairs, answer) => {
                let writes = pairs.iter().all(|(key, _)| state.values[*key].is_none());
                if writes {
                    write(&mut next, pairs);
                }
                agrees(answer, writes)
            }
            Change::Exchange(key, value, answer) => {
                next.values[*key] = Some(*value);
                agrees(answer, state.values[*key])
            }
            Change::Delete(keys, answer) => {
                let deleted = keys.iter().filter_map(|key| next.values[*key].take());
                agrees(answer, deleted.count() as i64)
            }
            Change::Rename(from, to) => {
                next.values[*to] = next.values[*from].take();
                state.values[*from].is_some()
            }
            Change::Copy(from, to, answer) => {
                let copies = state.values[*from].is_some();
                if copies {
                    next.values[*to] = state.values[*from];
                }
                agrees(answer, copies)
            }
            Change::Balances(answer) => agrees(answer, state.accounts.to_vec()),
            Change::Pay(from, to, amount, answer) => {
                pay(&mut next, (*from, *to), *amount);
                agrees(answer, [state.accounts[*from], state.accounts[*to]])
            }
            Change::PayIfCovered(from, to, amount, answer) => {
                if state.accounts[*from] >= *amount {
                    pay(&mut next, (*from, *to), *amount);
                }
                agrees(answer, [state.accounts[*from], state.accounts[*to]])
            }
            Change::MoveElement([from, to], [takes_left, puts_left], answer) => {
                let element = match (takes_left, state.lists[*from].len()) {
                    (_, 0) => None,
                    (true, _) => Some(next.lists[*from].remove(0)),
                    (false, _) => next.lists[*from].pop(),
                };
                if let Some(element) = element {
                    let index = if *puts_left { 0 } else { next.lists[*to].len() };
                    next.lists[*to].insert(index, element);
                }
                agrees(answer, element)
            }
            Change::Lists(lists, answer) => {
                agrees(answer, lists.iter().map(|list| state.lists[*list].clone()).collect())
            }
            Change::MoveMember([from, to], member, answer) => {
                let bit = 1 << member;
                let moves = state.sets[*from] & bit != 0;
                if moves {
                    next.sets[*from] &= !bit;
                    next.sets[*to] |= bit;
                }
                agrees(answer, moves)
            }
            Change::Union(answer) => agrees(answer, state.sets.iter().fold(0, |all, set| all | set)),
            Change::Members(set, answer) => agrees(answer, state.sets[*set]),
        };
        agrees.then_some(next)
    }
}

fn write(state: &mut Store, pairs: &[(usize, u64)]) {
    for (key, value) in pairs {
        state.values[*key] = Some(*value);
    }
}

fn pay(state: &mut Store, (from, to): (usize, usize), amount: i64) {
    state.accounts[from] -= amount;
    state.accounts[to] += amount;
}

type Kind = fn(&StoreWorkload, &mut Session<Change>) -> io::Result<()>;

const KINDS: &[Kind] = &[
    StoreWorkload::read,
    StoreWorkload::read,
    StoreWorkload::read,
    StoreWorkload::write,
    StoreWorkload::write,
    StoreWorkload::write_new,
    StoreWorkload::exchange,
    StoreWorkload::delete,
    StoreWorkload::rename,
    StoreWorkload::copy,
    StoreWorkload::read_balances,
    StoreWorkload::pay_by_multi,
    StoreWorkload::pay_by_watch,
    StoreWorkload::pay_by_script,
    StoreWorkload::move_element,
    StoreWorkload::read_lists,
    StoreWorkload::move_member,
    StoreWorkload::read_sets,
];

const PAYMENT: &str = "\
local from, to, amount = tonumber(redis.call('GET', KEYS[1])), tonumber(redis.call('GET', KEYS[2])), tonumber(ARGV[1])
if from >= amount then
  redis.call('DECRBY', KEYS[1], amount)
  redis.call('INCRBY', KEYS[2], amount)
end
return {from, to}";

/// See the module's documentation.
pub(super) struct StoreWorkload {
    values: Vec<String>,
    accounts: Vec<String>,
    lists: Vec<String>,
    sets: Vec<String>,
    /// No two writes of a history write the same value.
    next_value: AtomicU64,
}

impl Default for StoreWorkload {
    fn default() -> StoreWorkload {
        StoreWorkload {
            values: key_per_shard("value"),
            accounts: key_per_shard("account"),
            lists: key_per_shard("list"),
            sets: key_per_shard("set"),
            next_value: AtomicU64::new(1),
        }
    }
}

impl StoreWorkload {
    fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    fn new_pairs(&self, session: &mut Session<Change>, least: usize) -> Vec<(usize, u64)> {
        let keys = some_keys(session, least);
        keys.into_iter().map(|key| (key, self.new_value())).collect()
    }

    /// A command with these keys, and their values if they have any.
    fn command(&self, name: &str, pairs: &[(usize, u64)]) -> Words {
        let mut command = words(name);
        for (key, value) in pairs {
            command.extend([self.values[*key].clone(), value.to_string()]);
        }
        command
    }

    fn command_on(&self, name: &str, keys: &[usize]) -> Words {
        let keys = keys.iter().map(|key| self.values[*key].clone());
        words(name).into_iter().chain(keys).collect()
    }

    fn read(&self, session: &mut Session<Change>) -> io::Result<()> {
        let keys = some_keys(session, 1);
        if let [key] = keys[..] {
            let command = self.command_on("GET", &keys);
            return session.run(Change::Read(keys, None), &[command], |replies| {
                Some(Change::Read(vec![key], Some(vec![number_of(&replies[0])])))
            });
        }
        self.read_together(session, keys)
    }

    fn read_together(&self, session: &mut Session<Change>, keys: Vec<usize>) -> io::Result<()> {
        let command = self.command_on("MGET", &keys);
        session.run(Change::Read(keys.clone(), None), &[command], |replies| {
            let values = array_of(&replies[0]).iter().map(number_of).collect();
            Some(Change::Read(keys, Some(values)))
        })
    }

    fn write(&self, session: &mut Session<Change>) -> io::Result<()> {
        let pairs = self.new_pairs(session, 1);
        let command = self.command(if pairs.len() == 1 { "SET" } else { "MSET" }, &pairs);
        let change = Change::Write(pairs);
        session.run(change.clone(), &[command], |_| Some(change))
    }

    fn write_new(&self, session: &mut Session<Change>) -> io::Result<()> {
        let pairs = self.new_pairs(session, 2);
        let command = self.command("MSETNX", &pairs);
        session.run(Change::WriteNew(pairs.clone(), None), &[command], |replies| {
            Some(Change::WriteNew(pairs, Some(integer_of(&replies[0]) == 1)))
        })
    }

    fn exchange(&self, session: &mut Session<Change>) -> io::Result<()> {
        let (key, value) = (session.random.random_range(0..KEYS), self.new_value());
        let mut command = self.command("SET", &[(key, value)]);
        command.push("GET".to_owned());
        session.run(Change::Exchange(key, value, None), &[command], |replies| {
            Some(Change::Exchange(key, value, Some(number_of(&replies[0]))))
        })
    }

    fn delete(&self, session: &mut Session<Change>) -> io::Result<()> {
        let keys = some_keys(session, 1);
        let command = self.command_on("DEL", &keys);
        session.run(Change::Delete(keys.clone(), None), &[command], |replies| {
            Some(Change::Delete(keys, Some(integer_of(&replies[0]))))
        })
    }

    fn rename(&self, session: &mut Session<Change>) -> io::Result<()> {
        let [from, to] = two_keys(session);
        let is_there = format!("EXISTS {}", self.values[from]);
        // Mostly not refused, then.
        if session.send(&[words(&is_there)])? == [Value::Integer(0)] {
            return Ok(());
        }
        let command = self.command_on("RENAME", &[from, to]);
        let change = Change::Rename(from, to);
        session.run(change.clone(), &[command], |_| Some(change))
    }

    fn copy(&self, session: &mut Session<Change>) -> io::Result<()> {
        let [from, to] = two_keys(session);
        let mut command = self.command_on("COPY", &[from, to]);
        command.push("REPLACE".to_owned());
        session.run(Change::Copy(from, to, None), &[command], |replies| {
            Some(Change::Copy(from, to, Some(integer_of(&replies[0]) == 1)))
        })
    }

    fn read_balances(&self, session: &mut Session<Change>) -> io::Result<()> {
        let command = words(&format!("MGET {}", self.accounts.join(" ")));
        session.run(Change::Balances(None), &[command], |replies| {
            Some(Change::Balances(Some(balances_of(&replies[0]))))
        })
    }

    fn pay_by_multi(&self, session: &mut Session<Change>) -> io::Result<()> {
        let ([from, to], amount) = (two_keys(session), session.random.random_range(1..BALANCE));
        let (giver, taker) = (&self.accounts[from], &self.accounts[to]);
        let lines = [format!("DECRBY {giver} {amount}"), format!("INCRBY {taker} {amount}")];
        let commands = multi(lines.iter().map(|line| words(line)));
        session.run(Change::Pay(from, to, amount, None), &commands, |replies| {
            let answers = executed(replies)?;
            let before = [integer_of(&answers[0]) + amount, integer_of(&answers[1]) - amount];
            Some(Change::Pay(from, to, amount, Some(before)))
        })
    }

    /// Both accounts are read first, and must not have changed when they are written.
    fn pay_by_watch(&self, session: &mut Session<Change>) -> io::Result<()> {
        let ([from, to], amount) = (two_keys(session), session.random.random_range(1..BALANCE));
        let (giver, taker) = (&self.accounts[from], &self.accounts[to]);
        let asked = session.send(&[
            words(&format!("WATCH {giver} {taker}")),
            words(&format!("GET {giver}")),
            words(&format!("GET {taker}")),
        ])?;
        // A key is locked for too long, or what was read there was taken back because the disk is full.
        if asked.iter().any(|reply| matches!(reply, Value::Error(_))) {
            return session.send(&[words("UNWATCH")]).map(|_| ());
        }
        let (from_balance, to_balance) = (balance_of(&asked[1]), balance_of(&asked[2]));
        let lines = [
            format!("SET {giver} {}", from_balance - amount),
            format!("SET {taker} {}", to_balance + amount),
        ];
        // If it happens, these were the balances.
        let change = Change::Pay(from, to, amount, Some([from_balance, to_balance]));
        let commands = multi(lines.iter().map(|line| words(line)));
        session.run(change.clone(), &commands, |replies| executed(replies).map(|_| change))
    }

    fn pay_by_script(&self, session: &mut Session<Change>) -> io::Result<()> {
        let ([from, to], amount) = (two_keys(session), session.random.random_range(1..BALANCE));
        let (giver, taker) = (self.accounts[from].clone(), self.accounts[to].clone());
        let command = ["EVAL", PAYMENT, "2", &giver, &taker, &amount.to_string()].map(str::to_owned);
        session.run(
            Change::PayIfCovered(from, to, amount, None),
            &[command.to_vec()],
            |replies| {
                let answers = array_of(&replies[0]);
                let before = [integer_of(&answers[0]), integer_of(&answers[1])];
                Some(Change::PayIfCovered(from, to, amount, Some(before)))
            },
        )
    }

    fn move_element(&self, session: &mut Session<Change>) -> io::Result<()> {
        let indices = two_keys(session);
        let sides: [bool; 2] = session.random.random();
        let [takes, puts] = sides.map(|is_left| if is_left { "LEFT" } else { "RIGHT" });
        let (name, timeout) = match session.random.random() {
            true => ("BLMOVE", " 0.002"),
            false => ("LMOVE", ""),
        };
        let line = format!(
            "{name} {} {} {takes} {puts}{timeout}",
            self.lists[indices[0]], self.lists[indices[1]]
        );
        session.run(Change::MoveElement(indices, sides, None), &[words(&line)], |replies| {
            let element = number_of(&replies[0]).map(|element| element as u8);
            Some(Change::MoveElement(indices, sides, Some(element)))
        })
    }

    fn read_lists(&self, session: &mut Session<Change>) -> io::Result<()> {
        let lists = some_keys(session, 1);
        let command = |list: &usize| words(&format!("LRANGE {} 0 -1", self.lists[*list]));
        let commands = match lists.len() {
            1 => vec![command(&lists[0])],
            _ => multi(lists.iter().map(command)),
        };
        session.run(Change::Lists(lists.clone(), None), &commands, |replies| {
            let answers = match lists.len() {
                1 => replies,
                _ => executed(replies)?,
            };
            let elements = |reply: &Value| array_of(reply).iter().map(small_of).collect();
            Some(Change::Lists(lists, Some(answers.iter().map(elements).collect())))
        })
    }

    fn move_member(&self, session: &mut Session<Change>) -> io::Result<()> {
        let (indices, member) = (two_keys(session), session.random.random_range(0..ELEMENTS));
        let line = format!("SMOVE {} {} {member}", self.sets[indices[0]], self.sets[indices[1]]);
        session.run(Change::MoveMember(indices, member, None), &[words(&line)], |replies| {
            Some(Change::MoveMember(indices, member, Some(integer_of(&replies[0]) == 1)))
        })
    }

    fn read_sets(&self, session: &mut Session<Change>) -> io::Result<()> {
        let members = |replies: Vec<Value>| {
            let members = array_of(&replies[0]).iter().map(|member| 1 << small_of(member));
            members.fold(0, |all: u8, bit: u8| all | bit)
        };
        if session.random.random() {
            let line = format!("SUNION {}", self.sets.join(" "));
            return session.run(Change::Union(None), &[words(&line)], |replies| {
                Some(Change::Union(Some(members(replies))))
            });
        }
        let set = session.random.random_range(0..KEYS);
        let line = format!("SMEMBERS {}", self.sets[set]);
        session.run(Change::Members(set, None), &[words(&line)], |replies| {
            Some(Change::Members(set, Some(members(replies))))
        })
    }
}

impl Workload for StoreWorkload {
    type Action = Change;

    fn set_up(&self, client: &mut Client) {
        for account in &self.accounts {
            client.command(&words(&format!("SET {account} {BALANCE}")));
        }
        for element in 0..ELEMENTS {
            let index = usize::from(element) % KEYS;
            client.command(&words(&format!("RPUSH {} {element}", self.lists[index])));
            client.command(&words(&format!("SADD {} {element}", self.sets[index])));
        }
    }

    fn act(&self, session: &mut Session<Change>) -> io::Result<()> {
        let kind = KINDS.choose(&mut session.random).expect("there are kinds");
        kind(self, session)
    }

    fn look(&self, session: &mut Session<Change>) -> io::Result<()> {
        self.read_together(session, (0..KEYS).collect())?;
        self.read_balances(session)?;
        for index in 0..KEYS {
            let line = words(&format!("LRANGE {} 0 -1", self.lists[index]));
            session.run(Change::Lists(vec![index], None), &[line], |replies| {
                let elements = array_of(&replies[0]).iter().map(small_of).collect();
                Some(Change::Lists(vec![index], Some(vec![elements])))
            })?;
        }
        Ok(())
    }
}

/// Some keys in any order, so many at least.
fn some_keys(session: &mut Session<Change>, least: usize) -> Vec<usize> {
    let count = session.random.random_range(least..=KEYS);
    index::sample(&mut session.random, KEYS, count).into_vec()
}

fn two_keys(session: &mut Session<Change>) -> [usize; 2] {
    let both = index::sample(&mut session.random, KEYS, 2);
    [both.index(0), both.index(1)]
}

fn array_of(reply: &Value) -> &[Value] {
    match reply {
        Value::Array(Some(elements)) | Value::Set(elements) => elements,
        other => panic!("{other:?} is no array"),
    }
}

fn integer_of(reply: &Value) -> i64 {
    match reply {
        Value::Integer(number) => *number,
        other => panic!("{other:?} is no integer"),
    }
}

/// The number that a key holds, if there is one.
fn number_of(reply: &Value) -> Option<u64> {
    reply
        .text()
        .map(|text| text.parse().expect("what was written is a number"))
}

fn small_of(reply: &Value) -> u8 {
    let number = number_of(reply).and_then(|number| u8::try_from(number).ok());
    number.expect("elements and members are small numbers")
}

fn balance_of(reply: &Value) -> i64 {
    let text = reply.text().expect("an account is always there");
    text.parse().expect("a balance is a number")
}

fn balances_of(reply: &Value) -> Vec<i64> {
    array_of(reply).iter().map(balance_of).collect()
}
