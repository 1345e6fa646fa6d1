//! URLs, and the one judgement on each URL that a registry chose: a redirect, an upload's Location, a Link to the next
//! page, a token realm (decisions D8, reliability.md section 3). Pure: no look-up and no request happens here; the
//! resolver asks [`check_addresses`] about what it found.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

mod address;

use address::AddressClass;

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else {
            None
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// Whom a request goes to. Equal origins are the same server: credentials of one are never sent to another
/// (protocol.md G14, A18).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// A lower-case name without trailing dot, a dotted IPv4 address, or an IPv6 address in brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The address, where the host is written as one. It is all that can be checked behind a proxy.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let host = self.host.as_str();
        match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
            Some(v6) => v6.parse().ok().map(IpAddr::V6),
            None => host.parse().ok().map(IpAddr::V4),
        }
    }

    fn parse(scheme: Scheme, authority: &str) -> Result<Self, UrlError> {
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        // The colons of an IPv6 address stand before its bracket.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => scheme.default_port(),
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => return Err(UrlError::Port(shortened(text))),
            },
        };
        let host = parse_host(host).ok_or_else(|| UrlError::Host(shortened(host)))?;
        Ok(Self { scheme, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == self.scheme.default_port() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// An absolute http or https URL that ureq and every server read as we do: there is no user name, no fragment and no
/// doubtful character in it (reliability.md M5: ureq itself would connect to a wrong port for some broken texts).
///
/// Path and query are opaque: they are sent byte for byte as they were written, for they may be signed (protocol.md
/// E46). `Display` and `Debug` leave the query out, since it may carry a signature.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Url {
    origin: Origin,
    /// Path and query, beginning with `/`.
    target: String,
}

impl Url {
    /// Parses an absolute URL.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        check_characters(text)?;
        let (scheme, rest) = split_scheme(text).ok_or(UrlError::Relative)?;
        let scheme = Scheme::parse(scheme).ok_or_else(|| UrlError::Scheme(shortened(scheme)))?;
        let rest = rest.strip_prefix("//").ok_or(UrlError::Relative)?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        Ok(Self {
            origin: Origin::parse(scheme, authority)?,
            target: if target.starts_with('/') {
                target.to_owned()
            } else {
                format!("/{target}")
            },
        })
    }

    /// A URL of parts: `authority` is `host` or `host:port`, `path_and_query` begins with `/`.
    pub(crate) fn new(
        scheme: Scheme,
        authority: &str,
        path_and_query: &str,
    ) -> Result<Self, UrlError> {
        check_characters(authority)?;
        check_characters(path_and_query)?;
        if !path_and_query.starts_with('/') {
            return Err(UrlError::Relative);
        }
        Ok(Self {
            origin: Origin::parse(scheme, authority)?,
            target: path_and_query.to_owned(),
        })
    }

    /// Resolves what a header of the answer to this URL says: an absolute URL, `//host/path`, `/path`, `?query` or a
    /// path relative to this one.
    ///
    /// An absolute URL or path is taken as it stands, dot segments too: the origin is settled before the path, so they
    /// lead to no other server, and changing them could break a signature (protocol.md E46). Only the `./` and `../`
    /// in front of a relative path are resolved, never above the root: they are no part of what the registry gave out.
    pub(crate) fn join(&self, reference: &str) -> Result<Self, UrlError> {
        if split_scheme(reference).is_some() {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{}:{reference}", self.origin.scheme));
        }
        check_characters(reference)?;
        let target = if reference.is_empty() {
            return Err(UrlError::Empty);
        } else if reference.starts_with('/') {
            reference.to_owned()
        } else if reference.starts_with('?') {
            format!("{}{reference}", self.path())
        } else {
            let mut directory = parent(self.path());
            let mut rest = reference;
            loop {
                if let Some(same) = rest.strip_prefix("./") {
                    rest = same;
                } else if let Some(above) = rest.strip_prefix("../") {
                    rest = above;
                    directory = parent(directory);
                } else {
                    break format!("{directory}/{rest}");
                }
            }
        };
        Ok(Self {
            origin: self.origin.clone(),
            target,
        })
    }

    /// The URL with one more query parameter. The value is percent-encoded, what was there stays as it is.
    #[must_use]
    pub(crate) fn with_query_parameter(&self, name: &str, value: &str) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        Self {
            origin: self.origin.clone(),
            target: format!("{}{separator}{name}={}", self.target, PercentEncoded(value)),
        }
    }

    /// Whom the request goes to.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path, as it was written.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or(&self.target)
    }

    /// What follows the `?`, as it was written.
    pub(crate) fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The whole text, for the request alone.
    pub(crate) fn to_request_string(&self) -> String {
        format!("{}{}", self.origin, self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text as the value of a query parameter (RFC 3986, 2.1).
struct PercentEncoded<'a>(&'a str);

impl fmt::Display for PercentEncoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                f.write_char(byte.into())?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// What a registry chose a URL for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The Location of a redirected GET or HEAD.
    Redirect,
    /// The Location of an upload session, from an answer or from the records.
    Upload,
    /// The Link to the next page.
    Page,
    /// The realm of a Bearer challenge: it is sent the credentials themselves.
    Realm,
}

