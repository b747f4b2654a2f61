//! What a command is: its name, arity, flags and keys, and where it runs; no handlers. The rows are in [`crate::rows`],
//! which installs the table here once, before anything else runs.

pub mod exec_request;

use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::Arguments;
use crate::storage::encoding::DATABASE_COUNT;
use crate::storage::transaction_scope::DatabaseKey;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The version of Redis whose commands these are.
pub const REDIS_VERSION: &str = "7.2.0";

/// A set of the properties of a command that the constants below name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u64);

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
/// Runs at low priority, as it looks at a whole shard.
pub const LOW_PRIORITY: Flags = Flags(1 << 9);
/// Not allowed inside a transaction.
pub const NO_MULTI: Flags = Flags(1 << 10);
/// Not a client's command: executors send it to each other.
pub const INTERNAL: Flags = Flags(1 << 11);
/// In the ACL category `dangerous`.
pub const DANGEROUS: Flags = Flags(1 << 12);
/// May wait for something to happen.
pub const BLOCKING: Flags = Flags(1 << 13);
/// Changes of a key that is there before and after count for neither WATCH nor client-side caches, as in Redis.
pub const QUIET: Flags = Flags(1 << 14);
/// Runs a script, which may call any command. Not shown.
pub const RUNS_SCRIPT: Flags = Flags(1 << 20);

/// About channels.
pub const PUBSUB: Flags = Flags(1 << 16);
/// Publishes: waits while subscribers are behind, and is a write to CLIENT PAUSE.
pub const PUBLISHES: Flags = Flags(1 << 17);

/// Refused where `enable-debug-command` does not allow it. Not shown.
pub const PROTECTED: Flags = Flags(1 << 21);
/// Writes, and answers what was there: its look-ups count as hits and misses all the same, as in Redis. Not shown.
pub const COUNTS_LOOK_UPS: Flags = Flags(1 << 22);
/// Selects another database for the commands that follow (SELECT).
pub const SELECTS_DATABASE: Flags = Flags(1 << 32);
/// May choose another version of RESP, and authenticate on the way (HELLO).
pub const CHOOSES_PROTOCOL: Flags = Flags(1 << 33);
/// Has a password for its last argument, and perhaps a user before that (AUTH).
pub const AUTHENTICATES: Flags = Flags(1 << 34);
/// Waits with the option BLOCK only.
pub const WAITS_IF_ASKED: Flags = Flags(1 << 35);
/// Says which commands are answered, itself among them (CLIENT REPLY).
pub const SETS_REPLIES: Flags = Flags(1 << 36);
/// Makes the session as new, and is answered whatever CLIENT REPLY said (RESET).
pub const RESETS_SESSION: Flags = Flags(1 << 37);
/// Runs at once between MULTI and EXEC.
pub const NOT_QUEUED: Flags = Flags(1 << 38);
/// Is a command without arguments, and a family of subcommands with them (COMMAND).
pub const HAS_SUBCOMMANDS: Flags = Flags(1 << 39);
/// One of CLIENT's subcommands: never held by CLIENT PAUSE, and CLIENT CACHING is not about it.
pub const OF_CLIENT: Flags = Flags(1 << 40);
/// Looks at a key without using it: a key that is not there is no `keymiss` (OBJECT, MEMORY USAGE).
pub const LOOKS_ASIDE: Flags = Flags(1 << 41);
/// Allowed to a RESP2 client that subscribes, beside the commands about subscriptions.
pub const WHILE_SUBSCRIBED: Flags = Flags(1 << 42);
/// Names its script by digest.
pub const BY_DIGEST: Flags = Flags(1 << 43);
/// Names a function.
pub const BY_FUNCTION: Flags = Flags(1 << 44);
/// In the ACL categories of what can be sorted.
pub const SORTS: Flags = Flags(1 << 45);
/// In the ACL category `keyspace`, although it names no keys.
pub const ABOUT_KEYSPACE: Flags = Flags(1 << 46);
/// In the ACL category `connection`, whatever its family.
pub const ABOUT_CONNECTION: Flags = Flags(1 << 47);

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
    /// No flags.
    pub const NONE: Flags = Flags(0);

    /// These flags and others, where `|` cannot be used.
    pub const fn and(self, others: Flags) -> Flags {
        Flags(self.0 | others.0)
    }

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
    /// Keys whose positions depend on other arguments.
    pub more: MoreKeys,
    /// Another database in which the command uses the same keys.
    pub other_database: OtherDatabase,
    /// What of the first key's collection is used.
    pub place: Place,
}

