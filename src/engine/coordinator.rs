//! The coordinator: one thread that owns the graph, the schedule and the plan. It hands out jobs, takes in answers and
//! timers, and ends the run when nothing is left (architecture.md 3.5). It sends no requests and sleeps nowhere but in
//! its `select!`.

use std::cell::RefCell;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, never, select};

use super::graph::{Graph, HostId, Kind, News, TaskId};
use super::image::{ImageId, Outcome, TargetState};
use super::job::{Answer, Done, Job, Reply};
use super::plan::{Entry, Plan};
use super::schedule::{Fired, Next, Schedule, TakesSlot, Time, Verdict};
use crate::records::{Journal, Record};
use crate::store::{Class, StoreError, Stores};

pub(super) struct Coordinator<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) plan: Plan<'a>,
    schedule: Schedule,
    stores: &'a dyn Stores,
    journal: &'a Journal,
    jobs: Sender<Job>,
    answer_sender: Sender<Answer>,
    answers: Receiver<Answer>,
    cancel: Receiver<()>,
    workers: usize,
    /// Answers that are still to come.
    in_flight: usize,
    /// Images admitted so far: the order of the next.
    admitted: u32,
    began: Instant,
    /// No new work is begun.
    is_stopping: bool,
    /// Why the run cannot go on.
    fatal: Option<String>,
}

