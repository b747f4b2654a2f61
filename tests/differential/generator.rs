//! Random commands from syntax lines, and what can be wrong with a command.
//!
//! Nothing here depends on a reply: a seed says which commands a round has.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::needs_more;
use super::rows::{FAMILIES, Family, Row};

/// Databases in use.
pub(super) const DATABASES: u32 = 3;

/// Keys that each family has for itself under one hash tag: so few that commands meet.
const KEYS_OF_A_FAMILY: u32 = 6;

/// Hash tags, where keys lie on several shards. A command's keys share one, unless its keys have nothing to do with
/// each other.
const TAGS: u32 = 6;

/// Commands whose keys may lie anywhere.
const ANYWHERE: [&str; 7] = ["mget", "mset", "msetnx", "del", "unlink", "exists", "touch"];

/// Where keys lie on several shards, one command in so many is called by a script that does not declare its keys.
const SCRIPT_ONE_IN: u32 = 12;

/// Calls the commands that it is given, the first of so many words, and answers as the last.
const SCRIPT: &str = "local words = tonumber(ARGV[1]) if words > 0 then redis.pcall(unpack(ARGV, 2, words + 1)) end \
                      return redis.pcall(unpack(ARGV, words + 2))";

/// Commands in a row on one connection and database.
const RUN_MAX: usize = 24;

/// Of so many commands one is made wrong.
const WRONG_ONE_IN: u32 = 7;

/// Commands that 7.0 and 7.2 execute differently when they are wrong.
const NEVER_WRONG: [&str; 1] = ["xsetid"];

/// Commands with deadlines: what a mutation makes of their numbers must not come near the present.
const WITH_DEADLINES: [&str; 8] = [
    "set",
    "getex",
    "setex",
    "psetex",
    "expire",
    "expireat",
    "pexpire",
    "pexpireat",
];

/// Added to their small numbers, which are then far in the future as spans and long past as moments.
const FAR: i64 = 100_000_000;

/// Commands with offsets: what a mutation makes of their numbers must not allocate hundreds of megabytes.
const WITH_OFFSETS: [&str; 3] = ["setrange", "setbit", "bitfield"];
const OFFSET_MAX: i64 = 4_000;
const OFFSETS_REFUSED_FROM: i64 = 1 << 32;

/// Words that are wrong, or nearly, wherever a number or an option is expected.
const JUNK: [&str; 34] = [
    "0",
    "1",
    "-1",
    "2",
    "-2",
    "10",
    "100",
    "-0",
    "007",
    "+5",
    " 5",
    "5 ",
    "1e3",
    "1.5",
    "-1.5",
    "0x10",
    "",
    "abc",
    "nan",
    "inf",
    "-inf",
    "(1",
    "[a",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "99999999999999999999",
    "4294967296",
    "NX",
    "COUNT",
    "LIMIT",
    "GET",
    "3.0",
    "\x00\n",
];

/// Hash fields, set members, list elements.
const MEMBERS: [&[u8]; 22] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b"g",
    b"A",
    b"aa",
    b"ab",
    b"0",
    b"1",
    b"2",
    b"10",
    b"-7",
    b"1.5",
    b"",
    b"\xff\x00\r\n",
    b"\x00",
    b"a longer member of forty-five bytes or more..",
    b"9223372036854775807",
    b"3e2",
];

/// Commands that take more arguments in 7.2 than in 7.0: what one queues the other refuses, and with it the
/// transaction.
const ARITY_CHANGED: [&str; 2] = ["zrank", "zrevrank"];

/// One run of commands in so many is a transaction, where all keys are on one storage executor.
const BLOCK_ONE_IN: u32 = 4;

/// One command of a round.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Its row.
    pub(super) row: &'static Row,
    /// Its row's family.
    pub(super) family: &'static Family,
    /// The command and its arguments.
    pub(super) words: Vec<Vec<u8>>,
    /// The database that it runs in.
    pub(super) database: u32,
    /// Whether its connection speaks RESP3.
    pub(super) resp3: bool,
    /// The transaction that it is in.
    pub(super) block: Option<Block>,
    /// Whether keys lie on several shards.
    pub(super) tagged: bool,
    /// Whether the words are those of a script that calls it.
    pub(super) is_script: bool,
}

