//! Texts, characters, bytes and paths, which are stored unchanged.

use std::path::PathBuf;

use bytes::Bytes;

use super::{EtcdValue, ValueError, exact, text};

impl EtcdValue for String {
    const TYPE: &'static str = "text";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(Bytes::copy_from_slice(self.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes).map(str::to_owned)
    }

    fn is_stored_as(&self, bytes: &[u8]) -> bool {
        self.as_bytes() == bytes
    }

    exact!();
}

impl EtcdValue for char {
    const TYPE: &'static str = "one character";
    const QUOTABLE: bool = true;

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.to_string().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes)?.parse().map_err(|_| ValueError::new("not exactly one character"))
    }

    exact!();
}

impl EtcdValue for Bytes {
    const TYPE: &'static str = "bytes";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.clone())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(Self::copy_from_slice(bytes))
    }

    fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
        Ok(bytes.clone())
    }

    exact!();
}

impl EtcdValue for PathBuf {
    const TYPE: &'static str = "path";

    fn encode(&self) -> Result<Bytes, ValueError> {
        let path = self.to_str().ok_or_else(|| ValueError::new("a path that is not UTF-8"))?;
        Ok(Bytes::copy_from_slice(path.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes).map(Self::from)
    }

    exact!();
}
