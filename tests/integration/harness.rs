//! Runs the binary as its users do: a folder of its own, a file of rules, a command line, nothing of the surrounding
//! environment. Not here: what must hold of every run (`invariants`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::invariants::forms_of;
use crate::registry::{Authority, FakeRegistry, Parts, TOKEN_CANARY, is_schema1, matches};

/// A run of the binary to be, and the folder that it runs in. It can run any number of times.
pub(crate) struct Run {
    /// What the binary is started by, if not by the test itself.
    wrapper: Vec<OsString>,
    program: &'static str,
    folder: Arc<Folder>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    auth: Map<String, Value>,
    images: Map<String, Value>,
    /// Files that the test wrote: what is in them is not the program's output.
    given: BTreeSet<String>,
    passwords: Vec<String>,
    secrets: Vec<Secret>,
    limit: Duration,
}

/// A text that must stay secret, and the hosts that may see it.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    pub(crate) text: String,
    pub(crate) hosts: Vec<String>,
}

impl Run {
    /// The binary without arguments in an empty folder: it reads `image-syncer.json` and writes `records` there.
    pub(crate) fn new() -> Self {
        Self {
            wrapper: Vec::new(),
            program: env!("CARGO_BIN_EXE_image-syncer"),
            folder: Arc::new(Folder::new()),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            auth: Map::new(),
            images: Map::new(),
            given: BTreeSet::new(),
            passwords: Vec::new(),
            secrets: Vec::new(),
            limit: Duration::from_mins(1),
        }
    }

    /// Writes the config file: a text, or a JSON value.
    pub(crate) fn config(self, text: impl Display) -> Self {
        self.file(CONFIG, text.to_string())
    }

    /// Adds a rule to the config file. The target is a text, a list of texts or null.
    pub(crate) fn rule(mut self, source: &str, target: impl Into<Value>) -> Self {
        self.images.insert(source.to_string(), target.into());
        self.write_config()
    }

    /// Adds an entry of credentials to the config file. No output may show its password.
    pub(crate) fn auth(mut self, registry: &FakeRegistry, user: &str, password: &str) -> Self {
        let entry = json!({"username": user, "password": password, "insecure": true});
        self.auth.insert(registry.addr().to_string(), entry);
        self.passwords.push(password.to_string());
        self.write_config()
    }

    fn write_config(self) -> Self {
        let config = json!({"auth": self.auth, "images": self.images});
        self.config(config)
    }

    /// Writes a file into the folder, or below it.
    pub(crate) fn file(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        let written = fs::create_dir_all(path.parent().expect("no folder"))
            .and_then(|()| fs::write(path, bytes));
        written.expect("cannot write a file of the test");
        self.given.insert(name.to_string());
        self
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<T: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = T>,
    ) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Has another program start the binary: it gets the binary and its arguments after its own.
    pub(crate) fn under<T: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = T>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Has a shell start the binary as this line says: `"$@"` stands for it and its arguments.
    pub(crate) fn in_shell(self, line: &str) -> Self {
        self.env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .under(["sh", "-c", line, "sh"])
    }

    /// Writes a credential helper, a script of the shell, into a folder of its own, which is all that is in PATH beside
    /// the system's.
    pub(crate) fn helper(self, name: &str, script: &str) -> Self {
        let file = format!("bin/docker-credential-{name}");
        let run = self.file(&file, format!("#!/bin/sh\n{script}\n"));
        let runnable = fs::Permissions::from_mode(0o700);
        fs::set_permissions(run.path(&file), runnable).expect("cannot change a mode");
        let mut path = run.path("bin").into_os_string();
        path.push(":/usr/bin:/bin");
        run.env("PATH", path)
    }

    /// Plants a secret that only these registries may see. Those of the fake registries' own users and tokens are
    /// looked for anyway.
    pub(crate) fn secret(mut self, text: &str, hosts: &[&FakeRegistry]) -> Self {
        self.secrets.push(Secret {
            text: text.to_string(),
            hosts: hosts.iter().map(|host| host.addr().to_string()).collect(),
        });
        self
    }

