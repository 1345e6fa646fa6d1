//! The state of a run: graph, schedule and plan put together, and moved on by answers and by time. PURE: time is passed
//! in, jobs are given out and answers taken in, so that whole runs are simulated in tests. (Log lines and records of what
//! was found unchanged are all that leaves.) Not here: threads, channels that are waited for, and the clock
//! (`coordinator.rs`).

use std::cell::RefCell;
use std::fmt;

use crossbeam_channel::Sender;
use log::Level;

use super::Options;
use super::admission::Entry;
use super::gauge::{Counts, Gauge};
use super::graph::{Graph, News};
use super::image::{ImageId, MAX_HELD_BYTES, Outcome, TargetState};
use super::job::{Answer, Done, Job, Reply};
use super::places::HostId;
use super::plan::Plan;
use super::schedule::{Fired, Next, Policy, Ration, Schedule, TakesSlot, Time, Verdict};
use super::task::{Kind, State, TaskId};
use crate::records::{Journal, MadeOf, Record};
use crate::store::{Class, StoreError, Stores};

pub(super) struct Run<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) plan: Plan,
    pub(super) schedule: Schedule,
    stores: &'a dyn Stores,
    journal: &'a Journal,
    gauge: &'a Gauge,
    answers: Sender<Answer>,
    workers: usize,
    /// Passes after this one.
    retries: u32,
    /// Answers that are still to come.
    in_flight: usize,
    /// Images admitted so far: the order of the next.
    admitted: u32,
    /// No new work is begun.
    is_stopping: bool,
    /// Why the run cannot go on.
    fatal: Option<String>,
}

