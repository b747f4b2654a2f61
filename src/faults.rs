//! Faults on request, for tests: what disks, kernels and channels do too rarely to wait for.
//!
//! Compiled in only with the cargo feature `fault-injection`; without it every hook is an empty inline function.
//!
//! The environment variable `CORELANE_FAULTS` says which, as `name=value,name=value…`; it is read once, when the first
//! shard is opened, and a name that is not in this list keeps the server from starting:
//!
//! ```text
//! fail-sync=WHEN           a sync of a log fails
//! delay-sync-ms=N          each sync of a log takes that much longer
//! fail-write=WHEN          a write fails, and nothing of it is written
//! delay-write-ms=N         each write takes that much longer, from its beginning on
//! hold-writes=WHEN         a write waits, a millisecond at each time, before anything else becomes of it
//! disk-full=WHEN           the same with "No space left on device"
//! stall-writes=WHEN        the same with RocksDB's "Incomplete": write again later
//! low-disk=WHEN            a look at the disk's free space finds none
//! kill-before-commit=WHEN  the process dies before a write
//! kill-after-commit=WHEN   the process dies when a write is in the kernel, and not synced
//! kill-before-replies=WHEN the process dies when a log was synced, before anybody is told
//! kill-after-redo-staged=WHEN   the process dies when a transaction's redo record is staged, and not committed
//! kill-before-apply=WHEN        ...when a shard is about to follow a transaction whose record another shard has
//! kill-after-apply=WHEN         ...when it has staged its part
//! kill-before-forget=WHEN       ...when all have followed, before the record's deletion is staged
//! kill-after-forget=WHEN        ...when that is staged
//! refuse-send=WHEN         a channel does not take a batch, as if it were full
//! delay-send-ms=N          each hand-over of a batch takes that much longer
//! ignore-locks=WHEN        a transaction gets its locks although others have them, or a command does not wait for them
//! panic-in-parse=WHEN      there is a bug where a client's commands are read (a panic)
//! panic-in-network=WHEN    ...where a network executor takes in responses
//! panic-in-turn=WHEN       ...where a storage executor commits what a turn has written
//! panic-in-sync=WHEN       ...in the thread that syncs logs
//! panic-in-commit=WHEN     ...in the thread that writes large batches
//! panic-in-reclaim=WHEN    ...in the thread that gives space back
//! hold-storage=WHEN        a storage executor does nothing for a millisecond, again and again (with while:PATH: as
//!                          long as the file exists); if the file has a number in it, only the executor of that number
//! forget-residents=WHEN    all collections in memory are dropped after a command
//! evict-resident=WHEN      one of them is
//! check-residents=WHEN     what is read of one in memory is compared with the disk and what is staged, and a
//!                          difference is a bug (a panic)
//! load-cells=N             a read loads no more than so many cells into memory
//! skip-redo=WHEN           what is written on several shards is committed without the redo record
//! record-synced-log=1      the test double of a power loss, see `SYNCED_FILE`
//!
//! WHEN  3            the third time (of all shards and channels of the process together)
//!       3..5         from the third to the fifth time
//!       3..          from the third time on
//!       while:PATH   as long as that file exists
//!       every:3      each third time
//!       3:while:PATH the third time that it could happen while that file exists
//!
//! NAME@SHARD=WHEN  a fault of a disk (fail-…, hold-writes, disk-full, stall-writes, low-disk) of that shard
//!                  alone, whose times are counted by themselves
//! ```
//!
//! The first write of a process is the one by which the first shard records the start.

pub use hooks::*;

/// Where a transaction over several shards may be killed, from its first record to the removal of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The redo record is staged.
    RedoStaged,
    /// A shard that is not the primary is about to follow.
    BeforeApply,
    /// The shard has staged its part.
    AfterApply,
    /// The deletion of the record is about to be staged.
    BeforeForget,
    /// The deletion of the record is staged.
    AfterForget,
}

