//! One side of a rule: the text of a source or a target becomes a place and its tags, or the mistake that users make
//! there is named. Not here: how the two sides must fit each other (`rule.rs`), and the grammar of names (`oci`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::rule::Levels;
use super::syntax::{GITHUB_EXPRESSION, MARKDOWN_LINK, meant_by};
use super::tags::{FilterError, Pattern, TagFilter};
use super::tree::Position;
use crate::oci::{Digest, DigestError, Host, NameError, Tag, reference};
use crate::store::Place;

/// A text of the user and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Written<'a> {
    /// As written.
    pub(crate) text: &'a str,
    /// Its first character.
    pub(crate) position: &'a Position,
}

/// What one side of a rule names.
pub(crate) struct Side {
    /// The repository or the layout, or with `levels` a namespace.
    pub(crate) place: Place,
    /// `/*` or `/**`: what is below the place is meant.
    pub(crate) levels: Option<Levels>,
    /// Which of its images.
    pub(crate) names: Names,
}

/// What stands behind the repository or the layout.
pub(crate) enum Names {
    /// Nothing: all tags, or the other side's.
    None,
    /// `:a,b,c`: at least one tag, each once.
    Tags(Vec<Tag>),
    /// `@sha256:..`, perhaps with a tag in front of it.
    Digest(Option<Tag>, Digest),
    /// `:/REGEX/`, or the `tags` of the rule: those that the repository has and that pass.
    Chosen(TagFilter),
}

impl Side {
    /// Reads one side, or the namespace that it is. What is dropped without being an error goes to `warnings`.
    pub(crate) fn parse(
        written: &Written<'_>,
        is_namespace: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self, SideError> {
        let text = written.text.trim();
        let mut warn = |what| warnings.push(format!("{}: {what}", written.position));
        if text.len() != written.text.len() {
            warn("the blanks around the name are ignored; delete them");
        }
        let (text, regex) = cut_regex(text)?;
        let (text, levels) = cut_levels(text);
        let (place, list, digest) = match text.strip_prefix("oci:") {
            Some(_) if levels.is_some() => return Err(SideError::LayoutLevels),
            Some(layout) => read_layout(layout)?,
            None => read_repository(text, is_namespace || levels.is_some())?,
        };
        if levels.is_some() && (list.is_some() || digest.is_some()) {
            return Err(SideError::Star);
        }
        if regex.is_some() && (list.is_some() || digest.is_some()) {
            return Err(SideError::TagsWithRegex);
        }
        if list.is_some_and(|list| list.trim().is_empty()) {
            warn("a `:` without a tag counts as no tag; delete it or write the tag");
        } else if list.is_some_and(has_empty_tag) {
            warn("an empty tag in the list is ignored; delete the comma");
        }
        let mut tags = list.map_or_else(|| Ok(Vec::new()), parse_tags)?;
        let names = match (regex, digest) {
            (Some(regex), _) => Names::Chosen(TagFilter {
                allow: vec![Pattern::regex(regex).map_err(SideError::Regex)?],
                ..TagFilter::default()
            }),
            (None, Some(_)) if tags.len() > 1 => return Err(SideError::TagsWithDigest),
            (None, Some(digest)) => Names::Digest(tags.pop(), digest),
            (None, None) if tags.is_empty() => Names::None,
            (None, None) => Names::Tags(tags),
        };
        Ok(Self {
            place,
            levels,
            names,
        })
    }
}

/// A place, the list of tags behind it, and the digest behind that.
type Parts<'a> = (Place, Option<&'a str>, Option<Digest>);

fn read_layout(text: &str) -> Result<Parts<'_>, SideError> {
    refuse_variables(text)?;
    if text.starts_with("//") {
        return Err(SideError::OciScheme);
    }
    let (text, digest) = cut_digest(text)?;
    let (path, list) = cut_layout_tags(text);
    Ok((Place::Layout(resolve(path)?), list, digest))
}

/// Reads a name, after a look for the mistakes of usage.md section 5, which its grammar would explain badly.
fn read_repository(text: &str, is_namespace: bool) -> Result<Parts<'_>, SideError> {
    if let (_, Some(list)) = cut_tags(text)
        && looks_like_regex(list)
    {
        return Err(SideError::BareRegex);
    }
    refuse_variables(text)?;
    if text.contains("](") {
        return Err(SideError::MarkdownLink);
    }
    if let Some((c, meant)) = text.chars().find_map(|c| Some((c, meant_by(c)?))) {
        return Err(SideError::Meant { c, meant });
    }
    if holds_user(text) {
        return Err(SideError::User);
    }
    if text.contains("://") {
        return Err(SideError::Name(NameError::Scheme));
    }
    if text.ends_with('/') {
        return Err(SideError::TrailingSlash);
    }
    let (text, digest) = cut_digest(text)?;
    let (name, list) = cut_tags(text);
    if last_component(name).contains(':') {
        return Err(SideError::TwoColons);
    }
    if let Some(word) = name.split('/').find(|part| is_placeholder(part)) {
        return Err(SideError::Placeholder(word.into()));
    }
    if name.contains('*') {
        return Err(SideError::Star);
    }
    let split = if is_namespace {
        reference::split_namespace(name)
    } else {
        reference::split_name(&official(name))
    };
    let (host, repository) = split.map_err(SideError::Name)?;
    Ok((Place::Registry(host, repository), list, digest))
}

