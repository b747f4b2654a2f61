//! The collections of a shard that are in memory, cell by cell and in order, as a read of RocksDB and of what is staged
//! would find them.
//!
//! To begin a range in RocksDB costs 15 µs, whatever it has, because memtables and young files are searched and what
//! was deleted is looked through; to begin one here costs less than one. A rank is not stored in RocksDB at all.
//!
//! - What is created is **born resident**: its version is new, so nothing of it is on disk.
//! - What is read for the second time is **loaded**, from the first cell on and a bounded number of cells with a read:
//!   below a key, where the loading has come to, all cells are known, and of those behind none.
//! - A collection that was born here, or is complete when it is written, becomes the **authority** for its members: a
//!   write goes into memory and into the log, and nowhere else. It stays until RocksDB has got from the log what it
//!   has (it is *pinned* until then), and what a failed command wrote is taken back change by change.
//! - All others are **copies** of what RocksDB and the table of records have: a write of a cell that is known, or would
//!   be, is applied here, too. What a failed command wrote is not taken back one by one: its copies are dropped.
//! - Those whose version is dead go. Those that were not used for longest are dropped for others, and one that takes
//!   more than a quarter of the memory is read from the disk from then on (it is *paged*).
//! - Where all are pinned, because all are written all the time, and there are too many, some are *demoted*: the table
//!   of records gets their next writes, and they go when RocksDB has what they have.
//! - One whose loading came to no end is seldom begun again, so that what loads cost in vain is bounded: it was dropped
//!   for others before, or so much was deleted on disk that a load found nothing in its time.
//!
//! What is dropped is given back in bounded parts, since that takes a hundred milliseconds for a few million cells.

use super::cell_tree::{CellTree, Snapshot};
use super::cell_walk::Descent;
use super::undo::{Undo, UndoList};
use crate::storage::database::{Column, Direction, MemberRange, Visit};
use crate::storage::encoding::{self, Type};
use crate::storage::look_ahead::Aim;
use crate::storage::pieced_list::PiecedList;
use crate::storage::record_entries::table_hash;
use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;
use std::hash::BuildHasher;
use std::hint::black_box;

/// Cells that one read loads at most, and about how many bytes: as many as take RocksDB half a millisecond.
pub const LOADED_CELLS_MAX: usize = 512;
/// See [`LOADED_CELLS_MAX`].
pub const LOADED_BYTES_MAX: usize = 64 * 1024;

/// One collection must not displace all others: this part of the memory it may have.
const SHARE_OF_ONE: usize = 4;

/// What the memory may have above its bound when the clock finds nothing to drop in its time: this part of the bound,
/// and no more than a load brings. Whoever grows then is dropped.
const SLACK_PART: usize = 16;
const SLACK_BYTES_MAX: usize = LOADED_BYTES_MAX;

/// What a collection takes beside its cells: the entry, its share of the table.
const RESIDENT_BYTES: usize = size_of::<Resident>() + 2 * size_of::<Indexed>();

const _: () = assert!(size_of::<Resident>() <= 112, "there are as many as small hashes");

/// What a cell takes at least, to tell a collection by its count that is too large to be loaded.
const CELL_BYTES_MIN: usize = 16;

/// What is dropped at once: leaves of 4 KiB at the most, some 10 µs, and a collection of about as many bytes.
const LEAVES_DROPPED_AT_ONCE: usize = 64;
const DROPPED_AT_ONCE_BYTES: usize = 256 * 1024;

/// What each turn gives back of what was dropped: 1 GiB in a second of a thousand turns.
const GIVEN_BACK_PER_TURN_BYTES: usize = 1024 * 1024;

/// Steps of the clock, or parts given back, for one cell that comes, and bytes given back: no write takes long.
const STEPS_PER_CELL_MAX: usize = 64;
const STEPS_AMONG_USED_MAX: usize = 256;
const GIVEN_BACK_PER_CELL_BYTES: usize = 2 * DROPPED_AT_ONCE_BYTES;

/// Where this part of the bound is exceeded nothing is waited for before collections are demoted.
const EXCESS_PART: usize = 4;

/// Collections that wait to be dropped while others are demoted to make room.
const DEMOTED_MAX: usize = 256;

/// What is dropped of demoted collections at once: some 600 µs, where all are small.
const DEMOTED_DROPPED_AT_ONCE_BYTES: usize = 64 * DROPPED_AT_ONCE_BYTES;

/// Versions of new collections that were given out in a turn and of which nothing was written yet.
const NEWBORN_MAX: usize = 64;

/// Of the owners that were read and are not in memory, one is remembered for so many bytes of memory.
const BYTES_PER_REMEMBERED: usize = 2048;
const REMEMBERED_MIN: usize = 1024;
const REMEMBERED_MAX: usize = 1 << 18;

/// A collection with a cell of a longer key and value is paged: to copy one costs more than a search on disk.
const CELL_BYTES_MAX: usize = 64 * 1024;

/// What is remembered of an owner beside its hash: it was read...
const WAS_READ: u32 = 0;
/// ...or had grown too large for memory, and may have shrunk since...
const TOO_LARGE: u32 = 1;
/// ...or has a cell that is too large...
const HAS_LARGE_CELL: u32 = 2;
/// ...or its loading came to no end.
const UNFINISHED: u32 = 3;
/// The bits of these in what is remembered.
const STATE: u32 = 3;

/// Of so many reads that find a loading that came to no end, one tries again: a load that brings nothing takes half a
/// millisecond, and so adds some microseconds to each read of 15.
const READS_PER_RETRY: u32 = 256;

/// Whether a cell is so large that its collection is paged.
pub fn is_large_cell(key: &[u8], value: &[u8]) -> bool {
    key.len() + value.len() > CELL_BYTES_MAX
}

/// What of a part no load is to try, since one has found nothing there before it gave up.
#[derive(Default)]
enum Stuck {
    /// Nothing.
    #[default]
    No,
    /// What ends at this key or behind it.
    At(Box<[u8]>),
    /// What goes to the last cell.
    AtEnd,
}

/// Longer ends of reads are not loaded to, so that what is remembered of them is small.
const LOADED_TO_LEN_MAX: usize = 128;

/// From where to before where a read is to load cells; `None`: to the last.
pub type LoadRange = (Vec<u8>, Option<Vec<u8>>);

/// A collection's cells in one column.
#[derive(Default)]
struct Part {
    tree: CellTree,
    /// What of the column is not in the tree; `None`: all is. Most collections are small and complete.
    lacking: Option<Box<Lacking>>,
}

/// What of a collection's column is not in memory.
#[derive(Default)]
struct Lacking {
    /// The cells below this key are in the tree, and no others; `None`: all cells are.
    known_to: Option<Box<[u8]>>,
    /// The collection has nodes of a stored counted tree that are left out: who needs them reads them one by one.
    /// (Where a collection is complete before it has any, they are cells like others.)
    has_nodes: bool,
    stuck: Stuck,
}

impl Part {
    /// Nothing is known yet.
    fn unknown() -> Part {
        let mut part = Part::default();
        part.lacking_mut().known_to = Some(Box::default());
        part
    }

    #[inline]
    fn known_to(&self) -> Option<&[u8]> {
        self.lacking.as_ref()?.known_to.as_deref()
    }

    #[inline]
    fn has_nodes(&self) -> bool {
        self.lacking.as_ref().is_some_and(|lacking| lacking.has_nodes)
    }

    fn lacking_mut(&mut self) -> &mut Lacking {
        self.lacking.get_or_insert_default()
    }

    /// A load may try again what one has given up.
    fn unstick(&mut self) {
        if let Some(lacking) = &mut self.lacking {
            lacking.stuck = Stuck::No;
        }
    }

    /// All cells are in the tree.
    #[inline]
    fn is_complete(&self) -> bool {
        self.lacking
            .as_ref()
            .is_none_or(|lacking| lacking.known_to.is_none() && !lacking.has_nodes)
    }

    /// No cell is known.
    fn is_unknown(&self) -> bool {
        self.known_to().is_some_and(<[u8]>::is_empty)
    }

    /// Some cells are known and others are not.
    fn is_begun(&self) -> bool {
        self.known_to().is_some_and(|end| !end.is_empty())
    }

    #[inline]
    fn is_below_end(&self, key: &[u8]) -> bool {
        self.known_to().is_none_or(|end| key < end)
    }

    /// Where what is known ends of a range that begins at `from`; `None`: with the last cell.
    fn end_from(&self, from: &[u8]) -> Option<&[u8]> {
        static NODES: ([u8; 1], [u8; 1]) = encoding::NODES_RANGE;
        let end = self.known_to();
        match self.has_nodes() && *from < NODES.1[..] {
            true => Some(end.map_or(&NODES.0[..], |end| end.min(&NODES.0[..]))),
            false => end,
        }
    }

    /// What is to be loaded for a read that ends at `to`: all, or only what that read asks for, or nothing.
    fn load_range(&self, to: Option<&[u8]>) -> Option<LoadRange> {
        let lacking = self.lacking.as_ref()?;
        let from = lacking.known_to.as_deref()?;
        let is_tried = match (&lacking.stuck, to) {
            (Stuck::No, _) => return Some((from.to_vec(), None)),
            (Stuck::AtEnd, to) => to.is_some(),
            (Stuck::At(end), to) => to.is_some_and(|to| *to < **end),
        };
        let to = to.filter(|to| is_tried && *to > from && to.len() <= LOADED_TO_LEN_MAX)?;
        Some((from.to_vec(), Some(to.to_vec())))
    }

    /// What the part will take when all its `members` cells are in memory, judged by those that are.
    fn expected_bytes(&self, members: u64) -> u64 {
        match self.tree.len() as u64 {
            0 => 0,
            cells => (self.tree.bytes() as u64 / cells).saturating_mul(members),
        }
    }

    fn knows_range(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        match (self.end_from(from), to) {
            (None, _) => true,
            (Some(end), Some(to)) => to <= end,
            (Some(_), None) => false,
        }
    }
}

/// What tells a collection from all others: its version and a hash, by a secret of this run, of what the keys of all
/// its members begin with. The keys themselves would take as much as a few small members. Hardly any two collections
/// have one version, and of such pairs one in 2^64 has one hash, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnerId {
    version: u64,
    hash: u64,
}

/// The version that an owner ends with.
#[inline]
fn version_of(owner: &[u8]) -> u64 {
    u64::from_be_bytes(*owner.last_chunk().expect("an owner ends with its version"))
}

/// A collection in memory.
pub(super) struct Resident {
    owner: OwnerId,
    /// The physical database that it is of.
    database: u8,
    /// By [`part_of`].
    parts: [Part; 2],
    /// The newest epoch whose writes the collection may show.
    epoch: u64,
    bytes: usize,
    /// Its type; `None`: it was loaded, and nobody has told yet.
    kind: Option<Type>,
    /// It was used since the clock came by last.
    is_used: bool,
    /// Its members are nowhere else, as far as RocksDB has not got them from the log.
    is_authority: bool,
    /// It was the authority, grew too large or has to make room, and is dropped as soon as RocksDB has what it has.
    is_demoted: bool,
    /// It was written since the last frame, and the changes can be taken back.
    is_staged: bool,
    /// What was staged is nowhere else.
    has_staged_alone: bool,
    /// The segment of the log with the last write that is nowhere else; 0 if there is none.
    segment: u32,
    /// When it became the authority the table of records may have had some of its members, which were logged in this
    /// segment at the latest.
    stale_to: u32,
}

