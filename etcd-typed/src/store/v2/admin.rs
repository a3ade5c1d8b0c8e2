//! Status, members and statistics of the servers.

use serde::Deserialize;

use super::V2Store;
use super::encode;
use super::json::{self, Refusal, VersionBody};
use crate::error::Result;
use crate::key::Key;
use crate::store::{Member, Stats, StatsKind, Status};

impl V2Store {
    pub(super) async fn read_status(&self) -> Result<Status> {
        let version: VersionBody = self.http.read("/version", json::plain).await?;
        let own: SelfBody = self.http.read("/v2/stats/self", json::plain).await?;
        // Every answer of the keys API contains the index. The key `/_` is hidden and does not
        // exist, so the answer is short.
        let target = encode::path(&Key::root().descend("_"))?;
        let (reply, cluster) = self.http.read(&target, |answer| Ok((json::keys(answer)?, answer.cluster.clone()))).await?;
        let revision = match reply.outcome {
            Err(refusal) if refusal.code != Refusal::NOT_FOUND => return Err(refusal.into_error()),
            _ => reply.index,
        };
        Ok(Status {
            store: self.capabilities.name,
            version: version.etcdserver,
            revision,
            cluster,
            member: Some(own.id).filter(|id| !id.is_empty()),
            leader: Some(own.leader_info.leader).filter(|id| !id.is_empty()),
            database_size: None,
            errors: Vec::new(),
        })
    }

    pub(super) async fn read_members(&self) -> Result<Vec<Member>> {
        let body: MembersBody = self.http.read("/v2/members", json::plain).await?;
        let member = |member: MemberBody| Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            learner: false,
        };
        Ok(body.members.into_iter().map(member).collect())
    }

    /// Reads statistics. Followers have no leader statistics, so a read of these tries one endpoint
    /// after another.
    pub(super) async fn read_stats(&self, which: StatsKind) -> Result<Stats> {
        let target = match which {
            StatsKind::Store => "/v2/stats/store",
            StatsKind::Member => "/v2/stats/self",
            StatsKind::Leader => "/v2/stats/leader",
        };
        Ok(Stats { fields: self.http.read(target, json::plain).await? })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SelfBody {
    id: String,
    leader_info: LeaderBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LeaderBody {
    leader: String,
}

#[derive(Deserialize)]
struct MembersBody {
    members: Vec<MemberBody>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MemberBody {
    id: String,
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    client_urls: Vec<String>,
}
