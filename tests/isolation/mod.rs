//! Isolation, checked by checkers: clients do random transactions on few keys of four shards, while the server is
//! killed and started again, and a checker looks at the whole history of what they did and were told.
//!
//! - [`append_checker`] looks at transactions that append to lists and read them, for cycles among them (Elle's
//!   method). It names the anomaly and the transactions of the shortest cycle.
//! - [`linear_checker`] decides whether there is an order in which a model gives the same answers (Lowe's method, as in
//!   Knossos and Porcupine). Registers do not show in which order they were written, and payments and moves depend on
//!   what is there: such transactions are checked by this one.
//! - [`append_workload`] and [`store`] are what the clients do; a new kind of transaction is a function and a line
//!   there.
//! - [`load`] runs them: lives of a server, on one storage executor or two, that end with a stop, with SIGKILL, at a
//!   write, or with a power loss under `always`. Each begins with a look at everything.
//! - [`known_histories`] tests the checkers with histories of which the answer is known.
//!
//! Both check strict serialisability: transactions have one order, and what was answered before something was sent
//! comes before it. An action whose connection was lost may have happened or not, but not after its server's death.
//!
//! And the checkers are shown to see something: with `ignore-locks`, `skip-redo` or `split-frames` in
//! CORELANE_FAULTS they must find an anomaly.
//!
//! Seeds are printed; `CORELANE_SEED=n` repeats the choices, if not the clients' interleaving.
//! `CORELANE_SIMULATION_SECONDS=n` runs each load for that long in place of a few seconds.

mod append_checker;
mod append_workload;
mod history;
mod known_histories;
mod linear_checker;
mod load;
mod store;

use std::time::{Duration, Instant};

use append_workload::AppendWorkload;
use load::{End, Load, Workload};
use store::{Store, StoreWorkload};

use self::history::Entry;
use crate::harness::server::allowed_cpus;
use crate::storage::{four_shards_on_two_executors, seed};
use crate::transactions::one_executor;

/// How long a load runs unless CORELANE_SIMULATION_SECONDS says otherwise.
const SECONDS_DEFAULT: u64 = 2;

/// A checker that has seen nothing wrong by then is blind. The anomalies take less than a second as a rule.
#[cfg(feature = "fault-injection")]
const BLIND_AFTER: Duration = Duration::from_secs(60);

/// A history is checked when it has so many actions, and another one begun: what a checker keeps grows with it.
const ACTIONS_MAX: usize = 50_000;

/// A workload whose histories can be checked.
trait Checked: Workload + Default {
    /// What is wrong with a history, if anything is.
    fn wrong(history: &[Entry<Self::Action>]) -> Option<String>;
}

impl Checked for AppendWorkload {
    fn wrong(history: &[Entry<Self::Action>]) -> Option<String> {
        append_checker::check(history).first().map(ToString::to_string)
    }
}

impl Checked for StoreWorkload {
    fn wrong(history: &[Entry<Self::Action>]) -> Option<String> {
        linear_checker::check(Store::initial(), history).err()
    }
}

/// Runs a load through lives that end so, and has its history checked.
fn check<W: Checked>(test: &str, ends: &[End]) {
    check_with::<W>(test, ends, false);
}

/// The same on disks that may be full or stall from time to time.
fn check_with<W: Checked>(test: &str, ends: &[End], is_troubled: bool) {
    let given = std::env::var("CORELANE_SIMULATION_SECONDS").ok();
    let seconds = given.map_or(SECONDS_DEFAULT, |seconds| {
        seconds.parse().expect("CORELANE_SIMULATION_SECONDS is a number")
    });
    let (seed, end) = (seed(test), Instant::now() + Duration::from_secs(seconds));
    let shapes = [four_shards_on_two_executors(), one_executor()];
    for round in 0.. {
        let workload = W::default();
        let mut load = Load::new(&workload, &shapes, "", seed + round);
        if is_troubled {
            load = load.with_troubles();
        }
        while load.lives < ends.len() || (Instant::now() < end && load.history.len() < ACTIONS_MAX) {
            load.live(ends[load.lives % ends.len()]);
        }
        // The last look at what the last crash has left.
        load.live(End::Stopped);
        println!("{test}: {}", load.summary());
        if let Some(wrong) = W::wrong(&load.history) {
            panic!("{wrong}");
        }
        if Instant::now() >= end {
            return;
        }
    }
}

