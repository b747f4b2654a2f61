//! XGROUP HELP and XINFO HELP.

use crate::error::CommandError;
use crate::network::handlers::server_commands::help;
use crate::network::session::NetworkContext;

type Outcome = Result<(), CommandError>;

/// XGROUP HELP
pub fn xgroup_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "CREATE <key> <groupname> <id|$> [option]",
            "    Create a new consumer group. Options are:",
            "    * MKSTREAM",
            "      Create the empty stream if it does not exist.",
            "    * ENTRIESREAD entries_read",
            "      Set the group's entries_read counter (internal use).",
            "CREATECONSUMER <key> <groupname> <consumer>",
            "    Create a new consumer in the specified group.",
            "DELCONSUMER <key> <groupname> <consumer>",
            "    Remove the specified consumer.",
            "DESTROY <key> <groupname>",
            "    Remove the specified group.",
            "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
            "    Set the current group ID and entries_read counter.",
        ],
    );
    Ok(())
}

/// XINFO HELP
pub fn xinfo_help(context: &mut NetworkContext<'_>) -> Outcome {
    help(
        context,
        &[
            "CONSUMERS <key> <groupname>",
            "    Show consumers of <groupname>.",
            "GROUPS <key>",
            "    Show the stream consumer groups.",
            "STREAM <key> [FULL [COUNT <count>]",
            "    Show information about the stream.",
        ],
    );
    Ok(())
}