/// A transaction: those of its steps that lie side by side when it is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Tells it from the one before it.
    pub(super) number: usize,
    /// What becomes of it.
    pub(super) kind: BlockKind,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// MULTI, the steps, EXEC.
    Exec,
    /// MULTI, the steps, DISCARD.
    Discard,
    /// WATCH of whatever may be a key of the first step, the first step, MULTI, the others, EXEC: if the step has
    /// changed a key, EXEC is refused.
    Watched,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.syntax)
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.keys)
    }
}

/// Makes the commands of one round.
pub(super) struct Generator {
    random: StdRng,
    /// The families whose commands both servers know, with those rows.
    families: Vec<(&'static Family, Vec<&'static Row>)>,
    tagged: bool,
    /// Whether some of the commands are in transactions.
    in_blocks: bool,
    /// The hash tag of the command that is being made.
    tag: String,
    family: &'static Family,
}

impl Generator {
    /// Commands for which `known` says that both servers know them; with `tagged`, the keys of a command share a hash
    /// tag.
    pub(super) fn new(seed: u64, known: &dyn Fn(&Row) -> bool, tagged: bool) -> Generator {
        let rows_of = |family: &'static Family| (family, family.rows.iter().filter(|row| known(row)).collect());
        let families: Vec<(&Family, Vec<&Row>)> = FAMILIES.iter().map(rows_of).collect();
        Generator {
            random: StdRng::seed_from_u64(seed),
            families: families.into_iter().filter(|(_, rows)| !rows.is_empty()).collect(),
            tagged,
            in_blocks: !tagged,
            tag: String::new(),
            family: &FAMILIES[0],
        }
    }

    /// The commands of a round.
    pub(super) fn round(&mut self, count: usize) -> Vec<Step> {
        let mut steps = Vec::with_capacity(count);
        while steps.len() < count {
            let (database, resp3) = (self.random.random_range(0..DATABASES), self.chance(2));
            let block = (self.in_blocks && self.chance(BLOCK_ONE_IN)).then(|| Block {
                number: steps.len(),
                kind: self.pick(&[
                    BlockKind::Exec,
                    BlockKind::Exec,
                    BlockKind::Watched,
                    BlockKind::Watched,
                    BlockKind::Discard,
                ]),
            });
            for _ in 0..self.random.random_range(1..=RUN_MAX) {
                let step = self.step(database, resp3);
                let is_known_alike = !ARITY_CHANGED.contains(&step.row.name().as_str());
                let block = block.filter(|_| is_known_alike);
                let step = match self.tagged && self.chance(SCRIPT_ONE_IN) {
                    true => self.in_script(step),
                    false => step,
                };
                steps.push(Step { block, ..step });
            }
        }
        steps.truncate(count);
        steps
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from
            .choose(&mut self.random)
            .expect("there is something to choose from")
    }

    fn step(&mut self, database: u32, resp3: bool) -> Step {
        let chosen = self
            .families
            .choose_weighted(&mut self.random, |(family, _)| family.weight);
        let (family, rows) = chosen.expect("there are families");
        let row = *rows
            .choose_weighted(&mut self.random, |row| row.weight)
            .expect("there are rows");
        self.family = family;
        self.new_tag();
        let mut words = Vec::new();
        let line: Vec<&str> = row.syntax.split_whitespace().collect();
        let anywhere = ANYWHERE.contains(&row.name().as_str());
        self.sequence(&line, anywhere, &mut words);
        // A wrong word in the place of a key has no hash tag.
        let untagged = self.tagged && has_several_keys(row);
        // Without a `*` in SORT's BY, sets come in the order of Redis's hash table.
        let undefined = NEVER_WRONG.contains(&row.name().as_str()) || row.syntax.contains(" BY by-pattern");
        if self.chance(WRONG_ONE_IN) && !untagged && !undefined {
            self.make_wrong(row, &mut words);
        }
        if self.chance(10) {
            let at = self.random.random_range(0..words.len());
            if line.iter().any(|word| word.as_bytes() == words[at]) {
                words[at].make_ascii_lowercase();
            }
        }
        Step {
            row,
            family: self.family,
            words,
            database,
            resp3,
            block: None,
            tagged: self.tagged,
            is_script: false,
        }
    }

