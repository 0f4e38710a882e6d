//! The stable codes of everything that can go wrong, and a page about each.
//!
//! A code is what a script compares and a person looks up with `vrouter explain VR1203`. Its class gives the exit status
//! and the status of the HTTP answer. The table below is the only place: a new code is one entry, and cannot be without
//! a page.
//!
//! VR10.. the request · VR11.. manifests · VR12.. objects · VR13.. history · VR14.. addresses · VR15.. workloads · VR20.. the daemon · VR21.. the datastore ·
//! VR22.. files of the caller · VR23.. starting · VR90.. our own faults
//!
//! Invariants: a code is never given another meaning and never reused.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What kind of failure a code is; exit and HTTP status follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request or a resource in it is wrong.
    Invalid,
    NotFound,
    /// It exists already, or changed since it was read.
    Conflict,
    Denied,
    /// The datastore or the daemon cannot do it now.
    Unavailable,
    Timeout,
    /// A fault of ours.
    Internal,
}

impl Class {
    pub const ALL: [Class; 7] = [
        Class::Invalid,
        Class::NotFound,
        Class::Conflict,
        Class::Denied,
        Class::Unavailable,
        Class::Timeout,
        Class::Internal,
    ];

    pub fn http_status(self) -> u16 {
        match self {
            Class::Invalid => 422,
            Class::NotFound => 404,
            Class::Conflict => 409,
            Class::Denied => 403,
            Class::Unavailable => 503,
            Class::Timeout => 504,
            Class::Internal => 500,
        }
    }

    pub fn exit_status(self) -> u8 {
        match self {
            Class::Invalid => 2,
            Class::NotFound => 3,
            Class::Conflict => 4,
            Class::Denied => 5,
            Class::Unavailable => 6,
            Class::Timeout => 8,
            Class::Internal => 70,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Class::Invalid => "invalid",
            Class::NotFound => "not-found",
            Class::Conflict => "conflict",
            Class::Denied => "denied",
            Class::Unavailable => "unavailable",
            Class::Timeout => "timeout",
            Class::Internal => "internal",
        }
    }
}

/// What `explain CODE` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Page {
    pub title: &'static str,
    pub cause: &'static str,
    /// How it looks.
    pub example: &'static str,
    /// What to do.
    pub next: &'static str,
}

macro_rules! codes {
    ($($name:ident $id:literal $class:ident $title:literal $cause:literal $example:literal $next:literal)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode { $($name),+ }

        impl ErrorCode {
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),+];

            /// As printed: `VR1203`.
            pub fn id(self) -> &'static str {
                match self { $(ErrorCode::$name => $id),+ }
            }

            pub fn class(self) -> Class {
                match self { $(ErrorCode::$name => Class::$class),+ }
            }

            pub fn page(self) -> Page {
                match self {
                    $(ErrorCode::$name => Page { title: $title, cause: $cause, example: $example, next: $next }),+
                }
            }
        }
    };
}

