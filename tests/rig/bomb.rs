//! A worker that dies at one of its appends and calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::Rig;
use super::tap::{Kind, Tap, tapped};

/// Whether the process dies before the call leaves it, or after its effect and before it hears of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Before,
    After,
}

/// Counts appends to streams of updates and admissions, and calls that change something, and dies at one of them.
pub struct Bomb {
    count: AtomicUsize,
    at: usize,
    when: When,
    pub gone: Notify,
}

/// The number of what is not counted.
const UNCOUNTED: usize = usize::MAX;

impl Bomb {
    pub fn new(at: usize, when: When) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), at, when, gone: Notify::new() })
    }

    async fn goes_off(&self) {
        self.gone.notify_one();
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Tap for Bomb {
    async fn before(&self, kind: Kind, to: &str) -> usize {
        let counted = match kind {
            Kind::Append => to.starts_with("clusterUpdate-") || to.starts_with("updatedCluster-"),
            Kind::NodeChange | Kind::Ec2Change => true,
            Kind::Read | Kind::Subscribe | Kind::Node | Kind::Ec2 => false,
        };
        if !counted {
            return UNCOUNTED;
        }
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        if number == self.at && self.when == When::Before {
            self.goes_off().await;
        }
        number
    }

    async fn after(&self, number: usize) {
        if number == self.at {
            self.goes_off().await;
        }
    }
}

pub fn mined(rig: &Rig, bomb: &Arc<Bomb>) -> Rig {
    tapped(rig, bomb.clone())
}
