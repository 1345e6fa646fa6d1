//! The programs that are measured, and how each is told to do the same work: as its documents say, with the same number
//! of workers where it has such a setting. Not here: the work.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::Outcome;

/// What is told to each program.
pub(crate) struct Job<'a> {
    /// The registry that is read.
    pub(crate) source: &'a str,
    /// Those that are written.
    pub(crate) targets: &'a [String],
    pub(crate) repositories: &'a [String],
    pub(crate) workers: usize,
    /// A folder for its files, which no other program uses.
    pub(crate) folder: &'a Path,
}

/// Which program it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    ImageSyncer,
    Crane,
    Regsync,
    Skopeo,
    Ocync,
    /// AliyunContainerService/image-syncer 1.5.
    Original,
}

/// The others, by the names of their programs, and how to ask for their version.
const PEERS: [(Tool, &str, &str); 4] = [
    (Tool::Crane, "crane", "version"),
    (Tool::Regsync, "regsync", "version"),
    (Tool::Skopeo, "skopeo", "--version"),
    (Tool::Ocync, "ocync", "--version"),
];

/// A program that was found.
pub(crate) struct Program {
    pub(crate) tool: Tool,
    /// Name and version.
    pub(crate) name: String,
    path: PathBuf,
}

impl Program {
    /// The program that is measured against the others.
    pub(crate) fn ours(path: PathBuf) -> Self {
        Self::new(Tool::ImageSyncer, "image-syncer", path, "--version")
    }

    /// The one that it is the successor of.
    pub(crate) fn original(path: PathBuf) -> Self {
        Self::new(Tool::Original, "image-syncer (Go)", path, "--version")
    }

    /// The others that these folders have.
    pub(crate) fn peers(folders: &[PathBuf]) -> impl Iterator<Item = Self> {
        PEERS.iter().filter_map(|(tool, name, ask)| {
            find(folders, name).map(|path| Self::new(*tool, name, path, ask))
        })
    }

    fn new(tool: Tool, name: &str, path: PathBuf, ask: &str) -> Self {
        let version = version(&path, &[ask]).map(|version| format!(" {version}"));
        let name = format!("{name}{}", version.unwrap_or_default());
        Self { tool, name, path }
    }

    /// Whether it is the one that the others are compared with.
    pub(crate) fn is_ours(&self) -> bool {
        self.tool == Tool::ImageSyncer
    }

    /// Whether one run of it copies to several registries.
    pub(crate) fn fans_out(&self) -> bool {
        !matches!(self.tool, Tool::Crane | Tool::Skopeo)
    }

