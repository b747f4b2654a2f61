//! A list whose elements never move while it grows. A vector would be copied as a whole, for a tenth of a second where
//! it has ten million entries, and would take its memory twice meanwhile.

use std::ops::{Index, IndexMut};

/// Bytes of a piece, about.
const PIECE_BYTES: usize = 128 * 1024;

/// A list in pieces.
pub(super) struct PiecedList<T> {
    /// All but the last one are full, and none is empty.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for PiecedList<T> {
    fn default() -> PiecedList<T> {
        PiecedList { pieces: Vec::new() }
    }
}

impl<T> PiecedList<T> {
    /// Elements of a full piece: a power of two.
    const PIECE_LEN: usize = match PIECE_BYTES / size_of::<T>() {
        0 => 1,
        fitting => 1 << fitting.ilog2(),
    };

    /// How many elements there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self.pieces.last() {
            Some(last) => (self.pieces.len() - 1) * Self::PIECE_LEN + last.len(),
            None => 0,
        }
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The element at a place, if there is one.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.pieces.get(at / Self::PIECE_LEN)?.get(at % Self::PIECE_LEN)
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.pieces.get_mut(at / Self::PIECE_LEN)?.get_mut(at % Self::PIECE_LEN)
    }

    /// Adds an element behind all others.
    pub(super) fn push(&mut self, element: T) {
        if self.pieces.last().is_none_or(|last| last.len() == Self::PIECE_LEN) {
            // The first piece grows, so that a short list takes little.
            let room = if self.pieces.is_empty() { 0 } else { Self::PIECE_LEN };
            self.pieces.push(Vec::with_capacity(room));
        }
        let last = self.pieces.last_mut().expect("there is a piece with room");
        last.push(element);
    }

    /// Takes the last element out.
    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.pieces.last_mut()?;
        let element = last.pop();
        if last.is_empty() {
            self.pieces.pop();
        }
        element
    }

    /// Takes an element out, into whose place the last one comes.
    ///
    /// # Panics
    /// If there is none at that place.
    pub(super) fn swap_remove(&mut self, at: usize) -> T {
        let last = self.pop().expect("there is an element at that place");
        match self.get_mut(at) {
            Some(place) => std::mem::replace(place, last),
            None => {
                assert_eq!(at, self.len(), "there is an element at that place");
                last
            }
        }
    }

    /// The elements in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

impl<T> Index<usize> for PiecedList<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: usize) -> &T {
        &self.pieces[at / Self::PIECE_LEN][at % Self::PIECE_LEN]
    }
}

impl<T> IndexMut<usize> for PiecedList<T> {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pieces[at / Self::PIECE_LEN][at % Self::PIECE_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;

    #[test]
    fn a_list_in_pieces_is_a_list() {
        let mut random = seeded_random::printed();
        // Pieces of two, so that many come and go.
        let (mut list, mut model) = (PiecedList::<[u8; PIECE_BYTES / 2]>::default(), Vec::new());
        let element = |number: u8| [number; PIECE_BYTES / 2];
        for _ in 0..2000 {
            let number: u8 = random.random();
            match random.random_range(0..5) {
                0 | 1 if model.len() < 20 => {
                    list.push(element(number));
                    model.push(number);
                }
                2 => assert_eq!(list.pop().map(|found| found[0]), model.pop()),
                3 if !model.is_empty() => {
                    let at = random.random_range(0..model.len());
                    assert_eq!(list.swap_remove(at)[0], model.swap_remove(at));
                }
                _ if !model.is_empty() => {
                    let at = random.random_range(0..model.len());
                    list[at] = element(number);
                    model[at] = number;
                }
                _ => {}
            }
            assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
            assert!(list.iter().map(|found| found[0]).eq(model.iter().copied()));
            assert!(list.get(model.len()).is_none());
        }
    }
}
