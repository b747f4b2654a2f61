//! What keeps the server from starting is one sentence on stderr, with its remedy, and exit code 1.

// Unsafe: the children's limits, capabilities and system call filters are set between fork and exec.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::harness::process::{ServerProcess, free_address};
use crate::harness::server::Server;

/// The capabilities that Linux may know: each is tried.
const CAPABILITIES_MAX: libc::c_ulong = 64;

#[test]
fn io_uring_forbidden_by_seccomp_is_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let sentence = refusal(without_io_uring(&directory.path().join("data"), libc::EPERM));
    assert_eq!(
        sentence,
        "io_uring is forbidden to this process (io_uring_setup: EPERM), most likely by a seccomp profile such as \
         Docker's default; allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or start the \
         container with `--security-opt seccomp=unconfined`"
    );
}

#[test]
fn io_uring_hidden_by_seccomp_is_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let sentence = refusal(without_io_uring(&directory.path().join("data"), libc::ENOSYS));
    assert_eq!(
        sentence,
        "this kernel has no io_uring, or a seccomp profile hides it (io_uring_setup: ENOSYS); start a kernel with \
         CONFIG_IO_URING, or allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
    );
}

#[test]
fn sixty_four_kib_of_locked_memory_are_refused_with_the_amount_needed() {
    for capable in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = server(&directory.path().join("data"), free_address());
        // SAFETY: setrlimit and prctl only, both allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit {
                    rlim_cur: 64 * 1024,
                    rlim_max: 64 * 1024,
                };
                if libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if !capable {
                    drop_capabilities();
                }
                Ok(())
            });
        }
        let sentence = refusal(command);
        let (executors, needed_kib) = sentence
            .strip_prefix("the limit of locked memory (RLIMIT_MEMLOCK) is 64 KiB, but ")
            .and_then(|rest| rest.split_once(" executors need "))
            .and_then(|(executors, rest)| Some((executors, rest.split_once(" KiB; ")?.0)))
            .unwrap_or_else(|| panic!("unexpected sentence: {sentence}"));
        assert!(executors.parse::<u64>().unwrap() >= 1, "{sentence}");
        // glommio's floor, whatever the kernel charges.
        assert!(needed_kib.parse::<u64>().unwrap() >= 512, "{sentence}");
        assert!(
            sentence.ends_with(&format!(
                " KiB; raise it with `ulimit -l {needed_kib}` as root, LimitMEMLOCK= in a systemd unit or `--ulimit \
                 memlock=` in Docker"
            )),
            "{sentence}"
        );
    }
}

#[test]
fn sixteen_open_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = server(&directory.path().join("data"), free_address());
    // SAFETY: setrlimit only.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 16,
                rlim_max: 16,
            };
            match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let sentence = refusal(command);
    assert!(
        sentence.starts_with("the limit of open files (RLIMIT_NOFILE) is 16, but corelane needs "),
        "{sentence}"
    );
}

#[test]
fn a_data_directory_in_use_is_refused_with_the_process_that_has_it() {
    let first = Server::builder().start();
    let sentence = refusal(server(first.data_directory(), free_address()));
    assert_eq!(
        sentence,
        format!(
            "the data directory {} is in use by process {}; stop it, or name another directory with --data-dir",
            first.data_directory().display(),
            first.process().pid()
        )
    );
    // The refused one has not disturbed the first.
    assert_eq!(first.connect().command(&["PING"]).render(), "PONG");
}

#[test]
fn a_foreign_manifest_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let foreign = "this is = not [ a manifest of corelane\n";
    fs::write(data.join("MANIFEST.toml"), foreign).unwrap();
    let sentence = refusal(server(&data, free_address()));
    assert!(sentence.contains("MANIFEST.toml"), "{sentence}");
    assert_eq!(fs::read_to_string(data.join("MANIFEST.toml")).unwrap(), foreign);
}

#[test]
fn a_port_in_use_is_refused_with_a_way_to_find_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let owner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = owner.local_addr().unwrap();
    let sentence = refusal(server(&directory.path().join("data"), address));
    assert_eq!(
        sentence,
        format!(
            "the address {address} is already in use; find its owner with `ss -ltnp 'sport = :{}'` and stop it, or \
             choose another port with --port",
            address.port()
        )
    );
}

#[test]
fn a_port_of_another_corelane_is_refused_though_its_listener_shares_ports() {
    let directory = tempfile::tempdir().unwrap();
    let first = Server::builder().start();
    let sentence = refusal(server(&directory.path().join("second"), first.address()));
    assert!(
        sentence.starts_with(&format!("the address {} is already in use; ", first.address())),
        "{sentence}"
    );
}

#[test]
fn a_file_in_the_place_of_the_data_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let sentence = refusal(server(file.path(), free_address()));
    assert_eq!(
        sentence,
        format!(
            "the data directory {} is not a directory; move that file away, or name another with --data-dir",
            file.path().display()
        )
    );
}

#[test]
fn a_data_directory_that_may_not_be_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();

    let sentence = refusal(without_capabilities(&data));
    assert_eq!(
        sentence,
        format!(
            "the data directory {} cannot be written (Permission denied (os error 13)); let this user write in it, or \
             name another with --data-dir",
            data.display()
        )
    );
    let below = data.join("below");
    let sentence = refusal(without_capabilities(&below));
    assert_eq!(
        sentence,
        format!(
            "the data directory {} cannot be made (Permission denied (os error 13)); let this user write in the \
             directory above it, or name another with --data-dir",
            below.display()
        )
    );
}

/// The server's command line, for children that need more than flags.
fn server(data: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.arg("--data-dir").arg(data).args([
        "--bind",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    command
}

/// The server under a filter that answers io_uring_setup(2) with `errno`.
fn without_io_uring(data: &Path, errno: i32) -> Command {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let mut command = server(data, free_address());
    // SAFETY: two prctl calls with a program that was made before the fork.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&program).map_err(|_| io::Error::last_os_error()));
    }
    command
}

/// The server as a user without rights beyond the file modes, even if the tests run as root.
fn without_capabilities(data: &Path) -> Command {
    let mut command = server(data, free_address());
    // SAFETY: prctl only.
    unsafe {
        command.pre_exec(|| {
            drop_capabilities();
            Ok(())
        });
    }
    command
}

/// Takes all capabilities away from the program that is executed next. An ordinary user may not, and has none.
fn drop_capabilities() {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: no pointers. CAP_SETPCAP, which allows the call, is in effect until exec.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

/// Runs a server that must refuse to start, and returns its sentence.
fn refusal(command: Command) -> String {
    let mut process = ServerProcess::spawn(command);
    let status = process.wait_for_exit();
    let printed = process.output();
    assert_eq!(status.code(), Some(1), "{printed}");
    let mut sentences = printed.lines().filter_map(|line| line.strip_prefix("corelane: "));
    let sentence = sentences
        .next()
        .unwrap_or_else(|| panic!("no sentence was printed: {printed}"));
    assert_eq!(sentences.next(), None, "more than one sentence: {printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    sentence.to_owned()
}
