//! Clients that do random things to a server that is killed and started again, and what came of it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::history::{Clock, Ending, Entry};
use crate::harness::client::Client;
use crate::harness::process::{holds_for, wait_for};
use crate::harness::progress::Progress;
use crate::harness::value::Value;
use crate::storage::{Node, Switch};
use crate::transactions::SHARDS;

/// Clients at once: enough to meet on a few keys, few enough for the checkers.
const CLIENTS: usize = 6;

/// What clients do in a life that does not end at a write, all together.
const LIFE_ACTIONS: std::ops::Range<u64> = 300..3_000;

/// The same with disks that are full or stall: it takes a full disk a second to be written again.
const TROUBLED_LIFE_MS: std::ops::Range<u64> = 800..2_500;

/// How long a disk is full or stalls, in milliseconds.
const TROUBLE_MS: std::ops::Range<u64> = 1..60;

/// At which write of its life a server dies: above what its start writes.
const LAST_WRITE: std::ops::Range<u64> = 30..300;

/// A load whose commands are refused proves nothing: one in this many may be.
const REFUSED_SHARE_MIN: usize = 20;

/// Where disks are full or stall, most may be refused; one in this many must not be.
const ANSWERED_SHARE_MIN: usize = 8;

/// What clients do.
pub(super) trait Workload: Sync {
    /// What a checker gets of it.
    type Action: Clone + Send;

    /// Writes what the history begins with.
    fn set_up(&self, _client: &mut Client) {}

    /// Does something at random.
    ///
    /// # Errors
    /// The connection is lost.
    fn act(&self, session: &mut Session<Self::Action>) -> io::Result<()>;

    /// Reads everything.
    ///
    /// # Errors
    /// The connection is lost.
    fn look(&self, session: &mut Session<Self::Action>) -> io::Result<()>;
}

/// A command's words.
pub(super) type Words = Vec<String>;

/// A command given with blanks between its words.
pub(super) fn words(line: &str) -> Words {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Commands as one transaction.
pub(super) fn multi(commands: impl IntoIterator<Item = Words>) -> Vec<Words> {
    let begin = std::iter::once(words("MULTI"));
    begin.chain(commands).chain([words("EXEC")]).collect()
}

/// What EXEC answered to [`multi`]; `None` if it has not run.
pub(super) fn executed(replies: Vec<Value>) -> Option<Vec<Value>> {
    match replies.into_iter().next_back() {
        Some(Value::Array(answers)) => answers,
        _ => None,
    }
}

/// A client, and what it has done.
pub(super) struct Session<A> {
    pub(super) random: StdRng,
    number: usize,
    client: Client,
    clock: Clock,
    entries: Vec<Entry<A>>,
    /// How often commands were answered with which error.
    refused: BTreeMap<String, usize>,
}

impl<A> Session<A> {
    /// Sends commands that are one action, and notes it with what `answered` makes of the replies: `None` if it was
    /// refused as a whole. If the connection is lost, it is noted as it is.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn run(
        &mut self,
        action: A,
        commands: &[Words],
        answered: impl FnOnce(Vec<Value>) -> Option<A>,
    ) -> io::Result<()> {
        let began = self.clock.now();
        let replies = self.send(commands);
        let now = self.clock.now();
        let (ending, action, outcome) = match replies {
            // A server that is alive and does not answer has lost a wake or a lock.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("no reply to {commands:?}"),
            // When the server was gone is known later.
            Err(error) => (Ending::Lost(u64::MAX), action, Err(error)),
            Ok(replies) if self.note_refusals(&replies) => {
                let is_refused = replies.iter().filter_map(error_of).all(|error| is_expected(error));
                let ending = match is_refused {
                    true => Ending::Refused(now),
                    // EXEC and scripts do not take back what they did before an error.
                    false => Ending::Lost(u64::MAX),
                };
                (ending, action, Ok(()))
            }
            Ok(replies) => match answered(replies) {
                Some(action) => (Ending::Answered(now), action, Ok(())),
                None => (Ending::Refused(now), action, Ok(())),
            },
        };
        self.entries.push(Entry {
            client: self.number,
            began,
            ending,
            action,
        });
        outcome
    }

    /// Sends commands that are no action by themselves.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn send(&mut self, commands: &[Words]) -> io::Result<Vec<Value>> {
        let sent: io::Result<()> = commands.iter().try_for_each(|words| self.client.send(words));
        sent.and_then(|()| commands.iter().map(|_| self.client.read()).collect())
    }

    /// Connects again after the connection was lost. What it was lost with may still happen, so who goes on is somebody
    /// else.
    ///
    /// # Errors
    /// The server is gone.
    fn reconnect(&mut self, address: SocketAddr) -> io::Result<()> {
        self.client = Client::connect(address)?;
        self.number += CLIENTS;
        Ok(())
    }

    /// Whether commands were refused.
    fn note_refusals(&mut self, replies: &[Value]) -> bool {
        let texts: Vec<&String> = replies.iter().filter_map(error_of).collect();
        let any = !texts.is_empty();
        for text in texts {
            *self.refused.entry(text.clone()).or_default() += 1;
        }
        any
    }
}

