//! RANDOMKEY: every key comes up, wherever it lies.

use super::Shape;
use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;
use std::collections::BTreeMap;

/// How often each key comes up in so many calls.
fn drawn(client: &mut Client, calls: usize) -> BTreeMap<String, usize> {
    let mut drawn = BTreeMap::new();
    for _ in 0..calls {
        let key = client.command(&["RANDOMKEY"]).text().expect("a key");
        *drawn.entry(key).or_default() += 1;
    }
    drawn
}

#[test]
fn every_key_of_a_crowded_slot_and_beside_it_comes_up() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    // Keys that differ at their ends, at their beginnings, in their lengths; some begin with others.
    let mut keys: Vec<String> = (0..300).map(|number| format!("{{app}}:user:{number}")).collect();
    keys.extend((0..20).map(|len| format!("{{app}}{}", "y".repeat(len))));
    keys.extend((0..20).map(|number| format!("{number}:{{app}}")));
    keys.extend((0..20).map(|number| format!("elsewhere:{number}")));
    for key in &keys {
        client.command(&["SET", key, "v"]);
    }
    let mut seen = BTreeMap::new();
    for _ in 0..40 {
        seen.extend(drawn(&mut client, 1000));
        if seen.len() == keys.len() {
            break;
        }
    }
    let missing: Vec<_> = keys.iter().filter(|key| !seen.contains_key(*key)).collect();
    assert!(missing.is_empty(), "never came up: {missing:?}");
    assert_eq!(seen.len(), keys.len());
}

#[test]
fn keys_of_a_slot_that_is_too_crowded_to_be_read_come_up_about_as_often() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    let names = (0..1000_u32).map(|number| number.wrapping_mul(2_654_435_761));
    for name in names {
        client.command(&["SET", &format!("{{app}}:{name:08x}"), "v"]);
    }
    // Of 4,000 calls, about 982 keys if all are as likely.
    let drawn = drawn(&mut client, 4000);
    assert!(drawn.len() > 900, "{} keys", drawn.len());
}

#[test]
fn keys_that_are_spread_over_the_slots_come_up_about_as_often() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    for keys in [20, 1000] {
        client.command(&["FLUSHALL"]);
        for key in 0..keys {
            client.command(&["SET", &key.to_string(), "v"]);
        }
        let drawn = drawn(&mut client, 20 * keys);
        // 20 each on average, with a deviation of 5 or so.
        let often = drawn.values().filter(|times| (2..=60).contains(*times)).count();
        assert!(often >= keys * 98 / 100, "{drawn:?}");
    }
}

#[test]
fn what_was_deleted_does_not_come_up_and_none_is_no_key() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    assert_eq!(client.command(&["RANDOMKEY"]), Value::Bulk(None));
    let (mut set, mut delete) = (vec!["MSET".to_owned()], vec!["DEL".to_owned()]);
    for number in 0..1000 {
        let key = format!("{{app}}:{number}");
        set.extend([key.clone(), "v".to_owned()]);
        if number != 500 {
            delete.push(key);
        }
    }
    client.command(&set);
    assert_eq!(drawn(&mut client, 100).values().sum::<usize>(), 100);
    client.command(&delete);
    assert_eq!(drawn(&mut client, 20), BTreeMap::from([("{app}:500".to_owned(), 20)]));
}
