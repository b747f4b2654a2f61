//! Numbers in arguments and values: the texts that Redis takes for one, and the arithmetic of INCRBYFLOAT.
//!
//! Source: Redis 7.2's `string2ll`, `string2ull`, `string2d`, `string2ld` and `ld2string`, and below them the C
//! library's `strtod` and `strtold` in the C locale, on x86-64, where a long double has 80 bits.

use rustc_apfloat::Float;
use rustc_apfloat::ieee::{Double, X87DoubleExtended};
use std::ops::Add;

/// Digits that fit an `i64` whatever they are; only longer numbers are checked for overflow.
const SAFE_DIGITS_MAX: usize = 18;

/// Longest text of a long double, in bytes, as in Redis (MAX_LONG_DOUBLE_CHARS, with room for a NUL): the largest one
/// has 4,933 digits, a sign, a point and 17 decimals. Also the longest hexadecimal double that we take.
const LONG_DOUBLE_TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// Decimals of a long double that INCRBYFLOAT keeps.
const DECIMALS: usize = 17;

/// 10 to the power of [`DECIMALS`].
const DECIMALS_SCALE: u128 = 10u128.pow(DECIMALS as u32);

/// A signed integer in the one way that Redis writes it: no sign `+`, no blanks, no zeros in front, no `-0`.
/// `None` for any other text and beyond 64 bits.
#[inline]
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    if digits.len() <= SAFE_DIGITS_MAX {
        let mut value = 0;
        for byte in digits {
            value = value * 10 + i64::from(digit(*byte)?);
        }
        return Some(if negative { -value } else { value });
    }
    // Counted downwards, because i64::MIN has no positive counterpart.
    let mut value: i64 = 0;
    for byte in digits {
        value = value.checked_mul(10)?.checked_sub(i64::from(digit(*byte)?))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// An unsigned integer as Redis reads cursors and stream ids: what [`parse_integer`] takes, unless it is negative; else
/// what C's `strtoull` takes, with blanks, a sign and zeros in front. `None` for any other text and beyond 64 bits.
///
/// `-1` is refused, but `-01` is not a number by the first rule, and by the second one it wraps around, as in Redis.
pub(crate) fn parse_unsigned(text: &[u8]) -> Option<u64> {
    if let Some(value) = parse_integer(text) {
        return u64::try_from(value).ok();
    }
    let blanks = text
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r'))
        .count();
    let (negative, digits) = match &text[blanks..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for byte in digits {
        value = value.checked_mul(10)?.checked_add(u64::from(digit(*byte)?))?;
    }
    Some(if negative { value.wrapping_neg() } else { value })
}

/// A double as Redis reads scores and increments: decimal or hexadecimal (`0x1.8p3`), `inf` and `infinity` in any
/// case, all with a sign or without. `None` for any other text (blanks, NaN), for numbers too large, and for numbers
/// that are not zero but round to it.
pub(crate) fn parse_double(text: &[u8]) -> Option<f64> {
    match classify(text)? {
        Notation::Infinity { negative } => Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
        Notation::Decimal {
            nearest_double, zero, ..
        } => (nearest_double.is_finite() && (nearest_double != 0.0 || zero)).then_some(nearest_double),
        Notation::Hexadecimal { text, zero } => {
            let value: Double = finite(&text, zero)?;
            Some(f64::from_bits(value.to_bits() as u64))
        }
    }
}

/// An x86 long double, computed in software with the same rounding: 64 bits of significand, 15 of exponent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LongDouble(X87DoubleExtended);

impl LongDouble {
    /// A long double as INCRBYFLOAT reads values and increments: the texts of [`parse_double`], in the range of a
    /// long double, and shorter than 5 KiB.
    pub(crate) fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.len() > LONG_DOUBLE_TEXT_BYTES_MAX {
            return None;
        }
        match classify(text)? {
            Notation::Infinity { negative: false } => Some(LongDouble(X87DoubleExtended::INFINITY)),
            Notation::Infinity { negative: true } => Some(LongDouble(-X87DoubleExtended::INFINITY)),
            Notation::Decimal { text, zero, .. } => finite(text, zero).map(LongDouble),
            Notation::Hexadecimal { text, zero } => finite(&text, zero).map(LongDouble),
        }
    }

    /// Whether this is no number that can be stored (INCRBYFLOAT answers with an error then).
    pub(crate) fn is_nan_or_infinite(self) -> bool {
        !self.0.is_finite()
    }

    /// The number as Redis stores it: at most 17 decimals, rounded to even, without zeros at the end and without
    /// exponent; `inf`, `-inf`, `nan`.
    pub(crate) fn format_human(self) -> String {
        let bits = self.0.to_bits();
        let negative = bits >> 79 & 1 == 1;
        if self.0.is_nan() {
            return "nan".to_owned();
        }
        if self.0.is_infinite() {
            return if negative { "-inf" } else { "inf" }.to_owned();
        }
        let significand = bits as u64;
        // The lowest exponent stands for the same scale as the one after it (denormal numbers).
        let exponent = ((bits >> 64 & 0x7fff) as i32).max(1) - 16383 - 63;
        let digits = match u32::try_from(exponent) {
            Ok(exponent) => decimal_digits_shifted(significand, exponent),
            Err(_) => decimal_fraction(significand, exponent.unsigned_abs()),
        };
        if negative && digits != "0" {
            format!("-{digits}")
        } else {
            digits
        }
    }
}

impl Add for LongDouble {
    type Output = LongDouble;

    /// The sum, rounded to nearest, ties to even; infinite on overflow, NaN for `inf + -inf`.
    fn add(self, other: LongDouble) -> LongDouble {
        LongDouble((self.0 + other.0).value)
    }
}

#[inline]
fn digit(byte: u8) -> Option<u8> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(digit)
}

