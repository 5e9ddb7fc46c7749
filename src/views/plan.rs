//! A plan before anything is done: checks, what is wrong first, and the steps in order.

use std::fmt;

use serde::Serialize;

use super::{columns, plain, short_seconds};
use crate::domain::ids::{Address, ClusterName, InstanceId, InstanceType, NodeName};
use crate::update::event::{CheckOutcome, PlannedCheck, Reason, Role, Severity, UpdateRequested};
use crate::update::plan::Assessment;
use crate::update::strategy::Strategy;

/// One node, in the order in which they will be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStep {
    /// The node.
    pub node: NodeName,
    /// Its role now.
    pub role: Role,
    /// Its instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// Its zone.
    pub zone: Option<String>,
    /// Its type now.
    pub from_type: InstanceType,
    /// Its type afterwards.
    pub to_type: InstanceType,
    /// Elections it will cause.
    pub elections: u32,
    /// Predicted time out of service, seconds; absent where nothing is known to predict it from.
    pub out_of_service_seconds: Option<f64>,
    /// Why nothing is to be done to it, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub already: Option<String>,
}

/// A plan, for people and scripts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// `ready`, `readyWithWarnings` or `refused`.
    pub verdict: &'static str,
    /// The cluster.
    pub cluster: ClusterName,
    /// What is done to each node.
    pub strategy: Strategy,
    /// The wanted type.
    pub target_instance_type: Option<InstanceType>,
    /// Digest of the plan; absent where there is none.
    pub digest: Option<String>,
    /// Voting nodes.
    pub voters: Option<u32>,
    /// The steps, in order.
    pub steps: Vec<PlannedStep>,
    /// Elections in all.
    pub elections: u32,
    /// Predicted time with one node less, seconds; absent where nothing is known to predict it from.
    pub exposure_seconds: Option<f64>,
    /// Why it is refused.
    pub reasons: Vec<Reason>,
    /// Every check, as it would be stored.
    pub checks: Vec<PlannedCheck>,
}

impl PlanView {
    /// The plan that an assessment amounts to. `refused`: what speaks against the request beside it.
    pub fn of(request: &UpdateRequested, found: &Assessment, refused: Vec<Reason>) -> Self {
        let mut reasons = refused;
        reasons.extend(found.reasons.iter().cloned());
        if found.reasons.is_empty() && !found.missing.is_empty() {
            reasons.push(Reason {
                code: "clusterNotObservable".into(),
                found: found.missing.join(", "),
                wanted: "an answer from every expected member and its instance".into(),
                remedy: "mend the cluster, or the way to it, and ask again".into(),
            });
        }
        let verdict = match (reasons.is_empty(), found.warnings().next().is_none()) {
            (false, _) => "refused",
            (true, false) => "readyWithWarnings",
            (true, true) => "ready",
        };
        let steps: Vec<PlannedStep> = steps(found);
        let exposure = steps.iter().map(|s| s.out_of_service_seconds).sum::<Option<f64>>();
        Self {
            verdict,
            cluster: request.cluster.clone(),
            strategy: request.strategy,
            target_instance_type: request.target_instance_type.clone(),
            digest: found.plan.as_ref().filter(|_| found.missing.is_empty()).map(|p| p.digest.clone()),
            voters: found.plan.as_ref().map(|p| p.voters.0),
            elections: steps.iter().map(|s| s.elections).sum(),
            exposure_seconds: exposure.filter(|_| !steps.is_empty()),
            steps,
            reasons,
            checks: found.checks.clone(),
        }
    }
}

fn steps(found: &Assessment) -> Vec<PlannedStep> {
    let member = |node: &NodeName| found.plan.iter().flat_map(|p| &p.members).find(|m| &m.node == node);
    let step = |s: &crate::update::plan::Step| {
        let m = member(&s.node)?;
        Some(PlannedStep {
            node: m.node.clone(),
            role: m.role,
            instance: m.instance.clone(),
            address: m.address.clone(),
            zone: m.zone.clone(),
            from_type: m.old_type.clone(),
            to_type: m.new_type.clone(),
            elections: s.elections,
            out_of_service_seconds: s.out_of_service,
            already: s.already.clone(),
        })
    };
    found.steps.iter().filter_map(step).collect()
}

/// How a check is told, worst first.
fn word(check: &PlannedCheck) -> (u8, &'static str) {
    let passed = check.outcome.is_none_or(|o| o == CheckOutcome::Passed);
    match (passed, check.waived_by.is_some(), check.severity) {
        (true, _, _) => (5, "passed"),
        (false, true, _) => (2, "WAIVED"),
        (false, false, Some(Severity::Refuse)) => (0, "REFUSED"),
        (false, false, Some(Severity::Warn) | None) => (1, "warning"),
        (false, false, Some(Severity::Info)) => (4, "note"),
    }
}

