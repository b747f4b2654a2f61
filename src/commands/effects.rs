//! What a command does beside writing and replying: events of keys and messages to channels.
//!
//! A handler only notes them here. They are given out when the command's writes are committed, in their order; of a command
//! that fails, or is dropped and run again, nothing is.

/// Something that happened to a key, for those who subscribe to
/// [keyspace notifications](https://redis.io/docs/latest/develop/use/keyspace-notifications/).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// What happened, in Redis's words (`lpush`, `del`).
    pub name: &'static str,
    /// The database, as SELECT numbers it.
    pub database: u8,
    /// The key.
    pub key: Vec<u8>,
}

/// A message for a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub channel: Vec<u8>,
    /// What.
    pub payload: Vec<u8>,
}

/// A part of a command that was a command by itself, for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// [`super::table::Command::index`].
    pub index: usize,
    /// How long its handler ran, in nanoseconds.
    pub took_ns: u64,
    /// Where its reply lies among the command's, if it is an error.
    pub error_at: Option<usize>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Effects {
    /// Parts that were commands, oldest first; they are counted whatever came of them.
    pub ran: Vec<Ran>,
    /// Events, oldest first.
    pub events: Vec<KeyEvent>,
    /// Messages, oldest first.
    pub messages: Vec<Message>,
}

/// How much of the effects there was at some time.
#[derive(Clone, Copy, Debug)]
pub struct EffectsMark {
    events: usize,
    messages: usize,
}

impl Effects {
    /// Whether there is nothing to be given out.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.messages.is_empty()
    }

    /// How much there is now.
    pub fn mark(&self) -> EffectsMark {
        EffectsMark {
            events: self.events.len(),
            messages: self.messages.len(),
        }
    }

    /// Forgets what came after `mark`.
    pub fn forget_after(&mut self, mark: EffectsMark) {
        self.events.truncate(mark.events);
        self.messages.truncate(mark.messages);
    }
}
