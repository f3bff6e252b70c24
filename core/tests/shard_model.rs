//! A shard against a model of the runtime, the relay and the clients around it.

use proptest::{collection::vec, prelude::*};
use realtime_core::fuzzing;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: members get every publication once and in order behind
    /// the position that they were told, and nobody else gets any; see the target for the rest.
    #[test]
    fn no_sequence_of_inputs_breaks_a_shard(choices in vec(any::<u8>(), 0..2_000)) {
        fuzzing::shard_inputs(&choices);
    }
}