impl fmt::Display for PlanView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut checks: Vec<&PlannedCheck> = self.checks.iter().collect();
        checks.sort_by_key(|c| word(c).0);
        let beside = self.reasons.iter().filter(|r| !checks.iter().any(|c| c.code == r.code));
        for r in beside {
            writeln!(f, "REFUSED  {}: {}", plain(&r.code), plain(&r.found))?;
            writeln!(f, "         wanted: {}; {}", plain(&r.wanted), plain(&r.remedy))?;
        }
        for check in checks {
            let (_, word) = word(check);
            let unknown = if check.outcome == Some(CheckOutcome::Unknown) { "unknown: " } else { "" };
            writeln!(f, "{word:<7}  {}: {unknown}{}", plain(&check.code), plain(&check.found))?;
            if let (Some(by), why) = (&check.waived_by, check.why.as_deref().unwrap_or("no reason given")) {
                let until = check.until.map(|at| format!(", until {at}")).unwrap_or_default();
                writeln!(f, "         waived by {}: {}{until}", plain(by), plain(why))?;
            } else if let (Some(wanted), Some(remedy)) = (&check.wanted, &check.remedy) {
                writeln!(f, "         wanted: {}; {}", plain(wanted), plain(remedy))?;
            }
        }
        if !self.steps.is_empty() {
            writeln!(f)?;
            let mut rows = vec![
                ["STEP", "NODE", "ROLE", "INSTANCE", "ZONE", "TYPE", "ELECTIONS", "OUT OF SERVICE"]
                    .map(String::from)
                    .to_vec(),
            ];
            for (n, s) in self.steps.iter().enumerate() {
                let types = match &s.already {
                    Some(why) => format!("{} ({why})", s.from_type),
                    None if s.from_type == s.to_type => s.from_type.to_string(),
                    None => format!("{} → {}", s.from_type, s.to_type),
                };
                rows.push(vec![
                    (n + 1).to_string(),
                    s.node.to_string(),
                    s.role.to_string(),
                    s.instance.to_string(),
                    s.zone.clone().unwrap_or_else(|| "?".into()),
                    types,
                    s.elections.to_string(),
                    s.out_of_service_seconds.map_or("unknown".into(), |s| format!("about {}", short_seconds(s))),
                ]);
            }
            f.write_str(&columns(&rows))?;
            let exposure = self.exposure_seconds.map_or("unknown".into(), |s| format!("about {}", short_seconds(s)));
            writeln!(f, "elections: {}; one node less for: {exposure}", self.elections)?;
        }
        if let Some(digest) = &self.digest {
            writeln!(f, "digest: {digest}")?;
        }
        writeln!(
            f,
            "{}",
            match self.verdict {
                "ready" => "ready",
                "refused" => "REFUSED",
                _ => "ready, with warnings",
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::request;
    use super::*;

    fn check(code: &str, outcome: CheckOutcome, severity: Severity) -> PlannedCheck {
        let (wanted, remedy) = (Some("better".into()), Some("mend it".into()));
        let (outcome, severity) = (Some(outcome), Some(severity));
        PlannedCheck {
            code: code.into(),
            found: "x".into(),
            outcome,
            severity,
            wanted,
            remedy,
            ..PlannedCheck::default()
        }
    }

    fn found(checks: Vec<PlannedCheck>) -> Assessment {
        Assessment { checks, reasons: vec![], missing: vec![], plan: None, steps: vec![], cluster_id: String::new() }
    }

    #[test]
    fn what_is_wrong_comes_first_with_its_remedy_and_waivers_are_told() {
        let mut waived = check("stopProtection", CheckOutcome::Failed, Severity::Refuse);
        (waived.waived_by, waived.why) = (Some("ada".into()), Some("lifted at noon".into()));
        let checks = vec![
            check("ownMachine", CheckOutcome::Passed, Severity::Refuse),
            check("exposure", CheckOutcome::Unknown, Severity::Info),
            waived,
            check("vcpuQuota", CheckOutcome::Unknown, Severity::Warn),
            check("spotInstance", CheckOutcome::Failed, Severity::Refuse),
        ];
        let view = PlanView::of(&request(), &found(checks), vec![]);
        assert_eq!(
            view.to_string(),
            "\
REFUSED  spotInstance: x
         wanted: better; mend it
warning  vcpuQuota: unknown: x
         wanted: better; mend it
WAIVED   stopProtection: x
         waived by ada: lifted at noon
note     exposure: unknown: x
         wanted: better; mend it
passed   ownMachine: x
         wanted: better; mend it
ready, with warnings
"
        );
    }

    #[test]
    fn verdicts() {
        let passed = || vec![check("ownMachine", CheckOutcome::Passed, Severity::Refuse)];
        let warned = vec![check("vcpuQuota", CheckOutcome::Unknown, Severity::Warn)];
        assert_eq!(PlanView::of(&request(), &found(passed()), vec![]).verdict, "ready");
        assert_eq!(PlanView::of(&request(), &found(warned), vec![]).verdict, "readyWithWarnings");
        let unseen = Assessment { missing: vec!["esdb-1 has not answered".into()], ..found(passed()) };
        let view = PlanView::of(&request(), &unseen, vec![]);
        assert_eq!((view.verdict, view.reasons[0].code.as_str()), ("refused", "clusterNotObservable"));
        assert!(view.to_string().starts_with("REFUSED  clusterNotObservable: esdb-1 has not answered\n"));
        let reason = |code: &str| Reason { code: code.into(), ..view.reasons[0].clone() };
        let codes: Vec<String> = PlanView::of(&request(), &unseen, vec![reason("clusterBusy")])
            .reasons
            .into_iter()
            .map(|r| r.code)
            .collect();
        assert_eq!(codes, ["clusterBusy", "clusterNotObservable"], "the one does not hide the other");
    }
}
