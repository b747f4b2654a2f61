//! Commands about the server: COMMAND, CONFIG, INFO, TIME, LOLWUT, SHUTDOWN and the HELP of each family.

use crate::clock;
use crate::command::{self, Command, Keys, Merge, MoreKeys, READ, REDIS_VERSION, Runs};
use crate::commands::arguments::{integer, is_option};
use crate::commands::hyperloglog;
use crate::config::{Settings, SharedSettings};
use crate::error::CommandError;
use crate::glob;
use crate::network::session::{NetworkContext, Until, WaitHere};
use crate::number::parse_double;
use crate::observe::info as info_report;
use crate::protocol::{Reply, Version};
use crate::registry::listening::Listening;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

// ---- COMMAND ----

/// The row that a full name stands for: `get`, or `config|get` for a subcommand.
fn find_full_name(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|byte| *byte == b'|') {
        Some(bar) => command::find_subcommand(command::find(&name[..bar])?, &name[bar + 1..]),
        None => command::find(name),
    }
}

fn top_level() -> impl Iterator<Item = &'static Command> + Clone {
    command::all().iter().filter(|row| row.container().is_none())
}

/// A command's tips for clients and proxies: how to send it to the nodes of a cluster, and what to make of the replies.
fn tips(row: &Command) -> &'static [&'static str] {
    match (row.name, row.runs) {
        ("mset", _) => &["request_policy:multi_shard", "response_policy:all_succeeded"],
        ("msetnx", _) => &["request_policy:multi_shard", "response_policy:agg_min"],
        ("ping", _) => &["request_policy:all_shards", "response_policy:all_succeeded"],
        ("config|set" | "config|rewrite" | "config|resetstat", _) => {
            &["request_policy:all_nodes", "response_policy:all_succeeded"]
        }
        ("info", _) => &[
            "nondeterministic_output",
            "request_policy:all_shards",
            "response_policy:special",
        ],
        ("hgetall" | "hkeys" | "hvals", _) => &["nondeterministic_output_order"],
        ("hrandfield" | "hscan" | "httl" | "hpttl", _) => &["nondeterministic_output"],
        ("ttl" | "pttl" | "time" | "client|info" | "client|list", _) => &["nondeterministic_output"],
        ("object|encoding" | "object|freq" | "object|idletime" | "object|refcount", _) => &["nondeterministic_output"],
        ("command" | "command|docs" | "command|info" | "command|list", _) => &["nondeterministic_output_order"],
        ("swapdb", _) => &[],
        ("mget", _) => &["request_policy:multi_shard"],
        ("del" | "exists" | "touch" | "unlink", _) => &["request_policy:multi_shard", "response_policy:agg_sum"],
        (_, Runs::All(Merge::Sum)) => &["request_policy:all_shards", "response_policy:agg_sum"],
        (_, Runs::All(Merge::AllOk) | Runs::Whole) => &["request_policy:all_shards", "response_policy:all_succeeded"],
        (_, Runs::All(Merge::Concatenate)) => &["request_policy:all_shards", "nondeterministic_output_order"],
        (_, Runs::Each(Merge::AnyOf)) => &[
            "request_policy:all_shards",
            "response_policy:special",
            "nondeterministic_output",
        ],
        (_, Runs::Cursor) => &[
            "nondeterministic_output",
            "request_policy:special",
            "response_policy:special",
        ],
        _ => &[],
    }
}

/// What a command does to some of its keys: one of Redis's key specifications.
#[derive(Debug, PartialEq, Eq)]
struct KeySpecification {
    keys: Keys,
    flags: &'static [&'static str],
}

