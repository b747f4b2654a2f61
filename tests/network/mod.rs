//! The network executors over real sockets: what clients may do to them, and what must not reach the other clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::client::REPLY_SECONDS_MAX;
use crate::harness::server::{Server, allowed_cpus};

mod addresses;
mod backpressure;
mod busy_polling;
mod clients;
mod cold_reads;
mod connections;
mod cuts;
mod deadlines;
mod fairness;
mod held_executor;
mod large_replies;
mod large_values;
mod limits;
mod order;
mod pause;
mod protections;
mod pubsub;
mod real_clients;
#[cfg(feature = "fault-injection")]
mod second_executor;
mod slow_readers;
#[cfg(feature = "fault-injection")]
mod stalled_executors;
mod stalls;
mod tracking;
mod transactions;

/// One command as an array of bulk strings.
fn request(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A connection without any protocol.
fn raw(server: &Server) -> TcpStream {
    raw_at(server.address())
}

/// The same to an address.
fn raw_at(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    let timeout = Some(Duration::from_secs(REPLY_SECONDS_MAX));
    stream.set_nodelay(true).expect("a TCP socket has the option");
    stream.set_read_timeout(timeout).expect("a socket has the option");
    stream.set_write_timeout(timeout).expect("a socket has the option");
    stream
}

/// Sends bytes and reads as many as are expected; panics when they are others.
fn exchange(stream: &mut TcpStream, sent: &[u8], expected: &[u8]) {
    stream.write_all(sent).expect("the server reads");
    expect(stream, expected);
}

/// Reads as many bytes as are expected; panics when they are others.
fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    let mut filled = 0;
    while filled < got.len() {
        match stream.read(&mut got[filled..]) {
            Ok(count) if count > 0 => filled += count,
            end => panic!(
                "{} of {} bytes came, then {end:?}: {:?}",
                filled,
                expected.len(),
                shown(&got[..filled])
            ),
        }
    }
    assert_eq!(shown(&got), shown(expected));
}

/// Bytes in a form for people; of many only the first.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2000;
    let mut text = bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii().to_string();
    if bytes.len() > SHOWN_MAX {
        let hash = bytes
            .iter()
            .fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        text.push_str(&format!("… {} bytes, hash {hash:x}", bytes.len()));
    }
    text
}

/// Flags for one executor with both roles and one shard.
fn one_executor() -> Vec<String> {
    let cpu = allowed_cpus()[0].to_string();
    ["--shards", "1", "--network-cores", &cpu, "--storage-cores", &cpu]
        .map(str::to_owned)
        .to_vec()
}

/// Flags for one executor with both roles and four shards.
fn four_shards_of_one_executor() -> Vec<String> {
    let cpu = allowed_cpus()[0].to_string();
    ["--shards", "4", "--network-cores", &cpu, "--storage-cores", &cpu]
        .map(str::to_owned)
        .to_vec()
}

/// Flags for a network executor and a storage executor of one shard, on two cores if there are two.
fn separate_executors() -> Vec<String> {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    ["--shards", "1", "--network-cores", &first, "--storage-cores", &last]
        .map(str::to_owned)
        .to_vec()
}

/// Flags for four shards on two executors with both roles (one if there is one CPU): keys lie on several executors.
fn several_executors() -> Vec<String> {
    let cpus = allowed_cpus();
    let list = match (cpus[0], cpus[cpus.len() - 1]) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first},{last}"),
    };
    ["--shards", "4", "--network-cores", &list, "--storage-cores", &list]
        .map(str::to_owned)
        .to_vec()
}

/// Whether there are two CPUs to put two executors on; if not, says that the test is skipped.
fn has_two_cpus(test: &str) -> bool {
    let has = allowed_cpus().len() >= 2;
    if !has {
        println!("{test} was skipped: it needs two CPUs, and this process may use one.");
    }
    has
}
