//! Every setting of the server, defined once.
//!
//! [`settings`] holds the list: one entry per setting with its name, Rust field, type, default, range, unit, whether it
//! may change while the server runs, and its documentation. Everything else reads that list:
//!
//! | file | what it makes of the list |
//! |---|---|
//! | [`settings`] | the struct [`Settings`], CONFIG GET and CONFIG SET, the names that Redis uses |
//! | [`values`], [`list_values`], [`event_classes`], [`output_limits`] | the types of the values |
//! | [`file`](mod@file) | the TOML configuration file: read at start, written by CONFIG REWRITE |
//! | [`flags`] | the command line, and [`load`]: default < file < flag |
//! | [`shared`] | the one copy that all threads see, with a version to compare |
//! | this file | the table in README.md |

pub mod event_classes;
pub mod file;
pub mod flags;
pub mod list_values;
pub mod output_limits;
pub mod settings;
pub mod shared;
pub mod values;

pub use event_classes::{EventClass, EventClasses};
pub use file::ConfigError;
pub use flags::{arguments, command, load};
pub use list_values::CoreList;
pub use output_limits::{OutputBufferLimit, OutputBufferLimits};
pub use settings::{ALIASES, Changes, ConfigSetError, FACTS, SETTINGS, Setting, Settings};
pub use shared::SharedSettings;
pub use values::{AutoOr, ByteSize, DebugCommand, Durability, LogLevel, Secret, ValueError};

/// The table of settings in README.md: Markdown, one row per setting in the order of the list, ending with a newline.
pub fn markdown_table() -> String {
    let mut table =
        String::from("| setting | default | allowed | unit | while running | meaning |\n|---|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() {
            "empty".to_owned()
        } else {
            format!("`{}`", setting.default)
        };
        let changes = match setting.changes {
            Changes::Live => "yes",
            Changes::AtStart => "no",
        };
        table.push_str(&format!(
            "| `{}` | {default} | {} | {} | {changes} | {} |\n",
            setting.name,
            setting.allowed(),
            setting.unit,
            setting.doc,
        ));
    }
    table
}
