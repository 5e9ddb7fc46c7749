//! What is wrong with a request itself, whatever the cluster.

use crate::domain::ids::InstanceType;
use crate::update::event::*;
use crate::update::window;

/// What is wrong with the request itself, whatever the cluster.
pub fn check_request(request: &UpdateRequested, allowed_types: &[String]) -> Vec<Reason> {
    let mut reasons = request.strategy.check(request);
    let wanted: Vec<&InstanceType> =
        request.target_instance_type.iter().chain(request.fallback_types.iter().flatten()).collect();
    for t in wanted {
        if !allowed_types.is_empty() && !allowed_types.iter().any(|pattern| matches_pattern(pattern, t.as_str())) {
            reasons.push(Reason {
                code: "typeNotAllowed".into(),
                found: t.to_string(),
                wanted: format!("a type matching one of {}", allowed_types.join(", ")),
                remedy: "ask for an allowed type, or widen allowed_types of the cluster in the worker's configuration"
                    .into(),
            });
        }
    }
    let mut unsupported = |set: bool, field: &str, instead: &str| {
        if set {
            reasons.push(Reason {
                code: "unsupportedField".into(),
                found: field.to_owned(),
                wanted: "a request this worker can obey to the letter".into(),
                remedy: instead.to_owned(),
            });
        }
    };
    unsupported(request.replicas_together == Some(true), "replicasTogether", "leave it out: replicas go one at a time");
    reasons.extend(request.window.iter().flat_map(window::check));
    let spent = request.resumes.iter().flatten().map(|r| ("spentSeconds", r.spent_seconds));
    let given =
        [("nodeTimeoutSeconds", request.node_timeout_seconds), ("dwellSeconds", request.dwell_seconds)].into_iter();
    for (name, value) in given.chain(spent) {
        if value.is_some_and(|v| !(0.0..=1e7).contains(&v)) {
            reasons.push(Reason {
                code: "badNumber".into(),
                found: format!("{name} {}", value.unwrap_or_default()),
                wanted: "seconds, from 0 to 10000000".into(),
                remedy: "ask again with such a number (`start --node-timeout-seconds`, `--dwell-seconds`)".into(),
            });
        }
    }
    reasons
}

/// Whether a type matches a pattern in which `*` stands for anything.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            rest.is_empty()
                || (0..=tail.len()).filter(|i| tail.is_char_boundary(*i)).any(|i| matches_pattern(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let rows = [
            ("m6i.large", "m6i.large", true),
            ("m6i.large", "m6i.xlarge", false),
            ("m6i.*", "m6i.large", true),
            ("m6i.*", "m6i.", true),
            ("m6i.*", "m6id.large", false),
            ("*.large", "m6i.large", true),
            ("*.large", "m6i.xlarge", false),
            ("m*.large", "m6i.large", true),
            ("m*.large", "m6i.largest", false),
            ("*", "", true),
            ("", "m6i.large", false),
        ];
        for (pattern, text, matches) in rows {
            assert_eq!(matches_pattern(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_obeyed_to_the_letter_is_refused_for_its_reason() {
        let of = |change: serde_json::Value| -> UpdateRequested {
            let mut request = serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge" });
            request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            serde_json::from_value(request).unwrap()
        };
        let rows = [
            (serde_json::json!({}), None),
            (serde_json::json!({ "targetInstanceType": "c6i.xlarge" }), Some("typeNotAllowed")),
            (serde_json::json!({ "fallbackTypes": ["m6i.large", "c6i.xlarge"] }), Some("typeNotAllowed")),
            (serde_json::json!({ "replicasTogether": true }), Some("unsupportedField")),
            (serde_json::json!({ "replicasTogether": false }), None),
            (serde_json::json!({ "dwellSeconds": 0, "nodeTimeoutSeconds": 1e7 }), None),
            (serde_json::json!({ "dwellSeconds": -1 }), Some("badNumber")),
            (serde_json::json!({ "nodeTimeoutSeconds": 1e8 }), Some("badNumber")),
            (serde_json::json!({ "resumes": [{ "node": "a", "spentSeconds": -1 }] }), Some("badNumber")),
        ];
        for (change, code) in rows {
            let found = check_request(&of(change.clone()), &["m6i.*".to_owned()]);
            assert_eq!(found.first().map(|r| r.code.as_str()), code, "{change}");
            assert!(found.len() <= 1, "{change}: {found:?}");
        }
        assert_eq!(check_request(&of(serde_json::json!({ "targetInstanceType": "c6i.xlarge" })), &[]), []);
    }
}
