//! The first line of a script that begins with `#!`: its engine and its flags.

use crate::error::CommandError;

/// What a script says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether there is a first line that says so. A script without one may do everything that is not said otherwise by
    /// the command that runs it.
    pub is_present: bool,
    /// Whether the script says that it writes nothing (`no-writes`).
    pub no_writes: bool,
}

/// Splits a script into its header and what Lua compiles, which keeps the end of the first line so that lines are
/// counted as the author counts them.
///
/// # Errors
/// As Redis words them, if the first line is no header.
pub fn split(text: &[u8]) -> Result<(Header, &[u8]), CommandError> {
    if !text.starts_with(b"#!") {
        return Ok((Header::default(), text));
    }
    let end = memchr::memchr(b'\n', text).ok_or_else(|| CommandError::text("ERR Invalid script shebang"))?;
    let line = CommandError::quoted(&text[..end]);
    let mut words = line.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(CommandError::text(format!(
            "ERR Unexpected engine in script shebang: {engine}"
        )));
    }
    let mut header = Header {
        is_present: true,
        ..Header::default()
    };
    for word in words {
        let flags = word
            .strip_prefix("flags=")
            .ok_or_else(|| CommandError::text(format!("ERR Unknown lua shebang option: {word}")))?;
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "no-writes" => header.no_writes = true,
                // Nothing here depends on these: memory does not run out, data is never stale, and where keys may lie
                // is the same for all scripts.
                "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                _ => {
                    return Err(CommandError::text(format!(
                        "ERR Unexpected flag in script shebang: {flag}"
                    )));
                }
            }
        }
    }
    Ok((header, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_lines_keep_their_numbers() {
        let (header, body) = split(b"#!lua flags=no-writes,allow-stale\nreturn 1").unwrap();
        assert!(header.is_present && header.no_writes);
        assert_eq!(body, b"\nreturn 1");
        assert_eq!(split(b"return 1"), Ok((Header::default(), &b"return 1"[..])));
        assert!(split(b"#!lua").is_err());
    }
}
