//! Proxies between a client and an etcd: etcd's own `grpc-proxy`, and nginx.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_typed::testing::Etcd;
use tempfile::TempDir;

/// How long a program may take until it listens. The limit is generous because tests share the
/// machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How many ports are tried. Another process may take a port before the proxy listens on it.
const PORT_ATTEMPTS: usize = 10;

/// A proxy in front of one server, as a child process. The process ends when this value is dropped,
/// or when the test process ends.
pub struct Between {
    port: u16,
    process: Process,
    dir: TempDir,
}

impl Between {
    /// Starts `etcd grpc-proxy` with the same etcd program that [`Etcd`] runs.
    ///
    /// # Panics
    ///
    /// Panics if the proxy does not start.
    #[must_use]
    pub fn grpc_proxy(etcd: &Etcd) -> Self {
        let binary = std::env::var("ETCD_BIN").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| "etcd".to_owned());
        Self::start(|dir, port| {
            let mut command = Command::new("sh");
            crate::remove_variables(&mut command, "ETCD_");
            command.args(["-c", WATCHED, "watched", &binary, "grpc-proxy", "start"]);
            command.arg(format!("--endpoints={}", etcd.endpoint()));
            command.arg(format!("--listen-addr=127.0.0.1:{port}"));
            // The proxy's health check connects to this address. If it cannot, the proxy ends
            // (3.5.35).
            command.arg(format!("--advertise-client-url=127.0.0.1:{port}"));
            command.arg(format!("--data-dir={}", dir.path().join("data").display()));
            command
        })
    }

    /// Starts nginx with its defaults, as a reverse proxy for gRPC.
    ///
    /// # Panics
    ///
    /// Panics if nginx is not installed or does not start.
    #[must_use]
    pub fn nginx(etcd: &Etcd) -> Self {
        let binary =
            ["nginx", "/usr/sbin/nginx"].into_iter().find(|binary| Command::new(binary).arg("-v").stderr(Stdio::null()).status().is_ok());
        let Some(binary) = binary else {
            panic!("cannot run nginx: install it (Debian, Ubuntu: `apt-get install nginx-light`), so that it is on the PATH");
        };
        let server = etcd.endpoint();
        Self::start(|dir, port| {
            let path = dir.path().display();
            let settings = format!(
                "daemon off; pid {path}/pid; error_log {path}/error.log;\n\
                 events {{ }}\n\
                 http {{\n\
                     access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
                     fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
                     server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{server}; }} }}\n\
                 }}\n"
            );
            fs::write(dir.path().join("nginx.conf"), settings).unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", WATCHED, "watched", binary]);
            command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
            command.arg("-e").arg(dir.path().join("error.log"));
            command
        })
    }

    /// Returns the port for clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address for clients, `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the program's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            + &fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// Returns whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    fn start(command: impl Fn(&TempDir, u16) -> Command) -> Self {
        for _ in 0..PORT_ATTEMPTS {
            let (dir, port) = (TempDir::new().unwrap(), free_port());
            let log = fs::File::create(dir.path().join("log")).unwrap();
            let mut command = command(&dir, port);
            let process = command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
            let mut started = Self { port, process: Process(process), dir };
            let begun = Instant::now();
            while started.is_running() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return started;
                }
                assert!(begun.elapsed() < START_LIMIT, "it does not listen; its log:\n{}", started.log());
                std::thread::sleep(Duration::from_millis(10));
            }
            let log = started.log();
            assert!(log.contains("already in use"), "it ended; its log:\n{log}");
        }
        panic!("no free port in {PORT_ATTEMPTS} attempts");
    }
}

/// A shell script that runs a program until the program ends, or until the script's standard input
/// ends. The input ends when the test process ends, for whatever reason.
const WATCHED: &str = r#"exec 3<&0
"$@" </dev/null & program=$!
(read -r _ <&3; kill "$program") 2>/dev/null & watchdog=$!
wait "$program"
kill "$watchdog""#;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Without input, the script ends the program and then itself.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Returns a free port below the range for outgoing connections.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
