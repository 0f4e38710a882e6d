//! policy preview: which open flows would be decided otherwise; the daemon works it out, nothing is written.

use control::http::views::{PreviewRequest, PreviewView};

use super::PreviewArguments;
use crate::cli::error::CliError;
use crate::cli::render::{self, Table};
use crate::cli::{Format, input};
use crate::client::Client;

pub fn preview(client: &Client, format: Format, arguments: &PreviewArguments) -> Result<(), CliError> {
    if arguments.files.is_empty() && !arguments.staged {
        return Err(CliError::Usage("say which policy would change: -f FILE, or --staged".to_string()));
    }
    let resources = input::read(&arguments.files, arguments.walk)?;
    let request = PreviewRequest {
        resources: resources.iter().map(|resource| resource.to_json()).collect(),
        staged: arguments.staged,
        limit: arguments.limit,
    };
    let view: PreviewView = client.post("/v1/preview", &request)?;
    let text = render::structured(format, &view)?;
    render::print(&text.unwrap_or_else(|| outline(&view)))
}

fn outline(view: &PreviewView) -> String {
    let mut table =
        Table::new(["PROTOCOL", "SOURCE", "DESTINATION", "PACKETS", "NOW", "THEN", "RULE-NOW", "RULE-THEN"]);
    for change in &view.changes {
        table.row([
            change.protocol.clone(),
            render::end(change.source, change.source_port),
            render::end(change.destination, change.destination_port),
            change.packets.to_string(),
            change.before.verdict.clone(),
            change.after.verdict.clone(),
            change.before.rule.clone(),
            change.after.rule.clone(),
        ]);
    }
    let mut text = if view.changes.is_empty() { String::new() } else { table.text() };
    if view.not_listed > 0 {
        text.push_str(&format!("... and {} more\n", view.not_listed));
    }
    text.push_str(&format!(
        "{} open flows judged: {} would be denied, {} would be allowed\n",
        view.judged, view.now_denied, view.now_allowed
    ));
    text
}
