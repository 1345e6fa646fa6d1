//! The files that a run writes: who can read and write them, and links that somebody has put in their places. Not here:
//! what is in them (`outputs`, `records`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::Run;
use crate::image::Maker;
use crate::registry::FakeRegistry;

fn copy() -> (FakeRegistry, FakeRegistry, Run) {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "v1", &Maker::new(1).oci(&[50]));
    let run = Run::new()
        .rule(&source.name("a:v1"), target.name("b"))
        .args(["--output-success-images=good", "--output-failed-images=bad"]);
    (source, target, run)
}

#[test]
fn records_are_private_and_lists_are_writable_by_nobody_else_whatever_the_umask() {
    let (_source, _target, run) = copy();
    let run = run.arg("--log=log").in_shell("umask 0; exec \"$@\"");
    run.run().expect(0);
    for (file, others) in [
        ("records", 0),
        ("good", 0o044),
        ("bad", 0o044),
        ("log", 0o044),
    ] {
        let mode = fs::metadata(run.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, others, "{file}: {mode:o}");
    }
}

#[test]
fn a_link_in_the_place_of_a_list_is_not_followed() {
    for file in ["good", "bad"] {
        let (source, target, run) = copy();
        let run = run.file("victim", "mine");
        symlink(run.path("victim"), run.path(file)).unwrap();
        let output = run.run().expect(2);
        assert!(output.stderr.contains("no plain file"), "{}", output.stderr);
        assert_eq!(fs::read(run.path("victim")).unwrap(), b"mine");
        assert!(source.history().is_empty() && target.history().is_empty());
    }
}
