//! The command line, and the order of precedence: default < file < flag.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::file::{self, ConfigError, Origin};
use super::settings::{SETTINGS, Setting, Settings};
use super::values::Shape;

/// The flag that names the configuration file.
const CONFIG: &str = "config";

/// The server's command with all flags; the caller adds its subcommands.
pub fn command() -> Command {
    Command::new("corelane")
        .about("A persistent, thread-per-core, Redis-compatible server")
        .version(env!("CARGO_PKG_VERSION"))
        .args(arguments())
}

/// All flags: `--config FILE`, `--NAME VALUE` for every setting, and `--no-NAME` for those that are yes or no. For a
/// subcommand that takes settings too: pass its matches to [`load`]. Of a flag given twice the last one counts, so that
/// a script can append to a command line.
pub fn arguments() -> Vec<Arg> {
    let mut arguments = vec![
        Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .help("The TOML file with settings; flags override it.")
            .value_parser(value_parser!(PathBuf))
            .overrides_with(CONFIG),
    ];
    for setting in SETTINGS {
        let argument = Arg::new(setting.name)
            .long(setting.name)
            .value_name(placeholder(setting))
            .help(help(setting))
            .allow_hyphen_values(true) // `--bind -::1`; a negative number is refused with the range
            .overrides_with(setting.name);
        if setting.form.shape == Shape::YesNo {
            arguments.push(argument.overrides_with(setting.negation));
            let negation = Arg::new(setting.negation)
                .long(setting.negation)
                .help(format!("The same as --{} no.", setting.name))
                .action(ArgAction::SetTrue)
                .overrides_with_all([setting.name, setting.negation]);
            arguments.push(negation);
        } else {
            arguments.push(argument);
        }
    }
    arguments
}

/// What stands for the value in `--help`.
fn placeholder(setting: &Setting) -> &'static str {
    match setting.form.shape {
        Shape::Integer => "N",
        Shape::Bytes => "SIZE",
        Shape::YesNo => "YES|NO",
        Shape::OneOf(_) => "WORD",
        Shape::Text(_) => "TEXT",
        Shape::List { .. } => "LIST",
        Shape::Secret => "PASSWORD",
    }
}

/// The setting's line in `--help`.
fn help(setting: &Setting) -> String {
    let unit = if setting.unit.is_empty() {
        String::new()
    } else {
        format!(", in {}", setting.unit)
    };
    let default = if setting.default.is_empty() {
        "empty"
    } else {
        setting.default
    };
    format!("{} [{}{unit}; default: {default}]", setting.doc, setting.allowed())
}

/// The settings after defaults, the file named by `--config` and the flags, and that file's path if there is one.
///
/// # Errors
/// The first setting of the file, then of the flags, that is unknown or has a value that is not allowed; a file that
/// cannot be read.
pub fn load(matches: &ArgMatches) -> Result<(Settings, Option<PathBuf>), ConfigError> {
    let mut settings = Settings::default();
    let path = matches.get_one::<PathBuf>(CONFIG).cloned();
    if let Some(path) = &path {
        file::read(path, &mut settings)?;
    }
    for setting in SETTINGS {
        let is_yes_no = setting.form.shape == Shape::YesNo;
        let value = if is_yes_no && matches.get_flag(setting.negation) {
            "no"
        } else {
            match matches.get_one::<String>(setting.name).map(String::as_str) {
                Some("true") if is_yes_no => "yes",
                Some("false") if is_yes_no => "no",
                Some(value) => value,
                None => continue,
            }
        };
        let assigned = setting.assign(&mut settings, value);
        assigned.map_err(|_| ConfigError::bad_value(Origin::Flag(setting.name), setting, value))?;
    }
    Ok((settings, path))
}
