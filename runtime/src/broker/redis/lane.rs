//! One command connection: kept up in the background, shared by all who have something to ask.
//!
//! A stream belongs to one lane, so that its publishes reach Redis in the order in which they came.
//! An attempt that must be repeated is repeated alone: the gate lets nobody pass until it is
//! settled.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use realtime_core::{id::Position, relay::RunId, stream::StreamName};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value, aio::MultiplexedConnection, cmd, pipe,
};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    acknowledged::Acknowledged,
    scripts::{LoadedScript, Scripts},
    subscription::run_id_of,
};
use crate::{
    backoff::Backoff,
    broker::{BrokerError, PublishError},
    config::RedisConfig,
    entropy,
    net::Net,
};

/// A command connection.
#[derive(Debug)]
pub(super) struct Lane {
    state: watch::Receiver<State>,
    /// The connection that somebody gave up waiting on.
    suspect: watch::Sender<u64>,
    /// Everyone passes it together, but who repeats an attempt passes it alone.
    gate: RwLock<()>,
    acknowledged: Arc<Acknowledged>,
    task: AbortHandle,
}

#[derive(Clone, Debug)]
enum State {
    Connected(Live),
    Away(Arc<str>),
}

/// A connection, and how many were before it.
#[derive(Clone)]
struct Live {
    number: u64,
    /// The life of the server.
    run_id: RunId,
    connection: MultiplexedConnection,
}

/// A script with its arguments.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) script: &'a LoadedScript,
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Vec<u8>>,
}

/// What one publish asks of Redis.
#[derive(Debug)]
pub(super) enum Request<'a> {
    /// A script that recognises its own earlier attempt, once `again` is among its arguments.
    Repeatable { call: Call<'a>, again: &'static [u8] },
    /// A script that does not.
    Once(Call<'a>),
    /// One command, never repeated.
    Plain(Cmd),
}

/// What Redis answered, and which life of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    pub(super) run_id: RunId,
}

/// Why there is no answer.
enum Failure {
    /// Redis does not know the script.
    NoScript,
    /// Redis said no, and did nothing.
    Refused(String),
    /// Likewise, since it is a replica; its master may be where it was, behind the same name.
    Replica(String),
    /// It was done, but too few replicas have it.
    Behind(String),
    /// The connection broke or was silent; the command may have been carried out.
    Lost(String),
}

