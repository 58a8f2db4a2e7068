//! The command, see `torture --help`.

#![allow(clippy::print_stderr, reason = "a program says why it failed")]

use std::process::ExitCode;

use clap::Parser;
use torture::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::from(2)
        }
    }
}
