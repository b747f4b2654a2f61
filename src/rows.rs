//! The command table's rows: each command with its handler. The only file that knows all handlers.
//!
//! A new command is one row, one handler and one transcript.

use crate::command::{
    self, ABOUT_CONNECTION, ABOUT_KEYSPACE, ADMIN, AUTHENTICATES, BLOCKING, BY_DIGEST, BY_FUNCTION, CHOOSES_PROTOCOL,
    COUNTS_LOOK_UPS, Command, DANGEROUS, DENY_OOM, FAST, Flags, HAS_SUBCOMMANDS, Handlers, Keys, LOADING, LOOKS_ASIDE,
    LOW_PRIORITY, Merge, MoreKeys, NO_AUTH, NO_INDEX, NO_MULTI, NO_SCRIPT, NOT_QUEUED, OF_CLIENT, OtherDatabase,
    PROTECTED, PUBLISHES, PUBSUB, Place, QUIET, READ, RESETS_SESSION, RUNS_SCRIPT, Runs, SELECTS_DATABASE,
    SETS_REPLIES, SORTS, STALE, WAITS_IF_ASKED, WHILE_SUBSCRIBED, WRITE,
};
use crate::commands::sorted_sets::{algebra, members, ranges};
use crate::commands::{
    Handler, bits, called_by_scripts, dump, field_expiry, function_commands, geo, hashes, hyperloglog, keys, lists,
    multi_exec, scripting, sets, sort, stream_deletion, stream_groups, streams, strings,
};
use crate::network::handlers::{
    client_commands, client_tracking, connection_commands, help_commands, memory_commands, multi_commands, persistence,
    pubsub, script_commands, server_commands, wait_commands,
};
use crate::network::session::NetworkHandler;

/// Where a command runs, with its handler there: see [`Runs`].
#[derive(Clone, Copy)]
enum RunsWith {
    Network(NetworkHandler),
    /// As [`RunsWith::Network`], and with the other handler where a script calls it.
    NetworkOrScript(NetworkHandler, Handler),
    Shard(Handler),
    Transaction(Handler),
    All(Handler, Merge),
    Whole(Handler),
    Each(Handler, Merge),
    Cursor(Handler),
    Exec(Handler),
    Watch(Handler),
    Container,
}

use Merge::{AllOk, AnyOf, Concatenate, Sum};
use RunsWith::{All, Container, Cursor, Each, Exec, Network, NetworkOrScript, Shard, Transaction, Watch, Whole};

/// A command and its handler.
struct Row {
    command: Command,
    network: Option<NetworkHandler>,
    storage: Option<Handler>,
}

