//! When an image was made, as its manifest or its config say. Pure. Not here: the reading of either.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Descriptor, Digest};

/// What a manifest says of when its image was made.
#[derive(Debug, PartialEq, Eq)]
pub enum Clue {
    /// Its annotation (image-spec, annotations.md).
    Time(SystemTime),
    /// Its first child that is an image says it.
    Child(Descriptor),
    /// Its config says it.
    Config(Descriptor),
    /// Nothing.
    Nothing,
}

/// Looks into the bytes of a manifest.
pub fn clue(manifest: &[u8]) -> Clue {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let annotation = manifest.pointer("/annotations/org.opencontainers.image.created");
    if let Some(time) = annotation.and_then(read_time) {
        return Clue::Time(time);
    }
    let children = manifest.get("manifests").and_then(Value::as_array);
    // What is for no system is no image but says something of one: an attestation.
    let is_image = |child: &&Value| {
        let system = child.pointer("/platform/os").and_then(Value::as_str);
        system != Some("unknown")
    };
    let child = children.and_then(|children| children.iter().find(is_image));
    if let Some(child) = child.and_then(descriptor) {
        return Clue::Child(child);
    }
    match manifest.get("config").and_then(descriptor) {
        Some(config) => Clue::Config(config),
        None => Clue::Nothing,
    }
}

/// The time in the bytes of a config (image-spec, config.md); `None` where it says none.
pub fn of_config(config: &[u8]) -> Option<SystemTime> {
    let config: Value = serde_json::from_slice(config).ok()?;
    read_time(config.get("created")?)
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    Some(Descriptor {
        media_type: value.get("mediaType")?.as_str()?.into(),
        digest: Digest::parse(value.get("digest")?.as_str()?).ok()?,
        size: value.get("size")?.as_u64()?,
    })
}

/// RFC 3339, with `Z` or a distance from UTC. Times before 1970 stand for none, such as the year 1 of some builders.
fn read_time(value: &Value) -> Option<SystemTime> {
    let text = value.as_str()?;
    let (local, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, None),
        None => text
            .split_at_checked(text.len().checked_sub("+00:00".len())?)
            .map(|(local, zone)| (local, Some(zone)))?,
    };
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let Some(zone) = zone else { return Some(time) };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let distance = Duration::from_secs(minutes * 60);
    match zone.as_bytes().first()? {
        b'+' => time.checked_sub(distance),
        b'-' => time.checked_add(distance),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_1970(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_of_all_forms_are_read() {
        for (text, seconds) in [
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02T00:00:00+08:00", Some(86_400 - 8 * 3600)),
            ("1970-01-02T00:00:00-00:30", Some(86_400 + 1800)),
            ("1970-01-02T00:00:00", None),
            ("1970-01-02", None),
            ("0001-01-01T00:00:00Z", None),
            ("1970-01-02T00:00:00*08:00", None),
            ("1970-01-02T00:00:00+99999", None),
            ("ü+08:00", None),
            ("+08:00", None),
            ("Z", None),
            ("", None),
        ] {
            let config = serde_json::json!({"created": text}).to_string();
            let expected = seconds.map(after_1970);
            assert_eq!(of_config(config.as_bytes()), expected, "{text}");
        }
        let config = br#"{"created": "1970-01-01T00:00:01.500000000Z"}"#;
        let expected = after_1970(1) + Duration::from_millis(500);
        assert_eq!(of_config(config), Some(expected));
        for none in [&b"{}"[..], b"[]", b"x", br#"{"created": 5}"#] {
            assert_eq!(of_config(none), None);
        }
    }

    #[test]
    fn a_manifest_says_it_or_who_does() {
        let part = |letter: &str, more: &str| {
            let hash = letter.repeat(64);
            format!(r#"{{"mediaType": "m", "digest": "sha256:{hash}", "size": 7{more}}}"#)
        };
        let found = |letter: &str| Descriptor {
            media_type: "m".into(),
            digest: Digest::parse(&format!("sha256:{}", letter.repeat(64))).unwrap(),
            size: 7,
        };
        let created = r#""org.opencontainers.image.created": "1970-01-01T00:01:00Z""#;
        let attestation = part("b", r#", "platform": {"os": "unknown"}"#);
        let (a, c) = (part("a", r#", "platform": {"os": "linux"}"#), part("c", ""));
        for (manifest, expected) in [
            (
                format!(r#"{{"annotations": {{{created}}}, "config": {c}}}"#),
                Clue::Time(after_1970(60)),
            ),
            (format!(r#"{{"config": {c}}}"#), Clue::Config(found("c"))),
            (
                format!(r#"{{"manifests": [{attestation}, {a}, {c}]}}"#),
                Clue::Child(found("a")),
            ),
            (
                format!(r#"{{"manifests": [{attestation}]}}"#),
                Clue::Nothing,
            ),
            (r#"{"manifests": []}"#.into(), Clue::Nothing),
            (r#"{"config": {"digest": "x"}}"#.into(), Clue::Nothing),
            ("x".into(), Clue::Nothing),
        ] {
            assert_eq!(clue(manifest.as_bytes()), expected, "{manifest}");
        }
    }
}
