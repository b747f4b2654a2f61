//! What a session leaves behind in INFO and CLIENT LIST, compared with redis-server: figures that no reply shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Shape;
use crate::harness::client::Client;
use crate::harness::observe::{info, info_number};
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;

/// Commands of every kind that is counted in its own way: found and missed keys, refusals before and errors while they
/// run, transactions, scripts, blocking commands. (Not SET with GET, XREADGROUP and what writes elsewhere what it
/// reads, as COPY and SINTERSTORE: their look-ups count in Redis and not here.) Words are separated by blanks; `~`
/// stands for a blank in a word.
const SESSION: &str = "
    SET k1 v
    SET k2 v
    SET k3 v
    MSET m1 1 m2 2
    GET k1
    GET none
    MGET k1 none k2 none
    EXISTS k1 none
    TYPE k1
    TYPE none
    TTL none
    PTTL k1
    EXPIRETIME none
    OBJECT ENCODING none
    OBJECT ENCODING k1
    STRLEN none
    GETRANGE k1 0 1
    SUBSTR k2 0 1
    GETBIT none 0
    BITCOUNT none
    BITPOS none 1
    GETSET k1 w
    GETDEL k3
    GETEX k1
    SET k2 v NX
    SET none2 v XX
    SETNX k1 x
    SETEX e 100 v
    EXPIRE e 50
    EXPIRE none 50
    PERSIST none
    APPEND k1 x
    SETRANGE k1 0 z
    INCR m1
    INCR k1
    INCR none x
    DECRBY m1 1
    DEL none
    DEL k3 m2
    UNLINK none
    TOUCH k1 none
    RENAME none x
    RENAMENX k1 k2
    DUMP k1
    DUMP none
    MOVE none 1
    KEYS *
    SCAN 0 COUNT 1000
    DBSIZE
    SORT none
    LPUSH k1 x
    LPUSH l a b c
    RPUSH l d
    LPUSHX none x
    LPOP none
    LPOP l
    LRANGE none 0 -1
    LRANGE l 0 -1
    LINDEX l 0
    LINDEX none 0
    LLEN none
    LPOS l c
    LSET none 0 x
    LMOVE none l LEFT LEFT
    RPOPLPUSH l l
    LINSERT none BEFORE a b
    BLPOP none 0.01
    BLPOP l 0.01
    BLMPOP 0.01 1 none LEFT
    HSET h f v
    HGET h f
    HGET none f
    HGETALL h
    HMGET none f
    HEXISTS h f
    HINCRBY h n 1
    HINCRBY h f 1
    HDEL none f
    HLEN none
    HSTRLEN none f
    HRANDFIELD none
    HSCAN none 0
    SADD s a b
    SISMEMBER none a
    SISMEMBER s a
    SMEMBERS none
    SPOP none
    SRANDMEMBER none
    SREM none a
    SMOVE none s a
    SUNION none s
    SINTER none s
    SINTERCARD 1 s
    ZADD z 1 a 2 b
    ZSCORE none a
    ZSCORE z a
    ZINCRBY z 1 a
    ZRANGE z 0 -1
    ZRANGE none 0 -1
    ZRANGEBYSCORE z -inf +inf
    ZRANK z a
    ZCARD none
    ZPOPMIN none
    GEOADD g 1 1 a
    GEOPOS g a
    GEODIST none a b
    XADD x 1-1 a b
    XLEN none
    XRANGE x - +
    XREAD STREAMS x none 0 0
    XGROUP CREATE x grp 0
    XACK x grp 1-1
    XDEL none 1-1
    PFADD pf a
    PFCOUNT pf none
    GET
    FOO
    FOO bar
    CONFIG FOO
    CONFIG GET port
    CONFIG SET foo bar
    CONFIG SET maxclients x
    CLIENT FOO
    CLIENT SETNAME n
    CLIENT GETNAME
    CLIENT KILL ID 99999
    SELECT 99
    SELECT 1
    SELECT 0
    SWAPDB 0 1
    SWAPDB 0 1
    ECHO x
    PING
    PING x
    TIME
    AUTH x
    HELLO 9
    HELLO 2
    PUBLISH c x
    WAIT 0 10
    DEBUG SLEEP 0
    DEBUG FOO
    COMMAND COUNT
    LASTSAVE
    MULTI
    SET t 1
    GET t
    GET none
    LPUSH t 1
    PING
    EXEC
    EXEC
    DISCARD
    MULTI
    FOO
    GET
    EXEC
    MULTI
    SET t2 1
    DISCARD
    MULTI
    MULTI
    WATCH x
    EXEC
    WATCH t
    SET t 2
    MULTI
    GET t
    EXEC
    UNWATCH
    EVAL redis.call('set',KEYS[1],'1')~redis.call('get',KEYS[1])~return~redis.pcall('lpush',KEYS[1],'x') 1 sk
    EVAL return~redis.call('lpush',KEYS[1],'x') 1 sk
    EVAL return~redis.call('nosuch') 0
    EVAL return~redis.pcall('get') 0
    EVAL return~redis.call('auth','x') 0
    EVAL return~redis.call('get',KEYS[1]) 1 nokey
    EVAL return~undefined 0
    EVAL return~( 0
    EVAL return~redis.error_reply('MY~error') 0
    EVAL_RO return~redis.call('set',KEYS[1],'1') 1 sk
    EVALSHA aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0
    SCRIPT LOAD return~1
    EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0
    MULTI
    EVAL return~redis.call('incr',KEYS[1]) 1 sk
    EVAL return~redis.call('lpush',KEYS[1],'x') 1 sk
    EXEC
    FCALL nosuch 0
";

/// The figures: what INFO says of each command and error, and how many keys were found.
fn figures(client: &mut Client) -> BTreeMap<String, String> {
    let mut figures = BTreeMap::new();
    for section in ["commandstats", "errorstats", "keyspace"] {
        for line in info(client, section).lines() {
            if let Some((name, value)) = line.split_once(':') {
                // Times, and what takes a look at every key.
                let is_count = |count: &&str| !count.starts_with("usec") && !count.starts_with("avg_ttl");
                let counts = value.split(',').filter(is_count);
                figures.insert(name.to_owned(), counts.collect::<Vec<_>>().join(","));
            }
        }
    }
    for name in [
        "keyspace_hits",
        "keyspace_misses",
        "expired_keys",
        "total_error_replies",
        "total_commands_processed",
        "total_connections_received",
        "rejected_connections",
        "pubsub_channels",
        "pubsub_patterns",
    ] {
        figures.insert(name.to_owned(), info_number(client, "stats", name).to_string());
    }
    figures
}

fn figures_after_session(address: SocketAddr) -> BTreeMap<String, String> {
    let mut client = Client::connect(address).expect("the server accepts");
    let only_client = wait_for(|| info_number(&mut client, "clients", "connected_clients") == 1);
    assert!(only_client, "another client would be counted");
    client.command(&["FLUSHALL"]);
    client.command(&["CONFIG", "RESETSTAT"]);
    for line in SESSION.lines() {
        let words: Vec<String> = line.split_whitespace().map(|word| word.replace('_', " ")).collect();
        // A name with that sign: EVAL_RO.
        let words: Vec<String> = words
            .iter()
            .map(|word| {
                if word == "EVAL RO" {
                    "EVAL_RO".to_owned()
                } else {
                    word.clone()
                }
            })
            .collect();
        if !words.is_empty() {
            client.command(&words);
        }
    }
    client.command(&["SET", "short", "v", "PX", "1"]);
    assert!(wait_for(|| info_number(&mut client, "stats", "expired_keys") == 1));
    let mut found = figures(&mut client);
    // As many as the waits above took.
    found.remove("cmdstat_info");
    found.remove("total_commands_processed");
    found
}

#[test]
fn a_session_leaves_the_figures_behind_that_redis_shows() {
    let Some(redis) = RedisOracle::start() else { return };
    let expected = figures_after_session(redis.address());
    for shape in [Shape::OneShard, Shape::FourShardsBothRoles] {
        let debug = ["--enable-debug-command", "local"];
        let server = Server::builder().flags(&shape.flags()).flags(&debug).start();
        let found = figures_after_session(server.address());
        let names = expected.keys().chain(found.keys());
        let mut differences: Vec<String> = names
            .filter(|name| expected.get(*name) != found.get(*name))
            .map(|name| format!("{name}: Redis {:?}, Corelane {:?}", expected.get(name), found.get(name)))
            .collect();
        differences.sort();
        differences.dedup();
        assert!(differences.is_empty(), "{shape:?}:\n{}", differences.join("\n"));
    }
}

/// What each client does, one after the other; then CLIENT LIST is looked at.
const CLIENTS: &[&[&str]] = &[
    &["CLIENT SETNAME named", "SELECT 3", "GET none"],
    &["MULTI", "SET x 1", "GET x", "NOSUCH"],
    &["MULTI"],
    &["WATCH a b a", "GET a"],
    &["WATCH dirty", "MULTI"],
    &["SUBSCRIBE one", "SUBSCRIBE two", "PSUBSCRIBE p*", "SSUBSCRIBE s"],
    &["SUBSCRIBE one", "UNSUBSCRIBE one"],
    &["MONITOR"],
    &["CLIENT TRACKING on BCAST PREFIX p"],
    &["HELLO 3", "CLIENT TRACKING on OPTIN", "CLIENT CACHING yes"],
    &["CLIENT NO-EVICT on"],
    &["CONFIG GET port"],
    &["OBJECT ENCODING none"],
    &["NOSUCH"],
    &["EVAL return~redis.call('get','none') 0"],
    &["MULTI", "PING", "EXEC"],
    &["PING", "SET"],
    &["RESET"],
    &[],
];

/// The fields of CLIENT LIST that both servers have and that do not depend on time or on how memory is used.
const FIELDS: [&str; 12] = [
    "name", "flags", "db", "sub", "psub", "ssub", "multi", "events", "cmd", "user", "redir", "resp",
];

fn client_lines(address: SocketAddr) -> Vec<String> {
    let connect = || Client::connect(address).expect("the server accepts");
    let mut observer = connect();
    assert!(wait_for(
        || info_number(&mut observer, "clients", "connected_clients") == 1
    ));
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(|word| word.replace('~', " ")).collect() };
    let clients = CLIENTS.iter().map(|lines| {
        let mut client = connect();
        for line in *lines {
            client.command(&words(line));
        }
        client
    });
    let clients: Vec<Client> = clients.collect();
    // The last one has sent nothing: another executor could take the next client up, and number it, before that one.
    let connected = 1 + CLIENTS.len() as u64;
    assert!(wait_for(
        || info_number(&mut observer, "clients", "connected_clients") == connected
    ));
    observer.command(&["SET", "dirty", "1"]);
    let mut blocked = connect();
    blocked.send(&["BLPOP", "nothing", "0"]).expect("the server reads");
    assert!(wait_for(
        || info_number(&mut observer, "clients", "blocked_clients") == 1
    ));
    let list = observer
        .command(&["CLIENT", "LIST"])
        .text()
        .expect("CLIENT LIST is a text");
    let project = |line: &str| {
        let field = |name: &&str| {
            let value = line
                .split(' ')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            format!("{name}={}", value.unwrap_or("missing"))
        };
        FIELDS.iter().map(field).collect::<Vec<_>>().join(" ")
    };
    let id = |line: &&str| {
        let id = line.split(' ').next().and_then(|field| field.strip_prefix("id="));
        id.and_then(|id| id.parse::<u64>().ok())
            .expect("a line begins with the client's id")
    };
    // Redis has them in no order.
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_by_key(id);
    drop(clients);
    lines.into_iter().map(project).collect()
}

