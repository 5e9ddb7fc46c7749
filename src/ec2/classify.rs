//! What a code of EC2 asks for.

use crate::domain::instance::lacks_capacity;
use crate::ports::CallClass;

/// The class of an EC2 error code, of an instance's state reason, or of one of our own codes. A code that is not listed is
/// [`CallClass::Terminal`]: repeating what is not understood is no cure.
///
/// The codes are those of EC2's error page and of the change-of-type pitfalls that its user guide lists.
pub fn classify(code: &str) -> CallClass {
    match code {
        // Throttling, the server's faults, and what the SDK or we say of a call that got no answer.
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "TooManyRequestsException"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "PriorRequestNotComplete"
        | "TransactionInProgressException"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalException"
        | "Server.InternalError"
        | "ServerInternal"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "Unavailable"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "RequestTimeTooSkewed"
        | "Timeout"
        | "Unreachable"
        | "Unreadable"
        // EC2 is eventually consistent: one "not found" is no proof that an instance is gone.
        | "InvalidInstanceID.NotFound" => CallClass::Retry,

        "IncorrectInstanceState" | "IncorrectState" | "IncorrectSpotRequestState" | "ResourceNotReady" => CallClass::Wait,

        _ if lacks_capacity(code) => CallClass::Capacity,

        // Rights and credentials, and what the owner of the account must settle with AWS.
        "UnauthorizedOperation"
        | "AuthFailure"
        | "AccessDenied"
        | "AccessDeniedException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "PendingVerification"
        | "Blocked"
        | "NoCredentials"
        | "NoRegion" => CallClass::Denied,

        // Terminal, named so that the table shows they were thought of.
        "VcpuLimitExceeded"
        | "InstanceLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "InsufficientFreeAddressesInSubnet"
        | "Unsupported"
        | "UnsupportedOperation"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "InvalidInstanceAttributeValue"
        | "InvalidInstanceType"
        | "InvalidInstanceID.Malformed"
        | "OperationNotPermitted"
        | "InvalidHostState"
        | "AttachmentLimitExceeded"
        | "DryRunOperation"
        | "Client.InternalError"
        | "Client.VolumeLimitExceeded"
        | "Client.InvalidSnapshot.NotFound"
        | "Client.UserInitiatedShutdown"
        | "Client.InstanceInitiatedShutdown"
        | "Server.ScheduledStop" => CallClass::Terminal,
        _ => CallClass::Terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CallClass::{Capacity, Denied, Retry, Terminal, Wait};

    #[test]
    fn table() {
        let rows: [(CallClass, &[&str]); 5] = [
            (
                Retry,
                &[
                    "RequestLimitExceeded",
                    "Throttling",
                    "InternalError",
                    "ServiceUnavailable",
                    "Unavailable",
                    "Server.InternalError",
                    "InvalidInstanceID.NotFound",
                    "Timeout",
                    "Unreachable",
                    "Unreadable",
                ],
            ),
            (Wait, &["IncorrectInstanceState", "IncorrectState"]),
            (
                Capacity,
                &[
                    "InsufficientInstanceCapacity",
                    "Server.InsufficientInstanceCapacity",
                    "InsufficientHostCapacity",
                    "ReservationCapacityExceeded",
                    "UnfulfillableCapacity",
                ],
            ),
            (
                Denied,
                &[
                    "UnauthorizedOperation",
                    "AuthFailure",
                    "ExpiredToken",
                    "RequestExpired",
                    "InvalidClientTokenId",
                    "SignatureDoesNotMatch",
                    "PendingVerification",
                    "OptInRequired",
                    "Blocked",
                    "NoCredentials",
                    "NoRegion",
                ],
            ),
            (
                Terminal,
                &[
                    "VcpuLimitExceeded",
                    "InstanceLimitExceeded",
                    "Unsupported",
                    "InvalidParameterValue",
                    "InvalidParameterCombination",
                    "OperationNotPermitted",
                    "InsufficientFreeAddressesInSubnet",
                    "MaxSpotInstanceCountExceeded",
                    "InvalidInstanceType",
                    "InvalidInstanceAttributeValue",
                    "Client.InternalError",
                    "Client.VolumeLimitExceeded",
                    "Client.InvalidSnapshot.NotFound",
                    "Client.UserInitiatedShutdown",
                    "Server.ScheduledStop",
                    "DryRunOperation",
                    "SomethingNew",
                    "",
                    "incorrectinstancestate",
                ],
            ),
        ];
        for (class, codes) in rows {
            for code in codes {
                assert_eq!(classify(code), class, "{code}");
            }
        }
    }
}
