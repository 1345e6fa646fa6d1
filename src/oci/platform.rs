//! Platforms of images, and filters that choose among them. Not here: where an image says its platform (`trim.rs`), and
//! what becomes of images that are not wanted.

use std::fmt;

use serde::Deserialize;

/// What an image runs on, by the words of its index or of its config (image-spec, image-index.md and config.md). What
/// is not said is `None`; so is `unknown`, which attestations say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: Option<String>,
    os_version: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// A platform as JSON has it.
#[derive(Deserialize)]
struct Written {
    os: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let text = |text: Option<String>| text.unwrap_or_default();
        let mut platform = Self::new(
            &text(written.os),
            &text(written.architecture),
            &text(written.variant),
        );
        platform.os_version = said(&text(written.os_version));
        Ok(platform)
    }
}

impl Platform {
    /// `os[:version]/architecture[/variant]`, as it is displayed: `*` is any system or any architecture.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        let read = || {
            let (system, architecture, variant) = match *parts.as_slice() {
                [system, architecture] => (system, architecture, ""),
                [system, architecture, variant] => (system, architecture, word(variant)?),
                _ => return None,
            };
            let (os, version) = match system.split_once(':') {
                Some((os, version)) => (os, word(version)?),
                None => (system, ""),
            };
            let or_any = |part| if part == ANY { Some("") } else { word(part) };
            Some(Self {
                os_version: said(version),
                ..Self::new(or_any(os)?, or_any(architecture)?, variant)
            })
        };
        read().ok_or_else(|| PlatformError {
            place: "",
            text: text.to_owned(),
            remedy: "linux/amd64 or linux/arm64/v8",
        })
    }

    /// With the names that Go's world uses: `x86_64` is `amd64`, `armhf` is `arm/v7` (protocol.md M14).
    fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let architecture = architecture.trim().to_ascii_lowercase();
        let (architecture, implied) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", ""),
            "i386" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            other => (other, ""),
        };
        let variant = said(variant).or_else(|| said(implied));
        Self {
            os: said(os),
            os_version: None,
            architecture: said(architecture),
            variant: variant.map(|text| match text.as_bytes() {
                [b'0'..=b'9', ..] => format!("v{text}"),
                _ => text,
            }),
        }
    }

    /// What the config of an image says. One that is no JSON, as those of some artifacts, says nothing.
    pub fn of_config(config: &[u8]) -> Self {
        serde_json::from_slice(config).unwrap_or_default()
    }

    /// Whether anything is said at all.
    pub fn is_told(&self) -> bool {
        self.os.is_some() || self.architecture.is_some()
    }

    /// The variant, or what is meant where none is said.
    fn variant(&self) -> Option<&str> {
        let implied = match self.architecture.as_deref() {
            Some("amd64") => Some("v1"),
            Some("arm") => Some("v7"),
            Some("arm64") => Some("v8"),
            _ => None,
        };
        self.variant.as_deref().or(implied)
    }

    /// Whether `other` is one of the platforms that this one stands for. What either does not say fits.
    fn covers(&self, other: &Self) -> bool {
        let fits = |wanted: Option<&str>, found: Option<&str>| match (wanted, found) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        let version_fits = match (&self.os_version, &other.os_version) {
            // Windows counts its builds behind the version: 10.0.17763 stands for 10.0.17763.6414.
            (Some(wanted), Some(found)) => found
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
            _ => true,
        };
        fits(self.os.as_deref(), other.os.as_deref())
            && version_fits
            && fits(self.architecture.as_deref(), other.architecture.as_deref())
            && fits(self.variant.as_deref(), other.variant())
    }
}

/// A text that says something, in lower case.
fn said(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    (!text.is_empty() && text != "unknown").then_some(text)
}

/// As [`Platform::parse`] reads it.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.os.as_deref().unwrap_or(ANY))?;
        if let Some(version) = &self.os_version {
            write!(f, ":{version}")?;
        }
        write!(f, "/{}", self.architecture.as_deref().unwrap_or(ANY))?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Which platforms of an image are wanted: at least one, in an order of their own, each once. Two filters that want the
/// same are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlatformFilter {
    wanted: Vec<Platform>,
    is_sparse: bool,
}

