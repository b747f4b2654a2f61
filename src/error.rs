//! The errors that a client can be answered with: one enum of exact texts, those of Redis 7.2 where Redis has one; and
//! the errors of a shard's database.

use std::borrow::Cow;

/// What went wrong with one command; `Display` is the text after RESP's `-`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The texts say it.
pub enum CommandError {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR value is out of range, value must between -2147483648 and 2147483647")]
    NotASmallInteger,
    #[error("ERR value is not a valid float")]
    NotAFloat,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpireTime(&'static str),
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    #[error("ERR value is out of range")]
    OutOfRange,
    #[error("ERR DB index is out of range")]
    DatabaseOutOfRange,
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR source and destination objects are the same")]
    SameObject,
    #[error("ERR unknown subcommand '{0}'. Try {1} HELP.")]
    UnknownSubcommand(String, &'static str),
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR internal error")]
    Internal,
    #[error("TIMEOUT the request waited longer than request-timeout-ms and was not executed")]
    Timeout,
    #[error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")]
    Busy,
    #[error("BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.")]
    BusyFunction,
    #[error("BUSY the shard's writes are stalled by compaction; try again later")]
    Stalled,
    #[error("MISCONF the disk of this shard is full; it takes no writes until there is room")]
    DiskFull,
    #[error("SHARDDOWN this shard stopped after a failed write or sync: {0}")]
    ShardDown(String),
    /// No client sees this: the command is run again where it can wait for what it needs.
    #[error("ERR internal error")]
    Elsewhere,
    /// No client sees this: the command is run again when what it reads was fetched from the disk.
    #[error("ERR internal error")]
    NotInMemory,
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl CommandError {
    /// An error whose text no other command shares.
    pub fn text(text: impl Into<Cow<'static, str>>) -> CommandError {
        CommandError::Other(text.into())
    }

    /// Whether the command is to be undone and run again.
    pub fn asks_to_run_again(&self) -> bool {
        matches!(self, CommandError::Elsewhere | CommandError::NotInMemory)
    }

    /// A client's word as a text quotes it: up to a NUL, as with C's `%s`.
    pub fn quoted(word: &[u8]) -> Cow<'_, str> {
        let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
        String::from_utf8_lossy(&word[..end])
    }
}

/// Why RocksDB did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Writes are stalled: too many files wait for a compaction, or too much of the log for a checkpoint.
    #[error("writes are stalled")]
    Stalled,
    /// No room on the disk.
    #[error("no space left on device: {0}")]
    DiskFull(String),
    /// Anything else: the shard cannot be trusted to write on.
    #[error("{0}")]
    Failed(String),
}

impl From<DatabaseError> for CommandError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Stalled => CommandError::Stalled,
            DatabaseError::DiskFull(_) => CommandError::DiskFull,
            DatabaseError::Failed(text) => CommandError::ShardDown(text),
        }
    }
}
