//! podman with its CNI back-end: no daemon, one `conmon` per container.
//!
//! It makes the namespace /run/netns/netns-UUID itself, gives the container's name in CNI_ARGS, and `--ip` and port maps as
//! IP and portMappings. crun is not used: it refuses control groups of both versions side by side.

use std::process::{Command, Output};

use super::{Host, Runtime, finish, image};

const CONFIGURATION: &str = "/etc/containers/tests.conf";
const STORAGE: &str = "/etc/containers/tests-storage.conf";

pub struct Podman<'a> {
    host: &'a Host,
}

impl<'a> Podman<'a> {
    pub fn start(host: &'a Host) -> Podman<'a> {
        let (tag, value) = host.tag();
        let configuration = format!(
            r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CONTAINERS_CONF={CONFIGURATION}", "CONTAINERS_STORAGE_CONF={STORAGE}", "{tag}={value}"]
"#
        );
        let storage =
            "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers\"\ngraphroot = \"/var/lib/containers\"\n";
        host.write(CONFIGURATION, configuration);
        host.write(STORAGE, storage);
        let podman = Podman { host };
        let archive = host.folder().join("image.tar");
        image::write(&archive);
        finish(podman.command(&["load", "--quiet", "--input"]).arg(archive)).unwrap();
        podman
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("podman");
        command.env("CONTAINERS_CONF", CONFIGURATION).env("CONTAINERS_STORAGE_CONF", STORAGE).args(arguments);
        command
    }
}

impl Runtime for Podman<'_> {
    fn run(&self, name: &str, network: &str, options: &[&str], command: &[&str]) -> Result<(), String> {
        let mut podman = self.command(&["run", "--detach", "--name", name, "--network", network]);
        podman.args(["--cgroup-parent", &self.host.cgroup()]).args(options).arg(image::TAG).args(command);
        finish(&mut podman).map(drop)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Output {
        self.command(&["exec", name]).args(command).output().unwrap()
    }

    fn stop(&self, name: &str) -> Result<(), String> {
        finish(&mut self.command(&["stop", "--time", "0", name])).map(drop)
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        finish(&mut self.command(&["rm", "--force", "--time", "0", name])).map(drop)
    }
}
