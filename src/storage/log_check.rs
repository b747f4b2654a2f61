//! Whether a shard's log is whole, torn at its end, or damaged before it: asked before RocksDB replays the log.
//!
//! RocksDB's point-in-time recovery replays a log up to the first record that it cannot read, and drops what follows
//! without a word. That is right for a log that ends in the middle of a record because the process was killed or power
//! failed. It is wrong for a log in whose middle bits have changed: what follows was acknowledged, and is still there.
//! Its other modes do not fit either: `kTolerateCorruptedTailRecords` goes on with the next log behind a torn one, and
//! `kAbsoluteConsistency` refuses every log that a killed process leaves.
//!
//! **The format** (RocksDB's `db/log_format.h`; logs are not recycled here): blocks of 32 KiB with physical records in
//! them, none of which crosses a block. Fewer than seven bytes at a block's end are zeros.
//!
//! ```text
//! checksum(4, little endian) ‖ length(2, little endian) ‖ type(1) ‖ payload(length)
//! ```
//!
//! The checksum is the CRC-32C of type and payload, masked. A write batch is one such record (`FULL`) or several
//! (`FIRST`, `MIDDLE`…, `LAST`), and begins with the number of its first operation and how many there are. Ours go on
//! with a *sync mark*, a piece of log data that RocksDB skips: the last operation that was known to be synced when the
//! batch was written.
//!
//! ```text
//! sequence(8, little endian) ‖ operations(4, little endian) ‖ 3 ‖ 8 ‖ synced sequence(8, little endian) ‖ …
//! ```
//!
//! **Torn or damaged.** What a kill or a loss of power takes from a log was never synced, and shows as a file that ends
//! early or as a hole of zeros (pages that were not written). Everything else is damage: a complete record with a wrong
//! checksum, a record that is unreadable while later ones can be read, and whatever a later sync mark says was synced.

use crc::{CRC_32_ISCSI, Crc, Table};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// RocksDB's `kBlockSize`.
const BLOCK_LEN: usize = 32 * 1024;

/// Blocks that are read at once.
const BLOCKS_PER_READ: usize = 32;

/// RocksDB's `kHeaderSize`.
const HEADER_LEN: usize = 7;

/// The types of physical records that make up batches.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// What a batch begins with: the sequence, the number of operations, and the sync mark with its type and length.
const BATCH_START_LEN: usize = 8 + 4 + 2 + SYNC_MARK_LEN;

/// The type of log data in a batch, and the length of a sync mark: what comes before one.
const SYNC_MARK_PREFIX: [u8; 2] = [3, SYNC_MARK_LEN as u8];

/// Bytes of a sync mark.
const SYNC_MARK_LEN: usize = 8;

/// What disks write as a whole.
const SECTOR_LEN: u64 = 512;

/// Zeros at the end of a sector, or of the file, that are taken for what was not written: enough not to occur in most
/// records.
const HOLE_LEN_MIN: usize = 32;

static CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What a batch carries to tell which operations were synced when it was written.
pub fn sync_mark(synced_sequence: u64) -> [u8; SYNC_MARK_LEN] {
    synced_sequence.to_le_bytes()
}

/// What became of a log.
#[derive(Debug, PartialEq, Eq)]
pub enum LogState {
    /// Every batch in it can be read.
    Whole,
    /// The log ends where the process was killed or power failed.
    Torn(Loss),
    /// Something before the log's end cannot be read any more.
    Damaged(Loss),
}

/// The first batch that cannot be read, and what comes after it: replaying the log loses both.
#[derive(Debug, PartialEq, Eq)]
pub struct Loss {
    /// The log file in which it is.
    pub file: PathBuf,
    /// Where the loss begins in the file.
    pub offset: u64,
    /// How many bytes there are from the offset to the end of the file.
    pub bytes: u64,
    /// Later batches that can be read, in this file and in later ones.
    pub batches_after: u64,
    /// Whether a later batch says that it was on disk.
    pub was_synced: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss {
            file,
            offset,
            bytes,
            batches_after,
            was_synced,
        } = self;
        let synced = if *was_synced { " and was on disk" } else { "" };
        write!(
            formatter,
            "{} cannot be read from byte {offset} on ({bytes} bytes to its end): one batch of writes is \
             unreadable{synced}, and {batches_after} readable ones come after it",
            file.display()
        )
    }
}

