//! The entries of an index as a platform filter sees them, and the index without some of them. What stays keeps its
//! bytes, and so does all around it. Not here: which entries are wanted, and reading what they name.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::digest::Digest;
use super::manifest::{Kind, Manifest, ManifestError};
use super::platform::Platform;

/// One entry of an index.
#[derive(Debug)]
pub struct Entry {
    /// What it names.
    pub digest: Digest,
    /// What it says of its platform.
    pub platform: Platform,
    /// The image that it tells about, where it is an attestation (protocol.md M13).
    pub describes: Option<Digest>,
    /// What becomes of it.
    pub fate: Fate,
    /// Where it stands in the bytes of its index.
    span: Range<usize>,
}

/// What becomes of an entry.
#[derive(Debug)]
pub enum Fate {
    /// It stays, as it does until somebody says otherwise.
    Kept,
    /// It stays, and names this manifest instead.
    Changed(Manifest),
    /// It goes.
    Dropped,
}

impl Entry {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !matches!(self.fate, Fate::Dropped)
    }
}

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow)]
    manifests: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct WrittenEntry<'a> {
    #[serde(borrow)]
    digest: Cow<'a, str>,
    platform: Option<Platform>,
    annotations: Option<Annotations<'a>>,
}

#[derive(Default, Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, rename = "vnd.docker.reference.digest")]
    describes: Option<Cow<'a, str>>,
}

/// The fields of an entry that tell of the bytes that it names.
#[derive(Deserialize)]
struct Descriptor<'a> {
    #[serde(borrow)]
    digest: &'a RawValue,
    #[serde(borrow)]
    size: &'a RawValue,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The entries of an index in their order; none of another manifest.
pub fn entries(manifest: &Manifest) -> Result<Vec<Entry>, ManifestError> {
    if manifest.kind() != Kind::Index {
        return Ok(Vec::new());
    }
    let text = text(manifest)?;
    let index: Index<'_> = serde_json::from_str(text)?;
    let entries = index.manifests.unwrap_or_default().into_iter().map(|raw| {
        let entry: WrittenEntry<'_> = serde_json::from_str(raw.get())?;
        let describes = entry.annotations.unwrap_or_default().describes;
        Ok(Entry {
            digest: Digest::parse(&entry.digest)?,
            platform: entry.platform.unwrap_or_default(),
            describes: describes.and_then(|digest| Digest::parse(&digest).ok()),
            fate: Fate::Kept,
            span: span(text, raw.get()),
        })
    });
    entries.collect()
}

/// An index with those of its entries that stay.
pub fn cut(index: &Manifest, entries: &[Entry]) -> Result<Manifest, ManifestError> {
    let text = text(index)?;
    let mut result = String::with_capacity(text.len());
    // How far the text was dealt with.
    let mut end = 0;
    let mut is_first = true;
    for entry in entries {
        // The comma and the blanks before an entry go with it, those before the first stay.
        let before = slice(text, end..entry.span.start);
        if end == 0 || (entry.is_kept() && !is_first) {
            result.push_str(before);
        }
        end = entry.span.end;
        is_first &= !entry.is_kept();
        let own = slice(text, entry.span.clone());
        match &entry.fate {
            Fate::Kept => result.push_str(own),
            Fate::Changed(manifest) => result.push_str(&renamed(own, manifest)?),
            Fate::Dropped => {}
        }
    }
    result.push_str(slice(text, end..text.len()));
    index.trimmed(result.as_bytes())
}

/// An entry that names another manifest than before.
fn renamed(entry: &str, manifest: &Manifest) -> Result<String, ManifestError> {
    let old: Descriptor<'_> = serde_json::from_str(entry)?;
    let data = old.data.map(|old| (old, BASE64.encode(manifest.bytes())));
    let mut fields = vec![
        (old.digest, format!("\"{}\"", manifest.digest())),
        (old.size, manifest.bytes().len().to_string()),
    ];
    fields.extend(data.map(|(old, data)| (old, format!("\"{data}\""))));
    let mut fields: Vec<_> = fields
        .into_iter()
        .map(|(old, new)| (span(entry, old.get()), new))
        .collect();
    fields.sort_unstable_by_key(|(span, _)| span.start);
    let (mut result, mut end) = (String::new(), 0);
    for (span, new) in fields {
        // Writing to a string cannot fail.
        write!(result, "{}{new}", slice(entry, end..span.start)).ok();
        end = span.end;
    }
    result.push_str(slice(entry, end..entry.len()));
    Ok(result)
}

fn text(manifest: &Manifest) -> Result<&str, ManifestError> {
    std::str::from_utf8(manifest.bytes()).map_err(|error| ManifestError::Json(error.to_string()))
}

/// Where `part`, which was borrowed from `whole`, stands in it.
fn span(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start + part.len()
}

