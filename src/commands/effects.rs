//! What a command does beside writing and replying: events of keys, messages to channels, keys to be watched.
//!
//! A handler only collects its effects here. They are given out, in their order, when the command's writes are
//! committed; those of a command that fails, or is rolled back and run again, never are.

use super::Context;
use crate::command::{self, Command, LOOKS_ASIDE, QUIET, READ};
use crate::config::{EventClass, EventClasses};
use crate::error::CommandError;
use crate::protocol::Arguments;
use crate::storage::lifecycle::{KeyFate, KeyOutcome};
use crate::storage::shards::Presence;
use crate::storage::transaction_scope::DatabaseKey;

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
    /// How many messages the command had sent before.
    pub messages_before: usize,
}

/// A message for a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it is for a shard channel (SPUBLISH).
    pub is_sharded: bool,
    /// The channel.
    pub channel: Vec<u8>,
    /// What is published.
    pub payload: Vec<u8>,
}

/// Parts of a command that were the same command, for the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// [`crate::command::Command::index`].
    pub index: usize,
    /// How many there were.
    pub calls: u64,
    /// How long their handler ran, in nanoseconds.
    pub took_ns: u64,
    /// How many of them failed.
    pub failed: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Effects {
    /// Parts that were commands; they are counted whatever came of them.
    pub ran: Vec<Ran>,
    /// What the failed commands of EXEC answered.
    pub errors: Vec<Vec<u8>>,
    /// Whether somebody monitors: then the commands that scripts call are kept, as lines.
    pub is_monitored: bool,
    /// The lines of MONITOR; they are shown whatever came of the commands.
    pub shown: Vec<u8>,
    /// Which events somebody may have subscribed to; others are not collected.
    pub classes: EventClasses,
    /// Whether the client tracks what it reads: then the keys that parts of the command read are collected.
    pub tracks_read: bool,
    /// The keys that parts of the command have read.
    pub read: Vec<Vec<u8>>,
    /// Events, oldest first.
    pub events: Vec<KeyEvent>,
    /// Messages, oldest first.
    pub messages: Vec<Message>,
    /// Keys that the client watches from now on, each with how it was stored.
    pub watched: Vec<(DatabaseKey, Presence)>,
    /// The bytes of the messages that were added by [`Effects::send`].
    pub message_bytes: usize,
}

/// What one script or transaction may publish, since its messages are kept until all of it is done. As much as a
/// script's own memory has by default.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

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

    /// Counts a part of the command that was a command itself, for the statistics.
    pub fn count_run(&mut self, index: usize, took_ns: u64, failed: bool) {
        // A script may call millions, of few kinds.
        let place = self.ran.iter().position(|ran| ran.index == index);
        let place = place.unwrap_or_else(|| {
            self.ran.push(Ran {
                index,
                calls: 0,
                took_ns: 0,
                failed: 0,
            });
            self.ran.len() - 1
        });
        let ran = &mut self.ran[place];
        ran.calls += 1;
        ran.took_ns += took_ns;
        ran.failed += u64::from(failed);
    }

    /// The command begins anew: its parts were never run.
    pub fn forget_ran(&mut self) {
        self.ran.clear();
        self.errors.clear();
        self.shown.clear();
    }

    /// Adds a message to a channel, or to a shard channel (SPUBLISH), to be published when the command stands.
    ///
    /// # Errors
    /// The command's messages are too large together.
    pub fn send(&mut self, is_sharded: bool, channel: &[u8], payload: &[u8]) -> Result<(), CommandError> {
        if self.messages.is_empty() {
            self.message_bytes = 0;
        }
        let bytes = channel.len() + payload.len() + size_of::<Message>();
        if self.message_bytes + bytes > MESSAGE_BYTES_MAX {
            return Err(CommandError::text(
                "OOM the messages of a script take more than 256 MiB",
            ));
        }
        self.message_bytes += bytes;
        self.messages.push(Message {
            is_sharded,
            channel: channel.to_vec(),
            payload: payload.to_vec(),
        });
        Ok(())
    }

    /// How much there is now.
    pub fn mark(&self) -> EffectsMark {
        EffectsMark {
            events: self.events.len(),
            messages: self.messages.len(),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.events.clear();
        self.messages.clear();
        self.watched.clear();
    }

    /// Forgets what came after `mark`.
    pub fn forget_after(&mut self, mark: EffectsMark) {
        self.events.truncate(mark.events);
        self.messages.truncate(mark.messages);
    }
}

