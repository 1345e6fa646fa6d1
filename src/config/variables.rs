//! Variables of the environment in a configuration: where they are replaced, and what is wrong with those that cannot be.
//! No message of this file has a value. Not here: which texts have variables (`auth.rs` and `mod.rs`).

use std::borrow::Cow;
use std::ffi::OsString;

use super::error::ProblemKind;

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A text whose variables are replaced.
pub(crate) struct Expanded<'a> {
    /// The text.
    pub(crate) text: Cow<'a, str>,
    /// The variables in it that are set and empty, as a secret that does not exist is in a workflow.
    pub(crate) empty: Vec<&'a str>,
}

/// Which variables the text of a name has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `${NAME}`: in a source, where `$` may be part of a regular expression.
    Braces,
    /// `$NAME` too: elsewhere it cannot be anything else.
    Any,
}

/// Replaces the variables of a name, wherever they stand in it. All must be set.
pub(crate) fn in_name<'a>(
    text: &'a str,
    form: Form,
    environment: Environment<'_>,
) -> Result<Expanded<'a>, Vec<ProblemKind>> {
    let mut expanded = String::new();
    let mut empty = Vec::new();
    let mut problems = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let end = after.find(|c| !is_part_of_name(c)).unwrap_or(after.len());
        let (name, behind) = if after.starts_with("{{") {
            return Err(vec![ProblemKind::GithubExpression]);
        } else if let Some(inside) = after.strip_prefix('{') {
            match inside.split_once('}') {
                Some((name, behind)) if is_name(name) => (name, behind),
                _ => {
                    problems.push(ProblemKind::NoVariable);
                    break;
                }
            }
        } else if form == Form::Any && after.get(..end).is_some_and(is_name) {
            after.split_at(end)
        } else {
            expanded.push('$');
            rest = after;
            continue;
        };
        match look_up(name, environment) {
            Ok(Some(value)) => {
                if value.is_empty() {
                    empty.push(name);
                }
                expanded.push_str(&value);
            }
            Ok(None) => problems.push(ProblemKind::UnsetVariable(name.into())),
            Err(problem) => problems.push(problem),
        }
        rest = behind;
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    expanded.push_str(rest);
    let text = expanded.into();
    Ok(Expanded { text, empty })
}

/// Replaces a user name or a password that is a variable as a whole; a `$` inside a longer one belongs to it. What is
/// `$NAME` is kept where there is no such variable: there are users with such names.
pub(crate) fn whole<'a>(
    text: &'a str,
    environment: Environment<'_>,
) -> Result<Expanded<'a>, ProblemKind> {
    if text.contains("${{") {
        return Err(ProblemKind::GithubExpression);
    }
    let name = name_of(text);
    let value = match name {
        Some(name) => look_up(name, environment)?,
        None => None,
    };
    match (name, value) {
        (Some(name), Some(value)) => Ok(Expanded {
            empty: value.is_empty().then_some(name).into_iter().collect(),
            text: value.into(),
        }),
        (Some(name), None) if text.starts_with("${") => {
            Err(ProblemKind::UnsetVariable(name.into()))
        }
        _ => Ok(Expanded {
            text: text.into(),
            empty: Vec::new(),
        }),
    }
}

/// Whether a text is a variable as a whole.
pub(crate) fn is_whole(text: &str) -> bool {
    name_of(text).is_some()
}

fn name_of(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('$')?;
    let braced = inside
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    braced.or(Some(inside)).filter(|name| is_name(name))
}

fn look_up(name: &str, environment: Environment<'_>) -> Result<Option<String>, ProblemKind> {
    let value = environment(name).map(OsString::into_string).transpose();
    value.map_err(|_| ProblemKind::VariableNotUtf8(name.into()))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(is_part_of_name)
}

