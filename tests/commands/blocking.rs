//! Commands that wait, by several named connections at once: each scenario is played against Corelane in three shapes
//! and against the machine's redis-server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Shape;
use crate::harness::client::Client;
use crate::harness::observe::{cpu_ticks, info_number, open_files_max};
use crate::harness::process::wait_for;
use crate::harness::server::Server;
use crate::harness::transcript::{CORELANE_BEHAVES_AS, Version};

/// A server under test, and which Redis it is or behaves as.
struct Stage {
    address: SocketAddr,
    version: Version,
}

impl Stage {
    fn client(&self) -> Client {
        Client::connect(self.address).expect("the server accepts")
    }

    /// A client that waits in a command: it is the `nth` that does.
    fn waits(&self, line: &str, nth: u64) -> Client {
        let mut client = self.client();
        send(&mut client, line);
        self.wait_until_blocked(nth);
        client
    }

    /// Waits until as many clients wait in blocking commands.
    fn wait_until_blocked(&self, count: u64) {
        let mut observer = self.client();
        let mut blocked = 0;
        let reached = wait_for(|| {
            blocked = info_number(&mut observer, "clients", "blocked_clients");
            blocked == count
        });
        assert!(reached, "{blocked} clients wait, and {count} should");
    }

    /// Waits until nothing is kept of any command that waited, as far as the server tells.
    fn wait_until_nothing_is_kept(&self) {
        self.wait_until_blocked(0);
        self.wait_until_keys_wait(0);
    }

    /// Waits until as many keys are waited for, where the server tells.
    fn wait_until_keys_wait(&self, count: u64) {
        if self.is_before_7_2() {
            return self.wait_until_blocked(count.min(1));
        }
        let mut observer = self.client();
        let mut keys = 0;
        let reached = wait_for(|| {
            keys = info_number(&mut observer, "clients", "total_blocking_keys");
            keys == count
        });
        assert!(reached, "{keys} keys are waited for, and {count} should be");
    }

    /// Whether it is a Redis from before 7.2, which words some errors otherwise.
    fn is_before_7_2(&self) -> bool {
        self.version < CORELANE_BEHAVES_AS
    }
}

fn send(client: &mut Client, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    client.send(&words).expect("the server reads");
}

/// A command's reply, on one line.
fn run(client: &mut Client, line: &str) -> String {
    send(client, line);
    reply(client)
}

/// The next reply, on one line.
fn reply(client: &mut Client) -> String {
    let value = client.read().expect("the server answers");
    let lines: Vec<String> = value.render().lines().map(|line| line.trim().to_owned()).collect();
    lines.join(" ")
}

/// A test of each scenario on each server.
macro_rules! scenarios {
    ($($name:ident)*) => {
        $(
            mod $name {
                use super::{Shape, Stage};
                use crate::harness::redis::RedisOracle;

                #[test]
                fn on_one_shard() {
                    super::play_on_corelane(super::play::$name, Shape::OneShard);
                }

                #[test]
                fn on_four_shards_of_two_executors_with_both_roles() {
                    super::play_on_corelane(super::play::$name, Shape::FourShardsBothRoles);
                }

                #[test]
                fn on_four_shards_with_separate_executors() {
                    super::play_on_corelane(super::play::$name, Shape::FourShardsSeparateRoles);
                }

                #[test]
                fn on_redis() {
                    if let Some(redis) = RedisOracle::start() {
                        super::play::$name(&Stage { address: redis.address(), version: redis.version() });
                    }
                }
            }
        )*
    };
}

fn play_on_corelane(scenario: fn(&Stage), shape: Shape) {
    let server = Server::builder().flags(&shape.flags()).start();
    scenario(&Stage {
        address: server.address(),
        version: CORELANE_BEHAVES_AS,
    });
}

scenarios! {
    first_come_first_served
    one_push_of_many_serves_many
    each_of_several_keys_can_wake
    the_first_key_that_has_something_is_taken
    moves_wake_each_other
    moves_between_any_keys_wait_in_line
    what_a_move_waits_for_is_not_taken_by_others
    a_move_between_any_keys_ends_its_wait
    only_the_right_type_wakes
    many_commands_make_a_key
    sorted_sets_wake_too
    readers_of_a_stream_all_get_an_entry
    a_group_delivers_an_entry_once
    a_group_that_is_gone_ends_the_wait
    a_client_that_leaves_takes_nothing
    client_unblock_ends_a_wait
    of_pushes_at_once_one_is_taken
    a_pause_holds_what_would_wake
    what_follows_waits_too
    a_wait_ends_in_time
    waiting_clients_are_listed
}

mod play {
    use super::{Duration, Instant, Stage, reply, run, send};

