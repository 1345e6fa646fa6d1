//! The core of the work against every habit of real registries, on either side: all is complete in the end, and what a
//! registry does not do is tried once. Not here: signing in (`auth`), broken servers.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{Output, Run, assert_in_sync};
use crate::image::{Blob, Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, End, Entry, FakeRegistry, Fault, Habit, Kind, Nth, Options};

/// A run whose waits are short.
fn hasty() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

fn with_habit(habit: &Habit) -> FakeRegistry {
    FakeRegistry::start(Options::default().habit(habit.clone()))
}

/// Every shape of manifest that this kind of registry takes.
fn corpus(habit: &Habit) -> Vec<(&'static str, Image)> {
    let mut corpus = Maker::new(1).corpus();
    corpus.retain(|(tag, _)| habit.nested_index || *tag != "nested-index");
    corpus
}

/// Copies all kinds of images, then an image that shares a layer into another repository, then all again.
fn exercise(source: &FakeRegistry, target: &FakeRegistry, corpus: &[(&str, Image)], name: &str) {
    for (tag, image) in corpus {
        source.push("lib/a", tag, image);
    }
    let (_, image) = corpus.iter().find(|(tag, _)| *tag == "oci").unwrap();
    let sharing = Image::oci(&Maker::new(2).config("linux/amd64"), &image.blobs[1..]);
    source.push("lib/c", "v1", &sharing);
    let run = hasty()
        .args(["--proc", "1"])
        .rule(&source.name("lib/a"), target.name("lib/b"))
        .rule(&source.name("lib/c:v1"), target.name("lib/d"));
    let output = run.run();
    assert_eq!(output.status, Some(0), "{name}: {}", output.stderr);
    check_invariants(&[source], &[target], &output);
    let tags: Vec<&str> = corpus.iter().map(|(tag, _)| *tag).collect();
    assert_in_sync(source, "lib/a", target, "lib/b", &tags);
    assert_in_sync(source, "lib/c", target, "lib/d", &["v1"]);

    source.forget();
    target.forget();
    let output = run.run();
    assert_eq!(output.status, Some(0), "{name}: {}", output.stderr);
    check_invariants(&[source], &[target], &output);
    let questions = [Kind::TagsList, Kind::ManifestHead];
    let is_other = |entry: &Entry| !questions.contains(&entry.kind);
    for registry in [source, target] {
        let others: Vec<Entry> = registry.history().into_iter().filter(is_other).collect();
        assert!(others.is_empty(), "{name}: {others:#?}");
    }
}

/// How often the registry refused a request of each kind, and how often a mount.
fn refusals(registry: &FakeRegistry) -> BTreeMap<String, usize> {
    let mut refusals = BTreeMap::new();
    for entry in registry.history() {
        let kind = match (&entry.from, entry.kind) {
            (Some(from), Kind::UploadPost) => format!("mount from {from} to {}", entry.repository),
            (None, Kind::UploadPost | Kind::UploadPatch | Kind::UploadPut) => {
                format!("{:?}", entry.kind)
            }
            _ => continue,
        };
        if entry.status >= 400 {
            *refusals.entry(kind).or_default() += 1;
        }
    }
    refusals
}

#[track_caller]
fn assert_tried_once(registry: &FakeRegistry, name: &str) {
    for (what, times) in refusals(registry) {
        assert_eq!(times, 1, "{name}: {what}");
    }
}

#[test]
fn images_of_every_kind_come_from_registries_of_every_habit() {
    for habit in Habit::ALL {
        let (source, target) = (with_habit(&habit), FakeRegistry::new());
        exercise(&source, &target, &Maker::new(1).corpus(), habit.name);
    }
}

#[test]
fn images_of_every_kind_go_to_registries_of_every_habit() {
    for habit in Habit::ALL {
        let (source, target) = (FakeRegistry::new(), with_habit(&habit));
        exercise(&source, &target, &corpus(&habit), habit.name);
    }
}

#[test]
fn a_large_blob_goes_to_registries_of_every_habit() {
    for habit in Habit::ALL {
        let (source, target) = (FakeRegistry::new(), with_habit(&habit));
        source.push("a", "v1", &Maker::new(3).oci(&[(16 << 20) + 1, 100]));
        let run = hasty()
            .args(["--proc", "1"])
            .rule(&source.name("a"), target.name("lib/b"));
        let output = run.run();
        assert_eq!(output.status, Some(0), "{}: {}", habit.name, output.stderr);
        check_invariants(&[&source], &[&target], &output);
        assert_in_sync(&source, "a", &target, "lib/b", &["v1"]);
        assert_tried_once(&target, habit.name);
    }
}

