//! One work, done by each program in turn: fresh registries, proxies, runs, and whether all arrived. Not here: how the
//! results look.

use std::fs;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::images::{self, Image};
use crate::measure::{self, Spent};
use crate::proxy::{Counts, Proxy};
use crate::registry::{self, Registry};
use crate::scratch::Scratch;
use crate::tools::{Job, Program, Tool};
use crate::works::{Course, Work};

/// What the slow registry takes, in bytes a second.
const SLOW_RATE: u32 = 1_000_000;
/// How long after a kill the program runs again: the registry is through with what it got by then.
const RESTART: Duration = Duration::from_secs(1);
/// When the wait for the others of a slow registry is given up.
const SLOW_LIMIT: Duration = Duration::from_secs(30);

/// How a program goes about a work, where there are several ways.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Usual,
    WithoutRecords,
    TrustingRecords,
    WithoutSlow,
}

impl Way {
    /// What is added to the program's name.
    fn label(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::WithoutRecords => ", without records",
            Self::TrustingRecords => ", trusting records",
            Self::WithoutSlow => ", the others alone",
        }
    }
}

/// One run.
pub(crate) struct Round {
    pub(crate) spent: Spent,
    /// At the source.
    pub(crate) source: Counts,
    /// At all targets.
    pub(crate) target: Counts,
    /// What went wrong.
    pub(crate) problem: Option<String>,
}

impl Round {
    pub(crate) fn requests(&self) -> u64 {
        self.source.requests() + self.target.requests()
    }

    /// How many requests were under way on average.
    pub(crate) fn in_flight(&self) -> f64 {
        let busy = self.source.busy + self.target.busy;
        busy.as_secs_f64() / self.spent.wall.as_secs_f64()
    }
}

/// All runs of one program for one work.
pub(crate) struct Row<'a> {
    pub(crate) program: &'a Program,
    pub(crate) way: Way,
    pub(crate) rounds: Vec<Round>,
}

impl Row<'_> {
    /// The program, and how it went about it.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.program.name, self.way.label())
    }

    /// What went wrong in one of its rounds.
    pub(crate) fn problem(&self) -> Option<&str> {
        let mut problems = self.rounds.iter().map(|round| round.problem.as_deref());
        problems.find_map(|problem| problem)
    }
}

/// The programs that can do a work, and the ways to do it.
fn rows<'a>(work: &Work, programs: &'a [Program]) -> Vec<Row<'a>> {
    let can = |program: &&Program| match work.course {
        Course::Slow => program.fans_out(),
        // The others copy the tags of a repository one after another: minutes of waiting, which tell nothing new.
        _ if !work.delay.is_zero() => !matches!(program.tool, Tool::Regsync | Tool::Skopeo),
        _ => true,
    };
    let ways = |program: &Program| match work.course {
        Course::Again if program.is_ours() => {
            vec![Way::Usual, Way::WithoutRecords, Way::TrustingRecords]
        }
        Course::Slow => vec![Way::Usual, Way::WithoutSlow],
        _ => vec![Way::Usual],
    };
    let row = |program: &'a Program| {
        ways(program).into_iter().map(move |way| Row {
            program,
            way,
            rounds: Vec::new(),
        })
    };
    programs.iter().filter(can).flat_map(row).collect()
}

