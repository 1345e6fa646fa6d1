//! The binary: hands the command line to the library and its exit status to the system. No logic here.

use std::process::ExitCode;

fn main() -> ExitCode {
    image_syncer::run(std::env::args_os()).into()
}
