//! A subscription connection: one socket, read and written by whoever awaits the next item.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use realtime_core::{
    relay::{Channel, RunId},
    stream::StreamName,
    time::Instant,
};
use redis::cmd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::{
    names::{Carries, Names},
    resp::{Reader, Reply},
};
use crate::{
    broker::{
        BrokerError, BrokerFuture, Item, Subscription, SubscriptionItems, SubscriptionRequests,
    },
    clock::Clock,
    config::RedisConfig,
    fnv::fnv1a,
    net::Net,
};

/// Connects, logs in, and subscribes to the channels that every instance reads.
pub(super) async fn open<N: Net>(
    config: &RedisConfig,
    names: &Names,
) -> Result<Subscription, BrokerError> {
    let opening = async {
        let stream = N::connect(&config.host, config.port).await.map_err(gone)?;
        let (read, write) = split(stream);
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let clock = Clock::new();
        let mut items = Items {
            read,
            write,
            reader: Reader::default(),
            output: BytesMut::new(),
            requests,
            names: names.clone(),
            clock,
            proved: clock.now(),
            pinged: false,
        };
        let run_id = items.log_in(config).await?;
        items.subscribe_fixed().await?;
        let requests = Requests { sender, names: names.clone() };
        Ok(Subscription { run_id, requests: Box::new(requests), items: Box::new(items) })
    };
    match timeout(OPEN_TIMEOUT, opening).await {
        Ok(result) => result,
        Err(_) => Err(BrokerError("redis does not answer".to_owned())),
    }
}

/// The life of a server, from what it says of itself.
pub(super) fn run_id_of(server: &str) -> RunId {
    let line = server.lines().find_map(|line| line.strip_prefix("run_id:"));
    fnv1a(line.unwrap_or_default().trim_end().as_bytes())
}

/// Asks for subscriptions.
#[derive(Debug)]
struct Requests {
    /// Encoded commands, to be written by the other side.
    sender: mpsc::Sender<Vec<u8>>,
    names: Names,
}

impl SubscriptionRequests for Requests {
    fn request(
        &mut self,
        subscribe: Vec<StreamName>,
        unsubscribe: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            for (name, streams) in [("UNSUBSCRIBE", &unsubscribe), ("SUBSCRIBE", &subscribe)] {
                for streams in streams.chunks(CHANNELS_PER_COMMAND) {
                    let mut command = cmd(name);
                    for stream in streams {
                        command.arg(self.names.channel(stream));
                    }
                    let sent = self.sender.send(command.get_packed_command()).await;
                    sent.map_err(|_| BrokerError("the connection is closed".to_owned()))?;
                }
            }
            Ok(())
        })
    }
}

/// Hears what the connection brings, and moves what is to be written meanwhile.
struct Items<S> {
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    reader: Reader,
    /// Not yet written.
    output: BytesMut,
    requests: mpsc::Receiver<Vec<u8>>,
    names: Names,
    clock: Clock,
    /// When the last ping was answered. Only that shows that commands get through: messages may
    /// come over a connection on which nothing goes the other way.
    proved: Instant,
    /// A ping went out since then.
    pinged: bool,
}

impl<S: crate::net::Stream> SubscriptionItems for Items<S> {
    fn next(&mut self) -> BrokerFuture<'_, Result<Item, BrokerError>> {
        Box::pin(async move {
            loop {
                match self.reader.next().map_err(|_| malformed())? {
                    Some(reply) => {
                        self.observe(&reply);
                        if let Some(item) = self.item(reply)? {
                            return Ok(item);
                        }
                    }
                    None => self.turn().await?,
                }
            }
        })
    }
}