impl Lane {
    /// Begins to connect. Must be called on a tokio runtime.
    pub(super) fn open<N: Net>(
        config: Arc<RedisConfig>,
        scripts: Arc<Scripts>,
        acknowledged: Arc<Acknowledged>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Away("not connected yet".into()));
        let (suspect, suspects) = watch::channel(0);
        let keeper = Keeper { config, scripts, acknowledged: acknowledged.clone() };
        let task = tokio::spawn(keeper.keep_up::<N>(sender, suspects)).abort_handle();
        Self { state, suspect, gate: RwLock::new(()), acknowledged, task }
    }

    /// The server `run_id` has acknowledged a publication: one in its place is to have it, too.
    pub(super) fn acknowledged(&self, stream: StreamName, position: Position, run_id: RunId) {
        self.acknowledged.add(stream, position, run_id);
        if let State::Connected(live) = &*self.state.borrow()
            && live.run_id != run_id
        {
            self.give_up(live.number); // The next one is asked.
        }
    }

    /// A connection is of no use any more.
    fn give_up(&self, number: u64) {
        self.suspect.send_if_modified(|suspect| {
            let newer = number > *suspect;
            *suspect = number.max(*suspect);
            newer
        });
    }

    /// Publishes. `sent` is set as soon as Redis may have been reached.
    pub(super) async fn publish(
        &self,
        mut request: Request<'_>,
        replicas: u32,
        sent: &mut bool,
    ) -> Result<Answer, PublishError> {
        let unavailable = |error: BrokerError| PublishError::Unavailable(error.0);
        self.live().map_err(unavailable)?; // Nobody queues for what is known to be away.
        let mut turn = if replicas == 0 {
            Turn::Together(self.gate.read().await)
        } else {
            // WAIT holds up what comes behind it, which must not look like a server that is gone.
            Turn::Alone(self.gate.write().await)
        };
        let mut live = self.live().map_err(unavailable)?;
        let mut form = Form::Hash;
        let mut lost = false;
        *sent = true;
        loop {
            let failure = match self.ask(&live, &request.command(form), replicas).await {
                Ok(value) => return Ok(Answer { value, run_id: live.run_id }),
                Err(failure) => failure,
            };
            let reconnected = match failure {
                Failure::NoScript if form == Form::Hash => {
                    form = Form::Text;
                    false
                }
                Failure::Lost(_) if !lost && request.repeat() => {
                    form = Form::Hash;
                    lost = true;
                    true
                }
                failure @ (Failure::NoScript
                | Failure::Refused(_)
                | Failure::Replica(_)
                | Failure::Behind(_)
                | Failure::Lost(_)) => return Err(failure.into_publish_error(lost)),
            };
            if let Turn::Together(guard) = turn {
                drop(guard);
                turn = Turn::Alone(self.gate.write().await);
            }
            if reconnected {
                live = self.live_after(live.number).await;
            }
        }
    }

    /// Runs a script that may be run twice.
    pub(super) async fn run(&self, call: &Call<'_>) -> Result<Value, BrokerError> {
        let live = self.live()?;
        let answer = match self.ask(&live, &call.command(Form::Hash), 0).await {
            Err(Failure::NoScript) => self.ask(&live, &call.command(Form::Text), 0).await,
            answer => answer,
        };
        answer.map_err(Failure::into_error)
    }

    /// Carries out one command.
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, BrokerError> {
        self.ask(&self.live()?, command, 0).await.map_err(Failure::into_error)
    }

    fn live(&self) -> Result<Live, BrokerError> {
        match &*self.state.borrow() {
            State::Connected(live) => Ok(live.clone()),
            State::Away(reason) => Err(BrokerError(reason.as_ref().to_owned())),
        }
    }

    /// Waits for a connection newer than `number`. The caller limits the time.
    async fn live_after(&self, number: u64) -> Live {
        let mut state = self.state.clone();
        loop {
            if let State::Connected(live) = &*state.borrow_and_update()
                && live.number > number
            {
                return live.clone();
            }
            if state.changed().await.is_err() {
                // The task ends only with the lane itself.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Sends a command and waits for the answer, and for `replicas` to have what it wrote.
    async fn ask(&self, live: &Live, command: &Cmd, replicas: u32) -> Result<Value, Failure> {
        let connection = live.connection.clone();
        let result = match timeout(ANSWER_TIMEOUT, exchange(connection, command, replicas)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Lost("no answer in time".to_owned())),
        };
        if let Err(Failure::Lost(_) | Failure::Replica(_)) = &result {
            self.give_up(live.number);
        }
        result
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether others may pass the gate beside this publish. Only held, never looked into.
#[expect(dead_code, reason = "a guard works by being there")]
enum Turn<'a> {
    Together(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

/// How a script is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// By its hash: short.
    Hash,
    /// By its text, which also makes it known.
    Text,
}

impl Request<'_> {
    fn command(&self, form: Form) -> Cmd {
        match self {
            Self::Repeatable { call, .. } | Self::Once(call) => call.command(form),
            Self::Plain(command) => command.clone(),
        }
    }

    /// Prepares for another attempt; whether there may be one.
    fn repeat(&mut self) -> bool {
        match self {
            Self::Repeatable { call, again } => {
                call.args.push(again.to_vec());
                true
            }
            Self::Once(_) | Self::Plain(_) => false,
        }
    }
}

impl Call<'_> {
    fn command(&self, form: Form) -> Cmd {
        let mut command = match form {
            Form::Hash => cmd("EVALSHA"),
            Form::Text => cmd("EVAL"),
        };
        match form {
            Form::Hash => command.arg(&self.script.hash),
            Form::Text => command.arg(self.script.code),
        };
        command.arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let kind = error.kind();
        if kind == ErrorKind::Server(ServerErrorKind::NoScript) {
            Self::NoScript
        } else if kind == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            Self::Replica(error.to_string())
        } else if matches!(kind, ErrorKind::Server(_) | ErrorKind::Extension) {
            Self::Refused(error.to_string())
        } else {
            Self::Lost(error.to_string())
        }
    }
}

