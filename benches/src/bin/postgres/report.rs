//! Figures, their medians, their targets, and how they are printed.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

/// Something per second.
pub const EVENTS: &str = "events/s";
/// Commands per second.
pub const COMMANDS: &str = "commands/s";
/// Milliseconds.
pub const MILLIS: &str = "ms";

/// What a number is.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The case.
    pub case: String,
    /// What distinguishes it within the case.
    pub labels: Vec<(&'static str, Value)>,
    /// Its unit.
    pub unit: &'static str,
}

impl Key {
    /// A number of a case.
    pub fn new(case: &str, unit: &'static str) -> Self {
        Self {
            case: case.to_owned(),
            labels: Vec::new(),
            unit,
        }
    }

    /// With one more label.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.labels.push((name, value.into()));
        self
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&Value> {
        self.labels
            .iter()
            .find(|(label, _)| *label == name)
            .map(|(_, value)| value)
    }

    /// A label that is a number; 0 when there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.label(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A label that is a text; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.label(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn line(&self) -> String {
        let labels = self.labels.iter().map(|(name, value)| match value {
            Value::String(text) => format!(" {name}={text}"),
            value => format!(" {name}={value}"),
        });
        format!("{}{}", self.case, labels.collect::<String>())
    }
}

/// A number that was measured in one round.
pub type Sample = (Key, f64);

/// The numbers of all rounds.
#[derive(Debug, Default)]
pub struct Series(Vec<(Key, Vec<f64>)>);

impl Series {
    /// Adds the numbers of a round.
    pub fn extend(&mut self, samples: Vec<Sample>) {
        for (key, value) in samples {
            match self.0.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => self.0.push((key, vec![value])),
            }
        }
    }

    /// The medians, in the order of measuring.
    pub fn medians(&self) -> impl Iterator<Item = (&Key, f64)> {
        self.0.iter().map(|(key, values)| (key, median(values)))
    }

    /// As [`Self::medians`], but the largest of what may not happen at all: an even number of
    /// rounds must not hide it.
    pub fn worst_counts<'a>(&'a self, unit: &'a str) -> impl Iterator<Item = (&'a Key, f64)> {
        self.0.iter().map(move |(key, values)| {
            let largest = values.iter().copied().fold(0.0, f64::max);
            (
                key,
                if key.unit == unit {
                    largest
                } else {
                    median(values)
                },
            )
        })
    }

    /// The median of a number.
    pub fn median(&self, key: &Key) -> Option<f64> {
        self.medians()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    /// The largest median of a case and unit for which the predicate holds.
    pub fn best(&self, unit: &str, keep: impl Fn(&Key) -> bool) -> Option<f64> {
        let fitting = self
            .medians()
            .filter(|(key, _)| key.unit == unit && keep(key));
        fitting.map(|(_, value)| value).max_by(f64::total_cmp)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        even if even % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At least so many times what it is compared with.
    RatioAtLeast(f64),
    /// At most so many times what it is compared with.
    RatioAtMost(f64),
    /// At most so many times slower than what it is compared with.
    SlowerAtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// At most so much.
    AtMost(f64),
}

impl Target {
    fn is_met(self, figure: &Figure) -> bool {
        // What was not measured is not met.
        let ratio = figure.ratio();
        match self {
            Self::RatioAtLeast(bound) => ratio.is_some_and(|ratio| ratio >= bound),
            Self::RatioAtMost(bound) => ratio.is_some_and(|ratio| ratio <= bound),
            Self::SlowerAtMost(bound) => figure.slowdown().is_some_and(|slower| slower <= bound),
            Self::AtLeast(bound) => figure.ours >= bound,
            Self::AtMost(bound) => figure.ours <= bound,
        }
    }

    fn text(self, beside: &str) -> String {
        match self {
            Self::RatioAtLeast(bound) => format!(">= {bound} x {beside}"),
            Self::RatioAtMost(bound) => format!("<= {bound} x {beside}"),
            Self::SlowerAtMost(bound) => format!("<= {bound} x slower than {beside}"),
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

/// A number of ours, and what it is compared with.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What it is.
    pub key: Key,
    /// Our number.
    pub ours: f64,
    /// What it is compared with: `raw`, or another name.
    pub beside: Option<(&'static str, f64)>,
    /// What it should be.
    pub targets: Vec<Target>,
}

impl Figure {
    /// A figure beside the raw limit, when that was measured.
    pub fn new(key: &Key, ours: f64, raw: Option<f64>) -> Self {
        Self {
            key: key.clone(),
            ours,
            beside: raw.map(|raw| ("raw", raw)),
            targets: Vec::new(),
        }
    }

    /// With a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.beside.map(|(_, other)| self.ours / other)
    }

    /// How many times slower it is, be it a time or a rate.
    fn slowdown(&self) -> Option<f64> {
        let ratio = self.ratio()?;
        Some(if self.key.unit == MILLIS {
            ratio
        } else {
            ratio.recip()
        })
    }

    fn json(&self) -> String {
        let raw = self
            .beside
            .filter(|(name, _)| *name == "raw")
            .map(|(_, value)| rounded(value));
        let other = self.beside.filter(|(name, _)| *name != "raw");
        let mut fields = vec![("case", json!(self.key.case))];
        fields.extend(self.key.labels.iter().cloned());
        fields.push(("unit", json!(self.key.unit)));
        fields.push(("ours", json!(rounded(self.ours))));
        fields.push(("raw", json!(raw)));
        fields.extend(other.map(|(name, value)| (name, json!(rounded(value)))));
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{}:{value}", json!(name)));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }

    fn line(&self) -> String {
        let beside = self.beside.map_or_else(String::new, |(name, value)| {
            format!("{name} {:>10}  x{:<6.2}", show(value), self.ours / value)
        });
        let name = self.beside.map_or("raw", |(name, _)| name);
        let targets = self.targets.iter().map(|target| {
            let verdict = if target.is_met(self) {
                "met"
            } else {
                "NOT MET"
            };
            format!(" {}: {verdict};", target.text(name))
        });
        format!(
            "{:<88} {:>10} {:<10} {beside:<26}{}",
            self.key.line(),
            show(self.ours),
            self.key.unit,
            targets.collect::<String>().trim_end_matches(';'),
        )
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn show(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.0}")
    }
}

/// Where everything goes.
pub struct Report {
    json: bool,
    figures: Mutex<Vec<Figure>>,
}

impl Report {
    /// With lines of JSON on stdout, or without.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            figures: Mutex::default(),
        }
    }

    /// A line for people.
    pub fn say(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        // Nobody reads: there is nothing better to do than to go on.
        let _ = if self.json {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    /// A figure: printed at once, and again in the table at the end.
    pub fn add(&self, figure: Figure) {
        if self.json {
            let _ = writeln!(std::io::stdout(), "{}", figure.json());
        }
        self.say(format!("  {}", figure.line()));
        self.figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(figure);
    }

    /// The table of all figures.
    pub fn table(&self) {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        self.say("\nmedians, ratios and targets");
        for figure in figures.iter() {
            self.say(figure.line());
        }
        let verdicts = figures.iter().flat_map(|figure| {
            figure
                .targets
                .iter()
                .map(move |target| target.is_met(figure))
        });
        let verdicts: Vec<bool> = verdicts.collect();
        let met = verdicts.iter().filter(|met| **met).count();
        self.say(format!("targets met: {met} of {}", verdicts.len()));
    }
}