/// Examines the log of the RocksDB in `folder`; returns also how many bytes it has.
///
/// # Errors
/// A file cannot be read.
pub fn examine(folder: &Path) -> io::Result<(LogState, u64)> {
    let mut logs: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort_unstable();
    let mut examination = Examination::default();
    let mut bytes = 0;
    for (_, path) in logs {
        examination.examine_file(path)?;
        bytes += examination.file_len;
    }
    Ok((examination.state(), bytes))
}

/// What a batch begins with.
struct BatchStart {
    sequence: u64,
    operations: u32,
    synced_sequence: u64,
}

impl BatchStart {
    /// Reads it from a batch, or its first bytes.
    fn decode(bytes: &[u8]) -> Option<BatchStart> {
        let (sequence, rest) = bytes.split_first_chunk::<8>()?;
        let (operations, rest) = rest.split_first_chunk::<4>()?;
        let mark = rest.strip_prefix(&SYNC_MARK_PREFIX).and_then(<[u8]>::first_chunk);
        Some(BatchStart {
            sequence: u64::from_le_bytes(*sequence),
            operations: u32::from_le_bytes(*operations),
            synced_sequence: mark.map_or(0, |mark| u64::from_le_bytes(*mark)),
        })
    }
}

/// A physical record that can be read.
struct Physical<'a> {
    kind: u8,
    payload: &'a [u8],
}

/// Why there is no physical record at an offset.
enum Unreadable {
    /// The file ends before the record does.
    Cut,
    /// The record's bytes are wrong.
    Wrong,
}

/// The first batch that cannot be read.
struct Damage {
    file: PathBuf,
    offset: u64,
    file_len: u64,
    /// The sequence that the batch must have had, if one was read before it.
    sequence: Option<u64>,
    /// The file ends within it.
    is_cut: bool,
    /// Some of it was never written.
    has_hole: bool,
    /// Something that can be read follows in the same file.
    is_followed: bool,
    batches_after: u64,
    /// The newest sync mark behind it.
    synced_sequence: u64,
}

/// A batch whose last physical record was not met yet.
struct Begun {
    offset: u64,
    start: Vec<u8>,
}

#[derive(Default)]
struct Examination {
    /// The sequence that the next batch must have.
    next_sequence: Option<u64>,
    damage: Option<Damage>,
    begun: Option<Begun>,
    /// Whether a batch of the file was read.
    has_batch: bool,
    file: PathBuf,
    file_len: u64,
}

impl Examination {
    fn examine_file(&mut self, path: PathBuf) -> io::Result<()> {
        let mut file = File::open(&path)?;
        self.file_len = file.metadata()?.len();
        self.file = path;
        self.has_batch = false;
        let mut buffer = vec![0; BLOCK_LEN * BLOCKS_PER_READ];
        let mut offset = 0;
        loop {
            let len = fill(&mut file, &mut buffer)?;
            for block in buffer[..len].chunks(BLOCK_LEN) {
                self.examine_block(offset, block);
                offset += block.len() as u64;
            }
            if len < buffer.len() {
                break;
            }
        }
        if let Some(begun) = self.begun.take() {
            self.record_damage(begun.offset, &Unreadable::Cut);
        }
        Ok(())
    }

    fn examine_block(&mut self, block_offset: u64, block: &[u8]) {
        let mut position = 0;
        while block.len() - position >= HEADER_LEN {
            let offset = block_offset + position as u64;
            match physical_at(block, position) {
                Ok(record) => {
                    self.take(offset, &record);
                    position += HEADER_LEN + record.payload.len();
                }
                Err(why) => {
                    let begun = self.begun.take().map_or(offset, |begun| begun.offset);
                    self.record_damage(begun, &why);
                    let next = self.find_batch(block, position + 1);
                    self.record_hole(offset, &block[position..next.unwrap_or(block.len())]);
                    let Some(next) = next else { return };
                    position = next;
                }
            }
        }
        if block.len() < BLOCK_LEN && position < block.len() {
            let offset = block_offset + position as u64;
            let begun = self.begun.take().map_or(offset, |begun| begun.offset);
            self.record_damage(begun, &Unreadable::Cut);
        }
    }

