//! Every error code can be met: by a command, by a request, or by the error of the store that carries it.

use std::collections::BTreeSet;
use std::io;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use config::resource::{Key, Kind};
use control::datastore::{Revision, StoreError};
use control::http::api::{ApiError, ErrorBody, ErrorCode};

use super::stand::Stand;
use super::{POLICY, TIER};

/// Met only in a state that a test cannot bring about from outside, each with where it is made.
const INSIDE: [(ErrorCode, &str); 10] = [
    (ErrorCode::InterfaceTaken, "workload: attached twice; needs a router"),
    (ErrorCode::NotAttached, "workload: the kernel or the fast path refuses; needs a router"),
    (ErrorCode::Invalid, "trace: families that do not fit; needs a router"),
    (ErrorCode::Conflict, "the class's own code, for callers of a newer daemon"),
    (ErrorCode::Timeout, "http: 30 s without an answer"),
    (ErrorCode::Busy, "http: more than 16 requests; tested in control"),
    (ErrorCode::Stopping, "http: the loop has ended; tested in control"),
    (ErrorCode::Output, "stdout refuses"),
    (ErrorCode::Internal, "a fault of ours"),
    (ErrorCode::Form, "a fault of ours"),
];

fn store_errors() -> Vec<StoreError> {
    let key = || Key::cluster(Kind::Tier, "a");
    let path = || PathBuf::from("/x");
    let revision = Revision(1);
    let source = || io::Error::other("refused");
    vec![
        StoreError::NotFound(key()),
        StoreError::AlreadyExists(key()),
        StoreError::Conflict { key: key(), found: revision, expected: revision },
        StoreError::Replaced { key: key(), found: String::new(), expected: String::new() },
        StoreError::VersionOnCreate { key: key(), found: String::new() },
        StoreError::BadVersion { key: key(), found: String::new() },
        StoreError::WrittenTwice(key()),
        StoreError::TooManyWrites { found: 2, limit: 1 },
        StoreError::TooLarge { key: key(), bytes: 2, limit: 1 },
        StoreError::NoSuchTransaction { revision },
        StoreError::NothingToUndo,
        StoreError::UndoNotKept { revision },
        StoreError::ChangedSince { revision, changed: Vec::new() },
        StoreError::ConfirmPending { revision, until: String::new() },
        StoreError::AwaitsConfirmation { key: key(), revision, until: String::new() },
        StoreError::NothingToConfirm,
        StoreError::ConfirmTooLarge { bytes: 2, limit: 1 },
        StoreError::Compacted { from: revision, oldest: revision },
        StoreError::Closed,
        StoreError::Damaged { path: path(), reason: String::new() },
        StoreError::Format { path: path(), found: 2, known: 1 },
        StoreError::InUse { path: path() },
        StoreError::DiskFull { path: path() },
        StoreError::Io { action: "write", path: path(), source: source() },
        StoreError::Unknown { action: "write", path: path(), source: source() },
    ]
}

