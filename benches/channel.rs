//! The channel layer: what it costs to send a batch from one executor to another and to get it back.
//!
//! The messages, the destinations and the executors' set-up are the server's; the storage executor is replaced by a
//! task that answers every request with OK. A hop is timed from the moment that the sender hands a batch over to the
//! moment that the other side takes it up; both directions are printed at the end, with their p50 and p99.
//!
//! - `round trip`: one batch is out at a time, so that both sides wait for each other. Executors that do not spin sleep
//!   each time, and a hop is a wake; executors that spin see the batch while they spin.
//! - `stream`: several batches are out at a time.

mod common;
#[path = "common/cpus.rs"]
mod cpus;

use common::{Latencies, LatencyTable};
use corelane::channel::destinations::{Credits, Destinations};
use corelane::channel::message::{Batch, Caller, Priority, RequestId, Response};
use corelane::channel::responses::{Responses, responses};
use corelane::command::{self, Command};
use corelane::config::Settings;
use corelane::preflight::EXECUTOR_IO_MEMORY_BYTES;
use corelane::protocol::{Reply, Span};
use corelane::registry::server_state::HOUSEKEEPING_INTERVAL;
use corelane::ring;
use corelane::topology::CpuId;
use criterion::{Criterion, Throughput};
use glommio::{CpuLocation, ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Entries of each ring, as in the server.
const RING_DEPTH: usize = 1024;

/// Batches that are out at a time in a stream: the sender fills some while others are under way.
const STREAM_BATCHES_OUT: u64 = 4;

/// The deadline of every request: none is ever late.
const DEADLINE: Duration = Duration::from_secs(3600);

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    /// One executor for both sides, or two on CPUs of their own.
    executors: usize,
    /// How long they spin before they sleep.
    spin: Duration,
    /// SETs of 64 bytes in each batch.
    requests: usize,
    /// Batches that are out at a time.
    batches_out: u64,
}

/// What a number of round trips has taken.
struct Outcome {
    elapsed: Duration,
    there: Latencies,
    back: Latencies,
}

/// The executors of one case.
struct Running {
    /// How many round trips to make.
    orders: flume::Sender<u64>,
    outcomes: flume::Receiver<Outcome>,
    executors: Vec<ExecutorJoinHandle<()>>,
}

fn main() {
    ring::register_membarrier();
    ring::install(true);
    let mut criterion = common::criterion();
    let mut table = LatencyTable::default();
    let cpus = cpus::first_cpus(2);
    let places: &[(&str, usize)] = match cpus.len() {
        1 => {
            println!("this process may use only one CPU: the cases with two cores are left out");
            &[("one executor", 1)]
        }
        _ => &[("one executor", 1), ("two cores", 2)],
    };
    for (place, executors) in places.iter().copied() {
        for spin_us in [0, 20, 50] {
            if executors == 1 && spin_us > 0 {
                continue; // An executor that talks to itself never sleeps.
            }
            let name = match executors {
                1 => place.to_owned(),
                _ => format!("{place}, spin {spin_us} µs"),
            };
            let spin = Duration::from_micros(spin_us);
            let trip = Case {
                executors,
                spin,
                requests: 1,
                batches_out: 1,
            };
            measure(&mut criterion, &mut table, &format!("round trip/{name}"), trip, &cpus);
            for requests in [1, 16, 256] {
                let stream = Case {
                    requests,
                    batches_out: STREAM_BATCHES_OUT,
                    ..trip
                };
                let name = format!("stream/{name}, batches of {requests}");
                measure(&mut criterion, &mut table, &name, stream, &cpus);
            }
        }
    }
    criterion.final_summary();
    table.print();
}

/// Measures one case; its executors are started when criterion first runs it, and ended here.
fn measure(criterion: &mut Criterion, table: &mut LatencyTable, name: &str, case: Case, cpus: &[CpuId]) {
    let mut running = None;
    let mut group = criterion.benchmark_group("channel");
    group.throughput(Throughput::Elements(case.requests as u64));
    group.bench_function(name, |bencher| {
        let running = running.get_or_insert_with(|| start(case, cpus));
        bencher.iter_custom(|trips| {
            running.orders.send(trips).expect("the sending executor runs");
            let outcome = running.outcomes.recv().expect("the sending executor runs");
            table.add(&format!("{name}, there"), &outcome.there);
            table.add(&format!("{name}, back"), &outcome.back);
            outcome.elapsed
        });
    });
    group.finish();
    if let Some(Running { orders, executors, .. }) = running {
        drop(orders);
        for executor in executors {
            executor.join().expect("neither side panicked");
        }
    }
}

