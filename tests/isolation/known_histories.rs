//! The checkers with histories of which the answer is known.
//!
//! A history is written as lines `CLIENT BEGAN ENDED: OPERATIONS`; `ENDED!` was refused, `ENDED?` had its connection
//! lost. Operations are `a+1` (append 1 to a) and `a=1.2` (a was read and held 1 and 2; `a=` for nothing).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::append_checker::{self, Kind, Operation, Transaction};
use super::history::{Ending, Entry};
use super::linear_checker;
use super::store::{Change, Store};

fn entry<A>(heading: &str, action: A) -> Entry<A> {
    let words: Vec<&str> = heading.split_whitespace().collect();
    let [client, began, ended] = words[..] else {
        panic!("{heading:?} is no heading")
    };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let ending = match (ended.strip_suffix('!'), ended.strip_suffix('?')) {
        (Some(at), _) => Ending::Refused(number(at)),
        (_, Some(at)) => Ending::Lost(number(at)),
        _ => Ending::Answered(number(ended)),
    };
    Entry {
        client: number(client) as usize,
        began: number(began),
        ending,
        action,
    }
}

fn operation(text: &str) -> Operation {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    if let Some((list, element)) = text.split_once('+') {
        return Operation::Append(list.to_owned(), number(element));
    }
    let (list, elements) = text
        .split_once('=')
        .unwrap_or_else(|| panic!("{text:?} is no operation"));
    let elements = elements.split('.').filter(|element| !element.is_empty());
    Operation::Read(list.to_owned(), Some(elements.map(number).collect()))
}

fn history(text: &str) -> Vec<Entry<Transaction>> {
    let of_line = |line: &str| {
        let (heading, operations) = line.split_once(':').expect("a line has a heading");
        entry(heading, operations.split_whitespace().map(operation).collect())
    };
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(of_line)
        .collect()
}

#[test]
fn each_anomaly_of_appends_is_found_by_its_name() {
    // All at once unless it is about time.
    for (kind, text) in [
        (Kind::Duplicate, "0 1 9: a+1\n1 1 9: a=1.1"),
        (Kind::Unwritten, "0 1 9: a+1\n1 1 9: a=1.2"),
        (Kind::Internal, "0 1 9: a+1 a="),
        (Kind::Internal, "0 1 9: a= a=1\n1 1 9: a+1"),
        (Kind::Fork, "0 1 9: a+1\n1 1 9: a+2\n2 1 9: a=1.2\n3 1 9: a=2.1"),
        (Kind::AbortedRead, "0 1 9!: a+1\n1 1 9: a=1"),
        (Kind::IntermediateRead, "0 1 9: a+1 a+2\n1 1 9: a=1\n2 1 9: a=1.2"),
        // Each wrote before the other.
        (
            Kind::WriteCycle,
            "0 1 9: a+1 b+1\n1 1 9: a+2 b+2\n2 1 9: a=1.2\n3 1 9: b=2.1",
        ),
        // Each saw the other.
        (Kind::InformationCycle, "0 1 9: a+1 b=1\n1 1 9: b+1 a=1"),
        // A read sees one half of a transaction.
        (Kind::SingleAntiDependency, "0 1 9: a+1 b+1\n1 1 9: a=1 b="),
        // Lost update: both appended to what they had read.
        (Kind::SingleAntiDependency, "0 1 9: a= a+1\n1 1 9: a= a+2\n2 1 9: a=1.2"),
        // Write skew.
        (Kind::AntiDependency, "0 1 9: a= b+1\n1 1 9: b= a+1\n2 1 9: a=1 b=1"),
        // Two readers see two writes in opposite order.
        (
            Kind::AntiDependency,
            "0 1 9: a+1\n1 1 9: b+1\n2 1 9: a=1 b=\n3 1 9: a= b=1\n4 1 9: a=1 b=1",
        ),
        // A stale read, and a read of what was not there yet.
        (Kind::RealTime, "0 1 2: a+1\n1 3 4: a=\n2 3 9: a=1"),
        (Kind::RealTime, "0 3 4: a+1\n1 1 2: a=1"),
        // An append was answered, and is gone.
        (Kind::RealTime, "0 1 2: a+1\n1 3 4: a+2\n2 5 6: a=2"),
        (Kind::RealTime, "0 1 2: a+1\n1 3 4: a="),
        // An append was seen before a crash, and not after it.
        (Kind::RealTime, "0 1 5?: a+1\n1 2 3: a=1\n2 7 8: a="),
        // One half of a transaction was seen after a crash.
        (Kind::SingleAntiDependency, "0 1 5?: a+1 b+1\n1 7 8: a=1\n2 7 8: b= a=1"),
        (Kind::RealTime, "0 1 5?: a+1 b+1\n1 7 8: a=1\n2 7 8: b="),
    ] {
        let anomalies = append_checker::check(&history(text));
        let kinds: Vec<Kind> = anomalies.iter().map(|anomaly| anomaly.kind).collect();
        assert!(
            kinds.contains(&kind),
            "{kind:?} is expected, found {kinds:?} in\n{text}"
        );
    }
}

