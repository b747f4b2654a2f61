//! The reply builder in both protocols.

use corelane::protocol::{Reply, Version, format_double};

/// What `write` writes in RESP2 and in RESP3, escaped.
fn both(write: impl Fn(&mut Reply)) -> [String; 2] {
    [Version::Resp2, Version::Resp3].map(|version| {
        let mut out = b"before|".to_vec();
        write(&mut Reply::new(&mut out, version));
        let written = out.strip_prefix(b"before|").expect("a reply is appended");
        written.escape_ascii().to_string()
    })
}

/// Asserts that `write` writes the same in both protocols.
fn assert_same(write: impl Fn(&mut Reply), expected: &str) {
    assert_eq!(both(write), [expected, expected]);
}

#[test]
fn types_of_resp2_are_the_same_in_both_protocols() {
    assert_same(|reply| reply.ok(), r"+OK\r\n");
    assert_same(|reply| reply.simple("QUEUED"), r"+QUEUED\r\n");
    assert_same(|reply| reply.bulk(b"a\r\n\xff"), r"$4\r\na\r\n\xff\r\n");
    assert_same(|reply| reply.bulk(b""), r"$0\r\n\r\n");
    assert_same(|reply| reply.text("ten bytes!"), r"$10\r\nten bytes!\r\n");
    assert_same(|reply| reply.array(0), r"*0\r\n");
    assert_same(|reply| reply.array(1024), r"*1024\r\n");
    assert_same(|reply| reply.raw(b":1\r\n"), r":1\r\n");
}

#[test]
fn integers_of_every_length_are_written() {
    for value in [
        0,
        7,
        9,
        10,
        42,
        99,
        100,
        101,
        999,
        1000,
        123_456,
        1_000_000_007,
        i64::MAX,
        -1,
        -99,
        i64::MIN,
    ] {
        assert_same(|reply| reply.integer(value), &format!(r":{value}\r\n"));
    }
}

#[test]
fn a_bulk_string_of_any_length_has_its_length_in_front() {
    for length in [9, 10, 99, 100, 12_345, 1_000_000] {
        let mut out = Vec::new();
        Reply::new(&mut out, Version::Resp2).bulk(&vec![b'x'; length]);
        assert!(out.starts_with(format!("${length}\r\nx").as_bytes()));
        assert_eq!(out.len(), 1 + length.to_string().len() + 2 + length + 2);
    }
}

#[test]
fn an_error_stays_one_line() {
    assert_same(|reply| reply.error("ERR syntax error"), r"-ERR syntax error\r\n");
    assert_same(
        |reply| reply.error("ERR unknown command 'a\r\nb'\r\n"),
        r"-ERR unknown command \'a  b\'\r\n",
    );
    assert_same(|reply| reply.error(b"ERR got '\xff'"), r"-ERR got \'\xff\'\r\n");
    assert_same(|reply| reply.error("\n"), r"-\r\n");
}

#[test]
fn types_of_resp3_have_a_resp2_form() {
    assert_eq!(both(|reply| reply.null()), [r"$-1\r\n", r"_\r\n"]);
    assert_eq!(both(|reply| reply.null_array()), [r"*-1\r\n", r"_\r\n"]);
    assert_eq!(both(|reply| reply.map(3)), [r"*6\r\n", r"%3\r\n"]);
    assert_eq!(both(|reply| reply.set(3)), [r"*3\r\n", r"~3\r\n"]);
    assert_eq!(both(|reply| reply.push(3)), [r"*3\r\n", r">3\r\n"]);
    assert_eq!(both(|reply| reply.boolean(true)), [r":1\r\n", r"#t\r\n"]);
    assert_eq!(both(|reply| reply.boolean(false)), [r":0\r\n", r"#f\r\n"]);
    assert_eq!(both(|reply| reply.double(0.1)), [r"$3\r\n0.1\r\n", r",0.1\r\n"]);
    assert_eq!(
        both(|reply| reply.double(f64::NEG_INFINITY)),
        [r"$4\r\n-inf\r\n", r",-inf\r\n"]
    );
    assert_eq!(
        both(|reply| reply.big_number("-123")),
        [r"$4\r\n-123\r\n", r"(-123\r\n"]
    );
    assert_eq!(
        both(|reply| reply.verbatim("txt", b"a\n")),
        [r"$2\r\na\n\r\n", r"=6\r\ntxt:a\n\r\n"]
    );
}

#[test]
fn doubles_are_laid_out_as_redis_7_2_does() {
    let cases: &[(f64, &str)] = &[
        (3.0, "3"),
        (0.0, "0"),
        (-0.0, "-0"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (f64::NAN, "nan"),
        (-f64::NAN, "nan"),
        // Integers up to 2^62 in full, larger ones by their shortest digits.
        (4611686018427387904.0, "4611686018427387904"),
        (9223372036854775808.0, "9223372036854776000"),
        (1e18, "1000000000000000000"),
        (1e19, "1e+19"),
        (1e20, "1e+20"),
        (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (0.000001, "0.000001"),
        (0.0000015, "1.5e-6"),
        (1e-7, "1e-7"),
        (31.4159265358979, "31.4159265358979"),
        (12345.6789, "12345.6789"),
        (12345.678901234, "1.2345678901234e+4"),
        (0.00012345678901234567, "1.2345678901234567e-4"),
        (0.0012345678901234567, "0.0012345678901234567"),
    ];
    for (value, text) in cases {
        assert_eq!(&*format_double(*value), *text);
    }
}

#[test]
fn every_double_reads_back_as_itself() {
    // Steps over all exponents, with odd significands.
    for bits in (1..f64::INFINITY.to_bits()).step_by(0x000f_1234_5678_9abd) {
        let value = f64::from_bits(bits);
        assert_eq!(format_double(value).parse(), Ok(value));
        assert_eq!(format_double(-value).parse(), Ok(-value));
    }
}
