//! EC2: one instance a node, its states, and the answers of the API.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Event, InstanceFacts, World};
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::instance::{Instance, InstanceDetails, InstanceState};
use crate::sim::model::{Ec2Fault, Fault, NodeIx, WorldConfig};

/// An instance id with its previous and its current state, as StopInstances and StartInstances answer.
pub type StateChange = (InstanceId, InstanceState, InstanceState);

/// Availability zones, which the instances get in turn and which offer every type.
const ZONES: [&str; 3] = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub id: InstanceId,
    pub instance_type: String,
    pub state: InstanceState,
    pub reason: Option<String>,
    /// EC2's words about the last transition.
    pub transition_reason: Option<String>,
    pub ip: Option<IpAddr>,
    pub zone: String,
    pub name: String,
    pub architecture: String,
    /// Grows with each transition: an earlier plan is void.
    pub transition: u64,
    /// How often it was stopped.
    pub stops: u32,
}

impl Machine {
    pub fn new(n: NodeIx, config: &WorldConfig) -> Machine {
        Machine {
            id: instance_id(n),
            instance_type: config.instance_type.clone(),
            state: InstanceState::Running,
            reason: None,
            transition_reason: None,
            ip: address(&config.addresses[n].host),
            zone: ZONES[n % ZONES.len()].to_owned(),
            name: config.names[n].clone(),
            architecture: architecture(config, &config.instance_type).unwrap_or("x86_64").to_owned(),
            transition: 0,
            stops: 0,
        }
    }

    fn describe(&self, facts: &InstanceFacts) -> Instance {
        let dns =
            self.ip.map(|ip| format!("ip-{}.eu-west-1.compute.internal", ip.to_string().replace(['.', ':'], "-")));
        Instance {
            id: self.id.clone(),
            instance_type: InstanceType(self.instance_type.clone()),
            state: self.state,
            state_reason: self.reason.clone(),
            transition_reason: self.transition_reason.clone(),
            private_ip: self.ip,
            private_dns: dns,
            zone: Some(self.zone.clone()),
            name_tag: Some(self.name.clone()),
            root_device: Some(facts.root_device.clone()),
            lifecycle: facts.lifecycle.clone(),
            architecture: Some(self.architecture.clone()),
            auto_scaling_group: facts.auto_scaling_group.clone(),
            hibernation: facts.hibernation,
            details: InstanceDetails {
                addresses: facts.details.addresses.iter().copied().chain(self.ip).collect(),
                ..facts.details.clone()
            },
        }
    }
}

/// The instance of a node, at the beginning.
pub(super) fn instance_id(n: NodeIx) -> InstanceId {
    InstanceId(format!("i-{:017x}", 10 + n))
}

/// The private address of a node's instance. Names are not resolved here; what `localhost` is need not be asked.
fn address(host: &str) -> Option<IpAddr> {
    if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() }
}

/// Architecture of an offered type.
fn architecture<'a>(config: &'a WorldConfig, instance_type: &str) -> Option<&'a str> {
    config.offered_types.iter().find(|(name, _)| name == instance_type).map(|(_, architecture)| architecture.as_str())
}

fn fault(code: &str, message: impl Into<String>) -> Ec2Fault {
    Ec2Fault { code: code.to_owned(), message: message.into() }
}

/// What EC2 says with a code that a start can fail with.
fn start_message(code: &str, instance_type: &str, zone: &str) -> String {
    match code {
        "InsufficientInstanceCapacity" => format!(
            "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). \
             Our system will be working on provisioning additional capacity."
        ),
        "Unsupported" => {
            format!(
                "Your requested instance type ({instance_type}) is not supported in your requested Availability Zone ({zone})."
            )
        }
        "VcpuLimitExceeded" => "You have requested more vCPU capacity than your current vCPU limit allows.".to_owned(),
        "RequestLimitExceeded" => "Request limit exceeded.".to_owned(),
        "RequestExpired" => "Request has expired.".to_owned(),
        _ => format!("The instance cannot be started as {instance_type} in {zone}."),
    }
}

