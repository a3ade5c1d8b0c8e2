//! The crate `etcd-client`, used as its examples do: a lease that is kept alive, and the server's own lock and election services.

mod watches;

use etcd_client::{Client, LeaderKey, LockOptions, ResignOptions};

pub(crate) use self::watches::EtcdClientWatches;
use super::Contender;
use crate::Result;
use crate::work::TTL;

pub(crate) struct EtcdClient;

impl EtcdClient {
    pub(crate) async fn lockers(address: &str, name: &str, count: usize) -> Result<Vec<Locker>> {
        let sessions = Session::open(address, count).await?;
        Ok(sessions.into_iter().map(|session| Locker { session, name: name.to_owned() }).collect())
    }

    pub(crate) async fn candidates(address: &str, name: &str, count: usize) -> Result<Vec<Candidate>> {
        let sessions = Session::open(address, count).await?;
        Ok(sessions.into_iter().map(|session| Candidate { session, name: name.to_owned() }).collect())
    }
}

/// A client and a lease, which a task keeps alive. All share one connection: with one for each, hand-overs are no faster and cost more.
struct Session {
    client: Client,
    lease: i64,
}

impl Session {
    async fn open(address: &str, count: usize) -> Result<Vec<Self>> {
        let mut client = Client::connect([address], None).await?;
        let mut sessions = Vec::new();
        for _ in 0..count {
            let lease = client.lease_grant(TTL.as_secs().cast_signed(), None).await?.id();
            tokio::spawn(keep_alive(client.clone(), lease));
            sessions.push(Self { client: client.clone(), lease });
        }
        Ok(sessions)
    }
}

async fn keep_alive(mut client: Client, lease: i64) -> Result<()> {
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    loop {
        tokio::time::sleep(TTL / 3).await;
        keeper.keep_alive().await?;
        answers.message().await?;
    }
}

pub(crate) struct Locker {
    session: Session,
    name: String,
}

impl Contender for Locker {
    type Held = Vec<u8>;

    async fn acquire(&mut self) -> Result<Vec<u8>> {
        let options = LockOptions::new().with_lease(self.session.lease);
        Ok(self.session.client.lock(self.name.as_str(), Some(options)).await?.key().to_vec())
    }

    async fn release(&mut self, held: Vec<u8>) -> Result<()> {
        self.session.client.unlock(held).await?;
        Ok(())
    }
}

pub(crate) struct Candidate {
    session: Session,
    name: String,
}

impl Contender for Candidate {
    type Held = LeaderKey;

    async fn acquire(&mut self) -> Result<LeaderKey> {
        let mut answer = self.session.client.campaign(self.name.as_str(), "me", self.session.lease).await?;
        Ok(answer.take_leader().ok_or("elected without a key")?)
    }

    async fn release(&mut self, held: LeaderKey) -> Result<()> {
        self.session.client.resign(Some(ResignOptions::new().with_leader(held))).await?;
        Ok(())
    }
}
