//! Referrers: manifests that are about another one (image-spec, "subject"), the index that lists them under a tag where
//! a registry does not (distribution-spec, "Referrers Tag Schema"), and the manifests under cosign's tags, which gain a
//! layer with each signature. Pure. Not here: asking for them.

use serde_json::{Value, json};

use super::digest::{Algorithm, Digest};
use super::manifest::{Descriptor, Kind, Manifest, media_type};

/// The entry that lists a referrer (distribution-spec, "Listing Referrers"); `None` where it is about nothing.
pub fn entry(manifest: &Manifest) -> Option<Value> {
    let document: Value = serde_json::from_slice(manifest.bytes()).ok()?;
    document.get("subject")?.as_object()?;
    let mut entry = json!({
        "mediaType": manifest.media_type(),
        "digest": manifest.digest().to_string(),
        "size": manifest.bytes().len(),
    });
    let own_type = document.get("artifactType").filter(|own| *own != "");
    let artifact_type = own_type.or_else(|| document.get("config")?.get("mediaType"));
    for (name, value) in [
        ("artifactType", artifact_type),
        ("annotations", document.get("annotations")),
    ] {
        if let (Some(value), Some(entry)) = (value, entry.as_object_mut()) {
            entry.insert(name.to_owned(), value.clone());
        }
    }
    Some(entry)
}

/// The index with one entry more; what else is in it stays. Without an index, a new one.
pub fn add(index: Option<&Manifest>, entry: Value) -> Vec<u8> {
    let old = index.and_then(|index| serde_json::from_slice(index.bytes()).ok());
    let mut document: Value = old.unwrap_or_else(
        || json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []}),
    );
    match document.get_mut("manifests").and_then(Value::as_array_mut) {
        Some(entries) => entries.push(entry),
        None => {
            if let Some(fields) = document.as_object_mut() {
                fields.insert("manifests".to_owned(), json!([entry]));
            }
        }
    }
    document.to_string().into_bytes()
}

/// What becomes of a tag of cosign's that one place has and another one gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Union {
    /// What is there has all layers of what comes.
    Held,
    /// What comes has all layers of what is there.
    New,
    /// Neither has: what is there has these layers for itself, by their numbers.
    Both(Vec<usize>),
}

/// Compares the layers of two manifests. Each counts as the whole entry that it is: the signatures of two keys are two
/// entries for one payload, with other annotations.
pub fn unite(new: &Manifest, held: &Manifest) -> Union {
    if new.digest() == held.digest() {
        return Union::Held;
    }
    // Only of an image the layers are all that there is to it.
    if new.kind() != Kind::Image {
        return Union::New;
    }
    let (new, held) = (layers(&document(new)), layers(&document(held)));
    if new.iter().all(|layer| held.contains(layer)) {
        return Union::Held;
    }
    let own = held.iter().enumerate();
    let own: Vec<usize> = own
        .filter(|(_, layer)| !new.contains(layer))
        .map(|(number, _)| number)
        .collect();
    if own.is_empty() {
        Union::New
    } else {
        Union::Both(own)
    }
}

/// The manifest with these layers of another one behind its own, and with this config.
pub fn append(new: &Manifest, held: &Manifest, own: &[usize], config: &[u8]) -> Vec<u8> {
    let (mut document, held) = (document(new), layers(&document(held)));
    if let Some(layers) = document.get_mut("layers").and_then(Value::as_array_mut) {
        layers.extend(own.iter().filter_map(|&number| held.get(number).cloned()));
    }
    if let Some(descriptor) = document.get_mut("config").and_then(Value::as_object_mut) {
        let algorithm = |config: &Descriptor| config.digest.algorithm();
        let digest = Digest::of(new.config().map_or(Algorithm::Sha256, algorithm), config);
        descriptor.insert("digest".to_owned(), json!(digest.to_string()));
        descriptor.insert("size".to_owned(), json!(config.len()));
        // A copy of the bytes that the digest was of.
        descriptor.remove("data");
    }
    document.to_string().into_bytes()
}

/// The config with what another one says of these layers of its own; cosign keeps both lists as long as the manifest's.
/// `None`: nothing is to be added.
pub fn append_to_config(new: &[u8], held: &[u8], own: &[usize]) -> Option<Vec<u8>> {
    let mut new: Value = serde_json::from_slice(new).ok()?;
    let held: Value = serde_json::from_slice(held).ok()?;
    let mut is_changed = false;
    for list in ["/rootfs/diff_ids", "/history"] {
        let (Some(Value::Array(new)), Some(held)) = (new.pointer_mut(list), held.pointer(list))
        else {
            continue;
        };
        let own = own.iter().filter_map(|&number| held.get(number).cloned());
        let before = new.len();
        new.extend(own);
        is_changed |= new.len() > before;
    }
    is_changed.then(|| new.to_string().into_bytes())
}

fn document(manifest: &Manifest) -> Value {
    serde_json::from_slice(manifest.bytes()).unwrap_or_default()
}