/// Cuts off a regular expression, which may hold anything that is a mistake elsewhere.
fn cut_regex(text: &str) -> Result<(&str, Option<&str>), SideError> {
    let is_layout = text.starts_with("oci:");
    match text.split_once(":/") {
        Some((name, regex)) if !is_layout && !text.contains("://") => match regex.strip_suffix('/')
        {
            Some(regex) => Ok((name, Some(regex))),
            None => Err(SideError::RegexTail),
        },
        _ => Ok((text, None)),
    }
}

/// Cuts off `/*` or `/**`.
fn cut_levels(text: &str) -> (&str, Option<Levels>) {
    let cut = |end, levels| Some((text.strip_suffix(end)?, Some(levels)));
    cut("/**", Levels::All)
        .or_else(|| cut("/*", Levels::One))
        .unwrap_or((text, None))
}

/// Whether a tag holds what only patterns do. A `$` may begin a variable, a `{` follow it.
fn looks_like_regex(list: &str) -> bool {
    list.contains(['^', '*', '+', '?', '(', '[', '|', '\\']) || list.ends_with('$')
}

fn refuse_variables(text: &str) -> Result<(), SideError> {
    if text.contains("${{") {
        Err(SideError::GithubExpression)
    } else if text.contains('$') {
        Err(SideError::Variable)
    } else {
        Ok(())
    }
}

/// Whether a name has an `@` in front of its last slash, `user:password@host/name`, or one that no digest follows,
/// `user:password@host`. Such a text is not shown.
pub(crate) fn holds_user(name: &str) -> bool {
    let (head, last) = name.rsplit_once('/').unwrap_or(("", name));
    // Or means to be one: a host is no algorithm.
    let is_digest = |text: &str| {
        text.split_once(':').is_some_and(|(algorithm, _)| {
            !algorithm.contains('.') && ["sha", "md"].iter().any(|name| algorithm.starts_with(name))
        })
    };
    head.contains('@')
        || last
            .split_once('@')
            .is_some_and(|(user, rest)| user.contains(':') && !is_digest(rest))
}

/// Cuts off a digest, which follows an `@` behind the last `/`.
fn cut_digest(text: &str) -> Result<(&str, Option<Digest>), SideError> {
    let (head, last) = text.split_at(text.rfind('/').unwrap_or(0));
    match last.split_once('@') {
        Some((name, digest)) if digest.contains(':') => {
            let digest = Digest::parse(digest).map_err(SideError::Digest)?;
            let rest = text.get(..head.len() + name.len()).unwrap_or(head);
            Ok((rest, Some(digest)))
        }
        _ => Ok((text, None)),
    }
}

fn last_component(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

/// Cuts off what follows the last `:` behind the last `/`.
fn cut_tags(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, list)) if !list.contains('/') => (name, Some(list)),
        _ => (text, None),
    }
}

/// The same for a layout, whose path may hold a `:` of its own: only what can be tags is cut off.
fn cut_layout_tags(text: &str) -> (&str, Option<&str>) {
    match cut_tags(text) {
        (path, Some(list)) if list.trim().is_empty() || parse_tags(list).is_ok() => {
            (path, Some(list))
        }
        _ => (text, None),
    }
}

fn has_empty_tag(list: &str) -> bool {
    list.split(',').any(|tag| tag.trim().is_empty())
}

fn parse_tags(list: &str) -> Result<Vec<Tag>, SideError> {
    let mut tags = Vec::new();
    let mut seen = HashSet::new();
    for tag in list.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
        let tag = Tag::parse(tag).map_err(SideError::Name)?;
        if seen.insert(tag.clone()) {
            tags.push(tag);
        }
    }
    if tags.is_empty() && list.contains(',') {
        return Err(SideError::OnlyCommas);
    }
    Ok(tags)
}

/// Docker Hub's web pages show official images under `_`; their repositories are under `library`.
fn official(name: &str) -> Cow<'_, str> {
    match name.split_once("_/") {
        Some(("", rest)) => format!("library/{rest}").into(),
        Some((head, rest)) => match head.strip_suffix('/').map(Host::parse) {
            Some(Ok(host)) if host.is_docker_hub() => format!("{host}/library/{rest}").into(),
            _ => name.into(),
        },
        None => name.into(),
    }
}

