//! Tests of the stored form of lists, and of the errors for other texts that people type.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::value::{Json, Secret};

fn stored<T: EtcdValue>(value: &T) -> String {
    let stored = Codec::<T>::value().encode(value).unwrap();
    String::from_utf8(stored.to_vec()).unwrap()
}

fn refusal<T: EtcdValue>(text: &str) -> String {
    match Codec::<T>::value().decode(text.as_bytes()) {
        Ok(_) => panic!("{} takes {text:?}", T::TYPE),
        Err(reason) => reason.to_string(),
    }
}

#[test]
fn list_is_stored_as_json_array() {
    assert_eq!(stored(&vec!["a,b".to_owned(), "\"".to_owned()]), r#"["a,b","\""]"#);
    assert_eq!(stored(&vec![1_u16, 2]), "[1,2]");
    assert_eq!(stored(&vec![true, false]), "[true,false]");
    assert_eq!(stored(&vec![0.5, -0.0, f64::MAX, f64::INFINITY]), format!("[0.5,-0,{},\"inf\"]", f64::MAX));
    assert_eq!(stored(&vec![u128::MAX]), format!("[{}]", u128::MAX));
    assert_eq!(stored(&vec![std::time::Duration::from_secs(90)]), r#"["1m30s"]"#);
    assert_eq!(stored(&Vec::<String>::new()), "[]");
    assert_eq!(stored(&BTreeSet::from([443_u16, 80])), "[80,443]");
    assert_eq!(stored(&[255_u8, 0, 0]), "[255,0,0]");
    assert_eq!(stored(&("a".to_owned(), 1_u8, true)), r#"["a",1,true]"#);
    assert_eq!(stored(&vec![vec![1, 2], vec![]]), "[[1,2],[]]");
    assert_eq!(stored(&vec![("a".to_owned(), 1_u8)]), r#"[["a",1]]"#);
    assert_eq!(stored(&vec![Json(Some(1)), Json(None)]), "[1,null]");
    assert_eq!(stored(&vec![Secret::new(7_u8)]), "[7]");
}

#[test]
fn hash_set_elements_are_written_in_order() {
    assert_eq!(stored(&HashSet::from([8080_i64, 80, -1, 443, -20, 0])), "[-20,-1,0,80,443,8080]");
    assert_eq!(stored(&HashSet::from(["b".to_owned(), "a".to_owned(), "10".to_owned()])), r#"["10","a","b"]"#);
}

#[test]
fn byte_vector_is_stored_as_bytes() {
    assert_eq!(Vec::<u8>::TYPE, "bytes");
    assert_eq!(vec![1_u8, 255].encode().unwrap().as_ref(), [1, 255]);
    assert_eq!(Vec::<u8>::decode(b"[1,2]").unwrap(), b"[1,2]");
    assert_eq!(stored(&vec![b"text".to_vec()]), r#"["text"]"#);
}

#[test]
fn type_name_includes_element_type() {
    assert_eq!(Vec::<String>::TYPE, "list of text");
    assert_eq!(BTreeSet::<u16>::TYPE, "set of unsigned integer");
    assert_eq!(<(String, bool)>::TYPE, "(text, boolean)");
    assert_eq!(Vec::<(IpAddr, Vec<i8>)>::TYPE, "list of (IP address, list of integer)");
}

#[test]
fn list_accepts_white_space_and_quoted_numbers() {
    assert_eq!(Vec::<u16>::decode(b" [ 80 ,\n 443 ]\n").unwrap(), [80, 443]);
    assert_eq!(Vec::<u16>::decode(br#"["80", 443]"#).unwrap(), [80, 443]);
    assert_eq!(Vec::<bool>::decode(br#"["true", false]"#).unwrap(), [true, false]);
    assert_eq!(BTreeSet::<u8>::decode(b"[3,1,3]").unwrap(), BTreeSet::from([1, 3]));
}

#[test]
fn error_shows_how_to_write_typed_list() {
    assert_eq!(refusal::<Vec<String>>("a,b,c"), r#"not a JSON array; write it as in `["a","b"]`"#);
    assert_eq!(refusal::<Vec<u16>>("80, 443"), "not a JSON array; write `[80,443]`");
    assert_eq!(refusal::<Vec<u16>>("80"), "not a JSON array; write `[80]`");
    assert_eq!(refusal::<Vec<u16>>("80,many"), "not a JSON array; write it as in `[1,2]`");
    assert_eq!(refusal::<Vec<bool>>("yes,no"), "not a JSON array; write it as in `[true,false]`");
    assert_eq!(refusal::<Vec<IpAddr>>("['::1', 192.0.2.1]").split("; ").last(), Some(r#"write `["::1","192.0.2.1"]`"#));
    assert!(refusal::<Vec<String>>("['a', 'b']").ends_with(r#"; write it as in `["a","b"]`"#));
    assert!(refusal::<Vec<String>>("[\"a\",]").contains("trailing comma"));
    assert!(refusal::<Vec<String>>(" \n").contains("write `[]` for no elements"));
    assert!(refusal::<Vec<String>>("\"hunter2\"").starts_with("not a JSON array;"));
    assert!(refusal::<(String, u8)>("a,1").ends_with(r#"write it as in `["a",2]`"#));
}

#[test]
fn error_says_which_element_is_wrong() {
    assert_eq!(refusal::<Vec<u16>>("[1,70000]"), "element 2: \"70000\" is not in 0 … 65535");
    assert_eq!(refusal::<Vec<String>>("[\"a\",7]"), "element 2: a number where a text is needed: put it in quotes");
    assert!(refusal::<Vec<String>>("[null]").starts_with("element 1: null"));
    assert!(refusal::<Vec<IpAddr>>("[\"localhost\"]").starts_with("element 1: \"localhost\" is not an IP address"));
    assert_eq!(refusal::<[u8; 3]>("[1,2]"), "it has 2 elements, and 3 are needed");
    assert_eq!(refusal::<(u8, u8)>("[1,2,3]"), "it has 3 elements, and 2 are needed");
    assert!(refusal::<Vec<Vec<u8>>>("[[1]]").starts_with("element 1: an array"));
}

#[test]
fn errors_do_not_show_secret_elements() {
    for text in ["hunter2", "[\"hunter2\"]", "7,8", "[70000]"] {
        let refused = refusal::<Vec<Secret<u16>>>(text);
        assert!(!refused.contains("hunter2") && !refused.contains('7'), "{refused}");
    }
    const { assert!(Vec::<(u8, Secret<u8>)>::SECRET) };
}

/// A type that rounds, and whose `survives` notices it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tens(u32);

impl EtcdValue for Tens {
    const TYPE: &'static str = "tens";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok((self.0 / 10).to_string().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        u32::decode(bytes).map(|tens| Self(tens * 10))
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        if Self::decode(stored)? == *self { Ok(()) } else { Err(changed()) }
    }
}

#[test]
fn element_that_reads_back_different_is_refused() {
    let encode = |value: &Vec<Tens>| Codec::value().encode(value);
    assert!(encode(&vec![Tens(10)]).is_ok());
    assert!(encode(&vec![Tens(10), Tens(15)]).unwrap_err().to_string().starts_with("element 2: "));
    assert!(Codec::value().encode(&(Tens(15),)).is_err());
    assert!(Codec::value().encode(&BTreeSet::from([Tens(11)])).is_err());
    assert!(Codec::value().encode(&vec![vec![0xff_u8]]).unwrap_err().to_string().contains("not UTF-8"));
}

proptest! {
    #[test]
    fn written_list_reads_back_equal(
        texts: Vec<String>,
        numbers: Vec<i128>,
        floats: Vec<f64>,
        set: BTreeSet<char>,
        hashed: HashSet<(u64, String)>,
        nested: Vec<Vec<bool>>,
        array: [Option<u8>; 3],
    ) {
        let codec = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        prop_assert_eq!(&Vec::<String>::decode(stored(&texts).as_bytes()).unwrap(), &texts);
        prop_assert_eq!(&Vec::<i128>::decode(stored(&numbers).as_bytes()).unwrap(), &numbers);
        prop_assert_eq!(&BTreeSet::<char>::decode(stored(&set).as_bytes()).unwrap(), &set);
        prop_assert_eq!(&HashSet::<(u64, String)>::decode(stored(&hashed).as_bytes()).unwrap(), &hashed);
        prop_assert_eq!(&Vec::<Vec<bool>>::decode(stored(&nested).as_bytes()).unwrap(), &nested);
        let array = array.map(Json);
        prop_assert_eq!(<[Json<Option<u8>>; 3]>::decode(stored(&array).as_bytes()).unwrap(), array);
        let read = Vec::<f64>::decode(codec(floats.encode().unwrap()).as_bytes()).unwrap();
        prop_assert!(read.iter().zip(&floats).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
    }

    #[test]
    fn list_is_stored_as_serde_json_writes_it(texts: Vec<String>, numbers: Vec<u64>) {
        prop_assert_eq!(stored(&texts), serde_json::to_string(&texts).unwrap());
        prop_assert_eq!(stored(&numbers), serde_json::to_string(&numbers).unwrap());
    }

    #[test]
    fn reading_any_list_never_panics(text in "\\PC*|[\\[\\]\",0-9a-z\\\\ ]{0,40}") {
        let _ = Vec::<String>::decode(text.as_bytes());
        let _ = Vec::<u16>::decode(text.as_bytes());
        let _ = <(String, u8)>::decode(text.as_bytes());
        let _ = <[Json<String>; 2]>::decode(text.as_bytes());
    }
}