/// What of a collection a command uses, as far as its arguments tell. A hint: memory may fetch it ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// They do not tell.
    Unknown,
    /// The first members.
    First,
    /// The last members.
    Last,
    /// The member that the argument at this position names.
    Member(usize),
    /// The members from the index on that the argument at this position is.
    Index(usize),
    /// Of a string, the byte at the offset that the argument at this position is.
    Byte(usize),
    /// The same with an offset in bits.
    Bit(usize),
}

/// Which argument of a command names another database, beside the selected one, in which the command uses its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherDatabase {
    /// None does.
    None,
    /// The argument at this position (MOVE).
    Argument(usize),
    /// The argument behind the option DB (COPY).
    AfterDb,
}

impl OtherDatabase {
    /// The other database, if there is one; a bad number is none, which the handler refuses.
    fn of(self, arguments: Arguments<'_>) -> Option<u8> {
        match self {
            OtherDatabase::None => None,
            OtherDatabase::Argument(at) => database_number(arguments.get(at)).ok(),
            OtherDatabase::AfterDb => {
                let mut options = arguments.iter().skip(3);
                options.find(|argument| argument.eq_ignore_ascii_case(b"DB"))?;
                database_number(options.next()?).ok()
            }
        }
    }
}

/// Keys whose positions other arguments say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoreKeys {
    /// No such keys.
    None,
    /// As many keys as the argument at this position says, behind it (ZUNION, LMPOP…).
    Counted(usize),
    /// The first half of what follows the word STREAMS (XREAD, XREADGROUP).
    Streams,
    /// Behind the last STORE or STOREDIST (GEORADIUS).
    Store,
    /// Behind the last STORE of SORT's options, of which some take operands.
    SortStore,
}

