//! bgp dump: the table, as every peer said it, in a file that tools for MRT read.
//!
//! The daemon tells it piece by piece, and the file is written here, with the rights of who asks. A file that could not be
//! finished is removed: half a table would be taken for a whole one.
//!
//! Sources: RFC 6396.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::bgp::call::BgpCall;
use control::bgp::speaker::dump::{DumpCall, DumpView};
use control::http::api::ErrorCode;
use serde_json::json;

use super::super::Format;
use super::super::error::CliError;
use super::super::render;
use crate::client::Client;

pub fn run(client: &Client, format: Format, path: &Path) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::refused(ErrorCode::Output, format!("write {}: {error}", path.display()));
    // Never over something that is there.
    let mut file = File::create_new(path).map_err(failed)?;
    let written = pieces(client, &mut file, &failed).and_then(|prefixes| {
        file.sync_all().map_err(failed)?;
        Ok(prefixes)
    });
    let prefixes = match written {
        Ok(prefixes) => prefixes,
        Err(error) => {
            // The first failure is the one to tell.
            let _ = fs::remove_file(path);
            return Err(error);
        }
    };
    let structured = render::structured(format, &json!({ "prefixes": prefixes }))?;
    render::print(&structured.unwrap_or_else(|| format!("{prefixes} prefixes in {}\n", path.display())))
}

/// Writes piece after piece. Gives how many prefixes there were.
fn pieces(client: &Client, file: &mut File, failed: &impl Fn(io::Error) -> CliError) -> Result<u32, CliError> {
    let taken = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut begun = None;
    loop {
        let call = BgpCall::Dump(DumpCall { taken, begun });
        let view: DumpView = super::ask(client, &call)?;
        let records = STANDARD.decode(&view.records).map_err(|error| {
            CliError::refused(ErrorCode::NotUnderstood, format!("a piece of the dump is not understood: {error}"))
        })?;
        file.write_all(&records).map_err(failed)?;
        begun = view.then;
        if begun.is_none() {
            return Ok(view.prefixes);
        }
    }
}