/// A command's key specifications. Commands that treat all keys alike have one.
fn key_specifications(row: &Command) -> Vec<KeySpecification> {
    let second = match row.name {
        "copy" | "rename" => Some(["OW", "update"].as_slice()),
        "renamenx" => Some(["OW", "insert"].as_slice()),
        "lmove" | "rpoplpush" => Some(["RW", "insert"].as_slice()),
        _ => None,
    };
    let flags: &[&str] = match row.name {
        "exists" | "touch" | "type" | "strlen" | "llen" | "memory|usage" => &["RO"],
        "object|encoding" | "object|freq" | "object|idletime" | "object|refcount" => &["RO"],
        "copy" => &["RO", "access"],
        "rename" | "renamenx" | "getdel" => &["RW", "access", "delete"],
        "lpop" | "rpop" | "lmove" | "rpoplpush" => &["RW", "access", "delete"],
        "append" | "lpush" | "rpush" | "lpushx" | "rpushx" | "linsert" => &["RW", "insert"],
        "lrem" | "ltrim" => &["RW", "delete"],
        "setnx" | "msetnx" => &["OW", "insert"],
        "mset" | "psetex" | "setex" => &["OW", "update"],
        "del" | "unlink" => &["RM", "delete"],
        "set" => &["RW", "access", "update", "variable_flags"],
        "setrange" | "lset" | "expire" | "expireat" | "pexpire" | "pexpireat" | "persist" => &["RW", "update"],
        _ if row.flags.has(READ) => &["RO", "access"],
        _ => &["RW", "access", "update"],
    };
    match (row.keys, second) {
        (Keys { first: 0, .. }, _) => Vec::new(),
        (Keys { more, .. }, _) if more != MoreKeys::None => Vec::new(),
        (keys, None) => vec![KeySpecification { keys, flags }],
        (Keys { first, step, .. }, Some(second)) => {
            let at = |position: usize| Keys {
                step,
                ..Keys::at(position)
            };
            let second = KeySpecification {
                keys: at(first + 1),
                flags: second,
            };
            vec![KeySpecification { keys: at(first), flags }, second]
        }
    }
}

fn write_key_specification(reply: &mut Reply<'_>, specification: &KeySpecification) {
    let Keys { first, last, step, .. } = specification.keys;
    reply.map(3);
    reply.text("flags");
    reply.set(specification.flags.len());
    specification.flags.iter().for_each(|flag| reply.simple(flag));
    reply.text("begin_search");
    reply.map(2);
    reply.text("type");
    reply.text("index");
    reply.text("spec");
    reply.map(1);
    reply.text("index");
    reply.integer(first as i64);
    reply.text("find_keys");
    reply.map(2);
    reply.text("type");
    reply.text("range");
    reply.text("spec");
    reply.map(3);
    reply.text("lastkey");
    // The last key is counted from the first, unless it is counted from the end.
    reply.integer(if last < 0 {
        i64::from(last)
    } else {
        i64::from(last) - first as i64
    });
    reply.text("keystep");
    reply.integer(step as i64);
    reply.text("limit");
    reply.integer(0);
}

/// One element of COMMAND's and COMMAND INFO's reply.
fn write_info(reply: &mut Reply<'_>, row: &'static Command) {
    reply.array(10);
    reply.text(row.name);
    reply.integer(i64::from(row.arity));
    let movable = (row.keys.more != MoreKeys::None).then_some("movablekeys");
    reply.set(row.flags.names().chain(movable).count());
    row.flags.names().chain(movable).for_each(|flag| reply.simple(flag));
    let Keys { first, last, step, .. } = row.keys;
    reply.integer(first as i64);
    reply.integer(i64::from(last));
    reply.integer(step as i64);
    let categories = row.categories();
    reply.set(categories.len());
    categories
        .iter()
        .for_each(|category| reply.simple(&format!("@{category}")));
    let tips = tips(row);
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.text(tip));
    let specifications = key_specifications(row);
    reply.set(specifications.len());
    specifications
        .iter()
        .for_each(|specification| write_key_specification(reply, specification));
    // Redis has an empty set but an array of some.
    match command::subcommands(row).count() {
        0 => reply.set(0),
        count => reply.array(count),
    }
    command::subcommands(row).for_each(|subcommand| write_info(reply, subcommand));
}

/// One name and its value in COMMAND DOCS's reply.
fn write_docs(reply: &mut Reply<'_>, row: &'static Command) {
    let subcommands = command::subcommands(row).count();
    reply.text(row.name);
    reply.map(if subcommands == 0 { 3 } else { 4 });
    for (name, value) in [("summary", row.summary), ("since", row.since), ("group", row.group)] {
        reply.text(name);
        reply.text(value);
    }
    if subcommands > 0 {
        reply.text("subcommands");
        reply.map(subcommands);
        command::subcommands(row).for_each(|subcommand| write_docs(reply, subcommand));
    }
}

/// COMMAND
pub fn command_all(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.array(top_level().count());
    top_level().for_each(|row| write_info(&mut context.reply, row));
    Ok(())
}

/// COMMAND COUNT
pub fn command_count(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.integer(top_level().count() as i64);
    Ok(())
}

