//! A simulated browser.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use realtime_core::{rng::Rng, time::UnixMillis};
use realtime_runtime::{
    config::Keys,
    net::Net as _,
    token::{self, Grant},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

use super::{
    host::HTTP_PORT,
    journal::SharedJournal,
    net::{SimNet, SimStream},
    plan::{ClientPlan, Habit, Plan, pod_name},
    seam,
};
use crate::{random::labelled, session::Asked};

type Socket = WebSocketStream<SimStream>;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) plan: Rc<Plan>,
    pub(super) keys: Keys,
    pub(super) journal: SharedJournal,
}

/// What a client keeps from one connection to the next.
#[derive(Debug)]
struct Memory {
    /// The name of its own stream.
    own: String,
    /// The last position that it saw of each stream; it may be one that does not tell.
    last: RefCell<BTreeMap<String, String>>,
    tells: bool,
}

/// What a client has in mind for one connection.
struct Visit {
    session: usize,
    client: Rc<Memory>,
    journal: SharedJournal,
    socket: Socket,
    /// Rooms and whether it is in them.
    rooms: Vec<(String, bool)>,
    /// When anything came last.
    heard: Instant,
    /// When it joins again what it could not join.
    retry: Option<Instant>,
}

impl Client {
    /// Connects, and connects again, for ever.
    pub(super) async fn run(self) -> turmoil::Result {
        let rng = RefCell::new(labelled(self.plan.seed, &format!("client/{}", self.number)));
        let user = self.me().user.clone();
        let own = format!("user:{}", user.as_deref().unwrap_or_default());
        let (last, tells) = (RefCell::default(), self.me().since);
        let client = Rc::new(Memory { own, last, tells });
        sleep(Duration::from_millis(self.me().at_ms)).await;
        loop {
            let pod = self.choose(&rng);
            let since = client.of_greeting();
            if let Some(socket) = self.connect(pod, &since).await {
                let session = self.journal.borrow_mut().open(self.number, user.clone(), pod, since);
                let rooms = self.me().rooms.iter().map(|room| (room.clone(), false)).collect();
                let journal = self.journal.clone();
                let heard = Instant::now();
                let (client, retry) = (Rc::clone(&client), None);
                let mut visit = Visit { session, client, journal, socket, rooms, heard, retry };
                let why = self.stay(&mut visit, &rng).await;
                self.journal.borrow_mut().close(session, &why);
            } else {
                self.journal.borrow_mut().failed_connects += 1;
            }
            let pause = 50 + rng.borrow_mut().below(500);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    fn me(&self) -> &ClientPlan {
        &self.plan.clients[self.number]
    }

    fn choose(&self, rng: &RefCell<Rng>) -> usize {
        let pods = u64::try_from(self.plan.workers.len()).unwrap_or(1);
        usize::try_from(rng.borrow_mut().below(pods)).unwrap_or(0)
    }

    async fn connect(&self, pod: usize, since: &[(String, String)]) -> Option<Socket> {
        // By a clock that is ahead, a token may be over before it is seen.
        let may_be_over = self.is_short_lived() && !self.plan.clocks_ms.is_empty();
        let token = self.token().map(|token| format!("token={token}"));
        let since = since.iter().map(|(stream, id)| match stream.as_str() {
            "all" => format!("since_all={id}"),
            _ => format!("since={id}"),
        });
        let query: Vec<String> = token.into_iter().chain(since).collect();
        let host = pod_name(pod);
        let url = format!("ws://{host}:{HTTP_PORT}/ws?{}", query.join("&"));
        let connecting = async {
            let stream = SimNet::connect(&host, HTTP_PORT).await?;
            Ok::<_, Error>(client_async(url, stream).await?.0)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(socket)) => Some(socket),
            Ok(Err(Error::Http(response))) if !matches!(response.status().as_u16(), 429 | 503) => {
                let status = response.status();
                if status.as_u16() != 401 || !may_be_over {
                    self.journal.borrow_mut().violate(format!("a handshake was answered {status}"));
                }
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// A token that is good now; none for who has no name.
    fn token(&self) -> Option<String> {
        let user = self.me().user.clone()?;
        let ttl = if self.is_short_lived() { SHORT_LIFE } else { LONG_LIFE };
        let grant = Grant { user, rooms: Vec::new(), ttl };
        let now = seam::unix().unwrap_or_default().as_millis();
        let now = UnixMillis(u64::try_from(now).unwrap_or(u64::MAX));
        token::mint(&self.keys, &grant, now)
    }

    /// Whether the tokens that it gets now are soon over.
    fn is_short_lived(&self) -> bool {
        matches!(self.me().habit, Habit::Expiring | Habit::Renewing) && !self.is_quiet()
    }

    /// Brings a new token, if that is its habit.
    async fn renew(&self, visit: &mut Visit) -> Result<(), String> {
        let Some(token) = self.token().filter(|_| self.me().habit == Habit::Renewing) else {
            return Ok(());
        };
        let reference = visit.journal.borrow_mut().ask(visit.session, Asked::Refresh(true), None);
        let payload = json!({ "token": token });
        tell(visit, &json!({"type": "auth:refresh", "ref": reference, "payload": payload})).await
    }

    /// Stays connected, and says why no longer.
    async fn stay(&self, visit: &mut Visit, rng: &RefCell<Rng>) -> String {
        let mut next_ping = Instant::now();
        let mut next_whim = self.next_whim(rng);
        loop {
            tokio::select! {
                biased;
                message = visit.socket.next() => {
                    visit.heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            let told = self.journal.borrow_mut().hear(visit.session, &text);
                            let mut done = react(visit, &told).await;
                            if done.is_ok() && told["type"] == "system:token_expiring" {
                                done = self.renew(visit).await;
                            }
                            if let Err(why) = done {
                                return why;
                            }
                        }
                        Some(Ok(Message::Close(frame))) => {
                            return self.closed_by_server(visit.session, frame);
                        }
                        Some(Ok(_)) => (),
                        Some(Err(error)) => return error.to_string(),
                        None => return "ended".to_owned(),
                    }
                }
                () = sleep_until(next_ping) => {
                    next_ping += PING_INTERVAL;
                    if let Err(why) = tell(visit, &json!({"type": "system:ping"})).await {
                        return why;
                    }
                }
                () = sleep_until(visit.retry.unwrap_or(next_ping)), if visit.retry.is_some() => {
                    visit.retry = None;
                    if let Err(why) = join_missing(visit).await {
                        return why;
                    }
                }
                () = sleep_until(visit.heard + SILENCE_MAX) => return "it is silent".to_owned(),
                () = sleep_until(next_whim) => {
                    if !self.is_quiet() && let Err(why) = self.follow_whim(visit, rng).await {
                        return why;
                    }
                    next_whim = self.next_whim(rng);
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        super::trace::now_us() >= self.plan.quiet_ms * 1_000
    }

    fn next_whim(&self, rng: &RefCell<Rng>) -> Instant {
        Instant::now() + Duration::from_millis(200 + rng.borrow_mut().below(2_500))
    }

    async fn follow_whim(&self, visit: &mut Visit, rng: &RefCell<Rng>) -> Result<(), String> {
        match self.me().habit {
            Habit::Steady | Habit::Expiring | Habit::Renewing => Ok(()),
            Habit::Clumsy => {
                let which = rng.borrow_mut().below(5);
                talk_garbage(visit, which).await
            }
            Habit::Flapping => Err("it went away".to_owned()),
            Habit::Sleepy | Habit::Deaf => {
                let is_deaf = self.me().habit == Habit::Deaf;
                let nap = if is_deaf { DEAF_MS } else { 200 } + rng.borrow_mut().below(2_500);
                let from_us = super::trace::now_us();
                sleep(Duration::from_millis(nap)).await;
                let nap = (visit.session, from_us, super::trace::now_us());
                self.journal.borrow_mut().naps.push(nap);
                visit.heard = Instant::now();
                Ok(())
            }
            Habit::Wandering => {
                let Some(at) = visit.rooms.iter().position(|(_, inside)| *inside) else {
                    return Ok(());
                };
                visit.rooms[at].1 = false;
                let room = visit.rooms[at].0.clone();
                ask(visit, Asked::Leave(room)).await?;
                // Sometimes it is in a hurry; otherwise it comes back once it has left.
                if rng.borrow_mut().below(2) == 0 {
                    return join(visit, at).await;
                }
                Ok(())
            }
        }
    }

    fn closed_by_server(
        &self,
        session: usize,
        frame: Option<tokio_tungstenite::tungstenite::protocol::CloseFrame>,
    ) -> String {
        let Some(frame) = frame else { return "closed without a code".to_owned() };
        let code = u16::from(frame.code);
        self.journal.borrow_mut().sessions[session].code = Some(code);
        // Who brings a new one may come too late with it, when the network is slow.
        let may_expire = matches!(self.me().habit, Habit::Expiring | Habit::Renewing);
        let is_over = code == 4401 && may_expire;
        if !EXPECTED_CODES.contains(&code) && !is_over {
            let text = format!("a client was closed with {code}: {}", frame.reason);
            self.journal.borrow_mut().violate(text);
        }
        format!("closed with {code}")
    }
}

impl Memory {
    /// What to say when it connects.
    fn of_greeting(&self) -> Vec<(String, String)> {
        let known = [self.own.as_str(), "all"]
            .into_iter()
            .filter_map(|stream| self.of_room(stream).map(|id| (stream.to_owned(), id)));
        known.collect()
    }

    /// What to say when it joins.
    fn of_room(&self, stream: &str) -> Option<String> {
        self.last.borrow().get(stream).filter(|_| self.tells).cloned()
    }

    /// Keeps where it is now.
    fn note(&self, message: &Value) {
        let payload = &message["payload"];
        let stream = |room: &Value| room.as_str().unwrap_or(&self.own).to_owned();
        let mut last = self.last.borrow_mut();
        // Who has recovered goes on from where it was.
        let mut starts = |stream: String, told: &Value| {
            if let Some(id) = told["id"].as_str().filter(|_| told["recovered"] != true) {
                last.insert(stream, id.to_owned());
            }
        };
        match message["type"].as_str() {
            Some("system:connected") => {
                starts(self.own.clone(), payload);
                starts("all".to_owned(), &payload["all"]);
            }
            Some("room:joined" | "system:resync") => starts(stream(&payload["room"]), payload),
            _ => {
                if let Some(id) = message["id"].as_str() {
                    last.insert(stream(&message["room"]), id.to_owned());
                }
            }
        }
    }
}

/// Does what a message asks for.
async fn react(visit: &mut Visit, told: &Value) -> Result<(), String> {
    visit.client.note(told);
    let room = told["payload"]["room"].as_str().unwrap_or_default();
    let at = visit.rooms.iter().position(|(name, _)| name == room);
    match (told["type"].as_str(), at) {
        (Some("system:connected"), _) => {
            join_missing(visit).await?;
        }
        (Some("room:joined"), Some(at)) => visit.rooms[at].1 = true,
        (Some("room:left"), Some(at)) if !visit.rooms[at].1 => join(visit, at).await?,
        (Some("system:error"), _) => visit.retry = Some(Instant::now() + RETRY_PAUSE),
        _ => (),
    }
    Ok(())
}

async fn join_missing(visit: &mut Visit) -> Result<(), String> {
    for at in 0..visit.rooms.len() {
        if !visit.rooms[at].1 {
            join(visit, at).await?;
        }
    }
    Ok(())
}

async fn join(visit: &mut Visit, at: usize) -> Result<(), String> {
    let room = visit.rooms[at].0.clone();
    ask(visit, Asked::Join(room, None)).await
}

/// Asks for something that names a room.
async fn ask(visit: &mut Visit, asked: Asked) -> Result<(), String> {
    let room = asked.room().unwrap_or_default();
    let kind = if matches!(asked, Asked::Leave(_)) { "room:leave" } else { "room:join" };
    let mut message = json!({"type": kind, "payload": {"room": room}});
    let since = visit.client.of_room(room).filter(|_| matches!(asked, Asked::Join(..)));
    if let Some(since) = &since {
        message["payload"]["since"] = since.as_str().into();
    }
    message["ref"] = visit.journal.borrow_mut().ask(visit.session, asked, since).into();
    tell(visit, &message).await
}

/// Sends something that is answered with an error.
async fn talk_garbage(visit: &mut Visit, which: u64) -> Result<(), String> {
    let reference = visit.journal.borrow_mut().ask(visit.session, Asked::Garbage, None);
    let (kind, payload) = match which {
        0 => ("nope", json!({})),
        1 => ("room:join", json!({})),
        2 => ("room:join", json!({"room": "all"})),
        3 => ("room:join", json!({"room": "user:nobody"})),
        _ => ("room:join", json!({"room": "vip:1"})),
    };
    tell(visit, &json!({"type": kind, "ref": reference, "payload": payload})).await
}

async fn tell(visit: &mut Visit, message: &Value) -> Result<(), String> {
    match timeout(SILENCE_MAX, visit.socket.send(Message::text(message.to_string()))).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err("nothing can be sent".to_owned()),
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A token that is over before a run is.
const SHORT_LIFE: Duration = Duration::from_secs(4);

const LONG_LIFE: Duration = Duration::from_secs(3_600);

/// Longer than servers wait for a sign of life.
const DEAF_MS: u64 = 5_500;

const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A room that can't be joined is tried again later.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A server that says nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// What a client that makes no mistakes may be closed with.
const EXPECTED_CODES: [u16; 6] = [1000, 1001, 1012, 1013, 4408, 4508];
