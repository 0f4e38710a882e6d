//! `vrouter run`: settings, logs, signals, and then the control thread until somebody says stop.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use config::settings::{File, LogFormat, LogLevel, Settings, SettingsError};
use control::http::api::ErrorCode;
use control::runtime::{self, StartError};
use control::tell::chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::error::CliError;
use crate::cli::input::{self, Walk};
use crate::cli::{Format, RunArguments};

/// Status of a daemon that was asked for something wrong.
const EXIT_USAGE: u8 = 2;
/// Status of a daemon that could not start.
const EXIT_UNAVAILABLE: u8 = 6;

pub fn run(arguments: RunArguments) -> ExitCode {
    let settings = match load(&arguments) {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("error[{}]: {} wrong setting(s)", ErrorCode::BadSetting, problems.len());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    log_to_stderr(settings.log_format, settings.log_level);
    let walk = Walk { recursive: true, skip_empty: true };
    let manifests = match &arguments.apply {
        None => Vec::new(),
        Some(folder) => match input::read(std::slice::from_ref(folder), walk) {
            Ok(resources) => resources,
            Err(error) => return report(&error),
        },
    };
    match serve(settings, manifests) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("error[{}]: {}", ErrorCode::StartFailed, chain(&error));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn report(error: &CliError) -> ExitCode {
    error.report(Format::Ps);
    ExitCode::from(error.exit_status())
}

fn load(arguments: &RunArguments) -> Result<Settings, Vec<String>> {
    let host_name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = arguments.config.as_deref().map(|path| read(path).map(|text| (path.display().to_string(), text)));
    let text = text.transpose().map_err(|problem| vec![problem])?;
    let file = text.as_ref().map(|(name, text)| File { name, text });
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Settings::load(&host_name, file, environment, arguments.settings.iter())
        .map_err(|errors| errors.iter().map(SettingsError::to_string).collect())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("read settings file {}: {error}", path.display()))
}

fn log_to_stderr(format: LogFormat, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries tell their own story only from warnings up.
    let ours = ["vrouter", "control", "fastpath", "policy"];
    let targets =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours.map(|name| (name, level)));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(targets);
    match format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
}

/// Serves until SIGTERM or SIGINT.
fn serve(settings: Settings, manifests: Vec<config::resource::Resource>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let (stop, stopped) = watch::channel(false);
    // Netlink and the API are tasks of this one thread; nothing of them is `Send`.
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
        let signals = tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Nobody listens any more: then the daemon has ended by itself.
            let _ = stop.send(true);
        });
        let result = runtime::run(settings, manifests, stopped, announce).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        signals.abort();
        result
    })
}

/// Tells the service manager, if there is one, that packets are being judged.
fn announce() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "service manager not told that the router is ready");
    }
    tracing::info!("ready");
}
