//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it.
//!
//! ```text
//! main -> lib -> cli, config, logging, signal
//!          |---> engine -> store (ports) -> oci
//!          |       +-----> config, records, report (values)
//!          +--> registry, layout (implement store) -> store, oci, secret
//! ```
//!
//! Arrows are `use` and never point up. Only this file knows both the engine and the two kinds of places.

pub mod cli;
pub mod config;
pub mod engine;
mod layout;
mod logging;
mod nearest;
pub mod oci;
mod pace;
pub mod records;
mod registry;
pub mod report;
pub mod secret;
mod signal;
pub mod store;

use std::collections::HashMap;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cli::{Command, Options};
use config::{AuthEntry, Config, LoadOptions};
use engine::{MarkAfter, Patience, Policy};
use layout::Layout;
use logging::{Stream, print};
use oci::{Digest, Host};
use records::Journal;
use registry::auth_files;
use registry::credentials::{Credentials, Entry, Given, Proof};
use registry::{Reach, Registries};
use report::{ExitStatus, Report};
use store::{Connection, Limits, Place, Quota, StoreError, Stores, Target};

/// Runs the program with its command line, the program's name first, and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let environment = |name: &str| std::env::var_os(name);
    match cli::parse(arguments.into_iter().skip(1), &environment) {
        Ok(Command::Help(text) | Command::Version(text)) => {
            print(Stream::Stdout, &format!("{text}\n"));
            ExitStatus::InSync
        }
        Ok(Command::Sync(options)) => sync(&options).unwrap_or_else(|problem| {
            print(Stream::Stderr, &format!("{problem}\n"));
            ExitStatus::Usage
        }),
        Err(error) => {
            print(Stream::Stderr, &format!("{error}\n"));
            ExitStatus::Usage
        }
    }
}

/// One sync. An error is one of usage: nothing was touched.
fn sync(options: &Options) -> Result<ExitStatus, String> {
    let load = LoadOptions {
        config: options.config.as_deref(),
        images: &options.images,
        registry: options.registry.as_deref(),
        namespace: options.namespace.as_deref(),
    };
    let config = config::load(&load).map_err(|error| error.to_string())?;
    let rust_log = std::env::var("RUST_LOG").ok();
    logging::init(
        options.log_level,
        rust_log.as_deref(),
        options.log.as_deref(),
    )
    .map_err(|error| format!("cannot write the log: {error}; name another file with --log"))?;
    let Config {
        auth,
        rules,
        failed_rules,
        mut warnings,
    } = config;
    let places = if options.no_default_auth {
        Vec::new()
    } else {
        auth_files::places(&|name| std::env::var_os(name))
    };
    let limits: HashMap<Host, Limits> = auth
        .iter()
        .filter(|entry| entry.path.is_empty())
        .map(|entry| (entry.host.clone(), entry.limits))
        .collect();
    let reach = Reach::new(&|name| std::env::var_os(name), connections(&auth))?;
    let (credentials, more) = Credentials::load(entries(auth), places);
    warnings.extend(more);

    let (running, cancel) = crossbeam_channel::bounded::<()>(0);
    let registries = Registries::new(credentials, options.workers, reach).limited(&limits, &cancel);
    let registries = Arc::new(registries);
    let broken_off = registries.clone();
    // Before any other thread is started.
    let interrupt = signal::watch(move || drop(running), move || broken_off.shutdown());
    let interrupt = interrupt.map_err(|error| format!("cannot handle signals: {error}"))?;

    let (journal, mut hints, more) = Journal::open(&options.records);
    warnings.extend(more);
    for warning in &warnings {
        log::warn!("{warning}");
    }
    for error in &failed_rules {
        log::error!("{error}");
    }
    log::info!("{} rules, {} workers", rules.len(), options.workers);
    if let Some(time) = options.trust_records {
        let shown = humantime::format_duration(time);
        log::info!("targets are not asked for tags that the records saw within {shown}");
        hints.trust(time, SystemTime::now());
    }
    let places = Places {
        registries,
        limits,
        max_per_host: options.max_per_host,
        layouts: Mutex::default(),
    };
    let policy = Policy {
        workers: options.workers,
        time_scale: pace::scale(),
        patience: Patience {
            at_least: pace::scaled(Patience::default().at_least),
            ..Patience::default()
        },
        mark_after: MarkAfter {
            time: pace::scaled(MarkAfter::default().time),
            ..MarkAfter::default()
        },
        seed: RandomState::new().hash_one(std::process::id()),
    };
    let run = engine::Options {
        policy,
        retries: options.retries,
        hints: &hints,
        journal: &journal,
        cancel,
    };
    let mut report = engine::run(&rules, &places, &run);
    report.failed_generations += failed_rules.len();
    report
        .failures
        .splice(0..0, failed_rules.iter().map(ToString::to_string));
    report.records_lost = !journal.is_working();
    tell(&report, options);
    // A signal that came when all was done changes nothing.
    let status = interrupt
        .exit_status()
        .filter(|_| report.status() != ExitStatus::InSync);
    Ok(status.map_or(report.status(), |status| {
        ExitStatus::Interrupted(status - 128)
    }))
}

