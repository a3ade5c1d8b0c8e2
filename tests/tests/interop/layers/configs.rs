//! The configuration store of a proxy. It has TOML documents by category and name, which are chosen
//! at run time, and keeps the last versions of each document.

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, LiveStatus};
use toml::Table;

use self::layer::Configs;
use super::{Old, until};

/// The layer in the code of the proxy.
mod layer {
    use etcd_typed::{Client, Codec, Directory, EntryMap, ErrorKind, LiveMap, PerEntry, Result, Revision, ValueError, Viewing};
    use toml::Table;

    /// Documents that are stored as TOML.
    const TOML: Codec<Table> = Codec::with(
        |table| toml::to_string(table).map(Into::into).map_err(ValueError::new),
        |bytes| {
            let text = std::str::from_utf8(bytes).map_err(ValueError::new)?;
            toml::from_str(text).map_err(|error| ValueError::new(error.message()))
        },
    );

    /// A category and a name.
    type Name = (String, String);

    pub(super) struct Configs {
        client: Client,
        documents: EntryMap<Name, Table>,
        /// The same documents as text, since an older version may have written a document that this
        /// version cannot read.
        texts: Directory,
        history: Directory,
    }

    impl Configs {
        pub(super) fn open(client: &Client) -> Result<Self> {
            let documents = client.entries_with("/configs", TOML)?.named("configs");
            Ok(Self { client: client.clone(), documents, texts: client.directory("/configs")?, history: client.directory("/history")? })
        }

        /// Returns the good documents, and the problems of the others.
        pub(super) async fn load(&self) -> Result<PerEntry<Name, Table>> {
            Ok(self.documents.get_per_entry().await?.into_inner())
        }

        /// Returns a view of all documents. A bad document keeps its last good state.
        pub(super) fn live(&self) -> Viewing<LiveMap<Name, Table>> {
            self.documents.live().per_entry()
        }

        /// Replaces a document. The history keeps its previous text.
        pub(super) async fn save(&self, category: &str, name: &str, document: &Table) -> Result<()> {
            self.write(category, name, Some(document.to_string())).await
        }

        pub(super) async fn delete(&self, category: &str, name: &str) -> Result<()> {
            self.write(category, name, None).await
        }

        /// Returns the last versions of a document, the newest first, with the revision of each.
        pub(super) async fn versions(&self, category: &str, name: &str, limit: usize) -> Result<Vec<(Revision, String)>> {
            let newest = self.history.directory(category).directory(name).list().newest(limit).await?.into_inner();
            let version =
                |node: etcd_typed::Node| Some((node.path.parse().ok()?, String::from_utf8_lossy(node.value.as_deref()?).into_owned()));
            Ok(newest.into_iter().filter_map(version).collect())
        }

        /// Restores an earlier version of a document. Returns whether that version exists.
        pub(super) async fn restore(&self, category: &str, name: &str, version: Revision) -> Result<bool> {
            let version = self.history.directory(category).directory(name).entry::<String>(&version.to_string());
            let Some(text) = version.get().await? else { return Ok(false) };
            self.write(category, name, Some(text.into_inner())).await?;
            Ok(true)
        }

        async fn write(&self, category: &str, name: &str, document: Option<String>) -> Result<()> {
            let entry = self.texts.directory(category).entry::<String>(name);
            loop {
                let before = entry.get().await?;
                let mut transaction = self.client.transaction().expect(&entry, &before);
                transaction = match &document {
                    Some(document) => transaction.write(entry.set(document)),
                    None => transaction.delete(&entry),
                };
                if let Some(before) = &before {
                    let version = self.history.directory(category).directory(name).entry::<String>(&before.modified().to_string());
                    transaction = transaction.write(version.set(&**before));
                }
                match transaction.await {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    saved => return saved.map(drop),
                }
            }
        }
    }
}

fn document(text: &str) -> Table {
    text.parse().unwrap()
}

fn name(category: &str, name: &str) -> (String, String) {
    (category.to_owned(), name.to_owned())
}

#[tokio::test]
async fn old_and_new_proxy_share_documents_and_history() {
    let etcd = Etcd::start().await;
    let old = Old(&etcd);
    let client = Client::builder(&etcd.url_v3()).namespace("/pingap").connect().await.unwrap();
    let configs = Configs::open(&client).unwrap();
    // The old version writes a document, and the new version reads it.
    old.run(&["put", "/pingap/configs/servers/_default.toml", "port = 80"]).await;
    let loaded = configs.load().await.unwrap();
    assert_eq!(loaded.entries[&name("servers", "_default.toml")], document("port = 80"));
    let live = configs.live().await.unwrap();

    // The new version writes documents, and the old version reads them.
    for port in [81, 82, 83] {
        configs.save("servers", "_default.toml", &document(&format!("port = {port}"))).await.unwrap();
    }
    assert_eq!(old.run(&["get", "--print-value-only", "/pingap/configs/servers/_default.toml"]).await.trim(), "port = 83");
    let versions = configs.versions("servers", "_default.toml", 2).await.unwrap();
    let texts: Vec<_> = versions.iter().map(|(_, text)| text.trim()).collect();
    assert_eq!(texts, ["port = 82", "port = 81"]);
    assert_eq!(configs.versions("servers", "_default.toml", 10).await.unwrap().len(), 3);
    assert!(configs.restore("servers", "_default.toml", versions[1].0).await.unwrap());
    until(async || live.get().get(&name("servers", "_default.toml")) == Some(&document("port = 81"))).await;

    // A document that only the old version can read keeps its last good state in the view, and can
    // be replaced.
    old.run(&["put", "/pingap/configs/servers/_default.toml", "port: 84"]).await;
    configs.save("locations", "a/b", &document("path = '/'")).await.unwrap();
    until(async || live.get().len() == 2 && !live.status().problems().is_empty()).await;
    assert!(matches!(live.status(), LiveStatus::Partial { .. }));
    assert_eq!(live.get().get(&name("servers", "_default.toml")), Some(&document("port = 81")));
    let loaded = configs.load().await.unwrap();
    assert_eq!((loaded.entries.len(), loaded.problems.len()), (1, 1));
    configs.save("servers", "_default.toml", &document("port = 85")).await.unwrap();
    assert_eq!(configs.versions("servers", "_default.toml", 1).await.unwrap()[0].1, "port: 84");
    configs.delete("locations", "a/b").await.unwrap();
    until(async || live.get().len() == 1 && live.status().problems().is_empty()).await;
    assert!(configs.restore("locations", "a/b", configs.versions("locations", "a/b", 1).await.unwrap()[0].0).await.unwrap());
    assert_eq!(configs.load().await.unwrap().entries.len(), 2);
}
