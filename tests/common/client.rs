//! A WebSocket client that knows what to expect next.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use super::{server::Server, within};

/// A connection, past its `system:connected`.
#[derive(Debug)]
pub struct Client {
    /// The `system:connected` that it got, without the envelope.
    pub greeting: Value,
    /// The frame that was read last, as it came.
    pub text: String,
    socket: WebSocketStream<TcpStream>,
}

/// What comes from the server.
#[derive(Debug)]
enum Event {
    Message(Value),
    /// The end, with the code of the close frame; none if TCP just ended.
    Closed(Option<u16>),
}

impl Client {
    /// Connects as a user.
    pub async fn connect(server: &Server, token: &str) -> Self {
        Self::open(server, &format!("/ws?token={token}"), &[]).await
    }

    /// Connects without a token.
    pub async fn anonymous(server: &Server) -> Self {
        Self::open(server, "/ws", &[]).await
    }

    /// Connects to a path with further headers.
    pub async fn open(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let stream = TcpStream::connect(server.http).await.expect("the service listens");
        Self::over(stream, server, path, headers).await
    }

    /// Connects over a TCP connection that the test has made.
    pub async fn over(
        stream: TcpStream,
        server: &Server,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let url = format!("ws://{}{path}", server.http);
        let mut request = url.into_client_request().expect("the path is well formed");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("the header is well formed");
            request.headers_mut().insert(*name, value);
        }
        let upgraded = within("the upgrade", tokio_tungstenite::client_async(request, stream));
        let (socket, _) = match upgraded.await {
            Ok(upgraded) => upgraded,
            Err(Error::Http(answer)) => panic!("refused with {}", answer.status()),
            Err(error) => panic!("no upgrade: {error}"),
        };
        let mut client = Self { greeting: Value::Null, text: String::new(), socket };
        client.greeting = client.expect("system:connected").await["payload"].take();
        client
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.send_frame(Message::text(text)).await;
    }

    /// Sends a frame of any kind.
    pub async fn send_frame(&mut self, frame: Message) {
        self.try_send_frame(frame).await.expect("it is connected");
    }

    /// Sends a frame of any kind, if the connection still takes it.
    pub async fn try_send_frame(&mut self, frame: Message) -> Result<(), Error> {
        within("the service to read", self.socket.send(frame)).await
    }

    /// The next message, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        match within(kind, self.next()).await {
            Event::Message(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, got {other:?}"),
        }
    }

    /// The next message, which must be of one of these types.
    pub async fn next_of(&mut self, kinds: &[&str]) -> Value {
        match within(&kinds.join(" or "), self.next()).await {
            Event::Message(message) if kinds.iter().any(|kind| message["type"] == *kind) => message,
            other => panic!("expected {kinds:?}, got {other:?}"),
        }
    }

    /// The next message, which must be an error with this code.
    pub async fn expect_error(&mut self, code: &str) -> Value {
        let error = self.expect("system:error").await;
        assert_eq!(error["payload"]["code"], code, "{error}");
        let text = error["payload"]["message"].as_str();
        assert!(text.is_some_and(|text| !text.is_empty()), "{error}");
        error
    }

    /// Sends a message and gives the answer, which must be of this type.
    pub async fn ask(&mut self, message: Value, kind: &str) -> Value {
        self.send(message).await;
        self.expect(kind).await
    }

    /// Joins a room.
    pub async fn join(&mut self, room: &str) -> Value {
        let joined =
            self.ask(json!({"type": "room:join", "payload": {"room": room}}), "room:joined").await;
        assert_eq!(joined["payload"]["room"], room);
        joined
    }

    /// Checks that nothing has been sent to this connection that was not read yet: what the server
    /// has queued comes before its answer to a ping.
    pub async fn assert_quiet(&mut self) {
        let pong = self.ask(json!({"type": "system:ping", "ref": "quiet?"}), "system:pong").await;
        assert_eq!(pong["ref"], "quiet?");
    }

    /// The next thing to come, which must be a close frame with this code.
    pub async fn expect_close(&mut self, code: u16) {
        match within("a close frame", self.next()).await {
            Event::Closed(Some(got)) if got == code => (),
            other => panic!("expected a close with {code}, got {other:?}"),
        }
    }

    /// Reads to the end and gives the code of the close frame (none if TCP just ended), and all
    /// messages that came before it.
    pub async fn until_closed(&mut self) -> (Option<u16>, Vec<Value>) {
        let mut messages = Vec::new();
        let code = within("the end of the connection", async {
            loop {
                match self.next().await {
                    Event::Message(message) => messages.push(message),
                    Event::Closed(code) => return code,
                }
            }
        })
        .await;
        (code, messages)
    }

    /// Closes normally and waits for the server to do the same.
    pub async fn close(mut self) {
        within("the close handshake", async {
            self.socket.close(None).await.expect("it is connected");
            while !matches!(self.next().await, Event::Closed(_)) {}
        })
        .await;
    }

    async fn next(&mut self) -> Event {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    text.as_str().clone_into(&mut self.text);
                    let message: Value = serde_json::from_str(&self.text)
                        .unwrap_or_else(|error| panic!("{error} in the frame {text:?}"));
                    assert!(message.get("payload").is_some(), "no payload in {text:?}");
                    return Event::Message(message);
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    self.socket.flush().await.ok(); // The answer; TCP may be gone already.
                    return Event::Closed(code);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => (),
                Some(Ok(other)) => panic!("a frame that the server never sends: {other:?}"),
                Some(Err(_)) | None => return Event::Closed(None),
            }
        }
    }
}
