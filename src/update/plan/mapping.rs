//! Which instance belongs to which node, and whether the node is found again after a stop.

use super::check::{OneNode, Scene, Verdict};

pub(super) fn own_machine(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match node.member.is_own_machine {
        Some(true) => Verdict::Failed(format!("{} runs on {}, as this worker does", node.name, node.instance.id)),
        Some(false) => Verdict::Passed("another machine than this worker's".into()),
        None => Verdict::Unknown(format!(
            "this worker runs on an instance, and nothing tells whether on {} of {}; `worker --own-instance` does",
            node.instance.id, node.name
        )),
    }
}

/// A stop takes a public address away, unless it is an Elastic one; whoever gossips it is not found again.
pub(super) fn public_address(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let host = &node.member.address.host;
    match node.instance.details.public_ip {
        None => Verdict::Passed("no public address".into()),
        Some(ip) if node.instance.details.elastic_ip => Verdict::Passed(format!("{ip} is an Elastic IP")),
        // Seen from inside, the name resolves to the private address.
        Some(ip) if node.instance.details.public_dns.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host)) => {
            Verdict::Failed(format!(
                "{} gossips {host}, the name of the public address {ip}: a stop takes both away",
                node.name
            ))
        }
        Some(ip) if node.member.resolved.is_empty() => Verdict::Unknown(format!(
            "{} has the public address {ip}, and what {host} resolves to cannot be seen from here",
            node.name
        )),
        Some(ip) => {
            let gossiped = node.member.resolved.contains(&ip);
            let found = if gossiped {
                format!("{} gossips {host}, the public address {ip} that a stop takes away", node.name)
            } else {
                "gossip does not use the public address".to_owned()
            };
            Verdict::failed_if(gossiped, found)
        }
    }
}
