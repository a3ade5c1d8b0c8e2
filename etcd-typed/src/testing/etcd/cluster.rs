//! `Cluster`: several servers that form one cluster. Members can be added and removed.

use std::time::Instant;

use tokio::time::sleep;

use super::process::{Ports, Settings, version_of};
use super::{Etcd, POLL, PORT_ATTEMPTS, START_LIMIT, Start};

/// Several [`Etcd`] servers that form one cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Etcd>,
    /// The settings of every member, without the list of members.
    settings: Settings,
}

impl Cluster {
    pub(super) async fn start(settings: &Settings, members: usize) -> Self {
        let version = version_of(&settings.binary);
        for _ in 0..PORT_ATTEMPTS {
            let peers: Vec<Ports> = Ports::free(members);
            let initial = peers.iter().map(Ports::as_initial_member).collect::<Vec<_>>().join(",");
            let with_initial =
                Settings { flags: [vec![format!("--initial-cluster={initial}")], settings.flags.clone()].concat(), ..settings.clone() };
            let mut started: Vec<Etcd> = peers.into_iter().map(|ports| Etcd::new(&with_initial, ports, &version, members)).collect();
            for member in &mut started {
                member.launch().await;
            }
            if first_start(&mut started).await {
                return Self { members: started, settings: settings.clone() };
            }
        }
        panic!("no free ports for etcd in {PORT_ATTEMPTS} attempts")
    }
    pub(super) fn into_first(mut self) -> Etcd {
        self.members.swap_remove(0)
    }

    /// Adds a member as a learner, and waits until it answers. A learner copies the data, has no
    /// vote, and refuses all requests except stale reads until it is [promoted](Self::promote). The
    /// learner becomes the last of the [members](Self::members).
    ///
    /// # Panics
    ///
    /// Panics if the server does not start, or if the cluster refuses the member. It does so if it
    /// has no majority, or if it has users.
    pub async fn add_learner(&mut self) -> &mut Etcd {
        let [ports] = <[Ports; 1]>::try_from(Ports::free(1)).unwrap_or_else(|ports| panic!("one member's ports: {ports:?}"));
        let add = format!(r#"{{"peerURLs": ["{}"], "isLearner": true}}"#, ports.peer_url());
        self.change("/v3/cluster/member/add", &add).await;
        let all = self.members.iter().map(|member| &member.ports).chain([&ports]);
        let initial = all.map(Ports::as_initial_member).collect::<Vec<_>>().join(",");
        let mut settings = self.settings.clone();
        settings.flags.extend([format!("--initial-cluster={initial}"), "--initial-cluster-state=existing".to_owned()]);
        let mut learner = Etcd::new(&settings, ports, &version_of(&settings.binary), self.members.len() + 1);
        learner.launch().await;
        learner.ready().await;
        self.members.push(learner);
        let last = self.members.len() - 1;
        self.member(last)
    }

    /// Promotes a learner to a voting member, as soon as the learner has copied enough data.
    ///
    /// # Panics
    ///
    /// Panics if this takes longer than a minute.
    pub async fn promote(&mut self, index: usize) {
        let id = self.id_of(index).await;
        let began = Instant::now();
        loop {
            let answer = self.first().call("/v3/cluster/member/promote", &format!(r#"{{"ID": "{id}"}}"#)).await;
            if answer.contains("\"members\"") {
                return;
            }
            assert!(answer.contains("in sync with leader") && began.elapsed() < START_LIMIT, "{answer}");
            sleep(POLL).await;
        }
    }

    /// Removes a member from the cluster, ends its server and removes its data.
    ///
    /// # Panics
    ///
    /// Panics if the cluster refuses the removal, for example because the cluster has no majority
    /// or has users.
    pub async fn remove(&mut self, index: usize) {
        let id = self.id_of(index).await;
        let removed = self.members.remove(index);
        self.change("/v3/cluster/member/remove", &format!(r#"{{"ID": "{id}"}}"#)).await;
        drop(removed);
    }

    async fn change(&self, path: &str, body: &str) {
        let began = Instant::now();
        loop {
            let answer = self.first().call(path, body).await;
            if answer.contains("\"members\"") {
                return;
            }
            // A cluster refuses changes for some seconds after its start.
            assert!(answer.contains("unhealthy cluster") && began.elapsed() < START_LIMIT, "{path}: {answer}");
            sleep(POLL).await;
        }
    }

    /// Returns the member's ID in the cluster, in decimal.
    async fn id_of(&mut self, index: usize) -> String {
        let url = self.member(index).ports.peer_url();
        let answer = self.first().call("/v3/cluster/member/list", "{}").await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id = members.iter().find(|member| member["peerURLs"][0] == url.as_str()).and_then(|member| member["ID"].as_str());
        id.unwrap_or_else(|| panic!("no member {url} in {answer}")).to_owned()
    }

    /// Returns the member that gets the requests to change the cluster.
    fn first(&self) -> &Etcd {
        self.members.first().unwrap_or_else(|| panic!("a cluster without members"))
    }

    /// Returns a member.
    ///
    /// # Panics
    ///
    /// Panics if the cluster has fewer members.
    #[must_use]
    pub fn member(&mut self, index: usize) -> &mut Etcd {
        let count = self.members.len();
        match self.members.get_mut(index) {
            Some(member) => member,
            None => panic!("member {index} of a cluster of {count}"),
        }
    }

    /// Returns all members.
    #[must_use]
    pub fn members(&self) -> &[Etcd] {
        &self.members
    }

    /// Returns the client addresses of all members, separated by commas.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Etcd::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Returns a URL for a v3 client with all members: `etcd://127.0.0.1:PORT,127.0.0.1:PORT,…`.
    #[must_use]
    pub fn url_v3(&self) -> String {
        self.url(Etcd::url_v3)
    }

    /// Returns a URL for a v2 client with all members: `etcd2://127.0.0.1:PORT,127.0.0.1:PORT,…`.
    ///
    /// # Panics
    ///
    /// Panics if the servers have no v2 API; see [`Etcd::has_v2`].
    #[must_use]
    pub fn url_v2(&self) -> String {
        self.url(Etcd::url_v2)
    }

    fn url(&self, of: impl Fn(&Etcd) -> String) -> String {
        let first = self.members.first().map(of).unwrap_or_default();
        let (scheme, _) = first.split_once("://").unwrap_or_default();
        format!("{scheme}://{}", self.endpoints())
    }
}

/// Waits until all members answer. Returns false if another program has taken one of the ports.
async fn first_start(members: &mut [Etcd]) -> bool {
    let began = Instant::now();
    for member in members {
        loop {
            match member.observe().await {
                Start::Ready => break,
                Start::PortTaken => return false,
                Start::Pending if began.elapsed() < START_LIMIT => sleep(POLL).await,
                Start::Pending | Start::Ended => panic!("etcd does not start; its log:\n{}", member.folder.log_excerpt()),
            }
        }
    }
    true
}
