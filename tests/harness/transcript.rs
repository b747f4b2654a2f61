//! Transcripts: commands with the replies they must get, in one notation for Corelane and for a real redis-server.
//!
//! ```text
//! # A comment.
//! > SET key "a\x00b" NX        a command, quoted as for redis-cli; the reply follows in redis-cli's notation
//! OK                           (see `value.rs`), up to the next command, directive, comment or blank line
//! > QUIT
//! OK
//! (closed)                     the server closes the connection after the reply, if there is one
//! <                            nothing is sent; what comes next on the connection follows: a message of a channel
//! > CLIENT REPLY OFF
//! (no reply)                   none is read; a reply that comes nevertheless fails the next command
//! ```
//!
//! Directives that act at once:
//!
//! - `@reset`: FLUSHALL, then all connections are closed. Every file begins so.
//! - `@client NAME`: the commands that follow go through the connection of that name. The first is `main`.
//! - `@resp2`, `@resp3`: HELLO on the current connection.
//!
//! Directives for the next command:
//!
//! - `@match`: each expected line is a regular expression for the whole line; a last line `...` stands for all lines
//!   that follow, if any.
//! - `@unordered`: the lines are compared without their numbers and their order.
//! - `@scan`: the command is a SCAN, HSCAN, SSCAN or ZSCAN from cursor 0; it is repeated until the cursor is 0 again,
//!   and the elements that were returned, sorted, each once, are the reply.
//! - `@until MS > COMMAND`: the command is repeated until the reply is the expected one, for at most that long.
//! - `@save NAME`: the reply's text replaces `${NAME}` in the commands and replies that follow.
//! - `@redis >= 7.2`, `@redis < 7.2`: an oracle of another version skips the command. Corelane behaves as
//!   [`CORELANE_BEHAVES_AS`].

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use regex::Regex;

use super::client::{self, Client};
use super::process::POLL_PAUSE_MS;
use super::value::{Value, split_arguments};

/// The version whose replies Corelane gives.
pub(crate) const CORELANE_BEHAVES_AS: Version = Version { major: 7, minor: 2 };

/// A version of Redis, as far as transcripts tell versions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// Reads the `7.0` that a text such as `7.0.15 sha=…` begins with.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.split(|character: char| !character.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Version {
            major: number()?,
            minor: number()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// One file, read and checked.
pub(crate) struct Transcript {
    name: String,
    steps: Vec<Step>,
}

struct Step {
    /// Counted from 1.
    line: usize,
    action: Action,
}

enum Action {
    Reset,
    UseClient(String),
    UseProtocol(&'static str),
    Exchange(Exchange),
}

/// A command (empty: none is sent), its expected reply, and how the two are compared.
struct Exchange {
    command: String,
    expected: Vec<String>,
    options: Options,
}

#[derive(Default)]
struct Options {
    comparison: Comparison,
    follow_cursor: bool,
    until_ms: Option<u64>,
    save_as: Option<String>,
    versions: Option<VersionRange>,
}

#[derive(Default, Clone, Copy)]
enum Comparison {
    #[default]
    Exact,
    Unordered,
    Pattern,
}

/// The versions that a command runs on.
enum VersionRange {
    From(Version),
    Before(Version),
}

impl VersionRange {
    fn contains(&self, version: Version) -> bool {
        match *self {
            VersionRange::From(first) => version >= first,
            VersionRange::Before(end) => version < end,
        }
    }
}

impl Transcript {
    /// Reads a file. Panics with file and line when a line is not as the module's text says.
    pub(crate) fn read(path: &Path) -> Transcript {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Transcript::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Transcript {
        let mut steps = vec![Step {
            line: 1,
            action: Action::Reset,
        }];
        let mut options = Options::default();
        // True while the lines belong to the reply of the last command.
        let mut in_reply = false;
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let wrong = |why: &str| -> ! { panic!("{name}:{line_number}: {why}: {line}") };
            if let Some(directive) = line.strip_prefix('@') {
                in_reply = false;
                match parse_directive(directive, &mut options) {
                    Ok(Some(action)) => steps.push(Step {
                        line: line_number,
                        action,
                    }),
                    Ok(None) => {}
                    Err(why) => wrong(&why),
                }
            } else if line.starts_with('#') || line.is_empty() {
                in_reply = false;
            }
            if let Some(command) = command_of(line) {
                let exchange = Exchange {
                    command: command.to_string(),
                    expected: Vec::new(),
                    options: std::mem::take(&mut options),
                };
                steps.push(Step {
                    line: line_number,
                    action: Action::Exchange(exchange),
                });
                in_reply = true;
            } else if in_reply {
                let Some(Step {
                    action: Action::Exchange(exchange),
                    ..
                }) = steps.last_mut()
                else {
                    unreachable!("a reply follows its command");
                };
                exchange.expected.push(line.to_string());
            } else if !line.starts_with(['#', '@']) && !line.is_empty() {
                wrong("a reply without a command");
            }
        }
        Transcript {
            name: name.to_string(),
            steps,
        }
    }

