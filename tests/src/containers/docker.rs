//! dockerd without a bridge, without rules in iptables, and with remote drivers where it looks for them.
//!
//! ```text
//!     /etc/docker/plugins/NAME.spec ─▶ unix:///run/vrouter-lab/…  a socket of the router's
//! ```
//!
//! It starts a containerd of its own. `DOCKER_RAMDISK`: the root of this place is no disk it could pivot from.

use std::path::Path;
use std::process::{Child, Command, Output};

use crate::daemon::SOON;
use crate::wait;

use super::{Host, Runtime, finish, image};

const SOCKET: &str = "unix:///run/docker.sock";
/// By its path: a machine may have a `docker` of another kind in front.
const CLIENT: &str = "/usr/bin/docker";

pub struct Docker<'a> {
    host: &'a Host,
    daemon: Child,
}

impl<'a> Docker<'a> {
    pub fn start(host: &'a Host) -> Docker<'a> {
        let configuration = format!(
            r#"{{"hosts": ["{SOCKET}"], "storage-driver": "vfs", "iptables": false, "ip6tables": false, "ip-masq": false,
"bridge": "none", "userland-proxy": false, "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "{}",
"data-root": "/var/lib/docker", "exec-root": "/run/docker", "pidfile": "/run/docker.pid"}}"#,
            host.cgroup()
        );
        host.write("/etc/docker/daemon.json", configuration);
        let mut docker = Docker { host, daemon: Docker::spawn(host) };
        docker.until_ready();
        let archive = host.folder().join("image.tar");
        image::write(&archive);
        finish(docker.command(&["load", "--quiet", "--input"]).arg(archive)).unwrap();
        docker
    }

    fn spawn(host: &Host) -> Child {
        let mut command = host.command("dockerd");
        command.args(["--config-file", "/etc/docker/daemon.json"]).env("DOCKER_RAMDISK", "1");
        host.start_daemon("dockerd.log", command)
    }

    fn until_ready(&mut self) {
        wait::until_ok("dockerd to answer", SOON, || {
            let ended = self.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended with {ended:?}:\n{}", self.host.log("dockerd.log"));
            finish(&mut self.command(&["version"])).map_err(|said| said + &self.host.log("dockerd.log"))
        });
    }

    /// A remote driver by its socket, which may come later. dockerd reads this when the name is first used.
    pub fn driver(host: &Host, name: &str, socket: &Path) {
        host.write(&format!("/etc/docker/plugins/{name}.spec"), format!("unix://{}", socket.display()));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(CLIENT);
        command.args(["--host", SOCKET]).args(arguments);
        command
    }

    /// Runs a command line that must succeed.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        finish(&mut self.command(arguments)).unwrap_or_else(|said| panic!("docker {}: {said}", arguments.join(" ")))
    }

    /// Kills the engine and starts it again. Its containers do not survive that, and it finds out.
    pub fn restart(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // Its containerd may not have ended yet: nobody shall wait for that one to answer.
        for file in ["/run/docker.pid", "/run/docker/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.host.path(file));
        }
        self.daemon = Docker::spawn(self.host);
        self.until_ready();
    }
}

impl Runtime for Docker<'_> {
    fn run(&self, name: &str, network: &str, options: &[&str], command: &[&str]) -> Result<(), String> {
        let mut docker = self.command(&["run", "--detach", "--name", name, "--network", network]);
        finish(docker.args(options).arg(image::TAG).args(command)).map(drop)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Output {
        self.command(&["exec", name]).args(command).output().unwrap()
    }

    fn stop(&self, name: &str) -> Result<(), String> {
        finish(&mut self.command(&["stop", "--time", "0", name])).map(drop)
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        finish(&mut self.command(&["rm", "--force", name])).map(drop)
    }
}

impl Drop for Docker<'_> {
    /// Containers end with the host.
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
