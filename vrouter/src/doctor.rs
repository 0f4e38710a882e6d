//! `vrouter doctor`: what this machine can do for the router, and what to do where it cannot.
//!
//! Read only. What has to be tried is tried on a veth pair in a network namespace without a name, made
//! for it and gone with it; no program is ever attached to an interface that was there before, so what
//! a network card can do is what its driver claims.
//!
//! Every finding is a function of text or numbers that were read; reading is apart, in `examine`.
//!
//! Left out: repairing anything, and measuring speed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use control::host::netdev::{XdpFeatures, xdp_features};
use control::host::{Host, HostError, Link, ethtool, netns};
use fastpath::io::XdpMode;
use fastpath::io::program::{Preference, Program, Role};
use serde::Serialize;

use crate::cli::Format;
use crate::cli::output::Output;

/// Below this nothing works: the AF_XDP and BPF features we load with are there from here on.
const KERNEL_NEEDED: (u32, u32) = (5, 11);
/// From here on the kernel keeps next hops resolved by itself (NTF_EXT_MANAGED).
const KERNEL_WANTED: (u32, u32) = (5, 16);
/// Frames of one worker with the default settings.
const FRAMES_PER_WORKER: u64 = 16_384 * 4096;
/// The largest MTU of an interface that a native program without multi-buffer accepts.
const SINGLE_BUFFER_MTU: u32 = 3506;

/// Capabilities by number (include/uapi/linux/capability.h), and what needs them.
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (12, "CAP_NET_ADMIN", "interfaces, routes, attaching programs"),
    (13, "CAP_NET_RAW", "AF_XDP sockets"),
    (21, "CAP_SYS_ADMIN", "entering network namespaces"),
    (39, "CAP_BPF", "loading the XDP program"),
    (14, "CAP_IPC_LOCK", "packet memory above the memlock limit"),
];
const CAP_IPC_LOCK: u32 = 14;

#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArguments {
    // The same argument as the global one, so that it is here too.
    /// How to print
    #[arg(short, long, default_value = "ps", value_name = "FORMAT")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    status: Health,
    check: String,
    found: String,
    /// What to do; none when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &str, found: impl Into<String>) -> Finding {
        Finding { status: Health::Ok, check: check.to_owned(), found: found.into(), advice: None }
    }

    fn warn(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        let advice = Some(advice.into());
        Finding { status: Health::Warn, check: check.to_owned(), found: found.into(), advice }
    }

    fn fail(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { status: Health::Fail, ..Finding::warn(check, found, advice) }
    }
}

/// Exit status 1 when something would keep the router from running.
pub fn run(arguments: DoctorArguments) -> ExitCode {
    let findings = examine();
    let failed = |form: &str, error: &dyn std::fmt::Display| format!("error: write findings as {form}: {error}\n");
    let report = match arguments.output.format {
        Format::Json => {
            serde_json::to_string_pretty(&findings).map_or_else(|error| failed("JSON", &error), |text| text + "\n")
        }
        Format::Yaml => serde_saphyr::to_string(&findings).unwrap_or_else(|error| failed("YAML", &error)),
        Format::Ps | Format::Wide => text(&findings),
    };
    // A reader who has gone away wants no more.
    let _ = io::stdout().write_all(report.as_bytes());
    ExitCode::from(u8::from(findings.iter().any(|finding| finding.status == Health::Fail)))
}

fn examine() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path);
    let status = read("/proc/self/status").unwrap_or_default();
    let capabilities = effective_capabilities(&status);
    let mut findings = vec![
        kernel(&read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        af_xdp(&read("/proc/net/protocols").unwrap_or_default()),
        Finding::ok("xdp program", "built into this binary; no clang needed to run"),
    ];
    findings.push(capability(capabilities));
    findings.push(memlock(&read("/proc/self/limits").unwrap_or_default(), capabilities));
    findings.push(huge_pages(&read("/proc/meminfo").unwrap_or_default()));
    findings.push(jit(read("/proc/sys/net/core/bpf_jit_enable")));
    findings.push(type_information(Path::new("/sys/kernel/btf/vmlinux").exists()));
    findings.push(unprivileged(read("/proc/sys/kernel/unprivileged_bpf_disabled")));
    findings.extend(veth());
    findings.extend(interfaces());
    findings
}

