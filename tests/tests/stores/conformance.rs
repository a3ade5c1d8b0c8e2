//! Runs the conformance suite on every store. The cases are in `etcd_typed::testing::conformance`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use etcd_typed::store::connect::{ConnectOptions, Endpoint};
use etcd_typed::store::{BoxFuture, Store};
use etcd_typed::testing::Etcd;
use etcd_typed::testing::conformance::{Isolation, TestStore};

/// A store on a real server.
struct Real {
    store: Box<dyn Store>,
    server: Server,
    lose_history: for<'a> fn(&'a Etcd, &'a dyn Store) -> BoxFuture<'a, ()>,
}

enum Server {
    Shared(&'static Etcd),
    Own(Box<Etcd>),
}

impl Server {
    async fn of(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Shared => Self::Shared(etcd_typed_tests::shared("conformance").await),
            Isolation::Alone => Self::Own(Box::new(Etcd::start().await)),
        }
    }

    fn etcd(&self) -> &Etcd {
        match self {
            Self::Shared(etcd) => etcd,
            Self::Own(etcd) => etcd,
        }
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions::new(vec![Endpoint { host: "127.0.0.1".to_owned(), port: self.etcd().port() }])
    }
}

impl TestStore for Real {
    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn lose_history(&self) -> BoxFuture<'_, ()> {
        (self.lose_history)(self.server.etcd(), &*self.store)
    }
}

mod memory {
    use etcd_typed::store::memory::MemoryStore;

    use super::{BoxFuture, Isolation, Store, TestStore};

    struct Memory(MemoryStore);

    impl TestStore for Memory {
        fn store(&self) -> &dyn Store {
            &self.0
        }

        fn lose_history(&self) -> BoxFuture<'_, ()> {
            self.0.faults().compact();
            Box::pin(std::future::ready(()))
        }
    }

    async fn memory(_: Isolation) -> Memory {
        // The store uses tokio's paused clock, so that leases expire without waiting.
        tokio::time::pause();
        Memory(MemoryStore::new())
    }

    etcd_typed::conformance!(memory);
}

/// A memory store that behaves like etcd 3.7, where reads of keys only return no leases.
mod memory_like_etcd_3_7 {
    use etcd_typed::store::memory::MemoryStore;

    use super::{BoxFuture, Isolation, Store, TestStore};

    struct Memory(MemoryStore);

    impl TestStore for Memory {
        fn store(&self) -> &dyn Store {
            &self.0
        }

        fn lose_history(&self) -> BoxFuture<'_, ()> {
            self.0.faults().compact();
            Box::pin(std::future::ready(()))
        }
    }

    async fn memory(_: Isolation) -> Memory {
        tokio::time::pause();
        let store = MemoryStore::new();
        store.faults().hide_leases_of_keys_only(true);
        Memory(store)
    }

    etcd_typed::conformance!(memory);
}

mod v3 {
    use etcd_typed::store::v3::V3Store;

    use super::{Etcd, Isolation, Real, Server};

    async fn compact(etcd: &Etcd) {
        etcd.compact().await;
    }

    async fn v3(isolation: Isolation) -> Real {
        let server = Server::of(isolation).await;
        let store = Box::new(V3Store::new(&server.options()).expect("a store"));
        Real { store, server, lose_history: |etcd, _| Box::pin(compact(etcd)) }
    }

    etcd_typed::conformance!(v3);
}

/// The v3 store behind etcd's `grpc-proxy`.
mod v3_through_grpc_proxy {
    use etcd_typed::store::connect::{ConnectOptions, Endpoint};
    use etcd_typed::store::v3::V3Store;
    use etcd_typed::store::{BoxFuture, Store};
    use etcd_typed::testing::Etcd;
    use etcd_typed::testing::conformance::{Isolation, TestStore};
    use etcd_typed_tests::between::Between;
    use tokio::sync::OnceCell;

    struct Proxied {
        etcd: Etcd,
        proxy: Between,
    }

    impl Proxied {
        async fn start() -> Self {
            let etcd = Etcd::start().await;
            let proxy = Between::grpc_proxy(&etcd);
            Self { etcd, proxy }
        }
    }

    enum Servers {
        Shared(&'static Proxied),
        Own(Box<Proxied>),
    }

    struct Subject {
        store: V3Store,
        servers: Servers,
    }

    impl Subject {
        fn servers(&self) -> &Proxied {
            match &self.servers {
                Servers::Shared(servers) => servers,
                Servers::Own(servers) => servers,
            }
        }
    }

    impl TestStore for Subject {
        fn store(&self) -> &dyn Store {
            &self.store
        }

        fn lose_history(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {
                self.servers().etcd.compact().await;
            })
        }
    }

    async fn v3_through_grpc_proxy(isolation: Isolation) -> Subject {
        static SHARED: OnceCell<Proxied> = OnceCell::const_new();
        let servers = match isolation {
            Isolation::Shared => Servers::Shared(SHARED.get_or_init(Proxied::start).await),
            Isolation::Alone => Servers::Own(Box::new(Proxied::start().await)),
        };
        let port = match &servers {
            Servers::Shared(servers) => servers.proxy.port(),
            Servers::Own(servers) => servers.proxy.port(),
        };
        let options = ConnectOptions::new(vec![Endpoint { host: "127.0.0.1".to_owned(), port }]);
        Subject { store: V3Store::new(&options).expect("a store"), servers }
    }

    etcd_typed::conformance!(v3_through_grpc_proxy);
}

mod v2 {
    use etcd_typed::Key;
    use etcd_typed::store::v2::V2Store;
    use etcd_typed::store::{Op, Store, Txn};
    use futures_util::future::join_all;

    use super::{Isolation, Real, Server};

    async fn v2(isolation: Isolation) -> Real {
        let server = Server::of(isolation).await;
        // Panics with instructions if the server has no v2 API.
        let _ = server.etcd().url_v2();
        let store = Box::new(V2Store::new(server.options()).expect("a store"));
        Real { store, server, lose_history: |_, store| Box::pin(write_a_thousand_times(store)) }
    }

    /// Makes the server drop old events. It keeps only the last thousand events of all keys.
    async fn write_a_thousand_times(store: &dyn Store) {
        let writers = (0..8).map(async |writer| {
            let key = Key::root().child("noise").child(&format!("{writer}"));
            for _ in 0..130 {
                store.commit(Txn::new(vec![Op::put(&key, "x".into())])).await.expect("a write");
            }
        });
        join_all(writers).await;
    }

    etcd_typed::conformance!(v2);
}
