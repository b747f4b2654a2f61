//! MONITOR: every command that is run, as a line.
//!
//! Source: Redis 7.2's `replicationFeedMonitors`, and which commands and arguments its `call` shows.

use crate::command::{ADMIN, AUTHENTICATES, CHOOSES_PROTOCOL, Command};
use crate::commands::arguments::is_option;
use crate::protocol::Arguments;
use std::fmt::Display;
use std::io::Write;

/// What stands for a password.
const REDACTED: &[u8] = b"(redacted)";

/// Whether MONITOR shows a command at all: administration is too dangerous to be shown, says Redis.
pub fn is_shown(command: &Command) -> bool {
    !command.flags.has(ADMIN)
}

/// What stands for the client's address where a script has run the command.
pub const SCRIPT: &str = "lua";

/// A command as clients that monitor get it: a simple string in both versions of the protocol. `caller` is its client's
/// address, or [`SCRIPT`].
pub fn line(now_us: u64, database: u8, caller: impl Display, command: &Command, arguments: Arguments<'_>) -> Vec<u8> {
    let hidden = passwords(command, arguments);
    let (seconds, us) = (now_us / 1_000_000, now_us % 1_000_000);
    // Writing to a vector does not fail.
    let mut line = Vec::with_capacity(64);
    let _ = write!(line, "+{seconds}.{us:06} [{database} {caller}]");
    for (position, argument) in arguments.iter().enumerate() {
        line.push(b' ');
        quote(if hidden.contains(&position) { REDACTED } else { argument }, &mut line);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// The positions of the arguments that are not shown. AUTH's are hidden where there is no syntax error, HELLO's user
/// and password wherever they may be.
fn passwords(command: &Command, arguments: Arguments<'_>) -> std::ops::Range<usize> {
    let count = arguments.len();
    match command.flags {
        flags if flags.has(AUTHENTICATES) && count <= 3 => 1..count,
        flags if flags.has(CHOOSES_PROTOCOL) => {
            let mut option = 2;
            while option < count {
                let argument = arguments.get(option);
                if is_option(argument, "AUTH") && option + 2 < count {
                    return option + 1..option + 3;
                }
                option += if is_option(argument, "SETNAME") { 2 } else { 1 };
            }
            0..0
        }
        _ => 0..0,
    }
}

/// Bytes as Redis prints them: in double quotes, printable ASCII as it is, the rest escaped.
fn quote(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(*byte),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
    out.push(b'"');
}
