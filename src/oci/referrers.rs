//! Referrers: manifests that are about another one (image-spec, "subject"), and the index that lists them under a tag
//! where a registry does not (distribution-spec, "Referrers Tag Schema"). Pure. Not here: asking for them.

use serde_json::{Value, json};

use super::manifest::{Manifest, media_type};

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

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Digest};
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
}
