//! Credential helpers: programs called `docker-credential-NAME` that know logins (protocol.md A27). Not here: which of
//! them is for which registry (`credentials.rs`).

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;
use zeroize::Zeroizing;

use super::credentials::{Credential, CredentialError, Problem, Proof};
use super::hosts::lock;
use crate::logging::sanitise;
use crate::oci::Host;
use crate::pace::limit;
use crate::secret::Secret;

/// A helper, and what it said of one registry: it is asked by the first who needs a login there, and once more where
/// that one ran out.
#[derive(Debug)]
pub(super) struct Helper {
    program: String,
    host: Host,
    origin: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    answer: Option<Answer>,
    /// The login that ran out.
    replaced: Option<u64>,
}

type Answer = Result<Option<Arc<Credential>>, HelperError>;

impl Helper {
    /// `name` is what follows `docker-credential-`; `origin` says where it is written.
    pub(super) fn new(name: &str, host: &Host, origin: &str) -> Self {
        let program = format!("docker-credential-{name}");
        Self {
            origin: format!("{program}, named in {origin}"),
            program,
            host: host.clone(),
            known: Mutex::default(),
        }
    }

    /// The login that it knows, if it knows one. Others who ask wait for the first.
    pub(super) fn ask(&self) -> Result<Option<Arc<Credential>>, CredentialError> {
        let mut known = lock(&self.known);
        let answer = known.answer.get_or_insert_with(|| {
            let proof = self.run()?;
            Ok(proof.map(|proof| Arc::new(Credential::new(proof, self.origin.clone()))))
        });
        answer.clone().map_err(|error| CredentialError {
            origin: self.origin.clone(),
            what: Problem::Helper(error),
        })
    }

    /// Has the helper asked again where it gave this login, which was good and is refused. If it gives the same one, the
    /// refusal means something else, and it is not asked a third time.
    pub(super) fn replace(&self, id: u64) {
        let mut known = lock(&self.known);
        let is_of = |answer: &Answer| matches!(answer, Ok(Some(login)) if login.id == id);
        if known.replaced != Some(id) && known.answer.as_ref().is_some_and(is_of) {
            *known = Known {
                answer: None,
                replaced: Some(id),
            };
        }
    }

    fn run(&self) -> Result<Option<Proof>, HelperError> {
        // A name and nothing else: it is looked up in PATH, and no shell sees it.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !self.program.bytes().all(fits) {
            return Err(HelperError::Name);
        }
        let deadline = Instant::now() + limit(TIME_LIMIT);
        let child = Command::new(&self.program)
            .arg("get")
            // The logins in there are not the helper's business (S16).
            .env_remove("DOCKER_AUTH_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => HelperError::NotInPath,
                _ => HelperError::Start(error.to_string()),
            })?;
        let mut child = Running(child);
        let failed = |error: io::Error| HelperError::Start(error.to_string());
        let stdout = listen(child.0.stdout.take()).map_err(failed)?;
        let stderr = listen(child.0.stderr.take()).map_err(failed)?;
        if let Some(mut stdin) = child.0.stdin.take() {
            // Fits into the pipe. A helper that knows all without being told may have closed its end.
            stdin.write_all(question(&self.host).as_bytes()).ok();
        }
        let in_time = |said: &Receiver<_>| {
            said.recv_deadline(deadline)
                .map_err(|_| HelperError::TimeLimit)
        };
        let (stdout, stderr) = (in_time(&stdout)?, in_time(&stderr)?);
        let status = child.wait(deadline).map_err(failed)?;
        read(status.ok_or(HelperError::TimeLimit)?, &stdout, &stderr)
    }
}

/// By which name a registry is known to helpers.
fn question(host: &Host) -> &str {
    match host.as_str() {
        "docker.io" => HUB_KEY,
        other => other,
    }
}

/// A child that does not outlive its use.
struct Running(Child);

