//! How this program uses ureq: the agents and their limits, what certificates are trusted, where names lead. Not here:
//! requests.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::hosts::lock;
use super::url::{Scheme, Url, UrlError, check_addresses};
use crate::oci::Host;
use crate::pace::limit;

/// What all connections of a run share.
pub(super) struct Network {
    workers: usize,
    addresses: Arc<Addresses>,
    roots: OnceLock<RootCerts>,
}

impl Network {
    /// Made for so many threads.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            addresses: Arc::default(),
            roots: OnceLock::new(),
        }
    }

    /// The agents of one registry.
    pub(super) fn agents(&self, host: &Host, insecure: bool) -> Agents {
        let (name, address) = match Url::new(Scheme::Https, host.authority(), "/") {
            Ok(url) => (url.origin().host().to_owned(), url.origin().address()),
            Err(_) => (host.name().to_owned(), None),
        };
        let roots = self.roots.get_or_init(trusted_roots).clone();
        let config = |verifies_nothing| {
            let tls = TlsConfig::builder()
                .root_certs(roots.clone())
                .disable_verification(verifies_nothing);
            agent_config(self.workers).tls_config(tls.build())
        };
        let strict = self.agent(&name, config(false));
        let own = if host.is_loopback() {
            // A proxy has a loopback of its own.
            self.agent(&name, config(insecure).proxy(None))
        } else if insecure {
            self.agent(&name, config(true))
        } else {
            strict.clone()
        };
        Agents {
            name,
            address,
            own,
            strict,
        }
    }

    fn agent(&self, name: &str, config: ConfigBuilder<AgentScope>) -> Agent {
        let resolver = GuardedResolver {
            registry: name.to_owned(),
            addresses: self.addresses.clone(),
        };
        Agent::with_parts(config.build(), DefaultConnector::default(), resolver)
    }
}

/// The agents of one registry.
pub(super) struct Agents {
    /// The registry's name.
    name: String,
    /// Its address, where the name is one.
    address: Option<IpAddr>,
    own: Agent,
    /// For hosts that the registry names: that it is `insecure` itself says nothing about them (S18).
    strict: Agent,
}

impl Agents {
    /// The agent for a URL. Behind a proxy no names are looked up here, so a written address is checked now.
    pub(super) fn of(&self, url: &Url) -> Result<&Agent, UrlError> {
        if self.are_own(url) {
            return Ok(&self.own);
        }
        if let Some(address) = url.origin().address()
            && self.is_proxied(url)
        {
            check_addresses(self.address.as_slice(), &[address])?;
        }
        Ok(&self.strict)
    }

    /// Whether a URL is one of the registry's own host.
    pub(super) fn are_own(&self, url: &Url) -> bool {
        url.origin().host() == self.name
    }

    /// Cuts all connections, and fails what is asked later.
    pub(super) fn shutdown(&self) {
        self.own.clone().shutdown();
        self.strict.clone().shutdown();
    }

    fn is_proxied(&self, url: &Url) -> bool {
        let uri = url.to_request_string().parse::<Uri>();
        match (self.strict.config().proxy(), uri) {
            (Some(proxy), Ok(uri)) => !proxy.is_no_proxy(&uri),
            (proxy, _) => proxy.is_some(),
        }
    }
}

/// The settings that all agents share (decisions D7; the limits of single steps only, since a limit of the whole
/// would cost a thread a look-up and a system call a read).
fn agent_config(workers: usize) -> ConfigBuilder<AgentScope> {
    let buffer = if workers > 16 { 16 << 10 } else { 64 << 10 };
    Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("image-syncer/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(limit(CONNECT_LIMIT)))
        .timeout_recv_response(Some(limit(ANSWER_LIMIT)))
        .timeout_per_read(Some(limit(READ_LIMIT)))
        .timeout_per_write(Some(limit(WRITE_LIMIT)))
        .input_buffer_size(buffer)
        .output_buffer_size(buffer)
        // The registry itself, its token service and its storage.
        .max_idle_connections(3 * workers)
        .max_idle_connections_per_host(workers)
        .max_idle_age(IDLE_LIMIT)
}

/// The bundle of `SSL_CERT_FILE`, else that of the system, else Mozilla's as it was built in.
fn trusted_roots() -> RootCerts {
    let named = env::var_os("SSL_CERT_FILE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if let Some(path) = &named {
        match read_bundle(path) {
            Ok(roots) => return roots,
            Err(error) => log::warn!("SSL_CERT_FILE {}: {error}", path.display()),
        }
    }
    BUNDLES
        .iter()
        .find_map(|path| read_bundle(Path::new(path)).ok())
        .unwrap_or(RootCerts::WebPki)
}

fn read_bundle(path: &Path) -> io::Result<RootCerts> {
    let pem = fs::read(path)?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::other("it holds no certificate"));
    }
    Ok(RootCerts::from(certificates))
}

