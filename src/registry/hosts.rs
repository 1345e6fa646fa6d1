//! What a run knows of registries: for each host its connections, its scheme, its login and what it turned out to be
//! able to do. Not here: requests.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::RegistryStore;
use super::authorise::SignIn;
use super::client::Client;
use super::credentials::Credentials;
use super::network::{Network, Reach, Route};
use super::rate::Rates;
use super::request::Method;
use super::url::{Scheme, Url, UrlError};
use crate::oci::{Host, Repository};
use crate::store::{Examine, Limits, Quota};

/// All registries of a run.
pub(crate) struct Registries {
    network: Network,
    credentials: Credentials,
    rates: HashMap<Host, Rates>,
    hosts: Mutex<HashMap<(Host, bool), Arc<Registry>>>,
    stores: Mutex<HashMap<(Host, Repository), Arc<RegistryStore>>>,
}

impl Registries {
    /// Nothing is connected to yet. `workers` threads will ask at the same time.
    pub(crate) fn new(credentials: Credentials, workers: usize, reach: Reach) -> Self {
        Self {
            network: Network::new(workers, reach),
            credentials,
            rates: HashMap::new(),
            hosts: Mutex::default(),
            stores: Mutex::default(),
        }
    }

    /// Keeps to these limits. Who waits for that is told by `cancel` that the run ends early.
    pub(crate) fn limited(mut self, limits: &HashMap<Host, Limits>, cancel: &Receiver<()>) -> Self {
        let rates = |(host, limits): (&Host, _)| (host.clone(), Rates::new(limits, cancel));
        self.rates = limits.iter().map(rates).collect();
        self
    }

    /// The store of a repository: the same one each time.
    pub(crate) fn store(&self, host: &Host, repository: &Repository) -> Arc<dyn Examine> {
        let mut stores = lock(&self.stores);
        let store = stores
            .entry((host.clone(), repository.clone()))
            .or_insert_with(|| {
                let registry = self.registry(host, self.credentials.insecure(host, repository));
                let sources = self.credentials.lookup(host, repository);
                let client = Client::new(registry, repository.clone(), sources);
                Arc::new(RegistryStore {
                    client: Arc::new(client),
                })
            });
        store.clone()
    }

    /// What a host said last of its quota, once.
    pub(crate) fn quota(&self, host: &Host) -> Option<Quota> {
        let hosts = lock(&self.hosts);
        let quota = |insecure| hosts.get(&(host.clone(), insecure))?.take_quota();
        quota(false).or_else(|| quota(true))
    }

    /// Cuts all connections: requests that run fail at once, and so do later ones to the hosts met so far.
    pub(crate) fn shutdown(&self) {
        for registry in lock(&self.hosts).values() {
            registry.route.shutdown();
        }
    }

    fn registry(&self, host: &Host, insecure: bool) -> Arc<Registry> {
        lock(&self.hosts)
            .entry((host.clone(), insecure))
            .or_insert_with(|| {
                let plain = self.network.is_plain(host);
                let route = self.network.route(host, insecure);
                let rates = self.rates.get(host).cloned().unwrap_or_default();
                let registry = Registry::new(host.clone(), insecure || plain, route, rates);
                if plain {
                    registry.settle_scheme(Scheme::Http);
                }
                Arc::new(registry)
            })
            .clone()
    }
}

/// One registry host, as all of its repositories see it. A host with and without `insecure` is two.
pub(super) struct Registry {
    pub(super) host: Host,
    pub(super) sign_in: SignIn,
    pub(super) route: Route,
    pub(super) rates: Rates,
    /// Nobody looks at its certificate, or it has none.
    pub(super) insecure: bool,
    scheme: OnceLock<Scheme>,
    probe: Mutex<()>,
    abilities: Mutex<Abilities>,
    /// The requests that it still answers, and until when that holds.
    quota: Mutex<Option<(u64, Instant)>>,
}

/// What a host turned out to do or not to do. It begins with the best and is only ever lowered (protocol.md Q1).
#[derive(Default)]
struct Abilities {
    self_mount: Knowledge,
    has_manifest: bool,
    single_post: Knowledge,
    mount_refused: HashSet<(Repository, Repository)>,
    upload_refused: Option<Method>,
    max_body: Option<u64>,
    lacking: HashSet<Ability>,
}

/// What most hosts can do, and all are taken to be able to do at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ability {
    /// Asking for a body before it is sent.
    Expect,
    /// Serving blobs from an offset on.
    Ranges,
    /// Taking parts of an upload that are larger than [`LARGE_PART`], each with its place.
    LargeParts,
    /// Understanding a mount that does not say where from (protocol.md E56).
    MountFromAnywhere,
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expect => "Expect: 100-continue",
            Self::Ranges => "reading blobs from an offset on",
            Self::LargeParts => "large parts of uploads",
            Self::MountFromAnywhere => "mounts from any repository",
        })
    }
}