impl Running {
    /// Its status; `None` if it is still there at the deadline. It has closed its pipes, so that it is at its end as a
    /// rule: there is no wait with a limit to be had from the system.
    #[expect(
        clippy::disallowed_methods,
        reason = "it is some microseconds, and the time for it is the helper's"
    )]
    fn wait(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            let status = self.0.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing happens to one that has ended; else its end is waited for, so that no zombie stays.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Reads a pipe to its end, or to more than can be meant, on a thread of its own: a grandchild may hold the pipe open
/// beyond every limit.
fn listen(pipe: Option<impl Read + Send + 'static>) -> io::Result<Receiver<Zeroizing<Vec<u8>>>> {
    let (sender, receiver) = bounded(1);
    thread::Builder::new().spawn(move || {
        let mut text = Zeroizing::new(Vec::new());
        if let Some(pipe) = pipe {
            // What came before an error may do.
            pipe.take(MAX_ANSWER + 1).read_to_end(&mut text).ok();
        }
        // Nobody may wait any more.
        sender.send(text).ok();
    })?;
    Ok(receiver)
}

fn read(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Result<Option<Proof>, HelperError> {
    if stdout.len() as u64 > MAX_ANSWER {
        return Err(HelperError::TooMuch);
    }
    if !status.success() {
        let [stdout, stderr] = [stdout, stderr].map(String::from_utf8_lossy);
        if stdout.contains(NOT_FOUND) || stderr.contains(NOT_FOUND) {
            return Ok(None);
        }
        // Many speak of errors on stdout, but there may stand a login as well, whatever the status says.
        let said = match stderr.trim() {
            "" if !stdout.contains('{') => stdout.trim(),
            said => said,
        };
        return Err(HelperError::Failed {
            status: status.to_string(),
            said: sanitise(&said.chars().take(MAX_SHOWN).collect::<String>()).into_owned(),
        });
    }
    // Serde's own words could quote the login.
    let Ok(Value::Object(mut answer)) = serde_json::from_slice(stdout) else {
        return Err(HelperError::Answer);
    };
    let mut text = |name| match answer.remove(name) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(HelperError::Answer),
    };
    let (username, secret) = (text("Username")?, Secret::new(text("Secret")?));
    Ok(Proof::password(Some(username), Some(secret)))
}

/// Why a helper gave no login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HelperError {
    /// Not a name.
    Name,
    /// No such program.
    NotInPath,
    /// It could not be started, or not be listened to.
    Start(String),
    /// It took too long.
    TimeLimit,
    /// It said no.
    Failed {
        /// Its exit status in words.
        status: String,
        /// Its own words, fit for a terminal.
        said: String,
    },
    /// It said too much.
    TooMuch,
    /// It said something else than a login.
    Answer,
}

impl fmt::Display for HelperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "the name of a helper has letters, digits, dots, dashes and underscores only; mend it there",
            ),
            Self::NotInPath => {
                f.write_str("there is no such program in PATH; install it, or take its name out there")
            }
            Self::Start(error) => write!(f, "it cannot be started: {error}"),
            Self::TimeLimit => write!(
                f,
                "it did not end within {} s; run it by hand, with `get` and the registry on its standard input",
                TIME_LIMIT.as_secs()
            ),
            Self::Failed { status, said } if said.is_empty() => write!(f, "{status}"),
            Self::Failed { status, said } => write!(f, "{status}: {said}"),
            Self::TooMuch => write!(f, "it says more than {MAX_ANSWER} bytes"),
            Self::Answer => f.write_str("its answer is not JSON with Username and Secret"),
        }
    }
}

const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long a child that has closed its pipes has to end, before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Bytes of an answer.
const MAX_ANSWER: u64 = 1 << 20;
/// Characters of a helper's words.
const MAX_SHOWN: usize = 512;
/// What all helpers say of a registry that they do not know.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// What docker calls its Hub.
pub(super) const HUB_KEY: &str = "https://index.docker.io/v1/";

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn what_helpers_say() {
        let failed = |said: &str| {
            Err(HelperError::Failed {
                status: "exit status: 1".into(),
                said: said.into(),
            })
        };
        let password = |user: &str, secret: &str| {
            let proof = Proof::Password(user.into(), Secret::new(secret.into()));
            Ok(Some(proof))
        };
        let identity = Proof::IdentityToken(Secret::new("t".into()));
        for (code, stdout, stderr, expected) in [
            (
                0,
                r#"{"ServerURL":"s","Username":"u","Secret":"p"}"#,
                "debug",
                password("u", "p"),
            ),
            (
                0,
                r#"{"Username":"<token>","Secret":"t"}"#,
                "",
                Ok(Some(identity)),
            ),
            (0, r#"{"Username":"","Secret":""}"#, "", Ok(None)),
            (0, "", "", Err(HelperError::Answer)),
            (0, "u:p", "", Err(HelperError::Answer)),
            (0, r#"{"Username":"u"}"#, "", Err(HelperError::Answer)),
            (
                0,
                r#"{"Username":"u","Secret":7}"#,
                "",
                Err(HelperError::Answer),
            ),
            (
                1,
                "credentials not found in native keychain\n",
                "",
                Ok(None),
            ),
            (
                1,
                "",
                "error: credentials not found in native keychain",
                Ok(None),
            ),
            (1, "", "", failed("")),
            (1, " no session\n", "", failed("no session")),
            (1, "out", " err\u{1b}[2J\n", failed("err\\u{1b}[2J")),
            (1, r#"{"Username":"u","Secret":"p"}"#, "", failed("")),
        ] {
            let status = ExitStatus::from_raw(code << 8);
            let found = read(status, stdout.as_bytes(), stderr.as_bytes());
            assert_eq!(found, expected, "{code} {stdout:?} {stderr:?}");
        }
        let long = "x".repeat(MAX_SHOWN + 1);
        let found = read(ExitStatus::from_raw(1 << 8), b"", long.as_bytes());
        assert_eq!(found, failed(&long[..MAX_SHOWN]));
    }

    #[test]
    fn only_a_name_is_looked_up() {
        for name in ["../x", "a/b", "a b", "a;b", "a\0", "ä"] {
            let helper = Helper::new(name, &Host::parse("a.io").unwrap(), "x");
            let error = helper.ask().unwrap_err().to_string();
            assert!(
                error.contains("the name of a helper has letters"),
                "{error}"
            );
        }
    }
}
