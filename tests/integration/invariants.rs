//! What must hold of every run, whatever went wrong in it (reliability.md 2.0): one function, called after each. It
//! looks at the registries' histories and states, at the exit status and at what was printed and written.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::harness::Output;
use crate::registry::{Entry, FakeRegistry, Kind, Parts, is_schema1, matches};

/// Panics with every invariant that a run has broken. A registry can be source and target; storage hosts are sources.
#[track_caller]
pub(crate) fn check_invariants(
    sources: &[&FakeRegistry],
    targets: &[&FakeRegistry],
    output: &Output,
) {
    let broken = broken_invariants(sources, targets, output);
    let Output { stdout, stderr, .. } = output;
    let stories = || {
        targets
            .iter()
            .chain(sources)
            .map(|registry| story(registry))
    };
    assert!(
        broken.is_empty(),
        "broken invariants:\n{}\nstatus {:?}\nstdout:\n{stdout}\nstderr:\n{stderr}\n{}",
        broken.join("\n"),
        output.status,
        stories().collect::<String>(),
    );
}

fn broken_invariants(
    sources: &[&FakeRegistry],
    targets: &[&FakeRegistry],
    output: &Output,
) -> Vec<String> {
    let is_target = |registry: &FakeRegistry| targets.iter().any(|t| t.addr() == registry.addr());
    let only_sources = sources.iter().filter(|source| !is_target(source));
    let only_sources: Vec<&FakeRegistry> = only_sources.copied().collect();
    let all: Vec<&FakeRegistry> = targets.iter().chain(&only_sources).copied().collect();

    let mut broken = Broken::default();
    broken.check_exit(output);
    for registry in &all {
        broken.0.extend(registry.unexpected());
        broken.check_lock_out(registry);
    }
    for source in only_sources {
        broken.check_only_read(source);
    }
    let has_faults = all
        .iter()
        .any(|registry| registry.history().iter().any(|entry| entry.has_fault));
    for target in targets {
        broken.check_stored(target);
        broken.check_order(target);
        broken.check_uploads(target, has_faults);
    }
    broken.check_records(targets, output);
    broken.check_secrets(&all, output);
    broken.0
}

/// A registry's history in one line a request.
fn story(registry: &FakeRegistry) -> String {
    let line = |entry: &Entry| {
        let Entry {
            began,
            method,
            target,
            status,
            ..
        } = entry;
        let fault = if entry.has_fault { " (fault)" } else { "" };
        format!("{began:>5} {method} {target} -> {status}{fault}\n")
    };
    let lines: String = registry.history().iter().map(line).collect();
    format!("{}:\n{lines}", registry.addr())
}

