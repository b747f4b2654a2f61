//! What a storage executor answers to a step of a transaction over several executors: the only file that knows how.

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

#[cfg(test)]
mod tests {
    use super::*;

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