impl PlatformFilter {
    /// Of `--os` and `--arch`: any of the systems on any of the architectures, each a list with commas. `None` where
    /// both are empty.
    pub fn of_lists(systems: &str, architectures: &str) -> Result<Option<Self>, PlatformError> {
        let systems = items(systems, "--os", "linux or windows:10.0.17763")?;
        let architectures = items(architectures, "--arch", "amd64 or arm64:v8")?;
        if systems.is_empty() && architectures.is_empty() {
            return Ok(None);
        }
        let any = || vec![("", "")];
        let or_any = |list: Vec<_>| if list.is_empty() { any() } else { list };
        let architectures = or_any(architectures);
        let mut wanted = Vec::new();
        for (os, version) in or_any(systems) {
            for (architecture, variant) in &architectures {
                wanted.push(Platform {
                    os_version: said(version),
                    ..Platform::new(os, architecture, variant)
                });
            }
        }
        Ok(Some(Self::of(wanted)))
    }

    /// Of platforms, at least one.
    pub fn of(mut wanted: Vec<Platform>) -> Self {
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            wanted,
            is_sparse: false,
        }
    }

    /// The same, but indexes keep the bytes that name what is not wanted.
    #[must_use]
    pub fn sparse(self) -> Self {
        Self {
            is_sparse: true,
            ..self
        }
    }

    /// The platforms that are wanted.
    pub fn wanted(&self) -> &[Platform] {
        &self.wanted
    }

    /// Whether indexes keep the bytes that name what is not wanted.
    pub fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// Whether the text of a filter is that of a sparse one.
    pub fn is_sparse_text(text: &str) -> bool {
        text.starts_with(SPARSE)
    }

    /// Whether a platform is wanted.
    pub fn takes(&self, platform: &Platform) -> bool {
        self.wanted.iter().any(|wanted| wanted.covers(platform))
    }
}

/// The items of a list with commas, each cut at its colon.
fn items<'a>(
    list: &'a str,
    place: &'static str,
    remedy: &'static str,
) -> Result<Vec<(&'a str, &'a str)>, PlatformError> {
    let items = list.split(',').map(str::trim);
    let items = items.filter(|item| !item.is_empty()).map(|item| {
        let (name, detail) = item.split_once(':').unwrap_or((item, ""));
        if word(name).is_some() && (detail.is_empty() || word(detail).is_some()) {
            return Ok((name, detail));
        }
        Err(PlatformError {
            place,
            text: item.to_owned(),
            remedy,
        })
    });
    items.collect()
}

fn word(text: &str) -> Option<&str> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (!text.is_empty() && text.bytes().all(is_known)).then_some(text)
}

/// The platforms in order, and whether indexes stay whole: equal texts are equal filters, as the records need it.
impl fmt::Display for PlatformFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sparse {
            f.write_str(SPARSE)?;
        }
        write!(f, "{}", List(&self.wanted))
    }
}

const SPARSE: &str = "sparse ";
/// What stands for each system and each architecture.
const ANY: &str = "*";

/// Platforms with commas between them.
pub struct List<'a>(pub &'a [Platform]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, platform) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{platform}")?;
        }
        Ok(())
    }
}

/// A text that is no platform, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformError {
    place: &'static str,
    text: String,
    remedy: &'static str,
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            text,
            remedy,
        } = self;
        let blank = if place.is_empty() { "" } else { " " };
        write!(
            f,
            "{place}{blank}{text:?} is no platform; write one such as {remedy}"
        )
    }
}

