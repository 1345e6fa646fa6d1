//! Digests: the names of content, and the hasher that computes them. Not here: readers and streams.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm that this program can verify. Content under another one is refused before it is asked for
/// (protocol.md G1, V3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256, what practically every registry uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon of a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A verified-by-construction digest such as `sha256:44136fa3…`: a supported algorithm and lower-case hex of the
/// right length (image-spec, descriptor.md "Digests"). So it is safe as a part of a URL and of a path (S07).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Value);

/// The hash itself: a run over many images holds many of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Value {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Digest {
    /// Parses and checks `text`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.chars().take(MAX_SHOWN).collect());
        let (name, encoded) = text.split_once(':').ok_or_else(malformed)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm_name(name) && !encoded.is_empty() => {
                return Err(DigestError::Unsupported(
                    name.chars().take(MAX_SHOWN).collect(),
                ));
            }
            _ => return Err(malformed()),
        };
        let value = match algorithm {
            Algorithm::Sha256 => decode(encoded).map(Value::Sha256),
            Algorithm::Sha512 => decode(encoded).map(|hash| Value::Sha512(Box::new(hash))),
        };
        value.map(Self).ok_or_else(malformed)
    }

    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm in front of the colon.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Value::Sha256(_) => Algorithm::Sha256,
            Value::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hex digits after the colon.
    pub fn encoded(&self) -> String {
        let text = self.to_string();
        text.split_once(':')
            .map_or_else(String::new, |(_, hex)| hex.to_owned())
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Value::Sha256(hash) => hash,
            Value::Sha512(hash) => &hash[..],
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm().name())?;
        self.bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a digest of what passes by. A clone is a snapshot.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The state as text, for another process to go on with: a tag of the format, and what `sha2` makes of it.
    pub fn state(&self) -> String {
        let state = match &self.0 {
            State::Sha256(state) => BASE64.encode(state.serialize()),
            State::Sha512(state) => BASE64.encode(state.serialize()),
        };
        format!("{STATE_TAG}{state}")
    }

    /// The hasher that `state` describes; `None` where the text is of another format or algorithm.
    pub fn restore(algorithm: Algorithm, state: &str) -> Option<Self> {
        let state = BASE64.decode(state.strip_prefix(STATE_TAG)?).ok()?;
        Some(Self(match algorithm {
            Algorithm::Sha256 => {
                State::Sha256(Sha256::deserialize(state.as_slice().try_into().ok()?).ok()?)
            }
            Algorithm::Sha512 => {
                State::Sha512(Sha512::deserialize(state.as_slice().try_into().ok()?).ok()?)
            }
        }))
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest(Value::Sha256(state.finalize().into())),
            State::Sha512(state) => Digest(Value::Sha512(Box::new(state.finalize().into()))),
        }
    }
}

/// Why a text is no digest that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestError {
    /// Not `ALGORITHM:HEX` with the right number of lower-case digits.
    Malformed(String),
    /// Well formed, but of an algorithm that cannot be verified here.
    Unsupported(String),
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) => write!(
                f,
                "{text:?} is no digest (sha256: and 64 lower-case hex digits)"
            ),
            Self::Unsupported(name) => {
                write!(
                    f,
                    "digest algorithm {name:?} is not supported (sha256 and sha512 are)"
                )
            }
        }
    }
}

impl std::error::Error for DigestError {}

/// `[a-z0-9]+([.+_-][a-z0-9]+)*` (image-spec, descriptor.md).
fn is_algorithm_name(name: &str) -> bool {
    name.split(['.', '+', '_', '-']).all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// `N` bytes of lower-case hex, no more and no less.
fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// States are compatible within a minor version of `sha2`.
const STATE_TAG: &str = "sha2-0.11:";
/// A malformed text is shown no longer than this, in characters.
const MAX_SHOWN: usize = 150;

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn good_digests_parse_and_print() {
        let sha512 = format!("sha512:{}", "0".repeat(128));
        for text in [EMPTY, &sha512] {
            assert_eq!(Digest::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
        assert_eq!(
            Digest::parse(&sha512).unwrap().algorithm(),
            Algorithm::Sha512
        );
    }

    #[test]
    fn a_snapshot_goes_on_where_it_was_taken() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"ab");
        let mut snapshot = hasher.clone();
        hasher.update(b"xx");
        snapshot.update(b"c");
        assert_eq!(snapshot.finish(), Digest::of(Algorithm::Sha512, b"abc"));
    }

    #[test]
    fn a_state_goes_on_in_another_process() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&[7; 1000]);
            let state = hasher.state();
            let mut restored = Hasher::restore(algorithm, &state).unwrap();
            for hasher in [&mut hasher, &mut restored] {
                hasher.update(b"rest");
            }
            assert_eq!(restored.finish(), hasher.finish());
            let other = if algorithm == Algorithm::Sha256 {
                Algorithm::Sha512
            } else {
                Algorithm::Sha256
            };
            for (algorithm, state) in [
                (other, state.as_str()),
                (algorithm, "sha2-0.12:AAAA"),
                (algorithm, "sha2-0.11:!"),
            ] {
                assert!(Hasher::restore(algorithm, state).is_none(), "{state}");
            }
        }
    }

    #[test]
    fn bad_digests_are_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let short = &EMPTY[..EMPTY.len() - 1];
        let long = format!("{EMPTY}0");
        for text in [
            "",
            "sha256",
            "sha256:",
            ":abc",
            "sha256:../../etc",
            "SHA256:00",
            &upper,
            short,
            &long,
        ] {
            assert!(
                matches!(Digest::parse(text), Err(DigestError::Malformed(_))),
                "{text}"
            );
        }
        for text in [
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha384:00",
            "a+b.c:zz",
        ] {
            assert!(
                matches!(Digest::parse(text), Err(DigestError::Unsupported(_))),
                "{text}"
            );
        }
    }
}
