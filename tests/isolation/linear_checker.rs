//! The checker that decides whether a history is linearisable: whether there is an order of all that was done, each
//! between its beginning and its end, in which a model gives the answers that the clients had.
//!
//! What the model describes is one object with all keys in it, and a transaction is one action on it. So linearisable
//! means strictly serialisable, and the checker decides it for certain, for any action whose meaning the model says; it
//! does not say what kind of anomaly it found. The method is that of Lowe, "Testing for Linearizability" (2017), as
//! Knossos and Porcupine use it: go through the history and keep every configuration that is possible (which of those
//! that are under way have taken effect, and the state that resulted); where something ends, it has taken effect, if
//! necessary after others that are under way. The number of configurations grows with the number of clients at once,
//! not with the length of the history.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use super::history::{Ending, Entry, Event, events};

/// An action of which a model says what it does.
pub(super) trait Action: Debug {
    /// All that there is.
    type State: Clone + Eq + Hash + Debug;

    /// What it makes of a state; `None` if it would not have been answered as it was.
    fn apply(&self, state: &Self::State) -> Option<Self::State>;
}

/// More than this, and the load has too many clients at once for the checker.
const CONFIGURATIONS_MAX: usize = 500_000;

/// So many entries can be under way at once: the bits of a [`Configuration`].
const UNDER_WAY_MAX: usize = 64;

/// States that a report shows.
const SHOWN_MAX: usize = 4;

/// What may be the case at some time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration<S> {
    /// A bit for each index of [`Search::under_way`]: it has taken effect.
    done: u64,
    state: S,
}

struct Search<'a, A: Action> {
    history: &'a [Entry<A>],
    under_way: [Option<usize>; UNDER_WAY_MAX],
    possible: HashSet<Configuration<A::State>>,
}

/// Decides whether a history that began with `state` is linearisable.
///
/// # Errors
/// The entry that cannot be fitted in, what was under way at its end, and the states that were possible before.
pub(super) fn check<A: Action>(state: A::State, history: &[Entry<A>]) -> Result<(), String> {
    let mut search = Search {
        history,
        under_way: [None; UNDER_WAY_MAX],
        possible: HashSet::from([Configuration { done: 0, state }]),
    };
    let counts = |number: usize| !matches!(history[number].ending, Ending::Refused(_));
    for event in events(history, counts) {
        match event {
            Event::Began(number) => {
                let free = search.under_way.iter().position(Option::is_none);
                let free = free.expect("the load has fewer clients");
                search.under_way[free] = Some(number);
            }
            Event::Ended(number) => search.end(number)?,
        }
    }
    Ok(())
}

impl<A: Action> Search<'_, A> {
    /// An entry has taken effect, or, if its outcome is unknown, never will.
    fn end(&mut self, number: usize) -> Result<(), String> {
        let index = self.under_way.iter().position(|found| *found == Some(number));
        let index = index.expect("it has begun");
        let bit = 1_u64 << index;
        let may_be_lost = matches!(self.history[number].ending, Ending::Lost(_));
        let mut next = HashSet::new();
        let mut looked_at = HashSet::new();
        let mut to_look_at: Vec<_> = self.possible.iter().cloned().collect();
        while let Some(configuration) = to_look_at.pop() {
            if configuration.done & bit != 0 {
                let done = configuration.done & !bit;
                next.insert(Configuration { done, ..configuration });
                continue;
            }
            if may_be_lost {
                next.insert(configuration.clone());
            }
            for (other, entry) in self.under_way.iter().enumerate() {
                let Some(entry) = entry else { continue };
                if configuration.done & (1 << other) != 0 {
                    continue;
                }
                if let Some(state) = self.history[*entry].action.apply(&configuration.state) {
                    let done = configuration.done | 1 << other;
                    let following = Configuration { done, state };
                    if looked_at.insert(following.clone()) {
                        to_look_at.push(following);
                    }
                }
            }
            assert!(
                looked_at.len() < CONFIGURATIONS_MAX,
                "too many orders are possible to look at all"
            );
        }
        if next.is_empty() {
            return Err(self.report(number));
        }
        self.under_way[index] = None;
        self.possible = next;
        Ok(())
    }

    fn report(&self, number: usize) -> String {
        let line = |number: usize| {
            let entry = &self.history[number];
            format!("\n  {}: {:?}", entry.heading(), entry.action)
        };
        let mut text = format!("there is no place for{}\nUnder way were", line(number));
        for other in self.under_way.iter().flatten().filter(|other| **other != number) {
            text += &line(*other);
        }
        text += &format!("\nand {} states were possible, as", self.possible.len());
        for configuration in self.possible.iter().take(SHOWN_MAX) {
            text += &format!("\n  {:?}", configuration.state);
        }
        text
    }
}
