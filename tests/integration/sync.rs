//! Rules of every form, end to end: what a rule names is at its target afterwards, the same to the byte, and nothing
//! else is. Not here: kinds of content (`content`), ways to sign in (`auth`), habits of registries (`habits`).

use serde_json::{Value, json};

use crate::harness::{Output, Run, assert_in_sync, assert_same};
use crate::image::{Image, Maker};
use crate::invariants::check_invariants;
use crate::registry::{Act, Entry, FakeRegistry, Fault, Kind, Options};

/// A source with three tags of `team/app`, and an empty target.
fn registries() -> (FakeRegistry, FakeRegistry) {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(1);
    for tag in ["v1", "v2", "v3"] {
        source.push("team/app", tag, &maker.oci(&[300]));
    }
    (source, target)
}

/// `{S}` and `{T}` in a text stand for the two registries.
fn fill(text: &str, source: &FakeRegistry, target: &FakeRegistry) -> String {
    text.replace("{S}", source.addr())
        .replace("{T}", target.addr())
}

/// The same in a target, which may be a list.
fn fill_value(value: &Value, source: &FakeRegistry, target: &FakeRegistry) -> Value {
    match value {
        Value::String(text) => fill(text, source, target).into(),
        Value::Array(list) => list
            .iter()
            .map(|value| fill_value(value, source, target))
            .collect(),
        other => other.clone(),
    }
}

/// All that a registry has tagged: `REPOSITORY:TAG`.
fn tagged(registry: &FakeRegistry) -> Vec<String> {
    registry.with_state(|state| {
        let all = state.repositories.iter();
        all.flat_map(|(name, found)| found.tags.keys().map(move |tag| format!("{name}:{tag}")))
            .collect()
    })
}

/// Runs a copy that must succeed.
#[track_caller]
fn sync(run: &Run, sources: &[&FakeRegistry], targets: &[&FakeRegistry]) -> Output {
    let output = run.run().expect(0);
    check_invariants(sources, targets, &output);
    output
}

/// A run that is about failures: its waits are short.
fn hasty() -> Run {
    Run::new().env("IMAGE_SYNCER_TIME_SCALE", "0.01")
}

