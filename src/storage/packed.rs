//! The cells of a small collection, packed into its record.
//!
//! A small hash as cells of its own costs three times what it does here: each cell has the names of its owner, and
//! memory keeps what it knows of a collection beside what it knows of the record. In the record it is read, logged,
//! kept and dropped like a string. What is packed is what `data` would have, in the order in which the members were
//! added.

use super::encoding::{put_varint, take_varint};
use std::ops::Range;

/// The most members that are packed.
pub const PACKED_MEMBERS_MAX: u64 = 128;

const _: () = assert!(
    PACKED_MEMBERS_MAX <= u8::MAX as u64,
    "a record has their number in a byte"
);

/// The most bytes that are packed: a change writes all of them to the log.
pub const PACKED_BYTES_MAX: usize = 512;

/// A member and what `data` would have of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// The member.
    pub member: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The cells that are packed, one after the other; ends early where the bytes are damaged.
#[derive(Clone)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

/// Reads what is packed.
#[inline]
pub fn cells(packed: &[u8]) -> Cells<'_> {
    Cells { rest: packed }
}

#[inline]
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = match rest.split_first() {
        Some((&len, behind)) if len < 0x80 => {
            *rest = behind;
            usize::from(len)
        }
        _ => usize::try_from(take_varint(rest)?).ok()?,
    };
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(bytes)
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        let member = take_bytes(&mut self.rest)?;
        let value = take_bytes(&mut self.rest)?;
        Some(Cell { member, value })
    }
}

/// The value of a member, and where in `packed` its cell lies.
#[inline]
fn locate<'a>(packed: &'a [u8], member: &[u8]) -> Option<(&'a [u8], Range<usize>)> {
    let mut cells = cells(packed);
    let mut start = 0;
    while let Some(cell) = cells.next() {
        let end = packed.len() - cells.rest.len();
        if cell.member == member {
            return Some((cell.value, start..end));
        }
        start = end;
    }
    None
}

/// The value of a member.
#[inline]
pub fn value<'a>(packed: &'a [u8], member: &[u8]) -> Option<&'a [u8]> {
    locate(packed, member).map(|(value, _)| value)
}

/// The value of the member that was added last.
pub fn last_value(packed: &[u8]) -> Option<&[u8]> {
    cells(packed).last().map(|cell| cell.value)
}

/// Puts a member, in its place if it is one of the `count` that are there. Whether there is room for it; where there is
/// none nothing changes.
pub fn put(packed: &mut Vec<u8>, count: u64, member: &[u8], value: &[u8]) -> bool {
    let old = locate(packed, member).map(|(value, cell)| (value.len(), cell));
    if let Some((len, cell)) = &old
        && *len == value.len()
    {
        packed[cell.end - len..cell.end].copy_from_slice(value);
        return true;
    }
    let mut lengths = Vec::with_capacity(4);
    put_varint(&mut lengths, member.len() as u64);
    let of_member = lengths.len();
    put_varint(&mut lengths, value.len() as u64);
    let len = lengths.len() + member.len() + value.len();
    let replaced = old.map_or(packed.len()..packed.len(), |(_, cell)| cell);
    let is_full = replaced.is_empty() && count >= PACKED_MEMBERS_MAX;
    if is_full || packed.len() - replaced.len() + len > PACKED_BYTES_MAX {
        return false;
    }
    let (of_member, of_value) = lengths.split_at(of_member);
    let cell = of_member.iter().chain(member).chain(of_value).chain(value);
    match replaced.start == packed.len() {
        true => packed.extend(cell),
        false => drop(packed.splice(replaced, cell.copied())),
    }
    true
}

/// Removes a member, if it is there.
pub fn remove(packed: &mut Vec<u8>, member: &[u8]) {
    if let Some((_, cell)) = locate(packed, member) {
        packed.drain(cell);
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;

    fn members(packed: &[u8]) -> Vec<(&[u8], &[u8])> {
        cells(packed).map(|cell| (cell.member, cell.value)).collect()
    }

    #[test]
    fn golden_bytes() {
        let mut packed = Vec::new();
        assert!(put(&mut packed, 0, b"ab", b"\x02v"));
        assert!(put(&mut packed, 1, b"", b""));
        assert_eq!(packed, b"\x02ab\x02\x02v\0\0");
        assert!(put(&mut packed, 2, b"ab", &[b'x'; 200]));
        assert_eq!(packed[..5], *b"\x02ab\xc8\x01");
        assert_eq!(members(&packed), [(&b"ab"[..], &[b'x'; 200][..]), (b"", b"")]);
        remove(&mut packed, b"ab");
        assert_eq!(packed, b"\0\0");
        assert_eq!((value(&packed, b""), value(&packed, b"ab")), (Some(&b""[..]), None));
        assert_eq!(last_value(&packed), Some(&b""[..]));
    }

    #[test]
    fn is_what_a_list_of_cells_would_be() {
        let mut random = seeded_random::printed();
        for _ in 0..200 {
            let (mut packed, mut expected) = (Vec::new(), Vec::<(Vec<u8>, Vec<u8>)>::new());
            for _ in 0..200 {
                let member = vec![b'm'; random.random_range(0..20)];
                let place = expected.iter().position(|(other, _)| *other == member);
                if random.random_bool(0.2) {
                    remove(&mut packed, &member);
                    place.map(|place| expected.remove(place));
                } else {
                    let value = vec![b'v'; random.random_range(0..150)];
                    let cell_len = |(member, value): (&[u8], &[u8])| {
                        let long = usize::from(value.len() > 127);
                        2 + long + member.len() + value.len()
                    };
                    let others = expected.iter().filter(|(other, _)| *other != member);
                    let others: usize = others.map(|(member, value)| cell_len((member, value))).sum();
                    let fits = others + cell_len((&member, &value)) <= PACKED_BYTES_MAX;
                    let count = expected.len() as u64;
                    assert_eq!(put(&mut packed, count, &member, &value), fits);
                    match place {
                        Some(place) if fits => expected[place].1 = value,
                        None if fits => expected.push((member, value)),
                        _ => {}
                    }
                }
                let as_slices = expected.iter().map(|(member, value)| (&member[..], &value[..]));
                assert_eq!(members(&packed), as_slices.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_more_members_than_the_bound() {
        let mut packed = Vec::new();
        for number in 0..PACKED_MEMBERS_MAX {
            assert!(put(&mut packed, number, &[number as u8], b""));
        }
        assert!(!put(&mut packed, PACKED_MEMBERS_MAX, &[PACKED_MEMBERS_MAX as u8], b""));
        assert!(put(&mut packed, PACKED_MEMBERS_MAX, &[7], b"v"), "it is there");
    }

    #[test]
    fn damaged_bytes_end_early() {
        for (damaged, whole) in [
            (&b"\x01a\x01"[..], 0),
            (b"\x01a\x00\x05", 1),
            (b"\xff", 0),
            (b"\xff\xff\xff", 0),
        ] {
            assert_eq!(members(damaged).len(), whole);
            assert_eq!(value(damaged, b"b"), None);
            remove(&mut damaged.to_vec(), b"b");
        }
    }
}