impl MoreKeys {
    fn positions(self, arguments: Arguments<'_>) -> std::ops::Range<usize> {
        let count = arguments.len();
        let find = |word: &str| {
            (1..count)
                .rev()
                .find(|position| arguments.get(*position).eq_ignore_ascii_case(word.as_bytes()))
        };
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
                while word < count && !arguments.get(word).eq_ignore_ascii_case(b"STREAMS") {
                    // A group may be called "streams".
                    word += match arguments.get(word) {
                        option if option.eq_ignore_ascii_case(b"GROUP") => 3,
                        option if option.eq_ignore_ascii_case(b"BLOCK") || option.eq_ignore_ascii_case(b"COUNT") => 2,
                        option if option.eq_ignore_ascii_case(b"NOACK") => 1,
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
                        option if option.eq_ignore_ascii_case(b"LIMIT") => 2,
                        option if option.eq_ignore_ascii_case(b"GET") || option.eq_ignore_ascii_case(b"BY") => 1,
                        option if option.eq_ignore_ascii_case(b"STORE") && at + 1 < count => {
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
    /// No keys.
    pub const fn none() -> Keys {
        Keys {
            first: 0,
            last: 0,
            step: 0,
            more: MoreKeys::None,
            other_database: OtherDatabase::None,
            place: Place::Unknown,
        }
    }

    /// One key, at this position.
    pub const fn at(position: usize) -> Keys {
        Keys {
            first: position,
            last: position as i32,
            step: 1,
            more: MoreKeys::None,
            other_database: OtherDatabase::None,
            place: Place::Unknown,
        }
    }

    /// Keys from one position to another, every `step`th.
    pub const fn range(first: usize, last: i32, step: usize) -> Keys {
        Keys {
            first,
            last,
            step,
            more: MoreKeys::None,
            other_database: OtherDatabase::None,
            place: Place::Unknown,
        }
    }

    /// These keys, and more that other arguments name.
    pub const fn and(self, more: MoreKeys) -> Keys {
        Keys { more, ..self }
    }

    /// These keys, in two databases.
    pub const fn in_two(self, other_database: OtherDatabase) -> Keys {
        Keys { other_database, ..self }
    }

    /// One key, at position 1, of whose collection this is used.
    pub const fn using(place: Place) -> Keys {
        Keys { place, ..Keys::at(1) }
    }

    /// Whether a command with these may have any.
    pub fn are_some(self) -> bool {
        self.first > 0 || self.more != MoreKeys::None
    }

    /// The positions of the keys among `arguments`.
    #[inline]
    pub fn positions(self, arguments: Arguments<'_>) -> impl Iterator<Item = usize> + Clone {
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
            more => more.positions(arguments),
        };
        (self.first..end.max(self.first)).step_by(self.step.max(1)).chain(more)
    }

    /// The keys among `arguments`.
    pub fn of(self, arguments: Arguments<'_>) -> impl Iterator<Item = &[u8]> {
        self.positions(arguments).map(move |position| arguments.get(position))
    }
}

/// How the replies of a command's parts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// To the sum of integers.
    Sum,
    /// To OK if all are OK, or else to the first error.
    AllOk,
    /// To one array with the elements of all.
    Concatenate,
    /// To the first reply that is not null, from a random part on.
    AnyOf,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// On the network executor of the connection.
    Network,
    /// On the one shard of its keys.
    Shard,
    /// On all of its keys at once: where they lie on several storage executors, as a transaction.
    Transaction,
    /// On every storage executor as a transaction, and the replies are merged.
    All(Merge),
    /// On everything at once: where there are several storage executors, as a transaction.
    Whole,
    /// On every storage executor by itself, and the replies are merged.
    Each(Merge),
    /// On the shard that the cursor in argument 1 points into.
    Cursor,
    /// On a storage executor, as a step of a transaction over several.
    Step(Step),
    /// On a storage executor, about a command of a client that is under way.
    Internal(Internal),
    /// On the storage executor of what was queued since MULTI: runs all of it (EXEC).
    Exec,
    /// On each key's shard, which remembers for whom (WATCH).
    Watch,
    /// Nowhere: the row is a family of subcommands, each with a row of its own.
    Container,
}

/// What the coordinator of a transaction over several storage executors asks one of them to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Lock keys, and tell what is under them.
    Schedule,
    /// Tell what is under more of the locked keys.
    Read,
    /// Run a command on all shards of the executor, all of whose keys are locked.
    Run,
    /// Commit the redo record, and the part of the primary, which has the record.
    Prepare,
    /// Write parts, and release the locks.
    Apply,
    /// Release the locks; nothing was written here.
    Release,
    /// Tell whether there is a redo record, once it is committed.
    Resolve,
    /// Whether there is a redo record is in doubt until a restart: let the keys be read, and not written.
    KeepInDoubt,
    /// The command of the client that was handed back is over: what waits behind it may run.
    RunBehind,
    /// All shards have followed: redo records and their markers may go.
    Forget,
}

/// What a network executor asks of a storage executor that is neither a client's command nor a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// The next piece of a large reply: the client has taken most of what it was sent.
    PiecesNext,
    /// The remainder of a large reply is not wanted: the client is gone.
    PiecesDrop,
    /// A client watches nothing any more, or is gone.
    WatchesDrop,
    /// A command that waits was answered elsewhere, or its client is gone.
    WaitersDrop,
    /// Tell whether all that was written so far is on disk, or tell when it is (WAITAOF).
    WaitDurable,
    /// A move between shards waits for its source. Arguments: the key, the milliseconds that are left (0: for ever) and
    /// its rank among those that wait, if it had one (else 0), as eight bytes each; and the target, if it is on the
    /// same executor.
    WaitSource,
}

/// A command, without its handler.
#[derive(Clone, Copy)]
pub struct Command {
    /// The name in lower case; a subcommand's is `container|name`.
    pub name: &'static str,
    /// Arguments with the name: exactly, or at least if negative.
    pub arity: i32,
    /// The command's properties.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// Where it runs.
    pub runs: Runs,
    /// The family, as COMMAND DOCS names it.
    pub group: &'static str,
    /// What the command does, in one sentence.
    pub summary: &'static str,
    /// The version of Redis that had the command first.
    pub since: &'static str,
    /// The row's index in the table, which the table itself sets; [`NO_INDEX`] for what is no client's command.
    pub index: u16,
}

/// The index of a command that is in no table.
pub const NO_INDEX: u16 = u16::MAX;

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Handlers by the index of their commands: what an executor gets at its start.
pub struct Handlers<H: 'static>(&'static [Option<H>]);

impl<H> Clone for Handlers<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Handlers<H> {}

impl<H: Copy> Handlers<H> {
    /// `handlers[command.index()]` is the command's handler.
    pub const fn new(handlers: &'static [Option<H>]) -> Self {
        Handlers(handlers)
    }

    /// The handler of a command, if the command has one of this kind.
    #[inline]
    pub fn of(self, command: &Command) -> Option<H> {
        self.0.get(command.index()).copied().flatten()
    }
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

    /// Whether the command is a family of subcommands, or is one, too.
    #[inline]
    pub fn has_subcommands(&self) -> bool {
        self.runs == Runs::Container || self.flags.has(HAS_SUBCOMMANDS)
    }

