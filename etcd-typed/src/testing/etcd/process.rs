//! What an [`Etcd`](super::Etcd) is made of: the binary and its arguments, ports, a directory, a process and the watchdog behind it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::TlsFiles;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) binary: PathBuf,
    /// `--name=value`, as etcd 3.4 and 3.5 name them.
    pub(super) flags: Vec<String>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) unsafe_no_fsync: bool,
    /// The v2 API is turned on where there is one.
    pub(super) v2: bool,
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) client: u16,
    peer: u16,
}

impl Ports {
    /// Ports that are free at this moment, for so many members. They are below the range that the system takes the ports of outgoing
    /// connections from (32768 and up on Linux), so that no client sits on the port of a server that is restarted.
    pub(super) fn free(members: usize) -> Vec<Self> {
        let mut held = Vec::new();
        while held.len() < 2 * members {
            let port = fastrand::u16(10_000..32_000);
            held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
        }
        held.chunks_exact(2)
            .filter_map(|pair| match pair {
                [(client, _), (peer, _)] => Some(Self { client: *client, peer: *peer }),
                _ => None,
            })
            .collect()
    }

    fn name(&self) -> String {
        format!("m{}", self.client)
    }

    pub(super) fn as_initial_member(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name(), self.peer)
    }
}

/// The directory of one server: `data/` and `log`. Removed on drop.
pub(super) struct DataDir(PathBuf);

