//! A command that a storage executor hands back to its network executor, because it needs more than its keys there: the
//! network executor runs it as a transaction, and the storage executor lets the client's later commands wait until that
//! is over.

use crate::channel::message::Caller;
use crate::protocol::{Arguments, OwnedArguments, Version};
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

/// Appends one to the replies of a batch.
pub(super) fn encode(
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
    /// Reads one; `None` if the bytes are none.
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