    pub(super) fn first_come_first_served(stage: &Stage) {
        let mut main = stage.client();
        let mut first = stage.waits("BLPOP list 0", 1);
        let mut second = stage.waits("BRPOP other list 0", 2);
        let mut third = stage.waits("BLMPOP 0 1 list LEFT COUNT 10", 3);
        assert_eq!(run(&mut main, "RPUSH list 1"), "(integer) 1");
        assert_eq!(reply(&mut first), "1) \"list\" 2) \"1\"");
        assert_eq!(run(&mut main, "RPUSH list 2"), "(integer) 1");
        assert_eq!(reply(&mut second), "1) \"list\" 2) \"2\"");
        assert_eq!(run(&mut main, "RPUSH list 3 4"), "(integer) 2");
        assert_eq!(reply(&mut third), "1) \"list\" 2) 1) \"3\" 2) \"4\"");
        assert_eq!(run(&mut main, "EXISTS list"), "(integer) 0");
        stage.wait_until_blocked(0);
    }

    pub(super) fn one_push_of_many_serves_many(stage: &Stage) {
        let mut main = stage.client();
        let mut first = stage.waits("BLPOP list 0", 1);
        let mut second = stage.waits("BRPOP list 0", 2);
        let mut third = stage.waits("BLPOP list 0", 3);
        // The length is that before anybody was served.
        assert_eq!(run(&mut main, "RPUSH list a b c d"), "(integer) 4");
        assert_eq!(reply(&mut first), "1) \"list\" 2) \"a\"");
        assert_eq!(reply(&mut second), "1) \"list\" 2) \"d\"");
        assert_eq!(reply(&mut third), "1) \"list\" 2) \"b\"");
        assert_eq!(run(&mut main, "LRANGE list 0 -1"), "1) \"c\"");
    }

    pub(super) fn each_of_several_keys_can_wake(stage: &Stage) {
        let mut main = stage.client();
        // The same client again and again: an answer leaves nothing behind on the other executors.
        let mut waiter = stage.client();
        for round in 0..3 {
            for key in ["d", "a", "c", "b", "e"] {
                send(&mut waiter, "BLPOP a b c d a e 0");
                stage.wait_until_blocked(1);
                assert_eq!(run(&mut main, &format!("RPUSH {key} {round}")), "(integer) 1");
                assert_eq!(reply(&mut waiter), format!("1) \"{key}\" 2) \"{round}\""));
                for other in ["a", "b", "c", "d", "e"] {
                    assert_eq!(run(&mut main, &format!("RPUSH {other} x")), "(integer) 1", "{other}");
                    assert_eq!(run(&mut main, &format!("LPOP {other}")), "\"x\"");
                }
            }
        }
        // Without meeting what is left, by a push, it goes too.
        for _ in 0..3 {
            send(&mut waiter, "BLPOP a b c d e 0");
            stage.wait_until_blocked(1);
            run(&mut main, "RPUSH e x");
            reply(&mut waiter);
        }
        stage.wait_until_nothing_is_kept();
    }

    pub(super) fn the_first_key_that_has_something_is_taken(stage: &Stage) {
        let mut main = stage.client();
        run(&mut main, "RPUSH b 1");
        run(&mut main, "RPUSH c 2");
        run(&mut main, "RPUSH d 3");
        assert_eq!(run(&mut main, "BLPOP a b c d 0"), "1) \"b\" 2) \"1\"");
        assert_eq!(run(&mut main, "BLMPOP 0 4 d c b a LEFT"), "1) \"d\" 2) 1) \"3\"");
        assert_eq!(run(&mut main, "BRPOP a b c d 0"), "1) \"c\" 2) \"2\"");
        assert_eq!(run(&mut main, "SET c string"), "OK");
        assert_eq!(
            run(&mut main, "BRPOP a b c d 0"),
            "(error) WRONGTYPE Operation against a key holding the wrong kind of value"
        );
        stage.wait_until_blocked(0);
        assert_eq!(run(&mut main, "RPUSH a 1"), "(integer) 1");
        assert_eq!(run(&mut main, "LLEN a"), "(integer) 1");
    }

    pub(super) fn moves_wake_each_other(stage: &Stage) {
        let mut main = stage.client();
        let mut first = stage.waits("BLMOVE {t}1 {t}2 LEFT RIGHT 0", 1);
        let mut second = stage.waits("BRPOPLPUSH {t}2 {t}3 0", 2);
        let mut third = stage.waits("BLPOP {t}3 0", 3);
        assert_eq!(run(&mut main, "RPUSH {t}1 x y"), "(integer) 2");
        assert_eq!(reply(&mut first), "\"x\"");
        assert_eq!(reply(&mut second), "\"x\"");
        assert_eq!(reply(&mut third), "1) \"{t}3\" 2) \"x\"");
        assert_eq!(run(&mut main, "LRANGE {t}1 0 -1"), "1) \"y\"");
        assert_eq!(run(&mut main, "EXISTS {t}2 {t}3"), "(integer) 0");
        // A target of the wrong type fails its waiter, and the element is the next one's.
        let mut wrong = stage.waits("BLMOVE {t}4 {t}5 LEFT LEFT 0", 1);
        let mut right = stage.waits("BLPOP {t}4 0", 2);
        assert_eq!(run(&mut main, "SET {t}5 string"), "OK");
        assert_eq!(run(&mut main, "RPUSH {t}4 z"), "(integer) 1");
        assert_eq!(
            reply(&mut wrong),
            "(error) WRONGTYPE Operation against a key holding the wrong kind of value"
        );
        assert_eq!(reply(&mut right), "1) \"{t}4\" 2) \"z\"");
    }

