//! Scripts: what they find in Lua beside the language.

mod libraries;
