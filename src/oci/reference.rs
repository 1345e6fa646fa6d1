//! Names of images: host, repository, tag, and the grammar that splits them (decisions D9, protocol.md section 1).
//! Not here: URLs, and the tag lists and blanks that a rule may hold (`config/side.rs`).

use std::fmt;
use std::sync::Arc;

use super::Digest;

/// A registry in canonical form: lower case, no trailing dot, no `:443`, and `docker.io` for each of Docker Hub's
/// names. Equal hosts are the same registry (protocol.md G9, G14).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

impl Host {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`, and nothing more (protocol.md G8).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |what| NameError::Host {
            text: text.into(),
            what,
        };
        if text.contains("://") {
            return Err(NameError::Scheme);
        }
        if text.contains('@') {
            return Err(bad("a user name or password does not belong here"));
        }
        let (name, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest
                .split_once(']')
                .ok_or_else(|| bad("a `]` is missing"))?;
            // No zone id and no embedded IPv4, as docker's own grammar.
            if address.contains('.') || address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad("not an IPv6 address"));
            }
            let port = if port.is_empty() {
                None
            } else {
                Some(
                    port.strip_prefix(':')
                        .ok_or_else(|| bad("only a :port may follow `]`"))?,
                )
            };
            (format!("[{}]", address.to_ascii_lowercase()), port)
        } else {
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            };
            let name = name.strip_suffix('.').unwrap_or(name);
            if port.is_some_and(|port| port.contains(':')) {
                return Err(bad(
                    "an IPv6 address stands in brackets, as in [2001:db8::1]:5000",
                ));
            }
            if !name.split('.').all(is_host_label) {
                return Err(bad("a host is made of letters, digits, `-` and dots"));
            }
            (name.to_ascii_lowercase(), port)
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
                    Some(number)
                }
                _ => return Err(bad("a port is a number from 1 to 65535")),
            },
        };
        Ok(match port {
            None | Some(443) if HUB_NAMES.contains(&name.as_str()) => Self(HUB.into()),
            None | Some(443) => Self(name.into()),
            Some(port) => Self(format!("{name}:{port}").into()),
        })
    }

    /// The canonical text, as messages and records show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is Docker Hub.
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == HUB
    }

    /// `host[:port]` to connect to; Docker Hub's registry answers under a name of its own (protocol.md G10).
    pub fn authority(&self) -> &str {
        if self.is_docker_hub() {
            "registry-1.docker.io"
        } else {
            &self.0
        }
    }

    /// The name without its port, brackets kept.
    pub fn name(&self) -> &str {
        match self.0.rfind(':') {
            Some(at) if !self.0.ends_with(']') => self.0.get(..at).unwrap_or(&self.0),
            _ => &self.0,
        }
    }

    /// Whether the name says that the registry is this machine: plain http is tried there as docker does (D2).
    pub fn is_loopback(&self) -> bool {
        let name = self.name();
        name == "localhost"
            || name.ends_with(".localhost")
            || name == "[::1]"
            || name
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

/// A repository of a registry, such as `library/nginx`: a path of at most 255 characters without its host.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// Parses and checks a path (protocol.md 1.1).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_REPOSITORY {
            return Err(NameError::TooLong);
        }
        if let Some(c) = text.chars().find(|&c| !is_repository_char(c)) {
            return Err(if c.is_ascii_uppercase() {
                NameError::Uppercase(text.into())
            } else {
                NameError::Character {
                    text: text.into(),
                    c,
                }
            });
        }
        if !text.split('/').all(is_path_component) {
            return Err(NameError::Component(text.into()));
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NameError::ImageId); // G2
        }
        Ok(Self(text.into()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Splits a name without tag and digest into registry and repository: three or more components begin with the host,
/// two by docker's rule, one is Docker Hub's (decisions D9, protocol.md G4, G5, G11).
pub fn split_name(text: &str) -> Result<(Host, Repository), NameError> {
    if text.contains("://") || text.starts_with("http:/") || text.starts_with("https:/") {
        return Err(NameError::Scheme);
    }
    let (host, path) = match text.split_once('/') {
        Some((first, rest)) if rest.contains('/') || is_domain(first) => {
            (Host::parse(first)?, rest)
        }
        _ => (Host(HUB.into()), text),
    };
    if host.is_docker_hub() && !path.contains('/') && !path.is_empty() {
        return Ok((host, Repository::parse(&format!("library/{path}"))?));
    }
    Ok((host, Repository::parse(path)?))
}

/// Splits the name of a namespace into registry and path: with a slash, the first component is the host, since a
/// repository in it has three or more; else it is Docker Hub's.
pub fn split_namespace(text: &str) -> Result<(Host, Repository), NameError> {
    if text.contains("://") {
        return Err(NameError::Scheme);
    }
    match text.split_once('/') {
        Some((host, path)) => Ok((Host::parse(host)?, Repository::parse(path)?)),
        None if is_domain(text) => Err(NameError::NoNamespace),
        None => Ok((Host(HUB.into()), Repository::parse(text)?)),
    }
}

/// A tag: 1 to 128 characters, beginning with a letter, a digit or `_` (distribution-spec, "Pulling manifests").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses and checks `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Tag(text.chars().take(2 * MAX_TAG).collect()))
        }
    }

    /// The tag that stands for a digest: without a suffix that of the index of its referrers (distribution-spec,
    /// "Referrers Tag Schema"), with `.sig`, `.att` or `.sbom` one of cosign's.
    pub fn of_digest(digest: &Digest, suffix: &str) -> Self {
        let encoded = digest.encoded();
        // Of sha512 the first half.
        let encoded = encoded.get(..64).unwrap_or(&encoded);
        Self(format!("{}-{encoded}{suffix}", digest.algorithm().name()).into())
    }

    /// Whether it stands for a digest, with or without a suffix: what it names is about another image.
    pub fn is_of_digest(&self) -> bool {
        let Some((name, rest)) = self.0.split_once('-') else {
            return false;
        };
        let encoded = rest.split_once('.').map_or(rest, |(encoded, _)| encoded);
        matches!(name, "sha256" | "sha512")
            && encoded.len() == 64
            && encoded.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What names a manifest inside its repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// The content itself. Boxed, since a run may hold a million tags and few of these.
    Digest(Box<Digest>),
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(Box::new(digest))
    }
}