    fn take(&mut self, offset: u64, record: &Physical<'_>) {
        match (record.kind, &mut self.begun) {
            (FULL | FIRST, Some(begun)) => {
                // The rest of that batch is missing, between two records that can be read.
                let offset = begun.offset;
                self.begun = None;
                self.record_damage(offset, &Unreadable::Wrong);
                self.take(offset, record);
            }
            (FULL, None) => self.take_batch(record.payload),
            (FIRST, None) => {
                let start = record.payload[..record.payload.len().min(BATCH_START_LEN)].to_vec();
                self.begun = Some(Begun { offset, start });
            }
            (MIDDLE | LAST, Some(begun)) => {
                let missing = BATCH_START_LEN - begun.start.len();
                begun
                    .start
                    .extend_from_slice(&record.payload[..record.payload.len().min(missing)]);
                if record.kind == LAST {
                    let start = std::mem::take(&mut begun.start);
                    self.begun = None;
                    self.take_batch(&start);
                }
            }
            // The rest of a batch whose beginning is missing.
            (MIDDLE | LAST, None) => self.record_damage(offset, &Unreadable::Wrong),
            // RocksDB's own records.
            _ => {}
        }
        if let Some(damage) = &mut self.damage {
            damage.is_followed |= damage.file == self.file && offset > damage.offset;
        }
    }

    fn take_batch(&mut self, batch: &[u8]) {
        let Some(start) = BatchStart::decode(batch) else { return };
        let is_first = !std::mem::replace(&mut self.has_batch, true);
        // A recovery has dropped what follows the damage and gone on in this file: RocksDB writes an empty batch there.
        let goes_on = |damage: &Damage| {
            is_first && damage.file != self.file && (start.operations == 0 || damage.sequence == Some(start.sequence))
        };
        self.damage.take_if(|damage| goes_on(damage));
        match &mut self.damage {
            None => self.next_sequence = Some(start.sequence + u64::from(start.operations)),
            Some(damage) => {
                damage.sequence.get_or_insert(start.sequence.saturating_sub(1));
                damage.batches_after += 1;
                damage.synced_sequence = damage.synced_sequence.max(start.synced_sequence);
            }
        }
    }

    /// Where in the rest of a block the next batch begins; anything else that can be read there begins with its block.
    fn find_batch(&self, block: &[u8], from: usize) -> Option<usize> {
        let lost = self.damage.as_ref().and_then(|damage| damage.sequence).unwrap_or(0);
        (from..block.len().saturating_sub(HEADER_LEN)).find(|position| {
            // Most offsets have no such type, and need no checksum.
            let kind = block[position + HEADER_LEN - 1];
            matches!(kind, FULL | FIRST)
                && physical_at(block, *position).is_ok_and(|record| {
                    // A value may hold the log of another database. This one goes on with later operations.
                    let start = BatchStart::decode(record.payload);
                    let is_whole = kind == FULL || position + HEADER_LEN + record.payload.len() == BLOCK_LEN;
                    is_whole
                        && start
                            .is_some_and(|start| start.sequence > lost && start.sequence - lost <= u64::from(u32::MAX))
                })
        })
    }

    fn record_damage(&mut self, offset: u64, why: &Unreadable) {
        if self.damage.is_some() {
            return;
        }
        self.damage = Some(Damage {
            file: self.file.clone(),
            offset,
            file_len: self.file_len,
            sequence: self.next_sequence,
            is_cut: matches!(why, Unreadable::Cut),
            has_hole: false,
            is_followed: false,
            batches_after: 0,
            synced_sequence: 0,
        });
    }

    /// Looks for what was never written in bytes that cannot be read, if nothing behind them was read yet.
    fn record_hole(&mut self, offset: u64, bytes: &[u8]) {
        let file_len = self.file_len;
        let Some(damage) = self
            .damage
            .as_mut()
            .filter(|damage| damage.file == self.file && !damage.is_followed)
        else {
            return;
        };
        let is_edge = |end: &usize| {
            let end = offset + *end as u64;
            end.is_multiple_of(SECTOR_LEN) || end == file_len
        };
        let mut edges = (HOLE_LEN_MIN..=bytes.len()).filter(is_edge);
        damage.has_hole |= edges.any(|end| bytes[end - HOLE_LEN_MIN..end].iter().all(|byte| *byte == 0));
    }

