//! Attributes of serde, clap and configuration loaders that users may write in `#[etcd(...)]` by
//! mistake, with advice on the correct attribute.

use super::Place;

/// Returns an error message that says what to write instead of an attribute of another crate, if
/// the attribute is known.
pub(super) fn counterpart(name: &str, place: Place) -> Option<String> {
    let is_on_field = place == Place::Field;
    let instead = match name {
        "deny_unknown_fields" if !is_on_field => {
            "write `#[serde(deny_unknown_fields)]`, which reports unknown keys, or `#[etcd(strict)]`, which refuses to read with them"
        }
        "skip_serializing_if" => {
            "remove this: an `Option` that is `None` has no key, and every other field is written always, so that its key shows its value"
        }
        "skip_serializing" | "skip_deserializing" => "a key is written and read: write `skip` to leave the field out, or remove this",
        "serialize_with" | "deserialize_with" => {
            "write `#[serde(with = \"module\")]` for a module of serde, or `with = module` for one with `encode` and `decode`"
        }
        "rename_all_fields" | "bound" | "borrow" | "remote" | "expecting" | "getter" => {
            "this is an attribute of serde: write it in `#[serde(...)]`"
        }
        "transparent" => "a newtype is stored as its value without an attribute: derive `EtcdValue` for it, and remove this",
        "tag" | "other" => "an enum with data is a directory if it derives `EtcdSchema`: `tag` goes on the enum, and `other` on a variant",
        "content" | "untagged" => "such an enum is stored as JSON in one key: put `#[etcd(json)]` on the fields of its type",
        "nested" | "subcommand" | "section" if is_on_field => {
            "write `dir` for a struct with a key for each field, or `flatten` for keys in this directory"
        }
        "sensitive" | "hide" | "hide_env_values" | "redact" | "masked" if is_on_field => "write `secret`: the value is shown as `***`",
        "env" | "parse_env" => {
            "values come from the store, not from the environment: for a default from the environment write a function, and `default = function()`"
        }
        "default_t" | "default_value" | "default_value_t" | "default_values" | "or_default" => "write `default = 100`, with any expression",
        "required" => "a field is required unless it has a `default` or is an `Option`: remove this",
        "optional" => "make the type of the field an `Option`, or give it a `default`",
        "long" | "short" | "arg" | "value_name" => "this is an attribute of clap: write it in `#[arg(...)]`",
        "help" | "doc" | "long_help" | "description" => "write a documentation comment, `/// ...`: `describe()` shows it",
        "name" | "key" | "rename_to" => "write `rename = \"segment\"`",
        "aliases" => "write one `alias = \"old-segment\"` for each",
        "parse" | "value_parser" | "deserialize" | "parser" => "write `with = module`, for a module with `encode` and `decode`",
        _ => return None,
    };
    Some(format!("there is no `{name}`; {instead}"))
}
