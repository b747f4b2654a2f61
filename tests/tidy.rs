//! What keeps the tree true to its own rules: README against the tables it describes, names that belong in one file.

mod layers;
mod measures;

use corelane::config;
use corelane::rows::COMMANDS;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("the README")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a folder of sources")
        .map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| sources(folder));
    files
        .into_iter()
        .chain(below)
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

/// The commands as README lists them: one line per family, subcommands as `CLIENT ID`.
fn command_list() -> String {
    let families = [
        ("string", "Strings"),
        ("hash", "Hashes"),
        ("list", "Lists"),
        ("set", "Sets"),
        ("sorted-set", "Sorted sets"),
        ("stream", "Streams"),
        ("bitmap", "Bitmaps"),
        ("hyperloglog", "HyperLogLogs"),
        ("geo", "Geospatial indices"),
        ("generic", "Keys"),
        ("transactions", "Transactions"),
        ("pubsub", "Channels"),
        ("connection", "Connection"),
        ("server", "Server"),
        ("scripting", "Scripts"),
    ];
    let mut list = String::new();
    for (group, title) in families {
        let rows = COMMANDS.iter().filter(|row| row.group == group);
        let names: Vec<String> = rows.map(|row| row.name.to_uppercase().replace('|', " ")).collect();
        if names.is_empty() {
            continue;
        }
        list.push_str(&format!("- **{title}**: {}\n", names.join(", ")));
    }
    list
}

#[test]
fn the_readme_has_the_settings_as_the_list_has_them() {
    assert!(
        readme().contains(&config::markdown_table()),
        "put this into README:\n{}",
        config::markdown_table()
    );
}

#[test]
fn the_readme_lists_every_command_of_the_table() {
    assert!(
        readme().contains(&command_list()),
        "put this into README:\n{}",
        command_list()
    );
    let listed: usize = command_list().matches(", ").count() + command_list().lines().count();
    assert_eq!(listed, COMMANDS.len(), "every row belongs to a family that is listed");
}

#[test]
fn only_the_database_file_names_rocksdb_s_crate() {
    let offenders: Vec<_> = sources(&root().join("src"))
        .into_iter()
        .filter(|path| !path.ends_with("storage/database.rs"))
        .filter(|path| fs::read_to_string(path).expect("a source file").contains("rocksdb::"))
        .collect();
    assert!(offenders.is_empty(), "{offenders:?}");
}

#[test]
fn a_handler_is_named_by_its_row_and_its_definition_only() {
    let all: String = sources(&root().join("src"))
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source"))
        .collect();
    for handler in ["getrange", "incrbyfloat", "pexpiretime", "randomkey"] {
        let named = all.matches(&format!("::{handler})")).count() + all.matches(&format!("::{handler},")).count();
        let defined = all.matches(&format!("fn {handler}(")).count();
        // SUBSTR is GETRANGE's second row.
        assert_eq!(
            (named, defined),
            (if handler == "getrange" { 2 } else { 1 }, 1),
            "{handler}"
        );
    }
}

/// The files of tests in which something sleeps, with the number of times: helpers that look at a condition again and
/// again until a deadline. The list may only shrink: a test waits for what it needs, with those helpers.
const SLEEPS: [(&str, usize); 2] = [("tests/harness/process.rs", 2), ("tests/harness/transcript.rs", 1)];

#[test]
fn tests_wait_for_conditions_and_do_not_sleep() {
    let is_sleep = |line: &&str| {
        let calls = ["thread::sleep", "timer::sleep", "time.sleep", "park_timeout"];
        calls.iter().any(|call| line.contains(&format!("{call}(")))
    };
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        for path in sources(&root().join(folder)) {
            let text = fs::read_to_string(&path).expect("a source file");
            // Of the sources, the modules of tests at their ends.
            let tests = match folder {
                "src" => text.split_once("#[cfg(test)]\n").map_or("", |(_, tests)| tests),
                _ => &text,
            };
            let count = tests.lines().filter(is_sleep).count();
            if count > 0 {
                let path = path.strip_prefix(root()).expect("it lies below");
                found.push((path.to_string_lossy().into_owned(), count));
            }
        }
    }
    found.sort();
    let allowed: Vec<_> = SLEEPS.map(|(path, count)| (path.to_owned(), count)).into();
    assert_eq!(found, allowed);
}

#[test]
fn unsafe_code_is_only_in_files_that_say_why() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("a source file");
        if text.contains("unsafe {") || text.contains("unsafe fn") {
            assert!(
                text.contains("#![allow(unsafe_code)]"),
                "{} uses unsafe without saying why",
                path.display()
            );
        }
    }
}

#[test]
fn readme_names_files_that_exist_and_ten_at_most_on_a_gets_way() {
    let readme = readme();
    let path = regex::Regex::new(r"`((?:src|tests|benches|tuning)/[\w/.-]*)`").expect("a pattern");
    for found in path.captures_iter(&readme) {
        let path = &found[1];
        assert!(root().join(path).exists(), "README names {path}, which does not exist");
    }
    let (_, development) = readme.split_once("\n## Development\n").expect("the section");
    let files = development.lines().filter(|line| line.starts_with("| `src/")).count();
    assert!((1..=10).contains(&files), "a GET's way has {files} files");
}

#[test]
fn the_top_level_has_what_it_should_and_nothing_else() {
    let output = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output();
    let Ok(output) = output else {
        println!("skipped: git is not installed");
        return;
    };
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "src",
        "benches",
        "tests",
        "tuning",
    ];
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        let top = path.split('/').next().unwrap_or(path);
        assert!(
            top.starts_with('.') || allowed.contains(&top),
            "{path} is not where things go"
        );
    }
}
