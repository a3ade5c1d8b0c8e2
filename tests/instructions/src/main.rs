//! Repeats one operation a given number of times.
//! `tests/tests/without_server/instructions.rs` counts its instructions.
//!
//! ```text
//! valgrind --tool=callgrind target/release/etcd-typed-instructions read 1000
//! ```
//!
//! The program uses one thread and the in-memory store, and no clock or network, so that every run
//! executes the same instructions. The struct is like one that a service reads when it starts: ten
//! numbers and ten texts. The set-up does not depend on the number of repetitions, so two runs
//! differ only by the repeated operation.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the program fails by panicking")]

use std::hint::black_box;

use etcd_typed::store::{Range, Span};
use etcd_typed::{Client, EtcdSchema, Live};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

#[derive(EtcdSchema, Deserialize, Serialize, Clone, Debug, PartialEq)]
struct Settings {
    number_0: u32,
    number_1: u32,
    number_2: u32,
    number_3: u32,
    number_4: u32,
    number_5: u32,
    number_6: u32,
    number_7: u32,
    number_8: u32,
    number_9: u32,
    text_0: String,
    text_1: String,
    text_2: String,
    text_3: String,
    text_4: String,
    text_5: String,
    text_6: String,
    text_7: String,
    text_8: String,
    text_9: String,
}

impl Settings {
    fn new() -> Self {
        let text = |number: u32| format!("a text of 31 bytes, and number {number}");
        Self {
            number_0: 12_345_670,
            number_1: 12_345_671,
            number_2: 12_345_672,
            number_3: 12_345_673,
            number_4: 12_345_674,
            number_5: 12_345_675,
            number_6: 12_345_676,
            number_7: 12_345_677,
            number_8: 12_345_678,
            number_9: 12_345_679,
            text_0: text(0),
            text_1: text(1),
            text_2: text(2),
            text_3: text(3),
            text_4: text(4),
            text_5: text(5),
            text_6: text(6),
            text_7: text(7),
            text_8: text(8),
            text_9: text(9),
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (case, times) = (arguments.next().expect("a case"), arguments.next().expect("a number of repetitions"));
    let times: u32 = times.parse().expect("the number of repetitions is a number");
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(repeat(&case, times));
}

/// Reads the live view. This is a separate function, so that the compiler's choice of registers for
/// the other cases does not change the instructions of this read.
#[inline(never)]
fn get_live(live: &Live<Settings>, expected: u32, times: u32) {
    for _ in 0..times {
        assert_eq!(black_box(live).get().number_0, expected);
    }
}

async fn repeat(case: &str, times: u32) {
    let settings = Settings::new();
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Settings>("/app").unwrap();
    dir.set(&settings).await.unwrap();
    let live = dir.live().await.unwrap();
    let mut reader = live.reader();
    let json = serde_json::to_vec(&settings).unwrap();
    match case {
        "read" => {
            for _ in 0..times {
                assert_eq!(**black_box(&dir.get().await.unwrap()), settings);
            }
        }
        // Only the store's part of a read, without decoding.
        "range" => {
            let below = Span::Below(dir.key().clone());
            for _ in 0..times {
                assert_eq!(black_box(client.store().range(Range::of(below.clone())).await.unwrap()).kvs.len(), 20);
            }
        }
        // `set` encodes when it is called. The write is dropped without being awaited.
        "encode" => {
            for _ in 0..times {
                drop(black_box(dir.set(black_box(&settings))));
            }
        }
        "live get" => {
            get_live(&live, settings.number_0, times);
        }
        "live reader" => {
            for _ in 0..times {
                assert_eq!(black_box(&mut reader).get().number_0, settings.number_0);
            }
        }
        "serde_json decode" => {
            for _ in 0..times {
                assert_eq!(serde_json::from_slice::<Settings>(black_box(&json)).unwrap(), settings);
            }
        }
        "serde_json encode" => {
            for _ in 0..times {
                assert_eq!(black_box(serde_json::to_vec(black_box(&settings)).unwrap()).len(), json.len());
            }
        }
        _ => panic!("unknown case {case}"),
    }
}
