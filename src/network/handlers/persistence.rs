//! SAVE, BGSAVE, LASTSAVE, BGREWRITEAOF and ROLE: what clients of Redis ask about files and replicas.
//!
//! Every write is in a log before it is answered, so SAVE only waits until the log is synced as far as it had been
//! written. RocksDB keeps the log short, and there are no replicas.

use crate::commands::arguments::is_option;
use crate::config::{Durability, SharedSettings};
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::protocol::{Reply, Version};
use crate::registry::metrics::ShardMetrics;
use crate::registry::server_state::HOUSEKEEPING_INTERVAL;
use crate::registry::server_state::Saves;
use crate::storage::shard::ShardState;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome = Result<(), CommandError>;

/// After so long the shards have published the epochs that were committed at the beginning.
const PUBLISHED_WITHIN: Duration = HOUSEKEEPING_INTERVAL.saturating_mul(5);

/// How often the shards' progress is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long a sync may take once it is due.
const SYNC_MAX: Duration = Duration::from_secs(60);

/// A save that has begun. It ends when it is dropped, also where no thread could be given to it.
struct Save {
    has_saved: bool,
    saves: Arc<Saves>,
    shards: Vec<Arc<ShardMetrics>>,
    settings: SharedSettings,
}

impl Save {
    fn begin(context: &NetworkContext<'_>) -> Result<Save, CommandError> {
        let server = context.server;
        if server.settings.snapshot().durability == Durability::None {
            return Err(CommandError::text(
                "ERR durability is none: the server leaves it to the operating system when its log reaches the disk",
            ));
        }
        server.saves.begin()?;
        Ok(Save {
            has_saved: false,
            saves: Arc::clone(&server.saves),
            shards: server.shards.clone(),
            settings: server.settings.clone(),
        })
    }

    /// Waits until everything that was answered before is on disk, and says so to LASTSAVE. Blocks.
    fn finish(mut self) -> Outcome {
        let saved = self.wait();
        self.has_saved = saved.is_ok();
        saved
    }

    fn wait(&self) -> Outcome {
        std::thread::sleep(PUBLISHED_WITHIN);
        let due = Duration::from_millis(self.settings.snapshot().sync_interval_ms);
        let give_up_at = Instant::now() + due + SYNC_MAX;
        for shard in &self.shards {
            let epoch = shard.committed_epoch.get();
            while shard.durable_epoch.get() < epoch {
                if ShardState::NAMES.get(shard.state.get() as usize) == Some(&"unavailable") {
                    return Err(CommandError::ShardDown("its log could not be synced".to_owned()));
                }
                if Instant::now() >= give_up_at {
                    return Err(CommandError::text("ERR the disk has not finished a sync in time"));
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
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
            Err(error) => reply.error(error.to_string()),
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

/// BGREWRITEAOF: refused, since there is nothing to rewrite.
pub fn bgrewriteaof(_: &mut NetworkContext<'_>) -> Outcome {
    Err(CommandError::text(
        "ERR there is no append only file to rewrite: the logs of the shards are kept short as they are written",
    ))
}

/// ROLE: a master without replicas.
pub fn role(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.array(3);
    context.reply.text("master");
    context.reply.integer(0);
    context.reply.array(0);
    Ok(())
}
