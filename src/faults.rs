//! Faults on request, for tests: what disks, kernels and channels do too rarely to wait for.
//!
//! Compiled in only with the cargo feature `fault-injection`; without it every hook is an empty inline function.
//!
//! The environment variable `CORELANE_FAULTS` says which, as `name=value,name=value…`; it is read once, when the first
//! shard is opened, and a name that is not in this list keeps the server from starting:
//!
//! ```text
//! fail-sync=WHEN           a sync of a file of a log fails
//! delay-sync-ms=N          each of them takes that much longer
//! fail-write=WHEN          a turn's frame cannot be written, and nothing of it is
//! fail-read=WHEN           a file of an old log cannot be read, since its disk is damaged
//! disk-full=WHEN           a frame cannot be written for "No space left on device"
//! stall-writes=WHEN        a log is full, as if checkpoints were behind
//! low-disk=WHEN            a look at the disk's free space finds none
//! kill-before-commit=WHEN  the process dies before a turn's frame is written
//! kill-after-commit=WHEN   the process dies when a frame is in the kernel, and not synced
//! kill-before-replies=WHEN the process dies when a file of a log was synced, before anybody is told
//! kill-after-redo-staged=WHEN   the process dies when a transaction's redo record is staged, and not committed
//! kill-before-apply=WHEN        ...when a shard is about to follow a transaction whose record another shard has
//! kill-after-apply=WHEN         ...when it has staged its part
//! kill-before-forget=WHEN       ...when all have followed, before the record's deletion is staged
//! kill-after-forget=WHEN        ...when that is staged
//! kill-before-ingest=WHEN       ...before a file becomes part of a shard's RocksDB
//! kill-before-checkpoint=WHEN   ...when a checkpoint's files are, and the log does not say so yet
//! kill-after-checkpoint=WHEN    ...when it does, and the segments are still there
//! kill-after-recycling=WHEN     ...when they were recycled
//! kill-in-recovery=WHEN         ...at a start, when some of an old log is in RocksDB
//! kill-after-window=WHEN   ...and when `CHECKPOINT` says so, and the segments are still there
//! fail-ingest=WHEN         a file does not become part of a shard's RocksDB
//! full-ingest=WHEN         the same with "No space left on device"
//! refuse-send=WHEN         a channel does not take a batch, as if it were full
//! delay-send-ms=N          each hand-over of a batch takes that much longer
//! ignore-locks=WHEN        a transaction gets its locks although others have them, or a command does not wait for them
//! panic-in-parse=WHEN      there is a bug where a client's commands are read (a panic)
//! panic-in-network=WHEN    ...where a network executor takes in responses
//! panic-in-turn=WHEN       ...where a storage executor commits what a turn has written
//! panic-in-sync=WHEN       ...in the thread that syncs logs
//! panic-in-checkpoint=WHEN ...in the thread that brings the log into RocksDB
//! panic-in-reclaim=WHEN    ...in the thread that gives space back
//! hold-storage=WHEN        a storage executor does nothing for a millisecond, again and again (with while:PATH: as
//!                          long as the file exists); if the file has a number in it, only the executor of that number
//! forget-residents=WHEN    all collections in memory are dropped after a command
//! evict-resident=WHEN      one of them is
//! check-residents=WHEN     what is read of one in memory is compared with the disk and what is staged, and a
//!                          difference is a bug (a panic)
//! seal-log=WHEN            a frame is the last of its segment, which RocksDB gets then
//! split-frames=WHEN        a turn's writes come in a frame for each shard, and not in one
//! miss-reads=WHEN          a read of a command that may be undone is not in memory, and is done by a reader first
//! hold-fetches=WHEN        a thread that reads what was missed does nothing for a millisecond first, again and again
//! load-cells=N             a read loads no more than so many cells into memory
//! step-members=N           commands come in steps that can, however few members they have before them; each turn goes
//!                          on with one by one step, of no more than so many members
//! skip-redo=WHEN           a transaction over several executors is committed without its redo record
//! record-unsynced-log=1    what `lose_power` needs is written down
//!
//! WHEN  3            the third time (of all shards and channels of the process together)
//!       3..5         from the third to the fifth time
//!       3..          from the third time on
//!       while:PATH   as long as that file exists
//!       every:3      each third time
//!       3:while:PATH the third time that it could happen while that file exists
//!
//! NAME@SHARD=WHEN  a fault of a disk (fail-…, disk-full, full-ingest, stall-writes, low-disk) of that
//!                  shard alone, or of the log that it shares with others, whose times are counted by themselves
//! ```

