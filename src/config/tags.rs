//! Which tags of a repository a rule wants, and why it leaves the others out: patterns, versions, the newest ones. PURE.
//! Not here: the listing of tags, and how a filter is written in a file (`body.rs`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use regex_lite::Regex;
use semver::{Prerelease, VersionReq};

use crate::oci::Tag;

/// A choice among the tags of a repository. The empty one takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagFilter {
    /// A tag matches one of these; empty: any does.
    pub allow: Vec<Pattern>,
    /// It is a version in one of these ranges; empty: anything is.
    pub semver: Vec<VersionReq>,
    /// It matches none of these.
    pub deny: Vec<Pattern>,
    /// It was made within this time before the run.
    pub newer_than: Option<Duration>,
    /// Of what is left, how many of the newest are wanted: of each variant, or by date of all together.
    pub latest: Option<usize>,
    /// `latest` goes by when the images were made, not by their versions.
    pub by_created: bool,
    /// With fewer tags than this the rule fails; 1 where it is not given.
    pub min: Option<usize>,
}

/// What became of the tags of a repository, both parts in the order of the listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// The tags that are wanted.
    pub kept: Vec<Tag>,
    /// The others.
    pub dropped: Vec<(Tag, Dropped)>,
}

/// Why a tag is not wanted: the first reason of those that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// It matches no pattern of `allow`.
    Unmatched,
    /// It is no version, or in none of the ranges of `semver`.
    OutOfRange,
    /// It matches a pattern of `deny`.
    Denied,
    /// It does not say when it was made, and `newer_than` asks for that.
    Undated,
    /// It is not `newer_than`.
    TooOld,
    /// There are enough newer ones for `latest`.
    NotLatest,
}

impl TagFilter {
    /// Whether the choice needs to know when the images were made.
    pub fn needs_dates(&self) -> bool {
        self.newer_than.is_some() || self.latest.is_some() && self.by_created
    }

    /// The tags of which dates must be known: those that are not dropped by their names alone.
    pub fn candidates<'a>(&'a self, tags: &'a [Tag]) -> impl Iterator<Item = &'a Tag> {
        tags.iter().filter(|tag| self.refuse(tag).is_none())
    }

    /// Chooses among all tags of a repository: first by `allow` and `semver`, then by `deny`, by `newer_than`, and by
    /// `latest`. `dates` has those of the candidates that have one.
    pub fn select(
        &self,
        tags: &[Tag],
        dates: &HashMap<Tag, SystemTime>,
        now: SystemTime,
    ) -> Choice {
        let refuse = |tag| {
            let by_name = self.refuse(tag);
            by_name.or_else(|| self.refuse_age(dates.get(tag), now))
        };
        let mut reasons: Vec<Option<Dropped>> = tags.iter().map(refuse).collect();
        if let Some(latest) = self.latest {
            let mut variants: BTreeMap<&str, Vec<_>> = BTreeMap::new();
            for (tag, reason) in tags.iter().zip(&mut reasons) {
                if reason.is_none() {
                    let created = dates.get(tag).filter(|_| self.by_created);
                    let age = Age::of(tag.as_str(), created);
                    let variant = match &age.version {
                        Some(version) if !self.by_created => version.variant,
                        _ => "",
                    };
                    variants.entry(variant).or_default().push((age, reason));
                }
            }
            for of_variant in variants.values_mut() {
                of_variant.sort_by(|(one, _), (other, _)| other.cmp(one));
                for (_, reason) in of_variant.iter_mut().skip(latest) {
                    **reason = Some(Dropped::NotLatest);
                }
            }
        }
        let mut choice = Choice {
            kept: Vec::new(),
            dropped: Vec::new(),
        };
        for (tag, reason) in tags.iter().zip(reasons) {
            match reason {
                Some(reason) => choice.dropped.push((tag.clone(), reason)),
                None => choice.kept.push(tag.clone()),
            }
        }
        choice
    }

