//! A shard's part in what is written on several shards: redo records, and which of them it has followed.

use super::{Shard, ShardState};
use crate::channel::router::Slot;
use crate::error::CommandError;
use crate::storage::database::{Column, Direction};
use crate::storage::encoding::{self, Record};
use crate::storage::faults;
use crate::storage::fields::FieldWriter;
use crate::storage::locks::TransactionId;
use crate::storage::redo::Write;
use crate::storage::shard::{Owner, damaged_record};
use std::ops::ControlFlow;

/// Members, and their bytes, up to which a collection travels whole to where a transaction runs. Of a larger one that place
/// asks for what it needs.
const MEMBERS_SENT_MAX: usize = 512;
const MEMBER_BYTES_SENT_MAX: usize = 64 * 1024;

impl Shard {
    /// Whether it would take a write now.
    pub fn takes_writes(&self) -> Result<(), CommandError> {
        match &self.state {
            ShardState::Healthy | ShardState::Stalled => Ok(()),
            ShardState::ReadOnly => Err(CommandError::DiskFull),
            ShardState::Unavailable(text) => Err(CommandError::ShardDown(text.clone())),
        }
    }

    /// The newest version that a collection was given here.
    pub fn last_version(&self) -> u64 {
        self.last_version
    }

    /// Stages writes that were decided elsewhere; returns the turn they will be committed in. Staging them again changes nothing.
    pub fn apply(&mut self, writes: &[Write]) -> Result<u64, CommandError> {
        let mut epoch = 0;
        for write in writes {
            let slot = Slot::of(write.key().unwrap_or_default());
            let (written, version) = match write {
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
                    self.write_member((owner, slot), *column, member, value.clone())?,
                    owner.version,
                ),
            };
            epoch = epoch.max(written);
            self.last_version = self.last_version.max(version);
        }
        Ok(epoch)
    }

    /// What the running command has staged, as others would have to write it.
    pub fn command_writes(&self) -> Result<Vec<Write>, CommandError> {
        let mut writes = Vec::new();
        for physical in self.emptied_by_command() {
            let database = Some(self.number_of(physical).ok_or_else(damaged_record)?);
            writes.push(Write::Empty { database });
        }
        for (column, key, value) in self.records.command_writes() {
            let value = value.map(<[u8]>::to_vec);
            let (meta_key, version, member) = match column {
                Column::Meta => (key.to_vec(), 0, None),
                Column::Data | Column::Score => {
                    let (meta_key, version) = encoding::owner_of_member(key).ok_or_else(damaged_record)?;
                    // Its length(4) and the version(8) are there, too.
                    let member = key.get(meta_key.len() + 12..).ok_or_else(damaged_record)?;
                    (meta_key, version, Some(member.to_vec()))
                }
                Column::Expiry | Column::System => continue,
            };
            let (physical, _, key) = encoding::split_meta_key(&meta_key).ok_or_else(damaged_record)?;
            let database = self.number_of(physical).ok_or_else(damaged_record)?;
            let key = key.to_vec();
            writes.push(match member {
                None => Write::Record { database, key, value },
                Some(member) => Write::Member {
                    owner: Owner { database, key, version },
                    column,
                    member,
                    value,
                },
            });
        }
        Ok(writes)
    }

    /// Whether the running command has staged anything here.
    pub fn command_staged(&self) -> bool {
        self.records.command_staged() || !self.whole_undo.is_empty()
    }

    /// The physical databases that the running command has emptied, or another one of the turn that is not committed either.
    fn emptied_by_command(&self) -> impl Iterator<Item = u8> {
        let emptied = if self.whole_undo.is_empty() {
            0
        } else {
            self.whole.emptied
        };
        (0..encoding::DATABASE_COUNT as u8).filter(move |number| emptied >> number & 1 == 1)
    }

    /// Stages the redo record of a transaction of which this shard is the home.
    pub fn stage_redo(&mut self, id: TransactionId, parts: Vec<u8>) -> Result<u64, CommandError> {
        // Without one there is nothing to delete either.
        let record = (!faults::skips_redo()).then_some(parts);
        self.write_system(&encoding::redo_key(id), record)
    }

    /// All others have followed: stages the deletion of the record.
    pub fn delete_redo(&mut self, id: TransactionId) -> Result<u64, CommandError> {
        self.write_system(&encoding::redo_key(id), None)
    }

    /// The redo records on disk, by transaction.
    pub fn redo_records(&self) -> Result<Vec<(TransactionId, Vec<u8>)>, CommandError> {
        let mut found = Vec::new();
        let (from, to) = (encoding::redo_key(0), encoding::redo_key(u64::MAX));
        self.database.scan(Column::System, &from, &to, |key, parts| {
            found.extend(encoding::id_of_redo_key(key).map(|id| (id, parts.to_vec())));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Whether this shard has followed a transaction of another home that is not known to be finished.
    pub fn has_applied(&self, id: TransactionId) -> bool {
        self.applied.contains(&id)
    }

    /// Stages the note that it does so with what the running command stages.
    pub fn note_applied(&mut self, id: TransactionId) -> Result<u64, CommandError> {
        let is_new = self.applied.insert(id);
        let noted = self.write_system(encoding::APPLIED_KEY, Some(encoding::encode_applied(&self.applied)));
        if noted.is_err() && is_new {
            self.applied.remove(&id);
        }
        noted
    }

    /// The redo record of a transaction is gone, so that it need not be remembered: the next note leaves it out.
    pub fn forget_applied(&mut self, id: TransactionId) {
        self.applied.remove(&id);
    }

    /// The same for all, at once.
    pub fn forget_all_applied(&mut self) -> Result<(), CommandError> {
        if !std::mem::take(&mut self.applied).is_empty() {
            self.write_system(encoding::APPLIED_KEY, None)?;
        }
        Ok(())
    }

    pub(super) fn write_system(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<u64, CommandError> {
        self.check_writable()?;
        self.key.clear();
        self.key.extend_from_slice(key);
        Ok(self.stage_here(Column::System, value))
    }

    /// Appends to `out` what a transaction that runs elsewhere gets of a key: its record, and its members if they are few.
    /// Returns the newest turn whose writes were seen.
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
        let mut members = Vec::new();
        let mut left = MEMBERS_SENT_MAX;
        for column in [Column::Data, Column::Score] {
            let seen = self.scan_members(
                (&owner, slot),
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
