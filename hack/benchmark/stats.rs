//! Numbers about samples: quantiles, and how sure a ratio of two medians is.

use serde::Serialize;

/// What is said of a list of samples; all in the samples' unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Summarises `samples`; none if there are none.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Summary {
            n: sorted.len(),
            min,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: quantile(&sorted, 0.50),
            p90: quantile(&sorted, 0.90),
            p99: quantile(&sorted, 0.99),
            max,
        })
    }
}

/// A ratio of two medians and the interval that holds it in 95 of 100 resamplings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Resamplings for one interval.
const RESAMPLES: usize = 400;

impl Ratio {
    /// The ratio of the medians of `ours` to `theirs`, its interval by bootstrap.
    pub fn of(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
        let value = Summary::of(ours)?.p50 / Summary::of(theirs)?.p50;
        let mut random = Random::new(1);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                median_of_resample(ours, &mut random) / median_of_resample(theirs, &mut random)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        Some(Ratio {
            value,
            low: quantile(&ratios, 0.025),
            high: quantile(&ratios, 0.975),
        })
    }
}

fn median_of_resample(samples: &[f64], random: &mut Random) -> f64 {
    let mut drawn: Vec<f64> = (0..samples.len())
        .map(|_| samples[random.below(samples.len())])
        .collect();
    drawn.sort_by(f64::total_cmp);
    quantile(&drawn, 0.5)
}

/// The `q` quantile of sorted samples, by linear interpolation between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = q * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

/// A small random sequence (xorshift64*), the same in every run.
pub struct Random(u64);

impl Random {
    /// Starts the sequence of `seed`, which is not 0.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number in `0..limit`; `limit` is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    /// Puts `list` into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_interpolates_between_neighbours() {
        let samples: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.min, summary.p50, summary.max), (1.0, 51.0, 101.0));
        assert_eq!((summary.p90, summary.p99), (91.0, 100.0));
        assert_eq!(Summary::of(&[1.0, 2.0]).unwrap().p50, 1.5);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratio_interval_holds_the_ratio() {
        let theirs: Vec<f64> = (0..200).map(|i| 100.0 + f64::from(i % 17)).collect();
        let ours: Vec<f64> = theirs.iter().map(|t| t / 2.0).collect();
        let ratio = Ratio::of(&ours, &theirs).unwrap();
        assert_eq!(ratio.value, 0.5);
        assert!(ratio.low <= 0.5 && 0.5 <= ratio.high);
        assert!(ratio.low > 0.4 && ratio.high < 0.6);
    }

    #[test]
    fn shuffle_keeps_every_element() {
        let mut list: Vec<usize> = (0..20).collect();
        Random::new(7).shuffle(&mut list);
        assert_ne!(list, (0..20).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..20).collect::<Vec<_>>());
    }
}
