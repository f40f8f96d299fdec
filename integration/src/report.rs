//! The table that a benchmark prints, with figures of portlb and of another program.

use std::io::Write;
use std::time::Duration;

/// The measured values of one program, such as one value for each round or for each change.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    values: Vec<f64>,
}

/// A table of figures. Each row is also printed at the time when it is added.
#[derive(Debug, Default)]
pub struct BenchmarkTable {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    portlb: Figures,
    other: Option<(&'static str, Figures)>,
}

impl Figures {
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a time, in milliseconds.
    pub fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    /// Returns figures with one value, a quantile: the smallest value that is at least as large as
    /// the share `share` of all values.
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

    fn format(&self) -> String {
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

impl BenchmarkTable {
    /// Adds a row with the figures of portlb and of another program.
    pub fn compare(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        portlb: Figures,
        (name, other): (&'static str, Figures),
    ) {
        self.add(Row {
            what: what.into(),
            unit,
            portlb,
            other: Some((name, other)),
        });
    }

    /// Adds a row with the figures of one program only.
    pub fn single(&mut self, what: impl Into<String>, unit: &'static str, figures: Figures) {
        self.add(Row {
            what: what.into(),
            unit,
            portlb: figures,
            other: None,
        });
    }

    fn add(&mut self, row: Row) {
        print_line(&row.format());
        self.rows.push(row);
    }

    /// Prints the whole table, and below the table the conditions of the measurement.
    pub fn print(&self, conditions: &str) {
        print_line(
            "\n| What | Unit | portlb, median / max | Other program | Other, median / max | Other : portlb |",
        );
        print_line("|---|---|---|---|---|---|");
        for row in &self.rows {
            print_line(&row.format());
        }
        print_line(&format!("\n{conditions}"));
    }
}

impl Row {
    fn format(&self) -> String {
        let (name, other, ratio) = match &self.other {
            Some((name, other)) => {
                let ratio = other.median() / self.portlb.median();
                let ratio = if ratio.is_finite() {
                    format!("{ratio:.1}")
                } else {
                    "-".to_owned()
                };
                (*name, other.format(), ratio)
            }
            None => ("-", "-".to_owned(), "-".to_owned()),
        };
        format!(
            "| {} | {} | {} | {name} | {other} | {ratio} |",
            self.what,
            self.unit,
            self.portlb.format()
        )
    }
}

fn print_line(text: &str) {
    // An error is ignored: it means that the reader of the pipe has ended.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_smallest_value_that_the_share_of_values_does_not_exceed() {
        let mut figures = Figures::default();
        for value in (1..=200).rev() {
            figures.add(f64::from(value));
        }
        assert_eq!(figures.quantile(0.5).format(), "100.0");
        assert_eq!(figures.quantile(0.99).format(), "198.0");
        assert_eq!(figures.quantile(1.0).format(), "200.0");
        assert_eq!(figures.format(), "100.5 / 200.0");
    }
}
