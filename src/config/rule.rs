//! One rule: a source, which of its tags, and its targets, checked against each other (decisions D9, usage.md
//! section 5). Not here: the file it stands in (`mod.rs`), and other rules.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::LoadOptions;
use super::body::Body;
use super::side::{Names, Side, SideError, Written, holds_user};
use super::tags::{FilterError, TagFilter};
use super::tree::Position;
use crate::oci::{
    Host, NameError, Platform, PlatformError, PlatformFilter, Reference, Repository, Tag,
};
use crate::store::Place;

/// A rule that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where its source is written.
    pub position: Position,
    /// Source and targets are namespaces: the rule stands for one for each repository in the source, as deep as this
    /// says.
    pub levels: Option<Levels>,
    /// What to copy from.
    pub source: Place,
    /// Which of its images.
    pub selection: Selection,
    /// Where to, at least one.
    pub targets: Vec<RuleTarget>,
    /// Which platforms of its images are wanted; `None`: images are copied as they are.
    pub platforms: Option<Arc<PlatformFilter>>,
    /// Whether targets get the images whatever they have.
    pub force: bool,
    /// Whether what is about an image goes where it goes.
    pub referrers: bool,
    /// The source as written.
    pub text: String,
    /// `tags` as JSON, where the rule has it.
    pub tags: Option<String>,
}

/// How deep a rule looks into a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// The repositories in the namespace itself.
    One,
    /// Those below them, too.
    All,
}

impl Rule {
    /// The rule for one repository of the source's registry; `None` where it is not in the namespace. Its targets have
    /// the rest of its path, which may make them too long.
    pub fn for_repository(&self, repository: &Repository) -> Option<Result<Self, NameError>> {
        let Place::Registry(host, namespace) = &self.source else {
            return None;
        };
        let rest = repository.as_str().strip_prefix(namespace.as_str())?;
        let rest = rest.strip_prefix('/')?;
        if self.levels? == Levels::One && rest.contains('/') {
            return None;
        }
        let target = |target: &RuleTarget| {
            let place = match &target.place {
                Place::Registry(host, namespace) => {
                    let path = format!("{}/{rest}", namespace.as_str());
                    Place::Registry(host.clone(), Repository::parse(&path)?)
                }
                Place::Layout(folder) => Place::Layout(folder.join(rest)),
            };
            let names = target.names.clone();
            Ok(RuleTarget { place, names })
        };
        let targets: Result<_, _> = self.targets.iter().map(target).collect();
        // What the text says behind the namespace holds for each of its repositories.
        let rest = self.text.split_once("/*").map_or("", |(_, rest)| rest);
        let rest = rest.trim_start_matches('*');
        Some(targets.map(|targets| Self {
            levels: None,
            source: Place::Registry(host.clone(), repository.clone()),
            text: format!("{host}/{repository}{rest}"),
            targets,
            ..self.clone()
        }))
    }

    /// What a rule object says beside `to` to mean the same without any options of the command line, as members of a JSON
    /// object; for an image that was found by it without the choice of tags.
    pub fn members(&self, is_image: bool) -> String {
        let tags = self.tags.as_ref().filter(|_| !is_image);
        let mut members: Vec<String> = tags
            .map(|tags| format!("\"tags\": {tags}"))
            .into_iter()
            .collect();
        let filter = self.platforms.as_ref();
        if let Some(filter) = filter {
            let platforms: Vec<String> = filter.wanted().iter().map(ToString::to_string).collect();
            members.push(format!("\"platforms\": {}", serde_json::json!(platforms)));
        }
        for (switch, is_on) in [
            ("sparse", filter.is_some_and(|filter| filter.is_sparse())),
            ("force", self.force),
            ("referrers", self.referrers),
        ] {
            if is_on {
                members.push(format!("\"{switch}\": true"));
            }
        }
        members.join(", ")
    }
}

/// Which images of the source a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The tags that the repository has and that pass.
    Listed(TagFilter),
    /// These, each once, in the order written.
    Named(Vec<Reference>),
    /// The only image of a layout, with or without a name there. Every target names its tag.
    Sole,
}

impl Selection {
    /// The filter, if it needs to know when the images were made.
    pub fn dated(&self) -> Option<&TagFilter> {
        match self {
            Self::Listed(filter) if filter.needs_dates() => Some(filter),
            _ => None,
        }
    }
}

/// One target of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleTarget {
    /// Where to copy to.
    pub place: Place,
    /// What the images of [`Selection::Named`] and [`Selection::Sole`] are called there, one after another. Empty: as
    /// at the source.
    pub names: Vec<Reference>,
}

/// As a rule writes it.
impl fmt::Display for RuleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        for (number, name) in self.names.iter().enumerate() {
            let before = match name {
                _ if number > 0 => ',',
                Reference::Tag(_) => ':',
                Reference::Digest(_) => '@',
            };
            write!(f, "{before}{name}")?;
        }
        Ok(())
    }
}

/// A rule, or one target of it, that cannot be carried out. All others can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Where the text stands that is wrong.
    pub position: Position,
    /// `SOURCE: TARGET` as written, shortened, without passwords.
    pub rule: String,
    /// What is wrong with it.
    pub what: RuleFault,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: rule {:?}: {}", self.position, self.rule, self.what)
    }
}

impl std::error::Error for RuleError {}