#[cfg(feature = "fault-injection")]
const CRASHES: &[End] = &[End::Killed, End::AtWrite, End::Stopped];
#[cfg(not(feature = "fault-injection"))]
const CRASHES: &[End] = &[End::Killed, End::Stopped];

#[test]
fn appends_are_strictly_serializable_through_crashes() {
    let test = "appends_are_strictly_serializable_through_crashes";
    check::<AppendWorkload>(test, CRASHES);
}

#[test]
fn values_payments_and_moves_are_strictly_serializable_through_crashes() {
    let test = "values_payments_and_moves_are_strictly_serializable_through_crashes";
    check::<StoreWorkload>(test, CRASHES);
}

#[test]
#[cfg(feature = "fault-injection")]
fn appends_are_strictly_serializable_through_power_losses() {
    let test = "appends_are_strictly_serializable_through_power_losses";
    check::<AppendWorkload>(test, &[End::PowerLoss]);
}

#[test]
#[cfg(feature = "fault-injection")]
fn values_payments_and_moves_are_strictly_serializable_through_power_losses() {
    let test = "values_payments_and_moves_are_strictly_serializable_through_power_losses";
    check::<StoreWorkload>(test, &[End::PowerLoss]);
}

/// The disk of one shard or another is full or stalls from time to time, whatever the shards do meanwhile, and however
/// the lives end.
#[cfg(feature = "fault-injection")]
const TROUBLED_ENDS: &[End] = &[End::Killed, End::Stopped, End::AtWrite, End::PowerLoss];

#[test]
#[cfg(feature = "fault-injection")]
fn appends_are_strictly_serializable_on_disks_that_fill_up_and_stall() {
    let test = "appends_are_strictly_serializable_on_disks_that_fill_up_and_stall";
    check_with::<AppendWorkload>(test, TROUBLED_ENDS, true);
}

#[test]
#[cfg(feature = "fault-injection")]
fn values_payments_and_moves_are_strictly_serializable_on_disks_that_fill_up_and_stall() {
    let test = "values_payments_and_moves_are_strictly_serializable_on_disks_that_fill_up_and_stall";
    check_with::<StoreWorkload>(test, TROUBLED_ENDS, true);
}

/// Runs a load on a server without a safeguard until its history is wrong.
#[cfg(feature = "fault-injection")]
fn must_find<W: Checked>(test: &str, shape: String, faults: &str, end: End) {
    let (workload, shapes) = (W::default(), [shape]);
    let mut load = Load::new(&workload, &shapes, faults, seed(test));
    let began = Instant::now();
    while began.elapsed() < BLIND_AFTER {
        load.live(end);
        if let Some(wrong) = W::wrong(&load.history) {
            return println!(
                "{test}: found in life {} after {} actions: {wrong}",
                load.lives,
                load.history.len()
            );
        }
    }
    panic!("nothing was found in {} actions", load.history.len());
}

/// With one CPU there is one executor, and nothing to be locked out from.
#[cfg(feature = "fault-injection")]
fn has_two_executors() -> bool {
    allowed_cpus().len() > 1
}

#[test]
#[cfg(feature = "fault-injection")]
fn cycles_of_appends_are_found_when_locks_are_ignored() {
    if has_two_executors() {
        let test = "cycles_of_appends_are_found_when_locks_are_ignored";
        must_find::<AppendWorkload>(test, four_shards_on_two_executors(), "ignore-locks=1..", End::Stopped);
    }
}

#[test]
#[cfg(feature = "fault-injection")]
fn answers_without_an_order_are_found_when_locks_are_ignored() {
    if has_two_executors() {
        let test = "answers_without_an_order_are_found_when_locks_are_ignored";
        must_find::<StoreWorkload>(test, four_shards_on_two_executors(), "ignore-locks=1..", End::Stopped);
    }
}

#[test]
#[cfg(feature = "fault-injection")]
fn halves_of_appends_are_found_when_redo_records_are_left_out() {
    let test = "halves_of_appends_are_found_when_redo_records_are_left_out";
    must_find::<AppendWorkload>(test, four_shards_on_two_executors(), "skip-redo=1..", End::AtWrite);
}

#[test]
#[cfg(feature = "fault-injection")]
fn halves_of_writes_on_one_executor_are_found_when_shards_have_frames_of_their_own() {
    let test = "halves_of_writes_on_one_executor_are_found_when_shards_have_frames_of_their_own";
    must_find::<StoreWorkload>(test, one_executor(), "split-frames=1..", End::AtWrite);
}
