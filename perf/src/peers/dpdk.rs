//! DPDK's own router, the `l3fwd` example, on its AF_XDP driver.
//!
//! Debian ships the source in `dpdk-doc` and no binary, so it is compiled here when it is first wanted. One line is changed: it asks
//! its ports to check checksums in hardware and ends when they cannot, and AF_XDP ports cannot; the copy asks for nothing.

use std::fs;
use std::path::{Path, PathBuf};

use fastpath::table::acl::Action;

use crate::cpu::Task;
use crate::forwarder::{Forwarder, Running};
use crate::lab::{A_ADDRESSES, B_ADDRESSES, Lab, LabError, run, system};
use crate::memory::thousands;
use crate::peers::daemon::{Daemon, Scratch};
use crate::peers::dpdk_tables::output;
use crate::peers::sets::rule_words;
use crate::{peers, tables};

const EXAMPLES: &str = "/usr/share/dpdk/examples";
const SOURCES: [&str; 8] = [
    "main.c",
    "l3fwd_acl.c",
    "l3fwd_lpm.c",
    "l3fwd_fib.c",
    "l3fwd_em.c",
    "l3fwd_event.c",
    "l3fwd_event_generic.c",
    "l3fwd_event_internal_port.c",
];
const ASKS_FOR_CHECKSUMS: &str = ".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,";

/// DPDK's router, and so many rules; 0 for routes alone, by LPM.
#[derive(Clone, Debug)]
pub struct L3fwd {
    pub rules: usize,
    /// Where the program is compiled, and where what it says is kept.
    pub out: PathBuf,
}

impl Forwarder for L3fwd {
    fn name(&self) -> String {
        match self.rules {
            0 => "DPDK l3fwd, AF_XDP, routes only".to_owned(),
            rules => format!("DPDK l3fwd, AF_XDP, {} rules", thousands(rules)),
        }
    }

    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError> {
        let program = compile(&self.out)?;
        let scratch = Scratch::new(lab, "dpdk")?;
        let (ipv4, ipv6) = if self.rules > 0 { acl_files(self.rules) } else { route_files() };
        let ipv4 = format!("--rule_ipv4={}", scratch.write("ipv4", &ipv4)?);
        let ipv6 = format!("--rule_ipv6={}", scratch.write("ipv6", &ipv6)?);
        let core = peers::worker_core().to_string();
        let queues = format!("--config=(0,0,{core}),(1,0,{core})");
        let lookup = format!("--lookup={}", if self.rules > 0 { "acl" } else { "lpm" });
        let ends = [tables::A_MAC, tables::B_MAC].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let ends = [format!("--eth-dest=0,{}", ends[0]), format!("--eth-dest=1,{}", ends[1])];
        let program = program.display().to_string();
        let mut command =
            vec![program.as_str(), "-l", &core, "--no-huge", "--no-shconf", "-m", "512", "--no-pci", "--no-telemetry"];
        command.extend([
            "--vdev",
            "net_af_xdp0,iface=near-a",
            "--vdev",
            "net_af_xdp1,iface=near-b",
            "--",
            "-P",
            "-p",
            "0x3",
        ]);
        command.extend([queues.as_str(), "--no-numa", "--parse-ptype", &lookup, &ipv4, &ipv6, &ends[0], &ends[1]]);
        let mut daemon = Daemon::start(lab, &self.out, "l3fwd", &command)?;
        let log = daemon.log().to_owned();
        daemon.wait_until("its ports", || {
            fs::read_to_string(&log).is_ok_and(|said| said.contains("entering main loop"))
        })?;
        Ok(Box::new(AtWork { lab, daemon: Some(daemon), _scratch: scratch }))
    }
}

struct AtWork<'lab> {
    lab: &'lab Lab,
    daemon: Option<Daemon>,
    _scratch: Scratch,
}

impl Running for AtWork<'_> {
    fn tasks(&self) -> Vec<Task> {
        self.daemon.iter().flat_map(Daemon::tasks).collect()
    }

    fn stop(self: Box<Self>) -> Result<(), LabError> {
        Ok(())
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.daemon.take().into_iter().for_each(Daemon::stop);
        peers::clear_programs(self.lab);
    }
}