#[test]
fn every_form_of_a_rule_copies_what_it_names() {
    // Source, target, and what is at the target afterwards: repository, tag, the source's tag.
    type Arrives = (&'static str, &'static str, &'static str);
    let same = |repository, tags: &[&'static str]| -> Vec<Arrives> {
        tags.iter().map(|tag| (repository, *tag, *tag)).collect()
    };
    let table: Vec<(&str, Value, Vec<Arrives>)> = vec![
        (
            "{S}/team/app",
            json!("{T}/m/app"),
            same("m/app", &["v1", "v2", "v3"]),
        ),
        (
            "{S}/team/app:v1",
            json!("{T}/m/app"),
            same("m/app", &["v1"]),
        ),
        (
            "{S}/team/app:v1",
            json!("{T}/m/app:v1"),
            same("m/app", &["v1"]),
        ),
        (
            "{S}/team/app:v1",
            json!("{T}/m/app:stable"),
            vec![("m/app", "stable", "v1")],
        ),
        (
            "{S}/team/app:v1,v3",
            json!("{T}/m/app"),
            same("m/app", &["v1", "v3"]),
        ),
        (
            "{S}/team/app:v1, v3",
            json!("{T}/m/app:v1,v3"),
            same("m/app", &["v1", "v3"]),
        ),
        (
            "{S}/team/app:v2",
            json!("{T}/a/b/c/d/e/app"),
            same("a/b/c/d/e/app", &["v2"]),
        ),
        ("{S}/team/app:v2", json!("{T}/app"), same("app", &["v2"])),
        (
            "{S}/team/app:v2",
            json!(["{T}/one/app", "{T}/two/app:x", "{T}/one/app:y"]),
            vec![
                ("one/app", "v2", "v2"),
                ("one/app", "y", "v2"),
                ("two/app", "x", "v2"),
            ],
        ),
        ("{S}/team/app:v1", json!(""), same("default/app", &["v1"])),
        ("{S}/team/app:v1", Value::Null, same("default/app", &["v1"])),
        (
            "{S}/team/app",
            json!(""),
            same("default/app", &["v1", "v2", "v3"]),
        ),
    ];
    for (rule, to, arrives) in table {
        let (source, target) = registries();
        let run = Run::new()
            .args(["--registry", target.addr(), "--namespace", "default"])
            .rule(
                &fill(rule, &source, &target),
                fill_value(&to, &source, &target),
            );
        sync(&run, &[&source], &[&target]);
        let expected: Vec<String> = arrives
            .iter()
            .map(|(repository, tag, _)| format!("{repository}:{tag}"))
            .collect();
        assert_eq!(tagged(&target), expected, "{rule} to {to}");
        for (repository, tag, from) in arrives {
            assert_same((&source, "team/app", from), (&target, repository, tag));
        }
    }
}

#[test]
fn the_defaults_of_an_empty_target_come_from_the_environment_and_flags_win() {
    let (source, target) = registries();
    let elsewhere = FakeRegistry::new();
    let run = |registry: &FakeRegistry| {
        Run::new()
            .env("DEFAULT_REGISTRY", registry.addr())
            .env("DEFAULT_NAMESPACE", "deep/er")
            .rule(&source.name("team/app:v1"), "")
    };
    sync(&run(&target), &[&source], &[&target]);
    assert_in_sync(&source, "team/app", &target, "deep/er/app", &["v1"]);

    let run = run(&elsewhere)
        .arg(format!("--registry={}", target.addr()))
        .arg("--namespace=flag");
    sync(&run, &[&source], &[&target]);
    assert_in_sync(&source, "team/app", &target, "flag/app", &["v1"]);
    assert_eq!(elsewhere.total(), 0);
}

#[test]
fn an_empty_target_without_defaults_fails_its_rule_and_no_other() {
    let (source, target) = registries();
    let run = Run::new()
        .rule(&source.name("team/app:v1"), "")
        .rule(&source.name("team/app:v2"), target.name("m/app"));
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((0, 1)));
    assert_eq!(tagged(&target), ["m/app:v2"]);
    for word in ["image-syncer.json:1:", "--registry"] {
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
}

#[test]
fn a_source_that_stands_twice_goes_to_both_targets_and_is_read_once() {
    let (source, target) = registries();
    let config = r#"{"images": {
        // The original's parser keeps the last one only.
        "{S}/team/app:v1": "{T}/one/app",
        "{S}/team/app:v1": "{T}/two/app:x",
        "{S}/team/app:v2": "{T}/one/app",
        "{S}/team/app:v2": "{T}/one/app",
    }}"#;
    let run = Run::new().config(fill(config, &source, &target));
    let output = sync(&run, &[&source], &[&target]);
    assert_eq!(tagged(&target), ["one/app:v1", "one/app:v2", "two/app:x"]);
    assert_same((&source, "team/app", "v1"), (&target, "two/app", "x"));
    assert_eq!(source.count(Kind::ManifestGet), 2);
    // The same rule twice is said once, with its places.
    let warnings = output.stderr.lines().filter(|line| line.contains("WARN"));
    let warnings: Vec<&str> = warnings.collect();
    assert!(
        matches!(warnings[..], [one] if one.contains(":5:") && one.contains(":6:")),
        "{warnings:?}"
    );
}

#[test]
fn rules_of_the_command_line_need_no_file_and_use_its_logins() {
    let (source, target) = registries();
    let run = Run::new().args([
        source.name("team/app:v1"),
        target.name("m/app:x"),
        target.name("n/app"),
    ]);
    sync(&run, &[&source], &[&target]);
    assert_eq!(tagged(&target), ["m/app:x", "n/app:v1"]);

    let closed = FakeRegistry::start(Options::default().basic("ada", "pass word"));
    let run = Run::new()
        .auth(&closed, "ada", "pass word")
        .rule(&source.name("team/app:v3"), target.name("from/file"))
        .args([source.name("team/app:v2"), closed.name("m/app")]);
    target.forget();
    sync(&run, &[&source], &[&closed]);
    assert_in_sync(&source, "team/app", &closed, "m/app", &["v2"]);
    assert_eq!(target.total(), 0);
}

#[test]
fn images_go_into_a_layout_and_come_back_the_same() {
    let source = FakeRegistry::new();
    let corpus = Maker::new(2).corpus();
    for (tag, image) in &corpus {
        source.push("all/kinds", tag, image);
    }
    let tags: Vec<&str> = corpus.iter().map(|(tag, _)| *tag).collect();
    let out = Run::new().rule(&source.name("all/kinds"), "oci:kept/here");
    sync(&out, &[&source], &[]);
    assert!(out.path("kept/here/index.json").exists());

    let target = FakeRegistry::new();
    // The layout is in the first run's folder.
    let layout = format!("oci:{}", out.path("kept/here").display());
    let back = Run::new()
        .rule(&layout, target.name("back"))
        .rule(&format!("{layout}:oci"), target.name("one:renamed"));
    sync(&back, &[], &[&target]);
    assert_in_sync(&source, "all/kinds", &target, "back", &tags);
    assert_same((&source, "all/kinds", "oci"), (&target, "one", "renamed"));

    // Nothing is new the second time, in either direction.
    source.forget();
    target.forget();
    sync(&out, &[&source], &[]);
    sync(&back, &[], &[&target]);
    assert_eq!(
        source.count(Kind::ManifestGet) + source.count(Kind::BlobGet),
        0
    );
    assert_eq!(
        target.count(Kind::ManifestPut) + target.count(Kind::UploadPost),
        0
    );
}

