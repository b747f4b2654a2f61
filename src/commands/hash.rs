//! A hash as its commands see it: fields with values, each with a deadline or without, over a collection's members.
//!
//! A field whose deadline has passed is there for no command. Reading ones step over it and write nothing; those that
//! write remove a few such fields first, and the expiry sweep the others, in the order of their deadlines.

use super::Context;
use super::collection::{Collection, Column, Direction};
use super::name_order::{self, LISTED_MAX, Listed};
use crate::config::EventClass;
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::storage::encoding::{self, FieldDeadlines, HashField, NameOrder, Type};
use crate::storage::packed;
use crate::storage::pieces::WriteMember;
use crate::storage::view::View;
use std::ops::ControlFlow;

/// Expired fields that a command which writes removes beside its own work, so that what it costs has a bound.
const REMOVED_WITH_A_COMMAND_MAX: usize = 16;

/// A hash that a command works on.
pub struct Hash {
    collection: Collection,
    deadlines: FieldDeadlines,
    order: NameOrder,
    /// The first or the last deadline was taken away: which one follows is found out when the hash is saved.
    bounds_are_stale: bool,
    /// The hash's record is not what is stored.
    changed: bool,
}

/// What is stored of a field but its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldHeader {
    /// Greater than those of the fields that were added before.
    number: u64,
    /// Its deadline in Unix milliseconds, 0 for none.
    pub deadline_ms: u64,
}

fn damaged() -> CommandError {
    CommandError::text("ERR the stored members of this key are damaged")
}

/// The field that is stored, unless there is none or its deadline has passed.
#[inline]
pub(super) fn living(stored: Option<&[u8]>, now_ms: u64) -> Result<Option<HashField<'_>>, CommandError> {
    match stored.map(HashField::decode) {
        None => Ok(None),
        Some(field) => Ok(Some(field.ok_or_else(damaged)?).filter(|field| field.is_alive(now_ms))),
    }
}

