//! The example `lock` on the three stores: one worker does the job, and the server refuses a write
//! of the former holder.

use std::process::Command;

use etcd_typed::testing::Etcd;

fn run(address: Option<&str>) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lock")).args(address).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn example_does_the_job_once(address: Option<&str>, guarded: bool) {
    // In a second run on the same server the job is already done.
    let times = if address.is_some() { 2 } else { 1 };
    for time in 0..times {
        let shown = run(address);
        let count = |what: &str| shown.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("does the job, fence"), usize::from(time == 0), "{shown}");
        assert_eq!(count("finds it done"), if time == 0 { 2 } else { 3 }, "{shown}");
        assert_eq!(count("etcd refuses the former holder: guard lost"), usize::from(guarded), "{shown}");
        assert_eq!(count("etcd v2 cannot check a guard"), usize::from(!guarded), "{shown}");
        assert_eq!(count("the printer refuses the former holder"), 1, "{shown}");
    }
}

#[test]
fn memory_example_does_the_job_once() {
    example_does_the_job_once(None, true);
}

#[tokio::test]
async fn v3_example_does_the_job_once() {
    example_does_the_job_once(Some(&Etcd::start().await.url_v3()), true);
}

#[tokio::test]
async fn v2_example_does_the_job_once() {
    example_does_the_job_once(Some(&Etcd::start().await.url_v2()), false);
}
