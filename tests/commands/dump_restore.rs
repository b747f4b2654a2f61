//! DUMP of every type restored by a real redis-server, and the other way round: the same value, whatever its encoding.

use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;

/// Commands that make a value under `k`, and the command that reads all of it; order-free where it is no list.
fn values() -> Vec<(Vec<Vec<String>>, &'static str, bool)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let many = |command: &str, count: usize, member: &dyn Fn(usize) -> Vec<String>| {
        let mut whole = words(command);
        (0..count).for_each(|number| whole.extend(member(number)));
        vec![whole]
    };
    let text = |number: usize| format!("member {number} {}", "x".repeat(number % 90));
    let mut entries: Vec<Vec<String>> = (1..=300)
        .map(|number| words(&format!("XADD k {number}-{} name {number} other -{number}", number % 3)))
        .collect();
    entries.push(words("XADD k 301-0 negative -70000 big 5000000000 text abc"));
    entries.push(words("XDEL k 17-2 300-0"));
    entries.push(words("XGROUP CREATE k readers 0"));
    entries.push(words("XGROUP CREATECONSUMER k readers idle"));
    entries.push(words("XREADGROUP GROUP readers alice COUNT 5 STREAMS k >"));
    entries.push(words("XREADGROUP GROUP readers bob COUNT 3 STREAMS k >"));
    entries.push(words("XACK k readers 2-2"));
    vec![
        (vec![words("SET k 12345")], "GET k", false),
        (vec![words("SET k -70000")], "GET k", false),
        (
            vec![vec!["SET".into(), "k".into(), "ab".repeat(30_000)]],
            "GET k",
            false,
        ),
        (vec![words("APPEND k x"), words("SETRANGE k 50000 y")], "GET k", false),
        (
            many("RPUSH k", 5, &|number| vec![number.to_string()]),
            "LRANGE k 0 -1",
            false,
        ),
        (
            many("RPUSH k", 3000, &|number| vec![text(number)]),
            "LRANGE k 0 -1",
            false,
        ),
        (
            many("RPUSH k", 3, &|number| vec!["e".repeat(number * 9000 + 1)]),
            "LRANGE k 0 -1",
            false,
        ),
        (
            many("SADD k", 100, &|number| vec![(number * number * 7).to_string()]),
            "SMEMBERS k",
            true,
        ),
        (
            many("SADD k", 60, &|number| vec![format!("m{number}")]),
            "SMEMBERS k",
            true,
        ),
        (many("SADD k", 2000, &|number| vec![text(number)]), "SMEMBERS k", true),
        (
            many("HSET k", 20, &|number| vec![format!("f{number}"), number.to_string()]),
            "HGETALL k",
            true,
        ),
        (
            many("HSET k", 900, &|number| vec![format!("f{number}"), text(number)]),
            "HGETALL k",
            true,
        ),
        (
            many("ZADD k", 30, &|number| {
                vec![format!("{number}.25"), format!("m{number}")]
            }),
            "ZRANGE k 0 -1 WITHSCORES",
            false,
        ),
        (
            many("ZADD k", 700, &|number| vec![format!("-{number}.5"), text(number)]),
            "ZRANGE k 0 -1 WITHSCORES",
            false,
        ),
        (
            vec![words("ZADD k inf a -inf b 0.5 c -3 d")],
            "ZRANGE k 0 -1 WITHSCORES",
            false,
        ),
        (entries.clone(), "XRANGE k - +", false),
        (entries, "XPENDING k readers - + 100", false),
        (vec![words("XADD k MAXLEN 0 5-5 f v")], "XINFO GROUPS k", false),
    ]
}

fn make(client: &mut Client, commands: &[Vec<String>]) {
    client.command(&["DEL", "k"]);
    for command in commands {
        let reply = client.command(command);
        assert!(!matches!(reply, Value::Error(_)), "{}: {}", command[0], reply.render());
    }
}

/// A read's reply as text; the idle times of pending entries, which pass, left out.
fn read(client: &mut Client, command: &str, sorted: bool) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let reply = client.command(&words);
    let mut lines: Vec<String> = match (&reply, words[0]) {
        (Value::Array(Some(elements)), "XPENDING") => {
            let of = |element: &Value| match element {
                Value::Array(Some(parts)) => [0, 1, 3].map(|part| parts[part].render()).join(" "),
                other => other.render(),
            };
            elements.iter().map(of).collect()
        }
        (Value::Array(Some(elements)), "HGETALL") => elements
            .chunks(2)
            .map(|pair| pair[0].render() + &pair[1].render())
            .collect(),
        (Value::Array(Some(elements)), _) => elements.iter().map(Value::render).collect(),
        _ => vec![reply.render()],
    };
    if sorted {
        lines.sort();
    }
    lines
}

fn dumped(client: &mut Client) -> Vec<u8> {
    match client.command(&["DUMP", "k"]) {
        Value::Bulk(Some(payload)) => payload,
        reply => panic!("DUMP answers {}", reply.render()),
    }
}

#[test]
fn every_value_goes_from_one_server_to_the_other_and_back() {
    let Some(redis) = RedisOracle::start() else { return };
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut ours = server.connect();
    let mut theirs = Client::connect(redis.address()).expect("redis-server answers");
    for (commands, reading, sorted) in values() {
        make(&mut theirs, &commands);
        let expected = read(&mut theirs, reading, sorted);
        let payload = dumped(&mut theirs);
        let restored = ours.command(&[&b"RESTORE"[..], b"k", b"0", &payload, b"REPLACE"]);
        assert_eq!(restored.render(), "OK", "{reading} of {:?}", commands[0].first());
        assert_eq!(read(&mut ours, reading, sorted), expected, "{reading}");
        // Ours, of the same value made here, and of the one that came from there.
        for is_made_here in [false, true] {
            if is_made_here {
                make(&mut ours, &commands);
            }
            let payload = dumped(&mut ours);
            let restored = theirs.command(&[&b"RESTORE"[..], b"k", b"0", &payload, b"REPLACE"]);
            assert_eq!(restored.render(), "OK", "{reading}");
            assert_eq!(read(&mut theirs, reading, sorted), expected, "{reading}");
        }
    }
}