/// Errors that a load may meet. None of them leaves anything behind.
const REFUSALS: [&str; 5] = [
    "ERR no such key",
    "ERR the transaction could not be committed",
    "TIMEOUT",
    "BUSY",
    "MISCONF",
];

fn is_expected(error: &str) -> bool {
    REFUSALS.iter().any(|refusal| error.starts_with(refusal))
}

fn error_of(reply: &Value) -> Option<&String> {
    match reply {
        Value::Error(text) => Some(text),
        Value::Array(Some(replies)) => replies.iter().find_map(error_of),
        _ => None,
    }
}

/// How a server's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code))]
pub(super) enum End {
    /// All clients end what they have begun, then it is asked to stop.
    Stopped,
    /// SIGKILL under load.
    Killed,
    /// The process dies at a write that is in the kernel.
    AtWrite,
    /// The same under `durability always`, and of what was not synced some is lost.
    PowerLoss,
}

/// Faults of each shard's disk that can be switched on and off.
struct Troubles {
    full: Vec<Switch>,
    stalled: Vec<Switch>,
}

impl Troubles {
    fn of(node: &Node) -> Troubles {
        let of_each = |name: &'static str| (0..SHARDS).map(move |shard| node.switch(&format!("{name}-{shard}")));
        Troubles {
            full: of_each("full").collect(),
            stalled: of_each("stalled").collect(),
        }
    }

    /// For CORELANE_FAULTS.
    fn faults(&self) -> String {
        let all = |name: &str, switches: &[Switch]| {
            let switches = switches.iter().enumerate();
            let faults = switches.map(|(shard, switch)| format!("{name}@{shard}={}", switch.when()));
            faults.collect::<Vec<_>>().join(",")
        };
        format!(
            "{},{}",
            all("disk-full", &self.full),
            all("stall-writes", &self.stalled)
        )
    }

    /// Makes some at random, one shard at a time, until the server's end or that of its load.
    fn make(&self, address: SocketAddr, random: &mut StdRng, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let kind = if random.random() { &self.full } else { &self.stalled };
            let switch = kind.choose(random).expect("there are shards");
            switch.on();
            let span = Duration::from_millis(random.random_range(TROUBLE_MS));
            holds_for(span, || !is_over.load(Ordering::Relaxed));
            switch.off();
            if !has_recovered(address, is_over) {
                return;
            }
        }
    }
}

/// Waits until all shards take writes again. False if the server or its load has ended before.
fn has_recovered(address: SocketAddr, is_over: &AtomicBool) -> bool {
    let (mut is_gone, mut are_healthy) = (false, false);
    let is_known = wait_for(|| {
        let asked = Client::connect(address).and_then(|mut client| {
            client.send(&["INFO", "shards"])?;
            client.read()
        });
        match asked.map(|reply| reply.text()) {
            Ok(Some(shards)) => are_healthy = shards.matches("state=healthy").count() == usize::from(SHARDS),
            _ => is_gone = true,
        }
        are_healthy || is_gone || is_over.load(Ordering::Relaxed)
    });
    assert!(is_known, "a shard does not take writes long after its disk was mended");
    are_healthy
}

/// A server under load, and its history so far.
pub(super) struct Load<'a, W: Workload> {
    workload: &'a W,
    node: Node,
    /// Flags, one of which each life has: on which cores the shards are may change from start to start.
    shapes: &'a [String],
    /// CORELANE_FAULTS of all lives.
    faults: String,
    /// Its disks are full or stall from time to time.
    troubles: Option<Troubles>,
    clock: Clock,
    random: StdRng,
    pub(super) history: Vec<Entry<W::Action>>,
    pub(super) lives: usize,
    refused: BTreeMap<String, usize>,
}

