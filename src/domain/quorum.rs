//! Arithmetic of majorities. Read-only replicas never count.

use serde::{Deserialize, Serialize};

/// Number of voting nodes a cluster is configured with (`ClusterSize`): never counted from gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Voters(pub u32);

impl Voters {
    /// Voters that must be up for writes to be acknowledged.
    pub fn majority(self) -> u32 {
        self.0 / 2 + 1
    }

    /// Whether `up` voters are a majority of all.
    pub fn is_majority(self, up: usize) -> bool {
        up >= self.majority() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_of_small_clusters() {
        let table = [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)];
        for (voters, majority) in table {
            assert_eq!(Voters(voters).majority(), majority, "{voters} voters");
            assert!(!Voters(voters).is_majority(majority as usize - 1));
            assert!(Voters(voters).is_majority(majority as usize));
        }
    }
}
