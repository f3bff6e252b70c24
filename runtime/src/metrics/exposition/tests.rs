use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use realtime_core::stream::StreamKind;

use super::*;
use crate::metrics::ServiceError;

fn text_of(overview: &Overview, counters: &Counters, rooms_max: usize) -> String {
    text_with(overview, counters, rooms_max, true)
}

fn text_with(overview: &Overview, counters: &Counters, rooms_max: usize, process: bool) -> String {
    let health = LinkHealth::default();
    let draining = false;
    expose(&Scrape { overview, health: &health, counters, draining, rooms_max, process })
}

#[test]
fn an_instance_that_shares_its_process_tells_nothing_of_the_process() {
    let text = text_with(&Overview::default(), &Counters::default(), 0, false);
    assert!(text.contains("realtime_websocket_outbox_bytes 0"), "{text}");
    assert!(!text.contains("process_"), "{text}");
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|have| have == line), "no {line:?} in\n{text}");
}

#[test]
fn every_series_with_a_closed_set_of_labels_is_there_from_the_start() {
    let text = text_of(&Overview::default(), &Counters::default(), 100);
    for line in [
        "# TYPE realtime_websocket_connections_total gauge",
        "realtime_websocket_connections_total 0",
        "realtime_websocket_connections_authenticated 0",
        "realtime_websocket_connections_anonymous 0",
        "# TYPE realtime_websocket_connections_per_room gauge",
        "realtime_websocket_connections_per_room{room=\"_other\"} 0",
        "# TYPE realtime_messages_sent_total counter",
        "realtime_messages_sent_total{type=\"system:connected\"} 0",
        "realtime_messages_sent_total{type=\"other\"} 0",
        "realtime_messages_received_total{type=\"room:join\"} 0",
        "realtime_notifications_delivered_total{delivered=\"true\",type=\"payment:success\"} 0",
        "realtime_notifications_delivered_total{delivered=\"false\",type=\"other\"} 0",
        "# TYPE realtime_grpc_requests_total counter",
        "realtime_grpc_requests_total{method=\"SendToUser\",status=\"OK\"} 0",
        "realtime_grpc_requests_total{method=\"BroadcastEvent\",status=\"UNAVAILABLE\"} 0",
        "# TYPE realtime_grpc_request_duration_seconds histogram",
        "realtime_grpc_request_duration_seconds_count{method=\"GetConnectionStats\"} 0",
        "realtime_grpc_request_duration_seconds_bucket{method=\"SendToUser\",le=\"+Inf\"} 0",
        "realtime_pubsub_messages_received_total{channel=\"user\"} 0",
        "realtime_pubsub_messages_received_total{channel=\"booking:events\"} 0",
        "realtime_pubsub_messages_published_total{channel=\"room\"} 0",
        "realtime_errors_total{type=\"parse_error\"} 0",
        "realtime_errors_total{type=\"publish_unavailable\"} 0",
        "# TYPE realtime_delivery_latency_seconds histogram",
        "realtime_delivery_latency_seconds_count 0",
        "realtime_websocket_refused_total{reason=\"token_invalid\"} 0",
        "realtime_websocket_closes_total{code=\"4508\"} 0",
        "realtime_resumes_total{recovered=\"false\"} 0",
        "realtime_build_info{version=\"0.1.0\"} 1",
    ] {
        assert_has(&text, line);
    }
    assert!(text.contains("\nprocess_open_fds "));
}

#[test]
fn what_was_counted_is_shown() {
    let counters = Counters::default();
    counters.notified("payment:success", true);
    counters.notified("my:own", false);
    counters.published(StreamKind::All);
    counters.called(4, 14, Duration::from_millis(250));
    counters.failed(ServiceError::PublishUnknown);
    let mut overview = Overview::default();
    overview.stats.authenticated = 2;
    overview.stats.anonymous = 3;
    overview.latency[0] = 1;
    overview.latency[LATENCY_BUCKETS_S.len()] = 1;
    overview.latency_sum_s = 11.0;
    let text = text_of(&overview, &counters, 100);
    for line in [
        "realtime_notifications_delivered_total{delivered=\"true\",type=\"payment:success\"} 1",
        "realtime_notifications_delivered_total{delivered=\"false\",type=\"other\"} 1",
        "realtime_pubsub_messages_published_total{channel=\"room\"} 1",
        "realtime_grpc_requests_total{method=\"SendToUser\",status=\"UNAVAILABLE\"} 1",
        "realtime_grpc_request_duration_seconds_bucket{method=\"SendToUser\",le=\"0.2\"} 0",
        "realtime_grpc_request_duration_seconds_bucket{method=\"SendToUser\",le=\"0.3\"} 1",
        "realtime_grpc_request_duration_seconds_sum{method=\"SendToUser\"} 0.25",
        "realtime_errors_total{type=\"publish_unknown\"} 1",
        "realtime_websocket_connections_total 5",
        "realtime_delivery_latency_seconds_bucket{le=\"0.0005\"} 1",
        "realtime_delivery_latency_seconds_bucket{le=\"10\"} 1",
        "realtime_delivery_latency_seconds_bucket{le=\"+Inf\"} 2",
        "realtime_delivery_latency_seconds_sum 11",
    ] {
        assert_has(&text, line);
    }
}

#[test]
fn only_the_largest_rooms_are_shown_by_name() {
    let mut overview = Overview::default();
    for (room, members) in [("a", 1), ("b", 5), ("c", 1), ("q\"\\\u{e9}", 7), ("_other", 9)] {
        overview.rooms.insert(StreamName::room(room).unwrap(), members);
    }
    let text = text_of(&overview, &Counters::default(), 3);
    let shown: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("realtime_websocket_connections_per_room{"))
        .collect();
    assert_eq!(
        shown,
        [
            r#"realtime_websocket_connections_per_room{room="a"} 1"#,
            r#"realtime_websocket_connections_per_room{room="b"} 5"#,
            r#"realtime_websocket_connections_per_room{room="q\"\\é"} 7"#,
            r#"realtime_websocket_connections_per_room{room="_other"} 10"#,
        ]
    );
}

/// The linter is Prometheus' own; where it is not installed only the rest of the tests speaks.
#[test]
fn promtool_finds_nothing_but_the_name_that_is_given() {
    let command = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = command else {
        return;
    };
    let text = text_of(&Overview::default(), &Counters::default(), 100);
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(
        String::from_utf8(said).unwrap().trim(),
        "realtime_websocket_connections_total non-counter metrics should not have \"_total\" \
         suffix"
    );
}
