//! When ready work may go: its order, slots, limits and pauses of hosts, attempts and their timers (decisions D7,
//! architecture.md 3.5). PURE: the time is passed in, as the time since the run began. The only file that knows
//! numbers of attempts. Not here: what the work is (`graph.rs`).

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use super::marks::MarkAfter;
use super::places::HostId;
use super::stream::Patience;
use super::task::{Key, Readiness, TaskId};
use crate::store::{Class, Quota, StoreError};

/// Time since the run began.
pub(super) type Time = Duration;

/// The numbers of decisions D7.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How many slots there are.
    pub workers: usize,
    /// Every wait is multiplied by this: 1 but in tests.
    pub time_scale: f64,
    /// How long targets of one blob wait for a slow one among them.
    pub patience: Patience,
    /// How often a long upload is recorded.
    pub mark_after: MarkAfter,
    /// Seeds the jitter.
    pub seed: u64,
}

#[cfg(test)]
impl Policy {
    /// One whose jobs are not done by workers, which alone have patience and make marks.
    pub(super) fn of(workers: usize, seed: u64) -> Self {
        Self {
            workers,
            time_scale: 1.0,
            patience: Patience {
                at_least: Duration::ZERO,
                share: 0.0,
            },
            mark_after: MarkAfter {
                bytes: 0,
                time: Duration::ZERO,
            },
            seed,
        }
    }
}

pub(super) struct Schedule {
    policy: Policy,
    /// Ready tasks by the hosts that they need, so that a paused host hides all of its own at once.
    groups: HashMap<Group, BTreeSet<(Key, TaskId)>>,
    group_of: HashMap<TaskId, (Group, Key)>,
    /// In how many groups each target host is.
    wanted: HashMap<HostId, usize>,
    /// Slots in use: one for each target of a copy, those that are overdue among them, and one for anything else.
    running: usize,
    hosts: HashMap<HostId, Host>,
    timers: BinaryHeap<Reverse<(Time, u64, Timer)>>,
    timer_number: u64,
    /// Tasks that wait for their time, and the number of the timer that brings it: any other of the task is void.
    delayed: HashMap<TaskId, u64>,
    /// Running uploads of blobs that another target has got.
    awaited: HashMap<TaskId, Awaited>,
    /// How many of these are overdue.
    overdue: usize,
    attempts: HashMap<TaskId, Attempts>,
    /// Tasks that a host answered by asking for a pause, and nothing else since.
    put_off: HashMap<TaskId, HostId>,
    random: u64,
}

/// The hosts that a task needs: a source, and targets of which some may be left out.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    source: Option<HostId>,
    targets: Box<[HostId]>,
    /// Of these one goes, where the others cannot.
    alone: Box<[HostId]>,
}

impl Group {
    fn all_targets(&self) -> impl Iterator<Item = HostId> {
        self.targets.iter().chain(&self.alone).copied()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Task(TaskId),
    Host(HostId),
    /// The patience with this task and its host.
    Overdue(TaskId, HostId),
}

/// An upload that the images of other targets may wait for.
enum Awaited {
    /// Until the timer of this number.
    Until(u64),
    /// No more: another gets a slot in place of its own.
    Overdue,
}

#[derive(Clone, Copy, Default)]
struct Attempts {
    failed: u32,
    /// When the host first asked for a pause in place of an answer.
    throttled_since: Option<Time>,
}

struct Host {
    running: usize,
    /// Of these, uploads that are overdue: they keep no question from being asked.
    overdue: usize,
    /// How many requests may be at the host at once.
    window: usize,
    /// How many the user lets be there at once.
    limit: usize,
    /// Successes since the window last grew.
    successes: usize,
    paused_until: Option<Time>,
    pauses_in_row: u32,
    /// When it first asked for a pause, if it has answered nothing else since.
    throttled_since: Option<Time>,
    unreachable_in_row: u32,
    /// Why nothing is sent to it any more in this pass.
    down: Option<String>,
    /// After a pass in which it was down: one request goes alone.
    is_probed: bool,
    /// Passes that began so because it could not be reached.
    probes: u32,
    /// It was told that the quota is used up for longer than anybody waits.
    is_warned: bool,
}

impl Host {
    /// Whether so many requests more may begin together. What needs more than the user's limit all by itself, as a read
    /// and a write within one registry may, goes while nothing else does.
    fn has_room(&self, requests: usize, share: usize) -> bool {
        let window = if self.is_probed { 1 } else { self.window };
        self.running - self.overdue < window.min(share)
            && (self.running == 0 || self.running + requests <= self.limit)
    }
}

/// What becomes of a task whose attempt failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A timer was armed: `fired` will name the task.
    Later,
    /// It is ready again, and waits for its host's pause.
    AfterPause,
    /// It has failed for this pass.
    GiveUp {
        /// How often it was tried.
        attempts: u32,
    },
}

