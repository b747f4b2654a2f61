//! The checker for transactions that append to lists and read them whole, after Kingsbury and Alvaro, "Elle: Inferring
//! Isolation Anomalies from Experimental Observations" (VLDB 2020).
//!
//! Every element is appended once, so a list that was read says in which order its elements were appended, and who has
//! seen what. Reads of one list must be prefixes of the longest. From that follow, between transactions that are known
//! to have happened:
//!
//! - write-write: one appended before the other;
//! - write-read: one's append is the last that the other saw;
//! - read-write: one did not see the other's append. An append that is in no read at all comes after the longest one;
//! - real time: one had its answer before the other was sent.
//!
//! A strictly serialisable history has an order in which all of these point forward, so every cycle is an anomaly.
//! Which, the kinds of edges in it say (Adya, "Weak Consistency", 1999). A transaction whose outcome is unknown has
//! happened if any read has an append of it, and then all of it has; else it says nothing. Since the server is known to
//! be dead at some time, it had happened by then.
//!
//! What is reported is an anomaly for certain. What it cannot see: a wrong order that no read tells (two lists that
//! nobody reads).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::{self, Display, Formatter};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::{EdgeFiltered, EdgeRef};

use super::history::{Ending, Entry, Event, events};

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// An element was appended to a list. No element is appended twice to one.
    Append(String, u64),
    /// A list was read; `None` if the answer was lost.
    Read(String, Option<Vec<u64>>),
}

/// A transaction's operations, in their order.
pub(super) type Transaction = Vec<Operation>;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An element is twice in a list.
    Duplicate,
    /// An element that nobody has appended.
    Unwritten,
    /// A transaction does not see what itself has done, or sees a list change under it.
    Internal,
    /// Two reads of a list of which none is a prefix of the other.
    Fork,
    /// G1a: an append of a transaction that was answered with an error was seen.
    AbortedRead,
    /// G1b: an append was seen, and a later one of the same transaction to the same list was not.
    IntermediateRead,
    /// G0: transactions write before each other.
    WriteCycle,
    /// G1c: they have seen each other's writes.
    InformationCycle,
    /// G-single: a cycle with one read-write edge, as a read that sees one half of a transaction.
    SingleAntiDependency,
    /// G2: a cycle with several of them, as write skew.
    AntiDependency,
    /// A cycle that needs real time: a stale read, or a write that was answered and is lost.
    RealTime,
}

/// Something that no strictly serialisable store does.
#[derive(Debug)]
pub(super) struct Anomaly {
    pub(super) kind: Kind,
    /// The transactions that show it.
    pub(super) story: String,
}

impl Display for Anomaly {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}\n{}", self.kind, self.story)
    }
}

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    WriteWrite,
    WriteRead,
    ReadWrite,
    RealTime,
}

/// An edge, with the list and the element that tell.
#[derive(Clone, Copy, Debug)]
struct Dependency<'a> {
    reason: Reason,
    list: &'a str,
    element: u64,
}

/// Cycles are looked for from so many edges at most, so that a history that is wrong all over does not take for ever.
/// One is found all the same, if perhaps not the shortest: where one read-write edge is not asked for, there is a cycle
/// through every edge.
const STARTS_MAX: usize = 2000;

/// Elements of a list that a report shows.
const SHOWN_MAX: usize = 8;

/// Looks for anomalies: all that reads show by themselves, else the shortest cycle.
pub(super) fn check(history: &[Entry<Transaction>]) -> Vec<Anomaly> {
    let mut checker = Checker::new(history);
    checker.check_reads();
    checker.order_versions();
    if checker.anomalies.is_empty() {
        checker.infer_dependencies();
        checker.infer_real_time();
        checker.find_cycle();
    }
    checker.anomalies
}

