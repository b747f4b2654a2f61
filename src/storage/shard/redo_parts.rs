//! What a start finishes: a shard's part in what is written on several shards, in redo records, with which of them it
//! has applied; and removals of many members that have begun.

use super::{Found, Shard, ShardState};
use crate::error::CommandError;
use crate::faults;
use crate::slots::Slot;
use crate::storage::database::{Column, Direction};
use crate::storage::encoding::{self, Record, Type};
use crate::storage::fields::FieldWriter;
use crate::storage::redo::Write;
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::TransactionId;
use std::ops::ControlFlow;

/// Members, and their bytes, up to which a collection travels whole to where a transaction runs. Of a larger one that
/// place asks for what it needs.
const MEMBERS_SENT_MAX: usize = 512;
const MEMBER_BYTES_SENT_MAX: usize = 64 * 1024;

impl Shard {
    /// Whether it would take a write now, which only `frees_space`.
    pub fn takes_writes(&self, frees_space: bool) -> Result<(), CommandError> {
        match &self.state {
            ShardState::Healthy | ShardState::Stalled => Ok(()),
            ShardState::ReadOnly if frees_space => Ok(()),
            ShardState::ReadOnly => Err(CommandError::DiskFull),
            ShardState::Unavailable(text) => Err(CommandError::ShardDown(text.clone())),
        }
    }

    /// The newest version that a collection was given here.
    pub fn last_version(&self) -> u64 {
        self.last_version
    }

    /// Stages writes that were decided elsewhere; returns the epoch they will be logged in. Staging them again
    /// changes nothing.
    pub fn apply(&mut self, writes: &[Write]) -> Result<u64, CommandError> {
        let mut epoch = 0;
        // Before the first member of a new collection is staged: nothing of it is on disk, or the shard would have seen
        // its version.
        for write in writes {
            if let Write::Record { value: Some(value), .. } = write
                && let Some(record) = Record::decode(value)
                && record.version > self.last_version
                && record.kind != Type::String
            {
                self.residents.born(record.version, record.kind);
            }
        }
        for write in writes {
            let slot = Slot::of(write.key().unwrap_or_default());
            let (written, version) = match write {
                Write::Databases { map } if map.generation <= self.wide.databases.generation => continue,
                Write::Databases { map } => (self.set_database_map(*map)?, 0),
                Write::Empty { database } => (self.flush(*database)?, 0),
                Write::Record { database, key, value } => {
                    let version = value
                        .as_deref()
                        .and_then(Record::decode)
                        .map_or(0, |record| record.version);
                    (self.write(*database, slot, key, value.clone())?, version)
                }
                Write::Member {
                    owner,
                    column,
                    member,
                    value,
                } => (
                    self.write_member((owner, slot), *column, member, value.as_deref())?,
                    owner.version,
                ),
            };
            epoch = epoch.max(written);
            self.last_version = self.last_version.max(version);
        }
        Ok(epoch)
    }

    /// Whether the running command has staged anything here.
    pub fn command_staged(&self) -> bool {
        self.records.command_staged() || self.residents.changes() > 0 || !self.whole_undo.is_empty()
    }

    /// Stages the redo record of a transaction of which this shard is the primary.
    pub fn stage_redo(&mut self, id: TransactionId, parts: Vec<u8>) -> Result<u64, CommandError> {
        self.check_writable()?;
        self.set_system_key(&encoding::redo_key(id));
        // Without one there is nothing to delete either.
        Ok(self.stage_here(Column::System, (!faults::skips_redo()).then_some(&parts[..])))
    }

    /// All other shards have applied their parts: stages the deletion of the redo record.
    pub fn delete_redo(&mut self, id: TransactionId) -> Result<u64, CommandError> {
        self.write_system(&encoding::redo_key(id), None)
    }

    /// The redo records, by transaction.
    pub fn redo_records(&mut self) -> Result<Vec<(TransactionId, Vec<u8>)>, CommandError> {
        self.numbered_cells(encoding::redo_key, encoding::id_of_redo_key)
    }