pub use hooks::*;

/// Where a transaction over several shards may be killed, from its first record to the removal of that; and where a
/// checkpoint may.
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
    /// A window of the log is in RocksDB, and `CHECKPOINT` does not say so yet.
    BeforeCheckpoint,
    /// `CHECKPOINT` says so, and the segments are still there.
    AfterCheckpoint,
    /// The segments were recycled.
    AfterRecycling,
    /// Some of an old log is in RocksDB, at a start.
    Recovering,
    /// `CHECKPOINT` says so of a part of the log, and its segments are still there.
    RecoveredWindow,
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
    /// In a checkpointer.
    Checkpoint,
    /// In a reclaimer.
    Reclaim,
}

#[cfg(not(feature = "fault-injection"))]
mod hooks {
    use crate::error::DatabaseError;
    use crate::slots::ShardId;
    use std::fs::File;
    use std::io;
    use std::path::Path;

    /// Whether the segment is to end that has got a frame.
    #[inline(always)]
    pub fn seals_log() -> bool {
        false
    }

    /// Whether each shard's writes of a turn get a frame of their own.
    #[inline(always)]
    pub fn splits_frames() -> bool {
        false
    }

    /// Whether `CORELANE_FAULTS` can be obeyed; this build does not read it.
    #[inline(always)]
    pub fn check() -> Result<(), String> {
        Ok(())
    }

    /// Before a frame is written to the log of some shards.
    #[inline(always)]
    pub fn before_append(_shards: &[ShardId]) -> io::Result<()> {
        Ok(())
    }

    /// When a frame is in the kernel.
    #[inline(always)]
    pub fn after_append() {}

    /// Before a piece of a file of a log is read.
    #[inline(always)]
    pub fn before_read() -> io::Result<()> {
        Ok(())
    }

    /// Whether the log of some shards is to be full.
    #[inline(always)]
    pub fn stalls_writes(_shards: &[ShardId]) -> bool {
        false
    }

    /// Around a write to a file of a log.
    #[inline(always)]
    pub fn record_write<T>(_file: (&Path, &File), _range: (u64, usize), write: impl FnOnce() -> T) -> T {
        write()
    }

    /// Before a file in the folder of a log is synced.
    #[inline(always)]
    pub fn before_sync(_shards: &[ShardId], _file: (&Path, &File)) -> io::Result<()> {
        Ok(())
    }

    /// When that file is synced, before anybody is told.
    #[inline(always)]
    pub fn after_sync(_file: (&Path, &File)) -> io::Result<()> {
        Ok(())
    }

    /// Before a file becomes part of the database of the shard in a folder.
    #[inline(always)]
    pub fn before_ingest(_shard_path: &Path) -> Result<(), DatabaseError> {
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

    /// Before what was missed is read.
    #[inline(always)]
    pub fn hold_fetch() {}

    /// Before a read of a command that may be undone; whether it is not in memory.
    #[inline(always)]
    pub fn misses_read() -> bool {
        false
    }

    /// How many cells a read loads into memory at most.
    #[inline(always)]
    pub fn loaded_cells(cells_max: usize) -> usize {
        cells_max
    }

    /// How many members a step of a command works on at most, if commands of few members are to come in steps, too.
    #[inline(always)]
    pub fn step_members() -> Option<usize> {
        None
    }
}

#[cfg(feature = "fault-injection")]
mod hooks {
    use super::{Bug, Point};
    use crate::error::DatabaseError;
    use crate::slots::ShardId;
    use std::collections::{HashMap, HashSet};
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    const VARIABLE: &str = "CORELANE_FAULTS";

    /// What can happen; the discriminant is the index in [`NAMES`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        FailSync,
        FailWrite,
        FailRead,
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
        KillBeforeIngest,
        KillBeforeCheckpoint,
        KillAfterCheckpoint,
        KillAfterRecycling,
        KillInRecovery,
        KillAfterWindow,
        FailIngest,
        FullIngest,
        RefuseSend,
        IgnoreLocks,
        SkipRedo,
        PanicInParse,
        PanicInNetwork,
        PanicInTurn,
        PanicInSync,
        PanicInCheckpoint,
        PanicInReclaim,
        HoldStorage,
        ForgetResidents,
        EvictResident,
        CheckResidents,
        SealLog,
        SplitFrames,
        MissReads,
        HoldFetches,
    }

