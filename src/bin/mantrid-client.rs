//! The client. Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    mantrid::client::main()
}
