//! A control group that bounds a server's memory, page cache included: version 2 or 1, whichever has the controller.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Where the two versions have the groups of memory.
const VERSION_2: &str = "/sys/fs/cgroup";
const VERSION_1: &str = "/sys/fs/cgroup/memory";

/// A group of the bench's own, removed when nothing refers to it any more.
#[derive(Clone)]
pub(crate) struct ControlGroup(Arc<Group>);

struct Group {
    path: PathBuf,
    /// The files' names differ.
    is_version_2: bool,
}

impl ControlGroup {
    /// A group whose processes have at most `bytes` together; or why there can be none here.
    pub(crate) fn new(bytes: u64) -> Result<ControlGroup, String> {
        let is_version_2 = fs::read_to_string(format!("{VERSION_2}/cgroup.controllers"))
            .is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"));
        let root = Path::new(if is_version_2 { VERSION_2 } else { VERSION_1 });
        let path = root.join(format!("corelane-bench-{}", process::id()));
        fs::create_dir(&path).map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        // From here on dropping it removes the directory.
        let group = ControlGroup(Arc::new(Group { path, is_version_2 }));
        let file = if is_version_2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let file = group.0.path.join(file);
        let written = fs::write(&file, bytes.to_string());
        written.map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
        Ok(group)
    }

    /// Runs a program inside, from its first page on: a shell enters the group and becomes the program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.0.path.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// The most that its processes have had together, the page cache of their files included.
    pub(crate) fn memory_max(&self) -> u64 {
        let file = if self.0.is_version_2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let text = fs::read_to_string(self.0.path.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was just killed may count as inside for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        println!("{} could not be removed", self.path.display());
    }
}
