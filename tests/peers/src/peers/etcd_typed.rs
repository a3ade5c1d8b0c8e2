//! This tree: `client.lock(name)` and `client.election(name)`.

mod watches;

use etcd_typed::{Client, Election, Leader, Lock, NamedLock};

pub(crate) use self::watches::EtcdTypedWatches;
use super::Contender;
use crate::Result;
use crate::work::TTL;

pub(crate) struct EtcdTyped;

/// Contenders may know of one another by their client. Those of different processes have a client each.
#[derive(Clone, Copy)]
pub(crate) enum Clients {
    Shared,
    Each,
}

impl EtcdTyped {
    pub(crate) async fn lockers(address: &str, name: &str, count: usize, clients: Clients) -> Result<Vec<Locker>> {
        let clients = connect(address, count, clients).await?;
        Ok(clients.into_iter().map(|client| Locker(client.lock(name).ttl(TTL))).collect())
    }

    pub(crate) async fn candidates(address: &str, name: &str, count: usize, clients: Clients) -> Result<Vec<Candidate>> {
        let clients = connect(address, count, clients).await?;
        Ok(clients.into_iter().map(|client| Candidate(client.election(name).ttl(TTL))).collect())
    }
}

async fn connect(address: &str, count: usize, clients: Clients) -> Result<Vec<Client>> {
    let address = format!("etcd://{address}");
    let mut connected = vec![Client::connect(&address).await?; count];
    if let Clients::Each = clients {
        for client in &mut connected {
            *client = Client::connect(&address).await?;
        }
    }
    Ok(connected)
}

pub(crate) struct Locker(NamedLock);

impl Contender for Locker {
    type Held = Lock;

    async fn acquire(&mut self) -> Result<Lock> {
        Ok(self.0.acquire().await?)
    }

    async fn release(&mut self, held: Lock) -> Result<()> {
        Ok(held.release().await?)
    }
}

pub(crate) struct Candidate(Election<String>);

impl Contender for Candidate {
    type Held = Leader<String>;

    async fn acquire(&mut self) -> Result<Leader<String>> {
        Ok(self.0.campaign(&"me".to_owned()).await?)
    }

    async fn release(&mut self, held: Leader<String>) -> Result<()> {
        Ok(held.resign().await?)
    }
}
