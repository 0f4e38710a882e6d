//! The closed list of what can wake the control thread.

use crate::bfd;
use crate::bgp::thread::Output;
use crate::datastore::{StoreError, SyncEvent};
use crate::host::HostEvent;
use crate::http::api::ApiRequest;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// The datastore changed, or can be trusted to be complete.
    Datastore(Result<SyncEvent, StoreError>),
    /// The kernel's links, addresses, routes or neighbours changed.
    Host(HostEvent),
    /// BGP's thread has something for us.
    Bgp(Output),
    /// A path that BFD watches went up, or is no longer.
    Bfd(bfd::Change),
    /// Somebody asks.
    Api(ApiRequest),
    /// Time to look at the rings of the workers, and at what failed before.
    Tick,
}
