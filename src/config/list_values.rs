//! The values that are lists: the addresses of `bind` and the CPU numbers of a role.

use std::fmt;
use std::str::FromStr;

use super::values::{Form, Range, Shape, Value, ValueError};

/// The largest CPU number in a core list: Linux knows at most 8192 CPUs (NR_CPUS).
pub const CORE_NUMBER_MAX: usize = 8191;

/// Addresses as Redis's `bind` takes them.
impl Value for Vec<String> {
    const FORM: Form = Form {
        shape: Shape::List {
            what: "IP addresses, host names or '*', separated by spaces, each with '-' before it if it may be missing",
            separator: " ",
        },
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        let addresses: Self = text.split_whitespace().map(str::to_owned).collect();
        if !addresses.is_empty() && addresses.iter().all(|address| is_bind_address(address)) {
            Ok(addresses)
        } else {
            Err(ValueError::NotA("a list of addresses"))
        }
    }

    fn print(&self) -> String {
        self.join(" ")
    }
}

/// Whether `text` is `*`, `::*`, an IP address or something that a resolver may know, after an optional `-`.
fn is_bind_address(text: &str) -> bool {
    let address = text.strip_prefix('-').unwrap_or(text);
    address == "*" || address == "::*" || address.parse::<std::net::IpAddr>().is_ok() || is_host_name(address)
}

/// RFC 1123 host names. The last label may not be a number, so that a mistyped IPv4 address is refused here, with its
/// line.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last_is_number = text
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    !last_is_number && text.split('.').all(is_label)
}

/// CPU numbers in the kernel's list format (`0-3,8`): not empty, in increasing order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

impl CoreList {
    /// The CPU numbers, in increasing order.
    pub fn cores(&self) -> &[usize] {
        &self.0
    }
}

const CORE_LIST: &str = "CPU numbers and ranges from 0 to 8191, such as 0-1,4";

impl FromStr for CoreList {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad_list = || ValueError::NotA(CORE_LIST);
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if number <= CORE_NUMBER_MAX && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(bad_list()),
        };
        let mut cores = std::collections::BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad_list());
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores.into_iter().collect()))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|core, next| *next == *core + 1);
        for (position, run) in runs.enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(formatter, "{comma}{first}-{last}")?,
                [only] => write!(formatter, "{comma}{only}")?,
                [] => unreachable!("chunk_by gives no empty run"),
            }
        }
        Ok(())
    }
}

impl Value for CoreList {
    const FORM: Form = Form {
        shape: Shape::List {
            what: CORE_LIST,
            separator: ",",
        },
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        text.parse()
    }

    fn print(&self) -> String {
        self.to_string()
    }
}
