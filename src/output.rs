//! The files of `--output-success-images` and `--output-failed-images`: sources and their targets in the shape of an
//! images file, as image-syncer 1.5 writes it. Not here: which images they are (`report.rs`).

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::report::Images;

/// How the files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// YAML: each source with a list of targets below it.
    #[default]
    Yaml,
    /// One JSON object.
    Json,
}

/// Whether a file could be written: it is new or a plain file, in a folder that takes it. Nothing is left there.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(io::Error::other("it is there and is no plain file"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::remove_file(create_beside(path, "")?)
}

/// Writes the whole file under another name and puts it in its place: a reader sees the old one or the new one, and
/// what a link points to stays as it is. That something else than a file stands there is found out by [`check`].
pub(crate) fn write(path: &Path, images: &Images, format: Format) -> io::Result<()> {
    let beside = create_beside(path, &render(images, format))?;
    fs::rename(&beside, path).inspect_err(|_| {
        fs::remove_file(&beside).ok();
    })
}

/// A new file with this content in the folder of `path`; others may read it, nobody else write it. The name is random,
/// so that nobody waits there with a link.
fn create_beside(path: &Path, content: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let random = RandomState::new().build_hasher().finish();
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{random:016x}"));
    let beside = path.with_file_name(hidden);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&beside)?;
    let written = file
        .write_all(content.as_bytes())
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| {
        fs::remove_file(&beside).ok();
    })?;
    Ok(beside)
}

/// The text of a file. What both formats quote, they quote alike; a rule object is written as JSON, which YAML takes.
fn render(images: &Images, format: Format) -> String {
    let mut entries = Vec::new();
    for (source, fields, targets) in images.iter() {
        let source = quoted(source);
        let targets: Vec<String> = targets.iter().map(|target| quoted(target)).collect();
        entries.push(match format {
            _ if !fields.is_empty() => {
                format!("{source}: {{\"to\": [{}], {fields}}}", targets.join(", "))
            }
            Format::Json => format!("{source}: [{}]", targets.join(", ")),
            Format::Yaml => format!("{source}:\n- {}", targets.join("\n- ")),
        });
    }
    match format {
        _ if entries.is_empty() => "{}\n".to_owned(),
        Format::Json => format!("{{\n  {}\n}}\n", entries.join(",\n  ")),
        Format::Yaml => entries.join("\n") + "\n",
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn images() -> Images {
        let mut images = Images::default();
        images.add("r.io/b:2", "", "d.io/b:2");
        images.add("r.io/a:1", "", "d.io/a:1");
        images.add("r.io/a:1", "", "d.io/a:stable");
        images.add("r.io/a:1", "", "d.io/a:1");
        images.add("oci:/x \"y\"\n:1", "", "d.io/\u{7f}ü:1");
        images
    }

    #[test]
    fn sources_are_sorted_and_texts_are_quoted() {
        let yaml = "\"oci:/x \\\"y\\\"\\n:1\":\n- \"d.io/\u{7f}ü:1\"\n\"r.io/a:1\":\n- \"d.io/a:1\"\n- \"d.io/a:stable\"\n\"r.io/b:2\":\n- \"d.io/b:2\"\n";
        assert_eq!(render(&images(), Format::Yaml), yaml);
        let json = render(&images(), Format::Json);
        let expected = serde_json::json!({
            "oci:/x \"y\"\n:1": ["d.io/\u{7f}ü:1"],
            "r.io/a:1": ["d.io/a:1", "d.io/a:stable"],
            "r.io/b:2": ["d.io/b:2"],
        });
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read, expected, "{json}");
        for format in [Format::Yaml, Format::Json] {
            assert_eq!(render(&Images::default(), format), "{}\n");
        }
    }

    #[test]
    fn what_a_rule_says_besides_makes_it_an_object() {
        let mut images = Images::default();
        images.add("r.io/a:1", "\"force\": true", "d.io/a");
        let object = "\"r.io/a:1\": {\"to\": [\"d.io/a\"], \"force\": true}";
        assert_eq!(render(&images, Format::Yaml), format!("{object}\n"));
        assert_eq!(
            render(&images, Format::Json),
            format!("{{\n  {object}\n}}\n")
        );
    }

    #[test]
    fn a_file_is_replaced_whole_and_no_link_is_followed() {
        let folder =
            std::env::temp_dir().join(format!("image-syncer-output-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("images");
        fs::write(&path, "x".repeat(1000)).unwrap();
        check(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1000);
        write(&path, &images(), Format::Json).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            render(&images(), Format::Json)
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o133, 0, "{mode:o}");
        let link = folder.join("link");
        symlink(&path, &link).unwrap();
        for wrong in [
            &link,
            &folder,
            &folder.join("none/images"),
            Path::new("/dev/null"),
            Path::new(".."),
        ] {
            assert!(check(wrong).is_err(), "{}", wrong.display());
        }
        // A link that comes there later gives way, and what it points to stays.
        fs::write(&path, "whole").unwrap();
        write(&link, &images(), Format::Json).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert!(write(&folder, &images(), Format::Json).is_err());
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