fn is_part_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "HOST" => Some("r.example:5000".into()),
            "NS" | "_n1" => Some("ns".into()),
            "PRICE" => Some("$HOST ${NS}".into()),
            "EMPTY" => Some(OsString::new()),
            "BYTES" => Some(std::os::unix::ffi::OsStringExt::from_vec(vec![0xff])),
            _ => None,
        }
    }

    fn shown(outcome: Result<Expanded<'_>, Vec<ProblemKind>>) -> String {
        match outcome {
            Ok(Expanded { text, empty }) if empty.is_empty() => text.into(),
            Ok(Expanded { text, empty }) => format!("{text} empty {}", empty.join(" ")),
            Err(problems) => {
                let problems: Vec<_> = problems
                    .iter()
                    .map(|problem| problem.to_string().split(';').next().unwrap().to_string())
                    .collect();
                problems.join(", ")
            }
        }
    }

    #[test]
    fn names_have_variables_anywhere() {
        for (text, any, braces) in [
            ("a/b:1", "a/b:1", "a/b:1"),
            (
                "${HOST}/${NS}/b:${NS}",
                "r.example:5000/ns/b:ns",
                "r.example:5000/ns/b:ns",
            ),
            ("$HOST/$NS/b", "r.example:5000/ns/b", "$HOST/$NS/b"),
            ("$NS-$_n1.$NS", "ns-ns.ns", "$NS-$_n1.$NS"),
            // What comes out is not looked at again.
            ("${PRICE}", "$HOST ${NS}", "$HOST ${NS}"),
            ("a/b:/^v1$/", "a/b:/^v1$/", "a/b:/^v1$/"),
            ("a$/$1$", "a$/$1$", "a$/$1$"),
            ("${EMPTY}/${NS}", "/ns empty EMPTY", "/ns empty EMPTY"),
            (
                "${NONE}/$NO_NS",
                "the variable NONE is not set, the variable NO_NS is not set",
                "the variable NONE is not set",
            ),
            (
                "a/${NS:-x}",
                "`${` without the name of a variable and `}`",
                "`${` without the name of a variable and `}`",
            ),
            (
                "a/${NS",
                "`${` without the name of a variable and `}`",
                "`${` without the name of a variable and `}`",
            ),
            (
                "a/${}",
                "`${` without the name of a variable and `}`",
                "`${` without the name of a variable and `}`",
            ),
            (
                "${BYTES}",
                "the variable BYTES is not UTF-8",
                "the variable BYTES is not UTF-8",
            ),
            (
                "${{ env.NS }}",
                "GitHub does not expand `${{ }}` in files",
                "GitHub does not expand `${{ }}` in files",
            ),
        ] {
            assert_eq!(shown(in_name(text, Form::Any, &environment)), any, "{text}");
            assert_eq!(
                shown(in_name(text, Form::Braces, &environment)),
                braces,
                "{text}"
            );
        }
    }

    #[test]
    fn user_names_and_passwords_are_replaced_as_a_whole_only() {
        for (text, expected) in [
            ("${NS}", "ns"),
            ("$NS", "ns"),
            ("$oauthtoken", "$oauthtoken"),
            ("${oauthtoken}", "the variable oauthtoken is not set"),
            ("pa$NS", "pa$NS"),
            ("$NS$NS", "$NS$NS"),
            ("${NS}${NS}", "${NS}${NS}"),
            ("Pa$$w0rd", "Pa$$w0rd"),
            ("$1", "$1"),
            ("${1}", "${1}"),
            ("$", "$"),
            ("", ""),
            ("$EMPTY", " empty EMPTY"),
            ("${PRICE}", "$HOST ${NS}"),
            ("$BYTES", "the variable BYTES is not UTF-8"),
            (
                "${{ secrets.P }}",
                "GitHub does not expand `${{ }}` in files",
            ),
        ] {
            let outcome = whole(text, &environment).map_err(|problem| vec![problem]);
            assert_eq!(shown(outcome), expected, "{text}");
        }
    }
}