/// Checks a rule. A wrong source costs the rule, a wrong target only itself: it was a rule of its own to the original
/// (original.md 4, version 1.5.1). What it does not say is as the command line has it. What is dropped without being an
/// error goes to `warnings`.
pub(crate) fn validate(
    source: &Written<'_>,
    body: &Body<'_>,
    defaults: &LoadOptions<'_>,
    warnings: &mut Vec<String>,
) -> (Option<Rule>, Vec<RuleError>) {
    let targets = &body.targets;
    let mut failed = Vec::new();
    let mut good = Vec::new();
    let fail = |position: &Position, targets: &[Written<'_>], what| RuleError {
        position: position.clone(),
        rule: show(source, targets),
        what,
    };
    let mut from = match read_source(source, warnings) {
        Ok(from) => from,
        Err(what) => return (None, vec![fail(source.position, targets, what)]),
    };
    match (&body.tags, &from.names) {
        (None, Names::None) if from.levels.is_some() => {
            from.names = Names::Chosen(TagFilter::default());
        }
        (None, _) => {}
        (Some(Ok(filter)), Names::None) => from.names = Names::Chosen(filter.clone()),
        (Some(Ok(_)), _) => {
            return (
                None,
                vec![fail(source.position, targets, RuleFault::TagsTwice)],
            );
        }
        (Some(Err((position, error))), _) => {
            let what = RuleFault::Tags(error.clone());
            return (None, vec![fail(position, targets, what)]);
        }
    }
    for target in targets {
        match read_target(&from, target, defaults, warnings) {
            Ok(target) => good.push(target),
            Err(what) => failed.push(fail(target.position, std::slice::from_ref(target), what)),
        }
    }
    if good.is_empty() {
        return (None, failed);
    }
    let named = good
        .iter()
        .filter(|target| !target.names.is_empty())
        .count();
    let selection = match from.names {
        Names::Tags(tags) => Selection::Named(tags.into_iter().map(Reference::Tag).collect()),
        Names::Digest(_, digest) => Selection::Named(vec![digest.into()]),
        Names::Chosen(filter) => Selection::Listed(filter),
        Names::None if named == 0 => Selection::Listed(TagFilter::default()),
        Names::None if named == good.len() => Selection::Sole,
        Names::None => {
            failed.push(fail(source.position, targets, RuleFault::SomeTagged));
            return (None, failed);
        }
    };
    let platforms = match read_platforms(body, defaults) {
        Ok(platforms) => platforms,
        Err((position, what)) => {
            failed.push(fail(position, targets, what));
            return (None, failed);
        }
    };
    if body.sparse && platforms.is_none() {
        warnings.push(format!(
            "{}: `sparse` changes nothing without `platforms`; name some, or delete it",
            source.position
        ));
    }
    let rule = Rule {
        position: source.position.clone(),
        levels: from.levels,
        source: from.place,
        selection,
        targets: good,
        platforms,
        force: body.force || defaults.force,
        referrers: body.referrers || defaults.referrers,
        text: source.text.trim().to_owned(),
        tags: body.tags_as_json.clone(),
    };
    (Some(rule), failed)
}

/// The platforms that the rule names, else those of the command line.
fn read_platforms<'a>(
    body: &Body<'a>,
    defaults: &LoadOptions<'_>,
) -> Result<Option<Arc<PlatformFilter>>, (&'a Position, RuleFault)> {
    let mut own = Vec::new();
    for platform in &body.platforms {
        let wrong = |error| (platform.position, RuleFault::Platform(error));
        own.push(Platform::parse(platform.text).map_err(wrong)?);
    }
    let own = (!own.is_empty()).then(|| PlatformFilter::of(own));
    let platforms = own.or_else(|| defaults.platforms.cloned());
    Ok(platforms.map(|filter| Arc::new(if body.sparse { filter.sparse() } else { filter })))
}

fn read_source(source: &Written<'_>, warnings: &mut Vec<String>) -> Result<Side, RuleFault> {
    if source.text.trim().is_empty() {
        return Err(RuleFault::EmptySource);
    }
    Side::parse(source, false, warnings).map_err(RuleFault::Source)
}

fn read_target(
    from: &Side,
    target: &Written<'_>,
    defaults: &LoadOptions<'_>,
    warnings: &mut Vec<String>,
) -> Result<RuleTarget, RuleFault> {
    let (place, names) = if target.text.trim().is_empty() {
        (default_target(from, defaults)?, Names::None)
    } else {
        let is_namespace = from.levels.is_some();
        let to = Side::parse(target, is_namespace, warnings).map_err(RuleFault::Target)?;
        if to.levels.is_some() {
            return Err(RuleFault::LevelsAtTarget);
        }
        (to.place, to.names)
    };
    let names = names_at_target(from, &names)?;
    let is_digest = |name: &Reference| name.tag().is_none();
    let by_digest = match &from.names {
        Names::Digest(..) => names.iter().all(is_digest),
        _ => false,
    };
    if by_digest && matches!(place, Place::Layout(_)) {
        return Err(RuleFault::LayoutWithoutTag);
    }
    if names.is_empty() && place == from.place {
        return Err(RuleFault::OwnTarget);
    }
    if from.levels == Some(Levels::All) && place.is_below(&from.place) {
        return Err(RuleFault::InsideSource);
    }
    Ok(RuleTarget { place, names })
}

