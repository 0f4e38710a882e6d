//! The control side: what the router should be, and making it so. One thread owns all of it but sessions of BGP
//! and BFD, which have one each.
//!
//! ```text
//! datastore ─Update─▶ syncer ─▶ Resources ─▶ policy ─▶ NodeState ─compile─▶ Tables ─publish─▶ workers
//!                                                        │  ▲
//! kernel (links, addresses, routes, neighbours) ─HostView─┼──┘
//!                                                        └─▶ desired HostState ─reconcile─▶ kernel
//! CLI ─HTTP─▶ http ─ApiRequest─▶ control
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `runtime`, `event` | sockets and timers turned into events, one after the other |
//! | `control` | owns the parts and routes events; holds no rules |
//! | `resources`, `policy`, `node_state` | what this node should be |
//! | `compile` | the same as the fast path needs it |
//! | `rib` | routes learned from others, and where they lead now |
//! | `felix`, `guard` | settings of the whole node; which interface has which host endpoint |
//! | `judge` | verdicts of the same tables where no router runs |
//! | `attach`, `placement` | interfaces: sockets, programs; which worker has which |
//! | `resolve` | packets that wait for a next hop's MAC address |
//! | `dhcp` | what workloads ask DHCP servers, relayed |
//! | `saved_flows` | flows that outlive the process |
//! | `bgp` | routes learned from others and told to them |
//! | `bfd` | whether the paths to neighbours are there, told within milliseconds |
//! | `ipam` | addresses, in blocks, by Calico's records |
//! | `workload`, `cni`, `docker` | workloads attached and taken away, for whoever runs them |
//! | `host`, `reconcile` | the kernel's side |
//! | `datastore` | where resources are kept |
//! | `http`, `show`, `trace`, `tell` | what can be asked, and how it is told |

#![forbid(unsafe_code)]

pub mod attach;
pub mod bfd;
pub mod bgp;
pub mod cni;
pub mod compile;
pub mod control;
pub mod datastore;
pub mod dhcp;
pub mod docker;
pub mod event;
pub mod felix;
pub mod guard;
pub mod host;
pub mod http;
pub mod ipam;
pub mod judge;
pub mod node_report;
pub mod node_state;
pub mod placement;
pub mod policy;
pub mod reconcile;
pub mod resolve;
pub mod resources;
pub mod rib;
pub mod runtime;
pub mod saved_flows;
pub mod show;
pub mod tell;
pub mod trace;
pub mod translation;
pub mod workload;
