//! `Serialize` for [`Versioned`]. Durations have the same form as in the store.

use serde::ser::{Error, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::value::EtcdValue;
use crate::version::{Versioned, Versions};

impl<T: Serialize> Serialize for Versioned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Versions { revision, created, modified, version, lease, ttl, .. } = &self.versions;
        let known = [version.is_some(), lease.is_some(), ttl.is_some()].into_iter().filter(|known| *known).count();
        let mut object = serializer.serialize_struct("Versioned", 4 + known)?;
        if self.is_secret() {
            object.serialize_field("value", "***")?;
        } else {
            object.serialize_field("value", &**self)?;
        }
        object.serialize_field("revision", revision)?;
        object.serialize_field("created", created)?;
        object.serialize_field("modified", modified)?;
        match version {
            Some(version) => object.serialize_field("version", version)?,
            None => object.skip_field("version")?,
        }
        match lease {
            Some(lease) => object.serialize_field("lease", lease)?,
            None => object.skip_field("lease")?,
        }
        match ttl {
            Some(ttl) => {
                let text = ttl.encode().map_err(S::Error::custom)?;
                object.serialize_field("ttl", std::str::from_utf8(&text).map_err(S::Error::custom)?)?;
            }
            None => object.skip_field("ttl")?,
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::revision::{LeaseId, Revision};

    #[test]
    fn versioned_is_serialized_with_its_metadata() {
        let versions =
            Versions { revision: Revision::new(9), created: Revision::new(3), modified: Revision::new(7), ..Versions::default() };
        let text = |versions: &Versions| serde_json::to_string(&Versioned::new(5, versions.clone())).unwrap();
        assert_eq!(text(&versions), r#"{"value":5,"revision":9,"created":3,"modified":7}"#);
        let (lease, ttl) = (LeaseId::new(0x1f), Some(Duration::from_millis(90_500)));
        let all = Versions { version: Some(2), lease, ttl, ..versions.clone() };
        assert_eq!(text(&all), r#"{"value":5,"revision":9,"created":3,"modified":7,"version":2,"lease":"1f","ttl":"1m30s500ms"}"#);
        let secret = serde_json::to_string(&Versioned::new("hunter2", versions).secret(true)).unwrap();
        assert_eq!(secret, r#"{"value":"***","revision":9,"created":3,"modified":7}"#);
    }
}
