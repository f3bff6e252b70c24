//! Keys, and what the commands do to them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    str,
};

use bytes::Bytes;

use super::{Reply, Request, script::Interpreter};

/// A message that a command has published, and the connections that are subscribed to its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The channel.
    pub channel: Bytes,
    /// The message.
    pub message: Bytes,
    /// Numbers of the connections, ascending.
    pub subscribers: Vec<u64>,
}

/// A server: its keys, its subscriptions and its scripts. Keys outlive connections.
#[derive(Debug)]
pub struct Redis {
    store: Rc<RefCell<Store>>,
    interpreter: Interpreter,
    scripts: BTreeMap<String, Bytes>,
}

impl Default for Redis {
    fn default() -> Self {
        let store = Rc::default();
        let interpreter =
            Interpreter::new(&store).expect("a fresh Lua has room for three functions");
        Self { store, interpreter, scripts: BTreeMap::new() }
    }
}

impl Redis {
    /// Carries out a command of the connection `connection` at `now_us`, in Unix microseconds.
    pub fn call(&mut self, now_us: u64, connection: u64, request: &Request) -> Reply {
        self.store.borrow_mut().now_us = now_us;
        let Some((name, arguments)) = request.split_first() else {
            return Reply::Error("ERR empty command".to_owned());
        };
        match (name.to_ascii_uppercase().as_slice(), arguments) {
            (b"EVAL", [script, rest @ ..]) => {
                self.scripts.insert(sha1(script), script.clone());
                self.run(&script.clone(), rest)
            }
            (b"EVALSHA", [sha, rest @ ..]) => {
                let sha = String::from_utf8_lossy(sha).to_lowercase();
                match self.scripts.get(&sha).cloned() {
                    Some(script) => self.run(&script, rest),
                    None => {
                        Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned())
                    }
                }
            }
            (b"SCRIPT", [what, script]) if what.eq_ignore_ascii_case(b"LOAD") => {
                let sha = sha1(script);
                self.scripts.insert(sha.clone(), script.clone());
                Reply::bulk(sha)
            }
            (b"SCRIPT", [what, ..]) if what.eq_ignore_ascii_case(b"FLUSH") => {
                self.scripts.clear();
                Reply::ok()
            }
            (b"SUBSCRIBE", channels) => self.subscribe(connection, channels),
            (b"UNSUBSCRIBE", channels) => self.unsubscribe(connection, channels),
            _ => self.store.borrow_mut().call(request),
        }
    }

    /// The text of a script, by its hash.
    pub fn script(&self, sha: &[u8]) -> Option<&Bytes> {
        self.scripts.get(&String::from_utf8_lossy(sha).to_lowercase())
    }

    /// What has been published since the last call, in order.
    pub fn published(&mut self) -> Vec<Published> {
        std::mem::take(&mut self.store.borrow_mut().published)
    }

    /// A connection is gone, and its subscriptions with it.
    pub fn disconnect(&mut self, connection: u64) {
        for subscribers in self.store.borrow_mut().channels.values_mut() {
            subscribers.remove(&connection);
        }
    }

    /// How many connections are subscribed to which channel.
    pub fn audiences(&self) -> Vec<(Bytes, usize)> {
        let store = self.store.borrow();
        let audience = |(channel, of): (&Bytes, &BTreeSet<u64>)| (channel.clone(), of.len());
        store.channels.iter().map(audience).filter(|(_, count)| *count > 0).collect()
    }

    /// A copy of all keys, for a fail-over to a replica that lags behind.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.store.borrow().keys.clone())
    }

    /// Goes back to `snapshot`; the default one is empty.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.store.borrow_mut().keys = snapshot.0.clone();
    }

    /// Evicts one key. Says whether there was one.
    pub fn evict(&mut self, key: &[u8]) -> bool {
        self.store.borrow_mut().keys.remove(key).is_some()
    }

    fn run(&mut self, script: &Bytes, rest: &[Bytes]) -> Reply {
        let Some((count, rest)) = rest.split_first() else {
            return Reply::Error("ERR wrong number of arguments for 'eval' command".to_owned());
        };
        match integer(count).and_then(|count| usize::try_from(count).ok()) {
            Some(count) if count <= rest.len() => {
                let (keys, arguments) = rest.split_at(count);
                self.interpreter.run(script, keys, arguments)
            }
            _ => Reply::Error("ERR Number of keys can't be greater than number of args".to_owned()),
        }
    }

    fn subscribe(&mut self, connection: u64, channels: &[Bytes]) -> Reply {
        let mut store = self.store.borrow_mut();
        for channel in channels {
            store.channels.entry(channel.clone()).or_default().insert(connection);
        }
        confirmations("subscribe", channels)
    }

    fn unsubscribe(&mut self, connection: u64, channels: &[Bytes]) -> Reply {
        let mut store = self.store.borrow_mut();
        for channel in channels {
            store.channels.entry(channel.clone()).or_default().remove(&connection);
        }
        confirmations("unsubscribe", channels)
    }
}

