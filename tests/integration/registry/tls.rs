//! Certificates made for one test, and the TLS that a fake registry or proxy can be put behind. Not here: who accepts
//! which of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::server::{lock, spawn};

/// Somebody who signs certificates.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (mut params, key) = (params(&[]), new_key());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("no authority");
        Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate as PEM.
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A certificate for these names and addresses, or for a client.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(&params(names))
    }

    /// The same, over since the last year of the last millennium.
    pub(crate) fn sign_expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        params.not_before = date_time_ymd(1999, 1, 1);
        params.not_after = date_time_ymd(2000, 1, 1);
        self.sign_with(&params)
    }

    fn sign_with(&self, params: &CertificateParams) -> Identity {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("not signed");
        Identity {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }
}

impl Identity {
    /// One that nobody else has signed. It may claim to be an authority, as those of `openssl req -x509` do.
    pub(crate) fn self_signed(names: &[&str], claims_authority: bool) -> Self {
        let (mut params, key) = (params(names), new_key());
        if claims_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).expect("not signed");
        Self {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// The certificate as PEM.
    pub(crate) fn cert_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The key as PEM.
    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }

    /// Both in one.
    pub(crate) fn both(&self) -> String {
        self.key_pem() + &self.cert_pem()
    }

    /// A server that shows this, and wants a certificate of one of these authorities, if any are given.
    pub(crate) fn server(&self, clients: &[&Authority]) -> Arc<ServerConfig> {
        let mut known = RootCertStore::empty();
        for client in clients {
            known.add(client.certificate.clone()).expect("no authority");
        }
        let builder = if clients.is_empty() {
            ServerConfig::builder().with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder(Arc::new(known)).build();
            ServerConfig::builder().with_client_cert_verifier(verifier.expect("no verifier"))
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = builder.with_single_cert(vec![self.certificate.clone()], key);
        Arc::new(config.expect("certificate and key do not fit"))
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("not a name")
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("no key")
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line) + "\n")
        .collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// TLS before a server that speaks none. It ends when it is dropped.
pub(crate) struct Front {
    addr: String,
    is_over: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Front {
    /// Takes what comes in at `listener` to `inner`.
    pub(crate) fn start(listener: TcpListener, inner: String, config: Arc<ServerConfig>) -> Self {
        let front = Self {
            addr: listener.local_addr().expect("no address").to_string(),
            is_over: Arc::default(),
            streams: Arc::default(),
        };
        let (is_over, streams) = (Arc::clone(&front.is_over), Arc::clone(&front.streams));
        spawn(move || {
            for outside in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(inside) = TcpStream::connect(&inner) else {
                    break;
                };
                let copies = [&outside, &inside].map(|stream| stream.try_clone().expect("no copy"));
                lock(&streams).extend(copies);
                let config = Arc::clone(&config);
                // A connection that breaks off is the other side's affair.
                spawn(move || drop(serve(&outside, &inside, config)));
            }
        });
        front
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.addr));
        for stream in lock(&self.streams).iter() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// What one of the two sides has sent; nothing at its end.
enum Came {
    FromOutside(Vec<u8>),
    FromInside(Vec<u8>),
}

/// One connection: two threads read, this one alone has the state of TLS.
fn serve(outside: &TcpStream, inside: &TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let (sender, came) = mpsc::channel();
    let other = sender.clone();
    let (from_outside, from_inside) = (outside.try_clone()?, inside.try_clone()?);
    spawn(move || pump(from_outside, &sender, Came::FromOutside));
    spawn(move || pump(from_inside, &other, Came::FromInside));
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let outcome = came.iter().try_for_each(|came| {
        match came {
            Came::FromOutside(bytes) if bytes.is_empty() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Came::FromOutside(bytes) => {
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    tls.read_tls(&mut bytes)?;
                    let state = tls.process_new_packets();
                    // An alert goes out before the connection ends.
                    while tls.wants_write() {
                        tls.write_tls(&mut &*outside)?;
                    }
                    let mut plain =
                        vec![0; state.map_err(io::Error::other)?.plaintext_bytes_to_read()];
                    tls.reader().read_exact(&mut plain)?;
                    (&*inside).write_all(&plain)?;
                }
            }
            Came::FromInside(bytes) if bytes.is_empty() => tls.send_close_notify(),
            Came::FromInside(bytes) => tls.writer().write_all(&bytes)?,
        }
        while tls.wants_write() {
            tls.write_tls(&mut &*outside)?;
        }
        Ok(())
    });
    drop(inside.shutdown(Shutdown::Both));
    // What was said last must arrive: the other side closes when it has read it.
    drop(outside.shutdown(Shutdown::Write));
    outcome
}

fn pump(mut stream: TcpStream, to: &Sender<Came>, as_what: fn(Vec<u8>) -> Came) {
    let mut chunk = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut chunk).unwrap_or_default();
        if to.send(as_what(chunk[..count].to_vec())).is_err() || count == 0 {
            return;
        }
    }
}
