//! The wall clocks of hosts, which need not agree.

use std::collections::BTreeMap;

use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::seam;

/// Follows turmoil's spans, which tell which host is at work, and sets the wall clock of the run to
/// that of the host. By name, so many milliseconds ahead; those that have no name here are right.
pub(super) struct Clocks(pub(super) BTreeMap<String, i64>);

/// How far the clock of a span's host is ahead.
#[derive(Clone, Copy)]
struct AheadMs(i64);

impl<S> Layer<S> for Clocks
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != "node" {
            return;
        }
        let mut name = Name::default();
        attributes.record(&mut name);
        if let (Some(ahead_ms), Some(span)) = (self.0.get(&name.0), context.span(id)) {
            span.extensions_mut().insert(AheadMs(*ahead_ms));
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(AheadMs(ahead_ms)) = ahead(id, &context) {
            seam::set_ahead(ahead_ms);
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if ahead(id, &context).is_some() {
            seam::set_ahead(0);
        }
    }
}

fn ahead<S>(id: &Id, context: &Context<'_, S>) -> Option<AheadMs>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    context.span(id)?.extensions().get().copied()
}

/// Takes down what a span's field `name` says.
#[derive(Default)]
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;

    #[test]
    fn the_wall_clock_is_that_of_the_host_at_work() {
        let clocks = [("pod0".to_owned(), 1_500), ("redis".to_owned(), -2_000)].into();
        let subscriber = registry().with(Clocks(clocks));
        let run = || {
            seam::begin(1);
            let right = seam::unix().unwrap().as_millis();
            let seen = |host: &str| {
                let _entered = tracing::info_span!("node", name = host).entered();
                let _within = tracing::info_span!("something else").entered();
                seam::unix().unwrap().as_millis()
            };
            assert_eq!(seen("pod0"), right + 1_500);
            assert_eq!(seen("pod1"), right);
            assert_eq!(seen("redis"), right - 2_000);
            assert_eq!(seam::unix().unwrap().as_millis(), right);
        };
        tracing::subscriber::with_default(subscriber, run);
    }
}
