//! Nested structs that have a default: `#[serde(default)]` on a nested struct, and an optional
//! nested struct that is present by default. Some test names call a nested struct a section.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use etcd_typed::{Client, ErrorKind, EtcdSchema, FieldSource, Presence, ProblemKind, Schema};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Server {
    name: String,
    #[serde(default)]
    #[etcd(dir)]
    pool: Pool,
    #[serde(default = "smtp")]
    #[etcd(dir)]
    smtp: Smtp,
    #[serde(default = "mirror")]
    #[etcd(dir)]
    mirror: Option<Smtp>,
    #[serde(default)]
    #[etcd(dir)]
    backup: Option<Smtp>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
    note: Option<String>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { size: 8, note: Some("usual".to_owned()) }
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Smtp {
    host: String,
    #[serde(default)]
    #[etcd(range = ..=65_535)]
    port: u32,
}

fn smtp() -> Smtp {
    Smtp { host: "localhost".to_owned(), port: 25 }
}

fn mirror() -> Option<Smtp> {
    Some(Smtp { host: "mirror".to_owned(), port: 26 })
}

struct Bench {
    client: Client,
}

etcd_typed_tests::on_every_store! { "section-defaults":
    absent_section_has_its_default
    written_section_is_read_back
    changes_of_section_are_typed
}

fn defaults() -> Server {
    serde_json::from_str(r#"{ "name": "n" }"#).unwrap()
}

/// An absent nested struct gets the value that serde gives it when serde reads a file without it.
async fn absent_section_has_its_default(bench: Bench) {
    let dir = bench.client.dir::<Server>("/server").unwrap();
    assert_eq!(dir.get().await.unwrap_err().kind(), ErrorKind::NotFound);
    dir.name.set(&"n".to_owned()).await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), defaults());
    assert_eq!(defaults().mirror, mirror());
    assert!(dir.check().await.unwrap().is_empty());
    let live = dir.live().await.unwrap();
    assert_eq!(**live.get(), defaults());

    // A nested struct that exists is read with the defaults of its fields.
    let written = dir.smtp.host.set(&"mx".to_owned()).await.unwrap();
    let smtp = Smtp { host: "mx".to_owned(), port: 0 };
    assert_eq!(dir.get().await.unwrap().smtp, smtp);
    assert_eq!(timeout(Duration::from_secs(30), live.wait_for_revision(written)).await.unwrap().unwrap().smtp, smtp);

    // Without its required key the nested struct does not exist.
    dir.smtp.host.delete().await.unwrap();
    dir.smtp.port.set(&99).await.unwrap();
    assert_eq!(dir.get().await.unwrap().smtp, defaults().smtp);
    let problems = dir.check().await.unwrap().problems;
    assert_eq!((problems.len(), problems[0].kind), (1, ProblemKind::Unknown));
}

async fn written_section_is_read_back(bench: Bench) {
    let dir = bench.client.dir::<Server>("/server").unwrap();
    let value = Server { smtp: Smtp { host: "mx".to_owned(), port: 1 }, pool: Pool { size: 1, note: None }, ..defaults() };
    dir.set(&value).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), value);
    let update = dir.update(|server| server.pool.size = 2).non_atomic().await.unwrap();
    assert_eq!((update.pool.size, *dir.get().await.unwrap() == *update), (2, true));
    // If the nested struct is not stored, an update that changes its default value stores it.
    dir.smtp.delete().non_atomic().await.unwrap();
    dir.update(|server| server.smtp.port = 7).non_atomic().await.unwrap();
    let stored = bench.client.dir::<Smtp>("/server/smtp").unwrap();
    assert_eq!(*stored.get().await.unwrap(), Smtp { port: 7, ..smtp() });
    // An update that does not change the nested struct does not store it.
    dir.smtp.delete().non_atomic().await.unwrap();
    dir.update(|server| server.name.push('x')).non_atomic().await.unwrap();
    assert!(!stored.exists().await.unwrap());
    if bench.client.store().capabilities().transactions {
        let seen = dir.get().await.unwrap();
        let next = Server { smtp: Smtp { port: 9, ..smtp() }, ..(*seen).clone() };
        dir.compare_and_swap(&seen, &next).await.unwrap();
        assert_eq!(*stored.get().await.unwrap(), Smtp { port: 9, ..smtp() });
    }
}

