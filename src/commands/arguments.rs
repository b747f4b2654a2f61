//! Reading arguments as Redis does: options by name whatever their case, integers, expiry times.

use crate::error::CommandError;
use crate::number::parse_integer;
use crate::storage::encoding::DATABASE_COUNT;

/// Whether an argument is the option `name` (given in capitals).
#[inline]
pub fn is_option(argument: &[u8], name: &str) -> bool {
    argument.eq_ignore_ascii_case(name.as_bytes())
}

/// An argument as a 64-bit integer.
pub fn integer(argument: &[u8]) -> Result<i64, CommandError> {
    parse_integer(argument).ok_or(CommandError::NotAnInteger)
}

/// An argument as what C calls an int.
pub fn small_integer(argument: &[u8]) -> Result<i32, CommandError> {
    i32::try_from(integer(argument)?).map_err(|_| CommandError::NotASmallInteger)
}

/// A database number as SELECT, COPY and MOVE take it.
pub fn database(argument: &[u8]) -> Result<u8, CommandError> {
    database_of(small_integer(argument)?)
}

/// The database with a number.
pub fn database_of(number: i32) -> Result<u8, CommandError> {
    match usize::try_from(number) {
        Ok(number) if number < DATABASE_COUNT => Ok(number as u8),
        _ => Err(CommandError::DatabaseOutOfRange),
    }
}

/// How an expiry time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeUnit {
    /// Seconds and not milliseconds.
    pub seconds: bool,
    /// A point in Unix time and not a span from now.
    pub absolute: bool,
}

impl TimeUnit {
    /// A span in seconds (EX, EXPIRE).
    pub const SECONDS: TimeUnit = TimeUnit {
        seconds: true,
        absolute: false,
    };
    /// A span in milliseconds (PX, PEXPIRE).
    pub const MILLISECONDS: TimeUnit = TimeUnit {
        seconds: false,
        absolute: false,
    };
    /// A point in Unix time, in seconds (EXAT, EXPIREAT).
    pub const UNIX_SECONDS: TimeUnit = TimeUnit {
        seconds: true,
        absolute: true,
    };
    /// A point in Unix time, in milliseconds (PXAT, PEXPIREAT).
    pub const UNIX_MILLISECONDS: TimeUnit = TimeUnit {
        seconds: false,
        absolute: true,
    };

    /// The unit of an option of SET and GETEX.
    pub fn of_option(argument: &[u8]) -> Option<TimeUnit> {
        match argument {
            _ if is_option(argument, "EX") => Some(TimeUnit::SECONDS),
            _ if is_option(argument, "PX") => Some(TimeUnit::MILLISECONDS),
            _ if is_option(argument, "EXAT") => Some(TimeUnit::UNIX_SECONDS),
            _ if is_option(argument, "PXAT") => Some(TimeUnit::UNIX_MILLISECONDS),
            _ => None,
        }
    }

    /// The deadline in Unix milliseconds that `argument` means; may lie in the past. `command` is for the error's text.
    pub fn deadline_ms(self, argument: &[u8], now_ms: u64, command: &'static str) -> Result<i64, CommandError> {
        let invalid = CommandError::InvalidExpireTime(command);
        let amount = integer(argument)?;
        let scale = if self.seconds { 1000 } else { 1 };
        let amount_ms = amount.checked_mul(scale).ok_or(invalid.clone())?;
        let base_ms = if self.absolute { 0 } else { now_ms as i64 };
        amount_ms.checked_add(base_ms).ok_or(invalid)
    }

    /// The same for commands that refuse zero and negative times (SET, SETEX, GETEX…).
    pub fn future_deadline_ms(self, argument: &[u8], now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
        if integer(argument)? <= 0 {
            return Err(CommandError::InvalidExpireTime(command));
        }
        self.deadline_ms(argument, now_ms, command)
            .map(|deadline| deadline.max(1) as u64)
    }
}
