//! CPU and NUMA node numbers, sets of them, and the two notations in which Linux writes such sets:
//! lists (`0-3,8`) and masks (`00000000,0000010f`).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

/// One more than the highest CPU number that Corelane handles: the largest `CONFIG_NR_CPUS` that Linux accepts
/// (`MAXSMP` on x86-64). It bounds every list, so that `0-4294967295` in a damaged file costs nothing.
pub const CPU_COUNT_MAX: u32 = 8192;

/// One more than the highest NUMA node number: `MAX_NUMNODES` with the largest `CONFIG_NODES_SHIFT` (10) that Linux
/// accepts.
pub const NODE_COUNT_MAX: u32 = 1024;

const BITS_PER_WORD: usize = u64::BITS as usize;

/// The kernel writes masks in groups of 32 bits.
const MASK_GROUP_BITS: usize = 32;

/// The number of characters of a wrong text that an error quotes: enough to find it, short enough for one sentence.
pub(super) const EXCERPT_CHARS_MAX: usize = 40;

/// What is wrong with an empty list that a person wrote.
pub(super) const NAMES_NO_CPU: &str = "it names no CPU (leave it out to have it computed)";

/// A logical CPU as Linux numbers it, below [`CPU_COUNT_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct CpuId(u16);

impl CpuId {
    /// The CPU with this number; `None` at or above [`CPU_COUNT_MAX`].
    pub fn new(number: u32) -> Option<CpuId> {
        (number < CPU_COUNT_MAX).then_some(CpuId(number as u16))
    }

    /// The number that Linux gives the CPU, as glommio's `Placement::Fixed` takes it.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A NUMA node as Linux numbers it, below [`NODE_COUNT_MAX`]; numbers may have gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct NodeId(u16);

impl NodeId {
    /// The node with this number; `None` at or above [`NODE_COUNT_MAX`].
    pub fn new(number: u32) -> Option<NodeId> {
        (number < NODE_COUNT_MAX).then_some(NodeId(number as u16))
    }

    /// The number that Linux gives the node.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A set of CPUs. Its `Display` is the kernel's list notation (`0-3,8`), and `none` when it is empty.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CpuSet {
    /// Bit n of word w is CPU 64 w + n. The last word is never zero, so that equal sets compare equal.
    words: Vec<u64>,
}

impl CpuSet {
    /// The empty set.
    pub fn new() -> CpuSet {
        CpuSet::default()
    }

    /// The set of an affinity mask as the kernel returns it: bit n of word w is CPU 64 w + n.
    /// Bits at and above [`CPU_COUNT_MAX`] are dropped.
    pub fn from_words(words: &[u64]) -> CpuSet {
        let kept = words.len().min(CPU_COUNT_MAX as usize / BITS_PER_WORD);
        let mut set = CpuSet {
            words: words[..kept].to_vec(),
        };
        set.trim();
        set
    }

    /// The affinity mask of this set, in the shape of [`CpuSet::from_words`].
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Reads the kernel's list notation, as in `/sys/devices/system/cpu/online`. CPUs may come in any order and more
    /// than once; an empty text is the empty set. Errors are the second half of a sentence that begins with where the
    /// text stood.
    pub fn parse_list(text: &str) -> Result<CpuSet, String> {
        let mut set = CpuSet::new();
        for (first, last) in parse_ranges(text, CPU_COUNT_MAX)? {
            for number in first..=last {
                set.extend(CpuId::new(number));
            }
        }
        Ok(set)
    }

    /// Reads the kernel's mask notation, as in `topology/thread_siblings`: groups of up to eight hexadecimal digits,
    /// the highest first, separated by commas. Errors as [`CpuSet::parse_list`].
    pub fn parse_mask(text: &str) -> Result<CpuSet, String> {
        let text = trimmed(text);
        let mut set = CpuSet::new();
        for (group_index, group) in text.rsplit(',').enumerate() {
            let well_formed = !group.is_empty() && group.len() <= MASK_GROUP_BITS / 4;
            let bits = u32::from_str_radix(group, 16)
                .ok()
                .filter(|_| well_formed && !group.starts_with('+'));
            let bits = bits.ok_or_else(|| format!("{} is not a CPU mask", excerpt(text)))?;
            for bit in (0..MASK_GROUP_BITS).filter(|bit| bits & (1 << bit) != 0) {
                let number = group_index * MASK_GROUP_BITS + bit;
                let cpu = u32::try_from(number).ok().and_then(CpuId::new);
                set.insert(
                    cpu.ok_or_else(|| format!("CPU {number} is above the highest possible, {}", CPU_COUNT_MAX - 1))?,
                );
            }
        }
        Ok(set)
    }

