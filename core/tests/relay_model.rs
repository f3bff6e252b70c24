//! A relay between a naive broker and naive workers, which check each word it says against what
//! really happened: order without silent gaps, interest, answers, receipts.

#[path = "relay_model/world.rs"]
mod world;

use proptest::prelude::*;

use world::{STREAMS, WORKERS, World};

/// Something that happens, as the model of broker and workers understands it.
#[derive(Clone, Debug)]
enum Step {
    /// A worker's member joins; with the true head as its `since` or without one.
    Join { worker: u16, stream: usize, resumes: bool },
    /// A worker's last member leaves.
    Vacate { worker: u16, stream: usize },
    /// Somebody publishes; `expected` when it is this instance and wants a receipt.
    Publish { stream: usize, latest: bool, expected: bool },
    /// The broker carries out (UN)SUBSCRIBEs.
    Serve { count: usize },
    /// The subscription connection brings what it carries next.
    Deliver { count: usize },
    /// The next item of the subscription connection is lost, if it is a message.
    Lose,
    /// The next item comes twice, if it is a message.
    Repeat,
    /// The next item is cut short, if it is a message.
    Garble,
    /// Something of a connection that is gone arrives after all.
    DeliverStale,
    /// The broker reads a head; the answer is on its way.
    Read,
    /// The answer to a read arrives.
    AnswerRead,
    /// The broker can't say where a stream is.
    FailRead,
    /// A worker hands a publication over.
    HandOver { worker: u16, last: bool, recipients: u32 },
    /// The subscription connection breaks.
    LinkDown,
    /// A new one is up.
    LinkUp,
    /// An older state of a stream is restored at the broker.
    SetBack { stream: usize, by: usize },
    /// The broker loses a stream, which starts a new epoch.
    Evict { stream: usize },
    /// Time goes by.
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let stream = 0..STREAMS;
    let worker = 0..WORKERS;
    prop_oneof![
        4 => (worker.clone(), stream.clone(), any::<bool>())
            .prop_map(|(worker, stream, resumes)| Join { worker, stream, resumes }),
        2 => (worker.clone(), stream.clone())
            .prop_map(|(worker, stream)| Vacate { worker, stream }),
        8 => (stream.clone(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(stream, latest, expected)| Publish { stream, latest, expected }),
        4 => (1..4_usize).prop_map(|count| Serve { count }),
        8 => (1..4_usize).prop_map(|count| Deliver { count }),
        1 => Just(Lose),
        1 => Just(Repeat),
        1 => Just(Garble),
        1 => Just(DeliverStale),
        4 => Just(Read),
        4 => Just(AnswerRead),
        1 => Just(FailRead),
        6 => (worker, any::<bool>(), 0..3_u32)
            .prop_map(|(worker, last, recipients)| HandOver { worker, last, recipients }),
        1 => Just(LinkDown),
        2 => Just(LinkUp),
        1 => (stream.clone(), 1..4_usize).prop_map(|(stream, by)| SetBack { stream, by }),
        1 => stream.prop_map(|stream| Evict { stream }),
        2 => prop_oneof![1..300_u64, 1_000..40_000_u64].prop_map(|ms| Pass { ms }),
    ]
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Join { worker, stream, resumes } => world.join(worker, stream, resumes),
        Step::Vacate { worker, stream } => world.vacate(worker, stream),
        Step::Publish { stream, latest, expected } => world.publish(stream, latest, expected),
        Step::Serve { count } => (0..count).for_each(|_| world.serve()),
        Step::Deliver { count } => (0..count).for_each(|_| world.deliver()),
        Step::Lose => world.lose(),
        Step::Repeat => world.repeat(),
        Step::Garble => world.garble(),
        Step::DeliverStale => world.deliver_stale(),
        Step::Read => world.read(),
        Step::AnswerRead => world.answer_read(),
        Step::FailRead => world.fail_read(),
        Step::HandOver { worker, last, recipients } => world.hand_over(worker, last, recipients),
        Step::LinkDown => world.link_down(),
        Step::LinkUp => world.link_up(),
        Step::SetBack { stream, by } => world.set_back(stream, by),
        Step::Evict { stream } => world.evict(stream),
        Step::Pass { ms } => world.pass(ms),
    }
}

proptest! {
    #[test]
    fn a_relay_keeps_its_promises_whatever_happens(
        seed: u64,
        held_bytes_max in prop_oneof![Just(700_usize), Just(1 << 20)],
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new(seed, held_bytes_max);
        for step in &steps {
            take(&mut world, step);
        }
        world.settle();
        world.check_settled();
    }
}
