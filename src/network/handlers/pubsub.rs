//! SUBSCRIBE and the like, PUBLISH, PUBSUB; and MONITOR.

use crate::error::CommandError;
use crate::network::handlers::server_commands::help;
use crate::network::session::NetworkContext;
use crate::network::subscriptions::Subscriptions;
use crate::registry::subscribers::Kind;

type Outcome = Result<(), CommandError>;

/// The count in a confirmation: of the client's channels and patterns together, or of its shard channels.
fn count_with(context: &NetworkContext<'_>, kind: Kind) -> i64 {
    let count = |kind| {
        let subscribed = context.session.subscribed.as_ref();
        subscribed.map_or(0, |subscribed| subscribed.count(kind)) as i64
    };
    match kind {
        Kind::ShardChannel => count(Kind::ShardChannel),
        Kind::Channel | Kind::Pattern => count(Kind::Channel) + count(Kind::Pattern),
    }
}

/// Confirms one change: a push, which is the command's reply.
fn confirm(context: &mut NetworkContext<'_>, kind: Kind, word: &str, name: Option<&[u8]>) {
    let count = count_with(context, kind);
    let reply = &mut context.reply;
    reply.push(3);
    reply.text(word);
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.integer(count);
}

fn subscribe_to(context: &mut NetworkContext<'_>, kind: Kind) -> Outcome {
    for name in context.arguments.iter().skip(1) {
        let mut subscriptions = context.subscriptions.borrow_mut();
        subscriptions.add(&context.server.pubsub, context.session, kind, name);
        drop(subscriptions);
        confirm(context, kind, context.command.name, Some(name));
    }
    Ok(())
}

fn unsubscribe_from(context: &mut NetworkContext<'_>, kind: Kind) -> Outcome {
    let arguments = context.arguments;
    if arguments.len() > 1 {
        arguments.iter().skip(1).for_each(|name| leave(context, kind, name));
        return Ok(());
    }
    let all = Subscriptions::names_of(context.session, kind);
    all.iter().for_each(|name| leave(context, kind, name));
    if all.is_empty() {
        confirm(context, kind, context.command.name, None);
    }
    Ok(())
}

fn leave(context: &mut NetworkContext<'_>, kind: Kind, name: &[u8]) {
    let mut subscriptions = context.subscriptions.borrow_mut();
    subscriptions.remove(&context.server.pubsub, context.session, kind, name);
    drop(subscriptions);
    confirm(context, kind, context.command.name, Some(name));
}

/// SUBSCRIBE channel [channel ...]
pub fn subscribe(context: &mut NetworkContext<'_>) -> Outcome {
    subscribe_to(context, Kind::Channel)
}

/// PSUBSCRIBE pattern [pattern ...]
pub fn psubscribe(context: &mut NetworkContext<'_>) -> Outcome {
    subscribe_to(context, Kind::Pattern)
}

/// SSUBSCRIBE shardchannel [shardchannel ...]
pub fn ssubscribe(context: &mut NetworkContext<'_>) -> Outcome {
    subscribe_to(context, Kind::ShardChannel)
}

/// UNSUBSCRIBE [channel ...]
pub fn unsubscribe(context: &mut NetworkContext<'_>) -> Outcome {
    unsubscribe_from(context, Kind::Channel)
}

/// PUNSUBSCRIBE [pattern ...]
pub fn punsubscribe(context: &mut NetworkContext<'_>) -> Outcome {
    unsubscribe_from(context, Kind::Pattern)
}

/// SUNSUBSCRIBE [shardchannel ...]
pub fn sunsubscribe(context: &mut NetworkContext<'_>) -> Outcome {
    unsubscribe_from(context, Kind::ShardChannel)
}

/// PUBLISH channel message
pub fn publish(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let receivers = context.server.pubsub.publish(arguments.get(1), arguments.get(2));
    context.reply.integer(receivers as i64);
    Ok(())
}

/// SPUBLISH shardchannel message
pub fn spublish(context: &mut NetworkContext<'_>) -> Outcome {
    let (channel, message) = (context.arguments.get(1), context.arguments.get(2));
    let receivers = context.server.pubsub.publish_to_shard_channel(channel, message);
    context.reply.integer(receivers as i64);
    Ok(())
}

/// MONITOR: only the first of a client is answered, as in Redis.
pub fn monitor(context: &mut NetworkContext<'_>) -> Outcome {
    if context.session.is_monitor {
        return Ok(());
    }
    let mut subscriptions = context.subscriptions.borrow_mut();
    subscriptions.set_monitor(&context.server.pubsub, context.session, true);
    context.reply.ok();
    Ok(())
}

// ---- PUBSUB ----

fn active(context: &mut NetworkContext<'_>, kind: Kind) -> Outcome {
    let arguments = context.arguments;
    if arguments.len() > 3 {
        let name = CommandError::quoted(arguments.get(1));
        return Err(CommandError::text(format!(
            "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
        )));
    }
    let pattern = (arguments.len() == 3).then(|| arguments.get(2));
    let names = context.server.pubsub.names(kind, pattern);
    context.reply.array(names.len());
    names.iter().for_each(|name| context.reply.bulk(name));
    Ok(())
}

fn subscriber_counts(context: &mut NetworkContext<'_>, kind: Kind) -> Outcome {
    context.reply.array((context.arguments.len() - 2) * 2);
    for name in context.arguments.iter().skip(2) {
        context.reply.bulk(name);
        let count = context.server.pubsub.subscriber_count(kind, name);
        context.reply.integer(count as i64);
    }
    Ok(())
}

/// PUBSUB CHANNELS [pattern]
pub fn pubsub_channels(context: &mut NetworkContext<'_>) -> Outcome {
    active(context, Kind::Channel)
}

/// PUBSUB NUMPAT
pub fn pubsub_numpat(context: &mut NetworkContext<'_>) -> Outcome {
    let count = context.server.pubsub.name_count(Kind::Pattern);
    context.reply.integer(count as i64);
    Ok(())
}

/// PUBSUB NUMSUB [channel ...]
pub fn pubsub_numsub(context: &mut NetworkContext<'_>) -> Outcome {
    subscriber_counts(context, Kind::Channel)
}

/// PUBSUB SHARDCHANNELS [pattern]
pub fn pubsub_shardchannels(context: &mut NetworkContext<'_>) -> Outcome {
    active(context, Kind::ShardChannel)
}

/// PUBSUB SHARDNUMSUB [shardchannel ...]
pub fn pubsub_shardnumsub(context: &mut NetworkContext<'_>) -> Outcome {
    subscriber_counts(context, Kind::ShardChannel)
}

/// PUBSUB HELP
pub fn pubsub_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "CHANNELS [<pattern>]",
            "    Return the currently active channels matching a <pattern> (default: '*').",
            "NUMPAT",
            "    Return number of subscriptions to patterns.",
            "NUMSUB [<channel> ...]",
            "    Return the number of subscribers for the specified channels, excluding",
            "    pattern subscriptions(default: no channels).",
            "SHARDCHANNELS [<pattern>]",
            "    Return the currently active shard level channels matching a <pattern> (default: '*').",
            "SHARDNUMSUB [<shardchannel> ...]",
            "    Return the number of subscribers for the specified shard level channel(s)",
        ],
    );
    Ok(())
}
