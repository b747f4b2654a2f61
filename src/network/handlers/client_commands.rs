//! CLIENT: what clients say about themselves, LIST and KILL, PAUSE and UNBLOCK.

use super::connection_commands::{DEFAULT_USER, version_number};
use super::server_commands::help;
use crate::clock;
use crate::command;
use crate::commands::arguments::is_option;
use crate::error::CommandError;
use crate::network::session::{NetworkContext, ReplyMode, Session};
use crate::number::parse_integer;
use crate::registry::clients::{Client, Unblocked};
use crate::registry::subscribers::Kind;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

type Outcome = Result<(), CommandError>;

/// CLIENT ID
pub fn client_id(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.integer(context.session.client.id as i64);
    Ok(())
}

/// CLIENT GETNAME
pub fn client_getname(context: &mut NetworkContext<'_>) -> Outcome {
    match context.session.client.names().name.as_str() {
        "" => context.reply.null(),
        name => context.reply.text(name),
    }
    Ok(())
}

/// Refuses what would break the lines of CLIENT LIST; `what` begins the error's sentence.
pub(super) fn check_attribute(value: &[u8], what: &str) -> Outcome {
    match value.iter().all(u8::is_ascii_graphic) {
        true => Ok(()),
        false => Err(CommandError::text(format!(
            "ERR {what} cannot contain spaces, newlines or special characters."
        ))),
    }
}

/// An argument as CLIENT LIST shows it.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// CLIENT SETNAME name: an empty name takes the name away.
pub fn client_setname(context: &mut NetworkContext<'_>) -> Outcome {
    let name = context.arguments.get(2);
    check_attribute(name, "Client names")?;
    context.session.client.names().name = text(name);
    context.reply.ok();
    Ok(())
}

/// CLIENT SETINFO LIB-NAME name | LIB-VER version
pub fn client_setinfo(context: &mut NetworkContext<'_>) -> Outcome {
    let (option, value) = (context.arguments.get(2), context.arguments.get(3));
    let is_name = is_option(option, "LIB-NAME");
    if !is_name && !is_option(option, "LIB-VER") {
        return Err(CommandError::text(format!(
            "ERR Unrecognized option '{}'",
            text(option)
        )));
    }
    check_attribute(value, &text(option))?;
    let mut names = context.session.client.names();
    match is_name {
        true => names.library = text(value),
        false => names.library_version = text(value),
    }
    drop(names);
    context.reply.ok();
    Ok(())
}

/// The figures of a CLIENT LIST line that its connection publishes once per turn, or that are fresher for the client
/// that asks.
struct Latest {
    database: u64,
    version: i64,
    command: &'static str,
    idle_s: u64,
    argument_bytes: usize,
    /// Commands since MULTI; `None` outside of it.
    queued: Option<u64>,
    queue_bytes: u64,
    watched_keys: u64,
}

impl Latest {
    fn published(client: &Client, now_ms: u64) -> Latest {
        let command = usize::try_from(client.last_command.get())
            .ok()
            .and_then(|index| command::all().get(index));
        Latest {
            database: client.database.get(),
            version: client.version.get() as i64,
            command: command.map_or("NULL", |row| row.name),
            idle_s: now_ms.saturating_sub(client.active_at_ms.get()) / 1000,
            argument_bytes: 0,
            queued: client.multi.get().checked_sub(1),
            queue_bytes: client.multi_bytes.get(),
            watched_keys: client.watched_keys.get(),
        }
    }

    fn of_asking(context: &NetworkContext<'_>) -> Latest {
        let transaction = &context.session.transaction;
        let queued = transaction.shown_commands().map(|count| count as u64);
        Latest {
            database: u64::from(context.session.database),
            version: version_number(context.session.version),
            // A command of an EXEC runs in the name of the EXEC.
            command: queued.map_or(context.command.name, |_| "exec"),
            idle_s: 0,
            argument_bytes: context.arguments.iter().map(<[u8]>::len).sum(),
            queued,
            queue_bytes: transaction.memory() as u64,
            watched_keys: transaction.watched_keys() as u64,
        }
    }
}