#[test]
fn client_list_shows_what_redis_shows() {
    let Some(redis) = RedisOracle::start() else { return };
    let expected = client_lines(redis.address());
    for shape in [Shape::OneShard, Shape::FourShardsBothRoles] {
        let server = Server::builder().flags(&shape.flags()).start();
        let found = client_lines(server.address());
        assert_eq!(found.len(), expected.len(), "{shape:?}");
        for (client, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let did = client.checked_sub(1).and_then(|client| CLIENTS.get(client));
            assert_eq!(found, expected, "{shape:?}: the client that did {did:?}");
        }
    }
}

/// What INFO memory says of an owner.
fn memory_of(client: &mut Client, owner: &str) -> u64 {
    info_number(client, "memory", owner)
}

/// What MEMORY STATS says under a name.
fn figure_of(stats: &Value, name: &str) -> u64 {
    let Value::Array(Some(items)) = stats else {
        panic!("MEMORY STATS answers {stats:?}");
    };
    let at = items.iter().position(|item| *item == Value::Bulk(Some(name.into())));
    match &items[at.expect("the figure is there") + 1] {
        Value::Integer(value) => *value as u64,
        other => panic!("{name} is {other:?}"),
    }
}

/// Panics unless the figure of an owner comes to be what is said of it.
fn wait_for_memory(client: &mut Client, owner: &str, is_right: impl Fn(u64) -> bool) {
    let mut last = 0;
    let came = wait_for(|| {
        last = memory_of(client, owner);
        is_right(last)
    });
    assert!(came, "{owner} stays at {last}");
}