impl Resident {
    fn new(owner: OwnerId, database: u8, part: impl Fn() -> Part) -> Resident {
        Resident {
            owner,
            database,
            parts: [part(), part()],
            epoch: 0,
            bytes: 0,
            kind: None,
            is_used: false,
            is_authority: false,
            is_demoted: false,
            is_staged: false,
            has_staged_alone: false,
            segment: 0,
            stale_to: 0,
        }
    }

    /// Whether it has what is nowhere else, when RocksDB has all up to the segment `clean_to`.
    #[inline]
    fn is_pinned(&self, clean_to: u32) -> bool {
        self.is_staged || self.segment > clean_to
    }

    /// Whether all cells are in memory.
    fn is_complete(&self) -> bool {
        self.parts.iter().all(Part::is_complete)
    }

    /// It has few cells: if their bytes are too many nevertheless, its count does not tell when it has shrunk.
    fn has_few_cells(&self) -> bool {
        self.parts.iter().all(|part| part.tree.len() <= LOADED_CELLS_MAX)
    }

    fn count_bytes(&self) -> usize {
        let of_lacking = |lacking: &Lacking| {
            let stuck = match &lacking.stuck {
                Stuck::At(end) => end.len(),
                Stuck::No | Stuck::AtEnd => 0,
            };
            size_of::<Lacking>() + lacking.known_to.as_ref().map_or(0, |end| end.len()) + stuck
        };
        let of_part = |part: &Part| part.tree.bytes() + part.lacking.as_deref().map_or(0, of_lacking);
        RESIDENT_BYTES + self.parts.iter().map(of_part).sum::<usize>()
    }
}

/// What collections take, and of that those of each type ([`Type`]'s code), with those of unknown type last.
#[derive(Clone, Copy, Default)]
struct Bytes {
    all: usize,
    by_kind: [usize; Type::COUNT + 1],
}

impl Bytes {
    fn of_kind(&mut self, kind: Option<Type>) -> &mut usize {
        &mut self.by_kind[kind.map_or(Type::COUNT, |kind| kind as usize)]
    }

    fn add(&mut self, kind: Option<Type>, bytes: usize) {
        self.all += bytes;
        *self.of_kind(kind) += bytes;
    }

    fn take_away(&mut self, kind: Option<Type>, bytes: usize) {
        assert!(self.all >= bytes, "the bytes of all are those of each");
        self.all -= bytes;
        *self.of_kind(kind) -= bytes;
    }
}

/// A collection that is dropped as soon as RocksDB has what it has.
struct Demoted {
    owner: OwnerId,
    /// What it took.
    bytes: usize,
}

type ResidentList = PiecedList<Resident>;

/// All collections that there were.
pub(super) struct Everything {
    list: ResidentList,
    by_owner: HashTable<Indexed>,
    bytes: Bytes,
}

/// Databases were emptied one by one: what their collections take is given back some time later.
struct Sweep {
    /// The physical databases, one bit each.
    databases: u16,
    /// Newer collections came after that.
    last_version: u64,
    /// RocksDB must have this segment: until then they are pinned.
    segment: u32,
    /// The next to be looked at.
    index: usize,
}

/// Collections that a sweep looks at in one step.
const SWEPT_AT_ONCE: usize = 256;

/// What was dropped, and is given back little by little.
enum Dropped {
    Tree(CellTree),
    All(ResidentList),
}

/// What a read has loaded of a collection.
#[derive(Default)]
pub struct LoadedCells {
    bytes: Vec<u8>,
    /// Where each key and each value ends in `bytes`.
    ends: Vec<(usize, usize)>,
}

impl LoadedCells {
    /// Adds a cell behind the others.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether there are `cells` cells, or about as many bytes as a read loads at most.
    pub fn are_enough(&self, cells: usize) -> bool {
        self.ends.len() >= cells || self.bytes.len() >= LOADED_BYTES_MAX
    }

    /// The cells' keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        begins
            .zip(&self.ends)
            .map(|(begin, (middle, end))| (&self.bytes[begin..*middle], &self.bytes[*middle..*end]))
    }
}

/// A column, a key in it, and its value (`None`: it is deleted).
pub type CellWrite<'a> = (Column, &'a [u8], Option<&'a [u8]>);

/// Where a collection is in the list. Its hash is here too ([`table_hash`]), so that the table can grow without a look
/// at each: that is still one step, which moves 8 bytes a collection, and happens only when there are twice as many as
/// ever before.
pub(super) struct Indexed {
    hash: u32,
    index: u32,
}

/// How far a change has come. It is seen between two calls only if a command has panicked in the midst of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    /// There is none.
    None,
    /// It is being made in memory: the collection that was asked for last may be unsound.
    Begun,
    /// It was made in memory and cannot be taken back yet, because it is not staged.
    Unstaged,
}

/// See the file's head.
pub struct Residents {
    by_owner: HashTable<Indexed>,
    /// Without holes, so that no step of the clock is in vain.
    list: ResidentList,
    /// The index of the collection that was asked for last: the next is most often the same.
    last: usize,
    /// The next index that the clock looks at.
    hand: usize,
    newborn: Vec<(u64, Type)>,
    /// Of owners that were read: the upper bits of their hashes, each in the bucket that the lower ones name, and in
    /// the lowest two what became of it ([`STATE`]).
    remembered: Vec<u32>,
    /// Reads that found a loading that came to no end.
    retries_asked: u32,
    dropped: Vec<Dropped>,
    hasher: foldhash::fast::RandomState,
    bytes: Bytes,
    /// Of what was dropped and is not given back.
    dropped_bytes: usize,
    /// Of what has gone and may come again, if that is taken back.
    held_bytes: usize,
    bytes_max: usize,
    change: Change,
    undo: UndoList,
    /// Collections that were written since the last frame, and can be taken back.
    staged: Vec<OwnerId>,
    /// Collections that grew too large, or had to make room, while they were pinned.
    demoted: Vec<Demoted>,
    /// What those took when they were demoted.
    demoted_bytes: usize,
    /// Some of them could be dropped if nothing of them were staged, or when there is time.
    can_drop_demoted: bool,
    sweep: Option<Sweep>,
    /// The segment of the last frame.
    newest_segment: u32,
    /// RocksDB has all up to this segment, and the table of records has let go of it.
    clean_to: u32,
    /// Room was needed, and what was looked at was pinned.
    needs_clean: bool,
    /// What `clean_to` was when all that was looked at for room was pinned: no other is looked at before that changes.
    vain_at: Option<u32>,
}

/// What of the memory can be trusted after a command has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// All: what the command wrote can be taken back.
    All,
    /// Nothing is left, and RocksDB and the table of records have all there was.
    NothingIsLeft,
    /// Nothing is left, and what was nowhere else only the log has: it takes a restart to read it.
    Lost,
}

fn part_of(column: Column) -> Option<usize> {
    match column {
        Column::Data => Some(0),
        Column::Score => Some(1),
        Column::Meta | Column::Expiry | Column::System => None,
    }
}

fn is_node(column: Column, key: &[u8]) -> bool {
    column == Column::Score && encoding::is_node_key(key)
}

/// What the collections in memory are asked, by the key that all members of the owner begin with.
impl Residents {
    /// None yet, and never more than about `bytes_max` bytes of them.
    pub fn new(bytes_max: usize) -> Residents {
        let remembered = (bytes_max / BYTES_PER_REMEMBERED).clamp(REMEMBERED_MIN, REMEMBERED_MAX);
        Residents {
            by_owner: HashTable::new(),
            list: ResidentList::default(),
            last: 0,
            hand: 0,
            newborn: Vec::new(),
            remembered: vec![0; remembered.next_power_of_two()],
            retries_asked: 0,
            dropped: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            bytes: Bytes::default(),
            dropped_bytes: 0,
            held_bytes: 0,
            bytes_max,
            change: Change::None,
            undo: UndoList::default(),
            staged: Vec::new(),
            demoted: Vec::new(),
            demoted_bytes: 0,
            can_drop_demoted: false,
            sweep: None,
            newest_segment: 0,
            clean_to: 0,
            needs_clean: false,
            vain_at: None,
        }
    }

