//! The text that a scrape gets.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus::{
    TextEncoder,
    core::Collector as _,
    process_collector::ProcessCollector,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use realtime_core::{
    relay::Ingress,
    shard::Refusal,
    stream::StreamName,
    wire::{CloseCode, ErrorCode, Kind, is_reserved},
};

use super::{
    CODES, Counters, DURATION_BUCKETS_S, METHODS, Overview, PUBLISHED_CHANNELS, SERVICE_ERRORS,
};
use crate::{link::LinkHealth, worker::LATENCY_BUCKETS_S};

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape shows.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// What the workers report.
    pub overview: &'a Overview,
    /// What the link reports.
    pub health: &'a LinkHealth,
    /// What the service thread counted.
    pub counters: &'a Counters,
    /// Whether the instance is shutting down.
    pub draining: bool,
    /// Rooms that are shown by name.
    pub rooms_max: usize,
    /// Whether the metrics of the process belong to it.
    pub process: bool,
}

/// Writes all metrics in the text format of Prometheus. Those of the process are read from its own
/// files in `/proc`, one for each open file, which may take some tens of milliseconds.
pub fn expose(scrape: &Scrape<'_>) -> String {
    let mut families = Families::default();
    web_socket(&mut families, scrape);
    rooms(&mut families, scrape);
    messages(&mut families, scrape);
    calls(&mut families, scrape.counters, scrape.health.told);
    streams(&mut families, scrape.health);
    errors(&mut families, scrape);
    instance(&mut families, scrape);
    let mut families = families.0;
    if scrape.process {
        families.extend(ProcessCollector::for_self().collect());
    }
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families).expect("every family has a name and samples")
}

fn web_socket(families: &mut Families, scrape: &Scrape<'_>) {
    let stats = &scrape.overview.stats;
    let open = u64::from(stats.authenticated) + u64::from(stats.anonymous);
    let gauges: [(&str, &str, u64); 8] = [
        ("realtime_websocket_connections_total", "Open WebSocket connections.", open),
        (
            "realtime_websocket_connections_authenticated",
            "Open WebSocket connections of a known user.",
            stats.authenticated.into(),
        ),
        (
            "realtime_websocket_connections_anonymous",
            "Open WebSocket connections without a user.",
            stats.anonymous.into(),
        ),
        (
            "realtime_websocket_connections_handshaking",
            "WebSocket connections in their handshake.",
            stats.handshaking.into(),
        ),
        (
            "realtime_websocket_connections_congested",
            "Open WebSocket connections whose outbox is more than half full.",
            stats.congested.into(),
        ),
        (
            "realtime_websocket_connections_draining",
            "WebSocket connections that the drain has still to close.",
            stats.draining.into(),
        ),
        (
            "realtime_websocket_joins_parked",
            "Joins that wait for the broker.",
            stats.parked_joins.into(),
        ),
        (
            "realtime_websocket_outbox_bytes",
            "Bytes that wait to be written to WebSocket connections.",
            scrape.overview.queued_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, value);
    }
    web_socket_totals(families, scrape);
}

fn web_socket_totals(families: &mut Families, scrape: &Scrape<'_>) {
    let stats = &scrape.overview.stats;
    families.total(
        "realtime_websocket_accepted_total",
        "WebSocket connections accepted.",
        stats.accepted,
    );
    families.totals(
        "realtime_websocket_refused_total",
        "Handshakes refused.",
        "reason",
        Refusal::LABELS.iter().zip(stats.refusals),
    );
    let codes = CloseCode::ALL.map(|code| (code as u16).to_string());
    families.totals(
        "realtime_websocket_closes_total",
        "Closes that this side began, by close code.",
        "code",
        codes.iter().zip(stats.closes),
    );
    families.total(
        "realtime_websocket_values_replaced_total",
        "Latest values that newer ones took the place of while they waited for a slow client.",
        scrape.overview.values_replaced,
    );
    families.total(
        "realtime_websocket_accept_failures_total",
        "Connections not taken: no files, no memory, or too many unanswered requests.",
        scrape.overview.accept_failures,
    );
}

fn rooms(families: &mut Families, scrape: &Scrape<'_>) {
    let (largest, rest) = largest_rooms(&scrape.overview.rooms, scrape.rooms_max);
    let named = largest.iter().map(|(room, members)| (room.as_str(), *members));
    families.gauges(
        "realtime_websocket_connections_per_room",
        "Members of the largest rooms; those of all others together are under _other.",
        "room",
        named.chain([(OTHER_ROOMS, rest)]),
    );
}