/// COMMAND INFO [name ...]
pub fn command_info(context: &mut NetworkContext<'_>) -> Outcome {
    if context.arguments.len() == 2 {
        return command_all(context);
    }
    context.reply.array(context.arguments.len() - 2);
    for name in context.arguments.iter().skip(2) {
        match find_full_name(name) {
            Some(row) => write_info(&mut context.reply, row),
            None => context.reply.null(),
        }
    }
    Ok(())
}

/// COMMAND DOCS [name ...]: unknown names are left out.
pub fn command_docs(context: &mut NetworkContext<'_>) -> Outcome {
    let rows: Vec<&'static Command> = match context.arguments.len() {
        2 => top_level().collect(),
        _ => context.arguments.iter().skip(2).filter_map(find_full_name).collect(),
    };
    context.reply.map(rows.len());
    rows.iter().for_each(|row| write_docs(&mut context.reply, row));
    Ok(())
}

/// COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]
pub fn command_list(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let selects: Box<dyn Fn(&Command) -> bool> = match arguments.len() {
        2 => Box::new(|_| true),
        5 if is_option(arguments.get(2), "FILTERBY") => {
            let (kind, value) = (arguments.get(3), arguments.get(4));
            match kind {
                _ if is_option(kind, "MODULE") => Box::new(|_| false),
                _ if is_option(kind, "ACLCAT") => {
                    Box::new(move |row| row.categories().iter().any(|category| is_option(value, category)))
                }
                _ if is_option(kind, "PATTERN") => Box::new(move |row| glob::matches(value, row.name.as_bytes(), true)),
                _ => return Err(CommandError::Syntax),
            }
        }
        _ => return Err(CommandError::Syntax),
    };
    let rows: Vec<&Command> = command::all().iter().filter(|row| selects(row)).collect();
    context.reply.array(rows.len());
    rows.iter().for_each(|row| context.reply.text(row.name));
    Ok(())
}

/// COMMAND GETKEYS command [argument ...]
pub fn command_getkeys(context: &mut NetworkContext<'_>) -> Outcome {
    let asked = context.arguments.from(2);
    let row = command::find(asked.get(0)).and_then(|row| match row.runs {
        Runs::Container if asked.len() > 1 => command::find_subcommand(row, asked.get(1)),
        _ => Some(row),
    });
    let row = row.ok_or_else(|| CommandError::text("ERR Invalid command specified"))?;
    if !row.keys.are_some() {
        return Err(CommandError::text("ERR The command has no key arguments"));
    }
    if !row.accepts(asked.len()) {
        return Err(CommandError::text(
            "ERR Invalid number of arguments specified for command",
        ));
    }
    context.reply.array(row.keys.positions(asked).count());
    row.keys.of(asked).for_each(|key| context.reply.bulk(key));
    Ok(())
}

// ---- CONFIG ----

/// The names and values that some patterns of CONFIG GET stand for, each name once. As in Redis a name without
/// wildcards is given back as the client spelled it.
fn matching_settings(settings: &Settings, patterns: impl Iterator<Item = Vec<u8>>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| {
        if !found.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            found.push((name.to_owned(), value));
        }
    };
    for pattern in patterns {
        if pattern.iter().any(|byte| b"[*?".contains(byte)) {
            let matching = settings.matching(|name| glob::matches(&pattern, name.as_bytes(), true));
            matching.into_iter().for_each(|(name, value)| add(name, value));
        } else if let Ok(name) = std::str::from_utf8(&pattern)
            && let Some(value) = settings.get(name)
        {
            add(name, value);
        }
    }
    found
}

/// CONFIG GET pattern [pattern ...]
pub fn config_get(context: &mut NetworkContext<'_>) -> Outcome {
    let settings = context.server.settings.snapshot();
    let found = matching_settings(&settings, context.arguments.iter().skip(2).map(<[u8]>::to_vec));
    context.reply.map(found.len());
    for (name, value) in found {
        context.reply.text(&name);
        context.reply.text(&value);
    }
    Ok(())
}