    /// Changes how many bytes there may be; makes some room, if there are more, and more of it for each cell that comes
    /// in.
    #[inline]
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        if self.bounded_bytes() <= bytes_max {
            self.vain_at = None;
            return;
        }
        let is_vain = self.vain_at == Some(self.clean_to) && self.dropped.is_empty();
        if !is_vain {
            self.make_room();
        }
    }

    /// How many collections are in memory.
    pub fn len(&self) -> usize {
        self.by_owner.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// How much memory they take, with what was dropped and is not given back yet.
    pub fn bytes(&self) -> usize {
        self.bounded_bytes() + self.held_bytes
    }

    /// The same without what is kept only until it is known whether it has gone.
    #[inline]
    fn bounded_bytes(&self) -> usize {
        self.bytes.all + self.dropped_bytes
    }

    /// The same by type, as [`Type`] codes them; those of unknown type, and what has gone and is still there, come
    /// last.
    pub fn bytes_by_type(&self) -> [usize; Type::COUNT + 1] {
        let mut bytes = self.bytes.by_kind;
        bytes[Type::COUNT] += self.dropped_bytes + self.held_bytes;
        bytes
    }

    /// By the version, which hardly any two owners have in common.
    #[inline]
    fn hash_of(&self, owner: &[u8]) -> u64 {
        self.hash_of_version(version_of(owner))
    }

    #[inline]
    fn hash_of_version(&self, version: u64) -> u64 {
        self.hasher.hash_one(version)
    }

    #[inline]
    fn id_of(&self, owner: &[u8]) -> OwnerId {
        OwnerId {
            version: version_of(owner),
            hash: self.hasher.hash_one(owner),
        }
    }

    /// A collection that may have a version, without a look at it.
    #[inline]
    pub fn candidate(&self, version: u64) -> Option<u32> {
        let hash = self.hash_of_version(version);
        let found = self.by_owner.find(table_hash(hash as u32), |_| true);
        found.map(|indexed| indexed.index)
    }

    /// Reads something of a collection, and gives out how to come to what will be used of its members.
    #[inline]
    pub fn descend<'t>(&'t self, index: u32, aim: Aim<'t>, begin: &mut impl FnMut(Descent<'t>)) {
        let resident = &self.list[index as usize];
        black_box(resident.epoch ^ resident.owner.hash ^ resident.bytes as u64 ^ u64::from(resident.segment));
        let [members, by_score] = resident.parts.each_ref().map(|part| part.tree.root());
        let (of_members, of_scores) = match aim {
            Aim::Rank(_) if by_score.is_some() => (None, Some(aim)),
            aim => (Some(aim), Some(Aim::Unknown)),
        };
        let descent = |(root, aim)| Some(Descent::new(root?, aim?));
        let descents = [(members, of_members), (by_score, of_scores)];
        descents.into_iter().filter_map(descent).for_each(begin);
    }

    #[inline]
    fn find(&mut self, owner: &[u8]) -> Option<usize> {
        match self.by_owner.is_empty() {
            true => None,
            false => self.find_id(self.id_of(owner)),
        }
    }

    #[inline]
    fn find_id(&mut self, owner: OwnerId) -> Option<usize> {
        if let Some(resident) = self.list.get(self.last)
            && resident.owner == owner
        {
            return Some(self.last);
        }
        let hash = self.hash_of_version(owner.version) as u32;
        let list = &self.list;
        let is_it = |indexed: &Indexed| indexed.hash == hash && list[indexed.index as usize].owner == owner;
        let index = self.by_owner.find(table_hash(hash), is_it)?.index as usize;
        self.last = index;
        Some(index)
    }

    /// The part of an owner that is in memory; it counts as used.
    #[inline]
    fn part(&mut self, owner: &[u8], column: Column) -> Option<(&Part, u64)> {
        let (index, part) = (self.find(owner)?, part_of(column)?);
        let resident = &mut self.list[index];
        resident.is_used = true;
        Some((&resident.parts[part], resident.epoch))
    }

    /// Whether an owner's members are asked for here, and nowhere else.
    #[inline]
    pub fn is_authority(&mut self, owner: &[u8]) -> bool {
        match self.find(owner) {
            Some(index) => self.list[index].is_authority,
            None => false,
        }
    }

    /// The cells of a column as they are now, and the newest epoch whose writes may be among them, if all are known.
    pub fn snapshot(&mut self, owner: &[u8], column: Column) -> Option<(Snapshot, u64)> {
        let (part, epoch) = self.part(owner, column)?;
        part.is_complete().then(|| (part.tree.snapshot(), epoch))
    }

    /// Whether an owner has members in memory that are nowhere else: nothing can be compared with them.
    pub fn has_alone(&mut self, owner: &[u8]) -> bool {
        let clean_to = self.clean_to;
        self.find(owner)
            .is_some_and(|index| self.list[index].is_authority || self.list[index].is_pinned(clean_to))
    }

    /// Whether anything of an owner is in memory.
    pub fn has(&mut self, owner: &[u8]) -> bool {
        self.find(owner).is_some()
    }

    /// How many bytes an owner takes of the memory, if all its cells are there. That is no use.
    pub fn bytes_of(&mut self, owner: &[u8]) -> Option<usize> {
        let index = self.find(owner)?;
        let resident = &self.list[index];
        resident.is_complete().then_some(resident.bytes)
    }

    /// Calls `visit` with the cells from `from` to before `to` (`None`: to the last) until it breaks, if they are
    /// known. Returns the newest epoch whose writes were seen; `None` if they are not known.
    #[inline]
    pub fn visit(
        &mut self,
        owner: &[u8],
        column: Column,
        (from, to): MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Option<u64> {
        let (part, epoch) = self.part(owner, column)?;
        if !part.knows_range(from, to) {
            return None;
        }
        part.tree.visit((Some(from), to), direction, visit);
        Some(epoch)
    }

    /// Where what is known ends of a range that begins at `from`, if that is behind `from` and not its last cell.
    pub fn known_to(&mut self, owner: &[u8], column: Column, from: &[u8]) -> Option<Vec<u8>> {
        let (part, _) = self.part(owner, column)?;
        part.end_from(from).filter(|end| *end > from).map(<[u8]>::to_vec)
    }

    /// Whether it is known if there is a cell of this key.
    #[inline]
    pub fn knows(&mut self, owner: &[u8], column: Column, key: &[u8]) -> bool {
        self.part(owner, column)
            .is_some_and(|(part, _)| part.is_below_end(key) && (!is_node(column, key) || part.is_complete()))
    }

    /// The same of a cell of the table of records, which is not a use.
    pub fn has_cell(&mut self, owner: &[u8], column: Column, key: &[u8]) -> bool {
        let (Some(index), Some(part)) = (self.find(owner), part_of(column)) else {
            return false;
        };
        let part = &self.list[index].parts[part];
        part.is_below_end(key) && (!is_node(column, key) || part.is_complete())
    }

    /// The value of a cell of which [`Residents::knows`] says so, and the newest epoch whose writes were seen.
    #[inline]
    pub fn get(&mut self, owner: &[u8], column: Column, key: &[u8]) -> (Option<&[u8]>, u64) {
        let (part, epoch) = self.part(owner, column).expect("the cell is known");
        debug_assert!(part.is_below_end(key));
        (part.tree.get(key), epoch)
    }

    /// How many cells lie before a key, and the newest epoch whose writes were seen; `None` if that is not known.
    /// Nodes of stored trees, which lie behind all members of a sorted set, are not counted.
    pub fn rank(&mut self, owner: &[u8], column: Column, key: &[u8]) -> Option<(u64, u64)> {
        let (part, epoch) = self.part(owner, column)?;
        part.knows_range(b"", Some(key))
            .then(|| (part.tree.rank(key) as u64, epoch))
    }

    /// Whether a collection would be complete if nothing were in a column, of which nothing is known.
    pub fn lacks_only(&mut self, owner: &[u8], column: Column) -> bool {
        let (Some(index), Some(lacking)) = (self.find(owner), part_of(column)) else {
            return false;
        };
        let parts = &self.list[index].parts;
        let others = || parts.iter().enumerate().filter(|(part, _)| *part != lacking);
        parts[lacking].is_unknown() && others().all(|(_, part)| part.is_complete())
    }

    /// The key of the cell before which lie `rank` others, and the newest epoch whose writes were seen; `None` if that
    /// is not known.
    pub fn key_at(&mut self, owner: &[u8], column: Column, rank: u64) -> Option<(Vec<u8>, u64)> {
        let (part, epoch) = self.part(owner, column)?;
        let (key, _) = part.tree.nth(usize::try_from(rank).ok()?)?;
        Some((key.to_vec(), epoch))
    }
}

/// Where a cell was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Only here: nothing else is to have it. `is_new`: it was not there before.
    #[allow(missing_docs)]
    Alone { is_new: bool },
    /// It is to be staged elsewhere; what is here is a copy, or nothing.
    Elsewhere,
}

/// What comes into memory and changes there.
impl Residents {
    /// A new collection's version was given out: nothing of it is on disk.
    pub fn born(&mut self, version: u64, kind: Type) {
        if self.bytes_max > 0 && self.newborn.len() < NEWBORN_MAX {
            self.newborn.push((version, kind));
        }
    }

    /// Whether an owner was just born and nothing of it was written yet: it has no members, here or elsewhere.
    #[inline]
    pub fn is_newborn(&self, owner: &[u8]) -> bool {
        !self.newborn.is_empty() && {
            let version = version_of(owner);
            self.newborn.iter().any(|(newborn, _)| *newborn == version)
        }
    }

    /// A turn begins: gives back some of what was dropped, and drops what was demoted.
    pub fn begin_turn(&mut self) {
        self.newborn.clear();
        if self.can_drop_demoted && self.undo.len() == 0 {
            // What is written with every turn has nothing staged now only.
            self.drop_demoted();
        }
        if !self.dropped.is_empty() {
            self.give_back(GIVEN_BACK_PER_TURN_BYTES);
        }
    }

    /// Creates the entry of an owner that was just born, at its first write.
    fn bring_forth(&mut self, owner: &[u8]) -> Option<usize> {
        let version = u64::from_be_bytes(*owner.last_chunk()?);
        let born = self.newborn.iter().position(|(newborn, _)| *newborn == version)?;
        let (_, kind) = self.newborn.swap_remove(born);
        let index = self.insert(owner, Some(kind), Part::default);
        let resident = &mut self.list[index];
        resident.is_authority = true;
        self.undo.push(Undo::Born(resident.owner));
        Some(index)
    }

    fn insert(&mut self, owner: &[u8], kind: Option<Type>, part: impl Fn() -> Part) -> usize {
        let database = owner.first().copied().unwrap_or_default();
        let mut resident = Resident::new(self.id_of(owner), database, part);
        resident.kind = kind;
        resident.bytes = resident.count_bytes();
        self.add(resident)
    }

    fn add(&mut self, resident: Resident) -> usize {
        let hash = self.hash_of_version(resident.owner.version) as u32;
        self.bytes.add(resident.kind, resident.bytes);
        let index = u32::try_from(self.list.len()).expect("each takes far more than a byte of memory");
        self.list.push(resident);
        let indexed = Indexed { hash, index };
        self.by_owner
            .insert_unique(table_hash(hash), indexed, |indexed| table_hash(indexed.hash));
        self.last = index as usize;
        index as usize
    }

    /// A cell of an owner is written in `epoch`, or deleted (`None`). Returns whether the collection is the authority
    /// for that: then it is only to be logged. If not, it is to be staged, and that to be told to
    /// [`Residents::staged`]. A collection may become the authority (`may_take_over`) when the table of records has
    /// nothing staged.
    #[inline]
    pub fn write(&mut self, owner: &[u8], cell: CellWrite<'_>, epoch: u64, may_take_over: bool) -> Written {
        self.change = Change::Begun;
        let written = self.change_cell(owner, cell, epoch, may_take_over);
        self.change = match written {
            Written::Alone { .. } => Change::None,
            Written::Elsewhere => Change::Unstaged,
        };
        written
    }

    /// What was written is staged, too: if the command fails from now on, it is taken back.
    #[inline]
    pub fn staged(&mut self) {
        self.change = Change::None;
    }

    #[inline]
    fn change_cell(&mut self, owner: &[u8], cell: CellWrite<'_>, epoch: u64, may_take_over: bool) -> Written {
        let (column, key, value) = cell;
        let Some(part) = part_of(column) else {
            return Written::Elsewhere;
        };
        let (index, is_born) = match self.find(owner) {
            Some(index) => (index, false),
            None if self.newborn.is_empty() => return Written::Elsewhere,
            None => match self.bring_forth(owner) {
                Some(index) => (index, true),
                None => return Written::Elsewhere,
            },
        };
        let resident = &mut self.list[index];
        if may_take_over && !resident.is_authority && !resident.is_demoted && resident.is_complete() {
            (resident.is_authority, resident.stale_to) = (true, self.newest_segment);
        }
        let is_authority = resident.is_authority;
        let mut is_new = false;
        if is_authority || resident.is_pinned(self.clean_to) {
            is_new = self.change_with_undo(index, (part, column), (key, value), epoch);
        } else if !self.change_copy(index, (part, column), (key, value), epoch) {
            self.refuse_large_cell(owner);
            return Written::Elsewhere;
        }
        if is_authority && value.is_some_and(|value| is_large_cell(key, value)) && self.demote(index) {
            let hash = self.hash_of(owner);
            self.remember(hash, HAS_LARGE_CELL);
        }
        if is_born {
            // What is only created once and never asked for is the first to go.
            self.list[index].is_used = false;
        }
        self.count(owner, index);
        match is_authority {
            true => Written::Alone { is_new },
            false => Written::Elsewhere,
        }
    }

