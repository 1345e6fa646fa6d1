//! What a fake registry answers to readers: tags, manifests, blobs. Not here: writing (`push`).

use std::sync::Arc;

use serde_json::{Value, json};

use image_syncer::oci::manifest::media_type;

use super::habit::{Accept, Habit, Link, Range};
use super::history::Request;
use super::http::Answer;
use super::state::{State, StoredManifest, is_index};

/// GET of a tag list, in pages (protocol.md E27-E36).
pub(super) fn tags(habit: &Habit, addr: &str, state: &State, request: &Request) -> Answer {
    let name = &request.repository;
    let Some(repository) = state.repositories.get(name) else {
        return if habit.lists_missing_repository {
            Answer::json(200, &json!({"name": name, "tags": []}))
        } else {
            Answer::error(404, "NAME_UNKNOWN", json!({ "name": name }))
        };
    };
    let tags = repository.tags.keys().collect();
    let path = format!("/v2/{name}/tags/list");
    page(
        habit,
        addr,
        request,
        &path,
        tags,
        |tags| json!({"name": name, "tags": tags}),
    )
}

/// GET of the catalog, in pages (E37).
pub(super) fn catalog(habit: &Habit, addr: &str, state: &State, request: &Request) -> Answer {
    if !habit.has_catalog {
        return Answer::error(404, "NOT_FOUND", Value::Null);
    }
    let names = state.repositories.keys().collect();
    page(
        habit,
        addr,
        request,
        "/v2/_catalog",
        names,
        |names| json!({"repositories": names}),
    )
}

/// One page of a list.
fn page(
    habit: &Habit,
    addr: &str,
    request: &Request,
    path: &str,
    mut names: Vec<&String>,
    body: impl Fn(&[&String]) -> Value,
) -> Answer {
    if habit.link == Link::AllAtOnce {
        names.reverse();
        return Answer::json(200, &body(&names));
    }
    if let Some(last) = request.head.parameter("last") {
        names.retain(|name| name.as_str() > last);
    }
    let asked = match request.head.parameter("n").map(str::parse::<usize>) {
        None => None,
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => return Answer::error(400, "PAGINATION_NUMBER_INVALID", Value::Null),
    };
    let page = asked.into_iter().chain(habit.max_page).min();
    let has_more = page.is_some_and(|page| names.len() > page);
    names.truncate(page.unwrap_or(usize::MAX));
    let answer = Answer::json(200, &body(&names));
    let Some(last) = names.last() else {
        return answer;
    };
    let n = page.unwrap_or(names.len());
    let next = format!("{path}?last={last}&n={n}");
    match habit.link {
        Link::Relative if has_more => answer.header("Link", format!("<{next}>; rel=\"next\"")),
        Link::AfterLast => answer.header("Link", format!("<{next}>; rel=\"next\"")),
        Link::Absolute if has_more => {
            answer.header("Link", format!("<http://{addr}{next}>; rel=\"next\""))
        }
        _ => answer,
    }
}

/// GET of the referrers of a manifest, in pages (E61, E62).
pub(super) fn referrers(habit: &Habit, state: &State, request: &Request) -> Answer {
    if !habit.lists_referrers {
        return Answer::new(404);
    }
    let subject = request.reference.as_str();
    let manifests = state.repositories.get(&request.repository);
    let manifests = manifests.into_iter().flat_map(|found| &found.manifests);
    let mut entries: Vec<(&str, Value)> = manifests
        .filter_map(|(digest, manifest)| {
            let document: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            let entry = json!({
                "mediaType": manifest.media_type,
                "digest": digest,
                "size": manifest.bytes.len(),
                "artifactType": document["artifactType"],
                "annotations": document["annotations"],
            });
            (document["subject"]["digest"] == subject).then_some((digest.as_str(), entry))
        })
        .collect();
    if let Some(last) = request.head.parameter("last") {
        entries.retain(|(digest, _)| *digest > last);
    }
    let page = habit.max_page.unwrap_or(usize::MAX);
    let next = (entries.len() > page).then(|| entries[page - 1].0);
    let path = &request.head.path;
    let link = next.map(|last| format!("<{path}?last={last}>; rel=\"next\""));
    entries.truncate(page);
    let entries: Vec<Value> = entries.into_iter().map(|(_, entry)| entry).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
    });
    let answer = Answer::json(200, &index);
    let mut answer = match link {
        Some(link) => answer.header("Link", link),
        None => answer,
    };
    answer.set_header("Content-Type", media_type::OCI_INDEX);
    answer
}