/// The invariants that were broken, in words.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn say(&mut self, id: &str, what: impl AsRef<str>) {
        self.0.push(format!("{id}: {}", what.as_ref()));
    }

    /// I10, and the part of I4 that the closing line and the exit status tell.
    fn check_exit(&mut self, output: &Output) {
        if output.stderr.contains("panicked at") {
            self.say("I10", "a panic");
        }
        let Some(status) = output.status else {
            return;
        };
        if !matches!(status, 0 | 1 | 2 | 3 | 129 | 130 | 143) {
            self.say("I10", format!("exit status {status}"));
        }
        let says_failed = output
            .stdout
            .lines()
            .any(|line| line == "failed tasks exist");
        match (status, output.finished()) {
            (0, Some((0, 0))) if !says_failed => {}
            (1, Some(figures)) if figures != (0, 0) && says_failed => {}
            (0 | 1, figures) => self.say(
                "I4",
                format!("exit {status}, figures {figures:?}, says failed: {says_failed}"),
            ),
            _ => {}
        }
    }

    /// I8: a user is not locked out by us.
    fn check_lock_out(&mut self, registry: &FakeRegistry) {
        let mut refused = BTreeMap::<String, usize>::new();
        for entry in registry.history() {
            let basic = entry.authorization.filter(|a| a.starts_with("Basic "));
            if let (401, Some(basic)) = (entry.status, basic) {
                *refused.entry(basic).or_default() += 1;
            }
        }
        for (credential, count) in refused.into_iter().filter(|(_, count)| *count > 3) {
            let host = registry.addr();
            self.say("I8", format!("{host}: {count} refusals of {credential}"));
        }
    }

    /// I12.
    fn check_only_read(&mut self, source: &FakeRegistry) {
        for entry in source.history() {
            let is_read = matches!(entry.method.as_str(), "GET" | "HEAD");
            if !is_read && entry.kind != Kind::Token {
                let host = source.addr();
                self.say(
                    "I12",
                    format!("{} {} at {host}", entry.method, entry.target),
                );
            }
        }
    }

    /// I1 and I3: all that is stored is what its name says, and all tags name complete images.
    fn check_stored(&mut self, target: &FakeRegistry) {
        target.with_state(|state| {
            for (name, repository) in &state.repositories {
                let is_doubtful =
                    |digest: &String| state.doubtful.contains(&(name.clone(), digest.clone()));
                for (digest, bytes) in &repository.blobs {
                    if !matches(digest, bytes) && !is_doubtful(digest) {
                        self.say("I1", format!("{name}: blob {digest} has other bytes"));
                    }
                }
                for (digest, manifest) in &repository.manifests {
                    let is_right =
                        is_schema1(&manifest.media_type) || matches(digest, &manifest.bytes);
                    if !is_right && !is_doubtful(digest) {
                        self.say("I1", format!("{name}: manifest {digest} has other bytes"));
                    }
                    let document = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
                    let missing = state.missing_parts(name, &Parts::of(&document));
                    let missing: Vec<&String> = missing
                        .iter()
                        .filter(|digest| !is_doubtful(digest))
                        .collect();
                    if !missing.is_empty() {
                        self.say("I3", format!("{name}: {digest} lacks {missing:?}"));
                    }
                }
                for (tag, digest) in &repository.tags {
                    if !repository.manifests.contains_key(digest) && !is_doubtful(digest) {
                        self.say(
                            "I3",
                            format!("{name}:{tag} names {digest}, which is absent"),
                        );
                    }
                }
            }
        });
    }

    /// I2: no manifest is put before its parts. A tag is therefore last.
    fn check_order(&mut self, target: &FakeRegistry) {
        let doubtful = target.with_state(|state| state.doubtful.clone());
        for entry in target.history() {
            let missing: Vec<&String> = entry
                .missing
                .iter()
                .filter(|digest| !doubtful.contains(&(entry.repository.clone(), (*digest).clone())))
                .collect();
            if !missing.is_empty() {
                let place = target.name(&entry.repository);
                let reference = &entry.reference;
                self.say(
                    "I2",
                    format!("{place}:{reference} was put without {missing:?}"),
                );
            }
        }
    }

    /// I13: no two uploads of one blob into one repository at once; and, where nothing went wrong, no second one.
    fn check_uploads(&mut self, target: &FakeRegistry, has_faults: bool) {
        let history = target.history();
        let digests: BTreeMap<&str, &str> = history
            .iter()
            .filter_map(|entry| Some((entry.session.as_deref()?, entry.digest.as_deref()?)))
            .collect();
        let mut sent = BTreeMap::<(&str, &str), Vec<&Entry>>::new();
        for entry in &history {
            let is_upload = matches!(
                entry.kind,
                Kind::UploadPost | Kind::UploadPatch | Kind::UploadPut
            );
            let by_session = entry.session.as_deref().and_then(|name| digests.get(name));
            let digest = entry.digest.as_deref().or(by_session.copied());
            if let (true, Some(digest)) = (is_upload && entry.is_success(), digest) {
                sent.entry((&entry.repository, digest))
                    .or_default()
                    .push(entry);
            }
        }
        let doubtful = target.with_state(|state| state.doubtful.clone());
        for ((repository, digest), entries) in sent {
            let bodies: Vec<&&Entry> = entries
                .iter()
                .filter(|entry| entry.bytes_in > 0 && !entry.has_fault)
                .collect();
            let overlaps = |a: &Entry, b: &Entry| {
                a.session != b.session && a.began < b.ended && b.began < a.ended
            };
            let at_once = bodies
                .iter()
                .enumerate()
                .any(|(i, a)| bodies.iter().skip(i + 1).any(|b| overlaps(a, b)));
            if at_once {
                let what = format!("two uploads of {digest} into {repository} at once");
                self.say("I13", what);
            }
            let is_commit = |entry: &&&Entry| {
                let is_whole = entry.kind == Kind::UploadPost && entry.bytes_in > 0;
                entry.status == 201 && (is_whole || entry.kind == Kind::UploadPut)
            };
            let commits = entries.iter().filter(is_commit);
            let is_doubtful = doubtful.contains(&(repository.to_string(), digest.to_string()));
            if commits.count() > 1 && !has_faults && !is_doubtful {
                self.say(
                    "I13",
                    format!("{digest} was uploaded into {repository} twice"),
                );
            }
        }
    }

    /// I11: a record says only what its target has acknowledged.
    fn check_records(&mut self, targets: &[&FakeRegistry], output: &Output) {
        for record in output.new_records() {
            let text = |name: &str| record[name].as_str().unwrap_or_default();
            let found = targets.iter().find_map(|target| {
                let repository = text("at").strip_prefix(target.addr())?.strip_prefix('/')?;
                Some((target, repository))
            });
            let Some((target, repository)) = found else {
                continue;
            };
            let digest = text("digest");
            let history = target.history();
            let mut acknowledged = history.iter().filter(|entry| {
                entry.repository == repository
                    && entry.is_success()
                    && entry.digest.as_deref() == Some(digest)
            });
            let is_true = match text("kind") {
                "image" => acknowledged.any(|entry| {
                    let is_manifest = matches!(
                        entry.kind,
                        Kind::ManifestPut | Kind::ManifestHead | Kind::ManifestGet
                    );
                    is_manifest && entry.reference == text("tag")
                }),
                // A child that was found at the target stands for its blobs, and has another digest.
                "blob" => {
                    acknowledged.next().is_some() || target.blob(repository, digest).is_some()
                }
                _ => true,
            };
            if !is_true {
                self.say("I11", format!("{record} was never acknowledged"));
            }
        }
    }

    /// I5: secrets are seen by their own hosts only. I6: and stand in no output, log or record.
    fn check_secrets(&mut self, registries: &[&FakeRegistry], output: &Output) {
        let places: BTreeMap<&str, String> = [
            ("stdout", output.stdout.clone()),
            ("stderr", output.stderr.clone()),
            ("records", output.records.join("\n")),
        ]
        .into_iter()
        .chain(
            output
                .written
                .iter()
                .map(|(name, text)| (name.as_str(), text.clone())),
        )
        .collect();
        for (place, text) in &places {
            // Queries of upload Locations and of storage URLs are as good as credentials.
            let has_query = ["_state=", "X-Signature="].iter().any(|q| text.contains(q));
            if has_query && *place != "records" {
                self.say("I6", format!("{place} holds the query of a Location"));
            }
        }
        let seen: Vec<(&FakeRegistry, String)> = registries
            .iter()
            .map(|registry| {
                let history = registry.history().into_iter();
                let texts = history.map(|entry| entry.head + &entry.form);
                (*registry, texts.collect())
            })
            .collect();
        let mut check = |forms: &BTreeSet<String>, may_see: &dyn Fn(&FakeRegistry) -> bool| {
            for form in forms {
                for (place, text) in &places {
                    if text.contains(form) {
                        self.say("I6", format!("{place} holds {form}"));
                    }
                }
                for (registry, texts) in &seen {
                    if texts.contains(form) && !may_see(registry) {
                        self.say("I5", format!("{} was sent {form}", registry.addr()));
                    }
                }
            }
        };
        for owner in registries {
            let mut forms: BTreeSet<String> = owner.tokens().into_iter().collect();
            if let Some(login) = owner.login() {
                forms.extend(forms_of(&login.password));
                forms.insert(BASE64.encode(format!("{}:{}", login.user, login.password)));
            }
            check(&forms, &|registry| registry.may_see_secrets_of(owner));
        }
        for secret in &output.secrets {
            check(&forms_of(&secret.text), &|registry| {
                secret.hosts.iter().any(|host| host == registry.addr())
            });
        }
    }
}