#[test]
fn what_a_registry_does_not_do_is_tried_once() {
    for habit in Habit::ALL {
        let (source, target) = (FakeRegistry::new(), with_habit(&habit));
        let mut maker = Maker::new(5);
        let shared = maker.layer(70);
        let mut run = hasty().args(["--proc", "1"]);
        for number in 0..4 {
            let config = maker.config("linux/amd64");
            let layers = [shared.clone(), maker.layer(50)];
            let repository = format!("lib/r{number}");
            source.push(&repository, "v1", &Image::oci(&config, &layers));
            let from = source.name(&repository);
            run = run.rule(&format!("{from}:v1"), target.name(&repository));
        }
        let output = run.run();
        assert_eq!(output.status, Some(0), "{}: {}", habit.name, output.stderr);
        check_invariants(&[&source], &[&target], &output);
        assert_tried_once(&target, habit.name);
        // Mounted where that works, else sent once for each repository and asked for once.
        let history = target.history();
        let mounts = history.iter().filter(|entry| {
            let is_mount = entry
                .from
                .as_ref()
                .is_some_and(|from| *from != entry.repository);
            is_mount && entry.status == 202
        });
        assert!(mounts.count() <= 1, "{}", habit.name);
    }
}

#[test]
fn a_limit_on_bodies_is_met_by_chunks_below_it() {
    let habit = Habit {
        name: "behind a proxy with a limit",
        max_body: Some(1 << 20),
        ..Habit::DISTRIBUTION_3
    };
    let (source, target) = (FakeRegistry::new(), with_habit(&habit));
    source.push("a", "v1", &Maker::new(6).oci(&[(5 << 20) + 3]));
    source.push("a", "v2", &Maker::new(7).oci(&[2 << 20]));
    let run = hasty().rule(&source.name("a"), target.name("b"));
    let output = run.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "a", &target, "b", &["v1", "v2"]);
}

#[test]
fn a_registry_that_does_not_know_expect_is_sent_none_again() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(8);
    // All blobs are large enough to ask for leave first.
    let config = "application/vnd.oci.image.config.v1+json";
    let config = Blob::new(config, maker.bytes(2 << 20));
    let layers = [maker.layer(2 << 20), maker.layer(2 << 20)];
    source.push("a", "v1", &Image::oci(&config, &layers));
    target.fault(Fault::on(Kind::UploadPut, Act::RefuseBody(417)).nth(Nth::Only(1)));
    let run = hasty()
        .args(["--proc", "1"])
        .rule(&source.name("a:v1"), target.name("b"));
    let output = run.run().expect(0);
    check_invariants(&[&source], &[&target], &output);
    assert_in_sync(&source, "a", &target, "b", &["v1"]);
    let history = target.history();
    let puts = history.iter().filter(|entry| entry.kind == Kind::UploadPut);
    let expects = |entry: &Entry| entry.head.to_ascii_lowercase().contains("expect: 100");
    let expected: Vec<bool> = puts.map(expects).collect();
    assert_eq!(expected, [true, false, false, false]);
}

/// Copies `a` and gives what came of it, after the check of what must always hold.
fn list(source: &FakeRegistry, target: &FakeRegistry) -> Output {
    let output = hasty().rule(&source.name("a"), target.name("b")).run();
    check_invariants(&[source], &[target], &output);
    output
}

/// Seven tags of `a`.
fn seven(registry: &FakeRegistry) -> Vec<String> {
    let image = Maker::new(9).oci(&[30]);
    let tags = (1..=7).map(|number| format!("v{number}"));
    let tags: Vec<String> = tags.collect();
    for tag in &tags {
        registry.push("a", tag, &image);
    }
    tags
}

#[test]
fn tag_lists_are_followed_to_their_end_however_they_are_paged() {
    let paged = |habit: Habit, max_page| Habit {
        max_page: Some(max_page),
        ..habit
    };
    let habits = [
        paged(Habit::DISTRIBUTION_3, 3),
        paged(Habit::DISTRIBUTION_3, 7),
        paged(Habit::DISTRIBUTION_3, 1),
        paged(Habit::PULP, 2),
        paged(Habit::GITEA, 3),
        paged(Habit::GITEA, 7),
        Habit::GITEA,
        Habit::DISTRIBUTION_2,
        Habit::GGCR,
    ];
    for habit in habits {
        let (source, target) = (with_habit(&habit), FakeRegistry::new());
        let tags = seven(&source);
        let output = list(&source, &target);
        assert_eq!(output.status, Some(0), "{}: {}", habit.name, output.stderr);
        assert_eq!(
            target.tags("b"),
            tags,
            "{} {:?}",
            habit.name,
            habit.max_page
        );
    }
}

