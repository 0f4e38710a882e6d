//! describe: one resource as readable text, and beside it what the router does with it.
//!
//! For a workload endpoint that is its interface with counters, its drops and its flows.
//!
//! Left out: which policies apply. Only the daemon knows all labels an endpoint has.

use clap::Args;
use config::resource::{DEFAULT_NAMESPACE, Key, Kind};
use control::http::views::{DropView, FlowView, GetReply, InterfaceView};
use serde_json::{Value, json};

use super::error::CliError;
use super::render::{self, harmless};
use super::{Format, get, show};
use crate::client::{Client, encode};

/// Flows listed under an endpoint.
const MAX_FLOWS: usize = 20;

#[derive(Debug, Args)]
pub struct DescribeArguments {
    /// Kind, in any of calicoctl's words
    kind: String,

    name: String,

    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

pub fn describe(client: &Client, format: Format, arguments: &DescribeArguments) -> Result<(), CliError> {
    let kind = super::kind(&arguments.kind)?;
    let key = super::key(kind, Some(&arguments.namespace), &arguments.name);
    let reply: GetReply = client.get(&get::path(&key))?;
    let mut resource = reply.items.into_iter().next().unwrap_or_default();
    render::shorten_numbers(&mut resource);
    let endpoint = endpoint(client, &key, &resource)?;
    let Endpoint { interfaces, drops, flows } = &endpoint;
    let whole = json!({ "resource": resource, "interfaces": interfaces, "drops": drops, "flows": flows });
    if let Some(text) = render::structured(format, &whole)? {
        return render::print(&text);
    }
    let mut text = header(&resource);
    for part in ["spec", "status"] {
        if resource.get(part).is_some() {
            outline(part, &resource[part], 0, &mut text);
        }
    }
    if matches!(kind, Kind::WorkloadEndpoint | Kind::HostEndpoint) {
        text.push_str(&endpoint.text());
    }
    render::print(&text)
}

/// What the router knows of an endpoint.
#[derive(Default)]
struct Endpoint {
    interfaces: Vec<InterfaceView>,
    drops: Vec<DropView>,
    flows: Vec<FlowView>,
}

/// Found by the endpoint's name or, should the daemon not have linked the two yet, its interface's.
fn endpoint(client: &Client, key: &Key, resource: &Value) -> Result<Endpoint, CliError> {
    let name = match (key.kind, &key.namespace) {
        (Kind::WorkloadEndpoint, Some(namespace)) => format!("{namespace}/{}", key.name),
        (Kind::HostEndpoint, _) => key.name.clone(),
        _ => return Ok(Endpoint::default()),
    };
    let device = resource["spec"]["interfaceName"].as_str();
    let mut endpoint = Endpoint::default();
    let interfaces: Vec<InterfaceView> = client.get("/v1/show/interfaces")?;
    for interface in interfaces {
        if interface.endpoint.as_ref() != Some(&name) && Some(interface.name.as_str()) != device {
            continue;
        }
        let filter = format!("interface={}", encode(&interface.name));
        endpoint.drops.extend(client.get::<Vec<DropView>>(&format!("/v1/show/drops?{filter}"))?);
        let flows = format!("/v1/show/flows?{filter}&limit={MAX_FLOWS}");
        endpoint.flows.extend(client.get::<Vec<FlowView>>(&flows)?);
        endpoint.interfaces.push(interface);
    }
    Ok(endpoint)
}

impl Endpoint {
    fn text(&self) -> String {
        if self.interfaces.is_empty() {
            return "Interface:  none on this node\n".to_string();
        }
        let sections = [
            ("Interface", show::interfaces(&self.interfaces, true)),
            ("Drops", show::drops(&self.drops, false)),
            ("Flows", show::flows(&self.flows, false)),
        ];
        let mut text = String::new();
        for (title, table) in sections {
            text.push_str(&format!("{title}:\n"));
            let table = table.text();
            // A table of headings alone says less than a word.
            match table.lines().count() {
                1 => text.push_str("  none\n"),
                _ => table.lines().for_each(|line| text.push_str(&format!("  {line}\n"))),
            }
        }
        text
    }
}

fn header(resource: &Value) -> String {
    let places = [
        ("Name:", "/metadata/name"),
        ("Namespace:", "/metadata/namespace"),
        ("Kind:", "/kind"),
        ("API version:", "/apiVersion"),
        ("Created:", "/metadata/creationTimestamp"),
        ("Revision:", "/metadata/resourceVersion"),
        ("UID:", "/metadata/uid"),
    ];
    let mut text = String::new();
    for (title, place) in places {
        if let Some(value) = resource.pointer(place) {
            text.push_str(&format!("{title:<14}{}\n", harmless(&render::cell(value))));
        }
    }
    for (title, place) in [("Labels:", "/metadata/labels"), ("Annotations:", "/metadata/annotations")] {
        let entries = resource.pointer(place).and_then(Value::as_object);
        let entries: Vec<String> = entries
            .into_iter()
            .flatten()
            .map(|(name, value)| harmless(&format!("{name}={}", render::cell(value))))
            .collect();
        if !entries.is_empty() {
            text.push_str(&format!("{title:<14}{}\n", entries.join(&format!("\n{:14}", ""))));
        }
    }
    text
}

/// `value` under its name, indented: maps and lists open a level, the rest is one line. Resources are at most
/// `document::DEPTH_MAX` deep, so is the recursion.
fn outline(name: &str, value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let title = harmless(&title(name));
    let is_flat = |items: &[Value]| items.iter().all(|item| !item.is_object() && !item.is_array());
    match value {
        Value::Object(entries) => {
            text.push_str(&format!("{indent}{title}:\n"));
            for (name, value) in entries {
                outline(name, value, depth + 1, text);
            }
        }
        Value::Array(items) if !is_flat(items) => {
            for (index, item) in items.iter().enumerate() {
                outline(&format!("{name} {index}"), item, depth, text);
            }
        }
        other => text.push_str(&format!("{indent}{title}: {}\n", harmless(&render::cell(other)))),
    }
}

/// A field's name with a capital, as headings have.
fn title(name: &str) -> String {
    let mut letters = name.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
