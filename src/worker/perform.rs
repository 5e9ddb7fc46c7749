//! Makes one call and says what became of it.

use crate::ports::{CallClass, ClusterAdmin, Fleet, FleetError, NodeError};
use crate::update::action::{Again, Call, CallOutcome};
use crate::update::limits::{EC2_CALL_TIMEOUT, NODE_CALL_TIMEOUT};

/// Makes the call, within its time-out.
pub(super) async fn perform(call: &Call, admin: &dyn ClusterAdmin, fleet: &dyn Fleet) -> CallOutcome {
    match call {
        Call::SetPriority { address, priority } => node(admin.set_priority(address, *priority)).await,
        Call::Resign { address } => node(admin.resign(address)).await,
        Call::StopInstance { instance } => ec2(fleet.stop(instance)).await,
        Call::ModifyType { instance, to } => ec2(fleet.modify_type(instance, to)).await,
        Call::StartInstance { instance } => ec2(fleet.start(instance)).await,
        Call::RebootInstance { instance } => ec2(fleet.reboot(instance)).await,
        Call::Tag { instance, value } => ec2(fleet.tag(instance, value)).await,
        Call::Untag { instance, value } => ec2(fleet.untag(instance, value)).await,
    }
}

async fn node(call: impl Future<Output = Result<(), NodeError>>) -> CallOutcome {
    match tokio::time::timeout(NODE_CALL_TIMEOUT, call).await {
        Ok(Ok(())) => CallOutcome::Accepted { request_id: None },
        Ok(Err(error)) => {
            let message = error.to_string();
            match error {
                NodeError::Refused { .. } => {
                    CallOutcome::Refused { code: "refused".into(), message, again: Again::Soon }
                }
                NodeError::Tls { .. } => {
                    CallOutcome::Refused { code: "tls".into(), message, again: Again::AfterMending }
                }
                NodeError::TimedOut { .. } | NodeError::Other { .. } => CallOutcome::Unknown { message },
                NodeError::Status { status, .. } => CallOutcome::Refused {
                    code: format!("http{status}"),
                    message,
                    again: match status {
                        401 | 403 => Again::AfterMending,
                        400..=499 => Again::Never,
                        _ => Again::Soon,
                    },
                },
            }
        }
        Err(_) => CallOutcome::Unknown { message: format!("no answer within {} s", NODE_CALL_TIMEOUT.as_secs()) },
    }
}

async fn ec2(call: impl Future<Output = Result<crate::ports::Done, FleetError>>) -> CallOutcome {
    match tokio::time::timeout(EC2_CALL_TIMEOUT, call).await {
        Ok(Ok(done)) => CallOutcome::Accepted { request_id: done.request_id },
        Ok(Err(error)) => {
            let again = match error.class {
                // No answer is no refusal, nor is a fault.
                CallClass::Unknown => return CallOutcome::Unknown { message: error.to_string() },
                CallClass::Retry | CallClass::Wait => Again::Soon,
                CallClass::Capacity => Again::WithCapacity,
                CallClass::Terminal => Again::Never,
                CallClass::Denied | CallClass::Unauthenticated => Again::AfterMending,
            };
            CallOutcome::Refused { code: error.code, message: error.message, again }
        }
        Err(_) => {
            CallOutcome::Unknown { message: format!("EC2 did not answer within {} s", EC2_CALL_TIMEOUT.as_secs()) }
        }
    }
}
