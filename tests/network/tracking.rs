//! Clients that keep what they have read, and are told when it is outdated: whatever happens at the same time, what
//! they have in the end is what the server has.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{one_executor, several_executors};
use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;
use crate::storage::seed;

const KEYS: usize = 40;
const READERS: u64 = 4;
const WRITERS: u64 = 2;
const WRITES: usize = 3_000;

/// How many reads are on their way at most.
const PIPELINED_MAX: usize = 20;

fn key(number: usize) -> String {
    format!("key:{number}")
}

/// A client with a cache of its own.
struct Caching {
    client: Client,
    /// What it was told and has not been told to forget.
    cache: HashMap<Vec<u8>, Option<Vec<u8>>>,
    invalidations: usize,
}

impl Caching {
    fn connect(server: &Server, options: &[&str]) -> Caching {
        let mut client = server.connect();
        client.command(&["HELLO", "3"]);
        let tracking = [&["CLIENT", "TRACKING", "ON"], options].concat();
        assert_eq!(client.command(&tracking).render(), "OK");
        Caching {
            client,
            cache: HashMap::new(),
            invalidations: 0,
        }
    }

    /// The next reply; what comes before it is forgotten.
    fn reply(&mut self) -> Value {
        loop {
            match self.client.read().expect("the server answers") {
                Value::Push(push) => self.forget(&push),
                reply => return reply,
            }
        }
    }

    fn forget(&mut self, push: &[Value]) {
        self.invalidations += 1;
        match push {
            [Value::Bulk(Some(word)), keys] if word == b"invalidate" => match keys {
                Value::Null => self.cache.clear(),
                Value::Array(Some(keys)) => {
                    for key in keys {
                        let Value::Bulk(Some(key)) = key else {
                            panic!("{key:?} is no key")
                        };
                        self.cache.remove(key);
                    }
                }
                other => panic!("{other:?} is no list of keys"),
            },
            other => panic!("{other:?} is no invalidation"),
        }
    }

    /// Reads some keys that it does not have, all at once.
    fn read(&mut self, random: &mut StdRng) {
        let count = random.random_range(1..=PIPELINED_MAX);
        let mut asked: Vec<String> = Vec::new();
        for _ in 0..count {
            let key = key(random.random_range(0..KEYS));
            if !self.cache.contains_key(key.as_bytes()) && !asked.contains(&key) {
                self.client.send(&["GET", &key]).expect("the server reads");
                asked.push(key);
            }
        }
        for key in asked {
            match self.reply() {
                Value::Bulk(value) => self.cache.insert(key.into_bytes(), value),
                Value::Null => self.cache.insert(key.into_bytes(), None),
                other => panic!("{other:?} is no value"),
            };
        }
    }
}

fn write(client: &mut Client, random: &mut StdRng, number: usize) {
    let value = number.to_string();
    let keys: [String; 3] = std::array::from_fn(|_| key(random.random_range(0..KEYS)));
    let command: Vec<&str> = match random.random_range(0..100) {
        0 => vec!["FLUSHALL"],
        1..10 => vec!["DEL", &keys[0], &keys[1]],
        10..30 => vec!["MSET", &keys[0], &value, &keys[1], &value, &keys[2], &value],
        30..40 => vec!["SET", &keys[0], &value, "PX", "3"],
        40..50 => vec!["GETDEL", &keys[0]],
        _ => vec!["SET", &keys[0], &value],
    };
    client.command(&command);
}

fn caches_are_right_in_the_end(server: &Server, options: &[&str], test: &str) {
    let seed = seed(test);
    let writing = AtomicBool::new(true);
    let caches: Vec<Caching> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let writing = &writing;
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed + 100 + reader);
                    let mut caching = Caching::connect(server, options);
                    while writing.load(Ordering::Relaxed) {
                        caching.read(&mut random);
                        caching.client.send(&["PING"]).expect("the server reads");
                        assert_eq!(caching.reply(), Value::Simple("PONG".into()));
                    }
                    caching
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed + writer);
                    let mut client = server.connect();
                    for number in 0..WRITES {
                        write(&mut client, &mut random, number);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("the writer ends");
        }
        // What has a deadline expires before anybody compares.
        let mut client = server.connect();
        let expires = |client: &mut Client| client.command(&["INFO", "keyspace"]).render().contains("expires=0");
        let is_empty = |client: &mut Client| client.command(&["DBSIZE"]).render() == "(integer) 0";
        while !expires(&mut client) && !is_empty(&mut client) {}
        writing.store(false, Ordering::Relaxed);
        readers
            .into_iter()
            .map(|reader| reader.join().expect("the reader ends"))
            .collect()
    });
    let mut client = server.connect();
    for mut caching in caches {
        // What the server had to tell has come when it answers.
        caching.client.send(&["PING"]).expect("the server reads");
        caching.reply();
        assert!(caching.invalidations > 100, "{} invalidations", caching.invalidations);
        for (key, cached) in &caching.cache {
            let value = client.command(&[&b"GET"[..], key]);
            let name = String::from_utf8_lossy(key);
            assert_eq!(value, Value::Bulk(cached.clone()), "{name} is cached otherwise");
        }
    }
}

#[test]
fn caches_of_what_was_read_are_right_in_the_end() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        caches_are_right_in_the_end(&server, &[], "caches_of_what_was_read_are_right_in_the_end");
    }
}

#[test]
fn caches_of_a_prefix_are_right_in_the_end() {
    let server = Server::builder().flags(&several_executors()).start();
    let options = ["BCAST", "PREFIX", "key:"];
    caches_are_right_in_the_end(&server, &options, "caches_of_a_prefix_are_right_in_the_end");
}