/// Keys as they were.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(BTreeMap<Bytes, Entry>);

/// One confirmation for each channel; a server sends them one behind the other.
fn confirmations(kind: &'static str, channels: &[Bytes]) -> Reply {
    let confirm = |channel: &Bytes| {
        Reply::Array(vec![Reply::bulk(kind), Reply::bulk(channel.clone()), Reply::Integer(1)])
    };
    Reply::Array(channels.iter().map(confirm).collect())
}

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// In Unix milliseconds.
    expires: Option<u64>,
}

#[derive(Clone, Debug)]
enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    Hash(BTreeMap<Bytes, Bytes>),
}

/// What scripts can reach.
#[derive(Debug, Default)]
pub(super) struct Store {
    keys: BTreeMap<Bytes, Entry>,
    channels: BTreeMap<Bytes, BTreeSet<u64>>,
    published: Vec<Published>,
    now_us: u64,
}

type Result<T = Reply> = std::result::Result<T, Reply>;

impl Store {
    /// Carries out a command on keys and channels.
    pub(super) fn call(&mut self, request: &[Bytes]) -> Reply {
        let Some((name, arguments)) = request.split_first() else {
            return Reply::Error("ERR empty command".to_owned());
        };
        let name = String::from_utf8_lossy(name).to_uppercase();
        self.command(&name, arguments).unwrap_or_else(|error| error)
    }

    fn command(&mut self, name: &str, arguments: &[Bytes]) -> Result {
        match (name, arguments) {
            ("PING", _) => Ok(Reply::Status("PONG".to_owned())),
            ("AUTH" | "SELECT" | "CLIENT", _) => Ok(Reply::ok()),
            ("TIME", []) => Ok(Reply::Array(vec![
                Reply::bulk((self.now_us / 1_000_000).to_string()),
                Reply::bulk((self.now_us % 1_000_000).to_string()),
            ])),
            ("FLUSHALL", _) => {
                self.keys.clear();
                Ok(Reply::ok())
            }
            ("PUBLISH", [channel, message]) => Ok(self.publish(channel, message)),
            ("PUBSUB", [what, channels @ ..]) if what.eq_ignore_ascii_case(b"NUMSUB") => {
                let count = |channel: &Bytes| self.channels.get(channel).map_or(0, BTreeSet::len);
                let pairs = channels.iter().flat_map(|channel| {
                    [Reply::bulk(channel.clone()), reply_length(count(channel))]
                });
                Ok(Reply::Array(pairs.collect()))
            }
            ("DEL" | "UNLINK", keys) => {
                let mut live = 0;
                for key in keys {
                    live += usize::from(self.live(key).is_some());
                    self.keys.remove(key);
                }
                Ok(reply_length(live))
            }
            ("PEXPIRE", [key, ttl]) => self.expire(key, ttl),
            ("PTTL", [key]) => Ok(self.ttl(key)),
            ("GET", [key]) => Ok(Reply::Bulk(self.text(key)?.cloned())),
            ("SET", [key, value, options @ ..]) => self.set(key, value, options),
            _ => self.collection_command(name, arguments),
        }
    }

