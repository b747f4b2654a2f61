//! What each command answers: one transcript per family, played against Corelane in three shapes and against the
//! machine's redis-server.
//!
//! By hand, against any running server (it is emptied first!):
//! `CORELANE_ADDRESS=127.0.0.1:6379 cargo test --release --test suite every_transcript -- --ignored`

mod blocking;
mod dump_restore;
mod hash_model;
mod keyspace_events;
mod mixed_score_names;
mod modifications;
mod random_keys;
mod random_names;
mod random_strings;
mod several_executors;
mod sorted_set_ranks;
mod statistics;
mod stream_trims;
mod walks;

use std::path::{Path, PathBuf};

use crate::harness::redis::RedisOracle;
use crate::harness::server::{Server, allowed_cpus};
use crate::harness::transcript::{CORELANE_BEHAVES_AS, Transcript};

/// A test for each transcript and each server that it is played against.
macro_rules! transcripts {
    ($($name:ident)*) => {
        /// Every transcript in this folder.
        const LISTED: &[&str] = &[$(stringify!($name)),*];
        $(
            mod $name {
                #[test]
                fn on_one_shard() {
                    super::play_on_corelane(stringify!($name), super::Shape::OneShard);
                }

                #[test]
                fn on_four_shards_of_two_executors_with_both_roles() {
                    super::play_on_corelane(stringify!($name), super::Shape::FourShardsBothRoles);
                }

                #[test]
                fn on_four_shards_with_separate_executors() {
                    super::play_on_corelane(stringify!($name), super::Shape::FourShardsSeparateRoles);
                }

                #[test]
                fn on_redis() {
                    super::play_on_redis(stringify!($name));
                }
            }
        )*
    };
}

transcripts! {
    bits
    collections
    connection
    counters
    databases
    dump
    expiry
    field_expiry
    function_libraries
    functions
    geo
    hash_counters
    hash_walks
    hashes
    hyperloglog
    keys
    lcs
    list_moves
    lists
    monitor
    pubsub
    resp3
    scan
    script_calls
    script_headers
    script_libraries
    script_resp3
    script_sandbox
    scripts
    scripts_by_digest
    server
    sets
    sort
    sort_sets
    sorted_set_algebra
    sorted_set_ranges
    sorted_sets
    stream_deletion
    stream_groups
    streams
    strings
    tracking
    transactions
    transactions_of_databases
    waiting
}

/// How the cores and shards of a Corelane under test are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    OneShard,
    FourShardsBothRoles,
    FourShardsSeparateRoles,
}

impl Shape {
    pub(crate) fn flags(self) -> Vec<String> {
        let cpus = allowed_cpus();
        // On one CPU the last is also the first, and all roles meet on it.
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
        let both = if first == last {
            first.to_string()
        } else {
            format!("{first},{last}")
        };
        let (shards, network, storage) = match self {
            Shape::OneShard => (1, first.to_string(), first.to_string()),
            Shape::FourShardsBothRoles => (4, both.clone(), both),
            Shape::FourShardsSeparateRoles => (4, first.to_string(), last.to_string()),
        };
        [
            "--shards",
            &shards.to_string(),
            "--network-cores",
            &network,
            "--storage-cores",
            &storage,
        ]
        .map(str::to_string)
        .to_vec()
    }

    /// For CORELANE_FAULTS: collections leave memory at any time, come back little by little, and what is read of them
    /// there is compared with the disk; some reads, or all, are not in memory when a command begins. Commands come in
    /// steps that can.
    pub(crate) fn memory_faults(self) -> &'static str {
        match self {
            Shape::OneShard => "check-residents=1..",
            Shape::FourShardsBothRoles => {
                "check-residents=1..,evict-resident=every:5,load-cells=3,miss-reads=every:3,step-members=2"
            }
            Shape::FourShardsSeparateRoles => {
                "check-residents=1..,forget-residents=every:7,load-cells=40,miss-reads=1..,step-members=1"
            }
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands")
}

fn read(name: &str) -> Transcript {
    Transcript::read(&folder().join(format!("{name}.transcript")))
}

fn play_on_corelane(name: &str, shape: Shape) {
    let transcript = read(name);
    // DEBUG answers clients of this machine, as in the redis-server beside it.
    let debug = ["--enable-debug-command", "local"];
    let server = Server::builder().flags(&shape.flags()).flags(&debug);
    let server = server.faults(shape.memory_faults()).start();
    transcript.play(&format!("Corelane ({shape:?})"), server.address(), CORELANE_BEHAVES_AS);
}

fn play_on_redis(name: &str) {
    let transcript = read(name);
    if let Some(redis) = RedisOracle::start() {
        let target = format!("redis-server {}", redis.version());
        transcript.play(&target, redis.address(), redis.version());
    }
}

#[test]
fn every_transcript_of_the_folder_is_listed() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder can be read")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "transcript"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()))
        .collect();
    found.sort();
    assert_eq!(found, LISTED);
    for name in LISTED {
        assert!(read(name).commands() > 0, "{name} has no commands");
    }
}

#[test]
#[ignore = "empties the server that CORELANE_ADDRESS names"]
fn every_transcript_on_the_server_that_corelane_address_names() {
    let address =
        std::env::var("CORELANE_ADDRESS").expect("CORELANE_ADDRESS names a server, for example 127.0.0.1:6379");
    let address = address.parse().expect("CORELANE_ADDRESS is an address and a port");
    for name in LISTED {
        read(name).play("CORELANE_ADDRESS", address, CORELANE_BEHAVES_AS);
    }
}
