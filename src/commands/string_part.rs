//! Parts of strings: what the commands that read or change some bytes of a string work through, so that none of them
//! has to read or write all of it.
//!
//! A string that is changed in place and has become long lies in chunks (see [`crate::storage::encoding`]); for
//! everyone who reads a key's record as a whole it is put together, so only this file knows of chunks.

use super::Context;
use crate::error::CommandError;
use crate::storage::database::Column;
use crate::storage::encoding::{Record, STRING_CHUNK_LEN, Type, WHOLE_STRING_LEN_MAX, chunk_member};
use crate::storage::shard::Owner;
use std::ops::{ControlFlow, Range};

type Outcome = Result<(), CommandError>;

/// A string that lies in many chunks, whose parts are read in the steps of a command.
pub struct LongString {
    owner: Owner,
    len: usize,
}

impl LongString {
    /// The length in bytes.
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// The number of chunks that there may be.
    pub fn chunks(&self) -> u64 {
        self.len.div_ceil(STRING_CHUNK_LEN) as u64
    }
}

/// What lies between the stored chunks of a string.
static ZEROS: [u8; STRING_CHUNK_LEN] = [0; STRING_CHUNK_LEN];

impl Context<'_> {
    /// The length in bytes of the string under `key`; `None` if there is no such key.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn string_len(&mut self, key: &[u8]) -> Result<Option<usize>, CommandError> {
        match self.read_header(key)? {
            None => Ok(None),
            Some(record) => string_len(&record).map(Some),
        }
    }

    /// Calls `visit` with the bytes of a part of the string under `key`, in order and in one or more pieces, until it
    /// breaks. `part` chooses the part by the string's length, within it. Returns the length; `None` if there is no
    /// such key, and then neither is called.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn visit_string(
        &mut self,
        key: &[u8],
        part: impl FnOnce(usize) -> Range<usize>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Option<usize>, CommandError> {
        let Some(record) = self.read_header(key)? else {
            return Ok(None);
        };
        let len = string_len(&record)?;
        let part = part(len);
        assert!(part.is_empty() || part.end <= len, "a part lies in its string");
        if part.is_empty() {
            return Ok(Some(len));
        }
        if !record.is_in_chunks() {
            let _ = visit(&record.payload[part]);
            return Ok(Some(len));
        }
        let version = record.version;
        let owner = self.owner(key, version);
        self.visit_part(&LongString { owner, len }, part, visit)?;
        Ok(Some(len))
    }

    /// Calls `visit` with the bytes of a part of a string that lies in chunks, in order and in many pieces, until it
    /// breaks.
    pub fn visit_part(
        &mut self,
        string: &LongString,
        part: Range<usize>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        let part_len = part.len();
        let (mut done, mut broken) = (0, false);
        self.view.visit_chunks(&string.owner, part, |offset, bytes| {
            broken = visit_zeros(&mut done, offset, &mut visit).is_break() || visit(bytes).is_break();
            done = offset + bytes.len();
            match broken {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if !broken {
            let _ = visit_zeros(&mut done, part_len, &mut visit);
        }
        Ok(())
    }

    /// The string under `key`, if a command that reads all of it is to do so in steps: it lies in many chunks. Of any
    /// other this was no look-up.
    pub fn long_string(&mut self, key: &[u8]) -> Result<Option<LongString>, CommandError> {
        if !self.may_take_steps {
            return Ok(None);
        }
        let (wanted_missed, before) = (self.view.track_missed(false), self.view.touched());
        let record = self.read_header(key)?;
        let chunked = record.filter(|record| record.kind == Type::String && record.is_in_chunks());
        let found = chunked.map(|record| (record.version, record.string_len()));
        self.view.track_missed(wanted_missed);
        let string = found.and_then(|(version, len)| {
            let owner = self.owner(key, version);
            len.map(|len| LongString { owner, len })
        });
        let string = string.filter(|string| self.works_in_steps(string.chunks()));
        if string.is_none() {
            self.view.uncount_look_ups(before);
        }
        Ok(string)
    }

    /// The string under `key`, to be changed; an empty one if there is no such key.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn edit_string(&mut self, key: &[u8]) -> Result<StringEdit, CommandError> {
        let owner = self.owner(key, 0);
        let Some(record) = self.read_header(key)? else {
            return Ok(StringEdit {
                owner,
                deadline_ms: 0,
                stored: None,
                content: Content::Whole(Vec::new()),
                changed: true,
            });
        };
        let len = string_len(&record)?;
        Ok(StringEdit {
            owner: Owner {
                version: record.version,
                ..owner
            },
            deadline_ms: record.deadline_ms,
            stored: Some(len),
            content: match record.is_in_chunks() {
                true => Content::Chunks { len },
                false => Content::Whole(record.payload.to_vec()),
            },
            changed: !record.edited,
        })
    }

    fn owner(&self, key: &[u8], version: u64) -> Owner {
        Owner {
            database: self.database,
            key: key.to_vec(),
            version,
        }
    }
}

fn string_len(record: &Record<'_>) -> Result<usize, CommandError> {
    if record.kind != Type::String {
        return Err(CommandError::WrongType);
    }
    let damaged = || CommandError::text("ERR the stored record of this key is damaged");
    record.string_len().ok_or_else(damaged)
}

/// Visits zeros from `done` to `end`.
fn visit_zeros(done: &mut usize, end: usize, visit: &mut impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
    while *done < end {
        let len = (end - *done).min(ZEROS.len());
        visit(&ZEROS[..len])?;
        *done += len;
    }
    ControlFlow::Continue(())
}

/// A string that a command changes in place. Its chunks, if it has any, are staged as they are written, and the rest by
/// [`StringEdit::save`].
pub struct StringEdit {
    owner: Owner,
    deadline_ms: u64,
    /// The length that is stored; `None` for a new key.
    stored: Option<usize>,
    content: Content,
    /// The record must be written: its bytes have changed, or the record does not say yet that it was changed in place.
    changed: bool,
}

enum Content {
    Whole(Vec<u8>),
    Chunks { len: usize },
}

impl StringEdit {
    /// Whether the key is there already.
    pub fn existed(&self) -> bool {
        self.stored.is_some()
    }

    /// The string's length.
    pub fn byte_len(&self) -> usize {
        match &self.content {
            Content::Whole(bytes) => bytes.len(),
            Content::Chunks { len } => *len,
        }
    }

    /// Fills `out` with the bytes from `offset` on; what lies behind the end is zeros.
    pub fn read(&self, context: &mut Context<'_>, offset: usize, out: &mut [u8]) -> Outcome {
        out.fill(0);
        if let Content::Whole(bytes) = &self.content {
            copy_overlap(bytes, 0, offset, out);
            return Ok(());
        }
        for number in chunks_of(offset, out.len()) {
            let stored = context.view.member(&self.owner, Column::Data, &chunk_member(number))?;
            let start = number as usize * STRING_CHUNK_LEN;
            copy_overlap(stored.unwrap_or_default(), start, offset, out);
        }
        Ok(())
    }

    /// Puts `bytes` at `offset`; the string grows with zeros up to there if it is shorter.
    pub fn write(&mut self, context: &mut Context<'_>, offset: usize, bytes: &[u8]) -> Outcome {
        let end = offset + bytes.len();
        self.grow(context, end)?;
        match &mut self.content {
            Content::Whole(whole) => {
                // Clients that watch the key see a change even if the bytes are the same.
                whole[offset..end].copy_from_slice(bytes);
                self.changed = true;
            }
            Content::Chunks { .. } => {
                for number in chunks_of(offset, bytes.len()) {
                    let start = number as usize * STRING_CHUNK_LEN;
                    let (from, to) = (offset.max(start), end.min(start + STRING_CHUNK_LEN));
                    let part = &bytes[from - offset..to - offset];
                    let is_there = part.len() < STRING_CHUNK_LEN
                        && context.view.patch_chunk(&self.owner, number, (from - start, part))?;
                    if !is_there {
                        let mut chunk = vec![0; from - start];
                        chunk.extend_from_slice(part);
                        self.put_chunk(context, number, chunk)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes those bits of the byte at `offset` which are set in `mask` those of `bits`; the string grows up to there.
    /// Returns the byte as it was.
    pub fn set_bits(
        &mut self,
        context: &mut Context<'_>,
        offset: usize,
        (mask, bits): (u8, u8),
    ) -> Result<u8, CommandError> {
        self.grow(context, offset + 1)?;
        match &mut self.content {
            Content::Whole(whole) => {
                let old = whole[offset];
                whole[offset] = old & !mask | bits & mask;
                self.changed |= whole[offset] != old;
                Ok(old)
            }
            Content::Chunks { .. } => {
                let place = ((offset / STRING_CHUNK_LEN) as u32, offset % STRING_CHUNK_LEN);
                let old = context.view.set_chunk_bits(&self.owner, place, (mask, bits))?;
                if old.is_none() && bits & mask != 0 {
                    let mut chunk = vec![0; place.1];
                    chunk.push(bits & mask);
                    self.put_chunk(context, place.0, chunk)?;
                }
                Ok(old.unwrap_or(0))
            }
        }
    }

    /// Makes the string at least `len_min` bytes long, with zeros at its end.
    pub fn grow(&mut self, context: &mut Context<'_>, len_min: usize) -> Outcome {
        if len_min.max(self.byte_len()) > WHOLE_STRING_LEN_MAX {
            self.split(context)?;
        }
        match &mut self.content {
            Content::Whole(bytes) if bytes.len() < len_min => {
                bytes.resize(len_min, 0);
                self.changed = true;
            }
            Content::Whole(_) => {}
            Content::Chunks { len } => *len = (*len).max(len_min),
        }
        Ok(())
    }

    /// Goes over to chunks, if the string is not in chunks already.
    fn split(&mut self, context: &mut Context<'_>) -> Outcome {
        let Content::Whole(bytes) = &self.content else {
            return Ok(());
        };
        self.owner.version = context.view.new_version(&self.owner.key, Type::String)?;
        for (number, chunk) in bytes.chunks(STRING_CHUNK_LEN).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                self.put_chunk(context, number as u32, chunk.to_vec())?;
            }
        }
        self.content = Content::Chunks { len: bytes.len() };
        self.changed = true;
        Ok(())
    }

    fn put_chunk(&self, context: &mut Context<'_>, number: u32, chunk: Vec<u8>) -> Outcome {
        let member = chunk_member(number);
        context.view.put_member(&self.owner, Column::Data, &member, &chunk)
    }

    /// Stages what has changed and is not staged yet. `edited` is whether the string counts as changed in place from
    /// now on.
    pub fn save(self, context: &mut Context<'_>, edited: bool) -> Outcome {
        let Owner { database, key, version } = &self.owner;
        let mut record = Record {
            edited,
            version: *version,
            ..Record::string(&[], self.deadline_ms)
        };
        match self.content {
            Content::Whole(bytes) if self.changed => {
                record.payload = &bytes;
                context.view.write(*database, key, &record)
            }
            Content::Whole(_) => Ok(()),
            Content::Chunks { len } => {
                if self.changed || self.stored != Some(len) {
                    let stored_len = (len as u64).to_be_bytes();
                    record.payload = &stored_len;
                    context.view.write(*database, key, &record)?;
                }
                Ok(())
            }
        }
    }
}

/// The numbers of the chunks that `len` bytes from `offset` on lie in.
fn chunks_of(offset: usize, len: usize) -> Range<u32> {
    // Strings end far below 2^32 chunks: those of 16 TB.
    let number = |offset: usize| u32::try_from(offset).expect("an offset below 16 TB");
    match len {
        0 => 0..0,
        _ => number(offset / STRING_CHUNK_LEN)..number((offset + len).div_ceil(STRING_CHUNK_LEN)),
    }
}

/// Copies to `out`, which stands for the bytes from `offset` on, what `bytes` has of them, beginning at `start`.
fn copy_overlap(bytes: &[u8], start: usize, offset: usize, out: &mut [u8]) {
    let (from, to) = (offset.max(start), (offset + out.len()).min(start + bytes.len()));
    if from < to {
        out[from - offset..to - offset].copy_from_slice(&bytes[from - start..to - start]);
    }
}