/// CONFIG SET name value [name value ...]: all of them or none.
pub fn config_set(context: &mut NetworkContext<'_>) -> Outcome {
    let words: Vec<&[u8]> = context.arguments.iter().skip(2).collect();
    let (pairs, rest) = words.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(CommandError::Syntax);
    }
    let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|[name, value]| (*name, *value)).collect();
    let (settings, client_id) = (&context.server.settings, context.session.client.id);
    if pairs.iter().any(|(name, _)| is_address(name)) {
        let mut wanted = Settings::clone(&settings.snapshot());
        wanted
            .set_live(&pairs)
            .map_err(|error| CommandError::text(error.to_string()))?;
        let (listening, settings) = (Arc::clone(&context.server.listening), settings.clone());
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        context.deferred = Some(Box::new(move || {
            let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let set = listen_on(&listening, &wanted, &pairs).and_then(|()| set_settings(&settings, &pairs, client_id));
            ok_or_error(set)
        }));
        return Ok(());
    }
    set_settings(settings, &pairs, client_id)?;
    context.reply.ok();
    Ok(())
}

/// Whether a setting says where the server listens.
fn is_address(name: &[u8]) -> bool {
    is_option(name, "BIND") || is_option(name, "PORT")
}

/// Listens on the addresses of `wanted`, the settings with `pairs` of CONFIG SET. Blocks.
fn listen_on(listening: &Listening, wanted: &Settings, pairs: &[(&[u8], &[u8])]) -> Outcome {
    listening.change(wanted).map_err(|error| {
        tracing::warn!(%error, "CONFIG SET of addresses failed");
        let first = pairs.iter().map(|(name, _)| *name).find(|name| is_address(name));
        let name = CommandError::quoted(first.unwrap_or_default());
        let why = match is_option(name.as_bytes(), "PORT") {
            true => "Unable to listen on this port. Check server logs.",
            false => "Failed to bind to specified addresses.",
        };
        CommandError::text(format!(
            "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
        ))
    })
}

fn set_settings(settings: &SharedSettings, pairs: &[(&[u8], &[u8])], client_id: u64) -> Outcome {
    let changed = settings.update(|settings| settings.set_live(pairs));
    let changed = changed.map_err(|error| CommandError::text(error.to_string()))?;
    if !changed.is_empty() {
        // Names only: a value may be a password.
        tracing::info!(client = client_id, settings = changed.join(" "), "CONFIG SET");
    }
    Ok(())
}

/// OK or an error, which are the same in both protocols.
fn ok_or_error(outcome: Outcome) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reply = Reply::new(&mut bytes, Version::Resp2);
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.to_string()),
    }
    bytes
}

/// CONFIG REWRITE, on a thread that may wait for the disk.
pub fn config_rewrite(context: &mut NetworkContext<'_>) -> Outcome {
    let no_file = || CommandError::text("ERR The server is running without a config file");
    let file = context.server.config_file.clone().ok_or_else(no_file)?;
    let settings = context.server.settings.snapshot();
    context.deferred = Some(Box::new(move || {
        let rewritten = settings.rewrite(&file);
        ok_or_error(rewritten.map_err(|error| CommandError::text(format!("ERR Rewriting config file: {error}"))))
    }));
    Ok(())
}

/// CONFIG RESETSTAT
pub fn config_resetstat(context: &mut NetworkContext<'_>) -> Outcome {
    context.server.totals.baseline.reset(context.server);
    for storage in &context.server.storage {
        storage.longest_turn.reset();
        storage.longest_step.reset();
    }
    context.reply.ok();
    Ok(())
}

// ---- INFO, TIME, LOLWUT, SHUTDOWN ----

/// INFO [section ...]
pub fn info(context: &mut NetworkContext<'_>) -> Outcome {
    let report = info_report::report(context.server, context.arguments.iter().skip(1));
    context.reply.verbatim("txt", report.as_bytes());
    Ok(())
}

/// TIME: seconds, and microseconds within the second.
pub fn time(context: &mut NetworkContext<'_>) -> Outcome {
    let now_us = clock::unix_us();
    context.reply.array(2);
    for number in [now_us / 1_000_000, now_us % 1_000_000] {
        context.reply.text(itoa::Buffer::new().format(number));
    }
    Ok(())
}

const ART: &str = r"
   ___             _
  / __|___ _ _ ___| |__ _ _ _  ___
 | (__/ _ \ '_/ -_) / _` | ' \/ -_)
  \___\___/_| \___|_\__,_|_||_\___|

  core 0  o==>  o==>  o==>      sockets
            \     \     \
  core 1     o==>  o==>  o==>   shards

";

