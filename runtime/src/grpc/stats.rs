//! `GetConnectionStats`: what this instance holds, or all that are alive.

use std::collections::BTreeMap;

use realtime_core::cluster::Beat;
use realtime_proto::{GetConnectionStatsRequest, GetConnectionStatsResponse, InstanceStats};
use tokio::{sync::oneshot, time::timeout};

use super::calls::count;
use crate::{
    link::{LinkCommand, PeerAge},
    service::Shared,
};

/// Counts, of this instance and with `cluster` of the others as their last beats said.
pub(super) async fn answer(
    shared: &Shared,
    request: &GetConnectionStatsRequest,
) -> GetConnectionStatsResponse {
    let overview = shared.workers.collect(true).await;
    let stats = &overview.stats;
    let own = InstanceStats {
        id: format!("{:016x}", shared.service.boot.0),
        total: count(stats.authenticated.saturating_add(stats.anonymous)),
        authenticated: count(stats.authenticated),
        anonymous: count(stats.anonymous),
        // The origin of the clock is the start.
        uptime_seconds: total(shared.now().0 / 1_000_000_000),
        age_ms: 0,
    };
    let wanted = |room: &str| request.room.is_empty() || room == request.room;
    let own_rooms = overview.rooms.iter().map(|(room, members)| (room.as_str(), *members));
    let mut rooms: BTreeMap<&str, u64> = own_rooms.filter(|(room, _)| wanted(room)).collect();
    let mut sent: u64 = stats.sent.iter().sum();
    let mut received: u64 = stats.received.iter().sum();
    let mut instances = vec![own];
    let peers = if request.cluster { peers(shared).await } else { Vec::new() };
    for PeerAge { peer, age } in &peers {
        let Beat { boot, uptime_s, census, .. } = &peer.beat;
        instances.push(InstanceStats {
            id: format!("{:016x}", boot.0),
            total: count(census.authenticated.saturating_add(census.anonymous)),
            authenticated: count(census.authenticated),
            anonymous: count(census.anonymous),
            uptime_seconds: total(*uptime_s),
            age_ms: i64::try_from(age.as_millis()).unwrap_or(i64::MAX),
        });
        sent = sent.saturating_add(census.sent);
        received = received.saturating_add(census.received);
        for (room, members) in &census.rooms {
            if wanted(room.as_str()) {
                *rooms.entry(room.as_str()).or_default() += u64::from(*members);
            }
        }
    }
    let sum = |of: fn(&InstanceStats) -> i32| instances.iter().map(of).fold(0, i32::saturating_add);
    GetConnectionStatsResponse {
        total_connections: sum(|instance| instance.total),
        authenticated_connections: sum(|instance| instance.authenticated),
        anonymous_connections: sum(|instance| instance.anonymous),
        connections_per_room: largest(rooms),
        uptime_seconds: instances.iter().map(|instance| instance.uptime_seconds).sum(),
        messages_sent_total: total(sent),
        messages_received_total: total(received),
        instances: if request.cluster { instances } else { Vec::new() },
    }
}

/// The other instances that are alive; none when the relay thread does not answer.
async fn peers(shared: &Shared) -> Vec<PeerAge> {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        shared.service.link.send(LinkCommand::Peers(reply)).await.ok()?;
        answer.await.ok()
    };
    timeout(shared.service.config.receipt_timeout, asking).await.ok().flatten().unwrap_or_default()
}

/// At most [`ROOMS_MAX`] rooms.
fn largest(rooms: BTreeMap<&str, u64>) -> std::collections::HashMap<String, i32> {
    let mut rooms: Vec<_> = rooms.into_iter().collect();
    if rooms.len() > ROOMS_MAX {
        rooms.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        rooms.truncate(ROOMS_MAX);
    }
    let room = |(room, members): (&str, u64)| {
        (room.to_owned(), i32::try_from(members).unwrap_or(i32::MAX))
    };
    rooms.into_iter().map(room).collect()
}

fn total(total: u64) -> i64 {
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// Rooms in one answer, the largest ones: at 200 bytes each it stays below the 4 MiB that clients
/// accept.
const ROOMS_MAX: usize = 10_000;