    /// Whether the command may wait, with these arguments: XREAD and XREADGROUP only do with the option BLOCK.
    pub fn may_wait(&self, arguments: Arguments<'_>) -> bool {
        self.flags.has(BLOCKING) && (!self.flags.has(WAITS_IF_ASKED) || is_asked_to_wait(arguments))
    }

    /// Whether the command may change data, with these arguments (EXEC's are the queued commands).
    #[inline]
    pub fn writes(&self, arguments: Arguments<'_>) -> bool {
        match self.runs {
            Runs::Exec => exec_request::parts_of_exec(arguments).any(|(_, part, _)| part.may_write()),
            _ => self.may_write(),
        }
    }

    /// Whether the command may change data: it writes, or runs commands or a script that may.
    #[inline]
    pub fn may_write(&self) -> bool {
        self.flags.has(WRITE) || self.runs == Runs::Exec || (self.flags.has(RUNS_SCRIPT) && !self.flags.has(READ))
    }

    /// Whether the command leaves less than it finds, or hardly more: what Redis runs when memory is short (DEL,
    /// FLUSHALL, LPOP) may run when the disk is full.
    #[inline]
    pub fn frees_space(&self) -> bool {
        self.flags.has(WRITE) && !self.flags.has(DENY_OOM)
    }

    /// The container's part of a subcommand's name.
    pub fn container(&self) -> Option<&'static str> {
        self.name.split_once('|').map(|(container, _)| container)
    }

    /// The row's index in the table, for per-command statistics. What is no client's command has none there.
    #[inline]
    pub fn index(&self) -> usize {
        usize::from(self.index)
    }

    /// The row with an [`Command::index`].
    pub fn of_index(index: usize) -> Option<&'static Command> {
        all().get(index)
    }

    /// Whether the look-ups of the command are counted as hits and misses. A command that runs others has taken out the
    /// look-ups of those that are not counted.
    pub fn counts_look_ups(&self) -> bool {
        let counting = [READ, COUNTS_LOOK_UPS, RUNS_SCRIPT];
        counting.iter().any(|flag| self.flags.has(*flag)) || self.runs == Runs::Exec
    }

    /// The ACL categories of the command without the `@`, in Redis's order.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut categories = Vec::new();
        // A container is in no family's category: its subcommands are.
        let is_container = self.runs == Runs::Container;
        let mut add = |condition: bool, name| {
            if condition {
                categories.push(name);
            }
        };
        let is_keyspace = self.group == "generic" && self.keys.are_some() && !self.flags.has(SORTS);
        add(is_keyspace || self.flags.has(ABOUT_KEYSPACE), "keyspace");
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
            let sorts_it = self.flags.has(SORTS) && matches!(group, "set" | "sorted-set" | "list");
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
            self.group == "connection" && !is_container || self.flags.has(ABOUT_CONNECTION),
            "connection",
        );
        add(self.group == "scripting" && !is_container, "scripting");
        categories
    }
}

/// The longest name of a command or subcommand, `memory|malloc-stats` and the like.
const NAME_LEN_MAX: usize = 32;

/// Whether the arguments of XREAD or XREADGROUP have the option BLOCK.
fn is_asked_to_wait(arguments: Arguments<'_>) -> bool {
    let mut position = 1;
    while position < arguments.len() {
        position += match arguments.get(position) {
            option if option.eq_ignore_ascii_case(b"BLOCK") => return true,
            option if option.eq_ignore_ascii_case(b"GROUP") => 3,
            option if option.eq_ignore_ascii_case(b"COUNT") => 2,
            option if option.eq_ignore_ascii_case(b"STREAMS") => return false,
            _ => 1,
        };
    }
    false
}

const fn internal(name: &'static str, arity: i32, flags: Flags, keys: Keys, runs: Runs) -> Command {
    Command {
        name,
        arity,
        flags: flags.and(INTERNAL),
        keys,
        runs,
        group: "",
        summary: "",
        since: "",
        index: NO_INDEX,
    }
}

const fn step(name: &'static str, flags: Flags, step: Step) -> Command {
    internal(name, -2, flags, Keys::none(), Runs::Step(step))
}

