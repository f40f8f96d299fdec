//! The report of `validate`, as text and as JSON.

use serde_json::{Value, json};

use crate::kubernetes::manifests::{ManifestPlace, Position};

/// The severity of a [`ValidationMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageSeverity {
    /// The API server refuses the object, or this load balancer does not serve it as written.
    Error,
    /// The object is served, but most likely not as its author intended. With `--strict` an error.
    Remark,
    /// A check was not possible.
    Note,
}

/// A message about one object or, as a note, about several objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationMessage {
    pub severity: MessageSeverity,
    /// `None`: the message is about several objects.
    pub place: Option<ManifestPlace>,
    /// Kind and name of the object, such as `Service shop/web`. Empty: the message is about a file
    /// or about several objects.
    pub object: String,
    /// Reason of the Event with the same message in a cluster. `None`: pod-watcher writes no
    /// Event for this message.
    pub reason: Option<&'static str>,
    /// The field or annotation. Empty: the message is about the whole object.
    pub field: String,
    /// The problem and a suggestion. The text begins with the field.
    pub text: String,
}

/// The result of a check of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidationReport {
    /// Messages sorted by severity, then by the order of the files, then by line.
    pub messages: Vec<ValidationMessage>,
    /// Number of Services with the class of this load balancer.
    pub services: usize,
}

impl MessageSeverity {
    /// Returns the severity as the text and the JSON of the report show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Remark => "remark",
            Self::Note => "note",
        }
    }
}

impl ValidationMessage {
    /// Returns the message as one line of text.
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

impl ValidationReport {
    /// Returns the number of messages with a severity.
    #[must_use]
    pub fn count(&self, severity: MessageSeverity) -> usize {
        let all = self.messages.iter();
        all.filter(|message| message.severity == severity).count()
    }

    /// Reports whether the manifests are valid. With `is_strict`, a remark counts as an error.
    #[must_use]
    pub fn passes(&self, is_strict: bool) -> bool {
        let remarks = if is_strict {
            self.count(MessageSeverity::Remark)
        } else {
            0
        };
        self.count(MessageSeverity::Error) + remarks == 0
    }

    /// Returns the last line of the report as text: the number of errors, or the number of valid
    /// Services.
    #[must_use]
    pub fn verdict(&self, is_strict: bool) -> String {
        let count = |severity: MessageSeverity, word: &str| match self.count(severity) {
            1 => format!("1 {word}"),
            several => format!("{several} {word}s"),
        };
        let errors = count(MessageSeverity::Error, "error");
        if !self.passes(is_strict) {
            return match self.count(MessageSeverity::Remark) {
                remarks if is_strict && remarks > 0 => {
                    let remarks = count(MessageSeverity::Remark, "remark");
                    format!("{errors}, {remarks} (with --strict, a remark is an error)")
                }
                _ => errors,
            };
        }
        match self.services {
            0 => "the files have no Service with the class of this load balancer".to_owned(),
            1 => "the Service can be served".to_owned(),
            services => format!("all {services} Services can be served"),
        }
    }

    /// Returns the report as one JSON object.
    #[must_use]
    pub fn json(&self, is_strict: bool) -> Value {
        let messages: Vec<Value> = self.messages.iter().map(ValidationMessage::json).collect();
        json!({
            "valid": self.passes(is_strict),
            "services": self.services,
            "errors": self.count(MessageSeverity::Error),
            "remarks": self.count(MessageSeverity::Remark),
            "messages": messages,
        })
    }
}
