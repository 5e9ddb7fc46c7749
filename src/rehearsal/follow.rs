//! The nodes of a simulated cluster follow the instances of somebody else's EC2 (moto, LocalStack).

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::ids::InstanceId;
use crate::ports::{Fleet, Wanted};
use crate::sim::world::SimWorld;

use super::StageError;

/// Rest between two looks: short, since such an EC2 may stop an instance at once, and it may be started again a second later.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The instance of each node, by its private address; the world takes them over.
pub(super) async fn instances(world: &SimWorld, fleet: &dyn Fleet) -> Result<Vec<InstanceId>, StageError> {
    let addresses = world.with(|w| (0..w.node_count()).map(|n| w.address(n).clone()).collect::<Vec<_>>());
    let mut ips: Vec<IpAddr> = Vec::new();
    for address in &addresses {
        let ip = address.host.parse().map_err(|_| {
            StageError::Instances(format!("a node's address: expected an IP address, found `{}`", address.host))
        })?;
        ips.push(ip);
    }
    let found = fleet.find(&Wanted::PrivateIps(ips.clone())).await?;
    let mut ids = Vec::new();
    for (n, ip) in ips.iter().enumerate() {
        let of: Vec<_> = found.iter().filter(|i| i.private_ip == Some(*ip)).collect();
        let [instance] = of.as_slice() else {
            let shown: Vec<&str> = of.iter().map(|i| i.id.as_str()).collect();
            let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            return Err(StageError::Instances(format!(
                "the instance of the node at {ip}: expected one with this private address, found {shown}; create it first, with \
                 RunInstances and PrivateIpAddress, in the region that is asked"
            )));
        };
        world.with(|w| w.follow_instance(n, instance));
        ids.push(instance.id.clone());
    }
    Ok(ids)
}

/// Looks at the instances for as long as it is let, and lets each node's process follow its own.
pub(super) async fn follow(world: SimWorld, fleet: Box<dyn Fleet>, ids: Vec<InstanceId>) {
    let mut silent = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match fleet.describe(&ids).await {
            Ok(found) => {
                silent = false;
                world.with(|w| {
                    for (n, id) in ids.iter().enumerate() {
                        if let Some(instance) = found.iter().find(|i| i.id == *id) {
                            w.follow_instance(n, instance);
                        }
                    }
                });
            }
            Err(error) => {
                if !silent {
                    tracing::warn!(%error, "the instances cannot be described; the nodes stay as they are until they can");
                }
                silent = true;
            }
        }
    }
}