    fn state(self) -> LogState {
        let Some(damage) = self.damage else {
            return LogState::Whole;
        };
        let was_synced = damage
            .sequence
            .is_some_and(|lost| damage.synced_sequence >= lost && lost > 0);
        let is_torn = damage.has_hole || (damage.is_cut && !damage.is_followed);
        let loss = Loss {
            offset: damage.offset,
            bytes: damage.file_len - damage.offset,
            file: damage.file,
            batches_after: damage.batches_after,
            was_synced,
        };
        match is_torn && !was_synced {
            true => LogState::Torn(loss),
            false => LogState::Damaged(loss),
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The physical record at a position of a block, at least a header before its end.
fn physical_at(block: &[u8], position: usize) -> Result<Physical<'_>, Unreadable> {
    let record = &block[position..];
    let cut = || match block.len() < BLOCK_LEN {
        true => Unreadable::Cut,
        false => Unreadable::Wrong,
    };
    let (header, rest) = record.split_first_chunk::<HEADER_LEN>().ok_or_else(cut)?;
    let [a, b, c, d, low, high, kind] = *header;
    let len = usize::from(u16::from_le_bytes([low, high]));
    let payload = rest.get(..len).ok_or_else(cut)?;
    let mut digest = CHECKSUM.digest();
    digest.update(&record[HEADER_LEN - 1..HEADER_LEN + len]);
    match masked(digest.finalize()) == u32::from_le_bytes([a, b, c, d]) {
        true => Ok(Physical { kind, payload }),
        false => Err(Unreadable::Wrong),
    }
}

/// As RocksDB stores checksums, which may be of bytes that hold checksums (`util/crc32c.h`).
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::super::database::{Column, Database, Opening, Resources};
    use super::super::seeded_random;
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore};
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    use std::sync::Arc;
    use tempfile::TempDir;

    const OPENING: Opening = Opening {
        creates: true,
        loads_damaged_log: false,
    };

    fn open(folder: &Path, opening: Opening) -> Result<Arc<Database>, super::super::database::OpenError> {
        let resources = Resources::new(1 << 20, 64 << 20, 1, 2).expect("RocksDB's environment");
        Database::open(folder, &resources, opening)
    }

    /// Writes `batches` batches of random records, the largest of which fill several blocks; returns where each begins.
    fn write(database: &Database, log: &dyn Fn() -> PathBuf, random: &mut StdRng, batches: u32) -> Vec<u64> {
        let mut starts = Vec::new();
        for number in 0..batches {
            starts.push(std::fs::metadata(log()).map_or(0, |metadata| metadata.len()));
            let len = match random.random_range(0..10) {
                0 => random.random_range(0..100_000),
                _ => random.random_range(0..2_000),
            };
            let mut value = vec![0; len];
            random.fill_bytes(&mut value);
            let mut writes = database.writes(0);
            writes.put(Column::Meta, &number.to_be_bytes(), &value);
            writes.put(Column::System, b"count", &number.to_be_bytes());
            database.write(writes.finish()).expect("a write");
        }
        starts
    }

