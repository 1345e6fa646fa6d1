//! What is shown while a run goes on: a block on a terminal, lines elsewhere, nothing with `--quiet` or `--log`. The
//! terminal is that of `script` (util-linux). Not here: how the block looks (`src/progress.rs`).

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Act, FakeRegistry, Fault, Kind};

/// Two images, one of which stops in the middle of its layer.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    /// That layer as the block shows it: its digest and where it goes.
    shown: String,
}

impl World {
    /// The second value, dropped, lets the layer go on.
    fn new() -> (Self, Sender<()>) {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(6);
        source.push("ns/app", "v1", &maker.oci(&[100]));
        let image = maker.oci(&[400 << 10]);
        source.push("ns/app", "v2", &image);
        let digest = &image.blobs[1].digest;
        let (hold, until) = crossbeam_channel::bounded(0);
        let stops = Act::HoldBody(200 << 10, until);
        source.fault(Fault::on(Kind::BlobGet, stops).of(digest));
        let digest = &digest["sha256:".len()..][..12];
        let shown = format!("% of  400.0 KiB  {digest}  {}", target.name("m/app"));
        let world = Self {
            source,
            target,
            shown,
        };
        (world, hold)
    }

    fn run(&self) -> Run {
        Run::new()
            .rule(&self.source.name("ns/app"), self.target.name("m/app"))
            .arg("--log-level=info")
            .env("TERM", "xterm")
            // A block is drawn each 12 ms, and what is held may be so for 3 s.
            .env("IMAGE_SYNCER_TIME_SCALE", "0.05")
    }

    /// With a line, where it is one, each 300 ms.
    fn faster(&self) -> Run {
        self.run().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
    }

    #[track_caller]
    fn assert_synced(&self, output: &Output) {
        check_invariants(&[&self.source], &[&self.target], output);
        assert_in_sync(&self.source, "ns/app", &self.target, "m/app", &["v1", "v2"]);
    }
}

/// Has a terminal as the binary's stderr, which comes out as the run's. Its stdout goes into a file.
fn in_terminal(run: Run) -> Run {
    run.in_shell(r#"exec script -qec "exec $* >stdout" /dev/null >&2"#)
}

/// Whether there is a terminal to be had. Where there is none, says so past the test harness.
fn have_terminal() -> bool {
    let can = Command::new("script")
        .args(["-qec", "true", "/dev/null"])
        .output();
    let can = can.is_ok_and(|output| output.status.success());
    if !can {
        writeln!(std::io::stderr(), "SKIPPED: no `script` of util-linux here").unwrap();
    }
    can
}

/// What stands on a terminal in the end. Knows what the program may send, and nothing of colours.
fn screen(sent: &str) -> String {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut letters = sent.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                lines.resize(lines.len().max(row + 1), Vec::new());
            }
            '\u{1b}' => {
                let mut sequence = String::new();
                while sequence.len() < 2 || !sequence.ends_with(|end: char| end.is_alphabetic()) {
                    sequence.push(letters.next().expect("an unfinished sequence"));
                }
                match sequence.as_str() {
                    "[?7l" | "[?7h" => {}
                    "[J" => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    _ => {
                        let up = sequence.strip_prefix('[').and_then(|s| s.strip_suffix('A'));
                        let up: usize = up.and_then(|up| up.parse().ok()).expect(&sequence);
                        row -= up;
                    }
                }
            }
            letter => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = letter;
                column += 1;
            }
        }
    }
    assert_eq!(lines.pop(), Some(Vec::new()), "the last line has no end");
    let lines = lines.into_iter().map(|line| String::from_iter(line) + "\n");
    lines.collect()
}

/// What was left on the terminal, and the file that stdout went to.
fn at_the_end(mut output: Output) -> Output {
    output.stderr = screen(&output.stderr);
    output.stdout = output.written.remove("stdout").expect("no stdout");
    output
}

/// The log without its times and without what comes after a message's first words. Fails where a line is none.
#[track_caller]
fn words(log: &str) -> Vec<&str> {
    let lines = log
        .lines()
        .filter(|line| !line.ends_with(" speaks plain http"));
    let first_words = lines.map(|line| {
        let (time, rest) = line.split_once("Z ").expect(line);
        assert_eq!(time.len(), "2026-11-24T11:02:03".len(), "{line}");
        let end = rest.find([',', ':', ';']).unwrap_or(rest.len());
        &rest[..rest[..end].find(" 127.").unwrap_or(end)]
    });
    first_words.collect()
}