    /// Why a tag is not wanted, whatever other tags there are.
    fn refuse(&self, tag: &Tag) -> Option<Dropped> {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(tag));
        if !self.allow.is_empty() && !matches(&self.allow) {
            return Some(Dropped::Unmatched);
        }
        if !self.semver.is_empty() {
            let version = Version::parse(tag.as_str()).and_then(|version| version.strict());
            let is_in = |version| self.semver.iter().any(|range| range.matches(&version));
            if !version.is_some_and(is_in) {
                return Some(Dropped::OutOfRange);
            }
        }
        matches(&self.deny).then_some(Dropped::Denied)
    }

    /// Why a tag is not wanted for its age.
    fn refuse_age(&self, created: Option<&SystemTime>, now: SystemTime) -> Option<Dropped> {
        let newer_than = self.newer_than?;
        let Some(created) = created else {
            return Some(Dropped::Undated);
        };
        let is_old = now
            .duration_since(*created)
            .is_ok_and(|age| age > newer_than);
        is_old.then_some(Dropped::TooOld)
    }

    /// Takes one more range, as Cargo writes them: `>=1.2, <2`.
    pub(crate) fn add_range(&mut self, text: &str) -> Result<(), FilterError> {
        let range = text
            .parse()
            .map_err(|error: semver::Error| FilterError::Range {
                text: text.into(),
                error: error.to_string(),
            })?;
        self.semver.push(range);
        Ok(())
    }

    /// How many tags there must be.
    pub fn min(&self) -> usize {
        self.min.unwrap_or(1)
    }
}

impl fmt::Display for Choice {
    /// `1 of 12 tags: 8 unmatched, 3 denied`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.kept.len() + self.dropped.len();
        write!(f, "{} of {all} tags", self.kept.len())?;
        let mut counts: BTreeMap<Dropped, usize> = BTreeMap::new();
        for (_, reason) in &self.dropped {
            *counts.entry(*reason).or_default() += 1;
        }
        for (number, (reason, count)) in counts.iter().enumerate() {
            let before = if number == 0 { ": " } else { ", " };
            write!(f, "{before}{count} {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unmatched => "unmatched",
            Self::OutOfRange => "out of range",
            Self::Denied => "denied",
            Self::Undated => "without a date",
            Self::TooOld => "too old",
            Self::NotLatest => "not among the latest",
        })
    }
}

/// What a tag may look like: a glob, in which `*` is any text and `?` any character, or `/a regular expression/`, which
/// is found anywhere in the tag unless it says `^` and `$`. Two are equal where they are written so.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    /// None for a glob.
    regex: Option<Regex>,
}

impl Pattern {
    /// Reads `v1.*` or `/^v1\./`.
    pub(crate) fn parse(text: &str) -> Result<Self, FilterError> {
        let Some(regex) = text.strip_prefix('/') else {
            let is_known =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*' | '?');
            if text.is_empty() {
                return Err(FilterError::Empty);
            }
            if let Some(c) = text.chars().find(|c| !is_known(*c)) {
                let text = text.into();
                return Err(FilterError::Glob { text, c });
            }
            return Ok(Self {
                text: text.into(),
                regex: None,
            });
        };
        match regex.strip_suffix('/') {
            Some(regex) => Self::regex(regex),
            None => Err(FilterError::OpenRegex(text.into())),
        }
    }

    /// Reads what stands between the slashes of a regular expression.
    pub(crate) fn regex(text: &str) -> Result<Self, FilterError> {
        let error = |error: regex_lite::Error| FilterError::Regex {
            text: text.into(),
            error: error.to_string(),
        };
        Ok(Self {
            regex: Some(Regex::new(text).map_err(error)?),
            text: format!("/{text}/").into(),
        })
    }

    /// As it is written, a regular expression with its slashes.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, tag: &Tag) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(tag.as_str()),
            None => glob(self.text.as_bytes(), tag.as_str().as_bytes()),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Whether the whole text matches. Where it goes wrong behind a `*`, that takes one character more: earlier ones never
/// need to be tried again.
fn glob(mut pattern: &[u8], mut text: &[u8]) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                retry = Some((rest, text));
            }
            ([], []) => return true,
            ([wanted, after @ ..], [byte, rest @ ..])
                if matches!(wanted, b'?') || wanted == byte =>
            {
                (pattern, text) = (after, rest);
            }
            _ => match retry {
                Some((behind, [_, rest @ ..])) => {
                    (pattern, text) = (behind, rest);
                    retry = Some((behind, rest));
                }
                _ => return false,
            },
        }
    }
}