impl DataDir {
    pub(super) fn new() -> Self {
        loop {
            let path = std::env::temp_dir().join(format!("etcd-typed-{}-{:x}", std::process::id(), fastrand::u64(..)));
            match fs::create_dir(&path) {
                Ok(()) => return Self(path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(super) fn read_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// The first and the last lines of the log. A server that refuses a flag names it in the first line, before its usage text; one that fails later
    /// says why in its last lines.
    pub(super) fn log_excerpt(&self) -> String {
        excerpt(&self.read_log())
    }

    pub(super) fn clear_data(&self) {
        if let Err(error) = fs::remove_dir_all(self.data()) {
            panic!("cannot remove {}: {error}", self.data().display());
        }
    }
}

/// The first ten and the last twenty lines of a text.
fn excerpt(log: &str) -> String {
    const HEAD: usize = 10;
    const TAIL: usize = 20;
    let lines: Vec<&str> = log.lines().collect();
    let left_out = lines.len().saturating_sub(HEAD + TAIL);
    if left_out == 0 {
        return lines.join("\n");
    }
    let (head, rest) = lines.split_at(HEAD);
    let tail = rest.get(left_out..).unwrap_or_default();
    format!("{}\n... {left_out} lines left out ...\n{}", head.join("\n"), tail.join("\n"))
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // What is left over in the temporary directory fails no test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server, and the watchdog that ends it if this process ends without having done so.
pub(super) struct Process {
    server: Child,
    watchdog: Child,
}

impl Process {
    pub(super) fn spawn(settings: &Settings, version: &str, ports: &Ports, dir: &DataDir) -> Self {
        let log = match File::create(dir.log()).and_then(|log| Ok((log.try_clone()?, log))) {
            Ok(log) => log,
            Err(error) => panic!("cannot write {}: {error}", dir.log().display()),
        };
        let binary = &settings.binary;
        let server = Command::new(binary)
            .args(arguments(settings, version, ports, &dir.data()))
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1)
            .spawn()
            .unwrap_or_else(|error| no_etcd(binary, &error));
        let watchdog = watchdog(&server, &dir.0);
        Self { server, watchdog }
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.server.try_wait(), Ok(None))
    }

    /// Through the shell, since the standard library sends no signal but SIGKILL.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.server.id())).status();
        assert!(sent.as_ref().is_ok_and(std::process::ExitStatus::success), "kill -{name}: {sent:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog goes first: once the server is waited for, its number may be another process's. Both fail only for a process that
        // has ended already.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Waits for the end of its input, which comes when this process ends in any way, also by SIGKILL; then kills the server and
/// removes its directory. It ignores the signals that end a whole group of processes, since then it is needed most.
fn watchdog(server: &Child, dir: &Path) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg("trap '' HUP INT TERM; read -r _; kill -KILL \"$1\"; rm -rf -- \"$2\"")
        .arg("etcd-watchdog")
        .arg(server.id().to_string())
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `sh`: {error}"))
}

fn arguments(settings: &Settings, version: &str, ports: &Ports, data: &Path) -> Vec<String> {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let mut arguments = vec![
        format!("--name={}", ports.name()),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={scheme}://127.0.0.1:{}", ports.client),
        format!("--advertise-client-urls={scheme}://127.0.0.1:{}", ports.client),
        format!("--listen-peer-urls=http://127.0.0.1:{}", ports.peer),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{}", ports.peer),
    ];
    // Since 3.6 the flag is unknown, and a server ends at a flag that it does not know.
    if has_v2(version) {
        arguments.push(format!("--enable-v2={}", settings.v2));
    }
    if settings.unsafe_no_fsync {
        arguments.push("--unsafe-no-fsync=true".to_owned());
    }
    if let Some(TlsFiles { cert, key, client_ca }) = &settings.tls {
        arguments.push(format!("--cert-file={}", cert.display()));
        arguments.push(format!("--key-file={}", key.display()));
        if let Some(ca) = client_ca {
            arguments.push(format!("--trusted-ca-file={}", ca.display()));
            arguments.push("--client-cert-auth=true".to_owned());
        }
    }
    arguments.extend(settings.flags.iter().map(|flag| by_version(flag, version)));
    arguments
}

/// Since 3.6 experimental flags are known by their names without the prefix; 3.7 does not know the old names any more.
fn by_version(flag: &str, version: &str) -> String {
    match flag.strip_prefix("--experimental-") {
        Some(name) if numbers(version) >= (3, 6, 0) => format!("--{name}"),
        _ => flag.to_owned(),
    }
}

/// Major, minor and patch version; zero for what is missing or no number.
pub(super) fn numbers(version: &str) -> (u32, u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    (number(), number(), number())
}

/// Whether a server of this version has the v2 API, which etcd 3.6 removed.
pub(super) fn has_v2(version: &str) -> bool {
    numbers(version) < (3, 6, 0)
}

/// What `ETCD_BIN` names, else `etcd` on the `PATH`.
pub(super) fn default_binary() -> PathBuf {
    std::env::var_os("ETCD_BIN").filter(|path| !path.is_empty()).map_or_else(|| PathBuf::from("etcd"), PathBuf::from)
}

/// `etcd --version` begins with `etcd Version: 3.4.23`.
pub(super) fn version_of(binary: &Path) -> String {
    let output = Command::new(binary).arg("--version").output().unwrap_or_else(|error| no_etcd(binary, &error));
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("etcd Version: ")) {
        Some(version) => version.trim().to_owned(),
        None => panic!("`{} --version` does not say its version: {text:?}", binary.display()),
    }
}

fn no_etcd(binary: &Path, error: &std::io::Error) -> ! {
    panic!(
        "cannot run `{}`: {error}. This test needs a real etcd server, 3.4 to 3.7: install one (Debian, Ubuntu: `apt-get install \
         etcd-server`), or name its binary in the environment variable ETCD_BIN",
        binary.display()
    )
}

#[cfg(test)]
mod tests {
    use super::{by_version, excerpt, has_v2};

    #[test]
    fn versions_before_3_6_have_v2() {
        for (version, expected) in
            [("3.4.23", true), ("3.5.35", true), ("3.6.0-rc.4", false), ("3.6.16", false), ("3.7.3", false), ("4.0.0", false)]
        {
            assert_eq!(has_v2(version), expected, "{version}");
        }
    }

    #[test]
    fn experimental_flags_lose_their_prefix_in_3_6() {
        let (old, new) = ("--experimental-watch-progress-notify-interval=1s", "--watch-progress-notify-interval=1s");
        for (version, expected) in [("3.4.23", old), ("3.5.35", old), ("3.6.16", new), ("3.7.3", new)] {
            assert_eq!(by_version(old, version), expected, "{version}");
            assert_eq!(by_version("--max-txn-ops=4", version), "--max-txn-ops=4", "{version}");
        }
    }

    #[test]
    fn excerpt_shows_the_first_and_the_last_lines() {
        assert_eq!(excerpt("a\nb\n"), "a\nb");
        let log: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        let excerpt = excerpt(&log.join("\n"));
        for line in ["line 0\n", "line 9\n... 70 lines left out ...\nline 80\n", "line 99"] {
            assert!(excerpt.contains(line), "{excerpt}");
        }
    }
}
