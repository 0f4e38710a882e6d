//! What is asked of the router, as written and as stored: resources in Calico's v3 form, selectors, settings.
//!
//! Pure: no socket, thread or clock. Text comes in, checked values come out, and every refusal names the field, what
//! was found there and what was expected.
//!
//!     text ──yaml──▶ document (positions) ──decode──▶ Resource ──defaults, validate──▶ stored, compiled
//!     text + environment + flags ──settings──▶ Settings
//!
//!     Kubernetes' objects ──convert──▶ policies and profiles in Calico's form
//!
//! How the kinds refer to each other:
//!
//!     Tier ◀─spec.tier─ NetworkPolicy, GlobalNetworkPolicy ─selector─▶ WorkloadEndpoint, HostEndpoint
//!     their rules ─selector─▶ endpoints, NetworkSet, GlobalNetworkSet; ─services─▶ Service ◀─label─ EndpointSlice
//!     Node ◀─spec.node─ WorkloadEndpoint, HostEndpoint ─spec.profiles─▶ Profile
//!     IPPool ─nodeSelector─▶ Node; WorkloadEndpoint.ipNetworks come from an IPPool; StaticRoute ─spec.node─▶ Node

#![forbid(unsafe_code)]

pub mod convert;
pub mod document;
pub mod explain;
pub mod failsafe;
pub mod net;
pub mod resource;
pub mod selector;
pub mod settings;
pub mod suggest;
pub mod yaml;

mod decode;
