//! CLIENT TRACKING, CACHING, GETREDIR and TRACKINGINFO: how a client wants to be told that what it has read is
//! outdated.

use crate::commands::arguments::{integer, is_option};
use crate::error::CommandError;
use crate::network::session::NetworkContext;
use crate::network::tracking_pushes::set_tracking;
use crate::protocol::Arguments;
use crate::registry::tracked_keys::Tracked;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

type Outcome = Result<(), CommandError>;

/// CLIENT TRACKING ON | OFF [REDIRECT client-id] [PREFIX prefix [PREFIX prefix …]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]
pub fn client_tracking(context: &mut NetworkContext<'_>) -> Outcome {
    let arguments = context.arguments;
    let (options, prefixes) = parse(context)?;
    match arguments.get(2) {
        word if is_option(word, "ON") => {
            let old = context.session.tracking.as_deref();
            check(old, &options, &prefixes)?;
            let new = changed(old, options, prefixes)?;
            set_tracking(&context.server.tracking, context.session, Some(Box::new(new)));
        }
        word if is_option(word, "OFF") => set_tracking(&context.server.tracking, context.session, None),
        _ => return Err(CommandError::Syntax),
    }
    context.reply.ok();
    Ok(())
}

fn refused(text: impl Into<String>) -> CommandError {
    CommandError::text(format!("ERR {}", text.into()))
}

/// The options, and the prefixes in their order.
fn parse<'a>(context: &NetworkContext<'a>) -> Result<(Tracked, Vec<&'a [u8]>), CommandError> {
    let arguments: Arguments<'a> = context.arguments;
    let (mut options, mut prefixes) = (Tracked::default(), Vec::new());
    let mut rest = arguments.iter().skip(3);
    while let Some(option) = rest.next() {
        match (option, rest.len()) {
            (_, 1..) if is_option(option, "REDIRECT") => {
                if options.redirect != 0 {
                    return Err(refused("A client can only redirect to a single other client"));
                }
                let id = integer(rest.next().unwrap_or_default())?;
                let target = u64::try_from(id).ok().and_then(|id| context.server.clients.find(id));
                let target = target.ok_or_else(|| refused("The client ID you want redirect to does not exist"))?;
                target.is_redirected_to.store(true, Ordering::Relaxed);
                options.redirect = target.id;
            }
            (_, 1..) if is_option(option, "PREFIX") => prefixes.extend(rest.next()),
            _ if is_option(option, "BCAST") => options.broadcast = true,
            _ if is_option(option, "OPTIN") => options.opt_in = true,
            _ if is_option(option, "OPTOUT") => options.opt_out = true,
            _ if is_option(option, "NOLOOP") => options.no_loop = true,
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok((options, prefixes))
}

/// Refuses options that contradict each other, or those that the client has.
fn check(old: Option<&Tracked>, options: &Tracked, prefixes: &[&[u8]]) -> Outcome {
    if !options.broadcast && !prefixes.is_empty() {
        return Err(refused("PREFIX option requires BCAST mode to be enabled"));
    }
    if old.is_some_and(|old| old.broadcast != options.broadcast) {
        return Err(refused(
            "You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    if options.broadcast && (options.opt_in || options.opt_out) {
        return Err(refused("OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if options.opt_in && options.opt_out {
        return Err(refused("You can't specify both OPTIN mode and OPTOUT mode"));
    }
    if old.is_some_and(|old| options.opt_in && old.opt_out || options.opt_out && old.opt_in) {
        return Err(refused(
            "You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    Ok(())
}

/// The options, with the new prefixes added to those that the client has. Refuses prefixes that overlap.
fn changed(old: Option<&Tracked>, options: Tracked, new: Vec<&[u8]>) -> Result<Tracked, CommandError> {
    let mut prefixes: BTreeSet<Box<[u8]>> = old.map(|old| old.prefixes.clone()).unwrap_or_default();
    let overlap = |a: &[u8], b: &[u8]| a.starts_with(b) || b.starts_with(a);
    let error = |a: &[u8], which: &str, b: &[u8]| {
        let (a, b) = (CommandError::quoted(a), CommandError::quoted(b));
        refused(format!(
            "Prefix '{a}' overlaps with {which} prefix '{b}'. Prefixes for a single client must not overlap."
        ))
    };
    for (index, prefix) in new.iter().enumerate() {
        if let Some(other) = prefixes.iter().find(|other| overlap(prefix, other)) {
            return Err(error(prefix, "an existing", other));
        }
        if let Some(other) = new[index + 1..].iter().find(|other| overlap(prefix, other)) {
            return Err(error(prefix, "another provided", other));
        }
    }
    if options.broadcast && new.is_empty() {
        prefixes.insert(Box::default());
    }
    prefixes.extend(new.into_iter().map(Box::from));
    Ok(Tracked { prefixes, ..options })
}

/// CLIENT CACHING YES | NO
pub fn client_caching(context: &mut NetworkContext<'_>) -> Outcome {
    let word = context.arguments.get(2);
    let Some(tracked) = context.session.tracking.as_deref_mut() else {
        return Err(refused(
            "CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    };
    if is_option(word, "YES") {
        if !tracked.opt_in {
            return Err(refused(
                "CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ));
        }
    } else if is_option(word, "NO") {
        if !tracked.opt_out {
            return Err(refused(
                "CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ));
        }
    } else {
        return Err(CommandError::Syntax);
    }
    tracked.caching = true;
    context.reply.ok();
    Ok(())
}

/// CLIENT GETREDIR
pub fn client_getredir(context: &mut NetworkContext<'_>) -> Outcome {
    context.reply.integer(redirect(context.session.tracking.as_deref()));
    Ok(())
}

fn redirect(tracked: Option<&Tracked>) -> i64 {
    tracked.map_or(-1, |tracked| tracked.redirect as i64)
}

/// CLIENT TRACKINGINFO
pub fn client_trackinginfo(context: &mut NetworkContext<'_>) -> Outcome {
    let NetworkContext { reply, session, .. } = context;
    let tracked = session.tracking.as_deref();
    let mut flags = vec![if tracked.is_some() { "on" } else { "off" }];
    if let Some(tracked) = tracked {
        let more = [
            (tracked.broadcast, "bcast"),
            (tracked.opt_in, "optin"),
            (tracked.opt_in && tracked.caching, "caching-yes"),
            (tracked.opt_out, "optout"),
            (tracked.opt_out && tracked.caching, "caching-no"),
            (tracked.no_loop, "noloop"),
            (tracked.is_broken, "broken_redirect"),
        ];
        flags.extend(more.iter().filter(|(holds, _)| *holds).map(|(_, flag)| flag));
    }
    reply.map(3);
    reply.text("flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.text(flag));
    reply.text("redirect");
    reply.integer(redirect(tracked));
    reply.text("prefixes");
    let prefixes = tracked.map(|tracked| &tracked.prefixes);
    reply.array(prefixes.map_or(0, BTreeSet::len));
    prefixes.into_iter().flatten().for_each(|prefix| reply.bulk(prefix));
    Ok(())
}