impl Failure {
    fn into_error(self) -> BrokerError {
        BrokerError(match self {
            Self::NoScript => "the server does not keep scripts".to_owned(),
            Self::Refused(text) | Self::Replica(text) | Self::Behind(text) | Self::Lost(text) => {
                text
            }
        })
    }

    /// `lost` tells whether an attempt before this one may have been carried out.
    fn into_publish_error(self, lost: bool) -> PublishError {
        let unknown = lost || matches!(self, Self::Behind(_) | Self::Lost(_));
        let BrokerError(text) = self.into_error();
        if unknown { PublishError::Unknown(text) } else { PublishError::Unavailable(text) }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Sends a command, and a WAIT behind it when `replicas` are to have what it wrote.
async fn exchange(
    mut connection: MultiplexedConnection,
    command: &Cmd,
    replicas: u32,
) -> Result<Value, Failure> {
    if replicas == 0 {
        return Ok(connection.send_packed_command(command).await?.extract_error()?);
    }
    let mut pipe = pipe();
    pipe.add_command(command.clone());
    pipe.cmd("WAIT").arg(replicas).arg(REPLICAS_TIMEOUT_MS);
    let mut answers = connection.send_packed_commands(&pipe, 0, 2).await?.into_iter();
    let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
    match answers.next() {
        Some(Value::Int(count)) if count >= i64::from(replicas) => Ok(answer),
        Some(Value::Int(count)) => Err(Failure::Behind(format!("only {count} replicas have it"))),
        _ => Err(Failure::Behind("nothing is known of replicas".to_owned())),
    }
}

/// What a connection is made of: the handle, and the task that moves its bytes.
struct Opened {
    connection: MultiplexedConnection,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    identity: Identity,
}

/// Names a connection among all that a server ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    run_id: RunId,
    client_id: i64,
}

/// What keeps a connection up.
struct Keeper {
    config: Arc<RedisConfig>,
    scripts: Arc<Scripts>,
    acknowledged: Arc<Acknowledged>,
}

impl Keeper {
    /// Connects, and connects again, for ever.
    async fn keep_up<N: Net>(
        self,
        state: watch::Sender<State>,
        mut suspects: watch::Receiver<u64>,
    ) {
        let mut backoff = Backoff::new(entropy::random());
        let mut previous = None;
        let mut number = 0;
        loop {
            let reason = match self.open::<N>(&mut previous).await {
                Ok(Opened { connection, driver, identity: Identity { run_id, .. } }) => {
                    number += 1;
                    backoff.reset();
                    tracing::info!(number, "command connection to redis is up");
                    let live = Live { number, run_id, connection: connection.clone() };
                    state.send_replace(State::Connected(live));
                    let reason = if self.acknowledged.wanted(run_id).is_empty() {
                        until_lost(connection, driver, &mut suspects, number).await
                    } else {
                        "what another server acknowledged was heard of too late"
                    };
                    self.acknowledged.server_is_gone();
                    tracing::warn!(number, reason, "command connection to redis is lost");
                    reason.to_owned()
                }
                Err(reason) => reason,
            };
            tracing::debug!(reason, "redis is away");
            state.send_replace(State::Away(reason.into()));
            sleep(backoff.pause()).await;
        }
    }

    /// Opens a connection on which anything may be published. `previous` is the one that was opened
    /// last.
    async fn open<N: Net>(&self, previous: &mut Option<Identity>) -> Result<Opened, String> {
        let silent = || "redis does not answer".to_owned();
        let opened = timeout(CONNECT_TIMEOUT, self.connect::<N>(*previous)).await;
        let mut opened = opened.map_err(|_| silent())?.map_err(|error| error.to_string())?;
        let Opened { connection, driver, identity } = &mut opened;
        *previous = Some(*identity);
        tokio::select! {
            biased;
            verified = self.verify(connection.clone(), identity.run_id) => verified?,
            () = driver => return Err("redis closed the connection".to_owned()),
        }
        Ok(opened)
    }