    /// Adds a CPU; true if it was not there before.
    pub fn insert(&mut self, cpu: CpuId) -> bool {
        let (word, bit) = (cpu.number() / BITS_PER_WORD, 1 << (cpu.number() % BITS_PER_WORD));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    /// Whether the CPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        let word = self.words.get(cpu.number() / BITS_PER_WORD).copied().unwrap_or(0);
        word & (1 << (cpu.number() % BITS_PER_WORD)) != 0
    }

    /// Whether there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The number of CPUs in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0..self.words.len() * BITS_PER_WORD)
            .map(|number| CpuId(number as u16))
            .filter(|cpu| self.contains(*cpu))
    }

    /// The lowest-numbered CPU.
    pub fn first(&self) -> Option<CpuId> {
        self.iter().next()
    }

    /// The CPUs that are in both sets.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet::from_words(
            &self
                .words
                .iter()
                .zip(&other.words)
                .map(|(ours, theirs)| ours & theirs)
                .collect::<Vec<_>>(),
        )
    }

    /// The CPUs of this set that are not in the other.
    pub fn difference(&self, other: &CpuSet) -> CpuSet {
        self.iter().filter(|cpu| !other.contains(*cpu)).collect()
    }

    /// The CPUs that are in either set.
    pub fn union(&self, other: &CpuSet) -> CpuSet {
        self.iter().chain(other.iter()).collect()
    }

    /// The set in a sentence: `CPU 4`, `CPUs 4-5`, `no CPU`.
    pub fn named(&self) -> String {
        match self.len() {
            0 => "no CPU".to_owned(),
            1 => format!("CPU {self}"),
            _ => format!("CPUs {self}"),
        }
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<Cpus: IntoIterator<Item = CpuId>>(cpus: Cpus) -> CpuSet {
        let mut set = CpuSet::new();
        set.extend(cpus);
        set
    }
}

impl Extend<CpuId> for CpuSet {
    fn extend<Cpus: IntoIterator<Item = CpuId>>(&mut self, cpus: Cpus) {
        for cpu in cpus {
            self.insert(cpu);
        }
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("none");
        }
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for number in self.iter().map(CpuId::number) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        for (index, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match last - first {
                0 => write!(formatter, "{comma}{first}")?,
                _ => write!(formatter, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CpuSet({self})")
    }
}

/// The set as an array of CPU numbers, which programs read more easily than ranges.
impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Reads a list of CPUs that a person wrote, in the kernel's notation, and keeps its order. Unlike
/// [`CpuSet::parse_list`] it refuses an empty list and a CPU that is named twice.
pub(super) fn parse_cpu_list(text: &str) -> Result<Vec<CpuId>, String> {
    let mut cpus = Vec::new();
    let mut seen = CpuSet::new();
    for (first, last) in parse_ranges(text, CPU_COUNT_MAX)? {
        for cpu in (first..=last).filter_map(CpuId::new) {
            if !seen.insert(cpu) {
                return Err(format!("CPU {cpu} is listed twice"));
            }
            cpus.push(cpu);
        }
    }
    if cpus.is_empty() {
        return Err(NAMES_NO_CPU.to_owned());
    }
    Ok(cpus)
}

/// Reads a list of NUMA nodes in the kernel's list notation, as in `/sys/devices/system/node/online`.
pub(super) fn parse_node_list(text: &str) -> Result<BTreeSet<NodeId>, String> {
    let ranges = parse_ranges(text, NODE_COUNT_MAX)?;
    Ok(ranges
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .filter_map(NodeId::new)
        .collect())
}

/// A wrong text as errors show it: quoted, escaped and cut.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A file's text without the line end, and without the NUL bytes that some recordings hold in place of an empty file.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || character == '\0')
}

/// `0-3,8` as inclusive ranges of numbers below `count_max`; an empty text has none.
fn parse_ranges(text: &str, count_max: u32) -> Result<Vec<(u32, u32)>, String> {
    let text = trimmed(text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    let mut listed: u32 = 0;
    for item in text.split(',') {
        let (first, last) = parse_range(item.trim(), count_max)?;
        // Each number is below the maximum, so a list without repetition cannot be longer; this bounds what callers
        // unfold.
        listed += last - first + 1;
        if listed > count_max {
            return Err(format!("it lists more than {count_max} numbers"));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

fn parse_range(item: &str, count_max: u32) -> Result<(u32, u32), String> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(format!("{} is not a number or a range such as 0-3", excerpt(item)));
        }
        // Digits alone fail to parse only when the number is too large.
        let number = digits.parse::<u32>().ok().filter(|number| *number < count_max);
        number.ok_or_else(|| format!("{} is above the highest possible, {}", excerpt(digits), count_max - 1))
    };
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    if first > last {
        return Err(format!("the range {} runs backwards", excerpt(item)));
    }
    Ok((first, last))
}
