//! WAIT and WAITAOF, which wait on the network executor.

use crate::commands::arguments::integer;
use crate::commands::blocking::timeout_of_milliseconds;
use crate::error::CommandError;
use crate::network::session::{NetworkContext, Until, WaitHere};

/// WAIT numreplicas timeout: there are no replicas.
pub fn wait(context: &mut NetworkContext<'_>) -> Result<(), CommandError> {
    let replicas = integer(context.arguments.get(1))?;
    let timeout_ms = timeout_of_milliseconds(context.arguments.get(2), crate::clock::unix_ms())?;
    context.reply.integer(0);
    context.waits = (replicas > 0).then_some(WaitHere {
        timeout_ms,
        until: Until::TimeIsUp,
    });
    Ok(())
}

/// WAITAOF numlocal numreplicas timeout: the logs of all shards count as the one local log, and there are no replicas.
pub fn waitaof(context: &mut NetworkContext<'_>) -> Result<(), CommandError> {
    let local = integer(context.arguments.get(1))?;
    if !(0..=1).contains(&local) {
        return Err(CommandError::text(
            "ERR value is out of range, value must between 0 and 1",
        ));
    }
    let replicas = integer(context.arguments.get(2)).ok().filter(|replicas| *replicas >= 0);
    let replicas = replicas.ok_or(CommandError::text("ERR value is out of range, must be positive"))?;
    let timeout_ms = timeout_of_milliseconds(context.arguments.get(3), crate::clock::unix_ms())?;
    context.reply.array(2);
    context.reply.integer(0);
    context.reply.integer(0);
    let until = match (local, replicas) {
        (0, 0) => Until::Known,
        (_, 0) => Until::Durable,
        _ => Until::TimeIsUpAfterDurable,
    };
    context.waits = Some(WaitHere { timeout_ms, until });
    Ok(())
}
