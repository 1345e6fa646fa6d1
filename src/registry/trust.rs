//! What certificates are trusted and shown: the system's authorities, those of a registry's entry and of `certs.d`,
//! client certificates, and the verifier. Files are read here. Not here: connections.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use webpki_roots::TLS_SERVER_ROOTS;
use zeroize::Zeroizing;

use super::auth_files::read_bounded;
use crate::oci::{Algorithm, Digest, Host};
use crate::store::Connection;

/// What a run knows of certificates before it asks any registry.
#[derive(Default)]
pub(super) struct Trust {
    /// `SSL_CERT_FILE`.
    named_file: Option<OsString>,
    /// `SSL_CERT_DIR`, several with colons between.
    named_folders: Option<OsString>,
    /// The folders of `certs.d`, the first one that knows a host counts.
    per_host: Vec<PathBuf>,
    /// Read when it is first needed; `None` where there is no bundle.
    system: OnceLock<Option<Roots>>,
    /// For all hosts of which nothing is said.
    usual: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    /// Reads nothing yet but the environment.
    pub(super) fn new(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let given = |name| environment(name).filter(|value| !value.is_empty());
        let home = given("HOME").map(|home| Path::new(&home).join(".config/containers/certs.d"));
        Self {
            named_file: given("SSL_CERT_FILE"),
            named_folders: given("SSL_CERT_DIR"),
            per_host: home.into_iter().chain(CERTS_D.map(PathBuf::from)).collect(),
            ..Self::default()
        }
    }

    /// The settings for a registry, and those for hosts that it names: its authorities may have signed for them too, but
    /// they are not shown its client certificate, and are verified whatever it is.
    pub(super) fn configs(
        &self,
        certificates: &Certificates,
        insecure: bool,
    ) -> (Arc<ClientConfig>, Arc<ClientConfig>) {
        let Certificates { ca, identity } = certificates;
        let others = if ca.is_empty() {
            let usual = || client_config(self.roots(ca, true), None, false);
            self.usual.get_or_init(usual).clone()
        } else {
            client_config(self.roots(ca, true), None, false)
        };
        let own = if ca.is_empty() && identity.is_none() && !insecure {
            others.clone()
        } else {
            let roots = self.roots(ca, ca.is_empty());
            client_config(roots, identity.clone(), insecure)
        };
        (own, others)
    }

    /// What the folders of `certs.d` have for a host. Nobody wrote them for this program, so what is wrong with them is
    /// only said.
    pub(super) fn certs_d(&self, host: &Host) -> Certificates {
        let with_port = format!("{host}:443");
        let names = [host.as_str(), &with_port];
        let folders = self
            .per_host
            .iter()
            .flat_map(|folder| names.map(|name| folder.join(name)));
        let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else {
            return Certificates::default();
        };
        log::debug!("{host}: certificates of {}", folder.display());
        Certificates::of_folder(&folder).unwrap_or_else(|error| {
            log::warn!("{host}: nothing of {} is used: {error}", folder.display());
            Certificates::default()
        })
    }

    /// The system's authorities and these; those that are built in where there are none, and `built_in` allows them.
    fn roots(&self, ca: &[CertificateDer<'static>], built_in: bool) -> Roots {
        let mut roots = match self.system.get_or_init(|| self.read_system()) {
            Some(system) => system.clone(),
            None if built_in => Roots::built_in(),
            None => Roots::default(),
        };
        roots.add(ca);
        roots
    }

    /// What `SSL_CERT_FILE` and `SSL_CERT_DIR` name, else the bundle of the system.
    fn read_system(&self) -> Option<Roots> {
        let mut named = Vec::new();
        let file = self
            .named_file
            .iter()
            .map(|path| ("SSL_CERT_FILE", path.clone().into()));
        let folders = self.named_folders.iter().flat_map(std::env::split_paths);
        for (variable, path) in file.chain(folders.map(|path| ("SSL_CERT_DIR", path))) {
            match read_certificates(&path) {
                Ok(certificates) => named.extend(certificates),
                Err(error) => log::warn!("{variable}: {error}"),
            }
        }
        let bundle = || {
            let mut bundles = BUNDLES.iter().map(Path::new);
            bundles.find_map(|path| read_certificates(path).ok())
        };
        let certificates = Some(named)
            .filter(|named| !named.is_empty())
            .or_else(bundle)?;
        let mut roots = Roots::default();
        roots.add(&certificates);
        Some(roots)
    }
}

/// What is said of one registry's certificates.
#[derive(Clone, Debug, Default)]
pub(super) struct Certificates {
    /// The authorities of the registry.
    ca: Vec<CertificateDer<'static>>,
    /// What is shown to it.
    identity: Option<Arc<SingleCertAndKey>>,
}

impl Certificates {
    /// What the files of an entry hold.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else; a key that is missing, or does not fit.
    pub(super) fn read(connection: &Connection) -> Result<Self, TrustError> {
        let Connection { ca, cert, key, .. } = connection;
        Ok(Self {
            ca: ca
                .as_deref()
                .map(read_certificates)
                .transpose()?
                .unwrap_or_default(),
            identity: match (cert, key) {
                (Some(cert), key) => Some(read_identity(cert, key.as_ref().unwrap_or(cert))?),
                (None, Some(key)) => return Err(TrustError::new(key, Fault::NoCert)),
                (None, None) => None,
            },
        })
    }

