//! EC2's words: what each code asks for, and who stopped an instance. No type of AWS: the simulation, the decisions and the adapter read the
//! same list, and `docs/ec2-failures.md` tells of each of its codes.

use super::instance::Instance;

/// What an EC2 error asks for. Decided by code, never by text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallClass {
    /// Transient, and nothing was done: throttling, an instance not known yet. The same call may succeed.
    Retry,
    /// A fault on the server's side, or no answer that can be read: the call may have been carried out.
    Unknown,
    /// The instance is not in the state the call needs: describe it again, and wait.
    Wait,
    /// No capacity for the type now: it may come, or another type may do.
    Capacity,
    /// This call with these arguments will not succeed.
    Terminal,
    /// The call is not allowed: a person must grant the right.
    Denied,
    /// Credentials that are missing, expired or not accepted: every call fails until they are renewed, and none for another reason.
    Unauthenticated,
}

/// Every code that is known by name: of a call, as an instance's state reason (with a dot), or one of our own for a call without an answer.
pub const CODES: &[(&str, CallClass)] = {
    use CallClass::*;
    &[
        ("RequestLimitExceeded", Retry),
        ("Throttling", Retry),
        ("ThrottlingException", Retry),
        ("ThrottledException", Retry),
        ("RequestThrottled", Retry),
        ("RequestThrottledException", Retry),
        ("EC2ThrottledException", Retry),
        ("TooManyRequestsException", Retry),
        ("SlowDown", Retry),
        ("BandwidthLimitExceeded", Retry),
        ("PriorRequestNotComplete", Retry),
        ("TransactionInProgressException", Retry),
        // Somebody else changes tags of the same instance at this moment.
        ("ConcurrentTagAccess", Retry),
        ("InternalError", Unknown),
        ("InternalFailure", Unknown),
        ("InternalServerError", Unknown),
        ("InternalException", Unknown),
        ("Server.InternalError", Retry),
        ("ServerInternal", Unknown),
        ("ServiceUnavailable", Unknown),
        ("ServiceUnavailableException", Unknown),
        ("Unavailable", Unknown),
        ("RequestTimeout", Unknown),
        ("RequestTimeoutException", Unknown),
        ("RequestTimeTooSkewed", Retry),
        ("Timeout", Unknown),
        ("Unreachable", Unknown),
        ("Unreadable", Unknown),
        ("NoCode", Unknown),
        ("startDidNotHappen", Retry),
        // EC2 is eventually consistent: one "not found" is no proof that an instance is gone.
        ("InvalidInstanceID.NotFound", Retry),
        ("IncorrectInstanceState", Wait),
        ("InvalidInstanceState", Wait),
        ("IncorrectState", Wait),
        ("IncorrectSpotRequestState", Wait),
        ("ResourceNotReady", Wait),
        ("InsufficientInstanceCapacity", Capacity),
        ("Server.InsufficientInstanceCapacity", Capacity),
        ("InsufficientCapacity", Capacity),
        ("InsufficientCapacityOnHost", Capacity),
        ("InsufficientHostCapacity", Capacity),
        ("InsufficientReservedInstanceCapacity", Capacity),
        ("UnfulfillableCapacity", Capacity),
        ("InsufficientAddressCapacity", Capacity),
        ("ReservationCapacityExceeded", Capacity),
        ("UnauthorizedOperation", Denied),
        ("AccessDenied", Denied),
        ("AccessDeniedException", Denied),
        ("NotAuthorized", Denied),
        // What the owner of the account must settle with AWS.
        ("OptInRequired", Denied),
        ("PendingVerification", Denied),
        ("Blocked", Denied),
        ("AuthFailure", Unauthenticated),
        ("ExpiredToken", Unauthenticated),
        ("ExpiredTokenException", Unauthenticated),
        ("RequestExpired", Unauthenticated),
        ("InvalidClientTokenId", Unauthenticated),
        ("InvalidAccessKeyId", Unauthenticated),
        ("UnrecognizedClientException", Unauthenticated),
        ("SignatureDoesNotMatch", Unauthenticated),
        ("IncompleteSignature", Unauthenticated),
        ("MissingAuthenticationToken", Unauthenticated),
        ("NoCredentials", Unauthenticated),
        ("NoRegion", Unauthenticated),
        // What is not listed is terminal, too; these were thought of.
        ("VcpuLimitExceeded", Terminal),
        ("InstanceLimitExceeded", Terminal),
        ("MaxSpotInstanceCountExceeded", Terminal),
        ("InsufficientFreeAddressesInSubnet", Terminal),
        ("Unsupported", Terminal),
        ("UnsupportedOperation", Terminal),
        ("InvalidParameterValue", Terminal),
        ("InvalidParameterCombination", Terminal),
        ("InvalidInstanceAttributeValue", Terminal),
        ("InvalidInstanceType", Terminal),
        ("InvalidInstanceID.Malformed", Terminal),
        ("OperationNotPermitted", Terminal),
        ("InvalidHostState", Terminal),
        ("AttachmentLimitExceeded", Terminal),
        ("TagLimitExceeded", Terminal),
        ("TagPolicyViolation", Terminal),
        ("DryRunOperation", Terminal),
        ("typeNotModified", Terminal),
        ("Client.InternalError", Terminal),
        ("Client.VolumeLimitExceeded", Terminal),
        ("Client.InvalidSnapshot.NotFound", Terminal),
    ]
};

