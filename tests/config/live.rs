//! CONFIG GET and CONFIG SET. The error lines are those of redis-server 7 for the same commands.

use corelane::config::{ConfigSetError, Durability, LogLevel, SETTINGS, Settings};

/// CONFIG SET with names and values in turn.
fn set(settings: &mut Settings, words: &[&str]) -> Result<Vec<&'static str>, ConfigSetError> {
    let pairs: Vec<(&[u8], &[u8])> = words
        .chunks_exact(2)
        .map(|p| (p[0].as_bytes(), p[1].as_bytes()))
        .collect();
    settings.set_live(&pairs)
}

#[test]
fn errors_are_redis_error_lines_and_change_nothing() {
    let failed =
        |name: &str, reason: &str| format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}");
    let unknown = |name: &str| format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
    let immutable = "can't set immutable config";
    for (words, expected) in [
        (vec!["foo", "1"], unknown("foo")),
        (vec!["timeout", "3", "foo", "1"], unknown("foo")),
        (vec!["x\r\ny", "1"], unknown("x  y")),
        (vec!["tcp-backlog", "511"], failed("tcp-backlog", immutable)),
        (vec!["TCP-Backlog", "511"], failed("TCP-Backlog", immutable)),
        (vec!["dir", "/tmp"], failed("dir", immutable)),
        (vec!["databases", "17"], failed("databases", immutable)),
        (vec!["appendonly", "no"], failed("appendonly", immutable)),
        (vec!["save", "60 1"], failed("save", immutable)),
        (
            vec!["timeout", "-1"],
            failed("timeout", "argument must be between 0 and 2147483647 inclusive"),
        ),
        (
            vec!["timeout", "abc"],
            failed("timeout", "argument couldn't be parsed into an integer"),
        ),
        (
            vec!["maxclients", "0"],
            failed("maxclients", "argument must be between 1 and 1000000 inclusive"),
        ),
        (
            vec!["protected-mode", "maybe"],
            failed("protected-mode", "argument must be 'yes' or 'no'"),
        ),
        (
            vec!["protected-mode", "true"],
            failed("protected-mode", "argument must be 'yes' or 'no'"),
        ),
        (
            vec!["appendfsync", "x"],
            failed(
                "appendfsync",
                "argument(s) must be one of the following: everysec, always, no",
            ),
        ),
        (
            vec!["durability", "everysec"],
            failed(
                "durability",
                "argument(s) must be one of the following: always, interval, none",
            ),
        ),
        (
            vec!["loglevel", "loud"],
            failed(
                "loglevel",
                "argument(s) must be one of the following: debug, verbose, notice, warning",
            ),
        ),
        (
            vec!["timeout", "1", "TIMEOUT", "2"],
            failed("TIMEOUT", "duplicate parameter"),
        ),
        (
            vec!["durability", "none", "appendfsync", "no"],
            failed("appendfsync", "duplicate parameter"),
        ),
        (
            vec!["client-query-buffer-limit", "1xb"],
            failed("client-query-buffer-limit", "argument must be a memory value"),
        ),
        (
            vec!["proto-max-bulk-len", "1kb"],
            failed(
                "proto-max-bulk-len",
                "argument must be between 1048576 and 536870912 inclusive",
            ),
        ),
        (
            vec!["client-output-buffer-limit", "foo 1 2 3"],
            failed(
                "client-output-buffer-limit",
                "Invalid client class specified in buffer limit configuration.",
            ),
        ),
    ] {
        let mut settings = Settings::default();
        let error = set(&mut settings, &words).expect_err(words[0]);
        assert_eq!(error.to_string(), expected);
        assert_eq!(settings, Settings::default(), "{words:?}");
    }
}

#[test]
fn all_pairs_are_set_or_none() {
    let mut settings = Settings::default();
    assert!(
        set(
            &mut settings,
            &["timeout", "7", "maxclients", "12", "durability", "never"]
        )
        .is_err()
    );
    assert_eq!(settings, Settings::default());

    let changed = set(
        &mut settings,
        &["TIMEOUT", "7", "maxclients", "10000", "appendfsync", "Always"],
    );
    assert_eq!(
        changed,
        Ok(vec!["timeout", "durability"]),
        "maxclients had this value before"
    );
    assert_eq!((settings.timeout, settings.durability), (7, Durability::Always));
}

#[test]
fn a_fact_may_be_set_to_what_it_is() {
    let mut settings = Settings::default();
    let facts = [
        "appendonly",
        "yes",
        "save",
        "",
        "maxmemory",
        "0",
        "databases",
        "16",
        "cluster-enabled",
        "NO",
    ];
    assert_eq!(set(&mut settings, &facts), Ok(vec![]));
}

#[test]
fn redis_names_and_words_work_in_both_directions() {
    let mut settings = Settings::default();
    assert_eq!(settings.get("appendfsync").as_deref(), Some("everysec"));
    for (word, durability) in [("always", "always"), ("no", "none"), ("everysec", "interval")] {
        set(&mut settings, &["appendfsync", word]).unwrap();
        assert_eq!(settings.get("durability").as_deref(), Some(durability));
        assert_eq!(settings.get("appendfsync").as_deref(), Some(word));
    }
    for word in ["debug", "verbose", "notice", "warning"] {
        set(&mut settings, &["loglevel", word]).unwrap();
        assert_eq!(settings.get("loglevel").as_deref(), Some(word));
    }
    set(&mut settings, &["log-level", "error"]).unwrap();
    assert_eq!(
        (settings.log_level, settings.get("loglevel").as_deref()),
        (LogLevel::Error, Some("warning"))
    );
    assert_eq!(settings.get("DIR"), settings.get("data-dir"));
}

#[test]
fn every_name_has_an_answer_and_patterns_find_it() {
    let settings = Settings::default();
    assert_eq!(settings.matching(|_| true).len(), Settings::names().count());
    assert!(Settings::names().count() > SETTINGS.len());
    assert_eq!(
        settings.matching(|name| name.starts_with("append")),
        [("appendfsync", "everysec".to_owned()), ("appendonly", "yes".to_owned())]
    );
    assert_eq!(settings.get("no-such-setting"), None);
}

#[test]
fn names_and_values_may_be_any_bytes() {
    let mut settings = Settings::default();
    let error = settings.set_live(&[(b"\xff\xfe", b"1")]).unwrap_err();
    assert!(matches!(error, ConfigSetError::Unknown(_)), "{error}");
    let error = settings.set_live(&[(b"requirepass", b"\xff")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ERR CONFIG SET failed (possibly related to argument 'requirepass') - argument must be valid UTF-8"
    );
    let long = vec![b'x'; 1 << 20];
    assert!(settings.set_live(&[(&long, b"1")]).unwrap_err().to_string().len() < 256);
    assert_eq!(settings, Settings::default());
}
