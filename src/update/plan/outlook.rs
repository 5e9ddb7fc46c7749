//! How long nodes will be out of service, and what else may come in between.

use std::collections::BTreeMap;

use super::check::{Scene, Verdict};
use crate::domain::ids::NodeName;
use crate::update::observed::{PastChange, Survey};

/// Predicted seconds out of service of each node, from past updates of the cluster: the median of its own, else of all nodes'.
pub fn exposure(survey: &Survey, nodes: &[NodeName]) -> BTreeMap<NodeName, f64> {
    let Ok(past) = &survey.past else { return BTreeMap::new() };
    let of = |keep: &dyn Fn(&PastChange) -> bool| {
        let mut seconds: Vec<f64> = past.iter().filter(|p| keep(p)).map(|p| p.out_of_service).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    };
    let all = of(&|_| true);
    let predicted = |n: &NodeName| Some((n.clone(), of(&|p| &p.node == n).or(all)?));
    nodes.iter().filter_map(predicted).collect()
}

pub(super) fn exposure_unknown(scene: &Scene<'_>) -> Verdict {
    let past = match &scene.survey.past {
        Err(why) => return Verdict::Unknown(why.clone()),
        Ok(past) if past.is_empty() => return Verdict::Unknown("no past update of this cluster in the store".into()),
        Ok(past) => past,
    };
    let predicted = exposure(scene.survey, &scene.order);
    let all: f64 = predicted.values().sum();
    let longest = predicted.values().copied().fold(0.0, f64::max);
    Verdict::Passed(format!(
        "one node short for {:.1} minutes in all, {:.1} at the longest, as in {} changes before",
        all / 60.0,
        longest / 60.0,
        past.len()
    ))
}

/// Names of tags by which people say what made an instance.
const MAKER_TAGS: [&str; 7] = ["managedby", "createdby", "provisioner", "provisionedby", "deployedby", "iac", "tool"];

/// What makes instances from a description.
const MAKERS: [&str; 6] = ["terraform", "opentofu", "pulumi", "cloudformation", "crossplane", "cdk"];

/// The tool that a tag names.
fn maker(key: &str, value: &str) -> Option<String> {
    if key.starts_with("aws:cloudformation:") {
        return Some("CloudFormation".into());
    }
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let value = value.to_ascii_lowercase();
    if plain.contains("terraform") {
        return (value != "false").then(|| "Terraform".into());
    }
    let named = MAKERS.iter().find(|m| value.contains(*m));
    named.filter(|_| MAKER_TAGS.contains(&plain.as_str())).map(|m| (*m).to_owned())
}

pub(super) fn infrastructure_as_code(scene: &Scene<'_>) -> Verdict {
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, member) in &scene.survey.members {
        let tags = member.instance.details.tags.iter();
        if let Some(tool) = tags.filter_map(|(k, v)| maker(k, v)).next() {
            found.entry(tool).or_default().push(name.as_str());
        }
    }
    if found.is_empty() {
        return Verdict::Passed("no tag names any".into());
    }
    let texts: Vec<String> = found.iter().map(|(tool, nodes)| format!("{} by {tool}", nodes.join(", "))).collect();
    Verdict::Failed(texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_makers() {
        let table = [
            ("aws:cloudformation:stack-name", "db", Some("CloudFormation")),
            ("Terraform", "true", Some("Terraform")),
            ("terraform-managed", "yes", Some("Terraform")),
            ("terraform", "false", None),
            ("managed_by", "OpenTofu 1.8", Some("opentofu")),
            ("Managed-By", "hand", None),
            ("Name", "terraform-box", None),
        ];
        for (key, value, tool) in table {
            assert_eq!(maker(key, value).as_deref(), tool, "{key}={value}");
        }
    }
}
