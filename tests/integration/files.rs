//! The files of a configuration as users name them: JSON and YAML, one file or two, standard input, and variables of the
//! environment. Not here: what is wrong with files (unit tests of `config`), and what the rules in them copy (`sync`).

use crate::harness::{Output, Run, assert_in_sync, assert_same};
use crate::image::Maker;
use crate::invariants::check_invariants;
use crate::registry::{Bearer, FakeRegistry, Options};

/// A source with `ns/app:v1`, and a target that wants a password. The files have the same source twice.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
}

const PASSWORD: &str = "canary/of the files";

impl World {
    fn new() -> Self {
        let source = FakeRegistry::new();
        source.push("ns/app", "v1", &Maker::new(1).oci(&[100]));
        let target = FakeRegistry::start(Options::default().basic("1000123", PASSWORD));
        Self { source, target }
    }

    fn auth(&self) -> String {
        let target = self.target.addr();
        format!(
            "# The target.\r\n{target}: &login\r\n  username: 1000123\r\n  password: ${{PASS}}\r\n  insecure: yes\r\n"
        )
    }

    fn images(&self) -> String {
        let (source, target) = (self.source.name("ns/app"), self.target.addr());
        format!("# The rules.\n{source}:v1: ${{TARGET}}/m/app\n{source}:v1: [{target}/m/other]\n")
    }

    fn config(&self) -> String {
        let indented = |text: String| {
            text.lines()
                .fold(String::new(), |all, line| all + "  " + line + "\n")
        };
        let (auth, images) = (indented(self.auth()), indented(self.images()));
        format!("auth:\n{auth}images:\n{images}")
    }

    /// A run with the variables that the files name.
    fn run(&self) -> Run {
        Run::new()
            .env("PASS", PASSWORD)
            .env("TARGET", self.target.addr())
            .secret(PASSWORD, &[&self.target])
    }

    #[track_caller]
    fn assert_copied(&self, output: &Output, repositories: &[&str]) {
        check_invariants(&[&self.source], &[&self.target], output);
        for repository in repositories {
            assert_in_sync(&self.source, "ns/app", &self.target, repository, &["v1"]);
        }
    }
}

#[test]
fn the_command_line_of_1_5_works_with_two_files() {
    let world = World::new();
    let run = world
        .run()
        .file("auth.yaml", world.auth())
        .file("images.yml", world.images());
    let output = run
        .args([
            "--auth=auth.yaml",
            "--images=images.yml",
            "--arch=",
            "--os=",
            "--proc=5",
            "--retries=2",
        ])
        .run()
        .expect(0);
    world.assert_copied(&output, &["m/app", "m/other"]);
}

