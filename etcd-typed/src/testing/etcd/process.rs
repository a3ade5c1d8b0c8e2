//! The parts of an [`Etcd`](super::Etcd): the program and its arguments, the ports, the process and
//! its watchdog.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;

use super::TlsFiles;
use super::folder::Folder;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) binary: PathBuf,
    /// Flags as `--name=value`, with the names of etcd 3.4 and 3.5.
    pub(super) flags: Vec<String>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) unsafe_no_fsync: bool,
    /// Whether to enable the v2 API on servers that have one.
    pub(super) v2: bool,
}

#[derive(Debug)]
pub(super) struct Ports {
    pub(super) client: u16,
    peer: u16,
    /// The port for health requests without TLS. Only a server with TLS listens on it.
    pub(super) health: u16,
    /// Sockets that keep other users of the harness from using these ports, even while the server
    /// does not run.
    _reserved: [Reserved; 3],
}

impl Ports {
    /// Returns currently free ports for this many members. They are below the range of ports for
    /// outgoing connections (32768 and up on Linux), so that no client connection can take the port
    /// of a server that restarts.
    pub(super) fn free(members: usize) -> Vec<Self> {
        let free = || loop {
            let port = fastrand::u16(10_000..32_000);
            if let Ok(reserved) = reserve(port) {
                return (port, reserved);
            }
        };
        let ports = |_| {
            let [(client, a), (peer, b), (health, c)] = [free(), free(), free()];
            Self { client, peer, health, _reserved: [a, b, c] }
        };
        (0..members).map(ports).collect()
    }

    fn name(&self) -> String {
        format!("m{}", self.client)
    }

    pub(super) fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    pub(super) fn as_initial_member(&self) -> String {
        format!("{}={}", self.name(), self.peer_url())
    }
}

#[cfg(target_os = "linux")]
type Reserved = TcpSocket;
#[cfg(not(target_os = "linux"))]
type Reserved = ();

/// Binds a port without listening. Fails if any other socket is bound to the port, even the socket
/// of another reservation. Afterwards only a socket with SO_REUSEADDR can be bound to the port: a
/// server's listener has this option, a second reservation does not.
#[cfg(target_os = "linux")]
fn reserve(port: u16) -> io::Result<Reserved> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Only checks that the port is free: on other systems a server could not listen on a reserved
/// port.
#[cfg(not(target_os = "linux"))]
fn reserve(port: u16) -> io::Result<Reserved> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|_| ())
}

/// A running server, and the watchdog that ends it if this process ends first.
pub(super) struct Process {
    server: Child,
    watchdog: Child,
}

impl Process {
    pub(super) fn spawn(settings: &Settings, version: &str, ports: &Ports, folder: &Folder) -> Self {
        let log = match File::create(folder.log()).and_then(|log| Ok((log.try_clone()?, log))) {
            Ok(log) => log,
            Err(error) => panic!("cannot write {}: {error}", folder.log().display()),
        };
        let binary = &settings.binary;
        let server = command(binary)
            .args(arguments(settings, version, ports, &folder.data()))
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1)
            .spawn()
            .unwrap_or_else(|error| no_etcd(binary, &error));
        let watchdog = watchdog(&server, folder.path());
        Self { server, watchdog }
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.server.try_wait(), Ok(None))
    }

    /// Freezes the server. Returns after all threads of the server have stopped, which takes a
    /// moment on a busy machine.
    pub(super) fn pause(&self) {
        self.signal("STOP");
        #[cfg(unix)]
        {
            use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let waited = waitid(WaitId::Pid(Pid::from_child(&self.server)), stopped);
            assert!(waited.is_ok(), "a server that is to stop: {waited:?}");
        }
    }

    /// Sends a signal to the server. Uses the shell, since the standard library can send only
    /// SIGKILL.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.server.id())).status();
        assert!(sent.as_ref().is_ok_and(std::process::ExitStatus::success), "kill -{name}: {sent:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Kill the watchdog first, which would kill the server's process ID: after `wait` the
        // system may reuse that ID. All calls fail only for a process that has already ended.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The environment variables that a server gets. Other variables could change its behavior:
/// `ETCD_*`, `GOMAXPROCS`, an HTTP proxy. etcd 3.4 needs `ETCD_UNSUPPORTED_ARCH` on processors
/// other than amd64.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "TMPDIR", "ETCD_UNSUPPORTED_ARCH"];

fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// Starts a helper process that kills the server and removes its folder when this process ends. The
/// helper waits for the end of its input, which comes however this process ends, even by SIGKILL.
/// The helper has its own process group, so that a signal to this process's group does not kill it.
fn watchdog(server: &Child, folder: &Path) -> Child {
    let mut shell = Command::new("sh");
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    shell
        .arg("-c")
        .arg("trap '' HUP INT TERM; read -r _; kill -KILL \"$1\"; rm -rf -- \"$2\"")
        .arg("etcd-watchdog")
        .arg(server.id().to_string())
        .arg(folder)
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
        format!("--listen-peer-urls={}", ports.peer_url()),
        format!("--initial-advertise-peer-urls={}", ports.peer_url()),
    ];
    // etcd 3.6 and later do not know this flag, and a server does not start with an unknown flag.
    if has_v2(version) {
        arguments.push(format!("--enable-v2={}", settings.v2));
    }
    if settings.unsafe_no_fsync {
        arguments.push("--unsafe-no-fsync=true".to_owned());
    }
    if let Some(TlsFiles { cert, key, client_ca }) = &settings.tls {
        arguments.push(format!("--cert-file={}", cert.display()));
        arguments.push(format!("--key-file={}", key.display()));
        arguments.push(format!("--listen-metrics-urls=http://127.0.0.1:{}", ports.health));
        if let Some(ca) = client_ca {
            arguments.push(format!("--trusted-ca-file={}", ca.display()));
            arguments.push("--client-cert-auth=true".to_owned());
        }
    }
    arguments.extend(settings.flags.iter().map(|flag| by_version(flag, version)));
    arguments
}

