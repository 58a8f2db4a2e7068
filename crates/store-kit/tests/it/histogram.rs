//! A histogram estimates, but never by more than a factor of two.

use std::time::Duration;

use backstory_store_kit::Histogram;
use proptest::prelude::*;

#[test]
fn it_knows_count_sum_and_largest_value() {
    let histogram = Histogram::default();
    assert_eq!(histogram.read().count, 0);
    assert_eq!((histogram.read().p50, histogram.read().p99), (0, 0));
    for value in [0, 7, 3, u64::from(u32::MAX)] {
        histogram.record(value);
    }
    histogram.record_time(Duration::from_millis(2));
    let read = histogram.read();
    assert_eq!((read.count, read.max), (5, u64::from(u32::MAX)));
    assert_eq!(read.sum, 10 + 2_000 + u64::from(u32::MAX));
    histogram.record(u64::MAX);
    assert_eq!(histogram.read().max, u64::MAX);
}

#[test]
fn of_equal_values_it_knows_all() {
    let histogram = Histogram::default();
    (0..100).for_each(|_| histogram.record(1));
    let read = histogram.read();
    assert_eq!((read.p50, read.p99, read.max), (1, 1, 1));
    assert!((read.mean() - 1.0).abs() < 1e-9);
}

proptest! {
    #[test]
    fn quantiles_are_at_most_a_factor_of_two_off(
        mut values in prop::collection::vec(prop_oneof![0..4_u64, 0..1_000_u64, any::<u32>().prop_map(u64::from)], 1..300)
    ) {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        values.sort_unstable();
        let exact = |share: usize| values[(values.len() * share).div_ceil(100).max(1) - 1];
        let read = histogram.read();
        for (estimate, exact) in [(read.p50, exact(50)), (read.p99, exact(99))] {
            prop_assert!(estimate <= exact * 2 && estimate * 2 >= exact, "{estimate} for {exact}");
        }
        prop_assert!(read.p50 <= read.p99 && read.p99 <= read.max);
    }
}
