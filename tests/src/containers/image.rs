//! The one image of these tests: Debian's static busybox under every name of its, packed as `docker save` would.
//!
//! ```text
//!     image.tar ─┬─ manifest.json      which tag, which configuration, which layers
//!                ├─ config.json        the digest of what is unpacked
//!                └─ layer.tar ─┬─ bin/busybox
//!                              └─ bin/sh, bin/nc, … ─▶ busybox
//! ```
//!
//! All three runtimes read this form. Nothing comes from a registry.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Its name. The host part keeps docker.io out of it.
pub const TAG: &str = "localhost/probe:1";

const BUSYBOX: &str = "/bin/busybox";
const BLOCK: usize = 512;

/// Writes the archive; what runs unless something else is asked for waits.
pub fn write(to: &Path) {
    write_running(to, &["sleep", "infinity"]);
}

/// The same, where something else runs.
pub fn write_running(to: &Path, command: &[&str]) {
    let layer = layer();
    let digest = sha256(&layer);
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":{}}},
"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created_by":"tests"}}]}}"#,
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        serde_json::json!(command),
    );
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{TAG}"],"Layers":["layer.tar"]}}]"#);
    let mut tar = Tar::default();
    tar.file("manifest.json", 0o644, manifest.as_bytes());
    tar.file("config.json", 0o644, config.as_bytes());
    tar.file("layer.tar", 0o644, &layer);
    fs::write(to, tar.finish()).unwrap();
}

fn layer() -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).expect("busybox-static: .ci/run install");
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap();
    let mut tar = Tar::default();
    for folder in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        tar.folder(folder);
    }
    tar.file("bin/busybox", 0o755, &busybox);
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        tar.link(&format!("bin/{name}"), "busybox");
    }
    tar.finish()
}

/// By coreutils: the tests need it here only.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// An archive in the form `ustar` of POSIX.1-1988, with short names.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.header(name, mode, b'0', bytes.len(), "");
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn folder(&mut self, name: &str) {
        self.header(name, 0o755, b'5', 0, "");
    }

    fn link(&mut self, name: &str, to: &str) {
        self.header(name, 0o777, b'2', 0, to);
    }

    fn header(&mut self, name: &str, mode: u32, kind: u8, size: usize, link: &str) {
        assert!(name.len() <= 100 && link.len() <= 100, "{name} {link}");
        let mut header = [0u8; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, "00000000000");
        // The sum is taken with blanks in its own place.
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(header);
    }

    /// Two empty blocks end it.
    fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let mut tar = Tar::default();
        tar.folder("bin/");
        tar.file("bin/one", 0o755, b"one\n");
        tar.link("bin/two", "one");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.tar");
        fs::write(&path, tar.finish()).unwrap();
        let output = Command::new("tar").arg("-tvf").arg(&path).env("TZ", "UTC").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" bin/"), "{text}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 4 "), "{text}");
        assert!(lines[2].starts_with("lrwxrwxrwx") && lines[2].ends_with("bin/two -> one"), "{text}");
        assert!(output.status.success());
    }

    #[test]
    fn a_digest_is_what_the_world_takes_it_for() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
