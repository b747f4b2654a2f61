//! Scripts beside other clients: what a long one holds up and what not, and that a script which is ended leaves
//! nothing.

mod atomicity;
mod functions;
mod libraries;
mod pausing;
mod undeclared;

use std::time::{Duration, Instant};

use crate::commands::Shape;
use crate::harness::client::Client;
use crate::harness::observe::info_number;
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::{Server, allowed_cpus};
use crate::harness::value::Value;

const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";

/// Writes and then never ends.
const WRITES_FOR_EVER: &str = "redis.call('set', KEYS[1], 'written') while true do end";

/// Two keys that lie on different storage executors of [`Shape::FourShardsBothRoles`], where there are two.
const KEYS: [&str; 2] = ["a", "b"];

fn start(shape: Shape, flags: &[&str]) -> Server {
    Server::builder().flags(&shape.flags()).flags(flags).start()
}

fn run(client: &mut Client, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(Some(text.as_bytes().to_vec()))
}

/// Kills the script that runs, as soon as one does.
fn kill(server: &Server) {
    let mut client = server.connect();
    assert!(wait_for(|| run(&mut client, "SCRIPT KILL") == ok()), "no script runs");
}

/// Asserts that a reply is an error with these words in it.
fn assert_fails(reply: &Value, words: &str) {
    match reply {
        Value::Error(text) => assert!(text.contains(words), "{text:?} does not say {words:?}"),
        other => panic!("no error but {}", other.render()),
    }
}

#[test]
fn a_busy_executor_says_so_until_the_script_is_killed_and_the_others_go_on() {
    let server = start(Shape::FourShardsBothRoles, &["--busy-reply-threshold", "50"]);
    let (mut scripting, mut client) = (server.connect(), server.connect());
    for key in KEYS {
        assert_eq!(run(&mut client, &format!("SET {key} before")), ok());
    }
    scripting
        .send(&["EVAL", WRITES_FOR_EVER, "1", KEYS[0]])
        .expect("the script is sent");
    let busy = Value::Error(BUSY.to_owned());
    assert!(wait_for(|| run(&mut client, &format!("GET {}", KEYS[0])) == busy));
    assert_eq!(
        run(&mut client, &format!("MSET {{{}}}x 1 {{{}}}y 1", KEYS[0], KEYS[0])),
        busy
    );
    assert_eq!(run(&mut client, "DBSIZE"), busy);
    assert_eq!(run(&mut client, "PING"), Value::Simple("PONG".to_owned()));
    if allowed_cpus().len() > 1 {
        for number in 0..100 {
            assert_eq!(run(&mut client, &format!("SET {} {number}", KEYS[1])), ok());
        }
        assert_eq!(run(&mut client, &format!("GET {}", KEYS[1])), bulk("99"));
    }
    assert_eq!(run(&mut client, "SCRIPT KILL"), ok());
    let reply = scripting.read().expect("the script is answered");
    assert_fails(
        &reply,
        "user_script:1: Script killed by user with SCRIPT KILL. script: ",
    );
    assert!(wait_for(
        || run(&mut client, &format!("GET {}", KEYS[0])) == bulk("before")
    ));
    assert_fails(
        &run(&mut client, "SCRIPT KILL"),
        "NOTBUSY No scripts in execution right now.",
    );
}

#[test]
fn what_waited_behind_a_script_is_answered_when_it_turns_out_to_be_busy() {
    let server = start(Shape::OneShard, &["--busy-reply-threshold", "300"]);
    let (mut scripting, mut waiting) = (server.connect(), server.connect());
    scripting
        .send(&["EVAL", WRITES_FOR_EVER, "1", "k"])
        .expect("the script is sent");
    // Long before the threshold: it goes to the executor and waits there.
    waiting.send(&["SET", "other", "1"]).expect("the command is sent");
    assert_eq!(waiting.read().expect("it is answered"), Value::Error(BUSY.to_owned()));
    kill(&server);
    assert_fails(&scripting.read().expect("the script is answered"), "SCRIPT KILL");
    assert!(wait_for(|| run(&mut waiting, "EXISTS k other") == Value::Integer(0)));
}

