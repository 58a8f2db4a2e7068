//! The cases: each measures ours and the raw limit, in turns.

mod append;
mod command;
mod contended;
mod read;
mod rehydrate;
mod ten;

use backstory::BoxError;

use crate::{
    args::CaseName,
    bench::{Bench, Ground},
    report::{Figure, Sample, Series},
};

/// Measures a case in all rounds and reports its figures.
pub async fn run(bench: &Bench, case: CaseName) -> Result<(), BoxError> {
    bench.report.say(format!("\n{}", case.text()));
    let (mut ours, mut raw) = (Series::default(), Series::default());
    for round in 0..bench.args.rounds() {
        // Neither side is always the first.
        if round % 2 == 0 {
            raw.extend(measure_raw(bench, case).await?);
            ours.extend(measure(bench, case, Ground::Empty).await?);
        } else {
            ours.extend(measure(bench, case, Ground::Empty).await?);
            raw.extend(measure_raw(bench, case).await?);
        }
    }
    for figure in figures(case, &ours, &raw) {
        bench.report.add(figure);
    }
    Ok(())
}

/// One round of ours.
async fn measure(bench: &Bench, case: CaseName, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    match case {
        CaseName::Append => append::ours(bench, ground).await,
        CaseName::Ten => ten::ours(bench, ground).await,
        CaseName::Contended => contended::ours(bench, ground).await,
        CaseName::Rehydrate => rehydrate::ours(bench, ground).await,
        CaseName::Read => read::ours(bench, ground).await,
        CaseName::Command => command::ours(bench, ground).await,
    }
}

/// One round of the raw limit.
async fn measure_raw(bench: &Bench, case: CaseName) -> Result<Vec<Sample>, BoxError> {
    match case {
        CaseName::Append => append::raw(bench).await,
        CaseName::Ten => ten::raw(bench).await,
        CaseName::Contended => contended::raw(bench).await,
        CaseName::Rehydrate => rehydrate::raw(bench).await,
        CaseName::Read => read::raw(bench).await,
        CaseName::Command => command::raw(bench).await,
    }
}

fn figures(case: CaseName, ours: &Series, raw: &Series) -> Vec<Figure> {
    match case {
        CaseName::Append => append::figures(ours, raw),
        CaseName::Ten => ten::figures(ours, raw),
        CaseName::Contended => contended::figures(ours, raw),
        CaseName::Rehydrate => rehydrate::figures(ours, raw),
        CaseName::Read => read::figures(ours, raw),
        CaseName::Command => command::figures(ours, raw),
    }
}
