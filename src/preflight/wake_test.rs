//! Whether executors wake each other: kernels and sandboxes in which wakes get lost are refused.

use super::limits::{locked_memory_is_charged, status_field};
use super::{EXECUTOR_IO_MEMORY_BYTES, PreflightError};
use glommio::{CpuLocation, CpuSet, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use std::fmt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long one wake of the self-test may take. A good machine needs some 50 µs; a second is beyond any load.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

/// An unanswered executor gets another wake this often: glommio may park with a task still queued when its thread was
/// descheduled for longer than the preempt timer (100 ms). Real executors have a housekeeping timer against that; here
/// a timer would hide the lost wakes that the test is for.
const WAKE_NUDGE_INTERVAL: Duration = Duration::from_millis(50);

/// A machine that is overloaded at the start may hold a wake up for a second; one that loses wakes does it every time.
const WAKE_TEST_ATTEMPTS: usize = 3;

/// Wakes of each kind for each executor. The first also pays for page faults and cold caches.
const WAKE_ROUNDS: usize = 3;

/// Between rounds, so that the executors are asleep when the next wake comes.
const WAKE_ROUND_PAUSE: Duration = Duration::from_millis(2);

/// How long an executor of the self-test may take to start; making its rings takes some milliseconds.
const EXECUTOR_START_LIMIT: Duration = Duration::from_secs(60);

/// One probe and one nudge are under way at most; more room only keeps `try_send` from failing.
const PROBES_UNDER_WAY_MAX: usize = 4;

/// The self-test's executors hold a handful of operations.
const WAKE_TEST_RING_DEPTH: usize = 64;

/// The kernel gives the locked memory of closed rings back from a work queue, typically after 10 to 50 ms.
const RING_RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Latencies of one kind of wake, from sending to the moment at which the woken executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeLatency {
    /// The middle one of all measured.
    pub median: Duration,
    /// The longest of all measured.
    pub worst: Duration,
}

/// What [`wake_self_test`] measured. Its `Display` is one line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeReport {
    /// An ordinary thread woke a sleeping executor.
    pub thread_to_executor: WakeLatency,
    /// An executor woke a sleeping executor.
    pub executor_to_executor: WakeLatency,
    /// Wakes that came only after a second one was sent: the machine is overloaded, or wakes get lost.
    pub late: usize,
}

impl fmt::Display for WakeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "thread to executor {} µs (worst {}), executor to executor {} µs (worst {}), late {}",
            self.thread_to_executor.median.as_micros(),
            self.thread_to_executor.worst.as_micros(),
            self.executor_to_executor.median.as_micros(),
            self.executor_to_executor.worst.as_micros(),
            self.late
        )
    }
}

/// A message of the self-test.
enum Probe {
    /// Say how long this took to arrive.
    Answer {
        sent_at: Instant,
        answers: flume::Sender<Duration>,
    },
    /// Send an `Answer` to another executor.
    Forward {
        to: flume::Sender<Probe>,
        answers: flume::Sender<Duration>,
    },
}