    /// Changes a cell of what has no other place, or is to be kept as long as it has not. Returns whether it is there
    /// now and was not before.
    fn change_with_undo(
        &mut self,
        index: usize,
        part: (usize, Column),
        cell: (&[u8], Option<&[u8]>),
        epoch: u64,
    ) -> bool {
        let ((part_index, column), (key, value)) = (part, cell);
        let Residents { list, undo, staged, .. } = self;
        let resident = &mut list[index];
        if undo.has_to_name(resident.owner) {
            undo.name(resident.owner, resident.epoch, resident.is_staged);
        }
        if !std::mem::replace(&mut resident.is_staged, true) {
            staged.push(resident.owner);
        }
        resident.has_staged_alone |= resident.is_authority;
        resident.is_used = true;
        resident.epoch = resident.epoch.max(epoch);
        let part = &mut resident.parts[part_index];
        if is_node(column, key) && part.has_nodes() {
            return false;
        }
        match value {
            Some(value) => {
                let replaced = part
                    .tree
                    .insert_with(key, value, |old| undo.cell(part_index, key, Some(old)));
                if replaced.is_none() {
                    undo.cell(part_index, key, None);
                }
                replaced.is_none()
            }
            None => {
                part.tree.remove_with(key, |old| undo.cell(part_index, key, Some(old)));
                false
            }
        }
    }

    /// Changes a cell of what RocksDB and the table of records have, too. Returns false if the cell is too large.
    fn change_copy(
        &mut self,
        index: usize,
        (part, column): (usize, Column),
        (key, value): (&[u8], Option<&[u8]>),
        epoch: u64,
    ) -> bool {
        let resident = &mut self.list[index];
        resident.epoch = resident.epoch.max(epoch);
        let part = &mut resident.parts[part];
        if is_node(column, key) && !part.is_complete() {
            part.lacking_mut().has_nodes = true;
        } else if value.is_some_and(|value| is_large_cell(key, value)) {
            return false;
        } else if part.is_below_end(key) {
            match value {
                Some(value) => part.tree.insert_with(key, value, |_| ()),
                None => part.tree.remove_with(key, |_| ()),
            };
        }
        true
    }

    /// The cells of an owner, which is at `index`, have changed: counts their bytes again, and makes room.
    fn count(&mut self, owner: &[u8], index: usize) {
        if self.recount(index) > self.bytes_max / SHARE_OF_ONE {
            self.refuse_too_large(index);
        }
        if self.bounded_bytes() <= self.bytes_max {
            return;
        }
        if self.vain_at == Some(self.clean_to) && self.dropped.is_empty() {
            self.needs_clean = true;
            return;
        }
        self.make_room();
        let slack = (self.bytes_max / SLACK_PART).min(SLACK_BYTES_MAX);
        if self.bounded_bytes() <= self.bytes_max + slack {
            return;
        }
        match self.find(owner) {
            Some(index) if !self.list[index].is_pinned(self.clean_to) => self.evict(index),
            _ => self.make_room_among_used(),
        }
    }

    /// All that the clock came by is used or pinned, and who grows is pinned, too: others go, though they are used.
    /// Where all are pinned, some are demoted, if there is much too much, or if all were pinned before RocksDB got the
    /// last that it has: they are written all the time.
    fn make_room_among_used(&mut self) {
        let has_waited = self.vain_at.is_some_and(|clean_to| clean_to != self.clean_to);
        let mut is_vain = true;
        for _ in 0..STEPS_AMONG_USED_MAX {
            if self.bytes.all <= self.bytes_max {
                self.vain_at = None;
                return;
            }
            self.wrap_hand();
            match self.list.get(self.hand) {
                Some(resident) if !resident.is_pinned(self.clean_to) => {
                    self.evict(self.hand);
                    is_vain = false;
                }
                _ => self.hand += 1,
            }
        }
        self.needs_clean = true;
        self.vain_at = is_vain.then_some(self.clean_to);
        if !is_vain {
            return;
        }
        let excess = self.bytes.all - self.bytes_max;
        if has_waited || excess > self.bytes_max / EXCESS_PART {
            self.demote_for_others(excess);
        }
    }

    /// Behind the last one the hand of the clock comes to the first.
    fn wrap_hand(&mut self) {
        if self.hand >= self.list.len() {
            self.hand = 0;
        }
    }

    /// Demotes collections until what is demoted takes `excess` bytes: such as are not small beside others, so that few
    /// make the room.
    fn demote_for_others(&mut self, excess: usize) {
        for _ in 0..STEPS_AMONG_USED_MAX {
            if self.demoted_bytes >= excess || self.demoted.len() >= DEMOTED_MAX {
                return;
            }
            self.wrap_hand();
            let Some(resident) = self.list.get(self.hand) else {
                return;
            };
            let (bytes, version) = (resident.bytes, resident.owner.version);
            if bytes >= self.bytes.all / self.list.len() && self.demote(self.hand) {
                // Where more is written than fits, a load would only displace others.
                self.remember(self.hash_of_version(version), UNFINISHED);
            }
            self.hand += 1;
        }
    }

    fn push_demoted(&mut self, owner: OwnerId, bytes: usize) {
        self.demoted_bytes += bytes;
        self.demoted.push(Demoted { owner, bytes });
    }

    /// Counts the bytes of a collection again, and returns them.
    #[inline]
    fn recount(&mut self, index: usize) -> usize {
        let resident = &mut self.list[index];
        let (before, now) = (resident.bytes, resident.count_bytes());
        resident.bytes = now;
        self.bytes.all = self.bytes.all - before + now;
        let of_kind = self.bytes.of_kind(resident.kind);
        *of_kind = *of_kind - before + now;
        now
    }

    /// A collection takes too much of the memory: it is dropped, now or when RocksDB has what it has.
    fn refuse_too_large(&mut self, index: usize) {
        let resident = &mut self.list[index];
        let state = match resident.has_few_cells() {
            true => UNFINISHED,
            false => TOO_LARGE,
        };
        let (version, is_pinned) = (resident.owner.version, resident.is_pinned(self.clean_to));
        let hash = self.hash_of_version(version);
        match is_pinned {
            true if !self.demote(index) => return,
            true => {}
            false => self.drop_at(index),
        }
        self.remember(hash, state);
    }

    /// Lets the table of records have the next writes to an authority, so that there comes a time when RocksDB has
    /// all that is here alone. Returns whether that could be done now.
    fn demote(&mut self, index: usize) -> bool {
        let resident = &mut self.list[index];
        // The table of records must not have older members than there are here.
        let is_possible = resident.is_authority && resident.stale_to <= self.clean_to;
        if is_possible {
            (resident.is_authority, resident.is_demoted) = (false, true);
            let (owner, bytes) = (resident.owner, resident.bytes);
            self.push_demoted(owner, bytes);
        }
        is_possible
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.remembered.len() - 1)
    }

    fn remember(&mut self, hash: u64, state: u32) {
        let bucket = self.bucket(hash);
        self.remembered[bucket] = (hash >> 32) as u32 & !STATE | state;
    }

    /// An owner has a cell of more than [`CELL_BYTES_MAX`]: it is paged.
    pub fn refuse_large_cell(&mut self, owner: &[u8]) {
        self.refuse(owner, HAS_LARGE_CELL);
    }

    fn refuse(&mut self, owner: &[u8], state: u32) {
        let hash = self.hash_of(owner);
        self.remember(hash, state);
        self.distrust(owner);
    }

    /// Whether a read that finds a loading that came to no end is to try again.
    fn is_time_to_retry(&mut self) -> bool {
        self.retries_asked = self.retries_asked.wrapping_add(1);
        self.retries_asked.is_multiple_of(READS_PER_RETRY)
    }

    /// Whether a collection of so many members may fit.
    pub fn has_room_for(&self, members: u64) -> bool {
        members.saturating_mul(CELL_BYTES_MIN as u64) <= (self.bytes_max / SHARE_OF_ONE) as u64
    }

    /// A read that is worth a load has come to an owner, though it may be the first.
    pub fn remember_read(&mut self, owner: &[u8]) {
        let hash = self.hash_of(owner);
        let remembered = self.remembered[self.bucket(hash)];
        if remembered & !STATE != (hash >> 32) as u32 & !STATE {
            self.remember(hash, WAS_READ);
        }
    }

    /// From where to where a read, to before `to` (`None`: to the last), of an owner that has `members` members is to
    /// load cells of a column; `None` if it is not to load any. Only for reads of what is not known.
    pub fn load_range(&mut self, owner: &[u8], column: Column, members: u64, to: Option<&[u8]>) -> Option<LoadRange> {
        let bytes_max = self.bytes_max / SHARE_OF_ONE;
        if bytes_max == 0 || !self.has_room_for(members) {
            return None;
        }
        let is_small = members <= LOADED_CELLS_MAX as u64;
        if let Some((part, _)) = self.part(owner, column) {
            if part.known_to().is_some() && part.expected_bytes(members) > bytes_max as u64 {
                self.refuse(owner, if is_small { UNFINISHED } else { TOO_LARGE });
                return None;
            }
            let range = part.load_range(to);
            if range.is_some() || part.known_to().is_none() || !self.is_time_to_retry() {
                return range;
            }
            let index = self.find(owner)?;
            let part = &mut self.list[index].parts[part_of(column)?];
            part.unstick();
            let range = part.load_range(None);
            // No room is made: what is known up to where the range begins might go.
            self.recount(index);
            return range;
        }
        part_of(column)?;
        let hash = self.hash_of(owner);
        let remembered = self.remembered[self.bucket(hash)];
        if remembered & !STATE != (hash >> 32) as u32 & !STATE {
            self.remember(hash, WAS_READ);
            return None;
        }
        let loads = match remembered & STATE {
            WAS_READ => true,
            TOO_LARGE => is_small,
            UNFINISHED => self.is_time_to_retry(),
            _ => false,
        };
        if loads {
            // What hindered it may be gone.
            self.remember(hash, WAS_READ);
        }
        loads.then(LoadRange::default)
    }

    /// A read has found nothing from where [`Residents::load_range`] began to where it gave up, because too much was
    /// deleted there, and `to` is where the range would have ended. Compactions take that away some time.
    pub fn give_up_load(&mut self, owner: &[u8], column: Column, to: Option<Vec<u8>>) {
        let Some(part) = part_of(column) else { return };
        match self.find(owner) {
            Some(index) => {
                self.list[index].parts[part].lacking_mut().stuck = match to {
                    Some(to) => Stuck::At(to.into()),
                    None => Stuck::AtEnd,
                };
                self.count(owner, index);
            }
            None => {
                let hash = self.hash_of(owner);
                self.remember(hash, UNFINISHED);
            }
        }
    }

    /// Where much is deleted in an owner's members is known now, and passed over: a load that gave up there may come to
    /// its end.
    pub fn try_again(&mut self, owner: &[u8], column: Column) {
        let Some(part) = part_of(column) else { return };
        if let Some(index) = self.find(owner) {
            self.list[index].parts[part].unstick();
            self.recount(index);
            return;
        }
        let hash = self.hash_of(owner);
        if self.remembered[self.bucket(hash)] == (hash >> 32) as u32 & !STATE | UNFINISHED {
            self.remember(hash, WAS_READ);
        }
    }

    /// Whether a collection that is in memory is of a type of which nobody has told.
    pub fn lacks_kind(&mut self, owner: &[u8]) -> bool {
        self.find(owner).is_some_and(|index| self.list[index].kind.is_none())
    }

    /// A collection that is in memory is of this type.
    pub fn tell_kind(&mut self, owner: &[u8], kind: Type) {
        if let Some(index) = self.find(owner) {
            let resident = &mut self.list[index];
            let (bytes, before) = (resident.bytes, resident.kind.replace(kind));
            self.bytes.take_away(before, bytes);
            self.bytes.add(Some(kind), bytes);
        }
    }

    /// A read has found these cells from where [`Residents::load_range`] began on, and no others before `known_to`
    /// (`None`: there are no more); `epoch` is the newest whose writes it has seen.
    pub fn extend(&mut self, owner: &[u8], column: Column, cells: &LoadedCells, known_to: Option<Vec<u8>>, epoch: u64) {
        let Some(part) = part_of(column) else { return };
        self.change = Change::Begun;
        let index = match self.find(owner) {
            Some(index) => index,
            None => self.insert(owner, None, Part::unknown),
        };
        let resident = &mut self.list[index];
        resident.epoch = resident.epoch.max(epoch);
        let part = &mut resident.parts[part];
        for (key, value) in cells.iter() {
            // Here they are not yet known to be all.
            match is_node(column, key) {
                true => part.lacking_mut().has_nodes = true,
                false => drop(part.tree.insert_with(key, value, |_| ())),
            }
        }
        assert!(
            known_to.as_deref().is_none_or(|end| !part.is_below_end(end)),
            "what is known only grows"
        );
        part.lacking_mut().known_to = known_to.map(Vec::into_boxed_slice);
        if part.is_complete() {
            part.lacking = None;
        }
        self.count(owner, index);
        self.change = Change::None;
    }
}

