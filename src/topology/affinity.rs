//! Which CPUs threads run on, and which node's memory they take: the system calls behind the core map.
//!
//! glommio pins its own executors. The syncers, the admin thread and RocksDB's pools are ours to pin; RocksDB's threads
//! inherit the mask of whichever thread starts them, so they are looked up and pinned again after the databases are
//! open.
//!
//! Unsafe code: `sched_getaffinity`, `sched_setaffinity` and `set_mempolicy` take pointers to masks. They are called
//! directly, because libc's `cpu_set_t` ends at 1024 CPUs and libc has no `set_mempolicy`. Every pointer is
//! to a local array whose length in bytes (or bits) is passed with it, and the kernel keeps none of them.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::size_of_val;

use super::cpu_set::{CPU_COUNT_MAX, CpuId, CpuSet, NODE_COUNT_MAX, NodeId};

const CPU_MASK_WORDS: usize = CPU_COUNT_MAX as usize / u64::BITS as usize;
const NODE_MASK_WORDS: usize = NODE_COUNT_MAX as usize / u64::BITS as usize;
const _: () = assert!(CPU_COUNT_MAX.is_multiple_of(u64::BITS) && NODE_COUNT_MAX.is_multiple_of(u64::BITS));
const _: () = assert!(
    size_of::<libc::c_ulong>() == size_of::<u64>(),
    "the kernel's masks are arrays of unsigned long"
);

/// Linux's number of a thread of this process, as in `/proc/self/task`. 0 means the calling thread.
pub type ThreadId = libc::pid_t;

/// The CPUs that the calling thread may use now: its affinity mask, which the kernel keeps inside the cgroup's cpuset.
/// Call it in `main` before any thread is pinned.
pub fn allowed_cpus() -> io::Result<CpuSet> {
    affinity_of(0)
}

/// The CPUs that a thread of this process may use.
pub fn affinity_of(thread: ThreadId) -> io::Result<CpuSet> {
    let mut mask = [0u64; CPU_MASK_WORDS];
    // SAFETY: the kernel writes at most the passed number of bytes, the size of `mask`, to `mask`.
    let written = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            thread,
            size_of_val(&mask),
            mask.as_mut_ptr(),
        )
    };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(CpuSet::from_words(&mask))
}

/// Lets a thread of this process run on these CPUs only. Fails with `EINVAL` if it may use none of them, and with
/// `ESRCH` if the thread has ended.
pub fn set_affinity_of(thread: ThreadId, cpus: &[CpuId]) -> io::Result<()> {
    let set: CpuSet = cpus.iter().copied().collect();
    let mask = set.words();
    // SAFETY: the kernel reads the passed number of bytes, the size of `mask`, from `mask`. An empty one is not read.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, thread, size_of_val(mask), mask.as_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets the calling thread, and threads that it starts later, run on these CPUs only.
pub fn pin_current_thread(cpus: &[CpuId]) -> io::Result<()> {
    set_affinity_of(0, cpus)
}

/// What a thread of low priority has as its nice value: beside busy threads it gets a tenth of a core, so that it comes
/// to an end.
const LOW_PRIORITY: i32 = 10;

/// Gives the calling thread a low priority, for good: to raise it again is a privilege.
pub fn lower_priority() -> io::Result<()> {
    // To Linux the calling "process" is this thread.
    Ok(rustix::process::setpriority_process(None, LOW_PRIORITY)?)
}

/// Has the calling thread's new pages come from this node while it has free memory (`MPOL_PREFERRED`: it falls back to
/// other nodes rather than fail). Does nothing on a machine with one node. Fails with `EPERM` where a container's
/// seccomp profile forbids it (Docker's default one does) and with `EINVAL` if the cpuset forbids this node's memory;
/// neither need stop a server, since a pinned thread's pages come from its own node by default too.
pub fn prefer_memory_of_node(node: NodeId) -> io::Result<()> {
    let node_list = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    // A kernel without NUMA has no such file, and no set_mempolicy either.
    if !super::cpu_set::parse_node_list(&node_list).is_ok_and(|nodes| nodes.len() > 1) {
        return Ok(());
    }
    set_preferred_node(node)
}

fn set_preferred_node(node: NodeId) -> io::Result<()> {
    let mut mask = [0u64; NODE_MASK_WORDS];
    mask[node.number() / u64::BITS as usize] |= 1 << (node.number() % u64::BITS as usize);
    // The kernel takes one bit less than it is told (mm/mempolicy.c, get_nodes), and reads no word beyond those bits.
    let bits = u64::from(NODE_COUNT_MAX) + 1;
    // SAFETY: the kernel reads `bits - 1` bits, the size of `mask`, from `mask`.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, mask.as_ptr(), bits) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// All threads of this process as (number, name, CPUs that it may use), ordered by number. The kernel cuts
/// names to 15 bytes. A thread that ends meanwhile is left out.
pub fn thread_affinities() -> io::Result<Vec<(ThreadId, String, CpuSet)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(thread) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<ThreadId>().ok())
        else {
            continue;
        };
        // A thread's name is any bytes, which need not be UTF-8.
        match (fs::read(entry.path().join("comm")), affinity_of(thread)) {
            (Ok(name), Ok(cpus)) => threads.push((thread, String::from_utf8_lossy(&name).trim_end().to_owned(), cpus)),
            (Err(error), _) | (_, Err(error)) if has_ended(&error) => {}
            (Err(error), _) | (_, Err(error)) => return Err(error),
        }
    }
    threads.sort_by_key(|(thread, ..)| *thread);
    Ok(threads)
}

/// Whether an error about a thread says that it has ended: opening its files gives ENOENT, reading or asking ESRCH.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_preferred_node_mask() {
        // A thread of its own, as the policy stays with the thread. The machine may have one node only, on which the
        // public function would not make the call.
        let result = std::thread::spawn(|| set_preferred_node(NodeId::new(0).expect("node 0")))
            .join()
            .expect("no panic");
        // A kernel without NUMA and a seccomp profile may refuse; a wrong mask would be EINVAL or EFAULT.
        let refused = result.as_ref().err().and_then(io::Error::raw_os_error);
        assert!(matches!(refused, None | Some(libc::EPERM | libc::ENOSYS)), "{result:?}");
    }
}
