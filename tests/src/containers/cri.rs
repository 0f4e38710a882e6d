//! containerd's CRI, asked as the kubelet asks: sandboxes of pods, with labels and annotations, and no container in them.
//!
//! ```text
//!     RunPodSandbox   ─▶ /run/netns/cni-UUID ─▶ ADD ─▶ the sandbox's process, in place of a pause
//!     StopPodSandbox  ─▶ that process ends ─▶ DEL ─▶ no namespace
//! ```
//!
//! Debian 12 has no client for it. `curl` carries the messages, and they are written here, field by field: a number and a value,
//! as Protocol Buffers encode them. The image of a sandbox is ours, and its process `SERVE`s; nothing comes from a registry.
//!
//! `restrict_oom_score_adj`: a sandbox would have a lower score than its containerd, which takes CAP_SYS_RESOURCE. Plugins are
//! looked for in /opt/cni/bin, ours and Debian's `loopback`; of networks there is one, the first file in /etc/cni/net.d.
//!
//! Sources: kubernetes/cri-api, pkg/apis/runtime/v1/api.proto; gRPC over HTTP/2.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::daemon::SOON;
use crate::topology::Machine;
use crate::wait;

use super::{Host, SERVE, finish, image};

const SOCKET: &str = "/run/containerd/containerd.sock";
/// What of containerd is Kubernetes'.
const SPACE: &str = "k8s.io";
/// For one call, in seconds.
const LIMIT: &str = "30";

pub struct Cri<'a> {
    host: &'a Host,
    daemon: Child,
}

/// A pod as the kubelet describes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pod<'p> {
    pub namespace: &'p str,
    pub name: &'p str,
    /// Sandboxes that were made for it before.
    pub attempt: u64,
    pub labels: &'p [(&'p str, &'p str)],
    pub annotations: &'p [(&'p str, &'p str)],
}

/// What is told of a sandbox.
#[derive(Debug)]
pub struct Sandbox {
    pub is_ready: bool,
    pub addresses: Vec<IpAddr>,
    /// Its network namespace, as long as it has one.
    pub machine: Option<Machine>,
}

impl<'a> Cri<'a> {
    pub fn start(host: &'a Host) -> Cri<'a> {
        let configuration = format!(
            r#"
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
            image::TAG
        );
        host.write("/etc/containerd/config.toml", configuration);
        let mut command = host.command("containerd");
        command.args(["--config", "/etc/containerd/config.toml"]);
        let daemon = host.start_daemon("containerd.log", command);
        let cri = Cri { host, daemon };
        wait::until_ok("containerd to be ready", SOON, || match cri.conditions() {
            Ok(conditions) if conditions.get("RuntimeReady") == Some(&true) => Ok(()),
            other => Err(format!("{other:?}\n{}", host.log("containerd.log"))),
        });
        let archive = host.folder().join("sandbox.tar");
        image::write_running(&archive, &SERVE);
        let mut import = host.command("ctr");
        import.args(["--namespace", SPACE, "image", "import", "--snapshotter", "native"]).arg(archive);
        finish(&mut import).unwrap();
        cri
    }

    /// What the runtime says of itself, as the kubelet asks before it makes a node ready.
    pub fn conditions(&self) -> Result<BTreeMap<String, bool>, String> {
        let answer = self.call("Status", Message::default())?;
        let status = bytes(&answer, 1).next().unwrap_or_default();
        let conditions = bytes(status, 1).map(|condition| (text(condition, 1), number(condition, 2) == 1));
        Ok(conditions.collect())
    }

    /// Makes a sandbox, and tells its id. What was said if there is none.
    pub fn run(&self, pod: &Pod<'_>) -> Result<String, String> {
        let metadata = Message::default()
            .text(1, pod.name)
            .text(2, &format!("{}-{}", pod.namespace, pod.name))
            .text(3, pod.namespace)
            .number(4, pod.attempt);
        let config = Message::default()
            .message(1, &metadata)
            .text(2, pod.name)
            .pairs(6, pod.labels)
            .pairs(7, pod.annotations)
            .message(8, &Message::default().text(1, &self.host.cgroup()));
        let answer = self.call("RunPodSandbox", Message::default().message(1, &config))?;
        Ok(text(&answer, 1))
    }

    /// Ends it and takes it off its network. It is still known.
    pub fn stop(&self, sandbox: &str) -> Result<(), String> {
        self.call("StopPodSandbox", Message::default().text(1, sandbox)).map(drop)
    }

    /// Takes away what is left of it.
    pub fn remove(&self, sandbox: &str) -> Result<(), String> {
        self.call("RemovePodSandbox", Message::default().text(1, sandbox)).map(drop)
    }

    /// All that it knows, also those that it could not make and not take off their network again.
    pub fn sandboxes(&self) -> Result<Vec<String>, String> {
        let answer = self.call("ListPodSandbox", Message::default())?;
        Ok(bytes(&answer, 1).map(|sandbox| text(sandbox, 1)).collect())
    }

    pub fn status(&self, sandbox: &str) -> Result<Sandbox, String> {
        let answer = self.call("PodSandboxStatus", Message::default().text(1, sandbox).number(2, 1))?;
        let status = bytes(&answer, 1).next().unwrap_or_default();
        let network = bytes(status, 5).next().unwrap_or_default();
        let others = bytes(network, 2).map(|other| text(other, 1));
        let addresses = std::iter::once(text(network, 1)).chain(others).filter_map(|text| text.parse().ok()).collect();
        let details = bytes(&answer, 2).find(|entry| text(entry, 1) == "info").map(|entry| text(entry, 2));
        let details: Value = serde_json::from_str(&details.unwrap_or_default()).unwrap_or_default();
        let namespaces = details["runtimeSpec"]["linux"]["namespaces"].as_array();
        let network = namespaces.into_iter().flatten().find(|namespace| namespace["type"] == "network");
        let name = network.and_then(|network| network["path"].as_str()?.rsplit('/').next());
        let is_there = details["netNamespaceClosed"] == false;
        let machine = name.filter(|_| is_there).map(Machine::of);
        Ok(Sandbox { is_ready: number(status, 3) == 0, addresses, machine })
    }

    fn call(&self, method: &str, message: Message) -> Result<Vec<u8>, String> {
        let mut curl = self.host.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            LIMIT,
            "--http2-prior-knowledge",
            "--unix-socket",
            SOCKET,
        ]);
        curl.args(["--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-"]);
        curl.args(["--dump-header", "/dev/stderr"]);
        curl.arg(format!("http://localhost/runtime.v1.RuntimeService/{method}"));
        // Not compressed, and how long it is.
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.0.len()).unwrap().to_be_bytes());
        frame.extend(message.0);
        let (answer, said) = exchange(curl, &frame);
        match said.lines().rev().find_map(|line| line.strip_prefix("grpc-status: ")) {
            Some("0") => Ok(answer.get(5..).unwrap_or_default().to_vec()),
            _ => Err(format!("{method}: {said}")),
        }
    }
}

