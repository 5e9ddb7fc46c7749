//! The connection string: parsed here, and written anew for the crate, whose own parser lets mistakes pass.

use std::path::{Path, PathBuf};

use eventstore::ClientSettings;

use super::{ConfigError, Credentials, tls};
use crate::domain::ids::Address;

/// Port of a node where none is given.
const DEFAULT_PORT: u16 = 2113;

/// How to reach the store.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// `esdb://host[:port][,host[:port]…][?parameters]` or `esdb+discover://host[:port][?parameters]`. One host without
    /// `+discover` is one node, asked alone; several, and `+discover`, are seeds that are asked who leads. Parameters: `tls`,
    /// `tlsVerifyCert`, `tlsCaFile`, `connectionName`; those that tune the client are accepted and replaced by our own.
    pub connection: String,
    /// PEM file of the CA. Outranks `tlsCaFile`; without either the system's certificates are used.
    pub ca_file: Option<PathBuf>,
    /// The user. Outranks the one in the connection string.
    pub credentials: Option<Credentials>,
    /// Name under which the server lists the connection. Outranks `connectionName`; empty means none.
    pub connection_name: String,
}

/// A connection string that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) hosts: Vec<Address>,
    pub(super) discover: bool,
    pub(super) tls: bool,
    pub(super) verify: bool,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) credentials: Option<Credentials>,
    pub(super) connection_name: Option<String>,
}

/// Whom a client asks.
#[derive(Clone, Debug)]
pub(super) enum Ask<'a> {
    /// The leader, with `requires-leader` on every call.
    Leader,
    /// This node, whatever its role.
    Node(&'a Address),
}

const WHAT: &str = "the connection string";

impl Target {
    /// Understands a configuration, and checks what the crate would panic on.
    ///
    /// # Errors
    /// Each mistake by name, with what was expected, what was found and what to do.
    pub(super) fn of(config: &StoreConfig) -> Result<Target, ConfigError> {
        let mut target = Target::parse(&config.connection)?;
        if let Some(path) = &config.ca_file {
            target.ca_file = Some(path.clone());
        }
        if let Some(credentials) = &config.credentials {
            target.credentials = Some(credentials.clone());
        }
        if !config.connection_name.is_empty() {
            target.connection_name = Some(config.connection_name.clone());
        }
        if let Some(name) = target.connection_name.as_ref().filter(|n| !n.bytes().all(|b| (0x20..0x7f).contains(&b))) {
            return Err(ConfigError::new("the connection name", "printable ASCII", name.as_str(), "choose another"));
        }
        if target.tls {
            match &target.ca_file {
                Some(path) => {
                    tls::Roots::load(Some(path))?;
                }
                None if target.verify => tls::check_native()?,
                None => {}
            }
        }
        Ok(target)
    }