async fn changes_of_section_are_typed(bench: Bench) {
    let dir = bench.client.dir::<Server>("/server").unwrap();
    dir.name.set(&"n".to_owned()).await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    dir.smtp.host.set(&"mx".to_owned()).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    assert!(matches!(&update.changes[..], [ServerChange::Smtp(SmtpChange::Host(change))] if change.is_created()), "{update:?}");
}

/// A nested struct without a key is read as its default. So a write of a nested struct without a
/// key is refused, unless the default has no key either.
#[tokio::test]
async fn nested_struct_without_key_is_refused_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
    struct Notes {
        note: Option<String>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct App {
        #[serde(default = "notes")]
        #[etcd(dir)]
        some: Notes,
        #[etcd(dir, default)]
        none: Notes,
        #[serde(default = "maybe")]
        #[etcd(dir)]
        maybe: Option<Notes>,
    }
    fn notes() -> Notes {
        Notes { note: Some("x".to_owned()) }
    }
    fn maybe() -> Option<Notes> {
        Some(notes())
    }
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<App>("/app").unwrap();
    let value = App { some: notes(), none: Notes::default(), maybe: maybe() };
    assert_eq!(*dir.get().await.unwrap(), value);
    dir.set(&value).await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), value);
    for refused in [App { some: Notes::default(), ..value.clone() }, App { maybe: None, ..value.clone() }] {
        let error = dir.set(&refused).await.unwrap_err();
        let problems: Vec<_> = error.problems().iter().map(|problem| problem.kind).collect();
        assert_eq!((error.kind(), problems), (ErrorKind::Invalid, vec![ProblemKind::Unencodable]), "{error}");
        // The base of a view may have a nested struct without a key, since the view does not write
        // the base.
        dir.delete().await.unwrap();
        let live = dir.live().over(&refused).await.unwrap();
        assert_eq!(**live.get(), refused);
        assert!(live.sources().iter().all(|field| field.source == FieldSource::Base));
    }
}

#[tokio::test]
async fn view_validates_nested_default_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct App {
        #[etcd(dir, default = Smtp { host: "h".to_owned(), port: 70_000 })]
        smtp: Smtp,
    }
    let dir = Client::connect("memory:").await.unwrap().dir::<App>("/app").unwrap();
    assert_eq!(dir.get().await.unwrap().smtp.port, 70_000);
    let refused = dir.live().await.unwrap_err();
    assert_eq!(refused.problems()[0].key.as_str(), "/app/smtp/port");
    assert_eq!(dir.check().await.unwrap().problems.len(), 1);
}

/// With serde's `default` on the outer struct, an absent nested struct gets its value in the outer
/// struct's `Default`.
#[tokio::test]
async fn struct_default_applies_to_nested_structs_with_memory_store() {
    #[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[serde(default)]
    struct App {
        #[etcd(dir)]
        smtp: Smtp,
        #[etcd(dir)]
        backup: Option<Smtp>,
    }
    impl Default for App {
        fn default() -> Self {
            Self { smtp: Smtp { port: 587, ..smtp() }, backup: Some(smtp()) }
        }
    }
    let dir = Client::connect("memory:").await.unwrap().dir::<App>("/app").unwrap();
    assert_eq!(*dir.get().await.unwrap(), serde_json::from_str::<App>("{}").unwrap());
    dir.smtp.host.set(&"mx".to_owned()).await.unwrap();
    let of_serde: App = serde_json::from_str(r#"{ "smtp": { "host": "mx" } }"#).unwrap();
    assert_eq!(*dir.get().await.unwrap(), of_serde);
    assert_eq!(App::describe().fields[0].presence, Presence::Default("App::default().smtp"));
    assert_eq!(App::describe().fields[1].presence, Presence::OptionalOr("App::default().backup"));
}
