//! Commands with numbers in them that change from one to the next: written in RESP once, after which only digits are
//! written, so that a load costs its own CPU little.

use super::random::{Random, Zipf};
use super::replies::Expected;
use std::sync::Arc;

/// A command whose numbers have as many digits each time. In its words stands
///
/// - `{LOW-HIGH}` for a number at random, both included, with zeros before it as far as HIGH has digits;
/// - `{zCOUNT}` for one below COUNT by a Zipf distribution;
/// - `{#COUNT}` for 0, 1, 2 … and again 0 after COUNT numbers;
/// - `{+N}` for the number before it in the same command plus N, of as many digits.
#[derive(Clone)]
pub(crate) struct Template {
    /// The command in RESP, zeros where numbers will be.
    pub(crate) bytes: Vec<u8>,
    /// What it must be answered with.
    pub(crate) expected: Expected,
    numbers: Vec<Number>,
}

#[derive(Clone)]
struct Number {
    offset: usize,
    digits: usize,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Random { low: u64, span: u64 },
    Zipf(Arc<Zipf>),
    Sequence { count: u64 },
    Plus(u64),
}

impl Template {
    /// Of the command's words.
    pub(crate) fn new<T: AsRef<str>>(words: &[T], expected: Expected) -> Template {
        let mut template = Template {
            bytes: format!("*{}\r\n", words.len()).into_bytes(),
            expected,
            numbers: Vec::new(),
        };
        for word in words {
            template.push_word(word.as_ref());
        }
        template
    }

    fn push_word(&mut self, word: &str) {
        let mut text = String::new();
        let mut numbers = Vec::new();
        let mut rest = word;
        while let Some((before, behind)) = rest.split_once('{') {
            text.push_str(before);
            let (description, behind) = behind.split_once('}').expect("a brace that opens is closed");
            let digits_before = numbers
                .last()
                .or(self.numbers.last())
                .map(|number: &Number| number.digits);
            let (value, digits) = parse(description, digits_before);
            numbers.push(Number {
                offset: text.len(),
                digits,
                value,
            });
            text.push_str(&"0".repeat(digits));
            rest = behind;
        }
        text.push_str(rest);
        self.bytes.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
        self.numbers.extend(numbers.into_iter().map(|number| Number {
            offset: start + number.offset,
            ..number
        }));
    }

    /// Writes new numbers into a copy of the command; `sequence` is how many came before it.
    pub(crate) fn write_numbers(&self, copy: &mut [u8], sequence: u64, random: &mut Random) {
        let mut value = 0;
        for number in &self.numbers {
            value = match &number.value {
                Value::Random { low, span } => low + random.below(*span),
                Value::Zipf(zipf) => zipf.draw(random),
                Value::Sequence { count } => sequence % count,
                Value::Plus(more) => value + more,
            };
            let mut left = value;
            for digit in copy[number.offset..number.offset + number.digits].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
            debug_assert!(left == 0, "{value} has more than {} digits", number.digits);
        }
    }
}

/// Digits of the largest range that fits a number.
const RANDOM_DIGITS: usize = 18;

/// A word of `bytes` random digits, in a template: a value that cannot be compressed to nothing. `bytes` is a multiple
/// of 18.
pub(crate) fn random_word(bytes: usize) -> String {
    assert!(
        bytes.is_multiple_of(RANDOM_DIGITS),
        "{bytes} is no multiple of {RANDOM_DIGITS}"
    );
    format!("{{0-{}}}", "9".repeat(RANDOM_DIGITS)).repeat(bytes / RANDOM_DIGITS)
}

/// What stands between braces, and its digits.
fn parse(description: &str, digits_before: Option<usize>) -> (Value, usize) {
    let number = |text: &str| -> u64 {
        text.parse()
            .unwrap_or_else(|_| panic!("{{{description}}} is no number of a template"))
    };
    let digits_of = |number: u64| number.to_string().len();
    if let Some(count) = description.strip_prefix('#') {
        let count = number(count);
        return (Value::Sequence { count }, digits_of(count - 1));
    }
    if let Some(count) = description.strip_prefix('z') {
        let count = number(count);
        return (Value::Zipf(Arc::new(Zipf::new(count))), digits_of(count - 1));
    }
    if let Some(more) = description.strip_prefix('+') {
        let digits = digits_before.expect("a number stands before one that depends on it");
        return (Value::Plus(number(more)), digits);
    }
    let (low, high) = description.split_once('-').expect("a range");
    let (low, high) = (number(low), number(high));
    assert!(low <= high, "{{{description}}} is no range");
    let span = high - low + 1;
    (Value::Random { low, span }, digits_of(high))
}
