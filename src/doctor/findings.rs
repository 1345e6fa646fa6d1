//! What the doctor found, as sentences: each with what it means for a run, and with the remedy where that would fail. Not
//! here: asking.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::oci::Digest;
use crate::store::{Certificate, Channel, Class, Contact, Place, Quota, StoreError, Trial};

/// What was found, place by place in the order of the rules.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(super) sections: Vec<Section>,
}

/// What was found of one registry or layout.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// One sentence.
#[derive(Clone, Debug)]
pub(super) struct Line {
    mark: Mark,
    text: String,
}

/// What it means for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    /// Worth to be known, and no reason to fail.
    Note,
    /// A run would fail by it.
    Bad,
}

pub(super) fn good(text: impl Into<String>) -> Line {
    let (mark, text) = (Mark::Good, text.into());
    Line { mark, text }
}

pub(super) fn note(text: impl Into<String>) -> Line {
    let (mark, text) = (Mark::Note, text.into());
    Line { mark, text }
}

pub(super) fn bad(text: impl Into<String>) -> Line {
    let (mark, text) = (Mark::Bad, text.into());
    Line { mark, text }
}

impl Line {
    pub(super) fn is_good(&self) -> bool {
        self.mark == Mark::Good
    }
}

impl Findings {
    /// Whether there is nothing that a run would fail by.
    pub(crate) fn are_good(&self) -> bool {
        self.count_bad() == 0
    }

    fn count_bad(&self) -> usize {
        let lines = self.sections.iter().flat_map(|section| &section.lines);
        lines.filter(|line| line.mark == Mark::Bad).count()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Section { title, lines } in &self.sections {
            writeln!(f, "{title}")?;
            for Line { mark, text } in lines {
                let mark = match mark {
                    Mark::Good => "ok",
                    Mark::Note => "note",
                    Mark::Bad => "bad",
                };
                writeln!(f, "  {mark:4}  {text}")?;
            }
        }
        match self.count_bad() {
            0 => writeln!(f, "Nothing bad was found"),
            count => writeln!(f, "{count} bad: a run would fail there"),
        }
    }
}

/// A registry that no request comes through to.
pub(super) fn out_of_reach(error: &StoreError) -> Line {
    bad(match error.class {
        Class::Unreachable => format!(
            "it cannot be reached; check its name and port, and what is between here and there (firewall, `proxy`): {error}"
        ),
        _ => format!("nothing can be asked of it: {error}"),
    })
}

/// How a registry was reached.
pub(super) fn reached(contact: &Contact, now: SystemTime) -> Vec<Line> {
    let way = match (&contact.proxy, contact.addresses.as_slice()) {
        (Some(proxy), _) => format!("it is reached through the proxy {proxy}"),
        (None, []) => "it answers".to_owned(),
        (None, [address]) => format!("its address is {address}"),
        (None, addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("its addresses are {}", addresses.join(", "))
        }
    };
    vec![
        good(way),
        secrecy(&contact.channel, now),
        clock(contact.ahead),
    ]
}