    const NAMES: [&str; 39] = [
        "fail-sync",
        "fail-write",
        "fail-read",
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
        "kill-before-ingest",
        "kill-before-checkpoint",
        "kill-after-checkpoint",
        "kill-after-recycling",
        "kill-in-recovery",
        "kill-after-window",
        "fail-ingest",
        "full-ingest",
        "refuse-send",
        "ignore-locks",
        "skip-redo",
        "panic-in-parse",
        "panic-in-network",
        "panic-in-turn",
        "panic-in-sync",
        "panic-in-checkpoint",
        "panic-in-reclaim",
        "hold-storage",
        "forget-residents",
        "evict-resident",
        "check-residents",
        "seal-log",
        "split-frames",
        "miss-reads",
        "hold-fetches",
    ];

    /// The faults that may be asked for of one shard alone.
    const OF_ONE_SHARD: [Fault; 7] = [
        Fault::FailSync,
        Fault::FailWrite,
        Fault::DiskFull,
        Fault::StallWrites,
        Fault::LowDisk,
        Fault::FailIngest,
        Fault::FullIngest,
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
    #[derive(Debug)]
    struct Plan {
        /// By [`Fault`].
        whens: [Option<When>; NAMES.len()],
        /// How often each could have happened.
        counts: [AtomicU64; NAMES.len()],
        on_shards: Vec<OnShard>,
        sync_delay_ms: u64,
        send_delay_ms: u64,
        loaded_cells: Option<usize>,
        step_members: Option<usize>,
        records_unsynced_log: bool,
    }

    impl Default for Plan {
        fn default() -> Plan {
            Plan {
                whens: [const { None }; NAMES.len()],
                counts: [const { AtomicU64::new(0) }; NAMES.len()],
                on_shards: Vec::new(),
                sync_delay_ms: 0,
                send_delay_ms: 0,
                loaded_cells: None,
                step_members: None,
                records_unsynced_log: false,
            }
        }
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
                    "delay-send-ms" => plan.send_delay_ms = number()?,
                    "load-cells" => plan.loaded_cells = Some(number()?.max(1) as usize),
                    "step-members" => plan.step_members = Some(number()?.max(1) as usize),
                    "record-unsynced-log" => plan.records_unsynced_log = number()? > 0,
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
            self.happens_to(fault, |shard| Some(shard) == shard_of(shard_path))
        }

        /// Whether a fault happens to the log of some shards.
        fn happens_on(&self, fault: Fault, shards: &[ShardId]) -> bool {
            self.happens_to(fault, |shard| shards.contains(&ShardId(shard)))
        }

        fn happens_to(&self, fault: Fault, is_meant: impl Fn(u16) -> bool) -> bool {
            let is_it = |one: &&OnShard| one.fault == fault && is_meant(one.shard);
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

    /// Before a frame is written to the log of some shards.
    ///
    /// # Errors
    /// What `fail-write` or `disk-full` ask for.
    pub fn before_append(shards: &[ShardId]) -> io::Result<()> {
        let Some(plan) = plan() else { return Ok(()) };
        plan.kills(Fault::KillBeforeCommit);
        if plan.happens_on(Fault::DiskFull, shards) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match plan.happens_on(Fault::FailWrite, shards) {
            true => Err(io::Error::other("a write failed on request")),
            false => Ok(()),
        }
    }

    /// When a frame is in the kernel.
    pub fn after_append() {
        if let Some(plan) = plan() {
            plan.kills(Fault::KillAfterCommit);
        }
    }

    /// Before a piece of a file of a log is read.
    ///
    /// # Errors
    /// What `fail-read` asks for.
    pub fn before_read() -> io::Result<()> {
        match plan().is_some_and(|plan| plan.happens(Fault::FailRead)) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// Whether the segment is to end that has got a frame.
    pub fn seals_log() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::SealLog))
    }