    pub(super) fn moves_between_any_keys_wait_in_line(stage: &Stage) {
        let mut main = stage.client();
        for (source, target, third) in [("a", "b", "c"), ("b", "a", "d"), ("c", "d", "e"), ("e", "a", "b")] {
            let mut waiters = [
                stage.waits(&format!("BLMOVE {source} {target} LEFT RIGHT 0"), 1),
                stage.waits(&format!("BRPOP {source} 0"), 2),
                stage.waits(&format!("BRPOPLPUSH {source} {third} 0"), 3),
                stage.waits(&format!("BLMOVE {source} {third} LEFT RIGHT 0"), 4),
                stage.waits(&format!("BLPOP {third} 0"), 5),
            ];
            assert_eq!(run(&mut main, &format!("RPUSH {source} 1 2 3 4 5")), "(integer) 5");
            let replies: Vec<String> = waiters.iter_mut().map(reply).collect();
            let popped = |key: &str, element: &str| format!("1) \"{key}\" 2) \"{element}\"");
            let expected = ["\"1\"", &popped(source, "5"), "\"4\"", "\"2\"", &popped(third, "4")];
            assert_eq!(replies, expected, "{source} {target} {third}");
            for (key, left) in [(source, "3"), (target, "1"), (third, "2")] {
                assert_eq!(run(&mut main, &format!("LRANGE {key} 0 -1")), format!("1) \"{left}\""));
                run(&mut main, &format!("DEL {key}"));
            }
        }
        // One's target is the next one's source.
        let mut first = stage.waits("BLMOVE a b LEFT RIGHT 0", 1);
        let mut second = stage.waits("BLMOVE b c LEFT RIGHT 0", 2);
        let mut third = stage.waits("BLMOVE c d LEFT RIGHT 0", 3);
        assert_eq!(run(&mut main, "RPUSH a x"), "(integer) 1");
        for waiter in [&mut first, &mut second, &mut third] {
            assert_eq!(reply(waiter), "\"x\"");
        }
        assert_eq!(run(&mut main, "LRANGE d 0 -1"), "1) \"x\"");
        assert_eq!(run(&mut main, "EXISTS a b c"), "(integer) 0");
        // A target of the wrong type fails its waiter, and the element is the next one's.
        for target in ["b", "c", "d"] {
            assert_eq!(run(&mut main, &format!("SET {target} string")), "OK");
            let mut wrong = stage.waits(&format!("BLMOVE a {target} LEFT LEFT 0"), 1);
            let mut right = stage.waits("BLPOP a 0", 2);
            assert_eq!(run(&mut main, "RPUSH a z"), "(integer) 1");
            assert_eq!(
                reply(&mut wrong),
                "(error) WRONGTYPE Operation against a key holding the wrong kind of value"
            );
            assert_eq!(reply(&mut right), "1) \"a\" 2) \"z\"");
        }
        stage.wait_until_nothing_is_kept();
    }

    /// Once the push is answered, its element is the waiter's.
    pub(super) fn what_a_move_waits_for_is_not_taken_by_others(stage: &Stage) {
        let mut main = stage.client();
        let keys = ["a", "b", "c", "d", "e"];
        for (round, key) in keys.iter().cycle().take(50).enumerate() {
            let target = keys[(round * 3 + 1) % keys.len()];
            if target == *key {
                continue;
            }
            let mut waiter = stage.waits(&format!("BLMOVE {key} {target} LEFT RIGHT 0"), 1);
            send(&mut main, &format!("RPUSH {key} its rest"));
            send(&mut main, &format!("LPOP {key}"));
            send(&mut main, &format!("LPOP {key}"));
            assert_eq!(reply(&mut main), "(integer) 2");
            assert_eq!(reply(&mut main), "\"rest\"");
            assert_eq!(reply(&mut main), "(nil)");
            assert_eq!(reply(&mut waiter), "\"its\"");
            assert_eq!(run(&mut main, &format!("LPOP {target}")), "\"its\"");
        }
        // A transaction leaves what is there at its end.
        let mut waiter = stage.waits("BLMOVE a b LEFT RIGHT 0", 1);
        for line in [
            "MULTI",
            "RPUSH a 1",
            "DEL a",
            "SET a string",
            "EXEC",
            "DEL a",
            "RPUSH a 2",
        ] {
            run(&mut main, line);
        }
        assert_eq!(reply(&mut waiter), "\"2\"");
    }