/// They are in one message with the script, which is refused but for the script.
#[test]
fn what_a_client_pipelines_behind_its_busy_script_is_refused_with_its_arguments() {
    let server = start(Shape::OneShard, &["--busy-reply-threshold", "50"]);
    let mut scripting = server.connect();
    let eval = format!(
        "*4\r\n$4\r\nEVAL\r\n${}\r\n{WRITES_FOR_EVER}\r\n$1\r\n1\r\n$1\r\nk\r\n",
        WRITES_FOR_EVER.len()
    );
    let pipeline = format!("{eval}SET other 1\r\nBLPOP k 0\r\n");
    scripting.send_bytes(pipeline.as_bytes()).expect("the pipeline is sent");
    let mut asking = server.connect();
    let is_busy = |client: &mut Client| run(client, "GET k") == Value::Error(BUSY.to_owned());
    assert!(wait_for(|| is_busy(&mut asking)), "nobody was told BUSY");
    kill(&server);
    assert_fails(&scripting.read().expect("the script is answered"), "SCRIPT KILL");
    for _ in 0..2 {
        let reply = scripting.read().expect("it is answered");
        assert_eq!(reply, Value::Error(BUSY.to_owned()));
    }
    assert_eq!(run(&mut asking, "EXISTS k other"), Value::Integer(0));
}

#[test]
fn a_killed_script_ends_whatever_it_catches() {
    let server = start(Shape::OneShard, &[]);
    let mut scripting = server.connect();
    for script in [
        "redis.call('set', KEYS[1], 1) while true do end",
        "redis.call('set', KEYS[1], 1) while true do pcall(function() while true do end end) end",
        "redis.call('set', KEYS[1], 1) while true do xpcall(function() while true do end end, function() while true do \
         end end) end",
        "while true do redis.call('incr', KEYS[1]) end",
        "while true do pcall(redis.call, 'incr', KEYS[1]) end",
        "redis.call('set', KEYS[1], 1) local function f() while true do pcall(f) end end f()",
        "redis.call('set', KEYS[1], 1) local c = coroutine.wrap(function() while true do pcall(coroutine.yield) end \
         end) while true do pcall(c) end",
        "redis.call('set', KEYS[1], 1) coroutine.wrap(function() while true do pcall(function() while true do end end) \
         end end)()",
        "redis.call('set', KEYS[1], 1) return (string.gsub(string.rep('x', 1000), 'x', function() while true do end \
         end))",
        "redis.call('set', KEYS[1], 1) table.sort({1, 2, 3}, function() while true do end end)",
        "redis.call('set', KEYS[1], 1) return setmetatable({}, {__index = function() while true do end end}).x",
    ] {
        scripting.send(&["EVAL", script, "1", "k"]).expect("the script is sent");
        kill(&server);
        let reply = scripting
            .read()
            .unwrap_or_else(|error| panic!("{script} is not answered: {error}"));
        assert_fails(&reply, "Script killed by user with SCRIPT KILL.");
        assert_eq!(run(&mut scripting, "EXISTS k"), Value::Integer(0), "{script}");
        assert_eq!(run(&mut scripting, "PING"), Value::Simple("PONG".to_owned()));
    }
    // The interpreter that they left is as good as new.
    let reply = scripting.command(&["EVAL", "local n = 0 for i = 1, 1000000 do n = n + i end return n", "0"]);
    assert_eq!(reply, Value::Integer(500_000_500_000));
}