    /// Parses a connection string; touches no file.
    pub(super) fn parse(text: &str) -> Result<Target, ConfigError> {
        let bad = |expected: &str, found: String, remedy: &str| ConfigError::new(WHAT, expected, found, remedy);
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            bad(
                "esdb://host:port",
                if text.is_empty() { "nothing".into() } else { "no scheme".into() },
                "write esdb:// before the hosts",
            )
        })?;
        let discover = match scheme.to_ascii_lowercase().as_str() {
            "esdb" => false,
            "esdb+discover" => true,
            "kurrentdb" | "kurrent" | "kdb" => {
                return Err(bad(
                    "esdb://",
                    format!("{scheme}://"),
                    "write esdb:// instead: a KurrentDB server takes it",
                ));
            }
            "kurrentdb+discover" | "kurrent+discover" | "kdb+discover" => {
                return Err(bad(
                    "esdb+discover://",
                    format!("{scheme}://"),
                    "write esdb+discover:// instead: a KurrentDB server takes it",
                ));
            }
            _ => return Err(bad("esdb:// or esdb+discover://", format!("{scheme}://"), "change the scheme")),
        };
        let (authority, query) = rest.split_once('?').map_or((rest, ""), |(a, q)| (a, q));
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        // A password may hold an @, so the last one divides.
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
        if let Some(at) = hosts.find('/') {
            return Err(bad("hosts and parameters only", format!("the path `{}`", &hosts[at..]), "remove the path"));
        }
        let credentials = user.map(parse_user).transpose()?;
        let hosts = hosts.split(',').map(|h| parse_host(h.trim())).collect::<Result<Vec<_>, _>>()?;
        if hosts.len() > 1
            && let Some(v6) = hosts.iter().find(|h| h.host.contains(':'))
        {
            return Err(bad(
                "host names or IPv4 addresses among several hosts",
                v6.to_string(),
                "use host names: the client library cannot tell an IPv6 address from its port here",
            ));
        }
        let mut target = Target {
            // Only the first host counts with +discover; several are seeds anyway.
            discover: discover && hosts.len() == 1,
            hosts,
            tls: true,
            verify: true,
            ca_file: None,
            credentials,
            connection_name: None,
        };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| bad("name=value", format!("`{pair}`"), "give the parameter a value"))?;
            let value =
                decode(value).ok_or_else(|| bad("percent-encoded UTF-8", format!("`{pair}`"), "encode a % as %25"))?;
            target.set(name, value)?;
        }
        Ok(target)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ConfigError> {
        let parameter = format!("{WHAT}'s parameter {name}");
        let flag = |value: &str| match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ConfigError::new(parameter.as_str(), "true or false", format!("`{value}`"), "write one of them")),
        };
        match name.to_ascii_lowercase().as_str() {
            "tls" => self.tls = flag(&value)?,
            "tlsverifycert" => self.verify = flag(&value)?,
            "tlscafile" => self.ca_file = Some(PathBuf::from(value)),
            "connectionname" => self.connection_name = Some(value),
            "nodepreference" if value.eq_ignore_ascii_case("leader") => {}
            "nodepreference" => {
                return Err(ConfigError::new(
                    parameter,
                    "leader",
                    value,
                    "remove it: decisions rest on what the leader says",
                ));
            }
            "usercertfile" | "userkeyfile" => {
                return Err(ConfigError::new(
                    parameter,
                    "a user with a password",
                    "an X.509 user",
                    "give credentials instead",
                ));
            }
            // Tuning, ours instead: see `settings`.
            "maxdiscoverattempts"
            | "discoveryinterval"
            | "gossiptimeout"
            | "defaultdeadline"
            | "keepaliveinterval"
            | "keepalivetimeout"
            | "throwonappendfailure" => {
                tracing::debug!(parameter = name, "a parameter of the connection string is replaced by our own value");
            }
            _ => {
                return Err(ConfigError::new(
                    parameter,
                    "tls, tlsVerifyCert, tlsCaFile or connectionName",
                    "an unknown name",
                    "remove or correct it",
                ));
            }
        }
        Ok(())
    }

    /// The crate's settings.
    ///
    /// `maxDiscoverAttempts` is small because our loop retries, and never 1, with which the crate cannot connect;
    /// `discoveryInterval` is slept before every connect, the first included; `defaultDeadline` is only a hint to the
    /// server. Credentials go with each call, since the crate does not decode them here.
    pub(super) fn settings(&self, ask: Ask<'_>) -> Result<ClientSettings, ConfigError> {
        let (scheme, hosts, preference) = match ask {
            Ask::Leader => {
                let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
                (if self.discover { "esdb+discover" } else { "esdb" }, hosts.join(","), "leader")
            }
            // `random` alone leaves `requires-leader` out.
            Ask::Node(node) => ("esdb", node.to_string(), "random"),
        };
        let mut text = format!(
            "{scheme}://{hosts}?tls={}&tlsVerifyCert={}&nodePreference={preference}&maxDiscoverAttempts=3&discoveryInterval=100\
             &gossipTimeout=1000&defaultDeadline=2500&keepAliveInterval=10000&keepAliveTimeout=10000",
            self.tls, self.verify
        );
        if let Some(path) = self.crate_ca_file() {
            let path = path.to_str().ok_or_else(|| {
                ConfigError::new("the CA file's path", "UTF-8", path.display().to_string(), "move the file")
            })?;
            text.push_str("&tlsCaFile=");
            text.push_str(&encode(path));
        }
        if let Some(name) = &self.connection_name {
            text.push_str("&connectionName=");
            text.push_str(&encode(name));
        }
        text.parse().map_err(|e| {
            ConfigError::new(WHAT, "one that the client library takes", format!("{text}: {e}"), "report this")
        })
    }

    /// The file of roots to give to the crate. Without one it loads the system's certificates even where it needs none, and
    /// panics at the first that it cannot read; an empty file spares it that.
    fn crate_ca_file(&self) -> Option<&Path> {
        if self.tls && (self.verify || self.ca_file.is_some()) {
            self.ca_file.as_deref()
        } else if cfg!(unix) {
            Some(Path::new("/dev/null"))
        } else {
            None
        }
    }
}