const fn command(
    name: &'static str,
    arity: i32,
    flags: Flags,
    keys: Keys,
    runs: RunsWith,
    (group, since, summary): (&'static str, &'static str, &'static str),
) -> Row {
    let (runs, network, storage) = match runs {
        Network(handler) => (Runs::Network, Some(handler), None),
        NetworkOrScript(handler, called_by_script) => (Runs::Network, Some(handler), Some(called_by_script)),
        Shard(handler) => (Runs::Shard, None, Some(handler)),
        Transaction(handler) => (Runs::Transaction, None, Some(handler)),
        All(handler, merge) => (Runs::All(merge), None, Some(handler)),
        Whole(handler) => (Runs::Whole, None, Some(handler)),
        Each(handler, merge) => (Runs::Each(merge), None, Some(handler)),
        Cursor(handler) => (Runs::Cursor, None, Some(handler)),
        Exec(handler) => (Runs::Exec, None, Some(handler)),
        Watch(handler) => (Runs::Watch, None, Some(handler)),
        Container => (Runs::Container, None, None),
    };
    let command = Command {
        name,
        arity,
        flags,
        keys,
        runs,
        group,
        summary,
        since,
        index: NO_INDEX,
    };
    Row {
        command,
        network,
        storage,
    }
}

const fn or(a: Flags, b: Flags) -> Flags {
    a.and(b)
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
const ROWS: &[Row] = &[
    //      name             arity  flags            keys                  where it runs                      family,
    //      since, summary
    command("append",           3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::append),            ("string", "2.0.0", "Appends a string to the value of a key. Creates the key if it doesn't exist.")),
    command("decr",             2, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::decr),              ("string", "1.0.0", "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.")),
    command("decrby",           3, WRITE_OOM_FAST,  Keys::at(1),          Shard(strings::decrby),            ("string", "1.0.0", "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.")),
    command("get",              2, READ_FAST,       Keys::at(1),          Shard(strings::get),               ("string", "1.0.0", "Returns the string value of a key.")),
    command("getdel",           2, or(WRITE_FAST, COUNTS_LOOK_UPS),    Keys::at(1),          Shard(strings::getdel),            ("string", "6.2.0", "Returns the string value of a key after deleting the key.")),
    command("getex",           -2, or(WRITE_FAST, COUNTS_LOOK_UPS),    Keys::at(1),          Shard(strings::getex),             ("string", "6.2.0", "Returns the string value of a key after setting its expiration time.")),
    command("getrange",         4, READ,            Keys::using(Place::Byte(2)), Shard(strings::getrange),          ("string", "2.4.0", "Returns a substring of the string stored at a key.")),
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
    command("setrange",         4, WRITE_OOM,       Keys::using(Place::Byte(2)), Shard(strings::setrange),          ("string", "2.2.0", "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.")),
    command("strlen",           2, READ_FAST,       Keys::at(1),          Shard(strings::strlen),            ("string", "2.2.0", "Returns the length of a string value.")),
    command("substr",           4, READ,            Keys::using(Place::Byte(2)), Shard(strings::getrange),          ("string", "1.0.0", "Returns a substring from a string value.")),

    // Hashes.
    command("hdel",          -3, WRITE_FAST,      Keys::using(Place::Member(2)), Shard(hashes::hdel),               ("hash", "2.0.0", "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain.")),
    command("hexists",        3, READ_FAST,       Keys::using(Place::Member(2)), Shard(hashes::hexists),            ("hash", "2.0.0", "Determines whether a field exists in a hash.")),
    command("hexpire",       -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hexpire),      ("hash", "7.4.0", "Set expiry for hash field using relative time to expire (seconds)")),
    command("hexpireat",     -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hexpireat),    ("hash", "7.4.0", "Set expiry for hash field using an absolute Unix timestamp (seconds)")),
    command("hexpiretime",   -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hexpiretime),  ("hash", "7.4.0", "Returns the expiration time of a hash field as a Unix timestamp, in seconds.")),
    command("hget",           3, READ_FAST,       Keys::using(Place::Member(2)), Shard(hashes::hget),               ("hash", "2.0.0", "Returns the value of a field in a hash.")),
    command("hgetall",        2, READ,            Keys::at(1),          Shard(hashes::hgetall),            ("hash", "2.0.0", "Returns all fields and values in a hash.")),
    command("hgetdel",       -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hgetdel),      ("hash", "8.0.0", "Returns the value of a field and deletes it from the hash.")),
    command("hgetex",        -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hgetex),       ("hash", "8.0.0", "Get the value of one or more fields of a given hash key, and optionally set their expiration.")),
    command("hincrby",        4, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(hashes::hincrby),            ("hash", "2.0.0", "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field doesn't exist.")),
    command("hincrbyfloat",   4, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(hashes::hincrbyfloat),       ("hash", "2.6.0", "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't exist.")),
    command("hkeys",          2, READ,            Keys::at(1),          Shard(hashes::hkeys),              ("hash", "2.0.0", "Returns all fields in a hash.")),
    command("hlen",           2, READ_FAST,       Keys::at(1),          Shard(hashes::hlen),               ("hash", "2.0.0", "Returns the number of fields in a hash.")),
    command("hmget",         -3, READ_FAST,       Keys::using(Place::Member(2)), Shard(hashes::hmget),              ("hash", "2.0.0", "Returns the values of all fields in a hash.")),
    command("hmset",         -4, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(hashes::hmset),              ("hash", "2.0.0", "Sets the values of multiple fields.")),
    command("hpersist",      -5, WRITE_FAST,      Keys::at(1),          Shard(field_expiry::hpersist),     ("hash", "7.4.0", "Removes the expiration time for each specified field")),
    command("hpexpire",      -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hpexpire),     ("hash", "7.4.0", "Set expiry for hash field using relative time to expire (milliseconds)")),
    command("hpexpireat",    -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hpexpireat),   ("hash", "7.4.0", "Set expiry for hash field using an absolute Unix timestamp (milliseconds)")),
    command("hpexpiretime",  -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hpexpiretime), ("hash", "7.4.0", "Returns the expiration time of a hash field as a Unix timestamp, in msec.")),
    command("hpttl",         -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::hpttl),        ("hash", "7.4.0", "Returns the TTL in milliseconds of a hash field.")),
    command("hrandfield",    -2, READ,            Keys::at(1),          Shard(hashes::hrandfield),         ("hash", "6.2.0", "Returns one or more random fields from a hash.")),
    command("hscan",         -3, READ,            Keys::at(1),          Shard(hashes::hscan),              ("hash", "2.8.0", "Iterates over fields and values of a hash.")),
    command("hset",          -4, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(hashes::hset),               ("hash", "2.0.0", "Creates or modifies the value of a field in a hash.")),
    command("hsetex",        -6, WRITE_OOM_FAST,  Keys::at(1),          Shard(field_expiry::hsetex),       ("hash", "8.0.0", "Set the value of one or more fields of a given hash key, and optionally set their expiration.")),
    command("hsetnx",         4, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(hashes::hsetnx),             ("hash", "2.0.0", "Sets the value of a field in a hash only when the field doesn't exist.")),
    command("hstrlen",        3, READ_FAST,       Keys::using(Place::Member(2)), Shard(hashes::hstrlen),            ("hash", "3.2.0", "Returns the length of the value of a field.")),
    command("httl",          -5, READ_FAST,       Keys::at(1),          Shard(field_expiry::httl),         ("hash", "7.4.0", "Returns the TTL in seconds of a hash field.")),
    command("hvals",          2, READ,            Keys::at(1),          Shard(hashes::hvals),              ("hash", "2.0.0", "Returns all values in a hash.")),

    // Lists.
    command("blmove",         6, BLOCKING_OOM,     Keys::range(1, 2, 1), Transaction(lists::blmove),        ("list", "6.2.0", "Pops an element from a list, pushes it to another list and returns it. Blocks until an element is available otherwise. Deletes the list if the last element was moved.")),
    command("blmpop",        -5, BLOCKING_WRITE, Keys::none().and(MoreKeys::Counted(2)), Transaction(lists::blmpop), ("list", "7.0.0", "Pops the first element from one of multiple lists. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("blpop",         -3, BLOCKING_WRITE,   Keys::range(1, -2, 1), Transaction(lists::blpop),        ("list", "2.0.0", "Removes and returns the first element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("brpop",         -3, BLOCKING_WRITE,   Keys::range(1, -2, 1), Transaction(lists::brpop),        ("list", "2.0.0", "Removes and returns the last element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("brpoplpush",     4, BLOCKING_OOM,     Keys::range(1, 2, 1), Transaction(lists::brpoplpush),    ("list", "2.2.0", "Pops an element from a list, pushes it to another list and returns it. Block until an element is available otherwise. Deletes the list if the last element was popped.")),
    command("lindex",         3, READ,            Keys::using(Place::Index(2)), Shard(lists::lindex),              ("list", "1.0.0", "Returns an element from a list by its index.")),
    command("linsert",        5, WRITE_OOM,       Keys::at(1),          Shard(lists::linsert),             ("list", "2.2.0", "Inserts an element before or after another element in a list.")),
    command("llen",           2, READ_FAST,       Keys::at(1),          Shard(lists::llen),                ("list", "1.0.0", "Returns the length of a list.")),
    command("lmove",          5, WRITE_OOM,       Keys::range(1, 2, 1), Transaction(lists::lmove),         ("list", "6.2.0", "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last element was moved.")),
    command("lmpop",         -4, WRITE,           Keys::none().and(MoreKeys::Counted(1)), Transaction(lists::lmpop),         ("list", "7.0.0", "Returns multiple elements from a list after removing them. Deletes the list if the last element was popped.")),
    command("lpop",          -2, WRITE_FAST,      Keys::using(Place::First), Shard(lists::lpop),                ("list", "1.0.0", "Returns the first elements in a list after removing it. Deletes the list if the last element was popped.")),
    command("lpos",          -3, READ,            Keys::at(1),          Shard(lists::lpos),                ("list", "6.0.6", "Returns the index of matching elements in a list.")),
    command("lpush",         -3, WRITE_OOM_FAST,  Keys::using(Place::First), Shard(lists::lpush),               ("list", "1.0.0", "Prepends one or more elements to a list. Creates the key if it doesn't exist.")),
    command("lpushx",        -3, WRITE_OOM_FAST,  Keys::using(Place::First), Shard(lists::lpushx),              ("list", "2.2.0", "Prepends one or more elements to a list only when the list exists.")),
    command("lrange",         4, READ,            Keys::using(Place::Index(2)), Shard(lists::lrange),              ("list", "1.0.0", "Returns a range of elements from a list.")),
    command("lrem",           4, WRITE,           Keys::at(1),          Shard(lists::lrem),                ("list", "1.0.0", "Removes elements from a list. Deletes the list if the last element was removed.")),
    command("lset",           4, WRITE_OOM,       Keys::using(Place::Index(2)), Shard(lists::lset),                ("list", "1.0.0", "Sets the value of an element in a list by its index.")),
    command("ltrim",          4, WRITE,           Keys::at(1),          Shard(lists::ltrim),               ("list", "1.0.0", "Removes elements from both ends a list. Deletes the list if all elements were trimmed.")),
    command("rpop",          -2, WRITE_FAST,      Keys::using(Place::Last), Shard(lists::rpop),                ("list", "1.0.0", "Returns and removes the last elements of a list. Deletes the list if the last element was popped.")),
    command("rpoplpush",      3, WRITE_OOM,       Keys::range(1, 2, 1), Transaction(lists::rpoplpush),     ("list", "1.2.0", "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the last element was popped.")),
    command("rpush",         -3, WRITE_OOM_FAST,  Keys::using(Place::Last), Shard(lists::rpush),               ("list", "1.0.0", "Appends one or more elements to a list. Creates the key if it doesn't exist.")),
    command("rpushx",        -3, WRITE_OOM_FAST,  Keys::using(Place::Last), Shard(lists::rpushx),              ("list", "2.2.0", "Appends an element to a list only when the list exists.")),

    // Sets.
    command("sadd",          -3, WRITE_OOM_FAST,  Keys::using(Place::Member(2)), Shard(sets::sadd),                 ("set", "1.0.0", "Adds one or more members to a set. Creates the key if it doesn't exist.")),
    command("scard",          2, READ_FAST,       Keys::at(1),          Shard(sets::scard),                ("set", "1.0.0", "Returns the number of members in a set.")),
    command("sdiff",         -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sdiff),          ("set", "1.0.0", "Returns the difference of multiple sets.")),
    command("sdiffstore",    -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sdiffstore),     ("set", "1.0.0", "Stores the difference of multiple sets in a key.")),
    command("sinter",        -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sinter),         ("set", "1.0.0", "Returns the intersect of multiple sets.")),
    command("sintercard",    -3, READ,            Keys::none().and(MoreKeys::Counted(1)), Transaction(sets::sintercard),     ("set", "7.0.0", "Returns the number of members of the intersect of multiple sets.")),
    command("sinterstore",   -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sinterstore),    ("set", "1.0.0", "Stores the intersect of multiple sets in a key.")),
    command("sismember",      3, READ_FAST,       Keys::using(Place::Member(2)), Shard(sets::sismember),            ("set", "1.0.0", "Determines whether a member belongs to a set.")),
    command("smembers",       2, READ,            Keys::at(1),          Shard(sets::smembers),             ("set", "1.0.0", "Returns all members of a set.")),
    command("smismember",    -3, READ_FAST,       Keys::using(Place::Member(2)), Shard(sets::smismember),           ("set", "6.2.0", "Determines whether multiple members belong to a set.")),
    command("smove",          4, WRITE_FAST,      Keys::range(1, 2, 1), Transaction(sets::smove),          ("set", "1.0.0", "Moves a member from one set to another.")),
    command("spop",          -2, WRITE_FAST,      Keys::at(1),          Shard(sets::spop),                 ("set", "1.0.0", "Returns one or more random members from a set after removing them. Deletes the set if the last member was popped.")),
    command("srandmember",   -2, READ,            Keys::at(1),          Shard(sets::srandmember),          ("set", "1.0.0", "Get one or multiple random members from a set")),
    command("srem",          -3, WRITE_FAST,      Keys::using(Place::Member(2)), Shard(sets::srem),                 ("set", "1.0.0", "Removes one or more members from a set. Deletes the set if the last member was removed.")),
    command("sscan",         -3, READ,            Keys::at(1),          Shard(sets::sscan),                ("set", "2.8.0", "Iterates over members of a set.")),
    command("sunion",        -2, READ,            Keys::range(1, -1, 1), Transaction(sets::sunion),         ("set", "1.0.0", "Returns the union of multiple sets.")),
    command("sunionstore",   -3, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(sets::sunionstore),    ("set", "1.0.0", "Stores the union of multiple sets in a key.")),

    // Sorted sets.
    command("bzmpop",          -5, BLOCKING_WRITE, Keys::none().and(MoreKeys::Counted(2)), Transaction(members::bzmpop), ("sorted-set", "7.0.0", "Removes and returns a member by score from one or more sorted sets. Blocks until a member is available otherwise. Deletes the sorted set if the last element was popped.")),
    command("bzpopmax",        -3, or(BLOCKING_WRITE, FAST), Keys::range(1, -2, 1), Transaction(members::bzpopmax), ("sorted-set", "5.0.0", "Removes and returns the member with the highest score from one or more sorted sets. Blocks until a member available otherwise.  Deletes the sorted set if the last element was popped.")),
    command("bzpopmin",        -3, or(BLOCKING_WRITE, FAST), Keys::range(1, -2, 1), Transaction(members::bzpopmin), ("sorted-set", "5.0.0", "Removes and returns the member with the lowest score from one or more sorted sets. Blocks until a member is available otherwise. Deletes the sorted set if the last element was popped.")),
    command("zadd",            -4, WRITE_OOM_FAST, Keys::using(Place::Member(3)), Shard(members::zadd),              ("sorted-set", "1.2.0", "Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist.")),
    command("zcard",            2, READ_FAST,      Keys::at(1),          Shard(members::zcard),             ("sorted-set", "1.2.0", "Returns the number of members in a sorted set.")),
    command("zcount",           4, READ_FAST,      Keys::at(1),          Shard(ranges::zcount),             ("sorted-set", "2.0.0", "Returns the count of members in a sorted set that have scores within a range.")),
    command("zdiff",           -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zdiff),       ("sorted-set", "6.2.0", "Returns the difference between multiple sorted sets.")),
    command("zdiffstore",      -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zdiffstore),  ("sorted-set", "6.2.0", "Stores the difference of multiple sorted sets in a key.")),
    command("zincrby",          4, WRITE_OOM_FAST, Keys::using(Place::Member(3)), Shard(members::zincrby),           ("sorted-set", "1.2.0", "Increments the score of a member in a sorted set.")),
    command("zinter",          -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zinter),      ("sorted-set", "6.2.0", "Returns the intersect of multiple sorted sets.")),
    command("zintercard",      -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zintercard),  ("sorted-set", "7.0.0", "Returns the number of members of the intersect of multiple sorted sets.")),
    command("zinterstore",     -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zinterstore), ("sorted-set", "2.0.0", "Stores the intersect of multiple sorted sets in a key.")),
    command("zlexcount",        4, READ_FAST,      Keys::at(1),          Shard(ranges::zlexcount),          ("sorted-set", "2.8.9", "Returns the number of members in a sorted set within a lexicographical range.")),
    command("zmpop",           -4, WRITE,          Keys::none().and(MoreKeys::Counted(1)),Transaction(members::zmpop),       ("sorted-set", "7.0.0", "Returns the highest- or lowest-scoring members from one or more sorted sets after removing them. Deletes the sorted set if the last member was popped.")),
    command("zmscore",         -3, READ_FAST,      Keys::using(Place::Member(2)), Shard(members::zmscore),           ("sorted-set", "6.2.0", "Returns the score of one or more members in a sorted set.")),
    command("zpopmax",         -2, WRITE_FAST,     Keys::at(1),          Shard(members::zpopmax),           ("sorted-set", "5.0.0", "Returns the highest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.")),
    command("zpopmin",         -2, WRITE_FAST,     Keys::at(1),          Shard(members::zpopmin),           ("sorted-set", "5.0.0", "Returns the lowest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.")),
    command("zrandmember",     -2, READ,           Keys::at(1),          Shard(members::zrandmember),       ("sorted-set", "6.2.0", "Returns one or more random members from a sorted set.")),
    command("zrange",          -4, READ,           Keys::using(Place::Index(2)), Shard(ranges::zrange),             ("sorted-set", "1.2.0", "Returns members in a sorted set within a range of indexes.")),
    command("zrangebylex",     -4, READ,           Keys::at(1),          Shard(ranges::zrangebylex),        ("sorted-set", "2.8.9", "Returns members in a sorted set within a lexicographical range.")),
    command("zrangebyscore",   -4, READ,           Keys::at(1),          Shard(ranges::zrangebyscore),      ("sorted-set", "1.0.5", "Returns members in a sorted set within a range of scores.")),
    command("zrangestore",     -5, WRITE_OOM,      Keys::range(1, 2, 1), Transaction(ranges::zrangestore),  ("sorted-set", "6.2.0", "Stores a range of members from sorted set in a key.")),
    command("zrank",           -3, READ_FAST,      Keys::using(Place::Member(2)), Shard(members::zrank),             ("sorted-set", "2.0.0", "Returns the index of a member in a sorted set ordered by ascending scores.")),
    command("zrem",            -3, WRITE_FAST,     Keys::using(Place::Member(2)), Shard(members::zrem),              ("sorted-set", "1.2.0", "Removes one or more members from a sorted set. Deletes the sorted set if all members were removed.")),
    command("zremrangebylex",   4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebylex),     ("sorted-set", "2.8.9", "Removes members in a sorted set within a lexicographical range. Deletes the sorted set if all members were removed.")),
    command("zremrangebyrank",  4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebyrank),    ("sorted-set", "2.0.0", "Removes members in a sorted set within a range of indexes. Deletes the sorted set if all members were removed.")),
    command("zremrangebyscore",  4, WRITE,          Keys::at(1),          Shard(ranges::zremrangebyscore),   ("sorted-set", "1.2.0", "Removes members in a sorted set within a range of scores. Deletes the sorted set if all members were removed.")),
    command("zrevrange",       -4, READ,           Keys::at(1),          Shard(ranges::zrevrange),          ("sorted-set", "1.2.0", "Returns members in a sorted set within a range of indexes in reverse order.")),
    command("zrevrangebylex",  -4, READ,           Keys::at(1),          Shard(ranges::zrevrangebylex),     ("sorted-set", "2.8.9", "Returns members in a sorted set within a lexicographical range in reverse order.")),
    command("zrevrangebyscore", -4, READ,           Keys::at(1),          Shard(ranges::zrevrangebyscore),   ("sorted-set", "2.2.0", "Returns members in a sorted set within a range of scores in reverse order.")),
    command("zrevrank",        -3, READ_FAST,      Keys::using(Place::Member(2)), Shard(members::zrevrank),          ("sorted-set", "2.0.0", "Returns the index of a member in a sorted set ordered by descending scores.")),
    command("zscan",           -3, READ,           Keys::at(1),          Shard(members::zscan),             ("sorted-set", "2.8.0", "Iterates over members and scores of a sorted set.")),
    command("zscore",           3, READ_FAST,      Keys::using(Place::Member(2)), Shard(members::zscore),            ("sorted-set", "1.2.0", "Returns the score of a member in a sorted set.")),
    command("zunion",          -3, READ,           Keys::none().and(MoreKeys::Counted(1)),Transaction(algebra::zunion),      ("sorted-set", "6.2.0", "Returns the union of multiple sorted sets.")),
    command("zunionstore",     -4, WRITE_OOM,      Keys::at(1).and(MoreKeys::Counted(2)),Transaction(algebra::zunionstore), ("sorted-set", "2.0.0", "Stores the union of multiple sorted sets in a key.")),

    // Streams.
    command("xack",            -4, or(or(WRITE_FAST, QUIET), COUNTS_LOOK_UPS), Keys::at(1),          Shard(stream_groups::xack),        ("stream", "5.0.0", "Returns the number of messages that were successfully acknowledged by the consumer group member of a stream.")),
    command("xackdel",         -6, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xackdel),   ("stream", "8.2.0", "Acknowledges and conditionally deletes one or multiple entries for a stream consumer group.")),
    command("xadd",            -5, WRITE_OOM_FAST,  Keys::using(Place::Last), Shard(streams::xadd),              ("stream", "5.0.0", "Appends a new message to a stream. Creates the key if it doesn't exist.")),
    command("xautoclaim",      -6, or(WRITE_FAST, QUIET), Keys::at(1),          Shard(stream_groups::xautoclaim),  ("stream", "6.2.0", "Changes, or acquires, ownership of messages in a consumer group, as if the messages were delivered to as consumer group member.")),
    command("xclaim",          -6, or(WRITE_FAST, QUIET), Keys::at(1),          Shard(stream_groups::xclaim),      ("stream", "5.0.0", "Changes, or acquires, ownership of a message in a consumer group, as if the message was delivered a consumer group member.")),
    command("xdel",            -3, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xdel),      ("stream", "5.0.0", "Returns the number of messages after removing them from a stream.")),
    command("xdelex",          -5, WRITE_FAST,      Keys::at(1),          Shard(stream_deletion::xdelex),    ("stream", "8.2.0", "Deletes one or multiple entries from the stream.")),
    command("xgroup",          -2, Flags::NONE,     Keys::none(),         Container,                         ("stream", "5.0.0", "A container for consumer groups commands.")),
    command("xgroup|create",   -5, or(WRITE_OOM, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_create), ("stream", "5.0.0", "Creates a consumer group.")),
    command("xgroup|createconsumer", 5, or(WRITE_OOM, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_createconsumer), ("stream", "6.2.0", "Creates a consumer in a consumer group.")),
    command("xgroup|delconsumer", 5, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_delconsumer), ("stream", "5.0.0", "Deletes a consumer from a consumer group.")),
    command("xgroup|destroy",   4, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_destroy), ("stream", "5.0.0", "Destroys a consumer group.")),
    command("xgroup|help",      2, INFORMATION,     Keys::none(),         Network(help_commands::xgroup_help), ("stream", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("xgroup|setid",    -5, or(WRITE, QUIET), Keys::at(2),          Shard(stream_groups::xgroup_setid), ("stream", "5.0.0", "Sets the last-delivered ID of a consumer group.")),
    command("xinfo",           -2, Flags::NONE,     Keys::none(),         Container,                         ("stream", "5.0.0", "A container for stream introspection commands.")),
    command("xinfo|consumers",  4, READ,            Keys::at(2),          Shard(stream_groups::xinfo_consumers), ("stream", "5.0.0", "Returns a list of the consumers in a consumer group.")),
    command("xinfo|groups",     3, READ,            Keys::at(2),          Shard(stream_groups::xinfo_groups), ("stream", "5.0.0", "Returns a list of the consumer groups of a stream.")),
    command("xinfo|help",       2, INFORMATION,     Keys::none(),         Network(help_commands::xinfo_help), ("stream", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("xinfo|stream",    -3, READ,            Keys::at(2),          Shard(streams::xinfo_stream),      ("stream", "5.0.0", "Returns information about a stream.")),
    command("xlen",             2, READ_FAST,       Keys::at(1),          Shard(streams::xlen),              ("stream", "5.0.0", "Return the number of messages in a stream.")),
    command("xpending",        -3, READ,            Keys::at(1),          Shard(stream_groups::xpending),    ("stream", "5.0.0", "Returns the information and entries from a stream consumer group's pending entries list.")),
    command("xrange",          -4, READ,            Keys::at(1),          Shard(streams::xrange),            ("stream", "5.0.0", "Returns the messages from a stream within a range of IDs.")),
    command("xread",           -4, or(or(READ, BLOCKING), WAITS_IF_ASKED), Keys::none().and(MoreKeys::Streams), Transaction(streams::xread), ("stream", "5.0.0", "Returns messages from multiple streams with IDs greater than the ones requested. Blocks until a message is available otherwise.")),
    command("xreadgroup",      -7, or(or(or(WRITE, BLOCKING), QUIET), WAITS_IF_ASKED), Keys::none().and(MoreKeys::Streams), Transaction(stream_groups::xreadgroup), ("stream", "5.0.0", "Returns new or historical messages from a stream for a consumer in a group. Blocks until a message is available otherwise.")),
    command("xrevrange",       -4, READ,            Keys::at(1),          Shard(streams::xrevrange),         ("stream", "5.0.0", "Returns the messages from a stream within a range of IDs in reverse order.")),
    command("xsetid",          -3, or(WRITE_OOM_FAST, QUIET), Keys::at(1),          Shard(streams::xsetid),            ("stream", "5.0.0", "An internal command for replicating stream values.")),
    command("xtrim",           -4, WRITE,           Keys::at(1),          Shard(streams::xtrim),             ("stream", "5.0.0", "Deletes messages from the beginning of a stream.")),

    // Bitmaps.
    command("bitcount",        -2, READ,            Keys::at(1),          Shard(bits::bitcount),             ("bitmap", "2.6.0", "Counts the number of set bits (population counting) in a string.")),
    command("bitfield",        -2, WRITE_OOM,       Keys::at(1),          Shard(bits::bitfield),             ("bitmap", "3.2.0", "Performs arbitrary bitfield integer operations on strings.")),
    command("bitfield_ro",     -2, READ_FAST,       Keys::at(1),          Shard(bits::bitfield_ro),          ("bitmap", "6.0.0", "Performs arbitrary read-only bitfield integer operations on strings.")),
    command("bitop",           -4, WRITE_OOM,       Keys::range(2, -1, 1), Transaction(bits::bitop),         ("bitmap", "2.6.0", "Performs bitwise operations on multiple strings, and stores the result.")),
    command("bitpos",          -3, READ,            Keys::at(1),          Shard(bits::bitpos),               ("bitmap", "2.8.7", "Finds the first set (1) or clear (0) bit in a string.")),
    command("getbit",           3, READ_FAST,       Keys::using(Place::Bit(2)), Shard(bits::getbit),               ("bitmap", "2.2.0", "Returns a bit value by offset.")),
    command("setbit",           4, WRITE_OOM,       Keys::using(Place::Bit(2)), Shard(bits::setbit),               ("bitmap", "2.2.0", "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist.")),

    // HyperLogLogs.
    command("pfadd",           -2, WRITE_OOM_FAST,  Keys::at(1),          Shard(hyperloglog::pfadd),         ("hyperloglog", "2.8.9", "Adds elements to a HyperLogLog key. Creates the key if it doesn't exist.")),
    command("pfcount",         -2, READ,            Keys::range(1, -1, 1), Transaction(hyperloglog::pfcount), ("hyperloglog", "2.8.9", "Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s).")),
    command("pfdebug",          3, or(or(WRITE_OOM, ADMIN), QUIET), Keys::at(2),     Shard(hyperloglog::pfdebug),       ("hyperloglog", "2.8.9", "Internal commands for debugging HyperLogLog values.")),
    command("pfmerge",         -2, WRITE_OOM,       Keys::range(1, -1, 1), Transaction(hyperloglog::pfmerge), ("hyperloglog", "2.8.9", "Merges one or more HyperLogLog values into a single key.")),
    command("pfselftest",       1, ADMIN,           Keys::none(),         Network(server_commands::pfselftest),  ("hyperloglog", "2.8.9", "An internal command for testing HyperLogLog values.")),

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
    command("copy",            -3, WRITE_OOM,       Keys::range(1, 2, 1).in_two(OtherDatabase::AfterDb), Transaction(keys::copy),           ("generic", "6.2.0", "Copies the value of a key to a new key.")),
    command("dbsize",           1, or(READ_FAST, ABOUT_KEYSPACE), Keys::none(),         All(keys::dbsize, Sum),            ("server", "1.0.0", "Returns the number of keys in the database.")),
    command("del",             -2, WRITE,           Keys::range(1, -1, 1), Transaction(keys::del),            ("generic", "1.0.0", "Deletes one or more keys.")),
    command("dump",             2, READ,            Keys::at(1),          Shard(dump::dump),                 ("generic", "2.6.0", "Returns a serialized representation of the value stored at a key.")),
    command("exists",          -2, READ_FAST,       Keys::range(1, -1, 1), Transaction(keys::exists),         ("generic", "1.0.0", "Determines whether one or more keys exist.")),
    command("expire",          -3, WRITE_FAST,      Keys::at(1),          Shard(keys::expire),               ("generic", "1.0.0", "Sets the expiration time of a key in seconds.")),
    command("expireat",        -3, WRITE_FAST,      Keys::at(1),          Shard(keys::expireat),             ("generic", "1.2.0", "Sets the expiration time of a key to a Unix timestamp.")),
    command("expiretime",       2, READ_FAST,       Keys::at(1),          Shard(keys::expiretime),           ("generic", "7.0.0", "Returns the expiration time of a key as a Unix timestamp.")),
    command("flushall",        -1, or(or(WRITE, DANGEROUS), ABOUT_KEYSPACE), Keys::none(),    Whole(keys::flushall),        ("server", "1.0.0", "Removes all keys from all databases.")),
    command("flushdb",         -1, or(or(WRITE, DANGEROUS), ABOUT_KEYSPACE), Keys::none(),    Whole(keys::flushdb),         ("server", "1.0.0", "Remove all keys from the current database.")),
    command("keys",             2, or(or(or(READ, DANGEROUS), LOW_PRIORITY), ABOUT_KEYSPACE), Keys::none(), All(keys::keys, Concatenate), ("generic", "1.0.0", "Returns all key names that match a pattern.")),
    command("move",             3, WRITE_FAST,      Keys::at(1).in_two(OtherDatabase::Argument(2)), Shard(keys::move_key),             ("generic", "1.0.0", "Moves a key to another database.")),
    command("object",          -2, Flags::NONE,     Keys::none(),         Container,                         ("generic", "2.2.3", "A container for object introspection commands.")),
    command("object|encoding",  3, or(READ, LOOKS_ASIDE), Keys::at(2),          Shard(keys::object_encoding),      ("generic", "2.2.3", "Returns the internal encoding of a Redis object.")),
    command("object|freq",      3, or(READ, LOOKS_ASIDE), Keys::at(2),          Shard(keys::object_freq),          ("generic", "4.0.0", "Returns the logarithmic access frequency counter of a Redis object.")),
    command("object|help",      2, or(INFORMATION, ABOUT_KEYSPACE), Keys::none(),         Network(server_commands::object_help),      ("generic", "6.2.0", "Returns helpful text about the different subcommands.")),
    command("object|idletime",  3, or(READ, LOOKS_ASIDE), Keys::at(2),          Shard(keys::object_idletime),      ("generic", "2.2.3", "Returns the time since the last access to a Redis object.")),
    command("object|refcount",  3, or(READ, LOOKS_ASIDE), Keys::at(2),          Shard(keys::object_refcount),      ("generic", "2.2.3", "Returns the reference count of a value of a key.")),
    command("persist",          2, WRITE_FAST,      Keys::at(1),          Shard(keys::persist),              ("generic", "2.2.0", "Removes the expiration time of a key.")),
    command("pexpire",         -3, WRITE_FAST,      Keys::at(1),          Shard(keys::pexpire),              ("generic", "2.6.0", "Sets the expiration time of a key in milliseconds.")),
    command("pexpireat",       -3, WRITE_FAST,      Keys::at(1),          Shard(keys::pexpireat),            ("generic", "2.6.0", "Sets the expiration time of a key to a Unix milliseconds timestamp.")),
    command("pexpiretime",      2, READ_FAST,       Keys::at(1),          Shard(keys::pexpiretime),          ("generic", "7.0.0", "Returns the expiration time of a key as a Unix milliseconds timestamp.")),
    command("pttl",             2, READ_FAST,       Keys::at(1),          Shard(keys::pttl),                 ("generic", "2.6.0", "Returns the expiration time in milliseconds of a key.")),
    command("randomkey",        1, or(READ, ABOUT_KEYSPACE), Keys::none(),         Each(keys::randomkey, AnyOf),       ("generic", "1.0.0", "Returns a random key name from the database.")),
    command("rename",           3, WRITE,           Keys::range(1, 2, 1), Transaction(keys::rename),         ("generic", "1.0.0", "Renames a key and overwrites the destination.")),
    command("renamenx",         3, WRITE_FAST,      Keys::range(1, 2, 1), Transaction(keys::renamenx),       ("generic", "1.0.0", "Renames a key only when the target key name doesn't exist.")),
    command("restore",         -4, or(WRITE_OOM, DANGEROUS), Keys::at(1), Shard(dump::restore),              ("generic", "2.6.0", "Creates a key from the serialized representation of a value.")),
    command("scan",            -2, or(or(READ, LOW_PRIORITY), ABOUT_KEYSPACE), Keys::none(),  Cursor(keys::scan),                ("generic", "2.8.0", "Iterates over the key names in the database.")),
    command("sort",          -2, or(or(or(WRITE_OOM, DANGEROUS), COUNTS_LOOK_UPS), SORTS), Keys::at(1).and(MoreKeys::SortStore), Transaction(sort::sort),           ("generic", "1.0.0", "Sorts the elements in a list, a set, or a sorted set, optionally storing the result.")),
    command("sort_ro",       -2, or(or(READ, DANGEROUS), SORTS), Keys::at(1),          Shard(sort::sort_ro),              ("generic", "7.0.0", "Returns the sorted elements of a list, a set, or a sorted set.")),
    command("swapdb",           3, or(or(WRITE_FAST, DANGEROUS), ABOUT_KEYSPACE), Keys::none(), All(keys::swapdb, AllOk),        ("server", "4.0.0", "Swaps two Redis databases.")),
    command("touch",           -2, READ_FAST,       Keys::range(1, -1, 1), Transaction(keys::exists),         ("generic", "3.2.1", "Returns the number of existing keys out of those specified after updating the time they were last accessed.")),
    command("ttl",              2, READ_FAST,       Keys::at(1),          Shard(keys::ttl),                  ("generic", "1.0.0", "Returns the expiration time in seconds of a key.")),
    command("type",             2, READ_FAST,       Keys::at(1),          Shard(keys::type_of),              ("generic", "1.0.0", "Determines the type of value stored at a key.")),
    command("unlink",          -2, WRITE_FAST,      Keys::range(1, -1, 1), Transaction(keys::del),            ("generic", "4.0.0", "Asynchronously deletes one or more keys.")),
    command("wait",             3, or(BLOCKING, ABOUT_CONNECTION), Keys::none(),         Network(wait_commands::wait),            ("generic", "3.0.0", "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.")),
    command("waitaof",          4, or(BLOCKING, ABOUT_CONNECTION), Keys::none(),         Network(wait_commands::waitaof),         ("generic", "7.2.0", "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.")),

    // Transactions.
    command("discard",          1, or(SESSION_FAST, NOT_QUEUED), Keys::none(),         Network(multi_commands::discard),    ("transactions", "2.0.0", "Discards a transaction.")),
    command("exec",             1, SESSION,         Keys::none(),         Exec(multi_exec::exec),          ("transactions", "1.2.0", "Executes all commands in a transaction.")),
    command("multi",            1, or(SESSION_FAST, NOT_QUEUED), Keys::none(),         Network(multi_commands::multi),      ("transactions", "1.2.0", "Starts a transaction.")),
    command("unwatch",          1, SESSION_FAST,    Keys::none(),         Network(multi_commands::unwatch),    ("transactions", "2.2.0", "Forgets about watched keys of a transaction.")),
    command("watch",           -2, SESSION_FAST,    Keys::range(1, -1, 1), Watch(multi_exec::watch),       ("transactions", "2.2.0", "Monitors changes to keys to determine the execution of a transaction.")),

    // Channels.
    command("psubscribe",      -2, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::psubscribe),       ("pubsub", "2.0.0", "Listens for messages published to channels that match one or more patterns.")),
    command("publish",          3, or(PUBLISHING, FAST), Keys::none(),      NetworkOrScript(pubsub::publish, called_by_scripts::publish),          ("pubsub", "2.0.0", "Posts a message to a channel.")),
    command("pubsub",          -2, Flags::NONE,     Keys::none(),         Container,                         ("pubsub", "2.8.0", "A container for Pub/Sub commands.")),
    command("pubsub|channels", -2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_channels),  ("pubsub", "2.8.0", "Returns the active channels.")),
    command("pubsub|help",      2, INFORMATION,     Keys::none(),         Network(pubsub::pubsub_help),      ("pubsub", "6.2.0", "Returns helpful text about the different subcommands.")),
    command("pubsub|numpat",    2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_numpat),    ("pubsub", "2.8.0", "Returns a count of unique pattern subscriptions.")),
    command("pubsub|numsub",   -2, or(INFORMATION, PUBSUB), Keys::none(),   Network(pubsub::pubsub_numsub),    ("pubsub", "2.8.0", "Returns a count of subscribers to channels.")),
    command("pubsub|shardchannels", -2, or(INFORMATION, PUBSUB), Keys::none(), Network(pubsub::pubsub_shardchannels), ("pubsub", "7.0.0", "Returns the active shard channels.")),
    command("pubsub|shardnumsub", -2, or(INFORMATION, PUBSUB), Keys::none(), Network(pubsub::pubsub_shardnumsub), ("pubsub", "7.0.0", "Returns the count of subscribers of shard channels.")),
    command("punsubscribe",    -1, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::punsubscribe),     ("pubsub", "2.0.0", "Stops listening to messages published to channels that match one or more patterns.")),
    command("spublish",         3, or(PUBLISHING, FAST), Keys::at(1),       NetworkOrScript(pubsub::spublish, called_by_scripts::spublish),         ("pubsub", "7.0.0", "Post a message to a shard channel")),
    command("ssubscribe",      -2, or(SESSION, PUBSUB), Keys::range(1, -1, 1), Network(pubsub::ssubscribe),    ("pubsub", "7.0.0", "Listens for messages published to shard channels.")),
    command("subscribe",       -2, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::subscribe),        ("pubsub", "2.0.0", "Listens for messages published to channels.")),
    command("sunsubscribe",    -1, or(SESSION, PUBSUB), Keys::range(1, -1, 1), Network(pubsub::sunsubscribe),  ("pubsub", "7.0.0", "Stops listening to messages posted to shard channels.")),
    command("unsubscribe",     -1, or(SESSION, PUBSUB), Keys::none(),       Network(pubsub::unsubscribe),      ("pubsub", "2.0.0", "Stops listening to messages posted to channels.")),

    command("auth",            -2, or(or(SESSION_FAST, NO_AUTH), AUTHENTICATES), Keys::none(), Network(connection_commands::auth),       ("connection", "1.0.0", "Authenticates the connection.")),
    command("client",          -2, Flags::NONE,     Keys::none(),         Container,                         ("connection", "2.4.0", "A container for client connection commands.")),
    command("client|caching",   3, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_tracking::client_caching), ("connection", "6.0.0", "Instructs the server whether to track the keys in the next request.")),
    command("client|getname",   2, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_getname), ("connection", "2.6.9", "Returns the name of the connection.")),
    command("client|getredir",  2, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_tracking::client_getredir), ("connection", "6.0.0", "Returns the client ID to which the connection's tracking notifications are redirected.")),
    command("client|help",      2, or(INFORMATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_help),  ("connection", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("client|id",        2, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_id),    ("connection", "5.0.0", "Returns the unique client ID of the connection.")),
    command("client|info",      2, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_info),  ("connection", "6.2.0", "Returns information about the connection.")),
    command("client|kill",     -3, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_kill),  ("connection", "2.4.0", "Terminates open connections.")),
    command("client|list",     -2, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_list),  ("connection", "2.4.0", "Lists open connections.")),
    command("client|no-evict",  3, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_no_evict), ("connection", "7.0.0", "Sets the client eviction mode of the connection.")),
    command("client|no-touch",  3, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_no_touch), ("connection", "7.2.0", "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.")),
    command("client|pause",    -3, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_pause), ("connection", "3.0.0", "Suspends commands processing.")),
    command("client|reply",     3, or(or(SESSION, SETS_REPLIES), OF_CLIENT), Keys::none(),         Network(client_commands::client_reply), ("connection", "3.2.0", "Instructs the server whether to reply to commands.")),
    command("client|setinfo",   4, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_setinfo), ("connection", "7.2.0", "Sets information specific to the client or connection.")),
    command("client|setname",   3, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_commands::client_setname), ("connection", "2.6.9", "Sets the connection name.")),
    command("client|tracking", -3, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_tracking::client_tracking), ("connection", "6.0.0", "Controls server-assisted client-side caching for the connection.")),
    command("client|trackinginfo", 2, or(SESSION, OF_CLIENT), Keys::none(),         Network(client_tracking::client_trackinginfo), ("connection", "6.2.0", "Returns information about server-assisted client-side caching for the connection.")),
    command("client|unblock",  -3, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_unblock), ("connection", "5.0.0", "Unblocks a client blocked by a blocking command from a different connection.")),
    command("client|unpause",   2, or(ADMINISTRATION, OF_CLIENT), Keys::none(),         Network(client_commands::client_unpause), ("connection", "6.2.0", "Resumes processing commands from paused clients.")),
    command("echo",             2, or(INFORMATION, FAST), Keys::none(),   NetworkOrScript(connection_commands::echo, called_by_scripts::echo),         ("connection", "1.0.0", "Returns the given string.")),
    command("hello",           -1, or(or(SESSION_FAST, NO_AUTH), CHOOSES_PROTOCOL), Keys::none(), Network(connection_commands::hello),      ("connection", "6.0.0", "Handshakes with the Redis server.")),
    command("ping",            -1, or(FAST, WHILE_SUBSCRIBED), Keys::none(),         NetworkOrScript(connection_commands::ping, called_by_scripts::ping),         ("connection", "1.0.0", "Returns the server's liveliness response.")),
    command("quit",            -1, or(or(or(SESSION_FAST, NO_AUTH), NOT_QUEUED), WHILE_SUBSCRIBED), Keys::none(), Network(connection_commands::quit),       ("connection", "1.0.0", "Closes the connection.")),
    command("reset",            1, or(or(or(or(SESSION_FAST, NO_AUTH), RESETS_SESSION), NOT_QUEUED), WHILE_SUBSCRIBED), Keys::none(), Network(connection_commands::reset),      ("connection", "6.2.0", "Resets the connection.")),
    command("select",           2, or(or(INFORMATION, FAST), SELECTS_DATABASE), Keys::none(),   Network(connection_commands::select),       ("connection", "1.0.0", "Changes the selected database.")),

    command("bgrewriteaof",     1, or(ADMIN, NO_SCRIPT), Keys::none(),    Network(persistence::bgrewriteaof), ("server", "1.0.0", "Brings the logs into RocksDB.")),
    command("bgsave",          -1, or(ADMIN, NO_SCRIPT), Keys::none(),    Network(persistence::bgsave),      ("server", "1.0.0", "Sees to it that everything that was answered is on disk.")),
    command("command",         -1, or(or(INFORMATION, HAS_SUBCOMMANDS), ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_all),      ("server", "2.8.13", "Returns detailed information about all commands.")),
    command("command|count",    2, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_count),    ("server", "2.8.13", "Returns a count of commands.")),
    command("command|docs",    -2, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_docs),     ("server", "7.0.0", "Returns documentary information about one, multiple or all commands.")),
    command("command|getkeys", -4, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_getkeys),  ("server", "2.8.13", "Extracts the key names from an arbitrary command.")),
    command("command|help",     2, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_help),     ("server", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("command|info",    -2, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_info),     ("server", "2.8.13", "Returns information about one, multiple or all commands.")),
    command("command|list",    -2, or(INFORMATION, ABOUT_CONNECTION), Keys::none(),         Network(server_commands::command_list),     ("server", "7.0.0", "Returns a list of command names.")),
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
    command("memory|doctor",    2, Flags::NONE,     Keys::none(),         Network(memory_commands::memory_doctor),    ("server", "4.0.0", "Outputs a memory problems report.")),
    command("memory|help",      2, INFORMATION,     Keys::none(),         Network(memory_commands::memory_help),      ("server", "4.0.0", "Returns helpful text about the different subcommands.")),
    command("memory|malloc-stats", 2, Flags::NONE,  Keys::none(),         Network(memory_commands::memory_malloc_stats), ("server", "4.0.0", "Returns the allocator statistics.")),
    command("memory|purge",     2, Flags::NONE,     Keys::none(),         Network(memory_commands::memory_purge),     ("server", "4.0.0", "Asks the allocator to release memory.")),
    command("memory|stats",     2, Flags::NONE,     Keys::none(),         Network(memory_commands::memory_stats),     ("server", "4.0.0", "Returns details about memory usage.")),
    command("memory|usage",    -3, or(READ, LOOKS_ASIDE), Keys::at(2),          Shard(keys::memory_usage),         ("server", "4.0.0", "Estimates the memory usage of a key.")),
    command("monitor",          1, ADMINISTRATION,  Keys::none(),         Network(pubsub::monitor),          ("server", "1.0.0", "Listens for all requests received by the server in real-time.")),
    command("role",             1, SESSION_FAST,    Keys::none(),         Network(persistence::role),        ("server", "2.8.12", "Returns the replication role.")),
    command("save",             1, or(or(ADMIN, NO_SCRIPT), NO_MULTI), Keys::none(), Network(persistence::save), ("server", "1.0.0", "Waits until everything that was answered is on disk.")),
    command("shutdown",        -1, or(ADMINISTRATION, NO_MULTI), Keys::none(), Network(server_commands::shutdown),    ("server", "1.0.0", "Synchronously saves the database(s) to disk and shuts down the server.")),
    command("time",             1, or(INFORMATION, FAST), Keys::none(),   NetworkOrScript(server_commands::time, called_by_scripts::time),             ("server", "2.6.0", "Returns the server time.")),

    // Scripts.
    command("eval",            -3, SCRIPT,            Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "2.6.0", "Executes a server-side Lua script.")),
    command("eval_ro",         -3, or(SCRIPT, READ),  Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Executes a read-only server-side Lua script.")),
    command("evalsha",         -3, or(SCRIPT, BY_DIGEST), Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "2.6.0", "Executes a server-side Lua script by SHA1 digest.")),
    command("evalsha_ro",      -3, or(or(SCRIPT, READ), BY_DIGEST), Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Executes a read-only server-side Lua script by SHA1 digest.")),
    command("fcall",           -3, or(SCRIPT, BY_FUNCTION), Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Invokes a function.")),
    command("fcall_ro",        -3, or(or(SCRIPT, READ), BY_FUNCTION), Keys::none().and(MoreKeys::Counted(2)), Transaction(scripting::eval), ("scripting", "7.0.0", "Invokes a read-only function.")),
    command("function",        -2, Flags::NONE,       Keys::none(),       Container,                          ("scripting", "7.0.0", "A container for function commands.")),
    command("function|delete",  3, or(WRITE, NO_SCRIPT), Keys::none(),    Transaction(function_commands::function_delete), ("scripting", "7.0.0", "Deletes a library and its functions.")),
    command("function|dump",    2, NO_SCRIPT,         Keys::none(),       Transaction(function_commands::function_dump), ("scripting", "7.0.0", "Dumps all libraries into a serialized binary payload.")),
    command("function|flush",  -2, or(WRITE, NO_SCRIPT), Keys::none(),    Transaction(function_commands::function_flush), ("scripting", "7.0.0", "Deletes all libraries and functions.")),
    command("function|help",    2, INFORMATION,       Keys::none(),       Network(script_commands::function_help),  ("scripting", "7.0.0", "Returns helpful text about the different subcommands.")),
    command("function|kill",    2, NO_SCRIPT,         Keys::none(),       Network(script_commands::function_kill),  ("scripting", "7.0.0", "Terminates a function during execution.")),
    command("function|list",   -2, NO_SCRIPT,         Keys::none(),       Transaction(function_commands::function_list), ("scripting", "7.0.0", "Returns information about all libraries.")),
    command("function|load",   -3, or(WRITE_OOM, NO_SCRIPT), Keys::none(), Transaction(function_commands::function_load), ("scripting", "7.0.0", "Creates a library.")),
    command("function|restore", -3, or(WRITE_OOM, NO_SCRIPT), Keys::none(), Transaction(function_commands::function_restore), ("scripting", "7.0.0", "Restores all libraries from a payload.")),
    command("function|stats",   2, NO_SCRIPT,         Keys::none(),       Network(script_commands::function_stats), ("scripting", "7.0.0", "Returns information about a function during execution.")),
    command("script",          -2, Flags::NONE,       Keys::none(),       Container,                         ("scripting", "2.6.0", "A container for Lua scripts management commands.")),
    command("script|debug",     3, NO_SCRIPT,         Keys::none(),       Network(script_commands::script_debug),  ("scripting", "3.2.0", "Sets the debug mode of server-side Lua scripts.")),
    command("script|exists",   -3, NO_SCRIPT,         Keys::none(),       Network(script_commands::script_exists), ("scripting", "2.6.0", "Determines whether server-side Lua scripts exist in the script cache.")),
    command("script|flush",    -2, NO_SCRIPT,         Keys::none(),       Network(script_commands::script_flush),  ("scripting", "2.6.0", "Removes all server-side Lua scripts from the script cache.")),
    command("script|help",      2, INFORMATION,       Keys::none(),       Network(script_commands::script_help),   ("scripting", "5.0.0", "Returns helpful text about the different subcommands.")),
    command("script|kill",      2, NO_SCRIPT,         Keys::none(),       Network(script_commands::script_kill),   ("scripting", "2.6.0", "Terminates a server-side Lua script during execution.")),
    command("script|load",      3, or(NO_SCRIPT, STALE), Keys::none(),    Network(script_commands::script_load),   ("scripting", "2.6.0", "Loads a server-side Lua script to the script cache.")),
];

/// All commands, each at its index.
pub static COMMANDS: [Command; ROWS.len()] = {
    let mut commands = [ROWS[0].command; ROWS.len()];
    let mut index = 0;
    while index < ROWS.len() {
        commands[index] = ROWS[index].command;
        commands[index].index = index as u16;
        index += 1;
    }
    commands
};

static NETWORK: [Option<NetworkHandler>; ROWS.len()] = {
    let mut handlers = [None; ROWS.len()];
    let mut index = 0;
    while index < ROWS.len() {
        handlers[index] = ROWS[index].network;
        index += 1;
    }
    handlers
};

static STORAGE: [Option<Handler>; ROWS.len()] = {
    let mut handlers = [None; ROWS.len()];
    let mut index = 0;
    while index < ROWS.len() {
        handlers[index] = ROWS[index].storage;
        index += 1;
    }
    handlers
};

/// What network executors run.
pub const NETWORK_HANDLERS: Handlers<NetworkHandler> = Handlers::new(&NETWORK);

/// What storage executors run.
pub const STORAGE_HANDLERS: Handlers<Handler> = Handlers::new(&STORAGE);

/// Makes these rows known to all that look commands up: first of all that a process does.
pub fn install() {
    command::install(&COMMANDS);
}
