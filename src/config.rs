//! The configuration file: where the store is, which clusters there are, and how their nodes map to instances.
//!
//! One TOML file. Every mistake in it is reported, each with its key; keys that are not known are mistakes. Credentials files are
//! read only when they are needed, so that a laptop that follows an update needs none of the clusters'.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::domain::ids::{Address, ClusterName, InstanceId, NodeName, WorkerName};

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "esdb-rollout.toml";

/// Limit of replication and index delay where none is configured.
pub const DEFAULT_MAX_REPLICATION_DELAY: Duration = Duration::from_secs(5);

/// Updates that run at a time over all clusters where nothing is configured: one, so that what goes wrong goes wrong once.
pub const DEFAULT_MAX_CONCURRENT: usize = 1;

/// A user and password. The password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("password", &"…").finish()
    }
}

/// Where a login is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginSource {
    /// From a file with `user:password`.
    File(PathBuf),
    /// From the environment, already read.
    Given(Login),
}

impl LoginSource {
    /// Reads the login.
    pub fn load(&self) -> Result<Login, ConfigError> {
        let path = match self {
            LoginSource::Given(login) => return Ok(login.clone()),
            LoginSource::File(path) => path,
        };
        let bad = |found: String, remedy: &str| {
            ConfigError::one(Problem {
                file: Some(path.clone()),
                key: "the credentials file".into(),
                expected: "one line `user:password`".into(),
                found,
                remedy: remedy.into(),
            })
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| bad(e.to_string(), "create it, readable by this user only, or correct `credentials_file`"))?;
        let line = text.trim_end_matches(['\r', '\n']);
        match line.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() && !line.contains('\n') => {
                Ok(Login { user: user.to_owned(), password: password.to_owned() })
            }
            Some(_) | None => {
                Err(bad("something else (not shown)".into(), "write user, colon and password on its only line"))
            }
        }
    }
}

/// Where update streams live.
#[derive(Clone, PartialEq, Eq)]
pub struct Store {
    /// Connection string; it may hold a password and is never printed with it.
    pub connection: String,
    /// PEM file of the CA.
    pub ca_file: Option<PathBuf>,
    /// The user; absent if the connection string names one, or none is needed.
    pub login: Option<LoginSource>,
    /// Updates that may run at a time over all clusters.
    pub max_concurrent_updates: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("connection", &without_password(&self.connection))
            .field("ca_file", &self.ca_file)
            .field("login", &self.login)
            .field("max_concurrent_updates", &self.max_concurrent_updates)
            .finish()
    }
}

/// A connection string without the user and password it may hold.
pub fn without_password(connection: &str) -> String {
    let Some((scheme, rest)) = connection.split_once("://") else { return "…".into() };
    // A password may hold any of `/?@`, so the last @ divides.
    match rest.rsplit_once('@') {
        Some((_, hosts)) => format!("{scheme}://…@{hosts}"),
        None => connection.to_owned(),
    }
}

/// Where and as whom EC2 is called. What is absent comes from the SDK's own chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aws {
    /// Region.
    pub region: Option<String>,
    /// Profile of the shared configuration files.
    pub profile: Option<String>,
    /// Role to assume.
    pub role_arn: Option<String>,
    /// URL to call in place of EC2's.
    pub endpoint: Option<String>,
}

/// How a node is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its instance.
    pub instance: InstanceId,
    /// Its address in gossip, where that cannot be matched with the instance's.
    pub address: Option<Address>,
    /// Whether that address reaches the instance by translation (NAT), so that it is none of the instance's own.
    pub address_translated: bool,
}

/// A cluster that may be updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Nodes to ask first.
    pub seeds: Vec<Address>,
    /// Voting nodes; else the nodes are asked.
    pub voters: Option<u32>,
    /// Whether its nodes speak TLS.
    pub tls: bool,
    /// PEM file of the CA.
    pub ca_file: Option<PathBuf>,
    /// The user: admin, or a member of ops.
    pub login: Option<LoginSource>,
    /// Patterns of types a request may ask for; empty: any.
    pub allowed_types: Vec<String>,
    /// Limit of replication and index delay.
    pub max_replication_delay: Duration,
    /// How long a node may be silent after its instance was started; the product's own limit if absent.
    pub first_answer_timeout: Option<Duration>,
    /// Whether instances are tagged while they are in hand.
    pub fence: bool,
    /// EC2.
    pub aws: Aws,
    /// Nodes that are named.
    pub nodes: BTreeMap<NodeName, Node>,
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// The store, if one is named.
    pub store: Option<Store>,
    /// The clusters.
    pub clusters: BTreeMap<ClusterName, Cluster>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file; absent for the environment and the command line.
    pub file: Option<PathBuf>,
    /// The key, with its path.
    pub key: String,
    /// What would be right.
    pub expected: String,
    /// What there is, without secrets.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        write!(f, "{}: expected {}, found {}; {}", self.key, self.expected, self.found, self.remedy)
    }
}

