//! The machine that this worker runs on: it must not stop that one.

use std::net::{IpAddr, UdpSocket};

use crate::domain::instance::Instance;
use crate::ports::Fleet;

/// Whether an instance is the machine that this worker runs on: by its id, where that is known, else by its addresses. `None` where neither
/// tells, and the worker runs on some instance: in a container with a network of its own, the machine's addresses are not seen.
pub(super) fn is_own_machine(fleet: &dyn Fleet, instance: &Instance) -> Option<bool> {
    match fleet.own_instance() {
        Some(own) => Some(*own == instance.id),
        None if instance.addresses().any(is_own_address) => Some(true),
        None if fleet.runs_on_some_instance() => None,
        None => Some(false),
    }
}

/// Whether an address belongs to this machine: then a socket can be bound to it. Loopback belongs to every machine and proves nothing.
fn is_own_address(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok()
}
