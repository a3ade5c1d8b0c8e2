//! The typed surface: what is done to one key, to a struct's directory, to a map, to a directory without a schema, and in one transaction.
//! How bytes become values is `value.rs` and `schema.rs`.