    /// The number of commands in the file.
    pub(crate) fn commands(&self) -> usize {
        let is_exchange = |step: &&Step| matches!(step.action, Action::Exchange(_));
        self.steps.iter().filter(is_exchange).count()
    }

    /// Plays the file against a server. `target` names the server in messages, `version` is the Redis version whose
    /// commands it has. Panics with every reply that was not as expected.
    pub(crate) fn play(&self, target: &str, address: SocketAddr, version: Version) {
        let mut player = Player {
            address,
            version,
            clients: HashMap::new(),
            current: MAIN.into(),
            saved: Vec::new(),
        };
        let mut mismatches = String::new();
        let mut mismatch_count = 0;
        for Step { line, action } in &self.steps {
            let result = match action {
                Action::Exchange(exchange) => player.exchange(exchange),
                Action::UseClient(name) => {
                    player.current.clone_from(name);
                    Ok(())
                }
                Action::UseProtocol(protocol) => player.must_succeed(&["HELLO", protocol]),
                Action::Reset => player.reset(),
            };
            if let Err(mismatch) = result {
                mismatch_count += 1;
                let _ = writeln!(mismatches, "\n{}:{line} on {target}\n{mismatch}", self.name);
            }
        }
        assert!(
            mismatch_count == 0,
            "{mismatch_count} replies were not as expected:\n{mismatches}"
        );
    }
}

/// The connection that a file begins with.
const MAIN: &str = "main";

/// The command of a line `> COMMAND`, `@until MS > COMMAND` or `<`, which has none.
fn command_of(line: &str) -> Option<&str> {
    if line == RECEIVE {
        return Some("");
    }
    if line.starts_with("@until") {
        return line.split_once("> ").map(|(_, command)| command);
    }
    line.strip_prefix("> ")
}

/// Reads a directive without its `@`: an action, or an option for the next command.
fn parse_directive(directive: &str, options: &mut Options) -> Result<Option<Action>, String> {
    let words: Vec<&str> = directive.split_whitespace().collect();
    match words[..] {
        ["reset"] => return Ok(Some(Action::Reset)),
        ["client", name] => return Ok(Some(Action::UseClient(name.to_string()))),
        ["resp2"] => return Ok(Some(Action::UseProtocol("2"))),
        ["resp3"] => return Ok(Some(Action::UseProtocol("3"))),
        ["match"] => options.comparison = Comparison::Pattern,
        ["unordered"] => options.comparison = Comparison::Unordered,
        ["scan"] => options.follow_cursor = true,
        ["save", name] => options.save_as = Some(name.to_string()),
        ["until", milliseconds, ">", ..] => {
            options.until_ms = Some(milliseconds.parse().map_err(|_| "milliseconds must be a number")?);
        }
        ["redis", comparison, version] => {
            let version = Version::parse(version).ok_or("a version is two numbers")?;
            options.versions = Some(match comparison {
                ">=" => VersionRange::From(version),
                "<" => VersionRange::Before(version),
                _ => return Err("versions are compared with >= or <".into()),
            });
        }
        _ => return Err("no such directive".into()),
    }
    Ok(None)
}

/// A file being played: its connections and what it has saved.
struct Player {
    address: SocketAddr,
    version: Version,
    clients: HashMap<String, Client>,
    current: String,
    saved: Vec<(String, String)>,
}

impl Player {
    fn reset(&mut self) -> Result<(), String> {
        self.clients.clear();
        self.current = MAIN.into();
        self.must_succeed(&["FLUSHALL"])
    }

    /// Runs a command of the harness's own.
    fn must_succeed(&mut self, arguments: &[&str]) -> Result<(), String> {
        let reply = self.reply(arguments);
        match reply {
            Ok(Value::Error(_)) | Err(_) => Err(format!("  {} was answered {reply:?}", arguments.join(" "))),
            Ok(_) => Ok(()),
        }
    }