impl<S: crate::net::Stream> Items<S> {
    /// Moves bytes one step. Cancel-safe, as all of its branches are.
    async fn turn(&mut self) -> Result<(), BrokerError> {
        let wake = self.proved + if self.pinged { SILENCE_MAX } else { PING_AFTER };
        tokio::select! {
            biased;
            written = self.write.write(&self.output), if !self.output.is_empty() => {
                match written.map_err(gone)? {
                    0 => return Err(closed()),
                    count => self.output.advance(count),
                }
            }
            request = self.requests.recv(), if self.output.is_empty() => match request {
                Some(command) => self.output.extend_from_slice(&command),
                None => return Err(BrokerError("nobody asks any more".to_owned())),
            },
            read = self.read.read_buf(self.reader.input()) => {
                if read.map_err(gone)? == 0 {
                    return Err(closed());
                }
            }
            () = sleep_until(self.clock.tokio(wake)) => {
                if self.pinged {
                    return Err(BrokerError("redis does not answer pings".to_owned()));
                }
                self.output.extend_from_slice(&cmd("PING").get_packed_command());
                self.pinged = true;
            }
        }
        Ok(())
    }

    /// Notes the answer to a ping.
    fn observe(&mut self, reply: &Reply) {
        if let Reply::Array(parts) = reply
            && parts.first() == Some(&Reply::Bytes(b"pong".to_vec()))
        {
            self.proved = self.clock.now();
            self.pinged = false;
        }
    }

    /// Writes commands and waits for the next reply.
    async fn ask(&mut self, commands: &[redis::Cmd]) -> Result<Reply, BrokerError> {
        for command in commands {
            self.output.extend_from_slice(&command.get_packed_command());
        }
        loop {
            match self.reader.next().map_err(|_| malformed())? {
                Some(Reply::Error(text)) => return Err(BrokerError(text)),
                Some(reply) => return Ok(reply),
                None => self.turn().await?,
            }
        }
    }

    /// Logs in where that is needed and learns the life of the server.
    async fn log_in(&mut self, config: &RedisConfig) -> Result<RunId, BrokerError> {
        if let Some(password) = &config.password {
            let mut auth = cmd("AUTH");
            auth.arg(config.username.as_deref()).arg(password);
            self.ask(&[auth]).await?;
        }
        let mut server = cmd("INFO");
        server.arg("server");
        match self.ask(&[server]).await? {
            Reply::Bytes(text) => Ok(run_id_of(&String::from_utf8_lossy(&text))),
            Reply::Integer(_) | Reply::Error(_) | Reply::Array(_) => Err(malformed()),
        }
    }

    /// Subscribes to the fixed channels and waits until all of it holds. What they bring in between
    /// is dropped: nobody has been told yet that they are heard.
    async fn subscribe_fixed(&mut self) -> Result<(), BrokerError> {
        let mut command = cmd("SUBSCRIBE");
        command.arg(self.names.fixed());
        let mut commands = VecDeque::from([command]);
        let mut missing = self.names.fixed().len();
        while missing > 0 {
            let reply = self.ask(commands.make_contiguous()).await?;
            commands.clear();
            if let Reply::Array(parts) = reply
                && parts.first() == Some(&Reply::Bytes(b"subscribe".to_vec()))
            {
                missing -= 1;
            }
        }
        Ok(())
    }

    /// What a reply means; none when it is nothing to tell.
    fn item(&self, reply: Reply) -> Result<Option<Item>, BrokerError> {
        let parts = match reply {
            Reply::Array(parts) => parts,
            Reply::Error(text) => return Err(BrokerError(text)),
            Reply::Bytes(_) | Reply::Integer(_) => return Ok(None),
        };
        let mut parts = parts.into_iter();
        let (Some(Reply::Bytes(kind)), Some(Reply::Bytes(channel)), Some(last), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None); // The answer to a ping has two parts.
        };
        let Some(carries) = self.names.carries(&channel) else {
            return Ok(None);
        };
        Ok(match (kind.as_slice(), carries, last) {
            (b"message", Carries::For(channel), Reply::Bytes(body)) => {
                Some(Item::Message(channel, Bytes::from(body)))
            }
            (b"message", Carries::Probes, Reply::Bytes(body)) => {
                let token = str::from_utf8(&body).ok().and_then(|token| token.parse().ok());
                token.map(Item::Probe)
            }
            (b"subscribe", Carries::For(Channel::Stream(stream)), _) => {
                Some(Item::Subscribed(stream))
            }
            (b"unsubscribe", Carries::For(Channel::Stream(stream)), _) => {
                Some(Item::Unsubscribed(stream))
            }
            _ => None,
        })
    }
}

