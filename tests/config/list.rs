//! The list of settings itself.

use std::collections::HashSet;

use corelane::config::values::Shape;
use corelane::config::{ALIASES, FACTS, SETTINGS, Setting, Settings, markdown_table};

#[test]
fn every_name_is_kebab_case_and_the_field_is_the_same_in_snake_case() {
    for setting in SETTINGS {
        assert!(
            setting
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
            "{}",
            setting.name
        );
        assert_eq!(setting.name.replace('-', "_"), setting.field);
        assert_eq!(setting.negation, format!("no-{}", setting.name));
    }
}

#[test]
fn no_name_occurs_twice_among_settings_aliases_and_facts() {
    let mut seen = HashSet::from(["config", "help", "version"]); // flags that are no settings
    for name in Settings::names() {
        assert!(seen.insert(name), "{name} occurs twice");
    }
    for setting in SETTINGS {
        assert!(seen.insert(setting.negation), "{} is a setting too", setting.negation);
    }
}

#[test]
fn aliases_and_facts_are_sorted_and_aliases_name_a_setting() {
    assert!(ALIASES.is_sorted_by_key(|alias| alias.name));
    assert!(FACTS.is_sorted_by_key(|fact| fact.name));
    for alias in ALIASES {
        assert!(Setting::find(alias.of).is_some(), "{} names {}", alias.name, alias.of);
    }
}

#[test]
fn every_doc_is_one_sentence_that_fits_a_table() {
    for setting in SETTINGS {
        let (name, doc) = (setting.name, setting.doc);
        assert!(doc.ends_with('.'), "{name}: {doc}");
        assert!(doc.starts_with(|first: char| first.is_uppercase()), "{name}: {doc}");
        assert!(
            !doc.trim_end_matches('.').contains(". "),
            "{name} has several sentences: {doc}"
        );
        assert!(!doc.contains(['|', '\n']), "{name}: {doc}");
        assert!(
            !setting.allowed().contains(['|', '\n']),
            "{name}: {}",
            setting.allowed()
        );
    }
}

#[test]
fn every_default_is_allowed_and_printed_so_that_it_can_be_read_back() {
    for setting in SETTINGS {
        let mut settings = Settings::default();
        setting
            .assign(&mut settings, setting.default)
            .unwrap_or_else(|error| panic!("{}: {error}", setting.name));
        assert_eq!(settings, Settings::default(), "{}", setting.name);
        let printed = setting.print(&settings);
        setting
            .assign(&mut settings, &printed)
            .unwrap_or_else(|error| panic!("{}: {error}", setting.name));
        assert_eq!(settings, Settings::default(), "{} after {printed:?}", setting.name);
    }
}

#[test]
fn every_number_has_a_range_whose_ends_are_allowed_and_whose_neighbours_are_not() {
    for setting in SETTINGS {
        let is_number = matches!(setting.form.shape, Shape::Integer | Shape::Bytes);
        assert_eq!(setting.range.is_some(), is_number, "{}", setting.name);
        let Some(range) = &setting.range else { continue };
        assert!(
            !setting.unit.is_empty() || setting.name == "port",
            "{} has no unit",
            setting.name
        );
        let mut settings = Settings::default();
        for end in [*range.start(), *range.end()] {
            setting
                .assign(&mut settings, &end.to_string())
                .unwrap_or_else(|error| panic!("{}: {error}", setting.name));
            assert_eq!(setting.print(&settings), end.to_string(), "{}", setting.name);
        }
        let expected = format!(
            "argument must be between {} and {} inclusive",
            range.start(),
            range.end()
        );
        let error = setting
            .assign(&mut settings, &(range.end() + 1).to_string())
            .unwrap_err();
        assert_eq!(error.to_string(), expected, "{}", setting.name);
        if let Some(below) = range.start().checked_sub(1) {
            let error = setting.assign(&mut settings, &below.to_string()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{}", setting.name);
        }
    }
}

#[test]
fn the_defaults_are_those_that_the_design_names() {
    let settings = Settings::default();
    for (name, value) in [
        ("bind", "127.0.0.1 -::1"),
        ("port", "6379"),
        ("data-dir", "corelane-data"),
        ("shards", "auto"),
        ("durability", "interval"),
        ("sync-interval-ms", "1000"),
        ("maxclients", "10000"),
        ("protected-mode", "yes"),
        (
            "client-output-buffer-limit",
            "normal 1073741824 268435456 60 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        ),
        ("client-query-buffer-limit", "1073741824"),
        ("proto-max-bulk-len", "536870912"),
        ("request-timeout-ms", "10000"),
        ("batch-size", "512"),
        ("request-credits", "16384"),
        ("log-size-max", "auto"),
        ("coop-taskrun", "yes"),
        ("spin-before-park-us", "auto"),
    ] {
        assert_eq!(settings.get(name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn the_markdown_table_has_one_row_with_six_cells_per_setting() {
    let table = markdown_table();
    assert_eq!(table.lines().count(), SETTINGS.len() + 2);
    for line in table.lines() {
        assert_eq!(line.matches('|').count(), 7, "{line}");
    }
    let row = "| `port` | `6379` | a whole number from 0 to 65535 |  | yes | The TCP port for clients; 0 lets the kernel choose a free one. |";
    assert!(table.lines().any(|line| line == row), "{table}");
    let row = "| `client-query-buffer-limit` | `1gb` | a size from 1mb to 4080mb | bytes | yes | ";
    assert!(table.lines().any(|line| line.starts_with(row)), "{table}");
}
