//! The command table: one row per command, read by dispatch, routing, COMMAND, INFO commandstats and the README's list.
//!
//! A new command is one row, one handler and one transcript.

use super::arguments::{self, is_option};
use super::sorted_sets::{algebra, members, ranges};
use super::{
    Handler, bits, blocking, client_tracking, connection_commands, dump, field_expiry, function_commands, geo, hashes,
    hyperloglog, keys, lists, multi_exec, persistence, pubsub, scripting, server_commands, sets, sort, stream_deletion,
    stream_groups, streams, strings,
};
use crate::executor::locks::Place;
use crate::executor::participant::Step;
use crate::network::session::NetworkHandler;
use crate::number::parse_integer;
use crate::protocol::Arguments;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a command is like: a set of the constants beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

/// Changes data.
pub const WRITE: Flags = Flags(1);
/// Only reads data.
pub const READ: Flags = Flags(1 << 1);
/// Refused when memory runs out (Redis's word; here it can need disk space).
pub const DENY_OOM: Flags = Flags(1 << 2);
/// For administrators.
pub const ADMIN: Flags = Flags(1 << 3);
/// O(1) or O(log n).
pub const FAST: Flags = Flags(1 << 4);
/// Not allowed in scripts.
pub const NO_SCRIPT: Flags = Flags(1 << 5);
/// Allowed before AUTH.
pub const NO_AUTH: Flags = Flags(1 << 6);
/// Allowed while data is being loaded.
pub const LOADING: Flags = Flags(1 << 7);
/// Allowed on a replica without a master.
pub const STALE: Flags = Flags(1 << 8);
/// Runs at low priority: it looks at a whole shard.
pub const LOW_PRIORITY: Flags = Flags(1 << 9);
/// Not allowed inside a transaction.
pub const NO_MULTI: Flags = Flags(1 << 10);
/// Not a client's command: executors send it to each other.
pub const INTERNAL: Flags = Flags(1 << 11);
/// Dangerous, says its ACL category.
pub const DANGEROUS: Flags = Flags(1 << 12);
/// May wait for something to happen.
pub const BLOCKING: Flags = Flags(1 << 13);
/// What it changes in a key that is there before and after counts for neither WATCH nor client-side caches, as in
/// Redis.
pub const QUIET: Flags = Flags(1 << 14);
/// Refused where `enable-debug-command` does not allow it. Not shown.
pub const PROTECTED: Flags = Flags(1 << 21);
/// Writes, and its look-ups count as hits and misses all the same, as in Redis: it answers what was there. Not shown.
pub const COUNTS_LOOK_UPS: Flags = Flags(1 << 22);
/// Runs a script, which may call any command. Not shown.
pub const RUNS_SCRIPT: Flags = Flags(1 << 20);

/// About channels.
pub const PUBSUB: Flags = Flags(1 << 16);
/// Publishes: waits while subscribers are behind, and is a write to CLIENT PAUSE.
pub const PUBLISHES: Flags = Flags(1 << 17);

/// The flags that COMMAND shows, with Redis's names.
const SHOWN: [(Flags, &str); 12] = [
    (WRITE, "write"),
    (READ, "readonly"),
    (DENY_OOM, "denyoom"),
    (ADMIN, "admin"),
    (PUBSUB, "pubsub"),
    (NO_SCRIPT, "noscript"),
    (BLOCKING, "blocking"),
    (LOADING, "loading"),
    (STALE, "stale"),
    (FAST, "fast"),
    (NO_AUTH, "no_auth"),
    (NO_MULTI, "no_multi"),
];

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl Flags {
    const NONE: Flags = Flags(0);

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The names that COMMAND shows.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        SHOWN
            .iter()
            .filter(move |(flag, _)| self.has(*flag))
            .map(|(_, name)| *name)
    }
}

/// Where a command's keys are among its arguments (its name is argument 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The first key, 0 for no keys.
    pub first: usize,
    /// The last key; negative ones count from the end.
    pub last: i32,
    /// From one key to the next.
    pub step: usize,
    /// Keys whose places depend on other arguments.
    pub more: MoreKeys,
}

/// Keys that are found by what other arguments say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoreKeys {
    /// There are none.
    None,
    /// Behind the argument at this place, which says how many (ZUNION, LMPOP…).
    Counted(usize),
    /// The first half of what follows the word STREAMS (XREAD, XREADGROUP).
    Streams,
    /// Behind the last STORE or STOREDIST (GEORADIUS).
    Store,
    /// Behind the last STORE of SORT's options, of which some take operands.
    SortStore,
}

impl MoreKeys {
    fn places(self, arguments: Arguments<'_>) -> std::ops::Range<usize> {
        let count = arguments.len();
        let find = |word: &str| (1..count).rev().find(|place| is_option(arguments.get(*place), word));
        match self {
            MoreKeys::None => 0..0,
            MoreKeys::Counted(at) if at < count => {
                let said = parse_integer(arguments.get(at)).and_then(|said| usize::try_from(said).ok());
                let end = at.saturating_add(1).saturating_add(said.unwrap_or(0));
                at + 1..end.min(count)
            }
            MoreKeys::Counted(_) => 0..0,
            MoreKeys::Streams => {
                let mut word = 1;
                while word < count && !is_option(arguments.get(word), "STREAMS") {
                    // A group may be called "streams".
                    word += match arguments.get(word) {
                        option if is_option(option, "GROUP") => 3,
                        option if is_option(option, "BLOCK") || is_option(option, "COUNT") => 2,
                        option if is_option(option, "NOACK") => 1,
                        _ => return 0..0,
                    };
                }
                let keys = count.saturating_sub(word + 1) / 2;
                word + 1..word + 1 + keys
            }
            MoreKeys::Store => match find("STORE").max(find("STOREDIST")) {
                Some(word) if word + 1 < count => word + 1..word + 2,
                _ => 0..0,
            },
            MoreKeys::SortStore => {
                let (mut at, mut target) = (2, 0..0);
                while at < count {
                    at += match arguments.get(at) {
                        option if is_option(option, "LIMIT") => 2,
                        option if is_option(option, "GET") || is_option(option, "BY") => 1,
                        option if is_option(option, "STORE") && at + 1 < count => {
                            target = at + 1..at + 2;
                            1
                        }
                        _ => 0,
                    };
                    at += 1;
                }
                target
            }
        }
    }
}

impl Keys {
    const fn none() -> Keys {
        Keys {
            first: 0,
            last: 0,
            step: 0,
            more: MoreKeys::None,
        }
    }

    const fn at(place: usize) -> Keys {
        Keys {
            first: place,
            last: place as i32,
            step: 1,
            more: MoreKeys::None,
        }
    }

    const fn range(first: usize, last: i32, step: usize) -> Keys {
        Keys {
            first,
            last,
            step,
            more: MoreKeys::None,
        }
    }

    /// These keys, and more that other arguments name.
    const fn and(self, more: MoreKeys) -> Keys {
        Keys { more, ..self }
    }

    /// Whether there may be any.
    pub fn are_some(self) -> bool {
        self.first > 0 || self.more != MoreKeys::None
    }

    /// The places of the keys among `arguments`.
    #[inline]
    pub fn places(self, arguments: Arguments<'_>) -> impl Iterator<Item = usize> + Clone {
        let count = arguments.len();
        let last = if self.last < 0 {
            count as i64 + i64::from(self.last)
        } else {
            i64::from(self.last)
        };
        let end = if self.first == 0 {
            0
        } else {
            usize::try_from(last + 1).unwrap_or(0).min(count)
        };
        let more = match self.more {
            MoreKeys::None => 0..0,
            more => more.places(arguments),
        };
        (self.first..end.max(self.first)).step_by(self.step.max(1)).chain(more)
    }

    /// The keys among `arguments`.
    pub fn of(self, arguments: Arguments<'_>) -> impl Iterator<Item = &[u8]> {
        self.places(arguments).map(move |place| arguments.get(place))
    }
}

/// How the replies of a command's parts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The sum of integers.
    Sum,
    /// OK if all said OK, or else the first error.
    AllOk,
    /// One array with the elements of all.
    Concatenate,
    /// The first reply that is not null, from a random part on.
    AnyOf,
}

/// Where a command runs.
#[derive(Clone, Copy)]
pub enum Runs {
    /// On the network executor of the connection.
    Network(NetworkHandler),
    /// On the shard of its keys, which is one.
    Shard(Handler),
    /// On all of its keys at once: where they lie on several storage executors, as a transaction.
    Transaction(Handler),
    /// On every storage executor as a transaction, and the replies are merged.
    All(Handler, Merge),
    /// On everything at once: where there are several storage executors, as a transaction.
    Whole(Handler),
    /// On every storage executor by itself, and the replies are merged.
    Each(Handler, Merge),
    /// On the shard that the cursor in argument 1 points into.
    Cursor(Handler),
    /// On a storage executor, as a step of a transaction over several.
    Step(Step),
    /// On the storage executor of what was queued since MULTI: runs all of it (EXEC).
    Exec(Handler),
    /// On each key's shard, which remembers for whom (WATCH).
    Watch(Handler),
    /// Nowhere: the row is a family of subcommands, each with a row of its own.
    Container,
}

/// One row of the table.
pub struct Command {
    /// The name in lower case; a subcommand's is `container|name`.
    pub name: &'static str,
    /// Arguments with the name: exactly, or at least if negative.
    pub arity: i32,
    /// What it is like.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// Where it runs, and its handler.
    pub runs: Runs,
    /// The family, as COMMAND DOCS names it.
    pub group: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// The version of Redis that had it first.
    pub since: &'static str,
}