/// A URL that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What to ask. Its addresses are to be checked by [`check_addresses`] unless it is of the registry's own origin.
    pub(crate) url: Url,
    /// Whether the registry's credentials go along.
    pub(crate) credentials: bool,
}

/// Judges the URL `reference` that the answer to `current` holds.
///
/// `registry` is the configured registry as it is spoken to; `insecure` says that it may be spoken to in the clear,
/// since its entry says so or it is this machine. Credentials go along to the registry's own origin only, and to its
/// realm.
pub(crate) fn judge(
    registry: &Url,
    insecure: bool,
    current: &Url,
    reference: &str,
    purpose: Purpose,
) -> Result<Verdict, UrlError> {
    let mut url = current.join(reference)?;
    let refused = |why, url: &Url| Err(UrlError::Refused(why, url.to_string()));

    if purpose == Purpose::Page {
        // A page is asked of whom we are talking with, whatever scheme and port a proxy made of that (E31).
        if url.origin.host != current.origin.host {
            return refused(Refusal::OtherHost, &url);
        }
        url.origin = current.origin.clone();
    } else if (current.origin.scheme, url.origin.scheme) == (Scheme::Https, Scheme::Http) {
        // A registry behind a proxy that ends TLS names itself by http, with the port that it sees or none (G15).
        let same_server = url.origin.host == current.origin.host
            && [Scheme::Http.default_port(), current.origin.port].contains(&url.origin.port);
        if !same_server {
            return refused(Refusal::Downgrade, &url);
        }
        url.origin = current.origin.clone();
    }

    let home = url.origin == registry.origin;
    let same_host = url.origin.host == registry.origin.host;
    let encrypted = url.origin.scheme == Scheme::Https;
    match purpose {
        Purpose::Upload if !(encrypted || same_host) => refused(Refusal::PlainUpload, &url), // E47
        // A challenge of a storage host or proxy is not the registry's word (A21).
        Purpose::Realm if current.origin != registry.origin => {
            refused(Refusal::ForeignChallenge, &url)
        }
        // A token server beside the registry on the same machine may be as plain as the registry is (D8).
        Purpose::Realm if !(encrypted || insecure && same_host) => {
            refused(Refusal::PlainRealm, &url)
        }
        _ => Ok(Verdict {
            url,
            credentials: home || purpose == Purpose::Realm,
        }),
    }
}

/// Judges the addresses that a host chosen by a registry has, given those of the registry itself.
///
/// An address that leads into this machine or this network is refused, unless the registry is in the same kind of
/// place: a public registry has no business there. One bad address among good ones is enough, for which one is taken
/// is not ours to say. A registry whose addresses are not known (behind a proxy) counts as public.
pub(crate) fn check_addresses(registry: &[IpAddr], chosen: &[IpAddr]) -> Result<(), UrlError> {
    let registry_is = |class| {
        registry
            .iter()
            .any(|&address| AddressClass::of(address) == class)
    };
    let registry_is_private = registry
        .iter()
        .any(|&address| AddressClass::of(address) != AddressClass::Public);
    for &address in chosen {
        let class = AddressClass::of(address);
        let allowed = match class {
            AddressClass::Public => true,
            AddressClass::Private => registry_is_private,
            _ => registry_is(class),
        };
        if !allowed {
            return Err(UrlError::Address(address, class));
        }
    }
    Ok(())
}

