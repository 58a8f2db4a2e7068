//! The other cases on a large table, beside the same on an empty one: nothing slows down by more
//! than 1.3 times.

use backstory::BoxError;

use super::measure;
use crate::{
    args::CaseName,
    bench::{Bench, Ground},
    report::{Figure, Key, MILLIS, Series, Target},
};

const CASE: &str = "growth";
const BOUND: f64 = 1.3;

/// What depends on the size of the log, if anything does.
const GROWING: [CaseName; 9] = [
    CaseName::Append,
    CaseName::Ten,
    CaseName::Contended,
    CaseName::Dcb,
    CaseName::Rehydrate,
    CaseName::Read,
    CaseName::Live,
    CaseName::Command,
    CaseName::Bulk,
];

pub async fn run(bench: &Bench) -> Result<(), BoxError> {
    for case in GROWING {
        let (mut empty, mut large) = (Series::default(), Series::default());
        for _ in 0..bench.args.rounds() {
            bench
                .report
                .say(format!("  {} on an empty table", case.text()));
            empty.extend(measure(bench, case, Ground::Empty).await?);
            let log = bench.args.log();
            bench
                .report
                .say(format!("  {} on a table of {log} events", case.text()));
            large.extend(measure(bench, case, Ground::Large).await?);
        }
        // Conflicts are counted by the case itself.
        let timed = |key: &Key| key.unit == MILLIS || key.unit.ends_with("/s");
        for (key, value) in large.medians().filter(|(key, _)| timed(key)) {
            bench
                .report
                .add(compare(bench, key, value, empty.median(key)));
        }
    }
    Ok(())
}

fn compare(bench: &Bench, key: &Key, large: f64, empty: Option<f64>) -> Figure {
    let mut labels = vec![
        ("of", key.case.clone().into()),
        ("log", bench.args.log().into()),
    ];
    labels.extend(key.labels.iter().cloned());
    let grown = Key {
        case: CASE.to_owned(),
        labels,
        unit: key.unit,
    };
    let mut figure = Figure::new(&grown, large, None);
    figure.beside = empty.map(|empty| ("empty", empty));
    // The rarest times are shown; they are too few for a bound.
    match key.text("stat") {
        "" | "p50" => figure.target(Target::SlowerAtMost(BOUND)),
        _ => figure,
    }
}
