//! `vrouter lab run bgp`: four routers that tell each other by BGP where their workloads are, and a link that goes quiet.
//!
//! ```text
//!  web1      web2      web3          10.65.N.2, a block of 64 addresses for each node
//!   │         │         │
//! node1 ════ node2     node3          ════ the wire, 198.51.100.0/30
//!   │         │         │
//! ──┴─────────┴─────────┴─────┬──     the fabric, 192.0.2.0/24
//!                            tor      reflects routes and has no workloads
//! ```
//!
//! The story: sessions and BFD come up; every node has learned the blocks of the others, and the pair node1, node2 has
//! two ways; all pairs of workloads reach each other; the wire swallows everything while its interfaces stay up, so that
//! nobody but BFD can tell, and the flows that took it go on over the fabric; the wire comes back. The reflector restarts,
//! and packets go on by the routes that it had told.
//!
//! | file | what it holds |
//! |---|---|
//! | `build.rs` | namespaces, switches, links |
//! | `manifests.yaml` | the resources, the same for every router |
//! | `traffic.rs` | many flows both ways, and what they lose while something happens |
//!
//! Left out: IPv6, whose sessions and routes differ in nothing but the addresses.

mod build;
mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use config::net::Cidr;

use self::build::{Member, NODES, REFLECTOR, Switch};
use self::traffic::Loss;
use super::checks::{self, Path};
use super::report::{self, Line, say};
use super::router::{Accounts, Router};
use super::run::{Guard, stop_flag};
use super::state::State;
use super::{LabError, down};

/// What to run instead of a description's file, and how the lab is called.
pub const NAME: &str = "bgp";

/// Four routers on one machine: tables of a size for this traffic.
const SETTINGS: [&str; 4] = ["--frames-per-worker", "4096", "--flow-table-size", "8192"];
/// What is learned in the course of seconds is waited for so long.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const PINGS: u32 = 3;
const EXCHANGES: u32 = 100;

pub fn run(keep: bool) -> Result<ExitCode, LabError> {
    let stop = stop_flag()?;
    let start = Instant::now();
    down::down(NAME)?;
    let state = State::of(NAME)?;
    let guard = Guard::of(NAME);
    build::build(&state)?;
    let count = build::namespaces().len();
    say(format!("lab {NAME}: {count} namespaces built in {:.1?}\n", start.elapsed()));

    let result = with_routers(&state, keep, &stop);
    if keep && !stop.load(Ordering::Relaxed) {
        guard.keep();
        say(how_to_enter(&state));
    } else {
        guard.finish()?;
    }
    Ok(report::verdict(&result?, start.elapsed()))
}

fn how_to_enter(state: &State) -> String {
    let mut text = format!("lab {NAME} is up\n");
    for member in build::members() {
        let socket = state.folder().join(member.name).join("api.sock");
        text += &format!("  {:<6} ip netns exec {:<10} ", member.name, member.namespace());
        text += &format!("vrouter --socket {} bgp summary\n", socket.display());
    }
    text + &format!("  take down    vrouter lab down {NAME}\n")
}

/// A node or the reflector, and the router that runs on it.
struct Running {
    member: Member,
    router: Router,
}

fn with_routers(state: &State, keep: bool, stop: &AtomicBool) -> Result<Vec<Line>, LabError> {
    let mut running = Vec::new();
    for member in build::members() {
        state.part(member.name)?.create()?;
        let router = start(&member, state)?;
        router.apply(&state.manifests())?;
        running.push(Running { member, router });
    }
    let mut lines = Vec::new();
    let mut add = |line: Line| {
        line.print();
        lines.push(line);
    };
    tell(&mut running, state, stop, &mut add)?;
    if keep {
        return Ok(lines);
    }
    for Running { member, router } in running {
        let stopped = router.stop().map(|()| String::new()).map_err(|error| error.to_string());
        add(Line::new(format!("{} stops on SIGTERM", member.name), stopped));
    }
    Ok(lines)
}

