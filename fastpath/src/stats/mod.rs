//! What is counted, and where.
//!
//! `counters.rs`: numbers that one worker writes and anybody reads. `record.rs`: the last drops and logs, one by one.

pub mod counters;
pub mod record;
