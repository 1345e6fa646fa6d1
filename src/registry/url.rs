//! URLs, and the one judgement on each URL that a registry chose: a redirect, an upload's Location, a Link to the next
//! page, a token realm (decisions D8, reliability.md section 3). Pure: no look-up and no request happens here; the
//! resolver asks [`check_addresses`] about what it found.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

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

    /// How it is spoken to.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Written or not.
    pub(crate) fn port(&self) -> u16 {
        self.port
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
#[derive(Clone)]
pub(crate) struct Url {
    origin: Origin,
    /// Path and query, beginning with `/`.
    target: String,
    /// No part of what it is: see [`Self::hidden`].
    is_hidden: bool,
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
            is_hidden: false,
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
            is_hidden: false,
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
            is_hidden: false,
        })
    }

    /// The URL with one more query parameter. The value is percent-encoded, what was there stays as it is.
    #[must_use]
    pub(crate) fn with_query_parameter(&self, name: &str, value: &str) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        let value = encode(value);
        Self {
            target: format!("{}{separator}{name}={value}", self.target),
            ..self.clone()
        }
    }

    /// The same URL, which is never shown: it holds what must not be repeated.
    #[must_use]
    pub(crate) fn hidden(self) -> Self {
        Self {
            is_hidden: true,
            ..self
        }
    }

    /// Whether it is never shown, nor written anywhere.
    pub(crate) fn is_hidden(&self) -> bool {
        self.is_hidden
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

impl PartialEq for Url {
    fn eq(&self, other: &Self) -> bool {
        (&self.origin, &self.target) == (&other.origin, &other.target)
    }
}

impl Eq for Url {}

impl Hash for Url {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.origin, &self.target).hash(state);
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hidden {
            return f.write_str("***");
        }
        write!(f, "{}{}", self.origin, self.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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

/// A text as the value of a query parameter, or of a form's field.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

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
/// What a query parameter's value holds only as `%XX` (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn good_urls_keep_their_bytes() {
        for (text, sent, shown) in [
            ("https://a.io", "https://a.io/", "https://a.io/"),
            (
                "HTTPS://A.Io.:443/V2/",
                "https://a.io/V2/",
                "https://a.io/V2/",
            ),
            ("http://a.io:80?x", "http://a.io/?x", "http://a.io/"),
            ("http://a.io:443/", "http://a.io:443/", "http://a.io:443/"),
            ("https://a.io:80/", "https://a.io:80/", "https://a.io:80/"),
            (
                "https://my_bucket.s3.amazonaws.com/k",
                "https://my_bucket.s3.amazonaws.com/k",
                "https://my_bucket.s3.amazonaws.com/k",
            ),
            (
                "http://127.0.0.1:5000/x",
                "http://127.0.0.1:5000/x",
                "http://127.0.0.1:5000/x",
            ),
            (
                "https://1.2.3.4.example/",
                "https://1.2.3.4.example/",
                "https://1.2.3.4.example/",
            ),
            ("https://0x7f.io/", "https://0x7f.io/", "https://0x7f.io/"),
            (
                "https://[2001:DB8:0:0::1]:8443/",
                "https://[2001:db8::1]:8443/",
                "https://[2001:db8::1]:8443/",
            ),
            (
                "http://[::FFFF:7f00:1]",
                "http://[::ffff:127.0.0.1]/",
                "http://[::ffff:127.0.0.1]/",
            ),
            // E46: nothing in path and query is touched, and a query is not shown.
            (
                "https://a.io/a//b/../%2f%zz+;@:,x?_state=a%3D%3d&sig=/?+&u=http://b#"
                    .trim_end_matches('#'),
                "https://a.io/a//b/../%2f%zz+;@:,x?_state=a%3D%3d&sig=/?+&u=http://b",
                "https://a.io/a//b/../%2f%zz+;@:,x",
            ),
        ] {
            let url = url(text);
            assert_eq!(
                (url.to_request_string(), url.to_string()),
                (sent.into(), shown.into()),
                "{text}"
            );
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(Url::parse(sent), Ok(url.clone()), "{text}");
            read_alike_by_ureq(&url);
        }
    }

    #[track_caller]
    fn read_alike_by_ureq(url: &Url) {
        let text = url.to_request_string();
        let uri: ureq::http::Uri = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let origin = url.origin();
        let port = uri.port_u16().unwrap_or(origin.scheme.default_port());
        assert_eq!(
            uri.scheme_str(),
            Some(origin.scheme.to_string().as_str()),
            "{text}"
        );
        assert_eq!(
            (uri.host(), port),
            (Some(origin.host()), origin.port),
            "{text}"
        );
        assert_eq!(
            uri.path_and_query()
                .map(ureq::http::uri::PathAndQuery::as_str),
            Some(url.target.as_str()),
            "{text}"
        );
    }

    #[test]
    fn what_is_accepted_is_read_alike_by_ureq() {
        let pieces = [
            "a.io",
            "A",
            ".",
            "..",
            "/",
            "//",
            "?",
            "=",
            "&",
            ":",
            ":80",
            ":443",
            ":0",
            "@",
            "[::1]",
            "[",
            "127.0.0.1",
            "0x7f",
            "1",
            "-",
            "_",
            "%2F",
            "%",
            "+",
            "|",
            "{}",
            "^",
            "!$'()*,;~",
            "\"",
            "<",
            "\\",
            "`",
            "#",
            " ",
            "\t",
            "\u{e4}",
        ];
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut accepted = 0;
        for _ in 0..100_000 {
            let mut text = String::from("https://a");
            for _ in 0..5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                text.push_str(pieces[usize::try_from(state % pieces.len() as u64).unwrap()]);
            }
            if let Ok(url) = Url::parse(&text) {
                read_alike_by_ureq(&url);
                assert_eq!(Url::parse(&url.to_request_string()), Ok(url), "{text}");
                accepted += 1;
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn bad_urls_are_refused() {
        let bad_host = |host: &str| UrlError::Host(host.into());
        let bad_port = |port: &str| UrlError::Port(port.into());
        let bad_scheme = |scheme: &str| UrlError::Scheme(scheme.into());
        let long = format!("https://a.io/{}", "x".repeat(8180));
        let label = "a".repeat(64);
        for (text, error) in [
            ("", UrlError::Relative),
            ("/v2/", UrlError::Relative),
            ("a.io/v2/", UrlError::Relative),
            ("//a.io/", UrlError::Relative),
            ("://a.io/", UrlError::Relative),
            ("https:/a.io", UrlError::Relative),
            ("https:a.io", UrlError::Relative),
            ("file:///etc/passwd", bad_scheme("file")),
            ("ftp://a.io/", bad_scheme("ftp")),
            ("null://a.io/", bad_scheme("null")),
            ("httpss://a.io/", bad_scheme("httpss")),
            ("a.io:443/v2", bad_scheme("a.io")),
            ("javascript:alert(1)", bad_scheme("javascript")),
            ("https://u@a.io/", UrlError::UserInfo),
            ("https://u:p@a.io/", UrlError::UserInfo),
            ("https://reg.io:443@evil.io/", UrlError::UserInfo),
            ("https://a.io/#x", UrlError::Fragment),
            ("https://a.io#@evil.io/", UrlError::Fragment),
            ("https://a.io\\@evil.io/", UrlError::Character('\\')),
            ("https://a.io/a b", UrlError::Character(' ')),
            (" https://a.io/", UrlError::Character(' ')),
            ("https://a.io/\r\nX: y", UrlError::Character('\r')),
            ("https://a.io/\t", UrlError::Character('\t')),
            ("https://a.io/\0", UrlError::Character('\0')),
            ("https://a.io/\u{7f}", UrlError::Character('\u{7f}')),
            ("https://ä.io/", UrlError::Character('ä')),
            ("https://a。io/", UrlError::Character('。')),
            ("https://a.io/\u{202e}", UrlError::Character('\u{202e}')),
            ("https://a.io/<x>", UrlError::Character('<')),
            ("https://a.io:0/", bad_port("0")),
            ("https://a.io:65536/", bad_port("65536")),
            ("https://a.io:99999/", bad_port("99999")),
            ("https://a.io:/", bad_port("")),
            ("https://a.io:+80/", bad_port("+80")),
            ("https://a.io:8o/", bad_port("8o")),
            ("https://", bad_host("")),
            ("https:///x", bad_host("")),
            ("https://?x", bad_host("")),
            ("https://./", bad_host(".")),
            ("https://a..b/", bad_host("a..b")),
            ("https://a.io../", bad_host("a.io..")),
            ("https://-a.io/", bad_host("-a.io")),
            ("https://a%2eio/", bad_host("a%2eio")),
            ("https://a.io,b.io/", bad_host("a.io,b.io")),
            ("https://*.io/", bad_host("*.io")),
            (&format!("https://{label}.io/"), bad_host(&label)),
            ("http://[::1/%zz", bad_host("[:")),
            ("https://[::1%25eth0]/", bad_host("[::1%25eth0]")),
            ("https://[::1]x/", bad_port("1]x")),
            ("https://[127.0.0.1]/", bad_host("[127.0.0.1]")),
            ("https://[]/", bad_host("[]")),
            ("https://::1/", bad_host(":")),
            ("https://127.1/", bad_host("127.1")),
            ("https://2130706433/", bad_host("2130706433")),
            ("https://0x7f.1/", bad_host("0x7f.1")),
            ("https://0x7F000001/", bad_host("0x7F000001")),
            ("https://127.0.0.0x1/", bad_host("127.0.0.0x1")),
            ("https://0177.0.0.1/", bad_host("0177.0.0.1")),
            ("https://127.0.0.01/", bad_host("127.0.0.01")),
            ("https://256.0.0.1/", bad_host("256.0.0.1")),
            ("https://1.2.3.4.5/", bad_host("1.2.3.4.5")),
            ("https://evil.1/", bad_host("evil.1")),
            ("https://0x/", bad_host("0x")),
            (&long, UrlError::TooLong(8193)),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(
            Url::new(Scheme::Https, "a.io/x", "/"),
            Err(bad_host("a.io/x"))
        );
        assert_eq!(
            Url::new(Scheme::Https, "a.io", "v2/"),
            Err(UrlError::Relative)
        );
        assert_eq!(
            Url::new(Scheme::Http, "a.io:5000", "/v2/?n=1"),
            Ok(url("http://a.io:5000/v2/?n=1"))
        );
    }

    #[test]
    fn references_join_without_leaving_their_server_unasked() {
        let base = url("https://reg.io:5000/v2/a/b?x=/y");
        for (reference, joined) in [
            ("https://cdn.io/x?y", "https://cdn.io/x?y"),
            ("HTTP://cdn.io", "http://cdn.io/"),
            ("//cdn.io:80/x", "https://cdn.io:80/x"),
            ("/x/y?z=1", "https://reg.io:5000/x/y?z=1"),
            ("?z", "https://reg.io:5000/v2/a/b?z"),
            ("c", "https://reg.io:5000/v2/a/c"),
            ("c/d:e", "https://reg.io:5000/v2/a/c/d:e"),
            ("./c", "https://reg.io:5000/v2/a/c"),
            ("../c?u=../d", "https://reg.io:5000/v2/c?u=../d"),
            (".././../../../c", "https://reg.io:5000/c"),
            (".//evil.io/x", "https://reg.io:5000/v2/a//evil.io/x"),
            ("..//evil.io/x", "https://reg.io:5000/v2//evil.io/x"),
            // Opaque from the first real component on.
            ("c/../d", "https://reg.io:5000/v2/a/c/../d"),
            (
                "/v2/../../x/%2e%2e/y",
                "https://reg.io:5000/v2/../../x/%2e%2e/y",
            ),
        ] {
            assert_eq!(
                base.join(reference).map(|url| url.to_request_string()),
                Ok(joined.into()),
                "{reference}"
            );
        }
        for (reference, error) in [
            ("", UrlError::Empty),
            ("mailto:x", UrlError::Scheme("mailto".into())),
            ("https:c", UrlError::Relative),
            ("//u@cdn.io/", UrlError::UserInfo),
            ("//", UrlError::Host(String::new())),
            ("/\\evil.io", UrlError::Character('\\')),
            ("c#d", UrlError::Fragment),
            ("c d", UrlError::Character(' ')),
        ] {
            assert_eq!(base.join(reference), Err(error), "{reference}");
        }
    }

    #[test]
    fn query_parameters_are_added_and_nothing_else_changes() {
        for (text, sent) in [
            (
                "https://a.io/u/1",
                "https://a.io/u/1?digest=sha256%3Aab%2B%2F%20%25%C3%A4-._~9",
            ),
            (
                "https://a.io/u?_s=a%3d/+",
                "https://a.io/u?_s=a%3d/+&digest=sha256%3Aab%2B%2F%20%25%C3%A4-._~9",
            ),
        ] {
            let url = url(text).with_query_parameter("digest", "sha256:ab+/ %ä-._~9");
            assert_eq!(url.to_request_string(), sent);
        }
        assert_eq!(url("https://a.io/u?a?b").query(), Some("a?b"));
        assert_eq!(url("https://a.io/u").query(), None);
        assert_eq!(
            url("https://[::1]/").origin().address(),
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
        );
        assert_eq!(
            url("http://10.0.0.1:1/").origin().address(),
            Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))
        );
        assert_eq!(url("https://a.io/").origin().address(), None);
    }

    /// The judgement in words: the URL that is asked with `+` where credentials go along, or the rule it breaks.
    fn judged(
        registry: &str,
        insecure: bool,
        current: &str,
        reference: &str,
        purpose: Purpose,
    ) -> String {
        match judge(&url(registry), insecure, &url(current), reference, purpose) {
            Ok(Verdict { url, credentials }) => {
                format!(
                    "{}{}",
                    if credentials { "+" } else { "" },
                    url.to_request_string()
                )
            }
            Err(UrlError::Refused(why, _)) => format!("{why:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn https_is_never_left() {
        use Purpose::{Page, Realm, Redirect, Upload};
        let registry = "https://reg.io:8443/";
        for purpose in [Redirect, Upload, Realm] {
            for insecure in [false, true] {
                for (reference, verdict) in [
                    // G15: the same server behind a proxy that ends TLS.
                    ("http://reg.io/x?y", "+https://reg.io:8443/x?y"),
                    ("http://reg.io:8443/x", "+https://reg.io:8443/x"),
                    ("http://REG.io.:80/x", "+https://reg.io:8443/x"),
                    ("http://reg.io:5000/x", "Downgrade"),
                    ("http://cdn.io/x", "Downgrade"),
                    ("http://reg.io.evil/x", "Downgrade"),
                ] {
                    assert_eq!(
                        judged(registry, insecure, registry, reference, purpose),
                        verdict,
                        "{reference}"
                    );
                }
            }
        }
        // The storage host's own wrong scheme is put right too, but it is not the registry.
        let storage = "https://cdn.io/x";
        for purpose in [Redirect, Upload] {
            assert_eq!(
                judged(registry, false, storage, "http://cdn.io/y", purpose),
                "https://cdn.io/y"
            );
            assert_eq!(
                judged(registry, false, storage, "http://reg.io/y", purpose),
                "Downgrade"
            );
        }
        // A page goes by path and query alone.
        for (reference, verdict) in [
            (
                "/v2/a/tags/list?n=1&last=%2f",
                "+https://reg.io:8443/v2/a/tags/list?n=1&last=%2f",
            ),
            ("https://reg.io:8443/x", "+https://reg.io:8443/x"),
            ("http://reg.io:8081/x", "+https://reg.io:8443/x"),
            ("https://reg.io/x", "+https://reg.io:8443/x"),
            ("https://cdn.io/x", "OtherHost"),
            ("//cdn.io/x", "OtherHost"),
        ] {
            assert_eq!(
                judged(registry, false, registry, reference, Page),
                verdict,
                "{reference}"
            );
        }
        assert_eq!(
            judged(
                registry,
                false,
                "https://mirror.io/v2/a/tags/list",
                "?last=b",
                Page
            ),
            "https://mirror.io/v2/a/tags/list?last=b"
        );
    }

    #[test]
    fn realms() {
        for (registry, insecure, current, realm, verdict) in [
            (
                "https://registry-1.docker.io/",
                false,
                "https://registry-1.docker.io/v2/",
                "https://auth.docker.io/token",
                "+https://auth.docker.io/token",
            ),
            (
                "https://reg.io/",
                false,
                "https://reg.io/v2/x",
                "/service/token",
                "+https://reg.io/service/token",
            ),
            (
                "https://reg.io/",
                false,
                "https://reg.io/v2/x",
                "https://reg.io:5001/auth",
                "+https://reg.io:5001/auth",
            ),
            (
                "https://reg.io/",
                true,
                "https://reg.io/v2/x",
                "http://reg.io:5001/auth",
                "Downgrade",
            ),
            // A challenge of the storage host is not the registry's.
            (
                "https://reg.io/",
                false,
                "https://cdn.io/blob",
                "https://reg.io/token",
                "ForeignChallenge",
            ),
            (
                "https://reg.io/",
                false,
                "https://cdn.io/blob",
                "/token",
                "ForeignChallenge",
            ),
            (
                "http://reg.io:5000/",
                true,
                "http://reg.io:5001/blob",
                "/token",
                "ForeignChallenge",
            ),
            // In the clear only beside a registry that is allowed to be.
            (
                "http://reg.io:5000/",
                true,
                "http://reg.io:5000/v2/x",
                "http://reg.io:5001/auth",
                "+http://reg.io:5001/auth",
            ),
            (
                "http://reg.io:5000/",
                true,
                "http://reg.io:5000/v2/x",
                "/auth",
                "+http://reg.io:5000/auth",
            ),
            (
                "http://reg.io:5000/",
                true,
                "http://reg.io:5000/v2/x",
                "http://auth.reg.io/",
                "PlainRealm",
            ),
            (
                "http://reg.io:5000/",
                true,
                "http://reg.io:5000/v2/x",
                "https://auth.reg.io/",
                "+https://auth.reg.io/",
            ),
            (
                "http://reg.io:5000/",
                false,
                "http://reg.io:5000/v2/x",
                "/auth",
                "PlainRealm",
            ),
            (
                "https://reg.io/",
                false,
                "https://reg.io/v2/x",
                "null://reg.io/token",
                "null:// is neither http nor https",
            ),
        ] {
            assert_eq!(
                judged(registry, insecure, current, realm, Purpose::Realm),
                verdict,
                "{registry} {current} {realm}"
            );
        }
    }

    /// S02: six places where a registry names a URL, eight forms of hosts, three kinds of registries.
    #[test]
    fn credentials_stay_with_the_registry() {
        let mut cases = 0;
        for (registry, port) in [
            ("https://reg.io", ""),
            ("https://reg.io:8443", ":8443"),
            ("http://reg.io:5000", ":5000"),
        ] {
            let registry = url(registry);
            let scheme = registry.origin().scheme;
            let at = |path: &str| registry.join(path).unwrap();
            let storage = Url::new(scheme, "cdn.net", "/blob").unwrap();
            for (authority, home, same_host) in [
                (format!("evil.io{port}"), false, false),
                ("reg.io:444".to_owned(), false, true),
                (format!("cdn.reg.io{port}"), false, false),
                (format!("reg.io.evil{port}"), false, false),
                (format!("REG.iO{port}"), true, true),
                (format!("reg.io.{port}"), true, true),
                (format!("[2001:db8::1]{port}"), false, false),
                (format!("xn--rg-eia.io{port}"), false, false),
            ] {
                let encrypted = scheme == Scheme::Https;
                for (current, purpose, allowed, credentials) in [
                    (at("/v2/a/blobs/x"), Purpose::Redirect, true, home),
                    (storage.clone(), Purpose::Redirect, true, home),
                    (
                        at("/v2/a/blobs/uploads/"),
                        Purpose::Upload,
                        encrypted || same_host,
                        home,
                    ),
                    (at("/"), Purpose::Upload, encrypted || same_host, home),
                    (at("/v2/a/tags/list"), Purpose::Page, same_host, same_host),
                    (at("/v2/"), Purpose::Realm, encrypted || same_host, true),
                ] {
                    cases += 1;
                    let reference = format!("{scheme}://{authority}/x?y=1");
                    let case = format!("{registry} {current} {reference} {purpose:?}");
                    match judge(&registry, !encrypted, &current, &reference, purpose) {
                        Ok(verdict) => {
                            assert_eq!(
                                (true, verdict.credentials),
                                (allowed, credentials),
                                "{case}"
                            );
                            let stays = verdict.url.origin() == registry.origin();
                            assert!(
                                stays || !verdict.credentials || purpose == Purpose::Realm,
                                "{case}"
                            );
                            assert_eq!(verdict.url.query(), Some("y=1"), "{case}");
                        }
                        Err(error) => assert!(!allowed, "{case}: {error}"),
                    }
                }
            }
        }
        assert_eq!(cases, 144);
    }

    /// What names resolve to in the next test; one of them does so differently each time it is asked.
    fn resolve(origin: &Origin) -> Vec<IpAddr> {
        if let Some(address) = origin.address() {
            return vec![address];
        }
        let addresses = match origin.host() {
            "registry.example" => "93.184.216.34 2606:2800:220:1::1",
            "harbor.lan" | "minio.lan" => "10.0.0.5",
            "storage.example" => "203.0.114.7",
            "localhost" | "127.0.0.1.nip.io" => "127.0.0.1",
            "v6.localhost" => "::1",
            "metadata.example" => "169.254.169.254",
            "rebind.example" => "203.0.114.8 127.0.0.1",
            "mapped.example" => "::ffff:127.0.0.1",
            "nat64.example" => "64:ff9b::7f00:1",
            other => panic!("{other} is in no zone"),
        };
        addresses
            .split(' ')
            .map(|address| address.parse().unwrap())
            .collect()
    }

    /// S04: no registry leads us into a place that it is not in itself, however the place is written.
    #[test]
    fn no_way_into_this_machine_or_network() {
        use AddressClass::{
            LinkLocal, Loopback, Metadata, Multicast, Private, Public, Unspecified,
        };
        let hosts = [
            (
                Public,
                "storage.example 172.32.0.1 100.128.0.1 11.0.0.1 [2606:4700::1111] [::ffff:8.8.8.8]",
            ),
            (
                Private,
                "minio.lan 10.0.0.9 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 [fd12::1] [fec0::1] [::ffff:10.0.0.9]",
            ),
            (
                Loopback,
                "localhost localhost. LOCALHOST v6.localhost 127.0.0.1 127.8.9.1 127.0.0.1. [::1] [0:0::1] \
                [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] [::127.0.0.1] 127.0.0.1.nip.io \
                rebind.example mapped.example nat64.example",
            ),
            (LinkLocal, "169.254.1.1 [fe80::1]"),
            (Unspecified, "0.0.0.0 [::] [::ffff:0.0.0.0]"),
            (Multicast, "224.0.0.1 255.255.255.255 240.0.0.1 [ff02::1]"),
            (
                Metadata,
                "169.254.169.254 metadata.example [fd00:ec2::254] 100.100.100.200 [::ffff:169.254.169.254]",
            ),
        ];
        let unreadable = "127.1 127.0.1 2130706433 0x7f000001 0x7f.1 017700000001 0177.0.0.1 127.0.0.01 0x7f.0.0.0x1 \
            [::1%25lo] 0 0x0 3232235777 0xa9fea9fe 169.254.43518 [::ffff:127.1]";
        let registries = [
            ("https://registry.example", Public),
            ("https://harbor.lan", Private),
            ("http://127.0.0.1:5000", Loopback),
        ];
        let mut rows = 0;
        for (registry, place) in registries {
            let registry = url(registry);
            let own = resolve(registry.origin());
            for purpose in [Purpose::Redirect, Purpose::Upload, Purpose::Realm] {
                for (class, names) in hosts {
                    let allowed = match class {
                        Public => true,
                        Private => place != Public,
                        _ => place == class,
                    };
                    for host in names.split_whitespace() {
                        rows += 1;
                        let verdict = judge(
                            &registry,
                            place == Loopback,
                            &registry,
                            &format!("https://{host}/x"),
                            purpose,
                        )
                        .unwrap();
                        let result = check_addresses(&own, &resolve(verdict.url.origin()));
                        let refused =
                            matches!(result, Err(UrlError::Address(_, found)) if found == class);
                        assert!(
                            result.is_ok() == allowed && refused != allowed,
                            "{registry} {purpose:?} {host}: {result:?}"
                        );
                    }
                }
                for host in unreadable.split_whitespace() {
                    rows += 1;
                    let result = judge(
                        &registry,
                        true,
                        &registry,
                        &format!("https://{host}/x"),
                        purpose,
                    );
                    assert_eq!(
                        result,
                        Err(UrlError::Host(host.into())),
                        "{registry} {purpose:?}"
                    );
                }
            }
        }
        assert!(rows >= 200, "{rows}");
        // Behind a proxy nothing is known of the registry: it counts as public.
        assert!(check_addresses(&[], &["10.0.0.1".parse().unwrap()]).is_err());
        assert_eq!(check_addresses(&[], &["8.8.8.8".parse().unwrap()]), Ok(()));
    }
}
