//! The request parser. Expected values were read from a real redis-server.

use corelane::protocol::{Limits, Parsed, Parser, ProtocolError};

type Command = Vec<Vec<u8>>;

/// Parses everything that arrives in `pieces`, as a connection does: the commands, and the error that ended it.
fn parse_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: &Limits,
) -> (Vec<Command>, Option<ProtocolError>) {
    let mut parser = Parser::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut commands = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer, limits) {
                Ok(Parsed::Incomplete { wanted }) => {
                    assert!(wanted >= 1);
                    break;
                }
                Ok(Parsed::Empty { consumed }) => {
                    buffer.drain(..consumed);
                }
                Ok(Parsed::Command { consumed }) => {
                    let arguments = parser.arguments(&buffer);
                    assert!(!arguments.is_empty());
                    commands.push(arguments.iter().map(<[u8]>::to_vec).collect());
                    buffer.drain(..consumed);
                }
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn parse_all(bytes: &[u8]) -> (Vec<Command>, Option<ProtocolError>) {
    parse_pieces([bytes], &Limits::default())
}

fn command(arguments: &[&[u8]]) -> Command {
    arguments.iter().map(|argument| argument.to_vec()).collect()
}

/// The text after `-ERR ` that ends a connection which sends `bytes`.
fn error_text(bytes: &[u8]) -> String {
    error_text_within(bytes, &Limits::default())
}

fn error_text_within(bytes: &[u8], limits: &Limits) -> String {
    let error = parse_pieces([bytes], limits)
        .1
        .unwrap_or_else(|| panic!("{} was accepted", bytes.escape_ascii()));
    let mut text = Vec::new();
    error.write_text(&mut text);
    if text.is_ascii() {
        assert_eq!(error.to_string().as_bytes(), text, "Display and write_text agree");
    }
    text.escape_ascii().to_string()
}

/// A pipeline with every kind of frame and its commands.
fn pipeline() -> (Vec<u8>, Vec<Command>) {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n$12\r\nab\r\ncd\0ef\r\ng\r\n");
    bytes.extend_from_slice(b"PING\r\n");
    bytes.extend_from_slice(b"\r\n*0\r\n*-1\r\n  \n");
    bytes.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
    bytes.extend_from_slice(b" set \"a\\x00b\\n\" 'it\\'s' plain\\n \"\"\n");
    // Lengths of two and three digits.
    bytes.extend_from_slice(b"*12\r\n$4\r\nMSET\r\n");
    for index in 0..11 {
        bytes.extend_from_slice(format!("$2\r\n{:02}\r\n", index).as_bytes());
    }
    bytes.extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$130\r\n");
    bytes.extend_from_slice(&[b'\r'; 130]);
    bytes.extend_from_slice(b"\r\n*1\r\n$4\r\nQUIT\r\n");
    let mset: Command = std::iter::once(b"MSET".to_vec())
        .chain((0..11).map(|index| format!("{index:02}").into_bytes()))
        .collect();
    let commands = vec![
        command(&[b"SET", b"key:1", b"ab\r\ncd\0ef\r\ng"]),
        command(&[b"PING"]),
        command(&[b"GET", b""]),
        command(&[b"set", b"a\0b\n", b"it's", b"plain\\n", b""]),
        mset,
        command(&[b"ECHO", &[b'\r'; 130]]),
        command(&[b"QUIT"]),
    ];
    (bytes, commands)
}

#[test]
fn a_pipeline_gives_its_commands() {
    let (bytes, commands) = pipeline();
    assert_eq!(parse_all(&bytes), (commands, None));
}

#[test]
fn a_pipeline_cut_at_any_two_bytes_gives_the_same_commands() {
    let (bytes, commands) = pipeline();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let parsed = parse_pieces(pieces, &Limits::default());
            assert_eq!(parsed, (commands.clone(), None), "cut at {first} and {second}");
        }
    }
}

#[test]
fn a_pipeline_that_arrives_byte_by_byte_gives_the_same_commands() {
    let (bytes, commands) = pipeline();
    assert_eq!(parse_pieces(bytes.chunks(1), &Limits::default()), (commands, None));
}

#[test]
fn arguments_lie_in_the_buffer_and_can_be_taken_from_any_index() {
    let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\nrest";
    let mut parser = Parser::new();
    assert_eq!(
        parser.parse(bytes, &Limits::default()),
        Ok(Parsed::Command {
            consumed: bytes.len() - 4
        })
    );
    let arguments = parser.arguments(bytes);
    assert_eq!(
        (arguments.len(), arguments.get(0), arguments.get(2)),
        (3, &b"SET"[..], &b"vv"[..])
    );
    assert_eq!(arguments.bytes().as_ptr(), bytes.as_ptr());
    let keys = arguments.from(1);
    assert_eq!(keys.iter().collect::<Vec<_>>(), [&b"k"[..], b"vv"]);
    assert!(arguments.from(3).is_empty());
}

