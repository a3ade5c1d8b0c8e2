//! `Etcd` and `Cluster`: real servers as child processes. `proxy.rs` breaks the connections between
//! client and server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::sleep;

pub use self::cluster::Cluster;
use self::folder::Folder;
use self::health_check::HealthCheck;
use self::process::{Ports, Process, Settings, default_binary, numbers, version_of};
use crate::revision::Revision;

mod cluster;
mod folder;
mod health_check;
mod process;

/// How long a server may take until it answers. A server needs far less, but tests share the
/// machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// The maximum number of members of a cluster. Each member needs a process and several ports.
const MOST_MEMBERS: usize = 99;
/// How often a cluster is started with other ports, if another program has taken one of its ports.
const PORT_ATTEMPTS: usize = 10;

/// A real etcd server (3.4 to 3.7) with free loopback ports, a temporary data directory, the v3
/// API, and the v2 API if the server [has it](Self::has_v2).
///
/// The program is the path that [`Builder::binary`] sets, else the path in the environment variable
/// `ETCD_BIN`, else `etcd` on the `PATH`. The server does not get the `ETCD_*` variables of the
/// environment, so they do not change its settings.
///
/// Dropping the value kills the server and removes its data. If the test process ends without
/// dropping it, a helper process does both, even after a SIGKILL to the test's process group. If
/// the helper is killed too, the next start of a server by any test process removes the data.
pub struct Etcd {
    settings: Settings,
    ports: Ports,
    folder: Folder,
    process: Option<Process>,
    version: String,
    /// The number of members of its cluster.
    members: usize,
    /// True if the server was killed and may have lost acknowledged writes.
    doubtful: bool,
}

/// Settings for a server; see [`Etcd::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Settings,
}

/// The certificate files of a server with TLS, in PEM format.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, which must be valid for `127.0.0.1`.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// If set, clients must present a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

