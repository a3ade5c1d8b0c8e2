//! Modules for `#[serde(with = "...")]`, as public programs define them.

/// Stores a duration as text such as `90s`.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{}s", value.as_secs()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.strip_suffix('s').ok_or_else(|| D::Error::custom("write seconds, as in `90s`"))?;
        number.parse().map(Duration::from_secs).map_err(D::Error::custom)
    }

    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, Serializer};

        pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            #[derive(Deserialize)]
            struct Seconds(#[serde(with = "super")] Duration);
            Ok(Option::<Seconds>::deserialize(from)?.map(|seconds| seconds.0))
        }
    }
}

/// Stores a number of bytes in units of 1 MiB.
pub(super) mod megabytes {
    use serde::ser::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        if !value.is_multiple_of(1 << 20) {
            return Err(S::Error::custom("the size is not a multiple of 1 MiB"));
        }
        to.serialize_u64(value >> 20)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::deserialize(from).map(|megabytes| megabytes << 20)
    }

    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(value: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
            Option::<u64>::deserialize(from).map(|size| size.map(|megabytes| megabytes << 20))
        }
    }
}