    /// Has a command called by a script, perhaps after another one: if more than their replies counted, they are left
    /// as they are.
    fn in_script(&mut self, step: Step) -> Step {
        let is_simple = |step: &Step| !needs_more(step) && !ARITY_CHANGED.contains(&step.row.name().as_str());
        if !is_simple(&step) {
            return step;
        }
        let before = self.step(step.database, step.resp3);
        let before = match is_simple(&before) && self.chance(2) {
            true => before.words,
            false => Vec::new(),
        };
        let mut words: Vec<Vec<u8>> = ["EVAL", SCRIPT, "0"].map(|word| word.as_bytes().to_vec()).into();
        words.push(before.len().to_string().into_bytes());
        words.extend(before);
        words.extend(step.words);
        Step {
            words,
            is_script: true,
            ..step
        }
    }

    fn new_tag(&mut self) {
        self.tag = match self.tagged {
            true => format!("{{t{}}}", self.random.random_range(0..TAGS)),
            false => String::new(),
        };
    }

    fn new_tag_or_not(&mut self) {
        if self.chance(2) {
            self.new_tag();
        }
    }

    /// Writes what a part of a syntax line stands for.
    fn sequence(&mut self, line: &[&str], anywhere: bool, words: &mut Vec<Vec<u8>>) {
        for item in items(line) {
            match item {
                [word] => self.word(word, anywhere, words),
                ["[", inner @ .., "]"] => {
                    if self.chance(2) {
                        self.sequence(inner, anywhere, words);
                    }
                }
                ["(", inner @ .., ")"] => {
                    let choices = alternatives(inner);
                    let choice = choices.choose(&mut self.random).expect("there are alternatives");
                    self.sequence(choice, anywhere, words);
                }
                ["{", inner @ .., "}"] => {
                    let most = if self.chance(8) { 12 } else { 3 };
                    for _ in 0..self.random.random_range(1..=most) {
                        self.sequence(inner, anywhere, words);
                    }
                }
                ["<", inner @ .., ">"] => {
                    let mut options = items(inner);
                    options.shuffle(&mut self.random);
                    for option in options {
                        self.sequence(option, anywhere, words);
                    }
                }
                other => panic!("{other:?} is no part of a syntax line"),
            }
        }
    }

