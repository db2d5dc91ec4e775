//! The first process of a test VM: it follows `/netdiag/plan` and switches the machine off.

fn main() -> std::process::ExitCode {
    netdiag_tests::init::main()
}
