//! The shards of one storage executor, and what the running command has done to them.

use super::executor_log::{ExecutorLog, TURN_BYTES_MAX};
use super::keyspace::Touched;
use super::lifecycle::{KeyFate, KeyOutcome};
use super::missed_reads::MissedRead;
use super::operations;
use super::pieces::RepliesBegun;
use super::range_cursor::RangeCursor;
use super::redo;
use super::scan_positions::Walked;
use super::shard::{Shard, ShardState};
use super::undeclared::Undeclared;
use crate::error::{CommandError, DatabaseError};
use crate::faults;
use crate::slots::{ShardId, Slot, SlotMemo, shard_of, slots_of};
use crate::storage::encoding::{Record, Type};
use crate::storage::transaction_scope::DatabaseKey;
use std::ops::Range;

/// What may be staged before a command is refused that stages more: with what a frame has beside, it fits one.
const STAGED_BYTES_MAX: usize = TURN_BYTES_MAX - (1 << 20);

const _: () = assert!(
    2 * redo::RECORD_BYTES_MAX <= STAGED_BYTES_MAX,
    "a redo record and one of its parts fit a frame"
);

/// See the module's documentation.
pub struct Shards {
    pub(super) list: Vec<Shard>,
    /// The index in `list` of each shard of the server; `None` for a shard of another executor.
    indexes: Vec<Option<u16>>,
    now_ms: u64,
    pub(super) touched: Touched,
    pub(super) missed: MissedKeys,
    /// What the running command needs beyond the keys that it named, and what is not here or not free.
    pub(super) undeclared: Option<Undeclared>,
    /// Large replies that wait for their clients.
    pub replies_begun: RepliesBegun,
    /// Where what the shards have staged goes; none at a start and in tests.
    log: Option<ExecutorLog>,
    /// The epoch of the newest frame.
    logged_epoch: u64,
    /// How many records that frame has.
    logged_records: usize,
    /// The shards have stopped for good, and nobody was told yet who waits for their writes.
    stopped: Option<TakenBack>,
    /// Whether the shards remember which keys are written.
    tracks_modified: bool,
    is_quiet: bool,
    pub(super) slots: SlotMemo,
}

/// Keys that the running command has looked up and that are not alive.
#[derive(Default)]
pub(super) struct MissedKeys {
    /// Whether anybody asks for them.
    are_tracked: bool,
    keys: Vec<KeyOutcome>,
}

impl MissedKeys {
    #[inline]
    pub(super) fn add(&mut self, database: u8, key: &[u8]) {
        if self.are_tracked {
            self.keys.push((KeyFate::Missed, database, key.to_vec()));
        }
    }
}

/// How a key is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is no such key.
    Absent,
    /// The key's deadline has passed.
    Expired,
    /// The key can be read.
    Alive,
}

impl Shards {
    /// `shard_count` is the server's, `list` the executor's own.
    pub fn new(list: Vec<Shard>, shard_count: u16) -> Shards {
        let mut indexes = vec![None; usize::from(shard_count)];
        for (index, shard) in list.iter().enumerate() {
            let before = indexes[usize::from(shard.id().0)].replace(index as u16);
            assert_eq!(before, None, "an executor has a shard once");
        }
        Shards {
            list,
            indexes,
            now_ms: 0,
            touched: Touched::default(),
            missed: MissedKeys::default(),
            undeclared: None,
            replies_begun: RepliesBegun::default(),
            log: None,
            logged_epoch: 0,
            logged_records: 0,
            stopped: None,
            tracks_modified: false,
            is_quiet: false,
            slots: SlotMemo::default(),
        }
    }

    /// All shards of the executor.
    pub fn list(&self) -> &[Shard] {
        &self.list
    }

    /// All shards of the executor.
    pub fn list_mut(&mut self) -> &mut [Shard] {
        &mut self.list
    }

    pub(super) fn ids(&self) -> Vec<ShardId> {
        self.list.iter().map(Shard::id).collect()
    }

    /// The number of shards of the server.
    pub fn shard_count(&self) -> u16 {
        self.indexes.len() as u16
    }

    /// Whether the executor has all shards of the server.
    pub(super) fn are_all(&self) -> bool {
        self.list.len() == self.indexes.len()
    }