struct Checker<'a> {
    history: &'a [Entry<Transaction>],
    /// By list and element: who has appended it.
    writers: HashMap<(&'a str, u64), usize>,
    /// By list: the longest read of it.
    longest: BTreeMap<&'a str, &'a [u64]>,
    happened: Vec<bool>,
    graph: DiGraph<usize, Dependency<'a>>,
    anomalies: Vec<Anomaly>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a [Entry<Transaction>]) -> Checker<'a> {
        let mut writers = HashMap::new();
        let mut graph = DiGraph::new();
        for (number, entry) in history.iter().enumerate() {
            graph.add_node(number);
            for operation in &entry.action {
                if let Operation::Append(list, element) = operation {
                    let other = writers.insert((list.as_str(), *element), number);
                    assert_eq!(other, None, "the load appends {element} to {list} twice");
                }
            }
        }
        Checker {
            history,
            writers,
            longest: BTreeMap::new(),
            happened: vec![false; history.len()],
            graph,
            anomalies: Vec::new(),
        }
    }

    /// All reads that were answered.
    fn reads(&self) -> impl Iterator<Item = (usize, &'a str, &'a [u64])> + use<'a> {
        let history = self.history;
        let of_entry = |(number, entry): (usize, &'a Entry<Transaction>)| {
            entry.action.iter().filter_map(move |operation| match operation {
                Operation::Read(list, Some(elements)) => Some((number, list.as_str(), elements.as_slice())),
                _ => None,
            })
        };
        history.iter().enumerate().flat_map(of_entry)
    }

    fn report(&mut self, kind: Kind, what: String, transactions: &[usize]) {
        let mut story = what;
        for number in transactions {
            story += &format!("\n  T{number}: {}", shown(&self.history[*number]));
        }
        self.anomalies.push(Anomaly { kind, story });
    }

    /// What a read shows by itself.
    fn check_reads(&mut self) {
        for (reader, list, elements) in self.reads() {
            let mut seen = HashSet::new();
            for element in elements {
                if !seen.insert(element) {
                    self.report(
                        Kind::Duplicate,
                        format!("{element} is in {list} more than once"),
                        &[reader],
                    );
                }
                match self.writers.get(&(list, *element)).copied() {
                    None => self.report(
                        Kind::Unwritten,
                        format!("nobody has appended {element} to {list}"),
                        &[reader],
                    ),
                    Some(writer) => {
                        self.happened[writer] = true;
                        if matches!(self.history[writer].ending, Ending::Refused(_)) {
                            let what = format!("{element} in {list} was refused, and seen");
                            self.report(Kind::AbortedRead, what, &[writer, reader]);
                        }
                    }
                }
            }
            self.check_last(reader, list, elements);
        }
        for (number, entry) in self.history.iter().enumerate() {
            self.happened[number] |= matches!(entry.ending, Ending::Answered(_));
            self.check_own(number, entry);
        }
    }

    /// The last element that a read has is also the last that its transaction appended.
    fn check_last(&mut self, reader: usize, list: &str, elements: &[u64]) {
        let Some(last) = elements.last() else { return };
        let Some(&writer) = self.writers.get(&(list, *last)) else {
            return;
        };
        let final_append = self.history[writer]
            .action
            .iter()
            .rev()
            .find_map(|operation| match operation {
                Operation::Append(to, element) if to == list => Some(*element),
                _ => None,
            });
        if writer != reader && final_append != Some(*last) {
            let what = format!("{last} in {list} was seen without what its transaction appended after it");
            self.report(Kind::IntermediateRead, what, &[writer, reader]);
        }
    }

    /// What a transaction reads agrees with what itself has read and appended before.
    fn check_own(&mut self, number: usize, entry: &Entry<Transaction>) {
        // By list: what it must end with, and whether that is all of it.
        let mut known: HashMap<&str, (Vec<u64>, bool)> = HashMap::new();
        for operation in &entry.action {
            match operation {
                Operation::Append(list, element) => known.entry(list).or_default().0.push(*element),
                Operation::Read(_, None) => {}
                Operation::Read(list, Some(elements)) => {
                    let (tail, is_all) = known.entry(list).or_default();
                    let agrees = match is_all {
                        true => elements == tail,
                        false => elements.ends_with(tail),
                    };
                    if !agrees {
                        let what = format!("{list} is not what the transaction itself has made of it");
                        return self.report(Kind::Internal, what, &[number]);
                    }
                    (*tail, *is_all) = (elements.clone(), true);
                }
            }
        }
    }

    /// Finds the longest read of each list, and those that are no prefix of it.
    fn order_versions(&mut self) {
        let mut longest: BTreeMap<&str, (usize, &[u64])> = BTreeMap::new();
        for (reader, list, elements) in self.reads() {
            let known = longest.entry(list).or_insert((reader, elements));
            if elements.len() > known.1.len() {
                *known = (reader, elements);
            }
        }
        for (reader, list, elements) in self.reads() {
            let (longest_reader, all) = longest[list];
            if !all.starts_with(elements) {
                let what = format!("two reads of {list} cannot follow each other");
                self.report(Kind::Fork, what, &[reader, longest_reader]);
            }
        }
        self.longest = longest.into_iter().map(|(list, (_, all))| (list, all)).collect();
    }

    fn depends(&mut self, before: usize, after: usize, reason: Reason, list: &'a str, element: u64) {
        if before != after {
            let dependency = Dependency { reason, list, element };
            self.graph
                .add_edge(NodeIndex::new(before), NodeIndex::new(after), dependency);
        }
    }

    fn infer_dependencies(&mut self) {
        // By list: appends that have happened and are in no read.
        let mut unseen: HashMap<&str, Vec<(usize, u64)>> = HashMap::new();
        for (&(list, element), &writer) in &self.writers {
            let is_seen = self.longest.get(list).is_some_and(|all| all.contains(&element));
            if self.happened[writer] && !is_seen {
                unseen.entry(list).or_default().push((writer, element));
            }
        }
        let none = Vec::new();
        for (list, all) in self.longest.clone() {
            for pair in all.windows(2) {
                let (before, after) = (self.writers[&(list, pair[0])], self.writers[&(list, pair[1])]);
                self.depends(before, after, Reason::WriteWrite, list, pair[1]);
            }
            if let Some(last) = all.last() {
                for &(writer, element) in unseen.get(list).unwrap_or(&none) {
                    self.depends(self.writers[&(list, *last)], writer, Reason::WriteWrite, list, element);
                }
            }
        }
        for (reader, list, elements) in self.reads() {
            // A reader's own elements at the end say nothing of others.
            let others = elements
                .iter()
                .rposition(|element| self.writers[&(list, *element)] != reader);
            if let Some(position) = others {
                let writer = self.writers[&(list, elements[position])];
                self.depends(writer, reader, Reason::WriteRead, list, elements[position]);
            }
            match self.longest[list].get(elements.len()) {
                Some(next) => self.depends(reader, self.writers[&(list, *next)], Reason::ReadWrite, list, *next),
                None => {
                    for &(writer, element) in unseen.get(list).unwrap_or(&none) {
                        self.depends(reader, writer, Reason::ReadWrite, list, element);
                    }
                }
            }
        }
    }

    /// Edges from each transaction to those that began after its end, without those that follow from others.
    fn infer_real_time(&mut self) {
        let happened = self.happened.clone();
        let mut frontier: Vec<usize> = Vec::new();
        for event in events(self.history, |number| happened[number]) {
            match event {
                Event::Began(number) => {
                    for before in &frontier {
                        self.depends(*before, number, Reason::RealTime, "", 0);
                    }
                }
                Event::Ended(number) => {
                    let began = self.history[number].began;
                    frontier.retain(|other| self.history[*other].ended() >= began);
                    frontier.push(number);
                }
            }
        }
    }

    /// Looks for the shortest cycle there is, of the worst kind among those.
    fn find_cycle(&mut self) {
        use Reason::{ReadWrite, RealTime, WriteRead, WriteWrite};
        // The kind, the edges that it may have, and whether it has one read-write edge besides.
        let kinds: [(Kind, &[Reason], bool); 5] = [
            (Kind::WriteCycle, &[WriteWrite], false),
            (Kind::InformationCycle, &[WriteWrite, WriteRead], false),
            (Kind::SingleAntiDependency, &[WriteWrite, WriteRead], true),
            (Kind::AntiDependency, &[WriteWrite, WriteRead, ReadWrite], false),
            (Kind::RealTime, &[WriteWrite, WriteRead, ReadWrite, RealTime], false),
        ];
        let cycles = kinds
            .iter()
            .filter_map(|(kind, reasons, with_one)| Some((*kind, self.shortest_cycle(reasons, *with_one)?)));
        // The first of those that are equally short.
        if let Some((kind, cycle)) = cycles.min_by_key(|(_, cycle)| cycle.len()) {
            self.report_cycle(kind, &cycle);
        }
    }

    /// The shortest cycle of edges with these reasons, or of one read-write edge and such edges.
    fn shortest_cycle(&self, reasons: &[Reason], with_one: bool) -> Option<Vec<EdgeIndex>> {
        let may_be = |reason: Reason| reasons.contains(&reason) || (with_one && reason == Reason::ReadWrite);
        let allowed = EdgeFiltered::from_fn(&self.graph, |edge| may_be(edge.weight().reason));
        let mut components = kosaraju_scc(&allowed);
        components.retain(|component| component.len() > 1);
        components.sort_by_key(Vec::len);
        let mut component_of = vec![usize::MAX; self.history.len()];
        for (number, component) in components.iter().enumerate() {
            component.iter().for_each(|node| component_of[node.index()] = number);
        }
        let is_inside = |from: NodeIndex, to: NodeIndex| {
            component_of[from.index()] != usize::MAX && component_of[from.index()] == component_of[to.index()]
        };
        let closes = |reason: Reason| match with_one {
            true => reason == Reason::ReadWrite,
            false => reasons.contains(&reason),
        };
        let starts = self
            .graph
            .edge_references()
            .filter(|edge| closes(edge.weight().reason) && is_inside(edge.source(), edge.target()));
        let cycles = starts.take(STARTS_MAX).filter_map(|edge| {
            let mut cycle = vec![edge.id()];
            cycle.extend(self.shortest_path(edge.target(), edge.source(), |from, to, reason| {
                reasons.contains(&reason) && is_inside(from, to)
            })?);
            Some(cycle)
        });
        cycles.min_by_key(Vec::len)
    }

    fn shortest_path(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        allows: impl Fn(NodeIndex, NodeIndex, Reason) -> bool,
    ) -> Option<Vec<EdgeIndex>> {
        let mut reached_by: HashMap<NodeIndex, EdgeIndex> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for edge in self.graph.edges(node) {
                let next = edge.target();
                if next == from || reached_by.contains_key(&next) || !allows(node, next, edge.weight().reason) {
                    continue;
                }
                reached_by.insert(next, edge.id());
                queue.push_back(next);
            }
            if reached_by.contains_key(&to) {
                break;
            }
        }
        let mut path = Vec::new();
        let mut node = to;
        while node != from {
            let edge = *reached_by.get(&node)?;
            path.push(edge);
            node = self.graph.edge_endpoints(edge)?.0;
        }
        path.reverse();
        Some(path)
    }

    fn report_cycle(&mut self, kind: Kind, cycle: &[EdgeIndex]) {
        let mut what = format!("a cycle of {}", cycle.len());
        let mut transactions = Vec::new();
        for edge in cycle {
            let Some((before, after)) = self.graph.edge_endpoints(*edge) else {
                continue;
            };
            let (before, after) = (before.index(), after.index());
            let Dependency { reason, list, element } = self.graph[*edge];
            transactions.push(before);
            what += &match reason {
                Reason::WriteWrite => format!("\n  T{before} wrote {list} before T{after} appended {element}"),
                Reason::WriteRead => format!("\n  T{after} saw {element} in {list}, which T{before} appended"),
                Reason::ReadWrite => format!("\n  T{before} did not see {element} in {list}, which T{after} appended"),
                Reason::RealTime => format!("\n  T{before} was over before T{after} began"),
            };
        }
        self.report(kind, what, &transactions);
    }
}

fn shown(entry: &Entry<Transaction>) -> String {
    let of_operation = |operation: &Operation| match operation {
        Operation::Append(list, element) => format!("append {element} to {list}"),
        Operation::Read(list, None) => format!("read {list}"),
        Operation::Read(list, Some(elements)) => {
            let left_out = elements.len().saturating_sub(SHOWN_MAX);
            let shown = &elements[left_out..];
            match left_out {
                0 => format!("read {list} {shown:?}"),
                _ => format!("read {list} ({left_out} and then {shown:?})"),
            }
        }
    };
    let operations: Vec<String> = entry.action.iter().map(of_operation).collect();
    format!("{}: {}", entry.heading(), operations.join(", "))
}