    /// What a folder holds, by the ends of its files' names as docker and podman read them: `.crt` is an authority,
    /// `.cert` a client certificate with its `.key` beside it. Of several client certificates the first one counts.
    fn of_folder(folder: &Path) -> Result<Self, TrustError> {
        let mut certificates = Self::default();
        for path in files_of(folder)? {
            let end = path.extension().and_then(|end| end.to_str());
            match end {
                Some("crt") => certificates.ca.extend(read_certificates(&path)?),
                Some("cert") if certificates.identity.is_none() => {
                    let identity = read_identity(&path, &path.with_extension("key"))?;
                    certificates.identity = Some(identity);
                }
                _ => {}
            }
        }
        Ok(certificates)
    }

    /// These, and of those what is not said here.
    pub(super) fn or(mut self, others: Self) -> Self {
        if self.ca.is_empty() {
            self.ca = others.ca;
        }
        self.identity = self.identity.or(others.identity);
        self
    }

    /// Whether both kinds are there, so that nothing else counts.
    pub(super) fn is_complete(&self) -> bool {
        !self.ca.is_empty() && self.identity.is_some()
    }
}

/// A file of certificates that cannot be used.
#[derive(Debug)]
pub(super) struct TrustError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    NoCertificate,
    NoKey,
    /// A key without a certificate.
    NoCert,
    /// Certificate and key do not fit, or are of a kind that is not supported.
    Pair(rustls::Error),
}

impl TrustError {
    fn new(path: &Path, fault: Fault) -> Self {
        let path = path.to_owned();
        Self { path, fault }
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Fault::NoCertificate => f.write_str(
                "it holds no certificate; PEM is read, as `openssl x509 -inform der` makes it",
            ),
            Fault::NoKey => f.write_str(
                "it holds no private key that can be read; `openssl pkey` takes a password off one",
            ),
            Fault::NoCert => {
                f.write_str("a key alone is of no use; name its certificate by `cert`")
            }
            Fault::Pair(error) => write!(f, "the certificate and its key cannot be used: {error}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// Authorities, and the certificates that they came from.
#[derive(Clone, Debug)]
struct Roots {
    anchors: RootCertStore,
    known: HashSet<Digest>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            anchors: RootCertStore::empty(),
            known: HashSet::new(),
        }
    }
}

impl Roots {
    /// Mozilla's, as they were built in.
    fn built_in() -> Self {
        let mut roots = Self::default();
        roots.anchors.extend(TLS_SERVER_ROOTS.iter().cloned());
        roots
    }