    /// The index of the shard that has a slot.
    ///
    /// # Errors
    /// The shard is another executor's.
    #[inline]
    pub fn index_of(&self, slot: Slot) -> Result<usize, CommandError> {
        let shard = shard_of(slot, self.indexes.len() as u16);
        match self.indexes[usize::from(shard.0)] {
            Some(index) => Ok(usize::from(index)),
            None => Err(CommandError::text(
                "ERR a key of this request lives on another executor",
            )),
        }
    }

    /// The index of a shard of this executor.
    ///
    /// # Panics
    /// If the shard is another executor's.
    pub fn index_of_shard(&self, id: ShardId) -> u16 {
        let index = self.indexes.get(usize::from(id.0)).copied().flatten();
        index.expect("a part is sent to the executor that has its shard")
    }

    /// A shard of this executor: the coordinator has sent it a part.
    ///
    /// # Panics
    /// If the shard is another executor's.
    pub fn shard_mut(&mut self, id: ShardId) -> &mut Shard {
        let index = self.index_of_shard(id);
        &mut self.list[usize::from(index)]
    }

    /// The shard that has a slot.
    ///
    /// # Errors
    /// The shard is another executor's.
    pub fn shard_of(&self, slot: Slot) -> Result<&Shard, CommandError> {
        Ok(&self.list[self.index_of(slot)?])
    }

    /// Runs `work` on the shard `id`, and counts the shard, with the epoch that `work` returns, as used by the running
    /// command.
    ///
    /// # Errors
    /// The shard is another executor's or has stopped, or `work` fails.
    pub fn with_shard<T>(
        &mut self,
        id: ShardId,
        work: impl FnOnce(&mut Shard) -> Result<(T, u64), CommandError>,
    ) -> Result<T, CommandError> {
        let index = self.indexes.get(usize::from(id.0)).copied().flatten().map(usize::from);
        let index = index.ok_or_else(|| CommandError::text("ERR that shard lives on another executor"))?;
        self.list[index].check_readable()?;
        let (result, epoch) = work(&mut self.list[index])?;
        self.touched.add(epoch);
        Ok(result)
    }

    /// [`Shards::with_shard`] for the shard that has a slot; `work` finds out whether the shard has stopped. What
    /// `work` returns may be borrowed from the shard.
    #[inline]
    pub(super) fn with_slot<'a, T>(
        &'a mut self,
        slot: Slot,
        work: impl FnOnce(&'a mut Shard) -> Result<(T, u64), CommandError>,
    ) -> Result<T, CommandError> {
        let index = self.index_of(slot)?;
        let Shards { list, touched, .. } = self;
        let (result, epoch) = work(&mut list[index])?;
        touched.add(epoch);
        Ok(result)
    }

    /// Begins a turn at `now_ms` (Unix milliseconds), the one reading of the clock that its commands see.
    pub fn begin_turn(&mut self, epoch: u64, now_ms: u64) {
        self.now_ms = now_ms;
        for shard in &mut self.list {
            shard.begin_turn(epoch);
        }
    }

    /// The turn's reading of the clock, Unix milliseconds.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Begins a command.
    #[inline]
    pub fn begin_command(&mut self) {
        self.touched = Touched::default();
        self.undeclared = None;
    }

    /// What the command that ended with [`CommandError::Elsewhere`] needs, for which it must run again. What it has
    /// missed is forgotten.
    pub fn take_undeclared(&mut self) -> Option<Undeclared> {
        self.list.iter_mut().for_each(|shard| drop(shard.misses.take()));
        self.undeclared.take()
    }

    /// Sets whether reads miss what is not in memory, because the running command may be undone.
    #[inline]
    pub fn set_may_miss(&mut self, may_miss: bool) {
        self.list.iter_mut().for_each(|shard| shard.misses.may_miss = may_miss);
    }

    /// Whether the running command has missed something, and needs nothing beyond what it may use.
    #[inline]
    pub fn has_missed(&self) -> bool {
        self.list.iter().any(|shard| shard.misses.are_any()) && self.undeclared.is_none()
    }

    /// What the running command has missed, and the index of the shard where it did.
    pub fn take_missed(&mut self) -> Vec<(usize, MissedRead)> {
        let missed = |(index, shard): (usize, &mut Shard)| {
            let reads = shard.misses.take().into_iter();
            reads.map(move |read| (index, read)).collect::<Vec<_>>()
        };
        self.list.iter_mut().enumerate().flat_map(missed).collect()
    }