fn start(member: &Member, state: &State) -> Result<Router, LabError> {
    let part = state.part(member.name)?;
    Router::start_node(member.name, &member.namespace(), member.uplinks(), &SETTINGS, &part)
}

/// The story. A signal ends it between two lines.
fn tell(
    running: &mut Vec<Running>,
    state: &State,
    stop: &AtomicBool,
    add: &mut impl FnMut(Line),
) -> Result<(), LabError> {
    let mut add = |line: Line| {
        add(line);
        if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
    };
    for one in running.iter() {
        add(Line::new(format!("{}: sessions and BFD up", one.member.name), wait(stop, || sessions(one))))?;
    }
    for one in running.iter() {
        for number in NODES.iter().map(|node| node.number).filter(|number| *number != one.member.number) {
            let prefix = build::block(number);
            let expected = ways(&one.member, number, true);
            let check = format!("{}: way to {prefix}", one.member.name);
            add(Line::new(check, wait(stop, || next_hops(&one.router, prefix, &expected))))?;
        }
    }
    for from in &NODES {
        for to in NODES.iter().filter(|to| to.number != from.number) {
            let path = path(from, to);
            let name = |what: &str| format!("{what} {} > {}", path.from, path.to);
            let ping = checks::ping(&path, PINGS).map(|()| format!("{PINGS} of {PINGS} answered"));
            add(Line::new(name("ping"), ping))?;
            add(Line::new(name("udp"), exchanges(&path)))?;
        }
    }

    let [first, second, _] = &NODES;
    let path = path(first, second);
    let cut = traffic::during(&path, stop, || build::set_switch(Switch::Wire, false));
    add(Line::new("the wire swallows everything", cut.and_then(|loss| survived(&loss))))?;
    for one in running.iter().filter(|one| one.member.has_wire) {
        let other = if one.member.number == first.number { second.number } else { first.number };
        let expected = ways(&one.member, other, false);
        let prefix = build::block(other);
        let check = format!("{}: way to {prefix} without the wire", one.member.name);
        add(Line::new(check, wait(stop, || next_hops(&one.router, prefix, &expected))))?;
    }
    add(Line::new(format!("udp {} > {}", path.from, path.to), exchanges(&path)))?;

    let healed = traffic::during(&path, stop, || build::set_switch(Switch::Wire, true));
    add(Line::new("the wire is back", healed.and_then(untouched)))?;
    for one in running.iter().filter(|one| one.member.has_wire) {
        let other = if one.member.number == first.number { second.number } else { first.number };
        let expected = ways(&one.member, other, true);
        let prefix = build::block(other);
        let check = format!("{}: way to {prefix} with the wire", one.member.name);
        add(Line::new(check, wait(stop, || next_hops(&one.router, prefix, &expected))))?;
    }
    let restarted = restart(running, state, stop);
    add(Line::new("the reflector restarts", restarted.and_then(untouched)))?;
    for one in running.iter() {
        add(Line::new(format!("{}: sessions and BFD up again", one.member.name), wait(stop, || sessions(one))))?;
    }
    let mut sum = Accounts::default();
    for one in running.iter() {
        sum = sum + one.router.accounts()?;
    }
    add(report::accounts_line(&sum))
}

/// Stops the reflector and starts it again, while the node that knows the others from nobody else sends to one of them.
fn restart(running: &mut Vec<Running>, state: &State, stop: &AtomicBool) -> Result<Loss, String> {
    let position = running.iter().position(|one| one.member == REFLECTOR);
    let Running { member, router } = running.remove(position.ok_or("there is no reflector")?);
    let mut again = None;
    let [other, _, client] = &NODES;
    let loss = traffic::during(&path(client, other), stop, || {
        router.stop()?;
        let one = again.insert(Running { member, router: start(&member, state)? });
        // Its clients' word is waited for below, with a line for each.
        let _ = wait(stop, || sessions(one));
        Ok(())
    });
    running.extend(again);
    loss
}

