//! The client. Arguments in, exit code out.
fn main() {}
