//! What clients did to a server and what they were told, with the times.

use std::time::Instant;

/// How something ended; times are in nanoseconds since the history's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was answered then.
    Answered(u64),
    /// It was answered with an error: it had no effect and never will.
    Refused(u64),
    /// The connection was lost. It took effect before that time, when the server was gone, or never will.
    Lost(u64),
}

/// One action of a client: a command or a transaction.
#[derive(Clone, Debug)]
pub(super) struct Entry<A> {
    /// Who: a client does one thing at a time.
    pub(super) client: usize,
    /// The time before it was sent.
    pub(super) began: u64,
    pub(super) ending: Ending,
    pub(super) action: A,
}

impl<A> Entry<A> {
    /// The time after which it has no effect that it did not have before.
    pub(super) fn ended(&self) -> u64 {
        match self.ending {
            Ending::Answered(at) | Ending::Refused(at) | Ending::Lost(at) => at,
        }
    }

    /// Who and when, for a report.
    pub(super) fn heading(&self) -> String {
        let how = match self.ending {
            Ending::Answered(_) => "",
            Ending::Refused(_) => ", refused",
            Ending::Lost(_) => ", outcome unknown",
        };
        format!(
            "client {}, {} to {} us{how}",
            self.client,
            self.began / 1000,
            self.ended() / 1000
        )
    }
}

/// A beginning or an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Began(usize),
    Ended(usize),
}

/// The beginnings and ends of those entries that `counts` says, by time; at one time beginnings come first, as what is
/// not certain to be in order is taken to be at once.
pub(super) fn events<A>(history: &[Entry<A>], counts: impl Fn(usize) -> bool) -> Vec<Event> {
    let mut events: Vec<(u64, Event)> = Vec::new();
    for (index, entry) in history.iter().enumerate().filter(|(index, _)| counts(*index)) {
        events.push((entry.began, Event::Began(index)));
        events.push((entry.ended(), Event::Ended(index)));
    }
    events.sort_by_key(|(at, event)| (*at, matches!(event, Event::Ended(_))));
    events.into_iter().map(|(_, event)| event).collect()
}

/// One clock for all clients of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