/// What the images of the source are called at a target that has these names; empty where they keep theirs.
fn names_at_target(from: &Side, to: &Names) -> Result<Vec<Reference>, RuleFault> {
    let one = |tag: &Tag| vec![Reference::Tag(tag.clone())];
    let counts = |source, target| RuleFault::TagCounts { source, target };
    match (&from.names, to) {
        (Names::Digest(Some(tag), _), Names::None) => Ok(one(tag)),
        (_, Names::None) => Ok(Vec::new()),
        (Names::None, Names::Tags(tags)) => match tags.as_slice() {
            [tag] if matches!(from.place, Place::Layout(_)) => Ok(one(tag)),
            _ => Err(RuleFault::TagOnTargetOnly),
        },
        (Names::Tags(wanted), Names::Tags(named)) if wanted == named => Ok(Vec::new()),
        (Names::Tags(wanted), Names::Tags(named)) if wanted.len() == named.len() => {
            Ok(named.iter().cloned().map(Reference::Tag).collect())
        }
        (Names::Tags(wanted), Names::Tags(named)) => Err(counts(wanted.len(), named.len())),
        (Names::Digest(..), Names::Tags(named)) => match named.as_slice() {
            [tag] => Ok(one(tag)),
            _ => Err(counts(1, named.len())),
        },
        (Names::Digest(_, wanted), Names::Digest(tag, named)) if wanted == named => {
            Ok(tag.iter().cloned().map(Reference::Tag).collect())
        }
        (Names::Digest(..), Names::Digest(..)) => Err(RuleFault::OtherDigest),
        (_, Names::Chosen(_)) => Err(RuleFault::RegexAtTarget),
        (Names::Chosen(_), _) => Err(RuleFault::OneForMany),
        (Names::None | Names::Tags(_), Names::Digest(..)) => Err(RuleFault::DigestOnTargetOnly),
    }
}

/// The source's repository without its first component, which is the namespace, under the defaults (original.md 1.5).
/// Of a namespace it is theirs.
fn default_target(source: &Side, defaults: &LoadOptions<'_>) -> Result<Place, RuleFault> {
    let Place::Registry(_, repository) = &source.place else {
        return Err(RuleFault::LayoutWithoutTarget);
    };
    let (Some(registry), Some(namespace)) = (defaults.registry, defaults.namespace) else {
        return Err(RuleFault::NoDefaults);
    };
    let path = repository.as_str();
    let path = path.split_once('/').map_or(path, |(_, rest)| rest);
    let host = Host::parse(registry).map_err(RuleFault::DefaultRegistry)?;
    let path = match source.levels {
        Some(_) => namespace.to_owned(),
        None => format!("{namespace}/{path}"),
    };
    let repository = Repository::parse(&path).map_err(RuleFault::DefaultNamespace)?;
    Ok(Place::Registry(host, repository))
}

/// `SOURCE: TARGET` for messages.
fn show(source: &Written<'_>, targets: &[Written<'_>]) -> String {
    let targets: Vec<_> = targets.iter().map(|target| mask(target.text)).collect();
    let whole = format!("{}: {}", mask(source.text), targets.join(", "));
    match whole.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", whole.get(..at).unwrap_or_default()),
        None => whole,
    }
}

/// Hides `user:password@`, which a layout's path does not have.
fn mask(text: &str) -> Cow<'_, str> {
    if text.trim_start().starts_with("oci:") || !holds_user(text) {
        return text.into();
    }
    let in_front = text.rsplit_once('/').and_then(|(head, _)| head.rfind('@'));
    let rest = in_front.or(text.rfind('@')).and_then(|at| text.get(at..));
    format!("***{}", rest.unwrap_or_default()).into()
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleFault {
    /// No source.
    EmptySource,
    /// The source's text.
    Source(SideError),
    /// The target's text.
    Target(SideError),
    /// An empty target, and no default for both its registry and its namespace.
    NoDefaults,
    /// The default registry is none.
    DefaultRegistry(NameError),
    /// The default namespace makes no repository.
    DefaultNamespace(NameError),
    /// An empty target for a layout.
    LayoutWithoutTarget,
    /// All tags cannot become one.
    TagOnTargetOnly,
    /// More tags on one side than on the other.
    TagCounts {
        /// Those of the source.
        source: usize,
        /// Those of the target.
        target: usize,
    },
    /// A text of `tags`.
    Tags(FilterError),
    /// `tags` for a source that names its tags itself.
    TagsTwice,
    /// A name at the target for any number of tags.
    OneForMany,
    /// A regular expression that could choose nothing.
    RegexAtTarget,
    /// `/*` at the target.
    LevelsAtTarget,
    /// A target that would be part of the source in the next run.
    InsideSource,
    /// A digest that the source does not name.
    DigestOnTargetOnly,
    /// Two digests.
    OtherDigest,
    /// An image without a tag would not be found again in a layout.
    LayoutWithoutTag,
    /// A layout without tag is either all of its tags or its only image.
    SomeTagged,
    /// A platform's text.
    Platform(PlatformError),
    /// Nothing would be copied.
    OwnTarget,
}

impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptySource => f.write_str("the source is empty; a rule is SOURCE: TARGET"),
            Self::Source(error) => write!(f, "source: {error}"),
            Self::Target(error) => write!(f, "target: {error}"),
            Self::NoDefaults => f.write_str(
                "an empty target needs a default registry and a default namespace; give both --registry and \
                 --namespace, or write the target",
            ),
            Self::DefaultRegistry(error) => write!(f, "default registry: {error}"),
            Self::DefaultNamespace(error) => write!(f, "default namespace: {error}"),
            Self::LayoutWithoutTarget => {
                f.write_str("a layout as source has no default target; write the target")
            }
            Self::TagOnTargetOnly => f.write_str(
                "the target has a tag and the source has none; write :latest in the source or drop the target's tag",
            ),
            Self::TagCounts { source, target } => write!(
                f,
                "the source has {}, the target {target}; drop the target's, or write a rule for each tag",
                if *source == 1 {
                    "1 tag".into()
                } else {
                    format!("{source} tags")
                }
            ),
            Self::Tags(error) => write!(f, "tags: {error}"),
            Self::TagsTwice => f.write_str(
                "the source names its tags and \"tags\" chooses among all; drop what stands behind the repository, or \"tags\"",
            ),
            Self::OneForMany => {
                f.write_str("the rule chooses among tags, which cannot become one; drop the target's")
            }
            Self::LevelsAtTarget => f.write_str(
                "the target of a namespace is a namespace, below which the names are kept; drop its `*`",
            ),
            Self::InsideSource => f.write_str(
                "the target lies inside the source, so that each run would copy the copies; name another target",
            ),
            Self::RegexAtTarget => {
                f.write_str("a regular expression chooses tags of the source; drop the target's")
            }
            Self::DigestOnTargetOnly => f.write_str(
                "the target has a digest and the source has none; write it in the source, or drop it",
            ),
            Self::OtherDigest => f.write_str(
                "the target has another digest than the source; a copy keeps its digest, so drop the target's",
            ),
            Self::LayoutWithoutTag => f.write_str(
                "a layout names its images by tags; write oci:PATH:TAG, or a tag in front of the source's digest",
            ),
            Self::SomeTagged => f.write_str(
                "some targets of this layout have a tag and others have none; write a rule for each kind",
            ),
            Self::Platform(error) => error.fmt(f),
            Self::OwnTarget => f.write_str("the source is its own target; name another target"),
        }
    }
}