#[test]
fn a_cycle_is_told_with_its_transactions() {
    let text = "0 1000 9000: a+1 b+1\n1 1000 9000: a=1 b=\n2 1000 9000: c+7";
    let anomalies = append_checker::check(&history(text));
    let told: Vec<String> = anomalies.iter().map(ToString::to_string).collect();
    let expected = "\
SingleAntiDependency
a cycle of 2
  T1 did not see 1 in b, which T0 appended
  T1 saw 1 in a, which T0 appended
  T1: client 1, 1 to 9 us: read a [1], read b []
  T0: client 0, 1 to 9 us: append 1 to a, append 1 to b";
    assert_eq!(told, [expected]);
}

#[test]
fn histories_of_appends_that_have_an_order_pass() {
    for text in [
        "",
        "0 1 2: a+1 b+1\n1 3 4: a=1 b=1\n0 5 6: a+2\n1 7 8: a=1.2",
        // At once, any order will do.
        "0 1 9: a+1\n1 1 9: a=\n2 1 9: a=1",
        "0 1 5: a+1\n1 5 9: a=",
        // Own appends.
        "0 1 2: a+1 a=1 a+2 a=1.2\n1 3 4: a=1.2",
        // Refused, and not seen.
        "0 1 2!: a+1\n1 3 4: a=",
        // Lost in a crash: it happened or not, with all it did.
        "0 1 5?: a+1 b+1\n1 7 8: a= b=",
        "0 1 5?: a+1 b+1\n1 7 8: a=1 b=1",
        "0 1 5?: a+1\n1 2 3: a=\n1 4 5: a=1\n2 7 8: a=1",
    ] {
        let anomalies = append_checker::check(&history(text));
        assert!(anomalies.is_empty(), "{}\nin\n{text}", anomalies[0]);
    }
}

/// A store that does one thing at a time has an order, and none once a later read misses an element.
#[test]
fn random_histories_in_order_pass_and_a_stale_read_after_them_is_found() {
    let seed = crate::storage::seed("random_histories_in_order_pass_and_a_stale_read_after_them_is_found");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        let mut lists = [const { Vec::new() }; 3];
        let mut entries: Vec<Entry<Transaction>> = Vec::new();
        for client in 0..300 {
            let mut transaction = Vec::new();
            for _ in 0..random.random_range(1..4) {
                let list = random.random_range(0..lists.len());
                transaction.push(if random.random() {
                    let element = entries.len() as u64 * 10 + transaction.len() as u64;
                    lists[list].push(element);
                    Operation::Append(list.to_string(), element)
                } else {
                    Operation::Read(list.to_string(), Some(lists[list].clone()))
                });
            }
            // It happens at that time, and others do meanwhile.
            let time = 1000 + client as u64 * 100;
            entries.push(Entry {
                client,
                began: time - random.random_range(1..500),
                ending: Ending::Answered(time + random.random_range(1..500)),
                action: transaction,
            });
        }
        let anomalies = append_checker::check(&entries);
        assert!(anomalies.is_empty(), "{}", anomalies[0]);
        let list = random.random_range(0..lists.len());
        lists[list].pop();
        let stale = Operation::Read(list.to_string(), Some(lists[list].clone()));
        entries.push(entry("0 50000 50001", vec![stale]));
        let anomalies = append_checker::check(&entries);
        assert!(!anomalies.is_empty(), "list {list} lost its last element");
    }
}

fn is_linear(entries: &[Entry<Change>]) -> bool {
    linear_checker::check(Store::initial(), entries).is_ok()
}

fn read(values: [Option<u64>; 2]) -> Change {
    Change::Read(vec![0, 1], Some(values.to_vec()))
}