fn slice(text: &str, span: Range<usize>) -> &str {
    text.get(span).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::media_type;
    use crate::oci::{Algorithm, PlatformFilter};

    /// As docker writes it, with more than anybody reads.
    const INDEX: &str = r#"{
   "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
   "z": [1,  2],
   "manifests": [
      {"digest":"$A","size":2, "platform": {"os":"linux","architecture":"amd64"}, "mediaType":"$T"},
      {
         "mediaType": "$T", "size": 3,  "x": "ü\u0041",
         "digest": "$B", "platform": {"architecture": "arm64", "os": "linux", "features": ["a"]}
      },
      {"digest":"$C","size":4,"mediaType":"$T","annotations":{"vnd.docker.reference.digest":"$B"},"platform":null}
   ],
   "schemaVersion": 2, "annotations": {"b":"","a":"1"}
}
"#;

    fn digest(letter: char) -> Digest {
        Digest::parse(&format!("sha256:{}", letter.to_string().repeat(64))).unwrap()
    }

    fn fill(text: &str) -> String {
        let text = text.replace("$T", media_type::DOCKER_IMAGE);
        let text = text.replace("$A", &digest('a').to_string());
        let text = text.replace("$B", &digest('b').to_string());
        text.replace("$C", &digest('c').to_string())
    }

    fn manifest(text: &str) -> Manifest {
        let text = fill(text);
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        Manifest::parse(text.as_bytes(), None, digest).unwrap()
    }

    /// The index without the entries of these numbers, as text.
    fn without(text: &str, dropped: &[usize]) -> String {
        let index = manifest(text);
        let mut entries = entries(&index).unwrap();
        for &number in dropped {
            entries[number].fate = Fate::Dropped;
        }
        let cut = cut(&index, &entries).unwrap();
        assert_eq!(cut.source_digest(), index.digest());
        assert_eq!(cut.media_type(), index.media_type());
        assert_eq!(
            cut.digest(),
            &Digest::of(Algorithm::Sha256, cut.bytes()),
            "{text}"
        );
        String::from_utf8(cut.bytes().to_vec()).unwrap()
    }

    #[test]
    fn entries_say_what_a_filter_asks() {
        let entries = entries(&manifest(INDEX)).unwrap();
        let linux_arm = PlatformFilter::of(vec![Platform::parse("linux/arm64").unwrap()]);
        let taken = |entry: &Entry| linux_arm.takes(&entry.platform);
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| (entry.digest.clone(), taken(entry), entry.describes.clone()))
            .collect();
        assert_eq!(
            seen,
            [
                (digest('a'), false, None),
                (digest('b'), true, None),
                (digest('c'), true, Some(digest('b'))),
            ]
        );
        let image = r#"{"schemaVersion":2,"config":{"digest":"$A","size":2}}"#;
        assert!(super::entries(&manifest(image)).unwrap().is_empty());
        let none = r#"{"schemaVersion":2,"manifests":null}"#;
        assert!(super::entries(&manifest(none)).unwrap().is_empty());
    }

    #[test]
    fn what_stays_keeps_its_bytes() {
        let text = fill(INDEX);
        assert_eq!(without(INDEX, &[]), text);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let [.., comma] = lines[4].trim_end().as_bytes() else {
            panic!("no entry");
        };
        assert_eq!(*comma, b',');
        // The first, the last, one between.
        let expected = [&lines[..4], &lines[5..]].concat().concat();
        assert_eq!(without(INDEX, &[0]), expected);
        let expected = [&lines[..5], &lines[9..]].concat().concat();
        assert_eq!(without(INDEX, &[1]), expected);
        let last = [&lines[..8], &["      }\n"], &lines[10..]]
            .concat()
            .concat();
        assert_eq!(without(INDEX, &[2]), last);
        let only = lines[4].trim_end().trim_end_matches(',').to_owned() + "\n";
        let expected = [&lines[..4], &[&only], &lines[10..]].concat().concat();
        assert_eq!(without(INDEX, &[1, 2]), expected);
    }

    #[test]
    fn an_entry_listed_twice_is_two_entries() {
        let twice = r#"{"schemaVersion":2,"manifests":[{"digest":"$A","size":2},{"digest":"$B","size":2},{"digest":"$A","size":2}]}"#;
        let expected = r#"{"schemaVersion":2,"manifests":[{"digest":"$B","size":2},{"digest":"$A","size":2}]}"#;
        assert_eq!(without(twice, &[0]), fill(expected));
        assert_eq!(
            without(twice, &[0, 1, 2]),
            r#"{"schemaVersion":2,"manifests":[]}"#
        );
    }

    #[test]
    fn an_entry_names_what_its_index_has_become() {
        let inner = manifest(r#"{"schemaVersion":2,"manifests":[]}"#);
        let old = Digest::of(Algorithm::Sha256, b"old");
        let outer = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"size": 3 ,"mediaType":"{}","data":"b2xk", "digest" : "{old}","x":1}}]}}"#,
            media_type::OCI_INDEX
        );
        let index = manifest(&outer);
        let mut entries = entries(&index).unwrap();
        entries[0].fate = Fate::Changed(inner.clone());
        let cut = cut(&index, &entries).unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"size": {} ,"mediaType":"{}","data":"{}", "digest" : "{}","x":1}}]}}"#,
            inner.bytes().len(),
            media_type::OCI_INDEX,
            BASE64.encode(inner.bytes()),
            inner.digest()
        );
        assert_eq!(std::str::from_utf8(cut.bytes()).unwrap(), expected);
        assert_eq!(cut.children()[0].digest, *inner.digest());
    }

    #[test]
    fn fields_of_another_kind_are_refused() {
        for entry in [
            r#"{"digest":"$A","size":2,"platform":"linux/amd64"}"#,
            r#"{"digest":"$A","size":2,"platform":{"os":["linux"]}}"#,
            r#"{"digest":"$A","size":2,"annotations":[]}"#,
            r#"{"digest":"$A","size":2,"platform":{},"platform":{}}"#,
        ] {
            let index = manifest(&format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#));
            assert!(entries(&index).is_err(), "{entry}");
        }
    }
}
