//! What a storage executor answers to a step of a transaction over several executors: the only file that knows how it
//! is written. What it is asked is in [`step_arguments`](super::step_arguments).

use crate::storage::encoding::Type;
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::gathered::{KeyAndType, Member};

/// An answer. Errors are those of RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepAnswer<'a> {
    /// The step is done.
    Done,
    /// What was asked for: of a schedule step what is under the keys, which are locked.
    Content(&'a [u8]),
    /// The transaction came too late and must come again with a new number.
    TooLate,
    /// The client has an earlier command waiting here. The transaction comes again a little later: if it waited here
    /// while it had its locks elsewhere, those before it could wait for those locks.
    Behind,
    /// There is a redo record, and it is committed.
    Decided,
    /// There is no redo record, and never will be.
    NeverWas,
    /// The step failed, and this is why.
    Error(&'a [u8]),
    /// What became of the step is not known: its shard has stopped.
    Unknown,
}

/// The first byte of [`StepAnswer::Content`], with which no other answer begins.
const CONTENT: u8 = b'=';

/// The answers that say nothing else.
const FIXED: [(StepAnswer<'static>, &[u8]); 6] = [
    (StepAnswer::Done, b"+OK\r\n"),
    (StepAnswer::TooLate, b"-RETRY\r\n"),
    (StepAnswer::Behind, b"-BEHIND\r\n"),
    (StepAnswer::Decided, b":1\r\n"),
    (StepAnswer::NeverWas, b":0\r\n"),
    (StepAnswer::Unknown, b""),
];

/// What an error begins with that says that its shard has stopped.
const STOPPED: &[u8] = b"-SHARDDOWN ";

impl<'a> StepAnswer<'a> {
    /// The answer that an executor has given.
    pub fn decode(bytes: &'a [u8]) -> StepAnswer<'a> {
        if let Some((answer, _)) = FIXED.iter().find(|(_, fixed)| *fixed == bytes) {
            return *answer;
        }
        match bytes.split_first() {
            Some((&CONTENT, content)) => StepAnswer::Content(content),
            Some((b'-', _)) => StepAnswer::Error(bytes),
            _ => StepAnswer::Unknown,
        }
    }

    /// The bytes of an answer that says nothing else.
    pub fn fixed(self) -> &'static [u8] {
        let found = FIXED.iter().find(|(answer, _)| *answer == self);
        found.expect("an answer with content is begun and then written").1
    }

    /// Begins an answer with content, which is appended behind.
    pub fn begin_content(out: &mut Vec<u8>) {
        out.push(CONTENT);
    }

    /// Whether it is an error which says that the shard has stopped.
    pub fn is_of_stopped_shard(self) -> bool {
        matches!(self, StepAnswer::Error(text) if text.starts_with(STOPPED))
    }
}

/// Appends a member to the answer to [`Question::Members`](super::step_arguments::Question::Members).
pub fn write_member(out: &mut Vec<u8>, member: &[u8], value: &[u8]) {
    let mut fields = FieldWriter(out);
    fields.bytes(member);
    fields.bytes(value);
}

/// Reads that answer; `None` if it is damaged.
pub fn decode_members(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut fields = FieldReader(bytes);
    let mut members = Vec::new();
    while !fields.is_at_end() {
        members.push((fields.bytes()?.to_vec(), fields.bytes()?.to_vec()));
    }
    Some(members)
}

/// Appends a key to the answer to [`Question::KeysOf`](super::step_arguments::Question::KeysOf).
pub fn write_key(out: &mut Vec<u8>, kind: Type, key: &[u8]) {
    let mut fields = FieldWriter(out);
    fields.byte(1);
    fields.byte(kind as u8);
    fields.bytes(key);
}

/// Ends that answer, with the last key that was looked at if there are more.
pub fn end_keys(out: &mut Vec<u8>, last: Option<&[u8]>) {
    let mut fields = FieldWriter(out);
    fields.byte(0);
    fields.optional_bytes(last);
}

/// Reads that answer: keys and their types, and the last key that was looked at if there are more; `None` if it is
/// damaged.
pub fn decode_keys(bytes: &[u8]) -> Option<(Vec<KeyAndType>, Option<Vec<u8>>)> {
    let mut fields = FieldReader(bytes);
    let mut keys = Vec::new();
    while fields.byte()? == 1 {
        let kind = Type::from_code(fields.byte()?)?;
        keys.push((fields.bytes()?.to_vec(), kind));
    }
    Some((keys, fields.optional_bytes()?.map(<[u8]>::to_vec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_keys_read_back_as_they_were_written() {
        let mut members = Vec::new();
        write_member(&mut members, b"m", b"value");
        write_member(&mut members, b"", b"");
        let expected = vec![(b"m".to_vec(), b"value".to_vec()), (Vec::new(), Vec::new())];
        assert_eq!(decode_members(&members), Some(expected));
        let mut keys = Vec::new();
        write_key(&mut keys, Type::List, b"a");
        end_keys(&mut keys, Some(b"b"));
        let expected = (vec![(b"a".to_vec(), Type::List)], Some(b"b".to_vec()));
        assert_eq!(decode_keys(&keys), Some(expected));
        assert_eq!(decode_keys(&keys[..keys.len() - 1]), None);
    }

    #[test]
    fn answers_read_back_as_they_were_written() {
        for (answer, bytes) in FIXED {
            assert_eq!(answer.fixed(), bytes);
            assert_eq!(StepAnswer::decode(bytes), answer);
        }
        let mut content = Vec::new();
        StepAnswer::begin_content(&mut content);
        content.extend_from_slice(b"-abc");
        assert_eq!(StepAnswer::decode(&content), StepAnswer::Content(b"-abc"));
        let stopped = StepAnswer::decode(b"-SHARDDOWN it did\r\n");
        assert_eq!(stopped, StepAnswer::Error(b"-SHARDDOWN it did\r\n"));
        assert!(stopped.is_of_stopped_shard());
        assert!(!StepAnswer::decode(b"-ERR no\r\n").is_of_stopped_shard());
    }
}
