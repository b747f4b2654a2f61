//! Programs and libraries that people use with Redis, unchanged. One that is not installed is left out, and said so.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::{one_executor, request, several_executors};
use crate::harness::observe::info_number;
use crate::harness::server::Server;

/// Runs a program against the server, with something on its standard input; nothing if it is not installed.
fn run(program: &str, server: &Server, arguments: &[&str], input: &[u8]) -> Option<Output> {
    let port = server.address().port().to_string();
    let child = Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &port])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("{program} is not installed: it was not tried.");
        return None;
    };
    child
        .stdin
        .take()
        .expect("it is a pipe")
        .write_all(input)
        .expect("the program reads its input");
    Some(child.wait_with_output().expect("the program ends"))
}

/// Runs a program that must exit 0; returns what it printed.
fn printed(program: &str, server: &Server, arguments: &[&str], input: &[u8]) -> Option<String> {
    let output = run(program, server, arguments, input)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed ({}):\n{text}",
        output.status
    );
    Some(text)
}

#[test]
fn redis_cli_works() {
    let server = Server::builder().flags(&several_executors()).start();
    let cli = |arguments: &[&str], input: &[u8]| printed("redis-cli", &server, arguments, input);
    let Some(pong) = cli(&["ping"], b"") else { return };
    assert_eq!(pong, "PONG\n");
    assert_eq!(
        cli(&["-3", "hello"], b"").map(|text| text.contains("proto")),
        Some(true)
    );
    assert_eq!(cli(&["set", "key", "a b"], b""), Some("OK\n".into()));
    assert_eq!(
        cli(&["--no-raw", "mget", "key", "none"], b""),
        Some("1) \"a b\"\n2) (nil)\n".into())
    );
    // Commands from its input, and one argument from it.
    assert_eq!(cli(&[], b"incr n\nincr n\nget key\n"), Some("1\n2\na b\n".into()));
    assert_eq!(cli(&["-x", "set", "binary"], b"a\r\n\0b"), Some("OK\n".into()));
    assert_eq!(cli(&["strlen", "binary"], b""), Some("5\n".into()));
    assert_eq!(cli(&["-n", "3", "set", "elsewhere", "1"], b""), Some("OK\n".into()));
    assert_eq!(cli(&["del", "key", "n", "binary"], b""), Some("3\n".into()));

    let load: Vec<u8> = (0..5000)
        .flat_map(|number| request(&["SET", &format!("key:{number}"), "v"]))
        .collect();
    let piped = cli(&["--pipe"], &load).unwrap_or_default();
    assert!(piped.contains("errors: 0, replies: 5000"), "{piped}");
    assert_eq!(cli(&["dbsize"], b""), Some("5000\n".into()));
    let mut keys: Vec<String> = cli(&["--scan"], b"")
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5000);
    let found = cli(&["--scan", "--pattern", "key:12?"], b"").unwrap_or_default();
    assert_eq!(found.lines().count(), 10, "{found}");
    let big = cli(&["--bigkeys"], b"").unwrap_or_default();
    assert!(big.contains("Sampled 5000 keys in the keyspace!"), "{big}");
    assert!(
        cli(&["--memkeys"], b"")
            .unwrap_or_default()
            .contains("Sampled 5000 keys in the keyspace!")
    );
    assert!(
        cli(&["info", "server"], b"")
            .unwrap_or_default()
            .contains("corelane_version")
    );
}

#[test]
fn redis_benchmark_works() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        for pipeline in ["1", "16"] {
            let arguments = [
                "-t",
                "set,get,incr,mset",
                "-n",
                "20000",
                "-r",
                "10000",
                "-P",
                pipeline,
                "-q",
            ];
            let Some(text) = printed("redis-benchmark", &server, &arguments, b"") else {
                return;
            };
            for test in ["SET", "GET", "INCR", "MSET (10 keys)"] {
                assert!(text.contains(&format!("{test}: ")), "{test} is missing:\n{text}");
            }
            assert!(!text.to_lowercase().contains("error"), "{text}");
        }
        let errors = info_number(&mut server.connect(), "stats", "total_error_replies");
        assert_eq!(errors, 0);
    }
}