    /// Lets the run take longer, or less long, than a minute.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// Runs to the end.
    pub(crate) fn run(&self) -> Output {
        self.spawn().wait()
    }

    pub(crate) fn spawn(&self) -> Running {
        let mut words = self.wrapper.clone();
        words.push(self.program.into());
        words.extend(self.arguments.iter().cloned());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .env("HOME", &self.folder.0)
            // Secrets are looked for in all that a run can be made to say (reliability.md S01).
            .env("RUST_LOG", "trace")
            .env("SSL_CERT_FILE", authorities())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder.0)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cannot start the binary");
        if let (Some(bytes), Some(mut pipe)) = (self.stdin.clone(), child.stdin.take()) {
            // A program that does not read all of it closes the pipe early.
            start("stdin", move || drop(pipe.write_all(&bytes)));
        }
        let said = Arc::new(Said::default());
        let stdout = read_all("stdout", child.stdout.take(), Arc::default());
        let stderr = read_all("stderr", child.stderr.take(), Arc::clone(&said));
        Running {
            process: child.id(),
            status: wait_for(child),
            readers: Some((stdout, stderr)),
            said,
            folder: Arc::clone(&self.folder),
            given: self.given.clone(),
            passwords: self.passwords.clone(),
            secrets: self.secrets.clone(),
            records_before: lines_of(&self.path(RECORDS)),
            limit: self.limit,
        }
    }
}

/// The binary while it runs. Dropped before its end, it is killed.
pub(crate) struct Running {
    process: u32,
    status: Receiver<ExitStatus>,
    readers: Option<(JoinHandle<String>, JoinHandle<String>)>,
    said: Arc<Said>,
    folder: Arc<Folder>,
    given: BTreeSet<String>,
    passwords: Vec<String>,
    secrets: Vec<Secret>,
    records_before: Vec<String>,
    limit: Duration,
}