impl<S> fmt::Debug for Items<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

fn gone(error: std::io::Error) -> BrokerError {
    BrokerError(error.to_string())
}

fn closed() -> BrokerError {
    BrokerError("redis closed the connection".to_owned())
}

fn malformed() -> BrokerError {
    BrokerError("redis sent what is not RESP2".to_owned())
}

/// Longest way from nothing to a subscription connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Time from the answer to one ping until the next one.
const PING_AFTER: Duration = Duration::from_secs(3);

/// Time without an answer to a ping after which the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Channels in one command: it holds Redis up for about 0.2 ms.
const CHANNELS_PER_COMMAND: usize = 256;

/// Commands that wait to be written, at most 60 KB each.
const REQUESTS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use realtime_core::id::BootId;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::net::memory::{self, MemoryStream};

    /// An idle subscription connection, and the server's end of it.
    fn idle() -> (Items<MemoryStream>, mpsc::Sender<Vec<u8>>, DuplexStream, Clock) {
        let (near, server) = memory::pair(1 << 10);
        let (read, write) = split(near);
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let clock = Clock::new();
        let items = Items {
            read,
            write,
            reader: Reader::default(),
            output: BytesMut::new(),
            requests,
            names: Names::new("p:", BootId(1), true),
            clock,
            proved: clock.now(),
            pinged: false,
        };
        (items, sender, server, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_pinged_then_given_up() {
        let (mut items, _requests, mut server, clock) = idle();
        let waiting = tokio::spawn(async move { items.next().await });
        let mut ping = [0; 14];
        server.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(clock.now().0 / 1_000_000_000, PING_AFTER.as_secs());
        assert!(waiting.await.unwrap().is_err());
        assert_eq!(clock.now().0 / 1_000_000_000, SILENCE_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_pings_is_listened_to_for_ever() {
        let (mut items, _requests, mut server, clock) = idle();
        let waiting = tokio::spawn(async move { items.next().await });
        for _ in 0..100 {
            server.read_exact(&mut [0; 14]).await.unwrap();
            server.write_all(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n").await.unwrap();
        }
        assert!(clock.now().0 / 1_000_000_000 >= 100 * PING_AFTER.as_secs());
        server.write_all(b"*3\r\n$7\r\nmessage\r\n$14\r\nbooking:events\r\n").await.unwrap();
        server.write_all(b"$2\r\n{}\r\n").await.unwrap();
        assert!(matches!(waiting.await.unwrap(), Ok(Item::Message(..))));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_no_answer_to_a_ping() {
        let (mut items, _requests, mut server, clock) = idle();
        let waiting = tokio::spawn(async move {
            loop {
                if let Err(error) = items.next().await {
                    return (error, clock.now());
                }
            }
        });
        let message = b"*3\r\n$7\r\nmessage\r\n$14\r\nbooking:events\r\n$2\r\n{}\r\n";
        while !waiting.is_finished() {
            // Once the connection has been given up there is nobody to write to.
            drop(server.write_all(message).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (error, at) = waiting.await.unwrap();
        assert_eq!(error.0, "redis does not answer pings");
        assert_eq!(at.0 / 1_000_000_000, SILENCE_MAX.as_secs());
    }

    #[tokio::test]
    async fn an_error_reply_ends_the_connection() {
        let (mut items, _requests, mut server, _) = idle();
        server.write_all(b"-NOPERM no\r\n").await.unwrap();
        assert_eq!(items.next().await, Err(BrokerError("NOPERM no".into())));
    }
}