#[test]
fn the_redis_crate_works_in_both_protocols() {
    let server = Server::builder()
        .flags(&several_executors())
        .flags(&["--requirepass", "secret"])
        .start();
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://:secret@{}/2?protocol={protocol}", server.address());
        let client = redis::Client::open(url).expect("the address is right");
        let mut connection = client.get_connection().expect("the server accepts");
        redis::cmd("FLUSHDB").exec(&mut connection).expect("FLUSHDB works");
        let (first, second, sum): (Option<i64>, String, i64) = redis::pipe()
            .cmd("SET")
            .arg("a")
            .arg(41)
            .ignore()
            .cmd("GET")
            .arg("none")
            .cmd("MSET")
            .arg("b")
            .arg("text")
            .arg("c")
            .arg(2)
            .ignore()
            .cmd("GET")
            .arg("b")
            .cmd("INCR")
            .arg("a")
            .query(&mut connection)
            .expect("the pipeline works");
        assert_eq!((first, second.as_str(), sum), (None, "text", 42));
        let values: Vec<Option<Vec<u8>>> = redis::cmd("MGET")
            .arg(&["a", "none", "c"])
            .query(&mut connection)
            .expect("MGET works");
        assert_eq!(values, [Some(b"42".to_vec()), None, Some(b"2".to_vec())]);
        let error = redis::cmd("INCR")
            .arg("b")
            .exec(&mut connection)
            .expect_err("b is no number");
        assert!(error.to_string().contains("not an integer"), "{error}");
        for number in 0..1000 {
            redis::cmd("SET")
                .arg(format!("key:{number}"))
                .arg(number)
                .exec(&mut connection)
                .expect("SET works");
        }
        let scan = redis::cmd("SCAN")
            .cursor_arg(0)
            .arg("MATCH")
            .arg("key:*")
            .clone()
            .iter::<String>(&mut connection);
        let mut keys: Vec<String> = scan
            .expect("SCAN works")
            .map(|key| key.expect("a key is text"))
            .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 1000);
    }
    let wrong = redis::Client::open(format!("redis://:wrong@{}/", server.address())).expect("the address is right");
    assert!(wrong.get_connection().is_err());
}