/// Has a work done by all programs, once a round, the order turned round each time.
pub(crate) fn run<'a>(
    work: &Work,
    programs: &'a [Program],
    program: &registry::Program,
    scratch: &Scratch,
) -> Outcome<Vec<Row<'a>>> {
    let source = Registry::start(program, scratch, "source")?;
    let digests = images::push(&work.images, &source.address)?;
    let mut stage = Stage {
        work,
        digests,
        source: Proxy::start(&source.address, work.delay, None)?,
        registries: Vec::new(),
        targets: Vec::new(),
    };
    for n in 1..=work.targets {
        let registry = Registry::start(program, scratch, &format!("target{n}"))?;
        let is_slow = work.course == Course::Slow && n == work.targets;
        let rate = is_slow.then_some(SLOW_RATE);
        let proxy = Proxy::start(&registry.address, work.delay, rate)?;
        stage.registries.push(registry);
        stage.targets.push(proxy);
    }
    let mut rows = rows(work, programs);
    for round in 0..work.rounds {
        let mut order: Vec<_> = rows.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for row in order {
            let done = stage.run(row, scratch)?;
            eprintln!(
                "  {}: {:.2} s, CPU {:.2} s{}",
                row.name(),
                done.spent.wall.as_secs_f64(),
                done.spent.cpu.as_secs_f64(),
                done.problem
                    .as_ref()
                    .map_or(String::new(), |it| format!(", FAILED: {it}"))
            );
            row.rounds.push(done);
        }
    }
    Ok(rows)
}

/// The registries of a work, with what is in the source.
struct Stage<'a> {
    work: &'a Work,
    digests: Vec<String>,
    source: Proxy,
    registries: Vec<Registry>,
    /// The proxies before these.
    targets: Vec<Proxy>,
}

impl Stage<'_> {
    /// Has all proxies count from zero.
    fn reset(&self) {
        for proxy in self.targets.iter().chain([&self.source]) {
            proxy.reset();
        }
    }

    /// One run of one program.
    fn run(&mut self, row: &Row<'_>, scratch: &Scratch) -> Outcome<Round> {
        for registry in &mut self.registries {
            registry.empty()?;
        }
        let folder = scratch.path("run");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;

        let Work { images, course, .. } = self.work;
        let all = self.targets.len();
        let others = if *course == Course::Slow {
            all - 1
        } else {
            all
        };
        let told = if row.way == Way::WithoutSlow {
            others
        } else {
            all
        };
        let targets: Vec<_> = self
            .targets
            .iter()
            .take(told)
            .map(|it| it.address.clone())
            .collect();
        let mut repositories: Vec<_> = images.iter().map(|it| it.repository.clone()).collect();
        repositories.dedup();
        let job = Job {
            source: &self.source.address,
            targets: &targets,
            repositories: &repositories,
            workers: if row.program.is_ours() {
                self.work.workers
            } else {
                self.work.peer_workers
            },
            folder: &folder,
        };
        let never = || false;
        let mut problem = None;
        self.reset();
        match course {
            Course::Copy | Course::Slow => {}
            Course::Again => problem = measure::run(row.program.commands(&job)?, &never)?.complaint,
            Course::Kill => {
                let half = images.iter().map(Image::bytes).sum::<u64>() / 2;
                let is_half = || self.targets.iter().any(|it| it.counts().sent > half);
                if !measure::run(row.program.commands(&job)?, &is_half)?.is_ended {
                    problem = Some("ended before it was killed".to_owned());
                }
                measure::pause(RESTART);
            }
        }
        if row.way == Way::WithoutRecords {
            fs::remove_file(folder.join("records"))?;
        }
        let mut commands = row.program.commands(&job)?;
        if row.way == Way::TrustingRecords {
            for command in &mut commands {
                command.args(["--trust-records", "12h"]);
            }
        }

        self.reset();
        let began = Instant::now();
        let fast = || self.targets.iter().take(others);
        let are_there = || fast().all(|it| it.counts().tagged >= images.len());
        let enough = || *course == Course::Slow && (are_there() || began.elapsed() > SLOW_LIMIT);
        let spent = measure::run(commands, &enough)?;
        let source = self.source.counts();
        let target = self
            .targets
            .iter()
            .map(Proxy::counts)
            .fold(Counts::default(), Counts::add);
        for registry in self.registries.iter().take(others) {
            let there = images::count(images, &self.digests, &registry.address);
            if there < images.len() {
                problem.get_or_insert(format!("{there} of {} images arrived", images.len()));
            }
        }
        problem = spent.complaint.clone().or(problem);
        Ok(Round {
            spent,
            source,
            target,
            problem,
        })
    }
}