/// What a host's quota means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ration {
    /// It goes on.
    Enough,
    /// It pauses until there is more.
    Pause,
    /// It goes on until it is refused, for nobody waits so long; to be told once.
    Warn,
}

/// Work that may go now.
pub(super) enum Next {
    Start(TaskId),
    /// A host that it needs is down: it fails without being sent, for this reason.
    Fail(TaskId, String),
}

/// What a timer has brought.
pub(super) enum Fired {
    /// A task is ready again.
    Task(TaskId),
    /// A host's pause is over.
    Host(HostId),
    /// An upload took too long for the others of its stream.
    Overdue(TaskId),
}

impl Schedule {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            groups: HashMap::new(),
            group_of: HashMap::new(),
            wanted: HashMap::new(),
            running: 0,
            hosts: HashMap::new(),
            timers: BinaryHeap::new(),
            timer_number: 0,
            delayed: HashMap::new(),
            awaited: HashMap::new(),
            overdue: 0,
            attempts: HashMap::new(),
            put_off: HashMap::new(),
            random: policy.seed | 1,
        }
    }

    /// Enters a task as ready, moves it, or (`None`) takes it out.
    pub(super) fn set(&mut self, task: TaskId, readiness: Option<Readiness>) {
        if let Some((group, key)) = self.group_of.remove(&task)
            && let Some(tasks) = self.groups.get_mut(&group)
        {
            tasks.remove(&(key, task));
            if tasks.is_empty() {
                self.groups.remove(&group);
                for host in group.all_targets() {
                    if let Entry::Occupied(mut wanted) = self.wanted.entry(host) {
                        *wanted.get_mut() -= 1;
                        if *wanted.get() == 0 {
                            wanted.remove();
                        }
                    }
                }
            }
        }
        if let Some(Readiness {
            key,
            source,
            targets,
            alone,
        }) = readiness
        {
            let group = Group {
                source,
                targets: targets.into(),
                alone: alone.into(),
            };
            let tasks = self.groups.entry(group.clone()).or_default();
            if tasks.is_empty() {
                for host in group.all_targets() {
                    *self.wanted.entry(host).or_default() += 1;
                }
            }
            tasks.insert((key, task));
            self.group_of.insert(task, (group, key));
        }
    }

    /// Whether a task is entered as it is ready.
    #[cfg(test)]
    pub(super) fn knows(&self, task: TaskId, readiness: Option<&Readiness>) -> bool {
        let entered = self.group_of.get(&task);
        let entered =
            entered.map(|(group, key)| (group.source, &*group.targets, &*group.alone, *key));
        entered == readiness.map(|it| (it.source, &*it.targets, &*it.alone, it.key))
    }

    /// The next task that may go. It stays entered until `set` takes it out.
    pub(super) fn next(&self) -> Option<Next> {
        if let Some(doomed) = self.doomed() {
            return Some(doomed);
        }
        if self.running >= self.policy.workers + self.overdue {
            return None;
        }
        // While other hosts have work ready, no target host holds more than its share of the slots (D5).
        let share = self.policy.workers.div_ceil(self.wanted.len().max(1));
        // What was put off goes last: others may be answered meanwhile, and then it is no matter of the whole host.
        let is_put_off = |task| self.put_off.contains_key(&task);
        let first = |(group, tasks): (&Group, &BTreeSet<(Key, TaskId)>)| {
            let is_beyond = !self.may_go(group, share);
            if is_beyond && !self.may_go(group, usize::MAX) {
                return None;
            }
            let first = tasks.iter().find(|(_, task)| !is_put_off(*task));
            let (key, task) = *first.or(tasks.first())?;
            Some((is_beyond, is_put_off(task), key, task))
        };
        let (.., task) = self.groups.iter().filter_map(first).min()?;
        Some(Next::Start(task))
    }

    /// Whether the hosts of a group have room, with no more than `share` slots for a target.
    fn may_go(&self, group: &Group, share: usize) -> bool {
        let is_open = |host: &HostId| !self.is_paused(*host);
        let has_room = |host: HostId, share: usize| {
            let is_both =
                group.source == Some(host) && group.all_targets().any(|target| target == host);
            self.hosts
                .get(&host)
                .is_none_or(|host| host.has_room(1 + usize::from(is_both), share))
        };
        let has_target = |host: &HostId| is_open(host) && has_room(*host, share);
        // What goes to many hosts at once would hardly ever find each of them below its share.
        let mut open = group.targets.iter().filter(|host| is_open(host));
        let targets_go = group.all_targets().next().is_none()
            || group.targets.iter().any(has_target) && open.all(|host| has_room(*host, usize::MAX))
            || (group.alone.iter()).any(|host| has_target(host) && self.leaves_slots(*host));
        let source_goes = |host: HostId| is_open(&host) && has_room(host, usize::MAX);
        targets_go && group.source.is_none_or(source_goes)
    }

    /// Whether a host that gets its blobs alone holds its share of the slots. What it holds may not come back for long, so
    /// that a moment in which the others have nothing ready must not give it all.
    fn has_share(&self, host: HostId) -> bool {
        let share = self.policy.workers.div_ceil(self.wanted.len().max(2));
        self.hosts
            .get(&host)
            .is_some_and(|row| row.running >= share)
    }

    /// Whether others can go on if such a host gets one more slot, or have nothing to do.
    fn leaves_slots(&self, host: HostId) -> bool {
        let is_other = |group: &Group| match group.all_targets().next() {
            Some(_) => group.all_targets().any(|target| target != host),
            None => group.source != Some(host),
        };
        let held = self.hosts.get(&host).map_or(0, |row| row.running);
        !self.has_share(host) || self.running <= held && !self.groups.keys().any(is_other)
    }

    fn doomed(&self) -> Option<Next> {
        let down = |host: HostId| self.hosts.get(&host).and_then(|host| host.down.clone());
        self.hosts
            .values()
            .any(|host| host.down.is_some())
            .then_some(())?;
        self.groups.iter().find_map(|(group, tasks)| {
            let reason = group
                .source
                .and_then(down)
                .or_else(|| group.all_targets().find_map(down))?;
            tasks.first().map(|&(_, task)| Next::Fail(task, reason))
        })
    }

    /// How many uploads of one blob may go to a target host now; `None`: it pauses and is served later. The window does
    /// not bound them, since a group takes one slot to start and as many as it needs (decisions D5).
    pub(super) fn room(&self, host: HostId) -> Option<usize> {
        let Some(row) = self.hosts.get(&host) else {
            return Some(usize::MAX);
        };
        let is_open = row.paused_until.is_none() && row.down.is_none();
        is_open.then(|| {
            if row.has_room(1, usize::MAX) {
                row.limit.saturating_sub(row.running).max(1)
            } else {
                0
            }
        })
    }

    /// Has no more than so many requests be at a host at once.
    pub(super) fn limit(&mut self, host: HostId, most: usize) {
        let row = self.host(host);
        row.limit = most;
        row.window = row.window.min(most);
    }

    /// Why nothing is sent to a host in this pass, if so.
    pub(super) fn down(&self, host: HostId) -> Option<&str> {
        self.hosts.get(&host)?.down.as_deref()
    }

    pub(super) fn is_paused(&self, host: HostId) -> bool {
        // A pause that is too long to wait for has made it be down instead.
        self.hosts
            .get(&host)
            .is_some_and(|host| host.paused_until.is_some() && host.down.is_none())
    }

    /// Whether so many ready tasks, or more, could go if slots were free. Those of a host that gets its blobs alone, and
    /// has its share of the slots, would leave the others without work.
    pub(super) fn has_ready(&self, count: usize) -> bool {
        let open = |group: &Group| {
            let mut alone = group.alone.iter().filter(|host| !self.has_share(**host));
            let mut targets = group.targets.iter();
            group.source.is_none_or(|host| !self.is_paused(host))
                && (group.all_targets().next().is_none()
                    || targets.any(|host| !self.is_paused(*host))
                    || alone.any(|host| !self.is_paused(*host)))
        };
        let mut ready = self.groups.iter().filter(|(group, _)| open(group));
        let mut missing = count;
        ready.any(|(_, tasks)| {
            missing = missing.saturating_sub(tasks.len());
            missing == 0
        })
    }

    /// Whether nothing is ready or waits for its time. The pause of a host that nobody wants is no reason to wait.
    pub(super) fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.delayed.is_empty()
    }

    /// A request to `host` has begun, in a slot of its own or (a copy's source) beside its targets' slots.
    pub(super) fn started(&mut self, host: HostId, takes_slot: TakesSlot) {
        self.host(host).running += 1;
        self.running += usize::from(takes_slot == TakesSlot::Yes);
    }

    /// It has ended. Tells whether it was overdue.
    pub(super) fn ended(&mut self, task: TaskId, host: HostId, takes_slot: TakesSlot) -> bool {
        let was_overdue = matches!(self.awaited.remove(&task), Some(Awaited::Overdue));
        let row = self.host(host);
        row.running = row.running.saturating_sub(1);
        row.overdue -= usize::from(was_overdue);
        self.overdue -= usize::from(was_overdue);
        self.running = self
            .running
            .saturating_sub(usize::from(takes_slot == TakesSlot::Yes));
        was_overdue
    }

    /// Has an upload be overdue, if it has not ended by then: others of its stream have.
    pub(super) fn wait_for(&mut self, task: TaskId, host: HostId, until: Time) {
        if let Entry::Vacant(new) = self.awaited.entry(task) {
            new.insert(Awaited::Until(self.timer_number + 1));
            self.arm(until, Timer::Overdue(task, host));
        }
    }

    /// How many uploads are overdue.
    pub(super) fn overdue(&self) -> usize {
        self.overdue
    }

    /// The host has answered as it should.
    pub(super) fn answered(&mut self, task: TaskId, host: HostId) {
        let workers = self.policy.workers;
        let row = self.host(host);
        row.unreachable_in_row = 0;
        row.pauses_in_row = 0;
        row.throttled_since = None;
        row.is_probed = false;
        row.successes += 1;
        if row.successes >= row.window && row.window < workers.min(row.limit) {
            row.window += 1;
            row.successes = 0;
        }
        self.attempts.remove(&task);
        self.put_off.retain(|_, by| *by != host);
    }

    /// Has other tasks of a host go before this one, which it put off, until it has answered one.
    pub(super) fn put_off(&mut self, task: TaskId, host: HostId) {
        self.put_off.insert(task, host);
    }

    /// Judges a failed attempt.
    pub(super) fn failed(
        &mut self,
        task: TaskId,
        host: HostId,
        error: &StoreError,
        now: Time,
    ) -> Verdict {
        let (class, retry_after) = (error.class, error.retry_after);
        if let Some(wait) = retry_after.filter(|&wait| wait > self.scaled(LONGEST_WAIT))
            && !class.is_final()
        {
            let row = self.host(host);
            row.paused_until = Some(now.saturating_add(wait));
            row.down = Some(format!(
                "it asks for a pause of {} s, which is too long to wait for",
                wait.as_secs()
            ));
        }
        match class {
            Class::Throttled => return self.throttled(task, host, retry_after, now),
            Class::Unreachable => self.unreachable(host, error),
            // Whatever it was, the host has spoken.
            _ => {
                let row = self.host(host);
                row.unreachable_in_row = 0;
                row.throttled_since = None;
                row.is_probed = false;
            }
        }
        let limit = match class {
            Class::Transient | Class::Unreachable => MAX_ATTEMPTS,
            Class::Corrupt => 2,
            _ => 1,
        };
        let attempts = self.attempts.entry(task).or_default();
        attempts.failed += 1;
        let failed = attempts.failed;
        if failed >= limit || self.down(host).is_some() {
            self.attempts.remove(&task);
            return Verdict::GiveUp { attempts: failed };
        }
        let wait = self.backoff(failed).max(retry_after.unwrap_or_default());
        self.arm(now + wait, Timer::Task(task));
        self.delayed.insert(task, self.timer_number);
        Verdict::Later
    }

    /// A task does not wait for its time any more.
    pub(super) fn wake(&mut self, task: TaskId) {
        self.delayed.remove(&task);
    }

    /// A task has come to its end, and its number will be another's.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.wake(task);
        self.attempts.remove(&task);
        self.put_off.remove(&task);
    }

    fn throttled(
        &mut self,
        task: TaskId,
        host: HostId,
        retry_after: Option<Duration>,
        now: Time,
    ) -> Verdict {
        let longest = self.scaled(LONGEST_WAIT);
        let since = *self
            .attempts
            .entry(task)
            .or_default()
            .throttled_since
            .get_or_insert(now);
        let row = self.host(host);
        row.pauses_in_row += u32::from(row.paused_until.is_none());
        let silent_since = *row.throttled_since.get_or_insert(now);
        if now.saturating_sub(silent_since) >= longest {
            row.down.get_or_insert_with(|| {
                "it asks for one pause after another and answers nothing else".to_owned()
            });
        }
        if row.down.is_none() {
            let pauses = row.pauses_in_row;
            let wait = retry_after.unwrap_or_else(|| self.backoff(pauses));
            self.pause_until(host, now + wait);
        }
        if now.saturating_sub(since) >= longest || self.down(host).is_some() {
            self.attempts.remove(&task);
            return Verdict::GiveUp { attempts: 1 };
        }
        Verdict::AfterPause
    }

    /// Nothing goes to the host before that time, and half as much at once from then on.
    fn pause_until(&mut self, host: HostId, until: Time) {
        let row = self.host(host);
        if row.paused_until.is_none() {
            row.window = (row.window / 2).max(1);
            row.successes = 0;
        }
        if row.paused_until.is_none_or(|end| end < until) {
            row.paused_until = Some(until);
            self.arm(until, Timer::Host(host));
        }
    }

    /// Judges what a host says of its quota. Requests that run may use up what is left.
    pub(super) fn ration(&mut self, host: HostId, quota: Quota, now: Time) -> Ration {
        let longest = self.scaled(LONGEST_WAIT);
        let row = self.host(host);
        let has_enough = quota.left >= row.running.max(1) as u64 || quota.reset.is_zero();
        if has_enough || row.down.is_some() {
            return Ration::Enough;
        }
        if quota.reset > longest {
            let was_warned = std::mem::replace(&mut row.is_warned, true);
            return if was_warned {
                Ration::Enough
            } else {
                Ration::Warn
            };
        }
        let was_paused = row.paused_until.is_some();
        self.pause_until(host, now + quota.reset);
        if was_paused {
            Ration::Enough
        } else {
            Ration::Pause
        }
    }

    fn unreachable(&mut self, host: HostId, error: &StoreError) {
        let row = self.host(host);
        row.unreachable_in_row += 1;
        if row.is_probed {
            row.down = Some(format!("it still cannot be reached: {error}"));
        } else if row.unreachable_in_row >= MAX_UNREACHABLE {
            row.down = Some(format!("it cannot be reached: {error}"));
        }
    }

    /// How long a host still pauses.
    pub(super) fn pause(&self, host: HostId, now: Time) -> Duration {
        self.hosts
            .get(&host)
            .and_then(|host| host.paused_until)
            .map_or(Duration::ZERO, |end| end.saturating_sub(now))
    }

    /// A pause of this length makes a host late: images do not wait for it.
    pub(super) fn late_after(&self) -> Duration {
        self.scaled(LATE)
    }

    /// When the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse((time, ..))| *time)
    }

    /// Takes the next timer that is due.
    pub(super) fn fired(&mut self, now: Time) -> Option<Fired> {
        loop {
            let Reverse((time, number, timer)) = *self.timers.peek()?;
            if time > now {
                return None;
            }
            self.timers.pop();
            match timer {
                Timer::Task(task) => {
                    if self.delayed.get(&task) == Some(&number) {
                        self.wake(task);
                        return Some(Fired::Task(task));
                    }
                }
                Timer::Host(host) => {
                    let row = self.host(host);
                    // A pause that was prolonged has a later timer.
                    if row.paused_until.is_some_and(|end| end <= now) {
                        row.paused_until = None;
                        return Some(Fired::Host(host));
                    }
                }
                Timer::Overdue(task, host) => {
                    if let Some(awaited) = self.awaited.get_mut(&task)
                        && matches!(awaited, Awaited::Until(until) if *until == number)
                    {
                        *awaited = Awaited::Overdue;
                        self.overdue += 1;
                        self.host(host).overdue += 1;
                        return Some(Fired::Overdue(task));
                    }
                }
            }
        }
    }

    /// A new pass: attempts begin anew. A host that was down gets one probe first, but never before the time that it asked
    /// for; one that could not be reached gets some time to come back, and is among those that are given.
    pub(super) fn new_pass(&mut self, now: Time) -> Vec<HostId> {
        self.attempts.clear();
        self.put_off.clear();
        let longest = self.scaled(LONGEST_WAIT);
        let mut pauses = Vec::new();
        let mut unreached = Vec::new();
        for (&id, host) in &mut self.hosts {
            let was_unreached = std::mem::take(&mut host.unreachable_in_row) > 0;
            host.throttled_since = None;
            if let Some(end) = host.paused_until {
                if end.saturating_sub(now) > longest {
                    continue;
                }
                pauses.push((end, id));
            }
            host.is_probed = host.down.take().is_some();
            if host.is_probed && was_unreached {
                host.probes += 1;
                unreached.push((id, host.probes));
            }
        }
        for (end, host) in pauses {
            self.arm(end, Timer::Host(host));
        }
        unreached.sort_unstable();
        for &(host, probes) in &unreached {
            let wait = self.backoff(PROBE_AFTER + probes);
            self.pause_until(host, now + wait);
        }
        unreached.into_iter().map(|(host, _)| host).collect()
    }

    fn host(&mut self, host: HostId) -> &mut Host {
        let window = self.policy.workers;
        self.hosts.entry(host).or_insert_with(|| Host {
            running: 0,
            overdue: 0,
            window,
            limit: usize::MAX,
            successes: 0,
            paused_until: None,
            pauses_in_row: 0,
            throttled_since: None,
            unreachable_in_row: 0,
            down: None,
            is_probed: false,
            probes: 0,
            is_warned: false,
        })
    }

    fn arm(&mut self, at: Time, timer: Timer) {
        self.timer_number += 1;
        self.timers.push(Reverse((at, self.timer_number, timer)));
    }

    /// 1, 2, 4, 8 … s, at most 60, each times 0.5 to 1.5, so that a herd does not come back at once.
    fn backoff(&mut self, failed: u32) -> Duration {
        let seconds = (1u64 << failed.saturating_sub(1).min(6)).min(60);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let thousandths = 500 + self.random % 1000;
        self.scaled(Duration::from_millis(seconds * thousandths))
    }

    fn scaled(&self, wait: Duration) -> Duration {
        wait.mul_f64(self.policy.time_scale)
    }
}