#[test]
fn the_examples_run() {
    let read = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/examples/");
        std::fs::read_to_string(format!("{folder}{name}")).expect("no example")
    };
    for (config, auth, images) in [
        ("config.yaml", "", ""),
        ("config.json", "", ""),
        ("", "auth.yaml", "images.yaml"),
        ("", "auth.json", "images.json"),
    ] {
        let bearer = Bearer::for_user("robot", "canary/of quay");
        let source = FakeRegistry::start(Options::default().bearer(bearer));
        let target = FakeRegistry::start(Options::default().basic("100012345678", PASSWORD));
        let image = Maker::new(3).oci(&[100]);
        let sources = [
            ("ruby/app", "v1"),
            ("ruby/app", "v2"),
            ("ruby/web", "1.10"),
            ("ruby/web", "2020"),
            ("ruby/tool", "v1"),
            ("ruby/var", "v1"),
            ("ruby/lib", "v1"),
            ("ruby/lib", "latest"),
            ("ruby/db", "1.2.0"),
            ("ruby/db", "1.3.0-rc1"),
        ];
        for (repository, tag) in sources {
            source.push(repository, tag, &image);
        }
        let mut run = Run::new()
            .env("QUAY_PASSWORD", "canary/of quay")
            .env("TARGET_PASSWORD", PASSWORD)
            .env("NAMESPACE", "ns");
        for (option, name) in [("--config", config), ("--auth", auth), ("--images", images)] {
            if !name.is_empty() {
                let text = read(name)
                    .replace("quay.io", source.addr())
                    .replace("registry.example.com", target.addr());
                run = run.file(name, text).args([option, name]);
            }
        }
        // The namespace that has a login of its own refuses that one, and nothing else fails.
        let output = run.run().expect(1);
        assert_eq!(output.finished(), Some((0, 1)), "{}", output.stderr);
        for (from, tag, to, as_tag) in [
            ("ruby/app", "v1", "mirror/app", "v1"),
            ("ruby/app", "v2", "mirror/app", "stable"),
            ("ruby/web", "1.10", "mirror/web", "1.10"),
            ("ruby/web", "2020", "mirror/web", "2020"),
            ("ruby/tool", "v1", "mirror/tool", "v1"),
            ("ruby/tool", "v1", "other/tool", "v1"),
            ("ruby/var", "v1", "ns/var", "v1"),
            ("ruby/lib", "v1", "mirror/lib", "v1"),
            ("ruby/db", "1.2.0", "mirror/db", "1.2.0"),
        ] {
            assert_same((&source, from, tag), (&target, to, as_tag));
        }
        assert_eq!(target.tags("mirror/lib"), ["v1"]);
        assert_eq!(target.tags("mirror/db"), ["1.2.0"]);
        check_invariants(&[&source], &[&target], &output);
    }
}

#[test]
fn one_file_may_be_yaml_whatever_its_name() {
    for name in ["config.yaml", "config.json", "config"] {
        let world = World::new();
        let run = world
            .run()
            .file(name, world.config())
            .args(["--config", name]);
        world.assert_copied(&run.run().expect(0), &["m/app", "m/other"]);
    }
}

#[test]
fn one_of_the_files_may_come_from_standard_input() {
    let world = World::new();
    let run = world
        .run()
        .file("auth.yaml", world.auth())
        .stdin(world.images());
    let run = run.args(["--auth", "auth.yaml", "--images", "-"]);
    world.assert_copied(&run.run().expect(0), &["m/app", "m/other"]);
    let world = World::new();
    let run = world
        .run()
        .file("images.yaml", world.images())
        .stdin(world.auth());
    let run = run.args(["--auth=-", "--images=images.yaml"]);
    world.assert_copied(&run.run().expect(0), &["m/app", "m/other"]);
    let world = World::new();
    let run = world.run().stdin(world.config()).args(["--config", "-"]);
    world.assert_copied(&run.run().expect(0), &["m/app", "m/other"]);
    // Its places are named as well.
    let run = Run::new().stdin("a:1: b\nc\n").args(["--images=-"]);
    let output = run.run().expect(2);
    assert!(
        output
            .stderr
            .starts_with("standard input:2:1: a line without"),
        "{}",
        output.stderr
    );
}

#[test]
fn config_wins_over_the_other_files_and_says_so() {
    let world = World::new();
    let run = world.run().file("all.yaml", world.config());
    let run = run.args([
        "--auth=none.yaml",
        "--images=none.yaml",
        "--config=all.yaml",
    ]);
    let output = run.run().expect(0);
    world.assert_copied(&output, &["m/app"]);
    let warning = "WARN --auth and --images are not read: --config names the whole\n";
    assert!(output.stderr.contains(warning), "{}", output.stderr);
}

#[test]
fn the_default_file_is_read_only_if_no_other_is_named() {
    let world = World::new();
    let broken = world.run().config("{").file("auth.yaml", world.auth());
    let run = broken.file("images.yaml", world.images());
    world.assert_copied(
        &run.args(["--auth=auth.yaml", "--images=images.yaml"])
            .run()
            .expect(0),
        &["m/app"],
    );
    // An empty value counts as none.
    let world = World::new();
    let run = world
        .run()
        .config(world.config())
        .args(["--auth=", "--images="]);
    world.assert_copied(&run.run().expect(0), &["m/app"]);
}

