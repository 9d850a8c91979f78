//! The queue of the writer: what the other parts of control ask it to do.

use tokio::sync::{mpsc, oneshot};

use super::Counted;
use super::change::{Change, Done, Refused};
use super::fleet::Brought;
use super::store::{Folded, StoreError};
use crate::limits;

/// An order to the writer.
pub(super) enum Order {
    /// A change to try, and to answer.
    Change(Change, oneshot::Sender<Result<Done, Refused>>),
    /// Save the statistics.
    Save,
    /// The folding of the journal has ended.
    Folded(Result<Folded, StoreError>),
    /// Save all, and write no more until `Resume`: another process takes over. Answered when that
    /// process may read.
    Release(oneshot::Sender<()>),
    /// Go on: the other process did not take over.
    Resume,
    /// List the sums since `Release`.
    CountedSince(oneshot::Sender<Vec<Counted>>),
    /// Add these sums of another process, counted after its state was ours.
    Add(Vec<Counted>),
    /// Take what the fleet has brought.
    Fleet(Box<Brought>),
    /// Save all, and end.
    Finish,
}

/// The writer's end of the queue; clones share it.
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

    /// Tells of the end of a fold; called from its own thread.
    pub(super) fn folded(&self, end: Result<Folded, StoreError>) {
        // An error: the daemon ends, which leaves one file in any case.
        let _ = self.0.blocking_send(Order::Folded(end));
    }

    pub(super) async fn save(&self) {
        // Without a writer there is nothing left to save for.
        let _ = self.0.send(Order::Save).await;
    }

    /// Lets go of the state file.
    pub(super) async fn release(&self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Order::Release(answer)).await;
        let _ = answered.await;
    }

    /// Takes the state file up again.
    pub(super) async fn resume(&self) {
        let _ = self.0.send(Order::Resume).await;
    }

    /// Lists the sums of hosts since the state file was let go of.
    pub(super) async fn counted_since(&self) -> Vec<Counted> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Order::CountedSince(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// Adds sums of another process; called from a thread that may wait.
    pub(super) fn add_counts(&self, counted: Vec<Counted>) {
        let _ = self.0.blocking_send(Order::Add(counted));
    }

    /// Makes a single node of this one.
    pub(super) async fn leave_fleet(&self) {
        let (done, left) = oneshot::channel();
        self.bring(Brought::Leave(done)).await;
        let _ = left.await;
    }

    /// Hands on what the fleet has brought.
    pub(super) async fn bring(&self, brought: Brought) {
        let _ = self.0.send(Order::Fleet(Box::new(brought))).await;
    }

    /// Has the writer save all, and end.
    pub(super) async fn finish(&self) {
        let _ = self.0.send(Order::Finish).await;
    }
}
