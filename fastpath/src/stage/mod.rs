//! The stages, in order of travel. Each is one function over a burst; `worker.rs` calls them one after the other.
//!
//! | stage | leaves behind |
//! |---|---|
//! | `rx.rs` | slots with a packet and its interface |
//! | `parse.rs` | offsets and the flow key, or the reason why there is none |
//! | `recall.rs` | packets of open flows settled by what was recorded for them; the stages down to `remember` see the rest |
//! | `admit.rs` | only packets their sender may send: no martian, no spoofed source; ARP and ND for the gateway taken out |
//! | `classify.rs` | the known flow, and whether its recorded way out still holds |
//! | `route.rs` | the way out of everything else; TTL and MTU checked |
//! | `policy.rs` | new flows allowed or denied, with the rule |
//! | `translate.rs` | another source for new flows that leave the node and need one; then, what is translated in the packets |
//! | `remember.rs` | allowed new flows in the flow table |
//! | `respond.rs` | our own answers in place of the packets that asked for them |
//! | `rewrite.rs` | packets as they leave: checksum completed, TTL, layer 2 header |
//! | `tx.rs` | nothing: every fate is counted and every frame has gone somewhere |
//!
//! `lists.rs` is no stage: it says which lists `policy.rs` asks about a packet, and in which order.
//!
//! No stage returns an error: a packet's problem is a `DropReason` in its slot. No stage allocates, locks, logs, reads a
//! clock or makes a syscall; `rx` and `tx` reach the kernel only through the queues they are given.

pub mod admit;
pub mod classify;
pub mod lists;
pub mod parse;
pub mod policy;
pub mod recall;
pub mod remember;
pub mod respond;
pub mod rewrite;
pub mod route;
pub mod rx;
pub mod translate;
pub mod tx;
