//! The engine inside another program: what a caller may do to the others, and what its calls promise.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use corelane::Engine;
use corelane::config::Settings;
use corelane::engine::{Answer, EngineError, Operation};
use futures_lite::future::block_on;
use tempfile::TempDir;

use crate::harness::client::REPLY_SECONDS_MAX;

/// One shard on one storage executor.
fn engine(folder: &TempDir) -> Engine {
    let settings = Settings {
        data_dir: folder.path().join("data"),
        shards: corelane::config::AutoOr::Is(1),
        ..Settings::default()
    };
    Engine::with_settings(settings).expect("the engine starts")
}

/// Runs `work` on a thread of its own; `None` if it does not come to an end.
fn within_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(REPLY_SECONDS_MAX)).ok()
}

#[test]
fn a_future_that_is_not_polled_holds_up_nobody() {
    const VALUE_BYTES: usize = 1 << 20;
    const READS: usize = 300;
    let _alone = crate::harness::process::measures();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = engine(&folder);
    let value = vec![b'v'; VALUE_BYTES];
    block_on(engine.set(b"large", &value, None)).expect("it is set");
    let mut abandoned = Vec::new();
    for _ in 0..2 {
        let caller = engine.clone();
        let mut future = Box::pin(async move { caller.batch(&[Operation::Get(b"large"); READS]).await });
        // What it asks for is handed over, and its answers are more than a storage executor runs ahead.
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        abandoned.push(future);
    }
    let other = engine.clone();
    let answered = within_time(move || {
        for number in 0..1000_i64 {
            assert_eq!(block_on(other.incr(b"counter")).expect("it is answered"), number + 1);
        }
        block_on(other.get(b"large"))
            .expect("it is answered")
            .map(|value| value.len())
    });
    assert_eq!(
        answered,
        Some(Some(VALUE_BYTES)),
        "another caller waits for one that does not poll"
    );
    // One that is polled again gets everything.
    let answers = block_on(abandoned.pop().expect("there are two")).expect("it is answered");
    assert_eq!(answers, vec![Answer::Value(Some(value)); READS]);
    let closing = engine.clone();
    let closed = within_time(move || closing.close().is_ok());
    assert_eq!(
        closed,
        Some(true),
        "the engine cannot be closed beside a future that nobody polls"
    );
    let late = block_on(abandoned.pop().expect("there is one more"));
    assert!(matches!(late, Ok(_) | Err(EngineError::Closed)), "{late:?}");
    assert!(matches!(block_on(engine.get(b"large")), Err(EngineError::Closed)));
}

#[test]
fn a_future_that_was_dropped_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = engine(&folder);
    block_on(engine.set(b"large", &vec![b'v'; 1 << 20], None)).expect("it is set");
    for _ in 0..3 {
        let caller = engine.clone();
        let mut future = pin!(async move { caller.batch(&[Operation::Get(b"large"); 200]).await });
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    let other = engine.clone();
    let answered = within_time(move || block_on(other.incr(b"counter")).expect("it is answered"));
    assert_eq!(answered, Some(1));
    engine.close().expect("it closes");
}

/// Many more keys than a storage executor runs requests in a turn: nobody sees some of them set and others not.
#[test]
fn what_mset_sets_on_one_storage_executor_is_seen_as_one() {
    const KEYS: usize = 3000;
    const ROUNDS: usize = 100;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = engine(&folder);
    let names: Vec<Vec<u8>> = (0..KEYS).map(|key| format!("key:{key}").into_bytes()).collect();
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let value = round.to_string().into_bytes();
                let pairs: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&name[..], &value[..])).collect();
                block_on(engine.mset(&pairs)).expect("it is set");
            }
            writing.store(false, Ordering::Release);
        });
        while writing.load(Ordering::Acquire) {
            let (first, last) = (Operation::Get(&names[0]), Operation::Get(&names[KEYS - 1]));
            let seen = block_on(engine.batch(&[first, last])).expect("both are read");
            assert_eq!(seen[0], seen[1], "a part of an MSET was seen");
        }
    });
    let last = Some((ROUNDS - 1).to_string().into_bytes());
    let all: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    assert_eq!(block_on(engine.mget(&all)).expect("all are read"), vec![last; KEYS]);
    block_on(engine.mset(&[])).expect("nothing is set");
    engine.close().expect("it closes");
}
