//! The nodes of streams: which entries `MAXLEN ~` and `MINID ~` of XADD and XTRIM take as a whole.
//!
//! Redis keeps a stream's entries in listpacks of at most 100 entries and about 4096 bytes, and an approximate trim
//! removes whole ones. Here each entry is stored by itself, so the nodes are only accounted for: what Redis would have
//! where. The last one is in the stream's record, and the others are stored by their first ids.

use super::Context;
use super::collection::{Column, Direction};
use super::streams::{ALL_IDS, Keep, Stream, damaged};
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::storage::encoding::{self, STREAM_ENTRY_PREFIX, STREAM_NODE_PREFIX, StreamId, StreamNode, StreamNodes};
use std::hash::BuildHasher;
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// The entries of a full node, deleted ones among them: `stream-node-max-entries`.
pub(super) const NODE_ENTRIES_MAX: u32 = 100;

/// The bytes that a node may reach only with its first entry: `stream-node-max-bytes`.
const NODE_BYTES_MAX: usize = 4096;

/// Nodes without entries that are looked for when a new one begins: more than can have come since the last one began,
/// but for XDEL of many entries.
const EMPTY_NODES_REMOVED_MAX: usize = 64;

/// The bytes of a listpack's header and its end.
const LISTPACK_BYTES: usize = 7;

/// The bytes of a listpack's element of so many bytes: with its length, which follows it to let it be read backwards.
fn element_bytes(len: usize) -> usize {
    len + match len {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

fn integer_bytes(value: i64) -> usize {
    element_bytes(match value {
        0..=127 => 1,
        -4096..=4095 => 2,
        -32_768..=32_767 => 3,
        -8_388_608..=8_388_607 => 4,
        -2_147_483_648..=2_147_483_647 => 5,
        _ => 9,
    })
}

fn text_bytes(text: &[u8]) -> usize {
    match (parse_integer(text), text.len()) {
        (Some(value), _) => integer_bytes(value),
        (None, len @ 0..=63) => element_bytes(1 + len),
        (None, len @ 64..=4095) => element_bytes(2 + len),
        (None, len) => element_bytes(5 + len),
    }
}

/// A hash of an entry's field names, in their order.
fn hash_of_fields<'a>(fields: impl Iterator<Item = &'a [u8]>) -> u64 {
    let hasher = foldhash::quality::FixedState::with_seed(0);
    fields.fold(0, |hash, field| hasher.hash_one((hash, field)))
}

/// What an entry takes in a node whose first entry has these fields.
fn entry_bytes<'a>(
    node: &StreamNode,
    id: StreamId,
    fields_and_values: impl Iterator<Item = &'a [u8]> + Clone,
    has_same_fields: bool,
) -> usize {
    let fields = fields_and_values.clone().count() / 2;
    let written = fields_and_values
        .enumerate()
        .filter(|(index, _)| index % 2 == 1 || !has_same_fields);
    let mut bytes = written.map(|(_, text)| text_bytes(text)).sum::<usize>();
    // The flags, the differences of the two parts of the id, and the number of elements.
    let mut elements = 3 + fields;
    bytes += integer_bytes(0);
    bytes += integer_bytes(id.ms().wrapping_sub(node.first.ms()) as i64);
    bytes += integer_bytes(id.sequence().wrapping_sub(node.first.sequence()) as i64);
    if !has_same_fields {
        bytes += integer_bytes(fields as i64);
        elements += 1 + fields;
    }
    bytes + integer_bytes(elements as i64)
}

/// A node that gets its first entry with these fields.
fn new_node<'a>(id: StreamId, fields: impl Iterator<Item = &'a [u8]> + Clone) -> StreamNode {
    let count = fields.clone().count();
    let names = fields.clone().map(text_bytes).sum::<usize>();
    // How many entries there are and how many were deleted (both below 128), the fields, and the end of them.
    let bytes = LISTPACK_BYTES + 3 * integer_bytes(0) + integer_bytes(count as i64) + names;
    StreamNode {
        first: id,
        last: id,
        entries: 0,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        fields: hash_of_fields(fields),
    }
}

impl StreamNodes {
    /// Forgets how many entries the first node has.
    fn forget_head(&mut self) {
        (self.head_last, self.head_left) = (StreamId::MIN, 0);
    }
}

