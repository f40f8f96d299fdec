//! Figures of both sides, and their ratio.

use std::io::Write;
use std::time::Duration;

/// What one side did, over all rounds.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    values: Vec<f64>,
}

/// All rows of the table.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    ours: Figures,
    theirs: Option<(&'static str, Figures)>,
}

impl Figures {
    /// Adds a round's.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a round's, in milliseconds.
    pub fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    /// The one of which this share of all is no greater, alone.
    pub fn quantile(&self, share: f64) -> Self {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let rank = (values.len() as f64 * share).ceil() as usize;
        let value = values.get(rank.max(1) - 1).copied();
        Self::from(value.unwrap_or(f64::NAN))
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
        match self.values[..] {
            [only] => format!("{only:.1}"),
            _ => format!("{:.1} / {:.1}", self.median(), self.max()),
        }
    }
}

impl From<f64> for Figures {
    fn from(value: f64) -> Self {
        Self {
            values: vec![value],
        }
    }
}

impl From<Duration> for Figures {
    fn from(time: Duration) -> Self {
        Self::from(time.as_secs_f64() * 1000.0)
    }
}

impl Report {
    /// A row with the other's name and figures.
    pub fn compare(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: Figures,
        (name, theirs): (&'static str, Figures),
    ) {
        self.add(Row {
            what: what.into(),
            unit,
            ours,
            theirs: Some((name, theirs)),
        });
    }

    /// A row that has nothing beside it.
    pub fn ours_alone(&mut self, what: impl Into<String>, unit: &'static str, ours: Figures) {
        self.add(Row {
            what: what.into(),
            unit,
            ours,
            theirs: None,
        });
    }

    fn add(&mut self, row: Row) {
        say(&row.in_words());
        self.rows.push(row);
    }

    /// The whole table, and how it was measured.
    pub fn print(&self, how: &str) {
        say(
            "\n| what | unit | ours, median / max | beside | theirs, median / max | theirs : ours |",
        );
        say("|---|---|---|---|---|---|");
        for row in &self.rows {
            say(&row.in_words());
        }
        say(&format!("\n{how}"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_smallest_value_that_so_many_do_not_exceed() {
        let mut figures = Figures::default();
        for value in (1..=200).rev() {
            figures.add(f64::from(value));
        }
        assert_eq!(figures.quantile(0.5).in_words(), "100.0");
        assert_eq!(figures.quantile(0.99).in_words(), "198.0");
        assert_eq!(figures.quantile(1.0).in_words(), "200.0");
        assert_eq!(figures.in_words(), "100.5 / 200.0");
    }
}