impl<'a> Coordinator<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one part of the wiring, made in one place"
    )]
    pub(super) fn new(
        graph: Graph<'a>,
        plan: Plan<'a>,
        schedule: Schedule,
        stores: &'a dyn Stores,
        journal: &'a Journal,
        jobs: Sender<Job>,
        cancel: Receiver<()>,
        workers: usize,
    ) -> Self {
        let (answer_sender, answers) = crossbeam_channel::unbounded();
        Self {
            graph,
            plan,
            schedule,
            stores,
            journal,
            jobs,
            answer_sender,
            answers,
            cancel,
            workers,
            in_flight: 0,
            admitted: 0,
            began: Instant::now(),
            is_stopping: false,
            fatal: None,
        }
    }

    /// Runs the first pass, and then up to `retries` more over what failed and may still succeed. Gives the reason if
    /// the run could not go on.
    pub(super) fn run(&mut self, retries: u32) -> Option<String> {
        self.take_news();
        self.pass();
        for pass in 1..=retries {
            if self.is_stopping {
                break;
            }
            self.graph.forget_failures();
            self.schedule.new_pass();
            if !self.plan.new_pass(&mut self.graph, self.stores) {
                break;
            }
            log::info!("pass {} over what failed", pass + 1);
            self.take_news();
            self.pass();
        }
        self.fatal.take()
    }

    /// Works until everything that was admitted has come to an end.
    fn pass(&mut self) {
        loop {
            self.admit();
            self.dispatch();
            if self.in_flight == 0 {
                if self.is_stopping {
                    return;
                }
                let is_over = self.schedule.is_idle() && !self.plan.has_waiting();
                if is_over && !self.plan.break_circle(&mut self.graph, self.stores) {
                    return self.check_end();
                }
                self.take_news();
                if is_over {
                    continue;
                }
            }
            self.wait();
        }
    }

    /// Blocks until an answer, a timer or the end of the run comes, and takes it in.
    fn wait(&mut self) {
        let timer = match self.schedule.next_timer().filter(|_| !self.is_stopping) {
            Some(time) => at(self.began + time),
            None if self.in_flight == 0 => {
                // Ready work that cannot go, and nothing that would change that.
                self.stop("the schedule is stuck".to_owned());
                return;
            }
            None => never(),
        };
        let cancel = if self.is_stopping {
            never()
        } else {
            self.cancel.clone()
        };
        select! {
            recv(self.answers) -> answer => {
                if let Ok(answer) = answer {
                    self.take(answer);
                }
            }
            recv(timer) -> _ => self.fire(),
            recv(cancel) -> _ => {
                log::warn!("interrupted: nothing new is begun, what runs is ended");
                self.is_stopping = true;
            }
        }
        self.take_news();
    }

    /// Takes images from the plan while the workers could run short of work (architecture.md 3.5, "Admission").
    fn admit(&mut self) {
        while !self.is_stopping
            && self.schedule.dispatchable() < 2 * self.workers
            && self.has_room()
        {
            let schedule = &self.schedule;
            let Some(entry) = self.plan.next(|host| !schedule.is_paused(host)) else {
                return;
            };
            self.admitted += 1;
            match entry {
                Entry::List(place) => self.graph.list(place, self.admitted),
                Entry::Image(image) => self.graph.admit(image, self.admitted),
            }
            self.take_news();
        }
    }

    fn has_room(&self) -> bool {
        let open = self.graph.open_images.len();
        if open < MAX_OPEN_IMAGES && self.graph.held_bytes < MAX_HELD_BYTES {
            return true;
        }
        let waits = |image: &&ImageId| self.graph.waits_for_late_targets_only(**image);
        open - self.graph.open_images.iter().filter(waits).count() < MAX_OPEN_IMAGES
            && self.graph.held_bytes < MAX_HELD_BYTES
    }

    fn dispatch(&mut self) {
        while !self.is_stopping
            && let Some(next) = self.schedule.next()
        {
            match next {
                Next::Start(task) => self.start(task),
                Next::Fail(task, reason) => {
                    let error = StoreError::new(
                        Class::Unreachable,
                        format!("not tried any more in this pass: {reason}"),
                    );
                    let schedule = &self.schedule;
                    self.graph
                        .unsent(task, &|host| schedule.down(host).is_some(), &error);
                }
            }
            self.take_news();
        }
    }

    fn start(&mut self, task: TaskId) {
        let started = RefCell::new(Vec::new());
        let reply = |task: TaskId, host: HostId| {
            started.borrow_mut().push((task, host));
            Reply::new(task, host, self.answer_sender.clone())
        };
        let schedule = &self.schedule;
        let job = self
            .graph
            .start(task, &reply, &|host| schedule.is_open(host));
        for (task, host) in started.into_inner() {
            let slot = self.slot(task);
            self.schedule.started(host, slot);
            self.in_flight += 1;
        }
        match job {
            Some(job) => {
                if self.jobs.send(job).is_err() {
                    log::debug!("no worker is left to take a job");
                }
            }
            None => self.stop(format!(
                "a ready task had no job ({:?})",
                self.graph.tasks[task].kind
            )),
        }
    }

    /// A copy's source works in the slots of its targets.
    fn slot(&self, task: TaskId) -> TakesSlot {
        if matches!(self.graph.tasks[task].kind, Kind::Copy(_)) {
            TakesSlot::No
        } else {
            TakesSlot::Yes
        }
    }

    fn take(&mut self, answer: Answer) {
        let Answer { task, host, result } = answer;
        self.in_flight -= 1;
        let slot = self.slot(task);
        self.schedule.ended(host, slot);
        match result {
            Ok(done) => {
                if !matches!(done, Done::NotSent) {
                    self.schedule.answered(task, host);
                }
                self.graph.done(task, done);
            }
            Err(error) => self.take_failure(task, host, &error),
        }
    }

    fn take_failure(&mut self, task: TaskId, host: HostId, error: &StoreError) {
        if error.class == Class::Fatal {
            self.stop(error.to_string());
        }
        if self.is_stopping {
            return self.graph.failed(task, error);
        }
        if self.graph.heal(task, error) {
            return;
        }
        let now = self.now();
        match self
            .schedule
            .failed(task, host, error.class, error.retry_after, now)
        {
            Verdict::Later => {
                log::warn!(
                    "failed to {}, will be tried again: {error}",
                    self.graph.operation_of(task)
                );
                self.graph.delay(task);
            }
            Verdict::AfterPause => {
                let pause = self.schedule.pause(host, now);
                let name = &self.graph.hosts[host].name;
                log::warn!(
                    "{name} is left alone for {:.1} s: {error}",
                    pause.as_secs_f64()
                );
                self.graph.again_after_pause(task);
                if pause > self.schedule.late_after() {
                    self.graph.set_late(host, true);
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

    fn fire(&mut self) {
        let now = self.now();
        while let Some(fired) = self.schedule.fired(now) {
            match fired {
                Fired::Task(task) => self.graph.again(task),
                Fired::Host(host) => self.graph.set_late(host, false),
            }
        }
    }

    /// Passes on what the graph has to tell: to the schedule, to the plan, and to the reader of the log.
    fn take_news(&mut self) {
        while !self.graph.news.is_empty() || !self.graph.changed.is_empty() {
            for task in std::mem::take(&mut self.graph.changed) {
                self.schedule.set(task, self.graph.readiness(task));
            }
            for news in std::mem::take(&mut self.graph.news) {
                match news {
                    News::Listed(place) => self.plan.listed(place, &mut self.graph, self.stores),
                    News::Settled(image, index) => {
                        self.tell(image, index);
                        self.plan
                            .settled(image, index, &mut self.graph, self.stores);
                    }
                }
            }
        }
    }

    /// One line for each image and target.
    fn tell(&self, image: ImageId, index: usize) {
        let source = self.graph.image_source(image);
        let target = self.graph.image_target(image, index);
        let row = &self.graph.images[image];
        match &row.target(index).state {
            TargetState::Done(outcome) => {
                let digest = row.digest().map(ToString::to_string).unwrap_or_default();
                let word = match outcome {
                    Outcome::Copied => "copied",
                    Outcome::Unchanged => "unchanged",
                };
                log::info!("{word} {source} -> {target} {digest}");
                if *outcome == Outcome::Unchanged {
                    self.record_unchanged(image, index);
                }
            }
            TargetState::Failed { failure, .. } => log::error!("{source} -> {target}: {failure}"),
            _ => {}
        }
    }

    /// A tag that was found equal is recorded where the records say otherwise, so that they can spare its list.
    fn record_unchanged(&self, image: ImageId, index: usize) {
        let row = &self.graph.images[image];
        let target = row.target(index);
        let place = &self.graph.places[target.place].place;
        if let Some(digest) = row.digest()
            && self.graph.hints.tag(place, &target.tag) != Some(digest)
        {
            self.journal.append(&Record::image(
                place,
                &target.tag,
                digest,
                &self.graph.places[row.source].place,
            ));
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

    fn now(&self) -> Time {
        self.began.elapsed()
    }
}

/// Images that are admitted and not settled, late ones apart.
const MAX_OPEN_IMAGES: usize = 10_000;
/// Bytes of manifests held for them.
const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;
