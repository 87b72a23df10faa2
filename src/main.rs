//! The command-line program: reads the command line, calls the library, gives the exit code.

use std::process::ExitCode;

use clap::Parser;
use scnpm::{
    cli::{self, Cli, Command},
    commands::{self, Failure, check, clean, units},
    daemon, log,
};

fn main() -> ExitCode {
    let cli = Cli::parse_from(cli::normalise(std::env::args_os()));
    log::start(cli.daemon.debug);
    run(cli).unwrap_or_else(|failure| {
        tracing::error!("{}", failure.message);
        ExitCode::from(failure.exit_code)
    })
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Some(Command::Check(options)) => check::run(&options),
        Some(Command::Units(options)) => units::run(&options),
        None if cli.daemon.clean => clean::run(&cli.daemon.files),
        None => commands::block_on(daemon::run(cli.daemon)),
    }
}