/// A configuration that cannot be used: every mistake in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The mistakes, in the order of the file.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    fn one(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// What the command line and the environment say beside the file.
#[derive(Clone, Default)]
pub struct Overrides {
    /// The file to read; else [`DEFAULT_FILE`], if it is there.
    pub file: Option<PathBuf>,
    /// Connection string of the store.
    pub store: Option<String>,
    /// User of the store.
    pub store_user: Option<String>,
    /// Password of the store's user.
    pub store_password: Option<String>,
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides")
            .field("file", &self.file)
            .field("store", &self.store.as_deref().map(without_password))
            .field("store_user", &self.store_user)
            .field("store_password", &self.store_password.as_ref().map(|_| "…"))
            .finish()
    }
}

/// Reads the configuration.
///
/// # Errors
/// A file that cannot be read, and every mistake in it.
pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
    let (path, named) = match &overrides.file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    let mut config = match std::fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Config::default(),
        Err(error) => {
            return Err(ConfigError::one(Problem {
                file: Some(path),
                key: "the configuration file".into(),
                expected: "a file that can be read".into(),
                found: error.to_string(),
                remedy: "correct --config or ESDB_ROLLOUT_CONFIG".into(),
            }));
        }
    };
    apply(&mut config, overrides)?;
    Ok(config)
}

fn apply(config: &mut Config, overrides: &Overrides) -> Result<(), ConfigError> {
    if let Some(connection) = &overrides.store {
        // A CA and a user belong to the store they were configured for, and most overrides are another way to the same one.
        let (ca_file, login, max_concurrent_updates) = config
            .store
            .take()
            .map_or((None, None, DEFAULT_MAX_CONCURRENT), |s| (s.ca_file, s.login, s.max_concurrent_updates));
        let login = if connection.contains('@') { None } else { login };
        config.store = Some(Store { connection: connection.clone(), ca_file, login, max_concurrent_updates });
    }
    let login = match (&overrides.store_user, &overrides.store_password) {
        (Some(user), Some(password)) => Login { user: user.clone(), password: password.clone() },
        (None, None) => return Ok(()),
        (user, _) => {
            let (set, missing) = if user.is_some() { ("_USER", "_PASSWORD") } else { ("_PASSWORD", "_USER") };
            return Err(ConfigError::one(Problem {
                file: None,
                key: format!("ESDB_ROLLOUT_STORE{missing}"),
                expected: "user and password, or neither".into(),
                found: format!("only ESDB_ROLLOUT_STORE{set}"),
                remedy: "set both, or use `credentials_file`".into(),
            }));
        }
    };
    if let Some(store) = &mut config.store {
        store.login = Some(LoginSource::Given(login));
    }
    Ok(())
}

/// Reads the text of a configuration file. Paths in it are relative to the file.
///
/// # Errors
/// Every mistake in it.
pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        ConfigError::one(Problem {
            file: Some(file.to_owned()),
            key: format!("line {line}"),
            expected: "TOML".into(),
            found: e.message().to_owned(),
            remedy: "correct that line".into(),
        })
    })?;
    let mut reader = Reader { file: file.to_owned(), problems: Vec::new() };
    let mut root = reader.section(String::new(), table);
    let store = root.table(&mut reader, "store").and_then(|section| store(&mut reader, section));
    let section = root.table(&mut reader, "clusters");
    let clusters = clusters(&mut reader, section);
    root.end(&mut reader);
    one_node_an_instance(&mut reader, &clusters);
    if reader.problems.is_empty() {
        Ok(Config { file: Some(file.to_owned()), store, clusters })
    } else {
        Err(ConfigError { problems: reader.problems })
    }
}

