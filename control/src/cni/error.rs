//! Errors as a runtime is told them: a number, a sentence, details.
//!
//! | number | meaning |
//! |---|---|
//! | 1 | version not supported |
//! | 2 | a field of the configuration is not supported |
//! | 4 | wrong environment |
//! | 5 | cannot be read |
//! | 6 | cannot be decoded |
//! | 7 | wrong configuration |
//! | 8 | no network namespace, or not one to attach |
//! | 11 | try again |
//! | 50, 51 | no ADD possible now; nor are attached containers well |
//! | 100 | an address could not be had |
//! | 101 | the interface exists already |
//! | 102 | the kernel, or the fast path, has refused |
//! | 103 | CHECK found a difference |
//! | 104 | the datastore has refused |
//! | 105 | an address plugin could not be run |

use serde::{Deserialize, Serialize};

use crate::http::api::{ApiError, Class, ErrorCode};
use crate::tell::chain;
use crate::workload::error::WorkloadError;

pub const VERSION: u32 = 1;
pub const UNSUPPORTED: u32 = 2;
pub const ENVIRONMENT: u32 = 4;
pub const IO: u32 = 5;
pub const DECODE: u32 = 6;
pub const CONFIG: u32 = 7;
pub const NAMESPACE: u32 = 8;
pub const AGAIN: u32 = 11;
pub const UNAVAILABLE: u32 = 50;
pub const ADDRESS: u32 = 100;
pub const EXISTS: u32 = 101;
pub const REFUSED: u32 = 102;
pub const DIFFERS: u32 = 103;
pub const STORE: u32 = 104;
pub const DELEGATE: u32 = 105;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    #[serde(default)]
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { cni_version: String::new(), code, msg: msg.into(), details: String::new() }
    }

    pub fn with_details(self, details: impl Into<String>) -> CniError {
        CniError { details: details.into(), ..self }
    }
}

impl From<WorkloadError> for CniError {
    fn from(error: WorkloadError) -> CniError {
        let code = match &error {
            WorkloadError::Namespace { .. } | WorkloadError::NoNamespace { .. } => NAMESPACE,
            WorkloadError::Invalid { .. } | WorkloadError::OtherNode { .. } => CONFIG,
            WorkloadError::Exists { .. } | WorkloadError::Twice { .. } | WorkloadError::Foreign { .. } => EXISTS,
            WorkloadError::Control(error) => of_control(error),
            WorkloadError::Host(_) | WorkloadError::NotAttached { .. } | WorkloadError::Panic => REFUSED,
            WorkloadError::Timeout { .. } | WorkloadError::Busy { .. } => AGAIN,
            WorkloadError::Differs { .. } => DIFFERS,
        };
        CniError::new(code, chain(&error))
    }
}

fn of_control(error: &ApiError) -> u32 {
    match error.code {
        ErrorCode::NoAddresses
        | ErrorCode::NoBlocks
        | ErrorCode::NoPool
        | ErrorCode::AddressTaken
        | ErrorCode::NotAssigned
        | ErrorCode::NotReleased => ADDRESS,
        ErrorCode::AddressesLocked | ErrorCode::Busy | ErrorCode::Stopping | ErrorCode::Unavailable => AGAIN,
        code if code.class() == Class::Unavailable || code.class() == Class::Timeout => STORE,
        code if code.class() == Class::Invalid => CONFIG,
        _ => STORE,
    }
}
