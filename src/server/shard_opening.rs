//! The shards' databases are opened, several at once, the logs of earlier starts are brought into them, and what a
//! crash has left half done over several shards is finished.

use super::ServerError;
use crate::error::CommandError;
use crate::scripts::function_libraries::{self, Libraries};
use crate::scripts::interpreter::{self, LoadLimit};
use crate::scripts::registry::Scripts;
use crate::slots::ShardId;
use crate::storage::checkpointing::Databases;
use crate::storage::database::{Database, DatabaseError, Resources};
use crate::storage::manifest::{Manifest, logs_path, shard_path};
use crate::storage::recovery::{self, RecoveredLog};
use crate::storage::redo;
use crate::storage::shard::Shard;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The epochs of what a start writes. An executor's turns go on from the newest of its shards.
const RECOVERY_EPOCH: u64 = 1;
const AGREEMENT_EPOCH: u64 = 2;

const _: () = assert!(RECOVERY_EPOCH < AGREEMENT_EPOCH, "epochs only grow");

/// Shards that are opened at once: each waits for the disk much of the time.
const SHARDS_OPENED_AT_ONCE_MAX: u16 = 16;

/// Opens the databases of all shards, several at once; `creates` says that there are none yet.
pub(super) fn open_databases(
    data_dir: &Path,
    manifest: &Manifest,
    creates: bool,
    resources: &Resources,
) -> Result<Databases, ServerError> {
    let next = AtomicU16::new(0);
    let open_some = || {
        let mut opened = Vec::new();
        loop {
            let id = ShardId(next.fetch_add(1, Ordering::Relaxed));
            if id.0 >= manifest.shards {
                return opened;
            }
            opened.push(open_database(data_dir, id, creates, resources).map(|database| (id, database)));
        }
    };
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..manifest.shards.min(SHARDS_OPENED_AT_ONCE_MAX))
            .map(|_| scope.spawn(open_some))
            .collect();
        let opened = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect::<Vec<_>>()
    });
    opened.into_iter().collect()
}

fn open_database(
    data_dir: &Path,
    id: ShardId,
    creates: bool,
    resources: &Resources,
) -> Result<Arc<Database>, ServerError> {
    let path = shard_path(data_dir, id.0);
    let opened = Database::open(&path, resources, creates).and_then(|database| {
        if id.0 == 0 {
            database.start_background_threads()?;
        }
        Ok(database)
    });
    opened.map_err(|error| ServerError::Shard { path, error })
}

/// Brings what the logs of earlier starts still hold into the databases; returns those logs.
pub(super) fn recover_logs(
    data_dir: &Path,
    manifest: &Manifest,
    databases: &Databases,
    loads_damaged_log: bool,
) -> Result<Vec<RecoveredLog>, ServerError> {
    let logs = logs_path(data_dir);
    let recovered = recovery::recover(&logs, manifest.log_identity(0), databases, loads_damaged_log)?;
    tracing::info!(
        logs = recovered.logs.len(),
        frames = recovered.frames,
        bytes = recovered.bytes,
        took_ms = recovered.took.as_millis(),
        "the logs of the last run are in the shards"
    );
    Ok(recovered.logs)
}

/// Makes the shards of their databases, in their order.
pub(super) fn open_shards(
    data_dir: &Path,
    databases: Databases,
    memory_bytes: usize,
) -> Result<Vec<Shard>, ServerError> {
    let opened = databases.into_iter().map(|(id, database)| {
        Shard::open(id, database, memory_bytes).map_err(|error| ServerError::Shard {
            path: shard_path(data_dir, id.0),
            error,
        })
    });
    opened.collect()
}

/// After a crash in the middle of a SWAPDB the shard with the most swaps is right, and the others follow.
pub(super) fn agree_on_database_map(shards: &mut [Shard], data_dir: &Path) -> Result<(), ServerError> {
    let Some(newest) = shards.iter().map(Shard::database_map).max_by_key(|map| map.generation) else {
        return Ok(());
    };
    for shard in shards.iter_mut().filter(|shard| shard.database_map() != newest) {
        shard.begin_turn(AGREEMENT_EPOCH);
        let path = shard_path(data_dir, shard.id().0);
        let failed = |error: CommandError| ServerError::Shard {
            path: path.clone(),
            error: DatabaseError::Failed(error.to_string()),
        };
        shard.set_database_map(newest).map_err(&failed)?;
        shard.write_through().map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Finishes the transactions over several shards that a crash has interrupted.
pub(super) fn finish_transactions(shards: &mut [Shard], data_dir: &Path) -> Result<(), ServerError> {
    let found = redo::recover(shards, RECOVERY_EPOCH).map_err(|error| ServerError::Shard {
        path: data_dir.to_owned(),
        error: DatabaseError::Failed(error.to_string()),
    })?;
    if found > 0 {
        tracing::info!(
            found,
            "finished the transactions over several shards that the last run had begun"
        );
    }
    Ok(())
}

/// Runs the code of the function libraries, which the first shard has, so that their functions are known.
pub(super) fn load_functions(shard: &mut Shard, scripts: &Scripts) -> Result<(), DatabaseError> {
    let codes = shard.libraries();
    let codes = codes.map_err(|error| DatabaseError::Failed(error.to_string()))?;
    if codes.is_empty() {
        return Ok(());
    }
    let failed = |error: CommandError| DatabaseError::Failed(format!("a function library cannot be loaded: {error}"));
    let interpreter = interpreter::take(scripts).map_err(failed)?;
    let mut libraries = Libraries::default();
    for code in &codes {
        let library = function_libraries::load(&interpreter, code, LoadLimit::Known).map_err(failed)?;
        libraries.add(Arc::new(library)).map_err(failed)?;
    }
    scripts.functions.publish(libraries);
    Ok(())
}
