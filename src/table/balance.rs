//! Chooses the backend for a request. Pure: weights, counters and the random number are arguments.

use std::num::NonZeroU64;

use super::backend::{Backend, Target};
use super::rule::Algorithm;
use crate::address::Address;

/// Inputs of a choice besides the rule and the state of its backends.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// A fresh random number.
    pub random: u64,
    /// Number of requests of this rule, counted from any start: the turn for `round_robin`.
    pub turn: u64,
    /// A hash for `source`, of the client's address or of another value that stands for the client.
    pub source: u64,
}

/// Chooses the backend for one attempt, as an index into `backends`; `None` if no backend is
/// usable.
///
/// `open(i)` is the number of requests in flight to backend `i`. `share(i)` is its weight, possibly
/// multiplied by a number. The share is 0 for a backend that is ejected, full or tried already;
/// such a backend is never chosen.
pub fn choose(
    (algorithm, backends): (Algorithm, &[Backend]),
    draw: Draw,
    open: impl Fn(usize) -> u32,
    share: impl Fn(usize) -> u32,
) -> Option<usize> {
    if backends.len() == 1 {
        return (share(0) != 0).then_some(0);
    }
    match algorithm {
        Algorithm::Random => choose_by_chance(backends.len(), share, draw.random),
        Algorithm::RoundRobin => in_turn(backends.len(), share, draw.turn),
        Algorithm::LeastConnections => least_open(backends.len(), share, open, draw.random),
        Algorithm::Source | Algorithm::Cookie | Algorithm::Field => {
            choose_by_source(backends, share, draw.source)
        }
    }
}

/// A number below `limit`, uniform as long as `limit` is far below 2^64.
fn below(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

fn choose_by_chance(count: usize, share: impl Fn(usize) -> u32, random: u64) -> Option<usize> {
    let total: u64 = (0..count).map(|index| u64::from(share(index))).sum();
    if total == 0 {
        return None;
    }
    let mut left = below(random, total);
    (0..count).find(|&index| {
        let share = u64::from(share(index));
        let is_here = left < share;
        left = left.wrapping_sub(share);
        is_here
    })
}

/// Chooses backends in turn, interleaved. A cycle consists of rounds; in round `r`, each backend
/// whose share is above `r` gets one request. The shares are exact over a cycle; equal shares make
/// a plain rotation.
fn in_turn(count: usize, share: impl Fn(usize) -> u32, turn: u64) -> Option<usize> {
    let mut total = 0;
    let mut largest = 0;
    let mut divisor = 0;
    for index in 0..count {
        let share = u64::from(share(index));
        total += share;
        largest = largest.max(share);
        divisor = greatest_common_divisor(divisor, share);
    }
    if total == 0 {
        return None;
    }
    // Shares of 200 and 100 are reduced to 2 and 1: a cycle has 3 requests instead of 300.
    let share = |index: usize| u64::from(share(index)) / divisor;
    let place = turn % (total / divisor);
    let before = |round: u64| (0..count).map(|index| share(index).min(round)).sum::<u64>();
    // The last round that begins at or before this place.
    let (mut low, mut high) = (0, largest / divisor);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if before(middle) <= place {
            low = middle;
        } else {
            high = middle;
        }
    }
    (0..count).filter(|&index| low < share(index)).nth((place - before(low)) as usize)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Chooses the backend with the fewest open requests relative to its share; ties are broken at
/// random.
fn least_open(
    count: usize,
    share: impl Fn(usize) -> u32,
    open: impl Fn(usize) -> u32,
    random: u64,
) -> Option<usize> {
    // open/share as a fraction, compared crosswise.
    let is_less = |a: usize, b: usize| {
        u64::from(open(a)) * u64::from(share(b)) < u64::from(open(b)) * u64::from(share(a))
    };
    let mut best = None;
    for index in (0..count).filter(|&index| share(index) != 0) {
        if best.is_none_or(|best| is_less(index, best)) {
            best = Some(index);
        }
    }
    let best = best?;
    choose_by_chance(count, |index| if is_less(best, index) { 0 } else { share(index) }, random)
}

/// Weighted rendezvous hashing: each backend draws a number from the client and itself, and the
/// highest number wins. A new backend only moves the clients that it wins, and a removed backend
/// only those that it had.
fn choose_by_source(
    backends: &[Backend],
    share: impl Fn(usize) -> u32,
    source: u64,
) -> Option<usize> {
    let mut best = None;
    for (index, backend) in backends.iter().enumerate() {
        let share = share(index);
        if share == 0 {
            continue;
        }
        // Uniform in (0, 1], 53 bits. Its -ln is exponential, so each backend has the least cost in
        // proportion to its share. (With equal shares this compares the numbers themselves.)
        let uniform = ((mix(source ^ identity(backend)) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        let cost = -uniform.ln() / f64::from(share);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, index));
        }
    }
    best.map(|(_, index)| index)
}

