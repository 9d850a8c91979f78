//! The fleet: several daemons with one table, whose journal lives in etcd.

mod etcd;
