//! The daemon. Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    mantrid::daemon::main()
}
