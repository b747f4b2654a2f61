//! MEMORY, but for USAGE, which is about a key.

use super::server_commands::help;
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::observe::allocator;
use crate::observe::memory::{Memory, diagnosis, share_percent};
use crate::protocol::{Reply, Version};

type Outcome = Result<(), CommandError>;

/// MEMORY HELP
pub fn memory_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "DOCTOR",
            "    Return memory problems reports.",
            "MALLOC-STATS",
            "    Return internal statistics report from the memory allocator.",
            "PURGE",
            "    Attempt to purge dirty pages for reclamation by the allocator.",
            "STATS",
            "    Return information about the memory usage of the server.",
            "USAGE <key> [SAMPLES <count>]",
            "    Return memory in bytes used by <key> and its value. Nested values are",
            "    sampled up to <count> times (default: 5, 0 means sample all).",
        ],
    );
    Ok(())
}

/// MEMORY DOCTOR
pub fn memory_doctor(context: &mut NetworkContext<'_>) -> Outcome {
    let server = context.server;
    let (cached_scripts, _) = server.scripts.cached();
    let text = diagnosis(&Memory::read(server), server.clients.all().len(), cached_scripts);
    context.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// MEMORY MALLOC-STATS: what Redis answers without jemalloc.
pub fn memory_malloc_stats(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.text("Stats not supported for the current allocator");
    Ok(())
}

/// MEMORY PURGE, on a thread of its own, since it may look through all of RocksDB's memory.
pub fn memory_purge(context: &mut NetworkContext<'_>) -> Outcome {
    context.deferred = Some(Box::new(|| {
        allocator::give_back();
        let mut bytes = Vec::new();
        // OK is the same in both protocols.
        Reply::new(&mut bytes, Version::Resp2).ok();
        bytes
    }));
    Ok(())
}

/// A figure of MEMORY STATS.
enum Figure {
    Number(u64),
    Percent(f64),
}

/// MEMORY STATS: of Redis's figures those that there are here, and then whose the memory is.
pub fn memory_stats(context: &mut NetworkContext<'_>) -> Outcome {
    let server = context.server;
    let Memory { process, owners } = Memory::read(server);
    let databases = server.shards.iter().flat_map(|shard| &shard.databases);
    let keys: u64 = databases.map(|[keys, _]| keys.get()).sum();
    let number = |name: &str, bytes: u64| (name.to_owned(), Figure::Number(bytes));
    let percent = |name: &str, part, whole| (name.to_owned(), Figure::Percent(share_percent(part, whole)));
    let mut figures = vec![
        number("peak.allocated", process.peak),
        number("total.allocated", process.resident),
        number("clients.normal", owners.connections),
        number("lua.caches", owners.interpreters + owners.scripts),
        number("keys.count", keys),
        number("keys.bytes-per-key", owners.data() / keys.max(1)),
        number("dataset.bytes", owners.data()),
        percent("dataset.percentage", owners.data(), process.resident),
        percent("peak.percentage", process.resident, process.peak),
        number("table.bytes", owners.table),
        number("table.log-pinned.bytes", owners.pinned),
        number("resident.bytes", owners.collections()),
    ];
    let by_type = owners.collections_by_type();
    figures.extend(by_type.map(|(name, bytes)| number(&format!("resident.{name}.bytes"), bytes)));
    figures.push(number("block-cache.bytes", owners.block_cache));
    let reply = &mut context.reply;
    reply.map(figures.len());
    for (name, figure) in figures {
        reply.text(&name);
        match figure {
            Figure::Number(value) => reply.integer(value as i64),
            Figure::Percent(value) => reply.double(value),
        }
    }
    Ok(())
}