    /// Does a part of a read that [`Shards::take_missed`] told and that is this executor's to do. Returns whether it is
    /// over, or what others must read from the disk first, if that may be.
    pub fn load_missed(&mut self, (index, read): &(usize, MissedRead), may_miss: bool) -> (bool, Option<MissedRead>) {
        let MissedRead::Members(column, owner, members) = read else {
            unreachable!("others read the disk");
        };
        let shard = &mut self.list[*index];
        shard.misses.may_miss = may_miss;
        // Who runs again is told what is wrong.
        let is_over = shard.load_members(owner, *members, *column).unwrap_or(true);
        shard.misses.may_miss = false;
        let missed = shard.misses.take().into_iter().next();
        (is_over && missed.is_none(), missed)
    }

    /// Those of some keys of which the records are not in memory, as [`Shards::take_missed`] tells them.
    pub fn missed_of(&mut self, keys: &[DatabaseKey]) -> Vec<(usize, MissedRead)> {
        self.set_may_miss(true);
        for (database, key) in keys {
            let slot = Slot::of(key);
            if let Ok(index) = self.index_of(slot) {
                // Whoever needs a key that cannot be read is told why.
                let _ = self.list[index].read_header(*database, slot, key);
            }
        }
        self.set_may_miss(false);
        self.take_missed()
    }

    /// What the command has read and written so far.
    #[inline]
    pub fn touched(&self) -> Touched {
        self.touched
    }

    /// The running command is a part of one that has read and written this before.
    pub fn add_touched(&mut self, before: Touched) {
        self.touched.add(before.epoch);
        self.touched.found += before.found;
        self.touched.missed += before.missed;
    }

    /// The epoch of the newest writes.
    pub fn newest_epoch(&self) -> u64 {
        self.list.iter().map(Shard::newest_epoch).max().unwrap_or(0)
    }

    /// The running command follows everything that was written before, as if it had seen it.
    pub fn follow_all_writes(&mut self) {
        self.touched.add(self.newest_epoch());
    }

    /// The command's writes stand.
    #[inline]
    pub fn keep_command(&mut self) {
        self.list.iter_mut().for_each(Shard::keep_command);
    }

    /// The command failed: its writes are taken back.
    pub fn roll_back_command(&mut self) {
        self.list.iter_mut().for_each(Shard::roll_back_command);
    }

    /// Refuses what the running command has staged, if it and what is staged already get too long for one frame.
    #[inline]
    pub fn check_frame_len(&mut self) -> Result<(), CommandError> {
        if self.staged_bytes() <= STAGED_BYTES_MAX || !self.list.iter().any(Shard::command_staged) {
            return Ok(());
        }
        // The running figures may be too high.
        self.list.iter_mut().for_each(Shard::count_staged_bytes);
        match self.staged_bytes() <= STAGED_BYTES_MAX {
            true => Ok(()),
            false => Err(CommandError::text("ERR the command writes more than 2 GiB")),
        }
    }

    /// At least as many bytes as are staged on all shards.
    pub fn staged_bytes(&self) -> usize {
        self.list.iter().map(Shard::staged_bytes).sum()
    }