/// Where there may be a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Where a client's commands are read: contained.
    Parse,
    /// On a network executor.
    Network,
    /// On a storage executor.
    Turn,
    /// In a syncer.
    Sync,
    /// In a committer.
    Commit,
    /// In a reclaimer.
    Reclaim,
}

#[cfg(not(feature = "fault-injection"))]
mod hooks {
    use crate::error::DatabaseError;
    use std::path::Path;

    /// What a sync is about to make durable: nothing is recorded in this build.
    #[derive(Debug)]
    pub struct LogSizes;

    /// Whether `CORELANE_FAULTS` can be obeyed; this build does not read it.
    #[inline(always)]
    pub fn check() -> Result<(), String> {
        Ok(())
    }

    /// Before a write to the database of the shard in a folder.
    #[inline(always)]
    pub fn before_write(_shard_path: &Path) -> Result<(), DatabaseError> {
        Ok(())
    }

    /// When a write is in the kernel.
    #[inline(always)]
    pub fn after_write() {}

    /// Before the log of the shard in a folder is synced.
    #[inline(always)]
    pub fn before_sync(_shard_path: &Path) -> Result<LogSizes, DatabaseError> {
        Ok(LogSizes)
    }

    /// When that log is synced, before anybody is told.
    #[inline(always)]
    pub fn after_sync(_shard_path: &Path, _sizes: &LogSizes) -> Result<(), DatabaseError> {
        Ok(())
    }

    /// What a look at the free space of a shard's disk says, in bytes.
    #[inline(always)]
    pub fn free_bytes(_shard_path: &Path, found: u64) -> u64 {
        found
    }

    /// A transaction has come to a point.
    #[inline(always)]
    pub fn reached(_point: super::Point) {}

    /// Before a batch is handed to a channel; whether the channel refuses it.
    #[inline(always)]
    pub fn refuses_send() -> bool {
        false
    }

    /// When a request asks for locks, or whether locks keep it waiting; returns whether it goes on without.
    #[inline(always)]
    pub fn ignores_locks() -> bool {
        false
    }

    /// Before a redo record is staged; whether it is left out.
    #[inline(always)]
    pub fn skips_redo() -> bool {
        false
    }

    /// Where there may be a bug.
    #[inline(always)]
    pub fn may_panic(_bug: super::Bug) {}

    /// Before the storage executor of a number does anything.
    #[inline(always)]
    pub fn hold_storage(_executor: usize) {}

    /// After a command; whether all collections in memory are dropped.
    #[inline(always)]
    pub fn forgets_residents() -> bool {
        false
    }

    /// After a command; whether one collection in memory is dropped.
    #[inline(always)]
    pub fn evicts_resident() -> bool {
        false
    }

    /// Before a read of what is in memory; whether that is compared with the disk.
    #[inline(always)]
    pub fn checks_residents() -> bool {
        false
    }

    /// How many cells a read loads into memory at most.
    #[inline(always)]
    pub fn loaded_cells(cells_max: usize) -> usize {
        cells_max
    }
}

#[cfg(feature = "fault-injection")]
mod hooks {
    use super::{Bug, Point};
    use crate::error::DatabaseError;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// The file in a shard's folder that says what of its log is surely on disk: a line `NAME BYTES` for each log file,
    /// as long as it was before the last successful sync began. It is written before the sync's result is told to
    /// anybody, so cutting every log file to that length (to nothing if it is not listed) is the worst that a loss of
    /// power may do.
    ///
    /// RocksDB also syncs by itself the logs of memtables that it flushes to files, which is not recorded: keep a
    /// test's data below `write-buffer-size`.
    pub const SYNCED_FILE: &str = "SYNCED";

    const VARIABLE: &str = "CORELANE_FAULTS";