/// A number for a backend that depends neither on its place in the list nor on the process.
fn identity(backend: &Backend) -> u64 {
    match backend.target() {
        Target::Address(Address::V4(v4)) => {
            mix(u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port()))
        }
        Target::Address(Address::V6(v6)) => {
            let bits = v6.ip().to_bits();
            mix((bits >> 64) as u64 ^ mix(bits as u64 ^ mix(u64::from(v6.port()))))
        }
        Target::Address(Address::Unix(_)) => {
            mix(fnv(backend.path().unwrap_or_default().as_bytes()))
        }
        Target::Name(name) => mix(fnv(name.host.as_bytes()) ^ mix(u64::from(name.port))),
    }
}

/// Hash of a value that stands for a client, in place of its address: the same on every shard, and
/// in every process.
pub fn affinity(value: &[u8]) -> NonZeroU64 {
    NonZeroU64::new(mix(fnv(value))).unwrap_or(NonZeroU64::MIN)
}

/// FNV-1a. The hash of a library may change with its version, and then all clients would change
/// their backends.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads every bit over all (the finisher of `SplitMix64`).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Action, Names, Proxy, Rule};
    use super::*;

    fn proxy(algorithm: &str, ports: &[u16], weights: &[u16]) -> Proxy {
        let backends: Vec<_> = ports.iter().map(|port| json!(["10.0.0.1", port])).collect();
        let arguments = json!({"backends": backends, "weights": weights, "algorithm": algorithm});
        let rule = Rule::from_json("a", &json!(["proxy", arguments, true]), &mut Names::default());
        match rule.unwrap().action {
            Action::Proxy(proxy) => proxy,
            other => panic!("{other:?}"),
        }
    }

    fn choose(
        proxy: &Proxy,
        draw: Draw,
        open: impl Fn(usize) -> u32,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let backends = proxy.backends();
        let share = |index: usize| if usable(index) { backends[index].weight().into() } else { 0 };
        super::choose((proxy.algorithm(), backends), draw, open, share)
    }

    /// Draw number `turn`: random and source are spread evenly, and the same in every run.
    fn draw(turn: u64) -> Draw {
        Draw { random: mix(turn), turn, source: mix(!turn) }
    }

    const EACH: [&str; 6] =
        ["random", "round_robin", "least_connections", "source", "cookie:sid", "field:X-User"];

    #[test]
    fn every_algorithm_keeps_to_the_weights() {
        for algorithm in EACH {
            let proxy = proxy(algorithm, &[1, 2, 3, 4], &[1, 0, 2, 5]);
            let mut counts = [0_u32; 4];
            for turn in 0..80_000 {
                counts[choose(&proxy, draw(turn), |_| 0, |_| true).unwrap()] += 1;
            }
            for (count, expected) in counts.into_iter().zip([10_000, 0, 20_000, 50_000]) {
                assert!(count.abs_diff(expected) <= 500, "{algorithm}: {counts:?}");
            }
        }
    }

    #[test]
    fn every_algorithm_passes_over_what_is_not_usable() {
        for algorithm in EACH {
            for count in [1_u16, 2, 3] {
                let ports: Vec<u16> = (1..=count).collect();
                let all = proxy(algorithm, &ports, &vec![1; ports.len()]);
                for turn in 0..50 {
                    assert_eq!(choose(&all, draw(turn), |_| 0, |_| false), None);
                    let last = ports.len() - 1;
                    assert_eq!(choose(&all, draw(turn), |_| 9, |i| i == last), Some(last));
                }
            }
            let none = proxy(algorithm, &[1, 2], &[0, 1]);
            assert_eq!(choose(&none, draw(0), |_| 0, |index| index == 0), None, "{algorithm}");
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        let order = |weights: &[u16], usable: &dyn Fn(usize) -> bool| -> Vec<usize> {
            let ports: Vec<u16> = (1..=weights.len() as u16).collect();
            let proxy = proxy("round_robin", &ports, weights);
            (0..6).map(|turn| choose(&proxy, draw(turn), |_| 0, usable).unwrap()).collect()
        };
        assert_eq!(order(&[1, 1, 1], &|_| true), [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(&[7, 7, 7], &|_| true), [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(&[3, 1, 2], &|_| true), [0, 1, 2, 0, 2, 0]);
        assert_eq!(order(&[300, 100, 200], &|_| true), [0, 1, 2, 0, 2, 0]);
        assert_eq!(order(&[1, 1, 1], &|index| index != 1), [0, 2, 0, 2, 0, 2]);
    }

    #[test]
    fn least_connections_chooses_the_least_loaded_for_its_weight() {
        let even = proxy("least_connections", &[1, 2, 3], &[1, 1, 1]);
        let open = [4, 2, 2];
        let mut seen = [0_u32; 3];
        for turn in 0..1000 {
            seen[choose(&even, draw(turn), |index| open[index], |_| true).unwrap()] += 1;
        }
        assert_eq!(seen[0], 0);
        assert!(400 < seen[1] && 400 < seen[2], "ties are drawn: {seen:?}");
        let uneven = proxy("least_connections", &[1, 2], &[10, 1]);
        assert_eq!(choose(&uneven, draw(0), |index| [9, 1][index], |_| true), Some(0));
        assert_eq!(choose(&uneven, draw(0), |index| [11, 1][index], |_| true), Some(1));
    }

    #[test]
    fn values_that_differ_little_are_spread() {
        let proxy = proxy("cookie:sid", &[1, 2, 3, 4], &[1, 1, 2, 0]);
        let mut counts = [0_u32; 4];
        for number in 0..8000 {
            let source = affinity(format!("user-{number}").as_bytes()).get();
            let draw = Draw { random: 0, turn: 0, source };
            counts[choose(&proxy, draw, |_| 0, |_| true).unwrap()] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2000, 2000, 4000, 0]) {
            assert!(count.abs_diff(expected) <= 200, "{counts:?}");
        }
    }

    #[test]
    fn source_moves_only_the_share_of_what_comes_and_goes() {
        let before = proxy("source", &[1, 2, 3, 4], &[1; 4]);
        // The same backends and one more, in another order.
        let after = proxy("source", &[5, 4, 3, 2, 1], &[1; 5]);
        let mut moved = 0;
        for turn in 0..10_000 {
            let old = choose(&before, draw(turn), |_| 0, |_| true).unwrap();
            let new = choose(&after, draw(turn), |_| 0, |_| true).unwrap();
            match new {
                0 => moved += 1,
                new => assert_eq!(4 - new, old, "moved between two that were there before"),
            }
            // Ejecting a backend moves its own clients only.
            let without = choose(&before, draw(turn), |_| 0, |index| index != 2).unwrap();
            assert!(old == 2 || without == old);
        }
        assert!((1800..2200).contains(&moved), "a fifth: {moved}");
    }

    #[test]
    fn source_is_even_over_unix_sockets() {
        let backends = ["unix:/balance/a.sock", "unix:/balance/b.sock", "unix:@balance"];
        let arguments = json!({"backends": backends, "algorithm": "source"});
        let rule = Rule::from_json("a", &json!(["proxy", arguments, true]), &mut Names::default());
        let Ok(Rule { action: Action::Proxy(proxy), .. }) = rule else { panic!("no proxy") };
        let mut counts = [0_u32; 3];
        for turn in 0..9000 {
            counts[choose(&proxy, draw(turn), |_| 0, |_| true).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (2800..3200).contains(count)), "{counts:?}");
    }
}