fn well_formed(id: &InstanceId) -> bool {
    id.0.strip_prefix("i-").is_some_and(|hex| {
        (hex.len() == 8 || hex.len() == 17) && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

impl World {
    /// Availability zones of this world; each offers every type.
    pub fn zones(&self) -> Vec<String> {
        ZONES.iter().map(|z| (*z).to_owned()).collect()
    }

    /// The instance of a node.
    pub fn instance_of(&self, n: NodeIx) -> &InstanceId {
        &self.nodes[n].machine.id
    }

    /// The true state of a node's instance.
    pub fn instance_state(&self, n: NodeIx) -> InstanceState {
        self.nodes[n].machine.state
    }

    /// The true type of a node's instance.
    pub fn instance_type(&self, n: NodeIx) -> &str {
        &self.nodes[n].machine.instance_type
    }

    /// `DescribeInstances`; no ids mean all. `InvalidInstanceID.NotFound` if one is unknown, `….Malformed` if one is no id.
    pub fn describe_instances(&mut self, ids: &[InstanceId]) -> Result<Vec<Instance>, Ec2Fault> {
        self.throttle()?;
        self.refuse("DescribeInstances")?;
        if ids.is_empty() {
            return Ok((0..self.nodes.len()).map(|n| self.described(n)).collect());
        }
        Ok(self.machines(ids)?.into_iter().map(|n| self.described(n)).collect())
    }

    fn described(&self, n: NodeIx) -> Instance {
        let m = &self.nodes[n].machine;
        let mut described = m.describe(&self.facts.instances[n]);
        let of_type = self.facts.type_details(&m.instance_type, &m.architecture);
        let details = &mut described.details;
        details.cores = details.cores.or(of_type.cores);
        details.threads_per_core = details.threads_per_core.or(of_type.threads_per_core);
        described
    }

    /// `StopInstances`, without force. An instance that is stopped or stopping stays so, without error.
    pub fn stop_instances(&mut self, ids: &[InstanceId]) -> Result<Vec<StateChange>, Ec2Fault> {
        self.throttle()?;
        self.authorize_on("StopInstances", ids)?;
        self.refuse("StopInstances")?;
        let nodes = self.machines(ids)?;
        for &n in &nodes {
            let m = &self.nodes[n].machine;
            if self.facts.instances[n].stop_protected {
                let message = format!(
                    "The instance '{}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.",
                    m.id
                );
                return Err(fault("OperationNotPermitted", message));
            }
            if !matches!(m.state, InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped) {
                let message = format!("The instance '{}' is not in a state from which it can be stopped.", m.id);
                return Err(fault("IncorrectInstanceState", message));
            }
        }
        Ok(nodes.into_iter().map(|n| self.stop_machine(n)).collect())
    }

    /// `StartInstances`. An instance that is running or pending stays so, without error.
    pub fn start_instances(&mut self, ids: &[InstanceId]) -> Result<Vec<StateChange>, Ec2Fault> {
        self.throttle()?;
        self.authorize_on("StartInstances", ids)?;
        self.refuse("StartInstances")?;
        let nodes = self.machines(ids)?;
        for &n in &nodes {
            let m = &self.nodes[n].machine;
            if !matches!(m.state, InstanceState::Running | InstanceState::Pending | InstanceState::Stopped) {
                let message = format!("The instance '{}' is not in a state from which it can be started.", m.id);
                return Err(fault("IncorrectInstanceState", message));
            }
        }
        for &n in &nodes {
            if self.nodes[n].machine.state == InstanceState::Stopped {
                self.start_fails(n)?;
            }
        }
        Ok(nodes.into_iter().map(|n| self.start_machine(n)).collect())
    }

    /// `ModifyInstanceAttribute` of the type; the instance must be stopped.
    pub fn modify_instance_type(&mut self, id: &InstanceId, to: &InstanceType) -> Result<(), Ec2Fault> {
        self.throttle()?;
        self.authorize_on("ModifyInstanceAttribute", std::slice::from_ref(id))?;
        self.authorize_type(to)?;
        self.refuse("ModifyInstanceAttribute")?;
        let n = self.machine(id)?;
        let Some(wanted) = architecture(&self.config, &to.0).map(str::to_owned) else {
            return Err(fault("InvalidParameterValue", format!("Invalid value '{to}' for InstanceType.")));
        };
        let m = &mut self.nodes[n].machine;
        if m.state != InstanceState::Stopped {
            return Err(fault("IncorrectInstanceState", format!("The instance '{id}' is not in the 'stopped' state.")));
        }
        if wanted != m.architecture {
            let message = format!(
                "The architecture '{wanted}' of the specified instance type does not match the architecture '{}' of the specified \
                 instance. Specify an instance type with a matching architecture, and try again.",
                m.architecture
            );
            return Err(fault("InvalidParameterValue", message));
        }
        m.instance_type.clone_from(&to.0);
        // The CPU options become those of the new type.
        let details = &mut self.facts.instances[n].details;
        (details.cores, details.threads_per_core) = (None, None);
        self.touch();
        Ok(())
    }

    /// `RebootInstances`: the instance stays `running`, its process starts anew.
    pub fn reboot_instance(&mut self, id: &InstanceId) -> Result<(), Ec2Fault> {
        self.throttle()?;
        self.refuse("RebootInstances")?;
        let n = self.machine(id)?;
        let m = &self.nodes[n].machine;
        if m.state != InstanceState::Running {
            return Err(fault(
                "IncorrectInstanceState",
                format!("The instance '{id}' is not in a state from which it can be rebooted."),
            ));
        }
        let boot = self.config.boot;
        self.end_process(n);
        self.start_process(n, boot);
        Ok(())
    }

    /// `CreateTags`: what a key said before is lost, and nothing is compared.
    pub fn create_tags(&mut self, ids: &[InstanceId], tags: &[(String, String)]) -> Result<(), Ec2Fault> {
        self.throttle()?;
        self.authorize_on("CreateTags", ids)?;
        self.refuse("CreateTags")?;
        for n in self.machines(ids)? {
            self.facts.instances[n].details.tags.extend(tags.iter().cloned());
        }
        self.touch();
        Ok(())
    }

    /// `DeleteTags`: a tag given with a value is removed if it has that value. One that is not there is no error.
    pub fn delete_tags(&mut self, ids: &[InstanceId], tags: &[(String, Option<String>)]) -> Result<(), Ec2Fault> {
        self.throttle()?;
        self.authorize_on("DeleteTags", ids)?;
        self.refuse("DeleteTags")?;
        for n in self.machines(ids)? {
            let there = &mut self.facts.instances[n].details.tags;
            for (key, value) in tags {
                if value.is_none() || there.get(key) == value.as_ref() {
                    there.remove(key);
                }
            }
        }
        self.touch();
        Ok(())
    }

    /// Takes over what somebody else's EC2 says of a node's instance, and lets the node's process follow it.
    ///
    /// A type that changed between two looks at a running instance means that it was stopped and started meanwhile. Nothing of the world's
    /// own EC2 (its times, its faults) plays a part any more.
    pub fn follow_instance(&mut self, n: NodeIx, seen: &Instance) {
        let boot = self.config.boot;
        let m = &mut self.nodes[n].machine;
        let (known, before) = (m.id == seen.id, m.state);
        let changed = known && m.instance_type != seen.instance_type.0;
        if known && !changed && before == seen.state {
            return;
        }
        m.id.clone_from(&seen.id);
        m.instance_type.clone_from(&seen.instance_type.0);
        m.reason.clone_from(&seen.state_reason);
        m.transition_reason.clone_from(&seen.transition_reason);
        m.transition += 1;
        // A state that is not known tells nothing.
        if seen.state != InstanceState::Unrecognized {
            m.state = seen.state;
        }
        match seen.state {
            InstanceState::Running if before != InstanceState::Running => self.start_process(n, boot),
            InstanceState::Running if changed => {
                self.end_process(n);
                self.start_process(n, boot);
            }
            InstanceState::Running | InstanceState::Unrecognized => {}
            InstanceState::Stopping | InstanceState::ShuttingDown => {
                if before == InstanceState::Running {
                    self.terminate_process(n, false);
                }
            }
            InstanceState::Pending | InstanceState::Stopped | InstanceState::Terminated => self.end_process(n),
        }
        self.touch();
    }

    pub(super) fn throttle(&mut self) -> Result<(), Ec2Fault> {
        let percent = self
            .config
            .faults
            .iter()
            .find_map(|f| if let Fault::Throttled { percent } = f { Some(*percent) } else { None });
        if percent.is_some_and(|p| self.random.ec2.percent(p)) {
            return Err(fault("RequestLimitExceeded", "Request limit exceeded."));
        }
        Ok(())
    }

    /// Plays the faults that strike a call by its name, and credentials that have expired.
    pub(super) fn refuse(&mut self, action: &str) -> Result<(), Ec2Fault> {
        for (at, known) in self.config.faults.iter().enumerate() {
            if let Fault::CredentialsExpire { for_ } = known
                && self.begun[at].is_some_and(|since| self.now < since + *for_)
            {
                return Err(fault("RequestExpired", start_message("RequestExpired", "", "")));
            }
            if let Fault::CallFails { action: of, code, times } = known
                && of == action
                && self.played[at] < *times
            {
                self.played[at] += 1;
                return Err(fault(code, format!("The call {action} was not carried out ({code}).")));
            }
        }
        Ok(())
    }

    /// When the first fault of a kind that lasts for a time began: now, if it has not.
    fn begin(&mut self, which: impl Fn(&Fault) -> bool) {
        let now = self.now;
        if let Some(at) = self.config.faults.iter().position(which) {
            self.begun[at].get_or_insert(now);
        }
    }

    pub(super) fn machine(&self, id: &InstanceId) -> Result<NodeIx, Ec2Fault> {
        if !well_formed(id) {
            return Err(fault("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
        }
        self.nodes
            .iter()
            .position(|n| n.machine.id == *id)
            .ok_or_else(|| fault("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist")))
    }

    pub(super) fn machines(&self, ids: &[InstanceId]) -> Result<Vec<NodeIx>, Ec2Fault> {
        ids.iter().map(|id| self.machine(id)).collect()
    }

    fn start_fails(&mut self, n: NodeIx) -> Result<(), Ec2Fault> {
        self.begin(|f| matches!(f, Fault::EveryStartFails { .. }));
        let m = &self.nodes[n].machine;
        for (at, known) in self.config.faults.iter().enumerate() {
            let of_type = if let Fault::StartFails { instance_type, code, times } = known
                && *instance_type == m.instance_type
                && (*times == u32::MAX || self.played[at] < *times)
            {
                Some(code)
            } else {
                None
            };
            let of_any = if let Fault::EveryStartFails { code, for_ } = known
                && self.begun[at].is_some_and(|since| self.now < since + *for_)
            {
                Some(code)
            } else {
                None
            };
            if let Some(code) = of_type.or(of_any) {
                self.played[at] = self.played[at].saturating_add(1);
                return Err(fault(code, start_message(code, &m.instance_type, &m.zone)));
            }
        }
        Ok(())
    }

    fn stop_machine(&mut self, n: NodeIx) -> StateChange {
        let previous = self.nodes[n].machine.state;
        if previous == InstanceState::Running {
            let hangs = self.play(|f| matches!(f, Fault::StopHangs { node, .. } if *node == n), 1);
            let stop = hangs.and_then(|f| f.passes_after()).unwrap_or(self.config.ec2_stop);
            self.begin(|f| matches!(f, Fault::CredentialsExpire { .. }));
            self.disable_others(n);
            let at = self.wall().strftime("%Y-%m-%d %H:%M:%S GMT").to_string();
            let m = &mut self.nodes[n].machine;
            m.state = InstanceState::Stopping;
            m.reason = Some("Client.UserInitiatedShutdown".to_owned());
            m.transition_reason = Some(format!("User initiated ({at})"));
            m.transition += 1;
            m.stops += 1;
            let transition = m.transition;
            self.schedule(stop, Event::MachineStopped { n, transition });
            self.terminate_process(n, false);
            self.touch();
        }
        let m = &self.nodes[n].machine;
        (m.id.clone(), previous, m.state)
    }

    fn start_machine(&mut self, n: NodeIx) -> StateChange {
        let start = self.config.ec2_start;
        let m = &mut self.nodes[n].machine;
        let previous = m.state;
        if previous == InstanceState::Stopped {
            m.state = InstanceState::Pending;
            m.reason = None;
            m.transition_reason = None;
            m.transition += 1;
            let transition = m.transition;
            self.schedule(start, Event::MachineStarted { n, transition });
            self.touch();
        }
        let m = &self.nodes[n].machine;
        (m.id.clone(), previous, m.state)
    }

    /// Plays [`Fault::OthersFreeze`], [`Fault::OthersVolumesHang`] and [`Fault::OthersVolumesCrawl`] as a voter's instance is stopped: the leader
    /// goes on, alone with too few.
    fn disable_others(&mut self, n: NodeIx) {
        let voters = self.config.voters;
        if n >= voters {
            return;
        }
        let leader = self.leader();
        let spare = (voters - 1).saturating_sub(voters / 2);
        let others: Vec<NodeIx> = (0..voters).filter(|m| *m != n && Some(*m) != leader).take(spare).collect();
        if let Some(Fault::OthersFreeze { for_ }) = self.play(|f| matches!(f, Fault::OthersFreeze { .. }), 1) {
            for other in &others {
                self.freeze(*other);
                self.schedule(for_, Event::Thaws { n: *other });
            }
        }
        if let Some(Fault::OthersVolumesHang { for_ }) = self.play(|f| matches!(f, Fault::OthersVolumesHang { .. }), 1)
        {
            for other in &others {
                self.hang_volume(*other);
                self.schedule(for_, Event::VolumeGoesOn { n: *other });
            }
        }
        if let Some(Fault::OthersVolumesCrawl { every, for_ }) =
            self.play(|f| matches!(f, Fault::OthersVolumesCrawl { .. }), 1)
        {
            for other in &others {
                self.crawl_volume(*other, every);
                self.schedule(for_, Event::VolumeGoesOn { n: *other });
            }
        }
    }

    /// Plays [`Fault::SomebodyStops`].
    pub(super) fn somebody_stops(&mut self, n: NodeIx, transition: u64) {
        let m = &self.nodes[n].machine;
        if m.transition != transition || m.state != InstanceState::Running {
            return;
        }
        let Some(Fault::SomebodyStops { reason, .. }) =
            self.play(|f| matches!(f, Fault::SomebodyStops { node, .. } if *node == n), 1)
        else {
            return;
        };
        self.stop_machine(n);
        let m = &mut self.nodes[n].machine;
        if reason != "Client.UserInitiatedShutdown" {
            m.transition_reason = Some(reason.clone());
        }
        m.reason = Some(reason);
    }

    pub(super) fn machine_stopped(&mut self, n: NodeIx, transition: u64) {
        if self.nodes[n].machine.transition != transition {
            return;
        }
        self.end_process(n);
        self.free_volume(n);
        self.nodes[n].machine.state = InstanceState::Stopped;
        if self.nodes[n].machine.stops == 1 && self.config.faults.contains(&Fault::ComesBackEmpty { node: n }) {
            self.lose_data(n, 0);
        }
        if let Some(Fault::SomebodyChangesType { to }) =
            self.play(|f| matches!(f, Fault::SomebodyChangesType { .. }), 1)
        {
            self.nodes[n].machine.instance_type = to;
        }
        self.touch();
    }

    pub(super) fn machine_started(&mut self, n: NodeIx, transition: u64) {
        if self.nodes[n].machine.transition != transition {
            return;
        }
        let played = &self.played;
        let falls_back = self.config.faults.iter().enumerate().find_map(|(at, f)| {
            let Fault::FallsBackToStopped { node, reason, times } = f else { return None };
            (node.is_none_or(|node| node == n) && played[at] < *times).then(|| (at, reason.clone()))
        });
        if let Some((at, reason)) = falls_back {
            self.played[at] += 1;
            let m = &mut self.nodes[n].machine;
            m.state = InstanceState::Stopped;
            m.transition_reason = Some(reason.clone());
            m.reason = Some(reason);
            self.touch();
            return;
        }
        self.nodes[n].machine.state = InstanceState::Running;
        let stops = self.config.faults.iter().find_map(|f| {
            let Fault::SomebodyStops { node, after, .. } = f else { return None };
            (*node == n).then_some(*after)
        });
        if let Some(after) = stops {
            self.schedule(after, Event::SomebodyStops { n, transition });
        }
        let boot = self.config.boot;
        let played = &self.played;
        let silence = self.config.faults.iter().enumerate().find_map(|(at, f)| {
            let Fault::StaysSilent { node, for_ } = f else { return None };
            // For a time: after the first start only. For ever: after every start.
            (*node == n && (for_.is_none() || played[at] == 0)).then_some((at, *for_))
        });
        match silence {
            Some((at, for_)) => {
                self.played[at] += 1;
                self.mute_process(n, for_.map(|d| d + boot));
            }
            None => self.start_process(n, boot),
        }
    }

    /// Plays a fault of the configuration that has not been played `times` times yet.
    pub(super) fn play(&mut self, which: impl Fn(&Fault) -> bool, times: u32) -> Option<Fault> {
        let at = self.config.faults.iter().enumerate().position(|(at, f)| which(f) && self.played[at] < times)?;
        self.played[at] += 1;
        Some(self.config.faults[at].clone())
    }

    /// Time a process takes from its start to its first answer while its machine is running already.
    pub(super) fn process_boot(&mut self) -> Duration {
        self.random.lifecycle.millis(1200, 2600).min(self.config.boot)
    }
}
