//! The shards are opened, several at once, and what a crash has left half done over several of them is finished.

use super::ServerError;
use crate::error::CommandError;
use crate::scripts::function_libraries::{self, Libraries};
use crate::scripts::interpreter::{self, LoadLimit};
use crate::scripts::registry::Scripts;
use crate::slots::ShardId;
use crate::storage::database::{Database, DatabaseError, OpenError, Opening, Resources};
use crate::storage::manifest::{Manifest, shard_path};
use crate::storage::redo;
use crate::storage::shard::Shard;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The epochs of what a start writes. An executor's turns go on from the newest of its shards.
const RECOVERY_EPOCH: u64 = 1;
const AGREEMENT_EPOCH: u64 = 2;

const _: () = assert!(RECOVERY_EPOCH < AGREEMENT_EPOCH, "epochs only grow");

/// Shards that are opened at once: each replays its log into memtables of its own.
const SHARDS_OPENED_AT_ONCE_MAX: u16 = 16;

/// Opens all shards, several at once, since each waits for the disk much of the time.
pub(super) fn open_shards(
    data_dir: &Path,
    (manifest, opening): (&Manifest, Opening),
    resources: &Resources,
    value_cache_bytes: usize,
) -> Result<Vec<Shard>, ServerError> {
    let next = AtomicU16::new(0);
    let open_some = || {
        let mut opened = Vec::new();
        loop {
            let id = ShardId(next.fetch_add(1, Ordering::Relaxed));
            if id.0 >= manifest.shards {
                return opened;
            }
            opened.push((id, open_shard(data_dir, id, opening, resources, value_cache_bytes)));
        }
    };
    let mut opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..manifest.shards.min(SHARDS_OPENED_AT_ONCE_MAX))
            .map(|_| scope.spawn(open_some))
            .collect();
        let opened = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect::<Vec<_>>()
    });
    opened.sort_by_key(|(id, _)| *id);
    let shards = opened.into_iter().map(|(_, shard)| shard);
    shards.collect()
}

fn open_shard(
    data_dir: &Path,
    id: ShardId,
    opening: Opening,
    resources: &Resources,
    value_cache_bytes: usize,
) -> Result<Shard, ServerError> {
    let path = shard_path(data_dir, id.0);
    let failed = |error| ServerError::Shard {
        path: path.clone(),
        error,
    };
    let database = Database::open(&path, resources, opening).map_err(|error| match error {
        OpenError::DamagedLog(loss) => ServerError::DamagedLog { loss },
        OpenError::UnreadableLog(error) => failed(DatabaseError::Failed(format!("its log cannot be read: {error}"))),
        OpenError::Database(error) => failed(error),
    })?;
    if id.0 == 0 {
        database.start_background_threads().map_err(failed)?;
    }
    Shard::open(id, database, value_cache_bytes).map_err(failed)
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
        shard.commit().map_err(|error| failed(error.into()))?;
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
pub(super) fn load_functions(shard: &Shard, scripts: &Scripts) -> Result<(), DatabaseError> {
    let codes = shard.libraries()?;
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