impl Reference {
    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

macro_rules! text_newtype {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_newtype!(Host Repository Tag);

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing where a name is wanted.
    Empty,
    /// `https://` or another scheme in front.
    Scheme,
    /// The host or port is not well formed.
    Host {
        /// What was written.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Repositories are lower-case.
    Uppercase(String),
    /// A character that no repository has.
    Character {
        /// What was written.
        text: String,
        /// The first such character.
        c: char,
    },
    /// An empty component, or a separator at its edge.
    Component(String),
    /// Over 255 characters.
    TooLong,
    /// A registry where a namespace of it is wanted.
    NoNamespace,
    /// 64 hex digits: ambiguous with an image id.
    ImageId,
    /// Not a tag.
    Tag(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the repository is empty"),
            Self::Scheme => write!(
                f,
                "a name has no scheme: drop the https:// or http:// in front"
            ),
            Self::Host { text, what } => write!(f, "{text:?} is no registry: {what}"),
            Self::Uppercase(text) => write!(f, "repository name must be lowercase: {text:?}"),
            Self::Character { text, c } => {
                write!(
                    f,
                    "{text:?} holds {c:?} (U+{:04X}), which no repository name has",
                    u32::from(*c)
                )
            }
            Self::Component(text) => write!(
                f,
                "{text:?} is no repository: each part between slashes begins and ends with a letter or digit, \
                 with single `.`, `_`, `__` or `-` between"
            ),
            Self::TooLong => write!(f, "a repository has at most {MAX_REPOSITORY} characters"),
            Self::NoNamespace => {
                f.write_str("a registry is no namespace; write REGISTRY/NAMESPACE")
            }
            Self::ImageId => write!(f, "64 hex digits are an image id, not a repository"),
            Self::Tag(text) => write!(
                f,
                "{text:?} is no tag: 1 to {MAX_TAG} letters, digits, `_`, `.` or `-`, not beginning with `.` or `-`"
            ),
        }
    }
}

impl std::error::Error for NameError {}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// docker's rule for the first of two components (protocol.md G4).
fn is_domain(first: &str) -> bool {
    first == "localhost"
        || first.starts_with('[')
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_repository_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '/')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = component.bytes().next().is_some_and(alphanumeric)
        && component.bytes().last().is_some_and(alphanumeric);
    edges
        && component
            .split(|c: char| c.is_ascii_alphanumeric())
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            })
}