/// Redis's letters for a client's state, `N` for none of them.
fn state_letters(client: &Client, (in_multi, is_dirty, closing): (bool, bool, bool)) -> String {
    let states = [
        (client.is_monitor.load(Ordering::Relaxed), 'O'),
        (client.is_subscriber(), 'P'),
        (in_multi, 'x'),
        (is_dirty, 'd'),
        (client.is_blocked(), 'b'),
        (closing, 'c'),
        (client.is_killed(), 'A'),
        (client.tracking.get() & 1 > 0, 't'),
        (client.tracking.get() & 2 > 0, 'R'),
        (client.tracking.get() & 4 > 0, 'B'),
        (client.no_evict.load(Ordering::Relaxed), 'e'),
        (client.no_touch.load(Ordering::Relaxed), 'T'),
    ];
    let letters: String = states
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, letter)| letter)
        .collect();
    if letters.is_empty() { "N".to_owned() } else { letters }
}

/// One client as a line of CLIENT LIST, without the line's end. No peak of the reply buffer is kept: `rbp` is the
/// present size too.
fn write_line(out: &mut String, client: &Client, latest: &Latest, letters: &str, now_ms: u64) {
    let names = client.names();
    let (input_bytes, output_bytes) = (client.input_bytes.get(), client.output_bytes.get());
    let name_bytes = names.name.len() + names.library.len() + names.library_version.len();
    let own_bytes = size_of::<Client>() + size_of::<Session>() + name_bytes + latest.argument_bytes;
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={letters} db={} sub={} psub={} ssub={} multi={} \
         watch={} qbuf={input_bytes} qbuf-free=0 argv-mem={} multi-mem={} rbs={output_bytes} rbp={output_bytes} \
         obl={output_bytes} oll=0 omem={output_bytes} tot-mem={} events={} cmd={} user={DEFAULT_USER} redir={} resp={} \
         lib-name={} lib-ver={}",
        client.id,
        client.address,
        client.local_address,
        client.descriptor,
        names.name,
        now_ms.saturating_sub(client.connected_at_ms) / 1000,
        latest.idle_s,
        latest.database,
        client.subscriptions[Kind::Channel as usize].get(),
        client.subscriptions[Kind::Pattern as usize].get(),
        client.subscriptions[Kind::ShardChannel as usize].get(),
        latest.queued.map_or(-1, |count| count as i64),
        latest.watched_keys,
        latest.argument_bytes,
        latest.queue_bytes,
        own_bytes as u64 + input_bytes + output_bytes + latest.queue_bytes + client.waiting_bytes.get(),
        // A client with output left waits for its socket in both directions.
        if output_bytes > 0 { "rw" } else { "r" },
        latest.command,
        // No redirection is shown as -1.
        client.redirect.get() as i64,
        latest.version,
        names.library,
        names.library_version,
    );
}

/// The lines of some clients, each with its end.
fn lines(context: &NetworkContext<'_>, clients: &[Arc<Client>]) -> String {
    let now_ms = clock::unix_ms();
    let mut lines = String::new();
    let mut dirty: BTreeSet<u64> = BTreeSet::new();
    for storage in &context.server.storage {
        dirty.extend(
            storage
                .dirty_clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter(),
        );
    }
    for client in clients {
        let asks = client.id == context.session.client.id;
        let mut latest = if asks {
            Latest::of_asking(context)
        } else {
            Latest::published(client, now_ms)
        };
        let is_dirty = dirty.contains(&client.id);
        if is_dirty {
            // EXEC will not run in any case, so the executors have forgotten what else the client watches.
            latest.watched_keys = 0;
        }
        let closing = asks && context.session.closing;
        let letters = state_letters(client, (latest.queued.is_some(), is_dirty, closing));
        write_line(&mut lines, client, &latest, &letters, now_ms);
        lines.push('\n');
    }
    lines
}

/// The clients that CLIENT LIST and CLIENT KILL see: without those that were killed and that their executors have not
/// closed yet.
fn live_clients(context: &NetworkContext<'_>) -> Vec<Arc<Client>> {
    let mut clients = context.server.clients.all();
    clients.retain(|client| !client.is_killed());
    clients
}