/// How new a tag is: by its date, if that counts, then by its name: versions above all others, and among those the
/// numbers in them count as numbers.
struct Age<'a> {
    created: Option<&'a SystemTime>,
    version: Option<Version<'a>>,
    tag: &'a str,
}

impl<'a> Age<'a> {
    fn of(tag: &'a str, created: Option<&'a SystemTime>) -> Self {
        Self {
            created,
            version: Version::parse(tag),
            tag,
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let by_version = match (&self.version, &other.version) {
            (Some(one), Some(other)) => one.cmp(other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
        self.created
            .cmp(&other.created)
            .then(by_version)
            .then_with(|| natural(self.tag, other.tag))
    }
}

/// A tag that begins as a version: `1`, `v1.2`, `1.2.3-rc1`, `1.2.3-alpine`, `1.2.3_build`.
struct Version<'a> {
    /// Those that are not written are 0.
    numbers: [u64; 3],
    /// How many are written.
    written: usize,
    /// `rc1`; empty for a release.
    pre: &'a str,
    /// `alpine`: another build of the same version, which is compared with its like only.
    variant: &'a str,
}

impl<'a> Version<'a> {
    fn parse(tag: &'a str) -> Option<Self> {
        let text = tag.strip_prefix('v').unwrap_or(tag);
        // What semver writes as `+build`, which no tag can hold.
        let text = text.split_once('_').map_or(text, |(version, _)| version);
        let (core, suffix) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers = [0; 3];
        let mut written = 0;
        for part in core.split('.') {
            let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
            *numbers.get_mut(written)? = part.parse().ok().filter(|_| is_number)?;
            written += 1;
        }
        let end_of_pre = end_of_prerelease(suffix);
        let (pre, variant) = suffix.split_at(end_of_pre);
        Some(Self {
            numbers,
            written,
            pre,
            variant: variant.trim_start_matches('-'),
        })
    }

    /// The version as the ranges know it, without its variant.
    fn strict(&self) -> Option<semver::Version> {
        let [major, minor, patch] = self.numbers;
        let pre = Prerelease::new(self.pre).ok()?;
        Some(semver::Version {
            pre,
            ..semver::Version::new(major, minor, patch)
        })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let is_release = |version: &Self| version.pre.is_empty();
        self.numbers
            .cmp(&other.numbers)
            .then(is_release(self).cmp(&is_release(other)))
            .then_with(|| natural(self.pre, other.pre))
            // 1.2 is moved to the next 1.2.x some day, 1.2.0 is not.
            .then(self.written.cmp(&other.written))
    }
}

/// Where the words end by which the suffix of a version begins and that say that it comes before the release: `rc1` of
/// `rc1-alpine`.
fn end_of_prerelease(suffix: &str) -> usize {
    let mut end = 0;
    for part in suffix.split('-') {
        let word = part.split('.').next().unwrap_or(part);
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_word = PRERELEASES.iter().any(|pre| pre.eq_ignore_ascii_case(word));
        if part.is_empty() || !(word.is_empty() || is_word) {
            break;
        }
        end = suffix.len().min(end + part.len() + usize::from(end > 0));
    }
    end
}

/// Compares texts in which numbers count as numbers: `a9` is before `a10`.
fn natural(first: &str, second: &str) -> Ordering {
    let (mut one, mut other) = (first, second);
    while !one.is_empty() && !other.is_empty() {
        let (mine, rest) = run(one);
        let (theirs, others) = run(other);
        let order = if is_digits(mine) && is_digits(theirs) {
            let number = |text: &'_ str| {
                let digits = text.trim_start_matches('0').to_owned();
                (digits.len(), digits)
            };
            number(mine).cmp(&number(theirs))
        } else {
            mine.cmp(theirs)
        };
        if order.is_ne() {
            return order;
        }
        (one, other) = (rest, others);
    }
    one.len().cmp(&other.len()).then_with(|| first.cmp(second))
}

/// The digits at the beginning, or what stands before the next digit.
fn run(text: &str) -> (&str, &str) {
    let digits = is_digits(text);
    let end = text.find(|c: char| c.is_ascii_digit() != digits);
    text.split_at(end.unwrap_or(text.len()))
}

fn is_digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// A pattern without text.
    Empty,
    /// A list to choose from with nothing in it.
    NoChoice(&'static str),
    /// A glob with a character that no tag has.
    Glob {
        /// As written.
        text: String,
        /// The first such character.
        c: char,
    },
    /// `/..` without a slash at its end.
    OpenRegex(String),
    /// No regular expression.
    Regex {
        /// As written, without the slashes.
        text: String,
        /// What is wrong with it.
        error: String,
    },
    /// No time.
    Time {
        /// As written.
        text: String,
        /// What is wrong with it.
        error: String,
    },
    /// No range of versions.
    Range {
        /// As written.
        text: String,
        /// What is wrong with it.
        error: String,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a pattern is empty; delete it, or write * for any tag"),
            Self::NoChoice(field) => {
                write!(
                    f,
                    "\"{field}\" is empty, so no tag could be chosen; delete it"
                )
            }
            Self::Glob { text, c } => write!(
                f,
                "pattern {text:?} holds {c:?}, which no tag has; a regular expression is written /REGEX/"
            ),
            Self::OpenRegex(text) => write!(
                f,
                "regular expression {text:?} does not end with /; write /REGEX/"
            ),
            Self::Regex { text, error } => {
                write!(f, "{text:?} is no regular expression: {error}")
            }
            Self::Time { text, error } => write!(
                f,
                "\"newer_than\" is {text:?}: {error}; write a time such as \"30d\" or \"12h\""
            ),
            Self::Range { text, error } => write!(
                f,
                "{text:?} is no range of versions: {error}; write one such as \">=1.2, <2\""
            ),
        }
    }
}

