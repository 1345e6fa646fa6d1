//! What stands behind the source of a rule: a target, a list of them, or an object that says more. Not here: whether
//! that fits the source (`rule.rs`).

use super::error::Problem;
use super::fields::fields;
use super::side::Written;
use super::tree::{Node, Value};

/// The texts of a rule behind its source.
pub(crate) struct Body<'a> {
    /// At least one. An empty text is the default target.
    pub(crate) targets: Vec<Written<'a>>,
}

impl<'a> Body<'a> {
    /// Reads a rule's value. What makes the file unusable goes to `problems`, and then there is no body.
    pub(crate) fn read(node: &'a Node, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            let targets = read_targets(node, problems)?;
            return Some(Self { targets });
        };
        let known = problems.len();
        let mut targets = Some(vec![default_target(node)]);
        for (field, member) in fields("a rule", FIELDS, members, problems) {
            if field == "to" {
                targets = read_targets(&member.value, problems);
            }
        }
        let targets = targets.filter(|_| problems.len() == known)?;
        Some(Self { targets })
    }
}

/// Each field is a row here and an arm in `Body::read`.
const FIELDS: &[&str] = &["to"];

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