/// The `at_most` largest rooms by name, and the members of all others. A room that is called like
/// the label of the others is one of them.
fn largest_rooms(
    rooms: &BTreeMap<StreamName, u64>,
    at_most: usize,
) -> (Vec<(&StreamName, u64)>, u64) {
    let total: u64 = rooms.values().sum();
    let mut largest: Vec<_> = rooms
        .iter()
        .map(|(room, members)| (room, *members))
        .filter(|(room, _)| room.as_str() != OTHER_ROOMS)
        .collect();
    // Ties go by name, so that which of them are shown does not flap.
    largest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    largest.truncate(at_most);
    largest.sort_by(|a, b| a.0.cmp(b.0));
    let shown: u64 = largest.iter().map(|(_, members)| members).sum();
    (largest, total - shown)
}

fn messages(families: &mut Families, scrape: &Scrape<'_>) {
    let stats = &scrape.overview.stats;
    let kinds = || Kind::ALL.iter().map(|kind| kind.name());
    families.totals(
        "realtime_messages_sent_total",
        "Messages sent to WebSocket clients.",
        "type",
        kinds().zip(stats.sent),
    );
    families.totals(
        "realtime_messages_received_total",
        "Messages received from WebSocket clients.",
        "type",
        kinds().zip(stats.received),
    );
    let published = Kind::ALL.iter().filter(|kind| {
        // What clients and this service say to each other can't be published.
        !is_reserved(kind.name()) && **kind != Kind::UserSubscribe
    });
    families.counter(
        "realtime_notifications_delivered_total",
        "Publications, by whether at least one connection was reached.",
        published.flat_map(|kind| {
            let counts = &scrape.counters.notifications[kind.index()];
            [("false", &counts[0]), ("true", &counts[1])].map(|(delivered, count)| {
                sample(&[("delivered", delivered), ("type", kind.name())], load(count))
            })
        }),
    );
    families.histogram(
        "realtime_delivery_latency_seconds",
        "From publishing to the write to the sockets.",
        [(
            Vec::new(),
            histogram(&LATENCY_BUCKETS_S, &scrape.overview.latency, scrape.overview.latency_sum_s),
        )],
    );
}

fn calls(families: &mut Families, counters: &Counters, told: u64) {
    families.counter(
        "realtime_grpc_requests_total",
        "gRPC calls of the service, by method and status.",
        METHODS.iter().zip(&counters.calls).flat_map(|(method, codes)| {
            CODES.iter().zip(codes).map(|(status, count)| {
                sample(&[("method", *method), ("status", *status)], load(count))
            })
        }),
    );
    families.histogram(
        "realtime_grpc_request_duration_seconds",
        "How long gRPC calls of the service took.",
        METHODS.iter().zip(&counters.call_durations).map(|(method, durations)| {
            let buckets = durations.buckets.each_ref().map(load);
            // Exact for 104 days of calls.
            #[expect(clippy::cast_precision_loss, reason = "a sum of durations")]
            let sum_s = load(&durations.sum_ns) as f64 / 1e9;
            (labels(&[("method", *method)]), histogram(&DURATION_BUCKETS_S, &buckets, sum_s))
        }),
    );
    families.totals(
        "realtime_pubsub_messages_published_total",
        "Messages published through the broker, by kind of channel.",
        "channel",
        PUBLISHED_CHANNELS
            .into_iter()
            .zip(counters.published.each_ref().map(load))
            .chain([("control", told)]),
    );
    families.gauge(
        "realtime_grpc_connections",
        "Open gRPC connections.",
        load(&counters.grpc_connections),
    );
    families.gauge(
        "realtime_http_connections",
        "Open plain HTTP connections.",
        load(&counters.http_connections),
    );
}

fn streams(families: &mut Families, health: &LinkHealth) {
    let relay = &health.relay;
    let ingress = Ingress::ALL.map(Ingress::channel);
    let kinds = [
        ("user", relay.received_user),
        ("room", relay.received_room),
        ("control", relay.received_control),
    ];
    families.totals(
        "realtime_pubsub_messages_received_total",
        "Messages received through the broker, by kind of channel.",
        "channel",
        kinds.into_iter().chain(ingress.into_iter().zip(relay.received_ingress)),
    );
    families.gauge("realtime_streams", "Streams that are known.", relay.streams);
    families.gauge(
        "realtime_broker_subscriptions",
        "Streams that are subscribed.",
        health.subscriptions,
    );
    families.gauge(
        "realtime_broker_reachable",
        "Whether the broker answers probes.",
        health.reachable.into(),
    );
    for (name, help, value) in totals(health) {
        families.total(name, help, value);
    }
}

