//! The types of the settings' values: how each is read from text, checked against its setting's range, and printed.
//!
//! One text form serves the file, the flags and CONFIG GET/SET; it is Redis's wherever Redis has the setting.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// The smallest and the largest number that a setting may have, in its unit.
pub type Range = RangeInclusive<u64>;

/// 1 KiB in bytes.
pub const KIB: u64 = 1024;
/// 1 MiB in bytes.
pub const MIB: u64 = 1024 * KIB;
/// 1 GiB in bytes.
pub const GIB: u64 = 1024 * MIB;

/// The longest password in bytes, as in Redis; it bounds what AUTH must compare and what an unauthenticated client may
/// send.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// What the text of a value looks like: it decides the words in errors and help, and how the value is written in the
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The value itself.
    pub shape: Shape,
    /// Whether the word `auto` is allowed instead.
    pub or_auto: bool,
}

/// The shapes of [`Form`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole number.
    Integer,
    /// A number of bytes, with Redis's suffixes.
    Bytes,
    /// `yes` or `no`.
    YesNo,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text; the string says what it is ("a path").
    Text(&'static str),
    /// Several texts in one, which the file may write as an array.
    List {
        /// What it is ("addresses, separated by spaces").
        what: &'static str,
        /// What stands between two elements in the one-text form.
        separator: &'static str,
    },
    /// A password: never shown in errors, logs or Debug.
    Secret,
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// What the text looks like.
    const FORM: Form;

    /// Reads a value and checks it against `range` (numbers only; the list gives every number a range).
    fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError>;

    /// The value after `text` is set on top of `self`: the same as `parse`, but for a type whose text may name only
    /// some of its parts.
    fn merged(&self, text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
        Self::parse(text, range)
    }

    /// The value as CONFIG GET prints it; `parse` reads it back.
    fn print(&self) -> String;
}

/// Why a text is not a value. Display gives Redis's words for CONFIG SET.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a whole number as Redis writes it (no sign `+`, no leading zero, within 64 bits).
    #[error("argument couldn't be parsed into an integer")]
    NotAnInteger,
    /// A number outside the setting's range.
    #[error("argument must be between {min} and {max} inclusive")]
    OutOfRange {
        /// The smallest number allowed.
        min: u64,
        /// The largest number allowed.
        max: u64,
    },
    /// Neither `yes` nor `no`.
    #[error("argument must be 'yes' or 'no'")]
    NotYesOrNo,
    /// Not a number of bytes.
    #[error("argument must be a memory value")]
    NotMemory,
    /// None of the words of an enumeration.
    #[error("argument(s) must be one of the following: {}", .0.join(", "))]
    NotOneOf(Vec<&'static str>),
    /// A text that cannot be what it should be; the string says what that is.
    #[error("argument must be {0}")]
    NotA(&'static str),
    /// An output buffer limit for a class of clients that does not exist.
    #[error("Invalid client class specified in buffer limit configuration.")]
    UnknownClientClass,
    /// Output buffer limits that are not groups of four words.
    #[error("Wrong number of arguments in buffer limit configuration.")]
    WrongNumberOfLimits,
    /// A letter that stands for no class of keyspace events.
    #[error("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")]
    UnknownEventClass,
    /// An output buffer limit that is not a number.
    #[error("Error in hard, soft or soft_seconds setting in buffer limit configuration.")]
    BadLimit,
}

/// Fails unless `number` lies in `range`.
fn check_range(number: u64, range: Option<&Range>) -> Result<u64, ValueError> {
    match range {
        Some(range) if !range.contains(&number) => Err(ValueError::OutOfRange {
            min: *range.start(),
            max: *range.end(),
        }),
        _ => Ok(number),
    }
}

/// Reads a whole number by the rules of Redis's `string2ll`.
pub(super) fn parse_integer(text: &str, range: Option<&Range>) -> Result<u64, ValueError> {
    let number: i64 = text.parse().map_err(|_| ValueError::NotAnInteger)?;
    if number.to_string() != text {
        return Err(ValueError::NotAnInteger); // "+5", "05" and "-0", which Rust reads and Redis refuses
    }
    match (u64::try_from(number), range) {
        (Ok(number), range) => check_range(number, range),
        (Err(_), Some(range)) => Err(ValueError::OutOfRange {
            min: *range.start(),
            max: *range.end(),
        }),
        (Err(_), None) => Err(ValueError::OutOfRange {
            min: 0,
            max: i64::MAX as u64,
        }),
    }
}

macro_rules! integer_values {
    ($($integer:ty),+) => {$(
        impl Value for $integer {
            const FORM: Form = Form { shape: Shape::Integer, or_auto: false };

            fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
                let number = parse_integer(text, range)?;
                Self::try_from(number).map_err(|_| ValueError::OutOfRange { min: 0, max: Self::MAX as u64 })
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

integer_values!(u16, u32, u64, usize);

impl Value for bool {
    const FORM: Form = Form {
        shape: Shape::YesNo,
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        if text.eq_ignore_ascii_case("yes") {
            Ok(true)
        } else if text.eq_ignore_ascii_case("no") {
            Ok(false)
        } else {
            Err(ValueError::NotYesOrNo)
        }
    }

    fn print(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

/// Makes an enumeration out of words: `Variant = "word" | "another word that means the same"`. Case is ignored, as in
/// Redis.
macro_rules! words {
    ($(#[$attribute:meta])* $name:ident {
        $($(#[$doc:meta])* $variant:ident = $word:literal $(| $synonym:literal)*,)+
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// The words of the variants, in their order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                $(if [$word $(, $synonym)*].iter().any(|word| text.eq_ignore_ascii_case(word)) {
                    return Ok(Self::$variant);
                })+
                Err(ValueError::NotOneOf(Self::WORDS.to_vec()))
            }
        }

        impl Value for $name {
            const FORM: Form = Form { shape: Shape::OneOf(Self::WORDS), or_auto: false };

            fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
                text.parse()
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    };
}

words! {
    /// When an acknowledged write is on the disk. In every mode it has reached the kernel before its reply leaves.
    Durability {
        /// Before its reply leaves.
        Always = "always",
        /// Within `sync-interval-ms`.
        Interval = "interval",
        /// When the kernel writes it.
        None = "none",
    }
}

words! {
    /// Who may use DEBUG.
    DebugCommand {
        /// Nobody.
        No = "no",
        /// Clients on the server's own machine.
        Local = "local",
        /// Every client.
        Yes = "yes",
    }
}

words! {
    /// How much the log says; each level includes those before it. Redis's words are understood too.
    LogLevel {
        /// What failed.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn" | "warning",
        /// Start, stop and changes of state.
        Info = "info" | "notice",
        /// What helps to find a fault.
        Debug = "debug" | "verbose",
        /// Every step.
        Trace = "trace",
    }
}

/// A value, or the word `auto`: the server chooses when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// The server chooses.
    Auto,
    /// The operator has chosen.
    Is(T),
}

impl<T> AutoOr<T> {
    /// The chosen value, if one is.
    pub fn chosen(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Is(value) => Some(value),
        }
    }

    /// The chosen value, or what `automatic` computes.
    pub fn unwrap_or_else(self, automatic: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => automatic(),
            Self::Is(value) => value,
        }
    }
}

impl<T: fmt::Display> fmt::Display for AutoOr<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Is(value) => value.fmt(formatter),
        }
    }
}

impl<T: FromStr> FromStr for AutoOr<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.eq_ignore_ascii_case("auto") {
            Ok(Self::Auto)
        } else {
            text.parse().map(Self::Is)
        }
    }
}