/// Lets `write` answer with the value of a stored field, if the field is alive; returns whether it is.
pub fn write_living(
    reply: &mut Reply<'_>,
    stored: &[u8],
    now_ms: u64,
    write: impl FnOnce(&mut Reply<'_>, &[u8]),
) -> bool {
    match HashField::decode(stored).filter(|field| field.is_alive(now_ms)) {
        Some(field) => {
            write(reply, field.value);
            true
        }
        None => false,
    }
}

impl Hash {
    /// The hash under a key, for a command that only reads.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn open(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Hash>, CommandError> {
        context.collection(key, Type::Hash)?.map(Hash::of).transpose()
    }

    /// The hash under a key, for a command that writes. The hash is to be saved whatever the command does with it.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn open_to_write(context: &mut Context<'_>, key: &[u8]) -> Result<Option<Hash>, CommandError> {
        let Some(mut hash) = Hash::open(context, key)? else {
            return Ok(None);
        };
        hash.remove_expired(context, REMOVED_WITH_A_COMMAND_MAX)?;
        Ok(Some(hash))
    }

    /// The hash under a key, for a command that writes, or a new hash, which is there once it is saved with a field.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn open_or_new(context: &mut Context<'_>, key: &[u8]) -> Result<Hash, CommandError> {
        match Hash::open_to_write(context, key)? {
            Some(hash) => Ok(hash),
            None => Hash::of(context.new_collection(key, Type::Hash)?),
        }
    }

    fn of(collection: Collection) -> Result<Hash, CommandError> {
        let (deadlines, order) = match collection.is_packed() {
            // Nothing is said of their order: they lie in it.
            true => (FieldDeadlines::default(), NameOrder::default()),
            false => (
                FieldDeadlines::decode(&collection.extra).ok_or_else(damaged)?,
                NameOrder::of_hash(&collection.extra, collection.count).ok_or_else(damaged)?,
            ),
        };
        Ok(Hash {
            collection,
            deadlines,
            order,
            bounds_are_stale: false,
            changed: false,
        })
    }

    /// Stages the hash's record if it has changed, or the deletion of its key if no field is left.
    fn save(mut self, context: &mut Context<'_>) -> Result<(), CommandError> {
        if !self.changed {
            return Ok(());
        }
        if self.bounds_are_stale && self.collection.count > 0 {
            self.deadlines.earliest_ms = self.outermost_deadline(context, Direction::Forward)?;
            self.deadlines.latest_ms = self.outermost_deadline(context, Direction::Backward)?;
        }
        if !self.collection.is_packed() {
            self.collection.extra = self.deadlines.encode();
            self.order
                .encode_into(self.collection.count, &mut self.collection.extra);
        }
        context.save(&self.collection)
    }

    /// The number that the next new field gets: greater than all others'.
    fn next_number(&self) -> Result<u64, CommandError> {
        if !self.collection.is_packed() {
            return Ok(self.order.next_number);
        }
        match packed::last_value(&self.collection.extra) {
            None => Ok(0),
            Some(stored) => Ok(HashField::decode(stored).ok_or_else(damaged)?.number + 1),
        }
    }

    /// Gives the fields cells of their own, which those with deadlines must have.
    fn unpack(&mut self, context: &mut Context<'_>) -> Result<(), CommandError> {
        if self.collection.is_packed() {
            self.order.next_number = self.next_number()?;
            context.unpack(&mut self.collection)?;
            self.changed = true;
        }
        Ok(())
    }

    /// Saves the hash after `events` have happened to it, if any; without any the key may be gone, too, because fields
    /// expired.
    pub fn save_after(self, context: &mut Context<'_>, events: &[&'static str]) -> Result<(), CommandError> {
        let owner = self.collection.owner.clone();
        let is_gone = self.changed && self.collection.count == 0;
        self.save(context)?;
        for event in events {
            context.notify(EventClass::Hash, event, &owner.key);
        }
        if is_gone {
            context.notify(EventClass::Generic, "del", &owner.key);
        }
        Ok(())
    }

    fn outermost_deadline(&self, context: &mut Context<'_>, direction: Direction) -> Result<u64, CommandError> {
        let mut found = None;
        let from = encoding::field_deadline_key(0, b"");
        context.scan_members(&self.collection, Column::Score, (&from, None), direction, |key, _| {
            found = encoding::split_field_deadline_key(key).map(|(deadline_ms, _)| deadline_ms);
            ControlFlow::Break(())
        })?;
        found.ok_or_else(damaged)
    }

    /// What the fields are stored in.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// How many fields are stored, expired ones among them.
    pub fn stored_fields(&self) -> u64 {
        self.collection.count
    }

    fn has_expired_fields(&self, now_ms: u64) -> bool {
        self.deadlines.fields > 0 && self.deadlines.earliest_ms < now_ms
    }

    /// How many fields there are; fields that have expired since the last sweep are counted off one by one.
    pub fn living_fields(&self, context: &mut Context<'_>) -> Result<u64, CommandError> {
        let mut expired = 0;
        self.scan_expired(context, |_| {
            expired += 1;
            ControlFlow::Continue(())
        })?;
        self.collection.count.checked_sub(expired).ok_or_else(damaged)
    }

    fn scan_expired(
        &self,
        context: &mut Context<'_>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        if !self.has_expired_fields(context.now_ms) {
            return Ok(());
        }
        let from = encoding::field_deadline_key(0, b"");
        let to = encoding::field_deadline_key(context.now_ms, b"");
        let range = (&from[..], Some(&to[..]));
        context.scan_members(&self.collection, Column::Score, range, Direction::Forward, |key, _| {
            match encoding::split_field_deadline_key(key) {
                Some((_, field)) => visit(field),
                None => ControlFlow::Continue(()),
            }
        })
    }

    /// Removes at most `budget` fields whose deadline has passed; returns how many there were.
    fn remove_expired(&mut self, context: &mut Context<'_>, budget: usize) -> Result<usize, CommandError> {
        let mut expired: Vec<Vec<u8>> = Vec::new();
        self.scan_expired(context, |field| {
            expired.push(field.to_vec());
            match expired.len() < budget {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        for field in &expired {
            let header = self.header(context, field)?.ok_or_else(damaged)?;
            self.remove(context, field, header)?;
        }
        if !expired.is_empty() {
            context.notify(EventClass::Hash, "hexpired", &self.collection.owner.key);
        }
        Ok(expired.len())
    }

    fn header(&self, context: &mut Context<'_>, field: &[u8]) -> Result<Option<FieldHeader>, CommandError> {
        match context.member(&self.collection, Column::Data, field)? {
            None => Ok(None),
            Some(stored) => HashField::decode(stored)
                .map(|field| {
                    Some(FieldHeader {
                        number: field.number,
                        deadline_ms: field.deadline_ms,
                    })
                })
                .ok_or_else(damaged),
        }
    }

    /// What is stored of a field that is alive, but its value.
    pub fn find(&self, context: &mut Context<'_>, field: &[u8]) -> Result<Option<FieldHeader>, CommandError> {
        let now_ms = context.now_ms;
        Ok(self.header(context, field)?.filter(|header| header.is_alive(now_ms)))
    }

    /// Calls `answer` with the reply and a field's value, if it is there.
    #[inline]
    pub fn answer_with<T>(
        &self,
        context: &mut Context<'_>,
        field: &[u8],
        answer: impl FnOnce(&mut Reply<'_>, Option<&[u8]>) -> T,
    ) -> Result<T, CommandError> {
        let Context {
            view, reply, now_ms, ..
        } = context;
        let stored = self.collection.member(view, Column::Data, field)?;
        Ok(answer(reply, living(stored, *now_ms)?.map(|field| field.value)))
    }

    /// A field's value, if it is there.
    pub fn value(&self, context: &mut Context<'_>, field: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        self.answer_with(context, field, |_, value| value.map(<[u8]>::to_vec))
    }

    /// Stages a field's value and deadline (0: none); whether the field is new.
    pub fn put(
        &mut self,
        context: &mut Context<'_>,
        field: &[u8],
        value: &[u8],
        deadline_ms: u64,
    ) -> Result<bool, CommandError> {
        if deadline_ms != 0 {
            self.unpack(context)?;
        }
        let old = self.header(context, field)?;
        let next_number = self.next_number()?;
        let number = old.map_or(next_number, |header| header.number);
        self.index_deadline(context, field, old.map_or(0, |header| header.deadline_ms), deadline_ms)?;
        let stored = HashField {
            number,
            deadline_ms,
            value,
        };
        // Those of a packed hash lie in its record.
        self.changed |= self.collection.is_packed();
        context.put_name(&mut self.collection, field, &stored.encode())?;
        self.order.next_number = next_number;
        if old.is_none() {
            self.changed = true;
            self.order.next_number += 1;
            self.collection.count += 1;
            name_order::added(context, &self.collection, &mut self.order, field)?;
        }
        Ok(!old.is_some_and(|header| header.is_alive(context.now_ms)))
    }

    /// Stages another deadline (0: none) of a field that has this `header`.
    pub fn set_deadline(
        &mut self,
        context: &mut Context<'_>,
        field: &[u8],
        header: FieldHeader,
        deadline_ms: u64,
    ) -> Result<(), CommandError> {
        self.unpack(context)?;
        self.index_deadline(context, field, header.deadline_ms, deadline_ms)?;
        self.rewrite(context, field, |stored| HashField { deadline_ms, ..stored })
    }

    /// Stages the removal of a field that has this `header`.
    pub fn remove(&mut self, context: &mut Context<'_>, field: &[u8], header: FieldHeader) -> Result<(), CommandError> {
        self.changed = true;
        self.index_deadline(context, field, header.deadline_ms, 0)?;
        context.delete_name(&mut self.collection, field)?;
        self.collection.count = self.collection.count.checked_sub(1).ok_or_else(damaged)?;
        name_order::removed(context, &self.collection, &mut self.order, field)
    }

    fn rewrite(
        &self,
        context: &mut Context<'_>,
        field: &[u8],
        change: impl FnOnce(HashField<'_>) -> HashField<'_>,
    ) -> Result<(), CommandError> {
        let stored = context.member(&self.collection, Column::Data, field)?;
        let stored = stored.and_then(HashField::decode).ok_or_else(damaged)?;
        let changed = change(stored).encode();
        context.put_member(&self.collection, Column::Data, field, changed)
    }

    /// Keeps the index of deadlines, and what the record says of it, when a field's deadline changes (0: none).
    fn index_deadline(
        &mut self,
        context: &mut Context<'_>,
        field: &[u8],
        old_ms: u64,
        new_ms: u64,
    ) -> Result<(), CommandError> {
        if old_ms == new_ms {
            return Ok(());
        }
        self.changed = true;
        let deadlines = &mut self.deadlines;
        if old_ms != 0 {
            let key = encoding::field_deadline_key(old_ms, field);
            context.delete_member(&self.collection, Column::Score, &key)?;
            deadlines.fields = deadlines.fields.checked_sub(1).ok_or_else(damaged)?;
            self.bounds_are_stale |= old_ms <= deadlines.earliest_ms || old_ms >= deadlines.latest_ms;
        }
        if deadlines.fields == 0 {
            self.bounds_are_stale = false;
            *deadlines = FieldDeadlines {
                earliest_ms: new_ms,
                latest_ms: new_ms,
                fields: 0,
            };
        }
        if new_ms != 0 {
            let key = encoding::field_deadline_key(new_ms, field);
            context.put_member(&self.collection, Column::Score, &key, Vec::new())?;
            deadlines.fields += 1;
            deadlines.earliest_ms = deadlines.earliest_ms.min(new_ms);
            deadlines.latest_ms = deadlines.latest_ms.max(new_ms);
        }
        Ok(())
    }

    /// The name of the field at a rank in an order of names, if it is there: see [`name_order::name_at`].
    pub fn field_at(&self, context: &mut Context<'_>, rank: u64) -> Result<Option<Vec<u8>>, CommandError> {
        let field = name_order::name_at(context, &self.collection, &self.order, rank)?;
        if !self.has_expired_fields(context.now_ms) {
            return Ok(Some(field));
        }
        Ok(self.find(context, &field)?.map(|_| field))
    }

    /// Lets `write` answer with every field that is alive, of which there are `fields`: small hashes in the order in
    /// which fields were added, large ones in the order of their names, and in pieces.
    pub fn reply_fields(&self, context: &mut Context<'_>, fields: u64, write: WriteMember) -> Result<(), CommandError> {
        if self.collection.count > LISTED_MAX {
            let all = (&b""[..], None);
            return context.reply_members(&self.collection, Column::Data, all, Direction::Forward, (fields, write));
        }
        let mut written = 0;
        let Context {
            view, reply, now_ms, ..
        } = context;
        match self.collection.packed_cells() {
            Some(cells) => {
                for cell in cells {
                    written += u64::from(write(reply, cell.member, cell.value, *now_ms));
                }
            }
            None => {
                for (field, stored) in self.listed(view)?.iter() {
                    written += u64::from(write(reply, field, stored, *now_ms));
                }
            }
        }
        match written == fields {
            true => Ok(()),
            // The reply would not be what its header says.
            false => Err(damaged()),
        }
    }

    /// Every field that is stored, of no more than [`LISTED_MAX`], as they were added.
    pub(super) fn listed(&self, view: &mut View<'_>) -> Result<Listed, CommandError> {
        let number_of = |stored: &[u8]| HashField::decode(stored).map(|field| field.number);
        Listed::read(view, &self.collection, number_of)
    }
}

/// Stages the removal of at most `budget` expired fields of the hash under a key; returns how many there were. This is
/// what the expiry sweep does with a hash, and no client's command.
pub fn expire_fields(context: &mut Context<'_>, key: &[u8], budget: usize) -> Result<usize, CommandError> {
    let Some(mut hash) = Hash::open(context, key)? else {
        return Ok(0);
    };
    let expired = hash.remove_expired(context, budget)?;
    hash.save_after(context, &[])?;
    Ok(expired)
}

impl FieldHeader {
    fn is_alive(&self, now_ms: u64) -> bool {
        self.deadline_ms == 0 || now_ms <= self.deadline_ms
    }
}