fn store(reader: &mut Reader, mut section: Section) -> Option<Store> {
    let connection =
        section.required(reader, "connection", "a connection string, such as esdb://10.0.1.11:2113,10.0.1.12:2113");
    let ca_file = section.path(reader, "ca_file");
    let login = section.path(reader, "credentials_file").map(LoginSource::File);
    let max_concurrent_updates = section.take(reader, "max_concurrent_updates", "a whole number from 1", |v| {
        v.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
    });
    section.end(reader);
    let max_concurrent_updates = max_concurrent_updates.unwrap_or(DEFAULT_MAX_CONCURRENT);
    Some(Store { connection: connection?, ca_file, login, max_concurrent_updates })
}

fn clusters(reader: &mut Reader, section: Option<Section>) -> BTreeMap<ClusterName, Cluster> {
    let mut clusters = BTreeMap::new();
    for (name, section) in section.map(|s| s.tables(reader)).unwrap_or_default() {
        if name.is_empty() || name.contains(char::is_whitespace) || name.starts_with('$') {
            reader.problem(
                &section.path,
                "a name without spaces that does not begin with $",
                &format!("`{name}`"),
                "rename it",
            );
        }
        let cluster = cluster(reader, section);
        clusters.insert(ClusterName(name), cluster);
    }
    clusters
}

fn seconds(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
}

fn cluster(reader: &mut Reader, mut section: Section) -> Cluster {
    let example = "a list of host:port, such as [\"10.0.1.11:2113\"]";
    let mut seeds = Vec::new();
    match section.strings(reader, "seeds") {
        None => section.missing(reader, "seeds", example),
        Some(texts) if texts.is_empty() => section.missing(reader, "seeds", example),
        Some(texts) => {
            for text in texts {
                match text.parse() {
                    Ok(address) => seeds.push(address),
                    Err(_) => {
                        reader.problem(&section.key("seeds"), example, &format!("`{text}`"), "write host and port")
                    }
                }
            }
        }
    }
    let voters = section.take(reader, "voters", "a whole number from 1", |v| {
        v.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
    });
    let tls = section.take(reader, "tls", "true or false", Value::as_bool).unwrap_or(true);
    let ca_file = section.path(reader, "ca_file");
    let login = section.path(reader, "credentials_file").map(LoginSource::File);
    let allowed_types = section.strings(reader, "allowed_types").unwrap_or_default();
    let delay = section.take(reader, "max_replication_delay_seconds", "seconds, more than 0 and at most 3600", |v| {
        seconds(v).filter(|s| *s > 0.0 && *s <= 3600.0).map(Duration::from_secs_f64)
    });
    let first_answer_timeout = section.take(reader, "first_answer_timeout_seconds", "seconds, from 10 to 86400", |v| {
        seconds(v).filter(|s| (10.0..=86_400.0).contains(s)).map(Duration::from_secs_f64)
    });
    let fence = section.take(reader, "fence", "true or false", Value::as_bool).unwrap_or(true);
    let aws = section.table(reader, "aws").map(|s| aws(reader, s)).unwrap_or_default();
    let mut nodes = BTreeMap::new();
    for (name, section) in section.table(reader, "nodes").map(|s| s.tables(reader)).unwrap_or_default() {
        if let Some(node) = node(reader, section) {
            nodes.insert(NodeName(name), node);
        }
    }
    section.end(reader);
    let max_replication_delay = delay.unwrap_or(DEFAULT_MAX_REPLICATION_DELAY);
    Cluster {
        seeds,
        voters,
        tls,
        ca_file,
        login,
        allowed_types,
        max_replication_delay,
        first_answer_timeout,
        fence,
        aws,
        nodes,
    }
}

fn aws(reader: &mut Reader, mut section: Section) -> Aws {
    let aws = Aws {
        region: section.string(reader, "region"),
        profile: section.string(reader, "profile"),
        role_arn: section.string(reader, "role_arn"),
        endpoint: section.string(reader, "endpoint"),
    };
    section.end(reader);
    aws
}

fn node(reader: &mut Reader, mut section: Section) -> Option<Node> {
    let expected = "an instance id, such as i-0abc";
    let instance = section.required(reader, "instance_id", expected);
    if let Some(id) = instance.as_ref().filter(|id| !id.starts_with("i-")) {
        reader.problem(&section.key("instance_id"), expected, &format!("`{id}`"), "take it from the EC2 console");
    }
    let address = section.take(reader, "address", "host:port", |v| v.as_str().and_then(|t| t.parse().ok()));
    let translated = section.take(reader, "address_translated", "true or false", Value::as_bool);
    section.end(reader);
    Some(Node { instance: InstanceId(instance?), address, address_translated: translated.unwrap_or(false) })
}

