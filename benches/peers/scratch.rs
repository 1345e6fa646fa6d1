//! What must be gone at the end, however it comes: processes and their folders. Not here: what they are for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Outcome;

/// A shell that starts its arguments, and ends them as soon as its standard input ends: when this process lets go of it,
/// and also when this process is killed. The first argument is a folder, which is removed then.
const KEEPER: &str = r#"
    trap '' INT TERM HUP
    folder=$1; shift
    "$@" </dev/null &
    read -r _
    kill -9 $! 2>/dev/null
    wait
    for attempt in 1 2 3; do # others may still write there
        rm -rf "$folder" && break
        sleep 0.2
    done
"#;

/// A command that is running, and a folder of its own; both are gone when this is.
pub(crate) struct Kept(Child);

impl Kept {
    /// Runs `command` until this value is dropped or this process ends, then removes `folder`.
    pub(crate) fn run(folder: &Path, command: &[&str], log: Stdio) -> Outcome<Self> {
        Ok(Self(
            Command::new("sh")
                .args(["-c", KEEPER, "sh"])
                .arg(folder)
                .args(command)
                .env("OTEL_TRACES_EXPORTER", "none") // distribution 3 looks for a collector of traces otherwise
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()?,
        ))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The keeper's standard input ends by this; it was waited for when its folder is gone.
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// A folder that is gone when this is: in memory, where the system has such a place.
pub(crate) struct Scratch {
    folder: PathBuf,
    _kept: Kept,
}

impl Scratch {
    pub(crate) fn new() -> Outcome<Self> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() {
            shared.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = parent.join(format!("image-syncer-peers-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self {
            _kept: Kept::run(&folder, &["true"], Stdio::null())?,
            folder,
        })
    }

    /// Where it lies.
    pub(crate) fn parent(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