/// LOLWUT [VERSION version] [...]
pub fn lolwut(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    if arguments.len() >= 3 && is_option(arguments.get(1), "VERSION") {
        // There is one picture for all versions.
        integer(arguments.get(2))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{ART}Corelane ver. {version}\nRedis ver. {REDIS_VERSION}\n");
    context.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// What SHUTDOWN's arguments ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShutdownRequest {
    /// Connections are drained, logs synced, shards closed. SAVE and NOSAVE make no difference: everything that was
    /// acknowledged is in the log.
    Orderly,
    /// Without waiting for clients.
    Now,
    /// A shutdown that was asked for is not to happen.
    Abort,
}

impl ShutdownRequest {
    fn parse<'a>(options: impl Iterator<Item = &'a [u8]>) -> Result<ShutdownRequest, CommandError> {
        let [mut save, mut nosave, mut now, mut force, mut abort] = [false; 5];
        for option in options {
            match option {
                _ if is_option(option, "SAVE") => save = true,
                _ if is_option(option, "NOSAVE") => nosave = true,
                _ if is_option(option, "NOW") => now = true,
                // Makes Redis go down although its RDB file could not be written; there is no such file here.
                _ if is_option(option, "FORCE") => force = true,
                _ if is_option(option, "ABORT") => abort = true,
                _ => return Err(CommandError::Syntax),
            }
        }
        match (abort, now) {
            _ if save && nosave || abort && (save || nosave || now || force) => Err(CommandError::Syntax),
            (true, _) => Ok(ShutdownRequest::Abort),
            (false, true) => Ok(ShutdownRequest::Now),
            (false, false) => Ok(ShutdownRequest::Orderly),
        }
    }
}

/// SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] | ABORT: the reply is the connection's end.
pub fn shutdown(context: &mut NetworkContext<'_>) -> Outcome {
    let shutdown = &context.server.shutdown;
    match ShutdownRequest::parse(context.arguments.iter().skip(1))? {
        ShutdownRequest::Abort if shutdown.is_requested() => {
            return Err(CommandError::text(
                "ERR The shutdown is under way and cannot be aborted.",
            ));
        }
        ShutdownRequest::Abort => return Err(CommandError::text("ERR No shutdown in progress.")),
        ShutdownRequest::Orderly => shutdown.request(),
        ShutdownRequest::Now => shutdown.request_now(),
    }
    tracing::info!(client = context.session.client.id, "SHUTDOWN");
    context.session.closing = true;
    Ok(())
}

/// The longest DEBUG SLEEP in seconds: a typing error should not keep a connection for ever.
const DEBUG_SLEEP_SECONDS_MAX: f64 = 3600.0;

/// DEBUG SLEEP seconds | HELP. Redis stops for that time; here only the client that asks waits for its reply.
pub fn debug(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        2 if is_option(arguments.get(1), "HELP") => help(
            context,
            &[
                "SLEEP <seconds>",
                "    Wait for <seconds> before answering. Decimals allowed.",
            ],
        ),
        3 if is_option(arguments.get(1), "SLEEP") => {
            // As in Redis, whose strtod reads a word that is no number as 0.
            let seconds = parse_double(arguments.get(2)).unwrap_or(0.0);
            let timeout_ms = (seconds.clamp(0.0, DEBUG_SLEEP_SECONDS_MAX) * 1000.0).ceil() as u64;
            context.waits = (timeout_ms > 0).then_some(WaitHere {
                timeout_ms,
                until: Until::TimeIsUp,
            });
            context.reply.ok();
        }
        _ => {
            let name = CommandError::quoted(arguments.get(1)).into_owned();
            return Err(CommandError::text(format!(
                "ERR unknown subcommand or wrong number of arguments for '{name}'. Try DEBUG HELP."
            )));
        }
    }
    Ok(())
}

// ---- HELP ----

/// Answers HELP of a family of subcommands: `lines` between the heading and HELP's own lines.
pub(super) fn help(context: &mut NetworkContext<'_>, lines: &[&str]) {
    let family = context
        .command
        .container()
        .unwrap_or(context.command.name)
        .to_ascii_uppercase();
    let reply = &mut context.reply;
    reply.array(lines.len() + 3);
    reply.simple(&format!(
        "{family} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    lines.iter().for_each(|line| reply.simple(line));
    reply.simple("HELP");
    reply.simple("    Print this help.");
}

/// COMMAND HELP
pub fn command_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "(no subcommand)",
            "    Return details about all Redis commands.",
            "COUNT",
            "    Return the total number of commands in this Redis server.",
            "LIST",
            "    Return a list of all commands in this Redis server.",
            "INFO [<command-name> ...]",
            "    Return details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "DOCS [<command-name> ...]",
            "    Return documentation details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "GETKEYS <full-command>",
            "    Return the keys from a full Redis command.",
        ],
    );
    Ok(())
}

