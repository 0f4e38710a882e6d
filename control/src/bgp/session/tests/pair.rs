//! Two sessions and the network between them.