    fn logs_in(folder: &Path) -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("a file").path());
        let mut logs: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        logs.sort();
        logs
    }

    /// A folder with nothing but a log of these bytes.
    fn folder_with(bytes: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("000004.log"), bytes).expect("a file");
        folder
    }

    fn state_of(bytes: &[u8]) -> LogState {
        state_in(folder_with(bytes).path())
    }

    fn state_in(folder: &Path) -> LogState {
        examine(folder).expect("readable logs").0
    }

    /// A log of a single file, and where its batches begin. The last sync was made when `synced` batches were written.
    struct Log {
        bytes: Vec<u8>,
        starts: Vec<u64>,
        synced: usize,
    }

    fn log(random: &mut StdRng) -> Log {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = open(folder.path(), OPENING).expect("a new database");
        let path = || logs_in(folder.path()).pop().expect("a log");
        let mut starts = write(&database, &path, random, 40);
        assert_eq!(database.sync_log().ok(), Some(true));
        starts.extend(write(&database, &path, random, 40));
        database.stop_background_work();
        let bytes = std::fs::read(path()).expect("a log");
        Log {
            bytes,
            starts,
            synced: 40,
        }
    }

    #[test]
    fn a_log_that_ends_early_is_torn_at_the_batch_that_it_ends_in() {
        let mut random = seeded_random::printed();
        let Log { bytes, starts, .. } = log(&mut random);
        assert_eq!(state_of(&bytes), LogState::Whole);
        let around = |start: &u64| (start.saturating_sub(9)..start + 9).map(|len| len as usize);
        let mut lengths: Vec<usize> = starts.iter().flat_map(around).collect();
        lengths.extend((0..300).map(|_| random.random_range(0..bytes.len())));
        lengths.extend((1..bytes.len() / BLOCK_LEN).flat_map(|block| (block * BLOCK_LEN - 9)..(block * BLOCK_LEN + 9)));
        for len in lengths.into_iter().filter(|len| *len < bytes.len()) {
            let begun = starts
                .iter()
                .rev()
                .find(|start| **start <= len as u64)
                .expect("the first begins at 0");
            match state_of(&bytes[..len]) {
                LogState::Whole => assert!(len as u64 - begun < HEADER_LEN as u64, "{len} bytes are not whole"),
                LogState::Torn(loss) => {
                    assert!(
                        loss.offset >= *begun && loss.offset - begun < HEADER_LEN as u64,
                        "{len}: {loss}"
                    );
                    assert_eq!((loss.batches_after, loss.was_synced), (0, false));
                }
                LogState::Damaged(loss) => panic!("{len} bytes are taken for damaged: {loss}"),
            }
        }
    }

    #[test]
    fn a_bit_that_has_changed_before_the_last_batch_is_damage() {
        let mut random = seeded_random::printed();
        let Log { bytes, starts, synced } = log(&mut random);
        let last = *starts.last().expect("there are batches") as usize;
        let headers = starts
            .iter()
            .flat_map(|start| *start as usize..*start as usize + HEADER_LEN + BATCH_START_LEN);
        let mut indexes: Vec<usize> = headers.filter(|index| *index < last).collect();
        indexes.extend((0..1000).map(|_| random.random_range(0..last)));
        for index in indexes {
            let mut bytes = bytes.clone();
            bytes[index] ^= 1 << random.random_range(0..8);
            let number = starts.partition_point(|start| *start <= index as u64) - 1;
            match state_of(&bytes) {
                LogState::Damaged(loss) => {
                    assert_eq!(
                        loss.was_synced,
                        number < synced,
                        "byte {index} in batch {number}: {loss}"
                    );
                    assert!(
                        loss.offset + (HEADER_LEN as u64) > starts[number] && loss.offset <= index as u64,
                        "{index}: {loss}"
                    );
                }
                // What fills a block holds nothing.
                LogState::Whole => assert!(
                    index % BLOCK_LEN > BLOCK_LEN - HEADER_LEN,
                    "byte {index} was not missed"
                ),
                LogState::Torn(loss) => panic!("byte {index} of batch {number} is taken for torn: {loss}"),
            }
        }
    }

    #[test]
    fn pages_that_were_not_written_are_a_tear_unless_they_had_been_synced() {
        let mut random = seeded_random::printed();
        let Log { bytes, starts, synced } = log(&mut random);
        for _ in 0..200 {
            let index = random.random_range(0..bytes.len() - 4096) / 4096 * 4096;
            let mut bytes = bytes.clone();
            bytes[index..index + 4096].fill(0);
            let number = starts.partition_point(|start| *start <= index as u64) - 1;
            let is_torn = matches!(state_of(&bytes), LogState::Torn(_));
            assert_eq!(
                is_torn,
                number >= synced,
                "page at {index}, batch {number} of {synced} synced"
            );
        }
    }

    /// What the database in a folder has.
    fn contents(database: &Database) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        let visit = |key: &[u8], value: &[u8]| {
            found.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        };
        database.scan(Column::Meta, &[], &[0xff; 8], visit).expect("a scan");
        found
    }

    fn copied(from: &Path) -> TempDir {
        let to = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("a file");
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a copy");
        }
        to
    }

    #[test]
    fn a_damaged_log_is_refused_untouched_and_loaded_up_to_the_damage_if_that_is_allowed() {
        let mut random = seeded_random::printed();
        let original = tempfile::tempdir().expect("a temporary folder");
        let database = open(original.path(), OPENING).expect("a new database");
        let path = || logs_in(original.path()).pop().expect("a log");
        let starts = write(&database, &path, &mut random, 30);
        let all = contents(&database);
        database.stop_background_work();
        drop(database);
        let folder = copied(original.path());
        let log = logs_in(folder.path()).pop().expect("a log");
        let mut bytes = std::fs::read(&log).expect("a log");
        bytes[starts[20] as usize + HEADER_LEN + 20] ^= 4;
        std::fs::write(&log, &bytes).expect("a damaged log");
        for _ in 0..2 {
            let refusal = open(folder.path(), OPENING).err().expect("a refusal").to_string();
            let said = format!("cannot be read from byte {} on", starts[20]);
            assert!(
                refusal.contains(&said) && refusal.contains("9 readable ones"),
                "{refusal}"
            );
            assert_eq!(std::fs::read(&log).expect("a log"), bytes, "nothing was changed");
        }
        let allowed = Opening {
            loads_damaged_log: true,
            ..OPENING
        };
        let database = open(folder.path(), allowed).expect("it is allowed");
        let expected: BTreeMap<_, _> = all.into_iter().take(20).collect();
        assert!(
            contents(&database) == expected,
            "batches before the damage, and no others"
        );
        database.stop_background_work();
        drop(database);
        assert_eq!(state_in(folder.path()), LogState::Whole);
    }

    #[test]
    fn a_log_behind_a_torn_one_is_looked_at_too() {
        let mut random = seeded_random::printed();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = open(folder.path(), OPENING).expect("a new database");
        let path = || logs_in(folder.path()).pop().expect("a log");
        write(&database, &path, &mut random, 20);
        // Flushes one column, and begins another log; the first holds what the others have.
        database.start_background_threads().expect("a flush");
        let first = logs_in(folder.path()).swap_remove(0);
        write(&database, &path, &mut random, 20);
        let unsynced = copied(folder.path());
        assert_eq!(database.sync_log().ok(), Some(true));
        write(&database, &path, &mut random, 20);
        let synced = copied(folder.path());
        database.stop_background_work();
        let name = first.file_name().expect("a name");
        for (copy, is_torn) in [(&unsynced, true), (&synced, false)] {
            assert_eq!(logs_in(copy.path()).len(), 2, "a second log was begun");
            assert_eq!(state_in(copy.path()), LogState::Whole);
            let bytes = std::fs::read(&first).expect("a log");
            std::fs::write(copy.path().join(name), &bytes[..bytes.len() - 3]).expect("a cut log");
            let state = state_in(copy.path());
            assert_eq!(matches!(state, LogState::Torn(_)), is_torn, "{state:?}");
            let mut bytes = bytes;
            bytes[1000] ^= 1;
            std::fs::write(copy.path().join(name), &bytes).expect("a damaged log");
            let state = state_in(copy.path());
            assert!(matches!(state, LogState::Damaged(_)), "{state:?}");
        }
    }

    /// RocksDB deletes the logs that it has replayed at the end of a recovery, which may be killed before.
    #[test]
    fn what_a_recovery_has_dropped_is_not_damage_to_the_next_one() {
        let mut random = seeded_random::printed();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = open(folder.path(), OPENING).expect("a new database");
        let path = || logs_in(folder.path()).pop().expect("a log");
        write(&database, &path, &mut random, 20);
        database.stop_background_work();
        drop(database);
        let log = logs_in(folder.path()).pop().expect("a log");
        let bytes = std::fs::read(&log).expect("a log");
        let torn = &bytes[..bytes.len() - 3];
        std::fs::write(&log, torn).expect("a torn log");
        assert!(matches!(state_in(folder.path()), LogState::Torn(_)));
        let database = open(folder.path(), OPENING).expect("a torn log is loaded");
        write(&database, &path, &mut random, 20);
        assert_eq!(database.sync_log().ok(), Some(true));
        write(&database, &path, &mut random, 20);
        database.stop_background_work();
        drop(database);
        assert!(!log.exists(), "the recovery deletes what it has replayed");
        std::fs::write(&log, torn).expect("as if it had not come to that");
        assert_eq!(state_in(folder.path()), LogState::Whole);
    }
}
