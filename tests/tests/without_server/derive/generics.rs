//! Generic structs. Their bounds follow from the fields, as with serde's derives.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::marker::PhantomData;

use etcd_typed::{EtcdSchema, EtcdValue, MapKey, Schema};
use serde::{Deserialize, Serialize};

use super::{keys, memory, problems, put, stored};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{name}")]
struct Wrapper<T> {
    #[etcd(json)]
    value: T,
    count: u8,
}

#[tokio::test]
async fn json_field_may_be_generic() {
    let client = memory().await;
    let cfg = WrapperDir::<Vec<u8>>::open(&client, "w").unwrap();
    let value = Wrapper { value: vec![1, 2], count: 3 };
    cfg.set(&value).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("w/count", "3"), ("w/value", "[1,2]")]));
    assert_eq!(*cfg.get().await.unwrap(), value);
}

/// Every kind of field uses a type parameter; `P` and `N` are used only by a field that is not
/// stored.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct All<K, V, S, J = u8, P = (), const N: usize = 1>
where
    K: Ord,
    J: Clone,
{
    own: V,
    #[etcd(default)]
    defaulted: V,
    optional: Option<V>,
    #[etcd(json)]
    json: Vec<J>,
    #[etcd(dir)]
    dir: S,
    #[etcd(dir)]
    maybe: Option<S>,
    #[etcd(dir)]
    map: BTreeMap<K, S>,
    #[etcd(entries)]
    entries: BTreeMap<K, V>,
    #[etcd(entries, json)]
    hash: HashMap<u8, J>,
    #[etcd(skip)]
    phantom: PhantomData<(P, [(); N])>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Leaf {
    a: u8,
}

#[tokio::test]
async fn every_kind_of_field_may_be_generic() {
    let client = memory().await;
    let cfg = client.dir::<All<String, u32, Leaf, bool, char, 3>>("/a").unwrap();
    let value = All {
        own: 1,
        defaulted: 2,
        optional: Some(3),
        json: vec![true],
        dir: Leaf { a: 4 },
        maybe: None,
        map: [("k".to_owned(), Leaf { a: 5 })].into(),
        entries: [("k".to_owned(), 6)].into(),
        hash: [(7, false)].into(),
        phantom: PhantomData,
    };
    cfg.set(&value).await.unwrap();
    let now: All<String, u32, Leaf, bool, char, 3> = cfg.get().await.unwrap().into_inner();
    assert_eq!(now, value);
    assert_eq!(cfg.map.dir("k").unwrap().a.get().await.unwrap().as_deref(), Some(&5));
    // The change enum has only the parameters that its variants use.
    let _: Option<AllChange<String, u32, Leaf, bool>> = None;
}

/// Uses the handle, the struct and the change enum. Needs no other bounds than those of the fields.
async fn generic<V>(value: V) -> Wrapper2<V>
where
    V: EtcdValue + Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let client = memory().await;
    let cfg: Wrapper2Dir<V> = client.dir::<Wrapper2<V>>("/a").unwrap();
    cfg.value.set(&value).await.unwrap();
    let _: Option<Wrapper2Change<V>> = None;
    cfg.get().await.unwrap().into_inner()
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Wrapper2<V> {
    value: V,
}

#[tokio::test]
async fn generic_function_uses_handle() {
    assert_eq!(generic(7_u8).await, Wrapper2 { value: 7 });
    assert_eq!(generic(true).await, Wrapper2 { value: true });
}

/// A schema that contains another schema as a parameter.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Outer<S: EtcdSchema> {
    #[etcd(dir)]
    inner: Wrapped<S>,
    #[etcd(flatten)]
    beside: S,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Wrapped<S: EtcdSchema> {
    #[etcd(dir)]
    deep: S,
}

#[tokio::test]
async fn schema_may_be_type_parameter() {
    let client = memory().await;
    put(&client, "/a/a", "1").await;
    let cfg = client.dir::<Outer<Leaf>>("/a").unwrap();
    assert_eq!(problems(&cfg.get().await.unwrap_err()), ["/a/inner/deep/a: missing (unsigned integer)"]);
    cfg.inner.deep.a.set(&2).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), Outer { inner: Wrapped { deep: Leaf { a: 2 } }, beside: Leaf { a: 1 } });
    assert_eq!(Outer::<Leaf>::describe().to_string().lines().next(), Some("Outer"));
}

#[derive(EtcdValue, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Id<T>(T);

#[test]
fn newtype_may_be_generic() {
    assert_eq!(Id::<u8>::decode(b"7"), Ok(Id(7)));
    assert_eq!(<Id<u8> as EtcdValue>::TYPE, u8::TYPE);
    fn is_map_key<K: MapKey>() {}
    is_map_key::<Id<String>>();
}
