//! Arguments that outlive the bytes which were read.

use super::{Arguments, Span};

/// A command's own copy of its arguments.
#[derive(Debug, Default)]
pub struct OwnedArguments {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArguments {
    /// A copy of `arguments`.
    pub fn of<'a>(arguments: impl IntoIterator<Item = &'a [u8]>) -> OwnedArguments {
        let mut owned = OwnedArguments::default();
        arguments.into_iter().for_each(|argument| owned.push(argument));
        owned
    }

    /// Adds an argument.
    pub fn push(&mut self, argument: &[u8]) {
        self.spans.push(Span::new(self.bytes.len(), argument.len()));
        self.bytes.extend_from_slice(argument);
    }

    /// The arguments.
    pub fn get(&self) -> Arguments<'_> {
        Arguments::new(&self.bytes, &self.spans)
    }
}
