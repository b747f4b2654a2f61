//! The types of the values.

use corelane::config::{
    AutoOr, ByteSize, CoreList, Durability, LogLevel, OutputBufferLimit, Setting, Settings, ValueError,
};

/// Sets one setting on top of the defaults.
fn assigned(name: &str, text: &str) -> Result<Settings, ValueError> {
    let mut settings = Settings::default();
    Setting::find(name).expect("a setting").assign(&mut settings, text)?;
    Ok(settings)
}

#[test]
fn sizes_have_the_suffixes_of_redis() {
    for (text, bytes) in [
        ("0", 0),
        ("17", 17),
        ("17b", 17),
        ("1k", 1000),
        ("1kb", 1024),
        ("2M", 2_000_000),
        ("2Mb", 2 << 20),
        ("3g", 3_000_000_000),
        ("3GB", 3 << 30),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in [
        "",
        "kb",
        "-1",
        "+1",
        "1 mb",
        " 1",
        "1xb",
        "1tb",
        "1.5gb",
        "18446744073709551616",
        "99999999999999gb",
    ] {
        assert_eq!(text.parse::<ByteSize>(), Err(ValueError::NotMemory), "{text}");
    }
}

#[test]
fn sizes_are_written_with_the_largest_exact_suffix() {
    for (bytes, text) in [
        (0, "0"),
        (1023, "1023"),
        (1024, "1kb"),
        (1 << 20, "1mb"),
        (3 << 30, "3gb"),
        (1025, "1025"),
    ] {
        assert_eq!(ByteSize(bytes).to_string(), text);
    }
}

#[test]
fn whole_numbers_are_read_as_redis_reads_them() {
    for text in [
        "",
        "abc",
        " 5",
        "5 ",
        "+5",
        "05",
        "-0",
        "1.0",
        "0x10",
        "99999999999999999999",
    ] {
        assert_eq!(assigned("timeout", text), Err(ValueError::NotAnInteger), "{text:?}");
    }
    for text in ["-1", "2147483648", "99999999999999"] {
        assert_eq!(
            assigned("timeout", text),
            Err(ValueError::OutOfRange {
                min: 0,
                max: 2_147_483_647
            }),
            "{text:?}"
        );
    }
    assert_eq!(assigned("timeout", "2147483647").unwrap().timeout, 2_147_483_647);
}

#[test]
fn auto_is_a_word_of_its_own() {
    assert_eq!(assigned("shards", "AUTO").unwrap().shards, AutoOr::Auto);
    assert_eq!(assigned("shards", "3").unwrap().shards, AutoOr::Is(3));
    assert_eq!(
        assigned("shards", "0"),
        Err(ValueError::OutOfRange { min: 1, max: 1024 })
    );
    assert_eq!(assigned("shards", "automatic"), Err(ValueError::NotAnInteger));
    assert_eq!(AutoOr::Auto.unwrap_or_else(|| 7), 7);
    assert_eq!(AutoOr::Is(3).unwrap_or_else(|| 7), 3);
    assert_eq!(
        assigned("memory-size", "64mb").unwrap().memory_size,
        AutoOr::Is(ByteSize(64 << 20))
    );
}

#[test]
fn words_ignore_case_and_log_levels_know_those_of_redis() {
    assert_eq!("ALWAYS".parse(), Ok(Durability::Always));
    for (text, level) in [
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warn),
        ("Notice", LogLevel::Info),
        ("verbose", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ] {
        assert_eq!(text.parse(), Ok(level), "{text}");
    }
    assert!(LogLevel::Error < LogLevel::Trace);
    let error = "loud".parse::<LogLevel>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "argument(s) must be one of the following: error, warn, info, debug, trace"
    );
}

#[test]
fn core_lists_are_the_kernels() {
    for (text, cores, printed) in [
        ("0", vec![0], "0"),
        ("0-1", vec![0, 1], "0-1"),
        ("4,0-2", vec![0, 1, 2, 4], "0-2,4"),
        ("3, 2 ,1,1", vec![1, 2, 3], "1-3"),
        ("0,2,4", vec![0, 2, 4], "0,2,4"),
        ("8191", vec![8191], "8191"),
    ] {
        let list: CoreList = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(list.cores(), cores, "{text}");
        assert_eq!(list.to_string(), printed, "{text}");
    }
    for text in [
        "",
        ",",
        "0,",
        "-1",
        "1-",
        "3-1",
        "a",
        "0-1-2",
        "+1",
        "8192",
        "0-99999999999999999999",
        "0 1",
    ] {
        assert!(text.parse::<CoreList>().is_err(), "{text:?}");
    }
}