    /// The commands that do the job, to be run one after another.
    pub(crate) fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        let Job {
            source, workers, ..
        } = job;
        let mut commands = Vec::new();
        match self.tool {
            Tool::ImageSyncer => {
                let config = json!({"auth": insecure(job), "images": images(job)}).to_string();
                let config = write(job, "image-syncer.json", &config)?;
                let mut command = self.command(job);
                command.arg("--config").arg(config);
                command.arg("--records").arg(job.folder.join("records"));
                command.args(["--proc", &workers.to_string()]);
                commands.push(command);
            }
            Tool::Original => {
                let mut command = self.command(job);
                let auth = write(job, "auth.json", &insecure(job).to_string())?;
                command.arg("--auth").arg(auth);
                let images = write(job, "images.json", &images(job).to_string())?;
                command.arg("--images").arg(images);
                command.args(["--proc", &workers.to_string()]);
                commands.push(command);
            }
            Tool::Crane => {
                for (target, repository) in each(job) {
                    let mut command = self.command(job);
                    command.args(["copy", "--insecure", "--all-tags", "--jobs"]);
                    command.arg(workers.to_string());
                    command.arg(format!("{source}/{repository}"));
                    command.arg(format!("{target}/{repository}"));
                    commands.push(command);
                }
            }
            Tool::Skopeo => {
                for (target, repository) in each(job) {
                    let mut command = self.command(job);
                    command.args(["sync", "--all", "--src", "docker", "--dest", "docker"]);
                    command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
                    // Layers of noise are no gzip, and it would compress them on the way.
                    command.arg("--preserve-digests");
                    command.arg(format!("{source}/{repository}"));
                    // It puts the last part of the source's name below this by itself.
                    let (parent, _) = repository.rsplit_once('/').unwrap_or(("", repository));
                    command.arg(format!("{target}/{parent}"));
                    commands.push(command);
                }
            }
            // Both read YAML, of which JSON is a part.
            Tool::Regsync => {
                let credentials: Vec<_> = registries(job)
                    .map(|name| json!({"registry": name, "tls": "disabled", "reqConcurrent": workers}))
                    .collect();
                let sync: Vec<_> = each(job)
                    .map(|(target, repository)| {
                        json!({
                            "source": format!("{source}/{repository}"),
                            "target": format!("{target}/{repository}"),
                            "type": "repository",
                        })
                    })
                    .collect();
                let config = json!({
                    "version": 1,
                    "defaults": {"parallel": workers},
                    "creds": credentials,
                    "sync": sync,
                });
                let mut command = self.command(job);
                command.args(["once", "--config"]);
                command.arg(write(job, "regsync.yml", &config.to_string())?);
                commands.push(command);
            }
            Tool::Ocync => {
                let names: Vec<_> = (0..=job.targets.len()).map(|n| format!("r{n}")).collect();
                let registry = |(name, url): (&String, &str)| {
                    let registry = json!({
                        "url": url,
                        "auth_type": "static_token",
                        "token": "none",
                        "max_concurrent": workers,
                    });
                    (name.clone(), registry)
                };
                let mappings: Vec<_> = job
                    .repositories
                    .iter()
                    .map(|name| json!({"from": name, "to": name}))
                    .collect();
                let config = json!({
                    "global": {"max_concurrent_transfers": workers},
                    "registries": names.iter().zip(registries(job)).map(registry).collect::<Map<_, _>>(),
                    "defaults": {"source": "r0", "targets": names.get(1..), "tags": {"glob": "*"}},
                    "mappings": mappings,
                });
                let mut command = self.command(job);
                command.args(["sync", "--config"]);
                command.arg(write(job, "ocync.yml", &config.to_string())?);
                commands.push(command);
            }
        }
        Ok(commands)
    }

    /// The program, without arguments: in its folder, which is its home as well, so that no login and no proxy of the
    /// user has a part in it.
    fn command(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(job.folder);
        for name in [
            "HOME",
            "DOCKER_CONFIG",
            "XDG_RUNTIME_DIR",
            "XDG_CONFIG_HOME",
        ] {
            command.env(name, job.folder);
        }
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "REGISTRY_AUTH_FILE",
        ] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command
    }
}

/// All registries, the source first.
fn registries<'a>(job: &'a Job<'_>) -> impl Iterator<Item = &'a str> {
    [job.source]
        .into_iter()
        .chain(job.targets.iter().map(String::as_str))
}

/// Each target with each repository.
fn each<'a>(job: &'a Job<'_>) -> impl Iterator<Item = (&'a String, &'a String)> {
    let with = |target| job.repositories.iter().map(move |name| (target, name));
    job.targets.iter().flat_map(with)
}

/// The entries of both image-syncers that allow plain http.
fn insecure(job: &Job<'_>) -> Value {
    let entry = |name: &str| (name.to_owned(), json!({"insecure": true}));
    registries(job).map(entry).collect::<Map<_, _>>().into()
}

/// The rules of both image-syncers.
fn images(job: &Job<'_>) -> Value {
    let rule = |name: &String| {
        let target = |target: &String| format!("{target}/{name}");
        let targets: Vec<_> = job.targets.iter().map(target).collect();
        (format!("{}/{name}", job.source), json!(targets))
    };
    let rules = job.repositories.iter().map(rule);
    rules.collect::<Map<_, _>>().into()
}

fn write(job: &Job<'_>, name: &str, text: &str) -> Outcome<PathBuf> {
    let path = job.folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// The first file of this name in these folders.
pub(crate) fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let path = folders.iter().map(|folder| folder.join(name));
    path.into_iter().find(|path| path.is_file())
}

/// The folders of the PATH.
pub(crate) fn path() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect()
}

/// The first word that looks like a version of what a program says to this.
pub(crate) fn version(path: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(path).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = |word: &str| word.trim_start_matches('v').to_owned();
    let is_version = |word: &String| {
        word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit())
    };
    let version = text.split_whitespace().map(numbers).find(is_version)?;
    let build = version.find(['+', '-']).unwrap_or(version.len());
    version.get(..build).map(ToOwned::to_owned)
}
