//! A command that a storage executor hands back to its network executor, because it needs more than its keys there: the
//! network executor runs it as a transaction, and the storage executor lets the client's later commands wait until that
//! is over.

use super::request::check_len;
use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Caller, HANDED_BACK, Request, Response};
use crate::command::Runs;
use crate::protocol::{Arguments, OwnedArguments, Reply, Span, Version};
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::transaction_scope::DatabaseKey;
use crate::storage::undeclared::Undeclared;

/// See the module's documentation.
#[derive(Debug)]
pub struct HandedBack {
    /// For whom it runs.
    pub caller: Caller,
    /// What it needs beyond the keys that it names.
    pub undeclared: Undeclared,
    /// Keys that the client watches on the executor, if it is an EXEC.
    pub watched: Vec<DatabaseKey>,
    /// The command's arguments.
    pub arguments: OwnedArguments,
}

impl StorageExecutor {
    /// A command got to what it has not named and may not use here. Nothing of it stands; the network executor runs it
    /// as a transaction, and the client's later commands wait here until the transaction is over.
    pub(super) fn hand_back(&mut self, batch: &mut Batch, request: &Request, start: usize) {
        let undeclared = self.shards.take_undeclared().unwrap_or(Undeclared::Everything);
        self.undo_command(batch, start);
        let client = request.caller.client_id;
        let watched = self.interests.keys_watched_by(client).to_vec();
        let (arguments, replies) = batch.parts(request);
        encode(&request.caller, &undeclared, &watched, arguments, replies);
        if let Err(error) = check_len(replies) {
            replies.truncate(start);
            if request.command.runs == Runs::Exec {
                // The transaction is over.
                self.interests.unwatch(&mut self.shards, client);
            }
            let mut text = Vec::new();
            Reply::new(&mut text, request.caller.version).error(error.to_string());
            return batch.answer(request, &text);
        }
        let reply = Span::new(start, replies.len() - start);
        batch.responses.push(Response {
            id: request.id,
            reply,
            command: request.command,
            took_ns: 0,
            failed: false,
            commit_epoch: 0,
            more: HANDED_BACK,
        });
        if client != 0 {
            self.parked.behind.entry(client).or_default();
            self.parked.handed_back.insert(client);
        }
        self.metrics.handed_back.add(1);
    }
}

/// Appends a command that is handed back to the replies of a batch.
fn encode(
    caller: &Caller,
    undeclared: &Undeclared,
    watched: &[DatabaseKey],
    arguments: Arguments<'_>,
    out: &mut Vec<u8>,
) {
    let mut fields = FieldWriter(out);
    fields.number(caller.client_id);
    fields.number(u64::from(caller.executor));
    fields.byte(u8::from(caller.tracks));
    fields.byte(u8::from(caller.version == Version::Resp3));
    fields.byte(caller.database);
    match undeclared {
        Undeclared::Everything => fields.byte(0),
        Undeclared::Keys(keys) => {
            fields.byte(1);
            write_keys(&mut fields, keys);
        }
    }
    write_keys(&mut fields, watched);
    arguments.iter().for_each(|argument| fields.bytes(argument));
}

fn write_keys(fields: &mut FieldWriter<'_>, keys: &[DatabaseKey]) {
    fields.number(keys.len() as u64);
    for (database, key) in keys {
        fields.byte(*database);
        fields.bytes(key);
    }
}

fn read_keys(fields: &mut FieldReader<'_>) -> Option<Vec<DatabaseKey>> {
    let count = fields.number()?;
    (0..count)
        .map(|_| Some((fields.byte()?, fields.bytes()?.to_vec())))
        .collect()
}

impl HandedBack {
    /// Reads what an executor has handed back; `None` if the bytes are nothing of the kind.
    pub fn decode(bytes: &[u8]) -> Option<HandedBack> {
        let mut fields = FieldReader(bytes);
        let caller = Caller {
            client_id: fields.number()?,
            executor: u16::try_from(fields.number()?).ok()?,
            tracks: fields.byte()? != 0,
            version: match fields.byte()? {
                0 => Version::Resp2,
                _ => Version::Resp3,
            },
            database: fields.byte()?,
        };
        let undeclared = match fields.byte()? {
            0 => Undeclared::Everything,
            _ => Undeclared::Keys(read_keys(&mut fields)?),
        };
        let watched = read_keys(&mut fields)?;
        let mut arguments = OwnedArguments::default();
        while !fields.is_at_end() {
            arguments.push(fields.bytes()?);
        }
        Some(HandedBack {
            caller,
            undeclared,
            watched,
            arguments,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_back_is_read_as_it_was_written() {
        let caller = Caller {
            client_id: 7,
            executor: 3,
            tracks: true,
            version: Version::Resp3,
            database: 15,
        };
        let command = OwnedArguments::of([&b"eval"[..], b"", b"0"]);
        let watched = [(2, b"w".to_vec())];
        for undeclared in [
            Undeclared::Everything,
            Undeclared::Keys(vec![(0, b"a".to_vec()), (1, Vec::new())]),
        ] {
            let mut out = Vec::new();
            encode(&caller, &undeclared, &watched, command.get(), &mut out);
            let read = HandedBack::decode(&out).expect("whole fields");
            assert_eq!((&read.undeclared, &read.watched[..]), (&undeclared, &watched[..]));
            let read_caller = (
                read.caller.client_id,
                read.caller.executor,
                read.caller.tracks,
                read.caller.database,
            );
            assert_eq!((read_caller, read.caller.version), ((7, 3, true, 15), Version::Resp3));
            assert!(read.arguments.get().iter().eq(command.get().iter()));
            assert!(HandedBack::decode(&out[..out.len() - 2]).is_none());
        }
    }
}
