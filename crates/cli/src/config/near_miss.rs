//! The word that someone probably meant.

/// `; did you mean ...?` when one of the words is near.
pub(super) fn near_miss<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> String {
    let best = words
        .map(|word| (strsim::jaro_winkler(written, word), word))
        // Of a short word one letter is much: it counts as near by its distance.
        .filter(|(score, word)| *score > 0.84 || strsim::damerau_levenshtein(written, word) == 1)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((_, word)) => format!("; did you mean {word}?"),
        None => String::new(),
    }
}
