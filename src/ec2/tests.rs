//! The real SDK over loopback, against a server of a few lines that speaks EC2's Query protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::{AwsConfig, Ec2Fleet, OwnMachine};
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::inspection::{Right, Verb};
use crate::domain::instance::InstanceState;
use crate::ports::{CallClass, Fleet, Wanted};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Form, Router};

type Parameters = BTreeMap<String, String>;

/// What the server does with call number `n` (from 0) of this form: status and body.
type Answer = fn(usize, &Parameters) -> (u16, String);

#[derive(Clone)]
struct Ec2 {
    calls: Arc<Mutex<Vec<Parameters>>>,
    answer: Answer,
}

async fn handle(State(ec2): State<Ec2>, Form(parameters): Form<Parameters>) -> impl IntoResponse {
    let number = {
        let mut calls = ec2.calls.lock().unwrap();
        calls.push(parameters.clone());
        calls.iter().filter(|c| c["Action"] == parameters["Action"]).count() - 1
    };
    let (status, body) = (ec2.answer)(number, &parameters);
    let headers = [("content-type", "text/xml"), ("x-amzn-requestid", "req-1")];
    (StatusCode::from_u16(status).unwrap(), headers, body)
}

async fn serve(answer: Answer) -> (Ec2Fleet, Arc<Mutex<Vec<Parameters>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let app = Router::new().fallback(handle).with_state(Ec2 { calls: calls.clone(), answer });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (fleet(&endpoint).await, calls)
}

async fn fleet(endpoint: &str) -> Ec2Fleet {
    let credentials = Credentials::new("AKIDTEST", "secret", None, None, "test");
    Ec2Fleet::with_credentials(config(endpoint), Some(SharedCredentialsProvider::new(credentials))).await.unwrap()
}

fn config(endpoint: &str) -> AwsConfig {
    AwsConfig { region: Some("eu-west-1".into()), endpoint: Some(endpoint.into()), ..AwsConfig::default() }
}

fn error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>no: {code}</Message></Error></Errors>\
         <RequestID>req-1</RequestID></Response>"
    )
}

fn instance(id: &str, state: &str) -> String {
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><code>80</code><name>{state}</name></instanceState>\
         <privateDnsName>ip-10-0-0-1.internal</privateDnsName><privateIpAddress>10.0.0.1</privateIpAddress>\
         <instanceType>m6i.large</instanceType><placement><availabilityZone>eu-west-1a</availabilityZone></placement>\
         <stateReason><code>Server.InsufficientInstanceCapacity</code><message>m</message></stateReason>\
         <architecture>x86_64</architecture><rootDeviceType>ebs</rootDeviceType><instanceLifecycle>spot</instanceLifecycle>\
         <tagSet><item><key>Name</key><value>esdb-1</value></item>\
         <item><key>aws:autoscaling:groupName</key><value>asg</value></item></tagSet>\
         <hibernationOptions><configured>true</configured></hibernationOptions></item>"
    )
}

fn reservations(items: &[String], next: Option<&str>) -> String {
    let sets: String = items
        .iter()
        .map(|i| format!("<item><reservationId>r</reservationId><instancesSet>{i}</instancesSet></item>"))
        .collect();
    let next = next.map(|t| format!("<nextToken>{t}</nextToken>")).unwrap_or_default();
    format!(
        "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId>\
         <reservationSet>{sets}</reservationSet>{next}</DescribeInstancesResponse>"
    )
}

fn accepted(action: &str) -> String {
    format!(
        "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>req-1</requestId><return>true</return>\
         <instancesSet/></{action}Response>"
    )
}

fn id(text: &str) -> InstanceId {
    InstanceId::from(text)
}

