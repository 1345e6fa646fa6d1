//! The keys of Google's service accounts: the forms that they come in, and the assertion that is changed into an access
//! token (protocol.md A31, RFC 7523). Not here: requests (`authorise.rs`).

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use zeroize::Zeroizing;

use super::auth_files::BASE64;
use super::url::UrlError;
use crate::secret::Secret;

/// The user whose password is such a key, and who signs in by access tokens, as in image-syncer 1.4 and later.
pub(super) const KEY_USER: &str = "_oauth2_";
/// The user whose password is an access token.
pub(super) const TOKEN_USER: &str = "oauth2accesstoken";
/// The user whose password is such a key, which goes to the registry as it is.
pub(super) const JSON_USER: &str = "_json_key";

/// The JSON of a key that is written as it is, or in base64, as it fits into one line of a file.
pub(super) fn plain(key: &Secret) -> Option<Secret> {
    let key = key.expose().trim();
    if key.starts_with('{') {
        return Some(Secret::new(key.to_owned()));
    }
    let bytes = BASE64.decode(key).map(Zeroizing::new).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?.trim();
    text.starts_with('{').then(|| Secret::new(text.to_owned()))
}

/// What there is in a key.
#[derive(Deserialize)]
pub(super) struct ServiceKey {
    client_email: String,
    private_key_id: Option<String>,
    #[serde(deserialize_with = "wiped")]
    private_key: Zeroizing<String>,
    /// Where its access tokens are given, as written: it is to be judged.
    pub(super) token_uri: String,
}

fn wiped<'de, D: Deserializer<'de>>(text: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(text).map(Zeroizing::new)
}

impl ServiceKey {
    /// Reads a key in either form.
    pub(super) fn parse(key: &Secret) -> Result<Self, KeyError> {
        let text = plain(key).ok_or(KeyError::Malformed)?;
        // Serde's own words could quote the key.
        serde_json::from_str(text.expose()).map_err(|_| KeyError::Malformed)
    }

    /// A statement signed by the key, good for an hour from `now`.
    pub(super) fn assertion(&self, now: SystemTime) -> Result<Secret, KeyError> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = since.unwrap_or_default();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.private_key_id});
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now.as_secs(),
            "exp": (now + LIFE).as_secs(),
        });
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let statement = format!("{header}.{claims}");

        let lines = self
            .private_key
            .lines()
            .filter(|line| !line.contains("-----"));
        let lines = Zeroizing::new(lines.map(str::trim).collect::<String>());
        let der = BASE64.decode(lines.as_bytes()).map(Zeroizing::new);
        let der = der.map_err(|_| KeyError::Private)?;
        // What openssl called an RSA key before PKCS#8.
        let pair = RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der));
        let pair = pair.map_err(|_| KeyError::Private)?;
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            statement.as_bytes(),
            &mut signature,
        )
        .map_err(|_| KeyError::Private)?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(Secret::new(format!("{statement}.{signature}")))
    }
}

/// Why a key is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// Not the JSON of a service account's key.
    Malformed,
    /// A private key that is not RSA's, or is damaged.
    Private,
    /// It has its tokens from where nothing is sent.
    TokenUri(UrlError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str(
                "it is not the JSON of a service account's key, nor base64 of that: it has client_email, private_key \
                 and token_uri",
            ),
            Self::Private => f.write_str("its private_key is no RSA key"),
            Self::TokenUri(error) => write!(f, "its token_uri is not asked: {error}"),
        }
    }
}

/// What registries want, those of Artifact Registry as well: what the account may do there is said by its roles.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Google takes no longer one.
const LIFE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
    use serde_json::Value;

    use super::*;

    /// Made for these tests; nobody's.
    const PEM: &str = include_str!("../../fixtures/service-account.pem");

    fn key(private_key: &str) -> String {
        json!({
            "type": "service_account",
            "client_email": "robot@p.iam.example",
            "private_key_id": "k1",
            "private_key": private_key,
            "token_uri": "https://token.example/token",
        })
        .to_string()
    }

    #[test]
    fn an_assertion_is_signed_by_the_key_in_either_form() {
        for text in [key(PEM), BASE64.encode(format!("{}\n", key(PEM)))] {
            let parsed = ServiceKey::parse(&Secret::new(text)).unwrap();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let assertion = parsed.assertion(now).unwrap();
            let (statement, signature) = assertion.expose().rsplit_once('.').unwrap();
            let parts: Vec<Value> = statement
                .split('.')
                .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
                .collect();
            let claims = json!({
                "iss": "robot@p.iam.example",
                "scope": SCOPE,
                "aud": "https://token.example/token",
                "iat": 1_700_000_000,
                "exp": 1_700_003_600,
            });
            let header = json!({"alg": "RS256", "typ": "JWT", "kid": "k1"});
            assert_eq!(parts, [header, claims]);

            let der: String = PEM.lines().filter(|line| !line.starts_with('-')).collect();
            let pair = RsaKeyPair::from_pkcs8(&BASE64.decode(der).unwrap()).unwrap();
            let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            public
                .verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    statement.as_bytes(),
                    &signature,
                )
                .unwrap();
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_a_word_of_it() {
        let parse = |text: &str| ServiceKey::parse(&Secret::new(text.to_owned())).map(|_| ());
        for text in [
            "hunter2",
            "",
            "{}",
            "{hunter2",
            "{\"client_email\": \"hunter2\"}",
            "aHVudGVyMg==",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, KeyError::Malformed, "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
        let broken = PEM.replace("MII", "MIX");
        for private in [
            "hunter2",
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n",
            &broken,
        ] {
            let parsed = ServiceKey::parse(&Secret::new(key(private))).unwrap();
            let error = parsed.assertion(SystemTime::now()).unwrap_err();
            assert_eq!(error, KeyError::Private, "{private}");
        }
    }
}
