//! The value of `notify-keyspace-events`.

use super::values::{Form, Range, Shape, Value, ValueError};

/// What a keyspace event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// `g`: commands on keys of any type (`del`, `expire`, `rename_from`).
    Generic,
    /// `$`
    String,
    /// `l`
    List,
    /// `s`
    Set,
    /// `h`
    Hash,
    /// `z`
    SortedSet,
    /// `x`: a key's deadline has passed.
    Expired,
    /// `e`: never comes, since nothing is evicted.
    Evicted,
    /// `t`
    Stream,
    /// `d`: types of modules, of which there are none.
    Module,
    /// `n`: a key was made.
    New,
    /// `m`: a key that is not there was asked for.
    KeyMiss,
}

/// Which events are given out, and to which channels. `Default` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventClasses(u16);

/// To `__keyspace@N__:key`.
const KEYSPACE: u16 = 1 << 14;
/// To `__keyevent@N__:event`.
const KEYEVENT: u16 = 1 << 15;
/// All classes that `A` stands for: `m` and `n` would be too many events.
const ALL: u16 = bit(EventClass::New) - 1;

const fn bit(class: EventClass) -> u16 {
    1 << class as u16
}

/// The letters in the order in which Redis prints them.
const LETTERS: [(char, u16); 14] = [
    ('g', bit(EventClass::Generic)),
    ('$', bit(EventClass::String)),
    ('l', bit(EventClass::List)),
    ('s', bit(EventClass::Set)),
    ('h', bit(EventClass::Hash)),
    ('z', bit(EventClass::SortedSet)),
    ('x', bit(EventClass::Expired)),
    ('e', bit(EventClass::Evicted)),
    ('t', bit(EventClass::Stream)),
    ('d', bit(EventClass::Module)),
    ('n', bit(EventClass::New)),
    ('K', KEYSPACE),
    ('E', KEYEVENT),
    ('m', bit(EventClass::KeyMiss)),
];

impl EventClasses {
    /// Whether events of no class at all are given out: then none need be recorded.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 & !(KEYSPACE | KEYEVENT) == 0 || self.0 & (KEYSPACE | KEYEVENT) == 0
    }

    /// Whether events of a class are given out.
    #[inline]
    pub fn has(self, class: EventClass) -> bool {
        self.0 & bit(class) != 0 && !self.is_empty()
    }

    /// Whether events go to the channels of keys.
    pub fn to_keyspace(self) -> bool {
        self.0 & KEYSPACE != 0
    }

    /// Whether events go to the channels of events.
    pub fn to_keyevent(self) -> bool {
        self.0 & KEYEVENT != 0
    }
}

impl Value for EventClasses {
    const FORM: Form = Form {
        shape: Shape::Text("letters out of Ag$lshzxeKEtmdn"),
        or_auto: false,
    };

    fn parse(text: &str, _range: Option<&Range>) -> Result<Self, ValueError> {
        let mut classes = Self::default();
        for letter in text.chars() {
            let known = LETTERS.iter().find(|(known, _)| *known == letter);
            classes.0 |= match (letter, known) {
                ('A', _) => ALL,
                (_, Some((_, bits))) => *bits,
                (_, None) => return Err(ValueError::UnknownEventClass),
            };
        }
        Ok(classes)
    }

    /// As Redis prints it, but for `n` beside `A`, which Redis leaves out, so that its CONFIG REWRITE forgets it.
    fn print(&self) -> String {
        let Self(mut left) = *self;
        let mut text = String::new();
        if left & ALL == ALL {
            text.push('A');
            left &= !(ALL | bit(EventClass::New));
        }
        text.extend(
            LETTERS
                .iter()
                .filter(|(_, bits)| left & bits != 0)
                .map(|(letter, _)| *letter),
        );
        if (self.0 & !left) & bit(EventClass::New) != 0 {
            text.push('n');
        }
        text
    }
}