    /// Looks for what servers before this one have acknowledged. What this one does not have is
    /// lost: the numberings of its streams are given up.
    async fn verify(
        &self,
        mut connection: MultiplexedConnection,
        run_id: RunId,
    ) -> Result<(), String> {
        let (mut numberings, mut lost) = (0, 0);
        loop {
            // Late answers of other servers may come meanwhile.
            let wanted = self.acknowledged.wanted(run_id);
            if wanted.is_empty() {
                break;
            }
            for (batch, command) in self.acknowledged.commands(&wanted) {
                lost += count(&mut connection, &command).await.inspect_err(|reason| {
                    let what = "what redis acknowledged of late can't be looked for";
                    tracing::warn!(reason, lost, numberings, what);
                })?;
                self.acknowledged.settled(batch, run_id);
                numberings += batch.len();
            }
        }
        if lost > 0 {
            tracing::warn!(lost, numberings, "redis has lost acknowledged publications of streams");
        } else if numberings > 0 {
            tracing::info!(numberings, "what redis acknowledged of late was looked for");
        }
        Ok(())
    }

    /// Opens a connection and makes the scripts known.
    ///
    /// The connection before this one may still be alive in the network, with a publish in it that
    /// was given up. It is closed at the server, so that a repeated publish can't be overtaken by
    /// itself.
    async fn connect<N: Net>(&self, previous: Option<Identity>) -> Result<Opened, RedisError> {
        let config = &self.config;
        let stream = N::connect(&config.host, config.port).await?;
        let limits = AsyncConnectionConfig::new()
            .set_response_timeout(None) // `ask` has its own.
            .set_connection_timeout(None);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&login(config), stream, limits).await?;
        let mut driver: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(driver);
        let setup = async {
            let mut pipe = pipe();
            pipe.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
            let answers = connection.send_packed_commands(&pipe, 0, 2).await?;
            let (client_id, server): (i64, String) =
                redis::from_redis_value(Value::Array(answers))?;
            let identity = Identity { run_id: run_id_of(&server), client_id };
            let mut pipe = redis::pipe();
            if let Some(previous) = previous.filter(|previous| previous.run_id == identity.run_id) {
                pipe.cmd("CLIENT").arg("KILL").arg("ID").arg(previous.client_id);
            }
            for script in self.scripts.by_hash() {
                pipe.cmd("SCRIPT").arg("LOAD").arg(script.code);
            }
            // Neither is needed: an unknown script is sent as text, and mostly the old connection
            // is gone.
            let count = pipe.len();
            connection.send_packed_commands(&pipe, 0, count).await?;
            Ok::<_, RedisError>(identity)
        };
        let identity = tokio::select! {
            biased;
            identity = setup => identity?,
            () = &mut driver => {
                return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
            }
        };
        Ok(Opened { connection, driver, identity })
    }
}

/// Asks a new connection for a number.
async fn count(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<u64, String> {
    let asking = timeout(ANSWER_TIMEOUT, connection.send_packed_command(command)).await;
    let answer = asking.map_err(|_| "redis does not answer".to_owned())?;
    let count = answer.and_then(|value| Ok(redis::from_redis_value(value.extract_error()?)?));
    count.map_err(|error| error.to_string())
}

fn login(config: &RedisConfig) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_db(config.db)
        .set_protocol(ProtocolVersion::RESP2)
        .set_skip_set_lib_name();
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password);
    }
    login
}

/// Moves the bytes of a connection until it is lost, and says how.
async fn until_lost(
    mut connection: MultiplexedConnection,
    mut driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    suspects: &mut watch::Receiver<u64>,
    number: u64,
) -> &'static str {
    let heartbeat = async {
        let ping = cmd("PING");
        loop {
            sleep(PING_INTERVAL).await;
            match timeout(ANSWER_TIMEOUT, connection.send_packed_command(&ping)).await {
                Ok(Err(error)) if error.is_unrecoverable_error() => return,
                Ok(_) => {} // An error is an answer, too.
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        biased;
        () = &mut driver => "it was closed",
        _ = suspects.wait_for(|suspect| *suspect == number) => "a command was not answered",
        () = heartbeat => "a ping was not answered",
    }
}

/// Longest wait for the answer to one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long Redis waits for its replicas; shorter than our own wait for Redis.
const REPLICAS_TIMEOUT_MS: u32 = 500;

/// Longest way from nothing to a usable connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server that vanished without a word is found within this and `ANSWER_TIMEOUT`.
const PING_INTERVAL: Duration = Duration::from_secs(2);
