use super::*;

/// A cluster of three voters and a replica, as the tests like it.
pub(crate) fn config(seed: u64) -> WorldConfig {
    WorldConfig {
        seed,
        voters: 3,
        replicas: 1,
        addresses: (1..=4).map(|i| Address::new(format!("10.0.0.{i}"), 2113)).collect(),
        names: (1..=4).map(|i| format!("node-{i}")).collect(),
        version: "23.10.5.0".to_owned(),
        instance_type: "m6i.large".to_owned(),
        offered_types: vec![
            ("m6i.large".to_owned(), "x86_64".to_owned()),
            ("m6i.xlarge".to_owned(), "x86_64".to_owned()),
            ("m7g.large".to_owned(), "arm64".to_owned()),
        ],
        ec2_stop: Duration::from_secs(45),
        ec2_start: Duration::from_secs(25),
        boot: Duration::from_secs(10),
        catch_up_bytes_per_second: 50_000_000,
        load_bytes_per_second: 0,
        initial_log_bytes: 0,
        faults: Vec::new(),
    }
}
