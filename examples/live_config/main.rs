//! An HTTP server whose rate limit can be changed while it runs: a value that is written below
//! `/demo/live_config` applies to the next request.
//!
//! README.md beside this file has the commands. `ETCD_URL` is the address of the store with the
//! settings (`etcd://127.0.0.1:2379`, `etcd2://…` or `memory:`). `LISTEN` is the address to listen
//! on (`127.0.0.1:8080` by default).
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use etcd_typed::{Client, ErrorKind, EtcdSchema, Live, LiveStatus, Revision};
use serde::Serialize;

/// The settings that can be changed while the server runs.
#[derive(EtcdSchema, Debug)]
#[etcd(prefix = "/{env}/live_config")]
struct Settings {
    /// The answer to a request.
    #[etcd(default = "hello")]
    greeting: String,
    #[etcd(dir)]
    limit: Limit,
}

/// The limit on requests.
#[derive(EtcdSchema, Clone, Debug, Serialize)]
#[etcd(validate = lets_something_through)]
struct Limit {
    /// Requests per second, on average.
    #[etcd(default = 5, validate = at_most_a_million)]
    rate: u32,
    /// Requests at once after a pause.
    #[etcd(default = 10)]
    burst: u32,
}

fn at_most_a_million(rate: &u32) -> Result<(), &'static str> {
    if *rate <= 1_000_000 { Ok(()) } else { Err("more than a million a second is no limit") }
}

fn lets_something_through(limit: &Limit) -> Result<(), &'static str> {
    if limit.rate > 0 && limit.burst == 0 { Err("a rate without a burst lets nothing through") } else { Ok(()) }
}

/// The state that the handlers share.
#[derive(Clone)]
struct App {
    dir: SettingsDir,
    live: Live<Settings>,
    bucket: Arc<Mutex<Bucket>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env().await?;
    let dir = SettingsDir::open(&client, "demo")?;
    let live = dir.live().await?;

    // This function is called with each new state.
    let _told = live.on_change(|settings| println!("revision {}: {:?}", settings.revision(), **settings));

    let bucket = Arc::new(Mutex::new(Bucket::full(&live.get().limit)));
    let app = Router::new()
        .route("/", get(greet))
        .route("/health", get(health))
        .route("/limit/rate/{rate}", put(set_rate))
        .with_state(App { dir, live, bucket });
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn greet(State(app): State<App>) -> (StatusCode, String) {
    // Read the state once for the whole request, so that all its fields are from one revision.
    let settings = app.live.get();
    let mut bucket = app.bucket.lock().unwrap_or_else(PoisonError::into_inner);
    if bucket.take(&settings.limit, Instant::now()) {
        (StatusCode::OK, format!("{}\n", settings.greeting))
    } else {
        (StatusCode::TOO_MANY_REQUESTS, "too many requests\n".to_owned())
    }
}

/// The answer to a health request, which says whether the settings are current. With a degraded
/// view, the server continues with the last good settings: alert an operator, but do not restart
/// the server.
#[derive(Serialize)]
struct Health {
    #[serde(flatten)]
    status: LiveStatus,
    /// The settings contain every change up to this revision.
    revision: Revision,
    /// The time since the store last confirmed that the settings were current.
    staleness_seconds: f64,
    limit: Limit,
}

async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: app.live.status(),
        revision: app.live.revision(),
        staleness_seconds: app.live.staleness().as_secs_f64(),
        limit: app.live.get().limit.clone(),
    })
}

/// Writes the rate, like `etcdctl put`, but validates the value first. Answers when the new rate
/// applies in this server.
async fn set_rate(State(app): State<App>, Path(rate): Path<u32>) -> Result<String, (StatusCode, String)> {
    let answer = |error: etcd_typed::Error| match error.kind() {
        ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")),
        _ => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let written = app.dir.limit.rate.set(&rate).await.map_err(answer)?;
    let settings = app.live.wait_for_revision(written).await.map_err(answer)?;
    Ok(format!("revision {}: {:?}\n", settings.revision(), settings.limit))
}

/// A token bucket. Each call passes the limit's rate and burst, so that a change applies at once.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(limit: &Limit) -> Self {
        Self { tokens: f64::from(limit.burst), filled: Instant::now() }
    }

    /// Takes a token for a request. Returns false if no token was left.
    fn take(&mut self, limit: &Limit, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * f64::from(limit.rate)).min(f64::from(limit.burst));
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }
}
