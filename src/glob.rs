//! Glob patterns as in KEYS, SCAN MATCH and PSUBSCRIBE.
//!
//! Source: what Redis 7.2's `stringmatchlen` accepts, oddities included. Where Redis gives up after 1,000 stars with
//! "no match", we go on: the search below needs no nesting.

/// Whether `pattern` matches the whole of `text`: `*` any bytes, `?` one byte, `[abc]` `[a-z]` `[^a]` one byte of a
/// class, `\` takes the next byte literally. Letters are ASCII where `ignore_case` is set.
///
/// Redis's oddities, kept: the empty text matches only the empty pattern, not even `*` (KEYS and SCAN ask for all keys
/// without a pattern then); a class that is not closed ends with the pattern; reversed ranges are turned round; the
/// ends of a range compare as signed bytes; a class's escaped bytes never ignore case.
///
/// Time: at most the product of both lengths. Every element but `*` takes exactly one byte, so when the rest after a
/// star matches nowhere, a longer match of an earlier star cannot help: only the last star need be tried again.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let mut at_pattern = 0;
    let mut at_text = 0;
    // After the last star: where the pattern goes on, and which byte of the text it was last tried at.
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        if pattern.get(at_pattern) == Some(&b'*') {
            at_pattern += stars(&pattern[at_pattern..]);
            if at_pattern == pattern.len() {
                return true;
            }
            star = Some((at_pattern, at_text));
        }
        match match_element(&pattern[at_pattern..], text[at_text], ignore_case) {
            Some(element_bytes) => {
                at_pattern += element_bytes;
                at_text += 1;
            }
            None => {
                let Some((after_star, tried_at)) = star else {
                    return false;
                };
                at_pattern = after_star;
                at_text = tried_at + 1;
                star = Some((after_star, at_text));
            }
        }
    }
    at_pattern += stars(&pattern[at_pattern..]);
    at_pattern == pattern.len()
}

/// How many stars `pattern` begins with.
fn stars(pattern: &[u8]) -> usize {
    pattern.iter().take_while(|byte| **byte == b'*').count()
}

/// Matches one byte of the text against the element that `pattern` begins with, which is no star: the element's bytes,
/// or `None` when it does not match or there is none.
fn match_element(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<usize> {
    let (matched, element_bytes) = match pattern {
        [] => (false, 0),
        [b'?', ..] => (true, 1),
        [b'[', class @ ..] => {
            let (matched, class_bytes) = match_class(class, byte, ignore_case);
            (matched, 1 + class_bytes)
        }
        [b'\\', literal, ..] => (same(*literal, byte, ignore_case), 2),
        [literal, ..] => (same(*literal, byte, ignore_case), 1),
    };
    matched.then_some(element_bytes)
}

/// Whether the class whose inside `class` begins with takes `byte`, and the class's bytes with its closing bracket.
fn match_class(class: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut rest = &class[usize::from(negated)..];
    let mut matched = false;
    loop {
        rest = match rest {
            [] => break,
            [b'\\', literal, after @ ..] => {
                matched |= *literal == byte;
                after
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [first, b'-', last, after @ ..] => {
                matched |= in_range(*first, *last, byte, ignore_case);
                after
            }
            [literal, after @ ..] => {
                matched |= same(*literal, byte, ignore_case);
                after
            }
        };
    }
    (matched != negated, class.len() - rest.len())
}

fn in_range(first: u8, last: u8, byte: u8, ignore_case: bool) -> bool {
    let (first, last) = (first as i8, last as i8);
    // Turned round before the case is dropped, as in Redis: [Z-a] with `ignore_case` is [z-a] and takes nothing.
    let (first, last) = (first.min(last) as u8, first.max(last) as u8);
    let fold = |byte: u8| {
        if ignore_case {
            byte.to_ascii_lowercase() as i8
        } else {
            byte as i8
        }
    };
    (fold(first)..=fold(last)).contains(&fold(byte))
}

fn same(literal: u8, byte: u8, ignore_case: bool) -> bool {
    literal == byte || (ignore_case && literal.eq_ignore_ascii_case(&byte))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        // (pattern, text, match): KEYS of a real redis-server agreed with each.
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"*", b"anything", true),
            (b"a*", b"a", true),
            (b"a***", b"a", true),
            (b"*a*", b"banana", true),
            (b"*ana", b"banana", true),
            (b"*anb*", b"banana", false),
            (b"b*n?n*a", b"banana", true),
            (b"?", b"a", true),
            (b"?", b"ab", false),
            (b"a?", b"a", false),
            (b"h[ae]llo", b"hello", true),
            (b"h[ae]llo", b"hillo", false),
            (b"h[^e]llo", b"hallo", true),
            (b"h[^e]llo", b"hello", false),
            (b"h[a-c]llo", b"hbllo", true),
            (b"h[c-a]llo", b"hbllo", true),
            (b"[a-]", b"-", false),
            (b"[a-]z", b"]", true),
            (b"[]", b"]", false),
            (b"[]a]", b"a]", false),
            (b"[^]", b"a", true),
            (b"[^", b"a", true),
            (b"[", b"[", false),
            (b"[abc", b"b", true),
            (b"[abc", b"bc", false),
            (b"[a\\]b]", b"]", true),
            (b"[\\^a]", b"^", true),
            (b"[a^]", b"^", true),
            (b"[abc\\", b"\\", true),
            (b"\\*", b"*", true),
            (b"\\*", b"a", false),
            (b"a\\", b"a\\", true),
            (b"\\\\", b"\\", true),
            // Bytes from 0x80 on are negative: a range up to 0xff is turned round.
            (b"[a-\xff]", b"b", false),
            (b"[a-\xff]", b"A", true),
            (b"[\x80-\xff]", b"\x90", true),
            (b"A", b"a", false),
            (b"a*b*c", b"aXbYcZc", true),
            (b"a*b*c", b"aXcYb", false),
        ];
        for (pattern, text, expected) in cases {
            let case = format!("{} {}", pattern.escape_ascii(), text.escape_ascii());
            assert_eq!(matches(pattern, text, false), *expected, "{case}");
        }
    }

    #[test]
    fn the_empty_text_matches_only_the_empty_pattern() {
        assert!(matches(b"", b"", false));
        assert!(!matches(b"*", b"", false));
        assert!(!matches(b"", b"a", false));
    }

    #[test]
    fn case_is_ignored_where_redis_ignores_it() {
        assert!(matches(b"MaxMemory*", b"maxmemory-policy", true));
        assert!(matches(b"[A-C]x", b"bX", true));
        assert!(matches(b"[ABC]", b"b", true));
        assert!(matches(b"\\A", b"a", true));
        assert!(
            !matches(b"[\\A]", b"a", true),
            "an escaped byte of a class is taken as it is"
        );
        assert!(!matches(b"[Z-a]", b"m", true), "turned round first, [z-a] then");
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(2000);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &[b'a'; 20_000], false));
        assert!(matches(&pattern, &[b'a'; 20_000], false));
    }
}
