//! Steps through the keys of a range by what lies between them on disk, without reading that: where deleted cells lie
//! side by side, RocksDB's iterators tell no key before they have passed all of them.

/// A key's first bytes, by which the end of a step is looked for at first.
const SHARED_LEN_MAX: usize = 256;

/// How often the place of a step's end is halved, by which the first bytes are found that a hundred keys have in
/// common. Each time costs about a microsecond.
const HALVINGS_MAX: usize = 1024;

/// A key behind `from`, up to `to`, so that at most about `bytes` are stored between them. `bytes_before` tells how
/// many lie from `from` to before a key, as well as the disk can tell.
pub(super) fn end_of_step(from: &[u8], to: &[u8], bytes: u64, mut bytes_before: impl FnMut(&[u8]) -> u64) -> Vec<u8> {
    assert!(from < to, "a step goes ahead");
    if bytes_before(to) <= bytes {
        return to.to_vec();
    }
    let (mut low, mut high) = (from.to_vec(), to.to_vec());
    // Keys that share less and less with the first one: what they have in common need not be found bit by bit.
    for shared in (1..=from.len().min(SHARED_LEN_MAX)).rev() {
        let Some(end) = behind_all_with(&from[..shared]).filter(|end| end[..] < *to) else {
            break;
        };
        match bytes_before(&end) {
            found if found > bytes => {
                high = end;
                break;
            }
            found if found > bytes / 4 => return end,
            _ => low = end,
        }
    }
    for _ in 0..HALVINGS_MAX {
        let Some(middle) = between(&low, &high) else { break };
        match bytes_before(&middle) {
            found if found > bytes => high = middle,
            found if found > bytes / 4 => return middle,
            _ => low = middle,
        }
    }
    high
}

/// The first key that does not begin with `prefix` and is greater; `None` if there is none.
fn behind_all_with(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A key between two others, in the middle as numbers; `None` if there is none, or only with many more bytes.
fn between(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(one, other)| one == other).count();
    let number = |key: &[u8]| {
        let bytes: [u8; 8] = std::array::from_fn(|at| key.get(common + at).copied().unwrap_or(0));
        u64::from_be_bytes(bytes)
    };
    let (first, last) = (number(low), number(high));
    let middle = first + (last - first) / 2;
    let mut key = [&low[..common], &middle.to_be_bytes()].concat();
    while key.len() > common && key.last() == Some(&0) {
        key.pop();
    }
    (*key > *low && *key < *high).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use std::collections::BTreeSet;

    #[test]
    fn steps_go_through_a_range_each_about_as_large_as_was_asked_for() {
        let mut random = seeded_random::printed();
        for shape in 0..4 {
            let keys: BTreeSet<Vec<u8>> = (0..20_000_u32)
                .map(|number| match shape {
                    0 => format!("\0\0\0key:{number:012}").into_bytes(),
                    1 => random.random::<u128>().to_be_bytes()[..9].to_vec(),
                    2 => [&[0; 3][..], &number.to_be_bytes(), &[0; 30]].concat(),
                    _ => format!("{}{number}", "a long beginning that all keys have ".repeat(2)).into_bytes(),
                })
                .collect();
            // Blocks of a hundred, of which the disk tells only where they begin.
            let blocks: Vec<&Vec<u8>> = keys.iter().step_by(100).collect();
            let (mut from, to) = (vec![0], vec![0xff; 20]);
            let (mut steps, mut largest, mut asked) = (0, 0, 0);
            while from < to {
                let position = |key: &[u8]| blocks.partition_point(|block| ***block < *key) as u64;
                let begin = position(&from);
                let end = end_of_step(&from, &to, 1000, |key| {
                    asked += 1;
                    (position(key) - begin) * 100
                });
                assert!(end > from && end <= to);
                largest = largest.max(keys.range(from..end.clone()).count());
                from = end;
                steps += 1;
            }
            assert!(
                largest <= 1300 && steps <= 80,
                "{shape}: {steps} steps, {largest} in one"
            );
            assert!(asked < 150 * steps, "{shape}: {asked} questions for {steps} steps");
        }
    }
}
