//! Names that a user misspelt.

/// Returns the known name that a misspelt one most likely means, if one is near.
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