/// How a floating-point number is written. `zero`: it has no digit but zeros, so that it may be zero.
enum Notation<'a> {
    Infinity {
        negative: bool,
    },
    Decimal {
        text: &'a str,
        nearest_double: f64,
        zero: bool,
    },
    Hexadecimal {
        text: String,
        zero: bool,
    },
}

/// The notation of `text`; `None` when `strtod` would not take it whole, or would take it for NaN.
fn classify(text: &[u8]) -> Option<Notation<'_>> {
    let text = std::str::from_utf8(text).ok()?;
    // Rust's decimal grammar is strtod's; what Rust lacks are hexadecimal numbers and blanks (which Redis refuses).
    let Ok(nearest_double) = text.parse::<f64>() else {
        return classify_hexadecimal(text);
    };
    if nearest_double.is_nan() {
        return None;
    }
    let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
    if nearest_double.is_infinite() && !has_digits {
        return Some(Notation::Infinity {
            negative: nearest_double < 0.0,
        });
    }
    let significand = text.split(['e', 'E']).next().unwrap_or(text);
    let zero = !significand.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    Some(Notation::Decimal {
        text,
        nearest_double,
        zero,
    })
}

/// `[+-]0x` hexadecimal digits, at least one, with a point or without, then perhaps `p[+-]` and decimal digits.
fn classify_hexadecimal(text: &str) -> Option<Notation<'_>> {
    if text.len() > LONG_DOUBLE_TEXT_BYTES_MAX {
        return None;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"))?;
    let (significand, exponent) = match number.split_once(['p', 'P']) {
        Some((significand, exponent)) => (significand, Some(exponent)),
        None => (number, None),
    };
    let (whole, fraction) = significand.split_once('.').unwrap_or((significand, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().count() == 0 || !digits().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
    }
    let zero = digits().all(|byte| byte == b'0');
    // The exponent may be missing for strtod, but not for rustc_apfloat.
    let text = if exponent.is_some() {
        text.to_owned()
    } else {
        format!("{text}p0")
    };
    Some(Notation::Hexadecimal { text, zero })
}

/// The number nearest to a well-formed text, unless it overflows, or is not zero but rounds to it.
fn finite<F: Float>(text: &str, zero: bool) -> Option<F> {
    let value: F = text.parse().ok()?;
    (value.is_finite() && (!value.is_zero() || zero)).then_some(value)
}

/// The decimal digits of `significand` × 2^`exponent`, `exponent` being at most 16320.
fn decimal_digits_shifted(significand: u64, exponent: u32) -> String {
    /// Base of the limbs: the largest power of ten whose product with 2^32 and a carry fits 128 bits amply.
    const BASE: u128 = 10u128.pow(18);
    const BASE_DIGITS: usize = 18;
    let mut limbs = vec![u128::from(significand) % BASE];
    if u128::from(significand) >= BASE {
        limbs.push(u128::from(significand) / BASE);
    }
    let mut shift_left = exponent;
    while shift_left > 0 {
        let shift = shift_left.min(32);
        shift_left -= shift;
        let mut carry = 0;
        for limb in &mut limbs {
            let product = (*limb << shift) + carry;
            *limb = product % BASE;
            carry = product / BASE;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut digits = String::with_capacity(limbs.len() * BASE_DIGITS);
    for (index, limb) in limbs.iter().rev().enumerate() {
        let width = if index == 0 { 1 } else { BASE_DIGITS };
        digits.push_str(&format!("{limb:0width$}"));
    }
    digits
}

/// `significand` / 2^`shift` in decimal, rounded to [`DECIMALS`] decimals (ties to even), without zeros at the end.
fn decimal_fraction(significand: u64, shift: u32) -> String {
    // Below 2^64 × 2^57, so shifting by 122 or more leaves less than half.
    let scaled = u128::from(significand) * DECIMALS_SCALE;
    let rounded = if shift > 121 {
        0
    } else {
        let floor = scaled >> shift;
        let remainder = scaled - (floor << shift);
        let half = 1 << (shift - 1);
        floor + u128::from(remainder > half || (remainder == half && floor & 1 == 1))
    };
    let whole = rounded / DECIMALS_SCALE;
    let fraction = format!("{:0DECIMALS$}", rounded % DECIMALS_SCALE);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        whole.to_string()
    } else {
        format!("{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_notation() {
        let largest = i64::MAX.to_string();
        let smallest = i64::MIN.to_string();
        for text in [
            "0",
            "7",
            "-7",
            "10",
            "999999999999999999",
            "-1000000000000000000",
            &largest,
            &smallest,
        ] {
            assert_eq!(
                parse_integer(text.as_bytes()).map(|value| value.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in [
            "", "-", "-0", "00", "01", "+1", " 1", "1 ", "1a", "a", "1.0", "--1", "1\0",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "100000000000000000000",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn unsigned_integers_are_read_as_strtoull_does() {
        let cases: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            ("007", Some(7)),
            ("+5", Some(5)),
            (" 5", Some(5)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("-0", Some(0)),
            ("-01", Some(u64::MAX)),
            ("-18446744073709551615", Some(1)),
            ("", None),
            ("+", None),
            ("5 ", None),
            ("0x5", None),
        ];
        for (text, value) in cases {
            assert_eq!(parse_unsigned(text.as_bytes()), *value, "{text:?}");
        }
    }

    #[test]
    fn doubles_are_read_as_strtod_does() {
        let cases: &[(&str, Option<f64>)] = &[
            ("3", Some(3.0)),
            ("-.5", Some(-0.5)),
            ("5.", Some(5.0)),
            ("+1e3", Some(1000.0)),
            ("1E-2", Some(0.01)),
            ("inf", Some(f64::INFINITY)),
            ("+Infinity", Some(f64::INFINITY)),
            ("-INF", Some(f64::NEG_INFINITY)),
            ("0x1.8p3", Some(12.0)),
            ("0X10", Some(16.0)),
            ("-0x.8", Some(-0.5)),
            ("0x1p-1074", Some(5e-324)),
            ("5e-324", Some(5e-324)),
            ("1e-99999999999", None),
            ("0e99999999999", Some(0.0)),
            ("0x0p99999999999", Some(0.0)),
            ("1e308", Some(1e308)),
            ("1e309", None),
            ("0x1p1024", None),
            ("2e-324", None),
            ("nan", None),
            ("-nan", None),
            ("nan(1)", None),
            ("", None),
            (" 1", None),
            ("1 ", None),
            (".", None),
            ("e5", None),
            ("1e", None),
            ("0x", None),
            ("0x.p1", None),
            ("0x1p", None),
            ("1,5", None),
            ("1_0", None),
            ("1\0", None),
            ("infinit", None),
        ];
        for (text, value) in cases {
            assert_eq!(parse_double(text.as_bytes()), *value, "{text:?}");
        }
    }

    /// What INCRBYFLOAT of `increment` on `value` answers: the new value, or why there is none.
    fn increment(value: &str, increment: &str) -> String {
        match (
            LongDouble::parse(value.as_bytes()),
            LongDouble::parse(increment.as_bytes()),
        ) {
            (Some(value), Some(increment)) => {
                let sum = value + increment;
                if sum.is_nan_or_infinite() {
                    "NaN or Infinity".to_owned()
                } else {
                    sum.format_human()
                }
            }
            _ => "not a float".to_owned(),
        }
    }

    #[test]
    fn incrbyfloat_computes_as_redis_does_on_x86() {
        // (value, increment, new value): a real redis-server answered each.
        let cases: &[(&str, &str, &str)] = &[
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0e3", "0", "3000"),
            ("10.6", "-5", "5.6"),
            ("1", "0.1", "1.1"),
            ("0.1", "0.2", "0.3"),
            ("1.1", "1.1", "2.2"),
            ("3.14", "-3.14", "0"),
            ("-0", "-0", "0"),
            ("-1e-20", "0", "0"),
            ("-0.0", "0", "0"),
            ("1", "-1", "0"),
            ("0", "5e-18", "0"),
            ("0", "5.0000000000000001e-18", "0.00000000000000001"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "1.5e-17", "0.00000000000000002"),
            ("0", "0.00000000000000000762939453125", "0.00000000000000001"),
            ("0.5", "1e-17", "0.50000000000000001"),
            ("17179869184", "1", "17179869185"),
            ("9223372036854775807", "1", "9223372036854775808"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551617", "0.5", "18446744073709551616"),
            ("36893488147419103233", "0", "36893488147419103232"),
            ("-9223372036854775808", "-0.5", "-9223372036854775808"),
            ("4611686018427387904", "0.5", "4611686018427387904.5"),
            ("1e20", "0.1", "100000000000000000000"),
            ("1e22", "1", "10000000000000000000000"),
            ("1e30", "0", "1000000000000000000024696061952"),
            ("1e50", "-1e50", "0"),
            ("123456789012345678901234567890", "1", "123456789012345678899921813504"),
            ("0x10", "0x.8", "16.5"),
            ("0x1p-3", "-0x1P-3", "0"),
            ("+5", ".5", "5.5"),
            ("-5.", "+0.25", "-4.75"),
            (
                "1e60",
                "9e60",
                "10000000000000000000516407949857783166401049616864063694831616",
            ),
            ("1e4932", "1e4932", "NaN or Infinity"),
            ("1e4933", "1", "not a float"),
            ("1e-4960", "1", "not a float"),
            ("inf", "1", "NaN or Infinity"),
            ("inf", "-inf", "NaN or Infinity"),
            ("1", "-infinity", "NaN or Infinity"),
            ("nan", "1", "not a float"),
            ("", "1", "not a float"),
            ("1", " 1", "not a float"),
            ("1 ", "1", "not a float"),
            ("abc", "1", "not a float"),
            ("1", "1e", "not a float"),
            ("1", "0x", "not a float"),
            ("0e99999999999", "7", "7"),
            ("2.675", "0", "2.675"),
            ("1.005", "1000000", "1000001.00499999999999545"),
            ("1234567.891", "0.0000001", "1234567.89100009999992835"),
            ("99999999999999999.99", "0.01", "100000000000000000"),
            ("-123456.789", "-0.001", "-123456.78999999999999915"),
            ("1e-5", "1e-6", "0.000011"),
            ("1.0000000000000000001", "0", "1"),
        ];
        for (value, by, expected) in cases {
            assert_eq!(increment(value, by), *expected, "{value} + {by}");
        }
    }

    #[test]
    fn the_largest_and_the_smallest_long_double_are_exact() {
        let largest = LongDouble::parse(b"1.18973149535723176502e4932")
            .expect("within range")
            .format_human();
        assert_eq!(largest.len(), 4933);
        assert!(largest.starts_with("1189731495357231765021263853030970205169063322294624200440323733891737005522970"));
        assert_eq!(
            LongDouble::parse(b"1.18973149535723176509e4932").map(LongDouble::format_human),
            None
        );
        assert_eq!(
            LongDouble::parse(b"3.6451995318824746025e-4951")
                .map(LongDouble::format_human)
                .as_deref(),
            Some("0")
        );
        assert_eq!(LongDouble::parse(b"1.8e-4951").map(LongDouble::format_human), None);
        assert_eq!(increment("1e310", "1").len(), 311, "more than a double holds");
        assert!(LongDouble::parse(&[b'1'; 4932]).is_some());
        assert!(LongDouble::parse(&[&[b'0'; 5118][..], b"1"].concat()).is_some());
        assert!(LongDouble::parse(&[&[b'0'; 5119][..], b"1"].concat()).is_none());
    }
}
