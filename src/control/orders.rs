//! The queue of the writer: orders from the other parts of control.

use tokio::sync::{mpsc, oneshot};

use super::Counted;
use super::change::{Change, Done, Refused};
use super::fleet::Brought;
use super::store::{Folded, StoreError};
use crate::limits;

/// An order to the writer.
pub(super) enum Order {
    /// Try a change, and answer it.
    Change(Change, oneshot::Sender<Result<Done, Refused>>),
    /// Save the statistics.
    Save,
    /// Note that folding the journal has ended.
    Folded(Result<Folded, StoreError>),
    /// Save all, and write nothing more until `Resume`, because another process takes over. The
    /// order is answered when that process may read the files.
    Release(oneshot::Sender<()>),
    /// Write again: the other process did not take over.
    Resume,
    /// List what hosts have counted since `Release`.
    CountedSince(oneshot::Sender<Vec<Counted>>),
    /// Add these counts of the daemon before this one, which it made after it had passed on its
    /// state.
    Add(Vec<Counted>),
    /// Apply news of the fleet.
    Fleet(Box<Brought>),
    /// Save all, and end.
    Finish,
}

/// Sending end of the queue; clones share it.
#[derive(Clone)]
pub(super) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Makes the queue.
    pub(super) fn new() -> (Orders, mpsc::Receiver<Order>) {
        let (orders, incoming) = mpsc::channel(limits::CHANGES_WAITING_MAX);
        (Orders(orders), incoming)
    }

    /// Waits until the writer has put the change in force, or refused it.
    pub(super) async fn change(&self, change: Change) -> Result<Done, Refused> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send(Order::Change(change, answer)).await;
        sent.map_err(|_| Refused::Stopping)?;
        answered.await.unwrap_or(Err(Refused::Stopping))
    }

    /// Reports the end of a fold. Called from the thread that folds.
    pub(super) fn folded(&self, end: Result<Folded, StoreError>) {
        // An error means that the daemon is ending. Its end leaves a single file in any case.
        let _ = self.0.blocking_send(Order::Folded(end));
    }

    pub(super) async fn save(&self) {
        // An error means that the writer has ended; then there is nothing to save.
        let _ = self.0.send(Order::Save).await;
    }

    /// Releases the state file for another process, once all is saved.
    pub(super) async fn release(&self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Order::Release(answer)).await;
        let _ = answered.await;
    }

    /// Has the writer take the state file back.
    pub(super) async fn resume(&self) {
        let _ = self.0.send(Order::Resume).await;
    }

    /// Lists what hosts have counted since the state file was released.
    pub(super) async fn counted_since(&self) -> Vec<Counted> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Order::CountedSince(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// Adds counts of another process. Called from a thread that may block.
    pub(super) fn add_counts(&self, counted: Vec<Counted>) {
        let _ = self.0.blocking_send(Order::Add(counted));
    }

    /// Takes this node out of its fleet. It is a single node from then on.
    pub(super) async fn leave_fleet(&self) {
        let (done, left) = oneshot::channel();
        self.bring(Brought::Leave(done)).await;
        let _ = left.await;
    }

    /// Passes news of the fleet to the writer.
    pub(super) async fn bring(&self, brought: Brought) {
        let _ = self.0.send(Order::Fleet(Box::new(brought))).await;
    }

    /// Has the writer save all, and end.
    pub(super) async fn finish(&self) {
        let _ = self.0.send(Order::Finish).await;
    }
}