fn secrecy(channel: &Channel, now: SystemTime) -> Line {
    let (certificate, is_verified) = match channel {
        Channel::Plain => {
            return note(
                "it is spoken to by plain http: whoever is between reads all, the login too",
            );
        }
        Channel::Encrypted {
            certificate: Some(certificate),
            is_verified,
        } => (certificate, *is_verified),
        Channel::Encrypted {
            certificate: None, ..
        } => return note("its certificate is taken, but cannot be read for its dates"),
    };
    let Certificate { issuer, expires } = certificate;
    let days = |time: Duration| match time.as_secs() / SECONDS_A_DAY {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    let left = expires.duration_since(now);
    let validity = match &left {
        Ok(left) => format!("runs out in {}", days(*left)),
        Err(past) => format!("ran out {} ago", days(past.duration())),
    };
    let text = format!("its certificate is signed by {issuer:?} and {validity}");
    if !is_verified {
        note(format!(
            "{text}; nobody looks at that, since it is `insecure`"
        ))
    } else if left.is_ok_and(|left| left < SOON) {
        note(format!("{text}: the registry will soon need a new one"))
    } else {
        good(text)
    }
}

fn clock(ahead: Option<i64>) -> Line {
    let Some(ahead) = ahead else {
        return note("it does not tell the time");
    };
    let amount = Duration::from_secs(ahead.unsigned_abs());
    let difference = format!(
        "its clock is {} {} this machine's",
        humantime::format_duration(amount),
        if ahead < 0 { "behind" } else { "ahead of" }
    );
    match amount {
        Duration::ZERO => good("its clock is that of this machine"),
        _ if amount <= CLOCK_TOLERANCE => good(difference),
        _ => bad(format!(
            "{difference}: set the one that is wrong; certificates and logins are judged by them"
        )),
    }
}

/// Where the logins for repositories are from, each once.
pub(super) fn logins(of_repositories: &[(&Place, String)]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    for (place, words) in of_repositories {
        if !told.contains(&words) {
            told.push(words);
            let all = of_repositories.iter();
            let others = all.filter(|(_, other)| other == words).count() - 1;
            let is_only = others + 1 == of_repositories.len();
            lines.push(good(match others {
                _ if is_only => words.clone(),
                0 => format!("{words} (for {place})"),
                _ => format!("{words} (for {place} and {others} more)"),
            }));
        }
    }
    lines
}

/// What a registry says of how much it will answer.
pub(super) fn quota(quota: Option<Quota>) -> Line {
    let Some(Quota { left, reset }) = quota else {
        return good("it tells of no quota");
    };
    let reset = humantime::format_duration(Duration::from_secs(reset.as_secs()));
    match left {
        0 => bad(format!(
            "its quota is used up, until there is more within {reset}: wait, or sign in as somebody who has more"
        )),
        _ => good(format!(
            "its quota has {left} requests left; there are more within {reset}"
        )),
    }
}

/// What opening uploads has shown of their registry.
pub(super) fn uploads(trials: &[&Trial]) -> Vec<Line> {
    let mut lines = Vec::new();
    if trials.is_empty() {
        return lines;
    }
    let least = match trials.iter().find_map(|trial| trial.min_chunk) {
        Some(bytes) => format!("of at least {bytes} bytes"),
        None => "of any size".to_owned(),
    };
    lines.push(good(format!(
        "it opens uploads for parts {least}; whether it takes them is not known until a run"
    )));
    let open = trials.iter().filter(|trial| !trial.is_cancelled).count();
    if open > 0 {
        lines.push(note(format!(
            "it does not let uploads be cancelled: the empty ones that were opened, {open}, are forgotten in its own time"
        )));
    }
    lines.extend(trials.iter().find_map(|trial| trial.mount).map(mounts));
    lines
}

fn mounts(status: u16) -> Line {
    match status {
        202 => good(
            "it answers a mount of a blob that is nowhere by an upload, as it should; whether it mounts is not known \
             until a run",
        ),
        _ => note(format!(
            "it answers a mount of a blob that is nowhere by {status} and no upload: a run asks for one more"
        )),
    }
}

/// Whether a registry lists referrers, by what one of its repositories has answered.
pub(super) fn referrers(place: &Place, found: Result<Option<Vec<Digest>>, StoreError>) -> Line {
    match found {
        Ok(Some(_)) => good("it lists the referrers of an image"),
        Ok(None) => note(format!(
            "it does not list the referrers of an image, as far as {place} shows: tags stand in for the list"
        )),
        Err(error) => note(format!(
            "whether it lists the referrers of an image is not known until a run: {error}"
        )),
    }
}

/// Certificates and access tokens are given out with some minutes of slack.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);
/// Renewal is late by then, for those who sign for ninety days.
const SOON: Duration = Duration::from_secs(14 * SECONDS_A_DAY);
const SECONDS_A_DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_line(line: &Line, mark: Mark, text: &str) {
        assert_eq!((line.mark, line.text.as_str()), (mark, text));
    }

    #[test]
    fn a_certificate_is_judged_by_what_is_left_of_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let day = Duration::from_secs(SECONDS_A_DAY);
        for (expires, is_verified, mark, text) in [
            (now + 83 * day, true, Mark::Good, "runs out in 83 days"),
            (now + 14 * day, true, Mark::Good, "runs out in 14 days"),
            (
                now + 2 * day - Duration::from_secs(1),
                true,
                Mark::Note,
                "runs out in 1 day: the registry will soon need a new one",
            ),
            (
                now - 9 * day,
                false,
                Mark::Note,
                "ran out 9 days ago; nobody looks at that, since it is `insecure`",
            ),
        ] {
            let channel = Channel::Encrypted {
                certificate: Some(Certificate {
                    issuer: "a\u{1b}\n".into(),
                    expires,
                }),
                is_verified,
            };
            let text = format!("its certificate is signed by \"a\\u{{1b}}\\n\" and {text}");
            assert_line(&secrecy(&channel, now), mark, &text);
        }
    }

    #[test]
    fn a_clock_may_differ_by_minutes() {
        for (ahead, mark, text) in [
            (None, Mark::Note, "it does not tell the time"),
            (Some(0), Mark::Good, "its clock is that of this machine"),
            (
                Some(-300),
                Mark::Good,
                "its clock is 5m behind this machine's",
            ),
            (
                Some(301),
                Mark::Bad,
                "its clock is 5m 1s ahead of this machine's: set the one that is wrong; certificates and logins are judged \
                 by them",
            ),
        ] {
            assert_line(&clock(ahead), mark, text);
        }
    }
}
