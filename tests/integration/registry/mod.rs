//! A registry in this process for tests: it holds repositories in memory, is strict about what it takes, remembers
//! every request, and goes wrong on demand. Any number of them can run at once, each on a loopback address and port
//! of its own. Not here: images to put in (`image`), and the judgement of a run (`invariants`).

mod auth;
mod fault;
mod habit;
mod history;
mod http;
mod proxy;
mod pull;
mod push;
#[cfg(test)]
pub(crate) mod raw;
#[cfg(test)]
mod selftest;
mod server;
mod state;
mod tls;

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) use auth::{Bearer, Login, TOKEN_CANARY};
pub(crate) use fault::{Act, End, Fault, Nth};
pub(crate) use habit::{Habit, SinglePost};
pub(crate) use history::{Counts, Entry, Kind};
pub(crate) use proxy::FakeProxy;
pub(crate) use push::payload_digest;
pub(crate) use state::{Parts, State, StoredManifest, is_schema1, matches, sha256};
pub(crate) use tls::{Authority, Front, Identity};

use auth::{Guard, TokenServer};
use rustls::ServerConfig;
use server::{Shared, lock};

use crate::image::Image;

/// How a fake registry is to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    address: String,
    name: Option<String>,
    tls: Option<Arc<ServerConfig>>,
    habit: Habit,
    is_gullible: bool,
    auth: Auth,
}

#[derive(Clone, Debug)]
enum Auth {
    None,
    Basic(Login),
    Bearer(Bearer),
    /// Tokens of another fake registry.
    BearerAt(Arc<TokenServer>),
}

impl Default for Options {
    /// Strict, distribution 3, without authorisation, at 127.0.0.1.
    fn default() -> Self {
        Self {
            address: "127.0.0.1".to_string(),
            name: None,
            tls: None,
            habit: Habit::DISTRIBUTION_3,
            is_gullible: false,
            auth: Auth::None,
        }
    }
}

impl Options {
    /// Listens at another loopback address: another host, for redirects and credentials. With `:PORT` at that port,
    /// else at any.
    pub(crate) fn at(mut self, address: &str) -> Self {
        self.address = address.to_string();
        self
    }

    /// Goes by this name, which leads to it through a proxy only.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_string());
        self
    }

    /// Speaks TLS.
    pub(crate) fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    pub(crate) fn habit(mut self, habit: Habit) -> Self {
        self.habit = habit;
        self
    }

    /// Takes any bytes under any digest, and any manifest: what is tested is the client's own verification (I1).
    pub(crate) fn gullible(mut self) -> Self {
        self.is_gullible = true;
        self
    }

    pub(crate) fn basic(mut self, user: &str, password: &str) -> Self {
        self.auth = Auth::Basic(Login::new(user, password));
        self
    }

    /// Wants tokens, and gives them at its own `/token`.
    pub(crate) fn bearer(mut self, bearer: Bearer) -> Self {
        self.auth = Auth::Bearer(bearer);
        self
    }

    /// Wants the tokens that another one gives, which was started with `bearer`.
    pub(crate) fn bearer_of(mut self, other: &FakeRegistry) -> Self {
        let server = other.shared.token_server.clone();
        self.auth = Auth::BearerAt(server.expect("the other one gives no tokens"));
        self
    }
}

/// A running fake registry. It stops when it is dropped.
pub(crate) struct FakeRegistry {
    shared: Arc<Shared>,
    listener: Option<thread::JoinHandle<()>>,
    /// Where it listens.
    socket: String,
    front: Option<Front>,
}

impl FakeRegistry {
    /// A strict one without authorisation.
    pub(crate) fn new() -> Self {
        Self::start(Options::default())
    }

    pub(crate) fn start(options: Options) -> Self {
        Self::start_with(options, Arc::default(), false)
    }

    /// Starts a storage host, to which this registry redirects all blob reads from now on. It refuses, and remembers,
    /// every request that shows credentials.
    pub(crate) fn redirect_blobs(&self, address: &str) -> Self {
        let options = Options::default().at(address);
        let storage = Self::start_with(options, Arc::clone(&self.shared.state), true);
        *lock(&self.shared.storage) = Some(storage.addr().to_string());
        storage
    }

    fn start_with(options: Options, state: Arc<Mutex<State>>, is_storage: bool) -> Self {
        let address = options.address.as_str();
        let socket = if address.contains(':') {
            TcpListener::bind(address)
        } else {
            TcpListener::bind((address, 0))
        };
        let socket = socket.expect("no loopback port");
        let at = |socket: &TcpListener| socket.local_addr().expect("no address").to_string();
        let addr = options.name.unwrap_or_else(|| at(&socket));
        let (socket, front) = match options.tls {
            None => (socket, None),
            Some(config) => {
                let inner = TcpListener::bind("127.0.0.1:0").expect("no loopback port");
                let front = Front::start(socket, at(&inner), config);
                (inner, Some(front))
            }
        };
        let mut token_server = None;
        let guard = match options.auth {
            Auth::None => Guard::None,
            Auth::Basic(login) => Guard::Basic(login),
            Auth::BearerAt(server) => Guard::Bearer(server),
            Auth::Bearer(bearer) => {
                let server = Arc::new(TokenServer::new(bearer, &addr));
                token_server = Some(Arc::clone(&server));
                Guard::Bearer(server)
            }
        };
        let shared = Arc::new(Shared {
            addr,
            habit: options.habit,
            is_gullible: options.is_gullible,
            is_storage,
            guard,
            token_server,
            state,
            history: history::History::default(),
            faults: Mutex::default(),
            storage: Mutex::default(),
            unexpected: Mutex::default(),
            connections: server::Connections::default(),
            stop: server::Stop::default(),
        });
        let listening = Arc::clone(&shared);
        let inner = at(&socket);
        let listener = thread::Builder::new()
            .name(shared.addr.clone())
            .spawn(move || server::listen(&listening, &socket))
            .expect("no thread");
        Self {
            shared,
            listener: Some(listener),
            socket: inner,
            front,
        }
    }