/// The end of the run: failures last, then the summary, then the words that scripts search for.
fn tell(report: &Report, options: &Options) {
    for failure in &report.failures {
        log::error!("failed: {failure}");
    }
    log::info!("{report}");
    if options.log.is_some() {
        for line in report.closing_lines().lines() {
            log::info!(target: logging::RESULTS, "{line}");
        }
    } else {
        print(Stream::Stdout, &report.closing_lines());
    }
    if let Some(reason) = &report.fatal {
        print(
            Stream::Stderr,
            &format!(
                "image-syncer: the run could not go on: {}\n",
                logging::sanitise(reason)
            ),
        );
    }
}

/// How registries are reached, each with the place of its entry.
fn connections(auth: &[AuthEntry]) -> Vec<(String, Host, Connection)> {
    let whole = auth.iter().filter(|entry| entry.path.is_empty());
    whole
        .map(|entry| {
            let place = format!("{}: auth key {:?}", entry.position, entry.key);
            (place, entry.host.clone(), entry.connection.clone())
        })
        .collect()
}

fn entries(auth: Vec<AuthEntry>) -> Vec<Entry> {
    let entry = |entry: AuthEntry| {
        let AuthEntry {
            position: _,
            key,
            host,
            path,
            username,
            password,
            password_file,
            token,
            token_file,
            helper,
            insecure,
            limits: _,
            connection: _,
        } = entry;
        let of_user = username.clone().zip(password_file);
        let login = Proof::password(username, password)
            .or(token.map(Proof::Bearer))
            .map(Given::Proof)
            .or(of_user.map(|(username, path)| Given::File(Some(username), path)))
            .or(token_file.map(|path| Given::File(None, path)))
            .or(helper.map(Given::Helper));
        Entry {
            key,
            host,
            path,
            login,
            insecure,
        }
    };
    auth.into_iter().map(entry).collect()
}

/// All places that rules can name.
struct Places {
    registries: Arc<Registries>,
    limits: HashMap<Host, Limits>,
    max_per_host: Option<usize>,
    /// One store a layout: it has the lock of its index.
    layouts: Mutex<HashMap<PathBuf, Arc<Layout>>>,
}

impl Places {
    fn layout(&self, path: &Path) -> Arc<Layout> {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts
            .entry(path.to_owned())
            .or_insert_with(|| Arc::new(Layout::open(path)))
            .clone()
    }
}

impl Stores for Places {
    fn open(&self, place: &Place) -> Arc<dyn Target> {
        match place {
            Place::Registry(host, repository) => self.registries.store(host, repository),
            Place::Layout(path) => self.layout(path),
        }
    }

    fn sole(&self, place: &Place) -> Result<Option<Digest>, StoreError> {
        match place {
            Place::Registry(..) => Ok(None),
            Place::Layout(path) => self.layout(path).sole(),
        }
    }

    fn limits(&self, registry: &Host) -> Limits {
        let limits = self.limits.get(registry).copied().unwrap_or_default();
        let bounds = [limits.concurrency, self.max_per_host];
        Limits {
            concurrency: bounds.into_iter().flatten().min(),
            ..limits
        }
    }

    fn quota(&self, registry: &Host) -> Option<Quota> {
        self.registries.quota(registry)
    }
}
