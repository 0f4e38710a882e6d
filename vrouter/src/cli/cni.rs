//! cni: the plugin put where runtimes look for it, and taken away.
//!
//! A file is written under another name and then renamed: a runtime that starts meanwhile finds the old one or the new one. The
//! program has mode 0755 and no special bits, the configuration 0644: there is nothing in it to hide.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use control::http::api::ErrorCode;
use serde_json::json;

use super::error::CliError;
use super::{Format, render};

const PROGRAM_MODE: u32 = 0o755;
const CONFIG_MODE: u32 = 0o644;

const NAMES: [&str; 2] = ["vrouter-cni", "vrouter-ipam"];
const CALICO_NAMES: [&str; 2] = ["calico", "calico-ipam"];

/// What runtimes may pass on.
const CAPABILITIES: [&str; 5] = ["ips", "mac", "portMappings", "bandwidth", "io.kubernetes.cri.pod-annotations"];

#[derive(Debug, Args)]
pub struct CniArguments {
    #[command(subcommand)]
    command: CniCommand,
}

#[derive(Debug, Subcommand)]
enum CniCommand {
    /// Put the plugin and a network configuration in place
    Install(InstallArguments),

    /// Take away what `install` has put there
    Uninstall(Places),
}

#[derive(Debug, Args)]
struct Places {
    /// Where runtimes look for plugins
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    bin_dir: PathBuf,

    /// Where runtimes look for networks
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    conf_dir: PathBuf,

    /// The configuration's file
    #[arg(long, default_value = "10-vrouter.conflist", value_name = "FILE")]
    conf_name: String,

    /// Also under Calico's names, for configurations that are there already
    #[arg(long)]
    calico_names: bool,
}

#[derive(Debug, Args)]
struct InstallArguments {
    #[command(flatten)]
    places: Places,

    /// What the network is called
    #[arg(long, default_value = "vrouter")]
    network: String,

    /// Take IPv6 addresses as well
    #[arg(long)]
    ipv6: bool,

    /// A pool to take addresses from: a name or CIDR
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,

    /// Write over a configuration that was changed
    #[arg(long)]
    force: bool,
}

/// `socket` is where the daemon listens, if not where it usually does.
pub fn run(socket: Option<&Path>, format: Format, arguments: &CniArguments) -> Result<(), CliError> {
    let done = match &arguments.command {
        CniCommand::Install(arguments) => install(socket, arguments)?,
        CniCommand::Uninstall(places) => uninstall(places)?,
    };
    match render::structured(format, &done)? {
        Some(text) => render::print(&text),
        None => render::print(&done.iter().map(|line| format!("{line}\n")).collect::<String>()),
    }
}

fn install(socket: Option<&Path>, arguments: &InstallArguments) -> Result<Vec<String>, CliError> {
    let places = &arguments.places;
    let mut done = Vec::new();
    let own =
        std::env::current_exe().map_err(|source| failed("find this program", Path::new("/proc/self/exe"), source))?;
    let config = places.config()?;
    let text = conflist(socket, arguments);
    // Looked at before anything is written.
    let is_there = match fs::read_to_string(&config) {
        Ok(found) if found == text => true,
        Ok(_) if !arguments.force => {
            let message = format!("{} is there and says something else; --force writes over it", config.display());
            return Err(CliError::refused(ErrorCode::AlreadyExists, message));
        }
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(CliError::Read { path: config, source }),
    };
    for folder in [&places.bin_dir, &places.conf_dir] {
        fs::create_dir_all(folder).map_err(|source| failed("create folder", folder, source))?;
    }
    let first = places.bin_dir.join(NAMES[0]);
    for name in places.names() {
        let program = places.bin_dir.join(name);
        // One program under several names.
        let is_first = name == NAMES[0];
        replace(&program, PROGRAM_MODE, |draft| match is_first {
            true => fs::copy(&own, draft).map(|_| ()),
            false => fs::hard_link(&first, draft),
        })?;
        done.push(format!("installed {}", program.display()));
    }
    if is_there {
        done.push(format!("unchanged {}", config.display()));
    } else {
        replace(&config, CONFIG_MODE, |draft| fs::write(draft, &text))?;
        done.push(format!("installed {}", config.display()));
    }
    Ok(done)
}

