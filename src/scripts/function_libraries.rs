//! Functions: what is known of the libraries that FUNCTION LOAD has brought.
//!
//! All threads share one set of libraries ([`Functions`]), which changes as a whole and has a number. The interpreters
//! of a thread run a library's code when a function of it is called there for the first time, and again when there is
//! another library of that name; what its code keeps between calls is therefore each interpreter's own.

use crate::error::CommandError;
use crate::protocol::parser::split_arguments;
use crate::scripts::interpreter::Interpreter;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The only engine there is.
pub const ENGINE: &str = "LUA";

/// What a function says of itself, a bit each, in the order in which FUNCTION LIST names them.
pub const FLAGS: [&str; 5] = [
    NO_WRITES,
    "allow-oom",
    "allow-stale",
    "no-cluster",
    "allow-cross-slot-keys",
];

/// The flag of a function that writes nothing; the others make no difference here.
pub const NO_WRITES: &str = "no-writes";

/// A function of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The name, in letters, digits and underscores.
    pub name: String,
    /// What the function is for, if it says so.
    pub description: Option<Vec<u8>>,
    /// Those of [`FLAGS`] that the function has, in that order.
    pub flags: Vec<&'static str>,
}

impl Function {
    /// Whether the function says that it writes nothing.
    pub fn is_read_only(&self) -> bool {
        self.flags.contains(&NO_WRITES)
    }
}

/// A library that was loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Library {
    /// The name, in letters, digits and underscores.
    pub name: String,
    /// The code, with the first line, which names the library.
    pub code: Vec<u8>,
    /// The functions, in the order of their registration.
    pub functions: Vec<Function>,
}

/// What the first line of a library says, and what follows it.
struct Header<'a> {
    name: String,
    /// From the end of the first line on, so that lines are counted as the author counts them.
    body: &'a [u8],
}

/// Whether a library or function may be called that.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn header(code: &[u8]) -> Result<Header<'_>, CommandError> {
    let invalid = || CommandError::text("ERR Invalid library metadata");
    let line = code
        .strip_prefix(b"#!")
        .ok_or_else(|| CommandError::text("ERR Missing library metadata"))?;
    let end = memchr::memchr2(b'\n', 0, line).filter(|end| line[*end] == b'\n');
    let (line, body) = line.split_at(end.ok_or_else(invalid)?);
    // With the two bytes, so that the engine is a word even if it is empty.
    let mut words = split_arguments(&[b"#!", line].concat())
        .ok_or_else(invalid)?
        .into_iter();
    let engine = words.next().ok_or_else(invalid)?;
    let mut name = None;
    for word in words {
        match word.split_at_checked(5) {
            Some((key, value)) if key.eq_ignore_ascii_case(b"name=") => {
                if name.replace(value.to_vec()).is_some() {
                    let text = "ERR Invalid metadata value, name argument was given multiple times";
                    return Err(CommandError::text(text));
                }
            }
            _ => {
                let text = format!("ERR Invalid metadata value given: {}", CommandError::quoted(&word));
                return Err(CommandError::text(text));
            }
        }
    }
    let name = name.ok_or_else(|| CommandError::text("ERR Library name was not given"))?;
    let name = String::from_utf8(name).ok().filter(|name| is_name(name.as_bytes()));
    let name = name.ok_or_else(|| {
        CommandError::text(
            "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character \
             long",
        )
    })?;
    let engine = engine.get(2..).unwrap_or_default();
    if !engine.eq_ignore_ascii_case(ENGINE.as_bytes()) {
        let text = format!("ERR Engine '{}' not found", CommandError::quoted(engine));
        return Err(CommandError::text(text));
    }
    Ok(Header { name, body })
}

/// The code of a library without its first line.
pub fn body(code: &[u8]) -> Result<&[u8], CommandError> {
    header(code).map(|header| header.body)
}

/// The name of the library with this code, which is not run.
///
/// # Errors
/// As Redis words them, if the first line does not say one.
pub fn name_of(code: &[u8]) -> Result<String, CommandError> {
    header(code).map(|header| header.name)
}

/// Runs the code of a library and sees which functions it registers.
///
/// # Errors
/// As Redis words them.
pub fn load(
    interpreter: &Interpreter,
    code: &[u8],
    limit: crate::scripts::interpreter::LoadLimit,
) -> Result<Library, CommandError> {
    let header = header(code)?;
    let functions = interpreter.load(header.body, limit)?;
    if functions.is_empty() {
        return Err(CommandError::text("ERR No functions registered"));
    }
    Ok(Library {
        name: header.name,
        code: code.to_vec(),
        functions: functions.into_iter().map(|(function, _)| function).collect(),
    })
}

