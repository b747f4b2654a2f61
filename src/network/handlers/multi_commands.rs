//! MULTI, DISCARD and UNWATCH, which change only what is queued and watched on the connection.

use crate::error::CommandError;
use crate::network::session::NetworkContext;

type Outcome = Result<(), CommandError>;

/// MULTI
pub fn multi(context: &mut NetworkContext<'_>) -> Outcome {
    context.session.transaction.begin()?;
    context.reply.ok();
    Ok(())
}

/// DISCARD
pub fn discard(context: &mut NetworkContext<'_>) -> Outcome {
    if context.session.transaction.take_queue().is_none() {
        return Err(CommandError::text("ERR DISCARD without MULTI"));
    }
    context.session.transaction.unwatch();
    context.reply.ok();
    Ok(())
}

/// UNWATCH
pub fn unwatch(context: &mut NetworkContext<'_>) -> Outcome {
    context.session.transaction.unwatch();
    context.reply.ok();
    Ok(())
}