fn parse_user(text: &str) -> Result<Credentials, ConfigError> {
    let bad = |found: &str, remedy: &str| ConfigError::new(format!("{WHAT}'s user"), "user:password", found, remedy);
    let (user, password) =
        text.split_once(':').ok_or_else(|| bad("no password", "write user:password@ before the hosts"))?;
    let decoded = decode(user).zip(decode(password)).filter(|(user, _)| !user.is_empty());
    decoded
        .map(|(user, password)| Credentials { user, password })
        .ok_or_else(|| bad("an empty user or a broken %-code", "encode a % as %25, or give the credentials in a file"))
}

fn parse_host(text: &str) -> Result<Address, ConfigError> {
    let bad = || ConfigError::new(format!("{WHAT}'s host"), "host or host:port", format!("`{text}`"), "correct it");
    let (host, port) = if let Some(v6) = text.strip_prefix('[') {
        let (host, rest) = v6.split_once(']').ok_or_else(bad)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(bad)?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let named = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(named) {
        return Err(bad());
    }
    let port = port.map_or(Ok(DEFAULT_PORT), |p| p.parse().map_err(|_| bad()))?;
    if port == 0 { Err(bad()) } else { Ok(Address::new(host, port)) }
}

/// Percent-decodes; `None` if a code is broken or the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(b);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes all that means something in a query, and the comma, by which the crate divides hosts.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._~/".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(connection: &str) -> StoreConfig {
        StoreConfig { connection: connection.into(), ..StoreConfig::default() }
    }

    #[test]
    fn strings_that_are_right() {
        let table: [(&str, &[&str], bool, bool); 9] = [
            ("esdb://a", &["a:2113"], false, true),
            ("esdb://a:1?tls=false", &["a:1"], false, false),
            ("esdb://a,b:2", &["a:2113", "b:2"], false, true),
            ("esdb://a:1,b:2/?tls=true", &["a:1", "b:2"], false, true),
            ("esdb+discover://cluster.local:2113", &["cluster.local:2113"], true, true),
            ("esdb+discover://a,b", &["a:2113", "b:2113"], false, true),
            (
                "ESDB://10.0.0.1:2113/?TLS=FALSE&nodePreference=leader&maxDiscoverAttempts=1",
                &["10.0.0.1:2113"],
                false,
                false,
            ),
            ("esdb://[::1]:2114?tls=false", &["[::1]:2114"], false, false),
            (" esdb://a ", &["a:2113"], false, true),
        ];
        for (text, hosts, discover, tls) in table {
            let target = Target::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let found: Vec<String> = target.hosts.iter().map(ToString::to_string).collect();
            assert_eq!(found, hosts, "{text}");
            assert_eq!((target.discover, target.tls), (discover, tls), "{text}");
            let settings = target.settings(Ask::Leader).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(settings.hosts().len(), hosts.len(), "{text}: no phantom host");
            for (crate_host, ours) in settings.hosts().iter().zip(hosts) {
                assert_eq!(&format!("{}:{}", crate_host.host, crate_host.port), ours);
            }
            assert!(settings.max_discover_attempts() >= 2);
        }
    }

    #[test]
    fn strings_that_are_wrong_say_how() {
        let table = [
            ("", "nothing", "esdb://"),
            ("localhost:2113", "no scheme", "esdb://"),
            ("kurrentdb://a", "kurrentdb://", "esdb:// instead"),
            ("kdb+discover://a", "kdb+discover://", "esdb+discover:// instead"),
            ("http://a", "http://", "change the scheme"),
            ("esdb://", "``", "correct it"),
            ("esdb://a:b", "`a:b`", "correct it"),
            ("esdb://a:0", "`a:0`", "correct it"),
            ("esdb://a:1,,b:2", "``", "correct it"),
            ("esdb://a:1/db", "the path `/db`", "remove the path"),
            ("esdb://[::1]:1,b:2", "[::1]:1", "host names"),
            ("esdb://a?tls=yes", "`yes`", "true or false"),
            ("esdb://a?tls", "`tls`", "value"),
            ("esdb://a?tsl=false", "an unknown name", "remove or correct"),
            ("esdb://a?nodePreference=follower", "follower", "remove it"),
            ("esdb://a?userCertFile=x", "X.509", "credentials"),
            ("esdb://secret@a", "no password", "user:password"),
            ("esdb://u:%zz@a", "%-code", "%25"),
        ];
        for (text, found, remedy) in table {
            let error = Target::parse(text).expect_err(text);
            let shown = error.to_string();
            assert!(error.found.contains(found), "{text}: {shown}");
            assert!(shown.contains(remedy), "{text}: {shown}");
            assert!(!shown.contains("secret") && !shown.contains("%zz"), "{text}: {shown}");
        }
    }

    #[test]
    fn passwords_are_decoded_and_never_reach_the_crate_s_string_or_a_debug_print() {
        let target = Target::parse("esdb://admin:p%40s%2Cs:w@a:1,b:2?tls=false").unwrap();
        assert_eq!(target.credentials, Some(Credentials::new("admin", "p@s,s:w")));
        assert!(!format!("{target:?}").contains("p@s"));
        let outranked =
            StoreConfig { credentials: Some(Credentials::new("ops", "x")), ..config("esdb://admin:y@a?tls=false") };
        assert_eq!(Target::of(&outranked).unwrap().credentials, Some(Credentials::new("ops", "x")));
    }

    #[test]
    fn one_node_is_asked_without_requiring_a_leader() {
        let target = Target::parse("esdb://a:1,b:2?tls=false").unwrap();
        let settings = target.settings(Ask::Node(&Address::new("b", 2))).unwrap();
        assert_eq!(settings.hosts().len(), 1);
        assert_eq!(settings.node_preference(), eventstore::NodePreference::Random);
    }

    #[test]
    fn ca_files_are_checked_before_the_crate_sees_them() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.pem");
        let empty = dir.path().join("empty.pem");
        let broken = dir.path().join("broken.pem");
        std::fs::write(&empty, "no certificate").unwrap();
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for path in [missing, empty, broken] {
            let shown = path.display().to_string();
            let error = Target::of(&StoreConfig { ca_file: Some(path), ..config("esdb://a") }).expect_err(&shown);
            assert!(error.to_string().contains(&shown), "{error}");
        }
    }

    #[test]
    fn a_connection_name_must_fit_a_header() {
        let error = Target::of(&StoreConfig { connection_name: "bad\u{e9}".into(), ..config("esdb://a?tls=false") })
            .unwrap_err();
        assert_eq!(error.expected, "printable ASCII");
    }
}