/// CLIENT INFO
pub fn client_info(context: &mut NetworkContext<'_>) -> Outcome {
    let line = lines(context, &[Arc::clone(&context.session.client)]);
    context.reply.verbatim("txt", line.as_bytes());
    Ok(())
}

/// What a `TYPE` option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientType {
    Normal,
    /// Clients that subscribe to something.
    PubSub,
    /// Replicas and masters: there are none here.
    Nobody,
}

impl ClientType {
    fn parse(kind: &[u8]) -> Result<ClientType, CommandError> {
        let types = [
            ("normal", ClientType::Normal),
            ("pubsub", ClientType::PubSub),
            ("slave", ClientType::Nobody),
            ("replica", ClientType::Nobody),
            ("master", ClientType::Nobody),
        ];
        let found = types.iter().find(|(name, _)| is_option(kind, name));
        found
            .map(|(_, client_type)| *client_type)
            .ok_or_else(|| CommandError::text(format!("ERR Unknown client type '{}'", text(kind))))
    }

    fn has(self, client: &Client) -> bool {
        match self {
            ClientType::Normal => !client.is_subscriber(),
            ClientType::PubSub => client.is_subscriber(),
            ClientType::Nobody => false,
        }
    }
}

/// CLIENT LIST [TYPE kind | ID id [id ...]]
pub fn client_list(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut clients = live_clients(context);
    match arguments.len() {
        2 => {}
        4 if is_option(arguments.get(2), "TYPE") => {
            let client_type = ClientType::parse(arguments.get(3))?;
            clients.retain(|client| client_type.has(client));
        }
        count if count > 3 && is_option(arguments.get(2), "ID") => {
            let ids = arguments
                .iter()
                .skip(3)
                .map(parse_integer)
                .collect::<Option<Vec<i64>>>();
            let ids = ids.ok_or_else(|| CommandError::text("ERR Invalid client ID"))?;
            // The lines come in the order in which they are asked for; the clients are sorted by id.
            let find = |id: &i64| {
                let id = u64::try_from(*id).ok()?;
                clients
                    .binary_search_by_key(&id, |client| client.id)
                    .ok()
                    .map(|index| Arc::clone(&clients[index]))
            };
            clients = ids.iter().filter_map(find).collect();
        }
        _ => return Err(CommandError::Syntax),
    }
    let lines = lines(context, &clients);
    context.reply.verbatim("txt", lines.as_bytes());
    Ok(())
}

/// Which clients CLIENT KILL means.
#[derive(Debug, PartialEq, Eq)]
struct KillFilter {
    id: Option<u64>,
    address: Option<String>,
    local_address: Option<String>,
    client_type: Option<ClientType>,
    skip_me: bool,
}

