//! A relay and its shards together, with queues between them that move at any pace, between a naive
//! broker and clients that believe nothing: each checks every word it hears against what was really
//! published.

#[path = "cluster_model/broker.rs"]
mod broker;
#[path = "cluster_model/clients.rs"]
mod clients;
#[path = "cluster_model/world.rs"]
mod world;

use proptest::prelude::*;

use broker::STREAMS;
use world::{CLIENTS, WORKERS, World};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A client connects to a worker; those with an even number have a token.
    Connect { client: usize, worker: usize },
    /// Its socket is gone.
    Disconnect { client: usize },
    /// It joins the room.
    Join { client: usize },
    /// It leaves the room.
    Leave { client: usize },
    /// Somebody publishes; `expected` when it is this instance and wants a receipt.
    Publish { stream: usize, excluding: bool, expected: bool },
    /// What a worker has said reaches the relay.
    Hear { worker: usize, count: usize },
    /// What the relay has said reaches a worker.
    Tell { worker: usize, count: usize },
    /// A worker goes on with its oldest fan-out.
    Walk { worker: usize, members: usize },
    /// The broker carries out (UN)SUBSCRIBEs.
    Serve { count: usize },
    /// The subscription connection brings what it carries next.
    Deliver { count: usize },
    /// What it carries next is lost, if it is a publication.
    Lose,
    /// The broker never hears of what is asked of it next, if it is a SUBSCRIBE.
    LoseSubscribe,
    /// Something of a connection that is gone arrives after all.
    DeliverStale,
    /// The broker looks up a head; the answer is on its way.
    Read,
    /// The answer arrives.
    AnswerRead,
    /// The broker can't say where a stream is.
    FailRead,
    /// The subscription connection breaks.
    LinkDown,
    /// A new one is up.
    LinkUp,
    /// The broker loses a stream, which starts a new epoch.
    Evict { stream: usize },
    /// Time goes by.
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let (client, worker, stream) = (0..CLIENTS, 0..WORKERS, 0..STREAMS);
    prop_oneof![
        6 => (client.clone(), worker.clone())
            .prop_map(|(client, worker)| Connect { client, worker }),
        1 => client.clone().prop_map(|client| Disconnect { client }),
        5 => client.clone().prop_map(|client| Join { client }),
        2 => client.prop_map(|client| Leave { client }),
        8 => (stream.clone(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(stream, excluding, expected)| Publish { stream, excluding, expected }),
        8 => (worker.clone(), 1..4_usize).prop_map(|(worker, count)| Hear { worker, count }),
        8 => (worker.clone(), 1..4_usize).prop_map(|(worker, count)| Tell { worker, count }),
        6 => (worker, 1..4_usize).prop_map(|(worker, members)| Walk { worker, members }),
        4 => (1..4_usize).prop_map(|count| Serve { count }),
        8 => (1..4_usize).prop_map(|count| Deliver { count }),
        1 => Just(Lose),
        1 => Just(LoseSubscribe),
        1 => Just(DeliverStale),
        4 => Just(Read),
        4 => Just(AnswerRead),
        1 => Just(FailRead),
        1 => Just(LinkDown),
        3 => Just(LinkUp),
        1 => stream.prop_map(|stream| Evict { stream }),
        2 => prop_oneof![1..300_u64, 1_000..40_000_u64].prop_map(|ms| Pass { ms }),
    ]
}

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Connect { client, worker } => world.connect(client, worker),
        Step::Disconnect { client } => world.disconnect(client),
        Step::Join { client } => world.ask(client, true),
        Step::Leave { client } => world.ask(client, false),
        Step::Publish { stream, excluding, expected } => {
            world.publish(stream, excluding, expected);
        }
        Step::Hear { worker, count } => (0..count).for_each(|_| world.hear(worker)),
        Step::Tell { worker, count } => (0..count).for_each(|_| world.tell(worker)),
        Step::Walk { worker, members } => world.walk(worker, members),
        Step::Serve { count } => (0..count).for_each(|_| world.broker.serve()),
        Step::Deliver { count } => (0..count).for_each(|_| world.deliver()),
        Step::Lose => world.broker.lose(),
        Step::LoseSubscribe => world.broker.lose_subscribe(),
        Step::DeliverStale => world.deliver_stale(),
        Step::Read => world.broker.read(),
        Step::AnswerRead => world.answer_read(),
        Step::FailRead => world.fail_read(),
        Step::LinkDown => world.link_down(),
        Step::LinkUp => world.link_up(),
        Step::Evict { stream } => world.broker.evict(stream),
        Step::Pass { ms } => world.pass(ms),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the pace of the queues: each client gets each publication of its streams once and
    /// in order, or is told that it missed some; counts are never above what was handed over; and
    /// when the faults end everybody has everything, and nothing is left that nobody wants.
    #[test]
    fn a_relay_and_its_shards_keep_their_promises_together(
        seed: u64,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(seed);
        for step in &steps {
            take(&mut world, step);
        }
        world.settle();
        world.check_settled();
    }
}
