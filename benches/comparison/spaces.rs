//! The keys that the cases work on, of the shapes and numbers that users have.

use crate::measured::random::Random;
use crate::measured::replies::Expected;
use crate::measured::servers::Filler;

/// A value of a string, an element of a list, a field of a stream's entry.
pub(crate) const VALUE: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

/// A value of a session's field.
pub(crate) const FIELD_VALUE: &str = "vvvvvvvvvvvvvvvv";

/// Fields of a session beside its counter.
pub(crate) const TEXT_FIELDS: u64 = 7;

/// Elements, members or entries of most collections at first, and what a stream is trimmed to.
pub(crate) const MEMBERS: u64 = 1000;

/// Elements of a queue and members of a set that grow while they are measured.
const GROWING_MEMBERS: u64 = 100;

/// The last bit of a bitmap: a million users.
const LAST_BIT: u64 = 999_999;

/// Scores lie from this number of digits' first to its last, so that each has as many.
pub(crate) const SCORE_MIN: u64 = 100_000;
pub(crate) const SCORE_MAX: u64 = 899_999;

/// Values of one command that fills.
const FILL_VALUES: u64 = 100;

/// How many keys of each shape there are.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Strings, counters, sessions, tokens, clients of the rate limiter.
    pub(crate) keys: u64,
    /// Queues, lists and sets.
    pub(crate) collections: u64,
    /// Boards of a thousand members.
    pub(crate) boards: u64,
    pub(crate) large_boards: u64,
    pub(crate) large_members: u64,
    /// Streams and bitmaps.
    pub(crate) streams: u64,
    pub(crate) visitors: u64,
    /// Places of the one geospatial index.
    pub(crate) places: u64,
}

impl Sizes {
    pub(crate) const FULL: Sizes = Sizes {
        keys: 200_000,
        collections: 1000,
        boards: 100,
        large_boards: 5,
        large_members: 200_000,
        streams: 100,
        visitors: 10_000,
        places: 200_000,
    };

    /// With `--test`.
    pub(crate) const TEST: Sizes = Sizes {
        keys: 100,
        collections: 4,
        boards: 2,
        large_boards: 1,
        large_members: 2000,
        streams: 2,
        visitors: 10,
        places: 200,
    };
}

/// A set of keys of one shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    Strings,
    Counters,
    Tokens,
    Sessions,
    /// Lists that grow; filled anew for each measurement.
    Queues,
    /// Lists that are read.
    Lists,
    /// Lists that shrink; filled anew for each measurement.
    Backlogs,
    /// Sets that grow; filled anew for each measurement.
    Tags,
    /// Sets that are read.
    Groups,
    /// Sets that shrink; filled anew for each measurement.
    Draws,
    Boards,
    LargeBoards,
    /// Streams that are written and trimmed.
    Streams,
    /// Streams that are read.
    Events,
    Bitmaps,
    Visitors,
    Places,
}