/// Whether a part of a name is a template's word that was never filled in, such as `DOCKERHUB_USERNAME`. Capitals
/// alone do not make one: `MYHOST/app` is a host by docker's rule (protocol.md G5).
fn is_placeholder(part: &str) -> bool {
    let capitals = part
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    let letters = part.bytes().any(|b| b.is_ascii_uppercase());
    capitals
        && letters
        && (part.contains('_') || PLACEHOLDER_WORDS.iter().any(|word| part.contains(word)))
}

/// The absolute path with links resolved as far as it exists, so that one folder is one place however it is written.
fn resolve(path: &str) -> Result<PathBuf, SideError> {
    let unresolvable = || SideError::LayoutPath(path.into());
    if path.is_empty() {
        return Err(unresolvable());
    }
    let absolute = std::path::absolute(path).map_err(|_| unresolvable())?;
    let (mut resolved, exists) = absolute
        .ancestors()
        .find_map(|ancestor| Some((ancestor.canonicalize().ok()?, ancestor)))
        .ok_or_else(unresolvable)?;
    let missing = absolute.strip_prefix(exists).unwrap_or(Path::new(""));
    for component in missing.components() {
        // What does not exist is no link, so `..` may be taken literally.
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            component => resolved.push(component),
        }
    }
    Ok(resolved)
}

/// What is wrong with one side of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideError {
    /// The grammar of names.
    Name(NameError),
    /// A character that looks like the one that is meant.
    Meant {
        /// The character written.
        c: char,
        /// The one that is meant.
        meant: char,
    },
    /// `[name](name)`
    MarkdownLink,
    /// `${{ .. }}`
    GithubExpression,
    /// `$NAME`
    Variable,
    /// A user name or password in the name.
    User,
    /// `oci://`, helm's way to name a registry.
    OciScheme,
    /// What follows `@` is no digest.
    Digest(DigestError),
    /// Several tags in front of a digest.
    TagsWithDigest,
    /// What stands between the slashes of `:/../`.
    Regex(FilterError),
    /// Text behind the last slash of a regular expression.
    RegexTail,
    /// A regular expression without its slashes.
    BareRegex,
    /// A tag or a digest in front of a regular expression.
    TagsWithRegex,
    /// A `*` in a name, but for `/*` and `/**` at its end.
    Star,
    /// `/*` behind a layout.
    LayoutLevels,
    /// A `/` at the end.
    TrailingSlash,
    /// `name:one:two`
    TwoColons,
    /// Commas without a tag.
    OnlyCommas,
    /// A word of a template.
    Placeholder(String),
    /// A layout's path that is empty or cannot be made absolute.
    LayoutPath(String),
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Meant { c, meant } => write!(
                f,
                "U+{:04X} where `{meant}` is meant; write `{meant}`",
                u32::from(*c)
            ),
            Self::MarkdownLink => f.write_str(MARKDOWN_LINK),
            Self::GithubExpression => f.write_str(GITHUB_EXPRESSION),
            Self::Variable => f.write_str("`$` is in no name; a variable is written ${NAME}"),
            Self::User => {
                f.write_str("a name holds no user name and no password; write them into `auth`")
            }
            Self::OciScheme => f.write_str(
                "`oci://` names nothing here; drop it for a registry, write oci:PATH for a layout",
            ),
            Self::Digest(error) => error.fmt(f),
            Self::TagsWithDigest => {
                f.write_str("a digest is one image; write one tag in front of it, or none")
            }
            Self::Regex(error) => error.fmt(f),
            Self::RegexTail => f.write_str(
                "a regular expression ends with its `/`; put what follows inside: NAME:/REGEX/",
            ),
            Self::BareRegex => f.write_str(
                "no tag holds such characters; a regular expression is written NAME:/REGEX/",
            ),
            Self::TagsWithRegex => f.write_str(
                "a regular expression alone chooses the tags; delete what stands before it",
            ),
            Self::Star => f.write_str(
                "a `*` stands at the end of a name only: REGISTRY/NAMESPACE/* for its repositories, /** for those below too",
            ),
            Self::LayoutLevels => {
                f.write_str("a layout is one repository; write a rule for each layout, without the `*`")
            }
            Self::TrailingSlash => f.write_str("a name does not end with `/`; delete it"),
            Self::TwoColons => f.write_str(
                "two colons; a tag follows the only one, and several are written :a,b,c",
            ),
            Self::OnlyCommas => {
                f.write_str("a list without any tag; name the tags or drop the `:`")
            }
            Self::Placeholder(word) => {
                write!(f, "{word:?} looks like a placeholder; fill it in")
            }
            Self::LayoutPath(path) => write!(
                f,
                "{path:?} is no path of a layout; write oci:PATH or oci:PATH:TAG"
            ),
        }
    }
}

impl std::error::Error for SideError {}

/// Words of which placeholders are made.
const PLACEHOLDER_WORDS: [&str; 5] = ["USER", "NAME", "YOUR", "REGISTRY", "REPO"];