    pub(super) fn a_move_between_any_keys_ends_its_wait(stage: &Stage) {
        let mut main = stage.client();
        for (source, target) in [("a", "b"), ("a", "c"), ("a", "d"), ("a", "e")] {
            let began = Instant::now();
            let moved = run(&mut main, &format!("BLMOVE {source} {target} LEFT LEFT 0.05"));
            assert_eq!(moved, "(nil)");
            let took = began.elapsed();
            assert!(took >= Duration::from_millis(50), "{took:?}");
            // One that leaves takes nothing.
            drop(stage.waits(&format!("BLMOVE {source} {target} LEFT LEFT 0"), 1));
            stage.wait_until_blocked(0);
            let mut waiter = stage.client();
            let id = run(&mut waiter, "CLIENT ID");
            send(&mut waiter, &format!("BLMOVE {source} {target} LEFT LEFT 0"));
            stage.wait_until_blocked(1);
            let unblock = format!("CLIENT UNBLOCK {} ERROR", id.trim_start_matches("(integer) "));
            assert_eq!(run(&mut main, &unblock), "(integer) 1");
            assert_eq!(
                reply(&mut waiter),
                "(error) UNBLOCKED client unblocked via CLIENT UNBLOCK"
            );
            assert_eq!(run(&mut main, &format!("RPUSH {source} x")), "(integer) 1");
            assert_eq!(run(&mut main, &format!("LPOP {source}")), "\"x\"");
            assert_eq!(run(&mut main, &format!("EXISTS {source} {target}")), "(integer) 0");
        }
        stage.wait_until_nothing_is_kept();
    }

    pub(super) fn only_the_right_type_wakes(stage: &Stage) {
        let mut main = stage.client();
        let mut list = stage.waits("BLPOP key 0", 1);
        let mut set = stage.waits("BZPOPMAX key 0", 2);
        let mut stream = stage.waits("XREAD BLOCK 0 STREAMS key $", 3);
        for (made, gone) in [
            ("SET key 1", "DEL key"),
            ("SADD key 1", "SPOP key"),
            ("HSET key 1 1", "HDEL key 1"),
        ] {
            run(&mut main, made);
            run(&mut main, gone);
        }
        stage.wait_until_blocked(3);
        run(&mut main, "XADD key 1-1 f v");
        assert_eq!(
            reply(&mut stream),
            "1) 1) \"key\" 2) 1) 1) \"1-1\" 2) 1) \"f\" 2) \"v\""
        );
        run(&mut main, "DEL key");
        run(&mut main, "ZADD key 1 m");
        assert_eq!(reply(&mut set), "1) \"key\" 2) \"m\" 3) \"1\"");
        run(&mut main, "RPUSH key e");
        assert_eq!(reply(&mut list), "1) \"key\" 2) \"e\"");
    }

    pub(super) fn many_commands_make_a_key(stage: &Stage) {
        let mut main = stage.client();
        let mut waiter = stage.client();
        for make in [
            "LPUSH {k}l e",
            "RENAME {k}made {k}l",
            "COPY {k}made {k}l",
            "SORT {k}made BY nothing STORE {k}l",
            "LMOVE {k}made {k}l LEFT LEFT",
        ] {
            run(&mut main, "DEL {k}made");
            run(&mut main, "RPUSH {k}made e");
            send(&mut waiter, "BLPOP {k}l 0");
            stage.wait_until_blocked(1);
            run(&mut main, make);
            assert_eq!(reply(&mut waiter), "1) \"{k}l\" 2) \"e\"", "{make}");
        }
        run(&mut main, "SELECT 1");
        run(&mut main, "RPUSH {k}l moved");
        send(&mut waiter, "BLPOP {k}l 0");
        stage.wait_until_blocked(1);
        run(&mut main, "MOVE {k}l 0");
        assert_eq!(reply(&mut waiter), "1) \"{k}l\" 2) \"moved\"");
        run(&mut main, "RPUSH {k}l swapped");
        send(&mut waiter, "BLPOP {k}l 0");
        stage.wait_until_blocked(1);
        run(&mut main, "SWAPDB 0 1");
        assert_eq!(reply(&mut waiter), "1) \"{k}l\" 2) \"swapped\"");
    }

