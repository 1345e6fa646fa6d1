//! The files of a configuration: which of those that the command line names are read, and their bytes. Not here: what
//! they hold.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::error::{Problem, ProblemKind, Shape};
use super::tree::Position;
use super::{COMMAND_LINE, DEFAULT_PATH, LoadOptions, Reading, STDIN};

/// The files to read. `--config` wins over the other two, as it always has.
pub(crate) fn chosen<'a>(
    options: &LoadOptions<'a>,
    reading: &mut Reading<'_>,
) -> Vec<(Shape, &'a Path)> {
    let Reading {
        problems, warnings, ..
    } = reading;
    let LoadOptions { auth, images, .. } = *options;
    let is_split = auth.is_some() || images.is_some();
    if options.config.is_some() && is_split {
        warnings.push("--auth and --images are not read: --config names the whole".into());
    }
    if options.config.is_some() || !is_split {
        let path = options.config.unwrap_or(Path::new(DEFAULT_PATH));
        return vec![(Shape::Config, path)];
    }
    let mut files: Vec<_> = auth.into_iter().map(|path| (Shape::Auth, path)).collect();
    match images {
        Some(_) if !options.rule.is_empty() => {
            warnings.push("--images is not read: SOURCE TARGET is the rule".into());
        }
        Some(path) => files.push((Shape::Images, path)),
        None if options.rule.is_empty() => {
            let position = Position::whole(&COMMAND_LINE.into());
            problems.push(Problem::at(&position, ProblemKind::NoRules));
        }
        None => {}
    }
    files
}

/// A file that was read.
pub(crate) struct Source {
    /// What it holds.
    pub(crate) shape: Shape,
    /// Its name in messages.
    pub(crate) file: Arc<str>,
    /// What was read.
    pub(crate) content: Content,
}

/// What is in a file.
#[derive(Default)]
pub(crate) struct Content {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// Whether other users of the machine can read it too.
    pub(crate) readable_by_others: bool,
}

/// Reads a file once, since it may be a pipe. `-` is standard input. One that does not end is not waited for.
pub(crate) fn read(path: &Path) -> io::Result<Content> {
    if path.to_str() == Some(STDIN) {
        return read_bounded(io::stdin());
    }
    let file = File::open(path)?;
    let mut content = read_bounded(&file)?;
    let metadata = file.metadata()?;
    content.readable_by_others = metadata.is_file() && metadata.mode() & 0o044 != 0;
    Ok(content)
}

fn read_bounded(from: impl io::Read) -> io::Result<Content> {
    let mut content = Content::default();
    from.take(MAX_FILE + 1).read_to_end(&mut content.bytes)?;
    if content.bytes.len() as u64 > MAX_FILE {
        let what = format!("it is larger than {} MiB", MAX_FILE >> 20);
        return Err(io::Error::other(what));
    }
    Ok(content)
}

/// In bytes; a hundred thousand rules have ten million.
const MAX_FILE: u64 = 16 << 20;