const COPIED: [&str; 4] = ["INFO rules", "INFO copied", "INFO copied", "INFO 2 copied"];
const ALL_WELL: &str = "Finished, 0 sync tasks failed, 0 tasks generate failed\n";

#[test]
fn on_a_terminal_a_block_shows_what_moves_and_nothing_of_it_is_left() {
    if !have_terminal() {
        return;
    }
    let (world, hold) = World::new();
    let running = in_terminal(world.run()).spawn();
    running.wait_until_says(&world.shown);
    running.wait_until_says("\u{1b}[?7l1 of 2 images, ");
    drop(hold);
    let output = at_the_end(running.wait().expect(0));
    world.assert_synced(&output);
    assert_eq!(words(&output.stderr), COPIED);
    assert_eq!(output.stdout, ALL_WELL);
}

#[test]
fn an_interrupt_takes_the_block_away_at_once() {
    if !have_terminal() {
        return;
    }
    let (world, hold) = World::new();
    // The layer is held to the end: the run is broken off.
    let running = in_terminal(world.run()).spawn();
    running.wait_until_says(&world.shown);
    running.wait_until_says("\u{1b}[?7l1 of 2 images, ");
    running.signal_child("INT");
    let output = at_the_end(running.wait().expect(130));
    check_invariants(&[&world.source], &[&world.target], &output);
    let words = words(&output.stderr);
    assert_eq!(
        words[..3],
        ["INFO rules", "INFO copied", "WARN interrupted"]
    );
    assert_eq!(output.finished(), Some((1, 0)));
    drop(hold);
}

#[test]
fn elsewhere_it_is_a_line_now_and_then() {
    let dumb = |run: Run| in_terminal(run).env("TERM", "dumb");
    let mut ways: Vec<fn(Run) -> Run> = vec![|run| run];
    if have_terminal() {
        ways.extend([dumb, |run| in_terminal(run).env("TERM", "")]);
    }
    for (number, way) in ways.into_iter().enumerate() {
        let (world, hold) = World::new();
        let running = way(world.faster()).spawn();
        running.wait_until_says(" INFO 1 of 2 images, ");
        drop(hold);
        let mut output = running.wait().expect(0);
        if number > 0 {
            output = at_the_end(output);
        }
        world.assert_synced(&output);
        assert!(!output.stderr.contains('\u{1b}'), "{}", output.stderr);
        let words = words(&output.stderr);
        assert_eq!(
            (words.first(), words.last()),
            (COPIED.first(), COPIED.last())
        );
        assert_eq!(output.stdout, ALL_WELL);
    }
}

#[test]
fn quiet_says_warnings_and_results_only_and_a_log_file_has_no_progress() {
    let in_terminal = have_terminal().then_some(in_terminal as fn(Run) -> Run);
    for way in [Some((|run| run) as fn(Run) -> Run), in_terminal]
        .into_iter()
        .flatten()
    {
        let (world, hold) = World::new();
        let run = |world: &World| way(world.faster()).arg("--log-level=debug");
        let quiet = run(&world).arg("--quiet");
        // Long enough for several blocks or lines.
        let slow = Act::Delay(Duration::from_millis(400));
        world.target.fault(Fault::on(Kind::ManifestPut, slow));
        drop(hold);
        let mut output = quiet.run().expect(0);
        output.stdout.extend(output.written.remove("stdout"));
        world.assert_synced(&output);
        assert_eq!(
            (output.stderr.as_str(), output.stdout.as_str()),
            ("", ALL_WELL)
        );

        let output = quiet.rule("a:b:c", "").run().expect(1);
        let words = words(&output.stderr);
        assert!(
            words.len() == 2 && words.iter().all(|line| line.starts_with("ERROR ")),
            "{words:?}"
        );

        let (world, hold) = World::new();
        drop(hold);
        let output = run(&world).arg("--log=log").run().expect(0);
        assert_eq!(output.stderr, "");
        assert!(output.written["log"].ends_with(ALL_WELL));
        assert!(!output.written["log"].contains(" of 2 images"));
    }
}
