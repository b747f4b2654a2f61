//! What an operator says about the core map: command-line flags, settings, and a TOML file of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::TopologyError;
use super::cpu_set::{self, CpuId, CpuSet};

/// The longest core map file: three lists of 8192 CPUs written out one by one take about 120 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What a set of CPUs is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Executors that own connections.
    Network,
    /// Executors that own shards.
    Storage,
    /// Syncers, RocksDB's flush and compaction threads, and the admin thread.
    Background,
}

impl Role {
    /// All roles, in the order in which they are shown.
    pub const ALL: [Role; 3] = [Role::Network, Role::Storage, Role::Background];

    /// The number of roles that are executors'.
    pub(super) const EXECUTOR_COUNT: usize = 2;

    /// The role's key in a file and its word in output.
    pub fn name(self) -> &'static str {
        match self {
            Role::Network => "network",
            Role::Storage => "storage",
            Role::Background => "background",
        }
    }

    /// The role's command-line flag.
    pub fn flag(self) -> &'static str {
        match self {
            Role::Network => "--network-cores",
            Role::Storage => "--storage-cores",
            Role::Background => "--background-cores",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The roles whose CPUs an operator gave, each with where it was given; a later call for a role replaces an earlier
/// one, so read the file first and the flags after it. CPUs are checked against a machine by
/// [`CoreMap::with_overrides`](super::CoreMap::with_overrides).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CoreMapOverrides {
    shard_count: Option<u16>,
    network: Option<(Vec<CpuId>, String)>,
    storage: Option<(Vec<CpuId>, String)>,
    background: Option<(Vec<CpuId>, String)>,
}

impl CoreMapOverrides {
    /// Takes the number of shards of an existing data directory, at least 1; it decides how many storage executors are
    /// useful. Without it that is [`default_shard_count`](super::default_shard_count).
    pub fn set_shard_count(&mut self, shard_count: u16) {
        assert!(shard_count >= 1, "a data directory has a shard");
        self.shard_count = Some(shard_count);
    }

    /// The number of shards, where it was given.
    pub fn shard_count(&self) -> Option<u16> {
        self.shard_count
    }

    /// Takes a role's CPUs from its command-line flag: a list such as `0-1,4`.
    pub fn set_flag(&mut self, role: Role, list: &str) -> Result<(), TopologyError> {
        self.set(role, list, &format!("{} {}", role.flag(), shortened(list)))
    }

    /// Takes a role's CPUs from a list such as `0-1,4`; `origin` is what errors and reasons say it came from.
    pub fn set(&mut self, role: Role, list: &str, origin: &str) -> Result<(), TopologyError> {
        let cpus = cpu_set::parse_cpu_list(list).map_err(|why| wrong(origin.to_owned(), why))?;
        *self.of_mut(role) = Some((cpus, origin.to_owned()));
        Ok(())
    }

    /// Takes roles from a TOML file with at most the keys `network`, `storage` and `background`, each a list in a
    /// string (`"0-1,4"`) or an array of numbers (`[0, 1, 4]`). Errors name the file, the line and why.
    pub fn read_file(&mut self, path: &Path) -> Result<(), TopologyError> {
        let text = read_text(path).map_err(|source| TopologyError::CoreMapFile {
            path: path.to_owned(),
            source,
        })?;
        self.parse_file(&text, &path.display().to_string())
    }

    /// The CPUs that were given for a role, and where.
    pub fn of(&self, role: Role) -> Option<(&[CpuId], &str)> {
        let given = match role {
            Role::Network => &self.network,
            Role::Storage => &self.storage,
            Role::Background => &self.background,
        };
        given.as_ref().map(|(cpus, origin)| (cpus.as_slice(), origin.as_str()))
    }

    fn of_mut(&mut self, role: Role) -> &mut Option<(Vec<CpuId>, String)> {
        match role {
            Role::Network => &mut self.network,
            Role::Storage => &mut self.storage,
            Role::Background => &mut self.background,
        }
    }

    fn parse_file(&mut self, text: &str, file: &str) -> Result<(), TopologyError> {
        let at = |span: Range<usize>| format!("{file} line {}", line_of(text, span.start));
        let table = DeTable::parse(text).map_err(|error| {
            let origin = error.span().map_or_else(|| file.to_owned(), at);
            // The parser may add what it expected on further lines.
            wrong(origin, error.message().lines().collect::<Vec<_>>().join(", "))
        })?;
        for (key, value) in table.get_ref() {
            let role = Role::ALL
                .into_iter()
                .find(|role| role.name() == key.get_ref())
                .ok_or_else(|| {
                    let why = format!(
                        "{} is not a role (network, storage or background)",
                        cpu_set::excerpt(key.get_ref())
                    );
                    wrong(at(key.span()), why)
                })?;
            let origin = format!("{}, {role}", at(value.span()));
            match value.get_ref() {
                DeValue::String(list) => self.set(role, list, &origin)?,
                DeValue::Array(array) => {
                    let cpus = cpus_of_array(array)
                        .map_err(|(span, why)| wrong(format!("{}, {role}", at(span.unwrap_or(value.span()))), why))?;
                    *self.of_mut(role) = Some((cpus, origin));
                }
                other => {
                    let why = format!(
                        r#"a list such as "0-1" or [0, 1] is wanted, not a value of type {}"#,
                        other.type_str()
                    );
                    return Err(wrong(origin, why));
                }
            }
        }
        Ok(())
    }
}

/// The CPUs of an array of numbers; an error has the span of the wrong element.
fn cpus_of_array(array: &DeArray<'_>) -> Result<Vec<CpuId>, (Option<Range<usize>>, String)> {
    let mut cpus = Vec::new();
    let mut seen = CpuSet::new();
    for element in array.iter() {
        let cpu = cpu_of_element(element).map_err(|why| (Some(element.span()), why))?;
        if !seen.insert(cpu) {
            return Err((Some(element.span()), format!("CPU {cpu} is listed twice")));
        }
        cpus.push(cpu);
    }
    if cpus.is_empty() {
        return Err((None, cpu_set::NAMES_NO_CPU.to_owned()));
    }
    Ok(cpus)
}

fn cpu_of_element(element: &Spanned<DeValue<'_>>) -> Result<CpuId, String> {
    let DeValue::Integer(number) = element.get_ref() else {
        return Err(format!(
            "CPU numbers are wanted, not a value of type {}",
            element.get_ref().type_str()
        ));
    };
    let cpu = u32::from_str_radix(number.as_str(), number.radix())
        .ok()
        .and_then(CpuId::new);
    cpu.ok_or_else(|| format!("{number} is not a CPU number (0 to {})", cpu_set::CPU_COUNT_MAX - 1))
}

/// The 1-based line of a byte of a text.
fn line_of(text: &str, byte_index: usize) -> usize {
    1 + text.bytes().take(byte_index).filter(|byte| *byte == b'\n').count()
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A flag's value as an origin shows it: as typed if it is short and plain.
fn shortened(list: &str) -> String {
    let is_plain = !list.is_empty() && list.chars().all(|character| character.is_ascii_graphic());
    if is_plain && list.len() <= cpu_set::EXCERPT_CHARS_MAX {
        list.to_owned()
    } else {
        cpu_set::excerpt(list)
    }
}

fn wrong(origin: String, why: String) -> TopologyError {
    TopologyError::CoreMap { origin, why }
}
