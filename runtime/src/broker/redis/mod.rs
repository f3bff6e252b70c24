//! Redis as the broker. `lane` is a command connection, `subscription` the other kind.

mod acknowledged;
mod lane;
mod names;
mod resp;
mod scripts;
mod subscription;

pub use self::scripts::SCRIPTS;

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_core::{
    entry::Place,
    id::{BootId, Epoch, Mid, Position},
    relay::{Destination, History, StreamHead},
    stream::{StreamKind, StreamName},
};
use redis::{Value, cmd};
use tokio::time::timeout;

use self::{
    acknowledged::Acknowledged,
    lane::{Answer, Call, Lane, Request},
    names::Names,
    scripts::Scripts,
};
use super::{
    Broker, BrokerError, BrokerFuture, Class, LATEST_VALUES_MAX, ProbesSent, Publish, PublishError,
    Published, Retention, Subscription,
};
use crate::{config::RedisConfig, entropy, fnv::fnv1a, net::Net};

/// A Redis server, or what stands in for one.
pub struct RedisBroker<N> {
    config: Arc<RedisConfig>,
    retention: Retention,
    names: Names,
    scripts: Arc<Scripts>,
    lanes: Vec<Lane>,
    net: PhantomData<fn() -> N>,
}

impl<N: Net> RedisBroker<N> {
    /// Begins to connect, and never gives up: as long as Redis is away, everything fails at once.
    /// With `ingress`, subscriptions also bring what services publish directly.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: RedisConfig, retention: Retention, ingress: bool, boot: BootId) -> Self {
        let config = Arc::new(config);
        let scripts = Arc::new(Scripts::new());
        let names = Names::new(&config.prefix, boot, ingress);
        let lanes = config.connections.max(1);
        let acknowledged_max = ACKNOWLEDGED_MAX / lanes;
        let open = |_| {
            let (names, ttl) = (names.clone(), retention.position_ttl);
            let acknowledged = Acknowledged::new(names, ttl, scripts.clone(), acknowledged_max);
            Lane::open::<N>(config.clone(), scripts.clone(), Arc::new(acknowledged))
        };
        let lanes = (0..lanes).map(open).collect();
        Self { config, retention, names, scripts, lanes, net: PhantomData }
    }

    /// The lane of a stream: always the same one, on which its publishes stay in order.
    fn lane(&self, stream: &StreamName) -> &Lane {
        let lanes = u64::try_from(self.lanes.len()).expect("a handful");
        let index = fnv1a(stream.as_str().as_bytes()) % lanes;
        &self.lanes[usize::try_from(index).expect("smaller than their number")]
    }

    async fn publish_in_time(&self, publish: Publish) -> Result<Published, PublishError> {
        let lane = self.lane(&publish.stream);
        let request = self.request(&publish);
        let plain = matches!(request, Request::Plain(_));
        let mut sent = false;
        let answer = lane.publish(request, self.config.wait_replicas, &mut sent);
        let answer = match timeout(PUBLISH_TIMEOUT, answer).await {
            Ok(answer) => answer?,
            Err(_) if sent => return Err(PublishError::Unknown("no answer in time".to_owned())),
            Err(_) => return Err(PublishError::Unavailable("no turn in time".to_owned())),
        };
        let Answer { value, run_id } = answer;
        let published = if plain { plain_answer(value) } else { script_answer(value) };
        // Redis did carry it out, but what it says of it is nothing that our scripts say.
        let unreadable = || PublishError::Unknown("the answer can't be read".to_owned());
        let published = published.ok_or_else(unreadable)?;
        if let Some(position) = published.position {
            // Of a duplicate the first one: nobody else may be left who vouches for it.
            lane.acknowledged(publish.stream, position, run_id);
        }
        Ok(published)
    }

    /// What Redis is asked to do.
    fn request(&self, publish: &Publish) -> Request<'_> {
        let Publish { stream, mid, epoch, body, class, idempotency_key } = publish;
        let idempotency =
            idempotency_key.as_ref().map(|key| self.names.key(stream, &format!("idem:{key}")));
        let idempotency_ttl = millis(self.retention.idempotency_ttl);
        let channel = self.names.channel(stream).into_bytes();
        let entries_max = match stream.kind() {
            StreamKind::User(_) => self.retention.user_entries_max,
            StreamKind::All | StreamKind::Room(_) => self.retention.room_entries_max,
        };
        let mut keys = Vec::new();
        let (script, args) = match class {
            _ if self.retention.user_entries_max == 0 => {
                let entry = [unplaced(*mid).as_bytes(), body].concat();
                if idempotency.is_none() {
                    let mut command = cmd("PUBLISH");
                    command.arg(channel).arg(entry);
                    return Request::Plain(command);
                }
                (&self.scripts.plain, vec![channel, hex(mid.0), entry, idempotency_ttl])
            }
            Class::Durable => {
                keys.extend([self.names.key(stream, "meta"), self.names.key(stream, "log")]);
                let args = vec![
                    channel,
                    hex(mid.0),
                    hex(epoch.0),
                    body.to_vec(),
                    decimal(entries_max),
                    decimal(self.retention.bytes_max),
                    millis(self.retention.history_ttl),
                    millis(self.retention.position_ttl),
                    idempotency_ttl,
                ];
                keys.extend(idempotency);
                let call = Call { script: &self.scripts.publish, keys, args };
                return Request::Repeatable { call, again: b"1" };
            }
            Class::Latest { field } => {
                keys.extend([self.names.key(stream, "latest"), self.names.key(stream, "meta")]);
                let args = vec![
                    channel,
                    hex(mid.0),
                    field.as_bytes().to_vec(),
                    body.to_vec(),
                    decimal(LATEST_VALUES_MAX),
                    millis(self.retention.latest_ttl),
                    idempotency_ttl,
                ];
                (&self.scripts.latest, args)
            }
        };
        // Without a position only the idempotency key shows that it was carried out before.
        let repeatable = idempotency.is_some();
        keys.extend(idempotency);
        let call = Call { script, keys, args };
        if repeatable { Request::Repeatable { call, again: b"1" } } else { Request::Once(call) }
    }

    async fn history(
        &self,
        stream: StreamName,
        epoch: Epoch,
        after: Option<u64>,
        known: Option<Position>,
    ) -> Result<History, BrokerError> {
        if self.retention.user_entries_max == 0 {
            return Ok(History::default()); // Positions are off: nothing is kept.
        }
        let keys = ["meta", "log", "latest"].map(|key| self.names.key(&stream, key)).into();
        // A numbering that is given up is older than the one in its place, whatever clocks say.
        let epoch = known.map_or(epoch, |known| entropy::epoch_after(known.epoch, epoch));
        let after = after.map(decimal).unwrap_or_default();
        let channel = self.names.channel(&stream).into_bytes();
        let ttl = millis(self.retention.position_ttl);
        let mut args = vec![hex(epoch.0), ttl, after, channel];
        args.extend(known.into_iter().flat_map(place));
        let call = Call { script: &self.scripts.read, keys, args };
        let answer = self.lane(&stream).run(&call).await?;
        read_answer(answer).ok_or_else(|| BrokerError("the history can't be read".to_owned()))
    }

    async fn heads_of(
        &self,
        streams: Vec<StreamName>,
    ) -> Result<Vec<Option<StreamHead>>, BrokerError> {
        let keys = streams
            .iter()
            .flat_map(|stream| ["meta", "latest"].map(|key| self.names.key(stream, key)));
        let keys = keys.collect();
        let args = vec![millis(self.retention.position_ttl)];
        let call = Call { script: &self.scripts.heads, keys, args };
        let lane = self.lanes.first().expect("there is at least one");
        let answer = lane.run(&call).await?;
        let heads: Option<Vec<String>> = redis::from_redis_value(answer).ok();
        let heads = heads.filter(|heads| heads.len() == streams.len());
        let heads = heads.ok_or_else(|| BrokerError("the positions can't be read".to_owned()))?;
        Ok(heads.iter().map(|head| stream_head(head)).collect())
    }

    async fn tell_instances(&self, to: Destination, bytes: Bytes) -> Result<(), BrokerError> {
        let mut command = cmd("PUBLISH");
        command.arg(self.names.destination(to)).arg(&*bytes);
        let lane = self.lanes.first().expect("there is at least one");
        lane.command(&command).await.map(drop)
    }

    async fn probe_lanes(&self, token: u64) -> Result<ProbesSent, BrokerError> {
        let mut command = cmd("PUBLISH");
        command.arg(self.names.probe()).arg(token);
        let probes = self.lanes.iter().map(|lane| lane.command(&command));
        for answer in futures_util::future::join_all(probes).await {
            answer?;
        }
        Ok(ProbesSent(u32::try_from(self.lanes.len()).expect("a handful")))
    }
}

