//! Ten events per append by 32 callers, beside 100 rows per transaction by UNNEST.

use backstory::BoxError;

use super::append::{insert, measure};
use crate::{
    bench::{Bench, Ground},
    raw::{Content, HUNDRED},
    report::{EVENTS, Figure, Sample, Series, Target},
};

pub async fn ours(bench: &Bench, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    measure(bench, ground, 32, 10).await
}

pub async fn raw(bench: &Bench) -> Result<Vec<Sample>, BoxError> {
    let content = Content::plain()?;
    let mut all = Vec::new();
    for connections in [1, 8, 32] {
        all.extend(
            insert(
                bench,
                Ground::Empty,
                "100 events",
                HUNDRED,
                connections,
                &content,
            )
            .await?,
        );
    }
    Ok(all)
}

pub fn figures(ours: &Series, raw: &Series) -> Vec<Figure> {
    let best = |case: &str| raw.best(EVENTS, |key| key.case == case);
    let mut all = Vec::new();
    for (key, value) in ours.medians() {
        if key.unit != EVENTS {
            all.push(Figure::new(key, value, None));
            continue;
        }
        let figure = Figure::new(key, value, best("100 events"));
        all.push(
            figure
                .target(Target::AtLeast(70_000.0))
                .target(Target::RatioAtLeast(0.5)),
        );
    }
    all
}
