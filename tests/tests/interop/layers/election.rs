//! The election of a time-series database. It has hooks for the start and the end of a term, and a
//! list of the candidates. Each process has one lease for its candidacy and its entry in the list.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::Client;
use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use self::layer::{Hooks, Member};
use super::{LIMIT, Old, until};

/// The layer in the code of the database.
mod layer {
    use std::sync::Arc;
    use std::time::Duration;

    use etcd_typed::{Client, ErrorKind, LeaderChanges, Lost, Result};
    use tokio::time::sleep;

    /// The calls when the role of a member changes.
    pub(super) trait Hooks: Send + Sync + 'static {
        /// Called when a term begins. `fence` grows from term to term.
        fn leads(&self, fence: u64);
        /// Called when the term has ended, after its work was dropped.
        fn follows(&self, why: &Lost);
    }

    pub(super) struct Member {
        client: Client,
        address: String,
        ttl: Duration,
    }

    impl Member {
        pub(super) fn new(client: &Client, address: &str, ttl: Duration) -> Self {
            Self { client: client.clone(), address: address.to_owned(), ttl }
        }

        /// Registers as a candidate and campaigns. Starts again after each term and each lost
        /// lease.
        pub(super) async fn run(&self, hooks: Arc<impl Hooks>) -> Result<()> {
            loop {
                match self.live(&hooks).await {
                    Err(error) if error.is_retryable() || error.kind() == ErrorKind::LeaseLost => sleep(self.ttl / 10).await,
                    ended => return ended,
                }
            }
        }

        /// Campaigns until the lease ends.
        async fn live(&self, hooks: &Arc<impl Hooks>) -> Result<()> {
            let lease = self.client.lease(self.ttl).await?;
            let candidate = self.client.entry::<String>(&format!("/candidates/{}", lease.id()))?;
            let _candidate = candidate.publish(&self.address).lease(&lease).await?;
            let told = hooks.clone();
            let election = self.client.election::<String>("_election").lease(&lease).on_loss(move |lost| told.follows(lost));
            election
                .lead(&self.address, |leader| {
                    hooks.leads(leader.fence().get());
                    std::future::pending()
                })
                .await
        }

        pub(super) async fn leader(&self) -> Result<Option<String>> {
            Ok(self.client.election::<String>("_election").leader().await?.map(|leader| leader.value))
        }

        pub(super) async fn leaders(&self) -> Result<LeaderChanges<String>> {
            self.client.election("_election").observe().await
        }

        pub(super) async fn candidates(&self) -> Result<Vec<String>> {
            let all = self.client.entries::<String, String>("/candidates")?.get_per_entry().await?;
            Ok(all.into_inner().entries.into_values().collect())
        }
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Hooks for Told {
    fn leads(&self, fence: u64) {
        self.0.lock().unwrap().push(format!("leads {fence}"));
    }

    fn follows(&self, why: &etcd_typed::Lost) {
        self.0.lock().unwrap().push(format!("follows: {:?}", why.reason()));
    }
}

impl Told {
    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    async fn says(&self, count: usize, start: &str) {
        until(async || self.events().len() >= count).await;
        assert!(self.events()[count - 1].starts_with(start), "{:?}", self.events());
    }
}

#[tokio::test]
async fn old_and_new_database_share_election() {
    let etcd = Etcd::start().await;
    let old = Old(&etcd);
    let client = Client::builder(&etcd.url_v3()).namespace("__metasrv").connect().await.unwrap();
    let member = |address: &str| Member::new(&client, address, Duration::from_secs(5));
    let observer = member("observer");
    let mut leaders = observer.leaders().await.unwrap();
    // The old version leads.
    let mut theirs = old.command(&["elect", "__metasrv_election", "old:1"]).spawn().unwrap();
    let mut lines = BufReader::new(theirs.stdout.take().unwrap()).lines();
    let key = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(key.starts_with("__metasrv_election/"), "{key}");
    assert_eq!(observer.leader().await.unwrap().as_deref(), Some("old:1"));

    let (told, other) = (Arc::new(Told::default()), Arc::new(Told::default()));
    let (ours, hooks) = (member("new:1"), told.clone());
    let runs = tokio::spawn(async move { ours.run(hooks).await });
    until(async || observer.candidates().await.unwrap() == ["new:1"]).await;
    until(async || client.lock("_election").queue().await.unwrap().len() == 2).await;
    let (ours, hooks) = (member("new:2"), other.clone());
    let _runs = tokio::spawn(async move { ours.run(hooks).await });
    until(async || observer.candidates().await.unwrap().len() == 2).await;
    until(async || client.lock("_election").queue().await.unwrap().len() == 3).await;
    assert!(told.events().is_empty() && other.events().is_empty());

    // The old version resigns, and the new version leads. The old version sees the new leader.
    let pid = theirs.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    timeout(LIMIT, theirs.wait()).await.unwrap().unwrap();
    told.says(1, "leads ").await;
    assert!(old.run(&["get", "--prefix", "__metasrv_election"]).await.contains("new:1"));

    // An operator deletes the leader's key. The hook is called, and the next candidate leads.
    let leader = client.election::<String>("_election").leader().await.unwrap().unwrap();
    old.run(&["del", leader.key.as_str()]).await;
    told.says(2, "follows: KeyDeleted").await;
    other.says(1, "leads ").await;
    // The lease of the leader ends. The former leader registers again, and waits behind the new
    // one.
    until(async || client.lock("_election").queue().await.unwrap().len() == 2).await;
    let leader = client.election::<String>("_election").leader().await.unwrap().unwrap();
    assert_eq!(leader.value, "new:2");
    old.run(&["lease", "revoke", &leader.lease.to_string()]).await;
    other.says(2, "follows: ").await;
    told.says(3, "leads ").await;
    until(async || observer.candidates().await.unwrap().len() == 2).await;
    // A member that ends leaves no key.
    runs.abort();
    other.says(3, "leads ").await;
    until(async || observer.candidates().await.unwrap() == ["new:2"]).await;
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("new:2") || seen.len() < 3 {
        let leader = timeout(LIMIT, leaders.next()).await.unwrap().unwrap().unwrap();
        seen.extend(leader.map(|leader| leader.value));
    }
    assert!(seen.contains(&"new:2".to_owned()), "{seen:?}");
}