    /// The number of keys of a database, those among them that have expired and were not deleted yet.
    pub fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        let mut keys = 0;
        for id in self.ids() {
            // What is not logged yet counts, too.
            keys += self.with_shard(id, |shard| Ok((shard.counts(database).keys, shard.newest_epoch())))?;
        }
        Ok(keys)
    }

    /// The record of a key, dead or alive, without counting it as a look-up of the running command. Of a string in
    /// chunks the record as it is stored.
    fn header(&mut self, (database, key): &DatabaseKey) -> Result<Option<Record<'_>>, CommandError> {
        let slot = Slot::of(key);
        self.with_slot(slot, |shard| shard.read_header(*database, slot, key))
    }

    /// How a key is stored, without counting it as a look-up of the running command.
    pub fn presence(&mut self, key: &DatabaseKey) -> Result<Presence, CommandError> {
        let now_ms = self.now_ms;
        Ok(match self.header(key)? {
            None => Presence::Absent,
            Some(record) if record.is_alive(now_ms) => Presence::Alive,
            Some(_) => Presence::Expired,
        })
    }

    /// The same; a key that cannot be read is as good as none, and whoever reads it is told why. Waits for the disk.
    pub fn presence_or_absent(&mut self, key: &DatabaseKey) -> Presence {
        let may_miss = self.list.first().is_some_and(|shard| shard.misses.may_miss);
        self.set_may_miss(false);
        let presence = self.presence(key).unwrap_or(Presence::Absent);
        self.set_may_miss(may_miss);
        presence
    }

    /// The type of what is under a key, if that is alive and can be read.
    pub fn kind_of(&mut self, key: &DatabaseKey) -> Option<Type> {
        let now_ms = self.now_ms;
        let record = self.header(key).ok().flatten()?;
        record.is_alive(now_ms).then_some(record.kind)
    }

    /// Appends what a transaction that runs elsewhere gets of a key: [`Shard::export`].
    pub fn export(&mut self, (database, key): &DatabaseKey, out: &mut Vec<u8>) -> Result<(), CommandError> {
        self.with_slot(Slot::of(key), |shard| Ok(((), shard.export(*database, key, out)?)))
    }

    /// The name of this hash at which a walk has stopped, if the shard of `slot` remembers it.
    pub fn recall_scan_position(&self, slot: Slot, walked: Walked, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
        let shard = self.shard_of(slot)?;
        Ok(shard.scan_positions.recall(walked, hash).map(<[u8]>::to_vec))
    }

    /// A walk stops at a name.
    pub fn remember_scan_position(
        &mut self,
        slot: Slot,
        walked: Walked,
        hash: u64,
        name: &[u8],
    ) -> Result<(), CommandError> {
        let index = self.index_of(slot)?;
        self.list[index].scan_positions.remember(walked, hash, name);
        Ok(())
    }

    /// Whether the shards remember which keys are written.
    #[inline]
    pub fn tracks_modified(&self) -> bool {
        self.tracks_modified
    }

    /// Sets whether the shards remember which keys are written, because somebody has to be told.
    pub fn track_modified(&mut self, tracks: bool) {
        if tracks != std::mem::replace(&mut self.tracks_modified, tracks) {
            for shard in &mut self.list {
                shard.track_modified(tracks);
                // What was written before concerns nobody who is interested now.
                shard.take_modified();
            }
        }
    }

    /// Sets whether what is written from now on is no change, but for clients that wait: see [`Shard::set_quiet`].
    /// Returns whether it was so.
    #[inline]
    pub fn set_quiet(&mut self, is_quiet: bool) -> bool {
        if is_quiet != self.is_quiet {
            self.list.iter_mut().for_each(|shard| shard.set_quiet(is_quiet));
        }
        std::mem::replace(&mut self.is_quiet, is_quiet)
    }

    /// Sets whether the shards remember, in this turn, what becomes of keys.
    pub fn track_key_fates(&mut self, tracks: bool) {
        let now_ms = tracks.then_some(self.now_ms);
        for shard in &mut self.list {
            shard.lifecycle.track(now_ms);
        }
    }

    /// Sets whether keys that are looked up from now on and are not there are remembered. Returns whether they were.
    #[inline]
    pub fn track_missed(&mut self, tracks: bool) -> bool {
        std::mem::replace(&mut self.missed.are_tracked, tracks)
    }

    /// What has become of keys since the last call, but for writes that were rolled back: the keys that were missed
    /// first, since a command reads before it writes.
    pub fn take_key_outcomes(&mut self) -> Vec<KeyOutcome> {
        let mut outcomes = std::mem::take(&mut self.missed.keys);
        for shard in &mut self.list {
            if !shard.lifecycle.is_empty() {
                outcomes.append(&mut shard.lifecycle.take());
            }
        }
        outcomes
    }

    /// Whether some shard takes no writes now.
    #[inline]
    pub fn any_takes_no_writes(&self) -> bool {
        self.list.iter().any(|shard| shard.can_stage().is_err())
    }

    /// The command that is about to run writes to `keys`. If one of them lies on a shard that takes no writes, no other
    /// takes the command's: what is one, such as an EXEC or a script, is not done in part.
    pub fn deny_writes_in_part(&mut self, keys: &[DatabaseKey]) {
        let mut refusals = keys
            .iter()
            .filter_map(|(_, key)| self.shard_of(Slot::of(key)).ok()?.can_stage().err());
        let denied = refusals.next();
        self.set_denied(denied);
    }

    /// Sets whether the command that is about to run may write although the disk is full.
    pub fn set_frees_space(&mut self, frees_space: bool) {
        self.list
            .iter_mut()
            .for_each(|shard| shard.set_frees_space(frees_space));
    }

    /// The next command may write wherever it can.
    pub fn allow_writes(&mut self) {
        self.set_denied(None);
    }

    fn set_denied(&mut self, denied: Option<CommandError>) {
        for shard in &mut self.list {
            shard.set_denied(denied.clone());
        }
    }
}