/// No instance may belong to two nodes, of whatever clusters.
fn one_node_an_instance(reader: &mut Reader, clusters: &BTreeMap<ClusterName, Cluster>) {
    let mut owners: BTreeMap<&InstanceId, String> = BTreeMap::new();
    for (cluster, c) in clusters {
        for (name, node) in &c.nodes {
            let key = format!("clusters.{cluster}.nodes.{name}.instance_id");
            if let Some(other) = owners.get(&node.instance) {
                let found = format!("{}, which {other} has", node.instance);
                reader.problem(&key, "an instance of its own", &found, "correct one of the two");
            } else {
                owners.insert(&node.instance, key);
            }
        }
    }
}

/// Collects mistakes.
struct Reader {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl Reader {
    fn section(&self, path: String, table: Table) -> Section {
        Section { path, table, known: Vec::new() }
    }

    fn problem(&mut self, key: &str, expected: &str, found: &str, remedy: &str) {
        self.problems.push(Problem {
            file: Some(self.file.clone()),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
            remedy: remedy.to_owned(),
        });
    }
}

/// A table of the file; keys are taken out of it, and what is left is not known.
struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        let read = read(&value);
        if read.is_none() {
            // A value may be a secret at the wrong place: only its type is told, and numbers, which are none.
            let found = match value.as_integer() {
                Some(n) => n.to_string(),
                None => value
                    .as_float()
                    .map_or_else(|| format!("a {} that is not one", value.type_str()), |n| n.to_string()),
            };
            reader.problem(&self.key(key), expected, &found, "correct it");
        }
        read
    }

    fn string(&mut self, reader: &mut Reader, key: &'static str) -> Option<String> {
        self.take(reader, key, "a text in quotes", |v| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned))
    }

    fn required(&mut self, reader: &mut Reader, key: &'static str, expected: &str) -> Option<String> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.missing(reader, key, expected);
            return None;
        }
        self.take(reader, key, expected, |v| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned))
    }

    fn missing(&self, reader: &mut Reader, key: &str, expected: &str) {
        reader.problem(&self.key(key), expected, "nothing", "add it");
    }

    fn strings(&mut self, reader: &mut Reader, key: &'static str) -> Option<Vec<String>> {
        self.take(reader, key, "a list of texts in quotes", |v| {
            let texts = v.as_array()?.iter().map(|t| t.as_str().filter(|t| !t.is_empty()).map(str::to_owned));
            texts.collect()
        })
    }

    fn path(&mut self, reader: &mut Reader, key: &'static str) -> Option<PathBuf> {
        let text = self.take(reader, key, "the path of a file, in quotes", |v| {
            v.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
        })?;
        Some(reader.file.parent().unwrap_or(Path::new("")).join(text))
    }

    fn table(&mut self, reader: &mut Reader, key: &'static str) -> Option<Section> {
        let table = self.take(reader, key, "a section", |v| v.as_table().cloned())?;
        Some(reader.section(self.key(key), table))
    }

    /// All its keys as sections.
    fn tables(self, reader: &mut Reader) -> Vec<(String, Section)> {
        let mut tables = Vec::new();
        for (key, value) in &self.table {
            match value.as_table() {
                Some(table) => tables.push((key.clone(), reader.section(self.key(key), table.clone()))),
                None => reader.problem(
                    &self.key(key),
                    "a section",
                    &format!("a {}", value.type_str()),
                    "move it into a section of its own name",
                ),
            }
        }
        tables
    }

    fn end(self, reader: &mut Reader) {
        let expected = format!("one of {}", self.known.join(", "));
        for key in self.table.keys() {
            reader.problem(&self.key(key), &expected, "a key that is not known", "correct or remove it");
        }
    }
}

