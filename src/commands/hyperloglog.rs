//! HyperLogLogs: approximate counts of distinct elements, kept in strings whose bytes are those of Redis.
//!
//! An element's hash chooses one of 16,384 registers by its low bits; the register keeps the longest run of zeros that
//! the other bits of a hash began with, plus one. The string is
//!
//! ```text
//! "HYLL" ‖ encoding(1) ‖ zeros(3) ‖ count(8, little endian; its highest bit says that it is out of date) ‖ registers
//! dense    6 bits per register, from the low bits of a byte to the high ones
//! sparse   00llllll            l+1 registers are zero
//!          01llllll llllllll   the same, for longer runs
//!          1vvvvvll            l+1 registers are v+1
//! ```
//!
//! Sources: Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog" (2007); the estimator is Ertl's, "New cardinality
//! estimation algorithms for HyperLogLog sketches" (arXiv:1702.01284); the representation, down to how runs are split
//! and merged, is that of Redis 7.2.

use super::Context;
use super::arguments::is_option;
use crate::config::EventClass;
use crate::error::CommandError;
use crate::storage::encoding::Record;

type Outcome = Result<(), CommandError>;

/// Bits of a hash that choose the register.
const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The other bits of a hash: a register is at most one more.
const RUN_BITS: usize = 64 - INDEX_BITS as usize;

const REGISTER_BITS: usize = 6;
const REGISTER_MAX: u8 = (1 << REGISTER_BITS) - 1;

const _: () = assert!(RUN_BITS < REGISTER_MAX as usize, "a register holds the longest run");

const MAGIC: &[u8; 4] = b"HYLL";
const HEADER_LEN: usize = 16;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const DENSE_LEN: usize = HEADER_LEN + REGISTERS * REGISTER_BITS / 8;

/// A sparse string that would grow beyond this becomes dense (Redis's default of `hll-sparse-max-bytes`).
const SPARSE_LEN_MAX: usize = 3000;

/// The largest register that has a sparse form.
const SPARSE_VALUE_MAX: u8 = 32;
const VALUE_RUN_MAX: usize = 4;
const SHORT_ZEROS_MAX: usize = 64;

/// Runs that are looked at for neighbours to merge after a change, from the one before it.
const MERGE_LOOKS: usize = 5;

/// The seed of Redis's hash.
const HASH_SEED: u64 = 0xadc8_3b19;

/// One value for each register.
type Registers = [u8; REGISTERS];

/// How many registers have each value.
type Histogram = [u32; REGISTER_MAX as usize + 1];

fn not_a_sketch() -> CommandError {
    CommandError::text("WRONGTYPE Key is not a valid HyperLogLog string value.")
}

fn corrupted() -> CommandError {
    CommandError::text("INVALIDOBJ Corrupted HLL object detected")
}

/// The hash of an element: MurmurHash64A (Austin Appleby, public domain).
fn hash(element: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let (words, rest) = element.as_chunks::<8>();
    let mut hash = HASH_SEED ^ (element.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> SHIFT;
        hash = (hash ^ word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ hash >> SHIFT).wrapping_mul(MULTIPLIER);
    hash ^ hash >> SHIFT
}

/// An element's register, and the value that it is raised to.
fn register_of(element: &[u8]) -> (usize, u8) {
    let hash = hash(element);
    let run = (hash >> INDEX_BITS | 1 << RUN_BITS).trailing_zeros() as u8 + 1;
    (hash as usize % REGISTERS, run)
}

/// Checks what can be seen at once of a string that should be a HyperLogLog; whether its runs fit shows when they are
/// read.
fn check(bytes: &[u8]) -> Outcome {
    let encoding = match bytes {
        [b'H', b'Y', b'L', b'L', encoding, ..] if bytes.len() >= HEADER_LEN => *encoding,
        _ => return Err(not_a_sketch()),
    };
    match encoding {
        SPARSE => Ok(()),
        DENSE if bytes.len() == DENSE_LEN => Ok(()),
        _ => Err(not_a_sketch()),
    }
}

fn is_sparse(bytes: &[u8]) -> bool {
    bytes[4] == SPARSE
}

/// The count that was computed last; `None` if elements were added since.
fn cached_count(bytes: &[u8]) -> Option<u64> {
    let count = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    (count >> 63 == 0).then_some(count)
}

/// A run of registers with one value, as the sparse form has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    value: u8,
    registers: usize,
    /// The run's bytes in the sparse form.
    width: usize,
}

