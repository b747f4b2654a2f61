//! Clients that do not read their replies cannot eat the server's memory, and a client that reads late loses nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{one_executor, raw, request, separate_executors};
use crate::harness::client::Client;
use crate::harness::observe::{info_number, resident_bytes};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

const MIB: u64 = 1 << 20;

/// What a server may hold for one client beyond its output limit: full boxes on their way (16 of 4 MiB and one of each
/// executor), the output buffer while it grows (the old half and the new), and what the allocator keeps for later.
const IN_FLIGHT_BYTES_MAX: u64 = 400 * MIB;

#[test]
fn a_client_that_never_reads_is_disconnected_and_the_others_are_served() {
    let _alone = crate::harness::process::measures();
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder()
            .flags(&flags)
            .flags(&["--client-output-buffer-limit", "normal 16mb 8mb 10"])
            .start();
        let mut other = server.connect();
        set_large_value(&mut other, 1);
        let base_bytes = resident_bytes(server.process().pid());

        let mut greedy = raw(&server);
        let pipeline = request(&["GET", "large-0"]).repeat(1000);
        let closed = AtomicBool::new(false);
        let (mut peak_bytes, mut slowest) = (0, Duration::ZERO);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while greedy.write_all(&pipeline).is_ok() {}
                closed.store(true, Ordering::Release);
            });
            let disconnected = wait_for(|| {
                let began = Instant::now();
                assert_eq!(other.command(&["GET", "small"]).render(), "(nil)");
                slowest = slowest.max(began.elapsed());
                peak_bytes = peak_bytes.max(resident_bytes(server.process().pid()));
                closed.load(Ordering::Acquire)
            });
            assert!(disconnected, "a client that reads nothing may go on sending");
        });
        let held_bytes = peak_bytes.saturating_sub(base_bytes);
        println!(
            "{} MiB held for a client that does not read, slowest other reply {slowest:?}",
            held_bytes / MIB
        );
        assert!(held_bytes < IN_FLIGHT_BYTES_MAX, "{} MiB were held", held_bytes / MIB);
        // What the client had out before it was found out is run, about 16 GiB of replies for nobody: the others wait
        // for that once.
        assert!(slowest < Duration::from_secs(5), "another client waited {slowest:?}");
        let disconnections = info_number(&mut other, "stats", "client_output_buffer_limit_disconnections");
        assert_eq!(disconnections, 1);
        assert!(wait_for(|| info_number(&mut other, "clients", "connected_clients") == 1));
    }
}

#[test]
fn a_client_over_the_soft_limit_is_disconnected_after_its_time() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--client-output-buffer-limit", "normal 1gb 2mb 1"])
        .start();
    let mut other = server.connect();
    set_large_value(&mut other, 1);
    let mut greedy = raw(&server);
    let began = Instant::now();
    // More than the kernel's socket buffers take, far below the hard limit.
    greedy
        .write_all(&request(&["GET", "large-0"]).repeat(60))
        .expect("the server reads");
    let disconnections = |other: &mut Client| info_number(other, "stats", "client_output_buffer_limit_disconnections");
    assert!(wait_for(|| disconnections(&mut other) == 1));
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "it went after {:?}",
        began.elapsed()
    );
    assert!(wait_for(|| info_number(&mut other, "clients", "connected_clients") == 1));
}

#[test]
fn a_client_that_reads_late_gets_every_reply_in_order() {
    let _alone = crate::harness::process::measures();
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut other = server.connect();
        const VALUES: usize = 16;
        const REPLIES: usize = 160;
        set_large_value(&mut other, VALUES);

        let mut late = TcpStream::connect(server.address()).expect("the server accepts");
        SockRef::from(&late)
            .set_recv_buffer_size(64 * 1024)
            .expect("a socket has the option");
        late.set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket has the option");
        let keys = (0..REPLIES).map(|number| format!("large-{}", number % VALUES));
        late.write_all(&keys.flat_map(|key| request(&["GET", &key])).collect::<Vec<u8>>())
            .expect("the server reads");
        // Replies pile up in the server, all of them: it is not the socket that is slow to send.
        let waiting = REPLIES as u64 * MIB * 9 / 10;
        let piled_up = wait_for(|| info_number(&mut other, "clients", "client_recent_max_output_buffer") >= waiting);
        assert!(piled_up, "the replies do not wait in the output buffer");

        for number in 0..REPLIES {
            expect_large_value(&mut late, number % VALUES);
        }
        late.write_all(b"PING\r\n").expect("the server reads");
        let mut pong = [0; 7];
        late.read_exact(&mut pong).expect("nothing else comes");
        assert_eq!(&pong, b"+PONG\r\n");
    }
}

#[test]
fn a_client_that_is_always_behind_costs_no_more_memory_the_longer_it_stays() {
    let _alone = crate::harness::process::measures();
    const BEHIND: usize = 900;
    const REPLIES: usize = 20_000;
    const VALUE_BYTES: usize = 64 * 1024;
    let server = Server::builder().flags(&one_executor()).start();
    let mut other = server.connect();
    other.command(&[b"SET".as_slice(), b"value", &vec![b'v'; VALUE_BYTES]]);
    let base_bytes = resident_bytes(server.process().pid());

    let mut stream = raw(&server);
    let get = request(&["GET", "value"]);
    let mut reply = vec![0; format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2];
    stream.write_all(&get.repeat(BEHIND)).expect("the server reads");
    let mut peak_bytes = 0;
    for number in 0..REPLIES {
        stream.read_exact(&mut reply).expect("every reply comes");
        if number < REPLIES - BEHIND {
            stream.write_all(&get).expect("the server reads");
        }
        if number % 1000 == 0 {
            peak_bytes = peak_bytes.max(resident_bytes(server.process().pid()));
        }
    }
    let held_bytes = peak_bytes.saturating_sub(base_bytes);
    println!(
        "{} MiB held for a client that is 56 MiB behind, of 1.2 GiB sent",
        held_bytes / MIB
    );
    assert!(held_bytes < 300 * MIB, "{} MiB were held", held_bytes / MIB);
}

/// Stores values of 1 MiB at `large-0`, `large-1`…, each of its number's letter.
fn set_large_value(client: &mut Client, count: usize) {
    for number in 0..count {
        let key = format!("large-{number}");
        let reply = client.command(&[b"SET".as_slice(), key.as_bytes(), &vec![letter(number); MIB as usize]]);
        assert_eq!(reply.render(), "OK");
    }
}

fn letter(number: usize) -> u8 {
    b'a' + (number % 26) as u8
}

/// Reads one reply with a value of [`set_large_value`].
fn expect_large_value(stream: &mut TcpStream, number: usize) {
    let head = format!("${MIB}\r\n");
    let mut reply = vec![0; head.len() + MIB as usize + 2];
    if let Err(error) = stream.read_exact(&mut reply) {
        let why = if error.kind() == ErrorKind::WouldBlock {
            "nothing comes"
        } else {
            "the connection ended"
        };
        panic!("{why} in place of value {number}: {error}");
    }
    assert!(reply.starts_with(head.as_bytes()) && reply.ends_with(b"\r\n"));
    let value = &reply[head.len()..reply.len() - 2];
    assert!(
        value.iter().all(|byte| *byte == letter(number)),
        "another value came in place of {number}"
    );
}