impl Command {
    /// Whether a command with `count` arguments (its name among them) can be right.
    #[inline]
    pub fn accepts(&self, count: usize) -> bool {
        match usize::try_from(self.arity) {
            Ok(exact) => count == exact,
            Err(_) => count >= self.arity.unsigned_abs() as usize,
        }
    }

    /// Whether it may change data, with these arguments (EXEC's are what was queued).
    #[inline]
    pub fn writes(&self, arguments: Arguments<'_>) -> bool {
        match self.runs {
            Runs::Exec(_) => multi_exec::parts_of_exec(arguments).any(|(_, part, _)| part.may_write()),
            _ => self.may_write(),
        }
    }

    /// Whether it may change data: it writes, or runs commands or a script that may.
    #[inline]
    pub fn may_write(&self) -> bool {
        self.flags.has(WRITE) || matches!(self.runs, Exec(_)) || (self.flags.has(RUNS_SCRIPT) && !self.flags.has(READ))
    }

    /// The container's part of a subcommand's name.
    pub fn container(&self) -> Option<&'static str> {
        self.name.split_once('|').map(|(container, _)| container)
    }

    /// The row's place in [`COMMANDS`]: an index for per-command statistics. Internal rows have none and get the
    /// length.
    #[inline]
    pub fn index(&self) -> usize {
        let offset = std::ptr::from_ref(self).addr().wrapping_sub(COMMANDS.as_ptr().addr());
        (offset / size_of::<Command>()).min(COMMANDS.len())
    }

    /// The row with an [`Command::index`].
    pub fn of_index(index: usize) -> Option<&'static Command> {
        COMMANDS.get(index)
    }

    /// Whether its look-ups are counted as hits and misses; one that runs others has taken out what is not.
    pub fn counts_look_ups(&self) -> bool {
        [READ, COUNTS_LOOK_UPS, RUNS_SCRIPT]
            .iter()
            .any(|flag| self.flags.has(*flag))
            || matches!(self.runs, Exec(_))
    }

    /// The handler that runs on a storage executor, if there is one.
    pub fn storage_handler(&self) -> Option<Handler> {
        match self.runs {
            Shard(handler)
            | Transaction(handler)
            | All(handler, _)
            | Each(handler, _)
            | Whole(handler)
            | Cursor(handler)
            | Exec(handler)
            | Watch(handler) => Some(handler),
            Network(_) | Runs::Step(_) | Container => None,
        }
    }

    /// Its ACL categories without the `@`, in Redis's order.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut categories = Vec::new();
        // A container is in no family: permission is given for its subcommands.
        let is_container = matches!(self.runs, Runs::Container);
        let mut add = |condition: bool, name| {
            if condition {
                categories.push(name);
            }
        };
        let is_keyspace = self.group == "generic" && self.keys.are_some() && !SORTS.contains(&self.name);
        add(is_keyspace || KEYSPACE_WITHOUT_KEYS.contains(&self.name), "keyspace");
        add(self.flags.has(READ), "read");
        add(self.flags.has(WRITE), "write");
        for (group, category) in [
            ("set", "set"),
            ("sorted-set", "sortedset"),
            ("list", "list"),
            ("hash", "hash"),
            ("string", "string"),
            ("bitmap", "bitmap"),
            ("hyperloglog", "hyperloglog"),
            ("geo", "geo"),
            ("stream", "stream"),
            ("transactions", "transaction"),
        ] {
            let sorts_it = SORTS.contains(&self.name) && matches!(group, "set" | "sorted-set" | "list");
            add(self.group == group && !is_container || sorts_it, category);
        }
        add(self.flags.has(PUBSUB), "pubsub");
        add(self.flags.has(ADMIN), "admin");
        add(self.flags.has(FAST), "fast");
        add(!self.flags.has(FAST), "slow");
        add(self.flags.has(BLOCKING), "blocking");
        add(self.flags.has(ADMIN) || self.flags.has(DANGEROUS), "dangerous");
        // COMMAND and WAIT are about the connection, says Redis.
        add(
            self.group == "connection" && !is_container
                || self.name.starts_with("command")
                || WAITS_FOR_COPIES.contains(&self.name),
            "connection",
        );
        add(self.group == "scripting" && !is_container, "scripting");
        categories
    }
}

/// Commands that are in the families of what they sort.
const SORTS: [&str; 2] = ["sort", "sort_ro"];

/// Commands that wait until the connection's writes are on disk or elsewhere.
const WAITS_FOR_COPIES: [&str; 2] = ["wait", "waitaof"];

const KEYSPACE_WITHOUT_KEYS: [&str; 8] = [
    "dbsize",
    "flushall",
    "flushdb",
    "keys",
    "randomkey",
    "scan",
    "swapdb",
    "object|help",
];

/// The longest name of a command or subcommand, `memory|malloc-stats` and the like.
const NAME_LEN_MAX: usize = 32;

const fn command(
    name: &'static str,
    arity: i32,
    flags: Flags,
    keys: Keys,
    runs: Runs,
    (group, since, summary): (&'static str, &'static str, &'static str),
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        runs,
        group,
        summary,
        since,
    }
}

use Merge::{AllOk, AnyOf, Concatenate, Sum};
use Runs::{All, Container, Cursor, Each, Exec, Network, Shard, Transaction, Watch, Whole};

const fn or(a: Flags, b: Flags) -> Flags {
    Flags(a.0 | b.0)
}

const READ_FAST: Flags = or(READ, FAST);
const WRITE_FAST: Flags = or(WRITE, FAST);
const WRITE_OOM: Flags = or(WRITE, DENY_OOM);
const BLOCKING_WRITE: Flags = or(WRITE, BLOCKING);
const BLOCKING_OOM: Flags = or(BLOCKING_WRITE, DENY_OOM);
const WRITE_OOM_FAST: Flags = or(WRITE_OOM, FAST);
/// Commands about the connection or the server: allowed in every state.
const SESSION: Flags = or(or(NO_SCRIPT, LOADING), STALE);
const SESSION_FAST: Flags = or(SESSION, FAST);
const ADMINISTRATION: Flags = or(SESSION, ADMIN);
const INFORMATION: Flags = or(LOADING, STALE);
const PUBLISHING: Flags = or(or(INFORMATION, PUBSUB), PUBLISHES);
const SCRIPT: Flags = or(or(NO_SCRIPT, STALE), RUNS_SCRIPT);

