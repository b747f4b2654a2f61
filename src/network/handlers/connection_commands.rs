//! Commands about the connection: PING, ECHO, HELLO, AUTH, SELECT, QUIT and RESET.

use super::client_commands::{check_attribute, text};
use crate::command::{CHOOSES_PROTOCOL, Command, REDIS_VERSION, SELECTS_DATABASE};
use crate::commands::arguments::{database, is_option};
use crate::error::CommandError;
use crate::network::session::{NetworkContext, ReplyMode};
use crate::network::tracking_pushes::set_tracking;
use crate::number::parse_integer;
use crate::protocol::{Arguments, Version};
use std::sync::atomic::Ordering;

type Outcome = Result<(), CommandError>;

/// The only user.
pub(super) const DEFAULT_USER: &str = "default";

/// PING [message]
pub fn ping(context: &mut NetworkContext<'_>) -> Outcome {
    let in_subscriber_mode = context.session.subscribed.is_some() && context.session.version == Version::Resp2;
    match context.arguments.len() {
        1 | 2 if in_subscriber_mode => {
            context.reply.array(2);
            context.reply.text("pong");
            context.reply.bulk(context.arguments.iter().nth(1).unwrap_or_default());
        }
        1 => context.reply.simple("PONG"),
        2 => context.reply.bulk(context.arguments.get(1)),
        _ => return Err(CommandError::Arity(context.command.name.to_owned())),
    }
    Ok(())
}

/// ECHO message
pub fn echo(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.bulk(context.arguments.get(1));
    Ok(())
}

/// Checks a user's password, and on success lets the session act.
fn authenticate(context: &mut NetworkContext<'_>, user: &[u8], password: &[u8]) -> Outcome {
    let required = &context.server.settings.snapshot().requirepass;
    // The password is compared for unknown users too, so that the time taken does not tell which users exist.
    let password_is_right = required.matches(password) || required.is_empty();
    if user == DEFAULT_USER.as_bytes() && password_is_right {
        context.session.authenticated = true;
        return Ok(());
    }
    Err(CommandError::text(
        "WRONGPASS invalid username-password pair or user is disabled.",
    ))
}