    /// Whether each shard's writes of a turn get a frame of their own.
    pub fn splits_frames() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::SplitFrames))
    }

    /// Whether the log of some shards is to be full.
    pub fn stalls_writes(shards: &[ShardId]) -> bool {
        plan().is_some_and(|plan| plan.happens_on(Fault::StallWrites, shards))
    }

    /// Before a file becomes part of the database of the shard in a folder.
    ///
    /// # Errors
    /// What `fail-ingest` or `full-ingest` ask for.
    pub fn before_ingest(shard_path: &Path) -> Result<(), DatabaseError> {
        let Some(plan) = plan() else { return Ok(()) };
        plan.kills(Fault::KillBeforeIngest);
        if plan.happens_in(Fault::FullIngest, shard_path) {
            return Err(DatabaseError::DiskFull(
                "IO error: No space left on device: on request".to_owned(),
            ));
        }
        match plan.happens_in(Fault::FailIngest, shard_path) {
            true => Err(DatabaseError::Failed("IO error: a file failed on request".to_owned())),
            false => Ok(()),
        }
    }

    /// A transaction or a checkpoint has come to a point.
    pub fn reached(point: Point) {
        if let Some(plan) = plan() {
            plan.kills(match point {
                Point::RedoStaged => Fault::KillAfterRedoStaged,
                Point::BeforeApply => Fault::KillBeforeApply,
                Point::AfterApply => Fault::KillAfterApply,
                Point::BeforeForget => Fault::KillBeforeForget,
                Point::AfterForget => Fault::KillAfterForget,
                Point::BeforeCheckpoint => Fault::KillBeforeCheckpoint,
                Point::AfterCheckpoint => Fault::KillAfterCheckpoint,
                Point::AfterRecycling => Fault::KillAfterRecycling,
                Point::Recovering => Fault::KillInRecovery,
                Point::RecoveredWindow => Fault::KillAfterWindow,
            });
        }
    }

    /// What the kernel writes as a whole.
    const PAGE_LEN: usize = 4096;

    /// What the names of journals begin with: see [`record_write`].
    const JOURNAL: &str = "UNSYNCED-";

    /// The pages of a file of a log that were written since a sync of it began.
    struct Journal {
        /// How many syncs of the file began.
        number: u64,
        pages: HashSet<u64>,
        /// An inode, a page and its bytes before the first of these writes, again and again.
        file: File,
    }

    static JOURNALS: Mutex<Option<HashMap<PathBuf, Journal>>> = Mutex::new(None);

    /// Around a write to a file of a log in a folder: with `record-unsynced-log` what is on disk for sure, whatever
    /// becomes of the write, is kept in a journal beside the log, until a sync that begins later has ended.
    pub fn record_write<T>((folder, file): (&Path, &File), range: (u64, usize), write: impl FnOnce() -> T) -> T {
        if !plan().is_some_and(|plan| plan.records_unsynced_log) {
            return write();
        }
        let mut journals = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
        let journals = journals.get_or_insert_default();
        let recorded = record_pages(journals, folder, file, range);
        recorded.expect("the test double of a power loss can write its journal");
        // Within the lock: a write belongs to one journal, whenever a sync begins.
        write()
    }

    fn record_pages(
        journals: &mut HashMap<PathBuf, Journal>,
        folder: &Path,
        file: &File,
        (offset, len): (u64, usize),
    ) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let path = folder.join(format!("{JOURNAL}{inode}"));
        if !journals.contains_key(&path) {
            begin_journal(journals, &path, 0)?;
        }
        let journal = journals.get_mut(&path).expect("it was begun");
        // The log's own descriptor is for writing.
        let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let page_len = PAGE_LEN as u64;
        for page in offset / page_len..(offset + len as u64).div_ceil(page_len) {
            if journal.pages.contains(&page) {
                continue;
            }
            let mut bytes = [0; PAGE_LEN];
            readable.read_exact_at(&mut bytes, page * page_len)?;
            journal.pages.insert(page);
            let entry = [&inode.to_le_bytes()[..], &page.to_le_bytes(), &bytes].concat();
            journal.file.write_all(&entry)?;
        }
        Ok(())
    }

    fn begin_journal(journals: &mut HashMap<PathBuf, Journal>, path: &Path, number: u64) -> io::Result<()> {
        let journal = Journal {
            number,
            pages: HashSet::new(),
            file: File::create(path.with_extension(number.to_string()))?,
        };
        journals.insert(path.to_owned(), journal);
        Ok(())
    }

    /// Before a file in the folder of a log is synced.
    ///
    /// # Errors
    /// What `fail-sync` asks for.
    pub fn before_sync(shards: &[ShardId], (folder, file): (&Path, &File)) -> io::Result<()> {
        let Some(plan) = plan() else { return Ok(()) };
        if plan.records_unsynced_log {
            let path = folder.join(format!("{JOURNAL}{}", file.metadata()?.ino()));
            let mut journals = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
            let journals = journals.get_or_insert_default();
            if let Some(number) = journals.get(&path).map(|journal| journal.number) {
                begin_journal(journals, &path, number + 1)?;
            }
        }
        std::thread::sleep(Duration::from_millis(plan.sync_delay_ms));
        match plan.happens_on(Fault::FailSync, shards) {
            true => Err(io::Error::other("a sync failed on request")),
            false => Ok(()),
        }
    }

    /// When that file is synced, before anybody is told.
    ///
    /// # Errors
    /// A journal could not be removed.
    pub fn after_sync((folder, file): (&Path, &File)) -> io::Result<()> {
        let Some(plan) = plan() else { return Ok(()) };
        if plan.records_unsynced_log {
            let path = folder.join(format!("{JOURNAL}{}", file.metadata()?.ino()));
            let journals = JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = journals.as_ref().and_then(|journals| journals.get(&path));
            if let Some(newest) = newest {
                std::fs::remove_file(path.with_extension((newest.number - 1).to_string()))?;
            }
        }
        plan.kills(Fault::KillBeforeReplies);
        Ok(())
    }

    /// Does to the logs in a folder, which nobody has open, what a loss of power may do: of the pages that were written
    /// and not synced some are lost. `choose` picks, for a log of the executor of a number, one of so many possible
    /// contents of a page; the last is what was written. The files of RocksDB stay as they are. Returns how many pages
    /// have lost something.
    ///
    /// # Errors
    /// A file could not be read or written.
    pub fn lose_power(logs: &Path, mut choose: impl FnMut(u32, usize) -> usize) -> io::Result<u64> {
        let folders = match std::fs::read_dir(logs) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut lost = 0;
        for folder in folders {
            let folder = folder?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let executor = name.rsplit('-').next().and_then(|number| number.parse().ok());
            let executor = executor.unwrap_or(0);
            let mut files = HashMap::new();
            let mut journals = Vec::new();
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                match name.starts_with(JOURNAL) {
                    true => journals.push(path),
                    false => drop(files.insert(path.metadata()?.ino(), path)),
                }
            }
            let number_of = |path: &PathBuf| path.extension()?.to_str()?.parse::<u64>().ok();
            journals.sort_by_key(number_of);
            lost += lose_pages(&journals, &files, |contents| choose(executor, contents))?;
            journals.iter().try_for_each(std::fs::remove_file)?;
        }
        Ok(lost)
    }

    fn lose_pages(
        journals: &[PathBuf],
        files: &HashMap<u64, PathBuf>,
        mut choose: impl FnMut(usize) -> usize,
    ) -> io::Result<u64> {
        let mut lost = 0;
        let mut contents: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
        for journal in journals {
            for entry in std::fs::read(journal)?.chunks_exact(16 + PAGE_LEN) {
                let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
                contents
                    .entry((number(0), number(8)))
                    .or_default()
                    .push(entry[16..].to_vec());
            }
        }
        let mut pages: Vec<_> = contents.into_iter().collect();
        pages.sort_by_key(|(page, _)| *page);
        for ((inode, page), before) in pages {
            let chosen = choose(before.len() + 1);
            if let (Some(path), Some(bytes)) = (files.get(&inode), before.get(chosen)) {
                let file = File::options().write(true).open(path)?;
                file.write_all_at(bytes, page * PAGE_LEN as u64)?;
                lost += 1;
            }
        }
        Ok(lost)
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
            Bug::Checkpoint => Fault::PanicInCheckpoint,
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

    /// Before what was missed is read.
    pub fn hold_fetch() {
        while plan().is_some_and(|plan| plan.happens(Fault::HoldFetches)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Before a read of a command that may be undone; whether it is not in memory.
    #[inline]
    pub fn misses_read() -> bool {
        plan().is_some_and(|plan| plan.happens(Fault::MissReads))
    }

    /// How many cells a read loads into memory at most.
    #[inline]
    pub fn loaded_cells(cells_max: usize) -> usize {
        plan().and_then(|plan| plan.loaded_cells).unwrap_or(cells_max)
    }

    /// How many members a step of a command works on at most, if commands of few members are to come in steps, too.
    #[inline]
    pub fn step_members() -> Option<usize> {
        plan().and_then(|plan| plan.step_members)
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
            assert_eq!((plan.sync_delay_ms, plan.records_unsynced_log), (7, false));
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
