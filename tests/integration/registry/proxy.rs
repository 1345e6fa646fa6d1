//! A proxy in this process: it takes connections by CONNECT or SOCKS5 to where the test says that a name leads, counts
//! them, and refuses on demand. Not here: who is sent through it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::server::{lock, spawn};

/// A running proxy. It stops when it is dropped.
pub(crate) struct FakeProxy {
    addr: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// `HOST:PORT` as it is asked for, and where that is.
    routes: Vec<(String, String)>,
    /// The login that it wants, as `USER:PASSWORD`.
    login: Option<String>,
    /// The status that it answers to everything.
    refuses_with: Option<u16>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: Vec<String>,
    is_over: bool,
    streams: Vec<TcpStream>,
}

impl FakeProxy {
    /// One to which these names lead somewhere. With a login it wants that from all.
    pub(crate) fn new(routes: &[(&str, &str)], login: Option<&str>) -> Self {
        let routes = routes
            .iter()
            .map(|(name, addr)| ((*name).into(), (*addr).into()));
        Self::start(Shared {
            routes: routes.collect(),
            login: login.map(Into::into),
            ..Shared::default()
        })
    }

    /// One that answers this to everything.
    pub(crate) fn refusing(status: u16) -> Self {
        Self::start(Shared {
            refuses_with: Some(status),
            ..Shared::default()
        })
    }

    fn start(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("no loopback port");
        let addr = listener.local_addr().expect("no address").to_string();
        let shared = Arc::new(shared);
        let proxy = Self {
            addr,
            shared: Arc::clone(&shared),
        };
        spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.seen().is_over {
                    break;
                }
                let shared = Arc::clone(&shared);
                // Who asked sees what became of it.
                spawn(move || drop(shared.serve(stream)));
            }
        });
        proxy
    }

    /// `ADDRESS:PORT`
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// The names that were asked for, one a connection.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.seen().asked.clone()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.shared.seen().is_over = true;
        drop(TcpStream::connect(&self.addr));
        for stream in &self.shared.seen().streams {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut first = [0];
        client.read_exact(&mut first)?;
        let inner = if first == [5] {
            let name = read_socks(&mut client)?;
            let inner = self.connect(&name)?;
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            inner
        } else {
            let mut head = first.to_vec();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte)?;
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let name = head
                .strip_prefix("CONNECT ")
                .and_then(|rest| rest.split(' ').next());
            let wanted = self
                .login
                .as_ref()
                .map(|login| format!("Basic {}", STANDARD.encode(login)));
            let given = head
                .lines()
                .find_map(|line| line.strip_prefix("Proxy-Authorization: "));
            let status = match name {
                None => Some(405),
                Some(_) if wanted.is_some() && wanted.as_deref() != given => Some(407),
                Some(_) => self.refuses_with,
            };
            let name = name.unwrap_or_default();
            if let Some(status) = status {
                self.seen().asked.push(name.into());
                return client.write_all(format!("HTTP/1.1 {status} No\r\n\r\n").as_bytes());
            }
            let inner = self.connect(name)?;
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            inner
        };
        let copies = [client.try_clone()?, inner.try_clone()?];
        self.seen().streams.extend(copies);
        let (from_client, to_inner) = (client.try_clone()?, inner.try_clone()?);
        spawn(move || pass(from_client, to_inner));
        pass(inner, client);
        Ok(())
    }

    fn connect(&self, name: &str) -> io::Result<TcpStream> {
        self.seen().asked.push(name.into());
        let route = self.routes.iter().find(|(known, _)| known == name);
        TcpStream::connect(&route.ok_or(io::ErrorKind::NotFound)?.1)
    }
}

/// The name and port that a client of SOCKS5 asks for, without a login (RFC 1928).
fn read_socks(client: &mut TcpStream) -> io::Result<String> {
    let mut methods = [0];
    client.read_exact(&mut methods)?;
    client.read_exact(&mut vec![0; methods[0].into()])?;
    client.write_all(&[5, 0])?;
    let mut head = [0; 5];
    client.read_exact(&mut head)?;
    assert_eq!(head[..4], [5, 1, 0, 3], "not a connection to a name");
    let mut name = vec![0; head[4].into()];
    client.read_exact(&mut name)?;
    let mut port = [0; 2];
    client.read_exact(&mut port)?;
    Ok(format!(
        "{}:{}",
        String::from_utf8_lossy(&name),
        u16::from_be_bytes(port)
    ))
}

/// Takes bytes from one side to the other until there are no more.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    // Whoever broke off, the other side is told by the end.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}
