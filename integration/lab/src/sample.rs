//! The choice of the cases of a long test matrix that a test run covers.

use std::env;

/// The environment variable that selects the sample: a seed, or `all`, which is the default.
const VARIABLE: &str = "LAB_SAMPLE";

/// Returns `count` of the cases, in their order, selected by the seed in `LAB_SAMPLE`. Without this
/// variable, or with `all`, returns all cases. With a seed, prints the seed and the numbers of the
/// selected cases to standard error, so that a failure can be repeated.
///
/// # Panics
/// If `LAB_SAMPLE` is neither a number nor `all`. Without the panic the test would have no case and
/// pass.
pub fn sample<T>(cases: impl IntoIterator<Item = T>, count: usize) -> Vec<T> {
    let cases: Vec<T> = cases.into_iter().collect();
    let seed = match env::var(VARIABLE).as_deref() {
        Err(_) | Ok("all") => return cases,
        Ok(text) => match text.parse() {
            Ok(seed) => seed,
            Err(_) => panic!("{VARIABLE} is {text:?}, not a number or `all`"),
        },
    };
    let chosen = choose(seed, cases.len(), count);
    eprintln!("{VARIABLE}={seed}: cases {chosen:?} of {}", cases.len());
    let cases = cases.into_iter().enumerate();
    cases
        .filter(|(index, _)| chosen.contains(index))
        .map(|(_, case)| case)
        .collect()
}

/// Reports whether this run covers every case of each test matrix: `LAB_SAMPLE` is `all` or not
/// set.
pub fn is_complete() -> bool {
    matches!(env::var(VARIABLE).as_deref(), Err(_) | Ok("all"))
}

/// Returns `count` different numbers below `length`, in ascending order. All numbers have the same
/// probability. A `count` of 0 counts as 1. If `length` is at most `count`, returns all numbers
/// below `length`.
fn choose(seed: u64, length: usize, count: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..length).collect();
    let mut state = seed;
    while left.len() > count.max(1) {
        let random = usize::try_from(next(&mut state) >> 33).unwrap_or_default();
        left.remove(random % left.len());
    }
    left
}

/// Returns the next random number of SplitMix64 (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators").
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_always_selects_the_same_cases_in_order() {
        assert_eq!(choose(7, 10, 4), choose(7, 10, 4));
        for seed in 0..100 {
            let chosen = choose(seed, 10, 4);
            assert_eq!(chosen.len(), 4);
            assert!(chosen.is_sorted() && chosen.iter().all(|index| *index < 10));
        }
    }

    #[test]
    fn every_case_is_selected_by_some_seed_and_each_sample_has_at_least_one_case() {
        let mut times = [0; 5];
        for seed in 0..1000 {
            let chosen = choose(seed, 5, 0);
            assert_eq!(chosen.len(), 1);
            times[chosen[0]] += 1;
        }
        assert!(
            times.iter().all(|count| (100..300).contains(count)),
            "{times:?}"
        );
    }

    #[test]
    fn a_sample_with_the_size_of_the_matrix_has_all_cases() {
        assert_eq!(choose(3, 3, 3), [0, 1, 2]);
        assert_eq!(choose(3, 3, 9), [0, 1, 2]);
        assert_eq!(choose(3, 0, 2), [0; 0]);
    }
}
