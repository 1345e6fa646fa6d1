//! image-syncer copies container images from registries to registries by a file of rules.
//!
//! There is no promise of stability for this library: it is the program, cut so that its tests can reach it. Its layers
//! are in ARCHITECTURE.md; only this file knows both the engine and the two kinds of places. Not here: any of the work.

pub mod cli;
pub mod config;
mod doctor;
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
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cli::{Command, Options};
use config::{AuthEntry, Config, LoadOptions, Login, RuleError};
use doctor::Findings;
use engine::{Gauge, MarkAfter, Patience, Policy};
use layout::Layout;
use logging::{Stream, print};
use oci::{Digest, Host};
use progress::Progress;
use records::Journal;
use registry::auth_files;
use registry::credentials::{Credentials, Entry, Given, Proof};
use registry::{Reach, Registries};
use report::{ExitStatus, Preview, Report};
use store::{Connection, Examine, Examiner, Limits, Place, Quota, StoreError, Stores, Target};

/// Runs the program with its command line, the program's name first, and gives its exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitStatus {
    match cli::parse(arguments.into_iter().skip(1), &environment) {
        Ok(Command::Print(text)) => {
            print(Stream::Stdout, &text);
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

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// One sync. An error is one of usage: nothing was touched.
fn sync(options: &Options) -> Result<ExitStatus, String> {
    let load = LoadOptions {
        config: options.config.as_deref(),
        auth: options.auth.as_deref(),
        images: options.images.as_deref(),
        rule: &options.rule,
        registry: options.registry.as_deref(),
        namespace: options.namespace.as_deref(),
        platforms: options.platforms.as_ref(),
        force: options.force,
        referrers: options.referrers,
    };
    let config = config::load(&load, &environment).map_err(|error| error.to_string())?;
    check_outputs(options)?;
    start_log(options)?;
    let Config {
        auth,
        rules,
        failed_rules,
        mut warnings,
    } = config;
    let places = if options.no_default_auth {
        Vec::new()
    } else {
        auth_files::places(&environment)
    };
    let limits: HashMap<Host, Limits> = auth
        .iter()
        .filter(|entry| entry.path.is_empty())
        .map(|entry| (entry.host.clone(), entry.limits))
        .collect();
    let reach = Reach::new(&environment, connections(&auth))?;
    let (credentials, more) = Credentials::load(entries(auth), places);
    warnings.extend(more);

    let (running, cancel) = crossbeam_channel::bounded::<()>(0);
    let registries = Registries::new(credentials, options.workers, reach).limited(&limits, &cancel);
    let registries = Arc::new(registries);
    let broken_off = registries.clone();
    // Before any other thread is started.
    let interrupt = signal::watch(move || drop(running), move || broken_off.shutdown());
    let interrupt = interrupt.map_err(|error| format!("cannot handle signals: {error}"))?;

    let places = Places {
        registries,
        limits,
        max_per_host: options.max_per_host,
        layouts: Mutex::default(),
    };
    if options.doctor {
        for warning in &warnings {
            log::warn!("{warning}");
        }
        let findings = doctor::examine(&rules, &failed_rules, &places, options.workers, &cancel);
        return Ok(match interrupt.signal() {
            Some(signal) => ExitStatus::Interrupted(signal),
            None => tell_findings(&findings, options),
        });
    }

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
    log::info!("rules: {}, workers: {}", rules.len(), options.workers);
    if let Some(time) = options.trust_records {
        let shown = humantime::format_duration(time);
        log::info!("targets are not asked for tags that the records saw within {shown}");
        hints.trust(time, SystemTime::now());
    }
    let gauge = Arc::new(Gauge::default());
    // With a log file, nothing but the log says anything.
    let progress = (!options.quiet && options.log.is_none())
        .then(|| Progress::start(gauge.clone(), cancel.clone(), &environment));
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
    let status = report.status();
    Ok(match interrupt.signal() {
        Some(signal) if status != ExitStatus::InSync => ExitStatus::Interrupted(signal),
        _ => status,
    })
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
    let success = &options.output_success_images;
    let failed = &options.output_failed_images;
    for (flag, path) in [
        ("--output-success-images", success),
        ("--output-failed-images", failed),
    ] {
        if let Some(path) = path {
            output::check(path).map_err(|error| cannot_write(path, &error, flag))?;
        }
    }
    if success.is_some() && success == failed {
        return Err(
            "--output-success-images and --output-failed-images name one file; name two".into(),
        );
    }
    Ok(())
}

/// Starts the log as the command line and the environment have it.
fn start_log(options: &Options) -> Result<(), String> {
    let rust_log = std::env::var("RUST_LOG").ok();
    let (level, file) = (options.log_level, options.log.as_deref());
    logging::init(level, rust_log.as_deref(), options.quiet, file).map_err(|error| {
        let path = file.unwrap_or(Path::new("the log"));
        cannot_write(path, &error, "--log")
    })
}

fn cannot_write(path: &Path, error: &io::Error, flag: &str) -> String {
    let path = path.display();
    format!("cannot write {path}: {error}; name another file with {flag}")
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
    print_results(&report.results(), options);
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

/// What the doctor found, on stdout alone: it has no other result.
fn tell_findings(findings: &Findings, options: &Options) -> ExitStatus {
    print_results(&findings.to_string(), options);
    if findings.are_good() {
        ExitStatus::InSync
    } else {
        ExitStatus::Failed
    }
}

/// Results go to stdout, but into the log where that is a file.
fn print_results(text: &str, options: &Options) {
    for line in text.lines() {
        if options.log.is_some() {
            log::info!(target: logging::RESULTS, "{line}");
        } else {
            print(Stream::Stdout, &format!("{}\n", logging::sanitise(line)));
        }
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
            login,
            insecure,
            limits: _,
            connection: _,
        } = entry;
        let login = login.and_then(|login| match login {
            Login::Password(username, password) => {
                Proof::password(Some(username), Some(password)).map(Given::Proof)
            }
            Login::PasswordFile(username, path) => Some(Given::File(Some(username), path)),
            Login::Token(token) => Some(Given::Proof(Proof::Bearer(token))),
            Login::TokenFile(path) => Some(Given::File(None, path)),
            Login::Helper(name) => Some(Given::Helper(name)),
        });
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

impl Examiner for Places {
    fn examined(&self, place: &Place) -> Arc<dyn Examine> {
        match place {
            Place::Registry(host, repository) => self.registries.store(host, repository),
            Place::Layout(path) => self.layout(path),
        }
    }
}

impl Stores for Places {
    fn open(&self, place: &Place) -> Arc<dyn Target> {
        self.examined(place)
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
