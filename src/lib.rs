//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it.
//!
//! ```text
//! main -> lib -> cli, config, logging, signal, progress
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
pub mod output;
mod pace;
mod progress;
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
use config::{AuthEntry, Config, LoadOptions, RuleError};
use engine::{Gauge, MarkAfter, Patience, Policy};
use layout::Layout;
use logging::{Stream, print};
use oci::{Digest, Host};
use progress::Progress;
use records::Journal;
use registry::Registries;
use registry::credentials::{Credentials, Entry, docker_config_path};
use report::{ExitStatus, Preview, Report};
use store::{Limits, Place, Quota, StoreError, Stores, Target};

/// Runs the program with its command line, the program's name first, and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let environment = |name: &str| std::env::var_os(name);
    match cli::parse(arguments.into_iter().skip(1), &environment) {
        Ok(Command::Help(text) | Command::Version(text)) => {
            print(Stream::Stdout, &format!("{text}\n"));
            ExitStatus::InSync
        }
        Ok(Command::Schema) => {
            print(Stream::Stdout, config::SCHEMA);
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
    let platforms = options.platforms.clone().map(Arc::new);
    let load = LoadOptions {
        config: options.config.as_deref(),
        auth: options.auth.as_deref(),
        images: options.images.as_deref(),
        rule: &options.rule,
        registry: options.registry.as_deref(),
        namespace: options.namespace.as_deref(),
        platforms: platforms.as_ref(),
        force: options.force,
        referrers: options.referrers,
    };
    let config =
        config::load(&load, &|name| std::env::var_os(name)).map_err(|error| error.to_string())?;
    check_outputs(options)?;
    let rust_log = std::env::var("RUST_LOG").ok();
    logging::init(
        options.log_level,
        rust_log.as_deref(),
        options.quiet,
        options.log.as_deref(),
    )
    .map_err(|error| format!("cannot write the log: {error}; name another file with --log"))?;
    let Config {
        auth,
        rules,
        failed_rules,
        mut warnings,
    } = config;
    let docker = docker_config_path(std::env::var_os("DOCKER_CONFIG"), std::env::var_os("HOME"));
    let limits: HashMap<Host, Limits> = auth
        .iter()
        .filter(|entry| entry.path.is_empty())
        .map(|entry| (entry.host.clone(), entry.limits))
        .collect();
    let (credentials, more) = Credentials::load(entries(auth), docker.as_deref());
    warnings.extend(more);

    let (running, cancel) = crossbeam_channel::bounded::<()>(0);
    let registries = Registries::new(credentials, options.workers).limited(&limits, &cancel);
    let registries = Arc::new(registries);
    let broken_off = registries.clone();
    // Before any other thread is started.
    let interrupt = signal::watch(move || drop(running), move || broken_off.shutdown());
    let interrupt = interrupt.map_err(|error| format!("cannot handle signals: {error}"))?;

    let (journal, mut hints, more) = if options.dry_run {
        Journal::read(&options.records)
    } else {
        Journal::open(&options.records)
    };
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
    let gauge = Arc::new(Gauge::default());
    // With a log file, nothing but the log says anything.
    let progress = (!options.quiet && options.log.is_none()).then(|| {
        let environment = |name: &str| std::env::var(name).ok();
        Progress::start(gauge.clone(), cancel.clone(), &environment)
    });
    let run = engine::Options {
        policy: policy(options),
        retries: options.retries,
        is_dry: options.dry_run,
        hints: &hints,
        journal: &journal,
        gauge: &gauge,
        names_images: options.output_success_images.is_some()
            || options.output_failed_images.is_some(),
        now: SystemTime::now(),
        cancel,
    };
    let mut report = engine::run(&rules, &places, &run);
    drop(progress);
    add(&mut report, &failed_rules, options);
    report.records_lost = !options.dry_run && !journal.is_working();
    write_images(&mut report, options);
    tell(&report, options);
    // A signal that came when all was done changes nothing.
    let status = interrupt
        .exit_status()
        .filter(|_| report.status() != ExitStatus::InSync);
    Ok(status.map_or(report.status(), |status| {
        ExitStatus::Interrupted(status - 128)
    }))
}

/// What the engine may do, with the waits of tests.
fn policy(options: &Options) -> Policy {
    Policy {
        workers: options.workers,
        time_scale: pace::scale(),
        patience: Patience {
            at_least: pace::scaled(options.detach_after),
            share: f64::from(options.detach_share) / 100.0,
        },
        mark_after: MarkAfter {
            bytes: options.checkpoint_bytes,
            time: pace::scaled(options.checkpoint_time),
        },
        seed: RandomState::new().hash_one(std::process::id()),
    }
}

/// Has rules that are wrong counted and told with those that yielded no images.
fn add(report: &mut Report, failed: &[RuleError], options: &Options) {
    report.failed_generations += failed.len();
    let failures = failed.iter().map(ToString::to_string);
    report.failures.splice(0..0, failures);
    if options.dry_run {
        let previews = failed.iter().map(|error| Preview {
            title: error.position.to_string(),
            failure: Some(error.what.to_string()),
            ..Preview::default()
        });
        report.previews.splice(0..0, previews);
    }
}

/// Whether the files that are to name images could be written, before anything is touched.
fn check_outputs(options: &Options) -> Result<(), String> {
    for (flag, path) in [
        ("--output-success-images", &options.output_success_images),
        ("--output-failed-images", &options.output_failed_images),
    ] {
        if let Some(path) = path {
            output::check(path).map_err(|error| {
                let path = path.display();
                format!("cannot write {path}: {error}; name another file with {flag}")
            })?;
        }
    }
    Ok(())
}

/// Writes the files that name images. A run that was asked for one and cannot write it is not to look successful.
fn write_images(report: &mut Report, options: &Options) {
    for (path, images) in [
        (&options.output_success_images, &report.succeeded),
        (&options.output_failed_images, &report.failed),
    ] {
        if let Some(path) = path
            && let Err(error) = output::write(path, images, options.output_images_format)
        {
            let reason = format!("cannot write {}: {error}", path.display());
            log::error!("{reason}");
            report.fatal.get_or_insert(reason);
        }
    }
}

/// The end of the run: failures last, then the summary, then the words that scripts search for.
fn tell(report: &Report, options: &Options) {
    for failure in &report.failures {
        log::error!("failed: {failure}");
    }
    log::info!("{report}");
    for line in report.results().lines() {
        if options.log.is_some() {
            log::info!(target: logging::RESULTS, "{line}");
        } else {
            print(Stream::Stdout, &format!("{}\n", logging::sanitise(line)));
        }
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

fn entries(auth: Vec<AuthEntry>) -> Vec<Entry> {
    let entry = |entry: AuthEntry| {
        let AuthEntry {
            position: _,
            key,
            host,
            path,
            username,
            password,
            insecure,
            limits: _,
        } = entry;
        Entry {
            key,
            host,
            path,
            username,
            password,
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
