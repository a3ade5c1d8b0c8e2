//! URLs of the crate `url`. A text such as `localhost:80`, whose scheme would be a host name, is
//! refused.

use bytes::Bytes;
use url::Url;

use super::{EtcdValue, ValueError, text, unchanged};

impl EtcdValue for Url {
    const TYPE: &'static str = "URL";

    fn encode(&self) -> Result<Bytes, ValueError> {
        with_scheme(self)?;
        Ok(Bytes::copy_from_slice(self.as_str().as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let url = text(bytes)?.trim().parse().map_err(|reason| ValueError::new(format_args!("not a URL: {reason}")))?;
        with_scheme(&url)?;
        Ok(url)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        unchanged(self, stored)
    }
}

/// Refuses `localhost:80` and `fe80::1`, which are URLs with the schemes `localhost` and `fe80`.
fn with_scheme(url: &Url) -> Result<(), ValueError> {
    /// Schemes whose URLs have no host.
    const WITHOUT_HOST: [&str; 14] =
        ["about", "blob", "data", "file", "geo", "magnet", "mailto", "news", "sip", "sips", "sqlite", "tel", "unix", "urn"];
    if url.has_authority() || WITHOUT_HOST.contains(&url.scheme()) {
        return Ok(());
    }
    Err(ValueError::new("not a URL: it has no `//` and no host after its scheme; write the scheme, as in `http://localhost:80`"))
}
