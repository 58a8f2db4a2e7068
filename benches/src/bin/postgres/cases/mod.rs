//! The cases: each measures ours and the raw limit, in turns.

mod append;
mod bulk;
mod command;
mod contended;
mod dcb;
mod growth;
pub mod live;
pub mod memory;
mod project;
mod read;
mod rehydrate;
mod statistics;
mod ten;
mod visible;

use backstory::BoxError;

use crate::{
    args::CaseName,
    bench::{Bench, Ground},
    report::{Figure, Sample, Series},
};

/// Measures a case in all rounds and reports its figures.
pub async fn run(bench: &Bench, case: CaseName) -> Result<(), BoxError> {
    bench.report.say(format!("\n{}", case.text()));
    match case {
        CaseName::Growth => growth::run(bench).await,
        CaseName::Memory => memory::run(bench).await,
        case => rounds(bench, case).await,
    }
}

async fn rounds(bench: &Bench, case: CaseName) -> Result<(), BoxError> {
    let grounds: &[Ground] = match case {
        CaseName::Dcb => &[Ground::Empty, Ground::Large],
        _ => &[Ground::Empty],
    };
    let (mut ours, mut raw) = (Series::default(), Series::default());
    for round in 0..bench.args.rounds() {
        for ground in grounds {
            // Neither side is always the first.
            if round % 2 == 0 {
                raw.extend(on(
                    bench,
                    *ground,
                    grounds,
                    measure_raw(bench, case, *ground).await?,
                ));
                ours.extend(on(
                    bench,
                    *ground,
                    grounds,
                    measure(bench, case, *ground).await?,
                ));
            } else {
                ours.extend(on(
                    bench,
                    *ground,
                    grounds,
                    measure(bench, case, *ground).await?,
                ));
                raw.extend(on(
                    bench,
                    *ground,
                    grounds,
                    measure_raw(bench, case, *ground).await?,
                ));
            }
        }
    }
    for figure in figures(case, &ours, &raw) {
        bench.report.add(figure);
    }
    Ok(())
}

/// With the size of the log, where a case has several.
fn on(bench: &Bench, ground: Ground, grounds: &[Ground], samples: Vec<Sample>) -> Vec<Sample> {
    if grounds.len() == 1 {
        return samples;
    }
    let log = match ground {
        Ground::Empty => 0,
        Ground::Large => bench.args.log(),
    };
    let labelled = |(key, value): Sample| (key.with("log", log), value);
    samples.into_iter().map(labelled).collect()
}

/// One round of ours.
async fn measure(bench: &Bench, case: CaseName, ground: Ground) -> Result<Vec<Sample>, BoxError> {
    match case {
        CaseName::Append => append::ours(bench, ground).await,
        CaseName::Ten => ten::ours(bench, ground).await,
        CaseName::Contended => contended::ours(bench, ground).await,
        CaseName::Dcb => dcb::ours(bench, ground).await,
        CaseName::Rehydrate => rehydrate::ours(bench, ground).await,
        CaseName::Read => read::ours(bench, ground).await,
        CaseName::Live => live::ours(bench, ground).await,
        CaseName::Project => project::ours(bench).await,
        CaseName::Visible => visible::ours(bench, ground).await,
        CaseName::Command => command::ours(bench, ground).await,
        CaseName::Bulk => bulk::ours(bench, ground).await,
        CaseName::Statistics => statistics::ours(bench).await,
        // They do it themselves.
        CaseName::Growth | CaseName::Memory => Ok(Vec::new()),
    }
}

/// One round of the raw limit, where there is one.
async fn measure_raw(
    bench: &Bench,
    case: CaseName,
    ground: Ground,
) -> Result<Vec<Sample>, BoxError> {
    match case {
        CaseName::Append => append::raw(bench).await,
        CaseName::Ten => ten::raw(bench).await,
        CaseName::Contended => contended::raw(bench).await,
        CaseName::Dcb => dcb::raw(bench, ground).await,
        CaseName::Rehydrate => rehydrate::raw(bench).await,
        CaseName::Read => read::raw(bench).await,
        CaseName::Project => project::raw(bench).await,
        CaseName::Command => command::raw(bench).await,
        CaseName::Bulk => bulk::raw(bench).await,
        CaseName::Live
        | CaseName::Visible
        | CaseName::Statistics
        | CaseName::Growth
        | CaseName::Memory => Ok(Vec::new()),
    }
}

fn figures(case: CaseName, ours: &Series, raw: &Series) -> Vec<Figure> {
    match case {
        CaseName::Append => append::figures(ours, raw),
        CaseName::Ten => ten::figures(ours, raw),
        CaseName::Contended => contended::figures(ours, raw),
        CaseName::Dcb => dcb::figures(ours, raw),
        CaseName::Rehydrate => rehydrate::figures(ours, raw),
        CaseName::Read => read::figures(ours, raw),
        CaseName::Live | CaseName::Visible => live::figures(ours),
        CaseName::Project => project::figures(ours, raw),
        CaseName::Command => command::figures(ours, raw),
        CaseName::Bulk => bulk::figures(ours, raw),
        CaseName::Statistics => statistics::figures(ours),
        CaseName::Growth | CaseName::Memory => Vec::new(),
    }
}