impl Etcd {
    /// Starts a server with the settings of [`builder`](Self::builder) and waits until it answers.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or the server does not start.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder for a server or a cluster with other settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { settings: Settings { binary: default_binary(), flags: Vec::new(), tls: None, unsafe_no_fsync: true, v2: true } }
    }

    /// Starts a cluster with this many members and etcd's default settings, and waits until it
    /// answers.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or a server does not start. Panics also if `members` is
    /// zero or more than 99.
    pub async fn cluster(members: usize) -> Cluster {
        Self::builder().cluster(members).await
    }

    /// Returns the server that all tests of this process share. Tests must not break it, and must
    /// use different keys. The server ends with the process.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or the server does not start.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Etcd> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Returns the address for clients, `127.0.0.1:PORT`. It does not change when the server
    /// restarts.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// Returns the port for clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// Returns the URL for a v3 client: `etcd://127.0.0.1:PORT`, or `etcds://` with TLS.
    #[must_use]
    pub fn url_v3(&self) -> String {
        let scheme = if self.settings.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// Whether the server has the v2 API. etcd 3.6 removed it, and `false` for [`Builder::v2`]
    /// turns it off.
    #[must_use]
    pub fn has_v2(&self) -> bool {
        self.settings.v2 && process::has_v2(&self.version)
    }

    /// Returns the URL for a v2 client: `etcd2://127.0.0.1:PORT`, or `etcd2s://` with TLS.
    ///
    /// # Panics
    ///
    /// Panics if the server has no v2 API; see [`has_v2`](Self::has_v2).
    #[must_use]
    pub fn url_v2(&self) -> String {
        assert!(
            self.has_v2(),
            "this etcd {} has no v2 API, which 3.6 removed and `Builder::v2(false)` turns off; run this test on etcd 3.4 or 3.5, or leave it out \
             with `--skip v2`",
            self.version
        );
        let scheme = if self.settings.tls.is_some() { "etcd2s" } else { "etcd2" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// Returns the server's version, such as `3.4.23`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the path of the server's program.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.settings.binary
    }

    /// Whether the server has this version or a later one: `etcd.is_at_least(3, 6)`.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        numbers(&self.version) >= (major, minor, 0)
    }

    /// Returns the directory with the server's data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.data()
    }

    /// Returns the server's log since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.read_log()
    }

    /// Ends the server at once, like a crash (SIGKILL). Keeps its data. Does nothing if the server
    /// is not running.
    ///
    /// Some versions may then lose acknowledged writes, so a later start on the same data panics:
    /// single members before 3.4.21 and of 3.5.0 to 3.5.4 (etcd issue 14370), and every member of
    /// 3.5.0 to 3.5.2 (issue 13766).
    pub async fn kill(&mut self) {
        self.doubtful |= self.process.take().is_some() && forgets_at_a_crash(&self.version, self.members);
    }

    /// Asks the server to end (SIGTERM) and waits until it has ended. Keeps its data. Does nothing
    /// if the server is not running.
    ///
    /// # Panics
    ///
    /// Panics if the server takes longer than a minute.
    pub async fn terminate(&mut self) {
        // The server may have ended by itself.
        if !self.is_running() {
            self.process = None;
        }
        let Some(process) = &mut self.process else { return };
        process.signal("TERM");
        let began = Instant::now();
        while process.is_running() {
            assert!(began.elapsed() < START_LIMIT, "etcd does not end after SIGTERM; its log:\n{}", self.folder.log_excerpt());
            sleep(POLL).await;
        }
        self.process = None;
    }

    /// Freezes the server (SIGSTOP): its connections stay open, but it does not respond.
    ///
    /// # Panics
    ///
    /// Panics if the server is not running.
    pub fn pause(&self) {
        self.running().pause();
    }

    /// Continues a frozen server (SIGCONT).
    ///
    /// # Panics
    ///
    /// Panics if the server is not running.
    pub fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Whether the server's process exists, even if it is frozen.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Kills the server if it runs, starts it again on the same data and ports, and waits until it
    /// answers.
    ///
    /// A member of a cluster answers only when a majority runs. To restart several members, first
    /// call [`launch`](Self::launch) for each.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start, or its version may lose acknowledged writes in a crash; see
    /// [`kill`](Self::kill).
    pub async fn restart(&mut self) {
        self.kill().await;
        self.launch().await;
        self.ready().await;
    }

    /// Upgrades the server: stops it cleanly, starts this program with the same data, ports and
    /// flags, and waits until it answers. While the members of a [`Cluster`] are upgraded one by
    /// one, the cluster has mixed versions.
    ///
    /// etcd supports upgrades by one minor version (3.6 to 3.7), and no downgrades.
    ///
    /// # Panics
    ///
    /// Panics if there is no such program, the server does not stop, or the program does not start
    /// with the data.
    pub async fn upgrade(&mut self, binary: impl Into<PathBuf>) {
        let binary = binary.into();
        self.terminate().await;
        self.version = version_of(&binary);
        self.settings.binary = binary;
        self.launch().await;
        self.ready().await;
    }

    /// Like [`restart`](Self::restart), but removes the data first. The new server is empty and has
    /// the same flags, ports and IDs.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start, or its data cannot be removed.
    pub async fn wipe(&mut self) {
        self.kill().await;
        self.folder.clear_data();
        self.doubtful = false;
        self.restart().await;
    }

    /// Like [`wipe`](Self::wipe), but with another `--initial-cluster-token`, from which etcd
    /// derives the IDs of the cluster and its members. So the new server belongs to another cluster
    /// at the same address, as after a restore.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start, or its data cannot be removed.
    pub async fn wipe_as(&mut self, token: &str) {
        self.forget(token).await;
        self.restart().await;
    }

    /// Ends the server, removes its data and sets another `--initial-cluster-token`. Use it for the
    /// members of a cluster, which wait for each other: call [`launch`](Self::launch) for each,
    /// then wait with [`ready`](Self::ready).
    ///
    /// # Panics
    ///
    /// Panics if the server's data cannot be removed.
    pub async fn forget(&mut self, token: &str) {
        self.kill().await;
        self.folder.clear_data();
        self.doubtful = false;
        self.settings.flags.push(format!("--initial-cluster-token={token}"));
    }

    /// Starts the server with its data and ports, unless it is running. Does not wait until it
    /// answers.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or if the server was [killed](Self::kill) and its
    /// version may have lost acknowledged writes. With such a version, a test with missing data
    /// could not distinguish its own failure from the server's.
    pub async fn launch(&mut self) {
        assert!(
            !self.doubtful,
            "this etcd {} may have lost acknowledged writes when it was killed (etcd issues 13766 and 14370): `terminate` or `wipe` it, or \
                         use another version",
            self.version
        );
        if !self.is_running() {
            self.process = Some(Process::spawn(&self.settings, &self.version, &self.ports, &self.folder));
        }
    }

    /// Waits until the server answers clients. Launches the server again if its port was taken.
    ///
    /// # Panics
    ///
    /// Panics if the server ends, or does not answer within a minute.
    pub async fn ready(&mut self) {
        let began = Instant::now();
        loop {
            match self.observe().await {
                Start::Ready => return,
                // After a restart, a port may be taken for a moment by a client's own connection.
                Start::PortTaken if began.elapsed() < START_LIMIT => self.launch().await,
                Start::Pending if began.elapsed() < START_LIMIT => {}
                Start::Pending | Start::PortTaken | Start::Ended => {
                    panic!("etcd does not start; its log:\n{}", self.folder.log_excerpt())
                }
            }
            sleep(POLL).await;
        }
    }

    /// Checks whether the server runs and answers. No other user of the harness has its ports, so
    /// no other server can answer.
    async fn observe(&mut self) -> Start {
        let answers = HealthCheck::of(&self.settings, &self.ports).is_answered().await;
        if !self.is_running() {
            self.process = None;
            let port_taken = self.folder.read_log().contains("address already in use");
            return if port_taken { Start::PortTaken } else { Start::Ended };
        }
        if answers { Start::Ready } else { Start::Pending }
    }

    /// Sends a request to etcd's JSON gateway for the v3 API, without a client of this crate:
    /// `etcd.call("/v3/kv/compaction", "{\"revision\": 7}")`. Keys and values in the body are
    /// Base64. Returns the body of the answer, whatever its status.
    ///
    /// # Panics
    ///
    /// Panics if the server cannot be reached, or uses TLS.
    pub async fn call(&self, path: &str, body: &str) -> String {
        let length = body.len();
        // With HTTP/1.0 the answer is not chunked and ends with the connection.
        let request = format!("POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut answer = Vec::new();
        let sent = async {
            let mut stream = TcpStream::connect(self.endpoint()).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        };
        if let Err(error) = sent.await {
            panic!("{path}: {error}");
        }
        let answer = String::from_utf8_lossy(&answer);
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// Compacts the v3 store at its newest revision, and returns that revision. Earlier revisions
    /// can no longer be read or watched.
    ///
    /// # Panics
    ///
    /// Panics if the server refuses.
    pub async fn compact(&self) -> Revision {
        // Read a key that no test uses. The header of the answer has the revision.
        let answer = self.call("/v3/kv/range", r#"{"key": "AA==", "count_only": true}"#).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let revision = answer.pointer("/header/revision").and_then(|number| number.as_str()?.parse().ok());
        let Some(revision) = revision else { panic!("no revision in {answer}") };
        let compacted = self.call("/v3/kv/compaction", &format!(r#"{{"revision": {revision}, "physical": true}}"#)).await;
        assert!(compacted.contains("header") || compacted.contains("has been compacted"), "{compacted}");
        Revision::new(revision)
    }

    fn new(settings: &Settings, ports: Ports, version: &str, members: usize) -> Self {
        Self {
            settings: settings.clone(),
            ports,
            folder: Folder::new(),
            process: None,
            version: version.to_owned(),
            members,
            doubtful: false,
        }
    }

    fn running(&self) -> &Process {
        match &self.process {
            Some(process) => process,
            None => panic!("this etcd is not running"),
        }
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("endpoint", &self.endpoint()).field("version", &self.version).finish_non_exhaustive()
    }
}

enum Start {
    Ready,
    Pending,
    PortTaken,
    Ended,
}

impl Builder {
    /// Sets the program to start, instead of `ETCD_BIN` or the `PATH`.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.binary = path.into();
        self
    }

    /// Sets whether to enable the v2 API (default: true). Servers since 3.6 do not have it.
    #[must_use]
    pub fn v2(mut self, yes: bool) -> Self {
        self.settings.v2 = yes;
        self
    }

    /// Adds a flag of etcd with its value: `.flag("--auth-token-ttl", "3")`.
    ///
    /// Give experimental flags their name in 3.4 and 3.5, with the prefix `--experimental-`.
    /// Servers of 3.6 and later get the flag without this prefix:
    /// `.flag("--experimental-watch-progress-notify-interval", "1s")` works with every version.
    /// This does not work for the few flags that became feature gates
    /// (`--experimental-initial-corrupt-check`): with such a flag, a server of 3.6 or later does
    /// not start, and the panic shows the unknown flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.settings.flags.push(format!("{name}={value}"));
        self
    }

    /// Sets the election timeout to 100 ms and the heartbeat interval to 10 ms; etcd's defaults are
    /// 1 s and 100 ms. An election then takes 0.1 to 0.2 s instead of 1 to 2 s, and the shortest
    /// lease is 1 s instead of 2 s.
    ///
    /// [`start`](Self::start) calls this method. Do not call it for several members on a busy
    /// machine, where a late heartbeat starts an election.
    #[must_use]
    pub fn quick_election(self) -> Self {
        self.flag("--heartbeat-interval", "10").flag("--election-timeout", "100")
    }

    fn sets_election(&self) -> bool {
        let names = ["--heartbeat-interval=", "--election-timeout="];
        self.settings.flags.iter().any(|flag| names.iter().any(|name| flag.starts_with(name)))
    }

    /// Makes the server serve clients with TLS.
    #[must_use]
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.settings.tls = Some(files);
        self
    }

    /// Sets whether the server may leave its writes in the operating system's cache (default:
    /// true). Writes in its log survive [`Etcd::kill`] in both cases, since the system keeps
    /// running.
    #[must_use]
    pub fn unsafe_no_fsync(mut self, yes: bool) -> Self {
        self.settings.unsafe_no_fsync = yes;
        self
    }

    /// Starts one server and waits until it answers.
    ///
    /// The server has [quick elections](Self::quick_election), since a single member spends most of
    /// its start on its own election. A [`flag`](Self::flag) for the election timeout or the
    /// heartbeat interval turns them off: `.flag("--election-timeout", "1000")` gives a server
    /// etcd's default timings.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or the server does not start.
    pub async fn start(self) -> Etcd {
        let builder = if self.sets_election() { self } else { self.quick_election() };
        builder.cluster(1).await.into_first()
    }

    /// Starts a cluster with this many members, and waits until all of them answer. Elections have
    /// etcd's default timings, even with one member, since a cluster can grow.
    ///
    /// # Panics
    ///
    /// Panics if there is no etcd program, or a server does not start. Panics also if `members` is
    /// zero or more than 99.
    pub async fn cluster(self, members: usize) -> Cluster {
        assert!((1..=MOST_MEMBERS).contains(&members), "a cluster of {members} members: ask for 1 to {MOST_MEMBERS}");
        Cluster::start(&self.settings, members).await
    }
}

/// Whether a server of this version, in a cluster of this size, may lose acknowledged writes in a
/// crash.
fn forgets_at_a_crash(version: &str, members: usize) -> bool {
    let version = numbers(version);
    // Such a server may record that its log is applied before the v3 store has saved the applied
    // writes (issue 13766).
    let skips = ((3, 5, 0)..(3, 5, 3)).contains(&version);
    // A single member of such a version applies a write, and answers, while it still saves the log.
    // In a cluster, a write is applied only after a majority has saved it (issue 14370).
    let hurries = version < (3, 4, 21) || ((3, 5, 0)..(3, 5, 5)).contains(&version);
    skips || members == 1 && hurries
}

#[cfg(test)]
mod tests {
    use super::forgets_at_a_crash;

    #[test]
    fn versions_that_lose_writes_in_crash_are_recognized() {
        for (version, single, member) in [
            ("3.3.27", true, false),
            ("3.4.9", true, false),
            ("3.4.20", true, false),
            ("3.4.21", false, false),
            ("3.4.23", false, false),
            ("3.5.0", true, true),
            ("3.5.2", true, true),
            ("3.5.3", true, false),
            ("3.5.4", true, false),
            ("3.5.5", false, false),
            ("3.5.30", false, false),
            ("3.6.0-rc.4", false, false),
        ] {
            assert_eq!(forgets_at_a_crash(version, 1), single, "{version}");
            assert_eq!(forgets_at_a_crash(version, 3), member, "{version}");
        }
    }
}
