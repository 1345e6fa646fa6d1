//! TLS over the connections that ureq makes, by rustls as `trust.rs` has set it up. ureq's own way to rustls takes no
//! verifier, and one setting for all hosts of an agent. Not here: what is trusted, and HTTP.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

/// Puts TLS on connections for https. Those to a proxy are among them.
#[derive(Debug)]
pub(super) struct TlsConnector {
    /// The registry's name, IPv6 addresses in brackets.
    pub(super) registry: String,
    /// For the registry itself.
    pub(super) own: Arc<ClientConfig>,
    /// For whom it names, and for proxies: that it is `insecure` itself says nothing about them (S18).
    pub(super) others: Arc<ClientConfig>,
    /// Gets the certificate that the registry shows first.
    pub(super) shown: Shown,
}

/// A certificate in DER, once there was one.
pub(super) type Shown = Arc<OnceLock<Vec<u8>>>;

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let config = if host == self.registry {
            &self.own
        } else {
            &self.others
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let mut connection =
            ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;

        // What is left of the limit that the whole connection has.
        let mut timeout = details.timeout;
        if let (Instant::Exact(began), Duration::Exact(limit)) = (details.now, timeout.after) {
            timeout.after = Duration::Exact(limit.saturating_sub(began.elapsed()));
        }
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(boxed, details.current_time.clone());
        socket.set_timeout(timeout);
        connection.complete_io(&mut socket)?;
        if host == self.registry
            && let Some([leaf, ..]) = connection.peer_certificates()
        {
            self.shown.get_or_init(|| leaf.to_vec());
        }
        Ok(Some(Either::B(TlsTransport {
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// One connection with TLS on it.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