impl std::error::Error for RuleFault {}

/// As many characters of a rule as a message shows.
const MAX_SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::super::tags::Pattern;
    use super::*;

    fn defaults() -> LoadOptions<'static> {
        LoadOptions {
            registry: Some("reg.example"),
            namespace: Some("ns"),
            ..LoadOptions::default()
        }
    }

    type Checked = (Option<Rule>, Vec<RuleError>, Vec<String>);

    fn check_with(defaults: &LoadOptions<'_>, source: &str, targets: &[&str]) -> Checked {
        let position = Position {
            file: "f".into(),
            line: 1,
            column: 2,
        };
        let written = |text| Written {
            text,
            position: &position,
        };
        let targets = targets.iter().map(|text| written(text)).collect();
        let mut warnings = Vec::new();
        let (rule, failed) = validate(
            &written(source),
            &Body::of(targets),
            defaults,
            &mut warnings,
        );
        (rule, failed, warnings)
    }

    fn draw_filter(filter: &TagFilter) -> String {
        match filter {
            filter if *filter == TagFilter::default() => "*".into(),
            TagFilter { allow, .. } => allow.iter().map(Pattern::as_str).collect(),
        }
    }

    fn draw(rule: &Rule) -> String {
        let join = |names: &[Reference]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            names.join(",")
        };
        let selection = match &rule.selection {
            Selection::Listed(filter) => draw_filter(filter),
            Selection::Sole => "sole".into(),
            Selection::Named(names) => join(names),
        };
        let targets = rule.targets.iter().map(|target| match &*target.names {
            [] => target.place.to_string(),
            names => format!("{}:{}", target.place, join(names)),
        });
        let targets: Vec<_> = targets.collect();
        let levels = match rule.levels {
            None => "",
            Some(Levels::One) => "/*",
            Some(Levels::All) => "/**",
        };
        let source = &rule.source;
        format!("{source}{levels}:{selection} -> {}", targets.join(" "))
    }

    #[track_caller]
    fn good(source: &str, targets: &[&str], expected: &str) {
        let (rule, failed, warnings) = check_with(&defaults(), source, targets);
        assert_eq!((failed, warnings), (Vec::new(), Vec::new()), "{source}");
        assert_eq!(draw(&rule.unwrap()), expected, "{source}");
    }

    /// The one message about a rule of one target, without what all messages begin with.
    #[track_caller]
    fn bad(source: &str, target: &str, expected: &str) {
        let (rule, failed, _) = check_with(&defaults(), source, &[target]);
        assert_eq!(rule, None, "{source}: {target}");
        let failed: Vec<_> = failed.iter().map(|error| error.what.to_string()).collect();
        assert_eq!(failed, [expected], "{source}: {target}");
    }

    #[test]
    fn every_form_of_a_rule() {
        good("quay.io/a/b", &["d.io/x"], "quay.io/a/b:* -> d.io/x");
        good("quay.io/a/b:1", &["d.io/x"], "quay.io/a/b:1 -> d.io/x");
        good("quay.io/a/b:1", &["d.io/x:1"], "quay.io/a/b:1 -> d.io/x");
        good("quay.io/a/b:1", &["d.io/x:2"], "quay.io/a/b:1 -> d.io/x:2");
        good("a.io/b:1,2,3", &["d.io/x"], "a.io/b:1,2,3 -> d.io/x");
        good("a.io/b:1,2", &["d.io/x:1,2"], "a.io/b:1,2 -> d.io/x");
        good("a.io/b:1 , 2,1", &["d.io/x:1, 2"], "a.io/b:1,2 -> d.io/x");
        good("a.io/b:1,1", &["d.io/x:3"], "a.io/b:1 -> d.io/x:3");
        good(
            "a.io/b:1",
            &["d.io/x", "e.io/y:2"],
            "a.io/b:1 -> d.io/x e.io/y:2",
        );
        good("a.io/b:1", &["a.io/b:2"], "a.io/b:1 -> a.io/b:2");
        good(
            "a:5000/b/c:1",
            &["[::1]:5000/x"],
            "a:5000/b/c:1 -> [::1]:5000/x",
        );
        good(
            "nginx:1",
            &["user/app"],
            "docker.io/library/nginx:1 -> docker.io/user/app",
        );
        good(
            "docker.io/_/nginx",
            &["d.io/x"],
            "docker.io/library/nginx:* -> d.io/x",
        );
        good(
            "hub.docker.com/_/nginx",
            &["d.io/x"],
            "docker.io/library/nginx:* -> d.io/x",
        );
        good(
            "_/nginx:1",
            &["d.io/x"],
            "docker.io/library/nginx:1 -> d.io/x",
        );
        good(
            "a.io/b_c/d:1",
            &["MYHOST/foo"],
            "a.io/b_c/d:1 -> myhost/foo",
        );
    }

    #[test]
    fn a_regular_expression_chooses_tags() {
        // It may hold what is a mistake elsewhere.
        for regex in [
            "^v1$",
            r"^\d{1,2}\.",
            "(2023|2024)",
            "(.*)",
            "a/b",
            "x@y:z",
            "[a](b)",
            "$A：",
        ] {
            let source = format!("a.io:5000/b:/{regex}/");
            let expected = format!("a.io:5000/b:/{regex}/ -> d.io/x");
            good(&source, &["d.io/x"], &expected);
        }
        let begin = "source: \"(?=v)\" is no regular expression: ";
        let (_, failed, _) = check_with(&defaults(), "a.io/b:/(?=v)/", &["d.io/x"]);
        let message = failed[0].what.to_string();
        assert!(message.starts_with(begin), "{message}");
        let many = "the rule chooses among tags, which cannot become one; drop the target's";
        bad("a.io/b:/x/", "d.io/x:1", many);
        bad("a.io/b:/x/", &format!("d.io/x@{D}"), many);
        let own = "the source is its own target; name another target";
        bad("a.io/b:/x/", "a.io/b", own);
        let at_target = "a regular expression chooses tags of the source; drop the target's";
        for source in ["a.io/b", "a.io/b:1", "a.io/b:/x/"] {
            bad(source, "d.io/x:/x/", at_target);
        }
    }

    #[test]
    fn a_namespace_stands_for_its_repositories() {
        good("a.io/n/*", &["d.io/x"], "a.io/n/*:* -> d.io/x");
        good(
            "a.io/n/m/**",
            &["d.io/x/y", "oci:/no/x"],
            "a.io/n/m/**:* -> d.io/x/y oci:/no/x",
        );
        good("a.io/n/*:/^v/", &["d.io/x"], "a.io/n/*:/^v/ -> d.io/x");
        // The first of what will be three components is the host.
        good("harbor/n/*", &["mirror/x"], "harbor/n/*:* -> mirror/x");
        good(
            "docker.io/library/*",
            &["d.io/x"],
            "docker.io/library/*:* -> d.io/x",
        );
        good(
            "library/*",
            &["team"],
            "docker.io/library/*:* -> docker.io/team",
        );
        good("a.io/n/*", &[""], "a.io/n/*:* -> reg.example/ns");
        good("a.io/n/*", &["a.io/n/m"], "a.io/n/*:* -> a.io/n/m");
        let star = "source: a `*` stands at the end of a name only: REGISTRY/NAMESPACE/* for its repositories, /** for \
                    those below too";
        for source in [
            "a.io/n*",
            "a.io/n/*/b",
            "a.io/*/b",
            "a.io/n/***",
            "a.io/n/*/*",
            "a.io/n:1/*",
        ] {
            bad(source, "d.io/x", star);
        }
        for source in ["a.io/*", "localhost:5000/**"] {
            let message = "source: a registry is no namespace; write REGISTRY/NAMESPACE";
            bad(source, "d.io/x", message);
        }
        bad(
            "a.io/n/*",
            "d.io",
            "target: a registry is no namespace; write REGISTRY/NAMESPACE",
        );
        bad("/*", "d.io/x", "source: the repository is empty");
        bad(
            "oci:x/*",
            "d.io/x",
            "source: a layout is one repository; write a rule for each layout, without the `*`",
        );
        let kept = "the target of a namespace is a namespace, below which the names are kept; drop its `*`";
        bad("a.io/n/*", "d.io/x/*", kept);
        bad("a.io/n:1", "d.io/x/*", kept);
        let many = "the rule chooses among tags, which cannot become one; drop the target's";
        bad("a.io/n/*", "d.io/x:1", many);
        bad(
            "a.io/n/*",
            "a.io/n",
            "the source is its own target; name another target",
        );
        bad(
            "a.io/n/**",
            "a.io/n/m",
            "the target lies inside the source, so that each run would copy the copies; name another target",
        );
    }

    #[test]
    fn a_repository_keeps_the_rest_of_its_path() {
        let rule = |levels| {
            let source = format!("a.io/n/m/{levels}");
            let (rule, ..) = check_with(&defaults(), &source, &["d.io/x", "oci:/no/y"]);
            rule.unwrap()
        };
        let drawn = |levels, repository: &str| {
            let repository = Repository::parse(repository).unwrap();
            let rule = rule(levels).for_repository(&repository)?;
            Some(draw(&rule.unwrap()))
        };
        let one = "a.io/n/m/b:* -> d.io/x/b oci:/no/y/b";
        let deep = "a.io/n/m/b/c:* -> d.io/x/b/c oci:/no/y/b/c";
        assert_eq!(drawn("*", "n/m/b").as_deref(), Some(one));
        assert_eq!(drawn("**", "n/m/b").as_deref(), Some(one));
        assert_eq!(drawn("*", "n/m/b/c"), None);
        assert_eq!(drawn("**", "n/m/b/c").as_deref(), Some(deep));
        for other in ["n/m", "n/mb", "n/mb/c", "n", "x/n/m/b"] {
            assert_eq!(drawn("**", other), None, "{other}");
        }
        let (long_rule, ..) = check_with(&defaults(), "a.io/n/*", &["d.io/long/long"]);
        let long = Repository::parse(&format!("n/{}", "b".repeat(250))).unwrap();
        let error = long_rule
            .unwrap()
            .for_repository(&long)
            .unwrap()
            .unwrap_err();
        assert_eq!(error, NameError::TooLong);
        // Written again, it says what the rule for the namespace said behind it.
        for (levels, text) in [("**", "a.io/n/m/b"), ("*:/^v.*/", "a.io/n/m/b:/^v.*/")] {
            let repository = Repository::parse("n/m/b").unwrap();
            let one = rule(levels).for_repository(&repository).unwrap();
            assert_eq!(one.unwrap().text, text);
        }
    }

    const D: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn tag_lists_are_mapped_one_to_one() {
        for (source, target, expected) in [
            ("1,2", "3,4", ":1,2 -> d.io/x:3,4"),
            ("1,2", "2,1", ":1,2 -> d.io/x:2,1"),
            ("1,2", "1,3", ":1,2 -> d.io/x:1,3"),
            ("1, 2,1", "3,4,3", ":1,2 -> d.io/x:3,4"),
        ] {
            let expected = format!("a.io/b{expected}");
            good(
                &format!("a.io/b:{source}"),
                &[&format!("d.io/x:{target}")],
                &expected,
            );
        }
        good("a.io/b:1,2", &["a.io/b:3,4"], "a.io/b:1,2 -> a.io/b:3,4");
    }

    #[test]
    fn a_digest_is_put_by_itself_or_under_a_tag() {
        for (source, target, expected) in [
            ("@D", "", ""),
            ("@D", "@D", ""),
            ("@D", ":1", ":1"),
            ("@D", ":1@D", ":1"),
            (":1@D", "", ":1"),
            (":1@D", ":1@D", ":1"),
            (":1@D", ":2", ":2"),
            (":1@D", "@D", ""),
        ] {
            let source = format!("a.io/b{}", source.replace('D', D));
            let target = format!("d.io/x{}", target.replace('D', D));
            good(
                &source,
                &[&target],
                &format!("a.io/b:{D} -> d.io/x{expected}"),
            );
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let here = here.display();
        good(
            &format!("oci:src@{D}"),
            &["d.io/x:1", "oci:x:2"],
            &format!("oci:{here}/src:{D} -> d.io/x:1 oci:{here}/x:2"),
        );
    }

    #[test]
    fn an_empty_target_is_the_default() {
        for (source, target) in [
            ("nginx:1", "nginx"),
            ("coreos/etcd:1,2", "etcd"),
            ("quay.io/a/b/c", "b/c"),
            ("gcr.io/pause:3", "pause"),
        ] {
            let (rule, failed, warnings) = check_with(&defaults(), source, &[""]);
            assert_eq!((failed, warnings), (Vec::new(), Vec::new()), "{source}");
            let rule = rule.unwrap();
            assert_eq!(
                rule.targets[0].place.to_string(),
                format!("reg.example/ns/{target}")
            );
            assert_eq!(rule.targets[0].names, []);
        }
        let nested = LoadOptions {
            registry: Some("docker.io"),
            namespace: Some("a/b"),
            ..defaults()
        };
        let (rule, ..) = check_with(&nested, "quay.io/x/y:1", &[" "]);
        assert_eq!(draw(&rule.unwrap()), "quay.io/x/y:1 -> docker.io/a/b/y");
    }

    #[test]
    fn an_empty_target_without_defaults_fails() {
        let failed = |registry, namespace, source| {
            let (rule, failed, _) = check_with(
                &LoadOptions {
                    registry,
                    namespace,
                    ..defaults()
                },
                source,
                &[""],
            );
            assert_eq!(rule, None);
            failed[0].what.to_string()
        };
        let both = "an empty target needs a default registry and a default namespace; give both --registry and \
                    --namespace, or write the target";
        assert_eq!(failed(None, None, "a"), both);
        assert_eq!(failed(Some("r.io"), None, "a"), both);
        assert_eq!(failed(None, Some("n"), "a"), both);
        assert_eq!(
            failed(Some("https://r.io"), Some("n"), "a"),
            "default registry: a name has no scheme: drop the https:// or http:// in front"
        );
        assert_eq!(
            failed(Some("r.io"), Some("N"), "a"),
            "default namespace: repository name must be lowercase: \"N/a\""
        );
        assert_eq!(
            failed(Some("r.io"), Some("n"), "oci:x"),
            "a layout as source has no default target; write the target"
        );
    }

    #[test]
    fn wrong_rules_say_what_to_write() {
        let target = "d.io/x";
        // Sides that do not fit each other.
        bad("", target, "the source is empty; a rule is SOURCE: TARGET");
        bad(
            " \t",
            target,
            "the source is empty; a rule is SOURCE: TARGET",
        );
        let tag_on_target = "the target has a tag and the source has none; write :latest in the source or drop the \
                             target's tag";
        bad("a.io/b", "d.io/x:1", tag_on_target);
        bad("a.io/b", "d.io/x:1,2", tag_on_target);
        bad(
            "a.io/b:1,2",
            "d.io/x:1",
            "the source has 2 tags, the target 1; drop the target's, or write a rule for each tag",
        );
        bad(
            "a.io/b:1",
            "d.io/x:1,2,3",
            "the source has 1 tag, the target 3; drop the target's, or write a rule for each tag",
        );
        bad(
            "a.io/b:1,2,2",
            "d.io/x:1,2,3",
            "the source has 2 tags, the target 3; drop the target's, or write a rule for each tag",
        );
        let digest_on_target =
            "the target has a digest and the source has none; write it in the source, or drop it";
        bad("a.io/b", &format!("d.io/x@{D}"), digest_on_target);
        bad("a.io/b:1", &format!("d.io/x:1@{D}"), digest_on_target);
        let source = format!("a.io/b@{D}");
        bad(
            &source,
            &format!("d.io/x@{}", D.replace("aaa", "bbb")),
            "the target has another digest than the source; a copy keeps its digest, so drop the target's",
        );
        bad(
            &source,
            "d.io/x:1,2",
            "the source has 1 tag, the target 2; drop the target's, or write a rule for each tag",
        );
        let layout = "a layout names its images by tags; write oci:PATH:TAG, or a tag in front of the source's digest";
        bad(&source, "oci:x", layout);
        bad(&source, &format!("oci:x@{D}"), layout);
        let own = "the source is its own target; name another target";
        bad("a.io/b", "a.io/b", own);
        bad("a.io/b:1,2", "A.IO:443/b", own);
        bad("a.io/b:1", "a.io/b:1", own);
        bad(&source, &format!("a.io/b@{D}"), own);
        bad("nginx", "index.docker.io/library/nginx", own);
        bad("oci:x/../y", "oci:y", own);
        bad("reg.example/ns/a", "", own);
    }

    #[test]
    fn wrong_names_say_what_to_write() {
        for (name, message) in WRONG_NAMES {
            bad(name, "d.io/x/y", &format!("source: {message}"));
            // The same on the other side, whose tag never comes into question.
            bad("s.io/a:1", name, &format!("target: {message}"));
        }
    }

    const WRONG_NAMES: &[(&str, &str)] = &[
        ("quay.io/a/b：v1", "U+FF1A where `:` is meant; write `:`"),
        ("quay.io／a／b", "U+FF0F where `/` is meant; write `/`"),
        ("a.io/b:1，2", "U+FF0C where `,` is meant; write `,`"),
        (
            "[a.io/b:1](https://a.io/b)",
            "a Markdown link; write the text in [ ] alone",
        ),
        (
            "https://quay.io/a/b:1",
            "a name has no scheme: drop the https:// or http:// in front",
        ),
        (
            "docker://a/b",
            "a name has no scheme: drop the https:// or http:// in front",
        ),
        (
            "a.io/b:1:2",
            "two colons; a tag follows the only one, and several are written :a,b,c",
        ),
        (
            "a:1:2",
            "two colons; a tag follows the only one, and several are written :a,b,c",
        ),
        ("a.io/b:1/", "a name does not end with `/`; delete it"),
        ("a.io/b/", "a name does not end with `/`; delete it"),
        (
            "a.io/b:/[a](1|2)/x",
            "a regular expression ends with its `/`; put what follows inside: NAME:/REGEX/",
        ),
        (
            "a.io/b:/v1",
            "a regular expression ends with its `/`; put what follows inside: NAME:/REGEX/",
        ),
        (
            "a.io/b:v1:/x/",
            "a regular expression alone chooses the tags; delete what stands before it",
        ),
        (
            "a.io/b@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:/x/",
            "a regular expression alone chooses the tags; delete what stands before it",
        ),
        (
            "a.io/b:^v1$",
            "no tag holds such characters; a regular expression is written NAME:/REGEX/",
        ),
        (
            "a.io/b:v1.*",
            "no tag holds such characters; a regular expression is written NAME:/REGEX/",
        ),
        (
            "a.io/b:\\d",
            "no tag holds such characters; a regular expression is written NAME:/REGEX/",
        ),
        ("A.io/B:/x/", "repository name must be lowercase: \"B\""),
        ("a.io/b/:/x/", "a name does not end with `/`; delete it"),
        (
            "a.io/b@sha256:00",
            "\"sha256:00\" is no digest (sha256: and 64 lower-case hex digits)",
        ),
        (
            "a:1@md5:00",
            "digest algorithm \"md5\" is not supported (sha256 and sha512 are)",
        ),
        (
            "oci:p@sha256:00",
            "\"sha256:00\" is no digest (sha256: and 64 lower-case hex digits)",
        ),
        (
            "a.io/b:1,2@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "a digest is one image; write one tag in front of it, or none",
        ),
        (
            "u:p@a.io/b",
            "a name holds no user name and no password; write them into `auth`",
        ),
        (
            "https://u:p@a.io/b",
            "a name holds no user name and no password; write them into `auth`",
        ),
        (
            "$REG/a/b",
            "`$` is in no name; a variable is written ${NAME}",
        ),
        (
            "oci:$HOME/x",
            "`$` is in no name; a variable is written ${NAME}",
        ),
        (
            "a.io/b:${{ x }}",
            "GitHub does not expand `${{ }}` in files; pass the value as a variable and write ${NAME}",
        ),
        (
            "DOCKERHUB_USERNAME/app:1",
            "\"DOCKERHUB_USERNAME\" looks like a placeholder; fill it in",
        ),
        (
            "a.io/NAMESPACE/app",
            "\"NAMESPACE\" looks like a placeholder; fill it in",
        ),
        (
            "YOUR-REGISTRY/a/b",
            "\"YOUR-REGISTRY\" looks like a placeholder; fill it in",
        ),
        ("a.io/App", "repository name must be lowercase: \"App\""),
        (
            "a.io/b c",
            "\"b c\" holds ' ' (U+0020), which no repository name has",
        ),
        (
            "a.io/b,v2",
            "\"b,v2\" holds ',' (U+002C), which no repository name has",
        ),
        (
            "a.io/b.",
            "\"b.\" is no repository: each part between slashes begins and ends with a letter or digit, with \
                 single `.`, `_`, `__` or `-` between",
        ),
        (
            "a.io/b:v 1",
            "\"v 1\" is no tag: 1 to 128 letters, digits, `_`, `.` or `-`, not beginning with `.` or `-`",
        ),
        (
            "a.io/b:1,-2",
            "\"-2\" is no tag: 1 to 128 letters, digits, `_`, `.` or `-`, not beginning with `.` or `-`",
        ),
        (
            "a.io/b:,",
            "a list without any tag; name the tags or drop the `:`",
        ),
        (
            "a..io/b",
            "\"a..io\" is no registry: a host is made of letters, digits, `-` and dots",
        ),
        (
            "::1:5000/b",
            "\"::1:5000\" is no registry: an IPv6 address stands in brackets, as in [2001:db8::1]:5000",
        ),
        (
            "a.io:0/b",
            "\"a.io:0\" is no registry: a port is a number from 1 to 65535",
        ),
        (":1", "the repository is empty"),
        (
            "oci:",
            "\"\" is no path of a layout; write oci:PATH or oci:PATH:TAG",
        ),
        (
            "oci://ghcr.io/a/b",
            "`oci://` names nothing here; drop it for a registry, write oci:PATH for a layout",
        ),
    ];

    #[test]
    fn what_is_dropped_is_said() {
        for (source, target, drawn, warning) in [
            (
                " a.io/b:1\t",
                "d.io/x",
                "a.io/b:1 -> d.io/x",
                "the blanks around the name are ignored; delete them",
            ),
            (
                "a.io/b:1",
                "d.io/x\n",
                "a.io/b:1 -> d.io/x",
                "the blanks around the name are ignored; delete them",
            ),
            (
                "a.io/b:1,,2,",
                "d.io/x",
                "a.io/b:1,2 -> d.io/x",
                "an empty tag in the list is ignored; delete the comma",
            ),
            (
                "a.io/b:",
                "d.io/x",
                "a.io/b:* -> d.io/x",
                "a `:` without a tag counts as no tag; delete it or write the tag",
            ),
        ] {
            let (rule, failed, warnings) = check_with(&defaults(), source, &[target]);
            assert_eq!(failed, Vec::new());
            assert_eq!(draw(&rule.unwrap()), drawn);
            assert_eq!(warnings, [format!("f:1:2: {warning}")]);
        }
    }

    #[test]
    fn layouts() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let here = here.to_str().unwrap();
        good(
            "oci:src",
            &["d.io/x"],
            &format!("oci:{here}/src:* -> d.io/x"),
        );
        good(
            "oci:src:1",
            &["d.io/x"],
            &format!("oci:{here}/src:1 -> d.io/x"),
        );
        good(
            "oci:src:1,2",
            &["d.io/x"],
            &format!("oci:{here}/src:1,2 -> d.io/x"),
        );
        good(
            "oci:src",
            &["d.io/x:1"],
            &format!("oci:{here}/src:sole -> d.io/x:1"),
        );
        good(
            "oci:src",
            &["oci:src:1"],
            &format!("oci:{here}/src:sole -> oci:{here}/src:1"),
        );
        // What cannot be a tag belongs to the path, and so does what other names may not hold.
        good(
            "a:1",
            &["oci:/no/x:y/z"],
            "docker.io/library/a:1 -> oci:/no/x:y/z",
        );
        good(
            "a:1",
            &["oci:/no/u@h/,x y：z"],
            "docker.io/library/a:1 -> oci:/no/u@h/,x y：z",
        );
        good(
            "a:1",
            &["oci:/no/./such/../../dir/:2"],
            "docker.io/library/a:1 -> oci:/dir:2",
        );
        let (rule, failed, _) = check_with(&defaults(), "oci:src", &["d.io/x:1", "d.io/y"]);
        assert_eq!(rule, None);
        assert_eq!(failed[0].what, RuleFault::SomeTagged);
    }

    #[test]
    fn a_layout_behind_a_link_is_the_same_place() {
        let folder = std::env::temp_dir().join(format!("image-syncer-rule-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        let folder_text = folder.to_str().unwrap();
        let (rule, failed, _) = check_with(
            &defaults(),
            &format!("oci:{folder_text}/link/new"),
            &[&format!("oci:{folder_text}/link/../real/new")],
        );
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(rule, None);
        assert_eq!(failed[0].what, RuleFault::OwnTarget);
    }

    #[test]
    fn one_wrong_target_costs_only_itself() {
        let (rule, failed, _) =
            check_with(&defaults(), "a.io/b:1", &["d.io/X", "d.io/x", "e.io/y:1,2"]);
        assert_eq!(draw(&rule.unwrap()), "a.io/b:1 -> d.io/x");
        let rules: Vec<_> = failed.iter().map(|error| error.rule.as_str()).collect();
        assert_eq!(rules, ["a.io/b:1: d.io/X", "a.io/b:1: e.io/y:1,2"]);
    }

    #[test]
    fn messages_show_the_rule_shortened_and_without_passwords() {
        let (_, failed, _) = check_with(
            &defaults(),
            "https://u:hunter2@a.io/b",
            &["u:hunter2@d.io/x/y"],
        );
        assert_eq!(
            failed[0].to_string(),
            "f:1:2: rule \"***@a.io/b: ***@d.io/x/y\": source: a name holds no user name and no password; write them \
             into `auth`"
        );
        for (text, shown) in [
            ("u:hunter2@d.io", "***@d.io"),
            ("u:hunter2@d.io:5000", "***@d.io:5000"),
            ("u:hunter2@d.io/x@sha256:0", "***@d.io/x@sha256:0"),
            ("u:hunt@er2@d.io", "***@d.io"),
        ] {
            for (source, target) in [(text, "d.io/x"), ("a.io/b:1", text)] {
                let (_, failed, _) = check_with(&defaults(), source, &[target]);
                let failed = failed[0].to_string();
                assert!(failed.contains(shown), "{failed}");
                assert!(!failed.contains("hunt"), "{failed}");
            }
        }
        let (_, failed, _) = check_with(&defaults(), &"ä".repeat(500), &["d.io/x"]);
        assert_eq!(failed[0].rule, format!("{}…", "ä".repeat(MAX_SHOWN)));
    }
}
