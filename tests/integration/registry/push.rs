//! What a fake registry answers to writers: upload sessions, mounts, manifests. Strict unless it is gullible: then it
//! takes any bytes under any name, and what keeps it sound is the client. Not here: reading (`pull`).

use std::sync::Arc;

use serde_json::{Value, json};

use image_syncer::oci::manifest::media_type;
use image_syncer::oci::{Digest, Tag};

use super::habit::{BytesInPut, Habit, Patch, PatchRange, SinglePost};
use super::history::{Entry, Kind, Request};
use super::http::{Answer, Body};
use super::state::{Parts, State, StoredManifest, is_index, is_schema1, matches, sha256};

/// Who is written to.
pub(super) struct Writing<'a> {
    pub(super) habit: &'a Habit,
    pub(super) is_gullible: bool,
    pub(super) addr: &'a str,
    pub(super) state: &'a mut State,
}

impl Writing<'_> {
    /// Answers any request of an upload; `None` where its body broke off and nobody is there for an answer.
    pub(super) fn upload(
        &mut self,
        request: &Request,
        body: &Body,
        entry: &mut Entry,
    ) -> Option<Answer> {
        let head = &request.head;
        let carries_body = matches!(
            request.kind,
            Kind::UploadPost | Kind::UploadPatch | Kind::UploadPut
        );
        // E2: a length always, 0 where there is no body.
        if carries_body && head.length().is_none() && !self.is_gullible {
            return Some(Answer::error(411, "SIZE_INVALID", "no content-length"));
        }
        let is_octets = head.header("content-type") == Some("application/octet-stream");
        if head.has_body() && !is_octets && !self.is_gullible {
            return Some(Answer::error(415, "UNSUPPORTED", "not octet-stream"));
        }
        if self
            .habit
            .max_body
            .is_some_and(|max| body.bytes.len() > max)
        {
            return Some(Answer::new(413));
        }
        if request.kind == Kind::UploadPost {
            return body.is_complete.then(|| self.post(request, body, entry));
        }
        entry.session = Some(request.reference.clone());
        let is_known = self
            .state
            .sessions
            .get(&request.reference)
            .is_some_and(|session| session.repository == request.repository);
        if !is_known {
            return Some(Answer::error(404, "BLOB_UPLOAD_UNKNOWN", Value::Null));
        }
        match request.kind {
            Kind::UploadPatch => self.patch(request, body),
            Kind::UploadPut => self.put(request, body),
            Kind::UploadGet if self.habit.session_status == 204 => {
                Some(self.session_answer(request, 204))
            }
            Kind::UploadGet => Some(Answer::new(self.habit.session_status)),
            _ => {
                if self.habit.cancel_status == 204 {
                    self.state.sessions.remove(&request.reference);
                }
                Some(Answer::new(self.habit.cancel_status))
            }
        }
    }

    /// POST: a mount, a whole blob, or a session (E48, E54-E56).
    fn post(&mut self, request: &Request, body: &Body, entry: &mut Entry) -> Answer {
        let repository = &request.repository;
        if let Some(digest) = request.head.parameter("mount") {
            let from = request.head.parameter("from");
            if let Some(answer) = self.mount(repository, digest, from) {
                return answer;
            }
        }
        if let Some(digest) = request.head.parameter("digest") {
            match self.habit.single_post {
                SinglePost::Taken => return self.store(repository, digest, body.bytes.clone()),
                SinglePost::Refused(status) => {
                    return Answer::error(status, "UNSUPPORTED", Value::Null);
                }
                SinglePost::Ignored => {}
            }
        }
        let session = self.state.open_session(repository);
        entry.session = Some(session.clone());
        let request = Request {
            reference: session,
            ..request.clone()
        };
        self.session_answer(&request, 202)
    }

    /// `None`: a session follows.
    fn mount(&mut self, repository: &str, digest: &str, from: Option<&str>) -> Option<Answer> {
        let bytes = match from {
            Some(from) if from == repository && !self.habit.self_mounts => return None,
            Some(_) if !self.habit.mounts => return None,
            Some(from) if !self.state.repositories.contains_key(from) => {
                let status = if from == repository {
                    self.habit.mount_absent
                } else {
                    self.habit.mount_no_repository
                };
                return refuse_mount(status, "NAME_UNKNOWN");
            }
            Some(from) => match self.state.blob(from, digest) {
                Some(bytes) => bytes,
                None => return refuse_mount(self.habit.mount_absent, "BLOB_UNKNOWN"),
            },
            None if self.habit.mounts_from_anywhere => {
                let mut repositories = self.state.repositories.values();
                Arc::clone(repositories.find_map(|repository| repository.blobs.get(digest))?)
            }
            None => return None,
        };
        self.state.put_blob(repository, digest, bytes);
        Some(self.blob_created(repository, digest))
    }

    /// PATCH, streaming or in chunks (E50-E53).
    fn patch(&mut self, request: &Request, body: &Body) -> Option<Answer> {
        let content_range = request.head.header("content-range");
        if let Patch::Refused(status) = self.habit.patch {
            return Some(Answer::error(status, "UNSUPPORTED", Value::Null));
        }
        if let Some(stale) = self.refuse_stale(request) {
            return Some(stale);
        }
        let session = self.state.sessions.get_mut(&request.reference)?;
        let offset = session.bytes.len();
        match (content_range, self.habit.patch) {
            (None, Patch::WantsRange(status)) if session.patches > 0 => {
                return Some(Answer::error(status, "BLOB_UPLOAD_INVALID", Value::Null));
            }
            (None, _) => {}
            (Some(range), _) => {
                if self
                    .habit
                    .max_chunk
                    .is_some_and(|max| body.bytes.len() > max)
                {
                    return Some(Answer::error(416, "RANGE_INVALID", range));
                }
                let ends = range.split_once('-').and_then(|(first, last)| {
                    let first = first.parse::<usize>().ok()?;
                    Some((first, last.parse::<usize>().ok()?))
                });
                let Some((first, last)) = ends else {
                    return Some(Answer::error(400, "BLOB_UPLOAD_INVALID", range));
                };
                if first != offset {
                    return Some(Answer::error(416, "RANGE_INVALID", range));
                }
                if Some(last + 1 - first) != request.head.length() {
                    return Some(Answer::error(400, "SIZE_INVALID", range));
                }
            }
        }
        if !body.is_complete && !self.habit.survives_cut {
            self.state.sessions.remove(&request.reference);
            return None;
        }
        session.bytes.extend_from_slice(&body.bytes);
        session.patches += 1;
        if session.patches == 1 {
            session.first_end = session.bytes.len();
        }
        if !body.is_complete {
            return None;
        }
        let range = match self.habit.patch_range {
            PatchRange::Cumulative => range_text(0, session.bytes.len()),
            PatchRange::Stale => range_text(0, session.first_end),
            PatchRange::ChunkOnly => range_text(offset, session.bytes.len()),
        };
        let mut answer = self.session_answer(request, self.habit.patch_status);
        answer.set_header("Range", range);
        Some(answer)
    }

    /// PUT, which closes an upload, with or without its last bytes (E49).
    fn put(&mut self, request: &Request, body: &Body) -> Option<Answer> {
        if let Some(stale) = self.refuse_stale(request) {
            return Some(stale);
        }
        let session = self.state.sessions.get_mut(&request.reference)?;
        if !body.bytes.is_empty() {
            match self.habit.bytes_in_put {
                BytesInPut::Refused(status) => {
                    return Some(Answer::error(status, "BLOB_UPLOAD_INVALID", Value::Null));
                }
                BytesInPut::NotAfterPatch(status) if session.patches > 0 => {
                    return Some(Answer::error(status, "UNKNOWN", Value::Null));
                }
                _ => session.bytes.extend_from_slice(&body.bytes),
            }
        }
        if !body.is_complete {
            if !self.habit.survives_cut {
                self.state.sessions.remove(&request.reference);
            }
            return None;
        }
        let Some(digest) = request.head.parameter("digest") else {
            return Some(Answer::error(400, "DIGEST_INVALID", "no digest"));
        };
        let bytes = std::mem::take(&mut session.bytes);
        let answer = self.store(&request.repository, digest, bytes);
        if answer.status == 201 || !self.habit.survives_wrong_digest {
            self.state.sessions.remove(&request.reference);
        }
        Some(answer)
    }

    /// A Location from before the last bytes is good for asking only: distribution 2.8 drops the session, 3 says 416.
    fn refuse_stale(&mut self, request: &Request) -> Option<Answer> {
        let session = self.state.sessions.get(&request.reference)?;
        let newest = session.bytes.len().to_string();
        if !self.habit.has_state || request.head.parameter("_state") == Some(&newest) {
            return None;
        }
        if self.habit.survives_cut {
            return Some(Answer::error(416, "RANGE_INVALID", "stale state"));
        }
        self.state.sessions.remove(&request.reference);
        Some(Answer::error(404, "BLOB_UPLOAD_INVALID", "stale state"))
    }

    /// Location and Range of a session.
    fn session_answer(&self, request: &Request, status: u16) -> Answer {
        let path = format!(
            "/v2/{}/blobs/uploads/{}",
            request.repository, request.reference
        );
        let Some(session) = self.state.sessions.get(&request.reference) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", Value::Null);
        };
        let offset = session.bytes.len();
        let location = if self.habit.has_state {
            format!("http://{}{path}?_state={offset}", self.addr)
        } else {
            path
        };
        Answer::new(status)
            .header("Location", location)
            .header("Range", range_text(0, offset))
    }

    fn store(&mut self, repository: &str, digest: &str, bytes: Vec<u8>) -> Answer {
        let is_right = matches(digest, &bytes);
        if !is_right && self.habit.checks_digest && !self.is_gullible {
            return Answer::error(400, "DIGEST_INVALID", digest);
        }
        self.state.put_blob(repository, digest, Arc::new(bytes));
        self.blob_created(repository, digest)
    }

    fn blob_created(&self, repository: &str, digest: &str) -> Answer {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let location = if self.habit.has_state {
            format!("http://{}{path}", self.addr)
        } else {
            path
        };
        Answer::new(201)
            .header("Location", location)
            .header("Docker-Content-Digest", digest)
    }

    /// PUT of a manifest under a tag or digest (E21-E26).
    pub(super) fn manifest(
        &mut self,
        request: &Request,
        body: Body,
        entry: &mut Entry,
    ) -> Option<Answer> {
        if !body.is_complete {
            return None;
        }
        let Request {
            repository,
            reference,
            head,
            ..
        } = request;
        let document: Value = serde_json::from_slice(&body.bytes).unwrap_or_default();
        let parts = Parts::of(&document);
        entry.missing = self.state.missing_parts(repository, &parts);
        let mut media_type = head.header("content-type").unwrap_or_default();
        if media_type.is_empty() && !self.habit.wants_content_type {
            media_type = document["mediaType"].as_str().unwrap_or_default();
        }
        let digest = match payload_digest(media_type, &document, &body.bytes) {
            Some(digest) => digest,
            None => match Digest::parse(reference) {
                Ok(asked) => Digest::of(asked.algorithm(), &body.bytes).to_string(),
                Err(_) => sha256(&body.bytes),
            },
        };
        entry.digest = Some(digest.clone());
        let is_tag = Tag::parse(reference).is_ok();
        if !self.is_gullible {
            let refusal = self
                .refuse_form(media_type, &document)
                .or_else(|| {
                    let is_wrong = !is_tag && *reference != digest;
                    (is_wrong && self.habit.checks_manifest_digest)
                        .then(|| Answer::error(400, "DIGEST_INVALID", reference.as_str()))
                })
                .or_else(|| self.refuse_missing(media_type, &entry.missing));
            if refusal.is_some() {
                return refusal;
            }
        }
        let name = if is_tag { &digest } else { reference };
        let stored = StoredManifest {
            media_type: media_type.to_string(),
            bytes: Arc::new(body.bytes),
        };
        self.state.put_manifest(repository, name, stored);
        if is_tag {
            self.state.put_tag(repository, reference, &digest);
        }
        let answer = Answer::new(201)
            .header("Location", format!("/v2/{repository}/manifests/{name}"))
            .header("Docker-Content-Digest", name);
        let subject = document["subject"]["digest"].as_str();
        Some(match subject.filter(|_| self.habit.tells_subject) {
            Some(subject) => answer.header("OCI-Subject", subject),
            None => answer,
        })
    }

    /// What the registry has against a manifest whatever it refers to.
    fn refuse_form(&self, media_type: &str, document: &Value) -> Option<Answer> {
        let invalid = |detail: &str| Some(Answer::error(400, "MANIFEST_INVALID", detail));
        if media_type.is_empty() {
            return invalid("no content-type");
        }
        if !document.is_object() {
            return invalid("no JSON object");
        }
        if let Some(embedded) = document["mediaType"].as_str()
            && embedded != media_type
        {
            return invalid("mediaType is not the content-type");
        }
        if is_schema1(media_type) {
            let (status, code) = self.habit.schema1?;
            return Some(Answer::error(status, code, "schema 1"));
        }
        let is_known = is_index(media_type)
            || matches!(media_type, media_type::OCI_IMAGE | media_type::DOCKER_IMAGE);
        if !is_known && !self.habit.any_manifest_type {
            return invalid("unknown type");
        }
        let mut children = document["manifests"].as_array().into_iter().flatten();
        let is_nested = children.any(|child| is_index(child["mediaType"].as_str().unwrap_or("")));
        if is_nested && !self.habit.nested_index {
            return invalid("nested index");
        }
        None
    }

    fn refuse_missing(&self, media_type: &str, missing: &[String]) -> Option<Answer> {
        if missing.is_empty() {
            return None;
        }
        let (status, code) = if is_index(media_type) {
            self.habit.missing_child?
        } else {
            self.habit.missing_blob?
        };
        let details = missing.iter().map(|digest| match code {
            "MANIFEST_INVALID" => json!({ "digest": digest }),
            _ => json!(digest),
        });
        Some(Answer::errors(status, code, details))
    }
}

/// 202: no refusal, a session follows. Anything else is one.
fn refuse_mount(status: u16, code: &str) -> Option<Answer> {
    (status != 202).then(|| Answer::error(status, code, Value::Null))
}

/// `0-N` with its end included; nothing at all is `0-0` too (E52).
fn range_text(from: usize, end: usize) -> String {
    format!("{from}-{}", end.saturating_sub(1))
}

/// The digest of a signed schema 1 manifest is that of its payload (M22): the bytes up to `formatLength` and then
/// `formatTail`.
pub(crate) fn payload_digest(media_type: &str, document: &Value, bytes: &[u8]) -> Option<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    if media_type != media_type::SCHEMA1_SIGNED {
        return None;
    }
    let protected = document["signatures"][0]["protected"].as_str()?;
    let protected = URL_SAFE_NO_PAD.decode(protected).ok()?;
    let protected: Value = serde_json::from_slice(&protected).ok()?;
    let length = usize::try_from(protected["formatLength"].as_u64()?).ok()?;
    let tail = URL_SAFE_NO_PAD
        .decode(protected["formatTail"].as_str()?)
        .ok()?;
    let payload = [bytes.get(..length)?, &tail].concat();
    Some(sha256(&payload))
}
