//! Reading the configuration file.

use std::path::PathBuf;

use corelane::config::file::read;
use corelane::config::{AutoOr, ByteSize, Durability, Settings};

/// Reads a file with this text; an error comes without the directory.
fn read_text(text: impl AsRef<[u8]>) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("corelane.toml");
    std::fs::write(&path, text).unwrap();
    let mut settings = Settings::default();
    let result = read(&path, &mut settings);
    result.map(|()| settings).map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}/", directory.path().display()), "")
    })
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(read_text("# nothing\n"), Ok(Settings::default()));
}

#[test]
fn values_may_be_toml_values_or_their_texts() {
    let settings = read_text(
        "bind = ['10.0.0.1', '-::1']\nport = 7000\ndata-dir = '/data'\nshards = 4\ndurability = 'always'\n\
         network-cores = [0, '2-3']\nstorage-cores = 1\nbackground-cores = 'auto'\ncoop-taskrun = false\n\
         protected-mode = 'no'\nmaxclients = '50'\nclient-query-buffer-limit = '2mb'\nblock-cache-size = 1_048_576\n\
         client-output-buffer-limit = 'pubsub 1mb 1mb 1'\ncore-map = 'map.toml'\n",
    )
    .unwrap();
    assert_eq!(settings.bind, ["10.0.0.1", "-::1"]);
    assert_eq!(
        (settings.port, settings.maxclients, settings.shards),
        (7000, 50, AutoOr::Is(4))
    );
    assert_eq!(
        (settings.durability, settings.coop_taskrun, settings.protected_mode),
        (Durability::Always, false, false)
    );
    assert_eq!(settings.network_cores.to_string(), "0,2-3");
    assert_eq!(settings.storage_cores.to_string(), "1");
    assert_eq!(settings.background_cores, AutoOr::Auto);
    assert_eq!(settings.client_query_buffer_limit, ByteSize(2 << 20));
    assert_eq!(settings.block_cache_size, AutoOr::Is(ByteSize(1 << 20)));
    assert_eq!(settings.client_output_buffer_limit.pubsub.soft_seconds, 1);
    assert_eq!(
        settings.client_output_buffer_limit.normal.hard_bytes,
        1 << 30,
        "not named in the file"
    );
    assert_eq!(settings.core_map, Some(PathBuf::from("map.toml")));
    assert_eq!(settings.log_file, None);
}

#[test]
fn errors_are_one_sentence_with_file_line_setting_value_and_what_is_allowed() {
    for (text, expected) in [
        (
            "\n# a comment\nport = 70000\n",
            "corelane.toml:3: setting 'port' cannot be '70000': it must be a whole number from 0 to 65535.",
        ),
        (
            "port = true",
            "corelane.toml:1: setting 'port' cannot be 'true': it must be a whole number from 0 to 65535.",
        ),
        (
            "port = 1.5",
            "corelane.toml:1: setting 'port' cannot be '1.5': it must be a whole number from 0 to 65535.",
        ),
        (
            "durability = 'allways'",
            "corelane.toml:1: setting 'durability' cannot be 'allways': it must be always, interval or none.",
        ),
        (
            "shards = \"a\\nb\"",
            "corelane.toml:1: setting 'shards' cannot be 'a\\nb': it must be auto, or a whole number from 1 to 1024.",
        ),
        (
            "coop-taskrun = 1",
            "corelane.toml:1: setting 'coop-taskrun' cannot be '1': it must be yes or no.",
        ),
        (
            "log-size-max = '1kb'",
            "corelane.toml:1: setting 'log-size-max' cannot be '1kb': it must be auto, or a size from 8mb to 65536gb.",
        ),
        (
            "data-dir = ''",
            "corelane.toml:1: setting 'data-dir' cannot be '': it must be a path.",
        ),
        (
            "[port]\nx = 1",
            "corelane.toml:1: setting 'port' cannot be 'a table': it must be a whole number from 0 to 65535.",
        ),
        (
            "requirepass = 1234",
            "corelane.toml:1: setting 'requirepass' cannot be the given value (not shown): it must be a text of at \
             most 512 bytes.",
        ),
        (
            "timeout = 1\nprot = 1",
            "corelane.toml:2: there is no setting 'prot'; did you mean 'port'?",
        ),
        (
            "data_dir = 'x'",
            "corelane.toml:1: there is no setting 'data_dir'; did you mean 'data-dir'?",
        ),
        (
            "appendfsync = 'no'",
            "corelane.toml:1: there is no setting 'appendfsync'; here it is called 'durability'.",
        ),
        ("zzz = 1", "corelane.toml:1: there is no setting 'zzz'."),
        (
            "[cores]\nnetwork = '0'",
            "corelane.toml:1: there is no setting 'cores'; did you mean 'core-map'?",
        ),
    ] {
        assert_eq!(read_text(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    for (text, line) in [("port = 1\nport = 2\n", 2), ("port = 1\n\nbind =\n", 3), ("port 1", 1)] {
        let error = read_text(text).unwrap_err();
        let start = format!("corelane.toml:{line}: the configuration file is not valid TOML (");
        assert!(error.starts_with(&start), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = read_text(b"port = 1\nlog-file = '\xff'\n").unwrap_err();
    assert_eq!(
        error,
        "corelane.toml:2: the configuration file is not valid TOML (it is not UTF-8)."
    );
}

#[test]
fn a_long_bad_value_is_cut() {
    let error = read_text(format!("durability = '{}'", "ä".repeat(5000))).unwrap_err();
    assert!(error.contains(&format!("'{}…'", "ä".repeat(80))), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = read("/nonexistent/corelane.toml".as_ref(), &mut Settings::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "/nonexistent/corelane.toml: the configuration file cannot be read (No such file or directory (os error 2))."
    );
    let error = read("/dev/zero".as_ref(), &mut Settings::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "/dev/zero: the configuration file is larger than 1mb, so it is probably another file."
    );
    assert!(
        read("/".as_ref(), &mut Settings::default())
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
}