    /// One that can be no authority is known all the same.
    fn add(&mut self, certificates: &[CertificateDer<'static>]) {
        self.known.extend(certificates.iter().map(digest));
        self.anchors
            .add_parsable_certificates(certificates.iter().cloned());
    }
}

fn digest(certificate: &CertificateDer<'_>) -> Digest {
    Digest::of(Algorithm::Sha256, certificate)
}

fn client_config(
    roots: Roots,
    identity: Option<Arc<SingleCertAndKey>>,
    anybody: bool,
) -> Arc<ClientConfig> {
    let verifier = Verifier {
        roots,
        anybody,
        algorithms: ring::default_provider().signature_verification_algorithms,
    };
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Arc::new(match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    })
}

/// Accepts what a known authority has signed, and a certificate that is itself among the known: a server's own one in
/// place of its authority is what many have, and Go accepts it. Time and name must be right for both.
#[derive(Debug)]
struct Verifier {
    roots: Roots,
    /// Accept any certificate (`insecure`).
    anybody: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.anybody {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let signed = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots.anchors,
            intermediates,
            now,
            self.algorithms.all,
        );
        match signed {
            // Nobody signed it, or it says of itself that it signs others. Its time has been looked at before that.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if self.roots.known.contains(&digest(end_entity)) => {}
            signed => signed?,
        }
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.anybody {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.anybody {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        if self.anybody {
            schemes.extend(UNVERIFIED_SCHEMES);
        }
        schemes
    }
}

/// A file's certificates, or those of all files of a folder.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let mut certificates = Vec::new();
    let files = if path.is_dir() {
        files_of(path)?
    } else {
        vec![path.to_owned()]
    };
    for file in files {
        let pem = read(&file)?;
        certificates.extend(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    }
    if certificates.is_empty() {
        return Err(TrustError::new(path, Fault::NoCertificate));
    }
    Ok(certificates)
}

fn read_identity(cert: &Path, key: &Path) -> Result<Arc<SingleCertAndKey>, TrustError> {
    let chain = read_certificates(cert)?;
    let pem = read(key)?;
    let mut keys = PrivateKeyDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let found = keys
        .next()
        .ok_or_else(|| TrustError::new(key, Fault::NoKey))?;
    let pair = CertifiedKey::from_der(chain, found, &ring::default_provider());
    let pair = pair.map_err(|error| TrustError::new(cert, Fault::Pair(error)))?;
    Ok(Arc::new(SingleCertAndKey::from(pair)))
}

/// The files of a folder, by name; not what lies deeper.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, TrustError> {
    let list = || {
        let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| path.is_file());
        paths.sort();
        Ok(paths)
    };
    list().map_err(|error| TrustError::new(folder, Fault::Unreadable(error)))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    read_bounded(path, MAX_FILE).map_err(|error| TrustError::new(path, Fault::Unreadable(error)))
}

/// In bytes; the bundles of systems have a quarter of a megabyte.
const MAX_FILE: u64 = 16 << 20;
/// Where systems keep their certificates: Debian and Alpine, Fedora, openSUSE, RHEL 7, macOS and BSD.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where podman and docker keep those of single registries, beside the user's own folder; podman's order.
const CERTS_D: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
/// What nobody verifies need not be supported.
const UNVERIFIED_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
];

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["r.example".to_owned()]).unwrap()
    }

    #[test]
    fn the_built_in_authorities_are_for_where_there_is_nothing_else() {
        let own = [certificate().cert.der().clone()];
        let bare = Trust {
            system: OnceLock::from(None),
            ..Trust::default()
        };
        let mut roots = Roots::default();
        roots.add(&[certificate().cert.der().clone()]);
        let with_system = Trust {
            system: OnceLock::from(Some(roots)),
            ..Trust::default()
        };
        let count = |trust: &Trust, ca: &[_], built_in| trust.roots(ca, built_in).anchors.len();
        let built_in = TLS_SERVER_ROOTS.len();
        assert_eq!(count(&bare, &[], true), built_in);
        assert_eq!(count(&bare, &own, true), built_in + 1);
        assert_eq!(count(&bare, &own, false), 1);
        assert_eq!(count(&with_system, &[], true), 1);
        assert_eq!(count(&with_system, &own, true), 2);
    }

    #[test]
    fn the_first_folder_of_certs_d_that_knows_a_host_counts() {
        let place = format!("image-syncer-certs-d-{}", std::process::id());
        let place = std::env::temp_dir().join(place);
        let trust = Trust {
            per_host: ["one", "two"].map(|name| place.join(name)).into(),
            ..Trust::default()
        };
        let pem = || {
            let der = STANDARD.encode(certificate().cert.der());
            format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
        };
        for (folder, count) in [
            ("one/a.example", 1),
            ("two/a.example", 2),
            ("two/b.example:443", 2),
            ("two/c.example:5000", 3),
        ] {
            let folder = place.join(folder);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..count {
                fs::write(folder.join(format!("{number}.crt")), pem()).unwrap();
            }
            fs::write(folder.join("note.txt"), pem()).unwrap();
        }
        for (host, count) in [
            ("a.example", 1),
            ("b.example", 2),
            ("b.example:443", 2),
            ("c.example:5000", 3),
            ("c.example", 0),
            ("d.example", 0),
        ] {
            let found = trust.certs_d(&Host::parse(host).unwrap());
            assert_eq!(found.ca.len(), count, "{host}");
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