/// State reasons of an instance that somebody stopped or ended, and what they tell of whom. EC2 names no person: that only CloudTrail does.
pub const STOPPED_BY: &[(&str, &str)] = &[
    ("Client.UserInitiatedShutdown", "somebody with rights in the account stopped it, by the API or the console"),
    ("Client.UserInitiatedHibernate", "somebody with rights in the account hibernated it"),
    ("Client.InstanceInitiatedShutdown", "its operating system was shut down from inside"),
    ("Client.InstanceTerminated", "it was terminated: instanceInitiatedShutdownBehavior, or a program of its own"),
    ("Server.ScheduledStop", "AWS stopped it for a scheduled event"),
    ("Server.SpotInstanceShutdown", "AWS took the Spot instance back"),
    ("Server.SpotInstanceTermination", "AWS took the Spot instance back"),
];

/// The class of a code. One that is not listed is [`CallClass::Terminal`]: repeating what is not understood is no cure. A state reason of the
/// server's side that is not listed is what its code is of a call.
pub fn classify(code: &str) -> CallClass {
    let listed = |code: &str| CODES.iter().find(|(known, _)| *known == code).map(|(_, class)| *class);
    let of_server = || code.strip_prefix("Server.").and_then(listed);
    listed(code).or_else(of_server).unwrap_or(CallClass::Terminal)
}

/// Whether a code says that there is no capacity for the type now.
pub fn lacks_capacity(code: &str) -> bool {
    classify(code) == CallClass::Capacity
}

/// Whether what a code says may be over in a while, without anybody's doing.
pub fn may_pass(code: &str) -> bool {
    match classify(code) {
        CallClass::Retry | CallClass::Unknown | CallClass::Wait | CallClass::Capacity => true,
        CallClass::Terminal | CallClass::Denied | CallClass::Unauthenticated => false,
    }
}

/// Who stopped an instance, as far as its state reason tells.
pub fn stopped_by(reason: &str) -> Option<&'static str> {
    STOPPED_BY.iter().find(|(code, _)| *code == reason).map(|(_, who)| *who)
}

/// State of an instance that nobody of ours stopped, and everything that EC2 itself tells about who did.
pub fn attributed(instance: &Instance) -> String {
    let reason = instance.state_reason.as_deref();
    let who = reason.and_then(stopped_by).unwrap_or("EC2 does not say by whom");
    let words: Vec<&str> = reason.into_iter().chain(instance.transition_reason.as_deref()).collect();
    let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) };
    format!("{}: {who}{words}", instance.state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::instance::tests::stopped_instance;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_is_listed_once_and_what_is_not_listed_is_terminal() {
        let names: Vec<&str> = CODES.iter().map(|(c, _)| *c).chain(STOPPED_BY.iter().map(|(c, _)| *c)).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for unknown in ["SomethingNew", "", "incorrectinstancestate", "Client.InsufficientInstanceCapacity"] {
            assert_eq!(classify(unknown), CallClass::Terminal, "{unknown}");
        }
        assert_eq!(classify("Server.InsufficientHostCapacity"), CallClass::Capacity);
        // The same word on the other side is another thing: a key that may not be used, and EC2's own fault.
        assert_eq!(
            (classify("Client.InternalError"), classify("InternalError")),
            (CallClass::Terminal, CallClass::Unknown)
        );
    }

    #[test]
    fn what_nobody_needs_to_mend_may_pass() {
        for code in ["RequestLimitExceeded", "InternalError", "InsufficientInstanceCapacity", "IncorrectInstanceState"]
        {
            assert!(may_pass(code), "{code}");
        }
        for code in ["UnauthorizedOperation", "AuthFailure", "Unsupported", "SomethingNew"] {
            assert!(!may_pass(code), "{code}");
        }
        let lacking = ["InsufficientInstanceCapacity", "VcpuLimitExceeded", "InternalError"].map(lacks_capacity);
        assert_eq!(lacking, [true, false, false]);
    }

    #[test]
    fn who_stopped_an_instance_is_said_as_far_as_ec2_tells() {
        for (code, who) in STOPPED_BY {
            assert_eq!(stopped_by(code), Some(*who), "{code}");
        }
        assert_eq!(stopped_by("Server.InternalError"), None);
        let said = |reason: Option<&str>, transition: Option<&str>| {
            attributed(&Instance {
                state_reason: reason.map(str::to_owned),
                transition_reason: transition.map(str::to_owned),
                ..stopped_instance()
            })
        };
        assert_eq!(said(None, None), "stopped: EC2 does not say by whom");
        assert_eq!(
            said(Some("Server.ScheduledStop"), Some("at night")),
            "stopped: AWS stopped it for a scheduled event (Server.ScheduledStop; at night)"
        );
        assert_eq!(said(Some("New.Reason"), None), "stopped: EC2 does not say by whom (New.Reason)");
    }
}
