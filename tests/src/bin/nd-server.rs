//! The server of the scenarios; what it does is in its arguments (`netdiag_tests::steps`).

fn main() -> std::process::ExitCode {
    netdiag_tests::steps::main()
}
