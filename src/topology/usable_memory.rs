//! The memory that the process may use: what the machine has, or the least that one of its control groups allows.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the two versions of control groups have the limits of memory, and their files' names.
const VERSION_2: (&str, &str) = ("sys/fs/cgroup", "memory.max");
const VERSION_1: (&str, &str) = ("sys/fs/cgroup/memory", "memory.limit_in_bytes");

/// Where nothing tells how much there is: as little as a small machine has.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// The bytes that this process may use.
pub fn usable_memory_bytes() -> u64 {
    usable_below(Path::new("/"))
}

/// The same by the files below a root.
fn usable_below(root: &Path) -> u64 {
    let of_machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits_of(root, line));
    limits.chain(of_machine).min().unwrap_or(UNKNOWN_BYTES)
}

/// The limits of a group and of those that it lies in; `line` tells the group: hierarchy, controllers and path, with
/// colons between them. In a container the path may be that on the host, which is not there, but the root is.
fn limits_of(root: &Path, line: &str) -> Vec<u64> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" => VERSION_2,
        _ if controllers.split(',').any(|controller| controller == "memory") => VERSION_1,
        _ => return Vec::new(),
    };
    let path = PathBuf::from(path.trim_start_matches('/'));
    let groups = path.ancestors().map(|group| root.join(mount).join(group).join(file));
    // "max" is no limit.
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    groups.filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8388608 kB\n");

    #[test]
    fn the_least_limit_on_the_way_to_the_process_counts() {
        let of = |files: &[(&str, &str)]| usable_below(root_of(&[&[MACHINE], files].concat()).path());
        let group = ("proc/self/cgroup", "0::/system.slice/corelane.service\n");
        assert_eq!(of(&[]), 8 << 30);
        assert_eq!(of(&[group]), 8 << 30);
        let service = "sys/fs/cgroup/system.slice/corelane.service/memory.max";
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        assert_eq!(of(&[group, (service, "max\n"), (slice, "4294967296\n")]), 4 << 30);
        assert_eq!(
            of(&[group, (service, "1073741824\n"), (slice, "4294967296\n")]),
            1 << 30
        );
        // More than there is.
        assert_eq!(of(&[group, (service, "99999999999999\n")]), 8 << 30);
        // A container sees its group as the root, and the path may be the host's.
        assert_eq!(of(&[group, ("sys/fs/cgroup/memory.max", "2147483648\n")]), 2 << 30);
    }

    #[test]
    fn limits_of_version_1_count_as_well() {
        let group = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/pod/one\n0::/\n");
        let limit = ("sys/fs/cgroup/memory/pod/one/memory.limit_in_bytes", "536870912\n");
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(usable_below(root_of(&[MACHINE, group, limit, none]).path()), 512 << 20);
    }

    #[test]
    fn without_anything_to_read_there_is_little() {
        assert_eq!(usable_below(root_of(&[]).path()), UNKNOWN_BYTES);
    }
}
