//! One call of the CNI plugin, as a runtime makes it: this program under the plugin's name.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use config::net::Cidr;
use control::host::netns;
use serde_json::{Value, json};

use super::NAME;

/// The program that is running.
const PROGRAM: &str = "/proc/self/exe";
const VERSION: &str = "1.0.0";

pub struct Plugin {
    socket: PathBuf,
    /// Where the runtime is, and the router.
    node: &'static str,
}

impl Plugin {
    pub fn new(socket: &Path, node: &'static str) -> Plugin {
        Plugin { socket: socket.to_path_buf(), node }
    }

    /// The address, and the whole result.
    pub fn add(&self, container: &str, namespace: &str) -> Result<(IpAddr, Value), String> {
        let result = self.call("ADD", container, namespace, None)?;
        let address = result["ips"][0]["address"].as_str().and_then(|text| Cidr::parse(text).ok());
        let address = address.ok_or_else(|| format!("no address in {result}"))?;
        Ok((address.address(), result))
    }

    pub fn check(&self, container: &str, namespace: &str, result: &Value) -> Result<(), String> {
        self.call("CHECK", container, namespace, Some(result)).map(drop)
    }

    pub fn del(&self, container: &str, namespace: &str) -> Result<(), String> {
        self.call("DEL", container, namespace, None).map(drop)
    }

    fn call(&self, verb: &str, container: &str, namespace: &str, previous: Option<&Value>) -> Result<Value, String> {
        let mut config = json!({
            "cniVersion": VERSION,
            "name": NAME,
            "type": "vrouter-cni",
            "ipam": { "type": "vrouter-ipam" },
            "labels": { "vrouter-lab": container },
        });
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let mut command = Command::new(PROGRAM);
        command
            .arg0("vrouter-cni")
            .env_clear()
            .env("VROUTER_SOCKET", &self.socket)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns::path(namespace))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            // Ctrl-C at the terminal ends the lab between two checks.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} the plugin: {error}");
        let started = netns::in_namespace(self.node, || command.spawn()).map_err(|error| failed("start", &error))?;
        let mut child = started.map_err(|error| failed("start", &error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that refuses at once may not read it.
            let _ = stdin.write_all(config.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed("wait for", &error))?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        match output.status.success() {
            true => Ok(answer),
            false => Err(match answer["msg"].as_str() {
                Some(msg) => format!("{msg} (code {})", answer["code"]),
                None => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            }),
        }
    }
}