#[test]
fn a_rule_that_reads_what_another_writes_waits_for_it() {
    // Which tag the first rule writes, and which one the second reads; none: all.
    let table: [(&str, &str, &[&str]); 4] = [
        ("", "", &["v1", "v2"]),
        (":v1", ":v1", &["v1"]),
        (":v1", "", &["v1"]),
        ("", ":v1", &["v1"]),
    ];
    for (written, read, tags) in table {
        for is_turned in [false, true] {
            let [first, middle, last] = [(); 3].map(|()| FakeRegistry::new());
            let mut maker = Maker::new(3);
            for tag in ["v1", "v2"] {
                first.push("a", tag, &maker.oci(&[200]));
            }
            // What the middle had before must not arrive at the end.
            middle.push("b", "v1", &maker.oci(&[100]));
            let (a, b, c) = (first.name("a"), middle.name("b"), last.name("c"));
            let mut rules = [
                format!("\"{a}{written}\": \"{b}\""),
                format!("\"{b}{read}\": \"{c}\""),
            ];
            if is_turned {
                rules.reverse();
            }
            let run = Run::new().config(format!("{{\"images\": {{{}}}}}", rules.join(", ")));
            sync(&run, &[&first], &[&middle, &last]);
            assert_eq!(last.tags("c"), tags, "{written} {read} {is_turned}");
            assert_in_sync(&first, "a", &last, "c", tags);
        }
    }
}

#[test]
fn what_a_failed_rule_was_to_feed_is_skipped_and_counted() {
    let (source, target) = registries();
    let run = hasty()
        .rule(&source.name("team/app:v1"), target.name("mid/app"))
        .rule(&target.name("mid/app:v1"), target.name("end/app"));
    target.fault(Fault::on(Kind::ManifestPut, Act::status(403)).in_repository("mid/app"));
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((2, 0)));
    assert_eq!(tagged(&target), [""; 0]);
    let text = "mid/app:v1 was not brought up to date";
    assert!(output.stderr.contains(text), "{}", output.stderr);
}

#[test]
fn rules_that_feed_each_other_in_a_circle_fail_and_say_so() {
    for tag in ["", ":v1"] {
        let (one, two) = registries();
        two.push("m/app", "v1", &Maker::new(4).oci(&[10]));
        let third = FakeRegistry::new();
        let run = Run::new()
            .rule(&format!("{}{tag}", one.name("team/app")), two.name("m/app"))
            .rule(&format!("{}{tag}", two.name("m/app")), one.name("team/app"))
            // A rule beside the circle is done.
            .rule(&one.name("team/other:v1"), third.name("other"));
        one.push("team/other", "v1", &Maker::new(5).oci(&[10]));
        let before = (one.manifest("team/app", "v1"), two.manifest("m/app", "v1"));
        let before = [before.0.unwrap().0, before.1.unwrap().0];
        let output = run.run().expect(1);
        check_invariants(&[&one, &two], &[&one, &two, &third], &output);
        let after = (one.manifest("team/app", "v1"), two.manifest("m/app", "v1"));
        assert_eq!([after.0.unwrap().0, after.1.unwrap().0], before, "{tag}");
        assert_in_sync(&one, "team/other", &third, "other", &["v1"]);
        let text = "rules feed each other in a circle";
        assert!(output.stderr.contains(text), "{tag}: {}", output.stderr);
    }
}

#[test]
fn of_two_rules_for_one_tag_the_later_fails_and_both_places_are_named() {
    let forms = [
        (
            "{S}/team/app:v1",
            "{T}/m/app:x",
            "{S}/team/app:v2",
            "{T}/m/app:x",
        ),
        (
            "{S}/team/app:v1",
            "{T}/m/app:v2",
            "{S}/team/app",
            "{T}/m/app",
        ),
        (
            "{S}/team/app",
            "{T}/m/app",
            "{S}/team/app:v1",
            "{T}/m/app:v2",
        ),
    ];
    for (first_source, first_target, later_source, later_target) in forms {
        let (source, target) = registries();
        let config = format!(
            "{{\"images\": {{\n \"{first_source}\": \"{first_target}\",\n \"{later_source}\": \"{later_target}\"\n}}}}"
        );
        let run = Run::new().config(fill(&config, &source, &target));
        let output = run.run().expect(1);
        check_invariants(&[&source], &[&target], &output);
        assert_eq!(output.finished(), Some((1, 0)), "{first_source}");
        let failure = output.stderr.lines().find(|line| line.contains("failed: "));
        let failure = failure.expect("no failure is told");
        for place in ["image-syncer.json:2:", "image-syncer.json:3:"] {
            assert!(failure.contains(place), "{failure}");
        }
        // The first rule's image is there, whichever that is.
        let (tag, from) = match (first_source, first_target) {
            (_, "{T}/m/app:x") => ("x", "v1"),
            (_, "{T}/m/app:v2") => ("v2", "v1"),
            _ => ("v2", "v2"),
        };
        assert_same((&source, "team/app", from), (&target, "m/app", tag));
    }
}