fn untouched(loss: Loss) -> Result<String, String> {
    if loss.is_none() { Ok(loss.to_string()) } else { Err(loss.to_string()) }
}

/// All that there should be are established, and BFD hears each peer.
fn sessions(one: &Running) -> Result<String, String> {
    let peers = one.router.bgp_peers().map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    for peer in &peers {
        if peer.state != "Established" {
            return Err(format!("{} is {}", peer.address, peer.state));
        }
        if !one.router.is_bfd_up(peer.address).map_err(|error| error.to_string())? {
            return Err(format!("BFD does not hear {}", peer.address));
        }
        names.push(peer.address.to_string());
    }
    let expected = if one.member == REFLECTOR { NODES.len() } else { one.member.uplinks().len() };
    let names = names.join(", ");
    if peers.len() == expected { Ok(names) } else { Err(format!("{names}: {expected} sessions expected")) }
}

/// Next hops of a node to another's block, in order.
fn ways(from: &Member, to: u8, with_wire: bool) -> Vec<IpAddr> {
    let is_on_wire = |number: u8| NODES.iter().any(|node| node.number == number && node.has_wire);
    let mut ways = vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, to))];
    if with_wire && from.has_wire && is_on_wire(to) {
        ways.push(IpAddr::V4(Ipv4Addr::new(198, 51, 100, to)));
    }
    ways
}

fn next_hops(router: &Router, prefix: Cidr, expected: &[IpAddr]) -> Result<String, String> {
    let found = router.bgp_next_hops(prefix).map_err(|error| error.to_string())?;
    let words = |hops: &[IpAddr]| hops.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    if found == expected {
        Ok(words(&found))
    } else {
        Err(format!("packets go to [{}], expected {}", words(&found), words(expected)))
    }
}

/// Asks until it is so, or `LIMIT` is over.
fn wait(stop: &AtomicBool, question: impl Fn() -> Result<String, String>) -> Result<String, String> {
    let start = Instant::now();
    loop {
        match question() {
            Err(_) if start.elapsed() < LIMIT && !stop.load(Ordering::Relaxed) => thread::sleep(POLL),
            answer => return answer.map_err(|failure| format!("{failure}, after {:.0?}", start.elapsed())),
        }
    }
}

fn exchanges(path: &Path) -> Result<String, String> {
    let exchanges = checks::udp(path, EXCHANGES)?;
    match exchanges.lost {
        0 => Ok(format!("{EXCHANGES} exchanges, none lost")),
        lost => Err(format!("{lost} of {EXCHANGES} lost")),
    }
}

/// Something was lost, else nothing took the wire; and it ended.
fn survived(loss: &Loss) -> Result<String, String> {
    match loss.whole_after {
        None => Err(format!("{loss}: nothing took the wire")),
        Some(_) if !loss.is_over => Err(format!("{loss}: and still")),
        Some(_) => Ok(loss.to_string()),
    }
}

fn path(from: &Member, to: &Member) -> Path {
    let name = |member: &Member| format!("web{}", member.number);
    Path {
        from: name(from),
        to: name(to),
        from_namespace: from.web_namespace(),
        to_namespace: to.web_namespace(),
        destination: to.web_address(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pair_has_two_ways() {
        let check = |from: &Member, to: u8, with_wire: bool, expected: &[&str]| {
            let words: Vec<String> = ways(from, to, with_wire).iter().map(IpAddr::to_string).collect();
            assert_eq!(words, expected, "{} to {to}", from.name);
        };
        check(&NODES[0], 2, true, &["192.0.2.2", "198.51.100.2"]);
        check(&NODES[0], 2, false, &["192.0.2.2"]);
        check(&NODES[0], 3, true, &["192.0.2.3"]);
        check(&NODES[2], 1, true, &["192.0.2.1"]);
        check(&REFLECTOR, 1, true, &["192.0.2.1"]);
    }
}