    /// Runs one command of the file, as often as its options ask; the error is a readable comparison.
    fn exchange(&mut self, exchange: &Exchange) -> Result<(), String> {
        let options = &exchange.options;
        if options
            .versions
            .as_ref()
            .is_some_and(|versions| !versions.contains(self.version))
        {
            return Ok(());
        }
        let command = self.substitute(&exchange.command);
        let expected: Vec<String> = exchange.expected.iter().map(|line| self.substitute(line)).collect();
        let arguments = split_arguments(&command).map_err(|why| format!("  {why}"))?;
        let deadline = Instant::now() + Duration::from_millis(options.until_ms.unwrap_or(0));
        loop {
            let got = if options.follow_cursor {
                self.scan(arguments.clone())
            } else {
                self.converse(&arguments, &expected, options.save_as.as_deref())
            };
            match matches(options.comparison, &expected, &got) {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_PAUSE_MS)),
                Ok(false) => return Err(describe(&command, &expected, &got)),
                Err(error) => return Err(format!("  {error}")),
            }
        }
    }

    /// Replaces every `${NAME}` by what was saved under the name.
    fn substitute(&self, line: &str) -> String {
        let mut line = line.to_string();
        for (name, text) in &self.saved {
            line = line.replace(&format!("${{{name}}}"), text);
        }
        line
    }

    /// Sends a command and returns the lines of the reply; `expected` says whether there is one to wait for, and
    /// whether the end of the connection follows it.
    fn converse(&mut self, arguments: &[Vec<u8>], expected: &[String], save_as: Option<&str>) -> Vec<String> {
        if expected == [NO_REPLY] {
            let sent = self.connected().and_then(|client| client.send(arguments));
            return vec![sent.map_or_else(|error| describe_error(&error), |()| NO_REPLY.into())];
        }
        let reply = self.reply(arguments);
        let mut lines: Vec<String> = match &reply {
            Ok(value) => value.render().split('\n').map(str::to_string).collect(),
            Err(error) => vec![describe_error(error)],
        };
        if let (Some(name), Ok(value)) = (save_as, &reply) {
            self.saved.retain(|(saved, _)| saved != name);
            self.saved.push((name.to_string(), value.text().unwrap_or_default()));
        }
        let must_close = expected.last().is_some_and(|line| line == CLOSED);
        if must_close && reply.is_ok() && self.connected().is_ok_and(Client::is_closed) {
            lines.push(CLOSED.into());
        }
        if must_close || reply.is_err() {
            self.clients.remove(&self.current);
        }
        lines
    }

    /// Runs a whole SCAN; the keys returned, sorted, each once.
    fn scan(&mut self, mut arguments: Vec<Vec<u8>>) -> Vec<String> {
        /// More rounds than any transcript's keys can need: a cursor that never returns to 0 is an error.
        const ROUNDS_MAX: usize = 100_000;
        // Behind the name, or behind the key whose members are scanned.
        let cursor_place = if arguments[0].eq_ignore_ascii_case(b"SCAN") {
            1
        } else {
            2
        };
        let mut keys = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let reply = self.reply(&arguments);
            let Ok(Value::Array(Some(parts))) = &reply else {
                return vec![reply.map_or_else(|error| describe_error(&error), |value| value.render())];
            };
            let [cursor, Value::Array(Some(page))] = &parts[..] else {
                return vec!["the reply is not a cursor and an array".into()];
            };
            keys.extend(page.iter().map(Value::render));
            let Some(next) = cursor.text() else {
                return vec!["the cursor has no text".into()];
            };
            if next == "0" {
                return if keys.is_empty() {
                    vec!["(empty array)".into()]
                } else {
                    number(keys)
                };
            }
            arguments[cursor_place] = next.into_bytes();
        }
        vec![format!("the cursor was not 0 after {ROUNDS_MAX} rounds")]
    }

    fn reply(&mut self, arguments: &[impl AsRef<[u8]>]) -> io::Result<Value> {
        let client = self.connected()?;
        if !arguments.is_empty() {
            client.send(arguments)?;
        }
        client.read()
    }

    /// The current connection, opened when there is none of its name.
    fn connected(&mut self) -> io::Result<&mut Client> {
        use std::collections::hash_map::Entry;
        match self.clients.entry(self.current.clone()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(Client::connect(self.address)?)),
        }
    }
}

/// The lines of an array of rendered elements, without padding: how `@scan` writes the keys.
fn number(elements: impl IntoIterator<Item = String>) -> Vec<String> {
    let elements = elements.into_iter().enumerate();
    elements
        .map(|(index, element)| format!("{}) {element}", index + 1))
        .collect()
}

/// Stands in a transcript in place of a command where the client only reads.
const RECEIVE: &str = "<";

/// Stands in a transcript where the server closes the connection.
const CLOSED: &str = "(closed)";

/// Stands in a transcript, as the last line of a reply that is matched by patterns, for any lines.
const ANY_REST: &str = "...";

/// Stands in a transcript where a command has no reply.
const NO_REPLY: &str = "(no reply)";

fn describe_error(error: &io::Error) -> String {
    if client::is_close(error) {
        CLOSED.into()
    } else {
        format!("(no reply: {error})")
    }
}