const HUB: &str = "docker.io";
/// Names that mean Docker Hub (protocol.md G9; `hub.docker.com` is what users write, usage.md 4).
const HUB_NAMES: [&str; 5] = [
    HUB,
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
    "hub.docker.com",
];
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_stands_for_a_digest_is_known_by_its_form() {
        let long = format!("sha512:{}{}", "a".repeat(64), "b".repeat(64));
        let short = format!("sha256:{}", "c".repeat(64));
        for (digest, suffix, expected) in [
            (&short, "", format!("sha256-{}", "c".repeat(64))),
            (&short, ".sig", format!("sha256-{}.sig", "c".repeat(64))),
            (&long, "", format!("sha512-{}", "a".repeat(64))),
        ] {
            let tag = Tag::of_digest(&Digest::parse(digest).unwrap(), suffix);
            assert_eq!(tag.as_str(), expected);
            assert_eq!(Tag::parse(&expected).unwrap(), tag);
            assert!(tag.is_of_digest(), "{tag}");
        }
        for other in ["v1", "sha256-1", "sha256-v1.sig", "latest-0"] {
            assert!(!Tag::parse(other).unwrap().is_of_digest(), "{other}");
        }
    }

    #[track_caller]
    fn check(text: &str, host: &str, repository: &str) {
        let (h, r) = split_name(text).unwrap();
        assert_eq!((h.as_str(), r.as_str()), (host, repository), "{text}");
        // Printing and parsing again gives the same.
        assert_eq!(split_name(&format!("{h}/{r}")).unwrap(), (h, r));
    }

    #[test]
    fn names_split_as_users_mean_them() {
        check("nginx", "docker.io", "library/nginx");
        check("coreos/etcd", "docker.io", "coreos/etcd");
        check("docker.io/nginx", "docker.io", "library/nginx");
        check("index.docker.io/a/b", "docker.io", "a/b");
        check(
            "registry.hub.docker.com/library/nginx",
            "docker.io",
            "library/nginx",
        );
        check("registry-1.docker.io:443/a/b", "docker.io", "a/b");
        check("gcr.io/pause", "gcr.io", "pause");
        check("127.0.0.1:5000/nginx", "127.0.0.1:5000", "nginx");
        check("localhost:5000/nginx", "localhost:5000", "nginx");
        check("localhost/nginx", "localhost", "nginx");
        check("rvm:5000/x", "rvm:5000", "x");
        check("harbor/lib/nginx", "harbor", "lib/nginx");
        check("Quay.IO./a/b/c/d", "quay.io", "a/b/c/d");
        check("quay.io:443/a", "quay.io", "a");
        // The one name that does not read back as itself: only its capitals made it a host (protocol.md G5).
        assert_eq!(split_name("MYHOST/foo").unwrap().0.as_str(), "myhost");
        check("[2001:DB8::1]:5000/a", "[2001:db8::1]:5000", "a");
        check("a.b/x__y-z---q.w_e", "a.b", "x__y-z---q.w_e");
    }

    #[test]
    fn bad_names_are_refused() {
        let id = "a".repeat(64);
        let long = format!("a.b/{}", "x".repeat(256));
        for text in [
            "",
            "/",
            "a//b",
            "a.b/",
            "https://quay.io/a/b",
            "a.b/c/",
            "a.b/C",
            "a.b/c d",
            "a.b/-c",
            "a.b/c-",
            "a.b/c..d",
            "a.b/c___d",
            "a.b:0/c",
            "a.b:65536/c",
            "a.b:+1/c",
            "[::1%eth0]/c",
            "[::1/c",
            "u:p@a.b/c",
            "a.b/c：v",
            "-a.b/c",
            "a.b/..",
            "a..b/c",
            &long,
        ] {
            assert!(split_name(text).is_err(), "{text}");
        }
        assert_eq!(Repository::parse(&id), Err(NameError::ImageId));
    }

    #[test]
    fn tags() {
        for text in ["latest", "_x", "1.2.3_build.5", "V-1", &"a".repeat(128)] {
            assert_eq!(Tag::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            ".a",
            "-a",
            "a b",
            "a/b",
            "a:b",
            "ä",
            "a\n",
            &"a".repeat(129),
        ] {
            assert!(Tag::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_parts() {
        let host = Host::parse("LOCALHOST:5000").unwrap();
        assert_eq!((host.name(), host.is_loopback()), ("localhost", true));
        assert!(Host::parse("[::1]:80").unwrap().is_loopback());
        assert!(Host::parse("127.3.2.1").unwrap().is_loopback());
        assert!(!Host::parse("127.0.0.1.evil.io").unwrap().is_loopback());
        assert_eq!(
            Host::parse("docker.io").unwrap().authority(),
            "registry-1.docker.io"
        );
    }
}
