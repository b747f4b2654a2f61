//! How redo records go: when all parts of a transaction are committed, its coordinator has the primary delete the
//! record, and then, when that is on disk, the other shards their applied markers. Many at once, as nobody waits for
//! it.

use super::coordination::ShardAt;
use super::network_executor::NetworkExecutor;
use super::transaction_steps::DELETIONS;
use crate::channel::message::{Caller, Priority, RequestId, Response, WAITS};
use crate::channel::step_arguments::Forget;
use crate::command::TRANSACTION_FORGET;
use crate::network::dispatch::APPLY_DEADLINE;
use crate::storage::transaction_scope::TransactionId;
use slab::Slab;
use std::time::Instant;

/// In the id of a step of which no answer is awaited, instead of an index in [`RedoDeletions::under_way`].
const NO_DELETION: u32 = u32::MAX;

/// A transaction of which all shards have committed their parts, and that has a redo record and applied markers yet.
struct Committed {
    id: TransactionId,
    primary: ShardAt,
    others: Vec<ShardAt>,
}

/// The redo records of one network executor's transactions that are to be deleted.
#[derive(Default)]
pub(super) struct RedoDeletions {
    /// Transactions whose records no executor has been asked to delete.
    due: Vec<Committed>,
    /// Transactions whose records one primary was asked to delete, by the number of the request.
    under_way: Slab<Vec<Committed>>,
}

impl RedoDeletions {
    /// A transaction is committed on `shards`, the primary first.
    pub(super) fn add(&mut self, id: TransactionId, shards: &[ShardAt]) {
        let (primary, others) = shards
            .split_first()
            .expect("a transaction with a redo record has parts");
        assert!(!others.is_empty(), "what is written to one shard needs no redo record");
        self.due.push(Committed {
            id,
            primary: *primary,
            others: others.to_vec(),
        });
    }
}

impl NetworkExecutor {
    /// Asks the primaries to delete the redo records that no restart needs any more.
    pub(super) fn delete_redo_records(&self) {
        let due = std::mem::take(&mut self.transactions.borrow_mut().deletions.due);
        let mut by_primary: Vec<Vec<Committed>> = (0..self.destination_count()).map(|_| Vec::new()).collect();
        for transaction in due {
            by_primary[transaction.primary.0].push(transaction);
        }
        for (destination, transactions) in by_primary.into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let records = transactions.iter().map(|transaction| Forget {
                is_primary: true,
                shard: transaction.primary.1,
                id: transaction.id,
            });
            let argument = Forget::encode_all(records);
            let number = self.transactions.borrow_mut().deletions.under_way.insert(transactions);
            self.send_forget(destination, number as u32, &argument);
        }
    }

    fn send_forget(&self, destination: usize, number: u32, argument: &[u8]) {
        let id = RequestId {
            connection: DELETIONS,
            generation: number,
            ..RequestId::default()
        };
        let deadline = Instant::now() + APPLY_DEADLINE;
        let target = (destination, Priority::Normal);
        let (step, caller) = (&TRANSACTION_FORGET, Caller::default());
        self.push_step(target, id, step, caller, deadline, &[argument]);
    }

    /// Redo records are durably gone, so the applied markers of their transactions may go, too: without the records
    /// nothing would be applied twice.
    pub(super) fn take_deletion(&self, response: &Response) {
        if response.id.generation == NO_DELETION || response.more == WAITS {
            return;
        }
        let number = response.id.generation as usize;
        let gone = self.transactions.borrow_mut().deletions.under_way.try_remove(number);
        if response.failed {
            // A record that could not be deleted is found by the next start, whose shards all have their markers.
            return;
        }
        let mut by_destination: Vec<Vec<Forget>> = vec![Vec::new(); self.destination_count()];
        for transaction in gone.into_iter().flatten() {
            for (destination, shard) in transaction.others {
                by_destination[destination].push(Forget {
                    is_primary: false,
                    shard,
                    id: transaction.id,
                });
            }
        }
        let with_markers = by_destination.into_iter().enumerate();
        for (destination, markers) in with_markers.filter(|(_, markers)| !markers.is_empty()) {
            self.send_forget(destination, NO_DELETION, &Forget::encode_all(markers));
        }
    }
}
