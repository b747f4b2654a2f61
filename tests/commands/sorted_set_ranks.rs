//! Ranks of sorted sets that are large enough for a counted tree, against a model, over a restart.

use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;
use std::collections::{BTreeSet, HashMap};

/// SplitMix64, from a seed that is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}

/// What the set must be: scores by member, and the order.
#[derive(Default)]
struct Model {
    scores: HashMap<String, i64>,
    order: BTreeSet<(i64, String)>,
}

impl Model {
    fn set(&mut self, member: &str, score: i64) {
        self.remove(member);
        self.scores.insert(member.to_owned(), score);
        self.order.insert((score, member.to_owned()));
    }

    fn remove(&mut self, member: &str) {
        if let Some(score) = self.scores.remove(member) {
            self.order.remove(&(score, member.to_owned()));
        }
    }

    fn at(&self, rank: usize) -> (i64, String) {
        self.order.iter().nth(rank).expect("a rank below the count").clone()
    }
}

fn ask(client: &mut Client, arguments: &[&str]) -> Vec<String> {
    match client.command(arguments) {
        Value::Array(Some(elements)) => elements
            .iter()
            .map(|element| element.text().unwrap_or_default())
            .collect(),
        Value::Error(error) => panic!("{arguments:?} was answered {error:?}"),
        value => vec![value.render()],
    }
}

fn integer(value: usize) -> Vec<String> {
    vec![format!("(integer) {value}")]
}