impl<'a, W: Workload> Load<'a, W> {
    pub(super) fn new(workload: &'a W, shapes: &'a [String], faults: &str, seed: u64) -> Load<'a, W> {
        let mut node = Node::new();
        node.start(&shapes[0], "");
        workload.set_up(&mut node.connect());
        let (status, output) = node.terminate();
        assert!(status.success(), "{output}");
        Load {
            workload,
            node,
            shapes,
            faults: faults.to_owned(),
            troubles: None,
            clock: Clock::start(),
            random: StdRng::seed_from_u64(seed),
            history: Vec::new(),
            lives: 0,
            refused: BTreeMap::new(),
        }
    }

    /// The disk of one shard or another is full or stalls from time to time.
    pub(super) fn with_troubles(mut self) -> Self {
        let troubles = Troubles::of(&self.node);
        self.faults = format!("{},{}", troubles.faults(), self.faults);
        self.troubles = Some(troubles);
        self
    }

    /// One server, from its start to its end. It is looked at before the clients come.
    pub(super) fn live(&mut self, end: End) {
        let nth = self.random.random_range(LAST_WRITE);
        let (durability, faults) = match end {
            End::Stopped | End::Killed => ("interval", String::new()),
            End::AtWrite => ("interval", format!("kill-after-commit={nth}")),
            End::PowerLoss => (
                "always",
                format!("kill-after-commit={nth},record-unsynced-log=1,delay-sync-ms=1"),
            ),
        };
        let shape = self.shapes.choose(&mut self.random).expect("there are shapes");
        let flags = format!("{shape} --durability {durability}");
        // RocksDB gets what was logged every few seconds, or all the time.
        let seals = ["", "seal-log=every:30"]
            .choose(&mut self.random)
            .expect("there are faults");
        // Commands are undone at some of their reads, or at all.
        let misses = ["", "miss-reads=every:3", "miss-reads=1.."]
            .choose(&mut self.random)
            .expect("there are faults");
        self.node
            .start(&flags, &format!("{faults},{seals},{misses},{}", self.faults));
        self.lives += 1;
        let mut first = self.session(0);
        // A server that dies at once is noticed by the clients, too.
        let _ = self.workload.look(&mut first);
        let sessions = self.run_clients(end);
        #[cfg(feature = "fault-injection")]
        if end == End::PowerLoss {
            let random = &mut self.random;
            self.node.lose_power(|_, contents| random.random_range(0..contents));
        }
        let died = self.clock.now();
        for session in sessions.into_iter().chain([first]) {
            for (text, count) in session.refused {
                *self.refused.entry(text).or_default() += count;
            }
            self.history.extend(session.entries.into_iter().map(|mut entry| {
                if let Ending::Lost(at) = &mut entry.ending {
                    *at = died;
                }
                entry
            }));
        }
    }

    /// Lets clients act until the server's end.
    fn run_clients(&mut self, end: End) -> Vec<Session<W::Action>> {
        let life = self.random.random_range(LIFE_ACTIONS);
        let troubled_life = Duration::from_millis(self.random.random_range(TROUBLED_LIFE_MS));
        let mut for_troubles = StdRng::seed_from_u64(self.random.random());
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| self.random.random()).collect();
        let (workload, address, clock) = (self.workload, self.node.address(), self.clock);
        let (is_over, progress) = (&AtomicBool::new(false), &Progress::default());
        std::thread::scope(|scope| {
            let client = |(number, seed): (usize, u64)| {
                scope.spawn(move || {
                    // One that comes too late has done nothing.
                    let mut session = connect(address, clock, number, seed).ok()?;
                    while !is_over.load(Ordering::Relaxed)
                        && (workload.act(&mut session).is_ok() || session.reconnect(address).is_ok())
                    {
                        progress.add();
                    }
                    Some(session)
                })
            };
            let clients: Vec<_> = seeds.into_iter().enumerate().map(client).collect();
            if let Some(troubles) = &self.troubles {
                scope.spawn(move || troubles.make(address, &mut for_troubles, is_over));
            }
            if matches!(end, End::Stopped | End::Killed) {
                match &self.troubles {
                    None => progress.wait_for(life),
                    Some(_) => drop(holds_for(troubled_life, || !is_over.load(Ordering::Relaxed))),
                }
            }
            match end {
                End::Stopped => {}
                End::Killed => self.node.kill_9(),
                End::AtWrite | End::PowerLoss => self.node.wait_for_exit(),
            }
            is_over.store(true, Ordering::Relaxed);
            let sessions = clients
                .into_iter()
                .filter_map(|client| client.join().expect("a client"))
                .collect();
            if end == End::Stopped {
                // While a disk is full a log cannot be synced, and a server that stops then says so.
                for shard in (0..SHARDS).filter(|_| self.troubles.is_some()) {
                    self.node.wait_for_state(shard, "healthy");
                }
                let (status, output) = self.node.terminate();
                assert!(status.success(), "{output}");
            }
            sessions
        })
    }

    fn session(&mut self, number: usize) -> Session<W::Action> {
        let seed = self.random.random();
        connect(self.node.address(), self.clock, number, seed).expect("the server has just answered")
    }

    /// What was done, in a line; panics if too much of it was refused, or anything for no good reason.
    pub(super) fn summary(&self) -> String {
        let refused: usize = self.refused.values().sum();
        let wrong = self.refused.keys().find(|error| !is_expected(error));
        assert_eq!(wrong, None, "an error that nothing explains");
        let is_enough = match &self.troubles {
            None => refused * REFUSED_SHARE_MIN <= self.history.len(),
            Some(_) => (self.history.len() - refused) * ANSWERED_SHARE_MIN >= self.history.len(),
        };
        assert!(
            is_enough,
            "of {} actions were refused {:?}",
            self.history.len(),
            self.refused
        );
        let lost = self
            .history
            .iter()
            .filter(|entry| matches!(entry.ending, Ending::Lost(_)));
        format!(
            "{} actions in {} lives, {} with an unknown outcome, refused {:?}",
            self.history.len(),
            self.lives,
            lost.count(),
            self.refused
        )
    }
}

fn connect<A>(address: SocketAddr, clock: Clock, number: usize, seed: u64) -> io::Result<Session<A>> {
    Ok(Session {
        random: StdRng::seed_from_u64(seed),
        number,
        client: Client::connect(address)?,
        clock,
        entries: Vec::new(),
        refused: BTreeMap::new(),
    })
}
