//! The JSON Schema of the three shapes of a file, for editors. The program itself does not use it: what it refuses is in
//! the other files of this folder, and says more.

/// A schema of draft 2020-12.
pub const SCHEMA: &str = include_str!("schema.json");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use regex_lite::Regex;
    use serde_json::Value as Json;

    use super::SCHEMA;
    use crate::config::auth::FIELDS;
    use crate::config::body::{RULE_FIELDS, TAGS_FIELDS};
    use crate::config::tree::{self, Node, Value};

    /// Whether a value is valid by the keywords that the schema has; any other one panics.
    fn is_valid(node: &Node, schema: &Json, root: &Json) -> bool {
        let rules = match schema {
            Json::Bool(all) => return *all,
            schema => schema.as_object().unwrap(),
        };
        let by = |schema: &Json| is_valid(node, schema, root);
        let text = match &node.value {
            Value::String(text) | Value::Word(text) => Some(text.as_str()),
            _ => None,
        };
        let number: Option<f64> = node.value.number().and_then(|text| text.parse().ok());
        let members = match &node.value {
            Value::Object(members) => members.as_slice(),
            _ => &[],
        };
        let has = |key: &Json| members.iter().any(|member| key == member.key.as_str());
        rules.iter().all(|(keyword, rule)| match keyword.as_str() {
            "$schema" | "$comment" | "$defs" | "title" | "description" | "then" | "else" => true,
            "$ref" => by(root
                .pointer(rule.as_str().unwrap().trim_start_matches('#'))
                .unwrap()),
            "type" => match rule {
                Json::Array(types) => types.iter().any(|name| is_type(node, name)),
                name => is_type(node, name),
            },
            "if" => {
                let branch = if by(rule) { "then" } else { "else" };
                rules.get(branch).is_none_or(by)
            }
            "not" => !by(rule),
            "anyOf" => rule.as_array().unwrap().iter().any(by),
            "required" => {
                !matches!(node.value, Value::Object(_)) || rule.as_array().unwrap().iter().all(has)
            }
            "enum" => {
                let is_null = matches!(node.value, Value::Null);
                let is = |one: &Json| one.as_str().map_or(is_null, |one| text == Some(one));
                rule.as_array().unwrap().iter().any(is)
            }
            "minimum" => number.is_none_or(|number| number >= rule.as_f64().unwrap()),
            "minLength" => text.is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => {
                let regex = Regex::new(rule.as_str().unwrap()).unwrap();
                text.is_none_or(|text| regex.is_match(text))
            }
            "properties" => members.iter().all(|member| {
                let schema = rule.get(&member.key);
                schema.is_none_or(|schema| is_valid(&member.value, schema, root))
            }),
            // All that it allows is notes.
            "patternProperties" => rule.as_object().unwrap().keys().eq([NOTES]),
            "propertyNames" => members.iter().all(|member| {
                let value = Value::String(member.key.clone());
                let position = member.position.clone();
                is_valid(&Node { position, value }, rule, root)
            }),
            "additionalProperties" => {
                let known = |key: &str| {
                    let is_note = ["_", "$", "x-", "//"]
                        .iter()
                        .any(|mark| key.starts_with(mark));
                    let is_property = rules
                        .get("properties")
                        .is_some_and(|known| known.get(key).is_some());
                    is_property || rules.contains_key("patternProperties") && is_note
                };
                let mut others = members.iter().filter(|member| !known(&member.key));
                others.all(|member| is_valid(&member.value, rule, root))
            }
            "items" => match &node.value {
                Value::Array(nodes) => nodes.iter().all(|node| is_valid(node, rule, root)),
                _ => true,
            },
            other => panic!("what is {other}?"),
        })
    }

    const NOTES: &str = "^([_$]|x-|//)";

    fn is_type(node: &Node, name: &Json) -> bool {
        let value = &node.value;
        let number = value.number().and_then(|text| text.parse::<f64>().ok());
        match name.as_str().unwrap() {
            "object" => matches!(value, Value::Object(_)),
            "array" => matches!(value, Value::Array(_)),
            "null" => matches!(value, Value::Null),
            "boolean" => value.boolean().is_some(),
            "string" => value.text().is_some(),
            "number" => number.is_some(),
            "integer" => number.is_some_and(|number| number.fract() == 0.0),
            other => panic!("what is {other}?"),
        }
    }

    fn allows(text: &str) -> bool {
        let schema: Json = serde_json::from_str(SCHEMA).unwrap();
        let Ok(root) = tree::parse(&"f.yaml".into(), text.as_bytes()) else {
            panic!("{text}");
        };
        is_valid(&root, &schema, &schema)
    }

    #[test]
    fn the_examples_are_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/examples");
        let mut seen = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            assert!(
                allows(&std::fs::read_to_string(&path).unwrap()),
                "{}",
                path.display()
            );
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn what_the_program_takes_is_valid_and_what_it_refuses_is_not() {
        for (text, good) in [
            ("{}", true),
            ("images:\n", true),
            ("images: {a: b, c: [d, null], e: }", true),
            (
                "{auth: {a.io: {username: 1, password: x, insecure: yes}, b.io: }, _note: 1, x-y: 1}",
                true,
            ),
            ("{a.io: {insecure: true}, b.io: }", true),
            (
                "{a.io: {username: u, concurrency: 4, requests_per_second: 0.5, bandwidth: 10MB}}",
                true,
            ),
            (
                "{a.io: {requests_per_second: 2}, b.io: {password_file: p}}",
                true,
            ),
            ("{a:1: b.io/a, 'c': ''}", true),
            ("[a]", false),
            ("images: [a]", false),
            ("images: {a: {b: c}}", false),
            (
                "images: {a: {to: b, tags: {allow: [v1, 2], deny: x*, latest: 5}}}",
                true,
            ),
            (
                "images: {a: {to: [b, null], tags: {semver: '1', latest_by: created}}}",
                true,
            ),
            ("images: {a: {to: b, referrers: true, force: no}}", true),
            ("images: {a: {to: b, referrers: }}", true),
            ("images: {a: {to: b, referrers: 'true'}}", false),
            ("images: {a: {to: b, referrers: [true]}}", false),
            ("images: {a: {to: b, referrer: true}}", false),
            ("images: {a: {to: {b: c}}}", false),
            ("images: {a: {tags: {latest: 0}}}", false),
            ("images: {a: {tags: {latest_by: age}}}", false),
            ("images: {a: {tags: {allow: {}}}}", false),
            ("images: {a: {tags: [a]}}", false),
            ("images: {a: [[b]]}", false),
            ("{images: {a: b}, auths: {}}", false),
            ("{auth: {a.io: {user: u}}}", false),
            ("{auth: {a.io: u}}", false),
            ("{auth: {'u@a.io': {}}}", false),
            ("{auth: {a.io: {insecure: 'true or so'}}}", false),
            ("{a.io: {username: [u]}}", false),
            ("{a.io: {username: u, concurrency: 0}}", false),
            ("{a.io: {username: u, concurrency: 1.5}}", false),
            ("{a.io: {username: u, requests_per_second: 0}}", false),
            ("{a.io: {username: u, bandwidth: much}}", false),
            ("{a.io: {username: u, bandwidth: 10 MiB}}", true),
            ("{a.io: {username: u, bandwidth: 10M}}", false),
            ("{a.io: {username: u, bandwidth: '10ki'}}", false),
            ("{a: {b: c}}", false),
            ("{'': b}", false),
        ] {
            assert_eq!(allows(text), good, "{text}");
        }
    }

    #[test]
    fn its_fields_are_those_that_are_read() {
        let schema: Json = serde_json::from_str(SCHEMA).unwrap();
        for (shape, expected) in [
            ("authEntry", FIELDS.as_slice()),
            ("rule", RULE_FIELDS),
            ("tags", TAGS_FIELDS),
        ] {
            let fields = schema.pointer(&format!("/$defs/{shape}/properties"));
            let fields = fields.unwrap().as_object().unwrap();
            let fields: HashSet<_> = fields.keys().map(String::as_str).collect();
            let expected: HashSet<_> = expected.iter().copied().collect();
            assert_eq!(fields, expected, "{shape}");
        }
        // Any of them tells an entry of `auth` from a rule.
        let telling = schema.pointer("/$defs/looksLikeAuthEntry/anyOf").unwrap();
        let telling = telling.as_array().unwrap().iter();
        let telling: HashSet<_> = telling
            .map(|one| one["required"][0].as_str().unwrap())
            .collect();
        assert_eq!(telling, HashSet::from(FIELDS));
    }
}