    fn word(&mut self, word: &str, anywhere: bool, words: &mut Vec<Vec<u8>>) {
        if anywhere {
            self.new_tag();
        }
        match word {
            "counted-keys" | "counted-keys-weights" => self.counted_keys(word, words),
            _ if word.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                let placed = self.placeholder(word);
                words.push(placed);
            }
            _ => words.push(word.as_bytes().to_vec()),
        }
    }

    fn counted_keys(&mut self, word: &str, words: &mut Vec<Vec<u8>>) {
        let count = self.random.random_range(1..=3);
        words.push(count.to_string().into_bytes());
        for _ in 0..count {
            let key = self.placeholder("key");
            words.push(key);
        }
        if word == "counted-keys-weights" && self.chance(2) {
            words.push(b"WEIGHTS".to_vec());
            for _ in 0..count {
                let weight = self.placeholder("score");
                words.push(weight);
            }
        }
    }

    fn key_of(&mut self, family: &Family) -> Vec<u8> {
        let number = self.random.random_range(0..KEYS_OF_A_FAMILY);
        let mut key = format!("{}{}{number}", self.tag, family.keys).into_bytes();
        if number == 0 && family.keys == "string" {
            key.extend_from_slice(b"\r\n\x00\xfe");
        }
        key
    }

    /// The text of something random of the kind that a syntax line names.
    fn placeholder(&mut self, kind: &str) -> Vec<u8> {
        let text = match kind {
            // Now and then the key of another family: mostly a wrong type.
            "key" if !self.chance(12) => {
                let family = self.family;
                return self.key_of(family);
            }
            "key" | "any-key" => {
                let families: Vec<&Family> = self.families.iter().map(|(family, _)| *family).collect();
                let family = self.pick(&families);
                return self.key_of(family);
            }
            "value" => return self.value(),
            "member" => {
                return match self.chance(4) {
                    true => format!("member{}", self.random.random_range(0..200)).into_bytes(),
                    false => self.pick(&MEMBERS).to_vec(),
                };
            }
            "integer" => self.integer(),
            "float" | "score" => self.float(),
            "same-score" => "0".to_owned(),
            "index" => self.random.random_range(-12..=12).to_string(),
            "count" => match self.random.random_range(0..12) {
                0 => "0".to_owned(),
                1 => "-3".to_owned(),
                2 => "1000".to_owned(),
                _ => self.random.random_range(1..8).to_string(),
            },
            "offset" => match self.chance(10) {
                true => self
                    .pick(&["-1", "4294967296", "9223372036854775807", "536870912000"])
                    .to_owned(),
                false => self.random.random_range(0..60).to_string(),
            },
            // Spans and moments are never near, and never near each other: the servers' clock readings differ by
            // little.
            "seconds" => self.span(100_000..1_000_000_000),
            "milliseconds" => self.span(100_000_000..1_000_000_000_000),
            "unix-seconds" => self.moment(4_000_000_000..30_000_000_000),
            "unix-milliseconds" => self.moment(4_000_000_000_000..30_000_000_000_000),
            "database" => match self.chance(10) {
                true => self.pick(&["16", "-1", "x", "99999999999999999999"]).to_owned(),
                false => self.random.random_range(0..DATABASES).to_string(),
            },
            "pattern" => self.pattern(),
            // What SORT makes keys of lies where the sorted one does, or elsewhere.
            "key-pattern" if self.tagged => {
                self.new_tag_or_not();
                let family = self.pick(&["string", "hash", "bits"]);
                let tag = &self.tag;
                let patterns = [format!("{tag}{family}*"), format!("{tag}{family}*->a"), "#".to_owned()];
                patterns.choose(&mut self.random).expect("there are patterns").clone()
            }
            // With a `*`, and not the element itself: otherwise a set comes in the order of Redis's hash table.
            "by-pattern" if self.tagged => {
                self.new_tag_or_not();
                let family = self.pick(&["string", "hash", "bits"]);
                format!("{}{family}*", self.tag)
            }
            "by-pattern" => self.pick(&["string*", "hash*->a", "bits*"]).to_owned(),
            "key-pattern" => self
                .pick(&["string*", "hash*->a", "bits*", "*[1", "hash*->", "*"])
                .to_owned(),
            "cursor" => "0".to_owned(),
            "type" => self
                .pick(&["string", "hash", "list", "SET", "zset", "stream", "badger"])
                .to_owned(),
            "bit" => self.pick(&["0", "1", "1", "0", "1", "2"]).to_owned(),
            "field" => self
                .pick(&[
                    "u8", "i8", "u1", "i1", "u63", "i64", "u4", "i16", "i32", "u64", "i65", "x8",
                ])
                .to_owned(),
            "bit-place" => match self.chance(3) {
                true => format!("#{}", self.random.random_range(0..12)),
                false => self.random.random_range(0..300).to_string(),
            },
            "score-bound" => match self.random.random_range(0..6) {
                0 => "-inf".to_owned(),
                1 => "+inf".to_owned(),
                2 => format!("({}", self.float()),
                _ => self.float(),
            },
            "lex-bound" => {
                let mut bound = self.pick(&["-", "+", "[", "(", "[", "("]).as_bytes().to_vec();
                if bound[0] == b'[' || bound[0] == b'(' {
                    bound.extend_from_slice(self.pick(&MEMBERS));
                }
                return bound;
            }
            "entry" => self.entry(),
            "new-entry" => match self.random.random_range(0..10) {
                0 => format!("{}-*", self.random.random_range(0..40)),
                1..=5 => format!(
                    "{}-{}",
                    self.random.random_range(0..2000),
                    self.random.random_range(0..3)
                ),
                _ => self.random.random_range(0..2000).to_string(),
            },
            // Above whatever was deleted: 7.2 refuses a smaller one and 7.0 does not.
            "later-entry" => format!("{}-1", self.random.random_range(3000..4000)),
            "entry-bound" => match self.random.random_range(0..8) {
                0..=2 => "-".to_owned(),
                3..=4 => "+".to_owned(),
                5 => format!("({}", self.entry()),
                _ => self.entry(),
            },
            "unread" => ">".to_owned(),
            "group" => self.pick(&["g1", "g2", "g1", "g2", "g3"]).to_owned(),
            "consumer" => self.pick(&["alice", "bob", "carol"]).to_owned(),
            // Either all entries have waited so long or none has.
            "idle" => self.pick(&["0", "0", "0", "-5", "1000000000000"]).to_owned(),
            "longitude" => format!("{:.4}", self.random.random_range(-181.0..181.0_f64)),
            "latitude" => format!("{:.4}", self.random.random_range(-86.0..86.0_f64)),
            "radius" => self.random.random_range(0..9_000).to_string(),
            "unit" => self.pick(&["km", "km", "km", "M", "mi", "ft", "parsec"]).to_owned(),
            other => panic!("a syntax line says {other:?}, which nothing is known for"),
        };
        text.into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.random_range(0..12) {
            0..=3 => self.integer().into_bytes(),
            4..=5 => self.float().into_bytes(),
            6 => {
                let length = self.random.random_range(0..40);
                (0..length).map(|_| self.random.random()).collect()
            }
            7 if self.chance(4) => vec![b'x'; self.random.random_range(200..1500)],
            8 => self.pick(&JUNK).as_bytes().to_vec(),
            _ => self.pick(&MEMBERS).to_vec(),
        }
    }

    fn integer(&mut self) -> String {
        match self.random.random_range(0..12) {
            0 => self
                .pick(&["9223372036854775807", "-9223372036854775808", "9223372036854775800"])
                .to_owned(),
            1 => self.random.random_range(-(1_i64 << 40)..1 << 40).to_string(),
            _ => self.random.random_range(-20..100).to_string(),
        }
    }

    fn float(&mut self) -> String {
        match self.random.random_range(0..16) {
            0 => self
                .pick(&[
                    "inf", "-inf", "+inf", "1e3", "-1.5e-3", "5.0e3", "1e308", "0x1p3", ".5", "5.",
                ])
                .to_owned(),
            1 => format!("{:e}", f64::from_bits(self.random.random::<u64>() & !(1 << 62))),
            2 => self.random.random_range(-1000.0..1000.0_f64).to_string(),
            3 | 4 => format!("{:.2}", self.random.random_range(-20.0..20.0_f64)),
            _ => self.random.random_range(-5..15).to_string(),
        }
    }

    fn span(&mut self, range: std::ops::Range<i64>) -> String {
        match self.chance(8) {
            true => self
                .pick(&[
                    "0",
                    "-1",
                    "-1000",
                    "9223372036854775807",
                    "9223372036854775",
                    "-9223372036854775808",
                    "x",
                ])
                .to_owned(),
            false => self.random.random_range(range).to_string(),
        }
    }

    fn moment(&mut self, range: std::ops::Range<i64>) -> String {
        match self.chance(8) {
            true => self
                .pick(&["0", "-1", "1", "1000", "9223372036854775807", "9223372036854776", "1.5"])
                .to_owned(),
            false => self.random.random_range(range).to_string(),
        }
    }

    fn pattern(&mut self) -> String {
        let family = self.pick(FAMILIES.iter().map(|family| family.keys).collect::<Vec<_>>().as_slice());
        match self.random.random_range(0..10) {
            0 => "*".to_owned(),
            1 => format!("{}{family}*", self.tag),
            2 => format!("*{family}[1-3]"),
            3 => "[^a-m]*".to_owned(),
            4 => "*a?".to_owned(),
            5 => "\\*[".to_owned(),
            6 => "#".to_owned(),
            7 => "nosort".to_owned(),
            8 => format!("{}{family}*->a", self.tag),
            _ => "*[a-".to_owned(),
        }
    }

    fn entry(&mut self) -> String {
        match self.random.random_range(0..12) {
            0 => "0-0".to_owned(),
            1 => "18446744073709551615-18446744073709551615".to_owned(),
            2 => self
                .pick(&["0", "5-", "-5", "a-1", "1-1-1", "18446744073709551616-0"])
                .to_owned(),
            3..=5 => self.random.random_range(0..2000).to_string(),
            _ => format!(
                "{}-{}",
                self.random.random_range(0..2000),
                self.random.random_range(0..3)
            ),
        }
    }

    /// A wrong number of words, a wrong word, an option twice, options that contradict each other.
    fn make_wrong(&mut self, row: &Row, words: &mut Vec<Vec<u8>>) {
        let name_words = row.name().split('|').count();
        if words.len() > name_words {
            let at = self.random.random_range(name_words..words.len());
            match self.random.random_range(0..8) {
                0 => {
                    words.remove(at);
                }
                1 => words.truncate(at),
                2 => words.insert(at, words[at].clone()),
                3 => words[at] = self.pick(&JUNK).as_bytes().to_vec(),
                4 => words[at] = self.placeholder("any-key"),
                5 => {
                    let other = self.random.random_range(name_words..words.len());
                    words.swap(at, other);
                }
                _ => self.add_options(row, words),
            }
        } else {
            words.push(self.pick(&JUNK).as_bytes().to_vec());
        }
        self.tame(&row.name(), words);
    }

    /// Adds one of the row's own options at the end, with what may follow it.
    fn add_options(&mut self, row: &Row, words: &mut Vec<Vec<u8>>) {
        let parts: Vec<&str> = row.syntax.split_whitespace().collect();
        let is_option = |part: &&str| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_uppercase());
        let options: Vec<usize> = (1..parts.len()).filter(|place| is_option(&parts[*place])).collect();
        let Some(place) = options.choose(&mut self.random).copied() else {
            return words.push(self.pick(&JUNK).as_bytes().to_vec());
        };
        words.push(parts[place].as_bytes().to_vec());
        if let Some(follows) = parts.get(place + 1)
            && follows.bytes().any(|byte| byte.is_ascii_lowercase())
            && !self.chance(6)
        {
            self.word(follows, false, words);
        }
    }

    /// Takes back what a mutation may not do: deadlines near the present, strings of gigabytes, cursors of one server.
    fn tame(&self, name: &str, words: &mut [Vec<u8>]) {
        let is_cursor = |place| place == 1 && name == "scan" || place == 2 && name.len() > 4 && name.ends_with("scan");
        for (place, word) in words.iter_mut().enumerate().skip(1) {
            if is_cursor(place) && !word.iter().any(u8::is_ascii_alphabetic) {
                *word = b"0".to_vec();
            }
            let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok());
            let Some(number) = number else { continue };
            if WITH_DEADLINES.contains(&name) && (1..FAR).contains(&number) {
                *word = (number + FAR).to_string().into_bytes();
            } else if WITH_OFFSETS.contains(&name) && (OFFSET_MAX..OFFSETS_REFUSED_FROM).contains(&number) {
                *word = OFFSET_MAX.to_string().into_bytes();
            }
        }
    }
}

