//! Messages of the YAML parser, reworded with field and suggestion.

use super::FileLocation;

/// Returns a message with the field and a suggestion in place of the parser's message. `None` if
/// the parser's message needs no other wording.
///
/// `text` is the file, and `place` is the place of the error.
pub(super) fn reworded(
    parser_message: &str,
    text: &str,
    place: Option<FileLocation>,
) -> Option<String> {
    let (field, value) = place.map_or(("", ""), |place| field_and_value(text, place));
    let at_field = |message: &str| match field {
        "" => message.to_owned(),
        field => format!("{field}: {message}"),
    };
    let number = |most: u64| {
        at_field(&format!(
            "{value} is not a whole number from 0 to {most}; write one"
        ))
    };
    let message = match parser_message {
        "invalid u8" => number(u8::MAX.into()),
        "invalid u16" => number(u16::MAX.into()),
        "invalid u32" => number(u32::MAX.into()),
        "invalid u64" => number(u64::MAX),
        "invalid boolean (true or false expected)" => at_field(&format!(
            "{value} is neither true nor false; write one of them"
        )),
        "expected sequence start" if is_plain(value) => at_field(&format!(
            "a list is expected; write [{value}], or one item a line beginning with -"
        )),
        "expected sequence start" => {
            at_field("a list is expected; write one item a line beginning with -")
        }
        "expected mapping start" => {
            at_field("fields are expected (name: value); is a space missing after the colon?")
        }
        "simple key expected ':'" => {
            "a colon is missing after the field's name; write name: value".to_owned()
        }
        "null is not allowed here" => {
            at_field("the field has no value; write one, or leave the field out")
        }
        "illegal placement of ':' indicator" => "a colon is not allowed here; is a ] or } missing \
             before it, or quotes around a text with a colon?"
            .to_owned(),
        "while parsing a block mapping, did not find expected key" => {
            "the indentation fits no field above; indent all fields of an entry alike".to_owned()
        }
        "invalid indentation in multiline quoted scalar" => {
            "a text in quotes continues here; is the closing quote missing above?".to_owned()
        }
        "only single YAML document expected but multiple found" => {
            "a second document begins here; write only one document in a file, without ---"
                .to_owned()
        }
        parser_message if mentions_tab(parser_message) => {
            "a tab is used here; indent with spaces".to_owned()
        }
        parser_message => match duplicate_field(parser_message) {
            Some(field) => format!("the field `{field}` is given twice; leave one of them out"),
            None => return None,
        },
    };
    Some(message.chars().flat_map(super::printable).collect())
}

/// Returns the place of an error. For an error about a tab, the parser reports the start of the
/// text before the tab, so this function searches for the tab.
pub(super) fn tab_place(parser_message: &str, text: &str, place: FileLocation) -> FileLocation {
    let lines = text.lines().zip(1_u64..);
    let tab = lines
        .skip_while(|(_, line)| *line < place.line)
        .find_map(|(content, line)| {
            let before = content.chars().zip(1_u64..);
            let (_, column) = before
                .skip_while(|(_, column)| line == place.line && *column < place.column)
                .find(|(character, _)| *character == '\t')?;
            Some(FileLocation { line, column })
        });
    match tab {
        Some(tab) if mentions_tab(parser_message) => tab,
        Some(_) | None => place,
    }
}

/// Returns the place of a duplicate field with a tag, such as `!tag name`.
///
/// The parser does not report this place: it distinguishes `!tag name` from `name`, and only serde
/// finds the duplicate field.
pub(super) fn tagged_field(parser_message: &str, text: &str) -> Option<FileLocation> {
    let field = duplicate_field(parser_message)?;
    let mut tags = text.match_indices('!').map(|(at, _)| at);
    let at = tags.find(|at| {
        let name = text[*at..].split_once(char::is_whitespace);
        name.is_some_and(|(_, name)| {
            let name = name.trim_start().trim_start_matches(['"', '\'']);
            name.starts_with(field)
        })
    })?;
    let mut line = 1;
    let mut column = 1;
    for character in text[..at].chars() {
        (line, column) = match character {
            '\n' => (line + 1, 1),
            _ => (line, column + 1),
        };
    }
    Some(FileLocation { line, column })
}

/// Returns the field of a message about a duplicate field.
fn duplicate_field(parser_message: &str) -> Option<&str> {
    parser_message
        .strip_prefix("duplicate field `")?
        .strip_suffix('`')
}

fn mentions_tab(parser_message: &str) -> bool {
    parser_message
        .split_whitespace()
        .any(|word| word == "tab" || word == "tabs")
}

/// Returns the field and its value at `place`. Each is empty if it is not on the line of `place`.
fn field_and_value(text: &str, place: FileLocation) -> (&str, &str) {
    let index = |number: u64| usize::try_from(number - 1).unwrap_or(usize::MAX);
    let line = text.lines().nth(index(place.line)).unwrap_or("");
    let at = line
        .char_indices()
        .nth(index(place.column))
        .map_or(line.len(), |(at, _)| at);
    // For a missing value, the parser reports the place of the colon.
    let at = at + usize::from(line[at..].starts_with(':'));
    let (before, value) = line.split_at(at);
    let field = before.trim_end().strip_suffix(':').map_or("", |before| {
        before
            .rsplit(|character: char| !character.is_ascii_alphanumeric())
            .next()
            .unwrap_or("")
    });
    let end = value
        .find([',', '}', ']'])
        .into_iter()
        .chain(value.find(" #"))
        .min()
        .unwrap_or(value.len());
    (field, value[..end].trim())
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains(['{', '[', ':', '"', '\''])
}