/// The code the API answers a request with.
fn asked(stand: &Stand, request: &str) -> ErrorCode {
    let mut stream = UnixStream::connect(stand.path("api.sock")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str::<ErrorBody>(body).unwrap().error.code
}

#[test]
fn every_code_can_be_met() {
    let stand = Stand::new();
    let mut met: BTreeSet<ErrorCode> = store_errors().into_iter().map(|error| ApiError::from(error).code).collect();
    let close = "Host: x\r\nConnection: close\r\n";
    met.insert(asked(&stand, &format!("GET /v1/nothing HTTP/1.1\r\n{close}\r\n")));
    met.insert(asked(&stand, &format!("POST /v1/apply HTTP/1.1\r\n{close}Content-Length: 1\r\n\r\n{{")));
    met.insert(asked(&stand, &format!("GET /v1/show/flows HTTP/1.1\r\n{close}\r\n")));

    stand.write("wrong.yaml", &POLICY.replace("order", "ordr").replace("name: web", "name: ''").replace("TCP", "tcp"));
    stand.write("broken.yaml", "a: [");
    stand.write("bytes.yaml", "");
    std::fs::write(stand.path("bytes.yaml"), [0xff, 0xfe]).unwrap();
    stand.write("tier.yaml", TIER);
    std::fs::create_dir(stand.path("empty")).unwrap();
    let _listener = UnixListener::bind(stand.path("other.sock")).unwrap();
    let commands: [(&[&str], i32); 12] = [
        (&["get"], 2),
        (&["get", "nonsense"], 2),
        (&["get", "gnp", "-o", "go-template=x"], 2),
        (&["apply", "-f", "wrong.yaml"], 2),
        (&["apply", "-f", "empty"], 2),
        (&["apply", "-f", "missing.yaml"], 3),
        (&["apply", "-f", "bytes.yaml"], 6),
        (&["explain", "VR0000"], 3),
        (&["get", "gnp", "--socket", "/nonexistent"], 6),
        (&["patch", "tier", "security", "-p", "1"], 2),
        (&["label", "tier", "security", "a"], 2),
        (&["run", "--poll", "nap"], 2),
    ];
    assert_eq!(stand.run(&["apply", "-f", "tier.yaml"]).status, 0);
    for (arguments, status) in commands {
        let ran = stand.run(arguments);
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
        met.extend(codes_in(&ran.stderr));
    }
    assert_eq!(stand.run(&["label", "tier", "security", "a=b"]).status, 0);
    met.extend(codes_in(&stand.run(&["label", "tier", "security", "a=c"]).stderr));
    met.extend(codes_in(&stand.run(&["validate", "-f", "broken.yaml"]).stdout));
    // Somebody who answers something else, and a file that may not be opened: by the errors that carry them.
    let garbled = garbled_answer(&stand);
    met.extend(codes_in(&garbled));
    met.extend(denied(&stand));
    met.extend(codes_in(&stand.run(&["run", "--datastore", "embedded:/proc/nowhere"]).stderr));
    met.extend(of_addresses(&stand));
    met.extend(codes_in(&stand.run(&["endpoint", "add", "web", "--netns", "/nonexistent"]).stderr));

    let inside: BTreeSet<ErrorCode> = INSIDE.iter().map(|(code, _)| *code).collect();
    let missing: Vec<ErrorCode> =
        ErrorCode::ALL.iter().copied().filter(|code| !met.contains(code) && !inside.contains(code)).collect();
    assert!(missing.is_empty(), "no test meets {missing:?}");
}

/// Addresses that cannot be had, or given back, one after the other. The last locks the datastore.
fn of_addresses(stand: &Stand) -> BTreeSet<ErrorCode> {
    let apply = |name: &str, kind: &str, object: &str, spec: &str| {
        let head = "apiVersion: projectcalico.org/v3";
        stand.write(name, &format!("{head}\nkind: {kind}\nmetadata: {{ name: {object} }}\nspec: {spec}\n"));
        let ran = stand.run(&["apply", "-f", name]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    };
    let mut met = BTreeSet::new();
    let mut fails = |line: &str| {
        let ran = stand.run(&line.split(' ').collect::<Vec<_>>());
        assert_ne!(ran.status, 0, "{line}: {}", ran.stdout);
        met.extend(codes_in(&ran.stderr));
    };
    let works = |line: &str| {
        let ran = stand.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
    };
    fails("ipam assign --handle a --ipv4 1");
    apply("main.yaml", "IPPool", "main", "{ cidr: 10.65.0.0/26 }");
    works("ipam assign --handle a --ipv4 64");
    fails("ipam assign --handle b --ipv4 1");
    fails("ipam assign --handle b --ip 10.65.0.1");
    fails("ipam release --ip 10.65.0.2 --handle b");
    works("ipam release --ip 10.65.0.1");
    fails("ipam release --ip 10.65.0.1");
    apply("more.yaml", "IPPool", "more", "{ cidr: 10.66.0.0/26 }");
    works("ipam configure --strictaffinity=true --max-blocks-per-host 1");
    fails("ipam assign --handle b --ipv4 2");
    apply("lock.yaml", "ClusterInformation", "default", "{ datastoreReady: false }");
    fails("ipam assign --handle b --ipv4 1");
    met
}

fn codes_in(text: &str) -> Vec<ErrorCode> {
    text.split("error[").skip(1).filter_map(|rest| ErrorCode::from_id(rest.split(']').next()?)).collect()
}

fn garbled_answer(stand: &Stand) -> String {
    let path = stand.path("garbled.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The request fits one read; what it says does not matter.
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]").unwrap();
    });
    let ran = stand.run(&["get", "gnp", "--socket", path.to_str().unwrap()]);
    answering.join().unwrap();
    ran.stderr
}

/// root may open everything; then only the mapping is known.
fn denied(stand: &Stand) -> Vec<ErrorCode> {
    use std::os::unix::fs::PermissionsExt;
    let closed = |path: &str| {
        std::fs::set_permissions(stand.path(path), std::fs::Permissions::from_mode(0o000)).unwrap();
    };
    stand.write("closed.yaml", TIER);
    closed("closed.yaml");
    if std::fs::read(stand.path("closed.yaml")).is_ok() {
        println!("skipped: denied files and sockets; root may open everything");
        return vec![ErrorCode::Denied, ErrorCode::FileDenied];
    }
    closed("other.sock");
    let mut codes = codes_in(&stand.run(&["validate", "-f", "closed.yaml"]).stderr);
    let socket = stand.path("other.sock");
    codes.extend(codes_in(&stand.run(&["get", "gnp", "--socket", socket.to_str().unwrap()]).stderr));
    codes
}
