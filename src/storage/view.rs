//! What a handler sees of the data: the shards of its executor, or keys gathered from several executors.
//!
//! A handler reads and stages through [`View`] and does not know which of the two it has, so a command on several keys
//! is written once.

use super::database::{Column, Cursor, Direction};
use super::encoding::{Record, Type};
use super::gathered::{Gathered, VisitKey};
use super::lifecycle::{KeyFate, KeyOutcome};
use super::pieces::{Extent, Pieces, RepliesBegun, WriteEntry};
use super::redo::{self, Part, Write};
use super::sampling::Sample;
use super::scan_positions::Walked;
pub use super::shard::Owner;
use super::shard::Shard;
use super::undeclared::Undeclared;
use crate::error::CommandError;
use crate::faults::{self, Point};
use crate::slots::{ShardId, Slot, shard_of, slots_of};
use crate::storage::transaction_scope::{DatabaseKey, Mode, TransactionId, next_transaction_id};
use std::ops::{ControlFlow, Deref, DerefMut};

/// In [`Touched::shard`]: the command touched more than one.
pub const SEVERAL_SHARDS: u16 = u16::MAX;

/// The shards of one storage executor.
pub struct Shards {
    list: Vec<Shard>,
    /// The place in `list` by shard number; `None` for a shard of another executor.
    places: Vec<Option<u16>>,
    now_ms: u64,
    touched: Touched,
    /// Whether look-ups that find nothing are noted, and those of the running command.
    notes_missed: bool,
    missed: Vec<KeyOutcome>,
    /// What the running command needs beyond the keys that it named, and what is not here or not free.
    undeclared: Option<Undeclared>,
    /// Large replies that wait for their clients.
    pub replies_begun: RepliesBegun,
    /// Commits of several shards as one whose redo records are still there.
    unfinished: Vec<Unfinished>,
    /// The number of the next such commit, if what is staged is to be one.
    link_id: Option<TransactionId>,
    /// The place of the shard that has its redo record staged, if one has: then no other gets it.
    link_primary: Option<usize>,
    /// Whether the shards note which keys are written.
    notes_modified: bool,
    is_quiet: bool,
    /// Whether what is committed as one must survive a loss of power.
    pub links_survive_power_loss: bool,
}

/// A commit of several of the executor's shards as one. Its redo record may go when all have committed.
struct Unfinished {
    id: TransactionId,
    /// The places of the shards that have the record.
    primaries: Vec<usize>,
    /// The places of those that have noted that they have applied their part.
    noted: Vec<usize>,
    /// The turn of which their commits must be; then that in which the record is deleted.
    epoch: u64,
    is_deleted: bool,
}

/// How a key is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Not at all.
    Absent,
    /// Its deadline has passed.
    Expired,
    /// It can be read.
    Alive,
}

/// What the running command has read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The place of the only shard, or [`SEVERAL_SHARDS`]; `None` if it touched none.
    pub shard: Option<u16>,
    /// The newest turn whose writes it made or saw.
    pub epoch: u64,
    /// Look-ups that found a key that is alive.
    pub found: u32,
    /// Look-ups that did not.
    pub missed: u32,
}

impl Touched {
    #[inline]
    fn note(&mut self, place: usize, epoch: u64) {
        let place = place as u16;
        self.shard = match self.shard {
            None => Some(place),
            Some(same) if same == place => Some(place),
            Some(_) => Some(SEVERAL_SHARDS),
        };
        self.epoch = self.epoch.max(epoch);
    }
}

impl Shards {
    /// `shard_count` is the server's, `list` the executor's own.
    pub fn new(list: Vec<Shard>, shard_count: u16) -> Shards {
        let mut places = vec![None; usize::from(shard_count)];
        for (place, shard) in list.iter().enumerate() {
            places[usize::from(shard.id().0)] = Some(place as u16);
        }
        Shards {
            list,
            places,
            now_ms: 0,
            touched: Touched::default(),
            notes_missed: false,
            missed: Vec::new(),
            undeclared: None,
            replies_begun: RepliesBegun::default(),
            unfinished: Vec::new(),
            link_id: None,
            link_primary: None,
            notes_modified: false,
            is_quiet: false,
            links_survive_power_loss: false,
        }
    }

    /// Whether the shards note which keys are written.
    #[inline]
    pub fn notes_modified(&self) -> bool {
        self.notes_modified
    }

    /// Whether the shards note which keys are written, because somebody has to be told.
    pub fn set_notes_modified(&mut self, notes: bool) {
        if notes != std::mem::replace(&mut self.notes_modified, notes) {
            for shard in &mut self.list {
                shard.set_notes_modified(notes);
                // What was noted before concerns nobody who is interested now.
                shard.take_modified();
            }
        }
    }

