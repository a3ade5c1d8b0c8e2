//! A page for each task. Start with the task that you have; each page is complete in itself.
//!
//! | you want to | page |
//! |---|---|
//! | map a struct to keys, and check its values | [Define a config](define_a_config) |
//! | connect, write the first values, check what is stored | [Deploy and seed it](deploy_and_seed) |
//! | read the current config in a request handler, follow changes | [Read it live](read_live) |
//! | set, compare-and-swap, update, let a value expire | [Change it safely](change_safely) |
//! | add, rename and remove fields while old programs run | [Evolve it](evolve) |
//! | let one program at a time do a job | [Lock](lock) |
//! | let one of several programs lead | [Lead](lead) |
//! | publish the address of a service, and find services | [Register a service](register_a_service) |
//! | test on the memory store, with faults and paused time | [Test without a server](test_without_a_server) |
//! | end a program so that others go on at once | [Shut down](shut_down) |
//! | see logs, metrics and health | [Watch it work](watch_it_work) |
//! | run the same program on etcd v2 | [Run on v2](run_on_v2) |
//! | wrap a store, or add one | [Write a store](write_a_store) |
//!
//! Reference:
//!
//! - [What each store can do](stores)
//! - [Locks and elections beside other clients](other_clients): Go, `etcdctl`, Node, Python
//! - [Move from etcd-client, etcd3 or clientv3](move_here): their calls, key layouts, old and new
//!   versions side by side
//! - [Coming from another client](coming_from): Etcd.jl, cetcd
//! - [What reads and changes cost](costs)
//! - [How the library is tested](tested)
//!
//! Every example runs as a test, on the memory store; an example that needs a server is only
//! compiled. In your program, replace `memory:` by the address of your store. The examples need:
//!
//! ```toml
//! [dependencies]
//! etcd-typed = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }
//! ```

#[doc = include_str!("guide/change_safely.md")]
pub mod change_safely {}

#[doc = include_str!("guide/coming_from.md")]
pub mod coming_from {}

#[doc = include_str!("guide/costs.md")]
pub mod costs {}

#[doc = include_str!("guide/define_a_config.md")]
pub mod define_a_config {}

#[doc = include_str!("guide/deploy_and_seed.md")]
pub mod deploy_and_seed {}

#[doc = include_str!("guide/evolve.md")]
pub mod evolve {}

#[doc = include_str!("guide/lead.md")]
pub mod lead {}

#[doc = include_str!("guide/lock.md")]
pub mod lock {}

#[doc = include_str!("guide/move_here.md")]
pub mod move_here {}

#[doc = include_str!("guide/other_clients.md")]
pub mod other_clients {}

#[doc = include_str!("guide/read_live.md")]
pub mod read_live {}

#[doc = include_str!("guide/register_a_service.md")]
pub mod register_a_service {}

#[doc = include_str!("guide/run_on_v2.md")]
pub mod run_on_v2 {}

#[doc = include_str!("guide/shut_down.md")]
pub mod shut_down {}

#[doc = include_str!("guide/stores.md")]
pub mod stores {}

#[doc = include_str!("guide/test_without_a_server.md")]
pub mod test_without_a_server {}

#[doc = include_str!("guide/tested.md")]
pub mod tested {}

#[doc = include_str!("guide/watch_it_work.md")]
pub mod watch_it_work {}

#[doc = include_str!("guide/write_a_store.md")]
pub mod write_a_store {}