/// What is known of something that a host may be able to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Not asked.
    #[default]
    Unknown,
    /// Somebody is asking.
    Asked,
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl Registry {
    fn new(host: Host, insecure: bool, route: Route, rates: Rates) -> Self {
        let scheme = if insecure || host.is_loopback() {
            OnceLock::new()
        } else {
            OnceLock::from(Scheme::Https)
        };
        Self {
            host,
            sign_in: SignIn::default(),
            route,
            rates,
            insecure,
            scheme,
            probe: Mutex::default(),
            abilities: Mutex::default(),
            quota: Mutex::default(),
        }
    }

    /// Keeps what an answer says of the quota.
    pub(super) fn note_quota(&self, left: u64, reset: Duration) {
        *lock(&self.quota) = Some((left, Instant::now() + reset));
    }

    fn take_quota(&self) -> Option<Quota> {
        let (left, until) = lock(&self.quota).take()?;
        let reset = until.saturating_duration_since(Instant::now());
        Some(Quota { left, reset })
    }

    /// How it is spoken to, once that is known.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.scheme.get().copied()
    }

    /// Settles how it is spoken to. The first answer counts.
    pub(super) fn settle_scheme(&self, scheme: Scheme) {
        if self.scheme.set(scheme).is_ok() && scheme == Scheme::Http {
            log::info!("{}: speaks plain http", self.host);
        }
    }

    /// Held by the one request that finds out the scheme, while others wait for what it finds (decisions D8).
    pub(super) fn probe(&self) -> MutexGuard<'_, ()> {
        lock(&self.probe)
    }

    /// Whether the registry may be spoken to in the clear: its entry says so, or it is this machine, as for docker.
    pub(super) fn may_be_plain(&self) -> bool {
        self.insecure || self.host.is_loopback()
    }

    /// A URL of the registry; `path` begins with `/`. https until something else is settled.
    pub(super) fn url(&self, path: &str) -> Result<Url, UrlError> {
        let scheme = self.scheme().unwrap_or(Scheme::Https);
        Url::new(scheme, self.host.authority(), path)
    }

    /// Whether `POST ?mount=D&from=<the same repository>` tells that a blob is there.
    pub(super) fn self_mount(&self) -> Knowledge {
        lock(&self.abilities).self_mount
    }

    /// Keeps what a self-mount showed.
    pub(super) fn learn_self_mount(&self, knowledge: Knowledge) {
        lock(&self.abilities).self_mount = knowledge;
    }

    /// Whether the caller is the one who should find out about self-mounting.
    pub(super) fn claim_self_mount(&self) -> bool {
        let mut abilities = lock(&self.abilities);
        let unknown = abilities.self_mount == Knowledge::Unknown;
        if unknown {
            abilities.self_mount = Knowledge::Asked;
        }
        unknown
    }

    /// Keeps that a manifest was put here, after all of its parts.
    pub(super) fn note_manifest(&self) {
        lock(&self.abilities).has_manifest = true;
    }

    /// Whether `POST ?digest=D` takes a whole blob (protocol.md E45).
    pub(super) fn single_post(&self) -> Knowledge {
        lock(&self.abilities).single_post
    }

    /// Whether the caller is the one who should find out about that. Not before the first image is complete: the
    /// blobs that a killed run left here were asked for by then, and what can be mounted was found out.
    pub(super) fn claim_single_post(&self) -> bool {
        let mut abilities = lock(&self.abilities);
        let claims = abilities.has_manifest && abilities.single_post == Knowledge::Unknown;
        if claims {
            abilities.single_post = Knowledge::Asked;
        }
        claims
    }

    /// Keeps what a try showed. What once was refused is not tried again.
    pub(super) fn learn_single_post(&self, knowledge: Knowledge) {
        let mut abilities = lock(&self.abilities);
        if abilities.single_post != Knowledge::No {
            abilities.single_post = knowledge;
        }
    }

    /// Whether mounts between two repositories were refused (protocol.md E55).
    pub(super) fn is_mount_refused(&self, from: &Repository, to: &Repository) -> bool {
        let pair = (from.clone(), to.clone());
        lock(&self.abilities).mount_refused.contains(&pair)
    }

    /// Remembers that mounts between two repositories are refused.
    pub(super) fn refuse_mount(&self, from: &Repository, to: &Repository) {
        let pair = (from.clone(), to.clone());
        lock(&self.abilities).mount_refused.insert(pair);
    }

    /// The method of uploads that the host does not take.
    pub(super) fn refused_upload(&self) -> Option<Method> {
        lock(&self.abilities).upload_refused
    }

    /// Takes the other method from now on. `false` where that one was refused before: there is no third.
    pub(super) fn refuse_upload(&self, method: Method) -> bool {
        let mut abilities = lock(&self.abilities);
        let first = abilities.upload_refused.is_none();
        if first {
            log::info!("{}: does not take uploads by {method}", self.host);
            abilities.upload_refused = Some(method);
        }
        first || abilities.upload_refused == Some(method)
    }

    /// The largest body that the host takes, as far as that is known; of those that say which part of an upload they are,
    /// if this one does.
    pub(super) fn max_body(&self, is_part: bool) -> u64 {
        let abilities = lock(&self.abilities);
        let max = abilities.max_body.unwrap_or(u64::MAX);
        if is_part && abilities.lacking.contains(&Ability::LargeParts) {
            max.min(LARGE_PART)
        } else {
            max
        }
    }

    /// Sends no body of `refused` bytes any more: it was too large for the host, or for a proxy before it.
    pub(super) fn lower_max_body(&self, refused: u64) {
        let mut abilities = lock(&self.abilities);
        let step = BODY_STEPS.into_iter().find(|&step| step < refused);
        // Another thread may have got further down.
        if let Some(step) = step
            && abilities.max_body.is_none_or(|max| max >= refused)
        {
            log::info!(
                "{}: does not take {refused} bytes at once, {step} are tried",
                self.host
            );
            abilities.max_body = Some(step);
        }
    }

    /// Whether the host is not known to lack an ability.
    pub(super) fn can(&self, ability: Ability) -> bool {
        !lock(&self.abilities).lacking.contains(&ability)
    }

    /// Does without an ability from now on: the host showed that it lacks it.
    pub(super) fn forgo(&self, ability: Ability) {
        if lock(&self.abilities).lacking.insert(ability) {
            log::info!("{}: does not support {ability}", self.host);
        }
    }
}