fn kernel(release: &str) -> Finding {
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let version = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => return Finding::warn("kernel", release, "its version is not understood; Linux 5.16 or later is wanted"),
    };
    let word = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if version < KERNEL_NEEDED {
        return Finding::fail("kernel", release, format!("run Linux {} or later", word(KERNEL_NEEDED)));
    }
    if version < KERNEL_WANTED {
        let advice = format!(
            "works; from {} on the kernel keeps next hops of uplinks resolved by itself, before that the router asks again and again",
            word(KERNEL_WANTED)
        );
        return Finding::warn("kernel", release, advice);
    }
    Finding::ok("kernel", release)
}

fn af_xdp(protocols: &str) -> Finding {
    if protocols.lines().any(|line| line.split_whitespace().next() == Some("XDP")) {
        return Finding::ok("AF_XDP sockets", "in the kernel");
    }
    Finding::fail("AF_XDP sockets", "not in the kernel", "use a kernel with CONFIG_XDP_SOCKETS=y")
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

fn has(capabilities: u64, number: u32) -> bool {
    capabilities >> number & 1 == 1
}

fn capability(capabilities: u64) -> Finding {
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(number, _, _)| !has(capabilities, *number))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Finding::ok("capabilities", "all that are needed");
    }
    let advice = "run as root, or give the service these capabilities; checks marked `needs root` were left out";
    Finding::fail("capabilities", format!("missing {}", missing.join(", ")), advice)
}

fn memlock(limits: &str, capabilities: u64) -> Finding {
    let check = "memlock limit";
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|rest| rest.split_whitespace().next()).unwrap_or("unknown");
    if has(capabilities, CAP_IPC_LOCK) {
        return Finding::ok(check, format!("{soft} bytes, lifted by CAP_IPC_LOCK"));
    }
    match soft.parse::<u64>() {
        _ if soft == "unlimited" => Finding::ok(check, soft),
        Ok(bytes) if bytes >= FRAMES_PER_WORKER => Finding::ok(check, format!("{bytes} bytes")),
        _ => Finding::warn(
            check,
            format!("{soft} bytes"),
            format!(
                "each worker locks {FRAMES_PER_WORKER} bytes of packet memory: set LimitMEMLOCK=infinity or ulimit -l unlimited"
            ),
        ),
    }
}

fn huge_pages(meminfo: &str) -> Finding {
    let number = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (total, free) = (number("HugePages_Total:"), number("HugePages_Free:"));
    if total > 0 {
        return Finding::ok("huge pages", format!("{free} of {total} free"));
    }
    // They save misses in the translation cache; nothing needs them.
    Finding::ok("huge pages", "none reserved; not needed")
}

fn jit(setting: io::Result<String>) -> Finding {
    match setting.as_deref().map(str::trim) {
        Ok("0") => Finding::warn(
            "BPF JIT",
            "off",
            "sysctl -w net.core.bpf_jit_enable=1: the XDP program is interpreted otherwise",
        ),
        Ok(_) => Finding::ok("BPF JIT", "on"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::warn("BPF JIT", "not checked", "needs root")
        }
        Err(_) => Finding::warn("BPF JIT", "unknown", "a kernel with CONFIG_BPF_JIT=y runs the XDP program faster"),
    }
}

fn type_information(is_there: bool) -> Finding {
    if is_there {
        return Finding::ok("BTF", "/sys/kernel/btf/vmlinux");
    }
    Finding::ok("BTF", "absent; our program needs none, tools such as bpftool may")
}

fn unprivileged(setting: io::Result<String>) -> Finding {
    let check = "unprivileged BPF";
    match setting.as_deref().map(str::trim) {
        Ok("0") => Finding::warn(
            check,
            "allowed to every user",
            "sysctl -w kernel.unprivileged_bpf_disabled=2: workloads of this node need no BPF of their own",
        ),
        Ok(_) => Finding::ok(check, "disabled"),
        Err(_) => Finding::warn(check, "not known", "no kernel.unprivileged_bpf_disabled to read"),
    }
}