/// The name of a worker that was given none: the machine's.
pub fn default_worker_name() -> WorkerName {
    let name = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let name = name.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty());
    WorkerName(name.unwrap_or_else(|| "worker".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
[store]
connection = "esdb://10.0.1.11:2113,10.0.1.12:2113?tls=true"
ca_file = "ca.pem"
credentials_file = "/etc/store.cred"
max_concurrent_updates = 3

[clusters.prod]
seeds = ["10.0.1.11:2113", "10.0.1.12:2113"]
voters = 3
ca_file = "ca.pem"
credentials_file = "prod.cred"
allowed_types = ["m6i.*", "r6i.*"]
aws = { region = "eu-west-1", profile = "prod", role_arn = "arn:aws:iam::1:role/x", endpoint = "http://127.0.0.1:1" }
max_replication_delay_seconds = 2.5
fence = false

[clusters.prod.nodes.esdb-1]
instance_id = "i-0abc"
address = "esdb-1.internal:2113"

[clusters.prod.nodes.esdb-2]
instance_id = "i-0def"
address = "203.0.113.2:2113"
address_translated = true

[clusters.test]
seeds = ["127.0.0.1:2113"]
tls = false
"#;

    fn problems(text: &str) -> Vec<String> {
        match parse(Path::new("dir/x.toml"), text) {
            Ok(config) => panic!("{config:?}"),
            Err(error) => error.problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_whole_file() {
        let config = parse(Path::new("dir/x.toml"), WHOLE).unwrap();
        let store = config.store.as_ref().unwrap();
        assert_eq!(store.ca_file, Some(PathBuf::from("dir/ca.pem")), "relative to the file");
        assert_eq!(store.max_concurrent_updates, 3);
        assert_eq!(store.login, Some(LoginSource::File("/etc/store.cred".into())));
        let prod = &config.clusters[&ClusterName::from("prod")];
        assert_eq!(prod.seeds, [Address::new("10.0.1.11", 2113), Address::new("10.0.1.12", 2113)]);
        assert_eq!((prod.voters, prod.tls, prod.max_replication_delay), (Some(3), true, Duration::from_millis(2500)));
        assert_eq!(prod.allowed_types, ["m6i.*", "r6i.*"]);
        assert_eq!(prod.aws.region.as_deref(), Some("eu-west-1"));
        let node = &prod.nodes[&NodeName::from("esdb-1")];
        assert_eq!(node.address, Some(Address::new("esdb-1.internal", 2113)));
        assert!(!node.address_translated && prod.nodes[&NodeName::from("esdb-2")].address_translated);
        let test = &config.clusters[&ClusterName::from("test")];
        assert_eq!((test.voters, test.tls, test.max_replication_delay), (None, false, DEFAULT_MAX_REPLICATION_DELAY));
        assert_eq!((prod.fence, test.fence), (false, true), "a cluster is fenced unless it says otherwise");
    }

    #[test]
    fn every_mistake_names_file_key_expectation_finding_and_remedy() {
        let seeds = "seeds = [\"a:1\"]\n";
        let table = [
            ("[store]\n", "dir/x.toml: store.connection: expected a connection string"),
            (
                "[stoer]\nconnection = \"x\"\n",
                "dir/x.toml: stoer: expected one of store, clusters, found a key that is not known",
            ),
            (
                "[store]\nconnection = \"x\"\nmax_concurrent_updates = 0\n",
                "store.max_concurrent_updates: expected a whole number from 1, found 0; correct it",
            ),
            ("[clusters.p]\n", "clusters.p.seeds: expected a list of host:port"),
            ("[clusters.p]\nseeds = []\n", "clusters.p.seeds: expected a list of host:port"),
            (
                "[clusters.p]\nseeds = [\"a\"]\n",
                "clusters.p.seeds: expected a list of host:port, such as [\"10.0.1.11:2113\"], found `a`; write",
            ),
            (
                "[clusters.p]\nseeds = \"a:1\"\n",
                "clusters.p.seeds: expected a list of texts in quotes, found a string that is not one",
            ),
            (
                &format!("[clusters.p]\n{seeds}voters = 0\n"),
                "clusters.p.voters: expected a whole number from 1, found 0; correct it",
            ),
            (
                &format!("[clusters.p]\n{seeds}tls = \"yes\"\n"),
                "clusters.p.tls: expected true or false, found a string",
            ),
            (&format!("[clusters.p]\n{seeds}max_replication_delay_seconds = -1\n"), "found -1; correct it"),
            (
                &format!("[clusters.p]\n{seeds}aws = {{ regoin = \"x\" }}\n"),
                "clusters.p.aws.regoin: expected one of region, profile",
            ),
            (
                &format!("[clusters.p]\n{seeds}[clusters.p.nodes.n]\n"),
                "clusters.p.nodes.n.instance_id: expected an instance id",
            ),
            (&format!("[clusters.p]\n{seeds}[clusters.p.nodes.n]\ninstance_id = \"x\"\n"), "found `x`; take it from"),
            (
                &format!("[clusters.p]\n{seeds}[clusters.p.nodes.n]\ninstance_id = \"i-1\"\naddress_translated = 1\n"),
                "clusters.p.nodes.n.address_translated: expected true or false, found 1; correct it",
            ),
            (
                &format!("[clusters.p]\n{seeds}[clusters.p.nodes]\nn = 3\n"),
                "clusters.p.nodes.n: expected a section, found a integer",
            ),
            (&format!("[clusters.\"a b\"]\n{seeds}"), "clusters.a b: expected a name without spaces"),
            ("[store\n", "dir/x.toml: line 1: expected TOML"),
        ];
        for (text, expected) in table {
            let found = problems(text);
            assert!(found.iter().any(|p| p.contains(expected)), "{text}\nexpected {expected}\nfound {found:?}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        assert_eq!(problems("x = 1\n[store]\n[clusters.p]\nvoters = 0\n").len(), 4);
    }

    #[test]
    fn no_instance_has_two_nodes() {
        let text = "[clusters.a]\nseeds=[\"a:1\"]\nnodes.n.instance_id=\"i-1\"\n[clusters.b]\nseeds=[\"b:1\"]\nnodes.m.instance_id=\"i-1\"\n";
        assert_eq!(
            problems(text),
            ["dir/x.toml: clusters.b.nodes.m.instance_id: expected an instance of its own, found i-1, which \
              clusters.a.nodes.n.instance_id has; correct one of the two"]
        );
    }

    #[test]
    fn flags_and_environment_outrank_the_file() {
        let mut config = parse(Path::new("x.toml"), WHOLE).unwrap();
        let login = |user: &str| Some(LoginSource::Given(Login { user: user.into(), password: "s3cret".into() }));
        let overrides = Overrides {
            store: Some("esdb://other:1".into()),
            store_user: Some("ops".into()),
            store_password: Some("s3cret".into()),
            ..Overrides::default()
        };
        apply(&mut config, &overrides).unwrap();
        let store = config.store.as_ref().unwrap();
        assert_eq!((store.connection.as_str(), &store.login), ("esdb://other:1", &login("ops")));
        assert!(store.ca_file.is_some());
        assert_eq!(store.max_concurrent_updates, 3);
        assert!(!format!("{config:?}{overrides:?}").contains("s3cret"));
        let half = Overrides { store_user: Some("ops".into()), ..Overrides::default() };
        let error = apply(&mut config, &half).unwrap_err().to_string();
        assert!(error.starts_with("ESDB_ROLLOUT_STORE_PASSWORD: expected user and password"), "{error}");
    }

    #[test]
    fn passwords_are_never_printed() {
        let table = [
            ("esdb://admin:p@ss/w?@a:1?tls=false", "esdb://…@a:1?tls=false"),
            ("esdb://a:1,b:2", "esdb://a:1,b:2"),
            ("admin:secret", "…"),
        ];
        for (connection, shown) in table {
            assert_eq!(without_password(connection), shown);
        }
        let store = Store {
            connection: "esdb://admin:s3cret@a:1".into(),
            ca_file: None,
            login: None,
            max_concurrent_updates: 1,
        };
        assert!(!format!("{store:?}").contains("s3cret"));
    }

    #[test]
    fn credentials_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cred");
        let source = LoginSource::File(path.clone());
        assert!(
            source
                .load()
                .unwrap_err()
                .to_string()
                .contains("x.cred: the credentials file: expected one line `user:password`")
        );
        std::fs::write(&path, "admin:ch:ange it\r\n").unwrap();
        assert_eq!(source.load().unwrap(), Login { user: "admin".into(), password: "ch:ange it".into() });
        for bad in ["topsecret", ":topsecret", "admin:", "admin:topsecret\nmore:topsecret\n"] {
            std::fs::write(&path, bad).unwrap();
            let error = source.load().unwrap_err().to_string();
            assert!(!error.contains("topsecret"), "{error}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let overrides = Overrides { file: Some(dir.path().join("none.toml")), ..Overrides::default() };
        assert!(
            load(&overrides).unwrap_err().to_string().contains("none.toml: the configuration file: expected a file")
        );
    }
}