/// Compiles the example, unless it has been compiled with the same version of DPDK; answers where it is.
fn compile(out: &Path) -> Result<PathBuf, LabError> {
    let version = output("pkg-config", &["--modversion", "libdpdk"])?;
    let directory = out.join(format!("l3fwd-{version}"));
    let program = directory.join("l3fwd");
    if program.exists() {
        return Ok(program);
    }
    let source = Path::new(EXAMPLES).join("l3fwd");
    if !source.exists() {
        let answer = format!("{} is not there (Debian package dpdk-doc)", source.display());
        return Err(LabError::Peer(answer));
    }
    fs::create_dir_all(&directory).map_err(system(format!("make {}", directory.display())))?;
    let main = source.join("main.c");
    let text = fs::read_to_string(&main).map_err(system(format!("read {}", main.display())))?;
    if !text.contains(ASKS_FOR_CHECKSUMS) {
        return Err(LabError::Peer(format!("{}: another version than is known here", main.display())));
    }
    let changed = directory.join("main.c");
    fs::write(&changed, text.replace(ASKS_FOR_CHECKSUMS, ".offloads = 0,"))
        .map_err(system(format!("write {}", changed.display())))?;
    let include = format!("-I{}", source.display());
    let common = format!("-I{EXAMPLES}/common");
    let flags = output("pkg-config", &["--cflags", "--libs", "libdpdk"])?;
    let mut arguments: Vec<String> =
        ["-O3", "-march=native", "-w", "-DALLOW_EXPERIMENTAL_API", &include, &common, "-o"].map(str::to_owned).to_vec();
    arguments.push(program.display().to_string());
    arguments.push(changed.display().to_string());
    arguments.extend(SOURCES[1..].iter().map(|name| source.join(name).display().to_string()));
    arguments.extend(flags.split_whitespace().map(str::to_owned));
    run("cc", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(program)
}

/// Routes to the two endpoints, in the form that its LPM reads.
fn route_files() -> (String, String) {
    let [a, b] = [A_ADDRESSES, B_ADDRESSES];
    let ipv6 = |address: &str| {
        let address: std::net::Ipv6Addr = address.parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
        address.segments().map(|part| format!("{part:04x}")).join(":")
    };
    (format!("R{}/32 0\nR{}/32 1\n", a.0, b.0), format!("R{}/128 0\nR{}/128 1\n", ipv6(a.1), ipv6(b.1)))
}

/// Rules, then routes, in the form that its ACL reads: what is allowed goes out by the port of its rule.
fn acl_files(rules: usize) -> (String, String) {
    let mut ipv4 = String::new();
    for rule in &tables::policy(rules).blocks[0] {
        let Some([source, length, _, _, _, _, first, last, protocol, mask]) = rule_words(rule) else { continue };
        // The last rule allows everything, and the routes below are what that means here.
        if length == 0 {
            continue;
        }
        let source = std::net::Ipv4Addr::from_bits(source);
        let (kind, port) = if rule.action == Action::Allow { ("R", " 1") } else { ("@", "") };
        ipv4.push_str(&format!(
            "{kind}{source}/{length} 0.0.0.0/0 0 : 65535 {first} : {last} {protocol:#04x}/{mask:#04x}{port}\n"
        ));
    }
    let any = "0 : 65535 0 : 65535 0x00/0x00";
    let [a, b] = [A_ADDRESSES, B_ADDRESSES];
    ipv4.push_str(&format!("R0.0.0.0/0 {}/32 {any} 0\nR0.0.0.0/0 {}/32 {any} 1\n", a.0, b.0));
    let (_, routes) = route_files();
    let ipv6 = routes
        .lines()
        .filter_map(|line| line.strip_prefix('R')?.split_once(' '))
        .map(|(net, port)| format!("R0000:0000:0000:0000:0000:0000:0000:0000/0 {net} {any} {port}\n"))
        .collect();
    (ipv4, ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_l3fwd_reads() {
        let (ipv4, ipv6) = route_files();
        assert_eq!(ipv4, "R10.66.0.2/32 0\nR10.67.0.2/32 1\n");
        assert!(ipv6.starts_with("Rfd66:0000:0000:0000:0000:0000:0000:0002/128 0\n"));
        let (ipv4, ipv6) = acl_files(10);
        assert_eq!(ipv4.lines().count(), 9 + 2);
        assert!(ipv6.contains("fd67:0000:0000:0000:0000:0000:0000:0002/128 0 : 65535 0 : 65535 0x00/0x00 1"));
    }
}