/// Looks names up through the cache of the run, and keeps hosts that a registry names from leading where the registry
/// is not itself (S04).
#[derive(Debug)]
struct GuardedResolver {
    /// The registry's own name.
    registry: String,
    addresses: Arc<Addresses>,
}

impl Resolver for GuardedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        _limit: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let found = self
            .addresses
            .of(host, port)
            .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        // The proxy's address is the user's word, not the registry's.
        let is_proxy = config.proxy().is_some_and(|proxy| proxy.host() == host);
        if host != self.registry && !is_proxy {
            let ips = |found: &[SocketAddr]| found.iter().map(SocketAddr::ip).collect::<Vec<_>>();
            let own = self.addresses.of(&self.registry, port).unwrap_or_default();
            check_addresses(&ips(&own), &ips(&found))
                .map_err(|error| ureq::Error::Other(Box::new(error)))?;
        }
        let mut resolved = self.empty();
        for address in found.into_iter().take(MAX_ADDRESSES) {
            resolved.push(address);
        }
        Ok(resolved)
    }
}

/// Addresses by name and port, each kept for a minute: ureq asks for every request, on a kept connection too.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<(String, u16), Lookup>>);

#[derive(Debug)]
struct Lookup {
    since: Instant,
    found: Vec<SocketAddr>,
}

impl Addresses {
    fn of(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
        let key = (host.to_owned(), port);
        if let Some(lookup) = lock(&self.0).get(&key)
            && lookup.since.elapsed() < LOOKUP_LIFE
        {
            return Ok(lookup.found.clone());
        }
        let failed = |cause| LookupError {
            host: host.to_owned(),
            cause,
        };
        // An IPv6 address is in brackets here, as in a URL.
        let found: Vec<SocketAddr> = format!("{host}:{port}")
            .to_socket_addrs()
            .map_err(failed)?
            .collect();
        if found.is_empty() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let lookup = Lookup {
            since: Instant::now(),
            found: found.clone(),
        };
        lock(&self.0).insert(key, lookup);
        Ok(found)
    }
}

/// A name without addresses.
#[derive(Debug)]
pub(super) struct LookupError {
    pub(super) host: String,
    pub(super) cause: io::Error,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no address for {}", self.host)
    }
}

impl Error for LookupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_mins(1);
const READ_LIMIT: Duration = Duration::from_mins(1);
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Shorter than what servers and their proxies keep a connection for, which is a minute and more.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
const LOOKUP_LIFE: Duration = Duration::from_mins(1);
/// ureq keeps no more.
const MAX_ADDRESSES: usize = 16;
/// Where systems keep their certificates: Debian and Alpine, Fedora, openSUSE, RHEL 7, macOS and BSD.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests {
    use ureq::unversioned::transport::time;

    use super::*;

    fn resolve(registry: &str, uri: &str) -> Result<Vec<SocketAddr>, ureq::Error> {
        let resolver = GuardedResolver {
            registry: registry.into(),
            addresses: Arc::default(),
        };
        let no_limit = NextTimeout {
            after: time::Duration::NotHappening,
            ..NextTimeout::default()
        };
        let found = resolver.resolve(&uri.parse().unwrap(), &Config::default(), no_limit)?;
        Ok(found.iter().copied().collect())
    }

    #[test]
    fn a_registry_leads_nowhere_but_where_it_is_itself() {
        for (registry, uri, address) in [
            ("127.0.0.1", "http://127.0.0.1/x", Some("127.0.0.1:80")),
            ("127.0.0.1", "https://127.0.0.2/", Some("127.0.0.2:443")),
            ("[::1]", "http://[::1]:5000/", Some("[::1]:5000")),
            ("10.0.0.1", "http://10.0.0.1/", Some("10.0.0.1:80")),
            (
                "10.0.0.1",
                "https://192.168.7.7:9000/",
                Some("192.168.7.7:9000"),
            ),
            (
                "10.0.0.1",
                "https://93.184.216.34/",
                Some("93.184.216.34:443"),
            ),
            ("10.0.0.1", "https://127.0.0.1/", None),
            ("93.184.216.34", "https://10.0.0.1/", None),
            ("93.184.216.34", "http://169.254.169.254/", None),
        ] {
            let found = resolve(registry, uri);
            match address {
                Some(address) => assert_eq!(found.unwrap(), [address.parse().unwrap()], "{uri}"),
                None => assert!(matches!(found, Err(ureq::Error::Other(_))), "{uri}"),
            }
        }
    }

    #[test]
    fn a_bundle_without_certificates_is_none() {
        let path = env::temp_dir().join(format!("image-syncer-bundle-{}", std::process::id()));
        fs::write(&path, "no certificate").unwrap();
        assert!(read_bundle(&path).is_err());
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(2);
        fs::write(&path, pem).unwrap();
        let Ok(RootCerts::Specific(certificates)) = read_bundle(&path) else {
            panic!("no certificates");
        };
        assert_eq!(certificates.len(), 2);
        fs::remove_file(&path).unwrap();
        assert!(read_bundle(&path).is_err());
    }
}
