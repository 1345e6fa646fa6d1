//! The records file, damaged, wrong, foreign or out of reach: it never makes an image fail and never makes one be
//! skipped that is not there. Records are hints, the registry is the truth (decisions D6). Not here: what right records
//! spare (`economy`).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use image_syncer::oci::{Algorithm, Descriptor, Digest, Host, Repository, Tag};
use image_syncer::records::{Hints, Journal, MadeOf, Record};
use image_syncer::store::Place;
use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::FakeRegistry;

/// A records file of fifty lines, and what each says.
struct Fifty {
    run: Run,
    lines: Vec<String>,
    claims: Vec<Claim>,
}

struct Claim {
    place: Place,
    digest: Digest,
    /// Where it is a line of a tag.
    tag: Option<Tag>,
}

impl Fifty {
    fn new() -> Self {
        let run = Run::new();
        let claims: Vec<Claim> = (0..50).map(claim).collect();
        let (journal, _, warnings) = Journal::open(&run.path("records"));
        assert!(warnings.is_empty());
        for claim in &claims {
            journal.append(&match &claim.tag {
                None => Record::blob(&claim.place, &descriptor(&claim.digest)),
                Some(tag) => {
                    let made_of = MadeOf {
                        place: &claim.place,
                        digest: &claim.digest,
                        wanted: None,
                    };
                    Record::image(&claim.place, tag, &claim.digest, &made_of)
                }
            });
        }
        drop(journal);
        let text = fs::read_to_string(run.path("records")).unwrap();
        let lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        assert_eq!(lines.len(), claims.len());
        Self { run, lines, claims }
    }

    fn path(&self) -> PathBuf {
        self.run.path("records")
    }

    /// Opens the file as it is now, and expects these of the claims to be understood.
    #[track_caller]
    fn open(&self, what: &str, mut understood: impl FnMut(usize) -> bool) {
        let (journal, hints, warnings) = Journal::open(&self.path());
        assert!(journal.is_working(), "{what}");
        assert!(warnings.len() <= 1, "{what}: {warnings:?}");
        for (number, claim) in self.claims.iter().enumerate() {
            assert!(
                !understood(number) || holds(&hints, claim),
                "{what}: line {number}"
            );
        }
    }
}

fn claim(number: usize) -> Claim {
    let repository = format!("ns/app{}", number % 7);
    Claim {
        place: Place::Registry(
            Host::parse("registry.example:5000").unwrap(),
            Repository::parse(&repository).unwrap(),
        ),
        digest: Digest::of(Algorithm::Sha256, &[u8::try_from(number).unwrap()]),
        tag: number
            .is_multiple_of(3)
            .then(|| Tag::parse(&format!("v{number}")).unwrap()),
    }
}

fn descriptor(digest: &Digest) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".into(),
        digest: digest.clone(),
        size: 1,
    }
}

fn holds(hints: &Hints, claim: &Claim) -> bool {
    match &claim.tag {
        None => hints.has_blob(&claim.place, &claim.digest),
        Some(tag) => hints.tag(&claim.place, tag) == Some(&claim.digest),
    }
}

#[test]
fn every_prefix_of_a_records_file_keeps_its_whole_lines() {
    let fifty = Fifty::new();
    let whole = fifty.lines.concat().into_bytes();
    let file = OpenOptions::new().write(true).open(fifty.path()).unwrap();
    // From the longest to the shortest, so that only the end of the file has to be made anew.
    let mut kept = fifty.lines.len();
    for length in (0..=whole.len()).rev() {
        let ends: usize = fifty.lines[..kept].iter().map(String::len).sum();
        // The last line may lack its end.
        if length + 1 < ends {
            kept -= 1;
        }
        let start = length.saturating_sub(1);
        file.set_len(length as u64).unwrap();
        file.write_all_at(&whole[start..length], start as u64)
            .unwrap();
        // The lines long before the end are the same as in the round before.
        let near = kept.saturating_sub(2)..kept;
        fifty.open(&format!("{length} bytes"), |line| near.contains(&line));
    }
}