#[test]
fn the_rule_of_the_command_line_takes_its_login_from_the_file_of_logins() {
    let world = World::new();
    let (source, target) = (world.source.name("ns/app"), world.target.name("m/app"));
    let run = world.run().file("auth.yaml", world.auth()).config("{");
    let output = run
        .args(["--auth=auth.yaml", &source, &target])
        .run()
        .expect(0);
    world.assert_copied(&output, &["m/app"]);
    let world = World::new();
    let source = world.source.name("ns/app");
    let run = world.run().file("auth.yaml", world.auth());
    let run = run.args([
        "--auth=auth.yaml",
        "--images=none.yaml",
        &source,
        "$TARGET/m/app",
    ]);
    let output = run.run().expect(0);
    world.assert_copied(&output, &["m/app"]);
    assert!(
        output
            .stderr
            .contains("WARN --images is not read: SOURCE TARGET is the rule\n")
    );
}

#[test]
fn files_that_are_not_there_or_not_named_stop_everything() {
    for (arguments, message) in [
        (
            ["--auth=none", "a:1", "b.io/a"].as_slice(),
            "none: there is no such file; name one with --auth FILE",
        ),
        (
            &["--images=none"],
            "none: there is no such file; name one with --images FILE, or give one rule as SOURCE TARGET",
        ),
        (
            &["--auth=auth.yaml"],
            "command line: --auth alone says nothing of images; name the rules with --images FILE, or give one as \
             SOURCE TARGET",
        ),
        (
            &["--images=empty.yaml"],
            "empty.yaml:1:1: the file is empty and holds no rules; write an object such as {\"SOURCE\": \"TARGET\"}, or \
             look why nothing was written into it",
        ),
        (
            &["--auth=empty.yaml", "a:1", "b.io/a"],
            "empty.yaml:1:1: the file is empty and holds no credentials; write an object such as {\"REGISTRY\": \
             {\"username\": \"NAME\", \"password\": \"WORD\"}}, or look why nothing was written into it",
        ),
    ] {
        let run = Run::new()
            .file("auth.yaml", "b.io: {}\n")
            .file("empty.yaml", "# nothing\n");
        let output = run.args(arguments.iter().copied()).run().expect(2);
        assert_eq!(output.stderr, format!("{message}\n"));
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn a_variable_that_is_not_set_stops_everything_and_an_empty_one_is_named() {
    let world = World::new();
    let run = Run::new()
        .file("auth.yaml", world.auth())
        .file("images.yaml", world.images());
    let run = run.args(["--auth=auth.yaml", "--images=images.yaml"]);
    let output = run.run().expect(2);
    assert_eq!(
        output.stderr,
        "auth.yaml:4:13: the variable PASS is not set; set it, or write the value itself\n\
         images.yaml:2:30: the variable TARGET is not set; set it, or write the value itself\n"
            .replace(
                "2:30",
                &format!("2:{}", world.source.name("ns/app:v1").len() + 3)
            )
    );
    assert_eq!(world.source.connections() + world.target.connections(), 0);
    let output = run
        .env("PASS", "")
        .env("TARGET", world.target.addr())
        .run()
        .expect(1);
    let warning = format!(
        "WARN auth.yaml:2:1: auth key \"{0}\": PASS set but empty: {0} is asked without credentials of this file\n",
        world.target.addr()
    );
    assert!(output.stderr.contains(&warning), "{}", output.stderr);
}

#[test]
fn a_list_of_tags_may_be_longer_than_a_key_of_yaml() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    let image = Maker::new(2).oci(&[10]);
    let tags: Vec<String> = (0..200).map(|tag| format!("v2026.11.{tag}")).collect();
    for tag in &tags {
        source.push("a", tag, &image);
    }
    let rule = format!(
        "{}: {}\n",
        source.name(&format!("a:{}", tags.join(","))),
        target.name("b")
    );
    assert!(rule.len() > 2000);
    let output = Run::new()
        .file("i.yaml", rule)
        .arg("--images=i.yaml")
        .run()
        .expect(0);
    check_invariants(&[&source], &[&target], &output);
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_in_sync(&source, "a", &target, "b", &tags);
}
