//! The simulated Redis on a host of its own. What it stores lives outside the host, so that the
//! host can crash without losing it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use turmoil::net::{TcpListener, TcpStream};

use super::{
    net::SEGMENT_BYTES,
    plan::{Data, Refusal},
    seam, trace,
};
use crate::redis::{Redis, Reply, Request, Snapshot, parse};

/// What all lives of the host share.
pub(super) type SharedServer = Rc<RefCell<Server>>;

/// A server, with its connections.
#[derive(Debug, Default)]
pub(super) struct Server {
    redis: Redis,
    /// How often it has started.
    lives: u64,
    connections: BTreeMap<u64, mpsc::Sender<Vec<u8>>>,
    last_connection: u64,
    /// Those that have ever subscribed.
    subscribed: BTreeSet<u64>,
    older: Snapshot,
    refusal: Option<Refusal>,
    published: Vec<Logged>,
}

/// A message that was published on a channel.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) channel: Bytes,
    pub(super) message: Bytes,
}

impl Server {
    /// Keeps a copy of the data, to go back to.
    pub(super) fn keep(&mut self) {
        self.older = self.redis.snapshot();
    }

    /// Loses data.
    pub(super) fn lose(&mut self, data: Data) {
        match data {
            Data::All => (),
            Data::Nothing => self.redis.restore(&Snapshot::default()),
            Data::Older => self.redis.restore(&self.older.clone()),
        }
    }

    /// Evicts the position of a stream, or its history.
    pub(super) fn evict(&mut self, key: &str) -> bool {
        self.redis.evict(key.as_bytes())
    }

    /// Closes all subscription connections.
    pub(super) fn kill_subscribers(&mut self) {
        for connection in self.subscribed.clone() {
            self.close(connection);
        }
    }

    /// Forgets all subscriptions; the connections stay and hear nothing.
    pub(super) fn deafen(&mut self) {
        for connection in &self.subscribed {
            self.redis.disconnect(*connection);
        }
    }

    /// Carries out nothing of some kind from now on, or everything again.
    pub(super) fn refuse(&mut self, refusal: Option<Refusal>) {
        self.refusal = refusal;
    }

    /// Somebody publishes a message.
    pub(super) fn publish(&mut self, channel: &str, message: String) {
        let request = [Bytes::from("PUBLISH"), Bytes::from(channel.to_owned()), message.into()];
        self.redis.call(0, 0, &request.to_vec());
        self.spread();
    }

    /// What a command is answered that is not carried out.
    fn refused(&self, name: &[u8], arguments: &[Bytes]) -> Option<Reply> {
        let is_script = matches!(name, b"EVAL" | b"EVALSHA");
        let may_grow = |script: &Bytes| !script.starts_with(b"#!lua flags=allow-oom");
        let error = match self.refusal? {
            Refusal::OutOfMemory => {
                let script = arguments.first().filter(|_| is_script)?;
                let known = if name == b"EVAL" { Some(script) } else { self.redis.script(script) };
                known.filter(|script| may_grow(script))?;
                "OOM command not allowed when used memory > 'maxmemory'."
            }
            Refusal::ReadOnly if is_script => {
                "READONLY You can't write against a read only replica."
            }
            Refusal::Loading if is_script || matches!(name, b"PING" | b"SCRIPT") => {
                "LOADING Redis is loading the dataset in memory"
            }
            Refusal::ReadOnly | Refusal::Loading => return None,
        };
        Some(Reply::Error(error.to_owned()))
    }

    /// Everything that was ever published.
    pub(super) fn published(&self) -> &[Logged] {
        &self.published
    }

    /// How many connections are subscribed to which channel.
    pub(super) fn audiences(&self) -> Vec<(Bytes, usize)> {
        self.redis.audiences()
    }

    fn start(&mut self) {
        self.lives += 1;
        for connection in std::mem::take(&mut self.connections).into_keys() {
            self.redis.disconnect(connection);
        }
        self.subscribed.clear();
        let flush = ["SCRIPT", "FLUSH"].map(Bytes::from).to_vec();
        self.redis.call(0, 0, &flush);
    }

