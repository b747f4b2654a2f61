//! Function libraries as FUNCTION DUMP and FUNCTION RESTORE carry them: a code and a string for each, as in an RDB
//! file.

use super::{Reader, checked_body, finish, write_string};

/// Before each library.
const LIBRARY: u8 = 245;
/// Before each library as release candidates of Redis 7.0 wrote it.
const LIBRARY_BEFORE_RELEASE: u8 = 246;

/// Why libraries cannot be read; the texts are FUNCTION RESTORE's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibrariesError {
    /// The payload is cut, altered, or of a newer version.
    #[error("ERR DUMP payload version or checksum are wrong")]
    Footer,
    /// The payload has something else in it.
    #[error("ERR given type is not a function")]
    OtherType,
    /// A release candidate of Redis 7.0 wrote the payload.
    #[error("ERR Pre-GA function format not supported")]
    BeforeRelease,
    /// The payload's content makes no sense.
    #[error("ERR Failed loading library payload")]
    Format,
}

/// The payload of libraries, each given by its code.
pub fn dump_libraries<'a>(codes: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for code in codes {
        out.push(LIBRARY);
        write_string(&mut out, code);
    }
    finish(out)
}

/// The codes of the libraries of a payload.
///
/// # Errors
/// See [`LibrariesError`]; nothing that a client sends makes this panic.
pub fn restore_libraries(payload: &[u8]) -> Result<Vec<Vec<u8>>, LibrariesError> {
    let rest = checked_body(payload).map_err(|_| LibrariesError::Footer)?;
    let mut reader = Reader { rest };
    let mut codes = Vec::new();
    while !reader.rest.is_empty() {
        match reader.byte().map_err(|_| LibrariesError::Format)? {
            LIBRARY => codes.push(reader.string().map_err(|_| LibrariesError::Format)?),
            LIBRARY_BEFORE_RELEASE => return Err(LibrariesError::BeforeRelease),
            _ => return Err(LibrariesError::OtherType),
        }
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_libraries_are_the_bytes_that_redis_writes() {
        assert_eq!(dump_libraries(std::iter::empty()), b"\n\x00]\x9b\\@\x0f\x7f\xa2\xda");
    }

    #[test]
    fn golden_bytes_of_a_library() {
        let payload = dump_libraries([&b"#!lua name=a\n"[..]].into_iter());
        assert_eq!(payload[..payload.len() - 8], *b"\xf5\x0d#!lua name=a\n\n\0");
        assert_eq!(restore_libraries(&payload), Ok(vec![b"#!lua name=a\n".to_vec()]));
    }

    #[test]
    fn what_is_no_library_is_refused() {
        let bodies: [(&[u8], LibrariesError); 5] = [
            (b"\xf5", LibrariesError::Format),
            (b"\xf5\x3fabc", LibrariesError::Format),
            (b"\xf5\xc3\x05\x40", LibrariesError::Format),
            (b"\xf6\x01x", LibrariesError::BeforeRelease),
            (b"\0\x01x", LibrariesError::OtherType),
        ];
        for (body, error) in bodies {
            assert_eq!(restore_libraries(&finish(body.to_vec())), Err(error), "{body:?}");
        }
        let payload = dump_libraries([&b"code"[..]].into_iter());
        for position in 0..payload.len() {
            let mut altered = payload.clone();
            altered[position] ^= 1;
            assert_eq!(restore_libraries(&altered), Err(LibrariesError::Footer), "{position}");
            assert_eq!(
                restore_libraries(&payload[..position]),
                Err(LibrariesError::Footer),
                "{position}"
            );
        }
    }
}
