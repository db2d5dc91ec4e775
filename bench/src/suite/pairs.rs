//! Paired runs: without, with, with, without, ...

use anyhow::Result;

use crate::context::{go_on, tell};
use crate::stats::Spread;

/// Rates of a series of pairs, and their ratios.
#[derive(Debug)]
pub struct Paired {
    pub without: Spread,
    pub with: Spread,
    pub ratio: Spread,
}

/// Runs `count` pairs and, before them, one that is thrown away. Both closures return a rate.
///
/// # Errors
/// When a run fails or the user interrupts.
pub fn pairs(
    label: &str,
    count: usize,
    mut without: impl FnMut() -> Result<f64>,
    mut with: impl FnMut() -> Result<f64>,
) -> Result<Paired> {
    let (mut base, mut traced) = (Vec::new(), Vec::new());
    for number in 0..=count {
        go_on()?;
        let swapped = number % 2 == 1;
        let (a, b) = if swapped {
            let b = with()?;
            (without()?, b)
        } else {
            let a = without()?;
            (a, with()?)
        };
        if number == 0 {
            continue;
        }
        tell(format_args!("{label}: pair {number} of {count}: {:.3}", b / a));
        base.push(a);
        traced.push(b);
    }
    let ratios: Vec<f64> = traced.iter().zip(&base).map(|(with, without)| with / without).collect();
    Ok(Paired { without: Spread::of(&base), with: Spread::of(&traced), ratio: Spread::of(&ratios) })
}
