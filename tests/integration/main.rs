//! End-to-end tests: the built program, driven over real sockets by scripted clients and backends.
//! None of our code is linked in. Topics come simplest first, so that the first failure is the
//! telling one. Nothing waits for time where there is an event to wait for.

// what the tests are written with
mod backend;
mod browser;
mod bulk;
mod daemon;
mod etcd;
mod manage;
mod management;
mod message;
mod script;
mod stand_in;

// the topics
mod access_log;
mod actions;
mod api;
mod attack;
mod balance;
mod client;
mod client_daemon;
mod clock;
mod config;
mod dashboard;
mod dashboard_daemon;
mod dashboard_looks;
mod demo;
mod docs;
mod drained;
mod durability;
mod events;
mod faults;
mod fleet;
mod fleet_faults;
mod forwarding;
mod framing;
mod guard;
mod health;
mod hold;
mod hostile;
mod keep_alive;
mod large;
mod limits;
mod memory;
mod metrics;
mod names;
mod original;
mod overload;
mod panics;
mod pipelining;
mod privileges;
mod proxy_protocol;
mod raw;
mod refusals;
mod reload;
mod responses;
mod restarts;
mod retry;
mod routing;
mod service;
mod shutdown;
mod spin;
mod state;
mod statistics;
mod timeouts;
mod tiny_chunks;
mod tunnel;
mod upgrade;
mod wake;
mod websocket;
mod wire;