impl KillFilter {
    /// Reads pairs of option and value.
    fn parse<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> Result<KillFilter, CommandError> {
        let mut filter = KillFilter {
            id: None,
            address: None,
            local_address: None,
            client_type: None,
            skip_me: true,
        };
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(CommandError::Syntax)?;
            match option {
                _ if is_option(option, "ID") => {
                    let id = parse_integer(value)
                        .and_then(|id| u64::try_from(id).ok())
                        .filter(|id| *id > 0);
                    filter.id = Some(id.ok_or_else(|| CommandError::text("ERR client-id should be greater than 0"))?);
                }
                _ if is_option(option, "TYPE") => filter.client_type = Some(ClientType::parse(value)?),
                _ if is_option(option, "ADDR") => filter.address = Some(text(value)),
                _ if is_option(option, "LADDR") => filter.local_address = Some(text(value)),
                _ if is_option(option, "USER") => {
                    if value != DEFAULT_USER.as_bytes() {
                        return Err(CommandError::text(format!("ERR No such user '{}'", text(value))));
                    }
                }
                _ if is_option(option, "SKIPME") && is_option(value, "yes") => filter.skip_me = true,
                _ if is_option(option, "SKIPME") && is_option(value, "no") => filter.skip_me = false,
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(filter)
    }

    fn selects(&self, client: &Client, own_id: u64) -> bool {
        self.client_type.is_none_or(|client_type| client_type.has(client))
            && self.id.is_none_or(|id| client.id == id)
            && self
                .address
                .as_ref()
                .is_none_or(|address| client.address.to_string() == *address)
            && self
                .local_address
                .as_ref()
                .is_none_or(|address| client.local_address.to_string() == *address)
            && !(self.skip_me && client.id == own_id)
    }
}

/// CLIENT KILL address, the old form, and CLIENT KILL option value [option value ...]
pub fn client_kill(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let old_form = arguments.len() == 3;
    let filter = match old_form {
        true => KillFilter {
            id: None,
            address: Some(text(arguments.get(2))),
            local_address: None,
            client_type: None,
            skip_me: false,
        },
        false => KillFilter::parse(arguments.iter().skip(2))?,
    };
    let own_id = context.session.client.id;
    let mut killed = 0;
    for client in live_clients(context)
        .iter()
        .filter(|client| filter.selects(client, own_id))
    {
        killed += 1;
        // The client that asks is answered before it goes.
        match client.id == own_id {
            true => context.session.closing = true,
            false => context.server.clients.kill(client),
        }
    }
    match (old_form, killed) {
        (true, 0) => return Err(CommandError::text("ERR No such client")),
        (true, _) => context.reply.ok(),
        (false, killed) => context.reply.integer(killed),
    }
    Ok(())
}

/// An argument that is ON or OFF.
fn on_or_off(argument: &[u8]) -> Result<bool, CommandError> {
    match argument {
        _ if is_option(argument, "ON") => Ok(true),
        _ if is_option(argument, "OFF") => Ok(false),
        _ => Err(CommandError::Syntax),
    }
}

/// CLIENT NO-EVICT ON | OFF: kept for show, as no client is ever evicted for memory.
pub fn client_no_evict(context: &mut NetworkContext<'_>) -> Outcome {
    let on = on_or_off(context.arguments.get(2))?;
    context.session.client.no_evict.store(on, Ordering::Relaxed);
    context.reply.ok();
    Ok(())
}

/// CLIENT NO-TOUCH ON | OFF: kept for show, as no time of last use is kept.
pub fn client_no_touch(context: &mut NetworkContext<'_>) -> Outcome {
    let on = on_or_off(context.arguments.get(2))?;
    context.session.client.no_touch.store(on, Ordering::Relaxed);
    context.reply.ok();
    Ok(())
}

/// CLIENT REPLY ON | OFF | SKIP: only ON is answered.
pub fn client_reply(context: &mut NetworkContext<'_>) -> Outcome {
    let mode = context.arguments.get(2);
    if is_option(mode, "SKIP") {
        if context.session.reply_mode != ReplyMode::Off {
            context.session.reply_mode = ReplyMode::SkipNext;
        }
    } else if on_or_off(mode)? {
        context.session.reply_mode = ReplyMode::On;
        context.reply.ok();
    } else {
        context.session.reply_mode = ReplyMode::Off;
    }
    Ok(())
}

/// CLIENT PAUSE milliseconds [WRITE | ALL]
pub fn client_pause(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let writes_only = match arguments.len() {
        3 => false,
        4 if is_option(arguments.get(3), "WRITE") => true,
        4 if is_option(arguments.get(3), "ALL") => false,
        4 => return Err(CommandError::text("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => {
            return Err(CommandError::text(format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try CLIENT HELP.",
                text(arguments.get(1))
            )));
        }
    };
    let span_ms = parse_integer(arguments.get(2))
        .ok_or_else(|| CommandError::text("ERR timeout is not an integer or out of range"))?;
    let span_ms = u64::try_from(span_ms).map_err(|_| CommandError::text("ERR timeout is negative"))?;
    let until_ms = span_ms + clock::unix_ms();
    if i64::try_from(until_ms).is_err() {
        return Err(CommandError::text("ERR timeout is out of range"));
    }
    if span_ms > 0 {
        context.server.pause.begin(until_ms, writes_only);
    }
    context.reply.ok();
    Ok(())
}

/// CLIENT UNBLOCK client-id [TIMEOUT | ERROR]
pub fn client_unblock(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let how = match arguments.len() {
        3 => Unblocked::Timeout,
        4 if is_option(arguments.get(3), "TIMEOUT") => Unblocked::Timeout,
        4 if is_option(arguments.get(3), "ERROR") => Unblocked::Error,
        4 => {
            return Err(CommandError::text(
                "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            ));
        }
        _ => {
            return Err(CommandError::text(format!(
                "ERR unknown subcommand or wrong number of arguments for '{}'. Try CLIENT HELP.",
                text(arguments.get(1))
            )));
        }
    };
    let id = parse_integer(arguments.get(2)).ok_or(CommandError::NotAnInteger)?;
    let clients = &context.server.clients;
    let client = u64::try_from(id).ok().and_then(|id| clients.find(id));
    let unblocked = client.is_some_and(|client| clients.unblock(&client, how));
    context.reply.integer(i64::from(unblocked));
    Ok(())
}

/// CLIENT UNPAUSE
pub fn client_unpause(context: &mut NetworkContext<'_>) -> Outcome {
    context.server.pause.end();
    context.reply.ok();
    Ok(())
}

/// CLIENT HELP
pub fn client_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(context, CLIENT_HELP);
    Ok(())
}

const CLIENT_HELP: &[&str] = &[
    "CACHING (YES|NO)",
    "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "    * ID <client-id> [<client-id> [...]]",
    "      Return clients of the specified IDs.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "    Control server assisted client side caching.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::clients::Clients;

    fn words(line: &str) -> impl Iterator<Item = &[u8]> {
        line.split_whitespace().map(str::as_bytes)
    }

    fn two_clients() -> (Clients, Vec<Arc<Client>>) {
        let clients = Clients::default();
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        for port in [1000, 2000] {
            clients
                .add((address(port), address(6379)), 7, 0, 10)
                .expect("there is room for both");
        }
        let all = clients.all();
        (clients, all)
    }

    #[test]
    fn kill_selects_by_all_of_its_filters() {
        let (_clients, all) = two_clients();
        let own_id = all[0].id;
        let selected = |line: &str| -> Vec<u64> {
            let filter = KillFilter::parse(words(line)).expect("the filter is right");
            all.iter()
                .filter(|client| filter.selects(client, own_id))
                .map(|client| client.id)
                .collect()
        };
        assert_eq!(selected(""), [2]);
        assert_eq!(selected("SKIPME no"), [1, 2]);
        assert_eq!(selected("ADDR 127.0.0.1:1000"), [0; 0]);
        assert_eq!(selected("addr 127.0.0.1:1000 skipme NO"), [1]);
        assert_eq!(selected("LADDR 127.0.0.1:6379 USER default TYPE normal"), [2]);
        assert_eq!(selected("ID 2 LADDR 127.0.0.1:6380"), [0; 0]);
        assert_eq!(selected("TYPE pubsub SKIPME no"), [0; 0]);
    }

    #[test]
    fn a_line_has_the_fields_of_redis_in_its_order() {
        crate::rows::install();
        let (_clients, all) = two_clients();
        let client = &all[1];
        client.names().library = "lib".to_owned();
        client.database.set(3);
        client.no_touch.store(true, Ordering::Relaxed);
        let now_ms = client.connected_at_ms + 5000;
        let mut line = String::new();
        write_line(
            &mut line,
            client,
            &Latest::published(client, now_ms),
            &state_letters(client, (false, false, true)),
            now_ms,
        );
        let names: Vec<&str> = line
            .split(' ')
            .map(|field| field.split_once('=').expect("a field has a =").0)
            .collect();
        let expected = "id addr laddr fd name age idle flags db sub psub ssub multi watch qbuf qbuf-free argv-mem \
                        multi-mem rbs rbp obl oll omem tot-mem events cmd user redir resp lib-name lib-ver";
        assert_eq!(names.join(" "), expected);
        assert!(
            line.starts_with("id=2 addr=127.0.0.1:2000 laddr=127.0.0.1:6379 fd=7 name= age=5 idle=5 flags=cT db=3 ")
        );
        assert!(
            line.ends_with(" events=r cmd=NULL user=default redir=-1 resp=2 lib-name=lib lib-ver="),
            "{line}"
        );
    }
}