codes! {
    Invalid "VR1000" Invalid "the request is wrong"
        "What was asked cannot be done as it was asked, and no other code says more closely why. The message does."
        "trace --src 10.0.0.1 --dst fd00::1: source and destination are of different families"
        "Change what the message names and ask again."
    Usage "VR1001" Invalid "the command line is wrong"
        "A command, option or value is not known, is missing, or cannot be combined with another one."
        "vrouter get gnp web -A: a name and all namespaces cannot be combined"
        "Read `vrouter COMMAND --help`; every command has examples there."
    UnknownKind "VR1002" Invalid "no kind has this name"
        "A kind of resource was named by a word that is neither its name nor one of the short words for it."
        "vrouter get policys"
        "`vrouter explain kinds` lists all kinds with their words. The message suggests the nearest one."
    BadBody "VR1003" Invalid "the body of an API request is not understood"
        "The body is not JSON, or has a field that is unknown, missing or of the wrong type. Query parameters count as well."
        "curl --unix-socket /run/vrouter/api.sock http://v/v1/apply -d '{'"
        "Compare with the table of requests in docs/CLI.md. The command line never causes this; if it does, the daemon is of another version: `vrouter version`."
    TooLarge "VR1004" Invalid "larger than the limit"
        "A request has at most 4 MiB, a transaction 10 000 writes, a resource 1 MiB stored. What is larger is refused whole, never cut."
        "vrouter apply -f everything/: the body is larger than 4 MiB"
        "Send fewer resources at a time: one folder after the other. Each `apply` is all or none by itself."
    UnknownPath "VR1005" NotFound "the API has no such path"
        "The path, or the method for it, is none that this daemon knows."
        "curl --unix-socket /run/vrouter/api.sock http://v/v2/apply"
        "docs/CLI.md lists the paths. An older daemon may not have a newer path: `vrouter version`."
    NotOffered "VR1006" Invalid "known elsewhere, not offered here"
        "The command or option belongs to calicoctl or kubectl and is deliberately not there, or not there yet. Nothing was done."
        "vrouter get gnp -o go-template='{{.}}'"
        "The message names what to use instead, if there is something."
    Manifest "VR1100" Invalid "a manifest has faults"
        "At least one file, document or list item is not a valid resource. Everything was read and every fault is told with file, line and column; nothing was sent."
        "vrouter apply -f bad.yaml: 2 problems in the manifests; nothing was sent"
        "Mend the lines that were named. `vrouter validate -f bad.yaml` repeats the check without a daemon; each fault has a code of its own."
    Syntax "VR1101" Invalid "the text is not YAML or JSON"
        "The document cannot be read at all: indentation, a missing quote, a key that stands there twice, a tag or alias that is not supported."
        "web.yaml:7:3: key \"spec\" stands here a second time"
        "Look at the line named and the one above it; a wrong indentation is the usual cause."
    UnknownField "VR1102" Invalid "no such field"
        "A field is not part of this kind. Unknown fields are refused, because a mistyped one would otherwise silently not be enforced."
        "spec.ingres: found an unknown field, expected one of tier, order, ingress, ... (did you mean ingress?)"
        "`vrouter explain KIND.spec` lists the fields that there are."
    BadValue "VR1103" Invalid "a value is not allowed here"
        "A field has a value of the wrong type, outside of its range, misspelt, or one that contradicts another field."
        "spec.ingress[0].action: found \"allow\", expected one of Allow, Deny, Log, Pass (did you mean Allow?)"
        "The message says what was expected. `vrouter explain KIND.PATH` tells type, default and rules of the field."
    MissingField "VR1104" Invalid "a field is missing"
        "A field that has to be there is absent or empty."
        "metadata.name: found nothing, expected a name for this Tier"
        "Add it. `vrouter explain KIND.PATH` tells what belongs there."
    NoResources "VR1106" Invalid "nothing to do in there"
        "A file or folder that was given with -f holds no resource at all. That is more often a wrong path than a wish."
        "vrouter apply -f empty/: no resources in empty/"
        "Check the path; -R looks into the folders of a folder. With --skip-empty it is no error."
    BadPatch "VR1107" Invalid "the patch does not fit"
        "The patch is not valid JSON or YAML, is not of the type given by -t, names a place the object does not have, or its result is not a valid resource."
        "vrouter patch gnp web -t json -p '[{\"op\": \"remove\", \"path\": \"/spec/colour\"}]'"
        "`vrouter get KIND NAME -o json` shows what is patched. -t merge takes a piece of the object, -t json a list of operations."
    BadLabel "VR1108" Invalid "not a label"
        "A label on the command line is `key=value` to set, `key` with --remove to remove; keys and values follow the rules of Kubernetes."
        "vrouter label node n1 role"
        "Write key=value, or add --remove."
    NotFound "VR1200" NotFound "it is not there"
        "Something that was named does not exist, and no other code says more closely what."
        "vrouter trace --from shop/web: no endpoint shop/web on this node"
        "`vrouter get KIND -A` and `vrouter show interfaces` tell what there is."
    ObjectNotFound "VR1201" NotFound "no such object"
        "No object of that kind has that name, or not in that namespace. The default namespace is `default`."
        "vrouter get np web: NetworkPolicy default/web not found"
        "`vrouter get KIND -A` lists all of them. For `delete`, --skip-not-exists makes it no error."
    AlreadyExists "VR1202" Conflict "the object exists already"
        "`create` only makes what is not there."
        "vrouter create -f pool.yaml: IPPool main already exists; use apply or replace to change it"
        "`vrouter diff -f pool.yaml` shows the difference, `apply` makes it so, `create --skip-exists` leaves existing ones alone."
    ChangedSinceRead "VR1203" Conflict "the object changed since it was read"
        "The manifest carries a metadata.resourceVersion (or the request an expected revision) that is not the current one: somebody else wrote in between."
        "NetworkPolicy default/web changed since it was read: found revision 12, expected 9"
        "Get it again and repeat the change, or remove resourceVersion from the manifest to overwrite whatever is there. `vrouter history` tells who changed it."
    Replaced "VR1204" Conflict "another object has the name now"
        "The manifest carries a metadata.uid, and the object that has the name now was made later."
        "Tier security is another object now: found uid 5d1c..., expected 88aa..."
        "Export without store fields: `vrouter get KIND NAME -o yaml --export`."
    VersionOnCreate "VR1205" Invalid "a resourceVersion on create"
        "metadata.resourceVersion names a state of an object that is there; `create` makes one that is not."
        "IPPool main: metadata.resourceVersion must not be set on create, found \"7\""
        "Remove it; `get --export` leaves it out."
    BadVersion "VR1206" Invalid "not a resourceVersion of this store"
        "metadata.resourceVersion is a number that this store gave out. Others come from another cluster."
        "Tier security: metadata.resourceVersion \"abc\" is not a revision of this store"
        "Remove it; `get --export` leaves it out."
    WrittenTwice "VR1207" Invalid "one object twice in one transaction"
        "All manifests of one command are one transaction, and the order within it has no meaning."
        "Profile web is written twice in one commit; keep one of the two"
        "Remove one of the two. `grep -rn 'name: web'` in the folder finds them."
    LabelExists "VR1208" Conflict "the label has another value"
        "`label` does not change the value of a label that is there unless it is told to."
        "vrouter label node n1 role=db: label role is already web"
        "Add --overwrite."
    Conflict "VR1209" Conflict "it contradicts what is there"
        "What was asked contradicts the present state, and no other code says more closely how."
        "-"
        "Read the message; `vrouter get` and `vrouter history` show the present state and how it came about."
    NoSuchTransaction "VR1301" NotFound "no such transaction in the history"
        "The number is none of a transaction, or of one that is no longer kept: the last 100, of at most 16 MiB together."
        "vrouter history show 3: revision 3 is not in the history"
        "`vrouter history` lists those that are kept."
    NothingToUndo "VR1302" NotFound "nothing to undo"
        "No transaction is kept in the history."
        "vrouter undo: the history is empty"
        "`vrouter history` lists what can be undone."
    UndoConflict "VR1303" Conflict "changed again since"
        "An object of the transaction was changed, deleted or made anew by a later one; undoing would silently undo that as well."
        "cannot undo revision 12: NetworkPolicy default/web changed again at revision 14"
        "Undo the later one first (`vrouter undo 14`), or take --force: then the objects become what they were before revision 12. --dry-run says what would happen."
    UndoNotKept "VR1304" NotFound "the transaction was too large to be kept whole"
        "The history has at most 16 MiB. Of a transaction larger than that only who, when and what is kept, not the objects."
        "cannot undo revision 12: its objects were not kept"
        "Apply the manifests of the state before."
    ConfirmPending "VR1305" Conflict "a change waits for its confirmation already"
        "One transaction at a time can wait for `vrouter confirm`."
        "revision 12 waits for `vrouter confirm` until 2026-11-25T21:40:00Z"
        "`vrouter confirm` to keep it or `vrouter undo` to take it back; then repeat the command."
    AwaitsConfirmation "VR1306" Conflict "the object waits for a confirmation"
        "The object was written with --confirm, and must stay as it is until that is settled: otherwise it could not be undone."
        "NetworkPolicy default/web was changed by revision 12, which waits for `vrouter confirm`"
        "`vrouter confirm` to keep that change or `vrouter undo` to take it back; then repeat the command."
    NothingToConfirm "VR1307" NotFound "nothing waits for a confirmation"
        "No transaction was made with --confirm, it was confirmed already, or it was not confirmed in time and undone."
        "vrouter confirm"
        "`vrouter history` tells which of these it was."
    ConfirmTooLarge "VR1308" Invalid "too large to be undone"
        "With --confirm the objects before and after are kept for the undoing; together they may have at most 16 MiB."
        "vrouter apply -f everything/ --confirm 60s"
        "Apply in smaller parts, each confirmed before the next."
    NoAddresses "VR1401" Unavailable "no addresses left"
        "Every address of the pools that may be used has an owner, rests after its release, or is reserved."
        "no IPv4 addresses left: 1 wanted, 0 found; pool main (10.65.0.0/26): 64 addresses, 64 in use, 0 reserved, 0 resting, 0 free"
        "Apply another IPPool. `vrouter ipam check` tells of addresses that nobody uses, and `vrouter ipam release` gives them back."
    NoBlocks "VR1402" Unavailable "this node may have no more blocks"
        "There are free addresses, but the node may neither claim another block nor borrow: maxBlocksPerHost, autoAllocateBlocks or strictAffinity of the IPAMConfiguration."
        "no IPv4 addresses left: 1 wanted, 0 found; pool main (10.65.0.0/16): ...; this node has as many blocks as it may have, 1"
        "`vrouter ipam configure --max-blocks-per-host N` or `--strictaffinity=false`; `vrouter ipam show --show-blocks` tells whose the blocks are."
    NoPool "VR1403" Invalid "no pool for it"
        "No IPPool has the address, or none may be used: disabled, Manual, another use, or its selectors do not select this node or namespace."
        "no IPv4 pool that this node may use for Workload addresses; passed over: main (its nodeSelector)"
        "`vrouter get pools -o wide` shows them. Ask for one by name, change its selectors, or apply another."
    AddressTaken "VR1404" Conflict "the address cannot be had"
        "Somebody has it, it was released a moment ago and rests, or it is in another node's block and strictAffinity is on."
        "10.65.0.1 has an owner already: handle k8s-pod-network.1a2b; release it first, or ask for another"
        "`vrouter ipam who 10.65.0.1` tells whose it is."
    NotAssigned "VR1405" NotFound "the address is not assigned"
        "Nobody has it, so there is nothing to release."
        "10.65.0.1 is not assigned; nothing was released"
        "`vrouter ipam who 10.65.0.1` tells what is known of it."
    NotReleased "VR1406" Conflict "the address is somebody else's now"
        "It was to be released from a handle, or from a state, that it is not in any more: it was given out again meanwhile."
        "10.65.0.1 belongs to handle b, expected a; nothing was released"
        "`vrouter ipam who 10.65.0.1` tells whose it is. Take a new report with `vrouter ipam check -o report.json`."
    AddressesLocked "VR1407" Unavailable "the datastore is locked"
        "ClusterInformation default has datastoreReady: false: somebody works on pools or moves the datastore, and addresses stay as they are."
        "the datastore is locked (ClusterInformation default: datastoreReady is false)"
        "Wait, or set datastoreReady to true when the work is done."
    BadNamespace "VR1501" Invalid "no network namespace"
        "The path given for a workload's network namespace leads to nothing, to something else, or to the host's own namespace."
        "network namespace /run/netns/web: there is nothing at this path"
        "`ip netns list` and `lsns -t net` tell what there is. A container's is /proc/PID/ns/net of its first process."
    InterfaceTaken "VR1502" Conflict "the interface exists already"
        "The workload has an interface of that name, or the host has one that vrouter has not made."
        "interface eth0 exists in /run/netns/web already"
        "Choose another name with --ifname, or take the old one away: `vrouter endpoint del`, `ip -n web link del eth0`."
    NotAttached "VR1503" Unavailable "the workload could not be attached"
        "The kernel refused an interface, an address or a route, or the interface could not be brought into the fast path. Everything was undone."
        "calif1a2b3c4d5e was not attached within 5 s: attach calif1a2b3c4d5e: load the program"
        "The message tells which step; `vrouter doctor` tells what this machine lacks; the daemon's log has the rest."
    Unavailable "VR2000" Unavailable "it cannot be done now"
        "The daemon is not in a state to do it, and no other code says more closely why."
        "vrouter trace ...: no tables are in force yet"
        "`vrouter show status` tells what is missing; try again."
    Unreachable "VR2001" Unavailable "no daemon answers"
        "Nobody listens at the socket, or the daemon went away while it was asked. If a write was under way, it may have been stored."
        "cannot reach the vrouter daemon at /run/vrouter/api.sock: No such file or directory"
        "Start it (`systemctl start vrouter`, or `vrouter run`). Another socket: --socket or VROUTER_SOCKET."
    Denied "VR2002" Denied "not allowed"
        "The socket has mode 0660: its owner and group may open it, and then may do everything."
        "not allowed to open /run/vrouter/api.sock: Permission denied"
        "Use sudo, or join the group that owns the socket. validate, diff of files, explain and --help need no daemon."
    Timeout "VR2003" Timeout "no answer in time"
        "The daemon did not answer within 30 s. A write may have been stored all the same."
        "no answer within 30 s; the control loop may be stuck"
        "`vrouter get` and `vrouter history` tell whether it was stored; the daemon's log tells what it is busy with."
    Busy "VR2004" Unavailable "the daemon is busy"
        "At most 16 requests are served at a time. What is over the limit is refused rather than queued without end."
        "the daemon is busy with other requests; try again"
        "Try again; a script that asks in a loop should wait between its questions."
    Stopping "VR2005" Unavailable "the daemon is stopping"
        "It was told to end while it was asked."
        "the daemon is stopping"
        "Ask again when it has started. `vrouter history` tells whether a write was stored."
    NotUnderstood "VR2006" Internal "the answer is not understood"
        "What came back is not what this program expects: the daemon is of another version, or something else listens at the socket."
        "the answer from /run/vrouter/api.sock is not understood: missing field `revision`"
        "Compare `vrouter version --client` with the daemon's version in its log; upgrade the older one."
    StoreDamaged "VR2101" Unavailable "the datastore is damaged"
        "A checksum, a count or the structure of the file is wrong. Nothing is read from a file that cannot be trusted."
        "datastore /var/lib/vrouter/db/store.redb is damaged: the file is empty"
        "Restore it from a backup; or move it away, start empty and apply the manifests again."
    StoreFormat "VR2102" Unavailable "the datastore is of another version"
        "The file was written by a release whose layout this one does not know."
        "datastore /var/lib/vrouter/db/store.redb has format 2, this program knows 1"
        "Use the release that wrote it."
    StoreInUse "VR2103" Unavailable "the datastore is in use"
        "Another process holds the file: a second daemon, or a copy of it that has not ended."
        "datastore /var/lib/vrouter/db/store.redb is in use by another process"
        "`pgrep -a vrouter`; stop the other one, or give this one its own --datastore."
    DiskFull "VR2104" Unavailable "no space for the datastore"
        "The disk is full. Nothing was written; packets and reads go on with what is in force."
        "no space left for datastore /var/lib/vrouter/db/store.redb: nothing was written"
        "Free some space and repeat the command."
    StoreIo "VR2105" Unavailable "the datastore cannot be read or written"
        "The disk or the file system refused. Nothing was written; packets and reads go on with what is in force."
        "write datastore /var/lib/vrouter/db/store.redb: Read-only file system"
        "The kernel's log (`dmesg`) tells about disks. Repeat the command when it is mended."
    CommitUnknown "VR2106" Unavailable "it is not known whether it was stored"
        "The failure came so late that the transaction may have reached the disk."
        "sync datastore /var/lib/vrouter/db/store.redb: it is not known whether the commit was kept; read it again"
        "`vrouter history` tells when the disk answers again. `apply` may simply be repeated."
    StoreBehind "VR2107" Unavailable "the datastore's past is gone"
        "It is behind what was seen of it (a backup was restored), or no longer keeps the changes that were asked for."
        "revision 40 was asked for, but the datastore is only at 12"
        "After restoring a backup restart the daemon; it reads everything anew."
    StoreClosed "VR2108" Unavailable "the datastore was closed"
        "The daemon closed it, because it ends or because an earlier failure left it unusable."
        "watch ended: the datastore was closed"
        "Read the daemon's log for the failure before; restart it."
    FileNotFound "VR2201" NotFound "no such file"
        "A file or folder that was given does not exist."
        "vrouter apply -f polices/: read polices/: No such file or directory"
        "Check the path; it is relative to the present folder."
    FileDenied "VR2202" Denied "the file may not be read"
        "Its mode, or that of a folder above it, forbids it."
        "read /etc/vrouter/policy.yaml: Permission denied"
        "Use sudo, or pipe it in: `sudo cat FILE | vrouter apply -f -`."
    FileUnreadable "VR2203" Unavailable "the file cannot be read"
        "The disk refused, the text is not UTF-8, or folders are nested more than 16 deep (a loop of links, perhaps)."
        "read policy.yaml: stream did not contain valid UTF-8"
        "`file policy.yaml` tells its encoding; `iconv` changes it."
    Output "VR2204" Unavailable "the answer cannot be written"
        "stdout refused. What was asked has been done."
        "write to stdout: No space left on device"
        "Look where the output goes."
    BadSetting "VR2301" Invalid "a setting of the daemon is wrong"
        "A flag, variable or line of the settings file has a value that is not allowed. All wrong ones are told at once."
        "vrouter run --poll nap: command line: --poll: found \"nap\", expected one of sleep, always"
        "`vrouter run --help` lists the settings and their values."
    StartFailed "VR2302" Unavailable "the daemon could not start"
        "Something it needs is missing or refused: privileges, the datastore, memory for frames, the socket's folder."
        "vrouter run: prepare frames for worker 0: Cannot allocate memory"
        "`vrouter doctor` tells what this machine lacks and what to change."
    Internal "VR9000" Internal "a fault of vrouter"
        "Something that cannot happen has happened. Nothing was changed by this request unless the message says so."
        "the answer to show Flows is not its view"
        "Please report it, with the message, `vrouter version` and the daemon's log around that time."
    Form "VR9001" Internal "the answer cannot be put into that form"
        "The answer is there but could not be written as JSON or YAML."
        "write the answer as YAML: ..."
        "Take another -o. Please report it."
}