/// What a run needs next, when it has no job to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// An answer, or the next timer.
    Wait,
    /// To be asked for jobs again: a new pass has begun.
    Again,
    /// Nothing: all has come to an end.
    Over,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        graph: Graph<'a>,
        plan: Plan,
        policy: Policy,
        options: &Options<'a>,
        stores: &'a dyn Stores,
        answers: Sender<Answer>,
    ) -> Self {
        let mut run = Self {
            graph,
            plan,
            schedule: Schedule::new(policy),
            stores,
            journal: options.journal,
            gauge: options.gauge,
            answers,
            workers: policy.workers,
            retries: options.retries,
            in_flight: 0,
            admitted: 0,
            is_stopping: false,
            fatal: None,
        };
        run.take_news();
        run
    }

    /// The next job, as long as a slot is free and something is ready for it.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        loop {
            if self.is_stopping {
                return None;
            }
            self.admit();
            let started = match self.schedule.next()? {
                Next::Start(task) => self.start(task),
                Next::Fail(task, reason) => {
                    self.fail_unsent(task, &reason);
                    None
                }
            };
            self.take_news();
            if started.is_some() {
                return started;
            }
        }
    }

    /// What to do now that there is no job: wait, begin another pass, or end.
    pub(super) fn progress(&mut self, now: Time) -> Progress {
        if self.in_flight > 0 {
            return Progress::Wait;
        }
        if self.is_stopping {
            return Progress::Over;
        }
        if self.schedule.is_idle() && self.plan.waiting() == 0 {
            return self.end_pass(now);
        }
        if self.schedule.next_timer().is_none() {
            // Ready work that cannot go, and nothing that would change that.
            self.stop("the schedule is stuck".to_owned());
            return Progress::Over;
        }
        Progress::Wait
    }

    /// All that could be done in this pass has come to an end.
    fn end_pass(&mut self, now: Time) -> Progress {
        if !self.plan.break_circle(&mut self.graph, self.stores) {
            self.check_end();
            if self.retries == 0 || self.is_stopping {
                return Progress::Over;
            }
            self.retries -= 1;
            self.graph.forget_failures();
            let down = self.schedule.new_pass(now);
            if !self.plan.new_pass(&mut self.graph, self.stores) {
                return Progress::Over;
            }
            log::info!("another pass over what failed");
            for host in down {
                self.tell_pause(host, now, "it could not be reached");
            }
        }
        self.take_news();
        Progress::Again
    }

    /// The run ends early: nothing new is begun, what runs is ended.
    pub(super) fn interrupt(&mut self) {
        log::warn!(
            "interrupted: nothing new is begun, and what runs is ended after 10 s, or at once by another interrupt"
        );
        self.is_stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Why the run could not go on, if so.
    pub(super) fn fatal(&mut self) -> Option<String> {
        self.fatal.take()
    }

    /// How many uploads are overdue: each may keep a worker from what has its slot.
    pub(super) fn overdue(&self) -> usize {
        self.schedule.overdue()
    }

    /// When the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.schedule.next_timer().filter(|_| !self.is_stopping)
    }

    /// Takes images from the plan while the workers could run short of work (architecture.md 3.5, "Admission").
    fn admit(&mut self) {
        while !self.is_stopping && !self.schedule.has_ready(2 * self.workers) && self.has_room() {
            let schedule = &self.schedule;
            let Some(entry) = self.plan.next(|host| !schedule.is_paused(host)) else {
                return;
            };
            self.admitted += 1;
            match entry {
                Entry::List(place) => {
                    self.graph.list_source(place, self.admitted);
                    for target in self.plan.early_lists(place, &self.graph) {
                        self.graph.list(target, self.admitted);
                    }
                }
                Entry::Catalog(namespace) => {
                    self.graph
                        .add_task(Kind::Catalog(namespace), self.admitted, State::Ready);
                }
                Entry::Date(date) => self.graph.ask_date(date, self.admitted),
                Entry::Image(image) => self.graph.admit(image, self.admitted),
            }
            self.take_news();
        }
    }

    fn has_room(&self) -> bool {
        let open = self.graph.open_images.len() - self.graph.late_images.len();
        open < MAX_OPEN_IMAGES && self.graph.held_bytes < MAX_HELD_BYTES
    }

    fn start(&mut self, task: TaskId) -> Option<Job> {
        let started = RefCell::new(Vec::new());
        let reply = |task: TaskId, host: HostId| {
            started.borrow_mut().push((task, host));
            Reply::new(task, host, self.answers.clone())
        };
        let schedule = &self.schedule;
        let job = self.graph.start(task, &reply, &|host| schedule.room(host));
        for (task, host) in started.into_inner() {
            let slot = self.slot(task);
            self.schedule.started(host, slot);
            self.in_flight += 1;
        }
        if job.is_none() {
            self.stop(format!(
                "a ready task had no job ({:?})",
                self.graph.tasks[task].kind
            ));
        }
        job
    }

    /// A host that the task needs is down.
    fn fail_unsent(&mut self, task: TaskId, reason: &str) {
        let error = StoreError::new(Class::Unreachable, format!("not tried: {reason}"));
        let schedule = &self.schedule;
        self.graph
            .unsent(task, &|host| schedule.down(host).is_some(), &error);
    }

    /// A copy's source works in the slots of its targets.
    fn slot(&self, task: TaskId) -> TakesSlot {
        if matches!(self.graph.tasks[task].kind, Kind::Copy(_)) {
            TakesSlot::No
        } else {
            TakesSlot::Yes
        }
    }

    /// Takes in an answer.
    pub(super) fn take(&mut self, answer: Answer, now: Time) {
        let Answer { task, host, result } = answer;
        self.in_flight -= 1;
        let slot = self.slot(task);
        if self.schedule.ended(task, host, slot) {
            self.graph.caught_up(host);
        }
        match result {
            Ok(done) => {
                if !matches!(done, Done::NotSent) {
                    self.schedule.answered(task, host);
                    self.tell_recovery(host);
                }
                if let Done::BlobSent {
                    patience: Some(patience),
                    ..
                } = done
                {
                    for other in self.graph.others_of(task) {
                        let host = self.graph.host_of(other);
                        self.schedule.wait_for(other, host, now + patience);
                    }
                }
                self.graph.done(task, done);
            }
            Err(error) => self.take_failure(task, host, &error, now),
        }
        self.heed_quota(host, now);
        self.take_news();
    }

    fn take_failure(&mut self, task: TaskId, host: HostId, error: &StoreError, now: Time) {
        if error.class == Class::Fatal {
            self.stop(error.to_string());
        }
        if self.graph.has_failed(task) {
            return; // given up meanwhile, for the sake of a newer manifest
        }
        if self.is_stopping {
            return self.graph.failed(task, error);
        }
        if self.graph.heal(task, error) {
            return;
        }
        let was_paused = self.schedule.is_paused(host);
        match self.schedule.failed(task, host, error, now) {
            Verdict::Later => {
                let row = &mut self.graph.hosts[host];
                row.failed_attempts += 1;
                row.good_answers = 0;
                let is_first = row.failed_attempts == 1;
                log::log!(
                    if is_first { Level::Warn } else { Level::Debug },
                    "failed to {}, will be tried again: {error}",
                    self.graph.operation_of(task)
                );
                self.graph.delay(task);
            }
            Verdict::AfterPause => {
                self.schedule.put_off(self.graph.scheduled(task), host);
                self.graph.again_after_pause(task);
                if was_paused {
                    self.judge_pause(host, now);
                } else {
                    self.tell_pause(host, now, error);
                }
            }
            Verdict::GiveUp { attempts } => {
                if attempts > 1 {
                    log::debug!(
                        "gave up to {} after {attempts} attempts",
                        self.graph.operation_of(task)
                    );
                }
                self.graph.failed(task, error);
            }
        }
    }

    /// Takes in what a host's answers said of its quota: it pauses, as if it had asked for that, before it has to.
    fn heed_quota(&mut self, host: HostId, now: Time) {
        let registry = self.graph.hosts[host].registry.as_ref();
        let Some(quota) = registry.and_then(|registry| self.stores.quota(registry)) else {
            return;
        };
        let left = format!("{} requests are left of its quota", quota.left);
        match self.schedule.ration(host, quota, now) {
            Ration::Enough => {}
            Ration::Pause => self.tell_pause(host, now, left),
            Ration::Warn => log::warn!(
                "{}: {left} for the next {:.0} s, which is too long to wait for",
                self.graph.hosts[host].name,
                quota.reset.as_secs_f64()
            ),
        }
    }

    /// A host has answered as it should: its trouble is over if it has done so often enough.
    fn tell_recovery(&mut self, host: HostId) {
        let row = &mut self.graph.hosts[host];
        row.good_answers += 1;
        if row.failed_attempts > 0 && row.good_answers >= STEADY {
            let failed = std::mem::take(&mut row.failed_attempts);
            log::info!("{} answers again: {failed} attempts had failed", row.name);
        }
    }

    fn tell_pause(&mut self, host: HostId, now: Time, reason: impl fmt::Display) {
        let pause = self.schedule.pause(host, now).as_secs_f64();
        let name = &self.graph.hosts[host].name;
        log::warn!("{name} is left alone for {pause:.1} s: {reason}");
        self.judge_pause(host, now);
    }

    /// Nobody waits for a host that pauses for long.
    fn judge_pause(&mut self, host: HostId, now: Time) {
        if self.schedule.pause(host, now) > self.schedule.late_after() {
            self.graph.set_late(host, true);
        }
    }

    /// Takes in that timers are due.
    pub(super) fn fire(&mut self, now: Time) {
        while let Some(fired) = self.schedule.fired(now) {
            match fired {
                Fired::Task(task) => self.graph.again(task),
                Fired::Host(host) => self.graph.set_late(host, false),
                Fired::Overdue(task) => self.graph.want_overdue(task),
            }
        }
        self.take_news();
    }

    /// Passes on what the graph has to tell: to the schedule, to the plan, and to the reader of the log.
    fn take_news(&mut self) {
        let mut settled = Vec::new();
        while !self.graph.news.is_empty() || !self.graph.changed.is_empty() {
            for task in std::mem::take(&mut self.graph.changed) {
                if !matches!(self.graph.tasks[task].state, State::Delayed) {
                    self.schedule.wake(task);
                }
                self.schedule.set(task, self.graph.readiness(task));
            }
            for news in std::mem::take(&mut self.graph.news) {
                match news {
                    News::Met(host) => self.meet(host),
                    News::Listed(place) => self.plan.listed(place, &mut self.graph, self.stores),
                    News::Cataloged(namespace, repositories) => {
                        self.plan
                            .cataloged(namespace, &repositories, &mut self.graph, self.stores);
                    }
                    News::Dated(place) => self.plan.dated(place, &mut self.graph, self.stores),
                    News::Settled(image, index) => {
                        self.count(image, index);
                        self.tell(image, index);
                        self.plan
                            .settled(image, index, &mut self.graph, self.stores);
                        settled.push(image);
                    }
                }
            }
        }
        for image in settled {
            self.graph.forget(image);
        }
        for task in std::mem::take(&mut self.graph.finished) {
            self.schedule.forget(task);
            self.graph.tasks.free(task);
        }
        self.gauge.set(Counts {
            waiting: self.plan.waiting(),
            begun: self.admitted as usize,
            sent: self.graph.totals.pushed,
            ..self.graph.counts
        });
    }

    fn count(&mut self, image: ImageId, index: usize) {
        let counts = &mut self.graph.counts;
        match self.graph.images[image].target(index).state {
            TargetState::Done(_) => counts.done += 1,
            TargetState::Failed { .. } => counts.failed += 1,
            _ => {}
        }
    }

    /// Takes up what the user bounds of a host.
    fn meet(&mut self, host: HostId) {
        let row = &mut self.graph.hosts[host];
        if let Some(registry) = &row.registry {
            let limits = self.stores.limits(registry);
            row.is_narrow = limits.bandwidth.is_some();
            if let Some(most) = limits.at_once() {
                self.schedule.limit(host, most);
            }
        }
    }

    /// One line for each image and target.
    fn tell(&self, image: ImageId, index: usize) {
        let source = self.graph.image_source(image);
        let target = self.graph.image_target(image, index);
        let row = &self.graph.images[image];
        match &row.target(index).state {
            // Said once for the image.
            TargetState::Done(Outcome::Skipped) => {}
            TargetState::Done(outcome) => {
                let digest = row.digest().map(ToString::to_string).unwrap_or_default();
                let word = match outcome {
                    Outcome::Copied if self.graph.is_dry => "would copy",
                    Outcome::Copied => "copied",
                    Outcome::Unchanged | Outcome::Kept | Outcome::Skipped => "unchanged",
                };
                log::info!("{word} {source} -> {target} {digest}");
                if *outcome == Outcome::Unchanged {
                    self.record_unchanged(image, index);
                }
            }
            TargetState::Failed { failure, .. } => {
                let is_last = failure.is_final || self.retries == 0;
                let level = if is_last { Level::Error } else { Level::Debug };
                log::log!(level, "{source} -> {target}: {failure}");
            }
            _ => {}
        }
    }

    /// A tag that was found equal is recorded where the records say otherwise, so that they can spare its list, or
    /// vouch for it no more.
    fn record_unchanged(&self, image: ImageId, index: usize) {
        let row = &self.graph.images[image];
        let target = row.target(index);
        let place = &self.graph.places[target.place].place;
        if let (Some((digest, source)), Some(tag)) = (row.digests(), target.name.tag()) {
            let origin = MadeOf {
                place: &self.graph.places[row.source].place,
                digest: source,
                wanted: row.wanted.as_deref(),
            };
            if !self.graph.hints.is_recorded(place, tag, digest, &origin) {
                self.journal
                    .append(&Record::image(place, tag, digest, &origin));
            }
        }
    }

    /// A run in which any node did not end is never reported as finished.
    fn check_end(&mut self) {
        if let Some(image) = self.graph.open_images.iter().next() {
            let (source, count) = (
                self.graph.image_source(*image),
                self.graph.open_images.len(),
            );
            self.stop(format!(
                "{count} images did not come to an end, {source} among them"
            ));
        }
    }

    /// Begins nothing new, since the run cannot go on.
    fn stop(&mut self, reason: String) {
        log::error!("the run cannot go on: {reason}");
        self.fatal.get_or_insert(reason);
        self.is_stopping = true;
    }
}

/// So many good answers one after another end the trouble of a host.
const STEADY: u32 = 20;
/// Images that are admitted and not settled, late ones apart.
const MAX_OPEN_IMAGES: usize = 10_000;
