//! What stands behind the source of a rule: a target, a list of them, or an object that says more. Not here: whether
//! that fits the source (`rule.rs`).

use super::error::Problem;
use super::fields::fields;
use super::side::Written;
use super::tree::{Node, Value};

/// What a rule says behind its source.
#[derive(Default)]
pub(crate) struct Body<'a> {
    /// At least one. An empty text is the default target.
    pub(crate) targets: Vec<Written<'a>>,
    /// Which platforms are wanted. Empty: it does not say.
    pub(crate) platforms: Vec<Written<'a>>,
    /// Whether indexes keep naming the platforms that are not wanted.
    pub(crate) sparse: bool,
    /// Whether targets get what they have already.
    pub(crate) force: bool,
}

impl<'a> Body<'a> {
    /// Reads a rule's value. What makes the file unusable goes to `problems`, and then there is no body.
    pub(crate) fn read(node: &'a Node, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            let targets = read_targets(node, problems)?;
            return Some(Self {
                targets,
                ..Self::default()
            });
        };
        let known = problems.len();
        let mut body = Self {
            targets: vec![default_target(node)],
            ..Self::default()
        };
        for (field, member) in fields("a rule", FIELDS, members, problems) {
            let node = &member.value;
            match field {
                "to" => set(&mut body.targets, read_targets(node, problems)),
                "platforms" => set(&mut body.platforms, read_platforms(node, problems)),
                "sparse" => set(&mut body.sparse, read_switch(node, "sparse", problems)),
                _ => set(&mut body.force, read_switch(node, "force", problems)),
            }
        }
        (problems.len() == known).then_some(body)
    }
}

/// What could not be read has been told.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Each field is a row here and an arm in `Body::read`.
const FIELDS: &[&str] = &["to", "platforms", "sparse", "force"];

fn default_target(node: &Node) -> Written<'_> {
    Written {
        text: "",
        position: &node.position,
    }
}

/// `true` or `false`; nothing is `false`.
fn read_switch(node: &Node, name: &'static str, problems: &mut Vec<Problem>) -> Option<bool> {
    match node.value {
        Value::Bool(value) => Some(value),
        Value::Null => Some(false),
        _ => {
            problems.push(Problem::kind(node, name, "true or false"));
            None
        }
    }
}

/// A text or several.
fn read_platforms<'a>(node: &'a Node, problems: &mut Vec<Problem>) -> Option<Vec<Written<'a>>> {
    let nodes = match &node.value {
        Value::Array(nodes) => nodes.as_slice(),
        Value::Null => &[],
        _ => std::slice::from_ref(node),
    };
    let mut platforms = Vec::new();
    for node in nodes {
        let Value::String(text) = &node.value else {
            let expected = "an array of texts: [\"linux/amd64\", \"linux/arm64/v8\"]";
            problems.push(Problem::kind(node, "a platform", expected));
            return None;
        };
        platforms.push(Written {
            text,
            position: &node.position,
        });
    }
    Some(platforms)
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
            Value::String(text) => text,
            Value::Null => "",
            _ => {
                let expected = "a text or an array of texts: \"SOURCE\": \"TARGET\"";
                problems.push(Problem::kind(node, "a target", expected));
                return None;
            }
        };
        targets.push(Written {
            text,
            position: &node.position,
        });
    }
    Some(targets)
}
