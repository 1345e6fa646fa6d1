//! How this program uses ureq: the agents and their limits, through which proxy, where names lead. Not here: requests.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::config::{Config, ConfigBuilder};
use ureq::http::Uri;
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector, NextTimeout, SocksConnector, TcpConnector,
};
use ureq::{Agent, ProxyProtocol};

use super::connect::{Shown, TlsConnector};
use super::hosts::lock;
use super::proxy::Proxies;
use super::trust::{Certificates, Trust};
use super::url::{Scheme, Url, UrlError, check_addresses};
use crate::oci::Host;
use crate::pace::limit;
use crate::secret::Secret;
use crate::store::Connection;

/// How registries are reached: what the environment says, and the entries of single ones.
#[derive(Default)]
pub(crate) struct Reach {
    trust: Trust,
    proxies: Proxies<Proxy>,
    entries: HashMap<Host, Entry>,
}

/// What the entry of one registry says.
#[derive(Clone, Default)]
struct Entry {
    certificates: Certificates,
    is_plain: bool,
    way: Way,
}

/// Through which proxy a registry, and whatever it names, is reached.
#[derive(Clone, Default)]
enum Way {
    /// That of the environment, if it has one for the host.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, whatever the environment says.
    Through(Proxy),
}

impl Reach {
    /// Takes the environment and the entries, each with its place. The files that they name are read.
    ///
    /// # Errors
    /// All that cannot be used, one a line.
    pub(crate) fn new(
        environment: &dyn Fn(&str) -> Option<OsString>,
        entries: impl IntoIterator<Item = (String, Host, Connection)>,
    ) -> Result<Self, String> {
        let mut problems = Vec::new();
        let text = |name: &str| environment(name)?.into_string().ok();
        let proxies = Proxies::read(&text, Proxy::parse);
        let proxies = proxies.unwrap_or_else(|problem| {
            problems.push(problem);
            Proxies::default()
        });
        let mut known = HashMap::new();
        for (place, host, connection) in entries {
            let proxy = connection.proxy.as_ref().map(Secret::expose);
            let way = match proxy.map(str::trim) {
                None | Some("") => Way::Environment,
                Some(text) if text.eq_ignore_ascii_case("none") => Way::Direct,
                Some(text) => match Proxy::parse(&format!("`proxy` of {host}"), text) {
                    Ok(proxy) => Way::Through(proxy),
                    Err(problem) => {
                        problems.push(format!("{place}: {problem}, or \"none\""));
                        continue;
                    }
                },
            };
            match Certificates::read(&connection) {
                Ok(certificates) => {
                    let entry = Entry {
                        certificates,
                        is_plain: connection.plain_http,
                        way,
                    };
                    known.insert(host, entry);
                }
                Err(error) => problems.push(format!("{place}: {error}")),
            }
        }
        if problems.is_empty() {
            let trust = Trust::new(environment);
            Ok(Self {
                trust,
                proxies,
                entries: known,
            })
        } else {
            Err(problems.join("\n"))
        }
    }
}

/// A proxy. Its login is never shown.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) settings: ureq::Proxy,
    /// Its address, and who named it.
    shown: String,
}

impl Proxy {
    /// Reads `[http|https|socks5|socks5h://][USER:PASSWORD@]HOST[:PORT]`. Names are always looked up by the proxy, as Go
    /// has it for all of these.
    fn parse(named_by: &str, text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{named_by} is not the URL of a proxy; write http://HOST:PORT (or https, or socks5), a login before the \
                 host as USER:PASSWORD@, with %XX for special characters"
            )
        };
        let parsed = ureq::Proxy::new(text).map_err(|_| bad())?;
        let (protocol, scheme) = match parsed.protocol() {
            ProxyProtocol::Http => (ProxyProtocol::Http, "http"),
            ProxyProtocol::Https => (ProxyProtocol::Https, "https"),
            ProxyProtocol::Socks5 | ProxyProtocol::Socks5h => (ProxyProtocol::Socks5h, "socks5"),
            _ => return Err(bad()),
        };
        // ureq would take a port that is none for the usual one, and nobody for a host.
        let written = parsed
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str());
        let (_, written) = written.rsplit_once('@').unwrap_or(("", written));
        Url::new(Scheme::Http, written, "/").map_err(|_| bad())?;
        let (host, port) = (parsed.host(), parsed.port());
        let mut builder = ureq::Proxy::builder(protocol).host(host).port(port);
        if let Some(username) = parsed.username() {
            builder = builder.username(username);
        }
        if let Some(password) = parsed.password() {
            builder = builder.password(password);
        }
        Ok(Self {
            settings: builder.build().map_err(|_| bad())?,
            shown: format!("{scheme}://{host}:{port} ({named_by})"),
        })
    }

    /// Whether its refusals look like any other failure of a socket.
    pub(super) fn is_socks(&self) -> bool {
        self.settings.protocol() == ProxyProtocol::Socks5h
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What all connections of a run share.
pub(super) struct Network {
    workers: usize,
    addresses: Arc<Addresses>,
    reach: Arc<Reach>,
}

impl Network {
    /// Made for so many threads.
    pub(super) fn new(workers: usize, reach: Reach) -> Self {
        Self {
            workers,
            addresses: Arc::default(),
            reach: Arc::new(reach),
        }
    }

    /// Whether the entry of a registry says that it speaks http and nothing else.
    pub(super) fn is_plain(&self, host: &Host) -> bool {
        self.reach
            .entries
            .get(host)
            .is_some_and(|entry| entry.is_plain)
    }

    /// The way to one registry.
    pub(super) fn route(&self, host: &Host, insecure: bool) -> Route {
        let (name, address) = match Url::new(Scheme::Https, host.authority(), "/") {
            Ok(url) => (url.origin().host().to_owned(), url.origin().address()),
            Err(_) => (host.name().to_owned(), None),
        };
        let entry = self.reach.entries.get(host).cloned();
        let Entry {
            mut certificates,
            way,
            ..
        } = entry.unwrap_or_default();
        if !certificates.is_complete() {
            certificates = certificates.or(self.reach.trust.certs_d(host));
        }
        let (own, others) = self.reach.trust.configs(&certificates, insecure);
        let shown = Shown::default();
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector {
                    registry: name.clone(),
                    own,
                    others,
                    shown: Arc::clone(&shown),
                });
        let resolver = GuardedResolver {
            registry: name.clone(),
            addresses: self.addresses.clone(),
        };
        Route {
            agent: Agent::with_parts(agent_config(self.workers).build(), connector, resolver),
            name,
            address,
            way,
            reach: self.reach.clone(),
            addresses: self.addresses.clone(),
            shown,
        }
    }
}

