//! EC2's Query API, version 2016-11-15: a form goes in, XML comes out. Nobody's signature is checked.

use std::collections::BTreeSet;

use axum::extract::{RawForm, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use uuid::Uuid;

use super::ec2_facts;
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::instance::{Instance, InstanceState};
use crate::sim::model::Ec2Fault;
use crate::sim::world::{SimWorld, StateChange, World};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
pub(super) const OWNER: &str = "123456789012";
/// The world begins with all instances up; EC2 wants a time for that.
const LAUNCHED: &str = "2026-01-01T00:00:00.000Z";

/// Serves EC2 of this world.
pub(super) fn router(world: SimWorld) -> Router {
    Router::new().route("/", routing::get(query).post(query)).with_state(world)
}

async fn query(State(world): State<SimWorld>, RawForm(form): RawForm) -> Response {
    let parameters = Parameters::parse(&form);
    let request = request_id();
    let action = parameters.get("Action").unwrap_or_default().to_owned();
    let (status, body) = match world.with(|w| perform(w, &action, &parameters)) {
        Ok(inside) => {
            let body = element(
                &format!("{action}Response xmlns=\"{NAMESPACE}\""),
                &format!("<requestId>{request}</requestId>{inside}"),
            );
            (StatusCode::OK, body)
        }
        Err(fault) => {
            let what = text("Code", &fault.code) + &text("Message", &fault.message);
            let body = element(
                "Response",
                &(element("Errors", &element("Error", &what)) + &element("RequestID", &request.to_string())),
            );
            (status_of(&fault.code), body)
        }
    };
    (status, [(CONTENT_TYPE, "text/xml;charset=UTF-8")], format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}"))
        .into_response()
}

#[expect(clippy::disallowed_methods, reason = "an id that only this answer carries")]
fn request_id() -> Uuid {
    Uuid::new_v4()
}

/// The HTTP status that goes with a code.
fn status_of(code: &str) -> StatusCode {
    match code {
        "RequestLimitExceeded" | "ServiceUnavailable" | "Unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "InternalError"
        | "InternalFailure"
        | "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientCapacity" => StatusCode::INTERNAL_SERVER_ERROR,
        "DryRunOperation" => StatusCode::PRECONDITION_FAILED,
        "UnauthorizedOperation" => StatusCode::FORBIDDEN,
        "AuthFailure" => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_REQUEST,
    }
}

pub(super) fn fault(code: &str, message: impl Into<String>) -> Ec2Fault {
    Ec2Fault { code: code.to_owned(), message: message.into() }
}

fn perform(world: &mut World, action: &str, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let dry = match action {
        "DescribeInstances"
        | "StopInstances"
        | "StartInstances"
        | "RebootInstances"
        | "ModifyInstanceAttribute"
        | "CreateTags"
        | "DeleteTags"
        | "DescribeInstanceAttribute"
        | "DescribeInstanceStatus"
        | "DescribeVolumes"
        | "DescribeInstanceTypes"
        | "DescribeInstanceTypeOfferings" => parameters.flag("DryRun"),
        "" => return Err(fault("MissingAction", "The request must contain the parameter Action")),
        _ => return Err(fault("InvalidAction", format!("The action {action} is not valid for this web service."))),
    };
    if dry {
        let types: Vec<InstanceType> = match action {
            "ModifyInstanceAttribute" => vec![wanted_type(parameters)?],
            _ => Vec::new(),
        };
        let named = parameters.get("InstanceId").map(str::to_owned);
        let ids: Vec<InstanceId> = match action {
            "CreateTags" | "DeleteTags" => parameters.list("ResourceId"),
            _ => named.into_iter().chain(parameters.list("InstanceId")).collect(),
        }
        .into_iter()
        .map(InstanceId)
        .collect();
        return world.dry_run(action, &ids, &types.iter().collect::<Vec<_>>()).map(|()| String::new());
    }
    match action {
        "DescribeInstances" => describe_instances(world, parameters),
        "StopInstances" => Ok(state_changes(&world.stop_instances(&parameters.instances()?)?)),
        "StartInstances" => Ok(state_changes(&world.start_instances(&parameters.instances()?)?)),
        "RebootInstances" => {
            for id in parameters.instances()? {
                world.reboot_instance(&id)?;
            }
            Ok(text("return", "true"))
        }
        "ModifyInstanceAttribute" => modify_instance_attribute(world, parameters),
        "CreateTags" => create_tags(world, parameters),
        "DeleteTags" => delete_tags(world, parameters),
        "DescribeInstanceAttribute" => ec2_facts::instance_attribute(world, parameters),
        "DescribeInstanceStatus" => ec2_facts::instance_status(world, parameters),
        "DescribeVolumes" => ec2_facts::volumes(world, parameters),
        "DescribeInstanceTypes" => describe_instance_types(world, parameters),
        _ => describe_instance_type_offerings(world, parameters),
    }
}

/// Keys, each with its value if it was given one.
type Tags = Vec<(String, Option<String>)>;

/// The fields of a form, in their order.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(form: &[u8]) -> Parameters {
        let decoded = |part: &[u8]| {
            let mut bytes = Vec::with_capacity(part.len());
            let mut rest = part;
            while let Some((&first, tail)) = rest.split_first() {
                let hex = tail
                    .get(..2)
                    .and_then(|h| std::str::from_utf8(h).ok())
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                match (first, hex) {
                    (b'%', Some(byte)) => {
                        bytes.push(byte);
                        rest = &tail[2..];
                        continue;
                    }
                    (b'+', _) => bytes.push(b' '),
                    (other, _) => bytes.push(other),
                }
                rest = tail;
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let pairs = form.split(|&b| b == b'&').filter(|pair| !pair.is_empty());
        Parameters(
            pairs
                .map(|pair| {
                    let at = pair.iter().position(|&b| b == b'=').unwrap_or(pair.len());
                    (decoded(&pair[..at]), decoded(pair.get(at + 1..).unwrap_or_default()))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// The values of `name.1`, `name.2`, ….
    fn list(&self, name: &str) -> Vec<String> {
        (1..).map_while(|i| self.get(&format!("{name}.{i}"))).map(str::to_owned).collect()
    }

    /// The resources of a request about tags, and its tags: instances are the only resources here.
    fn tagged(&self) -> Result<(Vec<InstanceId>, Tags), Ec2Fault> {
        let ids: Vec<InstanceId> = self.list("ResourceId").into_iter().map(InstanceId).collect();
        if ids.is_empty() {
            return Err(fault("MissingParameter", "The request must contain the parameter resourceIdSet"));
        }
        let tag = |i: usize| {
            let key = self.get(&format!("Tag.{i}.Key"))?.to_owned();
            Some((key, self.get(&format!("Tag.{i}.Value")).map(str::to_owned)))
        };
        let tags: Tags = (1..).map_while(tag).collect();
        if let Some((key, _)) = tags.iter().find(|(key, _)| key.starts_with("aws:")) {
            let message = format!("Tag keys starting with 'aws:' are reserved for internal use: {key}");
            return Err(fault("InvalidParameterValue", message));
        }
        Ok((ids, tags))
    }

    /// The instances of a request that must name some.
    pub(super) fn instances(&self) -> Result<Vec<InstanceId>, Ec2Fault> {
        let ids: Vec<InstanceId> = self.list("InstanceId").into_iter().map(InstanceId).collect();
        if ids.is_empty() {
            Err(fault("MissingParameter", "The request must contain the parameter InstanceId"))
        } else {
            Ok(ids)
        }
    }

    /// The filters: each a name and the values of which one must hold.
    pub(super) fn filters(&self) -> Vec<(String, Vec<String>)> {
        (1..)
            .map_while(|i| {
                Some((self.get(&format!("Filter.{i}.Name"))?.to_owned(), self.list(&format!("Filter.{i}.Value"))))
            })
            .collect()
    }
}

fn describe_instances(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let ids: Vec<InstanceId> = parameters.list("InstanceId").into_iter().map(InstanceId).collect();
    if !ids.is_empty() && parameters.get("MaxResults").is_some() {
        return Err(fault(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        ));
    }
    let filters = parameters.filters();
    let mut found = Vec::new();
    for instance in world.describe_instances(&ids)? {
        if matches_all(&instance, &filters)? {
            found.push(instance);
        }
    }
    let (page, next) = paged(&found, parameters)?;
    let mut set = String::new();
    for i in page {
        let reservation =
            text("reservationId", &i.id.0.replacen("i-", "r-", 1)) + &text("ownerId", OWNER) + "<groupSet/>";
        set += &element("item", &(reservation + &element("instancesSet", &element("item", &instance(i)))));
    }
    Ok(element("reservationSet", &set) + &next)
}

/// A page of a list, and the element that names the next one.
pub(super) fn paged<'a, T>(all: &'a [T], parameters: &Parameters) -> Result<(&'a [T], String), Ec2Fault> {
    let number = |name: &str| {
        parameters
            .get(name)
            .map(str::parse::<usize>)
            .transpose()
            .map_err(|_| fault("InvalidParameterValue", format!("Invalid value for {name}.")))
    };
    let start = number("NextToken")?.unwrap_or(0).min(all.len());
    let end = number("MaxResults")?.map_or(all.len(), |most| (start + most.max(1)).min(all.len()));
    let next = if end < all.len() { text("nextToken", &end.to_string()) } else { String::new() };
    Ok((&all[start..end], next))
}

fn matches_all(instance: &Instance, filters: &[(String, Vec<String>)]) -> Result<bool, Ec2Fault> {
    for (name, wanted) in filters {
        let ip = || instance.private_ip.map(|ip| ip.to_string());
        let actual = match name.as_str() {
            "instance-id" => Some(instance.id.0.clone()),
            "instance-type" => Some(instance.instance_type.0.clone()),
            "instance-state-name" => Some(instance.state.to_string()),
            "private-ip-address" => ip(),
            "network-interface.addresses.private-ip-address" | "network-interface.ipv6-addresses.ipv6-address" => {
                let v6 = name.contains("ipv6");
                let mut own = instance.addresses().filter(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string());
                if !own.any(|ip| wanted.iter().any(|w| like(w, &ip))) {
                    return Ok(false);
                }
                continue;
            }
            "private-dns-name" | "network-interface.private-dns-name" => instance.private_dns.clone(),
            "availability-zone" => instance.zone.clone(),
            "tag-key" => {
                if !tags(instance).iter().any(|(key, _)| wanted.iter().any(|w| like(w, key))) {
                    return Ok(false);
                }
                continue;
            }
            _ => match name.strip_prefix("tag:") {
                Some(key) => tags(instance).into_iter().find(|(k, _)| *k == key).map(|(_, value)| value),
                None => return Err(fault("InvalidParameterValue", format!("The filter '{name}' is invalid"))),
            },
        };
        if !actual.is_some_and(|actual| wanted.iter().any(|w| like(w, &actual))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a text is as a filter's value says: `*` stands for any text, `?` for any character.
fn like(pattern: &str, text: &str) -> bool {
    fn step(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((&'*', rest)), _) => (0..=text.len()).any(|n| step(rest, &text[n..])),
            (Some((&'?', pattern)), Some((_, text))) => step(pattern, text),
            (Some((p, pattern)), Some((t, text))) => p == t && step(pattern, text),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
    step(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn tags(instance: &Instance) -> Vec<(&str, String)> {
    let name = instance.name_tag.clone().map(|name| ("Name", name));
    let group = instance.auto_scaling_group.clone().map(|group| ("aws:autoscaling:groupName", group));
    let others = instance.details.tags.iter().map(|(key, value)| (key.as_str(), value.clone()));
    name.into_iter().chain(group).chain(others).collect()
}

fn instance(i: &Instance) -> String {
    let mut xml = text("instanceId", &i.id.0)
        + &text("imageId", "ami-00000000000000001")
        + &element("instanceState", &state(i.state));
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            xml += &text(name, &value);
        }
    };
    put("privateDnsName", i.private_dns.clone());
    put("reason", i.transition_reason.clone());
    put("instanceType", Some(i.instance_type.0.clone()));
    put("launchTime", Some(LAUNCHED.to_owned()));
    put("privateIpAddress", i.private_ip.map(|ip| ip.to_string()));
    put("architecture", i.architecture.clone());
    put("rootDeviceType", i.root_device.clone());
    put("rootDeviceName", Some("/dev/xvda".to_owned()));
    put("hypervisor", Some("xen".to_owned()));
    put("instanceLifecycle", i.lifecycle.clone());
    xml += &ec2_facts::placement(i);
    xml += &ec2_facts::instance_details(i);
    if let Some(reason) = &i.state_reason {
        let message = format!("{reason}: State change");
        xml += &element("stateReason", &(text("code", reason) + &text("message", &message)));
    }
    let tags: String = tags(i).iter().map(|(k, v)| element("item", &(text("key", k) + &text("value", v)))).collect();
    xml += &element("tagSet", &tags);
    xml += &element("hibernationOptions", &text("configured", &i.hibernation.to_string()));
    xml
}

pub(super) fn state(state: InstanceState) -> String {
    let code = match state {
        InstanceState::Pending => 0,
        InstanceState::Running => 16,
        InstanceState::ShuttingDown => 32,
        InstanceState::Terminated => 48,
        InstanceState::Stopping => 64,
        InstanceState::Stopped | InstanceState::Unrecognized => 80,
    };
    text("code", &code.to_string()) + &text("name", &state.to_string())
}

fn state_changes(changes: &[StateChange]) -> String {
    let mut set = String::new();
    for (id, previous, current) in changes {
        let what = text("instanceId", &id.0)
            + &element("currentState", &state(*current))
            + &element("previousState", &state(*previous));
        set += &element("item", &what);
    }
    element("instancesSet", &set)
}

fn modify_instance_attribute(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let id = parameters
        .get("InstanceId")
        .ok_or_else(|| fault("MissingParameter", "The request must contain the parameter instanceId"))?;
    world.modify_instance_type(&InstanceId::from(id), &wanted_type(parameters)?)?;
    Ok(text("return", "true"))
}

fn wanted_type(parameters: &Parameters) -> Result<InstanceType, Ec2Fault> {
    let by_name = || parameters.get("Value").filter(|_| parameters.get("Attribute") == Some("instanceType"));
    let wanted = parameters.get("InstanceType.Value").or_else(by_name);
    wanted.map(InstanceType::from).ok_or_else(|| fault("InvalidParameterCombination", "No attributes specified."))
}

fn create_tags(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let (ids, tags) = parameters.tagged()?;
    if tags.is_empty() {
        return Err(fault("MissingParameter", "The request must contain the parameter tagSet"));
    }
    let tags: Vec<_> = tags.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    world.create_tags(&ids, &tags)?;
    Ok(text("return", "true"))
}

fn delete_tags(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let (ids, tags) = parameters.tagged()?;
    if tags.is_empty() {
        return Err(fault("MissingParameter", "The request must contain the parameter tagSet"));
    }
    world.delete_tags(&ids, &tags)?;
    Ok(text("return", "true"))
}

fn describe_instance_types(world: &World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let offered = &world.config().offered_types;
    let wanted = parameters.list("InstanceType");
    let unknown: Vec<_> = wanted.iter().filter(|w| !offered.iter().any(|(name, _)| name == *w)).cloned().collect();
    if !unknown.is_empty() {
        return Err(fault(
            "InvalidInstanceType",
            format!("The following supplied instance types do not exist: [{}]", unknown.join(", ")),
        ));
    }
    let filters = parameters.filters();
    let shown: Vec<_> = offered
        .iter()
        .filter(|(name, architecture)| {
            (wanted.is_empty() || wanted.contains(name))
                && filters.iter().all(|(filter, values)| {
                    let actual = if filter == "instance-type" { name } else { architecture };
                    values.iter().any(|v| like(v, actual))
                })
        })
        .collect();
    if let Some((name, _)) =
        filters.iter().find(|(name, _)| name != "instance-type" && name != "processor-info.supported-architecture")
    {
        return Err(fault("InvalidParameterValue", format!("The filter '{name}' is invalid")));
    }
    let (page, next) = paged(&shown, parameters)?;
    let mut set = String::new();
    for (name, architecture) in page {
        let mut what = text("instanceType", name) + &text("currentGeneration", "true");
        what += &ec2_facts::type_details(&world.facts().type_details(name, architecture));
        what += &element("supportedRootDeviceTypes", &text("item", "ebs"));
        what += &element("supportedUsageClasses", &text("item", "on-demand"));
        what += &element("processorInfo", &element("supportedArchitectures", &text("item", architecture)));
        set += &element("item", &what);
    }
    Ok(element("instanceTypeSet", &set) + &next)
}

fn describe_instance_type_offerings(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let zones: BTreeSet<String> = world.describe_instances(&[])?.into_iter().filter_map(|i| i.zone).collect();
    let (kind, places) = match parameters.get("LocationType") {
        Some("availability-zone") => ("availability-zone", zones.into_iter().collect()),
        None | Some("region") => {
            let regions: BTreeSet<String> =
                zones.iter().map(|z| z.trim_end_matches(|c: char| c.is_ascii_lowercase()).to_owned()).collect();
            ("region", regions.into_iter().collect::<Vec<_>>())
        }
        Some(other) => return Err(fault("InvalidParameterValue", format!("The location type '{other}' is invalid"))),
    };
    let filters = parameters.filters();
    if let Some((name, _)) = filters.iter().find(|(name, _)| name != "instance-type" && name != "location") {
        return Err(fault("InvalidParameterValue", format!("The filter '{name}' is invalid")));
    }
    let mut offers = Vec::new();
    for (name, _) in &world.config().offered_types {
        for place in &places {
            let holds = |(filter, values): &(String, Vec<String>)| {
                values.iter().any(|v| like(v, if filter == "instance-type" { name } else { place }))
            };
            if filters.iter().all(holds) && !world.facts().not_offered.contains(&(name.clone(), place.clone())) {
                offers.push((name.clone(), place.clone()));
            }
        }
    }
    let (page, next) = paged(&offers, parameters)?;
    let mut set = String::new();
    for (name, place) in page {
        set += &element("item", &(text("instanceType", name) + &text("locationType", kind) + &text("location", place)));
    }
    Ok(element("instanceTypeOfferingSet", &set) + &next)
}

/// An element around what is XML already; `tag` may carry attributes.
pub(super) fn element(tag: &str, inside: &str) -> String {
    let name = tag.split(' ').next().unwrap_or(tag);
    format!("<{tag}>{inside}</{name}>")
}

/// An element around a text.
pub(super) fn text(tag: &str, inside: &str) -> String {
    let mut escaped = String::with_capacity(inside.len());
    for c in inside.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // XML 1.0 has no way to write these.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    format!("<{tag}>{escaped}</{tag}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let p = Parameters::parse(b"Action=StopInstances&InstanceId.1=i-1&InstanceId.2=i%2D2&Filter.1.Name=tag%3AName&Filter.1.Value.1=a+b&X=%zz");
        assert_eq!(p.get("Action"), Some("StopInstances"));
        assert_eq!(p.list("InstanceId"), ["i-1", "i-2"]);
        assert_eq!(p.filters(), [("tag:Name".to_owned(), vec!["a b".to_owned()])]);
        assert_eq!(p.get("X"), Some("%zz"));
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(text("a", "<&>\"'\u{1}"), "<a>&lt;&amp;&gt;&quot;&apos;\u{fffd}</a>");
        assert_eq!(element("a b=\"c\"", "x"), "<a b=\"c\">x</a>");
    }

    #[test]
    fn filters_know_wildcards() {
        for (pattern, given, expected) in
            [("a*c", "abbc", true), ("a?c", "abc", true), ("a?c", "ac", false), ("", "a", false), ("*", "", true)]
        {
            assert_eq!(like(pattern, given), expected, "{pattern} {given}");
        }
    }
}
