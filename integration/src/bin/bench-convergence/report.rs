//! Figures of both sides, and their ratio.

use std::io::Write;
use std::time::Duration;

/// What one side did, over all rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    values: Vec<f64>,
}

/// All rows of the table.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: &'static str,
    unit: &'static str,
    ours: Figures,
    theirs: Option<(&'static str, Figures)>,
}

impl Figures {
    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[length / 2],
            length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
        }
    }

    fn max(&self) -> f64 {
        self.values.iter().copied().fold(f64::NAN, f64::max)
    }

    fn in_words(&self) -> String {
        format!("{:.1} / {:.1}", self.median(), self.max())
    }
}

impl Report {
    pub(crate) fn compare(
        &mut self,
        what: &'static str,
        unit: &'static str,
        ours: Figures,
        (name, theirs): (&'static str, Figures),
    ) {
        self.add(Row {
            what,
            unit,
            ours,
            theirs: Some((name, theirs)),
        });
    }

    pub(crate) fn ours_alone(&mut self, what: &'static str, unit: &'static str, ours: Figures) {
        self.add(Row {
            what,
            unit,
            ours,
            theirs: None,
        });
    }

    fn add(&mut self, row: Row) {
        say(&row.in_words());
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        say(
            "\n| what | unit | ours, median / max | beside | theirs, median / max | theirs : ours |",
        );
        say("|---|---|---|---|---|---|");
        for row in &self.rows {
            say(&row.in_words());
        }
        let rounds = self.rows.first().map_or(0, |row| row.ours.values.len());
        say(&format!("\n{rounds} rounds, both sides in turn."));
    }
}

impl Row {
    fn in_words(&self) -> String {
        let (name, theirs, ratio) = match &self.theirs {
            Some((name, theirs)) => {
                let ratio = theirs.median() / self.ours.median();
                let ratio = if ratio.is_finite() {
                    format!("{ratio:.1}")
                } else {
                    "-".to_owned()
                };
                (*name, theirs.in_words(), ratio)
            }
            None => ("-", "-".to_owned(), "-".to_owned()),
        };
        format!(
            "| {} | {} | {} | {name} | {theirs} | {ratio} |",
            self.what,
            self.unit,
            self.ours.in_words()
        )
    }
}

fn say(text: &str) {
    // A reader who has closed the pipe wants no more.
    let _ = writeln!(std::io::stdout(), "{text}");
}
