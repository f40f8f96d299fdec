//! What a check has found, as text and as JSON.

use serde_json::{Value, json};

use crate::kubernetes::manifests::{Place, Position};

/// How much a message weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is not served as it is written, or an API server refuses it.
    Error,
    /// Its owner should know; an error with `--strict`.
    Remark,
    /// What the verdict leaves open.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How much it weighs.
    pub severity: Severity,
    /// Where; `None`: it is about several objects.
    pub place: Option<Place>,
    /// Kind and name of the object; empty: none.
    pub object: String,
    /// The reason of the Event that says the same in a cluster.
    pub reason: Option<&'static str>,
    /// The field or annotation; empty: none.
    pub field: String,
    /// What it is, and what to do; begins with the field.
    pub text: String,
}

/// What the check of some files has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By severity, then in the order of the files.
    pub messages: Vec<Message>,
    /// How many Services of ours there are.
    pub services: usize,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Remark => "remark",
            Self::Note => "note",
        }
    }
}

impl Message {
    /// The message as a line of text.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = match &self.place {
            Some(place) => format!("{place}: "),
            None => "note: ".to_owned(),
        };
        if !self.object.is_empty() {
            line.push_str(&format!("{}: ", self.object));
        }
        line.push_str(&self.text);
        line
    }

    fn json(&self) -> Value {
        let place = self.place.as_ref();
        let position = place.and_then(|place| place.position);
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        json!({
            "severity": self.severity.as_str(),
            "file": place.map(|place| &*place.file),
            "document": place.map(|place| place.document).filter(|number| *number > 0),
            "line": position.map(|Position { line, .. }| line),
            "column": position.map(|Position { column, .. }| column),
            "object": text(&self.object),
            "reason": self.reason,
            "field": text(&self.field),
            "message": self.text,
        })
    }
}

impl Report {
    /// How many messages there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let all = self.messages.iter();
        all.filter(|message| message.severity == severity).count()
    }

    /// Whether nothing is wrong; with `is_strict` a remark is wrong, too.
    #[must_use]
    pub fn passes(&self, is_strict: bool) -> bool {
        let remarks = if is_strict {
            self.count(Severity::Remark)
        } else {
            0
        };
        self.count(Severity::Error) + remarks == 0
    }

    /// The last line of the text.
    #[must_use]
    pub fn verdict(&self, is_strict: bool) -> String {
        let count = |severity: Severity, word: &str| match self.count(severity) {
            1 => format!("1 {word}"),
            several => format!("{several} {word}s"),
        };
        let errors = count(Severity::Error, "error");
        if !self.passes(is_strict) {
            return match self.count(Severity::Remark) {
                remarks if is_strict && remarks > 0 => {
                    let remarks = count(Severity::Remark, "remark");
                    format!("{errors}, {remarks} (errors by --strict)")
                }
                _ => errors,
            };
        }
        match self.services {
            0 => "there is no Service of this class in the files".to_owned(),
            1 => "the Service can be served".to_owned(),
            services => format!("all {services} Services can be served"),
        }
    }

    /// All of it as one JSON object.
    #[must_use]
    pub fn json(&self, is_strict: bool) -> Value {
        let messages: Vec<Value> = self.messages.iter().map(Message::json).collect();
        json!({
            "valid": self.passes(is_strict),
            "services": self.services,
            "errors": self.count(Severity::Error),
            "remarks": self.count(Severity::Remark),
            "messages": messages,
        })
    }
}