#[test]
fn a_script_past_its_time_limit_is_rolled_back() {
    let server = start(Shape::OneShard, &["--script-time-limit-ms", "50"]);
    let mut client = server.connect();
    let began = Instant::now();
    let reply = client.command(&["EVAL", WRITES_FOR_EVER, "1", "k"]);
    assert_fails(
        &reply,
        "Script ran longer than script-time-limit-ms and was rolled back.",
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(run(&mut client, "EXISTS k"), Value::Integer(0));
}

#[test]
fn a_script_past_its_memory_limit_is_rolled_back_whatever_it_catches() {
    let server = start(Shape::OneShard, &["--script-memory-limit", "8mb"]);
    let mut client = server.connect();
    for script in [
        "redis.call('set', KEYS[1], 1) local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end",
        "redis.call('set', KEYS[1], 1) local t = {} while true do pcall(function() t[#t + 1] = string.rep('x', 1000) \
         .. #t end) end",
        "redis.call('set', KEYS[1], 1) local t = {} while true do t[#t + 1] = {} end",
        "redis.call('set', KEYS[1], 1) return string.rep('x', 100000000)",
    ] {
        let reply = client.command(&["EVAL", script, "1", "k"]);
        assert_fails(
            &reply,
            "Script used more memory than script-memory-limit and was rolled back.",
        );
        assert_eq!(run(&mut client, "EXISTS k"), Value::Integer(0), "{script}");
    }
    // One large piece may be refused and caught: nothing of it is there.
    let caught = "return {pcall(string.rep, 'x', 100000000)}";
    let reply = client.command(&["EVAL", caught, "0"]);
    assert_eq!(reply.render(), "1) (nil)\n2) \"not enough memory\"");
    assert_eq!(client.command(&["EVAL", "return 1", "0"]), Value::Integer(1));
}

#[test]
fn what_earlier_scripts_left_is_not_held_against_later_ones() {
    let server = start(Shape::OneShard, &["--script-memory-limit", "2mb"]);
    let mut client = server.connect();
    let filler = "do local t = {} end ".repeat(500);
    for number in 0..200 {
        let text = format!("{filler} return {number}");
        assert_eq!(client.command(&["EVAL", &text, "0"]), Value::Integer(number));
    }
}

#[test]
fn no_script_can_overflow_the_stack() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    for (script, words) in [
        ("local function f() return f() + 1 end return f()", "stack overflow"),
        (
            "return ('a'):rep(200000):find(('a?'):rep(100000))",
            "pattern too complex",
        ),
        (
            "return loadstring('return ' .. ('('):rep(10000) .. '1' .. (')'):rep(10000))()",
            "attempt to call a nil value",
        ),
        (
            "local function f() return (('x'):gsub('x', f)) end return f()",
            "stack overflow",
        ),
        (
            "local function f() return coroutine.wrap(f)() end return f()",
            "stack overflow",
        ),
        ("local t = {} t[1] = t return t", "reached lua stack limit"),
        (
            "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x",
            "loop in gettable",
        ),
    ] {
        let reply = client.command(&["EVAL", script, "0"]);
        assert!(reply.render().contains(words), "{script}: {}", reply.render());
    }
    let longest = "return #(('a'):rep(5000):match(('a?'):rep(5000)))";
    assert_eq!(client.command(&["EVAL", longest, "0"]), Value::Integer(5000));
}

#[test]
fn the_writes_before_an_error_stay_unless_the_operator_wants_them_dropped() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    let script = "redis.call('set', KEYS[1], ARGV[1]) error('late')";
    assert_fails(
        &client.command(&["EVAL", script, "1", "k", "1"]),
        "ERR user_script:1: late script: ",
    );
    assert_eq!(run(&mut client, "GET k"), bulk("1"));
    assert_eq!(run(&mut client, "CONFIG SET script-rollback-on-error yes"), ok());
    assert_fails(
        &client.command(&["EVAL", script, "1", "k", "2"]),
        "ERR user_script:1: late script: ",
    );
    assert_eq!(run(&mut client, "GET k"), bulk("1"));
}

#[test]
fn a_pipeline_keeps_its_order_around_a_long_script() {
    let server = start(Shape::FourShardsSeparateRoles, &[]);
    let mut client = server.connect();
    let long =
        "redis.call('append', KEYS[1], 'b') for i = 1, 3000000 do end redis.call('append', KEYS[1], 'c') return 'done'";
    for _ in 0..5 {
        client.send(&["SET", "k", "a"]).expect("it is sent");
        client.send(&["EVAL", long, "1", "k"]).expect("it is sent");
        client.send(&["APPEND", "k", "d"]).expect("it is sent");
        client
            .send(&["EVAL", "return redis.call('get', KEYS[1])", "1", "k"])
            .expect("it is sent");
        let replies: Vec<Value> = (0..4).map(|_| client.read().expect("it is answered")).collect();
        assert_eq!(replies, [ok(), bulk("done"), Value::Integer(4), bulk("abcd")]);
    }
}

#[test]
fn a_script_that_one_network_executor_has_loaded_is_there_for_all() {
    if allowed_cpus().len() < 2 {
        return;
    }
    let server = start(Shape::FourShardsBothRoles, &[]);
    let mut client = server.connect();
    let [here, _] = KEYS;
    let digest = run(&mut client, "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0");
    assert_fails(&digest, "NOSCRIPT");
    assert_eq!(client.command(&["EVAL", "return 1", "1", here]), Value::Integer(1));
    for key in KEYS {
        for _ in 0..4 {
            let line = format!("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 {key}");
            assert_eq!(run(&mut server.connect(), &line), Value::Integer(1));
        }
    }
}

/// `calls` and `failed_calls` of a command, as INFO says.
fn calls(client: &mut Client, command: &str) -> (u64, u64) {
    let text = run(client, "INFO commandstats").text().expect("INFO is a text");
    let prefix = format!("cmdstat_{command}:");
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(&prefix)) else {
        return (0, 0);
    };
    let field = |name: &str| {
        let value = line
            .split(',')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).expect("a number")
    };
    (field("calls"), field("failed_calls"))
}