/// Sizes of bodies to fall back to, one after another.
const BODY_STEPS: [u64; 5] = [64 << 20, 16 << 20, 4 << 20, 1 << 20, 256 << 10];
/// GHCR takes no more in a PATCH with a Content-Range (protocol.md E51).
pub(super) const LARGE_PART: u64 = 4 << 20;

/// Enters a lock even where another thread panicked in it: all that is guarded here is whole after each statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, Server};
    use super::*;
    use crate::oci::{Reference, Tag};

    /// 1815127200
    const DATE: &str = "Fri, 09 Jul 2027 10:00:00 GMT";

    #[test]
    fn what_answers_say_of_the_quota_is_told_once() {
        for (headers, expected) in [
            (
                [("ratelimit-remaining", "76;w=21600")].as_slice(),
                Some((76, 21600)),
            ),
            (
                &[("RateLimit-Remaining", "0"), ("RateLimit-Reset", " 3000 ")],
                Some((0, 3000)),
            ),
            (
                &[
                    ("ratelimit-remaining", "2; w=9000"),
                    ("ratelimit-reset", "3000"),
                ],
                Some((2, 3000)),
            ),
            (
                &[
                    ("ratelimit-remaining", "5"),
                    ("ratelimit-reset", "1815133200"),
                    ("date", DATE),
                ],
                Some((5, 6000)),
            ),
            (
                &[
                    ("ratelimit-remaining", "5"),
                    ("ratelimit-reset", "18446744073709551615"),
                ],
                Some((5, 1_000_000_020)),
            ),
            (&[("ratelimit-remaining", "0")], None),
            (&[("ratelimit-remaining", "-1;w=5")], None),
            (&[("ratelimit-remaining", "5;w=soon")], None),
            (&[("ratelimit-reset", "30")], None),
        ] {
            let server = Server::start(move |_| {
                let reply = Reply::new(404);
                Some(
                    headers
                        .iter()
                        .fold(reply, |reply, (name, value)| reply.header(name, value)),
                )
            });
            let registries = server.registries(None);
            let store = registries.store(&server.host, &Repository::parse("a/b").unwrap());
            assert_eq!(registries.quota(&server.host), None);
            store
                .head(&Reference::Tag(Tag::parse("v1").unwrap()))
                .unwrap();
            let quota = registries.quota(&server.host);
            // Some of it is over already.
            let told = quota.map(|quota| {
                let minutes = quota.reset.as_secs().div_ceil(60);
                (quota.left, 60 * minutes)
            });
            assert_eq!(told, expected, "{headers:?}");
            assert_eq!(registries.quota(&server.host), None);
        }
    }
}