#[test]
fn bind_takes_addresses_names_and_stars_but_no_mistyped_address() {
    for text in [
        "127.0.0.1",
        "127.0.0.1 -::1",
        "* -::*",
        "0.0.0.0",
        "localhost",
        "-db-1.example.org",
    ] {
        assert!(assigned("bind", text).is_ok(), "{text}");
    }
    for text in [
        "",
        " ",
        "-",
        "127.0.0.256",
        "127.0.0.1,::1",
        "::1::",
        "10.0.0",
        "a..b",
        "--::1",
    ] {
        assert!(assigned("bind", text).is_err(), "{text}");
    }
    assert_eq!(
        assigned("bind", " ::1   -10.0.0.1 ").unwrap().bind,
        ["::1", "-10.0.0.1"]
    );
}

#[test]
fn output_buffer_limits_change_only_the_classes_that_are_named() {
    let settings = assigned("client-output-buffer-limit", "replica 100mb 1mb 10 NORMAL 2kb 1k 3").unwrap();
    assert_eq!(
        settings.get("client-output-buffer-limit").unwrap(),
        "normal 2048 1000 3 slave 104857600 1048576 10 pubsub 33554432 8388608 60"
    );
    let pubsub = OutputBufferLimit {
        hard_bytes: 32 << 20,
        soft_bytes: 8 << 20,
        soft_seconds: 60,
    };
    assert_eq!(settings.client_output_buffer_limit.pubsub, pubsub);
    for (text, error) in [
        ("foo 1 2 3", ValueError::UnknownClientClass),
        ("master 1 2 3", ValueError::UnknownClientClass),
        ("normal 1 2", ValueError::WrongNumberOfLimits),
        ("normal a 2 3", ValueError::BadLimit),
        ("normal 1 2 -1", ValueError::BadLimit),
        ("normal -1 2 1", ValueError::BadLimit),
        ("pubsub 1 2 3 normal 1 x 3", ValueError::BadLimit),
    ] {
        assert_eq!(assigned("client-output-buffer-limit", text), Err(error), "{text}");
    }
}

#[test]
fn a_password_is_compared_whole_and_never_shown() {
    let settings = assigned("requirepass", "correct horse").unwrap();
    assert!(settings.requirepass.matches(b"correct horse"));
    for wrong in ["", "correct", "correct horse ", "correct horse\0", "incorrect"] {
        assert!(!settings.requirepass.matches(wrong.as_bytes()), "{wrong:?}");
    }
    assert!(!settings.requirepass.matches(&[b'x'; 4096]));
    assert!(!format!("{settings:?}").contains("horse"));
    assert_eq!(settings.get("requirepass").as_deref(), Some("correct horse"));

    let longest = "x".repeat(512);
    assert!(
        assigned("requirepass", &longest)
            .unwrap()
            .requirepass
            .matches(longest.as_bytes())
    );
    let mut longer = longest.clone().into_bytes();
    longer.push(b'x');
    assert!(!assigned("requirepass", &longest).unwrap().requirepass.matches(&longer));
    assert!(assigned("requirepass", &"x".repeat(513)).is_err());
}

#[test]
fn event_classes_are_printed_as_redis_prints_them() {
    let printed = |text: &str| {
        let settings = assigned("notify-keyspace-events", text).unwrap_or_else(|error| panic!("{text}: {error}"));
        settings.get("notify-keyspace-events").expect("it is a setting")
    };
    // What a redis-server 7.0.15 answers.
    for (text, expected) in [
        ("", ""),
        ("AKE", "AKE"),
        ("A", "A"),
        ("g$lshzxetdKE", "AKE"),
        ("KxEg", "gxKE"),
        ("KEn", "nKE"),
        ("mKEnx", "xnKEm"),
        ("Knm", "nKm"),
        ("AKEm", "AKEm"),
        ("EEE", "E"),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
    // Redis prints no n beside A, and forgets it in CONFIG REWRITE.
    assert_eq!(printed("AKEnm"), "AKEmn");
    assert_eq!(printed("AKEmn"), "AKEmn");
    for text in ["q", "KEa", "A E", "\u{e9}"] {
        let error = assigned("notify-keyspace-events", text).expect_err(text);
        assert_eq!(
            error.to_string(),
            "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."
        );
    }
}
