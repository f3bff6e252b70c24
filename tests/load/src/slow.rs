//! What a client that hardly reads costs the others: two instances with the same clients, in turns,
//! one of them with such a client.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::sleep,
};

use crate::{
    bed::{Bed, ROOM},
    compare::{cost, put},
    options::Options,
    report::{Progress, Report, check, say},
    wire::masked,
};

/// Interleaved rounds of fan-out.
pub(crate) async fn slow(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("slow");
    say("connecting")?;
    let mut alone = Bed::new(options).await?;
    alone.connect(options.per_second).await?;
    let mut beside = Bed::new(options).await?;
    beside.connect(options.per_second).await?;
    let reader = tokio::spawn(read_slowly(beside.servers()[0], options.bytes));
    let (mut costs_alone, mut costs_beside) = (Vec::new(), Vec::new());
    let mut progress = Progress::new();
    for round in 0..options.rounds {
        if round % 2 == 0 {
            costs_alone.push(cost(&mut alone, options, options.in_flight).await?);
            costs_beside.push(cost(&mut beside, options, options.in_flight).await?);
        } else {
            costs_beside.push(cost(&mut beside, options, options.in_flight).await?);
            costs_alone.push(cost(&mut alone, options, options.in_flight).await?);
        }
        progress.at(u64::from(round) + 1, u64::from(options.rounds), "rounds")?;
    }
    if reader.is_finished() {
        return reader.await.map_err(io::Error::other)?.map(|()| report);
    }
    reader.abort();
    report.put("receivers", options.connections);
    report.put("broadcasts_each", u64::from(options.rounds) * options.messages);
    // Instances bring their counts up to date once a second.
    sleep(Duration::from_secs(2)).await;
    let closed = beside.instances[0].metric(CLOSES, r#"code="4508""#).await?;
    report.put("times_that_the_slow_client_was_closed", closed);
    put(&mut report, "alone", &costs_alone, &costs_alone);
    put(&mut report, "beside_a_slow_client", &costs_beside, &costs_alone);
    for (name, mut bed) in [("alone", alone), ("beside_a_slow_client", beside)] {
        let tally = bed.fleet.count().await?;
        report.put_latency(&format!("delivery_{name}"), &tally.latency);
        report.put(&format!("rss_bytes_per_connection_{name}"), bed.bytes_per_connection()?);
        check(&tally)?;
        bed.stop().await?;
    }
    Ok(report)
}

/// Reads the bytes of about one message a second, and comes back whenever it is closed.
async fn read_slowly(server: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut some = vec![0; bytes + ENVELOPE];
    loop {
        let mut stream = join(server).await?;
        // The end may be a reset: what waits in the server's socket is given up with it.
        while stream.read(&mut some).await.is_ok_and(|read| read > 0) {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Connects with little space for what comes, and joins the room.
async fn join(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(server).await?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    let join = format!(r#"{{"type":"room:join","payload":{{"room":"{ROOM}"}}}}"#);
    stream.write_all(&masked(1, join.as_bytes())).await?;
    Ok(stream)
}

/// Counts connections that the service has closed.
const CLOSES: &str = "realtime_websocket_closes_total";

/// What a message has besides its payload, about.
const ENVELOPE: usize = 150;