    fn open(&mut self) -> (u64, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(OUTPUT_MAX);
        self.last_connection += 1;
        self.connections.insert(self.last_connection, sender);
        (self.last_connection, receiver)
    }

    fn close(&mut self, connection: u64) -> bool {
        self.redis.disconnect(connection);
        self.subscribed.remove(&connection);
        self.connections.remove(&connection).is_some()
    }

    fn execute(&mut self, connection: u64, request: &Request) {
        let now = seam::unix().unwrap_or_default();
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let name = request.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let arguments = request.get(1..).unwrap_or_default();
        let refused = self.refused(&name, arguments);
        let reply = match (name.as_slice(), arguments) {
            _ if let Some(refused) = refused => refused,
            (b"CLIENT", [what, ..]) if what.eq_ignore_ascii_case(b"ID") => integer(connection),
            (b"CLIENT", [what, _, id]) if what.eq_ignore_ascii_case(b"KILL") => {
                let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
                integer(u64::from(id.is_some_and(|id| self.close(id))))
            }
            (b"INFO", _) => Reply::bulk(format!(
                "# Server\r\nredis_version:7.2.0\r\nrun_id:{:040x}\r\n",
                self.lives
            )),
            (b"WAIT", [replicas, ..]) => integer(
                std::str::from_utf8(replicas).ok().and_then(|n| n.parse().ok()).unwrap_or(0),
            ),
            (b"PING", []) if self.subscribed.contains(&connection) => {
                Reply::Array(vec![Reply::bulk("pong"), Reply::bulk("")])
            }
            _ => self.redis.call(now_us, connection, request),
        };
        let mut output = Vec::new();
        match (name.as_slice(), &reply) {
            (b"SUBSCRIBE" | b"UNSUBSCRIBE", Reply::Array(confirmations)) => {
                self.subscribed.insert(connection);
                confirmations.iter().for_each(|confirmation| confirmation.encode(&mut output));
            }
            _ => reply.encode(&mut output),
        }
        self.send(connection, output);
        self.spread();
    }

    /// Hands what has been published to the subscribers.
    fn spread(&mut self) {
        for published in self.redis.published() {
            let mut output = Vec::new();
            Reply::Array(vec![
                Reply::bulk("message"),
                Reply::bulk(published.channel.clone()),
                Reply::bulk(published.message.clone()),
            ])
            .encode(&mut output);
            for subscriber in published.subscribers {
                self.send(subscriber, output.clone());
            }
            let (channel, message) = (published.channel, published.message);
            self.published.push(Logged { channel, message });
        }
    }

    /// One whose output buffer is full is closed.
    fn send(&mut self, connection: u64, output: Vec<u8>) {
        let sent = self.connections.get(&connection).map(|sender| sender.try_send(output));
        if matches!(sent, Some(Err(_))) {
            let what = format_args!("\"redis\":\"output full\",\"connection\":{connection}");
            trace::note("redis", what);
            self.close(connection);
        }
    }
}

/// Serves until the host crashes.
pub(super) async fn serve(server: SharedServer) -> turmoil::Result {
    server.borrow_mut().start();
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (id, output) = server.borrow_mut().open();
        tokio::task::spawn_local(connection(server.clone(), stream, id, output));
    }
}

async fn connection(
    server: SharedServer,
    stream: TcpStream,
    id: u64,
    mut replies: mpsc::Receiver<Vec<u8>>,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        let segment = &output[..output.len().min(SEGMENT_BYTES)];
        tokio::select! {
            biased;
            reply = replies.recv() => match reply {
                Some(reply) => output.extend_from_slice(&reply),
                None => return, // It was killed.
            },
            written = write.write(segment), if !output.is_empty() => match written {
                Ok(written) => output.advance(written),
                Err(_) => break,
            },
            read = read.read_buf(&mut input) => match read {
                Ok(read) if read > 0 => {
                    while let Ok(Some(request)) = parse(&mut input) {
                        server.borrow_mut().execute(id, &request);
                    }
                }
                Ok(_) | Err(_) => break,
            },
        }
    }
    server.borrow_mut().close(id);
}

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) const PORT: u16 = 6379;

/// Replies that a connection may have waiting.
const OUTPUT_MAX: usize = 1 << 12;