impl Space {
    /// What the names of its keys begin with.
    fn prefix(self) -> &'static str {
        match self {
            Space::Strings => "key",
            Space::Counters => "counter",
            Space::Tokens => "token",
            Space::Sessions => "session",
            Space::Queues => "queue",
            Space::Lists => "list",
            Space::Backlogs => "backlog",
            Space::Tags => "tag",
            Space::Groups => "group",
            Space::Draws => "draw",
            Space::Boards => "board",
            Space::LargeBoards => "league",
            Space::Streams => "stream",
            Space::Events => "event",
            Space::Bitmaps => "active",
            Space::Visitors => "visitor",
            Space::Places => "places",
        }
    }

    /// How many keys it has.
    fn len(self, sizes: Sizes) -> u64 {
        match self {
            Space::Strings | Space::Counters | Space::Tokens | Space::Sessions => sizes.keys,
            Space::Queues | Space::Lists | Space::Backlogs => sizes.collections,
            Space::Tags | Space::Groups | Space::Draws => sizes.collections,
            Space::Boards => sizes.boards,
            Space::LargeBoards => sizes.large_boards,
            Space::Streams | Space::Events | Space::Bitmaps => sizes.streams,
            Space::Visitors => sizes.visitors,
            Space::Places => 1,
        }
    }

    /// One of its keys at random, in a template.
    pub(crate) fn any_key(self, sizes: Sizes) -> String {
        format!("{}:{}", self.prefix(), any_below(self.len(sizes)))
    }

    /// Its keys one after the other, in a template.
    pub(crate) fn next_key(self, sizes: Sizes) -> String {
        format!("{}:{{#{}}}", self.prefix(), self.len(sizes))
    }

    /// Brings it to its first state; `exists` says that it was filled before.
    pub(crate) fn fill(self, sizes: Sizes, exists: bool, filler: &mut Filler) {
        let len = self.len(sizes);
        let digits = (len - 1).to_string().len();
        let keys = (0..len).map(|number| format!("{}:{number:0digits$}", self.prefix()));
        for key in keys {
            if exists {
                filler.push(&["DEL", &key], Expected::Integer);
            }
            self.fill_key(&key, sizes, filler);
        }
        filler.finish();
    }

    fn fill_key(self, key: &str, sizes: Sizes, filler: &mut Filler) {
        match self {
            Space::Strings => filler.push(&["SET", key, VALUE], Expected::Status),
            Space::Counters => filler.push(&["SET", key, "1000"], Expected::Status),
            Space::Tokens => filler.push(&["SET", key, FIELD_VALUE], Expected::Status),
            Space::Sessions => {
                let fields = (0..TEXT_FIELDS).flat_map(|field| [format!("field:{field}"), FIELD_VALUE.to_owned()]);
                let counter = ["visits", "1000"].map(str::to_owned);
                push_many(filler, "HSET", key, fields.chain(counter));
            }
            Space::Lists | Space::Backlogs => push_many(filler, "RPUSH", key, elements(MEMBERS)),
            Space::Queues => push_many(filler, "RPUSH", key, elements(GROWING_MEMBERS)),
            Space::Tags => push_many(filler, "SADD", key, (0..GROWING_MEMBERS).map(first_member)),
            Space::Groups | Space::Draws => push_many(filler, "SADD", key, (0..MEMBERS).map(first_member)),
            Space::Boards => push_many(filler, "ZADD", key, scores(MEMBERS)),
            Space::LargeBoards => push_many(filler, "ZADD", key, scores(sizes.large_members)),
            Space::Streams => {
                let add = ["XADD", key, "MAXLEN", "~", &MEMBERS.to_string(), "*", "field", VALUE];
                (0..MEMBERS).for_each(|_| filler.push(&add, Expected::Bulk));
            }
            Space::Events => {
                let entry =
                    |number| filler.push(&["XADD", key, &format!("{number}-0"), "field", VALUE], Expected::Bulk);
                (1..=MEMBERS).for_each(entry);
            }
            Space::Bitmaps => filler.push(&["SETBIT", key, &LAST_BIT.to_string(), "1"], Expected::Integer),
            Space::Visitors => push_many(filler, "PFADD", key, (0..FILL_VALUES).map(first_member)),
            Space::Places => push_many(filler, "GEOADD", key, places(sizes.places)),
        }
    }
}

/// A number below a bound, at random, in a template.
pub(crate) fn any_below(bound: u64) -> String {
    format!("{{0-{}}}", bound - 1)
}

/// A member that a set has from the beginning; three digits, as [`any_below`] has for [`MEMBERS`].
fn first_member(number: u64) -> String {
    format!("member:{number:03}")
}

fn elements(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|_| VALUE.to_owned())
}

/// Scores that lie apart evenly, and members in another order.
fn scores(count: u64) -> impl Iterator<Item = String> {
    let digits = (count - 1).to_string().len();
    (0..count).flat_map(move |number| {
        let score = SCORE_MIN + number * (SCORE_MAX - SCORE_MIN) / count;
        // 7919 is a prime that divides no count.
        let member = number * 7919 % count;
        [score.to_string(), format!("member:{member:0digits$}")]
    })
}

/// Longitudes, latitudes and names within one degree of each, as GEOADD takes them.
fn places(count: u64) -> impl Iterator<Item = String> {
    let mut random = Random::new(1);
    (0..count).flat_map(move |number| {
        let (longitude, latitude) = (random.below(1_000_000), random.below(1_000_000));
        [
            format!("2.{longitude:06}"),
            format!("48.{latitude:06}"),
            format!("place:{number:06}"),
        ]
    })
}

/// Sends the values with as many commands as they take. A command has a multiple of 2 and of 3 of them: pairs and
/// places stay whole.
fn push_many(filler: &mut Filler, command: &str, key: &str, values: impl Iterator<Item = String>) {
    let values: Vec<String> = values.collect();
    for chunk in values.chunks(FILL_VALUES as usize * 3) {
        let words = [command, key].into_iter().chain(chunk.iter().map(String::as_str));
        filler.push(&words.collect::<Vec<_>>(), Expected::Integer);
    }
}