    /// Where its name leads.
    pub(crate) fn socket(&self) -> &str {
        self.front.as_ref().map_or(&self.socket, Front::addr)
    }

    /// `ADDRESS:PORT`, the registry's host in a reference.
    pub(crate) fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// `ADDRESS:PORT/REPOSITORY`.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.shared.addr)
    }

    /// Adds a fault. Rules are asked in the order in which they were added, and all that meet a request act on it.
    pub(crate) fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    pub(crate) fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// How many times faults acted.
    pub(crate) fn faults_acted(&self) -> usize {
        let faults = lock(&self.shared.faults);
        faults.iter().map(Fault::acted).sum()
    }

    // What it holds.

    /// Looks at, or changes, all that it holds.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut lock(&self.shared.state))
    }

    /// Puts an image with all its parts under a tag.
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.push_untagged(repository, image);
        self.with_state(|state| state.put_tag(repository, tag, &image.digest));
    }

    /// Puts an image with all its parts under its digest.
    pub(crate) fn push_untagged(&self, repository: &str, image: &Image) {
        for child in &image.children {
            self.push_untagged(repository, child);
        }
        self.with_state(|state| {
            for blob in &image.blobs {
                state.put_blob(repository, &blob.digest, Arc::clone(&blob.bytes));
            }
            let manifest = StoredManifest {
                media_type: image.media_type.clone(),
                bytes: Arc::clone(&image.bytes),
            };
            state.put_manifest(repository, &image.digest, manifest);
        });
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.with_state(|state| state.blob(repository, digest))
    }

    /// A manifest by tag or digest, with its digest.
    pub(crate) fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Option<(String, StoredManifest)> {
        self.with_state(|state| state.manifest(repository, reference))
    }

    /// The tags of a repository in their order; none where there is no such repository.
    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        self.with_state(|state| {
            let found = state.repositories.get(repository);
            found.map_or_else(Vec::new, |found| found.tags.keys().cloned().collect())
        })
    }

    /// Takes a blob or manifest away.
    pub(crate) fn remove(&self, repository: &str, digest: &str) {
        self.with_state(|state| state.remove(repository, digest));
    }

    // What happened.

    /// Every request since the start or the last `forget`, by the time it began.
    pub(crate) fn history(&self) -> Vec<Entry> {
        self.shared.history.all()
    }

    /// Begins the history anew.
    pub(crate) fn forget(&self) {
        self.shared.history.clear();
    }

    /// Waits until the history holds something; panics if it does not within 30 s.
    pub(crate) fn wait_until(&self, condition: impl FnMut(&[Entry]) -> bool) {
        let came = self.shared.history.wait_until(condition);
        assert!(came, "waited in vain; history: {:#?}", self.history());
    }

    /// How many requests of each kind there were, those that only met a challenge left out.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for entry in self.history() {
            if !entry.is_challenged {
                *counts.entry(entry.kind).or_default() += 1;
            }
        }
        counts
    }

    /// How many requests of this kind there were, those that only met a challenge left out.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.counts().get(&kind).copied().unwrap_or_default()
    }

    /// How many requests there were, tokens and those that only met a challenge left out.
    pub(crate) fn total(&self) -> usize {
        let counts = self.counts();
        let tokens = counts.get(&Kind::Token).copied().unwrap_or_default();
        counts.values().sum::<usize>() - tokens
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.accepted.load(Ordering::SeqCst)
    }

    /// How many connections were open at once.
    pub(crate) fn peak_connections(&self) -> usize {
        self.shared.connections.peak.load(Ordering::SeqCst)
    }

    /// What should never have been asked, in words.
    pub(crate) fn unexpected(&self) -> Vec<String> {
        lock(&self.shared.unexpected).clone()
    }

    // What must stay secret.

    /// The user whom it knows.
    pub(crate) fn login(&self) -> Option<Login> {
        match &self.shared.guard {
            Guard::None => None,
            Guard::Basic(login) => Some(login.clone()),
            Guard::Bearer(server) => server.login().cloned(),
        }
    }

    /// Every token that was ever good here.
    pub(crate) fn tokens(&self) -> Vec<String> {
        match &self.shared.guard {
            Guard::Bearer(server) => server.all_tokens(),
            _ => Vec::new(),
        }
    }

    /// A token for these repositories, as its service would give it.
    pub(crate) fn issue_token(&self, repositories: &[&str]) -> String {
        let server = self.shared.token_server.as_ref();
        server.expect("it gives no tokens").issue_for(repositories)
    }

    /// Whether the secrets of `other` may come here: it is the same, or gives or takes the same tokens.
    pub(crate) fn may_see_secrets_of(&self, other: &Self) -> bool {
        let Guard::Bearer(wanted) = &other.shared.guard else {
            return self.addr() == other.addr();
        };
        let gives = self.shared.token_server.as_ref();
        let takes = match &self.shared.guard {
            Guard::Bearer(server) => Some(server),
            _ => None,
        };
        [gives, takes]
            .into_iter()
            .flatten()
            .any(|server| Arc::ptr_eq(server, wanted))
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.stop.set();
        // The listener sees that it is to stop when somebody comes.
        drop(TcpStream::connect(&self.socket));
        if let Some(listener) = self.listener.take() {
            // A panic of its threads has been remembered, and a drop must not panic.
            drop(listener.join());
        }
    }
}
