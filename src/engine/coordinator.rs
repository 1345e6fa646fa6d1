//! The coordinator: the one thread that owns the run. It hands out jobs and waits for answers, timers and the end
//! (architecture.md 3.5). It sends no requests, and sleeps nowhere but in its `select!`. Not here: any decision
//! (`run.rs`).

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, never, select};

use super::job::{Answer, Job};
use super::run::{Progress, Run};

/// Works until everything has come to an end. `jobs` has room for one job a worker, and there are never more jobs than
/// slots, so sending does not block.
pub(super) fn coordinate(
    run: &mut Run<'_>,
    jobs: &Sender<Job>,
    answers: &Receiver<Answer>,
    cancel: &Receiver<()>,
    mut add_worker: impl FnMut() -> bool,
) {
    let began = Instant::now();
    let mut added = 0;
    loop {
        // What is overdue may have the worker that was to have the next job of its slot.
        while added < run.overdue() {
            added += 1;
            add_worker();
        }
        while let Some(job) = run.next_job() {
            if jobs.send(job).is_err() {
                log::debug!("no worker is left to take a job");
            }
        }
        match run.progress(began.elapsed()) {
            Progress::Wait => {}
            Progress::Again => continue,
            Progress::Over => return,
        }
        let timer = run.next_timer().map_or_else(never, |time| at(began + time));
        let cancel = if run.is_stopping() {
            never()
        } else {
            cancel.clone()
        };
        select! {
            recv(answers) -> answer => {
                if let Ok(answer) = answer {
                    run.take(answer, began.elapsed());
                }
            }
            recv(timer) -> _ => run.fire(began.elapsed()),
            recv(cancel) -> _ => run.interrupt(),
        }
    }
}