/// Whether a command may have more than one key.
fn has_several_keys(row: &Row) -> bool {
    let is_keys = |word: &&str| word.contains("key") || matches!(*word, "{" | "STREAMS" | "STORE");
    row.syntax.contains("counted-keys") || row.syntax.split_whitespace().filter(is_keys).count() > 1
}

/// The items of a part of a syntax line: single words, and brackets with what they hold.
fn items<'line, 'word>(line: &'line [&'word str]) -> Vec<&'line [&'word str]> {
    let mut items = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (place, word) in line.iter().enumerate() {
        depth += depth_change(word);
        if depth == 0 {
            items.push(&line[start..=place]);
            start = place + 1;
        }
    }
    assert_eq!(depth, 0, "{line:?} has a bracket that is not closed");
    items
}

/// What stands between the bars of `( … | … )`.
fn alternatives<'line, 'word>(inner: &'line [&'word str]) -> Vec<&'line [&'word str]> {
    let mut choices = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (place, word) in inner.iter().enumerate() {
        depth += depth_change(word);
        if depth == 0 && *word == "|" {
            choices.push(&inner[start..place]);
            start = place + 1;
        }
    }
    choices.push(&inner[start..]);
    choices
}

fn depth_change(word: &str) -> i32 {
    match word {
        "[" | "(" | "{" | "<" => 1,
        "]" | ")" | "}" | ">" => -1,
        _ => 0,
    }
}
