//! The fields of an object whose names are known, each once and in any case of letters. Not here: what they may hold.

use super::error::{Problem, ProblemKind};
use super::tree::Member;
use crate::nearest::nearest;

/// The members that `owner` may have, under the names of `known`, in the order of the file. Others, and what is there
/// twice, go to `problems`.
pub(crate) fn fields<'a>(
    owner: &'static str,
    known: &'static [&'static str],
    members: &'a [Member],
    problems: &mut Vec<Problem>,
) -> Vec<(&'static str, &'a Member)> {
    let mut found: Vec<(&'static str, &Member)> = Vec::new();
    for member in members {
        let mut report = |what| problems.push(Problem::at(&member.position, what));
        let field = known
            .iter()
            .copied()
            .find(|field| field.eq_ignore_ascii_case(&member.key));
        let Some(field) = field else {
            report(ProblemKind::UnknownField {
                owner,
                field: member.key.clone(),
                nearest: nearest(&member.key.to_ascii_lowercase(), known.iter().copied()),
                known,
            });
            continue;
        };
        if let Some((_, first)) = found.iter().find(|(name, _)| *name == field) {
            let first = first.position.clone();
            report(ProblemKind::FieldTwice { field, first });
            continue;
        }
        found.push((field, member));
    }
    found
}