/// CONFIG HELP
pub fn config_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "GET <pattern>",
            "    Return parameters matching the glob-like <pattern> and their values.",
            "SET <directive> <value>",
            "    Set the configuration <directive> to <value>.",
            "RESETSTAT",
            "    Reset statistics reported by the INFO command.",
            "REWRITE",
            "    Rewrite the configuration file.",
        ],
    );
    Ok(())
}

/// OBJECT HELP
pub fn object_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "ENCODING <key>",
            "    Return the kind of internal representation used in order to store the value",
            "    associated with a <key>.",
            "FREQ <key>",
            "    Return the access frequency index of the <key>. The returned integer is",
            "    proportional to the logarithm of the recent access frequency of the key.",
            "IDLETIME <key>",
            "    Return the idle time of the <key>, that is the approximated number of",
            "    seconds elapsed since the last access to the key.",
            "REFCOUNT <key>",
            "    Return the number of references of the value associated with the specified",
            "    <key>.",
        ],
    );
    Ok(())
}

/// PFSELFTEST, on a thread of its own, as the test takes a while.
pub fn pfselftest(context: &mut NetworkContext<'_>) -> Outcome {
    let version = context.reply.version();
    context.deferred = Some(Box::new(move || {
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, version);
        match hyperloglog::self_test() {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(format!("ERR TESTFAILED {failure}")),
        }
        bytes
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> &'static Command {
        crate::rows::install();
        find_full_name(name.as_bytes()).unwrap_or_else(|| panic!("{name} has a row"))
    }

    #[test]
    fn full_names_find_commands_and_subcommands() {
        assert_eq!(row("GET").name, "get");
        assert_eq!(row("config|GET").name, "config|get");
        assert!(find_full_name(b"get|x").is_none());
        assert!(find_full_name(b"config|").is_none());
        assert!(find_full_name(b"|get").is_none());
    }

    #[test]
    fn key_specifications_say_what_happens_to_the_keys() {
        let specifications = |name| {
            let of = key_specifications(row(name));
            of.into_iter()
                .map(|one| (one.keys.first, one.keys.last, one.flags.join(" ")))
                .collect::<Vec<_>>()
        };
        assert_eq!(specifications("get"), [(1, 1, "RO access".to_owned())]);
        assert_eq!(specifications("mset"), [(1, -1, "OW update".to_owned())]);
        assert_eq!(
            specifications("copy"),
            [(1, 1, "RO access".to_owned()), (2, 2, "OW update".to_owned())]
        );
        assert_eq!(specifications("ping"), []);
    }

    #[test]
    fn tips_follow_from_where_a_command_runs() {
        assert_eq!(
            tips(row("del")),
            ["request_policy:multi_shard", "response_policy:agg_sum"]
        );
        assert_eq!(tips(row("mget")), ["request_policy:multi_shard"]);
        assert_eq!(
            tips(row("flushall")),
            ["request_policy:all_shards", "response_policy:all_succeeded"]
        );
        assert_eq!(tips(row("get")), [""; 0]);
    }

    #[test]
    fn config_get_gives_each_name_once_as_it_was_spelled() {
        let settings = Settings::default();
        let names = |patterns: &[&str]| -> Vec<String> {
            let patterns = patterns.iter().map(|pattern| pattern.as_bytes().to_vec());
            matching_settings(&settings, patterns)
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(names(&["TimeOut", "timeout", "timeou?"]), ["TimeOut"]);
        assert_eq!(names(&["TIMEOU*", "TIMEOUT"]), ["timeout"]);
        assert_eq!(names(&["no-such-setting", "\u{e9}"]), [""; 0]);
        assert_eq!(names(&["*"]).len(), Settings::names().count());
    }

    #[test]
    fn shutdown_refuses_what_contradicts_itself() {
        let parse = |line: &str| ShutdownRequest::parse(line.split_whitespace().map(str::as_bytes));
        for (line, expected) in [
            ("", ShutdownRequest::Orderly),
            ("save force", ShutdownRequest::Orderly),
            ("NOSAVE NOW", ShutdownRequest::Now),
            ("abort", ShutdownRequest::Abort),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
        for line in ["save nosave", "abort now", "abort force", "what"] {
            assert_eq!(parse(line), Err(CommandError::Syntax), "{line}");
        }
    }
}