#[test]
fn every_flipped_bit_of_a_records_file_costs_its_own_line_at_most() {
    let fifty = Fifty::new();
    let file = OpenOptions::new().write(true).open(fifty.path()).unwrap();
    let longest = fifty.lines.iter().map(String::len).max().unwrap();
    for bit in 0..longest * 8 {
        // Every line is read by itself, so every second one can be damaged at once: at this bit of its own.
        for damaged in [0, 1] {
            let mut content = Vec::new();
            for (number, line) in fifty.lines.iter().enumerate() {
                let start = content.len();
                content.extend_from_slice(line.as_bytes());
                // The end of a line is the subject of the next test.
                if number % 2 == damaged && bit / 8 + 1 < line.len() {
                    content[start + bit / 8] ^= 1 << (bit % 8);
                }
            }
            file.write_all_at(&content, 0).unwrap();
            fifty.open(&format!("bit {bit}"), |line| line % 2 != damaged);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_line_end_costs_the_two_lines_at_most() {
    let fifty = Fifty::new();
    let file = OpenOptions::new().write(true).open(fifty.path()).unwrap();
    let whole = fifty.lines.concat().into_bytes();
    for (number, (end, _)) in whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .enumerate()
    {
        for bit in 0..8 {
            let mut content = whole.clone();
            content[end] ^= 1 << bit;
            file.set_len(whole.len() as u64).unwrap();
            file.write_all_at(&content, 0).unwrap();
            fifty.open(&format!("end of line {number}, bit {bit}"), |line| {
                line != number && line != number + 1
            });
        }
    }
}

/// Two repositories that share a layer, and a target.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    images: [Image; 2],
}

impl World {
    fn new() -> Self {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let mut maker = Maker::new(8);
        let one = maker.oci(&[300, 400]);
        let two = Image::oci(&maker.config("linux/amd64"), &one.blobs[1..2]);
        source.push("ns/one", "v1", &one);
        source.push("ns/two", "v1", &two);
        let images = [one, two];
        Self {
            source,
            target,
            images,
        }
    }

    fn run(&self) -> Run {
        REPOSITORIES
            .into_iter()
            .fold(Run::new().args(["--proc", "1"]), |run, repository| {
                run.rule(&self.source.name(repository), self.target.name(repository))
            })
    }

    fn wipe(&self) {
        self.target.with_state(|state| state.repositories.clear());
        self.target.forget();
    }

    /// Runs, and expects everything to be in sync afterwards.
    #[track_caller]
    fn sync(&self, run: &Run) -> Output {
        let output = run.run().expect(0);
        check_invariants(&[&self.source], &[&self.target], &output);
        for repository in REPOSITORIES {
            assert_in_sync(&self.source, repository, &self.target, repository, &["v1"]);
        }
        output
    }
}

const REPOSITORIES: [&str; 2] = ["ns/one", "ns/two"];

fn warnings(output: &Output) -> Vec<&str> {
    output
        .stderr
        .lines()
        .filter(|line| line.contains(" WARN "))
        .collect()
}

#[test]
fn forty_damaged_records_files_lead_to_the_same_target() {
    let world = World::new();
    let run = world.run();
    world.sync(&run);
    let whole = fs::read(run.path("records")).unwrap();
    for number in 0..40 {
        let mut content = whole.clone();
        // Prefixes and flipped bits, spread over the file by a step that fits its length nowhere.
        let place = (number * 7919 + 13) % content.len();
        if number % 4 == 0 {
            content.truncate(place);
        } else {
            content[place] ^= 1 << (number % 8);
        }
        fs::write(run.path("records"), content).unwrap();
        world.wipe();
        let output = world.sync(&run);
        assert!(warnings(&output).len() <= 1, "{}", output.stderr);
    }
}

#[test]
fn a_target_that_was_wiped_is_filled_again() {
    let world = World::new();
    let run = world.run();
    world.sync(&run);
    let first = world.target.total();
    world.wipe();
    let output = world.sync(&run);
    assert!(warnings(&output).is_empty());
    assert!(world.target.total() <= first + 2 * blobs(&world).len());
}

fn blobs(world: &World) -> Vec<(&'static str, String)> {
    let images = REPOSITORIES.into_iter().zip(&world.images);
    images
        .flat_map(|(repository, image)| {
            image
                .blobs
                .iter()
                .map(move |blob| (repository, blob.digest.clone()))
        })
        .collect()
}

#[test]
fn records_of_which_every_line_is_false_cost_two_requests_a_blob_at_most() {
    let world = World::new();
    world.sync(&world.run());
    let honest = world.target.total();
    let blobs = blobs(&world);
    let at = |repository: &str| world.target.name(repository);
    let blob = |at: String, digest: &str| json!({"v": 1, "kind": "blob", "at": at, "digest": digest, "size": 9});
    let here = blobs
        .iter()
        .map(|(repository, digest)| blob(at(repository), digest).to_string());
    let elsewhere = blobs.iter().flat_map(|(_, digest)| {
        ["ns/nowhere", "ns/gone"].map(|repository| blob(at(repository), digest).to_string())
    });
    let original = blobs
        .iter()
        .map(|(_, digest)| format!("{},{digest},9", world.target.addr()));
    let tags = REPOSITORIES.into_iter().zip(&world.images).map(|(repository, image)| {
        let from = format!("{}@{}", world.source.name(repository), image.digest);
        json!({"v": 1, "kind": "image", "at": at(repository), "tag": "v1", "digest": image.digest,
            "from": from, "time": "2026-01-01T00:00:00Z"})
        .to_string()
    });
    let lies: [Vec<String>; 4] = [
        here.collect(),
        elsewhere.collect(),
        original.collect(),
        tags.collect(),
    ];
    for lines in lies.iter().chain([&lies.concat()]) {
        world.wipe();
        let text = lines.join("\n") + "\n";
        let output = world.sync(&world.run().file("records", &text));
        assert!(warnings(&output).is_empty(), "{}", output.stderr);
        let extra = world.target.total() - honest;
        assert!(
            extra <= 2 * blobs.len(),
            "{extra} requests more with\n{text}"
        );
    }
}

#[test]
fn a_records_file_of_any_content_costs_one_warning_at_most() {
    let image = json!({"v": 1, "kind": "image", "at": "a/b", "digest": "sha256:x", "tag": "t"});
    let table: [(&str, Vec<u8>, usize); 8] = [
        ("empty", vec![], 0),
        (
            "lines of 1.0.5",
            format!("a.example,sha256:{:064},9\n", 0).into(),
            0,
        ),
        (
            "a later version",
            json!({"v": 9, "kind": "new", "at": 1}).to_string().into(),
            0,
        ),
        ("a JSON array", b"[\n{\"a\": 1},\n{}\n]\n".to_vec(), 1),
        ("binary", (0..=255).collect(), 1),
        ("zeros, as after a crash", vec![0; 5000], 1),
        ("a torn line", image.to_string()[..40].into(), 1),
        ("a wrong digest", image.to_string().into(), 1),
    ];
    for (name, content, count) in table {
        let world = World::new();
        let run = world.run().file("records", &content);
        let output = world.sync(&run);
        assert_eq!(warnings(&output).len(), count, "{name}: {}", output.stderr);
        // What it held stays, and what was done stands below it, each line by itself.
        let after = fs::read(run.path("records")).unwrap();
        assert_eq!(after[..content.len()], content, "{name}");
        assert_eq!(output.new_records().len(), 7, "{name}");
    }
}

#[test]
fn records_that_cannot_be_used_cost_one_warning_and_no_image() {
    let folder = Run::new().file("plain", "");
    let path = |name: &str| folder.path(name);
    fs::create_dir(path("directory")).unwrap();
    symlink("loop", path("loop")).unwrap();
    let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
    assert!(made.success());
    for records in [
        path("directory"),
        path("loop"),
        path("pipe"),
        path("plain/below"),
        "/dev/full".into(),
        "/dev/null".into(),
        "/proc/no/such".into(),
    ] {
        let world = World::new();
        let run = world.run().arg("--records").arg(&records);
        assert_unusable(&world.sync(&run), &records);
    }
}

#[track_caller]
fn assert_unusable(output: &Output, records: &Path) {
    let [warning] = warnings(output)[..] else {
        panic!("{}: {}", records.display(), output.stderr);
    };
    assert!(warning.contains("cannot"), "{warning}");
    let last = output.stderr.lines().last().unwrap();
    assert!(last.ends_with("; records could not be written"), "{last}");
}

#[test]
fn a_records_file_that_may_not_be_written_is_left_alone() {
    let world = World::new();
    let run = world.run().file("records", "");
    let path = run.path("records");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let run = if File::options().append(true).open(&path).is_ok() {
        // Root may write all the same, but for the right to.
        let line = r#"exec setpriv --bounding-set=-dac_override "$@""#;
        run.in_shell(line)
    } else {
        run
    };
    assert_unusable(&world.sync(&run), &path);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_disk_that_fills_up_ends_the_records_and_not_the_run() {
    let world = World::new();
    // One block of 512 or 1024 bytes.
    let run = world.run().in_shell(r#"ulimit -f 1; exec "$@""#);
    let output = world.sync(&run);
    assert_unusable(&output, &run.path("records"));
    // The next run has room: it ends the torn line, and records what is missing.
    let output = world.sync(
        &world
            .run()
            .file("records", fs::read(run.path("records")).unwrap()),
    );
    assert!(warnings(&output).len() <= 1, "{}", output.stderr);
    let tags = output
        .records
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(tags.filter(|record| record["kind"] == "image").count(), 2);
}

/// Runs three copies at once that share a records file.
fn three_at_once(records: &Path) -> [Output; 3] {
    let copies = [World::new(), World::new(), World::new()].map(|world| {
        let running = world.run().arg("--records").arg(records).spawn();
        (world, running)
    });
    copies.map(|(world, running)| {
        let output = running.wait().expect(0);
        check_invariants(&[&world.source], &[&world.target], &output);
        output
    })
}

#[test]
fn three_runs_with_one_records_file_write_whole_lines() {
    let folder = Run::new();
    let records = folder.path("shared");
    // A line of another tool, torn by it.
    let mut file = File::create(&records).unwrap();
    file.write_all(b"torn").unwrap();
    three_at_once(&records);
    let text = fs::read_to_string(&records).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!((lines[0], lines.len()), ("torn", 1 + 3 * 7));
    for line in &lines[1..] {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["v"], 1, "{line}");
    }
}

#[test]
fn runs_that_share_a_stale_file_keep_its_lines_and_all_of_theirs() {
    let folder = Run::new();
    let records = folder.path("shared");
    let later = json!({"v": 2, "kind": "blob", "at": {"a": "new form"}}).to_string();
    let stale = Fifty::new().lines[1].repeat(3000);
    fs::write(&records, format!("{stale}{later}\n")).unwrap();
    for output in three_at_once(&records) {
        assert!(warnings(&output).is_empty(), "{}", output.stderr);
    }
    // A line that was written just when the file was replaced may be in it twice.
    let text = fs::read_to_string(&records).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert!(lines.contains(&*later));
    assert_eq!(lines.len(), 2 + 3 * 7, "{text}");
    assert!(text.lines().count() < 100);
}