impl Running {
    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        assert!(self.try_signal(name), "cannot send {name}");
    }

    /// Waits until a text stands on stderr; panics if none comes within 30 s.
    pub(crate) fn wait_until_says(&self, text: &str) {
        let lacks = |said: &mut Vec<u8>| !String::from_utf8_lossy(said).contains(text);
        let said = self.said.text.lock().expect("the reader panicked");
        let waited = self
            .said
            .grown
            .wait_timeout_while(said, Duration::from_secs(30), lacks);
        let (said, waited) = waited.expect("the reader panicked");
        let said = String::from_utf8_lossy(&said);
        assert!(!waited.timed_out(), "never said {text:?}:\n{said}");
    }

    /// Sends a signal to what the wrapper has started.
    pub(crate) fn signal_child(&self, name: &str) {
        let process = self.process;
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        let children = children.expect("the wrapper is gone");
        let child = children.trim().parse().expect("not one child");
        assert!(send_signal(child, name), "cannot send {name}");
    }

    /// Sends a signal, and says whether there was somebody to get it.
    pub(crate) fn try_signal(&self, name: &str) -> bool {
        send_signal(self.process, name)
    }

    /// Waits for the end. A run that takes too long is killed and fails the test.
    pub(crate) fn wait(mut self) -> Output {
        let status = self.status.recv_timeout(self.limit);
        if status.is_err() {
            // It may end by itself at this very moment.
            self.try_signal("KILL");
        }
        let (stdout, stderr) = self.readers.take().expect("waited twice");
        let stdout = stdout.join().expect("no stdout");
        let stderr = stderr.join().expect("no stderr");
        let Ok(status) = status else {
            let limit = self.limit;
            panic!("still running after {limit:?}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        };
        let output = Output {
            status: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            records: lines_of(&self.folder.0.join(RECORDS)),
            records_before: std::mem::take(&mut self.records_before),
            written: written_files(&self.folder.0, &self.given),
            secrets: std::mem::take(&mut self.secrets),
        };
        output.assert_silence_about(&self.passwords);
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let is_running =
            self.readers.is_some() && matches!(self.status.try_recv(), Err(TryRecvError::Empty));
        if is_running {
            self.try_signal("KILL");
        }
    }
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The exit status; `None` where a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The lines of the records file.
    pub(crate) records: Vec<String>,
    pub(crate) records_before: Vec<String>,
    /// All other files that it wrote into its folder, by name.
    pub(crate) written: BTreeMap<String, String>,
    pub(crate) secrets: Vec<Secret>,
}

impl Output {
    /// Asserts that neither these passwords nor any token stands in what the run said and wrote.
    fn assert_silence_about(&self, passwords: &[String]) {
        let mut forms: BTreeSet<String> =
            passwords.iter().flat_map(|text| forms_of(text)).collect();
        forms.insert(TOKEN_CANARY.to_string());
        let texts = [&self.stdout, &self.stderr].into_iter();
        for text in texts.chain(&self.records).chain(self.written.values()) {
            let said = forms.iter().find(|form| text.contains(*form));
            assert_eq!(said, None, "a secret stands in:\n{text}");
        }
    }

    /// Expects this exit status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(
            self.status,
            Some(status),
            "stdout:\n{stdout}\nstderr:\n{stderr}"
        );
        self
    }

    /// The two figures of the closing line, wherever it was printed.
    pub(crate) fn finished(&self) -> Option<(usize, usize)> {
        let texts = [&self.stdout].into_iter().chain(self.written.values());
        let mut lines = texts.flat_map(|text| text.lines().rev());
        lines.find_map(|line| {
            let (_, figures) = line.split_once("Finished, ")?;
            let (failed, figures) = figures.split_once(" sync tasks failed, ")?;
            let not_generated = figures.strip_suffix(" tasks generate failed")?;
            Some((failed.parse().ok()?, not_generated.parse().ok()?))
        })
    }

    /// The records that this run added.
    pub(crate) fn new_records(&self) -> Vec<Value> {
        let is_new = |line: &&String| !self.records_before.contains(line);
        let new = self.records.iter().filter(is_new);
        new.filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Asserts that these tags are in both repositories and the same: bytes, types and digests of the whole tree, and
/// all blobs present and sound at the target.
#[track_caller]
pub(crate) fn assert_in_sync(
    source: &FakeRegistry,
    source_repository: &str,
    target: &FakeRegistry,
    target_repository: &str,
    tags: &[&str],
) {
    for tag in tags {
        assert_same(
            (source, source_repository, tag),
            (target, target_repository, tag),
        );
    }
}

/// Asserts the same of two references, each a registry, a repository, and a tag or digest.
#[track_caller]
pub(crate) fn assert_same(
    source: (&FakeRegistry, &str, &str),
    target: (&FakeRegistry, &str, &str),
) {
    let find = |(registry, repository, reference): (&FakeRegistry, &str, &str)| {
        registry
            .manifest(repository, reference)
            .unwrap_or_else(|| panic!("no {}:{reference}", registry.name(repository)))
    };
    let (digest, wanted) = find(source);
    let (target_digest, found) = find(target);
    let place = format!("{}:{}", target.0.name(target.1), target.2);
    assert_eq!(target_digest, digest, "digest of {place}");
    assert_eq!(found.media_type, wanted.media_type, "type of {place}");
    assert!(found.bytes == wanted.bytes, "bytes of {place} differ");
    if !is_schema1(&found.media_type) {
        assert!(matches(&digest, &found.bytes), "{place} is not {digest}");
    }
    let document = serde_json::from_slice(&found.bytes).unwrap_or_default();
    let parts = Parts::of(&document);
    for digest in parts.blobs {
        let blob = target.0.blob(target.1, &digest);
        let blob = blob.unwrap_or_else(|| panic!("{place} lacks the blob {digest}"));
        assert!(
            matches(&digest, &blob),
            "blob {digest} of {place} is broken"
        );
    }
    for digest in parts.children {
        assert_same((source.0, source.1, &digest), (target.0, target.1, &digest));
    }
}

/// A folder that goes away when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("image-syncer-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("cannot make a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's own cleaning.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A bundle of one authority that has signed nothing, in place of the system's: of a short run, a debug build spends a
/// quarter on reading that.
fn authorities() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authorities.pem");
        // Renamed, since other tests may be running in this folder.
        let new = path.with_extension(std::process::id().to_string());
        let written = fs::write(&new, Authority::new("nobody's").pem());
        let written = written.and_then(|()| fs::rename(new, &path));
        written.expect("cannot write a file of all tests");
        path
    })
}

fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let thread = thread::Builder::new().name(name.to_string()).spawn(work);
    thread.expect("no thread")
}

fn send_signal(process: u32, name: &str) -> bool {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(process.to_string())
        .stderr(Stdio::null())
        .status();
    sent.is_ok_and(|status| status.success())
}

/// What has come through a pipe so far.
#[derive(Default)]
struct Said {
    text: Mutex<Vec<u8>>,
    grown: Condvar,
}

fn read_all(
    name: &str,
    pipe: Option<impl Read + Send + 'static>,
    said: Arc<Said>,
) -> JoinHandle<String> {
    let mut pipe = pipe.expect("no pipe");
    start(name, move || {
        let mut chunk = [0; 4096];
        loop {
            let length = pipe.read(&mut chunk).expect("a pipe broke");
            let mut text = said.text.lock().expect("who waited panicked");
            if length == 0 {
                return String::from_utf8_lossy(&text).into_owned();
            }
            text.extend_from_slice(&chunk[..length]);
            said.grown.notify_all();
        }
    })
}

fn wait_for(mut child: Child) -> Receiver<ExitStatus> {
    let (sender, receiver) = mpsc::channel();
    start("wait", move || {
        let status = child.wait().expect("cannot wait");
        // Nobody may be interested any more.
        sender.send(status).ok();
    });
    receiver
}

/// A folder's plain files as text, but for those that were there before and the records.
fn written_files(folder: &Path, given: &BTreeSet<String>) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).expect("the folder is gone");
    let mut files = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_plain = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_plain && name != RECORDS && !given.contains(&name) {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    files
}

/// The lines of a file; none where it cannot be read.
fn lines_of(path: &Path) -> Vec<String> {
    // Something other than a plain file may stand there, and may never end.
    let is_plain = fs::metadata(path).is_ok_and(|found| found.is_file());
    let bytes = is_plain.then(|| fs::read(path).unwrap_or_default());
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    text.lines().map(str::to_string).collect()
}

/// The file of rules that is read by default.
const CONFIG: &str = "image-syncer.json";
/// The records file that is written by default.
const RECORDS: &str = "records";

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::image::Maker;

    /// A run of another program, for the ends that the binary has no reason to come to.
    fn sleeper() -> Run {
        let mut run = Run::new().arg("600");
        run.program = "/bin/sleep";
        run
    }

    #[test]
    fn the_binary_runs_in_a_folder_of_its_own() {
        let run = Run::new().file("note", "x").arg("--no-such-flag");
        let folder = run.path("");
        assert!(run.path("note").exists());
        let output = run.run().expect(2);
        assert!(output.written.is_empty() && output.records.is_empty());
        drop(run);
        assert!(!folder.exists());
    }

    #[test]
    fn a_run_can_be_ended_by_a_signal() {
        let running = sleeper().spawn();
        running.signal("TERM");
        let output = running.wait();
        assert_eq!((output.status, output.signal), (None, Some(15)));
    }

    #[test]
    fn a_run_that_takes_too_long_fails() {
        let run = sleeper().within(Duration::from_millis(20));
        let outcome = catch_unwind(AssertUnwindSafe(|| run.run()));
        let panic = outcome.expect_err("it ended");
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.starts_with("still running after 20ms"), "{text}");
    }

    #[test]
    fn being_in_sync_means_the_whole_tree() {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let image = Maker::new(1).index(&["linux/amd64", "linux/arm64"], 10);
        source.push("a", "v1", &image);
        let is_in_sync = || {
            let check = || assert_in_sync(&source, "a", &target, "b", &["v1"]);
            catch_unwind(AssertUnwindSafe(check)).is_ok()
        };
        assert!(!is_in_sync());
        target.push("b", "v1", &image);
        assert!(is_in_sync());
        let layer = &image.children[1].blobs[1];
        target.remove("b", &layer.digest);
        assert!(!is_in_sync());
    }
}
