//! The engine: calls from a thread outside the executors, through the channels, to the shards and back. One call is out
//! at a time; a batch is one call of 1, 16 or 256 operations. Criterion reports the time of a call, and p50 and p99 are
//! printed at the end.
//!
//! The settings are the defaults, on the disk that holds the build. All keys that are read fit the cache of hot values.

mod common;

use common::{Latencies, LatencyTable};
use corelane::Engine;
use corelane::config::{Durability, Settings};
use corelane::engine::{Answer, EngineError, Operation};
use corelane::observe::allocator;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures_lite::future::block_on;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// Operations per call.
const BATCHES: [usize; 3] = [1, 16, 256];

/// Keys of each kind: more than the CPU's caches hold with their values.
const KEY_COUNT: usize = 100_000;

/// How far apart the keys of two operations in a row are: a prime that does not divide [`KEY_COUNT`], so that every key
/// has its turn, and neighbours do not come together.
const KEY_STRIDE: usize = 7919;

/// Operations per call while the keys are made.
const FILL_BATCH: usize = 500;
const _: () = assert!(KEY_COUNT.is_multiple_of(FILL_BATCH));

/// The value of every key that is there.
const VALUE: &[u8] = &[b'v'; 64];

/// Keys in an order without end.
struct Keys {
    keys: Vec<Vec<u8>>,
    place: usize,
}

impl Keys {
    fn new(kind: &str) -> Keys {
        Keys {
            keys: (0..KEY_COUNT)
                .map(|number| format!("{kind}:{number:012}").into_bytes())
                .collect(),
            place: 0,
        }
    }

    /// Puts the next `count` keys in place of what is in `chosen`.
    fn choose<'a, T>(&'a mut self, count: usize, chosen: &mut Vec<T>, make: impl Fn(&'a [u8]) -> T) {
        chosen.clear();
        for _ in 0..count {
            self.place = (self.place + KEY_STRIDE) % KEY_COUNT;
            chosen.push(make(&self.keys[self.place]));
        }
    }
}

fn main() {
    let mut criterion = common::criterion();
    let mut table = LatencyTable::default();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory can be written");
    let settings = Settings {
        data_dir: directory.path().join("data"),
        ..Settings::default()
    };
    let engine = Engine::with_settings(settings).expect("the engine starts");
    let mut keys = Keys::new("key");
    for keys in keys.keys.chunks(FILL_BATCH) {
        let pairs: Vec<_> = keys.iter().map(|key| (key.as_slice(), VALUE)).collect();
        block_on(engine.mset(&pairs)).expect("the keys are set");
    }

    let bench = &mut Bench {
        criterion: &mut criterion,
        table: &mut table,
        engine: &engine,
    };
    let is_value = |answer: &Answer| matches!(answer, Answer::Value(Some(value)) if value == VALUE);
    let is_no_value = |answer: &Answer| *answer == Answer::Value(None);
    let is_number = |answer: &Answer| matches!(answer, Answer::Integer(number) if *number > 0);
    let is_done = |answer: &Answer| *answer == Answer::Done;
    bench.operations("get hit", &mut keys, |key| Operation::Get(key), is_value);
    bench.operations(
        "get miss",
        &mut Keys::new("none"),
        |key| Operation::Get(key),
        is_no_value,
    );
    for (name, durability) in [
        ("set, durability none", Durability::None),
        ("set, durability interval", Durability::Interval),
        ("set, durability always", Durability::Always),
    ] {
        set_durability(&engine, durability);
        bench.operations(name, &mut keys, |key| Operation::Set(key, VALUE), is_done);
    }
    set_durability(&engine, Settings::default().durability);
    bench.operations(
        "incr",
        &mut Keys::new("counter"),
        |key| Operation::Add(key, 1),
        is_number,
    );
    bench.mset(&mut keys);
    bench.mget(&mut keys);

    criterion.final_summary();
    table.print();
    engine.close().expect("the engine closes");
}

/// Executors take up a changed setting with their next turn.
fn set_durability(engine: &Engine, durability: Durability) {
    let Ok(()) = engine.settings().update(|settings| -> Result<(), Infallible> {
        settings.durability = durability;
        Ok(())
    });
}

struct Bench<'a> {
    criterion: &'a mut Criterion,
    table: &'a mut LatencyTable,
    engine: &'a Engine,
}

impl Bench<'_> {
    /// [`Engine::batch`] with operations of one kind, whose answers `is_expected` must accept.
    fn operations(
        &mut self,
        name: &str,
        keys: &mut Keys,
        make: impl for<'k> Fn(&'k [u8]) -> Operation<'k>,
        is_expected: impl Fn(&Answer) -> bool,
    ) {
        let engine = self.engine;
        self.calls(name, |batch| {
            let mut operations = Vec::with_capacity(batch);
            keys.choose(batch, &mut operations, &make);
            let began = Instant::now();
            let answers = block_on(engine.batch(&operations))?;
            let took = began.elapsed();
            assert!(answers.iter().all(&is_expected), "{name} was answered {answers:?}");
            Ok(took)
        });
    }

    fn mset(&mut self, keys: &mut Keys) {
        let engine = self.engine;
        self.calls("mset", |batch| {
            let mut pairs = Vec::with_capacity(batch);
            keys.choose(batch, &mut pairs, |key| (key, VALUE));
            let began = Instant::now();
            block_on(engine.mset(&pairs))?;
            Ok(began.elapsed())
        });
    }

    fn mget(&mut self, keys: &mut Keys) {
        let engine = self.engine;
        self.calls("mget", |batch| {
            let mut chosen = Vec::with_capacity(batch);
            keys.choose(batch, &mut chosen, |key| key);
            let began = Instant::now();
            let values = block_on(engine.mget(&chosen))?;
            let took = began.elapsed();
            assert!(
                values.iter().all(|value| value.as_deref() == Some(VALUE)),
                "a key has no value or another one"
            );
            Ok(took)
        });
    }

    /// Measures `call`, which makes one call of that many operations and returns how long it took.
    fn calls(&mut self, name: &str, mut call: impl FnMut(usize) -> Result<Duration, EngineError>) {
        let mut group = self.criterion.benchmark_group(format!("engine/{name}"));
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new("batch", batch), |bencher| {
                bencher.iter_custom(|calls| {
                    let mut latencies = Latencies::new();
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..calls {
                        let took = call(batch).expect("the engine answers");
                        latencies.record(took);
                        elapsed += took;
                    }
                    self.table.add(&format!("{name}, batch {batch}"), &latencies);
                    elapsed
                });
            });
        }
        group.finish();
    }
}