#[test]
fn the_memory_of_each_owner_grows_with_what_it_has_and_falls_with_that() {
    const BYTES: u64 = 1 << 20;
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = Client::connect(server.address()).expect("the server accepts");
    let owners = [
        "value_cache",
        "resident_cache",
        "resident_hash",
        "mem_clients_normal",
        "used_memory_scripts",
    ];
    let before = owners.map(|owner| memory_of(&mut client, owner));
    let value = "v".repeat(1024);
    // A checkpoint lets go of it, at any time.
    let pins = || {
        client.command(&["SET", "string:0", &value]);
        memory_of(&mut client, "log_pinned") > 0
    };
    assert!(wait_for(pins), "what only the log has is nobody's memory");
    for number in 0..BYTES / 1024 {
        client.command(&["SET", &format!("string:{number}"), &value]);
        client.command(&["HSET", "hash", &format!("field:{number}"), &value]);
    }
    let usage = client.command(&["MEMORY", "USAGE", "hash"]).render();
    let usage: u64 = usage
        .trim_start_matches("(integer) ")
        .parse()
        .expect("a number of bytes");
    assert!((BYTES..2 * BYTES).contains(&usage), "the hash takes {usage} bytes");
    let mut queueing = Client::connect(server.address()).expect("the server accepts");
    queueing.command(&["MULTI"]);
    queueing.command(&["SET", "queued", &"v".repeat(BYTES as usize)]);
    client.command(&["SCRIPT", "LOAD", &format!("return '{}'", "v".repeat(BYTES as usize))]);
    for (owner, before) in owners.iter().zip(before) {
        wait_for_memory(&mut client, owner, |now| now >= before + BYTES);
    }
    let stats = client.command(&["MEMORY", "STATS"]);
    assert_eq!(figure_of(&stats, "keys.count"), BYTES / 1024 + 1);
    assert!(figure_of(&stats, "dataset.bytes") >= 2 * BYTES);
    assert!(figure_of(&stats, "resident.hash.bytes") >= BYTES && figure_of(&stats, "resident.set.bytes") == 0);
    queueing.command(&["DISCARD"]);
    client.command(&["SCRIPT", "FLUSH"]);
    client.command(&["FLUSHALL"]);
    client.command(&["SAVE"]);
    for (owner, before) in owners.iter().zip(before) {
        wait_for_memory(&mut client, owner, |now| now < before + BYTES / 10);
    }
}
