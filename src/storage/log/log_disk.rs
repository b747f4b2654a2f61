//! What the log asks of a file system: the real one here, one that fails and forgets in `test_disk.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes `bytes` what the file at `path` has, durably: after a crash it has these, or what it had before.
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

/// A file system for log files.
pub trait LogDisk: Clone + Send + Sync + 'static {
    /// One open file.
    type File: SegmentFile;

    /// Creates a file of `len` bytes that read as zeros, with its space allocated. Fails if the path exists.
    fn create(&self, path: &Path, len: u32) -> io::Result<Self::File>;
    /// Opens an existing file for writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Renames a file; what had the new name before is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open log file.
pub trait SegmentFile: Send + Sync + 'static {
    /// Writes some of `bytes` at `offset`; returns how many.
    fn write_at(&self, bytes: &[u8], offset: u32) -> io::Result<usize>;
    /// Makes what was written durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl LogDisk for RealDisk {
    type File = File;

    fn create(&self, path: &Path, len: u32) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&file, flags, 0, u64::from(len))) {
            Ok(()) => Ok(file),
            // A file system without preallocation: the file grows as it is written, and may meet a full disk there.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                file.set_len(u64::from(len))?;
                Ok(file)
            }
            Err(error) => {
                // The first error is the one to report.
                let _ = std::fs::remove_file(path);
                Err(error.into())
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl SegmentFile for File {
    fn write_at(&self, bytes: &[u8], offset: u32) -> io::Result<usize> {
        FileExt::write_at(self, bytes, u64::from(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

/// A write that did not succeed, and how much of it may be in the file.
#[derive(Debug)]
pub(super) struct PartialWrite {
    pub(super) written: usize,
    pub(super) error: io::Error,
}

/// Writes all of `bytes` at `offset`. A short write is gone on with; an error is not tried again.
pub(super) fn write_all_at(file: &impl SegmentFile, bytes: &[u8], offset: u32) -> Result<(), PartialWrite> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u32) {
            Ok(0) => {
                let error = io::ErrorKind::WriteZero.into();
                return Err(PartialWrite { written, error });
            }
            Ok(len) => written += len,
            // Nothing was written and nothing is wrong: a signal came.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PartialWrite { written, error }),
        }
    }
    Ok(())
}

/// Whether an error says that space is wanting, on the disk or in a quota: it may be there again later.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error says that the disk, or the file system on it, cannot give back what it was given.
pub(super) fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let damages = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];
    damages
        .iter()
        .any(|damage| error.raw_os_error() == Some(damage.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_reads_as_zeros_and_an_existing_one_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        let file = RealDisk.create(&path, 8192).expect("a new file");
        write_all_at(&file, b"abc", 4095).expect("there is room");
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(bytes.len(), 8192);
        assert_eq!(&bytes[4094..4099], b"\0abc\0");
        let error = RealDisk.create(&path, 8192).expect_err("the path exists");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