/// What is counted of streams: names, help, values.
fn totals(health: &LinkHealth) -> [(&'static str, &'static str, u64); 9] {
    let relay = &health.relay;
    [
        (
            "realtime_broker_reconnects_total",
            "Subscription connections opened after the first.",
            health.reconnects,
        ),
        (
            "realtime_stream_gaps_total",
            "Gaps in streams that the history could not fill.",
            relay.gaps,
        ),
        (
            "realtime_stream_gaps_filled_total",
            "Gaps in streams that were filled from the history.",
            relay.gaps_filled,
        ),
        (
            "realtime_stream_rollovers_total",
            "Streams with members whose numbering was given up, since Redis had lost some of them.",
            relay.rolled_over,
        ),
        (
            "realtime_stream_comparisons_total",
            "Comparisons of streams with the broker.",
            relay.compared,
        ),
        (
            "realtime_stream_comparisons_unequal_total",
            "Comparisons that showed that something was lost.",
            relay.compared_unequal,
        ),
        (
            "realtime_stream_duplicates_total",
            "Publications received that were known already.",
            relay.duplicates,
        ),
        (
            "realtime_stream_resyncs_total",
            "Streams of which messages were missed for good.",
            relay.resyncs,
        ),
        (
            "realtime_worker_queue_full_total",
            "Publications not handed to a worker since its queue was full.",
            relay.queue_full,
        ),
    ]
}

fn errors(families: &mut Families, scrape: &Scrape<'_>) {
    let told = ErrorCode::ALL.iter().map(|code| code.name().to_ascii_lowercase());
    let relay = &scrape.health.relay;
    let received = [
        ("ingress_invalid".to_owned(), relay.ingress_invalid),
        ("entry_invalid".to_owned(), relay.entries_invalid),
        ("control_invalid".to_owned(), relay.control_invalid),
    ];
    let service = SERVICE_ERRORS.iter().map(|name| (*name).to_owned());
    families.totals(
        "realtime_errors_total",
        "Errors: told to clients, in what the broker brought, and of the service itself.",
        "type",
        told.zip(scrape.overview.stats.errors)
            .chain(received)
            .chain(service.zip(scrape.counters.errors.each_ref().map(load))),
    );
}

fn instance(families: &mut Families, scrape: &Scrape<'_>) {
    let stats = &scrape.overview.stats;
    families.totals(
        "realtime_resumes_total",
        "Joins with a position, by whether everything since could be sent.",
        "recovered",
        [("true", stats.recovered), ("false", stats.unrecovered)],
    );
    families.total(
        "realtime_resyncs_total",
        "Connections told that messages were missed.",
        stats.resyncs,
    );
    families.gauge(
        "realtime_draining",
        "Whether the instance is shutting down.",
        scrape.draining.into(),
    );
    families.family(
        "realtime_build_info",
        "The version of the service; always 1.",
        MetricType::GAUGE,
        vec![gauge_metric(labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1)],
    );
}

/// Metric families in the making.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// One gauge.
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, help, MetricType::GAUGE, vec![gauge_metric(Vec::new(), value)]);
    }

    /// A gauge for each value of one label.
    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let metrics =
            samples.into_iter().map(|(text, value)| gauge_metric(labels(&[(label, text)]), value));
        self.family(name, help, MetricType::GAUGE, metrics.collect());
    }

    /// One counter.
    fn total(&mut self, name: &str, help: &str, value: u64) {
        self.counter(name, help, [sample(&[], value)]);
    }

    /// A counter for each value of one label.
    fn totals(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
    ) {
        let samples =
            samples.into_iter().map(|(text, value)| sample(&[(label, text.as_ref())], value));
        self.counter(name, help, samples);
    }

    /// Counters.
    fn counter(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::COUNTER, metrics.into_iter().collect());
    }

    /// Histograms.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (Vec<LabelPair>, Histogram)>,
    ) {
        let metrics = histograms.into_iter().map(|(labels, histogram)| {
            let mut metric = Metric::from_label(labels);
            metric.set_histogram(histogram);
            metric
        });
        self.family(name, help, MetricType::HISTOGRAM, metrics.collect());
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let label = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(label).collect()
}

/// One value of a counter.
fn sample(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(float(value));
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

fn gauge_metric(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(float(value));
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// `counts` has one more element than `bounds_s`, for what is above the last; it is not cumulative.
fn histogram(bounds_s: &[f64], counts: &[u64], sum_s: f64) -> Histogram {
    let mut cumulative = 0;
    let buckets = bounds_s.iter().zip(counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum_s);
    histogram
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[expect(clippy::cast_precision_loss, reason = "the text format has only floats")]
fn float(value: u64) -> f64 {
    value as f64
}

/// The label of all rooms that are not shown by name.
const OTHER_ROOMS: &str = "_other";

#[cfg(test)]
mod tests;
