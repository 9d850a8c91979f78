//! The daemon. Arguments in, exit code out.
fn main() {}