/// An executor that only answers probes.
struct ProbedExecutor {
    cpu: usize,
    probes: flume::Sender<Probe>,
    nudges: flume::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// Starts an executor on each of `cpus` (two on the same one if there is only one), lets a thread and the other
/// executors wake each of them from sleep, and stops them: a kernel or a sandbox in which wakes get lost would
/// otherwise show as a server that hangs now and then. Takes some 20 ms.
///
/// # Errors
///
/// [`PreflightError::ExecutorNotStarted`], and [`PreflightError::WakeLost`] when each of some attempts ended in 1 s
/// without an answer; an executor that hangs is left behind, as nothing can stop it.
///
/// # Panics
///
/// Panics if `cpus` is empty: a core map never is.
pub fn wake_self_test(cpus: &[usize]) -> Result<WakeReport, PreflightError> {
    for _ in 1..WAKE_TEST_ATTEMPTS {
        match wake_each_other(cpus) {
            Err(PreflightError::WakeLost { from, cpu }) => {
                tracing::warn!(from, cpu, "a wake took longer than a second; testing again");
            }
            outcome => return outcome,
        }
    }
    wake_each_other(cpus)
}

fn wake_each_other(cpus: &[usize]) -> Result<WakeReport, PreflightError> {
    assert!(!cpus.is_empty(), "the self-test of wakes needs a CPU");
    let pinned_before = status_field("VmPin:");

    // All start at once; `starts` is waited for only then.
    let twice = [cpus[0], cpus[0]];
    let starts: Vec<_> = if cpus.len() == 1 { &twice[..] } else { cpus }
        .iter()
        .map(|cpu| ProbedExecutor::start(*cpu))
        .collect::<Result<_, _>>()?;
    let executors: Vec<ProbedExecutor> = starts
        .into_iter()
        .map(ProbedExecutorStart::wait)
        .collect::<Result<_, _>>()?;

    let mut from_thread = Vec::with_capacity(WAKE_ROUNDS * executors.len());
    let mut from_executor = Vec::with_capacity(WAKE_ROUNDS * executors.len());
    let mut late = 0;
    for _ in 0..WAKE_ROUNDS {
        thread::sleep(WAKE_ROUND_PAUSE);
        for executor in &executors {
            from_thread.push(executor.wake_from_thread(&mut late)?);
        }
        thread::sleep(WAKE_ROUND_PAUSE);
        for (index, executor) in executors.iter().enumerate() {
            let next = &executors[(index + 1) % executors.len()];
            from_executor.push(executor.wake_other(next, &mut late)?);
        }
    }

    for executor in executors {
        executor.stop();
    }
    if locked_memory_is_charged() {
        wait_for_ring_memory(pinned_before.as_deref());
    }
    Ok(WakeReport {
        thread_to_executor: WakeLatency::of(from_thread),
        executor_to_executor: WakeLatency::of(from_executor),
        late,
    })
}

impl WakeLatency {
    fn of(mut latencies: Vec<Duration>) -> Self {
        assert!(!latencies.is_empty());
        latencies.sort_unstable();
        Self {
            median: latencies[latencies.len() / 2],
            worst: latencies[latencies.len() - 1],
        }
    }
}

/// Waits, for a second at most, until the kernel has given back the memory of the self-test's rings: the server's own
/// executors, made next, are charged to the same limit.
fn wait_for_ring_memory(pinned_before: Option<&str>) {
    let waited_since = Instant::now();
    while status_field("VmPin:").as_deref() != pinned_before && waited_since.elapsed() < RING_RELEASE_LIMIT {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A [`ProbedExecutor`] whose rings may still be in the making.
struct ProbedExecutorStart {
    executor: ProbedExecutor,
    started: mpsc::Receiver<Result<(), String>>,
}

impl ProbedExecutorStart {
    fn wait(self) -> Result<ProbedExecutor, PreflightError> {
        let started = match self.started.recv_timeout(EXECUTOR_START_LIMIT) {
            Ok(started) => started,
            Err(mpsc::RecvTimeoutError::Timeout) => Err("its rings were not made within 10 s".to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err("glommio panicked".to_owned()),
        };
        match started {
            Ok(()) => Ok(self.executor),
            Err(reason) => Err(PreflightError::ExecutorNotStarted {
                cpu: self.executor.cpu,
                reason,
            }),
        }
    }
}

impl ProbedExecutor {
    fn start(cpu: usize) -> Result<ProbedExecutorStart, PreflightError> {
        let (probes, probes_received) = flume::bounded(PROBES_UNDER_WAY_MAX);
        let (nudges, nudges_received) = flume::bounded(PROBES_UNDER_WAY_MAX);
        let (report_start, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("wake-test-{cpu}"))
            .spawn(move || match probe_executor(cpu) {
                Ok(executor) => {
                    // The receiver is gone only if the start was given up.
                    let _ = report_start.send(Ok(()));
                    executor.run(answer_probes(probes_received, nudges_received));
                }
                Err(reason) => {
                    let _ = report_start.send(Err(reason));
                }
            })
            .map_err(|error| PreflightError::ExecutorNotStarted {
                cpu,
                reason: error.to_string(),
            })?;
        Ok(ProbedExecutorStart {
            executor: Self {
                cpu,
                probes,
                nudges,
                thread,
            },
            started,
        })
    }

    fn wake_from_thread(&self, late: &mut usize) -> Result<Duration, PreflightError> {
        let (answers, answered) = flume::bounded(1);
        let probe = Probe::Answer {
            sent_at: Instant::now(),
            answers,
        };
        self.deliver(probe, "a thread")?;
        answer_or_nudge(&answered, &[self], late).ok_or_else(|| self.wake_lost("a thread"))
    }

    /// Has this executor wake `other`. Itself it is woken by a thread first, which the test before has proved to work.
    fn wake_other(&self, other: &Self, late: &mut usize) -> Result<Duration, PreflightError> {
        let from = format!("the executor on CPU {}", self.cpu);
        let (answers, answered) = flume::bounded(1);
        let probe = Probe::Forward {
            to: other.probes.clone(),
            answers,
        };
        self.deliver(probe, "a thread")?;
        answer_or_nudge(&answered, &[self, other], late).ok_or_else(|| other.wake_lost(&from))
    }

    fn deliver(&self, probe: Probe, from: &str) -> Result<(), PreflightError> {
        // One probe at a time: the channel has room, unless the executor is gone or no longer takes any.
        self.probes.try_send(probe).map_err(|_| self.wake_lost(from))
    }

    fn wake_lost(&self, from: &str) -> PreflightError {
        PreflightError::WakeLost {
            from: from.to_owned(),
            cpu: self.cpu,
        }
    }

    fn stop(self) {
        drop(self.probes);
        drop(self.nudges);
        // The executor has answered every probe; a panic after that concerns nobody.
        let _ = self.thread.join();
    }
}

/// Waits for an answer, and wakes the `executors` a second time on the way. `None` after [`WAKE_LIMIT`].
fn answer_or_nudge(
    answered: &flume::Receiver<Duration>,
    executors: &[&ProbedExecutor],
    late: &mut usize,
) -> Option<Duration> {
    if let Ok(latency) = answered.recv_timeout(WAKE_NUDGE_INTERVAL) {
        return Some(latency);
    }
    *late += 1;
    let give_up_at = Instant::now() + WAKE_LIMIT;
    while Instant::now() < give_up_at {
        for executor in executors {
            // Full: an earlier nudge waits there still.
            let _ = executor.nudges.try_send(());
        }
        if let Ok(latency) = answered.recv_timeout(WAKE_NUDGE_INTERVAL) {
            return Some(latency);
        }
    }
    None
}

/// An executor as the server makes them, bound to one CPU, which never spins: it must sleep to be woken.
fn probe_executor(cpu: usize) -> Result<LocalExecutor, String> {
    // `Fenced` takes our word for the CPU; `Fixed` would read it from /sys, where a container may show nothing.
    let fence: CpuSet = [CpuLocation {
        cpu,
        core: cpu,
        package: 0,
        numa_node: 0,
    }]
    .into_iter()
    .collect();
    LocalExecutorBuilder::new(Placement::Fenced(fence))
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .ring_depth(WAKE_TEST_RING_DEPTH)
        // No thread for blocking calls: nothing here makes any.
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
        .make()
        .map_err(|error| error.to_string())
}

/// Answers probes until the other side hangs up.
async fn answer_probes(probes: flume::Receiver<Probe>, nudges: flume::Receiver<()>) {
    // A nudge need not do anything: that the executor wakes is enough to make it run what it has queued.
    let nudged = glommio::spawn_local(async move { while nudges.recv_async().await.is_ok() {} });
    while let Ok(probe) = probes.recv_async().await {
        match probe {
            Probe::Answer { sent_at, answers } => {
                // Gone only when the tester has given up.
                let _ = answers.try_send(sent_at.elapsed());
            }
            Probe::Forward { to, answers } => {
                let sent_at = Instant::now();
                let _ = to.try_send(Probe::Answer { sent_at, answers });
            }
        }
    }
    nudged.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring;

    #[test]
    fn wakes_arrive_between_threads_and_executors() {
        ring::install(true);
        let cpus: Vec<usize> = core_affinity::get_core_ids()
            .unwrap()
            .iter()
            .map(|core| core.id)
            .collect();
        let report = wake_self_test(&cpus).unwrap();
        assert!(report.thread_to_executor.worst < WAKE_LIMIT, "{report}");
        assert!(report.executor_to_executor.worst < WAKE_LIMIT, "{report}");
        wake_self_test(&cpus[..1]).unwrap();
    }

    #[test]
    fn an_executor_on_a_missing_cpu_is_refused() {
        ring::install(true);
        let refusal = wake_self_test(&[1023]).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("no executor could be started on CPU 1023 ("),
            "{refusal}"
        );
    }
}