/// The way to one registry, and to the hosts that it names.
pub(super) struct Route {
    /// The registry's name.
    name: String,
    /// Its address, where the name is one.
    address: Option<IpAddr>,
    pub(super) agent: Agent,
    way: Way,
    reach: Arc<Reach>,
    addresses: Arc<Addresses>,
    shown: Shown,
}

impl Route {
    /// The proxy for a URL. Behind one no names are looked up here, so a written address is checked now.
    pub(super) fn proxy(&self, url: &Url) -> Result<Option<&Proxy>, UrlError> {
        let proxy = match &self.way {
            Way::Environment => self.reach.proxies.of(url.origin()),
            Way::Direct => None,
            Way::Through(proxy) => Some(proxy),
        };
        if let Some(address) = url.origin().address()
            && proxy.is_some()
            && !self.is_own(url)
        {
            check_addresses(self.address.as_slice(), &[address])?;
        }
        Ok(proxy)
    }

    /// Where the registry's name leads, as far as that is known.
    pub(super) fn addresses(&self, port: u16) -> Vec<IpAddr> {
        let found = self.addresses.of(&self.name, port).unwrap_or_default();
        found.iter().map(SocketAddr::ip).collect()
    }

    /// The certificate that the registry has shown, in DER, once there was one.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        self.shown.get().map(Vec::as_slice)
    }

    /// Whether a URL is one of the registry's own host.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin().host() == self.name
    }

    /// Cuts all connections, and fails what is asked later.
    pub(super) fn shutdown(&self) {
        self.agent.clone().shutdown();
    }
}

/// The settings that all agents share (decisions D7; the limits of single steps only, since a limit of the whole
/// would cost a thread a look-up and a system call a read).
fn agent_config(workers: usize) -> ConfigBuilder<AgentScope> {
    let buffer = if workers > 16 { 16 << 10 } else { 64 << 10 };
    Config::builder()
        // Chosen for each request: ureq reads the environment in its own way.
        .proxy(None)
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

#[cfg(test)]
mod tests {
    use ureq::unversioned::transport::time;

    use super::*;

    #[test]
    fn a_proxy_is_chosen_by_the_entry_and_then_by_the_environment() {
        let environment = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://u:hunter2@outside:3128".into()),
            "NO_PROXY" => Some("direct.example".into()),
            _ => None,
        };
        let entry = |name: &str, proxy: &str| {
            let connection = Connection {
                proxy: Some(Secret::new(proxy.into())),
                ..Connection::default()
            };
            (String::new(), Host::parse(name).unwrap(), connection)
        };
        let entries = [
            entry("none.example", "NONE"),
            entry("own.example", "socks5://own"),
            entry("127.0.0.1:5000", "own:1080"),
            entry("empty.example", ""),
        ];
        let network = Network::new(1, Reach::new(&environment, entries).unwrap());
        let (outside, own) = (
            Some("http://outside:3128 (HTTPS_PROXY)"),
            Some("socks5://own:1080 (`proxy` of own.example)"),
        );
        let of_loopback = Some("http://own:1080 (`proxy` of 127.0.0.1:5000)");
        for (registry, url, shown) in [
            ("r.example", "https://r.example/", outside),
            ("r.example", "https://storage.example/", outside),
            ("r.example", "http://r.example/", None),
            ("direct.example", "https://direct.example/", None),
            ("direct.example", "https://storage.example/", outside),
            ("127.0.0.1:6000", "https://127.0.0.1:6000/", None),
            ("none.example", "https://storage.example/", None),
            ("own.example", "http://own.example/", own),
            ("own.example", "https://direct.example/", own),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/", of_loopback),
            ("empty.example", "https://empty.example/", outside),
        ] {
            let route = network.route(&Host::parse(registry).unwrap(), false);
            let proxy = route.proxy(&Url::parse(url).unwrap()).unwrap();
            let found = proxy.map(ToString::to_string);
            assert_eq!(found.as_deref(), shown, "{registry} {url}");
        }
        // What a proxy would look up cannot be checked, but what is written can (S04).
        let route = network.route(&Host::parse("r.example").unwrap(), false);
        for url in [
            "https://169.254.169.254/",
            "https://127.0.0.1:1/",
            "https://10.0.0.1/",
        ] {
            let found = route.proxy(&Url::parse(url).unwrap());
            let is_direct = found.as_ref().is_ok_and(Option::is_none);
            assert!(found.is_err() || is_direct && url.contains("127."), "{url}");
        }
    }

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
}
