//! Reads keys and directories.

use super::V2Store;
use super::encode::{self, Parameters};
use super::json::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::{Consistency, Range, RangeReply, Span};

impl V2Store {
    pub(super) async fn read_range(&self, range: Range) -> Result<RangeReply> {
        let key = range.span.key();
        let unsupported = |what: &str| {
            let message = format!("etcd v2 has no {what}; read all of it as it is now, or use etcd v3");
            Err(Error::new(ErrorKind::Unsupported, message).at(key))
        };
        if range.revision.is_some() {
            return unsupported("reads of the past");
        }
        if range.limit.is_some() || range.after.is_some() || range.until.is_some() {
            return unsupported("pages");
        }
        if range.modified_after.is_some() {
            return unsupported("reads of what was modified after a revision");
        }
        if !range.order.is_natural() || range.count_only {
            return unsupported("sorted reads and no counts");
        }
        let reply = match &range.span {
            Span::Key(key) => self.read_key(key, range.consistency).await,
            Span::Below(key) => self.read_below(key, range.consistency, Depth::All).await,
            Span::Between { .. } => return unsupported("ranges of keys"),
        };
        let mut reply = reply.map_err(|error| error.at(key))?;
        if range.keys_only {
            reply.kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(reply)
    }

    /// Reads the value of a key. If the key does not exist, the reply has no value.
    pub(super) async fn read_key(&self, key: &Key, consistency: Consistency) -> Result<RangeReply> {
        let (node, mut reply) = self.read_node(key, consistency, Parameters::default()).await?;
        match node {
            Some(node) if node.dir => return Err(Error::new(ErrorKind::IsADirectory, "it holds no value itself").at(key)),
            Some(node) => reply.kvs.push(node.into_kv()),
            None => {}
        }
        self.complete(&mut reply);
        Ok(reply)
    }

    /// Adds the leases and the exact times to live, which the server does not report.
    fn complete(&self, reply: &mut RangeReply) {
        reply.kvs.iter_mut().for_each(|kv| self.leases.complete(kv));
    }

    /// Reads the contents of a directory. If the directory does not exist, the reply is empty.
    pub(super) async fn read_below(&self, key: &Key, consistency: Consistency, depth: Depth) -> Result<RangeReply> {
        let parameters = match depth {
            Depth::All => Parameters::default().flag("recursive"),
            Depth::One => Parameters::default(),
        };
        let (node, mut reply) = self.read_node(key, consistency, parameters).await?;
        match node {
            Some(node) if !node.dir => return Err(Error::new(ErrorKind::NotADirectory, "it holds a value").at(key)),
            Some(node) => flatten(node, &mut reply),
            None => {}
        }
        self.complete(&mut reply);
        Ok(reply)
    }

    async fn read_node(&self, key: &Key, consistency: Consistency, parameters: Parameters) -> Result<(Option<Node>, RangeReply)> {
        let parameters = match consistency {
            Consistency::Linearizable => parameters.flag("quorum"),
            Consistency::Stale => parameters,
        };
        let reply = self.http.get(&parameters.behind(&encode::path(key)?)).await?;
        let empty = RangeReply { revision: reply.index, ..RangeReply::default() };
        match reply.outcome {
            Ok(change) => Ok((Some(change.node), empty)),
            Err(refusal) if refusal.is_not_found() => Ok((None, empty)),
            Err(refusal) => Err(refusal.into_error()),
        }
    }
}

/// How much of a directory is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Depth {
    /// Only the direct entries, to see whether the key is a directory.
    One,
    All,
}

/// Moves a directory and its contents into the reply, in key order.
fn flatten(mut directory: Node, reply: &mut RangeReply) {
    let mut open = std::mem::take(&mut directory.nodes);
    reply.directory = Some(directory.into_directory());
    while let Some(mut node) = open.pop() {
        if node.dir {
            open.append(&mut node.nodes);
            reply.directories.push(node.into_directory());
        } else {
            reply.kvs.push(node.into_kv());
        }
    }
    reply.kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    reply.directories.sort_unstable_by(|a, b| a.key.cmp(&b.key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_is_listed_in_key_order() {
        let leaf = |key: &str| Node { key: key.into(), value: Some("v".into()), ..Node::default() };
        let directory = |key: &str, nodes| Node { key: key.into(), dir: true, nodes, ..Node::default() };
        // In byte order, `/a/b-` precedes `/a/b/`, although the directory `b` precedes the key
        // `b-`.
        let tree =
            directory("/a", vec![directory("/a/b", vec![leaf("/a/b/x"), directory("/a/b/empty", vec![])]), leaf("/a/c"), leaf("/a/b-")]);
        let mut reply = RangeReply::default();
        flatten(tree, &mut reply);
        let keys = reply.kvs.iter().map(|kv| kv.key.as_ref()).collect::<Vec<_>>();
        assert_eq!(keys, [&b"/a/b-"[..], b"/a/b/x", b"/a/c"]);
        let directories = reply.directories.iter().map(|directory| directory.key.as_ref()).collect::<Vec<_>>();
        assert_eq!(directories, [&b"/a/b"[..], b"/a/b/empty"]);
        assert_eq!(reply.directory.map(|directory| directory.key), Some("/a".into()));
    }
}
