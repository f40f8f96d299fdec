//! Separation of a text into documents.

use super::node::Position;

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ManifestDocument<'a> {
    pub(super) text: &'a str,
    /// Position of the beginning of the document in the whole text.
    pub(super) begin: Position,
}

impl ManifestDocument<'_> {
    /// Converts a position in the document to a position in the whole text.
    pub(super) fn place(&self, position: Position) -> Position {
        let is_first_line = position.line <= 1;
        let before = if is_first_line {
            self.begin.column - 1
        } else {
            0
        };
        Position {
            line: self.begin.line + position.line.max(1) - 1,
            column: before + position.column.max(1),
        }
    }
}

/// Returns the documents of a text. A line `---`, also with a space and text after it, begins a
/// document (YAML 1.2, section 9.1.2). A document that begins with `{` can be several JSON objects
/// one after the other, as kubectl accepts them. A document of comments alone is skipped.
pub(super) fn of(text: &str) -> impl Iterator<Item = ManifestDocument<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = of_yaml(text).filter(|document| !has_only_comments(document.text));
    documents.flat_map(|document| JsonObjects { rest: document })
}

fn of_yaml(text: &str) -> impl Iterator<Item = ManifestDocument<'_>> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        let begin = Position { line, column: 1 };
        for (index, content) in rest.split_inclusive('\n').enumerate() {
            let content_alone = content.trim_end();
            let begins = content_alone == "---" || content.starts_with("--- ");
            if begins && index > 0 {
                break;
            }
            end += content.len();
            line += 1;
        }
        let (document, after) = rest.split_at(end);
        rest = after;
        Some(ManifestDocument {
            text: document,
            begin,
        })
    })
}

fn has_only_comments(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line == "---" || line.starts_with(['#', '%']))
}

/// Iterator over the JSON objects of a document. A document that is not a sequence of JSON objects
/// is a single item.
struct JsonObjects<'a> {
    rest: ManifestDocument<'a>,
}

impl<'a> Iterator for JsonObjects<'a> {
    type Item = ManifestDocument<'a>;

    fn next(&mut self) -> Option<ManifestDocument<'a>> {
        if self.rest.text.trim().is_empty() {
            return None;
        }
        let end = match object_end(self.rest.text) {
            // The document is separated only if another object follows, and not if a comment or
            // invalid text follows.
            Some(end) if self.rest.text[end..].trim_start().starts_with('{') => end,
            Some(_) | None => self.rest.text.len(),
        };
        let (object, after) = self.rest.text.split_at(end);
        let object = ManifestDocument {
            text: object,
            ..self.rest
        };
        self.rest = ManifestDocument {
            text: after,
            begin: self.rest.place(end_of(object.text)),
        };
        Some(object)
    }
}

/// Returns the position after the last character of a text.
fn end_of(text: &str) -> Position {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: number(text.matches('\n').count() + 1),
        column: number(last_line.chars().count() + 1),
    }
}

/// Returns the index after the JSON object at the beginning of a text; `None` if the text does not
/// begin with an object, or the object has no end. Ignores brackets in quotes. A single quote
/// begins a YAML text only where a value can begin, because it can also be an apostrophe.
fn object_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut is_escaped = false;
    let mut before = ':';
    if !text.trim_start().starts_with('{') {
        return None;
    }
    for (at, character) in text.char_indices() {
        if let Some(end) = quote {
            let ends = character == end && !is_escaped;
            is_escaped = end == '"' && character == '\\' && !is_escaped;
            if ends {
                quote = None;
            }
            continue;
        }
        match character {
            '"' => quote = Some('"'),
            '\'' if "{[,:".contains(before) => quote = Some('\''),
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + character.len_utf8());
                }
            }
            _ => {}
        }
        if !character.is_whitespace() {
            before = character;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, u32, u32)]) {
        let documents: Vec<(&str, u32, u32)> = of(text)
            .map(|document| {
                let Position { line, column } = document.begin;
                (document.text.trim(), line, column)
            })
            .collect();
        assert_eq!(documents, expected, "{text}");
    }

    #[test]
    fn a_line_of_three_hyphens_begins_a_document() {
        check("a: 1\n---\nb: 2\n", &[("a: 1", 1, 1), ("---\nb: 2", 2, 1)]);
        check("# a\n---\n\n--- {b: 2}\n", &[("--- {b: 2}", 4, 1)]);
        check("a: |\n  x\n  ---\n", &[("a: |\n  x\n  ---", 1, 1)]);
        check("", &[]);
        check("---\n# nothing\n---\n", &[]);
        check(
            "\u{feff}a: 1\r\n---\r\nb: 2",
            &[("a: 1", 1, 1), ("---\r\nb: 2", 2, 1)],
        );
    }

    #[test]
    fn each_of_several_json_objects_is_a_document() {
        check(
            "{\"a\": 1}{\"b\": 2}",
            &[("{\"a\": 1}", 1, 1), ("{\"b\": 2}", 1, 9)],
        );
        check(
            "{\n\"a\": \"}{\"\n}\n\n {\"b\": [\"\\\"}\"]}\n",
            &[
                ("{\n\"a\": \"}{\"\n}", 1, 1),
                ("{\"b\": [\"\\\"}\"]}", 3, 2),
            ],
        );
        check("{a: '}', b: it's}", &[("{a: '}', b: it's}", 1, 1)]);
        check("{a: 1} # {b}\n", &[("{a: 1} # {b}", 1, 1)]);
        check("{a: 1", &[("{a: 1", 1, 1)]);
    }

    #[test]
    fn a_position_in_a_document_is_converted_to_a_position_in_the_text() {
        let text = "{\"a\": 1} {\n\"b\": 2}";
        let last = of(text).last().unwrap();
        let at = |line, column| last.place(Position { line, column });
        assert_eq!(
            at(1, 2),
            Position {
                line: 1,
                column: 10
            }
        );
        assert_eq!(at(2, 1), Position { line: 2, column: 1 });
    }
}