    pub(super) fn sorted_sets_wake_too(stage: &Stage) {
        let mut main = stage.client();
        let mut first = stage.waits("BZPOPMIN a b c d 0", 1);
        let mut second = stage.waits("BZMPOP 0 2 c d MAX COUNT 2", 2);
        let mut third = stage.waits("BZPOPMAX d 0", 3);
        assert_eq!(run(&mut main, "ZADD d 1 m1 2 m2 3 m3 4 m4"), "(integer) 4");
        assert_eq!(reply(&mut first), "1) \"d\" 2) \"m1\" 3) \"1\"");
        assert_eq!(
            reply(&mut second),
            "1) \"d\" 2) 1) 1) \"m4\" 2) \"4\" 2) 1) \"m3\" 2) \"3\""
        );
        assert_eq!(reply(&mut third), "1) \"d\" 2) \"m2\" 3) \"2\"");
        let mut resp3 = stage.client();
        run(&mut resp3, "HELLO 3");
        send(&mut resp3, "BZPOPMIN a 0");
        stage.wait_until_blocked(1);
        run(&mut main, "ZINCRBY a 1.5 m");
        assert_eq!(reply(&mut resp3), "1) \"a\" 2) \"m\" 3) (double) 1.5");
    }

    pub(super) fn readers_of_a_stream_all_get_an_entry(stage: &Stage) {
        let mut main = stage.client();
        run(&mut main, "XADD {s}1 1-1 f old");
        let mut first = stage.waits("XREAD BLOCK 0 STREAMS {s}1 {s}2 $ $", 1);
        let mut second = stage.waits("XREAD COUNT 1 BLOCK 0 STREAMS {s}2 {s}1 0 $", 2);
        let mut later = stage.waits("XREAD BLOCK 0 STREAMS {s}1 5-0", 3);
        run(&mut main, "XADD {s}1 2-1 f new");
        let entry = "1) 1) \"{s}1\" 2) 1) 1) \"2-1\" 2) 1) \"f\" 2) \"new\"";
        assert_eq!(reply(&mut first), entry);
        assert_eq!(reply(&mut second), entry);
        stage.wait_until_blocked(1);
        // Streams on several executors, none of which is there yet.
        let mut several = stage.waits("XREAD BLOCK 0 STREAMS a b c d 0 $ 0 7-0", 2);
        run(&mut main, "XADD d 7-0 f old");
        run(&mut main, "XADD b 1-0 f new");
        assert_eq!(
            reply(&mut several),
            "1) 1) \"b\" 2) 1) 1) \"1-0\" 2) 1) \"f\" 2) \"new\""
        );
        run(&mut main, "XADD {s}1 5-1 f late");
        assert_eq!(
            reply(&mut later),
            "1) 1) \"{s}1\" 2) 1) 1) \"5-1\" 2) 1) \"f\" 2) \"late\""
        );
    }

    pub(super) fn a_group_delivers_an_entry_once(stage: &Stage) {
        let mut main = stage.client();
        run(&mut main, "XGROUP CREATE s g $ MKSTREAM");
        let mut first = stage.waits("XREADGROUP GROUP g alice BLOCK 0 STREAMS s >", 1);
        let mut second = stage.waits("XREADGROUP GROUP g bob BLOCK 0 STREAMS s >", 2);
        run(&mut main, "XADD s 1-1 f 1");
        assert_eq!(reply(&mut first), "1) 1) \"s\" 2) 1) 1) \"1-1\" 2) 1) \"f\" 2) \"1\"");
        stage.wait_until_blocked(1);
        run(&mut main, "XADD s 2-1 f 2");
        assert_eq!(reply(&mut second), "1) 1) \"s\" 2) 1) 1) \"2-1\" 2) 1) \"f\" 2) \"2\"");
        assert_eq!(
            run(&mut main, "XPENDING s g"),
            "1) (integer) 2 2) \"1-1\" 3) \"2-1\" 4) 1) 1) \"alice\" 2) \"1\" 2) 1) \"bob\" 2) \"1\""
        );
    }

    pub(super) fn a_group_that_is_gone_ends_the_wait(stage: &Stage) {
        let mut main = stage.client();
        let mut waiter = stage.client();
        let gone = "(error) NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option";
        let wrong_type = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
        for (end, error) in [
            ("XGROUP DESTROY s g", gone),
            ("DEL s", gone),
            ("RENAME s {s}2", gone),
            ("SET s string", wrong_type),
            ("FLUSHDB", gone),
            ("FLUSHALL", gone),
            ("SWAPDB 0 3", gone),
            ("PEXPIRE s 1", gone),
        ] {
            run(&mut main, "DEL s");
            run(&mut main, "XGROUP CREATE s g $ MKSTREAM");
            send(&mut waiter, "XREADGROUP GROUP g alice BLOCK 0 STREAMS s >");
            stage.wait_until_blocked(1);
            run(&mut main, end);
            let got = reply(&mut waiter);
            // Before 7.2 it was said otherwise.
            let said_before = stage.is_before_7_2()
                && (got.starts_with("(error) UNBLOCKED") || got.starts_with("(error) NOGROUP") || got == wrong_type);
            assert!(got == error || said_before, "{end}: {got}");
        }
    }