impl Drop for Cri<'_> {
    /// Sandboxes end with the host.
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What a program prints when it is given that, and what it says besides.
fn exchange(mut command: Command, input: &[u8]) -> (Vec<u8>, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Fields one after the other. A field's key is its number and, in the lowest three bits, 0 for a number and 2 for bytes.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    /// Seven bits a byte, the lowest first; all but the last have the highest bit.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Message {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Message {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Message) -> Message {
        self.bytes(field, &message.0)
    }

    /// A map: a message with key and value for each.
    fn pairs(self, field: u64, pairs: &[(&str, &str)]) -> Message {
        let entry = |(key, value): &(&str, &str)| Message::default().text(1, key).text(2, value);
        pairs.iter().map(entry).fold(self, |message, entry| message.message(field, &entry))
    }
}

#[derive(Debug, PartialEq)]
enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The fields of a message, up to its end or to what is neither of the two.
struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    fn varint(&mut self) -> Option<u64> {
        let length = self.0.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (varint, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(varint.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = (u64, Field<'m>);

    fn next(&mut self) -> Option<(u64, Field<'m>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

/// Every value of a field.
fn bytes(message: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(move |found| match found {
        (number, Field::Bytes(bytes)) if number == field => Some(bytes),
        _ => None,
    })
}

/// A text; none is an empty one.
fn text(message: &[u8], field: u64) -> String {
    String::from_utf8_lossy(bytes(message, field).next().unwrap_or_default()).into_owned()
}

/// A number; none is 0.
fn number(message: &[u8], field: u64) -> u64 {
    let mut numbers = Fields(message).filter_map(|found| match found {
        (number, Field::Number(value)) if number == field => Some(value),
        _ => None,
    });
    numbers.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Protocol Buffers' own description.
    #[test]
    fn messages_are_as_the_world_writes_them() {
        let message = Message::default().number(1, 150);
        assert_eq!(message.0, [0x08, 0x96, 0x01]);
        let outer = Message::default().text(2, "testing").message(3, &message);
        assert_eq!(outer.0, b"\x12\x07testing\x1a\x03\x08\x96\x01");
        let fields: Vec<(u64, Field<'_>)> = Fields(&outer.0).collect();
        assert_eq!(fields, [(2, Field::Bytes(b"testing")), (3, Field::Bytes(&message.0))]);
        assert_eq!((number(&message.0, 1), number(&message.0, 2), text(&outer.0, 2)), (150, 0, "testing".to_owned()));
        // What is cut off has no more fields.
        assert_eq!(Fields(&outer.0[..6]).count(), 0);
    }
}