impl Run {
    /// The run that begins with `bytes`; `None` at their end, and if they stop within a run.
    fn first_of(bytes: &[u8]) -> Option<Run> {
        let first = *bytes.first()?;
        Some(match first >> 6 {
            0 => Run {
                value: 0,
                registers: usize::from(first) + 1,
                width: 1,
            },
            1 => Run {
                value: 0,
                registers: (usize::from(first & 0x3f) << 8 | usize::from(*bytes.get(1)?)) + 1,
                width: 2,
            },
            _ => Run {
                value: (first >> 2 & 0x1f) + 1,
                registers: usize::from(first & 3) + 1,
                width: 1,
            },
        })
    }

    /// Appends the sparse form of `registers` registers (perhaps none) to `out`.
    fn push(out: &mut Vec<u8>, value: u8, registers: usize) {
        match (value, registers) {
            (_, 0) => {}
            (0, 1..=SHORT_ZEROS_MAX) => out.push(registers as u8 - 1),
            (0, _) => out.extend_from_slice(&(0x4000 | (registers as u16 - 1)).to_be_bytes()),
            (value, _) => out.push(0x80 | (value - 1) << 2 | (registers as u8 - 1)),
        }
    }
}

/// Calls `visit` with each run of a sparse HyperLogLog and its first register. An error unless they are exactly all
/// registers.
fn visit_runs(bytes: &[u8], mut visit: impl FnMut(usize, Run)) -> Outcome {
    let mut rest = &bytes[HEADER_LEN..];
    let mut register = 0;
    while !rest.is_empty() {
        let run = Run::first_of(rest).ok_or_else(corrupted)?;
        if register + run.registers > REGISTERS {
            return Err(corrupted());
        }
        visit(register, run);
        register += run.registers;
        rest = &rest[run.width..];
    }
    match register {
        REGISTERS => Ok(()),
        _ => Err(corrupted()),
    }
}

/// The registers of a dense HyperLogLog in order: four in each three bytes.
fn dense_registers(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (groups, _) = bytes[HEADER_LEN..].as_chunks::<3>();
    groups.iter().flat_map(|[a, b, c]| {
        let group = u32::from_le_bytes([*a, *b, *c, 0]);
        [0, 6, 12, 18].map(|shift| (group >> shift) as u8 & REGISTER_MAX)
    })
}

/// Where a dense register is: its first byte, and how far it is shifted in that and the next.
fn dense_offset(register: usize) -> (usize, u32) {
    let bit = register * REGISTER_BITS;
    (HEADER_LEN + bit / 8, bit as u32 % 8)
}

fn dense_get(bytes: &[u8], register: usize) -> u8 {
    let (at, shift) = dense_offset(register);
    // The last register ends with the last byte.
    let pair = u16::from_le_bytes([bytes[at], bytes.get(at + 1).copied().unwrap_or(0)]);
    (pair >> shift) as u8 & REGISTER_MAX
}

fn dense_set(bytes: &mut [u8], register: usize, value: u8) {
    let (at, shift) = dense_offset(register);
    let mask = (u16::from(REGISTER_MAX) << shift).to_le_bytes();
    let field = (u16::from(value) << shift).to_le_bytes();
    for (index, byte) in bytes[at..].iter_mut().take(2).enumerate() {
        *byte = *byte & !mask[index] | field[index];
    }
}

