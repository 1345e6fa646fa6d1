//! What stands behind the source of a rule: a target, a list of them, or an object that says more. Not here: whether
//! that fits the source (`rule.rs`).

use super::error::Problem;
use super::fields::fields;
use super::side::Written;
use super::tags::{FilterError, Pattern, TagFilter};
use super::tree::{Member, Node, Position, Value};

/// What a rule says behind its source.
pub(crate) struct Body<'a> {
    /// At least one. An empty text is the default target.
    pub(crate) targets: Vec<Written<'a>>,
    /// `tags`, or which text in it cannot be used.
    pub(crate) tags: Option<Result<TagFilter, (Position, FilterError)>>,
    /// The same as it is written, as JSON.
    pub(crate) tags_as_json: Option<String>,
    /// Which platforms are wanted. Empty: it does not say.
    pub(crate) platforms: Vec<Written<'a>>,
    /// Whether indexes keep naming the platforms that are not wanted.
    pub(crate) sparse: bool,
    /// Whether targets get what they have already.
    pub(crate) force: bool,
    /// Whether targets get what is about the images.
    pub(crate) referrers: bool,
}

impl<'a> Body<'a> {
    /// A rule that has nothing but targets.
    pub(crate) fn of(targets: Vec<Written<'a>>) -> Self {
        Self {
            targets,
            tags: None,
            tags_as_json: None,
            platforms: Vec::new(),
            sparse: false,
            force: false,
            referrers: false,
        }
    }

    /// Reads a rule's value. What makes the file unusable goes to `problems`, and then there is no body.
    pub(crate) fn read(node: &'a Node, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            return read_targets(node, problems).map(Self::of);
        };
        let known = problems.len();
        let mut body = Self::of(vec![default_target(node)]);
        for (field, member) in fields("a rule", RULE_FIELDS, members, problems) {
            let node = &member.value;
            match (field, &node.value) {
                ("to", _) => body.targets = read_targets(node, problems)?,
                (_, Value::Null) => {}
                ("tags", Value::Object(members)) => {
                    body.tags = Some(read_tags(members, problems));
                    body.tags_as_json = Some(node.to_json());
                }
                ("tags", _) => {
                    let expected = "an object such as {\"allow\": [\"v1.*\"], \"latest\": 5}";
                    problems.push(Problem::kind(node, "tags", expected));
                }
                ("platforms", _) => {
                    body.platforms = read_texts(node, field, problems).unwrap_or_default();
                }
                (_, value) => {
                    let switch = match field {
                        "sparse" => &mut body.sparse,
                        "force" => &mut body.force,
                        _ => &mut body.referrers,
                    };
                    match value.boolean() {
                        Some(on) => *switch = on,
                        None => problems.push(Problem::kind(node, field, "true or false")),
                    }
                }
            }
        }
        (problems.len() == known).then_some(body)
    }
}

/// Each field is a row here, an arm in `Body::read` and a property in `schema.json`.
pub(crate) const RULE_FIELDS: &[&str] =
    &["to", "tags", "platforms", "sparse", "force", "referrers"];
pub(crate) const TAGS_FIELDS: &[&str] = &[
    "allow",
    "semver",
    "deny",
    "newer_than",
    "latest",
    "latest_by",
    "min",
];

/// What `latest_by` may be.
const BY: &str = "\"created\" or \"version\"";

/// Reads `tags`. A text in it that cannot be used costs the rule, a value of another kind the file.
fn read_tags(
    members: &[Member],
    problems: &mut Vec<Problem>,
) -> Result<TagFilter, (Position, FilterError)> {
    let mut filter = TagFilter::default();
    let mut wrong = Ok(());
    for (field, member) in fields("`tags`", TAGS_FIELDS, members, problems) {
        let node = &member.value;
        let value = &node.value;
        match field {
            _ if matches!(value, Value::Null) => {}
            "latest" | "min" => {
                let (number, least, expected) = match field {
                    "latest" => (&mut filter.latest, 1, "a whole number from 1 up, such as 5"),
                    _ => (&mut filter.min, 0, "a whole number from 0 up, such as 1"),
                };
                let Some(text) = value.number() else {
                    problems.push(Problem::kind(node, field, "a whole number, such as 5"));
                    continue;
                };
                *number = text.parse().ok().filter(|number| *number >= least);
                if number.is_none() {
                    problems.push(Problem::range(node, field, expected, text));
                }
            }
            "latest_by" => match value.text() {
                Some("created") => filter.by_created = true,
                Some("version") => {}
                Some(text) => problems.push(Problem::range(node, field, BY, text)),
                None => problems.push(Problem::kind(node, field, BY)),
            },
            "newer_than" => match value
                .text()
                .map(|text| (text, humantime::parse_duration(text)))
            {
                Some((_, Ok(time))) => filter.newer_than = Some(time),
                Some((text, Err(error))) => {
                    let (text, error) = (text.to_owned(), error.to_string());
                    let error = FilterError::Time { text, error };
                    wrong = wrong.and(Err((node.position.clone(), error)));
                }
                None => {
                    let expected = "a time such as \"30d\" or \"12h\"";
                    problems.push(Problem::kind(node, field, expected));
                }
            },
            _ => {
                let Some(texts) = read_texts(node, field, problems) else {
                    continue;
                };
                let read = read_choice(&mut filter, field, &texts, &node.position);
                wrong = wrong.and(read);
            }
        }
    }
    wrong.map(|()| filter)
}

/// Reads the patterns or ranges of one field.
fn read_choice(
    filter: &mut TagFilter,
    field: &'static str,
    texts: &[Written<'_>],
    position: &Position,
) -> Result<(), (Position, FilterError)> {
    if texts.is_empty() && field != "deny" {
        return Err((position.clone(), FilterError::NoChoice(field)));
    }
    for Written { text, position } in texts {
        let read = match field {
            "allow" => Pattern::parse(text).map(|pattern| filter.allow.push(pattern)),
            "deny" => Pattern::parse(text).map(|pattern| filter.deny.push(pattern)),
            _ => filter.add_range(text),
        };
        read.map_err(|error| (Position::clone(position), error))?;
    }
    Ok(())
}

/// A text or a list of them. A number is the text that was written.
fn read_texts<'a>(
    node: &'a Node,
    name: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Written<'a>>> {
    let nodes = match &node.value {
        Value::Array(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut texts = Vec::new();
    for node in nodes {
        let Some(text) = node.value.text().or(node.value.number()) else {
            problems.push(Problem::kind(node, name, "a text or an array of texts"));
            return None;
        };
        let position = &node.position;
        texts.push(Written { text, position });
    }
    Some(texts)
}

fn default_target(node: &Node) -> Written<'_> {
    Written {
        text: "",
        position: &node.position,
    }
}

/// A text, several, or nothing for the default.
fn read_targets<'a>(node: &'a Node, problems: &mut Vec<Problem>) -> Option<Vec<Written<'a>>> {
    let nodes = match &node.value {
        Value::Array(nodes) if nodes.is_empty() => return Some(vec![default_target(node)]),
        Value::Array(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut targets = Vec::new();
    for node in nodes {
        let text = match &node.value {
            Value::Null => Some(""),
            value => value.text(),
        };
        let Some(text) = text else {
            let expected = "a text or an array of texts: \"SOURCE\": \"TARGET\"";
            problems.push(Problem::kind(node, "a target", expected));
            return None;
        };
        targets.push(Written {
            text,
            position: &node.position,
        });
    }
    Some(targets)
}