/// What is taken back, and what is logged.
impl Residents {
    /// How many changes can be taken back.
    #[inline]
    pub fn changes(&self) -> usize {
        self.undo.len() - self.undo.kept
    }

    /// The value that a cell had before the last change, if that was a cell's which had one.
    #[inline]
    pub fn value_before(&self) -> Option<&[u8]> {
        self.undo.last_value()
    }

    /// The running command is over and its writes stand, until the frame that they are for is written or not.
    #[inline]
    pub fn keep_command(&mut self) {
        self.undo.kept = self.undo.len();
    }

    /// Takes back all changes of the running command but the first `kept`.
    pub fn roll_back_command(&mut self, kept: usize) {
        self.roll_back_to(self.undo.kept + kept);
    }

    /// Takes back all changes since the last frame.
    pub fn roll_back_staged(&mut self) {
        self.roll_back_to(0);
        self.undo.kept = 0;
    }

    fn roll_back_to(&mut self, kept: usize) {
        let mut of = None;
        while self.undo.len() > kept
            && let Some(change) = self.undo.pop()
        {
            match change {
                Undo::Cell {
                    part,
                    key_len,
                    value_len,
                    at,
                } => {
                    let owner = *of.get_or_insert_with(|| self.undo.last_named());
                    let index = self.find_id(owner).expect("what was changed is there again");
                    let (key, value) = self.undo.cell_at(at, key_len, value_len);
                    let tree = &mut self.list[index].parts[usize::from(part)].tree;
                    match value {
                        Some(value) => tree.insert_with(key, value, |_| ()),
                        None => tree.remove_with(key, |_| ()),
                    };
                    self.undo.forget_bytes(at);
                    self.recount(index);
                }
                Undo::Of {
                    owner,
                    epoch,
                    was_staged,
                } => {
                    of = None;
                    let index = self.find_id(owner).expect("what was changed is there again");
                    let resident = &mut self.list[index];
                    (resident.epoch, resident.is_staged) = (epoch, was_staged);
                }
                Undo::Born(owner) => {
                    let index = self.find_id(owner).expect("what was born is there again");
                    self.drop_at(index);
                }
                Undo::Dropped(resident) => {
                    // A load may have found what was there of it.
                    if let Some(index) = self.find_id(resident.owner) {
                        self.drop_at(index);
                    }
                    if resident.is_demoted && !self.demoted.iter().any(|demoted| demoted.owner == resident.owner) {
                        self.push_demoted(resident.owner, resident.bytes);
                    }
                    self.held_bytes -= resident.bytes;
                    self.add(*resident);
                }
                Undo::Cleared(everything) => {
                    self.give_up_all();
                    let Everything { list, by_owner, bytes } = *everything;
                    self.held_bytes -= bytes.all;
                    (self.list, self.by_owner, self.bytes) = (list, by_owner, bytes);
                }
            }
        }
    }

    /// What was written since the last frame was logged in `segment`; 0 if it was written to RocksDB at once.
    pub fn logged(&mut self, segment: u32) {
        for owner in std::mem::take(&mut self.staged) {
            if let Some(index) = self.find_id(owner) {
                let resident = &mut self.list[index];
                let is_staged = std::mem::take(&mut resident.is_staged);
                if is_staged && std::mem::take(&mut resident.has_staged_alone) {
                    resident.segment = segment;
                }
            }
        }
        self.changes_stand();
        self.newest_segment = self.newest_segment.max(segment);
    }

    /// No change will be taken back: what was kept for that goes.
    fn changes_stand(&mut self) {
        for held in self.undo.take_held() {
            match held {
                Undo::Dropped(resident) => {
                    self.held_bytes -= resident.bytes;
                    self.dropped_bytes += resident.bytes;
                    self.dismantle(*resident);
                }
                Undo::Cleared(everything) => {
                    self.held_bytes -= everything.bytes.all;
                    self.dropped_bytes += everything.bytes.all;
                    self.dropped.push(Dropped::All(everything.list));
                }
                Undo::Of { .. } | Undo::Cell { .. } | Undo::Born(_) => unreachable!("nothing is held by these"),
            }
        }
    }

    /// RocksDB has all segments up to `clean_to`, and the table of records has nothing of them any more that RocksDB
    /// lacks: drops what stayed only for that, in a bounded step.
    pub fn work_off(&mut self, clean_to: u32) {
        self.clean_to = clean_to;
        self.drop_demoted();
        self.sweep();
    }

    /// Drops what was demoted and has nothing that is nowhere else, in a bounded step.
    fn drop_demoted(&mut self) {
        let (mut demoted, mut left) = (std::mem::take(&mut self.demoted), DEMOTED_DROPPED_AT_ONCE_BYTES);
        (self.demoted_bytes, self.can_drop_demoted) = (0, false);
        demoted.retain(|Demoted { owner, bytes }| {
            let index = self.find_id(*owner).filter(|index| self.list[*index].is_demoted);
            let Some(index) = index else { return false };
            let resident = &self.list[index];
            if !resident.is_pinned(self.clean_to) && left > 0 {
                left = left.saturating_sub(resident.bytes.min(DROPPED_AT_ONCE_BYTES));
                self.drop_at(index);
                return false;
            }
            self.can_drop_demoted |= resident.segment <= self.clean_to;
            self.demoted_bytes += bytes;
            true
        });
        self.demoted = demoted;
    }

    /// Whether there is more for [`Residents::work_off`] to do.
    pub fn has_work(&self) -> bool {
        self.sweep.as_ref().is_some_and(|sweep| sweep.segment <= self.clean_to)
    }

    /// Looks at some collections, if databases were emptied.
    fn sweep(&mut self) {
        let Some(sweep) = &mut self.sweep else { return };
        if sweep.segment > self.clean_to {
            return;
        }
        let (databases, last_version) = (sweep.databases, sweep.last_version);
        let mut index = sweep.index;
        for _ in 0..SWEPT_AT_ONCE {
            let Some(resident) = self.list.get(index) else {
                self.sweep = None;
                return;
            };
            let bits = databases.checked_shr(u32::from(resident.database));
            let is_of_it = bits.is_some_and(|bits| bits & 1 == 1);
            let is_dead = is_of_it && resident.owner.version <= last_version;
            match is_dead && !resident.is_pinned(self.clean_to) {
                // Another one comes to its place.
                true => self.drop_at(index),
                false => index += 1,
            }
        }
        if let Some(sweep) = &mut self.sweep {
            sweep.index = index;
        }
    }

    /// Whether room was needed since the last call that RocksDB has to make, by getting what is pinned.
    pub fn take_needs_clean(&mut self) -> bool {
        std::mem::take(&mut self.needs_clean)
    }
}

/// What leaves memory.
impl Residents {
    /// The version of an owner is dead: nobody reads its members any more, unless that is taken back.
    pub fn drop_dead(&mut self, owner: &[u8]) {
        let Some(index) = self.find(owner) else { return };
        if !self.list[index].is_pinned(self.clean_to) {
            return self.drop_at(index);
        }
        let resident = self.take_out(index);
        self.held_bytes += resident.bytes;
        self.undo.push(Undo::Dropped(Box::new(resident)));
    }

    /// What is known of an owner may not be true any more, if it is a copy: writes to it were taken back elsewhere.
    pub fn distrust(&mut self, owner: &[u8]) {
        if let Some(index) = self.find(owner)
            && !self.list[index].is_pinned(self.clean_to)
        {
            self.drop_at(index);
        }
    }

    /// A command has failed. Unless that was by a panic in the midst of a change, all that is known can be trusted when
    /// the command's changes are taken back.
    pub fn command_failed(&mut self) -> Trusted {
        let change = std::mem::replace(&mut self.change, Change::None);
        if change == Change::None {
            return Trusted::All;
        }
        let clean_to = self.clean_to;
        let has_alone = self.undo.len() > 0 || self.list.iter().any(|resident| resident.is_pinned(clean_to));
        if change == Change::Begun && self.last < self.list.len() {
            // Its tree may be unsound: it is given back at once, though it may be large, by what needs no counts.
            let unsound = self.list.swap_remove(self.last);
            self.bytes.all = self.bytes.all.saturating_sub(unsound.bytes);
        }
        self.give_up_all();
        self.staged.clear();
        self.demoted.clear();
        (self.demoted_bytes, self.can_drop_demoted) = (0, false);
        self.changes_stand();
        match has_alone {
            true => Trusted::Lost,
            false => Trusted::NothingIsLeft,
        }
    }

    /// All keys of all databases go, unless that is taken back.
    pub fn flush(&mut self) {
        self.newborn.clear();
        (self.last, self.hand, self.sweep) = (0, 0, None);
        let everything = Everything {
            list: std::mem::take(&mut self.list),
            by_owner: std::mem::take(&mut self.by_owner),
            bytes: std::mem::take(&mut self.bytes),
        };
        if !everything.list.is_empty() {
            self.held_bytes += everything.bytes.all;
            self.undo.push(Undo::Cleared(Box::new(everything)));
        }
    }

    /// All keys of these physical databases (one bit each) go, whose newest version is `last_version`; others have
    /// some. Nobody asks for the members of those that have gone, so they may stay for a while.
    pub fn flush_databases(&mut self, databases: u16, last_version: u64) {
        let before = self.sweep.take().map_or(0, |sweep| sweep.databases);
        self.sweep = Some(Sweep {
            // Of those that were emptied before it may drop some that are alive: only copies, which come again.
            databases: before | databases,
            last_version,
            segment: self.newest_segment.saturating_add(1),
            index: 0,
        });
    }