    /// Whether what is written from now on is no change, but for those who wait: see [`Shard::set_quiet`]. Returns
    /// whether it was so.
    #[inline]
    pub fn set_quiet(&mut self, is_quiet: bool) -> bool {
        if is_quiet != self.is_quiet {
            self.list.iter_mut().for_each(|shard| shard.set_quiet(is_quiet));
        }
        std::mem::replace(&mut self.is_quiet, is_quiet)
    }

    /// All shards of the executor.
    pub fn list(&self) -> &[Shard] {
        &self.list
    }

    /// All shards of the executor.
    pub fn list_mut(&mut self) -> &mut [Shard] {
        &mut self.list
    }

    /// Deletes all keys of a database, or of all, on the executor's shards.
    pub fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError> {
        for id in self.ids() {
            self.with_shard(id, |shard| Ok(((), shard.flush(database)?)))?;
        }
        Ok(())
    }

    /// Exchanges two databases on the executor's shards.
    fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError> {
        for id in self.ids() {
            self.with_shard(id, |shard| {
                let mut map = shard.database_map();
                map.physical.swap(usize::from(first), usize::from(second));
                map.generation += 1;
                Ok(((), shard.set_database_map(map)?))
            })?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<ShardId> {
        self.list.iter().map(Shard::id).collect()
    }

    /// The number of keys of a database, those among them that have expired and were not deleted yet.
    pub fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        let mut keys = 0;
        for id in self.ids() {
            // It counts what is not committed yet.
            keys += self.with_shard(id, |shard| Ok((shard.counts(database).keys, shard.newest_epoch())))?;
        }
        Ok(keys)
    }

    /// Calls `visit` with the keys of a database that are alive and lie in `slots`, and their types, until it breaks.
    fn visit_keys(
        &mut self,
        database: u8,
        slots: std::ops::Range<u16>,
        visit: &mut VisitKey<'_>,
    ) -> Result<(), CommandError> {
        let (shard_count, now_ms) = (self.shard_count(), self.now_ms);
        let mut flow = ControlFlow::Continue(());
        for id in self.ids() {
            let own = slots_of(id, shard_count);
            let part = own.start.max(slots.start)..own.end.min(slots.end);
            if part.is_empty() || flow.is_break() {
                continue;
            }
            self.with_shard(id, |shard| {
                let epoch = shard.scan(database, part, None, |_, key, record| {
                    if record.is_alive(now_ms) {
                        flow = visit(key, record.kind);
                    }
                    flow
                })?;
                Ok(((), epoch))
            })?;
        }
        Ok(())
    }

    /// How a key is stored, without counting it as a use of the running command.
    pub fn presence(&mut self, (database, key): &DatabaseKey) -> Result<Presence, CommandError> {
        let slot = Slot::of(key);
        let place = self.place(slot)?;
        let now_ms = self.now_ms;
        let (record, epoch) = self.list[place].read_header(*database, slot, key)?;
        let presence = match record {
            None => Presence::Absent,
            Some(record) if record.is_alive(now_ms) => Presence::Alive,
            Some(_) => Presence::Expired,
        };
        self.touched.note(place, epoch);
        Ok(presence)
    }

    /// The same; a key that cannot be read is as good as none, and whoever asks for it is told why.
    pub fn presence_or_absent(&mut self, key: &DatabaseKey) -> Presence {
        self.presence(key).unwrap_or(Presence::Absent)
    }

    /// Takes back what a part of the running command has counted as look-ups since `before`.
    pub fn uncount_look_ups(&mut self, before: Touched) {
        (self.touched.found, self.touched.missed) = (before.found, before.missed);
    }

    /// The number of shards of the server.
    pub fn shard_count(&self) -> u16 {
        self.places.len() as u16
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

    /// What the command that ended with [`CommandError::Elsewhere`] needs, for which it must run again.
    pub fn take_undeclared(&mut self) -> Option<Undeclared> {
        self.undeclared.take()
    }

    /// The running command gets to keys that it has perhaps not named.
    fn need_keys(&mut self, beside: &dyn Beside, keys: &[DatabaseKey], mode: Mode) -> Result<(), CommandError> {
        let may_use = |key: &DatabaseKey| match self.place(Slot::of(&key.1)) {
            Ok(_) => !beside.is_locked(key, mode),
            Err(_) => false,
        };
        if keys.iter().all(may_use) {
            return Ok(());
        }
        self.undeclared = Some(Undeclared::Keys(keys.to_vec()));
        Err(CommandError::Elsewhere)
    }

    /// The running command gets to something that concerns all keys.
    fn need_everything(&mut self, beside: &dyn Beside, mode: Mode) -> Result<(), CommandError> {
        let is_free = || !beside.is_any_locked(mode);
        if self.list.len() == self.places.len() && is_free() {
            return Ok(());
        }
        self.undeclared = Some(Undeclared::Everything);
        Err(CommandError::Elsewhere)
    }

    /// Whether it is noted in this turn what becomes of keys.
    pub fn watch_keys(&mut self, watch: bool) {
        let now_ms = watch.then_some(self.now_ms);
        for shard in &mut self.list {
            shard.lifecycle.watch(now_ms);
        }
    }

    /// Whether keys that are looked up from now on and are not there are noted; returns whether they were.
    #[inline]
    pub fn note_missed(&mut self, notes: bool) -> bool {
        std::mem::replace(&mut self.notes_missed, notes)
    }

    /// What has become of keys since the last call, what commands wrote that were rolled back left out: those that were
    /// missed first, since a command reads before it writes.
    pub fn take_key_outcomes(&mut self) -> Vec<KeyOutcome> {
        let mut notes = std::mem::take(&mut self.missed);
        for shard in &mut self.list {
            if !shard.lifecycle.is_empty() {
                notes.append(&mut shard.lifecycle.take());
            }
        }
        notes
    }

    /// What the command has read and written so far.
    #[inline]
    pub fn touched(&self) -> Touched {
        self.touched
    }

    /// The command's writes stand.
    #[inline]
    pub fn keep_command(&mut self) {
        match self.touched.shard {
            Some(SEVERAL_SHARDS) => {
                if self.list.iter().any(Shard::command_staged) {
                    self.link();
                }
                self.list.iter_mut().for_each(Shard::keep_command);
            }
            Some(place) => self.list[usize::from(place)].keep_command(),
            None => {}
        }
    }

    /// Refuses what the running command has staged, if it and what is staged already get too long to be one.
    #[inline]
    pub fn check_linked_len(&mut self) -> Result<(), CommandError> {
        match self.touched.shard {
            Some(SEVERAL_SHARDS) => self.check_len_of_all(redo::RECORD_BYTES_MAX),
            _ => Ok(()),
        }
    }

    fn check_len_of_all(&mut self, bytes_max: usize) -> Result<(), CommandError> {
        if self.staged_bytes() <= bytes_max || !self.list.iter().any(Shard::command_staged) {
            return Ok(());
        }
        // What is kept count of may be too much.
        self.list.iter_mut().for_each(Shard::count_staged_bytes);
        match self.staged_bytes() <= bytes_max {
            true => Ok(()),
            false => Err(redo::record_too_long()),
        }
    }

    /// At least as many bytes as are staged on all shards.
    pub fn staged_bytes(&self) -> usize {
        self.list.iter().map(|shard| shard.records().staged_bytes()).sum()
    }

    /// A command has written by what it has seen on several shards, of which some may have staged what it saw: all that
    /// is staged is one from now on, and no shard commits by itself.
    fn link(&mut self) {
        self.link_id.get_or_insert_with(next_transaction_id);
        self.list.iter_mut().for_each(|shard| shard.set_linked(true));
    }

    /// Whether what the shards have staged must be committed as one.
    pub fn is_linked(&self) -> bool {
        self.link_id.is_some()
    }

    /// Commits what all shards have staged as one, if that can be done now: the first shard commits a redo record of it
    /// with its own part, then the others theirs.
    ///
    /// Each shard's log gets to the disk for itself. So where a loss of power must not tear it, each shard commits the
    /// record: then whichever log has got there has all of it. This is for scripts that write keys which they have not
    /// declared, and few others; what names its keys goes the longer way of a transaction.
    pub fn commit_linked(&mut self) {
        // What is under way belongs to what was seen, and is not in the record.
        if self.list.iter().any(Shard::is_committing) {
            return;
        }
        let Some(id) = self.link_id.take() else { return };
        let link_primary = self.link_primary.take();
        let broken = self.list.iter().find_map(Shard::broken_link).cloned();
        self.list.iter_mut().for_each(|shard| shard.set_linked(false));
        if let Some(error) = broken {
            return self.list.iter_mut().for_each(|shard| shard.abandon(error.clone()));
        }
        let places: Vec<usize> = (0..self.list.len())
            .filter(|place| self.list[*place].has_staged())
            .collect();
        let Some(primary) = link_primary.or_else(|| places.first().copied()) else {
            return;
        };
        let others: Vec<usize> = places.iter().copied().filter(|place| *place != primary).collect();
        let primaries = match self.links_survive_power_loss {
            true => &places[..],
            false => std::slice::from_ref(&primary),
        };
        // Whoever has the record has its part. Where there are several, one may be gone while another is not.
        let noted = match self.links_survive_power_loss {
            true => &places[..],
            false => &others[..],
        };
        if !others.is_empty()
            && let Err(error) = self.stage_link(id, &places, primaries, noted)
        {
            return places.iter().for_each(|place| self.list[*place].abandon(error.clone()));
        }
        match self.list[primary].commit() {
            Ok(()) => {}
            // Again with the next turn, under the same number. Where the primary waits for room with what an earlier
            // commit has decided, this waits, too.
            Err(_) if self.list[primary].has_staged() => {
                (self.link_id, self.link_primary) = (Some(id), Some(primary));
                return self.list.iter_mut().for_each(|shard| shard.set_linked(true));
            }
            Err(error) => {
                return others
                    .iter()
                    .for_each(|place| self.list[*place].abandon(error.clone().into()));
            }
        }
        let epoch = self.list[primary].committed_epoch();
        for place in &others {
            // It is decided: what stalls or finds the disk full is committed when it can be, and what fails for good is
            // done by the restart that the shard then needs.
            self.list[*place].set_decided();
            let _ = self.list[*place].commit();
        }
        if !others.is_empty() {
            self.unfinished.push(Unfinished {
                id,
                primaries: primaries.to_vec(),
                noted: noted.to_vec(),
                epoch,
                is_deleted: false,
            });
        }
    }

    /// Stages the redo record of what the shards at `places` have staged, and that they have applied their parts.
    fn stage_link(
        &mut self,
        id: TransactionId,
        places: &[usize],
        primaries: &[usize],
        noted: &[usize],
    ) -> Result<(), CommandError> {
        let part_of = |place: &usize| {
            let mut writes = self.list[*place].staged_writes();
            // An earlier try has staged its own.
            writes.retain(|write| !matches!(write, Write::Redo { id: other, .. } if *other == id));
            Part {
                shard: self.list[*place].id(),
                writes,
            }
        };
        let mut record = Vec::new();
        redo::encode_parts(&mut record, &places.iter().map(part_of).collect::<Vec<_>>());
        for place in primaries {
            self.list[*place].note_redo(id, record.clone());
        }
        faults::reached(Point::RedoStaged);
        for place in noted {
            self.list[*place].note_following(id)?;
        }
        Ok(())
    }

    /// Before a cursor is opened, which reads what is committed: commits what is linked, since no shard may do it
    /// alone.
    fn commit_link(&mut self) {
        if self.is_linked() {
            for shard in &mut self.list {
                // What fails here shows as a broken link.
                let _ = shard.settle();
            }
            self.commit_linked();
        }
    }

    /// All records of a database on a shard, to be read little by little: [`Shard::key_cursor`].
    pub fn key_cursor(&mut self, id: ShardId, database: u8) -> Result<Cursor, CommandError> {
        self.commit_link();
        self.with_shard(id, |shard| shard.key_cursor(database))
    }

    /// The step of a transaction is done, and its writes stand: its redo record is the coordinator's affair.
    pub fn keep_step(&mut self) {
        self.list.iter_mut().for_each(Shard::keep_command);
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
        let place = self.place(slot)?;
        self.list[place].scan_positions.remember(walked, hash, name);
        Ok(())
    }

    /// The shard that has a slot.
    pub fn shard_of(&self, slot: Slot) -> Result<&Shard, CommandError> {
        Ok(&self.list[self.place(slot)?])
    }

    /// Appends what a transaction that runs elsewhere gets of a key: [`Shard::export`].
    pub fn export(&mut self, (database, key): &(u8, Vec<u8>), out: &mut Vec<u8>) -> Result<(), CommandError> {
        let place = self.place(Slot::of(key))?;
        let epoch = self.list[place].export(*database, key, out)?;
        self.touched.note(place, epoch);
        Ok(())
    }

    /// Deletes the redo records of commits of which all parts are done: by place, everything up to the turn that `done`
    /// says.
    pub fn finish_commands(&mut self, done: impl Fn(usize, &Shard) -> u64) {
        let Shards { list, unfinished, .. } = self;
        unfinished.retain_mut(|command| {
            let has_committed = |place: &usize| done(*place, &list[*place]) >= command.epoch;
            if !command.is_deleted {
                if command.primaries.iter().chain(&command.noted).all(has_committed) {
                    faults::reached(Point::BeforeForget);
                    let deleted: Result<Vec<u64>, CommandError> = (command.primaries.iter())
                        .map(|primary| list[*primary].delete_redo(command.id))
                        .collect();
                    // One that cannot be deleted now is found again by the next call, or by the next start.
                    command
                        .primaries
                        .iter()
                        .for_each(|primary| list[*primary].keep_command());
                    if let Ok(epochs) = deleted {
                        command.epoch = epochs.into_iter().max().unwrap_or(command.epoch);
                        command.is_deleted = true;
                        faults::reached(Point::AfterForget);
                    }
                }
                return true;
            }
            let is_gone = command.primaries.iter().all(has_committed);
            if is_gone {
                // A full disk may have taken the deletion back: then the record is there, and needs the notes.
                let has_record = |primary: &usize| !matches!(list[*primary].has_redo(command.id), Ok((false, _)));
                if command.primaries.iter().any(has_record) {
                    command.is_deleted = false;
                    return true;
                }
                command
                    .noted
                    .iter()
                    .for_each(|place| list[*place].forget_applied(command.id));
            }
            !is_gone
        });
    }

    /// What kind of thing is under a key, if it is there and can be read.
    pub fn kind_of(&mut self, (database, key): &DatabaseKey) -> Option<Type> {
        let found = self.look_up((*database, key), |shard, slot| shard.read_header(*database, slot, key));
        found.ok().flatten().map(|record| record.kind)
    }

    /// The command failed: its writes never were.
    pub fn roll_back_command(&mut self) {
        self.list.iter_mut().for_each(Shard::roll_back_command);
    }

    #[inline]
    fn place(&self, slot: Slot) -> Result<usize, CommandError> {
        let shard = shard_of(slot, self.places.len() as u16);
        match self.places[usize::from(shard.0)] {
            Some(place) => Ok(usize::from(place)),
            None => Err(CommandError::text(
                "ERR a key of this request lives on another executor",
            )),
        }
    }

    /// Reads a key's record with `read` from its shard, and notes whether it is alive.
    #[inline]
    fn look_up<'a>(
        &'a mut self,
        (database, key): (u8, &[u8]),
        read: impl FnOnce(&'a mut Shard, Slot) -> Result<(Option<Record<'a>>, u64), CommandError>,
    ) -> Result<Option<Record<'a>>, CommandError> {
        let slot = Slot::of(key);
        let place = self.place(slot)?;
        let now_ms = self.now_ms;
        // The turn is noted before the record is lent out; on a miss it is the same look-up's.
        let Shards {
            list,
            touched,
            missed,
            notes_missed,
            ..
        } = self;
        let (record, epoch) = read(&mut list[place], slot)?;
        touched.note(place, epoch);
        let record = record.filter(|record| record.is_alive(now_ms));
        match record {
            Some(_) => touched.found += 1,
            None => {
                touched.missed += 1;
                if *notes_missed {
                    missed.push((KeyFate::Missed, database, key.to_vec()));
                }
            }
        }
        Ok(record)
    }