#[tokio::test]
async fn describe_maps_every_field() {
    let (fleet, calls) =
        serve(|_, _| (200, reservations(&[instance("i-1", "stopped"), instance("i-2", "dreaming")], None))).await;
    let found = fleet.describe(&[id("i-1"), id("i-2")]).await.unwrap();
    assert_eq!(found.len(), 2);
    let first = &found[0];
    assert_eq!(
        (first.id.as_str(), first.instance_type.as_str(), first.state),
        ("i-1", "m6i.large", InstanceState::Stopped)
    );
    assert_eq!(first.state_reason.as_deref(), Some("Server.InsufficientInstanceCapacity"));
    assert_eq!(first.private_ip, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(first.private_dns.as_deref(), Some("ip-10-0-0-1.internal"));
    assert_eq!((first.zone.as_deref(), first.name_tag.as_deref()), (Some("eu-west-1a"), Some("esdb-1")));
    assert_eq!((first.root_device.as_deref(), first.lifecycle.as_deref()), (Some("ebs"), Some("spot")));
    assert_eq!((first.architecture.as_deref(), first.auto_scaling_group.as_deref()), (Some("x86_64"), Some("asg")));
    assert!(first.hibernation);
    assert_eq!(found[1].state, InstanceState::Unrecognized);
    assert_eq!(calls.lock().unwrap().len(), 1, "one call for all ids");
    assert_eq!(fleet.describe(&[]).await.unwrap(), []);
    assert_eq!(calls.lock().unwrap().len(), 1, "no ids must not mean all instances");
}

/// An instance with two interfaces, of which the second has an Elastic IP, and more addresses than its primary one.
fn with_two_interfaces() -> String {
    let interface = |addresses: &str, v6: &str, public: &str, owner: &str| {
        let item = |ip: &str| format!("<item><privateIpAddress>{ip}</privateIpAddress></item>");
        let v4: String = addresses.split(' ').map(item).collect();
        format!(
            "<item><privateIpAddressesSet>{v4}</privateIpAddressesSet>\
             <ipv6AddressesSet><item><ipv6Address>{v6}</ipv6Address></item></ipv6AddressesSet>\
             <association><publicIp>{public}</publicIp><ipOwnerId>{owner}</ipOwnerId></association></item>"
        )
    };
    let more = format!(
        "<bootMode>uefi-preferred</bootMode><currentInstanceBootMode>uefi</currentInstanceBootMode>\
         <ipAddress>54.1.2.3</ipAddress><dnsName>ec2-54-1-2-3.compute.amazonaws.com</dnsName>\
         <networkInterfaceSet>{}{}</networkInterfaceSet><capacityReservationSpecification>\
         <capacityReservationPreference>capacity-reservations-only</capacityReservationPreference>\
         </capacityReservationSpecification></item>",
        interface("10.0.0.1 10.0.0.2", "fd00::1", "54.1.2.3", "amazon"),
        interface("10.0.9.1", "fd00::9", "54.9.9.9", "123456789012"),
    );
    instance("i-1", "running").replace("</hibernationOptions></item>", &format!("</hibernationOptions>{more}"))
}

#[tokio::test]
async fn every_address_is_told_and_only_the_owner_of_the_public_one_makes_it_elastic() {
    let (fleet, _) = serve(|_, _| (200, reservations(&[with_two_interfaces()], None))).await;
    let found = fleet.describe(&[id("i-1")]).await.unwrap().remove(0);
    let addresses: Vec<String> = found.addresses().map(|ip| ip.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.9.1", "fd00::1", "fd00::9"]);
    assert!(found.has_address("fd00::9".parse().unwrap()) && !found.has_address("54.1.2.3".parse().unwrap()));
    let details = &found.details;
    assert_eq!(details.public_dns.as_deref(), Some("ec2-54-1-2-3.compute.amazonaws.com"));
    assert!(!details.elastic_ip, "the Elastic IP is another one");
    assert_eq!(details.capacity_reservation.as_deref(), Some("capacity-reservations-only"));
    assert_eq!(
        details.boot_mode.as_deref(),
        Some("uefi-preferred"),
        "it boots either way, whatever it was started with"
    );
}

#[tokio::test]
async fn rights_are_tried_with_each_type_and_any_denial_denies() {
    let (fleet, calls) = serve(|_, p| match p["Action"].as_str() {
        "ModifyInstanceAttribute" if p["InstanceType.Value"] == "r6i.large" => (403, error("UnauthorizedOperation")),
        "StopInstances" => (403, error("AccessDenied")),
        "StartInstances" => (400, error("ExpiredToken")),
        "RebootInstances" => (503, error("RequestLimitExceeded")),
        "DescribeInstanceAttribute" => (500, error("InternalError")),
        "DescribeVolumes" => (403, error("UnauthorizedOperation")),
        _ => (412, error("DryRunOperation")),
    })
    .await;
    let types = ["m6i.xlarge", "r6i.large"].map(InstanceType::from).to_vec();
    let found = fleet.inspect(&BTreeMap::from([(id("i-1"), types)])).await;
    let right = |verb: Verb| &found.rights[&verb];
    assert!(matches!(right(Verb::Stop), Right::Denied(why) if why.contains("AccessDenied")));
    assert!(matches!(right(Verb::Start), Right::Denied(why) if why.contains("ExpiredToken")));
    assert!(matches!(right(Verb::Reboot), Right::Unknown(error) if error.may_pass()));
    assert!(matches!(right(Verb::Modify), Right::Denied(why) if why.contains("i-1 as r6i.large")));
    assert_eq!((right(Verb::Tag), right(Verb::Untag)), (&Right::Allowed, &Right::Allowed));
    assert!(found.attributes[&id("i-1")].stop_protected.as_ref().is_err_and(|e| e.may_pass()));
    // What may not be asked will not be answered for asking again.
    assert!(found.volumes.as_ref().unwrap().as_ref().is_err_and(|e| !e.may_pass()));
    assert!(
        calls.lock().unwrap().iter().filter(|c| !c["Action"].starts_with("Describe")).all(|c| c["DryRun"] == "true")
    );
    let already = calls.lock().unwrap().len();
    let some = fleet.inspect(&BTreeMap::from([(id("i-1"), vec![]), (id("i-2"), vec!["m6i.large".into()])])).await;
    assert!(!some.rights.contains_key(&Verb::Modify), "no type is to be given");
    assert_eq!(some.attributes.len(), 2, "all are looked at");
    let made = calls.lock().unwrap()[already..].to_vec();
    let dry: Vec<&Parameters> = made.iter().filter(|c| c.contains_key("DryRun")).collect();
    let tried: BTreeSet<&str> = dry.iter().map(|c| c["Action"].as_str()).collect();
    assert_eq!(tried.len(), 5, "{tried:?}");
    for call in dry {
        let named: Vec<&str> = call.iter().filter(|(k, _)| k.contains("Id.")).map(|(_, v)| v.as_str()).collect();
        assert_eq!(named, ["i-2"], "rights are tried where something is done: {call:?}");
    }
    assert!(fleet.inspect(&BTreeMap::from([(id("i-1"), vec![])])).await.rights.is_empty());
}

#[tokio::test]
async fn an_unknown_id_is_missing_and_the_others_are_not() {
    let (fleet, calls) = serve(|_, p| {
        if p.contains_key("InstanceId.1") {
            (400, error("InvalidInstanceID.NotFound"))
        } else {
            (200, reservations(&[instance("i-1", "running")], None))
        }
    })
    .await;
    let found = fleet.describe(&[id("i-1"), id("i-gone")]).await.unwrap();
    assert_eq!(found.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["i-1"]);
    let calls = calls.lock().unwrap();
    let last = calls.last().unwrap();
    assert_eq!((last["Filter.1.Name"].as_str(), last["Filter.1.Value.2"].as_str()), ("instance-id", "i-gone"));
}

#[tokio::test]
async fn reads_are_repeated_and_paged() {
    let (fleet, calls) = serve(|n, p| match (n, p.get("NextToken")) {
        (0, _) => (503, error("RequestLimitExceeded")),
        (_, None) => (200, reservations(&[instance("i-1", "running")], Some("more"))),
        (_, Some(_)) => (200, reservations(&[instance("i-2", "terminated"), instance("i-3", "running")], None)),
    })
    .await;
    let wanted = Wanted::Tag { key: "role".into(), values: vec!["esdb*".into()] };
    let found = fleet.find(&wanted).await.unwrap();
    assert_eq!(found.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["i-1", "i-3"]);
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert_eq!((calls[0]["Filter.1.Name"].as_str(), calls[0]["Filter.1.Value.1"].as_str()), ("tag:role", "esdb\\*"));
    assert_eq!(
        (calls[0]["Filter.2.Name"].as_str(), calls[0]["Filter.2.Value.1"].as_str()),
        ("instance-state-name", "pending")
    );
}

#[tokio::test]
async fn what_matches_nothing_asks_nothing() {
    let (fleet, calls) = serve(|_, _| (200, reservations(&[], None))).await;
    let nothing =
        [Wanted::PrivateIps(vec![]), Wanted::PrivateDns(vec![]), Wanted::Tag { key: "k".into(), values: vec![] }];
    for wanted in nothing {
        assert_eq!(fleet.find(&wanted).await.unwrap(), []);
    }
    assert!(calls.lock().unwrap().is_empty());
    let ips = Wanted::PrivateIps(vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
    fleet.find(&ips).await.unwrap();
    fleet.find(&Wanted::PrivateDns(vec!["a.internal".into()])).await.unwrap();
    let names: Vec<String> = calls.lock().unwrap().iter().map(|c| c["Filter.1.Name"].clone()).collect();
    assert_eq!(
        names,
        [
            "network-interface.addresses.private-ip-address",
            "network-interface.ipv6-addresses.ipv6-address",
            "private-dns-name"
        ]
    );
}

#[tokio::test]
async fn calls_that_change_something_are_sent_once() {
    let (fleet, calls) = serve(|_, p| match p["Action"].as_str() {
        "StartInstances" => (500, error("InternalError")),
        _ => (503, error("RequestLimitExceeded")),
    })
    .await;
    let (instance, to) = (id("i-1"), InstanceType::from("m6i.xlarge"));
    let errors = [
        fleet.stop(&instance).await.unwrap_err(),
        fleet.modify_type(&instance, &to).await.unwrap_err(),
        fleet.start(&instance).await.unwrap_err(),
        fleet.tag(&instance, "u@1").await.unwrap_err(),
        fleet.untag(&instance, "u@1").await.unwrap_err(),
    ];
    for error in &errors {
        let class = if error.code == "InternalError" { CallClass::Unknown } else { CallClass::Retry };
        assert_eq!((error.class, error.request_id.as_deref()), (class, Some("req-1")), "{error}");
    }
    assert_eq!(errors[0].call, "StopInstances");
    let calls = calls.lock().unwrap();
    let actions: Vec<&str> = calls.iter().map(|c| c["Action"].as_str()).collect();
    assert_eq!(actions, ["StopInstances", "ModifyInstanceAttribute", "StartInstances", "CreateTags", "DeleteTags"]);
    for call in &calls[3..] {
        let of = |name: &str| call[name].as_str();
        assert_eq!((of("ResourceId.1"), of("Tag.1.Key"), of("Tag.1.Value")), ("i-1", "esdb-rollout:update", "u@1"));
    }
    assert_eq!(calls[1]["InstanceType.Value"], "m6i.xlarge");
    assert!(!calls[0].contains_key("Force") && !calls[0].contains_key("SkipOsShutdown"));
}

#[tokio::test]
async fn accepted_calls_say_their_request() {
    let (fleet, _) = serve(|_, p| (200, accepted(&p["Action"]))).await;
    let instance = id("i-1");
    for done in [
        fleet.stop(&instance).await,
        fleet.modify_type(&instance, &InstanceType::from("t")).await,
        fleet.start(&instance).await,
        fleet.tag(&instance, "u@1").await,
        fleet.untag(&instance, "u@1").await,
    ] {
        assert_eq!(done.unwrap().request_id.as_deref(), Some("req-1"));
    }
}

#[tokio::test]
async fn a_refusal_for_the_state_is_no_refusal_where_the_wish_is_fulfilled() {
    async fn with(answer: Answer) -> [Result<(), CallClass>; 3] {
        let (fleet, _) = serve(answer).await;
        let (i, t) = (id("i-1"), InstanceType::from("m6i.large"));
        let all = [fleet.stop(&i).await, fleet.modify_type(&i, &t).await, fleet.start(&i).await];
        all.map(|r| r.map(drop).map_err(|e| e.class))
    }
    fn answer(state: &str, p: &Parameters) -> (u16, String) {
        match p["Action"].as_str() {
            "DescribeInstances" => (200, reservations(&[instance("i-1", state)], None)),
            _ => (400, error("IncorrectInstanceState")),
        }
    }
    let wait = Err(CallClass::Wait);
    assert_eq!(with(|_, p| answer("stopping", p)).await, [Ok(()), Ok(()), wait]);
    assert_eq!(with(|_, p| answer("pending", p)).await, [wait, Ok(()), Ok(())]);
    assert_eq!(with(|_, p| answer("terminated", p)).await, [wait, Ok(()), wait]);
    let blind: Answer = |_, p| match p["Action"].as_str() {
        "DescribeInstances" => (400, error("UnauthorizedOperation")),
        _ => (400, error("IncorrectInstanceState")),
    };
    assert_eq!(with(blind).await, [wait, wait, wait]);
}

#[tokio::test]
async fn types_and_where_they_are_offered() {
    let (fleet, calls) = serve(|_, p| match p["Action"].as_str() {
        "DescribeInstanceTypes" if p["InstanceType.1"] == "m6i.large" => (
            200,
            "<DescribeInstanceTypesResponse><requestId>r</requestId><instanceTypeSet><item><instanceType>m6i.large</instanceType>\
             <processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo></item>\
             </instanceTypeSet></DescribeInstanceTypesResponse>"
                .to_owned(),
        ),
        "DescribeInstanceTypes" => (400, error("InvalidInstanceType")),
        _ => {
            let zone = |z: &str| {
                format!(
                    "<item><instanceType>m6i.large</instanceType><locationType>availability-zone</locationType>\
                     <location>{z}</location></item>"
                )
            };
            let (zone, next) = if p.contains_key("NextToken") { (zone("eu-west-1a"), "") } else { (zone("eu-west-1b"), "<nextToken>t</nextToken>") };
            (
                200,
                format!(
                    "<DescribeInstanceTypeOfferingsResponse><instanceTypeOfferingSet>{zone}</instanceTypeOfferingSet>{next}\
                     </DescribeInstanceTypeOfferingsResponse>"
                ),
            )
        }
    })
    .await;
    let info = fleet.type_info(&InstanceType::from("m6i.large")).await.unwrap().unwrap();
    assert_eq!(info.architectures, ["x86_64"]);
    assert_eq!(info.zones, ["eu-west-1a", "eu-west-1b"]);
    assert_eq!(calls.lock().unwrap()[1]["LocationType"], "availability-zone");
    assert_eq!(fleet.type_info(&InstanceType::from("m6i.nope")).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_port_and_a_silent_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let silent = fleet(&endpoint).await;
    let error = silent.stop(&id("i-1")).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.class), ("Timeout", CallClass::Unknown), "{error}");
    drop(listener);
    let error = fleet(&endpoint).await.stop(&id("i-1")).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.class), ("Unreachable", CallClass::Unknown), "{error}");
}