/// What redis-py does: connect in both protocols, pipelines, scans, binary values.
const PYTHON: &str = r#"
import sys, threading, redis
# Before version 5 there is no RESP3, and no argument to ask for it.
protocols = ({'protocol': 2}, {'protocol': 3}) if int(redis.__version__.split('.')[0]) >= 5 else ({},)
for protocol in protocols:
    client = redis.Redis(port=int(sys.argv[1]), db=1, client_name='test', **protocol)
    assert client.ping() and client.flushdb()
    assert client.client_getname() in (b'test', 'test')
    assert client.set('a', b'\x00\xff\r\n', ex=100) and client.get('a') == b'\x00\xff\r\n'
    assert 0 < client.ttl('a') <= 100
    assert client.mset({f'key:{n}': n for n in range(500)})
    assert sorted(client.scan_iter('key:*')) == sorted(f'key:{n}'.encode() for n in range(500))
    assert client.mget('key:1', 'none', 'key:2') == [b'1', None, b'2']
    with client.pipeline(transaction=False) as pipeline:
        for n in range(1000):
            pipeline.incr('counter')
        assert pipeline.execute() == list(range(1, 1001))
    # The default: MULTI and EXEC around the pipeline. Its keys lie on one storage executor.
    with client.pipeline() as pipeline:
        pipeline.set('{t}a', 1).incr('{t}a').lpush('{t}l', 'x').get('{t}a')
        assert pipeline.execute() == [True, 2, 1, b'2']
        pipeline.incr('{t}l').incr('{t}a')
        replies = pipeline.execute(raise_on_error=False)
        assert isinstance(replies[0], redis.ResponseError) and replies[1] == 3
        pipeline.watch('{t}a')
        client.set('{t}a', 10)
        pipeline.multi()
        pipeline.incr('{t}a')
        try:
            pipeline.execute()
            sys.exit('EXEC ran although a watched key was modified')
        except redis.WatchError:
            pass
    tries = []
    def double(pipeline):
        value = int(pipeline.get('{t}a'))
        tries.append(value)
        if len(tries) == 1:
            client.incr('{t}a')
        pipeline.multi()
        pipeline.set('{t}a', value * 2)
    assert client.transaction(double, '{t}a') == [True]
    assert tries == [10, 11] and client.get('{t}a') == b'22'
    assert client.delete('{t}a') + client.delete('{t}l') == 2
    script = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert script(keys=['scripted'], args=[40]) == 40 and script(keys=['scripted'], args=[2]) == 42
    assert client.script_exists(script.sha) == [True] and client.delete('scripted') == 1
    library = '#!lua name=counters\n' \
        'redis.register_function("add", function(keys, args) return redis.call("incrby", keys[1], args[1]) end)'
    assert client.function_load(library, replace=True) in (b'counters', 'counters')
    assert client.fcall('add', 1, 'called', 40) == 40 and client.fcall('add', 1, 'called', 2) == 42
    dumped = client.function_dump()
    assert client.function_flush() and client.function_list() == [] and client.function_restore(dumped)
    assert len(client.function_list('coun*', withcode=True)) == 1 and client.function_stats()
    assert client.function_delete('counters') and client.delete('called') == 1
    try:
        client.incr('a')
        sys.exit('INCR of bytes did not fail')
    except redis.ResponseError as error:
        assert 'not an integer' in str(error)
    def push_when_it_waits():
        other = redis.Redis(port=int(sys.argv[1]), db=1)
        while other.info('clients')['blocked_clients'] == 0:
            pass
        other.rpush('queue:2', 'x', 'y')
    pusher = threading.Thread(target=push_when_it_waits)
    pusher.start()
    assert client.blpop(['queue:1', 'queue:2', 'queue:3'], timeout=10) in ((b'queue:2', b'x'), [b'queue:2', b'x'])
    pusher.join()
    assert client.brpop('queue:2') in ((b'queue:2', b'y'), [b'queue:2', b'y'])
    assert client.blpop('queue:2', timeout=1) is None
    assert client.brpoplpush('q1', 'q2', timeout=1) is None and client.blmove('q1', 'q3', timeout=1) is None
    assert client.zadd('ranks', {'m': 1.5}) == 1
    assert client.bzpopmin('ranks', timeout=1) in ((b'ranks', b'm', 1.5), [b'ranks', b'm', 1.5])
    assert not client.xread({'stream': '$'}, block=10) and client.wait(0, 0) == 0
    assert client.info('server')['tcp_port'] == int(sys.argv[1])
    assert client.config_get('maxclients') and client.dbsize() == 502
print('all well with redis-py', redis.__version__)
"#;

/// What RQ does, a queue of jobs: results, failures, retries, dependencies, schedules, and a script that makes the
/// names of the keys that it deletes, which lie on any shard.
const RQ: &str = r#"
import logging, os.path, sys, redis, rq
from datetime import datetime, timedelta, timezone
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry, DeferredJobRegistry

logging.disable()
connection = redis.Redis(port=int(sys.argv[1]))
queue, high = rq.Queue('q', connection=connection), rq.Queue('high', connection=connection)
def work(*queues):
    assert rq.SimpleWorker(queues or [queue], connection=connection).work(burst=True) in (True, False)

