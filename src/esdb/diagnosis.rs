//! Why the store does not serve us, where the client library does not tell: it says that no node was found where a certificate was
//! not accepted, and that access was denied where the password is wrong.

use futures::future::join_all;

use super::HttpAdmin;
use crate::domain::ids::Address;
use crate::ports::NodeError;

/// Asks each of the store's hosts, as the store's user. Says what is wrong with TLS or the user, if something is; takes as long as one call
/// of `nodes`.
pub(super) async fn of(nodes: &HttpAdmin, hosts: &[Address]) -> Option<String> {
    let answers = join_all(hosts.iter().map(|host| nodes.check_user(host))).await;
    answers.into_iter().find_map(|answer| match answer {
        Ok(()) => None,
        Err(error @ NodeError::Tls { .. }) => Some(format!(
            "{error}; give the CA that signed the nodes' certificates (ca_file), and call each node by a name that its certificate holds"
        )),
        Err(NodeError::Status { node, status: 401, .. }) => {
            Some(format!("{node} does not know this user with this password; correct the credentials"))
        }
        Err(
            NodeError::Refused { .. } | NodeError::TimedOut { .. } | NodeError::Status { .. } | NodeError::Other { .. },
        ) => None,
    })
}