/// Raises each of `registers` to a HyperLogLog's, where that is higher.
fn merge_into(registers: &mut Registers, bytes: &[u8]) -> Outcome {
    if is_sparse(bytes) {
        return visit_runs(bytes, |first, run| {
            let covered = &mut registers[first..first + run.registers];
            covered
                .iter_mut()
                .for_each(|register| *register = run.value.max(*register));
        });
    }
    let pairs = registers.iter_mut().zip(dense_registers(bytes));
    pairs.for_each(|(register, value)| *register = value.max(*register));
    Ok(())
}

fn histogram_of(values: impl Iterator<Item = u8>) -> Histogram {
    let mut histogram = [0; REGISTER_MAX as usize + 1];
    values.for_each(|value| histogram[usize::from(value)] += 1);
    histogram
}

/// The estimated number of elements of a HyperLogLog.
fn count(bytes: &[u8]) -> Result<u64, CommandError> {
    if !is_sparse(bytes) {
        return Ok(estimate(&histogram_of(dense_registers(bytes))));
    }
    let mut histogram = [0; REGISTER_MAX as usize + 1];
    visit_runs(bytes, |_, run| {
        histogram[usize::from(run.value)] += run.registers as u32
    })?;
    Ok(estimate(&histogram))
}

/// Ertl's estimator, with Redis's order of operations, so that it rounds alike.
fn estimate(histogram: &Histogram) -> u64 {
    /// 0.5 / ln 2
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let registers = REGISTERS as f64;
    let full = f64::from(histogram[RUN_BITS + 1]);
    let mut z = registers * tau((registers - full) / registers);
    for value in (1..=RUN_BITS).rev() {
        z = (z + f64::from(histogram[value])) * 0.5;
    }
    z += registers * sigma(f64::from(histogram[0]) / registers);
    let estimate = (ALPHA * registers * registers / z).round();
    // All registers full: what C's conversion of infinity gives.
    match estimate < i64::MAX as f64 {
        true => estimate as u64,
        false => i64::MIN as u64,
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

/// A HyperLogLog that is being changed.
struct Sketch(Vec<u8>);

impl Sketch {
    /// A sketch without elements: sparse, one run of zeros.
    fn empty() -> Sketch {
        let mut bytes = MAGIC.to_vec();
        bytes.push(SPARSE);
        bytes.resize(HEADER_LEN, 0);
        Run::push(&mut bytes, 0, REGISTERS);
        Sketch(bytes)
    }

    /// Adds an element; whether that changed a register.
    fn add(&mut self, element: &[u8]) -> Result<bool, CommandError> {
        let (register, value) = register_of(element);
        self.raise(register, value)
    }

    /// Raises a register to `value`; whether it was lower.
    fn raise(&mut self, register: usize, value: u8) -> Result<bool, CommandError> {
        if is_sparse(&self.0) {
            return self.raise_sparse(register, value);
        }
        let higher = value > dense_get(&self.0, register);
        if higher {
            dense_set(&mut self.0, register, value);
        }
        Ok(higher)
    }

    fn raise_sparse(&mut self, register: usize, value: u8) -> Result<bool, CommandError> {
        if value > SPARSE_VALUE_MAX {
            return self.raise_dense(register, value);
        }
        let Sketch(bytes) = self;
        let (mut at, mut first, mut before) = (HEADER_LEN, 0, HEADER_LEN);
        let run = loop {
            let run = Run::first_of(&bytes[at..]).ok_or_else(corrupted)?;
            if register < first + run.registers {
                break run;
            }
            (before, at, first) = (at, at + run.width, first + run.registers);
        };
        if run.value >= value {
            return Ok(false);
        }
        let mut split = Vec::new();
        Run::push(&mut split, run.value, register - first);
        Run::push(&mut split, value, 1);
        Run::push(&mut split, run.value, first + run.registers - register - 1);
        if split.len() > run.width && bytes.len() + split.len() - run.width > SPARSE_LEN_MAX {
            return self.raise_dense(register, value);
        }
        bytes.splice(at..at + run.width, split);
        self.merge_runs(before);
        self.forget_count();
        Ok(true)
    }

    fn raise_dense(&mut self, register: usize, value: u8) -> Result<bool, CommandError> {
        self.become_dense()?;
        self.raise(register, value)
    }

    /// Merges neighbours of one value, from the run at `at` on.
    fn merge_runs(&mut self, mut at: usize) {
        let Sketch(bytes) = self;
        for _ in 0..MERGE_LOOKS {
            let Some(run) = Run::first_of(&bytes[at..]) else { return };
            let next = Run::first_of(&bytes[at + run.width..]).filter(|next| next.value == run.value && run.value > 0);
            let together = next.map_or(usize::MAX, |next| run.registers + next.registers);
            if together <= VALUE_RUN_MAX {
                let mut merged = Vec::new();
                Run::push(&mut merged, run.value, together);
                bytes.splice(at..at + 2, merged);
            } else {
                at += run.width;
            }
        }
    }

    /// Goes over to the dense form, if it is not in that already; the cached count stays.
    fn become_dense(&mut self) -> Outcome {
        if !is_sparse(&self.0) {
            return Ok(());
        }
        let mut dense = vec![0; DENSE_LEN];
        dense[..HEADER_LEN].copy_from_slice(&self.0[..HEADER_LEN]);
        dense[4] = DENSE;
        visit_runs(&self.0, |first, run| {
            if run.value > 0 {
                let covered = first..first + run.registers;
                covered.for_each(|register| dense_set(&mut dense, register, run.value));
            }
        })?;
        self.0 = dense;
        Ok(())
    }

    fn forget_count(&mut self) {
        self.0[15] |= 0x80;
    }

    fn cache_count(&mut self, count: u64) {
        self.0[8..HEADER_LEN].copy_from_slice(&count.to_le_bytes());
    }

    /// Stages it under a key.
    fn save(&self, context: &mut Context<'_>, key: &[u8], deadline_ms: u64) -> Outcome {
        context.write(
            key,
            &Record {
                edited: true,
                ..Record::string(&self.0, deadline_ms)
            },
        )
    }
}

/// The HyperLogLog under a key and its deadline.
fn read(context: &mut Context<'_>, key: &[u8]) -> Result<Option<(Sketch, u64)>, CommandError> {
    let Some(record) = context.read_string(key)? else {
        return Ok(None);
    };
    check(record.payload)?;
    Ok(Some((Sketch(record.payload.to_vec()), record.deadline_ms)))
}

/// PFADD key [element …]
pub fn pfadd(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let key = arguments.get(1);
    let found = read(context, key)?;
    let mut updated = found.is_none();
    let (mut sketch, deadline_ms) = found.unwrap_or((Sketch::empty(), 0));
    for element in arguments.iter().skip(2) {
        updated |= sketch.add(element)?;
    }
    if updated {
        sketch.forget_count();
        sketch.save(context, key, deadline_ms)?;
        context.notify(EventClass::String, "pfadd", key);
    }
    context.reply.integer(i64::from(updated));
    Ok(())
}

/// PFCOUNT key [key …]
pub fn pfcount(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    if arguments.len() == 2 {
        return pfcount_one(context, arguments.get(1));
    }
    let registers = merged(context, arguments.iter().skip(1))?.0;
    let count = estimate(&histogram_of(registers.iter().copied()));
    context.reply.integer(count as i64);
    Ok(())
}

/// The count of one key is kept in its header.
fn pfcount_one(context: &mut Context<'_>, key: &[u8]) -> Outcome {
    let record = context.read_string(key)?;
    let payload = record.map_or(&[][..], |record| record.payload);
    if record.is_some() {
        check(payload)?;
    }
    let cached = if record.is_some() {
        cached_count(payload)
    } else {
        Some(0)
    };
    if let Some(count) = cached {
        context.reply.integer(count as i64);
        return Ok(());
    }
    // The same look-up once more.
    let touched = context.view.touched();
    let read = read(context, key)?;
    context.view.uncount_look_ups(touched);
    if let Some((mut sketch, deadline_ms)) = read {
        let count = count(&sketch.0)?;
        sketch.cache_count(count);
        // A shard that takes no writes for now can answer all the same.
        let _ = sketch.save(context, key, deadline_ms);
        context.reply.integer(count as i64);
    }
    Ok(())
}

/// The highest of each register among the HyperLogLogs under some keys, and whether any of them is dense.
fn merged<'a>(
    context: &mut Context<'_>,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<(Box<Registers>, bool), CommandError> {
    let mut registers = Box::new([0; REGISTERS]);
    let mut any_dense = false;
    for key in keys {
        let Some(record) = context.read_string(key)? else {
            continue;
        };
        check(record.payload)?;
        any_dense |= !is_sparse(record.payload);
        merge_into(&mut registers, record.payload)?;
    }
    Ok((registers, any_dense))
}

/// PFMERGE destkey [sourcekey …]
pub fn pfmerge(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let target = arguments.get(1);
    let (registers, any_dense) = context.reading(|context| merged(context, arguments.iter().skip(1)))?;
    let (mut sketch, deadline_ms) = read(context, target)?.unwrap_or((Sketch::empty(), 0));
    if any_dense {
        sketch.become_dense()?;
    }
    for (register, value) in registers.iter().enumerate().filter(|(_, value)| **value > 0) {
        sketch.raise(register, *value)?;
    }
    sketch.forget_count();
    sketch.save(context, target, deadline_ms)?;
    context.notify(EventClass::String, "pfadd", target);
    context.reply.ok();
    Ok(())
}

/// PFDEBUG <GETREG | DECODE | ENCODING | TODENSE> key
pub fn pfdebug(context: &mut Context<'_>) -> Outcome {
    let (subcommand, key) = (context.arguments.get(1), context.arguments.get(2));
    let absent = || CommandError::text("ERR The specified key does not exist");
    let (mut sketch, deadline_ms) = read(context, key)?.ok_or_else(absent)?;
    let was_sparse = is_sparse(&sketch.0);
    let to_dense = is_option(subcommand, "GETREG") || is_option(subcommand, "TODENSE");
    if to_dense && was_sparse {
        sketch.become_dense()?;
        sketch.save(context, key, deadline_ms)?;
    }
    let reply = &mut context.reply;
    match subcommand {
        _ if is_option(subcommand, "GETREG") => {
            reply.array(REGISTERS);
            dense_registers(&sketch.0).for_each(|register| reply.integer(i64::from(register)));
        }
        _ if is_option(subcommand, "TODENSE") => reply.integer(i64::from(was_sparse)),
        _ if is_option(subcommand, "ENCODING") => reply.simple(if was_sparse { "sparse" } else { "dense" }),
        _ if is_option(subcommand, "DECODE") && !was_sparse => {
            return Err(CommandError::text("ERR HLL encoding is not sparse"));
        }
        _ if is_option(subcommand, "DECODE") => reply.text(&decode_runs(&sketch.0)),
        _ => {
            let subcommand = CommandError::quoted(subcommand);
            return Err(CommandError::text(format!(
                "ERR Unknown PFDEBUG subcommand '{subcommand}'"
            )));
        }
    }
    Ok(())
}

/// The runs of a sparse HyperLogLog as text: `z` and `Z` for zeros, `v` for values.
fn decode_runs(bytes: &[u8]) -> String {
    let mut rest = &bytes[HEADER_LEN..];
    let mut words = Vec::new();
    while let Some(run) = Run::first_of(rest) {
        words.push(match run {
            Run { value: 0, width: 1, .. } => format!("z:{}", run.registers),
            Run { value: 0, .. } => format!("Z:{}", run.registers),
            Run { value, .. } => format!("v:{value},{}", run.registers),
        });
        rest = &rest[run.width..];
    }
    words.join(" ")
}

/// What PFSELFTEST does; it takes a while. The error says what is wrong.
pub fn self_test() -> Result<(), String> {
    test_registers().and_then(|()| test_errors())
}

/// How often all registers are set and read: a tenth of what Redis does.
const SELF_TEST_ROUNDS: u64 = 100;

/// Elements that are added: a tenth of what Redis adds.
const SELF_TEST_ELEMENTS: u64 = 1_000_000;

/// Every dense register keeps what is put into it, whatever is put into its neighbours.
fn test_registers() -> Result<(), String> {
    let mut dense = vec![0; DENSE_LEN];
    let mut expected = vec![0; REGISTERS];
    for round in 0..SELF_TEST_ROUNDS {
        for (register, value) in expected.iter_mut().enumerate() {
            *value = hash(&(round << 32 | register as u64).to_le_bytes()) as u8 & REGISTER_MAX;
            dense_set(&mut dense, register, *value);
        }
        for (register, value) in expected.iter().enumerate() {
            let got = dense_get(&dense, register);
            if got != *value {
                return Err(format!("Register {register} should be {value} but is {got}"));
            }
        }
    }
    Ok(())
}

/// Sparse and dense forms agree, and the error is a few times the expected one at most.
fn test_errors() -> Result<(), String> {
    let corrupted = |error: CommandError| error.to_string();
    let relative_error = 1.04 / (REGISTERS as f64).sqrt();
    let (mut sketch, mut dense) = (Sketch::empty(), Sketch::empty());
    dense.become_dense().map_err(corrupted)?;
    let mut checkpoint = 1;
    for element in 1..=SELF_TEST_ELEMENTS {
        let bytes = element.to_le_bytes();
        sketch.add(&bytes).map_err(corrupted)?;
        dense.add(&bytes).map_err(corrupted)?;
        if element != checkpoint {
            continue;
        }
        if element < SPARSE_LEN_MAX as u64 / 2 && !is_sparse(&sketch.0) {
            return Err("sparse encoding not used".to_owned());
        }
        let counted = count(&dense.0).map_err(corrupted)?;
        if count(&sketch.0).map_err(corrupted)? != counted {
            return Err("dense/sparse disagree".to_owned());
        }
        let error = counted.abs_diff(element);
        if error > (relative_error * 6.0 * element as f64).ceil() as u64 {
            return Err(format!("Too big error. card:{element} abserr:{error}"));
        }
        checkpoint *= 10;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_written_as_they_are_read() {
        for (value, registers, width) in [(0, 1, 1), (0, 64, 1), (0, 65, 2), (0, 16384, 2), (1, 1, 1), (32, 4, 1)] {
            let mut bytes = Vec::new();
            Run::push(&mut bytes, value, registers);
            let run = Run {
                value,
                registers,
                width,
            };
            assert_eq!((Run::first_of(&bytes), bytes.len()), (Some(run), width));
        }
    }

    #[test]
    fn both_forms_count_alike_and_well() {
        assert_eq!(test_registers().and_then(|()| test_errors()), Ok(()));
    }

    #[test]
    fn no_bytes_panic() {
        let seed = 0x51ce_5eed_u64;
        let mut state = seed;
        for _ in 0..2_000 {
            let mut bytes = Sketch::empty().0;
            bytes.truncate(HEADER_LEN);
            for _ in 0..state % 50 {
                state = hash(&state.to_le_bytes());
                bytes.push((state >> 40) as u8);
            }
            state = hash(&state.to_le_bytes());
            let mut sketch = Sketch(bytes);
            assert_eq!(check(&sketch.0), Ok(()));
            let _ = (
                count(&sketch.0),
                merge_into(&mut [0; REGISTERS], &sketch.0),
                decode_runs(&sketch.0),
            );
            let _ = (
                sketch.add(&state.to_le_bytes()),
                sketch.raise(0, 33),
                sketch.raise(1, 51),
            );
        }
    }
}