    pub(super) fn a_client_that_leaves_takes_nothing(stage: &Stage) {
        let mut main = stage.client();
        let gone = stage.waits("BLPOP a b c d 0", 1);
        let mut stays = stage.waits("BLPOP a b c d 0", 2);
        drop(gone);
        stage.wait_until_blocked(1);
        drop(stage.waits("BLPOP x y z 0", 2));
        stage.wait_until_blocked(1);
        let mut killed = stage.client();
        let id = run(&mut killed, "CLIENT ID").replace("(integer) ", "");
        send(&mut killed, "BLPOP d 0");
        stage.wait_until_blocked(2);
        assert_eq!(run(&mut main, &format!("CLIENT KILL ID {id}")), "(integer) 1");
        assert!(killed.is_closed());
        stage.wait_until_blocked(1);
        run(&mut main, "RPUSH d 1");
        assert_eq!(reply(&mut stays), "1) \"d\" 2) \"1\"");
        for key in ["a", "b", "c", "d"] {
            assert_eq!(run(&mut main, &format!("RPUSH {key} 1")), "(integer) 1");
            assert_eq!(run(&mut main, &format!("LLEN {key}")), "(integer) 1");
        }
        stage.wait_until_nothing_is_kept();
    }

    pub(super) fn client_unblock_ends_a_wait(stage: &Stage) {
        let mut main = stage.client();
        let mut waiter = stage.client();
        let id = run(&mut waiter, "CLIENT ID").replace("(integer) ", "");
        assert_eq!(run(&mut main, &format!("CLIENT UNBLOCK {id}")), "(integer) 0");
        let error = "(error) UNBLOCKED client unblocked via CLIENT UNBLOCK";
        for (wait, how, answer) in [
            ("BLPOP a b c d 0", "", "(nil)"),
            ("BLPOP a b c d 0", "TIMEOUT", "(nil)"),
            ("BLPOP a b c d 0", "ERROR", error),
            ("BLMOVE {a}1 {a}2 LEFT LEFT 0", "TIMEOUT", "(nil)"),
            ("BZPOPMIN a 0", "error", error),
            ("XREAD BLOCK 0 STREAMS {s}1 {s}2 $ $", "timeout", "(nil)"),
            ("WAIT 1 0", "TIMEOUT", "(integer) 0"),
            ("WAIT 1 0", "ERROR", error),
        ] {
            send(&mut waiter, wait);
            stage.wait_until_blocked(1);
            assert_eq!(
                run(&mut main, &format!("CLIENT UNBLOCK {id} {how}")),
                "(integer) 1",
                "{wait} {how}"
            );
            assert_eq!(reply(&mut waiter), answer, "{wait} {how}");
            assert_eq!(run(&mut main, &format!("CLIENT UNBLOCK {id} {how}")), "(integer) 0");
        }
        stage.wait_until_nothing_is_kept();
        assert_eq!(run(&mut main, "RPUSH a 1"), "(integer) 1");
        assert_eq!(run(&mut main, "LLEN a"), "(integer) 1");
    }

    pub(super) fn of_pushes_at_once_one_is_taken(stage: &Stage) {
        const ROUNDS: usize = 300;
        let mut main = stage.client();
        let mut pushers: Vec<_> = ["a", "b", "c", "d"].map(|key| (key, stage.client())).into();
        let mut waiter = stage.client();
        let id = run(&mut waiter, "CLIENT ID").replace("(integer) ", "");
        let mut unanswered = 0;
        for round in 0..ROUNDS {
            // It waits already, is on its way, or its time is about to be up.
            let timeout = ["0", "0.001", "0"][round % 3];
            send(&mut waiter, &format!("BLPOP a b c d {timeout}"));
            if timeout == "0" && round % 2 == 0 {
                stage.wait_until_keys_wait(4);
            }
            // Two neighbours in each order, so that some arrive on two executors at once.
            pushers.rotate_left(1);
            pushers.swap(0, round % 3);
            for (key, pusher) in &mut pushers {
                send(pusher, &format!("RPUSH {key} x"));
            }
            if round % 5 == 0 {
                run(&mut main, &format!("CLIENT UNBLOCK {id}"));
            }
            pushers.iter_mut().for_each(|(_, pusher)| drop(reply(pusher)));
            let taken = usize::from(reply(&mut waiter) != "(nil)");
            unanswered += 1 - taken;
            let left = run(&mut main, "DEL a b c d");
            assert_eq!(left, format!("(integer) {}", 4 - taken), "round {round}");
        }
        println!("{unanswered} of {ROUNDS} waits were ended by their time or by CLIENT UNBLOCK");
        stage.wait_until_nothing_is_kept();
    }