#[tokio::test]
async fn a_check_of_credentials_is_a_dry_run() {
    let (fleet, calls) =
        serve(|n, _| (400, error(if n == 0 { "DryRunOperation" } else { "UnauthorizedOperation" }))).await;
    fleet.check_credentials().await.unwrap();
    assert_eq!(calls.lock().unwrap()[0]["DryRun"], "true");
    let error = fleet.check_credentials().await.unwrap_err();
    assert_eq!(error.class, CallClass::Denied);
    assert!(error.message.contains("policy"), "{error}");
}

type Problem = fn() -> CredentialsError;

#[derive(Debug)]
struct Nobody(Problem);

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err((self.0)()))
    }
}

#[tokio::test]
async fn without_credentials_a_person_is_called_and_told_what_to_do() {
    let rows: [(Problem, &str, CallClass); 4] = [
        (|| CredentialsError::not_loaded("none"), "NoCredentials", CallClass::Unauthenticated),
        (|| CredentialsError::invalid_configuration("loop"), "NoCredentials", CallClass::Unauthenticated),
        (|| CredentialsError::provider_error("expired login"), "NoCredentials", CallClass::Unauthenticated),
        (|| CredentialsError::provider_timed_out(std::time::Duration::from_secs(1)), "Timeout", CallClass::Unknown),
    ];
    for (problem, code, class) in rows {
        let provider = Some(SharedCredentialsProvider::new(Nobody(problem)));
        let fleet = Ec2Fleet::with_credentials(config("http://127.0.0.1:9"), provider).await.unwrap();
        let error = fleet.start(&id("i-1")).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.class), (code, class), "{error}");
        assert!(error.message.contains("check the profile"), "{error}");
    }
}

