//! Enums and newtypes with `#[derive(EtcdValue)]`.

use etcd_typed::{EtcdValue, ValueError};

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq)]
enum Level {
    VeryLow,
    #[etcd(alias = "medium", alias = "2")]
    Middle,
    #[etcd(rename = "as high as it gets")]
    High,
    r#Type,
}

#[test]
fn enum_is_stored_as_variant_name() {
    for (value, text) in
        [(Level::VeryLow, "very_low"), (Level::Middle, "middle"), (Level::High, "as high as it gets"), (Level::Type, "type")]
    {
        assert_eq!(value.encode().as_deref(), Ok(text.as_bytes()));
        assert_eq!(Level::decode(text.as_bytes()), Ok(value));
        assert_eq!(Level::decode(format!(" {text}\n").as_bytes()), Ok(value));
    }
    assert_eq!(Level::decode(b"medium"), Ok(Level::Middle));
    assert_eq!(Level::decode(b"2"), Ok(Level::Middle));
    assert_eq!(Level::TYPE, "one of `very_low`, `middle`, `as high as it gets`, `type`");
    let reason = ValueError::new("not one of `very_low`, `middle`, `as high as it gets`, `type`");
    for wrong in ["", "VeryLow", "VERY_LOW", "lowest"] {
        assert_eq!(Level::decode(wrong.as_bytes()), Err(reason.clone()), "{wrong:?}");
    }
    assert_eq!(Level::decode(b"\xff"), Err(ValueError::new("not UTF-8 text")));
}

#[test]
fn rename_all_applies_to_variants() {
    macro_rules! text {
        ($case:literal) => {{
            #[derive(EtcdValue)]
            #[etcd(rename_all = $case)]
            enum E {
                VeryBad,
            }
            String::from_utf8(E::VeryBad.encode().unwrap().to_vec()).unwrap()
        }};
    }
    let texts = [
        text!("lowercase"),
        text!("UPPERCASE"),
        text!("PascalCase"),
        text!("camelCase"),
        text!("snake_case"),
        text!("SCREAMING_SNAKE_CASE"),
        text!("kebab-case"),
        text!("SCREAMING-KEBAB-CASE"),
    ];
    assert_eq!(texts, ["verybad", "VERYBAD", "VeryBad", "veryBad", "very_bad", "VERY_BAD", "very-bad", "VERY-BAD"]);
}

#[derive(EtcdValue, Debug, PartialEq)]
struct Port(u16);

#[derive(EtcdValue, Debug, PartialEq)]
struct Nested(Port);

#[test]
fn newtype_is_stored_as_its_value() {
    assert_eq!(Port(80).encode().as_deref(), Ok(&b"80"[..]));
    assert_eq!(Nested::decode(b"80\n"), Ok(Nested(Port(80))));
    assert_eq!(Nested::TYPE, u16::TYPE);
    assert_eq!(Port::decode(b"x").unwrap_err(), u16::decode(b"x").unwrap_err());
}