/// Whether a request fills one of the `--proc` slots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TakesSlot {
    Yes,
    No,
}

/// Attempts of a task in a pass.
const MAX_ATTEMPTS: u32 = 5;
/// Failures to connect, one after another, that make a host be down for the pass.
const MAX_UNREACHABLE: u32 = 10;
/// The first probe of a host comes as late as the attempt after so many and one: after 4 s, the next after 8 s.
const PROBE_AFTER: u32 = 2;
/// The longest wait that a host can ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Images do not wait for a host that pauses longer.
const LATE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::super::arena::Id;
    use super::*;

    fn host() -> HostId {
        Id::of(0)
    }

    fn schedule() -> Schedule {
        Schedule::new(Policy::of(8, 1))
    }

    fn broken() -> StoreError {
        StoreError::new(Class::Transient, "broken off")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_blob_for_many_hosts_goes_before_younger_work_of_one() {
        let (mut schedule, [busy, other]) = (schedule(), [0, 1].map(Id::of));
        // Its share of eight slots for two hosts.
        for _ in 0..4 {
            schedule.started(busy, TakesSlot::Yes);
        }
        for (order, targets) in [(0, vec![busy]), (1, vec![busy, other]), (2, vec![other])] {
            let readiness = Readiness {
                key: Key {
                    order,
                    rank: 3,
                    smallness: 0,
                },
                source: None,
                targets,
                alone: Vec::new(),
            };
            schedule.set(Id::of(order), Some(readiness));
        }
        for expected in [1, 2, 0].map(Id::of) {
            let Some(Next::Start(task)) = schedule.next() else {
                panic!("nothing goes before {expected:?}")
            };
            assert_eq!(task, expected);
            schedule.set(task, None);
        }
    }

    #[test]
    fn a_host_that_goes_alone_leaves_slots_to_the_others_while_they_have_work() {
        let [slow, fast, source] = [0, 1, 2].map(Id::of);
        let ready = |source, targets: &[HostId], alone: &[HostId]| {
            let key = Key {
                order: 0,
                rank: 3,
                smallness: 0,
            };
            Some(Readiness {
                key,
                source,
                targets: targets.to_vec(),
                alone: alone.to_vec(),
            })
        };
        let mut schedule = schedule();
        schedule.set(Id::of(0), ready(Some(source), &[], &[slow]));
        // Half of the slots, as if there was one other host.
        for _ in 0..4 {
            assert!(schedule.next().is_some() && schedule.has_ready(1));
            schedule.started(slow, TakesSlot::Yes);
            schedule.started(source, TakesSlot::No);
        }
        // Nobody else has anything to do, but for images that are not admitted yet.
        assert!(schedule.next().is_some() && !schedule.has_ready(1));
        // Something runs elsewhere.
        schedule.started(fast, TakesSlot::Yes);
        assert!(schedule.next().is_none());
        schedule.ended(Id::of(0), fast, TakesSlot::Yes);
        // A question or a copy is ready elsewhere.
        for (source, targets) in [(Some(fast), vec![]), (Some(source), vec![fast])] {
            schedule.set(Id::of(1), ready(source, &targets, &[]));
            assert!(matches!(schedule.next(), Some(Next::Start(task)) if task == Id::of(1)));
            schedule.set(Id::of(1), None);
        }
        assert!(schedule.next().is_some());
    }

    #[test]
    fn what_is_overdue_makes_room_for_others_until_it_ends() {
        let [slow, fast] = [0, 1].map(Id::of);
        let mut schedule = Schedule::new(Policy::of(1, 1));
        let (upload, question) = (Id::of(0), Id::of(1));
        schedule.started(slow, TakesSlot::Yes);
        schedule.wait_for(upload, slow, SECOND);
        schedule.wait_for(upload, slow, 2 * SECOND);
        let key = Key {
            order: 0,
            rank: 2,
            smallness: 0,
        };
        for host in [slow, fast] {
            let readiness = Readiness {
                key,
                source: None,
                targets: vec![host],
                alone: Vec::new(),
            };
            schedule.set(question, Some(readiness));
            assert!(schedule.next().is_none());
        }
        assert!(schedule.fired(SECOND / 2).is_none());
        assert!(matches!(schedule.fired(2 * SECOND), Some(Fired::Overdue(task)) if task == upload));
        assert!(schedule.fired(2 * SECOND).is_none() && schedule.overdue() == 1);
        assert!(schedule.next().is_some());
        schedule.started(fast, TakesSlot::Yes);
        assert!(schedule.next().is_none());
        assert!(!schedule.ended(question, fast, TakesSlot::Yes));
        assert!(schedule.ended(upload, slow, TakesSlot::Yes) && schedule.overdue() == 0);
        // One that ends before its time, and another of the same number.
        schedule.started(slow, TakesSlot::Yes);
        schedule.wait_for(upload, slow, 3 * SECOND);
        assert!(!schedule.ended(upload, slow, TakesSlot::Yes));
        schedule.started(slow, TakesSlot::Yes);
        schedule.wait_for(upload, slow, 4 * SECOND);
        assert!(schedule.fired(3 * SECOND).is_none());
        assert!(schedule.fired(4 * SECOND).is_some());
    }

    #[test]
    fn a_task_waits_for_its_last_timer_and_one_that_has_ended_for_none() {
        let mut schedule = schedule();
        let [twice, woken, ended] = [0, 1, 2].map(Id::of);
        // Two jobs of one copy may fail.
        for task in [twice, woken, ended, twice] {
            let verdict = schedule.failed(task, host(), &broken(), Time::ZERO);
            assert_eq!(verdict, Verdict::Later);
        }
        schedule.wake(woken);
        schedule.forget(ended);
        assert!(!schedule.is_idle());
        let mut fired = Vec::new();
        while let Some(Fired::Task(task)) = schedule.fired(SECOND * 100) {
            fired.push(task);
        }
        assert_eq!(fired, [twice]);
        assert!(schedule.is_idle());
        // Its number is another's now, which has all attempts before it.
        let limit = (0..MAX_ATTEMPTS).map(|_| {
            let verdict = schedule.failed(ended, host(), &broken(), Time::ZERO);
            verdict == Verdict::Later
        });
        assert_eq!(limit.filter(|is_later| *is_later).count(), 4);
    }

    #[test]
    fn a_host_that_was_down_has_time_to_come_back_before_each_probe() {
        let mut schedule = schedule();
        let refused = StoreError::new(Class::Unreachable, "no connection: refused");
        let mut now = Time::ZERO;
        for task in 0..MAX_UNREACHABLE {
            assert_eq!(schedule.down(host()), None);
            schedule.failed(Id::of(task), host(), &refused, now);
        }
        for (least, most) in [(2, 6), (4, 12)] {
            let down = schedule.down(host()).unwrap();
            assert!(
                down.ends_with("be reached: no connection: refused"),
                "{down}"
            );
            assert_eq!(schedule.new_pass(now), [host()]);
            let pause = schedule.pause(host(), now);
            assert!(
                pause >= SECOND * least && pause <= SECOND * most,
                "{pause:?}"
            );
            now += pause;
            while schedule.fired(now).is_some() {}
            assert!(!schedule.is_paused(host()));
            schedule.failed(Id::of(0), host(), &refused, now);
        }
        assert!(schedule.down(host()).is_some());
    }

    #[test]
    fn a_quota_that_what_runs_may_use_up_is_a_pause() {
        // (left, seconds, running) and the windows after it and after its end.
        for (left, seconds, running, ration, window) in [
            (9, 30, 3, Ration::Enough, 8),
            (3, 30, 3, Ration::Enough, 8),
            (2, 30, 3, Ration::Pause, 4),
            (1, 30, 0, Ration::Enough, 8),
            (0, 30, 0, Ration::Pause, 4),
            (0, 600, 5, Ration::Pause, 4),
            (0, 0, 5, Ration::Enough, 8),
            (0, 601, 5, Ration::Warn, 8),
        ] {
            let (mut schedule, host, now) = (schedule(), host(), 5 * SECOND);
            for _ in 0..running {
                schedule.started(host, TakesSlot::Yes);
            }
            let quota = |seconds| Quota {
                left,
                reset: seconds * SECOND,
            };
            assert_eq!(schedule.ration(host, quota(seconds), now), ration);
            // It is told once, and a later word prolongs a pause.
            assert_eq!(schedule.ration(host, quota(seconds), now), Ration::Enough);
            let is_pause = ration == Ration::Pause;
            assert_eq!(schedule.is_paused(host), is_pause, "{left} {running}");
            assert_eq!(schedule.host(host).window, window, "{left} {running}");
            if is_pause {
                let end = now + seconds * SECOND;
                assert_eq!(schedule.next_timer(), Some(end));
                assert!(schedule.fired(end).is_some() && !schedule.is_paused(host));
            }
        }
    }

    #[test]
    fn a_limit_holds_but_for_what_needs_more_by_itself() {
        let (mut schedule, host) = (schedule(), host());
        schedule.limit(host, 3);
        let rooms = [(0, 3), (1, 2), (2, 1), (3, 0)];
        for (running, room) in rooms {
            assert_eq!(schedule.room(host), Some(room));
            assert_eq!(schedule.host(host).has_room(4, 8), running == 0);
            schedule.started(host, TakesSlot::Yes);
        }
        // Successes widen no window beyond it.
        for _ in 0..100 {
            schedule.answered(Id::of(0), host);
        }
        assert_eq!(schedule.host(host).window, 3);
    }
}