fn uninstall(places: &Places) -> Result<Vec<String>, CliError> {
    let mut done = Vec::new();
    // The configuration first: a network without its plugin is an error for runtimes.
    let programs = places.names().map(|name| places.bin_dir.join(name));
    for file in std::iter::once(places.config()?).chain(programs) {
        match fs::remove_file(&file) {
            Ok(()) => done.push(format!("removed {}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("remove", &file, source)),
        }
    }
    Ok(done)
}

impl Places {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let calico: &[&str] = if self.calico_names { &CALICO_NAMES } else { &[] };
        NAMES.iter().chain(calico).copied()
    }

    fn config(&self) -> Result<PathBuf, CliError> {
        let is_name = !self.conf_name.contains('/')
            && [".conflist", ".conf", ".json"].iter().any(|end| self.conf_name.ends_with(end));
        match is_name {
            true => Ok(self.conf_dir.join(&self.conf_name)),
            false => Err(CliError::Usage(format!(
                "--conf-name {}: expected a file name that ends in .conflist",
                self.conf_name
            ))),
        }
    }
}

/// The network as runtimes read it.
fn conflist(socket: Option<&Path>, arguments: &InstallArguments) -> String {
    let mut ipam = json!({ "type": "vrouter-ipam" });
    if arguments.ipv6 {
        ipam["assign_ipv6"] = json!(true);
    }
    let (ipv6, ipv4): (Vec<&String>, Vec<&String>) = arguments.pools.iter().partition(|pool| pool.contains(':'));
    for (field, pools) in [("ipv4_pools", ipv4), ("ipv6_pools", ipv6)] {
        if !pools.is_empty() {
            ipam[field] = json!(pools);
        }
    }
    let capabilities: serde_json::Map<String, serde_json::Value> =
        CAPABILITIES.iter().map(|name| (name.to_string(), json!(true))).collect();
    let mut plugin = json!({ "type": "vrouter-cni", "ipam": ipam, "capabilities": capabilities });
    if let Some(socket) = socket {
        plugin["socket"] = json!(socket);
    }
    let list = json!({ "cniVersion": "1.0.0", "name": arguments.network, "plugins": [plugin] });
    format!("{list:#}\n")
}

/// Writes a file as a whole, or not at all.
fn replace(file: &Path, mode: u32, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), CliError> {
    let mut draft = file.as_os_str().to_os_string();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = write(&draft)
        .and_then(|()| fs::set_permissions(&draft, Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&draft, file));
    written.map_err(|source| {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&draft);
        failed("write", file, source)
    })
}

fn failed(action: &str, path: &Path, source: io::Error) -> CliError {
    let code = match source.kind() {
        io::ErrorKind::NotFound => ErrorCode::FileNotFound,
        io::ErrorKind::PermissionDenied => ErrorCode::FileDenied,
        _ => ErrorCode::FileUnreadable,
    };
    CliError::refused(code, format!("{action} {}: {source}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn arguments(folder: &Path) -> InstallArguments {
        InstallArguments {
            places: Places {
                bin_dir: folder.join("bin"),
                conf_dir: folder.join("net.d"),
                conf_name: "10-vrouter.conflist".to_string(),
                calico_names: true,
            },
            network: "pods".to_string(),
            ipv6: true,
            pools: vec!["main".to_string(), "fd00::/64".to_string()],
            force: false,
        }
    }

    #[test]
    fn what_is_installed_has_plain_modes_and_goes_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = arguments(folder.path());
        install(None, &arguments).unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o7777;
        for name in NAMES.iter().chain(&CALICO_NAMES) {
            assert_eq!(mode(&format!("bin/{name}")), PROGRAM_MODE);
        }
        assert_eq!(mode("net.d/10-vrouter.conflist"), CONFIG_MODE);
        assert!(install(None, &arguments).unwrap().last().unwrap().starts_with("unchanged"));
        // What a person has changed stays.
        let config = folder.path().join("net.d/10-vrouter.conflist");
        fs::write(&config, "{}").unwrap();
        assert_eq!(install(None, &arguments).unwrap_err().code(), ErrorCode::AlreadyExists);
        arguments.force = true;
        install(Some(Path::new("/x.sock")), &arguments).unwrap();
        assert!(fs::read_to_string(&config).unwrap().contains("/x.sock"));
        uninstall(&arguments.places).unwrap();
        for place in ["bin", "net.d"] {
            assert_eq!(fs::read_dir(folder.path().join(place)).unwrap().count(), 0);
        }
        assert!(uninstall(&arguments.places).unwrap().is_empty());
    }

    #[test]
    fn the_configuration_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let list: serde_json::Value = serde_json::from_str(&conflist(None, &arguments(folder.path()))).unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        let config: control::cni::config::NetworkConfig = serde_json::from_value(plugin).unwrap();
        assert_eq!((config.name.as_str(), config.delegate()), ("pods", None));
        assert_eq!(
            (config.ipam.ipv4_pools, config.ipam.ipv6_pools),
            (vec!["main".to_string()], vec!["fd00::/64".to_string()])
        );
        assert_eq!(config.ipam.assign_ipv6, Some(true));
    }
}