/// AUTH [username] password
pub fn auth(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        2 if context.server.settings.snapshot().requirepass.is_empty() => {
            return Err(CommandError::text(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        2 => authenticate(context, DEFAULT_USER.as_bytes(), arguments.get(1))?,
        3 => authenticate(context, arguments.get(1), arguments.get(2))?,
        _ => return Err(CommandError::Syntax),
    }
    context.reply.ok();
    Ok(())
}

/// What HELLO's arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct HelloOptions<'a> {
    version: Option<Version>,
    user_and_password: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl<'a> HelloOptions<'a> {
    /// Reads the arguments after the command's name.
    fn parse(mut arguments: impl Iterator<Item = &'a [u8]>) -> Result<HelloOptions<'a>, CommandError> {
        let mut options = HelloOptions::default();
        let Some(version) = arguments.next() else {
            return Ok(options);
        };
        options.version = Some(match parse_integer(version) {
            Some(2) => Version::Resp2,
            Some(3) => Version::Resp3,
            Some(_) => return Err(CommandError::text("NOPROTO unsupported protocol version")),
            None => {
                return Err(CommandError::text(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
        });
        while let Some(option) = arguments.next() {
            let invalid = || {
                let option = CommandError::quoted(option);
                CommandError::text(format!("ERR Syntax error in HELLO option '{option}'"))
            };
            if is_option(option, "AUTH") {
                let user = arguments.next().ok_or_else(invalid)?;
                options.user_and_password = Some((user, arguments.next().ok_or_else(invalid)?));
            } else if is_option(option, "SETNAME") {
                let name = arguments.next().ok_or_else(invalid)?;
                check_attribute(name, "Client names")?;
                options.name = Some(name);
            } else {
                return Err(invalid());
            }
        }
        Ok(options)
    }
}

/// HELLO [version [AUTH username password] [SETNAME name]]
pub fn hello(context: &mut NetworkContext<'_>) -> Outcome {
    let options = HelloOptions::parse(context.arguments.iter().skip(1))?;
    if let Some((user, password)) = options.user_and_password {
        authenticate(context, user, password)?;
    }
    if !context.session.authenticated {
        return Err(CommandError::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ));
    }
    if let Some(name) = options.name {
        context.session.client.names().name = text(name);
    }
    if let Some(version) = options.version {
        context.session.version = version;
        context.reply.set_version(version);
    }
    let NetworkContext { reply, session, .. } = context;
    reply.map(7);
    reply.text("server");
    reply.text("redis");
    reply.text("version");
    reply.text(REDIS_VERSION);
    reply.text("proto");
    reply.integer(version_number(session.version));
    reply.text("id");
    reply.integer(session.client.id as i64);
    reply.text("mode");
    reply.text("standalone");
    reply.text("role");
    reply.text("master");
    reply.text("modules");
    reply.array(0);
    Ok(())
}

/// The protocol, as HELLO numbers it.
pub(super) fn version_number(version: Version) -> i64 {
    match version {
        Version::Resp2 => 2,
        Version::Resp3 => 3,
    }
}

/// The database and protocol that a session has after a queued command, if that succeeds.
pub fn session_after(command: &Command, arguments: Arguments<'_>, (selected, version): (u8, Version)) -> (u8, Version) {
    match command.flags {
        flags if flags.has(SELECTS_DATABASE) => (database(arguments.get(1)).unwrap_or(selected), version),
        flags if flags.has(CHOOSES_PROTOCOL) => {
            let asked = HelloOptions::parse(arguments.iter().skip(1))
                .ok()
                .and_then(|options| options.version);
            (selected, asked.unwrap_or(version))
        }
        _ => (selected, version),
    }
}

/// SELECT index
pub fn select(context: &mut NetworkContext<'_>) -> Outcome {
    context.session.database = database(context.arguments.get(1))?;
    context.reply.ok();
    Ok(())
}

/// QUIT
pub fn quit(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.ok();
    context.session.closing = true;
    Ok(())
}

/// RESET: the session is as on a new connection, but for what the client's library has said about itself.
pub fn reset(context: &mut NetworkContext<'_>) -> Outcome {
    let NetworkContext {
        reply,
        session,
        server,
        subscriptions,
        ..
    } = context;
    subscriptions.borrow_mut().leave(&server.pubsub, session);
    set_tracking(&server.tracking, session, None);
    session.database = 0;
    session.version = Version::default();
    session.authenticated = server.settings.snapshot().requirepass.is_empty();
    session.reply_mode = ReplyMode::On;
    session.transaction.reset();
    session.client.names().name.clear();
    session.client.no_evict.store(false, Ordering::Relaxed);
    session.client.no_touch.store(false, Ordering::Relaxed);
    reply.simple("RESET");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = &[u8]> {
        line.split_whitespace().map(str::as_bytes)
    }

    #[test]
    fn hello_reads_its_options_in_any_order() {
        let both = HelloOptions {
            version: Some(Version::Resp3),
            user_and_password: Some((b"default", b"secret")),
            name: Some(b"me"),
        };
        assert_eq!(HelloOptions::parse(words("3 AUTH default secret setname me")), Ok(both));
        assert_eq!(HelloOptions::parse(words("")), Ok(HelloOptions::default()));
        for (line, error) in [
            ("1", "NOPROTO unsupported protocol version"),
            ("x", "ERR Protocol version is not an integer or out of range"),
            ("2 Auth a", "ERR Syntax error in HELLO option 'Auth'"),
            ("2 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
            (
                "2 SETNAME é",
                "ERR Client names cannot contain spaces, newlines or special characters.",
            ),
        ] {
            assert_eq!(
                HelloOptions::parse(words(line)).map_err(|error| error.to_string()),
                Err(error.to_owned())
            );
        }
    }
}
