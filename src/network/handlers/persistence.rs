//! SAVE, BGSAVE, LASTSAVE, BGREWRITEAOF and ROLE: what clients of Redis ask about files and replicas.
//!
//! Every write is in a log before it is answered, so SAVE only syncs the logs, whatever the durability setting. RocksDB
//! keeps the logs short, and there are no replicas.

use crate::commands::arguments::is_option;
use crate::error::{CommandError, DatabaseError};
use crate::network::session::NetworkContext;
use crate::protocol::{Reply, Version};
use crate::registry::server_state::Saves;
use crate::storage::executor_log::LogProgress;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// A save that has begun. It ends when it is dropped, also where no thread could be given to it.
struct Save {
    has_saved: bool,
    saves: Arc<Saves>,
    logs: Vec<Arc<LogProgress>>,
}

impl Save {
    fn begin(context: &NetworkContext<'_>) -> Result<Save, CommandError> {
        let server = context.server;
        server.saves.begin()?;
        Ok(Save {
            has_saved: false,
            saves: Arc::clone(&server.saves),
            logs: server.logs.clone(),
        })
    }

    /// Syncs all that was answered before, and says so to LASTSAVE. Blocks.
    ///
    /// # Errors
    /// A log has failed, now or before: nobody can tell what of it is on disk.
    fn finish(mut self) -> Result<(), DatabaseError> {
        for log in &self.logs {
            log.sync()?;
            log.check()?;
        }
        self.has_saved = true;
        Ok(())
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        self.saves.end(self.has_saved);
    }
}

/// SAVE: waits, on another thread, until all that was answered is on disk.
pub fn save(context: &mut NetworkContext<'_>) -> Outcome {
    let save = Save::begin(context)?;
    context.deferred = Some(Box::new(move || {
        let mut bytes = Vec::new();
        // OK and errors are the same in both protocols.
        let mut reply = Reply::new(&mut bytes, Version::Resp2);
        match save.finish() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(CommandError::from(error).to_string()),
        }
        bytes
    }));
    Ok(())
}

/// BGSAVE [SCHEDULE]: answered at once; LASTSAVE tells when all that was answered before is on disk.
pub fn bgsave(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        1 => {}
        2 if is_option(arguments.get(1), "SCHEDULE") => {}
        _ => return Err(CommandError::Syntax),
    }
    let save = Save::begin(context)?;
    context.server.admin_threads.run(move || {
        if let Err(error) = save.finish() {
            tracing::warn!(%error, "BGSAVE failed");
        }
    })?;
    context.reply.simple("Background saving started");
    Ok(())
}

/// LASTSAVE
pub fn lastsave(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.integer(context.server.saves.last_s() as i64);
    Ok(())
}

/// BGREWRITEAOF: answered at once; the logs become short, as RocksDB gets what is in them.
pub fn bgrewriteaof(context: &mut NetworkContext<'_>) -> Outcome {
    for log in &context.server.logs {
        log.ask_for_checkpoint();
    }
    context.reply.simple("Background append only file rewriting started");
    Ok(())
}

/// ROLE: a master without replicas.
pub fn role(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.array(3);
    context.reply.text("master");
    context.reply.integer(0);
    context.reply.array(0);
    Ok(())
}