#[test]
fn incomplete_says_how_much_of_a_bulk_string_is_missing() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$100\r\nabc";
    let mut parser = Parser::new();
    assert_eq!(
        parser.parse(bytes, &Limits::default()),
        Ok(Parsed::Incomplete { wanted: 99 })
    );
}

#[test]
fn a_million_arguments_that_arrive_in_pieces_are_read_once() {
    let count = 1024 * 1024;
    let mut bytes = format!("*{count}\r\n").into_bytes();
    for _ in 0..count {
        bytes.extend_from_slice(b"$1\r\nx\r\n");
    }
    let mut parser = Parser::new();
    // Re-reading from the start each time would take 7,000 passes of 7 MB.
    for end in (1024..bytes.len()).step_by(1024) {
        assert!(matches!(
            parser.parse(&bytes[..end], &Limits::default()),
            Ok(Parsed::Incomplete { .. })
        ));
    }
    assert_eq!(
        parser.parse(&bytes, &Limits::default()),
        Ok(Parsed::Command { consumed: bytes.len() })
    );
    assert_eq!(parser.arguments(&bytes).len(), count);
}

#[test]
fn the_bytes_after_a_length_and_after_a_bulk_string_are_not_looked_at() {
    assert_eq!(parse_all(b"*1\rX$4\rYPINGXX"), (vec![command(&[b"PING"])], None));
}

#[test]
fn inline_commands_are_split_as_redis_splits_them() {
    let cases: &[(&[u8], &[&[u8]])] = &[
        (b"PING\n", &[b"PING"]),
        (b"  \t ping \r\n", &[b"ping"]),
        (
            b"ECHO \"\\xff\\n\\t\\b\\a\\r\\\"\\q\\xzz\"\n",
            &[b"ECHO", b"\xff\n\t\x08\x07\r\"qxzz"],
        ),
        (b"ECHO 'a\\'b\\n'\n", &[b"ECHO", b"a'b\\n"]),
        (b"ECHO ''\n", &[b"ECHO", b""]),
        (b"ECHO foo\"bar\"\n", &[b"ECHO", b"foobar"]),
        (b"ECHO fo'o b'\n", &[b"ECHO", b"foo b"]),
        (b"ECHO a\x0bb\n", &[b"ECHO", b"a\x0bb"]),
        (b"\x0bECHO \x0ca\n", &[b"ECHO", b"a"]),
        (b"PI\rNG\r\n", &[b"PI", b"NG"]),
        (b"ECHO \"a\"\tb\n", &[b"ECHO", b"a", b"b"]),
        (b"'' \n", &[b""]),
        (b"ECHO \\n\n", &[b"ECHO", b"\\n"]),
    ];
    for (line, arguments) in cases {
        assert_eq!(
            parse_all(line),
            (vec![command(arguments)], None),
            "{}",
            line.escape_ascii()
        );
    }
}

#[test]
fn unbalanced_quotes_are_refused() {
    for line in [
        &b"PING \"a\n"[..],
        b"PING \"a\"b\n",
        b"PING 'a\n",
        b"PING 'a'b\n",
        b"ECHO \"a\\\n",
        b"ECHO \"a\\\"\n",
    ] {
        assert_eq!(
            error_text(line),
            "Protocol error: unbalanced quotes in request",
            "{}",
            line.escape_ascii()
        );
    }
}

#[test]
fn wrong_array_lengths_are_refused() {
    for length in [
        "a",
        "+3",
        "01",
        "-0",
        "",
        " 1",
        "1 ",
        "2147483648",
        "99999999999999999999",
    ] {
        let text = error_text(format!("*{length}\r\n").as_bytes());
        assert_eq!(text, "Protocol error: invalid multibulk length", "{length}");
    }
}

#[test]
fn wrong_bulk_lengths_are_refused() {
    for length in [
        "a",
        "+3",
        "01",
        "-1",
        "-0",
        "",
        "536870913",
        "9223372036854775807",
        "9223372036854775808",
    ] {
        let text = error_text(format!("*1\r\n${length}\r\n").as_bytes());
        assert_eq!(text, "Protocol error: invalid bulk length", "{length}");
    }
    let limits = Limits {
        bulk_bytes_max: 1000,
        ..Limits::default()
    };
    assert_eq!(
        error_text_within(b"*1\r\n$1001\r\n", &limits),
        "Protocol error: invalid bulk length"
    );
    assert_eq!(parse_pieces([&b"*1\r\n$1000\r\n"[..]], &limits), (vec![], None));
}

#[test]
fn an_element_that_is_no_bulk_string_is_refused_with_its_first_byte() {
    assert_eq!(
        error_text(b"*1\r\nX3\r\nabc\r\n"),
        r"Protocol error: expected \'$\', got \'X\'"
    );
    assert_eq!(error_text(b"*1\r\n\r\n"), r"Protocol error: expected \'$\', got \' \'");
    assert_eq!(
        error_text(b"*1\r\n\xffab\r\n"),
        r"Protocol error: expected \'$\', got \'\xff\'"
    );
    assert_eq!(
        parse_all(b"*1\r\nX3"),
        (vec![], None),
        "Redis waits for the line's end before it looks"
    );
}

