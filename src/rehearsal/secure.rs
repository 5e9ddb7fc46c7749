//! A secure stage: its CA's certificate and its users' credentials, as files that the product can be pointed at.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use uuid::Uuid;

use crate::domain::ids::Address;
use crate::esdb::Credentials;
use crate::sim::wire::{ADMINS, Certificates, OPS, Security, User, listens_at};

/// Where the files of a secure stage go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// A folder of their own, which goes with the stage.
    Temporary,
    /// This one; files there whose names begin with `sim-` are written anew, and stay.
    Named(PathBuf),
}

/// The user that operates the cluster and its updates with as few rights as that takes: a member of `$ops` that may read `$all`.
pub const WORKER: &str = "worker";
/// The users of a secure stage: the two that a server makes by itself, [`WORKER`], and an application without groups.
const USERS: [(&str, &[&str]); 4] = [("admin", &[ADMINS]), ("ops", &[OPS]), (WORKER, &[OPS]), ("app", &[])];

/// Makes a secure stage, and gives its files.
#[derive(Debug)]
pub struct Secrets {
    /// Removed when this is dropped.
    temporary: Option<TempDir>,
    folder: PathBuf,
    logins: BTreeMap<&'static str, Credentials>,
}

impl Secrets {
    /// Makes certificates for nodes at these addresses and passwords for the users, and writes what their clients need.
    ///
    /// # Errors
    /// A name that does not resolve, or a file that cannot be written.
    pub(super) async fn make(folder: &Folder, addresses: &[Address]) -> io::Result<(Secrets, Security)> {
        let mut names = Vec::new();
        for address in addresses {
            names.push(Certificates::names(&address.host, listens_at(address).await?.ip()));
        }
        let certificates = Certificates::make(&names)?;
        let logins: BTreeMap<&str, Credentials> =
            USERS.iter().map(|(name, _)| (*name, Credentials::new(*name, password()))).collect();
        let users = USERS.iter().map(|(name, groups)| User::new(name, &logins[name].password, groups)).collect();

        let (temporary, folder) = match folder {
            Folder::Temporary => {
                let made = tempfile::Builder::new().prefix("esdb-rollout-sim-").tempdir()?;
                let path = made.path().to_owned();
                (Some(made), path)
            }
            Folder::Named(path) => {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                std::fs::create_dir_all(path).map_err(named)?;
                (None, path.canonicalize().map_err(named)?)
            }
        };
        let secrets = Secrets { temporary, folder, logins };
        write(&secrets.ca_file(), certificates.ca_pem())?;
        for (name, login) in &secrets.logins {
            write(&secrets.credentials_file(name), &format!("{}:{}\n", login.user, login.password))?;
        }
        Ok((secrets, Security::new(certificates, users)))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder goes with the stage.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// PEM file of the CA.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("sim-ca.pem")
    }

    /// Names of the users.
    pub fn users(&self) -> impl Iterator<Item = &'static str> {
        USERS.iter().map(|(name, _)| *name)
    }

    /// Whether there is a user of this name.
    pub fn has_user(name: &str) -> bool {
        USERS.iter().any(|(n, _)| *n == name)
    }

    /// File with a user's `user:password`.
    pub fn credentials_file(&self, user: &str) -> PathBuf {
        self.folder.join(format!("sim-{user}.cred"))
    }

    /// A user's credentials.
    pub fn credentials(&self, user: &str) -> Option<Credentials> {
        self.logins.get(user).cloned()
    }
}

/// A password that nobody guesses.
#[expect(clippy::disallowed_methods, reason = "a secret is to be random")]
fn password() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Writes a file anew that this user alone may read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        Ok(()) | Err(_) => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(named)
}
