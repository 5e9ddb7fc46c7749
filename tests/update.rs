//! Whole updates in the simulated world, in virtual time.

mod rig;

use std::time::Duration;

use rig::{Rig, lines, request, world};

#[tokio::test(start_paused = true)]
async fn a_whole_update_of_three_voters_and_a_replica() {
    let rig = Rig::new(world(1));
    let (history, state) = rig.run(request("m6i.xlarge"), Duration::from_secs(1800)).await;
    println!("{}", lines(&history));
    println!("{:?}", state.end);
}
