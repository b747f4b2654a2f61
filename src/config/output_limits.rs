//! The value of `client-output-buffer-limit`.

use std::fmt;

use super::values::{ByteSize, Form, Range, Shape, Value, ValueError, parse_integer};

/// How much output may wait for one client before it is disconnected; 0 switches a limit off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputBufferLimit {
    /// Disconnected as soon as more than this waits.
    pub hard_bytes: u64,
    /// Disconnected when more than this waits for `soft_seconds` without a break.
    pub soft_bytes: u64,
    /// See `soft_bytes`.
    pub soft_seconds: u64,
}

impl fmt::Display for OutputBufferLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {} {}",
            self.hard_bytes, self.soft_bytes, self.soft_seconds
        )
    }
}

/// Redis's `client-output-buffer-limit`: one limit per class of clients. A text may name only some of the classes; the
/// others keep what they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputBufferLimits {
    /// Clients that are nothing else.
    pub normal: OutputBufferLimit,
    /// Replicas (Redis prints this class as `slave` and reads `replica` too).
    pub replica: OutputBufferLimit,
    /// Clients that have subscribed to something.
    pub pubsub: OutputBufferLimit,
}

impl fmt::Display for OutputBufferLimits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "normal {} slave {} pubsub {}",
            self.normal, self.replica, self.pubsub
        )
    }
}

impl Value for OutputBufferLimits {
    const FORM: Form = Form {
        shape: Shape::Text("groups of CLASS HARD-BYTES SOFT-BYTES SOFT-SECONDS, CLASS being normal, replica or pubsub"),
        or_auto: false,
    };

    fn parse(text: &str, range: Option<&Range>) -> Result<Self, ValueError> {
        Self::default().merged(text, range)
    }

    fn merged(&self, text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if !words.len().is_multiple_of(4) {
            return Err(ValueError::WrongNumberOfLimits);
        }
        let mut limits = *self;
        for group in words.chunks_exact(4) {
            let limit = match group[0].to_ascii_lowercase().as_str() {
                "normal" => &mut limits.normal,
                "slave" | "replica" => &mut limits.replica,
                "pubsub" => &mut limits.pubsub,
                _ => return Err(ValueError::UnknownClientClass),
            };
            let bytes = |text: &str| text.parse().map(ByteSize::bytes).map_err(|_| ValueError::BadLimit);
            *limit = OutputBufferLimit {
                hard_bytes: bytes(group[1])?,
                soft_bytes: bytes(group[2])?,
                soft_seconds: parse_integer(group[3], None).map_err(|_| ValueError::BadLimit)?,
            };
        }
        Ok(limits)
    }

    fn print(&self) -> String {
        self.to_string()
    }
}
