//! Options of a bench: `name=value` after `--`, or the environment variable `CORELANE_BENCH_NAME`.

use super::servers;
use std::env;
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// What the command line and the environment ask for.
pub(crate) struct Options {
    /// Names that the bench understands.
    known: Vec<&'static str>,
    given: Vec<(String, String)>,
    /// What is neither an option nor begins with a dash: which cases to run, as with criterion's filters.
    pub(crate) filters: Vec<String>,
    /// Run each case once and small, to show that all of it works.
    pub(crate) is_test: bool,
}

impl Options {
    /// Reads the options: a bench's `own` and those of its servers. `switches` are words that stand alone and are no
    /// filters: options with the value `yes`.
    pub(crate) fn read(own: &[&'static str], switches: &[&str]) -> Options {
        let known = own.iter().chain(&servers::OPTIONS).copied().collect();
        let mut options = Options {
            known,
            given: Vec::new(),
            filters: Vec::new(),
            is_test: false,
        };
        for argument in env::args().skip(1) {
            if argument == "--test" {
                options.is_test = true;
            } else if switches.contains(&argument.as_str()) {
                options.given.push((argument, "yes".to_owned()));
            } else if argument.starts_with('-') {
                // Cargo's own `--bench`, and options that are meant for criterion.
            } else if let Some((name, value)) = argument.split_once('=') {
                assert!(
                    options.known.contains(&name),
                    "no option {name}; there are: {}",
                    options.known.join(" ")
                );
                options.given.push((name.to_owned(), value.to_owned()));
            } else {
                options.filters.push(argument);
            }
        }
        options
    }

    /// What was given for a name: on the command line, else in the environment.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        assert!(self.known.contains(&name), "the bench forgot to list its option {name}");
        let given = self.given.iter().rev().find(|(given, _)| given == name);
        given
            .map(|(_, value)| value.clone())
            .or_else(|| env::var(variable(name)).ok())
    }

    /// Whether the word stands on the command line, or `yes` in the environment.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value == "yes" || value == "1")
    }

    /// One value.
    pub(crate) fn value<T: FromStr>(&self, name: &str, default: T) -> T {
        match self.text(name) {
            Some(text) => parse(name, &text),
            None => default,
        }
    }

    /// One value, if it was given.
    pub(crate) fn given<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).map(|text| parse(name, &text))
    }

    /// Values with commas between them.
    pub(crate) fn list<T: FromStr>(&self, name: &str, default: &str) -> Vec<T> {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        text.split(',').map(|item| parse(name, item.trim())).collect()
    }

    /// The command line that was given, and the variables that were set.
    pub(crate) fn command_line(&self) -> String {
        let variables = self.known.iter().filter_map(|name| {
            let value = env::var(variable(name)).ok()?;
            Some(format!("{}={value} ", variable(name)))
        });
        let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let program = env::args().next().unwrap_or_default();
        // Cargo calls the program target/release/deps/NAME-HASH.
        let file = program.rsplit('/').next().unwrap_or_default();
        let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
        format!(
            "{}cargo bench --bench {name} -- {}",
            variables.collect::<String>(),
            arguments.join(" ")
        )
        .trim_end_matches(" -- ")
        .to_owned()
    }
}

/// The environment variable of an option.
fn variable(name: &str) -> String {
    format!("CORELANE_BENCH_{}", name.to_uppercase().replace('-', "_"))
}

fn parse<T: FromStr>(name: &str, text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{name}={text} cannot be read"))
}

/// The durability that both servers of a pair are run with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Interval,
    Always,
}

impl Durability {
    /// Corelane's `durability`.
    pub(crate) fn of_corelane(self) -> &'static str {
        match self {
            Durability::Interval => "interval",
            Durability::Always => "always",
        }
    }

    /// Redis's `appendfsync`.
    pub(crate) fn of_redis(self) -> &'static str {
        match self {
            Durability::Interval => "everysec",
            Durability::Always => "always",
        }
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Durability, String> {
        match text {
            "interval" | "everysec" => Ok(Durability::Interval),
            "always" => Ok(Durability::Always),
            _ => Err(format!("{text} is neither interval nor always")),
        }
    }
}

impl Display for Durability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.of_corelane())
    }
}

impl Debug for Durability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Display::fmt(self, formatter)
    }
}
