//! What a program takes: time, processor and memory, from outside. Not here: what it asked of registries, see `proxy`.

use std::fs;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(5);
/// The unit of `/proc/PID/stat`, on every Linux.
const JIFFIES_A_SECOND: u32 = 100;

/// What a run took.
#[derive(Clone, Default)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    /// User and system time, in steps of 10 ms.
    pub(crate) cpu: Duration,
    /// The most resident memory that one of its processes had, in KiB, as the kernel kept it (`VmHWM`). It is read every
    /// 5 ms, since it is gone with the process, so that growth in the last few is missed. (The `ru_maxrss` of `wait4`
    /// counts the memory of the process that started it as well.)
    pub(crate) memory: u64,
    /// Whether it was ended from here.
    pub(crate) is_ended: bool,
    /// The last line that it wrote, if it failed.
    pub(crate) complaint: Option<String>,
}

/// Runs commands one after another, and kills the one that runs as soon as `enough` says so.
pub(crate) fn run(commands: Vec<Command>, enough: &dyn Fn() -> bool) -> Outcome<Spent> {
    let mut spent = Spent::default();
    for command in commands {
        run_one(command, enough, &mut spent)?;
        if spent.is_ended || spent.complaint.is_some() {
            break;
        }
    }
    Ok(spent)
}

fn run_one(mut command: Command, enough: &dyn Fn() -> bool, spent: &mut Spent) -> Outcome<()> {
    // The process is over when nobody can write to this pipe any more. It is waited for only when its times were read.
    let (mut output, input) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input);
    let began = Instant::now();
    let mut child = command.spawn()?;
    drop(command);
    let (ending, end) = mpsc::channel();
    let reading = thread::Builder::new()
        .name("output".to_owned())
        .spawn(move || {
            let mut text = Vec::new();
            let result = output.read_to_end(&mut text);
            // Nobody hears it only where the measuring failed, which is reported.
            drop(ending.send((Instant::now(), result.map(|_| text))));
        })?;
    let pid = child.id();
    let (ended, text) = loop {
        match end.recv_timeout(TICK) {
            Ok(end) => break end,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(error.into()),
        }
        spent.memory = spent.memory.max(peak(pid).unwrap_or_default());
        if !spent.is_ended && enough() {
            spent.is_ended = true;
            child.kill()?;
        }
    };
    drop(reading.join());
    spent.wall += ended - began;
    spent.cpu += cpu(pid).unwrap_or_default();
    let status = child.wait()?;
    if !status.success() && !spent.is_ended {
        let text = String::from_utf8_lossy(&text?).into_owned();
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        spent.complaint = Some(last.unwrap_or("failed without a word").trim().to_owned());
    }
    Ok(())
}

/// The most resident memory of a running process until now, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The time that a process took which has ended and was not waited for. `None`: there is no `/proc` here.
fn cpu(pid: u32) -> Option<Duration> {
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?; // the name before may have blanks and parentheses in it
        let mut fields = fields.split(' ');
        if fields.next()? == "Z" {
            let user: u32 = fields.nth(10)?.parse().ok()?;
            let system: u32 = fields.next()?.parse().ok()?;
            return Some(Duration::from_secs(1) * (user + system) / JIFFIES_A_SECOND);
        }
        pause(Duration::from_micros(100));
    }
}

/// Waits.
#[expect(
    clippy::disallowed_methods,
    reason = "delays are what is simulated here, and other processes send no events"
)]
pub(crate) fn pause(duration: Duration) {
    thread::sleep(duration);
}