/// See [`Step::Schedule`].
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
/// See [`Internal::PiecesNext`].
pub static PIECES_NEXT: Command = internal(
    "pieces|next",
    2,
    READ,
    Keys::none(),
    Runs::Internal(Internal::PiecesNext),
);
/// See [`Internal::PiecesDrop`].
pub static PIECES_DROP: Command = internal(
    "pieces|drop",
    2,
    READ,
    Keys::none(),
    Runs::Internal(Internal::PiecesDrop),
);
/// See [`Internal::WatchesDrop`].
pub static WATCHES_DROP: Command = internal(
    "watches|drop",
    1,
    READ,
    Keys::none(),
    Runs::Internal(Internal::WatchesDrop),
);
/// See [`Internal::WaitDurable`].
pub static WAIT_DURABLE: Command = internal(
    "wait|durable",
    2,
    READ,
    Keys::none(),
    Runs::Internal(Internal::WaitDurable),
);
/// See [`Internal::WaitSource`].
pub static WAIT_SOURCE: Command = internal(
    "wait|source",
    -4,
    READ,
    Keys::at(1),
    Runs::Internal(Internal::WaitSource),
);
/// See [`Internal::WaitersDrop`].
pub static WAITERS_DROP: Command = internal(
    "waiters|drop",
    3,
    READ,
    Keys::none(),
    Runs::Internal(Internal::WaitersDrop),
);

/// The keys that a command names, with their databases.
pub fn database_keys_of(command: &Command, arguments: Arguments<'_>, database: u8) -> Vec<DatabaseKey> {
    if command.runs == Runs::Exec {
        let parts = exec_request::parts_of_exec(arguments);
        return parts
            .flat_map(|(header, part, arguments)| database_keys_of(part, arguments, header.database))
            .collect();
    }
    let other = command.keys.other_database.of(arguments);
    let in_database = |database: u8| command.keys.of(arguments).map(move |key| (database, key.to_vec()));
    let mut keys: Vec<DatabaseKey> = in_database(database).collect();
    keys.extend(other.into_iter().flat_map(in_database));
    keys
}

/// A database number as SELECT, COPY and MOVE take it.
pub fn database_number(argument: &[u8]) -> Result<u8, CommandError> {
    let number = parse_integer(argument).ok_or(CommandError::NotAnInteger)?;
    match usize::try_from(i32::try_from(number).map_err(|_| CommandError::NotASmallInteger)?) {
        Ok(number) if number < DATABASE_COUNT => Ok(number as u8),
        _ => Err(CommandError::DatabaseOutOfRange),
    }
}

/// The rows, and each by its name.
struct Table {
    rows: &'static [Command],
    by_name: RowsByName,
    subcommands: RowsByName,
}

type RowsByName = HashMap<&'static [u8], &'static Command, foldhash::fast::RandomState>;

static TABLE: OnceLock<Table> = OnceLock::new();

/// Makes `rows` the table of this process. Only the first call does something: there is one table.
pub fn install(rows: &'static [Command]) {
    TABLE.get_or_init(|| {
        for (index, row) in rows.iter().enumerate() {
            let name = row.name;
            assert_eq!(row.index(), index, "{name}: a row's index is its position in the table");
            assert!(name.len() <= NAME_LEN_MAX, "{name}: `find` looks at no longer names");
            let has_key = (1..row.arity.unsigned_abs() as usize).contains(&row.keys.first);
            assert!(
                row.runs != Runs::Shard || has_key,
                "{name}: a command that runs on the shard of its key has one"
            );
        }
        let of = |subcommands: bool| {
            let rows = rows.iter().filter(|row| row.container().is_some() == subcommands);
            rows.map(|row| (row.name.as_bytes(), row)).collect()
        };
        let table = Table {
            rows,
            by_name: of(false),
            subcommands: of(true),
        };
        let names = table.by_name.len() + table.subcommands.len();
        assert_eq!(names, rows.len(), "no two rows have one name");
        table
    });
}

#[inline]
fn table() -> &'static Table {
    TABLE.get().expect("the rows are installed before anything runs")
}

/// All rows, by [`Command::index`].
pub fn all() -> &'static [Command] {
    table().rows
}

/// The row of a command's name, whatever its case; a container's row for a family of subcommands.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; NAME_LEN_MAX];
    let lower = lower.get_mut(..name.len())?;
    for (to, from) in lower.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    table().by_name.get(&*lower).copied()
}

/// The row of a container's subcommand, whatever its case.
pub fn find_subcommand(container: &Command, name: &[u8]) -> Option<&'static Command> {
    let full = [container.name.as_bytes(), b"|", name].concat().to_ascii_lowercase();
    table().subcommands.get(&*full).copied()
}

/// The rows of a container's subcommands.
pub fn subcommands(container: &'static Command) -> impl Iterator<Item = &'static Command> {
    all().iter().filter(move |row| row.container() == Some(container.name))
}
