//! Connections that did not come about or broke: ureq's errors as what they mean here. Not here: answers.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::SystemTime;

use ureq::Timeout;

use super::network::{LookupError, Proxy};
use super::rate::Interrupted;
use super::url::UrlError;
use crate::store::Class;

/// A connection that did not come about or broke.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) kind: Break,
    pub(super) cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Transport {
    pub(super) fn new(kind: Break) -> Self {
        Self { kind, cause: None }
    }

    /// The same of a request that went through a proxy. What fails before there is TLS is the proxy's word, and the only
    /// name that was looked up is its own.
    pub(super) fn through(self, proxy: &Proxy) -> Self {
        let status = match self.kind {
            Break::Lookup { .. } | Break::Refused | Break::NoRoute | Break::ConnectTimeout => None,
            Break::Other if proxy.is_socks() => None,
            Break::Proxy { status, .. } => status,
            _ => return self,
        };
        let proxy = proxy.to_string();
        Self {
            kind: Break::Proxy { proxy, status },
            ..self
        }
    }

    /// What it means for what comes next (protocol.md 6.1).
    pub(super) fn class(&self) -> Class {
        match self.kind {
            Break::Lookup { .. } | Break::Refused | Break::NoRoute | Break::ConnectTimeout => {
                Class::Unreachable
            }
            Break::Proxy { status, .. } if status.is_some_and(is_proxys_rule) => Class::Permanent,
            Break::Proxy { .. } => Class::Unreachable,
            Break::Address
            | Break::NotTls
            | Break::Certificate { .. }
            | Break::ClientCertificate
            | Break::Handshake
            | Break::Tls
            | Break::Malformed
            | Break::Interrupted => Class::Permanent,
            Break::Timeout | Break::Closed | Break::Slow | Break::Files | Break::Other => {
                Class::Transient
            }
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Break::Lookup { host } => write!(
                f,
                "no address for {host} (the name servers are those of /etc/resolv.conf)"
            ),
            Break::Address => f.write_str("the registry names a host that is not connected to"),
            Break::Refused | Break::NoRoute => f.write_str("no connection"),
            Break::ConnectTimeout => f.write_str("no connection in time"),
            Break::Proxy { proxy, status } => {
                write!(f, "no connection through the proxy {proxy}")?;
                match status {
                    Some(407) => f.write_str(
                        " (it wants a login: write it into its URL, http://USER:PASSWORD@HOST:PORT)",
                    ),
                    Some(status) if is_proxys_rule(*status) => f.write_str(
                        " (it must allow CONNECT to this host and port; NO_PROXY, or `proxy: none` in the `auth` \
                         entry, leads past it)",
                    ),
                    _ => Ok(()),
                }
            }
            Break::NotTls => f.write_str(
                "the registry does not speak https: if plain http is meant, set `plain_http: true` or `insecure: true` for \
                 it",
            ),
            Break::Certificate { remedy } => {
                f.write_str("the certificate is not accepted")?;
                match remedy {
                    CertificateRemedy::Trust => f.write_str(
                        " (name its authority, or the certificate itself, by `ca` in the registry's `auth` entry or by \
                         SSL_CERT_FILE; or set `insecure: true` for the registry)",
                    ),
                    CertificateRemedy::Clock => write!(
                        f,
                        " (the local clock says {}; if that is right, the registry must be given a new certificate)",
                        humantime::format_rfc3339_seconds(SystemTime::now())
                    ),
                    CertificateRemedy::Name => f.write_str(
                        " (address the registry by a name that its certificate has, or have one made for this name)",
                    ),
                    CertificateRemedy::None => Ok(()),
                }
            }
            Break::ClientCertificate => f.write_str(
                "the registry wants a client certificate that it knows: name one by `cert` and `key` in its `auth` entry",
            ),
            Break::Tls => f.write_str("no TLS connection"),
            Break::Handshake => f.write_str(
                "the registry agrees to no TLS connection: it may want a client certificate, which `cert` and `key` in its \
                 `auth` entry name, or speak old TLS only",
            ),
            Break::Malformed => f.write_str("the answer is not HTTP"),
            Break::Timeout => f.write_str("no answer in time"),
            Break::Closed => f.write_str("the connection was closed"),
            Break::Slow => f.write_str("less than 1 KiB/s for a minute"),
            Break::Interrupted => Interrupted.fmt(f),
            Break::Files => f.write_str(
                "no more connections can be open here (lower --proc, or raise the limit of open files, `ulimit -n`)",
            ),
            Break::Other => f.write_str("the transfer failed"),
        }
    }
}

