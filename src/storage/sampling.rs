//! Random keys: see [`Shard::random_key`].

use super::database::{Column, Direction};
use super::encoding::{self, Record};
use super::shard::Shard;
use crate::error::CommandError;
use crate::slots::Slot;
use std::ops::ControlFlow;

/// Keys of which one is picked uniformly: to read so many takes a few tenths of a millisecond.
const PICKED_OF_MAX: usize = 512;

/// Bytes that are found one by one, so that one of them is picked uniformly. Where more occur, they are dense.
const BYTES_FOUND_MAX: usize = 64;

/// Bytes of keys by which the choice is narrowed one after the other, before all that is left is read: only keys of
/// which many begin with each other get so far.
const NARROWED_MAX: usize = 32;

/// Draws a number below another.
type Draw<'a> = &'a mut dyn FnMut(u64) -> u64;

/// One item of a sequence whose length is not known, each as likely.
///
/// Source: Vitter, "Random sampling with a reservoir", ACM TOMS 11(1), 1985 (algorithm R, for one).
pub(super) struct Sample<'a> {
    draw: Draw<'a>,
    seen: u64,
    /// The item that is picked so far.
    pub(super) picked: Option<Vec<u8>>,
}

/// The first and the last key of a range.
type Ends = (Vec<u8>, Vec<u8>);

impl Sample<'_> {
    /// A sample of nothing yet.
    pub(super) fn new(draw: Draw<'_>) -> Sample<'_> {
        Sample {
            draw,
            seen: 0,
            picked: None,
        }
    }

    /// The next item.
    pub(super) fn add(&mut self, item: &[u8]) {
        self.seen += 1;
        if (self.draw)(self.seen) == 0 {
            self.picked = Some(item.to_vec());
        }
    }
}

impl Shard {
    /// A key of a slot that is alive at `now_ms` (Unix milliseconds), if there is one, and the newest epoch whose
    /// writes were seen.
    ///
    /// One of few keys is picked uniformly. Of more, the choice is narrowed to those that have one byte, of those that
    /// occur, behind what all have in common, and so on: every key can come up.
    pub fn random_key(
        &mut self,
        database: u8,
        slot: Slot,
        now_ms: u64,
        draw: Draw<'_>,
    ) -> Result<(Option<Vec<u8>>, u64), CommandError> {
        let physical = self.physical(database);
        let mut from = encoding::slot_start(physical, slot).to_vec();
        let mut to = encoding::slot_start(physical, Slot(slot.0 + 1)).to_vec();
        for _ in 0..NARROWED_MAX {
            let Some((first, last)) = self.ends_if_many((&from, &to))? else {
                break;
            };
            let common = first.iter().zip(&last).take_while(|(one, other)| one == other).count();
            let (Some(lowest), Some(highest)) = (first.get(common), last.get(common)) else {
                // The first key is what all others begin with. Its share is that of one among as many as there are at
                // least.
                let behind = [&first[..], b"\0"].concat();
                match draw(PICKED_OF_MAX as u64 + 1) {
                    0 => to = behind,
                    _ => from = behind,
                }
                continue;
            };
            let occurring = self.bytes_at(common, (&from, &to))?;
            let byte = match occurring.len() {
                BYTES_FOUND_MAX => lowest + draw(u64::from(highest - lowest) + 1) as u8,
                few => occurring[draw(few as u64) as usize],
            };
            let at_byte = [&first[..common], &[byte]].concat();
            // The next byte that occurs: the last key's, if no other.
            let next = self.first_key((&at_byte, &to))?.unwrap_or(last);
            from = next[..=common].to_vec();
            to = encoding::after_prefix(from.clone()).min(to);
        }
        let mut sample = Sample::new(draw);
        let epoch = self.scan_range(Column::Meta, (&from, &to), Direction::Forward, |key, value| {
            if let (Some((_, _, key)), Some(record)) = (encoding::split_meta_key(key), Record::decode(value))
                && record.is_alive(now_ms)
            {
                sample.add(key);
            }
            ControlFlow::Continue(())
        })?;
        Ok((sample.picked, epoch))
    }

    /// The first and the last key of `meta` in a range, if there are more than [`PICKED_OF_MAX`].
    fn ends_if_many(&mut self, range: (&[u8], &[u8])) -> Result<Option<Ends>, CommandError> {
        let (mut keys, mut first) = (0, None);
        self.scan_range(Column::Meta, range, Direction::Forward, |key, _| {
            first.get_or_insert_with(|| key.to_vec());
            keys += 1;
            match keys <= PICKED_OF_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        let mut last = None;
        if keys > PICKED_OF_MAX {
            self.scan_range(Column::Meta, range, Direction::Backward, |key, _| {
                last = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
        }
        Ok(first.zip(last))
    }

    /// The bytes that occur at an index in the keys of a range, which have all bytes before it in common, in their
    /// order, [`BYTES_FOUND_MAX`] at most.
    fn bytes_at(&mut self, index: usize, (from, to): (&[u8], &[u8])) -> Result<Vec<u8>, CommandError> {
        let (mut bytes, mut from) = (Vec::new(), from.to_vec());
        while let Some(key) = self.first_key((&from, to))? {
            bytes.extend(key.get(index));
            from = encoding::after_prefix(key[..key.len().min(index + 1)].to_vec());
            if bytes.len() == BYTES_FOUND_MAX || from[..] >= *to {
                break;
            }
        }
        Ok(bytes)
    }

    fn first_key(&mut self, range: (&[u8], &[u8])) -> Result<Option<Vec<u8>>, CommandError> {
        let mut first = None;
        self.scan_range(Column::Meta, range, Direction::Forward, |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(first)
    }
}