    pub(super) fn a_pause_holds_what_would_wake(stage: &Stage) {
        let mut main = stage.client();
        let mut late = stage.waits("BLPOP a b c d 0.2", 1);
        let mut waiter = stage.waits("BLPOP a b c d 0", 2);
        run(&mut main, "CLIENT PAUSE 100000 WRITE");
        let mut pusher = stage.client();
        send(&mut pusher, "RPUSH d x");
        // A client that would begin to wait is held as well.
        let mut held = stage.client();
        send(&mut held, "BLPOP d 0");
        assert_eq!(reply(&mut late), "(nil)", "its time ends in the pause");
        assert_eq!(run(&mut main, "EXISTS d"), "(integer) 0");
        run(&mut main, "CLIENT UNPAUSE");
        assert_eq!(reply(&mut pusher), "(integer) 1");
        assert_eq!(reply(&mut waiter), "1) \"d\" 2) \"x\"");
        run(&mut main, "RPUSH d y");
        assert_eq!(reply(&mut held), "1) \"d\" 2) \"y\"");
    }

    pub(super) fn what_follows_waits_too(stage: &Stage) {
        let mut main = stage.client();
        let mut waiter = stage.client();
        for line in [
            "SET before 1",
            "BLPOP a b c d 0",
            "SET after 1",
            "BLPOP e 0",
            "GET after",
        ] {
            send(&mut waiter, line);
        }
        assert_eq!(reply(&mut waiter), "OK");
        stage.wait_until_blocked(1);
        assert_eq!(run(&mut main, "EXISTS before after"), "(integer) 1");
        run(&mut main, "RPUSH c 1");
        assert_eq!(reply(&mut waiter), "1) \"c\" 2) \"1\"");
        assert_eq!(reply(&mut waiter), "OK");
        stage.wait_until_blocked(1);
        // One that leaves is noticed although there is more of it to be run.
        drop(waiter);
        stage.wait_until_blocked(0);
        run(&mut main, "RPUSH e 1");
        assert_eq!(run(&mut main, "LLEN e"), "(integer) 1");
    }

    pub(super) fn a_wait_ends_in_time(stage: &Stage) {
        /// Late for a timer, and enough for a busy machine.
        const LATE_MAX: Duration = Duration::from_secs(5);
        let mut client = stage.client();
        for (line, wait_ms) in [
            ("BLPOP a b c d 0.05", 50),
            ("BLPOP a 0.0012", 2),
            ("BLMOVE {a}1 {a}2 LEFT LEFT 0.02", 20),
            ("BZMPOP 0.03 3 a b c MIN", 30),
            ("XREAD BLOCK 25 STREAMS {s}1 {s}2 0 0", 25),
            ("WAIT 1 15", 15),
        ] {
            let began = Instant::now();
            let answer = run(&mut client, line);
            let took = began.elapsed();
            let expected = if line.starts_with("WAIT") {
                "(integer) 0"
            } else {
                "(nil)"
            };
            assert_eq!(answer, expected, "{line}");
            // Redis counts whole milliseconds of its clock.
            assert!(
                took >= Duration::from_millis(wait_ms - 1) && took < LATE_MAX,
                "{line} took {took:?}"
            );
        }
        // A later deadline does not hide a nearer one.
        let mut late = stage.waits("BLPOP a 100", 1);
        assert_eq!(run(&mut client, "BLPOP a 0.01"), "(nil)");
        run(&mut client, "RPUSH a 1");
        assert_eq!(reply(&mut late), "1) \"a\" 2) \"1\"");
    }

    pub(super) fn waiting_clients_are_listed(stage: &Stage) {
        let mut main = stage.client();
        let mut waiter = stage.client();
        let id = run(&mut waiter, "CLIENT ID").replace("(integer) ", "");
        let flags = |main: &mut super::Client| {
            let line = run(main, &format!("CLIENT LIST ID {id}"));
            let flags = line.split(' ').find_map(|field| field.strip_prefix("flags="));
            flags.map(str::to_owned)
        };
        assert_eq!(flags(&mut main).as_deref(), Some("N"));
        send(&mut waiter, "BLPOP a b c d 0");
        stage.wait_until_blocked(1);
        assert_eq!(flags(&mut main).as_deref(), Some("b"));
        run(&mut main, "RPUSH d 1");
        reply(&mut waiter);
        assert_eq!(flags(&mut main).as_deref(), Some("N"));
    }
}

/// Where writes wait for the disk, a move between two shards takes the way of several executors on one, too.
#[test]
fn moves_between_any_keys_wait_where_writes_wait_for_the_disk() {
    for shape in [Shape::FourShardsSeparateRoles, Shape::FourShardsBothRoles] {
        for scenario in [
            play::moves_between_any_keys_wait_in_line,
            play::what_a_move_waits_for_is_not_taken_by_others,
            play::a_move_between_any_keys_ends_its_wait,
        ] {
            let flags = ["--durability", "always"];
            let server = Server::builder().flags(&shape.flags()).flags(&flags).start();
            scenario(&Stage {
                address: server.address(),
                version: CORELANE_BEHAVES_AS,
            });
        }
    }
}

