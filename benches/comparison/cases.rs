//! The commands that are compared.

use crate::measured::replies::Expected;
use crate::measured::template::Template;
use crate::spaces::{FIELD_VALUE, MEMBERS, SCORE_MAX, SCORE_MIN, Sizes, Space, TEXT_FIELDS, VALUE, any_below};

/// A rate limiter of fixed windows, as it is widely used.
const RATE_LIMITER: &str = "local count = redis.call('INCR', KEYS[1]) \
                            if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end \
                            if count > tonumber(ARGV[2]) then return 0 end \
                            return 1";

/// Numbers that no run uses up: members that are new each time.
const NEW_MEMBERS: &str = "{#10000000000}";

/// The share of what a collection's keys hold that may be taken from them: none is empty by then.
const TAKEN_SHARE: f64 = 0.95;

/// One row of the table for each pipeline.
pub(crate) struct Case {
    /// The command alone, which selects the case.
    pub(crate) command: &'static str,
    /// With what tells it from other cases of the command.
    pub(crate) name: String,
    /// What it works on; nothing if it makes its keys.
    pub(crate) space: Option<Space>,
    /// Whether the space is brought to its first state before each measurement.
    pub(crate) needs_fresh_space: bool,
    /// Commands that take turns: one, or with what keeps the size of a collection in a long run.
    pub(crate) templates: Vec<Template>,
    /// The most commands of a measurement: the collections would be empty.
    pub(crate) commands_max: Option<u64>,
}

impl Case {
    fn new(command: &'static str, detail: &str, space: Space, words: &[&str], expected: Expected) -> Case {
        Case {
            command,
            name: format!("{command}{detail}"),
            space: Some(space),
            needs_fresh_space: false,
            templates: vec![Template::new(words, expected)],
            commands_max: None,
        }
    }

    /// The case for a command that makes collections longer or shorter: they are filled anew for each measurement, or,
    /// in a long run, `opposite` takes turns with it. `capacity` is how many commands there is something for.
    fn changing_size(mut self, sustained: bool, opposite: (&[&str], Expected), capacity: Option<u64>) -> Case {
        self.needs_fresh_space = true;
        if sustained {
            self.name = format!("{} and {} in turn", self.name, opposite.0[0]);
            self.templates.push(Template::new(opposite.0, opposite.1));
        } else {
            self.commands_max = capacity.map(|capacity| (capacity as f64 * TAKEN_SHARE) as u64);
        }
        self
    }
}

/// All cases, in the order of the table.
pub(crate) fn all(sizes: Sizes, sustained: bool) -> Vec<Case> {
    let mut cases = strings(sizes);
    cases.extend(hashes(sizes));
    cases.extend(lists(sizes, sustained));
    cases.extend(sets(sizes, sustained));
    cases.extend(sorted_sets(
        " of 1,000",
        &Space::Boards.any_key(sizes),
        Space::Boards,
        MEMBERS,
    ));
    cases.extend(sorted_sets(
        " of 200,000",
        &Space::LargeBoards.any_key(sizes),
        Space::LargeBoards,
        sizes.large_members,
    ));
    cases.extend(streams(sizes));
    cases.extend(others(sizes));
    cases
}

fn strings(sizes: Sizes) -> Vec<Case> {
    let key = &Space::Strings.any_key(sizes);
    let counter = &Space::Counters.any_key(sizes);
    let mut mget = vec!["MGET"];
    let mut mset = vec!["MSET"];
    for _ in 0..10 {
        mget.push(key);
        mset.extend([key.as_str(), VALUE]);
    }
    vec![
        Case::new("SET", "", Space::Strings, &["SET", key, VALUE], Expected::Status),
        Case::new("GET", "", Space::Strings, &["GET", key], Expected::Bulk),
        Case::new("INCR", "", Space::Counters, &["INCR", counter], Expected::Integer),
        Case::new("MSET", " of 10", Space::Strings, &mset, Expected::Status),
        Case::new("MGET", " of 10", Space::Strings, &mget, Expected::Array(10)),
    ]
}

fn hashes(sizes: Sizes) -> Vec<Case> {
    let key = &Space::Sessions.any_key(sizes);
    let field = &format!("field:{}", any_below(TEXT_FIELDS));
    let all_fields = Expected::Array(2 * (TEXT_FIELDS as usize + 1));
    let case = |command, words: &[&str], expected| Case::new(command, "", Space::Sessions, words, expected);
    vec![
        case("HSET", &["HSET", key, field, FIELD_VALUE], Expected::Integer),
        case("HGET", &["HGET", key, field], Expected::Bulk),
        case("HGETALL", &["HGETALL", key], all_fields),
        case("HINCRBY", &["HINCRBY", key, "visits", "1"], Expected::Integer),
    ]
}

