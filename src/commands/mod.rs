//! What each command means: the handlers, by data type. [`crate::rows`] has one row for each.

pub mod arguments;
pub mod bits;
pub mod blocking;
pub mod called_by_scripts;
pub mod collection;
pub mod dump;
pub mod effects;
pub mod field_expiry;
pub mod function_commands;
pub mod geo;
pub mod geohash;
pub mod hash;
pub mod hashes;
pub mod hyperloglog;
pub mod keys;
pub mod lists;
pub mod lua_calls;
pub mod monitor_line;
pub mod multi_exec;
mod name_order;
pub mod pausing;
pub mod random;
pub mod removals;
pub mod script_runs;
pub mod scripting;
pub mod sets;
pub mod sort;
pub mod sorted_sets;
pub mod steps;
mod stored_ranks;
pub mod stream_deletion;
pub mod stream_groups;
pub mod stream_nodes;
pub mod streams;
pub mod string_part;
pub mod strings;
pub mod walks;

use crate::command::Handlers;
use crate::error::CommandError;
use crate::protocol::{Arguments, Reply};
use crate::scripts::registry::ScriptSeat;
use crate::storage::encoding::{Record, Type};
use crate::storage::pieces::Pieces;
use crate::storage::view::View;
use blocking::Waiting;
use effects::{Effects, EffectsMark};
use steps::InSteps;

/// What a handler gets and all that it may touch: a handler reads no clock, no random source and nothing of another
/// shard by itself, so it can be dropped and run again.
pub struct Context<'a> {
    /// The command and its arguments; arity is checked.
    pub arguments: Arguments<'a>,
    /// Where the reply goes.
    pub reply: Reply<'a>,
    /// The data.
    pub view: View<'a>,
    /// The one reading of the clock that all commands of the turn see, in Unix milliseconds.
    pub now_ms: u64,
    /// The selected database, `0..16`.
    pub database: u8,
    /// 64 random bits for this command.
    pub seed: u64,
    /// The longest string that may be made, in bytes (`proto-max-bulk-len`).
    pub string_bytes_max: usize,
    /// The client that sent the command, by CLIENT ID; 0 for nobody.
    pub client_id: u64,
    /// For EXEC: whether a key that the client watches was modified, or has expired, since the client began to watch
    /// it.
    pub is_watched_key_modified: bool,
    /// Whether the command is a part of another (of EXEC, a script, RESTORE): then its reply cannot come in pieces, and
    /// it does not wait for anything.
    pub is_inner: bool,
    /// The handlers of commands that may be run as parts of this one.
    pub handlers: StorageHandlers,
    /// Where scripts are run; `None` where they may not.
    pub script_seat: Option<&'a ScriptSeat>,
    /// What the command does beside writing and replying.
    pub effects: &'a mut Effects,
    /// The remainder of a large reply, which is written when the client has taken the first piece. In a box, as few
    /// commands have one and what all have is moved about.
    pub pieces: Option<Box<Pieces>>,
    /// Whether the command may be left after each of its steps.
    pub may_take_steps: bool,
    /// Set by a command that goes on in steps: its writes and its reply come with these.
    pub steps: Option<Box<InSteps>>,
    /// Set by a command that has nothing to give yet. Its reply is then the answer where it may not wait.
    pub waits: Option<Box<Waiting>>,
}

/// A handler: writes its reply or returns the error to answer; what it staged before an error is dropped.
pub type Handler = fn(&mut Context<'_>) -> Result<(), CommandError>;

/// The handlers of all commands that run on storage executors.
pub type StorageHandlers = Handlers<Handler>;

/// How things were when a part of a command began.
#[derive(Clone, Copy)]
struct PartMark {
    effects: EffectsMark,
    wanted_missed: bool,
    was_quiet: bool,
}

impl Context<'_> {
    /// Runs a part of this command: `run` with its own `arguments`, its reply going to `reply`. If the part fails, its
    /// writes and effects are dropped, and what the command did before stands.
    ///
    /// # Errors
    /// That of `run`.
    pub fn run_inner(
        &mut self,
        arguments: Arguments<'_>,
        reply: Reply<'_>,
        run: impl FnOnce(&mut Context<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let mark = self.begin_part(arguments);
        let outcome = self.within_part(arguments, Some(reply), run);
        self.end_part(mark, outcome.is_ok());
        outcome
    }

    /// Runs something in a part of this command that has begun, and that replies to `reply` or else in this command's
    /// reply.
    fn within_part<T>(
        &mut self,
        arguments: Arguments<'_>,
        reply: Option<Reply<'_>>,
        run: impl FnOnce(&mut Context<'_>) -> Result<T, CommandError>,
    ) -> Result<T, CommandError> {
        let mut inner = Context {
            arguments,
            reply: reply.unwrap_or_else(|| self.reply.reborrow()),
            view: self.view.reborrow(),
            now_ms: self.now_ms,
            database: self.database,
            seed: self.seed,
            string_bytes_max: self.string_bytes_max,
            client_id: self.client_id,
            is_watched_key_modified: false,
            is_inner: true,
            handlers: self.handlers,
            script_seat: self.script_seat,
            effects: self.effects,
            pieces: None,
            may_take_steps: false,
            steps: None,
            waits: None,
        };
        let outcome = run(&mut inner)?;
        if let Some(pieces) = inner.pieces.take() {
            pieces.write_whole(inner.view.shards()?, &mut inner.reply)?;
        }
        Ok(outcome)
    }

    /// A part of this command begins; [`Context::end_part`] must follow.
    fn begin_part(&mut self, arguments: Arguments<'_>) -> PartMark {
        self.collect_key_outcomes();
        self.effects.track_read_by(arguments);
        let wants_missed = self.effects.wants_missed_by(arguments);
        let mark = PartMark {
            effects: self.effects.mark(),
            wanted_missed: self.view.track_missed(wants_missed),
            // Whether a part is quiet takes a look-up, which is left out where nobody is interested.
            was_quiet: self.view.tracks_modified() && self.view.set_quiet(effects::is_quiet(arguments)),
        };
        self.view.begin_inner();
        mark
    }

    /// The part is over; if it is not `kept`, its writes and effects are dropped.
    fn end_part(&mut self, mark: PartMark, kept: bool) {
        self.view.track_missed(mark.wanted_missed);
        self.view.set_quiet(mark.was_quiet);
        self.view.end_inner(kept);
        if !kept {
            self.effects.forget_after(mark.effects);
        }
        self.collect_key_outcomes();
    }

    /// The record of a key of the selected database that is alive. A string has its bytes in it, however it is stored.
    #[inline]
    pub fn read(&mut self, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        self.view.read(self.database, key)
    }

    /// As [`Context::read`], but of a string that lies in chunks the record as it is stored: for handlers that do not
    /// need its bytes.
    #[inline]
    pub fn read_header(&mut self, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        self.view.read_header(self.database, key)
    }

    /// The string under a key of the selected database.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    #[inline]
    pub fn read_string(&mut self, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        match self.read(key)? {
            Some(record) if record.kind != Type::String => Err(CommandError::WrongType),
            found => Ok(found),
        }
    }

    /// Stages a record in the selected database.
    #[inline]
    pub fn write(&mut self, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        self.view.write(self.database, key, record)
    }

    /// Stages the deletion of a key in the selected database.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), CommandError> {
        self.view.delete(self.database, key)
    }
}