    /// Whether some shard takes no writes now.
    #[inline]
    pub fn any_takes_no_writes(&self) -> bool {
        self.list.iter().any(|shard| shard.can_stage().is_err())
    }

    /// The command that is about to run writes to keys at `places`. If one of them lies on a shard that takes no
    /// writes, no other takes the command's: what is one, such as an EXEC or a script, is not done in part.
    pub fn deny_writes_in_part(&mut self, places: &[DatabaseKey]) {
        let mut refusals = places
            .iter()
            .filter_map(|(_, key)| self.shard_of(Slot::of(key)).ok()?.can_stage().err());
        let denied = refusals.next();
        self.set_denied(denied);
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

    /// A shard of this executor: the coordinator has sent it a part.
    pub fn shard_mut(&mut self, id: ShardId) -> &mut Shard {
        let place = self.place_of(id);
        &mut self.list[usize::from(place)]
    }

    /// The place of a shard of this executor.
    pub fn place_of(&self, id: ShardId) -> u16 {
        let place = self.places.get(usize::from(id.0)).copied().flatten();
        place.expect("a part is sent to the executor that has its shard")
    }

    /// Runs `work` on the shard `id`, if this executor has it, and notes the turn that it returns.
    pub fn with_shard<T>(
        &mut self,
        id: ShardId,
        work: impl FnOnce(&mut Shard) -> Result<(T, u64), CommandError>,
    ) -> Result<T, CommandError> {
        let place = self.places.get(usize::from(id.0)).copied().flatten().map(usize::from);
        let place = place.ok_or_else(|| CommandError::text("ERR that shard lives on another executor"))?;
        self.list[place].check_readable()?;
        let (result, epoch) = work(&mut self.list[place])?;
        self.touched.note(place, epoch);
        Ok(result)
    }
}

/// What an executor keeps beside its shards, as far as handlers have to do with it.
pub trait Beside {
    /// All keys of a database, or of all, are about to be deleted.
    fn before_flush(&mut self, shards: &mut Shards, database: Option<u8>);

