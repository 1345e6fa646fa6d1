//! What people want to know of a certificate: who signed it, and when it runs out (RFC 5280, 4.1; DER by X.690). Not
//! here: whether it is trusted, which rustls knows (`trust.rs`).

use std::time::SystemTime;

use crate::store::Certificate;

/// Reads a certificate. `None` where it is none: a server may send anything.
pub(super) fn read(der: &[u8]) -> Option<Certificate> {
    let mut whole = Der(der).inside(SEQUENCE)?;
    let mut body = whole.inside(SEQUENCE)?;
    body.skip_if(VERSION);
    body.inside(INTEGER)?; // the serial number
    body.inside(SEQUENCE)?; // the algorithm of the signature
    let issuer = body.inside(SEQUENCE)?;
    let mut validity = body.inside(SEQUENCE)?;
    validity.next()?; // since when
    let (kind, text) = validity.next()?;
    Some(Certificate {
        issuer: name(issuer),
        expires: time(kind, text)?,
    })
}

/// The common name, else the organisation.
fn name(rest: Der<'_>) -> String {
    let find = |wanted: &[u8]| {
        let mut rest = rest;
        while let Some(mut set) = rest.inside(SET) {
            while let Some(mut pair) = set.inside(SEQUENCE) {
                if pair.inside(OBJECT_ID)?.0 == wanted {
                    let text = String::from_utf8_lossy(pair.next()?.1);
                    return Some(text.into_owned());
                }
            }
        }
        None
    };
    let found = find(COMMON_NAME).or_else(|| find(ORGANISATION));
    found.unwrap_or_else(|| "somebody without a name".to_owned())
}

/// `YYMMDDhhmmssZ`, of the years from 1950 on, or with four digits of the year (RFC 5280, 4.1.2.5).
fn time(kind: u8, text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        UTC_TIME if text < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let (date, time) = text.split_at_checked(8)?;
    let date = format!("{}-{}-{}", date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let time = format!("{}:{}:{}", time.get(..2)?, time.get(2..4)?, time.get(4..)?);
    humantime::parse_rfc3339(&format!("{date}T{time}")).ok()
}

/// What is left of a row of DER elements.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // A certificate has no use for more than three bytes of length.
            let count = usize::from(first & 0x7f);
            let (digits, rest) = rest.split_at_checked(count).filter(|_| count <= 3)?;
            let add = |sum: usize, &digit: &u8| (sum << 8) | usize::from(digit);
            (digits.iter().fold(0, add), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// What is inside the next element, which must be one of this tag.
    fn inside(&mut self, wanted: u8) -> Option<Self> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(Self(content))
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which certificates of version 1 lack.
const VERSION: u8 = 0xa0;
/// 2.5.4.3 and 2.5.4.10.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANISATION: &[u8] = &[0x55, 4, 10];

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn made(names: &[(DnType, &str)], year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(["r.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.not_before = date_time_ymd(1999, 1, 1);
        params.not_after = date_time_ymd(year, 2, 3);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn issuer_and_end_are_found() {
        let (common, organisation) = (DnType::CommonName, DnType::OrganizationName);
        for (names, year, issuer, expires) in [
            (
                vec![(organisation.clone(), "Corp"), (common.clone(), "Corp CA")],
                2027,
                "Corp CA",
                "2027-02-03T00:00:00Z",
            ),
            (
                vec![(organisation, "Corp")],
                1999,
                "Corp",
                "1999-02-03T00:00:00Z",
            ),
            (
                vec![],
                2049,
                "somebody without a name",
                "2049-02-03T00:00:00Z",
            ),
            // From here on with four digits.
            (
                vec![(common.clone(), "x")],
                2050,
                "x",
                "2050-02-03T00:00:00Z",
            ),
            (
                vec![(common, "a\u{1b}[2J")],
                9999,
                "a\u{1b}[2J",
                "9999-02-03T00:00:00Z",
            ),
        ] {
            let found = read(&made(&names, year)).unwrap();
            assert_eq!(found.issuer, issuer);
            let time = humantime::format_rfc3339_seconds(found.expires).to_string();
            assert_eq!(time, expires);
        }
    }

    #[test]
    fn what_is_no_certificate_is_none_and_does_no_harm() {
        let good = made(&[(DnType::CommonName, "x")], 2030);
        for length in 0..good.len() {
            assert_eq!(read(&good[..length]), None);
        }
        for at in 0..good.len() {
            for value in [0, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                // Some of it does not matter here.
                read(&bad);
            }
        }
    }
}
