//! The data directory's manifest: what the directory is, so that a wrong one is never opened.
//!
//! ```text
//! <data-dir>/MANIFEST.toml   format, id, shards, generation
//! <data-dir>/shard-0000/     one RocksDB per shard
//! <data-dir>/log/            what is not in them yet: see [`super::log`]
//! ```

use super::encoding::{FORMAT_VERSION, FORMAT_VERSION_MIN};
use super::log::{LogIdentity, replace_durably};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The most shards a directory can be created with: beyond that, files cost more than cores give.
pub const SHARD_COUNT_MAX: u16 = 1024;

const FILE_NAME: &str = "MANIFEST.toml";

/// Hexadecimal digits of a directory's id.
const ID_DIGITS: usize = 32;

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The layout of the records ([`FORMAT_VERSION`]).
    pub format: u32,
    /// Tells this directory from any other: 32 hexadecimal digits, random.
    pub id: String,
    /// The number of shards, each a range of slots ([`crate::slots::slots_of`]).
    pub shards: u16,
    /// How often a server has started with this directory: each start's log has its own number.
    pub generation: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum ManifestError {
    #[error("cannot read {path}: {error}; check the directory's owner and mode")]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("cannot write {path}: {error}; check the directory's owner, mode and free space")]
    Unwritable { path: PathBuf, error: std::io::Error },
    #[error("{path} is not a Corelane manifest ({reason}); point --data-dir at another directory or restore the file")]
    Foreign { path: PathBuf, reason: String },
    #[error(
        "{path} has format {found}, and this version reads the formats {FORMAT_VERSION_MIN} to {FORMAT_VERSION}; use \
         the version that wrote it"
    )]
    UnknownFormat { path: PathBuf, found: u32 },
    #[error(
        "{data_dir} was created with {found} shards and --shards asks for {asked}; leave --shards out, or use another \
         directory"
    )]
    OtherShardCount { data_dir: PathBuf, found: u16, asked: u16 },
    #[error("{path} is missing although the manifest counts {shards} shards; restore it from a backup")]
    MissingShard { path: PathBuf, shards: u16 },
    #[error("{data_dir} holds shards but no manifest; restore {FILE_NAME} or use another directory")]
    NoManifest { data_dir: PathBuf },
}

impl Manifest {
    /// Reads the manifest of `data_dir`, or creates it with `shards` (or `shards_default`) in an empty one.
    /// Returns it with whether it is new.
    pub fn open(data_dir: &Path, shards: Option<u16>, shards_default: u16) -> Result<(Manifest, bool), ManifestError> {
        let path = data_dir.join(FILE_NAME);
        let text = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if shard_path(data_dir, 0).exists() {
                    return Err(ManifestError::NoManifest {
                        data_dir: data_dir.to_owned(),
                    });
                }
                let manifest = Manifest::create(&path, shards.unwrap_or(shards_default))?;
                return Ok((manifest, true));
            }
            Err(error) => return Err(ManifestError::Unreadable { path, error }),
        };
        let foreign = |reason: &str| ManifestError::Foreign {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let text = String::from_utf8(text).map_err(|_| foreign("it is not text"))?;
        // The format is read first: a later version's manifest may have other fields.
        let table: toml::Table = text.parse().map_err(|_| foreign("it is not TOML"))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(found) if (i64::from(FORMAT_VERSION_MIN)..=i64::from(FORMAT_VERSION)).contains(&found) => {}
            Some(found) => {
                let found = u32::try_from(found).map_err(|_| foreign("its format is not a version"))?;
                return Err(ManifestError::UnknownFormat { path, found });
            }
            None => return Err(foreign("it has no format")),
        }
        let mut manifest: Manifest = table
            .try_into()
            .map_err(|error: toml::de::Error| foreign(error.message()))?;
        // What is written from now on, the manifest of this start included, an earlier version cannot read.
        manifest.format = FORMAT_VERSION;
        if manifest.id.len() != ID_DIGITS || u128::from_str_radix(&manifest.id, 16).is_err() {
            return Err(foreign("its id is not 32 hexadecimal digits"));
        }
        if !(1..=SHARD_COUNT_MAX).contains(&manifest.shards) {
            return Err(foreign("its number of shards is out of range"));
        }
        if let Some(asked) = shards.filter(|asked| *asked != manifest.shards) {
            return Err(ManifestError::OtherShardCount {
                data_dir: data_dir.to_owned(),
                found: manifest.shards,
                asked,
            });
        }
        for shard in 0..manifest.shards {
            let path = shard_path(data_dir, shard);
            if !path.join("CURRENT").exists() && data_dir.join("CREATED").exists() {
                return Err(ManifestError::MissingShard {
                    path,
                    shards: manifest.shards,
                });
            }
        }
        let new = !data_dir.join("CREATED").exists();
        Ok((manifest, new))
    }

    /// Counts a start, durably: its log's generation was never used before, whatever becomes of this start.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn begin_generation(&mut self, data_dir: &Path) -> Result<(), ManifestError> {
        self.generation += 1;
        self.write(&data_dir.join(FILE_NAME))
    }

    /// The log of a storage executor in this generation.
    pub fn log_identity(&self, executor: u32) -> LogIdentity {
        let id = u128::from_str_radix(&self.id, 16).expect("an id of hexadecimal digits was accepted");
        LogIdentity {
            directory: id as u64,
            generation: self.generation,
            executor,
        }
    }

    fn write(&self, path: &Path) -> Result<(), ManifestError> {
        let text = toml::to_string(self).expect("a manifest of plain fields can be written as TOML");
        write_durably(path, text.as_bytes())
    }

    /// Notes that every shard exists: from now on a missing one is an error and not a first start that was cut short.
    pub fn mark_created(data_dir: &Path) -> Result<(), ManifestError> {
        write_durably(&data_dir.join("CREATED"), b"every shard of MANIFEST.toml was created\n")
    }

    fn create(path: &Path, shards: u16) -> Result<Manifest, ManifestError> {
        let unreadable = |error| ManifestError::Unreadable {
            path: "/dev/urandom".into(),
            error,
        };
        let mut random = [0_u8; 16];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(unreadable)?;
        let id = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = Manifest {
            format: FORMAT_VERSION,
            id,
            shards,
            generation: 0,
        };
        manifest.write(path)?;
        Ok(manifest)
    }
}

/// Where the logs of all executors lie.
pub fn logs_path(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Where a shard's RocksDB lives.
pub fn shard_path(data_dir: &Path, shard: u16) -> PathBuf {
    data_dir.join(format!("shard-{shard:04}"))
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ManifestError> {
    replace_durably(path, bytes).map_err(|error| ManifestError::Unwritable {
        path: path.to_owned(),
        error,
    })
}
