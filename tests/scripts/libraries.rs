//! `bit`, `cjson`, `cmsgpack` and `struct` give the results and the errors that redis-server's give: for the scripts in
//! `libraries.scripts`, a line each, and for random input.

use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::value::Value;
use mlua::{Lua, LuaString};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Shows all that a script returns, with every bit of a number and with a table's entries in its own order, unless that
/// is by the addresses of tables.
const SHOW: &str = r#"local function show(value, depth)
  local kind = type(value)
  if kind == 'number' then return value ~= value and 'nan' or string.format('%.17g', value) end
  if kind == 'string' then
    return '"' .. string.gsub(value, '[^ -~]', function(byte) return '\\' .. string.byte(byte) end) .. '"'
  end
  if kind == 'function' then return kind end
  if kind ~= 'table' then return tostring(value) end
  if depth == 0 then return '{...}' end
  local parts, has_table_key = {}, false
  for key, element in pairs(value) do
    has_table_key = has_table_key or type(key) == 'table'
    parts[#parts + 1] = show(key, depth - 1) .. '=' .. show(element, depth - 1)
  end
  if has_table_key then table.sort(parts) end
  return '{' .. table.concat(parts, ',') .. '}'
end
local function show_all(...)
  local parts = {}
  for place = 1, select('#', ...) do parts[place] = show((select(place, ...)), 50) end
  return table.concat(parts, ' ')
end
return show_all(pcall(function(...) "#;

fn source(script: &str) -> String {
    format!("{SHOW}{script}\nend, unpack(ARGV)))")
}

/// Scripts with their arguments.
type Case = (String, Vec<Vec<u8>>);

fn ours(lua: &Lua, (script, arguments): &Case) -> String {
    let arguments: Vec<LuaString> = arguments
        .iter()
        .map(|argument| lua.create_string(argument).expect("there is memory"))
        .collect();
    lua.globals().set("ARGV", arguments).expect("a global can be set");
    let chunk = lua.load(source(script)).set_name("@user_script");
    let shown: LuaString = chunk.eval().unwrap_or_else(|error| panic!("{script}: {error}"));
    String::from_utf8_lossy(&shown.as_bytes()).into_owned()
}

/// Runs the cases in Lua with the libraries and in redis-server, where it is installed, and compares.
fn compare(cases: &[Case], seed: u64) {
    let lua = Lua::new();
    corelane::scripts::libraries::open(&lua).expect("the libraries can be opened");
    let shown: Vec<String> = cases.iter().map(|case| ours(&lua, case)).collect();
    let Some(redis) = RedisOracle::start() else { return };
    let mut client = Client::connect(redis.address()).expect("redis-server answers");
    for (case, shown) in cases.iter().zip(&shown) {
        let (script, arguments) = case;
        let mut command = vec![b"EVAL".to_vec(), source(script).into_bytes(), b"0".to_vec()];
        command.extend(arguments.iter().cloned());
        let expected = match client.command(&command) {
            Value::Bulk(Some(text)) => String::from_utf8_lossy(&text).into_owned(),
            reply => panic!("{script}: {}", reply.render()),
        };
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| argument.escape_ascii().to_string())
            .collect();
        assert_eq!(*shown, expected, "seed {seed}, {script} with {arguments:?}");
    }
}

#[test]
fn every_script_of_the_list_returns_what_it_returns_in_redis() {
    let scripts = include_str!("libraries.scripts");
    let cases: Vec<Case> = scripts.lines().map(|script| (script.to_owned(), Vec::new())).collect();
    assert!(cases.len() > 300, "the list is there");
    compare(&cases, 0);
}

/// Rounds of random input; `CORELANE_SCRIPT_FUZZ` sets another number.
fn rounds() -> usize {
    let set = std::env::var("CORELANE_SCRIPT_FUZZ")
        .ok()
        .and_then(|text| text.parse().ok());
    set.unwrap_or(1500)
}

fn seed() -> u64 {
    let set = std::env::var("CORELANE_SCRIPT_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = set.unwrap_or_else(rand::random);
    println!("seed {seed}: CORELANE_SCRIPT_SEED={seed} plays it again");
    seed
}

fn compare_random(make: fn(&mut StdRng) -> Case) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let cases: Vec<Case> = (0..rounds()).map(|_| make(&mut random)).collect();
    compare(&cases, seed);
}

fn json(random: &mut StdRng, depth: u32, out: &mut String) {
    const SCALARS: &[&str] = &[
        "0",
        "-0",
        "1",
        "-1.5",
        "1e10",
        "1E-7",
        "123456789012345678",
        "0.1",
        "3.0",
        "1e400",
        "0x1F",
        "-0x.8p2",
        "inf",
        "-Infinity",
        "nan",
        "01",
        "1.",
        "1e",
        "+3",
        "null",
        "true",
        "false",
        "tru",
        "\"\"",
        "\"a\"",
        "\"a b\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\n\\/\\\\\"",
        "\"\\x\"",
        "\"é\"",
        "9007199254740993",
        "0.30000000000000004",
        "1e-5",
        "0.0001",
        "100000000000000",
        "99999999999999.5",
        "1e14",
        "\"1\"",
        "2.5e-324",
    ];
    match random.random_range(0..if depth == 0 { 4 } else { 7 }) {
        4 => {
            out.push('[');
            for place in 0..random.random_range(0..5) {
                if place > 0 {
                    out.push_str([",", " , ", ",\n"].choose(random).expect("there are some"));
                }
                json(random, depth - 1, out);
            }
            out.push(']');
        }
        5 | 6 => {
            out.push('{');
            for place in 0..random.random_range(0..5) {
                if place > 0 {
                    out.push(',');
                }
                let key = ["\"a\"", "\"b\"", "\"1\"", "\"2\"", "\"\"", "\"key \\u0001\""].choose(random);
                out.push_str(key.expect("there are some"));
                out.push_str([":", " : "].choose(random).expect("there are some"));
                json(random, depth - 1, out);
            }
            out.push('}');
        }
        _ => out.push_str(SCALARS.choose(random).expect("there are some")),
    }
}

/// Bytes with a few changes, in most cases none.
fn damaged(random: &mut StdRng, mut bytes: Vec<u8>) -> Vec<u8> {
    while random.random_bool(0.3) && !bytes.is_empty() {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => {
                bytes.remove(at);
            }
            1 => bytes.truncate(at),
            2 => bytes[at] = *b"{}[]\":,\\0\0u \xff".choose(random).expect("there are some"),
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}

#[test]
fn cjson_reads_and_writes_random_texts_as_in_redis() {
    compare_random(|random| {
        let mut text = String::new();
        json(random, 4, &mut text);
        let text = damaged(random, text.into_bytes());
        let script = [
            "return cjson.decode(...)",
            "return cjson.encode(cjson.decode(...))",
            "return cmsgpack.pack(cjson.decode(...))",
            "return cmsgpack.unpack(cmsgpack.pack(cjson.decode(...)))",
            "cjson.decode_invalid_numbers(false) local r = {pcall(cjson.decode, ...)} \
             cjson.decode_invalid_numbers(true) return unpack(r)",
            "cjson.encode_invalid_numbers(true) cjson.encode_sparse_array(true) cjson.encode_number_precision(5) \
             local r = {pcall(function(t) return cjson.encode(cjson.decode(t)) end, ...)} \
             cjson.encode_invalid_numbers(false) cjson.encode_sparse_array(false) cjson.encode_number_precision(14) \
             return unpack(r)",
        ]
        .choose(random);
        (script.expect("there are some").to_string(), vec![text])
    });
}

#[test]
fn cjson_writes_random_tables_as_in_redis() {
    compare_random(|random| {
        let mut script = "local t = {} ".to_owned();
        for _ in 0..random.random_range(0..8) {
            let key = match random.random_range(0..8) {
                0 => "'k'".to_owned(),
                1 => "1.5".to_owned(),
                2 => "true".to_owned(),
                3 => "-1".to_owned(),
                4 => format!("2^{}", random.random_range(0..70)),
                _ => random.random_range(1..14).to_string(),
            };
            let value = match random.random_range(0..6) {
                0 => "{}".to_owned(),
                1 => "{1,{2}}".to_owned(),
                2 => format!("{:e}", f64::from_bits(random.random())),
                3 => "cjson.null".to_owned(),
                _ => format!("{}", random.random::<f64>() * 10f64.powi(random.random_range(-8..20))),
            };
            let value = if value.contains("NaN") || value.contains("inf") {
                "0/0".to_owned()
            } else {
                value
            };
            script.push_str(&format!("t[{key}] = {value} "));
        }
        let result = [
            "return cjson.encode(t)",
            "return cmsgpack.pack(t)",
            "return cmsgpack.unpack(cmsgpack.pack(t))",
        ];
        script.push_str(result.choose(random).expect("there are some"));
        (script, Vec::new())
    });
}

#[test]
fn cmsgpack_reads_random_bytes_as_in_redis() {
    compare_random(|random| {
        let mut bytes = Vec::new();
        for _ in 0..random.random_range(0..12) {
            match random.random_range(0..5) {
                0 => bytes.push(random.random_range(0xc0..=0xdf)),
                1 => bytes.push(random.random_range(0x80..=0x95)),
                2 => bytes.extend([0xa2, b'o', b'k']),
                3 => bytes.push(random.random()),
                _ => bytes.extend_from_slice(&random.random_range(0..4u32).to_be_bytes()),
            }
        }
        let script = match random.random_range(0..4) {
            0 => format!("return cmsgpack.unpack_one(..., {})", random.random_range(-1..8)),
            1 => {
                let (limit, offset) = (random.random_range(-1..5), random.random_range(-1..8));
                format!("return cmsgpack.unpack_limit(..., {limit}, {offset})")
            }
            _ => "return cmsgpack.unpack(...)".to_owned(),
        };
        (script, vec![bytes])
    });
}

#[test]
fn struct_packs_random_formats_as_in_redis() {
    compare_random(|random| {
        let mut format = String::new();
        for _ in 0..random.random_range(1..8) {
            let options = [
                "b", "B", "h", "H", "l", "L", "i", "I", "f", "d", "s", "c", "x", "<", ">", "!", " ", "y", "?",
            ];
            format.push_str(options.choose(random).expect("there are some"));
            if random.random_bool(0.3) {
                format.push_str(&random.random_range(0..20).to_string());
            }
        }
        let (script, arguments) = match random.random_range(0..3) {
            0 => ("return struct.size(...)", Vec::new()),
            1 => {
                let value = |random: &mut StdRng| match random.random_range(0..4) {
                    0 => "text".to_owned(),
                    1 => random.random_range(-300..300).to_string(),
                    2 => random.random::<i64>().to_string(),
                    _ => (random.random::<f64>() * 1e10).to_string(),
                };
                (
                    "return struct.pack(...)",
                    (0..6).map(|_| value(random).into_bytes()).collect(),
                )
            }
            _ => {
                let len = random.random_range(0..40);
                let data: Vec<u8> = (0..len).map(|_| random.random_range(0..6)).collect();
                let mut arguments = vec![data];
                if random.random_bool(0.5) {
                    arguments.push(random.random_range(-2..45).to_string().into_bytes());
                }
                ("return struct.unpack(...)", arguments)
            }
        };
        let mut all = vec![format.into_bytes()];
        all.extend(arguments);
        (script.to_owned(), all)
    });
}

#[test]
fn bit_operations_on_random_numbers_are_those_of_redis() {
    compare_random(|random| {
        let name = [
            "tobit", "tohex", "bnot", "band", "bor", "bxor", "lshift", "rshift", "arshift", "rol", "ror", "bswap",
        ];
        let number = |random: &mut StdRng| match random.random_range(0..5) {
            0 => random.random_range(-40..40).to_string(),
            1 => random.random::<i32>().to_string(),
            2 => random.random::<i64>().to_string(),
            3 => "'7'".to_owned(),
            _ => (random.random::<f64>() * 1e6).to_string(),
        };
        let numbers: Vec<String> = (0..random.random_range(0..4)).map(|_| number(random)).collect();
        let name = name.choose(random).expect("there are some");
        (format!("return bit.{name}({})", numbers.join(", ")), Vec::new())
    });
}