fn are_read_only(shards: &[Shard]) -> bool {
    shards.iter().all(|shard| *shard.state() == ShardState::ReadOnly)
}

/// What failed writes took back, for the executor to answer.
#[derive(Debug)]
pub struct TakenBack {
    /// The first epoch of which something was staged.
    pub from_epoch: u64,
    /// The answer to the clients whose commands staged or saw what was taken back.
    pub error: CommandError,
    /// Nobody knows whether a restart will find what was taken back.
    pub may_stand: bool,
}

/// What became of a turn's writes.
#[derive(Debug)]
pub enum Logged {
    /// Nothing was staged.
    Nothing,
    /// They are in the log, in a frame of their own.
    Frame {
        /// The epoch of the frame before.
        before: u64,
    },
    /// The log is full, or memory is, of what waits for it: they wait for the next turn.
    Stalled,
    /// They were taken back, and the shards have stopped taking writes.
    TakenBack(TakenBack),
}

/// The log of the shards' executor.
impl Shards {
    /// Sets where what the shards stage goes.
    pub fn set_log(&mut self, log: ExecutorLog) {
        self.log = Some(log);
    }

    /// The log.
    pub fn log(&self) -> Option<&ExecutorLog> {
        self.log.as_ref()
    }

    /// The log.
    pub fn log_mut(&mut self) -> Option<&mut ExecutorLog> {
        self.log.as_mut()
    }

    /// Whether nothing is written but what frees space.
    pub fn is_disk_full(&self) -> bool {
        are_read_only(&self.list)
    }

    /// Whether anything was staged that is not logged.
    pub fn has_staged(&self) -> bool {
        self.list.iter().any(Shard::has_staged)
    }

    /// The epoch of the newest frame.
    pub fn logged_epoch(&self) -> u64 {
        self.logged_epoch
    }

    /// The first epoch of which something is staged, if anything is.
    fn staged_epoch(&self) -> Option<u64> {
        self.list.iter().filter_map(Shard::staged_epoch).min()
    }

    /// The last epoch whose writes are logged and, as far as is asked by `durable_epoch`, on disk. `u64::MAX` when
    /// nothing is outstanding.
    pub fn released_epoch(&self, durable_epoch: Option<u64>) -> u64 {
        match durable_epoch {
            Some(durable) if durable < self.logged_epoch => durable,
            _ => self.staged_epoch().map_or(u64::MAX, |staged| staged - 1),
        }
    }

    /// Logs what the shards have staged as one frame of `epoch`: what a command has written to several of them is
    /// whole on disk, or is not there.
    pub fn log_turn(&mut self, epoch: u64) -> Logged {
        if let Some(stopped) = self.stopped.take() {
            return Logged::TakenBack(stopped);
        }
        let Some(from_epoch) = self.staged_epoch() else {
            return Logged::Nothing;
        };
        let unclean_bytes = self.unclean_bytes();
        let Some(log) = &mut self.log else {
            unreachable!("an executor has a log");
        };
        // Then nothing is staged but what frees space: without it neither the log nor memory may ever be less full.
        let is_disk_full = are_read_only(&self.list);
        // What is staged is among it, and waits for nothing but this: memory has no less when all else is in RocksDB.
        let is_memory_full = unclean_bytes > log.unclean_bytes_max() && log.unclean_bytes() > 0;
        if !is_disk_full && (log.is_full() || is_memory_full) {
            // The checkpointer must get all there is.
            log.seal();
            self.list.iter_mut().for_each(Shard::stall);
            return Logged::Stalled;
        }
        assert!(log.buffer().is_empty(), "a frame is of one turn");
        for shard in &mut self.list {
            if faults::splits_frames() && shard.has_staged() && !log.buffer().is_empty() {
                // What fails here fails for all of them below, too.
                let _ = log.append(epoch);
            }
            shard.append_to(log.buffer());
        }
        let appended = match log.buffer().len() <= TURN_BYTES_MAX {
            true if is_disk_full => log.append_to_reserve(epoch),
            true => log.append(epoch),
            // Parts of transactions, or of many turns during a stall: they must come in smaller pieces.
            false => Err(DatabaseError::DiskFull("a frame cannot have so much".to_owned())),
        };
        match appended {
            Ok(segment) => {
                self.logged_records = self.list.iter().map(|shard| shard.records().staged_len()).sum();
                for shard in &mut self.list {
                    shard.logged(segment);
                    shard.end_stall();
                }
                assert!(epoch > self.logged_epoch, "a turn has one frame");
                let before = std::mem::replace(&mut self.logged_epoch, epoch);
                if faults::seals_log() {
                    log.seal();
                }
                Logged::Frame { before }
            }
            Err(error) => {
                log.buffer().clear();
                self.list.iter_mut().for_each(|shard| shard.stop(&error));
                Logged::TakenBack(TakenBack {
                    from_epoch,
                    may_stand: matches!(error, DatabaseError::Failed(_)),
                    error: error.into(),
                })
            }
        }
    }

