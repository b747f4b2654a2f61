//! The command line.

use std::path::PathBuf;

use corelane::config::values::Shape;
use corelane::config::{Durability, SETTINGS, Settings, arguments, command, load};

/// Loads the settings for these arguments; an error is its text.
fn load_arguments(arguments: &[&str]) -> Result<(Settings, Option<PathBuf>), String> {
    let words = std::iter::once("corelane").chain(arguments.iter().copied());
    let matches = command()
        .try_get_matches_from(words)
        .map_err(|error| error.to_string())?;
    load(&matches).map_err(|error| error.to_string())
}

#[test]
fn the_command_is_sound() {
    command().debug_assert();
    command()
        .subcommand(clap::Command::new("cores").args(arguments()))
        .debug_assert();
}

#[test]
fn no_arguments_give_the_defaults() {
    assert_eq!(load_arguments(&[]), Ok((Settings::default(), None)));
}

#[test]
fn every_setting_is_a_flag_that_takes_its_default() {
    for setting in SETTINGS {
        let flag = format!("--{}", setting.name);
        assert_eq!(
            load_arguments(&[&flag, setting.default]),
            Ok((Settings::default(), None)),
            "{flag}"
        );
        assert_eq!(
            load_arguments(&[&format!("{flag}={}", setting.default)]),
            Ok((Settings::default(), None)),
            "{flag}"
        );
    }
}

#[test]
fn every_setting_is_in_the_help_with_its_default() {
    let help = command().render_long_help().to_string();
    for setting in SETTINGS {
        assert!(help.contains(&format!("--{} <", setting.name)), "{}", setting.name);
        assert_eq!(
            help.contains(&format!("--{}\n", setting.negation)),
            setting.form.shape == Shape::YesNo
        );
        assert!(
            help.contains(&format!("default: {}", setting.default)),
            "{}",
            setting.name
        );
    }
}

#[test]
fn flags_set_what_they_say() {
    let (settings, _) = load_arguments(&[
        "--bind",
        "-::1",
        "--port=0",
        "--data-dir",
        "d",
        "--shards",
        "4",
        "--durability",
        "none",
        "--network-cores",
        "0-1",
        "--log-level",
        "notice",
        "--client-query-buffer-limit",
        "64mb",
    ])
    .unwrap();
    assert_eq!(
        (settings.bind, settings.port, settings.durability),
        (vec!["-::1".to_owned()], 0, Durability::None)
    );
    assert_eq!(
        (
            settings.network_cores.to_string(),
            settings.client_query_buffer_limit.bytes()
        ),
        ("0-1".to_owned(), 64 << 20)
    );
}

#[test]
fn yes_or_no_has_five_spellings_and_the_last_one_counts() {
    for (arguments, expected) in [
        (&["--coop-taskrun", "yes"][..], true),
        (&["--coop-taskrun", "true"], true),
        (&["--coop-taskrun", "no"], false),
        (&["--coop-taskrun=false"], false),
        (&["--no-coop-taskrun"], false),
        (&["--no-coop-taskrun", "--no-coop-taskrun"], false),
        (&["--no-coop-taskrun", "--coop-taskrun", "yes"], true),
        (&["--coop-taskrun", "yes", "--no-coop-taskrun"], false),
        (&["--coop-taskrun", "no", "--coop-taskrun", "yes"], true),
    ] {
        assert_eq!(
            load_arguments(arguments).unwrap().0.coop_taskrun,
            expected,
            "{arguments:?}"
        );
    }
    assert_eq!(load_arguments(&["--port", "1", "--port", "2"]).unwrap().0.port, 2);
}

#[test]
fn errors_are_one_sentence_with_the_flag_the_value_and_what_is_allowed() {
    for (arguments, expected) in [
        (
            ["--port", "70000"],
            "--port: setting 'port' cannot be '70000': it must be a whole number from 0 to 65535.",
        ),
        (
            ["--port", "-1"],
            "--port: setting 'port' cannot be '-1': it must be a whole number from 0 to 65535.",
        ),
        (
            ["--coop-taskrun", "1"],
            "--coop-taskrun: setting 'coop-taskrun' cannot be '1': it must be yes or no.",
        ),
        (
            ["--storage-cores", "3-1"],
            "--storage-cores: setting 'storage-cores' cannot be '3-1': it must be auto, or CPU numbers and ranges from \
             0 to 8191, such as 0-1,4.",
        ),
    ] {
        assert_eq!(load_arguments(&arguments), Err(expected.to_owned()));
    }
    let password = "p".repeat(600);
    assert!(
        !load_arguments(&["--requirepass", &password])
            .unwrap_err()
            .contains("ppp")
    );
    assert!(load_arguments(&["--prot", "1"]).unwrap_err().contains("'--port'"));
    assert!(load_arguments(&["--no-port"]).is_err());
    assert!(load_arguments(&["--port"]).is_err());
}

#[test]
fn a_flag_overrides_the_file_and_the_file_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("corelane.toml");
    std::fs::write(&path, "port = 7000\ntimeout = 7\nprotected-mode = false\n").unwrap();
    let path_text = path.to_str().unwrap();
    let (settings, file) =
        load_arguments(&["--port", "7001", "--config", path_text, "--protected-mode", "yes"]).unwrap();
    assert_eq!(
        (settings.port, settings.timeout, settings.maxclients),
        (7001, 7, 10_000)
    );
    assert!(settings.protected_mode);
    assert_eq!(file, Some(path.clone()));

    std::fs::write(&path, "port = 'x'\n").unwrap();
    let error = load_arguments(&["--port", "7001", "--config", path_text]).unwrap_err();
    assert!(
        error.starts_with(&format!("{path_text}:1: ")),
        "a bad file is told even where a flag overrides it: {error}"
    );
}

#[test]
fn a_subcommand_may_take_the_settings_too() {
    let command = command().subcommand(clap::Command::new("cores").args(arguments()));
    let matches = command
        .try_get_matches_from(["corelane", "cores", "--network-cores", "0,2"])
        .unwrap();
    let (settings, _) = load(matches.subcommand_matches("cores").unwrap()).unwrap();
    assert_eq!(settings.network_cores.to_string(), "0,2");
}