#[test]
fn a_list_that_is_cut_at_its_page_without_a_word_is_asked_on() {
    for (count, lists) in [(999, 1), (1000, 2), (1001, 2), (2500, 3)] {
        let source = with_habit(&Habit::GGCR);
        let target = FakeRegistry::new();
        // Tags without manifests: each is counted as one that could not be had, and costs nothing.
        source.with_state(|state| {
            for number in 0..count {
                state.put_tag("a", &format!("v{number:04}"), "sha256:gone");
            }
        });
        let output = list(&source, &target);
        assert_eq!(output.finished(), Some((0, count)));
        assert_eq!(source.count(Kind::TagsList), lists, "{count}");
    }
}

#[test]
fn a_registry_that_does_not_take_n_is_asked_without() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let tags = seven(&source);
    source.fault(Fault::on(Kind::TagsList, Act::status(400)).nth(Nth::Only(1)));
    assert_eq!(list(&source, &target).status, Some(0));
    assert_eq!(target.tags("b"), tags);
    let asked: Vec<String> = source
        .history()
        .into_iter()
        .filter(|entry| entry.kind == Kind::TagsList)
        .map(|entry| entry.target)
        .collect();
    assert_eq!(asked, ["/v2/a/tags/list?n=1000", "/v2/a/tags/list"]);
}

#[test]
fn a_list_whose_second_page_is_broken_is_no_shorter_list() {
    let page = Habit {
        max_page: Some(3),
        ..Habit::DISTRIBUTION_3
    };
    let html = ("Content-Type", "text/html".to_string());
    let acts = [
        Act::status(500),
        Act::status(404),
        Act::status(403),
        Act::Status(200, vec![html], b"<html>".to_vec()),
        Act::Status(200, Vec::new(), b"{\"tags\": [\"v4\"".to_vec()),
        Act::CutBody(10, End::Fin),
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let (source, target) = (with_habit(&page), FakeRegistry::new());
        seven(&source);
        // The first page comes, as often as it is asked for.
        source.fault(Fault::on(Kind::TagsList, act).nth(Nth::Every(2)));
        let output = list(&source, &target);
        assert_eq!(output.finished(), Some((0, 1)), "act {number}");
        assert_eq!(target.tags("b"), [""; 0], "act {number}");
        assert_eq!(source.count(Kind::ManifestGet), 0, "act {number}");
    }
}

#[test]
fn links_that_lead_in_circles_or_away_end() {
    let elsewhere = FakeRegistry::start(Options::default().at("127.0.0.2"));
    seven(&elsewhere);
    let links = [
        "</v2/a/tags/list?n=1000>; rel=\"next\"".to_string(),
        "</v2/a/tags/list?n=1000&last=v1>; rel=\"next\"".to_string(),
        "</v2/a/tags/list?x=1>; rel=\"next\"".to_string(),
        format!(
            "<http://{}/v2/a/tags/list?n=3>; rel=\"next\"",
            elsewhere.addr()
        ),
    ];
    for link in links {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        seven(&source);
        source.fault(Fault::on(
            Kind::TagsList,
            Act::SetHeader("Link", link.clone()),
        ));
        let output = list(&source, &target);
        assert_eq!(output.finished(), Some((0, 1)), "{link}: {}", output.stderr);
        assert!(source.count(Kind::TagsList) <= 3, "{link}");
        assert_eq!(target.tags("b"), [""; 0], "{link}");
    }
    assert!(elsewhere.history().is_empty());
}

#[test]
fn entries_of_a_list_that_are_no_tags_are_left_out() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    seven(&source);
    let body = json!({"tags": ["v1", null, "v1", "", "no/tag", "../v2", "v3\u{1b}[2J", 7, "v4"]});
    let act = Act::Status(200, Vec::new(), body.to_string().into_bytes());
    source.fault(Fault::on(Kind::TagsList, act));
    let output = list(&source, &target).expect(0);
    assert_eq!(target.tags("b"), ["v1", "v4"]);
    assert!(!output.stderr.contains('\u{1b}'));
    // A list of nothing is a repository without tags.
    for body in ["{}", "{\"tags\": null}", "{\"tags\": []}"] {
        source.clear_faults();
        let act = Act::Status(200, Vec::new(), body.as_bytes().to_vec());
        source.fault(Fault::on(Kind::TagsList, act));
        assert_eq!(list(&source, &target).finished(), Some((0, 1)), "{body}");
    }
}