impl std::error::Error for PlatformError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(systems: &str, architectures: &str) -> PlatformFilter {
        PlatformFilter::of_lists(systems, architectures)
            .unwrap()
            .unwrap()
    }

    fn platform(json: &str) -> Platform {
        serde_json::from_str(json).unwrap()
    }

    /// Asserts which of two lists of platforms a filter takes.
    #[track_caller]
    fn check(systems: &str, architectures: &str, taken: &[&str], dropped: &[&str]) {
        let filter = lists(systems, architectures);
        for (texts, is_taken) in [(taken, true), (dropped, false)] {
            for text in texts {
                assert_eq!(filter.takes(&platform(text)), is_taken, "{filter} {text}");
            }
        }
    }

    const LINUX_AMD: &str = r#"{"os":"linux","architecture":"amd64"}"#;
    const LINUX_ARM: &str = r#"{"os":"linux","architecture":"arm64"}"#;
    const WINDOWS_ARM: &str = r#"{"os":"windows","architecture":"arm64"}"#;

    #[test]
    fn filters_take_any_of_each_list() {
        check("linux", "", &[LINUX_AMD, LINUX_ARM], &[WINDOWS_ARM]);
        check("", "arm64", &[LINUX_ARM, WINDOWS_ARM], &[LINUX_AMD]);
        check("linux", "arm64", &[LINUX_ARM], &[LINUX_AMD, WINDOWS_ARM]);
        let all = [LINUX_AMD, LINUX_ARM, WINDOWS_ARM];
        check("linux, windows", "amd64 ,arm64", &all, &[]);
        check("Linux", "x86_64", &[LINUX_AMD], &[LINUX_ARM]);
        check("", "aarch64", &[LINUX_ARM], &[LINUX_AMD]);
        check("", "386", &[r#"{"architecture":"i386"}"#], &[LINUX_AMD]);
    }

    #[test]
    fn a_variant_that_is_not_said_is_the_usual_one() {
        let (v8, v9) = (LINUX_ARM, r#"{"architecture":"arm64","variant":"v9"}"#);
        check("", "arm64:v8", &[v8], &[v9]);
        check("", "arm64:v9", &[v9], &[v8]);
        check("", "arm64", &[v8, v9], &[]);
        let v7 = [
            r#"{"architecture":"arm"}"#,
            r#"{"architecture":"arm","variant":"7"}"#,
        ];
        let v6 = r#"{"architecture":"armel"}"#;
        check("", "arm:v7", &v7, &[v6]);
        check("", "armhf", &v7, &[v6]);
        check("", "arm:6", &[v6], &v7);
        check(
            "",
            "amd64:v3",
            &[r#"{"architecture":"amd64","variant":"v3"}"#],
            &[LINUX_AMD],
        );
        check(
            "",
            "ppc64le:power9",
            &[r#"{"architecture":"ppc64le"}"#],
            &[LINUX_AMD],
        );
    }

    #[test]
    fn a_version_stands_for_its_builds() {
        check(
            "windows:10.0.17763",
            "",
            &[
                r#"{"os":"windows","os.version":"10.0.17763.6414"}"#,
                r#"{"os":"windows","os.version":"10.0.17763"}"#,
                WINDOWS_ARM,
            ],
            &[
                r#"{"os":"windows","os.version":"10.0.177630"}"#,
                r#"{"os":"windows","os.version":"10.0.20348.1"}"#,
                LINUX_ARM,
            ],
        );
    }

    #[test]
    fn what_does_not_say_its_platform_is_taken() {
        let silent = [
            "{}",
            r#"{"os":"unknown","architecture":"unknown"}"#,
            r#"{"os":null,"architecture":""}"#,
        ];
        for text in silent {
            assert!(!platform(text).is_told());
        }
        check("linux", "amd64", &silent, &[]);
        check(
            "linux",
            "amd64",
            &[r#"{"os":"linux"}"#],
            &[r#"{"os":"windows"}"#],
        );
    }

    #[test]
    fn equal_filters_have_equal_texts() {
        assert_eq!(PlatformFilter::of_lists("", " ,").unwrap(), None);
        for (systems, architectures, text) in [
            ("linux", "", "linux/*"),
            ("", "arm64:v8,amd64", "*/amd64,*/arm64/v8"),
            ("windows:10.0.1", "x86_64", "windows:10.0.1/amd64"),
            ("linux,linux", "b,a", "linux/a,linux/b"),
        ] {
            let filter = lists(systems, architectures);
            assert_eq!(filter.to_string(), text);
            let platforms = text.split(',').map(Platform::parse);
            let platforms: Result<_, _> = platforms.collect();
            assert_eq!(platforms.map(PlatformFilter::of), Ok(filter));
        }
        let platforms = ["linux/arm64/v8", "LINUX/x86_64", "linux/amd64"];
        let platforms = platforms.map(|text| Platform::parse(text).unwrap());
        let filter = PlatformFilter::of(platforms.to_vec());
        assert_eq!(filter.to_string(), "linux/amd64,linux/arm64/v8");
        assert_eq!(filter, lists("linux", "amd64,arm64:v8"));
        assert_eq!(
            filter.sparse().to_string(),
            "sparse linux/amd64,linux/arm64/v8"
        );
    }

    #[test]
    fn wrong_texts_say_what_to_write() {
        let bad_list = |systems, architectures| {
            let error = PlatformFilter::of_lists(systems, architectures);
            error.unwrap_err().to_string()
        };
        assert_eq!(
            bad_list("linux/amd64", ""),
            "--os \"linux/amd64\" is no platform; write one such as linux or windows:10.0.17763"
        );
        assert_eq!(
            bad_list("", "amd64,arm 64"),
            "--arch \"arm 64\" is no platform; write one such as amd64 or arm64:v8"
        );
        for text in [
            "amd64",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "linux/a b",
            "",
            "*",
            "windows:/amd64",
            "linux/arm/*",
            "l*/amd64",
        ] {
            let error = Platform::parse(text).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{text:?} is no platform; write one such as linux/amd64 or linux/arm64/v8")
            );
        }
    }
}