impl Context<'_> {
    /// Something happened to a key of the selected database. To say so costs nothing as long as nobody has asked for
    /// events of this class (`notify-keyspace-events`).
    #[inline]
    pub fn notify(&mut self, class: EventClass, name: &'static str, key: &[u8]) {
        self.notify_in(self.database, class, name, key);
    }

    /// The same, of another database.
    #[inline]
    pub fn notify_in(&mut self, database: u8, class: EventClass, name: &'static str, key: &[u8]) {
        if !self.effects.classes.is_empty() {
            self.add_event(database, class, name, key);
        }
    }

    fn add_event(&mut self, database: u8, class: EventClass, name: &'static str, key: &[u8]) {
        self.collect_key_outcomes();
        self.effects.add(database, class, name, key);
    }

    /// Runs a part of a command that writes in which it asks for keys as reading commands do: those that are not there
    /// are `keymiss` events.
    pub fn reading<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let wants_missed = self.effects.classes.has(EventClass::KeyMiss);
        let wanted_missed = self.view.track_missed(wants_missed);
        let result = read(self);
        self.view.track_missed(wanted_missed);
        result
    }

    /// Adds the events of what has become of keys (`expired`, `new`, `keymiss`): before the event of the command, as in
    /// Redis.
    #[inline]
    pub fn collect_key_outcomes(&mut self) {
        if !self.effects.classes.is_empty() {
            let outcomes = self.view.take_key_outcomes();
            self.effects.add_key_outcomes(&outcomes);
        }
    }
}

impl Effects {
    fn add(&mut self, database: u8, class: EventClass, name: &'static str, key: &[u8]) {
        if self.classes.has(class) {
            self.events.push(KeyEvent {
                name,
                database,
                key: key.to_vec(),
                messages_before: self.messages.len(),
            });
        }
    }

    /// Adds the events of what has become of keys.
    pub fn add_key_outcomes(&mut self, outcomes: &[KeyOutcome]) {
        for (fate, database, key) in outcomes {
            let mut add = |class, name| self.add(*database, class, name, key);
            match fate {
                KeyFate::Made => add(EventClass::New, "new"),
                KeyFate::Missed => add(EventClass::KeyMiss, "keymiss"),
                KeyFate::Expired => add(EventClass::Expired, "expired"),
                KeyFate::FieldsExpired => {
                    add(EventClass::Hash, "hexpired");
                    add(EventClass::Generic, "del");
                }
            }
        }
    }

    /// A part of the command runs: collects the keys that it reads.
    pub(super) fn track_read_by(&mut self, arguments: Arguments<'_>) {
        if self.tracks_read
            && let Some(command) = row_of(arguments).filter(|command| command.flags.has(READ))
        {
            self.read.extend(command.keys.of(arguments).map(<[u8]>::to_vec));
        }
    }

    /// Whether keys that a command misses are events: those of commands that only read, but for OBJECT and MEMORY,
    /// which do not count as use of a key. (Commands that write and read other keys say themselves what they missed.)
    #[inline]
    pub fn wants_missed(&self, command: &Command) -> bool {
        self.classes.has(EventClass::KeyMiss) && command.flags.has(READ) && !command.flags.has(LOOKS_ASIDE)
    }

    /// The same, of a part of a command.
    pub(super) fn wants_missed_by(&self, arguments: Arguments<'_>) -> bool {
        self.classes.has(EventClass::KeyMiss) && row_of(arguments).is_some_and(|command| self.wants_missed(command))
    }
}

/// Whether a part of a command is one that changes [quietly](crate::command::QUIET).
pub(super) fn is_quiet(arguments: Arguments<'_>) -> bool {
    row_of(arguments).is_some_and(|command| command.flags.has(QUIET))
}

/// The row of a part of a command.
fn row_of(arguments: Arguments<'_>) -> Option<&'static Command> {
    if arguments.is_empty() {
        return None;
    }
    let command = command::find(arguments.get(0))?;
    let subcommand = match arguments.len() {
        1 => None,
        _ => command::find_subcommand(command, arguments.get(1)),
    };
    subcommand.or(Some(command))
}
