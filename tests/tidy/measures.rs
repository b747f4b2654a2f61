//! How long a function and a line may be. What is longer is named in a list that may only shrink.

use super::{root, sources};
use std::collections::BTreeSet;
use std::fs;

/// Lines of a function, its signature and its last brace among them: what a screen shows.
const FUNCTION_LINES_MAX: usize = 80;

/// Characters of a line.
const LINE_LEN_MAX: usize = 120;

/// Functions that are longer, as `file function`.
const LONG_FUNCTIONS: &[&str] = &[
    "tests/commands/dump_restore.rs values",
    "tests/config/live.rs errors_are_redis_error_lines_and_change_nothing",
    "tests/differential/generator.rs placeholder",
    "tests/isolation/known_histories.rs answers_are_fitted_into_an_order_or_refused",
    "tests/network/large_replies.rs ranges_of_sorted_sets_and_streams_that_come_in_pieces_are_complete_and_in_order",
    "tests/network/second_executor.rs stalled_shards_of_the_second_executor_keep_their_own_writers_waiting_only",
    "tests/simulation.rs step",
];

/// Files with lines that are longer: tables, and texts that are given in one piece.
const FILES_WITH_LONG_LINES: &[&str] = &[
    "benches/collections.rs",
    "src/rows.rs",
    "src/storage/encoding.rs",
    "tests/config/list.rs",
    "tests/config/rewrite.rs",
    "tests/differential/rows.rs",
    "tests/isolation/known_histories.rs",
    "tests/network/order.rs",
    "tests/network/real_clients.rs",
    "tests/scripts/mod.rs",
    "tests/scripts/undeclared.rs",
];

/// Calls `visit` with every source file's name below the top level and its lines.
fn visit_sources(mut visit: impl FnMut(&str, &[&str])) {
    for top in ["src", "tests", "benches"] {
        for path in sources(&root().join(top)) {
            let text = fs::read_to_string(&path).expect("a source file");
            let name = path
                .strip_prefix(root())
                .expect("a file of the tree")
                .display()
                .to_string();
            visit(&name, &text.lines().collect::<Vec<_>>());
        }
    }
}

/// The name of the function that begins in a line, and how far it is indented.
fn function(line: &str) -> Option<(&str, usize)> {
    let text = line.trim_start();
    let mut words = text.split(' ');
    let qualifiers = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
        "\"C\"",
        "\"C-unwind\"",
    ];
    let name = words
        .by_ref()
        .find(|word| !qualifiers.contains(word))
        .filter(|word| *word == "fn");
    let name = name.and_then(|_| words.next())?;
    let end = name.find(['(', '<']).unwrap_or(name.len());
    Some((&name[..end], line.len() - text.len()))
}

/// The functions that are longer than they may be.
fn long_functions(lines: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (begin, line) in lines.iter().enumerate() {
        let Some((name, indent)) = function(line).filter(|_| !line.ends_with(['}', ';'])) else {
            continue;
        };
        // As rustfmt writes it: the brace that ends a function stands below its first letter.
        let is_end = |line: &&str| line.trim_start() == "}" && line.len() == indent + 1;
        let len = lines[begin..].iter().position(is_end).map_or(0, |end| end + 1);
        if len > FUNCTION_LINES_MAX {
            found.push(format!("{name} has {len} lines"));
        }
    }
    found
}

#[test]
fn functions_are_found_and_measured() {
    let long = format!(
        "impl Thing {{\n    pub(super) const fn long<T>(\n{}    }}\n}}",
        "        x;\n".repeat(79)
    );
    assert_eq!(long_functions(&long.lines().collect::<Vec<_>>()), ["long has 81 lines"]);
    let short = long.replacen("        x;\n", "", 1);
    assert_eq!(long_functions(&short.lines().collect::<Vec<_>>()), [""; 0]);
}

#[test]
fn a_function_fits_a_screen() {
    let mut found = BTreeSet::new();
    let mut new = Vec::new();
    visit_sources(|file, lines| {
        for long in long_functions(lines) {
            let named = format!("{file} {}", long.split(' ').next().unwrap_or_default());
            if !LONG_FUNCTIONS.contains(&named.as_str()) {
                new.push(format!("{file}: {long}"));
            }
            found.insert(named);
        }
    });
    assert!(new.is_empty(), "longer than {FUNCTION_LINES_MAX} lines: {new:#?}");
    let short: Vec<_> = LONG_FUNCTIONS.iter().filter(|named| !found.contains(**named)).collect();
    assert!(
        short.is_empty(),
        "these are short enough now; take them off the list: {short:#?}"
    );
}

#[test]
fn a_line_fits_its_width() {
    let mut found = BTreeSet::new();
    let mut new = Vec::new();
    visit_sources(|file, lines| {
        for (number, line) in lines.iter().enumerate() {
            if line.chars().count() > LINE_LEN_MAX {
                found.insert(file.to_owned());
                if !FILES_WITH_LONG_LINES.contains(&file) {
                    new.push(format!("{file}:{}: {line}", number + 1));
                }
            }
        }
    });
    assert!(new.is_empty(), "longer than {LINE_LEN_MAX} characters: {new:#?}");
    let narrow: Vec<_> = FILES_WITH_LONG_LINES
        .iter()
        .filter(|file| !found.contains(**file))
        .collect();
    assert!(
        narrow.is_empty(),
        "these have no long line any more; take them off the list: {narrow:#?}"
    );
}
