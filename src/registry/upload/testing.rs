//! What the tests of uploads share. Not here: the server that they ask, which is that of the whole folder.

use crate::oci::Repository;
use crate::registry::testing::{Reply, Seen, Server, descriptor};
use crate::store::{Begin, Hint, Prior, Target, Upload};

/// What is sent.
pub(super) const CONTENT: &[u8] = b"0123456789";
/// Where it is sent to.
pub(super) const SESSION: &str = "/v2/a/b/blobs/uploads/1?_state=x%2Fy";

/// A session.
pub(super) fn opened() -> Reply {
    Reply::new(202).header("location", SESSION)
}

/// A server that lets every body come.
pub(super) fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |seen| {
        let waits = seen.header("expect").is_some() && !seen.is_complete;
        (!waits).then(|| answer(seen))
    })
}

pub(super) fn hint(prior: Prior, from: Option<&str>) -> Hint {
    Hint {
        mount_from: from.map(|from| Repository::parse(from).unwrap()),
        prior,
        session: None,
    }
}

/// Begins an upload of what is not there.
pub(super) fn open(store: &dyn Target, content: &[u8], hint: &Hint) -> Box<dyn Upload> {
    match store.begin(&descriptor(content), hint).unwrap() {
        Begin::Upload { upload, .. } => upload,
        Begin::Present(found) => panic!("{found:?}"),
    }
}

fn digest() -> String {
    descriptor(CONTENT).digest.to_string()
}

/// Requests with the digest of the content as `D`.
pub(super) fn requests(server: &Server) -> Vec<String> {
    let encoded = digest().replace(':', "%3A");
    server
        .requests()
        .iter()
        .map(|line| line.replace(&encoded, "D").replace(&digest(), "D"))
        .collect()
}