#[test]
fn ten_thousand_waiting_clients_cost_nothing() {
    /// CPU time of all threads that is allowed, of the second that is looked at: housekeeping takes some.
    const CPU_MS_MAX: u64 = 200;
    let _alone = crate::harness::process::measures();
    let count = 10_000.min(open_files_max().saturating_sub(1000));
    let server = Server::builder()
        .flags(&Shape::FourShardsBothRoles.flags())
        .flags(&["--maxclients", "12000"])
        .start();
    let stage = Stage {
        address: server.address(),
        version: CORELANE_BEHAVES_AS,
    };
    let mut waiters: Vec<Client> = Vec::new();
    for number in 0..count {
        let mut waiter = stage.client();
        // Some have sent more behind it.
        let own = format!("own{number}");
        send(&mut waiter, &format!("BLPOP {own} all 0"));
        if number % 10 == 0 {
            send(&mut waiter, "PING");
        }
        waiters.push(waiter);
    }
    stage.wait_until_blocked(count as u64);
    let cpu_ms = || cpu_ticks(server.process().pid()) * 10;
    let before = cpu_ms();
    let began = Instant::now();
    // What is measured is that nothing happens for a second.
    assert!(wait_for(|| began.elapsed() >= Duration::from_secs(1)));
    let used = cpu_ms() - before;
    println!("{count} waiting clients used {used} ms of CPU in {:?}", began.elapsed());
    assert!(
        used <= CPU_MS_MAX,
        "{count} waiting clients used {used} ms of CPU in a second"
    );
    let mut main = stage.client();
    for number in [0, count / 2, count - 1] {
        assert_eq!(run(&mut main, &format!("RPUSH own{number} x")), "(integer) 1");
        assert_eq!(reply(&mut waiters[number]), format!("1) \"own{number}\" 2) \"x\""));
    }
    drop(waiters);
    stage.wait_until_blocked(0);
}

#[test]
fn a_shutdown_does_not_wait_for_those_who_wait() {
    /// Below the time that a shutdown gives to replies that are under way.
    const SHUTDOWN_MAX: Duration = Duration::from_secs(4);
    let mut server = Server::builder().flags(&Shape::FourShardsBothRoles.flags()).start();
    let stage = Stage {
        address: server.address(),
        version: CORELANE_BEHAVES_AS,
    };
    let mut waiter = stage.waits("BLPOP a b c d 0", 1);
    let began = Instant::now();
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.process().output());
    assert!(began.elapsed() < SHUTDOWN_MAX, "it took {:?}", began.elapsed());
    assert!(waiter.is_closed());
}

#[test]
fn an_idle_timeout_does_not_close_those_who_wait() {
    let server = Server::builder()
        .flags(&Shape::OneShard.flags())
        .flags(&["--timeout", "1"])
        .start();
    let stage = Stage {
        address: server.address(),
        version: CORELANE_BEHAVES_AS,
    };
    let mut idle = stage.client();
    run(&mut idle, "PING");
    let mut waiter = stage.waits("BLPOP a 0", 1);
    assert!(idle.is_closed());
    run(&mut stage.client(), "RPUSH a 1");
    assert_eq!(reply(&mut waiter), "1) \"a\" 2) \"1\"");
}

#[test]
fn waits_for_the_disk_end_with_its_sync() {
    let flags = [
        Shape::FourShardsBothRoles.flags(),
        vec!["--durability".into(), "interval".into()],
    ]
    .concat();
    let server = Server::builder().flags(&flags).start();
    let mut client = server.connect();
    // What Redis 7.2's documentation says of WAITAOF: the numbers of local logs and of replicas that have it.
    for key in ["a", "b", "c", "d"] {
        run(&mut client, &format!("SET {key} 1"));
    }
    assert_eq!(run(&mut client, "WAITAOF 1 0 0"), "1) (integer) 1 2) (integer) 0");
    assert_eq!(run(&mut client, "WAITAOF 0 0 0"), "1) (integer) 1 2) (integer) 0");
    // There are no replicas: the time runs out.
    assert_eq!(run(&mut client, "WAITAOF 1 1 500"), "1) (integer) 1 2) (integer) 0");
    assert_eq!(
        run(&mut client, "WAITAOF 2 0 0"),
        "(error) ERR value is out of range, value must between 0 and 1"
    );
    assert_eq!(
        run(&mut client, "WAITAOF 0 -1 0"),
        "(error) ERR value is out of range, must be positive"
    );
    assert_eq!(run(&mut client, "WAITAOF 0 0 -1"), "(error) ERR timeout is negative");
}

#[test]
fn nothing_is_on_disk_where_nothing_is_synced() {
    let flags = [
        Shape::FourShardsBothRoles.flags(),
        vec!["--durability".into(), "none".into()],
    ]
    .concat();
    let server = Server::builder().flags(&flags).start();
    let mut client = server.connect();
    run(&mut client, "SET a 1");
    assert_eq!(run(&mut client, "WAITAOF 1 0 20"), "1) (integer) 0 2) (integer) 0");
    assert_eq!(run(&mut client, "WAITAOF 0 0 0"), "1) (integer) 0 2) (integer) 0");
}
