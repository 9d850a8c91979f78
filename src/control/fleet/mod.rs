//! The fleet: several daemons with one table, whose journal lives in etcd.

mod etcd;
mod keys;
mod load;
mod log;
#[cfg(test)]
mod properties;