impl<N: Net> Broker for RedisBroker<N> {
    fn publish(&self, request: Publish) -> BrokerFuture<'_, Result<Published, PublishError>> {
        Box::pin(self.publish_in_time(request))
    }

    fn read(
        &self,
        stream: StreamName,
        epoch: Epoch,
        after: Option<u64>,
        known: Option<Position>,
    ) -> BrokerFuture<'_, Result<History, BrokerError>> {
        Box::pin(self.history(stream, epoch, after, known))
    }

    fn heads(
        &self,
        streams: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>> {
        Box::pin(self.heads_of(streams))
    }

    fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>> {
        Box::pin(subscription::open::<N>(&self.config, &self.names))
    }

    fn tell(&self, to: Destination, bytes: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>> {
        Box::pin(self.tell_instances(to, bytes))
    }

    fn probe(&self, token: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>> {
        Box::pin(self.probe_lanes(token))
    }
}

impl<N> fmt::Debug for RedisBroker<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The header of an entry that has no place in its stream.
fn unplaced(mid: Mid) -> String {
    Place::Latest { epoch: Epoch::default(), at: 0, version: 0, mid }.header()
}

/// Reads the answer of a publishing script.
fn script_answer(answer: Value) -> Option<Published> {
    let (epoch, offset, mid, subscribers, duplicate): (String, u64, String, u32, u8) =
        redis::from_redis_value(answer).ok()?;
    let position = if offset > 0 { Some(position(&epoch, offset, &mid)?) } else { None };
    let first = Mid(u64::from_str_radix(&mid, 16).ok()?);
    Some(Published { position, duplicate_of: (duplicate == 1).then_some(first), subscribers })
}

/// Reads the answer of the reading script.
fn read_answer(answer: Value) -> Option<History> {
    let (epoch, offset, mid, entries, latest): (String, u64, String, Vec<Vec<u8>>, Vec<Vec<u8>>) =
        redis::from_redis_value(answer).ok()?;
    let head = position(&epoch, offset, &mid)?;
    let [entries, latest] =
        [entries, latest].map(|list| list.into_iter().map(Bytes::from).collect());
    Some(History { head, entries, latest })
}

/// Reads the answer of PUBLISH.
fn plain_answer(answer: Value) -> Option<Published> {
    let subscribers = redis::from_redis_value(answer).ok()?;
    Some(Published { position: None, duplicate_of: None, subscribers })
}

/// Reads the meta of a stream (epoch, offset, mid, bytes) and the version of its newest value.
fn stream_head(text: &str) -> Option<StreamHead> {
    let mut parts = text.split(' ');
    let position = position(parts.next()?, parts.next()?.parse().ok()?, parts.next()?)?;
    let version = parts.nth(1)?.parse().ok()?;
    Some(StreamHead { position, version })
}

fn position(epoch: &str, offset: u64, mid: &str) -> Option<Position> {
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
    Some(Position { epoch: Epoch(number(epoch)?), offset, mid: Mid(number(mid)?) })
}

/// A place, as scripts take it: epoch, offset, mid.
fn place(Position { epoch, offset, mid }: Position) -> [Vec<u8>; 3] {
    [hex(epoch.0), decimal(offset), hex(mid.0)]
}

fn hex(number: u64) -> Vec<u8> {
    format!("{number:016x}").into_bytes()
}

fn decimal(number: impl fmt::Display) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// As Redis wants a TTL: whole milliseconds, at least one.
fn millis(duration: Duration) -> Vec<u8> {
    decimal(duration.as_millis().max(1))
}

/// Numberings whose last publication is remembered. Each takes some 150 bytes.
const ACKNOWLEDGED_MAX: usize = 1 << 18;

/// Longest time for a publish, a repeated attempt included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