/// The instance's metadata service, as far as it is asked: a token, and with it the id.
async fn metadata(id: &'static str) -> String {
    use axum::http::HeaderMap;
    use axum::routing::{get, put};
    let token = || async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "a-token") };
    let id = move |headers: HeaderMap| async move {
        match headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == "a-token") {
            true => (StatusCode::OK, id),
            false => (StatusCode::UNAUTHORIZED, ""),
        }
    };
    let app = Router::new().route("/latest/api/token", put(token)).route("/latest/meta-data/instance-id", get(id));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    endpoint
}

#[tokio::test]
async fn the_metadata_service_tells_the_own_instance_and_nobody_waits_for_one_that_is_not_there() {
    use super::own::{ask, patient};
    use aws_config::imds::Client;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let table = [
        (metadata("i-0abc").await, Some(id("i-0abc"))),
        (metadata("no id").await, None),
        (format!("http://{}", silent.local_addr().unwrap()), None),
        (format!("http://{nobody}"), None),
    ];
    for (endpoint, told) in table {
        let client = patient(Client::builder().endpoint(&endpoint).unwrap()).build();
        let asked = tokio::time::timeout(std::time::Duration::from_secs(3), ask(&client)).await;
        assert_eq!(asked, Ok(told), "{endpoint}");
    }
    let moved = fleet("http://127.0.0.1:1").await;
    assert!(moved.is_moved(), "nobody runs on instances of another endpoint than EC2's own");
    assert_eq!(moved.own_instance(), None);
    assert_eq!(moved.running_on(id("i-0abc").into()).own_instance(), Some(&id("i-0abc")));
}

#[tokio::test]
async fn the_firmware_tells_the_own_instance_where_it_is_one_of_ec2() {
    use super::own::by_firmware;
    let table = [
        (Some("Amazon EC2\n"), Some("i-0abc\n"), Some(id("i-0abc")), true),
        (Some("Amazon EC2\n"), Some("Not Specified\n"), None, true),
        (Some("Amazon EC2\n"), None, None, true),
        (Some("QEMU\n"), Some("i-0abc\n"), None, false),
        (None, None, None, false),
    ];
    for (vendor, tag, instance, is_of_ec2) in table {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("sys_vendor", vendor), ("board_asset_tag", tag)] {
            if let Some(text) = text {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
        }
        assert_eq!(by_firmware(directory.path()).await, OwnMachine { instance, is_of_ec2 }, "{vendor:?} {tag:?}");
    }
}