/// A secret as it could be written: raw, base64, percent-encoded, escaped for JSON.
pub(crate) fn forms_of(secret: &str) -> BTreeSet<String> {
    let percent = secret.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    let quoted = Value::from(secret).to_string();
    BTreeSet::from([
        secret.to_string(),
        BASE64.encode(secret),
        percent.collect(),
        quoted.trim_matches('"').to_string(),
    ])
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::image::{Image, Maker};
    use crate::registry::raw::{ask, post, put_blob, put_manifest, upload};
    use crate::registry::{Act, Bearer, End, Fault, Options};

    /// The output of a run that did all it had to.
    fn success() -> Output {
        Output {
            status: Some(0),
            signal: None,
            stdout: "Finished, 0 sync tasks failed, 0 tasks generate failed\n".to_string(),
            stderr: String::new(),
            records: Vec::new(),
            records_before: Vec::new(),
            written: BTreeMap::new(),
            secrets: Vec::new(),
        }
    }

    /// Which invariants are broken, by id.
    fn broken(
        sources: &[&FakeRegistry],
        targets: &[&FakeRegistry],
        output: &Output,
    ) -> Vec<String> {
        let broken = broken_invariants(sources, targets, output);
        let mut ids: Vec<String> = broken
            .iter()
            .map(|text| text.split(": ").next().unwrap_or_default().to_string())
            .collect();
        ids.dedup();
        ids
    }

    fn copy(target: &FakeRegistry, image: &Image) {
        for blob in &image.blobs {
            upload(target, "a", blob).expect(201);
        }
        put_manifest(target, "a", "v1", image).expect(201);
    }

    #[test]
    fn a_good_run_breaks_none() {
        let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
        let image = Maker::new(1).oci(&[100]);
        source.push("a", "v1", &image);
        copy(&target, &image);
        let at = target.name("a");
        let record = |kind: &str, digest: &str| {
            format!(r#"{{"v":1,"kind":"{kind}","at":"{at}","tag":"v1","digest":"{digest}"}}"#)
        };
        let mut output = success();
        output.records = vec![
            record("blob", &image.blobs[0].digest),
            record("image", &image.digest),
        ];
        check_invariants(&[&source], &[&target], &output);
        output.records = vec![record("image", &image.blobs[0].digest)];
        assert_eq!(broken(&[&source], &[&target], &output), ["I11"]);
        output.records_before.clone_from(&output.records);
        check_invariants(&[&source], &[&target], &output);
    }

    #[test]
    fn exit_status_and_closing_line_agree() {
        let with = |status, stdout: &str, stderr: &str| Output {
            status: Some(status),
            stdout: stdout.to_string(),
            stderr: stderr.to_string(),
            ..success()
        };
        let one = "failed tasks exist\nFinished, 1 sync tasks failed, 0 tasks generate failed\n";
        let table = [
            (with(1, one, ""), None),
            (with(2, "", "no such file"), None),
            (with(0, one, ""), Some("I4")),
            (with(1, &success().stdout, ""), Some("I4")),
            (
                with(1, one.trim_start_matches("failed tasks exist"), ""),
                Some("I4"),
            ),
            (with(0, "", ""), Some("I4")),
            (with(101, "", "thread 'main' panicked at"), Some("I10")),
        ];
        for (output, expected) in table {
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(broken(&[], &[], &output), expected, "{output:?}");
        }
    }

    #[test]
    fn a_gullible_target_shows_what_the_client_did_wrong() {
        let target = FakeRegistry::start(Options::default().gullible());
        let image = Maker::new(2).oci(&[100]);
        put_manifest(&target, "a", "v1", &image).expect(201);
        assert_eq!(broken(&[], &[&target], &success()), ["I3", "I2"]);

        let target = FakeRegistry::start(Options::default().gullible());
        let location = post(&target, "/v2/a/blobs/uploads/").location();
        put_blob(&target, &location, &image.blobs[0].digest, b"other").expect(201);
        assert_eq!(broken(&[], &[&target], &success()), ["I1"]);
    }

    #[test]
    fn a_lie_of_the_target_is_not_the_clients_fault() {
        let target = FakeRegistry::new();
        let image = Maker::new(3).oci(&[]);
        target.fault(Fault::on(Kind::BlobHead, Act::status(200)));
        let config = &image.blobs[0].digest;
        ask(target.addr(), &format!("HEAD /v2/a/blobs/{config}"), None).expect(200);
        put_manifest(&target, "a", "v1", &image).expect(400);
        assert_eq!(broken(&[], &[&target], &success()), [""; 0]);
    }

    #[test]
    fn a_blob_is_uploaded_once() {
        let target = FakeRegistry::new();
        let blob = Maker::new(4).layer(10);
        upload(&target, "a", &blob).expect(201);
        upload(&target, "a", &blob).expect(201);
        assert_eq!(broken(&[], &[&target], &success()), ["I13"]);
        // What a fault may have made necessary is no fault of the client.
        target.fault(Fault::on(Kind::UploadPut, Act::CommitThenClose(End::Fin)));
        upload(&target, "a", &blob);
        assert_eq!(broken(&[], &[&target], &success()), [""; 0]);
    }

    #[test]
    fn a_blob_is_not_uploaded_twice_at_once() {
        let target = FakeRegistry::new();
        let blob = Maker::new(5).layer(10);
        let location = post(&target, "/v2/a/blobs/uploads/").location();
        let mut slow = TcpStream::connect(target.addr()).unwrap();
        let head = format!(
            "PUT {location}&digest={} HTTP/1.1\r\nConnection: close\r\nContent-Length: 10\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            blob.digest,
        );
        slow.write_all(head.as_bytes()).unwrap();
        target.wait_until(|history| history.last().is_some_and(|e| e.kind == Kind::UploadPut));
        upload(&target, "a", &blob).expect(201);
        slow.write_all(&blob.bytes).unwrap();
        slow.read_to_end(&mut Vec::new()).unwrap();
        let broken = broken_invariants(&[], &[&target], &success());
        assert!(broken[0].contains("at once"), "{broken:?}");
    }

    #[test]
    fn a_source_is_only_read() {
        let source = FakeRegistry::new();
        post(&source, "/v2/a/blobs/uploads/").expect(202);
        assert_eq!(broken(&[&source], &[], &success()), ["I12"]);
        assert_eq!(broken(&[&source], &[&source], &success()), [""; 0]);
    }

    #[test]
    fn secrets_stay_where_they_belong() {
        let bearer = Bearer::for_user("ada", "canary/pass word");
        let registry = FakeRegistry::start(Options::default().bearer(bearer));
        let other = FakeRegistry::new();
        let basic = registry.login().unwrap().basic();
        let token = format!("GET /token?scope=repository:a:pull\nAuthorization: {basic}");
        ask(registry.addr(), &token, None).expect(200);
        check_invariants(&[&registry, &other], &[], &success());

        for leak in [
            "canary/pass word",
            "canary%2Fpass%20word",
            &registry.tokens()[0],
        ] {
            let output = Output {
                stderr: format!("debug: {leak}"),
                ..success()
            };
            assert_eq!(broken(&[&registry, &other], &[], &output), ["I6"], "{leak}");
        }
        let head = format!("GET /v2/\nAuthorization: {basic}");
        ask(other.addr(), &head, None).expect(200);
        assert_eq!(broken(&[&registry, &other], &[], &success()), ["I5"]);

        for _ in 0..4 {
            let wrong = "GET /token\nAuthorization: Basic d3Jvbmc=";
            ask(registry.addr(), wrong, None).expect(401);
        }
        assert_eq!(broken(&[&registry], &[], &success()), ["I8"]);
    }
}