/// Members in bulk: one command for many, so that blocks split while much is staged.
fn add(client: &mut Client, model: &mut Model, random: &mut Random, count: usize) {
    let mut words = vec!["ZADD".to_owned(), "z".to_owned()];
    for _ in 0..count {
        let (score, member) = (
            random.below(500) as i64 - 250,
            format!("member:{}", random.below(20_000)),
        );
        model.set(&member, score);
        words.extend([score.to_string(), member]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ask(client, &words);
}

fn check(client: &mut Client, model: &Model, random: &mut Random) {
    let count = model.order.len();
    assert_eq!(ask(client, &["ZCARD", "z"]), integer(count));
    let (mut all, mut half) = (0, 0);
    for (place, (score, _)) in model.order.iter().enumerate() {
        all += usize::from(*score < 100);
        half += usize::from(place * 2 < count);
    }
    assert_eq!(ask(client, &["ZCOUNT", "z", "-inf", "(100"]), integer(all));
    assert!(half >= count / 2);
    for _ in 0..20.min(count) {
        let rank = random.below(count as u64) as usize;
        let (score, member) = model.at(rank);
        assert_eq!(ask(client, &["ZRANK", "z", &member]), integer(rank), "{member}");
        assert_eq!(ask(client, &["ZREVRANK", "z", &member]), integer(count - 1 - rank));
        let rank = rank.to_string();
        let expected = [member.clone(), score.to_string()];
        assert_eq!(ask(client, &["ZRANGE", "z", &rank, &rank, "WITHSCORES"]), expected);
        let from_end = format!("-{}", rank.parse::<usize>().expect("a number") + 1);
        let (score, member) = model.at(count - 1 - rank.parse::<usize>().expect("a number"));
        let expected = [member.clone(), score.to_string()];
        assert_eq!(
            ask(client, &["ZRANGE", "z", &from_end, &from_end, "WITHSCORES"]),
            expected
        );
        let limited = ["ZRANGE", "z", "-inf", "inf", "BYSCORE", "LIMIT", &rank, "3"];
        let expected: Vec<String> = model
            .order
            .iter()
            .skip(rank.parse().expect("a number"))
            .take(3)
            .map(|(_, member)| member.clone())
            .collect();
        assert_eq!(ask(client, &limited), expected);
        let limited = ["ZRANGE", "z", "inf", "-inf", "BYSCORE", "REV", "LIMIT", &rank, "3"];
        let expected: Vec<String> = model
            .order
            .iter()
            .rev()
            .skip(rank.parse().expect("a number"))
            .take(3)
            .map(|(_, member)| member.clone())
            .collect();
        assert_eq!(ask(client, &limited), expected);
    }
}

#[test]
fn ranks_are_those_of_a_model_whatever_comes_and_goes() {
    let seed = 20_261_121;
    println!("seed {seed}");
    let (mut random, mut model) = (Random(seed), Model::default());
    let mut server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    for round in 0..60 {
        let count = model.order.len();
        match round {
            0..20 => add(&mut client, &mut model, &mut random, 400),
            20..30 if count > 10 => {
                let first = random.below(count as u64 / 2) as usize;
                let (from, to) = (first.to_string(), (first + 300).to_string());
                let gone: Vec<String> = model
                    .order
                    .iter()
                    .skip(first)
                    .take(301)
                    .map(|(_, member)| member.clone())
                    .collect();
                assert_eq!(
                    ask(&mut client, &["ZREMRANGEBYRANK", "z", &from, &to]),
                    integer(gone.len())
                );
                gone.iter().for_each(|member| model.remove(member));
            }
            30 => {
                server.kill_9();
                server.restart();
                client = server.connect();
            }
            _ => {
                for _ in 0..150 {
                    // A queue: the lowest goes, and sometimes another one comes.
                    if let Some((score, member)) = model.order.first().cloned() {
                        assert_eq!(ask(&mut client, &["ZPOPMIN", "z"]), [member.clone(), score.to_string()]);
                        model.remove(&member);
                    }
                    if random.below(3) == 0 {
                        add(&mut client, &mut model, &mut random, 1);
                    }
                }
            }
        }
        check(&mut client, &model, &mut random);
    }
}

#[test]
fn a_scan_returns_every_member_that_is_there_all_along() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    let (mut random, mut model) = (Random(7), Model::default());
    add(&mut client, &mut model, &mut random, 3000);
    for number in 0..1000 {
        ask(&mut client, &["ZADD", "z", "5", &format!("lasting:{number}")]);
    }
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    loop {
        let Value::Array(Some(parts)) = client.command(&["ZSCAN", "z", &cursor, "COUNT", "50", "MATCH", "lasting:*"])
        else {
            panic!("ZSCAN answers a cursor and members");
        };
        if let Value::Array(Some(page)) = &parts[1] {
            seen.extend(page.iter().step_by(2).filter_map(Value::text));
        }
        cursor = parts[0].text().expect("a cursor");
        if cursor == "0" {
            break;
        }
        // Scores change, members come and go.
        let lasting = format!("lasting:{}", random.below(1000));
        ask(&mut client, &["ZINCRBY", "z", "17", &lasting]);
        ask(&mut client, &["ZPOPMIN", "z", "0"]);
        add(&mut client, &mut model, &mut random, 5);
        ask(
            &mut client,
            &["ZREMRANGEBYSCORE", "z", "-250", &format!("-{}", 250 - seen.len() / 20)],
        );
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn random_members_of_a_large_set_are_uniform() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    let mut words = vec!["ZADD".to_owned(), "z".to_owned()];
    (0..1000).for_each(|number| words.extend([(number % 7).to_string(), number.to_string()]));
    ask(&mut client, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let mut times = vec![0; 1000];
    for member in ask(&mut client, &["ZRANDMEMBER", "z", "-50000"]) {
        times[member.parse::<usize>().expect("a number")] += 1;
    }
    // 50 each on average, with a deviation of 7.
    assert!(times.iter().all(|times| (10..100).contains(times)), "{times:?}");
    let distinct: BTreeSet<String> = ask(&mut client, &["ZRANDMEMBER", "z", "300"]).into_iter().collect();
    assert_eq!(distinct.len(), 300);
    let few: BTreeSet<String> = ask(&mut client, &["ZRANDMEMBER", "z", "3"]).into_iter().collect();
    assert_eq!(few.len(), 3);
}