/// Converts a flag to its name in this version. Since 3.6 experimental flags have names without the
/// prefix, and 3.7 no longer knows the old names.
fn by_version(flag: &str, version: &str) -> String {
    match flag.strip_prefix("--experimental-") {
        Some(name) if numbers(version) >= (3, 6, 0) => format!("--{name}"),
        _ => flag.to_owned(),
    }
}

/// Returns the major, minor and patch version. A missing or invalid part counts as zero.
pub(super) fn numbers(version: &str) -> (u32, u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    (number(), number(), number())
}

/// Whether a server of this version has the v2 API, which etcd 3.6 removed.
pub(super) fn has_v2(version: &str) -> bool {
    numbers(version) < (3, 6, 0)
}

/// Returns the program in `ETCD_BIN`, or else `etcd`, which is then looked up on the `PATH`.
pub(super) fn default_binary() -> PathBuf {
    std::env::var_os("ETCD_BIN").filter(|path| !path.is_empty()).map_or_else(|| PathBuf::from("etcd"), PathBuf::from)
}

/// Returns the version from the output of `etcd --version`, which begins with `etcd Version:
/// 3.4.23`.
pub(super) fn version_of(binary: &Path) -> String {
    let output = command(binary).arg("--version").output().unwrap_or_else(|error| no_etcd(binary, &error));
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("etcd Version: ")) {
        Some(version) => version.trim().to_owned(),
        None => panic!("`{} --version` does not print its version: {text:?}", binary.display()),
    }
}

fn no_etcd(binary: &Path, error: &io::Error) -> ! {
    panic!(
        "cannot run `{}`: {error}. This test needs a real etcd server, 3.4 to 3.7: install one (Debian, Ubuntu: `apt-get install \
         etcd-server`), or name its binary in the environment variable ETCD_BIN",
        binary.display()
    )
}

#[cfg(test)]
mod tests {
    use super::{by_version, has_v2};

    #[test]
    fn v2_api_exists_before_version_3_6() {
        for (version, expected) in
            [("3.4.23", true), ("3.5.35", true), ("3.6.0-rc.4", false), ("3.6.16", false), ("3.7.3", false), ("4.0.0", false)]
        {
            assert_eq!(has_v2(version), expected, "{version}");
        }
    }

    #[test]
    fn experimental_flags_lose_prefix_since_3_6() {
        let (old, new) = ("--experimental-watch-progress-notify-interval=1s", "--watch-progress-notify-interval=1s");
        for (version, expected) in [("3.4.23", old), ("3.5.35", old), ("3.6.16", new), ("3.7.3", new)] {
            assert_eq!(by_version(old, version), expected, "{version}");
            assert_eq!(by_version("--max-txn-ops=4", version), "--max-txn-ops=4", "{version}");
        }
    }
}
