//! Idle connections, and the tasks that serve those whose clients have said something.
//!
//! An idle connection is a value without a task. Serving tasks take the connections that
//! were called ([`call`]) and serve each until it is idle again, so there are as many tasks as
//! requests under way, and what they need for a request stays in the cache.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::Wake as _;

use futures_lite::FutureExt;
use slab::Slab;

use super::Shard;
use super::call::{self, ServingTask};
use super::connection::{Connection, Service, serve};
use crate::link::Counter;

/// The idle connections of a shard.
#[derive(Default)]
pub(super) struct IdleConnections {
    all: RefCell<Slab<Box<Connection>>>,
}

impl IdleConnections {
    /// Keeps a connection until its waker calls.
    fn keep(&self, connection: Box<Connection>) {
        let mut all = self.all.borrow_mut();
        let entry = all.vacant_entry();
        connection.call.expect(entry.key() as u32);
        entry.insert(connection);
    }

    fn take(&self, key: u32) -> Option<Box<Connection>> {
        self.all.borrow_mut().try_remove(key as usize)
    }

    /// Ends all of them.
    pub(super) fn clear(&self) {
        drop(self.all.take());
        call::forget();
    }
}

impl Shard {
    /// Takes over a connection: it is idle, or a task will look after it.
    pub(super) fn seat(&self, mut connection: Box<Connection>) {
        if connection.is_silent() {
            return self.idle.keep(connection);
        }
        let call = connection.call.clone();
        self.idle.keep(connection);
        call.wake();
        self.ring.note_runnable();
    }
}

/// Makes a task wherever there is none for a connection that was called.
pub(super) async fn make_tasks(shard: Rc<Shard>) {
    loop {
        let key = call::unserved().await;
        spawn_caught(&shard, work(shard.clone(), key));
    }
}

/// Serves connections, from the one with this key on, while there is work.
async fn work(shard: Rc<Shard>, key: u32) {
    let task = Rc::new(ServingTask::default());
    let mut called = Some(key);
    while let Some(key) = called {
        if let Some(mut connection) = shard.idle.take(key)
            && serve(&mut connection).await == Service::Paused
        {
            shard.idle.keep(connection);
        }
        called = task.next().await;
    }
}

/// Runs a task; a panic in it ends its connection, not the shard. The panic hook has said where.
pub(super) fn spawn_caught(shard: &Rc<Shard>, serving: impl Future<Output = ()> + 'static) {
    // Boxed: futures around it would otherwise hold it twice over.
    let mut serving = Box::pin(serving);
    let shard = shard.clone();
    shard.clone().spawn(async move {
        let run = poll_fn(|cx| serving.as_mut().poll(cx));
        if AssertUnwindSafe(run).catch_unwind().await.is_err() {
            shard.count(Counter::Panics);
        }
    });
}
