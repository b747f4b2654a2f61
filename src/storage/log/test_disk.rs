//! A file system for tests: real files, of which it knows what would be left if power failed now, and which fail on
//! request.
//!
//! What is on disk for certain is what was synced. Of each page that was written and not synced, either content may be
//! there; of the names that changed in a folder since its last sync, the first few changes may be (a journal keeps
//! their order).

use super::log_disk::{LogDisk, RealDisk, SegmentFile};
use super::log_position::LogIdentity;
use super::shared_log::lock;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};

const PAGE_LEN: usize = 4096;

/// Whose logs the tests write.
pub(super) const IDENTITY: LogIdentity = LogIdentity {
    directory: 0xfeed,
    generation: 3,
    executor: 1,
};

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Pages that the disk still has: a page that was never written takes one.
    pub(super) pages_left: Option<u32>,
    /// Whether new files take their pages at once.
    pub(super) preallocates: bool,
    /// Writes fail, the first part of each having been written.
    pub(super) fail_writes: bool,
    /// Syncs fail.
    pub(super) fail_syncs: bool,
    /// A write takes no more than so many bytes.
    pub(super) write_len_max: Option<usize>,
}

#[derive(Clone, Default)]
pub(super) struct TestDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faults: Faults,
    /// Met twice by the next sync of a file, when the disk has done it and before the caller learns of that.
    sync_meeting: Option<Arc<Barrier>>,
    files: Vec<FileState>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the folder.
    unsynced_names: Vec<NameChange>,
}

struct FileState {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Pages in which the two differ.
    unsynced: BTreeSet<usize>,
    /// Pages that have space.
    allocated: BTreeSet<usize>,
}

enum NameChange {
    Created(PathBuf, usize),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Created(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Renamed(from, to) => {
                let file = names.remove(from).expect("a renamed file exists");
                names.insert(to.clone(), file);
            }
            NameChange::Removed(path) => {
                names.remove(path).expect("a removed file exists");
            }
        }
    }
}

impl State {
    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    /// How many of the bytes find room.
    fn allocate(&mut self, file: usize, start: usize, len: usize) -> usize {
        for page in start / PAGE_LEN..(start + len).div_ceil(PAGE_LEN) {
            if self.files[file].allocated.contains(&page) {
                continue;
            }
            match &mut self.faults.pages_left {
                Some(0) => return (page * PAGE_LEN).saturating_sub(start),
                Some(pages) => *pages -= 1,
                None => {}
            }
            self.files[file].allocated.insert(page);
        }
        len
    }
}

impl TestDisk {
    pub(super) fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// The next sync of a file meets the caller twice: when the disk has done it, and before it returns.
    pub(super) fn meet_next_sync(&self) -> Arc<Barrier> {
        let meeting = Arc::new(Barrier::new(2));
        lock(&self.state).sync_meeting = Some(Arc::clone(&meeting));
        meeting
    }

    /// Writes into `folder` what may be on disk when power fails now.
    pub(super) fn lose_power(&self, random: &mut StdRng, folder: &Path) {
        let state = lock(&self.state);
        let mut names = state.durable_names.clone();
        let kept = random.random_range(0..=state.unsynced_names.len());
        for change in &state.unsynced_names[..kept] {
            change.apply(&mut names);
        }
        // Sometimes nearly all is kept, sometimes nearly nothing.
        let chance: f64 = random.random();
        for (path, file) in names {
            let file = &state.files[file];
            let mut bytes = file.durable.clone();
            for page in &file.unsynced {
                if random.random_bool(chance) {
                    let start = page * PAGE_LEN;
                    let end = (start + PAGE_LEN).min(bytes.len());
                    bytes[start..end].copy_from_slice(&file.written[start..end]);
                }
            }
            std::fs::write(folder.join(path.file_name().expect("a file")), bytes).expect("a file that was left");
        }
    }
}

impl LogDisk for TestDisk {
    type File = TestFile;

    fn create(&self, path: &Path, len: u32) -> io::Result<TestFile> {
        let mut state = lock(&self.state);
        let file = state.files.len();
        state.files.push(FileState {
            written: vec![0; len as usize],
            durable: vec![0; len as usize],
            unsynced: BTreeSet::new(),
            allocated: BTreeSet::new(),
        });
        if state.faults.preallocates {
            let pages_left = state.faults.pages_left;
            if state.allocate(file, 0, len as usize) < len as usize {
                state.faults.pages_left = pages_left;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let real = RealDisk.create(path, len)?;
        state.change_name(NameChange::Created(path.to_owned(), file));
        Ok(self.file(file, real))
    }

    fn open(&self, path: &Path) -> io::Result<TestFile> {
        let file = lock(&self.state).names[path];
        Ok(self.file(file, RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        lock(&self.state).change_name(NameChange::Renamed(from.to_owned(), to.to_owned()));
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.state).change_name(NameChange::Removed(path.to_owned()));
        RealDisk.remove(path)
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.faults.fail_syncs {
            return Err(io::Error::other("injected"));
        }
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

impl TestDisk {
    fn file(&self, file: usize, real: File) -> TestFile {
        TestFile {
            state: Arc::clone(&self.state),
            file,
            real,
        }
    }
}

pub(super) struct TestFile {
    state: Arc<Mutex<State>>,
    file: usize,
    real: File,
}

impl SegmentFile for TestFile {
    fn write_at(&self, bytes: &[u8], offset: u32) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let start = offset as usize;
        let mut len = bytes.len().min(state.faults.write_len_max.unwrap_or(usize::MAX));
        if state.faults.fail_writes {
            if bytes.len() < 16 {
                return Err(io::Error::other("injected"));
            }
            len = bytes.len() / 2;
        }
        let len = state.allocate(self.file, start, len);
        if len == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = &mut state.files[self.file];
        file.written[start..start + len].copy_from_slice(&bytes[..len]);
        file.unsynced.extend(start / PAGE_LEN..(start + len).div_ceil(PAGE_LEN));
        drop(state);
        let mut written = 0;
        while written < len {
            written += SegmentFile::write_at(&self.real, &bytes[written..len], offset + written as u32)?;
        }
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.faults.fail_syncs {
            return Err(io::Error::other("injected"));
        }
        let file = &mut state.files[self.file];
        for page in std::mem::take(&mut file.unsynced) {
            let start = page * PAGE_LEN;
            let end = (start + PAGE_LEN).min(file.written.len());
            file.durable[start..end].copy_from_slice(&file.written[start..end]);
        }
        let meeting = state.sync_meeting.take();
        drop(state);
        if let Some(meeting) = meeting {
            meeting.wait();
            meeting.wait();
        }
        Ok(())
    }
}