fn describe(command: &str, expected: &[String], got: &[String]) -> String {
    format!(
        "> {command}\n  expected:\n    {}\n  got:\n    {}",
        expected.join("\n    "),
        got.join("\n    ")
    )
}

fn matches(comparison: Comparison, expected: &[String], got: &[String]) -> Result<bool, regex::Error> {
    match comparison {
        Comparison::Exact => Ok(expected == got),
        Comparison::Unordered => Ok(without_order(expected) == without_order(got)),
        Comparison::Pattern => {
            let (expected, got) = match expected.split_last() {
                Some((last, before)) if last == ANY_REST => (before, &got[..got.len().min(before.len())]),
                _ => (expected, got),
            };
            let mut all = expected.len() == got.len();
            for (pattern, line) in expected.iter().zip(got) {
                all &= Regex::new(&format!("^(?:{pattern})$"))?.is_match(line);
            }
            Ok(all)
        }
    }
}

/// The lines without the numbers that their places gave them, sorted.
fn without_order(lines: &[String]) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.iter().map(|line| without_numbers(line)).collect();
    lines.sort_unstable();
    lines
}

/// The line without every `1) `, `1# `, `1~ ` and `1> ` that it begins with.
fn without_numbers(line: &str) -> &str {
    let mut rest = line.trim_start();
    loop {
        let after_digits = rest.trim_start_matches(|character: char| character.is_ascii_digit());
        let numbered = after_digits.len() < rest.len();
        match after_digits
            .strip_prefix([')', '#', '~', '>'])
            .and_then(|after| after.strip_prefix(' '))
        {
            Some(after) if numbered => rest = after.trim_start(),
            _ => return rest,
        }
    }
}

#[test]
fn a_transcript_is_read_line_by_line() {
    let text =
        "# comment\n> SET a 1\nOK\n@match\n@redis < 7.2\n> TIME\n1\n2\n\n@client other\n@until 10 > GET a\n(nil)\n";
    let transcript = Transcript::parse("example", text);
    let lines: Vec<usize> = transcript.steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, [1, 2, 6, 10, 11]);
    assert_eq!(transcript.commands(), 3);
    let Action::Exchange(time) = &transcript.steps[2].action else {
        panic!("TIME is a command")
    };
    assert_eq!(
        (time.command.as_str(), &time.expected[..]),
        ("TIME", &["1".to_string(), "2".to_string()][..])
    );
    assert!(matches!(time.options.comparison, Comparison::Pattern));
    let versions = time.options.versions.as_ref().expect("TIME is guarded");
    assert!(versions.contains(Version { major: 7, minor: 0 }) && !versions.contains(CORELANE_BEHAVES_AS));
    let Action::Exchange(get) = &transcript.steps[4].action else {
        panic!("GET is a command")
    };
    assert_eq!((get.command.as_str(), get.options.until_ms), ("GET a", Some(10)));
    for wrong in ["OK\n", "@nothing\n", "@redis = 7\n", "@until x > PING\n"] {
        assert!(
            std::panic::catch_unwind(|| Transcript::parse("example", wrong)).is_err(),
            "{wrong} must be refused"
        );
    }
}

#[test]
fn replies_are_compared_exactly_without_order_or_by_pattern() {
    let lines = |text: &str| text.split('\n').map(str::to_string).collect::<Vec<_>>();
    let compare = |comparison, expected: &str, got: &str| matches(comparison, &lines(expected), &lines(got)).unwrap();
    assert!(compare(Comparison::Exact, "1) \"a\"\n2) \"b\"", "1) \"a\"\n2) \"b\""));
    assert!(!compare(Comparison::Exact, "1) \"a\"\n2) \"b\"", "1) \"b\"\n2) \"a\""));
    assert!(compare(
        Comparison::Unordered,
        "1) \"a\"\n2) \"b\"",
        "1) \"b\"\n2) \"a\""
    ));
    assert!(compare(
        Comparison::Unordered,
        "1) \"0\"\n2) 1) \"b\"\n   2) \"a\"",
        "1) \"0\"\n2) 1) \"a\"\n   2) \"b\""
    ));
    assert!(!compare(Comparison::Unordered, "1) \"a\"", "1) \"a\"\n2) \"a\""));
    assert!(compare(Comparison::Pattern, r"\(integer\) [0-9]+", "(integer) 17"));
    assert!(!compare(Comparison::Pattern, "1", "17"));
    assert!(!compare(Comparison::Pattern, "1", "1\n1"));
    assert!(compare(Comparison::Pattern, "1\n...", "1\n2\n3"));
    assert!(compare(Comparison::Pattern, "1\n...", "1"));
    assert!(!compare(Comparison::Pattern, "1\n...", "2\n1"));
}