    fn collection_command(&mut self, name: &str, arguments: &[Bytes]) -> Result {
        match (name, arguments) {
            ("LLEN", [key]) => Ok(reply_length(self.list(key)?.map_or(0, |list| list.len()))),
            ("RPUSH", [key, values @ ..]) if !values.is_empty() => {
                let list = self.list_or_new(key)?;
                list.extend(values.iter().cloned());
                Ok(reply_length(list.len()))
            }
            ("LPOP" | "RPOP", [key]) => {
                let popped = self.list(key)?.and_then(|list| {
                    if name == "LPOP" { list.pop_front() } else { list.pop_back() }
                });
                self.drop_empty(key);
                Ok(Reply::Bulk(popped))
            }
            ("LRANGE", [key, start, stop]) => {
                let (start, stop) = (number(start)?, number(stop)?);
                let list = self.list(key)?.map(|list| list.make_contiguous()).unwrap_or_default();
                Ok(Reply::Array(
                    list[range(list.len(), start, stop)].iter().cloned().map(Reply::bulk).collect(),
                ))
            }
            ("LTRIM", [key, start, stop]) => {
                let (start, stop) = (number(start)?, number(stop)?);
                if let Some(list) = self.list(key)? {
                    let kept = range(list.len(), start, stop);
                    list.truncate(kept.end);
                    list.drain(..kept.start.min(list.len()));
                }
                self.drop_empty(key);
                Ok(Reply::ok())
            }
            ("HGET", [key, field]) => {
                Ok(Reply::Bulk(self.hash(key)?.and_then(|hash| hash.get(field).cloned())))
            }
            ("HSET", [key, pairs @ ..]) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let hash = self.hash_or_new(key)?;
                let before = hash.len();
                hash.extend(pairs.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Ok(reply_length(hash.len() - before))
            }
            ("HDEL", [key, fields @ ..]) => {
                let removed = self.hash(key)?.map_or(0, |hash| {
                    fields.iter().filter(|field| hash.remove(*field).is_some()).count()
                });
                self.drop_empty(key);
                Ok(reply_length(removed))
            }
            ("HLEN", [key]) => Ok(reply_length(self.hash(key)?.map_or(0, |hash| hash.len()))),
            ("HGETALL", [key]) => {
                let pairs = self.hash(key)?.into_iter().flatten().flat_map(|(field, value)| {
                    [Reply::bulk(field.clone()), Reply::bulk(value.clone())]
                });
                Ok(Reply::Array(pairs.collect()))
            }
            _ => Err(Reply::Error(format!("ERR unknown command '{name}'"))),
        }
    }