    /// Drops all that RocksDB and the table of records have, too: for tests.
    pub fn drop_clean(&mut self) {
        let mut index = 0;
        while let Some(resident) = self.list.get(index) {
            match resident.is_pinned(self.clean_to) {
                true => index += 1,
                false => self.drop_at(index),
            }
        }
    }

    /// Nothing is known any more.
    fn give_up_all(&mut self) {
        self.newborn.clear();
        self.by_owner = HashTable::new();
        (self.last, self.hand) = (0, 0);
        self.dropped_bytes += std::mem::take(&mut self.bytes).all;
        if !self.list.is_empty() {
            self.dropped.push(Dropped::All(std::mem::take(&mut self.list)));
        }
    }

    /// Drops a collection for others. If it was being loaded, that is not to begin anew with the next read: where more
    /// is read than fits, no loading would come to its end.
    fn evict(&mut self, index: usize) {
        let resident = &self.list[index];
        if resident.parts.iter().any(Part::is_begun) {
            let hash = self.hash_of_version(resident.owner.version);
            self.remember(hash, UNFINISHED);
        }
        self.drop_at(index);
    }

    fn drop_at(&mut self, index: usize) {
        let resident = self.take_out(index);
        self.dropped_bytes += resident.bytes;
        self.dismantle(resident);
    }

    fn take_out(&mut self, index: usize) -> Resident {
        let resident = self.list.swap_remove(index);
        self.position(self.hash_of_version(resident.owner.version), index)
            .expect("a collection in the list is in the table")
            .remove();
        // The last one has moved into the gap.
        if let Some(moved) = self.list.get(index) {
            let (hash, end) = (self.hash_of_version(moved.owner.version), self.list.len());
            self.position(hash, end)
                .expect("a collection in the list is in the table")
                .get_mut()
                .index = index as u32;
        }
        self.bytes.take_away(resident.kind, resident.bytes);
        resident
    }