    /// The log has failed, or RocksDB has: the shards stop for good. What was logged after `durable_epoch` may be lost,
    /// and no reply waits for it any more: the next [`Shards::log_turn`] says so.
    pub fn stop_at(&mut self, durable_epoch: u64, error: &DatabaseError) {
        self.list.iter_mut().for_each(|shard| shard.stop(error));
        self.logged_epoch = self.logged_epoch.min(durable_epoch);
        self.stopped = Some(TakenBack {
            from_epoch: durable_epoch + 1,
            error: error.clone().into(),
            may_stand: true,
        });
    }

    /// How many records the newest frame has.
    pub fn logged_records(&self) -> usize {
        self.logged_records
    }

    /// RocksDB has all segments of the log up to `watermark`: works off up to `records_max` records that need not
    /// stay in memory for that any more. Returns whether more are left.
    pub fn work_off(&mut self, watermark: u32, mut records_max: usize) -> bool {
        let mut has_work = false;
        for shard in &mut self.list {
            records_max -= shard.work_off(watermark, records_max);
            has_work |= shard.residents().has_work();
        }
        has_work || records_max == 0
    }

    /// Whether keys of any shard were deleted since the last call.
    pub fn take_deletes_keys(&mut self) -> bool {
        let of_shards = self.list.iter_mut().map(Shard::take_deletes_keys);
        of_shards.fold(false, |any, one| any | one)
    }

    /// Whether room was needed since the last call for collections in memory, and RocksDB has to make it.
    pub fn take_needs_clean(&mut self) -> bool {
        let of_shards = self.list.iter_mut().map(Shard::take_needs_clean);
        of_shards.fold(false, |any, needs| any | needs)
    }

    /// Bytes in memory that RocksDB does not have yet.
    pub fn unclean_bytes(&self) -> usize {
        self.list.iter().map(Shard::unclean_bytes).sum()
    }

    /// There is little room left on the disk of the shard at `shard_index` (`true`) or enough again.
    pub fn set_disk_full(&mut self, shard_index: usize, is_full: bool) {
        let is_over = !is_full && *self.list[shard_index].state() == ShardState::ReadOnly;
        if is_over && !self.has_room(shard_index) {
            return;
        }
        self.list[shard_index].set_disk_full(is_full);
    }

    /// Whether the log takes a frame, which says nothing.
    fn has_room(&mut self, shard_index: usize) -> bool {
        let (id, epoch) = (self.list[shard_index].id(), self.logged_epoch);
        let Some(log) = &mut self.log else { return true };
        operations::begin_shard(log.buffer(), id);
        let has_room = log.append(epoch).is_ok();
        log.buffer().clear();
        has_room
    }

    /// All records of a database that lie in `slots` and on a shard, to be read little by little, if the shard has any
    /// of the slots: [`Shard::key_cursor`].
    pub fn key_cursors(
        &mut self,
        id: ShardId,
        database: u8,
        slots: Range<u16>,
    ) -> Result<Vec<RangeCursor>, CommandError> {
        let own = slots_of(id, self.shard_count());
        let slots = own.start.max(slots.start)..own.end.min(slots.end);
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        self.with_shard(id, |shard| shard.key_cursors(database, slots))
    }
}