#[test]
fn answers_are_fitted_into_an_order_or_refused() {
    let write = |first, second| Change::Write(vec![(0, first), (1, second)]);
    let cases: &[(bool, &[(&str, Change)])] = &[
        (true, &[("0 1 2", write(1, 2)), ("1 3 4", read([Some(1), Some(2)]))]),
        // At once, a read may be before or after, and not in the middle.
        (true, &[("0 1 5", write(1, 2)), ("1 2 3", read([None, None]))]),
        (true, &[("0 1 5", write(1, 2)), ("1 2 3", read([Some(1), Some(2)]))]),
        (false, &[("0 1 5", write(1, 2)), ("1 2 3", read([Some(1), None]))]),
        // What was seen once stays.
        (
            false,
            &[
                ("0 1 9", write(1, 2)),
                ("1 2 3", read([Some(1), Some(2)])),
                ("1 4 5", read([None, None])),
            ],
        ),
        // Stale.
        (false, &[("0 1 2", write(1, 2)), ("1 3 4", read([None, None]))]),
        // Lost in a crash at 5: all of it, or nothing, and from then on nothing new.
        (true, &[("0 1 5?", write(1, 2)), ("1 6 7", read([None, None]))]),
        (true, &[("0 1 5?", write(1, 2)), ("1 6 7", read([Some(1), Some(2)]))]),
        (false, &[("0 1 5?", write(1, 2)), ("1 6 7", read([None, Some(2)]))]),
        (
            false,
            &[
                ("0 1 5?", write(1, 2)),
                ("1 6 7", read([None, None])),
                ("1 8 9", read([Some(1), Some(2)])),
            ],
        ),
        // Refused.
        (false, &[("0 1 2!", write(1, 2)), ("1 3 4", read([Some(1), Some(2)]))]),
        // Only one of two finds nothing.
        (
            true,
            &[
                ("0 1 9", Change::WriteNew(vec![(0, 1), (1, 1)], Some(true))),
                ("1 1 9", Change::WriteNew(vec![(1, 2), (2, 2)], Some(false))),
            ],
        ),
        (
            false,
            &[
                ("0 1 9", Change::WriteNew(vec![(0, 1), (1, 1)], Some(true))),
                ("1 1 9", Change::WriteNew(vec![(1, 2), (2, 2)], Some(true))),
            ],
        ),
        // Two payments from one balance.
        (
            false,
            &[
                ("0 1 9", Change::Pay(0, 1, 10, Some([100, 100]))),
                ("1 1 9", Change::Pay(0, 2, 10, Some([100, 100]))),
            ],
        ),
        (
            true,
            &[
                ("0 1 9", Change::Pay(0, 1, 10, Some([90, 100]))),
                ("1 1 9", Change::Pay(0, 2, 10, Some([100, 100]))),
                ("2 10 11", Change::Balances(Some(vec![80, 110, 110, 100]))),
            ],
        ),
        // Money on its way.
        (
            false,
            &[
                ("0 1 9", Change::Pay(0, 1, 10, None)),
                ("1 1 9", Change::Balances(Some(vec![90, 100, 100, 100]))),
            ],
        ),
        // An element that is nowhere, and a member that is.
        (
            false,
            &[
                ("0 1 9", Change::MoveElement([2, 3], [true, false], Some(Some(2)))),
                ("1 1 9", Change::Lists(vec![2, 3], Some(vec![vec![], vec![3]]))),
            ],
        ),
        (
            true,
            &[
                ("0 1 9", Change::MoveElement([2, 3], [true, false], Some(Some(2)))),
                ("1 1 9", Change::Lists(vec![2, 3], Some(vec![vec![], vec![3, 2]]))),
            ],
        ),
        (
            false,
            &[
                ("0 1 9", Change::MoveMember([0, 1], 0, Some(true))),
                ("1 1 9", Change::Union(Some(0b11_1110))),
            ],
        ),
    ];
    for (expected, entries) in cases {
        let entries: Vec<_> = entries
            .iter()
            .map(|(heading, change)| entry(heading, change.clone()))
            .collect();
        assert_eq!(is_linear(&entries), *expected, "{entries:?}");
    }
}

#[test]
fn what_cannot_be_fitted_in_is_told_with_what_was_under_way() {
    let entries = [
        entry("0 1000 9000", Change::Write(vec![(0, 1), (1, 2)])),
        entry("1 2000 3000", read([Some(1), None])),
    ];
    let told = linear_checker::check(Store::initial(), &entries).unwrap_err();
    let expected = "\
there is no place for
  client 1, 2 to 3 us: Read([0, 1], Some([Some(1), None]))
Under way were
  client 0, 1 to 9 us: Write([(0, 1), (1, 2)])
and 1 states were possible, as
  Store { values: [None, None, None, None], accounts: [100, 100, 100, 100], lists: [[0, 4], [1, 5], [2], [3]], sets: [17, 34, 4, 8] }";
    assert_eq!(told, expected);
}