fn what_scripts_call_is_counted(target: &str, mut client: Client) {
    run(&mut client, "SET k text");
    run(&mut client, "CONFIG RESETSTAT");
    // It pauses, and may begin anew: nothing counts twice.
    let script = "for i = 1, 5000 do redis.call('append', KEYS[1], 'x') end redis.pcall('incr', KEYS[1]) \
        for i = 1, 3000000 do end return redis.pcall('get', KEYS[1]) and 1";
    for _ in 0..3 {
        assert_eq!(client.command(&["EVAL", script, "1", "k"]), Value::Integer(1));
    }
    run(&mut client, "MULTI");
    client.command(&["EVAL", script, "1", "k"]);
    run(&mut client, "EXEC");
    let expected = [
        ("eval", (4, 0)),
        ("append", (20_000, 0)),
        ("incr", (4, 4)),
        ("get", (4, 0)),
    ];
    for (command, counts) in expected {
        assert_eq!(calls(&mut client, command), counts, "{command} on {target}");
    }
}

#[test]
fn what_scripts_call_is_counted_as_redis_does() {
    for shape in [Shape::OneShard, Shape::FourShardsBothRoles] {
        let server = start(shape, &[]);
        what_scripts_call_is_counted(&format!("{shape:?}"), server.connect());
    }
    if let Some(redis) = RedisOracle::start() {
        let client = Client::connect(redis.address()).expect("redis-server takes connections");
        what_scripts_call_is_counted("redis-server", client);
    }
}

#[test]
fn commands_on_all_keys_run_where_all_keys_are() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    for key in ["x1", "x2", "y"] {
        run(&mut client, &format!("SET {key} 1"));
    }
    let all =
        "return {redis.call('dbsize'), #redis.call('keys', 'x*'), redis.call('scan', 0)[1], redis.call('flushall').ok}";
    let reply = client.command(&["EVAL", all, "0"]);
    assert_eq!(reply.render(), "1) (integer) 3\n2) (integer) 2\n3) \"0\"\n4) \"OK\"");
    let after = "redis.call('set', KEYS[1], 1) return redis.call('keys', '*')";
    let reply = client.command(&["EVAL", after, "1", "k"]);
    assert_eq!(reply.render(), "1) \"k\"");
}

#[test]
fn a_large_reply_is_whole_inside_a_script() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    let fill = "for i = 1, 100 do local t = {} for j = 1, 100 do t[j] = i * 100 + j end redis.call('sadd', KEYS[1], unpack(t)) end";
    assert_eq!(client.command(&["EVAL", fill, "1", "s"]), Value::Bulk(None));
    let reply = client.command(&["EVAL", "return #redis.call('smembers', KEYS[1])", "1", "s"]);
    assert_eq!(reply, Value::Integer(10_000));
}

#[test]
fn a_server_stops_while_a_script_runs() {
    let mut server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    assert_eq!(run(&mut client, "SET before 1"), ok());
    let mut scripting = server.connect();
    scripting
        .send(&["EVAL", WRITES_FOR_EVER, "1", "k"])
        .expect("the script is sent");
    // It answers only when it is killed, and a script that can be killed runs.
    assert!(wait_for(|| info_number(&mut client, "memory", "running_scripts") == 1));
    assert!(server.terminate().success());
    server.restart();
    let mut client = server.connect();
    assert_eq!(run(&mut client, "GET before"), bulk("1"));
    assert_eq!(run(&mut client, "EXISTS k"), Value::Integer(0));
}

#[test]
fn evaluated_scripts_make_room_for_others_and_loaded_ones_stay() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    let loaded = client.command(&["SCRIPT", "LOAD", "return 'loaded'"]);
    let digest = loaded.text().expect("a digest");
    for number in 0..600 {
        let text = format!("return {number}");
        assert_eq!(client.command(&["EVAL", &text, "0"]), Value::Integer(number));
    }
    assert_eq!(info_number(&mut client, "memory", "number_of_cached_scripts"), 501);
    assert_eq!(info_number(&mut client, "stats", "evicted_scripts"), 100);
    assert!(info_number(&mut client, "memory", "used_memory_scripts_eval") > 5_000);
    assert_eq!(client.command(&["EVALSHA", &digest, "0"]), bulk("loaded"));
    assert_eq!(run(&mut client, "SCRIPT FLUSH"), ok());
    assert_eq!(info_number(&mut client, "memory", "number_of_cached_scripts"), 0);
    assert_fails(&client.command(&["EVALSHA", &digest, "0"]), "NOSCRIPT");
}
