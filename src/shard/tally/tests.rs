//! Free slots without a shard: a slot is opened again only when control has taken it over.

use super::*;

fn id(number: u64) -> Id {
    [number, 0, 0]
}

#[test]
fn retired_slot_is_not_free_before_control_has_taken_it_over() {
    let (slots, mut free) = (Slots::default(), FreeSlots::default());
    let (first, second) = (free.open(&slots, id(1)), free.open(&slots, id(2)));
    assert_eq!([first, second], [0, 1]);
    free.retire(&slots, first);
    free.reclaim(&slots);
    assert_eq!(free.open(&slots, id(3)), 2, "its counts are not in control's sums yet");
    let mut taken = Vec::new();
    slots.take_retired(|index, id, _| taken.push((index, id)));
    assert_eq!(taken, [(0, id(1))]);
    free.reclaim(&slots);
    assert_eq!(free.open(&slots, id(4)), 0);
    assert!(slots.live(0).is_some_and(|(_, found)| found == id(4)));
}

#[test]
fn there_is_no_slot_beyond_the_last() {
    let (slots, mut free) = (Slots::default(), FreeSlots::default());
    free.next = limits::SLOTS_MAX - 1;
    assert_eq!(free.open(&slots, id(1)), limits::SLOTS_MAX - 1);
    for number in [2, 3] {
        assert_eq!(free.open(&slots, id(number)), NO_SLOT);
    }
    // A host without a slot has nothing to give back.
    free.retire(&slots, NO_SLOT);
    assert!(free.retired.is_empty());
}