    /// Two databases are about to be exchanged.
    fn before_swap(&mut self, shards: &mut Shards, first: u8, second: u8);

    /// A client watches a key, which is stored as `presence` says.
    fn watch(&mut self, client_id: u64, key: DatabaseKey, presence: Presence);

    /// Whether a key that a client watches was modified, or has expired, since it began to.
    fn is_dirty(&mut self, shards: &mut Shards, client_id: u64) -> bool;

    /// Whether a transaction over several executors has locked a key in a way that shuts `mode` out.
    fn is_locked(&self, key: &DatabaseKey, mode: Mode) -> bool;

    /// The same of any key, those that are not there included.
    fn is_any_locked(&self, mode: Mode) -> bool;
}

/// Nothing, for shards that are used without an executor.
pub struct NothingBeside;

impl Beside for NothingBeside {
    fn before_flush(&mut self, _: &mut Shards, _: Option<u8>) {}

    fn before_swap(&mut self, _: &mut Shards, _: u8, _: u8) {}

    fn watch(&mut self, _: u64, _: DatabaseKey, _: Presence) {}

    fn is_dirty(&mut self, _: &mut Shards, _: u64) -> bool {
        false
    }

    fn is_locked(&self, _: &DatabaseKey, _: Mode) -> bool {
        false
    }

