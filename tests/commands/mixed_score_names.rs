//! Ranges of names among members of different scores, which Redis leaves open and answers all the same: as the
//! machine's redis-server answers.

use super::Shape;
use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;
use crate::storage::seed;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

fn bound(random: &mut StdRng) -> String {
    match random.random_range(0..8) {
        0 => "-".to_owned(),
        1 => "+".to_owned(),
        2..5 => format!("({}", name(random)),
        _ => format!("[{}", name(random)),
    }
}

fn name(random: &mut StdRng) -> String {
    ["", "a", "b", "bb", "c", "d", "e", "f", "g", "h"]
        .choose(random)
        .expect("not empty")
        .to_string()
}

#[test]
fn ranges_of_names_in_small_sets_of_mixed_scores_are_redis_s() {
    let Some(redis) = RedisOracle::start() else { return };
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut random = StdRng::seed_from_u64(seed("mixed score names"));
    let (mut ours, mut theirs) = (
        server.connect(),
        Client::connect(redis.address()).expect("redis-server takes connections"),
    );
    for _ in 0..4000 {
        let mut lines = vec!["DEL z y".to_owned()];
        let scores = random.random_range(1..4);
        for _ in 0..random.random_range(1..9) {
            lines.push(format!(
                "ZADD z {} m{}",
                random.random_range(0..scores),
                name(&mut random)
            ));
        }
        let (min, max) = (bound(&mut random), bound(&mut random));
        let [min, max] = [min, max].map(|bound| match bound.split_at_checked(1) {
            Some((kind @ ("[" | "("), name)) => format!("{kind}m{name}"),
            _ => bound,
        });
        let limit = match random.random_range(0..3) {
            0 => format!(" LIMIT {} {}", random.random_range(-1..5), random.random_range(-1..5)),
            _ => String::new(),
        };
        lines.extend([
            format!("ZRANGEBYLEX z {min} {max}{limit}"),
            format!("ZREVRANGEBYLEX z {max} {min}{limit}"),
            format!("ZRANGE z {min} {max} BYLEX{limit}"),
            format!("ZRANGE z {max} {min} BYLEX REV{limit}"),
            format!("ZLEXCOUNT z {min} {max}"),
            format!("ZRANGESTORE y z {min} {max} BYLEX{limit}"),
            "ZRANGE y 0 -1 WITHSCORES".to_owned(),
            format!("ZRANGESTORE y z {max} {min} BYLEX REV{limit}"),
            "ZRANGE y 0 -1 WITHSCORES".to_owned(),
            format!("ZREMRANGEBYLEX z {min} {max}"),
            "ZRANGE z 0 -1 WITHSCORES".to_owned(),
        ]);
        for (index, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (ours, theirs) = (ours.command(&words).render(), theirs.command(&words).render());
            assert_eq!(ours, theirs, "after\n{}", lines[..=index].join("\n"));
        }
    }
}

/// Redis's own answers depend on the heights that its skip list has drawn. They begin inside the range and end where it
/// does.
#[test]
fn ranges_of_names_in_large_sets_of_mixed_scores_begin_inside_and_end_with_the_range() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    let mut random = StdRng::seed_from_u64(seed("large mixed score names"));
    for number in 0..2000 {
        let score = random.random_range(0..50).to_string();
        client.command(&["ZADD", "z", &score, &format!("m{number:04}")]);
    }
    let mut removed = 0;
    for _ in 0..300 {
        let mut ends = [0, 0].map(|_| random.random_range(0..2000));
        ends.sort_unstable();
        let [min, max] = ends.map(|end| format!("[m{end:04}"));
        for (words, is_upward) in [
            (["ZRANGEBYLEX", "z", &min, &max], true),
            (["ZREVRANGEBYLEX", "z", &max, &min], false),
        ] {
            let Value::Array(Some(found)) = client.command(&words) else {
                panic!("{words:?} answers an array")
            };
            let found: Vec<String> = found.iter().map(|member| member.text().expect("a member")).collect();
            let is_first_inside = found
                .first()
                .is_none_or(|first| first[..] >= min[1..] && first[..] <= max[1..]);
            let has_ended = |member: &String| {
                if is_upward {
                    member[..] > max[1..]
                } else {
                    member[..] < min[1..]
                }
            };
            assert!(is_first_inside && !found.iter().any(has_ended), "{words:?}: {found:?}");
        }
        let Value::Integer(counted) = client.command(&["ZLEXCOUNT", "z", &min, &max]) else {
            panic!("ZLEXCOUNT answers a number")
        };
        if removed < 500 {
            let Value::Integer(gone) = client.command(&["ZREMRANGEBYLEX", "z", &min, &max]) else {
                panic!("ZREMRANGEBYLEX answers a number")
            };
            assert_eq!(gone, counted, "{min} {max}");
            removed += gone;
        }
    }
    assert!(removed > 0);
    assert_eq!(client.command(&["ZCARD", "z"]), Value::Integer(2000 - removed));
}