/// How a connection failed.
#[derive(Debug)]
pub(super) enum Break {
    /// The name has no address.
    Lookup {
        /// The name.
        host: String,
    },
    /// A host chosen by the registry is at an address that is not for it to choose (S04).
    Address,
    /// Nothing listens.
    Refused,
    /// No way there.
    NoRoute,
    /// No connection, TLS included, within its limit.
    ConnectTimeout,
    /// There is none to the proxy, or it made none.
    Proxy {
        /// As it is shown.
        proxy: String,
        /// What it answered.
        status: Option<u16>,
    },
    /// Something else than TLS came back.
    NotTls,
    /// The certificate.
    Certificate {
        /// What can be done about it.
        remedy: CertificateRemedy,
    },
    /// Ours is missing, or not accepted.
    ClientCertificate,
    /// The other side found nothing in ours that it agrees to; with TLS 1.2 that may be a missing certificate of ours.
    Handshake,
    /// TLS could not be agreed on.
    Tls,
    /// No HTTP, or more headers than are read.
    Malformed,
    /// A limit of one read or write, or of the answer's headers.
    Timeout,
    /// Reset, or ended before its end.
    Closed,
    /// Below the floor (D7).
    Slow,
    /// The run ends early.
    Interrupted,
    /// This process, or the system, has all the files open that it may have.
    Files,
    /// Any other failure of a socket.
    Other,
}

/// What helps against a certificate that is not accepted.
#[derive(Debug)]
pub(super) enum CertificateRemedy {
    /// Its authority is not known here.
    Trust,
    /// It is not valid at this time.
    Clock,
    /// It is one of somebody else.
    Name,
    /// Nothing on this side.
    None,
}

/// What ureq's error says about the connection.
pub(super) fn transport(error: ureq::Error) -> Transport {
    let kind = match error {
        ureq::Error::Io(error) => return socket_broken(error),
        ureq::Error::Other(cause) => return refused_by_resolver(cause),
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => Break::ConnectTimeout,
        ureq::Error::Timeout(_) => Break::Timeout,
        ureq::Error::ConnectProxyFailed(ref answer) => Break::Proxy {
            proxy: String::new(),
            status: proxy_status(answer),
        },
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => Break::NoRoute,
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) | ureq::Error::Http(_) => {
            Break::Malformed
        }
        _ => Break::Other,
    };
    Transport {
        kind,
        cause: Some(Box::new(error)),
    }
}

/// A body that broke: its head was fine, so what is wrong now may be right the next time.
pub(super) fn body_broken(error: io::Error) -> Transport {
    let broken = transport(ureq::Error::from(error));
    match broken.kind {
        Break::Timeout => broken,
        _ => Transport {
            kind: Break::Closed,
            ..broken
        },
    }
}

fn socket_broken(error: io::Error) -> Transport {
    use io::ErrorKind as Kind;
    let inner = error.get_ref();
    if matches!(inner, Some(inner) if inner.is::<Interrupted>()) {
        return Transport::new(Break::Interrupted);
    }
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let kind = match (tls, error.kind()) {
        (Some(error), _) => tls_broken(error),
        (None, Kind::ConnectionRefused) => Break::Refused,
        (None, _) if matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) => Break::Files,
        (
            None,
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable,
        ) => Break::NoRoute,
        (
            None,
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::NotConnected,
        ) => Break::Closed,
        (None, Kind::TimedOut | Kind::WouldBlock) => Break::Timeout,
        _ => Break::Other,
    };
    Transport {
        kind,
        cause: Some(Box::new(error)),
    }
}

fn tls_broken(error: &rustls::Error) -> Break {
    use rustls::AlertDescription as Alert;
    use rustls::CertificateError as Certificate;
    use rustls::Error as Tls;
    match error {
        Tls::InvalidMessage(_) => Break::NotTls,
        Tls::InvalidCertificate(certificate) => Break::Certificate {
            remedy: match certificate {
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => CertificateRemedy::Clock,
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    CertificateRemedy::Name
                }
                // The latter is one that claims to be an authority itself.
                Certificate::UnknownIssuer | Certificate::Other(_) => CertificateRemedy::Trust,
                _ => CertificateRemedy::None,
            },
        },
        // What servers say to a client without a certificate, or with one that they do not know; TLS 1.2 and Go's and
        // OpenSSL's servers have other words for it than TLS 1.3.
        Tls::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied,
        ) => Break::ClientCertificate,
        Tls::AlertReceived(Alert::HandshakeFailure) => Break::Handshake,
        Tls::AlertReceived(_)
        | Tls::PeerIncompatible(_)
        | Tls::PeerMisbehaved(_)
        | Tls::NoCertificatesPresented => Break::Tls,
        _ => Break::Closed,
    }
}

/// Whether a proxy says no for good: a login that is missing, or a rule. A proxy that has too much to do has neither.
fn is_proxys_rule(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}

