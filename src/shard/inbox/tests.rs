//! The inbox against a plain vector, whatever comes in and is taken out.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u8>),
    Consume(prop::sample::Index),
    Gather,
    Settle,
    Take,
    TakeBehind(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        4 => bytes().prop_map(Step::Push),
        3 => any::<prop::sample::Index>().prop_map(Step::Consume),
        1 => Just(Step::Gather),
        1 => Just(Step::Settle),
        1 => Just(Step::Take),
        1 => bytes().prop_map(Step::TakeBehind),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn inbox_holds_what_a_vector_would(steps in prop::collection::vec(step(), 0..40)) {
        let ring = Ring::new().expect("a ring");
        let (mut inbox, mut model) = (Inbox::default(), Vec::new());
        for step in steps {
            match step {
                Step::Push(bytes) => {
                    model.extend_from_slice(&bytes);
                    inbox.push(&ring, RecvBuf::from(bytes));
                }
                Step::Consume(count) => {
                    let count = count.index(model.len() + 1);
                    model.drain(..count);
                    inbox.consume(&ring, count);
                }
                Step::Gather => inbox.gather(&ring),
                Step::Settle => inbox.settle(&ring),
                Step::Take => {
                    let taken = inbox.take().map(|buf| buf.to_vec()).unwrap_or_default();
                    prop_assert_eq!(taken, std::mem::take(&mut model));
                }
                // Where there is no room for it, nothing changes.
                Step::TakeBehind(mut head) => {
                    if let Some(taken) = inbox.take_behind(&head) {
                        head.append(&mut model);
                        prop_assert_eq!(taken.to_vec(), head);
                    }
                }
            }
            prop_assert_eq!(inbox.bytes(), &model[..]);
            prop_assert_eq!(inbox.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn head_in_pieces_ends_where_the_whole_one_does(
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        const BYTES: &[u8] = b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\nGET /next";
        let length = BYTES.len() - b"GET /next".len();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(BYTES.len())).collect();
        cuts.extend([0, BYTES.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let ring = Ring::new().expect("a ring");
        let mut inbox = Inbox::default();
        let mut is_found = false;
        for cut in cuts.windows(2) {
            inbox.push(&ring, RecvBuf::from(BYTES[cut[0]..cut[1]].to_vec()));
            // An end that was found is not looked for again.
            if !is_found {
                let found = inbox.head().expect("a good head");
                prop_assert_eq!(found, (length <= cut[1]).then_some(length));
                is_found = found.is_some();
            }
        }
        inbox.consume(&ring, length);
        prop_assert_eq!(inbox.bytes(), b"GET /next");
        prop_assert_eq!(inbox.head(), Ok(None));
    }
}

#[test]
fn beginnings_of_a_response_are_known() {
    let ring = Ring::new().expect("a ring");
    for (bytes, expected) in
        [("", true), ("H", true), ("HTTP/1.1 200", true), ("HTTP/2", false), ("<html>", false)]
    {
        let mut inbox = Inbox::default();
        if !bytes.is_empty() {
            inbox.push(&ring, RecvBuf::from(bytes.as_bytes().to_vec()));
        }
        assert_eq!(inbox.may_be_response(), expected, "{bytes:?}");
    }
}

#[test]
fn head_is_written_in_front_of_a_body_where_there_is_room() {
    let ring = Ring::new().expect("a ring");
    let mut inbox = Inbox::default();
    inbox.push(&ring, RecvBuf::from(b"a head|a body".to_vec()));
    inbox.consume(&ring, b"a head|".len());
    assert!(inbox.take_behind(b"too long").is_none());
    assert_eq!(inbox.bytes(), b"a body");
    let taken = inbox.take_behind(b"short|").expect("room");
    assert_eq!(&*taken, b"short|a body");
    assert!(inbox.is_empty());
}
