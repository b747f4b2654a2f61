//! A model of logs, checkpoints, crashes and recovery, compared with the real ones on real RocksDBs.
//!
//! Each round runs this test's program once more as a *writer*, which appends random frames to the logs of one or two
//! executors, seals, syncs and checkpoints at random, and is killed at a random point. Power may fail then, and the
//! next start may be killed in its recovery. After a recovery the shards of an executor must hold what a prefix of its
//! frames says, all of the same one, with every frame that was in the kernel (or, after a loss of power, on disk).

use super::cell_writes::CellWrites;
use super::checkpointing::{self, Databases};
use super::database::{Column, Database, DatabaseError, Resources};
use super::executor_log::{ExecutorLog, LogBounds, Window};
use super::log::{LogIdentity, segment_path, segments_in};
use super::operations::{self, ALL_DATABASES, Change, MemberOperations};
use super::recovery::{Recovered, RecoveryError, recover};
use super::{log::FrameBuffer, seeded_random};
use crate::faults;
use crate::slots::ShardId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

const SHARDS: u16 = 3;

/// The shortest segments and windows that there are.
const BOUNDS: LogBounds = LogBounds {
    size_max: 8 << 20,
    unclean_bytes_max: 32 << 20,
};

/// Frames of each executor in a round, if nothing kills the writer.
const FRAMES: u64 = 60;

const ROUNDS: u64 = 12;

/// What the writer is told, and where it says how far it came.
const WRITER: &str = "CORELANE_MODEL_WRITER";

type Cells = BTreeMap<(ShardId, u8, Vec<u8>), Vec<u8>>;

/// The executors of a start, each by its shards.
fn executors(generation: u64) -> Vec<Vec<ShardId>> {
    match generation % 3 {
        0 => vec![vec![ShardId(0), ShardId(1), ShardId(2)]],
        1 => vec![vec![ShardId(0), ShardId(2)], vec![ShardId(1)]],
        _ => vec![vec![ShardId(2)], vec![ShardId(0), ShardId(1)]],
    }
}

fn identity(generation: u64, executor: usize) -> LogIdentity {
    LogIdentity {
        directory: 0xc0de,
        generation,
        executor: executor as u32,
    }
}

/// A key that the filter of compactions cannot take for that of a dead collection's member.
fn random_key(random: &mut StdRng, column: Column) -> Vec<u8> {
    let number = random.random_range(0..24_u8);
    match column {
        Column::Meta | Column::Data | Column::Score => {
            vec![random.random_range(0..3), 0, number % 2, 0xff, 0xff, 0xff, 0xff, number]
        }
        Column::Expiry => [&[0; 7][..], &[number, 1, 0, 0, number]].concat(),
        Column::System => vec![b's', number],
    }
}

/// What becomes of a cell.
enum Fate {
    Put(Vec<u8>),
    Deleted,
    /// Bytes are changed from an offset on, if the cell is there.
    Patched(usize, Vec<u8>),
}