fn layers(document: &Value) -> Vec<Value> {
    let layers = document.get("layers").and_then(Value::as_array);
    layers.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#""config":{"mediaType":"c/d","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]"#;
    const SUBJECT: &str = r#""subject":{"mediaType":"x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;

    fn parse(text: &str) -> Manifest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        Manifest::parse(text.as_bytes(), None, digest).unwrap()
    }

    #[test]
    fn an_entry_says_the_type_of_the_artifact_and_its_annotations() {
        for (fields, expected) in [
            ("", Some(json!({"artifactType": "c/d"}))),
            (
                r#","artifactType":"","annotations":{"a":"b"}"#,
                Some(json!({"artifactType": "c/d", "annotations": {"a": "b"}})),
            ),
            (
                r#","artifactType":"e/f""#,
                Some(json!({"artifactType": "e/f"})),
            ),
        ] {
            let manifest = parse(&format!(
                r#"{{"schemaVersion":2,{CONFIG},{SUBJECT}{fields}}}"#
            ));
            let mut entry = entry(&manifest).unwrap();
            for (name, value) in [
                ("mediaType", json!(media_type::OCI_IMAGE)),
                ("digest", json!(manifest.digest().to_string())),
                ("size", json!(manifest.bytes().len())),
            ] {
                assert_eq!(entry[name], value);
                entry.as_object_mut().unwrap().remove(name);
            }
            assert_eq!(Some(entry), expected, "{fields}");
        }
        let plain = parse(&format!(r#"{{"schemaVersion":2,{CONFIG}}}"#));
        assert_eq!(entry(&plain), None);
    }

    #[test]
    fn an_index_keeps_all_that_it_has() {
        let first = add(None, json!({"digest": "d", "x": 1}));
        assert_eq!(
            serde_json::from_slice::<Value>(&first).unwrap(),
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [{"digest": "d", "x": 1}]})
        );
        let old = r#"{"schemaVersion":2,"manifests":null,"annotations":{"k":"v"}}"#;
        let new: Value = serde_json::from_slice(&add(Some(&parse(old)), json!(1))).unwrap();
        let expected = json!({"schemaVersion": 2, "manifests": [1], "annotations": {"k": "v"}});
        assert_eq!(new, expected);
    }

    /// A manifest with layers that differ in their annotations alone.
    fn signed(by: &[&str]) -> Manifest {
        let layers = by.iter().map(|key| {
            json!({
                "mediaType": "a/b",
                "digest": Digest::of(Algorithm::Sha256, b"payload").to_string(),
                "size": 7,
                "annotations": {"signature": key},
            })
        });
        let text = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_IMAGE,
            "config": {
                "mediaType": "c/d",
                "digest": Digest::of(Algorithm::Sha256, b"{}").to_string(),
                "size": 2,
                "data": "e30=",
            },
            "layers": layers.collect::<Vec<_>>(),
        });
        parse(&text.to_string())
    }

    #[test]
    fn signatures_of_one_payload_are_told_apart() {
        for (new, held, expected) in [
            (&["k"][..], &["k"][..], Union::Held),
            (&["k"], &["l", "k"], Union::Held),
            (&[], &["l"], Union::Held),
            (&["k", "l"], &["l"], Union::New),
            (&["k"], &[], Union::New),
            (&["k", "m"], &["l", "m", "n"], Union::Both(vec![0, 2])),
        ] {
            let case = format!("{new:?} {held:?}");
            let (new, held) = (signed(new), signed(held));
            let union = unite(&new, &held);
            assert_eq!(union, expected, "{case}");
            if let Union::Both(own) = union {
                let united = parse(&String::from_utf8(append(&new, &held, &own, b"[]")).unwrap());
                for part in [&new, &held] {
                    assert_eq!(unite(part, &united), Union::Held, "{case}");
                }
                assert_eq!(unite(&united, &signed(&["k", "m", "l", "n"])), Union::Held);
                let config = &document(&united)["config"];
                let digest = Digest::of(Algorithm::Sha256, b"[]").to_string();
                assert_eq!(
                    *config,
                    json!({"mediaType": "c/d", "digest": digest, "size": 2})
                );
            }
        }
    }

    #[test]
    fn a_config_says_of_a_layer_what_the_other_said() {
        let config = |ids: &[&str], history: &[&str]| {
            let text = json!({"rootfs": {"type": "layers", "diff_ids": ids}, "history": history});
            text.to_string().into_bytes()
        };
        for (new, held, expected) in [
            (
                config(&["a"], &["1"]),
                config(&["b", "c", "d"], &["2", "3", "4"]),
                Some(config(&["a", "b", "d"], &["1", "2", "4"])),
            ),
            (
                config(&["a"], &[]),
                config(&["b"], &["2"]),
                Some(config(&["a", "b"], &["2"])),
            ),
            (config(&["a"], &["1"]), b"{}".to_vec(), None),
            (b"{}".to_vec(), config(&["a"], &["1"]), None),
            (b"no JSON".to_vec(), config(&["a"], &["1"]), None),
        ] {
            let united = append_to_config(&new, &held, &[0, 2]);
            let value = |bytes: Option<Vec<u8>>| {
                bytes.map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap())
            };
            assert_eq!(value(united), value(expected));
        }
    }
}