# Work, arguments, results, priorities of queues.
jobs = [queue.enqueue(divmod, n, 3) for n in range(20)]
first = high.enqueue(os.path.join, 'a', 'b')
assert len(queue) == 20 and queue.job_ids == [job.id for job in jobs]
work(high, queue)
assert first.result == 'a/b' and [job.result for job in jobs] == [divmod(n, 3) for n in range(20)]
assert all(job.get_status(refresh=True) == JobStatus.FINISHED for job in jobs)
assert len(FinishedJobRegistry(queue=queue)) == 20 and len(StartedJobRegistry(queue=queue)) == 0
# Failures and retries.
failing = queue.enqueue(divmod, 1, 0, retry=rq.Retry(max=2))
work()
assert failing.get_status() == JobStatus.FAILED and 'ZeroDivisionError' in Job.fetch(failing.id, connection=connection).exc_info
failed = FailedJobRegistry(queue=queue)
assert failed.get_job_ids() == [failing.id]
failed.requeue(failing.id)
assert len(failed) == 0 and len(queue) == 1
# Dependencies: whoever waits is queued when the other has finished.
before = queue.enqueue(os.path.normpath, 'x/.', at_front=True)
after = [queue.enqueue(os.path.normpath, 'y/.', depends_on=before) for _ in range(3)]
assert len(DeferredJobRegistry(queue=queue)) == 3
work()
assert [job.result for job in after] == ['y'] * 3 and len(DeferredJobRegistry(queue=queue)) == 0
# Schedules.
later = queue.enqueue_in(timedelta(hours=1), os.path.normpath, 'Z')
scheduled = ScheduledJobRegistry(queue=queue)
assert scheduled.get_job_ids() == [later.id]
assert scheduled.get_jobs_to_schedule(timestamp=int(datetime.now(timezone.utc).timestamp()) + 7200) == [later.id]
later.cancel(); later.delete()
assert len(scheduled) == 0 and not Job.exists(later.id, connection=connection)
# In bulk, in one transaction.
with connection.pipeline() as pipeline:
    many = queue.enqueue_many([rq.Queue.prepare_data(divmod, (n, 7)) for n in range(50)], pipeline=pipeline)
    pipeline.execute()
assert len(queue) == 50
assert [job.id for job in Job.fetch_many([job.id for job in many], connection=connection)] == [job.id for job in many]
# A script that makes the names of the keys that it deletes.
assert queue.empty() == 50 and len(queue) == 0
assert not any(Job.exists(job.id, connection=connection) for job in many)
queue.enqueue(os.path.normpath, 'W'); queue.delete(delete_jobs=True)
assert queue not in rq.Queue.all(connection=connection)
assert rq.Worker.all(connection=connection) == []
print('all well with rq', rq.VERSION)
"#;

/// The Python interpreters that may have redis-py: the first of PATH, and the system's, which has Debian's package (a
/// version manager's python3 hides it).
const PYTHONS: [&str; 2] = ["python3", "/usr/bin/python3"];

/// Runs a program by each interpreter that has a module, against a server with each of these flags.
fn run_python(module: &str, program: &str, shapes: &[Vec<String>]) {
    let has_module = |python: &&str| {
        let imported = Command::new(python).args(["-c", &format!("import {module}")]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    let pythons: Vec<&str> = PYTHONS.into_iter().filter(has_module).collect();
    if pythons.is_empty() {
        println!("no Python has {module}: it was not tried.");
    }
    for python in pythons {
        for flags in shapes {
            let server = Server::builder().flags(flags).start();
            let port = server.address().port().to_string();
            let output = Command::new(python)
                .args(["-c", program, &port])
                .output()
                .expect("python3 starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && text.contains("all well"),
                "{python}, {flags:?}: {text}"
            );
        }
    }
}

#[test]
fn redis_py_works() {
    run_python("redis", PYTHON, &[several_executors()]);
}

#[test]
fn rq_works_on_one_executor_and_on_several() {
    run_python("rq", RQ, &[one_executor(), several_executors()]);
}