fn start(case: Case, cpus: &[CpuId]) -> Running {
    // Bounded by the credits, as in the server.
    let (to_answerer, requests) = flume::unbounded();
    let (reply_to, responses) = responses();
    let (orders, orders_receiver) = flume::bounded(1);
    let (outcomes_sender, outcomes) = flume::bounded(1);
    let settings = Settings::default();
    let credits = Credits {
        requests: settings.request_credits,
        batch_size: settings.batch_size,
    };
    let destinations = Destinations::new(vec![to_answerer], reply_to, credits);
    let sender = move || send_on_orders(case, destinations, responses, orders_receiver, outcomes_sender);
    let executors = match case.executors {
        1 => vec![start_executor(cpus[0], case.spin, move || async move {
            let answerer = glommio::spawn_local(answer(requests));
            sender().await;
            answerer.await;
        })],
        _ => vec![
            start_executor(cpus[0], case.spin, sender),
            start_executor(cpus[1], case.spin, move || answer(requests)),
        ],
    };
    Running {
        orders,
        outcomes,
        executors,
    }
}

/// An executor as the server makes them. Its housekeeping timer bounds the sleep after a lost wake, as in the server.
fn start_executor<F: Future<Output = ()> + 'static>(
    cpu: CpuId,
    spin: Duration,
    task: impl FnOnce() -> F + Send + 'static,
) -> ExecutorJoinHandle<()> {
    let cpu = cpu.number();
    let location = CpuLocation {
        cpu,
        core: cpu,
        package: 0,
        numa_node: 0,
    };
    LocalExecutorBuilder::new(Placement::Fenced([location].into_iter().collect()))
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .spin_before_park(spin)
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
        .spawn(move || async move {
            let ticks = glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
                }
            });
            task().await;
            ticks.cancel().await;
        })
        .expect("an executor can be started on a CPU that this process may use")
}

/// The sending side: makes as many round trips as each order says, until there are no more orders.
async fn send_on_orders(
    case: Case,
    mut destinations: Destinations,
    responses: Responses,
    orders: flume::Receiver<u64>,
    outcomes: flume::Sender<Outcome>,
) {
    corelane::rows::install();
    let set = command::find(b"set").expect("the table has SET");
    while let Ok(trips) = orders.recv_async().await {
        let outcome = make_trips(case, &mut destinations, &responses, set, trips).await;
        outcomes
            .send(outcome)
            .expect("whoever gave the order waits for its outcome");
    }
    // The answering side ends when its sender is gone.
    destinations.close();
}

async fn make_trips(
    case: Case,
    destinations: &mut Destinations,
    responses: &Responses,
    set: &'static Command,
    trips: u64,
) -> Outcome {
    let mut outcome = Outcome {
        elapsed: Duration::ZERO,
        there: Latencies::new(),
        back: Latencies::new(),
    };
    let arguments: [&[u8]; 3] = [b"SET", b"key:000000012345", &[b'v'; 64]];
    let started = Instant::now();
    let deadline = started + DEADLINE;
    let (mut sent, mut returned) = (0, 0);
    while returned < trips {
        while sent < trips && sent - returned < case.batches_out {
            for sequence in 0..case.requests as u32 {
                let id = RequestId {
                    sequence,
                    ..RequestId::default()
                };
                destinations.push((0, Priority::Normal), id, set, Caller::default(), deadline, arguments);
            }
            assert_eq!(destinations.flush().batches, 1);
            sent += 1;
        }
        let batch = responses
            .next()
            .await
            .expect("the destinations hold a sender of this channel");
        let arrived = Instant::now();
        assert_eq!(batch.responses.len(), case.requests);
        let took = Duration::from_nanos(batch.responses.iter().map(|response| u64::from(response.took_ns)).sum());
        outcome
            .there
            .record(batch.received_at.saturating_duration_since(batch.sent_at));
        outcome
            .back
            .record(arrived.saturating_duration_since(batch.received_at + took));
        for response in &batch.responses {
            black_box(batch.reply(response));
        }
        destinations.recycle(batch);
        returned += 1;
    }
    outcome.elapsed = started.elapsed();
    outcome
}

/// The answering side: takes up what has arrived, answers it and sends it home, until the sender is gone.
async fn answer(requests: flume::Receiver<Box<Batch>>) {
    while let Ok(first) = requests.recv_async().await {
        let mut next = Some(first);
        while let Some(batch) = next {
            answer_batch(batch);
            next = requests.try_recv().ok();
        }
    }
}

/// Answers with OK. The time that this takes is booked on the last response, so that the sender can tell when the
/// batch left.
fn answer_batch(mut batch: Box<Batch>) {
    batch.received_at = Instant::now();
    for index in 0..batch.requests.len() {
        let request = batch.requests[index];
        let (arguments, replies) = batch.parts(&request);
        black_box(arguments.get(2));
        let start = replies.len() as u32;
        Reply::new(replies, request.caller.version).ok();
        let len = replies.len() as u32 - start;
        batch.responses.push(Response {
            id: request.id,
            reply: Span { start, len },
            command: request.command,
            took_ns: 0,
            failed: false,
            commit_epoch: 0,
            more: 0,
        });
    }
    let took = batch.received_at.elapsed().as_nanos();
    if let Some(last) = batch.responses.last_mut() {
        last.took_ns = u32::try_from(took).unwrap_or(u32::MAX);
    }
    batch.send_back();
}