    fn is_any_locked(&self, _: Mode) -> bool {
        false
    }
}

/// The shards of the executor that runs a handler.
pub struct LocalShards<'a> {
    /// The data.
    pub shards: &'a mut Shards,
    /// What the executor keeps beside it.
    pub beside: &'a mut dyn Beside,
}

impl Deref for LocalShards<'_> {
    type Target = Shards;

    #[inline]
    fn deref(&self) -> &Shards {
        self.shards
    }
}

impl DerefMut for LocalShards<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Shards {
        self.shards
    }
}

/// What a handler sees of the data.
pub enum View<'a> {
    /// All keys live on the executor that runs the handler.
    Local(LocalShards<'a>),
    /// Keys of several executors; the handler runs on a network executor.
    Gathered(&'a mut Gathered),
}

impl View<'_> {
    /// A part of the running command begins, which may fail and leave what was staged before.
    pub fn begin_inner(&mut self) {
        match self {
            View::Local(shards) => shards.list.iter_mut().for_each(Shard::begin_inner),
            View::Gathered(gathered) => gathered.begin_inner(),
        }
    }

    /// It is over, and its writes stand (`kept`) or never were.
    pub fn end_inner(&mut self, kept: bool) {
        match self {
            View::Local(shards) => shards.list.iter_mut().for_each(|shard| shard.end_inner(kept)),
            View::Gathered(gathered) => gathered.end_inner(kept),
        }
    }

    /// What has become of keys since the last call.
    pub fn take_key_outcomes(&mut self) -> Vec<KeyOutcome> {
        match self {
            View::Local(shards) => shards.take_key_outcomes(),
            View::Gathered(_) => Vec::new(),
        }
    }

    /// Whether keys that are looked up from now on and are not there are noted; returns whether they were.
    pub fn note_missed(&mut self, notes: bool) -> bool {
        match self {
            View::Local(shards) => shards.note_missed(notes),
            View::Gathered(_) => false,
        }
    }

    /// Whether somebody has to be told here what is written.
    #[inline]
    pub fn notes_modified(&self) -> bool {
        match self {
            View::Local(shards) => shards.notes_modified,
            View::Gathered(_) => false,
        }
    }

    /// Whether what is written from now on is no change, but for those who wait; returns whether it was so. Where
    /// several executors have a part in a command, all that it writes is a change.
    pub fn set_quiet(&mut self, is_quiet: bool) -> bool {
        match self {
            View::Local(shards) => shards.set_quiet(is_quiet),
            View::Gathered(_) => false,
        }
    }

    /// The same view for a while, for a handler that another one runs.
    pub fn reborrow(&mut self) -> View<'_> {
        match self {
            View::Local(local) => View::Local(LocalShards {
                shards: local.shards,
                beside: &mut *local.beside,
            }),
            View::Gathered(gathered) => View::Gathered(gathered),
        }
    }

    /// The record of a key that is alive, `None` if there is none. A string has its bytes in it, however it is stored.
    #[inline]
    pub fn read(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        match self {
            View::Local(shards) => shards.look_up((database, key), |shard, slot| shard.read(database, slot, key)),
            View::Gathered(gathered) => gathered.read(database, key),
        }
    }

    /// The same, but of a string that lies in chunks the record as it is stored: for those who do not need its bytes,
    /// or only some of them.
    pub fn read_header(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        match self {
            View::Local(shards) => {
                shards.look_up((database, key), |shard, slot| shard.read_header(database, slot, key))
            }
            View::Gathered(gathered) => gathered.read_header(database, key),
        }
    }

    /// Calls `visit` with the stored bytes of a part of a string that lies in chunks, and where in the part they begin,
    /// in order, until it breaks; what is not stored is zeros.
    pub fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: std::ops::Range<usize>,
        visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => return gathered.visit_chunks(owner, part, visit),
        };
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].visit_chunks((owner, slot), part, visit)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// Stages a record.
    #[inline]
    pub fn write(&mut self, database: u8, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        self.write_stored(database, key, Some(record.encode()))
    }

    /// Stages the deletion of a key, dead or alive.
    pub fn delete(&mut self, database: u8, key: &[u8]) -> Result<(), CommandError> {
        self.write_stored(database, key, None)
    }

    /// Stages a record in its stored form, `None` for a deletion.
    #[inline]
    pub fn write_stored(&mut self, database: u8, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        match self {
            View::Local(shards) => {
                let slot = Slot::of(key);
                let place = shards.place(slot)?;
                let epoch = shards.list[place].write(database, slot, key, value)?;
                shards.touched.note(place, epoch);
                Ok(())
            }
            View::Gathered(gathered) => gathered.write_stored(database, key, value),
        }
    }

    /// A version for a new collection under a key.
    pub fn new_version(&mut self, key: &[u8]) -> Result<u64, CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => return Ok(gathered.new_version()),
        };
        let place = shards.place(Slot::of(key))?;
        let now_ms = shards.now_ms;
        Ok(shards.list[place].new_version(now_ms))
    }

    /// The value of a member of a collection.
    pub fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => return gathered.member(owner, column, member),
        };
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let Shards { list, touched, .. } = &mut *shards.shards;
        let (value, epoch) = list[place].member((owner, slot), column, member)?;
        touched.note(place, epoch);
        Ok(value)
    }

    /// Stages a member of a collection, whether it is there or not.
    pub fn put_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Vec<u8>,
    ) -> Result<(), CommandError> {
        self.write_member(owner, column, member, Some(value))
    }

    /// Stages the deletion of a member of a collection, whether it is there or not.
    pub fn delete_member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<(), CommandError> {
        self.write_member(owner, column, member, None)
    }

    fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => return gathered.write_member(owner, column, member, value),
        };
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].write_member((owner, slot), column, member, value)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// Calls `visit` with the members of a collection from `from` (inclusive) to `to` (exclusive; `None`: to the last)
    /// and their values, in their order or backwards, until it breaks. Earlier writes of the same command are seen.
    pub fn scan_members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: (&[u8], Option<&[u8]>),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => return gathered.scan_members(owner, column, range, direction, &mut visit),
        };
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].scan_members((owner, slot), column, range, direction, &mut visit)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// The same of a sorted set of `members` members, from one key of `score` to before another.
    pub fn scan_order(
        &mut self,
        owner: &Owner,
        members: u64,
        range: (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let shards = match self {
            View::Local(shards) => shards,
            View::Gathered(gathered) => {
                let range = (range.0, Some(range.1));
                return gathered.scan_members(owner, Column::Score, range, direction, &mut visit);
            }
        };
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].scan_order((owner, slot), members, range, direction, &mut visit)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// The rest of a reply that says something of the members of a range, but for the first `skip`; `None` if it must
    /// be written whole, because the shard is stalled and what is staged cannot be written first.
    pub fn pieces(
        &mut self,
        owner: &Owner,
        column: Column,
        range: (&[u8], Option<&[u8]>),
        direction: Direction,
        (skip, extent): (u64, Extent),
        write: WriteEntry,
    ) -> Result<Option<Pieces>, CommandError> {
        let View::Local(shards) = self else { return Ok(None) };
        shards.commit_link();
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        match shards.list[place].member_cursor((owner, slot), column, range, direction) {
            Ok((cursor, prefix_len, epoch)) => {
                shards.touched.note(place, epoch);
                let pieces = Pieces::new(vec![cursor], extent, write);
                Ok(Some(pieces.of_members(prefix_len, skip)))
            }
            Err(CommandError::Stalled) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name of this hash at which a walk has stopped, if the shard of `slot` remembers it. Those of a transaction
    /// over executors are not remembered.
    pub fn recall_scan_position(&self, slot: Slot, walked: Walked, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
        match self {
            View::Local(shards) => shards.recall_scan_position(slot, walked, hash),
            View::Gathered(_) => Ok(None),
        }
    }

    /// A walk stops at a name.
    pub fn remember_scan_position(
        &mut self,
        slot: Slot,
        walked: Walked,
        hash: u64,
        name: &[u8],
    ) -> Result<(), CommandError> {
        match self {
            View::Local(shards) => shards.remember_scan_position(slot, walked, hash, name),
            View::Gathered(_) => Ok(()),
        }
    }

    /// Deletes all keys of a database, or of all.
    pub fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError> {
        match self {
            View::Local(local) => {
                local.beside.before_flush(local.shards, database);
                local.shards.flush(database)
            }
            View::Gathered(gathered) => gathered.flush(database),
        }
    }

    /// Exchanges two databases.
    pub fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError> {
        match self {
            View::Local(local) => {
                local.beside.before_swap(local.shards, first, second);
                local.shards.swap_databases(first, second)
            }
            View::Gathered(gathered) => gathered.swap_databases(first, second),
        }
    }

    /// The number of keys of a database on the executor's shards, or on all if everything is locked.
    pub fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        match self {
            View::Local(shards) => shards.key_count(database),
            View::Gathered(gathered) => gathered.key_count(database),
        }
    }

    /// Calls `visit` with the keys, of the same shards, that are alive and lie in `slots`, and their types, until it
    /// breaks.
    pub fn visit_keys(
        &mut self,
        database: u8,
        slots: std::ops::Range<u16>,
        mut visit: impl FnMut(&[u8], Type) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        match self {
            View::Local(shards) => shards.visit_keys(database, slots, &mut visit),
            View::Gathered(gathered) => gathered.visit_keys(database, slots, &mut visit),
        }
    }

    /// A key of a slot that is alive, picked with `random`, which draws a number below another: [`Shard::random_key`].
    pub fn random_key_of_slot(
        &mut self,
        database: u8,
        slot: Slot,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        match self {
            View::Local(shards) => {
                let (id, now_ms) = (shard_of(slot, shards.shard_count()), shards.now_ms);
                shards.with_shard(id, |shard| shard.random_key(database, slot, now_ms, random))
            }
            View::Gathered(gathered) => {
                let mut sample = Sample::new(random);
                let slots = slot.0..slot.0 + 1;
                gathered.visit_keys(database, slots, &mut |key, _| {
                    sample.add(key);
                    ControlFlow::Continue(())
                })?;
                Ok(sample.picked)
            }
        }
    }

    /// Whether the data is spread over several executors.
    pub fn is_gathered(&self) -> bool {
        matches!(self, View::Gathered(_))
    }

    /// A client watches a key.
    ///
    /// # Errors
    /// The key is not here, or cannot be read.
    pub fn watch(&mut self, client_id: u64, database: u8, key: &[u8]) -> Result<(), CommandError> {
        let View::Local(local) = self else {
            return Err(CommandError::Internal);
        };
        let key = (database, key.to_vec());
        let presence = local.presence(&key)?;
        local.beside.watch(client_id, key, presence);
        local.set_notes_modified(true);
        Ok(())
    }

    /// Whether a key that the client watches was modified, or has expired, since it began to.
    pub fn is_dirty(&mut self, client_id: u64) -> bool {
        match self {
            View::Local(local) => local.beside.is_dirty(local.shards, client_id),
            View::Gathered(gathered) => gathered.watch_failed,
        }
    }

    /// The running command is about to use keys that it has perhaps not named.
    ///
    /// # Errors
    /// Not all of them can be used here and now ([`CommandError::Elsewhere`]): the whole command must be undone and run
    /// again.
    pub fn need_keys(&mut self, keys: &[DatabaseKey], mode: Mode) -> Result<(), CommandError> {
        match self {
            View::Local(local) => local.shards.need_keys(local.beside, keys, mode),
            View::Gathered(gathered) => gathered.need_keys(keys),
        }
    }

    /// The running command is about to do something that concerns all keys.
    ///
    /// # Errors
    /// See [`View::need_keys`].
    pub fn need_everything(&mut self, mode: Mode) -> Result<(), CommandError> {
        match self {
            View::Local(local) => local.shards.need_everything(local.beside, mode),
            View::Gathered(gathered) => gathered.need_everything(),
        }
    }

    /// Whether the running command is to be ended, because it must run again.
    #[inline]
    pub fn must_run_again(&self) -> bool {
        match self {
            View::Local(shards) => shards.undeclared.is_some(),
            View::Gathered(gathered) => gathered.must_run_again(),
        }
    }

    /// The running command was ended by its client: it does not run again, whatever it needs.
    pub fn forget_undeclared(&mut self) {
        match self {
            View::Local(shards) => drop(shards.take_undeclared()),
            View::Gathered(gathered) => drop(gathered.take_undeclared()),
        }
    }

    /// What the running command has read and written.
    pub fn touched(&self) -> Touched {
        match self {
            View::Local(shards) => shards.touched(),
            View::Gathered(gathered) => Touched {
                found: gathered.found,
                missed: gathered.missed,
                ..Touched::default()
            },
        }
    }

    /// Look-ups since `before` do not count.
    pub fn uncount_look_ups(&mut self, before: Touched) {
        match self {
            View::Local(shards) => shards.uncount_look_ups(before),
            View::Gathered(gathered) => (gathered.found, gathered.missed) = (before.found, before.missed),
        }
    }

    /// The executor's shards, for commands that are about shards and not about keys.
    pub fn shards(&mut self) -> Result<&mut Shards, CommandError> {
        match self {
            View::Local(shards) => Ok(shards.shards),
            View::Gathered(_) => Err(CommandError::text(
                "ERR this command cannot be a part of a transaction over several storage executors",
            )),
        }
    }
}
