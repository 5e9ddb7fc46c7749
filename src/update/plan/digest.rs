//! What a plan is told from another by.

use sha2::{Digest, Sha256};

use super::catalogue;
use crate::domain::ids::NodeName;
use crate::update::event::{CheckOutcome, PlannedCheck, PlannedMember, UpdateRequested};
use crate::update::strategy::Strategy;

/// Digest of what is done, with which other types, of members, order, and what was found wrong: the same from wherever one looks, until something changes. Numbers that move by
/// themselves, and what depends on who asks, are left out.
pub(super) fn digest(
    request: &UpdateRequested,
    members: &[PlannedMember],
    order: &[NodeName],
    checks: &[PlannedCheck],
) -> String {
    let mut hash = Sha256::new();
    let done = match request.strategy {
        Strategy::Ec2InstanceTypeUpdate => "type",
        Strategy::Ec2InstanceRestart => "restart",
    };
    hash.update(format!("{done}\n"));
    for t in request.fallback_types.iter().flatten() {
        hash.update(format!("or {t}\n"));
    }
    for m in members {
        let version = m.version.as_deref().unwrap_or("-");
        hash.update(format!(
            "{} {} {} {} {} {} {version}\n",
            m.node, m.address, m.role, m.instance, m.old_type, m.new_type
        ));
    }
    for n in order {
        hash.update(format!("{n}\n"));
    }
    let wrong = |c: &&PlannedCheck| {
        c.outcome == Some(CheckOutcome::Failed) && catalogue::find(&c.code).is_some_and(|known| known.digested)
    };
    for c in checks.iter().filter(wrong) {
        let node = c.node.as_ref().map_or("-", NodeName::as_str);
        hash.update(format!("{} {node} {}\n", c.code, c.found));
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}
