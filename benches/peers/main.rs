//! The benchmarks: `cargo bench --bench peers` has image-syncer and whichever other programs of its kind are installed do
//! the same works between registries on this machine, and prints what each took. `-- --help` has the options. Not here:
//! anything that decides whether a change is right; these are measurements, and tests are elsewhere.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::format_push_string,
    reason = "it prints, figures of a few digits, and in no hurry"
)]

mod chart;
mod course;
mod images;
mod measure;
mod proxy;
mod registry;
mod scratch;
mod table;
mod tools;
mod works;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lexopt::{Arg, Parser, ValueExt};

use scratch::Scratch;
use tools::Program;
use works::{Course, Settings};

/// What may go wrong ends the benchmark, with these words.
type Outcome<T> = Result<T, Box<dyn Error>>;

const HELP: &str = "\
Measures image-syncer beside other programs, on registries of this machine

Usage: cargo bench --bench peers -- [OPTIONS]

Options:
  --work NAME,..      only these: small, delay, wide, unchanged, shared, large, fan-out, slow, kill
  --programs NAME,..  only these beside image-syncer, of crane, regsync, skopeo and ocync
  --peers FOLDER      where the other programs and registries are looked for before the PATH
  --original PATH     the program of AliyunContainerService/image-syncer 1.5
  --binary PATH       the image-syncer to measure [default: the one that cargo has built]
  --rounds N          how often each work is done by each program [default: 3, large: 5]
  --workers N         transfers at once [default: 8]
  --delay MS          before each request, in the works delay and wide [default: 50]
  --quick             small sizes and one round: a look whether all works
  --chart FILE        the picture [default: peers.svg in the target folder]
  -h, --help          this help
";

const NO_REGISTRY: &str = "\
no registry to copy from and to: neither docker-registry nor registry is on the PATH or in --peers.
Debian and Ubuntu have the package docker-registry; elsewhere
  go install github.com/distribution/distribution/v3/cmd/registry@latest";

struct Options {
    works: Option<Vec<String>>,
    programs: Option<Vec<String>>,
    folders: Vec<PathBuf>,
    original: Option<PathBuf>,
    binary: PathBuf,
    settings: Settings,
    chart: PathBuf,
}

/// What the command line asks for; `None`: the help.
fn options() -> Outcome<Option<Options>> {
    let mut options = Options {
        works: None,
        programs: None,
        folders: tools::path(),
        original: None,
        binary: env!("CARGO_BIN_EXE_image-syncer").into(),
        settings: Settings {
            rounds: None,
            workers: 8,
            delay: Duration::from_millis(50),
            is_quick: false,
        },
        chart: Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers.svg"),
    };
    let list = |value: String| Some(value.split(',').map(ToOwned::to_owned).collect());
    let mut parser = Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("work") => options.works = list(parser.value()?.string()?),
            Arg::Long("programs") => options.programs = list(parser.value()?.string()?),
            Arg::Long("peers") => options.folders.insert(0, absolute(parser.value()?)?),
            Arg::Long("original") => options.original = Some(absolute(parser.value()?)?),
            Arg::Long("binary") => options.binary = absolute(parser.value()?)?,
            Arg::Long("rounds") => options.settings.rounds = Some(parser.value()?.parse()?),
            Arg::Long("workers") => options.settings.workers = parser.value()?.parse()?,
            Arg::Long("delay") => {
                options.settings.delay = Duration::from_millis(parser.value()?.parse()?);
            }
            Arg::Long("quick") => options.settings.is_quick = true,
            Arg::Long("chart") => options.chart = parser.value()?.into(),
            Arg::Long("bench") => {} // cargo says this to every benchmark
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn absolute(path: std::ffi::OsString) -> Outcome<PathBuf> {
    let path = PathBuf::from(path);
    fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn main() -> ExitCode {
    let result = match options() {
        Ok(Some(options)) => bench(options),
        Ok(None) => {
            print!("{HELP}");
            Ok(true)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all that was asked for. Gives whether image-syncer did all of it.
fn bench(options: Options) -> Outcome<bool> {
    let registries = registry::Program::all(&options.folders);
    let usual = registries.first().ok_or(NO_REGISTRY)?;
    let keeping = registries.iter().find(|it| it.keeps_uploads());
    let scratch = Scratch::new()?;
    let load = line("/proc/loadavg", "").unwrap_or_default();

    let mut programs = vec![Program::ours(options.binary)];
    let is_wanted = |program: &Program| match &options.programs {
        Some(names) => names.iter().any(|name| program.name.starts_with(name)),
        None => true,
    };
    programs.extend(Program::peers(&options.folders).filter(is_wanted));
    programs.extend(options.original.map(Program::original));

    let mut works = works::all(&options.settings);
    if let Some(names) = &options.works {
        if let Some(name) = names
            .iter()
            .find(|it| !works.iter().any(|work| work.name == **it))
        {
            return Err(format!("no work is named {name}: see --help").into());
        }
        works.retain(|work| names.iter().any(|name| name == work.name));
    }
    let mut results = Vec::new();
    for work in works {
        let registry = match work.course {
            Course::Kill => keeping.unwrap_or(usual),
            _ => usual,
        };
        eprintln!(
            "{}: {} (distribution {})",
            work.name, work.about, registry.version
        );
        let rows = course::run(&work, &programs, registry, &scratch)?;
        results.push((work, rows));
    }

    let names: Vec<_> = programs
        .iter()
        .map(|program| program.name.as_str())
        .collect();
    let versions: Vec<_> = registries.iter().map(|it| it.version.as_str()).collect();
    let notes = [
        format!(
            "{} workers unless said. {} Load before: {}.",
            options.settings.workers,
            machine(),
            load.split(' ').next().unwrap_or_default()
        ),
        format!(
            "Registries on the same machine: distribution {}, storage in {}; a proxy before each counts and delays.",
            versions.join(" and "),
            scratch.parent().display()
        ),
    ];
    println!("{}\n", names.join(", "));
    for note in &notes {
        println!("{note}");
    }
    println!();
    for (work, _) in &results {
        println!("- {}: {}", work.name, work.about);
    }
    println!("\n{}", table::table(&results));
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let title = format!(
        "image-syncer and others, {}",
        date.split('T').next().unwrap_or(&date)
    );
    fs::write(&options.chart, chart::chart(&results, &title, &notes))?;
    println!("chart: {}", options.chart.display());
    let ours = results
        .iter()
        .flat_map(|(_, rows)| rows)
        .filter(|row| row.program.is_ours());
    Ok(ours
        .flat_map(|row| &row.rounds)
        .all(|round| round.problem.is_none()))
}

/// What follows the first `key` that begins a line of a file.
fn line(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// The machine, in a sentence; what it does not tell is left out.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = line("/proc/cpuinfo", "model name").unwrap_or_default();
    let memory =
        line("/proc/meminfo", "MemTotal").and_then(|it| it.strip_suffix(" kB")?.parse().ok());
    let memory: u64 = memory.unwrap_or(0);
    let kernel = line("/proc/sys/kernel/osrelease", "").unwrap_or_default();
    format!(
        "{cores} cores ({model}), {} GB of memory, Linux {kernel}.",
        memory / 976_562
    )
}
