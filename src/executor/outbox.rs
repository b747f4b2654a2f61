//! What commands do beside writing and replying, from the end of the command until its writes may be seen: then its
//! events and messages are published, before the replies of the same turn leave. So they come in the order of the
//! commands, a client that has seen a reply finds them published, and of writes that were rolled back nobody hears.

use crate::commands::effects::{Effects, KeyEvent, Message};
use crate::config::EventClasses;
use crate::registry::subscribers::PubSub;
use crate::registry::tracked_keys::{Invalidation, Tracking};
use std::collections::VecDeque;
use std::sync::Arc;

/// Effects of an executor's commands that are not published yet.
pub struct Outbox {
    pubsub: Arc<PubSub>,
    tracking: Arc<Tracking>,
    /// Bounded by what may be written before it is logged: see `WRITES_WHILE_STALLED_MAX`, and the credits of the
    /// links.
    held: VecDeque<Held>,
}

/// Effects of one command.
struct Held {
    /// The newest epoch whose writes the command made or saw.
    epoch: u64,
    classes: EventClasses,
    events: Vec<KeyEvent>,
    messages: Vec<Message>,
    /// The keys that the command has written and clients have read. The clients are told even if the write is rolled
    /// back: see [`crate::executor::key_readers`].
    outdated: Vec<Invalidation>,
}

impl Outbox {
    /// Events and messages go to `pubsub`, outdated keys to `tracking`.
    pub fn new(pubsub: Arc<PubSub>, tracking: Arc<Tracking>) -> Outbox {
        Outbox {
            pubsub,
            tracking,
            held: VecDeque::new(),
        }
    }

    /// Whether everything is published.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether anybody monitors.
    pub fn is_monitored(&self) -> bool {
        self.pubsub.is_monitored()
    }

    /// Shows lines to clients that monitor, and clears them.
    pub fn show(&self, lines: &mut Vec<u8>) {
        if !lines.is_empty() {
            self.pubsub.show_to_monitors(lines);
            lines.clear();
        }
    }

    /// Takes the effects of a command that was bound to `epoch`.
    #[inline]
    pub fn take_in(&mut self, epoch: u64, effects: &mut Effects, outdated: Vec<Invalidation>) {
        if !effects.is_empty() || !outdated.is_empty() {
            self.held.push_back(Held {
                epoch,
                classes: effects.classes,
                events: std::mem::take(&mut effects.events),
                messages: std::mem::take(&mut effects.messages),
                outdated,
            });
        }
    }

    /// Publishes the effects that are bound to epochs up to `released`, oldest first.
    pub fn give_out(&mut self, released: u64) {
        let Outbox { pubsub, tracking, held } = self;
        held.retain_mut(|held| {
            let leaves = held.epoch <= released;
            if leaves {
                publish(pubsub, held.classes, &held.events, &held.messages);
                tracking.send(std::mem::take(&mut held.outdated));
            }
            !leaves
        });
    }

    /// The writes were taken back from `from_epoch` on: drops their effects.
    pub fn forget(&mut self, from_epoch: u64) {
        let Outbox { tracking, held, .. } = self;
        held.retain_mut(|held| {
            let stays = held.epoch < from_epoch.max(1);
            if !stays {
                tracking.send(std::mem::take(&mut held.outdated));
            }
            stays
        });
    }
}

/// Publishes a command's events and messages, in the order in which it made them.
pub fn publish(pubsub: &PubSub, classes: EventClasses, events: &[KeyEvent], messages: &[Message]) {
    let mut channel = Vec::new();
    let mut sent = 0;
    for event in events {
        let before = event.messages_before.min(messages.len());
        send(pubsub, &messages[sent..before]);
        sent = before;
        let mut digits = itoa::Buffer::new();
        let database = digits.format(event.database).as_bytes();
        let mut publish = |prefix: &[u8], subject: &[u8], message: &[u8]| {
            channel.clear();
            for part in [prefix, database, b"__:", subject] {
                channel.extend_from_slice(part);
            }
            pubsub.publish(&channel, message);
        };
        if classes.to_keyspace() {
            publish(b"__keyspace@", &event.key, event.name.as_bytes());
        }
        if classes.to_keyevent() {
            publish(b"__keyevent@", event.name.as_bytes(), &event.key);
        }
    }
    send(pubsub, &messages[sent..]);
}

fn send(pubsub: &PubSub, messages: &[Message]) {
    for Message {
        is_sharded,
        channel,
        payload,
    } in messages
    {
        match is_sharded {
            true => pubsub.publish_to_shard_channel(channel, payload),
            false => pubsub.publish(channel, payload),
        };
    }
}
