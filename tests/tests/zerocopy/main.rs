//! The router with network cards whose drivers use frames in place, in a virtual machine that has some (`.ci/zerocopy`).
//!
//! ```text
//!    web ── card4 ═══ card3, caliweb ─┐
//!                                     ├─ router ─ up0, card1 ═══ card2 ── far
//! client ── veth ────────── cali… ────┘
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `cards.rs` | the topology of the scenarios, with cards in the place of two of its veth pairs |
//! | `router.rs` | everybody reaches everybody; links go down and change their MTU; the router dies and comes back |
//!
//! Elsewhere each test says that it is not run, and passes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cards;
mod router;