impl Fate {
    fn befall(self, cells: &mut Cells, cell: (ShardId, u8, Vec<u8>)) {
        match self {
            Fate::Put(value) => drop(cells.insert(cell, value)),
            Fate::Deleted => drop(cells.remove(&cell)),
            Fate::Patched(offset, bytes) => {
                if let Some(value) = cells.get_mut(&cell) {
                    value.resize(value.len().max(offset + bytes.len()), 0);
                    value[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
    }
}

/// A cell's column and key on a shard, and what becomes of it.
type CellOfShard = (ShardId, Column, Vec<u8>, Fate);

/// The operations of a frame: the same each time.
fn frame(seed: u64, number: u64, shards: &[ShardId]) -> Vec<CellOfShard> {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
    let mut operations = Vec::new();
    for shard in shards {
        for _ in 0..random.random_range(0..6) {
            let column = Column::ALL[random.random_range(0..Column::COUNT)];
            let key = random_key(&mut random, column);
            let len = match random.random_range(0..20) {
                0 => random.random_range(0..300_000),
                _ => random.random_range(0..60),
            };
            let fate = match random.random_range(0..10) {
                0..3 => Fate::Deleted,
                3..6 => Fate::Patched(random.random_range(0..40), vec![random.random(); len % 9]),
                _ => Fate::Put(vec![random.random(); len]),
            };
            operations.push((*shard, column, key, fate));
        }
    }
    operations
}

/// The physical databases that a frame empties before all else, on its executor's first shard.
fn emptied(seed: u64, number: u64) -> u16 {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(37).wrapping_add(number));
    match random.random_range(0..60) {
        0 => ALL_DATABASES,
        1..4 => random.random_range(1..8),
        _ => 0,
    }
}

/// Writes a frame, and does to `cells`, which are all that there are, what it says.
fn write_frame(out: &mut FrameBuffer, cells: &mut Cells, seed: u64, number: u64, shards: &[ShardId]) {
    operations::begin_shard(out, shards[0]);
    let physical = emptied(seed, number);
    if physical != 0 {
        operations::empty_databases(out, physical);
    }
    empty(cells, physical, shards);
    for (shard, column, key, fate) in frame(seed, number, shards) {
        operations::begin_shard(out, shard);
        let cell = (shard, column as u8, key.clone());
        let (owner, member) = key.split_at(key.len() - 1);
        let mut members = MemberOperations::default();
        match (column, &fate) {
            (_, Fate::Patched(offset, bytes)) => members.patch(owner, column, member, (*offset, bytes)),
            (Column::Data | Column::Score, Fate::Put(value)) => {
                let is_new = !cells.contains_key(&cell);
                members.write(owner, column, (member, Some(value)), is_new);
            }
            (Column::Data | Column::Score, Fate::Deleted) => members.write(owner, column, (member, None), false),
            (_, Fate::Put(value)) => operations::put(out, column, &key, value),
            (_, Fate::Deleted) => operations::delete(out, column, &key),
        }
        members.append_to(out);
        fate.befall(cells, cell);
    }
}

/// Takes away what lies in physical databases, on an executor's first shard.
fn empty(cells: &mut Cells, physical: u16, shards: &[ShardId]) {
    cells.retain(|(shard, column, key), _| {
        let is_emptied = match Column::ALL[usize::from(*column)] {
            Column::Meta | Column::Data | Column::Score => physical >> key[0] & 1 == 1,
            Column::Expiry => physical == ALL_DATABASES,
            Column::System => false,
        };
        *shard != shards[0] || !is_emptied
    });
}

fn apply_frame(cells: &mut Cells, seed: u64, number: u64, shards: &[ShardId]) {
    empty(cells, emptied(seed, number), shards);
    for (shard, column, key, fate) in frame(seed, number, shards) {
        fate.befall(cells, (shard, column as u8, key));
    }
}

fn open(folder: &Path) -> (Resources, Databases) {
    let resources = Resources::new(1 << 20, 2).expect("RocksDB's environment");
    let open = |shard: ShardId| {
        let path = folder.join(format!("shard-{:04}", shard.0));
        (shard, Database::open(&path, &resources, true).expect("a database"))
    };
    let databases = (0..SHARDS).map(|number| open(ShardId(number))).collect();
    (resources, databases)
}

fn close(databases: &Databases) {
    databases.values().for_each(|database| database.stop_background_work());
}

/// A start: finishes what the last one has left.
fn start(folder: &Path, generation: u64, databases: &Databases) -> Recovered {
    let logs = folder.join("log");
    recover(&logs, identity(generation, 0), databases, false).expect("the logs are not damaged")
}

fn cells_of(databases: &Databases, shards: &[ShardId]) -> Cells {
    let mut cells = Cells::new();
    for shard in shards {
        for column in Column::ALL {
            let visit = |key: &[u8], value: &[u8]| {
                cells.insert((*shard, column as u8, key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            };
            let scanned = databases[shard].scan(column, &[0], &[0xff; 20], visit);
            scanned.expect("a scan");
        }
    }
    cells
}

/// How far the writer came with the frames of one executor.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// This frame may have been appended, but need not.
    tried: u64,
    /// This frame was.
    appended: u64,
    /// This frame was on disk.
    durable: u64,
}

/// The other process: see [`checkpoints_crashes_and_recoveries_leave_a_prefix_of_each_log`]. Its frames have the
/// numbers from `first` on.
#[test]
#[ignore = "is run by the test of the model"]
fn writer() {
    let told = std::env::var(WRITER).expect("the test of the model says what to do");
    let told: Vec<&str> = told.split('|').collect();
    let (folder, seed) = (Path::new(told[0]), told[1].parse::<u64>().expect("a seed"));
    let (generation, first) = (
        told[2].parse().expect("a number"),
        told[3].parse::<u64>().expect("a number"),
    );
    let mut random = StdRng::seed_from_u64(seed ^ generation);
    let (_resources, databases) = open(folder);
    let recovered = loop {
        match recover(&folder.join("log"), identity(generation, 0), &databases, false) {
            // Which goes on with the window that found no room.
            Err(RecoveryError::Database { .. }) => {}
            recovered => break recovered.expect("the logs are not damaged"),
        }
    };
    let mut logs = Vec::new();
    for (number, shards) in executors(generation).into_iter().enumerate() {
        let log = ExecutorLog::create(
            &folder.join("log"),
            identity(generation, number),
            BOUNDS,
            shards.clone(),
        );
        logs.push((log.expect("a log"), shards));
    }
    recovered.logs.iter().for_each(|old| logs[0].0.adopt(old));
    let mut cells = cells_of(&databases, &(0..SHARDS).map(ShardId).collect::<Vec<_>>());
    let mut notes = std::fs::File::create(folder.join("reached")).expect("a file");
    let mut note = |line: String| notes.write_all(line.as_bytes()).expect("a note");
    for frame in first..first + FRAMES {
        for (number, (log, shards)) in logs.iter_mut().enumerate() {
            write_frame(log.buffer(), &mut cells, seed, frame, shards);
            note(format!("{number} tried {frame}\n"));
            let appended = match random.random_bool(0.8) {
                true => log.append(frame),
                false => log.append_to_reserve(frame),
            };
            appended.expect("there is room");
            note(format!("{number} appended {frame}\n"));
            let progress = log.progress();
            if random.random_bool(0.1) {
                let epoch = progress.sync().expect("a sync");
                note(format!("{number} durable {epoch}\n"));
            }
            if random.random_bool(0.15) {
                log.seal();
            }
            if random.random_bool(0.2) {
                // In a thread of its own it would be another one each time.
                progress.stop();
                while let Some(taken) = progress.wait_for_window() {
                    let prepare = |window: &Window, is_fresh| {
                        progress.sync().expect("a disk");
                        checkpointing::prepare(&progress, &databases, window, is_fresh).expect("files")
                    };
                    let mut prepared = prepare(&taken, true);
                    note(format!("{number} durable {}\n", progress.durable_epoch()));
                    // It goes on where it was, or begins anew, also with more or with less.
                    while let Err(error) = checkpointing::finish(&progress, &databases, &mut prepared) {
                        assert!(matches!(error, DatabaseError::DiskFull(_)), "{error}");
                        if random.random() {
                            prepared = prepare(&progress.wider(&taken).unwrap_or(taken), false);
                        }
                    }
                }
            }
        }
    }
    // Whatever is open now stays as it is.
    std::process::abort();
}

/// Runs the writer; returns how far it came with each executor's frames.
fn write_until_killed(folder: &Path, seed: u64, generation: u64, first: u64, faults: &str) -> Vec<Reached> {
    let reached_path = folder.join("reached");
    let _ = std::fs::remove_file(&reached_path);
    let program = std::env::current_exe().expect("this test's program");
    let output = Command::new(program)
        .args(["--exact", "storage::recovery_model::writer", "--ignored", "--nocapture"])
        .env(WRITER, format!("{}|{seed}|{generation}|{first}", folder.display()))
        .env("CORELANE_FAULTS", faults)
        .output()
        .expect("the writer runs");
    assert_eq!(
        output.status.code(),
        None,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut reached = vec![Reached::default(); executors(generation).len()];
    for line in std::fs::read_to_string(&reached_path).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let of_executor = &mut reached[words[0].parse::<usize>().expect("a number")];
        let frame = words[2].parse().expect("a number");
        match words[1] {
            "tried" => of_executor.tried = frame,
            "appended" => of_executor.appended = frame,
            _ => of_executor.durable = frame,
        }
    }
    reached
}

/// Where the writer is killed, and after how many times at most that it comes there.
const KILLS: [(&str, u32); 7] = [
    ("kill-before-commit", 80),
    ("kill-after-commit", 80),
    ("kill-before-replies", 25),
    ("kill-before-ingest", 60),
    ("kill-before-checkpoint", 15),
    ("kill-after-checkpoint", 15),
    ("kill-after-recycling", 15),
];

/// Where a start is killed.
const KILLS_OF_RECOVERY: [(&str, u32); 3] = [
    ("kill-in-recovery", 8),
    ("kill-after-window", 6),
    ("kill-before-ingest", 40),
];

#[test]
fn checkpoints_crashes_and_recoveries_leave_a_prefix_of_each_log() {
    let mut random = seeded_random::printed();
    let rounds = std::env::var("CORELANE_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let mut cells = Cells::new();
    let (mut generation, mut frames) = (0, 1);
    for round in 0..rounds {
        let seed = random.random();
        generation += 1;
        let (point, times_max) = KILLS[random.random_range(0..KILLS.len())];
        let full = ["", ",full-ingest=every:31", ",full-ingest=every:17"][random.random_range(0..3)];
        let fault = format!(
            "{point}={},record-unsynced-log=1{full}",
            random.random_range(1..=times_max)
        );
        let reached = write_until_killed(folder, seed, generation, frames, &fault);
        let groups = executors(generation);
        let power_fails = random.random();
        let lost = match power_fails {
            true => faults::lose_power(&folder.join("log"), |_, contents| random.random_range(0..contents)),
            false => faults::lose_power(&folder.join("log"), |_, contents| contents - 1),
        };
        let lost = lost.expect("the logs can be changed");
        if random.random_bool(0.4) {
            generation += 1;
            let (point, times_max) = KILLS_OF_RECOVERY[random.random_range(0..KILLS_OF_RECOVERY.len())];
            let fault = format!("{point}={}", random.random_range(1..=times_max));
            // If there is so little to recover, it goes on to write: nothing that this would not find below.
            let died_early = write_until_killed(
                folder,
                seed,
                generation,
                frames,
                &format!("{fault},kill-before-commit=1"),
            );
            assert!(died_early.iter().all(|reached| reached.appended == 0));
        }
        generation += 1;
        let (_resources, databases) = open(folder);
        start(folder, generation, &databases);
        for (number, (shards, reached)) in groups.iter().zip(&reached).enumerate() {
            let found = cells_of(&databases, shards);
            let mut expected: Cells = cells.clone();
            expected.retain(|(shard, _, _), _| shards.contains(shard));
            let least = if power_fails { reached.durable } else { reached.appended };
            let mut prefix = None;
            for frame in frames - 1..=reached.tried.max(frames - 1) {
                if frame >= frames {
                    apply_frame(&mut expected, seed, frame, shards);
                }
                if frame >= least && expected == found {
                    prefix = Some(frame);
                    break;
                }
            }
            let what =
                format!("round {round}, seed {seed}, generation {generation}, {fault}, power fails: {power_fails}");
            println!("{what}: executor {number} {reached:?}, {lost} pages lost, has frames to {prefix:?}");
            assert!(prefix.is_some(), "no prefix of the log gives what is there ({what})");
            cells.retain(|(shard, _, _), _| !shards.contains(shard));
            cells.extend(found);
        }
        close(&databases);
        frames += FRAMES;
    }
}

/// A start that fails, for want of room for one, has made room for the next, and that has less to do.
#[test]
fn what_a_start_has_ingested_before_it_fails_is_not_read_again() {
    const FRAMES: u64 = 20;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let (_resources, databases) = open(folder);
    let shards = executors(1).remove(0);
    let key = |frame: u64| [&[1, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &frame.to_be_bytes()].concat();
    let mut log = ExecutorLog::create(&folder.join("log"), identity(1, 0), BOUNDS, shards.clone()).expect("a log");
    for frame in 1..=FRAMES {
        operations::begin_shard(log.buffer(), shards[0]);
        operations::put(log.buffer(), Column::Meta, &key(frame), &[7; 50_000]);
        log.append(frame).expect("there is room");
        log.seal();
        // What comes later says that this was on disk.
        log.progress().sync().expect("a sync");
    }
    drop(log);
    let log_folder = identity(1, 0).folder(&folder.join("log"));
    let segment = segment_path(&log_folder, FRAMES as u32 / 2);
    let whole = std::fs::read(&segment).expect("a segment");
    let mut damaged = whole.clone();
    damaged[1000] ^= 1;
    std::fs::write(&segment, damaged).expect("a segment");
    let again = |generation| recover(&folder.join("log"), identity(generation, 0), &databases, false);
    for generation in 2..4 {
        again(generation).expect_err("a damaged log");
        let segments = segments_in(&log_folder).expect("the folder");
        assert!((8..=10).contains(&segments[0]), "the first segment is {}", segments[0]);
        assert_eq!(cells_of(&databases, &shards).len(), segments[0] as usize - 1);
    }
    std::fs::write(&segment, whole).expect("a segment");
    let recovered = again(4).expect("a whole log");
    assert!((11..=13).contains(&recovered.frames), "{recovered:?}");
    assert_eq!(cells_of(&databases, &shards).len(), FRAMES as usize);
    close(&databases);
}

#[test]
fn a_database_that_is_emptied_has_what_came_later_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_resources, databases) = open(folder.path());
    let database = &databases[&ShardId(0)];
    let key = |number: u16| [&[1, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &number.to_be_bytes()].concat();
    let found = || cells_of(&databases, &[ShardId(0)]);
    for round in 0..12_u16 {
        let mut writes = CellWrites::default();
        (0..1000).for_each(|number| writes.put(Column::Meta, &key(number), &[7; 100]));
        database.ingest(writes).expect("a write");
        if round % 3 == 0 {
            database.compact(Column::Meta);
        }
        assert_eq!(found().len(), 1000);
        let mut writes = CellWrites::default();
        writes.put(Column::Meta, &key(3), b"before");
        writes.apply(Change::EmptyDatabases(1 << 1));
        writes.put(Column::Meta, &key(round), b"after");
        database.ingest(writes).expect("a write");
        assert_eq!(found().into_values().collect::<Vec<_>>(), [b"after".to_vec()]);
        if round % 2 == 0 {
            database.compact(Column::Meta);
            assert_eq!(found().into_values().collect::<Vec<_>>(), [b"after".to_vec()]);
        }
    }
    close(&databases);
}
