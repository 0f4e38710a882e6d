//! Manifests: `-f FILE|DIR|-` to valid resources.
//!
//! All files are read before anything is sent, and all their problems are told together. A folder
//! stands for its `.yaml`, `.yml` and `.json` files in the order of their names.
//!
//! Invariants: no file is read beyond `document::TEXT_MAX`, no folder tree beyond `MAX_DEPTH`.
//! Left out: URLs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use config::document::TEXT_MAX;
use config::resource::{Action, Resource, Rule};
use config::yaml::{self, Examined};
use control::policy::ignored;

use super::error::CliError;
use super::render::harmless;

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
const STDIN: &str = "-";

/// Deeper folders are more likely a loop of links than manifests.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Args)]
pub struct Input {
    /// File or folder with manifests, - for stdin; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub walk: Walk,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Walk {
    /// Look into the folders of a folder as well
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// No resources at all is no error
    #[arg(long)]
    pub skip_empty: bool,
}

/// All resources of `files`.
pub fn read(files: &[PathBuf], walk: Walk) -> Result<Vec<Resource>, CliError> {
    read_in(files, walk, None)
}

/// All resources of `files`; those that may have a namespace and name none get this one.
pub fn read_in(files: &[PathBuf], walk: Walk, namespace: Option<&str>) -> Result<Vec<Resource>, CliError> {
    let mut resources = Vec::new();
    let mut problems = Vec::new();
    for mut examined in examine(files, walk)?.into_iter().flat_map(|(_, examined)| examined) {
        if let (Some(resource), Some(namespace), None) = (&mut examined.resource, namespace, &examined.namespace)
            && resource.kind().is_namespaced()
        {
            resource.metadata_mut().namespace = Some(namespace.to_string());
        }
        resources.extend(examined.resource);
        problems.append(&mut examined.problems);
    }
    match problems.is_empty() {
        true => Ok(resources),
        false => Err(CliError::Manifest(problems)),
    }
}

/// Every resource of `files` by itself, right or wrong, under the name of its file.
pub fn examine(files: &[PathBuf], walk: Walk) -> Result<Vec<(String, Vec<Examined>)>, CliError> {
    let mut all = Vec::new();
    for path in files {
        let mut found = Vec::new();
        collect(path, walk.recursive, 0, &mut found)?;
        let mut is_empty = true;
        for file in found {
            let name = file.display().to_string();
            let examined = yaml::examine(&name, &text(&file)?);
            is_empty &= examined.is_empty();
            all.push((name, examined));
        }
        if is_empty && !walk.skip_empty {
            return Err(CliError::Empty { path: path.clone() });
        }
    }
    Ok(all)
}

/// The files that `path` stands for.
fn collect(path: &Path, recursive: bool, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let failed = |source| CliError::Read { path: path.to_path_buf(), source };
    if path.as_os_str() == STDIN || !fs::metadata(path).map_err(failed)?.is_dir() {
        found.push(path.to_path_buf());
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(failed(io::Error::other(format!("more than {MAX_DEPTH} folders deep"))));
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for entry in entries {
        let is_manifest = entry.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        if entry.is_dir() {
            if recursive {
                collect(&entry, recursive, depth + 1, found)?;
            }
        } else if is_manifest {
            found.push(entry);
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, CliError> {
    // One byte more than allowed, so that the parser can refuse what is too long.
    let limit = TEXT_MAX as u64 + 1;
    let mut text = String::new();
    let read = match path.as_os_str() == STDIN {
        true => io::stdin().take(limit).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
    };
    read.map_err(|source| CliError::Read { path: path.to_path_buf(), source })?;
    Ok(text)
}

/// What is legal but hardly meant: a direction whose rules all only log decides nothing, and what is not looked at.
pub fn warnings(resources: &[Resource]) -> Vec<String> {
    let only_logs = |rules: &[Rule]| !rules.is_empty() && rules.iter().all(|rule| rule.action == Action::Log);
    let mut warnings = Vec::new();
    for resource in resources {
        warnings.extend(ignored::warnings(resource).iter().map(|warning| harmless(warning)));
        let (ingress, egress) = match resource {
            Resource::NetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
            Resource::GlobalNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
            _ => continue,
        };
        for (direction, rules) in [("ingress", ingress), ("egress", egress)] {
            if only_logs(rules) {
                let key = resource.key().to_string();
                warnings.push(format!(
                    "{}: every {direction} rule only logs, so the tier's default action decides; add an Allow, Deny or Pass rule",
                    harmless(&key)
                ));
            }
        }
    }
    warnings
}