impl std::error::Error for FilterError {}

/// Words that begin a suffix of a version that comes before its release. A number does so, too.
const PRERELEASES: [&str; 13] = [
    "a",
    "alpha",
    "b",
    "beta",
    "canary",
    "dev",
    "m",
    "milestone",
    "nightly",
    "pre",
    "preview",
    "rc",
    "snapshot",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(text: &str) -> Vec<Tag> {
        let tags = text.split_whitespace();
        tags.map(|tag| Tag::parse(tag).unwrap()).collect()
    }

    fn patterns(text: &str) -> Vec<Pattern> {
        let patterns = text.split_whitespace();
        patterns.map(|text| Pattern::parse(text).unwrap()).collect()
    }

    fn join(tags: &[Tag]) -> String {
        let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
        tags.join(" ")
    }

    /// Chooses where no date is known.
    fn select(filter: &TagFilter, tags: &[Tag]) -> Choice {
        filter.select(tags, &HashMap::new(), SystemTime::UNIX_EPOCH)
    }

    fn ranges(text: &str) -> Vec<VersionReq> {
        let ranges = text.split('|').filter(|range| !range.is_empty());
        ranges.map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn globs_match_whole_tags_and_regular_expressions_any_part() {
        for (pattern, matching, others) in [
            ("v1.*", "v1. v1.2 v1.2.3-x", "v1 xv1.2 v2.1"),
            ("*", "a 1 v1.2", ""),
            ("*-alpine", "1-alpine x-alpine-alpine", "alpine 1-alpine3"),
            ("1.?", "1.1 1.x", "1. 1.10 11.1"),
            ("*a*b*", "ab xaybz aab aba-b", "ba a b"),
            ("??", "ab 12", "a abc"),
            ("**1", "1 21", "12"),
            ("v1.2", "v1.2", "v1x2 v1.2.0"),
            ("/v1.2/", "v1.2 v1x2 xv1.2.0", "v12 V1.2"),
            ("/^v1$/", "v1", "v1.0 xv1"),
            (r"/^\d{1,2}$/", "1 12", "123 x1"),
            ("/^(2023|2024)/", "2023 2024.1", "v2023"),
            ("/(.*)/", "a 1", ""),
            ("/(?i)^RC/", "rc1 Rc2", "xrc"),
        ] {
            let filter = TagFilter {
                allow: patterns(pattern),
                ..TagFilter::default()
            };
            let all = tags(&format!("{matching} {others}"));
            assert_eq!(join(&select(&filter, &all).kept), matching, "{pattern}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_takes_no_time() {
        let stars = format!("{}b", "*a".repeat(60));
        assert!(!glob(stars.as_bytes(), "a".repeat(128).as_bytes()));
    }

    #[test]
    fn ranges_choose_versions() {
        for (range, chosen, others) in [
            (
                ">=1.2, <2",
                "1.2 v1.2.0 1.9.9 1.2-alpine 1.3.0_build5",
                "1 2 v2.0.0 1.1.9 latest",
            ),
            ("^1.2.3", "1.2.3 v1.9", "1.2.2 2.0.0"),
            ("~1.2", "1.2 1.2.9", "1.3"),
            ("1.2.*", "1.2.0 1.2.7-slim", "1.3.0"),
            ("=1.2.3", "1.2.3 v1.2.3-alpine", "1.2.4"),
            // Pre-releases only where the range names one.
            (
                "*",
                "1 2.0.0",
                "2.0.0-rc1 2.0.0-alpha.1 2.0.0-1 2.0.0-SNAPSHOT",
            ),
            (
                ">=2.0.0-rc.1",
                "2.0.0-rc.1 2.0.0-rc.2 2.0.0",
                "2.0.0-beta 2.1.0-rc.1",
            ),
            (
                ">=2.0.0-rc1",
                "2.0.0-rc1-alpine 2.0.0-alpine",
                "2.0.0-beta1-alpine",
            ),
            // None of these is a version.
            (
                "*",
                "",
                "1.2.3.4 v x1.2 1.x 1..2 1.2.3a 99999999999999999999 latest 1.0.0-01",
            ),
            // One of several ranges is enough.
            ("<1|>=3", "0.9 3.0", "1.0 2.9"),
        ] {
            let filter = TagFilter {
                semver: ranges(range),
                ..TagFilter::default()
            };
            let all = tags(&format!("{chosen} {others}"));
            let choice = select(&filter, &all);
            assert_eq!(join(&choice.kept), chosen, "{range}");
            let is_out = |(_, reason): &(Tag, Dropped)| *reason == Dropped::OutOfRange;
            assert!(choice.dropped.iter().all(is_out), "{range}");
        }
    }

    #[test]
    fn the_latest_are_chosen_of_each_variant() {
        for (latest, kept, others) in [
            (2, "v1.10.0 1.9.0", "1.8.9 1.2.0 latest"),
            (1, "2.0.0", "2.0.0-rc2 1.9 stable"),
            (2, "2.0.0-rc10 2.0.0-rc9", "2.0.0-rc1 2.0.0-beta 1.0"),
            // Who writes more of the number says more.
            (1, "1.2.0", "1.2 1"),
            (
                1,
                "1.2-alpine 1.2 1.2-slim",
                "1.1 1.1-alpine 1.1-slim 1.2-rc1 1.2-rc1-alpine latest",
            ),
            (1, "1.2.3_build10", "1.2.3_build9"),
            // Without versions, names whose numbers count as numbers.
            (2, "build-10 build-9", "build-8 build-1"),
            (1, "2024.01.05", "2024.01.04 2023.12.31"),
            (1, "r1.2.3.10", "r1.2.3.9 r1.2.3"),
            (3, "b a", ""),
        ] {
            let filter = TagFilter {
                latest: Some(latest),
                ..TagFilter::default()
            };
            let choice = select(&filter, &tags(&format!("{kept} {others}")));
            assert_eq!(join(&choice.kept), kept, "{latest} of {kept} {others}");
            let others = tags(others).into_iter();
            let others: Vec<_> = others.map(|tag| (tag, Dropped::NotLatest)).collect();
            assert_eq!(choice.dropped, others);
        }
    }

    #[test]
    fn dates_choose() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let now = SystemTime::UNIX_EPOCH + hours(100);
        // Hours before now; x and y have none, and w is of the future.
        let ages = [("a", 1), ("b", 2), ("c", 3), ("1.0", 2), ("1.0-rc", 5)];
        let mut dates: HashMap<Tag, SystemTime> = ages
            .into_iter()
            .map(|(tag, age)| (Tag::parse(tag).unwrap(), now - hours(age)))
            .collect();
        dates.insert(Tag::parse("w").unwrap(), now + hours(9));
        let all = tags("x a b c 1.0 1.0-rc y w");
        for (newer_than, latest, by_created, kept) in [
            (Some(2), None, false, "a b 1.0 w"),
            (Some(200), None, false, "a b c 1.0 1.0-rc w"),
            (Some(2), Some(2), false, "1.0 w"),
            (Some(2), Some(2), true, "a w"),
            (None, Some(3), true, "a 1.0 w"),
            (None, Some(7), true, "a b c 1.0 1.0-rc y w"),
            // Without `latest` there is nothing to be by date.
            (None, None, true, "x a b c 1.0 1.0-rc y w"),
        ] {
            let filter = TagFilter {
                newer_than: newer_than.map(hours),
                latest,
                by_created,
                ..TagFilter::default()
            };
            let needs_dates = newer_than.is_some() || latest.is_some();
            assert_eq!(filter.needs_dates(), needs_dates);
            let choice = filter.select(&all, &dates, now);
            assert_eq!(
                join(&choice.kept),
                kept,
                "{newer_than:?} {latest:?} {by_created}"
            );
        }
        let filter = TagFilter {
            deny: patterns("w"),
            newer_than: Some(hours(2)),
            ..TagFilter::default()
        };
        assert_eq!(
            filter.select(&all, &dates, now).to_string(),
            "3 of 8 tags: 1 denied, 2 without a date, 2 too old"
        );
        assert_eq!(filter.candidates(&all).count(), 7);
    }

    #[test]
    fn each_tag_that_is_left_out_has_its_first_reason() {
        let filter = TagFilter {
            allow: patterns("1.* 2.* x*"),
            semver: ranges(">=1.2"),
            deny: patterns("*-rc* /slim$/ x*"),
            latest: Some(2),
            ..TagFilter::default()
        };
        let all = tags("0.9 1.0 1.2 1.3 1.4 1.5-slim 2.0-rc1 x1 latest");
        let choice = select(&filter, &all);
        assert_eq!(join(&choice.kept), "1.3 1.4");
        let reasons: Vec<_> = choice
            .dropped
            .iter()
            .map(|(tag, reason)| format!("{tag} {reason}"))
            .collect();
        assert_eq!(
            reasons,
            [
                "0.9 unmatched",
                "1.0 out of range",
                "1.2 not among the latest",
                "1.5-slim denied",
                "2.0-rc1 out of range",
                "x1 out of range",
                "latest unmatched",
            ]
        );
        assert_eq!(
            choice.to_string(),
            "2 of 9 tags: 2 unmatched, 3 out of range, 1 denied, 1 not among the latest"
        );
        assert_eq!(
            select(&TagFilter::default(), &all).to_string(),
            "9 of 9 tags"
        );
    }

    #[test]
    fn natural_order_is_an_order() {
        let sorted = [
            "", "0", "00", "1", "1a", "2", "10", "a", "a1", "a1b", "a2", "a10", "ab", "b",
        ];
        for (at, one) in sorted.iter().enumerate() {
            for (other_at, other) in sorted.iter().enumerate() {
                let expected = at.cmp(&other_at);
                assert_eq!(natural(one, other), expected, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn wrong_patterns_say_what_to_write() {
        for (text, message) in [
            ("", "a pattern is empty; delete it, or write * for any tag"),
            (
                "^v1",
                "pattern \"^v1\" holds '^', which no tag has; a regular expression is written /REGEX/",
            ),
            (
                "v1 *",
                "pattern \"v1 *\" holds ' ', which no tag has; a regular expression is written /REGEX/",
            ),
            (
                "/^v1",
                "regular expression \"/^v1\" does not end with /; write /REGEX/",
            ),
            (
                "/",
                "regular expression \"/\" does not end with /; write /REGEX/",
            ),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
        for text in ["/(/", "/a{2/", "/(?=v1)/", "/(?<!x)y/"] {
            let error = Pattern::parse(text).unwrap_err().to_string();
            let inner = text.trim_matches('/');
            let begin = format!("{inner:?} is no regular expression: ");
            assert!(
                error.starts_with(&begin) && error.len() > begin.len(),
                "{error}"
            );
        }
    }
}
