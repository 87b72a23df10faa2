//! The command-line program: reads the command line, calls the library, gives the exit code.

use std::{env, process::ExitCode};

use clap::Parser;
use scnpm::{
    cli::{self, Cli, Command},
    commands::{
        self, Failure, allow, check, clean, complete, denied, explain, generate, launchers, learn, notify,
        reload, replay, run, serve_metrics, serve_names, status, top, units, wait,
    },
    daemon, log,
};

/// What libnftables allocates is in libc's heap and leaves no gaps in this one.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::normalise(env::args_os());
    let wrong_usage = cli::wrong_usage(&arguments);
    let cli = Cli::try_parse_from(arguments).and_then(Cli::meant);
    log::start(cli.as_ref().is_ok_and(|cli| cli.daemon.debug));
    cli.map_or_else(|usage| commands::usage(&usage, wrong_usage), run).unwrap_or_else(|failure| {
        log::last(&failure.message);
        ExitCode::from(failure.exit_code)
    })
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Some(Command::Check(options)) => check::run(&options),
        Some(Command::Units(options)) => units::run(&options),
        Some(Command::Status(options)) => status::run(&options),
        Some(Command::Top(options)) => top::run(&options),
        Some(Command::Explain(options)) => explain::run(&options),
        Some(Command::Denied(options)) => denied::run(&options),
        Some(Command::Allow(options)) => allow::run(&options),
        Some(Command::Learn(options)) => learn::run(&options),
        Some(Command::Notify(options)) => notify::run(&options),
        Some(Command::Wait(options)) => wait::run(&options),
        Some(Command::Run(options)) => run::run(&options),
        Some(Command::Launchers(options)) => launchers::run(&options),
        Some(Command::Reload(options)) => reload::run(&options),
        Some(Command::Replay(options)) => replay::run(&options),
        Some(Command::ServeMetrics(reach)) => serve_metrics::run(&reach),
        Some(Command::ServeNames) => serve_names::run(),
        Some(Command::Generate(options)) => Ok(generate::run(&options)),
        Some(Command::Complete(options)) => complete::run(&options),
        None if cli.daemon.clean => clean::run(&cli.daemon.files),
        None => commands::block_on(daemon::run(cli.daemon)),
    }
}
