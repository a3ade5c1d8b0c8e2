//! Bare requests to the v2 keys API with the crate `reqwest`. Only the needed part of an answer is
//! decoded.

use reqwest::{Client, RequestBuilder};
use serde::Deserialize;

use super::{KeyValue, Watcher};
use crate::Result;
use crate::payload::{self, COUNT, KEYS, VALUES};

#[derive(Clone)]
pub(crate) struct Reqwest {
    client: Client,
    /// The URLs, by the number of the key.
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    node: Node,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    value: String,
    modified_index: u64,
}

impl Reqwest {
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let urls = KEYS.iter().map(|key| format!("http://{address}/v2/keys{key}")).collect();
        Ok(Self { client: Client::builder().tcp_nodelay(true).build()?, urls })
    }

    /// Writes all keys. The value of each key is the key's number.
    pub(crate) async fn prepare(address: String) -> Result<()> {
        let mut peer = Self::connect(&address)?;
        for n in 0..COUNT {
            peer.put(n, n).await?;
        }
        Ok(())
    }

    /// Watches the first key from now on.
    pub(crate) async fn watch_first(&self) -> Result<LongPoll> {
        let url = self.urls[0].clone();
        let answer = self.client.get(&url).send().await?.error_for_status()?;
        // The index of the key's last change may be too old: the server keeps only the last 1,000
        // changes of all keys.
        let now = answer.headers().get("x-etcd-index").ok_or("the answer has no `x-etcd-index`")?;
        Ok(LongPoll { client: self.client.clone(), after: now.to_str()?.parse()?, url })
    }
}

async fn send(request: RequestBuilder) -> Result<Answer> {
    let answer = request.send().await?.error_for_status()?.bytes().await?;
    Ok(serde_json::from_slice(&answer)?)
}

impl KeyValue for Reqwest {
    async fn get(&mut self, key: usize, value: usize) -> Result<()> {
        // Without a quorum, a member answers from its own data, which may be old.
        let found = send(self.client.get(format!("{}?quorum=true", self.urls[key]))).await?;
        payload::check(Some(found.node.value.as_bytes()), value)
    }

    async fn put(&mut self, key: usize, value: usize) -> Result<()> {
        let form = format!("value={}", VALUES[value]);
        let request = self.client.put(&self.urls[key]).header("content-type", "application/x-www-form-urlencoded").body(form);
        send(request).await?;
        Ok(())
    }
}

/// A watch that sends one request for each event.
pub(crate) struct LongPoll {
    client: Client,
    url: String,
    after: u64,
}

impl Watcher for LongPoll {
    async fn next(&mut self, value: usize) -> Result<()> {
        let url = format!("{}?wait=true&waitIndex={}", self.url, self.after + 1);
        let event = send(self.client.get(url)).await?.node;
        self.after = event.modified_index;
        payload::check(Some(event.value.as_bytes()), value)
    }
}
