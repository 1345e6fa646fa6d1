//! Registries of the CNCF's distribution, started and ended here: which programs there are, and a fresh one each run. Not
//! here: what is asked of them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::measure::pause;
use crate::scratch::{Kept, Scratch};
use crate::tools::{find, version};

/// How long a registry may take until it answers.
const START: Duration = Duration::from_secs(10);

/// A registry program.
pub(crate) struct Program {
    path: PathBuf,
    /// Such as `2.8.2`.
    pub(crate) version: String,
}

impl Program {
    /// All that are found in the folders, by their two names.
    pub(crate) fn all(folders: &[PathBuf]) -> Vec<Self> {
        ["docker-registry", "registry"]
            .iter()
            .filter_map(|name| find(folders, name))
            .filter_map(|path| {
                let version = version(&path, &["--version"])?;
                Some(Self { path, version })
            })
            .collect()
    }

    /// Whether an upload that broke off can be gone on with: 2.8 forgets what it got.
    pub(crate) fn keeps_uploads(&self) -> bool {
        !self.version.starts_with("2.")
    }
}

/// A registry that listens on this machine.
pub(crate) struct Registry {
    /// Its address, the same each time it is started.
    pub(crate) address: String,
    folder: PathBuf,
    config: PathBuf,
    path: PathBuf,
    running: Option<Kept>,
}

impl Registry {
    /// Starts an empty one.
    pub(crate) fn start(program: &Program, scratch: &Scratch, name: &str) -> Outcome<Self> {
        // Nothing holds the port meanwhile: the system gives it to others only when it is through with all the rest.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let folder = scratch.path(name);
        let config = scratch.path(&format!("{name}.yml"));
        fs::write(
            &config,
            format!(
                "version: 0.1\n\
                 log: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage:\n  \
                   filesystem: {{rootdirectory: '{}', maxthreads: 200}}\n  \
                   cache: {{blobdescriptor: inmemory}}\n  \
                   maintenance: {{uploadpurging: {{enabled: false}}}}\n\
                 http: {{addr: '{address}', secret: benchmark}}\n",
                folder.display()
            ),
        )?;
        let mut registry = Self {
            address,
            folder,
            config,
            path: program.path.clone(),
            running: None,
        };
        registry.empty()?;
        Ok(registry)
    }

    /// Ends it, and starts it with nothing in it at the same address.
    pub(crate) fn empty(&mut self) -> Outcome<()> {
        self.running = None;
        fs::create_dir_all(&self.folder)?;
        let log = self.config.with_extension("log");
        self.running = Some(Kept::run(
            &self.folder,
            &[
                &self.path.to_string_lossy(),
                "serve",
                &self.config.to_string_lossy(),
            ],
            fs::File::create(&log)?.into(),
        )?);
        let began = Instant::now();
        while !self.answers() {
            if began.elapsed() > START {
                let said = fs::read_to_string(&log)?;
                return Err(format!("{} does not start: {said}", self.path.display()).into());
            }
            pause(Duration::from_millis(10));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().is_ok_and(|answer: String| answer.contains(" 200 "))
    }
}