/// Why a URL is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// There is none.
    Empty,
    /// No `http://` or `https://` and host, where these are needed.
    Relative,
    /// Longer than any server promises to read.
    TooLong(usize),
    /// A scheme that is not http or https.
    Scheme(String),
    /// A user name or password in front of the host.
    UserInfo,
    /// A `#`.
    Fragment,
    /// A character that does not belong in a URL.
    Character(char),
    /// Not a host, or an IPv4 address in a form that programs read differently.
    Host(String),
    /// Not a port.
    Port(String),
    /// Well formed, but not to be asked; the URL without its query.
    Refused(Refusal, String),
    /// It leads where a registry has no business to send us.
    Address(IpAddr, AddressClass),
}

/// Which rule of [`judge`] a URL breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// From https to http.
    Downgrade,
    /// The next page on another host.
    OtherHost,
    /// An upload to another host in the clear.
    PlainUpload,
    /// A realm in the clear.
    PlainRealm,
    /// A realm that the registry itself did not name.
    ForeignChallenge,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the URL is empty"),
            Self::Relative => write!(f, "the URL lacks its scheme or host"),
            Self::TooLong(length) => {
                write!(f, "a URL of {length} characters is over {MAX_LENGTH}")
            }
            Self::Scheme(scheme) => write!(f, "{scheme}:// is neither http nor https"),
            Self::UserInfo => write!(f, "a user name or password stands in the URL"),
            Self::Fragment => write!(f, "a `#` stands in the URL"),
            Self::Character(c) => write!(f, "{c:?} stands in the URL"),
            Self::Host(host) => write!(f, "{host:?} in the URL is no host"),
            Self::Port(port) => write!(
                f,
                "{port:?} in the URL is no port: a number from 1 to 65535 is"
            ),
            Self::Refused(why, url) => match why {
                Refusal::Downgrade => write!(f, "{url} would leave https for http"),
                Refusal::OtherHost => write!(f, "{url} is on another host than the page before"),
                Refusal::PlainUpload => write!(f, "{url} would take an upload over plain http"),
                Refusal::PlainRealm => write!(
                    f,
                    "the token server {url} would get the password over plain http"
                ),
                Refusal::ForeignChallenge => write!(
                    f,
                    "the token server {url} was named by another host than the registry"
                ),
            },
            Self::Address(address, class) => write!(
                f,
                "the registry sent us to {address}, a {class} address, which it is not at itself"
            ),
        }
    }
}

impl std::error::Error for UrlError {}

/// Only visible ASCII, without the few characters that programs disagree about or that ureq refuses.
fn check_characters(text: &str) -> Result<(), UrlError> {
    if text.len() > MAX_LENGTH {
        return Err(UrlError::TooLong(text.len()));
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_graphic() || "#\"<>\\`".contains(*c))
    {
        None => Ok(()),
        Some('#') => Err(UrlError::Fragment),
        Some(c) => Err(UrlError::Character(c)),
    }
}

/// Splits `scheme:` off (RFC 3986, 3.1); `None` for a relative reference.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let valid = scheme.bytes().next()?.is_ascii_alphabetic()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then_some((scheme, rest))
}

/// The canonical form of a host, or nothing if it is none.
fn parse_host(text: &str) -> Option<String> {
    if let Some(v6) = text.strip_prefix('[') {
        let address: Ipv6Addr = v6.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    // `_` is in no host of the standards, but in names of old buckets and of containers.
    let valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(valid_label) {
        return None;
    }
    // What ends in a number is an IPv4 address to some programs, in whatever base and with missing parts (WHATWG URL,
    // "ends in a number"). Only the one form that all read alike is taken.
    let last = name.rsplit('.').next()?.to_ascii_lowercase();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return None;
    }
    Some(name.to_ascii_lowercase())
}

/// The path without its last component and the slash before it.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What a message shows of a text of any length.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// What every server is asked to read (RFC 9110, 4.1).
const MAX_LENGTH: usize = 8000;
const MAX_SHOWN: usize = 64;