    fn publish(&mut self, channel: &Bytes, message: &Bytes) -> Reply {
        let subscribers: Vec<_> =
            self.channels.get(channel).into_iter().flatten().copied().collect();
        let count = subscribers.len();
        let (channel, message) = (channel.clone(), message.clone());
        self.published.push(Published { channel, message, subscribers });
        reply_length(count)
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// The key, unless it has expired.
    fn live(&mut self, key: &Bytes) -> Option<&mut Entry> {
        let now = self.now_ms();
        if self.keys.get(key)?.expires.is_some_and(|expires| expires <= now) {
            self.keys.remove(key);
        }
        self.keys.get_mut(key)
    }

    fn expire(&mut self, key: &Bytes, ttl: &Bytes) -> Result {
        let now = self.now_ms();
        let ttl = number(ttl)?;
        let Some(entry) = self.live(key) else { return Ok(Reply::Integer(0)) };
        match u64::try_from(ttl) {
            Ok(ttl) if ttl > 0 => entry.expires = Some(now + ttl),
            _ => {
                self.keys.remove(key);
            }
        }
        Ok(Reply::Integer(1))
    }

    fn ttl(&mut self, key: &Bytes) -> Reply {
        let now = self.now_ms();
        Reply::Integer(match self.live(key) {
            None => -2,
            Some(Entry { expires: None, .. }) => -1,
            Some(Entry { expires: Some(at), .. }) => i64::try_from(*at - now).unwrap_or(i64::MAX),
        })
    }

    fn set(&mut self, key: &Bytes, value: &Bytes, options: &[Bytes]) -> Result {
        let mut expires = None;
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"PX" => {
                    let ttl = number(options.next().ok_or_else(syntax)?)?;
                    let ttl = u64::try_from(ttl).map_err(|_| syntax())?;
                    expires = Some(self.now_ms() + ttl);
                }
                b"NX" if self.live(key).is_some() => return Ok(Reply::Bulk(None)),
                b"NX" => {}
                _ => return Err(syntax()),
            }
        }
        self.keys.insert(key.clone(), Entry { value: Value::Text(value.clone()), expires });
        Ok(Reply::ok())
    }

    fn text(&mut self, key: &Bytes) -> Result<Option<&Bytes>> {
        match self.live(key).map(|entry| &entry.value) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::List(_) | Value::Hash(_)) => Err(wrong_type()),
        }
    }

    fn list(&mut self, key: &Bytes) -> Result<Option<&mut VecDeque<Bytes>>> {
        match self.live(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::List(list)) => Ok(Some(list)),
            Some(Value::Text(_) | Value::Hash(_)) => Err(wrong_type()),
        }
    }

    fn hash(&mut self, key: &Bytes) -> Result<Option<&mut BTreeMap<Bytes, Bytes>>> {
        match self.live(key).map(|entry| &mut entry.value) {
            None => Ok(None),
            Some(Value::Hash(hash)) => Ok(Some(hash)),
            Some(Value::Text(_) | Value::List(_)) => Err(wrong_type()),
        }
    }

    fn list_or_new(&mut self, key: &Bytes) -> Result<&mut VecDeque<Bytes>> {
        if self.list(key)?.is_none() {
            let value = Value::List(VecDeque::new());
            self.keys.insert(key.clone(), Entry { value, expires: None });
        }
        Ok(self.list(key)?.expect("it was made above"))
    }

    fn hash_or_new(&mut self, key: &Bytes) -> Result<&mut BTreeMap<Bytes, Bytes>> {
        if self.hash(key)?.is_none() {
            let value = Value::Hash(BTreeMap::new());
            self.keys.insert(key.clone(), Entry { value, expires: None });
        }
        Ok(self.hash(key)?.expect("it was made above"))
    }

    /// Redis keeps no empty collections.
    fn drop_empty(&mut self, key: &Bytes) {
        let empty = match self.keys.get(key).map(|entry| &entry.value) {
            Some(Value::List(list)) => list.is_empty(),
            Some(Value::Hash(hash)) => hash.is_empty(),
            Some(Value::Text(_)) | None => false,
        };
        if empty {
            self.keys.remove(key);
        }
    }
}

/// The indices that `start` and `stop` mean; negative ones count from the end.
fn range(length: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
    let signed = i64::try_from(length).unwrap_or(i64::MAX);
    let from_end = |index: i64| if index < 0 { signed + index } else { index };
    let start = from_end(start).clamp(0, signed);
    let end = (from_end(stop).saturating_add(1)).clamp(start, signed);
    let index = |at: i64| usize::try_from(at).expect("between 0 and the length");
    index(start)..index(end)
}

fn integer(text: &Bytes) -> Option<i64> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn number(text: &Bytes) -> Result<i64> {
    integer(text)
        .ok_or_else(|| Reply::Error("ERR value is not an integer or out of range".to_owned()))
}

fn reply_length(length: usize) -> Reply {
    Reply::Integer(i64::try_from(length).unwrap_or(i64::MAX))
}

fn wrong_type() -> Reply {
    Reply::Error("WRONGTYPE Operation against a key holding the wrong kind of value".to_owned())
}

fn syntax() -> Reply {
    Reply::Error("ERR syntax error".to_owned())
}

/// How Redis names scripts.
fn sha1(script: &[u8]) -> String {
    sha1_smol::Sha1::from(script).digest().to_string()
}