/// All commands, by family and then by name.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    //      name             arity  flags            keys                  where it runs                      family,
    //      since, summary
    command("append",           3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::append),            ("string", "2.0.0", "Appends a string to the value of a key. Creates the key if it doesn't exist.")),
    command("decr",             2, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::decr),              ("string", "1.0.0", "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.")),
    command("decrby",           3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::decrby),            ("string", "1.0.0", "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.")),
    command("get",              2, READ_FAST,       Keys::at(1),          Shard(strings::get),               ("string", "1.0.0", "Returns the string value of a key.")),
    command("getdel",           2, or(WRITE_FAST, COUNTS_LOOK_UPS),    Keys::at(1),          Shard(strings::getdel),            ("string", "6.2.0", "Returns the string value of a key after deleting the key.")),
    command("getex",           -2, or(WRITE_FAST, COUNTS_LOOK_UPS),    Keys::at(1),          Shard(strings::getex),             ("string", "6.2.0", "Returns the string value of a key after setting its expiration time.")),
    command("getrange",         4, READ,            Keys::at(1),          Shard(strings::getrange),          ("string", "2.4.0", "Returns a substring of the string stored at a key.")),
    command("getset",           3, or(WRITE_OOM_FAST, COUNTS_LOOK_UPS),  Keys::at(1),          Shard(strings::getset),            ("string", "1.0.0", "Returns the previous string value of a key after setting it to a new value.")),
    command("incr",             2, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::incr),              ("string", "1.0.0", "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.")),
    command("incrby",           3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::incrby),            ("string", "1.0.0", "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.")),
    command("incrbyfloat",      3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::incrbyfloat),       ("string", "2.6.0", "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.")),
    command("lcs",             -3, READ,            Keys::range(1, 2, 1), Transaction(strings::lcs),         ("string", "7.0.0", "Finds the longest common substring.")),
    command("mget",            -2, READ_FAST,       Keys::range(1, -1, 1), Transaction(strings::mget),      ("string", "1.0.0", "Atomically returns the string values of one or more keys.")),
    command("mset",            -3, WRITE_OOM,       Keys::range(1, -1, 2), Transaction(strings::mset),       ("string", "1.0.1", "Atomically creates or modifies the string values of one or more keys.")),
    command("msetnx",          -3, WRITE_OOM,       Keys::range(1, -1, 2), Transaction(strings::msetnx),     ("string", "1.0.1", "Atomically modifies the string values of one or more keys only when all keys don't exist.")),
    command("psetex",           4, WRITE_OOM,       Keys::at(1),          Shard(strings::psetex),            ("string", "2.6.0", "Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist.")),
    command("set",             -3, WRITE_OOM,       Keys::at(1),          Shard(strings::set),               ("string", "1.0.0", "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.")),
    command("setex",            4, WRITE_OOM,       Keys::at(1),          Shard(strings::setex),             ("string", "2.0.0", "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.")),
    command("setnx",            3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::setnx),             ("string", "1.0.0", "Set the string value of a key only when the key doesn't exist.")),
    command("setrange",         4, WRITE_OOM,       Keys::at(1),          Shard(strings::setrange),          ("string", "2.2.0", "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.")),
    command("strlen",           2, READ_FAST,       Keys::at(1),          Shard(strings::strlen),            ("string", "2.2.0", "Returns the length of a string value.")),
    command("substr",           4, READ,            Keys::at(1),          Shard(strings::getrange),          ("string", "1.0.0", "Returns a substring from a string value.")),

    // Hashes.
    command("hdel",          -3, WRITE_FAST,      Keys::at(1),          Shard(hashes::hdel),               ("hash", "2.0.0", "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain.")),
    command("hexists",        3, READ_FAST,       Keys::at(1),          Shard(hashes::hexists),            ("hash", "2.0.0", "Determines whether a field exists in a hash.")),
    command("hexpire",       -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hexpire),      ("hash", "7.4.0", "Set expiry for hash field using relative time to expire (seconds)")),
    command("hexpireat",     -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hexpireat),    ("hash", "7.4.0", "Set expiry for hash field using an absolute Unix timestamp (seconds)")),
    command("hexpiretime",   -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hexpiretime),  ("hash", "7.4.0", "Returns the expiration time of a hash field as a Unix timestamp, in seconds.")),
    command("hget",           3, READ_FAST,       Keys::at(1),          Shard(hashes::hget),               ("hash", "2.0.0", "Returns the value of a field in a hash.")),
    command("hgetall",        2, READ,            Keys::at(1),          Shard(hashes::hgetall),            ("hash", "2.0.0", "Returns all fields and values in a hash.")),
    command("hgetdel",       -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hgetdel),      ("hash", "8.0.0", "Returns the value of a field and deletes it from the hash.")),
    command("hgetex",        -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hgetex),       ("hash", "8.0.0", "Get the value of one or more fields of a given hash key, and optionally set their expiration.")),
    command("hincrby",        4, WRITE_OOM_FAST,  Keys::at(1),          Shard(hashes::hincrby),            ("hash", "2.0.0", "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field doesn't exist.")),
    command("hincrbyfloat",   4, WRITE_OOM_FAST,  Keys::at(1),          Shard(hashes::hincrbyfloat),       ("hash", "2.6.0", "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't exist.")),
    command("hkeys",          2, READ,            Keys::at(1),          Shard(hashes::hkeys),              ("hash", "2.0.0", "Returns all fields in a hash.")),
    command("hlen",           2, READ_FAST,       Keys::at(1),          Shard(hashes::hlen),               ("hash", "2.0.0", "Returns the number of fields in a hash.")),
    command("hmget",         -3, READ_FAST,       Keys::at(1),          Shard(hashes::hmget),              ("hash", "2.0.0", "Returns the values of all fields in a hash.")),
    command("hmset",         -4, WRITE_OOM_FAST,  Keys::at(1),          Shard(hashes::hmset),              ("hash", "2.0.0", "Sets the values of multiple fields.")),
    command("hpersist",      -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hpersist),     ("hash", "7.4.0", "Removes the expiration time for each specified field")),
    command("hpexpire",      -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hpexpire),     ("hash", "7.4.0", "Set expiry for hash field using relative time to expire (milliseconds)")),
    command("hpexpireat",    -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hpexpireat),   ("hash", "7.4.0", "Set expiry for hash field using an absolute Unix timestamp (milliseconds)")),
    command("hpexpiretime",  -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hpexpiretime), ("hash", "7.4.0", "Returns the expiration time of a hash field as a Unix timestamp, in msec.")),
    command("hpttl",         -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hpttl),        ("hash", "7.4.0", "Returns the TTL in milliseconds of a hash field.")),
    command("hrandfield",    -2, READ,            Keys::at(1),          Shard(hashes::hrandfield),         ("hash", "6.2.0", "Returns one or more random fields from a hash.")),
    command("hscan",         -3, READ,            Keys::at(1),          Shard(hashes::hscan),              ("hash", "2.8.0", "Iterates over fields and values of a hash.")),
    command("hset",          -4, WRITE_OOM_FAST,  Keys::at(1),          Shard(hashes::hset),               ("hash", "2.0.0", "Creates or modifies the value of a field in a hash.")),
    command("hsetex",        -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hsetex),       ("hash", "8.0.0", "Set the value of one or more fields of a given hash key, and optionally set their expiration.")),
    command("hsetnx",         4, WRITE_OOM_FAST,  Keys::at(1),          Shard(hashes::hsetnx),             ("hash", "2.0.0", "Sets the value of a field in a hash only when the field doesn't exist.")),
    command("hstrlen",        3, READ_FAST,       Keys::at(1),          Shard(hashes::hstrlen),            ("hash", "3.2.0", "Returns the length of the value of a field.")),
    command("httl",          -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::httl),         ("hash", "7.4.0", "Returns the TTL in seconds of a hash field.")),
    command("hvals",          2, READ,            Keys::at(1),          Shard(hashes::hvals),              ("hash", "2.0.0", "Returns all values in a hash.")),

    // Lists.
    command("blmove",         6, BLOCKING_OOM,     Keys::range(1, 2, 1), Transaction(lists::blmove),        ("list", "6.2.0", "Pops an element from a list, pushes it to another list and returns it. Blocks until an element is available otherwise. Deletes the list if the last element was moved.")),
    command("blmpop",        -5, BLOCKING_WRITE, Keys::none().and(MoreKeys::Counted(2)), Transaction(lists::blmpop), ("list", "7.0.0", "Pops the first element from one of multiple lists. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("blpop",         -3, BLOCKING_WRITE,   Keys::range(1, -2, 1), Transaction(lists::blpop),        ("list", "2.0.0", "Removes and returns the first element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("brpop",         -3, BLOCKING_WRITE,   Keys::range(1, -2, 1), Transaction(lists::brpop),        ("list", "2.0.0", "Removes and returns the last element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("brpoplpush",     4, BLOCKING_OOM,     Keys::range(1, 2, 1), Transaction(lists::brpoplpush),    ("list", "2.2.0", "Pops an element from a list, pushes it to another list and returns it. Block until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("lindex",         3, READ,            Keys::at(1),          Shard(lists::lindex),              ("list", "1.0.0", "Returns an element from a list by its index.")),
    command("linsert",        5, WRITE_OOM,       Keys::at(1),          Shard(lists::linsert),             ("list", "2.2.0", "Inserts an element before or after another element in a list.")),
    command("llen",           2, READ_FAST,       Keys::at(1),          Shard(lists::llen),                ("list", "1.0.0", "Returns the length of a list.")),
    command("lmove",          5, WRITE_OOM,       Keys::range(1, 2, 1), Transaction(lists::lmove),         ("list", "6.2.0", "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last element was moved.")),
    command("lmpop",         -4, WRITE,           Keys::none().and(MoreKeys::Counted(1)), Transaction(lists::lmpop),         ("list", "7.0.0", "Returns multiple elements from a list after removing them. Deletes the list if the last element was popped.")),
    command("lpop",          -2, WRITE_FAST,      Keys::at(1),          Shard(lists::lpop),                ("list", "1.0.0", "Returns the first elements in a list after removing it. Deletes the list if the last element was popped.")),
    command("lpos",          -3, READ,            Keys::at(1),          Shard(lists::lpos),                ("list", "6.0.6", "Returns the index of matching elements in a list.")),
    command("lpush",         -3, WRITE_OOM_FAST,  Keys::at(1),          Shard(lists::lpush),               ("list", "1.0.0", "Prepends one or more elements to a list. Creates the key if it doesn't exist.")),
    command("lpushx",        -3, WRITE_OOM_FAST,  Keys::at(1),          Shard(lists::lpushx),              ("list", "2.2.0", "Prepends one or more elements to a list only when the list exists.")),
    command("lrange",         4, READ,            Keys::at(1),          Shard(lists::lrange),              ("list", "1.0.0", "Returns a range of elements from a list.")),
    command("lrem",           4, WRITE,           Keys::at(1),          Shard(lists::lrem),                ("list", "1.0.0", "Removes elements from a list. Deletes the list if the last element was removed.")),
    command("lset",           4, WRITE_OOM,       Keys::at(1),          Shard(lists::lset),                ("list", "1.0.0", "Sets the value of an element in a list by its index.")),
    command("ltrim",          4, WRITE,           Keys::at(1),          Shard(lists::ltrim),               ("list", "1.0.0", "Removes elements from both ends a list. Deletes the list if all elements were trimmed.")),
    command("rpop",          -2, WRITE_FAST,      Keys::at(1),          Shard(lists::rpop),                ("list", "1.0.0", "Returns and removes the last elements of a list. Deletes the list if the last element was popped.")),
    command("rpoplpush",      3, WRITE_OOM,       Keys::range(1, 2, 1), Transaction(lists::rpoplpush),     ("list", "1.2.0", "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the last element was popped.")),
    command("rpush",         -3, WRITE_OOM_FAST,  Keys::at(1),          Shard(lists::rpush),               ("list", "1.0.0", "Appends one or more elements to a list. Creates the key if it doesn't exist.")),
    command("rpushx",        -3, WRITE_OOM_FAST,  Keys::at(1),          Shard(lists::rpushx),              ("list", "2.2.0", "Appends an element to a list only when the list exists.")),

    // Sets.
    command("sadd",          -3, WRITE_OOM_FAST,  Keys::at(1),          Shard(sets::sadd),                 ("set", "1.0.0", "Adds one or more members to a set. Creates the key if it doesn't exist.")),
    command("scard",          2, READ_FAST,       Keys::at(1),          Shard(sets::scard),                ("set", "1.0.0", "Returns the number of members in a set.")),
    command("sdiff",         -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sdiff),          ("set", "1.0.0", "Returns the difference of multiple sets.")),
    command("sdiffstore",    -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sdiffstore),     ("set", "1.0.0", "Stores the difference of multiple sets in a key.")),
    command("sinter",        -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sinter),         ("set", "1.0.0", "Returns the intersect of multiple sets.")),
    command("sintercard",    -3, READ,            Keys::none().and(MoreKeys::Counted(1)), Transaction(sets::sintercard),     ("set", "7.0.0", "Returns the number of members of the intersect of multiple sets.")),
    command("sinterstore",   -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sinterstore),    ("set", "1.0.0", "Stores the intersect of multiple sets in a key.")),
    command("sismember",      3, READ_FAST,       Keys::at(1),          Shard(sets::sismember),            ("set", "1.0.0", "Determines whether a member belongs to a set.")),
    command("smembers",       2, READ,            Keys::at(1),          Shard(sets::smembers),             ("set", "1.0.0", "Returns all members of a set.")),
    command("smismember",    -3, READ_FAST,       Keys::at(1),          Shard(sets::smismember),           ("set", "6.2.0", "Determines whether multiple members belong to a set.")),
    command("smove",          4, WRITE_FAST,      Keys::range(1, 2, 1), Transaction(sets::smove),          ("set", "1.0.0", "Moves a member from one set to another.")),
    command("spop",          -2, WRITE_FAST,      Keys::at(1),          Shard(sets::spop),                 ("set", "1.0.0", "Returns one or more random members from a set after removing them. Deletes the set if the last member was popped.")),
    command("srandmember",   -2, READ,            Keys::at(1),          Shard(sets::srandmember),          ("set", "1.0.0", "Get one or multiple random members from a set")),
    command("srem",          -3, WRITE_FAST,      Keys::at(1),          Shard(sets::srem),                 ("set", "1.0.0", "Removes one or more members from a set. Deletes the set if the last member was removed.")),
    command("sscan",         -3, READ,            Keys::at(1),          Shard(sets::sscan),                ("set", "2.8.0", "Iterates over members of a set.")),
    command("sunion",        -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sunion),         ("set", "1.0.0", "Returns the union of multiple sets.")),
    command("sunionstore",   -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sunionstore),    ("set", "1.0.0", "Stores the union of multiple sets in a key.")),

    // Sorted sets.
    command("bzmpop",          -5, BLOCKING_WRITE, Keys::none().and(MoreKeys::Counted(2)), Transaction(members::bzmpop), ("sorted-set", "7.0.0", "Removes and returns a member by score from one or more sorted sets. Blocks until a member is available otherwise. Deletes the sorted set if the last element was popped.")),
    command("bzpopmax",        -3, or(BLOCKING_WRITE, FAST), Keys::range(1, -2, 1), Transaction(members::bzpopmax), ("sorted-set", "5.0.0", "Removes and returns the member with the highest score from one or more sorted sets. Blocks until a member available otherwise.  Deletes the sorted set if the last element was popped.")),
    command("bzpopmin",        -3, or(BLOCKING_WRITE, FAST), Keys::range(1, -2, 1), Transaction(members::bzpopmin), ("sorted-set", "5.0.0", "Removes and returns the member with the lowest score from one or more sorted sets. Blocks until a member is available otherwise. Deletes the sorted set if the last element was popped.")),
    command("zadd",            -4, WRITE_OOM_FAST, Keys::at(1),          Shard(members::zadd),              ("sorted-set", "1.2.0", "Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist.")),
    command("zcard",            2, READ_FAST,      Keys::at(1),          Shard(members::zcard),             ("sorted-set", "1.2.0", "Returns the number of members in a sorted set.")),
    command("zcount",           4, READ_FAST,      Keys::at(1),          Shard(ranges::zcount),             ("sorted-set", "2.0.0", "Returns the count of members in a sorted set that have scores within a range.")),
    command("zdiff",           -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zdiff),       ("sorted-set", "6.2.0", "Returns the difference between multiple sorted sets.")),
    command("zdiffstore",      -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zdiffstore),  ("sorted-set", "6.2.0", "Stores the difference of multiple sorted sets in a key.")),
    command("zincrby",          4, WRITE_OOM_FAST, Keys::at(1),          Shard(members::zincrby),           ("sorted-set", "1.2.0", "Increments the score of a member in a sorted set.")),
    command("zinter",          -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zinter),      ("sorted-set", "6.2.0", "Returns the intersect of multiple sorted sets.")),
    command("zintercard",      -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zintercard),  ("sorted-set", "7.0.0", "Returns the number of members of the intersect of multiple sorted sets.")),
    command("zinterstore",     -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zinterstore), ("sorted-set", "2.0.0", "Stores the intersect of multiple sorted sets in a key.")),
    command("zlexcount",        4, READ_FAST,      Keys::at(1),          Shard(ranges::zlexcount),          ("sorted-set", "2.8.9", "Returns the number of members in a sorted set within a lexicographical range.")),
    command("zmpop",           -4, WRITE,          Keys::none().and(MoreKeys::Counted(1)),Transaction(members::zmpop),       ("sorted-set", "7.0.0", "Returns the highest- or lowest-scoring members from one or more sorted sets after removing them. Deletes the sorted set if the last member was popped.")),
    command("zmscore",         -3, READ_FAST,      Keys::at(1),          Shard(members::zmscore),           ("sorted-set", "6.2.0", "Returns the score of one or more members in a sorted set.")),
    command("zpopmax",         -2, WRITE_FAST,     Keys::at(1),          Shard(members::zpopmax),           ("sorted-set", "5.0.0", "Returns the highest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.")),
    command("zpopmin",         -2, WRITE_FAST,     Keys::at(1),          Shard(members::zpopmin),           ("sorted-set", "5.0.0", "Returns the lowest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.")),
    command("zrandmember",     -2, READ,           Keys::at(1),          Shard(members::zrandmember),       ("sorted-set", "6.2.0", "Returns one or more random members from a sorted set.")),
    command("zrange",          -4, READ,           Keys::at(1),          Shard(ranges::zrange),             ("sorted-set", "1.2.0", "Returns members in a sorted set within a range of indexes.")),
    command("zrangebylex",     -4, READ,           Keys::at(1),          Shard(ranges::zrangebylex),        ("sorted-set", "2.8.9", "Returns members in a sorted set within a lexicographical range.")),
    command("zrangebyscore",   -4, READ,           Keys::at(1),          Shard(ranges::zrangebyscore),      ("sorted-set", "1.0.5", "Returns members in a sorted set within a range of scores.")),
    command("zrangestore",     -5, WRITE_OOM,      Keys::range(1, 2, 1), Transaction(ranges::zrangestore),  ("sorted-set", "6.2.0", "Stores a range of members from sorted set in a key.")),
    command("zrank",           -3, READ_FAST,      Keys::at(1),          Shard(members::zrank),             ("sorted-set", "2.0.0", "Returns the index of a member in a sorted set ordered by ascending scores.")),
    command("zrem",            -3, WRITE_FAST,     Keys::at(1),          Shard(members::zrem),              ("sorted-set", "1.2.0", "Removes one or more members from a sorted set. Deletes the sorted set if all members were removed.")),
    command("zremrangebylex",   4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebylex),     ("sorted-set", "2.8.9", "Removes members in a sorted set within a lexicographical range. Deletes the sorted set if all members were removed.")),
    command("zremrangebyrank",  4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebyrank),    ("sorted-set", "2.0.0", "Removes members in a sorted set within a range of indexes. Deletes the sorted set if all members were removed.")),
    command("zremrangebyscore",  4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebyscore),   ("sorted-set", "1.2.0", "Removes members in a sorted set within a range of scores. Deletes the sorted set if all members were removed.")),
    command("zrevrange",       -4, READ,           Keys::at(1),          Shard(ranges::zrevrange),          ("sorted-set", "1.2.0", "Returns members in a sorted set within a range of indexes in reverse order.")),
    command("zrevrangebylex",  -4, READ,           Keys::at(1),          Shard(ranges::zrevrangebylex),     ("sorted-set", "2.8.9", "Returns members in a sorted set within a lexicographical range in reverse order.")),
    command("zrevrangebyscore", -4, READ,           Keys::at(1),          Shard(ranges::zrevrangebyscore),   ("sorted-set", "2.2.0", "Returns members in a sorted set within a range of scores in reverse order.")),
    command("zrevrank",        -3, READ_FAST,      Keys::at(1),          Shard(members::zrevrank),          ("sorted-set", "2.0.0", "Returns the index of a member in a sorted set ordered by descending scores.")),
    command("zscan",           -3, READ,           Keys::at(1),          Shard(members::zscan),             ("sorted-set", "2.8.0", "Iterates over members and scores of a sorted set.")),
    command("zscore",           3, READ_FAST,      Keys::at(1),          Shard(members::zscore),            ("sorted-set", "1.2.0", "Returns the score of a member in a sorted set.")),
    command("zunion",          -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zunion),      ("sorted-set", "6.2.0", "Returns the union of multiple sorted sets.")),
    command("zunionstore",     -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zunionstore), ("sorted-set", "2.0.0", "Stores the union of multiple sorted sets in a key.")),

    // Streams.
    command("xack",            -4, or(or(WRITE_FAST, QUIET), COUNTS_LOOK_UPS), Keys::at(1),          Shard(stream_groups::xack),        ("stream", "5.0.0", "Returns the number of messages that were successfully acknowledged by the consumer group member of a stream.")),
    command("xackdel",         -6, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xackdel),   ("stream", "8.2.0", "Acknowledges and conditionally deletes one or multiple entries for a stream consumer group.")),
    command("xadd",            -5, WRITE_OOM_FAST,  Keys::at(1),          Shard(streams::xadd),              ("stream", "5.0.0", "Appends a new message to a stream. Creates the key if it doesn't exist.")),
    command("xautoclaim",      -6, or(WRITE_FAST, QUIET), Keys::at(1),          Shard(stream_groups::xautoclaim),  ("stream", "6.2.0", "Changes, or acquires, ownership of messages in a consumer group, as if the messages were delivered to as consumer group member.")),
    command("xclaim",          -6, or(WRITE_FAST, QUIET), Keys::at(1),          Shard(stream_groups::xclaim),      ("stream", "5.0.0", "Changes, or acquires, ownership of a message in a consumer group, as if the message was delivered a consumer group member.")),
    command("xdel",            -3, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xdel),      ("stream", "5.0.0", "Returns the number of messages after removing them from a stream.")),
    command("xdelex",          -5, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xdelex),    ("stream", "8.2.0", "Deletes one or multiple entries from the stream.")),
    command("xgroup",          -2, Flags::NONE,     Keys::none(),         Container,                         ("stream", "5.0.0", "A container for consumer groups commands.")),
    command("xgroup|create",   -5, or(WRITE_OOM, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_create), ("stream", "5.0.0", "Creates a consumer group.")),
    command("xgroup|createconsumer", 5, or(WRITE_OOM, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_createconsumer), ("stream", "6.2.0", "Creates a consumer in a consumer group.")),
    command("xgroup|delconsumer", 5, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_delconsumer), ("stream", "5.0.0", "Deletes a consumer from a consumer group.")),
    command("xgroup|destroy",   4, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_destroy), ("stream", "5.0.0", "Destroys a consumer group.")),
    command("xgroup|help",      2, INFORMATION,     Keys::none(),         Network(stream_groups::xgroup_help), ("stream", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("xgroup|setid",    -5, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_setid), ("stream", "5.0.0", "Sets the last-delivered ID of a consumer group.")),
    command("xinfo",           -2, Flags::NONE,     Keys::none(),         Container,                         ("stream", "5.0.0", "A container for stream introspection commands.")),
    command("xinfo|consumers",  4, READ,            Keys::at(2),          Shard(stream_groups::xinfo_consumers), ("stream", "5.0.0", "Returns a list of the consumers in a consumer group.")),
    command("xinfo|groups",     3, READ,            Keys::at(2),          Shard(stream_groups::xinfo_groups), ("stream", "5.0.0", "Returns a list of the consumer groups of a stream.")),
    command("xinfo|help",       2, INFORMATION,     Keys::none(),         Network(stream_groups::xinfo_help), ("stream", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("xinfo|stream",    -3, READ,            Keys::at(2),          Shard(streams::xinfo_stream),      ("stream", "5.0.0", "Returns information about a stream.")),
    command("xlen",             2, READ_FAST,       Keys::at(1),          Shard(streams::xlen),              ("stream", "5.0.0", "Return the number of messages in a stream.")),
    command("xpending",        -3, READ,            Keys::at(1),          Shard(stream_groups::xpending),    ("stream", "5.0.0", "Returns the information and entries from a stream consumer group's pending entries list.")),
    command("xrange",          -4, READ,            Keys::at(1),          Shard(streams::xrange),            ("stream", "5.0.0", "Returns the messages from a stream within a range of IDs.")),
    command("xread",           -4, or(READ, BLOCKING), Keys::none().and(MoreKeys::Streams), Transaction(streams::xread), ("stream", "5.0.0", "Returns messages from multiple streams with IDs greater than the ones requested. Blocks until a message is available otherwise.")),
    command("xreadgroup",      -7, or(or(WRITE, BLOCKING), QUIET), Keys::none().and(MoreKeys::Streams), Transaction(stream_groups::xreadgroup), ("stream", "5.0.0", "Returns new or historical messages from a stream for a consumer in a group. Blocks until a message is available otherwise.")),
    command("xrevrange",       -4, READ,            Keys::at(1),          Shard(streams::xrevrange),         ("stream", "5.0.0", "Returns the messages from a stream within a range of IDs in reverse order.")),
    command("xsetid",          -3, or(WRITE_OOM_FAST, QUIET), Keys::at(1),          Shard(streams::xsetid),            ("stream", "5.0.0", "An internal command for replicating stream values.")),
    command("xtrim",           -4, WRITE,           Keys::at(1),          Shard(streams::xtrim),             ("stream", "5.0.0", "Deletes messages from the beginning of a stream.")),

    // Bitmaps.
    command("bitcount",        -2, READ,            Keys::at(1),          Shard(bits::bitcount),             ("bitmap", "2.6.0", "Counts the number of set bits (population counting) in a string.")),
    command("bitfield",        -2, WRITE_OOM,       Keys::at(1),          Shard(bits::bitfield),             ("bitmap", "3.2.0", "Performs arbitrary bitfield integer operations on strings.")),
    command("bitfield_ro",     -2, READ_FAST,       Keys::at(1),          Shard(bits::bitfield_ro),          ("bitmap", "6.0.0", "Performs arbitrary read-only bitfield integer operations on strings.")),
    command("bitop",           -4, WRITE_OOM,       Keys::range(2, -1, 1), Transaction(bits::bitop),         ("bitmap", "2.6.0", "Performs bitwise operations on multiple strings, and stores the result.")),
    command("bitpos",          -3, READ,            Keys::at(1),          Shard(bits::bitpos),               ("bitmap", "2.8.7", "Finds the first set (1) or clear (0) bit in a string.")),
    command("getbit",           3, READ_FAST,       Keys::at(1),          Shard(bits::getbit),               ("bitmap", "2.2.0", "Returns a bit value by offset.")),
    command("setbit",           4, WRITE_OOM,       Keys::at(1),          Shard(bits::setbit),               ("bitmap", "2.2.0", "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist.")),

    // HyperLogLogs.
    command("pfadd",           -2, WRITE_OOM_FAST,  Keys::at(1),          Shard(hyperloglog::pfadd),         ("hyperloglog", "2.8.9", "Adds elements to a HyperLogLog key. Creates the key if it doesn't exist.")),
    command("pfcount",         -2, READ,            Keys::range(1, -1, 1), Transaction(hyperloglog::pfcount), ("hyperloglog", "2.8.9", "Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s).")),
    command("pfdebug",          3, or(or(WRITE_OOM, ADMIN), QUIET), Keys::at(2),     Shard(hyperloglog::pfdebug),       ("hyperloglog", "2.8.9", "Internal commands for debugging HyperLogLog values.")),
    command("pfmerge",         -2, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(hyperloglog::pfmerge), ("hyperloglog", "2.8.9", "Merges one or more HyperLogLog values into a single key.")),
    command("pfselftest",       1, ADMIN,           Keys::none(),         Network(hyperloglog::pfselftest),  ("hyperloglog", "2.8.9", "An internal command for testing HyperLogLog values.")),

    // Geospatial indices.
    command("geoadd",          -5, WRITE_OOM,      Keys::at(1),          Shard(geo::geoadd),                ("geo", "3.2.0", "Adds one or more members to a geospatial index. The key is created if it doesn't exist.")),
    command("geodist",         -4, READ,           Keys::at(1),          Shard(geo::geodist),               ("geo", "3.2.0", "Returns the distance between two members of a geospatial index.")),
    command("geohash",         -2, READ,           Keys::at(1),          Shard(geo::geohash),               ("geo", "3.2.0", "Returns members from a geospatial index as geohash strings.")),
    command("geopos",          -2, READ,           Keys::at(1),          Shard(geo::geopos),                ("geo", "3.2.0", "Returns the longitude and latitude of members from a geospatial index.")),
    command("georadius",       -6, WRITE_OOM,      Keys::at(1).and(MoreKeys::Store),Transaction(geo::georadius),       ("geo", "3.2.0", "Queries a geospatial index for members within a distance from a coordinate, optionally stores the result.")),
    command("georadius_ro",    -6, READ,           Keys::at(1),          Shard(geo::georadius_ro),          ("geo", "3.2.10", "Returns members from a geospatial index that are within a distance from a coordinate.")),
    command("georadiusbymember", -5, WRITE_OOM,      Keys::at(1).and(MoreKeys::Store),Transaction(geo::georadiusbymember),("geo", "3.2.0", "Queries a geospatial index for members within a distance from a member, optionally stores the result.")),
    command("georadiusbymember_ro", -5, READ,           Keys::at(1),          Shard(geo::georadiusbymember_ro),  ("geo", "3.2.10", "Returns members from a geospatial index that are within a distance from a member.")),
    command("geosearch",       -7, READ,           Keys::at(1),          Shard(geo::geosearch),             ("geo", "6.2.0", "Queries a geospatial index for members inside an area of a box or a circle.")),
    command("geosearchstore",  -8, WRITE_OOM,      Keys::range(1, 2, 1), Transaction(geo::geosearchstore),  ("geo", "6.2.0", "Queries a geospatial index for members inside an area of a box or a circle, optionally stores the result.")),

    // Keys of any type.
    command("copy",            -3, WRITE_OOM,       Keys::range(1, 2, 1), Transaction(keys::copy),           ("generic", "6.2.0", "Copies the value of a key to a new key.")),
    command("dbsize",           1, READ_FAST,       Keys::none(),         All(keys::dbsize, Sum),            ("server", "1.0.0", "Returns the number of keys in the database.")),
    command("del",             -2, WRITE,           Keys::range(1, -1, 1), Transaction(keys::del),            ("generic", "1.0.0", "Deletes one or more keys.")),
    command("dump",             2, READ,            Keys::at(1),          Shard(dump::dump),                 ("generic", "2.6.0", "Returns a serialized representation of the value stored at a key.")),
    command("exists",          -2, READ_FAST,       Keys::range(1, -1, 1), Transaction(keys::exists),         ("generic", "1.0.0", "Determines whether one or more keys exist.")),
    command("expire",          -3, WRITE_FAST,      Keys::at(1),          Shard(keys::expire),               ("generic", "1.0.0", "Sets the expiration time of a key in seconds.")),
    command("expireat",        -3, WRITE_FAST,      Keys::at(1),          Shard(keys::expireat),             ("generic", "1.2.0", "Sets the expiration time of a key to a Unix timestamp.")),
    command("expiretime",       2, READ_FAST,       Keys::at(1),          Shard(keys::expiretime),           ("generic", "7.0.0", "Returns the expiration time of a key as a Unix timestamp.")),
    command("flushall",        -1, or(WRITE, DANGEROUS), Keys::none(),    Whole(keys::flushall),        ("server", "1.0.0", "Removes all keys from all databases.")),
    command("flushdb",         -1, or(WRITE, DANGEROUS), Keys::none(),    Whole(keys::flushdb),         ("server", "1.0.0", "Remove all keys from the current database.")),
    command("keys",             2, or(or(READ, DANGEROUS), LOW_PRIORITY), Keys::none(), All(keys::keys, Concatenate), ("generic", "1.0.0", "Returns all key names that match a pattern.")),
    command("move",             3, WRITE_FAST,      Keys::at(1),          Shard(keys::move_key),             ("generic", "1.0.0", "Moves a key to another database.")),
    command("object",          -2, Flags::NONE,     Keys::none(),         Container,                         ("generic", "2.2.3", "A container for object introspection commands.")),
    command("object|encoding",  3, READ,            Keys::at(2),          Shard(keys::object_encoding),      ("generic", "2.2.3", "Returns the internal encoding of a Redis object.")),
    command("object|freq",      3, READ,            Keys::at(2),          Shard(keys::object_freq),          ("generic", "4.0.0", "Returns the logarithmic access frequency counter of a Redis object.")),
    command("object|help",      2, INFORMATION,     Keys::none(),         Network(server_commands::object_help),      ("generic", "6.2.0", "Returns helpful text about the different subcommands.")),
    command("object|idletime",  3, READ,            Keys::at(2),          Shard(keys::object_idletime),      ("generic", "2.2.3", "Returns the time since the last access to a Redis object.")),
    command("object|refcount",  3, READ,            Keys::at(2),          Shard(keys::object_refcount),      ("generic", "2.2.3", "Returns the reference count of a value of a key.")),
    command("persist",          2, WRITE_FAST,      Keys::at(1),          Shard(keys::persist),              ("generic", "2.2.0", "Removes the expiration time of a key.")),
    command("pexpire",         -3, WRITE_FAST,      Keys::at(1),          Shard(keys::pexpire),              ("generic", "2.6.0", "Sets the expiration time of a key in milliseconds.")),
    command("pexpireat",       -3, WRITE_FAST,      Keys::at(1),          Shard(keys::pexpireat),            ("generic", "2.6.0", "Sets the expiration time of a key to a Unix milliseconds timestamp.")),
    command("pexpiretime",      2, READ_FAST,       Keys::at(1),          Shard(keys::pexpiretime),          ("generic", "7.0.0", "Returns the expiration time of a key as a Unix milliseconds timestamp.")),
    command("pttl",             2, READ_FAST,       Keys::at(1),          Shard(keys::pttl),                 ("generic", "2.6.0", "Returns the expiration time in milliseconds of a key.")),
    command("randomkey",        1, READ,            Keys::none(),         Each(keys::randomkey, AnyOf),       ("generic", "1.0.0", "Returns a random key name from the database.")),
    command("rename",           3, WRITE,           Keys::range(1, 2, 1), Transaction(keys::rename),         ("generic", "1.0.0", "Renames a key and overwrites the destination.")),
    command("renamenx",         3, WRITE_FAST,      Keys::range(1, 2, 1), Transaction(keys::renamenx),       ("generic", "1.0.0", "Renames a key only when the target key name doesn't exist.")),
    command("restore",         -4, or(WRITE_OOM, DANGEROUS), Keys::at(1), Shard(dump::restore),              ("generic", "2.6.0", "Creates a key from the serialized representation of a value.")),
    command("scan",            -2, or(READ, LOW_PRIORITY), Keys::none(),  Cursor(keys::scan),                ("generic", "2.8.0", "Iterates over the key names in the database.")),
    command("sort",          -2, or(or(WRITE_OOM, DANGEROUS), COUNTS_LOOK_UPS), Keys::at(1).and(MoreKeys::SortStore), Transaction(sort::sort),           ("generic", "1.0.0", "Sorts the elements in a list, a set, or a sorted set, optionally storing the result.")),
    command("sort_ro",       -2, or(READ, DANGEROUS), Keys::at(1),          Shard(sort::sort_ro),              ("generic", "7.0.0", "Returns the sorted elements of a list, a set, or a sorted set.")),
    command("swapdb",           3, or(WRITE_FAST, DANGEROUS), Keys::none(), All(keys::swapdb, AllOk),        ("server", "4.0.0", "Swaps two Redis databases.")),
    command("touch",           -2, READ_FAST,       Keys::range(1, -1, 1), Transaction(keys::exists),         ("generic", "3.2.1", "Returns the number of existing keys out of those specified after updating the time they were last accessed.")),
    command("ttl",              2, READ_FAST,       Keys::at(1),          Shard(keys::ttl),                  ("generic", "1.0.0", "Returns the expiration time in seconds of a key.")),
    command("type",             2, READ_FAST,       Keys::at(1),          Shard(keys::type_of),              ("generic", "1.0.0", "Determines the type of value stored at a key.")),
    command("unlink",          -2, WRITE_FAST,      Keys::range(1, -1, 1), Transaction(keys::del),            ("generic", "4.0.0", "Asynchronously deletes one or more keys.")),
    command("wait",             3, BLOCKING,        Keys::none(),         Network(blocking::wait),            ("generic", "3.0.0", "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.")),
    command("waitaof",          4, BLOCKING,        Keys::none(),         Network(blocking::waitaof),         ("generic", "7.2.0", "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.")),

    // Transactions.
    command("discard",          1, SESSION_FAST,    Keys::none(),         Network(multi_exec::discard),    ("transactions", "2.0.0", "Discards a transaction.")),
    command("exec",             1, SESSION,         Keys::none(),         Exec(multi_exec::exec),          ("transactions", "1.2.0", "Executes all commands in a transaction.")),
    command("multi",            1, SESSION_FAST,    Keys::none(),         Network(multi_exec::multi),      ("transactions", "1.2.0", "Starts a transaction.")),
    command("unwatch",          1, SESSION_FAST,    Keys::none(),         Network(multi_exec::unwatch),    ("transactions", "2.2.0", "Forgets about watched keys of a transaction.")),
    command("watch",           -2, SESSION_FAST,    Keys::range(1, -1, 1), Watch(multi_exec::watch),       ("transactions", "2.2.0", "Monitors changes to keys to determine the execution of a transaction.")),

    // Channels.
    command("psubscribe",      -2, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::psubscribe),       ("pubsub", "2.0.0", "Listens for messages published to channels that match one or more patterns.")),
    command("publish",          3, or(PUBLISHING, FAST), Keys::none(),      Network(pubsub::publish),          ("pubsub", "2.0.0", "Posts a message to a channel.")),
    command("pubsub",          -2, Flags::NONE,     Keys::none(),         Container,                         ("pubsub", "2.8.0", "A container for Pub/Sub commands.")),
    command("pubsub|channels", -2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_channels),  ("pubsub", "2.8.0", "Returns the active channels.")),
    command("pubsub|help",      2, INFORMATION,     Keys::none(),         Network(pubsub::pubsub_help),      ("pubsub", "6.2.0", "Returns helpful text about the different subcommands.")),
    command("pubsub|numpat",    2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_numpat),    ("pubsub", "2.8.0", "Returns a count of unique pattern subscriptions.")),
    command("pubsub|numsub",   -2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_numsub),    ("pubsub", "2.8.0", "Returns a count of subscribers to channels.")),
    command("pubsub|shardchannels", -2, or(INFORMATION, PUBSUB), Keys::none(), Network(pubsub::pubsub_shardchannels), ("pubsub", "7.0.0", "Returns the active shard channels.")),
    command("pubsub|shardnumsub", -2, or(INFORMATION, PUBSUB), Keys::none(), Network(pubsub::pubsub_shardnumsub), ("pubsub", "7.0.0", "Returns the count of subscribers of shard channels.")),
    command("punsubscribe",    -1, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::punsubscribe),     ("pubsub", "2.0.0", "Stops listening to messages published to channels that match one or more patterns.")),
    command("spublish",         3, or(PUBLISHING, FAST), Keys::at(1),       Network(pubsub::spublish),         ("pubsub", "7.0.0", "Post a message to a shard channel")),
    command("ssubscribe",      -2, or(SESSION, PUBSUB), Keys::range(1, -1, 1), Network(pubsub::ssubscribe),    ("pubsub", "7.0.0", "Listens for messages published to shard channels.")),
    command("subscribe",       -2, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::subscribe),        ("pubsub", "2.0.0", "Listens for messages published to channels.")),
    command("sunsubscribe",    -1, or(SESSION, PUBSUB), Keys::range(1, -1, 1), Network(pubsub::sunsubscribe),  ("pubsub", "7.0.0", "Stops listening to messages posted to shard channels.")),
    command("unsubscribe",     -1, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::unsubscribe),      ("pubsub", "2.0.0", "Stops listening to messages posted to channels.")),

    command("auth",            -2, or(SESSION_FAST, NO_AUTH), Keys::none(), Network(connection_commands::auth),       ("connection", "1.0.0", "Authenticates the connection.")),
    command("client",          -2, Flags::NONE,     Keys::none(),         Container,                         ("connection", "2.4.0", "A container for client connection commands.")),
    command("client|caching",   3, SESSION,         Keys::none(),         Network(client_tracking::client_caching), ("connection", "6.0.0", "Instructs the server whether to track the keys in the next request.")),
    command("client|getname",   2, SESSION,         Keys::none(),         Network(connection_commands::client_getname), ("connection", "2.6.9", "Returns the name of the connection.")),
    command("client|getredir",  2, SESSION,         Keys::none(),         Network(client_tracking::client_getredir), ("connection", "6.0.0", "Returns the client ID to which the connection's tracking notifications are redirected.")),
    command("client|help",      2, INFORMATION,     Keys::none(),         Network(connection_commands::client_help),  ("connection", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("client|id",        2, SESSION,         Keys::none(),         Network(connection_commands::client_id),    ("connection", "5.0.0", "Returns the unique client ID of the connection.")),
    command("client|info",      2, SESSION,         Keys::none(),         Network(connection_commands::client_info),  ("connection", "6.2.0", "Returns information about the connection.")),
    command("client|kill",     -3, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_kill),  ("connection", "2.4.0", "Terminates open connections.")),
    command("client|list",     -2, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_list),  ("connection", "2.4.0", "Lists open connections.")),
    command("client|no-evict",  3, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_no_evict), ("connection", "7.0.0", "Sets the client eviction mode of the connection.")),
    command("client|no-touch",  3, SESSION,         Keys::none(),         Network(connection_commands::client_no_touch), ("connection", "7.2.0", "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.")),
    command("client|pause",    -3, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_pause), ("connection", "3.0.0", "Suspends commands processing.")),
    command("client|reply",     3, SESSION,         Keys::none(),         Network(connection_commands::client_reply), ("connection", "3.2.0", "Instructs the server whether to reply to commands.")),
    command("client|setinfo",   4, SESSION,         Keys::none(),         Network(connection_commands::client_setinfo), ("connection", "7.2.0", "Sets information specific to the client or connection.")),
    command("client|setname",   3, SESSION,         Keys::none(),         Network(connection_commands::client_setname), ("connection", "2.6.9", "Sets the connection name.")),
    command("client|tracking", -3, SESSION,         Keys::none(),         Network(client_tracking::client_tracking), ("connection", "6.0.0", "Controls server-assisted client-side caching for the connection.")),
    command("client|trackinginfo", 2, SESSION,         Keys::none(),         Network(client_tracking::client_trackinginfo), ("connection", "6.2.0", "Returns information about server-assisted client-side caching for the connection.")),
    command("client|unblock",  -3, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_unblock), ("connection", "5.0.0", "Unblocks a client blocked by a blocking command from a different connection.")),
    command("client|unpause",   2, ADMINISTRATION,  Keys::none(),         Network(connection_commands::client_unpause), ("connection", "6.2.0", "Resumes processing commands from paused clients.")),
    command("echo",             2, or(INFORMATION, FAST), Keys::none(),   Network(connection_commands::echo),         ("connection", "1.0.0", "Returns the given string.")),
    command("hello",           -1, or(SESSION_FAST, NO_AUTH), Keys::none(), Network(connection_commands::hello),      ("connection", "6.0.0", "Handshakes with the Redis server.")),
    command("ping",            -1, FAST,            Keys::none(),         Network(connection_commands::ping),         ("connection", "1.0.0", "Returns the server's liveliness response.")),
    command("quit",            -1, or(SESSION_FAST, NO_AUTH), Keys::none(), Network(connection_commands::quit),       ("connection", "1.0.0", "Closes the connection.")),
    command("reset",            1, or(SESSION_FAST, NO_AUTH), Keys::none(), Network(connection_commands::reset),      ("connection", "6.2.0", "Resets the connection.")),
    command("select",           2, or(INFORMATION, FAST), Keys::none(),   Network(connection_commands::select),       ("connection", "1.0.0", "Changes the selected database.")),

    command("bgrewriteaof",     1, or(ADMIN, NO_SCRIPT), Keys::none(),    Network(persistence::bgrewriteaof), ("server", "1.0.0", "Says why there is nothing to rewrite.")),
    command("bgsave",          -1, or(ADMIN, NO_SCRIPT), Keys::none(),    Network(persistence::bgsave),      ("server", "1.0.0", "Sees to it that everything that was answered is on disk.")),
    command("command",         -1, INFORMATION,     Keys::none(),         Network(server_commands::command_all),      ("server", "2.8.13", "Returns detailed information about all commands.")),
    command("command|count",    2, INFORMATION,     Keys::none(),         Network(server_commands::command_count),    ("server", "2.8.13", "Returns a count of commands.")),
    command("command|docs",    -2, INFORMATION,     Keys::none(),         Network(server_commands::command_docs),     ("server", "7.0.0", "Returns documentary information about one, multiple or all commands.")),
    command("command|getkeys", -4, INFORMATION,     Keys::none(),         Network(server_commands::command_getkeys),  ("server", "2.8.13", "Extracts the key names from an arbitrary command.")),
    command("command|help",     2, INFORMATION,     Keys::none(),         Network(server_commands::command_help),     ("server", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("command|info",    -2, INFORMATION,     Keys::none(),         Network(server_commands::command_info),     ("server", "2.8.13", "Returns information about one, multiple or all commands.")),
    command("command|list",    -2, INFORMATION,     Keys::none(),         Network(server_commands::command_list),     ("server", "7.0.0", "Returns a list of command names.")),
    command("config",          -2, Flags::NONE,     Keys::none(),         Container,                         ("server", "2.0.0", "A container for server configuration commands.")),
    command("config|get",      -3, ADMINISTRATION,  Keys::none(),         Network(server_commands::config_get),       ("server", "2.0.0", "Returns the effective values of configuration parameters.")),
    command("config|help",      2, INFORMATION,     Keys::none(),         Network(server_commands::config_help),      ("server", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("config|resetstat", 2, ADMINISTRATION,  Keys::none(),         Network(server_commands::config_resetstat), ("server", "2.0.0", "Resets the server's statistics.")),
    command("config|rewrite",   2, ADMINISTRATION,  Keys::none(),         Network(server_commands::config_rewrite),   ("server", "2.8.0", "Persists the effective configuration to file.")),
    command("config|set",      -4, ADMINISTRATION,  Keys::none(),         Network(server_commands::config_set),       ("server", "2.0.0", "Sets configuration parameters in-flight.")),
    command("debug",           -2, or(ADMINISTRATION, PROTECTED), Keys::none(), Network(server_commands::debug),     ("server", "1.0.0", "A container for debugging commands")),
    command("info",            -1, or(INFORMATION, DANGEROUS), Keys::none(), Network(server_commands::info),             ("server", "1.0.0", "Returns information and statistics about the server.")),
    command("lastsave",         1, or(INFORMATION, FAST), Keys::none(),   Network(persistence::lastsave),    ("server", "1.0.0", "Returns the time of the last successful SAVE or BGSAVE.")),
    command("lolwut",          -1, or(READ, FAST),  Keys::none(),         Network(server_commands::lolwut),           ("server", "5.0.0", "Displays computer art and the Redis version")),
    command("memory",          -2, Flags::NONE,     Keys::none(),         Container,                         ("server", "4.0.0", "A container for memory diagnostics commands.")),
    command("memory|help",      2, INFORMATION,     Keys::none(),         Network(server_commands::memory_help),      ("server", "4.0.0", "Returns helpful text about the different subcommands.")),
    command("memory|usage",    -3, READ,            Keys::at(2),          Shard(keys::memory_usage),         ("server", "4.0.0", "Estimates the memory usage of a key.")),
    command("monitor",          1, ADMINISTRATION,  Keys::none(),         Network(pubsub::monitor),          ("server", "1.0.0", "Listens for all requests received by the server in real-time.")),
    command("role",             1, SESSION_FAST,    Keys::none(),         Network(persistence::role),        ("server", "2.8.12", "Returns the replication role.")),
    command("save",             1, or(or(ADMIN, NO_SCRIPT), NO_MULTI), Keys::none(), Network(persistence::save), ("server", "1.0.0", "Waits until everything that was answered is on disk.")),
    command("shutdown",        -1, or(ADMINISTRATION, NO_MULTI), Keys::none(), Network(server_commands::shutdown),    ("server", "1.0.0", "Synchronously saves the database(s) to disk and shuts down the server.")),
    command("time",             1, or(INFORMATION, FAST), Keys::none(),   Network(server_commands::time),             ("server", "2.6.0", "Returns the server time.")),

    // Scripts.
    command("eval",            -3, SCRIPT,            Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "2.6.0", "Executes a server-side Lua script.")),
    command("eval_ro",         -3, or(SCRIPT, READ),  Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Executes a read-only server-side Lua script.")),
    command("evalsha",         -3, SCRIPT,            Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "2.6.0", "Executes a server-side Lua script by SHA1 digest.")),
    command("evalsha_ro",      -3, or(SCRIPT, READ),  Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Executes a read-only server-side Lua script by SHA1 digest.")),
    command("fcall",           -3, SCRIPT,            Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Invokes a function.")),
    command("fcall_ro",        -3, or(SCRIPT, READ),  Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Invokes a read-only function.")),
    command("function",        -2, Flags::NONE,       Keys::none(),       Container,                          ("scripting", "7.0.0", "A container for function commands.")),
    command("function|delete",  3, or(WRITE, NO_SCRIPT), Keys::none(),    Transaction(function_commands::function_delete), ("scripting", "7.0.0", "Deletes a library and its functions.")),
    command("function|dump",    2, NO_SCRIPT,         Keys::none(),       Transaction(function_commands::function_dump), ("scripting", "7.0.0", "Dumps all libraries into a serialized binary payload.")),
    command("function|flush",  -2, or(WRITE, NO_SCRIPT), Keys::none(),    Transaction(function_commands::function_flush), ("scripting", "7.0.0", "Deletes all libraries and functions.")),
    command("function|help",    2, INFORMATION,       Keys::none(),       Network(function_commands::function_help),  ("scripting", "7.0.0", "Returns helpful text about the different subcommands.")),
    command("function|kill",    2, NO_SCRIPT,         Keys::none(),       Network(function_commands::function_kill),  ("scripting", "7.0.0", "Terminates a function during execution.")),
    command("function|list",   -2, NO_SCRIPT,         Keys::none(),       Transaction(function_commands::function_list), ("scripting", "7.0.0", "Returns information about all libraries.")),
    command("function|load",   -3, or(WRITE_OOM, NO_SCRIPT), Keys::none(), Transaction(function_commands::function_load), ("scripting", "7.0.0", "Creates a library.")),
    command("function|restore", -3, or(WRITE_OOM, NO_SCRIPT), Keys::none(), Transaction(function_commands::function_restore), ("scripting", "7.0.0", "Restores all libraries from a payload.")),
    command("function|stats",   2, NO_SCRIPT,         Keys::none(),       Network(function_commands::function_stats), ("scripting", "7.0.0", "Returns information about a function during execution.")),
    command("script",          -2, Flags::NONE,       Keys::none(),       Container,                         ("scripting", "2.6.0", "A container for Lua scripts management commands.")),
    command("script|debug",     3, NO_SCRIPT,         Keys::none(),       Network(scripting::script_debug),  ("scripting", "3.2.0", "Sets the debug mode of server-side Lua scripts.")),
    command("script|exists",   -3, NO_SCRIPT,         Keys::none(),       Network(scripting::script_exists), ("scripting", "2.6.0", "Determines whether server-side Lua scripts exist in the script cache.")),
    command("script|flush",    -2, NO_SCRIPT,         Keys::none(),       Network(scripting::script_flush),  ("scripting", "2.6.0", "Removes all server-side Lua scripts from the script cache.")),
    command("script|help",      2, INFORMATION,       Keys::none(),       Network(scripting::script_help),   ("scripting", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("script|kill",      2, NO_SCRIPT,         Keys::none(),       Network(scripting::script_kill),   ("scripting", "2.6.0", "Terminates a server-side Lua script during execution.")),
    command("script|load",      3, or(NO_SCRIPT, STALE), Keys::none(),    Network(scripting::script_load),   ("scripting", "2.6.0", "Loads a server-side Lua script to the script cache.")),
];

/// What a network executor asks for when the client has taken most of what it was sent of a large reply.
pub static PIECES_NEXT: Command = command(
    "pieces|next",
    2,
    or(READ, INTERNAL),
    Keys::none(),
    Shard(keys::pieces_next),
    ("", "", ""),
);
/// What it says when the client is gone.
pub static PIECES_DROP: Command = command(
    "pieces|drop",
    2,
    or(READ, INTERNAL),
    Keys::none(),
    Shard(keys::pieces_drop),
    ("", "", ""),
);
/// The steps of transactions over several storage executors: what a network executor asks them to do.
pub static TRANSACTION_SCHEDULE: Command = step("transaction|schedule", READ, Step::Schedule);
/// See [`Step::Read`].
pub static TRANSACTION_READ: Command = step("transaction|read", READ, Step::Read);
/// See [`Step::Run`].
pub static TRANSACTION_RUN: Command = step("transaction|run", WRITE, Step::Run);
/// See [`Step::Prepare`].
pub static TRANSACTION_PREPARE: Command = step("transaction|prepare", WRITE, Step::Prepare);
/// See [`Step::Apply`].
pub static TRANSACTION_APPLY: Command = step("transaction|apply", WRITE, Step::Apply);
/// See [`Step::Release`].
pub static TRANSACTION_RELEASE: Command = step("transaction|release", READ, Step::Release);
/// See [`Step::Resolve`].
pub static TRANSACTION_RESOLVE: Command = step("transaction|resolve", READ, Step::Resolve);
/// See [`Step::KeepInDoubt`].
pub static TRANSACTION_KEEP_IN_DOUBT: Command = step("transaction|keep-in-doubt", READ, Step::KeepInDoubt);
/// See [`Step::RunBehind`].
pub static TRANSACTION_RUN_BEHIND: Command = step("transaction|run_behind", READ, Step::RunBehind);
/// See [`Step::Forget`].
pub static TRANSACTION_FORGET: Command = step("transaction|forget", WRITE, Step::Forget);

const fn step(name: &'static str, flags: Flags, step: Step) -> Command {
    command(
        name,
        -2,
        or(flags, INTERNAL),
        Keys::none(),
        Runs::Step(step),
        ("", "", ""),
    )
}

/// The databases and keys that a command names.
pub fn places_of(command: &Command, arguments: Arguments<'_>, database: u8) -> Vec<Place> {
    if matches!(command.runs, Runs::Exec(_)) {
        let parts = multi_exec::parts_of_exec(arguments);
        return parts
            .flat_map(|(header, part, arguments)| places_of(part, arguments, header.database))
            .collect();
    }
    let other = match command.name {
        "copy" => keys::second_database(arguments),
        "move" => arguments::database(arguments.get(2)).ok(),
        _ => None,
    };
    let in_database = |database: u8| command.keys.of(arguments).map(move |key| (database, key.to_vec()));
    let mut places: Vec<Place> = in_database(database).collect();
    places.extend(other.into_iter().flat_map(in_database));
    places
}

/// What it says when a client watches nothing any more, or is gone.
pub static WATCHES_DROP: Command = command(
    "watches|drop",
    1,
    or(READ, INTERNAL),
    Keys::none(),
    Shard(multi_exec::watches_drop),
    ("", "", ""),
);
/// Asks whether all that was written so far is on disk, or to be told when it is (WAITAOF).
pub static WAIT_DURABLE: Command = command(
    "wait|durable",
    2,
    or(READ, INTERNAL),
    Keys::none(),
    Shard(blocking::answered_by_executor),
    ("", "", ""),
);
/// A move between shards waits for its source. Arguments: the key, the milliseconds that are left (0: for ever) and its
/// place in the line, if it had one (else 0), as eight bytes each; and the target, if it is on the same executor.
pub static WAIT_SOURCE: Command = command(
    "wait|source",
    -4,
    or(READ, INTERNAL),
    Keys::at(1),
    Shard(blocking::answered_by_executor),
    ("", "", ""),
);
/// What a network executor says when a command that waits was answered elsewhere, or its client is gone.
pub static WAITERS_DROP: Command = command(
    "waiters|drop",
    3,
    or(READ, INTERNAL),
    Keys::none(),
    Shard(blocking::drop_waiters),
    ("", "", ""),
);

type RowsByName = HashMap<&'static [u8], &'static Command, foldhash::fast::RandomState>;

fn rows_by_name(subcommands: bool) -> RowsByName {
    let rows = COMMANDS.iter().filter(|row| row.container().is_some() == subcommands);
    rows.map(|row| (row.name.as_bytes(), row)).collect()
}

static BY_NAME: LazyLock<RowsByName> = LazyLock::new(|| rows_by_name(false));
static SUBCOMMANDS: LazyLock<RowsByName> = LazyLock::new(|| rows_by_name(true));

/// The row of a command's name, whatever its case; a container's row for a family of subcommands.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; NAME_LEN_MAX];
    let lower = lower.get_mut(..name.len())?;
    for (to, from) in lower.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    BY_NAME.get(&*lower).copied()
}

/// The row of a container's subcommand, whatever its case.
pub fn find_subcommand(container: &Command, name: &[u8]) -> Option<&'static Command> {
    let full = [container.name.as_bytes(), b"|", name].concat().to_ascii_lowercase();
    SUBCOMMANDS.get(&*full).copied()
}

/// The rows of a container's subcommands.
pub fn subcommands(container: &'static Command) -> impl Iterator<Item = &'static Command> {
    COMMANDS
        .iter()
        .filter(move |row| row.container() == Some(container.name))
}