impl<T: Value> Value for AutoOr<T> {
    const FORM: Form = Form {
        shape: T::FORM.shape,
        or_auto: true,
    };

    fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
        if text.eq_ignore_ascii_case("auto") {
            Ok(Self::Auto)
        } else {
            T::parse(text, range).map(Self::Is)
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Is(value) => value.print(),
        }
    }
}

/// A number of bytes. Read with Redis's suffixes (`1k` = 1000, `1kb` = 1024, `m`, `mb`, `g`, `gb`, `b`); Display writes
/// it with the largest suffix that is exact, CONFIG GET as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory (the server runs on 64-bit machines only).
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(GIB, "gb"), (MIB, "mb"), (KIB, "kb")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(formatter, "{}{suffix}", self.0 / unit);
            }
        }
        write!(formatter, "{}", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let unit = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" => 1000,
            "kb" => KIB,
            "m" => 1_000_000,
            "mb" => MIB,
            "g" => 1_000_000_000,
            "gb" => GIB,
            _ => return Err(ValueError::NotMemory),
        };
        let number: u64 = number.parse().map_err(|_| ValueError::NotMemory)?;
        number.checked_mul(unit).map(Self).ok_or(ValueError::NotMemory)
    }
}

impl Value for ByteSize {
    const FORM: Form = Form {
        shape: Shape::Bytes,
        or_auto: false,
    };

    fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
        let size: Self = text.parse()?;
        check_range(size.0, range).map(Self)
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A path that may not be empty.
impl Value for PathBuf {
    const FORM: Form = Form {
        shape: Shape::Text("a path"),
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        if text.is_empty() || text.contains('\0') {
            Err(ValueError::NotA("a path"))
        } else {
            Ok(Self::from(text))
        }
    }

    fn print(&self) -> String {
        self.display().to_string()
    }
}

/// A path, or nothing for an empty text.
impl Value for Option<PathBuf> {
    const FORM: Form = Form {
        shape: Shape::Text("a path, or empty for none"),
        or_auto: false,
    };

    fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
        if text.is_empty() {
            Ok(None)
        } else {
            PathBuf::parse(text, range).map(Some)
        }
    }

    fn print(&self) -> String {
        self.as_ref().map_or_else(String::new, Value::print)
    }
}

/// A password; empty when there is none. Debug hides it, and there is no Display.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Whether there is no password.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is the password. Takes the same time whatever `given` is, so that an attacker cannot measure how
    /// much is right.
    pub fn matches(&self, given: &[u8]) -> bool {
        let password = self.0.as_bytes();
        let mut difference = password.len() ^ given.len();
        for position in 0..PASSWORD_BYTES_MAX {
            let expected = password.get(position).copied().unwrap_or(0);
            let actual = given.get(position).copied().unwrap_or(0);
            difference |= usize::from(expected ^ actual);
        }
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_empty() {
            "Secret(empty)"
        } else {
            "Secret(hidden)"
        })
    }
}

impl Value for Secret {
    const FORM: Form = Form {
        shape: Shape::Secret,
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        if text.len() > PASSWORD_BYTES_MAX {
            return Err(ValueError::NotA("at most 512 bytes long"));
        }
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}