/// HEAD or GET of a manifest.
pub(super) fn manifest(habit: &Habit, state: &State, request: &Request) -> Answer {
    let unknown = || {
        let detail = json!({"name": request.repository, "reference": request.reference});
        Answer::error(404, "MANIFEST_UNKNOWN", detail)
    };
    let Some(found) = state.manifest(&request.repository, &request.reference) else {
        return unknown();
    };
    match choose(habit, state, request, found) {
        None => unknown(),
        Some((digest, manifest)) => Answer::new(200)
            .header("Content-Type", manifest.media_type)
            .header("Docker-Content-Digest", digest)
            .body(manifest.bytes),
    }
}

/// What Accept makes of a manifest: itself, a child of it, or nothing (E13).
fn choose(
    habit: &Habit,
    state: &State,
    request: &Request,
    found: (String, StoredManifest),
) -> Option<(String, StoredManifest)> {
    let accepted = request.head.list("accept");
    let names = |media_type: &str| {
        accepted.contains(&media_type)
            || accepted.is_empty() && habit.accept == Accept::Distribution
    };
    let (_, manifest) = &found;
    let is_served = habit.accept == Accept::Ignored
        || names(&manifest.media_type)
        // Docker's images are served whatever Accept says, and so are types that distribution does not know.
        || !(is_index(&manifest.media_type) || manifest.media_type == media_type::OCI_IMAGE);
    if is_served {
        return Some(found);
    }
    if manifest.media_type != media_type::DOCKER_LIST {
        return None;
    }
    let list: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    let children = list["manifests"].as_array()?;
    let child = children.iter().find(|child| {
        child["platform"]["os"] == "linux" && child["platform"]["architecture"] == "amd64"
    })?;
    state.manifest(&request.repository, child["digest"].as_str()?)
}

/// HEAD or GET of a blob.
pub(super) fn blob(habit: &Habit, state: &State, request: &Request) -> Answer {
    let Some(bytes) = state.blob(&request.repository, &request.reference) else {
        return Answer::error(404, "BLOB_UNKNOWN", request.reference.as_str());
    };
    let whole = Answer::new(200)
        .header("Content-Type", "application/octet-stream")
        .header("Docker-Content-Digest", &request.reference)
        .body(Arc::clone(&bytes));
    let asked = request.head.header("range");
    let Some(range) = asked.filter(|_| !request.is_head() && habit.range != Range::Ignored) else {
        return whole;
    };
    let size = bytes.len();
    let refused = Answer::error(416, "RANGE_INVALID", range)
        .header("Content-Range", format!("bytes */{size}"));
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return refused;
    };
    if habit.range == Range::Refused && last.is_empty() {
        return refused;
    }
    let Ok(first) = first.parse::<usize>() else {
        return refused;
    };
    let end = last
        .parse::<usize>()
        .map_or(size, |last| size.min(last + 1));
    if first >= end {
        return match habit.range {
            Range::EmptyAtEnd if first == size => Answer::new(206)
                .header("Content-Range", format!("bytes {size}-{}/{size}", size - 1)),
            Range::DiesAtEnd => {
                let mut refused = refused;
                refused.set_header("Content-Length", (refused.body.len() + 1).to_string());
                refused.closes = true;
                refused
            }
            _ => refused,
        };
    }
    let mut part = whole.body(Arc::new(bytes[first..end].to_vec()));
    part.status = 206;
    part.header("Content-Range", format!("bytes {first}-{}/{size}", end - 1))
}