fn lists(sizes: Sizes, sustained: bool) -> Vec<Case> {
    let queue = &Space::Queues.next_key(sizes);
    let backlog = &Space::Backlogs.next_key(sizes);
    let list = &Space::Lists.any_key(sizes);
    let elements = sizes.collections * MEMBERS;
    let case = |command, space, words: &[&str], expected| Case::new(command, "", space, words, expected);
    vec![
        case("LPUSH", Space::Queues, &["LPUSH", queue, VALUE], Expected::Integer).changing_size(
            sustained,
            (&["RPOP", queue], Expected::Bulk),
            None,
        ),
        case("RPUSH", Space::Queues, &["RPUSH", queue, VALUE], Expected::Integer).changing_size(
            sustained,
            (&["LPOP", queue], Expected::Bulk),
            None,
        ),
        case("LPOP", Space::Backlogs, &["LPOP", backlog], Expected::Bulk).changing_size(
            sustained,
            (&["RPUSH", backlog, VALUE], Expected::Integer),
            Some(elements),
        ),
        Case::new(
            "LRANGE",
            "(10)",
            Space::Lists,
            &["LRANGE", list, "{100-980}", "{+9}"],
            Expected::Array(10),
        ),
    ]
}

fn sets(sizes: Sizes, sustained: bool) -> Vec<Case> {
    let tag = &Space::Tags.next_key(sizes);
    let draw = &Space::Draws.next_key(sizes);
    let group = &Space::Groups.any_key(sizes);
    let member = &format!("member:{}", any_below(MEMBERS));
    let new_member = &format!("member:{NEW_MEMBERS}");
    let elements = sizes.collections * MEMBERS;
    let case = |command, space, words: &[&str], expected| Case::new(command, "", space, words, expected);
    vec![
        case("SADD", Space::Tags, &["SADD", tag, new_member], Expected::Integer).changing_size(
            sustained,
            (&["SPOP", tag], Expected::Bulk),
            None,
        ),
        case(
            "SISMEMBER",
            Space::Groups,
            &["SISMEMBER", group, member],
            Expected::Integer,
        ),
        case("SPOP", Space::Draws, &["SPOP", draw], Expected::Bulk).changing_size(
            sustained,
            (&["SADD", draw, new_member], Expected::Integer),
            Some(elements),
        ),
    ]
}

/// On boards with so many members each.
fn sorted_sets(detail: &str, key: &str, space: Space, members: u64) -> Vec<Case> {
    let member = &format!("member:{}", any_below(members));
    let score = &format!("{{{SCORE_MIN}-{SCORE_MAX}}}");
    // Far enough from the end that ten follow, also when scores have changed.
    let low_score = &format!("{{{SCORE_MIN}-{}}}", SCORE_MAX - 100_000);
    // The upper half: all of these ranks have as many digits.
    let rank = &format!("{{{}-{}}}", members / 2, members - 20);
    let case = |command, ten: &str, words: &[&str], expected| {
        Case::new(command, &format!("{ten}{detail}"), space, words, expected)
    };
    vec![
        case("ZADD", "", &["ZADD", key, score, member], Expected::Integer),
        case("ZINCRBY", "", &["ZINCRBY", key, "1", member], Expected::Bulk),
        case("ZRANGE", "(10)", &["ZRANGE", key, rank, "{+9}"], Expected::Array(10)),
        case(
            "ZRANGEBYSCORE",
            "(10)",
            &["ZRANGEBYSCORE", key, low_score, "+inf", "LIMIT", "0", "10"],
            Expected::Array(10),
        ),
        case("ZRANK", "", &["ZRANK", key, member], Expected::Integer),
    ]
}

fn streams(sizes: Sizes) -> Vec<Case> {
    let stream = &Space::Streams.any_key(sizes);
    let event = &Space::Events.any_key(sizes);
    let max = &MEMBERS.to_string();
    let add = ["XADD", stream, "MAXLEN", "~", max, "*", "field", VALUE];
    let range = ["XRANGE", event, "{100-980}-0", "+", "COUNT", "10"];
    vec![
        Case::new("XADD", " MAXLEN ~ 1000", Space::Streams, &add, Expected::Bulk),
        Case::new("XRANGE", "(10)", Space::Events, &range, Expected::Array(10)),
    ]
}

fn others(sizes: Sizes) -> Vec<Case> {
    let bitmap = &Space::Bitmaps.any_key(sizes);
    let visitors = &Space::Visitors.any_key(sizes);
    let places = &Space::Places.any_key(sizes);
    let token = &Space::Tokens.any_key(sizes);
    let client = &format!("client:{}", any_below(sizes.keys));
    // About twenty places lie in the circle.
    let near = ["FROMLONLAT", "2.{0-999999}", "48.{0-999999}", "BYRADIUS", "500", "m"];
    let search = [&["GEOSEARCH", places][..], &near, &["ASC", "COUNT", "10"]].concat();
    let set_bit = ["SETBIT", bitmap, "{100000-999999}", "{0-1}"];
    let add_visitor = ["PFADD", visitors, "user:{0-999999999}"];
    let expire = ["EXPIRE", token, "{100000-999999}"];
    let limit = ["EVAL", RATE_LIMITER, "1", client, "3600", "1000000"];
    vec![
        Case::new("SETBIT", "", Space::Bitmaps, &set_bit, Expected::Integer),
        Case::new("PFADD", "", Space::Visitors, &add_visitor, Expected::Integer),
        Case::new("GEOSEARCH", "(10)", Space::Places, &search, Expected::AnyArray),
        Case::new("EXPIRE", "", Space::Tokens, &expire, Expected::Integer),
        Case {
            space: None,
            ..Case::new("EVAL", " of a rate limiter", Space::Strings, &limit, Expected::Integer)
        },
    ]
}