/// Puts our program on a veth pair of its own, in both modes.
fn veth() -> Vec<Finding> {
    let modes = [("native XDP on veth", Preference::Native), ("generic XDP on veth", Preference::Generic)];
    let results = netns::in_scratch(|| modes.map(|(_, preference)| try_veth(preference)));
    let results = match results {
        Ok(results) => results,
        Err(error) => return vec![Finding::warn("XDP on veth", format!("not checked: {error}"), "needs root")],
    };
    let findings = modes.iter().zip(results).map(|((check, preference), result)| match result {
        Ok(_) => Finding::ok(check, "our program attaches"),
        Err(message) if *preference == Preference::Native => {
            Finding::warn(check, message, "endpoints fall back to generic mode, which is slower under load")
        }
        Err(message) => Finding::fail(check, message, "use a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_VETH"),
    });
    findings.collect()
}

fn try_veth(preference: Preference) -> Result<XdpMode, String> {
    let words = |error: HostError| error.to_string();
    in_runtime(async {
        let host = Host::connect().map_err(words)?;
        let (near, _) = host.ensure_veth_pair("probe0", "probe1", 1).await.map_err(words)?;
        let mut program = Program::load(Role::Workload, false).map_err(chain)?;
        let mode = program.attach(near.index.0, preference).map_err(chain);
        host.delete_link(near.index).await.map_err(words)?;
        mode
    })
    .unwrap_or_else(|error| Err(format!("start a runtime: {error}")))
}

/// What is here already, by what its drivers claim.
fn interfaces() -> Vec<Finding> {
    let links = in_runtime(async { Host::connect()?.links().await });
    let links = match links {
        Ok(Ok(links)) => links,
        Ok(Err(error)) => return vec![Finding::warn("interfaces", error.to_string(), "netlink must be usable")],
        Err(error) => return vec![Finding::warn("interfaces", error.to_string(), "a runtime must start")],
    };
    let is_listed = |link: &&Link| !link.loopback && !link.is_veth();
    let mut findings: Vec<Finding> = links.iter().filter(is_listed).map(interface).collect();
    let pairs = links.iter().filter(|link| link.is_veth()).count();
    findings.push(Finding::ok("veth interfaces", pairs.to_string()));
    findings
}

fn interface(link: &Link) -> Finding {
    let driver = fs::read_link(format!("/sys/class/net/{}/device/driver", link.name)).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let driver = driver.or_else(|| link.kind.clone()).unwrap_or_else(|| "no driver named".to_owned());
    let queues = match ethtool::channels(link.index).ok().flatten() {
        Some(channels) if channels.combined > 0 => format!("{} of {} queues", channels.combined, channels.combined_max),
        Some(channels) => format!("{} rx, {} tx queues", channels.rx, channels.tx),
        None => format!("{} rx, {} tx queues", link.rx_queues, link.tx_queues),
    };
    judge(link, &driver, &queues, xdp_features(link.index).ok().flatten())
}

fn judge(link: &Link, driver: &str, queues: &str, features: Option<XdpFeatures>) -> Finding {
    let check = format!("interface {}", link.name);
    let claim = match features {
        None => "XDP unknown: attach to find out",
        Some(XdpFeatures { native: false, .. }) => "generic XDP only",
        Some(XdpFeatures { zero_copy: true, .. }) => "native XDP, zero-copy",
        Some(_) => "native XDP, copy mode",
    };
    let found = format!("{driver}, {queues}, mtu {}, {claim}", link.mtu);
    if link.xdp.is_some() {
        let advice = "an XDP program is attached; as an uplink it can have one only (`ip link show` names it)";
        return Finding::warn(&check, found, advice);
    }
    let Some(features) = features else { return Finding::ok(&check, found) };
    if features.native && !features.multi_buffer && link.mtu > SINGLE_BUFFER_MTU {
        let advice = format!(
            "native mode takes an mtu of at most {SINGLE_BUFFER_MTU} here, as the driver knows no multi-buffer"
        );
        return Finding::warn(&check, found, advice);
    }
    let is_hardware = link.kind.is_none();
    if !features.native && is_hardware {
        return Finding::warn(&check, found, "as an uplink it would be slow: use a card whose driver knows native XDP");
    }
    Finding::ok(&check, found)
}