#[test]
fn lines_over_64_kib_are_refused_and_shorter_ones_are_not() {
    let cases: [(&[u8], u8, &[u8], &str); 3] = [
        (b"", b'a', b"\n", "Protocol error: too big inline request"),
        (b"*", b'1', b"\r\n", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", b'1', b"\r\n", "Protocol error: too big bulk count string"),
    ];
    for (start, fill, end, text) in cases {
        let header_bytes = if start.ends_with(b"$") { 1 } else { start.len() };
        let long_line = |line_bytes: usize| [start, &vec![fill; line_bytes - header_bytes]].concat();
        assert_eq!(parse_all(&long_line(65536)), (vec![], None), "{text}");
        assert_eq!(error_text(&long_line(65537)), text);
        // With its end, too, wherever the line is cut.
        assert_eq!(error_text(&[&long_line(65537), end].concat()), text);
        let longest = parse_all(&[&long_line(65536), end].concat()).1;
        assert_ne!(longest.map(|error| error.to_string()), Some(text.to_owned()));
    }
}

#[test]
fn a_nul_hides_the_end_of_a_line() {
    assert_eq!(parse_all(b"PING\0\nPING\n"), (vec![], None));
    assert_eq!(parse_all(b"*3\0\r\nabc"), (vec![], None));
    let endless = [&b"PING\0"[..], &b"\n".repeat(65536)].concat();
    assert_eq!(error_text(&endless), "Protocol error: too big inline request");
    assert_eq!(
        parse_pieces(endless.chunks(1), &Limits::default()).1,
        Some(ProtocolError::InlineTooBig)
    );
}

#[test]
fn clients_that_have_not_authenticated_may_send_little() {
    let limits = Limits {
        authenticated: false,
        ..Limits::default()
    };
    assert_eq!(
        error_text_within(b"*11\r\n", &limits),
        "Protocol error: unauthenticated multibulk length"
    );
    assert_eq!(
        error_text_within(b"*1\r\n$16385\r\n", &limits),
        "Protocol error: unauthenticated bulk length"
    );
    assert_eq!(
        error_text_within(b"*2147483648\r\n", &limits),
        "Protocol error: invalid multibulk length"
    );
    assert_eq!(
        error_text_within(b"*1\r\n$536870913\r\n", &limits),
        "Protocol error: invalid bulk length"
    );
    assert_eq!(parse_pieces([&b"*10\r\n$16384\r\n"[..]], &limits), (vec![], None));
}

#[test]
fn a_frame_of_almost_4_gib_is_refused() {
    let limits = Limits {
        bulk_bytes_max: usize::MAX,
        ..Limits::default()
    };
    assert_eq!(
        error_text_within(b"*1\r\n$4294967296\r\n", &limits),
        "Protocol error: too big request"
    );
    assert_eq!(
        error_text_within(b"*1\r\n$9223372036854775807\r\n", &limits),
        "Protocol error: too big request"
    );
    // 4 + 13 bytes come before the bulk string and 2 after it.
    assert_eq!(
        error_text_within(b"*1\r\n$4278190061\r\n", &limits),
        "Protocol error: too big request"
    );
    assert_eq!(parse_pieces([&b"*1\r\n$4278190060\r\n"[..]], &limits), (vec![], None));
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): enough for test input, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The seed in CORELANE_TEST_SEED, or a new one; printed, so that a failure can be replayed.
fn seed() -> u64 {
    let seed = match std::env::var("CORELANE_TEST_SEED") {
        Ok(text) => text.parse().expect("CORELANE_TEST_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH
            .elapsed()
            .expect("the clock is after 1970")
            .as_nanos() as u64,
    };
    println!("replay with CORELANE_TEST_SEED={seed}");
    seed
}

#[test]
fn random_bytes_never_panic_and_mean_the_same_wherever_they_are_cut() {
    const WORDS: [&[u8]; 16] = [
        b"*",
        b"$",
        b"\r\n",
        b"\r",
        b"\n",
        b"1",
        b"3",
        b"10",
        b"-1",
        b"0",
        b"*1\r\n$4\r\nPING\r\n",
        b"$3\r\nabc\r\n",
        b"\"",
        b"'",
        b"\\x",
        b" ",
    ];
    let mut random = Random(seed());
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(24) {
            match random.below(8) {
                0 => bytes.push(random.next() as u8),
                _ => bytes.extend_from_slice(WORDS[random.below(WORDS.len())]),
            }
        }
        let limits = Limits {
            bulk_bytes_max: [2, 1000][random.below(2)],
            arguments_max: [2, 1000][random.below(2)],
            authenticated: random.below(2) == 0,
        };
        let whole = parse_pieces([&bytes[..]], &limits);
        let piece_bytes = 1 + random.below(5);
        let cut = parse_pieces(bytes.chunks(piece_bytes), &limits);
        assert_eq!(whole, cut, "{} in pieces of {piece_bytes}", bytes.escape_ascii());
    }
}