impl Context<'_> {
    /// Accounts for an entry that has been added as the last one.
    pub(super) fn add_to_nodes<'a>(
        &mut self,
        stream: &mut Stream,
        id: StreamId,
        fields_and_values: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Outcome {
        let bytes = fields_and_values.clone().map(<[u8]>::len).sum::<usize>();
        let tail = stream.numbers.nodes.tail;
        let is_full = tail.bytes as usize + bytes >= NODE_BYTES_MAX || tail.entries >= NODE_ENTRIES_MAX;
        if tail.entries == 0 || is_full {
            if tail.entries > 0 {
                let member = encoding::stream_node_member(tail.first);
                self.put_member(&stream.collection, Column::Data, &member, tail.encode())?;
                stream.numbers.nodes.stored += 1;
            }
            self.remove_empty_nodes(stream)?;
            stream.numbers.nodes.tail = new_node(id, fields_and_values.clone().step_by(2));
            stream.numbers.nodes.tail_left = 0;
        }
        let StreamNodes { tail, tail_left, .. } = &mut stream.numbers.nodes;
        let has_same_fields = tail.fields == hash_of_fields(fields_and_values.clone().step_by(2));
        let bytes = entry_bytes(tail, id, fields_and_values, has_same_fields);
        tail.bytes = tail.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        tail.entries += 1;
        tail.last = id;
        *tail_left += 1;
        Ok(())
    }

    /// Removes nodes before the first entry, which are left where entries were deleted one by one.
    fn remove_empty_nodes(&mut self, stream: &mut Stream) -> Outcome {
        if stream.numbers.nodes.stored == 0 {
            return Ok(());
        }
        let mut empty = Vec::new();
        self.visit_nodes(stream, ALL_IDS, Direction::Forward, |node| {
            if node.last >= stream.numbers.first || empty.len() == EMPTY_NODES_REMOVED_MAX {
                return ControlFlow::Break(());
            }
            empty.push(node);
            ControlFlow::Continue(())
        })?;
        for node in empty {
            self.remove_stored_node(stream, node)?;
        }
        Ok(())
    }

    fn remove_stored_node(&mut self, stream: &mut Stream, node: StreamNode) -> Outcome {
        let member = encoding::stream_node_member(node.first);
        self.delete_member(&stream.collection, Column::Data, &member)?;
        let nodes = &mut stream.numbers.nodes;
        nodes.stored = nodes.stored.checked_sub(1).ok_or_else(damaged)?;
        nodes.forget_head();
        Ok(())
    }

    /// Calls `visit` with the stored nodes whose first ids lie in a range.
    fn visit_nodes(
        &mut self,
        stream: &Stream,
        firsts: (StreamId, StreamId),
        direction: Direction,
        mut visit: impl FnMut(StreamNode) -> ControlFlow<()>,
    ) -> Outcome {
        let mut all_read = true;
        self.visit_ids(
            stream,
            STREAM_NODE_PREFIX,
            firsts,
            direction,
            |first, stored| match StreamNode::decode(first, stored) {
                Some(node) => visit(node),
                None => {
                    all_read = false;
                    ControlFlow::Break(())
                }
            },
        )?;
        if all_read { Ok(()) } else { Err(damaged()) }
    }

    /// The first node, and whether it is stored. Entries that were added before nodes were accounted for are as many to
    /// one as fit.
    fn first_node(&mut self, stream: &Stream) -> Result<(StreamNode, bool), CommandError> {
        let mut stored = None;
        if stream.numbers.nodes.stored > 0 {
            self.visit_nodes(stream, ALL_IDS, Direction::Forward, |node| {
                stored = Some(node);
                ControlFlow::Break(())
            })?;
        }
        let (node, is_stored) = (stored.unwrap_or(stream.numbers.nodes.tail), stored.is_some());
        let first = stream.numbers.first;
        if node.entries > 0 && node.first <= first {
            return Ok((node, is_stored));
        }
        let end = if node.entries > 0 { node.first } else { StreamId::MAX };
        let (mut entries, mut last) = (0, first);
        self.visit_ids(
            stream,
            STREAM_ENTRY_PREFIX,
            (first, end),
            Direction::Forward,
            |id, _| {
                if (id == end && node.entries > 0) || entries == NODE_ENTRIES_MAX {
                    return ControlFlow::Break(());
                }
                (entries, last) = (entries + 1, id);
                ControlFlow::Continue(())
            },
        )?;
        let unknown = StreamNode {
            first,
            last,
            entries,
            ..StreamNode::default()
        };
        Ok((unknown, false))
    }

    /// The ids of a node's entries that are there.
    fn ids_in_node(&mut self, stream: &Stream, node: &StreamNode) -> Result<Vec<StreamId>, CommandError> {
        let mut ids = Vec::new();
        // What was deleted before the first entry is not walked over.
        let range = (node.first.max(stream.numbers.first), node.last);
        self.visit_ids(stream, STREAM_ENTRY_PREFIX, range, Direction::Forward, |id, _| {
            ids.push(id);
            ControlFlow::Continue(())
        })?;
        Ok(ids)
    }

    /// Accounts for an entry that has been deleted by itself. In Redis a node without entries is gone.
    pub(super) fn delete_from_nodes(&mut self, stream: &mut Stream, id: StreamId) -> Outcome {
        let nodes = &mut stream.numbers.nodes;
        if nodes.tail.entries == 0 || id < nodes.tail.first {
            if id <= nodes.head_last {
                nodes.head_left = nodes.head_left.saturating_sub(1);
            }
            return Ok(());
        }
        nodes.tail_left = nodes.tail_left.checked_sub(1).ok_or_else(damaged)?;
        if stream.numbers.nodes.tail_left > 0 {
            return Ok(());
        }
        // Entries are added to the last node that has any.
        stream.numbers.nodes.tail = StreamNode::default();
        if stream.collection.count == 0 {
            return Ok(());
        }
        let last = self
            .edge_id(stream, ALL_IDS, Direction::Backward)?
            .ok_or_else(damaged)?;
        // Behind its beginning there may be others, whose entries were deleted before later ones came to it, or before
        // those of the last node were.
        let (mut found, mut empty) = (None, Vec::new());
        self.visit_nodes(stream, ALL_IDS, Direction::Backward, |node| {
            if node.first <= last && node.last >= last {
                found = Some(node);
                return ControlFlow::Break(());
            }
            empty.push(node);
            ControlFlow::Continue(())
        })?;
        for node in empty {
            self.remove_stored_node(stream, node)?;
        }
        if let Some(node) = found {
            self.remove_stored_node(stream, node)?;
            stream.numbers.nodes.tail = node;
            stream.numbers.nodes.tail_left = self.ids_in_node(stream, &node)?.len() as u32;
        }
        Ok(())
    }

    /// Removes whole nodes from the stream's beginning, `limit` entries at most; returns how many entries. The caller
    /// saves the stream.
    pub(super) fn remove_nodes(&mut self, stream: &mut Stream, keep: Keep, limit: u64) -> Result<u64, CommandError> {
        let StreamNodes {
            head_last, head_left, ..
        } = stream.numbers.nodes;
        if head_left > 0 && !may_go(stream, keep, (head_last, u64::from(head_left))) {
            return Ok(0);
        }
        let mut removed = 0;
        while stream.collection.count > 0 {
            let is_enough = match keep {
                Keep::Newest(count) => stream.collection.count <= count,
                Keep::From(id) => stream.numbers.first >= id,
            };
            if is_enough {
                break;
            }
            let (node, is_stored) = self.first_node(stream)?;
            let ids = self.ids_in_node(stream, &node)?;
            let left = ids.len() as u64;
            if removed + left > limit || !may_go(stream, keep, (node.last, left)) {
                if is_stored {
                    // At most a node's entries.
                    (stream.numbers.nodes.head_last, stream.numbers.nodes.head_left) = (node.last, left as u32);
                }
                break;
            }
            for id in ids {
                let member = encoding::stream_entry_member(id);
                self.delete_member(&stream.collection, Column::Data, &member)?;
            }
            removed += left;
            stream.collection.count = stream.collection.count.checked_sub(left).ok_or_else(damaged)?;
            if is_stored {
                self.remove_stored_node(stream, node)?;
            } else if node == stream.numbers.nodes.tail {
                stream.numbers.nodes.tail = StreamNode::default();
                stream.numbers.nodes.tail_left = 0;
            }
            stream.numbers.first = match (stream.collection.count, node.last.successor()) {
                (1.., Some(from)) => {
                    let next = self.edge_id(stream, (from, StreamId::MAX), Direction::Forward)?;
                    next.ok_or_else(damaged)?
                }
                _ => StreamId::MIN,
            };
        }
        Ok(removed)
    }
}

/// Accounts for the entries that an exact trim has taken from the beginning. The last node is gone if all entries are,
/// or if those are kept that have greater ids than it has had.
pub(super) fn trim_from_nodes(stream: &mut Stream, trimmed: &[StreamId], keep: Keep) -> Outcome {
    let nodes = &mut stream.numbers.nodes;
    nodes.forget_head();
    if nodes.tail.entries == 0 {
        return Ok(());
    }
    let in_tail = trimmed.len() - trimmed.partition_point(|id| *id < nodes.tail.first);
    let left = (nodes.tail_left as usize).checked_sub(in_tail).ok_or_else(damaged)?;
    nodes.tail_left = left as u32;
    let is_gone = match keep {
        Keep::Newest(_) => left == 0,
        Keep::From(id) => nodes.tail.last < id,
    };
    if is_gone {
        nodes.tail = StreamNode::default();
    }
    Ok(())
}

/// Whether a trim may remove the first node, which has ended with an id and has so many entries left.
fn may_go(stream: &Stream, keep: Keep, (last, left): (StreamId, u64)) -> bool {
    match keep {
        Keep::Newest(count) => stream.collection.count.saturating_sub(left) >= count,
        Keep::From(id) => last < id,
    }
}