    /// What can happen; the discriminant is the index in [`NAMES`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        FailSync,
        FailWrite,
        HoldWrites,
        DiskFull,
        StallWrites,
        LowDisk,
        KillBeforeCommit,
        KillAfterCommit,
        KillBeforeReplies,
        KillAfterRedoStaged,
        KillBeforeApply,
        KillAfterApply,
        KillBeforeForget,
        KillAfterForget,
        RefuseSend,
        IgnoreLocks,
        SkipRedo,
        PanicInParse,
        PanicInNetwork,
        PanicInTurn,
        PanicInSync,
        PanicInCommit,
        PanicInReclaim,
        HoldStorage,
        ForgetResidents,
        EvictResident,
        CheckResidents,
    }

    const NAMES: [&str; 27] = [
        "fail-sync",
        "fail-write",
        "hold-writes",
        "disk-full",
        "stall-writes",
        "low-disk",
        "kill-before-commit",
        "kill-after-commit",
        "kill-before-replies",
        "kill-after-redo-staged",
        "kill-before-apply",
        "kill-after-apply",
        "kill-before-forget",
        "kill-after-forget",
        "refuse-send",
        "ignore-locks",
        "skip-redo",
        "panic-in-parse",
        "panic-in-network",
        "panic-in-turn",
        "panic-in-sync",
        "panic-in-commit",
        "panic-in-reclaim",
        "hold-storage",
        "forget-residents",
        "evict-resident",
        "check-residents",
    ];

    /// The faults that may be asked for of one shard alone.
    const OF_ONE_SHARD: [Fault; 6] = [
        Fault::FailSync,
        Fault::FailWrite,
        Fault::HoldWrites,
        Fault::DiskFull,
        Fault::StallWrites,
        Fault::LowDisk,
    ];

    /// When it happens.
    #[derive(Debug, PartialEq, Eq)]
    enum When {
        /// From one time to another, both included and counted from 1.
        Times(u64, u64),
        /// Each time whose number is a multiple.
        Every(u64),
        /// As long as a file exists.
        While(PathBuf),
        /// The time of that number among those while a file exists.
        TimeWhile(u64, PathBuf),
    }

    /// A fault of one shard.
    #[derive(Debug)]
    struct OnShard {
        fault: Fault,
        shard: u16,
        when: When,
        count: AtomicU64,
    }

    impl When {
        /// Whether a fault happens that could have happened `count` times before.
        fn comes(&self, count: &AtomicU64) -> bool {
            if let When::TimeWhile(_, path) = self
                && !path.exists()
            {
                return false;
            }
            let count = count.fetch_add(1, Ordering::Relaxed) + 1;
            match self {
                When::Times(from, to) => (*from..=*to).contains(&count),
                When::Every(times) => count.is_multiple_of(*times),
                When::While(path) => path.exists(),
                When::TimeWhile(time, _) => count == *time,
            }
        }

        fn parse(text: &str) -> Option<When> {
            if let Some(path) = text.strip_prefix("while:") {
                return Some(When::While(path.into()));
            }
            if let Some(times) = text.strip_prefix("every:") {
                return times.parse().ok().filter(|times| *times > 0).map(When::Every);
            }
            if let Some((time, path)) = text.split_once(":while:") {
                return Some(When::TimeWhile(time.parse().ok()?, path.into()));
            }
            let (from, to) = match text.split_once("..") {
                None => (text, Some(text)),
                Some((from, "")) => (from, None),
                Some((from, to)) => (from, Some(to)),
            };
            let from = from.parse().ok()?;
            let to = to.map_or(Some(u64::MAX), |to| to.parse().ok())?;
            (1 <= from && from <= to).then_some(When::Times(from, to))
        }
    }

    /// What `CORELANE_FAULTS` asks for.
    #[derive(Debug, Default)]
    struct Plan {
        /// By [`Fault`].
        whens: [Option<When>; NAMES.len()],
        /// How often each could have happened.
        counts: [AtomicU64; NAMES.len()],
        on_shards: Vec<OnShard>,
        sync_delay_ms: u64,
        write_delay_ms: u64,
        send_delay_ms: u64,
        loaded_cells: Option<usize>,
        records_synced_log: bool,
    }

    impl Plan {
        fn parse(text: &str) -> Result<Plan, String> {
            let mut plan = Plan::default();
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                let wrong = || format!("{VARIABLE}: {value:?} is not a value of {name}");
                let number = || value.parse().map_err(|_| wrong());
                match name {
                    "delay-sync-ms" => plan.sync_delay_ms = number()?,
                    "delay-write-ms" => plan.write_delay_ms = number()?,
                    "delay-send-ms" => plan.send_delay_ms = number()?,
                    "load-cells" => plan.loaded_cells = Some(number()?.max(1) as usize),
                    "record-synced-log" => plan.records_synced_log = number()? > 0,
                    _ => plan.add(name, When::parse(value).ok_or_else(wrong)?)?,
                }
            }
            Ok(plan)
        }

        fn add(&mut self, name: &str, when: When) -> Result<(), String> {
            let unknown = || format!("{VARIABLE}: there is no fault {name:?}");
            let Some((name, shard)) = name.split_once('@') else {
                let known = NAMES.iter().position(|known| *known == name);
                self.whens[known.ok_or_else(unknown)?] = Some(when);
                return Ok(());
            };
            let known = OF_ONE_SHARD.into_iter().find(|known| NAMES[*known as usize] == name);
            self.on_shards.push(OnShard {
                fault: known.ok_or_else(unknown)?,
                shard: shard.parse().map_err(|_| unknown())?,
                when,
                count: AtomicU64::new(0),
            });
            Ok(())
        }

        fn happens(&self, fault: Fault) -> bool {
            let when = &self.whens[fault as usize];
            when.as_ref()
                .is_some_and(|when| when.comes(&self.counts[fault as usize]))
        }

        /// Whether a fault happens to the shard in a folder.
        fn happens_in(&self, fault: Fault, shard_path: &Path) -> bool {
            let is_it = |one: &&OnShard| one.fault == fault && Some(one.shard) == shard_of(shard_path);
            let of_one = self.on_shards.iter().find(is_it);
            of_one.is_some_and(|one| one.when.comes(&one.count)) || self.happens(fault)
        }

        /// Whether a fault's file, if it lasts as long as one exists, is about the executor of a number: it names none,
        /// or that.
        fn is_about(&self, fault: Fault, executor: usize) -> bool {
            match &self.whens[fault as usize] {
                Some(When::While(path)) => {
                    let named = std::fs::read_to_string(path).unwrap_or_default();
                    named.trim().is_empty() || named.trim() == executor.to_string()
                }
                _ => true,
            }
        }

        fn kills(&self, fault: Fault) {
            if self.happens(fault) {
                // No destructor runs, as with SIGKILL: what was not given to the kernel is gone.
                std::process::abort();
            }
        }
    }

    /// The number of the shard in a folder.
    fn shard_of(shard_path: &Path) -> Option<u16> {
        let name = shard_path.file_name()?.to_str()?;
        name.rsplit('-').next()?.parse().ok()
    }

    static PLAN: OnceLock<Result<Plan, String>> = OnceLock::new();

    fn plan() -> Option<&'static Plan> {
        let plan = PLAN.get_or_init(|| Plan::parse(&std::env::var(VARIABLE).unwrap_or_default()));
        plan.as_ref().ok()
    }

    /// Whether `CORELANE_FAULTS` can be obeyed.
    ///
    /// # Errors
    /// A sentence that names what is wrong with it.
    pub fn check() -> Result<(), String> {
        let _ = plan();
        match PLAN.get() {
            Some(Err(sentence)) => Err(sentence.clone()),
            _ => Ok(()),
        }
    }

    /// Before a write to the database of the shard in a folder.
    ///
    /// # Errors
    /// What `fail-write`, `disk-full` or `stall-writes` ask for.
    pub fn before_write(shard_path: &Path) -> Result<(), DatabaseError> {
        let Some(plan) = plan() else { return Ok(()) };
        std::thread::sleep(Duration::from_millis(plan.write_delay_ms));
        while plan.happens_in(Fault::HoldWrites, shard_path) {
            std::thread::sleep(Duration::from_millis(1));
        }
        plan.kills(Fault::KillBeforeCommit);
        if plan.happens_in(Fault::StallWrites, shard_path) {
            return Err(DatabaseError::Stalled);
        }
        if plan.happens_in(Fault::DiskFull, shard_path) {
            return Err(DatabaseError::DiskFull(
                "IO error: No space left on device: on request".to_owned(),
            ));
        }
        match plan.happens_in(Fault::FailWrite, shard_path) {
            true => Err(DatabaseError::Failed("IO error: a write failed on request".to_owned())),
            false => Ok(()),
        }
    }

    /// When a write is in the kernel.
    pub fn after_write() {
        if let Some(plan) = plan() {
            plan.kills(Fault::KillAfterCommit);
        }
    }

    /// A transaction has come to a point.
    pub fn reached(point: Point) {
        if let Some(plan) = plan() {
            plan.kills(match point {
                Point::RedoStaged => Fault::KillAfterRedoStaged,
                Point::BeforeApply => Fault::KillBeforeApply,
                Point::AfterApply => Fault::KillAfterApply,
                Point::BeforeForget => Fault::KillBeforeForget,
                Point::AfterForget => Fault::KillAfterForget,
            });
        }
    }

    /// The names and lengths in bytes of a shard's log files.
    #[derive(Debug)]
    pub struct LogSizes(Vec<(String, u64)>);

    /// Before the log of the shard in a folder is synced; returns what the sync will surely cover.
    ///
    /// # Errors
    /// What `fail-sync` asks for, or the folder could not be read.
    pub fn before_sync(shard_path: &Path) -> Result<LogSizes, DatabaseError> {
        let mut sizes = LogSizes(Vec::new());
        let Some(plan) = plan() else { return Ok(sizes) };
        if plan.records_synced_log {
            let read = read_log_sizes(shard_path).map_err(|error| DatabaseError::Failed(error.to_string()));
            sizes.0 = read?;
        }
        std::thread::sleep(Duration::from_millis(plan.sync_delay_ms));
        match plan.happens_in(Fault::FailSync, shard_path) {
            true => Err(DatabaseError::Failed("IO error: a sync failed on request".to_owned())),
            false => Ok(sizes),
        }
    }

    fn read_log_sizes(shard_path: &Path) -> std::io::Result<Vec<(String, u64)>> {
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir(shard_path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && name.ends_with(".log")
            {
                // RocksDB may have deleted it since the folder was read.
                if let Ok(metadata) = entry.metadata() {
                    sizes.push((name, metadata.len()));
                }
            }
        }
        Ok(sizes)
    }

    /// When that log is synced, before anybody is told.
    ///
    /// # Errors
    /// What was synced could not be recorded.
    pub fn after_sync(shard_path: &Path, sizes: &LogSizes) -> Result<(), DatabaseError> {
        let Some(plan) = plan() else { return Ok(()) };
        if plan.records_synced_log {
            let lines: String = sizes
                .0
                .iter()
                .map(|(name, bytes)| format!("{name} {bytes}\n"))
                .collect();
            let temporary = shard_path.join(format!("{SYNCED_FILE}.new"));
            let written = std::fs::write(&temporary, lines);
            let renamed = written.and_then(|()| std::fs::rename(&temporary, shard_path.join(SYNCED_FILE)));
            renamed.map_err(|error| DatabaseError::Failed(error.to_string()))?;
        }
        plan.kills(Fault::KillBeforeReplies);
        Ok(())
    }

    /// What a look at the free space of a shard's disk says, in bytes.
    pub fn free_bytes(shard_path: &Path, found: u64) -> u64 {
        match plan() {
            Some(plan) if plan.happens_in(Fault::LowDisk, shard_path) => 0,
            _ => found,
        }
    }

    /// Before a batch is handed to a channel; whether the channel refuses it.
    pub fn refuses_send() -> bool {
        let Some(plan) = plan() else { return false };
        if plan.send_delay_ms > 0 {
            std::thread::sleep(Duration::from_millis(plan.send_delay_ms));
        }
        plan.happens(Fault::RefuseSend)
    }

    /// When a request asks for locks, or whether locks keep it waiting; returns whether it goes on without.
    pub fn ignores_locks() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::IgnoreLocks))
    }

    /// Before a redo record is staged; whether it is left out.
    pub fn skips_redo() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::SkipRedo))
    }

    /// Where there may be a bug.
    ///
    /// # Panics
    /// If one of the faults `panic-in-…` asks for it.
    pub fn may_panic(bug: Bug) {
        let fault = match bug {
            Bug::Parse => Fault::PanicInParse,
            Bug::Network => Fault::PanicInNetwork,
            Bug::Turn => Fault::PanicInTurn,
            Bug::Sync => Fault::PanicInSync,
            Bug::Commit => Fault::PanicInCommit,
            Bug::Reclaim => Fault::PanicInReclaim,
        };
        let panics = plan().is_some_and(|plan| plan.happens(fault));
        assert!(!panics, "a bug on request");
    }

    /// Before the storage executor of a number does anything.
    pub fn hold_storage(executor: usize) {
        let Some(plan) = plan() else { return };
        while plan.happens(Fault::HoldStorage) && plan.is_about(Fault::HoldStorage, executor) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// After a command; whether all collections in memory are dropped.
    #[inline]
    pub fn forgets_residents() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::ForgetResidents))
    }

    /// After a command; whether one collection in memory is dropped.
    #[inline]
    pub fn evicts_resident() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::EvictResident))
    }

    /// Before a read of what is in memory; whether that is compared with the disk.
    #[inline]
    pub fn checks_residents() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::CheckResidents))
    }

    /// How many cells a read loads into memory at most.
    #[inline]
    pub fn loaded_cells(cells_max: usize) -> usize {
        plan().and_then(|plan| plan.loaded_cells).unwrap_or(cells_max)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_are_read_as_the_list_says() {
            let plan =
                Plan::parse("fail-sync=3,stall-writes=2..4,delay-sync-ms=7,low-disk=while:/no/such/file").unwrap();
            let happen = |fault, times| (0..times).map(|_| plan.happens(fault)).collect::<Vec<_>>();
            assert_eq!(happen(Fault::FailSync, 4), [false, false, true, false]);
            assert_eq!(happen(Fault::StallWrites, 5), [false, true, true, true, false]);
            assert_eq!(happen(Fault::LowDisk, 1), [false]);
            assert_eq!(happen(Fault::FailWrite, 2), [false, false]);
            assert_eq!((plan.sync_delay_ms, plan.records_synced_log), (7, false));
            let plan = Plan::parse("disk-full@3=2").unwrap();
            let on = |shard: &str| plan.happens_in(Fault::DiskFull, &Path::new("data").join(shard));
            let shards = ["shard-0003", "shard-0002", "shard-0002", "shard-0003", "shard-0003"];
            assert_eq!(shards.map(on), [false, false, false, true, false]);
            assert_eq!(When::parse("every:2"), Some(When::Every(2)));
            assert_eq!(When::parse("every:0"), None);
            assert_eq!(When::parse("2.."), Some(When::Times(2, u64::MAX)));
            assert_eq!(When::parse("2:while:/f"), Some(When::TimeWhile(2, "/f".into())));
        }

        #[test]
        fn what_is_not_in_the_list_is_refused_with_a_sentence() {
            for (text, sentence) in [
                ("fail-syncs=1", "CORELANE_FAULTS: there is no fault \"fail-syncs\""),
                (
                    "refuse-send@1=1",
                    "CORELANE_FAULTS: there is no fault \"refuse-send@1\"",
                ),
                ("fail-sync=0", "CORELANE_FAULTS: \"0\" is not a value of fail-sync"),
                (
                    "fail-sync=5..3",
                    "CORELANE_FAULTS: \"5..3\" is not a value of fail-sync",
                ),
                ("delay-sync-ms", "CORELANE_FAULTS: \"\" is not a value of delay-sync-ms"),
            ] {
                assert_eq!(Plan::parse(text).unwrap_err(), sentence);
            }
        }
    }
}
