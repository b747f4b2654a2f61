//! The data directory: made, locked, writable, with room, on a disk.

// Unsafe: statfs(2) and statvfs(3).
#![allow(unsafe_code)]

use super::PreflightError;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long a data directory may be in use by a process that is being taken down before it is refused: the kernel frees
/// a server's memory, which can take seconds, before its locks.
const DIRECTORY_RELEASE_LIMIT: Duration = Duration::from_secs(10);

/// How long a data directory may be in use by a process that seems to live, as one does for a moment after SIGKILL.
const DIRECTORY_RELEASE_LEAST: Duration = Duration::from_millis(100);

/// How often the directory's lock is tried in that time.
const DIRECTORY_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Below this the server would start into a disk that is full after the first flushes: RocksDB's logs alone
/// preallocate some MiB for each shard.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// In the data directory; holds the process id of the server that uses it.
const LOCK_FILE_NAME: &str = "LOCK";

/// The right to use a data directory: an exclusive flock(2) on its `LOCK` file, held until this is dropped or the
/// process ends in whatever way. The file holds the process id, for the message that others get.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Makes the data directory if it is missing, takes its lock, and checks that it can hold data.
///
/// # Errors
///
/// [`PreflightError::DirectoryIsFile`], [`PreflightError::DirectoryNotMade`], [`PreflightError::DirectoryNotWritable`],
/// [`PreflightError::DirectoryLocked`], [`PreflightError::DirectoryFull`]. A file system on which data does not last,
/// or on which fsync promises less, is a warning.
pub fn data_directory(path: &Path, warnings: &mut Vec<String>) -> Result<DataDirLock, PreflightError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(PreflightError::DirectoryIsFile { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(_) => fs::create_dir_all(path).map_err(|error| PreflightError::DirectoryNotMade {
            path: path.to_owned(),
            error,
        })?,
    }
    let lock = lock_directory(path)?;
    let free_bytes = free_bytes(path).map_err(|error| PreflightError::DirectoryNotWritable {
        path: path.to_owned(),
        error,
    })?;
    if free_bytes < FREE_BYTES_MIN {
        return Err(PreflightError::DirectoryFull {
            path: path.to_owned(),
            free_mib: free_bytes / (1024 * 1024),
            needed_mib: FREE_BYTES_MIN / (1024 * 1024),
        });
    }
    if let Some(concern) = file_system_concern(path) {
        warnings.push(format!("the data directory {} is on {concern}", path.display()));
    }
    Ok(lock)
}

fn lock_directory(path: &Path) -> Result<DataDirLock, PreflightError> {
    let not_writable = |error| PreflightError::DirectoryNotWritable {
        path: path.to_owned(),
        error,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // Until the lock is ours, the process id in it is another's.
        .open(path.join(LOCK_FILE_NAME))
        .map_err(not_writable)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(not_writable(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        // Unreadable or not yet written: the message is less exact then.
        let owner = fs::read_to_string(path.join(LOCK_FILE_NAME)).unwrap_or_default();
        let owner = owner.trim().parse::<u32>().ok();
        let patience = if owner.is_some_and(is_being_taken_down) {
            DIRECTORY_RELEASE_LIMIT
        } else {
            DIRECTORY_RELEASE_LEAST
        };
        if began.elapsed() >= patience {
            return Err(PreflightError::DirectoryLocked {
                path: path.to_owned(),
                owner: owner.map_or("another process".to_owned(), |process| format!("process {process}")),
            });
        }
        thread::sleep(DIRECTORY_RETRY_INTERVAL);
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(not_writable)?;
    Ok(DataDirLock { _file: file })
}

/// Whether a process is gone, has given up its memory, or was sent a SIGKILL that it has not obeyed yet.
fn is_being_taken_down(process: u32) -> bool {
    let sigkill = 1 << (libc::SIGKILL - 1);
    let read = |file| fs::read_to_string(format!("/proc/{process}/{file}"));
    let (Ok(command), Ok(status)) = (read("cmdline"), read("status")) else {
        return true;
    };
    let is_pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:"));
        mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & sigkill != 0))
    };
    command.is_empty() || status.lines().any(is_pending)
}

/// Bytes that this user may still write in `path`'s file system.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a terminated path, and a struct that is read only when the call has filled it.
    unsafe {
        if libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let figures = figures.assume_init();
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

/// What to know about the file system of `path`, if anything: the end of a sentence.
fn file_system_concern(path: &Path) -> Option<&'static str> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut figures = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: as in `free_bytes`.
    let kind = unsafe {
        if libc::statfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return None;
        }
        figures.assume_init().f_type
    };
    // The numbers are those of linux/magic.h and statfs(2); SMB's are unsigned there.
    match kind as u32 {
        0x0102_1994 | 0x8584_58f6 => Some("tmpfs: all data is lost when the machine restarts"),
        0x794c_7630 => Some(
            "overlayfs, as in a container's own layer: data is lost with the container, and slow; mount a volume there",
        ),
        0x6969 => Some("NFS: a sync takes as long as the server wishes, and locks depend on it; use a local disk"),
        0xff53_4d42 | 0xfe53_4d42 => {
            Some("SMB: a sync takes as long as the server wishes, and locks depend on it; use a local disk")
        }
        0x6573_5546 => Some("FUSE: what a sync promises depends on the program behind it; use a local disk"),
        0x0102_1997 => Some("9p: what a sync promises depends on the host; use a local disk"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_of_a_directory_names_the_first_process_and_a_dropped_one_frees_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/by/preflight");
        let first = data_directory(&path, &mut Vec::new()).unwrap();
        let refusal = data_directory(&path, &mut Vec::new()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!(
                "the data directory {} is in use by process {}; stop it, or name another directory with --data-dir",
                path.display(),
                std::process::id()
            )
        );
        drop(first);
        data_directory(&path, &mut Vec::new()).unwrap();
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = data_directory(file.path(), &mut Vec::new()).unwrap_err();
        assert!(matches!(refusal, PreflightError::DirectoryIsFile { .. }));
        let refusal = data_directory(&file.path().join("below"), &mut Vec::new()).unwrap_err();
        assert!(matches!(refusal, PreflightError::DirectoryNotMade { .. }));
    }

    #[test]
    fn memory_file_systems_are_warned_of_and_disks_are_not() {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        if mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
            let concern = file_system_concern(Path::new("/dev/shm")).unwrap();
            assert!(concern.starts_with("tmpfs: "), "{concern}");
        }
        // Neither in memory nor on a network: as unremarkable as a disk.
        assert_eq!(file_system_concern(Path::new("/proc")), None);
    }
}
