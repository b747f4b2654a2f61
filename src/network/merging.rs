//! Makes one reply of those that several storage executors give to the parts of a command.

use crate::command::Merge;
use crate::protocol::Reply;
use crate::protocol::reply::Version;

/// The replies to the parts of a command, which run on several storage executors.
pub(super) struct Merging {
    merge: Merge,
    version: Version,
    parts_left: usize,
    sum: i64,
    error: Option<Vec<u8>>,
    /// The replies, by part; empty where the merge needs less than the whole reply.
    replies: Vec<Vec<u8>>,
    /// Bytes of all `replies`.
    held_bytes: usize,
    /// The part with which [`Merge::AnyOf`] begins, modulo their number.
    seed: usize,
}

impl Merging {
    /// Of a command with so many parts.
    pub(super) fn new(merge: Merge, version: Version, parts: usize) -> Merging {
        Merging {
            merge,
            version,
            parts_left: parts,
            sum: 0,
            error: None,
            replies: vec![Vec::new(); parts],
            held_bytes: 0,
            seed: crate::clock::unix_us() as usize,
        }
    }

    /// Bytes of the parts' replies that are here.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes a piece of the reply to one part.
    pub(super) fn add_piece(&mut self, part: usize, bytes: &[u8]) {
        self.held_bytes += bytes.len();
        self.replies[part].extend_from_slice(bytes);
    }

    /// Takes the reply to one part, or the last piece of it; returns whether all parts are answered.
    pub(super) fn add(&mut self, part: usize, reply: &[u8]) -> bool {
        assert!(self.parts_left > 0, "a part is answered once");
        self.parts_left -= 1;
        match (reply.first(), self.merge) {
            (Some(b'-'), _) => {
                self.error.get_or_insert_with(|| reply.to_vec());
            }
            (_, Merge::Sum) => self.sum += read_integer(reply).unwrap_or(0),
            (_, Merge::AllOk) => {}
            _ => self.add_piece(part, reply),
        }
        self.parts_left == 0
    }

    /// The reply to the command, made of those to its parts, which are gone then.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        assert_eq!(self.parts_left, 0, "a reply is made when all parts are answered");
        let parts = std::mem::take(&mut self.replies);
        self.held_bytes = 0;
        if let Some(error) = self.error.take() {
            return error;
        }
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, self.version);
        match self.merge {
            Merge::Sum => reply.integer(self.sum),
            Merge::AllOk => reply.ok(),
            Merge::AnyOf => {
                let count = parts.len();
                let mut in_turn = (0..count).map(|step| &parts[(self.seed + step) % count]);
                match in_turn.find(|part| !is_null(part)) {
                    Some(part) => reply.raw(part),
                    None => reply.null(),
                }
            }
            Merge::Concatenate => {
                let arrays = parts.iter().filter_map(|part| array_of(part));
                reply.array(arrays.map(|(count, _)| count).sum());
                // Each part is freed when it was copied, so that a large reply is not in memory twice.
                for part in parts {
                    if let Some((_, elements)) = array_of(&part) {
                        out.extend_from_slice(elements);
                    }
                }
            }
        }
        out
    }
}

fn read_integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_null(reply: &[u8]) -> bool {
    matches!(reply, b"$-1\r\n" | b"_\r\n" | b"")
}

/// The number of an array's elements, and their bytes.
pub(super) fn array_of(reply: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\n', reply)?;
    let digits = reply.get(1..end.checked_sub(1)?)?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, &reply[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(merge: Merge, replies: &[&[u8]]) -> Vec<u8> {
        let mut merging = Merging::new(merge, Version::Resp2, replies.len());
        for (part, reply) in replies.iter().enumerate() {
            assert_eq!(merging.add(part, reply), part + 1 == replies.len());
        }
        merging.finish()
    }

    #[test]
    fn replies_become_one() {
        assert_eq!(merged(Merge::Sum, &[b":12\r\n", b":-2\r\n"]), b":10\r\n");
        assert_eq!(merged(Merge::AllOk, &[b"+OK\r\n", b"-ERR no\r\n"]), b"-ERR no\r\n");
        assert_eq!(merged(Merge::AnyOf, &[b"$-1\r\n", b"$1\r\na\r\n"]), b"$1\r\na\r\n");
        assert_eq!(
            merged(
                Merge::Concatenate,
                &[b"*1\r\n$1\r\na\r\n", b"*0\r\n", b"*2\r\n$1\r\nb\r\n$1\r\nc\r\n"]
            ),
            b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"
        );
    }
}
