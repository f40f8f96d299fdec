//! What the YAML parser says, in words that name the field and the cure.

use super::Place;

/// The message for `said`, which the parser said of `place` in `text`. `None`: it stands as it is.
pub(super) fn translated(said: &str, text: &str, place: Option<Place>) -> Option<String> {
    let (field, value) = place.map_or(("", ""), |place| around(text, place));
    let at_field = |message: &str| match field {
        "" => message.to_owned(),
        field => format!("{field}: {message}"),
    };
    let number = |most: u64| {
        at_field(&format!(
            "{value} is not a whole number from 0 to {most}; write one"
        ))
    };
    let message = match said {
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
        "illegal placement of ':' indicator" => "a colon cannot stand here; is a ] or } missing \
             before it, or quotes around a text with a colon?"
            .to_owned(),
        "while parsing a block mapping, did not find expected key" => {
            "the indentation fits no field above; indent all fields of an entry alike".to_owned()
        }
        "invalid indentation in multiline quoted scalar" => {
            "a text in quotes goes on here; is the closing quote missing above?".to_owned()
        }
        "only single YAML document expected but multiple found" => {
            "a second document begins here; write one document a file, without ---".to_owned()
        }
        said if speaks_of_a_tab(said) => "a tab stands here; indent with spaces".to_owned(),
        said => match doubled(said) {
            Some(field) => format!("the field `{field}` is given twice; leave one of them out"),
            None => return None,
        },
    };
    Some(message.chars().flat_map(super::printable).collect())
}

/// Where to look: the parser's place, but for a tab, whose error stands where the text before it
/// begins.
pub(super) fn place(said: &str, text: &str, place: Place) -> Place {
    let lines = text.lines().zip(1_u64..);
    let tab = lines
        .skip_while(|(_, line)| *line < place.line)
        .find_map(|(content, line)| {
            let before = content.chars().zip(1_u64..);
            let (_, column) = before
                .skip_while(|(_, column)| line == place.line && *column < place.column)
                .find(|(character, _)| *character == '\t')?;
            Some(Place { line, column })
        });
    match tab {
        Some(tab) if speaks_of_a_tab(said) => tab,
        Some(_) | None => place,
    }
}

/// Where to look if the parser knows no place: `!tag name` is another name than `name` to it, so
/// that it does not see that the field is given twice.
pub(super) fn tagged(said: &str, text: &str) -> Option<Place> {
    let field = doubled(said)?;
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
    Some(Place { line, column })
}

fn doubled(said: &str) -> Option<&str> {
    said.strip_prefix("duplicate field `")?.strip_suffix('`')
}

fn speaks_of_a_tab(said: &str) -> bool {
    said.split_whitespace()
        .any(|word| word == "tab" || word == "tabs")
}

/// The field whose value stands at the place, and the value as it is written; empty if there is
/// none on that line.
fn around(text: &str, place: Place) -> (&str, &str) {
    let index = |number: u64| usize::try_from(number - 1).unwrap_or(usize::MAX);
    let line = text.lines().nth(index(place.line)).unwrap_or("");
    let at = line
        .char_indices()
        .nth(index(place.column))
        .map_or(line.len(), |(at, _)| at);
    // A value that is missing stands at the colon.
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
