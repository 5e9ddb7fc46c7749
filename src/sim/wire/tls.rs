//! A secure cluster's certificates: a private CA and a certificate a node, made at start and never kept. The keys stay in memory.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Common name of every node's certificate: the server wants one name for the whole cluster (`CertificateReservedNodeCommonName`).
const NODE_COMMON_NAME: &str = "eventstoredb-node";
/// What a node speaks on its port, dearest first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificates of a cluster.
#[derive(Clone)]
pub struct Certificates {
    ca_pem: String,
    acceptors: Vec<TlsAcceptor>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("nodes", &self.acceptors.len()).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes a CA, and for each node a certificate for these names (IP addresses or DNS names).
    ///
    /// # Errors
    /// A name that no certificate can hold.
    pub fn make(names: &[Vec<String>]) -> io::Result<Certificates> {
        let failed = |what: &'static str| move |error: rcgen::Error| io::Error::other(format!("{what}: {error}"));
        let ca_key = KeyPair::generate().map_err(failed("a key of the simulated CA"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Simulated EventStoreDB CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&ca_key).map_err(failed("the simulated CA"))?;
        let issuer = Issuer::new(params, ca_key);

        let acceptor = |names: &Vec<String>| {
            let key = KeyPair::generate().map_err(failed("a node's key"))?;
            let mut params = CertificateParams::new(names.clone()).map_err(failed("a node's names"))?;
            params.distinguished_name.push(DnType::CommonName, NODE_COMMON_NAME);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            // The nodes of a real cluster are each other's clients as well.
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.use_authority_key_identifier_extension = true;
            let certificate = params.signed_by(&key, &issuer).map_err(failed("a node's certificate"))?;
            let chain = vec![CertificateDer::from(certificate)];
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            // A provider of its own: the process-wide one belongs to the client library.
            let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
                .map_err(|error| io::Error::other(format!("a node's TLS: {error}")))?;
            config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        let acceptors = names.iter().map(acceptor).collect::<io::Result<_>>()?;
        Ok(Certificates { ca_pem: ca.pem(), acceptors })
    }

    /// The names by which a node that advertises `host` and listens at `ip` may be called.
    pub fn names(host: &str, ip: IpAddr) -> Vec<String> {
        let mut names = vec![host.to_owned()];
        if host != ip.to_string() {
            names.push(ip.to_string());
        }
        names
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// TLS of node `n`.
    pub(super) fn acceptor(&self, n: usize) -> io::Result<TlsAcceptor> {
        let missing =
            || io::Error::other(format!("expected a certificate for node {n}, found {}", self.acceptors.len()));
        self.acceptors.get(n).cloned().ok_or_else(missing)
    }
}