#[test]
fn caches_are_right_when_there_is_room_for_few_keys() {
    let server = Server::builder()
        .flags(&several_executors())
        .flags(&["--tracking-table-max-keys", "5"])
        .start();
    caches_are_right_in_the_end(&server, &[], "caches_are_right_when_there_is_room_for_few_keys");
}

#[test]
fn keys_above_the_bound_are_given_up_and_a_client_that_leaves_leaves_nothing() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--tracking-table-max-keys", "2"])
        .start();
    let mut caching = Caching::connect(&server, &[]);
    for number in 0..5 {
        caching.client.send(&["GET", &key(number)]).expect("the server reads");
        assert_eq!(caching.reply(), Value::Null);
    }
    caching.client.send(&["PING"]).expect("the server reads");
    caching.reply();
    assert_eq!(caching.invalidations, 3);
    let mut observer = server.connect();
    let mut stats = |name: &str| crate::harness::observe::info_number(&mut observer, "stats", name);
    assert_eq!((stats("tracking_total_keys"), stats("tracking_total_items")), (2, 2));
    drop(caching);
    assert!(crate::harness::process::wait_for(|| stats("tracking_total_keys") == 0));
    assert_eq!(stats("tracking_total_items"), 0);
}

/// A reader that is gone is forgotten although nobody writes its keys, and others go on tracking.
#[test]
fn what_a_client_has_read_that_is_gone_is_forgotten_without_a_write() {
    const READ: usize = 500;
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut observer = server.connect();
        let mut stats = |name: &str| crate::harness::observe::info_number(&mut observer, "stats", name) as usize;
        let mut readers: Vec<Caching> = (0..6).map(|_| Caching::connect(&server, &[])).collect();
        for reader in &mut readers {
            for number in 0..READ {
                reader.client.send(&["GET", &key(number)]).expect("the server reads");
            }
            (0..READ).for_each(|_| assert_eq!(reader.reply(), Value::Null));
        }
        readers[0].client.command(&["GET", "own"]);
        assert_eq!(
            (stats("tracking_total_keys"), stats("tracking_total_items")),
            (READ + 1, 6 * READ + 1)
        );
        let mut staying = readers.pop().expect("there are six");
        let mut ending = readers.pop().expect("there are five");
        assert_eq!(ending.client.command(&["CLIENT", "TRACKING", "OFF"]).render(), "OK");
        drop(readers);
        assert!(
            crate::harness::process::wait_for(|| stats("tracking_total_items") == READ),
            "{} of {} items stay",
            stats("tracking_total_items"),
            6 * READ + 1
        );
        assert_eq!(stats("tracking_total_keys"), READ);
        ending.client.command(&["SET", &key(7), "v"]);
        assert_eq!(ending.client.command(&["PING"]).render(), "PONG");
        staying.client.send(&["PING"]).expect("the server reads");
        assert_eq!(staying.reply(), Value::Simple("PONG".into()));
        assert!(crate::harness::process::wait_for(|| {
            staying.client.send(&["PING"]).expect("the server reads");
            staying.reply();
            staying.invalidations == 1
        }));
    }
}

/// What redis-py's cache does. It asks for Redis 7.4, and uses nothing that is newer than 6.0.
const PYTHON: &str = r#"
import sys, redis, redis.connection
try:
    from redis.cache import CacheConfig
    redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = '7.0.0'
except (ImportError, AttributeError):
    print('no cache in redis-py', redis.__version__)
    sys.exit(0)
port = int(sys.argv[1])
client = redis.Redis(port=port, protocol=3, decode_responses=True, cache_config=CacheConfig())
writer = redis.Redis(port=port, decode_responses=True)
for n in range(200):
    key = f'key:{n % 10}'
    writer.set(key, n)
    assert client.get(key) == str(n) and client.get(key) == str(n)
cache = client.get_cache()
assert cache.size == 10, cache.size
assert client.hgetall('hash') == {}
writer.hset('hash', 'f', 'v')
assert client.hgetall('hash') == {'f': 'v'}
writer.flushall()
assert client.get('key:1') is None and client.hgetall('hash') == {}
print('all well with the cache of redis-py', redis.__version__)
"#;

#[test]
fn the_cache_of_redis_py_works() {
    // Its cache is right at once only where all clients are on one network executor, as in Redis.
    let server = Server::builder().flags(&one_executor()).start();
    let output = Command::new("python3")
        .args(["-c", PYTHON, &server.address().port().to_string()])
        .output();
    let Ok(output) = output else {
        println!("python3 is not installed: redis-py was not tried.");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("No module named 'redis'") || text.contains("no cache in redis-py") {
        println!("redis-py's cache is not installed: it was not tried.");
        return;
    }
    assert!(output.status.success() && text.contains("all well"), "{text}");
}

#[test]
fn a_command_over_several_executors_is_remembered_on_each() {
    let server = Server::builder().flags(&several_executors()).start();
    let mut writer = server.connect();
    let mut caching = Caching::connect(&server, &[]);
    let names: Vec<String> = (0..8).map(key).collect();
    let mut mget = vec!["MGET"];
    mget.extend(names.iter().map(String::as_str));
    for command in [
        &mget[..],
        // A pair for which one executor has to ask another, whatever shards the names are on.
        &["LCS", &names[0], &names[1]],
        &["LCS", &names[0], &names[2]],
        &["LCS", &names[0], &names[3]],
    ] {
        caching.client.send(command).expect("the server reads");
        caching.reply();
        let read: Vec<&str> = command[1..].to_vec();
        let before = caching.invalidations;
        for key in &read {
            writer.command(&["SET", key, "v"]);
        }
        while caching.invalidations < before + read.len() {
            match caching.client.read().expect("the server tells") {
                Value::Push(push) => caching.forget(&push),
                other => panic!("{other:?} is no invalidation"),
            }
        }
    }
}
