//! etcd v2: the keys API over HTTP.