impl ErrorCode {
    pub fn http_status(self) -> u16 {
        self.class().http_status()
    }

    pub fn exit_status(self) -> u8 {
        self.class().exit_status()
    }

    /// The code of `VR1203`, in any case.
    pub fn from_id(id: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.id().eq_ignore_ascii_case(id))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ErrorCode, D::Error> {
        let id = String::deserialize(deserializer)?;
        ErrorCode::from_id(&id).ok_or_else(|| de::Error::custom(format!("unknown error code {id:?}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_have_whole_pages() {
        let ids: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.id()).collect();
        assert_eq!(ids.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let id = code.id();
            let digits = id.strip_prefix("VR").unwrap_or_default();
            assert!(digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()), "{id}");
            let Page { title, cause, example, next } = code.page();
            assert!(title.len() > 5 && cause.len() > 20 && !example.is_empty() && next.len() > 10, "{id}");
            assert_eq!(ErrorCode::from_id(&id.to_lowercase()), Some(*code));
        }
        assert_eq!(ErrorCode::from_id("VR0000"), None);
    }

    #[test]
    fn an_exit_status_and_an_http_status_for_each_class() {
        let exits: BTreeSet<u8> = Class::ALL.iter().map(|class| class.exit_status()).collect();
        let https: BTreeSet<u16> = Class::ALL.iter().map(|class| class.http_status()).collect();
        assert_eq!((exits.len(), https.len()), (Class::ALL.len(), Class::ALL.len()));
    }
}
