//! Roots of trust, checked before any client is made: the `eventstore` crate panics on a file that it cannot read or parse.

use std::path::Path;

use super::{ConfigError, chain};

/// What a server's certificate is checked against.
#[derive(Clone, Debug)]
pub(super) enum Roots {
    /// The certificates of this file, and no others.
    File(Vec<reqwest::Certificate>),
    /// The system's.
    Native,
}

impl Roots {
    /// The file's certificates if one is given, else the system's.
    pub(super) fn load(ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        ca_file.map_or(Ok(Roots::Native), |path| read(path).map(Roots::File))
    }

    /// Gives the roots to a client in the making.
    pub(super) fn apply(&self, builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        match self {
            Roots::File(certificates) => certificates
                .iter()
                .cloned()
                .fold(builder.tls_built_in_root_certs(false), reqwest::ClientBuilder::add_root_certificate),
            Roots::Native => builder,
        }
    }
}

fn read(path: &Path) -> Result<Vec<reqwest::Certificate>, ConfigError> {
    let shown = path.display().to_string();
    let bad = |found: String, remedy: &str| {
        ConfigError::new(format!("the CA file {shown}"), "a readable file of PEM certificates", found, remedy)
    };
    let bytes = std::fs::read(path).map_err(|e| bad(e.to_string(), "check the path and who may read it"))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&bytes)
        .map_err(|e| bad(chain(&e), "give the CA's certificate in PEM form (-----BEGIN CERTIFICATE-----)"))?;
    if certificates.is_empty() {
        return Err(bad(
            format!("{} bytes without a certificate", bytes.len()),
            "give the CA's certificate in PEM form (-----BEGIN CERTIFICATE-----), not its key or DER",
        ));
    }
    check(&certificates).map_err(|found| bad(found, "give X.509 certificates of the CA"))?;
    Ok(certificates)
}

/// Whether a TLS client accepts these as roots: building one parses them.
fn check(certificates: &[reqwest::Certificate]) -> Result<(), String> {
    let roots = Roots::File(certificates.to_vec());
    roots.apply(reqwest::Client::builder()).build().map(drop).map_err(|e| chain(&e))
}

/// Whether the `eventstore` crate can load the system's certificates. It panics, in a background task, at the first file that
/// cannot be read and at the first certificate that rustls does not take.
pub(super) fn check_native() -> Result<(), ConfigError> {
    let bad = |found: String| {
        ConfigError::new(
            "the system's certificates",
            "all of them readable",
            found,
            "name the store's CA with ca_file, or mend SSL_CERT_FILE and SSL_CERT_DIR",
        )
    };
    let loaded = rustls_native_certs::load_native_certs();
    if let Some(error) = loaded.errors.first() {
        return Err(bad(chain(error)));
    }
    let certificates = loaded
        .certs
        .iter()
        .map(|der| reqwest::Certificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(chain(&e)))?;
    check(&certificates).map_err(bad)
}
