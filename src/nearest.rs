//! The nearest of known words to one that is unknown: for "did you mean" in messages. Not here: the words themselves.

/// The candidate that `word` is most likely a slip of, or none if no one is near: up to a third of the candidate's
/// letters may be wrong, but at least one.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (slips(word, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// How many letters to insert, drop or replace. The same letters in another order are one slip: fingers swap letters
/// more often than they hit two wrong ones.
fn slips(word: &str, candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().collect();
    let mut letters: Vec<char> = word.chars().collect();
    let mut row: Vec<usize> = (0..=candidate.len()).collect();
    // Levenshtein by rows: `row` is the last one, overwritten from the left.
    for (above, letter) in letters.iter().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        for (other, cell) in candidate.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    let distance = row.last().copied().unwrap_or_default();
    let mut sorted = candidate;
    letters.sort_unstable();
    sorted.sort_unstable();
    if distance > 1 && letters == sorted {
        1
    } else {
        distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["auth", "images", "registry.example"];
        for (word, expected) in [
            ("auth", Some("auth")),
            ("auths", Some("auth")),
            ("auht", Some("auth")),
            ("uth", Some("auth")),
            ("image", Some("images")),
            ("iamges", Some("images")),
            ("imgs", Some("images")),
            ("egistry.example", Some("registry.example")),
            ("arch", None),
            ("proc", None),
            ("retries", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }

    #[test]
    fn the_nearest_of_several_is_taken() {
        assert_eq!(nearest("imagess", ["image", "images"]), Some("images"));
    }
}