    /// The table's entry of the collection at `index`.
    fn position(&mut self, hash: u64, index: usize) -> Option<OccupiedEntry<'_, Indexed>> {
        self.by_owner
            .find_entry(table_hash(hash as u32), |other| other.index as usize == index)
            .ok()
    }

    /// Gives back a collection that is small, and the rest of one that is not but its trees.
    fn dismantle(&mut self, resident: Resident) {
        assert!(self.dropped_bytes >= resident.bytes, "what was dropped is counted");
        self.dropped_bytes -= resident.bytes;
        if resident.bytes <= DROPPED_AT_ONCE_BYTES {
            return;
        }
        for part in resident.parts {
            self.dropped_bytes += part.tree.bytes();
            self.dropped.push(Dropped::Tree(part.tree));
        }
    }

    /// Gives back about `bytes` of what was dropped.
    fn give_back(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0
            && let Some(dropped) = self.dropped.pop()
        {
            let before = self.dropped_bytes;
            match dropped {
                Dropped::Tree(tree) => self.give_back_leaves(tree),
                Dropped::All(list) => self.give_back_last(list),
            }
            left = left.saturating_sub((before - self.dropped_bytes).max(size_of::<Resident>()));
        }
        assert!(
            !self.dropped.is_empty() || self.dropped_bytes == 0,
            "what was dropped is counted"
        );
    }

    fn give_back_leaves(&mut self, mut tree: CellTree) {
        self.dropped_bytes -= tree.bytes();
        if tree.drop_some(LEAVES_DROPPED_AT_ONCE) {
            self.dropped_bytes += tree.bytes();
            self.dropped.push(Dropped::Tree(tree));
        }
    }

    fn give_back_last(&mut self, mut list: ResidentList) {
        let last = list.pop();
        if !list.is_empty() {
            self.dropped.push(Dropped::All(list));
        }
        if let Some(resident) = last {
            self.dismantle(resident);
        }
    }

    /// Gives back what was dropped, and drops what was not used since the clock came by last, until the memory is
    /// within its bound, but no more than a write has time for.
    fn make_room(&mut self) {
        let enough = self
            .bytes_max
            .max(self.bounded_bytes().saturating_sub(GIVEN_BACK_PER_CELL_BYTES));
        for _ in 0..STEPS_PER_CELL_MAX {
            if self.bounded_bytes() <= enough {
                return;
            }
            match self.dropped.is_empty() {
                true => self.move_hand(),
                false => self.give_back(1),
            }
        }
    }

    /// One step of the clock.
    fn move_hand(&mut self) {
        self.wrap_hand();
        let Some(looked_at) = self.list.get_mut(self.hand) else {
            return;
        };
        let is_pinned = looked_at.is_pinned(self.clean_to);
        self.needs_clean |= is_pinned;
        match std::mem::take(&mut looked_at.is_used) || is_pinned {
            true => self.hand += 1,
            // Another one comes to its place, which is looked at next.
            false => self.evict(self.hand),
        }
    }

    /// Drops the next collection that the clock comes to, whether it was used or not, or demotes it: for tests.
    pub fn evict_next(&mut self) {
        self.wrap_hand();
        let Some(resident) = self.list.get(self.hand) else {
            return;
        };
        match resident.is_pinned(self.clean_to) {
            false => self.drop_at(self.hand),
            true => {
                self.demote(self.hand);
                self.hand += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use rand::rngs::StdRng;
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;

    type Cells = BTreeMap<Vec<u8>, Vec<u8>>;

    /// What the disk and what is staged have, by owner.
    type Model = BTreeMap<Vec<u8>, [Cells; 2]>;

    const COLUMNS: [Column; 2] = [Column::Data, Column::Score];

    fn owner(version: u64) -> Vec<u8> {
        [b"owner ", &version.to_be_bytes()[..]].concat()
    }

    fn key(random: &mut StdRng, names: u16) -> Vec<u8> {
        match random.random_range(0..20) {
            0 => vec![random.random_range(1..3), random.random_range(0..4)],
            1 => vec![0xff, random.random_range(0..4)],
            _ => [&[0][..], &random.random_range(0..names).to_be_bytes()].concat(),
        }
    }

    /// Compares all that can be asked of an owner, and returns whether anything was known.
    fn check(random: &mut StdRng, residents: &mut Residents, model: &Model, version: u64, names: u16) -> bool {
        let (owner, column) = (owner(version), random.random_range(0..2));
        let none = Cells::new();
        let cells = model.get(&owner).map_or(&none, |cells| &cells[column]);
        let (mut from, mut to) = (key(random, names), key(random, names));
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        let to = random.random_bool(0.8).then_some(to);
        let direction = match random.random_bool(0.5) {
            true => Direction::Forward,
            false => Direction::Backward,
        };
        let most = random.random_range(1..20);
        let mut expected: Vec<(&Vec<u8>, &Vec<u8>)> = match &to {
            Some(to) => cells.range(from.clone()..to.clone()).collect(),
            None => cells.range(from.clone()..).collect(),
        };
        if direction == Direction::Backward {
            expected.reverse();
        }
        expected.truncate(most);
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            match found.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let range = (&from[..], to.as_deref());
        let seen = residents.visit(&owner, COLUMNS[column], range, direction, &mut visit);
        match seen {
            Some(_) => {
                let found: Vec<(&Vec<u8>, &Vec<u8>)> = found.iter().map(|(key, value)| (key, value)).collect();
                assert_eq!(found, expected, "{column} {range:?} {direction:?}");
            }
            None => {
                let end = residents.known_to(&owner, COLUMNS[column], &from);
                assert!(end.is_none_or(|end| end > from && to.is_none_or(|to| end < to)));
            }
        }
        let member = key(random, names);
        if residents.knows(&owner, COLUMNS[column], &member) {
            let (value, _) = residents.get(&owner, COLUMNS[column], &member);
            assert_eq!(value, cells.get(&member).map(Vec::as_slice));
        }
        // No member comes behind the nodes.
        let is_before_nodes = |key: &&Vec<u8>| column == 0 || key.starts_with(&[0]);
        let order: Vec<&Vec<u8>> = cells.keys().filter(is_before_nodes).collect();
        if let Some((rank, _)) = residents.rank(&owner, COLUMNS[column], &[0, 1]) {
            assert_eq!(rank, order.iter().filter(|key| key[..] < [0, 1][..]).count() as u64);
        }
        let rank = random.random_range(0..50);
        if rank < order.len() as u64
            && let Some((key, _)) = residents.key_at(&owner, COLUMNS[column], rank)
        {
            assert_eq!(&key, order[rank as usize]);
        }
        seen.is_some()
    }

    fn load(random: &mut StdRng, residents: &mut Residents, model: &Model, version: u64, epoch: u64, names: u16) {
        let (owner, column) = (owner(version), random.random_range(0..2));
        let Some(cells) = model.get(&owner).map(|cells| &cells[column]) else {
            return;
        };
        let to = random.random_bool(0.5).then(|| key(random, names));
        let Some((from, end)) = residents.load_range(&owner, COLUMNS[column], cells.len() as u64, to.as_deref()) else {
            return;
        };
        let (mut loaded, mut known_to) = (LoadedCells::default(), end.clone());
        let cells_max = random.random_range(1..100);
        let given_up_after = random.random_bool(0.2).then(|| random.random_range(0..20));
        let mut last = from.clone();
        for (key, value) in cells.range(from..) {
            if end.as_ref().is_some_and(|end| key >= end) {
                break;
            }
            if Some(loaded.ends.len()) == given_up_after {
                known_to = Some(encoding::first_behind(last));
                break;
            }
            if loaded.are_enough(cells_max) {
                known_to = Some(key.clone());
                break;
            }
            loaded.push(key, value);
            last = key.clone();
        }
        match given_up_after {
            Some(0) => residents.give_up_load(&owner, COLUMNS[column], end),
            _ => residents.extend(&owner, COLUMNS[column], &loaded, known_to, epoch),
        }
    }

    /// A cell is written and logged, and RocksDB gets it.
    fn write(residents: &mut Residents, version: u64, key: &[u8], value: &[u8]) {
        write_in(residents, version, (Column::Data, key, Some(value)), 1);
        ingest(residents);
    }

    fn write_in(residents: &mut Residents, version: u64, cell: CellWrite<'_>, epoch: u64) {
        residents.write(&owner(version), cell, epoch, true);
        residents.staged();
        residents.keep_command();
    }

    fn ingest(residents: &mut Residents) {
        let segment = residents.newest_segment + 1;
        residents.logged(segment);
        residents.work_off(segment);
    }

    /// A load of a collection's `data` has found these cells, and that there are others from `known_to` on.
    fn extend(residents: &mut Residents, version: u64, (cells, value_bytes): (u8, usize), known_to: Option<Vec<u8>>) {
        let mut loaded = LoadedCells::default();
        (0..cells).for_each(|name| loaded.push(&[name], &vec![0; value_bytes]));
        residents.extend(&owner(version), Column::Data, &loaded, known_to, 1);
    }

    /// One collection with 20,000 members of this value, in memory that is never full of it.
    fn with_many_members(value: &[u8]) -> Residents {
        let mut residents = Residents::new(64 << 20);
        residents.born(1, Type::Set);
        for number in 0..20_000_u32 {
            write(&mut residents, 1, &number.to_be_bytes(), value);
        }
        residents
    }

    fn load_range(residents: &mut Residents, version: u64, members: u64) -> Option<LoadRange> {
        residents.load_range(&owner(version), Column::Data, members, None)
    }

    /// How to take back a change of the model: a cell, or all cells of an owner.
    enum ModelUndo {
        Cell(Vec<u8>, usize, Vec<u8>, Option<Vec<u8>>),
        Owner(Vec<u8>, Option<[Cells; 2]>),
    }

    /// Collections in memory beside a model that has all cells.
    struct World {
        residents: Residents,
        model: Model,
        undo: Vec<ModelUndo>,
        /// Changes that are the running command's begin here.
        kept: usize,
        /// Owners of cells that were staged elsewhere since the last frame.
        staged_elsewhere: Vec<Vec<u8>>,
        /// Owners with cells that are nowhere else, and the segment that has them.
        alone: BTreeMap<Vec<u8>, u32>,
        /// Those of which such were staged, and how many changes there were before.
        staged_alone: Vec<(Vec<u8>, usize)>,
        segment: u32,
        clean_to: u32,
        newest: u64,
        epoch: u64,
    }

    impl World {
        fn new(bytes_max: usize) -> World {
            World {
                residents: Residents::new(bytes_max),
                model: Model::from([(owner(0), Default::default())]),
                undo: Vec::new(),
                kept: 0,
                staged_elsewhere: Vec::new(),
                alone: BTreeMap::new(),
                staged_alone: Vec::new(),
                segment: 1,
                clean_to: 0,
                newest: 0,
                epoch: 1,
            }
        }

        fn write(&mut self, version: u64, column: usize, key: Vec<u8>, value: Option<Vec<u8>>) {
            let owner = owner(version);
            let cell = (COLUMNS[column], &key[..], value.as_deref());
            let may_take_over = self.staged_elsewhere.is_empty();
            let written = self.residents.write(&owner, cell, self.epoch, may_take_over);
            match written {
                Written::Alone { .. } => self.staged_alone.push((owner.clone(), self.undo.len())),
                Written::Elsewhere => {
                    self.residents.staged();
                    self.staged_elsewhere.push(owner.clone());
                }
            }
            let is_put = value.is_some();
            let cells = &mut self.model.entry(owner.clone()).or_default()[column];
            let old = match value {
                Some(value) => cells.insert(key.clone(), value),
                None => cells.remove(&key),
            };
            if let Written::Alone { is_new } = written {
                assert_eq!(is_new, is_put && old.is_none(), "of {owner:?}, {key:?}");
            }
            self.undo.push(ModelUndo::Cell(owner, column, key, old));
        }

        fn bear(&mut self, random: &mut StdRng) {
            self.newest += 1;
            let kind = [Type::Set, Type::Hash][self.newest as usize % 2];
            self.residents.born(self.newest, kind);
            self.write(self.newest, random.random_range(0..2), vec![0], Some(vec![7]));
        }

        /// The version is dead, and nobody will ask for its members.
        fn kill(&mut self, version: u64) {
            let owner = owner(version);
            self.residents.drop_dead(&owner);
            let cells = self.model.remove(&owner);
            self.undo.push(ModelUndo::Owner(owner, cells));
        }

        fn flush(&mut self) {
            self.residents.flush();
            for (owner, cells) in std::mem::take(&mut self.model) {
                self.undo.push(ModelUndo::Owner(owner, Some(cells)));
            }
        }

        fn keep_command(&mut self) {
            self.residents.keep_command();
            self.kept = self.undo.len();
        }

        fn roll_back(&mut self, kept: usize) {
            while self.undo.len() > kept {
                match self.undo.pop().expect("a change") {
                    ModelUndo::Cell(owner, column, key, old) => {
                        let cells = &mut self.model.entry(owner).or_default()[column];
                        match old {
                            Some(value) => cells.insert(key, value),
                            None => cells.remove(&key),
                        };
                    }
                    ModelUndo::Owner(owner, Some(cells)) => drop(self.model.insert(owner, cells)),
                    ModelUndo::Owner(owner, None) => drop(self.model.remove(&owner)),
                }
            }
            self.staged_alone.retain(|(_, before)| *before < kept);
            self.staged_elsewhere
                .iter()
                .for_each(|owner| self.residents.distrust(owner));
        }

        /// What was staged is logged, taken back, or RocksDB gets some of what was logged.
        fn end_turn(&mut self, random: &mut StdRng) {
            self.keep_command();
            match random.random_bool(0.8) {
                true => self.residents.logged(self.segment),
                false => {
                    self.residents.roll_back_staged();
                    self.roll_back(0);
                }
            }
            self.undo.clear();
            (self.kept, self.epoch) = (0, self.epoch + 1);
            self.staged_elsewhere.clear();
            let staged = std::mem::take(&mut self.staged_alone).into_iter();
            self.alone.extend(staged.map(|(owner, _)| (owner, self.segment)));
            self.segment += u32::from(random.random_bool(0.3));
            self.clean_to = random.random_range(self.clean_to..self.segment);
            self.residents.work_off(self.clean_to);
            self.residents.begin_turn();
        }

        fn step(&mut self, random: &mut StdRng, names: u16) -> bool {
            let version = random.random_range(0..=self.newest);
            match random.random_range(0..1000) {
                0..=4 => self.bear(random),
                // Nobody writes to what is dead.
                5..=499 if self.model.contains_key(&owner(version)) => {
                    let (column, key) = (random.random_range(0..2), key(random, names));
                    let value = vec![b'v'; random.random_range(0..60)];
                    self.write(version, column, key, random.random_bool(0.7).then_some(value));
                }
                500..=839 => return check(random, &mut self.residents, &self.model, version, names),
                840..=899 => load(random, &mut self.residents, &self.model, version, self.epoch, names),
                900..=939 => self.keep_command(),
                940..=949 => {
                    self.residents.roll_back_command(0);
                    self.roll_back(self.kept);
                }
                950..=952 if self.newest > 20 => self.kill(version),
                953 => self.flush(),
                954 => self.residents.evict_next(),
                955 => self.residents.drop_clean(),
                // Nothing was logged: what is staged waits for a stall to end.
                956..=959 => self.residents.begin_turn(),
                960.. => self.end_turn(random),
                _ => {}
            }
            false
        }

        /// What is nowhere else must be in memory.
        fn check_alone(&mut self) {
            let by_type = self.residents.bytes_by_type();
            assert_eq!(by_type.iter().sum::<usize>(), self.residents.bytes());
            let clean_to = self.clean_to;
            self.alone.retain(|_, segment| *segment > clean_to);
            let staged = self.staged_alone.iter().map(|(owner, _)| owner);
            for owner in self
                .alone
                .keys()
                .chain(staged)
                .filter(|owner| self.model.contains_key(*owner))
            {
                let has_cells = self.model[owner].iter().any(|cells| !cells.is_empty());
                assert!(!has_cells || self.residents.has(owner), "{owner:?} is lost");
            }
        }
    }

    #[test]
    fn what_is_known_is_what_a_model_has_whatever_is_written_loaded_taken_back_and_dropped() {
        let mut random = seeded_random::printed();
        for (bytes_max, names) in [
            (0, 300),
            (6_000, 300),
            (300_000, 300),
            (1 << 24, 300),
            (1 << 24, 20_000),
        ] {
            let (mut world, mut known) = (World::new(bytes_max), 0);
            for _ in 0..40_000 {
                known += usize::from(world.step(&mut random, names));
                world.check_alone();
                let residents = &world.residents;
                let counted: usize = residents.list.iter().map(|one| one.count_bytes()).sum();
                assert_eq!(residents.bytes.all, counted);
                assert_eq!(residents.list.len(), residents.len());
            }
            assert_eq!(known > 100, bytes_max > 0, "{known} reads of {bytes_max} bytes");
            let mut residents = world.residents;
            ingest(&mut residents);
            residents.flush();
            ingest(&mut residents);
            (0..1000).for_each(|_| residents.begin_turn());
            assert_eq!((residents.bytes(), residents.len(), residents.dropped.len()), (0, 0, 0));
        }
    }

    #[test]
    fn a_large_collection_is_given_back_in_parts_and_one_that_grows_too_large_is_not_loaded_again() {
        let mut residents = Residents::new(64 << 20);
        residents.born(1, Type::Set);
        let mut steps_that_gave_back_much = 0;
        for number in 0..1_000_000_u32 {
            let before = residents.bytes();
            write(&mut residents, 1, &number.to_be_bytes(), &[0; 16]);
            steps_that_gave_back_much += usize::from(before > residents.bytes() + (1 << 20));
        }
        assert!(
            residents.is_empty() && residents.bytes() > 15 << 20,
            "{}",
            residents.bytes()
        );
        assert_eq!(steps_that_gave_back_much, 0);
        let all = Some(LoadRange::default());
        for _ in 0..3 {
            assert_eq!(load_range(&mut residents, 1, 100_000), None);
        }
        assert_eq!(load_range(&mut residents, 1, 100), all);
        residents.refuse_large_cell(&owner(1));
        assert_eq!(load_range(&mut residents, 1, 100), None);
        // One that would be too large is not loaded to its end.
        assert_eq!(load_range(&mut residents, 2, 100_000), None);
        assert_eq!(load_range(&mut residents, 2, 100_000), all);
        extend(&mut residents, 2, (100, 400), Some(vec![100]));
        assert_eq!(load_range(&mut residents, 2, 100_000), None);
        assert!(residents.is_empty());
        let mut turns = 0;
        while residents.bytes() > 0 {
            residents.begin_turn();
            turns += 1;
        }
        assert!((10..100).contains(&turns), "{turns} turns");
    }

    #[test]
    fn memory_stays_within_its_bound_when_all_collections_are_in_use() {
        const BYTES_MAX: usize = 4 << 20;
        let mut residents = Residents::new(BYTES_MAX);
        let mut newest = 0;
        let mut bear = |residents: &mut Residents, value: &[u8]| {
            newest += 1;
            residents.begin_turn();
            residents.born(newest, Type::Set);
            write(residents, newest, b"a", value);
            newest
        };
        while residents.bytes() < BYTES_MAX - 1024 {
            bear(&mut residents, &[0; 200]);
        }
        for _ in 0..100 {
            (0..residents.len()).for_each(|index| residents.list[index].is_used = true);
            bear(&mut residents, &[0; 60_000]);
            let bytes = residents.bytes();
            // What was just written is pinned until RocksDB has got it.
            assert!(bytes <= BYTES_MAX + 2 * SLACK_BYTES_MAX, "{bytes} bytes");
        }
        // No step of the clock is in vain when most have gone.
        (0..residents.len() - 10).for_each(|_| residents.evict_next());
        assert_eq!((residents.list.len(), residents.len()), (10, 10));
    }

    #[test]
    fn a_loading_that_came_to_no_end_is_seldom_begun_again() {
        let mut residents = Residents::new(64 << 20);
        let all = Some(LoadRange::default());
        // The clock has dropped it.
        load_range(&mut residents, 1, 5000);
        assert_eq!(load_range(&mut residents, 1, 5000), all);
        extend(&mut residents, 1, (100, 100), Some(vec![100]));
        let again = Some((vec![100], None));
        assert_eq!(load_range(&mut residents, 1, 5000), again);
        (0..2).for_each(|_| residents.move_hand());
        assert!(residents.is_empty());
        assert_eq!(load_range(&mut residents, 1, 5000), None);
        // One that was loaded to its end may come again.
        load_range(&mut residents, 2, 100);
        extend(&mut residents, 2, (100, 100), None);
        (0..2).for_each(|_| residents.move_hand());
        assert!(residents.is_empty());
        assert_eq!(load_range(&mut residents, 2, 100), all);
        // It has few members, and they are so large that it does not fit.
        load_range(&mut residents, 3, 500);
        assert_eq!(load_range(&mut residents, 3, 500), all);
        extend(&mut residents, 3, (2, 50_000), Some(vec![2]));
        assert_eq!(load_range(&mut residents, 3, 500), None);
        assert!(residents.is_empty());
        residents.retries_asked = 0;
        assert_eq!(load_range(&mut residents, 3, 500), None);
        // Nothing was found but what is deleted.
        load_range(&mut residents, 4, 500);
        residents.give_up_load(&owner(4), Column::Data, None);
        residents.retries_asked = 0;
        let mut loads = 0;
        for _ in 0..10 * READS_PER_RETRY {
            if load_range(&mut residents, 4, 500).is_some() {
                residents.give_up_load(&owner(4), Column::Data, None);
                loads += 1;
            }
        }
        assert_eq!(loads, 10);
    }

    #[test]
    fn a_load_that_is_tried_again_does_not_go_on_behind_what_has_gone() {
        let mut residents = with_many_members(&[0; 100]);
        let mut cells = LoadedCells::default();
        cells.push(b"a", b"1");
        (0..2).for_each(|_| drop(load_range(&mut residents, 2, 100)));
        residents.extend(&owner(2), Column::Data, &cells, Some(b"b".to_vec()), 1);
        residents.give_up_load(&owner(2), Column::Data, None);
        assert!(residents.has(&owner(2)));
        // What is written all the time has left no room.
        residents.bytes_max = 1 << 20;
        let range = (0..=READS_PER_RETRY).find_map(|_| load_range(&mut residents, 2, 100));
        let (from, _) = range.expect("one of so many reads tries again");
        assert!(
            from.is_empty() || residents.has(&owner(2)),
            "what lies before {from:?} is not known"
        );
    }

    #[test]
    fn behind_what_is_known_a_load_goes_as_far_as_a_read_asks_when_it_gave_up_to_go_further() {
        let mut residents = Residents::new(64 << 20);
        extend(&mut residents, 1, (100, 10), Some(vec![99, 0]));
        let range_to =
            |residents: &mut Residents, to: Option<&[u8]>| residents.load_range(&owner(1), Column::Data, 100, to);
        let (all, to_100) = (Some((vec![99, 0], None)), Some((vec![99, 0], Some(vec![100]))));
        assert_eq!(range_to(&mut residents, Some(&[100])), all);
        residents.give_up_load(&owner(1), Column::Data, None);
        assert_eq!(range_to(&mut residents, None), None);
        assert_eq!(range_to(&mut residents, Some(&[100; 500])), None);
        assert_eq!(
            range_to(&mut residents, Some(&[200])),
            Some((vec![99, 0], Some(vec![200])))
        );
        residents.give_up_load(&owner(1), Column::Data, Some(vec![200]));
        assert_eq!(range_to(&mut residents, Some(&[200])), None);
        assert_eq!(range_to(&mut residents, Some(&[100])), to_100);
        residents.extend(&owner(1), Column::Data, &LoadedCells::default(), Some(vec![100]), 1);
        let read = residents.visit(
            &owner(1),
            Column::Data,
            (&[], Some(&[100])),
            Direction::Forward,
            &mut |_, _| ControlFlow::Continue(()),
        );
        assert_eq!(read, Some(1));
        assert_eq!(range_to(&mut residents, Some(&[100])), None);
        residents.retries_asked = READS_PER_RETRY - 1;
        assert_eq!(range_to(&mut residents, None), Some((vec![100], None)));
    }

    #[test]
    fn a_cell_with_a_long_key_is_not_kept_where_it_is_elsewhere_too() {
        let mut residents = Residents::new(64 << 20);
        residents.born(1, Type::Set);
        let long = [b'b'; CELL_BYTES_MAX];
        write(&mut residents, 1, b"a", b"");
        write_in(&mut residents, 1, (Column::Data, &long, Some(b"v")), 1);
        assert!(residents.knows(&owner(1), Column::Data, &long));
        ingest(&mut residents);
        assert!(!residents.has(&owner(1)));
        assert_eq!(load_range(&mut residents, 1, 2), None);
        load_range(&mut residents, 2, 2);
        assert_eq!(load_range(&mut residents, 2, 2), Some(LoadRange::default()));
        extend(&mut residents, 2, (1, 1), Some(vec![1]));
        residents.write(&owner(2), (Column::Data, &long, Some(b"w")), 2, true);
        assert!(!residents.has(&owner(2)));
        assert_eq!(load_range(&mut residents, 2, 2), None);
    }

    #[test]
    fn one_that_grows_too_large_is_dropped_when_rocksdb_has_it_although_it_is_written_all_the_time() {
        let mut residents = Residents::new(1 << 20);
        residents.born(1, Type::Set);
        let mut number = 0_u32;
        let mut grow = |residents: &mut Residents| {
            number += 1;
            let number = number.to_be_bytes();
            let written = residents.write(&owner(1), (Column::Data, &number, Some(&[0; 100])), 1, true);
            residents.staged();
            residents.keep_command();
            written != Written::Elsewhere
        };
        while grow(&mut residents) {
            residents.logged(5);
        }
        assert!(residents.bytes() > 1 << 18 && residents.has(&owner(1)));
        // Its last write that is nowhere else lies in segment 5.
        for segment in 6..20 {
            assert!(!grow(&mut residents));
            residents.logged(segment);
            residents.work_off(segment - 6);
            assert_eq!(residents.has(&owner(1)), segment < 11, "{segment}");
        }
    }

    #[test]
    fn memory_stays_within_its_bound_when_all_collections_are_written_with_every_turn() {
        const BYTES_MAX: usize = 4 << 20;
        const OWNERS: u64 = 100;
        let mut residents = Residents::new(BYTES_MAX);
        let mut most = 0;
        for number in 0..400_u32 {
            residents.begin_turn();
            for version in 1..=OWNERS {
                if number == 0 {
                    residents.born(version, Type::Set);
                }
                let cell = (Column::Data, &number.to_be_bytes()[..], Some(&[0; 1000][..]));
                residents.write(&owner(version), cell, 1, true);
                residents.staged();
                residents.keep_command();
            }
            // As writes wait for room: RocksDB gets all that is logged, while what is to be logged next is staged.
            residents.work_off(number);
            residents.logged(number + 1);
            most = most.max(residents.bytes());
        }
        assert!(most > BYTES_MAX && most < BYTES_MAX * 7 / 4, "{most} bytes");
        residents.begin_turn();
        assert!(residents.bytes() <= BYTES_MAX * 5 / 4, "{} bytes", residents.bytes());
    }

    #[test]
    fn what_may_come_again_stays_when_all_else_is_given_back() {
        let mut residents = with_many_members(&[0; 30]);
        residents.born(2, Type::Set);
        write_in(&mut residents, 2, (Column::Data, b"a", Some(b"1")), 1);
        residents.drop_dead(&owner(2));
        assert!(residents.bytes() > DROPPED_AT_ONCE_BYTES);
        residents.drop_clean();
        (0..100).for_each(|_| residents.begin_turn());
        assert!(residents.bytes() > 0 && residents.bytes() < DROPPED_AT_ONCE_BYTES);
        residents.roll_back_staged();
        assert!(residents.is_empty(), "it was born since the last frame");
        assert_eq!(residents.bytes(), 0);
    }

    #[test]
    fn collections_of_emptied_databases_go_in_steps_when_rocksdb_has_them() {
        let mut residents = Residents::new(64 << 20);
        for version in 1..=1000 {
            residents.begin_turn();
            residents.born(version, Type::Set);
            write_in(&mut residents, version, (Column::Data, b"a", Some(b"1")), 1);
        }
        ingest(&mut residents);
        let mut of_database_3 = |version: u64| {
            let owner = [&[3][..], &owner(version)].concat();
            residents.born(version, Type::Set);
            residents.write(&owner, (Column::Data, b"a", Some(b"1")), 1, true);
            owner
        };
        let (old, new) = (of_database_3(1001), of_database_3(1002));
        residents.flush_databases(1 << 3, 1001);
        residents.work_off(residents.clean_to);
        assert!(residents.has(&old), "it is not in RocksDB yet");
        ingest(&mut residents);
        let mut steps = 1;
        while residents.has_work() {
            residents.work_off(residents.clean_to);
            steps += 1;
        }
        assert!(!residents.has(&old) && residents.has(&new));
        assert_eq!((residents.len(), steps), (1001, 1000 / SWEPT_AT_ONCE + 1));
    }

    #[test]
    fn a_command_that_panics_leaves_no_cell_that_was_not_staged_and_all_is_given_back_in_parts() {
        for (change, has_alone) in [(Change::Begun, false), (Change::Unstaged, false), (Change::Begun, true)] {
            let mut residents = Residents::new(256 << 20);
            for version in 1..=4 {
                residents.begin_turn();
                residents.born(version, Type::Set);
                for number in 0..300_000_u32 {
                    write(&mut residents, version, &number.to_be_bytes(), &[0; 30]);
                }
            }
            assert_eq!(residents.command_failed(), Trusted::All);
            let before = residents.bytes();
            if has_alone {
                residents.write(&owner(4), (Column::Data, b"phantom", Some(b"")), 2, true);
            }
            residents.change = change;
            let expected = match has_alone {
                true => Trusted::Lost,
                false => Trusted::NothingIsLeft,
            };
            assert_eq!(residents.command_failed(), expected);
            assert!(residents.is_empty() && !residents.knows(&owner(4), Column::Data, b"phantom"));
            assert!(residents.bytes() > before / 2, "{} of {before}", residents.bytes());
            let mut turns = 0;
            while residents.bytes() > 0 {
                residents.begin_turn();
                turns += 1;
            }
            assert!(turns > 10, "{turns} turns");
        }
    }

    #[test]
    fn what_is_read_stays_and_what_is_only_written_goes() {
        let mut residents = Residents::new(1 << 20);
        for version in 1..20_000 {
            residents.begin_turn();
            residents.born(version, Type::Set);
            write(&mut residents, version, b"a", &[0; 100]);
            assert!(residents.knows(&owner(1), Column::Data, b"b"), "{version}");
            assert!(residents.bytes() <= (1 << 20) + 1024);
        }
        assert!(residents.bytes() > 1 << 19 && residents.len() > 1000);
    }
}
