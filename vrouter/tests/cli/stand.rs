//! A daemon without packets: the real API on a socket in a temporary folder, over a real store. And the binary, run
//! against it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use control::datastore::{Embedded, SyncEvent, Syncer, undo};
use control::http::answer;
use control::http::api::{ApiCall, ApiError, ApiRequest, ErrorCode};
use control::http::views::VersionView;
use control::ipam::call::IpamCall;
use control::ipam::service::Ipam;
use control::resources::Resources;
use control::workload::service::Workloads;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

pub struct Stand {
    pub folder: TempDir,
    pub store: Embedded,
    /// Dropping it ends the thread that serves.
    _stop: mpsc::Sender<()>,
}

/// What a command did.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Stand {
    pub fn new() -> Stand {
        let folder = TempDir::new().unwrap();
        let store = Embedded::open(&folder.path().join("store")).unwrap();
        let (stop, stopped) = mpsc::channel(1);
        let (socket, served) = (folder.path().join("api.sock"), store.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || serve(&socket, &served, stopped, &ready));
        is_ready.recv().unwrap();
        Stand { folder, store, _stop: stop }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs `vrouter` in the folder of this stand.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_as(env!("CARGO_BIN_EXE_vrouter").into(), arguments, "")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        self.run_as(env!("CARGO_BIN_EXE_vrouter").into(), arguments, input)
    }

    /// Runs it under calicoctl's name.
    pub fn calicoctl(&self, arguments: &[&str]) -> Ran {
        let link = self.path("calicoctl");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vrouter"), &link).unwrap();
        }
        self.run_as(link, arguments, "")
    }

    fn run_as(&self, program: PathBuf, arguments: &[&str], input: &str) -> Ran {
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("VROUTER_SOCKET", self.path("api.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs it and checks all that can be seen of it.
    #[track_caller]
    pub fn check(&self, arguments: &[&str], status: i32, stdout: &str) {
        let ran = self.run(arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (status, stdout), "{arguments:?}: {}", ran.stderr);
    }

    /// The code a command fails with, as its JSON has it.
    #[track_caller]
    pub fn code(&self, arguments: &[&str], status: i32) -> String {
        let ran = self.run(&[arguments, &["-o", "json"]].concat());
        assert_eq!(ran.status, status, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        let body: Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
        body["error"]["code"].as_str().unwrap().to_string()
    }

    /// What the daemon does when the time for a confirmation is over.
    pub fn let_time_pass(&self, seconds: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(seconds);
        runtime.block_on(undo::expire(&self.store, later)).unwrap();
    }
}

fn serve(
    socket: &std::path::Path,
    store: &Embedded,
    mut stopped: mpsc::Receiver<()>,
    ready: &std::sync::mpsc::Sender<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (control, mut requests) = mpsc::channel::<ApiRequest>(8);
        let desk = control::http::desk::Desk::new(control);
        let _server = control::http::serve(socket, desk.clone(), Workloads::new(desk)).unwrap();
        ready.send(()).unwrap();
        loop {
            tokio::select! {
                _ = stopped.recv() => return,
                request = requests.recv() => {
                    let Some(ApiRequest { call, caller, reply }) = request else { return };
                    let answered = answer::respond(store, &call, &caller, SystemTime::now()).await;
                    let result = match (answered, call) {
                        (Some(answered), _) => answered.map(|answered| answered.value),
                        (None, ApiCall::Version) => {
                            Ok(json!(VersionView { version: "9.9.9".to_string(), node: Some("n1".to_string()) }))
                        }
                        (None, ApiCall::Ipam(call)) => addresses(store, call).await,
                        (None, _) => Err(ApiError::new(ErrorCode::Unavailable, "no packets here")),
                    };
                    // The caller may have gone.
                    let _ = reply.send(result);
                }
            }
        }
    });
}

/// Answers about addresses, of a node that has just read the store.
async fn addresses(store: &Embedded, call: IpamCall) -> Result<Value, ApiError> {
    let (mut ipam, mut resources) = (Ipam::default(), Resources::default());
    let mut syncer = Syncer::new(store.clone());
    loop {
        let event = syncer.next().await?;
        ipam.records.follow(&event);
        if event == SyncEvent::InSync {
            break;
        }
        resources.follow(event);
    }
    if !call.is_order() {
        return Ok(ipam.ask(&resources, "n1", &call, SystemTime::now()));
    }
    let mut done = ipam.carry_out(store, &resources, "n1", &[call], SystemTime::now()).await;
    done.remove(0).map(|done| json!(done)).map_err(ApiError::from)
}