#[test]
fn a_source_that_is_its_own_target_fails() {
    let (source, target) = registries();
    let run = Run::new()
        .rule(&source.name("team/app:v1"), source.name("team/app"))
        .rule(&source.name("team/app:v2"), target.name("m/app"));
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&source, &target], &output);
    assert_eq!(output.finished(), Some((0, 1)));
    let text = "source is its own target";
    assert!(output.stderr.contains(text), "{}", output.stderr);
    assert_in_sync(&source, "team/app", &target, "m/app", &["v2"]);
}

#[test]
fn another_tag_of_the_same_repository_costs_one_put() {
    let (source, _) = registries();
    let run = Run::new().rule(&source.name("team/app:v1"), source.name("team/app:copy"));
    sync(&run, &[], &[&source]);
    assert_same((&source, "team/app", "v1"), (&source, "team/app", "copy"));
    assert_eq!(source.count(Kind::ManifestPut), 1);
    assert_eq!(source.count(Kind::BlobGet), 0);
}

#[test]
fn a_tag_that_the_source_lacks_fails_alone() {
    let (source, target) = registries();
    let run = hasty().rule(&source.name("team/app:v1,v9,v2"), target.name("m/app"));
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((0, 1)));
    assert_eq!(tagged(&target), ["m/app:v1", "m/app:v2"]);
    let gets = |entry: &&Entry| entry.kind == Kind::ManifestGet && entry.reference == "v9";
    // 404 at the source is final: one question in the whole run.
    assert_eq!(source.history().iter().filter(gets).count(), 1);
}

#[test]
fn a_repository_without_tags_and_one_that_is_not_there_fail_their_rules() {
    let (source, target) = registries();
    source.push_untagged("team/untagged", &Maker::new(6).oci(&[10]));
    let run = hasty()
        .rule(&source.name("team/untagged"), target.name("m/untagged"))
        .rule(&source.name("team/nowhere"), target.name("m/nowhere"))
        .rule(&source.name("team/app:v1"), target.name("m/app"));
    let output = run.run().expect(1);
    check_invariants(&[&source], &[&target], &output);
    assert_eq!(output.finished(), Some((0, 2)));
    assert_eq!(tagged(&target), ["m/app:v1"]);
}

#[test]
fn one_source_goes_to_several_registries_by_one_reading() {
    let (source, target) = registries();
    let others = [FakeRegistry::new(), FakeRegistry::new()];
    let image = source.manifest("team/app", "v1").unwrap().0;
    let targets: Vec<String> = [&target, &others[0], &others[1]]
        .iter()
        .map(|registry| registry.name("m/app"))
        .collect();
    let run = Run::new()
        .rule(&source.name("team/app:v1"), json!(targets))
        .args(["--proc", "1"]);
    sync(&run, &[&source], &[&target, &others[0], &others[1]]);
    for registry in [&target, &others[0], &others[1]] {
        assert_eq!(registry.manifest("m/app", "v1").unwrap().0, image);
        assert_in_sync(&source, "team/app", registry, "m/app", &["v1"]);
    }
    assert_eq!(source.count(Kind::ManifestGet), 1);
    assert_eq!(source.count(Kind::BlobGet), 2);
}

#[test]
fn shared_layers_of_two_repositories_are_sent_once_and_mounted() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let mut maker = Maker::new(7);
    let shared = maker.layer(400);
    for repository in ["one", "two"] {
        let image = Image::oci(&maker.config("linux/amd64"), std::slice::from_ref(&shared));
        source.push(repository, "v1", &image);
    }
    let run = Run::new()
        .rule(&source.name("one:v1"), target.name("m/one"))
        .rule(&source.name("two:v1"), target.name("m/two"));
    sync(&run, &[&source], &[&target]);
    let is_sent = |entry: &&Entry| {
        entry.kind == Kind::UploadPut && entry.digest.as_ref() == Some(&shared.digest)
    };
    assert_eq!(target.history().iter().filter(is_sent).count(), 1);
    assert_eq!(source.count(Kind::BlobGet), 3);
    assert_in_sync(&source, "two", &target, "m/two", &["v1"]);
}