/// A set of libraries.
#[derive(Clone, Debug, Default)]
pub struct Libraries {
    by_name: BTreeMap<String, Arc<Library>>,
    /// By a function's name in lower case: its library and its index there.
    functions: HashMap<String, (Arc<Library>, usize), RandomState>,
}

impl Libraries {
    /// All libraries, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Library>> {
        self.by_name.values()
    }

    /// How many functions they have.
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// The library with a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Library>> {
        self.by_name.get(name)
    }

    /// The library of the function with a name, in any case, and the function's index there.
    pub fn function(&self, name: &[u8]) -> Option<(&Arc<Library>, usize)> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        let (library, index) = self.functions.get(&name)?;
        assert!(*index < library.functions.len(), "a function is where its name says");
        Some((library, *index))
    }

    /// Without the library with a name.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Library>> {
        let library = self.by_name.remove(name)?;
        self.functions.retain(|_, (of, _)| !Arc::ptr_eq(of, &library));
        Some(library)
    }

    /// With a library more, whose name is free.
    ///
    /// # Errors
    /// If another library has a function of the same name.
    pub fn add(&mut self, library: Arc<Library>) -> Result<(), CommandError> {
        let lower = |function: &Function| function.name.to_ascii_lowercase();
        if let Some(taken) = library
            .functions
            .iter()
            .find(|function| self.functions.contains_key(&lower(function)))
        {
            return Err(CommandError::text(format!(
                "ERR Function {} already exists",
                taken.name
            )));
        }
        for (index, function) in library.functions.iter().enumerate() {
            // Of two that differ in case only, the first is the one that is found.
            let entry = self.functions.entry(lower(function));
            entry.or_insert_with(|| (Arc::clone(&library), index));
        }
        self.by_name.insert(library.name.clone(), library);
        Ok(())
    }
}

/// The set of libraries that all threads share.
#[derive(Debug, Default)]
pub struct Functions {
    current: Mutex<Arc<Libraries>>,
    /// Counts the sets.
    number: AtomicU64,
}

impl Functions {
    /// The libraries as they are now.
    pub fn current(&self) -> Arc<Libraries> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which set it is: another number, another set.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Replaces the set. The executor of the first shard does this, once what it replaces is stored there.
    pub fn publish(&self, libraries: Libraries) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(libraries);
        self.number.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, functions: &[&str]) -> Arc<Library> {
        let function = |name: &&str| Function {
            name: (*name).to_owned(),
            description: None,
            flags: Vec::new(),
        };
        Arc::new(Library {
            name: name.to_owned(),
            code: Vec::new(),
            functions: functions.iter().map(function).collect(),
        })
    }

    #[test]
    fn a_name_is_found_in_any_case_and_is_free_again_after_its_library_is_gone() {
        let mut libraries = Libraries::default();
        libraries.add(library("a", &["f", "G"])).expect("the names are free");
        assert_eq!(libraries.function(b"g").map(|(_, index)| index), Some(1));
        let taken = libraries.add(library("b", &["h", "F"]));
        assert_eq!(taken, Err(CommandError::text("ERR Function F already exists")));
        assert!(
            libraries.function(b"h").is_none(),
            "nothing of a refused library is there"
        );
        assert!(libraries.remove("a").is_some());
        libraries
            .add(library("b", &["h", "F"]))
            .expect("the names are free now");
        assert_eq!((libraries.iter().len(), libraries.function_count()), (1, 2));
    }

    #[test]
    fn damaged_first_lines_are_refused_and_never_panic() {
        for code in [
            "",
            "#",
            "#!",
            "#!\n",
            "#!lua",
            "#!lua name=\"a\n",
            "#!lua\0name=a\n",
            "#!lua name=\u{e9}\n",
        ] {
            assert!(name_of(code.as_bytes()).is_err(), "{code:?}");
        }
        assert_eq!(name_of(b"#!Lua \t NAME=\"a_1\"\r\ncode"), Ok("a_1".to_owned()));
        assert_eq!(body(b"#!lua name=a\n1\n2"), Ok(&b"\n1\n2"[..]));
    }
}