/// The status in what ureq says of a proxy's answer: `proxy server responded 407/407`.
fn proxy_status(answer: &str) -> Option<u16> {
    answer.rsplit('/').next()?.parse().ok()
}

fn refused_by_resolver(cause: Box<dyn Error + Send + Sync>) -> Transport {
    match cause.downcast::<LookupError>() {
        Ok(error) => Transport {
            kind: Break::Lookup { host: error.host },
            cause: Some(Box::new(error.cause)),
        },
        Err(cause) => Transport {
            kind: if cause.is::<UrlError>() {
                Break::Address
            } else {
                Break::Other
            },
            cause: Some(cause),
        },
    }
}

/// The numbers of these errors on every Unix, for which the standard library has no kind.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, InvalidMessage};

    use super::*;
    use crate::store::Class::{Permanent, Transient, Unreachable};

    fn io(kind: io::ErrorKind) -> ureq::Error {
        ureq::Error::Io(kind.into())
    }

    fn tls(error: rustls::Error) -> ureq::Error {
        ureq::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn proxy(answer: &str) -> ureq::Error {
        ureq::Error::ConnectProxyFailed(answer.into())
    }

    #[track_caller]
    fn check(error: ureq::Error, class: Class, text: &str) {
        let broken = transport(error);
        assert_eq!(broken.class(), class, "{broken:?}");
        assert!(broken.to_string().contains(text), "{broken:?}");
    }

    #[test]
    fn failures_have_classes_and_remedies() {
        let lookup = LookupError {
            host: "r.example".into(),
            cause: io::Error::other("Try again"),
        };
        let refused = ureq::Error::Other(Box::new(UrlError::Empty));
        let interrupted = ureq::Error::Io(Interrupted.into());
        let no_files = ureq::Error::Io(io::Error::from_raw_os_error(24));
        for (error, class, text) in [
            (
                io(io::ErrorKind::ConnectionRefused),
                Unreachable,
                "no connection",
            ),
            (
                io(io::ErrorKind::NetworkUnreachable),
                Unreachable,
                "no connection",
            ),
            (
                ureq::Error::Timeout(Timeout::Connect),
                Unreachable,
                "in time",
            ),
            (
                ureq::Error::Other(Box::new(lookup)),
                Unreachable,
                "/etc/resolv.conf",
            ),
            (proxy("proxy server did not respond"), Unreachable, "proxy"),
            (
                proxy("proxy server responded 502/502"),
                Unreachable,
                "proxy",
            ),
            (
                proxy("proxy server responded 429/429"),
                Unreachable,
                "proxy",
            ),
            (
                proxy("proxy server responded 407/407"),
                Permanent,
                "USER:PASSWORD@",
            ),
            (
                proxy("proxy server responded 403/403"),
                Permanent,
                "allow CONNECT",
            ),
            (refused, Permanent, "not connected to"),
            (interrupted, Permanent, "interrupted"),
            (io(io::ErrorKind::ConnectionReset), Transient, "closed"),
            (io(io::ErrorKind::UnexpectedEof), Transient, "closed"),
            (
                ureq::Error::Timeout(Timeout::PerRead),
                Transient,
                "no answer in time",
            ),
            (
                ureq::Error::LargeResponseHeader(9, 8),
                Permanent,
                "not HTTP",
            ),
            (no_files, Transient, "ulimit -n"),
        ] {
            check(error, class, text);
        }
    }

    #[test]
    fn failures_of_tls_have_classes_and_remedies() {
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        let (required, version) = (
            AlertDescription::CertificateRequired,
            AlertDescription::ProtocolVersion,
        );
        for (error, class, text) in [
            (plain, Permanent, "insecure: true"),
            (
                CertificateError::UnknownIssuer.into(),
                Permanent,
                "SSL_CERT_FILE",
            ),
            (CertificateError::Expired.into(), Permanent, "local clock"),
            (
                CertificateError::NotValidForName.into(),
                Permanent,
                "that its certificate has",
            ),
            (CertificateError::Revoked.into(), Permanent, "not accepted"),
            (
                rustls::Error::AlertReceived(required),
                Permanent,
                "`cert` and `key`",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
                Permanent,
                "may want a client certificate",
            ),
            (
                rustls::Error::AlertReceived(version),
                Permanent,
                "no TLS connection",
            ),
            (rustls::Error::DecryptError, Transient, "closed"),
        ] {
            check(tls(error), class, text);
        }
    }

    #[test]
    fn a_limit_inside_a_body_is_found_in_its_wrapping() {
        let wrapped = ureq::Error::Timeout(Timeout::PerRead).into_io();
        assert!(matches!(body_broken(wrapped).kind, Break::Timeout));
        let chunk = ureq::Error::LargeResponseHeader(9, 8).into_io();
        assert!(matches!(body_broken(chunk).kind, Break::Closed));
    }
}