fn in_runtime<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(work))
}

/// An error and what caused it.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { status, check, found, advice } in findings {
        let word = match status {
            Health::Ok => "ok",
            Health::Warn => "warn",
            Health::Fail => "FAIL",
        };
        text += &format!("{word:<5} {check:<width$}  {found}\n");
        if let Some(advice) = advice {
            text += &format!("{:<5} {:<width$}  -> {advice}\n", "", "");
        }
    }
    let count = |wanted| findings.iter().filter(|finding| finding.status == wanted).count();
    text + &format!("\n{} ok, {} warnings, {} failures\n", count(Health::Ok), count(Health::Warn), count(Health::Fail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::host::LinkIndex;

    #[test]
    fn kernels() {
        let check = |release: &str, expected: Health| assert_eq!(kernel(release).status, expected, "{release}");
        check("6.18.44-fc-v669\n", Health::Ok);
        check("5.16.0", Health::Ok);
        check("5.15.0-91-generic", Health::Warn);
        check("5.10.0", Health::Fail);
        check("4.19", Health::Fail);
        check("", Health::Warn);
        check("next", Health::Warn);
    }

    #[test]
    fn capabilities_and_memory() {
        let all = effective_capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n");
        assert_eq!(capability(all).status, Health::Ok);
        assert_eq!(capability(0).status, Health::Fail);
        let without_bpf = capability(all & !(1 << 39));
        assert!(without_bpf.found.contains("CAP_BPF") && !without_bpf.found.contains("CAP_NET_RAW"));

        let limits = |soft: &str| format!("Max locked memory         {soft}              8388608  bytes\n");
        let check = |soft: &str, capabilities, expected: Health| {
            assert_eq!(memlock(&limits(soft), capabilities).status, expected, "{soft}");
        };
        check("8388608", all, Health::Ok);
        check("8388608", 0, Health::Warn);
        check("unlimited", 0, Health::Ok);
        check("1073741824", 0, Health::Ok);
        assert_eq!(memlock("", 0).status, Health::Warn);
    }

    #[test]
    fn kernel_settings() {
        let given = |text: &str| Ok(text.to_owned());
        assert_eq!(jit(given("1\n")).status, Health::Ok);
        assert_eq!(jit(given("0\n")).status, Health::Warn);
        assert_eq!(jit(Err(io::ErrorKind::PermissionDenied.into())).found, "not checked");
        assert_eq!(unprivileged(given("2\n")).status, Health::Ok);
        assert_eq!(unprivileged(given("0\n")).status, Health::Warn);
        assert_eq!(af_xdp("protocol size\nXDP  1088\n").status, Health::Ok);
        assert_eq!(af_xdp("protocol size\nPACKET  1088\n").status, Health::Fail);
        assert_eq!(huge_pages("HugePages_Total:       8\nHugePages_Free:        3\n").found, "3 of 8 free");
    }

    #[test]
    fn network_cards() {
        let card = Link::named(LinkIndex(2), "eth0");
        let native = XdpFeatures {
            native: true,
            zero_copy: true,
            multi_buffer: false,
            zero_copy_segments: 1,
            tx_checksum: false,
        };
        let check = |link: &Link, features, expected: Health, words: &str| {
            let finding = judge(link, "ice", "4 queues", features);
            assert_eq!(finding.status, expected, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        };
        check(&card, Some(native), Health::Ok, "zero-copy");
        check(&card, None, Health::Ok, "unknown");
        check(&card, Some(XdpFeatures { native: false, ..native }), Health::Warn, "generic");
        let jumbo = Link { mtu: 9000, ..card.clone() };
        check(&jumbo, Some(native), Health::Warn, "mtu 9000");
        check(&jumbo, Some(XdpFeatures { multi_buffer: true, ..native }), Health::Ok, "mtu 9000");
        let taken = Link { xdp: Some(control::host::XdpMode::Native), ..card };
        check(&taken, Some(native), Health::Warn, "zero-copy");
    }
}
