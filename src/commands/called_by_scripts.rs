//! Commands that run on network executors, as scripts call them where the scripts run: PING, ECHO, TIME, PUBLISH,
//! SPUBLISH.

use super::Context;
use crate::error::CommandError;

type Outcome = Result<(), CommandError>;

/// PING \[message]
pub fn ping(context: &mut Context<'_>) -> Outcome {
    match context.arguments.len() {
        1 => context.reply.simple("PONG"),
        2 => context.reply.bulk(context.arguments.get(1)),
        _ => return Err(CommandError::Arity("ping".to_owned())),
    }
    Ok(())
}

/// ECHO message
pub fn echo(context: &mut Context<'_>) -> Outcome {
    context.reply.bulk(context.arguments.get(1));
    Ok(())
}

/// TIME
pub fn time(context: &mut Context<'_>) -> Outcome {
    let now_us = crate::clock::unix_us();
    context.reply.array(2);
    context.reply.text(&(now_us / 1_000_000).to_string());
    context.reply.text(&(now_us % 1_000_000).to_string());
    Ok(())
}

/// PUBLISH channel message
pub fn publish(context: &mut Context<'_>) -> Outcome {
    publish_generic(context, false)
}

/// SPUBLISH shardchannel message
pub fn spublish(context: &mut Context<'_>) -> Outcome {
    publish_generic(context, true)
}

/// Serves PUBLISH and SPUBLISH. The message leaves when the script is done, so nobody can have got it yet.
fn publish_generic(context: &mut Context<'_>, is_sharded: bool) -> Outcome {
    let arguments = context.arguments;
    context.effects.send(is_sharded, arguments.get(1), arguments.get(2))?;
    context.reply.integer(0);
    Ok(())
}