    /// All cells of `system` whose keys are made of a number, by that.
    fn numbered_cells(
        &mut self,
        key_of: fn(u64) -> Vec<u8>,
        number_of: fn(&[u8]) -> Option<u64>,
    ) -> Result<Vec<(u64, Vec<u8>)>, CommandError> {
        let (mut found, from, to) = (Vec::new(), key_of(0), key_of(u64::MAX));
        self.scan_range(Column::System, (&from, &to), Direction::Forward, |key, value| {
            found.extend(number_of(key).map(|number| (number, value.to_vec())));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Whether this shard has the redo record of a transaction, and the epoch in which the record is.
    pub fn has_redo(&mut self, id: TransactionId) -> Result<(bool, u64), CommandError> {
        self.set_system_key(&encoding::redo_key(id));
        let found = self.find_in(Column::System)?;
        let epoch = match found {
            Found::Entry(index) => self.records.epoch(index),
            // It may have been deleted, or taken back, in any.
            Found::Large | Found::Absent => self.newest_epoch,
        };
        Ok((self.stored(&found).is_some(), epoch))
    }

    /// Whether this shard has applied its part of a transaction that is not known to be finished: it is committed, or
    /// staged. What says so is a record among the others, so that a roll back takes it back, too.
    pub fn has_applied(&mut self, id: TransactionId) -> Result<bool, CommandError> {
        self.set_system_key(&encoding::applied_key(id));
        let found = self.find_in(Column::System)?;
        Ok(self.stored(&found).is_some())
    }

    /// Stages that it does so with what the running command stages.
    pub fn mark_applied(&mut self, id: TransactionId) -> Result<u64, CommandError> {
        self.write_system(&encoding::applied_key(id), Some(Vec::new()))
    }

    /// The redo record of a transaction is durably gone, so that it need not be remembered: stages that it is not.
    pub fn forget_applied(&mut self, id: TransactionId) -> Result<u64, CommandError> {
        self.write_system(&encoding::applied_key(id), None)
    }

    /// Stages that all applied transactions are forgotten.
    pub fn forget_all_applied(&mut self) -> Result<(), CommandError> {
        let mut markers = Vec::new();
        let (from, to) = (encoding::applied_key(0), encoding::applied_key(u64::MAX));
        self.scan_range(Column::System, (&from, &to), Direction::Forward, |key, _| {
            markers.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        markers
            .iter()
            .try_for_each(|marker| self.write_system(marker, None).map(|_| ()))
    }

    /// Stages what is to remain of a version of which many members are being removed, in many turns; `None` when that
    /// is over.
    pub fn write_removal(&mut self, version: u64, remains: Option<Vec<u8>>) -> Result<u64, CommandError> {
        self.write_system(&encoding::removal_key(version), remains)
    }

    /// What is to remain of a version of which members are being removed.
    pub fn removal(&mut self, version: u64) -> Result<Option<Vec<u8>>, CommandError> {
        self.set_system_key(&encoding::removal_key(version));
        let found = self.find_in(Column::System)?;
        Ok(self.stored(&found).map(<[u8]>::to_vec))
    }

    /// The removals that are not over, each with the version from which members are removed.
    pub fn removals(&mut self) -> Result<Vec<(u64, Vec<u8>)>, CommandError> {
        self.numbered_cells(encoding::removal_key, encoding::version_of_removal_key)
    }

    pub(super) fn write_system(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<u64, CommandError> {
        self.check_writable()?;
        self.set_system_key(key);
        Ok(self.stage_here(Column::System, value.as_deref()))
    }

    fn set_system_key(&mut self, key: &[u8]) {
        self.key.clear();
        self.key.extend_from_slice(key);
    }

    /// Appends to `out` what a transaction that runs elsewhere gets of a key: its record, and its members if they are
    /// few. Returns the newest epoch whose writes were seen.
    pub fn export(&mut self, database: u8, key: &[u8], out: &mut Vec<u8>) -> Result<u64, CommandError> {
        let slot = Slot::of(key);
        let (record, mut epoch) = self.read_header(database, slot, key)?;
        let Some(record) = record else {
            FieldWriter(out).optional_bytes(None);
            return Ok(epoch);
        };
        FieldWriter(out).optional_bytes(Some(&record.encode()));
        if record.version == 0 {
            return Ok(epoch);
        }
        let owner = Owner {
            database,
            key: key.to_vec(),
            version: record.version,
        };
        // A string in chunks has no count, and its chunks are not in memory.
        let count = record.payload.first_chunk().filter(|_| record.kind != Type::String);
        let count = count.map_or(u64::MAX, |count| u64::from_be_bytes(*count));
        let mut members = Vec::new();
        let mut left = MEMBERS_SENT_MAX;
        for column in [Column::Data, Column::Score] {
            let seen = self.scan_members(
                (&owner, slot),
                count,
                column,
                (b"", None),
                Direction::Forward,
                &mut |member, value| {
                    let mut fields = FieldWriter(&mut members);
                    fields.byte(column as u8);
                    fields.bytes(member);
                    fields.bytes(value);
                    left = left.saturating_sub(1);
                    match left == 0 || members.len() > MEMBER_BYTES_SENT_MAX {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                },
            )?;
            epoch = epoch.max(seen);
        }
        let are_few = left > 0 && members.len() <= MEMBER_BYTES_SENT_MAX;
        FieldWriter(out).optional_bytes(are_few.then_some(&members));
        Ok(epoch)
    }
}
