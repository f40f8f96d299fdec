//! Suggestions for misspelt names.

/// Returns the name of `known` that is most similar to the misspelt `name`. `None`: no name has a
/// Jaro-Winkler similarity above 0.75 to `name` (upper and lower case are equal).
#[must_use]
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lowercase = name.to_lowercase();
    known
        .iter()
        .map(|known| {
            let likeness = strsim::jaro_winkler(&lowercase, &known.to_lowercase());
            (*known, likeness)
        })
        .filter(|(_, likeness)| *likeness > 0.75)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(known, _)| known)
}
